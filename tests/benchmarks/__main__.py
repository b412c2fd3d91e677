"""Speed against rivals, each pair in one run: ``python -m tests.benchmarks [GROUP ...] [--json FILE] [--plot FILE]``.

Medians of interleaved repeats, one thread. A rival that is not installed is left out: ``pip install -e '.[bench]'``
brings ONNX Runtime, pedalboard, statsmodels and padasip, PyTorch is yours to install.
"""

import argparse
import importlib.metadata
import json
import platform
from pathlib import Path

from tests.benchmarks import adaptive, arima, cells, linear, realtime, reverb, training, trajectories
from tests.benchmarks.measuring import HEADER

GROUPS = {
    "inference": cells.inference,
    "voices": cells.voices,
    "streaming": realtime.streaming,
    "linear": linear.linear,
    "reverb": reverb.reverb,
    "adaptive": adaptive.adaptive,
    "arima": arima.arima,
    "tails": realtime.tails,
    "start": realtime.start,
    "scaling": cells.scaling,
    "trajectories": trajectories.trajectories,
    "training": training.steps,
    "memory": training.memory,
}


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "machine": f"{platform.machine()}, {cpu_name()}"}
    for name in ("numpy", "scipy", "numba", "torch", "onnxruntime", "pedalboard", "statsmodels", "padasip"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    import llvmlite.binding

    return str(llvmlite.binding.get_host_cpu_name())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed against rivals.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all when none is given")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--plot", type=Path, help="draw the rows of `scaling` there")
    options = parser.parse_args()
    if unknown := sorted(set(options.groups) - set(GROUPS)):
        parser.error(f"no group {unknown}: choose of {', '.join(GROUPS)}")
    about = versions()
    print(", ".join(f"{name} {version}" for name, version in about.items()))
    print(HEADER)
    rows = []
    for group in options.groups or GROUPS:
        for row in GROUPS[group]():
            print(row, flush=True)
            rows.append({"group": group, **row.as_dict()})
    short = [row["name"] for row in rows if row["passed"] is False]
    n_targets = sum(row["passed"] is not None for row in rows)
    print(f"{n_targets - len(short)} of {n_targets} targets met" + (f"; short: {', '.join(short)}" if short else ""))
    if options.json:
        options.json.write_text(json.dumps({"versions": about, "rows": rows}, indent=1) + "\n")
    if options.plot:
        from tests.benchmarks.plot import draw

        draw(rows, options.plot, about)


if __name__ == "__main__":
    main()

"""Speed against rivals, each pair in one run: ``python -m tests.benchmarks``.

Medians of interleaved repeats, one thread, microseconds a sample; ratio = rival / ours, so above 1 we are faster.
PyTorch is skipped where it is not installed.
"""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy import signal

from rnndsp.filters import GRU, LSTM, SOS, Elman, StateSpace

RATE = 44100
REPEATS = 9


def compare(
    name: str, rival_name: str, ours: Callable[[], object], rival: Callable[[], object], n_samples: int
) -> None:
    ours(), rival()  # compile, and warm the caches
    times: dict[str, list[float]] = {"ours": [], "rival": []}
    for _ in range(REPEATS):
        for who, call in (("ours", ours), ("rival", rival)):
            started = time.perf_counter()
            call()
            times[who].append((time.perf_counter() - started) / n_samples * 1e6)
    mine, other = statistics.median(times["ours"]), statistics.median(times["rival"])
    print(f"{name:<28}{mine:>9.3f}   {rival_name:<22}{other:>9.3f}   {other / mine:>7.2f}", flush=True)


def against_torch(seconds: float = 1.0) -> None:
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: its rows are left out")
        return
    torch.set_num_threads(1)
    u = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    tensor = torch.from_numpy(u)[None, :, None]
    for kind, module in (("LSTM", torch.nn.LSTM), ("GRU", torch.nn.GRU), ("Elman", torch.nn.RNN)):
        for n_units in (8, 16, 32, 40, 64, 96):
            rival = module(1, n_units, batch_first=True)
            ours = {"LSTM": LSTM, "GRU": GRU, "Elman": Elman}[kind].from_torch(
                {name: value.detach().numpy() for name, value in rival.state_dict().items()}
            )
            with torch.no_grad():
                compare(
                    f"{kind} {n_units}", "PyTorch, whole buffer", lambda f=ours: f(u), lambda f=rival: f(tensor), len(u)
                )


def against_scipy(seconds: float = 2.0) -> None:
    u = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    for order in (2, 4, 12):
        sos = signal.butter(order, 0.2, output="sos")
        ours = SOS(sos)
        compare(f"SOS order {order}", "scipy sosfilt", lambda f=ours: f(u), lambda s=sos: signal.sosfilt(s, u), len(u))
    system = signal.butter(16, 0.3, output="zpk")
    matrices = signal.zpk2ss(*system)
    ours = StateSpace(*matrices)
    short = u[:5000]
    compare(
        "StateSpace, 16 states",
        "scipy dlsim",
        lambda: ours(short),
        lambda: signal.dlsim((*matrices, 1), short),
        len(short),
    )


if __name__ == "__main__":
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "numba")}
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}")
    print(f"{'':<28}{'us/sample':>9}   {'rival':<22}{'us/sample':>9}   {'ratio':>7}")
    against_scipy()
    against_torch()

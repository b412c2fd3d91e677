"""One step of training (forward, backward, Adam) against PyTorch; both cores; memory of back-propagation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rnndsp import Filter, training
from rnndsp.filters import GRU, LSTM, Dense, Elman
from rnndsp.losses import squared
from rnndsp.optimizers import Adam
from tests.benchmarks.measuring import Call, Row, medians

KINDS: dict[str, Any] = {"LSTM": LSTM, "GRU": GRU, "Elman": Elman}
# (inputs, sequences, frames), and how many times PyTorch's speed is asked for: audio, then music.
SIZES = {
    (1, 40, 2048): {("LSTM", 16): 2, ("LSTM", 32): 3, ("GRU", 32): 6, ("Elman", 32): 3},
    (88, 16, 256): {
        ("GRU", 64): 3,
        ("GRU", 150): 3,
        ("Elman", 64): 1.5,
        ("Elman", 150): 1.5,
        ("LSTM", 64): 1,
        ("LSTM", 150): 1,
    },
}
N_LONG = 65536


def model(kind: str, n_inputs: int, n_units: int) -> Filter:
    filt = KINDS[kind](n_inputs, n_units) >> Dense(n_units, n_inputs)
    return filt.replace(**{name: value.astype(np.float32) for name, value in filt.params.items()})


def step(filt: Filter, batch: list[tuple[Any, Any]], n_shards: int, pool: ThreadPoolExecutor) -> Call:
    """A step of :func:`rnndsp.fit`, as it makes them."""
    settings = training._Settings.checked(
        loss=squared, n_epochs=1, batch_size=len(batch), optimizer=Adam(), rate=1e-4, falling="constant",
        weight_decay=0.0, clip_norm=1.0, clip_value=None, truncate=None, kept_states=None, keep=None,
        regularizer=None, n_shards=n_shards, seed=0,
    )  # fmt: skip
    run = training._Run.start(filt, settings.optimizer, np.inf)
    return lambda: training._learn(run, filt, batch, 0, settings, 0.0, pool)


def steps() -> Iterator[Row]:
    """A step of the same batch, one thread each; then two shards of it, on two threads and on one."""
    rng = np.random.default_rng(0)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        for (n_inputs, n_voices, n_frames), cells in SIZES.items():
            u = rng.standard_normal((n_voices, n_frames, n_inputs)).astype(np.float32)
            batch = [(signal, np.zeros_like(signal)) for signal in u]
            for (kind, n_units), least in cells.items():
                filt = model(kind, n_inputs, n_units)
                name = f"{kind}-{n_units}, {n_voices} x {n_frames}"
                # whole vectors of voices, 16 of them on the widest
                calls = {"ours": step(filt, batch, max(1, n_voices // 16), one)}
                with suppress(ImportError):
                    calls["PyTorch"] = torch_step(kind, filt, u)
                times = medians(calls, 1000)  # milliseconds
                if "PyTorch" in times:
                    ratio = times["PyTorch"] / times["ours"]
                    yield Row(name, times["ours"], "ms/step", "PyTorch", times["PyTorch"], ratio, at_least=least)
                else:
                    yield Row(name, times["ours"], "ms/step")
                # not in turn: each thread has memory of its own, which the other's would drive out of the cache
                times = {
                    **medians({"two": step(filt, batch, 2, two)}, 1000),
                    **medians({"one": step(filt, batch, 2, one)}, 1000),
                }
                bound = 1.6 if n_inputs == 1 else None
                ratio = times["one"] / times["two"]
                yield Row(
                    f"{name}, 2 threads", times["two"], "ms/step", "one thread", times["one"], ratio, at_least=bound
                )


def torch_step(kind: str, filt: Filter, u: NDArray[Any]) -> Call:
    import torch

    torch.set_num_threads(1)
    cell = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "Elman": torch.nn.RNN}[kind](
        u.shape[2], filt.children[0].n_outputs, batch_first=True
    )
    dense = torch.nn.Linear(filt.children[0].n_outputs, u.shape[2])
    optimizer = torch.optim.Adam([*cell.parameters(), *dense.parameters()], 1e-4)
    signal, target = torch.from_numpy(u), torch.zeros(u.shape)

    def call() -> None:
        optimizer.zero_grad()
        loss = torch.mean((dense(cell(signal)[0]) - target) ** 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*cell.parameters(), *dense.parameters()], 1.0)
        optimizer.step()

    return call


def memory() -> Iterator[Row]:
    """Most memory that back-propagation over a long signal takes on top of what was there, in a process of its own."""
    ours, kept = (_peak(f"ours {states}") for states in ("None", "8"))
    try:
        rival = _peak("torch")
    except subprocess.CalledProcessError:
        yield Row("LSTM-32, 65536 frames", ours, "MB")
        yield Row("the same, 8 states kept", kept, "MB")
        return
    yield Row("LSTM-32, 65536 frames", ours, "MB", "PyTorch", rival, ours / rival, at_most=1)
    yield Row("the same, 8 states kept", kept, "MB", "PyTorch", rival, kept / rival, at_most=0.1)


def _peak(what: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.training", *what.split()]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(call: Callable[[int], object]) -> float:
    """Megabytes of the largest resident set over those after a short run, which loads and compiles (Linux tells)."""
    call(64)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest one so far
    call(N_LONG)
    return _resident("VmHWM") - before


def _resident(what: str) -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return float(line.split()[1]) / 1024


def main() -> None:
    u = np.random.default_rng(0).standard_normal((1, N_LONG, 1)).astype(np.float32)
    filt = model("LSTM", 1, 32)
    if sys.argv[1] == "torch":
        print(_measure(lambda n: torch_step("LSTM", filt, u[:, :n])()))
        return
    kept = None if sys.argv[2] == "None" else int(sys.argv[2])

    def ours(n: int) -> None:
        tape = filt.tape(u[:, :n], kept_states=kept)
        _, dy = squared(tape.y, np.zeros_like(tape.y))
        tape.adjoint_of_params(dy)

    print(_measure(ours))


if __name__ == "__main__":
    main()

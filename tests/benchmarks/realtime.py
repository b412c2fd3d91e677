"""Blocks of 64 samples, ten minutes of them; decaying tails; the first block of a process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from scipy import signal

from rnndsp import Filter
from rnndsp.filters import GRU, LSTM, SOS, DelayStateSpace, Dense, StateSpace
from tests.benchmarks.measuring import Call, Row, medians

RATE = 48000
BLOCK = 64


def streaming(minutes: float = 10.0) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    block = 0.1 * rng.standard_normal((BLOCK, 1)).astype(np.float32)
    whole = np.tile(block, (500, 1))
    sos = signal.butter(4, 0.2, output="sos")
    filters: dict[str, Filter] = {
        "LSTM-40": LSTM(1, 40),
        "LSTM-40 >> Dense": LSTM(1, 40) >> Dense(40, 1),
        "GRU-8 >> Dense": GRU(1, 8) >> Dense(8, 1),
        "SOS, order 4": SOS(sos),
    }
    for name, filt in filters.items():
        stream, out = filt.stream(), np.empty((BLOCK, filt.n_outputs), np.float32)
        calls: dict[str, Call] = {
            "blocks": lambda s=stream, o=out: [s.process(block, o) for _ in range(500)],
            "whole": lambda f=filt: f(whole),
        }
        times = medians(calls, 500)
        over = times["blocks"] - times["whole"]
        yield Row(f"{name}: over arithmetic", over, "us/block", "limit", 4, over, at_most=4)
    yield from other_streams(block, sos)
    model = filters["LSTM-40"]
    stream, out = model.stream(), np.empty((BLOCK, 40), np.float32)
    durations = np.empty(round(minutes * 60 * RATE / BLOCK))
    for i in range(durations.size):
        started = time.perf_counter()
        stream.process(block, out)
        durations[i] = time.perf_counter() - started
    late = float(np.percentile(durations, 99.9)) * 1e6
    quarter = BLOCK / RATE / 4 * 1e6
    name = f"LSTM-40, {minutes:g} min: 99.9th percentile"
    yield Row(
        name,
        late,
        "us/block",
        "quarter block",
        quarter,
        late / quarter,
        at_most=1,
        note=f"worst {durations.max() * 1e6:.0f} us",
    )


def other_streams(block: np.ndarray, sos: np.ndarray) -> Iterator[Row]:
    """What others take for a block, their arithmetic included."""
    state, column = np.zeros((len(sos), 2)), block[:, 0].copy()
    time_us = medians({"scipy": lambda: [signal.sosfilt(sos, column, zi=state) for _ in range(500)]}, 500)["scipy"]
    yield Row("(scipy sosfilt, order 4, in all)", time_us, "us/block")
    try:
        import pedalboard
    except ImportError:
        return
    plugin, row = pedalboard.LowpassFilter(4000), block.T.copy()
    calls = {"pedalboard": lambda: [plugin.process(row, RATE, reset=False) for _ in range(500)]}
    yield Row("(pedalboard lowpass, in all)", medians(calls, 500)["pedalboard"], "us/block")


def tails() -> Iterator[Row]:
    """An impulse and 60 s of silence: the last second against the first."""
    A = 0.999 * np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    ones = np.ones((8, 1))
    filters: dict[str, Filter] = {
        "SOS": SOS(signal.butter(4, 0.01, output="sos")),
        "StateSpace": StateSpace(A, ones, ones.T, [[1.0]]),
        "FDN": DelayStateSpace(A, ones, ones.T, [[1.0]], [101, 149, 199, 251, 307, 353, 401, 457]),
        "LSTM-16": LSTM(1, 16).replace(b=np.zeros(64)),
        "GRU-16": GRU(1, 16),
    }
    for name, filt in filters.items():
        stream = filt.stream()
        second = np.zeros((RATE, 1), np.float32)
        seconds = []
        for i in range(60):
            second[0] = i == 0
            started = time.perf_counter()
            stream.process(second)
            seconds.append((time.perf_counter() - started) / RATE * 1e6)
        first, last = float(np.median(seconds[1:6])), float(np.median(seconds[-5:]))
        yield Row(f"{name}: end of the tail", last, "us/sample", "its start", first, last / first, at_most=1.15)


IMPORT = "import time; t = time.perf_counter(); import rnndsp; print(time.perf_counter() - t)"
FIRST = """
import time
t = time.perf_counter()
import numpy as np
from rnndsp.filters import LSTM
LSTM(1, 40).stream().process(np.zeros((64, 1), np.float32))
print(time.perf_counter() - t)
"""


def start() -> Iterator[Row]:
    """Fresh processes, from the first import on; the cold one has an empty cache of compiled code."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _process(FIRST, cache)
        warm = statistics.median(_process(FIRST, cache) for _ in range(5))
    imported = statistics.median(_process(IMPORT) for _ in range(5))
    for name, seconds, limit in (
        ("import rnndsp", imported, 0.1),
        ("first block, warm cache", warm, 0.7),
        ("first block, cold cache", cold, 6),
    ):
        yield Row(name, seconds, "s", "limit", limit, seconds, at_most=limit)


def _process(code: str, cache: str | None = None) -> float:
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": cache} if cache else {})}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)

"""What a sound card needs: no allocation, no lock, no subnormals, and blocks of any size.

Oracles: Python's own books of its memory, a thread that counts, the definition of a subnormal, one call for the whole
signal. No test looks at a clock.
"""

import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import scipy.signal

from rnndsp import Feedback, Knobs, Latency, Parallel, Residual, StateSpace, gain
from rnndsp.composition import CHUNK
from rnndsp.filters import (
    GRU,
    LSTM,
    SOS,
    Dense,
    Elman,
    FeedbackDelayNetwork,
    GerzonAllpass,
    StateVariable,
    TransferFunction,
)

RATE = 8000
SECTIONS = scipy.signal.butter(4, 0.2, output="sos")


def noise(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def svf(cutoff_hz=1000.0):
    return StateVariable(cutoff_hz=cutoff_hz, q=2, sample_rate=RATE)


def fdn(delays=(37, 53, 71, 97)):
    return FeedbackDelayNetwork(delays, t60_s=0.05, sample_rate=RATE)


# ---- memory

STEADY = {
    "lstm": lambda: LSTM(1, 40),
    "lstm and dense": lambda: LSTM(1, 8) >> Dense(8, 1),
    "gru before": lambda: GRU(1, 8, reset="before"),
    "elman diagonal": lambda: Elman(1, 8, recurrence="diagonal"),
    "sections": lambda: SOS(SECTIONS),
    "transfer function": lambda: TransferFunction(*scipy.signal.butter(3, 0.2)),
    "state variable": svf,
    "state space": lambda: StateSpace([[0.5, 0.1], [0, 0.4]], [[1], [1]], [[1, 1]], [[0]]),
    "fdn": fdn,
    "allpass": lambda: GerzonAllpass([113], gain=0.6),
    "amp": lambda: Parallel(LSTM(1, 8) >> Dense(8, 1), gain(1.0)),
    "latency": lambda: Parallel(GRU(1, 3) >> Dense(3, 1), gain(0.5) >> Latency(9)),
    "knobs": lambda: Knobs(LSTM(2, 8) >> Dense(8, 1), {"drive": 0.5}),
}
# views of the arrays, and the numbers that say how large they are
TRANSIENT = 2000


def running(filt, n_frames, voices=()):
    """A function that runs a stream on, which has made all that it keeps."""
    stream, u = filt.stream(voices=voices), noise(*voices, n_frames, 1)
    out = np.empty((*voices, n_frames, filt.n_outputs), np.float32)

    def play(n_blocks):
        for _ in range(n_blocks):
            stream.process(u, out)

    play(20)
    return play


@pytest.mark.parametrize("n_frames", [64, 3000, 4096])
@pytest.mark.parametrize("voices", [(), (3,)])
@pytest.mark.parametrize("name", STEADY)
def test_blocks_allocate_nothing(name, voices, n_frames):
    play = running(STEADY[name](), n_frames, voices)
    tracemalloc.start()
    try:
        play(20)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        play(200)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= 64  # the sample index, and an index of it, may become longer numbers
    assert peak - before < TRANSIENT


@pytest.mark.parametrize("name", STEADY)
def test_blocks_leave_nothing_behind(name):
    play = running(STEADY[name](), 16)
    play(1000)
    before = sys.getallocatedblocks()
    play(10_000)
    assert sys.getallocatedblocks() - before < 100


# ---- other threads

LONG = {
    "units": (lambda: LSTM(1, 16), 1, 1_000_000),
    "voices": (lambda: LSTM(1, 16), 16, 60_000),
    "dense": (lambda: Dense(1, 8, activation="tanh"), 1, 2_000_000),
    "sections": (lambda: SOS(SECTIONS), 1, 5_000_000),
    "state variable": (svf, 1, 5_000_000),
    "fdn": (fdn, 1, 4_000_000),
}


@pytest.fixture
def _patience():
    """No thread is made to hand on the lock: it has to let go of it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_patience")
@pytest.mark.parametrize("name", LONG)
def test_kernels_let_other_threads_run(name):
    make, n_voices, n_frames = LONG[name]
    filt = make()
    u = filt._extend(noise(n_voices, n_frames, 1), None)
    y, state = np.empty((n_voices, n_frames, filt.n_outputs), np.float32), filt.rest_state((n_voices,), np.float32)
    filt._process(u[:, :1].copy(), state, y[:, :1].copy())
    ticks = during = 0

    def work():
        nonlocal during
        before = ticks
        filt._process(u, state, y)
        during = ticks - before

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        ticks += 1
        time.sleep(0)
    assert during > 10


# ---- decaying tails; those of single voices in tests/test_statespace.py

TAILS = {
    "lstm": lambda: LSTM(1, 40),
    "lstm diagonal": lambda: LSTM(1, 9, recurrence="diagonal"),
    "gru": lambda: GRU(1, 17),
    "gru before": lambda: GRU(1, 9, reset="before"),
    "elman": lambda: Elman(1, 7),
    "relu": lambda: Elman(1, 7, activation="relu", recurrence="diagonal").replace(U=np.linspace(0.01, 0.9, 7)),
    "transfer function": lambda: TransferFunction(*scipy.signal.butter(3, 0.2)),
    "sections": lambda: SOS(SECTIONS),
    "fast section": lambda: SOS([[1, 0, 0, 1, -1e-9, 1e-19]]),
    "state space": lambda: StateSpace([[0.99, 0.1], [0, 1e-5]], [[1], [1]], [[1, 1]], [[0]]),
    "state variable": svf,
    "fdn": lambda: fdn([3, 5, 7, 11]),
    "amp": lambda: Parallel(LSTM(1, 8) >> Dense(8, 1), gain(0.5)) >> svf() >> SOS(SECTIONS),
    "allpass": lambda: Residual(Elman(1, 1) >> GerzonAllpass([13], gain=-0.7)),
    "loop": lambda: Feedback(GRU(1, 3) >> Dense(3, 1), 0.3, delay=50),
}
SILENCE = [*[1] * 400, *[16] * 300, *[1000] * 80]


def subnormals(x):
    return np.count_nonzero((x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny))


def vectors(state):
    """Each part by itself, as a whole would be of the widest dtype."""
    yield state.vector
    for child in state.children:
        yield from vectors(child)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TAILS)
def test_tails_of_many_voices_hold_no_subnormals(name, dtype):
    filt = TAILS[name]()
    # the tails pass through every magnitude at another time in every voice
    u = np.zeros((19, 1, 1), dtype)
    u[:, 0, 0] = 10.0 ** (-2 * np.arange(19) + 2)
    stream = filt.stream(voices=(19,), dtype=dtype)
    found = subnormals(stream.process(u))
    for n_frames in SILENCE:
        y = stream.process(np.zeros((19, n_frames, 1), dtype))
        found += subnormals(y) + sum(subnormals(x) for x in vectors(stream.state))
    assert found == 0
    assert not np.any(y) and not np.any(stream.state.ravel())


# ---- blocks longer than the pieces that a series works in

N = 3 * CHUNK + 77
SIZES = (1, 0, CHUNK - 2, CHUNK + 1, 3, 64, 2 * CHUNK, 500, N)
CHAINS = {
    "amp": lambda: LSTM(1, 4) >> Dense(4, 1) >> SOS(SECTIONS),
    "knobs": lambda: Knobs(LSTM(2, 4) >> Dense(4, 1), {"drive": 0.5}) >> svf() >> gain(0.5),
    "inside": lambda: Parallel(GRU(1, 4) >> Dense(4, 1), fdn() >> svf(500.0)) >> fdn(),
    "after a fan": lambda: Dense(1, 3) >> Knobs(Elman(5, 3), {"a": 0.1, "b": 0.9}) >> gain(noise(1, 3)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("voices", [(), (3,)])
@pytest.mark.parametrize("name", CHAINS)
def test_blocks_of_changing_sizes_are_one_call(name, voices, dtype):
    filt, u = CHAINS[name](), noise(*voices, N, 1, dtype=dtype)
    names = [control.name for control in filt.controls]
    rate = filt.sample_rate or RATE

    def streamed(sizes):
        stream = filt.stream(voices=voices, dtype=dtype, ramp_s=2000 / rate)
        for control in names:
            stream.controls[control] = 0.9 if control in ("drive", "a", "b") else 3.5
        t, parts = 0, []
        for size in sizes:
            parts.append(stream.process(u[..., t : t + size, :]))
            t = min(t + size, N)
        assert t == stream.index == N
        return np.concatenate(parts, axis=-2), stream.state

    whole, end = streamed([N])
    assert np.isfinite(whole).all() and np.max(np.abs(whole)) > 1e-3
    if not names:
        np.testing.assert_array_equal(whole, filt(u))
    for sizes in (SIZES, SIZES[::-1], [100] * (N // 100 + 1)):
        found, state = streamed(sizes)
        assert found.tobytes() == whole.tobytes()
        assert state == end


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda: Elman(1, 8), lambda: GRU(1, 8, reset="before")),
        (lambda: Dense(1, 2) >> Elman(2, 3), lambda: Dense(1, 200) >> Elman(200, 3)),
    ],
    ids=["stages", "inputs"],
)
def test_a_swap_to_a_cell_that_works_in_more_room(before, after):
    stream, other, u = before().stream(), after(), noise(400, 1)
    stream.process(u)
    state = stream.state
    stream.swap(other)
    np.testing.assert_array_equal(stream.process(u), other.run(u, state)[0])

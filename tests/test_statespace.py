"""StateSpace, DelayStateSpace and their algebra.

Oracles: scipy.signal's dlsim, lfilter, freqz and sosfreqz; the network as a Python loop over deques; the composed
filters run one after the other; the FFT of the impulse response; IEEE 754 for what is subnormal.
"""

from collections import deque

import numpy as np
import pytest
import scipy.signal

import rnndsp
from rnndsp import Feedback, frequency_response, impulse_response
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filters import (
    GRU,
    LSTM,
    SOS,
    DelayStateSpace,
    Dense,
    Elman,
    FeedbackDelayNetwork,
    StateSpace,
    StateVariable,
    TransferFunction,
)
from rnndsp.statespace import DENSE_LIMIT, delay, feedback, gain, parallel, series

RATE = 48000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * max(1.0, np.max(np.abs(desired), initial=0)))


def matrices(n, k, p, seed=0, radius=0.9):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A *= radius / np.max(np.abs(np.linalg.eigvals(A)), initial=1e-9)
    return A, rng.standard_normal((n, k)), rng.standard_normal((p, n)), rng.standard_normal((p, k))


def network(delays, k, p, seed=0, norm=0.8):
    """Stable whatever the delays: the loop matrix has a norm below one."""
    A, B, C, D = matrices(len(delays), k, p, seed)
    return DelayStateSpace(norm * A / np.linalg.norm(A, 2), B, C, D, delays)


def by_deques(filt, u, lines):
    """The equations of DelayStateSpace, sample by sample; ``lines`` oldest sample first."""
    lines = [deque(line, maxlen=len(line)) for line in lines]
    y = []
    for frame in u:
        d = np.array([line[0] for line in lines])
        y.append(filt.C @ d + filt.D @ frame)
        for line, value in zip(lines, filt.A @ d + filt.B @ frame, strict=True):
            line.append(value)
    return np.array(y), np.concatenate([np.zeros(0), *map(np.array, lines)])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize(("k", "p"), [(1, 1), (3, 2), (9, 17)])
def test_equals_dlsim(n, k, p):
    A, B, C, D = matrices(n, k, p, seed=n)
    u, x0 = noise(400, k, seed=1), noise(n, seed=2)
    filt = StateSpace(A, B, C, D)
    y, state = filt.run(u, filt.rest_state().unravel(x0))
    _, expected, x = scipy.signal.dlsim((A, B, C, D, 1), u, x0=x0)
    close(y, expected)
    close(state.ravel(), A @ x[-1] + B @ u[-1])


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_equals_lfilter_with_initial_state(order):
    b, a = scipy.signal.butter(order, 0.3)
    zi = noise(order, seed=3)
    # lfilter's transposed direct form II as state space: z = A z + B u, y = C z + D u
    A = np.eye(order, k=1)
    A[:, 0] -= a[1:]
    filt = StateSpace(A, (b[1:] - a[1:] * b[0])[:, None], np.eye(1, order), [[b[0]]])
    u = noise(2000)
    y, state = filt.run(u, filt.rest_state().unravel(zi))
    expected, zf = scipy.signal.lfilter(b, a, u, zi=zi)
    close(y, expected)
    close(state.ravel(), zf)


def test_float32_signals_are_computed_in_float64():
    b, a = scipy.signal.butter(2, 20 / 24000)
    u = noise(20000).astype(np.float32)
    y = StateSpace(*scipy.signal.tf2ss(b, a))(u)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, scipy.signal.lfilter(b, a, u.astype(float)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("delays", [[1], [5], [1, 1, 1], [3, 1, 4, 1, 5, 9], [2, 7, 30], [64, 1]])
@pytest.mark.parametrize("n_frames", [1, 2, 29, 30, 31, 100])
def test_network_equals_its_equations_and_its_expansion(delays, n_frames):
    filt, u = network(delays, 2, 3, seed=len(delays)), noise(n_frames, 2)
    x0 = noise(sum(delays), seed=5)
    start = filt.rest_state().unravel(x0)
    expected, end = by_deques(filt, u, np.split(x0, np.cumsum(delays)[:-1]))
    y, state = filt.run(u, start)
    close(y, expected)
    close(state.ravel(), end)
    # from an index at which no line stands at its beginning
    _, moved = filt.run(noise(13, 2, seed=6), start)
    dense = filt.expand()
    for begin in (start, moved):
        y, state = filt.run(u, begin)
        wanted, x = dense.run(u, dense.rest_state().unravel(begin.ravel()))
        close(y, wanted)
        close(state.ravel(), x.ravel())
    assert type(dense) is StateSpace and dense.n_states == sum(delays)


def test_expand_refuses_what_would_fill_the_memory():
    assert delay(DENSE_LIMIT).expand().n_states == DENSE_LIMIT
    with pytest.raises(ParameterError, match=r"4001 states .* 128 MB"):
        delay(DENSE_LIMIT + 1).expand()


PAIRS = {
    "state spaces": lambda k, p: StateSpace(*matrices(3, k, p, seed=k)),
    "network": lambda k, p: network([2, 5, 1], k, p, seed=p),
    "gain": lambda k, p: gain(noise(p, k, seed=7)),
}


@pytest.mark.parametrize("first", PAIRS)
@pytest.mark.parametrize("second", PAIRS)
def test_series_and_parallel_equal_running_the_parts(first, second):
    a, b, c = PAIRS[first](2, 3), PAIRS[second](3, 1), PAIRS[second](2, 3)
    u = noise(200, 2)
    both, added = series(a, b), parallel(a, c)
    close(both(u), b(a(u)))
    close(added(u), a(u) + c(u))
    # states in the order of the operands
    end_a, end_b, end_c = a.run(u)[1].ravel(), b.run(a(u))[1].ravel(), c.run(u)[1].ravel()
    close(both.run(u)[1].ravel(), np.concatenate([end_a, end_b]))
    close(added.run(u)[1].ravel(), np.concatenate([end_a, end_c]))
    w = np.linspace(0, np.pi, 17)
    close(both.frequency_response(w), b.frequency_response(w) @ a.frequency_response(w))


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("first", PAIRS)
@pytest.mark.parametrize("second", PAIRS)
def test_feedback_equals_running_the_parts(first, second, n):
    forward, backward = PAIRS[first](2, 3), series(PAIRS[second](3, 2), gain(0.02 * np.eye(2)))
    u = noise(120, 2)
    y = np.zeros((len(u) + n, 3))  # y[t + n] holds the output at t
    ahead, behind = forward.rest_state(), backward.rest_state()
    for t in range(len(u)):
        back, behind = backward.run(y[t][None], behind)
        y[t + n], ahead = forward.run(u[t][None] + back, ahead)
    loop = feedback(forward, backward, n)
    out, state = loop.run(u)
    close(out, y[n:])
    close(state.ravel(), np.concatenate([y[len(u) :].T.ravel(), ahead.ravel(), behind.ravel()]))


# short and long lines, in every order: those whose lanes are rows of the matrix, and those whose lanes are frames
LINES = {
    "none": [],
    "one sample": [1],
    "many of one sample": [1] * 18,
    "short": [3, 1, 4, 1, 5],
    "short, then of one sample": [2, 5, 1, 1, 1],
    "of one sample, then long": [1, 1, 30],
    "long, then of one sample": [100, 1, 1],
    "as many as lanes": [8, 8, 8],
    "long": [8, 9, 64, 301],
    "many": [11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LINES)
def test_no_cut_changes_a_bit_nor_does_a_tape(name, dtype):
    filt, rng = network(LINES[name], 2, 3), np.random.default_rng(4)
    u = noise(2, 700, 2, seed=8).astype(dtype)
    start = filt.rest_state((2,), dtype)
    start.vector[...], start.index = noise(*start.vector.shape, seed=9), 12345
    y, end = filt.run(u, start)
    tape = filt.tape(u, start)
    np.testing.assert_array_equal(tape.y, y)
    assert tape.state == end
    for _ in range(4):
        parts, state, t = [], start, 0
        while t < len(u[0]):
            size = rng.integers(0, rng.choice([3, 12, 150]))
            part, state = filt.run(u[:, t : t + size], state)
            parts.append(part)
            t += size
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), y)
        assert state == end
    for voice in range(2):
        alone, state = filt.run(u[voice : voice + 1], start.voice(voice).copy())
        np.testing.assert_array_equal(alone[0], y[voice])
        np.testing.assert_array_equal(state.rows[0], end.rows[voice])
        lines = np.split(start.ravel()[voice], np.cumsum(filt.delays)[:-1]) if filt.delays.size else []
        expected, rest = by_deques(filt, u[voice].astype(float), lines)
        close(y[voice], expected, 1e-12 if dtype == np.float64 else 1e-7)
        close(end.ravel()[voice], rest)


@pytest.mark.parametrize("name", ["none", "short", "many of one sample", "many"])
def test_no_width_of_the_registers_changes_a_bit(name, monkeypatch):
    made = network(LINES[name], 2, 3)
    u = noise(200, 2)
    y, end = made.run(u)
    for width in (1, 2, 4, 8):
        monkeypatch.setattr("rnndsp.statespace.lanes", lambda dtype, width=width: width)
        other = made.replace()  # which packs its weights anew
        found, state = other.run(u)
        np.testing.assert_array_equal(found, y)
        assert state == end


@pytest.mark.parametrize("name", ["many of one sample", "many"])
def test_what_is_not_finite_stays_in_its_voice_and_its_future(name):
    filt = network(LINES[name], 2, 3)
    u = noise(2, 40, 2)
    state, clean = filt.rest_state((2,)), filt.run(u)[0]
    u[1, 21, 0] = np.nan
    y = np.empty((2, 40, 3))
    filt._process(u, state, y)
    np.testing.assert_array_equal(y[0], clean[0])
    np.testing.assert_array_equal(y[1, :21], clean[1, :21])
    assert np.isnan(y[1, 21]).all()
    heard = 21 + np.min(filt.delays)
    np.testing.assert_array_equal(y[1, 22:heard], clean[1, 22:heard])
    assert np.isnan(y[1, heard]).all() and not np.isnan(state.rows[0]).any() and np.isnan(state.rows[1]).any()


def test_delay_and_gain():
    u = noise(40, 2)
    np.testing.assert_array_equal(delay(7, 2)(u), np.vstack([np.zeros((7, 2)), u[:-7]]))
    np.testing.assert_array_equal(delay(0, 2)(u), u)
    np.testing.assert_array_equal(gain(-0.5)(u[:, 0]), -0.5 * u[:, 0])
    close(gain([[1, 2], [3, 4], [5, 6]])(u), u @ np.array([[1, 2], [3, 4], [5, 6]]).T)
    assert type(series(delay(1), gain(2.0))) is StateSpace and type(series(delay(2), gain(2.0))) is DelayStateSpace


@pytest.mark.parametrize("order", [1, 3, 6])
def test_frequency_response_equals_freqz(order):
    b, a = scipy.signal.cheby1(order, 1, 0.4)
    w, expected = scipy.signal.freqz(b, a, 301)
    close(StateSpace(*scipy.signal.tf2ss(b, a)).frequency_response(w)[:, 0, 0], expected, 1e-11)
    sos = scipy.signal.ellip(order, 0.5, 50, 3000, fs=RATE, output="sos")
    f, expected = scipy.signal.sosfreqz(sos, 301, fs=RATE)
    found = frequency_response(SOS(sos, sample_rate=RATE), f)
    close(found.h[:, 0, 0], expected, 1e-11)
    assert np.array_equal(found.frequency, f)
    with np.errstate(divide="ignore"):
        close(found.magnitude_db[:-1, 0, 0], 20 * np.log10(np.abs(expected[:-1])), 1e-8)


def test_frequency_response_is_the_fft_of_the_impulse_response():
    n = 4096
    for filt in (network([3, 11, 5], 2, 3, norm=0.6), StateSpace(*matrices(5, 2, 3)), delay(9, 2)):
        h = np.stack([impulse_response(filt, n, channel=i) for i in range(2)], axis=-1)
        close(frequency_response(filt, n // 2 + 1).h, np.fft.rfft(h, axis=0), 1e-11)
    # a network too long for a matrix of its states
    filt, m = Feedback(gain(1.0), -0.5, delay=20011), 20011
    w = np.linspace(0.1, 3, 50)
    close(filt.linearize().frequency_response(w)[:, 0, 0], 1 / (1 + 0.5 * np.exp(-1j * w * m)), 1e-12)


# ---- decaying tails

SLOW = scipy.signal.butter(4, 30, fs=RATE, output="sos")
# filter, and the sample rate at which 60 s of silence are given
TAILS = {
    "state space": (lambda: StateSpace([[0.999, 0.1], [0, 0.5]], [[1], [1]], [[1, 1]], [[0]]), RATE),
    "rotation": (lambda: StateSpace(0.9995 * np.array([[0.8, -0.6], [0.6, 0.8]]), [[1], [0]], [[1, 1]], [[1]]), RATE),
    "fast pole": (lambda: StateSpace([[1e-7]], [[1]], [[1]], [[0]]), RATE),
    "short delays": (lambda: network([1, 2, 3], 1, 1, norm=0.99), RATE),
    "sos": (lambda: SOS(SLOW), RATE),
    "transfer function": (lambda: TransferFunction([1], [1, -0.3]), RATE),
    "state variable": (lambda: StateVariable(cutoff_hz=100, q=20, sample_rate=RATE), RATE),
    "fdn": (lambda: FeedbackDelayNetwork([1, 2, 3, 5], t60_s=0.05, sample_rate=RATE), RATE),
    "long fdn": (lambda: FeedbackDelayNetwork([1031, 1327, 1523, 1871], t60_s=0.5, sample_rate=RATE), RATE),
    "lstm": (lambda: LSTM(1, 3, seed=1), 16000),
    "gru": (lambda: GRU(1, 3, seed=1), 16000),
    "gru before": (lambda: GRU(1, 3, reset="before", seed=1), 8000),
    "elman": (lambda: Elman(1, 3, seed=1), 16000),
    "elman slow": (lambda: Elman(1, 2, activation="identity").replace(U=0.998 * np.eye(2)), RATE),
    "feedback": (lambda: Feedback(SOS(SLOW[:1]), 0.01, delay=1000), RATE),
    "short feedback": (lambda: Feedback(gain(1.0), 0.98, delay=3), 400),
    "feedback of dense layers": (lambda: Feedback(Dense(1, 1).replace(W=[[0.9]]), Dense(1, 1), delay=1), 400),
    "feedback of a cell": (lambda: Feedback(Elman(1, 3).replace(U=0.4 * np.eye(3)) >> Dense(3, 1), 0.5, delay=2), 400),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TAILS)
def test_tails_end_in_zero_and_are_never_subnormal(name, dtype):
    make, rate = TAILS[name]
    filt = make()

    def check(x):
        tiny = np.finfo(x.dtype).tiny
        assert not np.any((x != 0) & (np.abs(x) < tiny)), f"subnormal: {np.min(np.abs(x[x != 0]))}"

    first = np.zeros(1, dtype)
    first[0] = 1
    y, state = filt.run(first)
    left = 60 * rate
    # sample by sample where a fast tail would pass through the subnormals, then in ever longer blocks
    for size in [*[1] * 600, *[32] * 300, *[2400] * (60 * rate // 2400 + 1)]:
        y, state = filt.run(np.zeros(min(size, left), dtype), state)
        left -= len(y)
        check(y)
        for part in (state, *state.children):
            check(part.vector)
        if not left:
            break
    assert left == 0 and not np.any(state.ravel()) and not np.any(y)


# ---- what is refused


@pytest.mark.parametrize(
    ("A", "B", "C", "D", "delays", "says"),
    [
        (0.5, [[1]], [[1]], [[0]], [1], "A has shape"),
        ([0.5], [[1]], [[1]], [[0]], [1], "A has shape"),
        ([[0.5, 0]], [[1]], [[1]], [[0]], [1], r"A has shape \(1, 2\), must have \(1, 1\)"),
        ([[0.5]], [[1, 2]], [[1]], [[0]], [1], r"B has shape \(1, 2\), must have \(1, 1\)"),
        ([[0.5]], [[1]], [[1], [1]], [[0]], [1], r"C has shape \(2, 1\), must have \(1, 1\)"),
        ([[0.5]], [[1]], [[1]], [[0]], [1, 2], r"A has shape \(1, 1\), must have \(2, 2\)"),
        ([[np.nan]], [[1]], [[1]], [[0]], [1], "A holds NaN"),
        ([[0.5]], [[np.inf]], [[1]], [[0]], [1], "B holds NaN or infinity"),
        ([[0.5j]], [[1]], [[1]], [[0]], [1], "complex128; give real"),
        ([["a"]], [[1]], [[1]], [[0]], [1], "give real"),
        ([[0.5]], [[1]], [[1]], [[0]], [0], "at least 1"),
        ([[0.5]], [[1]], [[1]], [[0]], [-3], "at least 1"),
        ([[0.5]], [[1]], [[1]], [[0]], [1.0], "whole number"),
        ([[0.5]], [[1]], [[1]], [[0]], [True], "whole number"),
        ([[0.5]], [[1]], [[1]], [[0]], 1, "one whole number of samples a line"),
        ([[0.5]], [[1]], [[1]], [[0]], [[1]], "one whole number of samples a line"),
    ],
)
def test_bad_matrices_and_delays(A, B, C, D, delays, says):
    with pytest.raises(ParameterError, match=says):
        DelayStateSpace(A, B, C, D, delays)


def test_bad_use():
    with pytest.raises(ParameterError, match="use DelayStateSpace"):
        StateSpace([[0.5]], [[1]], [[1]], [[0]]).replace(delays=(2,))
    for n_samples in (-1, 2.5):
        with pytest.raises(ParameterError):
            delay(n_samples)
    for rate in (0, -1, np.nan, np.inf, "48000"):
        with pytest.raises(ParameterError, match="positive number of Hz"):
            gain(1.0, sample_rate=rate)
    with pytest.raises(ParameterError, match=r"level=0"):
        impulse_response(gain(1.0), 4, level=0)
    filt = gain(np.eye(2))
    u = np.zeros((5, 2))
    u[3, 1] = np.inf
    with pytest.raises(NonFiniteError, match="input is inf at sample 3, channel 1, voice 0"):
        filt(u)
    with pytest.raises(ParameterError, match=r"librosa's \(channels, n\) needs a transpose, u.T"):
        filt(np.zeros((2, 100)))
    with pytest.raises(ParameterError, match=r"moveaxis|voice a channel"):
        gain(1.0)(np.zeros((100, 2)))
    with pytest.raises(ParameterError, match="scale integer audio first"):
        filt(np.zeros((5, 2), np.int16))
    with pytest.raises(ParameterError, match="single number"):
        filt(np.float64(3))


def test_arrays_cannot_be_changed():
    A = np.array([[0.5]])
    filt = DelayStateSpace(A, [[1]], [[1]], [[0]], [3])
    A[0, 0] = 7
    assert filt.A[0, 0] == 0.5
    for array in (filt.A, filt.params["B"], filt.delays):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 9
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_a_blow_up_names_the_sample():
    filt = rnndsp.StateSpace([[1e10]], [[1]], [[1]], [[0]])
    u = np.zeros(100)
    u[0] = 1e5
    # x[t] = 1e5 * 1e10**(t - 1) passes 1.8e308 at t = 32
    with pytest.raises(NonFiniteError, match=r"output is inf at sample 32, .* see filt\.stability"):
        filt(u)

"""Stream: blocks, control ramps, the NaN policies, and what else a running voice does.

Oracles: one call for the whole signal, to the bit; for the NaN policies a Python loop that runs one sample at a time;
for ramps the straight line in closed form, made audible by a filter whose output is its knob.
"""

import copy
import pickle

import numpy as np
import pytest
import scipy.signal
import soundfile

from rnndsp import Feedback, Knobs, Latency, Parallel, Residual, StateSpace, delay, formats, gain
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filters import GRU, LSTM, SOS, Dense, Elman, FeedbackDelayNetwork, GerzonAllpass, StateVariable

RATE = 44100
N_SPLITS, N_AUDIO, N_SILENCE = 500, 1500, 500


def noise(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def svf(cutoff_hz=1000.0, kind="lowpass"):
    return StateVariable(kind, cutoff_hz=cutoff_hz, sample_rate=RATE)


def cuts(rng, n, extra=()):
    """Block edges: a random number of them, some blocks empty, some of one sample, some of the usual powers of two."""
    if rng.integers(4) == 0:
        edges = np.arange(0, n, int(rng.choice([64, 128, 256, 512])))
    else:
        edges = rng.integers(0, n + 1, int(rng.integers(1, 25)))
        edges = np.concatenate([edges, edges[:3], edges[:3] + 1])
    return sorted([0, n, *edges[edges <= n].tolist(), *extra])


def streamed(stream, u, edges, events=()):
    """The output for these blocks; ``events`` sets controls at absolute sample indices, which are among the edges."""
    events, done = sorted(events), 0
    parts = []
    for start, stop in zip(edges, [*edges[1:], None], strict=True):
        while done < len(events) and events[done][0] <= start:
            stream.controls[events[done][1]] = events[done][2]
            done += 1
        if stop is not None:
            parts.append(stream.process(u[..., start:stop, :]).copy())
    return np.concatenate(parts, axis=-2)


# ---- the promise: any split gives the same bits

CHAINS = {
    "cells": (lambda: LSTM(1, 4, seed=1) >> Residual(GRU(4, 4, seed=2)) >> Dense(4, 1) >> gain(0.5), []),
    "reverb": (
        lambda: Parallel(
            gain(0.5) >> Latency(17),
            GerzonAllpass([113], gain=0.6) >> FeedbackDelayNetwork([37, 53, 71, 97], t60_s=0.01, sample_rate=RATE),
        ),
        [],
    ),
    "echo in a loop": (
        lambda: Feedback(svf(800), SOS(scipy.signal.butter(2, 0.3, output="sos")) >> gain(-0.7), delay=61),
        [(0, "cutoff_hz", 200.0), (333, "q", 3.0), (700, "cutoff_hz", 5000.0), (1100, "cutoff_hz", 90.0)],
    ),
    "nonlinear loop": (
        lambda: Feedback(Dense(1, 1, activation="tanh"), Feedback(Dense(1, 1), 0.5, delay=13) >> gain(0.6), delay=97),
        [],
    ),
    "amp": (
        lambda: (
            Knobs(Elman(2, 5, seed=3) >> Dense(5, 1), {"drive": 0.5}) >> (svf(3000) + svf(300, "highpass")) >> delay(7)
        ),
        [(1, "drive", 1.0), (400, "0.cutoff_hz", 500.0), (410, "1.q", 20.0), (900, "drive", 0.0), (1500, "0.q", 9.0)],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_500_splits_of_real_audio_give_the_same_bits(name, data_path):
    path = data_path / "audio" / "pyneuralfx_example.wav"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    audio, _ = soundfile.read(path, dtype="float32", always_2d=True)
    loud = int(np.argmax(np.abs(audio[:, 0])))
    begin = min(max(loud - N_AUDIO // 2, 0), len(audio) - N_AUDIO)
    u = np.concatenate([audio[begin : begin + N_AUDIO, :1], np.zeros((N_SILENCE, 1), np.float32)])
    assert np.max(np.abs(u)) > 0.01
    make, events = CHAINS[name]
    filt, rng = make(), np.random.default_rng(0)
    at = sorted({index for index, _, _ in events})
    for dtype, n_splits in ((np.float32, N_SPLITS), (np.float64, 25)):
        signal = u.astype(dtype)
        names = {c.name: c.default for c in filt.controls}
        stream = filt.stream(dtype=dtype, ramp_s=200 / RATE)
        whole = streamed(stream, signal, sorted({0, len(u), *at}), events)
        end = stream.state
        assert np.max(np.abs(whole)) > 1e-4
        if not events:
            np.testing.assert_array_equal(whole, filt(signal))
        for _ in range(n_splits):
            stream.controls.update(names)
            stream.reset()
            found = streamed(stream, signal, cuts(rng, len(u), at), events)
            assert found.tobytes() == whole.tobytes()
            assert stream.state == end and stream.index == len(u)


# ---- ramps


def knob():
    """Its output is its knob."""
    return Knobs(gain([[0.0, 1.0]]), {"level": 0.5}, low=-10, high=10)


def follow(stream, n, events=()):
    edges = sorted({0, n, *(index for index, _ in events)})
    return streamed(stream, np.zeros((n, 1)), edges, [(i, "level", v) for i, v in events])[:, 0]


@pytest.mark.parametrize(
    ("ramp_s", "rate", "length"), [(0.02, 8000, 160), (0.01, 44100, 441), (0.02, None, 960), (0, 8000, 1)]
)
def test_a_ramp_takes_its_time_in_seconds(ramp_s, rate, length):
    stream = knob().stream(dtype=np.float64, ramp_s=ramp_s, sample_rate=rate)
    y = follow(stream, length + 200, [(100, -2.0)])
    expected = np.interp(np.arange(length + 200), [99, 99 + length], [0.5, -2.0])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    assert np.all(y[:100] == 0.5) and np.all(y[99 + length :] == -2.0)  # the target, to the bit
    assert np.max(np.abs(np.diff(y))) <= 2.5 / length * (1 + 1e-12)  # no click


def test_targets_are_met_to_the_bit():
    rng = np.random.default_rng(0)
    stream = knob().stream(dtype=np.float64, ramp_s=7 / 48000)
    for value in rng.uniform(-10, 10, 300):
        stream.controls["level"] = value
        y = stream.process(np.zeros((9, 1)))[:, 0]
        assert np.all(y[6:] == value) and stream.controls["level"] == value
        assert np.all((y >= -10) & (y <= 10))


def test_a_control_set_again_goes_on_from_where_it_is():
    stream = knob().stream(dtype=np.float64, ramp_s=100 / 48000)
    y = follow(stream, 400, [(0, 10.0), (40, -10.0), (41, 3.0), (300, 3.0)])
    at = 0.5 + 9.5 * 0.4  # reached at sample 39
    then = at + (-10 - at) / 100
    expected = np.interp(np.arange(400), [-1, 39, 40, 140], [0.5, at, then, 3.0])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)
    # set twice at one index: the last one counts, from the value before
    stream = knob().stream(dtype=np.float64, ramp_s=100 / 48000)
    stream.controls["level"], stream.controls["level"] = -10, 1.5
    np.testing.assert_allclose(follow(stream, 200), np.interp(np.arange(200), [-1, 99], [0.5, 1.5]), atol=1e-14)


def test_ramps_end_with_a_reset_and_controls_keep_their_values():
    stream = knob().stream(dtype=np.float64)
    follow(stream, 50, [(10, 4.0)])
    assert stream.controls["level"] == 4 and stream.index == 50
    stream.reset()
    assert stream.index == 0 and np.all(follow(stream, 20) == 4)
    assert dict(stream.controls) == {"level": 4.0}


def test_a_ramped_cutoff_does_not_click():
    u = np.sin(2 * np.pi * 200 / RATE * np.arange(8000))[:, None]
    largest = {}
    for ramp_s in (0, 0.02):
        stream = svf(5000).stream(dtype=np.float64, ramp_s=ramp_s)
        y = streamed(stream, u, [0, 4055, 8000], [(4055, "cutoff_hz", 100.0)])[:, 0]
        largest[ramp_s] = np.max(np.abs(np.diff(y, 2))[1000:])
    # a sine of amplitude one has second differences of at most w^2; its envelope moves over many samples
    assert largest[0.02] < 3 * (2 * np.pi * 200 / RATE) ** 2 < largest[0] / 3


def test_bad_controls():
    stream = knob().stream()
    for value, says in (
        (11, r"level=11 must lie within \[-10, 10\]"),
        (np.nan, "nan"),
        ([1, 2], "one number"),
        ("a", "number"),
    ):
        with pytest.raises(ParameterError, match=says):
            stream.controls["level"] = value
    with pytest.raises(ParameterError, match=r"unknown control 'gain'; this filter has \['level'\]"):
        stream.controls["gain"] = 1
    with pytest.raises(ParameterError, match="cannot be removed"):
        del stream.controls["level"]
    assert stream.controls["level"] == 0.5


# ---- NaN and infinity


def rest_at(filt, index, dtype):
    def move(state):
        state.index = index
        for child in state.children:
            move(child)
        return state

    return move(filt.rest_state((), dtype))


def by_samples(filt, u, policy):
    """One voice, one sample at a time: what the policies mean."""
    state, n_acted, y = filt.rest_state((), u.dtype), 0, np.zeros((len(u), filt.n_outputs), u.dtype)
    good, held, stuck = np.zeros(filt.n_inputs, u.dtype), np.zeros(filt.n_outputs, u.dtype), False
    for t, frame in enumerate(u):
        if policy == "hold":
            n_acted += not np.isfinite(frame).all()
            good = frame if np.isfinite(frame).all() else good
            if not stuck:
                try:
                    (held,), state = filt.run(good[None], state)
                except NonFiniteError:
                    stuck, n_acted = True, n_acted + 1
            y[t] = held
        else:
            try:
                y[t : t + 1], state = filt.run(frame[None], state)
            except NonFiniteError:
                state, n_acted = rest_at(filt, t + 1, u.dtype), n_acted + 1
    return y, n_acted, stuck, state


def growing(pole):
    return StateSpace([[pole]], [[1.0]], [[1.0]], [[0.5]])


BLOW_UPS = {
    "stable": lambda: Feedback(LSTM(1, 2, seed=4) >> Dense(2, 1), 0.4, delay=5) + GerzonAllpass([11]),
    "pole": lambda: growing(3.0),
    "loop": lambda: Feedback(gain(1.0), 9.0, delay=7, allow_unstable=True) >> delay(3),
    # two infinities that cancel: NaN, and NumPy would warn
    "difference": lambda: growing(5.0) + (growing(4.0) >> gain(-1.0)),
    "cell": lambda: Elman(1, 2, activation="relu").replace(U=[[3, 1], [0, 2.5]]) >> Dense(2, 1) >> delay(13),
    "overflow of the signal": lambda: gain(1e30) >> gain(1e30) >> SOS(scipy.signal.butter(2, 0.2, output="sos")),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("policy", ["reset", "hold"])
@pytest.mark.parametrize("name", BLOW_UPS)
def test_policies_act_at_the_sample_whatever_the_split(name, policy, dtype):
    filt, n = BLOW_UPS[name](), 700
    rng = np.random.default_rng(1)
    u = noise(3, n, 1, seed=2, dtype=dtype)
    if name == "overflow of the signal":
        u[:, ::97] *= dtype(1e-25) * dtype(1e-25) if dtype == np.float32 else dtype(1e250)
    u[0, [0, 5, 6, 300], 0] = np.nan, np.inf, -np.inf, np.nan
    u[2, 650:] = np.nan
    if name not in ("stable", "overflow of the signal"):
        u[1] = 0  # the voice in the middle stays good
    expected = [by_samples(filt, voice, policy) for voice in u]
    y = np.stack([found for found, _, _, _ in expected])
    acted = sum(count for _, count, _, _ in expected)
    assert acted >= 54
    assert name == "stable" or max(count for _, count, _, _ in expected[::2]) > 4
    for split in range(25):
        stream = filt.stream(voices=(3,), dtype=dtype, on_nonfinite=policy)
        edges = cuts(rng, n) if split else [0, n]
        found = streamed(stream, u, edges)
        np.testing.assert_array_equal(found, y)
        assert stream.n_nonfinite == acted
        for voice, (_, _, stuck, state) in enumerate(expected):
            if not stuck:
                np.testing.assert_array_equal(stream.state.ravel()[voice], state.ravel())
        assert stream.state.index == stream.index == n
        stream.reset()
        assert stream.n_nonfinite == 0 and stream.state == filt.rest_state((3,), dtype)


def test_a_stuck_last_voice_does_not_disturb_the_others():
    filt = Feedback(gain(1.0), 4.0, delay=7, allow_unstable=True)
    u = np.zeros((2, 2000, 1), np.float32)
    u[0, 0], u[1, :] = 1e-18, 1.0
    stream = filt.stream(voices=(2,), on_nonfinite="hold")
    y = np.concatenate([stream.process(block) for block in np.split(u, 200, axis=1)], axis=1)
    # 1e-18 * 4^k at multiples of 7, until float32 ends
    n = 7 * int(np.log(3e38 / 1e-18) / np.log(4))
    np.testing.assert_allclose(y[0, : n + 1 : 7, 0], 1e-18 * 4.0 ** np.arange(n // 7 + 1), rtol=1e-5)
    assert not np.any(np.delete(y[0, : n + 1, 0], np.arange(0, n + 1, 7)))
    assert stream.n_nonfinite == 2


def test_raise_leaves_the_stream_as_it_was_when_the_input_is_bad():
    filt = LSTM(1, 3) >> Dense(3, 1) >> delay(4)
    stream, u = filt.stream(voices=(2,), dtype=np.float64), noise(2, 100, 1)
    first = stream.process(u[:, :40])
    before, bad = stream.state, u[:, 40:].copy()
    bad[1, 13] = np.inf
    with pytest.raises(
        NonFiniteError, match=r"input is inf at sample 53, channel 0, voice 1; clean the signal.*'reset'"
    ):
        stream.process(bad)
    assert stream.state == before and stream.index == 40
    np.testing.assert_array_equal(np.concatenate([first, stream.process(u[:, 40:])], axis=1), filt(u))


def test_raise_names_the_same_sample_whatever_the_split():
    filt, u, rng = growing(1e3), np.full((400, 1), 1e-3), np.random.default_rng(0)
    # x[t] is about 1e-3 * 1e3^(t-1), beyond 1.8e308 from t = 105 on
    for split in range(30):
        stream = filt.stream(dtype=np.float64)
        with pytest.raises(NonFiniteError, match=r"output is inf at sample 105, .*stability\(\)"):
            streamed(stream, u, cuts(rng, 400) if split else [0, 400])
        stream.reset()
        np.testing.assert_array_equal(stream.process(u[:50]), filt(u[:50]))


# ---- blocks


def test_out_is_written_and_returned():
    filt, u = gain([[1.0, 2.0]]), noise(30, 2, dtype=np.float32)
    stream, out = filt.stream(), np.full((30, 1), 7, np.float32)
    assert stream.process(u[:0], out[:0]).shape == (0, 1)
    assert stream.process(u, out) is out
    np.testing.assert_array_equal(out[:, 0], filt(u)[:, 0])
    flat, mono = np.empty(30, np.float32), gain(2.0).stream()
    assert mono.process(u[:, 0], flat) is flat and mono.process(u[:, 0]).shape == (30,)
    np.testing.assert_array_equal(flat, 2 * u[:, 0])
    np.testing.assert_array_equal(mono.process(u[::-1, :1]), 2 * u[::-1, :1])  # any strides come in
    many = np.empty((2, 15, 1), np.float32)
    filt.stream(voices=(2,)).process(u.reshape(2, 15, 2), many)
    np.testing.assert_array_equal(many, filt(u.reshape(2, 15, 2)))


def test_out_that_cannot_be_written_is_refused():
    stream, block = gain(np.eye(2)).stream(), np.ones((10, 2), np.float32)
    frozen = np.zeros((10, 2), np.float32)
    frozen.flags.writeable = False
    both = np.zeros((2, 10, 2), np.float32)
    for out in (block, block[::-1], frozen, np.zeros((2, 10), np.float32).T, block.view(), block.tolist()):
        with pytest.raises(ParameterError, match="writeable C-contiguous array that shares no memory"):
            stream.process(block, out)
    for out, says in (
        (np.zeros((10, 2)), "out of dtype float64, the stream runs in float32"),
        (np.zeros((9, 2), np.float32), "out holds 9 frames, the block 10"),
        (np.zeros((10, 1), np.float32), r"out of shape \(10, 1\) must be \(n_frames, 2\)"),
    ):
        with pytest.raises(ParameterError, match=says):
            stream.process(block, out)
    assert stream.index == 0 and np.all(block == 1)
    stream.process(both[0], both[1])  # neighbours in one buffer share nothing


def test_wrong_blocks_name_the_remedy():
    stereo = gain(np.eye(2)).stream()
    for block, says in (
        (np.zeros((10, 2)), r"dtype float64, the stream runs in float32; convert it, or stream\(dtype"),
        (np.zeros((10, 2), np.int16), "dtype int16"),
        (
            np.zeros((2, 10), np.float32),
            r"shape \(2, 10\) must be \(n_frames, 2\).*librosa's \(channels, n\) needs a transpose",
        ),
        (np.zeros(10, np.float32), r"must be \(n_frames, 2\)"),
        (np.zeros((3, 10, 2), np.float32), r"voices are given as stream\(voices=\(n,\)\)"),
        (np.float32(1), "NumPy array"),
        ([[0.0, 0.0]], "a list, must be a NumPy array of float32"),
    ):
        with pytest.raises(ParameterError, match=says):
            stereo.process(block)
    with pytest.raises(ParameterError, match=r"must be \(4, n_frames, 1\)"):
        gain(1.0).stream(voices=(4,)).process(np.zeros(10, np.float32))
    for bad, says in (
        ({"dtype": np.int16}, "float32 or float64"),
        ({"on_nonfinite": "ignore"}, "choose 'raise', 'reset' or 'hold'"),
        ({"ramp_s": -1}, "at least 0 s"),
        ({"ramp_s": np.nan}, "at least 0 s"),
        ({"sample_rate": 0}, "positive"),
    ):
        with pytest.raises(ParameterError, match=says):
            gain(1.0).stream(**bad)


# ---- the state


def test_swap_goes_on_from_the_state():
    first, second = LSTM(1, 3, seed=1), LSTM(1, 3, seed=2)
    u, stream = noise(60), first.stream(dtype=np.float64)
    a = stream.process(u[:25, None])
    stream.swap(second)
    b = stream.process(u[25:, None])
    y, state = first.run(u[:25, None])
    np.testing.assert_array_equal(a, y)
    np.testing.assert_array_equal(b, second.run(u[25:, None], state)[0])
    for other in (LSTM(1, 4), GRU(1, 3), LSTM(2, 3)):
        with pytest.raises(ParameterError, match="another state layout or other channels"):
            stream.swap(other)
    with pytest.raises(ParameterError, match="controls"):
        Knobs(gain([[1.0, 1.0]]), {"a": 0.5}).stream().swap(Knobs(gain([[1.0, 1.0]]), {"b": 0.5}))
    fast = svf().stream()
    with pytest.raises(ParameterError, match="44100"):
        fast.swap(StateVariable(cutoff_hz=1000, sample_rate=48000))


def test_swap_takes_over_the_ranges_of_the_new_controls():
    narrow, wide = (Knobs(gain([[0.0, 1.0]]), {"level": 0.5}, low=0, high=high) for high in (1, 5))
    stream = narrow.stream(dtype=np.float64, ramp_s=0)
    with pytest.raises(ParameterError, match="level=4"):
        stream.controls["level"] = 4
    stream.swap(wide)
    stream.controls["level"] = 4
    assert np.all(stream.process(np.zeros((3, 1))) == 4)


@pytest.mark.parametrize("name", CHAINS)
def test_a_state_saved_in_the_middle_goes_on_to_the_bit(name, tmp_path):
    filt, u = CHAINS[name][0](), noise(400, 1, dtype=np.float32)
    stream = filt.stream()
    stream.process(u[:173])
    formats.save_state(stream.state, tmp_path / "state")
    kept = stream.state
    rest = stream.process(u[173:])
    assert stream.state != kept  # a copy, which went on alone
    again = filt.stream()
    again.state = formats.load_state(tmp_path / "state")
    np.testing.assert_array_equal(again.process(u[173:]), rest)
    assert again.state == stream.state
    np.testing.assert_array_equal(filt.run(u[173:], kept)[0], rest)
    stream.reset()
    assert stream.state == filt.rest_state((), np.float32) and stream.index == 0
    with pytest.raises(ParameterError, match="the state does not fit"):
        stream.state = filt.rest_state((2,), np.float32)
    with pytest.raises(ParameterError, match="the state does not fit"):
        stream.state = gain(1.0).rest_state()


def test_swap_moves_the_controls_that_nobody_turned():
    def knobs(**values):
        return Knobs(gain([[0.0, 1.0, 1.0]]), values)

    stream = knobs(a=0.25, b=0.5).stream(dtype=np.float64, ramp_s=0)
    stream.controls["a"] = 0.125
    stream.process(np.zeros(3))
    stream.swap(knobs(a=0.75, b=1.0))
    assert dict(stream.controls) == {"a": 0.125, "b": 1.0}
    np.testing.assert_array_equal(stream.process(np.zeros(3)), 3 * [1.125])


def test_swap_refuses_a_control_that_is_out_of_the_new_range():
    def knob(high):
        return Knobs(gain([[1.0, 0.1]]), {"g": 0.5}, high=high)

    stream = knob(10.0).stream()
    stream.controls["g"] = 5.0
    with pytest.raises(ParameterError, match="g="):
        stream.swap(knob(1.0))
    assert stream.filter == knob(10.0)
    stream.controls["g"] = 0.7
    stream.process(np.zeros(2000, np.float32))
    stream.swap(knob(1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"voices": 2},
        {"voices": (-1,)},
        {"dtype": "banana"},
        {"ramp_s": "x"},
        {"ramp_s": -1},
        {"on_nonfinite": "ignore"},
    ],
)
def test_wrong_settings_of_a_stream(wrong):
    with pytest.raises(ParameterError):
        gain(1.0).stream(**wrong)


def test_controls_are_set_one_by_one():
    stream = Knobs(gain([[1.0, 0.1]]), {"g": 0.5}).stream()
    with pytest.raises(AttributeError):
        stream.controls = {"g": 0.9}


@pytest.mark.parametrize("twin", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
def test_a_state_goes_through_pickle_and_goes_on(twin):
    """Kernels change a view of the vector: a copy has to have a view of its own."""
    filt, u = LSTM(1, 5) >> Dense(5, 1), np.random.default_rng(0).standard_normal(100)
    whole = filt(u)
    stream = filt.stream(dtype=np.float64)
    first = stream.process(u[:40])
    state, other = twin(stream.state), twin(stream)
    assert np.array_equal(np.concatenate([first, other.process(u[40:])]), whole)
    stream.state = state
    assert np.array_equal(np.concatenate([first, stream.process(u[40:])]), whole)
    inner = state.children[0]
    inner.rows[0, 0] = 9
    assert inner.h[0] == 9

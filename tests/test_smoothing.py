"""Smoothed.

Oracles: scipy's lfilter for the glide and the inner filter on the smoothed controls, closed forms of a one-pole.
"""

from itertools import pairwise

import numpy as np
import pytest
import scipy.signal

import rnndsp
from rnndsp import Control, Filter, Knobs, Smoothed, delay
from rnndsp.errors import ParameterError
from rnndsp.filters import Dense, StateVariable
from rnndsp.statespace import DelayStateSpace, StateSpace

RATE = 48000.0
TIME_S = 0.002
KEEP = np.exp(-1 / (RATE * TIME_S))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def variable(**settings):
    return StateVariable("lowpass", cutoff_hz=1000, sample_rate=RATE, **settings)


def steps(n_frames):
    """What comes from a sequencer: a new cutoff every 100 frames, a new q every 70."""
    rng = np.random.default_rng(0)
    cutoff, q = rng.uniform(100, 20000, n_frames), rng.uniform(0.5, 20, n_frames)
    frames = np.arange(n_frames)
    return {"cutoff_hz": cutoff[frames // 100], "q": q[frames // 70]}


def glided(course, rest):
    return scipy.signal.lfilter([1 - KEEP], [1, -KEEP], course, zi=[KEEP * rest])[0]


def test_equals_the_filter_on_smoothed_controls():
    filt, u, controls = Smoothed(variable(), TIME_S), noise(1000), steps(1000)
    y, end = filt.run(u, controls=controls)
    course = {"cutoff_hz": glided(controls["cutoff_hz"], 1000.0), "q": glided(controls["q"], 0.7071)}
    np.testing.assert_allclose(y, variable()(u, controls=course), atol=1e-11)
    np.testing.assert_allclose(end.s, [course["cutoff_hz"][-1], course["q"][-1]], rtol=1e-12)
    np.testing.assert_array_equal(filt(u), variable()(u))  # at its defaults it rests
    np.testing.assert_array_equal(Smoothed(variable(), 0)(u, controls=controls), variable()(u, controls=controls))


def test_a_step_goes_63_percent_of_its_way_in_the_time_constant():
    filt, n = Smoothed(variable(), TIME_S), round(RATE * TIME_S)
    state = filt.rest_state()
    for _ in range(n):
        _, state = filt.run(np.zeros(1), state, controls={"cutoff_hz": 5000.0})
    assert state.s[0] == pytest.approx(5000 - 4000 / np.e, rel=1e-12)
    # and stays within the range of the control, to the end
    y, state = filt.run(noise(48000), controls={"cutoff_hz": 0.49 * RATE, "q": 100.0})
    assert np.all(state.s <= [0.49 * RATE, 100]) and state.s[0] == pytest.approx(0.49 * RATE, rel=1e-12)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_change_no_bit(dtype):
    filt, u, controls = Smoothed(variable(), TIME_S), noise(2, 400, 1).astype(dtype), steps(400)
    whole, end = filt.run(u, controls=controls)
    state, pieces = filt.rest_state((2,), dtype), []
    for start, stop in pairwise([0, 1, 99, 100, 101, 300, 400]):
        part = {name: c[start:stop] for name, c in controls.items()}
        y, state = filt.run(u[:, start:stop], state, controls=part)
        pieces.append(y)
    assert state == end and state.s.dtype == np.float64 and whole.dtype == dtype
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(filt.tape(u, controls=controls).y, whole)


def test_a_stream_without_ramps_hears_the_same_glide():
    filt, u = Smoothed(variable(), TIME_S), noise(600)
    stream = filt.stream(dtype=np.float64, ramp_s=0)
    first = stream.process(u[:200])
    stream.controls["cutoff_hz"] = 9000
    y = np.concatenate([first, stream.process(u[200:])])
    cutoff = np.where(np.arange(600) < 200, 1000.0, 9000.0)
    np.testing.assert_array_equal(y, filt(u, controls={"cutoff_hz": cutoff}))


def test_a_step_clicks_no_more():
    tone = np.sin(2 * np.pi * 100 * np.arange(9600) / RATE)
    cutoff = np.where(np.arange(9600) < 4800, 200.0, 8000.0)
    hard, soft = (
        np.max(np.abs(np.diff(filt(tone, controls={"cutoff_hz": cutoff})[4000:], 2)))
        for filt in (variable(), Smoothed(variable(), 0.01))
    )
    # the tone's own second difference is 1.7e-4
    assert hard > 0.05 and soft < 2e-3


class Doubler(Filter):
    """u times a control without a range, which shows what the filter gets."""

    n_inputs = n_outputs = 1

    def _setup(self):
        self._no_children()
        self.controls = (Control("level", 1.0, 0.0, 2.0),)

    def _advance(self, u, state, y):
        y[..., 0] = u[..., 0] * u[..., 1]

    def _record(self, u, state):
        y = np.empty((*u.shape[:2], 1), u.dtype)
        self._advance(u, state, y)
        return y, u

    def _adjoint(self, memory, dy, dx):
        return dy * memory[..., ::-1], dx, {}

    def _linearize(self, state, u):
        return StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[u[1]]])


def test_states_from_elsewhere_are_kept_within_the_range():
    filt = Smoothed(Doubler({}, {}), TIME_S, sample_rate=RATE)
    start = filt.rest_state().unravel(np.array([1e6]))
    tape = filt.tape(np.ones(5), start, controls={"level": 0.5})
    np.testing.assert_array_equal(tape.y, 2.0)
    gradient = tape.adjoint(np.ones(5))
    assert not gradient.state.any() and not gradient.controls["level"].any()
    # within it they count
    tape = filt.tape(np.ones(5), controls={"level": 0.5})
    np.testing.assert_allclose(tape.y, 0.5 + 0.5 * KEEP ** np.arange(1, 6), rtol=1e-14)
    gradient = tape.adjoint(np.ones(5))
    assert gradient.state[0] == pytest.approx(np.sum(KEEP ** np.arange(1, 6)), rel=1e-14)
    np.testing.assert_allclose(gradient.controls["level"], 1 - KEEP ** np.arange(5, 0, -1), rtol=1e-10)


def test_long_delays_stay_delays():
    filt = Smoothed(variable() >> delay(5000), TIME_S)
    linear = filt.linearize(controls={"cutoff_hz": 3000.0})
    assert type(linear) is DelayStateSpace and linear.delays.tolist() == [1, 1, 1, 1, 5000]
    assert filt.linearize().sample_rate == RATE and filt.n_states == 5004
    # poles: those of the glide, and those of the filter where its controls have got to
    at = Smoothed(variable(), TIME_S)
    expected = np.sort_complex([KEEP, KEEP, *variable().poles()])
    np.testing.assert_allclose(np.sort_complex(at.poles()), expected, atol=1e-12)


def test_what_it_says_of_itself(tmp_path):
    filt = Smoothed(variable() >> rnndsp.Latency(3), TIME_S)
    assert filt.latency == 3 and filt.sample_rate == RATE and not filt.is_linear
    assert [c.name for c in filt.controls] == ["cutoff_hz", "q"] and filt._contraction()
    filt.save(tmp_path / "soft.safetensors")
    assert rnndsp.load(tmp_path / "soft.safetensors") == filt
    assert filt.replace(time_s=1.0).keep == np.exp(-1 / RATE)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Smoothed(delay(3), TIME_S, sample_rate=RATE), "controls to smooth"),
        (lambda: Smoothed(3.0, TIME_S), "not a filter"),
        (lambda: Smoothed(variable(), -1.0), "time_s=-1"),
        (lambda: Smoothed(variable(), np.nan), "time_s=nan"),
        (lambda: Smoothed(variable(), "slow"), "time_s='slow'"),
        (lambda: Smoothed(variable(), TIME_S, sample_rate=44100), "sample rates differ"),
        (lambda: Smoothed(Knobs(Dense(2, 1), {"drive": 0.5}), TIME_S), "sample_rate=None"),
        (lambda: Smoothed(variable(), TIME_S)(np.zeros(3), controls={"q": 1e9}), "q="),
    ],
)
def test_refuses(make, names):
    with pytest.raises(ParameterError, match=names):
        make()

"""StateVariable.

Oracles: scipy's prewarped bilinear transform of the analogue prototypes, closed-form gains at the cutoff, the energy
balance that proves stability under modulation, central differences for the adjoint, controls included.
"""

from itertools import pairwise

import numpy as np
import pytest
import scipy.signal

from rnndsp.errors import ParameterError
from rnndsp.filters.state_variable import StateVariable

RATE = 48000.0
NUMERATORS = {"lowpass": [1], "bandpass": [1, 0], "highpass": [1, 0, 0], "notch": [1, 0, 1]}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(params=NUMERATORS)
def kind(request):
    return request.param


def prewarped(kind, cutoff_hz, q):
    """The biquad of the analogue prototype, its frequency axis scaled so that the cutoff falls where it should."""
    analogue = NUMERATORS[kind], [1, 1 / q, 1]
    return scipy.signal.bilinear(*analogue, fs=0.5 / np.tan(np.pi * cutoff_hz / RATE))


@pytest.mark.parametrize(("cutoff_hz", "q"), [(50.0, 0.5), (1000.0, 0.7071), (9000.0, 20.0), (23000.0, 2.0)])
def test_equals_the_bilinear_biquad(kind, cutoff_hz, q):
    filt, u = StateVariable(kind, cutoff_hz=cutoff_hz, q=q, sample_rate=RATE), noise(4000)
    expected = scipy.signal.lfilter(*prewarped(kind, cutoff_hz, q), u)
    np.testing.assert_allclose(filt(u), expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))


def test_gain_at_the_cutoff(kind):
    q, w = np.sqrt(0.5), 2 * np.pi * 3000 / RATE
    linear = StateVariable(kind, cutoff_hz=3000, q=q, sample_rate=RATE).linearize()
    gain_db = 20 * np.log10(np.abs(linear.frequency_response(w)).item() + 1e-30)
    if kind == "notch":
        assert gain_db < -250
    else:
        assert gain_db == pytest.approx(10 * np.log10(0.5), abs=1e-9)


def test_linearised_at_the_given_controls(kind):
    filt, controls = StateVariable(kind, sample_rate=RATE), {"cutoff_hz": 5000.0, "q": 3.0}
    u, start = noise(300), noise(2, seed=1)
    y, end = filt.run(u, filt.rest_state().unravel(start), controls=controls)
    linear = filt.linearize(filt.rest_state().unravel(noise(2, seed=2)), controls=controls)
    expected, state = linear.run(u, linear.rest_state().unravel(start))
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(end.s, state.lines, atol=1e-12)
    assert linear.sample_rate == RATE and (linear.n_inputs, linear.n_outputs, linear.n_states) == (1, 1, 2)


EQUALISERS = {
    # numerator and denominator of R. Bristow-Johnson's analogue prototypes, A = 10^(gain_db / 40)
    "peaking": lambda A, q: ([1, A / q, 1], [1, 1 / (A * q), 1]),
    "low_shelf": lambda A, q: ([A, A**1.5 / q, A * A], [A, A**0.5 / q, 1]),
    "high_shelf": lambda A, q: ([A * A, A**1.5 / q, A], [1, A**0.5 / q, A]),
    "allpass": lambda A, q: ([1, -1 / q, 1], [1, 1 / q, 1]),
}


@pytest.mark.parametrize("equaliser", EQUALISERS)
@pytest.mark.parametrize(
    ("cutoff_hz", "q", "gain_db"), [(80.0, 0.5, 6.0), (1000.0, 0.7071, -12.0), (9000.0, 8.0, 20.0)]
)
def test_equalisers_equal_their_bilinear_biquads(equaliser, cutoff_hz, q, gain_db):
    given = {} if equaliser == "allpass" else {"gain_db": gain_db}
    filt, u = StateVariable(equaliser, cutoff_hz=cutoff_hz, q=q, sample_rate=RATE, **given), noise(4000)
    analogue = EQUALISERS[equaliser](10 ** (gain_db / 40), q)
    digital = scipy.signal.bilinear(*analogue, fs=0.5 / np.tan(np.pi * cutoff_hz / RATE))
    expected = scipy.signal.lfilter(*digital, u)
    np.testing.assert_allclose(filt(u), expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))
    # at zero, at the cutoff and at half the sample rate
    low, middle, high = np.abs(filt.linearize().frequency_response([0, 2 * np.pi * cutoff_hz / RATE, np.pi])).ravel()
    g, r = 10 ** (gain_db / 20), 10 ** (gain_db / 40)
    corners = {"peaking": (1, g, 1), "low_shelf": (g, r, 1), "high_shelf": (1, r, g), "allpass": (1, 1, 1)}[equaliser]
    if q == 0.7071 or equaliser in ("peaking", "allpass"):
        np.testing.assert_allclose([low, middle, high], corners, rtol=1e-4)
    np.testing.assert_allclose([low, high], [corners[0], corners[2]], rtol=1e-9)


def test_the_gain_is_played_too():
    filt, n_frames = StateVariable("peaking", sample_rate=RATE), 20_000
    assert [c.name for c in filt.controls] == ["cutoff_hz", "q", "gain_db"]
    gain_db = np.random.default_rng(0).uniform(-40, 40, n_frames)
    for equaliser in ("peaking", "low_shelf", "high_shelf"):
        filt = StateVariable(equaliser, sample_rate=RATE)
        y = filt(np.sign(noise(n_frames)), controls={**modulation(n_frames), "gain_db": gain_db})
        # A^2 = 100 at most, and a bell of q 100 hears its own resonance
        assert np.max(np.abs(y)) < 1e5, equaliser
        # 0 dB is no filter at all
        u = noise(300)
        np.testing.assert_allclose(filt(u, controls={"cutoff_hz": 300.0}), u, atol=1e-12)
        assert filt._contraction()


def test_gains_in_files_of_before():
    assert dict(StateVariable("lowpass", sample_rate=RATE).config) == {
        "kind": "lowpass",
        "cutoff_hz": 1000.0,
        "q": 0.7071,
    }
    assert StateVariable("peaking", sample_rate=RATE).config["gain_db"] == 0.0
    changed = StateVariable("lowpass", sample_rate=RATE).replace(kind="high_shelf")
    assert changed.controls[2].default == 0.0
    with pytest.raises(ParameterError, match="gain_db"):
        StateVariable("lowpass", gain_db=3, sample_rate=RATE)
    with pytest.raises(ParameterError, match="gain_db"):
        StateVariable("peaking", gain_db=60, sample_rate=RATE)


def modulation(n_frames, seed=0):
    """Controls that jump over their whole ranges at every sample."""
    rng = np.random.default_rng(seed)
    return {
        "cutoff_hz": np.exp(rng.uniform(0, np.log(0.49 * RATE), n_frames)),
        "q": np.exp(rng.uniform(np.log(0.1), np.log(100), n_frames)),
    }


def test_silence_loses_energy_as_the_proof_says():
    filt, controls = StateVariable("bandpass", sample_rate=RATE), modulation(200)
    state, silence = filt.rest_state((20,)).unravel(noise(20, 2)), np.zeros((20, 1, 1))
    for t in range(200):
        now = {name: values[t] for name, values in controls.items()}
        before = np.sum(state.s**2, axis=-1)
        v1, state = filt.run(silence, state, controls=now)
        loss = 4 * np.tan(np.pi * now["cutoff_hz"] / RATE) / now["q"] * v1[:, 0, 0] ** 2
        np.testing.assert_allclose(np.sum(state.s**2, axis=-1), before - loss, atol=1e-12)


@pytest.mark.parametrize("period", [2, 3, 7, 50])
def test_bounded_under_audio_rate_modulation(kind, period):
    # a biquad of the same transfer functions in direct form reaches 1e145 within 3000 samples of the second course
    n_frames, filt = 50_000, StateVariable(kind, q=2.0, sample_rate=RATE)
    u = np.sign(noise(n_frames))
    vibrato = {"cutoff_hz": 2000 * 10 ** np.sin(2 * np.pi * np.arange(n_frames) / period)}
    assert np.max(np.abs(filt(u, controls=vibrato))) < 10
    assert np.max(np.abs(filt(u, controls=modulation(n_frames, period)))) < 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_and_tape_change_no_bit(kind, dtype):
    filt, u, controls = StateVariable(kind, sample_rate=RATE), noise(2, 200, 1).astype(dtype), modulation(200)
    controls["cutoff_hz"][50:120] = 700.0  # at rest for a while, over the edges of blocks
    whole, end = filt.run(u, controls=controls)
    state, pieces = filt.rest_state((2,), dtype), []
    for start, stop in pairwise([0, 1, 60, 61, 100, 200]):
        part = {name: c[start:stop] for name, c in controls.items()}
        y, state = filt.run(u[:, start:stop], state, controls=part)
        pieces.append(y)
    y = np.concatenate(pieces, axis=1)
    assert y.dtype == dtype and state == end and state.s.dtype == np.float64
    np.testing.assert_array_equal(y, whole)
    np.testing.assert_array_equal(filt.tape(u, controls=controls).y, whole)


def test_stream_ramps_without_a_click():
    stream = StateVariable(cutoff_hz=200, sample_rate=RATE).stream(dtype=np.float64)
    tone = np.sin(2 * np.pi * 100 * np.arange(9600) / RATE)
    before = stream.process(tone[:4800])
    stream.controls["cutoff_hz"] = 8000
    y = np.concatenate([before, stream.process(tone[4800:])])
    # as smooth as the tone itself, about (2 pi 100 / 48000)^2 = 1.7e-4 between second differences
    assert np.max(np.abs(np.diff(y[1000:], 2))) < 1e-3
    np.testing.assert_allclose(y[-480:], tone[-480:], atol=0.03)


@pytest.mark.parametrize("kind", [*NUMERATORS, *EQUALISERS])
def test_adjoint_equals_differences_controls_included(kind):
    filt, start = StateVariable(kind, sample_rate=RATE), noise(2, 2, seed=1)
    target, final = noise(2, 12, 1, seed=2), noise(2, 2, seed=3)
    controls = 3000 + 800 * noise(2, 12, seed=4), 1 + noise(2, 12, seed=5) ** 2, 6 * noise(2, 12, seed=6)
    full = np.stack([noise(2, 12), *controls], axis=-1)[..., : 1 + len(filt.controls)].copy()

    def run(u, x):
        state, y = filt.rest_state((2,)).unravel(x), np.empty((2, 12, 1))
        filt._advance(u, state, y)
        return y, state

    def loss(u, x):
        y, end = run(u, x)
        return np.sum((y - target) ** 2) / 2 + np.sum(final * end.s)

    y, memory = filt._record(full, filt.rest_state((2,)).unravel(start))
    np.testing.assert_array_equal(y, run(full, start)[0])
    du, dx, params = filt._adjoint(memory, y - target, final)
    assert params == {}
    scale = np.array([1, 1e3, 1, 1])[: full.shape[-1]]  # of a cutoff in kHz
    np.testing.assert_allclose(du * scale, differences(lambda v: loss(v, start), full, scale) * scale, atol=2e-7)
    np.testing.assert_allclose(dx, differences(lambda v: loss(full, v), start, np.ones(2)), atol=2e-7)


def differences(function, value, scale, step=1e-6):
    gradient = np.empty(value.shape)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += step * scale[place[-1]]
        down[place] -= step * scale[place[-1]]
        gradient[place] = (function(up) - function(down)) / (up[place] - down[place])
    return gradient


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: StateVariable("comb", sample_rate=RATE), "kind"),
        (lambda: StateVariable(sample_rate=None), "sample_rate"),
        (lambda: StateVariable(cutoff_hz=0.5 * RATE, sample_rate=RATE), "cutoff_hz"),
        (lambda: StateVariable(q=0, sample_rate=RATE), "q="),
        (lambda: StateVariable(q=[1, 2], sample_rate=RATE), "one number"),
        (lambda: StateVariable(sample_rate=RATE)(np.zeros(3), controls={"cutoff_hz": [1e3, 1e3, 1e5]}), "cutoff_hz"),
        (lambda: StateVariable(sample_rate=RATE).linearize(controls={"q": 0.05}), "q="),
        (lambda: StateVariable(sample_rate=RATE).replace(sample_rate=1500), "cutoff_hz"),
    ],
)
def test_out_of_range_is_named(make, names):
    with pytest.raises(ParameterError, match=names):
        make()

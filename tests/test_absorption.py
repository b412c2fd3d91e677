"""Absorption filters, the networks they stand in, and sparse taps.

Oracles: the closed form for one decay time, slow loops over the equations, the Fourier transform of impulse responses,
numpy.convolve, the balance of energy, and the decay time read off the impulse response by Schroeder's integration.
"""

import re

import numpy as np
import pytest
from scipy import signal

from rnndsp import DelayStateSpace, impulse_response
from rnndsp.errors import ParameterError
from rnndsp.filters import DampedNetwork, FeedbackDelayNetwork, Taps, absorption_filters, orthogonal_matrix
from rnndsp.filters.absorption import _turned, peak, response
from rnndsp.stability import Boundedness
from rnndsp.stability._decay import decay_certificate

RATE = 48000
BANDS = 62.5 * 2.0 ** np.arange(9)
LINES = [1201, 1399, 1523, 1669, 1801, 1931, 2069, 2203, 2333, 2473, 2617, 2749, 2903, 3061, 3203, 3343]
CURVES = {
    "even": np.full(9, 1.7),
    "dark": 2 / (1 + BANDS / 5000),
    "hall": np.array([3.2, 3.0, 2.6, 2.3, 2.1, 1.9, 1.5, 1.1, 0.7]),
    "middle": np.array([1.8, 2.0, 2.1, 2.1, 2.0, 1.8, 1.4, 1.0, 0.7]),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def small(**settings):
    """A network that the slow loop can follow; of the lane counts and sizes that the conformance suite compiles."""
    given = {"t60_s": [0.03, 0.01], "bands_hz": [1000, 9000], "sample_rate": RATE, "n_channels": 2, "dry": 0.5}
    return DampedNetwork([7, 11, 13, 17, 19], **given | settings)


def responses(filt, n):
    """All impulse responses, shape (n, n_outputs, n_inputs)."""
    return np.stack([impulse_response(filt, n, channel=i) for i in range(filt.n_inputs)], axis=2)


# ---- the filters


def test_one_time_is_a_gain():
    F = absorption_filters([100, 4800], 0.5, sample_rate=RATE)
    assert F.shape == (1, 2, 2, 2)
    # 4800 samples are a tenth of a second: a fifth of 60 dB
    np.testing.assert_allclose(F[0, :, 1, 1], 10 ** (-3 * np.array([100, 4800]) / (0.5 * RATE)), rtol=1e-14)
    assert not F[:, :, 0].any() and not F[:, :, :, 0].any()


@pytest.mark.parametrize("name", CURVES)
def test_filters_meet_the_decay_times(name):
    F = absorption_filters(LINES, CURVES[name], sample_rate=RATE, bands_hz=BANDS)
    assert F.shape == (8, 16, 2, 2)
    w = 2 * np.pi * BANDS / RATE
    lost_db = -20 * np.log10(np.abs(response(F, w)))
    times = 60 * np.array(LINES) / (RATE * lost_db)
    np.testing.assert_allclose(times, np.broadcast_to(CURVES[name][:, None], times.shape), rtol=0.02)
    # only cuts: without the gain of a line every section has norm one, and the lossy loop is below one in the 2-norm
    norms = np.linalg.norm(F[1:], 2, axis=(2, 3))
    np.testing.assert_allclose(norms, 1, atol=1e-9)
    # the bound holds between the frequencies, and is near
    dense = np.abs(response(F, np.linspace(0, np.pi, 20001))).max()
    assert dense <= peak(F) < 1 and peak(F) - dense < 1e-3


def test_filters_are_scipys():
    F = absorption_filters(LINES[:2], CURVES["hall"], sample_rate=RATE, bands_hz=BANDS)
    u = noise(500)
    for i in range(2):
        y = u
        for p, q, r, s in F[:, i].reshape(-1, 4):
            y = signal.lfilter([s, q * r - p * s], [1, -p], y)
        w = np.linspace(0, np.pi, 501)[:250]
        H = np.fft.rfft(y, 1000)[:250] / np.fft.rfft(u, 1000)[:250]
        # the response is cut off where it has nearly faded
        np.testing.assert_allclose(np.abs(H).mean(), np.abs(response(F, w)[:, i]).mean(), rtol=0.02)


def test_corners_of_ones_own():
    F = absorption_filters(LINES, CURVES["dark"], sample_rate=RATE, bands_hz=BANDS, corners_hz=[400, 3000, 6000, 13000])
    assert F.shape == (4, 16, 2, 2)
    lost_db = -20 * np.log10(np.abs(response(F, 2 * np.pi * BANDS / RATE)))
    times = np.mean(60 * np.array(LINES) / (RATE * lost_db), axis=1)
    np.testing.assert_allclose(times, CURVES["dark"], rtol=0.01)


def test_bad_times():
    def design(t60_s, bands_hz=None, delays=(100, 200), **more):
        return absorption_filters(list(delays), t60_s, sample_rate=RATE, bands_hz=bands_hz, **more)

    for t60_s in (0, -1, np.nan, np.inf):
        with pytest.raises(ParameterError, match="must be positive and finite"):
            design(t60_s)
    for t60_s in (1e12, 1e-6):
        with pytest.raises(ParameterError, match="beyond double precision"):
            design(t60_s)
    for bands in ([100, 50], [0, 100], [100, 24000], [np.nan, 100], [], [[100, 200]]):
        with pytest.raises(ParameterError, match=r"bands_hz=.* must rise"):
            design([1, 2], bands)
    with pytest.raises(ParameterError, match=r"t60_s of shape \(3,\) needs bands_hz"):
        design([1, 2, 3], [100, 200])
    with pytest.raises(ParameterError, match=r"bands_hz=None must rise"):
        design([1, 2, 3])
    with pytest.raises(ParameterError, match="corners_hz"):
        design([1, 2], [100, 200], corners_hz=[0])
    with pytest.raises(ParameterError, match=r"is missed by .* %: too short, or too uneven"):
        design([3, 0.02, 3], [500, 1000, 2000], delays=[1000])


# ---- the network


def test_one_time_is_a_feedback_delay_network():
    plain = FeedbackDelayNetwork([7, 11, 13, 17, 19], t60_s=0.02, sample_rate=RATE, n_channels=2, dry=0.3, seed=4)
    ours = DampedNetwork([7, 11, 13, 17, 19], t60_s=0.02, sample_rate=RATE, n_channels=2, dry=0.3, seed=4)
    np.testing.assert_allclose(responses(ours, 500), responses(plain, 500), atol=1e-14)


def by_loop(filt, u):
    """The equations of a network from rest, frame by frame."""
    A, B, C, D, F = (filt.params[name] for name in "ABCDF")
    n, half = len(A), len(A) // 2
    v, z, y = np.zeros((len(u), n)), np.zeros((len(F), n)), np.empty((len(u), len(C)))
    turns = filt.config["modulation"] > 0
    for t in range(len(u)):
        back = t - filt.delays
        h = np.where(back < 0, 0, v[back, np.arange(n)])
        for s, ((p, q), (r, through)) in enumerate(np.moveaxis(F, 1, -1)):
            z[s], h = p * z[s] + q * h, r * z[s] + through * h
        if turns:
            angle = np.array([_turned(t, i, filt._wheel) for i in range(half)])
            a, b = h[:half].copy(), h[half : 2 * half].copy()
            h[:half], h[half : 2 * half] = np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b
        v[t], y[t] = A @ h + B @ u[t], C @ h + D @ u[t]
    return y


@pytest.mark.parametrize("modulation", [0.0, 1.5])
def test_networks_equal_their_equations(modulation):
    filt = small(modulation=modulation, modulation_hz=90.0)
    u = noise(700, 2)
    np.testing.assert_allclose(filt(u), by_loop(filt, u), atol=1e-12)
    # the course of the modulation is that of the absolute sample, across its grid too
    whole, end = filt.run(u)
    state, parts = None, []
    for piece in np.split(u, [1, 5, 255, 256, 257, 300, 511, 600]):
        y, state = filt.run(piece, state)
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert state == end
    tape = filt.tape(u)
    np.testing.assert_array_equal(tape.y, whole)
    assert tape.state == end


def test_angles_are_as_documented():
    filt = small(modulation=0.7, modulation_hz=3.0)
    for pair, hz in enumerate([3 * 0.75, 3 * (0.75 + 0.5 / 2)]):
        for t in (0, 256, 512_000):
            expected = 0.7 * np.sin(2 * np.pi * (hz * t / RATE + pair / 2))
            assert _turned(t, pair, filt._wheel) == pytest.approx(expected, abs=1e-9)
    # in between a straight line
    ends = [_turned(t, 0, filt._wheel) for t in (256, 512)]
    assert _turned(320, 0, filt._wheel) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], abs=1e-12)


def test_turning_is_lossless():
    """Sections that pass everything, an orthogonal matrix: the energy of the lines is kept for a million samples."""
    filt = small(modulation=2.0, modulation_hz=5.0)
    through = np.zeros_like(filt.params["F"])
    through[..., 1, 1] = 1
    lossless = filt.replace(F=through)
    _, state = lossless.run(noise(300, 2))
    before = np.sum(state.lines**2)
    _, state = lossless.run(np.zeros((1_000_000, 2)), state)
    assert np.sum(state.lines**2) == pytest.approx(before, rel=1e-9)
    assert lossless._contraction() is None and lossless._boundedness() == Boundedness.UNKNOWN


def test_the_linear_network_is_its_response():
    filt = small()
    h = responses(filt, 8192)
    w = 2 * np.pi * np.arange(0, 4096, 64) / 8192
    H = filt.linearize().frequency_response(w)
    np.testing.assert_allclose(np.fft.fft(h, axis=0)[0:4096:64], H, atol=1e-9)
    assert filt.is_linear and filt._boundedness() == Boundedness.BOUNDED
    assert "small gain" in filt._contraction()


def test_stability_is_proved_modulated_or_not():
    for name, curve in CURVES.items():
        filt = DampedNetwork(LINES, t60_s=curve, bands_hz=BANDS, sample_rate=RATE, n_channels=2, matrix="hadamard")
        linear = filt.linearize()
        assert "2-norm" in decay_certificate(linear.A, linear.delays), name
        turned = filt.replace(modulation=1.0)
        assert not turned.is_linear
        assert turned._contraction() == filt._contraction()
    # what is not lossy is not said to be
    grown = turned.replace(F=1.2 * turned.params["F"])
    assert grown._contraction() is None and not grown._boundedness()
    outside = turned.replace(F=turned.params["F"] + [[0.5, 0], [0, 0]])
    assert outside._contraction() is None


def octave_times(h, rate, centres):
    """Schroeder integration in the third octave at each centre, of all responses (n_frames, ...) together."""
    found = []
    flat = h.reshape(len(h), -1)[::-1]
    for centre in centres:
        edges = [centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)]
        sos = signal.butter(3, edges, "bandpass", fs=rate, output="sos")
        # backwards, so that the ringing of the band comes before the sound
        to_come = np.cumsum(np.sum(signal.sosfilt(sos, flat, axis=0) ** 2, axis=1))[::-1]
        db = 10 * np.log10(to_come / to_come[0])
        span = np.flatnonzero((db < -5) & (db > -35))
        found.append(-60 / np.polyfit(span / rate, db[span], 1)[0])
    return np.array(found)


@pytest.mark.parametrize("name", CURVES)
def test_octaves_decay_in_the_designed_times(name):
    filt = DampedNetwork(
        LINES, t60_s=CURVES[name], bands_hz=BANDS, sample_rate=RATE, n_channels=2, matrix="random", seed=2
    )
    h = responses(filt, int(0.8 * RATE * CURVES[name].max()))
    np.testing.assert_allclose(octave_times(h, RATE, BANDS), CURVES[name], rtol=0.05)


def test_every_mode_fades_as_its_frequency_should():
    filt = DampedNetwork(
        [151, 173, 197, 229, 263], t60_s=[0.3, 0.2, 0.1], bands_hz=[500, 2000, 8000], sample_rate=RATE, seed=1
    )
    p = filt.poles()
    modes = p[np.abs(p) > 0.97]
    assert len(modes) > 950  # of 1013, and 10 of the filters
    lost_db = -20 * np.log10(np.abs(filt.absorption_response(np.angle(modes))))
    wanted = np.mean(60 * filt.delays / (RATE * lost_db), axis=1)
    np.testing.assert_allclose(-3 / (RATE * np.log10(np.abs(modes))), wanted, rtol=0.03)


def test_a_turning_network_decays_in_the_designed_time():
    filt = DampedNetwork(LINES, t60_s=0.8, sample_rate=RATE, n_channels=2, modulation=1.0, modulation_hz=2.0)
    np.testing.assert_allclose(octave_times(responses(filt, 30000), RATE, [500, 2000, 8000]), 0.8, rtol=0.05)


def test_bad_networks():
    for says, settings in (
        (r"modulation=4.0 must lie", {"modulation": 4.0}),
        (r"modulation=-1.0 must lie", {"modulation": -1.0}),
        (r"modulation_hz=-1.0 not below 0", {"modulation_hz": -1.0}),
        ("must be a number", {"modulation": np.nan}),
        ("not orthogonal", {"matrix": np.ones((5, 5))}),
        (r"matrix of shape \(4, 4\)", {"matrix": np.eye(4)}),
        ("kind='dense'", {"matrix": "dense"}),
    ):
        with pytest.raises(ParameterError, match=says):
            small(**settings)
    for delays in ([0, 5], [-3, 5], [2.5, 5], [[3, 5]]):
        with pytest.raises(ParameterError):
            DampedNetwork(delays, t60_s=1, sample_rate=RATE)


# ---- taps


def test_taps_are_a_convolution():
    rng = np.random.default_rng(0)
    delays = rng.integers(0, 900, 12)
    gains = rng.standard_normal((12, 3, 2)) * (rng.random((12, 3, 2)) > 0.5)
    filt, u = Taps(delays, gains), noise(3000, 2)
    expected = np.zeros((3000, 3))
    for o in range(3):
        for i in range(2):
            h = np.zeros(900)
            np.add.at(h, delays, gains[:, o, i])
            expected[:, o] += np.convolve(h, u[:, i])[:3000]
    np.testing.assert_allclose(filt(u), expected, atol=1e-12)
    np.testing.assert_allclose(filt.linearize()(u), expected, atol=1e-12)
    assert filt._boundedness() == Boundedness.BOUNDED


def test_the_knob_is_another_decay_time():
    filt = DampedNetwork([7, 11, 13], t60_s=0.03, sample_rate=RATE, control_s=0.03, matrix="random")
    assert filt.controls[0].high == pytest.approx(4 * 0.03)
    for t60_s in (0.01, 0.03, 0.1):
        A = filt.linearize(controls={"t60_s": t60_s}).A[:3, :3]
        gains = 10 ** (-3 * filt.delays / (RATE * t60_s))
        np.testing.assert_allclose(A, filt.params["A"] * gains, rtol=1e-13)
    u = noise(400, 2)
    bare, knob = small(dry=0), small(dry=0, control_s=0.01)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(knob(u.astype(dtype)), bare(u.astype(dtype)))  # where it stands as designed
    with pytest.raises(ParameterError, match="control_s=-1 must be positive"):
        small(control_s=-1)
    with pytest.raises(ParameterError, match="control t60_s=1 must lie within"):
        knob(u, controls={"t60_s": 1})


def test_bad_taps():
    for delays, gains in (
        ([1], [[1.0]]),
        ([0.5], [[[1.0]]]),
        ([1, 2], [[[1.0]]]),
        ([], np.zeros((0, 1, 1))),
        (3, [[[1.0]]]),
    ):
        with pytest.raises(
            ParameterError, match=r"row of whole numbers|must be of shape \([12], n_outputs, n_inputs\)"
        ):
            Taps(delays, gains)
    with pytest.raises(ParameterError, match=re.escape("delays=[-1] must be a row of whole numbers, each at least 0")):
        Taps([-1], [[[1.0]]])


def test_lines_alone_keep_their_energy():
    """A network of every matrix of the gallery, lossless, for a million samples."""
    kinds = ["anderson", "circulant", "hadamard", "householder", "nested_allpass", "random", "tiny_rotation"]
    for kind in kinds:
        U = orthogonal_matrix(4, kind, seed=1)
        filt = DelayStateSpace(U, np.eye(4)[:, :1], np.eye(1, 4), np.zeros((1, 1)), [7, 11, 13, 17])
        _, state = filt.run(np.eye(1, 100)[0])
        _, later = filt.run(np.zeros(1_000_000), state)
        assert np.sum(state.lines**2) == pytest.approx(1, rel=1e-12)
        assert np.sum(later.lines**2) == pytest.approx(1, rel=1e-9), kind

"""The reverb and its presets.

Oracles: the decay time read off the impulse response by Schroeder integration, the echo density of Gaussian noise, the
balance of energy, and that a mix of nothing is nothing.
"""

import dataclasses

import numpy as np
import pytest
from scipy import signal, special

import rnndsp
from rnndsp.errors import ParameterError
from rnndsp.filters import Reverb, ReverbSettings
from rnndsp.filters.reverb import PRESETS, decay_times
from rnndsp.stability import Boundedness
from rnndsp.stability._decay import decay_certificate

RATE = 48000
OCTAVES = 62.5 * 2.0 ** np.arange(9)


def responses(filt, n):
    """All impulse responses, shape (n, n_outputs, n_inputs)."""
    return np.stack([rnndsp.impulse_response(filt, n, channel=i) for i in range(filt.n_inputs)], axis=2)


def octave_times(h, rate, centres, width=1 / 3):
    """Schroeder integration over ``width`` octaves at each centre, of all responses (n_frames, ...) together."""
    found = []
    flat = h.reshape(len(h), -1)[::-1]
    for centre in centres:
        edges = [centre * 2 ** (-width / 2), min(centre * 2 ** (width / 2), 0.499 * rate)]
        sos = signal.butter(3, edges, "bandpass", fs=rate, output="sos")
        # backwards, so that the ringing of the band comes before the sound
        to_come = np.cumsum(np.sum(signal.sosfilt(sos, flat, axis=0) ** 2, axis=1))[::-1]
        db = 10 * np.log10(to_come / to_come[0])
        span = np.flatnonzero((db < -5) & (db > -35))
        found.append(-60 / np.polyfit(span / rate, db[span], 1)[0])
    return np.array(found)


def echo_density(h, at, half=960):
    """Abel and Huang (2006): the share of samples beyond one standard deviation, over that of Gaussian noise."""
    window = np.hanning(2 * half + 1)
    window /= window.sum()
    part = h[at - half : at + half + 1]
    return window @ (np.abs(part) > np.sqrt(window @ part**2)) / special.erfc(np.sqrt(0.5))


@pytest.fixture(scope="module", params=PRESETS)
def preset(request):
    """A preset, all wet, its settings and its impulse responses."""
    settings = PRESETS[request.param]
    filt = Reverb(request.param, mix=1.0, sample_rate=RATE)
    h = responses(filt, int(0.9 * settings.t60_s * settings.warmth * RATE) + RATE // 4)
    return request.param, settings, filt, h


def test_octaves_decay_in_the_designed_times(preset):
    name, settings, filt, h = preset
    np.testing.assert_allclose(filt.t60_at(OCTAVES), decay_times(settings, OCTAVES), rtol=0.03)
    designed = decay_times(settings, OCTAVES)
    np.testing.assert_allclose(octave_times(h, RATE, OCTAVES), designed, rtol=0.05, err_msg=name)
    np.testing.assert_allclose(octave_times(h, RATE, OCTAVES, 1), designed, rtol=0.05, err_msg=name)
    mono = responses(Reverb(name, mix=1.0, sample_rate=RATE, n_channels=1), len(h))
    np.testing.assert_allclose(octave_times(mono, RATE, OCTAVES), designed, rtol=0.05, err_msg=name)
    np.testing.assert_allclose(octave_times(mono, RATE, OCTAVES, 1), designed, rtol=0.05, err_msg=name)


def test_settings_say_what_they_mean(preset):
    _, settings, _, _ = preset
    middle, bass, treble = decay_times(settings, np.array([707.0, 125.0, 8000.0]))
    assert middle == pytest.approx(settings.t60_s)
    assert bass == pytest.approx(settings.t60_s * settings.warmth)
    assert treble == pytest.approx(settings.t60_s * settings.brightness)


def test_presets_become_dense_and_stay_so(preset):
    name, settings, _, h = preset
    mixed = round((settings.predelay_s + 0.06 + 0.17 * settings.size) * RATE)
    for at in range(mixed, mixed + RATE // 5, RATE // 50):
        assert 0.8 < echo_density(h[:, 0, 0], at) < 1.2, (name, at)


def test_presets_are_wide_and_as_loud_as_the_dry_sound(preset):
    name, settings, _, h = preset
    energy = np.sum(h**2, axis=0)
    assert energy.sum(axis=1) == pytest.approx(1, abs=0.12), name  # of each output, from both inputs
    late = h[int(0.1 * settings.size * RATE) + RATE // 20 : int(0.6 * settings.t60_s * RATE)]
    for i in range(2):
        assert abs(np.corrcoef(late[:, 0, i], late[:, 1, i])[0, 1]) < (0.06 if settings.width == 1 else 0.25), name
    # no sample of it is loud
    assert np.max(np.abs(h)) < 0.6


def test_presets_are_proved_to_decay(preset):
    name, _, filt, _ = preset
    assert filt.is_linear and filt._boundedness() == Boundedness.BOUNDED
    linear = filt.linearize()
    assert "2-norm" in decay_certificate(linear.A, linear.delays), name
    moving = Reverb(name, modulation=1.0, sample_rate=RATE)
    assert not moving.is_linear and moving._boundedness() == Boundedness.BOUNDED
    assert "small gain" in moving._contraction()


def test_a_dry_reverb_is_nothing():
    u = np.random.default_rng(0).standard_normal((2000, 2))
    np.testing.assert_array_equal(Reverb(mix=0.0, sample_rate=RATE)(u), u)
    half = Reverb(mix=0.5, sample_rate=RATE)(u)
    wet = Reverb(mix=1.0, sample_rate=RATE)(u)
    np.testing.assert_allclose(half, 0.5 * u + 0.5 * wet, atol=1e-13)


def test_width():
    u = np.random.default_rng(0).standard_normal((20000, 2))
    for width in (0.0, 0.5, 1.0):
        y = Reverb(mix=1.0, width=width, sample_rate=RATE)(u)[5000:]
        # two tails that have nothing in common, each a share w of the other's side
        assert np.corrcoef(y.T)[0, 1] == pytest.approx((1 - width**2) / (1 + width**2), abs=0.06)


def test_predelay_and_size():
    h = responses(Reverb("plate", mix=1.0, predelay_s=0.1, sample_rate=RATE), RATE // 2)
    assert not h[: RATE // 10].any() and np.argmax(np.abs(h[:, 0, 0]) > 0) < 0.11 * RATE
    small, large = (Reverb(size=size, sample_rate=RATE).network.delays for size in (0.2, 1.0))
    np.testing.assert_allclose(large / small, 5, rtol=0.06)
    # a room that fades in no time has short lines, whatever its size
    assert Reverb(t60_s=0.1, size=4, sample_rate=RATE).network.delays.max() < 0.02 * RATE


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_rates_and_channels(rate):
    for n_channels in (1, 2):
        filt = Reverb("room", sample_rate=rate, n_channels=n_channels, mix=1.0)
        assert filt.n_inputs == filt.n_outputs == n_channels and filt.sample_rate == rate
        bands = OCTAVES[0.42 * rate > OCTAVES]
        np.testing.assert_allclose(filt.t60_at(bands), decay_times(PRESETS["room"], bands), rtol=0.03)
    h = responses(filt, int(0.5 * rate))
    # a short room, so in the middle of the range only
    np.testing.assert_allclose(octave_times(h[rate // 30 :], rate, [1000, 2000]), filt.t60_at([1000, 2000]), rtol=0.06)


def test_every_setting_in_range_can_be_built():
    rng = np.random.default_rng(1)
    for _ in range(25):
        settings = {
            "t60_s": np.exp(rng.uniform(np.log(0.05), np.log(100))),
            "brightness": rng.choice([0.2, 1.0, rng.uniform(0.2, 1)]),
            "warmth": rng.choice([0.6, 1.7, rng.uniform(0.6, 1.7)]),
            "size": np.exp(rng.uniform(np.log(0.05), np.log(4))),
        }
        filt = Reverb(sample_rate=RATE, **settings)
        wanted = decay_times(dataclasses.replace(PRESETS["hall"], **settings), OCTAVES)
        np.testing.assert_allclose(filt.t60_at(OCTAVES), wanted, rtol=0.03)
        assert filt.network._contraction(), settings


def test_moving_does_not_change_what_is_not_the_tail():
    still, moving = (Reverb(modulation=m, sample_rate=RATE, mix=1.0) for m in (0.0, 0.8))
    hs, hm = responses(still, 40000), responses(moving, 40000)
    first = int((0.02 + 0.023) * RATE)
    np.testing.assert_allclose(hm[:first], hs[:first], atol=1e-12)
    assert np.max(np.abs(hm[first:] - hs[first:])) > 1e-3
    assert np.sum(hm**2) == pytest.approx(np.sum(hs**2), rel=0.1)


# ---- knobs


def test_mix_is_turned_while_it_runs():
    u = np.random.default_rng(0).standard_normal((2000, 2))
    filt, mix = Reverb(sample_rate=RATE), np.linspace(0, 1, 2000)
    wet = filt(u, controls={"mix": 1})
    np.testing.assert_allclose(filt(u, controls={"mix": mix}), (1 - mix[:, None]) * u + mix[:, None] * wet, atol=1e-13)
    np.testing.assert_array_equal(filt(u), filt.replace(mix=1.0)(u, controls={"mix": 0.3}))


@pytest.mark.parametrize("t60_s", [0.3, 0.6, 1.6])
def test_the_tail_fades_in_the_time_it_is_turned_to(t60_s):
    filt = Reverb("chamber", mix=1.0, sample_rate=RATE)
    click = np.eye(1, int(RATE * (0.2 + t60_s)))[0]
    h = filt(np.column_stack([click, -click]), controls={"t60_s": t60_s})
    # all frequencies lose as many dB a second more, or less
    wanted = 1 / (1 / filt.t60_at([707, 4000]) + 1 / t60_s - 1 / 1.2)
    np.testing.assert_allclose(octave_times(h[RATE // 20 :], RATE, [707, 4000], 1), wanted, rtol=0.06)


def test_knobs_stay_stable_wherever_they_are():
    filt = Reverb("cathedral", sample_rate=RATE)
    t60_s = filt.controls[1]
    assert (t60_s.name, t60_s.default) == ("t60_s", 5.5) and t60_s.low < 0.1 < 10 < t60_s.high < 4 * 5.5
    assert "small gain" in filt.network._contraction() and filt._boundedness() == Boundedness.BOUNDED
    for value in (t60_s.low, t60_s.high):
        linear = filt.network.linearize(controls={"t60_s": value})
        assert "2-norm" in decay_certificate(linear.A, linear.delays)
    # thrown to and fro at every sample it loses energy as it does where it fades most slowly, or faster
    rng, n = np.random.default_rng(0), RATE // 2
    _, state = filt.run(rng.standard_normal((n, 2)))
    thrown = filt.run(np.zeros((n, 2)), state, controls={"mix": 1, "t60_s": rng.choice([0.06, t60_s.high], n)})
    slow = filt.run(np.zeros((n, 2)), state, controls={"mix": 1, "t60_s": t60_s.high})
    assert np.linalg.norm(thrown[1].ravel()) < 0.2 * np.linalg.norm(slow[1].ravel())


def test_another_design():
    filt = Reverb("plate", sample_rate=RATE, modulation=0.2)
    assert filt.replace(t60_s=3.0) == Reverb("plate", sample_rate=RATE, modulation=0.2, t60_s=3.0)
    assert filt.replace(n_channels=1, size=0.5).network.n_inputs == 1
    slower = filt.replace(sample_rate=16000, mix=0.1)
    assert slower == Reverb("plate", sample_rate=16000, modulation=0.2, mix=0.1)
    C = np.zeros((2, 16))
    quiet = filt.replace(**{"1.1.C": C})
    assert quiet.replace(mix=0.2).replace() == filt.replace(**{"1.1.C": C, "mix": 0.2}) != filt
    assert filt.replace(**{"1.1.C": C, "size": 0.3}) == filt.replace(size=0.3).replace(**{"1.1.C": C})
    assert eval(repr(filt)) == filt
    assert "t60_s=1.8, brightness=0.75" in repr(filt) and len(repr(filt)) < 200
    with pytest.raises(ParameterError, match=r"unknown name \['wetness'\]"):
        filt.replace(wetness=1)
    with pytest.raises(ParameterError, match="size=9 must lie within"):
        filt.replace(size=9)


def test_channels_have_nothing_in_common():
    filt = Reverb("room", mix=1.0, width=1.0, n_channels=4, sample_rate=RATE)
    click = np.zeros((RATE // 4, 4))
    click[0, 2] = 1
    late = filt(click)[RATE // 20 :]
    assert np.max(np.abs(np.corrcoef(late.T) - np.eye(4))) < 0.15
    energy = np.sum(responses(filt, RATE // 2) ** 2, axis=(0, 2))
    np.testing.assert_allclose(energy, 1, atol=0.15)


def test_saving(tmp_path):
    filt = Reverb("plate", sample_rate=RATE, modulation=0.3)
    filt.save(tmp_path / "plate.safetensors")
    again = rnndsp.load(tmp_path / "plate.safetensors")
    assert type(again) is Reverb and again == filt
    np.testing.assert_array_equal(again.t60_at([1000]), filt.t60_at([1000]))


def test_bad_settings():
    for says, given in (
        ("preset='barn': choose one of", {"preset": "barn"}),
        (r"unknown settings \['wetness'\]", {"wetness": 1}),
        ("t60_s=0 must lie within 0.05 and 100", {"t60_s": 0}),
        ("t60_s=nan must be a number", {"t60_s": np.nan}),
        ("brightness=2 must lie", {"brightness": 2}),
        ("size='big' must be a number", {"size": "big"}),
        ("n_channels=17", {"n_channels": 17}),
        ("n_channels=0", {"n_channels": 0}),
        ("sample_rate=100 Hz must lie", {"sample_rate": 100}),
    ):
        with pytest.raises(ParameterError, match=says):
            Reverb(**{"sample_rate": RATE} | given)
    with pytest.raises(ParameterError, match=r"mix=1\.5 must lie"):
        ReverbSettings(mix=1.5)

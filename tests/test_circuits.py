"""Diode clippers, their oversampling, and the overdrive.

Oracles: the static equation by scipy's brentq, the differential equation by scipy's LSODA, the
analogue pole through the bilinear map, scipy's bilinear RC where there are no diodes to speak of, and for the
resampling scipy's upfirdn and the sum over aliases of the frequency responses.
"""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, optimize, signal

from rnndsp import Latency, Series, audio, gain, load
from rnndsp._intervals import Interval
from rnndsp.errors import ParameterError
from rnndsp.filters import SOS, DiodeClipper, Oversampled, Polyphase, overdrive
from rnndsp.stability.enclosures import Place

R, C, SATURATION, THERMAL = 2200.0, 10e-9, 2.52e-9, 1.752 * 25.85e-3
RATES = (8000.0, 44100.0, 384000.0, 768000.0)
UNEQUAL = {"saturation_a": (5e-9, 1e-12), "thermal_v": (2 * THERMAL, 0.8 * THERMAL)}
PARTS = [{}, UNEQUAL, {"saturation_a": (1e-3, 1e-13), "thermal_v": (0.1, 0.02), "resistance_ohm": 1e6}]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def current(v, *, saturation_a=SATURATION, thermal_v=THERMAL, **_):
    (i0, i1), (v0, v1) = np.broadcast_to(saturation_a, 2), np.broadcast_to(thermal_v, 2)
    return i0 * np.expm1(v / v0) - i1 * np.expm1(-v / v1)


def conductance(v, *, saturation_a=SATURATION, thermal_v=THERMAL, **_):
    (i0, i1), (v0, v1) = np.broadcast_to(saturation_a, 2), np.broadcast_to(thermal_v, 2)
    return i0 / v0 * np.exp(v / v0) + i1 / v1 * np.exp(-v / v1)


def static(x, **parts):
    """The voltage at which nothing flows into the capacitor."""
    reach = min(abs(x), 3.0)
    return optimize.brentq(lambda v: (x - v) / R - current(v, **parts), -reach, reach, xtol=1e-16, rtol=1e-14)


# ---- the equation of a sample


@pytest.mark.parametrize("parts", PARTS)
def test_every_sample_solves_its_equation(parts):
    """The left side rises, so where it is too small just below y and too large just above, y is the solution."""
    levels = np.geomspace(1e-9, 1e7, 160)
    levels = np.concatenate([-levels[::-1], [0], levels])
    x, s = (grid.ravel() for grid in np.meshgrid(levels, [-1e3, -1.0, -0.01, 0, 0.3, 1e3]))
    resistance = parts.get("resistance_ohm", R)
    for rate in RATES:
        clipper = DiodeClipper(**parts, sample_rate=rate)
        rest = clipper.rest_state((x.size,))
        y, after = clipper.run(x[:, None, None], rest.unravel(s[:, None]))
        v = y[:, 0, 0]
        g, k = 1 / (2 * resistance * C * rate), 1 / (2 * C * rate)
        near = 1e-11 * np.abs(v) + 1e-16 + 4e-16 * np.abs(s) / (1 + g)
        for off, sign in ((-near, -1), (near, 1)):
            with np.errstate(over="ignore"):
                excess = (1 + g) * (v + off) + k * current(v + off, **parts) - s - g * x
            assert np.all(sign * excess >= -1e-15 * (np.abs(s) + g * np.abs(x)))
        np.testing.assert_array_equal(after.ravel()[:, 0], 2 * v - s)


@pytest.mark.parametrize("parts", PARTS[:2])
def test_rests_where_the_static_circuit_does(parts):
    for x in (-1000.0, -3.0, -0.1, 1e-6, 0.5, 30.0, 1000.0):
        rest = static(x, **parts)
        clipper = DiodeClipper(**parts, sample_rate=44100.0)
        settled = clipper.rest_state().unravel(np.array([rest]))
        np.testing.assert_allclose(clipper.run(np.full(50, x), settled)[0], rest, rtol=1e-11)
        if abs(x) <= 30:
            np.testing.assert_allclose(clipper(np.full(9000, x))[-1], rest, rtol=1e-9)


def test_is_of_second_order_in_the_time_of_a_sample():
    """Against the differential equation; the input and its slope are zero at the start, where the filter is at rest."""

    def volts(t):
        return 4 * np.sin(np.pi * 250 * t) ** 2 * np.sin(2 * np.pi * 900 * t)

    def flow(t, v):
        return ((volts(t) - v) / R - current(v, **UNEQUAL)) / C

    def slope(t, v):
        return [[-(1 / R + conductance(v[0], **UNEQUAL)) / C]]

    n, coarse = 144, 48000.0
    t = np.arange(n) / coarse
    exact = integrate.solve_ivp(flow, (0, t[-1]), [0.0], "LSODA", t, jac=slope, rtol=1e-11, atol=1e-13).y[0]
    errors = []
    for finer in (8, 16, 32):
        rate = finer * coarse
        y = DiodeClipper(**UNEQUAL, sample_rate=rate)(volts(np.arange(finer * n) / rate))[::finer]
        errors.append(np.max(np.abs(y - exact)))
    orders = np.log2([first / second for first, second in pairwise(errors)])
    np.testing.assert_allclose(orders, 2, atol=0.06)
    assert errors[-1] < 1e-5 < 0.4 < np.max(exact)


def test_without_diodes_it_is_the_bilinear_lowpass():
    clipper, u = DiodeClipper(saturation_a=1e-300, thermal_v=1e3, gain_db=6.0, sample_rate=48000.0), noise(2000)
    expected = 10**0.3 * signal.lfilter(*signal.bilinear([1], [R * C, 1], 48000.0), u)
    np.testing.assert_allclose(clipper(u), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("x", [0.0, 0.6, -40.0])
def test_pole_is_the_analogue_one_through_the_bilinear_map(x):
    clipper = DiodeClipper(**UNEQUAL, sample_rate=96000.0)
    v = static(x, **UNEQUAL) if x else 0.0
    half = -(1 / R + conductance(v, **UNEQUAL)) / C / (2 * 96000)
    found = clipper.poles(clipper.rest_state().unravel(np.array([v])), [x])
    np.testing.assert_allclose(found, [(1 + half) / (1 - half)], rtol=1e-9)


# ---- gradients and control


def test_components_are_found_from_the_sound():
    """Resistance and capacitance stand still where only their product is heard: here C is known."""
    truth = DiodeClipper(resistance_ohm=3300.0, **UNEQUAL, gain_db=12.0, sample_rate=96000.0)
    u = 0.5 * signal.lfilter([0.2], [1, -0.8], noise(400, seed=1))
    wet, guess = truth(u), DiodeClipper(gain_db=12.0, sample_rate=96000.0)
    names = ("log_resistance", "log_saturation", "log_thermal")
    cuts = [1, 3]

    def loss(p):
        tape = guess.replace(**dict(zip(names, np.split(p, cuts), strict=True))).tape(u)
        gradient = tape.adjoint(2e3 * (tape.y - wet)).params
        return 1e3 * np.sum((tape.y - wet) ** 2), np.concatenate([gradient[name] for name in names])

    start = np.concatenate([guess.params[name] for name in names])
    found = optimize.minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 400, "gtol": 1e-9})
    wanted = np.concatenate([truth.params[name] for name in names])
    np.testing.assert_allclose(found.x, wanted, atol=2e-3)


def test_knob_is_the_gain():
    u = noise(300)
    knob = DiodeClipper(sample_rate=48000.0)
    fixed = DiodeClipper(gain_db=17.5, knob=None, sample_rate=48000.0)
    assert not fixed.controls
    np.testing.assert_allclose(knob(u, controls={"gain_db": 17.5}), fixed(u), rtol=1e-14)
    np.testing.assert_allclose(DiodeClipper(sample_rate=48000.0)(10 ** (17.5 / 20) * u), fixed(u), rtol=1e-12)
    half = knob(u, controls={"gain_db": np.repeat([17.5, 0.0], 150)})
    np.testing.assert_allclose(half[:150], fixed(u)[:150], rtol=1e-14)
    assert np.max(np.abs(half[150:])) < np.max(np.abs(fixed(u)[150:]))


# ---- stability, as the docstring proves it


@pytest.mark.parametrize("rate", [8000.0, 96000.0])
@pytest.mark.parametrize("level", [0.1, 3.0, 300.0])
def test_bounds_and_contraction(rate, level):
    clipper = DiodeClipper(**UNEQUAL, knob=None, sample_rate=rate)
    g = 1 / (2 * R * C * rate)
    place = Place(Interval([-level], [level]))
    bound = clipper._enclosure(place)
    t = np.arange(3000)
    drives = level * np.stack([np.sign(noise(t.size)), (-1.0) ** t, np.sign(np.sin(0.05 * t)), np.tanh(noise(t.size))])
    y, end = clipper.run(drives[..., None])
    assert bound.y.lo[0] <= y.min() and y.max() <= bound.y.hi[0]
    assert bound.y.hi[0] < 1.6 * y.max()
    assert np.max(np.abs(end.ravel())) <= max(1, g) * level * (1 + 1e-12)
    # other inputs, from equal states
    others = np.clip(drives + 0.1 * level * np.tanh(noise(*drives.shape, seed=2)), -level, level)
    apart, moved = clipper(others[..., None]) - y, others - drives
    assert np.max(np.abs(apart)) <= bound.gain[0, 0] * np.max(np.abs(moved)) <= max(1, 2 * g / (1 + g)) * level
    assert np.all(np.linalg.norm(apart[..., 0], axis=1) <= np.linalg.norm(moved, axis=1))
    # other states, on the same input
    state = clipper.rest_state((2,)).unravel(np.array([[3.0 * level], [-level]]))
    distance, energy = [4 * level], 0.0
    for frame in drives[0, :300]:
        y, state = clipper.run(np.full((2, 1, 1), frame), state)
        distance.append(abs(float(np.diff(state.ravel()[:, 0])[0])))
        energy += float(np.diff(y[:, 0, 0])[0]) ** 2
    assert np.all(np.diff(distance) <= 1e-12 * level) and distance[-1] < distance[0]
    assert 4 * g * energy <= distance[0] ** 2 - distance[-1] ** 2 + 1e-9 * level**2


def test_verdicts():
    report = Oversampled(DiodeClipper(gain_db=20.0, sample_rate=96000.0), 2, reach=4).stability()
    assert [report[name].verdict for name in ("bounded output", "contraction")] == ["proved", "proved"]
    assert 0.7 < report["bounded output"].bound < 1.3
    endless = DiodeClipper(sample_rate=96000.0)._enclosure(Place(Interval([-np.inf, 0], [np.inf, 0])))
    assert endless.y.lo[0] == -np.inf and endless.y.hi[0] == np.inf and endless.gain is not None


# ---- oversampling


def kaiser(factor, reach, stopband_db):
    """The lowpass as scipy designs it, of gain one."""
    window = ("kaiser", signal.kaiser_beta(stopband_db))
    return signal.firwin(2 * reach * factor + 1, 1 / factor, window=window)


def lowpass(factor, reach, stopband_db=90.0):
    """That which is used: interpolated constants stay constant, to which scipy's comes near."""
    h = factor * kaiser(factor, reach, stopband_db)
    for phase in range(factor):
        h[phase::factor] /= np.sum(h[phase::factor])
    np.testing.assert_allclose(h, factor * kaiser(factor, reach, stopband_db), atol=10 ** (-stopband_db / 20))
    return h


def test_equals_upfirdn():
    u, k, reach = noise(400), 4, 6
    clipper = DiodeClipper(gain_db=10.0, **UNEQUAL, sample_rate=192000.0)
    h = lowpass(k, reach)
    fast = signal.upfirdn(h, u, up=k)[: k * u.size]
    expected = signal.upfirdn(h / k, clipper(fast), down=k)[: u.size]
    np.testing.assert_allclose(Oversampled(clipper, k, reach=reach)(u), expected, atol=1e-13)


@pytest.mark.parametrize("late", [0, 1, 3, 5])
def test_band_limited_signals_come_back_after_the_latency(late):
    inner = gain(1.0) if not late else Latency(late)
    filt = Oversampled(inner, 3, reach=24)
    assert filt.latency == 48 + -(-late // 3)
    t = np.arange(600)

    def tones(t):
        return np.sin(0.3 * np.pi * t) + np.cos(0.87 * np.pi * t + 1)

    np.testing.assert_allclose(filt(tones(t))[200:], tones(t - filt.latency)[200:], atol=1e-4)
    constant = filt(np.ones(200))
    np.testing.assert_allclose(constant[-50:], 1, rtol=1e-14)


def test_two_channels_of_a_linear_filter():
    """The response is the sum over the images of the lower rate: the polyphase identity."""
    k, reach = 2, 5
    mixed = SOS(signal.butter(2, 0.2, output="sos")) >> gain(np.array([[1.0], [0.5]]))
    filt = Oversampled(gain(np.array([[0.7, -0.4]])) >> mixed, k, reach=reach, stopband_db=60.0)
    assert filt.is_linear and (filt.n_inputs, filt.n_outputs) == (2, 2)
    w = np.linspace(0.01, 3.1, 40)
    h = lowpass(k, reach, 60.0)
    expected = 0
    for image in range(k):
        f = (w + 2 * np.pi * image) / k
        response = signal.freqz(h, worN=f)[1] ** 2 / k * signal.freqz(*signal.butter(2, 0.2), worN=f)[1]
        expected = expected + response[:, None, None] * np.outer([1, 0.5], [0.7, -0.4]) / k
    np.testing.assert_allclose(filt.linearize().frequency_response(w), expected, atol=1e-12)
    # what comes in between samples is as loud as what comes at them
    u = noise(300, 2)
    np.testing.assert_allclose(filt.linearize()(u), filt(u), atol=1e-12)


def test_long_signals_go_through_in_pieces_to_the_bit():
    filt = Oversampled(DiodeClipper(gain_db=10.0, sample_rate=384000.0), 8, reach=8)
    u, knob = noise(2, 2000, 1), np.linspace(-10, 30, 2000)
    whole, end = filt.run(u, controls={"gain_db": knob})
    state, parts = None, []
    for piece, turned in zip(np.split(u, [3, 700, 1999], axis=1), np.split(knob, [3, 700, 1999]), strict=True):
        y, state = filt.run(piece, state, controls={"gain_db": turned})
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert state == end
    np.testing.assert_array_equal(filt.tape(u, controls={"gain_db": knob}).y, whole)


def aliasing_db(filt, cycles=1663, n_frames=16000):
    """What lies on no harmonic of a sine below 20 kHz, of all."""
    u = 0.5 * np.sin(2 * np.pi * cycles * np.arange(2 * n_frames) / n_frames)
    power = np.abs(np.fft.rfft(filt(u)[n_frames:])) ** 2
    below = np.arange(power.size) < n_frames * 20 / 48
    harmonic = np.arange(power.size) % cycles == 0
    return 10 * np.log10(power[below & ~harmonic].sum() / power[below].sum())


def test_aliases_fall_with_the_factor():
    def clipper(k):
        bare = DiodeClipper(gain_db=20.0, sample_rate=48000.0 * k)
        return bare if k == 1 else Oversampled(bare, k)

    found = [aliasing_db(clipper(k)) for k in (1, 2, 4, 8)]
    assert found[0] > -25 and found[-1] < -75
    assert np.all(np.diff(found) < -12)


def test_rates_belong_together(tmp_path):
    filt = Oversampled(DiodeClipper(sample_rate=8 * 44100.0), 8, reach=3)
    assert filt.sample_rate == 44100.0
    other = (filt >> gain(0.5, sample_rate=44100.0)).replace(sample_rate=48000.0)
    assert other.sample_rate == 48000.0 == other.children[0].sample_rate
    assert other.children[0].children[1].sample_rate == 384000.0
    other.save(tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors") == other
    assert list(filt.params) == [f"1.{name}" for name in DiodeClipper(sample_rate=1.0).params]
    with pytest.raises(ParameterError, match="build the filter anew"):
        filt.replace(**{"0.factor": 4})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DiodeClipper(sample_rate=None), "sample_rate"),
        (lambda: DiodeClipper(resistance_ohm=0, sample_rate=48000), "resistance_ohm"),
        (lambda: DiodeClipper(resistance_ohm=(1, 2), sample_rate=48000), "resistance_ohm"),
        (lambda: DiodeClipper(saturation_a=(1e-9, -1e-9), sample_rate=48000), "saturation_a.*two"),
        (lambda: DiodeClipper(thermal_v=np.nan, sample_rate=48000), "thermal_v"),
        (lambda: DiodeClipper(thermal_v="hot", sample_rate=48000), "thermal_v"),
        (lambda: DiodeClipper(gain_db=81, sample_rate=48000), "gain_db"),
        (lambda: DiodeClipper(knob="", sample_rate=48000), "name"),
        (lambda: DiodeClipper(sample_rate=48000).replace(log_thermal=[1e4, 0]), "units"),
        (lambda: DiodeClipper(sample_rate=48000).replace(log_capacitance=[-1e4]), "units"),
        (lambda: Oversampled(gain(1.0), 1), "factor"),
        (lambda: Oversampled(0.5, 2), "not a filter"),
        (lambda: Oversampled(gain(1.0), 2, reach=0), "reach"),
        (lambda: Oversampled(gain(1.0), 2, stopband_db=20), "stopband_db"),
        (lambda: Oversampled(gain(1.0), 2, reach=10**9), "too many"),
        (lambda: Polyphase(1, 3, offset=3), "offset"),
        (lambda: Polyphase(0, 3), "n_channels"),
        (lambda: overdrive(sample_rate=None), "sample_rate"),
        (lambda: overdrive(sample_rate=100), "sample_rate"),
        (lambda: overdrive(tone_hz=30000, sample_rate=48000), "tone_hz"),
        (lambda: overdrive(level_db=1e9, sample_rate=48000), "level_db"),
        (lambda: overdrive(oversampling=0, sample_rate=48000), "oversampling"),
        (lambda: overdrive(drive_db=np.inf, sample_rate=48000), "drive_db|gain_db"),
    ],
)
def test_bad_settings_are_refused(make, said):
    with pytest.raises(ParameterError, match=said):
        make()


# ---- overdrive


def test_overdrive_of_real_guitar(data_path):
    dry, rate = audio.read(data_path / "audio" / "pyneuralfx_example.wav", dtype="float64")
    dry = dry[int(1.0 * rate) : int(1.5 * rate), 0]
    pedal = overdrive(sample_rate=rate)
    crest = {}
    for drive_db in (-40.0, 20.0, 60.0):
        wet = pedal(dry, controls={"drive_db": drive_db})
        crest[drive_db] = np.max(np.abs(wet)) / np.std(wet)
        assert np.max(np.abs(wet)) < 0.7 and abs(np.mean(wet)) < 0.02 * np.std(wet)
        assert drive_db < 0 or np.max(np.abs(wet)) > 0.3
    assert crest[-40.0] > 1.5 * crest[20.0] > 1.5 * crest[60.0] > 1.5
    # the circuit is the same at another rate, but for a fraction of a sample of latency
    faster = signal.resample_poly(dry, 160, 147)
    again = signal.resample_poly(overdrive(sample_rate=48000.0)(faster), 147, 160)
    wet = pedal(dry)
    error = min(
        np.sum((again[300:-300] - np.interp(np.arange(300, wet.size - 300) + lag, np.arange(wet.size), wet)) ** 2)
        for lag in (pedal.latency * (1 - 147 / 160) + np.linspace(-0.5, 0.5, 11))
    )
    assert error < 1e-3 * np.sum(wet**2)


def test_overdrive_is_its_parts():
    pedal = overdrive(drive_db=12.0, level_db=-3.0, oversampling=1, sample_rate=96000.0)
    assert [c.name for c in pedal.controls] == ["drive_db"] and pedal.latency == 0
    u = noise(500)
    x = signal.sosfilt(signal.butter(1, 150, "highpass", output="sos", fs=96000), u)
    x = DiodeClipper(gain_db=12.0, sample_rate=96000.0)(x)
    x = signal.sosfilt(signal.butter(1, 30, "highpass", output="sos", fs=96000), x)
    x = DiodeClipper(thermal_v=(2 * THERMAL, THERMAL), gain_db=12.0, sample_rate=96000.0)(x)
    x = signal.sosfilt(signal.butter(1, 20, "highpass", output="sos", fs=96000), x)
    x = signal.sosfilt(signal.butter(1, 4500, output="sos", fs=96000), x)
    np.testing.assert_allclose(pedal(u), 10 ** (-3 / 20) * x, atol=1e-12)
    assert isinstance(overdrive(sample_rate=48000.0).children[0], Oversampled) and isinstance(pedal, Series)

"""Harmonics, intermodulation, aliasing, oscillation. Oracles: closed forms, quadrature, linear filters, a plain FFT."""

import matplotlib
import numpy as np
import pytest
from scipy import integrate, optimize, signal
from test_captures import capture

from rnndsp import Control, Feedback, Field, Filter, Framed, Knobs, NonFiniteError, ParameterError, delay, gain, plots
from rnndsp.distortion import (
    TONES,
    Behaviour,
    _shares,
    aliasing,
    describing_function,
    harmonic_distortion,
    intermodulation,
    limit_cycle,
    orbit_diagram,
)
from rnndsp.filters import GRU, LSTM, SOS, Dense, Elman, FeedbackDelayNetwork
from rnndsp.response import frequency_response
from rnndsp.stability import rest_states

matplotlib.use("Agg")

RATE = 48000.0

SHAPES = {
    "chebyshev": lambda u: 16 * u**5 - 20 * u**3 + 5 * u,
    "cubic": lambda u: u - u**3 / 3,
    "mixed": lambda u: u + 0.1 * u**2 + 0.05 * u**3,
    "square": lambda u: u**2 + 0.3,
    "clip": lambda u: np.clip(u, -1, 1),
    "dead zone": lambda u: u - np.clip(u, -0.5, 0.5),
    "tanh": np.tanh,
}


class RunOnly(Filter):
    """What is only run: for the tests alone."""

    def _record(self, u, state):
        raise AssertionError("this filter is only run")

    _adjoint = _linearize = _record


class Memoryless(RunOnly):
    def __init__(self, shape, n_channels=1):
        super().__init__({"shape": shape, "n_channels": n_channels}, {})

    def _setup(self):
        self.shape = SHAPES[self.config["shape"]]
        self.n_inputs = self.n_outputs = self.config["n_channels"]

    def _advance(self, u, state, y):
        y[...] = self.shape(u)


class Logistic(RunOnly):
    """x <- r x (1 - x) + u, with r as a knob."""

    def __init__(self):
        super().__init__({}, {})

    def _setup(self):
        self.n_inputs = self.n_outputs = 1
        self.fields = (Field("x", (1,)),)
        self.controls = (Control("r", 4.0, 0.0, 5.0),)

    def _rest(self, vector):
        vector[...] = 0.3

    def _advance(self, u, state, y):
        x = state.rows
        for t in range(u.shape[1]):
            x[...] = u[:, t, 1:] * x * (1 - x) + u[:, t, :1]
            y[:, t] = x


def amplitude(db):
    return 10 ** (np.asarray(db) / 20)


def rotation(turn, radius=1.0):
    c, s = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    return radius * np.array([[c, -s], [s, c]])


def elman(U, n_inputs=1, **config):
    U = np.atleast_2d(np.asarray(U, float))
    W = np.zeros((len(U), n_inputs))
    W[0] = 1
    return Elman(n_inputs, len(U), **config).replace(W=W, U=U, b=np.zeros(len(U)))


@pytest.fixture(scope="module")
def guitarml(data_path):
    folder = data_path / "models" / "guitarml"
    if not folder.is_dir():
        pytest.skip(f"no captures: {folder} is absent")
    return folder


# ---- harmonics


def test_chebyshev_makes_its_own_harmonic_only():
    """T5(cos x) = cos 5x."""
    measured = harmonic_distortion(Memoryless("chebyshev"), 1000, 0.0, 7, sample_rate=RATE)
    np.testing.assert_allclose(measured.harmonics, [[0, 0, 0, 0, 1, 0, 0]], atol=1e-14)
    assert abs(measured.dc_shift[0]) < 1e-15 and measured.drift[0] == 0
    assert measured.harmonics_db[0, 4] == pytest.approx(0, abs=1e-12)


def test_harmonics_of_a_cubic():
    """cos^3 = (3 cos + cos 3) / 4, so a cos -> (a - a^3/4) cos - a^3/12 cos 3."""
    levels = np.array([-40.0, -20, -6, 0])
    a = amplitude(levels)
    measured = harmonic_distortion(Memoryless("cubic"), 2000, levels, 4, sample_rate=RATE)
    expected = np.stack([a - a**3 / 4, 0 * a, -(a**3) / 12, 0 * a], axis=1)
    np.testing.assert_allclose(measured.harmonics, expected, atol=1e-15)
    np.testing.assert_allclose(measured.thd, a**3 / 12 / (a - a**3 / 4), rtol=1e-10)
    np.testing.assert_allclose(measured.thd_db, 20 * np.log10(measured.thd))
    assert measured.aliasing_db.max() < -250
    np.testing.assert_allclose(measured.thd_n, measured.thd, rtol=1e-10)
    gain_ = describing_function(Memoryless("cubic"), 2000, levels, sample_rate=RATE)
    np.testing.assert_allclose(gain_.gain, 1 - a**2 / 4, rtol=1e-13)
    assert np.max(np.abs(gain_.phase_deg)) < 1e-10


def test_harmonics_of_tanh_by_quadrature():
    levels = np.array([-20.0, 0, 10])
    cell = Dense(1, 1, activation="tanh").replace(W=[[1.0]], b=[0.0])
    measured = harmonic_distortion(cell, 200, levels, 9, sample_rate=RATE)
    for row, a in zip(measured.harmonics, amplitude(levels), strict=True):
        for n in range(1, 10):
            exact, _ = integrate.quad(
                lambda x, a=a, n=n: np.tanh(a * np.cos(x)) * np.cos(n * x), 0, np.pi, epsabs=1e-12, epsrel=1e-10
            )
            assert abs(row[n - 1] - 2 / np.pi * exact) < 1e-12


def test_thd_counts_all_harmonics_below_half_the_rate_and_only_those():
    few = harmonic_distortion(Memoryless("tanh"), 1000, 20.0, 2, sample_rate=RATE)
    many = harmonic_distortion(Memoryless("tanh"), 1000, 20.0, 1000, sample_rate=RATE)
    assert few.thd == many.thd and few.aliasing == many.aliasing
    assert many.harmonics.shape == (1, int(RATE / 2 / many.frequency_hz))
    h = np.abs(many.harmonics[0])
    assert many.thd[0] == pytest.approx(np.linalg.norm(h[1:]) / h[0], rel=1e-12)
    # a cubic at 10 kHz: the third harmonic aliases to 18 kHz, nothing is left to call harmonic
    measured = harmonic_distortion(Memoryless("cubic"), 10000, 0.0, sample_rate=RATE)
    assert measured.thd_db[0] < -250 and measured.aliasing[0] == pytest.approx(1 / 9, rel=1e-12)
    assert measured.thd_n_db[0] == pytest.approx(20 * np.log10(1 / 9), abs=1e-10)


def test_dc_shift_is_against_silence():
    """u^2 + 0.3: the mean rises by a^2 / 2, and there is no fundamental."""
    measured = harmonic_distortion(Memoryless("square"), 1000, [-6.0, 0.0], 2, sample_rate=RATE)
    a = amplitude([-6.0, 0.0])
    np.testing.assert_allclose(measured.dc_shift, a**2 / 2, rtol=1e-13)
    np.testing.assert_allclose(np.abs(measured.harmonics), np.stack([0 * a, a**2 / 2], axis=1), atol=1e-15)


@pytest.mark.parametrize("shape", ["clip", "dead zone"])
def test_describing_functions_of_corners(shape):
    """N(a) = 2/pi (asin r + r sqrt(1 - r^2)), r = width / a, for clipping; 1 - N for the dead zone."""
    width = {"clip": 1.0, "dead zone": 0.5}[shape]
    a = np.array([0.3, 1.2, 2.0, 10.0])
    r = np.minimum(width / a, 1)
    clipped = 2 / np.pi * (np.arcsin(r) + r * np.sqrt(1 - r**2))
    measured = describing_function(Memoryless(shape), 997, 20 * np.log10(a), sample_rate=RATE)
    # harmonics of a corner fall by n^-2, and those that alias to the fundamental have orders of about n_frames
    np.testing.assert_allclose(measured.gain, clipped if shape == "clip" else 1 - clipped, atol=1e-7)


LINEAR = {
    "sections": lambda: SOS(signal.butter(4, 1000, fs=RATE, output="sos"), sample_rate=RATE),
    "resonator": lambda: SOS(signal.tf2sos([1], [1, -2 * 0.999 * np.cos(0.1), 0.999**2]), sample_rate=RATE),
    "fdn": lambda: FeedbackDelayNetwork([701, 1103, 1303], t60_s=0.3, sample_rate=RATE),
    "delay": lambda: delay(37) >> gain(1.0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_filter_distorts_by_rounding_only(name):
    filt = LINEAR[name]()
    levels = [-60.0, 0.0, 20.0]
    measured = describing_function(filt, 1234, levels, sample_rate=RATE)
    h = frequency_response(filt, [measured.frequency_hz / (1 if filt.sample_rate else RATE)]).h[0, 0, 0]
    np.testing.assert_allclose(measured.gain, h, rtol=1e-11)
    np.testing.assert_allclose(measured.gain_db, 20 * np.log10(abs(h)), atol=1e-9)
    assert measured.drift.max() < 1e-12
    harmonics = harmonic_distortion(filt, 1234, levels, sample_rate=RATE)
    assert harmonics.thd_db.max() < -250 and harmonics.thd_n_db.max() < -250
    assert np.max(np.abs(harmonics.dc_shift)) < 1e-13
    assert intermodulation(filt, (900, 1000), sample_rate=RATE).imd_db < -250
    assert aliasing(filt, [300, 1234], sample_rate=RATE).ratio_db.max() < -250


def test_levels_do_not_see_each_other():
    cell = LSTM(1, 4, seed=0)
    both = harmonic_distortion(cell, 700, [-20.0, 6.0], output=2, sample_rate=RATE)
    for place, level in enumerate((-20.0, 6.0)):
        alone = harmonic_distortion(cell, 700, level, output=2, sample_rate=RATE)
        np.testing.assert_allclose(alone.harmonics[0], both.harmonics[place], atol=1e-12)


def test_channels_outputs_and_knobs():
    """The second input only, the second output only: 3 u; and a knob that scales."""
    filt = gain([[1.0, 0.0], [0.0, 3.0]])
    for channel, output, expected in ((0, 0, 1), (1, 1, 3), (0, 1, 0)):
        measured = describing_function(filt, 1000, 0.0, channel=channel, output=output, sample_rate=RATE)
        assert abs(measured.gain[0] - expected) < 1e-13
    knobs = Knobs(Dense(2, 1, activation="tanh").replace(W=[[1.0, 1.0]], b=[0.0]), {"bias": 0.0})
    even = [
        np.abs(harmonic_distortion(knobs, 1000, 0.0, 2, controls=c, sample_rate=RATE).harmonics[0, 1])
        for c in (None, {"bias": 0.5})
    ]
    assert even[0] < 1e-14
    exact, _ = integrate.quad(lambda x: np.tanh(np.cos(x) + 0.5) * np.cos(2 * x), 0, np.pi, epsabs=1e-12)
    assert even[1] == pytest.approx(2 / np.pi * abs(exact), rel=1e-10)


def test_frequencies_have_whole_cycles_prime_to_the_window():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, f = int(rng.integers(16, 5000)), rng.uniform(0.001, 0.499)
        measured = describing_function(gain(1.0), f, 0.0, sample_rate=1.0, n_frames=n)
        k = measured.frequency_hz * n
        assert abs(k - round(k)) < 1e-9 and np.gcd(round(k), n) == 1 and 0 < measured.frequency_hz < 0.5
        others = [j for j in range(1, (n + 1) // 2) if np.gcd(j, n) == 1]
        assert abs(round(k) - f * n) <= min(abs(j - f * n) for j in others) + 1e-9


def test_frames_of_spectra_fit_into_the_window():
    """An identity inside is a delay by its latency; windows are multiples of its hop, 12."""
    filt = Framed.spectral_gain(np.ones(25), n_fft=48, hop_length=12)
    measured = describing_function(filt, 0.01, 0.0, sample_rate=1.0, n_frames=1000)
    k = measured.frequency_hz * 1008
    assert abs(k - round(k)) < 1e-9
    assert abs(measured.gain[0] - np.exp(-2j * np.pi * measured.frequency_hz * filt.latency)) < 1e-13


def test_what_does_not_settle_says_so():
    oscillator = elman(rotation(0.1234567), activation="identity")
    measured = describing_function(oscillator, 0.3, 0.0, sample_rate=1.0, n_windows=3)
    assert measured.drift[0] > 0.1
    slow = SOS([[1, 0, 0, 1, -0.9999, 0]])
    drift = [describing_function(slow, 0.3, 0.0, sample_rate=1.0, n_windows=n).drift[0] for n in (10, 12, 60)]
    # from a window to the next it fades by 0.9999**8192
    assert drift[0] / drift[1] == pytest.approx(0.9999 ** (-2 * 8192), rel=1e-2) and drift[2] <= 1e-13


def test_each_rest_state_has_its_own_gain(guitarml):
    """TS9: at 1 kHz that in the second is 6.9 dB lower; a small sine is answered as the small-signal filter does."""
    model = capture(guitarml / "NeuralPi_TS9.json")
    states = rest_states(model)
    found = [describing_function(model, 1000, -100.0, state=s, sample_rate=44100) for s in states]
    for measured, state in zip(found, states, strict=True):
        h = model.linearize(state).frequency_response(2 * np.pi * measured.frequency_hz / 44100)[0, 0, 0]
        assert abs(measured.gain[0] / h - 1) < 1e-3
    assert abs(abs(found[0].gain_db[0] - found[1].gain_db[0]) - 6.9) < 0.1


def test_distortion_of_a_real_amplifier(guitarml):
    """It grows with level, and a plain FFT of a long run says the same."""
    model = capture(guitarml / "NeuralPi_BluesJr.json")
    levels = np.arange(-60.0, 1, 12)
    measured = harmonic_distortion(model, 220, levels, sample_rate=44100)
    assert np.all(np.diff(measured.thd) > 0) and measured.thd_db[0] < -60 and -20 < measured.thd_db[-1] < 0
    assert measured.drift.max() < 1e-11 and measured.aliasing_db.max() < -100
    n = 8192
    k = round(measured.frequency_hz * n / 44100)
    for level, thd, dc in zip(levels, measured.thd, measured.dc_shift, strict=True):
        t = np.arange(10 * n)
        y = model(amplitude(level) * np.cos(2 * np.pi * measured.frequency_hz / 44100 * t))
        spectrum = np.abs(np.fft.rfft(y[-n:]))
        expected = np.sqrt(np.sum(spectrum[2 * k :: k] ** 2)) / spectrum[k]
        assert thd == pytest.approx(expected, rel=1e-6)
        assert dc == pytest.approx(np.mean(y[-n:]) - model(np.zeros(10 * n))[-1], abs=1e-9)


# ---- aliasing


def folded(shape, a, k, n_frames):
    """Aliasing-to-signal ratio of a memoryless shape from its spectrum without aliasing."""
    size = 2**15
    c = np.abs(np.fft.rfft(shape(a * np.cos(2 * np.pi * np.arange(size) / size)))) ** 2
    harmonic = np.arange(1, c.size)[: c.size // 2]
    below = harmonic * k < n_frames / 2
    return c[harmonic[~below]].sum() / c[harmonic[below]].sum()


def test_aliasing_of_tanh_against_oversampling():
    """Each harmonic above half the rate lands on a line of its own; its power is known from a spectrum far finer."""
    wanted = np.geomspace(500, 20000, 12)
    measured = aliasing(Memoryless("tanh"), wanted, 10.0, sample_rate=RATE)
    for f, near, ratio in zip(measured.frequency_hz, wanted, measured.ratio, strict=True):
        assert abs(f - near) <= RATE / 8192
        exact = folded(np.tanh, amplitude(10.0), round(f * 8192 / RATE), 8192)
        assert ratio == pytest.approx(exact, rel=1e-9, abs=1e-26)
    assert measured.ratio_db[-1] > -20 > -100 > measured.ratio_db[0]
    odd = aliasing(Memoryless("tanh"), 7000, 10.0, sample_rate=RATE, n_frames=8191)
    assert odd.ratio[0] == pytest.approx(
        folded(np.tanh, amplitude(10.0), round(odd.frequency_hz[0] * 8191 / RATE), 8191)
    )


@pytest.mark.parametrize("n", [64, 63])
def test_shares_add_up_to_the_variance(n):
    """Parseval, also for the line at half the sample rate."""
    y = np.random.default_rng(0).standard_normal((2, n))
    shares = np.array(_shares(y, 5))
    np.testing.assert_allclose(shares.sum(axis=0) / 2, np.var(y, axis=1), rtol=1e-12)
    t = np.arange(n)
    wave = (
        1 + 3 * np.cos(2 * np.pi * 5 * t / n) + 0.5 * np.cos(2 * np.pi * 15 * t / n) + 0.1 * np.sin(2 * np.pi * t / n)
    )
    np.testing.assert_allclose(np.ravel(_shares(wave[None], 5)), [9, 0.25, 0.01], rtol=1e-10)


# ---- intermodulation


def test_products_of_a_polynomial():
    """u + b u^2 + c u^3: b a1 a2 at f2 +- f1, 3/4 c a1^2 a2 at f2 +- 2 f1, and so on."""
    measured = intermodulation(Memoryless("mixed"), (1000, 2300), -3.0, ratio=2.0, sample_rate=RATE)
    a1, a2 = amplitude(-3.0) * np.array([2, 1]) / 3
    b, c = 0.1, 0.05
    expected = {(1, 1): b * a1 * a2, (-1, 1): b * a1 * a2}
    expected |= {(s * 2, 1): 0.75 * c * a1**2 * a2 for s in (-1, 1)}
    expected |= {(1, s * 2): 0.75 * c * a1 * a2**2 for s in (-1, 1)}
    for m, n in measured.orders:
        wanted = expected.get((m, n), expected.get((-m, -n), 0))
        assert measured.amplitude(m, n) == pytest.approx(wanted, rel=1e-11, abs=1e-15)
        assert measured.amplitude(-m, -n) == measured.amplitude(m, n)
    f1, f2 = measured.tones_hz
    np.testing.assert_allclose(measured.products_hz, measured.orders @ [f1, f2], rtol=1e-12)
    assert np.all(measured.products_hz > 0) and np.all(measured.products_hz < RATE / 2)
    assert abs(f1 - 1000) < 30 and abs(f2 - 2300) < 30
    tones = a1 + c * (0.75 * a1**3 + 1.5 * a1 * a2**2), a2 + c * (0.75 * a2**3 + 1.5 * a2 * a1**2)
    np.testing.assert_allclose(measured.tones, tones, rtol=1e-12)
    power = sum(v**2 for v in expected.values())
    assert measured.imd_db == pytest.approx(10 * np.log10(power / np.sum(np.square(tones))), abs=1e-9)
    assert len(measured.orders) == 20 and np.isnan(measured.amplitude(4, 4))
    # harmonics and DC are in the spectrum, and are no products
    assert measured.spectrum[0] == pytest.approx(b * (a1**2 + a2**2) / 2, rel=1e-12)
    second = np.argmin(np.abs(measured.spectrum_hz - 2 * f1))
    assert measured.spectrum[second] == pytest.approx(b * a1**2 / 2, rel=1e-12)


def test_ratios_of_the_standards():
    measured = intermodulation(Memoryless("mixed"), "smpte", sample_rate=RATE)
    a1, a2 = 0.8, 0.2
    f2 = a2 + 0.05 * (0.75 * a2**3 + 1.5 * a2 * a1**2)
    pairs = np.hypot(2 * 0.1 * a1 * a2, 2 * 0.75 * 0.05 * a1**2 * a2)
    assert measured.modulation_db == pytest.approx(20 * np.log10(pairs / f2), abs=1e-9)
    np.testing.assert_allclose(measured.tones_hz, TONES["smpte"][0], atol=5)
    measured = intermodulation(Memoryless("mixed"), "ccif", sample_rate=RATE)
    f2 = 0.5 + 0.05 * (0.75 * 0.5**3 + 1.5 * 0.5**3)
    assert measured.difference_db == pytest.approx(20 * np.log10(0.1 * 0.25 / (2 * f2)), abs=1e-9)
    np.testing.assert_allclose(measured.tones_hz, TONES["ccif"][0], atol=5)
    # f1 + f2 is above half the sample rate and no product of this list
    assert np.isnan(measured.amplitude(1, 1)) and np.isnan(measured.modulation_db)


def test_products_have_lines_of_their_own():
    """Aliased ones too: harmonics and products up to twice the order never share a line."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        tones = tuple(rng.uniform(0.01, 0.49, 2))
        k = np.round(intermodulation(gain(1.0), tones, sample_rate=1.0, max_order=4).tones_hz * 16384).astype(int)
        lines = [(m * k[0] + n * k[1]) % 16384 for m in range(-8, 9) for n in range(-8, 9) if abs(m) + abs(n) <= 8]
        assert len(set(lines)) == len(lines)


# ---- oscillation


def behaviours(motions):
    return {motion.start: motion.behaviour for motion in motions}


@pytest.mark.parametrize(("turn", "radius"), [(0.13, 1.005), (0.2113, 1.02), (0.371, 1.01)])
def test_a_rotation_that_saturates(turn, radius):
    """Averaged over a turn, tanh s -> s - s^3/4: it cycles with s^2 = 4 (1 - 1/r), h = s / r."""
    motions = limit_cycle(elman(rotation(turn, radius), sample_rate=RATE), n_starts=4)
    assert motions[0].behaviour == Behaviour.REST  # zero is a rest state, which repels
    h = np.sqrt(4 * (1 - 1 / radius)) / radius
    assert len(motions) == 13
    for motion in motions[1:]:
        assert motion.behaviour == Behaviour.CYCLE, motion.start
        assert motion.frequency_hz == pytest.approx(turn * RATE, rel=1e-3)
        assert motion.level_db == pytest.approx(20 * np.log10(h), abs=0.15)
        assert abs(motion.dc) < 1e-3
        assert np.linalg.norm(motion.state.h) == pytest.approx(h, rel=0.03)


def test_cycles_of_whole_samples():
    """x <- tanh(-2 x) alternates between +-0.9575040241 (tanh 2x = x); a quarter turn takes four samples."""
    filt = elman([[-2.0]], sample_rate=RATE)
    for motion in limit_cycle(filt, n_frames=4096)[1:]:
        assert motion.behaviour == Behaviour.CYCLE and motion.frequency_hz == pytest.approx(RATE / 2, rel=1e-12)
        assert motion.level_db == pytest.approx(20 * np.log10(np.sqrt(2) * 0.9575040241), abs=1e-8)
    for motion in limit_cycle(elman(rotation(0.25, 2.0)), n_frames=4096, sample_rate=1.0)[1:]:
        assert motion.behaviour == Behaviour.CYCLE and motion.frequency_hz == pytest.approx(0.25, rel=1e-12)


def test_an_unstable_loop_with_a_saturating_cell():
    """y = tanh(-2 y[t - 50]): 100 samples a cycle whatever it began with, as each lane of the line flips."""
    cell = Dense(1, 1, activation="tanh").replace(W=[[1.0]], b=[0.0])
    motions = limit_cycle(Feedback(cell, -2.0, delay=50), n_frames=2**14, sample_rate=RATE)
    assert motions[0].behaviour == Behaviour.REST
    for motion in motions[1:]:
        assert motion.behaviour == Behaviour.CYCLE, motion.start
        harmonic = motion.frequency_hz * 100 / RATE
        assert abs(harmonic - round(harmonic)) < 1e-6 and round(harmonic) % 2 == 1
    # all lanes that were set going have the same level
    loud = [m for m in motions if not m.start.startswith("impulse")][1:]
    np.testing.assert_allclose([m.level_db for m in loud], 20 * np.log10(np.sqrt(2) * 0.9575040241), atol=0.1)


def test_what_a_motion_ends_in_goes_on():
    filt = elman(rotation(0.13, 1.05))
    motion = limit_cycle(filt, n_frames=4096, sample_rate=1.0)[-1]
    y, _ = filt.run(np.zeros((1000, 1)), motion.state)
    phase = np.unwrap(np.angle(signal.hilbert(y[:, 0])))[100:-100]
    assert np.polyfit(np.arange(phase.size), phase, 1)[0] / (2 * np.pi) == pytest.approx(motion.frequency_hz, rel=1e-4)


def test_linear_filters_come_to_rest_fade_grow_or_blow_up():
    def ring(radius):
        return Feedback(gain(1.0), radius, delay=7, allow_unstable=True)

    def kinds(radius, **settings):
        return set(behaviours(limit_cycle(ring(radius), sample_rate=RATE, n_frames=2**15, **settings)[1:]).values())

    assert kinds(0.9) == {Behaviour.REST}
    assert kinds(0.9999) == {Behaviour.FADING}
    below = limit_cycle(ring(0.9999), sample_rate=RATE, n_frames=2**15, floor_db=-10, levels_db=-20, n_starts=0)
    assert below[1].start == "impulse at -20 dB" and below[1].behaviour == Behaviour.REST
    assert kinds(1.0001) == {Behaviour.GROWING}
    assert kinds(1.1) == {Behaviour.BLOW_UP}
    assert kinds(1e6) == {Behaviour.BLOW_UP}
    # an ideal oscillator: seven samples a cycle, at the level of its stimulus
    loud, quiet = limit_cycle(ring(1.0), sample_rate=RATE, n_frames=2**15, n_starts=0)[1:3]
    for motion in (loud, quiet):
        assert motion.behaviour == Behaviour.CYCLE
        assert motion.frequency_hz * 7 / RATE == pytest.approx(round(motion.frequency_hz * 7 / RATE), abs=1e-9)
    assert loud.level_db - quiet.level_db == pytest.approx(40, abs=1e-6)
    # one impulse in seven samples: the mean, and the power of the rest
    assert loud.dc == pytest.approx(1 / 7, rel=1e-3)
    assert loud.level_db == pytest.approx(10 * np.log10(2 * (1 / 7 - 1 / 49)), abs=1e-3)


def test_rounding_is_no_oscillation():
    """Near to the circle, rounding and flushing keep small cycles alive for ever; they are none."""
    for filt in (
        SOS(signal.butter(2, 20, fs=RATE, output="sos")),
        Feedback(gain(1.0), 0.99, delay=1),
        FeedbackDelayNetwork([7, 11, 13], t60_s=0.01, sample_rate=RATE),
        elman(rotation(0.1, 0.999)),
    ):
        motions = limit_cycle(filt, sample_rate=RATE, n_frames=2**15)
        assert set(behaviours(motions).values()) == {Behaviour.REST}


def test_bistable_units_rest_at_both_places():
    motions = limit_cycle(elman([[1.5]]), sample_rate=1.0, n_frames=2048)
    assert set(behaviours(motions).values()) == {Behaviour.REST}
    np.testing.assert_allclose(np.abs([m.dc for m in motions[1:]]), 0.8585596366, atol=1e-9)
    assert {np.sign(m.dc) for m in motions} == {-1, 0, 1}


def laurent_lstm():
    """Two units, no input, chaotic: T. Laurent, J. von Brecht (2017)."""
    i, f, g, o = [[-1, -4], [-3, -2]], [[-2, 6], [0, -6]], [[-1, -6], [6, -9]], [[4, 1], [-9, -7]]
    return LSTM(1, 2).replace(W=np.zeros((8, 1)), U=np.concatenate([i, f, g, o]).astype(float), b=np.zeros(8))


def test_chaos_and_two_frequencies_are_no_cycle():
    two = np.zeros((4, 4))
    two[:2, :2], two[2:, 2:] = rotation(0.0817, 1.02), rotation(0.1234, 1.02)
    torus = elman(two).replace(W=np.ones((4, 1))) >> gain([[1.0, 0.0, 0.5, 0.0]])
    motions = limit_cycle(torus, sample_rate=1.0)
    assert set(behaviours(motions[1:]).values()) == {Behaviour.IRREGULAR}
    # the second one 60 dB down is overlooked, as documented
    weak = elman(two).replace(W=np.ones((4, 1))) >> gain([[1.0, 0.0, 1e-3, 0.0]])
    assert behaviours(limit_cycle(weak, sample_rate=1.0))["noise at 0 dB"] == Behaviour.CYCLE
    chaotic = limit_cycle(laurent_lstm(), sample_rate=1.0)
    assert set(behaviours(chaotic[-8:]).values()) == {Behaviour.IRREGULAR}
    logistic = limit_cycle(Logistic(), sample_rate=1.0, n_starts=0, levels_db=-400, controls={"r": 3.9}, n_frames=2**13)
    assert behaviours(logistic)["initial state"] == Behaviour.IRREGULAR
    cycle = limit_cycle(Logistic(), sample_rate=1.0, n_starts=0, levels_db=-400, controls={"r": 3.5}, n_frames=2**13)
    assert cycle[0].behaviour == Behaviour.CYCLE and cycle[0].frequency_hz == pytest.approx(0.25, rel=1e-9)


def test_real_captures_come_to_rest(guitarml):
    motions = limit_cycle(capture(guitarml / "NeuralPi_BluesJr.json"), sample_rate=44100, n_frames=2**15)
    assert set(behaviours(motions).values()) == {Behaviour.REST}


# ---- orbits


def test_orbits_of_the_logistic_map():
    """One value 1 - 1/r, then two at ((r + 1) +- sqrt((r - 3) (r + 1))) / 2r, four from 1 + sqrt 6 on, chaos at 4."""
    r = np.array([2.5, 3.2, 3.5, 4.0, 4.5])
    diagram = orbit_diagram(Logistic(), r, knob="r", n_transient=2000)
    assert diagram.parameter == "r" and diagram.orbits.shape == (5, 1, 200)
    np.testing.assert_allclose(diagram.orbits[0], 1 - 1 / 2.5, rtol=1e-14)
    pair = (r[1] + 1 + np.array([-1, 1]) * np.sqrt((r[1] - 3) * (r[1] + 1))) / (2 * r[1])
    np.testing.assert_allclose(np.unique(np.round(diagram.orbits[1], 12)), pair, atol=1e-12)
    np.testing.assert_array_equal(diagram.period()[:, 0], [1, 2, 4, 0, 0])
    assert np.isnan(diagram.orbits[4]).all() and np.isfinite(diagram.orbits[:4]).all()
    several = orbit_diagram(Logistic(), r, knob="r", n_transient=2000, n_starts=3)
    np.testing.assert_array_equal(several.orbits[:, 0], diagram.orbits[:, 0])


def test_period_doubling_where_it_is_known():
    around = (1 + np.sqrt(6)) + np.array([-2e-3, 2e-3])
    diagram = orbit_diagram(Logistic(), np.append(around, 3.0 - 1e-2), knob="r", n_transient=6000, n_orbit=20)
    np.testing.assert_array_equal(diagram.period()[:, 0], [2, 4, 1])


def test_pitchfork_in_the_recurrent_weight():
    """x = tanh(w x): zero up to w = 1, and then +-x besides (published: 0.8585596366 and 0.9575040241)."""
    w = np.array([0.5, 1.5, 2.0])
    diagram = orbit_diagram(lambda v: elman([[v]]), w, n_starts=12, n_orbit=3)
    assert diagram.parameter == "parameter" and np.all(diagram.orbits[:, 0] == 0)
    for orbits, v in zip(diagram.orbits, w, strict=True):
        x = optimize.brentq(lambda x, v=v: np.tanh(v * x) - x, 1e-3, 1) if v > 1 else 0.0
        np.testing.assert_allclose(np.abs(orbits[1:]), x, atol=1e-9)
        assert not x or {-1, 1} <= set(np.sign(orbits[1:]).ravel())
    assert abs(np.abs(diagram.orbits[1, 1, 0]) - 0.8585596366) < 1e-9
    assert abs(np.abs(diagram.orbits[2, 1, 0]) - 0.9575040241) < 1e-9


def test_a_driven_linear_filter_answers_with_one_value():
    """At the maxima of a cosine: a Re H."""
    filt = LINEAR["sections"]()
    levels = np.array([-1.0, 0.5, 2.0])
    # blocks of any size: many short periods, or one long one
    for period in (7, 1000):
        h = frequency_response(filt, [RATE / period]).h[0, 0, 0]
        diagram = orbit_diagram(filt, levels, period=period, n_transient=2000, n_orbit=5)
        np.testing.assert_allclose(diagram.orbits[:, 0], np.repeat(levels[:, None] * h.real, 5, axis=1), rtol=1e-9)
    constant = orbit_diagram(filt, levels, n_transient=4000, n_orbit=5)
    np.testing.assert_allclose(constant.orbits[:, 0, -1], levels, rtol=1e-9)  # a lowpass
    fixed = orbit_diagram(lambda g: filt >> gain(g), [2.0], level=0.5, period=7, n_orbit=1)
    assert fixed.orbits[0, 0, 0] == pytest.approx(frequency_response(filt, [RATE / 7]).h[0, 0, 0].real, rel=1e-9)


def test_orbits_are_those_of_a_plain_run():
    cell = GRU(1, 3, seed=2).replace(b_rec=np.linspace(-1, 1, 9))
    diagram = orbit_diagram(cell, [0.3, 0.8], period=5, n_transient=37, n_orbit=11, output=1, n_starts=2, seed=4)
    u = np.cos(2 * np.pi * np.arange(5 * 48) / 5)[:, None]
    for place, level in enumerate((0.3, 0.8)):
        np.testing.assert_allclose(diagram.orbits[place, 0], cell(level * u)[::5, 1][37:], atol=1e-12)
        state = cell.rest_state().unravel(np.random.default_rng(4).uniform(-1, 1, (1, 3))[0])
        np.testing.assert_allclose(diagram.orbits[place, 1], cell.run(level * u, state)[0][::5, 1][37:], atol=1e-12)


# ---- bad input


@pytest.mark.parametrize(
    "call",
    [
        lambda f: describing_function(f, 1000, 0.0),  # no sample rate anywhere
        lambda f: describing_function(f, 0, 0.0, sample_rate=RATE),
        lambda f: describing_function(f, RATE / 2, 0.0, sample_rate=RATE),
        lambda f: describing_function(f, np.nan, 0.0, sample_rate=RATE),
        lambda f: describing_function(f, 1000, [], sample_rate=RATE),
        lambda f: describing_function(f, 1000, [np.nan], sample_rate=RATE),
        lambda f: describing_function(f, 1000, "loud", sample_rate=RATE),
        lambda f: describing_function(f, 1000, [[0.0]], sample_rate=RATE),
        lambda f: describing_function(f, 1000, 1e5, sample_rate=RATE),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, channel=1),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, output=-1),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, n_windows=1),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, n_frames=4),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, n_frames=2**40),
        lambda f: describing_function(f, 1000, np.zeros(10**5), sample_rate=RATE),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, state=elman(rotation(0.1)).rest_state((2,))),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, state=0),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=-1),
        lambda f: describing_function(f, 1000, 0.0, sample_rate=RATE, controls={"drive": 1}),
        lambda f: harmonic_distortion(f, 1000, 0.0, 0, sample_rate=RATE),
        lambda f: aliasing(f, [1000, 30000], sample_rate=RATE),
        lambda f: aliasing(f, [], sample_rate=RATE),
        lambda f: intermodulation(f, "imd", sample_rate=RATE),
        lambda f: intermodulation(f, (1000,), sample_rate=RATE),
        lambda f: intermodulation(f, (440, 440), sample_rate=RATE),
        lambda f: intermodulation(f, (1000, 2000), ratio=0, sample_rate=RATE),
        lambda f: intermodulation(f, (1000, 2000), max_order=2, sample_rate=RATE),
        lambda f: intermodulation(f, (1000, 2000), max_order=13, sample_rate=RATE),
        lambda f: intermodulation(f, (1000, 2000), n_frames=64, sample_rate=RATE),
        lambda f: intermodulation(f, "ccif", sample_rate=32000),
        lambda f: limit_cycle(f),
        lambda f: limit_cycle(f, sample_rate=RATE, n_frames=100),
        lambda f: limit_cycle(f, sample_rate=RATE, n_frames=2**40),
        lambda f: limit_cycle(f, sample_rate=RATE, n_starts=-1),
        lambda f: limit_cycle(f, sample_rate=RATE, floor_db=np.nan),
        lambda f: limit_cycle(f, sample_rate=RATE, controls={"drive": 1}),
        lambda f: orbit_diagram(f, [0.0], knob="drive"),
        lambda f: orbit_diagram(f, [np.inf]),
        lambda f: orbit_diagram(f, [0.0], period=0),
        lambda f: orbit_diagram(f, [0.0], n_orbit=2**40),
        lambda f: orbit_diagram(f, [0.0], period=2**40),
        lambda f: orbit_diagram(f, [0.0], n_starts=0),
        lambda f: orbit_diagram(f, [0.0], level=np.nan),
        lambda f: orbit_diagram(f, [0.0], seed=-1),
        lambda f: orbit_diagram(lambda v: v, [0.0]),
        lambda f: orbit_diagram(lambda v: f, [0.0], knob="drive"),
        lambda f: orbit_diagram(None, [0.0]),
        lambda f: orbit_diagram(Logistic(), [7.0], knob="r"),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ParameterError):
        call(elman([[0.5]]))


def test_a_sample_rate_that_differs_is_refused():
    with pytest.raises(ParameterError, match="48000"):
        describing_function(LINEAR["sections"](), 1000, 0.0, sample_rate=44100)


def test_a_filter_that_blows_up_says_so():
    with pytest.raises(NonFiniteError):
        harmonic_distortion(Feedback(gain(1.0), 2.0, delay=1, allow_unstable=True), 1000, 0.0, sample_rate=RATE)


# ---- plots


def data(line):
    return np.stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])


def test_harmonics_are_drawn_relative_to_the_fundamental(ax):
    measured = harmonic_distortion(Memoryless("tanh"), 1000, [-20.0, 0, 20], sample_rate=RATE)
    lines = plots.harmonic_plot(measured, ax=ax)
    assert [line.get_label() for line in lines] == [
        "2nd harmonic", "3rd harmonic", "4th harmonic", "5th harmonic", "THD", "aliasing and noise"
    ]  # fmt: skip
    third = measured.harmonics_db[:, 2] - measured.harmonics_db[:, 0]
    np.testing.assert_array_equal(data(lines[1]), [measured.levels_db, third])
    np.testing.assert_array_equal(data(lines[4])[1], measured.thd_db)
    np.testing.assert_array_equal(data(lines[5])[1], measured.aliasing_db)
    assert "harmonics of 1002 Hz" in ax.get_title() and "settled" not in ax.get_title()
    # even harmonics are rounding: out of sight
    assert ax.get_ylim()[0] > -200
    assert len(plots.harmonic_plot(measured, 3, ax=ax)) == 4


def test_rounding_is_not_drawn_as_distortion(ax):
    plots.harmonic_plot(harmonic_distortion(gain(1.0), 1000, [-20.0, 0], sample_rate=RATE), ax=ax)
    assert ax.get_ylim() == (-220, 0) and "rounding" in ax.texts[0].get_text()
    silent = harmonic_distortion(gain(0.0), 1000, [-20.0, 0], sample_rate=RATE)
    assert np.isnan(silent.thd).all()
    plots.harmonic_plot(silent, ax=ax)


def test_gain_and_phase_are_drawn(ax):
    measured = describing_function(LINEAR["sections"](), 1000, [-20.0, 0])
    gain_line, phase_line = plots.describing_function_plot(measured, ax=ax)
    np.testing.assert_array_equal(data(gain_line), [measured.levels_db, measured.gain_db])
    np.testing.assert_array_equal(data(phase_line)[1], measured.phase_deg)
    assert phase_line.axes is not ax and gain_line.get_linestyle() != phase_line.get_linestyle()
    assert np.ptp(ax.get_ylim()) >= 2  # constant, not a picture of rounding


def test_what_has_not_settled_is_said(ax):
    slow = SOS([[1, 0, 0, 1, -0.99999, 0]])
    measured = describing_function(slow, 0.3, [-20.0, 0], sample_rate=1.0, n_windows=2)
    plots.describing_function_plot(measured, ax=ax)
    assert "2 of 2 not settled" in ax.get_title()


def test_tones_and_products_are_drawn_apart(ax):
    measured = intermodulation(Memoryless("mixed"), (1000, 2300), sample_rate=RATE)
    stems = plots.intermodulation_plot(measured, ax=ax)

    def tops(kind):
        return {(round(s[1, 0], 6), round(s[1, 1], 9)) for s in np.array(stems[kind].get_segments())}

    strong = measured.products_db > -160
    assert tops("products") == {
        (round(f, 6), round(v, 9))
        for f, v in zip(measured.products_hz[strong], measured.products_db[strong], strict=True)
    }
    assert {f for f, _ in tops("tones")} == {round(f, 6) for f in measured.tones_hz}
    f1, f2 = measured.tones_hz
    assert {f for f, _ in tops("rest")} == {round(f, 6) for f in (2 * f1, 2 * f2, 3 * f1, 3 * f2)}
    assert {text.get_text() for text in ax.texts} >= {"$f_1$ + $f_2$", "$f_2$ − $f_1$", "2$f_1$ + $f_2$"}
    # the sidebands of a high tone fill the picture
    plots.intermodulation_plot(intermodulation(Memoryless("mixed"), sample_rate=RATE), ax=ax)
    assert 6000 < ax.get_xlim()[0] < 6900 < 7100 < ax.get_xlim()[1] < 8000


def test_aliasing_is_drawn_by_frequency(ax):
    measured = aliasing(Memoryless("tanh"), [8000, 2000, 12000], 20.0, sample_rate=RATE)
    line = plots.aliasing_plot(measured, ax=ax)
    order = np.argsort(measured.frequency_hz)
    np.testing.assert_array_equal(data(line), [measured.frequency_hz[order], measured.ratio_db[order]])


def test_orbits_are_drawn_with_their_starts_and_exponents(ax):
    diagram = orbit_diagram(lambda w: elman([[w]]), [0.5, 1.5, 2.0], n_starts=3, n_orbit=4)
    first, others = plots.orbit_plot(diagram, [-1.0, 0.5, np.nan], ax=ax)
    assert first.get_offsets().shape == (12, 2) and others.get_offsets().shape == (24, 2)
    np.testing.assert_array_equal(np.unique(first.get_offsets()[:, 0]), diagram.values)
    np.testing.assert_array_equal(others.get_offsets()[:, 1], diagram.orbits[:, 1:].ravel())
    (below,) = ax.child_axes
    assert below.get_ylabel() == "Lyapunov\nexponent" and below.get_xlabel() == "parameter"
    assert len(plots.orbit_plot(orbit_diagram(Logistic(), [4.5], knob="r"), ax=ax)) == 1
    with pytest.raises(ParameterError, match="exponents"):
        plots.orbit_plot(diagram, [1.0], ax=ax)

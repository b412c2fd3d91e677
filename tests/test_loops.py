"""Loops: closed forms, python-control, published margins, and the poles that any margin has to agree with."""

import numpy as np
import pytest
from scipy import signal
from scipy.optimize import minimize_scalar

from rnndsp import Feedback, StateSpace, gain, plots
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, SOS, Dense, FeedbackDelayNetwork
from rnndsp.stability import loops, margins, nyquist, open_loop, root_locus
from rnndsp.stability._delay_poles import delay_poles

RATE = 48000.0
ACCUMULATOR = StateSpace([[1.0]], [[1.0]], [[1.0]], [[1.0]])  # 1 / (1 - 1/z)
NAMES = ("gain_up_db", "gain_down_db", "phase_deg", "delay_samples", "modulus", "disk")


def integrator(k, **settings):
    """y[t] = y[t-1] + u[t] - k y[t-1]: L = -k / (z - 1), its pole at 1 - k."""
    return Feedback(ACCUMULATOR, -k, delay=1, **settings)


def from_continuous(A, B, C, D):
    """The same loop gains at other frequencies: s = (z - 1) / (z + 1)."""
    n = len(A)
    M = np.linalg.inv(np.eye(n) - A)
    return StateSpace((np.eye(n) + A) @ M, np.sqrt(2) * M @ B, np.sqrt(2) * C @ M, D + C @ M @ B)


def random_space(rng, n, p, radius, size=1.0):
    A = rng.standard_normal((n, n))
    A *= radius / np.max(np.abs(np.linalg.eigvals(A)))
    B, C, D = (rng.standard_normal(shape) for shape in ((n, p), (p, n), (p, p)))
    return StateSpace(A, B, size * C, size * D)


def random_loop(seed, p, size=0.1):
    rng = np.random.default_rng(seed)
    forward = random_space(rng, 3, p, rng.choice([0.5, 0.9, 1.2]))
    return Feedback(
        forward, random_space(rng, 2, p, 0.9, 0.1 / p**2), delay=int(rng.integers(1, 5)), allow_unstable=True
    )


def closed_poles(filt, factor):
    loop = open_loop(filt)
    return delay_poles(loops._closed(loop, factor), loop.delays)


# ---- the loop cut open


def test_the_loop_gain_is_that_of_its_parts():
    """L = z^-d F G, and y = (I - L)^-1 F u."""
    rng = np.random.default_rng(0)
    forward, backward = random_space(rng, 3, 2, 0.8), random_space(rng, 2, 2, 0.8, 0.05)
    filt = Feedback(forward, backward, delay=4)
    w = np.linspace(0, np.pi, 20)
    F, G, L = (f.frequency_response(w) for f in (forward, backward, open_loop(filt)))
    np.testing.assert_allclose(L, np.exp(-4j * w)[:, None, None] * (F @ G), atol=1e-12)
    H = filt.linearize().frequency_response(w)
    np.testing.assert_allclose(H, np.linalg.inv(np.eye(2) - L) @ F, atol=1e-12)


def test_any_square_filter_counts_as_a_loop_gain():
    assert open_loop(gain(0.5)) == gain(0.5)
    assert margins(gain(0.5)).critical_gains.tolist() == [2.0, 2.0]  # at 0 and at half the sample rate
    with pytest.raises(ParameterError, match="cannot be fed back"):
        open_loop(gain([[1.0, 2.0]]))
    with pytest.raises(ParameterError, match="singular"):
        root_locus(gain(0.5), [1.0, 2.0])


# ---- margins


def test_margins_of_an_integrator():
    """Its poles leave the circle at k = 2; |L| = 1 where 2 sin(w/2) = k, there arg L = pi/2 - w/2."""
    for k in (0.2, 0.5, 1.5):
        found = margins(integrator(k))
        assert found.stable is True
        assert found.gain_up_db == pytest.approx(20 * np.log10(2 / k), rel=1e-12)
        assert found.gain_up_frequency == 0.5
        assert found.gain_down_db == -np.inf and np.isnan(found.gain_down_frequency)
        w = 2 * np.arcsin(k / 2)
        assert found.phase_deg == pytest.approx(90 - np.degrees(w) / 2, rel=1e-9)
        assert found.phase_frequency == pytest.approx(w / (2 * np.pi), rel=1e-9)
        assert found.delay_samples == pytest.approx((np.pi / 2 - w / 2) / w, rel=1e-9)
        assert found.modulus == pytest.approx(1 if k == 2 else 1 - k / 2, rel=1e-12)
        # (1 + L) / (1 - L) / 2 at z = -1
        assert found.disk == pytest.approx(2 * (1 - k / 2) / (1 + k / 2), rel=1e-12)
        np.testing.assert_allclose(found.critical_gains, [2 / k], rtol=1e-12)


@pytest.mark.parametrize("g", [0.5, -0.8])
@pytest.mark.parametrize("d", [1, 6, 480])
def test_margins_of_a_comb(g, d):
    """L = g z^-d runs round a circle: no phase or delay does harm, the gain may rise to 1."""
    found = margins(Feedback(gain(1.0, sample_rate=RATE), g, delay=d))
    assert found.gain_up_db == pytest.approx(-20 * np.log10(abs(g)), rel=1e-12)
    assert (found.phase_deg, found.delay_samples, found.gain_down_db) == (np.inf, np.inf, -np.inf)
    assert found.modulus == pytest.approx(1 - abs(g), rel=1e-9)
    assert found.disk == pytest.approx(2 * (1 - abs(g)) / (1 + abs(g)), rel=1e-9)
    assert found.disk_gain_db == pytest.approx(found.gain_up_db, rel=1e-9)
    np.testing.assert_allclose(found.critical_gains, 1 / abs(g))
    first = 0 if g > 0 else RATE / (2 * d)
    teeth = np.arange(first, RATE / 2 + 1e-6, RATE / d)
    np.testing.assert_allclose(np.sort(found.critical_frequency), teeth, atol=1e-6)


def test_margins_of_a_published_loop():
    """25 / (s^3 + 10 s^2 + 10 s + 10): disk margin .46, 4.05 dB, 25.8 degrees (python-control, MATLAB)."""
    loop = from_continuous(*signal.tf2ss([-25.0], [1, 10, 10, 10]))  # subtracted there, added here
    found = margins(loop)
    assert found.disk == pytest.approx(0.46, abs=0.005)
    assert found.disk_gain_db == pytest.approx(4.05, abs=0.03)
    assert found.disk_phase_deg == pytest.approx(25.8, abs=0.15)
    # s = j sqrt(10): 25 / (10 - 100) = -1 / 3.6
    assert found.gain_up_db == pytest.approx(20 * np.log10(3.6), rel=1e-9)
    assert np.tan(np.pi * found.gain_up_frequency) == pytest.approx(np.sqrt(10), rel=1e-9)


@pytest.mark.parametrize("at_output", [True, False])
def test_disk_margin_of_two_channels(at_output):
    """The spinning satellite: .3754, 3.3 dB, 21.26 degrees, where its unscaled singular value says .1."""
    plant = from_continuous(
        np.array([[0.0, 10], [-10, 0]]), np.eye(2), np.array([[1.0, 10], [-10, 1]]), np.zeros((2, 2))
    )
    controller, subtract = gain([[1.0, -2], [0, 1]]), gain(-np.eye(2))
    loop = controller >> plant >> subtract if at_output else plant >> controller >> subtract
    found = margins(loop)
    assert found.stable
    assert found.disk == pytest.approx(0.3754, abs=1e-3)
    assert found.disk_gain_db == pytest.approx(3.3, abs=0.01)
    assert found.disk_phase_deg == pytest.approx(21.26, abs=0.05)
    assert found.disk_frequency == 0
    # for two channels the best scaling gives the structured singular value itself
    L = open_loop(loop).frequency_response(0)[0].real
    M = np.linalg.inv(np.eye(2) - L) - np.eye(2) / 2
    best = minimize_scalar(lambda x: np.linalg.norm(M * np.exp([[0, x], [-x, 0]]), 2), bracket=(-1, 1)).fun
    assert 1 - 1e-4 < found.disk * best <= 1 + 1e-9
    assert 1 / np.linalg.norm(M, 2) < 0.11


def test_margins_of_python_control():
    control = pytest.importorskip("control")
    compared = 0
    for seed in range(30):
        filt = random_loop(seed, 1, size=0.03)
        found = margins(filt)
        if not found.stable or compared == 3:
            continue
        full = open_loop(filt)
        full = full if isinstance(full, StateSpace) else full.expand()
        theirs = control.ss(full.A, full.B, -full.C, -full.D, True)
        omega = np.append(np.linspace(1e-6, np.pi, 2000), 2 * np.pi * found.disk_frequency)
        disk, disk_db, disk_deg = control.disk_margins(theirs, np.unique(omega), skew=0.0)
        np.testing.assert_allclose([found.disk, found.disk_gain_db], [disk, disk_db], rtol=1e-6)
        np.testing.assert_allclose(found.disk_phase_deg, disk_deg, rtol=1e-6)
        # of their crossings, which are not all that there are
        response = control.frd(theirs, np.linspace(1e-6, np.pi - 1e-6, 4000))
        factors, degrees, modulus = control.stability_margins(response, returnall=True)[:3]
        for factor in factors:
            assert np.min(np.abs(found.critical_gains / factor - 1)) < 1e-3
        assert found.phase_deg == pytest.approx(np.min(np.abs(degrees), initial=np.inf), rel=1e-3)
        # their least distance leaves out the ends
        assert found.modulus <= np.min(modulus, initial=np.inf) * (1 + 1e-6)
        compared += 1
    assert compared == 3


@pytest.mark.parametrize("p", [1, 2])
def test_margins_agree_with_the_poles(p):
    """At a critical gain a pole is on the circle; within every margin all are inside."""
    stable = 0
    for seed in range(12):
        filt = random_loop(seed, p)
        found = margins(filt)
        assert found.stable == (filt.spectral_radius() < 1)
        for factor in found.critical_gains[(found.critical_gains > 0.01) & (found.critical_gains < 100)]:
            assert np.min(np.abs(np.abs(closed_poles(filt, factor)) - 1)) < 1e-9
        if not found.stable:
            assert all(np.isnan(getattr(found, name)) for name in NAMES)
            continue
        stable += 1
        low, high = 10 ** (np.array([max(found.gain_down_db, -40), min(found.gain_up_db, 40)]) / 20)
        for factor in np.geomspace(low * 1.001, high * 0.999, 9):
            assert np.max(np.abs(closed_poles(filt, factor))) < 1
        for more in range(min(int(np.ceil(min(found.delay_samples, 8))), 8)):
            late = Feedback(*filt.children, delay=filt.delay + more, allow_unstable=True)
            assert late.spectral_radius() < 1, (seed, more, found.delay_samples)
        # every channel by a factor of its own from the disk, and by a little more in the worst direction
        rng = np.random.default_rng(seed)
        loop = open_loop(filt)
        for _ in range(20):
            x = 0.999 * found.disk * rng.choice([-1, 1], p)
            turned = loop.replace(C=loop.C * ((1 + x / 2) / (1 - x / 2))[:, None]) if found.disk < 2 else loop
            assert np.max(np.abs(delay_poles(loops._closed(turned, 1.0), loop.delays))) < 1
    assert stable >= 2


def test_a_loop_that_needs_its_gain():
    """F = 1 / (z - 1.2) z, G = -k: the pole 1.2 - k is inside for 0.2 < k < 2.2."""
    forward = StateSpace([[1.2]], [[1.0]], [[1.2]], [[1.0]])  # z / (z - 1.2)
    filt = Feedback(forward, -0.5, delay=1)
    found = margins(filt)
    assert found.gain_down_db == pytest.approx(20 * np.log10(0.2 / 0.5), rel=1e-9)
    assert found.gain_up_db == pytest.approx(20 * np.log10(2.2 / 0.5), rel=1e-9)
    np.testing.assert_allclose(found.critical_gains, [0.4, 4.4], rtol=1e-9)
    np.testing.assert_allclose(found.critical_frequency, [0, 0.5])
    curve = nyquist(filt)
    assert (curve.unstable_open, curve.encirclements, curve.unstable_closed) == (1, 1, 0)


def test_unstable_loops_have_no_margins():
    found = margins(integrator(2.5, allow_unstable=True))
    assert found.stable is False
    assert all(np.isnan(getattr(found, name)) for name in NAMES)
    assert np.isnan(found.disk_gain_db) and np.isnan(found.disk_phase_deg)
    np.testing.assert_allclose(found.critical_gains, [0.8])  # where to lower the gain to
    assert margins(Feedback(gain(1.0), 1.0, delay=3, allow_unstable=True)).stable is False


# ---- Nyquist's curve


@pytest.mark.parametrize("p", [1, 2])
def test_nyquist_counts_the_unstable_poles(p):
    outside = []
    for seed in range(25):
        filt = random_loop(100 + seed, p)
        outside.append(np.count_nonzero(np.abs(filt.poles()) > 1))
        curve = nyquist(filt)
        assert curve.unstable_open == np.count_nonzero(np.abs(filt.children[0].poles()) > 1)
        assert curve.unstable_closed == outside[-1]
    assert min(outside) == 0 and max(outside) >= 3


def test_nyquist_curve_of_a_network_in_a_loop():
    network = FeedbackDelayNetwork([101, 149, 177, 203], t60_s=0.2, sample_rate=RATE)
    filt = Feedback(network, 0.5, delay=50, allow_unstable=True)
    curve = nyquist(filt)
    assert curve.unstable_closed == np.count_nonzero(np.abs(filt.poles()) > 1) == 73
    assert curve.frequency[[0, -1]].tolist() == [0, RATE / 2]
    L = open_loop(filt).frequency_response(2 * np.pi * curve.frequency / RATE)[:, 0, 0]
    np.testing.assert_allclose(curve.curve, L, rtol=1e-9)
    # resolved: seen from the critical point no step turns far
    assert np.max(np.abs(np.angle((1 - L[1:]) / (1 - L[:-1])))) < 1.05


def test_a_resonance_narrower_than_any_grid():
    """A pole pair 1e-6 from the circle: the curve goes round its loop within some microradians."""
    r, w = 1 - 1e-6, 0.7123
    turn = np.array([[np.cos(w), -np.sin(w)], [np.sin(w), np.cos(w)]])
    resonator = StateSpace(r * turn, [[1.0], [0.0]], [[1.0, 0.0]], [[0.0]])
    for factor, unstable in ((1e-6, 0), (4e-5, 2)):
        filt = Feedback(resonator, factor, delay=1, allow_unstable=True)
        assert np.count_nonzero(np.abs(filt.poles()) > 1) == unstable
        assert nyquist(filt).unstable_closed == unstable
        assert margins(filt).stable == (not unstable)


def test_nyquist_passes_an_integrator_on_the_outside():
    for k, unstable in ((0.5, 0), (2.5, 1)):
        curve = nyquist(integrator(k, allow_unstable=True))
        assert curve.radius > 1 and curve.unstable_open == 0
        assert curve.unstable_closed == unstable
    # twice a pole at 1 is as good
    twice = Feedback(ACCUMULATOR >> ACCUMULATOR, -0.5 * gain(1.0).D.item(), delay=1, allow_unstable=True)
    assert nyquist(twice).unstable_closed == np.count_nonzero(np.abs(twice.poles()) > 1 + 1e-6)


def test_nyquist_of_a_loop_on_the_edge_says_so():
    curve = nyquist(Feedback(gain(1.0), 1.0, delay=3, allow_unstable=True))
    assert curve.encirclements is None and curve.unstable_closed is None


def test_an_echo_of_a_tenth_of_a_second():
    lowpass = SOS(signal.butter(1, 6000, fs=RATE, output="sos"), sample_rate=RATE)
    filt = Feedback(lowpass, 0.7, delay=4800)
    found = margins(filt)
    assert found.stable
    assert found.gain_up_db == pytest.approx(-20 * np.log10(0.7), rel=1e-9)
    assert found.modulus == pytest.approx(0.3, rel=1e-9)
    assert found.phase_deg == np.inf
    with pytest.raises(ParameterError, match="too many turns"):
        margins(Feedback(lowpass, 0.7, delay=2**17))
    with pytest.raises(ParameterError, match="too long"):
        margins(StateSpace(0.1 * np.eye(400), np.ones((400, 1)), np.ones((1, 400)), [[0.0]]))


def test_a_cell_in_a_loop_has_margins_at_its_operating_point():
    """tanh(k y) has slope k at rest, and less where it is driven."""
    cell = Dense(1, 1, activation="tanh").replace(W=[[0.8]], b=[0.0])
    filt = Feedback(cell, 1.0, delay=2)
    assert margins(filt).gain_up_db == pytest.approx(-20 * np.log10(0.8), rel=1e-9)
    state = filt.run(np.ones(50))[1]
    y = state.ravel()[0]
    slope = 0.8 * (1 - y**2)
    assert margins(filt, state, [1.0]).gain_up_db == pytest.approx(-20 * np.log10(slope), rel=1e-6)
    recurrent = Feedback(LSTM(1, 4, seed=0) >> Dense(4, 1, seed=1), 0.5, delay=3)
    assert margins(recurrent).stable == (recurrent.spectral_radius() < 1)


# ---- root locus


def test_root_locus_of_an_integrator():
    locus = root_locus(integrator(0.5), np.linspace(0, 5, 11))
    moving = locus.poles[:, np.argmax(np.abs(locus.poles[0]))]
    np.testing.assert_allclose(moving, 1 - 0.5 * locus.gains, atol=1e-12)
    np.testing.assert_allclose(locus.critical_gains, [0, 4], atol=1e-12)
    np.testing.assert_allclose(locus.critical_frequency, [0, 0.5])


def test_branches_keep_their_identity():
    """Two poles that cross: -0.5 + 0.5 k and 0.5 - 0.5 k."""
    two = StateSpace(np.diag([-0.5, 0.5]), np.eye(2), np.diag([0.5, -0.5]), np.zeros((2, 2)))
    locus = root_locus(two, np.linspace(0, 2, 42))  # no gain at which they are equal
    first = int(np.argmin(locus.poles[0].real))
    np.testing.assert_allclose(locus.poles[:, first], -0.5 + 0.5 * locus.gains, atol=1e-12)
    np.testing.assert_allclose(locus.poles[:, 1 - first], 0.5 - 0.5 * locus.gains, atol=1e-12)


def test_critical_gains_of_either_sign():
    for seed in range(6):
        filt = random_loop(200 + seed, 1)
        gains = np.linspace(-3, 3, 25)
        locus = root_locus(filt, gains)
        assert np.all(np.diff(locus.critical_gains) >= 0)
        assert np.all(np.abs(locus.critical_gains) <= 3)
        for factor, frequency in zip(locus.critical_gains, locus.critical_frequency, strict=True):
            gap = np.abs(closed_poles(filt, factor) - np.exp(2j * np.pi * frequency))
            assert np.min(gap) < 1e-8
        # where the number of poles outside changes there is a critical gain between
        outside = np.count_nonzero(np.abs(locus.poles) > 1, axis=1)
        for i in np.flatnonzero(np.diff(outside)):
            assert np.any((locus.critical_gains >= gains[i]) & (locus.critical_gains <= gains[i + 1]))


def test_root_locus_refuses():
    for wrong in ([], [[1.0]], [np.nan], 1.0, [1e300]):
        with pytest.raises(ParameterError, match="gains"):
            root_locus(integrator(0.5), wrong)
    with pytest.raises(ParameterError, match="too many"):
        root_locus(Feedback(gain(1.0), 0.5, delay=3000), [1.0])
    with pytest.raises(ParameterError, match="too long"):
        root_locus(Feedback(gain(1.0), 0.5, delay=1999), np.zeros(10**6))


# ---- plots


def test_nyquist_plot(ax):
    filt = integrator(0.5)
    curve, found = nyquist(filt), margins(filt)
    positive, negative, critical, marks = plots.nyquist_plot(curve, found, ax=ax)
    np.testing.assert_array_equal(positive.get_ydata(), curve.curve.imag)
    np.testing.assert_array_equal(negative.get_ydata(), -curve.curve.imag)
    assert (critical.get_xdata()[0], critical.get_ydata()[0]) == (1, 0)
    disk, up, phase = marks
    # the curve touches the disk and does not enter
    distance = np.abs(curve.curve - complex(*disk.center))
    assert np.min(distance) == pytest.approx(disk.radius, rel=1e-6)
    assert up.get_xdata()[0] == pytest.approx(0.25)
    at = np.asarray(phase.get_xdata()) + 1j * np.asarray(phase.get_ydata())
    assert np.min(np.abs(curve.curve[:, None] - at)) < 0.05
    assert "unstable poles: 0 of the open, 0 of the closed loop" in ax.get_title()


def test_nyquist_plot_of_several_channels_and_of_the_edge(ax):
    curve = nyquist(random_loop(3, 2))
    assert plots.nyquist_plot(curve, ax=ax)[3] == []
    assert "det" in ax.get_title()
    plots.nyquist_plot(nyquist(Feedback(gain(1.0), 1.0, delay=3, allow_unstable=True)))


def test_root_locus_plot(ax):
    locus = root_locus(integrator(0.5), np.linspace(0, 5, 11))
    branches, dots, first, last, critical, colorbar = plots.root_locus_plot(locus, ax=ax)
    assert len(branches) == 2 and dots.get_offsets().shape == (22, 2)
    np.testing.assert_allclose(sorted(first.get_xdata()), [0, 1], atol=1e-12)
    np.testing.assert_allclose(sorted(last.get_xdata()), [-1.5, 0], atol=1e-12)
    np.testing.assert_allclose(sorted(critical.get_xdata()), [-1, -1, 1, 1])
    assert "gain" in colorbar.ax.get_ylabel()
    assert "4" in [text.get_text() for text in ax.texts]

"""Group delay, phase and singular values against closed forms, scipy, and differences of the phase."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import signal
from scipy.stats import ortho_group

from rnndsp import DelayStateSpace, Feedback, StateSpace, delay, frequency_response, gain, plots
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, SOS, Dense, Elman, FeedbackDelayNetwork, GerzonAllpass, TransferFunction
from rnndsp.response import group_delay, phase_response, singular_values

RATE = 48000.0


def lossless(m, n_io, seed):
    """A network of orthogonal [[A, B], [C, D]]: allpass for any delays (Gerzon 1976)."""
    V = ortho_group.rvs(len(m) + n_io, random_state=np.random.default_rng(seed))
    n = len(m)
    return DelayStateSpace(V[:n, :n], V[:n, n:], V[n:, :n], V[n:, n:], m)


@pytest.mark.parametrize("design", [signal.butter(4, 0.2), signal.ellip(5, 1, 40, 0.3), ([1.0, -2.0, 3.0], [1.0])])
def test_group_delay_is_that_of_scipy(design):
    b, a = design
    frequency = np.linspace(0.003, 0.47, 200)
    expected = signal.group_delay(design, 2 * np.pi * frequency)[1]
    found = group_delay(TransferFunction(b, a), frequency)
    np.testing.assert_array_equal(found.frequency, frequency)
    np.testing.assert_allclose(found.samples[:, 0, 0], expected, rtol=1e-6, atol=1e-6)


def test_group_delay_of_an_allpass():
    """H = (z^-m + g) / (1 + g z^-m): tau = m (1 - g^2) / (1 + 2 g cos(m w) + g^2)."""
    m, g = 13, 0.6
    frequency = np.linspace(0, 0.5, 400)
    found = group_delay(GerzonAllpass([m], gain=g), frequency).samples[:, 0, 0]
    expected = m * (1 - g**2) / (1 + 2 * g * np.cos(2 * np.pi * frequency * m) + g**2)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_a_lossless_network_delays_by_the_length_of_its_lines():
    """Mean group delay of det H is 48.000 for m = (7, 11, 13, 17), over a grid of the whole circle."""
    filt = lossless((7, 11, 13, 17), 2, seed=3)
    w = 2 * np.pi * (np.arange(8192) + 0.5) / 16384
    H = filt.frequency_response(w)
    np.testing.assert_allclose(H @ H.conj().transpose(0, 2, 1), np.broadcast_to(np.eye(2), H.shape), atol=1e-12)
    # d/dw log det H = sum_ij (H^-1)_ji dH_ij/dw, and dH/dw of a pair has -tau as the imaginary part of its logarithm
    tau = group_delay(filt, w / (2 * np.pi)).samples
    step = 1e-6
    slope = (filt.frequency_response(w + step) - filt.frequency_response(w - step)) / (2 * step)
    np.testing.assert_allclose(tau, -np.imag(slope / H), rtol=1e-5, atol=1e-4)
    of_det = -np.imag(np.einsum("wij,wji->w", np.linalg.inv(H), slope))
    assert np.mean(of_det) == pytest.approx(48.000, abs=1e-6)
    chain = GerzonAllpass([7]) >> GerzonAllpass([11]) >> GerzonAllpass([13]) >> GerzonAllpass([17])
    assert np.mean(group_delay(chain, w / (2 * np.pi)).samples) == pytest.approx(48.000, abs=1e-9)


def test_group_delay_of_a_cell_counts_its_new_state():
    """h = tanh(h / 2 + u) at rest: H = 1 / (1 - 0.5 / z), so tau = -1 + Re(z / (z - 0.5)), 1 at zero frequency."""
    cell = Elman(1, 1).replace(W=[[1.0]], U=[[0.5]])
    frequency = np.linspace(0, 0.5, 9)
    z = np.exp(2j * np.pi * frequency)
    found = group_delay(cell, frequency).samples.ravel()
    np.testing.assert_allclose(found, np.real(z / (z - 0.5)) - 1, atol=1e-14)
    assert found[0] == pytest.approx(1)


def test_where_there_is_no_phase():
    notch = SOS([[1.0, 0.0, 1.0, 1.0, 0.0, 0.25]])  # zeros at +-j
    found = group_delay(notch, [0.2, 0.25, 0.3]).samples.ravel()
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])
    integrator = StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]])  # a pole at 1
    assert np.isnan(frequency_response(integrator, [0.0, 0.25]).h[:, 0, 0]).tolist() == [True, False]
    np.testing.assert_allclose(group_delay(integrator, [0.0, 0.25, 0.5]).samples.ravel(), [np.nan, 0.5, 0.5])
    np.testing.assert_allclose(singular_values(integrator, [0.0, 0.5]).values, [[np.nan], [0.5]])
    # e^-jw/2 / (2j sin w/2)
    expected = [-np.pi / 2 - np.pi * f for f in (0.1, 0.5)]
    np.testing.assert_allclose(phase_response(integrator, [0.1, 0.5]).radians.ravel(), expected)


@pytest.mark.parametrize("n", [1, 40, 5000])
def test_phase_of_a_long_delay_on_a_coarse_grid(n):
    found = phase_response(delay(n, sample_rate=RATE), [0.0, 997.0, 9000.0, 24000.0])
    np.testing.assert_allclose(found.radians.ravel(), -2 * np.pi * n * found.frequency / RATE, rtol=1e-9)
    np.testing.assert_allclose(found.delay.ravel(), n, rtol=1e-9)


def test_phase_of_designs():
    """An allpass turns by pi a state on half the circle; a sign of -1 is half a turn at zero frequency."""
    assert phase_response(GerzonAllpass([13], gain=-0.7), 1000).radians[-1, 0, 0] == pytest.approx(-13 * np.pi)
    b, a = signal.butter(4, 0.2)
    found = phase_response(StateSpace(*signal.tf2ss(b, a)), np.linspace(0, 0.45, 300))
    expected = np.unwrap(np.angle(signal.freqz(b, a, 2 * np.pi * found.frequency)[1]))
    np.testing.assert_allclose(found.radians[:, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found.delay[1:, 0, 0], -expected[1:] / (2 * np.pi * found.frequency[1:]), rtol=1e-5)
    tau = group_delay(StateSpace(*signal.tf2ss(b, a)), [0.0]).samples
    np.testing.assert_allclose(found.delay[0], tau[0])
    inverted = phase_response(gain(-2.0), [0.0, 0.1])
    np.testing.assert_allclose(inverted.radians.ravel(), [np.pi, np.pi])
    assert np.isnan(inverted.delay[0, 0, 0])


def test_singular_values():
    filt = lossless((3, 4), 2, seed=1)
    np.testing.assert_allclose(singular_values(filt, 64).values, 1, rtol=1e-12)
    wide = gain([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    np.testing.assert_allclose(singular_values(wide, [0.1]).values, [[4.0, 3.0]])


def test_bad_frequencies():
    filt = gain(1.0)
    for wrong in (np.nan, [0.1, np.inf], [[0.1]], 0):
        with pytest.raises(ParameterError, match="frequency"):
            group_delay(filt, wrong)
    with pytest.raises(ParameterError, match="ascend"):
        phase_response(filt, [0.2, 0.1])
    assert phase_response(filt, []).radians.shape == (0, 1, 1)


# ---- plots


def test_bode_plot():
    upper, lower = Figure().subplots(2, sharex=True)
    filt = SOS(signal.butter(2, 1000, fs=RATE, output="sos"), sample_rate=RATE)
    (curve,), _, (phase,) = plots.bode_plot(filt, ax=(upper, lower))
    assert curve.axes is upper and phase.axes is lower
    assert np.interp(1000, *phase.get_data()) == pytest.approx(-90, abs=0.01)
    assert "degrees" in lower.get_ylabel()


def test_group_delay_plot(ax):
    (curve,), averages = plots.group_delay_plot(delay(48, sample_rate=RATE), ax=ax)
    np.testing.assert_allclose(curve.get_ydata(), 1.0)
    assert "ms" in ax.get_ylabel() and averages == []
    low, high = ax.get_ylim()
    assert low < 1 < high


def test_group_delay_plot_of_many_modes(ax):
    network = FeedbackDelayNetwork([211, 307, 401], t60_s=0.1, sample_rate=RATE)
    (curve,), (average,) = plots.group_delay_plot(network, ax=ax)
    assert curve.get_xdata().size == average.get_xdata().size
    frequency, mean = average.get_data()
    h = network(np.eye(1, 48000)[0]) ** 2
    # when the energy arrives, in the mean over all frequencies that are many octaves wide
    centre = 1000 / RATE * np.sum(np.arange(h.size) * h) / np.sum(h)
    assert np.mean(mean[frequency > 3000]) == pytest.approx(centre, rel=0.1)


def test_singular_value_plot(ax):
    lines = plots.singular_value_plot(gain([[10.0, 0.0], [0.0, 0.1]]), ax=ax)
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines], [20, -20])


def test_a_loop_is_an_operating_point_too(ax):
    loop = Feedback(LSTM(1, 3, seed=0) >> Dense(3, 1), 0.3, delay=2)
    state = loop.run(0.3 * np.ones(50))[1]
    here = group_delay(loop, [0.1], state=state, u=[0.3]).samples
    assert not np.allclose(here, group_delay(loop, [0.1]).samples, rtol=1e-3)

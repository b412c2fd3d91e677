"""Non-normality. Oracles: closed forms, published values, dense singular values, inequalities that must hold."""

import matplotlib
import numpy as np
import pytest
from scipy import linalg, signal

from rnndsp import DelayStateSpace, Feedback, Framed, StateSpace, delay, gain
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, FeedbackDelayNetwork
from rnndsp.plots import nonnormal
from rnndsp.stability import transients
from rnndsp.stability._resolvent import Resolvent, line_norms
from rnndsp.stability.transients import (
    eigenvector_condition,
    henrici_departure,
    kreiss_constant,
    numerical_radius,
    pseudospectrum,
    stability_radius,
    transient_growth,
)

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of backend

NORMS = (eigenvector_condition, henrici_departure, kreiss_constant, numerical_radius, stability_radius)


def system(A, **settings):
    n = len(A)
    return StateSpace(A, np.ones((n, 1)), np.ones((1, n)), [[0.0]], **settings)


def network(A, delays):
    n = len(A)
    return DelayStateSpace(A, np.ones((n, 1)), np.ones((1, n)), [[0.0]], delays)


def sigma_min(A, z):
    return np.linalg.svd(z * np.eye(len(A)) - A, compute_uv=False)[-1]


def resolvent_on_circle(A, n=4096):
    turned = np.exp(1j * np.linspace(0, np.pi, n))[:, None, None] * np.eye(len(A)) - A
    return np.linalg.svd(turned, compute_uv=False)[:, -1].min()


TILTED = system([[0.9, 5.0], [0.0, 0.8]])


# ---- published values


@pytest.mark.parametrize("b", [2.0, 4.0, 10.0, 300.0])
def test_a_nilpotent_pair(b):
    """K = b/4 + 1/b from b = 2 on, and sup ||A^k|| = b."""
    filt = system([[0.0, b], [0.0, 0.0]])
    assert abs(kreiss_constant(filt) - (b / 4 + 1 / b)) < 1e-9 * b
    growth = transient_growth(filt, n_steps=5)
    assert (growth.maximum, growth.argmax, growth.complete) == (b, 1, True)
    assert abs(numerical_radius(filt) - b / 2) < 1e-8 * b
    assert henrici_departure(filt) == b and eigenvector_condition(filt) == np.inf


def test_the_published_pair():
    assert abs(kreiss_constant(TILTED) - 8.608640763) < 1e-8
    assert abs(stability_radius(TILTED) - 0.003996007) < 5e-10
    assert abs(henrici_departure(TILTED) - 5) < 1e-12
    assert abs(eigenvector_condition(TILTED) - (50 + np.sqrt(2501))) < 1e-9  # cot of half the angle, tan = 0.02
    growth = transient_growth(TILTED, n_steps=40)
    assert abs(growth.maximum - 13.477879199) < 5e-10 and growth.argmax == 6
    assert growth.kreiss == kreiss_constant(TILTED)


def test_the_numerical_range_of_two_by_two_is_an_ellipse():
    """Foci at the eigenvalues .9 and .8, minor axis 5."""
    centre, major = 0.85, np.sqrt(5**2 + 0.1**2)
    assert abs(numerical_radius(TILTED) - (centre + major / 2)) < 1e-9


def test_a_delay_line():
    """A Jordan block of zero: w = cos(pi / (n + 1)), r = 2 sin(pi / (4 n + 2)), K = 1, powers of norm 1, then 0."""
    for n in (1, 2, 5, 60):
        line = delay(n)
        assert abs(numerical_radius(line) - np.cos(np.pi / (n + 1))) < 1e-9
        assert abs(stability_radius(line) - 2 * np.sin(np.pi / (4 * n + 2))) < 1e-9
        assert abs(kreiss_constant(line) - 1) < 1e-9
        assert abs(henrici_departure(line) - np.sqrt(n - 1)) < 1e-9
        np.testing.assert_allclose(transient_growth(line, n_steps=n + 2).norm, [1.0] * n + [0.0] * 3, atol=1e-15)
    on_circle = 2 * np.sin(np.pi / (4 * 3000 + 2))  # the same from the recursion along a line
    assert Resolvent(np.zeros((1, 1)), np.array([3000])).sigma_min(1j) == pytest.approx(on_circle, rel=1e-9)


# ---- normal matrices: the poles say it all


def test_normal_matrices():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5):
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        A = Q * rng.uniform(-0.9, 0.9, n) @ Q.T
        found = pseudospectrum(system(A), n_points=12)
        distance = np.min(np.abs(found.z[..., None] - found.poles), axis=-1)
        np.testing.assert_allclose(found.sigma_min, distance, rtol=1e-5, atol=1e-14)
        radius = np.max(np.abs(found.poles))
        growth = transient_growth(system(A), n_steps=30)
        np.testing.assert_allclose(growth.norm, radius ** np.arange(31), rtol=1e-12)
        assert growth.complete and growth.argmax == 0
        assert abs(kreiss_constant(system(A)) - 1) < 1e-9
        assert abs(stability_radius(system(A)) - (1 - radius)) < 1e-9
        assert abs(numerical_radius(system(A)) - radius) < 1e-9
        assert henrici_departure(system(A)) < 1e-13
        assert abs(eigenvector_condition(system(A)) - 1) < 1e-12


def test_a_rotation_stands_still():
    rotation = system([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    assert abs(kreiss_constant(rotation) - 1) < 1e-6
    assert stability_radius(rotation) < 1e-12
    growth = transient_growth(rotation, n_steps=50)
    assert abs(growth.maximum - 1) < 1e-12 and not growth.complete


@pytest.mark.parametrize(
    "A",
    [
        [[1.1]],
        [[1.0, 1.0], [0.0, 1.0]],
        [[0.0, 1.0], [-1.0, 2.0]],  # (z - 1)^2, of which rounding makes something near
        [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]],
    ],
)
def test_what_grows_for_ever(A):
    assert kreiss_constant(system(A)) == np.inf
    assert stability_radius(system(A)) < 1e-7
    growth = transient_growth(system(A), n_steps=3000)
    assert growth.maximum > 1000 and growth.argmax == 3000 and not growth.complete


def test_a_power_beyond_all_numbers():
    growth = transient_growth(system([[1e3, 0.0], [1.0, 1e3]]), n_steps=200)
    assert growth.maximum == np.inf and growth.argmax == 103 and growth.norm[2] < 2e6


# ---- dense oracles


@pytest.mark.parametrize("n", [1, 2, 3, 8, 40])
def test_pseudospectrum_against_singular_values(n):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n)) / np.sqrt(n)
    found = pseudospectrum(system(A), n_points=9, limits=(-1.3, 1.2, -1.5, 1.1))
    assert found.z.shape == (9, 9) and found.z[0, 0] == -1.3 - 1.5j and found.z[-1, 0] == -1.3 + 1.1j
    expected = np.vectorize(lambda z: sigma_min(A, z))(found.z)
    np.testing.assert_allclose(found.sigma_min, expected, rtol=1e-5, atol=1e-14)
    exact = Resolvent(A, np.ones(n, np.int64)).sigma_min(found.z)
    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-14)


def test_long_lines_against_their_expansion():
    """Singular values by elimination along the lines, powers by running them: both against the dense matrix."""
    rng = np.random.default_rng(1)
    for lines in ([40, 77], [1, 60, 50], [2, 1, 120], [130]):
        A = rng.standard_normal((len(lines), len(lines)))
        A *= 0.9 / np.linalg.norm(A, 2) if rng.random() < 0.5 else 0.7
        delays = np.array(lines)
        F = np.asarray(network(A, lines).expand().A)
        resolvent = Resolvent(A, delays)
        assert resolvent.along
        z = rng.standard_normal(12) + 1j * rng.standard_normal(12)
        z[:4] = 0, 1, -1, 1.0001 * np.exp(1j)
        expected = [sigma_min(F, point) for point in z]
        np.testing.assert_allclose(resolvent.sigma_min(z), expected, rtol=1e-8)
        at_poles = resolvent.sigma_min(resolvent.poles[:5])
        assert np.max(at_poles) < 1e-7  # told from zero no more
        assert (
            abs(henrici_departure(network(A, lines)) ** 2 - np.sum(F**2) + np.sum(np.abs(resolvent.poles) ** 2)) < 1e-9
        )
        index = np.array([0, 1, 5, 39, 61, 140])
        powers = [np.linalg.norm(np.linalg.matrix_power(F, k), 2) for k in index]
        found = line_norms(index, A, delays, rng.standard_normal(len(F)))
        np.testing.assert_allclose(found, powers, rtol=1e-9)


def test_the_kreiss_constant_of_long_lines():
    """Against the same network expanded to a dense matrix."""
    A = np.array([[0.5, 3.0], [0.0, -0.6]])
    long, dense = network(A, [60, 61]), network(A, [60, 61]).expand()
    assert Resolvent(A, np.array([60, 61])).along
    found = kreiss_constant(long)
    assert abs(found / kreiss_constant(dense) - 1) < 1e-6 and found > 1.5
    assert transient_growth(dense, n_steps=200).maximum >= found


def test_stability_radius_is_the_least_value_on_the_circle():
    rng = np.random.default_rng(2)
    for _ in range(30):
        n = int(rng.integers(2, 9))
        A = rng.standard_normal((n, n))
        A *= rng.uniform(0.3, 0.999) / np.max(np.abs(np.linalg.eigvals(A)))
        found = stability_radius(system(A))
        grid = resolvent_on_circle(A)
        assert found <= grid * (1 + 1e-9)
        assert grid - found <= np.pi / 4095  # sigma_min is 1-Lipschitz in the angle
        # and the change that puts a pole there: A + E has an eigenvalue on the circle for the E of that size
        assert transients.distance_to_circle(A.T) == pytest.approx(found, rel=1e-8)


def test_stability_radius_finds_a_narrow_dip():
    """A pole a hair from the circle, between the points of any grid."""
    angle, gap = 1.2345678, 1e-6
    pole = (1 - gap) * np.exp(1j * angle)
    A = np.zeros((5, 5))
    A[:2, :2] = [[pole.real, -pole.imag], [pole.imag, pole.real]]
    A[2:, 2:] = [[0.95, 2.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, -0.99]]
    assert abs(stability_radius(system(A)) / gap - 1) < 1e-6


def test_numerical_radius_against_angles():
    rng = np.random.default_rng(3)
    for _ in range(30):
        n = int(rng.integers(1, 8))
        A = rng.standard_normal((n, n))
        turned = np.exp(1j * np.linspace(0, np.pi, 2001))[:, None, None] * A
        grid = np.linalg.eigvalsh((turned + np.conj(np.swapaxes(turned, 1, 2))) / 2)[:, -1].max()
        found = numerical_radius(system(A))
        # the polygon round the field of values that the angles make
        assert grid * (1 - 1e-12) <= found <= grid / np.cos(np.pi / 4000)


def test_kreiss_matrix_theorem():
    """K <= sup ||A^k|| <= e n K, the bounds by resolvent and by Lyapunov, Berger's and Henrici's inequalities."""
    rng = np.random.default_rng(4)
    grown = 0
    for _ in range(60):
        n = int(rng.integers(1, 7))
        A = np.triu(rng.standard_normal((n, n)), 1) * rng.choice([0.3, 3.0, 30.0])
        A += np.diag(rng.uniform(-0.95, 0.95, n))
        filt = system(A)
        growth = transient_growth(filt, n_steps=400)
        assert growth.complete
        assert growth.kreiss <= growth.maximum * (1 + 1e-9)
        assert growth.maximum <= np.e * n * growth.kreiss
        k = growth.index
        assert np.all(growth.norm >= growth.spectral_radius**k * (1 - 1e-9))
        assert np.all(np.maximum.accumulate(growth.norm) >= growth.lower * (1 - 1e-9))
        assert np.all(growth.norm <= growth.upper) and growth.upper[-1] < np.inf
        assert growth.lower[-1] >= 0.8 * growth.kreiss  # which it tends to, or to more
        with np.errstate(over="ignore"):
            assert np.all(growth.norm <= 2 * numerical_radius(filt) ** k.astype(float) * (1 + 1e-9))
        assert np.all(growth.norm <= eigenvector_condition(filt) * growth.spectral_radius**k * (1 + 1e-6))
        grown += growth.maximum > 10
    assert grown > 15


def test_kreiss_constant_is_no_less_than_any_point_shows():
    rng = np.random.default_rng(5)
    for _ in range(15):
        n = int(rng.integers(2, 7))
        A = rng.standard_normal((n, n)) * rng.choice([1, 10.0], (n, n))
        A *= rng.uniform(0.5, 0.999) / np.max(np.abs(np.linalg.eigvals(A)))
        gap = 10 ** rng.uniform(-4, 1, 3000)
        z = (1 + gap) * np.exp(1j * rng.uniform(0, np.pi, gap.size))
        least = np.linalg.svd(z[:, None, None] * np.eye(n) - A, compute_uv=False)[:, -1]
        assert np.max(gap / least) <= kreiss_constant(system(A)) * (1 + 1e-9)


# ---- any filter


def test_an_lstm_at_an_operating_point():
    cell = LSTM(1, 6, seed=1)
    _, state = cell.run(np.random.default_rng(0).standard_normal((50, 1)))
    linear = cell.linearize(state, [0.3])
    assert kreiss_constant(cell, state, [0.3]) == kreiss_constant(linear)
    found = pseudospectrum(cell, state, [0.3], n_points=5)
    expected = np.vectorize(lambda z: sigma_min(linear.A, z))(found.z)
    np.testing.assert_allclose(found.sigma_min, expected, rtol=1e-5)
    growth = transient_growth(cell, state, [0.3], n_steps=10)
    assert growth.norm[3] == pytest.approx(np.linalg.norm(np.linalg.matrix_power(linear.A, 3), 2), rel=1e-12)


def test_a_lossless_network_is_normal():
    """Orthogonal mixing: the state only turns, and a homogeneous loss only shrinks it."""
    lossless = network(np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0], [500, 431, 331])
    assert henrici_departure(lossless) < 1e-5
    growth = transient_growth(lossless, n_steps=900, every=300)
    np.testing.assert_allclose(growth.norm, 1, rtol=1e-9)
    np.testing.assert_array_equal(growth.index, [0, 300, 600, 900])
    assert abs(growth.kreiss - 1) < 1e-5 and np.isinf(growth.upper).all()
    found = pseudospectrum(lossless, n_points=6)
    np.testing.assert_allclose(found.sigma_min, np.abs(np.abs(found.z) - 1), atol=0.01)  # poles stand close
    reverb = FeedbackDelayNetwork([501, 431, 331], t60_s=0.3, sample_rate=48000)
    assert kreiss_constant(reverb) == pytest.approx(1, abs=1e-6)


def test_the_same_poles_in_normal_form_do_not_grow():
    """A companion matrix of sharp poles lets states grow a hundred thousand times, rotations by themselves none."""
    z, p, k = signal.butter(6, 0.05, output="zpk")
    direct = StateSpace(*signal.tf2ss(*signal.zpk2tf(z, p, k)))
    turns = [[[w.real, -w.imag], [w.imag, w.real]] for w in p if w.imag > 0]
    normal = system(linalg.block_diag(*turns))
    np.testing.assert_allclose(np.sort_complex(normal.poles()), np.sort_complex(direct.poles()), atol=1e-9)
    assert transient_growth(direct).maximum > 1e5 and kreiss_constant(direct) > 1e4
    assert transient_growth(normal).maximum == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: kreiss_constant(gain(2.0)), "no state"),
        (lambda: stability_radius(network([[0.5]], [5000])), "400"),
        (lambda: numerical_radius(network([[0.5]], [5000])), "400"),
        (lambda: eigenvector_condition(network([[0.5]], [5000])), "400"),
        (lambda: pseudospectrum(TILTED, n_points=1), "n_points"),
        (lambda: pseudospectrum(TILTED, limits=(1, -1, 0, 1)), "limits"),
        (lambda: pseudospectrum(TILTED, limits=(0, 1, 0, np.nan)), "limits"),
        (lambda: pseudospectrum(TILTED, limits=(0, 1)), "limits"),
        (lambda: pseudospectrum(network([[0.5]], [100_003]), n_points=400), "fewer"),
        (lambda: transient_growth(TILTED, n_steps=-1), "n_steps"),
        (lambda: transient_growth(TILTED, n_steps=10, every=0), "every"),
        (lambda: transient_growth(TILTED, 7), "state"),
        (lambda: transient_growth(network(np.eye(8) / 2, [1000] * 8), n_steps=48000), "n_steps"),
        (lambda: kreiss_constant(TILTED, controls={"q": 1.0}), "controls"),
        (lambda: pseudospectrum(Framed.spectral_gain(np.ones(9), n_fft=16)), "linearize"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ParameterError, match=said):
        call()


# ---- pictures


def test_pseudospectrum_plot():
    filt = system(TILTED.A, sample_rate=48000)
    contours, poles, star = nonnormal.pseudospectrum_plot(filt, n_points=30)
    np.testing.assert_allclose(np.sort(poles.get_xdata()), [0.8, 0.9], atol=1e-12)
    z = complex(star.get_xdata()[0], star.get_ydata()[0])
    assert (abs(z) - 1) / sigma_min(TILTED.A, z) == pytest.approx(8.608640763, rel=1e-8)
    assert contours.levels[0] <= np.log10(pseudospectrum(filt, n_points=30).sigma_min.min())
    assert "8.609" in contours.axes.get_title()
    pyplot.close("all")
    *_, star = nonnormal.pseudospectrum_plot(pseudospectrum(Feedback(gain(1.0), 0.5, delay=3), n_points=9))
    assert len(star.get_xdata()) == 0
    pyplot.close("all")


def test_transient_plot():
    growth = transient_growth(TILTED, n_steps=40)
    norm, poles, lower, kreiss, upper = nonnormal.transient_plot(growth, sample_rate=1000)
    np.testing.assert_array_equal(norm.get_xdata(), np.arange(41))  # milliseconds
    for line, values in ((norm, growth.norm), (lower, growth.lower), (upper, growth.upper), (poles, 0.9**growth.index)):
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    assert kreiss.get_ydata()[0] == growth.kreiss
    assert "13.48 times in 6 samples" in norm.axes.get_title()
    pyplot.close("all")
    for filt in (system([[1.5]]), LSTM(1, 3)):  # no finite constant; any filter
        assert nonnormal.transient_plot(filt, n_steps=5)[0].axes.get_xlabel() == "time (samples)"
    pyplot.close("all")

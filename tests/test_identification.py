"""ARX, N4SID, ERA, spectral filtering, persistency of excitation.

Oracles: the systems that made the data, closed forms, python-control's realisation, a plain normal equation.
"""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot

from rnndsp import NonFiniteError, ParameterError, StateSpace, impulse_response
from rnndsp.filters import SOS, TransferFunction
from rnndsp.identification import arx, era, n4sid, persistency_of_excitation, spectral_filters, spectral_fit
from rnndsp.plots import order_plot

POLES = np.array([0.95 * np.exp(0.3j), 0.95 * np.exp(-0.3j), 0.8, -0.5])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def system(n_inputs=2, n_outputs=3, seed=0):
    """Known poles in unknown coordinates."""
    rng = np.random.default_rng(seed)
    c, s = 0.95 * np.cos(0.3), 0.95 * np.sin(0.3)
    A = np.zeros((4, 4))
    A[:2, :2], A[2, 2], A[3, 3] = [[c, -s], [s, c]], 0.8, -0.5
    T = rng.standard_normal((4, 4))
    A = T @ A @ np.linalg.inv(T)
    B, C, D = (rng.standard_normal(shape) for shape in ((4, n_inputs), (n_outputs, 4), (n_outputs, n_inputs)))
    return StateSpace(A, B, C, D)


def markov(linear, n=40):
    """D, CB, CAB, ... by the definition."""
    found, x = [linear.D], linear.B
    for _ in range(n):
        found.append(linear.C @ x)
        x = linear.A @ x
    return np.array(found)


def poles_of(linear):
    return np.sort_complex(np.linalg.eigvals(linear.A))


@pytest.mark.parametrize("order", [None, 4])
def test_n4sid_finds_a_system_exactly(order):
    truth, u = system(), noise(400, 2, seed=1)
    state = truth.rest_state()
    state.lines[...] = 1.0, -2.0, 3.0, 0.5
    y, _ = truth.run(u, state)
    found = n4sid(u, y, order=order, sample_rate=100)
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(POLES), atol=1e-8)
    np.testing.assert_allclose(markov(found.system), markov(truth), atol=1e-8)
    assert np.abs(found.residuals).max() < 1e-8
    assert found.singular_values[4] < 1e-10 * found.singular_values[3]
    assert found.system.sample_rate == 100
    again = found.system.rest_state()
    again.lines[...] = found.initial_state
    np.testing.assert_allclose(found.system.run(u, again)[0], y, atol=1e-8)


def test_n4sid_with_noise():
    truth, u = system(), noise(4000, 2, seed=2)
    y = truth(u)
    noisy = y + 0.1 * noise(*y.shape, seed=3)
    found = n4sid(u, noisy, horizon=12)
    assert found.system.delays.size == 4
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(POLES), atol=2e-3)
    np.testing.assert_allclose(markov(found.system), markov(truth), atol=0.02)
    np.testing.assert_allclose(found.residuals.std(axis=0), 0.1, rtol=0.05)
    assert found.singular_values[3] > 20 * found.singular_values[4]


def test_n4sid_of_noise_within_the_system():
    # process noise: the poles of the noise's model are those of the system
    truth, rng = system(), np.random.default_rng(4)
    driven = StateSpace(truth.A, np.hstack([truth.B, np.eye(4)]), truth.C, np.hstack([truth.D, np.zeros((3, 4))]))
    u = rng.standard_normal((8000, 2))
    y = driven(np.hstack([u, 0.1 * rng.standard_normal((8000, 4))])) + 0.1 * rng.standard_normal((8000, 3))
    found = n4sid(u, y, order=4, horizon=12)
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(POLES), atol=0.01)


def test_n4sid_finds_the_innovations():
    """Noise of its own zeros: the gain, the innovations' covariance, and the filter that predicts."""
    A, B, C, D = [[0.9, 0.3], [-0.3, 0.8]], [[1.0], [0.5]], [[1.0, 0.0], [0.3, 1.0]], [[0.2], [0.0]]
    K, root, rng = np.array([[0.6, 0.1], [-0.2, 0.3]]), np.array([[0.7, 0.0], [0.3, 0.5]]), np.random.default_rng(26)
    u, e = rng.standard_normal((20_000, 1)), rng.standard_normal((20_000, 2)) @ root.T
    y = StateSpace(A, np.hstack([B, K]), C, np.hstack([D, np.eye(2)]))(np.hstack([u, e]))
    found = n4sid(u, y, order=2, sample_rate=8)
    np.testing.assert_allclose(found.innovation_covariance, root @ root.T, atol=0.02)
    colour = [StateSpace(m.A, k, m.C, np.eye(2)) for m, k in ((found.system, found.gain), (StateSpace(A, B, C, D), K))]
    np.testing.assert_allclose(markov(colour[0], 10), markov(colour[1], 10), atol=0.05)
    predictor = found.predictor()
    assert predictor.spectral_radius() < 1 and predictor.sample_rate == 8
    left = (y - predictor(np.hstack([y, u])))[100:]
    np.testing.assert_allclose(left, e[100:], atol=0.2)
    np.testing.assert_allclose(np.cov(left.T), root @ root.T, atol=0.02)
    assert abs(np.corrcoef(left[1:, 0], left[:-1, 0])[0, 1]) < 0.03


def test_the_gain_of_an_output_without_noise():
    truth, u = system(1, 1), noise(300, seed=27)
    found = n4sid(u, truth(u))
    np.testing.assert_allclose(found.gain, 0, atol=1e-6)
    growing = StateSpace([[1.02, 0.1], [0, 0.9]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
    found = n4sid(u, growing(u), order=2)
    # the pole outside is mirrored
    np.testing.assert_allclose(poles_of(found.predictor()), [0.9, 1 / 1.02], atol=1e-6)
    with pytest.raises(ParameterError, match="no gain"):
        era(markov(truth, 20)).predictor()


def test_n4sid_of_an_unstable_system_and_without_feedthrough():
    truth = StateSpace([[1.02, 0.1], [0, 0.9]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
    u = noise(200, seed=5)
    y = truth(u)
    found = n4sid(u, y, order=2, feedthrough=False)
    np.testing.assert_allclose(poles_of(found.system), [0.9, 1.02], atol=1e-8)
    assert not found.system.D.any()
    np.testing.assert_allclose(markov(found.system), markov(truth), atol=1e-8)


def test_n4sid_of_an_order_whose_simulation_overflows():
    """Poles of 1.1 that are not there: after 3000 frames no number can be squared any more."""
    u = noise(3000)
    y = SOS.from_zpk([1, -1], [0.95 * np.exp(0.3j), 0.95 * np.exp(-0.3j)], 0.1)(u) + 0.05 * noise(3000, seed=1)
    for order in range(2, 10):
        try:
            found = n4sid(u, y, order=order, horizon=10)
        except ParameterError as error:
            assert "blows up" in str(error) and order > 2
        else:
            assert found.residuals.std() < 0.06


def test_n4sid_finds_a_filter_of_ours():
    elliptic = SOS.from_zpk([1, -1], [0.9 * np.exp(1j), 0.9 * np.exp(-1j)], 0.1)
    u = noise(300, seed=6)
    found = n4sid(u, elliptic(u)).system
    np.testing.assert_allclose(found(u), elliptic(u), atol=1e-10)
    np.testing.assert_allclose(poles_of(found), np.sort_complex(elliptic.poles()), atol=1e-10)


def test_many_frames_go_through_in_chunks():
    # 40000 frames, more than two chunks: the triangle is that of the whole Hankel matrix
    u = noise(40_000, seed=7)
    rows = np.stack([u[i : len(u) - 4 + i] for i in range(5)])
    found = persistency_of_excitation(u, 5)
    np.testing.assert_allclose(
        found.singular_values, np.linalg.svd(rows, compute_uv=False) / np.sqrt(rows.shape[1]), rtol=1e-10
    )


def test_era_finds_a_system_exactly():
    truth = system()
    found = era(markov(truth, 120))
    assert found.system.delays.size == 4
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(POLES), atol=1e-8)
    np.testing.assert_allclose(markov(found.system, 200), markov(truth, 200), atol=1e-8)
    assert np.abs(found.residuals).max() < 1e-8


def test_era_of_a_noisy_response():
    truth = system(1, 1)
    h = markov(truth, 300) + 1e-3 * noise(301, 1, 1, seed=8)
    found = era(h, order=4)
    np.testing.assert_allclose(markov(found.system, 100), markov(truth, 100), atol=5e-3)
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(POLES), atol=0.02)


def test_era_is_that_of_python_control():
    control = pytest.importorskip("control")
    if not hasattr(control, "eigensys_realization"):
        pytest.skip("this control has no eigensys_realization")
    truth = system(2, 2)
    h = markov(truth, 60) + 1e-3 * noise(61, 2, 2, seed=9)
    theirs, values = control.eigensys_realization(h.transpose(1, 2, 0), r=4, m=30, n=30)
    found = era(h, order=4, horizon=30)
    np.testing.assert_allclose(found.singular_values[: len(values)], values[: found.singular_values.size], rtol=1e-8)
    np.testing.assert_allclose(poles_of(found.system), np.sort_complex(theirs.poles()), atol=1e-8)


@pytest.mark.parametrize("delay", [0, 3])
def test_arx_finds_a_difference_equation_exactly(delay):
    b, a = [0.5, -0.2, 0.3], [-1.2, 0.6]
    truth = TransferFunction([0.0] * delay + b, [1.0, *a])
    u = noise(200, seed=10)
    found = arx(u, truth(u), n_poles=2, n_zeros=2, delay=delay)
    np.testing.assert_allclose(found.a[:, 0, 0], a, atol=1e-10)
    np.testing.assert_allclose(found.b[:, 0, 0], b, atol=1e-10)
    np.testing.assert_allclose(found.system(u), truth(u), atol=1e-10)
    assert np.abs(found.residuals).max() < 1e-10


def test_arx_of_several_channels():
    rng = np.random.default_rng(11)
    a, b = 0.3 * rng.standard_normal((2, 2, 2)), rng.standard_normal((3, 2, 3))
    u, y = rng.standard_normal((300, 3)), np.zeros((300, 2))
    for t in range(300):
        for k in range(2):
            y[t] -= a[k] @ y[t - k - 1] if t > k else 0
        for k in range(3):
            y[t] += b[k] @ u[t - k] if t >= k else 0
    found = arx(u, y, n_poles=2, n_zeros=2)
    np.testing.assert_allclose(found.a, a, atol=1e-9)
    np.testing.assert_allclose(found.b, b, atol=1e-9)
    np.testing.assert_allclose(found.system(u), y, atol=1e-8 * np.abs(y).max())


def test_arx_with_ridge_is_the_normal_equation():
    u, y = noise(80, seed=12), noise(80, seed=13)
    found = arx(u, y, n_poles=1, n_zeros=1, ridge=0.7)
    X = np.column_stack([-y[:-1], u[1:], u[:-1]])
    S = np.linalg.norm(X, axis=0)
    w = np.linalg.solve((X / S).T @ (X / S) + 0.7 * np.eye(3), (X / S).T @ y[1:]) / S
    np.testing.assert_allclose([found.a[0, 0, 0], *found.b[:, 0, 0]], w, rtol=1e-10)
    np.testing.assert_allclose(found.residuals[1:, 0], y[1:] - X @ w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("u", "order"),
    [
        (np.ones(100), 1),
        (np.sin(0.3 * np.arange(100)), 2),
        (1 + np.sin(0.3 * np.arange(100)) + np.sin(1.1 * np.arange(100)), 5),
        ((-1.0) ** np.arange(100), 1),
        (np.zeros(100), 0),
        (np.eye(1, 100, 50)[0], 8),
        (noise(100), 8),
        (np.tile(noise(5), 20), 5),  # of period five
    ],
)
def test_what_signals_excite(u, order):
    found = persistency_of_excitation(u, 8)
    assert found.order == order and found.required == 8 and found.sufficient == (order == 8)


def test_excitation_of_channels_that_depend_on_each_other():
    u = noise(200, seed=14)
    assert persistency_of_excitation(np.column_stack([u, noise(200, seed=15)]), 6).sufficient
    assert persistency_of_excitation(np.column_stack([u, 2 * u]), 6).order == 0
    delayed = np.column_stack([u[3:], u[:-3]])  # three samples apart: together they tell three lags
    assert persistency_of_excitation(delayed, 6).order == 3


def test_spectral_filters_are_eigenvectors_of_their_matrix():
    n = 60
    s = np.add.outer(np.arange(1, n + 1), np.arange(1, n + 1)).astype(float)
    # Z is the mean of mu mu^T over alpha, by Gauss's quadrature, which is exact for polynomials
    nodes, weights = np.polynomial.legendre.leggauss(80)
    alpha = (nodes + 1) / 2
    mu = (alpha - 1) * alpha ** np.arange(n)[:, None]
    Z = mu * (weights / 2) @ mu.T
    np.testing.assert_allclose(Z, 2 / (s**3 - s), rtol=1e-10)
    basis = spectral_filters(n, 10)
    np.testing.assert_allclose(basis.filters @ basis.filters.T, np.eye(10), atol=1e-12)
    np.testing.assert_allclose(Z @ basis.filters.T, basis.filters.T * basis.eigenvalues, atol=1e-14)
    assert np.all(np.diff(basis.eigenvalues) < 0)
    # the trace is the sum of 1 / (4 i^3 - i), which tends to 2 ln 2 - 1
    i = np.arange(1.0, n + 1)
    assert spectral_filters(n, n).eigenvalues.sum() == pytest.approx(np.sum(1 / (4 * i**3 - i)), rel=1e-12)
    assert spectral_filters(1000, 40).eigenvalues.sum() == pytest.approx(2 * np.log(2) - 1, abs=2e-7)


def test_spectral_fit_predicts_slow_decays():
    truth = StateSpace(np.diag([0.99, 0.9, 0.5]), np.ones((3, 1)), [[1.0, 0.5, -1.0]], [[0.3]])
    u = noise(1500, seed=16)
    y = truth(u)
    errors = []
    for k in (5, 10, 15, 20):
        found = spectral_fit(u, y, n_filters=k, n_taps=1000)
        errors.append(np.abs(found.residuals).max())
    assert errors[0] < 0.5 and errors[3] < 1e-5
    assert all(late < 0.2 * early for early, late in pairwise(errors))
    h = truth(np.eye(1, 1002)[0])
    np.testing.assert_allclose(found.impulse_response[:, 0, 0], h, atol=1e-3)
    # what it learned is a small state space again
    np.testing.assert_allclose(poles_of(era(found.impulse_response[:400], order=3).system), [0.5, 0.9, 0.99], atol=0.05)


def test_spectral_fit_of_several_channels():
    truth = StateSpace(np.diag([0.95, 0.6]), noise(2, 2, seed=17), noise(2, 2, seed=18), noise(2, 2, seed=19))
    u = noise(600, 2, seed=20)
    found = spectral_fit(u, truth(u), n_filters=15, n_taps=200)
    assert np.abs(found.residuals).max() < 1e-3
    h = markov(truth, 201)
    np.testing.assert_allclose(found.impulse_response, h, atol=0.01)


def test_a_spectral_prediction_is_its_definition():
    u, y = noise(150, 2, seed=24), noise(150, 1, seed=25)
    found = spectral_fit(u, y, n_filters=3, n_taps=20, ridge=0.1)
    (values, filters), expected = (found.basis.eigenvalues, found.basis.filters), np.zeros(150)
    for t in range(150):
        expected[t] = y[t - 1, 0] if t else 0
        for lag in range(2):
            expected[t] += found.direct[lag, 0] @ u[t - lag] if t >= lag else 0
        for j in range(3):
            for i in range(1, 21):
                expected[t] += (
                    values[j] ** 0.25 * filters[j, i - 1] * (found.weights[j, 0] @ u[t - 1 - i] if t > i else 0)
                )
    np.testing.assert_allclose(y[:, 0] - found.residuals[:, 0], expected, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda u, y: arx(u * np.nan, y, n_poles=1, n_zeros=1), "u is not finite at frame 0"),
        (lambda u, y: arx(u, y[:-1], n_poles=1, n_zeros=1), "same length"),
        (lambda u, y: arx(u, y, n_poles=-1, n_zeros=1), "n_poles"),
        (lambda u, y: arx(u, y, n_poles=60, n_zeros=60), "too few"),
        (lambda u, y: arx(0 * u, y, n_poles=1, n_zeros=1), "exciting of order 0"),
        (lambda u, y: arx(0 * u + 1, y, n_poles=1, n_zeros=1), "exciting of order 1"),
        (lambda u, y: arx(u, u, n_poles=2, n_zeros=2), "fewer poles or zeros"),
        (lambda u, y: arx(u, y, n_poles=1, n_zeros=1, ridge=-1), "ridge"),
        (lambda u, y: arx(u.astype(complex), y, n_poles=1, n_zeros=1), "real"),
        (lambda u, y: n4sid(u[None, None], y), "shape"),
        (lambda u, y: n4sid(u[:30], y[:30]), "too few"),
        (lambda u, y: n4sid(u, y, horizon=1), "horizon"),
        (lambda u, y: n4sid(u, y, horizon=3000), "horizon"),
        (lambda u, y: n4sid(u, y, horizon=5, order=5), "at most 4"),
        (lambda u, y: n4sid(u, y, order=0), "order"),
        (lambda u, y: n4sid(0 * u, y), "exciting of order 0"),
        (lambda u, y: n4sid(np.sin(0.3 * np.arange(100)), y), "exciting of order 2"),
        (lambda u, y: n4sid(u, 0 * y), "does not depend"),
        (lambda u, y: n4sid(u, TransferFunction([1.0], [1, -0.5])(u), order=3), "order 1"),
        (lambda u, y: era([1.0]), "too few"),
        (lambda u, y: era(np.zeros(9)), "does not depend"),
        (lambda u, y: era([1, np.inf, 0, 0]), "not finite"),
        (lambda u, y: era(0.5 ** np.arange(20), order=2), "order 1"),
        (lambda u, y: era(0.5 ** np.arange(20), horizon=10), "at most 9"),
        (lambda u, y: era(np.zeros((9, 1, 1, 1))), "shape"),
        (lambda u, y: era(np.ones(20_000)), "rows"),
        (lambda u, y: persistency_of_excitation(u, 60), "too few"),
        (lambda u, y: persistency_of_excitation(u, 0), "order"),
        (lambda u, y: persistency_of_excitation(u, 3, tolerance=2.0), "tolerance"),
        (lambda u, y: spectral_filters(10, 11), "at most"),
        (lambda u, y: spectral_filters(10**6, 2), "rows"),
        (lambda u, y: spectral_fit(0 * u, y, n_taps=50), "zero throughout"),
        (lambda u, y: spectral_fit(u[:10], y[:10], n_taps=50), "too few"),
        (lambda u, y: n4sid(u, 1e200 * y), "overflows"),
        (lambda u, y: arx(1e-200 * u, y, n_poles=1, n_zeros=1), "vanishes: scale it up"),
        (lambda u, y: arx(u, y, n_poles=0, n_zeros=-1), "n_zeros"),
        (lambda u, y: order_plot(u), "SubspaceFit"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ParameterError, match=match):
        call(noise(100, seed=21), noise(100, seed=22))


def test_random_data_give_an_error_or_finite_matrices():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, scale = int(rng.integers(20, 120)), 10.0 ** rng.integers(-8, 9)
        u, y = rng.standard_normal((n, 1)), scale * rng.standard_normal((n, 1)).cumsum(axis=0)
        try:
            found = n4sid(u, y, horizon=int(rng.integers(2, 8)))
        except (ParameterError, NonFiniteError):
            continue
        assert all(np.isfinite(m).all() for m in (found.system.A, found.system.B, found.residuals))


def test_order_plot_tells_what_is_kept():
    u = noise(300, seed=23)
    truth = system(1, 1)
    kept, left, cut = order_plot(n4sid(u, truth(u)))
    assert len(kept.get_xdata()) == 4 and len(left.get_xdata()) == 6
    assert cut.get_xdata() == [4.5, 4.5]
    assert kept.axes.get_yscale() == "log" and kept.axes.get_title() == "order 4"
    kept, left, cut = order_plot(persistency_of_excitation(np.sin(np.arange(99.0)), 7))
    assert (len(kept.get_xdata()), len(left.get_xdata())) == (2, 5)
    assert "order 2, 7 asked for" in kept.axes.get_title()
    assert list(cut.get_ydata()) == [1e-9, 1e-9]
    order_plot(persistency_of_excitation(np.zeros(99), 7))
    doubled = np.column_stack([u, 2 * u])
    kept, left, cut = order_plot(arx(doubled, truth(u), n_poles=4, n_zeros=4, ridge=1e-6))
    assert (len(kept.get_xdata()), len(left.get_xdata())) == (9, 5)
    assert kept.axes.get_title() == "9 of 14 combinations of coefficients told"
    pyplot.close("all")


def test_era_takes_the_impulse_response_as_it_comes():
    filt = SOS([[1, 0, 0, 1, -1.5, 0.8]])
    found = era(impulse_response(filt, 200), order=2)
    np.testing.assert_allclose(np.sort_complex(found.system.poles()), np.sort_complex(filt.poles()), atol=1e-10)

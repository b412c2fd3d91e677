"""Vector autoregressions.

Oracles: the dense Gaussian density, statsmodels where it is installed, systems that are known.
"""

import numpy as np
import pytest
from scipy import signal, stats
from scipy.linalg import solve_discrete_lyapunov

from rnndsp.errors import ParameterError
from rnndsp.filters import fit_arima, fit_var, select_var_order
from rnndsp.filters.var import _fixed, _Series
from rnndsp.identification import arx
from rnndsp.stability import Verdict

TAPS = np.array([[0.5, 0.1, 0.2, 0.0], [-0.2, 0.3, 0.0, 0.2]])


def vector_series(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(14)
    e, u, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 1)), np.zeros((n, 2))
    for t in range(2, n):
        y[t] = [1, 0.5] + TAPS @ y[t - 2 : t][::-1].ravel() + [0.7, -0.4] * u[t] + e[t]
    return y, u


def gapped(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and single channels missing, at both ends too."""
    y, u = vector_series(n)
    y[0] = y[1, 0] = y[10:14] = y[20, 1] = y[22, 0] = y[23, 0] = y[-1, 1] = np.nan
    return y, u


def dense(y, fixed, resting, weights, noise):
    """Log-density of what is there; mean and deviation of what is missing: by the covariance of all of it."""
    (n, k), p = y.shape, (weights.shape[1] - resting.size) // y.shape[1]
    F, Q = np.eye(p * k, k=-k), np.zeros((p * k, p * k))
    F[:k], Q[:k, :k] = weights[:, : p * k], noise
    moved, blocks = solve_discrete_lyapunov(F, Q), []
    for _ in range(n):
        blocks.append(moved[:k, :k])
        moved = F @ moved
    covariance = np.block([[blocks[i - j] if i >= j else blocks[j - i].T for j in range(n)] for i in range(n)])
    taps, rest = weights[:, : p * k].reshape(k, p, k), weights[:, p * k :]
    mean = [np.linalg.solve(np.eye(k) - taps.sum(1), rest @ resting)] * p
    for row in fixed:
        mean.append(rest @ row + sum(taps[:, i] @ mean[-1 - i] for i in range(p)))
    mean, z, there = np.ravel(mean[p:]), y.ravel(), np.isfinite(y.ravel())
    known = covariance[there][:, there]
    by = np.linalg.solve(known, covariance[there][:, ~there])
    left = covariance[~there][:, ~there] - covariance[~there][:, there] @ by
    value = stats.multivariate_normal(mean[there], known).logpdf(z[there])
    return value, mean[~there] + (z[there] - mean[there]) @ by, np.sqrt(np.diagonal(left))


@pytest.mark.parametrize("make", [vector_series, gapped])
def test_the_likelihood_and_its_slopes(make):
    y, u = make(40)
    fixed, resting = _fixed(u, (0, 1), True)
    case = _Series(y, fixed, resting, 2)
    weights, noise = np.hstack([TAPS, [[1, 0.7, 0.2], [0.5, -0.4, 0.1]]]), np.array([[1, 0.3], [0.3, 0.8]])
    value, by_weights, by_noise = case.likelihood(weights, noise)
    np.testing.assert_allclose(value, dense(y, fixed, resting, weights, noise)[0], rtol=1e-12)
    rng = np.random.default_rng(1)
    for _ in range(3):
        w, s = rng.standard_normal(weights.shape), rng.standard_normal((2, 2))
        s, h = s + s.T, 1e-5
        ends = [case.likelihood(weights + side * h * w, noise + side * h * s)[0] for side in (1, -1)]
        np.testing.assert_allclose(
            np.sum(by_weights * w) + np.sum(by_noise * s), np.diff(ends[::-1]) / (2 * h), rtol=1e-7
        )


def test_gaps_and_forecasts_given_all_values():
    y, u = gapped(40)
    fit = fit_var(y, order=2, exog=u, exog_lags=(0, 1))
    weights = np.hstack([*fit.coefficients, fit.constant[:, None], *fit.exog_coefficients])
    ahead = np.linspace(-1, 1, 5)
    fixed, resting = _fixed(np.vstack([u, ahead[:, None]]), (0, 1), True)
    resting[1:] = u.mean()
    fixed[0, 2] = u.mean()
    longer = np.vstack([y, np.full((5, 2), np.nan)])
    value, mean, error = dense(longer, fixed, resting, weights, fit.covariance)
    np.testing.assert_allclose(fit.log_likelihood, value, rtol=1e-12)
    filled, forecast, missing = fit.fill(), fit.forecast(5, exog=ahead), np.isnan(y)
    np.testing.assert_allclose(np.r_[filled.mean[missing], forecast.mean.ravel()], mean, rtol=1e-10, atol=1e-12)
    errors = np.r_[filled.standard_error[missing], forecast.standard_error.ravel()]
    np.testing.assert_allclose(errors, error, rtol=1e-10)
    np.testing.assert_array_equal(filled.mean[~missing], y[~missing])
    assert not filled.standard_error[~missing].any()


@pytest.mark.parametrize("make", [vector_series, gapped])
def test_statsmodels_agrees(make):
    varmax = pytest.importorskip("statsmodels.tsa.statespace.varmax")
    y = make(60)[0]
    fit = fit_var(y, order=1)
    assert fit.converged
    root = np.linalg.cholesky(fit.covariance)
    theirs = varmax.VARMAX(y, order=(1, 0), trend="c")
    found = np.concatenate([fit.constant, fit.coefficients.ravel(), root[np.tril_indices(2)]])
    np.testing.assert_allclose(theirs.loglike(found), fit.log_likelihood, rtol=1e-12)
    # theirs has its maximum there: a step of Newton's moves by less than 1e-5
    steps = 1e-5 * np.eye(found.size)
    curvature = np.array([(theirs.score(found + h) - theirs.score(found - h)) / 2e-5 for h in steps])
    assert np.abs(np.linalg.solve(curvature, theirs.score(found))).max() < 1e-5
    errors = np.sqrt(-np.diagonal(np.linalg.inv(curvature)))[:6]
    np.testing.assert_allclose(np.r_[fit.standard_errors[0], fit.standard_errors[1].ravel()], errors, rtol=1e-3)


def test_one_channel_is_an_arima_process():
    y = gapped(80)[0][:, 0]
    fit, arima = fit_var(y, order=2), fit_arima(y, order=(2, 0, 0))
    np.testing.assert_allclose(fit.log_likelihood, arima.log_likelihood, rtol=1e-10)
    np.testing.assert_allclose(fit.aicc, arima.aicc, rtol=1e-10)
    np.testing.assert_allclose(fit.coefficients.ravel(), arima.filter.params["ar"], atol=1e-5)
    np.testing.assert_allclose(fit.standard_errors[1].ravel(), list(arima.standard_errors.values())[:2], rtol=1e-3)
    np.testing.assert_allclose(fit.fill().mean[:, 0], arima.fill().mean, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_poles_stay_inside(seed):
    """Of a walk, whose maximum stands near the circle, and of a series that grows, where least squares is outside."""
    e = np.random.default_rng(seed).standard_normal((120, 1))
    for pole in (1.0, 1.03):
        y = signal.lfilter([1], [1, -pole], e, axis=0)
        fit, squares = fit_var(y, order=2), fit_var(y, order=2, method="least_squares")
        assert 0.8 < fit.filter.spectral_radius() < 1 and fit.filter.stability()["decay"].verdict == Verdict.PROVED
    assert squares.filter.spectral_radius() > 1.01
    # it has no stationary start, and says what follows all the same
    assert np.isfinite(squares.forecast(3).standard_error).all()


def test_the_order_of_the_smallest_criterion():
    y, u = vector_series(300)
    y[50] = np.nan
    for method in ("likelihood", "least_squares"):
        found = select_var_order(y, max_order=3, criterion="bic", exog=u, method=method)
        assert np.argmin(found.bic) == len(found.best.coefficients) == 2
        assert found.bic[2] == found.best.bic and found.aicc[2] == found.best.aicc
    # all orders by the frames that the largest can be fitted to
    assert found.best.n_observations == 297 - 3
    few = select_var_order(y[:12], max_order=6)
    assert np.isinf(few.aicc[-1]) and few.best.aicc == few.aicc.min()


# ---- least squares


def test_vector_autoregression_of_statsmodels():
    api = pytest.importorskip("statsmodels.tsa.api")
    y, u = vector_series(150)
    fit, theirs = fit_var(y, order=2, method="least_squares"), api.VAR(y).fit(2, trend="c")
    np.testing.assert_allclose(fit.coefficients, theirs.coefs, atol=1e-12)
    np.testing.assert_allclose(fit.constant, theirs.intercept, atol=1e-12)
    np.testing.assert_allclose(fit.covariance, theirs.sigma_u, atol=1e-12)
    np.testing.assert_allclose(fit.log_likelihood, theirs.llf, rtol=1e-12)
    errors = np.vstack([fit.standard_errors[0], *(block.T for block in fit.standard_errors[1])])
    np.testing.assert_allclose(errors, theirs.bse, rtol=1e-10)
    np.testing.assert_allclose(fit.forecast(200).standard_error[-1] ** 2, np.diagonal(theirs.acf(2)[0]), rtol=1e-6)
    forecast = fit.forecast(5)
    for ours, expected in zip(
        (forecast.mean, forecast.lower, forecast.upper), theirs.forecast_interval(y[-2:], 5), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-10)
    driven, theirs = fit_var(y, order=2, exog=u, method="least_squares"), api.VAR(y, exog=u).fit(2, trend="c")
    np.testing.assert_allclose(driven.log_likelihood, theirs.llf, rtol=1e-12)
    np.testing.assert_allclose(driven.forecast(3, exog=u[:3]).mean, theirs.forecast(y[-2:], 3, u[:3]), rtol=1e-10)


@pytest.mark.parametrize("method", ["likelihood", "least_squares"])
def test_vector_autoregression_is_a_filter(method):
    y, u = vector_series(150)
    fit = fit_var(y, order=2, exog=u, sample_rate=10, method=method)
    assert fit.n_observations == (150 if method == "likelihood" else 148)
    assert fit.n_parameters == 2 * (1 + 4 + 1) + 3
    e = np.random.default_rng(15).standard_normal((150, 2))
    np.testing.assert_allclose(fit.whiten()(fit.filter(e)), e, atol=1e-12)
    A = np.block([[fit.coefficients[0], fit.coefficients[1]], [np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(np.sort_complex(fit.filter.poles()), np.sort_complex(np.linalg.eigvals(A)), atol=1e-12)
    root = np.linalg.cholesky(fit.covariance)
    noise = np.random.default_rng(16).standard_normal((20, 2))
    np.testing.assert_allclose(fit.simulate(20, seed=16), fit.filter(noise @ root.T))
    # the residuals are what is left of the series when the rest is taken off
    expected = y[2:] - fit.constant - y[1:-1] @ fit.coefficients[0].T - y[:-2] @ fit.coefficients[1].T
    np.testing.assert_allclose(fit.residuals[2:], expected - u[2:] @ fit.exog_coefficients[0].T, atol=1e-12)
    assert np.isnan(fit.residuals[:2]).all()


@pytest.mark.parametrize("method", ["likelihood", "least_squares"])
def test_a_driven_autoregression_finds_the_system(method):
    # without noise to speak of the transfer function comes back
    b, a = [0.0, 0.5, 0.0, -0.3], [1, -1.2, 0.6]
    rng = np.random.default_rng(17)
    u = rng.standard_normal(300)
    y = signal.lfilter(b, a, u) + signal.lfilter([1], a, 1e-6 * rng.standard_normal(300))
    gap = y.copy()
    gap[100] = np.nan
    # frames before the first, of which the likelihood has its own idea, are left out
    fit = fit_var(gap[20:], order=2, exog=u[20:], exog_lags=(1, 3), constant=False, method="least_squares")
    np.testing.assert_allclose(fit.coefficients.ravel(), [1.2, -0.6], atol=1e-5)
    np.testing.assert_allclose(fit.exog_coefficients.ravel(), [0.5, -0.3], atol=1e-5)
    assert fit.n_observations == 277 - 3
    np.testing.assert_allclose(fit.exog_filter(u), signal.lfilter(b, a, u), atol=1e-3)
    assert fit.exog_filter.D == 0
    assert fit_var(y, order=0, exog=u, exog_lags=(0, 2), constant=False, method=method).exog_filter.n_states == 2


def test_errors_of_far_forecasts_settle():
    y = signal.lfilter([1], [1, -1.5, 0.8], np.random.default_rng(0).standard_normal((600, 2)), axis=0)
    error = fit_var(y, order=8, method="least_squares").forecast(150).standard_error
    assert np.all(np.diff(error, axis=0) > -1e-12)


def test_arx_is_the_same_regression():
    y, u = vector_series(80)
    fit = fit_var(y, order=2, exog=u, exog_lags=(1, 2), constant=False, method="least_squares")
    found = arx(u, y, n_poles=2, n_zeros=1, delay=1)
    np.testing.assert_allclose(found.a, -fit.coefficients, atol=1e-13)
    np.testing.assert_allclose(found.b, fit.exog_coefficients, atol=1e-13)
    np.testing.assert_allclose(found.residuals[2:], fit.residuals[2:], atol=1e-13)
    np.testing.assert_allclose(found.system(u), fit.exog_filter(u), atol=1e-13)


@pytest.mark.parametrize("method", ["likelihood", "least_squares"])
def test_units_do_not_matter(method):
    y, u = gapped(60)
    units, u_unit = np.array([1e-90, 1e90]), 1e50
    fit = fit_var(y, order=1, exog=u, method=method)
    scaled = fit_var(y * units, order=1, exog=u * u_unit, method=method)
    np.testing.assert_allclose(scaled.coefficients * units / units[:, None], fit.coefficients, rtol=1e-4)
    np.testing.assert_allclose(scaled.exog_coefficients * u_unit / units[:, None], fit.exog_coefficients, rtol=1e-4)
    np.testing.assert_allclose(scaled.standard_errors[0] / units, fit.standard_errors[0], rtol=1e-4)
    np.testing.assert_allclose(scaled.fill().standard_error / units, fit.fill().standard_error, rtol=1e-4)


Y, U = vector_series(30)
HALF = np.where(np.random.default_rng(0).random((30, 2)) < 0.5, np.nan, Y)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_var(np.full((30, 2), np.nan)), "at least 0 values a channel are too few"),
        (lambda: fit_var(np.ones((30, 2))), "depend on each other"),
        (lambda: fit_var(Y[:, [0, 0]]), "depend on each other"),
        (lambda: fit_var(Y[:, [0, 0]], order=0), "tells a channel exactly"),
        (lambda: fit_var(np.zeros((30, 2))), "zero throughout"),
        (lambda: fit_var(Y, exog=0 * U), "zero throughout"),
        (lambda: fit_var(2.0 ** -np.arange(30), constant=False), "exactly"),
        (lambda: fit_var(Y, order=40), "too few"),
        (lambda: fit_var(np.where(np.arange(30)[:, None] % 2, Y, np.nan), method="least_squares"), "all of their past"),
        (lambda: fit_var(Y, exog=np.ones(3)), "exog"),
        (lambda: fit_var(Y, exog=U, exog_lags=(1, 1)), "distinct"),
        (lambda: fit_var(Y, method="x"), "method"),
        (lambda: fit_var(Y, n_initial=3), "n_initial"),
        (lambda: fit_var(1e160 * Y), "square overflows: scale it down"),
        (lambda: fit_var(1e-200 * Y), "square vanishes: scale it up"),
        (lambda: fit_var(Y, exog=1e160 * U), "exog reaches"),
        (lambda: fit_var(np.r_[Y, [[np.inf, 0]]]), "not finite at frame 30: NaN stands"),
        (lambda: fit_var(np.tile(Y, (30, 1)), order=101), "take method='least_squares'"),
        (lambda: fit_var(HALF, order=3), "without bound: 28 of 60 values are missing"),
        (lambda: fit_var(Y).forecast(2, level=1), "level"),
        (lambda: fit_var(Y).forecast(2, exog=np.ones(2)), "the fit had 0"),
        (lambda: fit_var(Y).diagnostics(2), "channel"),
        (lambda: select_var_order(Y, max_order=2, criterion="aic"), "criterion"),
        (lambda: select_var_order(Y[:3], max_order=2), "too few"),
    ],
)  # fmt: skip
def test_bad_input(call, said):
    with pytest.raises(ParameterError) as error:
        call()
    assert said in str(error.value)

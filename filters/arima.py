"""Autoregressive integrated moving average processes: innovations in, series out, and their fit to data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, reals, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters._arima_likelihood import (
    COMPLETE,
    DIFFUSE,
    DRAWN,
    VAGUE,
    filtered,
    natural,
    objective,
    profile,
)
from rnndsp.filters.lattice import reflections
from rnndsp.residuals import ResidualDiagnostics, residual_diagnostics
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, gain, series

__all__ = ["ARIMA", "ArimaFit", "Forecast", "OrderSelection", "fit_arima", "select_order"]

Real = NDArray[np.float64]

# The blocks of coefficients, in the order of the likelihood's vector.
BLOCKS = ("ar", "ma", "seasonal_ar", "seasonal_ma")
STARTS = {"diffuse": DIFFUSE, "approximate": VAGUE}
TRENDS = ("n", "c", "t", "ct")
# Roots so near to each other may be a pair that stands for nothing.
NEAR = 0.3
# Below this part of the largest value a column is rounding.
ROUNDING = 1e-10
# Poles of differences are compared one by one with those that are found: more would take minutes.
MANY = 10_000
# The longest state of the stationary part, whose start takes the square of that in time; and the longest one whose
# covariance is kept, 200 MB twice.
LONGEST, LONGEST_KEPT = 20_000, 5000
# Partial autocorrelations of a start are kept this far inside.
INSIDE = 0.9
# Numbers in the table from which missing values are estimated.
MOST_FILLED = 2e7


class ARIMA(Filter):
    r"""Seasonal autoregressive integrated moving average: white innovations e in, the coloured series y out.

    .. math:: \phi(B)\,\Phi(B^s)\,(1 - B)^d\,(1 - B^s)^D\,y[t] = \theta(B)\,\Theta(B^s)\,e[t], \qquad B\,y[t] = y[t-1]

    .. math:: \phi(B) = 1 - \phi_1 B - \dots - \phi_p B^p, \qquad \theta(B) = 1 + \theta_1 B + \dots + \theta_q B^q

    and likewise for the seasonal Phi and Theta. A season is a delay line: its length costs no time.

    Parameters
    ----------
    ar, ma : array, shapes (p,) and (q,)
        phi and theta, with these signs, as R and statsmodels have them.
    d : int
        Differences.
    seasonal_ar, seasonal_ma : array, shapes (P,) and (Q,)
        Phi and Theta.
    seasonal_d : int
        Seasonal differences D.
    season : int
        s in samples, at least 2 where anything is seasonal; 0 where nothing is.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``ar``, ``ma``, ``seasonal_ar``, ``seasonal_ma``.

    *State*: field ``lines``, delay lines one after the other: max(P, Q) + D of s samples, max(p, q) + d of one; zero at
    rest. Computed in float64 whatever the signal's dtype.

    *Stability*: phi and Phi have all their poles inside the unit circle. Each difference adds a pole at 1, each
    seasonal one all s-th roots of 1; these are ``marginal_poles``, and :meth:`stability` calls them marginal by design,
    up to 10000 of them.

    Raises
    ------
    ParameterError
        Autoregressions that are not stationary, a seasonal part without a season.

    References
    ----------
    G. E. P. Box, G. M. Jenkins (1970), "Time series analysis: forecasting and control".

    Examples
    --------
    >>> walk = ARIMA(ma=[-0.5], d=1)
    >>> walk([1.0, 0.0, 0.0])
    array([1. , 0.5, 0.5])
    >>> walk.whiten()([1.0, 0.5, 0.5])
    array([1., 0., 0.])
    """

    is_linear = True
    n_inputs = n_outputs = 1

    def __init__(
        self,
        ar: ArrayLike = (),
        ma: ArrayLike = (),
        *,
        d: int = 0,
        seasonal_ar: ArrayLike = (),
        seasonal_ma: ArrayLike = (),
        seasonal_d: int = 0,
        season: int = 0,
        sample_rate: float | None = None,
    ) -> None:
        params = {}
        for name, value in zip(BLOCKS, (ar, ma, seasonal_ar, seasonal_ma), strict=True):
            block = np.atleast_1d(np.asarray(value))
            if block.ndim != 1 or block.dtype.kind not in "fiu":
                raise ParameterError(f"{name}={value!r} must be a list of real coefficients")
            params[name] = block.astype(np.float64)
        p, q, P, Q = (params[name].size for name in BLOCKS)
        super().__init__({"order": (p, d, q), "seasonal": (P, seasonal_d, Q, season)}, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self._orders, self._lags = _orders(self.config["order"], self.config["seasonal"])
        p, q, P, Q, s = self._orders
        seasonal = max(P, Q) + sum(lag > 1 for lag in self._lags)
        rings = (s,) * seasonal + (1,) * (max(p, q) + self._lags.count(1))
        self.fields = (Field("lines", (sum(rings),), rings),)
        if sum(self._lags) <= MANY:
            roots = [np.exp(2j * np.pi * np.arange(lag) / lag).round(15) + 0 for lag in self._lags]
            self.marginal_poles = tuple(np.concatenate([np.zeros(0, np.complex128), *roots]).tolist())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (n,) for name, n in zip(BLOCKS, self._orders, strict=False)}

    def _check(self) -> None:
        for name in ("ar", "seasonal_ar"):
            _require_inside(name, self._own[name].astype(np.float64), "; give unit roots as differences, d=1")

    @property
    def _coefficients(self) -> Real:
        return np.concatenate([self._own[name].astype(np.float64) for name in BLOCKS])

    # ---- as a filter

    @property
    def _space(self) -> DelayStateSpace:
        def make() -> DelayStateSpace:
            return self._network(self._coefficients)

        space: DelayStateSpace = self._derived("space", make)
        return space

    def _network(self, coefficients: Real) -> DelayStateSpace:
        """Delay lines whose matrices are affine in the coefficients."""
        p, q, P, _, s = self._orders
        ar, ma, seasonal_ar, seasonal_ma = np.split(coefficients, np.cumsum([p, q, P]))
        parts = [_section(seasonal_ar, seasonal_ma, s)]
        parts += [_section(np.ones(1), np.zeros(1), lag) for lag in self._lags if lag > 1]
        parts.append(_section(ar, ma, 1))
        parts += [_section(np.ones(1), np.zeros(1), lag) for lag in self._lags if lag == 1]
        return reduce(series, parts)

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._space._advance(u, state, y)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        return self._space._record(u, state)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        du, dx, by_matrix = self._space._adjoint(memory, dy, dx)
        n = sum(self._orders[:4])
        none = self._network(np.zeros(n))
        slopes = np.zeros(n)
        for i, one in enumerate(np.eye(n)):
            moved = self._network(one)
            slopes[i] = sum(np.sum(d * (moved.params[name] - none.params[name])) for name, d in by_matrix.items())
        blocks = np.split(slopes, np.cumsum(self._orders[:3]))
        return du, dx, dict(zip(BLOCKS, blocks, strict=True))

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        return self._space

    def whiten(self) -> DelayStateSpace:
        """The inverse filter: the series in, the innovations out, exact where both start from rest.

        Delay lines too: its poles are the zeros of this filter.

        Raises
        ------
        ParameterError
            A moving average that is not invertible: the inverse would not decay.
        """
        ar, ma, seasonal_ar, seasonal_ma = (self._own[name].astype(np.float64) for name in BLOCKS)
        for name, block in (("ma", ma), ("seasonal_ma", seasonal_ma)):
            _require_inside(name, -block, ", as the filter that whitens must decay")
        s = self._orders[4]
        parts = [_section(np.zeros(1), -np.ones(1), lag) for lag in reversed(self._lags)]
        parts += [_section(-seasonal_ma, -seasonal_ar, s), _section(-ma, -ar, 1)]
        whitening = reduce(series, parts)
        return whitening if self.sample_rate is None else whitening.replace(sample_rate=self.sample_rate)

    # ---- as a process

    def log_likelihood(self, y: ArrayLike, *, variance: float | None = None, start: str = "diffuse") -> float:
        """Exact Gaussian log-likelihood of a series without a mean.

        Parameters
        ----------
        y : array, shape (n,)
            NaN where a value is missing.
        variance : float, optional
            Of the innovations; the best one where absent.
        start : {"diffuse", "approximate"}
            As in :func:`fit_arima`.

        Raises
        ------
        ParameterError
            A series that is too short, does not vary or has no value; a variance that is not positive.
        """
        if variance is not None and not number("variance", variance) > 0:
            raise ParameterError(f"{variance=} must be positive")
        case = _Case(y, None, "n", self._orders, self._lags, start)
        return float(case.profile(self._coefficients, -1.0 if variance is None else float(variance))[0])

    def simulate(self, n_frames: int, *, variance: float = 1.0, seed: int | np.random.Generator = 0) -> Real:
        """A series of Gaussian innovations, shape (n_frames,): its stationary part from its own distribution on.

        Differences are summed up from zero. Filtering noise from rest would take a while to get there.
        """
        n_frames = whole_number("n_frames", n_frames)
        if not number("variance", variance) >= 0:
            raise ParameterError(f"{variance=} must not be negative")
        _require_short(self._orders)
        noise = generator(seed).standard_normal((n_frames, 1))
        none, seen = np.zeros(0, np.int64), np.ones(n_frames, np.bool_)
        drawn = filtered(noise, seen, self._coefficients, self._orders, none, DRAWN)[0]
        y: Real = np.sqrt(variance) * drawn[:, 0]
        for lag in self._lags:
            rows = np.pad(y, (0, -n_frames % lag)).reshape(-1, lag)
            y = rows.cumsum(0).ravel()[:n_frames]
        return y


@dataclass(frozen=True)
class Forecast:
    """What a fitted process expects.

    Attributes
    ----------
    mean, standard_error : ndarray, shape (n,)
        Of the values 1 to n ahead. The errors of the estimates are not part of it.
    lower, upper : ndarray, shape (n,)
        The interval that holds each value with probability ``level``, for Gaussian innovations.
    level : float
    """

    mean: Real
    standard_error: Real
    lower: Real
    upper: Real
    level: float


def interval(mean: Real, error: Real, level: float) -> Forecast:
    """Of Gaussian values, each by itself."""
    from scipy.special import ndtri

    if not 0 < number("level", level) < 1:
        raise ParameterError(f"{level=} must lie within (0, 1)")
    half = ndtri((1 + level) / 2) * error
    return Forecast(mean, error, mean - half, mean + half, float(level))


@dataclass(frozen=True)
class ArimaFit:
    """An ARIMA process at its largest likelihood.

    Attributes
    ----------
    filter : ARIMA
        Innovations in, series (without mean, trend and regressors) out.
    variance : float
        Of the innovations.
    estimates, standard_errors : mapping of str to float
        ``ar1``, ``ma1``, ``seasonal_ar1``, ..., then ``mean``, ``trend`` and ``exog1``, ``exog2``, ... as far as there
        are any. Errors by the curvature of the likelihood, for many samples; infinite where it is flat, as at a moving
        average that is not invertible.
    log_likelihood : float
    n_observations : int
        Values that there are, less those that an unknown start takes.
    residuals : ndarray, shape (n,)
        Innovations of equal variance: errors of the prediction one sample ahead, over the square root of their
        variance in units of that of the innovations. NaN where a value is missing, or taken by an unknown start.
    converged : bool
        Whether the gradient vanished.
    y : ndarray, shape (n,)
    exog : ndarray, shape (n, k)
    trend, start : str
        As they were given.
    """

    filter: ARIMA
    variance: float
    estimates: Mapping[str, float]
    standard_errors: Mapping[str, float]
    log_likelihood: float
    n_observations: int
    residuals: Real = field(repr=False)
    converged: bool
    y: Real = field(repr=False)
    exog: Real = field(repr=False)
    trend: str
    start: str

    @property
    def n_parameters(self) -> int:
        """Estimates, and the variance."""
        return len(self.estimates) + 1

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def aicc(self) -> float:
        """Akaike's criterion, corrected for few samples; infinite where there are too few."""
        k, left = self.n_parameters, self.n_observations - self.n_parameters - 1
        return self.aic + 2 * k * (k + 1) / left if left > 0 else np.inf

    @property
    def bic(self) -> float:
        """Schwarz's criterion."""
        return float(np.log(self.n_observations)) * self.n_parameters - 2 * self.log_likelihood

    def diagnostics(self, *, n_lags: int | None = None) -> ResidualDiagnostics:
        """Whether the residuals are white: see :func:`rnndsp.residuals.residual_diagnostics`."""
        return residual_diagnostics(self.residuals, n_lags=n_lags, n_coefficients=sum(self.filter._orders[:4]))

    def forecast(self, n_frames: int, *, level: float = 0.95, exog: ArrayLike | None = None) -> Forecast:
        """What comes after the series.

        Parameters
        ----------
        n_frames : int
        level : float
            Within (0, 1).
        exog : array, shape (n_frames, k), optional
            The regressors to come, where the fit had any.
        """
        n_frames = whole_number("n_frames", n_frames)
        mean, error = self._expected(n_frames, exogenous(exog, n_frames, self.exog.shape[1]))
        return interval(mean[-n_frames:], error[-n_frames:], level)

    def fill(self, *, level: float = 0.95, past_only: bool = False) -> Forecast:
        """The series with its gaps filled, shape (n,): what the values that there are tell of those missing.

        Parameters
        ----------
        level : float
            Within (0, 1), of each value by itself.
        past_only : bool
            From the values before each gap alone, as a filter would; else from all of them, as a smoother.

        Returns
        -------
        Forecast
            Without error where there is a value. The errors of the estimates are not part of it. NaN, of infinite
            error, where the past leaves a level open.

        Raises
        ------
        ParameterError
            Gaps that are too many; values that leave a level open; ``past_only`` with a season for which
            :meth:`forecast` would refuse too.

        Notes
        -----
        The m missing values are weights of m regressors, each one in one sample and zero elsewhere: the whitened
        series, by generalised least squares, gives their means and covariance given all values (A. C. Harvey, R. G.
        Pierse 1984; G. M. Ljung 1982). So there is no state whose covariance would be kept, and a season costs what it
        costs in a fit without gaps: O(n m (m + r)) time, O(n m) memory, for n m of at most 2e7. With
        ``start="approximate"`` too nothing is known of the levels beforehand. ``past_only`` does keep a covariance, as
        forecasts do.
        """
        missing = np.flatnonzero(np.isnan(self.y))
        found, error = self.y.copy(), np.zeros(len(self.y))
        if past_only:
            mean, deviation = self._expected(0, self.exog[:0])
            found[missing], error[missing] = mean[missing], deviation[missing]
        elif missing.size:
            found[missing], error[missing] = self._smoothed(missing)
        return interval(found, error, level)

    def _smoothed(self, missing: NDArray[np.intp]) -> tuple[Real, Real]:
        n, m = len(self.y), missing.size
        if n * m > MOST_FILLED:
            raise ParameterError(
                f"{m} missing values of {n} samples would take {n * m:.2g} numbers, more than {MOST_FILLED:.0e}: fit "
                "and fill a shorter part of the series (an autoregression alone: fit_var, which has no such limit)"
            )
        orders, lags = self.filter._orders, self.filter._lags
        _require_short(orders)
        course = _regressors(n, self.trend, self.exog) @ self._weights
        columns = np.zeros((n, m + 1))
        columns[missing, np.arange(m)] = 1.0
        columns[:, m] = np.nan_to_num(self.y - course, nan=0.0)
        columns = np.ascontiguousarray(_differenced(columns, lags))
        seen, none = np.ones(len(columns), np.bool_), np.zeros(0, np.int64)
        errors, variances, _, _ = filtered(columns, seen, self.filter._coefficients, orders, none, COMPLETE)
        R = np.asarray(np.linalg.qr(errors / np.sqrt(variances)[:, None], mode="r"))
        weights = np.linalg.norm(R[:, :m], axis=0)
        if len(R) < m or np.any(np.abs(np.diagonal(R)[:m]) <= ROUNDING * weights):
            raise ParameterError("the values leave levels open: a phase of the season without any value has no level")
        back = np.linalg.inv(R[:m, :m])
        return course[missing] - back @ R[:m, m], np.sqrt(self.variance * np.sum(back**2, axis=1))

    def _expected(self, n_ahead: int, exog: Real) -> tuple[Real, Real]:
        """Of each sample without a value, and of ``n_ahead`` more: the mean given all values before, and its error."""
        n = len(self.y) + n_ahead
        orders, lags = self.filter._orders, np.array(self.filter._lags, np.int64)
        _require_short(orders, self.filter._lags, kept=True)
        course = _regressors(n, self.trend, np.vstack([self.exog, exog])) @ self._weights
        values = np.concatenate([self.y, np.full(n_ahead, np.nan)]) - course
        seen = np.isfinite(values)
        first = int(np.argmax(seen)) if self.start == "diffuse" and lags.size else 0
        values = np.where(seen, values, 0.0)[first:, None]
        errors, variances, infinite, _ = filtered(
            values, seen[first:], self.filter._coefficients, orders, lags, STARTS[self.start]
        )
        known = infinite == 0
        mean, error = np.full(n, np.nan), np.full(n, np.inf)
        mean[first:][known] = course[first:][known] - errors[known, 0]
        error[first:][known] = np.sqrt(self.variance * variances[known])
        return mean, error

    def simulate(self, n_frames: int, *, seed: int | np.random.Generator = 0, exog: ArrayLike | None = None) -> Real:
        """Another series of this process, shape (n_frames,), from time 0 on: see :meth:`ARIMA.simulate`."""
        y = self.filter.simulate(n_frames, variance=self.variance, seed=seed)
        return np.asarray(
            y + _regressors(n_frames, self.trend, exogenous(exog, n_frames, self.exog.shape[1])) @ self._weights
        )

    @property
    def _weights(self) -> Real:
        return np.array(list(self.estimates.values())[sum(self.filter._orders[:4]) :])


def fit_arima(
    y: ArrayLike,
    *,
    order: Sequence[int] = (1, 0, 0),
    seasonal: Sequence[int] = (0, 0, 0, 0),
    exog: ArrayLike | None = None,
    trend: str | None = None,
    start: str = "diffuse",
    initial: Mapping[str, ArrayLike] | None = None,
) -> ArimaFit:
    r"""Fit a seasonal ARIMA process with regressors by exact maximum likelihood.

    .. math:: y[t] = \beta^T x[t] + z[t]

    with z an :class:`ARIMA` process of Gaussian innovations.

    Parameters
    ----------
    y : array, shape (n,)
        The series; NaN where a value is missing.
    order : (p, d, q)
    seasonal : (P, D, Q, s)
        s in samples.
    exog : array, shape (n, k), optional
        Further regressors x.
    trend : {"n", "c", "t", "ct"}, optional
        None, a mean, a straight line through zero at time 0, or both; the first sample has time 1. Where it is absent,
        a mean if nothing is differenced.
    start : {"diffuse", "approximate"}
        What is known of the levels that differences leave open: nothing at all, exactly, or that their variance is 1e6
        times that of the innovations, in which case the first d + D s samples do not count. The former is the
        likelihood of the differenced series where no value is missing.
    initial : mapping of str to array, optional
        Where to start the search: ``ar``, ``ma``, ``seasonal_ar``, ``seasonal_ma``.

    Returns
    -------
    ArimaFit

    Raises
    ------
    ParameterError
        A series that is too short for the model, does not vary, or has no value; regressors that depend on each other,
        or that differences wipe out; start values that are not stationary or not invertible.

    Notes
    -----
    Without gaps the state's covariance moves by a matrix of rank one: O(r) a sample for r = max(p + P s, q + Q s + 1),
    and O(p + q + P + Q) once the gain has settled. With missing values, or an approximate start, it is O(r + m^2) for
    the m <= r entries of the state that correlate with the sample, few where the season is long; but r^2 numbers of
    memory. Variance and beta are solved for at each step; the others move as partial autocorrelations, so that the
    process stays stationary and invertible, by BFGS from the estimates of Hannan and Rissanen, and from zero too where
    these are not well inside. Where a root of the autoregression ends near one of the moving average, the likelihood
    has a ridge with maxima along it, and more starts are tried, all about. It is a local search: no proof that there is
    no better maximum.

    References
    ----------
    M. Morf, G. S. Sidhu, T. Kailath (1974), "Some new algorithms for recursive estimation in constant, linear,
    discrete-time systems". J. F. Monahan (1984), "A note on enforcing stationarity in autoregressive-moving average
    models". E. J. Hannan, J. Rissanen (1982), "Recursive estimation of mixed autoregressive-moving average order". J.
    Durbin, S. J. Koopman (2012), "Time series analysis by state space methods".
    """
    from scipy.optimize import minimize

    orders, lags = _orders(order, seasonal)
    if trend is None:
        trend = "n" if lags else "c"
    case = _Case(y, exog, trend, orders, lags, start)
    starts = [_checked_initial(initial, orders)] if initial is not None else case.starts()

    def searched(x0: Real) -> Any:
        with np.errstate(all="ignore"):
            return minimize(case.objective, x0, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 500})

    x, converged = np.zeros(0), True
    if sum(orders[:4]):
        found = [searched(x0) for x0 in starts]
        if initial is None and _nearly_cancels(natural(min(found, key=lambda one: one.fun).x, orders), orders):
            found += [searched(x0) for x0 in _corners(orders)]  # the likelihood has a ridge, and maxima along it
        best = min(found, key=lambda one: one.fun)
        x, converged = best.x, bool(np.max(np.abs(best.jac)) < 1e-5)
    coefficients = natural(x, orders)
    value, variance, weights, normal, _ = case.profile(coefficients)
    beta, beta_errors = case.regression(weights, normal, variance)
    errors = np.concatenate([case.standard_errors(x), beta_errors])
    names = [f"{block}{i + 1}" for block, n in zip(BLOCKS, orders, strict=False) for i in range(n)]
    names += [{"c": "mean", "t": "trend"}[kind] for kind in trend if kind != "n"]
    names += [f"exog{i + 1}" for i in range(case.exog.shape[1])]
    values = np.concatenate([coefficients, beta])
    return ArimaFit(
        _process(coefficients, orders, lags),
        float(variance),
        dict(zip(names, values.tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
        float(value),
        case.n_counted,
        case.residuals(coefficients, beta),
        converged,
        case.y,
        case.exog,
        trend,
        start,
    )


@dataclass(frozen=True)
class OrderSelection:
    """Orders side by side.

    Attributes
    ----------
    best : ArimaFit
        The fit of the smallest AICc.
    orders : tuple of ((p, d, q), (P, D, Q, s))
        All that were fitted.
    aicc : ndarray, shape (len(orders),)
        Infinite where the series is too short for the order.
    """

    best: ArimaFit
    orders: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    aicc: Real


def select_order(
    y: ArrayLike,
    *,
    max_p: int = 3,
    max_q: int = 3,
    d: int = 0,
    max_seasonal_p: int = 1,
    max_seasonal_q: int = 1,
    seasonal_d: int = 0,
    season: int = 0,
    exog: ArrayLike | None = None,
    trend: str | None = None,
    start: str = "diffuse",
) -> OrderSelection:
    """Fit every order up to the largest ones and take that of the smallest AICc.

    Parameters
    ----------
    y, exog, trend, start
        As in :func:`fit_arima`.
    max_p, max_q, max_seasonal_p, max_seasonal_q : int
        The seasonal ones count where ``season`` is not 0.
    d, seasonal_d : int
        Fixed: likelihoods of series that are differenced otherwise do not compare.
    season : int
        In samples; 0 for none.

    Raises
    ------
    ParameterError
        As :func:`fit_arima`, where it refuses all of them.

    References
    ----------
    C. M. Hurvich, C.-L. Tsai (1989), "Regression and time series model selection in small samples".
    """
    largest = [whole_number("max_p", max_p, least=0), whole_number("max_q", max_q, least=0)]
    seasonal_largest = [
        whole_number("max_seasonal_p", max_seasonal_p, least=0),
        whole_number("max_seasonal_q", max_seasonal_q, least=0),
    ]
    ranges = [range(n + 1) for n in (*largest, *(seasonal_largest if season else (0, 0)))]
    orders = tuple(((p, d, q), (P, seasonal_d, Q, season)) for p, q, P, Q in product(*ranges))
    found: list[float] = []
    best, refusal = None, None
    for order, seasonal in orders:
        try:
            fit = fit_arima(y, order=order, seasonal=seasonal, exog=exog, trend=trend, start=start)
        except ParameterError as error:
            refusal = refusal or error
            found.append(np.inf)
            continue
        found.append(fit.aicc)
        best = fit if best is None or fit.aicc < best.aicc else best
    if best is None:
        assert refusal is not None
        raise refusal
    return OrderSelection(best, orders, np.array(found))


class _Case:
    """A series and its regressors as the likelihood takes them: without the ends that are missing, regressors of about
    unit length, differenced where there are no gaps."""

    def __init__(
        self,
        y: ArrayLike,
        exog: ArrayLike | None,
        trend: str,
        orders: tuple[int, ...],
        lags: tuple[int, ...],
        start: str,
    ) -> None:
        self.y = _series(y)
        n = len(self.y)
        self.exog = exogenous(exog, n)
        if trend not in TRENDS:
            raise ParameterError(f"{trend=}: choose one of {list(TRENDS)}")
        if start not in STARTS:
            raise ParameterError(f"{start=}: choose one of {list(STARTS)}")
        _require_short(orders)
        self.trend, self.orders, self.start = trend, orders, start
        X = _regressors(n, trend, self.exog)
        there = np.flatnonzero(np.isfinite(self.y))
        # what is known of levels of large variance depends on when they began
        self.first, stop = (0 if start == "approximate" else there[0]), there[-1] + 1
        z, self.X = self.y[self.first : stop], X[self.first : stop]
        n_levels = sum(lags)
        needed = n_levels + X.shape[1] + sum(orders[:4]) + 2
        if there.size < needed or len(z) <= n_levels:
            raise ParameterError(
                f"y has {there.size} values, too few for {sum(orders[:4])} coefficients, {X.shape[1]} regressors and "
                f"{n_levels} samples lost by differences: give at least {needed}"
            )
        if X.shape[1]:
            z = z - self._prepare_regressors(z, lags)
        else:
            self.R: Real = np.zeros((0, 0))
            self.offset: Real = np.zeros(0)
        seen = np.isfinite(z)
        w = _differenced(z, lags)
        if not np.any(np.abs(w) > 1e-13 * np.max(np.abs(self.y[there]))) and np.isfinite(w).any():
            raise ParameterError("y does not vary beyond its differences and regressors: there is no variance to fit")
        self.columns = np.column_stack([np.linalg.solve(self.R.T, self.X.T).T, z]) if X.shape[1] else z[:, None]
        complete = bool(seen.all()) and (start == "diffuse" or not lags)
        self.mode = COMPLETE if complete else STARTS[start]
        if not complete:
            _require_short(orders, lags, kept=True)
        self.differences = np.array(lags, np.int64)
        self.lost = n_levels if complete else 0
        self.seen = seen[self.lost :]
        columns = _differenced(self.columns, lags) if complete else np.nan_to_num(self.columns, nan=0.0)
        self.values = np.ascontiguousarray(columns)
        # levels of large variance use up the first samples, seen or not
        self.n_counted = there.size - n_levels
        if self.mode == VAGUE:
            self.n_counted = int(np.count_nonzero(seen[n_levels:]))

    def _prepare_regressors(self, z: Real, lags: tuple[int, ...]) -> Real:
        """What an ordinary regression takes off: all that follows is small beside it, and stays exact."""
        differenced = _differenced(self.X, lags)
        self.R = np.linalg.qr(differenced)[1]
        for k, size in enumerate(np.abs(np.diagonal(self.R))):
            if size <= ROUNDING * np.linalg.norm(self.X[:, k]):
                trends = [{"c": "mean", "t": "trend"}[kind] for kind in self.trend if kind != "n"]
                name = [*trends, *(f"exog column {i}" for i in range(self.exog.shape[1]))][k]
                raise ParameterError(
                    f"the regressor {name} depends on those before it, or is wiped out by differences: leave it out"
                )
        w = _differenced(z, lags)
        whole = np.isfinite(w)
        self.offset = np.asarray(np.linalg.lstsq(differenced[whole], w[whole])[0], np.float64)
        taken: Real = self.X @ self.offset
        return taken

    def profile(self, coefficients: Real, variance: float = -1.0) -> tuple[Any, ...]:
        found: tuple[Any, ...] = profile(
            self.values, self.seen, coefficients, self.orders, self.differences, self.mode, variance
        )
        value, scale, weights, normal, taken = found
        if self.mode == DIFFUSE and taken < self.differences.sum():
            raise ParameterError(
                f"the missing values leave {self.differences.sum() - taken} levels open: a phase of the season without "
                "any value has no level; take fewer differences, or give more values"
            )
        if not np.isfinite(value):
            raise ParameterError("the likelihood is not finite: y does not vary beyond its regressors, or overflows")
        # of the differenced series, and of levels of which nothing is known, as the others
        return value - 0.5 * self.lost * np.log(2 * np.pi), scale, weights, normal, taken

    def objective(self, x: Real) -> tuple[float, Real]:
        value, gradient = objective(x, self.values, self.seen, self.orders, self.differences, self.mode)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros_like(x)
        return value, gradient

    def regression(self, weights: Real, normal: Real, variance: float) -> tuple[Real, Real]:
        """Weights of the regressors as they were given, and their standard errors."""
        k = weights.size
        beta = np.linalg.solve(self.R, weights) + self.offset
        # U' D^-1 U is the normal matrix that elimination took apart
        root = normal[:k, :k] / np.sqrt(np.diagonal(normal)[:k, None])
        back = np.linalg.inv(root @ self.R)
        return beta, np.sqrt(variance * np.sum(back**2, axis=1))

    def standard_errors(self, x: Real) -> Real:
        """From the curvature in free parameters, where the gradient vanishes, through the slope of the map."""
        n = x.size
        hessian, slope = np.empty((n, n)), np.empty((n, n))
        for i in range(n):
            step = np.zeros(n)
            step[i] = 1e-4 * max(1.0, abs(x[i]))
            hessian[i] = (self.objective(x + step)[1] - self.objective(x - step)[1]) / (2 * step[i])
            slope[:, i] = (natural(x + step, self.orders) - natural(x - step, self.orders)) / (2 * step[i])
        hessian = (hessian + hessian.T) / 2 * np.count_nonzero(self.seen)
        values, vectors = np.linalg.eigh(hessian)
        flat = values <= 1e-10 * max(values[-1], 1.0) if n else np.zeros(0, bool)
        errors = np.sqrt(np.sum((slope @ vectors[:, ~flat]) ** 2 / values[~flat], axis=1))
        # a block of coefficients in which a flat direction leads somewhere is not known
        block = np.repeat(np.arange(4), self.orders[:4])
        lost = np.unique(block[np.any(np.abs(vectors[:, flat]) > 0.1, axis=1)])
        return np.asarray(np.where(np.isin(block, lost), np.inf, errors))

    def residuals(self, coefficients: Real, beta: Real) -> Real:
        z = self.columns[:, -1:] - self.X @ (beta - self.offset)[:, None]
        values = _differenced(z, tuple(self.differences)) if self.mode == COMPLETE else z
        errors, variances, infinite, _ = filtered(
            np.ascontiguousarray(np.where(np.isnan(values), 0.0, values)),
            self.seen,
            coefficients,
            self.orders,
            self.differences,
            self.mode,
        )
        scaled = errors[:, 0] / np.sqrt(variances)
        scaled[(infinite > 0) | ~self.seen] = np.nan
        if self.mode == VAGUE:
            scaled[: self.differences.sum()] = np.nan
        residuals = np.full(len(self.y), np.nan)
        residuals[self.first + self.lost : self.first + self.lost + scaled.size] = scaled
        return residuals

    def starts(self) -> list[Real]:
        """Free parameters after Hannan and Rissanen: innovations of a long autoregression as regressors. And zeros."""
        p, q, P, Q, s = self.orders
        zero = np.zeros(p + q + P + Q)
        z = self.columns[:, -1]
        at = np.arange(z.size)
        seen = np.isfinite(z)
        w = _differenced(np.interp(at, at[seen], z[seen]), tuple(self.differences))
        short, seasons = max(p, q) + 4, (max(P, Q) + 1) * bool(P + Q)
        lags = sorted({i + j * s for i in range(short + 1) for j in range(seasons + 1)} - {0})
        last = max(lags)
        behind = max(p, q, s * max(P, Q))
        if w.size - last - behind < 2 * len(lags):
            return [zero]
        past = np.column_stack([w[last - lag : w.size - lag] for lag in lags])
        e = np.zeros_like(w)
        e[last:] = w[last:] - past @ np.linalg.lstsq(past, w[last:])[0]
        begin = last + behind
        blocks = ((w, p, 1), (e, q, 1), (w, P, s), (e, Q, s))
        columns = [x[begin - j * unit : w.size - j * unit] for x, n, unit in blocks for j in range(1, n + 1)]
        if not columns:
            return [zero]
        rough = np.asarray(np.linalg.lstsq(np.column_stack(columns), w[begin:])[0], np.float64)
        free, inside = _free(rough, self.orders)
        return [free] if inside else [free, zero]


def _nearly_cancels(coefficients: Real, orders: tuple[int, ...]) -> bool:
    """Whether a root of an autoregression stands near one of its moving average: then both may be anywhere together."""
    ar, ma, seasonal_ar, seasonal_ma = np.split(coefficients, np.cumsum(orders[:3]))
    for poles, zeros in ((ar, ma), (seasonal_ar, seasonal_ma)):
        p, z = np.roots(np.append(1, -poles)), np.roots(np.append(1, zeros))
        if p.size and z.size and np.min(np.abs(p[:, None] - z)) < NEAR:
            return True
    return False


def _corners(orders: tuple[int, ...]) -> list[Real]:
    """Starts all about: zero, and for each block a first partial autocorrelation far to either side."""
    n = sum(orders[:4])
    firsts = [start for start, size in zip(np.cumsum([0, *orders[:3]]), orders, strict=False) if size]
    return [np.zeros(n), *(side * np.eye(1, n, first)[0] for first in firsts for side in (-1.0, 1.0))]


def _free(coefficients: Real, orders: tuple[int, ...]) -> tuple[Real, bool]:
    """The free parameters of coefficients, and whether these are stationary and invertible; else of some that are."""
    found, inside = [], True
    for i, block in enumerate(np.split(coefficients, np.cumsum(orders[:3]))):
        with np.errstate(all="ignore"):
            k = np.nan_to_num(reflections(-block if i % 2 else block), nan=0.0)
        if np.any(np.abs(k) > INSIDE):
            k, inside = np.clip(k, -INSIDE, INSIDE), False
        found.append(k / np.sqrt(1 - k**2))
    return np.concatenate(found), inside


def _checked_initial(initial: Mapping[str, ArrayLike], orders: tuple[int, ...]) -> Real:
    if unknown := sorted(set(initial) - set(BLOCKS)):
        raise ParameterError(f"initial: unknown name {unknown}; known are {list(BLOCKS)}")
    found = []
    for i, (name, n) in enumerate(zip(BLOCKS, orders, strict=False)):
        block = np.atleast_1d(np.asarray(initial.get(name, np.zeros(n)), np.float64))
        if block.shape != (n,):
            raise ParameterError(f"initial: {name} has shape {block.shape}, must have ({n},)")
        k = _require_inside(f"initial: {name}", -block if i % 2 else block, ", so that the search can start there")
        found.append(k / np.sqrt(1 - k**2))
    return np.concatenate(found)


def _require_inside(name: str, block: Real, why: str) -> Real:
    """The partial autocorrelations, all inside (-1, 1)."""
    if not np.isfinite(block).all():
        raise ParameterError(f"{name} holds NaN or infinity")
    with np.errstate(all="ignore"):
        k: Real = reflections(np.ascontiguousarray(block))
    if not np.all(np.abs(k) < 1):
        largest = np.max(np.abs(np.roots(np.concatenate([[1.0], -block]))))
        kind = "invertible" if name.endswith("ma") else "stationary"
        raise ParameterError(f"{name} is not {kind}, a root has magnitude {largest:.6g}: must be below 1{why}")
    return k


def _orders(order: Any, seasonal: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the blocks of coefficients and the season; lags of the differences."""
    for name, value, letters in (("order", order, "p, d, q"), ("seasonal", seasonal, "P, D, Q, s")):
        if not isinstance(value, Sequence | np.ndarray) or len(value) != letters.count(",") + 1:
            raise ParameterError(f"{name}={value!r} must be ({letters})")
    p, d, q = (whole_number(f"order[{i}]", n, least=0) for i, n in enumerate(order))
    P, D, Q, s = (whole_number(f"seasonal[{i}]", n, least=0) for i, n in enumerate(seasonal))
    if P + D + Q and s < 2:
        raise ParameterError(f"a seasonal part {P, D, Q} needs a season of at least 2 samples, not {s}")
    if d + D > 4:
        raise ParameterError(f"{d} differences and {D} seasonal ones: more than 4 leave nothing but rounding")
    season = s if P + D + Q else 0
    return (p, q, P, Q, season), (1,) * d + (season,) * D


def _require_short(orders: tuple[int, ...], lags: tuple[int, ...] = (), kept: bool = False) -> None:
    p, q, P, Q, s = orders
    length, limit = max(p + P * s + sum(lags), q + Q * s + 1), LONGEST_KEPT if kept else LONGEST
    if length > limit:
        why = "; only the fit of a series without gaps can do without that" if kept else ""
        what = "the covariance of a state" if kept else "a state"
        raise ParameterError(f"a season of {s} samples needs {what} of {length} numbers, more than {limit}{why}")


def _process(coefficients: Real, orders: tuple[int, ...], lags: tuple[int, ...]) -> ARIMA:
    p, q, P, Q, s = orders
    D = sum(lag == s for lag in lags)
    blocks = dict(zip(BLOCKS, np.split(coefficients, np.cumsum([p, q, P])), strict=True))
    return ARIMA._restore({"order": (p, len(lags) - D, q), "seasonal": (P, D, Q, s)}, blocks)


def _section(ar: Real, ma: Real, lag: int) -> DelayStateSpace:
    """``(1 + ma(B^lag)) / (1 - ar(B^lag))`` on one chain of delay lines."""
    n = max(ar.size, ma.size)
    if not n:
        return gain(1.0)
    ar, ma = np.pad(ar, (0, n - ar.size)), np.pad(ma, (0, n - ma.size))
    A = np.eye(n, k=-1)
    A[0] = ar
    return DelayStateSpace(A, np.eye(n, 1), [ar + ma], np.eye(1), [lag] * n)


def _series(y: ArrayLike) -> Real:
    array = reals("y", y)
    if array.ndim != 1:
        raise ParameterError(f"y has shape {array.shape}: give one series of real numbers")
    if np.isinf(array).any():
        raise ParameterError(
            f"y is infinite at sample {int(np.argmax(np.isinf(array)))}: NaN stands for missing values"
        )
    if not np.isfinite(array).any():
        raise ParameterError("y has no value that is not NaN")
    return array


def exogenous(exog: ArrayLike | None, n_frames: int, width: int | None = None) -> Real:
    """(n_frames, width) finite numbers, for vector autoregressions too."""
    array = np.zeros((n_frames, 0)) if exog is None else np.asarray(exog)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n_frames or array.dtype.kind not in "fiub":
        raise ParameterError(
            f"exog has shape {array.shape}, must have one row of numbers for each of {n_frames} samples"
        )
    if width is not None and array.shape[1] != width:
        raise ParameterError(
            f"exog has {array.shape[1]} columns, the fit had {width}: give exog of shape ({n_frames}, {width})"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ParameterError("exog holds NaN or infinity: only the series may have missing values")
    return array


def _regressors(n_frames: int, trend: str, exog: Real, begin: int = 0) -> Real:
    if trend == "n":
        return exog
    time = np.arange(begin + 1.0, begin + n_frames + 1)
    kinds = {"c": np.ones(n_frames), "t": time}
    return np.column_stack([*(kinds[kind] for kind in trend), exog])


def _differenced(x: Real, lags: Sequence[int]) -> Real:
    for lag in lags:
        x = x[lag:] - x[:-lag]
    return x

"""Vector autoregressions, with regressors or without: fit by likelihood or least squares, and the filters they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, generator, whole_number, whole_numbers
from rnndsp._jit import kernel
from rnndsp.errors import ParameterError
from rnndsp.filters.arima import Forecast, exogenous, interval
from rnndsp.identification import lagged, missed, observer_form, real_signal, regression, triangle
from rnndsp.residuals import ResidualDiagnostics, residual_diagnostics
from rnndsp.statespace import StateSpace

__all__ = ["VarFit", "VarOrderSelection", "fit_var", "select_var_order"]

Real = NDArray[np.float64]

METHODS = ("likelihood", "least_squares")
CRITERIA = ("aicc", "bic")
# Below this part of the largest singular value regressors are taken to depend on each other, and below this part of the
# series innovations to be rounding.
DEPENDENT, EXACT = 1e-10, 1e-12
# A search that ends where innovations are correlated so nearly fully has followed a likelihood without maximum.
VANISHING = 1e-4
# Where poles that least squares puts on or outside the circle are drawn to for a start.
INSIDE = 0.98
# More states, or coefficients in all, would take more than minutes.
LONGEST, LARGEST = 200, 1000
# Step of the differences that give the curvature, in standard deviations of a sample.
STEP = 1e-4


@dataclass(frozen=True)
class VarFit:
    """A fitted vector autoregression.

    Attributes
    ----------
    filter : StateSpace
        Innovations in, series (without constant and regressors) out; its states are the last ``order`` frames.
    exog_filter : StateSpace or None
        What the regressors make of it: regressors in, series out, on the same poles.
    constant : ndarray, shape (k,)
        c, which is not the series' mean.
    coefficients : ndarray, shape (order, k, k)
        A_1, A_2, ...
    exog_coefficients : ndarray, shape (len(exog_lags), k, m)
        B at each of ``exog_lags``.
    standard_errors : tuple of ndarray
        Of ``constant``, ``coefficients`` and ``exog_coefficients``, in their shapes; infinite where the likelihood is
        flat.
    covariance : ndarray, shape (k, k)
        Of the innovations: the most likely one, or squares of the residuals over their degrees of freedom.
    log_likelihood : float
        Of all values that there are; or, with least squares, of the frames that were fitted, given those before.
    n_observations : int
        Frames with any value; or, with least squares, those with all of their past.
    residuals : ndarray, shape (n, k)
        Innovations; NaN in frames that do not have all of their past.
    converged : bool
        Whether the gradient vanished.
    method : str
    y : ndarray, shape (n, k)
    exog : ndarray, shape (n, m)
    exog_lags : tuple of int
    n_parameters : int
        Coefficients, and the entries of the symmetric covariance.
    """

    filter: StateSpace
    exog_filter: StateSpace | None
    constant: Real
    coefficients: Real
    exog_coefficients: Real
    standard_errors: tuple[Real, Real, Real]
    covariance: Real
    log_likelihood: float
    n_observations: int
    residuals: Real = field(repr=False)
    converged: bool
    method: str
    y: Real = field(repr=False)
    exog: Real = field(repr=False)
    exog_lags: tuple[int, ...]
    n_parameters: int

    @property
    def aic(self) -> float:
        """Akaike's criterion; least squares of several orders compare if ``n_initial`` is the same for all."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def aicc(self) -> float:
        """Akaike's criterion, corrected for few frames (Hurvich and Tsai 1993); infinite where there are too few."""
        k = self.constant.size
        left = self.n_observations - self.n_parameters / k - (k + 1) / 2
        return 2 * self.n_parameters * self.n_observations / left - 2 * self.log_likelihood if left > 0 else np.inf

    @property
    def bic(self) -> float:
        """Schwarz's criterion; least squares of several orders compare if ``n_initial`` is the same for all."""
        return float(np.log(self.n_observations)) * self.n_parameters - 2 * self.log_likelihood

    def whiten(self) -> StateSpace:
        """The inverse of ``filter``, a finite response: series without constant and regressors in, innovations out."""
        A, B, C, D = (self.filter.params[name] for name in "ABCD")
        return StateSpace(A - B @ C, B, -C, D, sample_rate=self.filter.sample_rate)

    def diagnostics(self, channel: int = 0, *, n_lags: int | None = None) -> ResidualDiagnostics:
        """Whether the residuals of one channel are white: see :func:`rnndsp.residuals.residual_diagnostics`."""
        k = self.constant.size
        if whole_number("channel", channel, least=0) >= k:
            raise ParameterError(f"{channel=}: there are {k}")
        return residual_diagnostics(self.residuals[:, channel], n_lags=n_lags, n_coefficients=len(self.coefficients))

    def fill(self, *, level: float = 0.95) -> Forecast:
        """The series with its gaps filled: what all values that there are tell of those missing.

        Parameters
        ----------
        level : float
            Within (0, 1), of each value by itself.

        Returns
        -------
        Forecast
            Arrays of shape (n, k); without error where there is a value. The errors of the estimates are not part of
            it.

        Raises
        ------
        ParameterError
            A process that is not stationary (least squares may find one) with gaps that its first frames leave open.

        Notes
        -----
        Mean and variance given all values, as a Kalman smoother has them, by the band matrix that is the precision of
        the missing ones: for m of them, w within the order, O(m w^2).
        """
        series, _, _, sizes, filled, band = self._known()
        error = np.zeros_like(filled)
        error[series.frames, series.channels] = np.sqrt(band[0])
        return interval(np.where(np.isnan(self.y), filled * sizes, self.y), error * sizes, level)

    def forecast(self, n_frames: int, *, level: float = 0.95, exog: ArrayLike | None = None) -> Forecast:
        """What comes after the series; all arrays have shape (n_frames, k).

        Parameters
        ----------
        n_frames : int
        level : float
            Within (0, 1), of each value by itself.
        exog : array, shape (n_frames, m), optional
            The regressors to come, where the fit had any.

        Raises
        ------
        ParameterError
            Regressors that do not fit, or as in :meth:`fill`.
        """
        n_frames, (n, k) = whole_number("n_frames", n_frames), self.y.shape
        u = np.vstack([self.exog, exogenous(exog, n_frames, self.exog.shape[1])])
        series, weights, noise, sizes, filled, band = self._known()
        p, spread = series.order, series.last_covariance(band)
        taps = weights[:, : p * k]
        y = np.vstack([filled, _fixed(u, self.exog_lags, True)[0][n:] @ weights[:, p * k :].T])
        error = np.empty((n_frames, k))
        for t in range(n_frames):
            y[n + t] += taps @ y[n + t - p : n + t][::-1].ravel()
            cross = taps @ spread
            own = cross @ taps.T + noise
            own = 0.5 * (own + own.T)  # what is not symmetric would grow
            error[t] = np.sqrt(np.diagonal(own))
            spread = np.block([[own, cross], [cross.T, spread]])[: p * k, : p * k]
        return interval(y[n:] * sizes, error * sizes, level)

    def simulate(self, n_frames: int, *, seed: int | np.random.Generator = 0) -> Real:
        """Gaussian innovations through ``filter``, from rest, shape (n_frames, k); without constant and regressors."""
        noise = generator(seed).standard_normal((whole_number("n_frames", n_frames), self.constant.size))
        return np.asarray(self.filter(noise @ np.linalg.cholesky(self.covariance).T))

    def _known(self) -> tuple[_Series, Real, Real, Real, Real, Real]:
        """In standard deviations of innovations: the series, weights and covariance. These deviations. And the series
        filled, with the band of what is missing."""
        sizes = np.sqrt(np.diagonal(self.covariance))
        p, k = len(self.coefficients), sizes.size
        weights = np.hstack([*self.coefficients * sizes, self.constant[:, None], *self.exog_coefficients])
        weights /= sizes[:, None]
        noise = self.covariance / np.outer(sizes, sizes)
        series = _Series(self.y / sizes, *_fixed(self.exog, self.exog_lags, True), p)
        start, course = np.zeros((p * k, p * k)), np.zeros((2 * p, k))
        if np.isnan(self.y[:p]).any():  # else it does not matter where they come from
            with suppress(np.linalg.LinAlgError):  # from where, nobody knows
                start, course = _inverted(_stationary(weights, noise, p)), series.course(weights)
        try:
            filled, band, _ = series.filled(weights, _inverted(noise), start, course)
        except np.linalg.LinAlgError:
            raise ParameterError(
                "the process is not stationary, and nothing tells what is missing of its first frames: leave them out"
            ) from None
        return series, weights, noise, sizes, filled, band


@dataclass(frozen=True)
class VarOrderSelection:
    """Orders side by side.

    Attributes
    ----------
    best : VarFit
        The fit of the smallest criterion.
    aicc, bic : ndarray, shape (max_order + 1,)
        Of the orders 0, 1, ...; infinite where the series is too short for the order.
    """

    best: VarFit
    aicc: Real
    bic: Real


def fit_var(
    y: ArrayLike,
    *,
    order: int = 1,
    exog: ArrayLike | None = None,
    exog_lags: Sequence[int] = (0,),
    constant: bool = True,
    method: str = "likelihood",
    n_initial: int = 0,
    sample_rate: float | None = None,
) -> VarFit:
    r"""Fit a vector autoregression; with regressors and one channel it is an ARX model.

    .. math:: y[t] = c + \sum_{i=1}^{p} A_i\,y[t-i] + \sum_{l} B_l\,u[t-l] + e[t]

    Parameters
    ----------
    y : array, shape (n, k), or (n,) for one channel
        NaN where a value is missing, be it in one channel only.
    order : int
        p.
    exog : array, shape (n, m) or (n,), optional
        Regressors u.
    exog_lags : sequence of int
        The lags l of the regressors, at least 0.
    constant : bool
        Whether there is a constant c.
    method : {"likelihood", "least_squares"}
        The exact Gaussian likelihood of all values, or least squares of the frames that have all of their past.
    n_initial : int
        For least squares: frames that are not fitted, where the longest lag is not more: the same for all orders that
        are compared.
    sample_rate : float, optional
        Hz, of the filters.

    Returns
    -------
    VarFit

    Raises
    ------
    ParameterError
        Too few values for the coefficients, channels or regressors that depend on each other, a channel without any
        value, numbers whose squares leave the range of floats.

    Notes
    -----
    *Likelihood*: the first p frames come from the stationary distribution (Lyapunov's equation), around the course that
    the regressors give the mean; before the first frame these stood at their own mean. Missing values are integrated
    out: their precision is a band matrix, as two of them touch only within p frames. The search is BFGS with exact
    gradients, from least squares (gaps bridged by straight lines), in coordinates in which that has a curvature of one;
    the covariance moves as a Cholesky factor. Poles stay inside the circle by themselves, as the likelihood of the
    first frames falls to minus infinity there; steps beyond are refused. It is a local search: no proof that there is
    no better maximum. Standard errors are by the curvature.

    *Cost*: windows without gaps are reduced once to a triangle, O(n (p k)^2), as for least squares; each step of the
    search then takes O((p k)^3), whatever their number, and O(m w^2) for m missing values, w of them within p frames.
    Standard errors take two steps a coefficient. Two channels of a million frames, order 8: 4 s, and 2 s by least
    squares; of 1e5 frames, order 4, with one value in twenty missing: 3 to 8 s; minutes at the limits of 200 states and
    1000 coefficients, beyond which least squares is left.

    *Least squares* maximises the likelihood given the first frames. Nothing keeps its result stationary (see
    ``fit.filter.stability()``): take it for a series that grows, for very long ones and high orders.
    :func:`rnndsp.identification.arx` is the same regression without a constant, as a transfer function.

    References
    ----------
    H. Luetkepohl (2005), "New introduction to multiple time series analysis". L. Ljung (1999), "System identification:
    theory for the user". K. Takahashi, J. Fagan, M.-S. Chin (1973), "Formation of a sparse bus impedance matrix and its
    application to short circuit study", for the covariances within the band.
    """
    p = whole_number("order", order, least=0)
    squares = choice("method", method, METHODS) == "least_squares"
    if whole_number("n_initial", n_initial, least=0) and not squares:
        raise ParameterError(f"{n_initial=} is for least squares: the likelihood takes all frames")
    series = real_signal("y", y, gaps=True)
    n, k = series.shape
    lags = tuple(whole_numbers("exog_lags", exog_lags, least=0).tolist()) if exog is not None else ()
    u = exogenous(exog, n)
    if exog is not None:
        u = real_signal("exog", u)
        if len(set(lags)) < len(lags) or not lags:
            raise ParameterError(f"{exog_lags=} must be distinct lags, at least one")
    n_columns = int(constant) + p * k + len(lags) * u.shape[1]
    known, reach = np.isfinite(series), max(p, *lags, n_initial)
    first, fewest = (reach if squares else p), int(min(known.sum(0)))
    if reach >= n or fewest <= n_columns + k:
        raise ParameterError(
            f"{n} frames with at least {fewest} values a channel are too few for {n_columns} coefficients a channel "
            f"and {reach} first frames"
        )
    if not squares and (p * k > LONGEST or k * n_columns > LARGEST):
        raise ParameterError(
            f"{p * k} states and {k * n_columns} coefficients, where the likelihood can do with {LONGEST} and "
            f"{LARGEST}: take method='least_squares', a lower order, or for one channel fit_arima"
        )
    if not (np.nanmax(np.abs(series), axis=0).all() and u.any(0).all()):
        raise ParameterError("a channel or a regressor is zero throughout: leave it out")
    # powers of two, so that nothing is rounded
    size, u_size = (2.0 ** np.round(0.5 * np.log2(np.nanmean(x**2, axis=0))) for x in (series, u))
    case = _Series(series / size, *_fixed(u / u_size, lags, constant), p)
    found = _least_squares(case.y, case, first)[0] if squares else _searched(case)
    back = np.concatenate([np.tile(size, p), np.ones(int(constant)), np.tile(u_size, len(lags))])
    weights, errors = (size[:, None] * one / back for one in (found.weights, found.errors))
    residuals = np.full((n, k), np.nan)
    residuals[first:] = size * missed(lagged(case.parts, first), found.weights.T)
    c, A, B = _blocks(weights, p, len(lags), constant)
    return VarFit(
        _coloring(A, k, sample_rate),
        _driven(A, B, lags, sample_rate) if lags else None,
        c,
        A,
        B,
        _blocks(errors, p, len(lags), constant),
        found.noise * np.outer(size, size),
        found.value - float(found.counted @ np.log(size)),
        found.n_observations,
        residuals,
        found.converged,
        method,
        series,
        u,
        lags,
        n_columns * k + k * (k + 1) // 2,
    )


def select_var_order(
    y: ArrayLike,
    *,
    max_order: int,
    criterion: str = "aicc",
    exog: ArrayLike | None = None,
    exog_lags: Sequence[int] = (0,),
    constant: bool = True,
    method: str = "likelihood",
    sample_rate: float | None = None,
) -> VarOrderSelection:
    """Fit vector autoregressions of all orders from 0 to the largest one, to the same frames, and take the best.

    Parameters
    ----------
    y, exog, exog_lags, constant, method, sample_rate
        As in :func:`fit_var`.
    max_order : int
    criterion : {"aicc", "bic"}
        Akaike's corrected one, which is good for predictions, or Schwarz's, which finds the true order of long series.

    Raises
    ------
    ParameterError
        As :func:`fit_var`, where it refuses all of them.

    References
    ----------
    C. M. Hurvich, C.-L. Tsai (1993), "A corrected Akaike information criterion for vector autoregressive model
    selection". G. Schwarz (1978), "Estimating the dimension of a model".
    """
    choice("criterion", criterion, CRITERIA)
    largest = whole_number("max_order", max_order, least=0)
    fits: list[VarFit | None] = []
    refusal = None
    for p in range(largest + 1):
        try:
            n_initial = largest if method == "least_squares" else 0
            fits.append(
                fit_var(
                    y,
                    order=p,
                    exog=exog,
                    exog_lags=exog_lags,
                    constant=constant,
                    method=method,
                    n_initial=n_initial,
                    sample_rate=sample_rate,
                )
            )
        except ParameterError as error:
            refusal = refusal or error
            fits.append(None)
    if refusal is not None and not any(fits):
        raise refusal
    aicc, bic = (np.array([getattr(fit, name) if fit else np.inf for fit in fits]) for name in CRITERIA)
    best = fits[int(np.argmin(aicc if criterion == "aicc" else bic))]
    assert best is not None
    return VarOrderSelection(best, aicc, bic)


# ---- the two methods, on a series of about unit size


@dataclass(frozen=True)
class _Found:
    weights: Real
    """(k, columns): A_1, A_2, ..., constant, B side by side."""
    errors: Real
    noise: Real
    value: float
    counted: NDArray[np.int64]
    """Values of each channel."""
    n_observations: int
    converged: bool


def _least_squares(y: Real, case: _Series, first: int) -> tuple[_Found, Real]:
    """And a factor of the inverse of the regressors' normal matrix."""
    k = y.shape[1]
    parts = case.parts_of(y)
    whole = np.isfinite(np.concatenate([chunk.sum(1) for chunk in lagged(parts, first)]))
    n, n_columns = int(np.count_nonzero(whole)), case.n_columns
    if n <= n_columns + k:
        raise ParameterError(
            f"{n} frames have all of their past and no missing value, too few for {n_columns} coefficients"
        )
    R = triangle(lagged(parts, first))
    weights, values, factor = regression(R, n_columns)
    if n_columns and values[-1] <= DEPENDENT * values[0]:
        raise ParameterError("channels or regressors depend on each other: leave out those that follow from others")
    root = R[n_columns:, n_columns:]
    squares = root.T @ root
    sizes = np.linalg.norm(R[:, n_columns:], axis=0)
    # what is left of each channel, the others apart too
    if not np.all(np.abs(np.diagonal(root)) > EXACT * sizes):
        raise ParameterError("the past, or another channel, tells a channel exactly: there is no innovation to fit")
    covariance = squares / (n - n_columns)
    errors = np.sqrt(np.outer(np.diagonal(covariance), np.sum(factor**2, axis=1)))
    log_det = 2 * np.sum(np.log(np.abs(np.diagonal(root)))) - k * np.log(n)
    value = float(-0.5 * n * (k * np.log(2 * np.pi) + log_det + k))
    return _Found(weights.T, errors, covariance, value, np.full(k, n), n, True), factor


def _searched(case: _Series) -> _Found:
    from scipy.optimize import minimize

    y, (n, k), p, n_columns = case.y, case.y.shape, case.order, case.n_columns
    bridged, at = y.copy(), np.arange(n)
    for channel in range(k):
        seen = np.isfinite(y[:, channel])
        bridged[:, channel] = np.interp(at, at[seen], y[seen, channel])
    begin, back = _least_squares(bridged, case, p)
    first, root = begin.weights.copy(), np.linalg.cholesky(begin.noise)
    radius = np.max(np.abs(np.linalg.eigvals(_companion(first, p)[1])), initial=0)
    if radius >= 1:
        first[:, : p * k] *= np.repeat((INSIDE / radius) ** np.arange(1, p + 1), k)
    back = np.sqrt(n) * back  # to coordinates in which the likelihood has a curvature of about one
    lower = np.tril_indices(k)
    diagonal = np.asarray(lower[0] == lower[1])

    def moved(x: Real) -> tuple[Real, Real, Real]:
        entries = x[k * n_columns :].copy()
        entries[diagonal] = np.exp(entries[diagonal])
        inner = np.zeros((k, k))
        inner[lower] = entries
        return first + root @ x[: k * n_columns].reshape(k, n_columns) @ back.T, root @ inner, entries

    def objective(x: Real) -> tuple[float, Real]:
        with np.errstate(all="ignore"):
            weights, factor, entries = moved(x)
            try:
                value, by_weights, by_noise = case.likelihood(weights, factor @ factor.T)
            except (np.linalg.LinAlgError, ValueError):
                return np.inf, np.zeros_like(x)
            inner = (root.T @ (2 * by_noise @ factor))[lower]
            inner[diagonal] *= entries[diagonal]
            slope = np.concatenate([(root.T @ by_weights @ back).ravel(), inner])
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return np.inf, np.zeros_like(x)
        return -value / n, -slope / n

    x0 = np.zeros(k * n_columns + diagonal.size)
    with np.errstate(all="ignore"):
        found = minimize(objective, x0, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 1000})
    x = np.asarray(found.x, np.float64)
    value, slope = objective(x)
    weights, factor, _ = moved(x)
    noise = factor @ factor.T
    converged = bool(np.max(np.abs(slope)) < 1e-5)
    size = np.sqrt(np.diagonal(noise))
    if not converged and np.linalg.eigvalsh(noise / np.outer(size, size))[0] < VANISHING:
        raise ParameterError(
            f"the likelihood rises without bound: {case.frames.size} of {y.size} values are missing, and what is left "
            "can be explained without noise; take a lower order or fewer channels"
        )
    hessian = np.empty((x.size, x.size))
    for i in range(x.size):
        step = STEP * np.eye(1, x.size, i)[0]
        hessian[i] = (objective(x + step)[1] - objective(x - step)[1]) * (n / (2 * STEP))
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    errors = np.full(weights.shape, np.inf)
    if values[0] > DEPENDENT * values[-1]:
        # rows of weights in the order of x
        spread = np.kron(root, back) @ vectors[: weights.size] / np.sqrt(values)
        errors = np.sqrt(np.sum(spread**2, axis=1)).reshape(weights.shape)
    known = np.isfinite(y)
    return _Found(
        weights,
        errors,
        noise,
        -value * n,
        known.sum(0),
        int(known.any(1).sum()),
        converged,
    )


class _Series:
    """A series with gaps and what drives it, ``fixed``, which was ``resting`` before; frames t from ``order`` on are
    windows: they have a past."""

    def __init__(self, y: Real, fixed: Real, resting: Real, order: int) -> None:
        (n, k), p = y.shape, order
        self.y, self.fixed, self.resting, self.order = y, fixed, resting, p
        self.n_columns = p * k + resting.size
        self.parts = self.parts_of(y)
        self.frames, self.channels = np.nonzero(np.isnan(y))
        whole = np.asarray(np.isfinite(y).all(1))
        self.gapped = p + np.flatnonzero(~np.all([whole[p - i : n - i] for i in range(p + 1)], axis=0))
        last = np.searchsorted(self.frames, self.frames + p, side="right")
        self.width = int(np.max(last - np.arange(last.size), initial=1))
        self.R: Real | None = None

    def parts_of(self, y: Real) -> list[tuple[Real, Sequence[int]]]:
        """A row: the past, what drives, and the frame."""
        return [(y, range(1, self.order + 1)), (self.fixed, (0,)), (y, (0,))]

    def course(self, weights: Real) -> Real:
        """Of the mean: the ``order`` frames before the first one, where it rested, and those after."""
        k, p = self.y.shape[1], self.order
        taps, rest = weights[:, : p * k], weights[:, p * k :]
        found = np.empty((2 * p, k))
        found[:p] = np.linalg.solve(np.eye(k) - taps.reshape(k, p, k).sum(1), rest @ self.resting)
        for t in range(p):
            found[p + t] = taps @ found[t : t + p][::-1].ravel() + rest @ self.fixed[t]
        return found

    def filled(self, weights: Real, precision: Real, start: Real, course: Real) -> tuple[Real, Real, float]:
        """The series with what is expected in its gaps; the band of the covariance of that, a row for each distance;
        and the logarithm of the determinant of its precision. ``start`` is the precision of the first frames."""
        from scipy.linalg import cho_solve_banded, cholesky_banded

        if not self.frames.size:
            return self.y, np.zeros((1, 0)), 0.0
        (n, k), p = self.y.shape, self.order
        by_lag = np.hstack([np.eye(k), -weights[:, : p * k]])
        filled = np.nan_to_num(self.y, nan=0.0)
        slope = np.zeros((n, k))
        weighted = self._residuals(filled, weights) @ precision @ by_lag
        for lag in range(p + 1):
            slope[self.gapped - lag] += weighted[:, lag * k : (lag + 1) * k]
        slope[:p] += (start @ (filled[:p] - course[p:])[::-1].ravel()).reshape(p, k)[::-1]
        band = np.zeros((self.width, self.frames.size))
        outer = by_lag.T @ precision @ by_lag
        _gather(self.frames, self.channels, n, k, p, band, outer, np.ascontiguousarray(start), False)
        band = cholesky_banded(band, lower=True)
        log_det = 2 * float(np.sum(np.log(band[0])))
        expected = cho_solve_banded((band, True), slope[self.frames, self.channels])
        filled[self.frames, self.channels] = -expected
        return filled, _inverse(band), log_det

    def _residuals(self, y: Real, weights: Real) -> Real:
        rows = self._rows(y)
        return np.asarray(rows[:, self.n_columns :] - rows[:, : self.n_columns] @ weights.T)

    def _rows(self, y: Real) -> Real:
        """Those windows that have gaps."""
        return np.hstack([x[self.gapped - lag] for x, lags in self.parts_of(y) for lag in lags])

    def likelihood(self, weights: Real, noise: Real) -> tuple[float, Real, Real]:
        """Its logarithm, and its slopes by weights and covariance.

        That of the filled series, less what was integrated out. The slopes are those of a complete series, where
        squares of what is missing stand for their expectations.
        """
        from scipy.linalg import solve_discrete_lyapunov

        if self.R is None:  # windows without gaps
            self.R = triangle(lagged(self.parts, self.order))
        (n, k), p = self.y.shape, self.order
        precision = _inverted(noise)
        before = _stationary(weights, noise, p)
        start, course = _inverted(before), self.course(weights) if p else np.zeros((0, k))
        filled, band, log_det = self.filled(weights, precision, start, course)
        rows = np.vstack([self.R, self._rows(filled)])
        e = rows[:, self.n_columns :] - rows[:, : self.n_columns] @ weights.T
        squares, cross = e.T @ e, e.T @ rows[:, : self.n_columns]
        off = (filled[:p] - course[p:])[::-1].ravel()
        pulled = start @ off
        value = -0.5 * (
            (self.y.size - self.frames.size) * np.log(2 * np.pi)
            + (n - p) * np.linalg.slogdet(noise)[1]
            + np.linalg.slogdet(before)[1]
            + np.sum(precision * squares)
            + off @ pulled
            + log_det
        )
        around = np.outer(pulled, pulled)
        if self.frames.size:
            moments, first = np.zeros(((p + 1) * k, (p + 1) * k)), np.zeros((p * k, p * k))
            _gather(self.frames, self.channels, n, k, p, band, moments, first, True)
            by_lag = np.hstack([np.eye(k), -weights[:, : p * k]])
            moments = by_lag @ moments
            squares += moments @ by_lag.T
            cross[:, : p * k] += moments[:, k:]
            around += start @ first @ start
        by_noise = 0.5 * (precision @ squares @ precision - (n - p) * precision)
        by_weights = precision @ cross
        if p:
            taps, companion = _companion(weights, p)
            back = solve_discrete_lyapunov(companion.T, 0.5 * (around - start))
            by_noise += back[:k, :k]
            by_weights[:, : p * k] += 2 * (back @ companion @ before)[:k]
            # back along the course of the mean
            pull = np.vstack([np.zeros((p, k)), pulled.reshape(p, k)[::-1]])
            for t in range(p - 1, -1, -1):
                pull[t : t + p] += (pull[p + t] @ taps).reshape(p, k)[::-1]
                by_weights += np.outer(pull[p + t], np.append(course[t : t + p][::-1], self.fixed[t]))
            total = np.linalg.solve(np.eye(k) - taps.reshape(k, p, k).sum(1).T, pull[:p].sum(0))
            by_weights += np.outer(total, np.append(course[:p], self.resting))
        return float(value), by_weights, 0.5 * (by_noise + by_noise.T)

    def last_covariance(self, band: Real) -> Real:
        """Of the last ``order`` frames, newest first, given all values."""
        (n, k), p = self.y.shape, self.order
        found = np.zeros((p * k, p * k))
        late = np.flatnonzero(self.frames >= n - p)
        place = (n - 1 - self.frames) * k + self.channels
        for a in late:
            for b in range(a, late[-1] + 1):
                found[place[a], place[b]] = found[place[b], place[a]] = band[b - a, a]
        return found


@kernel
def _gather(
    frames: Any, channels: Any, n: Any, k: Any, p: Any, band: Any, windows: Any, start: Any, adjoint: Any
) -> None:
    """The precision of missing values, as a lower band, from that of a window, newest first, and of the first frames;
    or, the adjoint of that, sums over all windows of what is in the band."""
    for a in range(frames.size):
        b = a
        while b < frames.size and frames[b] - frames[a] <= p:
            for t in range(max(frames[b], p), min(frames[a] + p, n - 1) + 1):
                i, j = (t - frames[a]) * k + channels[a], (t - frames[b]) * k + channels[b]
                if adjoint:
                    windows[i, j] += band[b - a, a]
                    if a != b:
                        windows[j, i] += band[b - a, a]
                else:
                    band[b - a, a] += windows[i, j]
            if frames[b] < p:
                i, j = (p - 1 - frames[a]) * k + channels[a], (p - 1 - frames[b]) * k + channels[b]
                if adjoint:
                    start[i, j] = start[j, i] = band[b - a, a]
                else:
                    band[b - a, a] += start[i, j]
            b += 1


@kernel
def _inverse(factor: Any) -> Any:
    """The band of the inverse of L L' from that of L: Takahashi's recursion, O(width^2) a row."""
    width, n = factor.shape
    found = np.zeros((width, n))
    for j in range(n - 1, -1, -1):
        reach = min(width, n - j)
        for i in range(reach - 1, -1, -1):
            total = 1 / factor[0, j] if i == 0 else 0.0
            for m in range(1, reach):
                total -= factor[m, j] * (found[m - i, j + i] if m > i else found[i - m, j + m])
            found[i, j] = total / factor[0, j]
    return found


def _fixed(u: Real, lags: tuple[int, ...], constant: bool) -> tuple[Real, Real]:
    """Constant and lagged regressors side by side, a row a frame; and where they were before the first one, which is
    their mean."""
    n, (mean, ones) = len(u), (u.mean(0), np.ones(int(constant)))
    late = [np.vstack([np.tile(mean, (lag, 1)), u])[:n] for lag in lags]
    return np.hstack([np.tile(ones, (n, 1)), *late]), np.concatenate([ones, *[mean] * len(lags)])


def _inverted(covariance: Real) -> Real:
    return np.asarray(np.linalg.inv(covariance), np.float64)


def _companion(weights: Real, p: int) -> tuple[Real, Real]:
    """A_1 to A_p side by side, and with the shift of the frames below."""
    k = len(weights)
    companion = np.eye(p * k, k=-k)
    if p:
        companion[:k] = weights[:, : p * k]
    return weights[:, : p * k], companion


def _stationary(weights: Real, noise: Real, p: int) -> Real:
    """Covariance of p frames, newest first; LinAlgError where there is none: it is positive only with all poles
    inside."""
    from scipy.linalg import solve_discrete_lyapunov

    k = len(weights)
    driving = np.zeros((p * k, p * k))
    if not p:
        return driving
    driving[:k, :k] = noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near the circle; what comes out is looked at
        found = np.asarray(solve_discrete_lyapunov(_companion(weights, p)[1], driving), np.float64)
    found = 0.5 * (found + found.T)
    np.linalg.cholesky(found)
    return found


def _blocks(weights: Real, p: int, n_lags: int, constant: bool) -> tuple[Real, Real, Real]:
    """Constant, A and B."""
    k = len(weights)
    c = weights[:, p * k] if constant else np.zeros(k)
    driven = weights[:, p * k + int(constant) :]
    B = driven.reshape(k, n_lags, -1).swapaxes(0, 1) if n_lags else np.zeros((0, k, 0))
    return c.copy(), weights[:, : p * k].reshape(k, p, k).swapaxes(0, 1).copy(), B.copy()


def _coloring(A: Real, k: int, sample_rate: float | None) -> StateSpace:
    """Innovations in, series out: the states are the last frames."""
    taps, companion = _companion(np.hstack([np.zeros((k, 0)), *A]), len(A))
    return StateSpace(companion, np.eye(len(companion), k), taps, np.eye(k), sample_rate=sample_rate)


def _driven(A: Real, B: Real, lags: tuple[int, ...], sample_rate: float | None) -> StateSpace:
    """Regressors in, series out."""
    b = np.zeros((max(lags) + 1, *B.shape[1:]))
    b[list(lags)] = B
    return observer_form(-A, b, sample_rate)

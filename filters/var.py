"""Vector autoregressions, with regressors or without: fit by least squares, and the filters they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filters.arima import Forecast
from rnndsp.residuals import ResidualDiagnostics, residual_diagnostics
from rnndsp.statespace import StateSpace

__all__ = ["VarFit", "fit_var"]

Real = NDArray[np.float64]


@dataclass(frozen=True)
class VarFit:
    """A vector autoregression at its largest likelihood, given its first samples.

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
        Of ``constant``, ``coefficients`` and ``exog_coefficients``, in their shapes.
    covariance : ndarray, shape (k, k)
        Of the innovations: squares of the residuals over their degrees of freedom.
    log_likelihood : float
        Of the samples that were fitted, at the covariance that is best for them.
    n_observations : int
        Frames that were fitted: those with all of their past.
    residuals : ndarray, shape (n, k)
        NaN where nothing was fitted.
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
    residuals: Real
    y: Real
    exog: Real
    exog_lags: tuple[int, ...]
    n_parameters: int

    @property
    def aic(self) -> float:
        """Akaike's criterion; to compare orders, give ``n_initial`` to all of them."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion; to compare orders, give ``n_initial`` to all of them."""
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
            The last frames are missing, or regressors that do not fit.
        """
        from scipy.special import ndtri

        n_frames = whole_number("n_frames", n_frames)
        if not 0 < number("level", level) < 1:
            raise ParameterError(f"{level=} must lie within (0, 1)")
        n, k = self.y.shape
        p = len(self.coefficients)
        if not np.isfinite(self.y[n - p :]).all():
            raise ParameterError(f"one of the last {p} frames is missing: a forecast starts from them")
        u = np.vstack([self.exog, _exogenous(exog, n_frames, self.exog.shape[1])])
        y = np.vstack([self.y, np.empty((n_frames, k))])
        for t in range(n, n + n_frames):
            y[t] = self.constant
            for i in range(p):
                y[t] += self.coefficients[i] @ y[t - 1 - i]
            for lag, B in zip(self.exog_lags, self.exog_coefficients, strict=True):
                y[t] += B @ u[t - lag]
        response, state = np.eye(k), np.asarray(self.filter.B, np.float64)
        spread = np.zeros((n_frames, k))
        for t in range(n_frames):
            spread[t:] += np.einsum("ij,jk,ik->i", response, self.covariance, response)
            response, state = self.filter.C @ state, self.filter.A @ state
        error = np.sqrt(spread)
        half = ndtri((1 + level) / 2) * error
        return Forecast(y[n:], error, y[n:] - half, y[n:] + half, float(level))

    def simulate(self, n_frames: int, *, seed: int | np.random.Generator = 0) -> Real:
        """Gaussian innovations through ``filter``, from rest, shape (n_frames, k); without constant and regressors."""
        noise = generator(seed).standard_normal((whole_number("n_frames", n_frames), self.constant.size))
        return np.asarray(self.filter(noise @ np.linalg.cholesky(self.covariance).T))


def fit_var(
    y: ArrayLike,
    *,
    order: int = 1,
    exog: ArrayLike | None = None,
    exog_lags: Sequence[int] = (0,),
    constant: bool = True,
    n_initial: int = 0,
    sample_rate: float | None = None,
) -> VarFit:
    r"""Fit a vector autoregression; with regressors and one channel it is an ARX model.

    .. math:: y[t] = c + \sum_{i=1}^{p} A_i\,y[t-i] + \sum_{l} B_l\,u[t-l] + e[t]

    Parameters
    ----------
    y : array, shape (n, k), or (n,) for one channel
        NaN where a value is missing; frames that need it are left out.
    order : int
        p.
    exog : array, shape (n, m) or (n,), optional
        Regressors u.
    exog_lags : sequence of int
        The lags l of the regressors, at least 0.
    constant : bool
        Whether there is a constant c.
    n_initial : int
        Frames that are not fitted, where the longest lag is not more: the same for all orders that are compared.
    sample_rate : float, optional
        Hz, of the filters.

    Returns
    -------
    VarFit

    Raises
    ------
    ParameterError
        Fewer complete frames than coefficients, channels or regressors that depend on each other, no value at all.

    Notes
    -----
    Least squares in each channel, which maximises the Gaussian likelihood given the first frames. Nothing keeps the
    result stationary: see ``fit.filter.stability()``.

    References
    ----------
    H. Luetkepohl (2005), "New introduction to multiple time series analysis". L. Ljung (1999), "System identification:
    theory for the user".
    """
    p = whole_number("order", order, least=0)
    series = np.asarray(y)
    series = series[:, None] if series.ndim == 1 else series
    if series.ndim != 2 or not series.shape[1] or series.dtype.kind not in "fiu":
        raise ParameterError(f"y has shape {np.shape(y)}, must be (n, k): time before channels")
    series = series.astype(np.float64)
    if np.isinf(series).any():
        raise ParameterError("y is infinite somewhere: NaN stands for missing values")
    n, k = series.shape
    lags = tuple(whole_number("exog_lags", lag, least=0) for lag in exog_lags) if exog is not None else ()
    u = np.zeros((n, 0)) if exog is None else _exogenous(exog, n, None)
    if len(set(lags)) < len(lags) or (exog is not None and not lags):
        raise ParameterError(f"{exog_lags=} must be distinct lags, at least one")
    first = max(p, *lags, whole_number("n_initial", n_initial, least=0))
    n_columns = int(constant) + p * k + len(lags) * u.shape[1]
    if n - first <= n_columns + k:
        raise ParameterError(f"{n} frames are too few for {n_columns} coefficients a channel and {first} first frames")
    parts = [np.ones((n - first, int(constant)))]
    parts += [series[first - i : n - i] for i in range(1, p + 1)]
    parts += [u[first - lag : n - lag] for lag in lags]
    X, target = np.hstack(parts), series[first:]
    whole = np.isfinite(X).all(1) & np.isfinite(target).all(1)
    n_fitted = int(np.count_nonzero(whole))
    if n_fitted <= n_columns + k:
        raise ParameterError(
            f"{n_fitted} frames have all of their past and no missing value, too few for {n_columns} coefficients"
        )
    X, target = X[whole], target[whole]
    scale = np.sqrt(np.mean(X**2, axis=0))
    if not scale.all():
        raise ParameterError("a channel or a regressor is zero throughout: leave it out")
    Q, R = np.linalg.qr(X / scale)
    diagonal = np.abs(np.diagonal(R))
    if diagonal.size and diagonal.min() <= 1e-10 * diagonal.max():
        raise ParameterError("channels or regressors depend on each other: leave out those that follow from others")
    weights = np.linalg.solve(R, Q.T @ target) / scale[:, None]
    e = target - X @ weights
    squares = e.T @ e
    covariance = squares / (n_fitted - n_columns)
    size = np.sqrt(np.mean(target**2, axis=0))
    sign, log_det = np.linalg.slogdet(squares / n_fitted)
    if not np.all(np.sqrt(np.diagonal(covariance)) > 1e-12 * size) or sign <= 0:
        raise ParameterError("the past tells a channel exactly: there is no innovation to fit")
    back = np.linalg.inv(R) / scale[:, None]
    errors = np.sqrt(np.outer(np.sum(back**2, axis=1), np.diagonal(covariance)))
    residuals = np.full((n, k), np.nan)
    residuals[first:][whole] = e
    c, A, B = _blocks(weights, k, p, len(lags), bool(constant))
    return VarFit(
        _coloring(A, k, sample_rate),
        _driven(A, B, lags, sample_rate) if lags else None,
        c,
        A,
        B,
        _blocks(errors, k, p, len(lags), bool(constant)),
        covariance,
        float(-0.5 * n_fitted * (k * np.log(2 * np.pi) + log_det + k)),
        n_fitted,
        residuals,
        series,
        u,
        lags,
        n_columns * k + k * (k + 1) // 2,
    )


def _blocks(weights: Real, k: int, p: int, n_lags: int, constant: bool) -> tuple[Real, Real, Real]:
    """Rows of weights as constant, A and B."""
    c = weights[0] if constant else np.zeros(k)
    own = weights[int(constant) : int(constant) + p * k].reshape(p, k, k).transpose(0, 2, 1)
    rest = weights[int(constant) + p * k :]
    driven = rest.reshape(n_lags, -1, k).transpose(0, 2, 1) if n_lags else np.zeros((0, k, 0))
    return c.copy(), own.copy(), driven.copy()


def _coloring(A: Real, k: int, sample_rate: float | None) -> StateSpace:
    """Innovations in, series out: the states are the last frames."""
    p = len(A)
    taps = np.hstack([np.zeros((k, 0)), *A])
    companion = np.eye(p * k, k=-k)
    companion[:k] = taps
    return StateSpace(companion, np.eye(p * k, k), taps, np.eye(k), sample_rate=sample_rate)


def _driven(A: Real, B: Real, lags: tuple[int, ...], sample_rate: float | None) -> StateSpace:
    """Regressors in, series out: the states are the last frames of the series, then those of the regressors."""
    p, (_, k, m) = len(A), B.shape
    reach = max(lags)
    through, behind = np.zeros((k, m)), np.zeros((k, reach * m))
    for lag, b in zip(lags, B, strict=True):
        if lag:
            behind[:, (lag - 1) * m : lag * m] = b
        else:
            through = b
    taps = np.hstack([np.zeros((k, 0)), *A, behind])
    own, n = p * k, p * k + reach * m
    whole, entering = np.zeros((n, n)), np.zeros((n, m))
    whole[:own, :own] = np.eye(own, k=-k)
    whole[own:, own:] = np.eye(reach * m, k=-m)
    if p:
        whole[:k], entering[:k] = taps, through
    entering[own:] = np.eye(reach * m, m)
    return StateSpace(whole, entering, taps, through, sample_rate=sample_rate)


def _exogenous(exog: ArrayLike | None, n_frames: int, width: int | None) -> Real:
    array = np.zeros((n_frames, 0)) if exog is None else np.asarray(exog)
    array = array[:, None] if array.ndim == 1 else array
    fits = array.ndim == 2 and len(array) == n_frames and (width is None or array.shape[1] == width)
    if not fits or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        wanted = f"({n_frames}, {'m' if width is None else width})"
        raise ParameterError(f"exog has shape {array.shape}: must be finite numbers of shape {wanted}")
    return array.astype(np.float64)

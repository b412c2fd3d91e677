"""Whether what a model leaves over is white: correlations of residuals, and tests of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import reals, whole_number
from rnndsp.errors import ParameterError

__all__ = ["ResidualDiagnostics", "residual_diagnostics"]

Real = NDArray[np.float64]


@dataclass(frozen=True)
class ResidualDiagnostics:
    """What is left in residuals.

    Attributes
    ----------
    residuals : ndarray, shape (n,)
        Over their standard deviation; NaN where there is none.
    autocorrelation : ndarray, shape (n_lags,)
        At lags 1 to n_lags.
    band : float
        White residuals stay within plus and minus this at each lag with probability 0.95, about: 1.96 / sqrt(n).
    statistic, p_value : ndarray, shape (n_lags,)
        Of Ljung and Box, of all lags up to each: how probable correlations so large are in white noise. NaN up to as
        many lags as there are coefficients, where the test says nothing.
    """

    residuals: Real
    autocorrelation: Real
    band: float
    statistic: Real
    p_value: Real


def residual_diagnostics(
    residuals: ArrayLike, *, n_lags: int | None = None, n_coefficients: int = 0
) -> ResidualDiagnostics:
    r"""Autocorrelation of residuals and the test of Ljung and Box.

    .. math:: r_k = \frac{\sum_t e_t e_{t-k}}{\sum_t e_t^2}, \qquad Q_k = n (n + 2) \sum_{j=1}^{k} \frac{r_j^2}{n - j}

    Q_k is about chi-squared with k - n_coefficients degrees of freedom where the residuals are white.

    Parameters
    ----------
    residuals : array, shape (n,)
        NaN where there is none; of mean zero if the model is right, so none is taken off.
    n_lags : int, optional
        A fifth of the samples where absent, at most 40.
    n_coefficients : int
        Coefficients of the model that were fitted to make the residuals white.

    Raises
    ------
    ParameterError
        Fewer than 4 residuals, residuals that are all zero or infinite, or more lags than residuals.

    Notes
    -----
    With missing values the sums run over the pairs that there are, and the test is rough.

    References
    ----------
    G. M. Ljung, G. E. P. Box (1978), "On a measure of lack of fit in time series models".
    """
    from scipy.special import chdtrc

    e = reals("residuals", residuals)
    if e.ndim != 1 or np.isinf(e).any():
        raise ParameterError(f"residuals of shape {e.shape} must be one finite series; NaN stands for missing ones")
    there = np.isfinite(e)
    n = int(np.count_nonzero(there))
    if n < 4 or not np.any(e[there]):
        raise ParameterError(f"{n} residuals that are not missing, or all zero: nothing to test")
    n_coefficients = whole_number("n_coefficients", n_coefficients, least=0)
    # at least a few lags that test something
    usual = min(40, max(n // 5, n_coefficients + 3), n - 2)
    n_lags = usual if n_lags is None else whole_number("n_lags", n_lags)
    if n_lags > n - 2:
        raise ParameterError(f"{n_lags=} must be below the {n} residuals less one")
    # by a power of two, which changes nothing but that no square leaves the range of floating point
    e = np.ldexp(e, -int(np.frexp(np.max(np.abs(e[there])))[1]))
    scaled = e / np.sqrt(np.mean(e[there] ** 2))
    filled = np.where(there, scaled, 0.0)
    r = np.array([filled[k:] @ filled[:-k] for k in range(1, n_lags + 1)]) / n
    lags = np.arange(1, n_lags + 1)
    statistic = n * (n + 2) * np.cumsum(r**2 / (n - lags))
    freedom = lags - n_coefficients
    p_value = np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), statistic), np.nan)
    return ResidualDiagnostics(scaled, r, 1.96 / np.sqrt(n), statistic, p_value)

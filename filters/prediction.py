"""Linear prediction: the all-pole filter that a signal sounds as if it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, number, reals, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filters.lattice import Lattice, step_down, step_up
from rnndsp.filters.sections import TransferFunction

__all__ = ["LinearPrediction", "linear_prediction"]

# The largest order, whose matrices are still small beside the signal.
MAX_ORDER = 2000
# Rows of the least squares problem that are looked at together.
CHUNK = 4096

Real = NDArray[np.float64]


@dataclass(frozen=True)
class LinearPrediction:
    """A predictor and how well it does.

    Attributes
    ----------
    a : ndarray, shape (order + 1,)
        Coefficients of A(z) in rising powers of 1/z, a[0] = 1: the residual is sum(a[i] x[t - i]).
    k : ndarray, shape (order,), or None
        Reflection coefficients, a[order] being the last one; None where 1/A(z) is not stable, which only the covariance
        method can lead to.
    error_power : float
        Mean square of the residual: over all t that the covariance method sums, else mean(x²) prod(1 - k²), which is
        that over all t with the autocorrelation method, and an estimate with Burg's.
    sample_rate : float or None
        Hz.
    """

    a: Real
    k: Real | None
    error_power: float
    sample_rate: float | None = None

    def whiten(self) -> TransferFunction:
        """A(z), from a signal to its residual: finite impulse response, so always stable."""
        return TransferFunction(self.a, [1.0], sample_rate=self.sample_rate)

    def colour(self) -> Lattice:
        """1/A(z), from the residual back to the signal, as a normalised lattice: ``whiten`` undone.

        ``Lattice(prediction.k, modulated=True)`` is the same one with controls.

        Raises
        ------
        ParameterError
            1/A(z) is not stable.
        """
        if self.k is None:
            raise ParameterError(
                "1/A(z) is not stable: its poles are not all within the unit circle; take method='burg' or "
                "'autocorrelation', whose always are"
            )
        return Lattice(self.k, sample_rate=self.sample_rate)

    def envelope(self, frequency: ArrayLike) -> Real:
        r"""Spectral envelope :math:`P / |A(e^{j\omega})|^2`, P being the error power.

        With the autocorrelation method its mean over all frequencies is the mean square of the signal.

        Parameters
        ----------
        frequency : array
            Hz, or cycles a sample where there is no sample rate.

        Returns
        -------
        ndarray, shape of ``frequency``
        """
        cycles = reals("frequency", frequency) / (self.sample_rate or 1.0)
        if not np.isfinite(cycles).all():
            raise ParameterError("frequency holds NaN or infinity")
        response = np.polynomial.polynomial.polyval(np.exp(-2j * np.pi * cycles), self.a)
        with np.errstate(divide="ignore"):
            found: Real = self.error_power / np.abs(response) ** 2
        return found


def linear_prediction(
    x: ArrayLike, order: int, *, method: str = "autocorrelation", sample_rate: float | None = None
) -> LinearPrediction:
    r"""Coefficients that predict each sample of a signal from those before it.

    .. math:: e[t] = x[t] + \sum_{i=1}^{p} a_i\,x[t-i], \qquad \sum_t e[t]^2 \to \min

    Parameters
    ----------
    x : array, shape (n_frames,)
        One channel. Where it is a piece of something longer, the autocorrelation method wants it windowed
        (``x * scipy.signal.windows.hann(len(x))``), the others do not.
    order : int
        p, from 1 to 2000. For speech and instruments about sample_rate / 1000 + 2.
    method : {"autocorrelation", "covariance", "burg"}
        What is summed over. "autocorrelation": all t, x being zero outside; by the Levinson-Durbin recursion.
        "covariance": only t from p on, where nothing outside is needed; by QR. "burg": stage by stage of a lattice,
        errors of the prediction forwards and backwards together, again without anything outside.
    sample_rate : float, optional
        Hz, handed on to the filters.

    Returns
    -------
    LinearPrediction

    Raises
    ------
    ParameterError
        Not one channel of real numbers, NaN or infinity, silence, fewer samples than the method needs (p + 1, 2 p for
        "covariance"), an unknown method; with "autocorrelation" and "burg" also an order at which, but for rounding,
        nothing is left to predict.

    Notes
    -----
    *Stability*: with "autocorrelation" and "burg" all reflection coefficients lie within (-1, 1), so 1/A(z) is stable,
    whatever the signal. "covariance" guarantees nothing, but is exact: it finds the poles of any signal that decays or
    grows freely, from 2 p samples. "autocorrelation" widens resonances by what the window's ends cut off; "burg" is in
    between, and may split or shift the peak of a short pure tone.

    A signal whose spectrum spans more than double precision, as after steep lowpass filtering, leaves nothing to
    predict at high orders; a little noise added to it does.

    Cost: n_frames p for "autocorrelation" and "burg", n_frames p² for "covariance", in memory that grows with n_frames
    and p² alone.

    References
    ----------
    J. Makhoul (1975), "Linear prediction: a tutorial review". J. P. Burg (1975), "Maximum entropy spectral analysis".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = Lattice([-0.5, 0.8])(rng.standard_normal(100_000))
    >>> linear_prediction(x, 2, method="burg").k.round(2)
    array([-0.5,  0.8])
    """
    signal = reals("x", x)
    p = whole_number("order", order)
    if signal.ndim != 1:
        raise ParameterError(f"x of shape {signal.shape} must be one channel, shape (n_frames,)")
    choice("method", method, ("autocorrelation", "covariance", "burg"))
    if sample_rate is not None and not number("sample_rate", sample_rate) > 0:
        raise ParameterError(f"{sample_rate=} must be a positive number of Hz, or None")
    if p > MAX_ORDER:
        raise ParameterError(f"{order=} is more than {MAX_ORDER}: what reaches so far back is no all-pole filter")
    least = 2 * p if method == "covariance" else p + 1
    if signal.size < least:
        raise ParameterError(f"x holds {signal.size} samples: {method} of order {p} needs at least {least}")
    if not np.isfinite(signal).all():
        raise ParameterError("x holds NaN or infinity")
    level = np.abs(signal).max()
    if level == 0:
        raise ParameterError("x is silence: nothing in it can be predicted")
    signal /= level  # so that no square leaves the range of floating point
    k: Real | None
    if method == "covariance":
        a, power = _covariance(signal, p)
        try:
            k = step_down(a)
        except ParameterError:
            k = None
    else:
        k, power = _autocorrelation(signal, p) if method == "autocorrelation" else _burg(signal, p)
        a = step_up(k)[-1]
    with np.errstate(over="ignore", under="ignore"):
        return LinearPrediction(a, k, float(power * level * level), sample_rate)


def _autocorrelation(x: Real, order: int) -> tuple[Real, float]:
    """Levinson-Durbin: scipy's solve_toeplitz finds a alone, and k only by way of a, less exactly."""
    r = np.array([x[: x.size - lag] @ x[lag:] for lag in range(order + 1)]) / x.size
    k, a, error = np.empty(order), np.ones(1), r[0]
    for i in range(order):
        k[i] = -(a @ r[i + 1 : 0 : -1]) / error
        _require_left(k[i], i, order)
        a = np.append(a, 0.0)
        a = a + k[i] * a[::-1]
        error *= (1 - k[i]) * (1 + k[i])
    return k, float(error)


def _burg(x: Real, order: int) -> tuple[Real, float]:
    k, error = np.empty(order), np.mean(x**2)
    ahead, behind = x[1:], x[:-1]
    for i in range(order):
        total = ahead @ ahead + behind @ behind
        k[i] = -2 * (ahead @ behind) / total if total > 0 else np.nan
        _require_left(k[i], i, order)
        ahead, behind = (ahead + k[i] * behind)[1:], (behind + k[i] * ahead)[:-1]
        error *= (1 - k[i]) * (1 + k[i])
    return k, float(error)


def _covariance(x: Real, order: int) -> tuple[Real, float]:
    windows = np.lib.stride_tricks.sliding_window_view(x, order + 1)
    R: Any = np.zeros((0, order + 1))
    for first in range(0, len(windows), CHUNK):
        R = np.linalg.qr(np.vstack([R, windows[first : first + CHUNK]]), mode="r")
    found = np.linalg.lstsq(R[:, :-1], -R[:, -1], rcond=None)[0]
    residual = R @ np.append(found, 1.0)
    return np.append(found, 1.0)[::-1].copy(), float(residual @ residual) / len(windows)


def _require_left(k: np.float64, i: int, order: int) -> None:
    if not abs(k) < 1:
        raise ParameterError(
            f"order {order} is too high: after {i} coefficients nothing is left to predict but rounding errors "
            f"(k{i + 1} = {k:.6g}); take order={max(i, 1)}, or add a little noise to the signal"
        )

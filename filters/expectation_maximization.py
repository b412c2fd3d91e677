"""Learning a linear filter and its noises from measurements, by expectation and maximization in turn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, number, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filters.kalman import (
    MATRICES,
    KalmanFilter,
    SmoothedStates,
    covariance_factor,
    joined_frames,
    pseudo_inverse,
    turned,
)

__all__ = ["EMFit", "fit_em"]

Real = NDArray[np.float64]

LEARNED = (*MATRICES, "process_noise", "measurement_noise", "mean", "covariance")


@dataclass(frozen=True)
class EMFit:
    """Outcome of :func:`fit_em`.

    Attributes
    ----------
    filter : KalmanFilter
        With the parameters that were found.
    log_likelihoods : ndarray, shape (n_iterations + 1,)
        Before each iteration, and after the last one. It never falls, rounding aside.
    converged : bool
        Whether it stopped as it rose no more, not as the iterations were used up. EM is slow near its goal: this is no
        proof of a maximum, and never one of the global maximum.
    """

    filter: KalmanFilter
    log_likelihoods: Real
    converged: bool


def fit_em(
    kalman: KalmanFilter,
    y: ArrayLike,
    u: ArrayLike | None = None,
    *,
    learn: Collection[str] = LEARNED,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> EMFit:
    """Fit a linear Gaussian model by expectation maximization: smooth, then regress on what the smoother knows.

    Parameters
    ----------
    kalman : KalmanFilter
        Where to start; noises that are zero stay zero.
    y : array, shape (n_frames, p), or (n_frames,)
        One series; NaN where a measurement is missing.
    u : array, shape (n_frames, k), optional
        Known inputs, zero when absent.
    learn : sequence of str
        What to change, among "A", "B", "C", "D", "process_noise", "measurement_noise", "mean" and "covariance"; the
        rest stays as it is. With all of them the states are known only up to a change of their basis.
    max_iterations : int
    tolerance : float
        Stop when the log-likelihood rises by less than this times (1 + its magnitude).

    Returns
    -------
    EMFit

    Raises
    ------
    ParameterError
        Fewer than two frames, nothing measured at all, unknown names in ``learn``, or as in
        :meth:`KalmanFilter.log_likelihood`.
    NonFiniteError
        As in :meth:`KalmanFilter.filter`.

    Notes
    -----
    The likelihood never falls. It rises slowly where the noise of the measurement is small; then
    :meth:`KalmanFilter.gradient` and an optimiser are quicker. A channel missing in a frame where others are measured
    is expected by them through R; frames without any measurement teach nothing about C, D and R.

    References
    ----------
    R. Shumway, D. Stoffer (1982), "An approach to time series smoothing and forecasting using the EM algorithm".
    """
    if not isinstance(kalman, KalmanFilter):
        raise ParameterError(f"{kalman!r} is no KalmanFilter")
    if isinstance(learn, str) or not isinstance(learn, Collection):
        raise ParameterError(f"{learn=}: give a sequence of names among {LEARNED}")
    learned = frozenset(choice("learn", name, LEARNED) for name in learn)
    whole_number("max_iterations", max_iterations)
    tolerance = number("tolerance", tolerance)
    p, k = kalman.config["n_measurements"], kalman.config["n_known"]
    signal = joined_frames(y, u, p, k)
    if len(signal) < 2 or np.isnan(signal[:, :p]).all():
        raise ParameterError(f"y has {len(signal)} frames: EM needs two or more, and some measurement in them")
    measured, known = signal[:, :p], signal[:, p:]
    smoothed, history, converged = kalman.smooth(measured, known), [], False
    history.append(kalman._proper(smoothed.log_likelihood))
    for _ in range(max_iterations):
        with np.errstate(all="ignore"):
            kalman = _maximized(kalman, smoothed, measured, known, learned)
        smoothed = kalman.smooth(measured, known)
        history.append(kalman._proper(smoothed.log_likelihood))
        if history[-1] - history[-2] < tolerance * (1 + abs(history[-1])):
            converged = True
            break
    return EMFit(kalman, np.array(history), converged)


def _maximized(
    kalman: KalmanFilter, smoothed: SmoothedStates, y: Real, known: Real, learn: frozenset[str]
) -> KalmanFilter:
    A, B, C, D = kalman._matrices
    Q, R = kalman.process_noise, kalman.measurement_noise
    m, P, lag = smoothed.means, smoothed.covariances, smoothed.lag_one_covariances
    A, B = _regressed(A, B, "A" in learn, "B" in learn, m[1:], lag, m[:-1], P[:-1], known[:-1])
    if "process_noise" in learn:
        off = m[1:] - m[:-1] @ A.T - known[:-1] @ B.T
        cross = lag @ A.T
        Q = (off.T @ off + np.sum(P[1:] + A @ P[:-1] @ A.T - cross - turned(cross), 0)) / (len(m) - 1)
    # a channel that is missing is known by the state and, through R, by those that are not
    seen = ~np.isnan(y)
    some = seen.any(axis=1)
    seen, y, m_some, P_some, known_some = seen[some], y[some], m[some], P[some], known[some]
    pairs = seen[:, :, None] & seen[:, None, :]
    by_seen = R @ pseudo_inverse(np.where(pairs, R, 0))
    # noise that is zero makes nothing known: the measured channels themselves are
    by_seen = np.where(seen[:, :, None], np.eye(len(R)), by_seen * seen[:, None, :])
    by_state = C - by_seen @ C
    offset = np.where(seen, y, 0) - known_some @ D.T
    offset = (by_seen @ np.where(seen, offset, 0)[..., None])[..., 0] + known_some @ D.T
    left = R - by_seen @ R
    full = offset + (by_state @ m_some[..., None])[..., 0]
    C, D = _regressed(C, D, "C" in learn, "D" in learn, full, by_state @ P_some, m_some, P_some, known_some)
    if "measurement_noise" in learn:
        off = full - m_some @ C.T - known_some @ D.T
        miss = by_state - C
        R = (off.T @ off + np.sum(miss @ P_some @ turned(miss) + left, 0)) / len(full)
    return kalman.replace(
        A=A,
        B=B,
        C=C,
        D=D,
        Q_factor=covariance_factor("process_noise", Q, len(A)),
        R_factor=covariance_factor("measurement_noise", R, len(C)),
        mean=m[0] if "mean" in learn else kalman.mean,
        P_factor=covariance_factor("covariance", P[0] if "covariance" in learn else kalman.covariance, len(A)),
    )


def _regressed(
    by_state: Real,
    by_known: Real,
    learn_state: bool,
    learn_known: bool,
    target: Real,
    cross: Real,
    m: Real,
    P: Real,
    known: Real,
) -> tuple[Real, Real]:
    """Expected least squares of a target on state and known input; ``cross`` is its covariance with the state."""
    n, k = len(P[0]), known.shape[1]
    free = np.repeat([learn_state, learn_known], [n, k])
    weights = np.hstack([by_state, by_known])
    if free.any():
        z = np.hstack([m, known])
        moments, seen = z.T @ z, target.T @ z
        moments[:n, :n] += P.sum(0)
        seen[:, :n] += cross.sum(0)
        wanted = seen[:, free] - weights[:, ~free] @ moments[np.ix_(~free, free)]
        weights[:, free] = np.linalg.lstsq(moments[np.ix_(free, free)], wanted.T, rcond=None)[0].T
    return weights[:, :n], weights[:, n:]

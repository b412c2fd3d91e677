"""The Kalman filter of a linear filter seen through noise: as a filter, its smoother, its likelihood."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, reals, whole_number
from rnndsp._jit import inline, kernel
from rnndsp._tangents import Jacobians, by_adjoint
from rnndsp.activations import flush
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["FilteredStates", "KalmanFilter", "SmoothedStates", "SteadyState"]

Real = NDArray[np.float64]

# A measurement whose variance, given those before it, is so much smaller than its own tells nothing but rounding:
# squares of lengths as they stand in a factor, and differences of variances, which have lost half of the digits.
NULL_ROOT, NULL_JOSEPH = 1e-26, 1e-14
# Squares of lengths so small that one over them would be infinite; what decays without noise comes to that.
VANISHED = 1e-280
# How far from symmetric and positive semidefinite rounding may leave a covariance, relative to its diagonal.
ROUNDING = 1e-9
# Numbers in the largest table of covariances.
MAX_TABLE = 2**27
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

OUTPUTS, FORMS = ("state", "measurement", "innovation"), ("square_root", "joseph")
MATRICES = ("A", "B", "C", "D")


# ---- the square-root step, for tracking.py too


@kernel
def triangularize(M: Any, n_seen: Any) -> Any:
    """M M' = L L' with L lower triangular, in place, by reflections from the right; the number of columns passed over.

    Of the first ``n_seen`` rows those that depend on the rows above get no column: their length is rounding, and its
    direction would be taken for knowledge.
    """
    column = 0
    for i in range(M.shape[0]):
        head = tail = 0.0
        for j in range(column):
            head += M[i, j] * M[i, j]
        for j in range(column, M.shape[1]):
            tail += M[i, j] * M[i, j]
        if tail <= max(NULL_ROOT * head if i < n_seen else 0.0, VANISHED):
            for j in range(column, M.shape[1]):
                M[i, j] = 0.0
            column += i >= n_seen
            continue
        length = math.sqrt(tail)
        sign = 1.0 if M[i, column] >= 0 else -1.0
        pivot = M[i, column] + sign * length
        scale = 1 / (length * abs(pivot))
        for k in range(i + 1, M.shape[0]):
            share = pivot * M[k, column]
            for j in range(column + 1, M.shape[1]):
                share += M[i, j] * M[k, j]
            share *= scale
            # the reflected column with its sign turned, so that the diagonal is positive
            M[k, column] = sign * (share * pivot - M[k, column])
            for j in range(column + 1, M.shape[1]):
                M[k, j] -= share * M[i, j]
        M[i, column] = length
        for j in range(column + 1, M.shape[1]):
            M[i, j] = 0.0
        column += 1
    return column


@kernel
def correct(M: Any, e: Any, n_seen: Any, x: Any, G: Any) -> Any:
    """The measurement update: ``x`` and the factor ``G`` of its covariance are written, log p(e) is returned.

    ``M = [[R_root, H], [0, G]]`` has H H' + R_root R_root' for the covariance of ``n_seen`` innovations ``e`` and G H'
    for that of the state with them; both are used up. Infinity where innovations without variance are among them.
    """
    column = triangularize(M, n_seen) - x.size
    log_density, at = 0.0, 0
    for i in range(n_seen):
        if at < column and M[i, at] > 0:
            z = e[i]
            for j in range(at):
                z -= M[i, j] * e[j]
            e[at] = z / M[i, at]
            log_density -= HALF_LOG_2PI + math.log(M[i, at]) + 0.5 * e[at] * e[at]
            at += 1
        else:
            log_density = np.inf
    for i in range(x.size):
        for j in range(column):
            x[i] += M[n_seen + i, j] * e[j]
        for j in range(x.size):
            G[i, j] = M[n_seen + i, column + j]
    return log_density


# ---- the filter's kernels; products are plain loops, as blocks of all sizes must give the same bits


@inline
def _product(a: Any, b: Any, result: Any) -> Any:
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            total = 0.0
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            result[i, j] = total


@kernel
def _correct_root(x: Any, G: Any, e: Any, seen: Any, n_seen: Any, C: Any, R_root: Any, M: Any) -> Any:
    n, p = x.size, e.size
    for i in range(n_seen):
        for j in range(p):
            M[i, j] = R_root[seen[i], j]
        for j in range(n):
            M[i, p + j] = 0.0
            for k in range(n):
                M[i, p + j] += C[seen[i], k] * G[k, j]
    for i in range(n):
        for j in range(p):
            M[n_seen + i, j] = 0.0
        for j in range(n):
            M[n_seen + i, p + j] = G[i, j]
    return correct(M[: n_seen + n], e, n_seen, x, G)


@kernel
def _correct_joseph(x: Any, P: Any, e: Any, seen: Any, n_seen: Any, C: Any, R: Any, M: Any) -> Any:
    """P becomes (1 - K C) P (1 - K C)' + K R K', which is positive for any gain K, wrong ones by rounding too."""
    n, p = x.size, e.size
    L, z = M[:n_seen, :n_seen], e[:n_seen]
    PC, K = M[p : p + n, :n_seen], M[p : p + n, p : p + n_seen]
    F, FP = M[p : p + n, 2 * p : 2 * p + n], M[p : p + n, 2 * p + n :]
    for i in range(n):
        for j in range(n_seen):
            PC[i, j] = 0.0
            for k in range(n):
                PC[i, j] += P[i, k] * C[seen[j], k]
    log_density = variance = 0.0
    for i in range(n_seen):
        for j in range(i + 1):
            total = R[seen[i], seen[j]]
            for k in range(n):
                total += C[seen[i], k] * PC[k, j]
            if i == j:
                variance = total
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i > j:
                L[i, j] = total / L[j, j] if L[j, j] > 0 else 0.0
            elif total > NULL_JOSEPH * variance:
                L[i, i] = math.sqrt(total)
                for k in range(i):
                    z[i] -= L[i, k] * z[k]
                z[i] /= L[i, i]
                log_density -= HALF_LOG_2PI + math.log(L[i, i]) + 0.5 * z[i] * z[i]
            else:
                L[i, i] = z[i] = 0.0
                log_density = np.inf
    for i in range(n):
        for j in range(n_seen):
            K[i, j] = PC[i, j]
            for k in range(j):
                K[i, j] -= L[j, k] * K[i, k]
            K[i, j] = K[i, j] / L[j, j] if L[j, j] > 0 else 0.0
        for j in range(n_seen):
            x[i] += K[i, j] * z[j]
        for j in range(n_seen - 1, -1, -1):
            for k in range(j + 1, n_seen):
                K[i, j] -= L[k, j] * K[i, k]
            K[i, j] = K[i, j] / L[j, j] if L[j, j] > 0 else 0.0
        for j in range(n):
            F[i, j] = 1.0 if i == j else 0.0
            for k in range(n_seen):
                F[i, j] -= K[i, k] * C[seen[k], j]
    _product(F, P, FP)
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(n):
                total += FP[i, k] * F[j, k]
            for k in range(n_seen):
                for m in range(n_seen):
                    total += K[i, k] * R[seen[k], seen[m]] * K[j, m]
            P[i, j] = P[j, i] = total
    return log_density


@kernel
def _predict(x: Any, P: Any, A: Any, Q: Any, M: Any, joseph: Any) -> Any:
    n = x.size
    AP, moved = M[:n, :n], M[n, :n]
    _product(A, P, AP)
    if joseph:
        for i in range(n):
            for j in range(i + 1):
                total = Q[i, j]
                for k in range(n):
                    total += AP[i, k] * A[j, k]
                P[i, j] = P[j, i] = total
    else:
        for i in range(n):
            for j in range(n):
                M[i, n + j] = Q[i, j]
        triangularize(M[:n], np.int64(0))
        for i in range(n):
            for j in range(n):
                P[i, j] = M[i, j]
    for i in range(n):
        moved[i] = 0.0
        for k in range(n):
            moved[i] += A[i, k] * x[k]
    for i in range(n):
        x[i] = moved[i]


@kernel
def _forward(u: Any, y: Any, s: Any, model: Any, joseph: Any, work: Any, tape: Any, notes: Any) -> None:
    """``tape`` gets mean and covariance before and after each measurement, ``notes`` the innovations and log p(e)."""
    A, B, C, D, Q, R, out_x, out_e, out_u = model
    early, late, e, z, seen = work
    n, p = len(A), len(C)
    size = n + n * n
    for voice in range(u.shape[0]):
        x, P = s[voice, :n], s[voice, n:].reshape(n, n)
        if joseph:
            for i in range(n):
                for j in range(i):
                    P[i, j] = P[j, i] = 0.5 * (P[i, j] + P[j, i])
        for t in range(u.shape[1]):
            if tape.shape[2]:
                for i in range(size):
                    tape[voice, t, i] = s[voice, i]
            n_seen = np.int64(0)  # or the callees would be compiled for the literal too
            for i in range(p):
                z[i] = np.float64(u[voice, t, i])
                for k in range(n):
                    z[i] -= C[i, k] * x[k]
                for k in range(B.shape[1]):
                    z[i] -= D[i, k] * np.float64(u[voice, t, p + k])
                if z[i] == z[i]:
                    e[n_seen], seen[n_seen] = z[i], i
                    n_seen += 1
            if joseph:
                log_density = _correct_joseph(x, P, e, seen, n_seen, C, R, early)
            else:
                log_density = _correct_root(x, P, e, seen, n_seen, C, R, early)
            if tape.shape[2]:
                for i in range(size):
                    tape[voice, t, size + i] = s[voice, i]
            if notes.shape[2]:
                for i in range(p):
                    notes[voice, t, i] = z[i]
                notes[voice, t, p] = log_density
            for i in range(y.shape[2]):
                total = 0.0
                for k in range(n):
                    total += out_x[i, k] * x[k]
                for k in range(p):
                    total += out_e[i, k] * z[k]
                for k in range(B.shape[1]):
                    total += out_u[i, k] * np.float64(u[voice, t, p + k])
                y[voice, t, i] = total
            _predict(x, P, A, Q, late, joseph)
            for i in range(n):
                for k in range(B.shape[1]):
                    x[i] += B[i, k] * np.float64(u[voice, t, p + k])
                x[i] = flush(x[i])


# ---- results


@dataclass(frozen=True)
class FilteredStates:
    """What is known of the state as the measurements come in.

    Attributes
    ----------
    predicted_means, predicted_covariances : ndarray, shapes (n_frames, n), (n_frames, n, n)
        Of x[t] given y[0] to y[t-1].
    means, covariances : ndarray, shapes (n_frames, n), (n_frames, n, n)
        Of x[t] given y[0] to y[t].
    innovations, innovation_covariances : ndarray, shapes (n_frames, p), (n_frames, p, p)
        y[t] less what was expected of it, NaN where it is missing; white if the model is right.
    log_likelihood : float
        log p(y[0], ..., y[n_frames-1]).
    state : State
        After the last frame, to go on from.
    """

    predicted_means: Real
    predicted_covariances: Real
    means: Real
    covariances: Real
    innovations: Real
    innovation_covariances: Real
    log_likelihood: float
    state: State


@dataclass(frozen=True)
class SmoothedStates:
    """What is known of the state once all measurements are there.

    Attributes
    ----------
    means, covariances : ndarray, shapes (n_frames, n), (n_frames, n, n)
        Of x[t] given all of y.
    lag_one_covariances : ndarray, shape (n_frames - 1, n, n)
        Of x[t+1] with x[t], given all of y.
    log_likelihood : float
    """

    means: Real
    covariances: Real
    lag_one_covariances: Real
    log_likelihood: float


@dataclass(frozen=True)
class SteadyState:
    """What a Kalman filter becomes when its covariance no longer changes.

    Attributes
    ----------
    filter : StateSpace
        The innovations form: same inputs and outputs as the Kalman filter, its state the predicted mean. Its poles are
        the eigenvalues of A - A K C.
    gain : ndarray, shape (n, p)
        K, which takes an innovation to the correction of the state.
    covariance : ndarray, shape (n, n)
        P of the predicted state, the stabilising solution of the discrete algebraic Riccati equation.
    innovation_covariance : ndarray, shape (p, p)
        C P C^T + R.
    """

    filter: StateSpace
    gain: Real
    covariance: Real
    innovation_covariance: Real


class KalmanFilter(Filter):
    r"""Kalman filter: the best estimate of the state of a linear filter from noisy measurements of its output.

    .. math::
        x[t+1] = A x[t] + B u[t] + w[t], \quad y[t] = C x[t] + D u[t] + v[t], \qquad w \sim N(0, Q),\ v \sim N(0, R)

    Its own input is a frame [y, u]: p measurements, then the k known inputs of the model. With P the covariance of the
    predicted state,

    .. math::
        e = y - C \hat x - D u, \quad K = P C^T (C P C^T + R)^{-1}, \quad
        \hat x^+ = \hat x + K e, \quad P^+ = (1 - K C) P, \\
        \hat x[t+1] = A \hat x^+ + B u, \qquad P[t+1] = A P^+ A^T + Q.

    Parameters
    ----------
    model : Filter
        Linear, with at least one state: a :class:`StateSpace`, or any other linear filter, whose state space is taken.
        Long delay lines are expanded, and the covariance has the square of their number of states.
    process_noise, measurement_noise : float, array (n,) or (p,) of variances, or matrix (n, n) or (p, p)
        Q and R, symmetric positive semidefinite.
    mean : array, shape (n,), optional
        Of x[0]; zero when absent.
    covariance : float, array (n,) or (n, n), optional
        Of x[0]. When absent the stationary one, if the model is stable; if it is not, give one: a large one, as 1e6,
        where nothing is known of the start.
    known_inputs : bool
        Whether the input of the model is known, and part of this filter's input. If not, it is taken to be zero, what
        drives the model being in Q, and this filter's input is y alone.
    output : {"state", "measurement", "innovation"}
        The filtered state, the measurement with its noise taken away (C x + D u of the filtered state), or what the
        measurement tells beyond what was expected, which is white if the model is right.
    form : {"square_root", "joseph"}
        How the covariance is kept: as a triangular factor, which loses no sign to rounding, or itself, updated by
        Joseph's formula, which is faster and good for about half as many digits.

    Raises
    ------
    ParameterError
        Shapes that do not fit, NaN, covariances that are not symmetric positive semidefinite, an unknown form or
        output, a model that is not linear, or one without a stationary start where no covariance is given.

    Notes
    -----
    *State*: ``mean`` (n) and ``factor`` (n, n) with P = factor factor^T, or ``covariance`` (n, n) in Joseph's form: of
    the predicted state. At rest those of x[0]. Computed in float64 whatever the signal's dtype. The parameters hold
    factors too (``Q_factor``, ``R_factor``, ``P_factor``): any matrix is one, so an optimiser cannot leave the
    covariances.

    *Missing measurements*: as a filter it refuses NaN, as every filter does, lest a NaN from somewhere else go unseen.
    The methods :meth:`filter`, :meth:`smooth`, :meth:`log_likelihood` and :meth:`gradient` take NaN in y for a channel
    that was not measured at that frame. Frames of NaN at the end are a forecast.

    *Stability*: linear in its input from a given start, yet the covariance is a state, and acts on the mean: it counts
    as nonlinear, and nothing is said of its stability in general. :meth:`steady_state` is linear, with poles within
    the circle, whatever those of the model are, if the model's unstable part is measured and its marginal part driven
    by noise.

    *Repeated and noiseless measurements*: R may be singular. A measurement without variance of its own, given the
    others, changes nothing, and has no likelihood.

    References
    ----------
    R. E. Kalman (1960), "A new approach to linear filtering and prediction problems". P. Kaminski, A. Bryson, S.
    Schmidt (1971), "Discrete square root filtering: a survey of current techniques". H. Rauch, F. Tung, C. Striebel
    (1965), "Maximum likelihood estimates of linear dynamic systems".

    Examples
    --------
    >>> walk = StateSpace([[1.0]], [[0.0]], [[1.0]], [[0.0]])
    >>> kalman = KalmanFilter(walk, process_noise=1, measurement_noise=1, covariance=1e6, known_inputs=False)
    >>> kalman.steady_state().gain
    array([[0.61803399]])
    """

    def __init__(
        self,
        model: Filter,
        *,
        process_noise: ArrayLike,
        measurement_noise: ArrayLike,
        mean: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
        known_inputs: bool = True,
        output: str = "state",
        form: str = "square_root",
    ) -> None:
        if not isinstance(model, Filter) or not model.is_linear or model.period > 1:
            raise ParameterError(
                f"{model=!r}: the model must be a linear filter; for others see rnndsp.filters.extended_kalman_filter"
            )
        space = model if isinstance(model, DelayStateSpace) else model.linearize()
        A, B, C, D = space.expand()._matrices
        if not isinstance(known_inputs, bool):
            raise ParameterError(f"{known_inputs=} must be True or False")
        if not known_inputs:
            B, D = B[:, :0], D[:, :0]
        n, p = len(A), len(C)
        if not n:
            raise ParameterError("the model has no state to be estimated")
        Q_factor = covariance_factor("process_noise", process_noise, n)
        if covariance is None:
            covariance = _stationary(A, Q_factor @ Q_factor.T)
        super().__init__(
            {"order": n, "n_measurements": p, "n_known": B.shape[1], "output": output, "form": form},
            {
                "A": A,
                "B": B,
                "C": C,
                "D": D,
                "Q_factor": Q_factor,
                "R_factor": covariance_factor("measurement_noise", measurement_noise, p),
                "mean": np.zeros(n) if mean is None else reals("mean", mean),
                "P_factor": covariance_factor("covariance", covariance, n),
            },
            sample_rate=model.sample_rate,
        )

    def _setup(self) -> None:
        self._no_children()
        n = whole_number("order", self.config["order"])
        p = whole_number("n_measurements", self.config["n_measurements"])
        self.n_inputs = p + whole_number("n_known", self.config["n_known"], least=0)
        output, form = choice("output", self.config["output"], OUTPUTS), choice("form", self.config["form"], FORMS)
        self.n_outputs = n if output == "state" else p
        self.fields = (Field("mean", (n,)), Field("factor" if form == "square_root" else "covariance", (n, n)))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, p, k = (self.config[name] for name in ("order", "n_measurements", "n_known"))
        shapes: dict[str, tuple[int, ...]] = {"A": (n, n), "B": (n, k), "C": (p, n), "D": (p, k)}
        return {**shapes, "Q_factor": (n, n), "R_factor": (p, p), "mean": (n,), "P_factor": (n, n)}

    @property
    def model(self) -> StateSpace:
        """The linear filter whose state is estimated, its input acting on nothing where none is known."""
        A, B, C, D = self._matrices
        if not self.config["n_known"]:  # a filter has some input
            B, D = np.zeros((len(A), 1)), np.zeros((len(C), 1))
        return StateSpace(A, B, C, D, sample_rate=self.sample_rate)

    @property
    def process_noise(self) -> Real:
        """Q."""
        return self._covariance("Q_factor")

    @property
    def measurement_noise(self) -> Real:
        """R."""
        return self._covariance("R_factor")

    @property
    def mean(self) -> Real:
        """Of x[0]."""
        return self._own["mean"].astype(np.float64)

    @property
    def covariance(self) -> Real:
        """Of x[0]."""
        return self._covariance("P_factor")

    def _covariance(self, name: str) -> Real:
        factor = self._own[name].astype(np.float64)
        return np.asarray(factor @ factor.T)

    @property
    def _matrices(self) -> tuple[Real, ...]:
        return tuple(self._own[name].astype(np.float64, order="C") for name in MATRICES)

    @property
    def _joseph(self) -> bool:
        return bool(self.config["form"] == "joseph")

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _rest(self, vector: NDArray[Any]) -> None:
        n = self.config["order"]
        vector[..., :n] = self._own["mean"]
        vector[..., n:] = (self.covariance if self._joseph else self._own["P_factor"]).ravel()

    # ---- forwards

    def _reading(self) -> tuple[Real, Real, Real]:
        """What the output is made of: the filtered state, the innovation and the known input."""
        (n, p), (_, _, C, D) = self._own["C"].shape[::-1], self._matrices
        output = self.config["output"]
        if output == "state":
            return np.eye(n), np.zeros((n, p)), np.zeros((n, D.shape[1]))
        if output == "measurement":
            return C, np.zeros((p, p)), D
        return np.zeros((p, n)), np.eye(p), np.zeros(D.shape)

    def _packed(self) -> tuple[Any, ...]:
        noises = ("Q_factor", "R_factor")
        kept = [self._covariance(name) if self._joseph else self._own[name].astype(np.float64) for name in noises]
        return tuple(np.ascontiguousarray(m) for m in (*self._matrices, *kept, *self._reading()))

    def _pass(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: Real, notes: Real) -> None:
        n, p = self.config["order"], self.config["n_measurements"]
        width = 2 * p + 2 * n if self._joseph else p + n
        work = (
            state.workspace("early", lambda: np.empty((p + n, width))),
            state.workspace("late", lambda: np.empty((n + 1, 2 * n))),
            state.workspace("e", lambda: np.empty(p)),
            state.workspace("z", lambda: np.empty(p)),
            state.workspace("seen", lambda: np.empty(p, np.int64)),
        )
        _forward(u, y, state.rows, self._derived("packed", self._packed), self._joseph, work, tape, notes)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._pass(u, state, y, np.empty((1, 1, 0)), np.empty((1, 1, 0)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        n = self.config["order"]
        y, tape = np.empty((*u.shape[:2], self.n_outputs), u.dtype), np.empty((*u.shape[:2], 2 * (n + n * n)))
        self._pass(u, state, y, tape, np.empty((1, 1, 0)))
        return y, (u, tape, state.rows.copy())

    # ---- backwards

    def _backwards(
        self, u: Real, tape: Real, dy: Real, dx: Real, dP: Real, weight: float
    ) -> tuple[Real, Real, Real, dict[str, Real]]:
        """Derivatives of sum(y dy) + the last mean by dx + the last P by dP + ``weight`` times the log-likelihood.

        By the inputs, the first mean and P, and by A to D, Q and R (as "Q", "R"). P minimises what the gain may change,
        so that it is differentiated as if the gain K were constant.
        """
        A, B, C, D = self._matrices
        n, p = len(A), len(C)
        R = self.measurement_noise
        out_x, out_e, _ = self._reading()
        seen = ~np.isnan(u[..., :p])
        known = u[..., p:]
        x = tape[..., :n]
        P = self._spread(tape[..., n : n + n * n])
        e = np.where(seen, u[..., :p] - x @ C.T - known @ D.T, 0.0)
        Ct = seen[..., None] * C
        Rt = seen[..., None] * R * seen[..., None, :] + ~seen[..., None] * np.eye(p)
        S = Ct @ P @ turned(Ct) + Rt
        inverse = pseudo_inverse(S)
        K = P @ turned(Ct) @ inverse
        F = np.eye(n) - K @ Ct
        normed = (inverse @ e[..., None])[..., 0]
        outer = normed[..., :, None] * normed[..., None, :]
        dS = 0.5 * weight * (outer - inverse) * seen[..., None] * seen[..., None, :]
        from_S = turned(Ct) @ dS @ Ct
        from_e = dy @ out_e - weight * normed
        early_x, early_P, late_x, late_P = (np.empty_like(a) for a in (x, P, x, P))
        de = np.empty_like(e)
        for t in range(u.shape[1] - 1, -1, -1):
            late_x[:, t], late_P[:, t] = dx, dP
            dx = dx @ A + dy[:, t] @ out_x
            dP = A.T @ dP @ A
            early_x[:, t], early_P[:, t] = dx, dP
            de[:, t] = (dx[:, None] @ K[:, t])[:, 0] + from_e[:, t]
            by_gain = (dx[:, None] @ F[:, t])[:, 0, :, None] * (normed[:, t] @ C)[:, None]
            dP = turned(F[:, t]) @ dP @ F[:, t] + 0.5 * (by_gain + turned(by_gain)) + from_S[:, t]
            dx = dx - (de[:, t] * seen[:, t]) @ C
        de *= seen
        after = x + (K @ e[..., None])[..., 0]
        P_after = F @ P @ turned(F) + K @ Rt @ turned(K)
        by_gain = early_x[..., :, None] * normed[..., None, :]
        dC = turned(by_gain) @ F @ P - turned(K) @ by_gain @ Ct @ P
        dC += 2 * (dS @ Ct @ P - turned(K) @ early_P @ F @ P)
        dR = turned(K) @ early_P @ K + dS - 0.5 * (turned(K) @ by_gain + turned(by_gain) @ K)
        each = "vti,vtj->ij"
        params = {
            "A": np.einsum(each, late_x, after) + 2 * np.einsum("vtij,vtjk->ik", late_P @ A, P_after),
            "B": np.einsum(each, late_x, known),
            "C": np.sum(dC * seen[..., None], (0, 1)) - np.einsum(each, de, x),
            "D": -np.einsum(each, de, known),
            "Q": np.sum(late_P, (0, 1)),
            "R": np.sum(dR * seen[..., None] * seen[..., None, :], (0, 1)),
        }
        du = np.concatenate([de, late_x @ B - de @ D], -1)
        if self.config["output"] == "measurement":
            params["C"] += np.einsum(each, dy, after)
            params["D"] += np.einsum(each, dy, known)
            du[..., p:] += dy @ D
        return du, dx, dP, params

    def _spread(self, kept: Real) -> Real:
        """P from what the state holds, one flat row each."""
        n = self.config["order"]
        M = kept.reshape(*kept.shape[:-1], n, n)
        return np.asarray(0.5 * (M + turned(M)) if self._joseph else M @ turned(M))

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tape, last = memory
        n, n_frames = self.config["order"], u.shape[1]
        seed = dx.astype(np.float64)
        kept = seed[:, n:].reshape(-1, n, n)
        params = {name: np.zeros(value.shape) for name, value in self._own.items()}
        if not n_frames:
            return np.zeros(u.shape, u.dtype), dx, params
        if self._joseph:
            dP = 0.5 * (kept + turned(kept))
        else:  # the factor at the end is Cholesky's
            L = last[:, n:].reshape(-1, n, n)
            lower = np.tril(turned(L) @ kept)
            lower -= 0.5 * lower * np.eye(n)
            inverse = np.linalg.pinv(L)
            dP = turned(inverse) @ lower @ inverse
            dP = 0.5 * (dP + turned(dP))
        du, d_mean, dP, found = self._backwards(
            u.astype(np.float64), tape, dy.astype(np.float64), seed[:, :n], dP, weight=0.0
        )
        if not self._joseph:
            dP = 2 * dP @ tape[:, 0, n : n + n * n].reshape(-1, n, n)
        for name in "QR":
            params[f"{name}_factor"] = 2 * found.pop(name) @ self._own[f"{name}_factor"].astype(np.float64)
        initial = np.concatenate([d_mean, dP.reshape(-1, n * n)], axis=-1)
        return du.astype(u.dtype), initial.astype(dx.dtype), {**params, **found}

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        found = by_adjoint(self, u[None], state.ravel()[None], state)
        return StateSpace(*(matrices[0] for matrices in found), sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        y, (_, tape, _) = self._record(u[None], state)
        state.index += len(u)
        return Jacobians(*by_adjoint(self, u, tape[0, :, : state.size], state), np.ones(state.size, np.int64), y[0])

    # ---- what is asked of a whole series

    def filter(self, y: ArrayLike, u: ArrayLike | None = None, state: State | None = None) -> FilteredStates:
        """Means and covariances of the state at every frame.

        Parameters
        ----------
        y : array, shape (n_frames, p), or (n_frames,) for one measurement
            NaN where it is missing.
        u : array, shape (n_frames, k), optional
            Known inputs of the model, zero when absent.
        state : State, optional
            Where to start, as from ``filtered.state`` of the frames before; that of x[0] when absent.

        Raises
        ------
        ParameterError
            Shapes that do not fit, infinity, covariances too many to keep.
        NonFiniteError
            An unstable model that was left unmeasured until it blew up, or a measurement so far from what was expected
            that its log density is beyond all floats.
        """
        n, p = self.config["order"], self.config["n_measurements"]
        _, here, tape, notes = self._go(y, u, state, 4 * n * n)
        before, after = tape[0, :, : n + n * n], tape[0, :, n + n * n :]
        with np.errstate(all="ignore"):
            P, P_after = self._spread(before[:, n:]), self._spread(after[:, n:])
        if not np.isfinite(P).all():
            raise NonFiniteError(_BLEW_UP)
        _, _, C, _ = self._matrices
        return FilteredStates(
            before[:, :n].copy(),
            P,
            after[:, :n].copy(),
            P_after,
            notes[0, :, :p].copy(),
            C @ P @ C.T + self.measurement_noise,
            float(np.sum(notes[0, :, p])),
            here,
        )

    def log_likelihood(self, y: ArrayLike, u: ArrayLike | None = None, state: State | None = None) -> float:
        """log p(y), the sum over all frames of the log density of what was measured given all before it.

        Parameters
        ----------
        y, u, state
            As in :meth:`filter`.

        Raises
        ------
        ParameterError, NonFiniteError
            As in :meth:`filter`; or a measurement that has no variance, given those before it.
        """
        *_, notes = self._go(y, u, state, 1, taped=False)
        return self._proper(float(np.sum(notes[0, :, -1])))

    def gradient(self, y: ArrayLike, u: ArrayLike | None = None) -> dict[str, Real]:
        """Exact derivatives of the log-likelihood by every argument of the model.

        Parameters
        ----------
        y, u
            As in :meth:`filter`.

        Returns
        -------
        dict of str to ndarray
            By "A", "B", "C", "D", "process_noise", "measurement_noise", "mean" and "covariance". Those by covariances
            are symmetric, the derivative along a symmetric direction E being sum(gradient * E).

        Raises
        ------
        ParameterError, NonFiniteError
            As in :meth:`log_likelihood`.

        Notes
        -----
        By back-propagation through the filter, with no inverse of Q: for a singular Q too. What goes backwards are r
        and N of the disturbance smoother, as r = d log p / dx and N = r r' - 2 d log p / dP (S. J. Koopman, N. Shephard
        1992, "Exact score for time series models in state space form").
        """
        n, p = self.config["order"], self.config["n_measurements"]
        signal, _, tape, notes = self._go(y, u, None, 12 * n * n + 4 * p * p)
        self._proper(float(np.sum(notes[0, :, p])))
        nothing = np.zeros((1, signal.shape[1], self.n_outputs))
        with np.errstate(all="ignore"):
            _, dx, dP, by = self._backwards(signal, tape, nothing, np.zeros((1, n)), np.zeros((1, n, n)), weight=1.0)
        noises = {"process_noise": by.pop("Q"), "measurement_noise": by.pop("R")}
        found = {**by, **noises, "mean": dx[0], "covariance": dP[0]}
        if not all(np.isfinite(value).all() for value in found.values()):
            raise NonFiniteError("the gradient leaves the range of floats: scale the measurements")
        return found

    def smooth(self, y: ArrayLike, u: ArrayLike | None = None) -> SmoothedStates:
        r"""Means and covariances of the state at every frame, given all measurements, later ones too.

        .. math::
            J = P^+ A^T P[t+1]^{-1}, \quad \bar x = \hat x^+ + J (\bar x[t+1] - \hat x[t+1]), \\
            \bar P = (1 - J A) P^+ (1 - J A)^T + J (Q + \bar P[t+1]) J^T

        Parameters
        ----------
        y, u
            As in :meth:`filter`.

        Raises
        ------
        ParameterError, NonFiniteError
            As in :meth:`filter`.

        Notes
        -----
        Rauch, Tung and Striebel's, with the covariance as a sum of positive parts. Directions without any variance have
        no inverse and need none.
        """
        done = self.filter(y, u)
        A = self._matrices[0]
        n_frames, n = done.means.shape
        if not n_frames:
            return SmoothedStates(done.means, done.covariances, np.empty((0, n, n)), 0.0)
        J = done.covariances[:-1] @ A.T @ pseudo_inverse(done.predicted_covariances[1:])
        rest = np.eye(n) - J @ A
        own = rest @ done.covariances[:-1] @ turned(rest) + J @ self.process_noise @ turned(J)
        means, covariances = done.means.copy(), done.covariances.copy()
        for t in range(n_frames - 2, -1, -1):
            means[t] += J[t] @ (means[t + 1] - done.predicted_means[t + 1])
            covariances[t] = own[t] + J[t] @ covariances[t + 1] @ J[t].T
        covariances = 0.5 * (covariances + turned(covariances))
        return SmoothedStates(means, covariances, covariances[1:] @ turned(J), done.log_likelihood)

    def steady_state(self) -> SteadyState:
        """The filter that this one becomes: linear and time-invariant, with poles.

        Raises
        ------
        ParameterError
            There is none: part of the model is unstable and not measured, or marginal and not driven by noise.
        """
        from scipy.linalg import solve_discrete_are

        A, B, C, D = self._matrices
        Q, R = self.process_noise, self.measurement_noise
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what comes out is looked at
                P = np.asarray(solve_discrete_are(A.T, C.T, Q, R), np.float64)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise ParameterError(f"no steady state: {error}; {_NO_STEADY_STATE}") from None
        P = 0.5 * (P + P.T)
        S = C @ P @ C.T + R
        if not (np.isfinite(P).all() and np.linalg.matrix_rank(S) == len(S)):
            raise ParameterError(f"no steady state: the innovations have a singular covariance; {_NO_STEADY_STATE}")
        K = np.asarray(np.linalg.solve(S, C @ P).T, np.float64)
        F = np.eye(len(A)) - K @ C
        if np.max(np.abs(np.linalg.eigvals(A @ F))) >= 1:
            raise ParameterError(f"no steady state: the Riccati equation is not solved stably; {_NO_STEADY_STATE}")
        out_x, out_e, out_u = self._reading()
        space = StateSpace(
            A @ F,
            np.hstack([A @ K, B - A @ K @ D]),
            out_x @ F - out_e @ C,
            np.hstack([out_x @ K + out_e, out_u - (out_x @ K + out_e) @ D]),
            sample_rate=self.sample_rate,
        )
        return SteadyState(space, K, P, S)

    def _go(
        self, y: ArrayLike, u: ArrayLike | None, state: State | None, per_frame: int, taped: bool = True
    ) -> tuple[Real, State, Real, Real]:
        """Through a series: the checked signal, the state after it, and tape and notes of :func:`_forward`."""
        n, p, k = (self.config[name] for name in ("order", "n_measurements", "n_known"))
        signal = joined_frames(y, u, p, k)[None]
        if signal.shape[1] * per_frame > MAX_TABLE:
            raise ParameterError(
                f"{signal.shape[1]} frames of covariances are too many to keep; go piece by piece from filtered.state"
            )
        state = self._start(state, (), np.dtype(np.float64))
        tape = np.empty((*signal.shape[:2], 2 * (n + n * n) if taped else 0))
        notes = np.empty((*signal.shape[:2], p + 1))
        with np.errstate(all="ignore"):
            self._pass(signal, state, np.empty((*signal.shape[:2], self.n_outputs)), tape, notes)
            log_likelihood = np.sum(notes[..., p])
        state.index += signal.shape[1]
        state.forget_workspaces()
        bad = ~np.isfinite(notes[..., :p]) & ~np.isnan(signal[..., :p])
        if np.any(bad) or np.isnan(notes[..., -1]).any() or not np.isfinite(state.vector).all():
            raise NonFiniteError(_BLEW_UP)
        if not log_likelihood > -np.inf:
            raise NonFiniteError(_OUT_OF_REACH)
        return signal, state, tape, notes

    def _proper(self, log_likelihood: float) -> float:
        if log_likelihood == np.inf:
            raise ParameterError(
                "a measurement has no variance, given those before it, and so no likelihood; give measurement_noise > 0"
            )
        return log_likelihood


_BLEW_UP = "the estimate blew up: the model is unstable, and too little of it is measured"
_OUT_OF_REACH = "the likelihood leaves the range of floats: scale the measurements, or give a larger noise"
_NO_STEADY_STATE = "each unstable mode must be measured, each mode on the unit circle measured and driven by noise"


def turned(matrices: NDArray[Any]) -> NDArray[Any]:
    return np.swapaxes(matrices, -1, -2)


def pseudo_inverse(covariances: Real) -> Real:
    """Pseudo-inverses that know no units: directions without variance have none."""
    size = np.sqrt(np.maximum(np.einsum("...ii->...i", covariances), 0))
    size = np.where(size > 0, size, 1.0)
    size = size[..., :, None] * size[..., None, :]
    return np.asarray(np.linalg.pinv(covariances / size, rcond=1e-15 * covariances.shape[-1], hermitian=True) / size)


def joined_frames(y: ArrayLike, u: ArrayLike | None, p: int, k: int) -> Real:
    """Measurements, NaN where they are missing, and known inputs as the channels of one signal."""
    measured = reals("y", y)
    measured = measured[:, None] if measured.ndim == 1 and p == 1 else measured
    if measured.ndim != 2 or measured.shape[1] != p:
        raise ParameterError(f"y has shape {measured.shape}: give one series, (n_frames, {p})")
    known = np.zeros((len(measured), k)) if u is None else reals("u", u)
    known = known[:, None] if known.ndim == 1 and k == 1 else known
    if known.shape != (len(measured), k):
        raise ParameterError(f"u has shape {known.shape}, must have {(len(measured), k)}")
    if np.isinf(measured).any():
        raise ParameterError("y holds infinity; NaN stands for a missing measurement")
    if not np.isfinite(known).all():
        raise ParameterError("u holds NaN or infinity: only measurements may be missing")
    return np.concatenate([measured, known], axis=1)


def covariance_factor(name: str, value: ArrayLike, n: int) -> Real:
    """Lower triangular G with G G^T a covariance of n variables; a number or n variances stand for a diagonal one."""
    matrix = reals(name, value)
    if matrix.ndim == 0:
        matrix = matrix * np.eye(n)
    elif matrix.shape == (n,):
        matrix = np.diag(matrix)
    if matrix.shape != (n, n):
        raise ParameterError(f"{name} has shape {matrix.shape}: give a number, {n} variances, or a ({n}, {n}) matrix")
    if not np.isfinite(matrix).all():
        raise ParameterError(f"{name} holds NaN or infinity")
    variance = np.diagonal(matrix)
    if np.any(variance < 0):
        raise ParameterError(f"{name} has the variance {variance.min():.3g} on its diagonal; it cannot be negative")
    size = np.sqrt(np.where(variance > 0, variance, 1))
    scaled = matrix / size[:, None] / size
    if np.max(np.abs(scaled - scaled.T)) > ROUNDING:
        raise ParameterError(f"{name} is not symmetric")
    scaled = 0.5 * (scaled + scaled.T)
    values, vectors = np.linalg.eigh(scaled)
    if values[0] < -ROUNDING * n or np.any(scaled[variance == 0]):
        raise ParameterError(
            f"{name} is not positive semidefinite: its correlation matrix has the eigenvalue {values[0]:.3g}"
        )
    try:
        return np.asarray(size[:, None] * np.linalg.cholesky(scaled))
    except np.linalg.LinAlgError:
        root = size[:, None] * vectors * np.sqrt(np.maximum(values, 0))
        lower = np.asarray(np.linalg.qr(root.T)[1].T)
        return np.asarray(lower * np.where(np.diagonal(lower) < 0, -1, 1))


def _stationary(A: Real, Q: Real) -> Real:
    if np.max(np.abs(np.linalg.eigvals(A))) >= 1:
        raise ParameterError(
            "covariance=None: the model is not stable, so its state has no stationary covariance to start from; give "
            "one, a large one (1e6) where nothing is known of the start"
        )
    from scipy.linalg import solve_discrete_lyapunov

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a pole close to the circle has a huge covariance, not a wrong one
        P = np.asarray(solve_discrete_lyapunov(A, Q), np.float64)
        return 0.5 * (P + P.T)

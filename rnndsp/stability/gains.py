"""How much a linear filter amplifies, in which norm, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._decay import (
    EPS,
    MAX_OPEN_STATES,
    MAX_SCALED,
    MAX_STATES,
    SLACK,
    diagonal_scaling,
    falls_along,
    gain_crossings,
    lyapunov_solution,
)
from rnndsp.stability.spectrum import MARGIN, loop_radius
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = [
    "Gramians",
    "LyapunovCertificate",
    "NormBounds",
    "PeakGain",
    "gramians",
    "hankel_singular_values",
    "headroom_db",
    "lyapunov_certificate",
    "norm",
    "norm_bounds",
    "peak_gain",
]

# Up to so many states a dense matrix is taken for Gramians; fewer for the pencil of the H-infinity norm, of twice the
# size, and for the Hankel singular values of every tail.
DENSE, SMALL = 500, 120
# What has not fallen after 2^44 samples, eleven years at 48 kHz, is rounded too much to say that it ever does.
DOUBLINGS = 44
# Relative accuracy asked for, and what rounding may add to a bound.
ACCURACY, ROUNDING = 1e-10, 1e-12
# Numbers of an impulse response that are kept, frames of it that are transformed, and multiplications it may cost.
MAX_NUMBERS, MAX_FRAMES, MAX_WORK = 2**23, 2**21, 2**32
# Grid points of the frequency response for each sample of the impulse response; parts in which an interval is refined;
# and how many points are looked at for that, and multiplications that they may cost.
GRID, PARTS, MAX_POINTS, MAX_SOLVING = 8, 8, 2**16, 2**31
# Eigenvalues of a pencil this near to the unit circle may stand for ones on it. Taking too many only costs time.
NEAR = 1e-3

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class NormBounds:
    """Between what a norm lies.

    Attributes
    ----------
    lower, upper : float
    """

    lower: float
    upper: float


@dataclass(frozen=True)
class PeakGain:
    """The H-infinity norm.

    Attributes
    ----------
    gain : float
        Largest singular value of the frequency response that was met.
    frequency : float
        Where: in Hz where the filter has a sample rate, else in cycles a sample.
    upper : float
        No frequency is amplified more.
    """

    gain: float
    frequency: float
    upper: float


@dataclass(frozen=True)
class Gramians:
    """Which states are easily reached and easily heard.

    Attributes
    ----------
    controllability : ndarray, shape (n_states, n_states)
        W_c = sum of A^k B B^T A^kT: what white noise of unit power at the inputs fills the states with.
    observability : ndarray, shape (n_states, n_states)
        W_o = sum of A^kT C^T C A^k: x^T W_o x is the energy of the output that starts from x.
    """

    controllability: Real
    observability: Real


@dataclass(frozen=True)
class LyapunovCertificate:
    """A quadratic function that falls at every step of x+ = A x: a proof of decay that anyone can check.

    Attributes
    ----------
    A : ndarray, shape (n, n)
    P, Q : ndarray, shape (n, n)
        Positive definite, A^T P A - P = -Q.
    residual : float
        2-norm of A^T P A - P + Q: what the solution misses by.
    """

    A: Real
    P: Real
    Q: Real
    residual: float

    def recheck(self) -> bool:
        """Whether P proves that A^k goes to zero: P > 0 and P - A^T P A > Q/2, with room for rounding."""
        return falls_along(self.A, self.P, self.Q)

    def decay(self, n_samples: int) -> float:
        """Bound of the 2-norm of A^k, k = ``n_samples``: sqrt(cond P) (1 - lmin(Q) / lmax(P))^(k/2).

        Q is lessened by the residual.
        """
        whole_number("n_samples", n_samples, least=0)
        if not len(self.P):
            return float(n_samples == 0)
        least, most = np.linalg.eigvalsh(self.P)[[0, -1]]
        fall = (np.linalg.eigvalsh(self.Q)[0] - self.residual) / most
        return float(np.sqrt(most / least) * max(0.0, 1 - fall) ** (n_samples / 2))


def norm(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    p: float = 2,
    controls: Controls | None = None,
) -> float:
    r"""Norm of a linear filter, or of the small-signal filter of any other about an operating point.

    .. math:: \|H\|_2^2 = \sum_t \|h[t]\|_F^2, \qquad
              \|H\|_\infty = \sup_\omega \sigma_{\max}(H(e^{j\omega})), \qquad
              \|h\|_1 = \max_i \sum_j \sum_t |h_{ij}[t]|

    With ``p=2`` the RMS level of the output on white noise of unit power, with ``p=numpy.inf`` the largest gain for
    energy, that of the most favoured sine, with ``p=1`` the largest gain for peaks: inputs within +-1 come out within
    it.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`. For a nonlinear filter the norm is that of small signals
        there, and no bound for others.
    p : {2, 1, numpy.inf}

    Returns
    -------
    float
        The upper end of :func:`norm_bounds`. Infinite for an unstable or marginal filter, hidden modes included.

    Raises
    ------
    ParameterError
        Another ``p``, or long delay lines for which no bound is found.
    """
    return norm_bounds(filt, state, u, p=p, controls=controls).upper


def norm_bounds(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    p: float = 2,
    controls: Controls | None = None,
) -> NormBounds:
    r"""Between which numbers a norm lies, see :func:`norm`.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    p : {2, 1, numpy.inf}

    Returns
    -------
    NormBounds

    Raises
    ------
    ParameterError
        Another ``p``, or long delay lines for which no bound is found.

    Notes
    -----
    Rounding of the poles is not counted: at a distance d from the unit circle it is of the relative size 1e-16 / d.

    *p=2*, up to 500 states: from the Gramian, both ends alike. *p=inf*: see :func:`peak_gain`. All else, *p=1* and
    *p=2* of long delay lines, is the impulse response itself and a bound of what is left after it. Up to 120 states
    that is twice the sum of the Hankel singular values of the rest, which is sharp for a slow real pole. Beyond, it
    comes from an energy of the state that no sample adds to, found loop by loop as the decay in
    :func:`rnndsp.stability.report` is. The ends agree to 1e-9 unless the filter rings on for millions of samples.

    References
    ----------
    S. Boyd, J. Doyle (1987), "Comparison of peak and RMS gains for discrete-time systems". L. B. Jackson (1970), "On
    the interaction of roundoff noise and dynamic range in digital filters".
    """
    linear = filt.linearize(state, u, controls=controls)
    if isinstance(p, bool) or not np.isscalar(p) or p not in (1, 2, np.inf):
        raise ParameterError(f"{p=}: choose 1, 2 or numpy.inf")
    if p == np.inf:
        peak = peak_gain(linear)
        return NormBounds(peak.gain, peak.upper)
    with in_range():
        return _bounds(linear, p)


def headroom_db(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    """Level in dB that the output never exceeds for inputs within +-1: 20 log10 of the 1-norm, upper end.

    So much must be left between a full-scale input and clipping. The input with the signs of the reversed impulse
    response comes near to it.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`. For a nonlinear filter it is that of small signals about
        this point, and no bound for others.

    Returns
    -------
    float
        -inf for a filter that lets nothing through, inf for an unstable or marginal one.
    """
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(norm(filt, state, u, p=1, controls=controls)))


def peak_gain(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> PeakGain:
    r"""Largest gain over all frequencies (the H-infinity norm), and where it stands.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    PeakGain
        Infinite, at the pole of largest magnitude, for an unstable or marginal filter.

    Raises
    ------
    ParameterError
        Long delay lines for which no bound is found.

    Notes
    -----
    Up to 120 states, and more if all that matters fits into 120 (balanced truncation, whose bound of the error is added
    to ``upper``), by Bruinsma and Steinbuch: the frequencies where a singular value equals a level are eigenvalues
    on the unit circle of a symplectic pencil, which inverts nothing; the level rises to the gain between two of them
    until there are none. ``upper`` is the last level, 1e-10 above ``gain``, as computed.

    Beyond, the frequency response is looked at on a grid so fine that it is only a little larger between: where the
    impulse response has T samples, max \|H\| <= max on the grid / cos(T d / 2), d being the largest distance from a
    grid point, a sharp form of Bernstein's inequality. What comes after T samples is bounded as in :func:`norm_bounds`
    and added. Intervals that may hold the peak are refined; where too many may, as in a response that is nearly flat,
    ``upper`` stays a few percent above. Before all that, a quadratic storage function may show that no frequency is
    amplified more than the best one found, as in an allpass.

    References
    ----------
    N. A. Bruinsma, M. Steinbuch (1990), "A fast algorithm to compute the H-infinity norm of a transfer function
    matrix". H. Ehlich, K. Zeller (1964), "Schwankung von Polynomen zwischen Gitterpunkten".
    """
    linear = filt.linearize(state, u, controls=controls)
    with in_range():
        gain, w, upper = _peak(linear)
    return PeakGain(gain, w * (filt.sample_rate or 1.0) / (2 * np.pi), upper)


def gramians(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Gramians:
    """Controllability and observability Gramians.

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        Too many states, or a filter that does not decay: then the sums are infinite.

    Notes
    -----
    Summed by doubling (R. A. Smith 1968), as factors that are brought to size by QR, so they are positive semidefinite.
    """
    with in_range():
        reach, heard = gramian_factors(filt.linearize(state, u, controls=controls))
    return Gramians(reach @ reach.T, heard @ heard.T)


def hankel_singular_values(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Real:
    r"""Hankel singular values: how much each direction of the state matters between past input and future output.

    .. math:: \sigma_i = \sqrt{\lambda_i(W_c W_o)}

    All are 1 in a lossless network without hidden modes. Leaving out the smallest changes the frequency response by at
    most twice their sum (balanced truncation).

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray, shape (n_states,)
        Largest first.

    Raises
    ------
    ParameterError
        As in :func:`gramians`.

    References
    ----------
    K. Glover (1984), "All optimal Hankel-norm approximations of linear multivariable systems and their L-infinity error
    bounds".
    """
    with in_range():
        reach, heard = gramian_factors(filt.linearize(state, u, controls=controls))
        found = np.linalg.svd(np.asarray_chkfinite(heard.T @ reach), compute_uv=False)
    return np.concatenate([found, np.zeros(len(reach) - found.size)])


def lyapunov_certificate(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> LyapunovCertificate | None:
    """P of A^T P A - P = -I as a proof that the filter decays, None where rounding leaves none.

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`. For a nonlinear filter it is a proof for the linear part
        there, in the states' own units.

    Raises
    ------
    ParameterError
        Too many states: :func:`rnndsp.stability.report` has proofs for those.

    References
    ----------
    A. M. Lyapunov (1892), "The general problem of the stability of motion".
    """
    linear = filt.linearize(state, u, controls=controls)
    A = require_dense(linear)._matrices[0]
    Q = np.eye(len(A))
    with in_range():
        P = lyapunov_solution(A, Q) if len(A) else Q
        if P is None or not falls_along(A, P, Q):
            return None
    return LyapunovCertificate(A, P, Q, float(np.linalg.norm(A.T @ P @ A - P + Q, 2)) if len(A) else 0.0)


def require_dense(linear: DelayStateSpace) -> DelayStateSpace:
    if linear.n_states > DENSE:
        raise ParameterError(f"{linear.n_states} states are more than the {DENSE} that a dense matrix is formed for")
    return linear.expand()


def gramian_factors(linear: DelayStateSpace) -> tuple[Real, Real]:
    _, B, C, _ = require_dense(linear)._matrices
    squares = _powers(linear)
    if squares is None:
        raise ParameterError("the filter does not decay, so its Gramians are infinite: see its poles")
    return _factor(squares, B), _factor([square.T for square in squares], C.T)


def _powers(linear: DelayStateSpace) -> list[Real] | None:
    """A, A^2, A^4 ... until nothing is left; None where that does not happen, or for too many states."""
    if linear.n_states > DENSE:
        return None
    power = linear.expand()._matrices[0]
    found = [power]
    with np.errstate(all="ignore"):
        while (size := np.linalg.norm(power)) >= 1e-15:
            if not np.isfinite(size) or (len(found) > DOUBLINGS and size > 0.5):
                return None
            power = power @ power
            found.append(power)
    return found


def _factor(squares: list[Real], B: Real) -> Real:
    """L with L L^T = sum of A^k B B^T A^kT."""
    L = B
    for power in squares:
        L = np.hstack([L, power @ L])
        if L.shape[1] > len(L):
            L = np.asarray(np.linalg.qr(L.T, mode="r")).T
    return L


@contextmanager
def in_range() -> Iterator[None]:
    """Overflow is infinite gain; where it leaves no number at all, that is said."""
    with np.errstate(all="ignore"):
        try:
            yield
        except ParameterError:
            raise
        except (np.linalg.LinAlgError, NonFiniteError, ValueError):  # numpy's word for NaN in a matrix is the last
            raise ParameterError(
                "the gains of the filter lead beyond double precision: scale its parts, or look at fewer of them"
            ) from None


def _bounds(linear: DelayStateSpace, p: float) -> NormBounds:
    squares = _powers(linear)
    if squares is not None and p == 2:
        _, B, C, D = linear.expand()._matrices
        value = float(np.hypot(np.linalg.norm(C @ _factor(squares, B)), np.linalg.norm(D)))
        return NormBounds(value, value)
    rest = _rest(linear, squares)
    if rest is None:
        return NormBounds(np.inf, np.inf)
    response = _ring(linear, rest)
    if p == 2:
        energy = float(np.sum(response.h**2))
        ends = np.sqrt([energy, (energy + rest.energy(response.state)) * (1 + ROUNDING)])
        return NormBounds(float(ends[0]), float(ends[1]))
    rows = np.sum(np.abs(response.h), axis=(0, 2))
    lower, upper = float(np.max(rows)), float(np.max(rows + response.marks[-1][1])) * (1 + ROUNDING)
    if upper > lower * (1 + ACCURACY) and linear.n_states <= DENSE:
        # no gain at any frequency is above the norm, and a mode that rings on for too long has a high one
        w = np.append(np.abs(np.angle(linear.poles())), [0, np.pi])
        gains = np.sum(np.abs(linear.frequency_response(w)), axis=2)
        lower = max(lower, float(np.max(gains)))
    return NormBounds(lower, max(lower, upper))


# ---- the peak gain


def _peak(linear: DelayStateSpace) -> tuple[float, float, float]:
    squares = _powers(linear)
    dense, error = (None, 0.0) if squares is None else _reduced(linear, squares)
    if dense is not None and dense.n_states <= SMALL:
        gain, w, upper = _by_pencil(dense)
        gain, upper = float(_gains(linear, np.array([w]))[0]), upper + error
    elif _is_lossless(linear):
        gain, w, upper = float(_gains(linear, np.zeros(1))[0]), 0.0, 1 + ROUNDING
    else:
        rest = _rest(linear, squares)
        if rest is None:
            found = linear.poles()
            return np.inf, float(abs(np.angle(found[0]))), np.inf
        gain, w, upper = _by_grid(linear, rest)
    return gain, w, float(max(gain, upper))


def _reduced(linear: DelayStateSpace, squares: list[Real]) -> tuple[DelayStateSpace, float]:
    """The dense filter, if large by balanced truncation of what is next to nothing, and by how much that errs."""
    dense = linear.expand()
    if dense.n_states <= SMALL:
        return dense, 0.0
    _, B, C, _ = dense._matrices
    reach, heard = _factor(squares, B), _factor([square.T for square in squares], C.T)
    left, s, right = np.linalg.svd(heard.T @ reach, full_matrices=False)
    kept = int(np.count_nonzero(np.cumsum(s[::-1])[::-1] > 0.1 * ACCURACY * s[0]))
    few = projected(dense, heard @ left[:, :kept], s[:kept], reach @ right[:kept].T)
    return few, 2 * float(np.sum(s[kept:]))


def projected(dense: DelayStateSpace, heard: Real, s: Real, reach: Real) -> StateSpace:
    """The balanced filter on the directions that are heard and reached best, s being their Hankel values."""
    A, B, C, D = dense._matrices
    into, out = heard / np.sqrt(s), reach / np.sqrt(s)
    return StateSpace(into.T @ A @ out, into.T @ B, C @ out, D, sample_rate=dense.sample_rate)


def _gains(linear: DelayStateSpace, w: Real) -> Real:
    """Largest singular value of H at angles, in pieces that take little memory."""
    pieces = np.array_split(w, 1 + w.size * len(linear.A) ** 2 // 2**20)
    found = np.concatenate([np.linalg.norm(linear.frequency_response(piece), 2, axis=(1, 2)) for piece in pieces])
    return np.where(np.isnan(found), np.inf, found)  # complex numbers overflow to that


def _by_pencil(dense: DelayStateSpace) -> tuple[float, float, float]:
    """Peak gain, its angle, and the level that no singular value reaches."""
    A, B, C, D = dense._matrices
    w = np.unique(np.concatenate([np.linspace(0, np.pi, 33), np.abs(np.angle(np.linalg.eigvals(A)))]))
    b, c = (float(np.linalg.norm(x)) or 1.0 for x in (B, C))
    best, level, bracket = -1.0, 0.0, (0.0, np.pi)
    while True:
        gains = _gains(dense, w)
        k = int(np.argmax(gains))
        if not np.isfinite(gains[k]):
            return np.inf, float(w[k]), np.inf
        if gains[k] <= level:
            break
        best, at = float(gains[k]), float(w[k])
        bracket = float(w[max(k - 1, 0)]), float(w[min(k + 1, w.size - 1)])
        level = best * (1 + ACCURACY)
        even = np.sqrt(b) * np.sqrt(c) / np.sqrt(level)
        z = gain_crossings(A, B / b * even, C / c * even, D / level)
        crossed = np.abs(np.angle(z[np.abs(np.abs(z) - 1) < NEAR]))
        ends = np.unique(np.concatenate([[0.0], crossed, [np.pi]]))
        w = (ends[1:] + ends[:-1]) / 2
    if best <= 0:
        return 0.0, 0.0, 0.0
    from scipy.optimize import minimize_scalar

    near = minimize_scalar(
        lambda x: -_gains(dense, np.array([x]))[0], bounds=bracket, method="bounded", options={"xatol": 1e-12}
    )
    return (-float(near.fun), float(near.x), level) if -near.fun > best else (best, at, level)


def _is_lossless(linear: DelayStateSpace) -> bool:
    """Whether what comes out and is stored is what came in, and poles as computed say that nothing stays for good."""
    V = np.block([[linear.A, linear.B], [linear.C, linear.D]])
    with np.errstate(all="ignore"):
        if V.shape[0] != V.shape[1] or not np.linalg.norm(V.T @ V - np.eye(len(V))) <= ROUNDING:
            return False
    radius = loop_radius(linear)
    return radius is not None and radius < 1 - MARGIN


def _by_grid(linear: DelayStateSpace, rest: _Rest) -> tuple[float, float, float]:
    """The same for long lines."""
    response = _ring(linear, rest)
    w = np.linspace(0, np.pi, 33)
    gains = _gains(linear, w)
    at, gain = float(w[np.argmax(gains)]), float(np.max(gains))
    upper = rest.storage_gain()
    if upper <= gain * (1 + ACCURACY):
        return gain, at, upper
    n_frames, left = next(mark for mark in reversed(response.marks) if mark[0] <= MAX_FRAMES)
    tail = float(np.linalg.norm(left))
    w, values, apart = _on_grid(response.h[:n_frames])
    between = np.cos(apart * n_frames / 2)
    upper = min(upper, (float(np.max(values)) / between + tail) * (1 + ROUNDING))
    best = w[[np.argmax(values)]]
    if (exact := float(_gains(linear, best)[0])) > gain:
        gain, at = exact, float(best[0])
    w = w[values >= (gain - tail) * between]
    most = min(MAX_POINTS, MAX_SOLVING // len(linear.A) ** 3)
    while upper > gain * (1 + ACCURACY) and w.size <= most:
        most -= w.size
        values = _gains(linear, w)
        k = int(np.argmax(values))
        if values[k] > gain:
            gain, at = float(values[k]), float(w[k])
        # of the first n_frames terms, at the frequency where they are largest, at most so far from a point
        between = np.cos(apart * n_frames / 2)
        upper = min(upper, ((float(values[k]) + tail) / between + tail) * (1 + ROUNDING))
        w = w[values >= (gain - tail) * between - tail]
        apart /= PARTS
        w = np.abs(w[:, None] + apart * np.arange(1 - PARTS, PARTS, 2)).ravel()
        if apart < EPS:
            break
    return gain, at, upper


def _on_grid(h: Real) -> tuple[Real, Real, float]:
    """Angles of a fine grid, gains of an impulse response there or more, and the largest distance from the grid."""
    size = 1 << (len(h) - 1).bit_length()
    squares = np.zeros((GRID, size // 2 + 1))
    turn = np.exp(-2j * np.pi / (GRID * size) * np.arange(len(h)))
    for channel in h.reshape(len(h), -1).T:
        for k in range(GRID):
            H = np.fft.fft(channel * turn**k, size)[: size // 2 + 1]
            squares[k] += H.real**2 + H.imag**2
    w = 2 * np.pi / size * (np.arange(size // 2 + 1) + np.arange(GRID)[:, None] / GRID)
    # the Frobenius norm is above the 2-norm, and the same for one input or one output
    return w.ravel(), np.sqrt(squares).ravel(), np.pi / (GRID * size)


# ---- the impulse response, and what is left after it


@dataclass(frozen=True)
class _Response:
    """The beginning of an impulse response, (n_frames, n_outputs, n_inputs), and bounds for the rest.

    ``marks`` has frames and bounds of the sum of all that comes later, each output's; ``state`` is that after the end,
    one row an input.
    """

    h: Real
    marks: list[tuple[int, Real]]
    state: Real


def _ring(linear: DelayStateSpace, rest: _Rest) -> _Response:
    k, p = linear.n_inputs, linear.n_outputs
    n_frames, state = 1024, linear.rest_state((k,))
    pieces: list[Real] = []
    marks: list[tuple[int, Real]] = []
    total, n_done = np.zeros(p), 0
    while True:
        u = np.zeros((k, n_frames, k))
        if not pieces:
            u[np.arange(k), 0, np.arange(k)] = 1
        y, state = linear.run(u, state)
        pieces.append(y.transpose(1, 2, 0))
        total += np.sum(np.abs(y), axis=(0, 1))
        n_done += n_frames
        left = rest.bound(state.ravel())
        marks.append((n_done, left))
        done = np.max(left) <= 0.1 * ACCURACY * np.max(total)
        work = 2 * n_done * k * (len(linear.A) + p) ** 2
        if done or 2 * n_done * k * p > MAX_NUMBERS or work > MAX_WORK:
            return _Response(np.concatenate(pieces), marks, state.ravel())
        n_frames = n_done


def _rest(linear: DelayStateSpace, squares: list[Real] | None) -> _Rest | None:
    """Bounds of what is left, None for a filter that does not decay."""
    if squares is None and linear.n_states <= DENSE:
        return None
    if squares is not None and linear.n_states <= SMALL:
        return _HankelRest(linear, squares)
    if (found := _storage(linear)) is not None:
        return _StorageRest(linear, *found)
    if squares is not None:
        return _HankelRest(linear, squares)
    radius = loop_radius(linear)
    if radius is not None and radius > 1 - MARGIN:
        return None
    known = "stable as computed" if radius is not None else "too large for its poles"
    raise ParameterError(
        f"no bound is found for how {linear.n_states} states ring out ({known}): the loops of the {len(linear.A)} "
        f"delay lines may have gain above 1 on the way; shorten them to {DENSE} states, or look at impulse_response"
    )


class _Rest(Protocol):
    """Bounds for what comes out of states without input."""

    def bound(self, x: Real) -> Real:
        """Each output's bound for the sum of all magnitudes, over time and over the states in rows."""

    def energy(self, x: Real) -> float:
        """A bound for the sum of all squares."""

    def storage_gain(self) -> float:
        """A gain that no frequency exceeds."""


class _HankelRest:
    """By the Hankel matrix of what comes out: of its magnitudes those on two diagonals are all there are."""

    def __init__(self, linear: DelayStateSpace, squares: list[Real]) -> None:
        self.squares, self.n_outputs = squares, linear.n_outputs
        # what a pole so near to the circle that its last power is 2^len(squares) makes of rounding
        self.rounding = 1 + ROUNDING + EPS * 2.0 ** len(squares)
        self.heard = _factor([square.T for square in squares], linear.expand()._matrices[2].T)

    def bound(self, x: Real) -> Real:
        nuclear = np.sum(np.linalg.svd(self.heard.T @ _factor(self.squares, x.T), compute_uv=False))
        return np.full(self.n_outputs, 2 * np.sqrt(len(x)) * nuclear * self.rounding)

    def energy(self, x: Real) -> float:
        return float(np.sum((x @ self.heard) ** 2)) * self.rounding

    def storage_gain(self) -> float:
        return np.inf


class _StorageRest:
    r"""By an energy of what is in the delay lines.

    V is the sum of x^T P x over all samples in the lines, P having one block a length of lines. Without input it
    changes by d^T (A^T P A - P) d a sample, d being what comes out of the lines. Once all that is in them has come out,
    at most ``kept``^2 V is left.
    """

    def __init__(self, linear: DelayStateSpace, cut: NDArray[np.bool_], P: Real) -> None:
        A, B, C, D, self.delays = _cut(linear, cut)
        self.P, self.A, self.B, self.C, self.D = P, A, B, C, D
        root = np.linalg.cholesky(P)
        self.kept = float(np.linalg.norm(np.linalg.solve(root, (root.T @ A).T), 2))
        lost = np.linalg.cholesky(P - A.T @ P @ A)
        # output energy, at most so much of what is lost: each output's, and of all together
        heard = np.linalg.solve(lost, C.T)
        self.heard, self.scale = np.sum(heard**2, axis=0), float(np.linalg.norm(heard, 2)) ** 2

    def _stored(self, x: Real) -> Real:
        one, stop = self.delays == 1, np.cumsum(self.delays)
        short = x[:, stop[one] - 1]
        V: Real = np.einsum("vi,ij,vj->v", short, self.P[np.ix_(one, one)], short)
        for i in np.flatnonzero(~one):
            V += self.P[i, i] * np.sum(x[:, stop[i] - self.delays[i] : stop[i]] ** 2, axis=1)
        return np.maximum(V, 0) * (1 + ROUNDING)

    def bound(self, x: Real) -> Real:
        # Cauchy and Schwarz over the time in which all comes round, then a geometric series of these
        each: Real = np.sqrt(self.delays.max() * self.heard[:, None] * self._stored(x)).sum(axis=1)
        return each / (1 - self.kept)

    def energy(self, x: Real) -> float:
        return float(np.sum(self.heard[:, None] * self._stored(x)))

    def storage_gain(self) -> float:
        # |y|^2 + change of s V <= g^2 |u|^2 but for some slack, a little of all that ever comes out of the lines
        A, B, C, D, P = self.A, self.B, self.C, self.D, self.P
        inside = np.linalg.norm(B.T @ P @ B, 2) / (1 - self.kept) ** 2
        slack, least = 1e-13 * self.scale, np.inf
        for s in self.scale * np.append(1.0, np.geomspace(1 + 1e-6, 100, 40)):
            fall = s * (P - A.T @ P @ A) - C.T @ C + slack * P
            cross = s * A.T @ P @ B + C.T @ D
            try:
                root = np.linalg.solve(np.linalg.cholesky(fall), cross)
            except np.linalg.LinAlgError:
                continue
            least = min(least, float(np.linalg.norm(s * B.T @ P @ B + D.T @ D + root.T @ root, 2)))
        return float(np.sqrt(least + slack * inside))


def _cut(linear: DelayStateSpace, cut: NDArray[np.bool_]) -> tuple[Real, Real, Real, Real, NDArray[np.int64]]:
    """The same network with some lines cut into lines of one sample, in the order of the state."""
    A, B, C, D = linear._matrices
    counts = np.where(cut, linear.delays, 1)
    stop = np.cumsum(counts)
    first, last, total = stop - counts, stop - 1, int(stop[-1]) if stop.size else 0
    wide, tall, heard = np.zeros((total, total)), np.zeros((total, B.shape[1])), np.zeros((len(C), total))
    wide[np.arange(total - 1), np.arange(1, total)] = 1
    wide[last] = 0
    wide[np.ix_(last, first)] = A
    tall[last], heard[:, first] = B, C
    return wide, tall, heard, D, np.repeat(np.where(cut, 1, linear.delays), counts)


def _storage(linear: DelayStateSpace) -> tuple[NDArray[np.bool_], Real] | None:
    """Which lines to cut, and P of :class:`_StorageRest` for the result, loop after loop as they feed each other."""
    A, m = linear._matrices[0], linear.delays
    cut = np.zeros(m.size, np.bool_)
    blocks = []
    for part in _in_order(A):
        found = _block(A[np.ix_(part, part)], m[part])
        if found is None:
            return None
        cut[part], P = found
        blocks.append((part, P))
    if np.sum(np.where(cut, m, 1)) > DENSE:
        return None
    wide = _cut(linear, cut)[0]
    owner = np.repeat(np.arange(m.size), np.where(cut, m, 1))
    whole = np.zeros_like(wide)
    before = np.zeros(0, np.int64)
    for part, P in blocks:
        here = np.flatnonzero(np.isin(owner, part))
        P = P / np.linalg.norm(P, 2)
        if before.size:
            # so little weight that what comes in costs less than is lost before
            into, loop = wide[np.ix_(here, before)], wide[np.ix_(here, here)]
            own = P - loop.T @ P @ loop
            cost = into.T @ (P + P @ loop @ np.linalg.solve(own, loop.T @ P)) @ into
            F = wide[np.ix_(before, before)]
            lost = whole[np.ix_(before, before)] - F.T @ whole[np.ix_(before, before)] @ F
            most = np.linalg.eigvals(np.linalg.solve(lost, cost)).real.max()
            P = P * (0.1 / most if most > 0 else 1.0)
        whole[np.ix_(here, here)] = P
        before = np.concatenate([before, here])
    return (cut, whole) if _is_lost(whole, wide) else None


def _is_lost(P: Real, A: Real) -> bool:
    """Whether P > 0 and P - A^T P A > 0, each in proportion to P's diagonal, with room for rounding."""
    if not np.all(np.diag(P) > 0):
        return False
    d = np.sqrt(np.diag(P))
    F, P = A * d[:, None] / d, P / d / d[:, None]
    rounding = 4 * len(P) * EPS * (1 + np.linalg.norm(P, 2) * (1 + np.linalg.norm(F, 2) ** 2))
    return bool(min(np.linalg.eigvalsh(P)[0], np.linalg.eigvalsh(P - F.T @ P @ F)[0]) > rounding)


def _in_order(A: Real) -> list[NDArray[np.int64]]:
    """The strongly connected lines, each set after those that feed it."""
    from scipy.sparse.csgraph import connected_components

    _, label = connected_components(A != 0, directed=True, connection="strong")
    waiting = list(range(label.max(initial=-1) + 1))
    order: list[NDArray[np.int64]] = []
    while waiting:
        open_lines = np.isin(label, waiting)
        for k in waiting:
            if not A[np.ix_(label == k, open_lines & (label != k))].any():
                order.append(np.flatnonzero(label == k))
                waiting.remove(k)
                break
    return order


def _block(A: Real, m: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Real] | None:
    """Which lines of one loop to cut, and P with P - A^T P A > 0 for the result, from cheap to dear."""
    one, none = np.eye(len(A)), np.zeros(m.size, np.bool_)
    if np.linalg.norm(A, 2) < 1 - SLACK:
        return none, one
    nothing = np.zeros((len(A), 1))
    loop = DelayStateSpace(A, nothing, nothing.T, [[0.0]], m)
    if m.sum() <= MAX_STATES or m.sum() == m.size:
        F = _cut(loop, ~none)[0]
        solved = lyapunov_solution(F, np.eye(len(F)))
        return (~none, solved) if solved is not None else None
    order, cut = np.argsort(m), none.copy()
    cut[order[np.cumsum(m[order]) <= MAX_OPEN_STATES]] = True
    if cut.any():
        P = _bounded_real(_cut(loop, cut)[0], np.repeat(cut, np.where(cut, m, 1)))
        if P is not None:
            return cut, P
    if len(A) <= MAX_SCALED and np.max(np.abs(np.linalg.eigvals(A))) < 1:
        P = np.diag(diagonal_scaling(A)[1] ** 2)
        if _is_lost(P, A):
            return none, P
    return None


def _bounded_real(F: Real, short: NDArray[np.bool_]) -> Real | None:
    """P = diag(X, I) by the bounded real lemma: the short lines, seen from the long ones, have gain below 1."""
    from scipy.linalg import solve_discrete_are

    A, B = F[np.ix_(short, short)], F[np.ix_(short, ~short)]
    C, D = F[np.ix_(~short, short)], F[np.ix_(~short, ~short)]
    for room in (1e-1, 1e-2, 1e-4, 1e-6, 1e-8):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an ill-conditioned X is seen below
                X = solve_discrete_are(
                    A, B, C.T @ C + room * np.eye(len(A)), D.T @ D - (1 - room) * np.eye(len(D)), s=C.T @ D
                )
        except (np.linalg.LinAlgError, ValueError):
            continue
        P = np.eye(len(F))
        P[np.ix_(short, short)] = (X + X.T) / 2
        if _is_lost(P, F):
            return P
    return None

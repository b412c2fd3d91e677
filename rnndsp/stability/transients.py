"""How far a filter that decays in the end may grow before: what its poles do not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._decay import _expanded, lyapunov_solution
from rnndsp.stability._resolvent import EPS, RESOLVED, Resolvent, afford, line_norms
from rnndsp.stability.spectrum import MARGIN
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "Pseudospectrum",
    "TransientGrowth",
    "eigenvector_condition",
    "henrici_departure",
    "kreiss_constant",
    "numerical_radius",
    "pseudospectrum",
    "stability_radius",
    "transient_growth",
]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Up to so many states a dense matrix is decomposed, and with how little precision grids are content.
MAX_STATES, COARSE = 400, 1e-6
# Directions, radii and poles that the search for the Kreiss constant starts from; from how many it goes on.
ANGLES, RADII, POLES, STARTS = 48, 28, 64, 6
# How far below the smallest value found a level is looked for, relative to it.
LEVEL = 1e-10


@dataclass(frozen=True)
class Pseudospectrum:
    r"""Smallest singular value of zI - A on a grid of points z.

    Where it is at most eps, a change of A by a matrix of 2-norm at most eps puts a pole at z.

    Attributes
    ----------
    z : ndarray, shape (n_imag, n_real)
        The grid, complex; rows have one imaginary part, columns one real part.
    sigma_min : ndarray, shape (n_imag, n_real)
    poles : ndarray
        Eigenvalues of A, largest magnitude first.
    """

    z: Complex
    sigma_min: Real
    poles: Complex


@dataclass(frozen=True)
class TransientGrowth:
    r"""The 2-norm of the powers of A: how much a state may have grown after k samples, at worst.

    Attributes
    ----------
    index : ndarray, shape (n,)
        The numbers of samples k looked at, from 0 on.
    norm : ndarray, shape (n,)
        \|A^k\|_2; infinity once the power overflows.
    lower : ndarray, shape (n,)
        What the largest of the norms up to k is at least, from the resolvent (Trefethen).
    upper : ndarray, shape (n,)
        What \|A^k\|_2 is at most, sqrt(cond P) gamma^k from a Lyapunov matrix P, room for rounding included; infinity
        where none is found.
    maximum : float
        The largest norm.
    argmax : int
        At how many samples.
    complete : bool
        Whether no later power is larger: some norm is below one, and every k up to there was looked at.
    spectral_radius : float
        rho; rho^k is never above the norm.
    kreiss : float
        The Kreiss constant K as found by :func:`kreiss_constant`; sup_k \|A^k\|_2 lies within K and e n K.
    n_states : int
        n.
    """

    index: NDArray[np.int64]
    norm: Real
    lower: Real
    upper: Real
    maximum: float
    argmax: int
    complete: bool
    spectral_radius: float
    kreiss: float
    n_states: int


# ---- what all of them look at: the state matrix of a filter about an operating point


def _linear(filt: Filter, state: State | None, u: ArrayLike | None, controls: Controls | None) -> DelayStateSpace:
    linear = filt.linearize(state, u, controls=controls)
    if not linear.n_states:
        raise ParameterError(f"{type(filt).__name__} has no state, so there is nothing that grows or decays")
    if not np.isfinite(linear.A).all():
        raise ParameterError("the Jacobian at this operating point holds NaN or infinity: give another state or input")
    return linear


def dense_matrix(linear: DelayStateSpace, what: str) -> Real:
    if linear.n_states > MAX_STATES:
        raise ParameterError(
            f"{what} of {linear.n_states} states would need a dense matrix, and more than {MAX_STATES} take too long; "
            "pseudospectrum, kreiss_constant and transient_growth take delay lines of any length"
        )
    return _expanded(np.asarray(linear.A, np.float64), linear.delays)


def _resolvent(filt: Filter, state: State | None, u: ArrayLike | None, controls: Controls | None) -> Resolvent:
    linear = _linear(filt, state, u, controls)
    return Resolvent(np.asarray(linear.A, np.float64), linear.delays)


# ---- pictures and numbers of the resolvent


def pseudospectrum(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    n_points: int = 100,
    limits: tuple[float, float, float, float] | None = None,
    controls: Controls | None = None,
) -> Pseudospectrum:
    r"""How near zI - A is to singular, on a grid in the z-plane.

    .. math:: \sigma_{\min}(zI - A) = 1 / \|(zI - A)^{-1}\|_2

    Its contour at eps bounds the eps-pseudospectrum: where poles can be put by a change of A of 2-norm eps. Round the
    poles of a normal matrix the contours are circles of radius eps; wide ones mean that the poles say little about what
    happens in the first samples, and that coefficients must be exact.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    n_points : int
        Points along each side of the grid, at least 2.
    limits : tuple of 4 floats, optional
        Least and largest real part, least and largest imaginary part. About the unit circle and all poles when absent.

    Returns
    -------
    Pseudospectrum

    Raises
    ------
    ParameterError
        Wrong limits, or more points of more states than can be computed in a minute.

    Notes
    -----
    One complex Schur form, then inverse Lanczos iteration on a triangular matrix at each point, O(n^2) each. Values are
    true to six digits and to about 1e-16 \|A\|. N delay lines of more than 100 samples together are not expanded: their
    samples are eliminated by recursion, which leaves a matrix of size N whose being definite tells whether the value
    lies above a given one. That costs O(sum m + N^3) a point, and tells values below 1e-8 from zero no more. The norm
    is that of all delayed samples.

    References
    ----------
    L. N. Trefethen, M. Embree (2005), "Spectra and pseudospectra". S. H. Lui (1997), "Computation of pseudospectra by
    continuation".
    """
    n_points = whole_number("n_points", n_points, least=2)
    resolvent = _resolvent(filt, state, u, controls)
    if limits is None:
        edge = max(1.3, 1.15 * float(np.max(np.abs(resolvent.poles))))
        limits = (-1.16 * edge, 1.16 * edge, -edge, edge)  # room for what plots write beside the circle
    edges = np.asarray(limits, np.float64)
    if edges.shape != (4,) or not np.isfinite(edges).all() or not (edges[0] < edges[1] and edges[2] < edges[3]):
        raise ParameterError(f"{limits=} must be (real from, real to, imag from, imag to), each from below its to")
    real, imag = np.linspace(edges[0], edges[1], n_points), np.linspace(edges[2], edges[3], n_points)
    if edges[2] == -edges[3]:
        imag = (imag - imag[::-1]) / 2
    # A is real: what lies below the real axis mirrors what lies above
    rows, place = np.unique(np.abs(imag), return_inverse=True)
    sigma = resolvent.sigma_min(real + 1j * rows[:, None], COARSE)[place]
    return Pseudospectrum(real + 1j * imag[:, None], sigma, resolvent.poles)


def kreiss_constant(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    r"""Kreiss constant: how far the poles can be moved out of the unit circle, per size of the change that moves them.

    .. math:: K = \sup_{|z| > 1} (|z| - 1)\,\|(zI - A)^{-1}\|_2, \qquad K \le \sup_k \|A^k\|_2 \le e\,n\,K

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    float
        At least 1, and 1 for a normal matrix; infinity if a pole lies outside of the unit circle, or a defective one on
        it.

    Notes
    -----
    Found by a search: a grid over all angles and radii and near the poles, then the simplex method from its best
    points. So it is a lower bound, attained at a point z; that no point is better is not proved. Poles within 1e-10 of
    the circle count as on it.

    References
    ----------
    H.-O. Kreiss (1962), "Über die Stabilitätsdefinition für Differenzengleichungen". M. N. Spijker (1991), "On a
    conjecture by LeVeque and Trefethen related to the Kreiss matrix theorem". T. Mitchell (2020), "Computing the Kreiss
    constant of a matrix".
    """
    return _kreiss(_resolvent(filt, state, u, controls))[0]


def kreiss_point(linear: DelayStateSpace) -> tuple[float, complex]:
    """The Kreiss constant, and where it is attained: infinity where it is 1 or infinite."""
    return _kreiss(Resolvent(np.asarray(linear.A, np.float64), linear.delays))[:2]


def _kreiss(resolvent: Resolvent) -> tuple[float, complex, Real, Real]:
    """The constant, where, and on a grid of distances from the circle the largest norm of the resolvent found."""
    radius = float(np.max(np.abs(resolvent.poles)))
    norm = resolvent.norm()
    inner = max(0.03 * (1 - radius), 1e-7) if radius < 1 - MARGIN else 1e-7
    far = np.geomspace(inner, 4 * max(norm, 1), RADII)
    upper = resolvent.poles[resolvent.poles.imag >= 0][:POLES]
    angles = np.unique(np.concatenate([np.linspace(0, np.pi, ANGLES), np.angle(upper)]))
    sigma = resolvent.sigma_min((1 + far[:, None]) * np.exp(1j * angles), COARSE)
    least = RESOLVED if resolvent.along else 1e3 * EPS * max(norm, 1)
    with np.errstate(divide="ignore"):
        largest = 1 / np.min(sigma, axis=1)
        ratio = np.where(sigma > least, far[:, None] / sigma, 0)
    if radius > 1 + MARGIN or (radius >= 1 - MARGIN and _is_defective(resolvent, norm)):
        return np.inf, complex(np.inf), far, largest
    from scipy.optimize import minimize

    def objective(x: Real) -> float:
        gap = np.exp(np.clip(x[0], -30, 50))
        sigma = float(resolvent.sigma_min((1 + gap) * np.exp(1j * x[1])))
        return float(np.log(sigma / gap)) if sigma > least else 0.0

    best, where = 1.0, complex(np.inf)
    # the peak over the radii at each angle, and of these peaks those above both neighbours
    peak = np.max(ratio, axis=0)
    ring = np.concatenate([[-np.inf], peak, [-np.inf]])
    tops = np.flatnonzero((peak >= ring[:-2]) & (peak >= ring[2:]))
    step = np.log(far[1] / far[0]) / 2
    for k in tops[np.argsort(-peak[tops])][:STARTS]:
        x0 = np.array([np.log(far[np.argmax(ratio[:, k])]), angles[k]])
        simplex = x0 + np.array([[0, 0], [step, 0], [0, 0.5 * min(np.pi / ANGLES, np.exp(x0[0]))]])
        options: Any = {"initial_simplex": simplex, "xatol": 1e-8, "fatol": 1e-13, "maxiter": 300}
        found = minimize(objective, x0, method="Nelder-Mead", options=options)
        value = float(np.exp(-found.fun))
        if value > best * (1 + 1e-12):
            best, where = value, (1 + np.exp(found.x[0])) * np.exp(1j * found.x[1])
    return best, complex(where), far, largest


def _is_defective(resolvent: Resolvent, norm: float) -> bool:
    """Whether next to some pole on the circle the resolvent grows faster than one over the distance."""
    on = resolvent.poles[np.abs(np.abs(resolvent.poles) - 1) <= MARGIN]
    gap = 10.0 ** -np.arange(2, 8)
    for angle in np.unique(np.round(np.angle(on[on.imag >= 0]), 9)):
        sigma = resolvent.sigma_min((1 + gap) * np.exp(1j * angle))
        told = np.flatnonzero(sigma > 1e4 * EPS * max(norm, 1))  # from rounding
        ratio = gap / sigma
        if told.size > 1 and ratio[told[-1]] > 5 * ratio[told[-2]]:
            return True
    return False


# ---- exact values on the circle


def _least_on_circle(value: Callable[[Real], Real], pencil: Callable[[float], tuple[Complex, Complex]]) -> float:
    """The least value over all angles; where the circle meets eigenvalues of ``pencil(level)`` the level is crossed.

    N. A. Bruinsma, M. Steinbuch (1990): between two crossings lie smaller values; their middles give the next level.
    """
    from scipy.linalg import eigvals
    from scipy.optimize import minimize_scalar

    # A is real: half of the circle mirrors the other half
    angles = np.linspace(0, np.pi, 33)
    at = value(angles)
    k, away = int(np.argmin(at)), np.exp(1j * angles[np.argmax(at)])
    near = minimize_scalar(
        lambda w: float(value(np.array([w]))[0]),
        bounds=(angles[max(k - 1, 0)], angles[min(k + 1, 32)]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    best = min(float(at[k]), float(near.fun))
    for _ in range(40):
        level = best - LEVEL * abs(best)
        M, N = pencil(level)
        try:  # about a point where the level is far away, so that nothing is nearly singular
            inverse = eigvals(np.linalg.solve(M - away * N, N))
        except (np.linalg.LinAlgError, ValueError):  # the value is the same all around
            return best
        z = away + 1 / inverse[np.abs(inverse) > 1e-9]
        crossing = np.sort(np.angle(z[(np.abs(np.abs(z) - 1) < 1e-6) & (z.imag >= 0)]))
        ends = np.concatenate([[0], crossing, [np.pi]])
        least = float(np.min(value(np.concatenate([ends, (ends[1:] + ends[:-1]) / 2])), initial=best))
        if least >= level:
            return least
        best = least
    return best


def distance_to_circle(A: Real) -> float:
    """The smallest 2-norm of a complex change of A that puts an eigenvalue on the unit circle."""
    one, zero = np.eye(len(A)), np.zeros(A.shape)
    resolvent = Resolvent(A, np.ones(len(A), np.int64))

    def value(angles: Real) -> Real:
        return resolvent.sigma_min(np.exp(1j * angles))

    def pencil(level: float) -> tuple[Complex, Complex]:
        # [[-s I, zI - A], [I/z - A', -s I]] is singular where s is a singular value; its second row times z
        M = np.block([[-level * one, -A], [one, zero]])
        N = np.block([[zero, -one], [A.T, level * one]])
        return M.astype(np.complex128), N.astype(np.complex128)

    return _least_on_circle(value, pencil)


def stability_radius(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    r"""Complex stability radius: the smallest 2-norm of a complex change of A that puts a pole on the unit circle.

    .. math:: r = \min_\omega \sigma_{\min}(e^{j\omega} I - A) = 1 / \|(zI - A)^{-1}\|_{H_\infty}

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    float
        0 where a pole lies on or outside of the unit circle already. It is at most one minus the spectral radius.

    Raises
    ------
    ParameterError
        More than 400 states.

    Notes
    -----
    No grid: a value is crossed where a pencil of size 2n has eigenvalues on the circle, and the smallest one without a
    crossing is the answer, to about ten digits. Rounding moves it by about 1e-16 \|A\|.

    References
    ----------
    R. Byers (1988), "A bisection method for measuring the distance of a stable matrix to the unstable matrices". N. A.
    Bruinsma, M. Steinbuch (1990), "A fast algorithm to compute the H-infinity norm of a transfer function matrix".
    """
    A = dense_matrix(_linear(filt, state, u, controls), "the stability radius")
    return distance_to_circle(A) if np.max(np.abs(np.linalg.eigvals(A))) < 1 else 0.0


def numerical_radius(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    r"""Numerical radius, the largest magnitude in the field of values of A.

    .. math:: w = \max_{\|x\| = 1} |x^* A x| = \max_\theta \lambda_{\max}\big((e^{j\theta} A + e^{-j\theta} A^*)/2\big),
        \qquad \|A^k\|_2 \le 2 w^k

    Below one, no state ever grows to more than twice its size (Berger's inequality).

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        More than 400 states.

    References
    ----------
    E. Mengi, M. L. Overton (2005), "Algorithms for the computation of the pseudospectral radius and the numerical
    radius of a matrix". C. Pearcy (1966), "An elementary proof of the power inequality for the numerical radius".
    """
    from scipy.linalg import eigvalsh

    A = dense_matrix(_linear(filt, state, u, controls), "the numerical radius")
    one, zero, last = np.eye(len(A)), np.zeros(A.shape), (len(A) - 1, len(A) - 1)

    def value(angles: Real) -> Real:
        turned = (np.exp(1j * w) * A for w in angles)
        return np.array([-eigvalsh(B + B.conj().T, subset_by_index=last)[0] / 2 for B in turned])

    def pencil(level: float) -> tuple[Complex, Complex]:
        # z^2 A + 2 level z + A' is singular where -level is an eigenvalue
        M, N = np.block([[zero, one], [-A.T, -2 * level * one]]), np.block([[one, zero], [zero, A]])
        return M.astype(np.complex128), N.astype(np.complex128)

    return -_least_on_circle(value, pencil)


def henrici_departure(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    r"""Henrici's departure from normality, the Frobenius norm of what is not diagonal in a Schur form of A.

    .. math:: \Delta = \sqrt{\|A\|_F^2 - \sum_i |\lambda_i|^2}

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    float
        0 for a normal matrix only: one whose powers are as large as those of its poles. Long delay lines are not
        expanded; theirs is exact to about 1e-8 sqrt(n).

    References
    ----------
    P. Henrici (1962), "Bounds for iterates, inverses, spectral variation and fields of values of non-normal matrices".
    """
    resolvent = _resolvent(filt, state, u, controls)
    if not resolvent.along:
        return float(np.linalg.norm(np.triu(resolvent.T, 1)))
    # in the expanded matrix each sample but the newest of a line comes from a one
    square = np.sum(resolvent.A**2) + resolvent.n - len(resolvent.A) - np.sum(np.abs(resolvent.poles) ** 2)
    return float(np.sqrt(max(square, 0.0)))


def eigenvector_condition(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    r"""Condition number of the matrix V of eigenvectors of unit length.

    .. math:: \|A^k\|_2 \le \kappa(V)\,\rho^k, \qquad \kappa(V) = \|V\|_2\,\|V^{-1}\|_2

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    float
        1 for a normal matrix, infinity for a defective one, which in floating point is one above about 1e15.

    Raises
    ------
    ParameterError
        More than 400 states.

    References
    ----------
    F. L. Bauer, C. T. Fike (1960), "Norms and exclusion theorems".
    """
    A = dense_matrix(_linear(filt, state, u, controls), "the eigenvectors")
    size = np.linalg.svd(np.linalg.eig(A)[1], compute_uv=False)
    return float(size[0] / size[-1]) if size[-1] > EPS * size[0] else np.inf


# ---- powers


def transient_growth(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    n_steps: int = 200,
    every: int = 1,
    controls: Controls | None = None,
) -> TransientGrowth:
    r"""The norms \|A^k\|_2 for k = 0 ... ``n_steps``, and bounds for them.

    A state of length one has at most this length k samples later, and for each k there is one that has.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`. About one of a nonlinear filter it is the growth of a small
        deviation, if the point stays where it is.
    n_steps : int
        The last power.
    every : int
        Only every so many powers, for long delay lines; the largest may then lie between two of them.

    Returns
    -------
    TransientGrowth

    Raises
    ------
    ParameterError
        Powers of delay lines that would take more than a minute.

    Notes
    -----
    Delay lines of more than 400 samples are not expanded: A^k is applied by running the network and its adjoint for k
    samples, and the norm found by Lanczos iteration, never too large. The lower bound is

    .. math:: \max_{j \le k} \|A^j\| \ge r^k \Big/ \Big(1 + \frac{r^k - 1}{(r - 1)(r R - 1)}\Big), \qquad
        R = \|(zI - A)^{-1}\|,\ |z| = r > 1

    at the points z where the Kreiss constant was searched for. The norm of delay lines is that of all their samples.

    References
    ----------
    L. N. Trefethen, M. Embree (2005), "Spectra and pseudospectra", chapters 14 to 18.
    """
    n_steps, every = whole_number("n_steps", n_steps, least=0), whole_number("every", every)
    linear = _linear(filt, state, u, controls)
    index = np.arange(0, n_steps + 1, every)
    A = np.asarray(linear.A, np.float64)
    n = linear.n_states
    with np.errstate(over="ignore", invalid="ignore"):
        if n <= MAX_STATES:
            F = _expanded(A, linear.delays)
            afford((index.size * 20 + n_steps) * float(n) ** 3 / 4, f"{n_steps=} powers; take fewer, or every=10")
            norm = _dense_norms(F, index)
        else:
            steps = float(np.sum(index))
            afford(20 * (steps * A.size + index.size * n), f"{n_steps=}; take fewer, or a larger every than {every}")
            norm = line_norms(index, A, linear.delays, np.random.default_rng(0).standard_normal(n))
    resolvent = Resolvent(A, linear.delays)
    kreiss, _, far, largest = _kreiss(resolvent)
    radius = float(np.max(np.abs(resolvent.poles)))
    at = int(np.argmax(norm >= np.max(norm) * (1 - 1e-12)))  # the first of equal ones
    return TransientGrowth(
        index,
        norm,
        _resolvent_bound(index, far, largest),
        _lyapunov_bound(F, index) if n <= MAX_STATES else np.full(index.size, np.inf),
        float(norm[at]),
        int(index[at]),
        bool(every == 1 and np.any(norm < 1 - 1e-9)),
        radius,
        kreiss,
        n,
    )


def _dense_norms(A: Real, index: NDArray[np.int64]) -> Real:
    norm = np.full(index.size, np.inf)
    jump = np.linalg.matrix_power(A, int(index[1])) if index.size > 1 else A
    power = np.eye(len(A))
    for k in range(index.size):
        if not np.isfinite(power).all():
            break
        norm[k] = np.linalg.norm(power, 2)
        power = jump @ power
    return norm


def _resolvent_bound(index: NDArray[np.int64], far: Real, largest: Real) -> Real:
    with np.errstate(all="ignore"):
        gain = (1 + far) * largest - 1
        shrink = np.exp(-index[:, None] * np.log1p(far))
        bound = gain / (gain * shrink + (1 - shrink) / far)
    bound[~np.isfinite(bound) | (gain <= 0)] = 1  # as the power 0 has
    return np.asarray(np.maximum(np.max(bound, axis=1), 1))


def _lyapunov_bound(A: Real, index: NDArray[np.int64]) -> Real:
    T = lyapunov_factor(A)
    if T is None:
        return np.full(index.size, np.inf)
    gamma, spread = scaled_norm(A[None], T)
    with np.errstate(over="ignore"):
        return np.asarray(spread * gamma**index)


def lyapunov_factor(A: Real) -> Real | None:
    """Upper triangular T with T'T = P, A'PA - P = -I; None where rounding leaves no such P."""
    with np.errstate(all="ignore"):
        P = lyapunov_solution(A, np.eye(len(A)))
    try:
        return None if P is None else np.asarray(np.linalg.cholesky(P).T)
    except np.linalg.LinAlgError:
        return None


def scaled(matrices: Real, T: Real) -> tuple[Real, Real, float]:
    r"""X_k = T A_k T^-1 as computed, how far in 2-norm each may be from the true one, and what cond(T) is at most.

    T is taken as exact. With E = X T - T A, the true matrix is X - E T^-1.
    """
    n = len(T)
    nothing = np.full(matrices.shape, np.inf), np.full(len(matrices), np.inf), np.inf
    with np.errstate(all="ignore"):
        try:
            inverse = np.linalg.inv(T)
        except np.linalg.LinAlgError:
            return nothing
        size = np.linalg.norm(T)
        miss = np.linalg.norm(inverse @ T - np.eye(n)) + 4 * n * EPS * np.linalg.norm(inverse) * size
        X = T @ matrices @ inverse
        if not miss < 0.5 or not np.isfinite(X).all():
            return nothing
        back = np.linalg.norm(inverse, 2) * (1 + 8 * n * EPS) / (1 - miss)
        both = np.linalg.norm(X, axis=(1, 2)) + np.linalg.norm(matrices, axis=(1, 2))
        error = np.linalg.norm(X @ T - T @ matrices, axis=(1, 2)) + 4 * n * EPS * size * both
        return X, error * back, float(np.linalg.norm(T, 2) * back) * (1 + 8 * n * EPS)


def scaled_norm(matrices: Real, T: Real) -> tuple[float, float]:
    r"""What max_k \|T A_k T^-1\|_2 and cond(T) are at most, whatever the rounding of this computation."""
    X, error, spread = scaled(matrices, T)
    if not np.isfinite(X).all():
        return np.inf, np.inf
    norms = np.linalg.norm(X, 2, axis=(1, 2)) * (1 + 8 * len(T) * EPS)
    return float(np.max(norms + error)), spread

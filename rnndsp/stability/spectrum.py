"""Where the poles and zeros are, how fast what they stand for fades, and how much they move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import require_filter
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate, loop_matrices, unreached
from rnndsp.stability._delay_poles import delay_poles, n_searched
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "CoefficientSensitivity",
    "HiddenModes",
    "coefficient_sensitivity",
    "hidden_modes",
    "is_minimum_phase",
    "pole_sensitivity",
    "poles",
    "spectral_radius",
    "t60_s",
    "zeros",
]

# Poles are computed in floating point: this near to the unit circle they count neither as inside nor as outside.
MARGIN = 1e-10
# Loops of more lines are refused unseen, and the poles of a loop may cost so many nanoseconds.
MAX_LINES, MAX_COST = 500, 2e9
# The largest matrix whose eigenvalues are found on the way.
MAX_MATRIX = 2000
# Zeros of up to so many states come from the dense matrix.
DENSE = 500
# Hidden modes this near to each other are taken for one pole.
SAME = 1e-6
# Singular values this small, relative to the largest, show the eigenvectors of a multiple pole.
NULL = 1e-8
EPS = float(np.finfo(np.float64).eps)

Real = NDArray[np.float64]
Controls = Mapping[str, ArrayLike]


def poles(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> NDArray[np.complex128]:
    """Poles of a linear filter, or of the small-signal filter of any other about an operating point.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray of n_states complex numbers
        Largest magnitude first. Those of long delay lines are found without forming a matrix of their length.
    """
    linear = filt.linearize(state, u, controls=controls)
    return delay_poles(np.asarray(linear.A, np.float64), linear.delays)


def spectral_radius(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    """Largest magnitude of :func:`poles`, 0 for a filter without memory.

    It is the asymptotic factor a sample by which a linear filter decays. It is no norm: a filter may grow for a while
    with a radius below one, and a cell whose Jacobian has one everywhere may still not forget.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    """
    found = poles(filt, state, u, controls=controls)
    return float(np.max(np.abs(found))) if found.size else 0.0


def decays(filt: Filter) -> bool:
    """Whether it is proved that a linear filter decays, whatever its controls do: so only where it has none."""
    if filt.controls:
        return False
    linear = filt.linearize()
    return decay_certificate(np.asarray(linear.A, np.float64), linear.delays) is not None


def loop_radius(filt: Filter) -> float | None:
    """The spectral radius of a linear loop, or 0 where it is proved to decay; None where it would take too long."""
    if n_lines(filt) > MAX_LINES:
        return None
    with np.errstate(all="ignore"):
        linear = filt.linearize()
        A, m = np.asarray(linear.A, np.float64), linear.delays
        if not np.isfinite(A).all():
            return np.inf
        if decay_certificate(A, m) is not None:
            return 0.0
        largest = largest_pole(A, m)
        return None if np.isnan(largest) else abs(largest)


def loops(A: Real, delays: NDArray[np.int64]) -> Iterator[tuple[Real, NDArray[np.int64], int]]:
    """The strongly connected parts of a network, whose poles together are all of its own.

    Each with its delays in parts of their greatest common divisor, and that: its poles are so many roots of those of
    the shorter network, of which a loop of one line or of equal ones has few however long it is.
    """
    if not len(A):
        return
    from scipy.sparse.csgraph import connected_components  # here, as it would double the start of a filter that runs

    _, label = connected_components(A != 0, directed=True, connection="strong")
    for k in range(label.max() + 1):
        part = np.flatnonzero(label == k)
        m = delays[part]
        common = int(np.gcd.reduce(m))
        yield A[np.ix_(part, part)], m // common, common


def is_affordable(A: Real, delays: NDArray[np.int64]) -> bool:
    """Whether the poles of each of its loops are found in reasonable time."""
    return all(
        len(m) <= MAX_MATRIX and pole_cost(float(m.sum()), 0) <= MAX_COST
        if len(m) == m.sum()
        else len(m) <= MAX_LINES and pole_cost(float(m.sum()), n_searched(loop, m)) <= MAX_COST
        for loop, m, _ in loops(A, delays)
    )


def largest_pole(A: Real, delays: NDArray[np.int64]) -> complex:
    """The pole of largest magnitude; NaN where it would take too long or is not found."""
    if not is_affordable(A, delays):
        return complex(np.nan, np.nan)
    largest = 0j
    for loop, m, common in loops(A, delays):
        try:
            pole = complex(delay_poles(loop, m)[0]) ** (1 / common) if loop.any() else 0j
        except RnndspError:  # an ill-conditioned loop
            return complex(np.nan, np.nan)
        largest = max(largest, pole, key=abs)
    return largest


def pole_cost(n_states: float, n_lines: int) -> float:
    """About how many nanoseconds the poles of a network of delay lines take."""
    return n_states**2 + 5 * n_states * n_lines**3


def n_lines(filt: Filter) -> int:
    """How large its state matrix is, in which a delay line counts once however long it is."""
    own = sum(len(field.rings) or field.size for field in filt.fields)
    return own + sum(map(n_lines, filt.children))


def t60_s(radius: float, sample_rate: float) -> float:
    """Time to decay by 60 dB at a factor ``radius`` a sample; infinite from 1 on.

    Parameters
    ----------
    radius : float
        At least 0.
    sample_rate : float
        Hz.
    """
    if np.ndim(radius):
        raise ParameterError("t60_s takes one radius: T60 of every pole is in modal_decomposition(filt).t60")
    if radius >= 1:
        return np.inf
    return float(-3 / (sample_rate * np.log10(radius))) if radius > 0 else 0.0


def zeros(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> NDArray[np.complex128]:
    r"""Finite invariant zeros: where a signal z^t goes in and, with the right initial state, nothing comes out.

    .. math:: \operatorname{rank} \begin{bmatrix} \operatorname{diag}(z^{m_i}) - A & -B \\ C & D \end{bmatrix}
              < \text{its rank at almost every other } z

    The transmission zeros are among them, and so are the modes that no input drives or no output hears.

    Parameters
    ----------
    filt : Filter
        Most filters with unlike numbers of inputs and outputs have none, as their channels have no zero in common.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray of complex numbers
        Largest magnitude first. Latency shows as a lack of zeros: it puts them at infinity.

    Raises
    ------
    ParameterError
        More than 500 states and unlike numbers of inputs and outputs, or a D that cannot be inverted and that stays so
        when the latency is taken off.

    Notes
    -----
    Up to 500 states the zeros at infinity are taken out by orthogonal reductions, so no huge spurious ones come in.
    The zeros of longer lines are the poles of the inverse filter with A - B D^-1 C, found as in :func:`poles`.

    A zero of multiplicity k is known to about 1e-16^(1/k) only.

    References
    ----------
    A. Emami-Naeini, P. Van Dooren (1982), "Computation of zeros of linear multivariable systems", Automatica 18.
    """
    linear = filt.linearize(state, u, controls=controls)
    found = _invariant_zeros(linear) if linear.n_states <= DENSE else _long_zeros(linear)
    return found[np.lexsort((np.angle(found), -np.abs(found)))]


def _invariant_zeros(linear: DelayStateSpace) -> NDArray[np.complex128]:
    dense = linear.expand()
    A, B, C, D = dense._matrices
    b, c = (float(np.clip(np.max(np.abs(x), initial=0) or 1.0, 1e-70, 1e70)) for x in (B, C))
    size = max(1.0, float(np.linalg.norm(A)))
    A, B, C, D = A, B * (size / b), C * (size / c), D * (size / b * (size / c))
    small = 10 * max(len(A), 1) * EPS * float(np.linalg.norm(np.block([[A, B], [C, D]])))
    A, B, C, D = _full_row_rank(A, B, C, D, small)
    A, B, C, D = _full_row_rank(A.T, C.T, B.T, D.T, small)
    n = len(A)
    if not n:
        return np.zeros(0, np.complex128)
    from scipy.linalg import eigvals

    with np.errstate(all="ignore"):
        found = eigvals(np.block([[A, B], [C, D]]), np.diag(np.repeat([1.0, 0.0], [n, len(D)])))
    # D is regular: all others are at infinity
    return np.asarray(found[np.argsort(np.abs(found))[:n]], np.complex128)


def _full_row_rank(A: Real, B: Real, C: Real, D: Real, small: float) -> tuple[Real, Real, Real, Real]:
    """A smaller system with the same finite zeros whose D has independent rows."""
    while True:
        U, s, _ = np.linalg.svd(D)
        rank = int(np.count_nonzero(s > small))
        C, D = U.T @ C, (U.T @ D)[:rank]
        C, rest = C[:rank], C[rank:]
        if not len(rest) or not len(A):
            return A, B, C, D
        _, s, vh = np.linalg.svd(rest)
        fixed = int(np.count_nonzero(s > small))
        if not fixed:
            return A, B, C, D
        # states that must be zero for no output; those that feed them become outputs in their place
        kept, gone = vh[fixed:].T, vh[:fixed].T
        C, D = np.vstack([C @ kept, gone.T @ A @ kept]), np.vstack([D, gone.T @ B])
        A, B = kept.T @ A @ kept, kept.T @ B


def _long_zeros(linear: DelayStateSpace) -> NDArray[np.complex128]:
    A, B, C, D = linear._matrices
    if linear.n_inputs != linear.n_outputs:
        raise ParameterError(
            f"zeros of {linear.n_states} states need as many outputs as inputs, not {D.shape}; at most {DENSE} states "
            "can do without"
        )
    if _regular(D):
        return delay_poles(A - B @ np.linalg.solve(D, C), linear.delays)
    A, B, C, D, delays, latency = _advanced(A, B, C, linear.delays) if not D.any() else (A, B, C, D, linear.delays, 0)
    if not _regular(D):
        raise ParameterError(
            f"zeros of {linear.n_states} states need a D that can be inverted, at least once the latency is taken off: "
            f"add some direct sound, or shorten the lines to {DENSE} states"
        )
    found = delay_poles(A - B @ np.linalg.solve(D, C), delays)
    return found[: found.size - latency * len(D)]


def _regular(D: Real) -> bool:
    return bool(np.linalg.matrix_rank(D) == len(D))


def _advanced(
    A: Real, B: Real, C: Real, delays: NDArray[np.int64]
) -> tuple[Real, Real, Real, Real, NDArray[np.int64], int]:
    """The network without direct sound, its output earlier by the shortest line that is heard, and by how much."""
    n = len(A)
    is_heard = C.any(axis=0)
    latency = int(np.min(delays[is_heard], initial=np.max(delays)))
    first, split = np.flatnonzero(is_heard & (delays == latency)), np.flatnonzero(is_heard & (delays > latency))
    # each longer line that is heard is cut in two: what comes out is what enters the last ``latency`` samples of it
    front = np.arange(n, n + split.size)
    wide = np.vstack([np.hstack([A, np.zeros((n, split.size))])] * 2)[np.concatenate([np.arange(n), n + split])]
    tall = np.vstack([B, B[split]])
    wide[split], tall[split] = 0, 0
    wide[split, front] = 1
    heard = np.hstack([C[:, first] @ A[first], C[:, split]])
    lengths = np.concatenate([delays, delays[split] - latency])
    lengths[split] = latency
    return wide, tall, heard, C[:, first] @ B[first], lengths, latency


@dataclass(frozen=True)
class HiddenModes:
    """Modes that the transfer function does not show.

    Attributes
    ----------
    pole : ndarray, shape (n,)
        Largest magnitude first.
    uncontrollable : ndarray of bool, shape (n,)
        No input drives it: it rings only from the initial state.
    unobservable : ndarray of bool, shape (n,)
        No output hears it.
    """

    pole: NDArray[np.complex128]
    uncontrollable: NDArray[np.bool_]
    unobservable: NDArray[np.bool_]

    @property
    def unstable(self) -> NDArray[np.bool_]:
        """Whether it does not decay: within 1e-10 of the unit circle or outside."""
        return np.abs(self.pole) > 1 - MARGIN

    def __len__(self) -> int:
        return len(self.pole)


def hidden_modes(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> HiddenModes:
    r"""Poles that no input drives or no output hears, by the test of Popov, Belevitch and Hautus.

    .. math:: \operatorname{rank} [\operatorname{diag}(p^{m_i}) - A, \; B] < n \quad\text{or}\quad
              \operatorname{rank} [\operatorname{diag}(p^{m_i}) - A; \; C] < n

    One that is unstable overflows one day although the frequency response looks harmless.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Notes
    -----
    Only rounding counts as zero: a singular value below 100 (n + max m) 2.2e-16 of the largest, at the point next to
    the pole where it is least, each input and output being scaled to 1. The modes of a steep filter of order 24 are
    driven by 1e-10 and more, and so are not hidden. A zero that misses a pole by more than that leaves a mode that is
    hardly driven, and not hidden either: :func:`rnndsp.balanced` leaves it out. The states of a cell whose gates are
    shut at the operating point are hidden there and nowhere else.

    References
    ----------
    M. L. J. Hautus (1969), "Controllability and observability conditions of linear autonomous systems".
    """
    linear = require_filter(filt).linearize(state, u, controls=controls)
    found = np.unique(poles(linear))
    counts = [unreached(linear, part) for part in _parts(found, linear.delays.size)]
    lost = np.stack([np.concatenate([count[k] for count in counts]) for k in (0, 1)])
    hidden = lost.any(axis=0)
    found, lost = found[hidden], lost[:, hidden]
    rows: list[tuple[complex, bool, bool]] = []
    while found.size:
        near = np.abs(found - found[0]) < SAME
        near[0] = True  # also where numbers have run over
        driven, heard = np.max(lost[:, near], axis=1)
        rows += [(complex(np.mean(found[near])), k < driven, k < heard) for k in range(max(driven, heard))]
        found, lost = found[~near], lost[:, ~near]
    rows.sort(key=lambda row: (-abs(row[0]), np.angle(row[0])))
    pole, driven, heard = (np.array([row[k] for row in rows]) for k in range(3))
    return HiddenModes(pole.astype(np.complex128), driven.astype(bool), heard.astype(bool))


def _parts(found: NDArray[np.complex128], n_lines: int) -> Iterator[NDArray[np.complex128]]:
    """The poles in pieces for which a matrix each takes little memory."""
    yield from np.array_split(found, 1 + found.size * n_lines**2 // 2**20)


def pole_sensitivity(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Real:
    r"""How much each pole moves at most for a small change E of the matrix A: by so many times its 2-norm.

    .. math:: \kappa(p) = \frac{\|y\| \, \|x\|}{|y^H \operatorname{diag}(m_i p^{m_i - 1}) \, x|}, \qquad
              y^H (\operatorname{diag}(p^{m_i}) - A) = 0, \quad (\operatorname{diag}(p^{m_i}) - A) x = 0

    In ordinary state space this is the condition number 1 / |y^H x| of the eigenvalue: 1 for a normal matrix, infinite
    where a multiple pole has too few eigenvectors.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray, shape (n_states,)
        In the order of :func:`poles`.

    References
    ----------
    J. H. Wilkinson (1965), "The Algebraic Eigenvalue Problem".
    """
    linear = filt.linearize(state, u, controls=controls)
    found, place = np.unique(poles(linear), return_inverse=True)
    return np.concatenate([_condition(linear, part) for part in _parts(found, linear.delays.size)])[place]


def _condition(linear: DelayStateSpace, found: NDArray[np.complex128]) -> Real:
    if not found.size:
        return np.zeros(0)
    m = linear.delays.astype(np.float64)
    loops, size = loop_matrices(linear, found)
    left, s, right = np.linalg.svd(loops)
    left /= size[:, :, None]
    with np.errstate(over="ignore"):
        slope = m * np.abs(found)[:, None] ** (m - 1) * np.exp(1j * np.angle(found)[:, None] * (m - 1))
    n_null = np.count_nonzero(s <= NULL * np.maximum(s[:, :1], 1), axis=1)
    y, x = left[:, :, -1], right[:, -1].conj()
    moved: Real = np.abs(np.sum(y.conj() * slope * x, axis=1)) / np.linalg.norm(y, axis=1)
    for k in np.flatnonzero(n_null > 1):
        # of a pole with several eigenvectors all of them, in which it moves most
        y, x = left[k][:, -n_null[k] :], right[k][-n_null[k] :].conj().T
        y = y / np.linalg.norm(y, axis=0)
        moved[k] = np.linalg.svd(y.conj().T @ (slope[k][:, None] * x), compute_uv=False)[-1]
    with np.errstate(divide="ignore"):
        return np.divide(1.0, moved)


@dataclass(frozen=True)
class CoefficientSensitivity:
    """How the roots of a polynomial move with its coefficients.

    Attributes
    ----------
    pole : ndarray, shape (n,)
        Largest magnitude first.
    derivative : ndarray, shape (n, n + 1)
        Of each root by each coefficient, complex.
    """

    pole: NDArray[np.complex128]
    derivative: NDArray[np.complex128]


def coefficient_sensitivity(denominator: ArrayLike) -> CoefficientSensitivity:
    r"""Derivatives of the poles of a direct form by its coefficients.

    .. math:: a(z) = \sum_{k=0}^{N} a_k z^{N-k}, \qquad
              \frac{\partial p_i}{\partial a_k} = - \frac{p_i^{N-k}}{a_0 \prod_{j \ne i} (p_i - p_j)}

    Poles that crowd together, as those of a low cutoff do near z = 1, move a lot: reason enough for sections.

    Parameters
    ----------
    denominator : array, shape (N + 1,)
        a, highest power of z first, as in scipy; a_0 not 0.

    Returns
    -------
    CoefficientSensitivity
        ``derivative[i, k]`` belongs to pole i and a_k. Infinite at a multiple pole.

    Raises
    ------
    ParameterError
        Not one row of finite real numbers, or one that begins with 0.
    """
    given = np.asarray(denominator)
    a = given.astype(np.float64) if given.dtype.kind in "fiub" else np.empty(0)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all() or a[0] == 0:
        raise ParameterError(
            f"{denominator=} must be one row of finite numbers of which the first is not 0; of a filter, to_ba() has it"
        )
    pole = np.roots(a).astype(np.complex128)
    pole = pole[np.lexsort((np.angle(pole), -np.abs(pole)))]
    apart = pole[:, None] - pole + np.eye(pole.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        derivative = -(pole[:, None] ** np.arange(pole.size, -1, -1)) / (a[0] * np.prod(apart, axis=1))[:, None]
    return CoefficientSensitivity(pole, np.where(np.isfinite(derivative), derivative, np.inf))


def is_minimum_phase(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> bool:
    """Whether filter and inverse are both causal and stable: D regular, all poles and zeros inside the unit circle.

    Latency counts against it, as no causal filter takes it back. A zero within 1e-10 of the circle counts as on it, and
    is not enough. Where the poles or zeros are too near to the circle for their accuracy the answer is a guess.

    Parameters
    ----------
    filt : Filter
        With as many outputs as inputs.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        Unlike numbers of inputs and outputs.
    """
    linear = filt.linearize(state, u, controls=controls)
    A, B, C, D = linear._matrices
    if linear.n_inputs != linear.n_outputs:
        raise ParameterError(f"minimum phase needs as many outputs as inputs, not {D.shape}")
    if not _regular(D):
        return False
    inverse = A - B @ np.linalg.solve(D, C)
    return all(bool(np.all(np.abs(delay_poles(loop, linear.delays)) < 1 - MARGIN)) for loop in (A, inverse))


def in_words(time_s: float) -> str:
    """A time with three digits and the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time_s >= 0.1 * size:
            return f"{time_s / size:.3g} {unit}"
    return f"{time_s * 1e9:.3g} ns"

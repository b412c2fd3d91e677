"""Filters whose coefficients move: what can be said of products of matrices, of which poles say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._resolvent import EPS, afford
from rnndsp.stability.transients import dense_matrix, distance_to_circle, lyapunov_factor, scaled, scaled_norm
from rnndsp.stability.verdicts import Verdict
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "CommonNorm",
    "JointSpectralRadius",
    "SlowVariation",
    "WindowProducts",
    "common_norm",
    "frozen_settings",
    "joint_spectral_radius",
    "slow_variation",
    "window_products",
]

Real = NDArray[np.float64]
Matrices = Sequence[ArrayLike | Filter] | NDArray[np.floating]
Word = tuple[int, ...]

# Words looked at for a growing one, and the most that are kept or listed at a time.
SHORT_WORDS, MAX_WORDS = 300, 100_000
# Exponents of the smooth maxima that the search for a norm goes through, and its iterations at each.
SHARPNESS, ITERATIONS = (12.0, 300.0), 60
MAX_SETTINGS = 10_000
# Squares of matrices of these overflow no more than their products do.
LARGEST = 1e100


@dataclass(frozen=True)
class CommonNorm:
    r"""A quadratic norm in which all matrices of a family are small.

    Attributes
    ----------
    verdict : Verdict
        Whether x[t+1] = A_k[t] x[t] goes to zero for every sequence of the matrices: proved where gamma < 1; refuted
        where a word grows; else unknown.
    gamma : float
        \|T A_k T^-1\|_2 is at most this for every k, room for rounding included: \|T x\| falls at least so fast.
    T : ndarray, shape (n, n)
        The certificate, upper triangular: a norm \|T x\|, x'Px with P = T'T.
    method : str
        Where T comes from: "2-norm", "diagonal", "Lyapunov" or "refined".
    witness : tuple of int
        Where refuted, a word whose product has a pole outside of the unit circle: the place of each matrix in the
        family, the one that is applied first coming first.
    """

    verdict: Verdict
    gamma: float
    T: Real
    method: str
    witness: Word = ()

    @property
    def P(self) -> Real:
        """T'T: A_k' P A_k <= gamma^2 P."""
        P: Real = self.T.T @ self.T
        return P

    def bound(self, n_steps: int) -> Real:
        r"""What \|x[t]\| / \|x[0]\| is at most for t = 0 ... ``n_steps``: cond(T) gamma^t."""
        *_, spread = scaled(np.zeros((1, *self.T.shape)), self.T)
        with np.errstate(over="ignore"):
            return np.asarray(spread * self.gamma ** np.arange(whole_number("n_steps", n_steps, least=0) + 1))


@dataclass(frozen=True)
class WindowProducts:
    r"""2-norms of the products of so many matrices in a row.

    Attributes
    ----------
    verdict : Verdict
        Proved where the largest norm is below one: then every window of the sequence shrinks all states, or, for any
        order, every sequence decays. Refuted, for any order only, where a word grows. Else unknown.
    norm : ndarray, shape (n,)
        The largest norm possible of each product, room for rounding included: by its first matrix along the sequence,
        or word by word, the first place varying slowest.
    gamma : float
        The largest of them to the power 1 / window: a factor a sample.
    worst : tuple of int
        The places of the matrices of the largest product, first applied first.
    witness : tuple of int
        Where refuted, a word whose product has a pole outside of the unit circle.
    """

    verdict: Verdict
    norm: Real
    gamma: float
    worst: Word
    witness: Word = ()


@dataclass(frozen=True)
class SlowVariation:
    r"""Lyapunov functions that change more slowly than they fall.

    Attributes
    ----------
    verdict : Verdict
        Proved where V_k = x' P_k x falls at every sample of the sequence, else unknown.
    variation : ndarray, shape (n,)
        The published criterion, \|A_k\|^2 \|P_k+1 - P_k\|, which is to be below 1; 0 for the last one, which stays.
    margin : ndarray, shape (n,)
        The least eigenvalue of P_k - A_k' P_k+1 A_k, which is to be above 0 and is at least 1 - variation; room for
        rounding taken off.
    P : ndarray, shape (n, n_states, n_states)
        Solutions of A_k' P_k A_k - P_k = -I; NaN where there is none.
    bound : ndarray, shape (n + 1,)
        What \|x[k]\| / \|x[0]\| is at most along the sequence; infinity from where it is not proved.
    """

    verdict: Verdict
    variation: Real
    margin: Real
    P: Real
    bound: Real


@dataclass(frozen=True)
class JointSpectralRadius:
    r"""Bounds of the fastest growth that the worst sequence of matrices attains, a factor a step.

    Attributes
    ----------
    verdict : Verdict
        Whether every sequence goes to zero: proved where upper < 1, refuted where the product of a word has a pole
        outside of the unit circle by more than rounding, else unknown.
    lower, upper : float
        The radius lies between them. The upper bound has room for rounding; the lower one is as computed.
    word : tuple of int
        The witness of the lower bound, first applied first: repeat it, and states grow by ``lower`` a step.
    depth : int
        The length of the longest words looked at.
    T : ndarray, shape (n, n)
        The norm \|T x\|_2 in which the products were measured.
    """

    verdict: Verdict
    lower: float
    upper: float
    word: Word
    depth: int
    T: Real


# ---- one gate


def _family(matrices: Matrices) -> Real:
    """The matrices as an array of shape (how many, n, n)."""
    if isinstance(matrices, Filter):
        raise ParameterError("matrices is one filter: give a list, e.g. that of frozen_settings(filt, {...})")
    try:
        items = list(matrices)
    except TypeError:
        raise ParameterError(f"matrices={matrices!r} must be a list of square matrices or of filters") from None
    if not items:
        raise ParameterError("matrices is empty: give at least one")
    arrays = [_matrix(item, place) for place, item in enumerate(items)]
    if len({array.shape for array in arrays}) > 1:
        raise ParameterError(f"the matrices differ in shape, {sorted({array.shape for array in arrays})}")
    return np.stack(arrays)


def _matrix(item: ArrayLike | Filter, place: int) -> Real:
    if isinstance(item, Filter):
        if not item.is_linear:
            raise ParameterError(
                f"matrices[{place}] is a nonlinear {type(item).__name__}: give filt.linearize(state, u) at each "
                "operating point, and remember that it speaks of small deviations only"
            )
        item = dense_matrix(item.linearize(), "a product")
    if np.iscomplexobj(item):
        raise ParameterError(f"matrices[{place}] is complex; give real ones")
    try:
        array = np.asarray(item, np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"matrices[{place}] is neither a filter nor a matrix of numbers") from None
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ParameterError(f"matrices[{place}] has shape {array.shape}; all must be square, (n, n), and not empty")
    if not np.max(np.abs(array)) < LARGEST:
        raise ParameterError(f"matrices[{place}] holds NaN, infinity or a number beyond {LARGEST:g}")
    return array


def frozen_settings(filt: Filter, settings: Mapping[str, ArrayLike]) -> tuple[DelayStateSpace, ...]:
    """A linear filter with its controls held still, at every combination of their values.

    Parameters
    ----------
    filt : Filter
        Linear in signal and state while its controls rest, as :class:`rnndsp.filters.StateVariable` is.
    settings : mapping of str to array
        The values of each control; those left out rest at their defaults.

    Returns
    -------
    tuple of StateSpace or DelayStateSpace
        The last control varies fastest. What :func:`common_norm` and the others say of them holds for every sequence of
        *these* settings, at audio rate too, and of mixtures of their state matrices. Settings in between are others:
        add them.

    Raises
    ------
    ParameterError
        A nonlinear filter, a control that it does not have, a value out of its range, more than 10 000 combinations.

    Examples
    --------
    >>> from rnndsp.filters import StateVariable
    >>> from rnndsp.stability import common_norm, frozen_settings
    >>> sweep = StateVariable("lowpass", sample_rate=48000)
    >>> frozen = frozen_settings(sweep, {"cutoff_hz": [500.0, 2000.0, 8000.0], "q": [0.7, 4.0]})
    >>> str(common_norm(frozen).verdict)
    'proved'
    """
    if not filt.is_linear:
        raise ParameterError(
            f"{type(filt).__name__} is not linear: give [filt.linearize(state, u, controls=...) for ...] at the "
            "operating points that matter"
        )
    values = {name: np.ravel(np.asarray(value)) for name, value in settings.items()}
    n = np.prod([float(value.size) for value in values.values()])
    if n > MAX_SETTINGS:
        raise ParameterError(f"{n:.0f} combinations of settings; give fewer values, {MAX_SETTINGS} in all")
    return tuple(
        filt.linearize(controls=dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())
    )


# ---- words that grow


def _grows(family: Real, word: Sequence[int]) -> bool:
    """Whether the product has an eigenvalue outside of the circle, which rounding cannot have carried there."""
    n = family.shape[1]
    grown, size = np.eye(n), 1.0
    with np.errstate(all="ignore"):
        for k in word:
            grown = family[k] @ grown
            size *= float(np.linalg.norm(family[k]))
        if not (np.isfinite(grown).all() and np.isfinite(size)):
            return False
        radius = float(np.max(np.abs(np.linalg.eigvals(grown))))
        if radius <= 1:
            return False
        # no matrix that near has another number of eigenvalues outside of a circle between 1 and the radius
        between = (1 + radius) / 2
        return bool(distance_to_circle(grown / between) > 16 * n * len(word) * EPS * size / between)


def _growing_word(family: Real) -> Word:
    """A short word that grows, or none."""
    n_words = 0
    for length in range(1, 9):
        n_words += len(family) ** length
        if n_words > max(SHORT_WORDS, len(family)):
            break
        words = np.indices((len(family),) * length).reshape(length, -1).T
        with np.errstate(all="ignore"):
            grown = family[words[:, 0]]
            for k in range(1, length):
                grown = family[words[:, k]] @ grown
            finite = np.isfinite(grown).all(axis=(1, 2))
            radius = np.zeros(len(words))
            radius[finite] = np.max(np.abs(np.linalg.eigvals(grown[finite])), axis=1, initial=0)
        worst = words[np.argmax(radius)]
        if np.max(radius) > 1 and _grows(family, worst):
            return tuple(int(k) for k in worst)
    return ()


# ---- one norm for all


def common_norm(matrices: Matrices, *, target: float = 0.0) -> CommonNorm:
    r"""The quadratic norm in which the largest of some matrices is smallest.

    .. math:: \gamma = \min_T \max_k \|T A_k T^{-1}\|_2, \qquad
        A_k^\top P A_k \preceq \gamma^2 P \ \text{ with }\ P = T^\top T

    Below one, x[t+1] = A_k[t] x[t] goes to zero whichever of the matrices, or of their mixtures, acts at each sample:
    a filter may be modulated among them at audio rate.

    Parameters
    ----------
    matrices : sequence of arrays of shape (n, n), or of linear filters
        Filters of one number of states, such as :func:`frozen_settings` gives.
    target : float
        The search ends as soon as gamma is below; 1 for the verdict only.

    Returns
    -------
    CommonNorm
        ``gamma`` with the matrix T that shows it. A family without such a norm may be stable all the same: then
        :func:`joint_spectral_radius` and :func:`window_products` may show it.

    Raises
    ------
    ParameterError
        Matrices that are not square and of one size.

    Notes
    -----
    First short words are looked at, as one with a pole outside settles the matter. Then these norms are tried: the
    2-norm; the best diagonal T (a convex problem in the logarithms of its entries); those of the Lyapunov matrices of
    each matrix and of their mean. The best is refined over all triangular T, by L-BFGS on p-norms of all singular
    values with p up to 300. What is returned is checked anew: gamma contains the rounding errors.

    References
    ----------
    J. Laroche (2007), "On the stability of time-varying recursive filters". S. Boyd et al. (1994), "Linear matrix
    inequalities in system and control theory".

    Examples
    --------
    >>> common_norm([[[0.5, 1.0], [0.0, 0.5]], [[0.6, 0.0], [0.1, 0.3]]], target=1).verdict
    <Verdict.PROVED: 'proved'>
    """
    family, target = _family(matrices), number("target", target)
    word = _growing_word(family)
    if word:
        gamma, _ = scaled_norm(family, np.eye(len(family[0])))
        return CommonNorm(Verdict.REFUTED, gamma, np.eye(len(family[0])), "2-norm", word)
    gamma, T, method = _best_norm(family, target)
    return CommonNorm(Verdict.PROVED if gamma < 1 else Verdict.UNKNOWN, gamma, T, method)


def _best_norm(family: Real, target: float = 0.0) -> tuple[float, Real, str]:
    n = len(family[0])
    afford(400.0 * family.size * n, f"{len(family)} matrices of size {n}; give fewer")
    gamma, T, method = scaled_norm(family, np.eye(n))[0], np.eye(n), "2-norm"
    radius = float(np.max(np.abs(np.linalg.eigvals(family))))

    def enough() -> bool:  # no norm is below a spectral radius
        return gamma < target or gamma <= radius * (1 + 1e-9)

    def attempt(candidate: Real | None, name: str) -> None:
        nonlocal gamma, T, method
        if candidate is not None and not enough():
            found, _ = scaled_norm(family, candidate)
            if found < gamma:
                gamma, T, method = found, candidate, name

    if enough() or n == 1:
        return gamma, T, method
    for factor in _lyapunov_factors(family, radius):
        attempt(factor, "Lyapunov")
    for diagonal, name in ((True, "diagonal"), (False, "refined")):
        if not enough():
            for candidate in _refined(family, np.eye(n) if diagonal else T, diagonal=diagonal):
                attempt(candidate, name)
                if enough():
                    break
    return gamma, T, method


def _lyapunov_factors(family: Real, radius: float) -> list[Real]:
    """Factors of the Lyapunov matrices of the family, scaled to just decay, and of their mean."""
    scale = max(1.02 * radius, 1e-3 * float(np.max(np.abs(family))))
    found = [factor for A in family[:50] if (factor := lyapunov_factor(A / scale)) is not None]
    if len(found) > 1:
        mean = sum(T.T @ T / np.trace(T.T @ T) for T in found)
        with suppress(np.linalg.LinAlgError):
            found.append(np.linalg.cholesky(mean).T)
    return found


def _refined(family: Real, T: Real, *, diagonal: bool) -> Iterator[Real]:
    """Better and better T, from the given one, diagonal or upper triangular."""
    from scipy.optimize import minimize

    n = len(T)
    upper = np.triu_indices(n)

    def unpacked(x: Real) -> Real:
        if diagonal:
            return np.diag(np.exp(np.clip(x, -300, 300)))
        T = np.zeros((n, n))
        T[upper] = x
        return T

    def objective(x: Real, p: float) -> tuple[float, Real]:
        """log of (sum of all singular values^p)^(1/p), and its gradient from those of their logarithms, uu' - vv'."""
        T = unpacked(x)
        try:
            inverse = np.linalg.inv(T)
            left, size, right = np.linalg.svd(T @ family @ inverse)
        except np.linalg.LinAlgError:
            return 1e3, np.zeros(x.size)
        top = float(np.max(size))
        if not 0 < top < np.inf:
            return 1e3, np.zeros(x.size)
        weight = (size / top) ** p
        total = float(np.sum(weight))
        weight /= total
        turn = np.einsum("kis,ks,kjs->ij", left, weight, left) - np.einsum("ksi,ks,ksj->ij", right, weight, right)
        gradient = np.diag(turn) if diagonal else (turn @ inverse.T)[upper]
        return np.log(top) + np.log(total) / p, gradient

    x = np.log(np.diag(T)) if diagonal else (T / np.max(np.abs(T)))[upper]
    for p in SHARPNESS:
        with np.errstate(all="ignore"):
            x = minimize(objective, x, (p,), method="L-BFGS-B", jac=True, options={"maxiter": ITERATIONS}).x
        yield unpacked(x)


# ---- products along a sequence, or in any order


def window_products(matrices: Matrices, window: int, *, any_order: bool = False) -> WindowProducts:
    r"""2-norms of the products of ``window`` matrices in a row.

    .. math:: \|A_{k+m-1} \cdots A_{k+1} A_k\|_2

    Where all are below one, states shrink from window to window, though single matrices may let them grow.

    Parameters
    ----------
    matrices : sequence of arrays of shape (n, n), or of linear filters
        A sequence in time; with ``any_order`` a set.
    window : int
        m, how many are multiplied.
    any_order : bool
        Look at all words of so many matrices instead of the windows of the sequence.

    Returns
    -------
    WindowProducts

    Raises
    ------
    ParameterError
        A window longer than the sequence; more than 100 000 words.

    Notes
    -----
    Along a sequence the verdict speaks of that sequence only, and of its repetition only where windows across the seam
    are in it too: append its first ``window - 1`` matrices.

    References
    ----------
    K. J. Werner, R. McClellan (2022), "Time-varying filter stability and state matrix products".
    """
    family, window = _family(matrices), whole_number("window", window)
    n_words = float(len(family)) ** window if any_order else len(family) - window + 1
    if not 1 <= n_words <= MAX_WORDS:
        raise ParameterError(
            f"{window=} of {len(family)} matrices are {n_words:.3g} words; at most {MAX_WORDS} can be listed: take "
            "joint_spectral_radius, which skips most"
            if any_order
            else f"{window=} is longer than the sequence of {len(family)} matrices, or more than {MAX_WORDS} fit in it"
        )
    n = family.shape[1]
    afford(n_words * window * n**3 + 20 * n_words * n**3, "take a shorter window or fewer matrices")
    if any_order:
        words = np.indices((len(family),) * window).reshape(window, -1).T
    else:
        words = np.arange(window) + np.arange(int(n_words))[:, None]
    size = np.linalg.norm(family, axis=(1, 2))
    norm = np.empty(len(words))
    with np.errstate(all="ignore"):
        step = max(1, int(4e6 // n**2))
        for first in range(0, len(words), step):
            part = words[first : first + step]
            grown, rounding = family[part[:, 0]], size[part[:, 0]]
            for k in range(1, window):
                grown, rounding = family[part[:, k]] @ grown, rounding * size[part[:, k]]
            finite = np.isfinite(grown).all(axis=(1, 2))
            norm[first : first + step] = np.inf
            norm[first : first + step][finite] = np.linalg.norm(grown[finite], 2, axis=(1, 2))
            norm[first : first + step] += 8 * n * window * EPS * rounding
    worst = int(np.argmax(norm))
    word = _growing_word(family) if any_order and norm[worst] >= 1 else ()
    verdict = Verdict.REFUTED if word else Verdict.PROVED if norm[worst] < 1 else Verdict.UNKNOWN
    return WindowProducts(verdict, norm, float(norm[worst] ** (1 / window)), tuple(map(int, words[worst])), word)


def slow_variation(matrices: Matrices) -> SlowVariation:
    r"""Whether a sequence of decaying filters changes slowly enough to decay as a whole.

    With :math:`A_k^\top P_k A_k - P_k = -I`, the function :math:`V_k = x^\top P_k x` falls at every sample if

    .. math:: \|A_k\|^2\,\|P_{k+1} - P_k\| < 1 \quad \text{for all } k

    Parameters
    ----------
    matrices : sequence of arrays of shape (n, n), or of linear filters
        In the order in which they act, one a sample.

    Returns
    -------
    SlowVariation
        A statement about this sequence, about its last matrix acting for ever, and about every sequence that goes on
        with steps that are in it. Unknown does not mean unstable.

    Raises
    ------
    ParameterError
        Matrices that are not square and of one size.

    Notes
    -----
    The verdict rests on the least eigenvalue of :math:`P_k - A_k^\top P_{k+1} A_k` rather than on the criterion above,
    which follows from it and is weaker. The P_k are taken as computed, and room for rounding is left.

    References
    ----------
    C. A. Desoer (1970), "Slowly varying discrete system x[i+1] = A[i] x[i]".
    """
    family = _family(matrices)
    n = family.shape[1]
    afford(60.0 * family.size * n, "give fewer matrices")
    factors = [lyapunov_factor(A) for A in family]
    P = np.stack([np.full((n, n), np.nan) if T is None else T.T @ T for T in factors])
    known = np.isfinite(P).all(axis=(1, 2))
    # the last one stays
    following, known_next = np.append(np.arange(1, len(family)), len(family) - 1), np.append(known[1:], known[-1])
    solid = np.where(known[:, None, None], P, 0)
    least, most = (np.linalg.eigvalsh(solid)[:, end] for end in (0, -1))
    room = 8 * n * EPS * most
    most, least = most + room, least - room
    sure = known & known_next & (least > 0) & (least[following] > 0)
    with np.errstate(all="ignore"):
        size = np.linalg.norm(family, 2, axis=(1, 2))
        variation = size**2 * np.linalg.norm(solid[following] - solid, 2, axis=(1, 2))
        variation[~(known & known_next)] = np.inf
        fall = solid - np.swapaxes(family, 1, 2) @ solid[following] @ family
        rounding = 8 * n * EPS * (most + n * most[following] * size**2)
        margin = np.linalg.eigvalsh((fall + np.swapaxes(fall, 1, 2)) / 2)[:, 0] - rounding
        margin[~sure] = -np.inf
        # of V, a sample; from where it does not fall nothing is known
        factor = np.where(margin > 0, 1 - margin / most, np.inf)
        at_most = np.cumprod(np.concatenate([[1.0], factor])) * most[0] / least[np.append(0, following)]
        bound = np.sqrt(at_most) * (1 + 1e-9)
    bound[np.isnan(bound)] = np.inf
    verdict = Verdict.PROVED if np.all(margin > 0) else Verdict.UNKNOWN
    return SlowVariation(verdict, variation, margin, P, bound)


def joint_spectral_radius(matrices: Matrices, *, depth: int = 12, tolerance: float = 1e-4) -> JointSpectralRadius:
    r"""Bounds of the joint spectral radius, the growth a step under the worst switching.

    .. math:: \max_{|w| \le m} \rho(A_w)^{1/|w|} \;\le\; \lim_{m \to \infty} \max_{|w| = m} \|A_w\|^{1/m} \;\le\;
        \max_{|w| = m} \|A_w\|^{1/m}

    Parameters
    ----------
    matrices : sequence of arrays of shape (n, n), or of linear filters
    depth : int
        The length of the longest words.
    tolerance : float
        How near the bounds shall come, relative to the largest norm: words that cannot widen them by more are left out.

    Returns
    -------
    JointSpectralRadius

    Raises
    ------
    ParameterError
        Matrices that are not square and of one size, a tolerance that is not positive.

    Notes
    -----
    Branch and bound over words, in the norm of :func:`common_norm`. A word is followed no further once the smallest of
    \|A_prefix\|^{1/length} over its prefixes is within the tolerance of the lower bound. At most 100 000 words are
    kept; where there would be more, the bounds are those of the length before. No method decides in general whether
    the radius is below one, so bounds that include one are an answer.

    References
    ----------
    G. Gripenberg (1996), "Computing the joint spectral radius". R. Jungers (2009), "The joint spectral radius".

    Examples
    --------
    >>> found = joint_spectral_radius([[[1, 1], [0, 1]], [[1, 0], [1, 1]]])
    >>> round(found.lower, 6), found.word
    (1.618034, (0, 1))
    """
    family, depth, tolerance = _family(matrices), whole_number("depth", depth), number("tolerance", tolerance)
    if tolerance <= 0:
        raise ParameterError(f"{tolerance=} must be above 0")
    n, count = family.shape[1], len(family)
    # by a power of two, so that powers overflow as late as may be
    scale = float(2.0 ** np.floor(np.log2(max(np.max(np.abs(family)), 1e-300))))
    _, T, _ = _best_norm(family / scale)
    scaled_family, error, _ = scaled(family / scale, T)
    size = np.linalg.norm(scaled_family, 2, axis=(1, 2)) * (1 + 8 * n * EPS)
    room = tolerance * float(np.max(size + error))
    words, grown = np.zeros((1, 0), np.int64), np.eye(n)[None]
    off, least = np.zeros(1), np.full(1, np.inf)
    lower, closed, upper, reached = 0.0, 0.0, np.inf, 0
    word: Word = (0,)
    limit = min(MAX_WORDS, int(2e7 // n**2), int(2e9 // n**3))
    while reached < depth and len(words) and len(words) * count <= max(limit, count):
        reached += 1
        place = np.tile(np.arange(count), len(words))
        parent = np.repeat(np.arange(len(words)), count)
        before = np.linalg.norm(grown, axis=(1, 2))[parent]
        # what rounding and the inexact change of coordinates may have done to the product
        off = off[parent] * (size + error)[place] + before * (error + 4 * n * EPS * n * size)[place]
        grown = scaled_family[place] @ grown[parent]
        words = np.column_stack([words[parent], place])
        radius = np.max(np.abs(np.linalg.eigvals(grown)), axis=1) ** (1 / reached)
        norm = (np.linalg.norm(grown, 2, axis=(1, 2)) * (1 + 8 * n * EPS) + off) ** (1 / reached)
        least = np.minimum(least[parent], norm)
        best = int(np.argmax(radius))
        if radius[best] > lower * (1 + 1e-12) or reached == 1:
            lower, word = float(radius[best]), tuple(map(int, words[best]))
        open_ = least > lower + room
        closed = max(closed, float(np.max(least[~open_], initial=0)))
        upper = max(closed, float(np.max(least)))
        words, grown, off, least = words[open_], grown[open_], off[open_], least[open_]
    lower, upper = lower * scale, upper * scale
    refuted = lower > 1 and _grows(family, word)
    verdict = Verdict.PROVED if upper < 1 else Verdict.REFUTED if refuted else Verdict.UNKNOWN
    return JointSpectralRadius(verdict, lower, upper, word, reached, T)

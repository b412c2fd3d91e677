"""Poles of a delay state space: deflation of the origin, Ehrlich-Aberth on the loop matrix, no big expansion."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, reals
from rnndsp._jit import kernel
from rnndsp.errors import ParameterError, RnndspError

__all__ = ["delay_poles", "n_searched", "pair"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Integer = NDArray[np.int64]

DENSE = 500  # states up to which a regular block is expanded
SWEEPS = 40  # bound of the sweeps over all poles; a few late ones get more in proportion, as multiple poles need
LANES = 64  # poles moved together; the others see them moved
ANGLES = 48  # samples of log|q| on half a circle
# How far a filter at the end of a line may be from one, and what counts as a direct path through it.
SAME, DIRECT = 1e-13, 1e-6
GOLDEN = (math.sqrt(5) - 1) / 2
EPS = float(np.finfo(float).eps)


def delay_poles(A: ArrayLike, delays: ArrayLike) -> Complex:
    r"""All poles of the delay state space ``d_i[t] = v_i[t - m_i]``, ``v[t] = A d[t] + B u[t]``.

    They are the :math:`\sum_i m_i` roots, each as often as its multiplicity, of

    .. math:: p(z) = \det P(z), \quad P(z) = \operatorname{diag}(z^{m_i}) - A.

    Parameters
    ----------
    A : (N, N) array_like of float
        Feedback matrix.
    delays : (N,) array_like of int
        Lengths :math:`m_i \ge 1` of the delay lines in samples.

    Returns
    -------
    (sum(delays),) ndarray of complex128
        Poles by descending magnitude, then ascending angle. Conjugate pairs are exact conjugates of each other, and
        poles at the origin are exact zeros.

    Raises
    ------
    ParameterError
        If an argument has a wrong shape or value.
    RnndspError
        If poles have not converged, or if they miss the known sum of all poles: nothing is silently wrong.

    Notes
    -----
    `A` is split into the strongly connected components of its graph, and ``gcd(m)`` is taken out by substitution. One
    line alone has the poles :math:`z^m = a`. Lines of one sample that only make filters of the long ones are taken out
    (Schur complement), which leaves :math:`\det(\operatorname{diag}(z^{m_i} d_i(z)) - A' \operatorname{diag}(n_i(z)))`
    with the numerators and denominators of these filters in place of p. A small regular block becomes an ordinary
    eigenvalue problem. Otherwise,
    row operations first divide the exact power of z out of P, leaving :math:`q(z) = \det S(z)`, :math:`q(0) \ne 0`.
    Jensen's formula, by which the mean of :math:`\log|q|` over a circle has the number of the roots inside as its
    slope in :math:`\log r`, places the start values. Last comes the Ehrlich-Aberth iteration [1]_ with the Newton
    correction :math:`q'/q = \operatorname{tr} S^{-1} S'`, on one pole of each pair, until only those that meet on the
    real axis are left, and these are moved freely. The cost is O(n^2) a sweep for n poles, and O(n) in memory.

    A pole is done when one step changes nothing, or when S is singular to working precision. A matrix that is singular
    to rounding counts as singular: otherwise the rounding would move m poles from 0 to a radius near 1e-16^(1/m).

    References
    ----------
    .. [1] S. J. Schlecht and E. A. P. Habets, "Modal decomposition of feedback delay networks", IEEE Transactions on
       Signal Processing 67(20), pp. 5340-5351, 2019.
    """
    matrix, given = reals("A", A), real_array("delays", delays)
    m = given.astype(np.int64)
    if matrix.ndim != 2 or matrix.shape != (m.size, m.size) or m.ndim != 1:
        raise ParameterError(f"A must be (N, N) and delays (N,); got {matrix.shape} and {given.shape}")
    if not np.isfinite(matrix).all():
        raise ParameterError("A must be finite")
    if (m < 1).any() or (m != given).any():
        raise ParameterError("delays must be integers of at least 1 sample")
    if not m.size:
        return np.empty(0, dtype=np.complex128)
    from scipy.sparse.csgraph import connected_components  # here, as it would double the start of a filter that runs

    _, label = connected_components(matrix != 0, directed=True, connection="strong")
    parts = [np.flatnonzero(label == k) for k in range(label.max() + 1)]
    poles: Complex = np.concatenate([_block(matrix[np.ix_(part, part)], m[part]) for part in parts])
    poles += 0.0  # no negative zeros, which have another angle
    return poles[np.lexsort((np.angle(poles), -np.abs(poles)))]


def _block(A: Real, m: Integer) -> Complex:
    """Poles of one strongly connected block."""
    if (m == 1).all():  # an ordinary state matrix, whose poles at 0 rounding moves by no more than any other
        return np.linalg.eigvals(A).astype(np.complex128)
    g = int(np.gcd.reduce(m))
    m = m // g
    n = int(m.sum())
    if m.size == 1:
        return _roots(A[0].astype(np.complex128), g)
    trace = float(np.diag(A)[m == 1].sum())
    if n > DENSE and (found := folded(A, m)) is not None:
        w = _iterate(found, _terms(found.A, found.m), 0, 0.0, trace)
        return np.concatenate([w, np.zeros(n - w.size)])
    terms, zeros, gain = _deflate(A, m)
    if zeros == 0 and n <= DENSE:
        w = np.linalg.eigvals(_expand(A, m)).astype(np.complex128)
    else:
        w = np.concatenate([_iterate(_plain(A, m), terms, zeros, gain, trace), np.zeros(zeros)])
    return _roots(w, g)


class Folded(NamedTuple):
    """Lines with filters at their ends: ``det(diag(z^m_i d_i(z)) - A diag(n_i(z)))``, n_i / d_i being the filters.

    ``poles`` and ``zeros`` (N, most) hold the roots of d_i and n_i, whose leading coefficients are 1: in each row as
    many as ``counts`` (2, N) says.
    """

    A: Real
    m: Integer
    counts: Integer
    poles: Complex
    zeros: Complex


def _plain(A: Real, m: Integer) -> Folded:
    none = np.zeros((m.size, 0), np.complex128)
    return Folded(A, m, np.zeros((2, m.size), np.int64), none, none)


def folded(A: Real, m: Integer) -> Folded | None:
    """The lines of one sample taken out where they are but the states of filters at the ends of the long lines.

    None where they are more than that, or where a filter has no direct path or is not stable. A zero at the origin
    shortens its line by a sample.
    """
    long, short = np.flatnonzero(m > 1), np.flatnonzero(m == 1)
    if not (short.size and long.size):
        return None
    from scipy.sparse.csgraph import connected_components

    _, label = connected_components(A[np.ix_(short, short)] != 0, directed=False)
    driven = np.array([(A[np.ix_(short[label == k], long)] != 0).any(axis=0) for k in range(label.max() + 1)])
    if not np.all(driven.sum(axis=1) == 1):
        return None
    owner = np.argmax(driven, axis=1)[label]
    most = int(np.bincount(owner).max())
    outer, counts = np.empty((long.size, long.size)), np.empty((2, long.size), np.int64)
    roots = np.zeros((2, long.size, most), np.complex128)
    for i, line in enumerate(long):
        own = short[owner == i]
        # what comes out of the filter goes on alike, whether it has come through or was held
        U, s, V = np.linalg.svd(A[np.ix_(long, [line, *own])])
        if np.any(s[1:] > SAME * s[0]) or abs(V[0, 0]) < DIRECT:
            return None
        F = A[np.ix_(own, own)]
        p, q = np.linalg.eigvals(F), np.linalg.eigvals(F - np.outer(A[own, line], V[0, 1:] / V[0, 0]))
        q = q[np.abs(q) > SAME]
        if np.max(np.abs(p), initial=0) >= 1:
            return None
        outer[:, i] = U[:, 0] * (s[0] * V[0, 0])
        counts[:, i] = p.size, q.size
        roots[0, i, : p.size], roots[1, i, : q.size] = p, q
    if np.linalg.cond(outer) > 1 / DIRECT:
        return None
    return Folded(outer, m[long] - (counts[0] - counts[1]), counts, *roots)


def n_searched(A: Real, m: Integer) -> int:
    """How many lines are left of a network when its poles are searched."""
    found = folded(A, m)
    return len(m if found is None else found.m)


def _roots(w: Complex, g: int) -> Complex:
    """All z with z^g = w, for a set w closed under conjugation."""
    upper = w[w.imag > 0]
    turns = np.arange(g) * 2 * np.pi
    pairs = [(np.abs(upper) ** (1 / g))[:, None] * np.exp(1j * (np.angle(upper)[:, None] + turns) / g)]
    found = [np.zeros(g * np.count_nonzero(w == 0), dtype=np.complex128)]
    for x in w.real[(w.imag == 0) & (w != 0)]:
        half_turns = np.arange(int(x < 0), g + 1, 2)
        radius = abs(x) ** (1 / g)
        pairs.append(radius * np.exp(1j * np.pi * half_turns[(half_turns > 0) & (half_turns < g)] / g))
        found.append(radius * (half_turns[(half_turns == 0) | (half_turns == g)] * (-2.0 / g) + 1).astype(complex))
    z = np.concatenate([p.ravel() for p in pairs])
    return np.concatenate([z, z.conj(), *found])


def _expand(A: Real, m: Integer) -> Real:
    """The ordinary state matrix, one state a delayed sample."""
    ends = np.cumsum(m) - 1
    full = np.eye(int(m.sum()), k=-1)
    full[ends - m + 1] = 0
    full[np.ix_(ends - m + 1, ends)] = A
    return full


def _terms(A: Real, m: Integer) -> dict[int, Real]:
    """P(z) as {exponent: coefficients}."""
    terms: dict[int, Real] = {0: -A}
    for i, e in enumerate(m.tolist()):
        terms.setdefault(e, np.zeros(A.shape))[i, i] = 1.0
    return terms


def _deflate(A: Real, m: Integer) -> tuple[dict[int, Real], int, float]:
    """Divide out the roots at 0: ``det S(z) = ± exp(gain) z^-zeros det P(z)``, S given as {exponent: coefficients}."""
    n, terms = len(m), _terms(A, m)
    zeros, gain, tolerance = 0, 0.0, 32 * n * EPS
    while zeros < m.sum():
        rows, balanced = _balance(terms[0])
        U, s, _ = np.linalg.svd(balanced)
        null = s <= tolerance * s[0]
        if not null.any():
            break
        X = U[:, null].T * rows  # X @ terms[0] = 0; keep the rows that cancel the most powers
        for shift in sorted(terms)[1:]:
            V, t, _ = np.linalg.svd(X @ terms[shift])
            rank = np.count_nonzero(t > tolerance * np.linalg.norm(X, 2))
            if rank == len(X):
                break
            X = V[:, rank:].T @ X
        x = X[-1]
        p = int(np.argmax(np.abs(x / rows)))
        combined = {e: x @ C for e, C in terms.items() if e >= shift}
        for C in terms.values():
            C[p] = 0.0
        top = max(float(np.abs(r).max()) for r in combined.values())
        for e, r in combined.items():
            terms.setdefault(e - shift, np.zeros((n, n)))[p] = r / top
        zeros += shift
        gain += math.log(abs(x[p]) / top)
    if zeros > m.sum():
        raise RnndspError("the poles at the origin cannot be told from small ones")
    return terms, zeros, gain


def _balance(A: Real) -> tuple[Real, Real]:
    """Row factors, and A with its rows and columns scaled to comparable size."""
    rows = np.ones(len(A))
    scaled = A.copy()
    for _ in range(6):
        for axis in (0, 1):
            size = np.linalg.norm(scaled, axis=axis, keepdims=True)
            size[size == 0] = 1.0
            scaled /= size
            if axis == 1:
                rows /= size[:, 0]
    return rows, scaled


def _iterate(lines: Folded, terms: dict[int, Real], zeros: int, gain: float, trace: float) -> Complex:
    """The roots other than 0 of a block by Ehrlich-Aberth; their sum is known."""
    A, m = lines.A, lines.m
    n = int(m.sum() + lines.counts[0].sum()) - zeros
    if n == 0:
        return np.empty(0, dtype=np.complex128)
    exponents = np.array(sorted(e for e, C in terms.items() if e > 0 and C.any()), dtype=np.int64)
    where = [(k, i, j) for k, e in enumerate(exponents) for i, j in np.argwhere(terms[int(e)])]
    index = np.array(where, dtype=np.int64).reshape(-1, 3)
    value = np.array([terms[int(exponents[k])][i, j] for k, i, j in where], dtype=np.float64)
    loop = (A, m, -zeros, gain, terms[0], exponents, index, value, lines[2:])

    # one pole of each pair in the upper half plane, its mate n - 1 - i below; an odd one on the real axis
    half = np.arange(n // 2)
    fraction = np.modf((np.arange((n + 1) // 2) + 0.5) * GOLDEN)[0]
    radius, inner, outer = _radii(fraction, n, lines, loop)
    z = np.empty(n, dtype=np.complex128)
    z[half] = radius[: n // 2] * np.exp(1j * np.pi * (half + 0.5) / (n / 2))
    z[n - 1 - half] = z[half].conj()
    if n % 2:
        z[n // 2] = radius[-1]
    mate = np.arange(n)[::-1].copy()
    # far inside, where what a line hands on is nothing, the roots are the zeros of the filters
    real = np.sort(lines.zeros[np.arange(lines.zeros.shape[1]) < lines.counts[1][:, None]])
    real = real[real.imag == 0]
    first = np.argsort(radius[: n // 2])[: real.size // 2]
    alone = np.concatenate([first, mate[first]])
    z[alone], mate[alone] = real[: alone.size], alone
    todo = _aberth(z, mate, np.union1d(np.arange((n + 1) // 2), alone), SWEEPS, inner, outer, *loop)

    if todo.size:  # pairs that meet on the real axis: break the symmetry
        free = np.union1d(todo, mate[todo])
        mate[free] = -1
        k = np.arange(free.size)
        z[free] *= 1 + np.exp(2j * np.pi * GOLDEN * (k + 0.25)) / (n + 4)
        todo = _aberth(z, mate, free, SWEEPS * (1 + n // free.size), inner, outer, *loop)
        if not todo.size:
            z[free], unpaired = pair(z[free], 1 / n)
            if unpaired:
                raise RnndspError(f"{unpaired} of {n} poles have no conjugate partner")
    if todo.size:
        raise RnndspError(f"{todo.size} of {n} poles did not converge")
    if not abs(z.sum() - trace) <= 1e-6 * np.abs(z).max():
        raise RnndspError(f"the sum of {n} poles is {z.sum():.6g} instead of {trace:.6g}: some were found twice")
    return z


def _radii(fraction: Real, n: int, lines: Folded, loop: tuple[Any, ...]) -> tuple[Real, float, float]:
    """The radii below which fractions of the n roots lie (Jensen's formula), and bounds of all radii."""
    m, top = lines.m, math.log(np.linalg.norm(lines.A, 2))
    if lines.counts.any():  # no filter lets through more than that outside the unit circle
        most = np.sum(np.log((1 + np.abs(lines.zeros)) / (1 - np.abs(lines.poles))), axis=1)
        top = max(top + float(most.max()), 0.0)
    high = top / m[np.argmin(m) if top > 0 else np.argmax(m)] + 1.0 / n
    nodes = {high: _circle(high, *loop)}
    low, step, empty = high, 2.0 / n, 0
    while empty < 2 and step < 1e3:  # twice, as the means are rough next to the poles
        low, step = high - step, 2 * step
        nodes[low] = _circle(low, *loop)
        empty = empty + 1 if abs(nodes[low][1]) < 0.5 else 0
    for _ in range(64):  # halve the cell with the largest spread of roots
        u = sorted(nodes)
        spread = [(nodes[b][1] - nodes[a][1]) * (b - a) for a, b in pairwise(u)]
        k = int(np.argmax(spread))
        if spread[k] <= 1.0:
            break
        middle = (u[k] + u[k + 1]) / 2
        nodes[middle] = _circle(middle, *loop)
    x = np.array(sorted(nodes))
    height, count = np.array([nodes[u] for u in sorted(nodes)]).T
    count = np.maximum.accumulate(np.clip(count, 0, n))
    count[0], count[-1] = 0, n
    inside = np.diff(count)
    moment = np.diff(x * count) - np.diff(height)  # the integral of log r over the roots of a cell
    mean = np.clip(moment / np.where(inside > 0, inside, 1), x[:-1], x[1:])
    radius = np.exp(mean[np.searchsorted(count[1:] / n, fraction)])
    room = 20.0 / n  # three spacings of poles on the unit circle
    return radius, math.exp(2 * low - high - room), math.exp(high + room)


def pair(z: Complex, tolerance: float) -> tuple[Complex, int]:
    """Replace poles by exact real ones or exact conjugate pairs; also how many do not fit."""
    rest = list(np.argsort(-np.abs(z.imag)))
    result, misfits = z.copy(), 0
    while rest:
        i = rest.pop(0)
        gap = np.abs(z[i].conj() - z[rest])
        k = int(np.argmin(gap)) if rest else -1
        if rest and gap[k] < 2 * abs(z[i].imag):
            j = rest.pop(k)
            result[i] = (z[i] + z[j].conj()) / 2
            result[j] = result[i].conj()
            misfits += 2 * int(gap[k] > tolerance * abs(z[i]))
        else:
            result[i] = z[i].real
            misfits += int(abs(z[i].imag) > tolerance * abs(z[i]))
    return result, misfits


@kernel
def _product(z: Any, roots: Any, count: Any) -> Any:
    """Of (z - root), and z times its derivative."""
    value, slope = 1.0 + 0.0j, 0.0j
    for k in range(count):
        slope = slope * (z - roots[k]) + z * value
        value *= z - roots[k]
    return value, slope


@kernel
def _loop(
    z: Any,
    work: Any,
    A: Any,
    m: Any,
    shift: Any,
    gain: Any,
    S0: Any,
    exponents: Any,
    index: Any,
    value: Any,
    filters: Any,
) -> Any:
    """Of q = det S at z: z q'/q, log|q|, the distance of S from singularity in roundings of S and z, and 1 or the
    multiplicity of a semisimple root nearby, which is (tr M)^2 / tr M^2 of M = S^-1 z S'."""
    n = len(m)
    S, T, M, power, pivots, below = work
    counts, poles, zeros = filters
    log_z = np.log(z)
    height, slope = 0.0, 0.0 + 0.0j
    if log_z.real > 0:  # P(z) diag(z^-m)
        height = gain + (m.sum() + shift) * log_z.real
        slope = shift + 0.0j
        for j in range(n):
            w = np.exp(-m[j] * log_z)
            above, by_above = _product(z, zeros[j], counts[1, j])
            under, by_under = _product(z, poles[j], counts[0, j])
            for i in range(n):
                S[i, j] = -A[i, j] * w * above
                T[i, j] = -A[i, j] * w * by_above
            S[j, j] += under
            T[j, j] += m[j] * under + by_under
    else:
        for j in range(n):
            above, by_above = _product(z, zeros[j], counts[1, j])
            below[0, j], below[1, j] = _product(z, poles[j], counts[0, j])
            for i in range(n):
                S[i, j] = S0[i, j] * above
                T[i, j] = S0[i, j] * by_above
        for k in range(len(exponents)):
            power[k] = np.exp(exponents[k] * log_z)
        for t in range(len(value)):
            k, i, j = index[t, 0], index[t, 1], index[t, 2]
            w = value[t] * power[k]
            S[i, j] += w * below[0, j]
            T[i, j] += w * (exponents[k] * below[0, j] + below[1, j])
    size = 0.0
    for j in range(n):  # columns of equal size, so that small gains do not look singular
        top = 0.0
        for i in range(n):
            top = max(top, abs(S[i, j].real) + abs(S[i, j].imag), 1e-300)
        height += np.log(top)
        for i in range(n):
            S[i, j] /= top
            T[i, j] /= top
            size += abs(S[i, j].real) + abs(S[i, j].imag) + abs(T[i, j].real) + abs(T[i, j].imag)
    for k in range(n):  # Gauss-Jordan inverse in place
        p, best = k, -1.0
        for i in range(k, n):
            a = abs(S[i, k].real) + abs(S[i, k].imag)
            if a > best:
                p, best = i, a
        pivots[k] = p
        if best < 1e-290:
            return slope, -np.inf, 0.0, 1.0
        if p != k:
            for j in range(n):
                S[k, j], S[p, j] = S[p, j], S[k, j]
        height += np.log(abs(S[k, k]))
        w = 1.0 / S[k, k]
        S[k, k] = 1.0
        for j in range(n):
            S[k, j] *= w
        for i in range(n):
            if i != k:
                w = S[i, k]
                S[i, k] = 0.0
                for j in range(n):
                    S[i, j] -= w * S[k, j]
    for k in range(n - 1, -1, -1):
        p = pivots[k]
        if p != k:
            for i in range(n):
                S[i, k], S[i, p] = S[i, p], S[i, k]
    norm, first, second = 0.0, 0.0j, 0.0j
    for i in range(n):
        for j in range(n):
            norm += abs(S[i, j].real) + abs(S[i, j].imag)
            M[i, j] = 0.0
    for k in range(n):
        for j in range(n):
            w = T[k, j]
            if w != 0.0:
                for i in range(n):
                    M[i, j] += S[i, k] * w
    for i in range(n):
        first += M[i, i]
        for j in range(n):
            second += M[i, j] * M[j, i]
    ratio = first * first / second if second != 0.0 else 1.0 + 0.0j
    multiple = np.rint(ratio.real)
    if not (abs(ratio - multiple) < 0.05 * multiple and multiple <= n):
        multiple = 1.0
    return slope + first, height, n / (norm * size * 2.2e-16), multiple


@kernel
def _work(n: Any, terms: Any) -> Any:
    S = np.empty((n, n), dtype=np.complex128)
    power, below = np.empty(terms, dtype=np.complex128), np.empty((2, n), dtype=np.complex128)
    return S, np.empty_like(S), np.empty_like(S), power, np.empty(n, dtype=np.int64), below


@kernel
def _circle(
    u: Any, A: Any, m: Any, shift: Any, gain: Any, S0: Any, exponents: Any, index: Any, value: Any, filters: Any
) -> Any:
    """Means of log|q| and of Re(z q'/q) over the circle of radius exp(u)."""
    work = _work(len(m), len(exponents))
    height, slope = 0.0, 0.0
    for k in range(ANGLES):
        z = np.exp(u + 1j * np.pi * (k + 0.5 + 0.3 * np.sin(7.0 * k)) / ANGLES)
        d, h, _, _ = _loop(z, work, A, m, shift, gain, S0, exponents, index, value, filters)
        height += max(h, -1e9) / ANGLES
        slope += d.real / ANGLES
    return height, slope


@kernel
def _aberth(
    z: Any,
    mate: Any,
    active: Any,
    sweeps: Any,
    inner: Any,
    outer: Any,
    A: Any,
    m: Any,
    shift: Any,
    gain: Any,
    S0: Any,
    exponents: Any,
    index: Any,
    value: Any,
    filters: Any,
) -> Any:
    """Move z[active] and the mirror images z[mate] (-1: none, own: real) in place; returns the unconverged."""
    n = len(z)
    work = _work(len(m), len(exponents))
    x, y = z.real.copy(), z.imag.copy()
    a, b, f, g = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    active = active.copy()
    todo = len(active)
    for _ in range(sweeps):
        kept = 0
        for start in range(0, todo, LANES):
            lanes = min(LANES, todo - start)
            for k in range(LANES):
                i = active[start + min(k, lanes - 1)]
                a[k], b[k], f[k], g[k] = x[i], y[i], 0.0, 0.0
            for j in range(n):
                xj, yj = x[j], y[j]
                for k in range(LANES):
                    dx, dy = a[k] - xj, b[k] - yj
                    d = dx * dx + dy * dy
                    w = 1.0 / d if d > 0.0 else 0.0
                    f[k] += dx * w
                    g[k] -= dy * w
            for k in range(lanes):
                i = active[start + k]
                old = complex(a[k], b[k])
                slope, _, rounding, multiple = _loop(old, work, A, m, shift, gain, S0, exponents, index, value, filters)
                if rounding <= 4.0:
                    continue
                rest = slope - old * complex(f[k], g[k])
                step = old / rest if rest != 0.0 else 1.0 + 0.0j
                if (
                    multiple > 1.0 and abs(slope) > 4.0 * n
                ):  # close by: as far as Newton on a multiple root goes, unless others already hold it
                    step *= min(max((multiple * rest / slope).real, 1.0), 0.5 * (multiple + 1.0))
                size = abs(step)
                if not size < 0.5 * outer:
                    step = 0.5 * outer * (step / size if np.isfinite(size) else 0.6 + 0.8j)
                new = old - step
                new *= min(max(abs(new), inner), outer) / max(abs(new), 1e-300)
                if mate[i] == i:
                    new = complex(new.real, 0.0)
                x[i], y[i] = new.real, new.imag
                if mate[i] >= 0 and mate[i] != i:
                    x[mate[i]], y[mate[i]] = new.real, -new.imag
                if size > 1e-15 * abs(old):
                    active[kept] = i
                    kept += 1
        todo = kept
        if todo == 0:
            break
    for i in range(n):
        z[i] = complex(x[i], y[i])
    return active[:todo]

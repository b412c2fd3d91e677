"""Proofs that a linear network of delay lines decays: poles as computed prove nothing, as rounding moves them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.stability.verdicts import below_one
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "decay_certificate",
    "diagonal_scaling",
    "falls_along",
    "gain_crossings",
    "is_outside",
    "loop_matrices",
    "lyapunov_solution",
    "norm_below_one",
    "reaches",
    "unreached",
]

Real = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
# What rounding may do to a norm below one.
SLACK = 1e-12
# The largest blocks for a norm, for a Lyapunov equation, and for the open loop of a small-gain test.
MAX_LINES, MAX_STATES, MAX_OPEN_STATES = 1000, 400, 60
# The largest matrix for which a norm with weights is searched.
MAX_SCALED = 64
# Double eigenvalues of the pencil on the circle are found this near to it.
ON_CIRCLE = 1e-6
# A mode may be hidden where a singular value is this small, relative to the largest; it is where, at the point that
# makes it least, it is at most so many times what rounding does to a number.
LIKELY, HIDDEN = 1e-6, 100
# Newton steps to there, and how long they may be: no other mode is to be found.
MOVES, FAR = 3, 1e-4


def decay_certificate(A: Real, delays: NDArray[np.int64], radius: float = 1.0) -> str | None:
    r"""Why every root of det(diag(z^m_i) - A) has magnitude below ``radius``; None where no test shows it.

    Each strongly connected block of A, whose roots together are all of them, has to pass one of these, cheap to dear:

    1. \|D A D^-1\|_2 < 1 for a diagonal D, or \|A\| v < v for some v > 0, entry by entry: then it decays however long
       the lines are;
    2. P with F^T P F - P < 0, P > 0 for the expanded matrix F, checked with room for rounding (Lyapunov);
    3. seen from its long lines, the rest is stable and has gain below one at every frequency (small gain).
    """
    # columns, since in a network A = U diag(g^m) each line's loss stands in its column
    scaled = np.asarray(A, np.float64) * radius ** -delays.astype(np.float64)
    if not np.isfinite(scaled).all():
        return None
    if not len(scaled):
        return "no memory"
    from scipy.sparse.csgraph import connected_components  # here, as it would double the start of a filter that runs

    _, label = connected_components(scaled != 0, directed=True, connection="strong")
    found = []
    for k in range(label.max() + 1):
        part = np.flatnonzero(label == k)
        why = _block(scaled[np.ix_(part, part)], delays[part])
        if why is None:
            return None
        found.append(why)
    return "; ".join(dict.fromkeys(filter(None, found))) or "no loop"


def _block(A: Real, m: NDArray[np.int64]) -> str | None:
    if not A.any():
        return ""
    if len(A) <= MAX_LINES and (norm := norm_below_one(A)):
        return f"its loops have {norm}"
    if m.sum() <= MAX_STATES:
        return "a Lyapunov function falls" if _falls(_expanded(A, m)) else None
    return "its loops have gain below 1 at every frequency" if _small_gain(A, m) else None


def norm_below_one(A: Real) -> str | None:
    """In which norm a matrix is below one: the 2-norm, a weighted maximum norm of its magnitudes, a weighted 2-norm."""
    norm = float(np.linalg.norm(A, 2))
    if norm < 1 - SLACK:
        return f"2-norm {below_one(norm)} < 1"
    values, vectors = np.linalg.eig(np.abs(A))
    v = np.abs(vectors[:, np.argmax(values.real)]) + SLACK
    weighted = float(np.max(np.abs(A) @ v / v))
    if weighted < 1 - SLACK:
        return f"weighted maximum norm {below_one(weighted)} < 1"
    # no norm is below the spectral radius
    if len(A) > MAX_SCALED or np.max(np.abs(np.linalg.eigvals(A))) >= 1:
        return None
    scaled = diagonal_scaling(A)[0]
    return f"2-norm {below_one(scaled)} < 1, states being weighted" if scaled < 1 - SLACK else None


def diagonal_scaling(A: Real) -> tuple[float, Real]:
    r"""The least 2-norm of D A D^-1, D > 0 diagonal, about; and the diagonal of D.

    By the smooth norms \|.\|_2p, ever nearer to the 2-norm, which are convex in log D. Where it is below one, nothing
    that makes states smaller, be it a slope within [0, 1], a saturation or a longer delay, can keep a loop with this
    matrix from decaying.

    References
    ----------
    W. Mills, C. Mullis, R. Roberts (1978), "Digital filter realizations without overflow oscillations". M. Buehner, P.
    Young (2006), "A tighter bound for the echo state property".
    """
    from scipy.optimize import minimize

    def smooth(x: Real, p: int) -> tuple[float, Real]:
        u, s, vh = np.linalg.svd(A * np.exp(x[:, None] - x))
        if not s[0]:
            return -np.inf, np.zeros_like(x)
        weight = (s / s[0]) ** (2 * p)
        slope = (u**2 @ weight - (vh**2).T @ weight) / weight.sum()
        return float(np.log(s[0]) + np.log(weight.sum()) / (2 * p)), slope

    values, right = np.linalg.eig(np.abs(A))
    r = np.abs(right[:, np.argmax(values.real)]) + 1e-6
    values, left = np.linalg.eig(np.abs(A).T)
    el = np.abs(left[:, np.argmax(values.real)]) + 1e-6
    x = 0.5 * np.log(el / r)
    bounds, few = [(-15, 15)] * len(x), {"maxiter": 50}
    search: Any = minimize  # whose type is too narrow for a function with its gradient
    if np.any(A):
        for p in (4, 16, 64, 256, 1024, 4096):
            x = search(smooth, x, args=(p,), jac=True, method="L-BFGS-B", bounds=bounds, options=few).x
    d = np.exp(x - x.max())
    return float(np.linalg.norm(d[:, None] * A / d, 2)), d


def _expanded(A: Real, m: NDArray[np.int64]) -> Real:
    nothing = np.zeros((len(A), 1))
    return np.asarray(DelayStateSpace(A, nothing, nothing.T, np.zeros((1, 1)), m).expand().A)


def _falls(F: Real) -> bool:
    one = np.eye(len(F))
    P = lyapunov_solution(F, one)
    return P is not None and falls_along(F, P, one)


def lyapunov_solution(F: Real, Q: Real) -> Real | None:
    """P of F^T P F - P = -Q; None where there is none."""
    from scipy.linalg import solve_discrete_lyapunov

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an ill-conditioned P is seen when it is checked
            P = np.asarray(solve_discrete_lyapunov(F.T, Q), np.float64)
    except (np.linalg.LinAlgError, ValueError):
        return None
    return (P + P.T) / 2 if np.isfinite(P).all() else None


def falls_along(F: Real, P: Real, Q: Real) -> bool:
    """Whether P > 0 and F^T P F - P < -Q/2, rounding included: then F^k goes to zero."""
    if not len(P):
        return True
    least, most = np.linalg.eigvalsh(P)[[0, -1]]
    fall = P - F.T @ P @ F - Q / 2
    rounding = 4 * len(F) * EPS * (most * (1 + np.linalg.norm(F, 2) ** 2) + np.linalg.norm(Q, 2))
    wanted = np.linalg.eigvalsh(Q)[0]
    return bool(wanted > 0 and least > rounding and np.linalg.eigvalsh((fall + fall.T) / 2)[0] > rounding)


def _small_gain(A: Real, m: NDArray[np.int64]) -> bool:
    """Whether the short lines, seen from the long ones, are stable and have an H-infinity norm below one.

    S. Boyd, V. Balakrishnan, P. Kabamba (1989), "A bisection method for computing the H-infinity norm of a transfer
    matrix", in discrete time, as a pencil that inverts nothing; and a look at a grid, should the pencil be ill.
    """
    order = np.argsort(m)
    short = order[np.cumsum(m[order]) <= MAX_OPEN_STATES]
    long = np.setdiff1d(order, short)
    inner = DelayStateSpace(
        A[np.ix_(short, short)], A[np.ix_(short, long)], A[np.ix_(long, short)], A[np.ix_(long, long)], m[short]
    ).expand()
    A, B, C, D = inner.A, inner.B, inner.C, inner.D
    n = len(A)
    if decay_certificate(A, np.ones(n, np.int64)) is None:
        return False
    grid = np.concatenate([[0.0], np.geomspace(1e-6, np.pi, 400)])
    if np.max(np.linalg.norm(inner.frequency_response(grid), 2, axis=(1, 2))) >= 1 - ON_CIRCLE:
        return False
    z = gain_crossings(A, B, C, D)
    near = np.abs(np.abs(z[np.isfinite(z)]) - 1)
    return not np.isnan(z).any() and bool(np.min(near, initial=1) > ON_CIRCLE)


def gain_crossings(A: Real, B: Real, C: Real, D: Real) -> NDArray[np.complex128]:
    """Where a singular value of D + C (zI - A)^-1 B is one: of these eigenvalues, those on the unit circle."""
    from scipy.linalg import eigvals

    # z x = A x + B u; mu = z A' mu + C'(C x + D u); u = z B' mu + D'(C x + D u)
    n, k = B.shape
    zero = np.zeros
    right = np.block(
        [[A, zero((n, n)), B], [-C.T @ C, np.eye(n), -C.T @ D], [-D.T @ C, zero((k, n)), np.eye(k) - D.T @ D]]
    )
    left = np.block(
        [[np.eye(n), zero((n, n + k))], [zero((n, n)), A.T, zero((n, k))], [zero((k, n)), B.T, zero((k, k))]]
    )
    with np.errstate(all="ignore"):
        return np.asarray(eigvals(right, left), np.complex128)


def is_outside(A: Real, delays: NDArray[np.int64], pole: complex) -> bool:
    """Whether a computed pole lies outside the unit circle by more than rounding may have moved it, to first order."""
    if abs(pole) <= 1:
        return False
    # diag(z^m) - A and the diagonal of its derivative, each row divided by |z|^m, which may be beyond all numbers
    m = delays.astype(np.float64)
    with np.errstate(over="ignore"):
        size = np.abs(pole) ** m
    turn = np.exp(1j * np.angle(pole) * m)
    u, s, vh = np.linalg.svd(np.diag(turn) - A / size[:, None])
    moved = abs(u[:, -1].conj() @ (m * turn / pole * vh[-1].conj()))
    error = s[-1] + len(A) * EPS * s[0]
    return bool(moved > 0 and abs(pole) - 1 > 10 * error / moved)


def reaches(linear: DelayStateSpace, pole: complex) -> bool | None:
    """Whether a mode is driven by the input and heard at the output; None if undecided."""
    if np.max(linear.delays) * np.log(abs(pole)) > np.log(1e6):
        return None
    driven, heard = unreached(linear, np.array([pole]))
    return not (driven[0] or heard[0])


def unreached(linear: DelayStateSpace, poles: NDArray[np.complex128]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many modes at each pole no input drives, and how many no output hears (Popov-Belevitch-Hautus).

    Where poles crowd together, as those of a steep filter do, a mode that is driven well is still as near as 1e-10 to
    one that is not. So only rounding counts as zero; and as poles that are nearly multiple are computed much worse than
    that, those in question are first moved to where the singular value is least.
    """
    B, C = linear.B, linear.C
    B = B / np.where((size := np.max(np.abs(B), axis=0, initial=0)) > 0, size, 1)
    C = C / np.where((size := np.max(np.abs(C), axis=1, initial=0)) > 0, size, 1)[:, None]

    def driven(at: NDArray[np.complex128]) -> NDArray[np.complex128]:
        loops, size = loop_matrices(linear, at)
        return np.concatenate([loops, B / size[:, :, None]], axis=2)

    def heard(at: NDArray[np.complex128]) -> NDArray[np.complex128]:
        loops, size = loop_matrices(linear, at)
        turned = np.swapaxes(loops * (size[:, :, None] / size[:, None, :]), 1, 2)
        return np.concatenate([turned, C.T / size[:, :, None]], axis=2)

    return _rank_drop(driven, poles, linear.delays), _rank_drop(heard, poles, linear.delays)


def _rank_drop(
    pencil: Callable[[NDArray[np.complex128]], NDArray[np.complex128]],
    poles: NDArray[np.complex128],
    delays: NDArray[np.int64],
) -> NDArray[np.int64]:
    n, drop = len(delays), np.zeros(len(poles), np.int64)
    if not n:
        return drop
    s = np.linalg.svd(pencil(poles), compute_uv=False)
    likely = np.flatnonzero(s[:, -1] <= LIKELY * s[:, 0])
    at, m = poles[likely], delays.astype(np.float64)
    for _ in range(MOVES):
        u, s, vh = np.linalg.svd(pencil(at), full_matrices=False)
        with np.errstate(all="ignore"):
            # next to a hidden mode the singular value is as a cone, of the slope u^H (d pencil / dz) v
            slope = m * np.minimum(np.abs(at)[:, None], 1) ** (m - 1) / np.maximum(np.abs(at)[:, None], 1)
            slope = slope * np.exp(1j * np.angle(at)[:, None] * (m - 1))
            step = s[:, -1] / np.sum(u[:, :, -1].conj() * slope * vh[:, -1, :n].conj(), axis=1)
        at = at - np.where(np.abs(step) < FAR, step, 0)
    s = np.linalg.svd(pencil(at), compute_uv=False)
    drop[likely] = np.count_nonzero(s <= HIDDEN * EPS * (n + m.max()) * s[:, :1], axis=1)
    return drop


def loop_matrices(
    linear: DelayStateSpace, poles: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    r"""diag(z^m) - A at each pole, each row divided by max(1, \|z\|^m), and these, which may be beyond all numbers."""
    m = linear.delays.astype(np.float64)
    with np.errstate(over="ignore"):
        size = np.clip(np.abs(poles)[:, None] ** m, 1, 1e150)
    turn = np.minimum(np.abs(poles)[:, None], 1) ** m * np.exp(1j * np.angle(poles)[:, None] * m)
    return turn[:, :, None] * np.eye(len(linear.A)) - linear.A / size[:, :, None], size

"""Proofs that a linear network of delay lines decays: poles as computed prove nothing, as rounding moves them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from rnndsp.statespace import DelayStateSpace

__all__ = ["decay_certificate", "is_outside", "norm_below_one", "reaches"]

Real = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
# What rounding may do to a norm below one.
SLACK = 1e-12
# The largest blocks for a norm, for a Lyapunov equation, and for the open loop of a small-gain test.
MAX_LINES, MAX_STATES, MAX_OPEN_STATES = 1000, 400, 60
# Double eigenvalues of the pencil on the circle are found this near to it.
ON_CIRCLE = 1e-6


def decay_certificate(A: Real, delays: NDArray[np.int64], radius: float = 1.0) -> str | None:
    r"""Why every root of det(diag(z^m_i) - A) has magnitude below ``radius``; None where no test shows it.

    Each strongly connected block of A, whose roots together are all of them, has to pass one of these, cheap to dear:

    1. \|A\|_2 < 1, or \|A\| v < v for some v > 0, entry by entry: then it decays however long the lines are;
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
    """In which of two norms a matrix is below one: the 2-norm, or a weighted maximum norm of its absolute values."""
    norm = np.linalg.norm(A, 2)
    if norm < 1 - SLACK:
        return f"2-norm {norm:.4g} < 1"
    values, vectors = np.linalg.eig(np.abs(A))
    v = np.abs(vectors[:, np.argmax(values.real)]) + SLACK
    weighted = np.max(np.abs(A) @ v / v)
    return f"weighted maximum norm {weighted:.4g} < 1" if weighted < 1 - SLACK else None


def _expanded(A: Real, m: NDArray[np.int64]) -> Real:
    nothing = np.zeros((len(A), 1))
    return np.asarray(DelayStateSpace(A, nothing, nothing.T, np.zeros((1, 1)), m).expand().A)


def _falls(F: Real) -> bool:
    """Whether the solution P of F^T P F - P = -I proves, rounding included, that F^k goes to zero."""
    from scipy.linalg import solve_discrete_lyapunov

    one = np.eye(len(F))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an ill-conditioned P fails below
            P = solve_discrete_lyapunov(F.T, one)
        P = (P + P.T) / 2
        least, most = np.linalg.eigvalsh(P)[[0, -1]]
    except (np.linalg.LinAlgError, ValueError):
        return False
    residual = np.linalg.norm(F.T @ P @ F - P + one, 2)
    rounding = 4 * len(F) * EPS * most * (1 + np.linalg.norm(F, 2) ** 2)
    return bool(least > 0.5 and residual + rounding < 0.5)


def _small_gain(A: Real, m: NDArray[np.int64]) -> bool:
    """Whether the short lines, seen from the long ones, are stable and have an H-infinity norm below one.

    S. Boyd, V. Balakrishnan, P. Kabamba (1989), "A bisection method for computing the H-infinity norm of a transfer
    matrix", in discrete time, as a pencil that inverts nothing; and a look at a grid, should the pencil be ill.
    """
    from scipy.linalg import eigvals

    order = np.argsort(m)
    short = order[np.cumsum(m[order]) <= MAX_OPEN_STATES]
    long = np.setdiff1d(order, short)
    inner = DelayStateSpace(
        A[np.ix_(short, short)], A[np.ix_(short, long)], A[np.ix_(long, short)], A[np.ix_(long, long)], m[short]
    ).expand()
    A, B, C, D = inner.A, inner.B, inner.C, inner.D
    n, k = B.shape
    if decay_certificate(A, np.ones(n, np.int64)) is None:
        return False
    grid = np.concatenate([[0.0], np.geomspace(1e-6, np.pi, 400)])
    if np.max(np.linalg.norm(inner.frequency_response(grid), 2, axis=(1, 2))) >= 1 - ON_CIRCLE:
        return False
    # z x = A x + B u; mu = z A' mu + C'(C x + D u); u = z B' mu + D'(C x + D u)
    zero = np.zeros
    right = np.block(
        [[A, zero((n, n)), B], [-C.T @ C, np.eye(n), -C.T @ D], [-D.T @ C, zero((k, n)), np.eye(k) - D.T @ D]]
    )
    left = np.block(
        [[np.eye(n), zero((n, n + k))], [zero((n, n)), A.T, zero((n, k))], [zero((k, n)), B.T, zero((k, k))]]
    )
    z = np.asarray(eigvals(right, left))
    near = np.abs(np.abs(z[np.isfinite(z)]) - 1)
    return not np.isnan(z).any() and bool(np.min(near, initial=1) > ON_CIRCLE)


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
    """Whether a mode is driven by the input and heard at the output (Popov-Belevitch-Hautus); None if undecided."""
    if np.max(linear.delays) * np.log(abs(pole)) > np.log(1e6):
        return None
    loop = np.diag(pole**linear.delays) - linear.A
    n = len(loop)
    ranks = [np.linalg.matrix_rank(m, rtol=1e-8) for m in (np.hstack([loop, linear.B]), np.vstack([loop, linear.C]))]
    return ranks == [n, n]

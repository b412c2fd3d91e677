"""How near zI - A is to singular, and how large the powers of A are: for dense matrices and for long delay lines."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._jit import inline, kernel
from rnndsp.errors import ParameterError
from rnndsp.stability._decay import _expanded
from rnndsp.stability._delay_poles import delay_poles

__all__ = ["EPS", "RESOLVED", "Resolvent", "afford", "line_norms"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

EPS = float(np.finfo(np.float64).eps)
# What a call may cost, in multiplications of complex numbers.
MAX_COST = 4e10
# Up to so many samples delay lines are expanded; of longer ones smaller singular values are lost in rounding.
FEW, RESOLVED = 100, 3e-5
# The Lanczos iteration: its length at most, and the relative change of the square at which it ends.
STEPS, TOLERANCE = 200, 1e-13


def afford(cost: float, remedy: str) -> None:
    if cost > MAX_COST:
        raise ParameterError(f"this would take about {cost / 1e9:.0f} s of computing: {remedy}")


class Resolvent:
    """Smallest singular values of zI - A: from a Schur form, or for long delay lines from matrices of their number."""

    def __init__(self, A: Real, delays: NDArray[np.int64]) -> None:
        self.A, self.delays = A, delays
        self.n, lines = int(delays.sum()), len(A)
        along = 30.0 * (4 * self.n + lines**3)
        self.along = self.n > FEW and along < 20 * self.n**2
        self.cost = along if self.along else 20.0 * self.n**2
        if self.along:
            self.poles = delay_poles(A, delays)
        else:
            afford(30 * float(self.n) ** 3, f"{self.n} states are too many; reduce the filter")
            from scipy.linalg import schur

            self.T, _ = schur(_expanded(A, delays).astype(np.complex128), output="complex")
            found = np.diag(self.T)
            self.poles = found[np.argsort(-np.abs(found), kind="stable")]
            self._columns = np.ascontiguousarray(self.T.T)
            self._start = np.random.default_rng(0).standard_normal(2 * self.n).view(np.complex128)

    def norm(self) -> float:
        """That of A, 2-norm: a delay line passes on what it holds."""
        return max(float(np.linalg.norm(self.A, 2)), float(self.n > len(self.A)))

    def sigma_min(self, z: ArrayLike, tolerance: float = TOLERANCE) -> Real:
        points = np.asarray(z, np.complex128)
        flat = np.ascontiguousarray(points.ravel())
        afford(flat.size * self.cost, f"{flat.size} points of {self.n} states; take fewer points")
        out = np.empty(flat.size)
        n_parts = min(os.cpu_count() or 1, flat.size // 64)
        if n_parts < 2:
            self._fill(flat, out, tolerance)
        else:
            cuts = np.linspace(0, flat.size, 4 * n_parts + 1).astype(np.int64)
            with ThreadPoolExecutor(n_parts) as pool:
                list(pool.map(lambda a, b: self._fill(flat[a:b], out[a:b], tolerance), cuts[:-1], cuts[1:]))
        return out.reshape(points.shape)

    def _fill(self, z: Complex, out: Real, tolerance: float) -> None:
        if self.along:
            _sigma_min_lines(z, self.A, self.delays, tolerance, out)
        else:
            _sigma_min(z, self.T, self._columns, self._start, tolerance, out)


@inline
def _solve_triangle(z: Any, columns: Any, tiny: Any, x: Any) -> None:
    """x := (zI - T)^-1 x, ``columns`` being T transposed."""
    for j in range(x.size - 1, -1, -1):
        pivot = z - columns[j, j]
        value = x[j] / (pivot if abs(pivot) > tiny else complex(tiny, 0.0))
        x[j] = value
        for i in range(j):
            x[i] += columns[j, i] * value


@inline
def _solve_adjoint(z: Any, T: Any, tiny: Any, x: Any) -> None:
    """x := (zI - T)^-H x."""
    for j in range(x.size):
        pivot = np.conj(z - T[j, j])
        value = x[j] / (pivot if abs(pivot) > tiny else complex(tiny, 0.0))
        x[j] = value
        for i in range(j + 1, x.size):
            x[i] += np.conj(T[j, i]) * value


@inline
def _largest_eigenvalue(alpha: Any, beta: Any, n: Any, low: Any) -> Any:
    """That of a symmetric tridiagonal matrix, known to be at least ``low``, by bisection on the signs of pivots."""
    high = low
    for i in range(n):
        radius = (beta[i - 1] if i > 0 else 0.0) + (beta[i] if i < n - 1 else 0.0)
        high = max(high, alpha[i] + radius)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        pivot, above = -1.0, False
        for i in range(n):
            pivot = alpha[i] - middle - (beta[i - 1] ** 2 / pivot if i > 0 else 0.0)
            if pivot >= 0:
                above = True
                break
        if above:
            low = middle
        else:
            high = middle
        if high - low <= 1e-15 * high:
            break
    return high


@inline
def _orthogonalise(basis: Any, n_rows: Any, x: Any) -> Any:
    """Takes off x its part along the rows, and returns that along the last."""
    along = 0.0
    for j in range(n_rows):
        product = x[0] * 0
        for i in range(x.size):
            product += np.conj(basis[j, i]) * x[i]
        for i in range(x.size):
            x[i] -= product * basis[j, i]
        along = product.real
    return along


@inline
def _length(x: Any) -> Any:
    total = 0.0
    for i in range(x.size):
        total += abs(x[i]) ** 2
    return np.sqrt(total)


@inline
def _lanczos_step(basis: Any, k: Any, x: Any, alpha: Any, beta: Any, found: Any) -> Any:
    """Takes in x, the operator applied to row k, and writes the next row: the largest eigenvalue so far, and whether
    there is no further row."""
    alpha[k] = _orthogonalise(basis, k + 1, x)
    beta[k] = _length(x)
    if not (np.isfinite(alpha[k]) and np.isfinite(beta[k])):
        return np.inf, True
    larger = _largest_eigenvalue(alpha, beta, k + 1, found)
    if beta[k] <= EPS * larger or k + 1 == basis.shape[0]:
        return larger, True
    for i in range(x.size):
        basis[k + 1, i] = x[i] / beta[k]
    return larger, False


@kernel
def _sigma_min(z: Any, T: Any, columns: Any, start: Any, tolerance: Any, out: Any) -> None:
    """Inverse Lanczos iteration, all vectors kept orthogonal: its value falls towards the one sought."""
    n = start.size
    steps = min(STEPS, n)
    basis, x = np.empty((steps, n), np.complex128), np.empty(n, np.complex128)
    alpha, beta = np.empty(steps), np.empty(steps)
    largest = 0.0
    for i in range(n):
        for j in range(n):
            largest = max(largest, abs(T[i, j]))
    size = _length(start)
    for p in range(z.size):
        tiny = EPS * max(largest, abs(z[p]), 1e-290)
        for i in range(n):
            basis[0, i] = start[i] / size
        found, calm = 0.0, 0
        for k in range(steps):
            for i in range(n):
                x[i] = basis[k, i]
            _solve_adjoint(z[p], T, tiny, x)
            _solve_triangle(z[p], columns, tiny, x)
            larger, last = _lanczos_step(basis, k, x, alpha, beta, found)
            calm = calm + 1 if larger - found <= tolerance * larger else 0
            found = larger
            if last or calm >= 2:
                break
        out[p] = 1 / np.sqrt(found)


@kernel
def _sigma_min_lines(z: Any, A: Any, delays: Any, tolerance: Any, out: Any) -> None:
    r"""Bisection on whether \|(zI - F) v\|^2 - s^2 \|v\|^2 is positive definite, F being the expanded matrix."""
    H = np.empty(A.shape, np.complex128)
    shape = np.empty((3, delays.size), np.complex128)
    size = 0.0
    for i in range(A.shape[0]):
        for j in range(A.shape[0]):
            size += A[i, j] ** 2
    for p in range(z.size):
        high = 1 + abs(z[p]) + np.sqrt(size)
        low = 1e-9 * high  # squares beneath are lost in rounding
        while high > low * (1 + max(tolerance, 1e-14)):
            middle = np.sqrt(low * high)
            if not low < middle < high:
                break
            if _is_above(z[p], middle, A, delays, shape, H):
                low = middle
            else:
                high = middle
        out[p] = high


@inline
def _is_above(z: Any, s: Any, A: Any, delays: Any, shape: Any, H: Any) -> Any:
    """Whether all singular values of zI - F are above s.

    Within a line the form is tridiagonal, a = 1 + |z|^2 - s^2 beside -z, so its samples are eliminated by a recursion
    of pivots d. What remains for e, which leaves the lines, and f = A e, which enters them, is for each line
    alpha |e|^2 + beta |f|^2 - 2 Re(f* w e), w being z^m over the product of the pivots: a matrix H for e.
    """
    n = delays.size
    square = z.real**2 + z.imag**2
    a = 1 + square - s * s
    for i in range(n):
        w, d, share = z, a, 0.0
        for k in range(delays[i] - 1):
            if not d > 0:
                return False
            w *= z / d
            share = square / d
            following = a - share
            if abs(following - d) <= EPS * d:  # it stays so
                w *= np.exp((delays[i] - 2 - k) * np.log(z / d)) if square > 0 else 0.0
                break
            d = following
        shape[0, i], shape[1, i], shape[2, i] = square - share - s * s, 1 - share, w
    for i in range(n):
        for j in range(i + 1):
            total = -A[j, i] * shape[2, j] - np.conj(shape[2, i]) * A[i, j]
            for k in range(n):
                total += A[k, i] * shape[1, k] * A[k, j]
            H[i, j] = total
        H[i, i] += shape[0, i]
    for j in range(n):  # Cholesky
        for k in range(j):
            for i in range(j, n):
                H[i, j] -= H[i, k] * np.conj(H[j, k])
        pivot = H[j, j].real
        if not pivot > 0:
            return False
        for i in range(j, n):
            H[i, j] /= np.sqrt(pivot)
    return True


@kernel
def line_norms(index: Any, A: Any, delays: Any, start: Any) -> Any:
    """2-norms of powers of the expanded matrix by Lanczos iteration, applied by running the lines and their adjoint."""
    n, lines = start.size, delays.size
    norm = np.empty(index.size)
    longest = index[-1]
    first = np.empty(lines, np.int64)
    total = 0
    for i in range(lines):
        first[i] = total
        total += delays[i] + longest
    tape = np.empty(total)
    steps = min(STEPS, n)
    basis, x = np.empty((steps, n)), np.empty(n)
    alpha, beta = np.empty(steps), np.empty(steps)
    for row in range(index.size):
        n_frames = index[row]
        size = _length(start)
        for i in range(n):
            basis[0, i] = start[i] / size
        found, calm = 0.0, 0
        for step in range(steps):
            _there_and_back(basis[step], x, tape, A, delays, first, n_frames)
            larger, last = _lanczos_step(basis, step, x, alpha, beta, found)
            calm = calm + 1 if larger - found <= TOLERANCE * larger else 0
            found = larger
            if last or calm >= 2:
                break
        norm[row] = np.sqrt(found)
    return norm


@inline
def _there_and_back(q: Any, x: Any, tape: Any, A: Any, delays: Any, first: Any, n_frames: Any) -> None:
    """x := (F^k)' F^k q for k = n_frames; on the tape each line stands with all that enters it."""
    lines = delays.size
    at = 0
    for i in range(lines):
        for t in range(delays[i]):
            tape[first[i] + t] = q[at]
            at += 1
    for t in range(n_frames):
        for i in range(lines):
            value = 0.0
            for j in range(lines):
                value += A[i, j] * tape[first[j] + t]
            tape[first[i] + delays[i] + t] = value
    for i in range(lines):
        for t in range(n_frames):
            tape[first[i] + t] = 0.0
    for t in range(n_frames - 1, -1, -1):
        for i in range(lines):
            value = tape[first[i] + delays[i] + t]
            for j in range(lines):
                tape[first[j] + t] += A[i, j] * value
    at = 0
    for i in range(lines):
        for t in range(delays[i]):
            x[at] = tape[first[i] + t]
            at += 1

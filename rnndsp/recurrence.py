"""Recurrence matrices: free parameters in, a plain matrix out, with the adjoint of that map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnndsp.errors import ParameterError

__all__ = ["RECURRENCES", "Recurrence"]

Real = NDArray[np.float64]

# What "below one" means where it holds by construction: float32 still tells it from one, and the slowest decay that
# is left, 60 dB in 144 seconds at 48 kHz, is slower than any reverberation.
BELOW_ONE = 1 - 1e-6


class Recurrence(Protocol):
    """How the recurrent weights of ``n_gates`` gates over ``n`` units follow from free parameters.

    ``matrix`` gives U of shape (n_gates * n, n), or (n_gates * n,) when the recurrence is diagonal.
    """

    @property
    def param(self) -> str:
        """Name of the free parameters."""

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        """Shape of the free parameters."""

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> Real:
        """Random free parameters to start training from."""

    def matrix(self, free: NDArray[Any], n: int) -> Real:
        """U from the free parameters."""

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> Real:
        """Derivative by the free parameters from that by U."""


class Dense:
    """U itself; starts uniform within ±1/sqrt(n), as PyTorch does."""

    param = "U"

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return n_gates * n, n

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> Real:
        return np.asarray(rng.uniform(-1, 1, self.shape(n_gates, n)) / np.sqrt(n))

    def matrix(self, free: NDArray[Any], n: int) -> Real:
        return free.astype(np.float64)

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> Real:
        return dU


class Diagonal(Dense):
    """One number a unit and gate: each unit remembers alone (Li et al. 2018, "IndRNN"; Subakan & Smaragdis 2017)."""

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return (n_gates * n,)

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> Real:
        return rng.uniform(-1, 1, self.shape(n_gates, n))


class StableDiagonal(Diagonal):
    r"""A diagonal U with every entry within (-1, 1), wherever training moves the free parameters.

    .. math:: U = \tanh(\nu)

    A linear, tanh or ReLU unit with it forgets its state: in ``Elman`` it is proved to be contracting.
    """

    param = "U_rates"

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> Real:
        return np.asarray(np.arctanh(BELOW_ONE * super().initial(n_gates, n, rng)))

    def matrix(self, free: NDArray[Any], n: int) -> Real:
        return np.asarray(BELOW_ONE * np.tanh(free.astype(np.float64)))

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> Real:
        return np.asarray(BELOW_ONE * dU * (1 - np.tanh(free.astype(np.float64)) ** 2))


class _Gatewise(ABC):
    """Each gate's square matrix made alone, of its own row of free parameters."""

    param: str

    @abstractmethod
    def _row(self, n: int) -> tuple[int, ...]:
        """Shape of one gate's free parameters."""

    @abstractmethod
    def _initial(self, n: int, rng: np.random.Generator) -> Real: ...

    @abstractmethod
    def _matrix(self, row: Real, n: int) -> Real: ...

    @abstractmethod
    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        """Derivative by the row from G, that by the matrix."""

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return n_gates, *self._row(n)

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> Real:
        return np.array([self._initial(n, rng) for _ in range(n_gates)]).reshape(self.shape(n_gates, n))

    def matrix(self, free: NDArray[Any], n: int) -> Real:
        with np.errstate(all="ignore"):
            U = np.concatenate([self._matrix(row, n) for row in free.astype(np.float64)])
        if not np.isfinite(U).all():
            raise ParameterError(f"{self.param} holds numbers up to {np.max(np.abs(free)):g}, too large for a matrix")
        return U

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> Real:
        gates = zip(free.astype(np.float64), dU.reshape(len(free), n, n).astype(np.float64), strict=True)
        return np.array([self._adjoint(row, n, G) for row, G in gates]).reshape(free.shape)


def _skew(below: Real, n: int) -> Real:
    """The skew-symmetric matrix with these entries below the diagonal."""
    S = np.zeros((n, n))
    S[np.tril_indices(n, -1)] = below
    return S - S.T


class Orthogonal(_Gatewise):
    r"""Every gate's matrix orthogonal, by the exponential of a skew-symmetric one.

    .. math:: U = \exp(S), \qquad S = -S^T

    The n(n-1)/2 entries below the diagonal of each S are free, and reach every rotation (Lezcano-Casado &
    Martínez-Rubio 2019, "Cheap orthogonal constraints in neural networks").
    """

    param = "U_skew"

    def _row(self, n: int) -> tuple[int, ...]:
        return (n * (n - 1) // 2,)

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return np.asarray(rng.uniform(-np.pi, np.pi, self._row(n)) / np.sqrt(n))

    def _matrix(self, row: Real, n: int) -> Real:
        from scipy.linalg import expm

        if n < 2:
            return np.eye(n)
        # beyond, no digit of the angles is left, and expm fails in one way or another
        return np.asarray(expm(_skew(row, n))) if np.max(np.abs(row)) < 1e15 else np.full((n, n), np.nan)

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        from scipy.linalg import expm_frechet

        if n < 2:
            return np.zeros(0)
        # the derivative of exp at S in direction E, transposed, is that at S.T in direction G
        dS: Any = expm_frechet(_skew(row, n).T, np.ascontiguousarray(G), compute_expm=False)
        return np.asarray((dS - dS.T)[np.tril_indices(n, -1)])


class Householder(_Gatewise):
    r"""Every gate's matrix orthogonal, as a product of n reflections.

    .. math:: U = H_1 \cdots H_n, \qquad H_i = I - 2\,v_i v_i^T / v_i^T v_i

    The v_i are free (where one is zero, H_i = I) and reach every orthogonal matrix of determinant (-1)^n: all rotations
    if n is even, all reflections if it is odd (Mhammedi et al. 2017, "Efficient orthogonal parametrisation of recurrent
    neural networks using Householder reflections").
    """

    param = "U_mirrors"

    def _row(self, n: int) -> tuple[int, ...]:
        return n, n

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return rng.standard_normal((n, n))

    @staticmethod
    def _normals(row: Real) -> tuple[Real, Real]:
        """Unit vectors, and how long they were."""
        length = np.linalg.norm(row, axis=1, keepdims=True)
        return row / np.where(length > 0, length, 1), length

    def _matrix(self, row: Real, n: int) -> Real:
        U = np.eye(n)
        for v in self._normals(row)[0][::-1]:
            U -= 2 * np.outer(v, v @ U)
        return U

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        normals, length = self._normals(row)
        P, dP, d = self._matrix(row, n), G.copy(), np.zeros((n, n))
        for i, v in enumerate(normals):
            P -= 2 * np.outer(v, v @ P)  # now the product of the later ones, as a reflection undoes itself
            dH = dP @ P.T
            d[i] = -2 * (dH @ v + dH.T @ v)
            dP -= 2 * np.outer(v, v @ dP)
        along = np.sum(d * normals, axis=1, keepdims=True)
        return np.asarray((d - along * normals) / np.where(length > 0, length, np.inf))


class Oscillating(_Gatewise):
    r"""Damped oscillators: rotations that shrink, two units each, all eigenvalues inside the unit circle.

    .. math::
        U = \operatorname{diag}(R_1, R_2, \ldots), \qquad
        R_k = r_k \begin{pmatrix} \cos\theta_k & -\sin\theta_k \\ \sin\theta_k & \cos\theta_k \end{pmatrix}, \qquad
        r_k = \mathrm{e}^{-\mathrm{e}^{\nu_k}}

    with eigenvalues r_k exp(±i θ_k); with n odd the last unit has r_k alone. Free are first all ν, then all θ. U is
    normal, its 2-norm being the largest r: in ``Elman`` it is proved to be contracting (Orvieto et al. 2023,
    "Resurrecting recurrent neural networks for long sequences", there with complex numbers).
    """

    param = "U_modes"

    def _row(self, n: int) -> tuple[int, ...]:
        return (n,)

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        radius = np.sqrt(rng.uniform(0.25, 0.99, n - n // 2))  # even over the ring
        return np.concatenate([np.log(-np.log(radius)), rng.uniform(0, np.pi, n // 2)])

    @staticmethod
    def _parts(row: Real, n: int) -> tuple[Real, Real, Real, Real]:
        """ν, r, and r cos θ and r sin θ of the pairs."""
        nu, theta = np.split(row, [n - n // 2])
        r = BELOW_ONE * np.exp(-np.exp(nu))
        return nu, r, r[: n // 2] * np.cos(theta), r[: n // 2] * np.sin(theta)

    def _matrix(self, row: Real, n: int) -> Real:
        _, r, x, y = self._parts(row, n)
        U, even = np.diag(np.repeat(r, 2)[:n]), 2 * np.arange(n // 2)
        U[even, even] = U[even + 1, even + 1] = x
        U[even + 1, even], U[even, even + 1] = y, -y
        return U

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        nu, r, x, y = self._parts(row, n)
        even = 2 * np.arange(n // 2)
        dx, dy = G[even, even] + G[even + 1, even + 1], G[even + 1, even] - G[even, even + 1]
        by_log_r = np.append(dx * x + dy * y, [G[-1, -1] * r[-1]] * (n % 2))
        with np.errstate(over="ignore", invalid="ignore"):
            by_nu = np.where(r > 0, -by_log_r * np.exp(nu), 0.0)
        return np.concatenate([by_nu, dy * x - dx * y])


class Antisymmetric(_Gatewise):
    r"""Skew-symmetric and a little damped: all eigenvalues have the same real part -γ.

    .. math:: U = S - \gamma I, \qquad S = -S^T, \quad \gamma = \mathrm{e}^{\delta}

    Free are δ, then the n(n-1)/2 entries below the diagonal of S.

    Stable is the *differential* equation h' = tanh(U h + ...) about its rest, as its eigenvalues all lie in the left
    half-plane. By itself that says nothing of h[t] = tanh(U h[t-1] + ...), whose eigenvalues have magnitude
    sqrt(γ² + ω²). Euler's step h[t] = h[t-1] + ε tanh(U h[t-1] + ...) is stable about its rest exactly if all
    \|1 + ε λ\| <= 1, that is, with λ = -γ ± iω,

    .. math:: \varepsilon \le \frac{2\gamma}{\gamma^2 + \omega^2} \quad\text{for every } \omega,

    and never without damping, γ = 0 (Chang et al. 2019, "AntisymmetricRNN").
    """

    param = "U_damped"

    def _row(self, n: int) -> tuple[int, ...]:
        return (1 + n * (n - 1) // 2,)

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return np.append(np.log(0.1), rng.standard_normal(n * (n - 1) // 2) / np.sqrt(n))

    def _matrix(self, row: Real, n: int) -> Real:
        return np.asarray(_skew(row[1:], n) - np.exp(row[0]) * np.eye(n))

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        return np.append(-np.exp(row[0]) * np.trace(G), (G - G.T)[np.tril_indices(n, -1)])


class Contracting(_Gatewise):
    r"""A contraction in a norm of its own, with the units weighted.

    .. math:: U = D^{-1} Q D, \qquad Q = X (I + X^T X)^{-1/2}, \quad D = \operatorname{diag}(\mathrm{e}^{\delta})

    The rows of X and then δ are free. The singular values of Q are those of X, s, as s / sqrt(1 + s²): so
    \|D U D^{-1}\|_2 < 1, and of all U for which some D does that none is out of reach. A unit whose slope lies within
    [0, 1], as that of tanh and ReLU does, keeps the inequality: the cell forgets its initial state whatever comes in
    (Buehner & Young 2006, "A tighter bound for the echo state property").
    """

    param = "U_contraction"

    def _row(self, n: int) -> tuple[int, ...]:
        return n + 1, n

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return np.vstack([2 * rng.standard_normal((n, n)) / np.sqrt(n), np.zeros(n)])

    def scaling(self, free: NDArray[Any]) -> Real:
        """The diagonal of D for every gate, (n_gates, n), which certifies: the 2-norm of D U D^-1 is below one."""
        delta = free[:, -1].astype(np.float64)
        return np.asarray(np.exp(delta - delta.mean(axis=1, keepdims=True)))

    def _matrix(self, row: Real, n: int) -> Real:
        return np.asarray(self._ratios(row) * shrunk(row[:-1]))

    @staticmethod
    def _ratios(row: Real) -> Real:
        """d_j / d_i, and the factor that keeps rounding from the bound."""
        return np.asarray(BELOW_ONE * np.exp(row[-1] - row[-1][:, None]))

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        ratios = self._ratios(row)
        by_log = G * ratios * shrunk(row[:-1])
        return np.vstack([shrunk_adjoint(row[:-1], ratios * G), by_log.sum(axis=0) - by_log.sum(axis=1)])


def shrunk(X: Real) -> Real:
    """X (I + X^T X)^(-1/2): the singular values s become s / sqrt(1 + s²), all below one."""
    try:
        W, s, V = np.linalg.svd(X, full_matrices=False)
    except np.linalg.LinAlgError:  # infinity on the way
        return np.full(X.shape, np.nan)
    return np.asarray(W * (s / np.hypot(1, s)) @ V)


def shrunk_adjoint(X: Real, G: Real) -> Real:
    r"""Derivative by X from G, that by :func:`shrunk` of it.

    In the coordinates of the singular vectors an entry (i, j) takes part in a symmetric and a skew one, which f(s) = s
    / c, c = sqrt(1 + s²), stretches by (f_i ∓ f_j) / (s_i ∓ s_j); with t = (s_i c_j + s_j c_i) / (s_i + s_j), and
    nothing to cancel, these are 1 / (t c_i c_j) and t / (c_i c_j).
    """
    W, s, V = np.linalg.svd(X)
    m, n = X.shape
    # singular values that a rectangular matrix lacks are zero, on either side
    left, right = np.zeros(m), np.zeros(n)
    left[: s.size] = right[: s.size] = s
    a, b = left[:, None], right
    ca, cb = np.hypot(1, a), np.hypot(1, b)
    total = a + b
    t = np.where(total > 0, (a * cb + b * ca) / np.where(total > 0, total, 1), 1.0)
    even, odd = 1 / (t * ca * cb), t / (ca * cb)
    g = W.T @ G @ V.T
    k = s.size
    mirrored = np.zeros_like(g)
    mirrored[:k, :k] = g[:k, :k].T
    return np.asarray(W @ ((even + odd) / 2 * g + (even - odd) / 2 * mirrored) @ V)


RECURRENCES: dict[str, Recurrence] = {
    "dense": Dense(),
    "diagonal": Diagonal(),
    "stable_diagonal": StableDiagonal(),
    "orthogonal": Orthogonal(),
    "householder": Householder(),
    "oscillating": Oscillating(),
    "antisymmetric": Antisymmetric(),
    "contracting": Contracting(),
}


def recurrence(name: str) -> Recurrence:
    """The recurrence of that name."""
    if name not in RECURRENCES:
        raise ParameterError(f"recurrence={name!r}: choose one of {sorted(RECURRENCES)}")
    return RECURRENCES[name]

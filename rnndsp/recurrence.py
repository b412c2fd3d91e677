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


class _Skewed(_Gatewise):
    """Orthogonal matrices as functions of a skew-symmetric one, by its eigenvalues: orthogonal to rounding."""

    def _row(self, n: int) -> tuple[int, ...]:
        return (n * (n - 1) // 2,)

    @staticmethod
    def _modes(row: Real, n: int) -> tuple[Real, NDArray[np.complex128]]:
        """λ and vectors of S = V diag(-iλ) V^H."""
        if not np.max(np.abs(row), initial=0) < 1e9:  # beyond, small angles lose their digits to large ones
            return np.full(n, np.nan), np.full((n, n), np.nan + 0j)
        values, vectors = np.linalg.eigh(1j * _skew(row, n))
        return values, vectors


class Orthogonal(_Skewed):
    r"""Every gate's matrix orthogonal, by the exponential of a skew-symmetric one.

    .. math:: U = \exp(S), \qquad S = -S^T

    The n(n-1)/2 entries below the diagonal of each S are free, and reach every rotation (Lezcano-Casado &
    Martínez-Rubio 2019, "Cheap orthogonal constraints in neural networks").
    """

    param = "U_skew"

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return np.asarray(rng.uniform(-np.pi, np.pi, self._row(n)) / np.sqrt(n))

    def _matrix(self, row: Real, n: int) -> Real:
        w, V = self._modes(row, n)
        return np.asarray((V * np.exp(-1j * w) @ V.conj().T).real)

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        w, V = self._modes(row, n)
        # divided differences of the exponential, conjugated (Daleckii and Krein 1965)
        slope = np.exp(0.5j * (w[:, None] + w)) * np.sinc((w[:, None] - w) / (2 * np.pi))
        dS = (V @ (slope * (V.conj().T @ G @ V)) @ V.conj().T).real
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


class Cayley(_Skewed):
    r"""Every gate's matrix orthogonal, by Cayley's transform.

    .. math:: U = (I + S)^{-1} (I - S)\, \Sigma, \qquad S = -S^T, \quad \Sigma = \operatorname{diag}(1, -1, 1, \ldots)

    The n(n-1)/2 entries below the diagonal of each S are free; at the start they are normal, of variance 1/n. Out of
    reach are the U whose product U Σ has an eigenvalue -1, which are limits of others, and those of determinant other
    than that of Σ. The signs of Σ stay as they are: without them U itself could have no eigenvalue -1, and would keep
    away from it (Helfrich et al. 2018, "Orthogonal recurrent neural networks with scaled Cayley transform").
    """

    param = "U_cayley"

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return np.asarray(rng.standard_normal(self._row(n)) / np.sqrt(n))

    @staticmethod
    def _signs(n: int) -> Real:
        return np.where(np.arange(n) % 2, -1.0, 1.0)

    def _matrix(self, row: Real, n: int) -> Real:
        w, V = self._modes(row, n)
        return np.asarray((V * np.exp(2j * np.arctan(w)) @ V.conj().T).real * self._signs(n))

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        # with Y = U diag(signs): (I + S) dY = -dS (I + Y), and I + Y = 2 (I + S)^-1
        w, V = self._modes(row, n)
        inverse = (V / (1 - 1j * w) @ V.conj().T).real
        dS = -2 * inverse.T @ (G * self._signs(n)) @ inverse.T
        return np.asarray((dS - dS.T)[np.tril_indices(n, -1)])


class _Rotations(_Gatewise):
    """Layers of rotations, each in the planes of disjoint pairs of units, one free angle a pair."""

    @abstractmethod
    def _layers(self, n: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """First and second units of the pairs of each layer; the first layer meets the state first."""

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        return rng.uniform(-np.pi, np.pi, self._row(n))

    def _turns(self, row: Real, n: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64], Real, slice]]:
        """Each layer's pairs, angles, and where these stand."""
        found, start = [], 0
        for i, j in self._layers(n):
            here = slice(start, start + i.size)
            found.append((i, j, row[here, None], here))
            start = here.stop
        return found

    def _matrix(self, row: Real, n: int) -> Real:
        U = np.eye(n)
        for i, j, angle, _ in self._turns(row, n):
            _turn(U, i, j, angle)
        return U

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        P, dP, d = self._matrix(row, n), G.copy(), np.zeros(row.shape)
        for i, j, angle, here in reversed(self._turns(row, n)):
            d[here] = np.sum(dP[j] * P[i] - dP[i] * P[j], axis=1)
            for M in (P, dP):  # to where they were before this layer
                _turn(M, i, j, -angle)
        return d


def _turn(M: Real, i: NDArray[np.int64], j: NDArray[np.int64], angle: Real) -> None:
    """Rotate pairs of rows in place."""
    cos, sin = np.cos(angle), np.sin(angle)
    M[i], M[j] = cos * M[i] - sin * M[j], sin * M[i] + cos * M[j]


class Givens(_Rotations):
    r"""Every gate's matrix orthogonal, as layers of rotations of neighbours.

    .. math:: U = G_L \cdots G_1, \qquad G_1 = R_{01} R_{23} \cdots, \quad G_2 = R_{12} R_{34} \cdots, \quad
              G_3 = R_{01} R_{23} \cdots, \quad \ldots

    The angles are free, and at the start uniform. With n layers, as "givens" has them, there are n(n-1)/2, and they
    reach every rotation. With fewer, "givens:4" say, each unit meets only those at most L away (Jing et al. 2017,
    "Tunable efficient unitary neural networks (EUNN) and their application to RNNs"; Clements et al. 2016, "Optimal
    design for universal multiport interferometers").
    """

    param = "U_angles"

    def __init__(self, n_layers: int | None = None) -> None:
        self._n_layers = n_layers

    def _depth(self, n: int) -> int:
        depth = n if self._n_layers is None else self._n_layers
        if depth > n:
            raise ParameterError(f"recurrence='givens:{depth}': {n} layers reach every rotation of {n} units")
        return depth

    def _row(self, n: int) -> tuple[int, ...]:
        depth = self._depth(n)
        return ((depth + 1) // 2 * (n // 2) + depth // 2 * ((n - 1) // 2),)

    def _layers(self, n: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        firsts = [np.arange(layer % 2, n - 1, 2) for layer in range(self._depth(n))]
        return [(i, i + 1) for i in firsts]


class Butterfly(_Rotations):
    r"""Every gate's matrix orthogonal, as rotations in the order of the fast Fourier transform.

    .. math:: U = G_{\log_2 n} \cdots G_1, \qquad G_k = \prod_i R_{i,\, i + 2^{k-1}}
              \quad\text{for all } i \text{ whose bit } k \text{ is zero}

    The angles, (n/2) log2(n), are free, and at the start uniform. Every unit meets every other, but of all rotations
    these are few. Where n is no power of two, units without a partner are left alone in that layer, so that some pairs
    do not meet (Jing et al. 2017, "Tunable efficient unitary neural networks (EUNN) and their application to RNNs").
    """

    param = "U_butterfly"

    def _row(self, n: int) -> tuple[int, ...]:
        return (sum(i.size for i, _ in self._layers(n)),)

    def _layers(self, n: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        units = np.arange(n)
        strides = [1 << k for k in range((n - 1).bit_length())]
        firsts = [units[(units & stride == 0) & (units + stride < n)] for stride in strides]
        return [(i, i + stride) for i, stride in zip(firsts, strides, strict=True)]


class UnitaryFactors(_Gatewise):
    r"""Every gate's matrix orthogonal: the unitary product of the uRNN, of size m = n/2, in real numbers.

    .. math::
        U = \begin{pmatrix} \Re W & -\Im W \ \Im W & \Re W \end{pmatrix}, \qquad
        W = D_3 R_2 F^{-1} D_2 \Pi R_1 F D_1, \qquad
        D_k = \operatorname{diag}(\mathrm{e}^{\mathrm{i}\theta_k}), \quad R_k = I - 2\,v_k v_k^H / v_k^H v_k

    with F the unitary discrete Fourier transform and Π a fixed permutation. The first m units are the real parts, the
    others the imaginary ones; n is even. Free are 7m numbers: the three θ, the real parts of v_1 and v_2, and their
    imaginary parts. As unitary matrices have m² free numbers, for m > 7 nearly all are out of reach. At the start the
    angles are uniform and the v normal (Arjovsky et al. 2016, "Unitary evolution recurrent neural networks"; Wisdom et
    al. 2016, "Full-capacity unitary recurrent neural networks").
    """

    param = "U_factors"

    def _row(self, n: int) -> tuple[int, ...]:
        if n % 2:
            raise ParameterError(f"recurrence='urnn' takes units in pairs, real and imaginary parts: not {n} of them")
        return 7, n // 2

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        m = n // 2
        return np.vstack([rng.uniform(-np.pi, np.pi, (3, m)), rng.standard_normal((4, m))])

    @staticmethod
    def _order(m: int) -> NDArray[np.int64]:
        """Π: fractional parts of multiples of the golden ratio, by their size."""
        return np.argsort((np.arange(1, m + 1) ** 2 * ((1 + np.sqrt(5)) / 2)) % 1, kind="stable")

    @staticmethod
    def _normals(row: Real) -> tuple[NDArray[np.complex128], Real]:
        """v_1 and v_2 as unit vectors, and how long they were."""
        v = np.asarray(row[3:5] + 1j * row[5:], np.complex128)
        length = np.linalg.norm(v, axis=1, keepdims=True)
        return v / np.where(length > 0, length, 1), length

    def _product(self, row: Real) -> tuple[list[NDArray[np.complex128]], NDArray[np.complex128]]:
        """W, and what it is made of: after D_1, before R_1, after D_2, before R_2."""
        phases = np.exp(1j * row[:3, :, None])
        v, _ = self._normals(row)
        turned = phases[0] * np.eye(row.shape[1])
        before = np.fft.fft(turned, axis=0, norm="ortho")
        middle = phases[1] * _mirrored(before, v[0])[self._order(row.shape[1])]
        back = np.fft.ifft(middle, axis=0, norm="ortho")
        return [turned, before, middle, back], phases[2] * _mirrored(back, v[1])

    def _matrix(self, row: Real, n: int) -> Real:
        W = self._product(row)[1]
        return np.asarray(np.block([[W.real, -W.imag], [W.imag, W.real]]))

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        m = n // 2
        (turned, before, middle, back), W = self._product(row)
        (first, second), length = self._normals(row)
        phases = np.exp(1j * row[:3, :, None])
        dW = G[:m, :m] + G[m:, m:] + 1j * (G[m:, :m] - G[:m, m:])
        dback, by_second = _mirrored_adjoint(back, second, phases[2].conj() * dW)
        dmiddle = np.fft.fft(dback, axis=0, norm="ortho")
        dshuffled = np.empty_like(dmiddle)
        dshuffled[self._order(m)] = phases[1].conj() * dmiddle
        dbefore, by_first = _mirrored_adjoint(before, first, dshuffled)
        dturned = np.fft.ifft(dbefore, axis=0, norm="ortho")
        stages = ((dturned, turned), (dmiddle, middle), (dW, W))
        by_angle = [np.sum((d * value.conj()).imag, axis=1) for d, value in stages]
        normals, by_normal = np.array([first, second]), np.array([by_first, by_second])
        along = np.sum((normals.conj() * by_normal).real, axis=1, keepdims=True)
        by_v = (by_normal - along * normals) / np.where(length > 0, length, np.inf)
        return np.vstack([*by_angle, by_v.real, by_v.imag])


def _mirrored(M: NDArray[np.complex128], v: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(I - 2 v v^H) M for a unit vector v."""
    return np.asarray(M - 2 * np.outer(v, v.conj() @ M))


def _mirrored_adjoint(
    M: NDArray[np.complex128], v: NDArray[np.complex128], G: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Derivatives by M and by v from G, that by :func:`_mirrored`; that by v as if it were free."""
    return _mirrored(G, v), -2 * (G @ (M.conj().T @ v) + M @ (G.conj().T @ v))


class FullCapacity(_Gatewise):
    r"""Every gate's matrix orthogonal, as the orthogonal matrix that is nearest to a free one: its polar factor.

    .. math:: U = X (X^T X)^{-1/2}

    The n² entries of X are free, and reach every orthogonal matrix, of either determinant; where X is singular the
    nearest one is not unique, and one is taken. At the start X is orthogonal, drawn uniformly (Haar). There, a step
    along the gradient is, to first order, the step on the manifold itself of Wisdom et al. 2016, "Full-capacity unitary
    recurrent neural networks".
    """

    param = "U_full"

    def _row(self, n: int) -> tuple[int, ...]:
        return n, n

    def _initial(self, n: int, rng: np.random.Generator) -> Real:
        Q, R = np.linalg.qr(rng.standard_normal((n, n)))
        return np.asarray(Q * np.sign(np.diag(R)))

    def _matrix(self, row: Real, n: int) -> Real:
        try:
            W, _, V = np.linalg.svd(row)
        except np.linalg.LinAlgError:
            return np.full((n, n), np.nan)
        return np.asarray(W @ V)

    def _adjoint(self, row: Real, n: int, G: Real) -> Real:
        # in the coordinates of the singular vectors dU is the skew part of dX, entry (i, j) over the mean of s_i, s_j
        W, s, V = np.linalg.svd(row)
        g, total = W.T @ G @ V.T, s[:, None] + s
        return np.asarray(W @ ((g - g.T) / np.where(total > 0, total, np.inf)) @ V)


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
    "cayley": Cayley(),
    "givens": Givens(),
    "butterfly": Butterfly(),
    "urnn": UnitaryFactors(),
    "full_capacity": FullCapacity(),
    "oscillating": Oscillating(),
    "antisymmetric": Antisymmetric(),
    "contracting": Contracting(),
}


def recurrence(name: str) -> Recurrence:
    """The recurrence of that name; "givens" may say how many layers, as in "givens:4"."""
    if name in RECURRENCES:
        return RECURRENCES[name]
    kind, _, n_layers = str(name).partition(":")
    if kind == "givens" and n_layers.isdecimal() and int(n_layers):
        return Givens(int(n_layers))
    raise ParameterError(f"recurrence={name!r}: choose one of {sorted(RECURRENCES)}, or 'givens:4' for 4 layers")

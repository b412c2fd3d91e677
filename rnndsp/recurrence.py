"""Recurrence matrices: free parameters in, a plain matrix out, with the adjoint of that map."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnndsp.errors import ParameterError

__all__ = ["RECURRENCES", "Recurrence"]


class Recurrence(Protocol):
    """How the recurrent weights of ``n_gates`` gates over ``n`` units follow from free parameters.

    ``matrix`` gives U of shape (n_gates * n, n), or (n_gates * n,) when the recurrence is diagonal.
    """

    param: str

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        """Shape of the free parameters."""

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Random free parameters to start training from."""

    def matrix(self, free: NDArray[Any], n: int) -> NDArray[np.float64]:
        """U from the free parameters."""

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> NDArray[np.float64]:
        """Derivative by the free parameters from that by U."""


class Dense:
    """U itself; starts uniform within ±1/sqrt(n), as PyTorch does."""

    param = "U"

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return n_gates * n, n

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.asarray(rng.uniform(-1, 1, self.shape(n_gates, n)) / np.sqrt(n))

    def matrix(self, free: NDArray[Any], n: int) -> NDArray[np.float64]:
        return free.astype(np.float64)

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> NDArray[np.float64]:
        return dU


class Diagonal(Dense):
    """One number a unit and gate: each unit remembers alone (Li et al. 2018, "IndRNN"; Subakan & Smaragdis 2017)."""

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return (n_gates * n,)

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(-1, 1, self.shape(n_gates, n))


class Orthogonal:
    r"""Every gate's matrix orthogonal, by the exponential of a skew-symmetric one.

    .. math:: U = \exp(S), \qquad S = -S^T

    The n(n-1)/2 entries below the diagonal of each S are free, and reach every rotation (Lezcano-Casado &
    Martínez-Rubio 2019, "Cheap orthogonal constraints in neural networks").
    """

    param = "U_skew"

    def shape(self, n_gates: int, n: int) -> tuple[int, ...]:
        return n_gates, n * (n - 1) // 2

    def initial(self, n_gates: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.asarray(rng.uniform(-np.pi, np.pi, self.shape(n_gates, n)) / np.sqrt(n))

    def _skew(self, row: NDArray[Any], n: int) -> NDArray[np.float64]:
        S = np.zeros((n, n))
        S[np.tril_indices(n, -1)] = row
        return S - S.T

    def matrix(self, free: NDArray[Any], n: int) -> NDArray[np.float64]:
        from scipy.linalg import expm

        blocks = [expm(self._skew(row, n)) for row in free] if n > 1 else [np.eye(n)] * len(free)
        return np.concatenate(blocks)

    def adjoint(self, free: NDArray[Any], n: int, dU: NDArray[Any]) -> NDArray[np.float64]:
        from scipy.linalg import expm_frechet

        below = np.tril_indices(n, -1)
        rows = []
        for row, G in zip(free, dU.reshape(len(free), n, n), strict=True):
            # the derivative of exp at S in direction E, transposed, is that at S.T in direction G
            dS: Any = expm_frechet(self._skew(row, n).T, np.ascontiguousarray(G), compute_expm=False) if n > 1 else G
            rows.append(dS[below] - dS.T[below])
        return np.array(rows).reshape(free.shape)


RECURRENCES: dict[str, Recurrence] = {"dense": Dense(), "diagonal": Diagonal(), "orthogonal": Orthogonal()}


def recurrence(name: str) -> Recurrence:
    """The recurrence of that name."""
    if name not in RECURRENCES:
        raise ParameterError(f"recurrence={name!r}: choose one of {sorted(RECURRENCES)}")
    return RECURRENCES[name]

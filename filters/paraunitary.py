"""Lossless filters of many channels with a finite impulse response."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, real_array, reals, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filters.fdn import orthogonal_matrix, require_orthogonal
from rnndsp.response import impulse_response
from rnndsp.statespace import DelayStateSpace, gain, series

__all__ = ["ParaunitaryFIR"]


class ParaunitaryFIR(DelayStateSpace):
    r"""A matrix of finite impulse responses that passes all energy at every frequency, from Vaidyanathan's blocks.

    .. math:: E(z) = V_L(z) \cdots V_1(z)\, E_0, \qquad V_k(z) = I - v_k v_k^T + z^{-m_k} v_k v_k^T, \quad |v_k| = 1,
              \quad E_0 E_0^T = I

    Each block delays one direction of the channels and leaves the others alone. With all m_k = 1 every paraunitary
    matrix of L taps after the first, of degree L, is such a product.

    Parameters
    ----------
    vectors : array, shape (L, n_channels)
        The v_k, of any length but zero.
    matrix : {"householder", "hadamard", "random", ...} or array, optional
        E_0: a kind of :func:`rnndsp.filters.orthogonal_matrix`, or the matrix itself; the identity when absent.
    delays : int or sequence of L int
        The m_k in samples.
    seed : int or Generator
        For the random matrix.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: field ``lines``, one line a block, see :class:`DelayStateSpace`; zero at rest.

    *Lossless*: as designed, [[A, B], [C, D]] is orthogonal, so what comes out plus what is stored is what went in, and
    the taps fulfil :math:`\sum_k E_k E_{k+l}^T = \delta_l I`.

    *Stability*: always, there being no feedback: all poles are 0.

    Raises
    ------
    ParameterError
        A vector of zeros, a matrix that is not orthogonal, or shapes that do not fit.

    References
    ----------
    P. P. Vaidyanathan (1993), "Multirate systems and filter banks".

    Examples
    --------
    >>> spread = ParaunitaryFIR.random(4, 6, delays=[1, 2, 4, 8, 16, 32])
    >>> spread.taps.shape
    (64, 4, 4)
    """

    def __init__(
        self,
        vectors: ArrayLike,
        *,
        matrix: str | ArrayLike | None = None,
        delays: ArrayLike = 1,
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        v = reals("vectors", vectors)
        if v.ndim != 2 or not v.shape[1]:
            raise ParameterError(f"vectors of shape {v.shape}: give one a row, (n_blocks, n_channels)")
        n = v.shape[1]
        length = np.linalg.norm(v, axis=1)
        if not np.all((length > 0) & np.isfinite(length)):
            raise ParameterError("every vector must be finite and other than zero, as it names a direction")
        if matrix is None:
            first = np.eye(n)
        else:
            first = orthogonal_matrix(n, matrix, seed=seed) if isinstance(matrix, str) else require_orthogonal(matrix)
        if len(first) != n:
            raise ParameterError(f"vectors of {n} channels and a matrix of shape {first.shape} do not fit")
        m = real_array("delays", delays)
        if m.shape not in ((), (len(v),)):
            raise ParameterError(f"{len(v)} vectors and delays of shape {m.shape}: give one delay, or one a vector")
        blocks = (_block(w, d) for w, d in zip(v / length[:, None], np.broadcast_to(m, len(v)), strict=True))
        direct: DelayStateSpace = gain(first)
        whole = reduce(series, blocks, direct)
        super().__init__(whole.A, whole.B, whole.C, whole.D, whole.delays, sample_rate=sample_rate)

    @classmethod
    def random(
        cls,
        n_channels: int,
        n_blocks: int,
        *,
        delays: ArrayLike = 1,
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> ParaunitaryFIR:
        """Uniformly random directions and first matrix (Haar).

        Parameters
        ----------
        n_channels, n_blocks : int
        delays : int or sequence of n_blocks int
            In samples.
        seed : int or Generator
        sample_rate : float, optional
            Hz.
        """
        rng, n = generator(seed), whole_number("n_channels", n_channels)
        vectors = rng.standard_normal((whole_number("n_blocks", n_blocks, least=0), n))
        return cls(vectors, matrix="random", delays=delays, seed=rng, sample_rate=sample_rate)

    @property
    def taps(self) -> NDArray[np.float64]:
        """The matrices E_k of its impulse response, shape (1 + sum(delays), n_channels, n_channels)."""
        return np.stack([impulse_response(self, self.n_states + 1, channel=i) for i in range(self.n_inputs)], axis=2)


def _block(v: NDArray[np.float64], m: Any) -> DelayStateSpace:
    """One direction delayed."""
    row = v[None, :]
    return DelayStateSpace(np.zeros((1, 1)), row, row.T, np.eye(v.size) - row.T * row, [m])

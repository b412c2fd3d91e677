"""Gerzon's multichannel allpass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import ParameterError
from rnndsp.filters.fdn import orthogonal_matrix, require_orthogonal
from rnndsp.statespace import DelayStateSpace

__all__ = ["GerzonAllpass"]


class GerzonAllpass(DelayStateSpace):
    r"""Delay lines closed by an orthogonal matrix so that every frequency passes with equal energy.

    .. math:: \begin{bmatrix} v[t] \\ y[t] \end{bmatrix} = V \begin{bmatrix} d[t] \\ u[t] \end{bmatrix}, \quad
              d_i[t] = v_i[t - m_i], \qquad
              V = \begin{bmatrix} -g\,U & \sqrt{1-g^2}\,I \\ \sqrt{1-g^2}\,U & g\,I \end{bmatrix}, \quad V V^T = I

    One line a channel; with one channel this is Schroeder's allpass (g + z^-m) / (1 + g z^-m).

    Parameters
    ----------
    delays : sequence of int
        Length m_i of each channel's line in samples.
    gain : float
        g, within (-1, 1).
    matrix : {"householder", "hadamard", "random"} or array
        U, orthogonal: a kind of :func:`rnndsp.filters.orthogonal_matrix`, or the matrix itself.
    seed : int or Generator
        For the random matrix.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: field ``lines``, see :class:`DelayStateSpace`; zero at rest.

    *Allpass*: as designed, V is orthogonal, so what comes out plus what is stored is what went in, ``|y|^2 + change of
    |lines|^2 = |u|^2``, and H(e^{jw}) is unitary at every frequency.

    *Stability*: for |g| < 1 all poles lie within the unit circle, whatever the delays: the loop matrix has norm |g|.

    Raises
    ------
    ParameterError
        |g| >= 1, a matrix that is not orthogonal, or of another size than the number of delays.

    References
    ----------
    M. A. Gerzon (1976), "Unitary (energy-preserving) multichannel networks with feedback", Electronics Letters 12. M.
    R. Schroeder, B. F. Logan (1961), "'Colorless' artificial reverberation".
    """

    def __init__(
        self,
        delays: Sequence[int] | NDArray[np.integer],
        *,
        gain: float = 0.6,
        matrix: str | ArrayLike = "householder",
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        if not -1 < gain < 1:
            raise ParameterError(f"{gain=} must lie within (-1, 1)")
        m = np.asarray(delays)
        U = orthogonal_matrix(m.size, matrix, seed=seed) if isinstance(matrix, str) else require_orthogonal(matrix)
        if m.ndim != 1 or len(U) != m.size:
            raise ParameterError(f"{m.size} delays of shape {m.shape} and a matrix of shape {U.shape} do not fit")
        through = np.sqrt(1 - gain**2)
        one = np.eye(m.size)
        super().__init__(-gain * U, through * one, through * U, gain * one, m, sample_rate=sample_rate)

    @classmethod
    def from_matrix(
        cls, V: ArrayLike, delays: Sequence[int] | NDArray[np.integer], *, sample_rate: float | None = None
    ) -> GerzonAllpass:
        """The allpass of any orthogonal V of size n + k: n delay lines, k channels.

        It is stable if no mode of the loop has modulus one.

        Raises
        ------
        ParameterError
            V is not orthogonal, or too small for the delays.
        """
        whole, m = require_orthogonal(V), np.asarray(delays)
        n = m.size
        if m.ndim != 1 or len(whole) <= n:
            raise ParameterError(f"V of size {len(whole)} leaves no channel beside {n} delay lines")
        k = len(whole) - n
        config = {"delays": tuple(int(i) for i in m), "n_inputs": k, "n_outputs": k}
        blocks = {"A": whole[:n, :n], "B": whole[:n, n:], "C": whole[n:, :n], "D": whole[n:, n:]}
        return cls._restore(config, blocks, sample_rate=sample_rate)

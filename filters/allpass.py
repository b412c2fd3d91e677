"""Allpasses of delay lines: Schroeder's and their series and nests, Gerzon's and Poletti's of many channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, reals, whole_numbers
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.fdn import lines_and_matrix, require_orthogonal
from rnndsp.stability.lossless import allpass_test, paraunitary_test, uniallpass_test
from rnndsp.statespace import DelayStateSpace, series, space

__all__ = ["GerzonAllpass", "closed_allpass", "nested_allpass", "poletti_allpass", "series_allpass", "vector_allpass"]

# Loops of so many states are tested by their Gramians, longer ones at all frequencies.
DENSE = 500


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
        through = _through(gain)
        m, U = lines_and_matrix(delays, matrix, seed)
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
        whole, m = require_orthogonal(V), whole_numbers("delays", delays)
        n = m.size
        if len(whole) <= n:
            raise ParameterError(f"V of size {len(whole)} leaves no channel beside {n} delay lines")
        k = len(whole) - n
        config = {"delays": tuple(int(i) for i in m), "n_inputs": k, "n_outputs": k}
        blocks = {"A": whole[:n, :n], "B": whole[:n, n:], "C": whole[n:, :n], "D": whole[n:, n:]}
        return cls._restore(config, blocks, sample_rate=sample_rate)


def _through(gain: float) -> float:
    """What passes where ``gain`` is reflected, so that both together have the energy of one."""
    if not -1 < number("gain", gain) < 1:
        raise ParameterError(f"{gain=} must lie within (-1, 1)")
    return math.sqrt(1 - gain**2)


# ---- Schroeder's, combined


def series_allpass(
    delays: Sequence[int] | NDArray[np.integer], *, gains: ArrayLike, sample_rate: float | None = None
) -> DelayStateSpace:
    r"""Schroeder's allpasses one after the other.

    .. math:: H(z) = \prod_k \frac{g_k + z^{-m_k}}{1 + g_k z^{-m_k}}

    Parameters
    ----------
    delays : sequence of int
        Length m_k of each line in samples.
    gains : array, shape of ``delays``
        Each g_k, within (-1, 1).
    sample_rate : float, optional
        Hz.

    Returns
    -------
    DelayStateSpace
        Its loop matrix is triangular with -g_k on the diagonal. Fed with white noise of variance one, line k holds
        samples of variance 1 - g_k².

    Raises
    ------
    ParameterError
        A gain out of range, delays that are no whole numbers of at least 1, or unlike numbers of both.

    References
    ----------
    M. R. Schroeder, B. F. Logan (1961), "'Colorless' artificial reverberation".

    Examples
    --------
    One line is Schroeder's allpass:

    >>> series_allpass([2], gains=[0.5])([1.0, 0.0, 0.0, 0.0, 0.0])
    array([ 0.5  ,  0.   ,  0.75 ,  0.   , -0.375])
    """
    m, g = _sections(delays, gains)
    return reduce(series, (_wrapped(None, *section, sample_rate) for section in zip(m, g, strict=True)))


def nested_allpass(
    delays: Sequence[int] | NDArray[np.integer], *, gains: ArrayLike, sample_rate: float | None = None
) -> DelayStateSpace:
    r"""Schroeder's allpasses one within the other: each has, behind its delay line, the one before in its loop.

    .. math:: H_0(z) = 1, \qquad H_k(z) = \frac{g_k + z^{-m_k} H_{k-1}(z)}{1 + g_k z^{-m_k} H_{k-1}(z)}

    Parameters
    ----------
    delays : sequence of int
        Length m_k of each line in samples, the innermost first.
    gains : array, shape of ``delays``
        Each g_k, within (-1, 1).
    sample_rate : float, optional
        Hz.

    Returns
    -------
    DelayStateSpace
        Its loop grows by a line a step,

        .. math:: A' = \begin{bmatrix} A & B \\ -gC & -gD \end{bmatrix}, \quad
                  B' = \begin{bmatrix} 0 \\ 1 - g^2 \end{bmatrix}, \quad
                  C' = \begin{bmatrix} C & D \end{bmatrix}, \quad D' = g.

        Fed with white noise of variance one, line k holds samples of variance :math:`\prod_{i \ge k} (1 - g_i^2)`. With
        lines of one sample it is the lattice of reflection coefficients g; ``uniallpass_test(filt).matrix`` is that of
        the normalised lattice.

    Raises
    ------
    ParameterError
        A gain out of range, delays that are no whole numbers of at least 1, or unlike numbers of both.

    References
    ----------
    W. G. Gardner (1992), "A real-time multichannel room simulator". A. H. Gray, J. D. Markel (1973), "Digital lattice
    and ladder filter synthesis".
    """
    m, g = _sections(delays, gains)
    inner: DelayStateSpace | None = None
    for section in zip(m, g, strict=True):
        inner = _wrapped(inner, *section, sample_rate)
    assert inner is not None
    return inner


def _sections(
    delays: Sequence[int] | NDArray[np.integer], gains: ArrayLike
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    m, g = whole_numbers("delays", delays), reals("gains", gains)
    if g.shape != m.shape:
        raise ParameterError(f"{m.size} delays and gains of shape {g.shape}: give one gain a delay")
    if not np.all(np.abs(g) < 1):
        raise ParameterError(f"{gains=} must lie within (-1, 1)")
    return m, g


def _wrapped(inner: DelayStateSpace | None, m: int, g: float, sample_rate: float | None) -> DelayStateSpace:
    """The allpass of a delay and what follows it in its loop."""
    A, B, C, D = (np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), np.eye(1))
    before = np.zeros(0, np.int64)
    if inner is not None:
        A, B, C, D, before = inner.A, inner.B, inner.C, inner.D, inner.delays
    return space(
        np.block([[A, B], [-g * C, -g * D]]),
        np.vstack([np.zeros_like(B), [[1 - g**2]]]),
        np.hstack([C, D]),
        np.array([[g]]),
        np.append(before, m),
        sample_rate=sample_rate,
    )


# ---- of many channels


def poletti_allpass(
    delays: Sequence[int] | NDArray[np.integer],
    *,
    gain: float = 0.6,
    matrix: str | ArrayLike = "householder",
    seed: int | np.random.Generator = 0,
    sample_rate: float | None = None,
) -> DelayStateSpace:
    r"""Poletti's unitary reverberator: Gerzon's allpass with its gain elsewhere.

    .. math:: \begin{bmatrix} v \\ y \end{bmatrix} =
              \begin{bmatrix} -g\,U & (1+g)\,I \\ (1-g)\,U & g\,I \end{bmatrix} \begin{bmatrix} d \\ u \end{bmatrix}

    Parameters
    ----------
    delays, gain, matrix, seed, sample_rate
        As of :class:`GerzonAllpass`.

    Returns
    -------
    DelayStateSpace
        With the response of :class:`GerzonAllpass`, for signals that are larger inside by
        :math:`\sqrt{(1+g)/(1-g)}`.

    Raises
    ------
    ParameterError
        \|g\| >= 1, a matrix that is not orthogonal, or of another size than the number of delays.

    References
    ----------
    M. A. Poletti (1995), "A unitary reverberator for reduced colouration in assisted reverberation systems".
    """
    same = GerzonAllpass(delays, gain=gain, matrix=matrix, seed=seed, sample_rate=sample_rate)
    larger = np.sqrt((1 + gain) / (1 - gain))
    return space(same.A, larger * same.B, same.C / larger, same.D, same.delays, sample_rate=sample_rate)


def vector_allpass(loop: Filter, *, gain: float = 0.6) -> DelayStateSpace:
    r"""Gerzon's allpass about any lossless network of as many channels.

    .. math:: H(z) = \big(I + g\,U(z)\big)^{-1} \big(g\,I + U(z)\big)

    Parameters
    ----------
    loop : Filter
        U(z), as for :func:`closed_allpass`.
    gain : float
        g, within (-1, 1).

    Returns
    -------
    DelayStateSpace
        Allpass again, and stable; so it can be the loop of the next one, behind a delay.

    Raises
    ------
    ParameterError
        \|g\| >= 1, or a loop that will not do.

    References
    ----------
    M. A. Gerzon (1976), "Unitary (energy-preserving) multichannel networks with feedback", Electronics Letters 12.

    Examples
    --------
    >>> from rnndsp import delay
    >>> inner = vector_allpass(delay(7, 2) >> GerzonAllpass([3, 5]), gain=0.5)
    >>> outer = vector_allpass(delay(11, 2) >> inner, gain=-0.3)
    """
    through, inner = _through(gain), _network(loop)
    one = np.eye(inner.n_inputs)
    return _closed(np.block([[-gain * one, through * one], [through * one, gain * one]]), inner)


def closed_allpass(V: ArrayLike, loop: Filter) -> DelayStateSpace:
    r"""The network of an orthogonal matrix with some of its channels closed by a lossless one: lossless again.

    .. math:: H(z) = D + C\,U(z) \big(I - A\,U(z)\big)^{-1} B, \qquad V = \begin{bmatrix} A & B \\ C & D \end{bmatrix},
              \quad V V^T = I

    Parameters
    ----------
    V : array, shape (n + k, n + k)
    loop : Filter
        U(z), with n inputs and outputs: linear, allpass (of a pure delay to a network of allpasses), and with at least
        a sample of delay on every way through it.

    Returns
    -------
    DelayStateSpace
        With k inputs and outputs, and the state of the loop. If no singular value of A is one, it is stable; otherwise
        a mode may stay in the loop for ever.

    Raises
    ------
    ParameterError
        V is not orthogonal, or too small for the loop; a loop that is not linear, not square, not lossless, or in which
        something comes through at once.

    References
    ----------
    M. A. Gerzon (1976), "Unitary (energy-preserving) multichannel networks with feedback", Electronics Letters 12.
    """
    return _closed(require_orthogonal(V), _network(loop))


def _closed(whole: NDArray[np.float64], inner: DelayStateSpace) -> DelayStateSpace:
    n = inner.n_inputs
    if len(whole) <= n:
        raise ParameterError(f"V of size {len(whole)} leaves no channel beside the {n} of the loop")
    A, B, C, D = whole[:n, :n], whole[:n, n:], whole[n:, :n], whole[n:, n:]
    return space(
        inner.A + inner.B @ A @ inner.C,
        inner.B @ B,
        C @ inner.C,
        D,
        inner.delays,
        sample_rate=inner.sample_rate,
    )


def _network(loop: Filter) -> DelayStateSpace:
    """A loop that Gerzon's theorem holds for, or a :class:`ParameterError`."""
    if not (isinstance(loop, Filter) and loop.is_linear and not loop.controls):
        raise ParameterError(f"the loop must be a linear filter without controls, not {loop!r}")
    linear = loop.linearize()
    if linear.n_inputs != linear.n_outputs:
        raise ParameterError(f"the loop has {linear.n_inputs} inputs and {linear.n_outputs} outputs: as many of each")
    if linear.D.any():
        raise ParameterError(
            f"the loop has a way without delay, of gain {np.max(np.abs(linear.D)):.3g}: put a delay before it, as "
            f"delay(1, {linear.n_inputs}) >> loop"
        )
    test = uniallpass_test(linear)
    if not test.holds:  # for all delays; perhaps for its own
        test = paraunitary_test(linear) if linear.n_states <= DENSE else allpass_test(linear)
    if not test.holds:
        raise ParameterError(f"the loop is not lossless: U^H U differs from the identity by {test.residual:.3g}")
    return linear

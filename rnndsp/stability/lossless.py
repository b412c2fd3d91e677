"""Networks that keep energy: tests that measure by how far they miss it, and what makes a loop an allpass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, reals, require_filter
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.response import in_pieces
from rnndsp.stability.gains import gramians
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, space

__all__ = [
    "Losslessness",
    "allpass_test",
    "complete_allpass",
    "paraunitary_test",
    "uniallpass_test",
    "unilossless_test",
]

# What counts as lossless: rounding leaves some 1e-15 to 1e-12, a matrix that is typed in with eight digits 1e-8.
TOLERANCE = 1e-9
# Singular values of a loop this near to one are rounding away from it.
ROUNDING = 1e-12
# Entries this small, of the largest one, are taken for zero.
LINK = 1e-12
# Numbers worked on at once, and multiplications that all frequency responses may cost.
AT_ONCE, MAX_WORK = 2**21, 2**30

Real = NDArray[np.float64]
Controls = Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Losslessness:
    """By how much a network misses what a lossless one fulfils.

    Attributes
    ----------
    residual : float
        The largest error in the equations of the test, whose terms are of size one; infinite or NaN where they have no
        solution at all.
    storage : ndarray, shape (n,) or (n_states, n_states), or None
        Energy of the state: weights w of the lines, of which one sample x_i holds w_i x_i², or P, for x^T P x.
    matrix : ndarray or None
        What the weights make of the network's matrix; orthogonal where the test is passed.
    """

    residual: float
    storage: Real | None = None
    matrix: Real | None = None

    @property
    def holds(self) -> bool:
        """Whether the residual is at most 1e-9."""
        return bool(self.residual <= TOLERANCE)


def unilossless_test(A: ArrayLike) -> Losslessness:
    r"""Whether delay lines closed by A are lossless however long they are.

    .. math:: A_k^T W_k A_k = W_k, \qquad W_k = \operatorname{diag}(w) > 0

    for every irreducible block A_k of A, which says that :math:`W_k^{1/2} A_k W_k^{-1/2}` is orthogonal.

    Parameters
    ----------
    A : array, shape (n, n)

    Returns
    -------
    Losslessness
        ``storage`` is w, free up to a factor in every block; ``matrix`` is :math:`W^{1/2} A W^{-1/2}`. What leads from
        one block to another is part of it, though not of the residual.

    Raises
    ------
    ParameterError
        No square matrix of finite numbers.

    Notes
    -----
    All poles then lie on the unit circle, for any delays. Where one block feeds another of the same mode, as in the
    triangular [[1, 1], [0, 1]], it still grows, as t: energy is kept where ``matrix`` as a whole is orthogonal.

    With U orthogonal and A = W^(-1/2) U W^(1/2), the entries of A and of the transpose of its inverse have the product
    U_ij² and the ratio w_j / w_i, whatever the weights. The log w follow from the ratios by least squares.

    References
    ----------
    S. J. Schlecht, E. A. P. Habets (2017), "On lossless feedback delay networks".
    """
    matrix = _square(A)
    found = _scaling(matrix, 0)
    if found is None:
        return Losslessness(np.inf)
    log_w, label = found
    scaled = _scaled(matrix, log_w)
    inside = np.where(label[:, None] == label, scaled, 0)
    return Losslessness(_miss(inside), _weights(log_w), scaled)


def uniallpass_test(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Losslessness:
    r"""Whether a network of delay lines is allpass however long they are.

    .. math:: \begin{bmatrix} A & B \\ C & D \end{bmatrix}^T \begin{bmatrix} W & \\ & I \end{bmatrix}
              \begin{bmatrix} A & B \\ C & D \end{bmatrix} = \begin{bmatrix} W & \\ & I \end{bmatrix}, \qquad
              W = \operatorname{diag}(w) > 0

    Parameters
    ----------
    filt : Filter
        With as many outputs as inputs.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    Losslessness
        ``storage`` is w, with which the energy that comes out and what more is stored is what went in; ``matrix`` is
        that of the same network with its lines scaled to weigh 1: the normalised form, orthogonal, which
        :meth:`rnndsp.filters.GerzonAllpass.from_matrix` takes.

    Raises
    ------
    ParameterError
        Unlike numbers of inputs and outputs.

    Notes
    -----
    The length of the lines costs nothing. It is a statement about all lengths: a network that fails may be allpass for
    its own, see :func:`paraunitary_test`. Poles lie within the unit circle, or on it where no input drives them and no
    output hears them.

    P = W^-1 is the diagonal matrix of the literature, which solves :math:`A P A^T + B B^T = P`.

    References
    ----------
    S. J. Schlecht (2021), "Allpass feedback delay networks".
    """
    linear = require_filter(filt).linearize(state, u, controls=controls)
    _require_balanced(linear)
    V = np.block([[linear.A, linear.B], [linear.C, linear.D]]).astype(np.float64)
    found = _scaling(V, linear.n_inputs)
    if found is None:
        return Losslessness(np.inf)
    scaled = _scaled(V, found[0])
    return Losslessness(_miss(scaled), _weights(found[0][: linear.delays.size]), scaled)


def paraunitary_test(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Losslessness:
    r"""Whether a decaying linear filter is lossless: all energy that goes in comes out, at any frequency.

    .. math:: A^T P A + C^T C = P, \qquad D^T C + B^T P A = 0, \qquad D^T D + B^T P B = I

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full, and at least as many outputs as inputs.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    Losslessness
        ``storage`` is P, the energy that a state will still give. The residual is the root of the mean over all
        frequencies of the squared entries of H^H H - I, so H^H H = I.

    Raises
    ------
    ParameterError
        Too many states; see :func:`uniallpass_test` and :func:`allpass_test` for those. A filter that does not decay.
        Fewer outputs than inputs, of which some input cannot come out.

    Notes
    -----
    P solves the first equation, and the others are looked at. As the coefficient of z^-k in H^H H is
    :math:`(D^T C + B^T P A) A^{k-1} B`, the second one is weighed with the states that the input reaches: hidden modes,
    and the units of the state, make no difference.

    References
    ----------
    P. P. Vaidyanathan (1993), "Multirate systems and filter banks".
    """
    linear = require_filter(filt).linearize(state, u, controls=controls)
    if linear.n_outputs < linear.n_inputs:
        raise ParameterError(f"{linear.n_inputs} inputs and {linear.n_outputs} outputs: energy of some input is lost")
    found = gramians(linear)
    A, B, C, D = linear.expand()._matrices
    P = found.observability
    with np.errstate(all="ignore"):
        across = D.T @ C + B.T @ P @ A
        direct = D.T @ D + B.T @ P @ B - np.eye(linear.n_inputs)
        reached = max(0.0, float(np.sum((across @ found.controllability) * across)))
        residual = float(np.sqrt(np.sum(direct**2) + 2 * reached))
    return Losslessness(residual, P)


def allpass_test(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Losslessness:
    r"""Whether a network has the same gain of one at every frequency, :math:`H^H H = I`, for the delays that it has.

    Parameters
    ----------
    filt : Filter
        With at least as many outputs as inputs.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    Losslessness
        With the residual alone, the largest entry of H^H H - I; NaN where a pole stands right on a frequency that
        is looked at.

    Raises
    ------
    ParameterError
        Fewer outputs than inputs, or too many samples of delay for as many lines and channels.

    Notes
    -----
    H^H H - I is a polynomial in z and 1/z, of degree at most the number of states n, over another one: so where it
    vanishes at 2n + 1 points of the circle it does everywhere, and as the filter is real, n + 2 of the upper half will
    do. Nothing is said of stability: one with its poles outside of the circle can pass as well.
    """
    linear = require_filter(filt).linearize(state, u, controls=controls)
    if linear.n_outputs < linear.n_inputs:
        raise ParameterError(f"{linear.n_inputs} inputs and {linear.n_outputs} outputs: energy of some input is lost")
    n, lines, channels = linear.n_states, linear.delays.size, linear.n_outputs
    if (n + 2) * (lines + channels) ** 3 > MAX_WORK:
        raise ParameterError(
            f"{n} samples of delay in {lines} lines of {channels} channels are too many to look at: see uniallpass_test"
        )
    w = np.linspace(0, np.pi, n + 2)
    residual = 0.0
    with np.errstate(all="ignore"):
        for part in np.array_split(w, 1 + w.size * channels**2 // AT_ONCE):
            H = in_pieces(linear, part)
            miss = np.max(np.abs(H.conj().transpose(0, 2, 1) @ H - np.eye(linear.n_inputs)), initial=0)
            residual = float(np.maximum(residual, miss))  # NaN stays
    return Losslessness(residual)


def complete_allpass(
    A: ArrayLike, delays: Sequence[int] | NDArray[np.integer] | None = None, *, sample_rate: float | None = None
) -> DelayStateSpace:
    r"""The allpass with a given loop matrix: inputs, outputs and direct sound that make the whole orthogonal.

    With the singular values of :math:`A = W S Z^T`, of which W_2, S_2, Z_2 belong to those below one,

    .. math:: B = W_2 \sqrt{I - S_2^2}, \qquad C = \sqrt{I - S_2^2}\, Z_2^T, \qquad D = -S_2

    Parameters
    ----------
    A : array, shape (n, n)
        No singular value above one. As many as are below one, so many channels it takes: the rank of I - A A^T.
    delays : sequence of n int, optional
        Lengths of the lines in samples; one sample each when absent.
    sample_rate : float, optional
        Hz.

    Returns
    -------
    DelayStateSpace
        A :class:`StateSpace` where all delays are one sample. Any rotation of its inputs or outputs is a completion as
        well.

    Raises
    ------
    ParameterError
        A singular value above one, or none below one; a matrix that is not square or not finite.

    Notes
    -----
    It is allpass whatever the delays. Its poles lie within the unit circle, or on it where no input drives them and no
    output hears them.

    References
    ----------
    S. J. Schlecht (2021), "Allpass feedback delay networks".
    """
    matrix = _square(A)
    n = len(matrix)
    m = np.ones(n, np.int64) if delays is None else real_array("delays", delays)
    if m.shape != (n,):
        raise ParameterError(f"delays of shape {m.shape} for a matrix of {n} lines: give one a line")
    W, s, Z = np.linalg.svd(matrix)
    if np.max(s, initial=0) > 1 + ROUNDING:
        raise ParameterError(
            f"A has a singular value of {s[0]:.13g}, above 1, and is no part of an orthogonal matrix: scale it down"
        )
    open_ = s < 1 - ROUNDING
    if not open_.any():
        raise ParameterError("A is orthogonal: the loop is closed, and nothing can enter or leave it")
    through = np.sqrt(1 - s[open_] ** 2)
    B, C = W[:, open_] * through, through[:, None] * Z[open_]
    return space(matrix, B, C, -np.diag(s[open_]), m, sample_rate=sample_rate)


# ---- diagonal weights


def _square(A: ArrayLike) -> Real:
    matrix = reals("A", A)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ParameterError(f"A has shape {matrix.shape}: it must be a square matrix")
    if not np.isfinite(matrix).all():
        raise ParameterError("A holds NaN or infinity")
    return matrix


def _require_balanced(linear: DelayStateSpace) -> None:
    if linear.n_outputs != linear.n_inputs:
        raise ParameterError(
            f"{linear.n_inputs} inputs and {linear.n_outputs} outputs: as many of the one as of the other are needed"
        )


def _scaling(V: Real, n_channels: int) -> tuple[Real, NDArray[np.int64]] | None:
    """log w for which W^(1/2) V W^(-1/2) is orthogonal, if any does, the last ``n_channels`` being 0; and which
    irreducible block each row is of. None where V is singular."""
    from scipy.linalg import matrix_balance
    from scipy.sparse.csgraph import connected_components

    if not len(V):
        return np.zeros(0), np.zeros(0, np.int64)
    with np.errstate(all="ignore"):
        # by powers of two, which is exact: the inverse of what is out of balance has fewer digits
        balanced, (scale, _) = matrix_balance(V, permute=False, separate=True)
        try:
            inverse = np.linalg.inv(balanced).T
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(inverse).all():
            return None
        ours, theirs = np.abs(balanced), np.abs(inverse)
        linked = (ours > LINK * np.max(ours)) & (theirs > LINK * np.max(theirs))
        weight = np.where(linked, np.sqrt(ours) * np.sqrt(theirs), 0)
        ratio = np.where(linked, np.log(theirs) - np.log(ours), 0)
    # ratio_ij = log w_i - log w_j + constant, weighted by |U_ij|, in normal equations, the constant being that of a
    # matrix that loses or gains alike everywhere
    both, net = weight + weight.T, weight.sum(axis=1) - weight.sum(axis=0)
    flow = weight * ratio
    normal = np.block([[np.array([[weight.sum()]]), net], [net[:, None], np.diag(both.sum(axis=1)) - both]])
    right = np.append(flow.sum(), flow.sum(axis=1) - flow.sum(axis=0))
    known, log_w = 1 + len(V) - n_channels, 2 * np.log(scale)
    right -= normal[:, known:] @ log_w[known - 1 :]
    log_w[: known - 1] = np.linalg.lstsq(normal[:known, :known], right[:known], rcond=None)[0][1:]
    parts = connected_components(linked, directed=True, connection="weak")[1]
    return log_w - 2 * np.log(scale), parts.astype(np.int64)


def _weights(log_w: Real) -> Real:
    with np.errstate(all="ignore"):
        return np.asarray(np.exp(log_w))


def _scaled(V: Real, log_w: Real) -> Real:
    """W^(1/2) V W^(-1/2)."""
    with np.errstate(all="ignore"):
        return np.asarray(V * np.exp((log_w[:, None] - log_w) / 2))


def _miss(U: Real) -> float:
    """By how much U is not orthogonal."""
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(U @ U.T - np.eye(len(U))), initial=0))

"""A linear filter as a sum of decaying sines: one for each pole, with its frequency, decay time and level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.response import impulse_response, in_pieces
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.spectrum import pole_cost
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["Modes", "modal_decomposition"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Nanoseconds that the poles may take, and numbers of all residues.
MAX_COST, MAX_RESIDUES = 1e11, 2**25
# Numbers worked on at once.
AT_ONCE = 2**21
# Singular values this small, of the terms of P, count as zero at a pole where others are this near, of its size.
NULL, SAME = 1e-9, 1e-6
# Poles and samples this small, of the largest, are rounding.
ROUNDING = 1e-12
# At how many points modes are compared with their filter, and by how much of its response they must not miss it.
POINTS, WRONG = 64, 1e-3


@dataclass(frozen=True)
class Modes:
    r"""The partial fractions of a linear filter.

    .. math:: H(z) = \sum_k f_k z^{-k} + \sum_i \frac{r_i}{z - p_i}, \qquad
              h[t] = f_t + \sum_i r_i\, p_i^{t-1} \quad (t \ge 1)

    Attributes
    ----------
    poles : ndarray, shape (n,)
        Those other than 0, largest magnitude first. Poles that are not real come in conjugate pairs.
    residues : ndarray, shape (n, n_outputs, n_inputs)
        Of a pole that stands k times, one k-th of the residue in each.
    fir : ndarray, shape (n_taps, n_outputs, n_inputs)
        What the poles at 0 add: direct sound, and echoes that do not come back.
    condition : ndarray, shape (n,)
        Condition number of the pole as an eigenvalue of the state matrix, at least 1: by how much more than a change of
        that matrix the pole may move. From about 1e7 on it is all but a multiple pole without a mode for each time it
        stands: the large residues of such poles cancel each other, and digits are lost.
    error : float
        By how much of its largest value the response of the modes differs from that of the filter, at 64 points just
        outside of all poles.
    sample_rate : float or None
    """

    poles: Complex
    residues: Complex
    fir: Real
    condition: Real
    error: float
    sample_rate: float | None

    @property
    def frequency(self) -> Real:
        """Of each mode, in Hz where there is a sample rate, else in cycles a sample; negative for one of a pair."""
        return np.angle(self.poles) * ((self.sample_rate or 1.0) / (2 * np.pi))

    @property
    def t60(self) -> Real:
        """Time in which each mode fades by 60 dB, in s or else in samples; infinite where it does not."""
        with np.errstate(divide="ignore"):
            frames = -3 / np.log10(np.minimum(np.abs(self.poles), 1))
        return frames / (self.sample_rate or 1.0)

    @property
    def level_db(self) -> Real:
        """Amplitude at its start of the decaying sine that a mode and its conjugate make, of each output and input."""
        pair = np.where(self.poles.imag == 0, 1, 2)[:, None, None]
        with np.errstate(divide="ignore"):
            level: Real = 20 * np.log10(pair * np.abs(self.residues))
        return level

    def impulse_response(self, n_frames: int) -> Real:
        """The sum of all modes, shape (n_frames, n_outputs, n_inputs).

        Parameters
        ----------
        n_frames : int
        """
        n_frames = whole_number("n_frames", n_frames, least=0)
        h = _sum(self.poles, self.residues, n_frames)
        taps = min(len(self.fir), n_frames)
        h[:taps] += self.fir[:taps]
        return h


def modal_decomposition(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Modes:
    r"""Poles and residues of a linear filter, or of the small-signal filter of any other about an operating point.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    Modes

    Raises
    ------
    ParameterError
        A filter with more poles than can be found in minutes.
    RnndspError
        The modes miss the response, as at a multiple pole with fewer modes than times that it stands: t p^t is part of
        it, which is no exponential.

    Notes
    -----
    With :math:`P(z) = \operatorname{diag}(z^{m_i}) - A`, and x and y right and left null vectors of P at the pole p,

    .. math:: r = \frac{C x\; y^H B}{y^H P'(p)\, x}, \qquad P'(p) = \operatorname{diag}(m_i p^{m_i - 1}).

    They come from one singular value decomposition of the size of A for each pair of poles, and no matrix of the length
    of the delay lines is formed. At a multiple pole with as many modes as its multiplicity, as in a network of equal
    lines, x and y are bases of the null spaces.

    The decomposition is as good as its poles, which are not proved to be right; hence ``error``, which is measured.

    References
    ----------
    S. J. Schlecht, E. A. P. Habets (2019), "Modal decomposition of feedback delay networks".
    """
    linear = filt.linearize(state, u, controls=controls)
    A, m = linear.A, linear.delays
    n_pairs = linear.n_outputs * linear.n_inputs
    if pole_cost(linear.n_states, m.size) > MAX_COST or linear.n_states * n_pairs > MAX_RESIDUES:
        raise ParameterError(
            f"{linear.n_states} poles in {m.size} lines, {n_pairs} residues each, are too many: shorten the delays, or "
            "take fewer lines or channels"
        )
    found = delay_poles(A, m)
    poles = found[np.abs(found) > ROUNDING * np.max(np.abs(found), initial=0)]
    residues = np.empty((poles.size, linear.n_outputs, linear.n_inputs), np.complex128)
    condition = np.empty(poles.size)
    upper, lower = np.flatnonzero(poles.imag >= 0), np.flatnonzero(poles.imag < 0)
    near = _neighbours(poles)
    with np.errstate(over="ignore", invalid="ignore"):  # at a defective pole, which the error tells of
        for part in np.array_split(upper, 1 + upper.size * A.size // AT_ONCE):
            residues[part], condition[part] = _residues(linear, poles[part], near[part])
        # conjugates of conjugates, the pairs in one order
        pairs = upper[poles[upper].imag > 0]
        pairs, lower = pairs[_order(poles[pairs])], lower[_order(poles[lower].conj())]
        residues[lower], condition[lower] = residues[pairs].conj(), condition[pairs]
        fir = _fir(linear, poles, residues, 1 + found.size - poles.size)
        error = _error(linear, poles, residues, fir)
    if not error < WRONG:
        worst = int(np.argmax(condition))
        raise RnndspError(
            f"the modes miss the filter's response by {error:.2g} of its size: the pole {poles[worst]:.9g}, of "
            f"condition {condition[worst]:.2g}, is a multiple one without a mode for each time it stands"
        )
    return Modes(poles, residues, fir, condition, error, filt.sample_rate)


def _order(poles: Complex) -> NDArray[np.intp]:
    return np.lexsort((poles.real, poles.imag))


def _neighbours(poles: Complex) -> NDArray[np.int64]:
    """How many poles, itself included, are all but equal to each."""
    from scipy.spatial import KDTree

    if not poles.size:
        return np.empty(0, np.int64)
    plane = np.stack([poles.real, poles.imag], axis=1)
    return np.asarray(KDTree(plane).query_ball_point(plane, SAME * np.abs(poles), return_length=True), np.int64)


def _residues(linear: DelayStateSpace, p: Complex, near: NDArray[np.int64]) -> tuple[Complex, Real]:
    """Residues at some poles, and condition numbers of these."""
    m = linear.delays.astype(np.float64)
    n = m.size
    # each row divided by |z|^m, which may be beyond all numbers
    size = np.abs(p)[:, None] ** m
    scale = 1 / np.maximum(size, 1)
    power = np.minimum(size, 1) * np.exp(1j * np.angle(p)[:, None] * m)
    P = np.zeros((p.size, n, n), np.complex128)
    np.einsum("pii->pi", P)[...] = power
    P -= scale[:, :, None] * linear.A
    left, gap, right = np.linalg.svd(P)
    slope = m * power / p[:, None]
    # the energy of a mode in each line: the sum of |p|^2j over its samples
    square = np.abs(p)[:, None] ** 2
    with np.errstate(divide="ignore"):
        energy = np.where(np.abs(square - 1) * m > 1e-9, (square**m - 1) / (square - 1), m)
    residues = np.empty((p.size, linear.n_outputs, linear.n_inputs), np.complex128)
    condition = np.empty(p.size)
    terms = np.max(np.abs(power) + scale * np.linalg.norm(linear.A, axis=1), axis=1, initial=0)
    nullity = np.clip(np.count_nonzero(gap <= NULL * terms[:, None], axis=1), 1, near)
    for k in np.unique(nullity):
        at = np.flatnonzero(nullity == k)
        x, y = right[at, n - k :].conj().transpose(0, 2, 1), left[at, :, n - k :]
        turn, s, turn_back = np.linalg.svd(y.conj().transpose(0, 2, 1) @ (slope[at, :, None] * x))
        s = np.maximum(s, np.finfo(np.float64).tiny)
        # bases of the null spaces in which the slope is diagonal
        x = x @ turn_back.conj().transpose(0, 2, 1)
        y = (y @ turn).conj().transpose(0, 2, 1) * scale[at, None]
        residues[at] = linear.C @ x @ (y @ linear.B / s[:, :, None]) / k
        heard = np.sum(np.abs(x) ** 2 * energy[at, :, None], axis=1)
        driven = np.sum(np.abs(y) ** 2 * energy[at, None], axis=2)
        worst = np.max(np.sqrt(heard) * np.sqrt(driven) / s, axis=1)
        condition[at] = np.nan_to_num(worst, nan=np.inf, posinf=np.inf)
    return residues, condition


def _fir(linear: DelayStateSpace, poles: Complex, residues: Complex, n_taps: int) -> Real:
    """What is left of the first samples of the impulse response without the modes; nothing at its end."""
    if n_taps == 1:
        return linear.D[None].astype(np.float64)
    columns = [impulse_response(linear, n_taps, channel=i) for i in range(linear.n_inputs)]
    h = np.stack(columns, axis=2)
    fir = h - _sum(poles, residues, n_taps)
    heard = np.flatnonzero(np.max(np.abs(fir), axis=(1, 2)) > ROUNDING * np.max(np.abs(h)))
    kept: Real = fir[: heard[-1] + 1 if heard.size else 1]
    return kept


def _sum(poles: Complex, residues: Complex, n_frames: int) -> Real:
    """Of all r p^(t-1) from t = 1 on."""
    h = np.zeros((n_frames, *residues.shape[1:]))
    upper = poles.imag >= 0
    p, r = poles[upper], residues[upper].reshape(np.count_nonzero(upper), int(np.prod(residues.shape[1:])))
    r = np.where(p.imag == 0, 1, 2)[:, None] * r
    step = int(np.clip(AT_ONCE // max(p.size, 1), 16, 1024))
    growth = np.log(p)
    powers = np.exp(growth[:, None] * np.arange(step))
    for start in range(1, n_frames, step):
        now = (np.exp(growth * (start - 1))[:, None] * r).T @ powers
        h[start : start + step] = now.real.T.reshape(-1, *h.shape[1:])[: n_frames - start]
    return h


def _error(linear: DelayStateSpace, poles: Complex, residues: Complex, fir: Real) -> float:
    """The largest difference of H and that of the modes, of the largest H, at points just outside of all poles."""
    w = np.pi * (np.arange(POINTS) + 0.5) / POINTS
    radius = max(1.0, float(np.max(np.abs(poles), initial=0))) * (1 + 1 / (1 + linear.n_states))
    z = radius * np.exp(1j * w)
    H = in_pieces(linear, w, radius)
    taps = np.exp(-np.log(z)[:, None] * np.arange(len(fir))) @ fir.reshape(len(fir), -1)
    modes = (1 / (z[:, None] - poles)) @ residues.reshape(poles.size, H[0].size)
    size = np.max(np.abs(H), initial=0)
    return float(np.max(np.abs(H - (taps + modes).reshape(H.shape)), initial=0) / size) if size > 0 else 0.0

"""One filter in other clothes: zeros and poles, fewer states, states that matter alike, continuous time sampled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, number, require_filter, whole_number
from rnndsp._conversions import ZPK, rows_to_zpk, without_origin
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._delay_poles import delay_poles, pair
from rnndsp.stability.gains import DENSE, gramian_factors, in_range, projected, require_dense
from rnndsp.stability.spectrum import zeros
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, StateSpace, space

__all__ = ["ZPK", "Reduction", "balanced", "discretized", "minimal", "reduced", "zpk"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
# What rounding does to the products of a chain's matrices.
PRODUCT = 1e-12
# Eigenvalues this near to each other, of the norm, may have wrong eigenvectors; and these may be driven by so little.
LIKELY = 1e-4
# Hankel singular values this near to each other, of their size, are equal.
TIE = 1e-9
METHODS = ("zoh", "foh", "bilinear", "impulse", "euler", "backward_diff")


# ---- zeros, poles and gain


def zpk(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    entry: tuple[int, int] | None = None,
    controls: Controls | None = None,
) -> ZPK:
    r"""Zeros, poles and gain from one input to one output, scipy's ``(z, p, k)``.

    .. math:: H(z) = k \, \frac{\prod_i (z - z_i)}{\prod_i (z - p_i)}

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    entry : (int, int), optional
        Output and input, counted from 0, of a filter that has several.

    Returns
    -------
    ZPK
        A tuple ``(z, p, k)``, as ``SOS.from_zpk`` and ``scipy.signal.zpk2sos`` take them.

    Raises
    ------
    ParameterError
        Several channels and no ``entry``, one that is not there, or zeros that :func:`rnndsp.stability.zeros` refuses.

    Notes
    -----
    No polynomial is formed. States to which no chain of nonzero coefficients leads from the input, or none leads on to
    the output, are left out; other modes that cancel stay as a zero and a pole that are almost equal, see
    :func:`minimal`. The matrices of filters in series show that they are: each part is looked at alone, which keeps the
    digits of zeros and poles at any order.

    A zero or pole of multiplicity m within one part is known to about 1e-16^(1/m) only; a zero so far out that it
    changes nothing counts as latency.
    """
    linear = _reached(_one_entry(require_filter(filt).linearize(state, u, controls=controls), entry))
    found = [_part_zpk(part) for part in _chain(linear)]
    z, p = without_origin(np.concatenate([part.z for part in found]), np.concatenate([part.p for part in found]))
    return ZPK(z, p, float(np.prod([part.k for part in found])))


def _one_entry(linear: DelayStateSpace, entry: tuple[int, int] | None) -> DelayStateSpace:
    shape = linear.n_outputs, linear.n_inputs
    if entry is None and shape != (1, 1):
        raise ParameterError(f"the filter has {shape[0]} outputs and {shape[1]} inputs: say entry=(output, input)")
    if entry is not None and not (isinstance(entry, tuple) and len(entry) == 2):
        raise ParameterError(f"{entry=} must be two whole numbers, (output, input)")
    i, j = entry or (0, 0)
    for name, k, count in (("output", i, shape[0]), ("input", j, shape[1])):
        if whole_number(f"{name} of entry", k, least=0) >= count:
            raise ParameterError(f"{entry=}: there is no {name} {k}, they are counted from 0 to {count - 1}")
    A, B, C, D = linear._matrices
    return space(A, B[:, [j]], C[[i]], D[[i]][:, [j]], linear.delays, sample_rate=linear.sample_rate)


def _reached(linear: DelayStateSpace) -> DelayStateSpace:
    """Without the lines to which nothing leads from the inputs, or from which nothing leads to the outputs."""
    A, B, C, D = linear._matrices
    kept = _led_to(A != 0, np.any(B != 0, axis=1)) & _led_to(A.T != 0, np.any(C != 0, axis=0))
    if kept.all():
        return linear
    return space(A[np.ix_(kept, kept)], B[kept], C[:, kept], D, linear.delays[kept], sample_rate=linear.sample_rate)


def _led_to(edges: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    while True:
        wider = found | edges[:, found].any(axis=1)
        if np.array_equal(wider, found):
            return found
        found = wider


def _chain(linear: DelayStateSpace) -> Iterator[DelayStateSpace]:
    """The filters of one channel each that it is a series of, as far as the order of its states shows them."""
    A, B, C, D = linear._matrices
    m, start = linear.delays, 0
    for i in range(1, len(A)):
        if A[start:i, i:].any():
            continue
        # [[A21, B2], [C1, D]] of a series is all that comes out of the first times all that goes into the second
        own, rest = slice(start, i), slice(i, None)
        joint = np.block([[A[rest, own], B[rest]], [C[:, own], D]])
        row, column = np.unravel_index(np.argmax(np.abs(joint)), joint.shape)
        into, out = joint[:, column] / joint[row, column], joint[row]
        if np.all(np.abs(joint - np.outer(into, out)) <= PRODUCT * np.abs(joint)):
            yield space(A[own, own], B[own], out[None, :-1], out[None, -1:], m[own])
            B, D, start = np.append(np.zeros(i), into[:-1])[:, None], into[-1:, None], i
    own = slice(start, None)
    yield space(A[own, own], B[own], C[:, own], D, m[own])


def _part_zpk(part: DelayStateSpace) -> ZPK:
    A, B, C, D = part._matrices
    if part.n_states == len(A) <= 2:
        a = np.array([1.0, -np.trace(A), np.linalg.det(A) if len(A) == 2 else 0.0])[: len(A) + 1]
        h = np.array([D, C @ B, C @ A @ B]).ravel()[: a.size]
        terms = np.array([np.abs(D), np.abs(C) @ np.abs(B), np.abs(C) @ np.abs(A) @ np.abs(B)]).ravel()[: a.size]
        # the impulse response times the denominator begins with the numerator
        b, terms = np.convolve(a, h)[: a.size], np.convolve(np.abs(a), terms)[: a.size]
        b[np.abs(b) <= 8 * EPS * terms] = 0
        return rows_to_zpk([(b, a)])
    p, (z, _) = delay_poles(A, part.delays), pair(zeros(part), 1.0)
    if len(p) == len(z):
        return ZPK(z, p, float(D[0, 0]))
    # what comes first, at a level where nothing is flushed
    into, out = (float(np.max(np.abs(x))) or 1.0 for x in (B, C))
    h = part.replace(B=B / into, C=C / out, D=0 * D)(np.eye(1, len(p) - len(z) + 1)[0])
    return ZPK(z, p, float(h[-1]) * into * out)


# ---- fewer states


@dataclass(frozen=True)
class Reduction:
    r"""A filter with fewer states, and how far off it is.

    Attributes
    ----------
    filter : StateSpace
        Balanced: its states matter less and less.
    hankel_values : ndarray, shape (n_states,)
        Hankel singular values of the filter that was given, largest first. The new one keeps the first.
    error_bound : float
        Twice the sum of the values that are gone: at no frequency is the gain of the difference larger. Rounding is not
        counted; it is of the size of 1e-16 of the largest value, over the distance of the poles from the unit circle.
    """

    filter: StateSpace
    hankel_values: Real
    error_bound: float


def minimal(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    tolerance: float = 1e-12,
    controls: Controls | None = None,
) -> StateSpace:
    r"""The same transfer function without the states that no input drives or no output hears.

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full. It need not be stable.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    tolerance : float
        A mode is hidden where the smallest singular value of [p - A, B], or of [p - A; C], is at most this part of the
        2-norm of A, each column of B (row of C) being brought to that norm.

    Returns
    -------
    StateSpace
        On an orthonormal basis of the states that are left; as it was where these are all.

    Raises
    ------
    ParameterError
        Too many states, or a tolerance that is not within (0, 1).

    Notes
    -----
    States to which no chain of coefficients leads go first, exactly. Then the modes that the test of Popov, Belevitch
    and Hautus shows are split off by an orthogonal projection, until there are none: what rings on from the initial
    state alone is lost with them. The staircase from B, A B, A^2 B ..., the usual way, is not taken, as it loses all
    digits where poles crowd together. The tolerance is stricter than that of :func:`rnndsp.stability.hidden_modes`,
    which is for looking. For a filter that decays, :func:`balanced` decides by Hankel singular values.

    References
    ----------
    M. L. J. Hautus (1969), "Controllability and observability conditions of linear autonomous systems".
    """
    if not 0 < number("tolerance", tolerance) < 1:
        raise ParameterError(f"{tolerance=} must lie within (0, 1)")
    linear = require_dense(_reached(require_filter(filt).linearize(state, u, controls=controls)))
    A, B, C, D = linear._matrices
    with in_range():
        A, B, C = _driven(A, B, C, tolerance)
        A, C, B = (x.T for x in _driven(A.T, C.T, B.T, tolerance))
    return StateSpace(A, B, C, D, sample_rate=linear.sample_rate)


def _driven(A: Real, B: Real, C: Real, tolerance: float) -> tuple[Real, Real, Real]:
    """Without the modes that no input drives, and outputs that heard nothing else."""
    heard = np.linalg.norm(C, axis=1)
    while len(A) and (idle := _idle(A, B, tolerance)).shape[1]:
        kept = np.linalg.svd(idle)[0][:, idle.shape[1] :]
        A, B, C = kept.T @ A @ kept, kept.T @ B, C @ kept
    return A, B, np.where((np.linalg.norm(C, axis=1) > tolerance * heard)[:, None], C, 0.0)


def _idle(A: Real, B: Real, tolerance: float) -> Real:
    """An orthonormal basis of the w with w^T A = p w^T and w^T B = 0, of all p or of some."""
    level = float(np.linalg.norm(A, 2)) or 1.0
    size = np.linalg.norm(B, axis=0)
    inputs = B[:, size > 0] / size[size > 0] * level
    poles, left = np.linalg.eig(np.asarray_chkfinite(A.T))
    apart = np.abs(poles[:, None] - poles) + np.diag(np.full(len(A), np.inf))
    # an eigenvector that stands alone is accurate enough to tell that it is driven
    likely = (np.linalg.norm(left.T @ inputs, axis=1) < LIKELY * level) | (np.min(apart, axis=1) < LIKELY * level)
    found = [np.zeros((len(A), 0))]
    for p in np.unique(poles[likely & (poles.imag >= 0)]):
        _, s, right = np.linalg.svd(np.vstack([A.T - p * np.eye(len(A)), inputs.T]), full_matrices=False)
        w = right[s <= tolerance * level].conj().T
        found += [w.real, w.imag]
    basis, s, _ = np.linalg.svd(np.hstack(found), full_matrices=False)
    return np.asarray(basis[:, s > LIKELY])


def balanced(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> StateSpace:
    r"""The same filter with states that are as easily reached as heard: both Gramians are the same diagonal matrix.

    .. math:: W_c = W_o = \operatorname{diag}(\sigma_1, \sigma_2, \dots), \qquad \sigma_1 \ge \sigma_2 \ge \dots

    Rounding then does little harm, as no signal inside is much larger or smaller than its part in the output.

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full. Hidden modes, and others whose Hankel singular values are
        rounding, are left out.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        Too many states, or a filter that does not decay.

    References
    ----------
    B. C. Moore (1981), "Principal component analysis in linear systems: controllability, observability, and model
    reduction". A. J. Laub, M. T. Heath, C. C. Paige, R. C. Ward (1987), "Computation of system balancing
    transformations and other applications of simultaneous diagonalization algorithms".
    """
    return reduced(filt, state, u, order=DENSE, controls=controls).filter


def reduced(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    order: int | None = None,
    tolerance_db: float | None = None,
    controls: Controls | None = None,
) -> Reduction:
    r"""Balanced truncation: a filter with fewer states, and a bound for how far off it is at any frequency.

    .. math:: \|H - H_r\|_\infty \le 2 \sum_{i > r} \sigma_i

    Parameters
    ----------
    filt : Filter
        Of at most 500 states, delay lines counted in full.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    order : int, optional
        How many states to keep, at most.
    tolerance_db : float, optional
        Instead of ``order``: the largest gain that the difference may have at any frequency, in dB, e.g. -90. The
        smallest order is taken for which the bound promises it.

    Returns
    -------
    Reduction

    Raises
    ------
    ParameterError
        Too many states, a filter that does not decay, neither or both of ``order`` and ``tolerance_db``, or an order
        that would part two equal Hankel singular values: then the result need not be stable, and the message names
        orders that do not. All values of a lossless filter are equal, and it cannot be reduced.

    Notes
    -----
    By square roots of the Gramians, which are never formed, so that small values keep their digits. The difference is
    usually much below the bound. Latency is expensive: n samples of it are n values of equal size, so take it off
    first. The filter is as close at low levels as at high ones, but not in decibels at each frequency: a stopband below
    ``error_bound`` is gone.

    References
    ----------
    U. M. Al-Saggaf, G. F. Franklin (1987), "An error bound for a discrete reduced order model of a linear multivariable
    system", IEEE Transactions on Automatic Control 32.
    """
    if (order is None) == (tolerance_db is None):
        raise ParameterError(f"{order=}, {tolerance_db=}: give one of them")
    least = 0.0 if tolerance_db is None else 10 ** (number("tolerance_db", tolerance_db) / 20)
    most = DENSE if order is None else whole_number("order", order, least=0)
    linear = require_filter(filt).linearize(state, u, controls=controls)
    with in_range():
        reach, heard = gramian_factors(linear)
        left, s, right = np.linalg.svd(np.asarray_chkfinite(heard.T @ reach), full_matrices=False)
        values = np.concatenate([s, np.zeros(len(reach) - s.size)])
        known = int(np.count_nonzero(values > len(values) * EPS * values[:1]))
        bounds = 2 * np.append(np.cumsum(values[::-1])[::-1], 0.0)
        whole = [r for r in range(known + 1) if r in (0, known) or values[r] < (1 - TIE) * values[r - 1]]
        kept = min(most, known) if tolerance_db is None else next((r for r in whole if bounds[r] <= least), known)
        if kept not in whole:
            near = f"{max(r for r in whole if r < kept)} or {min(r for r in whole if r > kept)}"
            raise ParameterError(f"{order=} parts Hankel singular values equal to {values[kept]:.6g}: take {near}")
        few = projected(linear.expand(), heard @ left[:, :kept], s[:kept], reach @ right[:kept].T)
    return Reduction(few, values, float(bounds[kept]))


# ---- from continuous time


def discretized(
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike,
    *,
    sample_rate: float,
    method: str = "zoh",
    prewarp_hz: float | None = None,
) -> StateSpace:
    r"""A filter from a continuous one, dx/dt = A x + B u, y = C x + D u.

    Parameters
    ----------
    A, B, C, D : array, shapes (n, n), (n, n_inputs), (n_outputs, n), (n_outputs, n_inputs)
    sample_rate : float
        Hz.
    method : {"zoh", "foh", "bilinear", "impulse", "euler", "backward_diff"}
        What is kept: the response to steps held for a sample; to straight lines between samples; all of the frequency
        response, bent onto 0 to half the sample rate; samples of the impulse response, times 1 / sample_rate, of a
        filter with D = 0; or, to first order, what forward and backward differences give.
    prewarp_hz : float, optional
        With ``"bilinear"``, the frequency within (0, sample_rate / 2) that stays where it is.

    Raises
    ------
    ParameterError
        Wrong shapes, an unknown method, a frequency out of range, a pole that the method cannot place.

    Notes
    -----
    ``"bilinear"`` and ``"backward_diff"`` keep every stable filter stable, ``"zoh"``, ``"foh"`` and ``"impulse"`` turn
    a pole s into exp(s / sample_rate), and ``"euler"`` may turn a stable filter into an unstable one: each pole becomes
    1 + s / sample_rate. By ``scipy.signal.cont2discrete``.

    References
    ----------
    G. F. Franklin, J. D. Powell, M. L. Workman (1998), "Digital Control of Dynamic Systems".
    """
    choice("method", method, METHODS)
    rate = number("sample_rate", sample_rate)
    if rate <= 0:
        raise ParameterError(f"{sample_rate=} must be a positive number of Hz")
    step = 1 / rate
    if prewarp_hz is not None:
        if method != "bilinear" or not 0 < number("prewarp_hz", prewarp_hz) < rate / 2:
            raise ParameterError(
                f"{prewarp_hz=} goes with method='bilinear' and lies within 0 and half the sample rate, {rate / 2:g} Hz"
            )
        step = float(np.tan(np.pi * prewarp_hz / rate) / (np.pi * prewarp_hz))
    # for its checks of shapes and values
    given = StateSpace(A, B, C, D)._matrices
    from scipy import signal

    cont2discrete: Any = signal.cont2discrete  # whose types are for systems of another kind
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of an ill-conditioned matrix: its inverse is looked at
            *matrices, _ = cont2discrete(given, step, method)
    except (np.linalg.LinAlgError, ValueError, OverflowError) as error:
        raise ParameterError(f"{method=} at {rate:g} Hz: {error}") from None
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        raise ParameterError(f"{method=} at {rate:g} Hz leads beyond all numbers: a pole is too far out for this rate")
    return StateSpace(*matrices, sample_rate=rate)

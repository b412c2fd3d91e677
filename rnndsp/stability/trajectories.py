"""What becomes of small differences while a filter runs on a signal."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, whole_number
from rnndsp._tangents import LARGE, SMALL, Jacobians, Tangents
from rnndsp._threads import one_thread
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter, require_finite
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.spectrum import n_lines
from rnndsp.state import State

__all__ = [
    "Contraction",
    "FrozenPoles",
    "GradientNorms",
    "LyapunovSpectrum",
    "MemoryCapacity",
    "MemoryHorizon",
    "Sensitivity",
    "contraction_rate",
    "finite_time_exponents",
    "frozen_poles",
    "gradient_norms",
    "jacobians",
    "lyapunov_spectrum",
    "memory_capacity",
    "memory_horizon",
    "sensitivity",
    "track",
]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Numbers in the matrices of one piece of a trajectory, which then stay in the cache; frames in the longest piece.
PIECE, MAX_FRAMES = 2**18, 4096
# Numbers in the largest table that is filled along a signal.
MAX_TABLE = 2**27
# NumPy lets other threads run only while it works on more than so many rows of matrices.
UNLOCKED = 500
# Above so many rows LAPACK turns to a multishift QR algorithm, which up to so many is the slower one: by 1.1 to 1.9.
DOUBLE_SHIFT = 75, 200
# States up to which a product of Jacobians is formed as a matrix; exponents that are found where no number is given.
MAX_PRODUCT, MAX_EXPONENTS = 1000, 256
# By how much directions may grow apart between two orthonormalisations: exp(SPREAD) * 2.2e-16 is the relative error.
SPREAD = np.log(1e10)
# Points of a convergence trace, and how many of them make one of the blocks for confidence intervals.
BINS, PER_BLOCK = 200, 10
# A gradient that changes by more than 60 dB over the longest lag vanishes, or explodes.
MUCH_DB = 60.0
# Distances, relative to the state, that are rounding.
ROUNDING = 1e-12


def jacobians(
    filt: Filter, u: ArrayLike, state: State | None = None, *, controls: Controls | None = None
) -> Iterator[Jacobians]:
    r"""The small-signal filters at all frames while a filter runs on a signal, piece by piece.

    .. math:: A_t = \partial x_t / \partial x_{t-1}, \quad B_t = \partial x_t / \partial u_t, \quad
              C_t = \partial y_t / \partial x_{t-1}, \quad D_t = \partial y_t / \partial u_t

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    state : State, optional
        Where to start; the state of rest when absent.
    controls : mapping of str to float or array of n_frames, optional

    Yields
    ------
    Jacobians
        Of some frames, the next ones each time, so that long signals take no more memory than short ones. Where the
        filter has long delay lines, A is that of :class:`DelayStateSpace`, a row for each line.

    Raises
    ------
    ParameterError
        A wrong shape, state or control, or a filter that works in frames and has no Jacobian at every sample.
    NonFiniteError
        NaN or infinity in the signal, or a filter that blows up.

    Notes
    -----
    Compiled for cells, and for compositions of them with linear and dense layers; other filters are linearised frame by
    frame. An LSTM of 40 units takes some 4 microseconds a frame.
    """
    signal, here = _entering(filt, u, state, controls)
    return _pieces(filt, signal, here)


def _entering(filt: Filter, u: ArrayLike, state: State | None, controls: Controls | None) -> tuple[Real, State]:
    """One voice's signal with its controls as further columns, and a state to start from that may be changed."""
    if filt.period > 1:
        raise ParameterError(
            f"{type(filt).__name__} works in frames of {filt.period} samples and has no Jacobian at every sample; ask "
            "about the filter inside of it, run on its spectra"
        )
    try:
        given = np.asarray(u, np.float64)
    except (TypeError, ValueError):
        raise ParameterError("the signal is no array of real numbers") from None
    signal, lead, _ = filt._accept(given, controls, None)
    if lead:
        raise ParameterError(f"signal of shape {given.shape}: give one voice, (n_frames, {filt.n_inputs})")
    if not signal.shape[1]:
        raise ParameterError("the signal is empty; give at least one frame")
    here = filt.rest_state()
    if state is not None:
        if not isinstance(state, State) or state.shapes != here.shapes:
            raise ParameterError(f"{state!r} is not one voice of a state of this filter, {here!r}")
        here.assign(state)
    require_finite(signal, "input", here.index)
    return signal[0], here


def _pieces(filt: Filter, signal: Real, state: State) -> Iterator[Jacobians]:
    size = _piece_size(filt)
    for t in range(0, len(signal), size):
        yield _local(filt, signal[t : t + size], state)


def _piece_size(filt: Filter) -> int:
    return int(np.clip(PIECE // max(1, n_lines(filt)) ** 2, 1, MAX_FRAMES))


def _local(filt: Filter, signal: Real, state: State) -> Jacobians:
    start = state.index
    with np.errstate(all="ignore"):
        found = filt._jacobians(signal, state)
    require_finite(found.y[None], "output", start)
    _require_sane(state)
    return found


def _skip(filt: Filter, signal: Real, state: State) -> None:
    """Move the state on over frames that nobody looks at."""
    if len(signal):
        start, y = state.index, np.empty((1, len(signal), filt.n_outputs))
        with np.errstate(all="ignore"):
            filt._process(np.ascontiguousarray(signal)[None], state, y)
        require_finite(y, "output", start)
        _require_sane(state)


def _is_finite(state: State) -> bool:
    return bool(np.isfinite(state.vector).all()) and all(map(_is_finite, state.children))


def _require_sane(state: State) -> None:
    if not _is_finite(state):
        raise NonFiniteError(f"the state holds NaN or infinity at sample {state.index}: see filt.stability()")


def _frames(matrices: Real, start: int, stop: int) -> Real:
    """A run of frames of one of the arrays in :class:`Jacobians`."""
    return matrices if len(matrices) == 1 else matrices[start:stop]


# ---- frozen poles


@dataclass(frozen=True)
class FrozenPoles:
    """Eigenvalues of the Jacobian at frames of a trajectory.

    Attributes
    ----------
    index : ndarray, shape (n,)
        The frames looked at.
    poles : ndarray, shape (n, n_states)
        Largest magnitude first. A picture, not a proof: all of them inside the circle does not make a time-varying
        system stable.
    """

    index: NDArray[np.int64]
    poles: Complex


def frozen_poles(
    filt: Filter, u: ArrayLike, state: State | None = None, *, every: int = 1, controls: Controls | None = None
) -> FrozenPoles:
    """Poles of the small-signal filter at every ``every``-th frame while the filter runs on a signal.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    state : State, optional
    every : int
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    FrozenPoles

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; or more poles than fit into memory.

    Notes
    -----
    Nearly all the time goes into LAPACK's eigenvalues: those of different frames are found in as many threads as there
    are processors. From 76 to 200 states its double-shift QR algorithm is called by name, as ``eigvals`` would take the
    multishift one, which is slower there. A linear filter whose controls stand still has the same poles at all frames;
    they are found once, and the signal is not run.
    """
    whole_number("every", every)
    signal, here = _entering(filt, u, state, controls)
    index = np.arange(0, len(signal), every)
    if index.size * filt.n_states > MAX_TABLE:
        raise ParameterError(f"{index.size} times {filt.n_states} poles are too many; raise every={every}")
    found = np.empty((index.size, filt.n_states), np.complex128)
    controlled = signal[:, filt.n_inputs :]
    if filt.is_linear and not np.any(controlled != controlled[:1]):
        piece = _local(filt, signal[:1], here)
        found[:] = _eigenvalues(piece.A, piece.delays)
        return FrozenPoles(index, found)
    size = max(_piece_size(filt) // 4, 1 + UNLOCKED // max(1, n_lines(filt)))
    n_threads, row = os.cpu_count() or 1, 0
    tasks: deque[Future[None]] = deque()
    with one_thread(), ThreadPoolExecutor(n_threads) as pool:
        for A, delays, n_frames in _every(filt, signal, here, every, size):
            tasks.append(pool.submit(_fill, found[row : row + n_frames], A, delays))
            row += n_frames
            if len(tasks) > 2 * n_threads:  # lest matrices pile up
                tasks.popleft().result()
        for task in tasks:
            task.result()
    return FrozenPoles(index, found)


def _every(
    filt: Filter, signal: Real, state: State, every: int, size: int
) -> Iterator[tuple[Real, NDArray[np.int64], int]]:
    """A and delays at every ``every``-th frame, ``size`` at a time, and how many frames they are."""
    if every == 1:
        for t in range(0, len(signal), size):
            piece = _local(filt, signal[t : t + size], state)
            yield piece.A, piece.delays, len(piece.y)
        return
    batch: list[Real] = []
    for t in range(0, len(signal), every):
        piece = _local(filt, signal[t : t + 1], state)
        batch.append(piece.A)
        _skip(filt, signal[t + 1 : t + every], state)
        if len(batch) == size or t + every >= len(signal):
            yield np.concatenate(batch), piece.delays, len(batch)
            batch.clear()


def _fill(found: Complex, A: Real, delays: NDArray[np.int64]) -> None:
    found[:] = _eigenvalues(A, delays)


def _eigenvalues(A: Real, delays: NDArray[np.int64]) -> Complex:
    """Poles of each frame, in the order of :func:`rnndsp.stability.poles`."""
    if np.any(delays != 1):
        return np.array([delay_poles(a, delays) for a in A])
    from scipy.sparse.csgraph import connected_components  # here, as it would double the start of a filter that runs

    # units that remember alone make many small problems of a large one
    _, label = connected_components((A != 0).any(axis=0), directed=True, connection="strong")
    parts = [np.flatnonzero(label == k) for k in range(label.max(initial=-1) + 1)]
    try:
        blocks = [_spectra(A[:, part[:, None], part]) for part in parts]
    except np.linalg.LinAlgError as error:
        raise NonFiniteError(f"no eigenvalues ({error}): entries of the Jacobian left the range of floats") from None
    z = np.concatenate([np.zeros((len(A), 0), np.complex128), *blocks], axis=1)
    z += 0.0  # no negative zeros, which have another angle
    return np.take_along_axis(z, np.lexsort((np.angle(z), -np.abs(z))), axis=1)


def _spectra(A: Real) -> Complex:
    """Eigenvalues of each matrix, in any order."""
    low, high = DOUBLE_SHIFT
    if low < A.shape[1] <= high and SMALL < np.max(np.abs(A)) < LARGE:
        return np.array([_double_shift(a) for a in A])
    return np.linalg.eigvals(A).astype(np.complex128)


def _double_shift(a: Real) -> Complex:
    """Eigenvalues as LAPACK finds those of smaller matrices; other threads run meanwhile."""
    n = len(a)
    # LAPACK takes rows for columns, and the transposed matrix has the same eigenvalues
    h, scale, tau, work, w = a.copy(), np.empty(n), np.empty(n), np.empty(32 * n), np.empty((2, n))
    whole = np.array([n, 1, n, 0, 0, 1, work.size], np.intc)
    size, first, last, info, no, one, n_work = (whole.ctypes.data + k * whole.itemsize for k in range(whole.size))
    matrix = h.ctypes.data, size
    _lapack("dgebal", 8)(b"B", size, *matrix, first, last, scale.ctypes.data, info)
    _lapack("dgehrd", 9)(size, first, last, *matrix, tau.ctypes.data, work.ctypes.data, n_work, info)
    w[:] = h.diagonal(), np.zeros(n)  # those that balancing has set apart
    places = w.ctypes.data, w.ctypes.data + w.strides[0]
    _lapack("dlahqr", 14)(no, no, size, first, last, *matrix, *places, one, one, *matrix, info)
    return np.linalg.eigvals(a).astype(np.complex128) if whole[3] else w[0] + 1j * w[1]


@cache
def _lapack(name: str, n_arguments: int) -> Any:
    """One of SciPy's LAPACK routines, by addresses: unlike those of ``scipy.linalg.lapack`` it lets go of the GIL."""
    from numba.extending import get_cython_function_address  # here, as filters can be described without Numba

    address = get_cython_function_address("scipy.linalg.cython_lapack", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


def track(poles: ArrayLike) -> Complex:
    """Poles put in an order in which each keeps its place from row to row.

    Parameters
    ----------
    poles : array, shape (n, n_poles)
        A set of poles in every row: over time, over a level or over a knob.

    Returns
    -------
    ndarray, shape (n, n_poles)
        The same poles, the first row as it was. From one row to the next the sum of all the distances moved is the
        smallest (Hungarian method); where poles meet or jump that is a guess about which is which.

    References
    ----------
    H. W. Kuhn (1955), "The Hungarian method for the assignment problem".
    """
    found = np.array(poles, np.complex128)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ParameterError(f"poles of shape {found.shape}: give finite numbers, (n, n_poles)")
    from scipy.optimize import linear_sum_assignment  # here, as it would double the start of a filter that runs

    for before, now in pairwise(found):
        now[:] = now[linear_sum_assignment(np.abs(before[:, None] - now))[1]]
    return found


# ---- Lyapunov exponents


@dataclass(frozen=True)
class LyapunovSpectrum:
    """Mean exponential rates at which small differences grow along a trajectory.

    Attributes
    ----------
    exponents : ndarray, shape (n_exponents,)
        In nats a frame, largest first. -inf stands for directions that are lost within floating point's reach, as on
        the flat side of a ReLU.
    interval : ndarray, shape (n_exponents, 2)
        95 % confidence intervals from the means of blocks of frames; NaN where there are too few. They tell how much
        the trajectory seen varies, nothing about parts of the state space that it has not visited.
    index : ndarray
        Frames of ``trace``, those of the transient not counted.
    trace : ndarray, shape (n, n_exponents)
        Estimates from the first so many frames.
    log_det : float
        Mean of ln|det J|, which the sum of all exponents must equal; NaN unless asked for.
    every : int
        Frames between two orthonormalisations.
    n_frames : int
        Frames that went in, those of the transient not counted.
    n_states : int
    conditional : bool
        Whether an input that changes drove the filter: the exponents then are those of differences of the state under
        the same input, and hold for this input.
    sample_rate : float or None
        Hz.
    """

    exponents: Real
    interval: Real
    index: NDArray[np.int64]
    trace: Real
    log_det: float
    every: int
    n_frames: int
    n_states: int
    conditional: bool
    sample_rate: float | None

    @property
    def exponents_per_s(self) -> Real | None:
        """The exponents in nats a second, where the sample rate is known."""
        return None if self.sample_rate is None else self.exponents * self.sample_rate

    @property
    def dimension(self) -> float:
        """Kaplan-Yorke dimension of the attractor; NaN where more exponents would be needed to tell.

        j + (sum of the first j exponents) / |exponent j + 1|, for the largest j for which that sum is not negative.
        """
        total = np.cumsum(self.exponents)
        j = int(np.count_nonzero(np.logical_and.accumulate(total >= 0)))
        if j < self.exponents.size:
            return j + (float(total[j - 1] / -self.exponents[j]) if j else 0.0)
        return float(j) if j == self.n_states else np.nan

    @property
    def entropy(self) -> float:
        """Sum of the positive exponents in nats a frame: no less than the Kolmogorov-Sinai entropy (Ruelle).

        NaN where the smallest one found is positive and there are more.
        """
        if self.exponents.size < self.n_states and np.all(self.exponents > 0):
            return np.nan
        return float(np.sum(self.exponents, where=self.exponents > 0))


@one_thread()
def lyapunov_spectrum(
    filt: Filter,
    u: ArrayLike | None = None,
    *,
    n_frames: int | None = None,
    n_exponents: int | None = None,
    state: State | None = None,
    controls: Controls | None = None,
    transient: int | None = None,
    every: int | None = None,
    check: bool = False,
    seed: int = 0,
) -> LyapunovSpectrum:
    r"""Lyapunov exponents along a trajectory, those of the state given the input where there is one.

    .. math:: \lambda_i = \lim_{T \to \infty} \frac1T \ln \sigma_i(J_T \cdots J_2 J_1),
              \qquad J_t = \partial x_t / \partial x_{t-1}

    All negative: the filter forgets its state along this trajectory. One positive: two runs from almost the same state
    part exponentially, chaos.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,), optional
        One voice; silence when absent.
    n_frames : int, optional
        How many frames to go, of ``u`` or of silence; all of ``u``, or 10000, when absent.
    n_exponents : int, optional
        How many of the largest to find; all of them when absent, but no more than 256.
    state : State, optional
        Where to start; the state of rest when absent. Chaos may need another one, as rest may be a fixed point.
    controls : mapping of str to float or array, optional
    transient : int, optional
        Frames at the beginning that only settle the state and the directions; a tenth when absent.
    every : int, optional
        Frames between two orthonormalisations; chosen from the growth in the transient when absent, so that directions
        part by 1e10 at most in between, on the average. The sum of all is then good to some 1e-4, with 1 to rounding.
    check : bool
        Also average ln|det J|, which costs a decomposition of J a frame.
    seed : int
        For the directions to start from.

    Returns
    -------
    LyapunovSpectrum

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; or numbers of frames or exponents that do not fit.

    Notes
    -----
    Benettin's method: n_exponents vectors are moved on by J and made orthonormal (block Gram-Schmidt), the logarithms
    of their lengths averaged. That takes n_states^2 n_exponents products a frame, and n_states n_exponents^2 more for
    each orthonormalisation. Delay lines are moved as rings: long ones cost no more a frame than short ones.

    What is found are the exponents of one trajectory for finite time. An attractor that was not visited is not seen.

    References
    ----------
    G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn (1980), "Lyapunov characteristic exponents for smooth
    dynamical systems and for Hamiltonian systems". J. L. Kaplan, J. A. Yorke (1979), "Chaotic behavior of
    multidimensional difference equations". D. Ruelle (1978), "An inequality for the entropy of differentiable maps".
    R. Engelken, F. Wolf, L. F. Abbott (2023), "Lyapunov spectra of chaotic recurrent neural networks".

    Examples
    --------
    >>> from rnndsp import StateSpace
    >>> found = lyapunov_spectrum(StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]]), n_frames=100)
    >>> found.exponents
    array([-0.69314718])
    """
    if n_frames is not None:
        whole_number("n_frames", n_frames)
    if u is None:
        u = np.zeros((n_frames or 10000, filt.n_inputs))
    elif n_frames is not None and n_frames > len(np.atleast_1d(u)):
        raise ParameterError(f"{n_frames=}, but the signal has {len(np.atleast_1d(u))}; give a longer one")
    signal, here = _entering(filt, u, state, controls)
    signal = signal[:n_frames]
    transient = len(signal) // 10 if transient is None else whole_number("transient", transient, least=0)
    n_used = len(signal) - transient
    if n_used < 2:
        raise ParameterError(f"{transient=} of {len(signal)} frames leaves {n_used}; give more frames")
    if every is not None and whole_number("every", every) > n_used:
        raise ParameterError(f"{every=} is more than the {n_used} frames after the transient")
    tangents = _directions(filt, n_exponents, seed, signal, here)
    step, log_det, t = _settled(filt, signal[:transient], here, tangents, seed), 0.0, 0
    step = min(step, max(1, n_used // BINS)) if every is None else every
    sums, counts = np.zeros((BINS, len(tangents.vectors))), np.zeros(BINS)
    for piece in _pieces(filt, signal[transient:], here):
        logs = tangents.grow(piece.A, len(piece.y), step)
        ends = (t // step + 1 + np.arange(len(logs))) * step
        place = (ends - 1) * BINS // n_used
        np.add.at(sums, place, logs)
        np.add.at(counts, place, step)
        if check:
            log_det += float(np.sum(np.linalg.slogdet(piece.A)[1])) * len(piece.y) / len(piece.A)
        t += len(piece.y)
    logs, remaining = tangents.finish()
    sums[-1] += logs
    counts[-1] += remaining
    driven = bool(np.any(signal != signal[0]))
    mean_det = log_det / n_used if check else np.nan
    return _summed(sums, counts, mean_det, step, filt, conditional=driven)


def _directions(filt: Filter, n_vectors: int | None, seed: int, signal: Real, state: State) -> Tangents:
    """Random orthonormal directions in the state space."""
    n = filt.n_states
    if not n:
        raise ParameterError(f"{type(filt).__name__} has no state: there is nothing to follow")
    p = min(n, MAX_EXPONENTS) if n_vectors is None else whole_number("n_exponents", n_vectors)
    if p > n or p * n > MAX_TABLE:
        raise ParameterError(f"n_exponents={p} directions in {n} states; give fewer")
    start = generator(seed).standard_normal((n, p))
    first = _local(filt, signal[:1], state.copy())
    return Tangents(np.linalg.qr(start)[0].T, first.delays, first.mixed)


def _settled(filt: Filter, signal: Real, state: State, tangents: Tangents, seed: int) -> int:
    """Let directions settle on a signal, and say for how many frames they may then go on without being cleared."""
    half, parted, steepest = len(signal) // 2, 0.0, 0.0
    for piece in _pieces(filt, signal[:half], state):
        tangents.grow(piece.A, len(piece.y), 1)
    # what the singular Jacobian of a zero state lost, as that of an LSTM without biases has, is no loss later on
    tangents.refill(generator(seed))
    for piece in _pieces(filt, signal[half:], state):
        logs = tangents.grow(piece.A, len(piece.y), 1)
        known = np.isfinite(logs)
        high = np.max(logs, axis=1, initial=-np.inf, where=known)
        low = np.min(logs, axis=1, initial=np.inf, where=known)
        parted += float(np.sum(high - low, where=known.any(axis=1)))
        steepest = max(steepest, float(np.max(np.abs(logs), initial=0.0, where=known)))
    mean = parted / max(1, len(signal) - half)
    return int(np.clip(min(SPREAD / (mean + 1e-3), 200 / (steepest + 1e-3)), 1, MAX_FRAMES)) if len(signal) else 1


def _summed(
    sums: Real, counts: Real, log_det: float, step: int, filt: Filter, *, conditional: bool
) -> LyapunovSpectrum:
    """A spectrum from the growth in each bin of frames, and how many frames each has."""
    with np.errstate(invalid="ignore"):  # of -inf
        total = np.sum(sums, axis=0) / np.sum(counts)
        order = np.argsort(-total, kind="stable")
        kept = np.flatnonzero(counts)
        frames = np.cumsum(counts[kept])
        trace = np.cumsum(sums[kept], axis=0)[:, order] / frames[:, None]
        held = counts.reshape(-1, PER_BLOCK).sum(axis=1)
        blocks = sums.reshape(len(held), PER_BLOCK, -1).sum(axis=1)[held > 0] / held[held > 0, None]
        half = np.full(total.shape, np.nan)
        if len(blocks) > 1:
            from scipy.special import stdtrit  # here, as it would double the start of a filter that runs

            half = stdtrit(len(blocks) - 1, 0.975) * np.std(blocks, axis=0, ddof=1) / np.sqrt(len(blocks))
        interval = np.stack([total - half, total + half], axis=1)[order]
    return LyapunovSpectrum(
        exponents=total[order],
        interval=interval,
        index=frames.astype(np.int64),
        trace=trace,
        log_det=log_det,
        every=step,
        n_frames=int(frames[-1]),
        n_states=filt.n_states,
        conditional=conditional,
        sample_rate=filt.sample_rate,
    )


@one_thread()
def finite_time_exponents(
    filt: Filter,
    u: ArrayLike,
    window: int,
    *,
    n_exponents: int | None = 1,
    state: State | None = None,
    controls: Controls | None = None,
    transient: int | None = None,
    seed: int = 0,
) -> Real:
    """Lyapunov exponents of one window of frames after the other: their spread is what the mean does not tell.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    window : int
        Frames in each.
    n_exponents, state, controls, seed
        As in :func:`lyapunov_spectrum`.
    transient : int, optional
        Frames before the first window, in which directions settle; as many as in a window when absent.

    Returns
    -------
    ndarray, shape (n_windows, n_exponents)
        In nats a frame; windows that the signal does not fill are left out. A filter may be forgetful on the average,
        and yet be thrown apart for a while: a positive entry of the first column.

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`lyapunov_spectrum`.
    """
    signal, here = _entering(filt, u, state, controls)
    whole_number("window", window)
    transient = window if transient is None else whole_number("transient", transient, least=0)
    n_windows = (len(signal) - transient) // window
    if n_windows < 1:
        raise ParameterError(f"{window=} after {transient=} is more than the {len(signal)} frames of the signal")
    tangents = _directions(filt, n_exponents, seed, signal, here)
    _settled(filt, signal[:transient], here, tangents, seed)
    found, t = np.zeros((n_windows, len(tangents.vectors))), 0
    for piece in _pieces(filt, signal[transient : transient + n_windows * window], here):
        logs = tangents.grow(piece.A, len(piece.y), 1)
        np.add.at(found, (t + np.arange(len(logs))) // window, logs)
        t += len(logs)
    return found / window


# ---- gradients


@dataclass(frozen=True)
class GradientNorms:
    """How strongly a state, an output and an input act on what comes later, against the lag.

    Attributes
    ----------
    lag : ndarray, shape (n,)
        In frames, more and more apart.
    start : ndarray, shape (n_starts,)
        Frames t from which lags are counted.
    state_db, output_db, input_db : ndarray, shape (n_starts, n)
        2-norms of the derivatives of x[t+k] by x[t], of y[t+k] by x[t] and of y[t+k] by u[t], in dB; x[t] is the state
        that frame t meets. -inf where nothing is left.
    exponent : float
        Slope of the mean of ln ||dx[t+k]/dx[t]|| over the second half of the lags, in nats a frame: for long lags the
        largest Lyapunov exponent.
    verdict : {"vanishing", "exploding", "in between"}
        Whether from lag 0 to the longest one the median of ``state_db`` falls below -60 dB or rises above 60 dB.
    sample_rate : float or None
        Hz.
    """

    lag: NDArray[np.int64]
    start: NDArray[np.int64]
    state_db: Real
    output_db: Real
    input_db: Real
    exponent: float
    verdict: str
    sample_rate: float | None


@one_thread()
def gradient_norms(
    filt: Filter,
    u: ArrayLike,
    max_lag: int,
    *,
    n_starts: int = 16,
    n_lags: int = 64,
    state: State | None = None,
    controls: Controls | None = None,
) -> GradientNorms:
    r"""Norms of gradients through time against the lag: whether training can see that far back.

    .. math:: \Bigl\| \frac{\partial x_{t+k}}{\partial x_t} \Bigr\|, \quad
              \Bigl\| \frac{\partial y_{t+k}}{\partial x_t} \Bigr\|, \quad
              \Bigl\| \frac{\partial y_{t+k}}{\partial u_t} \Bigr\|

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice, of more than ``max_lag`` frames.
    max_lag : int
        Frames.
    n_starts : int
        How many frames t to start from, evenly over the signal.
    n_lags : int
        How many lags to look at, at most.
    state : State, optional
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    GradientNorms

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; a signal that is too short; or more than 1000 states, as the product of their Jacobians
        is formed (:func:`memory_horizon` does without).

    References
    ----------
    Y. Bengio, P. Simard, P. Frasconi (1994), "Learning long-term dependencies with gradient descent is difficult".
    R. Pascanu, T. Mikolov, Y. Bengio (2013), "On the difficulty of training recurrent neural networks".
    """
    signal, here = _entering(filt, u, state, controls)
    n = filt.n_states
    if n > MAX_PRODUCT or not n:
        raise ParameterError(
            f"gradients of {n} states are a matrix of {n} x {n}: this is for 1 to {MAX_PRODUCT}; ask memory_horizon"
        )
    if whole_number("max_lag", max_lag) >= len(signal):
        raise ParameterError(f"{max_lag=} needs a signal of more frames than {len(signal)}")
    lag = np.unique(np.append(0, np.geomspace(1, max_lag, whole_number("n_lags", n_lags, least=2)).round()))
    lag = lag.astype(np.int64)
    start = _starts(len(signal) - max_lag, n_starts)
    places, passed = [], 0
    for t in start:
        _skip(filt, signal[passed:t], here)
        places.append(here.copy())
        passed = t
    n_played = 1 if _stands_still(filt, signal) else start.size
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        played = start[:n_played], places[:n_played]
        rows = list(pool.map(lambda t, place: _gradients(filt, signal[t:], place, lag), *played))
    found = np.stack(rows * (start.size // n_played), axis=1)
    return _judged(lag, start, found, filt.sample_rate)


def _gradients(filt: Filter, signal: Real, state: State, lag: NDArray[np.int64]) -> Real:
    """Levels in dB of the three gradients of :class:`GradientNorms` from the first frame on, a column for each lag."""
    found = np.empty((3, lag.size))
    piece = _local(filt, signal[:1], state)
    found[:, 0] = 0.0, _db(piece.C[0]), _db(piece.D[0])
    state_tangents = Tangents(np.eye(filt.n_states), piece.delays, piece.mixed)
    input_tangents = _entered(piece)
    state_tangents.push(piece.A, 1)
    for place in range(1, lag.size):
        for piece in _pieces(filt, signal[max(lag[place - 1], 1) : lag[place]], state):
            state_tangents.push(piece.A, len(piece.y))
            input_tangents.push(piece.A, len(piece.y))
        C = np.asarray(filt._linearize(state, signal[lag[place]]).C, np.float64)
        found[:, place] = (
            _db(state_tangents.vectors, state_tangents.log_scale),
            _db(state_tangents.outputs(C), state_tangents.log_scale),
            _db(input_tangents.outputs(C), input_tangents.log_scale),
        )
    return found


def _starts(n_frames: int, n_starts: int) -> NDArray[np.int64]:
    """Frames to start from, evenly over so many."""
    return np.unique(np.linspace(0, n_frames - 1, whole_number("n_starts", n_starts)).round().astype(np.int64))


def _entered(piece: Jacobians) -> Tangents:
    """What the first frame of a piece writes into the state, for each input."""
    vectors = np.zeros((piece.B.shape[2], int(piece.delays.sum())))
    vectors[:, np.cumsum(piece.delays) - 1] = piece.B[0].T  # the newest sample of every line
    return Tangents(vectors, piece.delays)


def _db(matrix: Real, log_scale: float = 0.0) -> float:
    """The 2-norm of ``exp(log_scale) * matrix``."""
    norm = _norm(matrix) if matrix.size else 0.0
    return 20 / np.log(10) * (np.log(norm) + log_scale) if norm else -np.inf


def _stands_still(filt: Filter, signal: Real) -> bool:
    """Whether the Jacobian is the same at all frames."""
    return filt.is_linear and not np.ptp(signal[:, filt.n_inputs :], axis=0).any()


def _norm(matrix: Real) -> float:
    """The 2-norm; of a large matrix to half of its digits, as all singular values would take a second."""
    if min(matrix.shape) <= 64:
        return float(np.linalg.norm(matrix, 2))
    size = float(np.max(np.abs(matrix)))
    if not size:
        return 0.0
    wide = matrix / size if len(matrix) <= matrix.shape[1] else matrix.T / size
    return size * float(np.sqrt(np.linalg.eigvalsh(wide @ wide.T)[-1]))


def _judged(lag: NDArray[np.int64], start: NDArray[np.int64], found: Real, sample_rate: float | None) -> GradientNorms:
    with np.errstate(invalid="ignore"):
        mean = np.mean(found[0], axis=0) * np.log(10) / 20
    late = (lag >= lag[-1] / 2) | (lag >= lag[-2])
    exponent = float(np.polyfit(lag[late], mean[late], 1)[0]) if np.isfinite(mean[late]).all() else -np.inf
    change = float(np.quantile(found[0, :, -1], 0.5, method="lower"))
    verdict = "vanishing" if change < -MUCH_DB else "exploding" if change > MUCH_DB else "in between"
    state_db, output_db, input_db = found
    return GradientNorms(lag, start, state_db, output_db, input_db, exponent, verdict, sample_rate)


@dataclass(frozen=True)
class MemoryHorizon:
    """How long an input is heard.

    Attributes
    ----------
    start : ndarray, shape (n_starts,)
        Frames at which the input was nudged.
    frames : ndarray, shape (n_starts,)
        Frames after which the effect on the output stays ``drop_db`` below its peak; inf where the signal ended before.
    drop_db : float
    sample_rate : float or None
        Hz.
    """

    start: NDArray[np.int64]
    frames: Real
    drop_db: float
    sample_rate: float | None

    @property
    def samples(self) -> float:
        """The median of ``frames``."""
        return float(np.quantile(self.frames, 0.5, method="lower"))

    @property
    def ms(self) -> float | None:
        """The median in milliseconds, where the sample rate is known."""
        return None if self.sample_rate is None else 1000 * self.samples / self.sample_rate


def memory_horizon(
    filt: Filter,
    u: ArrayLike,
    *,
    drop_db: float = 60.0,
    n_starts: int = 16,
    state: State | None = None,
    controls: Controls | None = None,
) -> MemoryHorizon:
    """How long it takes until a small change of the input at one frame has faded from the output, along given audio.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice. Changes are made in its first half.
    drop_db : float
        By how much the norm of dy[t+k]/du[t] must stay below its peak over k.
    n_starts : int
        How many frames t.
    state : State, optional
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    MemoryHorizon

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`.

    Notes
    -----
    For a linear filter this is the length of its impulse response; for others that of the small-signal response, which
    differs from frame to frame. Once the response has stayed below for as long as it took to get there, and for 100
    frames, it counts as faded: what returns later is not seen.
    """
    if number("drop_db", drop_db) <= 0:
        raise ParameterError(f"{drop_db=} must be positive")
    signal, here = _entering(filt, u, state, controls)
    start = _starts(-(-len(signal) // 2), n_starts)
    frames, passed = np.empty(start.size), 0
    for row, t in enumerate(start):
        _skip(filt, signal[passed:t], here)
        passed = t
        frames[row] = _faded(filt, signal[t:], here.copy(), 10 ** (-drop_db / 20))
    return MemoryHorizon(start, frames, float(drop_db), filt.sample_rate)


def _faded(filt: Filter, signal: Real, state: State, share: float) -> float:
    """After how many frames the effect of the first one stays below a share of its peak."""
    level, entering = np.zeros(0), None
    for piece in _pieces(filt, signal, state):
        begin = 0
        if entering is None:
            entering, begin = _entered(piece), 1
            level = np.array([np.linalg.norm(piece.D[0])])
        A, C = _frames(piece.A, begin, len(piece.y)), _frames(piece.C, begin, len(piece.y))
        level = np.append(level, entering.watch(A, C, len(piece.y) - begin))
        loud = np.flatnonzero(level > share * np.max(level))
        lasted = int(loud[-1]) + 1 if loud.size else 0
        if level.size > 2 * lasted + 100:
            return lasted
    return lasted if lasted < level.size else np.inf


@dataclass(frozen=True)
class MemoryCapacity:
    """How much of a white input a linear read-out of the state can bring back.

    Attributes
    ----------
    lag : ndarray, shape (n,)
        In frames; 0 is the newest input.
    capacity : ndarray, shape (n,)
        Share of the variance of u[t - lag] that is brought back, 0 to 1; what could be chance is put to 0.
    total : float
        Their sum, at most the number of states but for chance.
    n_states : int
    sample_rate : float or None
        Hz.
    """

    lag: NDArray[np.int64]
    capacity: Real
    total: float
    n_states: int
    sample_rate: float | None


def memory_capacity(
    filt: Filter,
    max_lag: int | None = None,
    *,
    level: float = 0.1,
    n_frames: int = 10000,
    washout: int = 1000,
    ridge: float = 1e-10,
    channel: int = 0,
    controls: Controls | None = None,
    seed: int = 0,
) -> MemoryCapacity:
    r"""Jaeger's short-term memory capacity: how well past inputs can be read off the state.

    .. math:: MC = \sum_k \max_w \frac{\mathrm{cov}^2(u[t-k],\, w^T x[t])}{\mathrm{var}(u)\, \mathrm{var}(w^T x)}

    Parameters
    ----------
    filt : Filter
    max_lag : int, optional
        The longest lag; twice the number of states, and at least 100, when absent.
    level : float
        The input is white, uniform within ±level: a loud one bends the states, which costs linear memory.
    n_frames : int
        Frames to learn the read-out from, and again as many to try it on.
    washout : int
        Frames before.
    ridge : float
        Regularisation of the least squares, relative to the mean variance of the states.
    channel : int
        The input that gets the signal; the others get silence.
    controls : mapping of str to float, optional
    seed : int

    Returns
    -------
    MemoryCapacity

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; more than 1000 states; too few frames for them; or an input that does not exist.

    Notes
    -----
    A delay line of n samples has exactly n, the most that n states can have. Lags are counted from 0, as the state x[t]
    has seen u[t]. The read-out is tried on other frames than those it was learned from, and a capacity counts as 0
    where chance gives more in one of 10000 cases.

    References
    ----------
    H. Jaeger (2001), "Short term memory in echo state networks". J. Dambre, D. Verstraeten, B. Schrauwen, S. Massar
    (2012), "Information processing capacity of dynamical systems".
    """
    n = filt.n_states
    lags = max(2 * n, 100) if max_lag is None else whole_number("max_lag", max_lag, least=0)
    if whole_number("n_frames", n_frames) <= lags:
        raise ParameterError(f"{n_frames=} frames say nothing of lags up to {lags}: give more, or a smaller max_lag")
    start = max(whole_number("washout", washout, least=0), lags)
    if number("level", level) <= 0:
        raise ParameterError(f"{level=} must be positive")
    if number("ridge", ridge) < 0:
        raise ParameterError(f"{ridge=} must not be negative")
    if not 0 <= whole_number("channel", channel, least=0) < filt.n_inputs:
        raise ParameterError(f"{channel=}: this filter has {filt.n_inputs} inputs")
    if not 0 < n <= MAX_PRODUCT:
        raise ParameterError(f"memory capacity is for 1 to {MAX_PRODUCT} states, not {n}")
    if n_frames < 2 * (n + 1):
        raise ParameterError(f"{n_frames=} is too few to learn weights of {n} states; give at least {20 * n}")
    u = np.zeros((start + 2 * n_frames, filt.n_inputs))
    u[:, channel] = generator(seed).uniform(-level, level, len(u))
    signal, here = _entering(filt, u, None, controls)
    _skip(filt, signal[:start], here)
    x = np.empty((2 * n_frames, n))
    for t in range(2 * n_frames):
        _skip(filt, signal[start + t : start + t + 1], here)
        x[t] = here.ravel()
    wanted = np.lib.stride_tricks.sliding_window_view(u[start - lags :, channel], lags + 1)[:, ::-1]
    x -= x[:n_frames].mean(axis=0)
    spread = np.std(x[:n_frames], axis=0)
    x /= np.where(spread > 0, spread, 1)
    learn, tried = slice(0, n_frames), slice(n_frames, None)
    gram = x[learn].T @ x[learn] + ridge * n_frames * np.eye(n)
    said = x[tried] @ np.linalg.lstsq(gram, x[learn].T @ wanted[learn], rcond=None)[0]
    goal = wanted[tried] - wanted[tried].mean(axis=0)
    said -= said.mean(axis=0)
    power = np.sum(said**2, axis=0) * np.sum(goal**2, axis=0)
    capacity = np.sum(said * goal, axis=0) ** 2 / np.where(power > 0, power, 1)
    capacity[capacity < 15.14 / n_frames] = 0  # chi-square of one degree of freedom
    return MemoryCapacity(np.arange(lags + 1), capacity, float(capacity.sum()), n, filt.sample_rate)


# ---- two runs


@dataclass(frozen=True)
class Sensitivity:
    """Distance of runs that start near each other, on the same input.

    Attributes
    ----------
    index : ndarray, shape (n,)
        Frames after which the distance was taken, more and more apart; 0 is the start.
    distance : ndarray, shape (n_runs, n)
        2-norm of the difference of the states.
    size : float
        That at the start.
    sample_rate : float or None
        Hz.
    """

    index: NDArray[np.int64]
    distance: Real
    size: float
    sample_rate: float | None


def sensitivity(
    filt: Filter,
    u: ArrayLike,
    state: State | None = None,
    *,
    size: float = 1e-6,
    n_runs: int = 8,
    controls: Controls | None = None,
    seed: int = 0,
) -> Sensitivity:
    """How far runs drift apart, or together, whose initial states differ.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice, the same for all runs.
    state : State, optional
        What the runs start around; the state of rest when absent.
    size : float
        Distance at the start, as a 2-norm, in a random direction for each run.
    n_runs : int
    controls : mapping of str to float or array of n_frames, optional
    seed : int

    Returns
    -------
    Sensitivity

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; or one of the runs blows up.
    """
    signal, here = _entering(filt, u, state, controls)
    if number("size", size) <= 0:
        raise ParameterError(f"{size=} must be positive")
    n = filt.n_states
    if (whole_number("n_runs", n_runs) + 1) * max(n, 1) > MAX_TABLE:
        raise ParameterError(f"{n_runs=} runs of {n} states are too many")
    push = generator(seed).standard_normal((n_runs, n))
    push *= size / np.linalg.norm(push, axis=1, keepdims=True) if n else 1
    runs = here.unravel(here.ravel() + np.concatenate([np.zeros((1, n)), push]))
    index = np.unique(np.append(0, np.geomspace(1, len(signal), 400).round())).astype(np.int64)
    distance = np.empty((n_runs, index.size))
    for place, t in enumerate(index):
        if place:
            part = signal[index[place - 1] : t]
            block = np.ascontiguousarray(np.broadcast_to(part, (n_runs + 1, *part.shape)))
            y = np.empty((n_runs + 1, len(part), filt.n_outputs))
            with np.errstate(all="ignore"):
                filt._process(block, runs, y)
            require_finite(y, "output", runs.index - len(part))
            _require_sane(runs)
        x = runs.ravel()
        with np.errstate(over="ignore"):
            distance[:, place] = np.linalg.norm(x[1:] - x[0], axis=1)
    return Sensitivity(index, distance, float(size), filt.sample_rate)


@dataclass(frozen=True)
class Contraction:
    """How fast two runs on the same audio approach.

    Attributes
    ----------
    rate : float
        Slope of the logarithm of their distance, in nats a frame, the mean over runs: negative where they approach.
        -inf where they met within a frame; NaN where there is no slope to be seen.
    rates : ndarray, shape (n_runs,)
        That of each run.
    norm : float
        The largest ||J|| in the given metric at the frames looked at. Below one at *every* state and input it would
        prove contraction at that factor a frame; seen along one trajectory it proves nothing.
    n_seen : int
        Frames at which the norm was taken.
    sample_rate : float or None
        Hz.
    """

    rate: float
    rates: Real
    norm: float
    n_seen: int
    sample_rate: float | None

    @property
    def factor(self) -> float:
        """Factor a frame by which the distance changes."""
        return float(np.exp(self.rate))

    @property
    def db_per_s(self) -> float | None:
        """The rate in dB a second, where the sample rate is known."""
        return None if self.sample_rate is None else 20 / np.log(10) * self.rate * self.sample_rate


def contraction_rate(
    filt: Filter,
    u: ArrayLike,
    state: State | None = None,
    *,
    size: float = 1.0,
    n_runs: int = 8,
    metric: ArrayLike | None = None,
    n_seen: int = 200,
    controls: Controls | None = None,
    seed: int = 0,
) -> Contraction:
    r"""The measured rate at which runs from different states approach on given audio, and how large its Jacobians are.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    state : State, optional
        What the runs start around; the state of rest when absent.
    size, n_runs, seed
        As in :func:`sensitivity`; differences are meant to be large here.
    metric : array, shape (n_states, n_states), optional
        Symmetric positive definite P: norms are those of :math:`\|x\|_P = \sqrt{x^T P x}`; the 2-norm when absent.
    n_seen : int
        At how many frames, evenly over the signal, to take the norm.
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    Contraction

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`jacobians`; a metric that is not positive definite; or more than 1000 states.
    """
    signal, here = _entering(filt, u, state, controls)
    n = filt.n_states
    if not 0 < n <= MAX_PRODUCT:
        raise ParameterError(f"the norm of a Jacobian is for 1 to {MAX_PRODUCT} states, not {n}; ask sensitivity")
    root = _root(metric, n)
    runs = sensitivity(filt, u, state, size=size, n_runs=n_runs, controls=controls, seed=seed)
    seen, passed, largest = _starts(len(signal), n_seen), 0, 0.0
    for t in seen[:1] if _stands_still(filt, signal) else seen:
        _skip(filt, signal[passed:t], here)
        linear = filt._linearize(here, signal[t])
        J = linear.A if np.all(linear.delays == 1) else linear.expand().A
        largest = max(largest, _norm(J if metric is None else np.linalg.solve(root.T, (root @ J).T).T))
        passed = t
    floor = ROUNDING * (1 + float(np.linalg.norm(here.ravel())))
    rates = np.array([_slope(runs.index, d, floor) for d in runs.distance])
    return Contraction(float(np.mean(rates)), rates, largest, seen.size, filt.sample_rate)


def _root(metric: ArrayLike | None, n: int) -> Real:
    """R with R^T R = P."""
    P = np.eye(n) if metric is None else np.asarray(metric, np.float64)
    if P.shape != (n, n) or not np.isfinite(P).all() or not np.allclose(P, P.T):
        raise ParameterError(f"metric of shape {P.shape} must be symmetric, ({n}, {n})")
    try:
        root = np.asarray(np.linalg.cholesky(P).T, np.float64)
    except np.linalg.LinAlgError:
        raise ParameterError("metric must be positive definite") from None
    return root


def _slope(index: NDArray[np.int64], distance: Real, floor: float) -> float:
    """Slope of the logarithm of a distance until it is rounding."""
    low = np.flatnonzero(distance <= floor)
    stop = int(low[0]) if low.size else index.size
    if stop < 2:
        return -np.inf if low.size else np.nan
    return float(np.polyfit(index[:stop], np.log(distance[:stop]), 1)[0])

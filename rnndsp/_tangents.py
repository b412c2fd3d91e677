"""What small differences become along a trajectory: Jacobians of all cells, and products of them, compiled."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnndsp._jit import inline, kernel, specialise
from rnndsp._loops import load_gates, split_gates
from rnndsp._vectors import fma, lanes, load, load_each, store, total

if TYPE_CHECKING:
    from rnndsp.filter import Filter
    from rnndsp.state import State

__all__ = [
    "Jacobians",
    "Tangents",
    "by_adjoint",
    "feedback",
    "frame_by_frame",
    "in_turn",
    "local_loop",
    "parallel",
    "series",
    "stack",
]

Real = NDArray[np.float64]

ONE = (None,)
WIDE = ONE * lanes(np.dtype(np.float64))


class Jacobians(NamedTuple):
    """The small-signal filters at the frames of a trajectory, each as :class:`DelayStateSpace` has it.

    Attributes
    ----------
    A, B, C, D : ndarray, shapes (n_frames, n, n), (n_frames, n, n_inputs), (n_frames, n_outputs, n), ...
        Those of :meth:`Filter.linearize`. The first axis has length 1 where they are the same at all frames.
    delays : ndarray, shape (n,)
        Lengths of the delay lines in samples; all of them 1 where A is the Jacobian of the new state by the old one.
    y : ndarray, shape (n_frames, n_outputs)
        The output meanwhile.
    mixed : int
        Where not 0, only the first so many columns of A are full: further ones, part after part of as many, have
        entries in the rows of their own unit alone.
    """

    A: Real
    B: Real
    C: Real
    D: Real
    delays: NDArray[np.int64]
    y: Real
    mixed: int = 0


# ---- cells


def _mix(J: Any, at: Any, weights: Any, d: Any, m: Any, j: Any, gates: Any, lanes: Any) -> Any:
    """Write the sum of d U[j] over the gates to the row of J that starts ``at`` a flat index, for unit j.

    ``weights`` is U, or the vector of its diagonals; the gates' numbers stand ``m`` apart in d.
    """


@specialise(_mix)
def _mix_row(J: Any, at: Any, weights: Any, d: Any, m: Any, j: Any, gates: Any, lanes: Any) -> Any:
    def dense(J: Any, at: Any, weights: Any, d: Any, m: Any, j: Any, gates: Any, lanes: Any) -> Any:
        n = weights.shape[1]
        whole = n // len(lanes) * len(lanes)
        for k in range(0, whole, len(lanes)):
            total = load(weights, j * n + k, lanes, lanes) * d[j]
            for g in range(1, len(gates)):
                total = fma(load(weights, (g * n + j) * n + k, lanes, lanes), d[g * m + j], total)
            store(J, at + k, total, lanes)
        for k in range(whole, n):
            total = weights[j, k] * d[j]
            for g in range(1, len(gates)):
                total = fma(weights[g * n + j, k], d[g * m + j], total)
            store(J, at + k, total, ONE)

    def diagonal(J: Any, at: Any, weights: Any, d: Any, m: Any, j: Any, gates: Any, lanes: Any) -> Any:
        n = weights.size // len(gates)
        for k in range(n):
            store(J, at + k, 0.0, ONE)
        total = 0.0
        for g in range(len(gates)):
            total = fma(weights[g * n + j], d[g * m + j], total)
        store(J, at + j, total, ONE)

    return dense if weights.ndim == 2 else diagonal


def _put_each(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> Any:
    """Write a tuple of numbers or vectors, ``step`` apart."""


@specialise(_put_each)
def _put_some(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> Any:
    def several(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> Any:
        store(x, at, values[0], lanes)
        _put_each(x, at + step, step, values[1:], lanes)

    def none(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> Any:
        pass

    return several if len(values) else none


@cache
def local_loop(stage: Any, n_in: int, n_params: int, lanes: tuple[None, ...]) -> Any:
    """Compile the Jacobians of one stage's outcome, by what enters it (to J) and by the input (to B), frame by frame.

    ``tape`` is that of :func:`rnndsp._loops.forward_loop`; what enters the stage stands in its rows from ``enter`` on,
    ``m`` numbers a part. ``p`` has the unit's own parameters, as far apart.
    """
    adjoint = stage.adjoint
    inline(adjoint)
    entering, gates, params, out = ((None,) * n for n in (n_in, stage.n_gates, n_params, stage.n_out))
    apart, summed = split_gates(stage)

    @kernel
    def local(tape: Any, enter: Any, m: Any, W: Any, U: Any, p: Any, J: Any, B: Any) -> Any:
        n, width = J.shape[1] // len(out), tape.shape[2]
        pre = enter + len(entering) * m
        seed = np.zeros(len(out) * len(lanes))
        da, dr = np.empty(len(gates) * m), np.empty(len(gates) * m)
        ds, dp = np.empty(len(entering) * m), np.empty(len(params) * m)
        for t in range(J.shape[0]):
            for part in range(len(out)):
                seed[:] = 0
                seed[part * len(lanes) : (part + 1) * len(lanes)] = 1
                d = load_each(seed, 0, len(lanes), lanes, lanes, out)
                for j in range(0, m, len(lanes)):
                    at = t * width + j
                    a, r = load_gates(tape, at + pre, m, apart, summed, lanes)
                    s = load_each(tape, at + enter, m, lanes, lanes, entering)
                    g = adjoint(a, r, s, load_each(p, j, m, lanes, lanes, params), d)
                    _put_each(da, j, m, g[0], lanes)
                    _put_each(dr, j, m, g[1], lanes)
                    _put_each(ds, j, m, g[2], lanes)
                    _put_each(dp, j, m, g[3], lanes)
                for j in range(n):
                    row = part * n + j
                    _mix(J, (t * J.shape[1] + row) * J.shape[2], U, dr, m, j, gates, lanes)
                    J[t, row, n:] = 0
                    for i in range(len(entering)):
                        J[t, row, i * n + j] += ds[i * m + j]
                    for channel in range(W.shape[1]):
                        total = 0.0
                        for gate in range(len(gates)):
                            total += da[gate * m + j] * W[gate * n + j, channel]
                        B[t, row, channel] = total

    return local


# ---- any filter


def frame_by_frame(filt: Filter, u: Real, state: State) -> Jacobians:
    """:class:`Jacobians` of a filter that gives one small-signal filter at a time; ``state`` moves on."""
    n_frames, y = len(u), np.empty((1, len(u), filt.n_outputs))
    controls = u[:, filt.n_inputs :]
    if filt.is_linear and not np.any(controls != controls[:1]):
        found = [filt._linearize(state, u[0])]
        filt._process(u[None], state, y)
    else:
        found = []
        for t in range(n_frames):
            found.append(filt._linearize(state, u[t]))
            filt._process(u[None, t : t + 1], state, y[:, t : t + 1])
    A, B, C, D = (np.array([getattr(linear, name) for linear in found], np.float64) for name in "ABCD")
    return Jacobians(A, B, C, D, found[0].delays, y[0])


def by_adjoint(filt: Filter, u: Real, states: Real, place: State) -> tuple[Real, Real, Real, Real]:
    """A to D of :class:`Jacobians` at frames met in given states, one a row, laid out as ``place`` is.

    By the adjoint of one frame, with a voice for every row of the matrices.
    """
    (n_frames, n), p = states.shape, filt.n_outputs
    voices = place.unravel(np.repeat(states, n + p, axis=0))
    _, memory = filt._record(np.repeat(u, n + p, axis=0)[:, None], voices)
    rows = np.tile(np.eye(n + p), (n_frames, 1))
    du, dx, _ = filt._adjoint(memory, np.ascontiguousarray(rows[:, None, n:]), np.ascontiguousarray(rows[:, :n]))
    dx, du = dx.reshape(n_frames, n + p, n), du.reshape(n_frames, n + p, -1)[..., : filt.n_inputs]
    return dx[:, :n], du[:, :n], dx[:, n:], du[:, n:]


def series(first: Jacobians, second: Jacobians) -> Jacobians:
    """``first``, then ``second``: :func:`rnndsp.statespace.series` at every frame."""
    A = _corner(first.A, second.B @ first.C, second.A)
    B = _joined([first.B, second.B @ first.D], -2)
    C = _joined([second.D @ first.C, second.C], -1)
    delays = np.concatenate([first.delays, second.delays])
    return Jacobians(A, B, C, second.D @ first.D, delays, second.y, _mixed(first, second))


def parallel(first: Jacobians, second: Jacobians) -> Jacobians:
    """The sum of both outputs on the same input: :func:`rnndsp.statespace.parallel` at every frame."""
    A = _corner(first.A, np.zeros((1, second.A.shape[1], first.A.shape[1])), second.A)
    B, C = _joined([first.B, second.B], -2), _joined([first.C, second.C], -1)
    delays = np.concatenate([first.delays, second.delays])
    return Jacobians(A, B, C, first.D + second.D, delays, first.y + second.y, _mixed(first, second))


def stack(first: Jacobians, second: Jacobians) -> Jacobians:
    """Side by side: :func:`rnndsp.statespace.stack` at every frame."""
    A, B, C, D = (
        _corner(a, np.zeros((1, b.shape[1], a.shape[2])), b) for a, b in zip(first[:4], second[:4], strict=True)
    )
    delays, y = np.concatenate([first.delays, second.delays]), np.concatenate([first.y, second.y], axis=-1)
    return Jacobians(A, B, C, D, delays, y, _mixed(first, second))


def feedback(forward: Jacobians, backward: Jacobians, n_samples: int) -> Jacobians:
    """A loop closed by a delay: :func:`rnndsp.statespace.feedback` at every frame."""
    A1, B1, C1, D1 = forward[:4]
    A2, B2, C2, D2 = backward[:4]
    n1, n2 = A1.shape[1], A2.shape[1]
    C = _joined([D1 @ D2, C1, D1 @ C2], -1)
    ahead, behind = _joined([B1 @ D2, A1, B1 @ C2], -1), _joined([B2, np.zeros((1, n2, n1)), A2], -1)
    A, B = _joined([C, ahead, behind], -2), _joined([D1, B1, np.zeros((1, n2, D1.shape[2]))], -2)
    delays = np.concatenate([np.full(D1.shape[1], n_samples, np.int64), forward.delays, backward.delays])
    return Jacobians(A, B, C, D1, delays, forward.y)


def in_turn(pieces: list[Jacobians]) -> Jacobians:
    """One piece of a trajectory after the other."""

    def whole(parts: Iterable[Real]) -> Real:
        full = zip(parts, pieces, strict=True)
        return np.concatenate([np.broadcast_to(part, (len(piece.y), *part.shape[1:])) for part, piece in full])

    A, B, C, D, _, y, _ = zip(*pieces, strict=True)
    return Jacobians(whole(A), whole(B), whole(C), whole(D), pieces[0].delays, np.concatenate(y), pieces[0].mixed)


def _mixed(first: Jacobians, second: Jacobians) -> int:
    """That of the one with states, where the other has none."""
    return 0 if first.delays.size and second.delays.size else first.mixed + second.mixed


def _corner(first: Real, below: Real, second: Real) -> Real:
    """``[[first, 0], [below, second]]`` at every frame."""
    right = np.zeros((1, first.shape[1], second.shape[2]))
    return _joined([_joined([first, right], -1), _joined([below, second], -1)], -2)


def _joined(parts: list[Real], axis: int) -> Real:
    """Side by side, or one above the other, at every frame; the part itself where the others are empty."""
    filled = [part for part in parts if part.shape[axis]] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    n_frames = max(map(len, filled))
    return np.concatenate([np.broadcast_to(part, (n_frames, *part.shape[1:])) for part in filled], axis)


# ---- products of Jacobians

# Vectors, a power of two, that are made orthogonal to each other one by one; to those before them all at once.
BLOCK = 16
# Numbers in between need no scaling.
SMALL, LARGE = 1e-100, 1e100


class Tangents:
    """Small differences of the state, moved on by Jacobians; delay lines are rings, no matrix has their length.

    Parameters
    ----------
    vectors : array, shape (n_vectors, n_states)
        In the order of ``state.ravel()``. Nothing of it is changed.
    delays, mixed
        See :class:`Jacobians`.
    """

    def __init__(self, vectors: Real, delays: NDArray[np.int64], mixed: int = 0) -> None:
        self.vectors = np.array(vectors, np.float64, order="C")
        self._rings = np.cumsum(delays) - delays, np.zeros(delays.size, np.int64), np.array(delays)
        self._mixed = mixed
        self._work = np.empty((2, len(vectors), delays.size))
        self._since = 0
        self.log_scale = 0.0

    def refill(self, rng: np.random.Generator) -> None:
        """Random directions, orthogonal to the others and after them, for those that have become zero."""
        alive = self.vectors[self.vectors.any(axis=1)]
        fresh = rng.standard_normal((len(self.vectors) - len(alive), self.vectors.shape[1]))
        self.vectors[:] = np.linalg.qr(np.concatenate([alive, fresh]).T)[0].T

    def push(self, A: Real, n_frames: int) -> None:
        """Move on by so many frames, scaled by ``exp(-log_scale)`` lest numbers leave the range of floats."""
        self.log_scale += _push(self.vectors, self._work, A, n_frames, self._rings, self._mixed)

    def grow(self, A: Real, n_frames: int, every: int) -> Real:
        """Move on, made orthonormal after every so many frames: the logarithms of their growth, a row each time.

        Frames since the last time are remembered from call to call.
        """
        logs = np.empty(((self._since + n_frames) // every, len(self.vectors)))
        self._since = _grow(self.vectors, self._work, A, n_frames, self._rings, self._mixed, every, self._since, logs)
        return logs

    def finish(self) -> tuple[Real, int]:
        """A last row of :meth:`grow`, and for how many frames it stands."""
        logs, n_frames = np.zeros(len(self.vectors)), self._since
        if n_frames:
            _orthonormalise(self.vectors, logs)
        self._since = 0
        return logs, n_frames

    def watch(self, A: Real, C: Real, n_frames: int) -> Real:
        """Move on; the 2-norm (of all entries) of what the output hears at each of the frames."""
        heard = np.empty(n_frames)
        self.log_scale += _watch(
            self.vectors, self._work, A, C, n_frames, self._rings, self._mixed, self.log_scale, heard
        )
        return heard

    def outputs(self, C: Real) -> Real:
        """C d at the present frame, d being the exits of the lines: shape (n_vectors, n_outputs)."""
        first, place, _ = self._rings
        seen: Real = self.vectors[:, first + place] @ C.T
        return seen


@kernel
def _move(x: Any, work: Any, a: Any, rings: Any, mixed: Any) -> Any:
    first, place, delays = rings
    d, v = work[0], work[1]
    if mixed:
        np.dot(np.ascontiguousarray(x[:, :mixed]), np.ascontiguousarray(a[:, :mixed]).T, v)
        own = np.empty((len(a) // mixed, len(a)))  # what every unit gives to itself
        for row in range(len(own)):
            for i in range(mixed, len(a)):
                own[row, i] = a[row * mixed + i % mixed, i]
        for k in range(len(x)):
            old, new = x[k], v[k]
            for row in range(len(own)):
                goal = new[row * mixed : (row + 1) * mixed]
                for part in range(mixed, len(a), mixed):
                    factor, own_old = own[row, part : part + mixed], old[part : part + mixed]
                    for i in range(mixed):
                        goal[i] += factor[i] * own_old[i]
            old[:] = new
    elif x.shape[1] == delays.size:
        np.dot(x, a.T, v)
        x[:] = v
    else:
        for i in range(delays.size):
            for k in range(len(x)):
                d[k, i] = x[k, first[i] + place[i]]
        np.dot(d, a.T, v)
        for i in range(delays.size):
            for k in range(len(x)):
                x[k, first[i] + place[i]] = v[k, i]
            place[i] = (place[i] + 1) % delays[i]


@inline
def _scaled(x: Any) -> Any:
    """The logarithm of the factor by which x is divided, lest its numbers leave the range of floats."""
    largest = 0.0
    for k in range(len(x)):
        for i in range(x.shape[1]):
            largest = max(largest, abs(x[k, i]))
    if largest > LARGE or 0 < largest < SMALL:
        x[:] = x / largest
        return np.log(largest)
    return 0.0


@kernel
def _push(x: Any, work: Any, A: Any, n_frames: Any, rings: Any, mixed: Any) -> Any:
    log = 0.0
    for t in range(n_frames):
        _move(x, work, A[min(t, len(A) - 1)], rings, mixed)
        log += _scaled(x)
    return log


@kernel
def _watch(x: Any, work: Any, A: Any, C: Any, n_frames: Any, rings: Any, mixed: Any, before: Any, heard: Any) -> Any:
    first, place, _ = rings
    log = 0.0
    for t in range(n_frames):
        c, total = C[min(t, len(C) - 1)], 0.0
        for k in range(len(x)):
            for j in range(len(c)):
                y = 0.0
                for i in range(first.size):
                    y += c[j, i] * x[k, first[i] + place[i]]
                total += y * y
        heard[t] = np.sqrt(total) * np.exp(before + log)
        _move(x, work, A[min(t, len(A) - 1)], rings, mixed)
        log += _scaled(x)
    return log


@kernel
def _grow(x: Any, work: Any, A: Any, n_frames: Any, rings: Any, mixed: Any, every: Any, since: Any, logs: Any) -> Any:
    row = 0
    for t in range(n_frames):
        _move(x, work, A[min(t, len(A) - 1)], rings, mixed)
        since += 1
        if since == every:
            _orthonormalise(x, logs[row])
            row += 1
            since = 0
    return since


@inline
def _product(x: Any, i: Any, j: Any) -> Any:
    """The scalar product of two rows."""
    size = x.shape[1]
    whole, found = size // len(WIDE) * len(WIDE), 0.0
    if whole:
        sums = load(x, i * size, WIDE, WIDE) * load(x, j * size, WIDE, WIDE)
        for k in range(len(WIDE), whole, len(WIDE)):
            sums = fma(load(x, i * size + k, WIDE, WIDE), load(x, j * size + k, WIDE, WIDE), sums)
        found = total(sums)
    for k in range(whole, size):
        found = fma(x[i, k], x[j, k], found)
    return found


@kernel
def _orthonormalise(x: Any, logs: Any) -> Any:
    """Rows of x made orthonormal in place, block after block: the logarithms of their lengths go to ``logs``.

    A row that depends on those before it to rounding becomes zero, and stays so, with a logarithm of -inf.
    """
    n, size = x.shape
    for i in range(n):
        logs[i] = np.sqrt(_product(x, i, i))  # for now, to compare with
    for start in range(0, n, BLOCK):
        stop = min(n, start + BLOCK)
        for i in range(start, stop):
            length = np.sqrt(_product(x, i, i))
            if length <= size * 2.2e-16 * logs[i]:
                x[i] = 0
                logs[i] = -np.inf
                continue
            logs[i] = np.log(length)
            row = x[i]
            row /= length
            for j in range(i + 1, stop):
                along, other = _product(x, i, j), x[j]
                for k in range(size):
                    other[k] -= along * row[k]
        if stop < n:
            # halves, halves of halves, ...: the largest that ends here clears as many rows after it
            many = stop & -stop
            done, rest = x[stop - many : stop], x[stop : stop + many]
            rest -= np.dot(np.dot(rest, done.T), done)

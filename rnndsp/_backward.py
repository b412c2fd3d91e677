"""Back-propagation through time of all cells, derived from their units, in chunks of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnndsp._jit import inline, kernel, specialise
from rnndsp._loops import Lanes, Runner, load_gates, nones, split_gates, store_each
from rnndsp._mixing import affine
from rnndsp._vectors import add_tile, aligned, every, fma, load, load_each, outer, store, transpose, zeros
from rnndsp.activations import flush

__all__ = ["Backward", "Sums"]

Array = NDArray[Any]

# Numbers on the tape of a chunk of frames, which is read twice: they stay in the second-level cache.
CHUNK = 2**18


def _add_each(x, at, step, values, count, lanes):
    """Add a tuple of vectors to what stands there, ``step`` apart."""


@specialise(_add_each)
def _add_some(x, at, step, values, count, lanes):
    def several(x, at, step, values, count, lanes):
        store(x, at, flush(load(x, at, lanes, lanes) + values[0]), lanes)
        _add_each(x, at + step, step, values[1:], count[1:], lanes)

    def none(x, at, step, values, count, lanes):
        pass

    return several if len(values) else none


@cache
def _backward_loop(stages: Any, n_states: int, n_params: int, dense: bool, shape: Lanes) -> Any:
    """Compile the adjoint of :func:`rnndsp._loops.forward_loop`, for a chunk of frames.

    ``d`` holds the derivatives by the state, first those after the chunk, then those before it, in parts of ``part``
    numbers; in its other half those by what goes from stage to stage. On the tape derivatives by the pre-activations
    take the place of these. Their sums go to ``totals``, those by the units' own parameters to ``own``, and those by
    the input to ``du``, unless it is empty.
    """
    two = len(stages) == 2
    adjoint0, adjoint1 = stages[0].adjoint, stages[-1].adjoint
    entering0, entering1, params = nones(n_states), nones(stages[0].n_out), nones(n_params)
    counts0 = (*split_gates(stages[0]), nones(stages[0].n_gates), entering0, nones(stages[0].n_out), params)
    counts1 = (*split_gates(stages[-1]), nones(stages[-1].n_gates), entering1, nones(stages[-1].n_out), params)
    kept0, summed0 = stages[0].n_kept, stages[0].n_kept + (0 if dense else stages[0].n_gates)
    lanes, weight, entry, _ = tuple(shape)
    plain = (lanes, weight, entry, shape.back)
    for stage in stages:
        inline(stage.adjoint)

    @kernel
    def backward(dy, du, first, start, stop, weights, second, tape, m, part, enter, d, came, own, totals):
        n, width = dy.shape[2], tape.shape[2]
        n_voices = min(len(entry), dy.shape[0] - first)
        sizes = (m, part, dense, du.shape[2] if du.size else 0)
        for t in range(stop - 1, start - 1, -1):
            row = (first // len(entry) * tape.shape[1] + t) * width
            _take(dy, (first * dy.shape[1] + t) * n, dy.shape[1] * n, n, n_voices, d, came, lanes, entry)
            for i in range(came.size if du.size else 0):
                came[i] = 0
            state = row + enter
            if two:
                between = state + (len(entering0) + kept0) * m
                places = (between, 0, d.size // 2, len(params) * m, summed0 * m)
                _back(adjoint1, weights, second, tape, places, d, came, own, totals, sizes, counts1, plain)
                places = (state, d.size // 2, 0, 0, 0)
                _back(adjoint0, weights, 0, tape, places, d, came, own, totals, sizes, counts0, plain)
            else:
                places = (state, 0, 0, 0, 0)
                _back(adjoint0, weights, 0, tape, places, d, came, own, totals, sizes, counts0, plain)
            if du.size:
                for voice in range(n_voices):
                    for i in range(du.shape[2]):
                        du[first + voice, t, i] = came[i * len(entry) + voice]

    return backward


def _take(dy, at, step, n, n_voices, d, room, lanes, entry):
    """Add a frame of dy, from ``at`` on for the first of the voices, to the first part of d."""


@specialise(_take)
def _take_voices(dy, at, step, n, n_voices, d, room, lanes, entry):
    one = nones(1)

    def single(dy, at, step, n, n_voices, d, room, lanes, entry):
        whole = n // len(lanes) * len(lanes)
        for j in range(0, whole, len(lanes)):
            store(d, j, load(d, j, lanes, lanes) + load(dy, at + j, lanes, lanes), lanes)
        for j in range(whole, n):
            d[j] += load(dy, at + j, one, one)

    def several(dy, at, step, n, n_voices, d, room, lanes, entry):
        whole = n // len(lanes) * len(lanes) if n_voices == len(lanes) else 0
        for j in range(0, whole, len(lanes)):
            # numbers of one voice in a row become numbers of one unit
            transpose(room, 0, len(lanes), dy, at + j, step, at + (n_voices - 1) * step + j, lanes)
            for k in range(len(lanes)):
                goal = (j + k) * len(lanes)
                store(d, goal, load(d, goal, lanes, lanes) + load(room, k * len(lanes), lanes, lanes), lanes)
        for voice in range(n_voices):
            for j in range(whole, n):
                d[j * len(lanes) + voice] += load(dy, at + voice * step + j, one, one)

    return single if entry.count == 1 else several


@inline
def _back(adjoint, weights, at, tape, places, d, came, own, totals, sizes, counts, shape):
    """The adjoint of one stage at a frame: from the parts at ``source`` in d to those at ``sink``."""
    enter, source, sink, by_own, by_gates = places
    m, part, dense, n_inputs = sizes
    apart, summed, gates, entering, leaving, params = counts
    lanes, weight, entry, back = shape
    n_blocks = m // len(lanes)
    pre = enter + len(entering) * m
    mixing = at + n_blocks * len(weight) * len(params)
    for b in range(n_blocks):
        place = b * len(lanes)
        s = load_each(tape, enter + place, m, lanes, lanes, entering)
        a, r = load_gates(tape, pre + place, m, apart, summed, lanes)
        p = load_each(weights, at + b * len(weight), n_blocks * len(weight), weight, lanes, params)
        by_a, by_r, by_s, by_p = adjoint(a, r, s, p, load_each(d, source + place, part, lanes, lanes, leaving))
        first, last = every(by_a, summed, (None,)), every(by_r, summed, (None,))
        goal = pre + len(apart) * m
        store_each(tape, goal + place, m, by_a, gates, lanes)  # those of the gates apart are written over
        store_each(tape, goal + len(summed) * m + place, m, last, apart, lanes)
        store_each(tape, pre + place, m, first, apart, lanes)
        for kept in range(len(gates) + len(apart)):
            total = load(totals, by_gates + kept * m + place, lanes, lanes)
            store(totals, by_gates + kept * m + place, total + load(tape, pre + kept * m + place, lanes, lanes), lanes)
        store_each(d, sink + place, part, by_s, entering, lanes)
        _add_each(own, by_own + place, m, by_p, params, lanes)
        if not dense:
            total = by_s[0]
            for gate in range(len(gates)):
                # in the order of the gates: what U mixes stands behind what only W does
                w = load(weights, mixing + (gate * n_blocks + b) * len(weight), weight, lanes)
                by_mixed = load(tape, goal + gate * m + place, lanes, lanes)
                total = fma(w, by_mixed, total)
                diagonal = by_gates + (len(gates) + len(apart) + gate) * m + place
                store(totals, diagonal, fma(by_mixed, s[0], load(totals, diagonal, lanes, lanes)), lanes)
            store(d, sink + place, flush(total), lanes)
    n_entries = len(gates) * m // len(entry)
    if dense:
        n_tiles = part // (len(lanes) * len(back))
        mixing = _mix(weights, mixing, tape, goal, n_entries, d, sink, n_tiles, shape)
    else:
        mixing += len(gates) * n_blocks * len(weight)
    if n_inputs:
        n_tiles = -(-n_inputs // (len(weight) * len(back)))
        _mix(weights, mixing, tape, pre, n_entries, came, 0, n_tiles, shape)


@inline
def _mix(weights, at, tape, source, n_entries, out, goal, n_tiles, shape):
    """Add a matrix times the entries from ``source`` on to ``out``; where its weights end."""
    lanes, weight, entry, back = shape
    for _ in range(n_tiles):
        sums = affine(weights, at, weight, tape, source, n_entries, entry, lanes, back)
        _add_each(out, goal, len(lanes), sums, back, lanes)
        at += len(back) * len(weight) * (1 + n_entries)
        goal += len(back) * len(lanes)
    return at


@cache
def _product_loop(shape: Lanes) -> Any:
    """Compile the sums of products over the frames of a chunk (and over voices), which weights' derivatives are."""
    lanes, weight, entry, _ = tuple(shape)
    rows, columns = shape.tile
    tile = nones(len(rows) * len(columns))

    @kernel
    def product(tape, first, n_frames, at, n_rows, start, n_columns, out):
        width = tape.shape[2]
        for i in range(0, n_rows, len(rows)):
            for j in range(0, n_columns, len(columns)):
                left, right = first + at + i * len(entry), first + start + j * len(lanes)
                sums = zeros(load_each(tape, left, 0, lanes, lanes, tile))
                for _ in range(n_frames):
                    sums = outer(sums, rows, tape, left, entry, right, lanes)
                    left += width
                    right += width
                add_tile(out, i * out.shape[1] + j * len(weight), out.shape[1], sums, rows, weight)

    return product


class Sums(NamedTuple):
    """Derivatives of the loss, summed over all frames and voices: n_units rows a gate, those of all stages.

    By the gates' a and r, the weights W and U that these were mixed by, and the units' own parameters.
    """

    a: Array
    r: Array
    W: Array
    U: Array
    p: Array


class Backward:
    """A compiled backward loop and what it needs besides tape and signals.

    ``matrices`` are W and U of every stage, ``params`` the units' own; ``runner`` is the one that writes the tape.
    """

    def __init__(
        self,
        stages: tuple[Any, ...],
        n_states: int,
        matrices: Sequence[tuple[Array, Array]],
        params: Array,
        runner: Runner,
        dtype: np.dtype[Any],
    ) -> None:
        self.stages, self.n_states, self.runner, self.shape = stages, n_states, runner, runner.shape
        (self.n_params, self.n_units), self.part, self.frame = params.shape, runner.part, runner.frame
        shape = self.shape
        self.n_inputs, self.dense = matrices[0][0].shape[1], matrices[0][1].ndim == 2
        self.loop = _backward_loop(stages, n_states, self.n_params, self.dense, shape)
        self.product = _product_loop(shape)
        n_entry = len(shape.entry)
        self.rows, self.columns = self.part // n_entry, self.frame // n_entry  # units and inputs, padding included
        streams: list[list[Array]] = []
        for stage, (W, U) in zip(stages, matrices, strict=True):
            own = [_padded(params, self.rows).ravel()]
            by_gate = U.reshape(stage.n_gates, self.n_units, -1)
            # gates apart come first in what W mixes and last in what U does
            rolled = np.roll(W.reshape(stage.n_gates, self.n_units, -1), stage.n_apart, axis=0)
            own.append(self._tiles(by_gate) if self.dense else _padded(by_gate[..., 0], self.rows).ravel())
            streams.append([*own, self._tiles(rolled)])
        ordered = [table for own in streams for table in own]
        self.second = sum(map(len, streams[0]))
        self.weights = aligned((sum(map(len, ordered)),), dtype)
        self.weights[...] = np.concatenate(ordered)
        self.d_part = self._n_tiled(self.rows) * n_entry

    def _n_tiled(self, n: int) -> int:
        tile = len(self.shape.back) * len(self.shape.weight)
        return -(-n // tile) * tile

    def _tiles(self, matrices: Array) -> Array:
        """One matrix a gate, (gates, units, n), in the order in which their transposes are read."""
        n_gates, n_units, n = matrices.shape
        tile = len(self.shape.back) * len(self.shape.weight)
        table = np.zeros((n_gates, self.rows, self._n_tiled(n)))
        table[:, :n_units, :n] = matrices
        tiles = table.reshape(n_gates * self.rows, -1, tile).transpose(1, 0, 2)
        return np.pad(tiles, ((0, 0), (1, 0), (0, 0))).ravel()  # first what the sums start from

    def compile(self) -> None:
        """Run no frame of no voice: raises a TypingError where the units cannot do vectors."""
        dy, du = (np.zeros((0, 0, n), self.weights.dtype) for n in (self.n_units, self.n_inputs))
        room, tape = self.weights[:0], self.runner.rows(0)
        self.loop(dy, du, 0, 0, 0, room, 0, tape, self.part, self.d_part, self.frame, room, room, room, room)

    def run(self, dy: Array, dx: Array, tape: Array, du: Array | None) -> Sums:
        """From dy and the derivative by the last state to du, where wanted, and, in place, that by the first state."""
        n_voices, n_frames, n = dy.shape
        dtype, across, width = dy.dtype, len(self.shape.entry), tape.shape[2]
        parts = max(self.n_states, self.stages[0].n_out)
        d = aligned((2 * parts * self.d_part,), dtype)
        states = d[: self.n_states * self.d_part].reshape(self.n_states, -1, across)
        came = aligned((max(self._n_tiled(self.n_inputs) * across, len(self.shape.all) ** 2),), dtype)
        own = aligned((len(self.stages) * self.n_params * self.part,), dtype)
        n_totals = sum(stage.n_kept + (0 if self.dense else stage.n_gates) for stage in self.stages)
        totals = aligned((n_totals * self.part,), dtype)
        du = np.empty((0, 0, self.n_inputs), dtype) if du is None else du
        products = list(self._products(dtype))
        chunk = max(32, CHUNK // width)
        for first in range(0, n_voices, across):
            voices = slice(first, min(first + across, n_voices))
            n_own = voices.stop - first
            d[:] = 0
            states[:, :n, :n_own] = dx[voices].reshape(n_own, self.n_states, n).transpose(1, 2, 0)
            for start in reversed(range(0, n_frames, chunk)):
                stop = min(start + chunk, n_frames)
                self.loop(
                    dy, du, first, start, stop, self.weights, self.second, tape, self.part, self.d_part, self.frame,
                    d, came, own, totals,
                )  # fmt: skip
                at = (first // across * tape.shape[1] + start) * width
                for each in products:
                    self.product(tape, at, stop - start, each.at, each.n_rows, each.start, each.n_columns, each.out)
            dx[voices] = states[:, :n, :n_own].transpose(2, 0, 1).reshape(n_own, -1)
        return self._sums(own, totals, products)

    def _products(self, dtype: np.dtype[Any]) -> Iterator[_Product]:
        """For each stage what is summed over all frames: W and U side by side where the same gates belong to both."""
        m, wide = self.part, len(self.shape.all)
        row, n_in = self.frame, self.n_states
        for place, stage in enumerate(self.stages):
            pre, n_rows = row + n_in * m, stage.n_gates * self.rows
            if self.dense and place == stage.n_apart == 0:
                yield self._product(pre, n_rows, 0, (self.frame + m) // wide, dtype)
            else:
                yield self._product(pre, n_rows, 0, self.frame // wide, dtype)
                if self.dense:
                    yield self._product(pre + stage.n_apart * m, n_rows, row, m // wide, dtype)
            row, n_in = pre + stage.n_kept * m, stage.n_out

    def _product(self, at: int, n_rows: int, start: int, n_columns: int, dtype: np.dtype[Any]) -> _Product:
        rows, columns = (
            -(-n // len(tile)) * len(tile) for n, tile in zip((n_rows, n_columns), self.shape.tile, strict=True)
        )
        return _Product(at, n_rows, start, n_columns, aligned((rows, columns * len(self.shape.weight)), dtype))

    def _sums(self, own: Array, totals: Array, products: list[_Product]) -> Sums:
        n, across, left = self.n_units, len(self.shape.entry), iter(products)
        by_gate = totals.reshape(-1, self.rows, across).sum(axis=2)[:, :n]
        a, r, Ws, Us = [], [], [], []
        for place, stage in enumerate(self.stages):
            kept, by_gate = by_gate[: stage.n_kept], by_gate[stage.n_kept :]
            # gates apart come first in what W mixes
            a.append(np.roll(kept[: stage.n_gates], -stage.n_apart, axis=0))
            r.append(kept[stage.n_apart :])
            found = next(left)
            table = found.out[: found.n_rows].reshape(stage.n_gates, self.rows, -1)[:, :n]
            Ws.append(np.roll(table[..., : self.n_inputs], -stage.n_apart, axis=0))
            if not self.dense:
                diagonal, by_gate = by_gate[: stage.n_gates], by_gate[stage.n_gates :]
                Us.append(diagonal)
                continue
            if place == stage.n_apart == 0:
                table = table[..., self.columns :]
            else:
                found = next(left)
                table = found.out[: found.n_rows].reshape(stage.n_gates, self.rows, -1)[:, :n]
            Us.append(table[..., :n])
        by_own = own.reshape(len(self.stages), self.n_params, self.rows, across).sum(axis=(0, 3))[:, :n]
        by_a, by_r, W, U = (np.concatenate(parts).reshape(-1, *parts[0].shape[2:]) for parts in (a, r, Ws, Us))
        return Sums(by_a, by_r, W, U, by_own)


class _Product(NamedTuple):
    """Rows and columns on the tape, and where their products go."""

    at: int
    n_rows: int
    start: int
    n_columns: int
    out: Array


def _padded(table: Array, n: int) -> Array:
    return np.pad(table, [(0, 0)] * (table.ndim - 1) + [(0, n - table.shape[-1])])

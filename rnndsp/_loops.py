"""The time loops of all cells, derived from their units: forward, with a tape or without."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import TypingError
from numpy.typing import NDArray

from rnndsp._jit import inline, kernel, specialise
from rnndsp._mixing import affine, put_out
from rnndsp._vectors import aligned, every, lanes, load, load_each, store, transpose, zeros
from rnndsp.activations import flush

__all__ = [
    "Lanes",
    "Runner",
    "batched",
    "forward_loop",
    "lanes_across",
    "load_gates",
    "nones",
    "split_gates",
    "store_each",
]


def nones(n: int) -> tuple[None, ...]:
    return (None,) * n


def split_gates(stage: Any) -> tuple[tuple[None, ...], tuple[None, ...]]:
    """The gates whose a and r the adjoint needs apart, and those of which it only needs a + r."""
    return nones(stage.n_apart), nones(stage.n_gates - stage.n_apart)


# Bytes of weights that stay in the first-level cache from one frame to the next.
L1 = 32768


def store_each(x, at, step, values, count, lanes):
    """Write a tuple of ``len(count)`` numbers or vectors, ``step`` apart, and flushed."""


@specialise(store_each)
def _store_some(x, at, step, values, count, lanes):
    if len(values) != count.count:
        raise TypingError(f"a unit returned {len(values)} values where its stage says n_out={count.count}")

    def several(x, at, step, values, count, lanes):
        store(x, at, flush(values[0]), lanes)
        store_each(x, at + step, step, values[1:], count[1:], lanes)

    def none(x, at, step, values, count, lanes):
        pass

    return several if len(values) else none


@inline
def _store_gates(x, at, step, a, r, apart, summed, lanes):
    """Write what the adjoint needs of the pre-activations: a of the gates ``apart``, a + r of the others, r of those.

    The gates apart are the last ones. So what W mixes stands in a row, and what U mixes.
    """
    store_each(x, at, step, every(a, summed, (None,)), apart, lanes)
    at += len(apart) * step
    _store_sums(x, at, step, a, r, summed, lanes)
    store_each(x, at + len(summed) * step, step, every(r, summed, (None,)), apart, lanes)


def _store_sums(x, at, step, a, r, summed, lanes):
    """Write the sums of the first ``len(summed)`` entries of two tuples."""


@specialise(_store_sums)
def _store_sum(x, at, step, a, r, summed, lanes):
    def several(x, at, step, a, r, summed, lanes):
        store(x, at, flush(a[0] + r[0]), lanes)
        _store_sums(x, at + step, step, a[1:], r[1:], summed[1:], lanes)

    def none(x, at, step, a, r, summed, lanes):
        pass

    return several if summed.count else none


@inline
def load_gates(x, at, step, apart, summed, lanes):
    """What :func:`_store_gates` wrote, as (a, r); where only the sum is known, it is given as a."""
    a = load_each(x, at, step, lanes, lanes, apart)
    at += len(apart) * step
    sums = load_each(x, at, step, lanes, lanes, summed)
    return sums + a, zeros(sums) + load_each(x, at + len(summed) * step, step, lanes, lanes, apart)


def _put(y, first, t, tape, at, n_voices, lanes, entry):
    """Write the hidden state of a frame, on the tape from ``at`` on, to ``y`` of the voices from ``first`` on."""


@specialise(_put)
def _put_voices(y, first, t, tape, at, n_voices, lanes, entry):
    def one(y, first, t, tape, at, n_voices, lanes, entry):
        n = y.shape[2]
        goal, stop = (first * y.shape[1] + t) * n, (first + 1) * y.shape[1] * n
        for j in range(0, n, len(lanes)):
            put_out(y, goal + j, stop, load(tape, at + j, lanes, lanes), min(n - j, len(lanes)), lanes)

    def several(y, first, t, tape, at, n_voices, lanes, entry):
        n = y.shape[2]
        goal, stop = (first * y.shape[1] + t) * n, (first + 1) * y.shape[1] * n
        for j in range(0, n, len(lanes)):
            # as in put_out, whole vectors go where they are written over
            if n_voices == len(lanes) and goal + j + len(lanes) <= stop:
                source, last = at + j * len(lanes), at + (n - 1) * len(lanes)
                transpose(y, goal + j, y.shape[1] * n, tape, source, len(lanes), last, lanes)
            else:
                for voice in range(n_voices):
                    for k in range(j, min(n, j + len(lanes))):
                        y[first + voice, t, k] = load(tape, at + k * len(lanes) + voice, (None,), (None,))

    return one if entry.count == 1 else several


class Lanes(NamedTuple):
    """How a kernel uses its vectors, as tuples of None: ``all`` lanes, and how wide a weight and an entry of x is.

    ``units`` is how many units are mixed at a time, beside those in the lanes: as an entry of x is then read once for
    all of them.
    """

    all: Any
    weight: Any
    entry: Any
    units: Any

    def blocks(self, n_units: int) -> int:
        return -(-n_units // (len(self.weight) * len(self.units)))

    def part(self, n_units: int) -> int:
        """Numbers in a row for each unit to have one a voice."""
        return self.blocks(n_units) * len(self.all) * len(self.units)

    @property
    def back(self) -> tuple[None, ...]:
        """How many vectors of the derivative by h are summed at a time."""
        return nones(8 if len(self.entry) > 1 else 2)

    @property
    def tile(self) -> tuple[tuple[None, ...], tuple[None, ...]]:
        """Rows and columns of a matrix of sums that are kept in registers, of which there are 32 of the widest sort."""
        return (nones(6), nones(4)) if len(self.all) * 4 >= 32 else (nones(4), nones(2))

    def frame(self, n_inputs: int) -> int:
        """Numbers in a row for an input frame of each voice."""
        return -(-n_inputs * len(self.entry) // len(self.all)) * len(self.all)


@cache
def lanes_across(dtype: np.dtype[Any], across: str, dense: bool) -> Lanes:
    """Lanes ``across`` the units of one voice, across voices, or none: the plain twin of both."""
    wide, one = nones(lanes(dtype)), nones(1)
    return {
        "units": Lanes(wide, wide, one, one),
        "voices": Lanes(wide, one, wide, nones(1 + dense)),
        "none": Lanes(one, one, one, one),
    }[across]


@cache
def forward_loop(stages: Any, n_states: int, n_params: int, dense: bool, shape: Lanes) -> Any:
    """Compile the time loop for a tuple of stages. The functions are captured, so that they enter the cache key.

    ``tape`` has a row for every frame and one for what comes after it, or just two to be used in turn. In a row stand
    the input frame, then for every stage what enters and its pre-activations (:func:`_store_gates`), each ``m`` numbers
    a part. Units (or units times voices) are taken in blocks, the weights in the order in which they are read.
    """
    two = len(stages) == 2
    unit0, unit1 = stages[0].unit, stages[-1].unit
    entering0, entering1 = nones(n_states), nones(stages[0].n_out)
    gates0, gates1, params = nones(stages[0].n_gates), nones(stages[-1].n_gates), nones(n_params)
    lanes, weight, entry, units = plain = tuple(shape)
    counts0 = (*split_gates(stages[0]), nones(len(gates0) * len(units)), entering0, nones(stages[0].n_out), params)
    counts1 = (*split_gates(stages[-1]), nones(len(gates1) * len(units)), entering1, nones(stages[-1].n_out), params)
    kept = stages[0].n_kept
    one = nones(1)
    for stage in stages:
        inline(stage.unit)

    @kernel
    def forward(u, y, x, weights, tape, m, enter, taped):
        n_frames, n_inputs, n, width = u.shape[1], u.shape[2], y.shape[2], tape.shape[2]
        n_mixed = n if dense else 1
        between = enter + (len(entering0) + kept) * m
        second = m // len(lanes) * len(weight) * (len(gates0) * (2 + n_inputs + n_mixed) + len(params))
        for first in range(0, u.shape[0], len(entry)):
            n_voices = min(len(entry), u.shape[0] - first)
            row = after = first // len(entry) * (n_frames + 1) * width if taped else 0
            # also where there is no voice and no unit: nothing may be left there of what went before
            for i in range(row, row + enter + len(entering0) * m):
                store(tape, i, 0.0, one)
            for voice in range(n_voices):
                for part in range(len(entering0)):
                    for j in range(n):
                        goal = row + enter + part * m + j * len(entry) + voice
                        store(tape, goal, x[first + voice, part * n + j], one)
            for t in range(n_frames):
                after = row + width if taped or t % 2 == 0 else row - width
                for voice in range(n_voices):
                    for i in range(n_inputs):
                        store(tape, row + i * len(entry) + voice, u[first + voice, t, i], one)
                for voice in range(n_voices, len(entry)):
                    for i in range(n_inputs):
                        store(tape, row + i * len(entry) + voice, 0.0, one)
                # there and back: what was read last is still in the cache
                back = t % 2 == 1 and weights.size * weights.itemsize > L1
                sizes = (row, m, n_inputs, n_mixed)
                how = (dense, back, taped)
                if two:
                    _through(unit0, weights, 0, tape, enter, row + between, sizes, how, counts0, plain)
                    _through(unit1, weights, second, tape, between, after + enter, sizes, how, counts1, plain)
                else:
                    _through(unit0, weights, 0, tape, enter, after + enter, sizes, how, counts0, plain)
                _put(y, first, t, tape, after + enter, n_voices, lanes, entry)
                row = after
            for voice in range(n_voices):
                for part in range(len(entering0)):
                    for j in range(n):
                        source = after + enter + part * m + j * len(entry) + voice
                        x[first + voice, part * n + j] = load(tape, source, one, one)

    return forward


@inline
def _through(unit, weights, at, tape, enter, leave, sizes, how, counts, shape):
    """One stage of a frame: from the parts at ``enter`` in its row to those at ``leave``."""
    row, m, n_inputs, n_mixed = sizes
    dense, back, _ = how
    _, _, mixed, _, _, params = counts
    lanes, weight, entry, units = shape
    step = len(mixed) * len(weight)
    block = step * (2 + n_inputs + n_mixed) + len(params) * len(units) * len(weight)
    n_blocks = m // (len(lanes) * len(units))
    enter += row
    for i in range(n_blocks):
        b = n_blocks - 1 - i if back else i
        place = b * len(lanes) * len(units)
        first = at + b * block
        a = affine(weights, first, weight, tape, row, n_inputs, entry, lanes, mixed)
        first += step * (1 + n_inputs)
        if dense:
            r = affine(weights, first, weight, tape, enter, n_mixed, entry, lanes, mixed)
        else:
            r = affine(weights, first, weight, tape, enter + place, 1, lanes, lanes, mixed)
        first += step * (1 + n_mixed)
        _apply(unit, a, r, (), weights, first, tape, enter + place, leave + place, m, how, counts, shape)


def _apply(unit, a, r, done, weights, at, tape, enter, leave, m, how, counts, shape):
    """The nonlinearity of a block, for each of the units that were mixed together but those ``done``."""


@specialise(_apply)
def _apply_to_each(unit, a, r, done, weights, at, tape, enter, leave, m, how, counts, shape):
    def several(unit, a, r, done, weights, at, tape, enter, leave, m, how, counts, shape):
        apart, summed, _, entering, leaving, params = counts
        lanes, weight, _, units = shape
        own_a, own_r = every(a, done, units), every(r, done, units)
        s = load_each(tape, enter, m, lanes, lanes, entering)
        p = load_each(weights, at, len(units) * len(weight), weight, lanes, params)
        if how[2]:
            _store_gates(tape, enter + len(entering) * m, m, own_a, own_r, apart, summed, lanes)
        store_each(tape, leave, m, unit(own_a, own_r, s, p), leaving, lanes)
        step = len(lanes)
        _apply(unit, a, r, (*done, None), weights, at + 1, tape, enter + step, leave + step, m, how, counts, shape)

    def none(unit, a, r, done, weights, at, tape, enter, leave, m, how, counts, shape):
        pass

    return several if done.count < shape[3].count else none


class Runner(NamedTuple):
    """A compiled forward loop and what it needs besides signals and state."""

    loop: Any
    weights: NDArray[Any]
    part: int
    frame: int
    width: int
    shape: Lanes

    def rows(self, n_voices: int = 1, n_frames: int = 1) -> NDArray[Any]:
        """A row for every frame and one for what comes after the last, for each group of voices; of any contents."""
        n_groups = -(-n_voices // len(self.shape.entry))
        return aligned((n_groups, n_frames + 1, self.width), self.weights.dtype, blank=False)

    def run(
        self, u: NDArray[Any], x: NDArray[Any], y: NDArray[Any], rows: NDArray[Any], *, taped: bool = False
    ) -> None:
        self.loop(u, y, x, self.weights, rows, self.part, self.frame, taped)


def batched(n_voices: int, wide: int, n_units: int) -> int:
    """How many voices are best taken side by side: where few lanes are used, one after the other is faster.

    A voice alone leaves lanes unused, too, where it has few units; so fewer voices are worth it (measured).
    """
    whole = n_voices // wide * wide
    worth = wide / 2 if n_units <= wide else wide * 3 / 4
    return n_voices if n_voices - whole >= worth else whole

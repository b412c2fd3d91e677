"""The time loops of all cells, derived from their units: forward (with a tape or without), and back through time."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import TypingError
from numpy.typing import NDArray

from rnndsp._jit import inline, kernel, specialise
from rnndsp._mixing import affine, gather, put_out, rows, scatter, unmix
from rnndsp._vectors import aligned, every, lanes, load, load_each, store, transpose
from rnndsp.activations import flush

__all__ = ["Lanes", "Runner", "Weights", "backward_loop", "batched", "forward_loop", "lanes_across", "nones"]


class Weights(NamedTuple):
    """What the backward loop reads of one stage; ``gates`` and ``out`` are tuples of None, known when compiling."""

    W: Any
    U: Any
    p: Any
    gates: Any
    out: Any


# Bytes of weights that stay in the first-level cache from one frame to the next.
L1 = 32768


def _store_each(x, at, step, values, count, lanes):
    """Write a tuple of ``len(count)`` numbers or vectors, ``step`` apart, and flushed."""


@specialise(_store_each)
def _store_some(x, at, step, values, count, lanes):
    if len(values) != count.count:
        raise TypingError(f"a unit returned {len(values)} values where its stage says n_out={count.count}")

    def several(x, at, step, values, count, lanes):
        store(x, at, flush(values[0]), lanes)
        _store_each(x, at + step, step, values[1:], count[1:], lanes)

    def none(x, at, step, values, count, lanes):
        pass

    return several if len(values) else none


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
                transpose(y, goal + j, y.shape[1] * n, tape, source, last, lanes)
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
    the input frame, then for every stage what enters, a and r, each ``m`` numbers a part. Units (or units times voices)
    are taken in blocks, the weights in the order in which they are read.
    """
    two = len(stages) == 2
    unit0, unit1 = stages[0].unit, stages[-1].unit
    entering0, entering1 = nones(n_states), nones(stages[0].n_out)
    gates0, gates1, params = nones(stages[0].n_gates), nones(stages[-1].n_gates), nones(n_params)
    lanes, weight, entry, units = plain = tuple(shape)
    counts0 = (gates0, nones(len(gates0) * len(units)), entering0, nones(stages[0].n_out), params)
    counts1 = (gates1, nones(len(gates1) * len(units)), entering1, nones(stages[-1].n_out), params)
    one = nones(1)
    for stage in stages:
        inline(stage.unit)

    @kernel
    def forward(u, y, x, weights, tape, m, enter, taped):
        n_frames, n_inputs, n, width = u.shape[1], u.shape[2], y.shape[2], tape.shape[2]
        n_mixed = n if dense else 1
        between = enter + (len(entering0) + 2 * len(gates0)) * m
        second = m // len(lanes) * len(weight) * (len(gates0) * (2 + n_inputs + n_mixed) + len(params))
        for first in range(0, u.shape[0], len(entry)):
            n_voices = min(len(entry), u.shape[0] - first)
            row = after = first * (n_frames + 1) * width if taped else 0
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
    _, mixed, _, _, params = counts
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
        gates, _, entering, leaving, params = counts
        lanes, weight, _, units = shape
        own_a, own_r = every(a, done, units), every(r, done, units)
        s = load_each(tape, enter, m, lanes, lanes, entering)
        p = load_each(weights, at, len(units) * len(weight), weight, lanes, params)
        if how[2]:
            pre = enter + len(entering) * m
            _store_each(tape, pre, m, own_a, gates, lanes)
            _store_each(tape, pre + len(gates) * m, m, own_r, gates, lanes)
        _store_each(tape, leave, m, unit(own_a, own_r, s, p), leaving, lanes)
        step = len(lanes)
        _apply(unit, a, r, (*done, None), weights, at + 1, tape, enter + step, leave + step, m, how, counts, shape)

    def none(unit, a, r, done, weights, at, tape, enter, leave, m, how, counts, shape):
        pass

    return several if done.count < shape[3].count else none


@inline
def _back(adjoint, w, x, entering, a, r, d, da, dr, dx, dp):
    """The adjoint of :func:`_through`: from d, the derivative by ``out``, to da, dr, dx, dp."""
    s, parts = rows(x, entering), rows(d, w.out)
    gate_a, gate_r, gate_da, gate_dr = rows(a, w.gates), rows(r, w.gates), rows(da, w.gates), rows(dr, w.gates)
    ds, own = rows(dx, entering), rows(dp, w.p)
    for j in range(s[0].size):
        g = adjoint(gather(gate_a, j), gather(gate_r, j), gather(s, j), gather(w.p, j), gather(parts, j))
        scatter(gate_da, j, g[0])
        scatter(gate_dr, j, g[1])
        scatter(ds, j, g[2])
        scatter(own, j, g[3])
    unmix(ds[0], w.U, dr)


@cache
def backward_loop(stages: Any) -> Any:
    """Compile back-propagation through time for a tuple of stages."""
    two = len(stages) == 2
    adjoint0, adjoint1 = stages[0].adjoint, stages[-1].adjoint
    for stage in stages:
        inline(stage.adjoint)

    @kernel
    def backward(dy, dx, weights, state, tapes, gates):
        d = np.empty(dx.shape[1], dx.dtype)
        for voice in range(dy.shape[0]):
            for t in range(dy.shape[1] - 1, -1, -1):
                for i in range(d.size):
                    d[i] = dx[voice, i]
                for j in range(dy.shape[2]):
                    d[j] += dy[voice, t, j]
                x0, a0, r0 = tapes[0]
                da, dr, dp = gates[0]
                entry, a, r = x0[voice, t], a0[voice, t], r0[voice, t]
                if two:
                    x1, a1, r1 = tapes[1]
                    da1, dr1, dp1 = gates[1]
                    inner, between = x1[voice, t], weights[0].out
                    dinner = np.empty(inner.size, d.dtype)
                    ga, gr, gp = da1[voice, t], dr1[voice, t], dp1[voice, t]
                    _back(adjoint1, weights[1], inner, between, a1[voice, t], r1[voice, t], d, ga, gr, dinner, gp)
                    ha, hr, hp = da[voice, t], dr[voice, t], dp[voice, t]
                    _back(adjoint0, weights[0], entry, state, a, r, dinner, ha, hr, dx[voice], hp)
                else:
                    ha, hr, hp = da[voice, t], dr[voice, t], dp[voice, t]
                    _back(adjoint0, weights[0], entry, state, a, r, d, ha, hr, dx[voice], hp)

    return backward


class Runner(NamedTuple):
    """A compiled forward loop and what it needs besides signals and state."""

    loop: Any
    weights: NDArray[Any]
    part: int
    frame: int
    width: int

    @property
    def parts(self) -> int:
        return (self.width - self.frame) // self.part

    def rows(self, n_voices: int = 1, n_frames: int = 1) -> NDArray[Any]:
        """A row for every frame and one for what comes after the last."""
        return aligned((n_voices, n_frames + 1, self.width), self.weights.dtype)

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


def nones(n: int) -> tuple[None, ...]:
    return (None,) * n

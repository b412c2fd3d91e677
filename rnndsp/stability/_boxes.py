"""Bounds of what a cell can do while its input stays within a range, for every signal: its states and its slopes.

All is computed with intervals that are rounded outwards. Cells bring nothing of their own: their units and adjoints are
called with intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import EPS, Interval, affine, continuous, hull
from rnndsp.engine import Cell, Stage

__all__ = ["Box", "Matrix", "StageBox", "box_step", "jacobian", "reach", "stage_boxes", "stage_jacobian"]

Real = NDArray[np.float64]
# The states of a cell, a vector of intervals for each name.
Box = tuple[Interval, ...]

# Steps in which a box has to stop growing; growth is extrapolated every few of them.
MAX_STEPS, WIDEN_EVERY = 240, 12
# Steps in which it may shrink again, each of which every trajectory takes.
SHRINK_STEPS = 60


@dataclass(frozen=True)
class StageBox:
    """A stage within a box: what enters its units, and the matrices that mix it, gate by gate.

    ``total`` bounds a + r, where that is known better than from the two.
    """

    stage: Stage
    W: Real
    U: Real
    p: tuple[Real, ...]
    a: Box
    r: Box
    total: Box
    s: Box

    def _enter(self) -> tuple[Box, Box]:
        a, r = (tuple(Interval(x.lo, x.hi) for x in part) for part in (self.a, self.r))
        for one, other, both in zip(a, r, self.total, strict=True):
            one.summing(other, both)
        return a, r

    def out(self) -> Box:
        """What the units hand on."""
        with continuous():
            return tuple(self._full(x) for x in self.stage.unit(*self._enter(), self.s, self.p))

    def slopes(self, place: int) -> tuple[Box, Box, Box]:
        """Derivatives of the outcome ``place`` by the input part and by the recurrent part of each gate, and by s."""
        seed = tuple(np.full(self.s[0].lo.shape, float(k == place)) for k in range(self.stage.n_out))
        da, dr, ds, _ = self.stage.adjoint(*self._enter(), self.s, self.p, seed)
        return tuple(map(self._full, da)), tuple(map(self._full, dr)), tuple(map(self._full, ds))

    def _full(self, x: Any) -> Interval:
        x = x if isinstance(x, Interval) else Interval(x)
        return Interval(*(np.broadcast_to(end, self.s[0].lo.shape) for end in (x.lo, x.hi)))


def stage_boxes(cell: Cell, x: Box, u: Interval) -> Iterator[StageBox]:
    """Each stage with what enters it for states in ``x`` and inputs in ``u``."""
    n, s, first = cell.n_units, x, 0
    p = tuple(cell.params[name].astype(np.float64) for name in cell.unit_params)
    for stage, W, _, b, b_rec in cell._parts():
        gates = stage.n_gates
        U = cell._mixing[first : first + gates]
        first += gates
        W = W.astype(np.float64).reshape(gates, n, -1)
        b, b_rec = (part.astype(np.float64).reshape(gates, n) for part in (b, b_rec))
        a = tuple(affine(W[g], u, b[g]) for g in range(gates))
        r = tuple(affine(U[g], s[0], b_rec[g]) for g in range(gates))
        box = StageBox(stage, W, U, p, a, r, tuple(x + y for x, y in zip(a, r, strict=True)), s)
        yield box
        s = box.out()


def box_step(cell: Cell, x: Box, u: Interval) -> Box:
    """Where one sample leads from ``x`` for inputs in ``u``."""
    *_, last = stage_boxes(cell, x, u)
    return last.out()


def _within(inner: Box, outer: Box) -> bool:
    return all(a.within(b) for a, b in zip(inner, outer, strict=True))


def _widened(new: Box, old: Box, growth: list[Real]) -> tuple[Box, list[Real]]:
    """Geometric growth carried on to its limit, and a little further."""
    wider, grown = [], []
    for x, before, (down, up) in zip(new, old, np.split(np.asarray(growth), len(new)), strict=True):
        steps = before.lo - x.lo, x.hi - before.hi
        ends = []
        for step, last in zip(steps, (down, up), strict=True):
            ratio = np.clip(np.divide(step, last, out=np.zeros_like(step), where=last > 0), 0, 1 - 1e-7)
            ends.append(1.05 * step * ratio / (1 - ratio) + 1e-12)
            grown.append(step)
        wider.append(Interval(x.lo - ends[0], x.hi + ends[1]))
    return tuple(wider), grown


def reach(cell: Cell, u: Interval) -> tuple[Box, Box] | None:
    """States that are never left once entered, for inputs in ``u``; and all states after a sample or more from rest.

    The first box is entered from the initial state and from all with \\|h\\| <= 1 beside it, and holds all states
    that are at rest on an input in ``u``, if \\|h\\| <= 1. The second, which holds the first, has what passes on the
    way. None where none was found: the states may grow without limit.
    """
    n = cell.n_units
    start: Box = tuple(map(Interval, np.split(cell.rest_state().ravel(), len(cell.state_names))))
    x: Box = (hull(start[0], Interval(np.full(n, -1.0), np.full(n, 1.0))), *start[1:])
    growth = [np.zeros(n)] * (2 * len(x))
    for step in range(MAX_STEPS):
        new = box_step(cell, x, u)
        if _within(new, x):
            return _shrunk(cell, x, u, start)
        grown = tuple(hull(a, b) for a, b in zip(x, new, strict=True))
        if not all(np.isfinite(part.mag).all() for part in grown):
            return None
        wider, growth = _widened(grown, x, growth)
        x = wider if step % WIDEN_EVERY == WIDEN_EVERY - 1 else grown
    return None


def _shrunk(cell: Cell, x: Box, u: Interval, start: Box) -> tuple[Box, Box]:
    """A smaller box that is never left either, and that all which starts in ``x`` enters; and what leads there."""
    passed: list[Box] = []
    new, then = _two_steps(cell, x, start, u)
    for _ in range(SHRINK_STEPS):
        ahead = _two_steps(cell, new, then, u)
        # intervals shrink with what enters them, but for rounding
        if not (_within(new, x) and _within(ahead[0], new)):
            break
        passed.append(then)
        gain = max(float(np.max(1 - b.rad / np.maximum(a.rad, 1e-300))) for a, b in zip(x, new, strict=True))
        x, (new, then) = new, ahead
        if gain < 1e-3:
            break
    return x, tuple(reduce(hull, parts) for parts in zip(x, *passed, strict=True))


def _two_steps(cell: Cell, x: Box, y: Box, u: Interval) -> tuple[Box, Box]:
    """:func:`box_step` from either of two boxes."""
    both = tuple(Interval(np.stack([a.lo, b.lo]), np.stack([a.hi, b.hi])) for a, b in zip(x, y, strict=True))
    moved = box_step(cell, both, u)
    return tuple(part[0] for part in moved), tuple(part[1] for part in moved)


@dataclass(frozen=True)
class Matrix:
    """All matrices within ``rad``, entry by entry, of ``mid``."""

    mid: Real
    rad: Real

    @property
    def mag(self) -> Real:
        return (np.abs(self.mid) + self.rad) * (1 + 4 * EPS)

    def __matmul__(self, other: Matrix) -> Matrix:
        n = self.mid.shape[-1]
        size = np.abs(self.mid) @ np.abs(other.mid)
        rad = np.abs(self.mid) @ other.rad + self.rad @ other.mag
        return Matrix(self.mid @ other.mid, (rad + (n + 4) * EPS * size) * (1 + (2 * n + 8) * EPS))

    def __add__(self, other: Matrix) -> Matrix:
        mid = self.mid + other.mid
        return Matrix(mid, (self.rad + other.rad + EPS * np.abs(mid)) * (1 + 4 * EPS))


def jacobian(cell: Cell, x: Box, u: Interval) -> tuple[Matrix, Matrix]:
    """All Jacobians of the new state by the old one, and by the input, for states in ``x`` and inputs in ``u``."""
    J: Matrix | None = None
    B: Matrix | None = None
    for box in stage_boxes(cell, x, u):
        through, into = stage_jacobian(box)
        J, B = (through, into) if J is None or B is None else (through @ J, into + through @ B)
    assert J is not None and B is not None
    return J, B


def stage_jacobian(box: StageBox) -> tuple[Matrix, Matrix]:
    n, n_in, n_out = len(box.s[0].lo), len(box.s), box.stage.n_out
    through = Matrix(np.zeros((n_out * n, n_in * n)), np.zeros((n_out * n, n_in * n)))
    into = Matrix(np.zeros((n_out * n, box.W.shape[-1])), np.zeros((n_out * n, box.W.shape[-1])))
    diagonal = np.arange(n)
    for place in range(n_out):
        rows = slice(place * n, (place + 1) * n)
        da, dr, ds = box.slopes(place)
        for whole, columns, slopes, matrices in ((through, slice(n), dr, box.U), (into, slice(None), da, box.W)):
            for slope, matrix in zip(slopes, matrices, strict=True):
                mid = slope.mid[:, None] * matrix
                whole.mid[rows, columns] += mid
                whole.rad[rows, columns] += slope.rad[:, None] * np.abs(matrix) + 8 * EPS * np.abs(mid)
        for k, slope in enumerate(ds):
            at = place * n + diagonal, k * n + diagonal
            through.mid[at] += slope.mid
            through.rad[at] += slope.rad + 8 * EPS * np.abs(slope.mid)
    return through, into

"""Weighted maximum norms in which a cell brings all its trajectories together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import EPS, Interval
from rnndsp.engine import Cell
from rnndsp.stability._boxes import Box, StageBox, jacobian, stage_boxes

__all__ = ["feedback_gain", "maximum_norm", "perron"]

Real = NDArray[np.float64]

# What rounding may do to a norm.
SLACK = 1e-9
# Points of a box at which slopes are looked at, rounds of halving, and pieces in one round.
SAMPLES, ROUNDS, MAX_PIECES = 200, 30, 4000


def perron(matrix: Real) -> tuple[float, Real]:
    """A weighted maximum norm max (M v) / v of a nonnegative matrix, near its least, the spectral radius; and v > 0."""
    if not len(matrix):
        return 0.0, np.zeros(0)
    if not np.isfinite(matrix).all():
        return np.inf, np.ones(len(matrix))
    with np.errstate(all="ignore"):
        try:
            # (t - M) v = 1 gives M v < t v for any t beyond the spectral radius, also where M leaves some entries alone
            t = 1.0001 * float(np.max(np.abs(np.linalg.eigvals(matrix)))) + 1e-12
            v = np.linalg.solve(t * np.eye(len(matrix)) - matrix, np.ones(len(matrix)))
        except np.linalg.LinAlgError:
            v = np.ones(len(matrix))
        v = np.fmax(v / np.max(v), 1e-300)
        factor = float(np.max(matrix @ v / v))
    return (factor if np.isfinite(factor) else np.inf), v


def feedback_gain(loop: Real, forward: Real) -> Real | None:
    """Gains (1 - loop)^-1 forward of a loop of nonnegative gains; None where the loop has spectral radius 1 or more."""
    if perron(loop)[0] >= 1 - SLACK:
        return None
    return np.asarray(np.linalg.solve(np.eye(len(loop)) - loop, forward)) * (1 + 1e-6)


def maximum_norm(cell: Cell, x: Box, u: Interval) -> tuple[float, Real]:
    r"""A factor by which a sample shrinks all differences in the norm max \|d_j\| / v_j, and v; 1 or more if none.

    For states within ``x``, which is convex, and inputs within ``u``. First by the comparison matrix of all Jacobians;
    where that says nothing, by the worst case of each unit alone, as each row of a Jacobian is its own unit's. Ranges
    of what enters a unit are halved until the rows are bounded well enough: a gate is not open and shut at once.
    """
    factor, v = perron(jacobian(cell, x, u)[0].mag)
    if factor < 1 - SLACK or not np.isfinite(factor):
        return factor, v
    *first, last = stage_boxes(cell, x, u)
    points = _Pieces.sampled(last)
    slopes = points.slopes(last)
    guess = np.inf
    for _ in range(60):
        rows = points.row_sums(last, _entering(first, v), slopes).reshape(-1, cell.n_units, SAMPLES)
        worst = rows.max(axis=-1).ravel()
        guess = float(np.max(worst / v))
        v = np.sqrt(v * worst / worst.max()) + 1e-9  # half a step, as whole ones may swing
    if not guess < 1 - SLACK:
        return factor, v
    limit = 0.5 + 0.5 * guess
    return (limit if _rows_below(last, _entering(first, v), limit * v) else factor), v


def _entering(first: list[StageBox], v: Real) -> Real:
    """Weights of what enters the last stage: how large its differences get while those of the state are within v."""
    for box in first:
        v = _Pieces.whole(box).row_sums(box, v).ravel() * (1 + SLACK)
    return v


@dataclass(frozen=True)
class _Pieces:
    """Parts of the ranges of what enters units: a column each, of totals, recurrent parts and states."""

    units: NDArray[np.int64]
    lo: Real
    hi: Real

    @classmethod
    def whole(cls, box: StageBox) -> _Pieces:
        variables = (*box.total, *box.r, *box.s)
        return cls(
            np.arange(len(box.s[0].lo)), *(np.stack([getattr(x, end) for x in variables]) for end in ("lo", "hi"))
        )

    @classmethod
    def sampled(cls, box: StageBox) -> _Pieces:
        """Points, many at the ends of the ranges."""
        rng = np.random.default_rng(0)
        whole = cls.whole(box)
        where = np.clip(rng.uniform(-0.5, 1.5, (len(whole.lo), whole.units.size, SAMPLES)), 0, 1)
        point = whole.lo[..., None] * (1 - where) + whole.hi[..., None] * where
        point = point.reshape(len(point), -1)
        return cls(np.repeat(whole.units, SAMPLES), point, point)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Pieces:
        return _Pieces(self.units[which], self.lo[:, which], self.hi[:, which])

    def halves(self, variable: int | NDArray[np.int64]) -> tuple[_Pieces, _Pieces]:
        middle = 0.5 * (self.lo + self.hi)
        chosen = np.arange(len(self.lo))[:, None] == variable
        below, above = np.where(chosen, middle, self.hi), np.where(chosen, middle, self.lo)
        return replace(self, hi=below), replace(self, lo=above)

    @property
    def centres(self) -> _Pieces:
        middle = 0.5 * (self.lo + self.hi)
        return replace(self, lo=middle, hi=middle)

    def slopes(self, box: StageBox) -> Real:
        """Largest magnitudes, shape (n_out, 1 + n_gates + n_in - 1, n_pieces), of the derivative of each outcome by the
        unit's own mixed state, by each gate, and by the unit's further states."""
        gates, i = box.stage.n_gates, self.units
        ranges = [Interval(lo, hi) for lo, hi in zip(self.lo, self.hi, strict=True)]
        piece = replace(
            box,
            p=tuple(part[i] for part in box.p),
            a=tuple(x[i] for x in box.a),
            total=tuple(ranges[:gates]),
            r=tuple(ranges[gates : 2 * gates]),
            s=tuple(ranges[2 * gates :]),
        )
        rows = []
        for place in range(box.stage.n_out):
            _, dr, ds = piece.slopes(place)
            itself = ds[0]
            for U, slope in zip(box.U, dr, strict=True):
                itself = itself + slope * np.diagonal(U)[i]
            rows.append([x.mag for x in (itself, *dr, *ds[1:])])
        return np.array(rows)

    def row_sums(self, box: StageBox, w: Real, slopes: Real | None = None) -> Real:
        r"""Bounds of the rows' sums of \|dy/dx\| w, shape (n_out, n_pieces)."""
        w = w.reshape(len(box.s), -1)
        others = (np.abs(box.U) * (1 - np.eye(len(w[0])))) @ w[0]
        weights = np.concatenate([w[:1], others, w[1:]])[:, self.units]
        slopes = self.slopes(box) if slopes is None else slopes
        return np.asarray(np.einsum("kvi,vi->ki", slopes, weights) * (1 + 100 * w.size * EPS))


def _joined(some: Sequence[_Pieces]) -> _Pieces:
    return _Pieces(
        np.concatenate([part.units for part in some]),
        *(np.hstack([getattr(x, end) for x in some]) for end in ("lo", "hi")),
    )


def _rows_below(box: StageBox, w: Real, limit: Real) -> bool:
    """Whether all row sums are proved to stay below their limits: pieces that are not yet are halved."""
    limit = limit.reshape(box.stage.n_out, -1)
    pieces = _Pieces.whole(box)

    def excess(some: _Pieces) -> Real:
        return np.asarray(np.max(some.row_sums(box, w) / limit[:, some.units], axis=0))

    for _ in range(ROUNDS):
        pieces = pieces.take(~(excess(pieces) < 1))
        if not pieces.units.size:
            return True
        if pieces.units.size > MAX_PIECES or not np.all(excess(pieces.centres) < 1):
            return False
        tried = _joined([half for variable in range(len(pieces.lo)) for half in pieces.halves(variable)])
        gains = excess(tried).reshape(len(pieces.lo), 2, -1).max(axis=1)
        pieces = _joined(pieces.halves(np.argmin(gains, axis=0)))
    return False

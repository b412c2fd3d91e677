"""How far a cell stays from where it rests, and forgets where it started, while its input stays within a range.

About the operating point a cell is its linear part, closed by what its slopes differ from those there:

    d[t+1] = J d[t] + B v[t] + E w[t],    z = F d + ...,    |w_i| <= D_i |z|,

d and v being the deviations of state and input, z all that enters a unit, w what its slopes make of it. The peak gains
T from w and from v to z, sums of the magnitudes of impulse responses, hold all that can add up in the course of time.
So |z| <= T_v |v| + T D |z|, and no norm need be found in which every single sample is a step down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import EPS, Interval
from rnndsp.engine import Cell
from rnndsp.stability._boxes import StageBox, stage_boxes, stage_jacobian
from rnndsp.stability._metrics import SLACK, feedback_gain, perron

__all__ = ["PeakLoop", "Tube"]

Real = NDArray[np.float64]

# Samples between two looks at what is left, samples in all, and what may be left at the end.
BLOCK, MAX_FRAMES, LEFT = 64, 2**16, 0.02
# Rounds in which the bounds have to meet, parts of the way on which slopes are looked at, and a hopeless bound.
ROUNDS, PARTS, FAR = 80, 8, 1e4


@dataclass(frozen=True)
class Tube:
    r"""States that are not left once the cell has settled: \|x - centre\| <= radius, entry by entry.

    Attributes
    ----------
    centre, radius : ndarray, shape (n_states,)
    loop_gain : float
        Of T D; below one, as it is, the difference of any two runs within the tube fades.
    gain : ndarray, shape (n_states, n_inputs)
        In the long run states are no further apart than this times the largest difference of the inputs.
    """

    centre: Real
    radius: Real
    loop_gain: float
    gain: Real


class PeakLoop:
    """The linear part of a cell about an operating point, and the peak gains of the loop that its slopes close.

    Parameters
    ----------
    cell : Cell
    centre : ndarray, shape (n_states,)
        Where it rests on the frame ``u``.
    u : ndarray, shape (n_inputs,)

    References
    ----------
    M. Khammash, J. B. Pearson (1991), "Performance robustness of discrete-time systems with structured uncertainty".
    """

    def __init__(self, cell: Cell, centre: Real, u: Real) -> None:
        self.centre = centre
        n, n_states = cell.n_units, centre.size
        names = np.split(centre, len(cell.state_names))
        self.boxes = list(stage_boxes(cell, tuple(map(Interval, names)), Interval(u)))
        self.slopes = [[box.slopes(place) for place in range(box.stage.n_out)] for box in self.boxes]
        # what enters a stage by the state, the input, and the w of the stages before
        n_w = sum(box.stage.n_out for box in self.boxes) * n
        S = [np.eye(n_states), np.zeros((n_states, u.size)), np.zeros((n_states, n_w))]
        rounding, first, z = np.zeros((n_states, n_states)), 0, []
        for box in self.boxes:
            z.append([_mixed(box) @ part for part in S])
            through, into = stage_jacobian(box)
            inexact = through.rad + (n_states + 4) * EPS * np.abs(through.mid)
            rounding = np.abs(through.mid) @ rounding + inexact @ np.abs(S[0])
            S = [through.mid @ part for part in S]
            S[1] = S[1] + into.mid
            own = box.stage.n_out * n
            S[2][:, first : first + own] += np.eye(own)
            first += own
        F, at_once_v, at_once_w = (np.vstack(parts) for parts in zip(*z, strict=True))
        J, B, E = S
        wrong = [step - x for step, x in zip(self.boxes[-1].out(), map(Interval, names), strict=True)]
        self.unrest = np.concatenate([x.mag for x in wrong])
        gains = _peak_gains(F, J, np.hstack([np.eye(n_states), B, E]), rounding)
        self.decays = gains is not None
        if gains is not None:
            _, T_v, T_w = np.split(gains, [n_states, n_states + u.size], axis=1)
            self.T_v, self.T_w = T_v + np.abs(at_once_v), T_w + np.abs(at_once_w)

    def tube(self, drive: Real) -> Tube | None:
        r"""What the cell stays in while \|u - u_rest\| <= drive, entry by entry; None where that is not shown."""
        if not self.decays or not np.isfinite(drive).all():
            return None
        z, growth = self.T_v @ drive * (1 + SLACK), np.inf
        for _ in range(ROUNDS):
            # the mean slope on the way from the centre: by parts, in each of which the farther end counts
            parts = np.linspace(0, 1, PARTS + 1)[1:, None]
            D = self._deviations(parts * z, parts * drive)
            w = self._answers([[tuple(d.mean(axis=1) for d in place) for place in stage] for stage in D], z, drive)
            w[-self.unrest.size :] += self.unrest
            new = (self.T_v @ drive + self.T_w @ w) * (1 + SLACK)
            if np.all(new <= z):
                whole = [[tuple(d[:, -1] for d in place) for place in stage] for stage in D]
                loop, n = self._closed(whole), self.boxes[0].U.shape[0] * self.boxes[0].U.shape[1]
                states = slice(n, n + self.centre.size)
                gain = feedback_gain(loop, self.T_v + self._forward(whole))
                return None if gain is None else Tube(self.centre, z[states], perron(loop)[0], gain[states])
            # bounds that have no end grow ever faster after a while
            growth, last = float(np.max(new / np.maximum(z, 1e-300))), growth
            if np.max(new) > FAR or growth > last:
                return None
            z = 1.01 * new
        return None

    def _deviations(self, z: Real, drive: Real) -> list[list[tuple[Real, ...]]]:
        """By how much the slopes of each stage's outcomes can differ: by gates' inputs, by gates' mixing, by states.

        For several z and drives, a row each, which are the second axis of what is found.
        """
        found, first = [], 0
        for box, at_rest in zip(self.boxes, self.slopes, strict=True):
            gates, n, _ = box.U.shape
            own = z[:, first : first + (gates + len(box.s)) * n].reshape(len(z), -1, n).swapaxes(0, 1)
            r, s = np.split(own, [gates])
            first += (gates + len(box.s)) * n
            a = np.einsum("gnk,pk->gpn", np.abs(box.W), drive)
            near = replace(
                box, a=_around(box.a, a), r=_around(box.r, r), total=_around(box.total, a + r), s=_around(box.s, s)
            )
            near.out()  # a TypeError where a unit jumps
            found.append(
                [
                    tuple(_apart(some, rest) for some, rest in zip(near.slopes(place), slopes, strict=True))
                    for place, slopes in enumerate(at_rest)
                ]
            )
        return found

    def _answers(self, D: list[list[tuple[Real, ...]]], z: Real, drive: Real) -> Real:
        """What w can be."""
        w, first = [], 0
        for box, places in zip(self.boxes, D, strict=True):
            gates, n, _ = box.U.shape
            own = z[first : first + (gates + len(box.s)) * n].reshape(-1, n)
            first += own.size
            a = np.abs(box.W) @ drive
            w += [(da * a).sum(0) + (np.vstack([dr, ds]) * own).sum(0) for da, dr, ds in places]
        return np.concatenate(w)

    def _closed(self, D: list[list[tuple[Real, ...]]]) -> Real:
        """T D."""
        columns, first = [], 0
        for box, places in zip(self.boxes, D, strict=True):
            n = box.U.shape[1]
            T = self.T_w[:, first : first + len(places) * n].reshape(-1, len(places), n)
            first += len(places) * n
            rows = np.stack([np.vstack([dr, ds]) for _, dr, ds in places])
            columns.append(np.einsum("zki,kvi->zvi", T, rows).reshape(len(T), -1))
        return np.hstack(columns)

    def _forward(self, D: list[list[tuple[Real, ...]]]) -> Real:
        """What inputs do to z by the slopes of the gates that they enter."""
        total: Real = np.zeros_like(self.T_v)
        first = 0
        for box, places in zip(self.boxes, D, strict=True):
            for da, _, _ in places:
                n = box.U.shape[1]
                total += self.T_w[:, first : first + n] @ np.einsum("gn,gnk->nk", da, np.abs(box.W))
                first += n
        return total


def _mixed(box: StageBox) -> Real:
    """From what enters a stage to what its gates mix and what its units remember."""
    gates, n, _ = box.U.shape
    mixing = np.zeros((gates * n, len(box.s) * n))
    mixing[:, :n] = box.U.reshape(-1, n)
    return np.vstack([mixing, np.eye(len(box.s) * n)])


def _around(middle: tuple[Interval, ...], by: Real) -> tuple[Interval, ...]:
    return tuple(x + Interval(-r, r) for x, r in zip(middle, by, strict=True))


def _apart(some: tuple[Interval, ...], rest: tuple[Interval, ...]) -> Real:
    return np.array([(x - y).mag for x, y in zip(some, rest, strict=True)])


def _peak_gains(F: Real, J: Real, start: Real, rounding: Real) -> Real | None:
    r"""Bounds of sum_t \|F J^t start\|, entry by entry, the first columns of ``start`` being 1; None without decay.

    What is left after N samples, and what rounding adds at each, starts the same sum again: S <= S_N + S R.
    """
    n = len(J)
    if np.max(np.abs(np.linalg.eigvals(J)), initial=0) > LEFT ** (1 / MAX_FRAMES):
        return None  # it would ring for longer than is looked at
    rounding = rounding + (n + 4) * EPS * np.abs(J)
    total, passed, M = np.zeros((len(F), start.shape[1])), np.zeros(start.shape), start
    for frame in range(MAX_FRAMES):
        total += np.abs(F @ M)
        passed += np.abs(M)
        M = J @ M
        if frame % BLOCK == BLOCK - 1:
            if not np.isfinite(M).all() or np.max(passed) > 1 / EPS:
                return None
            if perron(np.abs(M[:, :n]))[0] < LEFT:
                break
    again = (np.abs(M) + rounding @ passed) * (1 + SLACK)
    if not perron(again[:, :n])[0] <= 0.5:
        return None
    whole = total[:, :n] @ np.linalg.inv(np.eye(n) - again[:, :n])
    rest = total[:, n:] + whole @ again[:, n:]
    return np.hstack([whole, rest]) * (1 + SLACK)

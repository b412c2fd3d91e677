"""Whether a cell has no second rest state: interval Newton with branch and bound, so a proof where it says yes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import EPS, Interval, affine, meet
from rnndsp.engine import Cell
from rnndsp.stability._boxes import Box, Matrix, box_step, jacobian
from rnndsp.stability._metrics import SLACK, perron

__all__ = ["only_rest"]

Real = NDArray[np.float64]

# Boxes looked at, times the number of states; rounds of narrowing one; how near to a rest state it is that one; and
# how far away it is not.
MAX_BOXES, ROUNDS, NEAR, FAR = 1600, 12, 1e-6, 1e3


def only_rest(cell: Cell, x: Box, u: Real, rest: Real) -> bool:
    """Whether ``rest`` is the only state within ``x`` that stays as it is on the constant frame ``u``.

    Parts of ``x`` are narrowed to where they lead, and by Krawczyk's operator; what vanishes holds no rest state. Where
    1 - J is regular for all Jacobians J of a convex part, that part holds one at most.

    References
    ----------
    R. Krawczyk (1969), "Newton-Algorithmen zur Bestimmung von Nullstellen mit Fehlerschranken".
    """
    names = len(x)
    frame = Interval(u)
    whole = _joined(x)
    # about the rest state there is room for no other: what is cut off there need not be looked at
    core = Interval(rest - NEAR, rest + NEAR)
    while True:
        wider = Interval(rest - 2 * core.rad, rest + 2 * core.rad)
        if np.max(wider.rad) > FAR or not _narrowed(cell, wider, frame, names)[1]:
            break
        core = wider
    if core.rad.max() <= 1.5 * NEAR:
        return False
    waiting, left = [whole], MAX_BOXES // len(rest)
    while waiting:
        left -= 1
        if left < 0:
            return False
        box: Interval | None = waiting.pop()
        for _ in range(ROUNDS):
            assert box is not None
            before = float(np.max(box.rad))
            box, regular = _narrowed(cell, box, frame, names)
            if box is None or regular or np.max(box.rad) > 0.8 * before:
                break
        if (
            box is None
            or box.within(core)
            or (regular and np.all(box.lo < rest - NEAR) and np.all(rest + NEAR < box.hi))
        ):
            continue
        widest = int(np.argmax(box.rad))
        low, high = box.lo.copy(), box.hi.copy()
        low[widest] = high[widest] = box.mid[widest]
        waiting += [Interval(box.lo, high), Interval(low, box.hi)]
    return True


def _narrowed(cell: Cell, box: Interval, u: Interval, names: int) -> tuple[Interval | None, bool]:
    """The part of a box in which rest states can be, None if there is none; and whether there is one at most."""
    parts = tuple(Interval(*ends) for ends in zip(np.split(box.lo, names), np.split(box.hi, names), strict=True))
    there = meet(box, _joined(box_step(cell, parts, u)))
    if there is None:
        return None, False
    J = jacobian(cell, parts, u)[0]
    one = np.eye(len(J.mid))
    try:
        C = np.asarray(np.linalg.inv(one - J.mid), np.float64)
    except np.linalg.LinAlgError:
        return there, False
    # 1 - C (1 - J), with room for the rounding of C
    error = Matrix(one, np.zeros_like(one)) + Matrix(-C, np.zeros_like(C)) @ Matrix(
        one - J.mid, J.rad + EPS * (1 + np.abs(J.mid))
    )
    spread = error.mag
    regular = perron(spread)[0] < 1 - SLACK
    middle = there.mid
    leads = _joined(box_step(cell, tuple(map(Interval, np.split(middle, names))), u))
    centre = middle + affine(C, leads - middle)
    reach = spread @ there.rad * (1 + SLACK)
    return meet(there, Interval((centre - reach).lo, (centre + reach).hi)), regular


def _joined(parts: Box) -> Interval:
    return Interval(np.concatenate([p.lo for p in parts]), np.concatenate([p.hi for p in parts]))

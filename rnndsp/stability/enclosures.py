"""What a filter can do at most while its input stays within a range: how far it goes, and whether it forgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import Interval
from rnndsp.errors import RnndspError
from rnndsp.stability.verdicts import CONTRACTION, Test, below_one

if TYPE_CHECKING:
    from rnndsp.engine import Cell
    from rnndsp.filter import Filter
    from rnndsp.state import State
    from rnndsp.statespace import DelayStateSpace

__all__ = [
    "Enclosure",
    "Place",
    "cell_enclosure",
    "combined",
    "enclosed",
    "energy_gain",
    "filter_enclosure",
    "last_output",
    "published_tests",
    "unbounded",
]

Real = NDArray[np.float64]

# Why what has no state contracts.
NO_MEMORY = "no memory"


@dataclass(frozen=True)
class Place:
    """Where a filter is looked at.

    Attributes
    ----------
    u : Interval
        Inputs and controls stay within.
    rest : tuple of ndarray and State, optional
        A frame and the state in which the filter has settled on it, to start from. When absent it starts from its
        documented initial state.
    """

    u: Interval
    rest: tuple[Real, State] | None = None

    def inside(self, signal: Interval, frame: Real, columns: slice, child: int) -> Place:
        """That of a child on this signal and this frame at rest, with its columns of the controls."""
        own = self.u[columns]
        u = Interval(np.concatenate([signal.lo, own.lo]), np.concatenate([signal.hi, own.hi]))
        if self.rest is None:
            return Place(u)
        return Place(u, (np.concatenate([frame, self.rest[0][columns]]), self.rest[1].children[child]))

    @property
    def middle(self) -> Real:
        """The frame at rest, or zeros."""
        return self.rest[0] if self.rest else np.zeros(self.u.lo.shape)

    @property
    def drive(self) -> Real:
        """How far inputs get from the middle."""
        return (self.u - self.middle).mag


@dataclass(frozen=True)
class Enclosure:
    """What holds for every input within a range.

    Attributes
    ----------
    y : Interval
        The output stays within, from the first sample on; infinite where no bound is known.
    contraction : str
        Why any two runs on the same input converge; empty where that is not shown.
    gain : ndarray, shape (n_outputs, n_inputs), optional
        In the long run outputs are no further apart than this times the largest difference of the inputs.
    tests : tuple of Test
    parts : tuple of (Filter, Place)
        The filters that no composition is made of, and where each is looked at.
    """

    y: Interval
    contraction: str = ""
    gain: Real | None = None
    tests: tuple[Test, ...] = ()
    parts: tuple[tuple[Filter, Place], ...] = ()


def unbounded(n: int) -> Interval:
    return Interval(np.full(n, -np.inf), np.full(n, np.inf))


def filter_enclosure(filt: Filter, place: Place) -> Enclosure:
    """Of a linear filter from its impulse responses; of any other what it says of itself."""
    n, parts = filt.n_inputs, ((filt, place),)
    linear, found = _decaying(filt, place)
    if linear is None:
        return Enclosure(unbounded(filt.n_outputs), filt._contraction() or "", parts=parts)
    gain = peak_gains(linear) if found else None
    if gain is None:
        return Enclosure(unbounded(filt.n_outputs), found, parts=parts)
    middle = last_output(filt, place)
    reach = gain @ place.drive[:n]
    y = Interval(middle) + Interval(-reach, reach)
    why = f"linear, and it decays, as {found}" if linear.n_states else NO_MEMORY
    return Enclosure(y, why, gain, parts=parts)


def _decaying(filt: Filter, place: Place) -> tuple[DelayStateSpace | None, str]:
    """What a linear filter is where its controls stand, and why it decays; none if they move."""
    n = filt.n_inputs
    if not filt.is_linear or not (place.u.lo[n:] == place.u.hi[n:]).all():
        return None, ""
    from rnndsp.stability._decay import decay_certificate

    state = place.rest[1] if place.rest else filt.rest_state()
    linear = filt._linearize(state, np.concatenate([np.zeros(n), place.u.lo[n:]]))
    return linear, decay_certificate(np.asarray(linear.A, np.float64), linear.delays) or ""


def energy_gain(filt: Filter, place: Place) -> float:
    """Of a linear filter that decays: the peak of its frequency response. Of any other none is known."""
    from rnndsp.stability.gains import norm_bounds

    linear, found = _decaying(filt, place)
    if linear is None or not found:
        return np.inf
    try:
        return norm_bounds(linear, p=np.inf).upper * (1 + 1e-6)
    except RnndspError:  # it rings for too long to be told
        return np.inf


def peak_gains(linear: DelayStateSpace) -> Real | None:
    """Upper bounds of the sums of magnitudes of all impulse responses; None where they are infinite."""
    from rnndsp.stability.gains import norm_bounds
    from rnndsp.statespace import space

    gain = np.empty(linear.D.shape)
    for i, j in np.ndindex(gain.shape):
        one = space(linear.A, linear.B[:, [j]], linear.C[[i]], linear.D[[i]][:, [j]], linear.delays)
        try:
            gain[i, j] = norm_bounds(one, p=1).upper
        except RnndspError:  # it rings for too long to be told
            return None
    return gain if np.isfinite(gain).all() else None


def last_output(filt: Filter, place: Place) -> Real:
    """The output at rest; zero for a start from the initial state."""
    if place.rest is None:
        return np.zeros(filt.n_outputs)
    frame, state = place.rest
    y = np.empty((1, 1, filt.n_outputs))
    filt._process(np.asarray(frame)[None, None], state.copy(), y)
    found: Real = y[0, 0]
    return found


def cell_enclosure(cell: Cell, place: Place) -> Enclosure:
    """Of a cell, by intervals through its own units.

    From the initial state: by a box that is never left, and a weighted maximum norm in which all Jacobians of that box
    shrink what they meet; or by a published test. Once settled: by what its slopes can add up to about rest.
    """
    why = cell._contraction() or ""
    try:
        with np.errstate(all="ignore"):
            return _settled(cell, place, why) if place.rest else _started(cell, place, why)
    except (TypeError, ValueError, AttributeError):  # a unit that takes no intervals
        return Enclosure(unbounded(cell.n_outputs), why, parts=((cell, place),))


def _started(cell: Cell, place: Place, why: str) -> Enclosure:
    from rnndsp.stability._boxes import jacobian, reach
    from rnndsp.stability._metrics import SLACK, feedback_gain, maximum_norm

    parts = ((cell, place),)
    published = published_tests(cell, place.u, CONTRACTION)
    passed = next((test for test in published if test.passed), None)
    by_norm = f"{passed.name}: {below_one(passed.value)} < 1" if passed else ""
    found = reach(cell, place.u)
    if found is None:
        return Enclosure(unbounded(cell.n_outputs), why or by_norm, tests=published, parts=parts)
    x, ever = found
    factor, _ = maximum_norm(cell, x, place.u)
    name = f"weighted maximum norm of the Jacobians of {type(cell).__name__}, within what it can reach"
    tests = (Test(name, CONTRACTION, factor, 1 - SLACK, "ours: intervals through the units"), *published)
    gain = None
    if factor < 1 - SLACK:
        why = why or f"a sample shrinks all differences to {below_one(factor)} in a weighted maximum norm"
        J, B = jacobian(cell, x, place.u)
        gain = feedback_gain(J.mag, B.mag)
        gain = None if gain is None else gain[: cell.n_outputs, : cell.n_inputs]
    return Enclosure(ever[0], why or by_norm, gain, tests, parts)


def published_tests(cell: Cell, u: Interval, of: str) -> tuple[Test, ...]:
    """What the literature says about this property, with room for rounding."""
    from rnndsp.stability._metrics import SLACK

    with np.errstate(all="ignore"):
        tests = cell._published_tests(u) if np.isfinite(u.mag).all() else ()
    return tuple(replace(test, limit=1 - SLACK) for test in tests if test.shows == of)


def _settled(cell: Cell, place: Place, why: str) -> Enclosure:
    from rnndsp.stability._peaks import PeakLoop

    assert place.rest is not None
    frame, state = place.rest
    # the last one is kept, as a search over levels asks for it again and again
    key, kept = (state.ravel().tobytes(), frame.tobytes()), cell._cache.get("peaks")
    if kept is None or kept[0] != key:
        kept = cell._cache["peaks"] = key, PeakLoop(cell, state.ravel(), frame)
    tube = kept[1].tube(place.drive)
    parts = ((cell, place),)
    name = f"peak gain of the loop of the slopes of {type(cell).__name__} about rest"
    source = "Khammash & Pearson 1991, here with slopes for disturbances"
    value = np.inf if tube is None else tube.loop_gain
    tests = (Test(name, CONTRACTION, value, source=source),)
    if tube is None:
        return Enclosure(unbounded(cell.n_outputs), why, tests=tests, parts=parts)
    n = cell.n_outputs
    y = Interval(tube.centre[:n]) + Interval(-tube.radius[:n], tube.radius[:n])
    why = why or f"its slopes about rest close a loop of peak gain {below_one(value)}"
    gain = tube.gain[:n, : cell.n_inputs]
    return Enclosure(y, why, gain, tests, parts)


def combined(found: Sequence[Enclosure], by: Callable[[Any, Any], Any]) -> Real | None:
    """The gains of all parts, where all have one, put together."""
    gains = [part.gain for part in found]
    return None if any(gain is None for gain in gains) else reduce(by, gains)


def enclosed(y: Interval, gain: Real | None, found: Sequence[Enclosure], why: str | None = None) -> Enclosure:
    """Of a composition: it contracts where all its parts do, unless it is said why, or that not."""
    if why is None:
        reasons = dict.fromkeys(part.contraction for part in found)
        why = "; ".join([r for r in reasons if r != NO_MEMORY] or reasons) if all(reasons) else ""
    return Enclosure(
        y,
        why,
        gain,
        tuple(test for part in found for test in part.tests),
        tuple(part for inside in found for part in inside.parts),
    )

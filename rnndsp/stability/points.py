"""Operating points: fixed points, cycles and periodic responses of a filter, and how they move with level or knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, whole_number
from rnndsp.errors import NonFiniteError, ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.resting import (
    EPS,
    FAR,
    NEAR,
    RESIDUAL,
    SETTLE_FRAMES,
    Orbit,
    Orbits,
    constant_frame,
    pull,
    same,
)
from rnndsp.stability.spectrum import MARGIN, is_affordable
from rnndsp.stability.trajectories import jacobians, track
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "Branch",
    "Cycle",
    "FixedPoint",
    "PeriodicResponse",
    "PointKind",
    "SpecialPoint",
    "continue_points",
    "cycles",
    "fixed_points",
    "floquet_multipliers",
]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Relative imaginary part from which a multiplier counts as complex: rounding splits a double one by about 1e-8.
COMPLEX = 1e-6
# States of a product of Jacobians, which is a dense matrix, and of a branch, which holds all poles at every point.
MAX_PRODUCT, MAX_TRACKED = 1000, 500
# Arclength steps along a branch, in which the whole range of the parameter has length 1.
FIRST_STEP, LARGEST_STEP, SMALLEST_STEP = 0.005, 0.02, 1e-7
# Steps this short are believed where more crosses the circle than a pole or a pair; how near to 1 a pole touches it.
SURE_STEP, TOUCH = 1e-4, 1e-4
# Cosine of the largest angle by which a branch may turn in a step; steps of its corrector, and a step that is its last.
TURN, CORRECTIONS, SETTLED = 0.95, 10, 1e-9
# A periodic drive: periods after which the response may repeat itself, the longest run in search of that, and steps of
# Newton's method.
SUBHARMONICS, MAX_SETTLE, PERIOD_STEPS = 8, 200_000, 15


class PointKind(StrEnum):
    """What happens near a point that stays where it is, as the magnitudes of its multipliers tell.

    A node or focus is one by its largest multiplier: real, or one of a complex pair, so that motion near it turns.
    """

    STABLE_NODE = "stable node"
    STABLE_FOCUS = "stable focus"
    UNSTABLE_NODE = "unstable node"
    UNSTABLE_FOCUS = "unstable focus"
    SADDLE = "saddle"
    MARGINAL = "marginal"
    CONTINUUM = "continuum"
    UNKNOWN = "unknown"

    @property
    def is_stable(self) -> bool:
        return self in (PointKind.STABLE_NODE, PointKind.STABLE_FOCUS)


@dataclass(frozen=True)
class FixedPoint:
    """A state that a constant input keeps as it is.

    Attributes
    ----------
    state : State
    y : ndarray, shape (n_outputs,)
        The constant output, the DC offset where the input is silence.
    residual : float
        How far one step moves it, largest number of the state.
    poles : ndarray of n_states complex numbers
        Of ``linear``: its multipliers, largest magnitude first; none where the kind is unknown.
    kind : PointKind
        As computed, poles within 1e-10 of the unit circle being on it. "marginal": on it, and none outside.
        "continuum", linear filters only: a whole line or more of fixed points, of which this is the smallest.
        "unknown": the delay lines are too long for their poles.
    linear : StateSpace or DelayStateSpace
        The small-signal filter about it.
    """

    state: State
    y: Real
    residual: float
    poles: Complex
    kind: PointKind
    linear: DelayStateSpace


@dataclass(frozen=True)
class Cycle:
    """A motion that repeats itself every so many frames while the input is constant.

    Attributes
    ----------
    states : tuple of State
        Before each of its frames.
    y : ndarray, shape (period, n_outputs)
    residual : float
    multipliers : ndarray of n_states complex numbers
        Eigenvalues of the product of the Jacobians round the cycle, largest magnitude first.
    kind : PointKind
    """

    states: tuple[State, ...]
    y: Real
    residual: float
    multipliers: Complex
    kind: PointKind

    @property
    def period(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class SpecialPoint:
    """Where a multiplier of a branch crosses the unit circle.

    Attributes
    ----------
    kind : str
        "fold": at +1, the branch turns back. "branch point": at +1, and it goes on; others cross it there. "flip": at
        -1, a cycle of two frames begins or ends. "Neimark-Sacker": a complex pair, an oscillation begins or ends.
        "jump": multipliers jump across it, as on the kink of a ReLU.
    parameter : float
    index : int
        Its place in the arrays of the branch.
    multiplier : complex
        The one that crosses, or after a jump is next to the circle; its angle is the frequency of the oscillation in
        radians a sample.
    """

    kind: str
    parameter: float
    index: int
    multiplier: complex


@dataclass(frozen=True)
class Branch:
    """Fixed points joined to a curve, from point to point along it.

    Attributes
    ----------
    name : str
        Of the parameter.
    parameter : ndarray, shape (n,)
        It may turn back at folds.
    states : ndarray, shape (n, n_lines)
        What each delay line holds in all of its places, and each other state: ``np.repeat(states[i], delays)`` is the
        ``ravel()`` of the state.
    delays : ndarray, shape (n_lines,)
    y : ndarray, shape (n, n_outputs)
    poles : ndarray, shape (n, n_states)
        A column follows one of them, see :func:`track`. Where two meet, which is which is a guess.
    special : tuple of SpecialPoint
    ends : tuple of two str
        Why the curve ends on either side: "range" of the parameter, "closed" curve, "lost" where no step however small
        goes on (a kink of a ReLU, a point without a pull), or "steps" spent.
    """

    name: str
    parameter: Real
    states: Real
    delays: NDArray[np.int64]
    y: Real
    poles: Complex
    special: tuple[SpecialPoint, ...]
    ends: tuple[str, str]

    @property
    def largest(self) -> Real:
        """The largest magnitude of the poles at each point."""
        largest: Real = np.max(np.abs(self.poles), axis=1, initial=0)
        return largest

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Where all poles lie inside the unit circle, as computed, by more than 1e-10."""
        return self.largest < 1 - MARGIN


@dataclass(frozen=True)
class PeriodicResponse:
    """The response to a periodic drive that has its period.

    Attributes
    ----------
    state : State
        At the beginning of a period.
    y : ndarray, shape (period, n_outputs)
    residual : float
        How far one period moves the state.
    multipliers : ndarray of n_states complex numbers
        Floquet multipliers: what becomes of a small difference in a period. Largest magnitude first.
    kind : PointKind
    repeats : int
        After how many periods the run from the initial state repeats itself: 1 where it settles to a response like
        this, 2 and more for a subharmonic, 0 where it does not within the run (quasi-periodic, chaotic, or slow).
    """

    state: State
    y: Real
    residual: float
    multipliers: Complex
    kind: PointKind
    repeats: int

    @property
    def stable(self) -> bool:
        """Whether all multipliers lie inside the unit circle: small differences fade."""
        return self.kind.is_stable


# ---- points and cycles


def fixed_points(
    filt: Filter,
    u: ArrayLike | None = None,
    *,
    controls: Controls | None = None,
    n_starts: int = 64,
    seed: int | np.random.Generator = 0,
) -> tuple[FixedPoint, ...]:
    r"""States that a constant input keeps as they are, stable or not.

    .. math:: x = F(x, u)

    Parameters
    ----------
    filt : Filter
        A cell, a composition, a network with long delay lines, or a linear filter.
    u : array, shape (n_inputs,), optional
        The input frame; silence when absent.
    controls : mapping of str to float, optional
    n_starts : int
        States to start from, besides those in which the filter settles.
    seed : int or Generator
        For these.

    Returns
    -------
    tuple of FixedPoint
        The one with the smallest spectral radius first. Empty where none is found for certain.

    Raises
    ------
    ParameterError
        A filter that works in frames, or has too many lines and units; wrong ``u``, ``controls`` or ``n_starts``.

    Notes
    -----
    A linear filter is solved at once: it has one fixed point, or with a pole at 1 none or a continuum.

    Any other is asked by Newton's method with analytic Jacobians, in which a delay line is one unknown however long it
    is, since at rest it holds one number all along. It starts where the filter settles, where noise of several levels
    carries it, from random states, and from places between two points that were found, where saddles lie. A point is
    kept only if its residual and the pull there leave no doubt, but for rounding, that a true one is next to it. So
    points at which two of them meet (a fold, a pitchfork) are left out, and so is a continuum in a nonlinear filter.
    That there are no others than those found is not proved.

    The poles tell what happens nearby. A stable point need not be the only one, nor the one that is reached.

    References
    ----------
    D. Sussillo, O. Barak (2013), "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks". M. Golub, D. Sussillo (2018), "FixedPointFinder".

    Examples
    --------
    >>> from rnndsp.filters import Elman
    >>> unit = Elman(1, 1).replace(U=[[1.5]])
    >>> [(round(float(point.y[0]), 4), str(point.kind)) for point in fixed_points(unit)]
    [(-0.8586, 'stable node'), (0.8586, 'stable node'), (0.0, 'unstable node')]
    """
    orbits = Orbits(filt, u, controls)
    whole_number("n_starts", n_starts, least=0)
    if filt.is_linear:
        return _linear_points(orbits)
    found = [_fixed_point(orbits, orbit) for orbit in orbits.search(n_starts, generator(seed))]
    return tuple(sorted(found, key=lambda p: (round(_radius(p.poles), 6), tuple(p.y.round(6)))))


def _radius(multipliers: Complex) -> float:
    return float(np.max(np.abs(multipliers), initial=0))


def _fixed_point(orbits: Orbits, orbit: Orbit) -> FixedPoint:
    (state,), (linear,) = orbits.states(orbit.entering), orbit.linears
    poles = _affordable_poles(linear)
    kind = PointKind.UNKNOWN if poles is None else classify(poles)
    return FixedPoint(state, orbit.y[0], orbit.residual, _none() if poles is None else poles, kind, linear)


def _none() -> Complex:
    return np.zeros(0, np.complex128)


def _affordable_poles(linear: DelayStateSpace) -> Complex | None:
    try:
        return delay_poles(linear.A, linear.delays) if is_affordable(linear.A, linear.delays) else None
    except RnndspError:  # an ill-conditioned loop
        return None


def classify(multipliers: Complex) -> PointKind:
    """The kind of a point with these multipliers, largest magnitude first."""
    size = np.abs(multipliers)
    turns = bool(size.size) and abs(multipliers[0].imag) > COMPLEX * size[0]
    if not (size > 1 + MARGIN).any():
        if (size >= 1 - MARGIN).any():
            return PointKind.MARGINAL
        return PointKind.STABLE_FOCUS if turns else PointKind.STABLE_NODE
    if (size < 1 - MARGIN).any():
        return PointKind.SADDLE
    return PointKind.UNSTABLE_FOCUS if turns else PointKind.UNSTABLE_NODE


def _linear_points(orbits: Orbits) -> tuple[FixedPoint, ...]:
    """(I - A) x = B u: regular, or with a pole at 1 solved by a continuum or by none."""
    zero = np.zeros((1, orbits.delays.size))
    (linear,) = linears = orbits.linears(zero)
    loop, driven = orbits.loop(linears), linear.B @ orbits.frame
    scale = max(1.0, float(np.linalg.norm(linear.A, 2)) if linear.A.size else 0.0)
    regular = pull(linear) > MARGIN * scale
    solved = np.linalg.solve(loop, driven) if regular else np.linalg.lstsq(loop, driven, rcond=MARGIN)[0]
    held: Real = np.asarray(solved, np.float64)
    residual = float(np.max(np.abs(loop @ held - driven), initial=0))
    if residual > MARGIN * scale * float(np.max(np.abs([*driven, *held]), initial=1)):
        return ()
    y = linear.C @ held + linear.D @ orbits.frame
    point = _fixed_point(orbits, Orbit(held[None], y[None], residual, linears))
    return (point if regular else replace(point, kind=PointKind.CONTINUUM),)


def cycles(
    filt: Filter,
    u: ArrayLike | None = None,
    *,
    period: int,
    controls: Controls | None = None,
    n_starts: int = 64,
    seed: int | np.random.Generator = 0,
) -> tuple[Cycle, ...]:
    r"""Motions that repeat themselves every ``period`` frames, and no sooner, while the input is constant.

    .. math:: x = F^p(x, u), \qquad x \ne F^q(x, u) \text{ for } q < p

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_inputs,), optional
        The input frame; silence when absent.
    period : int
        p, at least 2.
    controls : mapping of str to float, optional
    n_starts : int
        Motions to start from, besides those in which the filter settles.
    seed : int or Generator

    Returns
    -------
    tuple of Cycle
        The most stable one first, each once and not once a phase.

    Raises
    ------
    ParameterError
        As :func:`fixed_points`; or more than 1000 states, as the product of their Jacobians is a dense matrix.

    Notes
    -----
    Newton's method on all frames of the cycle at once (multiple shooting), from the places where :func:`fixed_points`
    starts. Other cycles than those found may exist. Multipliers far below the largest one are lost in its rounding.

    References
    ----------
    P. Cvitanovic et al., "Chaos: classical and quantum", chapter "Fixed points, and how to get them".
    """
    whole_number("n_starts", n_starts, least=0)
    _check_product(filt)
    orbits = Orbits(filt, u, controls, whole_number("period", period, least=2))
    found = []
    for orbit in orbits.search(n_starts, generator(seed)):
        v = orbit.entering
        if any(period % q == 0 and same(v, np.roll(v, q, axis=0)) for q in range(1, period)):
            continue
        product = np.eye(filt.n_states)
        for linear in orbit.linears:
            product = _after(linear.A, linear.delays, product)
        multipliers, states = _by_size(np.linalg.eigvals(product)), tuple(orbits.states(v))
        found.append(Cycle(states, orbit.y, orbit.residual, multipliers, classify(multipliers)))
    return tuple(sorted(found, key=lambda c: (round(_radius(c.multipliers), 6), tuple(c.y.round(6).ravel()))))


def _check_product(filt: Filter) -> None:
    if filt.n_states > MAX_PRODUCT:
        raise ParameterError(
            f"{type(filt).__name__} has {filt.n_states} states, more than {MAX_PRODUCT}: the product of their "
            "Jacobians would be too large a matrix; shorten its delay lines"
        )


def _after(A: Real, delays: NDArray[np.int64], differences: Real) -> Real:
    """What becomes of differences of states in a frame: the Jacobian of all states times them, without forming it."""
    newest = np.cumsum(delays) - 1
    moved = np.roll(differences, -1, axis=0)
    moved[newest] = A @ differences[newest + 1 - delays]
    return moved


def _by_size(values: NDArray[Any]) -> Complex:
    found = values.astype(np.complex128)
    return found[np.lexsort((np.angle(found), -np.abs(found)))]


# ---- continuation


def continue_points(
    filt: Filter,
    parameter: str | int,
    values: ArrayLike,
    *,
    u: ArrayLike | None = None,
    controls: Controls | None = None,
    n_starts: int = 32,
    seed: int | np.random.Generator = 0,
    max_points: int = 1000,
) -> tuple[Branch, ...]:
    r"""Follow fixed points while a knob is turned, or the constant level of an input channel.

    .. math:: x(s) = F\big(x(s), p(s)\big), \qquad \dot p^2 + \tfrac{1}{n} |\dot x|^2 = 1

    Parameters
    ----------
    filt : Filter
    parameter : str or int
        Name of the control, or number of the input channel.
    values : array
        Of the parameter: where fixed points are searched, from each of which the curves through them are followed. The
        smallest and the largest are the ends of the range.
    u : array, shape (n_inputs,), optional
        The input frame, of which ``parameter`` may replace a channel; silence when absent.
    controls : mapping of str to float, optional
        Those that stand still.
    n_starts, seed
        As in :func:`fixed_points`, for each of the values.
    max_points : int
        The most points a branch gets on each side of where it was found.

    Returns
    -------
    tuple of Branch

    Raises
    ------
    ParameterError
        As :func:`fixed_points`; an unknown parameter, less than two values, or more than 500 states.

    Notes
    -----
    Pseudo-arclength continuation: a step along the tangent, then Newton's method across it, so that folds, where the
    parameter turns back, are passed as if they were not there. The parameter counts as 1 over its range, the states by
    their root mean square. Steps adapt to how the branch bends; in none does more than one multiplier, or one complex
    pair, cross the unit circle, as far as both ends of the step tell. A crossing is located by Brent's method on the
    distance of the nearest multiplier to the circle, and becomes a point of the branch.

    A branch that no search at ``values`` meets is not found: closed ones in between, say. At a branch point the curve
    goes straight on; the others through it are found if they reach one of ``values``.

    References
    ----------
    H. B. Keller (1977), "Numerical solution of bifurcation and nonlinear eigenvalue problems". Y. A. Kuznetsov (2004),
    "Elements of applied bifurcation theory", chapters 4 and 10.
    """
    whole_number("n_starts", n_starts, least=0)
    whole_number("max_points", max_points)
    family = _Family(filt, parameter, values, u, controls)
    if filt.n_states > MAX_TRACKED:
        raise ParameterError(
            f"{type(filt).__name__} has {filt.n_states} states, more than {MAX_TRACKED}: a branch holds all of its "
            "poles at every point; shorten its delay lines, or ask fixed_points at single values"
        )
    rng = generator(seed)
    branches: list[Branch] = []
    for value in family.values:
        frame, held = family.setting(value)
        for point in fixed_points(filt, frame, controls=held, n_starts=n_starts, seed=rng):
            start = np.append(point.state.ravel()[family.orbits.newest], value)
            if point.kind != PointKind.CONTINUUM and not any(family.passes(branch, start) for branch in branches):
                branches.append(_branch(family, start, max_points))
    return tuple(branches)


class _Family:
    """The fixed points of a filter by one parameter; a point is what the lines hold, then the parameter."""

    def __init__(
        self, filt: Filter, parameter: str | int, values: ArrayLike, u: ArrayLike | None, controls: Controls | None
    ) -> None:
        try:
            self.values = np.unique(np.asarray(values, np.float64))
        except (TypeError, ValueError):
            self.values = np.zeros(0)
        if self.values.size < 2 or not np.isfinite(self.values).all():
            raise ParameterError(f"{values=}: give at least two different finite numbers, the ends of the range")
        self.low, self.high = float(self.values[0]), float(self.values[-1])
        self.given, self.controls = constant_frame(filt, u), dict(controls or {})
        self.bounds = -np.inf, np.inf
        names = [control.name for control in filt.controls]
        if parameter in names:
            knob = filt.controls[names.index(str(parameter))]
            knob.check(self.values)
            self.name, self.channel, self.bounds = knob.name, None, (knob.low, knob.high)
        elif isinstance(parameter, int) and not isinstance(parameter, bool) and 0 <= parameter < filt.n_inputs:
            self.name, self.channel = f"input {parameter}", parameter
        else:
            raise ParameterError(
                f"{parameter=}: name a control, one of {names or 'none'}, or an input channel from 0 to "
                f"{filt.n_inputs - 1}"
            )
        self.orbits = Orbits(filt, *self.setting(self.low))
        n = self.orbits.delays.size
        self.weight = np.append(np.full(n, 1 / max(n, 1)), 1 / (self.high - self.low) ** 2)

    def setting(self, value: float) -> tuple[Real, Controls]:
        if self.channel is None:
            return self.given, {**self.controls, self.name: value}
        frame = self.given.copy()
        frame[self.channel] = value
        return frame, self.controls

    def at(self, value: float) -> Orbits:
        return self.orbits.at(*self.setting(value))

    def inside(self, point: Real) -> bool:
        return bool(self.low <= point[-1] <= self.high)

    def length(self, step: Real) -> float:
        return float(np.sqrt(self.weight @ step**2))

    def slope(self, point: Real) -> Real:
        """How what enters the lines changes with the parameter, by a central difference where the range allows it."""
        h = 1e-6 * (self.high - self.low)
        ends = np.clip([point[-1] - h, point[-1] + h], *self.bounds)
        before, after = (self.at(end).step(point[None, :-1])[0][0] for end in ends)
        found: Real = (after - before) / (ends[1] - ends[0])
        return found

    def bordered(self, linear: DelayStateSpace, point: Real, tangent: Real) -> Real:
        """The derivative of x - F(x, p), and below it the direction in which a step is measured."""
        top = np.column_stack([np.eye(self.orbits.delays.size) - linear.A, -self.slope(point)])
        return np.vstack([top, self.weight * tangent])

    def correct(self, guess: Real, tangent: Real) -> _Point | None:
        """The fixed point next to a guess, across the tangent; None where there is none within the range."""
        point, found = guess, None
        for _ in range(CORRECTIONS):
            if not self.inside(point) or not np.max(np.abs(point)) < FAR:
                return None
            orbits, scale = self.at(point[-1]), max(1.0, float(np.max(np.abs(point))))
            try:
                entered, y = orbits.step(point[None, :-1])
                (linear,) = orbits.linears(point[None, :-1])
                error, across = entered[0] - point[:-1], self.weight * tangent @ (guess - point)
                right = np.column_stack([np.append(error, across), np.eye(point.size)[-1]])
                step, along = np.linalg.solve(self.bordered(linear, point, tangent), right).T
                if np.max(np.abs(error), initial=0) < RESIDUAL * scale:
                    found = _Point(point, along / self.length(along), y[0], delay_poles(linear.A, linear.delays))
                    # at a branch point the residual says little
                    if np.max(np.abs(step)) < SETTLED * scale:
                        break
            except (RnndspError, np.linalg.LinAlgError):
                break
            point = point + step
        return found

    def land(self, value: float, near: Real, tangent: Real) -> _Point | None:
        """The fixed point at an end of the range."""
        orbit = self.at(value).newton(near[None, :-1])
        if orbit is None:
            return None
        return self.correct(
            np.append(orbit.entering[0], value), np.append(np.zeros(near.size - 1), np.sign(tangent[-1]))
        )

    def passes(self, branch: Branch, start: Real) -> bool:
        """Whether a fixed point lies on a branch."""
        beyond = branch.parameter - start[-1]
        for i in np.flatnonzero((beyond[:-1] * beyond[1:] <= 0) & (beyond[:-1] != beyond[1:])):
            part = beyond[i] / (beyond[i] - beyond[i + 1])
            orbit = self.at(start[-1]).newton(((1 - part) * branch.states[i] + part * branch.states[i + 1])[None])
            if orbit is not None and same(orbit.entering[0], start[:-1]):
                return True
        return False


@dataclass(frozen=True)
class _Point:
    """A point of a branch, its tangent, and what is known of it."""

    at: Real
    tangent: Real
    y: Real
    poles: Complex
    special: tuple[str, complex] | None = None

    @property
    def n_outside(self) -> int:
        return int(np.count_nonzero(np.abs(self.poles) > 1 + MARGIN))


def _branch(family: _Family, start: Real, max_points: int) -> Branch:
    """The curve through a fixed point, followed to both sides."""
    along = np.append(np.zeros(start.size - 1), family.high - family.low)
    first = family.correct(start, along)
    if first is None:  # its tangent is upright, in a fold
        raise RnndspError(f"no way leads on from the fixed point at {family.name} = {start[-1]:g}")
    after, end = _follow(family, first, max_points)
    back = replace(first, tangent=-first.tangent)
    before, begin = ([], end) if end == "closed" else _follow(family, back, max_points)
    points = [*before[::-1], first, *after]
    curve = np.array([point.at for point in points])
    special = tuple(
        SpecialPoint(point.special[0], float(point.at[-1]), i, point.special[1])
        for i, point in enumerate(points)
        if point.special
    )
    return Branch(
        family.name,
        curve[:, -1],
        curve[:, :-1],
        family.orbits.delays,
        np.array([point.y for point in points]),
        track([point.poles for point in points]),
        special,
        (begin, end),
    )


def _follow(family: _Family, first: _Point, max_points: int) -> tuple[list[_Point], str]:
    """Points along a curve from one on, that one left out, and why they end."""
    points: list[_Point] = []
    here, step = first, FIRST_STEP
    while len(points) < max_points:
        if step < SMALLEST_STEP:
            return points, "lost"
        guess = here.at + step * here.tangent
        outward = not family.inside(guess)
        if outward:
            bound = family.high if guess[-1] > family.high else family.low
            part = (bound - here.at[-1]) / here.tangent[-1]
            if part == 0:
                return points, "range"
            there = family.land(bound, here.at + part * here.tangent, here.tangent)
            if there is not None and there.tangent @ (family.weight * here.tangent) < 0:
                there = replace(there, tangent=-there.tangent)
        else:
            there = family.correct(guess, here.tangent)
        between = None if there is None else _crossings(family, here, there, step)
        if there is None or between is None:
            step /= 2
            continue
        points += [*between, there]
        if outward:
            return points, "range"
        if (
            len(points) > 3
            and family.length(there.at - first.at) < step
            and there.tangent @ (family.weight * first.tangent) > 0
        ):
            return [*points, first], "closed"
        here, step = there, min(1.4 * step, LARGEST_STEP)
    return points, "steps"


def _crossings(family: _Family, here: _Point, there: _Point, step: float) -> list[_Point] | None:
    """The special point on a step, if any; None where the step is too long to tell."""
    gap = there.at - here.at
    if there.tangent @ (family.weight * here.tangent) < TURN or family.length(gap) > 2 * step:
        return None
    n_crossing = abs(there.n_outside - here.n_outside)
    turns = here.tangent[-1] * there.tangent[-1] < 0
    if not n_crossing and not turns:
        return []
    point = _located(family, here, there)
    if point is None:
        return None
    critical = _critical(point.poles)
    pair = abs(critical.imag) > COMPLEX
    # a pole may touch the circle and go back, as along the arms of a pitchfork; or two may change places there
    touches = n_crossing == 0 and abs(critical - 1) < TOUCH
    if step > SURE_STEP and n_crossing != 1 + pair:
        return None
    if not (n_crossing or touches):
        return []
    if abs(abs(critical) - 1) > TOUCH:
        kind = "jump"
    elif pair:
        kind = "Neimark-Sacker"
    elif critical.real < 0:
        kind = "flip"
    else:
        kind = "fold" if turns and n_crossing else "branch point"
    return [replace(point, special=(kind, critical))]


def _critical(poles: Complex) -> complex:
    """The pole next to the unit circle, of a pair the upper one."""
    nearest = poles[np.argmin(np.abs(np.abs(poles) - 1))]
    return complex(nearest.real, abs(nearest.imag))


def _located(family: _Family, here: _Point, there: _Point) -> _Point | None:
    """Where between two points of a curve a pole crosses the circle, or else the curve turns."""
    from scipy.optimize import brentq

    way = there.at - here.at
    way = way / family.length(way)

    def between(s: float) -> _Point:
        point = family.correct(here.at + s * way, way)
        if point is None:
            raise NonFiniteError("no point there")
        return point

    def beyond(s: float) -> float:
        point = between(s)
        if here.n_outside == there.n_outside:
            return float(point.tangent[-1])
        away = float(np.min(np.abs(np.abs(point.poles) - 1 - MARGIN)))
        return away if point.n_outside == there.n_outside else -away

    end = family.length(there.at - here.at)
    try:
        return between(brentq(beyond, 0, end, xtol=1e-15, rtol=4 * EPS))
    except (NonFiniteError, ValueError):  # no point in between, or more than one crossing
        return None


# ---- periodic drive


def floquet_multipliers(
    filt: Filter, u: ArrayLike, state: State | None = None, *, controls: Controls | None = None
) -> PeriodicResponse:
    r"""What becomes of small differences in a period of a periodic drive, about the response that has its period.

    .. math:: \mu = \operatorname{eig}(J_p \cdots J_2 J_1), \qquad J_t = \partial x[t] / \partial x[t-1]

    Parameters
    ----------
    filt : Filter
    u : array, shape (period, n_inputs) or (period,)
        One period of the drive.
    state : State, optional
        Where the run starts that looks for the response; the state of rest when absent.
    controls : mapping of str to float, optional

    Returns
    -------
    PeriodicResponse
        With ``stable``, and ``repeats``, which tells whether the run came to it.

    Raises
    ------
    ParameterError
        More than 1000 states, a period of more than 10 000 frames, a filter that works in frames; or no response with
        the period of the drive was found, with what the run did instead.
    NonFiniteError
        The filter blew up.

    Notes
    -----
    The filter runs on the drive until its state repeats itself, for 200 000 frames at most; then Newton's method on the
    map of a period, by the product of the Jacobians, which also finds a response that repels. All multipliers inside
    the unit circle: this response, once there, is kept, and reached from nearby; others may exist. A run that settles
    to a multiple of the period has left a response with a multiplier beyond -1, or on a circle: repeat the drive as
    often, ``np.tile(u, 2)``, for the multipliers of the subharmonic itself. Multipliers far below the largest are lost
    in its rounding.

    References
    ----------
    G. Floquet (1883), "Sur les équations différentielles linéaires à coefficients périodiques".
    """
    try:
        drive = np.asarray(u, np.float64)
    except (TypeError, ValueError):
        drive = np.zeros((0, 0))
    drive = drive[:, None] if drive.ndim == 1 else drive
    if drive.ndim != 2 or drive.shape[1] != filt.n_inputs or not 1 <= len(drive) <= MAX_SETTLE // 20:
        raise ParameterError(
            f"drive of shape {np.shape(u)}: give one period of at most {MAX_SETTLE // 20} frames, "
            f"(period, {filt.n_inputs})"
        )
    _check_product(filt)
    Orbits(filt, controls=controls)  # which refuses what cannot be linearised
    end, repeats = _settled(filt, drive, state, controls)
    for _ in range(PERIOD_STEPS):
        moved, product, y = _period(filt, drive, end, controls)
        x = end.ravel()
        loop = np.eye(x.size) - product
        if not (np.isfinite(loop).all() and np.max(np.abs(x), initial=0) < FAR):
            break
        error, scale = float(np.max(np.abs(moved - x), initial=0)), max(1.0, float(np.max(np.abs(x), initial=0)))
        if error < RESIDUAL * scale:
            smallest = np.min(np.linalg.svd(loop, compute_uv=False), initial=1)
            if error + EPS * scale < NEAR * scale * smallest:
                multipliers = _by_size(np.linalg.eigvals(product))
                return PeriodicResponse(end, y, error, multipliers, classify(multipliers), repeats)
            break
        try:
            end = end.unravel(x + np.linalg.solve(loop, moved - x))
        except np.linalg.LinAlgError:
            break
    did = (
        f"repeats itself after {repeats} periods; give that many, np.tile(u, ({repeats}, 1))"
        if repeats > 1
        else "settles, but nothing holds it there"
        if repeats
        else f"does not repeat itself within {SUBHARMONICS} periods (quasi-periodic, chaotic, or very slow)"
    )
    raise ParameterError(f"no response with the period of the drive was found: the run on it {did}")


def _settled(filt: Filter, drive: Real, state: State | None, controls: Controls | None) -> tuple[State, int]:
    """The state at the end of a run on a periodic drive, and after how many periods it repeats; 0 where it does not."""
    many = np.tile(drive, (-(-SETTLE_FRAMES // 4 // len(drive)), 1))
    done = 0
    while done < MAX_SETTLE:
        state = filt.run(many, state, controls=controls)[1]
        ends = [state.ravel()]
        for _ in range(SUBHARMONICS):
            state = filt.run(drive, state, controls=controls)[1]
            ends.append(state.ravel())
        for k in range(1, SUBHARMONICS + 1):
            if same(ends[-1], ends[-1 - k]):
                return state, k
        done += len(many) + SUBHARMONICS * len(drive)
    assert state is not None
    return state, 0


def _period(filt: Filter, drive: Real, state: State, controls: Controls | None) -> tuple[Real, Real, Real]:
    """The state after a period, the product of its Jacobians, and the output."""
    product = np.eye(filt.n_states)
    for piece in jacobians(filt, drive, state, controls=controls):
        for A in np.broadcast_to(piece.A, (len(piece.y), *piece.A.shape[1:])):
            with np.errstate(all="ignore"):
                product = _after(A, piece.delays, product)
    y, moved = filt.run(drive, state, controls=controls)
    return moved.ravel(), product, y

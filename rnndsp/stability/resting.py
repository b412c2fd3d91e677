"""Where a filter comes to rest, and which motions repeat themselves, while its input stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, combinations, islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import NonFiniteError, ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability.spectrum import n_lines
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["rest_states"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

# Constant input given to a filter to come to rest, and noise to move it elsewhere.
SETTLE_FRAMES, NOISE_FRAMES = 20000, 60
# How near to a true rest state one must be that is called so; such ones further apart than SAME are different ones.
NEAR, SAME, EPS = 1e-7, 1e-6, float(np.finfo(np.float64).eps)
# Steps of Newton's method, what it must leave, and the largest state, of lines and frames, that it moves in.
STEPS, RESIDUAL, MAX_UNKNOWNS, FAR = 40, 1e-12, 2000, 1e9
PARTS = (1.0, 0.5, 0.25, 0.1, 0.03)
# Voices that look for places to start from, and numbers that they may remember.
VOICES, MAX_VOICE_STATES = 8, 2**22
# Places to start from on the way from one solution to another.
BETWEEN = (0.2, 0.35, 0.5, 0.65, 0.8)


def rest_states(
    filt: Filter, *, n_starts: int = 8, seed: int = 0, controls: Controls | None = None
) -> tuple[State, ...]:
    """States in which the filter comes to rest on silence, from its initial state and from random ones.

    Only points are returned that are fixed to rounding, and that are pulled at by enough for a true rest state to be
    next to them; that there are no others is not proved. The first is the one reached from the initial state, where it
    comes to rest at all.

    Parameters
    ----------
    filt : Filter
    n_starts : int
        Random states to start from.
    seed : int
        For these.
    controls : mapping of str to float, optional
    """
    state = scattered(filt, n_starts + 1, np.random.default_rng(seed))
    move(filt, state, np.zeros((n_starts + 1, SETTLE_FRAMES, filt.n_inputs)), controls)
    here = filt.rest_state()
    here.indices = state.indices
    found: list[State] = []
    for settled in state.ravel():
        fixed = polish(filt, here.unravel(settled), controls=controls)
        if fixed is not None and not any(same(fixed.ravel(), other.ravel()) for other in found):
            found.append(fixed)
    return tuple(found)


def polish(filt: Filter, state: State, u: ArrayLike | None = None, *, controls: Controls | None = None) -> State | None:
    """Newton's method towards x = F(x, u) for a constant frame u; None where it does not end at a fixed point."""
    orbits = Orbits(filt, u, controls, like=state)
    found = orbits.newton(state.ravel()[None, orbits.newest])
    return None if found is None else orbits.states(found.entering)[0]


def pull(linear: DelayStateSpace) -> float:
    """How far I - A is from singular: zero where a constant state other than rest stays as it is."""
    return _smallest(np.eye(len(linear.A)) - linear.A)


def same(one: Real, other: Real) -> bool:
    """Whether two solutions of Newton's method are one."""
    scale = max(1.0, float(np.max(np.abs(one), initial=0)))
    return bool(np.max(np.abs(one - other), initial=0) <= SAME * scale)


def scattered(filt: Filter, n_voices: int, rng: np.random.Generator) -> State:
    """Voices at rest, all but the first moved to random states within (-1, 1)."""
    state = filt.rest_state((n_voices,))
    flat = state.ravel()
    flat[1:] = rng.uniform(-1, 1, flat[1:].shape)
    return state.unravel(flat)


def move(filt: Filter, state: State, u: Real, controls: Controls | None) -> None:
    """Run voices on a signal (voices, frames, inputs), in place, whatever comes of it."""
    full = filt._extend(u, controls)
    y = np.empty((*full.shape[:2], filt.n_outputs))
    with np.errstate(all="ignore"):
        filt._process(full, state, y)


@dataclass(frozen=True)
class Orbit:
    """A solution of :class:`Orbits`.

    Attributes
    ----------
    entering : ndarray, shape (period, n_lines)
    y : ndarray, shape (period, n_outputs)
    residual : float
    linears : list of DelayStateSpace
        About each of its frames.
    """

    entering: Real
    y: Real
    residual: float
    linears: list[DelayStateSpace]


class Orbits:
    r"""Motions of a filter on a constant frame that repeat themselves every p frames; fixed points with p = 1.

    Line i of length m_i holds what entered it in the last m_i frames, in such a motion the same p numbers over and
    over. So the unknowns are these, v of shape (p, n_lines), however long the lines are:

    .. math:: v_i[t] = f_i\big(v_1[t - m_1], v_2[t - m_2], \ldots\big), \qquad t \text{ modulo } p

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_inputs,), optional
        Silence when absent.
    controls : mapping of str to float, optional
    period : int
    like : State, optional
        One voice, whose sample index the states get.

    Raises
    ------
    ParameterError
        A filter that works in frames, or is too large; an input frame or controls that are no finite numbers.
    """

    def __init__(
        self,
        filt: Filter,
        u: ArrayLike | None = None,
        controls: Controls | None = None,
        period: int = 1,
        *,
        like: State | None = None,
    ) -> None:
        if filt.period > 1:
            raise ParameterError(
                f"{type(filt).__name__} does the same thing again only every {filt.period} samples, so it has no fixed "
                "points; ask those of its inner filter, which runs once a frame"
            )
        if n_lines(filt) * period > MAX_UNKNOWNS:
            raise ParameterError(
                f"{n_lines(filt)} lines and units and {period=} are {n_lines(filt) * period} unknowns, more than "
                f"{MAX_UNKNOWNS}: look at parts of the filter"
            )
        self.filt, self.period = filt, period
        self.like = filt.rest_state()
        if like is not None:
            if not isinstance(like, State) or like.shapes != self.like.shapes:
                raise ParameterError(f"give one voice of a state of this filter, {self.like!r}, not {like!r}")
            self.like.indices = like.indices
        self.set(constant_frame(filt, u), controls)
        self.delays = filt.linearize(controls=self.controls).delays
        self.newest = np.cumsum(self.delays) - 1
        # what lies in each place of the flat state: which line, and how many frames ago it entered
        self._line = np.repeat(np.arange(self.delays.size), self.delays)
        self._ago = np.repeat(self.newest, self.delays) + 1 - np.arange(int(self.delays.sum()))

    def set(self, frame: Real, controls: Controls | None) -> None:
        for name, value in (controls or {}).items():
            if np.ndim(value):
                raise ParameterError(f"control {name}={value!r}: it is held still, so give one number")
        if not np.isfinite(self.filt._extend(frame[None, None], controls)).all():
            raise ParameterError(f"controls {controls} must be finite")
        self.frame, self.controls = frame, controls

    def at(self, frame: Real, controls: Controls | None) -> Orbits:
        """The same on another input frame."""
        other = copy(self)
        other.set(frame, controls)
        return other

    def states(self, entering: Real) -> list[State]:
        """The state before each frame of a motion."""
        return [self.like.unravel(flat) for flat in self._flat(entering)]

    def _flat(self, entering: Real) -> Real:
        t = np.arange(self.period)[:, None]
        flat: Real = entering[(t - self._ago) % self.period, self._line]
        return flat

    def step(self, entering: Real) -> tuple[Real, Real]:
        """What enters each line in each frame, in response to what is supposed to; and the output."""
        # a copy: one that nobody may write to would have every kernel compiled once more
        u = np.broadcast_to(self.frame, (self.period, 1, self.frame.size)).copy()
        y, moved = self.filt.run(u, self.like.unravel(self._flat(entering)), controls=self.controls)
        entered: Real = moved.ravel()[:, self.newest]
        return entered, y[:, 0]

    def linears(self, entering: Real) -> list[DelayStateSpace]:
        return [self.filt.linearize(x, self.frame, controls=self.controls) for x in self.states(entering)]

    def loop(self, linears: list[DelayStateSpace]) -> Real:
        """The derivative of v - f by v."""
        p, n = self.period, self.delays.size
        matrix = np.eye(p * n).reshape(p, n, p, n)
        for t, linear in enumerate(linears):
            matrix[t][:, (t - self.delays) % p, np.arange(n)] -= linear.A
        return matrix.reshape(p * n, p * n)

    @np.errstate(all="ignore")
    def newton(self, entering: Real, known: Sequence[Orbit] = ()) -> Orbit | None:
        """The orbit that Newton's method ends at; None where it does not end, at none for certain, or at a known one.

        Orbits that differ in their phase only are one.
        """
        v = entering
        entered, y = self._try(v)
        for _ in range(STEPS):
            error, scale = np.max(np.abs(entered - v), initial=0), np.max(np.abs(v), initial=1)
            if not (scale < FAR and np.isfinite(error)):
                return None
            settled = error < RESIDUAL * scale
            if settled and any(same(np.roll(v, k, axis=0), old.entering) for old in known for k in range(self.period)):
                return None
            try:
                linears = self.linears(v)
                loop = self.loop(linears)
                if settled:
                    # nearly at rest is not at rest where hardly anything pulls back
                    near = error + EPS * scale < NEAR * scale * _smallest(loop)
                    return Orbit(v, y, float(error), linears) if near else None
                before = entered - v
                step = np.linalg.solve(loop, before.ravel()).reshape(v.shape)
            except (RnndspError, np.linalg.LinAlgError):  # it blew up, or stands where nothing points anywhere
                return None
            # where a cell saturates a full step leads far away: the longest that brings it nearer, or else a short one
            for part in PARTS:
                ahead = v + part * step
                entered, y = self._try(ahead)
                if np.linalg.norm(entered - ahead) < np.linalg.norm(before):
                    break
            v = ahead
        return None

    def _try(self, entering: Real) -> tuple[Real, Real]:
        """:meth:`step`, NaN where the filter blows up."""
        try:
            return self.step(entering)
        except NonFiniteError:
            return np.full_like(entering, np.nan), np.zeros((self.period, self.filt.n_outputs))

    def search(self, n_starts: int, rng: np.random.Generator) -> list[Orbit]:
        """The different ones that Newton's method ends at from many starts."""
        found: list[Orbit] = []
        for start in chain(self.starts(n_starts, rng), self._between(found, n_starts)):
            orbit = self.newton(start, found)
            if orbit is not None:
                found.append(orbit)
        return found

    def _between(self, found: list[Orbit], most: int) -> Iterator[Real]:
        """Starts between two orbits: between two that attract stands a saddle, which random starts seldom hit."""
        for one, other in islice(combinations(list(found), 2), most):
            for part in BETWEEN:
                yield (1 - part) * one.entering + part * other.entering

    def starts(self, n_starts: int, rng: np.random.Generator) -> Iterator[Real]:
        """Where to start: where voices settle, where noise then carries them, and anywhere in the box that these span.

        The first is where it settles from its initial state; ``n_starts`` others follow those of the settled voices.
        """
        filt = self.filt
        n_voices = int(np.clip(MAX_VOICE_STATES // max(filt.n_states, 1), 1, VOICES))
        state = scattered(filt, n_voices, rng)
        seen: list[Real] = []
        for level in (0.0, *10 ** rng.uniform(-2, 1, n_starts // 2 // n_voices)):
            u = np.zeros((n_voices, NOISE_FRAMES if level else SETTLE_FRAMES, filt.n_inputs))
            if level:
                u += level * rng.standard_normal(u.shape)
            move(filt, state, u + self.frame, self.controls)
            flat = state.ravel()
            lost = ~np.isfinite(flat).all(axis=1)
            flat[lost] = rng.uniform(-1, 1, flat[lost].shape)
            state = state.unravel(flat)
            window = np.empty((n_voices, self.period, self.delays.size))
            for t in range(self.period):
                move(filt, state, np.tile(self.frame, (n_voices, 1, 1)), self.controls)
                window[:, t] = state.ravel()[:, self.newest]
            seen += [v for v in window if np.max(np.abs(v), initial=0) < FAR]
        yield from seen
        low, high = (
            edge(np.concatenate(seen or [np.zeros((1, self.delays.size))]), axis=0) for edge in (np.min, np.max)
        )
        half = np.maximum(1.0, high - low)
        for _ in range(n_starts - n_starts // 2):
            reach = half * 10 ** rng.uniform(-0.7, 0.5)
            yield (low + high) / 2 + reach * rng.uniform(-1, 1, (self.period, half.size))


def constant_frame(filt: Filter, u: ArrayLike | None) -> Real:
    """One input frame; silence where none is given."""
    try:
        frame = np.zeros(filt.n_inputs) if u is None else np.atleast_1d(np.asarray(u, np.float64))
    except (TypeError, ValueError):
        frame = np.zeros(0)
    if frame.shape != (filt.n_inputs,) or not np.isfinite(frame).all():
        raise ParameterError(f"u={u!r}: give {filt.n_inputs} finite number{'s' * (filt.n_inputs > 1)}, one an input")
    return frame


def _smallest(matrix: Real) -> float:
    """The smallest singular value; 1 of a matrix without entries."""
    return float(np.min(np.linalg.svd(matrix, compute_uv=False), initial=1))

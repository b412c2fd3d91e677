"""Which rest states a filter has on silence, and what has to be played to throw it from one into another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, whole_number
from rnndsp._json import plain
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate
from rnndsp.stability.resting import SAME, move, polish, same
from rnndsp.stability.spectrum import in_words, largest_pole, t60_s
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "ADRIFT",
    "BLOWN_UP",
    "NO_REST",
    "POWER_ON",
    "RestProbe",
    "RestState",
    "RestSweep",
    "Transition",
    "probe_rest_states",
    "sweep_rest_states",
]

#: Where a run starts that starts at no rest state; and where one ends that ends in none: it moves on, it stands still
#: where nothing pulls it back to, or it leaves all numbers behind.
POWER_ON, NO_REST, ADRIFT, BLOWN_UP = "power-on", "no rest", "adrift", "blown up"

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
FREQUENCIES_HZ = (110.0, 440.0, 1000.0, 4000.0)
ASSUMED_RATE = 44100.0

# Frames of silence between two looks; seconds of it that a voice may get on average, and that there are for few voices.
CHUNK, MEAN_S, LAST_S = 2048, 3.0, 60.0
# Numbers that voices which run together may hold, samples of all stimuli, and voices in all.
BUFFER, MAX_STIMULUS, MAX_VOICES = 2**23, 2**25, 20_000
# A state comes home whose Newton step ends so near to a rest state; and Newton's method starts from states that move by
# no more than this part a sample.
LANDED, SLOW = 1e-4, 0.01
# No more rest states are told apart, and stimuli start from no more.
MAX_REST, MAX_FROM = 64, 8
# Levels tried in each round of refining, how many rounds, and how far below the lowest level they reach.
POINTS, ROUNDS, FLOOR = 7, 4, 1e-4
# Where the number of rest states changes is found to this part of the range of a sweep.
WIDTH = 1e-3

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Integer = NDArray[np.int64]


@dataclass(frozen=True)
class RestState:
    """A state that silence leaves as it is, and what the filter is like there.

    Attributes
    ----------
    name : str
        "A", "B", and so on; "A" is the one in which the filter settles when it is switched on, if there is one.
    state : State
    dc : ndarray, shape (n_outputs,)
        The output at silence.
    gain_db : ndarray, shape (n_outputs,)
        Small-signal gain at the probe's frequency, of the channel that is played on.
    pole : complex
        The largest pole of the small-signal filter; NaN where finding it would take too long.
    t60_s : float
        What a small disturbance takes to fade by 60 dB; infinite where it does not.
    attracts : bool
        Whether small disturbances fade, by the poles as computed. On a kink, as of a ReLU at zero, this says nothing;
        where ``pole`` is NaN, False is no answer.
    share : float
        Part of the random initial states that end here; NaN where there were none.
    power_on : bool
        Whether the filter settles here when it is switched on.
    """

    name: str
    state: State
    dc: Real
    gain_db: Real
    pole: complex
    t60_s: float
    attracts: bool
    share: float
    power_on: bool

    @property
    def dc_db(self) -> Real:
        return _db(self.dc)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the state itself; None for what is not finite."""
        return {**plain(self), "dc_db": plain(self.dc_db)}


@dataclass(frozen=True)
class Transition:
    """A stimulus, the state in which it is played, and the one in which silence after it ends.

    Attributes
    ----------
    start, end : str
        Names of rest states; a start may be ``"power-on"`` (the initial state, before it has settled), an end ``"no
        rest"``, ``"adrift"`` (it stands still where nothing pulls it back) or ``"blown up"``.
    stimulus : str
        "DC", "sine", "noise" or "click".
    level : float
        Peak; below zero for a DC or a click downwards.
    frequency_hz : float or None
        Of a sine.
    duration_s : float
        One sample for a click.
    """

    start: str
    stimulus: str
    level: float
    frequency_hz: float | None
    duration_s: float
    end: str

    @property
    def level_db(self) -> float:
        """Peak level in dB below 1."""
        return float(_db(self.level))

    def __str__(self) -> str:
        level = f"{self.level:.3g} ({self.level_db:.1f} dB)"
        if self.stimulus == "click":
            return f"a click of {level}"
        kind = {"DC": "a thump (DC)", "noise": "noise", "sine": f"a {self.frequency_hz or 0:g} Hz sine"}[self.stimulus]
        return f"{kind} at {level} for {in_words(self.duration_s)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**plain(self), "level_db": self.level_db}


@dataclass(frozen=True)
class RestProbe:
    """What :func:`probe_rest_states` found; print it for a text, ``as_dict()`` for JSON.

    Attributes
    ----------
    rest_states : tuple of RestState
        The one reached from power-on first, then by share. Those of a linear filter apart, that there are no others is
        proved only where ``unique`` says why.
    power_on : str
        Where the filter ends that is switched on and hears silence.
    transitions : tuple of Transition
        The gentlest stimulus found for each pair of a start and another end. Its level is refined: it does it, and the
        next lower level tried, less than 1 % lower, does not. A lower one, or another kind of sound, still may. One of
        a ten-thousandth of the lowest level stated means that any will do.
    trials : tuple of Transition
        Every stimulus at the stated levels and where it led, from power-on and from each rest state.
    unique : str
        Why there can be no other rest state, or empty.
    no_rest : float
        Part of the random initial states that end in no rest state: a limit cycle, chaos, a very slow decay, one of a
        continuum of rest states, an overflow.
    waited_s : float
        The least silence that was given to a run that came to no rest.
    n_starts : int
        Random initial states, uniform in -1 to 1.
    controls : dict of str to float
    sample_rate : float
        Hz.
    rate_assumed : bool
        Whether nobody stated it.
    frequency_hz : float
        Where gains are taken.
    channel : int or None
        The input that is played on, None for all of them at once.
    """

    rest_states: tuple[RestState, ...]
    power_on: str
    transitions: tuple[Transition, ...]
    trials: tuple[Transition, ...]
    unique: str
    no_rest: float
    waited_s: float
    n_starts: int
    controls: dict[str, float]
    sample_rate: float
    rate_assumed: bool
    frequency_hz: float
    channel: int | None

    def __getitem__(self, name: str) -> RestState:
        """A rest state by its name."""
        return {rest.name: rest for rest in self.rest_states}[name]

    def others(self, transition: Transition) -> tuple[Transition, ...]:
        """Of every other kind of stimulus the trial of the lowest level that leads the same way."""
        found: dict[str, Transition] = {}
        for trial in sorted(self.trials, key=lambda trial: abs(trial.level)):
            if (trial.start, trial.end) == (transition.start, transition.end):
                found.setdefault(trial.stimulus, trial)
        found.pop(transition.stimulus, None)
        return tuple(found.values())

    @property
    def unreached(self) -> tuple[str, ...]:
        """Rest states in which neither power-on nor any stimulus from elsewhere ended."""
        reached = {self.power_on} | {t.end for t in (*self.trials, *self.transitions) if t.start != t.end}
        return tuple(rest.name for rest in self.rest_states if rest.name not in reached)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is not finite."""
        return {
            **plain(self),
            "rest_states": [rest.as_dict() for rest in self.rest_states],
            "transitions": [
                {**flip.as_dict(), "others": [other.as_dict() for other in self.others(flip)]}
                for flip in self.transitions
            ],
            "trials": [trial.as_dict() for trial in self.trials],
            "unreached": list(self.unreached),
        }

    def __str__(self) -> str:
        return "\n".join(_sentences(self))


@dataclass(frozen=True)
class RestSweep:
    """Rest states over the range of a control.

    Attributes
    ----------
    control : str
    values : ndarray, shape (n,)
        Ascending.
    rest_states : tuple of n tuples of RestState
    boundaries : ndarray, shape (m,)
        Values at which their number changes.
    counts : ndarray, shape (m, 2)
        Their number just below and just above each boundary.
    frequency_hz : float
        Where gains are taken.
    """

    control: str
    values: Real
    rest_states: tuple[tuple[RestState, ...], ...]
    boundaries: Real
    counts: Integer
    frequency_hz: float

    @property
    def n_rest(self) -> Integer:
        """How many rest states were found at each value, shape (n,)."""
        return np.array([len(found) for found in self.rest_states], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = [[rest.as_dict() for rest in rests] for rests in self.rest_states]
        return {**plain(self), "rest_states": found, "n_rest": self.n_rest.tolist()}

    def __str__(self) -> str:
        edges = [self.values[0], *self.boundaries, self.values[-1]]
        numbers = [*self.counts[:, 0].tolist(), len(self.rest_states[-1])]
        lines = [
            f"{self.control} from {low:.4g} to {high:.4g}: {_rest_states(n)}"
            for low, high, n in zip(edges[:-1], edges[1:], numbers, strict=True)
        ]
        return "\n".join(lines)


def probe_rest_states(
    filt: Filter,
    *,
    controls: Controls | None = None,
    n_starts: int = 200,
    seed: int | np.random.Generator = 0,
    sample_rate: float | None = None,
    levels: ArrayLike = LEVELS,
    durations_s: ArrayLike = (0.2,),
    frequencies_hz: ArrayLike | None = None,
    gain_hz: float = 1000.0,
    channel: int | None = None,
    settle_s: float = 10.0,
) -> RestProbe:
    r"""Search the rest states of a filter, x = F(x, 0), and the sounds that throw it from one into another.

    A filter that has several answers the same guitar in several ways, and stays so until something throws it back. They
    are looked for in four ways: silence from power-on, silence from random initial states, silence after stimuli, and
    stimuli in each rest state found so.

    Parameters
    ----------
    filt : Filter
    controls : mapping of str to float, optional
        Where the knobs stand.
    n_starts : int
        Random initial states, each number uniform in -1 to 1.
    seed : int or Generator
        For these, and for the noise.
    sample_rate : float, optional
        Hz; the filter's own when absent, and 44100 where it has none: then the result says so.
    levels : array of float
        Peak levels of the stimuli, above 0. A DC and a click are tried with both signs.
    durations_s : array of float
        Of DC, sines and noise.
    frequencies_hz : array of float, optional
        Of the sines; 110, 440, 1000 and 4000 Hz when absent, as far as they are below half the sample rate.
    gain_hz : float
        Where the gain of each rest state is taken.
    channel : int, optional
        The input to play on; all of them at once when absent.
    settle_s : float
        The longest silence after which a run counts as coming to no rest; less where many do, see ``waited_s``.

    Returns
    -------
    RestProbe

    Raises
    ------
    ParameterError
        Arguments out of range; a filter that works in frames, whose state never stands still.

    Notes
    -----
    All stimuli run as voices at once. After every 2048 frames of silence a voice is done when one Newton step from its
    state ends within 1e-4 of a rest state that attracts, and the voice came nearer: a long linear tail, as a reverb's,
    is not waited for. Rest states come from Newton's method started near voices that have nearly stopped. A voice gets
    3 s of silence on average, and ``settle_s`` where it is among the last, so that a filter that never rests costs
    seconds.

    None of it proves that there is no other rest state, nor that no other sound reaches one. Where the parts of the
    filter prove that all runs meet, nothing is played; neither is it for linear filters, whose poles say all.

    The gentlest stimulus of a pair is refined in four rounds of seven levels each, from the lowest stated level that
    does it. Levels at which it happens need not be one interval: lower ones may do it too.
    """
    setup = _setup(filt, controls, sample_rate, gain_hz, channel, settle_s)
    rng = generator(seed)
    n_starts = _n_starts(n_starts)
    wanted = np.unique(_positive("levels", levels))
    stimuli = _stimuli(setup.rate, _positive("durations_s", durations_s), frequencies_hz, rng)
    if len(stimuli) * wanted.size > MAX_VOICES:
        raise ParameterError(
            f"{len(stimuli)} stimuli at {wanted.size} levels are more than {MAX_VOICES}: leave some out"
        )
    search = _Search(filt, setup)
    why = filt._contraction() or ""
    is_open = not (why or filt.is_linear)
    n_starts = n_starts if is_open else 0
    ends = search.random(n_starts, rng)
    runs = _play_all(search, stimuli, wanted) if is_open else []
    gentlest = _gentlest(search, runs, stimuli)
    rests, names = search.results(ends, bool(why) or (filt.is_linear and search.known[0].attracts))
    moves = [run.named(stimuli, names, setup.rate) for run in gentlest]
    return RestProbe(
        rests,
        names[search.power_on],
        tuple(sorted(moves, key=lambda move: (move.start != POWER_ON, move.start, move.end))),
        tuple(run.named(stimuli, names, setup.rate) for run in runs),
        why,
        float(np.mean(ends < 0)) if n_starts else 0.0,
        min(search.waited, round(setup.settle_s * setup.rate)) / setup.rate,
        n_starts,
        setup.controls,
        setup.rate,
        setup.rate_assumed,
        setup.gain_hz,
        setup.channel,
    )


def sweep_rest_states(
    filt: Filter,
    control: str,
    values: ArrayLike | int = 21,
    *,
    controls: Controls | None = None,
    n_starts: int = 32,
    seed: int | np.random.Generator = 0,
    sample_rate: float | None = None,
    gain_hz: float = 1000.0,
    channel: int | None = None,
    settle_s: float = 10.0,
) -> RestSweep:
    """Rest states at each value of a control, and the values at which their number changes.

    Parameters
    ----------
    filt : Filter
    control : str
        Name of the knob to turn.
    values : array of float, or int
        Where to look; an int for so many over the range of the control.
    controls : mapping of str to float, optional
        Where the other knobs stand.
    n_starts, seed, sample_rate, gain_hz, channel, settle_s
        As in :func:`probe_rest_states`.

    Returns
    -------
    RestSweep

    Raises
    ------
    ParameterError
        A control that the filter does not have, values out of its range, fewer than two of them; and as in
        :func:`probe_rest_states`.

    Notes
    -----
    At each value the filter starts from power-on, from random states, and from the rest states of the values beside it,
    so that none is lost that only few random states find. Where their number differs between two values, the interval
    is halved until it is a thousandth of the range. What comes and goes between two values is not seen.
    """
    knobs = {knob.name: knob for knob in filt.controls}
    if control not in knobs:
        raise ParameterError(f"{control=} is no control of this filter; it has {sorted(knobs) or 'none'}")
    knob = knobs[control]
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        if not np.isfinite([knob.low, knob.high]).all():
            raise ParameterError(f"{values=}: {control} has no finite range; give the values to look at")
        grid = np.linspace(knob.low, knob.high, whole_number("values", values, least=2))
    else:
        grid = np.unique(knob.check(values))
    if grid.size < 2:
        raise ParameterError(f"{values=}: give two values of {control} at least")
    n_starts = _n_starts(n_starts)
    generator(seed)  # refuses what is none

    def at(value: float, beside: Sequence[_Search]) -> _Search:
        """All rest states at a value of the control, from those at other values."""
        held = {**(controls or {}), control: value}
        search = _Search(filt, _setup(filt, held, sample_rate, gain_hz, channel, settle_s))
        for other in beside:
            search.settle(other.points)
        return search

    found: list[_Search] = []
    drawn: list[Integer] = []
    for value in grid:
        found.append(at(float(value), found[-1:]))
        drawn.append(found[-1].random(n_starts, generator(seed)))
    for search, above in zip(found[-2::-1], found[:0:-1], strict=True):
        search.settle(above.points)

    edges: list[tuple[float, int, int]] = []
    least = WIDTH * float(np.ptp(grid))

    def halve(low: float, below: _Search, high: float, above: _Search) -> None:
        counts = len(below.listed), len(above.listed)
        if counts[0] == counts[1]:
            return
        if high - low <= least:
            edges.append(((low + high) / 2, *counts))
            return
        middle = (low + high) / 2
        between = at(middle, (below, above))
        halve(low, below, middle, between)
        halve(middle, between, high, above)

    for k in range(grid.size - 1):
        halve(float(grid[k]), found[k], float(grid[k + 1]), found[k + 1])
    return RestSweep(
        control,
        grid,
        tuple(search.results(ends, filt.is_linear)[0] for search, ends in zip(found, drawn, strict=True)),
        np.array([edge[0] for edge in edges]),
        np.array([edge[1:] for edge in edges], np.int64).reshape(-1, 2),
        found[0].setup.gain_hz,
    )


# ---- arguments


class _Setup(NamedTuple):
    controls: dict[str, float]
    rate: float
    rate_assumed: bool
    gain_hz: float
    channel: int | None
    settle_s: float


def _setup(
    filt: Filter,
    controls: Controls | None,
    sample_rate: float | None,
    gain_hz: float,
    channel: int | None,
    settle_s: float,
) -> _Setup:
    if filt.period > 1:
        raise ParameterError(
            f"{type(filt).__name__} works in frames of {filt.period} samples: its state never stands still; probe the "
            "filter inside"
        )
    held = {}
    given = dict(controls or {})
    for knob in filt.controls:
        value = knob.check(given.pop(knob.name, knob.default))
        if value.ndim or not np.isfinite(value):
            raise ParameterError(f"control {knob.name}={value!r}: the probe holds it still, at one finite number")
        held[knob.name] = float(value)
    if given:
        raise ParameterError(f"unknown controls {sorted(given)}; this filter has {sorted(held) or 'none'}")
    filt.check_rate(sample_rate)
    rate = float(filt.sample_rate or sample_rate or ASSUMED_RATE)
    if not 0 <= number("gain_hz", gain_hz) <= rate / 2:
        raise ParameterError(f"{gain_hz=} must lie within 0 and half the sample rate, {rate / 2:g} Hz")
    if channel is not None and whole_number("channel", channel, least=0) >= filt.n_inputs:
        raise ParameterError(f"{channel=}: the filter has {filt.n_inputs} inputs, counted from 0; None plays on all")
    if number("settle_s", settle_s) <= 0:
        raise ParameterError(f"{settle_s=} must be above 0")
    assumed = filt.sample_rate is None and sample_rate is None
    return _Setup(held, rate, assumed, float(gain_hz), None if channel is None else int(channel), float(settle_s))


def _n_starts(n_starts: int) -> int:
    if whole_number("n_starts", n_starts, least=0) > MAX_VOICES:
        raise ParameterError(f"{n_starts=} must be at most {MAX_VOICES}")
    return int(n_starts)


def _positive(name: str, values: ArrayLike) -> Real:
    try:
        array = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or not array.size or not np.all((array > 0) & (array < np.inf)):
        raise ParameterError(f"{name}={values!r} must be numbers above 0, one at least")
    return array


# ---- stimuli


class _Stimulus(NamedTuple):
    name: str
    sign: int
    frequency_hz: float | None
    wave: Real


def _stimuli(
    rate: float, durations_s: Real, frequencies_hz: ArrayLike | None, rng: np.random.Generator
) -> list[_Stimulus]:
    """All of peak 1 at most; the click first."""
    given = FREQUENCIES_HZ if frequencies_hz is None else frequencies_hz
    tones = _positive("frequencies_hz", given)
    if frequencies_hz is None:
        tones = tones[tones < rate / 2]
    if not np.all(tones < rate / 2):
        raise ParameterError(f"{frequencies_hz=} must lie below half the sample rate, {rate / 2:g} Hz")
    total = float(np.sum(durations_s)) * rate * (3 + tones.size)
    if total > MAX_STIMULUS:
        raise ParameterError(f"{durations_s=}: the stimuli would have {total:.3g} samples, more than {MAX_STIMULUS}")
    made = [_Stimulus("click", sign, None, np.array([sign], np.float64)) for sign in (1, -1)]
    for duration in durations_s:
        n_frames = max(1, round(duration * rate))
        made += [_Stimulus("DC", sign, None, np.full(n_frames, float(sign))) for sign in (1, -1)]
        t = np.arange(n_frames) / rate
        made += [_Stimulus("sine", 1, float(f), np.sin(2 * np.pi * f * t)) for f in tones]
        made.append(_Stimulus("noise", 1, None, rng.uniform(-1, 1, n_frames)))
    return made


class _Run(NamedTuple):
    """A trial: places in the lists of rest states and of stimuli; a start below zero is power-on."""

    start: int
    stimulus: int
    level: float
    end: int

    def named(self, stimuli: Sequence[_Stimulus], names: Mapping[int, str], rate: float) -> Transition:
        kind = stimuli[self.stimulus]
        start = POWER_ON if self.start < 0 else names[self.start]
        return Transition(
            start,
            kind.name,
            kind.sign * self.level,
            kind.frequency_hz,
            kind.wave.size / rate,
            names[self.end],
        )


# ---- the search


class _Known(NamedTuple):
    """A rest state: its flat vector, its small-signal filter, and its largest pole, which may be unknown."""

    x: Real
    linear: DelayStateSpace
    pole: complex
    attracts: bool
    repels: bool


# Ends that are no place in a list of rest states; as a start, the first stands for power-on.
NOWHERE, STANDING, OVERFLOWN = -1, -2, -3
NAMES = {NOWHERE: NO_REST, STANDING: ADRIFT, OVERFLOWN: BLOWN_UP}


class _Search:
    """The rest states known so far, and voices that run until they come to one: states are flat vectors here."""

    def __init__(self, filt: Filter, setup: _Setup) -> None:
        self.filt, self.setup = filt, setup
        self.known: list[_Known] = []
        self.home: set[int] = set()  # those in which a voice has ended
        self.longest = round(setup.settle_s * setup.rate)
        self.waited = self.longest
        n_channels = filt.n_inputs + len(filt.controls) + filt.n_outputs
        self.together = max(1, BUFFER // max(filt.n_states, CHUNK * n_channels))
        self.initial = filt.rest_state((1,)).ravel()
        # lines may ring for long behind a cell that has come to rest
        delays = filt.linearize(controls=setup.controls).delays
        lengths = np.repeat(delays, delays)
        self.units = np.flatnonzero(lengths == min(lengths, default=1))
        if filt.is_linear:
            self.power_on = self.add(np.zeros(filt.n_states))
            self.home.add(self.power_on)
        else:
            self.power_on = int(self.settle(self.initial)[0])

    @property
    def points(self) -> Real:
        """All known rest states, shape (n, n_states)."""
        return np.array([rest.x for rest in self.known]).reshape(-1, self.filt.n_states)

    @property
    def listed(self) -> list[int]:
        """Those that count: found by Newton's method alone, one that repels is no end of anything."""
        return [k for k, rest in enumerate(self.known) if not rest.repels or k in self.home]

    def add(self, x: Real) -> int:
        """Note a rest state; gives its place."""
        linear = self.filt.linearize(self.filt.rest_state().unravel(x), controls=self.setup.controls)
        pole = largest_pole(np.asarray(linear.A, np.float64), linear.delays)
        attracts = abs(pole) < 1 or (np.isnan(pole) and decay_certificate(linear.A, linear.delays) is not None)
        self.known.append(_Known(x, linear, pole, attracts, abs(pole) >= 1))
        return len(self.known) - 1

    def random(self, n_starts: int, rng: np.random.Generator) -> Integer:
        """Where random initial states end; in the one rest state of a linear filter that is drawn to it."""
        if self.filt.is_linear:
            return np.full(n_starts, 0 if self.known[0].attracts else NOWHERE)
        sizes = [min(self.together, n_starts - k) for k in range(0, n_starts, self.together)]
        ends = [self.settle(rng.uniform(-1, 1, (size, self.filt.n_states))) for size in sizes]
        return np.concatenate([np.empty(0, np.int64), *ends])

    def play(self, x: Real, waves: Sequence[Real], levels: Sequence[float]) -> Integer:
        """Where the voices end that start at ``x``, hear a wave at a level each, and then silence."""
        channels = np.zeros(self.filt.n_inputs)
        channels[slice(None) if self.setup.channel is None else self.setup.channel] = 1
        for start in range(0, max(wave.size for wave in waves), CHUNK):
            parts = [wave[start : start + CHUNK] for wave in waves]
            u = np.zeros((len(x), max(part.size for part in parts)))
            for row, part, level in zip(u, parts, levels, strict=True):
                row[: part.size] = level * part
            x = self.run(x, u[..., None] * channels)
        return self.settle(x)

    def run(self, x: Real, u: Real) -> Real:
        """States of voices after the input ``u``, shape (n_voices, n_frames, n_inputs)."""
        state = self.filt.rest_state((len(x),)).unravel(x)
        move(self.filt, state, u, self.setup.controls)
        return state.ravel()

    def settle(self, x: Real) -> Integer:
        """Give silence to all voices, until each is at home in a rest state: its place, or below zero for none."""
        ends = np.full(len(x), NOWHERE)
        active = np.arange(len(x))
        tried = np.full(len(x), np.inf)
        budget = max(MEAN_S * len(x), LAST_S) * self.setup.rate
        played = 0
        while active.size and played < self.longest and budget > 0:
            silence = np.zeros((len(x), CHUNK, self.filt.n_inputs))
            before, x = x, self.run(x, silence)
            played, budget = played + CHUNK, budget - CHUNK * active.size
            finite = np.isfinite(x).all(axis=1)
            ends[active[~finite]] = OVERFLOWN
            active, before, x, tried = active[finite], before[finite], x[finite], tried[finite]
            after = self.run(x, silence[finite, :1])
            with np.errstate(over="ignore"):
                speed = np.max(np.abs(after - x)[:, self.units], axis=1, initial=0)
            slow = speed < SLOW * (1 + np.max(np.abs(x), axis=1, initial=0))
            place = self._places(before, x, after)
            # near a voice that has nearly stopped where none is known there may be another rest state
            for _ in range(MAX_FROM):
                candidates = np.flatnonzero((place < 0) & slow & (speed < tried / 2))
                if not candidates.size:
                    break
                nearest = candidates[np.argmin(speed[candidates])]
                tried[nearest] = speed[nearest]
                if self._discover(x[nearest]):
                    place = self._places(before, x, after)
            place[(place < 0) & np.all(before == x, axis=1)] = STANDING
            ends[active] = place
            self.home.update(place[place >= 0].tolist())
            lost = place == NOWHERE
            active, x, tried = active[lost], x[lost], tried[lost]
        if active.size:
            self.waited = min(self.waited, played)
        return ends

    def _places(self, before: Real, x: Real, after: Real) -> Integer:
        """For each voice the rest state to which one Newton step leads and to which it came nearer, or below zero."""
        place = np.full(len(x), NOWHERE)
        still = np.all(before == x, axis=1)
        best = np.full(len(x), LANDED)
        for k, rest in enumerate(self.known):
            delays = rest.linear.delays
            newest = np.cumsum(delays) - 1
            with np.errstate(all="ignore"):
                # a line is one unknown, as in polish, but linearised about what comes out of it
                residual = after[:, newest] - x[:, newest - delays + 1] @ rest.linear.A.T
                landing = np.linalg.solve(np.eye(delays.size) - rest.linear.A, residual.T).T
                error = np.max(np.abs(landing - rest.x[newest]), axis=1, initial=0)
                far = np.max(np.abs(x - rest.x), axis=1, initial=0)
                nearer = (far < np.max(np.abs(before - rest.x), axis=1, initial=0)) | (far < SAME)
            home = (error < best) & (still & (far < SAME) if rest.repels else nearer)
            place[home], best[home] = k, error[home]
        return place

    def _discover(self, x: Real) -> bool:
        """Newton's method from a state; whether it led to a new rest state."""
        if len(self.known) >= MAX_REST:
            return False
        with np.errstate(all="ignore"):
            fixed = polish(self.filt, self.filt.rest_state().unravel(x), controls=self.setup.controls)
        if fixed is None:
            return False
        point = fixed.ravel()
        if any(same(point, rest.x) for rest in self.known):
            return False
        self.add(point)
        return True

    def results(self, ends: Integer, everywhere: bool) -> tuple[tuple[RestState, ...], dict[int, str]]:
        """The rest states, in order and named, and the name of each place.

        ``ends`` are those of random states; where there are none, ``everywhere`` says whether all would be the same.
        """
        share = {k: float(np.mean(ends == k)) if ends.size else 1.0 if everywhere else np.nan for k in self.listed}
        order = sorted(self.listed, key=lambda k: (k != self.power_on, -share[k]))
        names = dict(NAMES)
        rests = []
        w = 2 * np.pi * self.setup.gain_hz / self.setup.rate
        for place, k in enumerate(order):
            known, names[k] = self.known[k], _letter(place)
            state = self.filt.rest_state().unravel(known.x)
            silence = np.zeros((1, self.filt.n_inputs))
            try:
                h = known.linear.frequency_response(w)[0]
            except np.linalg.LinAlgError:  # a pole stands right there
                h = np.full((self.filt.n_outputs, self.filt.n_inputs), np.inf)
            heard = h.sum(axis=1) if self.setup.channel is None else h[:, self.setup.channel]
            radius = abs(known.pole)
            rests.append(
                RestState(
                    names[k],
                    state,
                    self.filt.run(silence, state, controls=self.setup.controls)[0][0],
                    _db(heard),
                    known.pole,
                    t60_s(radius, self.setup.rate) if np.isfinite(radius) else np.nan,
                    known.attracts,
                    share[k],
                    k == self.power_on,
                )
            )
        return tuple(rests), names


def _play_all(search: _Search, stimuli: Sequence[_Stimulus], levels: Real) -> list[_Run]:
    """Every stimulus at every level from power-on and from each rest state, those found on the way included."""
    runs: list[_Run] = []
    done: set[int] = set()
    at_rest = search.power_on >= 0 and same(search.initial[0], search.known[search.power_on].x)
    waiting = [*([] if at_rest else [NOWHERE]), *search.listed]
    while waiting:
        trials = [(s, k, float(level)) for s in waiting for k in range(len(stimuli)) for level in levels]
        runs += _play(search, stimuli, trials)
        done |= set(waiting)
        waiting = [k for k in search.listed if k not in done and len(done) < MAX_FROM]
    return runs


def _play(search: _Search, stimuli: Sequence[_Stimulus], trials: Sequence[tuple[int, int, float]]) -> Iterator[_Run]:
    for first in range(0, len(trials), search.together):
        part = trials[first : first + search.together]
        x = np.concatenate([search.initial if s < 0 else search.known[s].x[None] for s, _, _ in part])
        ends = search.play(x, [stimuli[k].wave for _, k, _ in part], [level for _, _, level in part])
        yield from (_Run(*trial, int(end)) for trial, end in zip(part, ends, strict=True))


def _gentlest(search: _Search, runs: Sequence[_Run], stimuli: Sequence[_Stimulus]) -> list[_Run]:
    """The lowest level found for each pair of a start and an end to which silence alone does not lead."""
    pairs: dict[tuple[int, int], list[_Run]] = {}
    for run in runs:
        if run.end != (search.power_on if run.start < 0 else run.start):
            pairs.setdefault((run.start, run.end), []).append(run)
    # what does it at the lowest level, and below it the highest level tried that does not
    race: dict[tuple[int, int], list[tuple[float, _Run]]] = {}
    for pair, found in pairs.items():
        least = min(run.level for run in found)
        lower = [run.level for run in runs if run.level < least]
        low = max(lower, default=FLOOR * least)
        race[pair] = [(low, run) for run in found if run.level == least]
    for _ in range(ROUNDS):
        between = {
            (pair, i): np.geomspace(low, run.level, POINTS + 2)[1:-1]
            for pair, entries in race.items()
            for i, (low, run) in enumerate(entries)
        }
        if not between:
            break
        trials = [(p[0], race[p][i][1].stimulus, float(v)) for (p, i), levels in between.items() for v in levels]
        ends = _play(search, stimuli, trials)
        for (pair, i), levels in between.items():
            low, best = race[pair][i]
            tried = [next(ends) for _ in levels]
            hit = next((k for k, run in enumerate(tried) if run.end == pair[1]), None)
            if hit is None:
                race[pair][i] = float(levels[-1]), best
            else:
                race[pair][i] = float(levels[hit - 1]) if hit else low, tried[hit]
        for pair, entries in race.items():  # those that cannot win any more
            winner = min(run.level for _, run in entries)
            race[pair] = [(low, run) for low, run in entries if low < winner]
    return [min((run for _, run in entries), key=lambda run: run.level) for entries in race.values()]


# ---- words


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"Z{place - 25}"


def _db(value: ArrayLike) -> Real:
    with np.errstate(divide="ignore"):
        db: Real = 20 * np.log10(np.abs(value))
    return db


def _rest_states(n: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six")
    return f"{words[n] if n < len(words) else n} rest state{'s' * (n != 1)}"


def _sentences(probe: RestProbe) -> Iterator[str]:
    rests = probe.rest_states
    held = ", ".join(f"{name} at {value:g}" for name, value in probe.controls.items())
    what = f"{_rest_states(len(rests))} found at silence."
    yield f"{held}: {what}" if held else what.capitalize()
    never = f"has not come to rest within {in_words(probe.waited_s)}"
    where = {NO_REST: never, ADRIFT: "stands still where nothing pulls it back", BLOWN_UP: "blows up"}
    yield f"Switched on, it {where.get(probe.power_on, f'settles in {probe.power_on}')}."
    for rest in rests[:MAX_FROM]:
        yield _portrait(probe, rest)
    if len(rests) > MAX_FROM:
        yield f"And {len(rests) - MAX_FROM} more."
    if probe.no_rest:
        part = f"{100 * probe.no_rest:.0f} % of {probe.n_starts} random initial states"
        yield f"{part} end in no rest state within {in_words(probe.waited_s)}."
    where = {NO_REST: "keeps it from coming to rest", ADRIFT: "leaves it adrift", BLOWN_UP: "makes it blow up"}
    for flip in probe.transitions:
        begin = "Right after power-on" if flip.start == POWER_ON else f"In {flip.start}"
        others = "; and so does ".join(["", *map(str, probe.others(flip))])
        yield f"{begin}, {flip} {where.get(flip.end, f'leaves it in {flip.end}')}{others}."
    moved = {flip.start for flip in probe.transitions}
    calm = [start for start in dict.fromkeys(trial.start for trial in probe.trials) if start not in moved]
    if calm:
        n = sum(trial.start == calm[0] for trial in probe.trials)
        said = " or ".join("right after power-on" if start == POWER_ON else f"in {start}" for start in calm)
        yield f"None of the {n} stimuli played {said} changes where it ends."
    if probe.unreached:
        yield f"No stimulus tried leads to {' or '.join(probe.unreached)}."
    if probe.unique:
        yield f"There can be no other rest state: {probe.unique}."
    elif probe.trials:
        yield "That there are no others is not proved."
    if probe.rate_assumed:
        yield f"For want of a sample rate, {probe.sample_rate:g} Hz are assumed."


def _portrait(probe: RestProbe, rest: RestState) -> str:
    dc, gain = rest.dc[0], round(rest.gain_db[0], 1) + 0.0
    said = [f"output DC {dc:.3g}" + (f" ({rest.dc_db[0]:.0f} dB)" if dc else "")]
    said.append(f"gain {gain:.1f} dB at {probe.frequency_hz:g} Hz")
    first = probe.rest_states[0]
    if rest is not first and np.isfinite([rest.gain_db[0], first.gain_db[0]]).all():
        apart = rest.gain_db[0] - first.gain_db[0]
        said[-1] += f", {abs(apart):.1f} dB {'louder' if apart > 0 else 'quieter'} than in {first.name}"
    if abs(rest.pole) >= 1:
        said.append("a small disturbance does not fade")
    elif rest.t60_s > 0:
        said.append(f"a small disturbance fades by 60 dB in {in_words(rest.t60_s)}")
    if probe.n_starts:
        said.append(f"{100 * rest.share:.0f} % of {probe.n_starts} random initial states end here")
    return f"{rest.name}{' (output 0)' if rest.dc.size > 1 else ''}: {'; '.join(said)}."

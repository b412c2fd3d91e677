"""What is proved of a nonlinear filter, property by property, by which test, and with how much room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number
from rnndsp._intervals import Interval
from rnndsp.engine import Cell
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate, is_outside
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.enclosures import Enclosure, Place, published_tests
from rnndsp.stability.resting import polish, rest_states, same
from rnndsp.stability.spectrum import in_words, is_affordable, t60_s
from rnndsp.stability.verdicts import (
    BOUNDED,
    CONTRACTION,
    DECAY,
    ISS,
    UNIQUE,
    Boundedness,
    Property,
    Test,
    Verdict,
    below_one,
)
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["Case", "amplitude_of", "certified_level"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

# Amplitudes between which the largest certified one is looked for, and how exactly, in dB.
LOWEST_DB, HIGHEST_DB, STEP_DB = -200.0, 20.0, 0.5
# Random states from which rest states are looked for, beside the initial one.
N_STARTS = 8


def certified_level(filt: Filter, *, state: State | None = None, controls: Controls | None = None) -> float:
    r"""The largest amplitude a for which it is proved that the filter forgets its past while \|u\| <= a.

    Once it has settled on silence: from then on any two inputs within ±a that end alike end in the same state. Within
    half a decibel, 0 where nothing is proved. Beyond, nothing is known; trained amps often get some -60 to -120 dB, as
    the test allows all gates to take their worst values at once.

    Parameters
    ----------
    filt : Filter
    state : State, optional
        The rest state that it has settled in; when absent, the one reached from its initial state.
    controls : mapping of str to float, optional
        Where the knobs stand.

    Raises
    ------
    ParameterError
        A state in which the filter does not rest.
    """
    return Case(filt, controls, state=state).level


class Case:
    """A nonlinear filter, where its controls stand, and how large its input may be.

    What is dear is found when it is asked for, and once.
    """

    def __init__(
        self, filt: Filter, controls: Controls | None, *, input_bound: float = 1.0, state: State | None = None
    ) -> None:
        self.filt, self.controls, self.input_bound = filt, controls, amplitude_of(input_bound)
        silence = np.zeros((1, 1, filt.n_inputs))
        self.frame: Real = np.asarray(filt._extend(silence, controls)[0, 0], np.float64)
        self._state = state

    @cached_property
    def rest(self) -> tuple[State, ...]:
        if self._state is None:
            return rest_states(self.filt, n_starts=N_STARTS, controls=self.controls)
        fixed = polish(self.filt, self._state, controls=self.controls)
        if fixed is None or not same(fixed.ravel(), self._state.ravel()):
            raise ParameterError("state is no rest state on silence: take one that rest_states(filt) found")
        return (fixed,)

    def _inputs(self, amplitude: float) -> Interval:
        n = self.filt.n_inputs
        return Interval(*(np.concatenate([np.full(n, end), self.frame[n:]]) for end in (-amplitude, amplitude)))

    @cached_property
    def enclosure(self) -> Enclosure:
        """From the initial state on."""
        return self.filt._enclosure(Place(self._inputs(self.input_bound)))

    def settled(self, amplitude: float) -> Enclosure:
        """From its rest state on."""
        return self.filt._enclosure(Place(self._inputs(amplitude), (self.frame, self.rest[0])))

    @cached_property
    def level(self) -> float:
        if not self.rest:
            return 0.0
        low, high = LOWEST_DB, HIGHEST_DB + STEP_DB
        while high - low > STEP_DB:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.settled(10 ** (middle / 20)).contraction else (low, middle)
        return 10 ** (low / 20) if low > LOWEST_DB else 0.0

    @cached_property
    def published(self) -> tuple[Test, ...]:
        """Of the literature, for input-to-state stability: where all but one cell contract whatever comes in.

        None in a loop, which need not be stable if its parts are.
        """
        from rnndsp.composition import Feedback

        others = [(part, place) for part, place in self.enclosure.parts if not part._contraction()]
        if len(others) != 1 or _holds(self.filt, Feedback):
            return ()
        ((part, place),) = others
        return published_tests(part, place.u, ISS) if isinstance(part, Cell) else ()

    @property
    def supposed(self) -> str:
        at = [f"|u| <= {self.input_bound:g}", "exact arithmetic"]
        return "; ".join([*at, held(self.filt, self.controls)] if self.filt.controls else at)

    # ---- one property each

    def bounded(self) -> Property:
        kind, y = self.filt._boundedness(), self.enclosure.y
        bound = float(np.max(y.mag))
        if np.isfinite(bound):
            whatever = ", and is bounded whatever comes in" if kind == Boundedness.SATURATING else ""
            said = f"the output stays within ±{bound:.4g} ({20 * np.log10(max(bound, 1e-300)):+.1f} dB){whatever}"
            return Property(BOUNDED, Verdict.PROVED, said, f"from the initial state; {self.supposed}", bound=bound)
        return bounded_row(Boundedness.BOUNDED if self.filt._contraction() and not kind else kind)

    def contraction(self) -> Property:
        always = self.filt._contraction()
        if always:
            return Property(CONTRACTION, Verdict.PROVED, always, "any input")
        refuted = self._refuted(CONTRACTION, "two runs need not meet")
        tests, why = self.enclosure.tests, self.enclosure.contraction
        if refuted:
            return replace(refuted, tests=tests)
        if why:
            return Property(CONTRACTION, Verdict.PROVED, why, f"{self.within}; {self.supposed}", tests=tests)
        if not self.level:
            return Property(CONTRACTION, Verdict.UNKNOWN, "no certificate found", self.supposed, tests=tests)
        inside = self.settled(self.level)
        said = f"it forgets its past while |u| <= {self.level:.2g} ({20 * np.log10(self.level):.0f} dB)"
        said += f": {inside.contraction}"
        supposed = f"once settled at rest; {self.supposed.partition('; ')[2]}"
        return Property(CONTRACTION, Verdict.LOCAL, said, supposed, None, (*tests, *inside.tests), self.level)

    @property
    def within(self) -> str:
        return "from its initial state, and from all states that it can reach from there"

    def input_to_state(self) -> Property:
        known = self.contraction()
        if known.verdict == Verdict.PROVED:
            return replace(known, name=ISS)
        refuted = self._refuted(ISS, "it need not come back")
        tests = self.published
        if refuted:
            return replace(refuted, tests=tests)
        passed = max((t for t in tests if t.passed), key=lambda t: t.margin, default=None)
        if passed:
            said = f"{passed.name}: {below_one(passed.value)} < 1"
            return Property(ISS, Verdict.PROVED, said, f"biases count as inputs; {self.supposed}", tests=tests)
        return replace(known, name=ISS, tests=tests)

    def unique_rest(self) -> Property:
        known = self.contraction()
        if known.verdict == Verdict.PROVED:
            return Property(UNIQUE, Verdict.PROVED, "follows from contraction", known.hypotheses)
        if len(self.rest) > 1:
            return Property(UNIQUE, Verdict.REFUTED, f"{len(self.rest)} rest states found", self.at_rest, self.rest)
        if self.rest and self._only_one():
            said = "interval Newton finds room for no other"
            return Property(UNIQUE, Verdict.PROVED, said, f"{self.within}; {self.supposed}")
        said = f"only one found from {N_STARTS + 1} starts, which is no proof"
        said = said if self.rest else "none found for certain on silence"
        return Property(UNIQUE, Verdict.UNKNOWN, said, self.at_rest)

    @property
    def at_rest(self) -> str:
        return "silence" + (f"; {held(self.filt, self.controls)}" if self.filt.controls else "")

    def _only_one(self) -> bool:
        """Whether each part has one rest state only: what feeds it then stands still at a known value."""
        from rnndsp.composition import Feedback
        from rnndsp.stability._boxes import reach
        from rnndsp.stability._uniqueness import only_rest

        if _holds(self.filt, Feedback):
            return False
        places = zip(self.enclosure.parts, self.settled(0.0).parts, strict=True)
        for (part, place), (_, still) in places:
            if isinstance(part, Cell) and not part._contraction():
                assert still.rest is not None
                frame, state = still.rest
                try:
                    with np.errstate(all="ignore"):
                        found = reach(part, place.u)
                        if found is None or not only_rest(part, found[0], frame, state.ravel()):
                            return False
                except (TypeError, ValueError, AttributeError):
                    return False
            elif not part._contraction() and part.n_states:
                return False
        return True

    def _refuted(self, name: str, so: str) -> Property | None:
        """By several rest states, or one that repels."""
        if len(self.rest) > 1:
            said = f"{len(self.rest)} rest states found: {so}"
            return Property(name, Verdict.REFUTED, said, self.at_rest, self.rest[:2])
        if self.repels:
            said = f"the rest state repels: spectral radius {self.radius:.6g} there"
            return Property(name, Verdict.REFUTED, said, self.at_rest, self.rest[0])
        return None

    # ---- small signals at rest

    @cached_property
    def linear(self) -> DelayStateSpace:
        return self.filt.linearize(self.rest[0] if self.rest else None, controls=self.controls)

    @cached_property
    def _poles(self) -> tuple[NDArray[np.complex128], str]:
        return found_poles(np.asarray(self.linear.A, np.float64), self.linear.delays)

    @property
    def poles(self) -> NDArray[np.complex128]:
        return self._poles[0]

    @property
    def radius(self) -> float:
        return float(np.max(np.abs(self.poles), initial=0))

    @cached_property
    def smooth(self) -> bool:
        return bool(self.rest) and _is_smooth(self.filt, self.rest[0], self.linear, self.controls)

    @cached_property
    def repels(self) -> bool:
        if not (self.poles.size and self.smooth):
            return False
        worst = self.poles[np.argmax(np.abs(self.poles))]
        return is_outside(np.asarray(self.linear.A, np.float64), self.linear.delays, worst)

    def decay(self) -> Property:
        missing, said = self._poles[1], decay_in_words(self.radius, self.filt.sample_rate)
        A, m = np.asarray(self.linear.A, np.float64), self.linear.delays
        if not self.rest:
            return Property(DECAY, Verdict.UNKNOWN, "no rest state found for certain", self.at_rest)
        if not self.smooth:
            said = "at rest it stands on a kink: no one slope says how it decays"
            return Property(DECAY, Verdict.UNKNOWN, said, self.at_rest)
        if self.repels:
            return Property(DECAY, Verdict.REFUTED, f"near rest it grows {said}", self.at_rest, self.rest[0])
        if not missing and decay_certificate(A, m) is not None:
            return Property(DECAY, Verdict.LOCAL, f"near rest {said}", self.at_rest)
        said = missing or f"near rest {said}, as computed: rounding may have moved the poles"
        return Property(DECAY, Verdict.UNKNOWN, said, self.at_rest)

    def proves(self, name: str) -> bool:
        """Whether the property is proved, no more being looked for than that takes."""
        contracts = bool(self.filt._contraction() or self.enclosure.contraction)
        if contracts or name == CONTRACTION:
            return contracts and len(self.rest) < 2
        return self.row(name).verdict == Verdict.PROVED

    def row(self, name: str) -> Property:
        """The verdict on the property of that name."""
        rows = {
            BOUNDED: self.bounded,
            ISS: self.input_to_state,
            CONTRACTION: self.contraction,
            UNIQUE: self.unique_rest,
            DECAY: self.decay,
        }
        return rows[name]()


def amplitude_of(input_bound: float) -> float:
    """A bound of inputs, checked."""
    if number("input_bound", input_bound) < 0:
        raise ParameterError(f"{input_bound=} must be a finite number of at least 0")
    return float(input_bound)


def _holds(filt: Filter, kind: type[Filter]) -> bool:
    return isinstance(filt, kind) or any(_holds(child, kind) for child in filt.children)


def decay_in_words(radius: float, sample_rate: float | None) -> str:
    rate = f", 60 dB in {in_words(t60_s(radius, sample_rate))}" if sample_rate and 0 < radius < 1 else ""
    return f"by a factor {radius:.8g} a sample{rate}"


def found_poles(A: NDArray[np.float64], m: NDArray[np.int64]) -> tuple[NDArray[np.complex128], str]:
    """The poles, or none and why not."""
    if not is_affordable(A, m):
        return np.zeros(0, np.complex128), f"the poles of {m.sum()} states are not searched unasked: see filt.poles()"
    try:
        return delay_poles(A, m), ""
    except RnndspError as error:  # an ill-conditioned loop
        return np.zeros(0, np.complex128), f"the poles were not found: {error}"


def _is_smooth(filt: Filter, rest: State, linear: DelayStateSpace, controls: Controls | None) -> bool:
    """Whether the slopes a little beside a rest state are those at it, as they are not on the kink of a ReLU."""
    rng = np.random.default_rng(0)
    x = rest.ravel()
    for _ in range(4):
        state = rest.unravel(x + 1e-7 * rng.uniform(-1, 1, x.shape))
        beside = filt.linearize(state, 1e-7 * rng.uniform(-1, 1, filt.n_inputs), controls=controls)
        for name in "ABCD":
            here, there = linear.params[name], beside.params[name]
            if np.max(np.abs(here - there), initial=0) > 1e-3 * (1 + np.max(np.abs(here), initial=0)):
                return False
    return True


def bounded_row(kind: Boundedness) -> Property:
    """Of parts that are bounded for whatever reason."""
    if kind == Boundedness.SATURATING:
        said = "the nonlinearity saturates, so the output is bounded whatever comes in"
        return Property(BOUNDED, Verdict.PROVED, said, "started from rest")
    if kind == Boundedness.BOUNDED:
        return Property(BOUNDED, Verdict.PROVED, "every part is bounded for bounded inputs", "a bounded input")
    return Property(BOUNDED, Verdict.UNKNOWN, "no bound is known for these parts")


def held(filt: Filter, controls: Controls | None) -> str:
    """Where the controls stand."""
    return "controls at " + ", ".join(f"{c.name}={(controls or {}).get(c.name, c.default)}" for c in filt.controls)

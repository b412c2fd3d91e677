"""What is found out about a filter: each thing once, when it is asked for, for the page and for the JSON alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import rnndsp
from rnndsp import distortion, stability
from rnndsp._json import plain
from rnndsp._threads import one_thread
from rnndsp.composition import Feedback
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.notebook import make_up
from rnndsp.response import energy_decay_db, impulse_response
from rnndsp.stability import Property, RestProbe, RestSweep, StabilityReport, Verdict
from rnndsp.stability.probing import ASSUMED_RATE
from rnndsp.stability.spectrum import MARGIN, is_affordable, t60_s
from rnndsp.stability.verdicts import CONTRACTION, ISS, UNIQUE
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["FAILURES", "Findings", "SmallSignal", "checked", "one_thread"]

Controls = Mapping[str, float]
Real = NDArray[np.float64]
T = TypeVar("T")

# What keeps one part from being found, and must not keep the others: also numbers beyond floats, met within NumPy.
FAILURES = (RnndspError, ArithmeticError, ValueError)

# The most states for what takes a dense matrix of them at every point, and for what takes one a few times.
FEW, SOME = 300, 2000
# Frames of the signal along which small differences are followed, and what is played where none is given.
ALONG, NOISE = 8192, "white noise with peaks at -12 dB"
NOISE_LEVEL = 10 ** (-12 / 20)
# Levels and pitch of the sines that measure distortion; the one level that stands for all of them.
SINE_DB, SINE_HZ, STATED_DB = np.arange(-60.0, 1.0, 6.0), 1000.0, -12.0
ALIASING_HZ = 100 * 2.0 ** np.arange(0, 8)
N_EXPONENTS = 8
# Frames of the longest click that is waited for.
LONGEST = 2**22
# Poles that JSON lists, the largest first.
N_POLES = 200
MAX_LAG = 2000
# Powers of a matrix times its entries.
GROWTH_WORK = 5e5


def part(compute: Callable[[Findings], T]) -> cached_property[T | None]:
    """One thing to find out: what makes that impossible is kept as a sentence, and the rest goes on."""

    def found(self: Findings) -> T | None:
        try:
            # an unstable filter overflows, which is a finding and no accident
            with np.errstate(all="ignore"), one_thread():
                return compute(self)
        except FAILURES as error:
            self.missing[compute.__name__] = str(error)
            return None

    return cached_property(found)


def checked(filt: Filter, controls: Controls | None) -> dict[str, float]:
    """Where the controls stand, all of them; raises for an unknown one or one beyond its range."""
    known = {control.name: control for control in filt.controls}
    unknown = sorted(set(controls or {}) - set(known))
    if unknown:
        raise ParameterError(f"unknown controls {unknown}; this filter has {list(known)}")
    for name, value in (controls or {}).items():
        known[name].check(value)
    return {name: float((controls or {}).get(name, control.default)) for name, control in known.items()}


@dataclass(frozen=True)
class SmallSignal:
    """Norms of a linear filter, or of the small-signal filter at rest; infinite where it does not decay."""

    h2: float
    peak_gain: float
    peak_frequency: float
    headroom_db: float


class Findings:
    """A filter, where its knobs stand, and what is found out about it there.

    A part that could not be found is None, and ``missing`` says why, by the name of the part.
    """

    def __init__(
        self,
        filt: Filter,
        *,
        name: str | None = None,
        controls: Controls | None = None,
        signal: Real | None = None,
        sweep: Sequence[str] = (),
    ) -> None:
        self.filt, self.signal = filt, signal
        self.name = name or make_up(filt)
        self.controls = checked(filt, controls)
        checked(filt, {knob: self.controls.get(knob, 0.0) for knob in sweep})
        self.swept = tuple(sweep)
        self.rate = filt.sample_rate or ASSUMED_RATE
        self.missing: dict[str, str] = {}

    # ---- at rest

    @part
    def probe(self) -> RestProbe:
        return stability.probe_rest_states(self.filt, controls=self.controls)

    @part
    def verdicts(self) -> StabilityReport:
        report = self.filt.stability(controls=self.controls)
        rests = self.probe.rest_states if self.probe else ()
        if len(rests) <= max(len(report.rest_states), 1):
            return report
        # sounds have led to more rest states than silence did, and what follows from that is not left out
        states = tuple(rest.state for rest in rests)
        rows = tuple(_refuted(row, states) if row.name in (CONTRACTION, ISS, UNIQUE) else row for row in report)
        return StabilityReport(rows, states, report.poles)

    @property
    def rest(self) -> State | None:
        if self.verdicts and self.verdicts.rest_states:
            return self.verdicts.rest_states[0]
        return self.probe.rest_states[0].state if self.probe and self.probe.rest_states else None

    # ---- small signals about rest

    @part
    def linear(self) -> DelayStateSpace:
        return self.filt.linearize(self.rest, controls=self.controls)

    @part
    def poles(self) -> NDArray[np.complex128]:
        if self.linear is None:
            raise ParameterError(self.missing["linear"])
        if self.verdicts and self.verdicts.poles.size == self.linear.n_states:
            return self.verdicts.poles
        if not is_affordable(np.asarray(self.linear.A, np.float64), self.linear.delays):
            raise ParameterError(f"the poles would take too long with {self.linear.n_states:,} states")
        return stability.poles(self.linear)

    @cached_property
    def radius(self) -> float:
        """Of the slowest pole; where they are too many to find, of a pole that rings as long as a click does."""
        if self.poles is not None:
            return float(np.max(np.abs(self.poles), initial=0))
        return float(10 ** (-3 / self.ring)) if self.ring else 0.0

    @part
    def ring(self) -> float | None:
        """Frames in which a click fades by 60 dB, where the poles are not known but all decays by proof."""
        if self.linear is None or not self.verdicts or self.verdicts[CONTRACTION].verdict != Verdict.PROVED:
            return None
        n_frames = 2 * self.linear.n_states
        while n_frames <= LONGEST:
            h = impulse_response(self.filt, n_frames, controls=self.controls)
            left_db = energy_decay_db(h[:, 0])
            if left_db[n_frames // 2] < -90:  # late, when only what rings longest is left
                return 2.0 * float(np.argmax(left_db < -90) - np.argmax(left_db < -60))
            n_frames *= 2
        return None

    @property
    def slowest(self) -> NDArray[np.complex128] | None:
        """The poles, or one that stands for them."""
        return self.poles if self.poles is not None or not self.ring else np.array([self.radius], np.complex128)

    @property
    def fades(self) -> bool:
        return self.slowest is not None and self.radius < 1 - MARGIN

    @part
    def norms(self) -> SmallSignal | None:
        if self.linear is None:
            return None
        peak = stability.peak_gain(self.linear)
        h2, headroom = stability.norm(self.linear, p=2), stability.headroom_db(self.linear)
        return SmallSignal(h2, peak.gain, peak.frequency, headroom)

    @part
    def hidden(self) -> stability.HiddenModes | None:
        self._at_most(SOME, "hidden modes")
        return None if self.linear is None else stability.hidden_modes(self.linear)

    @part
    def zeros(self) -> NDArray[np.complex128] | None:
        self._at_most(SOME, "the zeros")
        return None if self.linear is None else stability.zeros(self.linear)

    @part
    def growth(self) -> stability.TransientGrowth | None:
        self._at_most(FEW, "the powers of its matrix")
        if self.linear is None or not self.linear.n_states:
            return None
        ring = t60_s(self.radius, 1.0) if 0 < self.radius < 1 - MARGIN else 200.0
        n_steps = int(np.clip(ring, 50, max(GROWTH_WORK / self.linear.n_states**2, 50)))
        return stability.transient_growth(self.linear, n_steps=min(n_steps, 2000))

    @part
    def loop(self) -> tuple[stability.Nyquist, stability.Margins] | None:
        loop = next(_loops(self.filt), None)
        if loop is None:
            return None
        # where a loop inside of another filter stands does not matter, as it is linear
        at: dict[str, Any] = {"state": self.rest, "controls": self.controls} if loop is self.filt else {}
        loop = loop if loop.sample_rate == self.filt.sample_rate else loop.replace(sample_rate=self.filt.sample_rate)
        return stability.nyquist(loop, **at), stability.margins(loop, **at)

    # ---- along a signal

    @cached_property
    def along(self) -> Real:
        """Of the given signal the loudest stretch; noise where there is none."""
        if self.signal is None:
            return NOISE_LEVEL * np.random.default_rng(0).uniform(-1, 1, (ALONG, self.filt.n_inputs))
        power = np.cumsum(np.concatenate([[0.0], np.sum(self.signal**2, axis=1)]))
        n = min(ALONG, len(self.signal))
        start = int(np.argmax(power[n:] - power[:-n]))
        return self.signal[start : start + n]

    @property
    def played(self) -> str:
        return NOISE if self.signal is None else f"the loudest {len(self.along):,} samples of the given signal"

    @part
    def lyapunov(self) -> stability.LyapunovSpectrum | None:
        if not self._moves():
            return None
        self._at_most(SOME, "Lyapunov exponents")
        n = min(N_EXPONENTS, self.filt.n_states)
        return stability.lyapunov_spectrum(
            self.filt, self.along, n_exponents=n, state=self.rest, controls=self.controls
        )

    @part
    def gradients(self) -> stability.GradientNorms | None:
        if not self._moves():
            return None
        self._at_most(FEW, "gradients")
        lag = min(MAX_LAG, len(self.along) // 2)
        return stability.gradient_norms(self.filt, self.along, lag, state=self.rest, controls=self.controls)

    @part
    def horizon(self) -> stability.MemoryHorizon | None:
        if not self._moves():
            return None
        self._at_most(SOME, "the memory horizon")
        return stability.memory_horizon(self.filt, self.along, state=self.rest, controls=self.controls)

    # ---- nonlinear sound

    @property
    def pitch(self) -> float:
        """Of the sine that measures distortion."""
        return min(SINE_HZ, self.rate / 20)

    @part
    def harmonics(self) -> distortion.HarmonicDistortion | None:
        if self.filt.is_linear:
            return None
        return distortion.harmonic_distortion(
            self.filt, self.pitch, SINE_DB, state=self.rest, controls=self.controls, sample_rate=self.rate
        )

    @part
    def aliasing(self) -> distortion.Aliasing | None:
        if self.filt.is_linear:
            return None
        pitches = ALIASING_HZ[0.45 * self.rate > ALIASING_HZ]
        return distortion.aliasing(
            self.filt, pitches, STATED_DB, state=self.rest, controls=self.controls, sample_rate=self.rate
        )

    # ---- over the range of the knobs

    @part
    def sweeps(self) -> dict[str, RestSweep]:
        found = {}
        for knob in self.swept:
            held = {name: value for name, value in self.controls.items() if name != knob}
            found[knob] = stability.sweep_rest_states(self.filt, knob, controls=held)
        return found

    def _moves(self) -> bool:
        """Whether its small-signal filter depends on what is played."""
        return not self.filt.is_linear and self.filt.n_states > 0

    def _at_most(self, n: int, what: str) -> None:
        if self.filt.n_states > n:
            raise ParameterError(f"{what} would take too long with {self.filt.n_states:,} states")

    # ---- all of it

    def text(self) -> str:
        """What a terminal shows: the verdicts, and of nonlinear filters the rest states."""
        said = [str(self.verdicts) if self.verdicts else f"no verdicts: {self.missing['verdicts']}"]
        if not self.filt.is_linear:
            said.append(str(self.probe) if self.probe else f"no rest states: {self.missing['probe']}")
        return "\n\n".join([*said, *(str(sweep) for sweep in (self.sweeps or {}).values())])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: None for what is not finite or not known, ``missing`` saying why."""
        filt, probe = self.filt, self.probe.as_dict() if self.probe else {}
        probe.pop("trials", None)
        found = {
            "rnndsp": rnndsp.__version__,
            "name": self.name,
            "filter": {
                "make_up": make_up(filt),
                "n_inputs": filt.n_inputs,
                "n_outputs": filt.n_outputs,
                "n_states": filt.n_states,
                "n_parameters": sum(value.size for value in filt.params.values()),
                "latency": filt.latency,
                "period": filt.period,
                "is_linear": filt.is_linear,
            },
            "sample_rate": filt.sample_rate,
            "controls": {
                c.name: {"value": self.controls[c.name], "default": c.default, "low": c.low, "high": c.high}
                for c in filt.controls
            },
            "properties": [_property(row) for row in self.verdicts or ()],
            "rest_states": probe.pop("rest_states", []),
            "power_on": probe.pop("power_on", None),
            "transitions": probe.pop("transitions", []),
            "rest_probe": probe or None,
            "small_signal": self._small_signal(),
            "transient_growth": self.growth
            and {
                "maximum": self.growth.maximum,
                "after_samples": self.growth.argmax,
                "complete": self.growth.complete,
                "kreiss_constant": self.growth.kreiss,
            },
            "loop": self.loop and {**plain(self.loop[1]), "unstable_closed": self.loop[0].unstable_closed},
            "along_a_signal": self._along() if self._moves() else None,
            "distortion": self._distortion(),
            "sweeps": {name: sweep.as_dict() for name, sweep in (self.sweeps or {}).items()},
        }
        found["missing"] = dict(sorted(self.missing.items()))
        values: dict[str, Any] = plain(found)
        return values

    def _small_signal(self) -> dict[str, Any] | None:
        if self.slowest is None:
            return None
        known = self.poles if self.poles is not None else np.zeros(0)
        slowest = known[np.argmax(np.abs(known))] if known.size else None
        rate = self.filt.sample_rate
        return {
            "n_poles": None if self.poles is None else known.size,
            "poles": None if self.poles is None else known[:N_POLES],
            "n_zeros": None if self.zeros is None else self.zeros.size,
            "n_hidden_modes": None if self.hidden is None else len(self.hidden),
            "n_hidden_unstable": None if self.hidden is None else int(self.hidden.unstable.sum()),
            "spectral_radius": None if self.poles is None else self.radius,
            "t60_samples": t60_s(self.radius, 1.0),
            "t60_s": t60_s(self.radius, rate) if rate else None,
            "slowest_hz": abs(np.angle(slowest)) / (2 * np.pi) * rate if rate and slowest is not None else None,
            "h2_norm": self.norms and self.norms.h2,
            "h_infinity_norm": self.norms and self.norms.peak_gain,
            "h_infinity_hz": self.norms.peak_frequency if self.norms and rate else None,
            "headroom_db": self.norms and self.norms.headroom_db,
        }

    def _along(self) -> dict[str, Any]:
        exponents, gradients, horizon = self.lyapunov, self.gradients, self.horizon
        return {
            "signal": self.played,
            "n_frames": len(self.along),
            "lyapunov_exponents": exponents and exponents.exponents,
            "lyapunov_interval": exponents and exponents.interval,
            "lyapunov_exponents_per_s": exponents and exponents.exponents_per_s,
            "gradients": gradients and gradients.verdict,
            "gradient_exponent": gradients and gradients.exponent,
            "memory_horizon_samples": horizon and horizon.samples,
            "memory_horizon_ms": horizon and horizon.ms,
            "memory_horizon_drop_db": horizon and horizon.drop_db,
        }

    def _distortion(self) -> dict[str, Any] | None:
        sines, alias = self.harmonics, self.aliasing
        if sines is None:
            return None
        at = int(np.argmin(np.abs(sines.levels_db - STATED_DB)))
        return {
            "frequency_hz": sines.frequency_hz,
            "sample_rate": self.rate,
            "rate_assumed": self.filt.sample_rate is None,
            "level_db": sines.levels_db[at],
            "thd": sines.thd[at],
            "thd_db": sines.thd_db[at],
            "aliasing_db": sines.aliasing_db[at],
            "against_level": {"level_db": sines.levels_db, "thd": sines.thd, "dc_shift": sines.dc_shift},
            "against_frequency": alias
            and {"level_db": alias.level_db, "frequency_hz": alias.frequency_hz, "aliasing_db": alias.ratio_db},
        }


def _refuted(row: Property, states: tuple[State, ...]) -> Property:
    said = f"{len(states)} rest states found by playing to it"
    if row.name != UNIQUE:
        said += ": two runs need not meet" if row.name == CONTRACTION else ": it need not come back"
    supposed = row.hypotheses.partition("controls at")
    held = "silence, after the sounds named" + (f"; controls at{supposed[2]}" if supposed[1] else "")
    return replace(row, verdict=Verdict.REFUTED, statement=said, hypotheses=held, witness=states[:2], bound=None)


def _property(row: Property) -> dict[str, Any]:
    tests = [
        {"name": t.name, "property": t.shows, "value": t.value, "limit": t.limit, "passed": bool(t.passed)}
        | {"source": t.source}
        for t in row.tests
    ]
    return {
        "name": row.name,
        "verdict": row.verdict.value,
        "statement": row.statement,
        "hypotheses": row.hypotheses,
        "margin": row.margin,
        "bound": row.bound,
        "tests": tests,
    }


def _loops(filt: Filter) -> Iterator[Filter]:
    """The filter itself where it is a loop, and the linear ones inside of it."""
    if isinstance(filt, Feedback):
        yield filt
    for child in filt.children:
        yield from (loop for loop in _loops(child) if loop.is_linear and not loop.controls)

"""All verdicts about a filter at one look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate, is_outside, reaches
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.resting import pull, rest_states
from rnndsp.stability.spectrum import MARGIN, in_words, t60_s
from rnndsp.stability.verdicts import Boundedness, Property, StabilityReport, Verdict
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["report"]

Controls = Mapping[str, ArrayLike]


def report(filt: Filter, *, controls: Controls | None = None) -> StabilityReport:
    """A verdict for each stability property: see :class:`StabilityReport`.

    The properties: *bounded output*; *input-to-state stability* (the state stays within a bound set by that of the
    input); *contraction* (two runs on the same input converge, so the initial state is forgotten); *a unique rest
    state* at silence; and the *decay* near it.

    Parameters
    ----------
    filt : Filter
    controls : mapping of str to float, optional

    Raises
    ------
    ParameterError
        Controls that the filter does not have.
    """
    for name, value in (controls or {}).items():
        if np.ndim(value):
            raise ParameterError(f"control {name}={value!r}: stability holds it still, so give one number")
    if filt.period > 1:
        return _periodic_report(filt)
    return _linear_report(filt, controls) if filt.is_linear else _nonlinear_report(filt, controls)


def _decay(radius: float, sample_rate: float | None) -> str:
    rate = f", 60 dB in {in_words(t60_s(radius, sample_rate))}" if sample_rate and 0 < radius < 1 else ""
    return f"by a factor {radius:.8g} a sample{rate}"


def _linear_report(filt: Filter, controls: Controls | None) -> StabilityReport:
    linear = filt.linearize(controls=controls)
    A, m = np.asarray(linear.A, np.float64), linear.delays
    supposed = "exact arithmetic" + (f"; {_held(filt, controls)}, and held still" if filt.controls else "")
    names = ("bounded output", "input-to-state stability", "contraction", "unique rest state")

    def all_rows(verdict: Verdict, said: str, witness: Any = None) -> list[Property]:
        return [Property(name, verdict, said, supposed, witness) for name in names]

    found, missing = _found(A, m)
    radius = float(np.max(np.abs(found), initial=0))
    decay = _decay(radius, filt.sample_rate)
    why = decay_certificate(A, m)
    if why is not None:
        rows = all_rows(Verdict.PROVED, f"it decays, as {why}" if found.size or missing else why)
        # a thousandth of the way out to the circle, so that the proof has room
        proved = not missing and decay_certificate(A, m, 1 - 0.999 * (1 - radius) if radius else 1.0) is not None
        said = missing or decay if proved or missing else f"{decay}, as computed: not proved so fast"
        rows.append(Property("decay", Verdict.PROVED if proved else Verdict.UNKNOWN, said, supposed))
    elif missing or radius < 1 - MARGIN:
        said = missing or f"all poles lie inside the circle, within {radius:.8g}, but rounding may have moved them"
        rows = all_rows(Verdict.UNKNOWN, said)
        rows.append(Property("decay", Verdict.UNKNOWN, missing or f"{decay}, as computed", supposed))
    else:
        worst = found[np.argmax(np.abs(found))]
        if radius <= 1 + MARGIN or not is_outside(A, m, worst):
            said = f"marginal: the pole {worst:.6g} stands on the unit circle, or too near to tell"
            rows = [*all_rows(Verdict.UNKNOWN, said, worst), Property("decay", Verdict.UNKNOWN, said, supposed, worst)]
        else:
            rows = _outside_rows(linear, worst, supposed)
            rows.append(Property("decay", Verdict.REFUTED, f"grows {decay}", supposed, worst))
    return StabilityReport(tuple(rows), (filt.rest_state(),), found)


def _found(A: NDArray[np.float64], m: NDArray[np.int64]) -> tuple[NDArray[np.complex128], str]:
    """The poles, or none and why not."""
    try:
        return delay_poles(A, m), ""
    except RnndspError as error:  # an ill-conditioned loop
        return np.zeros(0, np.complex128), f"the poles were not found: {error}"


def _outside_rows(linear: DelayStateSpace, worst: complex, supposed: str) -> list[Property]:
    said = f"the pole {worst:.6g} lies outside the unit circle"
    linked = reaches(linear, worst)
    hidden = {True: "", False: ", but does not link input to output", None: "; whether the output hears it is open"}
    verdict = Verdict.REFUTED if linked else Verdict.UNKNOWN
    rows = [Property("bounded output", verdict, said + hidden[linked], supposed, worst)]
    rows += [Property(n, Verdict.REFUTED, said, supposed, worst) for n in ("input-to-state stability", "contraction")]
    if pull(linear) > 1e-10 * max(1.0, float(np.linalg.norm(linear.A, 2))):
        rest = Property("unique rest state", Verdict.PROVED, "zero is the only fixed point: no pole at 1", supposed)
    else:
        rest = Property("unique rest state", Verdict.UNKNOWN, "a pole at 1, or too near to tell", supposed)
    return [*rows, rest]


def _held(filt: Filter, controls: Controls | None) -> str:
    return "controls at " + ", ".join(f"{c.name}={(controls or {}).get(c.name, c.default)}" for c in filt.controls)


def _bounded_row(kind: Boundedness) -> Property:
    name = "bounded output"
    if kind == Boundedness.SATURATING:
        said = "the nonlinearity saturates, so the output is bounded whatever comes in"
        return Property(name, Verdict.PROVED, said, "started from rest")
    if kind == Boundedness.BOUNDED:
        return Property(name, Verdict.PROVED, "every part is bounded for bounded inputs", "a bounded input")
    return Property(name, Verdict.UNKNOWN, "no bound is known for these parts")


def _contracting_rows(why: str) -> list[Property]:
    return [
        Property("input-to-state stability", Verdict.PROVED, why, "any input"),
        Property("contraction", Verdict.PROVED, why, "any input"),
        Property("unique rest state", Verdict.PROVED, "follows from contraction", "any constant input"),
    ]


def certified(filt: Filter) -> list[Property]:
    """What follows from the parts of a filter, without running it or finding its poles: one row, or four."""
    why, kind = filt._contraction(), filt._boundedness()
    row = _bounded_row(Boundedness.BOUNDED if why and not kind else kind)
    return [row, *_contracting_rows(why)] if why else [row]


def _periodic_report(filt: Filter) -> StabilityReport:
    """A filter that works in frames has no poles: only what follows from its parts is said."""
    why = filt._contraction()
    said = f"works in frames of {filt.period} samples; what its parts prove does not settle this"
    rows = [_bounded_row(filt._boundedness())]
    if why:
        rows += _contracting_rows(why)
    else:
        names = ("input-to-state stability", "contraction", "unique rest state")
        rows += [Property(name, Verdict.UNKNOWN, said) for name in names]
    rows.append(Property("decay", Verdict.UNKNOWN, said))
    return StabilityReport(tuple(rows), (), np.zeros(0, np.complex128))


def _nonlinear_report(filt: Filter, controls: Controls | None) -> StabilityReport:
    rows = certified(filt)
    rest = rest_states(filt, controls=controls)
    at_rest = "silence" + (f"; {_held(filt, controls)}" if filt.controls else "")
    linear = filt.linearize(rest[0] if rest else None, controls=controls)
    A, m = np.asarray(linear.A, np.float64), linear.delays
    found, missing = _found(A, m)
    radius = float(np.max(np.abs(found), initial=0))
    smooth = bool(rest) and _is_smooth(filt, rest[0], linear, controls)
    repels = smooth and bool(found.size) and is_outside(A, m, found[np.argmax(np.abs(found))])

    if len(rows) == 1:
        nothing = "no certificate found"
        iss, contraction = "input-to-state stability", "contraction"
        if len(rest) > 1:
            said = f"{len(rest)} rest states found"
            rows.append(Property(iss, Verdict.REFUTED, said + ": it need not come back", at_rest, rest[:2]))
            rows.append(Property(contraction, Verdict.REFUTED, said + ": two runs need not meet", at_rest, rest[:2]))
            rows.append(Property("unique rest state", Verdict.REFUTED, said, at_rest, rest))
        else:
            said = f"the rest state repels: spectral radius {radius:.6g} there" if repels else nothing
            verdict, witness = (Verdict.REFUTED, rest[0]) if repels else (Verdict.UNKNOWN, None)
            rows += [Property(name, verdict, said, at_rest, witness) for name in (iss, contraction)]
            said = "only one found, which is no proof" if rest else "none found for certain on silence"
            rows.append(Property("unique rest state", Verdict.UNKNOWN, said, at_rest))
    decay = _decay(radius, filt.sample_rate)
    verdict, said = Verdict.UNKNOWN, missing or f"near rest {decay}, as computed: rounding may have moved the poles"
    if not rest:
        said = "no rest state found for certain"
    elif not smooth:
        said = "at rest it stands on a kink: no one slope says how it decays"
    elif repels:
        verdict, said = Verdict.REFUTED, f"near rest it grows {decay}"
    elif not missing and decay_certificate(A, m) is not None:
        verdict, said = Verdict.LOCAL, f"near rest {decay}"
    rows.append(Property("decay", verdict, said, at_rest, rest[0] if repels else None))
    return StabilityReport(tuple(rows), rest, found)


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

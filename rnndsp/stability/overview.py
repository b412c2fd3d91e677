"""All verdicts about a filter at one look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._threads import one_thread
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate, is_outside, reaches
from rnndsp.stability.certificates import Case, amplitude_of, bounded_row, decay_in_words, found_poles, held
from rnndsp.stability.resting import pull
from rnndsp.stability.spectrum import MARGIN
from rnndsp.stability.verdicts import (
    BOUNDED,
    CONTRACTION,
    DECAY,
    ISS,
    UNIQUE,
    Boundedness,
    Property,
    StabilityReport,
    Verdict,
)
from rnndsp.statespace import DelayStateSpace

__all__ = ["certify", "report"]

Controls = Mapping[str, ArrayLike]


PROPERTIES = (BOUNDED, ISS, CONTRACTION, UNIQUE, DECAY)


@one_thread()
def report(filt: Filter, *, input_bound: float = 1.0, controls: Controls | None = None) -> StabilityReport:
    """A verdict for each stability property: see :class:`StabilityReport`.

    The properties: *bounded output*; *input-to-state stability* (the state stays within a bound set by that of the
    input); *contraction* (two runs on the same input converge, so the initial state is forgotten); *a unique rest
    state* at silence; and the *decay* near it.

    Parameters
    ----------
    filt : Filter
    input_bound : float
        Largest magnitude of the inputs that proofs for a nonlinear filter suppose; 1 is full scale.
    controls : mapping of str to float, optional

    Raises
    ------
    ParameterError
        Controls that the filter does not have, or a bound below 0.
    """
    amplitude_of(input_bound)
    for name, value in (controls or {}).items():
        if np.ndim(value):
            raise ParameterError(f"control {name}={value!r}: stability holds it still, so give one number")
    if filt.period > 1:
        return _periodic_report(filt)
    if filt.is_linear:
        return _linear_report(filt, controls)
    case = Case(filt, controls, input_bound=input_bound)
    return StabilityReport(tuple(case.row(name) for name in PROPERTIES), case.rest, case.poles)


@one_thread()
def certify(
    filt: Filter, *, property: str = CONTRACTION, input_bound: float = 1.0, controls: Controls | None = None
) -> Property:
    """The verdict on one stability property, with all tests that were tried.

    Parameters
    ----------
    filt : Filter
    property : {"contraction", "bounded output", "input-to-state stability", "unique rest state", "decay"}
        As in :func:`report`.
    input_bound : float
        Largest magnitude of the inputs that proofs for a nonlinear filter suppose; 1 is full scale.
    controls : mapping of str to float, optional

    Returns
    -------
    Property
        *Proved*; *refuted*, with a witness; *holds at these operating points only*, which for contraction means for
        inputs up to ``bound``, once settled; or *unknown*.

    Raises
    ------
    ParameterError
        A property or controls that there are not, or a bound below 0.

    Notes
    -----
    Tried, from cheap to dear: norms of the recurrent matrix, also with weighted states; what is known by construction;
    the published tests of the cell (``tests`` of the result); bounds of all reachable states, and a weighted maximum
    norm of all Jacobians there; small gain for feedback; what the slopes about rest can add up to in the course of
    time; for the rest state interval Newton with branch and bound. All are sufficient only, and suppose exact
    arithmetic; for trained nets, with forget gates near 1, most of them are far from necessary.
    """
    if property not in PROPERTIES:
        raise ParameterError(f"{property=}: choose one of {list(PROPERTIES)}")
    if filt.period > 1 or filt.is_linear:
        return report(filt, input_bound=input_bound, controls=controls)[property]
    return Case(filt, controls, input_bound=input_bound).row(property)


def _linear_report(filt: Filter, controls: Controls | None) -> StabilityReport:
    linear = filt.linearize(controls=controls)
    A, m = np.asarray(linear.A, np.float64), linear.delays
    supposed = "exact arithmetic" + (f"; {held(filt, controls)}, and held still" if filt.controls else "")
    names = ("bounded output", "input-to-state stability", "contraction", "unique rest state")

    def all_rows(verdict: Verdict, said: str, witness: Any = None, supposed: str = supposed) -> list[Property]:
        return [Property(name, verdict, said, supposed, witness) for name in names]

    found, missing = found_poles(A, m)
    radius = float(np.max(np.abs(found), initial=0))
    decay = decay_in_words(radius, filt.sample_rate)
    why = decay_certificate(A, m)
    if why is not None:
        rows = all_rows(Verdict.PROVED, f"it decays, as {why}" if found.size or missing else why)
        always = filt._contraction() if filt.controls else None
        if always:
            rows = all_rows(Verdict.PROVED, always, supposed="exact arithmetic; whatever course its controls take")
        # a thousandth of the way out to the circle, so that the proof has room
        proved = not missing and decay_certificate(A, m, 1 - 0.999 * (1 - radius) if radius else 1.0) is not None
        said = missing or decay if proved or missing else f"{decay}, as computed: not proved so fast"
        rows.append(Property("decay", Verdict.PROVED if proved else Verdict.UNKNOWN, said, supposed))
    elif not missing and _is_marginal_by_design(found, filt.marginal_poles):
        meant = filt.marginal_poles
        few = ", ".join(f"{z:.6g}" for z in meant[:4]) + (f" and {len(meant) - 4} more" if len(meant) > 4 else "")
        said = f"on the circle by design: {few}; the others lie inside"
        rows = all_rows(Verdict.MARGINAL, said, filt.marginal_poles)
        rows.append(Property(DECAY, Verdict.MARGINAL, said, supposed, filt.marginal_poles))
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


def _is_marginal_by_design(found: NDArray[np.complex128], meant: tuple[complex, ...]) -> bool:
    """Whether beside the poles that are meant to be on the circle all lie inside."""
    left = found
    for pole in meant:
        # n equal ones are computed about eps^(1/n) apart
        at = int(np.argmin(np.abs(left - pole)))
        if abs(left[at] - pole) > 10 * np.finfo(np.float64).eps ** (1 / meant.count(pole)):
            return False
        left = np.delete(left, at)
    return bool(meant) and bool(np.all(np.abs(left) < 1 - MARGIN))


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


def _contracting_rows(why: str) -> list[Property]:
    return [
        Property("input-to-state stability", Verdict.PROVED, why, "any input"),
        Property("contraction", Verdict.PROVED, why, "any input"),
        Property("unique rest state", Verdict.PROVED, "follows from contraction", "any constant input"),
    ]


def certified(filt: Filter) -> list[Property]:
    """What follows from the parts of a filter, without running it or finding its poles: one row, or four."""
    why, kind = filt._contraction(), filt._boundedness()
    row = bounded_row(Boundedness.BOUNDED if why and not kind else kind)
    return [row, *_contracting_rows(why)] if why else [row]


def _periodic_report(filt: Filter) -> StabilityReport:
    """A filter that works in frames has no poles: only what follows from its parts is said."""
    why = filt._contraction()
    said = f"works in frames of {filt.period} samples; what its parts prove does not settle this"
    rows = [bounded_row(filt._boundedness())]
    if why:
        rows += _contracting_rows(why)
    else:
        names = ("input-to-state stability", "contraction", "unique rest state")
        rows += [Property(name, Verdict.UNKNOWN, said) for name in names]
    rows.append(Property("decay", Verdict.UNKNOWN, said))
    return StabilityReport(tuple(rows), (), np.zeros(0, np.complex128))

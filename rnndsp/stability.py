"""Is it stable, in which sense, and how do we know: poles, and a verdict for each property."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._certificates import decay_certificate, is_outside, reaches
from rnndsp._checks import whole_number
from rnndsp._delay_poles import delay_poles
from rnndsp.errors import NonFiniteError, ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "Boundedness",
    "FrozenPoles",
    "Property",
    "StabilityReport",
    "Verdict",
    "frozen_poles",
    "poles",
    "report",
    "rest_states",
    "spectral_radius",
    "t60_s",
]

# Poles are computed in floating point: this near to the unit circle they count neither as inside nor as outside.
MARGIN = 1e-10
# Silence given to a filter to come to rest, and states told apart as different ones.
SETTLE_FRAMES = 20000
SAME = 1e-4
# How near to a true rest state one must be that is called so.
NEAR, EPS = 1e-7, float(np.finfo(np.float64).eps)
# Loops of more lines are refused unseen, and the poles of a loop may cost so many nanoseconds.
MAX_LINES, MAX_COST = 500, 2e9

Controls = Mapping[str, ArrayLike]


class Boundedness(IntEnum):
    """What is known of a filter's output before looking at any signal."""

    UNKNOWN = 0
    BOUNDED = 1  # for bounded inputs
    SATURATING = 2  # for any input at all


class Verdict(StrEnum):
    """How sure a statement is."""

    PROVED = "proved"
    REFUTED = "refuted"
    LOCAL = "holds at these operating points only"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Property:
    """One property, its verdict, and why.

    Attributes
    ----------
    name : str
    verdict : Verdict
    statement : str
        What was found, in a sentence.
    hypotheses : str
        What the statement supposes.
    witness : Any
        For a refutation, what refutes it: a pole, an operating point, a pair of rest states.
    """

    name: str
    verdict: Verdict
    statement: str
    hypotheses: str = ""
    witness: Any = None


@dataclass(frozen=True)
class StabilityReport:
    """One row a property; iterate it, index it by name, or print it.

    Attributes
    ----------
    properties : tuple of Property
    rest_states : tuple of State
        Those found at silence, the one reached from the initial state first.
    poles : ndarray
        Of the small-signal filter at the first of them.
    """

    properties: tuple[Property, ...]
    rest_states: tuple[State, ...]
    poles: NDArray[np.complex128]

    def __iter__(self) -> Iterator[Property]:
        return iter(self.properties)

    def __getitem__(self, name: str) -> Property:
        return {row.name: row for row in self.properties}[name]

    def _repr_html_(self) -> str:
        """The table, as notebooks show it."""
        from rnndsp import notebook

        return notebook.stability_html(self)

    def __str__(self) -> str:
        lines = []
        for row in self.properties:
            lines.append(f"{row.name:<26}{row.verdict.value}")
            lines.append(f"    {row.statement}")
            if row.hypotheses:
                lines.append(f"    supposing: {row.hypotheses}")
        return "\n".join(lines)


def poles(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> NDArray[np.complex128]:
    """Poles of a linear filter, or of the small-signal filter of any other about an operating point.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray of n_states complex numbers
        Largest magnitude first. Those of long delay lines are found without forming a matrix of their length.
    """
    linear = filt.linearize(state, u, controls=controls)
    return delay_poles(np.asarray(linear.A, np.float64), linear.delays)


def spectral_radius(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    """Largest magnitude of :func:`poles`, 0 for a filter without memory.

    It is the asymptotic factor a sample by which a linear filter decays. It is no norm: a filter may grow for a while
    with a radius below one, and a cell whose Jacobian has one everywhere may still not forget.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    """
    found = poles(filt, state, u, controls=controls)
    return float(np.max(np.abs(found))) if found.size else 0.0


def decays(filt: Filter) -> bool:
    """Whether it is proved that a linear filter decays, whatever its controls do: so only where it has none."""
    if filt.controls:
        return False
    linear = filt.linearize()
    return decay_certificate(np.asarray(linear.A, np.float64), linear.delays) is not None


def loop_radius(filt: Filter) -> float | None:
    """The spectral radius of a linear loop, or 0 where it is proved to decay; None where it would take too long."""
    if n_lines(filt) > MAX_LINES:
        return None
    with np.errstate(all="ignore"):
        linear = filt.linearize()
        A, m = np.asarray(linear.A, np.float64), linear.delays
        if not np.isfinite(A).all():
            return np.inf
        if decay_certificate(A, m) is not None:
            return 0.0
        # poles in z**common, of which a loop of one line or of equal ones has few however long it is
        common = int(np.gcd.reduce(m))
        total = float(np.sum(m)) / common
        if pole_cost(total, len(m)) > MAX_COST:
            return None
        try:
            found = delay_poles(A, m // common)
        except RnndspError:
            return None
        return float(np.max(np.abs(found)) ** (1 / common))


def pole_cost(n_states: float, n_lines: int) -> float:
    """About how many nanoseconds the poles of a network of delay lines take."""
    return n_states**2 + 5 * n_states * n_lines**3


def n_lines(filt: Filter) -> int:
    """How large its state matrix is, in which a delay line counts once however long it is."""
    own = sum(len(field.rings) or field.size for field in filt.fields)
    return own + sum(map(n_lines, filt.children))


def t60_s(radius: float, sample_rate: float) -> float:
    """Time to decay by 60 dB at a factor ``radius`` a sample; infinite from 1 on.

    Parameters
    ----------
    radius : float
        At least 0.
    sample_rate : float
        Hz.
    """
    if radius >= 1:
        return np.inf
    return float(-3 / (sample_rate * np.log10(radius))) if radius > 0 else 0.0


@dataclass(frozen=True)
class FrozenPoles:
    """Eigenvalues of the Jacobian at frames of a trajectory.

    Attributes
    ----------
    index : ndarray, shape (n,)
        The frames looked at.
    poles : ndarray, shape (n, n_states)
        Largest magnitude first. A picture, not a proof: all of them inside the circle does not make a time-varying
        system stable.
    """

    index: NDArray[np.int64]
    poles: NDArray[np.complex128]


def frozen_poles(
    filt: Filter, u: ArrayLike, state: State | None = None, *, every: int = 1, controls: Controls | None = None
) -> FrozenPoles:
    """Poles of the small-signal filter at every ``every``-th frame while the filter runs on a signal.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    state : State, optional
    every : int
    controls : mapping of str to float, optional
    """
    whole_number("every", every)
    signal = np.asarray(u, np.float64)
    signal = signal[:, None] if signal.ndim == 1 else signal
    if signal.ndim != 2 or signal.shape[1] != filt.n_inputs:
        raise ParameterError(f"signal of shape {np.shape(u)} must be (n_frames, {filt.n_inputs}), one voice")
    state = filt.rest_state() if state is None else state
    index = np.arange(0, len(signal), every)
    found = np.empty((index.size, filt.n_states), np.complex128)
    for row, t in enumerate(index):
        if row:
            _, state = filt.run(signal[index[row - 1] : t], state, controls=controls)
        found[row] = poles(filt, state, signal[t], controls=controls)
    return FrozenPoles(index, found)


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
    rng = np.random.default_rng(seed)
    start = filt.rest_state((n_starts + 1,))
    flat = start.ravel()
    flat[1:] = rng.uniform(-1, 1, flat[1:].shape)
    silence = np.zeros((n_starts + 1, SETTLE_FRAMES, filt.n_inputs))
    u = filt._extend(silence, controls)
    y = np.empty((*u.shape[:2], filt.n_outputs))
    end = start.unravel(flat)
    with np.errstate(all="ignore"):
        filt._process(u, end, y)
    found: list[State] = []
    for voice in range(n_starts + 1):
        here = filt.rest_state()
        here.indices = end.indices
        here = here.unravel(end.voice(voice).ravel()[0])
        fixed = _polish(filt, here, controls)
        if fixed is not None and all(
            np.max(np.abs(fixed.ravel() - other.ravel()), initial=0) > SAME for other in found
        ):
            found.append(fixed)
    return tuple(found)


def _polish(filt: Filter, state: State, controls: Controls | None) -> State | None:
    """Newton's method towards x = F(x, 0); None where it does not end at a fixed point."""
    frame = np.zeros((1, filt.n_inputs))
    for _ in range(20):
        x = state.ravel()
        if not np.isfinite(x).all():
            return None
        try:
            moved = filt.run(frame, state, controls=controls)[1].ravel()
        except NonFiniteError:
            return None
        linear = filt.linearize(state, controls=controls)
        error = np.max(np.abs(moved - x), initial=0)
        if error < 1e-12:
            # nearly at rest is not at rest where hardly anything pulls back
            return state if error + EPS < NEAR * _pull(linear) else None
        # at rest a delay line holds one value all along: a line is one unknown, however long it is
        newest = np.cumsum(linear.delays) - 1
        step = np.linalg.lstsq(np.eye(newest.size) - linear.A, moved[newest] - x[newest], rcond=None)[0]
        state = state.unravel(np.repeat(x[newest] + step, linear.delays))
    return None


def _pull(linear: DelayStateSpace) -> float:
    """How far I - A is from singular: zero where a constant state other than rest stays as it is."""
    return float(np.min(np.linalg.svd(np.eye(len(linear.A)) - linear.A, compute_uv=False), initial=1))


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


def in_words(time_s: float) -> str:
    """A time with three digits and the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time_s >= 0.1 * size:
            return f"{time_s / size:.3g} {unit}"
    return f"{time_s * 1e9:.3g} ns"


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
    if _pull(linear) > 1e-10 * max(1.0, float(np.linalg.norm(linear.A, 2))):
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

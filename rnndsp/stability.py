"""Is it stable, in which sense, and how do we know: poles, and a verdict for each property."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._delay_poles import delay_poles
from rnndsp.errors import NonFiniteError, RnndspError
from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, StateSpace

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
# Loops of more lines are refused unseen, those of fewer states judged by their poles, open loops of fewer states by
# their gain, and the poles of a large loop may cost so many nanoseconds.
MAX_LINES, SMALL_LOOP, MAX_OPEN_STATES, MAX_COST = 500, 500, 60, 2e9
# Double eigenvalues on the circle are found this near to it.
ON_CIRCLE = 1e-6

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
    """Whether all poles of a linear filter are known to lie inside the unit circle."""
    try:
        return spectral_radius(filt) < 1 - MARGIN
    except RnndspError:
        return False


def loop_radius(filt: Filter, n_loop: int) -> float | None:
    """The spectral radius of a linear loop that its first ``n_loop`` lines close, or a cheap bound of it below one.

    A loop decays, however long its lines are, if the norm of its matrix or the spectral radius of its absolute values
    is below one; and, however long the line that closes it is, if the open loop is stable and its gain below one at
    every frequency. None where neither is so and the poles would take longer than seconds, or are not found.
    """
    if _n_lines(filt) > MAX_LINES:
        return None
    with np.errstate(all="ignore"):
        linear = filt.linearize()
        A, m = linear.A, linear.delays
        if not np.isfinite(A).all():
            return np.inf
        bound = min(float(np.linalg.norm(A, 2)), float(np.max(np.abs(np.linalg.eigvals(np.abs(A))))))
        if bound < 1 - MARGIN:
            return float(bound ** (1 / float(np.max(m))))
        # poles in z**common, of which a loop of one line or of equal ones has few however long it is
        common = int(np.gcd.reduce(m))
        total, n_lines = float(np.sum(m)) / common, len(m)
        if total > SMALL_LOOP and np.sum(m[n_loop:]) <= MAX_OPEN_STATES:
            p, q = slice(None, n_loop), slice(n_loop, None)
            if _gain_below_one(DelayStateSpace(A[q, q], A[q, p], A[p, q], A[p, p], m[q]).expand()):
                return 1 - 2 * MARGIN
        if total > SMALL_LOOP and total**2 + 5 * total * n_lines**3 > MAX_COST:
            return None
        try:
            found = delay_poles(A, m // common)
        except RnndspError:
            return None
        return float(np.max(np.abs(found)) ** (1 / common))


def _n_lines(filt: Filter) -> int:
    own = sum(len(field.rings) or field.size for field in filt.fields)
    return own + sum(map(_n_lines, filt.children))


def _gain_below_one(filt: StateSpace) -> bool:
    """Whether a filter is stable and its H-infinity norm below one: no frequency has a singular value of one.

    S. Boyd, V. Balakrishnan, P. Kabamba (1989), "A bisection method for computing the H-infinity norm of a transfer
    matrix", in discrete time, as a pencil that inverts nothing.
    """
    from scipy.linalg import eigvals

    A, B, C, D = filt.A, filt.B, filt.C, filt.D
    n, k = B.shape
    if np.max(np.abs(np.linalg.eigvals(A)), initial=0) >= 1 - MARGIN:
        return False
    if np.linalg.norm(D + C @ np.linalg.solve(np.eye(n) - A, B), 2) >= 1 - MARGIN:
        return False
    # z x = A x + B u; mu = z A' mu + C'(C x + D u); u = z B' mu + D'(C x + D u)
    zero = np.zeros
    right = np.block(
        [[A, zero((n, n)), B], [-C.T @ C, np.eye(n), -C.T @ D], [-D.T @ C, zero((k, n)), np.eye(k) - D.T @ D]]
    )
    left = np.block(
        [[np.eye(n), zero((n, n + k))], [zero((n, n)), A.T, zero((n, k))], [zero((k, n)), B.T, zero((k, k))]]
    )
    z = np.asarray(eigvals(right, left))
    near = np.abs(np.abs(z[np.isfinite(z)]) - 1)
    return not np.isnan(z).any() and bool(np.min(near, initial=1) > ON_CIRCLE)


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
    signal = np.asarray(u, np.float64).reshape(-1, filt.n_inputs)
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

    Only points that are fixed to rounding are returned, so each is a true rest state; that there are no others is not
    proved. The first is the one reached from the initial state, where it comes to rest at all.

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
    # a filter that blows up has no business here, and says so elsewhere
    u = filt._extend(silence, controls)
    y = np.empty((*u.shape[:2], filt.n_outputs))
    end = start.unravel(flat)
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
        if np.max(np.abs(moved - x), initial=0) < 1e-12:
            return state
        linear = filt.linearize(state, controls=controls)
        # at rest a delay line holds one value all along: a line is one unknown, however long it is
        newest = np.cumsum(linear.delays) - 1
        step = np.linalg.lstsq(np.eye(newest.size) - linear.A, moved[newest] - x[newest], rcond=None)[0]
        state = state.unravel(np.repeat(x[newest] + step, linear.delays))
    return None


def report(filt: Filter, *, controls: Controls | None = None) -> StabilityReport:
    """A verdict for each stability property: see :class:`StabilityReport`.

    The properties: *bounded output*; *input-to-state stability* (the state stays within a bound set by that of the
    input);
    *contraction* (two runs on the same input converge, so the initial state is forgotten); *a unique rest state* at
    silence; and the
    *decay* near it.

    Parameters
    ----------
    filt : Filter
    controls : mapping of str to float, optional

    Raises
    ------
    ParameterError
        Controls that the filter does not have.
    """
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
    supposed = "poles as computed in floating point"
    if controls or filt.controls:
        supposed += "; controls held still"
    names = ("bounded output", "input-to-state stability", "contraction", "unique rest state")
    try:
        found = delay_poles(np.asarray(linear.A, np.float64), linear.delays)
    except RnndspError as error:  # an ill-conditioned loop
        rows = [Property(name, Verdict.UNKNOWN, f"the poles were not found: {error}") for name in (*names, "decay")]
        return StabilityReport(tuple(rows), (filt.rest_state(),), np.zeros(0, np.complex128))
    radius = float(np.max(np.abs(found), initial=0))
    if radius < 1 - MARGIN:
        said = f"all poles ({found.size}) within radius {radius:.8g}" if found.size else "no memory"
        rows = [Property(name, Verdict.PROVED, said, supposed) for name in names]
        rows.append(Property("decay", Verdict.PROVED, _decay(radius, filt.sample_rate), supposed))
        return StabilityReport(tuple(rows), (filt.rest_state(),), found)
    worst = found[np.argmax(np.abs(found))]
    if radius <= 1 + MARGIN:
        said = f"marginal: the pole {worst:.6g} stands on the unit circle"
        rows = [Property(name, Verdict.UNKNOWN, said, supposed, worst) for name in (*names, "decay")]
        return StabilityReport(tuple(rows), (filt.rest_state(),), found)
    said = f"the pole {worst:.6g} lies outside the unit circle"
    seen = _reaches(linear, worst)
    rows = [
        Property(
            names[0],
            Verdict.REFUTED if seen else Verdict.UNKNOWN,
            said if seen else said + ", but does not link input to output",
            supposed,
            worst,
        )
    ]
    rows += [Property(name, Verdict.REFUTED, said, supposed, worst) for name in names[1:3]]
    rows.append(
        Property(names[3], Verdict.PROVED, "zero is the only fixed point: no pole at 1", supposed)
        if np.min(np.abs(found - 1)) > MARGIN
        else Property(names[3], Verdict.REFUTED, "a pole at 1", supposed, worst)
    )
    rows.append(Property("decay", Verdict.REFUTED, f"grows {_decay(radius, filt.sample_rate)}", supposed, worst))
    return StabilityReport(tuple(rows), (filt.rest_state(),), found)


def _reaches(linear: DelayStateSpace, pole: complex) -> bool:
    """Whether a mode is both driven by the input and heard at the output (Popov-Belevitch-Hautus)."""
    loop = np.diag(pole**linear.delays) - linear.A
    n = len(loop)
    return bool(
        np.linalg.matrix_rank(np.hstack([loop, linear.B]), rtol=1e-8) == n
        and np.linalg.matrix_rank(np.vstack([loop, linear.C]), rtol=1e-8) == n
    )


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
    why = filt._contraction()
    rest = rest_states(filt, controls=controls)
    at_rest = "silence"
    if filt.controls:
        at_rest += "; controls at " + ", ".join(
            f"{c.name}={(controls or {}).get(c.name, c.default)}" for c in filt.controls
        )
    found = poles(filt, rest[0] if rest else None, controls=controls)
    radius = float(np.max(np.abs(found), initial=0))
    repels = bool(rest) and radius > 1 + MARGIN

    rows = [_bounded_row(filt._boundedness())]
    if why:
        rows += _contracting_rows(why)
    else:
        nothing = "no certificate found"
        rows.append(Property("input-to-state stability", Verdict.UNKNOWN, nothing, at_rest))
        if len(rest) > 1:
            said = f"{len(rest)} rest states found"
            rows.append(Property("contraction", Verdict.REFUTED, said + ": two runs need not meet", at_rest, rest[:2]))
            rows.append(Property("unique rest state", Verdict.REFUTED, said, at_rest, rest))
        else:
            said = f"the rest state repels: spectral radius {radius:.6g} there"
            verdict = Verdict.REFUTED if repels else Verdict.UNKNOWN
            rows.append(
                Property("contraction", verdict, said if repels else nothing, at_rest, rest[0] if repels else None)
            )
            said = "only one found, which is no proof" if rest else "none found, after 20000 samples of silence"
            rows.append(Property("unique rest state", Verdict.UNKNOWN, said, at_rest))
    if not rest:
        rows.append(Property("decay", Verdict.UNKNOWN, "no rest state to decay to", at_rest))
    elif repels:
        rows.append(Property("decay", Verdict.REFUTED, f"near rest it grows {_decay(radius, None)}", at_rest, rest[0]))
    elif radius < 1 - MARGIN:
        rows.append(Property("decay", Verdict.LOCAL, f"near rest {_decay(radius, filt.sample_rate)}", at_rest))
    else:
        rows.append(Property("decay", Verdict.UNKNOWN, "marginal at rest", at_rest))
    return StabilityReport(tuple(rows), rest, found)

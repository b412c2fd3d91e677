"""How far a feedback loop is from instability: root locus, Nyquist curve, and margins of gain, phase and delay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.composition import Feedback
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.response import in_pieces
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.spectrum import MARGIN, MAX_COST, loop_radius, pole_cost
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, space

__all__ = ["Margins", "Nyquist", "RootLocus", "margins", "nyquist", "open_loop", "root_locus"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Loops of more samples have more turns of their Nyquist curve than are followed, and in so many lines take minutes.
MAX_SAMPLES, MAX_POINTS, MAX_WORK = 2**16, 2**20, 1e10
# Radians a sample below which the curve is not looked at any closer.
FINEST = 1e-13
# Poles of a root locus: each two neighbouring gains take a matching of all of them. And nanoseconds it may take.
MAX_POLES, MAX_LOCUS_COST = 2000, 1e11
# Gains of a root locus lie below this, lest products of them overflow.
LOUDEST = 1e100
# How far the curve may bend away from its chords: of its size, and of its distance from the critical point.
BEND, NEAR = 0.01, 0.1
# Poles of the open loop this near to the circle are passed on the outside, at this distance.
ON_CIRCLE, DETOUR = 1e-8, 1e-7
# A loop gain beyond this counts as infinite, below its inverse as zero.
HUGE = 1e7
# Rounds of scaling for the structured singular value.
OSBORNE = 10
# How finely frequencies are found, in radians, and phases and levels, at which rounding takes over.
FINE = 4e-15


@dataclass(frozen=True)
class RootLocus:
    """Poles of a loop against the gain of its backward path.

    Attributes
    ----------
    gains : ndarray, shape (n,)
    poles : ndarray, shape (n, n_states)
        A row a gain, a column a branch.
    critical_gains : ndarray
        Those between the least and the largest gain at which a pole lies on the unit circle, ascending.
    critical_frequency : ndarray
        Where on the circle: in Hz where the filter has a sample rate, else in cycles a sample.
    sample_rate : float or None
    """

    gains: Real
    poles: Complex
    critical_gains: Real
    critical_frequency: Real
    sample_rate: float | None


@dataclass(frozen=True)
class Nyquist:
    """The curve of the loop gain at all frequencies, and how often it goes round the critical point +1.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        From 0 to half the sample rate, in Hz where the filter has one, else in cycles a sample. The other half is the
        mirror image.
    curve : ndarray, shape (n,)
        L(z) of one channel; of several, 1 - det(I - L(z)), which is the same for one.
    radius : float
        Of the circle on which z runs: 1, or just beyond where the open loop has poles on the unit circle.
    unstable_open : int or None
        Poles of the open loop outside that circle; None where there are too many poles to find.
    encirclements : int or None
        Counterclockwise turns of the whole curve about +1; None where it runs through that point or was not resolved.
    n_channels : int
        Of the loop.
    sample_rate : float or None
    """

    frequency: Real
    curve: Complex
    radius: float
    unstable_open: int | None
    encirclements: int | None
    n_channels: int
    sample_rate: float | None

    @property
    def unstable_closed(self) -> int | None:
        """Poles of the closed loop outside the circle: those of the open loop less the encirclements."""
        if self.unstable_open is None or self.encirclements is None:
            return None
        return self.unstable_open - self.encirclements


@dataclass(frozen=True)
class Margins:
    """By how much a loop may change before a pole of it meets the unit circle.

    Each margin supposes that all else stays as it is, the disk apart. With several channels all change alike, the disk
    apart again. Frequencies are in Hz where the filter has a sample rate, else in cycles a sample; NaN where there is
    no limit.

    Attributes
    ----------
    stable : bool or None
        Whether the loop decays as it is. Where it does not there is no margin, and all margins are NaN. None where this
        is not known, as the loop is too large: the margins then suppose that it does, and are NaN where its Nyquist
        curve could not be resolved.
    gain_up_db, gain_down_db : float
        How much the gain may rise, and fall (a negative number); infinite where it may do so without end.
    gain_up_frequency, gain_down_frequency : float
    phase_deg, phase_frequency : float
        How much the phase may turn, either way.
    delay_samples, delay_frequency : float
        How much more delay the loop may have.
    modulus, modulus_frequency : float
        The least singular value of I - L, for one channel the least distance of L from +1: the inverse of the largest
        gain from a disturbance to the loop's signal.
    disk, disk_frequency : float
        The disk margin alpha: every channel may be multiplied by factors (1 + x/2) / (1 - x/2) of its own, with x any
        complex number (or stable filter) of magnitude below alpha. Exact for one channel, at least this for several.
    critical_gains, critical_frequency : ndarray
        All positive factors on the gain at which a pole lies on the circle, ascending, whether stable or not.
    """

    stable: bool | None
    gain_up_db: float
    gain_up_frequency: float
    gain_down_db: float
    gain_down_frequency: float
    phase_deg: float
    phase_frequency: float
    delay_samples: float
    delay_frequency: float
    modulus: float
    modulus_frequency: float
    disk: float
    disk_frequency: float
    critical_gains: Real
    critical_frequency: Real

    @property
    def disk_gain_db(self) -> float:
        """How much the gains of all channels may change, each by itself, up or down, at the phase they have."""
        if not self.disk < 2:
            return self.disk * np.inf
        return float(20 * np.log10((2 + self.disk) / (2 - self.disk)))

    @property
    def disk_phase_deg(self) -> float:
        """How much the phases of all channels may turn, each by itself, at the gain they have."""
        return float(np.degrees(2 * np.arctan(self.disk / 2)))


def open_loop(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> DelayStateSpace:
    r"""The loop gain L of a feedback loop, as a linear filter.

    .. math:: L(z) = z^{-d} F(z)\, G(z), \qquad y = (I - L)^{-1} F u

    Nothing is subtracted in :class:`rnndsp.Feedback`, so the critical point of L is **+1**; control theory, which
    subtracts, has -L and the critical point -1. The loop is cut open at its delay line, which carries the outputs.

    Parameters
    ----------
    filt : Filter
        A :class:`rnndsp.Feedback`. Any other filter with as many outputs as inputs counts as L itself: what if its
        output were added to its input?
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`, where a part is not linear.

    Returns
    -------
    DelayStateSpace
        With as many inputs and outputs as ``filt`` has outputs.

    Raises
    ------
    ParameterError
        A filter, not a loop, whose outputs are not as many as its inputs.
    """
    linear = filt.linearize(state, u, controls=controls)
    if not isinstance(filt, Feedback):
        if filt.n_inputs != filt.n_outputs:
            raise ParameterError(
                f"{filt.n_outputs} outputs cannot be fed back to {filt.n_inputs} inputs: give a Feedback, or a filter "
                "with as many outputs as inputs"
            )
        return linear
    # its first lines are those of the loop: what enters them becomes the output, and the input enters in its place
    p = filt.n_outputs
    A, B = linear.A.copy(), np.eye(len(linear.A), p)
    A[:p] = 0
    return space(A, B, linear.A[:p], np.zeros((p, p)), linear.delays, sample_rate=filt.sample_rate)


def root_locus(
    filt: Filter,
    gains: ArrayLike,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    controls: Controls | None = None,
) -> RootLocus:
    """Poles of the closed loop for every gain by which its backward path is multiplied.

    Parameters
    ----------
    filt : Filter
        As in :func:`open_loop`; the loop as it is has gain 1.
    gains : array, shape (n,)
        Finite, of any sign. Poles are followed from each gain to the next.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`, where a part is not linear. It stays where it is while the
        gain changes, so for such a loop the locus tells of gains near 1.

    Raises
    ------
    ParameterError
        Gains that are no row of finite numbers, more than 2000 poles, more lines and gains than take minutes, or a loop
        without any delay in which a gain leaves the output undefined.

    Notes
    -----
    Branches are matched by the least sum of distances from where the last two gains point to (Hungarian method). Where
    poles meet, or gains are far apart, which is which is a guess. The critical gains do not depend on the grid of
    gains: they are found on the unit circle, where an eigenvalue of L is real, and refined to rounding.
    """
    from scipy.optimize import linear_sum_assignment

    loop = open_loop(filt, state, u, controls=controls)
    factors = np.asarray(gains, np.float64)
    if factors.ndim != 1 or not factors.size or not (np.abs(factors) < LOUDEST).all():
        raise ParameterError(f"gains of shape {factors.shape} must be a row of numbers below {LOUDEST:g}")
    if loop.n_states > MAX_POLES:
        raise ParameterError(
            f"{loop.n_states} poles are too many to follow, the most is {MAX_POLES}: shorten the delay"
        )
    if factors.size * pole_cost(loop.n_states, len(loop.delays)) > MAX_LOCUS_COST:
        raise ParameterError(f"{factors.size} gains of a loop this large would take too long: give fewer")
    contour = _contour(loop)
    poles = np.empty((factors.size, loop.n_states), np.complex128)
    for row, factor in enumerate(factors):
        found = delay_poles(_closed(loop, factor), loop.delays)
        if row:
            # where each would be if it went on as it did, so that branches that meet pass through each other
            ahead = poles[row - 1]
            if row > 1 and factors[row - 1] != factors[row - 2]:
                pace = (factor - factors[row - 1]) / (factors[row - 1] - factors[row - 2])
                ahead = ahead + pace * (ahead - poles[row - 2])
            found = found[linear_sum_assignment(np.abs(ahead[:, None] - found))[1]]
        poles[row] = found
    w, L = _on_circle(loop, contour)
    w, critical = _critical(loop, contour, w, _loci(L))
    inside = (critical >= factors.min()) & (critical <= factors.max())
    frequency = _frequency(filt, w[inside])
    return RootLocus(factors, poles, critical[inside], frequency, filt.sample_rate)


def nyquist(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Nyquist:
    r"""The Nyquist curve of a loop, and the stability test that goes with it.

    The closed loop has as many poles outside the unit circle as the open loop, less the counterclockwise turns of the
    curve about the critical point **+1** (not -1: see :func:`open_loop`).

    Parameters
    ----------
    filt, state, u, controls
        As in :func:`open_loop`.

    Raises
    ------
    ParameterError
        A loop of more than 65536 samples, whose curve has too many turns, or of so many lines that it takes minutes.

    Notes
    -----
    The grid starts with several points for each turn that the delays can make, and with the angles of the poles where
    these are few enough to be known. Each interval is then halved until the curve bends by little, in itself and as
    seen from the critical point. It is computed in floating point and proves nothing.

    References
    ----------
    H. Nyquist (1932), "Regeneration theory".
    """
    loop = open_loop(filt, state, u, controls=controls)
    contour = _contour(loop)
    w = _frequency(filt, contour.w)
    return Nyquist(w, contour.curve, contour.radius, *contour.count(), loop.n_outputs, filt.sample_rate)


def margins(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> Margins:
    r"""Gain, phase, delay, modulus and disk margins of a feedback loop.

    All are distances from the critical point **+1** (not -1: see :func:`open_loop`). A gain k > 0 is critical where
    k L has an eigenvalue 1, the phase margin is the least angle of an eigenvalue of magnitude 1, the delay margin the
    least positive angle by its frequency.

    .. math:: \alpha = 1 \Big/ \max_\omega \bar\mu\left(\tfrac12 (I + L)(I - L)^{-1}\right)

    Parameters
    ----------
    filt, state, u, controls
        As in :func:`open_loop`. For a part that is not linear they are those of the small-signal loop at one operating
        point, and say nothing of large signals.

    Raises
    ------
    ParameterError
        As in :func:`nyquist`.

    Notes
    -----
    The disk margin of several channels takes the structured singular value, each channel its own factor, by its upper
    bound, the largest singular value after a diagonal scaling (Osborne's, for each frequency). So it may be too small,
    never too large but for what the grid of frequencies misses. Minima are sought on the grid of :func:`nyquist` and
    refined; that they are the least is not proved.

    The delay margin takes delays as real numbers. Where \|L\| reaches 1 at half the sample rate, one whole sample more
    may be one too many whatever the phase is, and the margin is at most 1.

    References
    ----------
    P. Seiler, A. Packard, P. Gahinet (2020), "An introduction to disk margins". E. E. Osborne (1960), "On
    pre-conditioning of matrices".
    """
    loop = open_loop(filt, state, u, controls=controls)
    contour = _contour(loop)
    p = loop.n_outputs
    closed = space(_closed(loop, 1.0), loop.B, loop.C, np.zeros((p, p)), loop.delays)
    radius = loop_radius(closed)
    stable = None if radius is None else bool(radius < 1 - MARGIN)
    outside, turns = contour.count()
    if stable is None and outside is not None and turns is not None:
        stable = outside == turns
    w, L = _on_circle(loop, contour)
    values = _loci(L)
    real, critical = _critical(loop, contour, w, values)
    real, critical = real[critical > 0], critical[critical > 0]
    found: dict[str, tuple[float, float]] = {}
    if stable is False or not contour.resolved:
        found = dict.fromkeys(("gain_up", "gain_down", "phase", "delay", "modulus", "disk"), (np.nan, np.nan))
    else:
        up, down = critical > 1, critical < 1
        found["gain_up"] = _least(20 * np.log10(critical[up]), real[up])
        low, at = _least(-20 * np.log10(critical[down]), real[down])
        found["gain_down"] = (-low, at)
        crossed, values_there = _zeros(loop, w, values, lambda v: np.abs(v) - 1)
        angle = np.angle(values_there)
        found["phase"] = _least(np.degrees(np.abs(angle)), crossed)
        delays, at_delays = np.mod(angle, 2 * np.pi) / crossed, crossed
        if np.max(np.abs(values[-1]), initial=0) >= 1:
            delays, at_delays = np.append(delays, 1.0), np.append(at_delays, np.pi)
        found["delay"] = _least(delays, at_delays)
        found["modulus"] = _minimum(loop, w, L, _modulus)
        found["disk"] = _minimum(loop, w, L, _disk)
    units = {"gain_up": "gain_up_db", "gain_down": "gain_down_db", "phase": "phase_deg", "delay": "delay_samples"}
    scale = _frequency(filt, np.ones(1))[0]
    named = {units.get(name, name): value for name, (value, _) in found.items()}
    named |= {f"{name}_frequency": at * scale for name, (_, at) in found.items()}
    return Margins(stable=stable, critical_gains=critical, critical_frequency=real * scale, **named)


@dataclass(frozen=True)
class _Contour:
    """L on an upper half circle about the origin, resolved or not, and the poles of the open loop where known."""

    w: Real
    L: Complex
    radius: float
    resolved: bool
    poles: Complex | None

    @property
    def curve(self) -> Complex:
        p = self.L.shape[1]
        if p == 1:
            return np.asarray(self.L[:, 0, 0], np.complex128)
        curve: Complex = 1 - np.linalg.det(np.eye(p) - self.L)
        return curve

    def count(self) -> tuple[int | None, int | None]:
        """Poles of the open loop outside, and encirclements of +1."""
        outside = None
        if self.poles is not None:
            outside = int(np.count_nonzero(np.abs(self.poles) > max(self.radius, 1 + ON_CIRCLE)))
        if not self.resolved:
            return outside, None
        # det(I - L) has the poles of the open loop as its poles, those of the closed loop as its zeros
        away = 1 - self.curve
        return outside, round(float(np.sum(np.angle(away[1:] * away[:-1].conj()))) / np.pi)


def _frequency(filt: Filter, w: Real) -> Real:
    return w * ((filt.sample_rate or 1.0) / (2 * np.pi))


def _closed(loop: DelayStateSpace, gain: float) -> Real:
    """The state matrix of the loop closed with a gain."""
    direct = np.eye(loop.n_outputs) - gain * loop.D
    if not np.linalg.cond(direct) * MARGIN < 1:
        raise ParameterError(f"with gain {gain:g} this loop has no output: I - {gain:g} D, without delay, is singular")
    closed: Real = loop.A + gain * loop.B @ np.linalg.solve(direct, loop.C)
    return closed


def _poles(A: Real, delays: NDArray[np.int64]) -> Complex | None:
    """The poles, some at the origin apart; None where they are too many to find."""
    fed = A.any(axis=1)
    A, delays = A[np.ix_(fed, fed)], delays[fed]
    return delay_poles(A, delays) if pole_cost(float(delays.sum()), len(delays)) <= MAX_COST else None


def _contour(loop: DelayStateSpace) -> _Contour:
    if loop.n_states > MAX_SAMPLES:
        raise ParameterError(f"a loop of {loop.n_states} samples has too many turns, the most is {MAX_SAMPLES}")
    if loop.n_states * float(loop.delays.size) ** 3 > MAX_WORK:
        raise ParameterError(f"a loop of {loop.n_states} samples in {loop.delays.size} lines would take too long")
    m, poles = loop.delays, _poles(loop.A, loop.delays)
    radius = 1.0 if poles is None or not _touching(poles).size else 1 + DETOUR
    known = [np.angle(found) for found in (poles, _poles(_closed(loop, 1.0), m)) if found is not None]
    w = np.unique(np.concatenate([np.linspace(0, np.pi, 2 * (loop.n_states + 32)), *known]))
    w = w[w >= 0]
    w = w[np.diff(w, prepend=-1.0) > FINEST]  # poles of both loops may all but coincide
    w[-1] = np.pi
    L = in_pieces(loop, w, radius)
    bent = np.ones(w.size - 1, bool)
    while bent.any() and w.size + np.count_nonzero(bent) <= MAX_POINTS and np.min(np.diff(w)[bent]) > FINEST:
        left = np.flatnonzero(bent)
        middle = in_pieces(loop, (w[left] + w[left + 1]) / 2, radius)
        straight = _is_straight(L[left], middle, L[left + 1])
        w = np.insert(w, left + 1, (w[left] + w[left + 1]) / 2)
        L = np.insert(L, left + 1, middle, axis=0)
        halves = np.repeat(bent, 1 + bent)
        halves[halves] = np.repeat(~straight, 2)
        bent = halves
    return _Contour(w, L, radius, not bent.any(), poles)


def _touching(poles: Complex) -> Complex:
    """Those on the unit circle."""
    touching: Complex = poles[np.abs(np.abs(poles) - 1) <= ON_CIRCLE]
    return touching


def _is_straight(before: Complex, middle: Complex, after: Complex) -> NDArray[np.bool_]:
    """Whether L bends by little, and det(I - L) by so little, in steps so short, that it goes round zero as they do."""
    size = np.maximum(np.max(np.abs(middle), axis=(1, 2)), 0.5)
    bend = np.max(np.abs(middle - (before + after) / 2), axis=(1, 2))
    a, b, c = (np.linalg.det(np.eye(L.shape[1]) - L) for L in (before, middle, after))
    nearest = np.min(np.abs([a, b, c]), axis=0)
    sure = (np.abs(b - (a + c) / 2) <= NEAR * nearest) & (np.max(np.abs([b - a, c - b]), axis=0) <= nearest)
    straight: NDArray[np.bool_] = (bend <= BEND * size) & sure
    return straight


def _on_circle(loop: DelayStateSpace, contour: _Contour) -> tuple[Real, Complex]:
    """Angles, and L on the unit circle itself, where it is not infinite."""
    w = contour.w
    L = contour.L if contour.radius == 1 else in_pieces(loop, w)
    finite = np.max(np.abs(L), axis=(1, 2)) < HUGE
    return w[finite], L[finite]


def _loci(L: Complex) -> Complex:
    """Eigenvalues of L, each column one branch."""
    if L.shape[1] == 1:
        return L[:, 0]
    from scipy.optimize import linear_sum_assignment

    values = np.asarray(np.linalg.eigvals(L), np.complex128)
    for row in range(1, len(values)):
        values[row] = values[row][linear_sum_assignment(np.abs(values[row - 1][:, None] - values[row]))[1]]
    return values


def _zeros(loop: DelayStateSpace, w: Real, values: Complex, f: Callable[[Complex], Real]) -> tuple[Real, Complex]:
    """Angles at which f of an eigenvalue of L changes its sign, to rounding, and the eigenvalues there."""
    sign = f(values) >= 0
    # of an eigenvalue that is zero but for rounding the sign means nothing
    row, branch = np.nonzero((sign[1:] != sign[:-1]) & (np.abs(values[1:]) > 1 / HUGE))
    (a, b), (left, right) = (w[row], w[row + 1]), (values[row, branch], values[row + 1, branch])
    low, high = f(left), f(right)
    todo = np.arange(row.size)
    for step in range(60):
        # regula falsi (Illinois: an end that stays counts half), and now and then the middle; b is the latest
        part = high[todo] / (high[todo] - low[todo]) if step % 4 < 3 else np.full(todo.size, 0.5)
        x = b[todo] - part * (b[todo] - a[todo])
        near = np.linalg.eigvals(np.nan_to_num(in_pieces(loop, x), nan=HUGE**2))
        guess = right[todo] - part * (right[todo] - left[todo])
        value = near[np.arange(todo.size), np.argmin(np.abs(near - guess[:, None]), axis=1)]
        found = f(value)
        passed = todo[(found >= 0) != (high[todo] >= 0)]
        stayed = np.setdiff1d(todo, passed)
        a[passed], left[passed], low[passed] = b[passed], right[passed], high[passed]
        low[stayed] /= 2
        moved = np.abs(b[todo] - x)
        b[todo], right[todo], high[todo] = x, value, found
        todo = todo[(moved > FINE) & (np.abs(found) > FINE * np.abs(value)) & (np.abs(b[todo] - a[todo]) > FINE)]
        if not todo.size:
            break
    # a jump is not a zero
    met = np.abs(f(right)) <= 1e-6 * np.abs(right)
    return b[met], right[met]


def _critical(loop: DelayStateSpace, contour: _Contour, w: Real, values: Complex) -> tuple[Real, Real]:
    """Gains of either sign at which a pole lies on the circle, ascending, and their angles, from 0 to pi."""
    inner = values.copy()
    at_ends = []
    for end in np.flatnonzero((w == 0) | (w == np.pi)):
        real = values[end][np.abs(values[end].imag) <= 1e-9 * np.abs(values[end])].real
        at_ends.append((np.full(real.size, w[end]), real))
        inner[end] = inner[1 if end == 0 else end - 1]  # real itself, but for a sign of rounding
    angle, crossing = _zeros(loop, w, inner, np.imag)
    angles, real = map(np.concatenate, zip((angle, crossing.real), *at_ends, strict=True))
    kept = (np.abs(real) < HUGE) & (np.abs(real) > 1 / HUGE)
    angles, gains = angles[kept], 1 / real[kept]
    if contour.poles is not None:
        touching = _touching(contour.poles)
        touching = touching[touching.imag >= 0]
        angles, gains = np.append(angles, np.angle(touching)), np.append(gains, np.zeros(touching.size))
    order = np.argsort(gains)
    return angles[order], gains[order]


def _least(values: Real, w: Real) -> tuple[float, float]:
    if not values.size:
        return np.inf, np.nan
    first = int(np.argmin(values))
    return float(values[first]), float(w[first])


def _minimum(loop: DelayStateSpace, w: Real, L: Complex, f: Callable[[Complex], Real]) -> tuple[float, float]:
    """The least f(L) and its angle: the lowest places of the grid, refined."""
    from scipy.optimize import minimize_scalar

    values = f(L)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    hollows = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    best = np.inf, np.nan
    for i in hollows[np.argsort(values[hollows])][:3]:
        bounds = w[max(i - 1, 0)], w[min(i + 1, w.size - 1)]
        found = minimize_scalar(
            lambda x: f(in_pieces(loop, np.array([x])))[0], bounds=bounds, method="bounded", options={"xatol": 1e-12}
        )
        # of equals that on the grid, which has 0 and pi
        for value, at in ((values[i], w[i]), (found.fun, found.x)):
            if value < best[0] * (1 - MARGIN):
                best = float(value), float(at)
    return best


def _modulus(L: Complex) -> Real:
    return np.asarray(np.linalg.svd(np.eye(L.shape[1]) - L, compute_uv=False)[:, -1], np.float64)


def _disk(L: Complex) -> Real:
    """The inverse of an upper bound of the structured singular value of (I + L)(I - L)^-1 / 2."""
    one = np.eye(L.shape[1])
    M = np.linalg.inv(one - L) - one / 2
    if len(one) == 1:
        size: Real = np.abs(M[:, 0, 0])
    else:
        for _, i in product(range(OSBORNE), range(len(one))):
            others = np.arange(len(one)) != i
            row, column = (np.linalg.norm(part, axis=1) for part in (M[:, i, others], M[:, others, i]))
            factor = np.where((row > 0) & (column > 0), np.sqrt(column / np.where(row > 0, row, 1)), 1.0)
            M[:, i] *= factor[:, None]
            M[:, :, i] /= factor[:, None]
        size = np.asarray(np.linalg.norm(M, 2, axis=(1, 2)), np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / size)

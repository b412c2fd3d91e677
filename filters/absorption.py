"""Delay lines that lose every frequency at a rate of its own: absorption filters, and the loop they stand in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, reals, whole_number, whole_numbers
from rnndsp._jit import inline, kernel
from rnndsp._mixing import add_product, affine
from rnndsp._vectors import aligned, fma, lanes, load, store, transpose
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import MAX_STATES, Control, Filter
from rnndsp.filters.fdn import lines_and_matrix, sign_gains
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, initial_lines, padded, space, wrapped

__all__ = ["DampedNetwork", "absorption_filters"]

Real = NDArray[np.float64]
ONE = (None,)

# Frames after which states are kept from turning subnormal, and between which the angles of a modulation run straight.
REST, GRID = 16, 256
# Rows that share the loading of an entry.
GROUP = 6
# By how much, of a decay time, the absorption filters may miss it, and the most that a shelf of theirs steps.
MISSED, MOST_DB = 0.03, 60.0
# How many times as long as designed the slowest frequency may be made to fade by the knob.
LONGER = 4.0
# What rounding may do to a product of gains below one.
SLACK, EPS = 1e-12, float(np.finfo(np.float64).eps)
# The tape of a run that records nothing.
UNTAPED = np.empty((0, 0, 0, 0))


# ---- design


def absorption_filters(
    delays: Sequence[int] | NDArray[np.integer[Any]],
    t60_s: ArrayLike,
    *,
    sample_rate: float,
    bands_hz: ArrayLike | None = None,
    corners_hz: ArrayLike | None = None,
) -> Real:
    r"""Filters by which delay lines lose each frequency at its own rate.

    A line of m samples needs the magnitude :math:`\gamma(f)^m` with :math:`\gamma(f) = 10^{-3 / (f_s T_{60}(f))}`, in
    decibels :math:`-60\,m / (f_s T_{60}(f))`. A chain of first-order shelves comes near to it at the centre of every
    band; between them it is smooth, and beyond them flat.

    Parameters
    ----------
    delays : sequence of n ints
        Lengths m in samples.
    t60_s : float or array, shape (n_bands,)
        Time in which the tail decays by 60 dB, in each band.
    sample_rate : float
        Hz.
    bands_hz : array, shape (n_bands,), optional
        Their centres, rising, above 0 and below half the sample rate. One number of ``t60_s`` needs none.
    corners_hz : array, shape (n_sections,), optional
        Corners of the shelves, rising likewise; one between each two bands when absent.

    Returns
    -------
    ndarray, shape (n_sections, n, 2, 2)
        ``[z', w] = F [z, v]``: of each section and line the matrix that takes the state and the input to the next state
        and the output. One section, without a state, where there is one band.

    Raises
    ------
    ParameterError
        Times that are not positive, bands that do not rise or fit the times; or times so short, or so different from
        band to band, that shelves of first order, whose slopes are below 6 dB an octave, miss them by over 3 %.

    Notes
    -----
    The gains of the shelves are the least squares fit to the decay times, relative to these, in each line. First only
    shelves that cut are tried, those below the band of the longest time cut below their corners, the others above: this
    fits times that rise and fall once over frequency. Where it misses them by over 3 %, shelves may do anything.

    The state of a section is scaled so that F, without the gain of the line in the first section, has 2-norm 1 where it
    cuts. So a loop of cutting shelves has a 2-norm below one, and is proved to decay by it.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators". S. J. Schlecht, E.
    A. P. Habets (2017), "Accurate reverberation time control in feedback delay networks". K. Prawda, S. J. Schlecht, V.
    Välimäki (2019), "Improved reverberation time control for feedback delay networks".
    """
    m, times = whole_numbers("delays", delays), np.atleast_1d(reals("t60_s", t60_s))
    rate = number("sample_rate", sample_rate)
    if not (rate > 0 and np.all((times > 0) & np.isfinite(times))):
        raise ParameterError(f"{t60_s=} and {sample_rate=} must be positive and finite")
    if bands_hz is None and times.shape == (1,):
        wanted = -60 * m / (rate * times)
        _require_losses(wanted, t60_s, m)
        return np.pad(10 ** (wanted[None, :, None, None] / 20), ((0, 0), (0, 0), (1, 0), (1, 0)))
    centres = _frequencies("bands_hz", bands_hz, rate)
    if times.shape != centres.shape:
        raise ParameterError(f"t60_s of shape {times.shape} needs bands_hz of the same shape, not {centres.shape}")
    between = np.sqrt(centres[1:] * centres[:-1]) if len(centres) > 1 else centres
    corners = between if corners_hz is None else _frequencies("corners_hz", corners_hz, rate)
    wanted = -60 * m[:, None] / (rate * times)
    _require_losses(wanted, t60_s, m)
    edges = np.tan(np.pi * corners / rate)
    t = (np.tan(np.pi * centres / rate)[:, None] / edges) ** 2
    rises = corners < centres[np.argmax(times)]
    level, steps = _fitted(wanted, t, np.where(rises, 0, -MOST_DB), np.where(rises, MOST_DB, 0))
    if _missed(wanted, level, steps, t) > MISSED:
        level, steps = _fitted(wanted, t, np.full(len(corners), -MOST_DB), np.full(len(corners), MOST_DB))
    if (missed := _missed(wanted, level, steps, t)) > MISSED:
        raise ParameterError(
            f"{t60_s=} is missed by {100 * missed:.2g} %: too short, or too uneven, for shelves in lines of up to "
            f"{m.max():g} samples; shorten the lines, or smooth the times"
        )
    return _shelves(level, steps, edges)


def _frequencies(name: str, value: ArrayLike | None, rate: float) -> Real:
    found = reals(name, [] if value is None else value)
    inside = found.ndim == 1 and found.size and found[0] > 0 and found[-1] < rate / 2
    if not (inside and np.all(np.diff(found) > 0)):
        raise ParameterError(f"{name}={value!r} must rise, from above 0 to below half the sample rate, {rate / 2:g} Hz")
    return found


def _require_losses(wanted: Real, t60_s: ArrayLike, m: NDArray[np.int64]) -> None:
    if not (np.all(wanted < -1e-11) and np.all(wanted > -600)):
        raise ParameterError(f"{t60_s=} is beyond double precision for delays from {m.min():g} to {m.max():g} samples")


def _levels(x: Real, t: Real) -> tuple[Real, Real]:
    """In dB, of a level and of shelves that step from it above their corners, and the derivative by each of these.

    At squared frequencies ``t`` of their corners, as tangents.
    """
    g = 10 ** (x[1:] / 20)
    up, down = g * t, t / g
    slopes = (up / (1 + up) + down / (1 + down)) / 2
    return x[0] + 10 * np.log10((1 + up) / (1 + down)).sum(axis=1), np.column_stack([np.ones(len(t)), slopes])


def _fitted(wanted: Real, t: Real, low: Real, high: Real) -> tuple[Real, Real]:
    """Level below all corners and the step at each, in dB, of every line."""
    from scipy.optimize import least_squares

    def missed(x: Real, line: Real) -> Real:
        return _levels(x, t)[0] / line - 1

    def slopes(x: Real, line: Real) -> Real:
        return _levels(x, t)[1] / line[:, None]

    solve: Any = least_squares  # whose type is too narrow for a function with arguments
    bounds = np.append(-np.inf, low), np.append(np.inf, high)
    found = np.zeros((len(wanted), 1 + len(low)))
    x = np.append(wanted[0, 0], 0 * low)
    for i, line in enumerate(wanted):
        x = found[i] = solve(missed, x, slopes, bounds, args=(line,)).x
        # the next fit is nearly in proportion
        x = np.clip(x * wanted[min(i + 1, len(wanted) - 1), 0] / line[0], *bounds)
    return found[:, 0], found[:, 1:]


def _missed(wanted: Real, level: Real, steps: Real, t: Real) -> float:
    found = np.array([_levels(x, t)[0] for x in np.column_stack([level, steps])])
    return float(np.max(np.abs(wanted / found - 1)))


def _shelves(level: Real, steps: Real, edges: Real) -> Real:
    half = 10 ** (steps.T / 40)  # the root of the gain
    corner = edges[:, None]
    below = 1 / half + corner
    p = (1 / half - corner) / below
    # a step up is a cut below the corner
    cut = np.where(steps.T > 0, half**-2, 1.0)
    s, b1 = cut * (half + corner) / below, cut * (corner - half) / below
    c = b1 + p * s
    q = np.sqrt(np.abs(c))
    F = np.stack([np.stack([p, q], axis=-1), np.stack([np.copysign(q, c), s], axis=-1)], axis=-2)
    F[0, :, :, 1] *= 10 ** ((level + np.maximum(steps, 0).sum(axis=1)) / 20)[:, None]
    return F


# ---- kernels


@inline
def _angle(index: Any, pair: Any, wheel: Any) -> Any:
    """By how much a pair of lines is turned at the sample ``index``, a multiple of GRID."""
    cycles = wheel[0, pair] * index + wheel[1, pair]
    return wheel[2, pair] * math.sin(2 * math.pi * (cycles - math.floor(cycles)))


@inline
def _turned(index: Any, pair: Any, wheel: Any) -> Any:
    """That at any sample: straight lines between the multiples."""
    since = index % GRID
    begin = _angle(index - since, pair, wheel)
    return begin + since * ((_angle(index - since + GRID, pair, wheel) - begin) / GRID)


@inline
def _set_out(turn: Any, index: Any, wheel: Any) -> None:
    """Cosine and sine of every pair at a multiple of GRID, and of what each sample adds."""
    for pair in range(wheel.shape[1]):
        here = _angle(index, pair, wheel)
        step = (_angle(index + GRID, pair, wheel) - here) / GRID
        turn[0, pair], turn[1, pair] = math.cos(here), math.sin(here)
        turn[2, pair], turn[3, pair] = math.cos(step), math.sin(step)


@inline
def _on(c: Any, s: Any, along: Any, across: Any) -> Any:
    """Cosine and sine of the next sample."""
    return c * along - s * across, s * along + c * across


@inline
def _entry(i: Any, wide: Any) -> Any:
    """Where a line stands in the first frame of its square."""
    return i // wide * wide * wide + i % wide


@inline
def _through(table: Any, at: Any, work: Any, held: Any, x: Any, n_frames: Any, size: Any, lanes: Any) -> None:
    """Frames of ``work`` from ``x`` on through one section of as many lines as there are lanes."""
    p, q = load(table, at, lanes, lanes), load(table, at + size, lanes, lanes)
    r, s = load(table, at + 2 * size, lanes, lanes), load(table, at + 3 * size, lanes, lanes)
    z = load(work, held, lanes, lanes)
    for place in range(x, x + n_frames * len(lanes), len(lanes)):
        v = load(work, place, lanes, lanes)
        store(work, place, fma(r, z, s * v), lanes)
        z = fma(p, z, q * v)
    store(work, held, z, lanes)


@inline
def _excess(t60_s: Any, knob: Any) -> Any:
    """What every line of a sample loses, in nepers, beside its filters."""
    return knob[0] * (1 / t60_s - 1 / knob[1])


@kernel
def _forward(
    u: Any,
    y: Any,
    x: Any,
    index: Any,
    delays: Any,
    table: Any,
    weights: Any,
    wheel: Any,
    knob: Any,
    work: Any,
    tape: Any,
    shape: Any,
) -> None:
    """As many frames at a time as there are lanes: out of the lines, through the sections, turned, mixed, and back.

    Lanes are lines in the sections, and frames elsewhere. ``work`` holds what the sections hold, then a vector for each
    input, for each line (with those of as many lines as there are lanes as a square, to be turned over), and for each
    row of the matrix, and the gain of each line by the knob. ``tape`` gets, for each frame, what every section held and
    was given, and what came out.
    """
    lanes, pairs, group, turn, place, stop = shape
    wide, n, n_outputs, n_frames = len(lanes), delays.size, y.shape[2], u.shape[1]
    n_inputs = u.shape[2] - (1 if knob.size > 0 else 0)
    n_sections, size, half = table.shape[0], table.shape[2], wheel.shape[1]
    entries = n_sections * size
    squares = entries + n_inputs * wide
    outs = squares + size * wide
    kept = work.size - size
    held = 0.0
    taped = tape.shape[1] > 0
    step = min(wide, delays.min())
    for voice in range(u.shape[0]):
        end = voice * x.shape[1]
        for i in range(n):
            place[i] = end + index % delays[i]
            end += delays[i]
            stop[i] = end
        for s in range(n_sections):
            for i in range(n):
                work[s * size + i] = load(x, end + s * n + i, ONE, ONE)
        if half > 0 and index % GRID != 0:
            _set_out(turn, index - index % GRID, wheel)
            for pair in range(half):
                for _ in range(index % GRID):
                    turn[0, pair], turn[1, pair] = _on(turn[0, pair], turn[1, pair], turn[2, pair], turn[3, pair])
        t = 0
        while t < n_frames:
            n_new = min(min(step, n_frames - t), wide - (index + t) % wide)
            for i in range(n):
                goal = squares + i * wide
                if n_new == wide and place[i] + wide <= stop[i]:
                    store(work, goal, load(x, place[i], lanes, lanes), lanes)
                else:
                    for k in range(n_new):
                        store(work, goal + k, load(x, wrapped(place[i] + k, stop[i], delays[i]), ONE, ONE), ONE)
            for i in range(n_inputs):
                for k in range(n_new):
                    store(work, entries + i * wide + k, u[voice, t + k, i], ONE)
            for at in range(squares, outs, wide * wide):
                transpose(work, at, wide, work, at, wide, at + (wide - 1) * wide, lanes)
            for k in range(n_new if taped else 1):
                n_together = 1 if taped else n_new
                for s in range(n_sections):
                    for i in range(n if taped else 0):
                        tape[voice, t + k, 2 * s, i] = work[s * size + i]
                        tape[voice, t + k, 2 * s + 1, i] = work[squares + _entry(i, wide) + k * wide]
                    for i in range(0, size, wide):
                        at = squares + i * wide + k * wide
                        _through(table, 4 * s * size + i, work, s * size + i, at, n_together, size, lanes)
                for i in range(n if taped else 0):
                    tape[voice, t + k, 2 * n_sections, i] = work[squares + _entry(i, wide) + k * wide]
            # at every sample this would lengthen the recursion; 16 samples are too few to turn subnormal
            if (index + t + n_new) % REST == 0:
                for i in range(0, entries, wide):
                    store(work, i, flush(load(work, i, lanes, lanes)), lanes)
            turned = False
            for k in range(n_new if knob.size > 0 else 0):
                turned |= u[voice, t + k, n_inputs] != knob[1]
            for k in range(n_new if turned else 0):
                if u[voice, t + k, n_inputs] != held:
                    held = np.float64(u[voice, t + k, n_inputs])
                    for i in range(n):
                        work[kept + i] = math.exp(-_excess(held, knob) * delays[i])
                for i in range(0, size, wide):
                    at = squares + i * wide + k * wide
                    store(work, at, load(work, at, lanes, lanes) * load(work, kept + i, lanes, lanes), lanes)
            if half > 0:
                if (index + t) % GRID == 0:
                    _set_out(turn, index + t, wheel)
                for i in range(0, half, len(pairs)):
                    c, s = load(turn, i, pairs, pairs), load(turn, half + i, pairs, pairs)
                    along, across = load(turn, 2 * half + i, pairs, pairs), load(turn, 3 * half + i, pairs, pairs)
                    for k in range(0, n_new * wide, wide):
                        one, two = squares + _entry(i, wide) + k, squares + _entry(half + i, wide) + k
                        a, b = load(work, one, pairs, pairs), load(work, two, pairs, pairs)
                        store(work, one, c * a - s * b, pairs)
                        store(work, two, s * a + c * b, pairs)
                        c, s = _on(c, s, along, across)
                    store(turn, i, c, pairs)
                    store(turn, half + i, s, pairs)
            for at in range(squares, outs, wide * wide):
                transpose(work, at, wide, work, at, wide, at + (wide - 1) * wide, lanes)
            at, goal = 0, outs
            while at < weights.size:
                sums = affine(weights, at, ONE, work, entries, n_inputs + n, lanes, lanes, group)
                at += len(group) * (1 + n_inputs + n)
                for total in sums:
                    store(work, goal, flush(total), lanes)
                    goal += wide
            for i in range(n):
                source = outs + i * wide
                if n_new == wide and place[i] + wide <= stop[i]:
                    store(x, place[i], load(work, source, lanes, lanes), lanes)
                else:
                    for k in range(n_new):
                        goal = wrapped(place[i] + k, stop[i], delays[i])
                        store(x, goal, load(work, source + k, ONE, ONE), ONE)
                place[i] = wrapped(place[i] + n_new, stop[i], delays[i])
            for i in range(n_outputs):
                for k in range(n_new):
                    y[voice, t + k, i] = load(work, outs + (n + i) * wide + k, ONE, ONE)
            t += n_new
        for s in range(n_sections):
            for i in range(n):
                store(x, end + s * n + i, work[s * size + i], ONE)


@kernel
def _backward(
    dy: Any,
    u: Any,
    du: Any,
    dd: Any,
    dv: Any,
    r: Any,
    dz: Any,
    final: Any,
    index: Any,
    delays: Any,
    sections: Any,
    matrices: Any,
    wheel: Any,
    knob: Any,
    tape: Any,
    dsections: Any,
) -> None:
    """``dd[t]`` is the derivative by what the lines gave, ``dv[t]`` by what they got, ``r`` what was mixed."""
    a, b, c, d = matrices
    n, n_frames, n_sections, half = delays.size, dy.shape[1], sections.shape[0], wheel.shape[1]
    n_inputs = b.shape[1]
    for voice in range(dy.shape[0]):
        for t in range(n_frames - 1, -1, -1):
            first = 0
            for i in range(n):
                ahead = t + delays[i]
                # what is still inside a line at the end is the final state's business
                dv[voice, t, i] = dd[voice, ahead, i] if ahead < n_frames else final[voice, first + ahead - n_frames]
                first += delays[i]
                dd[voice, t, i] = 0
                r[voice, t, i] = tape[voice, t, 2 * n_sections, i]
                if knob.size > 0:
                    r[voice, t, i] *= math.exp(-_excess(u[voice, t, n_inputs], knob) * delays[i])
            for i in range(du.shape[2]):
                du[voice, t, i] = 0
            add_product(dd[voice, t], a, dv[voice, t])
            add_product(dd[voice, t], c, dy[voice, t])
            add_product(du[voice, t, :n_inputs], b, dv[voice, t])
            add_product(du[voice, t, :n_inputs], d, dy[voice, t])
            for i in range(half):
                angle = _turned(index + t, i, wheel)
                cosine, sine = math.cos(angle), math.sin(angle)
                e, f = r[voice, t, i], r[voice, t, half + i]
                r[voice, t, i], r[voice, t, half + i] = cosine * e - sine * f, sine * e + cosine * f
                e, f = dd[voice, t, i], dd[voice, t, half + i]
                dd[voice, t, i], dd[voice, t, half + i] = cosine * e + sine * f, cosine * f - sine * e
            if knob.size > 0:
                t60_s = u[voice, t, n_inputs]
                for i in range(n):
                    dd[voice, t, i] *= math.exp(-_excess(t60_s, knob) * delays[i])
                    slope = delays[i] * knob[0] / (t60_s * t60_s)
                    du[voice, t, n_inputs] += slope * tape[voice, t, 2 * n_sections, i] * dd[voice, t, i]
            for s in range(n_sections - 1, -1, -1):
                for i in range(n):
                    z, v, by_z, by_w = (
                        tape[voice, t, 2 * s, i],
                        tape[voice, t, 2 * s + 1, i],
                        dz[voice, s, i],
                        dd[voice, t, i],
                    )
                    F, dF = sections[s, i], dsections[s, i]
                    dF[0, 0] += by_z * z
                    dF[0, 1] += by_z * v
                    dF[1, 0] += by_w * z
                    dF[1, 1] += by_w * v
                    dz[voice, s, i] = F[0, 0] * by_z + F[1, 0] * by_w
                    dd[voice, t, i] = F[0, 1] * by_z + F[1, 1] * by_w


# ---- the filter


class DampedNetwork(Filter):
    r"""Delay lines that feed each other through an orthogonal matrix, every frequency fading in a time of its own.

    .. math::
        d_i[t] = v_i[t - m_i], \quad h_i = g_i[t]\,(F_i * d_i), \quad r = R[t]\,h, \quad v = A\,r + B\,u, \quad
        y = C\,r + D\,u

    F_i are first-order sections in series, see :func:`absorption_filters`. R, where the network is modulated, turns
    each pair of lines i, i + n/2 to and fro:

    .. math:: \begin{bmatrix} \cos\varphi_i & -\sin\varphi_i \\ \sin\varphi_i & \cos\varphi_i \end{bmatrix}, \qquad
              \varphi_i(t) = \varphi \sin(2\pi f_i t / f_s + 2\pi i / \lfloor n/2 \rfloor)

    with straight lines between every 256th sample, counted from the beginning: the same in whatever blocks it runs. The
    g_i are 1 unless there is a knob T[t] for the decay time, which shifts the rates of all frequencies alike:

    .. math:: g_i = 10^{-3 (m_i / f_s) (1 / T[t] - 1 / T_0)}, \qquad
              \frac{1}{T_{60}[t](f)} = \frac{1}{T_{60}(f)} + \frac{1}{T[t]} - \frac{1}{T_0}

    Parameters
    ----------
    delays : sequence of int
        Lengths m_i in samples; mutually prime ones give the smoothest tail.
    t60_s : float or array, shape (n_bands,)
        Time in which the tail decays by 60 dB, in each band.
    bands_hz : array, shape (n_bands,), optional
        Centres of the bands; none if there is one time for all frequencies.
    corners_hz : array, shape (n_sections,), optional
        Corners of the absorption filters; one between each two bands when absent.
    sample_rate : float
        Hz.
    n_channels : int
        Inputs and outputs.
    matrix : str or array
        A, orthogonal: a kind of :func:`orthogonal_matrix`, or the matrix itself.
    dry, wet : float
        Gains of the direct sound, and of the network, whose impulse response is normalised to about unit energy.
    modulation : float
        φ in radians, 0 for none.
    modulation_hz : float
        Middle of the f_i, which are spread by a quarter about it.
    control_s : float, optional
        T_0 in seconds: with it there is the control ``t60_s``, T[t], which stands for the decay time of the frequencies
        that are designed to fade in T_0.
    seed : int or Generator
        For the random matrices and the signs of B and C.

    Notes
    -----
    *Controls*: ``t60_s`` where ``control_s`` is given, from T_0 / 100 to where what fades slowest would take four times
    as long as designed; read at every sample.

    *Parameters*: ``A``, ``B``, ``C``, ``D``, and ``F`` (n_sections, n, 2, 2), where ``[z', w] = F [z, v]``.

    *State*: ``lines``, the delay lines one after the other; ``z`` (n_sections, n), what the sections hold. Zero at
    rest; float64 whatever the signal's dtype.

    *Linear*, and where it is modulated time-varying: ``linearize`` gives the network that it is at one sample.

    *Stability*: it decays, and forgets how it began, if
    :math:`\|A\|_2 \max_i \sup_\omega |\bar g_i F_i(e^{j\omega})| < 1`, :math:`\bar g_i` being the largest g_i, whatever
    the courses of R and of the knob. Proof: by the bounded real lemma there are P_i > 0 such that what leaves a line
    and what its sections hold, :math:`|d_i|^2 + z_i^T P_i z_i`, is more than :math:`\|A\|^2 |h_i|^2 + z_i'^T P_i z_i'`
    by a fixed share. R is orthogonal, so :math:`|v| \le \|A\|\,|h|`: the energy of lines and sections falls by that
    share of what leaves the lines, and within max m_i samples everything does. As designed A is orthogonal and every
    line loses at every frequency. The supremum is bounded from above between the frequencies of a grid, as the
    magnitude of a first-order section is monotone.

    Raises
    ------
    ParameterError
        What :func:`absorption_filters` refuses, or a matrix that is not orthogonal, or that does not fit the delays.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators". S. J. Schlecht, E. A.
    P. Habets (2015), "Time-varying feedback matrices in feedback delay networks and their application in artificial
    reverberation". M. A. Gerzon (1976), "Unitary (energy-preserving) multichannel networks with feedback".
    """

    def __init__(
        self,
        delays: Sequence[int] | NDArray[np.integer[Any]],
        *,
        t60_s: ArrayLike,
        bands_hz: ArrayLike | None = None,
        corners_hz: ArrayLike | None = None,
        sample_rate: float,
        n_channels: int = 1,
        matrix: str | ArrayLike = "householder",
        dry: float = 0.0,
        wet: float = 1.0,
        modulation: float = 0.0,
        modulation_hz: float = 0.5,
        control_s: float | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        rng = generator(seed)
        m, A = lines_and_matrix(delays, matrix, rng)
        F = absorption_filters(m, t60_s, sample_rate=sample_rate, bands_hz=bands_hz, corners_hz=corners_hz)
        B, C = sign_gains(m.size, n_channels, rng)
        C *= number("wet", wet) / np.sqrt(n_channels * mean_energy(F))
        config: dict[str, Any] = {
            "delays": tuple(int(i) for i in m),
            "n_inputs": n_channels,
            "n_outputs": n_channels,
            "n_sections": len(F),
            "modulation": number("modulation", modulation),
            "modulation_hz": number("modulation_hz", modulation_hz),
        }
        if control_s is not None:
            usual = number("control_s", control_s)
            config |= {"control_s": usual, "longest_s": max(usual, float(np.max(reals("t60_s", t60_s))))}
        params = {"A": A, "B": B, "C": C, "D": number("dry", dry) * np.eye(n_channels), "F": F}
        super().__init__(config, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        delays = self.config["delays"]
        if not (isinstance(delays, tuple) and delays and all(type(m) is int and 1 <= m <= MAX_STATES for m in delays)):
            raise ParameterError(
                f"{delays=}: every delay must be a whole number of samples, at least 1 and at most {MAX_STATES}"
            )
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_outputs = whole_number("n_outputs", self.config["n_outputs"])
        self.n_sections = whole_number("n_sections", self.config["n_sections"])
        depth, rate = (number(name, self.config[name]) for name in ("modulation", "modulation_hz"))
        if not (0 <= depth <= math.pi and rate >= 0):
            raise ParameterError(f"modulation={depth} must lie within 0 and pi, modulation_hz={rate} not below 0")
        if depth and self.sample_rate is None:
            raise ParameterError("sample_rate=None: a modulation in Hz needs one")
        self.is_linear = not depth
        # nepers a second that 1 / T stands for, and T_0
        self._knob = np.empty(0)
        if "control_s" in self.config:
            if self.sample_rate is None:
                raise ParameterError("sample_rate=None: a decay time in seconds needs one")
            usual, longest = (number(name, self.config[name]) for name in ("control_s", "longest_s"))
            if not 0 < usual <= longest:
                raise ParameterError(f"control_s={usual:g} must be positive, and at most longest_s={longest:g}")
            self.controls = (Control("t60_s", usual, usual / 100, 1 / (1 / usual - (1 - 1 / LONGER) / longest)),)
            self._knob = np.array([3 * math.log(10) / self.sample_rate, usual])
        lengths = np.array(delays, np.int64)
        lengths.flags.writeable = False
        self.delays = lengths.view()
        self.fields = (Field("lines", (sum(delays),), delays), Field("z", (self.n_sections, len(delays))))
        # cycles a sample, phase and depth of each pair
        pairs = np.arange(len(delays) // 2 if depth else 0) / max(len(delays) // 2, 1)
        cycles = rate * (0.75 + 0.5 * pairs) / (self.sample_rate or 1.0)
        self._wheel = np.stack([cycles, pairs, np.full(pairs.size, depth)])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, k, p = self.delays.size, self.n_inputs, self.n_outputs
        return {"A": (n, n), "B": (n, k), "C": (p, n), "D": (p, k), "F": (self.n_sections, n, 2, 2)}

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def _matrices(self) -> tuple[Real, ...]:
        return tuple(self._own[name].astype(np.float64, order="C") for name in "ABCD")

    @property
    def _sections(self) -> Real:
        return self._own["F"].astype(np.float64, order="C")

    def _packed(self) -> tuple[Any, ...]:
        """What :func:`_forward` gets beside signals, state and delays, and how to make its work."""
        n, k, rows = self.delays.size, self.n_inputs, self.delays.size + self.n_outputs
        wide = (None,) * lanes(np.dtype(np.float64))
        size = padded(n, len(wide))
        table = aligned((self.n_sections, 4, size), np.float64)
        table[:, :, :n] = self._sections.reshape(self.n_sections, n, 4).transpose(0, 2, 1)
        group = min(rows, GROUP)
        out = padded(rows, group)
        # in the order in which they are read: of a block of rows zeros to start from, then the columns
        columns = np.zeros((1 + k + n, out))
        A, B, C, D = self._matrices
        columns[1:, :rows] = np.block([[B, A], [D, C]]).T
        weights = columns.reshape(1 + k + n, -1, group).transpose(1, 0, 2).ravel()
        room = self.n_sections * size + len(wide) * (k + size + out) + size
        half = self._wheel.shape[1]
        pairs = wide if half % len(wide) == 0 else ONE
        shape = wide, pairs, (None,) * group
        make = partial(aligned, (room,), np.float64), partial(aligned, (4, half), np.float64)
        return table, weights, shape, make, partial(np.empty, (2, n), np.int64)

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: Real) -> None:
        table, weights, shape, (work, turn), places = self._derived("packed", self._packed)
        place, stop = state.workspace("places", places)
        shape = *shape, state.workspace("turn", turn), place, stop
        scribble = state.workspace("work", work)
        motion = self._wheel, self._knob_of(u.dtype)
        _forward(u, y, state.rows, state.index, self.delays, table, weights, *motion, scribble, tape, shape)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, UNTAPED)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        tape = np.empty((*u.shape[:2], 2 * self.n_sections + 1, self.delays.size))
        index = state.index
        self._run(u, state, y, tape)
        return y, (u, tape, index)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tape, index = memory
        n_voices, n_frames = u.shape[:2]
        n, length, sections = self.delays.size, int(self.delays.sum()), self._sections
        dy64, final = dy.astype(np.float64), dx.astype(np.float64)
        dz = final[:, length:].reshape(n_voices, self.n_sections, n).copy()
        du = np.empty(u.shape)
        dd, dv, r = (np.empty((n_voices, n_frames, n)) for _ in range(3))
        dF = np.zeros_like(sections)
        u64, loop = u.astype(np.float64), (sections, self._matrices, self._wheel, self._knob_of(u.dtype))
        _backward(dy64, u64, du, dd, dv, r, dz, final, index, self.delays, *loop, tape, dF)
        heard = u64[..., : self.n_inputs]
        lines = initial_lines(dd, np.ascontiguousarray(final[:, :length]), self.delays)
        initial = np.hstack([lines, dz.reshape(n_voices, -1)])
        outer = "vti,vtj->ij"
        params = {
            "A": np.einsum(outer, dv, r),
            "B": np.einsum(outer, dv, heard),
            "C": np.einsum(outer, dy64, r),
            "D": np.einsum(outer, dy64, heard),
            "F": dF,
        }
        return du.astype(u.dtype), initial.astype(dx.dtype), params

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        A, B, C, D = self._matrices
        n, S, F = self.delays.size, self.n_sections, self._sections
        lines, whole = np.arange(n), n * (S + 1)
        # what goes into each section, and what all hold next, from what the lines give and the sections hold
        signal, held = np.eye(n, whole), np.zeros((S * n, whole))
        for s in range(S):
            z = np.eye(whole)[n * (s + 1) + lines]
            p, q, r, through = (F[s, :, i, j, None] for i in (0, 1) for j in (0, 1))
            held[n * s + lines] = p * z + q * signal
            signal = r * z + through * signal
        turn, half = np.eye(n), self._wheel.shape[1]
        for i in range(half):
            angle = _turned(state.index, i, self._wheel)
            pair = np.ix_([i, half + i], [i, half + i])
            turn[pair] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        mixed = turn @ (self._gains(u[self.n_inputs :])[:, None] * signal)
        delays = np.concatenate([self.delays, np.ones(S * n, np.int64)])
        return space(
            np.vstack([A @ mixed, held]),
            np.vstack([B, np.zeros((S * n, self.n_inputs))]),
            C @ mixed,
            D,
            delays,
            sample_rate=self.sample_rate,
        )

    def _knob_of(self, dtype: np.dtype[Any]) -> Real:
        """For signals of this dtype, in which T_0, where nothing needs to be done, may be another number."""
        if not self._knob.size:
            return self._knob
        found: Real = self._derived(dtype, lambda: np.array([self._knob[0], dtype.type(self._knob[1])]))
        return found

    def _gains(self, t60_s: ArrayLike) -> Real:
        """g_i at the value of the knob, if there is one."""
        excess = np.sum(_excess(np.asarray(t60_s), self._knob)) if self._knob.size else 0.0
        return np.asarray(np.exp(-excess * self.delays))

    def absorption_response(self, w: ArrayLike) -> NDArray[np.complex128]:
        """F_i(e^{jw}) of every line at angles ``w`` (radians a sample), shape (n, n_lines)."""
        return response(self._sections, np.atleast_1d(reals("w", w)))

    def _loss(self) -> float:
        """The bound of the docstring: below one it decays."""
        longest = self._gains([control.high for control in self.controls])
        return peak(self._sections, longest) * float(np.linalg.norm(self._own["A"], 2))

    def _contraction(self) -> str | None:
        loss = self._derived("loss", self._loss)
        if loss < 1 - SLACK:
            return f"small gain: round a line no frequency keeps more than {loss:.6g} of its amplitude"
        return super()._contraction()

    def _boundedness(self) -> Boundedness:
        return Boundedness(self._contraction() is not None)


def response(F: Real, w: Real) -> NDArray[np.complex128]:
    """Of sections in series, shape (n, n_lines)."""
    z = np.exp(1j * w)[:, None, None]
    p, q, r, s = (F[None, :, :, i, j] for i in (0, 1) for j in (0, 1))
    return np.asarray((s + r * q / (z - p)).prod(axis=1))


def peak(F: Real, gains: ArrayLike = 1.0) -> float:
    """Upper bound of the gains of all lines over all frequencies, times ``gains``; infinite for an unstable section.

    A section of first order has a magnitude that rises or falls all the way over frequency, so between two frequencies
    none is above the larger of those there.
    """
    if np.max(np.abs(F[..., 0, 0])) >= 1:
        return np.inf
    z = np.exp(1j * np.append(0, np.geomspace(1e-5, np.pi, 2000)))[:, None, None]
    p, q, r, s = (F[..., i, j] for i in (0, 1) for j in (0, 1))
    # and what rounding may take from it, most of all near a pole
    gain = np.abs(s + r * q / (z - p)) + 8 * EPS * (np.abs(s) + np.abs(r * q) / np.abs(z - p) ** 2)
    return float((np.maximum(gain[1:], gain[:-1]).prod(axis=1) * gains).max())


def mean_energy(F: Real) -> float:
    """Of a response, about: what one signal sends in over what the average line loses, over all frequencies."""
    kept = np.mean(np.abs(response(F, np.pi * (np.arange(256) + 0.5) / 256)) ** 2, axis=1)
    return float(np.mean(kept / (1 - kept)))

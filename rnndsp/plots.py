"""Pictures of a filter: poles, responses, decay, spectrograms and losses, thin functions on top of the data functions.

Each takes ``ax``, a matplotlib axes to draw into, and returns the artists it drew; without it a new pyplot figure is
opened. Colours are those of Okabe and Ito, which the colour-blind tell apart, and nothing is told by colour alone.
Frequencies and times are in Hz and seconds where the filter has a sample rate, else relative to it and in samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from rnndsp import response, stability
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability import MARGIN, FrozenPoles, in_words
from rnndsp.state import State
from rnndsp.statespace import space

if TYPE_CHECKING:
    from rnndsp.training import Epoch

__all__ = [
    "decay_plot",
    "energy_decay_db",
    "frequency_response_plot",
    "frozen_pole_plot",
    "history_plot",
    "impulse_response_plot",
    "pole_decay_plot",
    "pole_plot",
    "spectrogram_plot",
]

BLUE, VERMILLION, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#333333"
STYLES = ((BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, ":"))  # of the first curves; more are not drawn
# A modal density at which curves of the magnitude are grass, and want an average.
MANY_STATES = 500
# Longer signals are drawn by the extremes of so many slices, as audio editors do.
SLICES = 4000
# How far the slowest mode fades within the responses that are drawn.
IMPULSE_DB, DECAY_DB = 75.0, 90.0

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]


def _axes(ax: Axes | None, width: float = 7.0, height: float = 4.0) -> Axes:
    if ax is None:
        from matplotlib import pyplot  # here, as it chooses a backend when it is imported

        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    return ax


def _rounded(radius: float) -> str:
    """A radius whose distance from 1 is not lost in rounding."""
    gap = abs(radius - 1)
    return f"{radius:.6g}" if gap >= 1e-6 or gap == 0 else f"1 {'−' if radius < 1 else '+'} {gap:.1e}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _duration(frames: float, rate: float | None) -> str:
    """A number of frames in words, as a time where the rate is known."""
    if rate:
        return in_words(frames / rate)
    return _count(round(frames), "sample")


def _time_axis(n_frames: int, rate: float | None) -> tuple[Real, str]:
    frames = np.arange(n_frames, dtype=np.float64)
    if rate is None:
        return frames, "time (samples)"
    return (frames / rate, "time (s)") if n_frames > rate else (1000 * frames / rate, "time (ms)")


def _hertz(rate: float | None) -> tuple[EngFormatter | str, str]:
    """How to write a frequency on an axis, and the name of that axis."""
    return (EngFormatter("Hz"), "frequency (Hz)") if rate else ("{x:g}", "frequency (cycles a sample)")


# ---- poles


def _z_plane(ax: Axes, rate: float | None, limit: float) -> None:
    """The unit circle with frequencies round it, and dotted ones by the time that a pole there takes to fade."""
    turn = np.exp(2j * np.pi * np.arange(361) / 360)
    ax.plot(turn.real, turn.imag, color=GREY, linewidth=1)
    ax.plot([-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1], color=GREY, linewidth=0.5)
    ax.set(xlim=(-1.16 * limit, 1.16 * limit), ylim=(-limit, limit), xlabel="real part", ylabel="imaginary part")
    ax.set_aspect("equal")
    if limit > 2.5:  # the circle is too small to write on
        return
    scale, unit = (rate, "s") if rate else (1.0, "")
    seconds = EngFormatter(unit)
    drawn = 0.1
    for frames in sorted(c * 10.0**e * scale for c in (1, 2, 5) for e in range(-9, 7)):
        radius = 10 ** (-3 / frames)
        if radius - drawn > 0.1 and radius < 0.9:
            ax.plot(radius * turn.real, radius * turn.imag, ":", color=GREY, linewidth=0.8)
            said = seconds(frames / scale) if rate else f"{frames:g}"
            ax.annotate(
                said,
                (0, -radius),
                ha="center",
                va="center",
                fontsize=7,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )
            drawn = radius
    nyquist = scale / 2
    marks = [f for f in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, nyquist) if f < 0.93 * nyquist]
    hertz = EngFormatter("Hz")
    away = 1 + 0.09 * limit
    for f in (*marks, nyquist):
        z = np.exp(1j * np.pi * f / nyquist)
        tick = z * np.array([1, (1 + away) / 2])
        for imag in (tick.imag, -tick.imag):
            ax.plot(tick.real, imag, color=GREY, linewidth=0.8)
        text = hertz(f) if rate else f"{f:g} $f_s$"
        side = "left" if z.real > 0.35 else "right" if z.real < -0.35 else "center"
        ax.text(away * z.real, away * z.imag, text, fontsize=8, color=INK, va="center", ha=side)
    ax.annotate(
        f"dotted: fades by 60 dB in so {'long' if rate else 'many samples'}",
        (0.01, 0.01),
        xycoords="axes fraction",
        fontsize=7,
        color=INK,
    )


def pole_plot(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    controls: Controls | None = None,
    poles: ArrayLike | None = None,
    ax: Axes | None = None,
) -> tuple[Line2D, Line2D]:
    """The z-plane: unit circle, a cross for each pole, frequencies round the circle.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    poles : array, optional
        Those of :func:`rnndsp.stability.poles`, where they are known already.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    fading, lasting : Line2D
        Crosses of the poles inside the circle, triangles for those on or outside of it.
    """
    found = stability.poles(filt, state, u, controls=controls) if poles is None else np.asarray(poles, np.complex128)
    ax = _axes(ax, 6.2, 5.6)
    radius = float(np.max(np.abs(found), initial=0))
    _z_plane(ax, filt.sample_rate, max(1.3, 1.15 * radius))
    # thousands of crosses are a cloud: smaller and paler, so that its density shows
    crowd = float(np.clip(np.log10(max(found.size, 1) / 50) / 2, 0, 1))
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8 - 5.5 * crowd, "alpha": 1 - 0.65 * crowd}
    out = np.abs(found) >= 1 - MARGIN
    inside, outside = found[~out], found[out]
    (fading,) = ax.plot(inside.real, inside.imag, marker="x", color=BLUE, **look)
    (lasting,) = ax.plot(outside.real, outside.imag, marker="^", color=VERMILLION, **look)
    if found.size <= 100:
        places, counts = np.unique(np.round(found, 3), return_counts=True)
        for z, n in zip(places[counts > 1], counts[counts > 1], strict=True):
            ax.annotate(f"×{n}", (z.real, z.imag), xytext=(5, 5), textcoords="offset points", fontsize=8)
    title = f"{_count(found.size, 'pole')}, spectral radius {_rounded(radius)}"
    # here rather than in a legend, which would hide some of the circle
    ax.set_title(title + (f"\n▲ on or outside the circle, does not fade: {outside.size:,}" if outside.size else ""))
    return fading, lasting


def pole_decay_plot(
    filt: Filter,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    controls: Controls | None = None,
    poles: ArrayLike | None = None,
    ax: Axes | None = None,
) -> tuple[Line2D, Line2D, Line2D]:
    """Frequency of each mode against the time it takes to fade by 60 dB: readable where poles hug the circle.

    One of each conjugate pair is drawn; modes that fade within a sample are left out.

    Parameters
    ----------
    filt, state, u, controls, poles, ax
        As in :func:`pole_plot`.

    Returns
    -------
    fading, growing, lasting : Line2D
        Crosses; triangles, at the time in which a mode grows by 60 dB; and squares at the upper edge for modes that do
        neither.
    """
    found = stability.poles(filt, state, u, controls=controls) if poles is None else np.asarray(poles, np.complex128)
    ax = _axes(ax)
    rate = filt.sample_rate or 1.0
    modes = found[found.imag >= 0]
    size = np.abs(modes)
    frequency = np.angle(modes) * rate / (2 * np.pi)
    with np.errstate(divide="ignore"):
        time = np.abs(3 / (rate * np.log10(size, where=size > 0, out=np.full(size.shape, -np.inf))))
    slow = time * rate >= 1
    on = np.abs(size - 1) <= MARGIN
    kinds = slow & (size < 1) & ~on, slow & (size > 1) & ~on, on
    crowd = float(np.clip(np.log10(max(modes.size, 1) / 50) / 2, 0, 1))
    look: dict[str, Any] = {"linestyle": "none", "markersize": 7 - 4.5 * crowd, "alpha": 1 - 0.7 * crowd}
    (fading,) = ax.plot(frequency[kinds[0]], time[kinds[0]], marker="x", color=BLUE, label="fades", **look)
    (growing,) = ax.plot(frequency[kinds[1]], time[kinds[1]], marker="^", color=VERMILLION, label="grows", **look)
    (lasting,) = ax.plot(
        frequency[on],
        np.full(np.count_nonzero(on), 0.97),
        marker="s",
        color=PURPLE,
        label="neither fades nor grows",
        transform=ax.get_xaxis_transform(),
        **look,
    )

    nyquist = rate / 2
    linear = 10.0 ** np.floor(np.log10(nyquist / 500) + 1e-9)
    decades = linear * 10.0 ** np.arange(np.floor(np.log10(nyquist / linear)) + 1)
    minor = [c * d for d in decades for c in range(2, 10) if c * d <= nyquist]
    form, label = _hertz(filt.sample_rate)
    ax.set_xscale("symlog", linthresh=linear, linscale=0.4)
    ax.xaxis.set_major_locator(FixedLocator([0, *decades]))
    ax.xaxis.set_minor_locator(FixedLocator(minor))
    ax.xaxis.set_major_formatter(form)
    ax.set_xlim(-0.15 * linear, 1.2 * nyquist)

    drawn = time[kinds[0] | kinds[1]]
    low, high = (drawn.min(), drawn.max()) if drawn.size else (10 / rate, 1000 / rate)
    ax.set_yscale("log")
    ax.set_ylim(low / 1.6, high * (2.5 if on.any() else 1.6))
    # few decades want more than the powers of ten named
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=20))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(EngFormatter("s") if filt.sample_rate else "{x:g}")
    if not drawn.size:
        ax.tick_params(axis="y", which="both", left=False, labelleft=False)
    verb = "fade or grow" if kinds[1].any() else "fade"
    ax.set_ylabel(f"time to {verb} by 60 dB ({'s' if filt.sample_rate else 'samples'})")
    ax.set_xlabel(label)
    ax.grid(alpha=0.3)
    ax.set_title(f"{_count(int(np.count_nonzero(slow | on)), 'mode')}, one of each pair of poles")
    kept = [line for line, kind in zip((fading, growing, lasting), kinds, strict=True) if kind.any()]
    if kinds[1].any() or on.any():
        ax.legend(handles=kept, fontsize=8)
    return fading, growing, lasting


def frozen_pole_plot(
    frozen: FrozenPoles, *, sample_rate: float | None = None, ax: Axes | None = None
) -> tuple[PathCollection, PathCollection, Colorbar]:
    """Poles of the small-signal filter along a trajectory, coloured by time.

    Parameters
    ----------
    frozen : FrozenPoles
        From :func:`rnndsp.stability.frozen_poles`.
    sample_rate : float, optional
        Hz.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    inside, outside : PathCollection
        Dots, and triangles for the poles on or outside of the unit circle.
    colorbar : Colorbar
    """
    ax = _axes(ax, 6.8, 5.6)
    z = frozen.poles.ravel()
    seconds = frozen.index / (sample_rate or 1.0)
    last = float(np.max(seconds, initial=0))
    unit, factor = ("samples", 1.0) if not sample_rate else ("s", 1.0) if last > 1 else ("ms", 1000.0)
    time = np.repeat(factor * seconds, frozen.poles.shape[1])
    largest = np.max(np.abs(frozen.poles), axis=1, initial=0)
    _z_plane(ax, sample_rate, max(1.3, 1.15 * float(np.max(largest, initial=0))))
    out = np.abs(z) >= 1 - MARGIN
    # later ones smaller, so that poles that stay where they are do not hide what came before
    size = 32 - 28 * time / max(factor * last, 1e-9)
    scale: dict[str, Any] = {"vmin": 0.0, "vmax": max(factor * last, 1e-9), "cmap": "viridis", "linewidths": 0}
    inside = ax.scatter(z[~out].real, z[~out].imag, size[~out], time[~out], marker="o", **scale)
    scale["linewidths"] = 0.8
    outside = ax.scatter(z[out].real, z[out].imag, size[out] + 15, time[out], marker="^", ec=VERMILLION, **scale)
    colorbar = ax.figure.colorbar(inside, ax=ax, label=f"time ({unit})", shrink=0.8)
    span = " to ".join(_rounded(float(edge(largest))) for edge in (np.min, np.max)) if largest.size else "unknown"
    beyond = int(np.count_nonzero(largest >= 1 - MARGIN))
    title = f"{_count(largest.size, 'frame')} along the signal, spectral radius {span}"
    ax.set_title(title + (f"\n▲ on or outside the circle in {_count(beyond, 'frame')}" if beyond else ""))
    return inside, outside, colorbar


# ---- responses


def _n_frames(filt: Filter, controls: Controls | None, poles: ArrayLike | None, decay_db: float) -> int:
    """How much of an impulse response to look at: what it takes to fade, or to see it grow, within reason."""
    try:
        linear = filt.linearize(controls=controls)
        found = stability.poles(filt, controls=controls) if poles is None else np.asarray(poles)
    except RnndspError:  # no time-invariant filter stands for it, or it has too many poles to find
        return int(np.clip(filt.latency + filt.n_states + 16 * filt.period, 1024, 2**17))
    radius = float(np.max(np.abs(found), initial=0))
    memory = min(filt.latency + int(linear.delays.sum()), 2**21) + 1
    most = int(np.clip(2**28 // max(len(linear.A), 1) ** 2, 2**12, 2**19 if filt.is_linear else 2**17))
    if radius > 1 + MARGIN:
        grown = 1 / np.log10(radius)  # by 20 dB, which still shows how it began
        return int(np.clip(grown + memory, 8, min(150 * grown, most))) if filt.is_linear else 4096
    if radius >= 1 - MARGIN:
        return int(min(max(4096, 16 * memory), most))
    ring = stability.t60_s(radius, 1.0) * decay_db / 60
    return int(max(32, min(ring, most) + memory))


def _curves(h: NDArray[Any]) -> int:
    return min(int(h.shape[-1]), len(STYLES))


def _extremes(t: Real, y: Real) -> tuple[Real, Real]:
    """The curve, or where it is long the least and the largest value of each slice."""
    if y.size <= 2 * SLICES:
        return t, y
    starts = np.arange(SLICES) * y.size // SLICES
    both = np.stack([np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)], axis=1)
    return np.repeat(t[starts], 2), both.ravel()


def impulse_response_plot(
    filt: Filter,
    n_frames: int | None = None,
    *,
    channel: int = 0,
    level: float = 1.0,
    controls: Controls | None = None,
    ax: Axes | None = None,
) -> list[Line2D]:
    """The output for an impulse on one input, see :func:`rnndsp.response.impulse_response`.

    Parameters
    ----------
    filt : Filter
    n_frames : int, optional
        When absent, what the slowest mode takes to fade by 75 dB, or to grow by 20 dB, some seconds at most.
    channel, level, controls
        As in :func:`rnndsp.response.impulse_response`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Line2D
        One an output, four at most. More than 8000 samples are drawn by their extremes in 4000 slices.
    """
    n_frames = _n_frames(filt, controls, None, IMPULSE_DB) if n_frames is None else n_frames
    h = response.impulse_response(filt, n_frames, channel=channel, level=level, controls=controls)
    ax = _axes(ax)
    t, label = _time_axis(n_frames, filt.sample_rate)
    lines = []
    for place, (color, style) in zip(range(_curves(h)), STYLES, strict=False):
        look: dict[str, Any] = {"marker": "o", "markersize": 3} if n_frames <= 100 else {}
        x, y = _extremes(t, h[:, place])
        lines += ax.plot(x, y, style, color=color, linewidth=1, label=f"output {place + 1}", **look)
    peak = float(np.max(np.abs(h), initial=0))
    early = float(np.max(np.abs(h[: n_frames // 4 + 1]), initial=0))
    if peak > 4 * early > 0:  # it grows: show how it began, cut what comes of it
        ax.set_ylim(max(1.05 * float(h.min()), -4 * early), min(1.05 * float(h.max()), 4 * early))
    if len(lines) > 1:
        ax.legend(fontsize=8)
    ax.axhline(0, color=GREY, linewidth=0.5)
    ax.set(xlabel=label, ylabel="amplitude")
    ax.margins(x=0.01)
    ax.grid(alpha=0.3)
    note = "" if filt.is_linear else f", for a level of {level:g} (nonlinear: depends on it)"
    ax.set_title("impulse response" + note)
    return lines


def energy_decay_db(h: ArrayLike) -> Real:
    """Energy still to come, in dB of all of it.

    Parameters
    ----------
    h : array, shape (n_frames, ...)
        Impulse response; the result has its shape.

    References
    ----------
    M. R. Schroeder (1965), "New method of measuring reverberation time".
    """
    energy = np.cumsum(np.square(np.asarray(h, np.float64))[::-1], axis=0)[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        decay: Real = 10 * np.log10(energy / energy[:1])
    return decay


def _fitted_t60(decay_db: Real) -> float:
    """Twice the frames in which a straight line through -5 to -35 dB falls by 30 dB (ISO 3382), else NaN."""
    span = np.flatnonzero((decay_db <= -5) & (decay_db >= -35))
    # what falls only at the very end has been cut off, and has not faded
    if span.size < 3 or span[-1] > 0.9 * len(decay_db):
        return np.nan
    return float(-60 / np.polyfit(span, decay_db[span], 1)[0])


def decay_plot(
    filt: Filter,
    n_frames: int | None = None,
    *,
    channel: int = 0,
    level: float = 1.0,
    controls: Controls | None = None,
    ax: Axes | None = None,
) -> list[Line2D]:
    """The energy decay curve of the impulse response, in dB, with the decay time fitted to it.

    Parameters
    ----------
    filt, n_frames, channel, level, controls, ax
        As in :func:`impulse_response_plot`; by default long enough to fade by 90 dB.

    Returns
    -------
    list of Line2D
        One an output, four at most. Their labels name the time in which they fall by 60 dB, as fitted from -5 to -35.
    """
    n_frames = _n_frames(filt, controls, None, DECAY_DB) if n_frames is None else n_frames
    h = response.impulse_response(filt, n_frames, channel=channel, level=level, controls=controls)
    ax = _axes(ax)
    t, label = _time_axis(n_frames, filt.sample_rate)
    lines = []
    for place, (color, style) in zip(range(_curves(h)), STYLES, strict=False):
        decay = energy_decay_db(h[:, place])
        fitted = _fitted_t60(decay)
        said = f"60 dB in {_duration(fitted, filt.sample_rate)}" if np.isfinite(fitted) else "no straight fall by 30 dB"
        step = max(1, n_frames // SLICES)
        shown = np.where(np.isfinite(decay), decay, np.nan)[::step]
        lines += ax.plot(t[::step], shown, style, color=color, label=f"output {place + 1}: {said}")
    ax.legend(fontsize=8, loc="upper right")
    heard = np.flatnonzero(np.any(energy_decay_db(h[:, : len(STYLES)]) >= -90, axis=1))
    ax.set(xlabel=label, ylabel="energy still to come (dB)", ylim=(-85, 5))
    ax.set_xlim(0, t[heard[-1]] if heard.size and heard[-1] else None)
    ax.grid(alpha=0.3)
    ax.set_title("energy decay")
    return lines


def _third_octaves(frequency: Real, power: Real) -> Real:
    """The mean power within a sixth of an octave on either side; the grid is logarithmic."""
    half = max(1, round((len(frequency) - 1) / np.log2(frequency[-1] / frequency[0]) / 6))
    total = np.concatenate([np.zeros((1, *power.shape[1:])), np.cumsum(power, axis=0)])
    at = np.arange(len(power))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(power))
    mean: Real = (total[high] - total[low]) / (high - low).reshape(-1, *[1] * (power.ndim - 1))
    return mean


def frequency_response_plot(
    filt: Filter,
    frequency: ArrayLike | None = None,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Controls | None = None,
    ax: Axes | None = None,
) -> tuple[list[Line2D], list[Line2D]]:
    """Magnitude in dB against frequency: of a linear filter, or of the small-signal filter of any other.

    Parameters
    ----------
    filt : Filter
    frequency : array, optional
        In Hz where the filter has a sample rate, else in cycles a sample, and ascending. When absent, a logarithmic
        grid over three decades up to half the sample rate.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    curves, averages : list of Line2D
        A curve each of up to four pairs of output and input; and third-octave averages on top of them where the filter
        has more than 500 states and no ``frequency`` is given, else none.
    """
    linear = filt.linearize(state, u, controls=controls)
    pairs = list(product(range(linear.n_outputs), range(linear.n_inputs)))
    # no more of it than is drawn
    p, k = min(linear.n_outputs, len(STYLES)), min(linear.n_inputs, len(STYLES))
    linear = space(linear.A, linear.B[:, :k], linear.C[:p], linear.D[:p, :k], linear.delays)
    rate = filt.sample_rate or 1.0
    dense = frequency is None and linear.n_states > MANY_STATES
    grid = np.geomspace(rate / 2000, rate / 2, 8192 if dense else 1024)
    if frequency is not None:
        grid = np.asarray(frequency, np.float64)
    # in pieces, as a matrix is inverted for each frequency
    pieces = np.array_split(grid, 1 + grid.size * len(linear.A) ** 2 // 2**21)
    h = np.concatenate([linear.frequency_response(2 * np.pi * piece / rate) for piece in pieces])
    power = np.abs(h) ** 2
    ax = _axes(ax)
    curves: list[Line2D] = []
    averages: list[Line2D] = []
    with np.errstate(divide="ignore"):
        db, mean_db = 10 * np.log10(power), 10 * np.log10(_third_octaves(grid, power)) if dense else None
    for (out, into), (color, style) in zip(pairs, STYLES, strict=False):
        name = f"output {out + 1}" + (f", input {into + 1}" if k > 1 else "")
        if mean_db is None:
            curves += ax.plot(grid, db[:, out, into], style, color=color, label=name)
        else:
            curves += ax.plot(grid, db[:, out, into], color=color, linewidth=0.3, alpha=0.35)
            averages += ax.plot(grid, mean_db[:, out, into], style, color=color, label=f"{name}, third-octave mean")
    if len(pairs) > 1 or dense:
        title = f"first {len(STYLES)} of {len(pairs)}" if len(pairs) > len(STYLES) else None
        ax.legend(fontsize=8, title=title, title_fontsize=8)
    shown = np.concatenate([np.asarray(curve.get_ydata(), np.float64) for curve in curves])
    shown = shown[np.isfinite(shown)]
    if shown.size:
        top = float(shown.max())
        bottom = max(float(np.percentile(shown, 0.5)) if dense else float(shown.min()), top - 120)
        ax.set_ylim(min(bottom, top - 12) - 3, top + 3)
    form, label = _hertz(filt.sample_rate)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(form)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(grid[0], grid[-1])
    ax.set(xlabel=label, ylabel="magnitude (dB)")
    ax.grid(alpha=0.3)
    ax.set_title("frequency response" + ("" if filt.is_linear else " for small signals about one operating point"))
    return curves, averages


def spectrogram_plot(
    y: ArrayLike, sample_rate: float, *, n_fft: int = 1024, range_db: float = 90.0, ax: Axes | None = None
) -> AxesImage:
    """Listening with the eyes: level against time and frequency, a sine of amplitude 1 being 0 dB.

    Parameters
    ----------
    y : array, shape (n_frames,) or (n_frames, n_channels)
        Channels are averaged in power.
    sample_rate : float
        Hz.
    n_fft : int
        Length of a frame in samples, under a Hann window.
    range_db : float
        Levels further than this below the loudest are drawn as silence.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    AxesImage
        Its data are the levels in dB, frequency by time; ``colorbar`` is its colour bar.
    """
    signal = np.asarray(y, np.float64)
    if signal.ndim not in (1, 2) or not signal.size or not np.isfinite(signal).all():
        raise ParameterError(f"y of shape {signal.shape}: give (n_frames,) or (n_frames, n_channels), all of it finite")
    signal = signal.reshape(len(signal), -1)
    signal = np.pad(signal, ((0, max(0, n_fft - len(signal))), (0, 0)))
    hop = max(n_fft // 4, len(signal) // 2000)  # no more columns than a picture has
    window = np.hanning(n_fft + 1)[:-1]
    power = np.zeros((n_fft // 2 + 1, (len(signal) - n_fft) // hop + 1))
    for column in range(power.shape[1]):
        frame = signal[column * hop : column * hop + n_fft]
        power[:, column] = np.mean(np.abs(np.fft.rfft(window[:, None] * frame, axis=0)) ** 2, axis=1)
    db = 10 * np.log10(power * (2 / window.sum()) ** 2 + 1e-30)
    ax = _axes(ax)
    # a column stands in the middle of its frame
    start, stop = (n_fft - hop) / 2 / sample_rate, ((n_fft - hop) / 2 + power.shape[1] * hop) / sample_rate
    half_bin = sample_rate / n_fft / 2
    image = ax.imshow(
        db,
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=float(db.max()) - range_db,
        vmax=float(db.max()),
        extent=(start, stop, -half_bin, sample_rate / 2 + half_bin),
    )
    ax.figure.colorbar(image, ax=ax, label="level (dB)")
    ax.set_ylim(0, sample_rate / 2)
    ax.yaxis.set_major_formatter(EngFormatter("Hz"))
    ax.set(xlabel="time (s)", ylabel="frequency (Hz)")
    ax.set_title("spectrogram")
    return image


# ---- training


def history_plot(history: Sequence[Epoch], *, ax: Axes | None = None) -> tuple[Line2D, Line2D, Line2D]:
    """Losses against the epochs of a training.

    Parameters
    ----------
    history : sequence of Epoch
        Of a :class:`rnndsp.training.Fit`. The losses have a logarithmic scale where they are positive and the largest
        is more than ten times the least.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    training, validation, best : Line2D
        Two curves, and a ring round the least validation loss of all epochs (the weights it started from may have been
        better, see :attr:`Fit.best`); round the last training loss where there are no validation data.
    """
    losses = np.array([(epoch.loss, epoch.validation) for epoch in history], np.float64).reshape(-1, 2).T
    epochs = np.arange(1, losses.shape[1] + 1)
    held_out = np.isfinite(losses[1])
    row, kept = (1, int(np.argmin(np.where(held_out, losses[1], np.inf)))) if held_out.any() else (0, epochs.size - 1)
    ax = _axes(ax)
    look: dict[str, Any] = {"marker": ".", "markersize": 4 if epochs.size <= 100 else 0}
    (training,) = ax.plot(epochs, losses[0], "-", color=BLUE, label="training", **look)
    (validation,) = ax.plot(epochs, losses[1], "--", color=VERMILLION, label="validation", **look)
    ring: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 9, "fillstyle": "none", "color": INK}
    ring["label"] = "best epoch" if row else "last epoch"
    (best,) = ax.plot(epochs[kept:][:1], losses[row, kept:][:1], **ring)
    shown = losses[np.isfinite(losses)]
    if shown.size and shown.min() > 0 and shown.max() > 10 * shown.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    ax.set(xlabel="epoch", ylabel="loss")
    ax.grid(alpha=0.3)
    ax.legend(handles=[training, validation, best] if row else [training, best], fontsize=8)
    ax.set_title(_count(epochs.size, "epoch") + (f", the best is {kept + 1}" if row else ""))
    return training, validation, best

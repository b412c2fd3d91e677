"""What comes out: responses to an impulse and to sines, and spectrograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from rnndsp import response, stability
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.plots._style import GREY, STYLES, axes, duration, hertz, time_axis
from rnndsp.response import energy_decay_db, fitted_t60
from rnndsp.stability.spectrum import MARGIN
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, space

__all__ = [
    "bode_plot",
    "decay_plot",
    "energy_decay_db",
    "frequency_response_plot",
    "group_delay_plot",
    "impulse_response_plot",
    "singular_value_plot",
    "spectrogram_plot",
]

# A modal density at which curves of the magnitude are grass, and want an average.
MANY_STATES = 500
# Longer signals are drawn by the extremes of so many slices, as audio editors do.
SLICES = 4000
# How far the slowest mode fades within the responses that are drawn.
IMPULSE_DB, DECAY_DB = 75.0, 90.0

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]


def response_frames(filt: Filter, controls: Controls | None, poles: ArrayLike | None, decay_db: float) -> int:
    """How much of an impulse response to look at: what it takes to fade, or to see it grow, within reason."""
    try:
        linear = filt.linearize(controls=controls)
        found = stability.poles(filt, controls=controls) if poles is None else np.asarray(poles)
    except RnndspError:  # no time-invariant filter stands for it, or it has too many poles to find
        return int(np.clip(filt.latency + filt.n_states + 16 * filt.period, 1024, 2**17))
    radius = float(np.max(np.abs(found), initial=0))
    memory = min(filt.latency + int(linear.delays.sum()), 2**21) + 1
    most = int(np.clip(2**31 // max(len(linear.A), 1) ** 2, 2**12, 2**19 if filt.is_linear else 2**17))
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
    n_frames = response_frames(filt, controls, None, IMPULSE_DB) if n_frames is None else n_frames
    h = response.impulse_response(filt, n_frames, channel=channel, level=level, controls=controls)
    ax = axes(ax)
    t, label = time_axis(n_frames, filt.sample_rate)
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
    n_frames = response_frames(filt, controls, None, DECAY_DB) if n_frames is None else n_frames
    h = response.impulse_response(filt, n_frames, channel=channel, level=level, controls=controls)
    ax = axes(ax)
    t, label = time_axis(n_frames, filt.sample_rate)
    lines = []
    for place, (color, style) in zip(range(_curves(h)), STYLES, strict=False):
        decay = energy_decay_db(h[:, place])
        fitted = fitted_t60(decay)
        said = f"60 dB in {duration(fitted, filt.sample_rate)}" if np.isfinite(fitted) else "no straight fall by 30 dB"
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
    linear = _drawn(filt, state, u, controls)
    grid, dense = _grid(linear, frequency)
    power = np.abs(response.frequency_response(linear, grid).h) ** 2
    ax = axes(ax)
    curves: list[Line2D] = []
    averages: list[Line2D] = []
    with np.errstate(divide="ignore"):
        db, mean_db = 10 * np.log10(power), 10 * np.log10(_third_octaves(grid, power)) if dense else None
    for (out, into), name, (color, style) in _pairs(linear):
        if mean_db is None:
            curves += ax.plot(grid, db[:, out, into], style, color=color, label=name)
        else:
            curves += ax.plot(grid, db[:, out, into], color=color, linewidth=0.3, alpha=0.35)
            averages += ax.plot(grid, mean_db[:, out, into], style, color=color, label=f"{name}, third-octave mean")
    if linear.n_outputs * linear.n_inputs > 1 or dense:
        _legend(ax, filt)
    shown = np.concatenate([np.asarray(curve.get_ydata(), np.float64) for curve in curves])
    shown = shown[np.isfinite(shown)]
    if shown.size:
        top = float(shown.max())
        bottom = max(float(np.percentile(shown, 0.5)) if dense else float(shown.min()), top - 120)
        ax.set_ylim(min(bottom, top - 12) - 3, top + 3)
    _frequency_axis(ax, filt, grid, "frequency response")
    ax.set_ylabel("magnitude (dB)")
    return curves, averages


def bode_plot(
    filt: Filter,
    frequency: ArrayLike | None = None,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Controls | None = None,
    ax: tuple[Axes, Axes] | None = None,
) -> tuple[list[Line2D], list[Line2D], list[Line2D]]:
    """Magnitude in dB, and below it the unwrapped phase in degrees.

    Parameters
    ----------
    filt, frequency, state, u, controls
        As in :func:`frequency_response_plot`.
    ax : pair of matplotlib.axes.Axes, optional
        For the magnitude and for the phase.

    Returns
    -------
    curves, averages : list of Line2D
        Of the magnitude, as in :func:`frequency_response_plot`.
    phases : list of Line2D
        A curve each of the same pairs of output and input.
    """
    if ax is None:
        from matplotlib import pyplot  # here, as it chooses a backend when it is imported

        _, ax = pyplot.subplots(2, sharex=True, figsize=(7.0, 6.0), layout="constrained")
    upper, lower = ax
    curves, averages = frequency_response_plot(filt, frequency, state=state, u=u, controls=controls, ax=upper)
    linear = _drawn(filt, state, u, controls)
    grid, dense = _grid(linear, frequency)
    phase = np.degrees(response.phase_response(linear, grid).radians)
    phases: list[Line2D] = []
    for (out, into), name, (color, style) in _pairs(linear):
        phases += lower.plot(grid, phase[:, out, into], style, color=color, label=name)
    _frequency_axis(lower, filt, grid, "")
    lower.yaxis.set_major_locator(MaxNLocator(steps=[1, 1.8, 4.5, 9, 10]))
    # between modes that the grid does not resolve the phase is not followed for sure
    lower.set_ylabel("phase (degrees, roughly)" if dense else "phase (degrees)")
    upper.set_xlabel("")
    return curves, averages, phases


def group_delay_plot(
    filt: Filter,
    frequency: ArrayLike | None = None,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Controls | None = None,
    ax: Axes | None = None,
) -> tuple[list[Line2D], list[Line2D]]:
    """Group delay against frequency, in ms where the sample rate is known, else in samples.

    Parameters
    ----------
    filt, frequency, state, u, controls, ax
        As in :func:`frequency_response_plot`.

    Returns
    -------
    curves, averages : list of Line2D
        As in :func:`frequency_response_plot`; the averages are over third octaves, weighted with the power, which is
        when the energy of that band comes out on the average.
    """
    linear = _drawn(filt, state, u, controls)
    grid, dense = _grid(linear, frequency)
    scale, unit = (1000 / filt.sample_rate, "ms") if filt.sample_rate else (1.0, "samples")
    delay = response.group_delay(linear, grid).samples * scale
    ax = axes(ax)
    curves: list[Line2D] = []
    averages: list[Line2D] = []
    if dense:
        power = np.abs(response.frequency_response(linear, grid).h) ** 2
        mean = _third_octaves(grid, power * np.nan_to_num(delay)) / _third_octaves(grid, power)
    for (out, into), name, (color, style) in _pairs(linear):
        if dense:
            curves += ax.plot(grid, delay[:, out, into], color=color, linewidth=0.3, alpha=0.35)
            averages += ax.plot(grid, mean[:, out, into], style, color=color, label=f"{name}, third-octave mean")
        else:
            curves += ax.plot(grid, delay[:, out, into], style, color=color, label=name)
    if linear.n_outputs * linear.n_inputs > 1 or dense:
        _legend(ax, filt)
    shown = np.concatenate([np.asarray(curve.get_ydata(), np.float64) for curve in curves])
    shown = shown[np.isfinite(shown)]
    if shown.size:  # the spikes beside zeros of the response are cut off
        low, high = np.percentile(shown, [2, 98])
        room = 0.5 * (high - low) + 0.02 * abs(high) + 1e-6 * scale
        ax.set_ylim(max(low - room, shown.min() - room / 4), min(high + room, shown.max() + room / 4))
    _frequency_axis(ax, filt, grid, "group delay")
    ax.set_ylabel(f"delay ({unit})")
    return curves, averages


def singular_value_plot(
    filt: Filter,
    frequency: ArrayLike | None = None,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Controls | None = None,
    ax: Axes | None = None,
) -> list[Line2D]:
    """The largest and the least gain over all mixes of the inputs, and those between, in dB against frequency.

    Parameters
    ----------
    filt, frequency, state, u, controls, ax
        As in :func:`frequency_response_plot`.

    Returns
    -------
    list of Line2D
        One a singular value, largest first.
    """
    linear = filt.linearize(state, u, controls=controls)
    grid, dense = _grid(linear, frequency)
    with np.errstate(divide="ignore"):
        db = 20 * np.log10(response.singular_values(linear, grid).values)
    ax = axes(ax)
    look: dict[str, Any] = {"linewidth": 0.5} if dense else {}
    lines: list[Line2D] = []
    for place, values in enumerate(db.T):
        color, style = STYLES[place % len(STYLES)]
        lines += ax.plot(grid, values, style, color=color, label=f"{place + 1}", **look)
    if 1 < len(lines) <= len(STYLES):
        ax.legend(fontsize=8, title="singular value", title_fontsize=8)
    _frequency_axis(ax, filt, grid, "singular values")
    ax.set_ylabel("gain (dB)")
    return lines


def _drawn(filt: Filter, state: State | None, u: ArrayLike | None, controls: Controls | None) -> DelayStateSpace:
    """The linear filter between the first inputs and outputs: no more of it than is drawn."""
    linear = filt.linearize(state, u, controls=controls)
    p, k = min(linear.n_outputs, len(STYLES)), min(linear.n_inputs, len(STYLES))
    B, C, D = linear.B[:, :k], linear.C[:p], linear.D[:p, :k]
    return space(linear.A, B, C, D, linear.delays, sample_rate=filt.sample_rate)


def _pairs(linear: DelayStateSpace) -> Iterator[tuple[tuple[int, int], str, tuple[str, str]]]:
    """Output and input of each curve, its name, and its colour and style."""
    pairs = product(range(linear.n_outputs), range(linear.n_inputs))
    for (out, into), style in zip(pairs, STYLES, strict=False):
        yield (out, into), f"output {out + 1}" + (f", input {into + 1}" if linear.n_inputs > 1 else ""), style


def _grid(linear: DelayStateSpace, frequency: ArrayLike | None) -> tuple[Real, bool]:
    """Frequencies to draw at, and whether there are more modes than can be told apart."""
    if frequency is not None:
        return np.asarray(frequency, np.float64), False
    rate = linear.sample_rate or 1.0
    dense = linear.n_states > MANY_STATES
    return np.geomspace(rate / 2000, rate / 2, 8192 if dense else 1024), dense


def _frequency_axis(ax: Axes, filt: Filter, grid: Real, title: str) -> None:
    form, label = hertz(filt.sample_rate)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(form)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel(label)
    ax.grid(alpha=0.3)
    if title:
        ax.set_title(title + ("" if filt.is_linear else " for small signals about one operating point"))


def _legend(ax: Axes, filt: Filter) -> None:
    n_pairs = filt.n_outputs * filt.n_inputs
    title = f"first {len(STYLES)} of {n_pairs}" if n_pairs > len(STYLES) else None
    ax.legend(fontsize=8, title=title, title_fontsize=8)


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
    ax = axes(ax)
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

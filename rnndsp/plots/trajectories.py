"""What becomes of small differences: Lyapunov exponents, gradients against the lag, runs that part or meet."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from rnndsp.plots._style import BLUE, GREY, INK, STYLES, VERMILLION, axes, count
from rnndsp.stability import GradientNorms, LyapunovSpectrum, Sensitivity

__all__ = ["gradient_plot", "lyapunov_plot", "lyapunov_trace_plot", "sensitivity_plot"]

Real = NDArray[np.float64]

# Smaller gradients are not worth drawing.
LOWEST_DB = -200.0


def lyapunov_plot(spectrum: LyapunovSpectrum, *, ax: Axes | None = None) -> BarContainer:
    """A bar for each Lyapunov exponent, with its 95 % confidence interval.

    Parameters
    ----------
    spectrum : LyapunovSpectrum
        From :func:`rnndsp.stability.lyapunov_spectrum`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    BarContainer
        Positive exponents are hatched; those of -inf reach below the axis and are marked with a triangle.
    """
    ax = axes(ax)
    scale, unit = (spectrum.sample_rate, "nats a second") if spectrum.sample_rate else (1.0, "nats a sample")
    value, interval = spectrum.exponents * scale, spectrum.interval * scale
    lost = np.isneginf(value)
    known = value[~lost]
    low, high = float(np.min(known, initial=0)), float(np.max(known, initial=0))
    room = 0.08 * ((high - low) or 1.0)
    floor = low - (3 if lost.any() else 1) * room
    place = np.arange(1, value.size + 1)
    grows = value > 0
    bars = ax.bar(
        place,
        np.where(lost, floor, value),
        0.8 if value.size <= 40 else 1.0,
        color=np.where(grows, VERMILLION, BLUE).tolist(),
    )
    for bar, up in zip(bars, grows, strict=True):
        if up:
            bar.set_hatch("//")
            bar.set_edgecolor("white")
    half = np.where(lost | np.isnan(interval[:, 0]), 0, value - interval[:, 0])
    ax.errorbar(
        place[~lost], known, half[~lost], fmt="none", ecolor=INK, elinewidth=1, capsize=min(4, 100 / value.size)
    )
    if lost.any():
        ax.plot(place[lost], np.full(np.count_nonzero(lost), floor + room / 2), "v", color="white", markersize=5)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlim=(0.3, value.size + 0.7), ylim=(floor, high + room), xlabel="exponent, largest first", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(axis="y", alpha=0.3)
    what = "conditional Lyapunov exponents" if spectrum.conditional else "Lyapunov exponents"
    first, half_first = float(value[0]), float(half[0])
    said = f"{what}, the largest {first:.4g}" + (f" ± {half_first:.2g}" if half_first else "") + f" {unit}"
    verdict = (
        "differences grow: chaos" if interval[0, 0] > 0 else "differences fade" if interval[0, 1] < 0 else "neither"
    )
    if np.isnan(interval[0]).any():
        verdict = "differences grow" if first > 0 else "differences fade"
    dimension = f", dimension {spectrum.dimension:.3g}" if spectrum.dimension > 0 else ""
    gone = f", ▼ −∞: {np.count_nonzero(lost)} lost at once" if lost.any() else ""
    ax.set_title(f"{said}\n{verdict}{dimension}{gone}")
    return bars


def lyapunov_trace_plot(spectrum: LyapunovSpectrum, *, ax: Axes | None = None) -> list[Line2D]:
    """Estimates of the largest Lyapunov exponents against the number of frames that went in: have they settled?

    Parameters
    ----------
    spectrum : LyapunovSpectrum
        From :func:`rnndsp.stability.lyapunov_spectrum`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Line2D
        Of the first four.
    """
    ax = axes(ax)
    scale, unit = (spectrum.sample_rate, "nats a second") if spectrum.sample_rate else (1.0, "nats a sample")
    lines = []
    shown = [i for i in range(min(len(STYLES), spectrum.exponents.size)) if np.isfinite(spectrum.exponents[i])]
    for i in shown:
        colour, style = STYLES[i]
        lines += ax.plot(spectrum.index, scale * spectrum.trace[:, i], style, color=colour, label=f"λ{'₁₂₃₄'[i]}")
        ax.axhspan(*(scale * np.nan_to_num(spectrum.interval[i])), color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="frames", ylabel=unit, title="convergence, with the 95 % intervals at the end")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(alpha=0.3)
    if lines:
        ax.legend(fontsize=8)
    return lines


def gradient_plot(norms: GradientNorms, *, ax: Axes | None = None) -> list[Line2D]:
    """Norms of gradients through time against the lag: medians, and the middle half of all starts as a band.

    Parameters
    ----------
    norms : GradientNorms
        From :func:`rnndsp.stability.gradient_norms`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Line2D
        State by state, output by state, output by input. A curve ends where nothing is left.
    """
    ax = axes(ax)
    lag, label = _lags(norms.lag[1:], norms.sample_rate)
    kinds = (
        ("state by state", norms.state_db),
        ("output by state", norms.output_db),
        ("output by input", norms.input_db),
    )
    lines = []
    for (name, db), (colour, style) in zip(kinds, STYLES, strict=False):
        low, middle, high = np.quantile(db[:, 1:], [0.25, 0.5, 0.75], axis=0, method="nearest")
        lines += ax.plot(lag, _finite(middle), style, color=colour, label=name)
        ax.fill_between(lag, _finite(low), _finite(high), color=colour, alpha=0.2, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xscale="log", xlabel=label, ylabel="norm of the gradient (dB)")
    low, high = ax.dataLim.intervaly
    ax.set_ylim(max(low - 5, LOWEST_DB), max(high, LOWEST_DB) + 10)
    if norms.sample_rate:
        ax.xaxis.set_major_formatter(EngFormatter("s"))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    slope = "" if np.isinf(norms.exponent) else f": {20 / np.log(10) * norms.exponent:.3g} dB a sample"
    ax.set_title(f"gradients through time, {norms.verdict}{slope}\n{count(norms.start.size, 'start')} along the signal")
    return lines


def sensitivity_plot(runs: Sensitivity, *, ax: Axes | None = None) -> tuple[list[Line2D], Line2D]:
    """Distance against time of runs that start near each other, on the same input.

    Parameters
    ----------
    runs : Sensitivity
        From :func:`rnndsp.stability.sensitivity`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    runs : list of Line2D
    median : Line2D
        The thick one. Curves end where the states have become equal.
    """
    ax = axes(ax)
    time, label = _lags(runs.index[1:], runs.sample_rate, "time")
    distance = np.where(runs.distance[:, 1:] > 0, runs.distance[:, 1:], np.nan)
    thin = ax.plot(time, distance.T, color=BLUE, alpha=0.35, linewidth=0.8)
    middle = np.quantile(runs.distance[:, 1:], 0.5, axis=0, method="nearest")
    (median,) = ax.plot(time, np.where(middle > 0, middle, np.nan), color=BLUE, linewidth=2, label="median")
    ax.axhline(runs.size, color=VERMILLION, linestyle="--", linewidth=1, label="at the start")
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel="distance of the states")
    ax.set_xlim(0.9 * time[0], 1.1 * time[-1])
    if runs.sample_rate:
        ax.xaxis.set_major_formatter(EngFormatter("s"))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    last = middle[-1] / runs.size
    end = f"are {last:.2g} times as far apart" if last else "have met"
    ax.set_title(f"{count(len(runs.distance), 'run')} from a distance of {runs.size:g}: at the end they {end}")
    return thin, median


def _lags(frames: NDArray[np.int64], rate: float | None, what: str = "lag") -> tuple[Real, str]:
    return (frames / rate, f"{what} (s)") if rate else (frames.astype(np.float64), f"{what} (samples)")


def _finite(db: Real) -> Real:
    """With gaps, not with infinities."""
    return np.where(np.isfinite(db), db, np.nan)

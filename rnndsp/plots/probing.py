"""Rest states: what throws a filter from one into another, and how many there are over the range of a knob."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.plots._style import BLUE, GREY, INK, VERMILLION, axes
from rnndsp.stability.probing import ADRIFT, BLOWN_UP, NO_REST, POWER_ON, RestProbe, RestSweep

__all__ = ["rest_probe_plot", "rest_sweep_plot"]

# Where ends and starts stand that are no rest states, in parts of the axes; rest states keep to the middle.
CORNERS = {POWER_ON: (0.09, 0.94), BLOWN_UP: (0.91, 0.94), ADRIFT: (0.09, 0.06), NO_REST: (0.91, 0.06)}
MARGIN = 0.4
# How far arrows turn aside, in parts of their length, so that those there and back do not meet.
BEND, LEAST_BEND = 0.15, 0.07
# A gain of nothing is drawn this far below the others.
SILENT_DB = 20.0
MAX_NOTES = 24

Real = NDArray[np.float64]
Spot = tuple[float, float]


def rest_probe_plot(probe: RestProbe, *, output: int = 0, ax: Axes | None = None) -> list[Artist]:
    """Rest states by their gain and DC, and arrows for the gentlest stimulus that leads from one to another.

    Open circles are rest states from which a small disturbance leads away; the larger a circle, the more of the random
    initial states end there. A dotted arrow leads from power-on to where the filter settles on silence.

    Parameters
    ----------
    probe : RestProbe
    output : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Artist
        One circle a rest state, then one arrow a transition.
    """
    ax = axes(ax, 9.0, 4.6)
    rests = probe.rest_states
    if rests and whole_number("output", output, least=0) >= rests[0].dc.size:
        raise ParameterError(f"{output=}: the filter has {rests[0].dc.size} outputs, counted from 0")
    gains = np.array([rest.gain_db[output] for rest in rests])
    low = np.min(gains[np.isfinite(gains)], initial=np.inf)
    gains[~np.isfinite(gains)] = low - SILENT_DB if np.isfinite(low) else 0.0
    dc = np.array([rest.dc[output] for rest in rests])
    spots = _spots(ax, dc, gains)
    circles: list[Artist] = []
    for rest, x, y, spot in zip(rests, dc, gains, spots, strict=True):
        share = 0.0 if np.isnan(rest.share) else rest.share
        face, ink = ("white", BLUE) if abs(rest.pole) >= 1 else (BLUE, "white")
        circles.append(
            ax.scatter(x, y, s=150 + 900 * share, facecolors=face, edgecolors=BLUE, linewidths=1.5, zorder=3)
        )
        _text(ax, spot, rest.name, color=ink, weight="bold")
    places = {**CORNERS, **{rest.name: spot for rest, spot in zip(rests, spots, strict=True)}}
    ends = {name for move in probe.transitions for name in (move.start, move.end)}
    for name in CORNERS.keys() & {*ends, POWER_ON, probe.power_on}:
        _text(ax, CORNERS[name], name, bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": GREY})
    _arrow(ax, places[POWER_ON], places[probe.power_on], 0.0, color=GREY, linestyle=":")
    arrows: list[Artist] = []
    notes = [
        f"{rest.name}: gain {rest.gain_db[output]:g} dB" for rest in rests if not np.isfinite(rest.gain_db[output])
    ]
    for number, move in enumerate(probe.transitions, 1):
        arrow, middle = _arrow(ax, places[move.start], places[move.end], BEND, color=VERMILLION)
        arrows.append(arrow)
        _text(
            ax,
            middle,
            str(number),
            color=VERMILLION,
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": VERMILLION},
        )
        notes.append(f"{number}  {move.start} → {move.end}: {move}")
    if probe.trials and not probe.transitions:
        notes.append("no stimulus tried moves it")
    ax.legend(
        handles=[Line2D([], [], linestyle="none", label=note) for note in notes[:MAX_NOTES]],
        title="dotted: power-on, then silence",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        handlelength=0,
        handletextpad=0,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        frameon=False,
    )
    held = ", ".join(f"{name} {value:g}" for name, value in probe.controls.items())
    ax.set(
        xlabel="output at silence (DC)",
        ylabel=f"gain at {_hertz(probe.frequency_hz)} (dB)",
        title="rest states" + (f", {held}" if held else ""),
    )
    ax.grid(alpha=0.3)
    return [*circles, *arrows]


def rest_sweep_plot(
    sweep: RestSweep, quantity: str = "gain", *, output: int = 0, ax: Axes | None = None
) -> list[Artist]:
    """Gain or DC of each rest state over the range of a control; where there are several the background is grey.

    Parameters
    ----------
    sweep : RestSweep
    quantity : str
        "gain" or "dc".
    output : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Line2D
        Where the filter settles when it is switched on, and all other rest states.
    """
    if quantity not in ("gain", "dc"):
        raise ParameterError(f'{quantity=} must be "gain" or "dc"')
    n_outputs = max((rest.dc.size for found in sweep.rest_states for rest in found), default=1)
    if whole_number("output", output, least=0) >= n_outputs:
        raise ParameterError(f"{output=}: the filter has {n_outputs} outputs, counted from 0")
    ax = axes(ax)
    points: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for value, found in zip(sweep.values, sweep.rest_states, strict=True):
        for rest in found:
            level = rest.gain_db[output] if quantity == "gain" else rest.dc[output]
            points[rest.power_on].append((float(value), float(level)))
    edges = [sweep.values[0], *sweep.boundaries, sweep.values[-1]]
    numbers = [*sweep.counts[:, 0], sweep.n_rest[-1]]
    for low, high, number in zip(edges[:-1], edges[1:], numbers, strict=True):
        if number > 1:
            ax.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0)
        words = f"{number} rest state{'s' * int(number != 1)}"
        middle = float(low + high) / 2
        ax.annotate(
            words,
            (middle, 1.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    for value in sweep.boundaries:
        ax.axvline(value, color=INK, linestyle="--", linewidth=0.8)
        ax.annotate(
            f"{value:.4g}",
            (value, 0.01),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            rotation=90,
        )
    lines: list[Artist] = []
    looks: dict[bool, dict[str, Any]] = {
        True: {"marker": "o", "color": BLUE, "label": "settles here when switched on"},
        False: {"marker": "s", "color": VERMILLION, "markerfacecolor": "none", "label": "other rest state"},
    }
    for first, look in looks.items():
        x, y = np.array(points[first]).reshape(-1, 2).T
        lines += ax.plot(x, y, linestyle="none", markersize=5, **look)
    if points[False]:
        ax.legend(fontsize=8)
    label = f"gain at {_hertz(sweep.frequency_hz)} (dB)" if quantity == "gain" else "output at silence (DC)"
    ax.set(xlabel=sweep.control, ylabel=label)
    ax.set_title("rest states", pad=18)
    ax.grid(alpha=0.3)
    return lines


def _spots(ax: Axes, x: Real, y: Real) -> list[Spot]:
    """Where points stand in parts of the axes, which get room round them, also where all are one but for rounding."""
    spots = []
    for axis, values in zip("xy", (x, y), strict=True):
        low, high = (float(values.min()), float(values.max())) if values.size else (-1.0, 1.0)
        least = 0.1 * max(abs(low), abs(high)) or 1.0
        spread = max(high - low, least)
        low, high = (low + high - spread) / 2 - MARGIN * spread, (low + high + spread) / 2 + MARGIN * spread
        ax.set(**{f"{axis}lim": (low, high)})
        spots.append((values - low) / (high - low))
    return [(float(across), float(up)) for across, up in zip(*spots, strict=True)]


def _arrow(ax: Axes, start: Spot, end: Spot, bend: float, **look: Any) -> tuple[FancyArrowPatch, Spot]:
    """An arrow between places in the axes, both as parts of them, that turns aside as it goes; and its middle."""
    a, b = np.array(start), np.array(end)
    aside = np.array([a[1] - b[1], b[0] - a[0]])
    length = float(np.hypot(*aside)) or 1.0
    top = (a + b) / 2 + 2 * (bend and max(bend, LEAST_BEND / length)) * aside
    t = np.linspace(0.1, 0.9, 33)[:, None]
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * top + t**2 * b
    arrow = FancyArrowPatch(path=Path(curve), arrowstyle="-|>", mutation_scale=12, transform=ax.transAxes, **look)
    ax.add_patch(arrow)
    return arrow, (float(curve[16, 0]), float(curve[16, 1]))


def _text(ax: Axes, spot: Spot, words: str, color: str = INK, **look: Any) -> None:
    ax.annotate(
        words, spot, xycoords="axes fraction", ha="center", va="center", fontsize=9, color=color, zorder=4, **look
    )


def _hertz(frequency: float) -> str:
    return str(EngFormatter("Hz")(frequency))

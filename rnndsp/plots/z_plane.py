"""Poles in the z-plane, and how long each rings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from rnndsp import stability
from rnndsp.errors import RnndspError
from rnndsp.filter import Filter
from rnndsp.plots._style import BLUE, GREEN, GREY, INK, PURPLE, VERMILLION, axes, count, hertz, rounded
from rnndsp.stability import FrozenPoles
from rnndsp.stability.spectrum import MARGIN
from rnndsp.state import State

__all__ = ["frozen_pole_plot", "pole_decay_plot", "pole_plot"]

Controls = Mapping[str, ArrayLike]

# Poles up to which the way of each is drawn, and zeros and hidden modes are looked for.
MAX_TRACKED = 200


def z_plane(ax: Axes, rate: float | None, limit: float) -> None:
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
) -> tuple[Line2D, Line2D, Line2D, Line2D]:
    """The z-plane: unit circle, a cross for each pole, a ring for each zero, frequencies round the circle.

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
    zeros, hidden : Line2D
        Rings for the zeros, and grey boxes round the poles that no input drives or no output hears; of filters with up
        to 200 states.
    """
    found = stability.poles(filt, state, u, controls=controls) if poles is None else np.asarray(poles, np.complex128)
    zeros, hidden = np.zeros(0, np.complex128), np.zeros(0, np.complex128)
    if found.size <= MAX_TRACKED:
        with suppress(RnndspError):
            zeros = stability.zeros(filt, state, u, controls=controls)
            hidden = stability.hidden_modes(filt, state, u, controls=controls).pole
    ax = axes(ax, 6.2, 5.6)
    radius = float(np.max(np.abs(found), initial=0))
    z_plane(ax, filt.sample_rate, max(1.3, 1.15 * radius))
    # thousands of crosses are a cloud: smaller and paler, so that its density shows
    crowd = float(np.clip(np.log10(max(found.size, 1) / 50) / 2, 0, 1))
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8 - 5.5 * crowd, "alpha": 1 - 0.65 * crowd}
    out = np.abs(found) >= 1 - MARGIN
    inside, outside = found[~out], found[out]
    (fading,) = ax.plot(inside.real, inside.imag, marker="x", color=BLUE, **look)
    (lasting,) = ax.plot(outside.real, outside.imag, marker="^", color=VERMILLION, **look)
    ring: dict[str, Any] = {"linestyle": "none", "fillstyle": "none", "markersize": 8}
    (rings,) = ax.plot(zeros.real, zeros.imag, marker="o", color=GREEN, **ring)
    boxes: dict[str, Any] = {"markerfacecolor": "white", "markersize": 10, "alpha": 0.75, "zorder": 2.5}
    (boxed,) = ax.plot(hidden.real, hidden.imag, marker="s", color=GREY, linestyle="none", **boxes)
    for several, offset in ((found, (5, 5)), (zeros, (5, -11))):
        if several.size <= 100:
            places, counts = np.unique(np.round(several, 2), return_counts=True)
            for z, n in zip(places[counts > 1], counts[counts > 1], strict=True):
                if max(abs(z.real), abs(z.imag)) < ax.get_ylim()[1]:
                    ax.annotate(f"×{n}", (z.real, z.imag), xytext=offset, textcoords="offset points", fontsize=8)
    title = f"{count(found.size, 'pole')}, spectral radius {rounded(radius)}"
    # here rather than in a legend, which would hide some of the circle
    others = [f"▲ on or outside the circle, does not fade: {outside.size:,}"] * (outside.size > 0)
    far = int(np.count_nonzero(np.maximum(np.abs(zeros.real) / 1.16, np.abs(zeros.imag)) > ax.get_ylim()[1]))
    others += [f"○ {count(zeros.size, 'zero')}" + (f", {far} far outside" if far else "")] * (zeros.size > 0)
    others += [f"□ hidden: {hidden.size:,}"] * (hidden.size > 0)
    ax.set_title(title + ("\n" + ", ".join(others) if others else ""))
    return fading, lasting, rings, boxed


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
    ax = axes(ax)
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
    form, label = hertz(filt.sample_rate)
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
    ax.set_title(f"{count(int(np.count_nonzero(slow | on)), 'mode')}, one of each pair of poles")
    kept = [line for line, kind in zip((fading, growing, lasting), kinds, strict=True) if kind.any()]
    if kinds[1].any() or on.any():
        ax.legend(handles=kept, fontsize=8)
    return fading, growing, lasting


def frozen_pole_plot(
    frozen: FrozenPoles, *, sample_rate: float | None = None, ax: Axes | None = None
) -> tuple[PathCollection, PathCollection, Colorbar]:
    """Poles of the small-signal filter along a trajectory, coloured by time, each joined with itself.

    Which pole is which is told by :func:`rnndsp.stability.track`, and drawn where there are no more than 200.

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
    ax = axes(ax, 6.8, 5.6)
    z = frozen.poles.ravel()
    seconds = frozen.index / (sample_rate or 1.0)
    last = float(np.max(seconds, initial=0))
    unit, factor = ("samples", 1.0) if not sample_rate else ("s", 1.0) if last > 1 else ("ms", 1000.0)
    time = np.repeat(factor * seconds, frozen.poles.shape[1])
    largest = np.max(np.abs(frozen.poles), axis=1, initial=0)
    z_plane(ax, sample_rate, max(1.3, 1.15 * float(np.max(largest, initial=0))))
    out = np.abs(z) >= 1 - MARGIN
    # later ones smaller, so that poles that stay where they are do not hide what came before
    size = (32 - 28 * time / max(factor * last, 1e-9)) * float(np.clip(40 / max(largest.size, 1), 0.15, 1))
    scale: dict[str, Any] = {"vmin": 0.0, "vmax": max(factor * last, 1e-9), "cmap": "viridis", "linewidths": 0}
    if frozen.poles.shape[1] <= MAX_TRACKED:
        tracked = stability.track(frozen.poles)
        path = np.stack([tracked.real, tracked.imag], axis=-1)
        steps = np.stack([path[:-1], path[1:]], axis=2).reshape(-1, 2, 2)
        ways = LineCollection(list(steps), cmap="viridis", linewidths=0.7, alpha=0.5, zorder=1.5)
        ways.set_array(time[: len(steps)])
        ways.set_clim(scale["vmin"], scale["vmax"])
        ax.add_collection(ways)
    inside = ax.scatter(z[~out].real, z[~out].imag, size[~out], time[~out], marker="o", **scale)
    scale["linewidths"] = 0.8
    outside = ax.scatter(z[out].real, z[out].imag, size[out] + 15, time[out], marker="^", ec=VERMILLION, **scale)
    colorbar = ax.figure.colorbar(inside, ax=ax, label=f"time ({unit})", shrink=0.8)
    span = " to ".join(rounded(float(edge(largest))) for edge in (np.min, np.max)) if largest.size else "unknown"
    beyond = int(np.count_nonzero(largest >= 1 - MARGIN))
    title = f"{count(largest.size, 'frame')} along the signal, spectral radius {span}"
    ax.set_title(title + (f"\n▲ on or outside the circle in {count(beyond, 'frame')}" if beyond else ""))
    return inside, outside, colorbar

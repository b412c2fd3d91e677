"""Feedback loops: the Nyquist curve with its margins, and the root locus."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from rnndsp.plots._style import BLUE, GREEN, GREY, INK, PURPLE, VERMILLION, axes, count
from rnndsp.plots.z_plane import z_plane
from rnndsp.stability.loops import Margins, Nyquist, RootLocus

__all__ = ["nyquist_plot", "root_locus_plot"]

# A curve of more points is drawn thin, one of still more as dots, and one of still more thinned out.
FULL, LINE, DOTS = 2000, 30000, 100000
# A curve that goes further out than this is cut off, here.
FAR, CUT = 6.0, 3.0
# So many critical gains are named.
NAMED = 6


def nyquist_plot(
    curve: Nyquist, margins: Margins | None = None, *, ax: Axes | None = None
) -> tuple[Line2D, Line2D, Line2D, list[Line2D | Circle]]:
    """The loop gain at all frequencies, about its critical point +1.

    Parameters
    ----------
    curve : Nyquist
        From :func:`rnndsp.stability.nyquist`.
    margins : Margins, optional
        From :func:`rnndsp.stability.margins`, to be marked. The disk, which the curve touches and does not enter, is
        drawn for a loop of one channel.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    positive, negative : Line2D
        The curve, and its mirror image at negative frequencies.
    critical : Line2D
        The critical point.
    marks : list of Line2D or Circle
        The gain and phase margins and the disk, as far as there are any.
    """
    ax = axes(ax, 6.2, 5.6)
    z = curve.curve
    crowded = z.size > LINE
    shown = z[:: 1 + z.size // DOTS] if crowded else z
    wide = 1.4 if z.size < FULL else 0.5
    look: dict[str, Any] = {"linestyle": "none", "marker": ",", "alpha": 0.5} if crowded else {"linewidth": wide}
    (positive,) = ax.plot(shown.real, shown.imag, color=BLUE, label="from 0 to half the sample rate", **look)
    look |= {} if crowded else {"linestyle": "--", "linewidth": 0.6 * wide}
    (negative,) = ax.plot(shown.real, -shown.imag, color=BLUE, label="negative frequencies", **look)
    size = np.max(np.abs(z), initial=0)
    limit = CUT if size > FAR else max(1.6, 1.3 * size)
    if not crowded:
        _arrow(ax, z[np.abs(z) < limit], positive)
    one = curve.n_channels == 1
    turn = np.exp(2j * np.pi * np.arange(361) / 360)
    ax.plot([-9 * limit, 9 * limit, np.nan, 0, 0], [0, 0, np.nan, -9 * limit, 9 * limit], color=GREY, linewidth=0.5)
    marks: list[Line2D | Circle] = []
    if one:
        ax.plot(turn.real, turn.imag, ":", color=GREY, linewidth=1, label="unit circle")
        if margins is not None:
            marks = _marks(ax, margins)
    (critical,) = ax.plot([1], [0], "P", color=VERMILLION, markersize=9, label="critical point +1", zorder=5)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="real part", ylabel="imaginary part")
    ax.set_aspect("equal")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, loc="upper left")
    name = "loop gain L" if one else "1 − det(I − L)"
    far = f", out to {size:.3g}" if size > FAR else ""
    ax.set_title(f"Nyquist curve: {name}{far}\n{_verdict(curve)}", fontsize=10)
    return positive, negative, critical, marks


def _verdict(curve: Nyquist) -> str:
    if curve.encirclements is None:
        return "runs through the critical point, or too close to it to tell"
    turns = f"{count(abs(curve.encirclements), 'turn')} about +1" + (
        "" if not curve.encirclements else ", counterclockwise" if curve.encirclements > 0 else ", clockwise"
    )
    if curve.unstable_closed is None:
        return turns
    return f"{turns}; unstable poles: {curve.unstable_open:,} of the open, {curve.unstable_closed:,} of the closed loop"


def _arrow(ax: Axes, z: Any, line: Line2D) -> None:
    """Which way the frequency rises, in the middle of what is seen."""
    length = np.cumsum(np.abs(np.diff(z, prepend=z[:1])))
    i = int(np.searchsorted(length, 0.4 * length[-1])) if z.size else 0
    if 0 < i < z.size and z[i] != z[i - 1]:
        start, end = ((z[j].real, z[j].imag) for j in (i - 1, i))
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": line.get_color(), "mutation_scale": 16})


def _marks(ax: Axes, margins: Margins) -> list[Line2D | Circle]:
    marks: list[Line2D | Circle] = []
    if margins.disk < 2:
        near, far = (2 - margins.disk) / (2 + margins.disk), (2 + margins.disk) / (2 - margins.disk)
        said = f"disk margin {margins.disk:.3g}: {margins.disk_gain_db:.2g} dB and {margins.disk_phase_deg:.2g}°"
        disk = Circle(((near + far) / 2, 0), (far - near) / 2, fc=GREEN, ec=INK, alpha=0.2, hatch="//", label=said)
        ax.add_patch(disk)
        marks.append(disk)
    for db, name in ((margins.gain_up_db, "gain margin"), (margins.gain_down_db, "gain margin downwards")):
        if np.isfinite(db):
            look: dict[str, Any] = {"color": PURPLE, "markersize": 8, "label": f"{name} {db:.3g} dB"}
            marks += ax.plot([10 ** (-db / 20)], [0], "o" if db > 0 else "s", fillstyle="none", **look)
    if np.isfinite(margins.phase_deg):
        at = np.exp(1j * np.radians(margins.phase_deg) * np.array([1, -1]))
        look = {"color": PURPLE, "markersize": 8, "label": f"phase margin {margins.phase_deg:.3g}°"}
        marks += ax.plot(at.real, at.imag, "D", fillstyle="none", **look)
    return marks


def root_locus_plot(
    locus: RootLocus, *, ax: Axes | None = None
) -> tuple[list[Line2D], PathCollection, Line2D, Line2D, Line2D, Colorbar]:
    """Where the poles of a loop go while the gain of its backward path rises.

    Parameters
    ----------
    locus : RootLocus
        From :func:`rnndsp.stability.root_locus`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    branches : list of Line2D
    poles : PathCollection
        Dots, coloured by the gain.
    first, last : Line2D
        Crosses and squares at the first and at the last gain.
    critical : Line2D
        Triangles where a pole is on the unit circle, named with their gain where they are six or fewer.
    colorbar : Colorbar
    """
    ax = axes(ax, 6.8, 5.6)
    z, gains = locus.poles, locus.gains
    z_plane(ax, locus.sample_rate, float(np.clip(1.15 * np.max(np.abs(z), initial=0), 1.3, 2.4)))
    branches = ax.plot(z.real, z.imag, "-", color=GREY, linewidth=0.7, zorder=1.5)
    spread = np.repeat(gains, z.shape[1])
    poles = ax.scatter(z.real.ravel(), z.imag.ravel(), 9 if z.size < 3000 else 2, spread, cmap="viridis", zorder=2)
    look: dict[str, Any] = {"linestyle": "none", "fillstyle": "none", "markersize": 7 if z.shape[1] < 100 else 4}
    (first,) = ax.plot(z[0].real, z[0].imag, marker="x", color=INK, **look)
    (last,) = ax.plot(z[-1].real, z[-1].imag, marker="s", color=BLUE, **look)
    on = np.exp(2j * np.pi * locus.critical_frequency / (locus.sample_rate or 1.0))
    both = np.concatenate([on, on.conj()])
    look |= {"fillstyle": "full", "markersize": 7 if on.size < 20 else 3}
    (critical,) = ax.plot(both.real, both.imag, marker="^", color=VERMILLION, **look)
    for z_on, gain in zip(on, locus.critical_gains, strict=True):
        if on.size <= NAMED:
            ax.annotate(
                f"{gain:.4g}",
                (z_on.real, z_on.imag),
                xytext=(-9 if z_on.real > 0 else 9, 4),
                textcoords="offset points",
                ha="right" if z_on.real > 0 else "left",
                fontsize=8,
                color=VERMILLION,
            )
    colorbar = ax.figure.colorbar(poles, ax=ax, label="gain of the backward path", shrink=0.8)
    ax.set_title(
        f"root locus of {count(z.shape[1], 'pole')}: × gain {gains[0]:.4g} to □ gain {gains[-1]:.4g}", fontsize=10
    )
    if on.size:  # here rather than in a legend, which would hide some of the circle
        crossed = locus.critical_gains[np.argsort(np.abs(locus.critical_gains - 1))]
        nearest = f"{crossed[0]:.6g}" if on.size == 1 else f"{on.size:,} gains, nearest to 1 is {crossed[0]:.6g}"
        ax.set_title(f"{ax.get_title()}\n▲ a pole on the circle at {nearest}", fontsize=10)
    return branches, poles, first, last, critical, colorbar

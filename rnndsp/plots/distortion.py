"""What a nonlinear filter adds to sines, and where its output wanders: pictures of :mod:`rnndsp.distortion`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from rnndsp.distortion import Aliasing, DescribingFunction, HarmonicDistortion, Intermodulation, OrbitDiagram
from rnndsp.errors import ParameterError
from rnndsp.plots._style import BLUE, GREEN, GREY, INK, PURPLE, STYLES, VERMILLION, axes

__all__ = ["aliasing_plot", "describing_function_plot", "harmonic_plot", "intermodulation_plot", "orbit_plot"]

# What lies further below the largest value is not drawn; and where all of it is below the second, it is rounding.
RANGE_DB, ROUNDING_DB = 160.0, -220.0
# Output that changed by more from one window to the next has not settled.
UNSETTLED = 1e-6
# More points than a picture has room for are thinned out.
MAX_POINTS = 200_000

Real = NDArray[np.float64]


def _unsettled(drift: ArrayLike) -> str:
    n = int(np.sum(np.asarray(drift) > UNSETTLED))
    return f" ({n} of {np.size(drift)} not settled)" if n else ""


def _drawable(db: ArrayLike) -> Real:
    """Levels without infinities, which matplotlib cannot place."""
    array = np.asarray(db, np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _limit_db(ax: Axes, shown: Real) -> None:
    """From the largest value down to the smallest, within what matters."""
    shown = shown[np.isfinite(shown)]
    top = float(np.max(shown, initial=-np.inf))
    if top > ROUNDING_DB:
        ax.set_ylim(max(float(shown.min()), top - RANGE_DB) - 4, top + 6)
        return
    ax.set_ylim(ROUNDING_DB, 0)
    said = f"nothing above {ROUNDING_DB:g} dB: no more than rounding"
    ax.text(0.5, 0.3, said, transform=ax.transAxes, ha="center", color=INK)


def harmonic_plot(measured: HarmonicDistortion, n_harmonics: int = 5, *, ax: Axes | None = None) -> list[Line2D]:
    """Harmonics, total harmonic distortion and aliasing against level, all in dB of the fundamental.

    Parameters
    ----------
    measured : HarmonicDistortion
        From :func:`rnndsp.distortion.harmonic_distortion`.
    n_harmonics : int
        The highest harmonic that is drawn, 5 at most.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of Line2D
        The second harmonic and so on, then THD, then what is neither. Infinite levels are left out.
    """
    ax = axes(ax)
    level = measured.levels_db
    marker = "o" if level.size <= 40 else ""
    lines: list[Line2D] = []
    shown = min(n_harmonics, measured.harmonics.shape[1], len(STYLES) + 1)
    for order, (color, style) in zip(range(2, shown + 1), STYLES, strict=False):
        with np.errstate(invalid="ignore"):
            curve = _drawable(measured.harmonics_db[:, order - 1] - measured.harmonics_db[:, 0])
        name = f"{order}{('nd', 'rd', 'th', 'th')[order - 2]} harmonic"
        lines += ax.plot(level, curve, style, color=color, marker=marker, markersize=3, label=name)
    lines += ax.plot(level, _drawable(measured.thd_db), color=INK, linewidth=2.5, alpha=0.8, label="THD", zorder=1)
    rest = _drawable(measured.aliasing_db)
    lines += ax.plot(level, rest, color=GREY, linestyle=(0, (1, 3)), linewidth=2, label="aliasing and noise", zorder=1)
    ax.legend(fontsize=8)
    _limit_db(ax, np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in lines]))
    ax.set(xlabel="input level (dB)", ylabel="relative to the fundamental (dB)")
    ax.grid(alpha=0.3)
    ax.set_title(f"harmonics of {measured.frequency_hz:.5g} Hz{_unsettled(measured.drift)}")
    return lines


def describing_function_plot(measured: DescribingFunction, *, ax: Axes | None = None) -> tuple[Line2D, Line2D]:
    """Gain (on the left) and phase (on the right) of the fundamental against level.

    Parameters
    ----------
    measured : DescribingFunction
        From :func:`rnndsp.distortion.describing_function`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    gain, phase : Line2D
        The phase is drawn on axes of its own, ``phase.axes``.
    """
    ax = axes(ax)
    right = ax.twinx()
    marker = "o" if measured.levels_db.size <= 40 else ""
    (gain,) = ax.plot(
        measured.levels_db, _drawable(measured.gain_db), color=BLUE, marker=marker, markersize=4, label="gain"
    )
    (phase,) = right.plot(
        measured.levels_db,
        measured.phase_deg,
        "--",
        color=VERMILLION,
        marker=marker and "s",
        markersize=4,
        label="phase",
    )
    for side, shown, least, shift in ((ax, measured.gain_db, 1.0, -0.2), (right, measured.phase_deg, 10.0, 0.2)):
        finite = shown[np.isfinite(shown)]
        if finite.size:  # rounding is not blown up to a picture, nor do two constants hide each other
            half = max(float(np.ptp(finite)) / 2, least)
            middle = float(finite.max() + finite.min()) / 2 + shift * half
            side.set_ylim(middle - 1.3 * half, middle + 1.3 * half)
    ax.legend(handles=[gain, phase], fontsize=8)
    ax.set(xlabel="input level (dB)", ylabel="gain (dB), solid")
    right.set_ylabel("phase (degrees), dashed")
    ax.grid(alpha=0.3)
    ax.set_title(f"describing function at {measured.frequency_hz:.5g} Hz{_unsettled(measured.drift)}")
    return gain, phase


def intermodulation_plot(measured: Intermodulation, *, ax: Axes | None = None) -> dict[str, LineCollection]:
    """The spectrum of two tones: what is a tone, what they make of each other, and what is neither.

    Parameters
    ----------
    measured : Intermodulation
        From :func:`rnndsp.distortion.intermodulation`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    dict of str to LineCollection
        Stems of the "tones", of the "products" with their orders written on the largest of them, and of the "rest":
        harmonics, aliasing and products of a higher order. What is 160 dB below the largest is left out. Where f2 is
        more than ten times f1, only the surroundings of f2 are in view.
    """
    ax = axes(ax, 8.0)
    with np.errstate(divide="ignore"):
        db = 20 * np.log10(measured.spectrum)
    top = float(np.max(db[np.isfinite(db)], initial=-RANGE_DB))
    bottom = top - RANGE_DB
    hz = measured.spectrum_hz
    tones, products = np.searchsorted(hz, measured.tones_hz), np.searchsorted(hz, measured.products_hz)
    rest = np.setdiff1d(np.flatnonzero(db > bottom), [0, *tones, *products])
    artists: dict[str, LineCollection] = {}
    looks = {
        "rest": (rest, "harmonics, aliasing, higher orders", GREY, ",", 0.8),
        "products": (products[db[products] > bottom], "intermodulation", VERMILLION, "D", 1.5),
        "tones": (tones, "tones", BLUE, "o", 2.5),
    }
    for kind, (at, name, color, marker, width) in looks.items():
        artists[kind] = ax.vlines(hz[at], bottom, db[at], color=color, linewidth=width, label=name)
        ax.plot(hz[at], db[at], marker, color=color, markersize=4 if kind == "products" else 6)
    low, high = np.sort(measured.tones_hz)
    wide = 1.2 * np.max(np.abs(measured.orders), initial=1) * low
    left, right = max(0, high - wide), min(hz[-1], high + wide)
    if high < 10 * low:
        left, right = 0, min(hz[-1], 1.05 * max(high, np.max(measured.products_hz, initial=0)))
    seen = [i for i, at in enumerate(products) if db[at] > bottom and left <= hz[at] <= right]
    for i in sorted(seen, key=lambda i: -db[products[i]])[:8]:
        m, n = (int(count) for count in measured.orders[i])
        ax.annotate(
            _combination(m, n),
            (hz[products[i]], db[products[i]]),
            xytext=(0, 6),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    ax.xaxis.set_major_formatter(EngFormatter("Hz"))
    ax.set(xlabel="frequency (Hz)", ylabel="amplitude (dB)", ylim=(bottom, top + 35), xlim=(left, right))
    ax.legend(fontsize=8, loc="upper right", ncols=3)
    ax.grid(alpha=0.3)
    f1, f2 = measured.tones_hz
    said = f"{measured.imd_db:.1f} dB" if measured.imd_db > -250 else "none"
    ax.set_title(f"intermodulation of {f1:.5g} and {f2:.5g} Hz: {said}{_unsettled(measured.drift)}")
    return artists


def _combination(m: int, n: int) -> str:
    """A product in words, "2f1 − f2"."""

    def term(count: int, name: str) -> str:
        return f"{'' if abs(count) == 1 else abs(count)}{name}"

    first, second = ((m, "$f_1$"), (n, "$f_2$")) if m > 0 else ((n, "$f_2$"), (m, "$f_1$"))
    return f"{term(*first)} {'−' if second[0] < 0 else '+'} {term(*second)}"


def aliasing_plot(measured: Aliasing, *, ax: Axes | None = None) -> Line2D:
    """The aliasing-to-signal ratio against frequency.

    Parameters
    ----------
    measured : Aliasing
        From :func:`rnndsp.distortion.aliasing`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    Line2D
        Points without any aliasing are left out.
    """
    ax = axes(ax)
    order = np.argsort(measured.frequency_hz)
    shown = _drawable(measured.ratio_db[order])
    marker = "o" if order.size <= 60 else ""
    (line,) = ax.plot(measured.frequency_hz[order], shown, color=BLUE, marker=marker, markersize=3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter("Hz"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    _limit_db(ax, shown)
    ax.set(xlabel="frequency of the sine (Hz)", ylabel="aliasing-to-signal ratio (dB)")
    ax.grid(alpha=0.3)
    ax.set_title(f"aliasing of a sine at {measured.level_db:g} dB{_unsettled(measured.drift)}")
    return line


def orbit_plot(
    diagram: OrbitDiagram, exponents: ArrayLike | None = None, *, ax: Axes | None = None
) -> list[PathCollection]:
    """The bifurcation diagram: every value that the output visits, against the parameter.

    Parameters
    ----------
    diagram : OrbitDiagram
        From :func:`rnndsp.distortion.orbit_diagram`.
    exponents : array, shape (n_values,), optional
        A largest Lyapunov exponent for each value, drawn beneath: above zero is chaos.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of PathCollection
        One for the initial state, and one in another colour and shape for all other starts where there are any. Of more
        than 200 000 points only so many are drawn.
    """
    ax = axes(ax)
    n_values, _, n_orbit = diagram.orbits.shape
    every = -(-diagram.orbits.size // MAX_POINTS)
    dot = float(np.clip(400 / n_values, 0.6, 12))
    artists = []
    for starts, color, marker, name, zorder in (
        (slice(0, 1), BLUE, "o", "from the initial state", 2.0),
        (slice(1, None), VERMILLION, "x", "from random states", 1.0),
    ):
        y = diagram.orbits[:, starts]
        if y.size:
            x = np.broadcast_to(diagram.values[:, None, None], y.shape).ravel()[::every]
            look: dict[str, Any] = {"s": dot if marker == "o" else 4 * dot, "color": color, "linewidths": 0.6}
            artists.append(ax.scatter(x, y.ravel()[::every], marker=marker, zorder=zorder, label=name, **look))
    if len(artists) > 1:
        ax.legend(fontsize=8, markerscale=min(4.0, 6 / dot))
    ax.margins(x=0.01)
    ax.set(ylabel="output")
    ax.grid(alpha=0.3)
    ax.set_title(f"orbit diagram, {n_orbit} periods each")
    below = ax
    if exponents is not None:
        shown = np.asarray(exponents, np.float64)
        if shown.shape != (n_values,):
            raise ParameterError(f"exponents of shape {shown.shape}: give one for each of the {n_values} values")
        below = ax.inset_axes((0, -0.42, 1, 0.36), sharex=ax)
        below.axhline(0, color=GREY, linewidth=0.8)
        below.plot(diagram.values, _drawable(shown), color=GREEN, linewidth=1)
        below.fill_between(diagram.values, 0, shown, where=shown > 0, color=PURPLE, alpha=0.5, hatch="//")
        below.set(ylabel="Lyapunov\nexponent")
        below.grid(alpha=0.3)
        ax.tick_params(labelbottom=False)
    below.set(xlabel=diagram.parameter)
    return artists

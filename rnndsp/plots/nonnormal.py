"""What poles do not show: how far small changes move them, and how far a state grows before it decays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from rnndsp.filter import Filter
from rnndsp.plots._style import BLUE, GREEN, GREY, INK, PURPLE, VERMILLION, axes, count, rounded
from rnndsp.plots.z_plane import z_plane
from rnndsp.stability.transients import Pseudospectrum, TransientGrowth, kreiss_point, pseudospectrum, transient_growth
from rnndsp.state import State

__all__ = ["pseudospectrum_plot", "transient_plot"]

Controls = Mapping[str, ArrayLike]


def pseudospectrum_plot(
    filt: Filter | Pseudospectrum,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    n_points: int = 100,
    limits: tuple[float, float, float, float] | None = None,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    ax: Axes | None = None,
) -> tuple[QuadContourSet, Line2D, Line2D]:
    r"""The z-plane with contours of the smallest singular value of zI - A, and the point of the Kreiss constant.

    A change of A of size eps moves poles no further than to the contour of eps. Contours that reach far over the unit
    circle for a small eps are those of a filter that grows before it decays, or that rounding may make unstable.

    Parameters
    ----------
    filt : Filter or Pseudospectrum
        For a result of :func:`rnndsp.stability.pseudospectrum` the Kreiss constant is not computed.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    n_points, limits
        As in :func:`rnndsp.stability.pseudospectrum`.
    sample_rate : float, optional
        Hz; that of the filter where it has one.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    contours : QuadContourSet
        At powers of ten, the exponent written on each.
    poles, kreiss : Line2D
        Crosses, and a star, empty where the constant is one or infinite or was not computed.
    """
    if isinstance(filt, Filter):
        linear = filt.linearize(state, u, controls=controls)
        found = pseudospectrum(linear, n_points=n_points, limits=limits)
        constant, at = kreiss_point(linear)
        said = f", Kreiss constant {constant:.4g}" + " (★)" * bool(np.isfinite(at))
        sample_rate = sample_rate or filt.sample_rate
    else:
        found, said, at = filt, "", complex(np.inf)
    ax = axes(ax, 6.8, 5.8)
    real, imag = found.z.real[0], found.z.imag[:, 0]
    z_plane(ax, sample_rate, float(max(np.max(np.abs(real)), np.max(np.abs(imag)))))
    ax.set(xlim=(real[0], real[-1]), ylim=(imag[0], imag[-1]))
    with np.errstate(divide="ignore"):
        height = np.maximum(np.log10(found.sigma_min), -17)
    low, high = np.floor(np.min(height)), np.ceil(np.max(height))
    step = next(s for s in (0.25, 0.5, 1.0, 2.0) if (high - low) / s <= 12 or s == 2)
    levels = np.arange(low, high + step, step)
    contours = ax.contour(real, imag, height, levels, cmap="viridis", linewidths=1.2, zorder=1.5)
    ax.clabel(contours, fmt=lambda level: f"{level:g}", fontsize=7, colors=INK)
    # thousands of crosses are a cloud
    crowd = float(np.clip(np.log10(max(found.poles.size, 1) / 50) / 2, 0, 1))
    look: dict[str, Any] = {"color": VERMILLION, "markersize": 6 - 4.5 * crowd, "alpha": 1 - 0.6 * crowd, "zorder": 3}
    (poles,) = ax.plot(found.poles.real, found.poles.imag, "x", **look)
    (star,) = ax.plot([], [], "*", color=PURPLE, markeredgecolor=INK, markersize=14, zorder=4)
    if np.isfinite(at):
        star.set_data([at.real], [at.imag])
    radius = rounded(float(np.max(np.abs(found.poles))))
    ax.set_title(
        f"{count(found.poles.size, 'pole')} (×), spectral radius {radius}{said}\n"
        "contours: a change of A of size $10^x$ puts a pole there",
        fontsize=10,
    )
    return contours, poles, star


def transient_plot(
    filt: Filter | TransientGrowth,
    state: State | None = None,
    u: ArrayLike | None = None,
    *,
    n_steps: int = 200,
    every: int = 1,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    ax: Axes | None = None,
) -> tuple[Line2D, ...]:
    r"""The norm of the powers of A against time, between its bounds.

    Parameters
    ----------
    filt : Filter or TransientGrowth
        A result of :func:`rnndsp.stability.transient_growth` is drawn as it is.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    n_steps, every : int
        As in :func:`rnndsp.stability.transient_growth`.
    sample_rate : float, optional
        Hz; that of the filter where it has one.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    norm, poles, lower, kreiss, upper : Line2D
        \|A^k\|; rho^k; what the largest norm so far is at least, from the resolvent; the Kreiss constant, which the
        largest of all reaches; and the bound by a Lyapunov function, empty where there is none.
    """
    if isinstance(filt, Filter):
        sample_rate = sample_rate or filt.sample_rate
        growth = transient_growth(filt, state, u, n_steps=n_steps, every=every, controls=controls)
    else:
        growth = filt
    ax = axes(ax)
    time, label = growth.index.astype(np.float64), "time (samples)"
    if sample_rate:
        last = growth.index[-1] / sample_rate
        time, label = (time / sample_rate, "time (s)") if last > 1 else (1000 * time / sample_rate, "time (ms)")
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        fading = growth.spectral_radius ** growth.index.astype(np.float64)
    few: dict[str, Any] = {"marker": "." if growth.index.size <= 60 else ""}
    (norm,) = ax.plot(time, growth.norm, color=BLUE, linewidth=2, label="norm of $A^k$", zorder=3, **few)
    (poles,) = ax.plot(time, fading, "--", color=VERMILLION, label="what the poles say, $\\rho^k$")
    (lower,) = ax.plot(time, growth.lower, "-.", color=GREEN, label="lower bound of the largest so far")
    reached = growth.kreiss if np.isfinite(growth.kreiss) else np.nan
    (kreiss,) = ax.plot(time[[0, -1]], [reached] * 2, ":", color=PURPLE, linewidth=2, label="Kreiss constant")
    bounded = bool(np.isfinite(growth.upper[0]))
    above = growth.upper if bounded else np.full(time.size, np.nan)
    (upper,) = ax.plot(time, above, color=GREY, label="upper bound (Lyapunov)")
    finite = growth.norm[np.isfinite(growth.norm) & (growth.norm > 0)]
    top = max(float(np.max(finite)), growth.kreiss if np.isfinite(growth.kreiss) else 1.0)
    ax.set_yscale("log")
    ax.set_ylim(min(max(float(np.min(finite)), 1e-4 * top), 1.0) / 2, 4 * top)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top / np.min(finite) < 300 else (1,), numticks=20))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel=label, ylabel="length of a state, at worst", xlim=(time[0], max(time[-1], 1e-9)))
    ax.grid(alpha=0.3)
    grown = f"grows to {growth.maximum:.4g} times in {count(growth.argmax, 'sample')}"
    ax.set_title(
        ("no state grows" if growth.maximum <= 1 + 1e-9 else grown)
        + ("" if growth.complete else ", as far as looked at")
    )
    ax.legend(handles=[norm, poles, lower, kreiss] + [upper] * bounded, fontsize=8)
    return norm, poles, lower, kreiss, upper

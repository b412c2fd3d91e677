"""How well an effect was learnt, in the course of its recording."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import LogLocator, NullFormatter

from rnndsp.capture import Capture
from rnndsp.plots._style import BLUE, INK, VERMILLION, axes

__all__ = ["esr_plot"]


def esr_plot(capture: Capture, *, ax: Axes | None = None) -> tuple[StepPatch, Line2D]:
    """Error-to-signal ratio of a capture, second by second, and which of them it was judged on.

    Parameters
    ----------
    capture : Capture
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    seconds : StepPatch
    held_out : Line2D
        The ratio of the part that nothing was learnt from, as a whole.
    """
    ax = axes(ax)
    rate, n = capture.pair.sample_rate, len(capture.y)
    validation, test = (place / rate for place in capture.pair.splits)
    esr = np.maximum(capture.esr_by_second, 1e-12)
    edges = np.append(np.arange(len(esr), dtype=np.float64), n / rate)
    seconds = ax.stairs(esr, edges, color=BLUE, baseline=None, linewidth=1.5, label="second by second")
    label = f"held out: {capture.esr:.2g} ({10 * np.log10(max(capture.esr, 1e-12)):.1f} dB)"
    (held_out,) = ax.plot([test, n / rate], [max(capture.esr, 1e-12)] * 2, "--", color=VERMILLION, label=label)
    ax.set_yscale("log")
    low, high = min(esr.min(), capture.esr), max(esr.max(), capture.esr)
    ax.set_ylim(max(low, 1e-12) / 2, 3 * high)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    for place in (validation, test):
        ax.axvline(place, color=INK, linewidth=0.8)
    top = ax.get_xaxis_transform()
    for start, stop, name in (
        (0.0, validation, "learnt from"),
        (validation, test, "chosen by"),
        (test, n / rate, "held out"),
    ):
        ax.text(0.5 * (start + stop), 0.97, name, transform=top, ha="center", va="top", fontsize=8, color=INK)
    ax.set(xlabel="time (s)", ylabel="error-to-signal ratio", xlim=(0, n / rate))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="lower left")
    return seconds, held_out

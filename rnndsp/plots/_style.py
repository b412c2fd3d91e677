"""What all plots share: colours, axes, units."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rnndsp.stability.spectrum import in_words

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "PURPLE",
    "STYLES",
    "VERMILLION",
    "axes",
    "count",
    "duration",
    "hertz",
    "rounded",
    "time_axis",
]

BLUE, VERMILLION, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#333333"
STYLES = ((BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, ":"))  # of the first curves; more are not drawn
Real = NDArray[np.float64]


def axes(ax: Axes | None, width: float = 7.0, height: float = 4.0) -> Axes:
    if ax is None:
        from matplotlib import pyplot  # here, as it chooses a backend when it is imported

        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    return ax


def rounded(radius: float) -> str:
    """A radius whose distance from 1 is not lost in rounding."""
    gap = abs(radius - 1)
    return f"{radius:.6g}" if gap >= 1e-6 or gap == 0 else f"1 {'−' if radius < 1 else '+'} {gap:.1e}"


def count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def duration(frames: float, rate: float | None) -> str:
    """A number of frames in words, as a time where the rate is known."""
    if rate:
        return in_words(frames / rate)
    return count(round(frames), "sample")


def time_axis(n_frames: int, rate: float | None) -> tuple[Real, str]:
    frames = np.arange(n_frames, dtype=np.float64)
    if rate is None:
        return frames, "time (samples)"
    return (frames / rate, "time (s)") if n_frames > rate else (1000 * frames / rate, "time (ms)")


def hertz(rate: float | None) -> tuple[EngFormatter | str, str]:
    """How to write a frequency on an axis, and the name of that axis."""
    return (EngFormatter("Hz"), "frequency (Hz)") if rate else ("{x:g}", "frequency (cycles a sample)")

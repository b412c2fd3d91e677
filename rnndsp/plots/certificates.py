"""What was tried to prove each property, and how near each test came."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from rnndsp.plots._style import GREEN, INK, VERMILLION, axes
from rnndsp.stability import Property, Test, Verdict

__all__ = ["BADGES", "certificate_plot"]

#: Of each verdict its sign, ground and ink, in pages and plots.
BADGES = {
    Verdict.PROVED: ("✓", "#d9efe4", "#0b4f36"),
    Verdict.REFUTED: ("✗", "#fbe0d3", "#7d2b00"),
    Verdict.LOCAL: ("◐", "#fdf0c8", "#5c4300"),
    Verdict.MARGINAL: ("○", "#dbe9f6", "#123f6b"),
    Verdict.UNKNOWN: ("?", "#e6e9ed", "#37414d"),
}
# Further from its limit a test is drawn as if it were there, with an arrow.
DECADES = 4.0
# Letters in a line of the names of tests.
LETTERS = 46


def certificate_plot(properties: Iterable[Property], *, ax: Axes | None = None) -> dict[tuple[str, str], Rectangle]:
    """The certificate dashboard: each property with its verdict, and below it each test that was tried.

    A bar reaches from a test's limit, in the middle, to the value found over the limit: to the left, with a dot, where
    it is passed; to the right, hatched and with a cross, where it is not.

    Parameters
    ----------
    properties : iterable of Property
        A :class:`rnndsp.stability.StabilityReport`, or what :func:`rnndsp.stability.certify` gave.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    dict of (str, str) to Rectangle
        The bar of each test, by the names of the property that lists it and of the test. Values more than four decades
        from their limit, zero and infinity among them, end in an arrow at the edge; NaN is no bar but a question mark.
    """
    rows = list(properties)
    n_lines = sum(1.25 + sum(_height(test) for test in row.tests) for row in rows)
    ax = axes(ax, 9.0, 0.9 + 0.27 * n_lines)
    bars: dict[tuple[str, str], Rectangle] = {}
    left = ax.get_yaxis_transform()  # x in parts of the axes, y in lines
    y = 0.0
    for row in rows:
        sign, ground, ink = BADGES[row.verdict]
        ax.axhspan(y - 0.1, y + 1.05, color="#f2f4f6", linewidth=0, zorder=0)
        ax.text(-0.01, y + 0.5, row.name, transform=left, ha="right", va="center", weight="bold", fontsize=10)
        said = {"facecolor": ground, "edgecolor": "none", "boxstyle": "round,pad=0.3"}
        ax.text(
            0.01, y + 0.5, f"{sign} {row.verdict.value}", color=ink, transform=left, va="center", fontsize=9, bbox=said
        )
        y += 1.25
        for test in row.tests:
            height = _height(test)
            name = "\n".join(wrap(test.name, LETTERS))
            ax.text(-0.01, y + height / 2, name, transform=left, ha="right", va="center", fontsize=8, color=INK)
            bars[row.name, test.name] = _bar(ax, test, y + height / 2)
            y += height
    ax.axvline(0, color=INK, linewidth=1, zorder=2)
    ax.set(xlim=(-DECADES - 1.1, DECADES + 1.1), ylim=(max(y, 1.25) + 0.1, -0.2), yticks=[])
    ticks = np.arange(-DECADES, DECADES + 1, 2)
    ax.set_xticks(ticks, ["the limit" if tick == 0 else f"$10^{{{tick:g}}}$" for tick in ticks])
    ax.set_xlabel("value found / limit")
    tests = [test for row in rows for test in row.tests]
    if tests:
        kinds = (("passed", GREEN, "o"), ("not passed, which refutes nothing", VERMILLION, "X"))
        marks = [Line2D([], [], color=c, marker=m, linestyle="-", linewidth=4, label=name) for name, c, m in kinds]
        ax.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    else:
        ax.set(xticks=[], xlabel="no numerical test was needed, or none applies")
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="x", alpha=0.3)
    return bars


def _height(test: Test) -> float:
    return 0.35 + 0.6 * max(len(wrap(test.name, LETTERS)), 1)


def _bar(ax: Axes, test: Test, y: float) -> Rectangle:
    with np.errstate(all="ignore"):
        ratio = float(np.divide(test.value, test.limit)) if test.limit > 0 else np.nan
        log = float(np.log10(max(ratio, 0.0)))
    known = not np.isnan(log)
    end = float(np.clip(log, -DECADES, DECADES)) if known else 0.0
    colour, marker = (GREEN, "o") if test.passed else (VERMILLION, "X")
    bar: Rectangle
    (bar,) = ax.barh(y, end, 0.5, color=colour, alpha=0.45, edgecolor=colour, zorder=1.5)
    if not test.passed:
        bar.set_hatch("///")
    if known:
        beyond = abs(log) > DECADES
        marker = marker if not beyond else ">" if log > 0 else "<"
        ax.plot(end, y, marker=marker, color=colour, markersize=7, zorder=3)
    said = f"{ratio:.3g}" if np.isfinite(ratio) else "∞" if known else f"? ({test.value:.3g}, limit {test.limit:.3g})"
    side = 1 if end >= 0 else -1
    ax.text(
        end + 0.16 * side, y, said, fontsize=8, va="center", ha="left" if side > 0 else "right", color=INK, zorder=3
    )
    return bar

"""What came of a sweep."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rnndsp._checks import choice
from rnndsp.errors import ParameterError
from rnndsp.plots._style import STYLES, axes
from rnndsp.sweeps import Table

__all__ = ["sweep_plot"]

MARKERS = "osD^"


def sweep_plot(table: Table, x: str, *, y: str = "", by: str = "", ax: Axes | None = None) -> dict[Any, Line2D]:
    """A result of each run against one of its settings, and the medians of those that share it.

    Scales are logarithmic where all is positive and the largest number is more than ten times the least.

    Parameters
    ----------
    table : Table
    x : str
        The setting. Where it is not a number everywhere, its values stand side by side as words.
    y : str
        The result. When absent, the one that :attr:`Table.best` goes by.
    by : str
        Another setting, of at most four values, each of which has a colour, a mark and a line of its own.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    dict
        The points of each value of ``by``, of None where it is absent. Runs that lack the result are not drawn.
    """
    y = choice("y", y, table.columns) if y else table.measure
    for name, value in (("x", x), *((("by", by),) if by else ())):
        choice(name, value, table.columns)
    rows = [
        row for row in table.rows if isinstance(row.get(y), int | float) and np.isfinite(row[y]) and row[x] is not None
    ]
    groups = list(dict.fromkeys(row[by] if by else None for row in rows))
    if len(groups) > len(STYLES):
        raise ParameterError(f"{by=} has {len(groups)} values, of which at most {len(STYLES)} can be told apart")
    words = (
        [] if all(isinstance(row[x], int | float) for row in rows) else list(dict.fromkeys(str(row[x]) for row in rows))
    )
    shared = len({str(row[x]) for row in rows}) < len(rows)
    ax = axes(ax)
    drawn: dict[Any, Line2D] = {}
    for group, (colour, line), marker in zip(groups, STYLES, MARKERS, strict=False):
        own = [row for row in rows if not by or row[by] == group]
        at = np.array([words.index(str(row[x])) if words else row[x] for row in own], np.float64)
        values = np.array([row[y] for row in own], np.float64)
        label = f"{by} = {group}" if by else None
        (drawn[group],) = ax.plot(at, values, marker, color=colour, fillstyle="none", label=label)
        places = np.unique(at)
        if shared:
            medians = [np.median(values[at == place]) for place in places]
            look: dict[str, Any] = (
                {"linestyle": "none", "marker": "_", "markersize": 24} if words else {"linestyle": line}
            )
            ax.plot(places, medians, color=colour, **look)
    if words:
        ax.set_xticks(range(len(words)), words)
    for name, scale, shown in ((x, ax.set_xscale, not words), (y, ax.set_yscale, True)):
        found = [row[name] for row in rows]
        if shown and found and min(found) > 0 and max(found) > 10 * min(found):
            scale("log")
    ax.set(xlabel=x, ylabel=y)
    ax.grid(alpha=0.3)
    if by and groups:
        ax.legend(fontsize=8)
    return drawn

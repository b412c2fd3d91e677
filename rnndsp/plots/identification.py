"""What singular values say of the order of a model."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.identification import RANK, ArxFit, Excitation, SubspaceFit
from rnndsp.plots._style import BLUE, GREY, INK, VERMILLION, axes

__all__ = ["order_plot"]

# What no floating-point data tell, relative to the largest.
ROUNDING = 1e-17


def order_plot(
    found: SubspaceFit | ArxFit | Excitation, *, n_shown: int = 40, ax: Axes | None = None
) -> tuple[Line2D, Line2D, Line2D]:
    """Singular values against their number: the order is where they fall.

    Parameters
    ----------
    found : SubspaceFit, ArxFit or Excitation
        Of :func:`rnndsp.identification.n4sid` or :func:`~rnndsp.identification.era`, where those that make the model
        are told from those left out; of :func:`~rnndsp.identification.persistency_of_excitation`, where those above
        its tolerance are; or of :func:`~rnndsp.identification.arx`, where the ones are combinations of coefficients
        that the data tell, and the others need its ridge.
    n_shown : int
        At most so many are drawn.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    kept, left_out, cut : Line2D
        Filled dots, rings, and the dashed line between them.

    Raises
    ------
    ParameterError
        Something else than these results.
    """
    n_shown = whole_number("n_shown", n_shown)
    if isinstance(found, SubspaceFit):
        values, order = found.singular_values, found.system.delays.size
        title, names = f"order {order}", ("in the model", "left out")
        level = None
    elif isinstance(found, Excitation):
        values, level = found.singular_values, found.tolerance
        order = int(np.sum(values > level * values[0]))
        title = f"exciting of order {found.order}" + ("" if found.sufficient else f", {found.required} asked for")
        names = ("excited", "not excited")
    elif isinstance(found, ArxFit):
        values, level = found.singular_values, RANK
        order = int(np.sum(values > level * values[0]))
        title = f"{order} of {values.size} combinations of coefficients told"
        names = ("told by the data", "not told")
    else:
        raise ParameterError(f"order_plot takes a SubspaceFit, an ArxFit or an Excitation, not {found!r}")
    relative = np.maximum(values / values[0] if values[0] > 0 else 0 * values, ROUNDING)[:n_shown]
    number = np.arange(1, relative.size + 1)
    ax = axes(ax)
    (kept,) = ax.plot(number[:order], relative[:order], "o", color=BLUE, label=names[0])
    (left_out,) = ax.plot(number[order:], relative[order:], "o", color=VERMILLION, fillstyle="none", label=names[1])
    if level is None:
        cut = ax.axvline(order + 0.5, color=INK, linestyle="--", linewidth=1)
        if order < relative.size:
            fall = relative[order - 1] / relative[order]
            ax.annotate(
                f"falls by {fall:.3g}" if fall < 1e4 else f"falls by {20 * np.log10(fall):.0f} dB",
                (order + 0.5, 1.0),
                xytext=(5, -3),
                textcoords="offset points",
                va="top",
                fontsize=8,
            )
    else:
        cut = ax.axhline(level, color=INK, linestyle="--", linewidth=1, label="tolerance")
    ax.set_yscale("log")
    ax.set(xlabel="number", ylabel="singular value / largest", title=title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(0.3, relative.size + 0.7)
    ax.set_ylim(0.3 * min(relative.min(), level or 1.0), 3)
    ax.grid(alpha=0.3, color=GREY)
    handles = [kept, left_out] if order < relative.size else [kept]
    ax.legend(handles=[*handles, cut] if level else handles, fontsize=8, loc="best")
    return kept, left_out, cut

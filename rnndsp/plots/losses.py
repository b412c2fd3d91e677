"""How a training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from rnndsp.plots._style import BLUE, INK, VERMILLION, axes, count

if TYPE_CHECKING:
    from rnndsp.training import Epoch

__all__ = ["history_plot"]


def history_plot(history: Sequence[Epoch], *, ax: Axes | None = None) -> tuple[Line2D, Line2D, Line2D]:
    """Losses against the epochs of a training.

    Parameters
    ----------
    history : sequence of Epoch
        Of a :class:`rnndsp.training.Fit`. The losses have a logarithmic scale where they are positive and the largest
        is more than ten times the least.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    training, validation, best : Line2D
        Two curves, and a ring round the least validation loss of all epochs (the weights it started from may have been
        better, see :attr:`Fit.best`); round the last training loss where there are no validation data.
    """
    losses = np.array([(epoch.loss, epoch.validation) for epoch in history], np.float64).reshape(-1, 2).T
    epochs = np.arange(1, losses.shape[1] + 1)
    held_out = np.isfinite(losses[1])
    row, kept = (1, int(np.argmin(np.where(held_out, losses[1], np.inf)))) if held_out.any() else (0, epochs.size - 1)
    ax = axes(ax)
    look: dict[str, Any] = {"marker": ".", "markersize": 4 if epochs.size <= 100 else 0}
    (training,) = ax.plot(epochs, losses[0], "-", color=BLUE, label="training", **look)
    (validation,) = ax.plot(epochs, losses[1], "--", color=VERMILLION, label="validation", **look)
    ring: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 9, "fillstyle": "none", "color": INK}
    ring["label"] = "best epoch" if row else "last epoch"
    (best,) = ax.plot(epochs[kept:][:1], losses[row, kept:][:1], **ring)
    shown = losses[np.isfinite(losses)]
    if shown.size and shown.min() > 0 and shown.max() > 10 * shown.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    ax.set(xlabel="epoch", ylabel="loss")
    ax.grid(alpha=0.3)
    ax.legend(handles=[training, validation, best] if row else [training, best], fontsize=8)
    ax.set_title(count(epochs.size, "epoch") + (f", the best is {kept + 1}" if row else ""))
    return training, validation, best

"""Pictures of music, in the manner of :mod:`rnndsp.plots`: ``ax`` to draw into, the artists as a result."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece
from rnndsp.midi.roll import Roll

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

__all__ = ["bar_lines", "piano_roll_plot"]

MOST_BARS = 10_000
MOST_LABELS = 16  # bars with a number
MOST_LINES = 64  # bars with a line
MOST_BEATS = 64  # beats with a line
LEAST_ROWS = 15  # of pitches
# Tops of a bar shrink from track to track, so that what two tracks play together shows both.
TALLEST, LOWEST = 0.9, 0.45
# Between notes: of the width of the picture, but of no note more than a share.
GAP, GAP_SHARE = 0.003, 0.2
BLACK_KEYS = (1, 3, 6, 8, 10)


def piano_roll_plot(
    piece: Piece | Roll, *, steps_per_beat: int | None = None, ax: Axes | None = None
) -> list[PolyCollection]:
    """Notes as bars, pitch against time in bars of the meter; the rows of black keys are shaded.

    Parameters
    ----------
    piece : Piece or Roll
    steps_per_beat : int, optional
        Draw notes as they lie on such a grid, see :meth:`Piece.roll`, rather than as they are played.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    list of PolyCollection
        One a track, a rectangle a note, in beats (quarter notes) and MIDI pitch, a little short of the note's end so
        that repeated notes stay apart. Later tracks have slimmer rectangles; drums are dark grey.
    """
    from matplotlib.collections import PolyCollection

    from rnndsp.plots._style import BLUE, GREEN, INK, PURPLE, VERMILLION, axes

    if isinstance(piece, Roll):
        piece = piece.piece()
    if steps_per_beat is not None:
        piece = piece.roll(steps_per_beat).piece()
    ax = axes(ax, 9.0, 4.2)
    lines = bar_lines(piece)
    pitches = np.concatenate([[60], *(track.notes["pitch"] for track in piece.tracks)])[piece.n_notes > 0 :]
    low, high = int(pitches.min()), int(pitches.max())
    margin = max(2, (LEAST_ROWS - (high - low)) // 2)
    low, high = low - margin, high + margin
    ax.set(xlim=(0, lines[-1]), ylim=(low - 0.5, high + 0.5))
    _keyboard(ax, low, high)
    _bars(ax, lines, piece)

    hues = [BLUE, VERMILLION, GREEN, "#E69F00", PURPLE, "#56B4E9"]
    melodic = [place for place, track in enumerate(piece.tracks) if not track.is_drum]
    heights = np.linspace(TALLEST, LOWEST, max(len(piece.tracks), 4))
    artists = []
    for place, track in enumerate(piece.tracks):
        start, end = (track.notes[edge] / piece.ticks_per_beat for edge in ("start", "end"))
        end = end - np.minimum(GAP * lines[-1], GAP_SHARE * (end - start))
        bottom, top = (track.notes["pitch"] + side * heights[place] / 2 for side in (-1, 1))
        corners = [(start, bottom), (start, top), (end, top), (end, bottom)]
        color = INK if track.is_drum else hues[melodic.index(place) % len(hues)]
        label = track.name or ("drums" if track.is_drum else f"track {place + 1}")
        shapes = list(np.moveaxis(np.array(corners), -1, 0))
        artists.append(PolyCollection(shapes, color=color, linewidth=0.4, zorder=3, label=label))
        ax.add_collection(artists[-1], autolim=False)
    if len(artists) > 1:
        # above the picture, where it hides no note
        names = [str(artist.get_label()) for artist in artists]
        legend = ax.legend(artists, names, loc="lower right", bbox_to_anchor=(1, 1), ncols=6, frameon=False)
        for text in legend.get_texts():  # a dollar in a name begins no formula
            text.set(parse_math=False, fontsize=8)
    ax.set_title(piece.name or "piano roll", loc="left", color=INK, parse_math=False)
    return artists


def bar_lines(piece: Piece) -> NDArray[np.float64]:
    """Where bars begin, in beats, and where the last one ends."""
    starts = np.array([tick / piece.ticks_per_beat for tick, _, _ in piece.meters])
    lengths = np.array([4 * numerator / denominator for _, numerator, denominator in piece.meters])
    stops = np.append(starts[1:], np.inf)
    last = max(piece.n_beats, 1 / piece.ticks_per_beat)
    counts = np.ceil((np.minimum(stops, last) - starts) / lengths - 1e-9).clip(0).astype(np.int64)
    if counts.sum() > MOST_BARS:
        raise ParameterError(f"a piece of {counts.sum()} bars: {MOST_BARS} are the most to draw; cut it")
    meter = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(meter)) - np.repeat(np.cumsum(counts) - counts, counts)
    lines = starts[meter] + nth * lengths[meter]
    return np.append(lines, min(lines[-1] + lengths[meter[-1]], stops[meter[-1]]))


def _keyboard(ax: Axes, low: int, high: int) -> None:
    from rnndsp.plots._style import GREY

    keys = np.arange(low, high + 1)
    black = keys[np.isin(keys % 12, BLACK_KEYS)]
    ax.barh(black, 1, 1, transform=ax.get_yaxis_transform(), color=GREY, alpha=0.13, linewidth=0, zorder=0)
    octaves = keys[keys % 12 == 0]
    ax.hlines(octaves - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=GREY, linewidth=0.5, alpha=0.7, zorder=1)
    named = octaves if len(octaves) > 2 else keys[np.isin(keys % 12, (0, 4, 7))]
    ax.set_yticks(named, [f"{'CDEFGAB'[[0, 2, 4, 5, 7, 9, 11].index(key % 12)]}{key // 12 - 1}" for key in named])
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel("pitch")


def _bars(ax: Axes, lines: NDArray[np.float64], piece: Piece) -> None:
    from rnndsp.plots._style import GREY

    n_bars = len(lines) - 1
    step = 1
    while n_bars / step > MOST_LABELS:
        step *= 2
    drawn = lines if n_bars <= MOST_LINES else lines[::step]
    ax.vlines(drawn, 0, 1, transform=ax.get_xaxis_transform(), color=GREY, linewidth=0.6, zorder=1)
    if lines[-1] <= MOST_BEATS:
        beats = np.concatenate([np.arange(a, b)[1:] for a, b in pairwise(lines)])
        ax.vlines(beats, 0, 1, transform=ax.get_xaxis_transform(), color=GREY, linewidth=0.4, alpha=0.4, zorder=1)
    # the first whole bar is bar 1, so a pickup is bar 0
    first = int(n_bars < 2 or lines[1] - lines[0] >= lines[2] - lines[1])
    ax.set_xticks(lines[:-1:step], [str(bar) for bar in range(first, n_bars + first, step)])
    meters = {f"{numerator}/{denominator}" for _, numerator, denominator in piece.meters}
    ax.set_xlabel(f"bar ({meters.pop()})" if len(meters) == 1 else "bar")

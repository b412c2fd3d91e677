"""The picture of a piece: what is drawn are its notes, where its meter says."""

import matplotlib
import numpy as np
import pytest

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece, Track
from rnndsp.midi.plots import piano_roll_plot

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of backend


@pytest.fixture
def piece():
    return Piece(
        (
            Track([(0, 4, 60, 64), (4, 8, 60, 64), (9, 20, 67, 64)], "flute"),
            Track([(0, 24, 48, 64)]),
            Track([(0, 1, 36, 64)], is_drum=True),
        ),
        4,
        meters=((0, 3, 4), (12, 4, 4)),
        name="Tune",
    )


def boxes(artist):
    """Left, right and middle of the rectangles, in beats and pitch."""
    corners = np.array([path.vertices for path in artist.get_paths()])
    return corners[:, :, 0].min(axis=1), corners[:, :, 0].max(axis=1), corners[:, :4, 1].mean(axis=1)


def ticks(axis):
    axis.axes.figure.canvas.draw()
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return dict(zip(labels, axis.get_ticklocs().tolist(), strict=True))


def test_notes_are_drawn_where_they_are(ax, piece):
    flute, bass, drums = piano_roll_plot(piece, ax=ax)
    left, right, middle = boxes(flute)
    assert left.tolist() == [0, 1, 2.25]
    assert middle == pytest.approx([60, 60, 67])
    assert right == pytest.approx([1, 2, 5], abs=0.05)
    # repeated notes stay apart
    assert (right < [1, 2, 5]).all()
    assert boxes(bass)[1] == pytest.approx([6], abs=0.05)
    assert boxes(drums)[2] == pytest.approx([36])
    assert all(artist.axes is ax for artist in (flute, bass, drums))
    low, high = ax.get_ylim()
    assert low < 36 and high > 67


def test_bars_and_pitches_have_names(ax, piece):
    piano_roll_plot(piece, ax=ax)
    # a pickup of three beats, then a bar of four, of which three sound
    assert ticks(ax.xaxis) == {"0": 0, "1": 3}
    assert ax.get_xlim() == (0, 7)
    assert ticks(ax.yaxis) == {"C2": 36, "C3": 48, "C4": 60}
    assert ax.get_title(loc="left") == "Tune"
    assert ax.get_xlabel() == "bar"


def test_tracks_differ_and_have_names(ax, piece):
    artists = piano_roll_plot(piece, ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["flute", "track 2", "drums"]
    assert len({tuple(artist.get_facecolor()[0]) for artist in artists}) == 3
    heights = [np.ptp(artist.get_paths()[0].vertices[:, 1]) for artist in artists]
    assert heights == sorted(heights, reverse=True) and heights[0] > heights[-1]


def test_one_track_needs_no_legend(ax, piece):
    alone = Piece(piece.tracks[:1], 4, meters=((0, 6, 8),))
    (artist,) = piano_roll_plot(alone, ax=ax)
    assert ax.get_legend() is None
    assert ax.get_xlabel() == "bar (6/8)"
    assert ticks(ax.xaxis) == {"1": 0, "2": 3}
    assert set(ticks(ax.yaxis)) >= {"C4", "E4", "G4"}
    assert len(artist.get_paths()) == 3


def test_a_roll_and_a_grid(ax, piece):
    drawn = [boxes(artist) for artist in piano_roll_plot(piece.roll(2), ax=ax)]
    again = [boxes(artist) for artist in piano_roll_plot(piece, steps_per_beat=2, ax=ax)]
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert drawn[0][0].tolist() == [0, 1, 2.5]


def test_long_pieces_have_few_numbers(ax):
    notes = [(beat, beat + 1, 60 + beat % 12, 64) for beat in range(600)]
    (artist,) = piano_roll_plot(Piece((Track(notes),), 1), ax=ax)
    assert len(artist.get_paths()) == 600
    assert list(ticks(ax.xaxis))[:3] == ["1", "17", "33"]
    with pytest.raises(ParameterError, match="250000 bars: 10000 are the most to draw"):
        piano_roll_plot(Piece((Track([(0, 10**6, 60, 64)]),), 1), ax=ax)


def test_no_notes(ax):
    assert piano_roll_plot(Piece(()), ax=ax) == []
    (artist,) = piano_roll_plot(Piece((Track([]),)), ax=ax)
    assert not artist.get_paths()
    ax.figure.canvas.draw()


def test_without_axes_one_figure_is_opened(piece):
    artists = piano_roll_plot(piece)
    assert [pyplot.figure(n) for n in pyplot.get_fignums()] == [artists[0].figure]


@pytest.mark.parametrize("name", ["$\\frac$", "_hidden", "a < b & c"])
def test_any_name_can_be_drawn(ax, name):
    notes = [(0, 480, 60, 80)]
    piece = Piece((Track(notes, name=name), Track(notes, name=name)), name=name)
    piano_roll_plot(piece, ax=ax)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [name, name]

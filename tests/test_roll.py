"""Piano rolls: the rules of the grid against a slow reading of them, and that nothing on the grid is lost."""

import zipfile
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece, Track, read
from rnndsp.midi.roll import Roll


def piece_of(*notes, ticks=4, **options):
    """A piece of one track, of (start, end, pitch) or (start, end, pitch, velocity)."""
    return Piece((Track([note if len(note) == 4 else (*note, 64) for note in notes]),), ticks, **options)


def drawn(roll, track=0):
    """Rows of text by pitch: a capital letter where a note is struck, a small one where it is held."""
    rows = {}
    for pitch in np.flatnonzero(roll.sounding[track].any(axis=0)).tolist():
        struck, held = roll.onset[track, :, pitch], roll.sounding[track, :, pitch]
        rows[pitch] = "".join("O" if a else "-" if b else "." for a, b in zip(struck, held, strict=True))
    return rows


def slowly(piece, steps_per_beat):
    """Velocity and sounding by the letter of the rules, note by note."""

    def step(tick):
        return int((Fraction(int(tick) * steps_per_beat, piece.ticks_per_beat) + Fraction(1, 2)).__floor__())

    tracks = []
    for track in piece.tracks:
        notes = {}
        for start, end, pitch, velocity in track.notes.tolist():
            place = (pitch, step(start))
            last, loudest = notes.get(place, (0, 0))
            notes[place] = max(last, step(end), place[1] + 1), max(loudest, velocity)
        tracks.append(notes)
        for (pitch, start), (end, loudness) in notes.items():
            follows = [other for same, other in notes if same == pitch and other > start]
            notes[pitch, start] = min([end, *follows]), loudness
    n_steps = max((end for notes in tracks for end, _ in notes.values()), default=0)
    velocity = np.zeros((len(tracks), n_steps, 128), np.uint8)
    sounding = np.zeros(velocity.shape, bool)
    for place, notes in enumerate(tracks):
        for (pitch, start), (end, loudness) in notes.items():
            velocity[place, start, pitch] = loudness
            sounding[place, start:end, pitch] = True
    return velocity, sounding


@st.composite
def pieces(draw):
    ticks = draw(st.one_of(st.integers(1, 12), st.sampled_from([96, 480, 1024, 32767])))
    note = st.tuples(
        st.integers(0, 8 * ticks), st.integers(1, 2 * ticks), st.sampled_from([0, 60, 61, 127]), st.integers(1, 127)
    )
    notes = [
        [
            (start, start + length, pitch, velocity)
            for start, length, pitch, velocity in draw(st.lists(note, max_size=9))
        ]
        for _ in range(draw(st.integers(0, 3)))
    ]
    changes = sorted(draw(st.sets(st.integers(1, 9 * ticks), max_size=3)))
    return Piece(
        tuple(Track(found, f"{n}", n, bool(n % 2)) for n, found in enumerate(notes)),
        ticks,
        tuple((tick, 400000 + tick) for tick in (0, *changes)),
        tuple((tick, 3 + tick % 5, 8) for tick in (0, *changes)),
        "x",
    )


GRIDS = st.one_of(st.integers(1, 16), st.sampled_from([24, 480, 1000]))


# ---- the rules


def test_held_and_repeated_notes_differ():
    roll = piece_of((0, 4, 60), (4, 8, 60), (0, 8, 62), (8, 9, 60)).roll(4)
    assert drawn(roll) == {60: "O---O---O", 62: "O-------."}
    assert (roll.velocity.shape, roll.velocity.dtype) == ((1, 9, 128), np.uint8)
    assert (roll.sounding.shape, roll.sounding.dtype) == ((1, 9, 128), np.bool_)
    assert (roll.n_steps, roll.steps_per_beat, roll.off_grid, roll.n_merged) == (9, 4, 0, 0)


def test_halves_go_up_and_a_note_lasts_a_step():
    # two ticks a step
    roll = piece_of((1, 3, 60), (2, 5, 61), (4, 5, 62), (3, 4, 63), ticks=8).roll(4)
    assert drawn(roll) == {60: ".O.", 61: ".O-", 62: "..O", 63: "..O"}
    assert roll.off_grid == 0.5


def test_a_note_ends_what_sounds_on_its_pitch():
    roll = piece_of((0, 16, 60), (4, 6, 60), (8, 9, 61), ticks=4).roll(4)
    assert drawn(roll)[60] == "O---O-..."
    assert roll.n_merged == 0


def test_notes_that_fall_together_are_merged():
    roll = piece_of((0, 2, 60, 10), (1, 9, 60, 90), (0, 1, 60, 50), (0, 4, 61, 5), ticks=16).roll(4)
    assert drawn(roll) == {60: "O-", 61: "O."}
    assert roll.velocity[0, 0, [60, 61]].tolist() == [90, 5]
    assert roll.n_merged == 2


def test_a_tick_is_no_distance_from_the_grid():
    # thirds of 1024 ticks are not whole: 341 and 683 lie on a grid of thirds, 340 does not
    piece = piece_of((0, 341, 60), (341, 683, 60), (683, 1024, 60), ticks=1024)
    assert piece.roll(3).off_grid == 0
    assert piece.roll(12).off_grid == 0
    assert piece.roll(4).off_grid == pytest.approx(2 / 3)
    assert piece_of((340, 683, 60), ticks=1024).roll(3).off_grid == 1
    assert piece_of((257, 258, 60), ticks=1024).roll(4).off_grid == 1


@given(pieces(), GRIDS)
@settings(max_examples=150, deadline=None)
def test_the_rules_to_the_letter(piece, steps_per_beat):
    roll = Roll.from_piece(piece, steps_per_beat=steps_per_beat)
    velocity, sounding = slowly(piece, steps_per_beat)
    assert np.array_equal(roll.velocity, velocity)
    assert np.array_equal(roll.sounding, sounding)
    assert np.count_nonzero(roll.onset) + roll.n_merged == piece.n_notes


# ---- back


@given(pieces(), GRIDS)
@settings(max_examples=150, deadline=None)
def test_a_roll_gives_its_piece_and_the_piece_its_roll(piece, steps_per_beat):
    roll = piece.roll(steps_per_beat)
    again = roll.piece()
    assert again.roll(steps_per_beat) == roll
    assert (again.roll(steps_per_beat).off_grid, again.roll(steps_per_beat).n_merged) == (0, 0)
    assert again.name == piece.name
    mine, its = ([(t.name, t.program, t.is_drum) for t in p.tracks] for p in (again, piece))
    assert mine == its


def test_on_the_grid_nothing_changes():
    piece = piece_of((0, 120, 60), (120, 480, 60), (960, 1440, 0), (960, 1440, 127), ticks=480, name="x")
    piece = replace(piece, tempos=((0, 400000), (7, 300000)), meters=((0, 3, 4), (1440, 6, 8)))
    assert piece.roll(4).piece() == piece
    assert piece.roll(12).piece() == piece


def test_ticks_of_which_a_step_has_no_whole_number():
    piece = piece_of((0, 10, 60), (10, 20, 60), ticks=10, tempos=((0, 400000), (15, 300000)), meters=((0, 2, 4),))
    roll = piece.roll(4)
    assert roll.header.ticks_per_beat == 20
    assert roll.piece() == Piece(
        (Track([(0, 20, 60, 64), (20, 40, 60, 64)]),), 20, ((0, 400000), (30, 300000)), ((0, 2, 4),)
    )
    # the least common multiple is more than a file can say; the changes at 7 and 8 meet on a tick
    piece = replace(piece, ticks_per_beat=32767, tempos=((0, 1), (7, 2), (8, 3), (32767, 4)))
    header = piece.roll(16).header
    assert (header.ticks_per_beat, header.tempos) == (16, ((0, 3), (16, 4)))


def test_positions_of_steps():
    piece = piece_of((0, 40, 60), ticks=10, meters=((0, 2, 4), (20, 3, 8)))
    roll = piece.roll(4)
    assert roll.positions.tolist() == [n / 4 for n in (*range(8), *range(6), 0, 1)]
    assert piece.roll(3).positions == pytest.approx([n / 3 for n in range(6)] + [0, 1 / 3, 2 / 3, 1, 4 / 3, 1 / 6])


def test_real_tunes(data_path, tmp_path):
    n_off, n_notes = {4: 0.0, 12: 0.0}, 0
    with zipfile.ZipFile(data_path / "nottingham_midi.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".mid"))[::10]:
            piece = read(archive.extract(name, tmp_path))
            n_notes += piece.n_notes
            for steps_per_beat in n_off:
                roll = piece.roll(steps_per_beat)
                assert roll.piece().roll(steps_per_beat) == roll
                n_off[steps_per_beat] += roll.off_grid * piece.n_notes
                assert np.count_nonzero(roll.onset) == piece.n_notes - roll.n_merged
    # all of what lies off the sixteenths are triplets and what ornaments them
    assert n_off[4] / n_notes < 0.01
    assert n_off[12] / n_notes < 0.001


# ---- one track


def test_tracks_merged_into_one():
    tracks = [
        Track([(0, 8, 60, 50), (8, 9, 60, 9)], "a", 3),
        Track([(0, 4, 60, 70), (4, 6, 62, 71)], "b", 4),
        Track([(0, 1, 36, 99)], "kit", is_drum=True),
        Track([(2, 3, 60, 20)], "c", 5),
    ]
    roll = Piece(tracks, 4, name="x").roll(4)
    one = roll.merged()
    assert drawn(one) == {60: "O-O-----O", 62: "....O-..."}
    assert one.velocity[0, [0, 2, 8], 60].tolist() == [70, 20, 9]
    assert (one.n_merged, one.header.name) == (1, "x")
    assert one.header.tracks == (Track([], "a", 3),)
    assert one.piece().roll(4) == one
    assert drawn(roll.merged(drums=True))[36] == "O........"
    only_drums = Piece([tracks[2]], 4).roll(4)
    assert only_drums.merged(drums=True) == only_drums
    with pytest.raises(ParameterError, match=r"none of 1 tracks remains.*drums=True"):
        only_drums.merged()


@given(pieces(), GRIDS)
@settings(max_examples=50, deadline=None)
def test_merging_is_a_union(piece, steps_per_beat):
    roll = piece.roll(steps_per_beat)
    if piece.tracks:
        one = roll.merged(drums=True)
        assert np.array_equal(one.onset[0], roll.onset.any(axis=0))
        assert np.array_equal(one.sounding[0], roll.sounding.any(axis=0))
        assert np.array_equal(one.velocity[0], roll.velocity.max(axis=0))


# ---- values


def test_equality_is_of_values_and_nothing_changes():
    piece = piece_of((0, 4, 60), (4, 8, 62))
    roll = piece.roll(4)
    assert roll == piece.roll(4)
    assert roll == replace(roll, off_grid=0.5, n_merged=3)
    others = [piece.roll(2), piece.transposed(1).roll(4), replace(piece, name="x").roll(4), piece.with_tempo(9).roll(4)]
    assert all(roll != other for other in others)
    assert roll != piece
    for plane in (roll.velocity, roll.sounding):
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0, 0] = 1
    assert repr(roll) == "Roll(1 tracks, 8 steps, 4 a beat, 2 notes, off_grid=0, n_merged=0)"


def test_no_notes():
    roll = Piece((Track([]),)).roll(4)
    assert (roll.velocity.shape, roll.off_grid, roll.piece()) == ((1, 0, 128), 0, Piece((Track([]),)))
    assert Piece(()).roll(4).velocity.shape == (0, 0, 128)


def test_what_is_no_roll():
    header = Piece((Track([]),), 4)
    velocity, sounding = np.zeros((1, 3, 128), np.uint8), np.zeros((1, 3, 128), bool)
    made = Roll(velocity, sounding, 4, header)
    velocity[0, 1, 60], sounding[0, 1:, 60] = 1, True
    assert made.n_steps == 3 and not made.onset.any()
    assert Roll(velocity, sounding, 4, header).piece() == piece_of((1, 3, 60, 1))
    loud = velocity.copy()
    loud[0, 1, 60] = 128
    cases = [
        ((velocity[0], sounding, 4, header), r"velocity of shape \(3, 128\).*\(n_tracks, n_steps, 128\)"),
        ((velocity, sounding[:, :2], 4, header), r"sounding of shape \(1, 2, 128\)"),
        ((velocity, sounding.astype(int), 4, header), "sounding of .*dtype int64.*bool"),
        ((velocity, sounding, 4, Piece((), 4)), "as many tracks as the header has, 0"),
        ((loud, sounding, 4, header), "velocity of 128"),
        ((velocity, sounding & False, 4, header), "track 0, step 1, pitch 60.*must sound"),
        ((velocity * 0, sounding, 4, header), "track 0, step 1, pitch 60.*must have been struck"),
        ((np.roll(velocity, 1, 1), sounding, 4, header), "step 1"),
        ((velocity, sounding, 3, header), "4 ticks a beat.*multiple of 3"),
        ((velocity, sounding, 4, piece_of((0, 1, 60))), "header of 1 notes"),
        ((velocity, sounding, 0, header), "steps_per_beat=0"),
    ]
    for arguments, message in cases:
        with pytest.raises(ParameterError, match=message):
            Roll(*arguments)


def test_what_is_too_long():
    with pytest.raises(ParameterError, match=r"n_steps=2000000 .*fewer steps_per_beat, or cut the piece"):
        piece_of((0, 2_000_000, 60)).roll(4)
    many = Piece([Track([(0, 10**5, 60, 64)])] * 200, 1)
    with pytest.raises(ParameterError, match=r"n_steps=100000 of 200 tracks.*2 GiB"):
        many.roll(1)
    for steps_per_beat in (0, 1.5, 32768):
        with pytest.raises(ParameterError, match=f"steps_per_beat={steps_per_beat}"):
            piece_of((0, 1, 60)).roll(steps_per_beat)

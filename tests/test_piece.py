"""Pieces and MIDI files: what the bytes say, what other libraries read in them, and that damage is told in one line."""

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from dataclasses import FrozenInstanceError, replace

import mido
import numpy as np
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnndsp.errors import FormatError, ParameterError
from rnndsp.midi.piece import NOTE, Piece, Track, read, write

END = b"\x00\xff\x2f\x00"


def chunk(name, body):
    return name + struct.pack(">I", len(body)) + body


def smf(*tracks, kind=1, division=480):
    """A file of tracks of events, which get an end each."""
    header = struct.pack(">HHh", kind, len(tracks), division)
    return chunk(b"MThd", header) + b"".join(chunk(b"MTrk", track + END) for track in tracks)


def events(text):
    return bytes.fromhex(text)


@pytest.fixture
def loaded(tmp_path):
    """What is read from such bytes."""

    def load(data, **options):
        path = tmp_path / "a.mid"
        path.write_bytes(data)
        return read(path, **options)

    return load


@pytest.fixture(scope="module")
def tunes(data_path, tmp_path_factory):
    """Every tenth tune of the Nottingham collection."""
    folder = tmp_path_factory.mktemp("tunes")
    with zipfile.ZipFile(data_path / "nottingham_midi.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".mid"))[::10]
        return [archive.extract(name, folder) for name in names]


def rows(piece):
    return [track.notes.tolist() for track in piece.tracks]


def paired(piece):
    """The piece as MIDI holds it: of overlapping notes of one pitch, that ends first which began first."""
    tracks = []
    for track in piece.tracks:
        notes = np.sort(track.notes, order=["pitch", "start", "end", "velocity"])
        for pitch in np.unique(notes["pitch"]):
            same = notes["pitch"] == pitch
            notes["end"][same] = np.sort(notes["end"][same])
        tracks.append(replace(track, notes=notes))
    return replace(piece, tracks=tuple(tracks))


@st.composite
def pieces(draw):
    def changes(*values):
        ticks = [0, *sorted(draw(st.sets(st.integers(1, 9000), max_size=4)))]
        return tuple((tick, *(draw(value) for value in values)) for tick in ticks)

    note = st.tuples(st.integers(0, 5000), st.integers(1, 3000), st.integers(0, 127), st.integers(1, 127))
    near = st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(60, 61), st.integers(1, 127))
    tracks = []
    for _ in range(draw(st.integers(1, 20))):
        found = draw(st.lists(st.one_of(note, near), min_size=1, max_size=12))
        notes = [(start, start + length, pitch, velocity) for start, length, pitch, velocity in found]
        name = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
        tracks.append(Track(notes, name, draw(st.integers(0, 127)), draw(st.booleans())))
    return Piece(
        tuple(tracks),
        draw(st.integers(1, 32767)),
        changes(st.integers(1, 2**24 - 1)),
        changes(st.integers(1, 255), st.sampled_from([1, 2, 4, 8, 16, 1024])),
        draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
    )


# ---- what bytes say


def test_a_file_by_hand(loaded):
    track = events("00 90 3c 40  83 60 80 3c 00  00 90 3e 7f  60 3e 00  00 90 40 01  60 80 40 40")
    piece = loaded(smf(track))
    assert rows(piece) == [[(0, 480, 60, 64), (480, 576, 62, 127), (576, 672, 64, 1)]]
    assert piece.tracks[0].notes.dtype == NOTE
    assert (piece.ticks_per_beat, piece.tempos, piece.meters) == (480, ((0, 500000),), ((0, 4, 4),))
    assert (piece.n_notes, piece.end, piece.n_beats, piece.duration_s) == (3, 672, 1.4, 0.7)


def test_notes_that_are_left_open_empty_or_never_begun(loaded):
    # off without on, on and off at once, and on until the end of the track, 96 ticks later
    track = events("00 80 30 00  00 90 3c 40  00 80 3c 00  60 90 40 50  60 ff 01 00")
    assert rows(loaded(smf(track))) == [[(0, 1, 60, 64), (96, 192, 64, 80)]]
    assert rows(loaded(smf(events("10 90 40 50")))) == [[(16, 17, 64, 80)]]


def test_of_overlapping_notes_that_ends_first_which_began_first(loaded):
    track = events("00 90 3c 11  10 90 3c 22  10 80 3c 00  10 80 3c 00  00 91 3c 33  10 90 3c 44  10 80 3c 00")
    piece = loaded(smf(track))
    assert rows(piece) == [[(0, 32, 60, 0x11), (16, 48, 60, 0x22), (64, 80, 60, 0x44)], [(48, 80, 60, 0x33)]]


def test_tempo_and_meter_of_any_track(loaded):
    note = events("00 90 3c 40  60 80 3c 00")
    second = events("60 ff 51 03 06 1a 80  00 ff 58 04 06 03 18 08")
    piece = loaded(smf(note, second))
    assert piece.tempos == ((0, 500000), (96, 400000))
    assert piece.meters == ((0, 4, 4), (96, 6, 8))
    piece = loaded(smf(note, events("00 ff 51 03 06 1a 80  00 ff 51 03 07 a1 21  00 ff 58 04 03 02 18 08")))
    assert piece.tempos == ((0, 500001),)
    assert piece.meters == ((0, 3, 4),)


def test_notes_are_parted_by_channel_and_program(loaded):
    track = events(
        "00 ff 03 01 61  00 c0 05  00 90 3c 40  00 c0 06  10 80 3c 00  00 90 3c 41  00 99 24 42"
        "10 80 3c 00  00 89 24 00  00 c0 05  00 90 40 43  10 80 40 00"
    )
    piece = loaded(smf(track))
    assert [(t.name, t.program, t.is_drum) for t in piece.tracks] == [("a", 5, False), ("a", 6, False), ("a", 0, True)]
    assert rows(piece) == [[(0, 16, 60, 0x40), (32, 48, 64, 0x43)], [(16, 32, 60, 0x41)], [(16, 32, 36, 0x42)]]


def test_names_are_utf_8_or_else_latin_1(loaded):
    note = events("00 90 3c 40  60 80 3c 00")
    for data in ("Für Elise ♭".encode(), "Für Elise".encode("latin-1")):
        name = b"\x00\xff\x03" + bytes([len(data)]) + data
        piece = loaded(smf(name, b"\x00\xff\x03\x01b" + note))
        assert piece.name.startswith("Für Elise")
        assert piece.tracks[0].name == "b"


def test_what_other_readers_stumble_over(loaded):
    note = events("00 90 3c 40  60 80 3c 00")
    expected = [[(96, 192, 60, 64)]]
    unknown, key, sysex, smpte = (
        events("60 ff 08 01 61"),
        events("60 ff 59 02 00 ff"),
        events("60 f0 02 ff f7"),
        events("60 ff 54 05 ff 00 00 00 00"),
    )
    for odd in (unknown, key, sysex, smpte):
        assert rows(loaded(smf(odd + note))) == expected
    # running status that goes on behind a meta event, padding behind the end, and a chunk that is no track
    assert rows(loaded(smf(events("60 90 3c 40  00 ff 01 00  60 3c 00")))) == expected
    assert rows(loaded(smf(events("60") + note[1:] + END + bytes(7)))) == expected
    whole = smf(events("60") + note[1:])
    assert rows(loaded(whole[:14] + chunk(b"XFIH", b"1234") + whole[14:] + b"trailing")) == expected


def test_the_pedal_is_left_out_unless_asked_for(loaded):
    # down at 16; C from 0 to 32 and again at 64; E from 0 to 8; up at 96, from another track of the channel
    hands = events("00 90 3c 40  00 40 40  08 80 40 00  18 80 3c 00  20 90 3c 41  08 80 3c 00  38 ff 01 00")
    foot = events("10 b0 40 40  50 b0 40 3f  00 b1 40 7f")
    data = smf(hands, foot)
    assert rows(loaded(data)) == [[(0, 32, 60, 64), (0, 8, 64, 64), (64, 72, 60, 65)]]
    assert rows(loaded(data, pedal=True)) == [[(0, 64, 60, 64), (0, 8, 64, 64), (64, 96, 60, 65)]]
    # never up: until the end
    assert rows(loaded(smf(hands, foot[:4]), pedal=True)) == [[(0, 64, 60, 64), (0, 8, 64, 64), (64, 128, 60, 65)]]


# ---- time


def test_seconds_through_the_tempo_map():
    piece = Piece((), 100, ((0, 500000), (200, 1000000), (250, 250000)))
    ticks = [0, 100, 200, 225, 250, 350]
    assert piece.seconds(ticks).tolist() == [0, 0.5, 1.0, 1.25, 1.5, 1.75]
    assert piece.seconds([[0.5]]).tolist() == [[0.0025]]
    assert float(piece.seconds(300)) == 1.625
    assert piece.with_tempo(90).tempos == ((0, 666667),)
    assert piece.with_tempo(120).seconds(ticks).tolist() == (np.array(ticks) / 200).tolist()


def test_positions_in_bars():
    piece = Piece((), 4, meters=((0, 4, 4), (32, 6, 8), (50, 2, 4), (56, 5, 16)))
    assert piece.positions([0, 3, 15, 16, 31]).tolist() == [0, 0.75, 3.75, 0, 3.75]
    # bars of three beats from 32 on, the second cut short at 50
    assert piece.positions([32, 43, 44, 49, 50, 55]).tolist() == [0, 2.75, 0, 1.25, 0, 1.25]
    # bars of five ticks
    assert piece.positions([[56, 60], [61, 62]]).tolist() == [[0, 1], [0, 0.25]]
    # a bar that is no whole number of ticks
    assert Piece((), 1, meters=((0, 3, 8),)).positions(range(5)).tolist() == [0, 1, 0.5, 0, 1]


# ---- values


def test_equality_is_of_values_and_nothing_changes():
    notes = [(5, 9, 60, 64), (0, 4, 62, 64), (0, 4, 60, 64)]
    piece = Piece([Track(notes, "a")], 96)
    assert piece == Piece((Track(notes[::-1], "a"),), 96)
    assert piece.tracks[0].notes.tolist() == [(0, 4, 60, 64), (0, 4, 62, 64), (5, 9, 60, 64)]
    others = [
        Piece((Track(notes[1:], "a"),), 96),
        Piece((Track(notes, "b"),), 96),
        Piece((Track(notes, "a", 1),), 96),
        Piece((Track(notes, "a", is_drum=True),), 96),
        Piece((Track(notes, "a"),), 97),
        piece.with_tempo(60),
        replace(piece, name="x"),
        replace(piece, meters=((0, 3, 4),)),
    ]
    assert all(piece != other for other in others)
    assert piece.tracks[0] != notes
    assert Track(np.array(notes)) == Track([list(note) for note in notes]) == Track(np.array(notes, NOTE))
    with pytest.raises(ValueError, match="read-only"):
        piece.tracks[0].notes["pitch"] = 1
    with pytest.raises(FrozenInstanceError):
        piece.name = "x"
    own = np.array(notes, NOTE)
    track = Track(own)
    own["pitch"] = 0
    assert track.notes["pitch"].min() == 60


def test_transposition_leaves_drums():
    piece = Piece((Track([(0, 1, 60, 64), (0, 1, 100, 64)]), Track([(0, 1, 36, 64)], is_drum=True)))
    assert rows(piece.transposed(-12)) == [[(0, 1, 48, 64), (0, 1, 88, 64)], [(0, 1, 36, 64)]]
    assert piece.transposed(27).transposed(-27) == piece
    for semitones in (28, -61):
        with pytest.raises(ParameterError, match=rf"semitones={semitones} .*choose -60 to 27"):
            piece.transposed(semitones)
    assert Piece(()).transposed(3) == Piece(())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Track([(4, 4, 60, 64)]), r"note \(4, 4, 60, 64\).*0 <= start < end"),
        (lambda: Track([(-1, 4, 60, 64)]), "0 <= start"),
        (lambda: Track([(0, 4, 128, 64)]), "pitch 0 to 127"),
        (lambda: Track([(0, 4, 60, 0)]), "velocity 1 to 127"),
        (lambda: Track([(0, 4, 300, 64)]), r"note \(0, 4, 300, 64\)"),
        (lambda: Track([(0, 4, -1, 64)]), "pitch 0 to 127"),
        (lambda: Track([(0.5, 4, 60, 64)]), "dtype float64.*whole numbers"),
        (lambda: Track([(0, 2**40, 60, 64)]), "0 <= start < end"),
        (lambda: Track([(0, 4, 60)]), r"shape \(1, 3\).*list of tuples"),
        (lambda: Track([(0, 4, 60), (0, 4, 60, 64)]), "must all be"),
        (lambda: Track(np.zeros((1, 2), NOTE)), r"shape \(1, 2\).*array of NOTE"),
        (lambda: Track(["abcd"]), "dtype <U4"),
        (lambda: Track([], program=128), "program=128.*at most 127"),
        (lambda: Track([], program=1.5), "program=1.5"),
        (lambda: Track([], name="\ud800"), "name=.*UTF-8"),
        (lambda: Track([], name=None), "name=None"),
        (lambda: Piece(([(0, 1, 60, 64)],)), "give Track"),
        (lambda: Piece((), 0), "ticks_per_beat=0"),
        (lambda: Piece((), 32768), "ticks_per_beat=32768.*at most 32767"),
        (lambda: Piece((), tempos=()), "tempos=.*beginning with tick 0"),
        (lambda: Piece((), tempos=((1, 500000),)), "beginning with tick 0"),
        (lambda: Piece((), tempos=((0, 1), (5, 1), (5, 2))), "in order"),
        (lambda: Piece((), tempos=((0, 0),)), "tempo=0"),
        (lambda: Piece((), tempos=((0, 2**24),)), "tempo=16777216"),
        (lambda: Piece((), tempos=500000), "sequence of tuples of 2"),
        (lambda: Piece((), meters=((0, 4),)), "tuples of 3"),
        (lambda: Piece((), meters=((0, 0, 4),)), "numerator=0"),
        (lambda: Piece((), meters=((0, 4, 3),)), "denominator=3.*power of two"),
        (lambda: Piece(()).with_tempo(0), "bpm=0"),
        (lambda: Piece(()).with_tempo(float("nan")), "bpm=nan"),
        (lambda: Piece(()).transposed(0.5), "semitones=0.5"),
    ],
)
def test_what_is_no_piece(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


# ---- writing


@pytest.fixture
def band():
    """Several instruments and drums, later changes of tempo and meter, names beyond Latin-1."""
    return Piece(
        (
            Track([(0, 480, 60, 1), (480, 960, 60, 127), (2000, 2001, 127, 64)], "Flöte ♭", 73),
            Track([(0, 9600, 0, 64)], "二胡", 110),
            Track([(0, 10, 36, 100), (0, 10, 42, 80)], "drums", 8, is_drum=True),
            Track([(5, 6, 60, 64)], "", 73),
        ),
        960,
        ((0, 612345), (1000, 1), (5000, 2**24 - 1)),
        ((0, 3, 4), (960, 7, 8), (20000, 255, 1024)),
        "Ночь",
    )


def test_a_file_gives_back_what_was_written(tmp_path, band):
    path = tmp_path / "a.mid"
    write(band, path)
    assert read(path) == band
    assert [path.name for path in tmp_path.iterdir()] == ["a.mid"]


@given(pieces())
@settings(max_examples=60, deadline=None)
def test_any_piece_comes_back_with_its_overlapping_notes_paired(piece):
    once = Piece.from_mido(piece.to_mido())
    assert once == paired(piece)
    assert Piece.from_mido(once.to_mido()) == once


def test_where_things_stand_in_a_file(band):
    midi = band.to_mido()
    assert (midi.type, midi.ticks_per_beat, len(midi.tracks)) == (1, 960, 5)
    assert {message.type for message in midi.tracks[0]} == {"track_name", "set_tempo", "time_signature"}
    heads = [[message for message in track if message.type == "program_change"] for track in midi.tracks[1:]]
    assert [(head[0].channel, head[0].program) for head in heads] == [(0, 73), (1, 110), (9, 8), (2, 73)]
    struck = [(message.type, message.time) for message in midi.tracks[1] if message.type.startswith("note")]
    assert struck[:4] == [("note_on", 0), ("note_off", 480), ("note_on", 0), ("note_off", 480)]


def test_more_tracks_than_channels_share_them_by_program():
    tracks = [Track([(0, 1, 60, 64)], program=program) for program in (*range(14), *range(14))]
    midi = Piece(tracks).to_mido()
    channels = [track[1].channel for track in midi.tracks[1:]]
    assert channels[:14] == channels[14:] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    many = Piece([Track([(0, 1, 60, 64)], program=program) for program in range(40)])
    assert Piece.from_mido(many.to_mido()) == many
    assert {track[1].channel for track in many.to_mido().tracks[1:]} == {*range(16)} - {9}


def test_what_cannot_be_written(tmp_path, band):
    path = tmp_path / "a.mid"
    path.write_text("precious")
    with pytest.raises(ParameterError, match=r"exists.*force=True"):
        write(band, path)
    assert path.read_text() == "precious"
    write(band, path, force=True)
    assert read(path) == band
    with pytest.raises(ParameterError, match=r"b\.mid.*holds no notes"):
        write(Piece((Track([]),)), tmp_path / "b.mid")
    with pytest.raises(ParameterError, match="nothing happens from tick 0 to 268435456"):
        write(Piece((Track([(2**28, 2**28 + 1, 60, 64)]),)), tmp_path / "b.mid")
    with pytest.raises(ParameterError, match="does not exist"):
        write(band, tmp_path / "absent" / "b.mid")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mid"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, band, monkeypatch):
    path = tmp_path / "a.mid"
    write(band, path)

    def interrupted(self, path):
        path.write_bytes(b"MThd")
        raise KeyboardInterrupt

    monkeypatch.setattr(mido.MidiFile, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(band.transposed(0), path, force=True)
    monkeypatch.undo()
    assert read(path) == band
    assert [path.name for path in tmp_path.iterdir()] == ["a.mid"]


# ---- other libraries


def test_mido_files(band):
    midi = mido.MidiFile(type=0, ticks_per_beat=96)
    midi.tracks.append(mido.MidiTrack([mido.MetaMessage("track_name", name="ü")]))
    midi.tracks[0] += [mido.Message("note_on", note=50, time=7), mido.Message("note_off", note=50, time=9)]
    assert Piece.from_mido(midi) == Piece((Track([(7, 16, 50, 64)], "ü"),), 96, name="ü")
    midi.tracks[0][1].time = 0.5
    with pytest.raises(FormatError, match=r"the MidiFile cannot be written: .*int"):
        Piece.from_mido(midi)
    with pytest.raises(FormatError, match="the MidiFile is of type 2"):
        Piece.from_mido(mido.MidiFile(type=2, tracks=[midi.tracks[0][:1]]))


def test_pretty_midi_hears_the_same(band):
    band = replace(band, tempos=((0, 612345), (1000, 400001), (5000, 123456)), meters=band.meters[:2])
    pm = band.to_pretty_midi()
    assert [(i.name, i.program, i.is_drum) for i in pm.instruments] == [
        (t.name, t.program, t.is_drum) for t in band.tracks
    ]
    assert Piece.from_pretty_midi(pm) == replace(band, name="")
    file = io.BytesIO()
    band.to_mido().save(file=file)
    file.seek(0)
    again = pretty_midi.PrettyMIDI(file, charset="utf-8")  # warns of tempo elsewhere than in track 0
    for mine, its, track in zip(pm.instruments, again.instruments, band.tracks, strict=True):
        assert (its.name, its.program, its.is_drum) == (track.name, track.program, track.is_drum)
        for a, b in zip(mine.notes, sorted(its.notes, key=lambda n: (n.start, n.pitch)), strict=True):
            assert (a.pitch, a.velocity) == (b.pitch, b.velocity)
            np.testing.assert_allclose((a.start, a.end), (b.start, b.end), rtol=0, atol=1e-9)
    assert [(m.numerator, m.denominator) for m in again.time_signature_changes] == [(3, 4), (7, 8)]


def test_pretty_midi_keeps_overlapping_notes_and_says_what_it_cannot_hold():
    piece = Piece((Track([(0, 10, 60, 64), (5, 7, 60, 65)]),))
    assert Piece.from_pretty_midi(piece.to_pretty_midi()) == piece
    late = replace(piece, tempos=((0, 500000), (10**8, 400000)))
    with pytest.raises(ParameterError, match="does not fit into a PrettyMIDI"):
        late.to_pretty_midi()
    pm = pretty_midi.PrettyMIDI(resolution=100, initial_tempo=60)
    pm.instruments = [pretty_midi.Instrument(3, name="x")]
    pm.instruments[0].notes = [pretty_midi.Note(64, 60, 0.014, 0.016), pretty_midi.Note(64, 61, 1.004, 2.006)]
    pm.time_signature_changes = [pretty_midi.TimeSignature(3, 8, 0.5)]
    expected = [(1, 2, 60, 64), (100, 201, 61, 64)]
    assert Piece.from_pretty_midi(pm) == Piece(
        (Track(expected, "x", 3),), 100, ((0, 1000000),), ((0, 4, 4), (50, 3, 8))
    )
    pm.instruments[0].notes[0].velocity = 300
    with pytest.raises(ParameterError, match=r"note \(1, 2, 60, 300\).*velocity 1 to 127"):
        Piece.from_pretty_midi(pm)


def test_real_files_are_read_as_pretty_midi_reads_them(tunes):
    for path in tunes:
        piece = read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the meter stands in the second track, too
            pm = pretty_midi.PrettyMIDI(os.fspath(path))
        assert [i.name for i in pm.instruments] == [t.name for t in piece.tracks]
        for instrument, track in zip(pm.instruments, piece.tracks, strict=True):
            its = np.array([(n.start, n.end, n.pitch, n.velocity) for n in instrument.notes])
            mine = np.stack([piece.seconds(track.notes["start"]), piece.seconds(track.notes["end"])], axis=1)
            order = np.lexsort((its[:, 1], its[:, 2], its[:, 0]))
            np.testing.assert_allclose(mine, its[order, :2], rtol=0, atol=1e-9)
            assert np.array_equal(track.notes["pitch"], its[order, 2])
            assert np.array_equal(track.notes["velocity"], its[order, 3])


def test_real_files_come_back(tunes, tmp_path):
    for path in tunes:
        piece = read(path)
        write(piece, tmp_path / "a.mid", force=True)
        assert read(tmp_path / "a.mid") == piece
        assert Piece.from_pretty_midi(piece.to_pretty_midi()) == replace(piece, name="")


# ---- damage

NOTES = events("00 90 3c 40  60 80 3c 00")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no MIDI file: it is empty"),
        (b"To be or not to be, that is the question.\n" * 9, "is no MIDI file: it does not begin with MThd"),
        (b"RIFF" + bytes(40), "does not begin with MThd"),
        (b"MThd\0\0", "cut short, within its header"),
        (smf(NOTES)[:-1], "cut short: it announces 1 tracks, 0 are there"),
        (smf(NOTES, NOTES)[:40], "cut short: it announces 2 tracks, 1 are there"),
        (smf(NOTES)[:20], "cut short"),
        (smf(NOTES, kind=2), "of type 2"),
        (smf(NOTES, division=0), "SMPTE"),
        (smf(NOTES, division=-6360), "SMPTE"),
        (smf(NOTES + events("00 ff 51 03 00 00 00")), "a tempo of 0 at tick 96"),
        (smf(NOTES + events("00 ff 51 01 07")), "ends within an event"),
        (smf(NOTES + events("00 ff 58 04 00 02 18 08")), r"a meter of 0/2\^2 at tick 96"),
        (smf(NOTES + events("00 ff 58 04 04 ff 18 08")), r"a meter of 4/2\^255"),
        (smf(events("ff ff ff 7f 90 3c 40") * 9), "it lasts 2[0-9]{9} ticks"),
        (smf(), "holds no notes"),
        (smf(b""), "holds no notes"),
        (smf(events("00 80 3c 40")), "holds no notes"),
        (smf(events("00 3c 40")), "an event of status 0x00"),
        (smf(events("00 f5 40")), "an event of status 0xf5"),
        (smf(events("00 90 80 40")), "data above 127 in an event at tick 0"),
        (smf(events("ff ff ff ff 7f 90 3c 40")), "a number of more than four bytes"),
        (smf(NOTES + events("00 ff 01 7f 61")), "ends within an event"),
        (smf(NOTES + events("00 90")), "data above 127 in an event at tick 96"),
    ],
)
def test_damaged_files(tmp_path, data, message):
    path = tmp_path / "tune.mid"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"tune\.mid.*{message}"):
        read(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FormatError, match=r"absent\.mid.*No such file"):
        read(tmp_path / "absent.mid")
    with pytest.raises(FormatError, match=r"cannot be read: Is a directory"):
        read(tmp_path)
    with (tmp_path / "huge.mid").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(FormatError, match=r"huge\.mid.*larger than 16 MiB"):
        read(tmp_path / "huge.mid")


def test_damage_does_not_take_long(loaded):
    size = 3_000_000
    for body in (b"\xff" * size, b"\x80" * size, bytes(size), b"\x00\xff\x03\x00" * (size // 100), b"\x90" * size):
        began = time.process_time()
        with pytest.raises(FormatError):
            loaded(smf(body))
        assert time.process_time() - began < 2


@pytest.fixture(scope="module")
def whole():
    notes = [(k * 7 % 50 * 20, k * 7 % 50 * 20 + 30 + k, 40 + k % 30, 64) for k in range(50)]
    tracks = [Track(notes, "one"), Track(notes[::2], "two", 5, True)]
    file = io.BytesIO()
    Piece(tracks, 96, ((0, 400000), (500, 300000)), ((0, 3, 4),)).to_mido().save(file=file)
    return file.getvalue()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_flipped_or_lost(tmp_path_factory, whole, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 6))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    start, stop = (data.draw(st.integers(0, len(whole))) for _ in range(2))
    if data.draw(st.booleans()):
        del damaged[start:stop]
    path = tmp_path_factory.getbasetemp() / "damaged.mid"
    path.write_bytes(damaged)
    try:
        piece = read(path, pedal=data.draw(st.booleans()))
    except FormatError as error:
        assert "damaged.mid" in str(error)
        return
    assert piece.n_notes
    assert np.isfinite(piece.duration_s)


def test_the_module_is_light():
    program = (
        "import sys, rnndsp.midi.piece, rnndsp.midi.roll, rnndsp.midi.render, rnndsp.midi.plots; "
        "print([m for m in ('mido', 'pretty_midi', 'matplotlib', 'fluidsynth') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

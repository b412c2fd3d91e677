"""Keys of pieces: scales and cadences in every key, the method by its letter, and where Bach's basses come to rest."""

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rnndsp.errors import ParameterError
from rnndsp.midi import Key, Piece, Track, chorales, estimate_key

KEYS = [Key(tonic, is_minor) for is_minor in (False, True) for tonic in range(12)]
# Bellman 2006, after Budge 1943
MAJOR = [16.80, 0.86, 12.95, 1.41, 13.49, 11.93, 1.25, 20.28, 1.80, 8.04, 0.62, 10.57]
MINOR = [18.16, 0.69, 12.99, 13.34, 1.07, 11.15, 1.38, 21.07, 7.49, 1.53, 0.92, 10.21]


def piece_of(chords, **about):
    """A piece of one track: each chord, of MIDI numbers, lasts a beat."""
    notes = [(480 * i, 480 * i + 480, pitch, 64) for i, chord in enumerate(chords) for pitch in chord]
    return Piece((Track(notes, **about),))


def slowly(piece):
    """Every key with its correlation, the best first."""
    total = [0] * 12
    for track in piece.tracks:
        for start, end, pitch, _ in [] if track.is_drum else track.notes.tolist():
            total[pitch % 12] += end - start

    def correlation(key):
        profile = [(MINOR if key.is_minor else MAJOR)[(k - key.tonic) % 12] for k in range(12)]
        a, b = [x - fmean(total) for x in total], [x - fmean(profile) for x in profile]
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    return sorted(((correlation(key), key) for key in KEYS), reverse=True)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_scales_and_cadences(key):
    third, sixth = (3, 8) if key.is_minor else (4, 9)
    # in the minor with its leading note
    scale = [0, 2, third, 5, 7, sixth, 11, 12]
    cadence = [(0, third, 7), (5, sixth, 12), (7, 11, 14), (0, third, 7, 12)]
    for music in ([(step,) for step in scale], cadence):
        assert estimate_key(piece_of([[48 + key.tonic + step for step in chord] for chord in music])) == key


def test_names():
    assert [str(Key(0, False)), str(Key(9, True)), str(Key(10, False))] == ["C major", "A minor", "Bb major"]
    assert len({str(key) for key in KEYS}) == 24


def test_the_shortest_way_to_c():
    ways = [key.semitones_to_c for key in KEYS]
    assert ways == 2 * [0, -1, -2, -3, -4, -5, -6, 5, 4, 3, 2, 1]


notes = st.tuples(st.integers(0, 50), st.integers(1, 9), st.integers(24, 99), st.integers(1, 127))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(notes, max_size=12), min_size=1, max_size=3), st.integers(-24, 24))
def test_by_the_letter_and_at_any_pitch(tracks, shift):
    found = [[(start, start + length, pitch, velocity) for start, length, pitch, velocity in rows] for rows in tracks]
    # the last of several tracks are drums, which must not count
    piece = Piece(tuple(Track(rows, is_drum=place == 2) for place, rows in enumerate(found)))
    assume(len({pitch % 12 for rows in found[:2] for _, _, pitch, _ in rows}) in range(1, 12))
    best, second = slowly(piece)[:2]
    assume(best[0] - second[0] > 1e-9)
    assert estimate_key(piece) == best[1]
    moved = estimate_key(piece.transposed(shift))
    assert moved == ((best[1].tonic + shift) % 12, best[1].is_minor)


def test_loudness_octave_tempo_and_resolution_do_not_count():
    piece = piece_of([(62, 66, 69), (67,), (64, 73), (62,)])
    (rows,) = (track.notes.tolist() for track in piece.tracks)
    other = [(7 * a, 7 * b, pitch + (-24, 0, 12)[i % 3], 1 + 9 * i) for i, (a, b, pitch, _) in enumerate(rows)]
    assert estimate_key(piece) == estimate_key(Piece((Track(other),), 96, ((0, 300000),))) == (2, False)


def test_drums_do_not_count():
    piece = piece_of([(60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67)])
    drums = piece_of([(42,)] * 99, is_drum=True)
    assert estimate_key(Piece(piece.tracks + drums.tracks)) == estimate_key(piece) == (0, False)


@pytest.mark.parametrize(
    "piece", [Piece(()), Piece((Track([]),)), piece_of([(36,)], is_drum=True)], ids=["no track", "no note", "drums"]
)
def test_no_notes(piece):
    with pytest.raises(ParameterError, match="no pitched notes"):
        estimate_key(piece)


def test_a_cluster_of_all_notes_has_some_key():
    assert estimate_key(piece_of([range(60, 72)])) in KEYS


# ---- Bach


@pytest.fixture(scope="module")
def bach():
    return chorales().pieces


def test_chorales_by_the_letter(bach):
    for piece in bach:
        assert estimate_key(piece) == slowly(piece)[0][1], piece.name


def test_most_chorales_end_on_their_tonic(bach):
    last = [int(piece.tracks[3].notes["pitch"][-1]) % 12 for piece in bach]
    assert np.mean(np.equal(last, [estimate_key(piece).tonic for piece in bach])) >= 0.8

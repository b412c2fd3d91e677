"""The bundled chorales, and folders of MIDI files.

Oracles: bars entered by hand, lists of settings known to be of one tune, a figure from the literature (13.3 % of the
notes repeat their voice's pitch), a comparison of melodies that is not the one that made the split, and, where music21
is installed, the script that made the data.
"""

import importlib.util
import os
import subprocess
import sys
import zipfile
from importlib import resources
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from rnndsp.errors import ParameterError
from rnndsp.midi import corpus
from rnndsp.midi.corpus import chorales, read_folder
from rnndsp.midi.piece import Piece, Track, write

SCRIPT = Path(__file__).resolve().parent / "make_chorales.py"
BAR, STEP = 1920, 120
PARTS = ("train", "validation", "test")

# (onset, duration, pitch) in sixteenths, soprano to bass, up to the first fermata or near it; a bar begins at 16
BARS = {
    # O Haupt voll Blut und Wunden, St Matthew Passion, in D minor
    "BWV 244.54": [
        [(12, 4, 69), (16, 4, 74), (20, 4, 72), (24, 4, 70), (28, 4, 69), (32, 8, 67), (40, 4, 69)],
        [(12, 4, 65), (16, 2, 65), (18, 2, 67), (20, 4, 69), (24, 2, 62), (26, 2, 64), (28, 4, 65), (32, 4, 65)],
        [(12, 4, 62), (16, 2, 62), (18, 2, 64), (20, 4, 65), (24, 4, 67), (28, 4, 60), (32, 4, 62), (36, 4, 60)],
        [(12, 2, 62), (14, 2, 60), (16, 4, 58), (20, 4, 57), (24, 4, 55), (28, 4, 53), (32, 4, 46), (36, 4, 48)],
    ],
    # Ein feste Burg ist unser Gott, in D
    "BWV 302": [
        [(12, 4, 74), (16, 4, 74), (20, 4, 74), (24, 2, 69), (26, 2, 71), (28, 4, 73), (32, 2, 74), (34, 2, 73)],
        [(12, 4, 69), (16, 4, 62), (20, 2, 62), (22, 2, 64), (24, 4, 66), (28, 4, 67), (32, 4, 69), (36, 4, 68)],
        [(12, 4, 66), (16, 4, 66), (20, 2, 59), (22, 2, 61), (24, 4, 62), (28, 4, 64), (32, 6, 66), (38, 1, 64)],
        [(12, 2, 62), (14, 2, 61), (16, 4, 59), (20, 2, 57), (22, 2, 55), (24, 4, 54), (28, 4, 52), (32, 4, 50)],
    ],
    # Wachet auf, ruft uns die Stimme, in E flat; no pickup, and a tied note in the bass
    "BWV 140.7": [
        [(0, 4, 63), (4, 4, 67), (8, 6, 70), (14, 2, 70), (16, 4, 70), (20, 4, 70), (24, 8, 72), (32, 8, 70)],
        [(0, 4, 58), (4, 4, 63), (8, 4, 67), (12, 4, 65), (16, 4, 67), (20, 4, 65), (24, 4, 67), (28, 4, 65)],
        [(0, 4, 55), (4, 4, 58), (8, 4, 63), (12, 4, 62), (16, 4, 63), (20, 4, 58), (24, 4, 58), (28, 4, 57)],
        [(0, 10, 51), (10, 2, 55), (12, 2, 58), (14, 2, 56), (16, 2, 55), (18, 2, 53), (20, 2, 51), (22, 2, 50)],
    ],
}
# By the hymnals, whatever words a setting has: keys, rhythms and ornaments differ.
TUNES = {
    "Herzlich tut mich verlangen": "153.5 244.15 244.44 244.54 244.62 248.5 270 271",
    "O Welt, ich muss dich lassen": "13.6 44.7 244.10 244.37 245.11 392 393 394 395",
    "Werde munter, mein Gemüte": "55.5 154.3 244.40 359 360",
    "Jesu, meine Freude": "64.8 81.7 87.7 227.7 227.11 358",
    "Wer nur den lieben Gott lässt walten": "84.5 88.7 166.6 179.6 197.10 434",
    "Es ist das Heil uns kommen her": "9.7 86.6 117.4 155.5 177.4",
    "Nun bitten wir den Heiligen Geist": "169.7 197.5 385",
    "Christus, der uns selig macht": "245.15 245.37 283",
    "Ein feste Burg": "80.8 302 303",
    "Magnificat peregrini toni": "10.7 323",
}


def voice(piece: Piece, n: int) -> np.ndarray:
    """Rows (onset, duration, pitch) of a voice, in sixteenths."""
    notes = piece.tracks[n].notes
    start, end, pitch = (notes[field].astype(int) for field in ("start", "end", "pitch"))
    assert not (start % STEP).any() and not (end % STEP).any()
    return np.column_stack([start // STEP, (end - start) // STEP, pitch])


@pytest.fixture(scope="module")
def bach():
    return chorales()


# ---- the chorales


def test_as_many_as_the_file_has(bach):
    assert [len(getattr(bach, part)) for part in PARTS] == [230, 29, 29]
    assert len(bach) == len(bach.pieces) == 288 and bach.name == "Bach chorales"
    assert bach.refused == () and bach.duplicates == 0
    assert repr(bach) == "Corpus('Bach chorales': 230 train, 29 validation, 29 test; 0 refused, 0 duplicates)"
    assert sum(piece.n_notes for piece in bach.pieces) == 66112


def test_pieces_are_four_voices_of_a_choir(bach):
    for piece in bach.pieces:
        assert [track.name for track in piece.tracks] == ["Soprano", "Alto", "Tenor", "Bass"]
        assert {(track.program, track.is_drum) for track in piece.tracks} == {(52, False)}
        assert piece.ticks_per_beat == 480 and piece.meters == ((0, 4, 4),) and piece.tempos == ((0, 833333),)
        assert {velocity for track in piece.tracks for velocity in track.notes["velocity"].tolist()} == {80}
        means = [track.notes["pitch"].mean() for track in piece.tracks]
        assert means == sorted(means, reverse=True)
        for track in piece.tracks:
            assert (track.notes["start"][1:] >= track.notes["end"][:-1]).all(), f"{piece.name}: not one voice"


def test_names_are_unique_and_in_order(bach):
    assert len({piece.name for piece in bach.pieces}) == 288
    for part in PARTS:
        numbers = [
            int(piece.name.removeprefix("BWV ").partition(".")[0].partition("-")[0]) for piece in getattr(bach, part)
        ]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", BARS)
def test_first_bars(bach, name):
    piece = next(piece for piece in bach.pieces if piece.name == name)
    for n, notes in enumerate(BARS[name]):
        assert voice(piece, n)[: len(notes)].tolist() == [list(note) for note in notes]


def test_what_is_left_out(bach):
    names = {piece.name for piece in bach.pieces}
    # 3/4; 3/4 in part; five parts; thirty-seconds; no metre; another chorale under that name
    assert not names & {"BWV 269", "BWV 362", "BWV 8.6", "BWV 432", "BWV 324", "BWV 62.6"}
    assert {"BWV 69.6-a", "BWV 274", "BWV 18.5-l", "BWV 112.5"} <= names


def test_ranges_of_the_voices(bach):
    lowest = [min(voice(piece, n)[:, 2].min() for piece in bach.pieces) for n in range(4)]
    highest = [max(voice(piece, n)[:, 2].max() for piece in bach.pieces) for n in range(4)]
    assert lowest == [57, 53, 48, 36] and highest == [81, 74, 69, 64]


def test_share_of_repeated_notes(bach):
    lines = [voice(piece, n) for piece, n in product(bach.pieces, range(4))]
    repeats = sum(np.count_nonzero(np.diff(line[:, 2]) == 0) for line in lines)
    assert 0.12 < repeats / sum(map(len, lines)) < 0.15


def test_bars_begin_where_bars_begin(bach):
    last = [voice(piece, 3)[-1, 0] % 16 for piece in bach.pieces]
    assert np.isin(last, [0, 8]).mean() > 0.95  # final chords stand on the strong beats
    first = [min(voice(piece, n)[0, 0] for n in range(4)) for piece in bach.pieces]
    assert max(first) < 16 and np.isin(first, [0, 12]).mean() > 0.95
    assert 0.6 < np.mean(np.equal(first, 12)) < 0.8  # most have a pickup of one beat
    # sixteenths and eighths pass by between the beats, long notes begin on them
    onsets, durations, _ = np.concatenate([voice(piece, n) for piece, n in product(bach.pieces, range(4))]).T
    assert (onsets[durations >= 8] % 8 == 0).mean() > 0.85
    assert (onsets[durations >= 4] % 4 == 0).mean() > 0.95


def test_positions_of_the_piece_agree(bach):
    piece = next(piece for piece in bach.pieces if piece.name == "BWV 244.54")
    assert piece.positions(piece.tracks[0].notes["start"][:3]).tolist() == [3, 0, 1]


# ---- no tune in two parts


def phrases(line: np.ndarray, length: int = 8) -> set[tuple[int, ...]]:
    """Runs of intervals of the melody without repeated notes and without passing notes shorter than a quarter."""
    slow = line[line[:, 1] >= 4, 2]
    steps = np.diff(slow[np.append(True, np.diff(slow) != 0)]).tolist()
    return {tuple(steps[i : i + length]) for i in range(len(steps) - length + 1)}


def share(a: set[tuple[int, ...]], b: set[tuple[int, ...]]) -> float:
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def test_no_tune_is_in_two_parts(bach):
    found = {part: [(piece.name, phrases(voice(piece, 0))) for piece in getattr(bach, part)] for part in PARTS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for (name, a), (again, b) in product(found[one], found[other]):
            assert share(a, b) < 0.5, f"{name} and {again}"


def test_the_comparison_of_tunes_sees_them(bach):
    melody = {piece.name: phrases(voice(piece, 0)) for piece in bach.pieces}
    assert share(melody["BWV 244.54"], melody["BWV 270"]) > 0.8  # D minor and E minor
    assert share(melody["BWV 359"], melody["BWV 154.3"]) > 0.5  # ornamented
    assert share(melody["BWV 244.54"], melody["BWV 302"]) < 0.1


@pytest.mark.parametrize("tune", TUNES)
def test_settings_known_to_be_of_one_tune_are_together(bach, tune):
    names = {f"BWV {number}" for number in TUNES[tune].split()}
    where = {part: names & {piece.name for piece in getattr(bach, part)} for part in PARTS}
    assert set.union(*where.values()) == names
    assert names in where.values()


# ---- the file


def test_the_file_is_small_and_plain():
    with resources.as_file(resources.files("rnndsp.midi") / "data" / "chorales.npz") as path:
        assert path.stat().st_size < 300_000
        with np.load(path, allow_pickle=False) as data:
            dtypes = {field: data[field].dtype.name for field in data.files if field != "name"}
            assert data["name"].dtype.kind == "U"
    assert dtypes == {
        "pitch": "uint8",
        "onset": "uint16",
        "duration": "uint8",
        "voice": "uint8",
        "piece": "uint16",
        "split": "uint8",
    }


def test_the_script_makes_the_file_again(tmp_path):
    if not SCRIPT.is_file():
        pytest.skip(f"{SCRIPT.name} is not beside the tests")
    if importlib.util.find_spec("music21") is None:
        pytest.skip("music21, the source of the chorales, is not installed")
    again = tmp_path / "chorales.npz"
    subprocess.run([sys.executable, SCRIPT, again], check=True, capture_output=True)
    with (
        resources.as_file(resources.files("rnndsp.midi") / "data" / "chorales.npz") as path,
        np.load(path) as ours,
        np.load(again) as made,
    ):
        assert ours.files == made.files
        for field in ours.files:
            assert np.array_equal(ours[field], made[field]), field


# ---- folders


def tune(n: int, n_notes: int = 12) -> list[tuple[int, int, int, int]]:
    """Notes of a melody of its own for every n."""
    rng = np.random.default_rng(n)
    return [(480 * i, 480 * i + 240, int(pitch), 80) for i, pitch in enumerate(rng.integers(55, 80, n_notes))]


def put(folder: Path, name: str, notes: list[tuple[int, int, int, int]], **about: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(Piece((Track(notes, **about),), name=name), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Ten good files."""
    for n in range(10):
        put(tmp_path, f"{n}.mid", tune(n))
    return tmp_path


def names(pieces: tuple[Piece, ...]) -> list[str]:
    return [piece.name for piece in pieces]


def test_a_good_folder(folder):
    found = read_folder(folder)
    assert [len(getattr(found, part)) for part in PARTS] == [8, 1, 1] and len(found) == 10
    assert found.name == folder.name and found.refused == () and found.duplicates == 0
    assert sorted(names(found.pieces)) == [f"{n}.mid" for n in range(10)]
    assert names(found.train) == sorted(names(found.train))
    assert read_folder(str(folder)) == found


def test_the_split_depends_on_the_seed_and_nothing_else(folder):
    held = {
        seed: names(read_folder(folder, seed=seed).validation + read_folder(folder, seed=seed).test)
        for seed in range(8)
    }
    assert len(set(map(tuple, held.values()))) > 4
    moved = folder.parent / "elsewhere"
    folder.rename(moved)
    assert names(read_folder(moved, seed=3).validation + read_folder(moved, seed=3).test) == held[3]


@pytest.mark.parametrize("seed", [-1, 0.5, "one", True])
def test_bad_seeds(folder, seed):
    with pytest.raises(ParameterError, match="seed"):
        read_folder(folder, seed=seed)


def test_nested_folders_and_suffixes(folder):
    put(folder, "b/inner/x.mid", tune(20))
    (folder / "b" / "inner" / "x.mid").rename(folder / "b" / "inner" / "LOUD.MID")
    put(folder, "a folder.mid/y.mid", tune(21))
    put(folder, "z.mid", tune(22)).rename(folder / "z.MiDi")
    (folder / "notes.txt").write_text("not music, and not meant to be")
    found = read_folder(folder)
    assert {"b/inner/x.mid", "a folder.mid/y.mid", "z.mid"} <= set(names(found.pieces))
    assert len(found) == 13 and found.refused == ()


def test_what_cannot_be_read_is_listed_and_the_rest_used(folder):
    whole = (folder / "0.mid").read_bytes()
    (folder / "cut.mid").write_bytes(whole[:-20])
    (folder / "empty.mid").touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "text.mid").write_text("Dear diary, this is no music.")
    put(folder, "drums.mid", tune(30), is_drum=True)
    found = read_folder(folder)
    assert len(found) == 10
    reasons = dict(found.refused)
    assert list(reasons) == ["cut.mid", "drums.mid", "empty.mid", "sub/text.mid"]
    assert reasons["drums.mid"] == "only drums"
    assert reasons["cut.mid"].startswith("is cut short") and "no MIDI file" in reasons["sub/text.mid"]
    assert not any(str(folder) in reason for reason in reasons.values())


def test_drums_beside_music_are_no_harm(folder):
    beat = Track([(0, 10, 36, 100)], is_drum=True)
    write(Piece((Track(tune(31)), beat), name="band"), folder / "band.mid")
    assert "band" in names(read_folder(folder).pieces)


def test_what_is_not_a_file_is_refused(folder):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(folder / "pipe.mid")
    (folder / "dangling.mid").symlink_to(folder / "nowhere")
    found = read_folder(folder)
    assert len(found) == 10
    assert [path for path, _ in found.refused] == ["dangling.mid", "pipe.mid"]
    assert dict(found.refused)["pipe.mid"] == "is not a file"


def test_links_to_folders_are_listed_and_not_followed(folder):
    (folder / "sub").mkdir()
    try:
        (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links on this system")
    found = read_folder(folder)
    assert len(found) == 10 and found.refused == (("sub/loop", "is a link to a folder, and not followed"),)


def test_a_folder_that_cannot_be_opened_is_listed(folder, monkeypatch):
    (folder / "locked").mkdir()
    scandir = os.scandir

    # whoever runs the tests may be allowed to open everything
    def locked(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    found = read_folder(folder)
    assert len(found) == 10 and found.refused == (("locked", "cannot be opened: Permission denied"),)


def transposed(notes, semitones, stretch=1):
    return [(a * stretch, b * stretch, pitch + semitones, 50) for a, b, pitch, _ in notes]


@pytest.mark.parametrize("seed", range(10))
def test_the_same_music_lands_in_one_part(tmp_path, seed):
    for n in range(12):
        put(tmp_path, f"{n:02}.mid", tune(n))
    other = transposed(tune(3), 5)
    write(
        Piece((Track(other[::2], program=40), Track(other[1::2])), tempos=((0, 300000),), name="parts"),
        tmp_path / "p.mid",
    )
    write(Piece((Track(transposed(tune(3), -4, 2)),), ticks_per_beat=960, name="fine"), tmp_path / "f.mid")
    put(tmp_path, "near.mid", [*tune(3)[:-1], (5280, 5520, 20, 80)])
    found = read_folder(tmp_path, seed=seed)
    assert len(found) == 15 and found.duplicates == 2
    same = {"03.mid", "parts", "fine"}
    assert same in [same & set(names(getattr(found, part))) for part in PARTS]
    assert all(getattr(found, part) for part in PARTS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (2, 2, 2), (1, 1, 18), (9, 9, 9), (1, 1, 1, 18), (1, 4, 5, 30), (1,) * 40]
)
def test_no_part_is_empty_and_no_group_is_torn(sizes, seed):
    edges = np.cumsum([0, *sizes]).tolist()
    groups = [list(range(a, b)) for a, b in pairwise(edges)]
    parts = corpus._split(groups, np.random.default_rng(seed))
    assert sorted(i for part in parts for i in part) == list(range(sum(sizes))) and all(parts)
    for group in groups:
        assert sum(bool(set(group) & set(part)) for part in parts) == 1
    assert all(len(part) <= max(round(sum(sizes) / 10), sorted(sizes)[1]) for part in parts[1:])
    assert all(part == sorted(part) for part in parts)


def test_too_little_to_split(tmp_path):
    with pytest.raises(ParameterError, match="does not exist"):
        read_folder(tmp_path / "absent")
    with pytest.raises(ParameterError, match="no MIDI file in "):
        read_folder(tmp_path)
    file = put(tmp_path, "a.mid", tune(1))
    with pytest.raises(ParameterError, match="is not a folder; name the folder"):
        read_folder(file)
    with pytest.raises(ParameterError, match=r": 1, and three at least are needed, one for each part$"):
        read_folder(tmp_path)
    put(tmp_path, "b.mid", transposed(tune(1), 2))
    put(tmp_path, "c.mid", tune(2))
    with pytest.raises(ParameterError, match=r"different pieces in .*: 2, and three"):
        read_folder(tmp_path)
    put(tmp_path, "d.mid", tune(3))
    assert len(read_folder(tmp_path)) == 4


def test_the_error_names_three_of_the_refused(tmp_path):
    put(tmp_path, "good.mid", tune(1))
    for n in range(5):
        (tmp_path / f"bad{n}.mid").write_text("text")
    with pytest.raises(ParameterError) as caught:
        read_folder(tmp_path)
    message = str(caught.value)
    assert all(f"'bad{n}.mid' is no MIDI file" in message for n in range(3)) and message.endswith("; and 2 more")
    assert "bad3" not in message


def test_the_chorales_come_back_from_files(tmp_path, bach):
    for piece in bach.validation:
        write(piece, tmp_path / f"{piece.name}.mid")
    found = read_folder(tmp_path)
    assert len(found) == 29 and [len(found.validation), len(found.test)] == [3, 3]
    by_name = {piece.name: piece for piece in found.pieces}
    assert all(by_name[piece.name] == piece for piece in bach.validation)


def test_nottingham(tmp_path, data_path):
    with zipfile.ZipFile(data_path / "nottingham_midi.zip") as archive:
        archive.extractall(tmp_path)
    found = read_folder(tmp_path)
    assert len(found) == 1034 and found.refused == ()
    assert [len(getattr(found, part)) for part in PARTS] == [828, 103, 103]
    assert 0 < found.duplicates < 50

"""Music to learn from, split into training, validation and test parts: Bach's chorales, and folders of MIDI files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rnndsp._checks import generator
from rnndsp.errors import FormatError, ParameterError
from rnndsp.midi.piece import NOTE, Piece, Track, read

__all__ = ["Corpus", "chorales", "read_folder"]

StrPath = str | os.PathLike[str]

SUFFIXES = (".mid", ".midi")
HELD_OUT = 0.1  # of all pieces, for each of validation and test
VOICES = ("Soprano", "Alto", "Tenor", "Bass")
CHOIR = 52
MOST_BEATS = 30_000  # four hours at 120 a minute
VELOCITY = 80
TICKS_PER_BEAT = 480
BPM = 72


@dataclass(frozen=True, repr=False)
class Corpus:
    """Pieces in three parts.

    Attributes
    ----------
    train, validation, test : tuple of Piece
        What is the same music is in one part alone.
    name : str
    refused : tuple of (str, str)
        What was found and not used, and why: the path below the folder, and the reason.
    duplicates : int
        How many pieces are others over again, at another pitch or tempo perhaps. They are kept.
    """

    train: tuple[Piece, ...]
    validation: tuple[Piece, ...]
    test: tuple[Piece, ...]
    name: str
    refused: tuple[tuple[str, str], ...] = ()
    duplicates: int = 0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces: train, then validation, then test."""
        return self.train + self.validation + self.test

    def __len__(self) -> int:
        return len(self.pieces)

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(getattr(self, part))} {part}" for part in ("train", "validation", "test"))
        return f"Corpus({self.name!r}: {parts}; {len(self.refused)} refused, {self.duplicates} duplicates)"


def chorales() -> Corpus:
    """Bach's four-part chorales in 4/4: 230 to train, 29 to validate, 29 to test.

    Each has four tracks, Soprano to Bass, of choir voices on a grid of sixteenths (120 ticks). Bar lines are at the
    multiples of 1920 ticks, so a pickup of one beat begins at 1440. The file has no tempo; 72 beats a minute is ours.

    Returns
    -------
    Corpus
        Settings of one tune, of which Bach made up to nine, are all in one part: no tune of the validation and test
        parts is heard in training. The pieces are named by BWV number, as in "BWV 267".

    Notes
    -----
    Notes are those of the music21 corpus; its chorales in other meters or of more than four parts are left out.
    Repeat signs are not expanded.
    """
    with (resources.files("rnndsp.midi") / "data" / "chorales.npz").open("rb") as file:
        data = dict(np.load(file, allow_pickle=False))
    step = TICKS_PER_BEAT // 4
    notes = np.empty(len(data["pitch"]), NOTE)
    notes["start"] = data["onset"].astype(np.int64) * step
    notes["end"] = notes["start"] + data["duration"].astype(np.int64) * step
    notes["pitch"] = data["pitch"]
    notes["velocity"] = VELOCITY
    line = data["piece"].astype(np.int64) * len(VOICES) + data["voice"]
    lines = np.split(notes, np.searchsorted(line, np.arange(1, len(data["name"]) * len(VOICES))))
    parts: list[list[Piece]] = [[], [], []]
    for i, (name, part) in enumerate(zip(data["name"].tolist(), data["split"].tolist(), strict=True)):
        mine = lines[i * len(VOICES) : (i + 1) * len(VOICES)]
        tracks = tuple(Track(line, voice, CHOIR) for line, voice in zip(mine, VOICES, strict=True))
        parts[part].append(Piece(tracks, TICKS_PER_BEAT, name=name).with_tempo(BPM))
    train, validation, test = map(tuple, parts)
    return Corpus(train, validation, test, "Bach chorales")


def read_folder(folder: StrPath, *, seed: int = 0) -> Corpus:
    """Read all MIDI files in a folder and the folders within it, and split them 80 : 10 : 10 by piece.

    Parameters
    ----------
    folder : path
        Files are known by their suffix, .mid or .midi in any case. Links to folders are not followed.
    seed : int
        Of the split, which depends on nothing else but the relative paths of the files and their notes.

    Returns
    -------
    Corpus
        In each part at least one piece, in the order of the paths. Pieces that are equal but for pitch, tempo,
        instruments and drums are in one part. Whatever cannot be used is in ``refused``: files that are damaged or
        hold only drums, folders that cannot be opened, links to folders.

    Raises
    ------
    ParameterError
        No such folder, or fewer than three different pieces in it.
    """
    rng = generator(seed)
    root, shown = Path(folder), repr(os.fspath(folder))
    if not root.is_dir():
        what = "is not a folder; name the folder that the files are in" if root.exists() else "does not exist"
        raise ParameterError(f"{shown} {what}")
    paths, refused = _found(root)
    pieces: list[Piece] = []
    same: defaultdict[bytes, list[int]] = defaultdict(list)
    for path in paths:
        try:
            piece = _melodic(root / path)
        except FormatError as error:
            refused.append((path, str(error).removeprefix(f"{os.fspath(root / path)!r} ")))
        else:
            same[_fingerprint(piece)].append(len(pieces))
            pieces.append(piece)
    refused.sort()
    if len(same) < 3:
        met = f"different pieces in {shown}: {len(same)}" if paths else f"no MIDI file in {shown}"
        raise ParameterError(f"{met}, and three at least are needed, one for each part{_listed(refused)}")
    parts = _split(list(same.values()), rng)
    train, validation, test = (tuple(pieces[i] for i in part) for part in parts)
    name = os.fsencode(root.resolve().name).decode(errors="replace")
    return Corpus(train, validation, test, name, tuple(refused), len(pieces) - len(same))


def _found(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The paths of MIDI files below a folder, and what was not looked into."""
    paths: list[str] = []
    refused: list[tuple[str, str]] = []

    def relative(path: StrPath) -> str:
        return Path(path).relative_to(root).as_posix()

    def unopened(error: OSError) -> None:
        refused.append((relative(error.filename), f"cannot be opened: {error.strerror}"))

    for place, folders, files in os.walk(root, onerror=unopened):
        for path in (Path(place, name) for name in folders):
            if path.is_symlink():
                refused.append((relative(path), "is a link to a folder, and not followed"))
        paths += [relative(Path(place, name)) for name in files if name.lower().endswith(SUFFIXES)]
    return sorted(paths), refused


def _melodic(path: Path) -> Piece:
    # opening a named pipe would wait for whoever writes to it
    if path.exists() and not path.is_file():
        raise FormatError("is not a file")
    piece = read(path)
    if all(track.is_drum for track in piece.tracks):
        raise FormatError("only drums")
    if piece.n_beats > MOST_BEATS:
        raise FormatError(f"lasts {piece.n_beats:.0f} beats, more than {MOST_BEATS}; cut it")
    return piece


def _fingerprint(piece: Piece) -> bytes:
    """What is equal for the same notes at any pitch, tempo, resolution and distribution over tracks."""
    notes = np.sort(np.concatenate([t.notes for t in piece.tracks if not t.is_drum]), order=["start", "pitch", "end"])
    spans = np.stack([notes["start"] - notes["start"][0], notes["end"] - notes["start"]])
    beats = np.round(spans / piece.ticks_per_beat, 3)
    return beats.tobytes() + np.diff(notes["pitch"].astype(np.int64)).tobytes()


def _split(groups: Sequence[Sequence[int]], rng: np.random.Generator) -> tuple[list[int], list[int], list[int]]:
    """The members of train, validation and test, none of them empty, of three groups or more that stay together."""
    left = rng.permutation(len(groups)).tolist()
    share = round(HELD_OUT * sum(map(len, groups)))
    held: list[list[int]] = []
    for n_parts_after in (2, 1):
        part: list[int] = []
        room = max(share, min(len(groups[g]) for g in left))
        for g in left.copy():
            if len(groups[g]) <= room and len(left) > n_parts_after:
                room -= len(groups[g])
                left.remove(g)
                part += groups[g]
        held.append(sorted(part))
    return sorted(i for g in left for i in groups[g]), held[1], held[0]


def _listed(refused: list[tuple[str, str]]) -> str:
    if not refused:
        return ""
    some = "; ".join(f"{path!r} {reason}" for path, reason in refused[:3])
    return f". Refused: {some}" + (f"; and {len(refused) - 3} more" if len(refused) > 3 else "")

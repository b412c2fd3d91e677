"""Write midi/data/chorales.npz: four-part chorales by J. S. Bach in 4/4, as pitches on a grid of sixteenths.

The source is music21's corpus, its list of the 371 chorales in Riemenschneider's numbering. Only facts of the music are
taken: pitch, onset and duration of every note of the four voices. Kept is a chorale of exactly four parts, of a voice
each, that is in 4/4 throughout, with all bar lines four beats apart and all notes on the grid; why each of the others
is left out is printed. Tied notes are one note. Repeat signs are not expanded (a few sources have the repeat written
out); grace notes, fermatas, words and all else are ignored. Most source files carry the line "PDF © 2004 Margaret
Greentree, used by permission".

One entry a note, ordered by piece (these by BWV number), voice and onset:

    pitch                uint8    MIDI number
    onset                uint16   in sixteenths; bars begin at the multiples of 16, a pickup of one beat at 12
    duration             uint8    in sixteenths
    voice                uint8    0 soprano, 1 alto, 2 tenor, 3 bass
    piece                uint16   index into the next two

One entry a piece:

    name                 str      "BWV 267", as music21 has the number
    split                uint8    0 train, 1 validation, 2 test

Bach set many tunes more than once, in several keys and rhythms, so the split goes by tune: whatever shares a tune is in
one part, and no tune of the validation and test parts is heard in training. Two chorales are taken to share a tune when
the runs of four intervals that their sopranos have in common weigh enough, a run counting for more the fewer chorales
have it (stock cadences are in all). A voice is seen twice, as it is written and at the quarter beats alone, as
ornaments and rhythms differ. Other voices are compared in the same way, for settings that are nearly the same. The
groups are printed; the threshold was set by looking at all pairs near it.

Running it again gives the same bytes. Made with music21 10.5.1 and numpy 2.4. Run:

    pip install music21==10.5.1 numpy
    python tests/make_chorales.py midi/data/chorales.npz
"""

import hashlib
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from multiprocessing import Pool
from pathlib import Path

import numpy as np

Note = tuple[int, int, int]  # onset, duration, pitch

# Files of music21 that hold another chorale than their name says.
MISLABELLED = {"62.6": "274"}
ENDINGS = (".mxl", ".xml", "z.mxl")  # of the files; the last is that of 18.5-l
# All settings known to be of one tune are joined above this, at the price of a few tunes that share but a phrase.
SAME_TUNE = 0.24
HELD_OUT = 0.1  # of all pieces, for each of validation and test
MOST_OF_A_TUNE = 4  # among what is held out, so that no tune decides the result


def titles() -> dict[str, str]:
    """BWV numbers as music21 has them, and the titles."""
    from music21.corpus.chorales import ChoraleListRKBWV

    listed = {row["bwv"]: row["title"] for row in ChoraleListRKBWV().byRiemenschneider.values()}
    return {
        bwv: listed[bwv]
        for bwv in sorted(listed, key=lambda bwv: [(int(n or 0), word) for n, word in re.findall(r"(\d*)(\D*)", bwv)])
    }


def derive(bwv: str) -> list[list[Note]] | str:
    """The notes of the four voices, or why the chorale is left out."""
    from music21 import converter, corpus

    if bwv in MISLABELLED:
        return f"its file holds BWV {MISLABELLED[bwv]}"
    # music21's own look-up goes by the beginning of a name, and takes 69.6-a for 69.6
    paths = [Path(corpus.__file__).parent / "bach" / f"bwv{bwv}{ending}" for ending in ENDINGS]
    parts = converter.parse(next(path for path in paths if path.is_file())).parts
    if len(parts) != 4:
        return f"{len(parts)} parts"
    metres = {sign.ratioString for part in parts for sign in part["TimeSignature"]}
    if metres != {"4/4"}:
        return f"in {' and '.join(sorted(metres))}"
    voices = []
    for part in parts:
        if part["Voice"] or part["Chord"]:
            return "several voices in a part"
        bars = [(bar.offset, bar.duration.quarterLength) for bar in part["Measure"]]
        lead = -bars[0][1] % 4
        # a bar may be cut in two, where a phrase ends or a repeat begins, but only a whole one shows the metre
        if any((start + lead) % 4 or length > 4 for start, length in bars if length >= 4):
            return "bar lines not four beats apart"
        notes: list[Note] = []
        for note in part.flatten().notes:
            if note.duration.isGrace:
                continue
            onset, duration = (note.offset + lead) * 4, note.quarterLength * 4
            if onset % 1 or duration % 1:
                return f"off the grid of sixteenths at beat {note.offset}"
            is_tied = note.tie is not None and note.tie.type != "start"
            if is_tied and notes and notes[-1][2] == note.pitch.midi and sum(notes[-1][:2]) == onset:
                notes[-1] = (notes[-1][0], notes[-1][1] + int(duration), note.pitch.midi)
            else:
                notes.append((int(onset), int(duration), note.pitch.midi))
        if any(sum(a[:2]) > b[0] for a, b in pairwise(notes)):
            return "notes of a voice overlap"
        voices.append(notes)
    means = [np.mean([pitch for _, _, pitch in notes]) for notes in voices]
    return voices if means == sorted(means, reverse=True) else "the voices are not from high to low"


def runs(notes: list[Note]) -> set[tuple[int, ...]]:
    """All runs of four intervals of a voice, as written (marked 0) and at the quarter beats (marked 1)."""
    written = [pitch for _, _, pitch in notes]
    beats = [pitch for onset, duration, pitch in notes if -onset % 4 < duration]
    beats = [a for a, b in pairwise([*beats, 0]) if a != b]
    steps = [np.diff(line).tolist() for line in (written, beats)]
    return {(view, *line[i : i + 4]) for view, line in enumerate(steps) for i in range(len(line) - 3)}


def likeness(lines: Sequence[list[Note]]) -> dict[tuple[int, int], float]:
    """How alike any two lines are: the cosine of their runs, weighted by rarity."""
    sets = [runs(line) for line in lines]
    weight = {run: math.log(len(sets) / n) ** 2 for run, n in Counter(run for s in sets for run in s).items()}
    # exact sums, as the order within a set is not the same in every process
    norm = [math.fsum(weight[run] for run in s) ** 0.5 for s in sets]
    return {
        (i, j): math.fsum(weight[run] for run in sets[i] & sets[j]) / (norm[i] * norm[j])
        for i, j in combinations(range(len(sets)), 2)
    }


def tunes(pieces: list[list[list[Note]]]) -> tuple[list[list[int]], dict[tuple[int, int], float]]:
    """Indices grouped by tune, and how alike any two pieces are in the voice that is most so."""
    voices = [likeness(lines) for lines in zip(*pieces, strict=True)]
    alike = {pair: max(voice[pair] for voice in voices) for pair in voices[0]}
    group = list(range(len(pieces)))
    for (i, j), value in alike.items():
        if value > SAME_TUNE:
            group = [group[i] if g == group[j] else g for g in group]
    return [[i for i, g in enumerate(group) if g == first] for first in dict.fromkeys(group)], alike


def divide(groups: list[list[int]], names: list[str]) -> list[int]:
    """The part of each piece: the groups in an arbitrary but fixed order, held out while there is room."""
    room = {part: round(HELD_OUT * len(names)) for part in (2, 1)}
    split = [0] * len(names)
    for group in sorted(groups, key=lambda group: hashlib.sha256(names[group[0]].encode()).digest()):
        part = next((part for part in room if len(group) <= min(room[part], MOST_OF_A_TUNE)), 0)
        if part:
            room[part] -= len(group)
        for i in group:
            split[i] = part
    return split


def main(path: Path) -> None:
    title = titles()
    with Pool() as pool:
        found = dict(zip(title, pool.map(derive, title, chunksize=8), strict=True))
    print("left out")
    for bwv, what in found.items():
        if isinstance(what, str):
            print(f"  BWV {bwv}, {title[bwv]}: {what}")
    pieces = {bwv: what for bwv, what in found.items() if not isinstance(what, str)}
    names = [f"BWV {bwv}" for bwv in pieces]

    groups, alike = tunes(list(pieces.values()))
    split = divide(groups, names)
    print(f"{len(groups)} tunes, those of several settings being")
    for group in sorted(groups, key=len, reverse=True):
        if len(group) > 1:
            print(f"  {('train', 'validation', 'test')[split[group[0]]]}")
            for i in group:
                best = max(alike[min(i, j), max(i, j)] for j in group if j != i)
                print(f"    {best:.2f} {names[i]}, {title[names[i].removeprefix('BWV ')]}")

    rows = [
        (pitch, onset, duration, voice, piece)
        for piece, voices in enumerate(pieces.values())
        for voice, notes in enumerate(voices)
        for onset, duration, pitch in notes
    ]
    fields = {"pitch": np.uint8, "onset": np.uint16, "duration": np.uint8, "voice": np.uint8, "piece": np.uint16}
    arrays = {}
    for (field, dtype), column in zip(fields.items(), zip(*rows, strict=True), strict=True):
        arrays[field] = np.array(column).astype(dtype, casting="unsafe")
        assert np.array_equal(arrays[field], column), f"{field} does not fit {dtype.__name__}"
    arrays |= {"name": np.array(names), "split": np.array(split, np.uint8)}
    np.savez_compressed(path, allow_pickle=False, **arrays)

    line = arrays["piece"].astype(int) * 4 + arrays["voice"]
    same = (np.diff(line) == 0) & (np.diff(arrays["pitch"].astype(int)) == 0)
    adjoins = arrays["onset"][1:] == arrays["onset"][:-1] + arrays["duration"][:-1]
    length = sum(max(onset + duration for notes in v for onset, duration, _ in notes) for v in pieces.values())
    print(f"{path}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
    print(f"{len(names)} chorales, {len(rows)} notes, {length} sixteenths; split {np.bincount(split).tolist()}")
    print(f"repeats of the pitch just sung: {np.mean(same & adjoins):.2%}; after a rest too: {np.mean(same):.2%}")
    for voice, word in enumerate(("soprano", "alto", "tenor", "bass")):
        mine = arrays["pitch"][arrays["voice"] == voice]
        print(f"  {word}: {len(mine)} notes, MIDI {mine.min()} to {mine.max()}, mean {mine.mean():.1f}")
    counts = Counter(arrays["duration"].tolist())
    print("durations: " + ", ".join(f"{d}: {n / len(rows):.2%}" for d, n in counts.most_common()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/make_chorales.py midi/data/chorales.npz")
    main(Path(sys.argv[1]))

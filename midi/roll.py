"""Piano rolls on a grid of beats: where notes are struck, and where they sound, apart.

Two planes, as one alone cannot tell a held note from a repeated one. Time is counted in steps of a beat (a quarter
note), never in seconds, and comes before pitch; tracks are the leading axis: ``(n_tracks, n_steps, 128)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.midi.piece import NOTE, Piece, Track

__all__ = ["Roll"]

N_PITCHES = 128
MOST_STEPS = 2**20
MOST_BYTES = 2**31  # of both planes
MOST_TICKS_PER_BEAT = 2**15 - 1  # what a file can say


@dataclass(frozen=True, eq=False)
class Roll:
    r"""Where the notes of a piece are struck and where they sound, on a grid of ``steps_per_beat`` steps a beat.

    A note from tick a to tick b, Q ticks a beat, is struck at step

    .. math:: \lfloor a k / Q + 1/2 \rfloor \quad (k \text{ steps a beat; halves go up})

    and sounds up to, not including, the step that b falls on by the same rule, but for a step at least. Struck while
    its pitch sounds in the same track, it ends the earlier note. Notes of one pitch, track and step are merged: the
    loudest velocity, the latest end.

    Equality compares planes, grid and header, not how the roll came about.

    Parameters
    ----------
    velocity : uint8 array, shape (n_tracks, n_steps, 128)
        The velocity of a note, 1 to 127, at the step where it is struck, else 0.
    sounding : bool array, shape (n_tracks, n_steps, 128)
        True from the step where a note is struck through the last one it is held.
    steps_per_beat : int
    header : Piece
        The piece without its notes: names, programs, tempo and meter of :meth:`piece`. Its ``ticks_per_beat`` are a
        multiple of ``steps_per_beat``.
    off_grid : float
        The share of notes whose start was a tick or more off the grid; less is the file's own rounding, of thirds of a
        beat say.
    n_merged : int
        Notes that were lost as another of their pitch and track fell on the same step.

    Raises
    ------
    ParameterError
        Planes of other shapes or dtypes, notes that sound but were never struck, or a header that does not fit.
    """

    velocity: NDArray[np.uint8]
    sounding: NDArray[np.bool_]
    steps_per_beat: int
    header: Piece
    off_grid: float = field(default=0.0, kw_only=True)
    n_merged: int = field(default=0, kw_only=True)

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        whole_number("steps_per_beat", self.steps_per_beat)
        tracks, shape = self.header.tracks, np.shape(self.velocity)
        if self.header.n_notes or self.header.ticks_per_beat % self.steps_per_beat:
            raise ParameterError(
                f"header of {self.header.n_notes} notes and {self.header.ticks_per_beat} ticks a beat: give a piece "
                f"without notes and with a multiple of {self.steps_per_beat}, as Roll.from_piece makes it"
            )
        for name, dtype in (("velocity", np.uint8), ("sounding", np.bool_)):
            plane = np.array(getattr(self, name))
            if plane.dtype != dtype or plane.shape != (len(tracks), *shape[1:2], N_PITCHES):
                raise ParameterError(
                    f"{name} of shape {plane.shape} and dtype {plane.dtype}: give (n_tracks, n_steps, {N_PITCHES}) of "
                    f"{np.dtype(dtype)}, and as many tracks as the header has, {len(tracks)}"
                )
            plane.flags.writeable = False
            object.__setattr__(self, name, plane)
        if self.velocity.max(initial=0) > 127:
            raise ParameterError(f"velocity of {self.velocity.max()}: velocities are 1 to 127, and 0 where none begins")
        for track, (struck, held) in enumerate(zip(self.velocity, self.sounding, strict=True)):
            begun = held & ~np.pad(held, ((1, 0), (0, 0)))[:-1]
            wrong = np.argwhere((begun & (struck == 0)) | (~held & (struck > 0)))
            if wrong.size:
                step, pitch = wrong[0].tolist()
                raise ParameterError(
                    f"track {track}, step {step}, pitch {pitch}: what sounds must have been struck, and what is struck "
                    "must sound"
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Roll):
            return NotImplemented
        return (
            self.steps_per_beat == other.steps_per_beat
            and self.header == other.header
            and np.array_equal(self.velocity, other.velocity)
            and np.array_equal(self.sounding, other.sounding)
        )

    def __repr__(self) -> str:
        return (
            f"Roll({len(self.velocity)} tracks, {self.n_steps} steps, {self.steps_per_beat} a beat, "
            f"{np.count_nonzero(self.velocity)} notes, off_grid={self.off_grid:.3g}, n_merged={self.n_merged})"
        )

    def _repr_html_(self) -> str:
        """Picture and player, as notebooks show them."""
        from rnndsp.midi import notebook

        return notebook.music_html(self)

    @property
    def n_steps(self) -> int:
        """Length in steps."""
        return int(self.velocity.shape[1])

    @property
    def onset(self) -> NDArray[np.bool_]:
        """Where notes are struck, of the shape of both planes."""
        return np.asarray(self.velocity > 0)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Beats (quarter notes) from the last bar line to each step, shape (n_steps,)."""
        return self.header.positions(np.arange(self.n_steps) * (self.header.ticks_per_beat // self.steps_per_beat))

    @classmethod
    def from_piece(cls, piece: Piece, *, steps_per_beat: int = 4) -> Roll:
        """The roll of a piece; the rules are those of the class.

        Parameters
        ----------
        piece : Piece
        steps_per_beat : int
            4 makes sixteenths; 12 holds triplets as well. Where it does not divide the ticks of a beat, the header
            counts ticks of their least common multiple, or of ``steps_per_beat`` where a file could not say that, with
            tempo and meter changes rounded to it.

        Raises
        ------
        ParameterError
            More than 2**20 steps, or planes of more than 2 GiB.
        """
        steps = whole_number("steps_per_beat", steps_per_beat)
        if steps > MOST_TICKS_PER_BEAT:
            raise ParameterError(f"{steps_per_beat=} must be at most {MOST_TICKS_PER_BEAT}")
        ticks = piece.ticks_per_beat
        tables = [_on_grid(track.notes, steps, ticks) for track in piece.tracks]
        n_steps = max((int(table["end"].max(initial=0)) for table in tables), default=0)
        if n_steps > MOST_STEPS or 2 * n_steps * len(tables) * N_PITCHES > MOST_BYTES:
            raise ParameterError(
                f"{n_steps=} of {len(tables)} tracks are too many to hold: over {MOST_STEPS}, or {MOST_BYTES >> 30} GiB"
                "; take fewer steps_per_beat, or cut the piece"
            )
        velocity = np.zeros((len(tables), n_steps, N_PITCHES), np.uint8)
        sounding = np.zeros(velocity.shape, np.bool_)
        for place, notes in enumerate(tables):
            velocity[place, notes["start"], notes["pitch"]] = notes["velocity"]
            # one note a pitch at a time: begins and ends sum to 0 or 1
            edges = np.zeros((n_steps + 1, N_PITCHES), np.int8)
            edges[notes["start"], notes["pitch"]] += 1
            edges[notes["end"], notes["pitch"]] -= 1
            sounding[place] = edges.cumsum(axis=0, dtype=np.int8)[:-1]
        # twice the distance from the grid, in units of 1 / steps of a tick
        off = [np.abs((2 * t.notes["start"] * steps + ticks) % (2 * ticks) - ticks) >= 2 * steps for t in piece.tracks]
        return cls(
            velocity,
            sounding,
            steps,
            _header(piece, steps),
            off_grid=sum(map(np.count_nonzero, off)) / max(piece.n_notes, 1),
            n_merged=piece.n_notes - sum(map(len, tables)),
        )

    def piece(self) -> Piece:
        """The music of the roll, from which :meth:`from_piece` makes the same roll, silent steps at its end apart."""
        ticks = self.header.ticks_per_beat // self.steps_per_beat
        tracks = []
        for track, struck, held in zip(self.header.tracks, self.velocity, self.sounding, strict=True):
            # pitch by pitch, with a silent step at the end of each, in which the last note ends at the latest
            onsets = np.pad(struck.T, ((0, 0), (0, 1)))
            edges = np.flatnonzero((onsets > 0) | ~np.pad(held.T, ((0, 0), (0, 1))))
            starts = np.flatnonzero(onsets)
            ends = edges[np.searchsorted(edges, starts, "right")]
            notes = np.empty(len(starts), NOTE)
            notes["pitch"], steps = np.divmod(starts, self.n_steps + 1)
            notes["start"], notes["end"] = steps * ticks, (steps + ends - starts) * ticks
            notes["velocity"] = onsets.ravel()[starts]
            tracks.append(replace(track, notes=notes))
        return replace(self.header, tracks=tuple(tracks))

    def merged(self, *, drums: bool = False) -> Roll:
        """All tracks but drums in one: struck where any is, as loud as the loudest, sounding where any sounds.

        The track has name and program of the first. Notes of one pitch that are struck together become one, counted in
        ``n_merged``.

        Parameters
        ----------
        drums : bool
            Take the drums along.

        Raises
        ------
        ParameterError
            Nothing remains, as all tracks are drums.
        """
        kept = [place for place, track in enumerate(self.header.tracks) if drums or not track.is_drum]
        if not kept:
            raise ParameterError(f"none of {len(self.velocity)} tracks remains; keep those of drums with drums=True")
        velocity = self.velocity[kept].max(axis=0, keepdims=True)
        lost = np.count_nonzero(self.velocity[kept]) - np.count_nonzero(velocity)
        return replace(
            self,
            velocity=velocity,
            sounding=np.logical_or.reduce(self.sounding[kept], axis=0, keepdims=True),
            header=replace(self.header, tracks=(self.header.tracks[kept[0]],)),
            n_merged=self.n_merged + int(lost),
        )


def _on_grid(notes: NDArray[np.void], steps: int, ticks: int) -> NDArray[np.void]:
    """Notes with their times in steps, one a pitch and step, none beyond the next of its pitch."""
    notes = notes.copy()
    for edge in ("start", "end"):
        notes[edge] = (2 * notes[edge] * steps + ticks) // (2 * ticks)
    notes["end"] = np.maximum(notes["end"], notes["start"] + 1)
    notes = notes[np.lexsort((notes["start"], notes["pitch"]))]
    repeated = (np.diff(notes["pitch"], prepend=255) == 0) & (np.diff(notes["start"], prepend=-1) == 0)
    firsts = np.flatnonzero(~repeated)
    table: NDArray[np.void] = notes[firsts]
    if len(table):
        for name in ("end", "velocity"):
            table[name] = np.maximum.reduceat(notes[name], firsts)
    follows = table["pitch"][1:] == table["pitch"][:-1]
    table["end"][:-1][follows] = np.minimum(table["end"][:-1], table["start"][1:])[follows]
    return table


def _header(piece: Piece, steps: int) -> Piece:
    """The piece without notes, in ticks of which a step has a whole number."""
    ticks = math.lcm(piece.ticks_per_beat, steps)
    ticks = ticks if ticks <= MOST_TICKS_PER_BEAT else steps

    def moved(tick: int) -> int:
        return (2 * tick * ticks + piece.ticks_per_beat) // (2 * piece.ticks_per_beat)

    return replace(
        piece,
        tracks=tuple(Track(np.empty(0, NOTE), t.name, t.program, t.is_drum) for t in piece.tracks),
        ticks_per_beat=ticks,
        # of changes that meet on one tick the last one holds
        tempos=tuple({moved(tick): (moved(tick), value) for tick, value in piece.tempos}.values()),
        meters=tuple({moved(tick): (moved(tick), a, b) for tick, a, b in piece.meters}.values()),
    )

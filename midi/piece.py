"""Music as notes on ticks: MIDI files read and written without loss of time, tempo, meter or instruments.

Conventions: a beat is a quarter note, whatever the meter; a tick is ``1 / ticks_per_beat`` of it; a note sounds over
the half-open span [start, end) of ticks. Pitch 60 is middle C, C4. Seconds come last, through the tempo map.

What a file says, and a piece keeps: notes with velocity, tempo and meter maps, names, programs, drums. What it leaves
out: controllers (the sustain pedal on request), pitch bends, keys, lyrics.
"""

from __future__ import annotations

import io
import os
import struct
from array import array
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp._files import writing
from rnndsp.errors import FormatError, ParameterError

if TYPE_CHECKING:
    import mido
    import pretty_midi

    from rnndsp.midi.roll import Roll

__all__ = ["NOTE", "Piece", "Track", "read", "write"]

StrPath = str | os.PathLike[str]

NOTE = np.dtype([("start", np.int64), ("end", np.int64), ("pitch", np.uint8), ("velocity", np.uint8)])
"""A note: ``start`` and ``end`` in ticks, half-open; ``pitch`` 0 to 127; ``velocity`` 1 to 127."""

MOST_BYTES = 2**24  # of a file
MOST_TICKS = 2**31
MOST_TEMPO = 2**24 - 1  # microseconds a beat, three bytes in a file
MOST_STEP = 2**28 - 1  # ticks between events, four bytes of seven bits in a file
MOST_DENOMINATOR = 2**10
TEMPO, METER = 500_000, (4, 4)  # what holds where a file says nothing
DRUMS = 9  # the channel, counted from 0
MELODIC = [channel for channel in range(16) if channel != DRUMS]
PEDAL = 64  # the controller, and the least of its values that means down


@dataclass(frozen=True, eq=False, init=False)
class Track:
    """The notes of one instrument.

    Parameters
    ----------
    notes : array of NOTE, or int array of shape (n_notes, 4), or list of (start, end, pitch, velocity)
        Kept as a read-only array, sorted by start, then pitch. Notes of one pitch may overlap.
    name : str
    program : int
        Instrument of General MIDI, 0 (piano) to 127.
    is_drum : bool
        Whether pitches are drums of a kit rather than tones.

    Raises
    ------
    ParameterError
        A note does not satisfy 0 <= start < end, pitch 0 to 127, velocity 1 to 127; or no such program.
    """

    notes: NDArray[np.void]
    name: str
    program: int
    is_drum: bool

    def __init__(self, notes: ArrayLike, name: str = "", program: int = 0, is_drum: bool = False) -> None:
        object.__setattr__(self, "notes", _checked_notes(notes))
        object.__setattr__(self, "name", _checked_name(name))
        object.__setattr__(self, "program", _within("program", program, 0, 127))
        object.__setattr__(self, "is_drum", bool(is_drum))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Track):
            return NotImplemented
        mine, its = ((t.name, t.program, t.is_drum) for t in (self, other))
        return mine == its and np.array_equal(self.notes, other.notes)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = ", is_drum=True" if self.is_drum else ""
        return f"Track({len(self.notes)} notes, name={self.name!r}, program={self.program}{kind})"


@dataclass(frozen=True)
class Piece:
    r"""Tracks of notes, and what their ticks mean.

    Tick n falls at

    .. math:: t(n) = t(n_i) + (n - n_i)\,\tau_i / (10^6 Q) \text{ seconds}

    where Q is ``ticks_per_beat`` and :math:`\tau_i` the last tempo at or before n, set at tick :math:`n_i`.

    Parameters
    ----------
    tracks : sequence of Track
    ticks_per_beat : int
        Ticks a quarter note, 1 to 32767.
    tempos : sequence of (tick, microseconds a beat)
        In order, the first at tick 0. 500000 is 120 beats a minute.
    meters : sequence of (tick, numerator, denominator)
        In order, the first at tick 0. Each begins a new bar; (0, 6, 8) has bars of three beats.
    name : str

    Raises
    ------
    ParameterError
        A map does not begin at tick 0 or is not in order, or a number is out of range.
    """

    tracks: tuple[Track, ...]
    ticks_per_beat: int = 480
    tempos: tuple[tuple[int, int], ...] = ((0, TEMPO),)
    meters: tuple[tuple[int, int, int], ...] = ((0, *METER),)
    name: str = ""

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracks", tuple(self.tracks))
        for track in self.tracks:
            if not isinstance(track, Track):
                raise ParameterError(f"tracks hold {track!r}: give Track(notes), one for each instrument")
        object.__setattr__(self, "ticks_per_beat", _within("ticks_per_beat", self.ticks_per_beat, 1, 2**15 - 1))
        object.__setattr__(self, "tempos", _checked_map("tempos", self.tempos, 2))
        object.__setattr__(self, "meters", _checked_map("meters", self.meters, 3))
        for _, tempo in self.tempos:
            _within("tempo", tempo, 1, MOST_TEMPO)
        for _, numerator, denominator in self.meters:
            _within("numerator", numerator, 1, 255)
            if denominator not in [2**k for k in range(MOST_DENOMINATOR.bit_length())]:
                raise ParameterError(f"{denominator=} must be a power of two, at most {MOST_DENOMINATOR}")
        object.__setattr__(self, "name", _checked_name(self.name))

    def _repr_html_(self) -> str:
        """Picture and player, as notebooks show them."""
        from rnndsp.midi import notebook

        return notebook.music_html(self)

    @property
    def n_notes(self) -> int:
        """Notes of all tracks."""
        return sum(len(track.notes) for track in self.tracks)

    @property
    def end(self) -> int:
        """The tick at which the last note has ended."""
        return max((int(track.notes["end"].max(initial=0)) for track in self.tracks), default=0)

    @property
    def n_beats(self) -> float:
        """Beats (quarter notes) up to :attr:`end`."""
        return self.end / self.ticks_per_beat

    @property
    def duration_s(self) -> float:
        """Seconds up to :attr:`end`."""
        return float(self.seconds(self.end))

    def seconds(self, ticks: ArrayLike) -> NDArray[np.float64]:
        """Times of ticks in seconds, through the tempo map.

        Parameters
        ----------
        ticks : array of int or float, any shape
        """
        ticks = np.asarray(ticks)
        changes, tempos = np.array(self.tempos, np.int64).T
        # whole microseconds times ticks a beat, so that nothing is rounded before the division
        passed = np.concatenate([[0], np.cumsum(np.diff(changes) * tempos[:-1])])
        place = _place(changes, ticks)
        return np.asarray((passed[place] + (ticks - changes[place]) * tempos[place]) / (1e6 * self.ticks_per_beat))

    @property
    def pickup(self) -> int:
        """Ticks of a pickup, a first bar that a change of meter cuts shorter than the bar after it; else 0."""
        for tick, numerator, denominator in self.meters[1:2]:
            if tick * denominator < 4 * self.ticks_per_beat * numerator:
                return tick
        return 0

    def positions(self, ticks: ArrayLike) -> NDArray[np.float64]:
        """Beats (quarter notes) of ticks since the last bar line, through the meter map.

        A change of meter begins a new bar at its tick, and cuts the bar before it short. A :attr:`pickup` is the end of
        a bar of the meter that follows, so its last beat in 4/4 is at position 3.

        Parameters
        ----------
        ticks : array of int, any shape
        """
        changes, numerators, denominators = np.array(self.meters, np.int64).T
        place = _place(changes, ticks)
        if self.pickup:
            place = np.maximum(place, 1)
        # in units in which both a tick and a bar are whole
        since = (np.asarray(ticks) - changes[place]) * denominators[place]
        bar = 4 * self.ticks_per_beat * numerators[place]
        return np.asarray(since % bar / (denominators[place] * self.ticks_per_beat))

    def transposed(self, semitones: int) -> Piece:
        """The same music at another pitch; drums stay as they are.

        Parameters
        ----------
        semitones : int
            Upwards.

        Raises
        ------
        ParameterError
            A note would leave 0 to 127.
        """
        semitones = whole_number("semitones", semitones, least=-127)
        pitches = np.concatenate([[60], *(t.notes["pitch"] for t in self.tracks if not t.is_drum)]).astype(np.int64)
        low, high = -int(pitches.min()), 127 - int(pitches.max())
        if not low <= semitones <= high:
            raise ParameterError(f"{semitones=} takes notes out of 0 to 127; choose {low} to {high}")
        return replace(self, tracks=tuple(_moved(t, 0 if t.is_drum else semitones) for t in self.tracks))

    def with_tempo(self, bpm: float) -> Piece:
        """The same music at one tempo.

        Parameters
        ----------
        bpm : float
            Beats (quarter notes) a minute, 3.58 to 60 million; kept to a microsecond a beat.
        """
        if not 6e7 / MOST_TEMPO <= bpm <= 6e7:
            raise ParameterError(f"{bpm=} must be between {6e7 / MOST_TEMPO:.3g} and 6e7 beats a minute")
        return replace(self, tempos=((0, round(6e7 / bpm)),))

    def roll(self, steps_per_beat: int = 4) -> Roll:
        """The piano roll of the piece, see :meth:`rnndsp.midi.roll.Roll.from_piece`."""
        from rnndsp.midi.roll import Roll

        return Roll.from_piece(self, steps_per_beat=steps_per_beat)

    @classmethod
    def from_mido(cls, midi: mido.MidiFile, *, pedal: bool = False) -> Piece:
        """The piece that a mido file holds, as :func:`read` reads its bytes.

        Parameters
        ----------
        midi : mido.MidiFile
        pedal : bool
            As in :func:`read`.
        """
        file = io.BytesIO()
        try:
            midi.save(file=file)
        except (ValueError, TypeError, struct.error) as error:
            raise FormatError(f"the MidiFile cannot be written: {error}") from error
        return _piece(file.getvalue(), "the MidiFile", pedal=pedal)

    def to_mido(self) -> mido.MidiFile:
        """The piece as a mido file of type 1: tempo, meter and name in track 0, then a track for each of ours.

        Tracks have a channel each; where there are more than 15 melodic ones, those of one program share theirs. At one
        tick notes end before others begin. MIDI does not tell overlapping notes of one pitch apart: reading ends first
        what began first.
        """
        import mido

        maps: list[tuple[int, Any]] = [(0, mido.MetaMessage("track_name", name=self.name))]
        maps += [(n, mido.MetaMessage("time_signature", numerator=a, denominator=b)) for n, a, b in self.meters]
        maps += [(n, mido.MetaMessage("set_tempo", tempo=tempo)) for n, tempo in self.tempos]
        midi = mido.MidiFile(ticks_per_beat=self.ticks_per_beat, charset="utf-8")
        midi.tracks.append(_spaced(maps))
        for track, channel in zip(self.tracks, _channels(self.tracks), strict=True):
            head = [
                (0, mido.MetaMessage("track_name", name=track.name)),
                (0, mido.Message("program_change", channel=channel, program=track.program)),
            ]
            offs, ons = [], []
            for start, end, pitch, velocity in track.notes.tolist():
                offs.append((end, mido.Message("note_off", channel=channel, note=pitch, velocity=0)))
                ons.append((start, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)))
            midi.tracks.append(_spaced(head + offs + ons))
        return midi

    @classmethod
    def from_pretty_midi(cls, pm: pretty_midi.PrettyMIDI) -> Piece:
        """The piece that a PrettyMIDI holds, its seconds rounded to the nearest tick, at least one a note.

        Parameters
        ----------
        pm : pretty_midi.PrettyMIDI
        """
        tracks = []
        for instrument in pm.instruments:
            notes = []
            for note in instrument.notes:
                start, end = pm.time_to_tick(note.start), pm.time_to_tick(note.end)
                notes.append((start, max(end, start + 1), note.pitch, note.velocity))
            tracks.append(Track(notes, instrument.name, instrument.program, instrument.is_drum))
        tempos = {pm.time_to_tick(t): round(6e7 / bpm) for t, bpm in zip(*pm.get_tempo_changes(), strict=True)}
        meters = {0: METER} | {pm.time_to_tick(m.time): (m.numerator, m.denominator) for m in pm.time_signature_changes}
        return cls(tuple(tracks), int(pm.resolution), *_maps(tempos, meters))

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """The piece as a PrettyMIDI, with an instrument for each track; the name of the piece is lost.

        Raises
        ------
        ParameterError
            Tempo or meter change later than the 10 million ticks that pretty_midi can hold.
        """
        import pretty_midi

        # the maps alone, as pretty_midi would end all overlapping notes of one pitch together
        maps = replace(self, tracks=(), name="").to_mido()
        try:
            pm = pretty_midi.PrettyMIDI(mido_object=maps)
        except ValueError as error:
            raise ParameterError(f"the piece does not fit into a PrettyMIDI: {error}; lower ticks_per_beat") from error
        pm.instruments = instruments(self)
        return pm


def read(path: StrPath, *, pedal: bool = False) -> Piece:
    """Read a MIDI file.

    Notes pair in each track, channel and pitch, the first that began with the first that ends. One left open lasts to
    the end of its track, and each lasts a tick at least. The notes of a track are parted by channel and by the program
    at their start; channel 10 has the drums. Tempo and meter are taken from all tracks, for many files have them in
    more than the first. Names are UTF-8, or else Latin-1.

    Parameters
    ----------
    path : path
        A standard MIDI file of type 0 or 1, of 16 MiB at most.
    pedal : bool
        Hold notes that are released while the sustain pedal of their channel is down (controller 64 at 64 or more)
        until it is up, or the note struck again. Off, as it smears what the fingers play.

    Returns
    -------
    Piece
        Its name is that of the first track, as the standard has it. Tracks without notes are left out.

    Raises
    ------
    FormatError
        The file cannot be read, is no MIDI file, is damaged or cut short, counts SMPTE frames, or holds no notes.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{name!r} cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise FormatError(f"{name!r} is larger than {MOST_BYTES >> 20} MiB, and hardly music; cut it")
    return _piece(data, repr(name), pedal=pedal)


def write(piece: Piece, path: StrPath, *, force: bool = False) -> None:
    """Write a MIDI file of type 1, see :meth:`Piece.to_mido`; it appears when it is complete, or not at all.

    Parameters
    ----------
    piece : Piece
        Tracks without notes do not come back when it is read.
    path : path
    force : bool
        Replace an existing file.

    Raises
    ------
    ParameterError
        The piece holds no notes, the file exists, or its folder cannot be written.
    """
    if not piece.n_notes:
        raise ParameterError(f"the piece for {os.fspath(path)!r} holds no notes; a file needs one at least")
    midi = piece.to_mido()
    # resolved, so that a link stays one and the file behind it is replaced
    with writing(Path(path).resolve(), force=force) as temporary:
        midi.save(temporary)


# ---- checks


def _within(name: str, value: Any, least: int, most: int) -> int:
    if whole_number(name, value, least) > most:
        raise ParameterError(f"{name}={value!r} must be a whole number, at most {most}")
    return int(value)


def _checked_name(name: str) -> str:
    try:
        return name.encode().decode()
    except (AttributeError, UnicodeError) as error:
        raise ParameterError(f"{name=} must be a str that UTF-8 can hold") from error


def _checked_notes(notes: ArrayLike) -> NDArray[np.void]:
    try:
        given = np.asarray(notes)
    except ValueError as error:
        raise ParameterError(f"notes must all be (start, end, pitch, velocity): {error}") from error
    if given.dtype == NOTE and given.ndim == 1:
        rows = np.stack([given[field].astype(np.int64) for field in NOTE.names or ()], axis=1)
    elif given.shape == (0,) or (given.dtype.kind in "iu" and given.shape == (len(given), 4)):
        rows = given.astype(np.int64).reshape(-1, 4)
    else:
        raise ParameterError(
            f"notes of shape {given.shape} and dtype {given.dtype}: give an array of NOTE, or a list of tuples (start, "
            "end, pitch, velocity) of whole numbers"
        )
    starts, ends, pitches, velocities = rows.T
    wrong = (starts < 0) | (ends <= starts) | (ends > MOST_TICKS)
    wrong |= (pitches < 0) | (pitches > 127) | (velocities < 1) | (velocities > 127)
    if wrong.any():
        raise ParameterError(
            f"note {tuple(rows[wrong][0].tolist())}: (start, end, pitch, velocity) must have 0 <= start < end <= "
            f"{MOST_TICKS} in ticks, pitch 0 to 127 and velocity 1 to 127"
        )
    # all fields, so that equal notes make equal tracks; an end decides which note reading ends first
    table = np.sort(_notes(rows), order=["start", "pitch", "end", "velocity"])
    table.flags.writeable = False
    return table


def _checked_map(name: str, changes: Any, width: int) -> tuple[Any, ...]:
    try:
        rows = tuple(tuple(whole_number(name, value, least=0) for value in change) for change in changes)
    except TypeError as error:
        raise ParameterError(f"{name}={changes!r} must be a sequence of tuples of {width} whole numbers") from error
    ticks = [row[0] for row in rows if len(row) == width]
    if len(ticks) != len(rows) or ticks[:1] != [0] or ticks != sorted(set(ticks)) or ticks[-1] >= MOST_TICKS:
        raise ParameterError(
            f"{name}={changes!r} must be tuples of {width} whole numbers, each with its tick first, in order and below "
            f"{MOST_TICKS}, beginning with tick 0"
        )
    return rows


# ---- arithmetic


def _place(changes: NDArray[np.int64], ticks: ArrayLike) -> NDArray[np.intp]:
    """Which change is in force at each tick; before the first, the first."""
    return np.asarray(np.maximum(np.searchsorted(changes, ticks, "right") - 1, 0))


def _moved(track: Track, semitones: int) -> Track:
    notes = track.notes.copy()
    notes["pitch"] = notes["pitch"].astype(np.int64) + semitones
    return replace(track, notes=notes)


def _notes(rows: NDArray[np.int64]) -> NDArray[np.void]:
    """An array of NOTE from rows (start, end, pitch, velocity)."""
    notes = np.empty(len(rows), NOTE)
    for field, column in zip(NOTE.names or (), rows.T, strict=True):
        notes[field] = column
    return notes


def _maps(tempos: dict[int, int], meters: dict[int, tuple[int, int]]) -> tuple[Any, Any]:
    return tuple(sorted(tempos.items())), tuple((tick, *meter) for tick, meter in sorted(meters.items()))


def instruments(piece: Piece) -> list[Any]:
    """Each track as an instrument of pretty_midi, its notes in seconds."""
    import pretty_midi

    found = []
    for track in piece.tracks:
        instrument = pretty_midi.Instrument(track.program, track.is_drum, track.name)
        starts, ends = (piece.seconds(track.notes[field]).tolist() for field in ("start", "end"))
        pitches, velocities = (track.notes[field].tolist() for field in ("pitch", "velocity"))
        instrument.notes = list(map(pretty_midi.Note, velocities, pitches, starts, ends))
        found.append(instrument)
    return found


# ---- writing


def _channels(tracks: tuple[Track, ...]) -> list[int]:
    melodic = [place for place, track in enumerate(tracks) if not track.is_drum]
    # a synthesizer has one program a channel, so tracks that must share one share both
    users = {place: place if len(melodic) <= len(MELODIC) else tracks[place].program for place in melodic}
    order = {user: n for n, user in enumerate(dict.fromkeys(users.values()))}
    return [MELODIC[order[users[n]] % len(MELODIC)] if n in users else DRUMS for n in range(len(tracks))]


def _spaced(events: list[tuple[int, Any]]) -> mido.MidiTrack:
    """A track of mido from messages with their ticks; those of one tick stay in order."""
    import mido

    track, now = mido.MidiTrack(), 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        if tick - now > MOST_STEP:
            raise ParameterError(f"nothing happens from tick {now} to {tick}: a file holds {MOST_STEP} at most")
        message.time = tick - now
        track.append(message)
        now = tick
    return track


# ---- reading
#
# mido writes, but our own few lines read: mido 1.3 takes time that is quadratic in the size of some damaged files,
# drops the delta time of meta events it does not know, and refuses files for a key signature that nobody needs.


def _piece(data: bytes, what: str, *, pedal: bool) -> Piece:
    try:
        return _parsed(data, pedal=pedal)
    except FormatError as error:
        raise FormatError(f"{what} {error}") from error
    except IndexError as error:
        raise FormatError(f"{what} is damaged: a track ends within an event") from error


def _parsed(data: bytes, *, pedal: bool) -> Piece:
    ticks_per_beat, chunks = _chunks(data)
    tempos, meters = {0: TEMPO}, {0: METER}
    pedals: dict[int, list[tuple[int, int]]] = defaultdict(list)
    groups: list[tuple[str, int, int, NDArray[np.void]]] = []  # name, channel, program, notes
    names: list[str] = []
    last = 0
    for chunk in chunks:
        name, tick, programs = "", 0, [0] * 16
        found = array("q")  # rows of start, end, pitch, velocity, channel, program; lists would fill the memory
        playing: dict[tuple[int, int], deque[int]] = defaultdict(deque)  # where in there the notes are that sound
        for tick, status, body in _events(chunk):
            kind, channel = status & 0xF0, status & 0x0F
            if kind == 0x90 and body[1]:
                playing[channel, body[0]].append(len(found))
                found.extend((tick, 0, *body, channel, programs[channel]))
            elif kind in (0x80, 0x90):
                if playing[channel, body[0]]:
                    found[playing[channel, body[0]].popleft() + 1] = tick
            elif kind == 0xB0 and body[0] == PEDAL:
                pedals[channel].append((tick, body[1]))
            elif kind == 0xC0:
                programs[channel] = body[0]
            elif status == 0xFF and body[0] == 0x03:
                name = name or _text(body[1:])
            elif status == 0xFF and body[0] == 0x51:
                tempos[tick] = body[1] << 16 | body[2] << 8 | body[3]
                if not tempos[tick]:
                    raise FormatError(f"is damaged: a tempo of 0 at tick {tick}")
            elif status == 0xFF and body[0] == 0x58:
                meters[tick] = body[1], 1 << body[2]
                if not (body[1] and 1 << body[2] <= MOST_DENOMINATOR):
                    raise FormatError(f"is damaged: a meter of {body[1]}/2^{body[2]} at tick {tick}")
        for row in chain.from_iterable(playing.values()):
            found[row + 1] = tick
        names.append(name)
        rows = np.array(found, np.int64).reshape(-1, 6)
        rows[:, 1] = np.maximum(rows[:, 1], rows[:, 0] + 1)
        players = rows[:, 4] * 128 + rows[:, 5]
        for player in players[np.sort(np.unique(players, return_index=True)[1])].tolist():
            groups.append((name, *divmod(player, 128), _notes(rows[players == player, :4])))
        last = max(last, tick)
    if not groups:
        raise FormatError("holds no notes")
    tracks = [
        Track(_held(notes, pedals[channel], last) if pedal else notes, name, program, channel == DRUMS)
        for name, channel, program, notes in groups
    ]
    return Piece(tuple(tracks), ticks_per_beat, *_maps(tempos, meters), names[0])


def _chunks(data: bytes) -> tuple[int, list[bytes]]:
    """Ticks a beat, and what is in each track; chunks of other kinds are no harm."""
    if data[:4] != b"MThd":
        raise FormatError(f"is no MIDI file: it {'is empty' if not data else 'does not begin with MThd'}")
    if len(data) < 14:
        raise FormatError("is cut short, within its header")
    size, kind, n_tracks, ticks_per_beat = struct.unpack(">IHHh", data[4:14])
    if kind not in (0, 1):
        raise FormatError(f"is of type {kind}, and only in types 0 and 1 do tracks sound together; save it as type 1")
    if ticks_per_beat < 1:
        raise FormatError("has no beats, but SMPTE frames or no time at all; save it with ticks per quarter note")
    at = 8 + size
    tracks: list[bytes] = []
    while len(tracks) < n_tracks:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        at += 8 + size
        if at > len(data) or len(name) < 4:
            raise FormatError(f"is cut short: it announces {n_tracks} tracks, {len(tracks)} are there; copy it again")
        if name == b"MTrk":
            tracks.append(data[at - size : at])
    return ticks_per_beat, tracks


def _events(chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Tick, status and data of each event of a track; the data of a meta event begin with its type."""
    at = tick = running = 0
    while at < len(chunk):
        step, at = _number(chunk, at)
        tick += step
        if tick >= MOST_TICKS:
            raise FormatError(f"is damaged: it lasts {tick} ticks and more")
        status = chunk[at]
        # an event without a status has that of the last one of a channel, for which others in between are no matter
        status, at = (status, at + 1) if status & 0x80 else (running, at)
        head = b""
        if status in (0xFF, 0xF0, 0xF7):
            if status == 0xFF:
                head, at = chunk[at : at + 1], at + 1
            size, at = _number(chunk, at)
        elif 0x80 <= status < 0xF0:
            running, size = status, 1 if 0xC0 <= status < 0xE0 else 2
        else:
            raise FormatError(f"is damaged: an event of status {status:#04x}")
        body = chunk[at : at + size]
        at += size
        if at > len(chunk):
            raise IndexError
        if status < 0xF0 and max(body) > 127:
            raise FormatError(f"is damaged: data above 127 in an event at tick {tick}")
        yield tick, status, head + body
        if head == b"\x2f":  # the end; some files have padding after it
            return


def _number(chunk: bytes, at: int) -> tuple[int, int]:
    """A number of up to four bytes of seven bits, and where it ends."""
    value = 0
    for place in range(at, at + 4):
        value = value << 7 | chunk[place] & 0x7F
        if chunk[place] < 0x80:
            return value, place + 1
    raise FormatError("is damaged: a number of more than four bytes")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _held(notes: NDArray[np.void], events: list[tuple[int, int]], last: int) -> NDArray[np.void]:
    """Notes of one channel, held while its pedal is down: ``events`` are (tick, value), up to tick ``last``."""
    ticks, values = np.array([(-1, 0), *sorted(events, key=lambda event: event[0]), (last, 0)], np.int64).T
    down = values >= PEDAL
    held = notes[np.lexsort((notes["start"], notes["pitch"]))]
    ups = ticks[~down]
    let_go = ups[np.minimum(np.searchsorted(ups, held["end"], "right"), len(ups) - 1)]
    again = np.append(np.where(np.diff(held["pitch"].astype(np.int64)) == 0, held["start"][1:], MOST_TICKS), MOST_TICKS)
    until = np.where(down[_place(ticks, held["end"])], np.minimum(let_go, again), 0)
    held["end"] = np.maximum(held["end"], until)
    return held

"""A recurrent model of music: what notes sound next, given those that did."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rnndsp import formats
from rnndsp._checks import number, whole_number
from rnndsp.engine import Cell
from rnndsp.errors import FormatError, ParameterError
from rnndsp.filter import Filter
from rnndsp.filters import NADE
from rnndsp.midi.piece import NOTE, Piece, Track
from rnndsp.midi.roll import Roll

__all__ = ["Frames", "MusicModel"]

HABITS = {"corpus", "tempo_bpm", "meter", "pickup_beats", "program"}

Bits = NDArray[np.bool_]
Real = NDArray[np.float64]

# Positions told apart in the bar, and before the end of the piece, in beats; what lies beyond counts as the last one.
BAR_BEATS, END_BEATS = 8, 8
# The finest grid.
MOST_STEPS = 48
# Of what is composed.
MAX_FRAMES, TICKS_PER_STEP, VELOCITY = 2**16, 120, 80


@dataclass(frozen=True)
class Frames:
    r"""How notes become the frames that a model sees, and back: one frame a step of the beat grid.

    Of every pitch a frame says two things: whether it sounds, s, and, where it has already sounded in the frame before,
    whether it is struck again, r. So repeated notes differ from held ones, and every frame of bits is a possible one.

    .. math:: \mathrm{onset}[t] = s[t] \wedge (\neg s[t-1] \vee r[t])

    What the model hears of the past at frame t: s and the onsets of frame t - 1, s of one beat and of one bar of four
    beats ago, the position in the bar, and how many beats remain to the end.

    Attributes
    ----------
    steps_per_beat : int
    lowest, n_pitches : int
        The range of pitches, from MIDI number ``lowest``.
    """

    steps_per_beat: int
    lowest: int
    n_pitches: int

    def __post_init__(self) -> None:
        for name, least in (("steps_per_beat", 1), ("lowest", 0), ("n_pitches", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if self.steps_per_beat > MOST_STEPS:
            raise ParameterError(f"steps_per_beat={self.steps_per_beat}: at most {MOST_STEPS} are told apart")
        if self.lowest + self.n_pitches > 128:
            top = self.lowest + self.n_pitches - 1
            raise ParameterError(f"pitches from {self.lowest} to {top}: MIDI's highest is 127")

    @property
    def lags(self) -> tuple[int, ...]:
        """How many frames back the sounding pitches are heard."""
        return 1, self.steps_per_beat, 4 * self.steps_per_beat

    @property
    def n_inputs(self) -> int:
        """Numbers in a frame of the past, as :meth:`past` gives it."""
        return (1 + len(self.lags)) * self.n_pitches + BAR_BEATS + self.steps_per_beat + END_BEATS

    def planes(self, roll: Roll) -> tuple[Bits, Bits]:
        """Sounding pitches and onsets within the range, (n_frames, n_pitches) each, of all tracks but drums."""
        if roll.steps_per_beat != self.steps_per_beat:
            raise ParameterError(f"a roll of {roll.steps_per_beat} steps a beat, the frames have {self.steps_per_beat}")
        merged = roll.merged()
        within = slice(self.lowest, self.lowest + self.n_pitches)
        outside = np.delete(merged.sounding[0], np.r_[within], axis=1).any(axis=0)
        if outside.any():
            raise ParameterError(
                f"the piece has notes outside of the model's range of {self.lowest} to {within.stop - 1}; transpose it"
            )
        return merged.sounding[0, :, within], merged.onset[0, :, within]

    def past(self, sounding: Bits, onset: Bits, positions: Real, end: int, frames: NDArray[np.int64]) -> Real:
        """What is heard at the given frames.

        Parameters
        ----------
        sounding, onset : ndarray of bool, shape (n_frames, n_pitches)
        positions : ndarray, shape (n_frames,)
            Beats since the bar line.
        end : int
            Frame at which the piece ends.
        frames : ndarray of int

        Returns
        -------
        ndarray, shape (len(frames), n_inputs)
        """
        beat, step = np.divmod(np.rint(positions[frames] * self.steps_per_beat).astype(int), self.steps_per_beat)
        left = (end - 1 - frames) // self.steps_per_beat
        return np.hstack(
            [
                *(_delayed(sounding, frames - lag) for lag in self.lags),
                _delayed(onset, frames - 1),
                np.eye(BAR_BEATS)[np.clip(beat, 0, BAR_BEATS - 1)],
                np.eye(self.steps_per_beat)[step],
                np.eye(END_BEATS)[np.clip(left, 0, END_BEATS - 1)],
            ]
        )

    def example(self, roll: Roll) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A piece to learn from, or to be judged on.

        Returns
        -------
        u : ndarray of float32, shape (n_frames, n_inputs + 2 n_pitches)
            The past of every frame, and the frame.
        bits : ndarray of float32, shape (n_frames, 2 n_pitches)
            s and r; NaN where r does not apply, and before the first note, as where a piece begins is given.
        """
        sounding, onset = self.planes(roll)
        frames = np.arange(len(sounding))
        held = np.vstack([np.zeros((1, self.n_pitches), bool), sounding[:-1]]) & sounding
        u = np.hstack([self.past(sounding, onset, roll.positions, len(frames), frames), sounding, held & onset])
        bits = np.hstack([sounding, np.where(held, onset, np.nan)])
        bits[: np.argmax(sounding.any(axis=1))] = np.nan
        return u.astype(np.float32), bits.astype(np.float32)

    def allowed(self, before: Bits, bits: Bits) -> Bits:
        """Which bits may be set, given the pitches that sounded before and the bits set so far."""
        return np.concatenate([np.ones(self.n_pitches, bool), before & bits[: self.n_pitches]])

    def roll(self, sounding: Bits, onset: Bits, header: Piece) -> Roll:
        """The planes as a roll of one track, every note as loud as the next."""
        planes = np.zeros((2, 1, len(sounding), 128), bool)
        planes[:, 0, :, self.lowest : self.lowest + self.n_pitches] = sounding, onset
        return Roll((planes[1] * VELOCITY).astype(np.uint8), planes[0], self.steps_per_beat, header)


@dataclass(frozen=True, repr=False)
class MusicModel:
    """A recurrent cell with an autoregressive head, and how its frames stand for notes.

    Attributes
    ----------
    filter : NADE
        Its context hears :meth:`Frames.past`; it gives the log-odds of every bit of the frame.
    frames : Frames
    about : mapping
        How to compose where nothing is said: ``tempo_bpm``, ``meter``, ``pickup_beats``, ``program`` (the instrument);
        ``corpus``, the name of what it has learnt from; and what else is known, plain values.
    """

    filter: NADE
    frames: Frames
    about: Mapping[str, Any]

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.filter, NADE):
            raise ParameterError(f"{self.filter!r} is no NADE head, which draws the notes")
        expected = self.frames.n_inputs, 2 * self.frames.n_pitches
        if (self.filter.context.n_inputs, self.filter.n_outputs) != expected:
            raise ParameterError(
                f"the head hears {self.filter.context.n_inputs} numbers and gives {self.filter.n_outputs} bits; such "
                f"frames need {expected[0]} and {expected[1]}"
            )
        if not isinstance(self.about, Mapping):
            raise ParameterError(f"about={self.about!r} must be a mapping")
        if missing := HABITS - set(self.about):
            raise ParameterError(f"about={dict(self.about)} lacks {sorted(missing)}")
        object.__setattr__(self, "about", MappingProxyType(dict(self.about)))
        self._form(1, None, None, None)

    def __repr__(self) -> str:
        return f"MusicModel({self.frames}, {dict(self.about)}, {self.filter!r})"

    def _repr_html_(self) -> str:
        from rnndsp.midi import notebook

        return notebook.model_html(self)

    @property
    def cell(self) -> Cell:
        """The recurrent cell inside, the first one where there are several."""
        if cell := _first_cell(self.filter):
            return cell
        raise ParameterError("this model has no recurrent cell")

    def heard(self, piece: Piece) -> NDArray[np.float32]:
        """What the context hears while a piece goes by, (n_frames, n_inputs): a signal to analyse the cell on.

        Parameters
        ----------
        piece : Piece
            Within the model's range of pitches.
        """
        return self.frames.example(piece.roll(self.frames.steps_per_beat))[0][:, : self.frames.n_inputs]

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the model to one file, which :meth:`load` reads back; :func:`rnndsp.load` gives its filter."""
        contents = {
            "filter": formats.describe(self.filter),
            "music": {"frames": asdict(self.frames), "about": dict(self.about)},
        }
        formats.write(path, contents, self.filter.params, force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model.

        Raises
        ------
        FormatError
            The file is missing, damaged, or holds no model of music.
        """
        music, _ = formats.read(path, "music")
        filt = formats.load(path)
        try:
            return cls(filt, Frames(**music["frames"]), music["about"])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} does not describe a model of music: {error!r}") from error

    def generate(
        self,
        n_bars: int = 8,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        meter: tuple[int, int] | None = None,
        pickup_beats: float | None = None,
        tempo_bpm: float | None = None,
        transpose: int = 0,
    ) -> Piece:
        """Compose a piece.

        Parameters
        ----------
        n_bars : int
        temperature : float
            1 draws as the model has learnt; less is safer and plainer, more is wilder.
        seed : int
            The same seed gives the same piece.
        meter : tuple of int, optional
            Numerator and denominator; that of most of the music it was trained on, when absent.
        pickup_beats : float, optional
            Quarter notes before the first whole bar, less than a bar; as most of that music begins, when absent.
        tempo_bpm : float, optional
            Quarter notes a minute; that music's, when absent.
        transpose : int
            Semitones; the models of :func:`train` compose in C, major or minor.

        Returns
        -------
        Piece
            With one track, and named after the corpus and the seed.

        Raises
        ------
        ParameterError
            A setting out of range, or no note came out: try another seed or a higher temperature.
        """
        rng, frames = np.random.default_rng(whole_number("seed", seed, least=0)), self.frames
        if number("temperature", temperature) < 0:
            raise ParameterError(f"{temperature=} must be a number of at least 0; 1 is as learnt")
        header, n_frames, lead = self._form(n_bars, meter, pickup_beats, tempo_bpm)
        header = replace(header, name=f"after {self.about['corpus']}, {seed=}")
        positions = header.positions(np.arange(n_frames) * TICKS_PER_STEP)
        sounding = np.zeros((n_frames, frames.n_pitches), bool)
        onset, before = sounding.copy(), np.zeros(frames.n_pitches, bool)
        context = self.filter.context.stream()
        for t in range(n_frames):
            past = frames.past(sounding, onset, positions, n_frames, np.array([t]))
            heard = context.process(past.astype(np.float32))[0]
            if t < lead:
                continue
            allowed = partial(frames.allowed, before)
            bits = self.filter.sample(heard, rng, temperature=temperature, allowed=allowed)
            sounding[t], again = np.split(bits, 2)
            onset[t] = sounding[t] & (~before | again)
            before = sounding[t]
        if not onset.any():
            raise ParameterError(f"{seed=} and {temperature=} gave only silence; try others")
        header, cut = _pickup_bar(header, lead)
        return frames.roll(sounding[cut:], onset[cut:], header).piece().transposed(transpose)

    def _form(
        self, n_bars: int, meter: tuple[int, int] | None, pickup_beats: float | None, tempo_bpm: float | None
    ) -> tuple[Piece, int, int]:
        """An empty piece of the meter and tempo, its length in frames, and how many of them come before the pickup."""
        k = self.frames.steps_per_beat
        meter = self.about["meter"] if meter is None else meter
        pickup_beats = number("pickup_beats", self.about["pickup_beats"] if pickup_beats is None else pickup_beats)
        tempo_bpm = number("tempo_bpm", self.about["tempo_bpm"] if tempo_bpm is None else tempo_bpm)
        if not isinstance(meter, tuple | list) or len(meter) != 2:
            raise ParameterError(f"{meter=} must be two whole numbers, (4, 4) say")
        track = Track(np.empty(0, NOTE), program=self.about["program"])
        header = Piece((track,), TICKS_PER_STEP * k, meters=((0, *meter),)).with_tempo(tempo_bpm)
        _, numerator, denominator = header.meters[0]
        bar, rest = divmod(4 * k * numerator, denominator)
        if rest:
            raise ParameterError(f"{meter=}: a bar must be a whole number of steps, of {k} a beat")
        pickup = round(pickup_beats * k) if abs(pickup_beats) < bar else bar
        if not 0 <= pickup < bar or abs(pickup - pickup_beats * k) > 1e-6:
            raise ParameterError(
                f"{pickup_beats=}: it must be less than a bar of {numerator}/{denominator}, and a whole number of "
                f"steps, of {k} a beat"
            )
        # the first bar begins with silence
        n_frames = whole_number("n_bars", n_bars) * bar + (bar if pickup else 0)
        if n_frames > MAX_FRAMES:
            raise ParameterError(f"{n_bars=} are {n_frames} frames, more than {MAX_FRAMES}; compose several pieces")
        return header, n_frames, bar - pickup if pickup else 0


def _pickup_bar(header: Piece, lead: int) -> tuple[Piece, int]:
    """Of a first bar that begins with silent steps only the beats with notes, as a short bar; and the steps cut off."""
    _, numerator, denominator = header.meters[0]
    beat = Fraction(4 * header.ticks_per_beat, denominator * TICKS_PER_STEP)
    beats = next(n for n in range(1, numerator + 1) if (numerator - n) * beat <= lead and (n * beat).denominator == 1)
    if beats == numerator:
        return header, 0
    meters = (0, beats, denominator), (int(beats * beat) * TICKS_PER_STEP, numerator, denominator)
    return replace(header, meters=meters), int((numerator - beats) * beat)


def _delayed(plane: Bits, frames: NDArray[np.int64]) -> Bits:
    """Rows of a plane, silence before it begins."""
    rows = plane[np.maximum(frames, 0)]
    rows[frames < 0] = False
    return rows


def _first_cell(filt: Filter) -> Cell | None:
    if isinstance(filt, Cell):
        return filt
    return next((cell for child in filt.children if (cell := _first_cell(child))), None)

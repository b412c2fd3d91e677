"""Hearing a piece: by a small synthesizer that is always there, or by FluidSynth and a soundfont where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece, instruments

__all__ = ["render"]

PEAK = 0.5  # of full scale, which leaves room for a filter
TAIL_S = 1.0  # for the last notes to fade, as pretty_midi has it
ATTACK_S = 0.005
FADE_S = 0.02  # at the end of the tail, where long ones are cut
MOST_S = 7200.0
MOST_RATE = 96000  # of FluidSynth
# Amplitudes of the partials of a tone: fuller than a sine, and soft, as each is much weaker than the one below.
PARTIALS = (1.0, 0.4, 0.15, 0.05)


def render(
    piece: Piece, *, sample_rate: int = 44100, soundfont: str | os.PathLike[str] | None = None
) -> NDArray[np.float32]:
    r"""The sound of a piece, mono.

    FluidSynth plays where pyfluidsynth is installed, on the soundfont given or the small one that comes with
    pretty_midi. Else pretty_midi does: a note of frequency f and velocity v is

    .. math:: v\, e^{-t} \sum_k a_k \sin(2 \pi k f t), \quad t \text{ in seconds}

    over the partials below half the sample rate, faded in over 5 ms and out over its last 0.1 s; drums are silent.

    Parameters
    ----------
    piece : Piece
    sample_rate : int
        Hz, 8000 to 96000.
    soundfont : path, optional
        A SoundFont file (.sf2) for FluidSynth.

    Returns
    -------
    ndarray, shape (n_frames, 1), float32
        A second longer than the piece, with a peak of 0.5 where it sounds at all.

    Raises
    ------
    ParameterError
        A piece of more than two hours, no such soundfont, or no FluidSynth to play it.
    """
    if whole_number("sample_rate", sample_rate, least=8000) > MOST_RATE:
        raise ParameterError(f"{sample_rate=} must be at most {MOST_RATE} Hz")
    if piece.duration_s > MOST_S:
        raise ParameterError(f"a piece of {piece.duration_s / 3600:.3g} hours: two are the most to render; cut it")
    parts = instruments(piece)
    n_frames = round((piece.duration_s + TAIL_S) * sample_rate)
    try:
        y = _mixed(_fluidsynth(parts, sample_rate, soundfont), n_frames, sample_rate)
    except (ImportError, AttributeError, OSError, ValueError) as error:  # no library, a broken one, or no soundfont
        if soundfont is not None:
            raise ParameterError(
                f"soundfont={os.fspath(soundfont)!r} cannot be played: {error}; name a SoundFont file (.sf2), and have "
                "FluidSynth: pip install 'rnndsp[synth]'"
            ) from error
        # pretty_midi fades notes out, but begins them with a click
        attack = np.sin(np.linspace(0, np.pi / 2, round(ATTACK_S * sample_rate))) ** 2
        wave = partial(_tone, attack=attack)
        y = _mixed((part.synthesize(sample_rate, wave) for part in parts), n_frames, sample_rate)
    peak = float(np.max(np.abs(y), initial=0))
    return (y * (PEAK / peak if peak else 1.0)).astype(np.float32)[:, None]


def _mixed(sounds: Iterable[NDArray[np.float64]], n_frames: int, sample_rate: int) -> NDArray[np.float64]:
    y = np.zeros(n_frames)
    fade = np.linspace(1, 0, round(FADE_S * sample_rate))
    for sound in sounds:
        n = min(n_frames, len(sound))
        y[:n] += sound[:n]
        if n:
            y[n - len(fade) : n] += sound[n - len(fade) : n] * (fade - 1)
    return y


def _fluidsynth(
    parts: list[Any], sample_rate: int, soundfont: str | os.PathLike[str] | None
) -> Iterator[NDArray[np.float64]]:
    import fluidsynth

    with as_file(files("pretty_midi") / "TimGM6mb.sf2") as bundled:
        path = Path(bundled if soundfont is None else soundfont)
        # its own complaint about a missing file goes to the terminal
        if not path.is_file():
            raise FileNotFoundError("no such file")
        synth = fluidsynth.Synth(samplerate=float(sample_rate))
        try:
            bank = synth.sfload(os.fspath(path))
            if bank < 0:
                raise ValueError("FluidSynth cannot load it")
            for part in parts:
                yield part.fluidsynth(synthesizer=synth, sfid=bank) / 2**15
                synth.system_reset()  # or what still rings would begin the next part
        finally:
            synth.delete()


def _tone(phase: NDArray[np.float64], attack: NDArray[np.float64]) -> NDArray[np.float64]:
    """The partials of a tone of such phases, in radians, that lie below half the sample rate, faded in."""
    step = phase[1] - phase[0] if phase.size > 1 else 0.0
    tone = np.zeros_like(phase)
    for k, amplitude in enumerate(PARTIALS, 1):
        if k * step < np.pi:
            tone += amplitude * np.sin(k * phase)
    tone[: len(attack)] *= attack[: len(tone)]
    return tone

"""How pieces, rolls and models of music show themselves in notebooks: facts, notes as a picture, and a player."""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pretty_midi
import soundfile

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece, Track
from rnndsp.midi.plots import bar_lines, piano_roll_plot
from rnndsp.midi.render import render
from rnndsp.midi.roll import Roll
from rnndsp.notebook import box, facts, filter_html, fit_html, picture, sentence

if TYPE_CHECKING:
    from rnndsp.midi.learning import Training
    from rnndsp.midi.model import MusicModel

__all__ = ["model_html", "music_html", "training_html"]

# What a page can hold: a minute takes 2 MB. The bits of a sample below these are left out, which saves a fifth.
SAMPLE_RATE, MOST_S, BITS = 22050, 60.0, 14


def music_html(music: Piece | Roll) -> str:
    """Facts, the piano roll, and the sound."""
    piece = music.piece() if isinstance(music, Roll) else music
    known = _facts(piece)
    if isinstance(music, Roll):
        known["Grid"] = f"{music.steps_per_beat} steps a beat"
        known["Notes off the grid"] = f"{100 * music.off_grid:.3g} %"
        known["Notes merged"] = f"{music.n_merged:,}"
    title = piece.name or type(music).__name__
    if not piece.n_notes:
        return box(title, facts(known))
    try:
        known = {"Bars": f"{len(bar_lines(piece)) - 1:,}", **known}
        plot = picture("Piano roll", lambda ax: piano_roll_plot(piece, ax=ax), 9.0, 4.2)
    except ParameterError as error:  # too many bars
        plot = sentence(f"No picture: {error}.")
    return box(title, facts(known), plot, _player(piece))


def _facts(piece: Piece) -> dict[str, str]:
    tempos = [6e7 / tempo for _, tempo in piece.tempos]
    ends = dict.fromkeys(f"{tempo:.4g}" for tempo in (min(tempos), max(tempos)))
    instruments: dict[str, list[str]] = {}
    for track in piece.tracks:
        kind = "Drums" if track.is_drum else pretty_midi.program_to_instrument_name(track.program)
        instruments.setdefault(kind, []).append(track.name or "unnamed")
    return {
        "Notes": f"{piece.n_notes:,}",
        "Length": f"{piece.duration_s:,.1f} s",
        "Tempo": f"{' to '.join(ends)} beats a minute",
        "Instruments": "; ".join(f"{kind} ({', '.join(names)})" for kind, names in instruments.items()) or "none",
    }


def _beginning(piece: Piece, most_s: float) -> Piece:
    """The piece up to a time in seconds, at which the notes that sound end."""
    end = bisect_right(range(piece.end + 1), most_s, key=lambda tick: float(piece.seconds(tick))) - 1
    if end == piece.end:
        return piece
    return replace(piece, tracks=tuple(_until(track, end) for track in piece.tracks))


def _until(track: Track, end: int) -> Track:
    notes = track.notes[track.notes["start"] < end]
    notes["end"] = notes["end"].clip(max=end)
    return replace(track, notes=notes)


def _player(piece: Piece) -> str:
    heard = _beginning(piece, MOST_S)
    flac = BytesIO()
    sound = render(heard, sample_rate=SAMPLE_RATE)
    rounded = np.round(sound * 2 ** (BITS - 1)) / 2 ** (BITS - 1)
    soundfile.write(flac, rounded, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    data = b64encode(flac.getvalue()).decode("ascii")
    player = f'<audio controls src="data:audio/flac;base64,{data}"></audio>'
    return player + (
        "" if heard is piece else sentence(f"The first {MOST_S:g} seconds; all of it: midi.render(piece).")
    )


# ---- models


def model_html(model: MusicModel) -> str:
    """What it composes from, what is known about it, and its filter."""
    frames = model.frames
    known = {
        "Pitches": f"{frames.lowest} to {frames.lowest + frames.n_pitches - 1}",
        "Grid": f"{frames.steps_per_beat} steps a beat",
    }
    known |= {str(name): str(value) for name, value in model.about.items() if not isinstance(value, Mapping)}
    return box("MusicModel", facts(known), filter_html(model.filter))


def training_html(training: Training) -> str:
    """Scores, and how the losses fell."""
    scores = facts({name: f"{value:.3f}" for name, value in training.scores.items()})
    head = sentence("Nats a frame on held-out pieces, less is better:")
    return box("Training", head, scores, fit_html(training.fit))

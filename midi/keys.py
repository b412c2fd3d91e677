"""The key of a piece, from how long each pitch class sounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece

__all__ = ["Key", "estimate_key"]

NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

# how often each degree of the scale comes in the chords of music in major and in minor, per cent (Budge 1943)
_MAJOR = 16.80, 0.86, 12.95, 1.41, 13.49, 11.93, 1.25, 20.28, 1.80, 8.04, 0.62, 10.57
_MINOR = 18.16, 0.69, 12.99, 13.34, 1.07, 11.15, 1.38, 21.07, 7.49, 1.53, 0.92, 10.21


class Key(NamedTuple):
    """A key.

    Attributes
    ----------
    tonic : int
        Pitch class, 0 for C.
    is_minor : bool
    """

    tonic: int
    is_minor: bool

    def __str__(self) -> str:
        return f"{NAMES[self.tonic]} {'minor' if self.is_minor else 'major'}"

    @property
    def semitones_to_c(self) -> int:
        """The shortest way to transpose a piece in this key to one on C: -6 to 5 semitones."""
        return (6 - self.tonic) % 12 - 6


def estimate_key(piece: Piece) -> Key:
    """The key whose profile correlates best with the total duration of each pitch class; drums do not count.

    Parameters
    ----------
    piece : Piece

    Raises
    ------
    ParameterError
        A piece without pitched notes.

    References
    ----------
    C. Krumhansl (1990), "Cognitive foundations of musical pitch", chapter 4: the method. H. Bellman (2006), "About the
    determination of key of a musical excerpt": the profiles, after counts by H. Budge (1943). On the last bass notes of
    Bach's chorales they agree more often than Krumhansl's.
    """
    tracks = [track.notes for track in piece.tracks if not track.is_drum]
    pitch = np.concatenate([np.zeros(0, np.int64), *(notes["pitch"].astype(np.int64) for notes in tracks)])
    if not pitch.size:
        raise ParameterError("the piece has no pitched notes, so no key")
    length = np.concatenate([notes["end"] - notes["start"] for notes in tracks])
    durations = np.bincount(pitch % 12, weights=length, minlength=12)
    profiles = np.array([np.roll(mode, tonic) for mode in (_MAJOR, _MINOR) for tonic in range(12)])
    if np.ptp(durations) == 0:
        return Key(0, False)  # all twelve alike: no key is better than another
    place = int(np.argmax(np.corrcoef(durations, profiles)[0, 1:]))
    return Key(place % 12, place >= 12)

"""Render a guitar-like phrase: a plucked string is a feedback loop with a delay and a gentle lowpass.

The built-in overdrive has learnt from such phrases. Run it: ``python examples/guitar_phrase.py phrase.flac``.

K. Karplus, A. Strong (1983), "Digital synthesis of plucked-string and drum timbres"; D. A. Jaffe, J. O. Smith (1983).
"""

import sys

import numpy as np

import rnndsp
from rnndsp.filters import SOS, GerzonAllpass, TransferFunction

SAMPLE_RATE = 48000
BEAT_S = 0.42
# start (beats), MIDI note, length (beats), strength: an arpeggio in A minor that falls to the dominant
PHRASE = [
    (0.0, 45, 3.9, 0.9), (0.5, 52, 3.4, 0.6), (1.0, 57, 2.9, 0.7), (1.5, 60, 2.4, 0.8), (2.0, 64, 1.9, 1.0), (3.0, 60,
    0.9, 0.6), (4.0, 41, 3.9, 0.9), (4.5, 48, 3.4, 0.6), (5.0, 57, 2.9, 0.7), (5.5, 60, 2.4, 0.8), (6.0, 65, 1.4, 1.0),
    (7.0, 64, 0.9, 0.7), (8.0, 40, 5.0, 0.9), (8.5, 52, 4.5, 0.7), (9.0, 56, 4.0, 0.8), (9.5, 59, 3.5, 0.8), (10.0, 64,
    3.0, 1.0), (11.0, 68, 2.0, 0.8),
]  # fmt: skip


def pluck(note: int, length_s: float, strength: float, rng: np.random.Generator) -> np.ndarray:
    """One plucked note, damped at its end."""
    period = SAMPLE_RATE / (440 * 2 ** ((note - 69) / 12))
    whole = int(period - 1)
    fraction = period - 0.5 - whole  # the two-point mean below is half a sample late
    tuning = (1 - fraction) / (1 + fraction)
    # the loop loses a little at every turn, high frequencies more
    loss = TransferFunction(0.996 ** (period / 300) * np.array([0.5, 0.5]), [1.0])
    string = rnndsp.Feedback(rnndsp.gain(1.0), loss >> TransferFunction([tuning, 1.0], [1.0, tuning]), delay=whole)
    n = round(length_s * SAMPLE_RATE)
    excitation = np.zeros(n)
    burst = rng.uniform(-1, 1, whole)
    # plucked near the bridge: what the string gets is the difference of two travelling waves; soft fingers are dull
    burst -= np.roll(burst, whole // 7)
    soft = TransferFunction([1 - 0.75 * (1 - strength)], [1.0, -0.75 * (1 - strength) - 0.15])
    excitation[:whole] = soft(burst)
    fade = np.minimum(1, (n - np.arange(n)) / (0.05 * SAMPLE_RATE))
    return 0.2 * strength * fade * string(excitation)


def render(seed: int = 1) -> np.ndarray:
    """The whole phrase, through a small wooden body."""
    rng = np.random.default_rng(seed)
    dry = np.zeros(round((14.5 * BEAT_S + 0.3) * SAMPLE_RATE))
    for start, note, length, strength in PHRASE:
        sound = pluck(note, length * BEAT_S, strength, rng)
        first = round((start * BEAT_S + rng.uniform(0, 0.008)) * SAMPLE_RATE)
        dry[first : first + len(sound)] += sound[: len(dry) - first]
    resonances = [
        SOS(_resonance(hz, q)) >> rnndsp.gain(level) for hz, q, level in ((105, 8, 0.5), (210, 10, 0.35), (430, 6, 0.2))
    ]
    body = rnndsp.Residual(rnndsp.Parallel(*resonances)) >> GerzonAllpass([37], gain=0.4)
    wet = body(dry)
    return 0.7 * wet / np.max(np.abs(wet))


def _resonance(frequency_hz: float, q: float) -> np.ndarray:
    from scipy.signal import iirpeak, tf2sos

    return tf2sos(*iirpeak(frequency_hz, q, fs=SAMPLE_RATE))


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "phrase.flac"
    rnndsp.audio.write(target, render().astype(np.float32)[:, None], SAMPLE_RATE, subtype="PCM_16", force=True)
    print(f"wrote {target}")

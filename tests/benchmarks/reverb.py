"""The stereo reverb against pedalboard's, which is Freeverb: 8 combs and 4 allpasses a channel, one decay time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rnndsp.filters import Reverb
from tests.benchmarks.measuring import Row, medians

RATE = 48000


def reverb(seconds: float = 2.0) -> Iterator[Row]:
    try:
        import pedalboard
    except ImportError:
        return
    stereo = np.random.default_rng(0).standard_normal((round(seconds * RATE), 2)).astype(np.float32)
    planes, rival = np.ascontiguousarray(stereo.T), pedalboard.Reverb()
    still, moving = (Reverb("hall", modulation=m, sample_rate=RATE) for m in (0.0, 0.5))
    calls = {"still": lambda: still(stereo), "moving": lambda: moving(stereo), "rival": lambda: rival(planes, RATE)}
    times = medians(calls, len(stereo), repeats=15)
    for name, key in (("Reverb, hall, stereo", "still"), ("Reverb, hall, modulated", "moving")):
        ratio = times[key] / times["rival"]
        yield Row(name, times[key], "us/frame", "pedalboard Reverb", times["rival"], ratio, at_most=1.5)

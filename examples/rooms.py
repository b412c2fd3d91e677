"""Rooms side by side: what a click turns into, how its energy fades in octaves, and what is proved of each.

Run it: ``python examples/rooms.py rooms.png``, or with names of presets after it.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rnndsp import plots
from rnndsp.filters import Reverb

RATE = 48000

target = sys.argv[1] if len(sys.argv) > 1 else "rooms.png"
presets = sys.argv[2:] or ["room", "plate", "hall"]
figure, axes = plt.subplots(2, len(presets), figsize=(5 * len(presets), 7), layout="constrained", squeeze=False)
for (above, below), preset in zip(axes.T, presets, strict=True):
    reverb = Reverb(preset, mix=1.0, sample_rate=RATE, n_channels=1)
    low, middle, high = reverb.t60_at([125, 1000, 8000])
    n_frames = round(1.2 * low * RATE)
    click = reverb([1.0] + [0.0] * (n_frames - 1))
    plots.spectrogram_plot(click, RATE, ax=above)
    above.set_title(f"{preset}: 60 dB in {middle:.2g} s at 1 kHz, {high:.2g} s at 8 kHz")
    plots.octave_decay_plot(reverb, n_frames, ax=below)
    print(f"{preset}: {low:.2f} s at 125 Hz; decay {reverb.stability()['bounded output'].verdict.value}")
figure.savefig(target, dpi=80)
print(f"wrote {target}")

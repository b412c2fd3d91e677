"""Poles of a biquad, a feedback delay network and an LSTM in one figure: three recurrent filters, one picture.

Run it: ``python examples/poles.py poles.png``. It drew the picture of the README.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import signal

from rnndsp import plots
from rnndsp.filters import SOS, FeedbackDelayNetwork, named

RATE = 48000

lowpass = SOS(signal.ellip(6, 1, 50, 6000, output="sos", fs=RATE), sample_rate=RATE)
network = FeedbackDelayNetwork([7, 11, 13, 17], t60_s=0.004, sample_rate=RATE)
overdrive = named("overdrive", sample_rate=RATE)
# while it plays: the small-signal poles where a loud sine has taken the cell
_, state = overdrive.run(0.3 * np.sin(2 * np.pi * 220 * np.arange(2000) / RATE))

figure, axes = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained")
for ax, filt, at, title in (
    (axes[0], lowpass, None, "elliptic lowpass, 6th order"),
    (axes[1], network, None, "feedback delay network, 4 short lines"),
    (axes[2], overdrive, state, "LSTM overdrive, driven by a sine"),
):
    plots.pole_plot(filt, at, ax=ax)
    ax.set_title(f"{title}\nspectral radius {filt.spectral_radius(at):.4f}")
target = sys.argv[1] if len(sys.argv) > 1 else "poles.png"
figure.savefig(target, dpi=80)
print(f"wrote {target}")

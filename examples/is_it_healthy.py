"""Is this model healthy? The built-in overdrive, and a unit that is not: it keeps what it was pushed into.

Run it: ``python examples/is_it_healthy.py healthy.png``, or with a model of yours, ``... healthy.png amp.safetensors``.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import rnndsp
from rnndsp import distortion, plots, stability
from rnndsp.filters import Elman, named

RATE = 48000

amp = rnndsp.load(sys.argv[2]) if len(sys.argv) > 2 else named("overdrive", sample_rate=RATE)
rate = amp.sample_rate or RATE
latch = Elman(1, 1, sample_rate=RATE).replace(W=[[1.0]], U=[[1.6]])  # x = tanh(1.6 x + u)

for name, filt in (("amp", amp), ("latch", latch)):
    print(f"== {name}\n{filt.stability()}\n")
    print(stability.probe_rest_states(filt, sample_rate=rate, n_starts=50), "\n")

# a chord that dies away, on the first input
t = np.arange(round(0.25 * rate)) / rate
chord = sum(np.sin(2 * np.pi * f * t) for f in (110, 165, 220)) * np.exp(-12 * t) / 3
u = np.zeros((t.size, amp.n_inputs))
u[:, 0] = chord
spectrum = stability.lyapunov_spectrum(amp, u)
low, high = spectrum.interval[0] * rate
print(f"on a chord differences grow at {low:.0f} to {high:.0f} nats a second: they fade where that is below 0")
horizon = stability.memory_horizon(amp, u, drop_db=60)
print(f"what goes in is heard for {horizon.ms:.1f} ms")

figure, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
plots.harmonic_plot(distortion.harmonic_distortion(amp, 220, np.arange(-60, 7, 6), sample_rate=rate), ax=axes[0, 0])
plots.lyapunov_plot(spectrum, ax=axes[0, 1])
(branch,) = stability.continue_points(latch, 0, [-1, 1])
plots.continuation_plot(branch, ax=axes[1, 0])
plots.rest_probe_plot(stability.probe_rest_states(latch, n_starts=50), ax=axes[1, 1])
for ax, who in zip(axes.flat, ("amp", "amp", "latch", "latch"), strict=True):
    ax.set_title(f"{who}: {ax.get_title()}")
target = sys.argv[1] if len(sys.argv) > 1 else "healthy.png"
figure.savefig(target, dpi=80)
print(f"wrote {target}")

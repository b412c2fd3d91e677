"""Write your own cell, look at its poles, and teach it to follow the envelope of a sound.

The cell is a leaky one whose units have time constants of their own, spread from fast to slow. That is all one has to
write: the unit, and its adjoint. Run it: ``python examples/own_cell.py own_cell.png``, some ten seconds.

H. Jaeger et al. (2007), "Optimization and applications of echo state networks with leaky-integrator neurons".
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import signal

import rnndsp
from rnndsp import plots
from rnndsp.activations import sigmoid, tanh
from rnndsp.filters import Dense
from rnndsp.losses import squared
from rnndsp.testing import check_filter

RATE = 8000
N_UNITS = 8


def unit(a, r, s, p):
    """a: from the input, r: from the last state, s: the last state, p: the leak."""
    leak = sigmoid(p[0])
    return (s[0] + leak * (tanh(a[0] + r[0]) - s[0]),)


def adjoint(a, r, s, p, d):
    leak, g = sigmoid(p[0]), tanh(a[0] + r[0])
    dgate = d[0] * leak * (1 - g * g)
    return (dgate,), (dgate,), (d[0] * (1 - leak),), (d[0] * (g - s[0]) * leak * (1 - leak),)


class Leaky(rnndsp.Cell):
    """h[t] = (1 - λ) h[t-1] + λ tanh(W u[t] + U h[t-1] + b), λ = sigmoid(leak) of each unit, y[t] = h[t]."""

    stages = (rnndsp.Stage(unit, adjoint, n_gates=1, n_out=1),)
    unit_params = ("leak",)
    saturating = True


def sound(rng: np.random.Generator, n_frames: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Noise in fits and starts, and its envelope: |u| through a lowpass of 20 Hz."""
    level = np.repeat(10 ** rng.uniform(-2, 0, n_frames // 250), 250)
    u = level * rng.uniform(-1, 1, n_frames)
    envelope = signal.sosfilt(signal.butter(1, 20, output="sos", fs=RATE), np.abs(u))
    return u[:, None], envelope[:, None]


cell = Leaky(1, N_UNITS, sample_rate=RATE)
time_s = np.geomspace(0.001, 0.1, N_UNITS)
cell = cell.replace(leak=-np.log(time_s * RATE), b=np.random.default_rng(1).uniform(-1, 1, N_UNITS))
check_filter(cell)  # every promise of the filter interface, gradients against differences among them

model = cell >> Dense(N_UNITS, 1)
held_out = np.random.default_rng(99)
trained = rnndsp.fit(
    model,
    lambda rng: [sound(rng) for _ in range(200)],
    squared,
    validation=[sound(held_out) for _ in range(20)],
    n_epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 40,
    rate=0.02,
)
test_u, test_envelope = sound(held_out)
error = np.std(trained.filter(test_u) - test_envelope) / np.std(test_envelope)
print(f"error of the envelope: {100 * error:.1f} %; epoch {trained.best} of {len(trained.history)}")

figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
plots.pole_plot(cell, ax=axes[0])
axes[0].set_title("poles of the cell before training")
plots.history_plot(trained.history, ax=axes[1])
t = np.arange(len(test_u)) / RATE
axes[2].plot(t, np.abs(test_u), color="0.85", label="|sound|")
axes[2].plot(t, test_envelope, label="envelope")
axes[2].plot(t, trained.filter(test_u), "--", label="what the cell says")
axes[2].set(xlabel="time (s)", title="a sound it never heard")
axes[2].legend()
target = sys.argv[1] if len(sys.argv) > 1 else "own_cell.png"
figure.savefig(target, dpi=80)
print(f"wrote {target}")

"""Teach an LSTM a small overdrive circuit, with the engine's own back-propagation through time.

The circuit: a highpass, a gain set by the knob, an asymmetric clipper, a lowpass. The model: 12 LSTM units that hear
the signal and the knob, a read-out, and the dry signal added. The built-in filter ``overdrive`` was trained by this
script: ``python examples/train_overdrive.py overdrive.safetensors``, about twelve minutes on a laptop.
"""

import sys
import time

import numpy as np
from scipy import signal

import rnndsp
from rnndsp.filters import LSTM, Dense

SAMPLE_RATE = 48000
N_UNITS = 12
WARM_UP = 400  # frames before the loss counts, as the state starts at rest


def circuit(dry: np.ndarray, drive: np.ndarray) -> np.ndarray:
    """What the model is to learn; ``dry`` (..., n), ``drive`` within [0, 1] (..., 1). Clips at four times the rate."""
    high = signal.sosfilt(signal.butter(1, 300, "highpass", output="sos", fs=SAMPLE_RATE), dry)
    fast = signal.resample_poly(high, 4, 1, axis=-1)
    pushed = fast * 10 ** ((6 + 30 * drive) / 20)
    clipped = np.where(pushed > 0, np.tanh(pushed), 0.8 * np.tanh(pushed / 0.8))
    slow = signal.resample_poly(clipped, 1, 4, axis=-1)
    return 0.5 * signal.sosfilt(signal.butter(1, 5000, "lowpass", output="sos", fs=SAMPLE_RATE), slow)


def batch(phrase: np.ndarray, rng: np.random.Generator, n_voices: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the phrase, of noise and of sweeps, at random levels and knob settings: (signal and knob), target."""
    t = np.arange(n_frames) / SAMPLE_RATE
    dry = np.empty((n_voices, n_frames))
    for voice in dry:
        kind = rng.integers(4)
        if kind < 2:
            start = rng.integers(len(phrase) - n_frames)
            voice[:] = phrase[start : start + n_frames] * rng.choice([-1, 1])
        elif kind == 2:
            voice[:] = signal.lfilter([0.3], [1, -0.9], rng.standard_normal(n_frames))
        else:
            voice[:] = signal.chirp(t, rng.uniform(50, 500), t[-1], rng.uniform(500, 6000), "logarithmic")
        voice *= 10 ** rng.uniform(-2, 0) / (np.max(np.abs(voice)) + 1e-9)
    drive = rng.uniform(0, 1, (n_voices, 1))
    u = np.stack([dry, np.broadcast_to(drive, dry.shape)], axis=-1)
    return u.astype(np.float32), circuit(dry, drive)[..., None].astype(np.float32)


def error_to_signal(y: np.ndarray, target: np.ndarray) -> float:
    return float(np.sum((y - target)[:, WARM_UP:] ** 2) / np.sum(target[:, WARM_UP:] ** 2))


def train(phrase: np.ndarray, n_steps: int = 9000, seed: int = 0) -> rnndsp.Filter:
    """Adam on the squared error, the learning rate falling as a cosine."""
    rng = np.random.default_rng(seed)
    model: rnndsp.Filter = LSTM(2, N_UNITS, seed=seed) >> Dense(N_UNITS, 1, seed=seed)
    first = {name: np.zeros_like(value) for name, value in model.params.items()}
    second = {name: np.zeros_like(value) for name, value in model.params.items()}
    started = time.perf_counter()
    for step in range(1, n_steps + 1):
        u, target = batch(phrase, rng, 24, 1600)
        tape = model.tape(u)
        error = tape.y - target
        error[:, :WARM_UP] = 0
        # each piece counts by its own level, or the quiet ones would never be learnt
        energy = np.mean(target[:, WARM_UP:] ** 2, axis=1, keepdims=True) + 1e-5
        gradient = tape.adjoint(2 * error / energy / error.size).params
        rate = 4e-3 * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / n_steps)))
        norm = np.sqrt(sum(float(np.sum(g**2)) for g in gradient.values()))
        changed = {}
        for name, g in gradient.items():
            g = g * min(1, 5 / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.99 * second[name] + 0.01 * g**2
            update = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
            changed[name] = model.params[name] - rate * update
        model = model.replace(**changed)
        if step % 100 == 0:
            print(
                f"step {step:5d}  ESR {error_to_signal(tape.y, target):.4f}  {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return model


if __name__ == "__main__":
    from guitar_phrase import render

    path = sys.argv[1] if len(sys.argv) > 1 else "overdrive.safetensors"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
    phrase = render(seed=7)  # other fingers than those of the demo
    model = train(phrase, steps)
    params = {name: value.astype(np.float32) for name, value in model.params.items()}
    amp = rnndsp.Knobs(model.replace(**params), {"drive": 0.5}).replace(sample_rate=SAMPLE_RATE)
    u, target = batch(render(seed=8), np.random.default_rng(99), 32, 9600)
    print(f"held-out ESR {error_to_signal(model(u), target):.4f}")
    amp.save(path, force=True)
    print(f"wrote {path}; {amp}")

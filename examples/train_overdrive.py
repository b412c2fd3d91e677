"""Teach an LSTM a small overdrive circuit, with the library's own back-propagation through time.

The circuit: a highpass, a gain set by the knob, an asymmetric clipper, a lowpass. The model: 12 LSTM units that hear
the signal and the knob, a read-out, and the dry signal added. The built-in filter ``overdrive`` was trained by this
script: ``python examples/train_overdrive.py overdrive.safetensors``, some minutes on a laptop.
"""

import sys

import numpy as np
from scipy import signal

import rnndsp
from rnndsp.filters import LSTM, Dense
from rnndsp.losses import squared
from rnndsp.training import evaluate

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


def pieces(phrase: np.ndarray, rng: np.random.Generator, n: int, n_frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the phrase, of noise and of sweeps, at random levels and knob settings: (signal and knob), target."""
    t = np.arange(n_frames) / SAMPLE_RATE
    dry = np.empty((n, n_frames))
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
    drive = rng.uniform(0, 1, (n, 1))
    target = circuit(dry, drive)
    target[:, :WARM_UP] = np.nan
    u = np.stack([dry, np.broadcast_to(drive, dry.shape)], axis=-1)
    return list(zip(u.astype(np.float32), target[..., None].astype(np.float32), strict=True))


def relative_error(y: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each piece counts by its own level, or the quiet ones would never be learnt."""
    values, dy = squared(y, target)
    energy = np.nanmean(target**2, axis=(1, 2)) + 1e-5
    return values / energy[:, None], dy / energy[:, None, None]


def error_to_signal(model: rnndsp.Filter, test: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return evaluate(model, test, squared) / float(np.mean([np.nanmean(target**2) for _, target in test]))


def train(phrase: np.ndarray, n_epochs: int = 90, seed: int = 0) -> rnndsp.Filter:
    """Adam on the relative error, on new pieces in every epoch."""
    return rnndsp.fit(
        LSTM(2, N_UNITS, seed=seed) >> Dense(N_UNITS, 1, seed=seed),
        lambda rng: pieces(phrase, rng, 2400, 1600),
        relative_error,
        validation=pieces(phrase, np.random.default_rng(seed), 100, 1600),
        n_epochs=n_epochs,
        batch_size=24,
        rate=4e-3,
        clip_norm=5,
        seed=seed,
        progress=lambda done, total, text: print(f"\r{done}/{total} {text}", end="", file=sys.stderr),
    ).filter


if __name__ == "__main__":
    from guitar_phrase import render

    path = sys.argv[1] if len(sys.argv) > 1 else "overdrive.safetensors"
    model = train(render(seed=7), *map(int, sys.argv[2:]))  # other fingers than those it is judged on
    params = {name: value.astype(np.float32) for name, value in model.params.items()}
    amp = rnndsp.Knobs(model.replace(**params), {"drive": 0.5}).replace(sample_rate=SAMPLE_RATE)
    held_out = pieces(render(seed=8), np.random.default_rng(99), 32, 9600)
    print(f"held-out ESR {error_to_signal(model, held_out):.4f}")
    amp.save(path, force=True)
    print(f"wrote {path}; {amp}")

"""Tasks that need a memory, learned by an orthogonal, a gated and a diagonal cell.

Copy memory, the adding problem, NARMA-10 and Mackey-Glass, made here, nothing is downloaded. Train one cell on one task
for so many seconds, on one thread, then draw what is in the folder::

    python examples/memory_tasks.py copy-200 diagonal 60
    python examples/memory_tasks.py plot memory_tasks.png

S. Hochreiter, J. Schmidhuber (1997), "Long short-term memory". A. Atiya, A. Parlos (2000), "New results on recurrent
network training". M. Mackey, L. Glass (1977), "Oscillation and chaos in physiological control systems".
"""

import json
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np

import rnndsp
from rnndsp.filters import GRU, Dense, Elman, fit_readout
from rnndsp.losses import Categorical, squared

CELLS = ("orthogonal", "gated", "diagonal")
TASKS = ("copy-200", "copy-750", "adding-200", "adding-750", "narma-10", "mackey-glass")
BATCH = 32  # sequences side by side
N_SYMBOLS, N_COPIED = 8, 10
BLANK, DELIMITER = N_SYMBOLS, N_SYMBOLS + 1
DELAY, STEPS = 17, 10  # of Mackey-Glass, in samples, and Runge-Kutta steps a sample
AHEAD = 84


# ---- the tasks: pairs of input and target, n sequences


def copying(rng, lag, n=BATCH):
    """Ten symbols out of eight, ``lag`` - 1 blanks, a delimiter, and from the frame after it the symbols again."""
    symbols = rng.integers(0, N_SYMBOLS, (n, N_COPIED))
    u = np.eye(N_SYMBOLS + 2, dtype=np.float32)[np.full((n, lag + 2 * N_COPIED), BLANK)]
    voice, place = np.arange(n)[:, None], np.arange(N_COPIED)
    u[:, :N_COPIED] = np.eye(N_SYMBOLS + 2)[symbols]
    u[:, lag + N_COPIED - 1] = np.eye(N_SYMBOLS + 2)[DELIMITER]
    target = np.eye(N_SYMBOLS + 1, dtype=np.float32)[np.full(u.shape[:2], BLANK)]
    target[voice, lag + N_COPIED + place] = np.eye(N_SYMBOLS + 1)[symbols]
    return list(zip(u, target, strict=True))


def adding(rng, n_frames, n=BATCH):
    """Noise within 0 and 1, and two marks, one in either half: their sum is wanted at the last frame."""
    u = np.zeros((n, n_frames, 2), np.float32)
    u[:, :, 0] = rng.uniform(0, 1, u.shape[:2])
    voice, half = np.arange(n), n_frames // 2
    for marked in (rng.integers(0, half, n), rng.integers(half, n_frames, n)):
        u[voice, marked, 1] = 1
    target = np.full((n, n_frames, 1), np.nan, np.float32)
    target[:, -1, 0] = np.sum(u[..., 0] * u[..., 1], axis=1)
    return list(zip(u, target, strict=True))


def narma(rng, n_frames, n=BATCH, unscored=50):
    """y[t] = 0.3 y[t-1] + 0.05 y[t-1] (y[t-1] + ... + y[t-10]) + 1.5 u[t-10] u[t-1] + 0.1; what diverges is redrawn."""
    u, y = rng.uniform(0, 0.5, (n, n_frames)), np.zeros((n, n_frames))
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(10, n_frames):
            past = y[:, t - 10 : t]
            y[:, t] = 0.3 * past[:, -1] + 0.05 * past[:, -1] * past.sum(axis=1) + 1.5 * u[:, t - 10] * u[:, t - 1] + 0.1
    wild = ~(np.abs(y).max(axis=1) < 1)
    pairs = [(4 * v[:, None] - 1, w[:, None]) for v, w in zip(u[~wild], y[~wild], strict=True)]
    for _, target in pairs:
        target[:unscored] = np.nan
    pairs = [(v.astype(np.float32), w.astype(np.float32)) for v, w in pairs]
    return pairs + narma(rng, n_frames, int(wild.sum()), unscored) if wild.any() else pairs


def mackey_glass(start, n_frames, delay=DELAY, steps=STEPS):
    """x' = 0.2 x(t - τ) / (1 + x(t - τ)^10) - 0.1 x, by Runge and Kutta; a delayed value in mid-step from its four
    neighbours. ``start`` is the value before time zero of each series, of which there are as many columns."""
    h, lag = 1 / steps, round(delay * steps)
    x = np.empty((lag + 1 + n_frames * steps, len(start)))
    x[: lag + 1] = start

    def slope(now, past):
        return 0.2 * past / (1 + past**10) - 0.1 * now

    for t in range(lag, len(x) - 1):
        before, first, last, after = x[max(t - lag - 1, 0)], x[t - lag], x[t - lag + 1], x[t - lag + 2]
        middle = (9 * (first + last) - before - after) / 16
        a = slope(x[t], first)
        b = slope(x[t] + h / 2 * a, middle)
        c = slope(x[t] + h / 2 * b, middle)
        x[t + 1] = x[t] + h / 6 * (a + 2 * b + 2 * c + slope(x[t] + h * c, last))
    return x[lag::steps]


@cache
def series(seed, n_series=16, n_frames=3000):
    """tanh(x - 1) as (n_frames, n_series), the first 1000 samples of each left out."""
    start = np.random.default_rng(seed).uniform(0.6, 1.3, n_series)
    return np.tanh(mackey_glass(start, n_frames + 1000)[1001:] - 1)


def forecasting(rng, n_frames, n=BATCH, seed=0, unscored=100):
    """Pieces of Mackey-Glass, and how much the next sample differs from each."""
    x = series(seed)
    starts, columns = rng.integers(0, len(x) - n_frames, n), rng.integers(0, x.shape[1], n)
    pairs = []
    for start, column in zip(starts, columns, strict=True):
        piece = x[start : start + n_frames + 1, column, None]
        target = np.diff(piece, axis=0)
        target[:unscored] = np.nan
        pairs.append((piece[:-1].astype(np.float32), target.astype(np.float32)))
    return pairs


# ---- the cells


def rotating(n_inputs, n, rng, *, recurrence, memory=np.inf, activation="identity"):
    """A cell whose U turns n/2 planes by angles over the whole circle; with "oscillating" it fades in ``memory``."""
    cell = Elman(n_inputs, n, activation=activation, recurrence=recurrence, seed=rng)
    angles = rng.uniform(0, np.pi, n // 2)
    if recurrence == "oscillating":
        return cell.replace(U_modes=np.append(np.full(n // 2, -np.log(memory)), angles)[None])
    S = np.zeros((n, n))
    S[np.arange(1, n, 2), np.arange(0, n, 2)] = angles
    return cell.replace(U_skew=S[np.tril_indices(n, -1)][None])


def gated(n_inputs, n, rng, *, memory=None):
    """A GRU; biases of its update gate for time constants up to ``memory`` (Tallec & Ollivier 2018, "Can recurrent
    neural networks warp time?")."""
    cell = GRU(n_inputs, n, seed=rng)
    if memory is None:
        return cell
    b = cell.params["b"].copy()
    b[n : 2 * n] = np.log(rng.uniform(1, memory, n))
    return cell.replace(b=b)


def louder(cell, gain):
    return cell.replace(W=gain * cell.params["W"])


def recipe(task, cell, rng):
    """Filter, data of an epoch, loss, number of epochs and rate."""
    name, _, length = task.partition("-")
    if name == "copy":
        lag, n = int(length), 128
        recurrent = {
            "orthogonal": lambda: louder(rotating(10, n, rng, recurrence="orthogonal"), 4),
            "gated": lambda: gated(10, n, rng, memory=lag),
            "diagonal": lambda: rotating(10, n, rng, recurrence="oscillating", memory=10 * lag),
        }[cell]()
        filt = recurrent >> Dense(n, N_SYMBOLS + 1, seed=rng)
        rate = 2e-3 if cell == "gated" else 1e-3 * (200 / lag) ** 0.5
        n_epochs = 200 if lag < 500 else 120
        return filt, lambda rng, n: copying(rng, lag, n), Categorical(), n_epochs, rate
    if name == "adding":
        n_frames, n = int(length), 64
        if cell == "orthogonal":
            # reflections in pairs make U = I; the longer their vectors, the less a step turns it
            pairs = n_frames / 25 * np.repeat(rng.standard_normal((n // 4, n // 2)), 2, axis=0)
            hidden = Elman(n // 2, n // 2, activation="identity", recurrence="householder", seed=rng)
            hidden = louder(hidden, 10 / n_frames).replace(U_mirrors=pairs[None])
            filt = Dense(2, n // 2, activation="relu", seed=rng) >> hidden >> Dense(n // 2, 1, seed=rng)
            rate = 3e-3
        elif cell == "gated":
            cell = gated(2, n, rng, memory=n_frames if n_frames > 500 else None)
            filt, rate = cell >> Dense(n, 1, seed=rng), 3e-3
        else:
            first = Elman(2, n, activation="relu", recurrence="diagonal", seed=rng)
            second = Elman(n, n, activation="relu", recurrence="stable_diagonal", seed=rng)
            first = first.replace(U=rng.uniform(0, 1, n))
            # half-lives of the length of the sequence and more
            rates = np.arctanh(rng.uniform(0.5, 1, n) ** (1 / n_frames))
            second = louder(second, 10 / n_frames).replace(U_rates=rates)
            filt, rate = first >> second >> Dense(n, 1, seed=rng), 2e-3
        return filt, lambda rng, n: adding(rng, n_frames, n), squared, 300, rate
    n = 64
    if cell == "orthogonal":
        n, loud = (64, 0.3) if task == "narma-10" else (200, 0.5)
        reservoir = Elman(1, n, recurrence="orthogonal", seed=rng)
        W, b = rng.uniform(-loud, loud, (n, 1)), rng.uniform(-0.2, 0.2, n)
        recurrent = reservoir.replace(W=W, b=b) >> Dense(n, 1, seed=rng)
    elif cell == "gated":
        recurrent = gated(1, n, rng) >> Dense(n, 1, seed=rng)
    else:
        turning = rotating(1, n, rng, recurrence="oscillating", memory=20)
        recurrent = turning >> Dense(n, n, activation="tanh", seed=rng) >> Dense(n, 1, seed=rng)
    if task == "narma-10":
        return recurrent, lambda rng, n: narma(rng, 300, n), squared, 400, 4e-3
    return recurrent, lambda rng, n: forecasting(rng, 400, n), squared, 300, 3e-3


# ---- what is measured


def floor(task):
    """The loss of those who remember nothing: who guess symbols, or always answer with the mean."""
    name, _, length = task.partition("-")
    if name == "copy":
        return N_COPIED * np.log(N_SYMBOLS) / (int(length) + 2 * N_COPIED)
    if name == "adding":
        return 1 / 6
    pairs = narma(np.random.default_rng(99), 2000) if name == "narma" else forecasting(np.random.default_rng(99), 2000)
    return float(np.nanvar(np.concatenate([target for _, target in pairs])))


def free_run(filt, u, n_listened, n_ahead=AHEAD):
    """What it forecasts of the signals ``u`` from where it listened to so many of their samples."""
    step, state = filt.run(u[:, :n_listened])
    values = [u[:, n_listened - 1 : n_listened] + step[:, -1:]]
    for _ in range(n_ahead - 1):
        step, state = filt.run(values[-1], state)
        values.append(values[-1] + step)
    return np.concatenate(values, axis=1)


def nrmse_ahead(filt, seed, n=64, n_listened=500):
    pairs = forecasting(np.random.default_rng(seed), n_listened + AHEAD, n, seed=seed)
    u = np.array([u for u, _ in pairs], np.float64)
    found = free_run(filt, u, n_listened)[:, -1] - u[:, -1]
    return float(np.sqrt(np.mean(found**2) / np.var(series(seed))))


def scores(task, filt, loss):
    """Measures on data it has never seen."""
    rng = np.random.default_rng(2026)
    if task.startswith("copy"):
        pairs = copying(rng, int(task[5:]), 500)
        y = filt(np.array([u for u, _ in pairs]))
        wanted = np.array([target for _, target in pairs])[:, -N_COPIED:].argmax(axis=-1)
        right = float(np.mean(y[:, -N_COPIED:].argmax(axis=-1) == wanted))
        return {"cross-entropy": rnndsp.training.evaluate(filt, pairs, loss), "symbols right": right}
    if task.startswith("adding"):
        return {"MSE": rnndsp.training.evaluate(filt, adding(rng, int(task[7:]), 1000), loss)}
    if task == "narma-10":
        pairs = narma(rng, 2050, 20)
        variance = np.nanvar(np.concatenate([target for _, target in pairs]))
        return {"NRMSE": float((rnndsp.training.evaluate(filt, pairs, loss) / variance) ** 0.5)}
    one = rnndsp.training.evaluate(filt, forecasting(rng, 1000, 32, seed=99), loss)
    return {"NRMSE of 1 step": float((one / np.var(series(99))) ** 0.5), f"NRMSE of {AHEAD}": nrmse_ahead(filt, 99)}


def read_out(task, filt):
    """The last layer once more, by ridge regression: of Mackey-Glass with the ridge that runs best on its own."""
    rng = np.random.default_rng(7)
    if task == "narma-10":
        return fit_readout(filt, narma(rng, 2000, 16), validation=narma(rng, 2000, 4)).filter
    pairs = forecasting(rng, 2000, 16)
    tried = [fit_readout(filt, pairs, ridge=10.0**k).filter for k in range(-9, -2)]
    return min(tried, key=lambda filt: np.nan_to_num(nrmse_ahead(filt, 98), nan=np.inf))


def train(task, cell, limit_s, seed=0):
    filt, draw, loss, n_epochs, rate = recipe(task, cell, np.random.default_rng(seed))
    began, busy = time.perf_counter(), time.process_time()
    done = rnndsp.fit(
        filt,
        lambda rng: draw(rng, 10 * BATCH),
        loss,
        n_epochs=n_epochs,
        batch_size=BATCH,
        rate=rate,
        time_limit_s=limit_s,
        n_shards=1,
        seed=seed,
    )
    found = {"task": task, "cell": cell, "of": n_epochs, "stopped": done.stopped, "rate": rate}
    found |= {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - busy}
    found |= {"losses": [epoch.loss for epoch in done.history], "floor": floor(task)}
    found["scores"] = scores(task, done.filter, loss)
    if task in ("narma-10", "mackey-glass"):
        for when, trained in (("ridge", done.filter), ("untrained, ridge", filt)):
            found["scores"] |= {f"{k}, {when}": v for k, v in scores(task, read_out(task, trained), loss).items()}
    return found


def plot(target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    looks = dict(zip(CELLS, (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-.")), strict=True))
    for task, ax in zip(TASKS, axes.T.flat, strict=True):
        level = floor(task)
        lines = [ax.axhline(level, color="#333333", linewidth=1, linestyle=":", label="remembers nothing")]
        for cell, (colour, style) in looks.items():
            path = Path(f"{task}-{cell}.json")
            losses = json.loads(path.read_text())["losses"] if path.exists() else []
            lines += ax.plot(np.arange(1, len(losses) + 1), losses, style, color=colour, label=cell)
        said = "cross-entropy (nats)" if task.startswith("copy") else "mean squared error"
        ax.set(yscale="log", title=task, xlabel="epoch of 320 sequences", ylabel=said)
        ax.set_ylim(top=3 * level)
        ax.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    figure.savefig(target, dpi=80)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "plot":
        plot(sys.argv[2] if len(sys.argv) > 2 else "memory_tasks.png")
    elif len(sys.argv) < 3 or sys.argv[1] not in TASKS or sys.argv[2] not in CELLS:
        sys.exit(f"usage: memory_tasks.py {{{','.join(TASKS)}}} {{{','.join(CELLS)}}} [SECONDS]")
    else:
        found = train(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 600.0)
        Path(f"{found['task']}-{found['cell']}.json").write_text(json.dumps(found))
        measured = ", ".join(f"{name} {value:.3g}" for name, value in found["scores"].items())
        print(f"{found['task']} {found['cell']}: {len(found['losses'])} of {found['of']} epochs; {measured}")

"""Training. Oracles: PyTorch's AdamW, the same in a few lines of NumPy, closed forms, differences, runs cut short."""

import _thread
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from rnndsp import Feedback, FormatError, NonFiniteError, Parallel, ParameterError, fit, gain, load
from rnndsp.filters import GRU, LSTM, NADE, Dense, Elman
from rnndsp.losses import Gaussian, bernoulli, squared
from rnndsp.optimizers import SGD, Adam, RMSprop, schedule
from rnndsp.training import evaluate

LENGTHS = (7, 4, 9, 1, 6, 8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def examples(lengths=LENGTHS, n_inputs=2, n_outputs=1, seed=0, dtype=np.float64):
    """Noise to noise; the first target of each sequence is a number of its own, to know it by."""
    rng = np.random.default_rng(seed)
    pairs = [(rng.standard_normal((n, n_inputs)), rng.standard_normal((n, n_outputs))) for n in lengths]
    return [(u.astype(dtype), x.astype(dtype)) for u, x in pairs]


def small(seed=0, dtype=np.float64):
    filt = Elman(2, 3, seed=seed) >> Dense(3, 1, seed=seed)
    return filt.replace(**{name: value.astype(dtype) for name, value in filt.params.items()})


def losses(found):
    return [(epoch.loss, epoch.validation) for epoch in found.history]


def assert_same(found, expected):
    """Equal to the bit; only the seconds may differ."""
    np.testing.assert_array_equal(losses(found), losses(expected))
    assert found.best == expected.best
    for name, value in expected.filter.params.items():
        assert found.filter.params[name].dtype == value.dtype
        np.testing.assert_array_equal(found.filter.params[name], value)


# ---- steps


SETTINGS = {"n_epochs": 3, "batch_size": 2, "rate": 0.03, "weight_decay": 0.1, "clip_norm": 0.2}


def deep():
    filt = LSTM(2, 4, seed=1) >> Dense(4, 1, seed=2)
    return filt.replace(**{"0.b": 0.3 * noise(16)})


def watched(loss):
    """A loss that writes down which sequences it saw, call by call."""
    seen = []

    @functools.wraps(loss)
    def watching(y, target):
        seen.extend(target[:, 0, 0].tolist())
        return loss(y, target)

    return watching, seen


def in_batches(seen, pairs, batch_size):
    place = {pair[1][0, 0]: i for i, pair in enumerate(pairs)}
    order = [place[mark] for mark in seen]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def rates(total, rate):
    return [rate / 50 + (rate - rate / 50) * (1 + np.cos(np.pi * t / total)) / 2 for t in range(total)]


def test_steps_are_those_of_numpy():
    """Adam as Kingma & Ba write it, decay as Loshchilov & Hutter do; every sequence alone, without padding."""
    filt, pairs = deep(), examples()
    loss, seen = watched(squared)
    found = fit(filt, pairs, loss, seed=5, **SETTINGS)
    batches = in_batches(seen, pairs, 2)
    assert len(batches) == 9
    theta = {name: np.array(value) for name, value in filt.params.items()}
    m = {name: np.zeros(value.shape) for name, value in theta.items()}
    v = {name: np.zeros(value.shape) for name, value in theta.items()}
    norms, sums = [], np.zeros(3)
    for t, (batch, eta) in enumerate(zip(batches, rates(9, 0.03), strict=True), 1):
        g = {name: np.zeros(value.shape) for name, value in theta.items()}
        n_frames = sum(len(pairs[i][0]) for i in batch)
        for i in batch:
            tape = filt.replace(**theta).tape(pairs[i][0])
            sums[(t - 1) // 3] += np.sum((tape.y - pairs[i][1]) ** 2)
            for name, value in tape.adjoint(2 * (tape.y - pairs[i][1]) / n_frames).params.items():
                g[name] += value
        norms.append(np.linalg.norm(np.concatenate([value.ravel() for value in g.values()])))
        for name in theta:
            g[name] *= min(1, 0.2 / norms[-1])
            m[name] = 0.9 * m[name] + 0.1 * g[name]
            v[name] = 0.99 * v[name] + 0.01 * g[name] ** 2
            step = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.99**t)) + 1e-8)
            theta[name] = theta[name] - eta * 0.1 * theta[name] - eta * step
    assert max(norms) > 0.2
    for name, value in theta.items():
        np.testing.assert_allclose(found.filter.params[name], value, rtol=0, atol=1e-11)
    np.testing.assert_allclose([epoch.loss for epoch in found.history], sums / sum(LENGTHS), rtol=1e-11)
    assert found.best == 3 and np.isnan(losses(found)).tolist() == [[False, True]] * 3


def test_steps_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    filt, pairs = deep(), examples()
    loss, seen = watched(squared)
    found = fit(filt, pairs, loss, seed=5, **SETTINGS)
    lstm, linear = torch.nn.LSTM(2, 4, batch_first=True).double(), torch.nn.Linear(4, 1).double()
    leaves = {
        "0.W": lstm.weight_ih_l0,
        "0.U": lstm.weight_hh_l0,
        "0.b": lstm.bias_ih_l0,  # we have one bias, torch has two
        "1.W": linear.weight,
        "1.b": linear.bias,
    }
    with torch.no_grad():
        lstm.bias_hh_l0.zero_()
        for name, leaf in leaves.items():
            leaf.copy_(torch.tensor(np.array(filt.params[name])))
    batches = in_batches(seen, pairs, 2)
    adam = torch.optim.AdamW(leaves.values(), lr=0.03, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=len(batches), eta_min=0.03 / 50)
    clipped = 0
    for batch in batches:
        adam.zero_grad()
        total = sum(
            torch.sum((linear(lstm(torch.tensor(u)[None])[0])[0] - torch.tensor(x)) ** 2)
            for u, x in (pairs[i] for i in batch)
        )
        (total / sum(len(pairs[i][0]) for i in batch)).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(leaves.values(), np.inf))
        # torch divides by the norm + 1e-6
        torch.nn.utils.clip_grad_norm_(leaves.values(), 0.2 * (norm + 1e-6) / norm)
        clipped += norm > 0.2
        adam.step()
        schedule.step()
    assert clipped > 0
    for name, leaf in leaves.items():
        np.testing.assert_allclose(found.filter.params[name], leaf.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (Adam(beta1=0.8, beta2=0.95, epsilon=1e-3), "Adam", {"betas": (0.8, 0.95), "eps": 1e-3}),
        (RMSprop(), "RMSprop", {}),
        (RMSprop(alpha=0.9, momentum=0.7, epsilon=1e-3), "RMSprop", {"alpha": 0.9, "momentum": 0.7, "eps": 1e-3}),
        (SGD(), "SGD", {"momentum": 0.9}),
        (SGD(momentum=0.6, nesterov=True), "SGD", {"momentum": 0.6, "nesterov": True}),
    ],
)
def test_directions_are_those_of_torch(ours, theirs, settings):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = noise(5)
    leaf = torch.tensor(x, requires_grad=True)
    optimizer = getattr(torch.optim, theirs)([leaf], lr=0.01, **settings)
    memory = {slot: np.zeros(5) for slot in ours.slots}
    for k, g in enumerate(noise(9, 5, seed=1), 1):
        leaf.grad = torch.tensor(g)
        optimizer.step()
        direction, memory = ours.direction(g, memory, k)
        assert memory.keys() == set(ours.slots)
        x = x - 0.01 * direction
        np.testing.assert_allclose(x, leaf.detach(), rtol=1e-12)


def test_schedules():
    for name in ("cosine", "exponential", "linear"):
        share = schedule(name, warm_up=0.2)
        np.testing.assert_allclose([share(0.1), share(0.2), share(1)], [0.5, 1, 1 / 50])
        assert np.all(np.diff([share(t) for t in np.linspace(0.2, 1, 9)]) < 0)
    assert schedule("constant")(0.7) == 1
    slow, fast = (train("data", schedule=lambda done, k=k: k, rate=r) for k, r in ((0.5, 0.1), (1.0, 0.05)))
    np.testing.assert_allclose(losses(slow), losses(fast), rtol=1e-12)


def test_truncated_is_a_step_a_piece_while_the_state_goes_on():
    filt, ((u, x),) = small(), examples([8])
    found = fit(filt, [(u, x)], squared, n_epochs=1, rate=0.05, schedule="constant", truncate=3, optimizer=SGD(0.0))
    state = None
    for frames in (slice(3), slice(3, 6), slice(6, 8)):
        tape = filt.tape(u[frames], state)
        values, dy = squared(tape.y[None], x[None, frames])
        g = tape.adjoint(dy[0] / values.size).params
        scale = min(1, 1 / np.sqrt(sum(np.sum(value**2) for value in g.values())))
        filt = filt.replace(**{name: value - 0.05 * scale * g[name] for name, value in filt.params.items()})
        state = tape.state
    for name, value in filt.params.items():
        np.testing.assert_allclose(found.filter.params[name], value, rtol=1e-12)


def test_pieces_without_a_target_only_move_the_state():
    u, x = noise(9, 2), noise(9, 1, seed=1)
    x[:6] = np.nan
    found = fit(small(), [(u, x)], squared, n_epochs=1, rate=0.05, truncate=3, optimizer=SGD(0.0))
    _, state = small().run(u[:6])
    tape = small().tape(u[6:], state)
    g = tape.adjoint(2 * (tape.y - x[6:]) / 3).params
    norm = np.sqrt(sum(np.sum(value**2) for value in g.values()))
    for name, value in small().params.items():
        np.testing.assert_allclose(found.filter.params[name], value - 0.05 * min(1, 1 / norm) * g[name], rtol=1e-12)


def test_numbers_of_the_gradient_are_clipped():
    pairs = [(np.ones((4, 2)), np.full((4, 1), 100.0))]
    settings = {"n_epochs": 1, "schedule": "constant", "optimizer": SGD(), "rate": 1.0}
    found = fit(Dense(2, 1), pairs, squared, clip_value=1e-3, clip_norm=1e9, **settings)
    for name, value in Dense(2, 1).params.items():
        np.testing.assert_allclose(found.filter.params[name], value + 1e-3, rtol=1e-12)


def test_what_is_kept_holds_at_every_step():
    def in_range(filt):
        return filt.replace(W=np.clip(filt.params["W"], -0.5, 0.5), b=np.zeros(1))

    pairs = [(noise(20, 2), 5 * noise(20, 1, seed=1))]
    found = fit(Dense(2, 1), pairs, squared, n_epochs=30, rate=0.1, keep=in_range)
    assert np.max(np.abs(found.filter.params["W"])) <= 0.5 and found.filter.params["b"] == 0
    with pytest.raises(ParameterError, match="keep"):
        fit(Dense(2, 1), pairs, squared, n_epochs=1, keep=lambda filt: Dense(3, 1))


@pytest.mark.parametrize("settings", [{"n_shards": 1}, {"n_shards": 5}])
def test_shards_are_a_matter_of_rounding(settings):
    np.testing.assert_allclose(losses(train("data", batch_size=6, **settings)), losses(train("data", batch_size=6)))


def test_fewer_states_on_the_tape_change_no_bit():
    long = [(noise(2500, 2), noise(2500, 1, seed=1))]
    both = (train("data", data=long, n_epochs=2, kept_states=kept) for kept in (None, 1))
    assert_same(*both)


def test_time_runs_out():
    found = train("data", n_epochs=10**6, time_limit_s=0.3)
    assert found.stopped == "0.3 seconds are over" and 0 < len(found.history) < 10**6
    assert train("data").stopped == ""


def test_a_loss_with_other_targets():
    """Means and scales of two channels from four outputs: those of noise around a line."""
    u = noise(400, 1)
    x = np.concatenate([u + 0.1 * noise(400, 1, seed=1), 2 + 0.5 * noise(400, 1, seed=2)], axis=1)
    filt = Dense(1, 4)
    found = fit(filt, [(u, x)], Gaussian(), n_epochs=400, rate=0.1, clip_norm=100).filter
    deviations = np.std(x - np.concatenate([u, np.full((400, 1), 2)], axis=1), axis=0)
    np.testing.assert_allclose(found(np.zeros((1, 1)))[0], [0, 2, *np.log(deviations)], atol=0.05)
    with pytest.raises(ParameterError, match="takes 2 targets"):
        fit(filt, [(u, np.zeros((400, 4)))], Gaussian())


def test_the_first_step_is_the_rate_by_the_sign():
    filt, pairs = small(), examples([5])
    found = fit(filt, pairs, squared, n_epochs=1, rate=0.01)
    tape = filt.tape(pairs[0][0])
    gradient = tape.adjoint(tape.y - pairs[0][1]).params
    for name, value in filt.params.items():
        np.testing.assert_allclose(found.filter.params[name], value - 0.01 * np.sign(gradient[name]), atol=1e-7)
    assert abs(found.history[0].loss - evaluate(filt, pairs, squared)) < 1e-14


def test_every_sequence_comes_once_an_epoch():
    pairs = examples([int(n) for n in np.random.default_rng(0).integers(1, 9, 11)])
    loss, seen = watched(squared)
    fit(small(), pairs, loss, n_epochs=4, batch_size=3)
    orders = np.reshape(seen, (4, 11))
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.sort([x[0, 0] for _, x in pairs]), (4, 1)))
    assert len({tuple(order) for order in orders}) == 4


def test_padding_and_frames_without_target_weigh_nothing():
    pairs = examples()
    filt = GRU(2, 4, seed=1) >> Dense(4, 1, seed=2)
    longer = [
        (np.concatenate([u, 9 * noise(15 - len(u), 2)]), np.pad(x, ((0, 15 - len(u)), (0, 0)), constant_values=np.nan))
        for u, x in pairs
    ]
    settings = {"n_epochs": 4, "batch_size": 6, "rate": 0.03}
    short, long = (fit(filt, data, squared, **settings).filter for data in (pairs, longer))
    for name, value in short.params.items():
        np.testing.assert_allclose(long.params[name], value, rtol=0, atol=1e-10)
    assert abs(evaluate(filt, pairs, squared) - evaluate(filt, longer, squared)) < 1e-14


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_mean_over_equal_sequences_is_that_of_one(batch_size):
    """Whatever the cut into shards."""
    (pair,) = examples([6])
    one = fit(small(), [pair], squared, n_epochs=1, rate=0.01)
    many = fit(small(), [pair] * batch_size, squared, n_epochs=1, batch_size=batch_size, rate=0.01)
    for name, value in one.filter.params.items():
        np.testing.assert_allclose(many.filter.params[name], value, rtol=0, atol=1e-9)


def test_a_frame_counts_where_any_channel_is_scored():
    filt, u = Dense(1, 2).replace(W=np.zeros((2, 1))), np.zeros((4, 1))
    x = np.array([[1, 2], [np.nan, 3], [np.nan, np.nan], [4, np.nan]])
    assert evaluate(filt, [(u, x), (u[:1], x[:1])], squared) == (5 + 9 + 16 + 5) / 4


# ---- closed forms


def test_regression_reaches_least_squares():
    u, rng = noise(60, 3), np.random.default_rng(1)
    x = u @ np.array([[1.0, -0.5], [0.3, 2.0], [0.0, 0.7]]) + [0.4, -1] + 0.3 * rng.standard_normal((60, 2))
    expected, residual, *_ = np.linalg.lstsq(np.hstack([u, np.ones((60, 1))]), x)
    pairs = [(u[:25], x[:25]), (u[25:40], x[25:40]), (u[40:], x[40:])]
    found = fit(Dense(3, 2), pairs, squared, n_epochs=400, rate=0.1, clip_norm=100)
    np.testing.assert_allclose(found.filter.params["W"], expected[:3].T, atol=1e-5)
    np.testing.assert_allclose(found.filter.params["b"], expected[3], atol=1e-5)
    assert abs(evaluate(found.filter, pairs, squared) - residual.sum() / 60) < 1e-9


def test_a_pole_is_found():
    truth = Elman(1, 1, activation="identity").replace(W=[[0.5]], U=[[0.8]])
    pairs = [(u, truth(u)) for u in noise(6, 60, 1)]
    found = fit(truth.replace(W=[[0.1]], U=[[0.0]]), pairs, squared, n_epochs=200, rate=0.05)
    assert abs(found.filter.poles()[0] - 0.8) < 1e-3
    np.testing.assert_allclose(found.filter.params["W"], [[0.5]], atol=1e-3)


def test_independent_bits_cost_their_entropy():
    p, bits = np.array([0.1, 0.5, 0.8]), np.random.default_rng(0).random((500, 3)) < [0.15, 0.5, 0.7]
    k, u = bits.mean(axis=0), np.zeros((500, 1))
    cross = -np.sum(k * np.log(p) + (1 - k) * np.log(1 - p))
    filt = Dense(1, 3).replace(b=np.log(p / (1 - p)))
    pairs = [(u[:100], bits[:100].astype(float)), (u[100:], bits[100:].astype(float))]
    assert abs(evaluate(filt, pairs, bernoulli) - cross) < 1e-13
    single = [(v.astype(np.float32), x.astype(np.float32)) for v, x in pairs]
    assert abs(evaluate(filt, single, bernoulli) - cross) < 1e-6
    # and the best that can be learnt is the entropy of what was counted
    found = fit(filt, pairs, bernoulli, n_epochs=200, rate=0.1)
    np.testing.assert_allclose(expit(found.filter.params["b"]), k, atol=1e-5)
    entropy = -np.sum(k * np.log(k) + (1 - k) * np.log(1 - k))
    assert abs(evaluate(found.filter, pairs, bernoulli) - entropy) < 1e-9


def test_the_head_learns_that_bits_go_together():
    """Of four notes always exactly one: log 4 nats a frame, where apart they cost 4 H(1/4)."""
    bits = np.eye(4)[np.arange(400) % 4]
    pairs = [(np.hstack([np.zeros((400, 1)), bits]), bits)]
    found = fit(NADE(Dense(1, 4), n_hidden=0), pairs, bernoulli, n_epochs=300, rate=0.3, clip_norm=10)
    assert abs(evaluate(found.filter, pairs, bernoulli) - np.log(4)) < 0.01


# ---- reproducible, interrupted, resumed


PER_EPOCH = 3


def augmented(rng):
    return [(u + 0.1 * rng.standard_normal(u.shape), x) for u, x in examples()]


def rounded(filt):
    return filt.replace(**{name: np.round(value, 3) for name, value in filt.params.items()})


RUNS = {
    "data": {"data": examples()},
    "function": {"data": augmented},
    "validation": {"data": examples(), "validation": examples([5, 9], seed=8)},
    "patience": {"data": augmented, "validation": examples([5, 9], seed=8), "patience": 3, "n_epochs": 12},
    "single precision": {"data": examples(dtype=np.float32), "validation": examples([5], seed=8, dtype=np.float32)},
    "pieces": {"data": examples(), "truncate": 3, "optimizer": SGD(nesterov=True), "schedule": "linear"},
    "projected": {"data": examples(), "keep": rounded, "optimizer": RMSprop(momentum=0.5), "clip_value": 0.1},
}


def train(run, **settings):
    settings = {"n_epochs": 5, "batch_size": 2, "rate": 0.05, "weight_decay": 0.01, **RUNS[run], **settings}
    return fit(settings.pop("filt", small()), settings.pop("data"), settings.pop("loss", squared), **settings)


class StopError(Exception):
    pass


def stop_after(n):
    calls = []

    def progress(done, total, text):
        calls.append(done)
        if len(calls) == n:
            raise StopError

    return progress


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.safetensors"


def test_two_runs_are_equal_to_the_bit():
    for run in RUNS:
        assert_same(train(run), train(run))
    assert losses(train("data", seed=1)) != losses(train("data"))
    assert losses(train("function", seed=1))[0] != losses(train("function"))[0]


@pytest.mark.parametrize("run", RUNS)
def test_resumed_is_uninterrupted(run, path):
    whole = train(run)
    # within the first epoch, at the end of one before it is written, and several times within the later ones
    for n in (2, 3, 4, 4):
        with pytest.raises(StopError):
            train(run, checkpoint=path, progress=stop_after(n))
    n_before = len(checkpointed(path))
    assert n_before == 2
    calls = []
    assert_same(train(run, checkpoint=path, progress=lambda *call: calls.append(call)), whole)
    assert calls[0][0] == PER_EPOCH * n_before + 1 and calls[0][2].startswith("epoch 2: loss")
    # and once more, with nothing left to do
    before, calls = path.read_bytes(), []
    assert_same(train(run, checkpoint=path, progress=lambda *call: calls.append(call)), whole)
    assert len(calls) == 1 and calls[0][0] == calls[0][1] and path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def checkpointed(path):
    """The history that a checkpoint holds."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["checkpoint"])["history"]


def test_a_function_is_asked_once_an_epoch():
    drawn = [[], [], []]
    for numbers, seed in zip(drawn, (0, 0, 1), strict=True):

        def data(rng, numbers=numbers):
            numbers.append(rng.random())
            return examples()

        train("data", data=data, seed=seed)
    assert drawn[0] == drawn[1] and len({*drawn[0], *drawn[2]}) == 10


def test_a_checkpoint_changes_nothing(path):
    assert_same(train("validation", checkpoint=path), train("validation"))


KILLED = """
import sys, time
sys.path[:] = {paths!r}
from test_training import train

def slowly(done, total, text):
    print(done, flush=True)
    time.sleep(0.02)

train({run!r}, checkpoint={path!r}, progress=slowly)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_and_resumed(path):
    code = KILLED.format(paths=[str(Path(__file__).parent), *sys.path], run="validation", path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) > 2 * PER_EPOCH:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(checkpointed(path)) < 5
    calls = []
    assert_same(train("validation", checkpoint=path, progress=lambda *call: calls.append(call)), train("validation"))
    assert calls[0][0] == PER_EPOCH * 2 + 1


def spoiled(loss, when, spoil):
    """A loss that does something at its call number ``when``; of the same name, so that checkpoints fit."""
    calls = []

    @functools.wraps(loss)
    def spoiling(y, target):
        calls.append(1)
        values, dy = loss(y, target)
        return spoil(values, dy) if len(calls) == when else (values, dy)

    return spoiling


def interrupt(values, dy):
    _thread.interrupt_main()
    time.sleep(0.05)
    return values, dy


def fail(values, dy):
    raise StopError("in a shard")


@pytest.mark.parametrize(("spoil", "error"), [(interrupt, KeyboardInterrupt), (fail, StopError)])
def test_interrupted_inside_a_batch(spoil, error, path):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner may ignore it
    try:
        # 6 sequences an epoch, each a call
        with pytest.raises(error):
            train("data", checkpoint=path, loss=spoiled(squared, 15, spoil))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(checkpointed(path)) == 2
    assert_same(train("data", checkpoint=path), train("data"))


def test_trainings_side_by_side():
    filt = LSTM(2, 3, recurrence="orthogonal") >> Dense(3, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: train("data", filt=filt, seed=seed), [0, 1, 0, 1]))
    for seed in (0, 1):
        alone = train("data", filt=filt, seed=seed)
        assert_same(found[seed], alone)
        assert_same(found[seed + 2], alone)


# ---- whose checkpoint it is


@pytest.mark.parametrize(
    "changes",
    [
        {"data": examples(seed=1)},
        {"data": examples()[:5]},
        {"data": augmented},
        {"validation": examples([5, 9], seed=9)},
        {"validation": ()},
        {"filt": small(seed=1)},
        {"filt": LSTM(2, 3) >> Dense(3, 1)},
        {"loss": bernoulli},
        {"n_epochs": 6},
        {"batch_size": 3},
        {"rate": 0.04},
        {"weight_decay": 0.0},
        {"clip_norm": 2.0},
        {"seed": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_another_training_is_refused(changes, path):
    train("validation", checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ParameterError, match="another training"):
        train("validation", checkpoint=path, **changes)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_split_is_refused(path):
    pairs = examples()
    fit(small(), pairs[:5], squared, validation=pairs[5:], n_epochs=1, checkpoint=path)
    with pytest.raises(ParameterError, match="another training"):
        fit(small(), pairs[:4], squared, validation=pairs[4:], n_epochs=1, checkpoint=path)


def test_a_checkpoint_of_other_shapes_is_refused(path):
    zeros = np.zeros((10, 2)), np.zeros((10, 1))
    fit(small(), [zeros], squared, n_epochs=1, checkpoint=path)
    with pytest.raises(ParameterError, match="another training"):
        fit(small(), [(zeros[0][:4], zeros[1][:4]), (zeros[0][4:], zeros[1][4:])], squared, n_epochs=1, checkpoint=path)


def test_other_files_are_refused_and_left_alone(path):
    train("data", checkpoint=path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    cases = [whole[:n] for n in (0, 1, 7, 8, 20, header - 1, header, header + 3, len(whole) - 1)]
    cases += [whole + b"x", b"\0" * len(whole), whole.replace(b'"label', b'"lapel'), whole.replace(b"best", b"rest")]
    cases += [whole.replace(b"first/0.W", b"first/9.W"), whole.replace(b"n_steps", b"n_stops")]
    small().save(path, force=True)
    cases.append(path.read_bytes())
    for data in cases:
        path.write_bytes(data)
        with pytest.raises((FormatError, ParameterError)) as caught:
            train("data", checkpoint=path)
        assert caught.type is (ParameterError if b"lapel" in data else FormatError)
        assert path.read_bytes() == data
    with pytest.raises(FormatError, match="holds no rnndsp checkpoint"):
        train("data", checkpoint=path)
    train("data", checkpoint=path.with_name("new.safetensors"))
    with pytest.raises(FormatError, match="holds no rnndsp filter"):
        load(path.with_name("new.safetensors"))


def tampered(path, **changes):
    """Change the description, or a tensor, of a checkpoint by hand."""
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    description = json.loads(header["__metadata__"]["checkpoint"])
    body = bytearray(data[end:])
    for name, value in changes.items():
        if "/" in name:
            start, stop = header[name]["data_offsets"]
            body[start:stop] = np.full((stop - start) // 8, value).tobytes()
        else:
            description[name] = value
    header["__metadata__"]["checkpoint"] = json.dumps(description)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def halfway(path):
    with pytest.raises(StopError):
        train("data", checkpoint=path, progress=stop_after(PER_EPOCH + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"history": None},
        {"history": [[1.0, 2.0]]},
        {"history": [["a", 1, 1]]},
        {"n_steps": "many"},
        {"n_steps": None},
        {"n_steps": -1},
        {"n_steps": float("inf")},
        {"best": []},
        {"best": 100},
        {"least": "few"},
        {"params/0.W": np.nan},
        {"kept/0.W": np.nan},
        {"second/0.W": np.nan},
        {"second/0.W": -1.0},
    ],
    ids=str,
)
def test_a_damaged_checkpoint_is_named(changes, path):
    halfway(path)
    tampered(path, **changes)
    before = path.read_bytes()
    if not changes:
        assert_same(train("data", checkpoint=path), train("data"))
        return
    with pytest.raises(FormatError, match="damaged checkpoint"):
        train("data", checkpoint=path)
    assert path.read_bytes() == before


def test_a_checkpoint_of_wrong_shapes_is_named(path):
    halfway(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"shape":[3,2]', b'"shape":[2,3]'))
    assert path.read_bytes() != data
    with pytest.raises(FormatError, match="damaged checkpoint"):
        train("data", checkpoint=path)


def test_mutated_checkpoints(path):
    train("data", checkpoint=path)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            i = int(rng.integers(0, min(end, len(data))))
            match rng.integers(0, 4):
                case 0:
                    data[i] = rng.integers(0, 256)
                case 1:
                    del data[i : i + int(rng.integers(1, 9))]
                case 2:
                    data[i:i] = data[i : i + int(rng.integers(1, 9))]
                case 3:
                    data[i] = ord(rng.choice(list('0123456789[]{}",:.-eN')))
        path.write_bytes(bytes(data))
        try:
            train("data", checkpoint=path)
        except (FormatError, ParameterError):
            refused += 1
            assert path.read_bytes() == bytes(data)
    assert refused > 200


def test_nowhere_to_write_is_told_early(tmp_path):
    calls = []
    with pytest.raises(ParameterError, match="does not exist"):
        train("data", checkpoint=tmp_path / "no" / "c.safetensors", progress=lambda *call: calls.append(call))
    assert not calls


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ParameterError, match="is a folder"):
        train("data", checkpoint=tmp_path)


# ---- what is kept


def overfitting(**settings):
    """Noise learnt by heart: the validation loss falls, then rises."""
    u, rng = noise(1, 12, 6), np.random.default_rng(3)
    truth = np.array([[0.5, 0, 0, 0, 0, 0]])
    pairs = [(v, v @ truth.T + 0.7 * rng.standard_normal((12, 1))) for v in u]
    held_out = [(v, v @ truth.T) for v in noise(3, 40, 6, seed=5)]
    filt = Dense(6, 1).replace(W=np.zeros((1, 6)))
    settings = {"n_epochs": 60, "rate": 0.05, **settings}
    return fit(filt, pairs, squared, validation=held_out, **settings), held_out


def test_the_best_weights_are_kept():
    found, held_out = overfitting()
    scores = [epoch.validation for epoch in found.history]
    assert len(scores) == 60 and 1 < found.best < 40 and found.best == np.argmin(scores) + 1
    assert scores[-1] > 1.1 * min(scores)
    assert evaluate(found.filter, held_out, squared) == min(scores)
    assert found.history[-1].loss < found.history[found.best - 1].loss
    assert all(epoch.seconds > 0 for epoch in found.history)


@pytest.mark.parametrize("patience", [1, 4])
def test_patience_stops(patience):
    (whole, _), (found, held_out) = overfitting(), overfitting(patience=patience)
    assert len(found.history) == found.best + patience < 60
    assert losses(found) == losses(whole)[: len(found.history)]
    assert evaluate(found.filter, held_out, squared) == min(epoch.validation for epoch in found.history)


def test_the_patient_run_above_stops_early():
    assert len(train("patience").history) < 12


def test_no_better_is_not_better():
    """Nothing changes at zero input: what it started from stays the best."""
    found = fit(
        gain([[0.5]]),
        examples([5, 6], n_inputs=1),
        squared,
        validation=[(np.zeros((4, 1)), np.ones((4, 1)))],
        n_epochs=9,
        patience=2,
    )
    assert found.best == 0 and [score for _, score in losses(found)] == [1.0] * 2
    assert found.filter == gain([[0.5]])
    once = fit(gain([[0.5]]), examples([5, 6], n_inputs=1), squared, n_epochs=9).filter
    assert not np.array_equal(found.filter.params["D"], once.params["D"])


def test_without_validation_the_last_weights():
    found = train("data")
    assert found.best == len(found.history) == 5
    assert np.isnan([epoch.validation for epoch in found.history]).all()


# ---- progress


@pytest.mark.parametrize("run", RUNS)
def test_progress(run):
    calls = []
    found = train(run, progress=lambda *call: calls.append(call))
    done, totals, texts = zip(*calls, strict=True)
    total = PER_EPOCH * (12 if run == "patience" else 5)
    assert set(totals) == {total}
    assert list(done[:-1]) == list(range(1, PER_EPOCH * len(found.history) + 1)) and done[-1] == total
    assert texts[:PER_EPOCH] == ("",) * PER_EPOCH
    assert texts[-1].startswith(f"epoch {len(found.history)}: loss {found.history[-1].loss:.4f}")
    assert ("held out" in texts[-1]) == ("validation" in RUNS[run])


def test_progress_where_epochs_differ():
    sizes, calls = iter([2, 5, 1, 4]), []
    fit(
        small(),
        lambda rng: examples()[: next(sizes)],
        squared,
        n_epochs=4,
        batch_size=1,
        progress=lambda *c: calls.append(c),
    )
    done = [call[0] for call in calls]
    assert done == sorted(done) and done[-1] == calls[-1][1]


# ---- any filter


@pytest.mark.parametrize("params", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_stay_and_the_filter_too(params, dtype):
    filt, pairs = small(dtype=params), examples(dtype=dtype)
    before = {name: np.array(value) for name, value in filt.params.items()}
    copies = [(u.copy(), x.copy()) for u, x in pairs]
    found = fit(filt, pairs, squared, n_epochs=4, rate=0.02, validation=pairs)
    for name, value in found.filter.params.items():
        assert value.dtype == params and not value.flags.writeable
        np.testing.assert_array_equal(filt.params[name], before[name])
        assert not np.array_equal(value, before[name])
    np.testing.assert_array_equal(
        np.concatenate([np.ravel(a) for p in pairs for a in p]),
        np.concatenate([np.ravel(a) for p in copies for a in p]),
    )
    exact = fit(small(), examples(), squared, n_epochs=4, rate=0.02)
    np.testing.assert_allclose(found.filter.params["0.U"], exact.filter.params["0.U"], atol=2e-4)


COMPOSITIONS = {
    "parallel": lambda: Parallel(GRU(1, 4) >> Dense(4, 1), Dense(1, 1)),
    "feedback": lambda: Feedback(Elman(1, 3) >> Dense(3, 1), gain([[0.1]]), delay=2),
    "orthogonal": lambda: Elman(1, 6, recurrence="orthogonal") >> Dense(6, 1),
    "diagonal": lambda: LSTM(1, 6, recurrence="diagonal") >> Dense(6, 1),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions_learn(name):
    truth = Elman(1, 1, activation="identity").replace(W=[[0.5]], U=[[0.6]])
    pairs = [(u, truth(u)) for u in 0.5 * noise(8, 40, 1)]
    filt = COMPOSITIONS[name]()
    found = fit(filt, pairs, squared, n_epochs=40, rate=0.03)
    assert evaluate(found.filter, pairs, squared) < 0.1 * evaluate(filt, pairs, squared)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [3]])
def test_few_and_short_sequences(lengths):
    pairs = examples(lengths)
    filt = small()
    found = fit(filt, pairs, squared, n_epochs=30, rate=0.05, batch_size=1)
    assert evaluate(found.filter, pairs, squared) < evaluate(filt, pairs, squared)


# ---- errors


def one(u, x):
    return {"data": [(u, x)]}


GOOD = np.ones((4, 2)), np.ones((4, 1))
NO_TARGETS = np.ones((4, 2)), np.full((4, 1), np.nan)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (one(np.ones((4, 3)), GOOD[1]), "3 inputs and 1 targets, the filter 2 inputs and 1 outputs"),
        (one(GOOD[0], np.ones((4, 2))), "2 inputs and 2 targets"),
        (one(GOOD[0], np.ones((5, 1))), r"\(4, 2\) and \(5, 1\)"),
        (one(GOOD[0], np.ones(4)), r"\(4, 2\) and \(4,\)"),
        (one(np.ones((3, 4, 2)), np.ones((3, 4, 1))), r"\(3, 4, 2\)"),
        (one(np.ones((0, 2)), np.ones((0, 1))), r"\(0, 2\)"),
        ({"data": [GOOD, one(GOOD[0], np.ones((5, 1)))["data"][0]]}, r"data\[1\]"),
        (one(GOOD[0].astype(np.float32), GOOD[1]), "one dtype"),
        ({"data": [GOOD, (GOOD[0].astype(np.float32), GOOD[1].astype(np.float32))]}, "one dtype"),
        (one(GOOD[0].astype(np.float16), GOOD[1].astype(np.float16)), "float16"),
        ({"data": []}, "no data"),
        ({"data": lambda rng: []}, "no data"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"n_epochs": 2.5}, "n_epochs=2.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": -1e-3}, "rate=-0.001"),
        ({"rate": np.nan}, "rate=nan"),
        ({"rate": np.inf}, "rate=inf"),
        ({"clip_norm": 0}, "clip_norm=0"),
        ({"clip_norm": np.nan}, "clip_norm=nan"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": np.nan}, "weight_decay=nan"),
        ({"weight_decay": 20, "rate": 0.05}, "weight_decay=20"),
        ({"patience": 2}, "patience=2 needs validation"),
        ({"validation": [(np.ones((4, 3)), GOOD[1])]}, "3 inputs"),
        ({"data": [NO_TARGETS]}, "no frame to score"),
        ({"validation": [NO_TARGETS]}, "no frame to score"),
        (one(np.ones((4, 2), int), np.ones((4, 1), int)), "int64"),
        ({"validation": [(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))]}, "one dtype"),
        ({"patience": 0, "validation": [GOOD]}, "patience=0"),
        ({"patience": -1, "validation": [GOOD]}, "patience=-1"),
        ({"patience": 1.5, "validation": [GOOD]}, "patience=1.5"),
        ({"filt": "LSTM"}, "filter"),
        ({"rate": "fast"}, "rate='fast'"),
        ({"optimizer": "adam"}, "optimizer='adam'"),
        ({"schedule": "polynomial"}, "'polynomial': choose one of"),
        ({"schedule": 3}, "schedule=3"),
        ({"clip_value": 0}, "clip_value=0"),
        ({"truncate": 0}, "truncate=0"),
        ({"kept_states": -1}, "kept_states=-1"),
        ({"n_shards": 0}, "n_shards=0"),
        ({"keep": "contraction"}, "keep='contraction'"),
        ({"time_limit_s": 0}, "time_limit_s=0"),
        ({"loss": 3}, "loss=3"),
    ],
)
def test_bad_settings_are_named(settings, names):
    calls = []
    with pytest.raises(ParameterError, match=names):
        train("data", progress=lambda *call: calls.append(call), **settings)
    assert not calls


def test_a_function_that_has_no_data_later():
    n = iter([4, 0])
    with pytest.raises(ParameterError, match="no data"):
        fit(small(), lambda rng: examples()[: next(n)], squared, n_epochs=2)


def test_data_from_an_iterator():
    assert_same(train("data", data=iter(examples())), train("data"))


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"seed": np.int64(3)}, {"seed": 3}),
        ({"rate": np.float32(0.25)}, {"rate": 0.25}),
        ({"loss": functools.partial(squared)}, {}),
    ],
    ids=["seed", "rate", "loss"],
)
def test_settings_of_other_types(settings, plain):
    assert_same(train("data", **settings), train("data", **plain))


@pytest.mark.parametrize("u", [np.nan, np.inf])
def test_inputs_must_be_finite(u):
    pairs = [*examples(), (np.full((3, 2), u), np.ones((3, 1)))]
    with pytest.raises(NonFiniteError, match="input is"):
        fit(small(), pairs, squared)
    with pytest.raises(NonFiniteError, match="input is"):
        evaluate(small(), pairs, squared)


def test_nothing_to_score():
    for pairs in ([], [NO_TARGETS]):
        with pytest.raises(ParameterError, match="no frame to score"):
            evaluate(small(), pairs, squared)


# ---- explosions


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_names_where_it_was(bad, path):
    spoil = spoiled(squared, 15, lambda values, dy: (values + bad, dy))
    with pytest.warns(RuntimeWarning, match=rf"epoch 3, batch 2: the loss is {bad}; try a rate below 0.05"):
        found = train("data", checkpoint=path, loss=spoil)
    assert found.stopped.startswith("epoch 3, batch 2") and len(found.history) == len(checkpointed(path)) == 2
    assert_same(train("data", checkpoint=path), train("data"))


def test_an_explosion_goes_back_to_the_epoch_before():
    filt = Elman(2, 3, activation="identity") >> Dense(3, 1)
    pairs = [(u, np.ones((400, 1))) for u in noise(4, 400, 2)]
    with pytest.warns(RuntimeWarning, match="epoch 2, batch 1"):
        found = fit(filt, pairs, bernoulli, n_epochs=20, rate=30.0, schedule="constant")
    assert len(found.history) == found.best == 1
    assert_same(found, fit(filt, pairs, bernoulli, n_epochs=1, rate=30.0, schedule="constant"))


def test_an_explosion_goes_back_to_the_best_epoch():
    spoil = spoiled(squared, 40, lambda values, dy: (values, dy * np.inf))
    with pytest.warns(RuntimeWarning, match="norm of the gradient is .*, by that of"):
        found = train("data", loss=spoil, n_epochs=30, validation=examples([5, 6], seed=3))
    assert found.best == 1 + np.argmin([epoch.validation for epoch in found.history])


def test_a_squared_error_beyond_all_numbers():
    with pytest.warns(RuntimeWarning, match="epoch 2"):
        fit(small(), examples(), squared, batch_size=8, n_epochs=3, rate=1e200)


def test_a_gradient_beyond_all_numbers():
    """1.3^160 = 2e18, its square 3e36, but the derivative by the pole is 160 times as much: more than float32 holds."""
    filt = Elman(1, 1, activation="identity").replace(W=[[1.0]], U=[[1.3]])
    u, x = np.zeros((165, 1), np.float32), np.full((165, 1), np.nan, np.float32)
    u[0], x[-1] = 1, 0
    with pytest.raises(NonFiniteError, match="epoch 1"):
        fit(filt, [(u, x)], squared, n_epochs=2)


def test_a_validation_loss_that_is_no_number():
    def broken(y, target):
        values, dy = squared(y, target)
        return (values * np.nan if target.shape[1] == 3 else values), dy

    with pytest.raises(NonFiniteError, match="epoch 1"):
        fit(small(), examples([5, 6]), broken, validation=examples([3]), n_epochs=2)

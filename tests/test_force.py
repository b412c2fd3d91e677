"""FORCE learning: ridge regression in closed form for what the read-out is, and what the loop then generates."""

import numpy as np
import pytest

from rnndsp import Feedback, NonFiniteError, ParameterError
from rnndsp.filters import GRU, LSTM, Dense, Elman, force_train

PERIOD = 60


def reservoir(n_units=200, n_channels=1, seed=1):
    """Slow, and just about active by itself."""
    rng = np.random.default_rng(seed)
    J = 1.2 * rng.standard_normal((n_units, n_units)) / np.sqrt(n_units)
    W = 0.6 * rng.uniform(-1, 1, (n_units, n_channels))
    return Elman(n_channels, n_units).replace(U=0.7 * np.eye(n_units) + 0.3 * J, W=W)


def pattern(n_frames, first=0):
    phase = 2 * np.pi * np.arange(first, first + n_frames) / PERIOD
    return 0.5 * np.sin(phase) + 0.3 * np.sin(2 * phase + 0.5) + 0.2 * np.sin(3 * phase + 1)


@pytest.fixture(scope="module")
def taught():
    return force_train(reservoir(), pattern(6000), alpha=0.01)


def test_it_generates_a_sum_of_sines(taught):
    level = np.sqrt(np.mean(pattern(PERIOD) ** 2))
    assert level == pytest.approx(np.sqrt(0.38 / 2))
    y, _ = taught.generator.run(np.zeros((6000, 1)), taught.state)
    error = y[:, 0] - pattern(6000, first=6000)
    assert np.sqrt(np.mean(error[:300] ** 2)) < 0.1 * level
    # 100 periods later the phase may have drifted, but not the pattern
    tail = y[-PERIOD:, 0]
    shifted = [np.sqrt(np.mean((tail - pattern(PERIOD, first=s)) ** 2)) for s in range(PERIOD)]
    assert min(shifted) < 0.15 * level
    # small errors from early on, smaller ones at the end
    size = [np.sqrt(np.mean(taught.errors[a:b] ** 2)) for a, b in ((100, 400), (5000, 6000))]
    assert size[0] < 0.3 * level and size[1] < 0.1 * level and size[1] < size[0]
    assert not taught.errors[:100].any()


def test_without_learning_there_is_no_pattern(taught):
    W = taught.generator.params["0.1.W"]
    mute = taught.generator.replace(**{"0.1.W": 0 * W})
    assert not mute.run(np.zeros((300, 1)), taught.state)[0].any()


def test_the_generator_is_a_loop_of_ordinary_parts(taught):
    generator = taught.generator
    assert isinstance(generator, Feedback) and generator.delay == 1
    # by hand: h = tanh(W z + U h), z = W_out h, from the state where training ended
    cell = reservoir()
    h, z = taught.state.children[0].children[0].h, taught.state.line
    out = []
    for _ in range(50):
        h = np.tanh(cell.params["W"] @ z + cell.U @ h)
        z = generator.params["0.1.W"] @ h
        out.append(z)
    np.testing.assert_allclose(generator.run(np.zeros((50, 1)), taught.state)[0], out, atol=1e-9)


@pytest.mark.parametrize(("every", "n_channels"), [(1, 1), (1, 2), (3, 2)])
def test_the_readout_is_ridge_regression_on_what_the_cell_did(every, n_channels):
    d, cell, settle = (
        np.column_stack([pattern(300), pattern(300, first=11)])[:, :n_channels],
        reservoir(30, n_channels),
        40,
    )
    found = force_train(cell, d, alpha=0.5, every=every, settle=settle)
    fed_back = np.concatenate([d[:settle], (d - found.errors)[settle:]])
    h = cell(fed_back[:-1])[settle - 1 :]  # of frames settle and later
    step = np.arange(settle, 300) % every == 0
    H, target = h[step], d[settle:][step]
    W = np.linalg.solve(H.T @ H + 0.5 * np.eye(30), H.T @ target).T
    np.testing.assert_allclose(found.generator.params["0.1.W"], W, atol=1e-8 * np.abs(W).max())


@pytest.mark.parametrize(
    "cell", [GRU(1, 12), LSTM(1, 12), Elman(1, 12, activation="identity", recurrence="orthogonal")]
)
def test_any_cell_goes(cell):
    found = force_train(cell, pattern(400))
    y, _ = found.generator.run(np.zeros((20, 1)), found.state)
    assert np.isfinite(y).all() and np.isfinite(found.errors).all()
    assert np.mean(found.errors[300:] ** 2) < np.mean(pattern(100) ** 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"target": np.full(200, np.nan)}, "finite"),
        ({"target": np.zeros((2, 200, 1))}, "shape"),
        ({"target": np.zeros((200, 2))}, "feed back"),
        ({"target": np.zeros(100)}, "settle"),
        ({"target": np.zeros(0)}, "settle"),
        ({"alpha": 0.0}, "alpha"),
        ({"every": 0}, "every"),
        ({"settle": 0}, "settle"),
        ({"cell": Elman(1, 4001, recurrence="diagonal")}, "4001"),
    ],
)
def test_bad_input(change, match):
    given = {"cell": Elman(1, 4), "target": pattern(200), **change}
    with pytest.raises(ParameterError, match=match):
        force_train(given.pop("cell"), given.pop("target"), **given)


def test_a_loop_that_blows_up_is_seen():
    with pytest.raises(NonFiniteError):
        force_train(Elman(1, 4, activation="identity").replace(U=3 * np.eye(4)), pattern(1000))
    found = force_train(Elman(1, 4), 1e306 * pattern(200))  # out of reach of any read-out, but no number overflows
    assert np.isfinite(found.errors).all()


def test_a_cell_with_a_read_out_of_its_own():
    cell = Elman(1, 8).replace(b=np.full(8, 0.5)) >> Dense(8, 20)
    fit = force_train(cell, np.sin(np.arange(400) / 8))
    assert len(fit.generator.children[0].children) == 3 and np.any(fit.state.children[0].children[0].h)

"""The tasks of examples/memory_tasks.py against their definitions, and against what is known of them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import lambertw

from rnndsp.losses import Categorical, squared
from rnndsp.training import evaluate, fit

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not here: not a checkout")


@pytest.fixture(scope="module")
def tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import memory_tasks

        yield memory_tasks


def test_copying_frame_by_frame(tasks):
    lag = 7
    for u, target in tasks.copying(np.random.default_rng(0), lag, 5):
        assert u.shape == (lag + 20, 10) and target.shape == (lag + 20, 9)
        # one of each at every frame
        assert np.all(u.sum(axis=1) == 1) and np.all(target.sum(axis=1) == 1)
        read, wanted = u.argmax(axis=1), target.argmax(axis=1)
        assert np.all(read[:10] < 8) and np.all(read[10 : lag + 9] == 8) and read[lag + 9] == 9
        assert np.all(read[lag + 10 :] == 8) and np.all(wanted[: lag + 10] == 8)
        assert np.array_equal(wanted[lag + 10 :], read[:10])


def test_what_copying_costs_without_a_memory(tasks):
    lag = 200
    target = [target for _, target in tasks.copying(np.random.default_rng(0), lag, 4)]
    logits = np.zeros((4, lag + 20, 9))
    logits[:, : lag + 10, 8], logits[:, lag + 10 :, 8] = 100, -100
    values, _ = Categorical()(logits, np.array(target, np.float64))
    assert np.mean(values) == pytest.approx(tasks.floor("copy-200"), rel=1e-9)
    assert tasks.floor("copy-200") == pytest.approx(10 * np.log(8) / 220, rel=1e-12)
    assert tasks.floor("copy-1000") == pytest.approx(0.0204, abs=5e-5)


def test_adding(tasks):
    n_frames = 50
    pairs = tasks.adding(np.random.default_rng(0), n_frames, 20_000)
    for u, target in pairs[:100]:
        (first, second) = np.flatnonzero(u[:, 1])
        assert first < n_frames // 2 <= second and set(u[:, 1]) == {0, 1}
        assert np.isnan(target[:-1]).all() and target[-1, 0] == pytest.approx(u[first, 0] + u[second, 0], rel=1e-6)
        assert u[:, 0].min() >= 0 and u[:, 0].max() <= 1
    sums = np.array([target[-1, 0] for _, target in pairs], np.float64)
    # the sum of two uniform numbers: kurtosis 2.4, so its sample variance has a relative deviation of sqrt(1.4 / n)
    assert np.mean(sums) == pytest.approx(1, abs=4 * np.sqrt(1 / 6 / len(sums)))
    assert np.var(sums) == pytest.approx(tasks.floor("adding-50"), rel=4 * np.sqrt(1.4 / len(sums)))


def test_narma_is_its_recursion(tasks):
    for v, target in tasks.narma(np.random.default_rng(3), 120, 4, unscored=30):
        u, y = (v[:, 0].astype(np.float64) + 1) / 4, np.zeros(120)
        for t in range(9, 119):
            y[t + 1] = 0.3 * y[t] + 0.05 * y[t] * sum(y[t - i] for i in range(10)) + 1.5 * u[t - 9] * u[t] + 0.1
        assert u.min() >= 0 and u.max() <= 0.5 and np.isnan(target[:30]).all()
        np.testing.assert_allclose(target[30:, 0], y[30:], rtol=1e-5)


def test_narma_that_diverges_is_drawn_again(tasks):
    class Unlucky:
        def uniform(self, low, high, size):
            asked.append(size)
            # at the upper end of its range the recursion has no bounded solution
            return np.full(size, 0.5 if len(asked) == 1 else 0.1)

    asked = []
    found = tasks.narma(Unlucky(), 200, 3)
    assert asked == [(3, 200), (3, 200)] and len(found) == 3
    # the fixed point of a constant input of 0.1: y = 0.3 y + 0.5 y² + 0.115
    assert found[0][1][-1, 0] == pytest.approx(0.7 - np.sqrt(0.49 - 0.23), rel=1e-5)


def test_narma_by_a_linear_filter(tasks):
    """An independent measurement, 4000 samples to learn from and 2000 to test: 0.404 with 20 taps."""
    errors = []
    for seed in range(4):
        ((v, target),) = tasks.narma(np.random.default_rng(seed), 6050, 1)
        rows = np.lib.stride_tricks.sliding_window_view(np.append(np.zeros(20), v[:-1, 0]), 20)[50:]
        rows, y = np.column_stack([rows, np.ones(len(rows))]), target[50:, 0].astype(np.float64)
        weights = np.linalg.lstsq(rows[:4000], y[:4000])[0]
        errors.append(np.sqrt(np.mean((rows[4000:] @ weights - y[4000:]) ** 2) / np.var(y[4000:])))
    assert np.mean(errors) == pytest.approx(0.404, abs=0.02)


def test_mackey_glass_until_it_meets_itself(tasks):
    # before time τ the delayed value is the start: x' = k - x / 10 has a closed form
    start = np.array([0.5, 0.9, 1.2])
    x, t = tasks.mackey_glass(start, 16), np.arange(17)[:, None]
    k = 10 * 0.2 * start / (1 + start**10)
    np.testing.assert_allclose(x, k + (start - k) * np.exp(-t / 10), rtol=0, atol=1e-9)


def test_mackey_glass_near_its_rest(tasks):
    # d' = -0.4 d(t - τ) - 0.1 d about x = 1, whose leading characteristic root is known
    for delay in (4, 6):
        root = -0.1 + lambertw(-0.4 * delay * np.exp(0.1 * delay)) / delay
        d = tasks.mackey_glass(np.array([1 + 1e-7]), 300, delay)[150:, 0] - 1
        step = np.exp(root)
        np.testing.assert_allclose(
            d[2:], 2 * step.real * d[1:-1] - abs(step) ** 2 * d[:-2], atol=1e-5 * np.abs(d).max()
        )
        # below a delay of 4.708 it comes to rest
        assert (root.real > 0) == (delay > np.arccos(-0.25) / np.sqrt(0.15))


def test_mackey_glass_is_chaotic_as_known(tasks):
    # J. D. Farmer (1982), "Chaotic attractors of an infinite-dimensional dynamical system": about 0.007 for τ = 17
    start = np.random.default_rng(0).uniform(0.6, 1.3, 48)
    x = tasks.mackey_glass(np.append(start, start + 1e-9), 1200, steps=5)
    apart = np.abs(x[:, :48] - x[:, 48:])
    first, last = (np.log(apart[t : t + 100]).mean() for t in (300, 1100))
    assert (last - first) / 800 == pytest.approx(0.0065, abs=0.002)
    assert 0.2 < x[300:].min() < 0.5 and 1.25 < x[300:].max() < 1.4


class Sine:
    """x[t+1] - x[t] = (2 cos ω - 1) x[t] - x[t-1], exactly."""

    def run(self, u, state=0.0):
        before = np.concatenate([np.broadcast_to(state, u[:, :1].shape), u[:, :-1]], axis=1)
        return (2 * np.cos(0.3) - 1) * u - before, u[:, -1:]


def test_a_free_run_goes_on_with_a_sine(tasks):
    t = np.arange(60 + tasks.AHEAD)
    x = np.sin(0.3 * t + np.array([[0.0], [1.0]]))[..., None]
    np.testing.assert_allclose(tasks.free_run(Sine(), x[:, :60], 60), x[:, 60:], atol=1e-10)


def test_errors_of_forecasts(tasks, monkeypatch):
    t = np.arange(2000)[:, None]
    monkeypatch.setattr(tasks, "series", lambda seed: np.sin(0.3 * t + np.arange(3)))
    for u, target in tasks.forecasting(np.random.default_rng(0), 150, 3):
        assert np.isnan(target[:100]).all()
        np.testing.assert_allclose(target[100:-1], np.diff(u[100:], axis=0), atol=1e-6)
        np.testing.assert_allclose(Sine().run(u[None].astype(np.float64))[0][0, 100:], target[100:], atol=1e-6)
    assert tasks.nrmse_ahead(Sine(), 0) < 1e-4

    class Still(Sine):
        def run(self, u, state=0.0):
            return 0 * u, state

    # a sine against itself 84 samples later, squared and averaged: 2 - 2 cos(84 ω) times its variance
    assert tasks.nrmse_ahead(Still(), 0, n=3000) == pytest.approx(np.sqrt(2 - 2 * np.cos(84 * 0.3)), rel=0.05)


def test_short_sums_are_learned(tasks):
    filt, draw, loss, _, _ = tasks.recipe("adding-20", "orthogonal", np.random.default_rng(0))
    done = fit(filt, lambda rng: draw(rng, 320), loss, n_epochs=30, batch_size=32, rate=5e-3, n_shards=1)
    held_out = tasks.adding(np.random.default_rng(1), 20, 300)
    assert evaluate(done.filter, held_out, squared) < 0.1 * tasks.floor("adding-20")

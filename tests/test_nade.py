"""NADE. Oracles: its equation bit by bit in NumPy, all frames enumerated, PyTorch, differences."""

import copy
from itertools import product

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_expit, logsumexp

import rnndsp
from rnndsp import Knobs, ParameterError, RnndspError
from rnndsp.filters import GRU, NADE, Dense, Elman
from rnndsp.losses import bernoulli

SIZES = [(1, 0), (1, 3), (5, 0), (5, 2), (17, 9)]  # bits, hidden units
FRAMES = np.array(list(product([0.0, 1.0], repeat=5)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_random_weights(head, scale=0.8):
    # above the diagonal of L as well, where nothing may come of it
    return head.replace(**{name: scale * noise(*head.params[name].shape, seed=ord(name)) for name in "VUL"})


def head(n, m, context=None):
    return with_random_weights(NADE(context or Dense(3, n + m, seed=1), n_hidden=m))


def log_odds(filt, context, bits):
    """The equation of the docstring; leading axes are frames."""
    V, U, L = (filt.params[name].astype(np.float64) for name in "VUL")
    y = np.empty(bits.shape)
    for k in range(filt.n_outputs):
        h = np.tanh(context[..., filt.n_outputs :] + bits[..., :k] @ V[:k])
        y[..., k] = context[..., k] + h @ U[k] + bits[..., :k] @ L[k, :k]
    return y


def log_likelihood(y, bits):
    return np.sum(np.where(bits == 1, log_expit(y), log_expit(-y)), axis=-1)


@pytest.mark.parametrize("m", [0, 1, 3, 11])
@pytest.mark.parametrize("scale", [0.3, 3])
def test_the_probabilities_of_all_frames_sum_to_one(m, scale):
    filt = with_random_weights(NADE(Dense(2, 5 + m, seed=m), n_hidden=m), scale)
    heard = np.broadcast_to(noise(2, seed=m), (32, 2))
    values, _ = bernoulli(filt(np.hstack([heard, FRAMES])), FRAMES)
    assert abs(np.sum(np.exp(-values)) - 1) < 1e-12
    assert np.ptp(values) > 0.3


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("bits", ["bits", "numbers"])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_the_equation(n, m, bits, dtype, tolerance):
    filt, heard = head(n, m), noise(2, 20, 3)
    x = noise(2, 20, n, seed=2) if bits == "numbers" else (noise(2, 20, n, seed=2) > 0.5).astype(float)
    u = np.concatenate([heard, x], axis=-1).astype(dtype)
    y = filt(u)
    exact = u.astype(np.float64)
    expected = log_odds(filt, filt.context(exact[..., :3]), exact[..., 3:])
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


def test_in_blocks_and_taped_to_the_bit():
    filt = head(5, 3, GRU(2, 4, seed=2) >> Dense(4, 8, seed=3))
    for dtype in (np.float32, np.float64):
        u = np.concatenate([noise(2, 50, 2), noise(2, 50, 5) > 0.3], axis=-1).astype(dtype)
        whole, end = filt.run(u)
        state, parts = None, []
        for block in np.split(u, [0, 1, 7, 33], axis=1):
            y, state = filt.run(block, state)
            parts.append(y)
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        assert state == end
        np.testing.assert_array_equal(filt.tape(u).y, whole)


def test_a_context_with_controls_hears_them():
    context = Knobs(Dense(3, 6, seed=1), {"temper": 0.5})
    filt, heard, x = head(4, 2, context), noise(10, 2), FRAMES[-10:, :4]
    expected = log_odds(filt, context(heard, controls={"temper": 0.9}), x)
    u = np.hstack([heard, x])
    np.testing.assert_allclose(filt(u, controls={"temper": 0.9}), expected, atol=1e-13)
    gradient = filt.tape(u, controls={"temper": 0.9}).adjoint(np.ones((10, 4)))
    step = 1e-6
    up, down = (np.sum(filt(u, controls={"temper": 0.9 + sign * step})) for sign in (1, -1))
    assert abs(np.sum(gradient.controls["temper"]) - (up - down) / (2 * step)) < 1e-7


def test_gradient_by_real_numbers_in_place_of_bits():
    filt = head(5, 3, Elman(2, 4) >> Dense(4, 8, seed=3))
    u, weights, step = noise(6, 7), noise(6, 5, seed=1), 1e-6
    u[2, 4] = 0
    gradient = filt.tape(u).adjoint(weights).u
    for place in np.ndindex(u.shape):
        e = np.zeros_like(u)
        e[place] = step
        numeric = np.sum(weights * (filt(u + e) - filt(u - e))) / (2 * step)
        assert abs(gradient[place] - numeric) < 1e-7


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_torch(n, m):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    filt, heard, scored = head(n, m), noise(2, 6, 3), noise(2, 6, n, seed=3) > -0.5
    # bits, and numbers between
    u = np.concatenate([heard, np.clip(noise(2, 6, n, seed=2), 0, 1)], axis=-1)
    leaves = {name: torch.tensor(np.array(value), requires_grad=True) for name, value in filt.params.items()}
    t = torch.tensor(u, requires_grad=True)
    x, c = t[..., 3:], t[..., :3] @ leaves["0.W"].T + leaves["0.b"]
    V, U, L = (leaves[name] for name in "VUL")
    y = torch.stack(
        [c[..., k] + torch.tanh(c[..., n:] + x[..., :k] @ V[:k]) @ U[k] + x[..., :k] @ L[k, :k] for k in range(n)], -1
    )
    nll = torch.nn.functional.binary_cross_entropy_with_logits(y, x.detach(), reduction="none")
    (nll * torch.tensor(scored)).sum().backward()

    tape = filt.tape(u)
    np.testing.assert_allclose(tape.y, y.detach(), rtol=0, atol=1e-10)
    _, dy = bernoulli(tape.y, np.where(scored, u[..., 3:], np.nan))
    gradient = tape.adjoint(dy)
    np.testing.assert_allclose(gradient.u, t.grad, rtol=0, atol=1e-10)
    assert set(gradient.params) == set(leaves)
    for name, leaf in leaves.items():
        expected = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad
        np.testing.assert_allclose(gradient.params[name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_gradient_in_single_precision(n, m):
    filt = head(n, m)
    u = np.concatenate([noise(4, 50, 3), noise(4, 50, n, seed=2) > 0.5], axis=-1).astype(np.float32)
    dy = noise(4, 50, n, seed=3).astype(np.float32)
    single, double = (filt.tape(u.astype(dtype)).adjoint(dy) for dtype in (np.float32, np.float64))
    pairs = [(single.u, double.u), *((single.params[name], double.params[name]) for name in filt.params)]
    for value, exact in pairs:
        assert value.dtype == np.float32
        assert np.max(np.abs(value - exact), initial=0) <= 1e-5 * max(1, np.max(np.abs(exact), initial=0))


# ---- drawing


def alone(bits):
    """No bit beside one that is set, and never the last one: a rule that looks at what was drawn."""
    before = np.concatenate([[False], bits[:-1]])
    return ~before & (np.arange(bits.size) < bits.size - 1)


def anything(bits):
    return np.ones(bits.size, bool)


def conditionals(filt, context, allowed):
    """The probability of every frame, bit after bit, where bits that are not allowed have probability 0."""
    y = log_odds(filt, np.broadcast_to(context, (len(FRAMES), context.size)), FRAMES)
    total = np.zeros(len(FRAMES))
    for place, frame in enumerate(FRAMES):
        for k, bit in enumerate(frame):
            may = allowed(np.where(np.arange(frame.size) < k, frame, 0).astype(bool))[k]
            with np.errstate(divide="ignore"):
                total[place] += (log_expit(y[place, k]) if bit else log_expit(-y[place, k])) if may else np.log(1 - bit)
    return np.exp(total)


def next_bits(filt, context, allowed, temperature):
    """The probability of every frame as a chain of draws of the next bit, or of no more, each at a temperature."""
    chances = {}

    def go_on(frame, first, chance):
        n = frame.size
        y = log_odds(filt, context, frame.astype(float))
        y = np.where(allowed(frame), y, -np.inf)[first:]
        quiet = np.concatenate([[0], np.cumsum(log_expit(-y))])
        weights = np.append(log_expit(y) + quiet[:-1], quiet[-1]) / temperature
        weights = np.exp(weights - logsumexp(weights))
        chances[tuple(frame.astype(float))] = chance * weights[-1]
        for j in range(first, n):
            chosen = frame.copy()
            chosen[j] = True
            go_on(chosen, j + 1, chance * weights[j - first])

    go_on(np.zeros(filt.n_outputs, bool), 0, 1.0)
    return np.array([chances[tuple(frame)] for frame in FRAMES])


def p_value(counts, expected):
    """Chi-square, cells that are hardly ever met thrown together; an impossible one that was met refutes."""
    if np.any(counts[expected == 0]):
        return 0.0
    rare = expected < 8
    cells = [np.append(a[~rare], a[rare].sum()) for a in (counts, expected)]
    seen = cells[1] > 0
    return stats.chisquare(*(cell[seen] for cell in cells)).pvalue


def counted(frames):
    return np.bincount(np.stack(frames) @ (1 << np.arange(5)[::-1]), minlength=32)


@pytest.mark.parametrize("allowed", [None, alone], ids=["all", "some"])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_draws_come_as_often_as_they_should(temperature, allowed):
    filt, context, rng, n = head(5, 2), 0.7 * noise(7, seed=8) - 0.4, np.random.default_rng(1), 20000
    expected = next_bits(filt, context, allowed or anything, temperature)
    assert abs(np.sum(expected) - 1) < 1e-12
    if temperature == 1:
        np.testing.assert_allclose(expected, conditionals(filt, context, allowed or anything), atol=1e-14)
    counts = counted([filt.sample(context, rng, temperature=temperature, allowed=allowed) for _ in range(n)])
    assert p_value(counts, n * expected) > 1e-3
    # and so many draws do tell models apart
    other = next_bits(filt.replace(V=np.zeros((5, 2))), context, allowed or anything, temperature)
    assert p_value(counts, n * other) < 1e-9


@pytest.mark.parametrize("allowed", [None, alone], ids=["all", "some"])
@pytest.mark.parametrize("m", [0, 3])
def test_temperature_zero_takes_the_likeliest_next_bit(m, allowed):
    filt, rng = head(5, m), np.random.default_rng(0)
    drawn = set()
    for context in 2 * noise(200, 5 + m, seed=4):
        frame, first = np.zeros(5, bool), 0
        while first < 5:
            p = 1 / (1 + np.exp(-log_odds(filt, context, frame.astype(float))))
            p = np.where((allowed or anything)(frame), p, 0)[first:]
            chances = np.append(p, 1) * np.append(1, np.cumprod(1 - p))
            k = first + int(np.argmax(chances))
            if k == 5:
                break
            frame[k], first = True, k + 1
        np.testing.assert_array_equal(filt.sample(context, rng, temperature=0, allowed=allowed), frame)
        drawn.add(tuple(frame))
    assert len(drawn) >= 8


def chord():
    """Five notes as likely as each other, one of which comes for sure: 1/5, of the others 1/4, and so on."""
    odds = np.array([np.log(1 / 4), np.log(1 / 3), np.log(1 / 2), 0, 50])
    return NADE(Dense(1, 5), n_hidden=0).replace(L=-200 * np.tri(5, k=-1)), odds


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 3.0])
def test_low_temperature_does_not_empty_frames(temperature):
    filt, odds = chord()
    rng = np.random.default_rng(2)
    frames = np.array([filt.sample(odds, rng, temperature=temperature) for _ in range(1000)])
    assert np.all(frames.sum(axis=1) == 1)
    assert stats.chisquare(frames.sum(axis=0)).pvalue > 1e-3


def test_a_note_that_comes_nine_times_of_ten_comes_always_when_cold():
    filt, odds = chord()
    odds = np.log(0.18 / (1 - 0.18 * np.arange(1, 6)))  # each 0.18, none 0.1
    rng = np.random.default_rng(2)
    warm, cold = (
        np.mean([filt.sample(odds, rng, temperature=temperature).sum() for _ in range(2000)])
        for temperature in (1.0, 0.3)
    )
    assert abs(warm - 0.9) < 4 * np.sqrt(0.09 / 2000)
    empty = 0.1 ** (1 / 0.3) / (0.1 ** (1 / 0.3) + 5 * 0.18 ** (1 / 0.3))
    assert abs(cold - (1 - empty)) < 4 * np.sqrt(empty / 2000)


def test_allowed_is_asked_with_the_bits_before():
    filt, asked = head(5, 2), []

    def allowed(bits):
        asked.append(copy.copy(bits))
        return alone(bits)

    context = np.array([-2.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0])
    frame = filt.replace(V=np.zeros((5, 2)), L=np.zeros((5, 5))).sample(
        context, np.random.default_rng(0), temperature=0, allowed=allowed
    )
    np.testing.assert_array_equal(frame, [False, True, False, True, False])
    np.testing.assert_array_equal(asked, np.array([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0]], bool))


def test_draws_are_reproducible_and_nothing_but_the_generator_moves():
    filt, context = head(5, 2), noise(7)
    before = context.copy()
    first, again = ([filt.sample(context, rng) for _ in range(50)] for rng in map(np.random.default_rng, (3, 3)))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(context, before)
    assert np.array(first).dtype == bool and len(set(map(tuple, first))) > 5


def test_extreme_log_odds_are_certain():
    filt = NADE(Dense(1, 5), n_hidden=0)
    for scale in (800.0, np.inf):
        frame = filt.sample(scale * np.array([1, -1, 1, -1, -1]), np.random.default_rng(0))
        np.testing.assert_array_equal(frame, [True, False, True, False, False])


# ---- errors, files, stability


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: NADE("LSTM", n_hidden=1), "is not a filter"),
        (lambda: NADE(Dense(2, 3), n_hidden=3), "leaves no bits of the 3 outputs"),
        (lambda: NADE(Dense(2, 3), n_hidden=40), "leaves no bits of the 3 outputs"),
        (lambda: NADE(Dense(2, 3), n_hidden=-1), "n_hidden=-1"),
        (lambda: NADE(Dense(2, 3), n_hidden=1.0), "n_hidden=1.0"),
        (lambda: NADE(Dense(2, 3), n_hidden=True), "n_hidden=True"),
        (lambda: NADE(Dense(2, 3), n_hidden=1, seed=-1), "seed=-1"),
        (lambda: head(5, 2).replace(V=np.zeros((2, 5))), "V has shape"),
        (lambda: NADE._restore({"n_hidden": 1}, {}, [Dense(2, 3)] * 2), "one part, its context, not 2"),
        (lambda: draw(np.zeros(6)), r"shape \(6,\)"),
        (lambda: draw(np.zeros((1, 7))), r"shape \(1, 7\)"),
        (lambda: draw(temperature=-0.1), "temperature=-0.1"),
        (lambda: draw(temperature=np.nan), "temperature=nan"),
        (lambda: draw(temperature=np.inf), "temperature=inf"),
        (lambda: head(5, 2)(np.zeros((4, 3))), "8 inputs"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ParameterError, match=names):
        make()


def draw(context=None, **settings):
    return head(5, 2).sample(np.zeros(7) if context is None else context, np.random.default_rng(0), **settings)


def test_a_context_of_nan_is_refused():
    with pytest.raises(RnndspError):
        draw(np.full(7, np.nan))


def test_a_mask_of_ones_and_zeros_is_a_mask():
    for seed in range(20):
        frame = head(5, 2).sample(
            np.full(7, 9.0), np.random.default_rng(seed), allowed=lambda bits: np.array([1, 0, 1, 0, 0])
        )
        assert not frame[[1, 3, 4]].any()


@pytest.mark.parametrize(
    "mask", [np.ones(4, bool), np.ones(6, bool), np.True_, None], ids=["short", "long", "0d", "no"]
)
def test_a_mask_of_another_shape_is_named(mask):
    with pytest.raises(ParameterError, match="allowed"):
        draw(allowed=lambda bits: mask)


@pytest.mark.parametrize("m", [0, 3])
def test_saved_and_loaded(tmp_path, m):
    filt = head(5, m, Elman(2, 4) >> Dense(4, 5 + m, seed=3))
    filt = filt.replace(**{name: value.astype(np.float32) for name, value in filt.params.items()})
    filt.save(tmp_path / "head.safetensors")
    again = rnndsp.load(tmp_path / "head.safetensors")
    assert again == filt and type(again) is NADE and again.context == filt.context
    u, context = noise(20, 7), noise(5 + m)
    np.testing.assert_array_equal(again(u), filt(u))
    frames = [[f.sample(context, np.random.default_rng(seed)) for seed in range(20)] for f in (filt, again)]
    np.testing.assert_array_equal(*frames)


CONTEXTS = {
    "gru": GRU(2, 4, seed=1),
    "contracting": Elman(2, 4).replace(U=0.4 * np.eye(4)),
    "many rest states": Elman(2, 4).replace(U=1.5 * np.eye(4)),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_stability_is_that_of_the_context(name):
    context = CONTEXTS[name] >> Dense(4, 6, seed=2)
    filt = head(4, 2, context)
    whole, part = filt.stability(), context.stability()
    assert [(row.name, row.verdict) for row in whole] == [(row.name, row.verdict) for row in part]
    np.testing.assert_array_equal(whole.poles, part.poles)
    assert len(whole.rest_states) == len(part.rest_states)
    assert (len(part.rest_states) > 1) == (name == "many rest states")
    u = noise(6)
    _, state = filt.run(noise(9, 6))
    np.testing.assert_array_equal(filt.poles(state, u), context.poles(state.children[0], u[:2]))
    # an orbit of the head is one of the context
    np.testing.assert_array_equal(state.ravel(), context.run(noise(9, 6)[:, :2])[1].ravel())


def test_linearised_by_hand():
    filt, u = head(5, 2), noise(8)
    W, n = filt.params["0.W"], 5
    y = filt.linearize(u=u)
    h = [np.tanh((W @ u[:3])[n:] + u[3 : 3 + k] @ filt.params["V"][:k]) for k in range(n)]
    through = filt.params["U"] * (1 - np.array(h) ** 2)
    by_bits = np.tril(through @ filt.params["V"].T + filt.params["L"], -1)
    np.testing.assert_allclose(y.D, np.hstack([W[:n] + through @ W[n:], by_bits]), atol=1e-14)


def test_linearised_before_another_filter():
    filt, u = head(4, 2, Elman(2, 4) >> Dense(4, 6, seed=3)), noise(6)
    after = Dense(4, 3, activation="tanh", seed=1)
    _, state = (filt >> after).run(noise(9, 6))
    alone, both = filt.linearize(state.children[0], u), (filt >> after).linearize(state, u)
    y = (filt >> after).run(u[None], state)[0][0]
    through = (1 - y**2)[:, None] * after.params["W"]
    np.testing.assert_allclose(both.C, through @ alone.C, atol=1e-14)
    np.testing.assert_allclose(both.D, through @ alone.D, atol=1e-14)


def test_initial_weights():
    params = NADE(Dense(1, 60), n_hidden=16, seed=4).params
    for name in "UV":
        assert 0.24 < np.max(np.abs(params[name])) <= 0.25 and abs(np.mean(params[name])) < 0.02
    assert not params["L"].any() and not np.array_equal(params["U"], params["V"])
    other = NADE(Dense(1, 60), n_hidden=16, seed=5)
    assert not np.array_equal(other.params["V"], params["V"])

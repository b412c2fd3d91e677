"""Losses. Oracles: closed forms, scipy.stats and lfilter, PyTorch's autograd, slow readings in NumPy, differences."""

import pickle
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import log_expit, logsumexp
from scipy.stats import norm

from rnndsp import ParameterError, losses
from rnndsp.losses import (
    DC,
    ESR,
    Categorical,
    Gaussian,
    GaussianMixture,
    Loss,
    MultiResolutionSTFT,
    Quantile,
    WeightedSum,
    bernoulli,
    label,
    n_targets,
    squared,
)

N_VOICES, N_FRAMES = 5, 23
STFT = MultiResolutionSTFT(sizes=(8, 16), hops=(3, 8), convergence=0.7, floor_db=-40)
# a loss, and the outputs of a filter for it
LOSSES = [
    (squared, 2),
    (bernoulli, 2),
    (ESR(), 2),
    (ESR(pre_emphasis=0), 1),
    (DC(), 2),
    (STFT, 2),
    (Categorical(), 4),
    (Categorical((2, 3)), 5),
    (Gaussian(), 4),
    (GaussianMixture(3, min_scale=0.05), 15),
    (Quantile(), 6),
    (0.5 * (ESR(0.5) + 0.25 * DC()) + squared, 2),
]
each_loss = pytest.mark.parametrize(("loss", "n_outputs"), LOSSES, ids=lambda x: label(x) if callable(x) else "")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def targets(loss, n_outputs, shape, seed=1):
    """Without NaN, of a kind that the loss takes."""
    rng, n = np.random.default_rng(seed), n_targets(loss, n_outputs)
    if isinstance(loss, Categorical):
        return np.concatenate([rng.dirichlet(np.ones(k), shape) for k in loss.groups or (n,)], axis=-1)
    return rng.uniform(0, 1, (*shape, n)) if loss is bernoulli else rng.standard_normal((*shape, n))


def example(loss, n_outputs, dtype=np.float64):
    """One voice whole, one not scored at its start and its end, one with holes, one of one frame, one of none."""
    y, target = 0.7 * noise(N_VOICES, N_FRAMES, n_outputs), targets(loss, n_outputs, (N_VOICES, N_FRAMES))
    target[1, :5] = target[1, 17:] = target[2, 9:12] = np.nan
    target[2, 14, 0] = target[2, 3, -1] = target[3, :8] = target[3, 9:] = target[4] = np.nan
    return y.astype(dtype), target.astype(dtype)


# ---- what holds for each


@each_loss
def test_derivatives_are_those_of_differences(loss, n_outputs):
    y, target = example(loss, n_outputs)
    values, dy = loss(y, target)
    assert values.shape == (N_VOICES, N_FRAMES) and dy.shape == y.shape
    numeric, h = np.zeros_like(y), 1e-4
    for place in np.ndindex(y.shape[1:]):

        def moved(by, place=place):
            shifted = y.copy()
            shifted[:, *place] += by
            return loss(shifted, target)[0].sum(axis=1)

        # of fourth order, all voices at once as none depends on another
        numeric[:, *place] = (8 * (moved(h) - moved(-h)) - moved(2 * h) + moved(-2 * h)) / (12 * h)
    assert np.abs(dy[:4]).max(axis=(1, 2)).min() > 1e-3
    np.testing.assert_allclose(dy, numeric, rtol=1e-6, atol=1e-7 * np.abs(dy).max())


@each_loss
def test_what_is_not_scored_weighs_nothing(loss, n_outputs):
    y, target = example(loss, n_outputs)
    values, dy = loss(y, target)
    unscored = np.isnan(target).all(axis=-1)
    whole = ~np.isnan(target).any(axis=-1)
    assert not values[unscored].any() and not dy[unscored].any() and values[whole].all()
    # a channel of its own: only where outputs are channels of the target
    if target.shape == y.shape:
        assert not dy[np.isnan(target)].any()
    louder = np.where(unscored[..., None], 1e3, y)
    for found, expected in zip(loss(louder, target), (values, dy), strict=True):
        np.testing.assert_array_equal(found, expected)


@each_loss
def test_padding_changes_nothing(loss, n_outputs):
    y, target = example(loss, n_outputs)
    for room in ((0, 40), (9, 3)):
        wide = ((0, 0), room, (0, 0))
        values, dy = loss(np.pad(y, wide, constant_values=7), np.pad(target, wide, constant_values=np.nan))
        inside = slice(room[0], room[0] + N_FRAMES)
        for found, expected in zip((values, dy), loss(y, target), strict=True):
            np.testing.assert_allclose(found[:, inside], expected, rtol=1e-12, atol=1e-14)
            assert np.count_nonzero(found) == np.count_nonzero(expected)


@each_loss
def test_voices_stand_alone(loss, n_outputs):
    y, target = example(loss, n_outputs)
    values, dy = loss(y, target)
    for voices in np.array_split(np.arange(N_VOICES), 3):
        for found, expected in zip(loss(y[voices], target[voices]), (values, dy), strict=True):
            np.testing.assert_allclose(found, expected[voices], rtol=1e-12, atol=1e-14)
    # as many leading axes as wanted
    for found, expected in zip(loss(y[0], target[0]), (values[0], dy[0]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    for found in loss(y[:0], target[:0]) + loss(y[:, :0], target[:, :0]):
        assert not found.size


@each_loss
def test_single_precision(loss, n_outputs):
    y, target = example(loss, n_outputs, np.float32)
    expected = loss(y.astype(np.float64), target.astype(np.float64))
    for found, exact in zip(loss(y, target), expected, strict=True):
        assert found.dtype == np.float32 and exact.dtype == np.float64
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=2e-6 * np.abs(exact).max())


@each_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silence_is_finite(loss, n_outputs, dtype):
    """Of the target, of the output, of both; where both are, differences of signals cost nothing."""
    quiet, loud = np.zeros((1, N_FRAMES, n_outputs), dtype), noise(1, N_FRAMES, n_outputs).astype(dtype)
    target = targets(loss, n_outputs, (1, N_FRAMES)).astype(dtype)
    silence = target if isinstance(loss, Categorical) else np.zeros_like(target)
    for y, x in ((quiet, silence), (loud, silence), (quiet, target)):
        assert all(np.isfinite(found).all() for found in loss(y, x))
    if n_targets(loss, n_outputs) == n_outputs and not isinstance(loss, Categorical) and loss is not bernoulli:
        for found in loss(quiet, silence) + loss(loud, loud):
            assert not found.any()


@each_loss
def test_names_make_the_loss_again(loss, n_outputs):
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert eval(label(loss)) == loss and "0x" not in label(loss)
    if isinstance(loss, Loss):
        assert hash(loss) == hash(eval(label(loss)))


# ---- squared, bernoulli


def test_values_of_plain_functions():
    y, target = noise(40, 6), noise(40, 6, seed=2)
    values, dy = squared(y, target)
    np.testing.assert_allclose(values, np.linalg.norm(y - target, axis=1) ** 2, rtol=1e-13)
    np.testing.assert_array_equal(dy, 2 * (y - target))
    bits = target > 0
    values, dy = bernoulli(y, bits.astype(float))
    np.testing.assert_allclose(values, -np.sum(np.where(bits, log_expit(y), log_expit(-y)), axis=1), rtol=1e-13)
    np.testing.assert_allclose(dy, np.exp(log_expit(y)) - bits, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_log_odds(dtype):
    y = np.array([[1000, -1000, 1000, -1000, 0]], dtype)
    for bits, value, slopes in (
        ([1, 0, 1, 0, 1], np.log(2), [0, 0, 0, 0, -0.5]),
        ([0, 1, 1, 0, 0], 2000 + np.log(2), [1, -1, 0, 0, 0.5]),
        ([0, np.nan, np.nan, np.nan, np.nan], 1000, [1, 0, 0, 0, 0]),
        ([np.nan] * 5, 0, [0] * 5),
    ):
        values, dy = bernoulli(y, np.array([bits], dtype))
        assert values.dtype == dy.dtype == dtype
        np.testing.assert_allclose(values, [value], rtol=1e-6)
        np.testing.assert_array_equal(dy, [slopes])
    y = np.linspace(-40, 40, 81).astype(dtype)[:, None]
    exact = -log_expit(y.astype(np.float64))[:, 0]
    np.testing.assert_allclose(bernoulli(y, np.ones_like(y))[0], exact, rtol=1e-6, atol=1e-6)


# ---- ESR and DC


def one(loss, y, x):
    """The loss of one sequence, which stands at each of its frames."""
    values, _ = loss(y[None], x[None])
    scored = values[0][~np.isnan(x).all(axis=-1)]
    assert np.ptp(scored) == 0
    return float(scored[0])


def test_esr_closed_forms():
    x = noise(50, 2)
    for p in (0, 0.85, 1):
        assert one(ESR(p), 0 * x, x) == pytest.approx(1, rel=1e-14)
        assert one(ESR(p), 1.1 * x, x) == pytest.approx(0.01, rel=1e-12)
        y = noise(50, 2, seed=1)
        high, error = lfilter([1, -p], 1, x, axis=0), lfilter([1, -p], 1, y - x, axis=0)
        assert one(ESR(p), y, x) == pytest.approx(np.sum(error**2) / np.sum(high**2), rel=1e-13)
    # an error at one frequency, a target at another: the ratio of the two gains of the filter
    t = np.arange(96_000)[:, None]
    response = lambda f: abs(1 - 0.85 * np.exp(-2j * np.pi * f)) ** 2  # noqa: E731
    low, high = np.sin(2 * np.pi * 0.01 * t), np.sin(2 * np.pi * 0.2 * t)
    found = one(ESR(0.85), low + 0.1 * high, low)
    assert found == pytest.approx(0.01 * response(0.2) / response(0.01), rel=1e-3)


def test_esr_floor():
    """It is a mean square, of what is scored, after the pre-emphasis; above it the ratio is exact."""
    y, x = noise(30, 2), np.zeros((30, 2))
    x[:10] = np.nan
    power = np.mean(lfilter([1, -0.85], 1, y[10:], axis=0) ** 2)
    assert one(ESR(floor_db=-60), y, x) == pytest.approx(power / 1e-6, rel=1e-12)
    assert one(ESR(floor_db=-30), y, x) == pytest.approx(power / 1e-3, rel=1e-12)
    alternating = np.tile([[1.0], [-1.0]], (15, 1))  # of power 1, without pre-emphasis
    for level_db, expected in ((-59.9, 1), (-60.1, 10**-0.01), (-70, 0.1)):
        x = 10 ** (level_db / 20) * alternating
        assert one(ESR(pre_emphasis=0), 0 * x, x) == pytest.approx(expected, rel=1e-12)


def test_dc_closed_forms():
    x = noise(40, 1)
    assert one(DC(), x + 0.3, x) == pytest.approx(0.09 / np.mean(x**2), rel=1e-12)
    assert one(DC(), x + np.sin(2 * np.pi * np.arange(40) / 8)[:, None], x) < 1e-28
    assert one(DC(), 0 * x + 0.3, 0 * x) == pytest.approx(0.09 / 1e-6, rel=1e-12)
    x = noise(40, 2)
    x[10:, 1] = np.nan
    energy = np.nansum(x**2)
    assert one(DC(), x + np.array([0.3, -0.5]), x) == pytest.approx((40 * 0.09 + 10 * 0.25) / energy, rel=1e-12)


@pytest.mark.parametrize("loss", [ESR(), DC(), STFT])
def test_the_mean_over_frames_is_that_over_sequences_by_length(loss):
    y, x = noise(3, 30, 1), noise(3, 30, 1, seed=1)
    lengths = (30, 12, 7)
    alone = [one(loss, y[i, :n], x[i, :n]) for i, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        x[i, n:] = np.nan
    values, _ = loss(y, x)
    assert values.sum() / sum(lengths) == pytest.approx(np.average(alone, weights=lengths), rel=1e-12)


# ---- spectra


def slow_stft(loss, y, x):
    """The docstring, read slowly: one sequence, all of it scored."""
    total, floor = 0.0, 10 ** (loss.floor_db / 20)
    for size, hop in zip(loss.sizes, loss.hops, strict=True):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        window /= window.sum() / 2  # a sine has two lines of half its amplitude
        spectrogram = []
        for signal in (y, x):
            rows = []
            for channel in signal.T:
                for centre in range(0, len(channel) + 1, hop):
                    places = centre - size // 2 + np.arange(size)
                    seen = [channel[i] if 0 <= i < len(channel) else 0 for i in places]
                    for k in range(size // 2 + 1):
                        line = np.sum(window * seen * np.exp(-2j * np.pi * k * np.arange(size) / size))
                        rows.append(np.sqrt(abs(line) ** 2 + floor**2))
            spectrogram.append(np.array(rows))
        Y, X = spectrogram
        total += loss.convergence * np.linalg.norm(X - Y) / np.linalg.norm(X)
        total += loss.log_magnitude * np.mean(np.abs(np.log(X) - np.log(Y)))
    return total / len(loss.sizes)


@pytest.mark.parametrize("n_frames", [1, 5, 23, 24])
def test_stft_read_slowly(n_frames):
    y, x = noise(n_frames, 2), noise(n_frames, 2, seed=1)
    assert one(STFT, y, x) == pytest.approx(slow_stft(STFT, y, x), rel=1e-12)


def test_stft_closed_forms():
    x = noise(300, 1)
    loss = MultiResolutionSTFT((32, 64), floor_db=-200)
    for gain in (0.5, 3):
        assert one(loss, gain * x, x) == pytest.approx(abs(gain - 1) + abs(np.log(gain)), rel=1e-9)
        assert one(loss, -gain * x, x) == one(loss, gain * x, x)  # deaf to phase
    # a full-scale sine in silence has magnitude 1 in its bin, 1/2 in the two beside it, and the floor in all others
    sine = np.cos(2 * np.pi * 8 * np.arange(32 * 2000) / 32)[:, None]
    loss = MultiResolutionSTFT((32,), convergence=0, floor_db=-60)
    log = np.log(1e3)
    assert one(loss, sine, 0 * sine) == pytest.approx((log + 2 * np.log(500)) / 17, rel=5e-3)
    loss = MultiResolutionSTFT((32,), log_magnitude=0, floor_db=-60)
    assert one(loss, sine, 0 * sine) == pytest.approx(np.sqrt(1.5 / 17) * 1e3, rel=1e-2)


def test_stft_in_pieces(monkeypatch):
    loss, y, x = MultiResolutionSTFT((32, 64), (10, 16)), noise(2, 300, 2), noise(2, 300, 2, seed=1)
    whole = loss(y, x)
    monkeypatch.setattr(losses, "CHUNK", 900)
    for found, expected in zip(loss(y, x), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_memory_of_the_stft():
    y, x = noise(2, 1, 2**18, 1).astype(np.float32)
    tracemalloc.start()
    try:
        MultiResolutionSTFT()(y, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * y.nbytes + 4e6


def test_stft_is_that_of_torch():
    """Values and derivatives of sequences of unequal length."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    loss = MultiResolutionSTFT((32, 64, 128), (10, 16, 64), convergence=0.4, log_magnitude=2)
    y, x = noise(4, 200, 2), noise(4, 200, 2, seed=1)
    x[1, 50:] = x[2, :70] = x[2, 180:] = np.nan
    values, dy = loss(y, x)
    for voice in range(4):
        scored = ~np.isnan(x[voice, :, 0])
        output, wanted = (torch.tensor(signal[voice, scored].T) for signal in (y, x))
        output.requires_grad_()
        total = 0
        for size, hop in zip(loss.sizes, loss.hops, strict=True):
            window = torch.hann_window(size, dtype=torch.float64) * 4 / size
            Y, X = (
                torch.stft(s, size, hop, window=window, center=True, pad_mode="constant", return_complex=True)
                for s in (output, wanted)
            )
            Y, X = (torch.sqrt(Z.abs() ** 2 + 1e-10) for Z in (Y, X))
            total = total + 0.4 * torch.linalg.vector_norm(X - Y) / torch.linalg.vector_norm(X)
            total = total + 2 * torch.mean(torch.abs(torch.log(X) - torch.log(Y)))
        (total / 3 * scored.sum()).backward()
        np.testing.assert_allclose(values[voice, scored], float(total.detach()) / 3, rtol=1e-12)
        np.testing.assert_allclose(dy[voice, scored], output.grad.T, rtol=1e-9, atol=1e-12)


def test_stft_looks_at_what_is_scored_only():
    y, x = noise(20, 1), noise(20, 1, seed=1)
    x[8:11] = np.nan
    y_gap, x_gap = (np.where(np.isnan(x), 0, signal) for signal in (y, x))
    assert one(STFT, y, x) == pytest.approx(one(STFT, y_gap, x_gap), rel=1e-14)


def test_defaults_of_the_hops():
    assert MultiResolutionSTFT() == MultiResolutionSTFT([512, 1024, 2048], hops=np.array([128, 256, 512]))


# ---- likelihoods


def test_categorical_closed_forms():
    eye = np.eye(5)
    values, dy = Categorical()(np.zeros((5, 5)), eye)
    np.testing.assert_allclose(values, np.log(5), rtol=1e-15)
    np.testing.assert_allclose(dy, 0.2 - eye, rtol=1e-15)
    # the least is the entropy, at the logarithms of the probabilities, whatever is added to them
    p = np.random.default_rng(0).dirichlet(np.ones(5), 7)
    values, dy = Categorical()(np.log(p) + noise(7, 1), p)
    np.testing.assert_allclose(values, -np.sum(p * np.log(p), axis=1), rtol=1e-13)
    np.testing.assert_allclose(dy, 0, atol=1e-14)
    for dtype in (np.float32, np.float64):
        y = np.array([[1000, -1000, 0], [-1000, -1000, -1000]], dtype)
        values, dy = Categorical()(y, np.array([[0, 1, 0], [0, 0, 1]], dtype))
        np.testing.assert_allclose(values, [2000, np.log(3)], rtol=1e-6)
        np.testing.assert_allclose(dy, [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)


def test_groups_are_independent():
    y, target = noise(9, 5), targets(Categorical((2, 3)), 5, (9,))
    target[4, 1] = np.nan  # the first group is not scored then, the other one is
    first, second = (Categorical()(y[:, part], target[:, part]) for part in (np.s_[:2], np.s_[2:]))
    values, dy = Categorical((2, 3))(y, target)
    np.testing.assert_allclose(values, first[0] + second[0], rtol=1e-14)
    np.testing.assert_allclose(dy, np.hstack([first[1], second[1]]), rtol=1e-14)
    assert first[0][4] == 0 and values[4] > 0 and not dy[4, :2].any()


def test_likelihoods_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    y, x = noise(2, 9, 5), targets(Categorical(), 5, (2, 9))
    leaf = torch.tensor(y, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(leaf.movedim(-1, 1), torch.tensor(x).movedim(-1, 1), reduction="none")
    expected.sum().backward()
    values, dy = Categorical()(y, x)
    np.testing.assert_allclose(values, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(dy, leaf.grad, rtol=1e-11, atol=1e-14)
    # a mixture of three in two dimensions
    loss, y, x = GaussianMixture(3, min_scale=0.1), noise(4, 15), noise(4, 2, seed=1)
    leaf, distributions = torch.tensor(y, requires_grad=True), torch.distributions
    means, scales = (part.reshape(4, 3, 2) for part in (leaf[:, 3:9], 0.1 + torch.exp(leaf[:, 9:])))
    parts = distributions.Independent(distributions.Normal(means, scales), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=leaf[:, :3]), parts)
    expected = -mixture.log_prob(torch.tensor(x))
    expected.sum().backward()
    values, dy = loss(y, x)
    np.testing.assert_allclose(values, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(dy, leaf.grad, rtol=1e-10, atol=1e-13)


def test_gaussian_is_that_of_scipy():
    y, x = noise(3, 7, 4), noise(3, 7, 2, seed=1)
    y[0, 0, 2:] = -60, 60  # as narrow as may be, and very wide
    x[1, 2, 1] = np.nan
    logs = norm.logpdf(x, y[..., :2], 0.01 + np.exp(y[..., 2:]))
    np.testing.assert_allclose(Gaussian(0.01)(y, x)[0], -np.nansum(logs, axis=-1), rtol=1e-12)
    # the least is at mean and standard deviation of the target
    x, scale = 3 + 2 * noise(500, 1), 2.0
    mean, std = x.mean(), x.std()
    y = np.tile([mean, np.log(std - 1e-3)], (500, 1))
    values, dy = Gaussian()(y, x)
    np.testing.assert_allclose(dy.sum(axis=0), 0, atol=1e-10)
    assert values.mean() == pytest.approx(0.5 * np.log(2 * np.pi * np.e * std**2), rel=1e-12) and std < 1.2 * scale


def test_gaussian_beyond_the_range_of_exp():
    for dtype in (np.float32, np.float64):
        values, dy = Gaussian(1e-3)(np.array([[0, 1000], [0.5, -1000]], dtype), np.array([[2], [0.5]], dtype))
        np.testing.assert_allclose(values, np.array([1000, np.log(1e-3)]) + 0.5 * np.log(2 * np.pi), rtol=1e-6)
        np.testing.assert_allclose(dy, [[0, 1], [0, 0]], atol=1e-7)


def test_mixture_is_that_of_scipy():
    loss, y, x = GaussianMixture(3, min_scale=0.02), noise(2, 6, 15), noise(2, 6, 2, seed=1)
    x[0, 1, 0] = x[1, 2] = np.nan  # the marginal density of the other channel; none
    mean, scale = y[..., 3:9].reshape(2, 6, 3, 2), 0.02 + np.exp(y[..., 9:].reshape(2, 6, 3, 2))
    logs = np.nansum(norm.logpdf(x[..., None, :], mean, scale), axis=-1)
    weights = y[..., :3] - logsumexp(y[..., :3], axis=-1, keepdims=True)
    expected = -logsumexp(weights + logs, axis=-1)
    expected[1, 2] = 0
    np.testing.assert_allclose(loss(y, x)[0], expected, rtol=1e-12)


def test_mixtures_of_one_or_of_equals_are_gaussian():
    y, x = noise(8, 4), noise(8, 2, seed=1)
    values, dy = Gaussian()(y, x)
    single, slope = GaussianMixture(1)(np.hstack([noise(8, 1, seed=2), y]), x)
    np.testing.assert_allclose(single, values, rtol=1e-13)
    np.testing.assert_allclose(slope, np.hstack([np.zeros((8, 1)), dy]), rtol=1e-13, atol=1e-15)
    twice, _ = GaussianMixture(2)(np.hstack([noise(8, 2), y[:, :2], y[:, :2], y[:, 2:], y[:, 2:]]), x)
    np.testing.assert_allclose(twice, values, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mixture_far_from_all_its_components(dtype):
    """Where every density is 0 in floating point: the nearest component alone counts."""
    y = np.array([[1000, -1000, 0, 100, 0, 0]], dtype)
    values, dy = GaussianMixture(2)(y, np.array([[-1e4]], dtype))
    assert np.isfinite(dy).all()
    scale = 1.001
    expected = 0.5 * (1e4 / scale) ** 2 + np.log(scale) + 0.5 * np.log(2 * np.pi)
    assert values[0] == pytest.approx(expected, rel=1e-5)


# ---- quantiles


def test_pinball_read_slowly():
    y, x, levels = noise(7, 6), noise(7, 2, seed=1), (0.05, 0.5, 0.7)
    x[3, 1] = np.nan
    expected = np.zeros(7)
    for t in range(7):
        for k in range(2):
            for i, level in enumerate(levels):
                short = x[t, k] - y[t, 2 * i + k]
                if not np.isnan(short):
                    expected[t] += level * short if short > 0 else (level - 1) * short
    values, _ = Quantile(levels)(y, x)
    np.testing.assert_allclose(values, expected, rtol=1e-13)
    np.testing.assert_allclose(Quantile([0.5])(y[:, :2], x)[0], 0.5 * np.nansum(np.abs(x - y[:, :2]), axis=1))


def test_the_least_pinball_loss_is_at_the_quantile():
    x, levels = noise(101, 1), (0.105, 0.5, 0.903)
    for level, q in zip(levels, np.quantile(x, levels, method="inverted_cdf"), strict=True):
        slopes = [Quantile((level,))(np.full((101, 1), q + e), x)[1].sum() for e in (-1e-9, 1e-9)]
        assert slopes[0] < 0 < slopes[1]
    assert not Quantile((0.3,))(x, x)[1].any()


# ---- sums


def test_sums():
    y, x = noise(2, 9, 1), noise(2, 9, 1, seed=1)
    for loss, expected in (
        (ESR() + DC(), [(1, ESR()), (1, DC())]),
        (ESR() + 0.5 * DC(), [(1, ESR()), (0.5, DC())]),
        (2 * (ESR() * 3 + squared), [(6, ESR()), (2, squared)]),
        (squared + np.float64(0.5) * ESR(), [(1, squared), (0.5, ESR())]),
        (WeightedSum([(0.25, squared)]), [(0.25, squared)]),
    ):
        assert loss == WeightedSum(tuple(expected))
        parts = [[w * part for part in term(y, x)] for w, term in expected]
        for found, summands in zip(loss(y, x), zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(found, sum(summands), rtol=1e-14)


def test_labels():
    assert label(ESR(floor_db=np.int64(-50)) + 0.5 * DC() + squared) == (
        "(ESR(pre_emphasis=0.85, floor_db=-50.0) + 0.5 * DC(floor_db=-60.0) + squared)"
    )
    assert label(Quantile(np.array([0.25, 0.75]))) == "Quantile(levels=(0.25, 0.75))"
    assert label(bernoulli) == "bernoulli"

    class Plain(Loss):
        def __call__(self, y, target):
            return squared(y, target)

    @dataclass(frozen=True)
    class Scaled(Loss):
        scale: float

        def __call__(self, y, target):
            return squared(self.scale * y, target)

    assert "0x" not in label(Plain()) and label(Plain()).endswith("Plain")
    assert label(Plain() + Scaled(3.0)).endswith("Scaled(scale=3.0))")


@pytest.mark.parametrize(
    ("loss", "counts"),
    [
        (squared, {1: 1, 7: 7}),
        (ESR() + DC(), {3: 3}),
        (Categorical((12, 5)), {17: 17}),
        (Gaussian(), {2: 1, 6: 3}),
        (GaussianMixture(5), {15: 1, 25: 2}),
        (Quantile(), {3: 1, 6: 2}),
        (Gaussian() + Quantile((0.2, 0.6)), {4: 2}),
    ],
)
def test_channels_of_the_target(loss, counts):
    for n_outputs, expected in counts.items():
        assert n_targets(loss, n_outputs) == expected


# ---- bad input


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ESR(pre_emphasis=1.1), "pre_emphasis=1.1"),
        (lambda: ESR(pre_emphasis=np.nan), "pre_emphasis=nan"),
        (lambda: ESR(floor_db=-np.inf), "floor_db=-inf"),
        (lambda: DC(floor_db=-201), "floor_db=-201"),
        (lambda: MultiResolutionSTFT(sizes=()), "sizes"),
        (lambda: MultiResolutionSTFT(sizes=512), "sizes=512"),
        (lambda: MultiResolutionSTFT(sizes=(511,)), "even"),
        (lambda: MultiResolutionSTFT(sizes=(2**40,)), "at most"),
        (lambda: MultiResolutionSTFT(hops=(128,)), "hops"),
        (lambda: MultiResolutionSTFT(sizes=(8,), hops=(5,)), "half"),
        (lambda: MultiResolutionSTFT(convergence=0, log_magnitude=0), "not both 0"),
        (lambda: MultiResolutionSTFT(log_magnitude=-1), "at least 0"),
        (lambda: Categorical((12, 1)), "groups"),
        (lambda: Gaussian(min_scale=0), "min_scale=0"),
        (lambda: GaussianMixture(0), "n_components=0"),
        (lambda: GaussianMixture(2, min_scale=-1), "min_scale=-1"),
        (lambda: Quantile(()), "levels"),
        (lambda: Quantile((0.5, 0.5)), "rise"),
        (lambda: Quantile((0, 0.5)), "between 0 and 1"),
        (lambda: Quantile((0.5, np.nan)), "rise"),
        (lambda: ESR() * "2", "weight='2'"),
        (lambda: ESR() + DC, "DC"),
        (lambda: WeightedSum(()), "at least one"),
        (lambda: WeightedSum(3), "terms=3"),
        (lambda: WeightedSum(((1, 2),)), "2 is no loss"),
        (lambda: Gaussian().n_targets(3), "even"),
        (lambda: GaussianMixture(2).n_targets(7), "not 7"),
        (lambda: Quantile().n_targets(4), "not 4"),
        (lambda: Categorical((2, 3)).n_targets(6), "not 6"),
        (lambda: (squared + Gaussian()).n_targets(4), r"\[4, 2\]"),
        (lambda: Gaussian()(noise(5, 4), noise(5, 4)), "n_targets"),
        (lambda: ESR()(noise(5), noise(5)), "n_frames"),
        (lambda: ESR()(noise(5, 1), noise(4, 1)), "shape"),
        (lambda: ESR()(noise(5, 1), np.ones((5, 1), int)), "int64"),
        (lambda: Categorical()(noise(5, 3), np.ones((5, 3))), "probabilities"),
        (lambda: Categorical()(noise(1, 2), np.array([[2.0, -1.0]])), "probabilities"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(ParameterError, match=said):
        make()


def test_a_sum_with_what_is_no_loss():
    for other in (3, "ESR", None):
        with pytest.raises(TypeError):
            ESR() + other
        with pytest.raises(TypeError):
            other + ESR()


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        ESR().pre_emphasis = 0.5

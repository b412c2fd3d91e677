"""Linear prediction.

Oracles: scipy's Toeplitz solver, NumPy's least squares, librosa's Burg, processes and signals of known coefficients,
the energy of the residual itself.
"""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from rnndsp.errors import ParameterError
from rnndsp.filters.lattice import Lattice, step_up
from rnndsp.filters.prediction import linear_prediction

METHODS = ["autocorrelation", "covariance", "burg"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def coloured(n, seed=0):
    """Something with resonances, of no finite order."""
    return scipy.signal.lfilter(*scipy.signal.ellip(4, 1, 40, [0.1, 0.3], "band"), noise(n, seed=seed)) + 0.01 * noise(
        n
    )


def free(poles, n):
    """A signal that only decays or grows from its start."""
    impulse = np.zeros(n)
    impulse[0] = 1
    return scipy.signal.lfilter([1], np.poly(poles).real, impulse)


@pytest.mark.parametrize("order", [1, 2, 10, 30])
def test_autocorrelation_solves_the_toeplitz_system(order):
    x = coloured(1000)
    r = np.correlate(x, x, "full")[999 : 1000 + order]
    found = linear_prediction(x, order)
    expected = scipy.linalg.solve_toeplitz(r[:-1], -r[1:])
    np.testing.assert_allclose(found.a, [1, *expected], atol=1e-9)
    assert found.error_power == pytest.approx((r[0] + r[1:] @ expected) / 1000, rel=1e-9)
    np.testing.assert_allclose(step_up(found.k)[-1], found.a, rtol=1e-12)
    # the residual of the signal and the silence after it has just that power
    residual = found.whiten()(np.pad(x, (0, order)))
    assert np.sum(residual**2) / 1000 == pytest.approx(found.error_power, rel=1e-10)


def test_burg_equals_librosa():
    librosa = pytest.importorskip("librosa")
    for order in (1, 2, 7, 24):
        x = coloured(500, seed=order)
        np.testing.assert_allclose(linear_prediction(x, order, method="burg").a, librosa.lpc(x, order=order), rtol=1e-9)


def test_burg_in_closed_form():
    # k1 = -2 sum x[t] x[t-1] / sum (x[t]^2 + x[t-1]^2)
    found = linear_prediction([1.0, 2.0, 4.0], 1, method="burg")
    np.testing.assert_allclose(found.k, [-2 * (2 + 8) / (4 + 16 + 1 + 4)])
    assert found.error_power == pytest.approx(7 * (1 - 0.8**2))


@pytest.mark.parametrize("order", [1, 5, 20])
def test_covariance_is_least_squares(order):
    x = coloured(9000)  # several chunks
    rows = np.stack([x[order - 1 - i : x.size - 1 - i] for i in range(order)], axis=1)
    expected, (residue,), *_ = np.linalg.lstsq(rows, -x[order:])
    found = linear_prediction(x, order, method="covariance")
    np.testing.assert_allclose(found.a, [1, *expected], atol=1e-10)
    assert found.error_power == pytest.approx(residue / (9000 - order), rel=1e-10)
    assert np.mean(found.whiten()(x)[order:] ** 2) == pytest.approx(found.error_power, rel=1e-10)


def test_covariance_is_exact_where_a_signal_decays_freely():
    poles = [0.95 * np.exp(0.3j), 0.95 * np.exp(-0.3j), 0.9 * np.exp(1.5j), 0.9 * np.exp(-1.5j)]
    found = linear_prediction(free(poles, 8), 4, method="covariance")
    np.testing.assert_allclose(found.a, np.poly(poles).real, atol=1e-11)
    assert found.error_power < 1e-24
    np.testing.assert_allclose(np.sort_complex(found.colour().poles()), np.sort_complex(poles), atol=1e-11)
    # with more coefficients than it takes, too
    assert linear_prediction(free(poles, 100), 7, method="covariance").error_power < 1e-24
    # the others see the ends of the piece
    assert np.abs(linear_prediction(free(poles, 8), 4).a - np.poly(poles).real).max() > 0.1


def test_covariance_may_be_unstable_and_the_others_not():
    x = free([1.1, -0.5], 40)
    found = linear_prediction(x, 2, method="covariance")
    np.testing.assert_allclose(found.a, np.poly([1.1, -0.5]), atol=1e-11)
    assert found.k is None
    with pytest.raises(ParameterError, match="not stable"):
        found.colour()
    for method in ("autocorrelation", "burg"):
        assert np.abs(linear_prediction(x, 2, method=method).colour().poles()).max() < 1
    rng = np.random.default_rng(0)
    unstable = 0
    for _ in range(300):
        n = rng.integers(12, 40)
        x = rng.standard_normal(n) * 1.1 ** np.arange(n)
        for method in ("autocorrelation", "burg"):
            k = linear_prediction(x, 6, method=method).k
            assert np.abs(k).max() < 1 and np.abs(np.roots(step_up(k)[-1])).max() < 1
        unstable += linear_prediction(x, 6, method="covariance").k is None
    assert unstable > 10


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_second_order_is_found_again(method):
    k = np.array([-0.9, 0.8])
    x = Lattice(k)(noise(200_000))
    found = linear_prediction(x, 2, method=method, sample_rate=8000)
    # the variance of an estimated coefficient is (1 - k2^2) / n
    np.testing.assert_allclose(found.k, k, atol=4 * 0.6 / np.sqrt(x.size))
    assert found.error_power == pytest.approx(1, abs=0.015)
    assert found.whiten().sample_rate == found.colour().sample_rate == 8000
    # what is beyond the order is nothing
    more = linear_prediction(x, 6, method=method)
    assert np.abs(more.k[2:]).max() < 4 / np.sqrt(x.size)


@pytest.mark.parametrize("method", METHODS)
def test_colour_undoes_whiten(method):
    x = coloured(3000)
    found = linear_prediction(x, 24, method=method)
    np.testing.assert_allclose((found.whiten() >> found.colour())(x), x, atol=1e-10)


def test_envelope():
    x = coloured(4000)
    found = linear_prediction(x, 16)
    grid = np.arange(65536) / 65536
    assert np.mean(found.envelope(grid)) == pytest.approx(np.mean(x**2), rel=1e-10)
    in_hz = linear_prediction(x, 16, sample_rate=8000)
    np.testing.assert_allclose(in_hz.envelope(8000 * grid), found.envelope(grid), rtol=1e-9)
    response = found.colour().linearize().frequency_response(2 * np.pi * grid[:100]).ravel()
    np.testing.assert_allclose(found.envelope(grid[:100]), found.error_power * np.abs(response) ** 2, rtol=1e-8)
    # the band of the filter that made it
    passed, stopped = found.envelope([0.1]), found.envelope([0.4])
    assert passed > 100 * stopped


@pytest.mark.parametrize("method", METHODS)
def test_level_and_type_of_the_signal_do_not_matter(method):
    x = coloured(300)
    before = x.copy()
    found = linear_prediction(x, 4, method=method)
    np.testing.assert_array_equal(x, before)
    for level in (1e-200, 1e200):
        np.testing.assert_allclose(linear_prediction(level * x, 4, method=method).a, found.a, rtol=1e-9)
    quiet = linear_prediction(1e-3 * x, 4, method=method)
    assert quiet.error_power == pytest.approx(1e-6 * found.error_power, rel=1e-9)
    single = linear_prediction(x.astype(np.float32), 4, method=method)
    assert single.a.dtype == np.float64
    np.testing.assert_allclose(single.a, found.a, atol=1e-4)
    np.testing.assert_allclose(linear_prediction([1, 2, 0, -3, 1, 1], 1, method=method).a[0], 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_guitar_is_whitened(data_path, method):
    soundfile = pytest.importorskip("soundfile")
    path = data_path / "audio" / "pyneuralfx_example.wav"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    x, rate = soundfile.read(path)
    x = (x if x.ndim == 1 else x[:, 0])[rate : 2 * rate]
    found = linear_prediction(x, 24, method=method, sample_rate=rate)
    residual = found.whiten()(x)

    def flatness(signal):
        _, power = scipy.signal.welch(signal, nperseg=2048)
        return np.exp(np.mean(np.log(power))) / np.mean(power)

    assert flatness(residual) > 20 * flatness(x)
    assert np.mean(residual**2) < 0.02 * np.mean(x**2)
    np.testing.assert_allclose(found.colour()(residual), x, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: linear_prediction(np.zeros(100), 4), "silence"),
        (lambda: linear_prediction([1.0, np.nan, 2.0], 1), "NaN"),
        (lambda: linear_prediction([1.0, np.inf, 2.0], 1), "infinity"),
        (lambda: linear_prediction(noise(10), 10), "holds 10 samples"),
        (lambda: linear_prediction(noise(7), 4, method="covariance"), "at least 8"),
        (lambda: linear_prediction(noise(10), 0), "order=0"),
        (lambda: linear_prediction(noise(10), 2.0), "order=2.0"),
        (lambda: linear_prediction(noise(9000), 4000), "more than 2000"),
        (lambda: linear_prediction(noise(10, 2), 2), "one channel"),
        (lambda: linear_prediction(noise(10) * 1j, 2), "real"),
        (lambda: linear_prediction(noise(10), 2, method="prony"), "prony"),
        (lambda: linear_prediction(np.ones(50), 3, method="burg"), "after 0 coefficients nothing is left"),
        (lambda: linear_prediction((-1.0) ** np.arange(50), 3, method="burg"), "nothing is left"),
        (lambda: linear_prediction(noise(50), 2, sample_rate=-1.0).whiten(), "sample_rate"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ParameterError, match=names):
        make()


def test_what_lies_below_rounding_is_refused_and_noise_helps():
    # steeply lowpassed: all but a hundredth of the spectrum is empty
    x = scipy.signal.sosfiltfilt(scipy.signal.ellip(12, 0.1, 200, 0.02, output="sos"), noise(5000))
    with pytest.raises(ParameterError, match=r"order 60 is too high.*noise"):
        linear_prediction(x * np.hanning(x.size), 60)
    assert linear_prediction(x * np.hanning(x.size) + 1e-4 * noise(5000), 60).colour().spectral_radius() < 1

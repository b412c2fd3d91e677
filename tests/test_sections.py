"""SOS and TransferFunction.

Oracles: scipy.signal's sosfilt and lfilter with zi and zf, its zpk designs for poles, the impulse response for the
linearised filter, central differences for the adjoint (exact up to rounding where the loss is linear or quadratic).
"""

import numpy as np
import pytest
import scipy.signal

from rnndsp.errors import ParameterError
from rnndsp.filters.sections import SOS, TransferFunction

RATE = 48000
DESIGNS = {
    "butter": lambda order, output: scipy.signal.butter(order, 1000, fs=RATE, output=output),
    "ellip": lambda order, output: scipy.signal.ellip(order, 0.5, 60, 6000, fs=RATE, output=output),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.max(np.abs(desired)))


def at(filt, z):
    """A state of one voice whose field z has these values."""
    state = filt.rest_state()
    state.z[...] = z
    return state


def small(kind):
    """Two sections, or one of order three, with nothing special about their coefficients."""
    if kind is SOS:
        return SOS([[0.5, 0.3, -0.2, 2, -0.9, 0.5], [1, -0.4, 0.25, 1, 0.3, -0.4]])
    return TransferFunction([0.5, 0.3, -0.2], [1, -0.9, 0.5, -0.2])


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("order", range(2, 13))
def test_sos_equals_sosfilt(design, order):
    sos, u = DESIGNS[design](order, "sos"), noise(3000)
    filt = SOS(sos)
    # states as they occur: arbitrary ones in front of a gain of 1e-15 would drown the input
    _, zi = scipy.signal.sosfilt(sos, noise(500, seed=1), zi=np.zeros((len(sos), 2)))
    y, state = filt.run(u, at(filt, zi))
    expected, zf = scipy.signal.sosfilt(sos, u, zi=zi)
    close(y, expected)
    for found, wanted in zip(state.z, zf, strict=True):
        close(found, wanted)
    np.testing.assert_array_equal(filt.sos, sos)


@pytest.mark.parametrize(
    ("b", "a"),
    [scipy.signal.butter(order, 0.5) for order in range(2, 13)]
    + [design(order, "ba") for design in DESIGNS.values() for order in range(2, 7)],
)
def test_transfer_function_equals_lfilter(b, a):
    filt, u = TransferFunction(3 * b, 3 * a), noise(3000)
    _, zi = scipy.signal.lfilter(b, a, noise(500, seed=1), zi=np.zeros(a.size - 1))
    y, state = filt.run(u, at(filt, zi))
    expected, zf = scipy.signal.lfilter(b, a, u, zi=zi)
    # a cutoff of 1 kHz at order 6 loses five digits in either implementation, as its denominator cancels near z = 1
    tolerance = 1e-12 + 1e-16 * np.sum(np.abs(a)) / abs(np.sum(a))
    close(y, expected, tolerance)
    close(state.z[0], zf, tolerance)


@pytest.mark.parametrize(
    ("b", "a"), [([2.0], [4.0]), ([1, 2, 3], [1]), ([1], [1, 0.5, 0.2]), ([0, 0, 1], [2, 1]), ([1, 0], [1, 0, 0])]
)
def test_lengths_are_those_of_lfilter(b, a):
    filt, u = TransferFunction(b, a), noise(2, 50)
    order = max(len(b), len(a)) - 1
    state = filt.rest_state((2,))
    assert state.z.shape == (2, 1, order)
    y, state = filt.run(u[..., None], state)
    expected, zf = scipy.signal.lfilter(b, a, u, zi=np.zeros((2, order)))
    close(y[..., 0], expected)
    np.testing.assert_allclose(state.z[:, 0], zf, atol=1e-14)


def test_design_conversions_agree():
    z, p, k = scipy.signal.butter(5, 3000, fs=RATE, output="zpk")
    u = noise(1000)
    expected = SOS(scipy.signal.zpk2sos(z, p, k))(u)
    close(SOS.from_zpk(z, p, k)(u), expected)
    filt = TransferFunction(*scipy.signal.zpk2tf(z, p, k), sample_rate=RATE)
    close(SOS(filt.to_sos())(u), expected, 1e-10)


def fir(order):
    return TransferFunction(noise(order + 1), [1])


# orders known when compiling and not, with fewer states than registers, and so long that few voices get no lanes
ORDERS = {
    "sos": SOS(DESIGNS["ellip"](7, "sos")),
    "one section": SOS(DESIGNS["butter"](2, "sos")),
    "order 0": fir(0),
    "order 1": TransferFunction([1, 0.5], [1, -0.9]),
    "order 3": small(TransferFunction),
    "order 40": fir(40),
}


@pytest.mark.parametrize("filt", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_voices", [1, 3, 16, 19])
def test_blocks_tape_and_voices_change_no_bit(filt, dtype, n_voices):
    u = noise(n_voices, 300, 1).astype(dtype)
    whole, end = filt.run(u)
    state, pieces = None, []
    for block in np.split(u, [0, 1, 2, 17, 64, 65, 66, 200, 299], axis=1):
        y, state = filt.run(block, state)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    assert state == end
    tape = filt.tape(u)
    np.testing.assert_array_equal(tape.y, whole)
    assert tape.state == end
    for voice in range(n_voices):
        y, state = filt.run(u[voice])
        np.testing.assert_array_equal(y, whole[voice])
        np.testing.assert_array_equal(state.z, end.z[voice])


@pytest.mark.parametrize("n_voices", [2, 8, 19])
def test_voices_equal_scipy(n_voices):
    u, sos = noise(n_voices, 1000), DESIGNS["ellip"](7, "sos")
    zi = 0.1 * noise(n_voices, len(sos), 2, seed=1)
    start = SOS(sos).rest_state((n_voices,))
    start.z[...] = zi
    y, end = SOS(sos).run(u[..., None], start)
    expected, zf = scipy.signal.sosfilt(sos, u, zi=zi.swapaxes(0, 1))
    close(y[..., 0], expected)
    close(end.z, zf.swapaxes(0, 1))
    for order in (1, 3, 40):
        filt = fir(order)
        close(filt(u[..., None])[..., 0], scipy.signal.lfilter(filt.params["b"][0], [1], u))


@pytest.mark.parametrize("n_voices", [1, 16])
def test_any_order_computes_as_a_known_one(n_voices):
    u, (section,) = noise(n_voices, 300, 1), DESIGNS["butter"](2, "sos")
    expected, end = SOS([section]).run(u)
    for order in (2, 3, 40):
        y, state = TransferFunction(*(np.pad(c, (0, order - 2)) for c in np.split(section, 2))).run(u)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(state.z[..., :2], end.z)
        assert not state.z[..., 2:].any()


@pytest.mark.parametrize("filt", ORDERS.values(), ids=ORDERS)
def test_nan_and_infinity_stay_in_their_voice(filt):
    u = noise(19, 100, 1)
    expected = filt(u)
    u[3, 50], u[17, 50] = np.nan, np.inf
    y, state = np.empty_like(u), filt.rest_state((19,))
    filt._process(u, state, y)
    good = np.isfinite(y)
    np.testing.assert_array_equal(y[good], expected[good])
    last = 100 if filt.n_states else 51
    bad = np.zeros_like(good)
    bad[[3, 17], 50:last] = True
    np.testing.assert_array_equal(good, ~bad)
    assert np.isfinite(np.delete(state.z, [3, 17], axis=0)).all()


@pytest.mark.parametrize("filt", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("shape", [(0, 10, 1), (3, 0, 1), (0, 0, 1)])
def test_no_voices_and_no_frames(filt, shape):
    y, state = filt.run(np.zeros(shape))
    assert y.shape == shape and state.index == shape[1] and not state.z.any()
    tape = filt.tape(np.zeros(shape))
    assert tape.adjoint(tape.y).u.shape == shape


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("order", [2, 5, 8, 12])
def test_poles_are_those_designed(design, order):
    _, p, _ = DESIGNS[design](order, "zpk")
    found = SOS(DESIGNS[design](order, "sos")).poles()
    assert found.dtype == np.complex128
    # an odd order is filled up with a pole at the origin
    assert distance(found, np.concatenate([p, np.zeros(order % 2)])) < 1e-14


@pytest.mark.parametrize("order", [2, 5])
def test_poles_of_a_transfer_function(order):
    _, p, _ = DESIGNS["ellip"](order, "zpk")
    assert distance(TransferFunction(*DESIGNS["ellip"](order, "ba")).poles(), p) < 1e-12
    assert not TransferFunction([1, 2, 3], [1]).poles().any()


def distance(found, expected):
    """Farthest that an entry of either list is from the other list (Hausdorff)."""
    assert found.shape == expected.shape
    apart = np.abs(found[:, None] - expected)
    return max(apart.min(axis=0).max(), apart.min(axis=1).max())


@pytest.mark.parametrize(("p", "q"), [(0.9, 0.8), (-0.9, 1e-9), (0.5, -0.5), (0.0, 0.0), (0.7, 0.0), (0.6, 0.6)])
def test_real_poles_keep_their_digits(p, q):
    found = np.sort(SOS([[1, 0, 0, 1, -(p + q), p * q]]).poles())
    np.testing.assert_allclose(found, np.sort(np.array([p, q], complex)), rtol=1e-7 if p == q else 1e-14)


@pytest.mark.parametrize(
    "filt",
    [
        small(SOS),
        SOS(DESIGNS["ellip"](6, "sos"), sample_rate=RATE),
        small(TransferFunction),
        TransferFunction([2], [1]),
    ],
)
def test_linearised_is_the_filter_itself(filt):
    u, start = noise(200), noise(filt.n_states, seed=1)
    linear = filt.linearize()
    assert linear.sample_rate == filt.sample_rate
    close(linear(np.eye(1, 200)[0]), filt(np.eye(1, 200)[0]))
    y, end = filt.run(u, filt.rest_state().unravel(start))
    expected, state = linear.run(u, linear.rest_state().unravel(start))
    close(y, expected)
    np.testing.assert_allclose(end.ravel(), state.ravel(), atol=1e-12)


@pytest.mark.parametrize("kind", [SOS, TransferFunction])
def test_adjoint_equals_differences(kind):
    filt, u, start = small(kind), noise(2, 40, 1), noise(2, small(kind).n_states, seed=1)
    target, final = noise(2, 40, 1, seed=2), noise(2, filt.n_states, seed=3)

    def loss(f=filt, u=u, x=start):
        y, end = f.run(u, f.rest_state((2,)).unravel(x))
        return np.sum((y - target) ** 2) / 2 + np.sum(final * end.ravel())

    tape = filt.tape(u, filt.rest_state((2,)).unravel(start))
    gradient = tape.adjoint(tape.y - target, final)
    by_name = {"u": (u, gradient.u), "x": (start, gradient.state)}
    for name, (value, found) in by_name.items():
        close(found, differences(lambda v, name=name: loss(**{name: v}), value), 1e-8)
    assert set(gradient.params) == {"a", "b"}
    for name, found in gradient.params.items():
        close(found, differences(lambda v, name=name: loss(filt.replace(**{name: v})), filt.params[name]), 1e-8)


def differences(function, value, step=1e-5):
    gradient = np.empty(value.shape)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


def test_float32_signals_keep_float64_accuracy():
    # rounding the coefficients to float32 would be an error of 1e-3 of the peak
    filt = SOS(scipy.signal.butter(8, 20, fs=RATE, output="sos"))
    u = noise(RATE).astype(np.float32)
    y, state = filt.run(u)
    assert y.dtype == np.float32 and state.z.dtype == np.float64
    np.testing.assert_array_equal(y, filt(u.astype(np.float64)).astype(np.float32))
    gradient = filt.tape(u).adjoint(y)
    assert gradient.u.dtype == np.float32 and gradient.params["b"].dtype == np.float64


@pytest.mark.parametrize("n_voices", [1, 3])
def test_tails_end_in_zeros(n_voices):
    y, state = SOS(DESIGNS["butter"](4, "sos")).run(np.tile(np.eye(20000, 1), (n_voices, 1, 1)))
    assert not state.z.any() and not y[:, -1000:].any()
    assert np.min(np.abs(y[y != 0])) >= 1e-30


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: SOS(np.ones(6)), "sos"),
        (lambda: SOS(np.ones((0, 6))), "sos"),
        (lambda: SOS(np.ones((2, 5))), "sos"),
        (lambda: SOS([[1, 0, 0, 0, 1, 0]]), "a0"),
        (lambda: SOS([[1, 0, 0, 1, np.nan, 0]]), "a holds NaN"),
        (lambda: SOS([[1j, 0, 0, 1, 0, 0]]), "sos"),
        (lambda: TransferFunction([1], [0, 1]), "a0"),
        (lambda: TransferFunction([], [1]), "b has shape"),
        (lambda: TransferFunction([1], [[1]]), "a has shape"),
        (lambda: small(SOS).replace(n_sections=0), "n_sections"),
        (lambda: small(SOS).replace(n_sections=3), "shape"),
        (lambda: small(TransferFunction).replace(order=1.5), "order"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ParameterError, match=names):
        make()

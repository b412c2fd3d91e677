"""Dense. Oracles: NumPy's matrix product and activations, central differences, the slopes' closed forms."""

import numpy as np
import pytest

from rnndsp.errors import ParameterError
from rnndsp.filters.dense import Dense

ACTIVATIONS = {
    "identity": (lambda a: a, lambda a: np.ones_like(a)),
    "tanh": (np.tanh, lambda a: 1 / np.cosh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: 1.0 * (a > 0)),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: 1 / (2 * np.cosh(a / 2)) ** 2),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def layer(activation, n_inputs=11, n_outputs=5):
    return Dense(n_inputs, n_outputs, activation=activation).replace(b=noise(n_outputs, seed=9))


@pytest.fixture(params=ACTIVATIONS)
def activation(request):
    return request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)])
def test_equals_numpy(activation, dtype, tolerance):
    filt, u = layer(activation), noise(2, 30, 11).astype(dtype)
    expected = ACTIVATIONS[activation][0](u.astype(np.float64) @ filt.params["W"].T + filt.params["b"])
    y = filt(u)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(1, 1), (3, 40), (33, 7)])
def test_blocks_and_tape_change_no_bit(activation, dtype, n_inputs, n_outputs):
    filt, u = layer(activation, n_inputs, n_outputs), noise(2, 100, n_inputs).astype(dtype)
    whole, end = filt.run(u)
    state, pieces = filt.rest_state((2,), dtype), []
    for block in np.split(u, [0, 1, 5, 64, 65], axis=1):
        y, state = filt.run(block, state)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    assert state == end and state.index == 100 and state.ravel().shape == (2, 0)
    np.testing.assert_array_equal(filt.tape(u).y, whole)


def test_streams_without_a_state():
    stream = layer("tanh").stream(dtype=np.float64)
    u = noise(50, 11)
    y = np.concatenate([stream.process(u[:7]), stream.process(u[7:])])
    np.testing.assert_array_equal(y, layer("tanh")(u))


def test_adjoint_equals_differences(activation):
    filt, u, target = layer(activation, 3, 2), noise(2, 6, 3), noise(2, 6, 2, seed=2)

    def loss(f=filt, u=u):
        return np.sum((f(u) - target) ** 2) / 2

    tape = filt.tape(u)
    gradient = tape.adjoint(tape.y - target)
    assert gradient.state.shape == (2, 0)
    np.testing.assert_allclose(gradient.u, differences(lambda v: loss(u=v), u), atol=1e-8)
    for name in ("W", "b"):
        expected = differences(lambda v, name=name: loss(filt.replace(**{name: v})), filt.params[name])
        np.testing.assert_allclose(gradient.params[name], expected, atol=1e-8)


def differences(function, value, step=1e-6):
    gradient = np.empty(value.shape)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


def test_linearised_is_slope_times_weights(activation):
    filt, u = layer(activation), noise(11)
    linear = filt.linearize(u=u)
    slope = ACTIVATIONS[activation][1](filt.params["W"] @ u + filt.params["b"])
    assert linear.n_states == 0
    np.testing.assert_allclose(linear.D, slope[:, None] * filt.params["W"], atol=1e-14)


def test_is_linear_only_without_bias_and_activation(activation):
    assert not layer(activation).is_linear
    assert Dense(2, 2, activation=activation).is_linear == (activation == "identity")


def test_from_torch():
    weights = {"lin.weight": noise(4, 3).astype(np.float32), "lin.bias": noise(4).astype(np.float32), "other": noise(1)}
    filt = Dense.from_torch(weights, prefix="lin.", activation="relu")
    np.testing.assert_array_equal(filt.params["W"], weights["lin.weight"])
    np.testing.assert_array_equal(filt.params["b"], weights["lin.bias"])
    assert (filt.n_inputs, filt.n_outputs, filt.config["activation"]) == (3, 4, "relu")
    assert Dense.from_torch({"weight": noise(4, 3)}).is_linear


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Dense(0, 2), "n_inputs"),
        (lambda: Dense(2, 1.5), "n_outputs"),
        (lambda: Dense(2, 2, activation="softmax"), "activation"),
        (lambda: Dense(2, 2).replace(W=np.zeros((2, 3))), "W has shape"),
        (lambda: Dense.from_torch({"bias": np.zeros(2)}), "weight"),
        (lambda: Dense.from_torch({"weight": np.zeros((2, 2)), "scale": np.zeros(2)}), "scale"),
        (lambda: Dense.from_torch({"weight": np.zeros(2)}), "not a matrix"),
        (lambda: Dense.from_torch({"weight": np.zeros((2, 2)), "bias": np.zeros(3)}), "b has shape"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ParameterError, match=names):
        make()

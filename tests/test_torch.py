"""Cells against PyTorch: frozen vectors (make_torch_vectors.py, seed there), and live where torch is installed."""

from pathlib import Path

import numpy as np
import pytest
from make_torch_vectors import CASES, compute

from rnndsp import ParameterError
from rnndsp.filters import GRU, LSTM, Dense, Elman

VECTORS = Path(__file__).parent / "data" / "torch_vectors.npz"
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def cell(kind, arrays):
    state_dict = {name: arrays[name] for name in WEIGHTS}
    if kind.startswith("RNN"):
        return Elman.from_torch(state_dict, activation=kind[4:].lower())
    return {"LSTM": LSTM, "GRU": GRU}[kind].from_torch(state_dict)


def flat(arrays, *names):
    return np.concatenate([arrays[name] for name in names if name in arrays], axis=-1).astype(np.float64)


def compare(kind, arrays):
    filt = cell(kind, arrays)
    start = flat(arrays, "h0", "c0")
    # ReLU does not saturate: its outputs reach 10, and the rounding of float32 grows with them
    scale = max(1.0, float(np.max(np.abs(arrays["y_float64"]))))
    for dtype, close in (("float32", 1e-6 * scale), ("float64", 1e-12 * scale)):
        state = filt.rest_state((len(start),), dtype).unravel(start)
        y, end = filt.run(arrays["u"].astype(dtype), state)
        np.testing.assert_allclose(y, arrays[f"y_{dtype}"], rtol=0, atol=close)
        np.testing.assert_allclose(end.ravel(), flat(arrays, f"h_T_{dtype}", f"c_T_{dtype}"), rtol=0, atol=close)
    tape = filt.tape(arrays["u"].astype(np.float64), filt.rest_state((len(start),)).unravel(start))
    gradient = tape.adjoint(arrays["w"], flat(arrays, "wh", "wc"))
    expected = {
        "W": arrays["grad_weight_ih_l0"],
        "U": arrays["grad_weight_hh_l0"],
        "b": arrays["grad_bias_ih_l0"],
        "b_rec": arrays["grad_bias_hh_l0"],
    }
    for name, value in gradient.params.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradient.u, arrays["grad_u"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradient.state, flat(arrays, "grad_h0", "grad_c0"), rtol=1e-9, atol=1e-9)
    # and the gradient of float32, whose bar is 1e-5 of the largest entry
    start32 = filt.rest_state((len(start),), np.float32).unravel(start)
    single = filt.tape(arrays["u"].astype(np.float32), start32).adjoint(arrays["w"], flat(arrays, "wh", "wc"))
    for name, value in single.params.items():
        assert np.max(np.abs(value - expected[name])) < 1e-5 * max(1.0, np.max(np.abs(expected[name])))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_frozen(case):
    prefix = "-".join(map(str, case)) + "/"
    with np.load(VECTORS, allow_pickle=False) as vectors:
        arrays = {name.removeprefix(prefix): vectors[name] for name in vectors.files if name.startswith(prefix)}
    compare(case[0], arrays)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_live(case):
    pytest.importorskip("torch", reason="PyTorch is not installed: frozen vectors only")
    compare(case[0], compute(*case, n_frames=200))


def test_dense_from_torch():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((2, 3)), rng.standard_normal(2)
    u = rng.standard_normal((50, 3))
    dense = Dense.from_torch({"lin.weight": weight, "lin.bias": bias}, prefix="lin.")
    np.testing.assert_allclose(dense(u), u @ weight.T + bias, atol=1e-14)


def test_bad_state_dicts():
    good = {name: np.zeros(shape) for name, shape in zip(WEIGHTS, ((8, 1), (8, 2), 8, 8), strict=True)}
    assert LSTM.from_torch(good).n_units == 2
    assert LSTM.from_torch({k: v for k, v in good.items() if "bias" not in k}).n_units == 2
    for broken in (
        {k: v for k, v in good.items() if k != "bias_hh_l0"},
        good | {"weight_ih_l1": np.zeros((8, 2))},
        good | {"bias_hh_l0": np.zeros(7)},
        good | {"weight_hh_l0": np.zeros((8, 3))},
        good | {"weight_hh_l0": np.zeros(8)},
        good | {"bias_ih_l0": np.full(8, np.nan)},
        {},
    ):
        with pytest.raises(ParameterError):
            LSTM.from_torch(broken)
    with pytest.raises(ParameterError, match="shape"):
        GRU.from_torch(good)

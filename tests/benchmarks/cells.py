"""Recurrent cells against PyTorch and ONNX Runtime; many voices; cost against size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from rnndsp import Filter
from rnndsp._vectors import accumulate, aligned, lanes, load_each, store
from rnndsp.filters import GRU, LSTM, Dense, Elman
from tests.benchmarks.measuring import Call, Row, medians

RATE = 44100
SIZES = (8, 16, 32, 40, 64, 96)
KINDS: dict[str, Any] = {"LSTM": LSTM, "GRU": GRU, "Elman": Elman}
GATES = {"LSTM": 4, "GRU": 3, "Elman": 1}
# At least so many times the whole-buffer speed of PyTorch.
AGAINST_TORCH = {
    "LSTM": dict(zip(SIZES, (6, 8, 7, 6, 4.5, 3), strict=True)),
    "GRU": dict(zip(SIZES, (150, 150, 110, 65, 40, 14), strict=True)),
    "Elman": dict.fromkeys(SIZES[:4], 30),
}
# 16 voices cost at most so many times one.
VOICES = {8: 5, 16: 10, 32: 10, 40: 10}


def model(kind: str, n_units: int) -> Filter:
    """A cell and its read-out: mono in, mono out."""
    return KINDS[kind](1, n_units) >> Dense(n_units, 1)


def inference(seconds: float = 1.0) -> Iterator[Row]:
    """One voice, float32, one channel in, dense read-out."""
    u = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    for kind in KINDS:
        for n_units in SIZES:
            filt = model(kind, n_units)
            calls: dict[str, Call] = {"ours": lambda f=filt: f(u)}
            for name, make in (("PyTorch", torch_rival), ("ONNX Runtime", onnx_rival)):
                try:
                    calls[name] = make(kind, filt, u)
                except ImportError:
                    continue
            times = medians(calls, len(u))
            for name in calls:
                if name != "ours":
                    bound = AGAINST_TORCH[kind].get(n_units) if name == "PyTorch" else None
                    ratio = times[name] / times["ours"]
                    yield Row(f"{kind}-{n_units}", times["ours"], "us/sample", name, times[name], ratio, at_least=bound)


def torch_rival(kind: str, filt: Filter, u: NDArray[Any]) -> Call:
    import torch

    torch.set_num_threads(1)
    cell, dense = filt.children
    layer = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "Elman": torch.nn.RNN}[kind](1, cell.n_outputs)
    b = np.asarray(cell.params["b"])
    arrays = {
        "weight_ih_l0": cell.params["W"],
        "weight_hh_l0": cell.params["U"],
        "bias_ih_l0": b,
        "bias_hh_l0": cell.params.get("b_rec", 0 * b),
    }
    layer.load_state_dict({k: torch.tensor(np.array(v, np.float32)) for k, v in arrays.items()})
    out = torch.nn.Linear(cell.n_outputs, 1)
    out.load_state_dict({k: torch.tensor(np.array(dense.params[p], np.float32)) for k, p in READ_OUT.items()})
    signal = torch.from_numpy(u)[:, None, None]

    def call() -> NDArray[Any]:
        with torch.no_grad():
            y: NDArray[Any] = out(layer(signal)[0])[:, 0, 0].numpy()
            return y

    return _checked(call, filt, u)


READ_OUT = {"weight": "W", "bias": "b"}


def onnx_rival(kind: str, filt: Filter, u: NDArray[Any]) -> Call:
    import onnx
    import onnxruntime

    helper, numbers = onnx.helper, onnx.numpy_helper
    cell, dense = filt.children
    n = cell.n_outputs
    # ONNX has the gates in the orders i, o, f, g and z, r, n
    order = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "Elman": (0,)}[kind]

    def gates(value: NDArray[Any]) -> NDArray[np.float32]:
        return np.concatenate([value[g * n : (g + 1) * n] for g in order]).astype(np.float32)

    b = np.asarray(cell.params["b"])
    bias = np.concatenate([gates(b), gates(np.asarray(cell.params.get("b_rec", 0 * b)))])
    tensors = {
        "W": gates(np.asarray(cell.params["W"]))[None],
        "R": gates(np.asarray(cell.params["U"]))[None],
        "B": bias[None],
        "V": np.asarray(dense.params["W"], np.float32).T,
        "c": np.asarray(dense.params["b"], np.float32),
    }
    settings = {"linear_before_reset": 1} if kind == "GRU" else {}
    operator = {"LSTM": "LSTM", "GRU": "GRU", "Elman": "RNN"}[kind]
    nodes = [
        helper.make_node(operator, ["u", "W", "R", "B"], ["h"], hidden_size=n, **settings),
        helper.make_node("Squeeze", ["h", "axes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "V"], ["z"]),
        helper.make_node("Add", ["z", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cell",
        [helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, [len(u), 1, 1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [len(u), 1])],
        [numbers.from_array(value, name) for name, value in tensors.items()]
        + [numbers.from_array(np.array([1, 2], np.int64), "axes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    signal = u[:, None, None]
    return _checked(lambda: session.run(None, {"u": signal})[0][:, 0], filt, u)


def _checked(call: Callable[[], NDArray[Any]], filt: Filter, u: NDArray[Any]) -> Call:
    """A rival that computes something else is none."""
    np.testing.assert_allclose(call(), filt(u), atol=2e-5)
    return call


def voices(seconds: float = 0.1) -> Iterator[Row]:
    """16 independent voices of one cell against one voice, and the share of the machine's peak."""
    u = np.random.default_rng(0).standard_normal((16, round(seconds * RATE), 1)).astype(np.float32)
    peak = peak_flops()
    for kind in KINDS:
        for n_units, bound in VOICES.items():
            cell = KINDS[kind](1, n_units)
            calls = {"16": lambda f=cell: f(u), "1": lambda f=cell: f(u[:1])}
            times = medians(calls, u.shape[1])
            share = 16 * flops(kind, n_units) / (times["16"] * 1e-6) / peak
            yield Row(
                f"{kind}-{n_units}, 16 voices",
                times["16"],
                "us/frame",
                "one voice",
                times["1"],
                times["16"] / times["1"],
                at_most=bound,
                note=f"{share:.0%} of the peak, {peak / 1e9:.0f} GFLOP/s, in products alone",
            )


def flops(kind: str, n_units: int) -> int:
    """Products and sums of the mixing, the activations left out."""
    return 2 * GATES[kind] * n_units * (n_units + 1)


def scaling(seconds: float = 0.1) -> Iterator[Row]:
    """Cost against units (one voice) and against voices (40 units)."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for n_units in (4, 8, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256):
            cell = KINDS[kind](1, n_units)
            u = rng.standard_normal(round(seconds * RATE)).astype(np.float32)
            yield Row(
                f"{kind}, {n_units} units", medians({"ours": lambda f=cell, u=u: f(u)}, len(u))["ours"], "us/sample"
            )
    for kind in KINDS:
        for n_voices in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64):
            cell = KINDS[kind](1, 40)
            u = rng.standard_normal((n_voices, round(seconds * RATE / 4), 1)).astype(np.float32)
            time = medians({"ours": lambda f=cell, u=u: f(u)}, u.shape[1])["ours"]
            yield Row(f"{kind}-40, {n_voices} voices", time, "us/frame", note=f"{time / n_voices:.4g} a voice")


# ---- the machine's bounds


def peak_flops() -> float:
    """Products and sums a second, float32, from registers."""
    n_loops, sums = 100_000, aligned((len(_SUMS) * len(_WIDE),), np.float32)
    time = medians({"products": lambda: _products(sums, sums, n_loops)}, 1)["products"] * 1e-6
    return 2 * sums.size * n_loops / time


def bandwidth(n_bytes: int) -> float:
    """Bytes a second that a core reads, again and again, from an array of that size."""
    sums, data = aligned((len(_SUMS) * len(_WIDE),), np.float32), aligned((n_bytes // 4,), np.float32)
    n_loops = max(1, 20_000_000 // n_bytes)
    return n_bytes * n_loops / (medians({"read": lambda: _products(sums, data, n_loops)}, 1)["read"] * 1e-6)


_WIDE = (None,) * lanes(np.dtype(np.float32))
_SUMS = (None,) * 12


@numba.njit(nogil=True, error_model="numpy")
def _products(sums: Any, x: Any, n_loops: int) -> None:
    step = len(_SUMS) * len(_WIDE)
    totals = load_each(sums, 0, len(_WIDE), _WIDE, _WIDE, _SUMS)
    for _ in range(n_loops):
        for i in range(0, x.size - step + 1, step):
            totals = accumulate(totals, _SUMS, x, i, _WIDE, sums, 0, _WIDE)
    at = 0
    for total in totals:  # each to its own place, or its sum would be left out as dead
        store(sums, at, total, _WIDE)
        at += len(_WIDE)

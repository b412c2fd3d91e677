"""Write tests/data/torch_vectors.npz: outputs and gradients of torch's recurrent layers, as an oracle for rnndsp.

Cases: LSTM, GRU, RNN_TANH, RNN_RELU; 1 or 3 inputs; 5 or 16 units; one layer, batch_first, two voices, random initial
state. Weights are torch's default initialisation times 1.5. Every case is run in float32 and again in float64 with the
same (float32) weights and inputs cast up. The number of frames per shape is in `FRAMES`: 200 for 1 input and 5 units,
far fewer for the larger shapes so that the file stays below 300 kB (a live run can ask `compute` for any number).
`u` is rounded to 1/8 and `w` to 1/2, which compresses well.

Keys are "<kind>-<n_inputs>-<n_units>/<name>", for example "LSTM-1-16/y_float64". Names (c only for LSTM):

    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0     float32, the state_dict
    u, h0, c0                                              float32, input and initial state
    w, wh, wc                                              float32, weights of the loss
    y_*, h_T_*, c_T_*                                      suffix float32 or float64, which is also the dtype
    grad_<x>, x = u, h0, c0 or a name of the state_dict    float64, gradient of the loss

    loss = sum(y * w) + sum(h_T * wh) [+ sum(c_T * wc)]    summed over voices, frames and units

Sequences are (voice, frame, channel). States are (voice, unit): torch's leading axis of layers is dropped.
Rows of the weights are in torch's order: LSTM i, f, g, o; GRU r, z, n, with bias_hh of n inside the reset gate.

Seed: SEED plus the index of the case in CASES, so each case can be computed alone. Made with torch 2.13.0 (CPU, one
thread). Running it twice on one machine gives identical arrays; another CPU or another torch may round
differently, so compare a live run with a tolerance. Run:

    python -m pip install torch==2.13.0 numpy
    python tests/make_torch_vectors.py
"""

from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np

SEED = 20240
N_VOICES = 2
WEIGHT_SCALE = 1.5
FRAMES = {(1, 5): 200, (3, 5): 16, (1, 16): 8, (3, 16): 8}  # by (n_inputs, n_units)
KINDS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
CASES: tuple[tuple[str, int, int], ...] = tuple(product(KINDS, (1, 3), (5, 16)))  # (kind, n_inputs, n_units)
PATH = Path(__file__).resolve().parent / "data" / "torch_vectors.npz"


def compute(kind: str, n_inputs: int, n_units: int, n_frames: int | None = None) -> dict[str, np.ndarray]:
    """Run one case of CASES in torch; the names and shapes of the arrays are in the docstring of the module.

    With n_frames, run that many frames rather than those of the file; the weights of the network, h0, c0, wh and wc
    stay the same, all else differs.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEED + CASES.index((kind, n_inputs, n_units)))
    n_frames = FRAMES[n_inputs, n_units] if n_frames is None else n_frames

    if kind == "LSTM":
        net = torch.nn.LSTM(n_inputs, n_units, batch_first=True)
    elif kind == "GRU":
        net = torch.nn.GRU(n_inputs, n_units, batch_first=True)
    else:
        nonlinearity = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}[kind]
        net = torch.nn.RNN(n_inputs, n_units, nonlinearity=nonlinearity, batch_first=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(WEIGHT_SCALE)

    states = ("h", "c") if kind == "LSTM" else ("h",)
    shared = {}
    for s in states:
        shared[f"{s}0"] = torch.randn(N_VOICES, n_units)
        shared[f"w{s}"] = torch.randn(N_VOICES, n_units)
    shared["u"] = torch.round(8 * torch.randn(N_VOICES, n_frames, n_inputs)) / 8
    shared["w"] = torch.round(2 * torch.randn(N_VOICES, n_frames, n_units)) / 2

    arrays = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    arrays |= {name: value.numpy() for name, value in shared.items()}

    for dtype, suffix in ((torch.float32, "float32"), (torch.float64, "float64")):
        model = deepcopy(net).to(dtype)
        x = {name: value.to(dtype, copy=True) for name, value in shared.items()}
        leaves = {name: x[name].requires_grad_() for name in ("u", *(f"{s}0" for s in states))}
        initial = tuple(x[f"{s}0"][None] for s in states)
        y, final = model(x["u"], initial if kind == "LSTM" else initial[0])
        last = dict(zip(states, final if kind == "LSTM" else (final,), strict=True))

        arrays[f"y_{suffix}"] = y.detach().numpy()
        for s in states:
            arrays[f"{s}_T_{suffix}"] = last[s][0].detach().numpy()

        if dtype == torch.float64:
            loss = (y * x["w"]).sum() + sum((last[s][0] * x[f"w{s}"]).sum() for s in states)
            leaves |= dict(model.named_parameters())
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            arrays |= {f"grad_{name}": g.numpy() for name, g in zip(leaves, gradients, strict=True)}

    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for kind, n_inputs, n_units in CASES:
        case = compute(kind, n_inputs, n_units)
        arrays |= {f"{kind}-{n_inputs}-{n_units}/{name}": value for name, value in case.items()}
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, allow_pickle=False, **arrays)
    print(f"{PATH}: {len(arrays)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()

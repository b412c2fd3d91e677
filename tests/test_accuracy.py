"""How far float32 is from float64, on real guitar through real captures and on noise through random cells.

Oracles: our own float64, which PyTorch's confirms; PyTorch's float32 for how much rounding such a cell costs anyone.
Thresholds of the synthetic cells are frozen, at about twice of what was measured.
"""

import json

import numpy as np
import pytest
import soundfile

from rnndsp.filters import GRU, LSTM

CAPTURES = (
    "DS1_two_knobs",
    "NeuralPi_BluesJr",
    "NeuralPi_ProCoRat",
    "NeuralPi_TS9",
    "Proteus_BlackstarHT40_AmpHighGain",
    "Proteus_TS9_DriveKnob",
    "ht1_gru32",
    "ht1_lstm32",
)
SECONDS = 10


@pytest.fixture(scope="module")
def guitar(data_path):
    path = data_path / "audio" / "pyneuralfx_example.wav"
    if not path.is_file():
        pytest.skip(f"no guitar: {path} is absent")
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.resize(audio[:, 0], SECONDS * rate), rate


@pytest.fixture(scope="module", params=CAPTURES)
def played(request, data_path, guitar):
    """A capture's cell, its input with the knobs at one half, and the output in float64."""
    path = data_path / "models" / "guitarml" / f"{request.param}.json"
    if not path.is_file():
        pytest.skip(f"no capture: {path} is absent")
    model = json.loads(path.read_text())
    arrays = {k: np.array(v, np.float32) for k, v in model["state_dict"].items() if k.startswith("rec.")}
    cell = {"LSTM": LSTM, "GRU": GRU}[model["model_data"]["unit_type"]].from_torch(arrays, prefix="rec.")
    u = np.full((len(guitar[0]), cell.n_inputs), 0.5, np.float32)
    u[:, 0] = guitar[0]
    return cell, arrays, u, cell(u.astype(np.float64))


def layer_of(cell, arrays, prefix):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = getattr(torch.nn, type(cell).__name__)(cell.n_inputs, cell.n_units, batch_first=True)
    layer.load_state_dict({k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items()})
    return layer


def listen(layer, u):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # two would wait for each other at every sample
    with torch.no_grad():
        return layer(torch.tensor(u)[None])[0][0].numpy()


def grade(y, truth):
    """Largest and rms error."""
    error = y.astype(np.float64) - truth
    return np.array([np.max(np.abs(error)), np.sqrt(np.mean(error**2))])


def test_guitar_in_float32(played):
    cell, _, u, truth = played
    assert np.max(np.abs(truth)) > 0.1
    assert grade(cell(u), truth)[0] < 1.5e-4


def test_guitar_is_as_exact_as_in_torch(played):
    cell, arrays, u, truth = played
    layer = layer_of(cell, arrays, "rec.")
    ours, theirs = grade(cell(u), truth), grade(listen(layer, u), truth)
    assert np.all(ours <= 2 * theirs), f"{ours} against {theirs}"


def test_guitar_in_float64_is_that_of_torch(played, guitar):
    cell, arrays, u, truth = played
    layer = layer_of(cell, arrays, "rec.").double()
    n = guitar[1]  # the first second: PyTorch takes half a second for it
    np.testing.assert_allclose(listen(layer, u[:n].astype(np.float64)), truth[:n], rtol=0, atol=1e-9)


def random_cell(kind, n_units, steep):
    """Weights of float32; ``steep`` times as large as ever at the start of a training."""
    f, rng = kind(1, n_units, seed=n_units), np.random.default_rng(n_units)
    shaken = {k: steep * v if v.ndim == 2 else 0.3 * rng.standard_normal(v.shape) for k, v in f.params.items()}
    return f.replace(**{k: v.astype(np.float32) for k, v in shaken.items()})


@pytest.mark.parametrize(("steep", "limits"), [(1, (3e-7, 4e-8)), (3, (2.5e-6, 1e-7))])
@pytest.mark.parametrize("n_units", [8, 17, 24, 32, 40])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_random_cells(kind, n_units, steep, limits):
    cell = random_cell(kind, n_units, steep)
    u = 0.5 * np.random.default_rng(1).standard_normal((20_000, 1)).astype(np.float32)
    truth = cell(u.astype(np.float64))
    assert np.all(grade(cell(u), truth) < limits)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_random_cells_are_as_exact_as_in_torch(kind):
    cell = random_cell(kind, 24, 3)
    arrays = {"weight_ih_l0": cell.params["W"], "weight_hh_l0": cell.params["U"], "bias_ih_l0": cell.params["b"]}
    arrays["bias_hh_l0"] = cell.params.get("b_rec", np.zeros_like(cell.params["b"]))
    layer = layer_of(cell, arrays, "")
    u = 0.5 * np.random.default_rng(1).standard_normal((20_000, 1)).astype(np.float32)
    truth = cell(u.astype(np.float64))
    ours, theirs = grade(cell(u), truth), grade(listen(layer, u), truth)
    assert np.all(ours <= 2 * theirs), f"{ours} against {theirs}"
    np.testing.assert_allclose(listen(layer.double(), u.astype(np.float64)), truth, rtol=0, atol=1e-12)

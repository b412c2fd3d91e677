"""Real amp and pedal captures. Oracles: published findings about their rest states, PyTorch where it is installed."""

import json

import numpy as np
import pytest
import soundfile

from rnndsp import Knobs, Parallel, gain
from rnndsp.filters import GRU, LSTM, Dense
from rnndsp.stability import Verdict


@pytest.fixture(scope="module")
def captures(data_path):
    folder = data_path / "models" / "guitarml"
    if not folder.is_dir():
        pytest.skip(f"no captures: {folder} is absent")
    return folder


def weights(path):
    model = json.loads(path.read_text())
    arrays = {name: np.array(value, np.float32) for name, value in model["state_dict"].items()}
    return model["model_data"], arrays


def capture(path):
    """y = dense(cell(u, knobs)) + u."""
    about, arrays = weights(path)
    kind = {"LSTM": LSTM, "GRU": GRU}[about["unit_type"]]
    parts = [{k: v for k, v in arrays.items() if k.startswith(room)} for room in ("rec.", "lin.")]
    net = kind.from_torch(parts[0], prefix="rec.") >> Dense.from_torch(parts[1], prefix="lin.")
    n_inputs = net.n_inputs
    model = Parallel(net, gain(np.eye(1, n_inputs) * about.get("skip", 1)))
    return Knobs(model, {f"knob{i}": 0.5 for i in range(1, n_inputs)}) if n_inputs > 1 else model


@pytest.mark.parametrize(("knob", "n_rest"), [(0.0, 1), (0.5, 2), (1.0, 1)])
def test_ts9_has_two_rest_states_at_half_knob_only(captures, knob, n_rest):
    model = capture(captures / "NeuralPi_TS9.json")
    name = model.controls[0].name
    report = model.stability(controls={name: knob})
    assert len(report.rest_states) == n_rest
    verdict = report["unique rest state"].verdict
    assert verdict == (Verdict.REFUTED if n_rest > 1 else Verdict.UNKNOWN)
    assert report["bounded output"].verdict == Verdict.PROVED
    if n_rest > 1:
        # published: at 1 kHz the gain in the second is 6.9 dB lower
        w = 2 * np.pi * 1000 / 44100
        gains = [
            20 * np.log10(abs(model.linearize(s, controls={name: knob}).frequency_response(w)[0, 0, 0]))
            for s in report.rest_states
        ]
        assert abs(abs(gains[0] - gains[1]) - 6.9) < 0.1


def test_blues_junior_has_one_rest_state(captures):
    assert len(capture(captures / "NeuralPi_BluesJr.json").stability().rest_states) == 1


def test_real_guitar_in_any_blocks(captures, data_path):
    audio, rate = soundfile.read(data_path / "audio" / "pyneuralfx_example.wav", dtype="float32", always_2d=True)
    u = np.ascontiguousarray(audio[: 2 * rate, 0])
    rng = np.random.default_rng(0)
    for path in sorted(captures.glob("*.json")):
        model = capture(path)
        whole = model(u)
        stream = model.stream()
        cuts = np.sort(rng.integers(0, len(u), 40))
        assert np.array_equal(np.concatenate([stream.process(block) for block in np.split(u, cuts)]), whole), path.name


@pytest.mark.parametrize("name", ["ht1_lstm32", "ht1_gru32"])
def test_against_torch_on_real_guitar(captures, data_path, name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    audio, rate = soundfile.read(data_path / "audio" / "pyneuralfx_example.wav", dtype="float32", always_2d=True)
    u = np.ascontiguousarray(audio[:rate, 0])
    about, arrays = weights(captures / f"{name}.json")
    torch.set_num_threads(1)  # two would wait for each other at every sample
    layer = getattr(torch.nn, about["unit_type"])(1, about["hidden_size"], batch_first=True)
    layer.load_state_dict({k.removeprefix("rec."): torch.tensor(v) for k, v in arrays.items() if k.startswith("rec.")})
    with torch.no_grad():
        h = layer(torch.tensor(u)[None, :, None])[0][0].numpy()
    y = h @ arrays["lin.weight"].T + arrays["lin.bias"] + about.get("skip", 1) * u[:, None]
    # these amps have gains of a hundred and more, on rounding too: judge both by the same cell in float64
    model = capture(captures / f"{name}.json")
    truth = model(u.astype(np.float64))
    ours, theirs = np.max(np.abs(model(u) - truth)), np.max(np.abs(y[:, 0] - truth))
    assert theirs < 1e-4 and ours <= 2 * theirs, (ours, theirs)

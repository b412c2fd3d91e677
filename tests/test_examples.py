"""Every script in examples/ runs and writes what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import rnndsp

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not here: not a checkout")


def run(folder, script, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / script, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_tested_here():
    here = Path(__file__).read_text()
    assert all(f'"{script.name}"' in here for script in EXAMPLES.glob("*.py"))


def test_poles(tmp_path):
    run(tmp_path, "poles.py", "poles.png")
    assert (tmp_path / "poles.png").read_bytes().startswith(b"\x89PNG")


def test_is_it_healthy(tmp_path):
    said = run(tmp_path, "is_it_healthy.py", "healthy.png")
    assert (tmp_path / "healthy.png").read_bytes().startswith(b"\x89PNG")
    assert "one rest state found" in said and "Three rest states found" in said
    low, high = map(float, re.search(r"grow at (\S+) to (\S+) nats", said).groups())
    assert low < high < 0


def test_rooms(tmp_path):
    said = run(tmp_path, "rooms.py", "rooms.png", "room")
    assert (tmp_path / "rooms.png").read_bytes().startswith(b"\x89PNG")
    assert "room: 0.45 s at 125 Hz; decay proved" in said


def test_forecast(tmp_path):
    said = run(tmp_path, "forecast.py", "forecast.png")
    assert (tmp_path / "forecast.png").read_bytes().startswith(b"\x89PNG")
    assert "'seasonal_ma1'" in said and int(re.search(r"(\d+)% of 36", said)[1]) > 60


def test_filter_a_file(tmp_path):
    u = 0.1 * np.random.default_rng(0).standard_normal((4800, 2))
    soundfile.write(tmp_path / "in.wav", u, 48000, subtype="FLOAT")
    assert "0.10 s" in run(tmp_path, "filter_a_file.py", "in.wav", "out.wav")
    y, _ = soundfile.read(tmp_path / "out.wav")
    # a lowpass far below: most of the noise is gone
    assert y.shape == u.shape and np.std(y) < 0.5 * np.std(u)


def test_guitar_phrase(tmp_path):
    run(tmp_path, "guitar_phrase.py", "phrase.flac")
    phrase, rate = soundfile.read(tmp_path / "phrase.flac")
    # it begins on the A of 110 Hz
    spectrum = np.abs(np.fft.rfft(phrase[: rate // 5] * np.hanning(rate // 5), 8 * rate))
    low = slice(8 * 80, 8 * 150)
    assert rate == 48000 and abs(80 + np.argmax(spectrum[low]) / 8 - 110) < 1


def test_train_overdrive(tmp_path):
    said = run(tmp_path, "train_overdrive.py", "amp.safetensors", 1)
    assert "held-out ESR" in said
    assert rnndsp.load(tmp_path / "amp.safetensors").controls[0].name == "drive"


def test_the_bundled_overdrive_is_close_to_its_circuit(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import guitar_phrase
    import train_overdrive

    phrase = guitar_phrase.render(seed=8)  # not what it was trained on
    held_out = train_overdrive.pieces(phrase, np.random.default_rng(99), 32, 9600)
    model = rnndsp.filters.named("overdrive", sample_rate=48000).children[0]
    assert train_overdrive.error_to_signal(model, held_out) < 0.02


def test_own_cell(tmp_path):
    said = run(tmp_path, "own_cell.py", "cell.png")
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")
    assert float(re.search(r"envelope: ([\d.]+) %", said)[1]) < 25


def test_learn_a_midi_folder(tmp_path):
    (tmp_path / "music").mkdir()
    for place, piece in enumerate(rnndsp.midi.chorales().train[:5]):
        rnndsp.midi.write(piece, tmp_path / "music" / f"{place}.mid")
    (tmp_path / "music" / "letter.mid").write_text("Dear Anna Magdalena")
    said = run(tmp_path, "learn_a_midi_folder.py", "music", "piece.mid", 2)
    assert "left out letter.mid" in said and "linear, same head" in said
    piece = rnndsp.midi.read(tmp_path / "piece.mid")
    sound, rate = soundfile.read(tmp_path / "piece.wav")
    assert len(sound) == round((piece.duration_s + 1) * rate)
    assert (tmp_path / "piece.png").read_bytes().startswith(b"\x89PNG")
    assert rnndsp.midi.MusicModel.load(tmp_path / "piece.safetensors").frames.steps_per_beat == 4


def test_memory_tasks(tmp_path):
    said = run(tmp_path, "memory_tasks.py", "adding-200", "orthogonal", 3)
    assert float(re.search(r"MSE ([\d.e+-]+)", said)[1]) < 100
    run(tmp_path, "memory_tasks.py", "plot", "memory_tasks.png")
    assert (tmp_path / "memory_tasks.png").read_bytes().startswith(b"\x89PNG")

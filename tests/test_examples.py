"""Every script in examples/ runs and writes what it says."""

import os
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


def test_filter_a_file(tmp_path):
    u = 0.1 * np.random.default_rng(0).standard_normal((4800, 2))
    soundfile.write(tmp_path / "in.wav", u, 48000, subtype="FLOAT")
    assert "0.10 s" in run(tmp_path, "filter_a_file.py", "in.wav", "out.wav")
    y, _ = soundfile.read(tmp_path / "out.wav")
    # a lowpass far below: most of the noise is gone
    assert y.shape == u.shape and np.std(y) < 0.5 * np.std(u)


def test_guitar_phrase_is_the_one_that_the_demo_plays(tmp_path):
    run(tmp_path, "guitar_phrase.py", "phrase.flac")
    fresh, rate = soundfile.read(tmp_path / "phrase.flac")
    bundled, _ = soundfile.read(Path(rnndsp.__file__).parent / "data" / "guitar_phrase.flac")
    assert rate == 48000 and fresh.shape == bundled.shape
    assert np.max(np.abs(fresh - bundled)) < 1e-3


def test_train_overdrive(tmp_path):
    said = run(tmp_path, "train_overdrive.py", "amp.safetensors", 2)
    assert "held-out ESR" in said
    assert rnndsp.load(tmp_path / "amp.safetensors").controls[0].name == "drive"


def test_the_bundled_overdrive_is_close_to_its_circuit(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import guitar_phrase
    import train_overdrive

    phrase = guitar_phrase.render(seed=8)  # not what it was trained on
    u, target = train_overdrive.batch(phrase, np.random.default_rng(99), 32, 9600)
    model = rnndsp.filters.named("overdrive", sample_rate=48000).children[0]
    assert train_overdrive.error_to_signal(model(u), target) < 0.02

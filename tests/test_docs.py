"""Every snippet of README.md and docs/*.md runs: Python blocks, and the commands that start with rnndsp."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnndsp

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("README.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGES, reason="README.md and docs/ are not here: not a checkout")


def run(arguments, folder):
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets(page, tmp_path):
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal((9600, 2))).astype(np.float32)
    rnndsp.audio.write(tmp_path / "guitar.wav", sound[:, :1], 48000)
    rnndsp.audio.write(tmp_path / "stereo.wav", sound, 48000)
    (tmp_path / "my_midi_files").mkdir()
    for piece in rnndsp.midi.chorales().train[:6]:
        rnndsp.midi.write(piece, tmp_path / "my_midi_files" / f"{piece.name}.mid")
    code = []
    for language, info, body in FENCE.findall(page.read_text()):
        if name := re.search(r"file=(\S+)", info):
            (tmp_path / name[1]).write_text(body)
        elif language == "python":
            code.append(body)
        elif language == "sh":
            # as a reader does: from top to bottom, what stands above having been run
            done = run([sys.executable, "-c", "\n".join(code)], tmp_path)
            assert done.returncode == 0, done.stderr
            for line in body.splitlines():
                if line.startswith("rnndsp "):
                    done = run([sys.executable, "-m", *shlex.split(line, comments=True)], tmp_path)
                    assert done.returncode == 0, f"{line}\n{done.stderr}"
    done = run([sys.executable, "-W", "error", "-c", "\n".join(code)], tmp_path)
    assert done.returncode == 0, done.stderr

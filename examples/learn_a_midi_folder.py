"""Learn from a folder of MIDI files, say how well, and compose.

Run it: ``python examples/learn_a_midi_folder.py FOLDER piece.mid``. Three files are enough for it to run, a hundred of
one style for it to learn something. It writes the piece as MIDI, WAV and PNG, and the model.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rnndsp import audio, midi

folder, target = sys.argv[1], Path(sys.argv[2])
n_epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 16

corpus = midi.read_folder(folder)
print(corpus)
for path, reason in corpus.refused:
    print(f"left out {path}: {reason}")


def progress(done: int, total: int, text: str) -> None:
    print(f"\r{done}/{total} {text}", end="", file=sys.stderr)


training = midi.train(corpus, n_epochs=n_epochs, progress=progress)
print(training)
training.model.save(target.with_suffix(".safetensors"), force=True)

piece = training.model.generate(8, temperature=0.8, seed=1)
midi.write(piece, target, force=True)
audio.write(target.with_suffix(".wav"), midi.render(piece), 44100, force=True)
figure, ax = plt.subplots(figsize=(12, 4), layout="constrained")
midi.piano_roll_plot(piece, ax=ax)
figure.savefig(target.with_suffix(".png"), dpi=80)
print(f"wrote {target}: {piece.n_notes} notes, {piece.duration_s:.0f} s")

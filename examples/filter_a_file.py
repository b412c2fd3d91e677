"""Filter an audio file block by block, as a live host would, and turn a knob while it plays.

Run it: ``python examples/filter_a_file.py in.wav out.wav``.
"""

import sys

import numpy as np

from rnndsp import audio
from rnndsp.filters import StateVariable

source, target = sys.argv[1:3]
sample_rate = audio.info(source).sample_rate
lowpass = StateVariable("lowpass", cutoff_hz=400, q=2, sample_rate=sample_rate)
n_channels = audio.info(source).n_channels
stream = lowpass.stream(voices=(n_channels,), sample_rate=sample_rate)

out = []
for n, block in enumerate(audio.blocks(source, 64)):
    # a slow wah: one turn in two seconds
    stream.controls["cutoff_hz"] = 400 * 8 ** np.sin(np.pi * n * 64 / sample_rate) ** 2
    out.append(stream.process(np.ascontiguousarray(block.T[..., None])))
audio.write(target, np.concatenate(out, axis=1)[..., 0].T, sample_rate, force=True)
print(f"wrote {target}, {stream.index / sample_rate:.2f} s in blocks of 64")

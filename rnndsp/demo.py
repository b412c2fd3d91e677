"""The demonstration: a guitar phrase through a recurrent network and a reverb, heard, seen and analysed."""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path

from matplotlib.figure import Figure

from rnndsp import audio, plots, report
from rnndsp._files import new_folder
from rnndsp.filters import named
from rnndsp.stability import StabilityReport

__all__ = ["run"]

SAMPLE_RATE = 48000
BLOCK_SIZE = 64
DRIVE = 0.6
TAIL_S = 2.0


def run(
    directory: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the demonstration to a folder and return the path of its ``index.html``.

    Parameters
    ----------
    directory : path
        Made here; the whole folder appears when it is complete, or not at all.
    force : bool
        Replace the folder if it holds an earlier demonstration.
    progress : callable, optional
        Called with the steps done and their total.

    Raises
    ------
    ParameterError
        The folder exists, or cannot be made.
    """
    tell = progress or (lambda done, total: None)
    amp = named("overdrive", sample_rate=SAMPLE_RATE)
    room = named(f"reverb:t60_s={TAIL_S},mix=0.35", sample_rate=SAMPLE_RATE)
    with new_folder(directory, force=force) as folder:
        tell(0, 5)
        dry = folder / "guitar.wav"
        with resources.as_file(resources.files("rnndsp") / "data" / "guitar_phrase.flac") as phrase:
            audio.write(dry, *audio.read(phrase), subtype="PCM_16")
        amp.save(folder / "overdrive.safetensors")
        room.save(folder / "reverb.safetensors")
        # as a sound card would hand it over; the result does not depend on the block size
        done = audio.process(
            amp >> room,
            dry,
            folder / "guitar_overdriven.wav",
            block_size=BLOCK_SIZE,
            controls={"drive": DRIVE},
            tail_s=TAIL_S,
        )
        tell(2, 5)
        dry_signal, _ = audio.read(dry)
        wet_signal, _ = audio.read(folder / "guitar_overdriven.wav")
        pictures = {"guitar.png": dry_signal, "guitar_overdriven.png": wet_signal}
        for name, signal in pictures.items():
            figure = Figure(figsize=(7, 3.5), layout="constrained")
            plots.spectrogram_plot(signal[:, 0], SAMPLE_RATE, ax=figure.add_subplot())
            figure.savefig(folder / name, dpi=90)
        tell(3, 5)
        report.analyze(
            amp, folder / "overdrive", name="The overdrive: an LSTM", signal=dry_signal, controls={"drive": DRIVE}
        )
        tell(4, 5)
        report.analyze(room, folder / "reverb", name="The reverb: a feedback delay network")
        body = _body(done, amp.stability(controls={"drive": DRIVE}), room.stability())
        (folder / "index.html").write_text(report.html_page("rnndsp: a guitar, a recurrent network and a reverb", body))
        tell(5, 5)
    return Path(directory) / "index.html"


def _body(done: audio.Processed, amp: StabilityReport, room: StabilityReport) -> str:
    seconds = done.n_frames / done.sample_rate
    return f"""
<p>A plucked phrase, rendered with feedback loops, went in blocks of {BLOCK_SIZE} samples through an LSTM of 12
units that was trained on an overdrive circuit (its knob <i>drive</i> at {DRIVE}), then through a reverb of 16 delay
lines. {seconds:.1f} s of sound took {done.seconds:.2f} s: {done.speed:.0f} times real time, peak
{done.peak_db:.1f} dB.</p>
<div class="plots">
<figure><audio controls src="guitar.wav"></audio><img alt="Spectrogram of the dry guitar" src="guitar.png">
<figcaption><b>Dry.</b> The guitar as it was plucked.</figcaption></figure>
<figure><audio controls src="guitar_overdriven.wav"></audio>
<img alt="Spectrogram of the guitar after overdrive and reverb" src="guitar_overdriven.png">
<figcaption><b>Wet.</b> Overdriven: new harmonics above every note. Reverberant: the gaps between the chords are
filled.</figcaption></figure>
</div>
<h2>Are they stable?</h2>
<p><a href="overdrive/index.html">The overdrive</a>: {_summary(amp)}</p>
<p><a href="reverb/index.html">The reverb</a>: {_summary(room)}</p>
<h2>What to try next</h2>
<pre>rnndsp process overdrive guitar.wav -o loud.wav -c drive=1
rnndsp process reverb:t60_s=6,size=2 guitar.wav -o cathedral.wav --tail-s 6
rnndsp analyze lowpass:cutoff_hz=4000,order=4 -o lowpass
rnndsp filters</pre>
"""


def _summary(verdicts: StabilityReport) -> str:
    return "; ".join(f"{escape(row.name)} {escape(row.verdict.value)}" for row in verdicts) + "."

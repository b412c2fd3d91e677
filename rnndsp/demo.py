"""The demonstration: a recurrent network learns Bach's chorales and composes one; it is heard, filtered, diagnosed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

from rnndsp import audio, midi, plots, report
from rnndsp._files import new_folder
from rnndsp._findings import Findings
from rnndsp.filters import named
from rnndsp.midi import Piece, Training
from rnndsp.notebook import badge, drawn

__all__ = ["run"]

SAMPLE_RATE = 48000
BLOCK_SIZE = 64
DRIVE = 0.5
TAIL_S = 2.5
N_BARS, TEMPERATURE, SEED = 8, 0.75, 0

Progress = Callable[[int, int, str], None]


def run(directory: str | os.PathLike[str], *, force: bool = False, progress: Progress | None = None) -> Path:
    """Write the demonstration to a folder and return the path of its ``index.html``.

    Parameters
    ----------
    directory : path
        Made here; the whole folder appears when it is complete, or not at all.
    force : bool
        Replace the folder if it holds an earlier demonstration.
    progress : function, optional
        Called with the steps done, their total, and a line about what is done.

    Raises
    ------
    ParameterError
        The folder exists, or cannot be made.
    """
    tell = progress or (lambda done, total, text: None)
    amp = named("overdrive", sample_rate=SAMPLE_RATE)
    room = named(f"reverb:t60_s={TAIL_S},mix=0.3", sample_rate=SAMPLE_RATE)
    with new_folder(directory, force=force) as folder:
        corpus = midi.chorales()
        # the rest takes about a third of the time of the training
        training = midi.train(corpus, progress=lambda done, total, text: tell(3 * done, 4 * total, f"learns; {text}"))
        training.model.save(folder / "bach.safetensors")
        tell(75, 100, "composes and plays")
        piece = training.model.generate(N_BARS, temperature=TEMPERATURE, seed=SEED)
        midi.write(piece, folder / "chorale.mid")
        dry, wet = folder / "chorale.wav", folder / "chorale_wet.wav"
        audio.write(dry, midi.render(piece, sample_rate=SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16")
        # as a sound card would hand it over; the result does not depend on the block size
        played = audio.process(
            amp >> room, dry, wet, block_size=BLOCK_SIZE, controls={"drive": DRIVE}, tail_s=TAIL_S, subtype="PCM_16"
        )
        tell(80, 100, "draws and analyses")
        signal, _ = audio.read(dry)
        echoing, _ = audio.read(wet)
        bach = corpus.test[0]
        _draw(folder / "chorale_roll.png", partial(midi.piano_roll_plot, piece), 11.0)
        _draw(folder / "bach_roll.png", partial(midi.piano_roll_plot, bach), 11.0)
        _draw(folder / "chorale.png", partial(plots.spectrogram_plot, signal[:, 0], SAMPLE_RATE), 7.0)
        _draw(folder / "chorale_wet.png", partial(plots.spectrogram_plot, echoing[:, 0], SAMPLE_RATE), 7.0)
        composer, heard = training.model.cell, training.model.heard(piece)
        subjects = {
            "composer": report.find_out(composer, "The composer, a GRU", signal=heard),
            "overdrive": report.find_out(amp, "The overdrive, an LSTM", signal=signal, controls={"drive": DRIVE}),
            "reverb": report.find_out(room, "The reverb, a feedback delay network"),
        }
        for name, found in subjects.items():
            report.write(found, folder / name)
        body = _body(training, piece, bach, played, subjects)
        page = report.html_page("rnndsp: learn, compose, play, diagnose", body)
        (folder / "index.html").write_text(page, encoding="utf-8")
        tell(100, 100, "")
    return Path(directory) / "index.html"


def _draw(path: Path, draw: Callable[..., object], width: float) -> None:
    _, png = drawn(lambda ax: draw(ax=ax), width, 3.6)
    path.write_bytes(png)


def _body(training: Training, piece: Piece, bach: Piece, played: audio.Processed, subjects: dict[str, Findings]) -> str:
    scores = "".join(f"<tr><th>{escape(name)}</th><td>{value:.3f}</td></tr>" for name, value in training.scores.items())
    learnt = sum(epoch.seconds for epoch in training.fit.history)
    seconds = played.n_frames / played.sample_rate
    return f"""
<p>In {learnt:.0f} seconds a GRU has learnt from {training.model.about["n_pieces"]} chorales by Bach which notes come
next, on top of what a linear map of the last notes knows, and has composed this one, of {N_BARS} bars and a pickup.</p>
<figure><img alt="Piano roll of the composed chorale" src="chorale_roll.png">
<figcaption><b>Composed.</b> <a href="chorale.mid">chorale.mid</a>, {piece.n_notes} notes at temperature {TEMPERATURE},
seed {SEED}; other seeds give other pieces, some worse.</figcaption></figure>
<figure><img alt="Piano roll of {escape(bach.name)}" src="bach_roll.png">
<figcaption><b>Bach.</b> {escape(bach.name)}, which the network never heard.</figcaption></figure>
<h2>Hear it, filtered</h2>
<p>In blocks of {BLOCK_SIZE} samples it went through an LSTM of 12 units that was trained on an overdrive circuit (its
knob <i>drive</i> at {DRIVE}), then through a reverb of 16 delay lines: {seconds:.1f} s of sound in {played.seconds:.2f}
s, {played.speed:.0f} times real time, peak {played.peak_db:.1f} dB.</p>
<div class="plots">
<figure><audio controls src="chorale.wav"></audio><img alt="Spectrogram before the filters" src="chorale.png">
<figcaption><b>Dry.</b> As the synthesizer plays it.</figcaption></figure>
<figure><audio controls src="chorale_wet.wav"></audio>
<img alt="Spectrogram after overdrive and reverb" src="chorale_wet.png">
<figcaption><b>Wet.</b> The overdrive presses loud chords together and adds overtones; the reverb lets chords run into
each other.</figcaption></figure>
</div>
<h2>How well does it know Bach?</h2>
<p>Negative log-likelihood of chorales on tunes it never heard, in nats a sixteenth; less is better.</p>
<table><tbody>{scores}</tbody></table>
<h2>Are they stable?</h2>
<div class="plots">
{"".join(map(_judged, subjects, subjects.values()))}
</div>
<h2>What to try next</h2>
<p>In the folder of this page:</p>
<pre>rnndsp generate bach.safetensors -o another.mid --bars 16 --seed 1 --wav --png
rnndsp process overdrive chorale.wav -o loud.wav -c drive=1
rnndsp process reverb:t60_s=6,size=2 chorale.wav -o cathedral.wav --tail-s 6
rnndsp analyze lowpass:cutoff_hz=4000,order=4 -o lowpass
rnndsp train music FOLDER_OF_YOUR_MIDI_FILES -o mine.safetensors
rnndsp filters</pre>
"""


def _judged(folder: str, found: Findings) -> str:
    said = "".join(f"<li>{escape(row.name)} {badge(row.verdict)}</li>" for row in found.verdicts or ())
    page = f"{folder}/index.html"
    shown, alt = ("poles", "Poles") if found.poles is not None else ("octave_decay", "How each octave fades")
    return f"""<figure><a href="{page}"><img alt="{alt}" src="{folder}/{shown}.png"></a>
<figcaption><b><a href="{page}">{escape(found.name)}</a></b><ul>{said}</ul></figcaption></figure>"""

"""The command line: ``rnndsp process``, ``analyze``, ``filters``, ``train``, ``generate``, ``demo``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from rnndsp._progress import progress_bar
from rnndsp.errors import ParameterError, RnndspError

__all__ = ["app", "main"]

app = typer.Typer(
    name="rnndsp",
    help="Recurrent networks as nonlinear IIR filters: run them on audio, and see whether they are stable.",
    epilog="Start with: rnndsp demo -o demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

train_app = typer.Typer(no_args_is_help=True, help="Teach a recurrent cell.")
app.add_typer(train_app, name="train")

FilterArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILTER",
        help="A saved filter, or a built-in one with its settings, lowpass:cutoff_hz=4000,order=4; "
        "'rnndsp filters' lists them. A chain with + in between, lowpass+reverb.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what exists.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--control", "-c", metavar="NAME=VALUE", help="Set a control, as drive=0.8; may be repeated."),
]


def parse_controls(settings: list[str] | None) -> dict[str, float]:
    """``["drive=0.8"]`` as a mapping."""
    controls = {}
    for setting in settings or []:
        name, _, value = setting.partition("=")
        if name in controls:
            raise ParameterError(f"--control {name} is given twice")
        try:
            controls[name] = float(value)
        except ValueError:
            raise ParameterError(f"--control {setting!r}: write NAME=VALUE with a number, as drive=0.8") from None
    return controls


def _version(wanted: bool) -> None:
    if wanted:
        import rnndsp

        typer.echo(f"rnndsp {rnndsp.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and stop.")
    ] = False,
) -> None:
    """Recurrent networks as nonlinear IIR filters: run them on audio, and see whether they are stable."""


@app.command()
def process(
    filter_spec: FilterArgument,
    source: Annotated[Path, typer.Argument(metavar="IN.wav", help="Audio file to read.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.wav", help="Audio file to write.")],
    block_size: Annotated[
        int, typer.Option(help="Frames a block, as from a sound card; the result is the same.")
    ] = 1024,
    control: Settings = None,
    tail_s: Annotated[float, typer.Option(metavar="SECONDS", help="Silence to feed after the end, for reverbs.")] = 0.0,
    on_nonfinite: Annotated[
        str,
        typer.Option(metavar="raise|reset|hold", help="What to do about NaN in the file, or a filter that blows up."),
    ] = "raise",
    subtype: Annotated[str | None, typer.Option(help="Sample format of the output, as PCM_16 or FLOAT.")] = None,
    force: Force = False,
) -> None:
    """Run a filter over an audio file, block by block in constant memory.

    A filter of one channel runs on each channel of the file by itself.

    [bold]Examples[/bold]

    rnndsp process lowpass:cutoff_hz=4000,order=4 guitar.wav -o dull.wav

    rnndsp process reverb:t60_s=2 guitar.wav -o hall.wav --tail-s 2 --block-size 64

    rnndsp process overdrive+lowpass:cutoff_hz=5000+reverb guitar.wav -o loud.wav -c drive=0.8
    """
    from rnndsp import audio
    from rnndsp.filters import named

    if output.exists() and not force:
        raise ParameterError(f"{output} exists; to replace it say --force")
    info = audio.info(source)
    filt = named(filter_spec, sample_rate=info.sample_rate, n_channels=info.n_channels)
    with progress_bar(f"{source.name} -> {output.name}") as progress:
        done = audio.process(
            filt,
            source,
            output,
            block_size=block_size,
            force=force,
            controls=parse_controls(control),
            on_nonfinite=on_nonfinite,
            tail_s=tail_s,
            subtype=subtype,
            progress=progress,
        )
    typer.echo(
        f"{output}: {done.n_frames / done.sample_rate:.2f} s, {done.n_channels} channel(s) at {done.sample_rate} Hz, "
        f"peak {done.peak_db:.1f} dB, {done.speed:.0f} x real time"
    )
    if done.n_nonfinite:
        typer.echo(f"warning: NaN or infinity at {done.n_nonfinite} samples ({on_nonfinite})", err=True)
    if done.peak_db > 0:
        typer.echo(
            "warning: the output exceeds full scale; it is kept in float, but would clip on a sound card", err=True
        )


@app.command()
def analyze(
    filter_spec: FilterArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the page and its plots.")
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(metavar="HZ", help="For filters that do not say their own; 48000 for built-in ones.")
    ] = None,
    control: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON in place of the table.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Turn each control over its range: how many rest states?")] = (
        False
    ),
    sweep_only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Turn this control only; may be repeated.")
    ] = None,
    force: Force = False,
) -> None:
    """Say whether a filter is stable, in which sense, where it rests, how it sounds, and show it.

    Prints a table of verdicts, or with --json an object with all numbers, and writes index.html with plots where -o
    says so. Of nonlinear filters it searches the rest states, and what has to be played to get from one to another.

    [bold]Examples[/bold]

    rnndsp analyze reverb:t60_s=2 -o hall

    rnndsp analyze my_amp.safetensors -o amp -c drive=0.8 --sweep

    rnndsp analyze my_amp.safetensors --json
    """
    import json

    from rnndsp import report
    from rnndsp.filters import named

    filt = named(filter_spec, sample_rate=48000.0 if sample_rate is None else sample_rate)
    if sweep and not filt.controls:
        raise ParameterError(f"--sweep: {filter_spec} has no controls to turn")
    swept = [knob.name for knob in filt.controls] if sweep else list(dict.fromkeys(sweep_only or []))
    found = report.find_out(filt, filter_spec, sample_rate, None, parse_controls(control), swept)
    page = None
    if output is not None:
        with progress_bar(filter_spec) as progress:
            page = report.write(found, output, force=force, progress=progress)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        typer.echo(found.text())
    if page is not None:
        typer.echo(page if as_json else f"\n{page}", err=as_json)


@app.command()
def filters() -> None:
    """List the built-in filters with their settings and defaults."""

    import inspect

    from rnndsp.filters.named import NAMES, usage

    for name, design in NAMES.items():
        typer.echo(usage(name))
        typer.echo(f"    {inspect.getdoc(design)}")


@train_app.command("music")
def train_music(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder of MIDI files, or 'chorales' for Bach's, which are bundled.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="File to write the model to.")],
    cell: Annotated[str, typer.Option(metavar="gru|lstm|elman", help="The recurrent cell.")] = "gru",
    n_units: Annotated[int, typer.Option(help="Its units.")] = 64,
    n_epochs: Annotated[int, typer.Option(help="Passes over the music.")] = 24,
    steps_per_beat: Annotated[int, typer.Option(help="The grid: 4 makes sixteenths, 12 holds triplets.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    force: Force = False,
) -> None:
    """Learn from music: a recurrent cell that says which notes come next.

    Files that cannot be read are named, with the reason, and the others used. Interrupted, it leaves a checkpoint
    beside MODEL, and the same command goes on from there. At the end it prints how well the model knows pieces that it
    never heard, beside three baselines.

    [bold]Examples[/bold]

    rnndsp train music chorales -o bach.safetensors

    rnndsp train music my_midi_files -o mine.safetensors --steps-per-beat 12
    """
    from rnndsp import midi
    from rnndsp._files import check_writable

    check_writable(output, force=force)
    corpus = midi.chorales() if source == "chorales" else midi.read_folder(source)
    for name, reason in corpus.refused:
        typer.echo(f"left out {name}: {reason}", err=True)
    typer.echo(corpus)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    written = midi.checkpoints(checkpoint)
    if left := [str(path) for path in written if path.exists()]:
        typer.echo(f"going on from {' and '.join(left)}")
    try:
        with progress_bar("training") as progress:
            done = midi.train(
                corpus,
                cell=cell,
                n_units=n_units,
                n_epochs=n_epochs,
                steps_per_beat=steps_per_beat,
                seed=seed,
                checkpoint=checkpoint,
                progress=progress,
            )
    except KeyboardInterrupt:
        kept = any(path.exists() for path in written)
        typer.echo("interrupted; " + ("the same command goes on" if kept else "nothing was learnt yet"), err=True)
        raise typer.Exit(130) from None
    except RnndspError as error:
        if any(path in str(error) for path in left):
            raise ParameterError(f"{error}. To start anew, delete {' and '.join(left)}") from error
        raise
    done.model.save(output, force=force)
    for path in written:
        path.unlink(missing_ok=True)
    typer.echo(f"{done}\n{output}; now: rnndsp generate {output} -o piece.mid --wav")


@train_app.command("audio")
def train_audio(
    dry: Annotated[Path, typer.Argument(metavar="DRY.wav", help="What goes into the effect.")],
    wet: Annotated[Path, typer.Argument(metavar="WET.wav", help="What comes out of it, of the same performance.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="File to write the filter to.")],
    cell: Annotated[str, typer.Option(metavar="gru|lstm|elman|diagonal|ren", help="The recurrent cell.")] = "gru",
    n_units: Annotated[int, typer.Option("--n-units", "--units", help="Its units.")] = 16,
    minutes: Annotated[float, typer.Option(help="How long to learn.")] = 2.0,
    n_batches: Annotated[
        int | None, typer.Option(help="Learn from so many batches, in place of a time: the same seed, the same model.")
    ] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="The next channel of DRY.wav says where this knob stood; may be repeated."),
    ] = None,
    latency: Annotated[
        int | None, typer.Option(metavar="SAMPLES", help="By how much WET.wav is late, where it is known.")
    ] = None,
    memory_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="How far the effect looks back: more for flangers, echoes, compressors."),
    ] = None,
    certified: Annotated[
        bool, typer.Option("--certified", help="A cell that is proved to forget; says what that costs in ESR.")
    ] = False,
    seed: Annotated[int, typer.Option(help="For the first weights and the order of the pieces.")] = 0,
    png: Annotated[bool, typer.Option("--png", help="Draw the error against time beside it.")] = False,
    force: Force = False,
) -> None:
    """Learn an audio effect from a recording before it and one behind it.

    Finds and removes the latency between the two, says what is wrong with them, learns from the first 70 %, and prints
    the error-to-signal ratio (ESR) on the last 15 %, which it has not heard. Two minutes of varied playing are good.

    [bold]Examples[/bold]

    rnndsp train audio dry.wav wet.wav -o pedal.safetensors

    rnndsp train audio dry.wav wet.wav -o pedal.safetensors --certified --minutes 5 --png
    """
    from rnndsp import capture, notebook, plots
    from rnndsp._files import check_writable, writing
    from rnndsp.filters.effects import CERTIFIED, recurrent_effect
    from rnndsp.stability import Verdict, certify

    picture = output.with_suffix(".png")
    wanted = [output, *([picture] * png)]
    if len({path.resolve() for path in (dry, wet, *wanted)}) < 2 + len(wanted):
        raise ParameterError(f"{', '.join(map(str, (dry, wet, *wanted)))}: two of them are the same file; name another")
    for path in wanted:
        check_writable(path, force=force)
    if not 0 < minutes < math.inf or not (memory_ms is None or 0 < memory_ms < math.inf):
        raise ParameterError(f"--minutes {minutes} and --memory-ms {memory_ms} must be positive")
    names = list(dict.fromkeys([cell, CERTIFIED] if certified else [cell]))
    pair = capture.read_pair(dry, wet, knobs=knob or (), latency=latency)
    skip = math.copysign(min(1.0, abs(pair.gain)), pair.gain)
    models = {
        name: recurrent_effect(name, n_units, n_knobs=len(pair.knobs), level=pair.level, skip=skip, seed=seed)
        for name in names
    }
    typer.echo(pair)
    n_warm_up = capture.WARM_UP if memory_ms is None else max(1, round(1e-3 * memory_ms * pair.sample_rate))
    found = {}
    for name, model in models.items():
        try:
            with progress_bar(f"training {name}-{n_units}") as progress:
                found[name] = capture.learn(
                    model,
                    pair,
                    minutes=minutes / len(models),
                    n_batches=n_batches,
                    n_warm_up=n_warm_up,
                    seed=seed,
                    progress=progress,
                )
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing was written", err=True)
            raise typer.Exit(130) from None
        typer.echo(f"{name}-{n_units}: {found[name]}")
    done = found[names[-1]]
    if certified:
        verdict = certify(done.filter)
        if verdict.verdict is not Verdict.PROVED:
            raise RnndspError(f"contraction is not proved of what was learnt, nothing is written: {verdict.statement}")
        typer.echo(f"certified: contraction is proved for {verdict.hypotheses}")
        if len(found) > 1:
            times = max(done.esr, 1e-30) / max(found[cell].esr, 1e-30)
            typer.echo(f"that costs {10 * math.log10(times):+.1f} dB of ESR beside {cell}-{n_units}")
    drawing = notebook.drawn(lambda ax: plots.esr_plot(done, ax=ax), 8, 4)[1] if png else None
    done.filter.save(output, force=force)
    if drawing is not None:
        with writing(picture, force=force) as temporary:
            temporary.write_bytes(drawing)
    typer.echo(f"{', '.join(map(str, wanted))}; now: rnndsp process {output} {dry} -o out.wav")


@app.command()
def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model that 'rnndsp train music' wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.mid", help="MIDI file to write.")],
    n_bars: Annotated[int, typer.Option("--bars", help="How long.")] = 8,
    temperature: Annotated[float, typer.Option(help="Less is safer, more is wilder; 1 is as learnt.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Another seed, another piece.")] = 0,
    tempo_bpm: Annotated[float | None, typer.Option(help="Beats a minute; as in the music it learnt from.")] = None,
    transpose: Annotated[int, typer.Option(metavar="SEMITONES", help="It composes in C, major or minor.")] = 0,
    wav: Annotated[bool, typer.Option("--wav", help="Write the sound beside it.")] = False,
    png: Annotated[bool, typer.Option("--png", help="Draw the piano roll beside it.")] = False,
    force: Force = False,
) -> None:
    """Compose a piece.

    [bold]Examples[/bold]

    rnndsp generate bach.safetensors -o piece.mid --bars 16 --seed 7 --wav --png
    """
    from rnndsp import audio, midi, notebook
    from rnndsp._files import check_writable, writing

    if output.suffix.lower() not in (".mid", ".midi"):
        raise ParameterError(f"{output} would be a MIDI file: give it a name that ends in .mid")
    sound, picture = (output.with_suffix(suffix) for suffix in (".wav", ".png"))
    wanted = [output, *([sound] * wav), *([picture] * png)]
    if len({path.resolve() for path in (model, *wanted)}) < 1 + len(wanted):
        raise ParameterError(f"{', '.join(map(str, (model, *wanted)))}: two of them are the same file; name another")
    for path in wanted:
        check_writable(path, force=force)
    piece = midi.MusicModel.load(model).generate(
        n_bars, temperature=temperature, seed=seed, tempo_bpm=tempo_bpm, transpose=transpose
    )
    # all of it before the first file is written
    heard = midi.render(piece) if wav else None
    drawing = notebook.drawn(lambda ax: midi.piano_roll_plot(piece, ax=ax), 12, 4)[1] if png else None
    midi.write(piece, output, force=force)
    if heard is not None:
        audio.write(sound, heard, 44100, subtype="PCM_16", force=force)
    if drawing is not None:
        with writing(picture, force=force) as temporary:
            temporary.write_bytes(drawing)
    typer.echo(f"{', '.join(map(str, wanted))}: {piece.n_notes} notes, {piece.duration_s:.1f} s")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")],
    force: Force = False,
) -> None:
    """Hear and see what this is about: learn from Bach, compose, play through an overdrive and a reverb, diagnose.

    Takes a minute or two, three the first time.
    """
    from rnndsp import demo as demonstration

    typer.echo("learns Bach's chorales, composes, plays and diagnoses: a minute or two", err=True)
    with progress_bar("demo") as progress:
        page = demonstration.run(output, force=force, progress=progress)
    typer.echo(f"open {page}")


def main() -> None:
    """Entry point of the command ``rnndsp``: errors are one line on standard error and exit status 2."""
    try:
        app()
    except RnndspError as error:
        print(f"rnndsp: {error}", file=sys.stderr)
        sys.exit(2)

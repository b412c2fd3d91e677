"""``rnndsp train music`` and ``rnndsp generate``, as a musician with a folder of MIDI files uses them."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import mido
import numpy as np
import pytest
import soundfile
import typer

import rnndsp
from rnndsp import cli, midi
from rnndsp.filters import Dense
from rnndsp.midi import MusicModel, Piece, Track, chorales

SETTINGS = ("--n-units", "4", "--n-epochs", "2")


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "rnndsp", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MPLBACKEND": "Agg", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments, code=0):
    with start(folder, *arguments) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stdout + stderr
    assert "Traceback" not in stderr
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command line without a new process, for what is over soon: (exit status, output, errors)."""

    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["rnndsp", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return call


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, folder, *arguments):
    """The one line of what is refused, nothing being written."""
    before = contents(folder)
    code, _, errors = command(*arguments)
    assert code == 2 and errors.startswith("rnndsp: ") and errors.strip().count("\n") == 0, errors
    assert contents(folder) == before
    return errors


# ---- a folder of music and a model, made once


def cut(piece, n_bars=4):
    def first(track):
        return replace(track, notes=track.notes[track.notes["end"] <= 1920 * n_bars])

    return replace(piece, tracks=tuple(map(first, piece.tracks)))


def fill(songs):
    """Ten good files, and four that cannot be used."""
    songs.mkdir()
    for n, piece in enumerate(chorales().train[:10]):
        midi.write(cut(piece), songs / f"{n}.mid")
    (songs / "cut short.mid").write_bytes((songs / "0.mid").read_bytes()[:-40])
    (songs / "text.mid").write_text("Dear diary, this is no music.")
    for name, messages in (
        ("silent", [mido.Message("program_change", program=3)]),
        (
            "tempo",
            [
                mido.MetaMessage("set_tempo", tempo=0),
                mido.Message("note_on", note=60),
                mido.Message("note_off", note=60, time=480),
            ],
        ),
    ):
        mido.MidiFile(tracks=[mido.MidiTrack(messages)]).save(songs / f"{name}.mid")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    fill(folder / "songs")
    return folder


@pytest.fixture(scope="module")
def trained(place):
    return run(place, "train", "music", "songs", "-o", "model.safetensors", "--seed", "3", *SETTINGS)


@pytest.fixture
def model(place, trained, tmp_path):
    """A copy of the model, in the folder of the test."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((place / "model.safetensors").read_bytes())
    return path


@pytest.fixture
def songs(place):
    return place / "songs"


# ---- training


def test_train(place, trained):
    scores = dict(re.findall(r"^(.+?)  +(\d+\.\d{3})$", trained.stdout, re.MULTILINE))
    assert list(scores) == ["marginals", "the last frame again", "linear, same head", "linear + GRU-4"]
    assert "Corpus('songs': 8 train, 1 validation, 1 test; 4 refused, 0 duplicates)" in trained.stdout
    assert "less is better" in trained.stdout and "rnndsp generate model.safetensors" in trained.stdout
    assert sorted(path.name for path in place.iterdir()) == ["model.safetensors", "songs"]  # no checkpoints
    model = MusicModel.load(place / "model.safetensors")
    assert {name: f"{value:.3f}" for name, value in model.about["nats_a_frame"].items()} == scores
    same = midi.train(midi.read_folder(place / "songs"), n_units=4, n_epochs=2, seed=3).model
    assert all(np.array_equal(model.filter.params[name], value) for name, value in same.filter.params.items())


def test_refused_files_are_named_with_the_reason(trained):
    lines = trained.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"left out {name}.mid" for name in ("cut short", "silent", "tempo", "text")
    ]
    for line, reason in zip(lines, ("cut short", "no notes", "tempo of 0", "no MIDI file"), strict=True):
        assert reason in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["empty", "-o", "m.st"], "no MIDI file in 'empty'"),
        (["absent", "-o", "m.st"], "'absent' does not exist"),
        (["SONGS/1.mid", "-o", "m.st"], "is not a folder"),
        (["one", "-o", "m.st"], "three at least"),
        (["SONGS", "-o", "here.st"], "here.st exists.*-f"),
        (["SONGS", "-o", "no/m.st"], "folder no does not exist"),
        (["SONGS", "-o", "empty"], "empty is a folder"),
        (["SONGS", "-o", "."], "is a folder"),
    ],
)
def test_train_refuses(command, songs, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "1.mid").write_bytes((songs / "1.mid").read_bytes())
    (tmp_path / "here.st").write_text("precious")
    arguments = [argument.replace("SONGS", str(songs)) for argument in arguments]
    assert re.search(says, refused(command, tmp_path, "train", "music", *arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cell", "transformer"], "'transformer' is unknown.*elman.*gru.*lstm"),
        (["--n-units", "0"], "n_units=0"),
        (["--n-epochs", "0"], "n_epochs=0"),
        (["--steps-per-beat", "0"], "steps_per_beat=0"),
        (["--seed", "-1"], "seed=-1"),
    ],
)
def test_train_settings_out_of_range(command, tmp_path, songs, arguments, says):
    good = tmp_path / "good"
    good.mkdir()
    for name in ("1.mid", "2.mid", "3.mid"):
        (good / name).write_bytes((songs / name).read_bytes())
    assert re.search(says, refused(command, tmp_path, "train", "music", "good", "-o", "m.st", *arguments))


@pytest.mark.parametrize(
    "arguments",
    [("train", "music", "songs", "-o", "locked/m.st"), ("generate", "model.safetensors", "-o", "locked/x.mid")],
    ids=" ".join,
)
def test_a_folder_that_cannot_be_written(place, trained, arguments):
    locked = place / "locked"
    locked.mkdir(mode=0o500)
    try:
        if os.access(locked, os.W_OK):
            pytest.skip("this user may write anywhere")
        errors = run(place, *arguments, code=2).stderr
        assert errors.startswith("rnndsp: cannot write to the folder locked") and errors.count("\n") == 1
        assert not any(locked.iterdir())
    finally:
        locked.rmdir()


def test_errors_of_a_real_process(place, trained):
    before = contents(place)
    for arguments, says in (
        (("train", "music", "absent", "-o", "m.st"), "'absent' does not exist"),
        (("generate", "songs/1.mid", "-o", "x.mid"), "not a file that rnndsp wrote"),
    ):
        errors = run(place, *arguments, code=2).stderr
        assert says in errors and errors.startswith("rnndsp: ") and errors.count("\n") == 1
    assert contents(place) == before


def test_one_piece_that_is_too_long_is_left_out_or_named(command, tmp_path, songs):
    (tmp_path / "good").mkdir()
    for path in songs.glob("?.mid"):
        (tmp_path / "good" / path.name).write_bytes(path.read_bytes())
    ages = Piece((Track([(0, 480, 60, 80), (480 * 300000, 480 * 300001, 62, 80)]),))
    midi.write(ages, tmp_path / "good" / "ages.mid")
    _, _, errors = command("train", "music", "good", "-o", "m.st", *SETTINGS)
    assert "ages.mid" in errors


# ---- interrupted


def interrupted(folder, number, until, *arguments):
    """Run a command, and send it a signal as soon as a file is there."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner may ignore it, and children with it
    try:
        process = start(folder, *arguments)
    finally:
        signal.signal(signal.SIGINT, handler)
    with process:
        began = time.monotonic()
        while not until.exists() and process.poll() is None and time.monotonic() - began < 100:
            time.sleep(0.002)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=100)
    return process.returncode, stdout, stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are other ones")
def test_interrupted_training_goes_on(tmp_path, songs):
    settings = ("--n-units", "3", "--n-epochs", "16")
    run(tmp_path, "train", "music", songs, "-o", "whole.st", *settings)
    arguments = ("train", "music", songs, "-o", "part.st", *settings)
    linear, own = midi.checkpoints(tmp_path / "part.st.checkpoint")

    code, _, errors = interrupted(tmp_path, signal.SIGINT, linear, *arguments)
    assert code == 130 and errors.splitlines()[-1] == "interrupted; the same command goes on"
    assert "Traceback" not in errors and linear.exists() and not (tmp_path / "part.st").exists()

    code, said, _ = interrupted(tmp_path, signal.SIGKILL, own, *arguments)
    assert code == -signal.SIGKILL and "going on from part.st" in said
    assert linear.exists() and own.exists() and not (tmp_path / "part.st").exists()

    assert "going on from part.st" in run(tmp_path, *arguments).stdout
    assert not linear.exists() and not own.exists()
    one, other = (MusicModel.load(tmp_path / name) for name in ("whole.st", "part.st"))
    assert one.about == other.about and one.frames == other.frames
    for name, value in one.filter.params.items():
        assert np.array_equal(value, other.filter.params[name]), name


def test_interrupted_before_there_is_a_checkpoint(command, monkeypatch, tmp_path, songs):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(midi, "train", interrupt)
    code, _, errors = command("train", "music", songs, "-o", "m.st")
    assert code == 130 and "interrupted" in errors and "goes on from" not in errors


def leave_checkpoints(tmp_path, songs, **settings):
    midi.train(midi.read_folder(songs), checkpoint=tmp_path / "m.st.checkpoint", n_units=4, n_epochs=1, **settings)


def test_the_checkpoint_of_other_settings(command, tmp_path, songs):
    leave_checkpoints(tmp_path, songs)
    before = contents(tmp_path)
    code, _, errors = command("train", "music", songs, "-o", "m.st", "--n-units", "4", "--n-epochs", "1", "--seed", "5")
    assert code == 2 and contents(tmp_path) == before
    assert re.fullmatch(r"rnndsp: m\.st.*another training.*delete it.*", errors.splitlines()[-1])


def test_all_checkpoints_to_delete_are_named(command, tmp_path, songs):
    leave_checkpoints(tmp_path, songs)
    _, _, errors = command("train", "music", songs, "-o", "m.st", "--n-units", "4", "--n-epochs", "1", "--seed", "5")
    assert all(path.name in errors for path in midi.checkpoints(tmp_path / "m.st.checkpoint"))


def test_a_damaged_checkpoint_says_what_to_do(command, tmp_path, songs):
    leave_checkpoints(tmp_path, songs)
    for path in midi.checkpoints(tmp_path / "m.st.checkpoint"):
        path.write_bytes(path.read_bytes()[:-5])
    code, _, errors = command("train", "music", songs, "-o", "m.st", "--n-units", "4", "--n-epochs", "1")
    assert code == 2 and "damaged" in errors.splitlines()[-1] and "delete" in errors.splitlines()[-1]


# ---- composing


def test_generate(model, tmp_path):
    done = run(tmp_path, "generate", model.name, "-o", "piece.mid", "--bars", "2", "--seed", "4", "--wav", "--png")
    piece = midi.read(tmp_path / "piece.mid")
    assert piece == MusicModel.load(model).generate(2, temperature=0.8, seed=4)
    info = soundfile.info(tmp_path / "piece.wav")
    assert (info.samplerate, info.channels, info.subtype) == (44100, 1, "PCM_16")
    assert piece.duration_s <= info.duration <= piece.duration_s + 1.01
    assert np.abs(soundfile.read(tmp_path / "piece.wav")[0]).max() == pytest.approx(0.5, abs=0.01)
    assert (tmp_path / "piece.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    names = {"piece.mid", "piece.wav", "piece.png"}
    assert {path.name for path in tmp_path.iterdir()} == {model.name} | names
    assert all(name in done.stdout for name in names) and f"{piece.n_notes} notes" in done.stdout
    assert done.stderr == ""


def test_generate_settings(command, model, tmp_path):
    made = MusicModel.load(model)
    options = ["--bars", "3", "--seed", "1", "--temperature", "1.5", "--tempo-bpm", "90", "--transpose", "-3"]
    assert command("generate", model, "-o", "a.mid", *options)[0] == 0
    assert midi.read(tmp_path / "a.mid") == made.generate(3, seed=1, temperature=1.5, tempo_bpm=90, transpose=-3)
    assert command("generate", model, "-o", "b.mid")[0] == 0
    assert midi.read(tmp_path / "b.mid") == made.generate(8, temperature=0.8)
    assert {path.name for path in tmp_path.iterdir()} == {model.name, "a.mid", "b.mid"}


@pytest.mark.parametrize("name", ["piece.mid", "piece.wav", "piece.png"])
def test_nothing_is_overwritten_and_then_nothing_written(command, model, tmp_path, name):
    (tmp_path / name).write_text("precious")
    arguments = ("generate", model.name, "-o", "piece.mid", "--bars", "1", "--wav", "--png")
    assert re.search(rf"{name} exists.*-f", refused(command, tmp_path, *arguments))
    assert command(*arguments, "-f")[0] == 0
    assert len(contents(tmp_path)) == 4 and (tmp_path / name).read_bytes() != b"precious"


def test_what_is_not_asked_for_is_no_matter(command, model, tmp_path):
    (tmp_path / "piece.wav").write_text("precious")
    assert command("generate", model.name, "-o", "piece.mid", "--bars", "1")[0] == 0
    assert (tmp_path / "piece.wav").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", "absent is not a file"),
        ("folder", "folder is not a file"),
        ("filter", "holds no rnndsp music"),
        ("checkpoint", "holds no rnndsp music"),
        ("truncated", "damaged"),
        ("text", "not a file that rnndsp wrote"),
        ("empty", "not a file that rnndsp wrote"),
    ],
)
def test_files_that_are_no_models(command, model, tmp_path, songs, name, says):
    (tmp_path / "folder").mkdir()
    Dense(3, 1).save(tmp_path / "filter")
    rnndsp.formats.write(tmp_path / "checkpoint", {"checkpoint": {}}, {"x": np.zeros(3)}, force=False)
    (tmp_path / "truncated").write_bytes(model.read_bytes()[:-7])
    (tmp_path / "text").write_text("Dear diary, this is no model.")
    (tmp_path / "empty").touch()
    assert says in refused(command, tmp_path, "generate", name, "-o", "x.mid", "--wav")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bars", "0"], "n_bars=0"),
        (["--bars", "-3"], "n_bars=-3"),
        (["--bars", "100000000"], "65536"),
        (["--temperature", "-1"], "temperature=-1"),
        (["--temperature", "nan"], "temperature=nan"),
        (["--temperature", "inf"], "temperature=inf"),
        (["--tempo-bpm", "0"], "bpm=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--transpose", "99"], "semitones=99"),
        (["-o", "no/x.mid"], "folder no does not exist"),
        (["-o", "folder"], "ends in .mid"),
        (["-o", "."], "ends in .mid"),
        (["-o", "x.wav", "--wav"], "x.wav"),
        (["-o", "x.png", "--png"], "x.png"),
        (["-o", "x.mid", "--tempo-bpm", "3.6", "--bars", "125", "--wav"], "2.32 hours"),
        (["-o", "model.safetensors", "-f"], "ends in .mid"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_generate_refuses(command, model, tmp_path, arguments, says):
    (tmp_path / "folder").mkdir()
    output = [] if "-o" in arguments else ["-o", "x.mid"]
    assert says in refused(command, tmp_path, "generate", model.name, *output, *arguments)


# ---- help


@pytest.mark.parametrize("name", [("train", "music"), ("generate",)], ids=" ".join)
def test_help_names_every_option(place, name):
    text = run(place, *name, "--help").stdout
    found = typer.main.get_command(cli.app)
    for word in name:
        found = found.commands[word]
    options = [option for parameter in found.params for option in parameter.opts if option.startswith("-")]
    expected = {
        ("train", "music"): "-o -f --output --cell --n-units --n-epochs --steps-per-beat --seed --force",
        ("generate",): "-o -f --output --bars --temperature --seed --tempo-bpm --transpose --wav --png --force",
    }
    assert set(options) == set(expected[name].split())
    assert all(re.search(rf"(?<![\w-]){option}(?![\w-])", text) for option in options)
    assert all(parameter.help for parameter in found.params if parameter.name != "help")
    assert "rnndsp " + " ".join(name) in text  # an example


def test_train_shows_what_it_can_teach(place):
    assert "music" in run(place, "train", "--help").stdout

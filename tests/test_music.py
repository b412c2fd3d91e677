"""Frames against a slow reading of their definition, what models compose, their files, and how they are trained."""

import json
import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import rnndsp
from rnndsp import Parallel
from rnndsp.errors import FormatError, ParameterError
from rnndsp.filters import GRU, LSTM, NADE, Dense, Elman
from rnndsp.losses import bernoulli
from rnndsp.midi import Corpus, Frames, MusicModel, Piece, Track, chorales, estimate_key, read, train, write
from rnndsp.midi.learning import checkpoints
from rnndsp.training import evaluate

HABITS = {"tempo_bpm": 100.0, "meter": [4, 4], "pickup_beats": 0.0, "program": 52}
ABOUT = {"corpus": "made up", **HABITS}
TINY = {"n_units": 4, "n_hidden": 6, "n_epochs": 2}
TINIEST = {"n_units": 2, "n_hidden": 2, "n_epochs": 1}


def fixed(frames, sounding, again=-9.0, **about):
    """A model that hears nothing: each bit has such log-odds, whatever came before."""
    n = frames.n_pitches
    flat = Dense(frames.n_inputs, 2 * n)
    odds = np.concatenate([np.broadcast_to(sounding, n), np.broadcast_to(again, n)])
    flat = flat.replace(W=np.zeros_like(flat.params["W"]), b=odds)
    return MusicModel(NADE(flat, n_hidden=0), frames, {**ABOUT, **about})


def drawn(frames, seed=1, **about):
    """A model of random weights, in which everything depends on everything."""
    k, n = frames.n_inputs, 2 * frames.n_pitches + 4
    context = Parallel(GRU(k, 5, seed=seed) >> Dense(5, n, seed=seed), Dense(k, n, seed=seed + 1))
    return MusicModel(NADE(context, n_hidden=4, seed=seed), frames, {**ABOUT, **about})


def planes(piece, frames):
    """Sounding pitches and onsets, from the notes of a piece of one track whose notes do not overlap."""
    step = piece.ticks_per_beat // frames.steps_per_beat
    sounding = np.zeros((piece.end // step, frames.n_pitches), bool)
    onset = sounding.copy()
    for start, end, pitch, _ in piece.tracks[0].notes.tolist():
        assert start % step == 0 and end % step == 0
        assert not sounding[start // step : end // step, pitch - frames.lowest].any()
        onset[start // step, pitch - frames.lowest] = True
        sounding[start // step : end // step, pitch - frames.lowest] = True
    return sounding, onset


# ---- frames

METERS = [(4, 4), (3, 4), (6, 8), (2, 2), (9, 8), (5, 4), (12, 4)]


@st.composite
def pieces(draw, most_pitch=69):
    """On the grid, of several tracks, drums among them, with changes of meter."""
    steps = draw(st.sampled_from([2, 4, 12]))
    note = st.tuples(st.integers(0, 20 * steps), st.integers(1, 3 * steps), st.integers(60, most_pitch))
    rows = draw(st.lists(st.lists(note, max_size=12), min_size=2, max_size=3))
    tracks = [Track([(a, a + b, pitch, 1 + a % 100) for a, b, pitch in notes]) for notes in rows]
    drums = Track([(0, 1, 1, 9), (0, 9 * steps, 64, 9)], is_drum=True)
    changes = sorted(draw(st.sets(st.integers(1, 15 * steps), max_size=2)))
    meters = [(tick, *draw(st.sampled_from(METERS))) for tick in (0, *changes)]
    return steps, Piece((*tracks, drums), steps, meters=tuple(meters))


def slowly(roll, frames):
    """Past, frame and bits of every frame, number by number."""
    melodic = [place for place, track in enumerate(roll.header.tracks) if not track.is_drum]
    pitches = range(frames.lowest, frames.lowest + frames.n_pitches)
    n, k = roll.n_steps, frames.steps_per_beat

    def sounds(t, pitch):
        return t >= 0 and any(roll.sounding[place, t, pitch] for place in melodic)

    def begins(t, pitch):
        return t >= 0 and any(roll.velocity[place, t, pitch] > 0 for place in melodic)

    rows, wanted = [], []
    for t in range(n):
        row = [float(sounds(t - lag, pitch)) for lag in (1, k, 4 * k) for pitch in pitches]
        row += [float(begins(t - 1, pitch)) for pitch in pitches]
        # bars, one after the other
        since, numerator, denominator = [meter for meter in roll.header.meters if meter[0] <= t][-1]
        for tick, a, b in roll.header.meters[1:2]:  # a short first bar is a pickup, the end of a bar
            if t < tick < Fraction(4 * k * a, b):
                since, numerator, denominator = tick - int(Fraction(4 * k * a, b)), a, b
        while Fraction(t - since, k) >= Fraction(4 * numerator, denominator):
            since += int(k * Fraction(4 * numerator, denominator))
        beat, step = divmod(t - since, k)
        row += [float(min(beat, 7) == place) for place in range(8)]
        row += [float(step == place) for place in range(k)]
        row += [float(min((n - 1 - t) // k, 7) == place) for place in range(8)]
        now = [float(sounds(t, pitch)) for pitch in pitches]
        held = [bool(sounds(t, pitch) and sounds(t - 1, pitch)) for pitch in pitches]
        row += now + [float(h and begins(t, pitch)) for h, pitch in zip(held, pitches, strict=True)]
        wanted.append(now + [float(begins(t, p)) if h else math.nan for h, p in zip(held, pitches, strict=True)])
        rows.append(row)
    # where a piece begins is given
    begun = [t for t in range(n) if any(sounds(t, pitch) for pitch in pitches)]
    for t in range(begun[0] if begun else 0):
        wanted[t] = [math.nan] * len(wanted[t])
    return np.array(rows, np.float32), np.array(wanted, np.float32)


@settings(max_examples=40, deadline=None)
@given(pieces())
def test_frames_by_the_letter(case):
    steps, piece = case
    roll, frames = piece.roll(steps), Frames(steps, 59, 12)
    u, bits = frames.example(roll)
    assert u.shape == (roll.n_steps, frames.n_inputs + 24) and u.dtype == bits.dtype == np.float32
    expected_u, expected_bits = slowly(roll, frames)
    np.testing.assert_array_equal(u, expected_u)
    np.testing.assert_array_equal(bits, expected_bits)


@settings(max_examples=40, deadline=None)
@given(pieces())
def test_bits_give_the_notes_back(case):
    steps, piece = case
    frames, roll = Frames(steps, 60, 10), piece.roll(steps).merged()
    _, bits = frames.example(roll)
    before = np.zeros(10, bool)
    sounding, onset = np.zeros((2, roll.n_steps, 10), bool)
    for t, frame in enumerate(bits):
        s, r = np.split(frame, 2)
        # the bits that count are those that may be set, once there is a note
        if before.any():
            assert np.array_equal(~np.isnan(frame), frames.allowed(before, s == 1))
        sounding[t], onset[t] = s == 1, (s == 1) & (~before | (r == 1))
        before = sounding[t]
    again = frames.roll(sounding, onset, roll.header)
    assert np.array_equal(again.sounding, roll.sounding) and np.array_equal(again.onset, roll.onset)
    assert set(np.unique(again.velocity)) <= {0, 80}
    np.testing.assert_array_equal(frames.example(again)[1], bits)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 59), st.sampled_from([1, 4, 12]), st.integers(0, 2**31))
def test_frames_hear_only_the_past(n, t, steps, seed):
    rng, frames = np.random.default_rng(seed), Frames(steps, 60, 5)
    t, positions = min(t, n - 1), np.arange(n) / steps % 4
    one, other = rng.random((2, 2, n, 5)) < 0.5
    other[:, :t] = one[:, :t]
    up_to = np.arange(t + 1)
    heard = [frames.past(*music, positions, n, up_to) for music in (one, other)]
    np.testing.assert_array_equal(*heard)
    # one at a time, as they are composed
    np.testing.assert_array_equal(heard[0][[t]], frames.past(*one, positions, n, np.array([t])))


def test_repeated_and_held_notes_differ():
    frames = Frames(1, 60, 1)
    held, repeated = (Piece((Track(notes),), 1).roll(1) for notes in ([(0, 2, 60, 9)], [(0, 1, 60, 9), (1, 2, 60, 9)]))
    assert frames.example(held)[1].tolist()[1] == [1, 0]
    assert frames.example(repeated)[1].tolist()[1] == [1, 1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((0, 60, 5), "steps_per_beat=0"),
        ((4.0, 60, 5), "steps_per_beat=4.0"),
        ((4, -1, 5), "lowest=-1"),
        ((4, 60, 0), "n_pitches=0"),
        ((4, 60, 69), "60 to 128.*127"),
        ((4, "60", 5), "lowest='60'"),
    ],
)
def test_frames_out_of_range(values, says):
    with pytest.raises(ParameterError, match=says):
        Frames(*values)


def test_whole_keyboard():
    frames = Frames(4, 0, 128)
    piece = Piece((Track([(0, 120, 0, 80), (120, 240, 127, 80)]),))
    assert frames.roll(*frames.planes(piece.roll(4)), piece.roll(4).header).piece().n_notes == 2


@pytest.mark.parametrize("pitch", [59, 65])
def test_notes_outside_of_the_range(pitch):
    piece = Piece((Track([(0, 480, pitch, 80)]),))
    with pytest.raises(ParameterError, match="range of 60 to 64; transpose"):
        Frames(4, 60, 5).example(piece.roll(4))


def test_a_roll_of_another_grid():
    with pytest.raises(ParameterError, match="12"):
        Frames(4, 60, 5).example(Piece((Track([(0, 480, 60, 80)]),)).roll(12))


# ---- composing


@pytest.fixture(scope="module")
def few():
    bach = chorales()
    return Corpus(bach.train[:12], bach.validation[:4], bach.test[:4], "few")


@pytest.fixture(scope="module")
def learnt(few):
    return train(few, **TINY)


def test_seeds(learnt):
    make = learnt.model.generate
    assert make(2, seed=3) == make(2, seed=3)
    assert len({make(2, seed=seed).tracks[0].notes.tobytes() for seed in range(5)}) == 5


def test_temperature_zero_is_one_piece():
    model = drawn(Frames(4, 60, 6), seed=2)
    for temperature, n in ((0, 1), (1, 4)):
        found = [model.generate(2, temperature=temperature, seed=seed).tracks[0].notes for seed in range(4)]
        assert len({notes.tobytes() for notes in found}) == n


def test_temperature_zero_takes_the_likely_bits():
    piece = fixed(Frames(4, 60, 4), [2, -2, 3, -1], [-1, 0, 1, 0]).generate(1, temperature=0)
    notes = piece.tracks[0].notes
    assert notes["pitch"].tolist().count(60) == 1 and notes["pitch"].tolist().count(62) == 16
    assert set(notes["pitch"].tolist()) == {60, 62}


def surprise(model, piece):
    return evaluate(model.filter, [model.frames.example(piece.roll(model.frames.steps_per_beat))], bernoulli)


def test_wilder_pieces_are_less_likely():
    model = fixed(Frames(4, 60, 4), [3, -3, 3, -3], [-3, 3, 3, -3])
    mean = [surprise(model, model.generate(6, temperature=temperature)) for temperature in (0.3, 1, 3)]
    assert mean[0] < mean[1] < mean[2]


def test_the_model_judges_what_it_composed(learnt):
    assert all(0 < surprise(learnt.model, learnt.model.generate(2, seed=seed)) < 99 for seed in range(3))


def test_frequencies_at_temperature_one():
    frames, sounding, again = Frames(4, 60, 2), np.array([0.5, -1.0]), np.array([-0.4, 1.0])
    piece = fixed(frames, sounding, again).generate(100, seed=4)
    s, o = planes(piece, frames)
    held = s[1:] & s[:-1]
    assert abs(len(s) - 1600) < 16
    np.testing.assert_allclose(s.mean(axis=0), 1 / (1 + np.exp(-sounding)), atol=0.05)
    np.testing.assert_allclose((held & o[1:]).sum(axis=0) / held.sum(axis=0), 1 / (1 + np.exp(-again)), atol=0.1)


def test_held_and_repeated():
    piece = fixed(Frames(4, 60, 3), [-50, 50, 50], [50, -50, 50]).generate(2)
    rows = [(start, end, pitch) for start, end, pitch, _ in piece.tracks[0].notes.tolist()]
    # 61 is held through, 62 struck in every sixteenth, 60 never begins however gladly it would be repeated
    assert sorted(rows) == sorted([(0, 3840, 61), *((120 * t, 120 * t + 120, 62) for t in range(32))])


@pytest.mark.parametrize(
    ("meter", "pickup_beats", "steps", "meters", "beats"),
    [
        ((4, 4), 0, 4, ((0, 4, 4),), 12),
        ((3, 4), 0, 2, ((0, 3, 4),), 9),
        ((6, 8), 0, 12, ((0, 6, 8),), 9),
        ((4, 4), 1, 4, ((0, 1, 4), (480, 4, 4)), 13),
        ((4, 4), 1.0, 12, ((0, 1, 4), (1440, 4, 4)), 13),
        # a short bar of as few beats as hold the pickup
        ((4, 4), 0.25, 4, ((0, 1, 4), (480, 4, 4)), 12.25),
        ((3, 4), 2.75, 4, ((0, 3, 4),), 11.75),
        ((6, 8), 0.5, 2, ((0, 1, 8), (120, 6, 8)), 9.5),
        ((7, 8), 0, 4, ((0, 7, 8),), 10.5),
        ((1, 16), 0, 4, ((0, 1, 16),), 0.75),
        ((4, 4), Fraction(1, 3), 12, ((0, 1, 4), (1440, 4, 4)), 12 + 1 / 3),
        ((4, 4), 1 / 3, 12, ((0, 1, 4), (1440, 4, 4)), 12 + 1 / 3),
    ],
)
def test_length_and_meters(meter, pickup_beats, steps, meters, beats):
    model = fixed(Frames(steps, 60, 1), 50)
    piece = model.generate(3, meter=meter, pickup_beats=pickup_beats)
    assert piece.meters == meters
    ((start, end, *_),) = piece.tracks[0].notes.tolist()
    assert (end - start) / piece.ticks_per_beat == pytest.approx(beats)
    assert -piece.positions(start) % (4 * meter[0] / meter[1]) == pytest.approx(float(pickup_beats))
    # the last three bars are whole
    bar = 4 * meter[0] * piece.ticks_per_beat // meter[1]
    assert piece.positions([end - n * bar for n in (0, 1, 2, 3)]).tolist() == [0, 0, 0, 0]


def test_what_is_not_said_is_as_in_the_music_it_learnt():
    model = fixed(Frames(4, 60, 1), 50, tempo_bpm=90.0, meter=(3, 4), pickup_beats=1.0, program=40)
    piece = model.generate(2)
    assert piece.meters == ((0, 1, 4), (480, 3, 4)) and piece.n_beats == 7
    assert piece.tempos == ((0, 666667),) and [track.program for track in piece.tracks] == [40]
    assert model.generate(2, tempo_bpm=60).tempos == ((0, 1000000),)
    assert model.generate(2, meter=(2, 4), pickup_beats=0).n_beats == 4


def test_transposition_is_exact(learnt):
    base, up, down = (learnt.model.generate(2, transpose=n).tracks[0].notes for n in (0, 7, -12))
    for name in ("start", "end", "velocity"):
        assert np.array_equal(base[name], up[name]) and np.array_equal(base[name], down[name])
    assert np.array_equal(base["pitch"].astype(int) + 7, up["pitch"])
    assert np.array_equal(base["pitch"].astype(int) - 12, down["pitch"])


@pytest.mark.parametrize("temperature", [1, 20])
def test_within_the_range_and_the_grid(learnt, temperature):
    model = learnt.model
    low, high = model.frames.lowest, model.frames.lowest + model.frames.n_pitches - 1
    for seed in range(3):
        piece = model.generate(3, temperature=temperature, seed=seed)
        (track,) = piece.tracks
        assert low <= track.notes["pitch"].min() and track.notes["pitch"].max() <= high
        assert not any((track.notes[edge] % 120).any() for edge in ("start", "end"))
        assert set(track.notes["velocity"].tolist()) == {80} and piece.ticks_per_beat == 480
        planes(piece, model.frames)  # no pitch overlaps itself
        assert piece.n_beats <= 13


@pytest.mark.parametrize("pickup_beats", [0, 1, 2.25])
def test_a_file_and_back(learnt, tmp_path, pickup_beats):
    piece = learnt.model.generate(3, pickup_beats=pickup_beats, seed=5, transpose=-2, tempo_bpm=77)
    write(piece, tmp_path / "piece.mid")
    assert read(tmp_path / "piece.mid") == piece


@pytest.mark.parametrize("pickup_beats", [0, 1])
def test_it_hears_while_composing_what_it_hears_in_training(monkeypatch, pickup_beats):
    # 60 always sounds, so that the piece is as long as was asked for
    model = drawn(Frames(4, 60, 5))
    flat = model.filter.context.children[1]
    flat = flat.replace(b=flat.params["b"] + 50 * (np.arange(14) == 0))
    model = replace(model, filter=NADE(Parallel(model.filter.context.children[0], flat), n_hidden=4, seed=1))
    pasts, contexts = [], []
    past, sample = Frames.past, NADE.sample
    monkeypatch.setattr(Frames, "past", lambda *given: pasts.append(past(*given)) or pasts[-1])
    monkeypatch.setattr(NADE, "sample", lambda *given, **more: contexts.append(given[1]) or sample(*given, **more))
    piece = model.generate(3, pickup_beats=pickup_beats)
    monkeypatch.undo()
    lead = round((4 - pickup_beats) * 4) if pickup_beats else 0
    sounding, onset = (np.pad(plane, ((lead, 0), (0, 0))) for plane in planes(piece, model.frames))
    n = len(sounding)
    assert len(pasts) == n == lead + round(4 * pickup_beats) + 48
    # a bar begins with the first frame, and every sixteen frames
    heard = model.frames.past(sounding, onset, np.arange(n) / 4 % 4, n, np.arange(n))
    np.testing.assert_array_equal(np.concatenate(pasts), heard)
    np.testing.assert_array_equal(contexts, model.filter.context(heard.astype(np.float32))[lead:])
    if not pickup_beats:
        np.testing.assert_array_equal(model.heard(piece), heard)


def test_the_pickup_of_a_piece_is_where_it_was_composed():
    frames = Frames(4, 60, 1)
    heard = fixed(frames, 50).heard(fixed(frames, 50).generate(1, pickup_beats=1))
    assert heard[:4, 4 * 1 : 4 * 1 + 8].argmax(axis=1).tolist() == [3, 3, 3, 3]  # the fourth beat


def test_silence():
    with pytest.raises(ParameterError, match=r"seed=3 .*silence"):
        fixed(Frames(4, 60, 5), -99).generate(2, seed=3)


NO_NUMBER = "an error of Python's own, not a ParameterError"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_bars": 0}, "n_bars=0"),
        ({"n_bars": -1}, "n_bars=-1"),
        ({"n_bars": 1.5}, "n_bars=1.5"),
        ({"n_bars": 10**9}, "65536; compose several"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": "1"}, "temperature"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"meter": (7, 3)}, "denominator=3"),
        ({"meter": (0, 4)}, "numerator=0"),
        ({"meter": (4, 0)}, "denominator=0"),
        ({"meter": ("4", "4")}, "'4'"),
        ({"meter": (3, 64)}, r"\(3, 64\)"),
        ({"meter": "4/4"}, "meter"),
        ({"meter": (4,)}, "meter"),
        ({"meter": 4}, "meter"),
        ({"pickup_beats": 4}, "pickup_beats=4.*4/4"),
        ({"pickup_beats": -1}, "pickup_beats=-1"),
        ({"pickup_beats": 0.1}, "pickup_beats=0.1"),
        ({"pickup_beats": 2, "meter": (2, 4)}, "pickup_beats=2.*2/4"),
        ({"pickup_beats": math.nan}, "pickup_beats"),
        ({"pickup_beats": math.inf}, "pickup_beats"),
        ({"pickup_beats": "one"}, "pickup_beats"),
        ({"tempo_bpm": 0}, "bpm=0"),
        ({"tempo_bpm": math.nan}, "bpm=nan"),
        ({"tempo_bpm": "fast"}, "bpm"),
        ({"transpose": 80}, "semitones=80"),
        ({"transpose": -70}, "semitones=-70"),
        ({"transpose": 0.5}, "semitones=0.5"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(ParameterError, match=says):
        fixed(Frames(4, 60, 5), 50).generate(**{"n_bars": 1, **settings})


# ---- models and their files


def test_what_is_no_model():
    frames = Frames(4, 60, 5)
    with pytest.raises(ParameterError, match="no NADE"):
        MusicModel(Dense(frames.n_inputs, 10), frames, ABOUT)
    with pytest.raises(ParameterError, match=r"3 numbers.*10 bits.*need 40 and 10"):
        MusicModel(NADE(Dense(3, 10), n_hidden=0), frames, ABOUT)
    with pytest.raises(ParameterError, match=r"40 numbers.*8 bits"):
        MusicModel(NADE(Dense(40, 10), n_hidden=2), frames, ABOUT)


def test_its_cell(learnt):
    assert isinstance(learnt.model.cell, GRU) and learnt.model.cell.n_outputs == 4
    with pytest.raises(ParameterError, match="no recurrent cell"):
        _ = fixed(Frames(4, 60, 5), 0).cell


def test_what_it_hears_is_what_the_cell_runs_on(learnt, few):
    model, piece = learnt.model, few.test[0]
    heard = model.heard(piece)
    assert heard.shape == (piece.roll(4).n_steps, model.cell.n_inputs) and heard.dtype == np.float32
    assert np.isfinite(model.cell(heard)).all()


def test_save_and_load(learnt, tmp_path):
    path = tmp_path / "model.safetensors"
    learnt.model.save(path)
    again, filt = MusicModel.load(path), rnndsp.load(path)
    for head in (again.filter, filt):
        assert isinstance(head, NADE) and set(head.params) == set(learnt.model.filter.params)
        for name, value in learnt.model.filter.params.items():
            assert head.params[name].dtype == value.dtype == np.float32 and np.array_equal(head.params[name], value)
    assert again.frames == learnt.model.frames and again.about == learnt.model.about
    assert again.generate(2, seed=9) == learnt.model.generate(2, seed=9)
    with pytest.raises(ParameterError, match="exists"):
        again.save(path)
    again.save(path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def other_files(folder):
    model = fixed(Frames(4, 60, 5), 50)
    model.save(folder / "model")
    whole = (folder / "model").read_bytes()
    (folder / "text").write_text("Dear diary, this is no model.")
    (folder / "empty").touch()
    (folder / "truncated").write_bytes(whole[:-9])
    (folder / "only a header").write_bytes(whole[:100])
    (folder / "folder").mkdir()
    model.filter.save(folder / "filter")
    rnndsp.formats.save_state(GRU(2, 3).run(np.zeros((4, 2)))[1], folder / "state")
    write(model.generate(1), folder / "piece.mid")
    stop = Corpus(*((Piece((Track([(0, 480, pitch, 80)]),)),) for pitch in (60, 62, 64)), "x")
    train(stop, checkpoint=folder / "checkpoint", **TINIEST)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", "not a file"),
        ("folder", "not a file"),
        ("text", "not a file that rnndsp wrote, or is damaged"),
        ("empty", "not a file that rnndsp wrote, or is damaged"),
        ("truncated", "damaged"),
        ("only a header", "damaged"),
        ("piece.mid", "not a file that rnndsp wrote"),
        ("filter", "holds no rnndsp music"),
        ("state", "holds no rnndsp music"),
        ("checkpoint", "holds no rnndsp music"),
    ],
)
def test_files_of_another_kind(tmp_path, name, says):
    other_files(tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        MusicModel.load(tmp_path / name)
    assert name in str(caught.value)


def music(**changes):
    frames = {"steps_per_beat": 4, "lowest": 60, "n_pitches": 5}
    return {"frames": frames, "about": ABOUT, **changes}


def frames_but(**changes):
    return music(frames={name: value for name, value in {**music()["frames"], **changes}.items() if value is not None})


def about_but(**changes):
    return music(about={name: value for name, value in {**ABOUT, **changes}.items() if value is not ...})


UNCHECKED = "found only when it composes, if at all"


@pytest.mark.parametrize(
    "description",
    [
        "no JSON{",
        [],
        None,
        7,
        "music",
        {},
        {"frames": music()["frames"]},
        {"about": ABOUT},
        music(frames=None),
        music(frames="4"),
        music(frames=[4, 60, 5]),
        frames_but(lowest=None),
        frames_but(lowest=-1),
        frames_but(lowest=125),
        frames_but(lowest="60"),
        frames_but(n_pitches=6),
        frames_but(n_pitches=10**18),
        frames_but(steps_per_beat=12),
        frames_but(steps_per_beat=4.0),
        frames_but(velocity=3),
        music(about=None),
        music(about=5),
        music(about="abc"),
        music(about=[]),
        music(about={}),
        *(about_but(**{name: ...}) for name in ABOUT),
        *(about_but(**{name: None}) for name in HABITS),
        about_but(meter=4),
        about_but(meter=[7, 3]),
        about_but(tempo_bpm="fast"),
        about_but(tempo_bpm=0),
        about_but(tempo_bpm=math.nan),
        about_but(pickup_beats=math.nan),
        about_but(pickup_beats="one"),
        about_but(program=128),
        about_but(program="piano"),
    ],
    ids=lambda description: json.dumps(description)[-60:],
)
def test_descriptions_tampered_with(tmp_path, description):
    path = tmp_path / "model"
    fixed(Frames(4, 60, 5), 50).save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    said = description if description == "no JSON{" else json.dumps(description)
    save_file(tensors, path, {**metadata, "music": said})
    with pytest.raises(FormatError, match="model"):
        MusicModel.load(path)


def test_the_description_that_is_tampered_with_is_right_at_first(tmp_path):
    fixed(Frames(4, 60, 5), 50).save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="numpy") as file:
        assert json.loads(file.metadata()["music"]) == json.loads(json.dumps(music()))


# ---- training


def on_c(corpus, steps=4):
    """Sounding pitches and onsets of the pieces of all three parts, each (n_frames, 128)."""
    moved = [
        [piece.transposed(estimate_key(piece).semitones_to_c).roll(steps) for piece in part]
        for part in (corpus.train, corpus.validation, corpus.test)
    ]
    return [[(roll.sounding.any(axis=0), roll.onset.any(axis=0)) for roll in part] for part in moved]


def test_scores_of_the_model(learnt, few):
    assert list(learnt.scores) == ["marginals", "the last frame again", "linear, same head", "linear + GRU-4"]
    assert all(type(value) is float and 0 < value < 50 for value in learnt.scores.values())
    model, nats, n = learnt.model, 0.0, 0
    every = [pair for part in on_c(few) for pair in part]
    heard = np.flatnonzero(np.any([sounding.any(axis=0) for sounding, _ in every], axis=0))
    assert (model.frames.lowest, model.frames.lowest + model.frames.n_pitches - 1) == (heard[0], heard[-1])
    for piece in few.test:
        u, bits = model.frames.example(piece.transposed(estimate_key(piece).semitones_to_c).roll(4))
        y = model.filter(u).astype(float)
        nats += np.nansum(np.logaddexp(0, np.where(bits == 1, -y, y)) * np.where(np.isnan(bits), np.nan, 1))
        n += np.count_nonzero(~np.isnan(bits[:, 0]))  # from the first note on
    assert learnt.scores["linear + GRU-4"] == pytest.approx(nats / n, rel=1e-6)
    assert str(learnt).splitlines()[1:] == [f"{name:<20}  {value:7.3f}" for name, value in learnt.scores.items()]


def cost(hits, chances, happened):
    p = (hits + 0.5) / (chances + 1)
    return -math.log(p) if happened else -math.log(1 - p)


def test_the_marginals(learnt, few):
    parts, frames = on_c(few), learnt.model.frames
    hits, chances = np.zeros((2, 2, 128))
    nats = n = 0
    for place in (0, 2):  # learn, then judge
        for sounding, onset in parts[place]:
            for t in range(np.argmax(sounding.any(axis=1)), len(sounding)):  # from the first note on
                held = sounding[t] & (sounding[t - 1] if t else False)
                for k, (happened, possible) in enumerate(((sounding[t], sounding[t] | True), (onset[t], held))):
                    if place == 0:
                        hits[k] += happened & possible
                        chances[k] += possible
                    else:
                        for pitch in np.flatnonzero(possible).tolist():
                            if frames.lowest <= pitch < frames.lowest + frames.n_pitches:
                                nats += cost(hits[k, pitch], chances[k, pitch], happened[pitch])
                n += place == 2
    assert learnt.scores["marginals"] == pytest.approx(nats / n, rel=1e-5)


def test_the_last_frame_again(learnt, few):
    frames = learnt.model.frames
    within = slice(frames.lowest, frames.lowest + frames.n_pitches)
    # (happened, possible): notes begin where there was none, go on where there was one, are struck again
    counts = np.zeros((3, 2, 2))
    for place, part in enumerate(on_c(few)):
        for sounding, onset in part:
            last, first = np.zeros(frames.n_pitches, bool), np.argmax(sounding.any(axis=1))
            for now, struck in zip(sounding[first:, within], onset[first:, within], strict=True):
                for kind, (happened, possible) in enumerate(((now, ~last), (now, last), (struck, now & last))):
                    counts[kind, place // 2] += np.sum(happened & possible), np.sum(possible)
                last = now
            if place == 0:
                learnt_from = counts[:, 0].copy()
    n = sum(len(sounding) - np.argmax(sounding.any(axis=1)) for sounding, _ in on_c(few)[2])
    nats = sum(
        judged * cost(*learnt_from[kind], True) + (possible - judged) * cost(*learnt_from[kind], False)
        for kind, (judged, possible) in enumerate(counts[:, 1])
    )
    assert learnt.scores["the last frame again"] == pytest.approx(nats / n, rel=1e-5)


def tune(n, start=0, length=240, n_notes=12, lowest=55, **about):
    """A melody of its own for every n."""
    rng = random.Random(n)
    notes = [(start + length * i, start + length * (i + 1), lowest + rng.randrange(24), 80) for i in range(n_notes)]
    return Piece((Track(notes),), **{"name": f"tune {n}", **about})


def corpus_of(*pieces):
    return Corpus(pieces[:-2], pieces[-2:-1], pieces[-1:], "made up")


TUNES = corpus_of(*map(tune, range(6)))


def same(one, other):
    assert one.scores == other.scores and one.fit.best == other.fit.best
    assert [(e.loss, e.validation) for e in one.fit.history] == [(e.loss, e.validation) for e in other.fit.history]
    for name, value in one.model.filter.params.items():
        assert np.array_equal(other.model.filter.params[name], value), name
    return True


@pytest.mark.parametrize(("cell", "cls"), [("gru", GRU), ("lstm", LSTM), ("elman", Elman)])
def test_the_same_seed_gives_the_same_model(cell, cls):
    one, other, third = (train(TUNES, cell=cell, seed=seed, **TINIEST) for seed in (1, 1, 2))
    assert same(one, other) and isinstance(one.model.cell, cls) and f"linear + {cell.upper()}-2" in one.scores
    assert not np.array_equal(one.model.filter.params["V"], third.model.filter.params["V"])
    linear = train(TUNES, cell="gru", seed=1, **TINIEST).scores["linear, same head"]
    assert one.scores["linear, same head"] == linear  # has no cell


class StopError(Exception):
    pass


def stop_at(share, seen=None):
    def progress(done, total, text):
        if seen is not None:
            seen.append((done, total, text))
        if done >= share * total:
            raise StopError

    return progress


@pytest.mark.parametrize("share", [0.0, 0.3, 0.49, 0.51, 0.8, 1.0])
def test_interrupted_and_gone_on(tmp_path, share):
    whole = train(TUNES, **TINY)
    path = tmp_path / "point.safetensors"
    settings = {"checkpoint": path, **TINY}
    with pytest.raises(StopError):
        train(TUNES, progress=stop_at(share), **settings)
    assert {file.name for file in tmp_path.iterdir()} <= {file.name for file in checkpoints(path)}
    assert same(train(TUNES, **settings), whole)
    seen = []
    assert same(train(TUNES, progress=stop_at(2, seen), **settings), whole)
    # two epochs without the cell, one with it, all done
    assert {done / total for done, total, _ in seen} == {2 / 3, 1}


def test_progress():
    seen = []
    train(TUNES, progress=stop_at(2, seen), **TINY)
    done, total, text = zip(*seen, strict=True)
    assert list(done) == sorted(done) and done[0] == 1 and done[-1] == total[0] and len(set(total)) == 1
    assert text[0] == "" and text[-1].startswith("epoch 1: loss ")


def test_names_of_checkpoints(tmp_path):
    names = [path.relative_to(tmp_path).as_posix() for path in checkpoints(tmp_path / "a.b.safetensors")]
    assert names == ["a.b.linear.safetensors", "a.b.safetensors"]
    train(TUNES, checkpoint=tmp_path / "bare", **TINIEST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "bare.linear"]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"n_units": 3}, {"cell": "lstm"}, {"n_epochs": 2}, {"n_hidden": 3}, {"steps_per_beat": 2}],
    ids=str,
)
def test_the_checkpoint_of_another_training(tmp_path, change):
    path = tmp_path / "point"
    train(TUNES, checkpoint=path, **TINIEST)
    before = [file.read_bytes() for file in checkpoints(path)]
    with pytest.raises(ParameterError, match=r"point.* is the checkpoint of another training.*delete it"):
        train(TUNES, checkpoint=path, **{**TINIEST, **change})
    assert [file.read_bytes() for file in checkpoints(path)] == before


def test_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "point"
    train(TUNES, checkpoint=path, **TINIEST)
    for file in checkpoints(path):
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(FormatError, match=r"point\.?(linear)? .*damaged"):
        train(TUNES, checkpoint=path, **TINIEST)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cell": "rnn"}, r"cell='rnn' is unknown.*\['elman', 'gru', 'lstm'\]"),
        ({"cell": "GRU"}, "cell='GRU'"),
        ({"cell": None}, "cell=None"),
        ({"n_units": 0}, "n_units=0"),
        ({"n_units": 2.5}, "n_units=2.5"),
        ({"n_hidden": -1}, "n_hidden=-1"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"steps_per_beat": 0}, "steps_per_beat=0"),
        ({"steps_per_beat": 10**6}, "steps_per_beat=1000000"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_settings_of_training_out_of_range(settings, says):
    with pytest.raises(ParameterError, match=says):
        train(TUNES, **{**TINIEST, **settings})


def note(pitch, start=0):
    return Piece((Track([(start, start + 480, pitch, 80)]),))


@pytest.mark.parametrize(
    ("corpus", "settings"),
    [
        (corpus_of(*map(tune, range(3))), {}),
        (corpus_of(note(60), note(62), note(64)), {}),
        (TUNES, {"steps_per_beat": 12}),
        (TUNES, {"steps_per_beat": 1}),
        (TUNES, {"n_hidden": 0}),
        (corpus_of(*(tune(n, n_notes=n + 1, length=97) for n in range(6))), {"steps_per_beat": 12}),
        (corpus_of(tune(0), tune(1, lowest=0), tune(2, lowest=104)), {}),
        (corpus_of(tune(0), Piece((*tune(1).tracks, Track([(0, 9, 1, 9)], is_drum=True))), tune(2)), {}),
    ],
    ids=["three", "one note", "triplets", "quarters", "no hidden units", "off the grid", "unheard", "drums"],
)
def test_small_and_odd_corpora(corpus, settings, tmp_path):
    done = train(corpus, **{**TINIEST, **settings})
    assert np.isfinite(list(done.scores.values())).all()
    done.model.save(tmp_path / "model")
    assert MusicModel.load(tmp_path / "model").generate(4, temperature=3).n_notes


def test_drums_do_not_count():
    kit = Track([(0, 99, 3, 99), (2000, 2400, 127, 9)], "kit", 9, is_drum=True)
    parts = [
        tuple(replace(piece, tracks=(kit, *piece.tracks)) for piece in part)
        for part in (TUNES.train, TUNES.validation, TUNES.test)
    ]
    drummed, plain = train(Corpus(*parts, "made up"), **TINIEST), train(TUNES, **TINIEST)
    assert same(drummed, plain) and drummed.model.about == plain.model.about


def test_the_test_pieces_only_judge():
    one, two = (train(replace(TUNES, test=(piece,)), **TINY) for piece in TUNES.train[:2])
    assert one.model.frames == two.model.frames and one.scores["linear + GRU-4"] != two.scores["linear + GRU-4"]
    assert all(np.array_equal(one.model.filter.params[name], value) for name, value in two.model.filter.params.items())


def test_the_weights_are_those_that_did_best_in_validation():
    done = train(TUNES, **{**TINY, "n_epochs": 10})  # and four with the cell
    (piece,) = TUNES.validation
    held_out = [done.model.frames.example(piece.transposed(estimate_key(piece).semitones_to_c).roll(4))]
    losses = [epoch.validation for epoch in done.fit.history]
    assert len(losses) == 4 and done.fit.best == 1 + losses.index(min(losses))
    assert evaluate(done.model.filter, held_out, bernoulli) == pytest.approx(min(losses), rel=1e-6)


def test_the_key_does_not_count():
    scale = (0, 2, 4, 5, 7, 9, 11, 12, 7, 4, 0)

    def melody(n, key):  # always in the octave that is on C
        steps = [0, *random.Random(n).sample(scale, 9), 4, 7, 0]
        return Piece((Track([(240 * i, 240 * i + 240, 60 + key + step, 80) for i, step in enumerate(steps)]),))

    keys = [-5, 2, 4, -1, 6]
    plain, moved = (corpus_of(*(melody(n, key * on) for n, key in enumerate(keys))) for on in (0, 1))
    assert [estimate_key(piece) for piece in plain.pieces] == [(0, False)] * 5
    assert [estimate_key(piece) for piece in moved.pieces] == [(key % 12, False) for key in keys]
    assert same(train(plain, **TINIEST), train(moved, **TINIEST))


def test_what_does_not_fit_on_c_is_moved_by_an_octave_or_not_at_all():
    # in D; two semitones down, 1 would be below MIDI's range
    steps = [62, 64, 66, 67, 69, 71, 73, 74, 69, 66, 62]

    def piece(lowest, highest):
        return Piece((Track([(240 * i, 240 * i + 240, p, 80) for i, p in enumerate([lowest, *steps, highest])]),))

    low, wide = corpus_of(*[piece(1, 74)] * 3), corpus_of(*[piece(1, 126)] * 3)
    assert estimate_key(low.train[0]) == estimate_key(wide.train[0]) == (2, False)
    assert [train(c, **TINIEST).model.frames for c in (low, wide)] == [Frames(4, 11, 74), Frames(4, 1, 126)]


def test_long_pieces_are_learnt_in_parts_and_judged_whole(monkeypatch):
    seen, fit = [], rnndsp.training.fit

    def spy(filt, data, loss, **settings):
        seen.append((data, settings["validation"]))
        return fit(filt, data, loss, **settings)

    monkeypatch.setattr(rnndsp.training, "fit", spy)
    pieces = [tune(n, n_notes=600) for n in range(3)]
    done = train(corpus_of(*pieces), **TINIEST)
    whole = [done.model.frames.example(p.transposed(estimate_key(p).semitones_to_c).roll(4)) for p in pieces]
    for parts, validation in seen:
        assert [len(u) for u, _ in parts] == [512, 512, 176] and len(validation[0][0]) == 1200
        # the notes before a part are still heard
        for place in (0, 1):
            np.testing.assert_array_equal(np.concatenate([part[place] for part in parts]), whole[0][place])
    assert done.scores["linear + GRU-2"] == pytest.approx(evaluate(done.model.filter, [whole[2]], bernoulli), rel=1e-6)


def test_what_most_pieces_have():
    def piece(n, start, meter, tempo, program):
        notes = tune(n, start=start).tracks[0].notes
        return Piece((Track(notes, program=program),), tempos=((0, tempo),), meters=((0, *meter),))

    waltzes = [piece(n, 960, (3, 4), 400000 + 1000 * n, 40) for n in range(3)]
    done = train(corpus_of(*waltzes, piece(3, 0, (4, 4), 900000, 0), tune(4), tune(5)), **TINIEST)
    about = {name: done.model.about[name] for name in ("meter", "pickup_beats", "program", "corpus", "n_pieces")}
    assert about == {"meter": [3, 4], "pickup_beats": 1.0, "program": 40, "corpus": "made up", "n_pieces": 4}
    assert done.model.about["tempo_bpm"] == pytest.approx(6e7 / 401500, abs=0.01)
    assert dict(done.model.about["nats_a_frame"]) == done.scores


def test_the_chorales_begin_with_a_pickup(learnt):
    about = {name: learnt.model.about[name] for name in HABITS}
    assert about == {"meter": [4, 4], "pickup_beats": 1.0, "program": 52, "tempo_bpm": pytest.approx(72, rel=1e-6)}


REFUSED = "generate() refuses what train() put into the model as its habit"


@pytest.mark.parametrize(
    ("corpus", "settings"),
    [
        (TUNES, {}),
        (corpus_of(*(tune(n, start=7 + n) for n in range(6))), {}),
        (corpus_of(*(tune(n, start=1920 - 160) for n in range(6))), {"steps_per_beat": 12}),
        (
            corpus_of(
                *(tune(n, start=240 * n, meters=((0, 3, 8),)) for n in range(3)),
                *(tune(n, start=960) for n in range(3, 5)),
                tune(5),
                tune(6),
            ),
            {},
        ),
    ],
    ids=["plain", "by hand", "triplets", "meters"],
)
def test_what_is_trained_can_compose(corpus, settings):
    assert train(corpus, **{**TINIEST, **settings}).model.generate(4, temperature=3).n_notes


@pytest.mark.parametrize(
    ("meter", "steps"),
    [((3, 8), 1), ((4, 4), 480)],
)
def test_what_could_not_compose_is_not_trained(meter, steps):
    corpus = corpus_of(*(tune(n, n_notes=3, meters=((0, *meter),)) for n in range(3)))
    with pytest.raises(ParameterError, match="steps_per_beat"):
        train(corpus, **TINIEST, steps_per_beat=steps)


def test_a_pickup_that_is_a_short_bar():
    # as notation programs write it, and as write() does
    corpus = corpus_of(*(tune(n, meters=((0, 1, 4), (480, 4, 4))) for n in range(6)))
    about = train(corpus, **TINIEST).model.about
    assert (about["meter"], about["pickup_beats"]) == ([4, 4], 1.0)


@pytest.mark.parametrize(
    "corpus",
    [
        Corpus((), (tune(1),), (tune(2),), "x"),
        Corpus((tune(1),), (tune(2),), (), "x"),
        Corpus((), (), (), "x"),
    ],
    ids=["nothing to learn", "no test", "nothing"],
)
def test_an_empty_part(corpus):
    with pytest.raises(ParameterError, match="piece"):
        train(corpus, **TINIEST)


def test_pieces_without_pitches():
    with pytest.raises(ParameterError, match="no pitched notes"):
        train(corpus_of(tune(0), Piece((Track([(0, 9, 36, 9)], is_drum=True),)), tune(2)), **TINIEST)


def test_a_piece_that_is_too_long_is_named():
    ages = Piece((Track([(0, 480, 60, 80), (480 * 300000, 480 * 300001, 62, 80)]),), name="for ages")
    with pytest.raises(ParameterError, match="for ages"):
        train(corpus_of(tune(0), ages, tune(2)), **TINIEST)

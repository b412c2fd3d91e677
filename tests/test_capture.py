"""Captures. Oracles: pairs made here, by delays known to the sample and by circuits whose equations are known."""

import re
import sys

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure

import rnndsp
from rnndsp import NonFiniteError, ParameterError, audio, capture, cli, plots, training
from rnndsp.capture import alignment, check_pair, error_to_signal, learn
from rnndsp.filters import DiodeClipper, overdrive, recurrent_effect
from rnndsp.stability import Verdict, certify

RATE = 16000


def playing(seconds=2.0, rate=RATE, seed=0):
    """Plucked strings: notes of a few harmonics that die away, and the noise of the plectrum."""
    rng, n = np.random.default_rng(seed), round(seconds * rate)
    u, t = np.zeros(n), np.arange(n) / rate
    for start in np.arange(0, n, rate // 6):
        f = 110 * 2 ** (rng.integers(0, 24) / 12)
        note = sum(np.sin(2 * np.pi * k * f * t) * np.exp(-6 * k * t) / k for k in range(1, 9))
        note[: rate // 100] += rng.standard_normal(rate // 100)
        u[start:] += note[: n - start] * rng.uniform(0.3, 1)
    return 0.3 * u / np.max(np.abs(u))


def delayed(x, samples):
    """Band-limited, by any part of a sample."""
    size = 2 * (len(x) + int(abs(samples)))
    w = 2 * np.pi * np.fft.rfftfreq(size)
    return np.fft.irfft(np.fft.rfft(x, size) * np.exp(-1j * w * samples), size)[: len(x) + max(0, int(samples))]


DRY = playing()
CLIPPED = DiodeClipper(gain_db=26, sample_rate=RATE)(DRY)


# ---- latency


@pytest.mark.parametrize("late", [0, 1, 37, 20000, -5, -12000])
@pytest.mark.parametrize("sign", [1, -1])
def test_whole_samples_are_found_exactly(late, sign):
    x, y = (DRY, np.r_[np.zeros(late), DRY]) if late >= 0 else (np.r_[np.zeros(-late), DRY], DRY)
    found = alignment(x, 0.4 * sign * y)
    assert (found.latency, found.inverted, found.is_sure) == (late, sign < 0, True)
    assert abs(found.fraction) < 1e-3 and found.explained > 0.999


@pytest.mark.parametrize("late", [0.5, 10.3, 99.9, 250.5])
def test_parts_of_a_sample(late):
    found = alignment(DRY, delayed(DRY, late))
    assert found.latency + found.fraction == pytest.approx(late, abs=0.02) and -0.25 <= found.fraction < 0.75


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("late", [3, 8000])
def test_through_a_circuit_with_noise_and_inverted(seed, late):
    """Its own delay, of resampling and of the lowpass, is about its latency and a sample or two."""
    rng, dry = np.random.default_rng(seed), playing(seed=seed)
    pedal = overdrive(drive_db=26, oversampling=4, sample_rate=RATE)
    wet = -pedal(dry[:, None])[:, 0]
    found = alignment(dry, np.r_[np.zeros(late), wet] + 0.003 * rng.standard_normal(late + len(wet)))
    assert found.inverted and 0 <= found.latency - late - pedal.latency <= 2 and found.explained > 0.3


def test_a_second_is_enough():
    dry, late = playing(1.0, 44100), 20000
    wet = DiodeClipper(gain_db=30, sample_rate=44100)(dry[:, None])[:, 0]
    found = alignment(dry, np.r_[np.zeros(late), wet])
    assert found.latency == late and np.isnan(found.drift_ppm)
    # the end cut off: half a second in common
    assert abs(alignment(dry, np.r_[np.zeros(late), wet][:44100]).latency - late) <= 1


def test_drift():
    dry = playing(6.3)
    for ppm in (0, 40, -80):
        # a clock that is faster takes more samples of the same
        wet = np.interp(np.arange(len(dry)) / (1 + 1e-6 * ppm), np.arange(len(dry)), dry)
        assert alignment(dry, wet).drift_ppm == pytest.approx(ppm, rel=0.25, abs=1)
    assert "note: the clocks differ by -" in str(check_pair(dry, wet, sample_rate=RATE))


def test_what_does_not_belong_together():
    rng = np.random.default_rng(5)
    for wet in (rng.standard_normal(20000), playing(seed=9), rng.permutation(DRY)):
        found = alignment(DRY, wet)
        assert not found.is_sure and found.explained < 0.15
    with pytest.raises(ParameterError, match=r"same performance.*latency="):
        check_pair(DRY, wet, sample_rate=RATE)
    assert check_pair(DRY, playing(seed=9), sample_rate=RATE, latency=5).latency == 5
    assert not alignment(DRY, np.zeros(5000)).is_sure


@pytest.mark.parametrize("wrong", [np.zeros((100, 2)), np.zeros(10), np.zeros((2, 3, 4))])
def test_alignment_is_of_one_channel(wrong):
    with pytest.raises(ParameterError, match="one channel"):
        alignment(DRY, wrong)
    with pytest.raises(NonFiniteError, match="dry: NaN or infinity at frame 7"):
        alignment(np.r_[DRY[:7], np.nan, DRY], DRY)


# ---- what is wrong with a pair


def test_a_pair_is_cut_to_what_it_has_in_common():
    rng = np.random.default_rng(1)
    dry, wet = rng.standard_normal(30000) / 4, np.zeros(50000)
    wet[20000:] = dry
    pair = check_pair(dry, wet, sample_rate=RATE)
    # one sample is left, as a sample too many would cost more
    assert pair.alignment.latency == 20000 and pair.latency == 19999 and len(pair.dry) == len(pair.wet)
    np.testing.assert_array_equal(pair.wet[1:, 0], pair.dry[:-1, 0])
    pair = check_pair(np.r_[np.zeros(700), dry], dry, sample_rate=RATE)
    assert pair.alignment.latency == -700 and pair.latency == -701
    np.testing.assert_array_equal(pair.wet[1:, 0], pair.dry[:-1, 0])
    pair = check_pair(dry, np.r_[dry, np.zeros(9000)], sample_rate=RATE)
    assert pair.latency == 0 and len(pair.wet) == 30000 and "wet goes on for 0.56 s" in str(pair)
    np.testing.assert_array_equal(pair.wet, pair.dry)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: np.where(np.arange(len(x)) == 800, np.nan, x), r"wet has NaN or infinity at 0\.0500 s"),
        (lambda x: np.where(np.arange(len(x)) == 0, np.inf, x), "wet has NaN or infinity at 0.0000 s"),
        (lambda x: 0 * x, "wet is silent.*-inf dB"),
        (lambda x: 1e-6 * x, "wet is silent.*-124 dB"),
        (lambda x: np.stack([x, 0.5 * x], -1), "wet has 2 channels.*remix 1"),
        (lambda x: 1e300 * x, "wet has NaN or infinity"),
        (lambda x: x[:0], "wet is silent"),
        (lambda x: x[:3000], "in common: too little"),
        (lambda x: (1000 * x).astype(int), "wet of int64"),
        (lambda x: x[None, None], "wet of float64 and shape"),
    ],
)
def test_what_cannot_be_learnt_is_refused(change, says):
    with pytest.raises((ParameterError, NonFiniteError), match=says):
        check_pair(DRY, change(CLIPPED), sample_rate=RATE, latency=0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"sample_rate": "CD"}, "sample_rate='CD'"),
        ({"knobs": ("drive",)}, "dry has 1 channel; the signal and 1 knob are 2"),
        ({"knobs": ("a", "a")}, "same name"),
        ({"latency": 0.5}, "latency=0.5"),
        ({"latency": 10**6}, "too little"),
        ({"latency": -(10**6)}, "too little"),
    ],
)
def test_settings_of_a_pair(settings, says):
    with pytest.raises(ParameterError, match=says):
        check_pair(DRY, CLIPPED, **{"sample_rate": RATE, "latency": 0, **settings})


def test_two_equal_channels_are_one():
    pair = check_pair(np.stack([DRY, DRY], -1), CLIPPED, sample_rate=RATE)
    assert pair.dry.shape[1] == 1


def test_remarks():
    def remarks(dry, wet):
        return "\n".join(check_pair(dry, wet, sample_rate=RATE, latency=0).remarks)

    long = np.tile(DRY, 11)
    assert remarks(long, 0.9 * long) == ""
    assert "2.00 s is short" in remarks(DRY, CLIPPED)
    loud = 0.9 * long
    loud[5000:5010] = loud[9000:9004] = 1.0
    assert "wet clips: 14 samples at full scale at 2 places, first at 0.31 s" in remarks(long, loud)
    assert "dry clips" in remarks(np.clip(9 * long, -1, 1), long)
    assert "dry is quiet, -6" in remarks(0.01 * long, long)
    assert "wet has an offset of +0.1" in remarks(long, long + 0.1)
    gap = long.copy()
    gap[100000:120000] = 0
    assert "silent for 1.25 s in all, at 1 place" in remarks(long, gap)
    assert "nearly silent: its error says little" in remarks(long, np.where(np.arange(len(long)) < 290000, long, 2e-4))


# ---- learning


def brief(cell="elman", n_units=4, n_batches=120, pair=None, **settings):
    pair = pair or check_pair(DRY, CLIPPED, sample_rate=RATE, latency=0)
    model = recurrent_effect(cell, n_units, n_knobs=len(pair.knobs), level=pair.level, skip=0.0)
    return learn(model, pair, n_batches=n_batches, n_warm_up=16, **settings)


@pytest.fixture(scope="module")
def learnt():
    return brief()


def test_a_clipper_is_learnt(learnt, tmp_path):
    pair = learnt.pair
    linear = error_to_signal(pair.gain * pair.dry, pair.wet)
    assert learnt.esr < 0.3 * linear
    assert learnt.filter.sample_rate == RATE and all(p.dtype == np.float32 for p in learnt.filter.params.values())
    test = slice(pair.splits[1], None)
    y, x = learnt.filter(pair.dry)[test].astype(float), pair.wet[test].astype(float)
    assert learnt.esr == pytest.approx(np.sum((y - x) ** 2) / np.sum(x**2), rel=1e-6)
    y, x = (np.r_[v[:1], v[1:] - 0.85 * v[:-1]] for v in (y, x))
    assert learnt.esr_emphasised == pytest.approx(np.sum((y - x) ** 2) / np.sum(x**2), rel=1e-6)
    y, x = learnt.y[RATE : 2 * RATE].astype(float), pair.wet[RATE : 2 * RATE].astype(float)
    assert len(learnt.esr_by_second) == 2
    assert learnt.esr_by_second[1] == pytest.approx(np.sum((y - x) ** 2) / np.sum(x**2), rel=1e-6)
    learnt.filter.save(tmp_path / "c.st")
    assert rnndsp.load(tmp_path / "c.st") == learnt.filter
    assert f"ESR {learnt.esr:.2g}" in str(learnt)


def test_what_is_learnt_from_chosen_by_and_held_out(monkeypatch):
    """The dry signal counts its frames, so that each piece tells where it is from."""
    given = {}

    def fit(filt, data, loss, *, validation, **settings):
        given.update(data=data, validation=validation)
        return genuine(filt, data, loss, validation=validation, **settings)

    genuine = training.fit
    monkeypatch.setattr(training, "fit", fit)
    n = 20000
    count = np.linspace(-1, 1, n)
    pair = check_pair(count, 0.5 - count, sample_rate=RATE, latency=0)
    brief(pair=pair, n_batches=1, n_frames=50)
    first = []
    for _ in range(20):
        for u, x in given["data"](np.random.default_rng(len(first))):
            assert u.shape == x.shape == (66, 1) and np.isnan(x[:16]).all()
            np.testing.assert_allclose(x[16:], 0.5 - u[16:], atol=1e-6)
            first.append(round(float(u[0, 0] + 1) / 2 * (n - 1)))
    assert min(first) < 500 and 14000 - 66 - 500 < max(first) <= 14000 - 66
    ((u, x),) = given["validation"]
    scored = np.flatnonzero(~np.isnan(x[:, 0]))
    np.testing.assert_allclose(u[scored[[0, -1]], 0], count[[14000, 16999]], atol=1e-6)
    assert len(scored) == 3000 and u[0, 0] == pytest.approx(-1)


def test_the_same_seed_the_same_weights():
    one, other, another = (brief(n_batches=3, seed=seed).filter for seed in (1, 1, 2))
    assert one == other != another


def test_batches_are_counted():
    calls = []
    assert len(brief(n_batches=7).fit.history) == 7
    assert len(brief(n_batches=61, progress=lambda *call: calls.append(call)).fit.history) == 31
    assert calls[-1][:2] == (62, 62)


def test_a_time_is_kept(monkeypatch):
    done = brief(n_batches=None, minutes=0.01)
    assert done.seconds < 6.0 and len(done.fit.history) == 4
    # on a machine that takes 20 ms a batch, 50 ms an epoch, and becomes half as fast in the middle
    now = 0.0
    monkeypatch.setattr("rnndsp.capture.time.perf_counter", lambda: now)
    draw = capture._Pieces(np.zeros((100, 1)), np.zeros((100, 1)), 10, 0).timed(30.0, 40)
    sizes = []
    for epoch in range(40):
        sizes.append(len(draw(np.random.default_rng(epoch))) // capture.BATCH_SIZE)
        now += (1 + (epoch >= 20)) * (0.05 + 0.02 * sizes[-1])
    assert abs(now - 30) < 1 and sizes[0] == 4 and min(sizes[30:]) > 10


def test_a_knob_is_heard():
    """It adds an offset, 16 dB louder than the signal at most, that no model can know of without it."""
    knob = np.repeat(np.random.default_rng(2).permutation(np.arange(40) / 39), 800)
    pair = check_pair(np.stack([DRY, knob], -1), DRY + 0.2 * knob, sample_rate=RATE, knobs=("offset",), latency=0)
    done = brief(pair=pair)
    assert done.esr < 0.03
    (control,) = done.filter.controls
    assert (control.name, control.low, control.high) == ("offset", 0, 1) and abs(control.default - 0.5) < 0.02
    means = [np.mean(done.filter(DRY, controls={"offset": value})[2000:]) for value in (0, 0.5, 1)]
    np.testing.assert_allclose(means, [0, 0.1, 0.2], atol=0.02)
    y = done.filter(pair.dry[:, :1], controls={"offset": pair.dry[:, 1]})
    np.testing.assert_allclose(y, done.y, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "diagonal", "ren"])
def test_every_cell_starts_as_a_wire_of_that_gain(cell):
    model = recurrent_effect(cell, 3, n_knobs=1, level=0.1, skip=-2.0, sample_rate=RATE)
    assert (model.n_inputs, model.n_outputs, model.sample_rate) == (2, 1, RATE)
    assert np.array_equal(model.params["D22" if cell == "ren" else "1.D"], [[-2.0, 0.0]])
    louder = recurrent_effect(cell, 3, n_knobs=1, level=0.2, skip=-2.0, sample_rate=RATE)
    u = np.random.default_rng(0).standard_normal((50, 2))
    np.testing.assert_allclose(louder(u * [2, 1]) + 4 * u[:, :1], model(u) + 2 * u[:, :1], atol=1e-12)


def test_what_is_certified_stays_so():
    knob = np.linspace(0, 1, len(DRY))
    pair = check_pair(np.stack([DRY, knob], -1), CLIPPED, sample_rate=RATE, knobs=("drive",), latency=0)
    done = brief("ren", 3, n_batches=20, pair=pair)
    assert certify(done.filter).verdict == Verdict.PROVED and done.filter.controls[0].name == "drive"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"minutes": 0}, "minutes=0"),
        ({"minutes": np.nan}, "minutes=nan"),
        ({"n_batches": 0}, "n_batches=0"),
        ({"n_warm_up": 0}, "n_warm_up=0"),
        ({"n_frames": 2.5}, "n_frames=2.5"),
        ({"n_frames": 40000}, "n_frames=40000.*frames there are"),
        ({"rate": -1}, "rate"),
        ({"filt": recurrent_effect(n_knobs=1)}, "2 inputs and 1 outputs.*1 "),
        ({"filt": recurrent_effect(sample_rate=48000)}, "48000 Hz, the recordings 16000 Hz"),
        ({"filt": "GRU"}, "not a filter"),
    ],
)
def test_settings_of_the_training(settings, says):
    pair = check_pair(DRY, CLIPPED, sample_rate=RATE)
    with pytest.raises(ParameterError, match=says):
        learn(**{"filt": recurrent_effect("elman", 2), "pair": pair, "n_batches": 1, **settings})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cell": "transformer"}, "cell='transformer'"),
        ({"n_units": 0}, "n_units=0"),
        ({"n_knobs": -1}, "n_knobs=-1"),
        ({"level": 0}, "level=0"),
        ({"skip": "dry"}, "skip='dry'"),
    ],
)
def test_settings_of_the_model(settings, says):
    with pytest.raises(ParameterError, match=says):
        recurrent_effect(**settings)


def test_error_to_signal():
    x = np.random.default_rng(0).standard_normal((500, 1))
    assert error_to_signal(0 * x, x) == 1 and error_to_signal(x, x) == 0
    assert error_to_signal(1.1 * x, x, pre_emphasis=0.5) == pytest.approx(0.01)
    # silence counts as if it were at -60 dB
    assert error_to_signal(x, 0 * x) == pytest.approx(1e6 * np.mean(x**2))


def test_esr_plot(learnt):
    ax = Figure().add_subplot()
    seconds, held_out = plots.esr_plot(learnt, ax=ax)
    np.testing.assert_allclose(seconds.get_data().values, learnt.esr_by_second)
    np.testing.assert_allclose(seconds.get_data().edges, [0, 1, 2], atol=0.01)
    np.testing.assert_allclose(held_out.get_ydata(), learnt.esr)
    assert held_out.get_xdata()[0] == pytest.approx(0.85 * 2, abs=0.01)


@pytest.mark.slow
def test_a_real_guitar_through_a_clipper(data_path):
    """The target of two minutes, in seconds."""
    dry, rate = audio.read(data_path / "audio" / "pyneuralfx_example.wav")
    wet = DiodeClipper(gain_db=20, sample_rate=rate)(dry.astype(float))
    pair = check_pair(dry, np.r_[np.zeros((20000, 1)), wet], sample_rate=rate)
    assert pair.alignment.latency == 20000
    done = learn(recurrent_effect("lstm", 16, level=pair.level, skip=1.0), pair, n_batches=240)
    assert done.esr < 1e-3


# ---- files and the command line


@pytest.fixture
def folder(tmp_path):
    late = np.r_[np.zeros(150), CLIPPED]
    for name, y, rate in (
        ("dry", DRY, RATE),
        ("wet", late, RATE),
        ("fast", late, 2 * RATE),
        ("stereo", np.stack([late, -late], -1), RATE),
        ("silent", 0 * late, RATE),
        ("nan", np.where(np.arange(len(late)) == 900, np.nan, late), RATE),
        ("brief", late[:2000], RATE),
        ("other", playing(seed=9), RATE),
    ):
        soundfile.write(tmp_path / f"{name}.wav", y, rate, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("Dear diary")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "wet.wav").read_bytes()[:-400])
    (tmp_path / "here.st").write_text("precious")
    (tmp_path / "songs").mkdir()
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """The command line without a new process: (exit status, output, errors)."""

    def call(*arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["rnndsp", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return call


QUICK = ("--cell", "elman", "--n-units", "3", "--n-batches", "2", "--memory-ms", "2")


def test_train_process_and_analyze(folder, command):
    code, said, _ = command("train", "audio", "dry.wav", "wet.wav", "-o", "amp.st", "--png", *QUICK)
    assert code == 0 and "wet is 150" in said and "149 are taken off" in said and "elman-3: ESR" in said
    assert (folder / "amp.png").read_bytes().startswith(b"\x89PNG")
    amp = rnndsp.load(folder / "amp.st")
    assert amp.sample_rate == RATE
    np.testing.assert_array_equal(amp.params["0.0.W"], rnndsp.load(folder / "amp.st").params["0.0.W"])
    code, _, _ = command("process", "amp.st", "dry.wav", "-o", "out.wav")
    y, rate = soundfile.read(folder / "out.wav", dtype="float32", always_2d=True)
    assert code == 0 and rate == RATE
    np.testing.assert_allclose(y, amp(DRY.astype(np.float32)[:, None]), atol=1e-6)
    code, said, _ = command("analyze", "amp.st")
    assert code == 0 and re.search("bounded output +proved", said)


def test_certified(folder, command):
    code, said, _ = command("train", "audio", "dry.wav", "wet.wav", "-o", "amp.st", "--certified", *QUICK)
    assert code == 0 and "elman-3: ESR" in said and "ren-3: ESR" in said
    assert re.search(r"contraction is proved.*\nthat costs [+-]\d+\.\d dB of ESR beside elman-3", said)
    assert certify(rnndsp.load(folder / "amp.st")).verdict == Verdict.PROVED


def test_a_knob_on_the_command_line(folder, command):
    soundfile.write(folder / "knob.wav", np.stack([DRY, np.full(len(DRY), 0.5)], -1), RATE, subtype="FLOAT")
    code, _, _ = command("train", "audio", "knob.wav", "wet.wav", "-o", "amp.st", "--knob", "drive", *QUICK)
    (knob,) = rnndsp.load(folder / "amp.st").controls
    assert code == 0 and (knob.name, knob.default) == ("drive", 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dry.wav", "fast.wav"), "16000 Hz, 'fast.wav' 32000 Hz.*sox"),
        (("dry.wav", "stereo.wav"), "wet, 'stereo.wav', has 2 channels.*remix 1"),
        (("stereo.wav", "wet.wav"), "dry, 'stereo.wav', has 2 channels.*knobs"),
        (("dry.wav", "silent.wav"), "wet, 'silent.wav', is silent"),
        (("dry.wav", "nan.wav"), r"wet, 'nan.wav', has NaN or infinity at 0\.0563 s"),
        (("dry.wav", "brief.wav", "--latency", "150"), "too little to learn from"),
        (("dry.wav", "other.wav"), "same performance.*--latency"),
        (("dry.wav", "text.wav"), "not an audio file"),
        (("dry.wav", "cut.wav"), "cut short"),
        (("dry.wav", "songs"), "songs.*directory"),
        (("dry.wav", "absent.wav"), "absent.wav.*No such file"),
        (("dry.wav", "dry.wav"), "same file"),
        (("dry.wav", "wet.wav", "-o", "wet.wav", "-f"), "same file"),
        (("dry.wav", "wet.wav", "-o", "here.st"), "here.st exists"),
        (("dry.wav", "wet.wav", "-o", "no/m.st"), "folder no does not exist"),
        (("dry.wav", "wet.wav", "-o", "songs"), "songs is a folder"),
        (("dry.wav", "wet.wav", "--cell", "transformer"), "cell='transformer'"),
        (("dry.wav", "wet.wav", "--units", "0"), "n_units=0"),
        (("dry.wav", "wet.wav", "--minutes", "0"), "--minutes 0"),
        (("dry.wav", "wet.wav", "--minutes", "nan"), "--minutes nan"),
        (("dry.wav", "wet.wav", "--memory-ms", "-1"), "--memory-ms -1"),
        (("dry.wav", "wet.wav", "--memory-ms", "900"), "frames there are to learn from"),
        (("dry.wav", "wet.wav", "--n-batches", "0"), "n_batches=0"),
        (("dry.wav", "wet.wav", "--knob", "a", "--knob", "a"), "same name"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_written(folder, command, arguments, says):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    output = () if "-o" in arguments else ("-o", "m.st")
    code, _, errors = command("train", "audio", *arguments, *output)
    assert code == 2 and errors.startswith("rnndsp: ") and re.search(says, errors.splitlines()[-1]), errors
    assert errors.strip().count("\n") == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_interrupted(folder, command, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(capture, "learn", interrupt)
    before = set(folder.iterdir())
    code, _, errors = command("train", "audio", "dry.wav", "wet.wav", "-o", "m.st", *QUICK)
    assert code == 130 and "interrupted" in errors and set(folder.iterdir()) == before

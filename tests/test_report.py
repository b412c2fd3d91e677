"""The report: one page that is written whole or not at all, and JSON with the same numbers."""

import json
import os
import re
from base64 import b64decode

import matplotlib
import numpy as np
import pytest
import scipy.optimize
import scipy.signal

from rnndsp import plots, report, stability
from rnndsp.composition import Feedback, Knobs
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filters import ARIMA, LSTM, Dense, Elman, FeedbackDelayNetwork, Reverb
from rnndsp.framed import Framed
from rnndsp.plots.certificates import BADGES
from rnndsp.statespace import StateSpace, gain

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of backend

RATE = 48000.0
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def butterworth():
    return StateSpace(*scipy.signal.tf2ss(*scipy.signal.butter(4, 1000, fs=RATE)), sample_rate=RATE)


@pytest.fixture
def oscillator():
    return Feedback(gain(1.0), 1.01, delay=7, allow_unstable=True)


@pytest.fixture(scope="module")
def cell():
    return LSTM(1, 4, seed=3) >> gain(np.ones((1, 4)))


@pytest.fixture
def flip_flop():
    """x[t] = tanh(2 x[t-1] + u): two rest states, and one at zero that repels."""
    return Elman(1, 1).replace(W=np.ones((1, 1)), U=np.array([[2.0]])).replace(sample_rate=RATE)


# ---- the page


def embedded(page):
    return [b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


def test_page_of_a_linear_filter(tmp_path, butterworth):
    index = report.analyze(butterworth, tmp_path / "new" / "page", name="Low <& pass>")
    page = index.read_text(encoding="utf-8")
    assert index == tmp_path / "new" / "page" / "index.html"
    assert "<h1>Low &lt;&amp; pass&gt;</h1>" in page
    assert all(f'<th scope="row">{row.name}</th>' in page for row in butterworth.stability())
    assert page.count("✓ proved") == 5
    assert "needs 2.88 ms to fade by 60 dB" in page and "within 3 dB of that up to 99" in page
    assert "<script" not in page and "http" not in page
    files = {path.name: path.read_bytes() for path in index.parent.glob("*.png")}
    names = {"poles", "pole_decay", "impulse_response", "energy_decay", "frequency_response", "group_delay"}
    names |= {"transients", "pseudospectrum"}
    assert set(files) == {f"{name}.png" for name in names}
    assert sorted(embedded(page)) == sorted(files.values())
    assert all(png.startswith(PNG) for png in files.values())
    # nothing temporary is left, no figure is open
    assert {path.name for path in index.parent.iterdir()} == {*files, "index.html"}
    assert not pyplot.get_fignums()


def test_page_of_a_cell_with_a_signal(tmp_path, cell):
    u = 0.5 * np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    page = report.analyze(cell, tmp_path, sample_rate=RATE, signal=u).read_text(encoding="utf-8")
    assert "48000 Hz" in page and "LSTM → StateSpace" in page
    assert "◐ holds at these operating points only" in page
    names = ["aliasing", "certificates", "energy_decay", "frequency_response", "frozen_poles", "gradients"]
    names += ["group_delay", "harmonics", "impulse_response", "lyapunov", "pole_decay", "poles", "pseudospectrum"]
    names += ["spectrogram", "transients"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == names
    assert len(embedded(page)) == len(names)
    assert "Under the loudest 5,000 samples of the given signal it forgets a small click after" in page


def test_page_of_an_unstable_filter(tmp_path, oscillator):
    page = report.analyze(oscillator, tmp_path).read_text(encoding="utf-8")
    assert "✗ refuted" in page
    assert "60 dB louder after 4,860 samples" in page
    assert not (tmp_path / "energy_decay.png").exists()


def test_a_filter_that_blows_up_still_has_a_page(tmp_path):
    wild = Feedback(gain(50.0), 3.0, delay=1, allow_unstable=True)
    with pytest.raises(NonFiniteError):
        wild(np.ones(1000))
    page = report.analyze(wild, tmp_path, signal=np.ones(5000)).read_text(encoding="utf-8")
    assert "blew up" in page and len(embedded(page)) == 7


@pytest.mark.parametrize("filt", [Dense(1, 2, seed=0), gain(0.5), gain(0.0)])
def test_page_of_a_filter_without_memory(tmp_path, filt):
    page = report.analyze(filt, tmp_path).read_text(encoding="utf-8")
    assert "No poles to draw" in page and len(embedded(page)) == 2


def test_page_of_a_filter_that_works_in_frames(tmp_path):
    framed = Framed.spectral_gain(np.ones(33), n_fft=64)
    page = report.analyze(framed, tmp_path, sample_rate=RATE).read_text(encoding="utf-8")
    assert "only every 16 samples" in page and len(embedded(page)) == 3


def test_a_page_is_replaced_only_by_force(tmp_path, butterworth):
    index = report.analyze(gain(0.5), tmp_path)
    before = index.read_bytes()
    with pytest.raises(ParameterError, match="-f"):
        report.analyze(butterworth, tmp_path)
    assert index.read_bytes() == before
    report.analyze(butterworth, tmp_path, force=True)
    assert index.read_bytes() != before


def test_pictures_of_others_are_not_overwritten(tmp_path, butterworth):
    (tmp_path / "poles.png").write_bytes(b"mine")
    with pytest.raises(ParameterError, match=r"poles\.png"):
        report.analyze(butterworth, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["poles.png"]


def test_an_interrupted_page_leaves_nothing(tmp_path, butterworth, monkeypatch):
    monkeypatch.setattr(report, "_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.analyze(butterworth, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written(tmp_path, butterworth):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="cannot make the directory"):
        report.analyze(butterworth, tmp_path / "file" / "page")
    if os.geteuid():  # root may write everywhere
        tmp_path.chmod(0o500)
        with pytest.raises(ParameterError, match="cannot write"):
            report.analyze(butterworth, tmp_path)
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("signal", [np.zeros((10, 2)), np.zeros(0), np.ones(5, int), np.full(5, np.nan)])
def test_signals_that_do_not_fit(tmp_path, butterworth, signal):
    with pytest.raises(ParameterError, match="signal"):
        report.analyze(butterworth, tmp_path, signal=signal)
    assert not list(tmp_path.iterdir())


def test_knobs_are_turned(tmp_path):
    knob = Knobs(LSTM(2, 3, seed=0), {"drive": 0.5})
    page = report.analyze(knob, tmp_path / "a", controls={"drive": 1.0}).read_text(encoding="utf-8")
    assert "drive = 1" in page and "controls at drive=1.0" in page
    radii = [report.as_dict(knob, controls=at)["small_signal"]["spectral_radius"] for at in ({"drive": 1.0}, None)]
    for at, radius in zip((1.0, 0.5), radii, strict=True):
        rest = knob.stability(controls={"drive": at}).rest_states[0]
        assert radius == pytest.approx(stability.spectral_radius(knob, rest, controls={"drive": at}))
    assert radii[0] != radii[1]
    for wrong in ({"drive": 2.0}, {"gain": 1.0}):
        with pytest.raises(ParameterError, match=r"drive"):
            report.analyze(knob, tmp_path / "c", controls=wrong)
    assert not (tmp_path / "c").exists()


def test_another_sample_rate_is_refused(tmp_path, butterworth):
    with pytest.raises(ParameterError, match="48000"):
        report.analyze(butterworth, tmp_path, sample_rate=44100)


# ---- the numbers


def strict(values):
    """As a program would read what is printed: NaN and Infinity are an error."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(json.dumps(values, allow_nan=False), parse_constant=refuse)


def test_numbers_of_a_linear_filter(butterworth):
    found = strict(report.as_dict(butterworth, name="low"))
    assert found["name"] == "low" and found["sample_rate"] == RATE and found["controls"] == {}
    assert found["filter"]["n_states"] == 4 and found["filter"]["is_linear"]
    assert [row["verdict"] for row in found["properties"]] == ["proved"] * 5
    small = found["small_signal"]
    poles = np.array(small["poles"]) @ [1, 1j]
    np.testing.assert_allclose(poles, butterworth.poles())
    assert small["spectral_radius"] == pytest.approx(np.abs(poles).max())
    assert small["t60_s"] == pytest.approx(3 / RATE / -np.log10(np.abs(poles).max()))
    # a Butterworth filter has its largest gain, 1, at zero frequency; the H2 norm is that of the impulse response
    h = butterworth(np.eye(1, 4000)[0])
    assert small["h_infinity_norm"] == pytest.approx(1) and small["h2_norm"] == pytest.approx(np.linalg.norm(h))
    assert small["headroom_db"] == pytest.approx(20 * np.log10(np.abs(h).sum()), abs=1e-6)
    A = np.asarray(butterworth.A)
    powers = [np.linalg.norm(np.linalg.matrix_power(A, k), 2) for k in range(60)]
    growth = found["transient_growth"]
    assert growth["maximum"] == pytest.approx(max(powers)) and growth["after_samples"] == np.argmax(powers)
    assert [rest["gain_db"] for rest in found["rest_states"]] == [[pytest.approx(10 * np.log10(0.5))]]
    assert found["loop"] is found["distortion"] is found["along_a_signal"] is None
    assert found["missing"] == {} and found["sweeps"] == {}


def test_numbers_of_a_cell_with_two_rest_states(flip_flop):
    found = strict(report.as_dict(flip_flop))
    rests = {rest["name"]: rest for rest in found["rest_states"]}
    # x = tanh(2 x)
    x = scipy.optimize.brentq(lambda x: np.tanh(2 * x) - x, 0.5, 1)
    stable = sorted(rest["dc"][0] for rest in rests.values() if rest["attracts"])
    np.testing.assert_allclose(stable, [-x, x], rtol=1e-9)
    assert sum(rest["power_on"] for rest in rests.values()) == 1
    moves = {(move["start"], move["end"]) for move in found["transitions"]}
    pair = {name for name, rest in rests.items() if rest["attracts"]}
    assert {(a, b) for a in pair for b in pair if a != b} <= moves
    rows = {row["name"]: row for row in found["properties"]}
    assert rows["contraction"]["verdict"] == rows["unique rest state"]["verdict"] == "refuted"
    tests = [test for row in rows.values() for test in row["tests"]]
    assert all(isinstance(test["passed"], bool) and test["source"] for test in tests)


def test_numbers_along_a_signal_and_of_distortion():
    """A leaky tanh: for a soft sine the Lyapunov exponent is ln of its slope, and the third harmonic a power law."""
    u = 1e-4 * np.random.default_rng(0).standard_normal(3000)
    filt = Elman(1, 1).replace(W=np.ones((1, 1)), U=np.array([[0.5]])).replace(sample_rate=RATE)
    found = strict(report.as_dict(filt, signal=u))
    along = found["along_a_signal"]
    assert along["n_frames"] == 3000 and "given signal" in along["signal"]
    assert along["lyapunov_exponents"] == [pytest.approx(np.log(0.5), rel=1e-4)]
    # 60 dB in log(1000) / log(2) frames
    assert along["memory_horizon_samples"] == pytest.approx(np.log(1000) / np.log(2), abs=1.01)
    sound = found["distortion"]
    levels, thd = np.array(sound["against_level"]["level_db"]), np.array(sound["against_level"]["thd"])
    at = int(np.argmin(np.abs(levels + 12)))
    assert sound["thd"] == thd[at] and sound["level_db"] == levels[at]
    # twice the level, four times the share of the third harmonic
    np.testing.assert_allclose(20 * np.log10(thd[1] / thd[0]), 12, atol=0.2)


def test_the_loudest_stretch_of_a_signal_is_looked_at(cell):
    quiet = np.zeros(12000)
    quiet[11000:] = 0.5
    found = report.find_out(cell, signal=quiet)
    assert len(found.along) == 8192 and np.count_nonzero(found.along) == 1000


def test_sounds_may_find_more_rest_states_than_silence(flip_flop, monkeypatch):
    whole = flip_flop.stability()
    rows = tuple(
        row if row.verdict != stability.Verdict.REFUTED else stability.Property(row.name, stability.Verdict.UNKNOWN, "")
        for row in whole
    )
    alone = stability.StabilityReport(rows, whole.rest_states[:1], whole.poles)
    monkeypatch.setattr(Elman, "stability", lambda *_, **__: alone)
    found = report.find_out(flip_flop)
    refuted = {row.name for row in found.verdicts if row.verdict == stability.Verdict.REFUTED}
    assert refuted == {"input-to-state stability", "contraction", "unique rest state"}
    assert len(found.verdicts.rest_states) == len(found.probe.rest_states) > 1


def test_a_loop_inside_of_a_filter():
    loop = Feedback(gain(0.5), 0.8, delay=20)
    found = strict(report.as_dict((gain(2.0) >> loop).replace(sample_rate=RATE)))
    assert found["loop"]["stable"] and found["loop"]["gain_up_db"] == pytest.approx(20 * np.log10(1 / 0.4))
    assert found["loop"]["unstable_closed"] == 0


def test_what_takes_too_long_is_said(tmp_path):
    hall = FeedbackDelayNetwork([1009, 1201], t60_s=0.3, sample_rate=RATE)
    found = strict(report.as_dict(hall))
    assert found["transient_growth"] is None and "2,210 states" in found["missing"]["growth"]
    assert found["small_signal"]["t60_s"] == pytest.approx(0.3) and len(found["small_signal"]["poles"]) == 200
    page = report.analyze(hall, tmp_path).read_text(encoding="utf-8")
    assert "too long with 2,210 states" in page and (tmp_path / "octave_decay.png").exists()


@pytest.mark.parametrize(
    ("filt", "missing"),
    [
        (Feedback(gain(50.0), 3.0, delay=1, allow_unstable=True), set()),
        (StateSpace(np.full((2, 2), 1e308), np.ones((2, 1)), np.ones((1, 2)), [[0]]), None),
        (Framed.spectral_gain(np.ones(33), n_fft=64), {"linear", "poles", "probe"}),
        (gain(0.0), set()),
        (Dense(2, 3, seed=0), set()),
        (Elman(1, 1).replace(W=np.ones((1, 1)), U=np.array([[-3.0]])), set()),  # rests nowhere
    ],
)
def test_numbers_are_strict_whatever_the_filter(filt, missing):
    found = strict(report.as_dict(filt))
    assert all(isinstance(said, str) and said for said in found["missing"].values())
    assert missing is None or missing <= set(found["missing"])
    assert len(found["properties"]) == 5


def test_page_and_numbers_agree(tmp_path, flip_flop):
    amp = Knobs(Elman(2, 1).replace(W=np.array([[1.0, 1.0]]), U=np.array([[2.0]])), {"bias": 0.0}, low=-1)
    amp = amp.replace(sample_rate=RATE)
    found = report.find_out(amp, sweep=["bias"])
    page = report.write(found, tmp_path).read_text(encoding="utf-8")
    numbers = strict(found.as_dict())
    text = re.sub("<[^>]*>", "", page)
    for rest in numbers["rest_states"]:
        assert f"{rest['name']}: output DC {rest['dc'][0]:.3g}" in text
    assert all(row["statement"] in text for row in numbers["properties"])
    # two rest states between the folds at which the slope of tanh(2 x + bias) is 1
    x = np.sqrt(0.5)
    fold = 2 * x - np.arctanh(x)
    boundaries = numbers["sweeps"]["bias"]["boundaries"]
    np.testing.assert_allclose([min(boundaries), max(boundaries)], [-fold, fold], atol=3e-3)
    assert "Turning bias" in text and (tmp_path / "sweep_1.png").exists()
    for name in ("certificates", "rest_states", "frozen_poles", "lyapunov", "gradients", "harmonics", "aliasing"):
        assert (tmp_path / f"{name}.png").exists(), name
    thd = numbers["distortion"]["thd"]
    assert f"{100 * thd:.2g} % of overtones" in text


def test_a_part_that_fails_is_a_sentence(tmp_path, flip_flop, monkeypatch):
    def broken(*_, **__):
        raise ParameterError("no way")

    monkeypatch.setattr(stability, "probe_rest_states", broken)
    monkeypatch.setattr(plots, "pseudospectrum_plot", broken)
    found = report.find_out(flip_flop)
    page = report.write(found, tmp_path).read_text(encoding="utf-8")
    assert "Its rest states were not searched: no way." in page and "A missing picture" in page
    assert found.as_dict()["rest_states"] == [] and found.as_dict()["missing"]["probe"] == "no way"


def test_knobs_to_sweep_must_exist(cell):
    with pytest.raises(ParameterError, match="drive"):
        report.as_dict(cell, sweep=["drive"])


def test_a_reverb_is_analysed_by_its_tail():
    """Its poles would take minutes; what rings longest is measured instead."""
    found = report.find_out(Reverb("room", t60_s=0.8, size=1.4, brightness=1.0, sample_rate=48000, n_channels=1))
    assert found.poles is None and "too long" in found.missing["poles"] and found.fades
    assert found.ring / 48000 == pytest.approx(0.8, rel=0.1)  # the slowest octaves
    told = found.as_dict()["small_signal"]
    assert told["poles"] is None and told["spectral_radius"] is None and told["h_infinity_norm"] > 0
    assert {row.verdict.value for row in found.verdicts} == {"proved", "unknown"}


def test_what_is_marginal_by_design_has_a_badge(tmp_path):
    filt = ARIMA(ma=[-0.4], d=1, seasonal_d=1, season=12)
    page = report.analyze(filt, tmp_path / "page").read_text()
    assert "marginal by design" in page and "and 9 more" in page
    assert set(BADGES) == set(stability.Verdict)

"""What notebooks show: well-formed HTML that escapes names, holds its pictures and sound, and always comes."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import scipy.signal
import soundfile
from all_filters import FILTERS
from matplotlib.image import imread

from rnndsp import report, stability
from rnndsp.composition import Feedback, Knobs
from rnndsp.filters import LSTM, SOS, Dense, FeedbackDelayNetwork
from rnndsp.filters.nade import NADE
from rnndsp.midi.corpus import chorales
from rnndsp.midi.learning import Training
from rnndsp.midi.model import Frames, MusicModel
from rnndsp.midi.notebook import model_html, training_html
from rnndsp.midi.piece import Piece, Track
from rnndsp.statespace import StateSpace, gain
from rnndsp.training import Epoch, Fit

EVIL = "<script>alert(1)</script>"


class Balanced(HTMLParser):
    """Text of a fragment; raises where tags are not nested, or a script or a link outside is among them."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        assert all(value.startswith("data:") for name, value in attributes if name in ("src", "href"))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1] != "style":
            self.text += text + " "


def shown(thing):
    html = thing if isinstance(thing, str) else thing._repr_html_()
    return Balanced(html).text


def pictures(html):
    """Every picture, as pixels."""
    return [imread(BytesIO(b64decode(data))) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]


def sound(html):
    (data,) = re.findall(r'src="data:audio/flac;base64,([^"]+)"', html)
    y, rate = soundfile.read(BytesIO(b64decode(data)))
    assert y.ndim == 1 and rate == 22050
    return y


@pytest.fixture
def butterworth():
    return SOS(scipy.signal.butter(4, 1000, fs=48000, output="sos"), sample_rate=48000)


# ---- filters


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter(name):
    filt = FILTERS[name]()
    html = filt._repr_html_()
    text = shown(html)
    assert type(filt).__name__ in text and f" {filt.n_states:,} " in text and "bounded output" in text
    assert all(f"{control.name} = {control.default:g}" in text for control in filt.controls)
    plots = pictures(html)
    # a reverb says that its poles would take a while
    assert len(plots) == (filt.n_states > 0 and filt.period == 1 and not name.startswith("reverb"))
    assert all(plot.ndim == 3 and plot.std() > 0 for plot in plots)
    assert plots or "poles" in text
    assert repr([filt]) == f"[{filt!r}]"


def test_verdicts_of_a_linear_filter_are_those_of_its_report(butterworth):
    text = shown(butterworth)
    said = [f"{row.name} {'✓'} {row.verdict.value}" for row in butterworth.stability()]
    assert [text.count(line) for line in said] == [1] * 5


def test_a_nonlinear_filter_is_not_run(monkeypatch):
    monkeypatch.setattr(stability, "rest_states", None)
    text = shown(LSTM(1, 3))
    assert "bounded output ✓ proved" in text and ".stability() looks further" in text


def test_large_filters_say_what_to_call(monkeypatch):
    hall = FeedbackDelayNetwork([30011, 33013], t60_s=2, sample_rate=48000)
    for filt in (hall, LSTM(1, 300), Feedback(LSTM(1, 50) >> Dense(50, 1), 0.1, delay=99)):
        monkeypatch.setattr(stability, "poles", None)
        text = shown(filt)
        assert "rnndsp.report.analyze(filt, folder)" in text and ".stability()" in text
        assert not pictures(filt._repr_html_())
    assert "✓ proved" in shown(hall)


def test_names_are_escaped():
    html = Knobs(Dense(2, 1, seed=0), {EVIL: 0.5})._repr_html_()
    assert EVIL not in html and f"{EVIL} = 0.5 (0 to 1)" in shown(html)


@pytest.mark.parametrize(
    "filt",
    [
        Feedback(gain(1.0), 1.01, delay=7, allow_unstable=True),
        Feedback(gain(50.0), 300.0, delay=1, allow_unstable=True),
        StateSpace(np.full((2, 2), 1e308), np.ones((2, 1)), np.ones((1, 2)), [[0]]),
    ],
)
def test_what_blows_up_is_shown(filt):
    assert "✗ refuted" in shown(filt) or "? unknown" in shown(filt)


def test_what_raises_is_shown(butterworth, monkeypatch):
    monkeypatch.setattr(SOS, "_linearize", lambda *_: 1 / 0)
    text = shown(butterworth)
    assert text.count("ZeroDivisionError: division by zero") == 2 and "48000 Hz" in text


def test_no_colour_is_forced_on_a_notebook(butterworth):
    for html in (butterworth._repr_html_(), butterworth.stability()._repr_html_()):
        assert re.search("#[0-9a-f]{6}", html)
        plain = re.sub(r'<span class="badge".*?</span>|src="[^"]*"', "", html)
        assert not re.search(r"#[0-9a-fA-F]{3}|[^-]color:|background: [^n]", plain)


# ---- verdicts


def test_a_stability_report_has_the_rows_of_the_page(tmp_path):
    filt = Knobs(LSTM(2, 3, seed=0), {"drive": 0.5})
    page = report.analyze(filt, tmp_path).read_text(encoding="utf-8")
    html = filt.stability()._repr_html_()
    rows = re.findall("<tr>.*?</tr>", html)
    assert len(rows) == 6 and rows == re.findall("<tr>.*?</tr>", page)
    text = shown(html)
    assert all(row.name in text and row.statement in text and row.hypotheses in text for row in filt.stability())


def test_statements_are_escaped():
    row = stability.Property(EVIL, stability.Verdict.REFUTED, EVIL, EVIL)
    html = stability.StabilityReport((row,), (), np.zeros(0, complex))._repr_html_()
    assert EVIL not in html and shown(html).count(EVIL) == 3 and "✗ refuted" in shown(html)


# ---- training


def test_a_fit():
    history = (Epoch(3.0, 2.5, 0.5), Epoch(2.0, 2.25, 0.5), Epoch(1.5, 2.375, 0.5))
    html = Fit(LSTM(1, 2) >> Dense(2, 1), history, 2)._repr_html_()
    text = shown(html)
    assert "LSTM → Dense" in text and "2 of 3" in text and " 1.5 " in text and "2.375" in text and "1.5 s" in text
    assert len(pictures(html)) == 1


def test_a_fit_without_validation_and_one_without_epochs():
    html = Fit(gain(1.0), (Epoch(3.0, np.nan, 0.5),), 1)._repr_html_()
    assert "Validation" not in shown(html) and len(pictures(html)) == 1
    assert "0 of 0" in shown(Fit(gain(1.0), (), 0))


# ---- music


@pytest.fixture(scope="module")
def chorale():
    return chorales().test[0]


def test_a_piece(chorale):
    html = chorale._repr_html_()
    text = shown(html)
    for fact in (chorale.name, f" {chorale.n_notes} ", "72 beats a minute", "Choir Aahs (Soprano, Alto, Tenor, Bass)"):
        assert fact in text
    assert f"{chorale.duration_s:.1f} s" in text and f"Bars {np.ceil(chorale.n_beats / 4):g} " in text
    (plot,) = pictures(html)
    assert plot.shape[1] > plot.shape[0]
    # and a second for the last notes to fade
    y = sound(html)
    assert len(y) == round((chorale.duration_s + 1) * 22050) and np.max(np.abs(y)) > 0.1
    assert "The first" not in text


def test_a_roll(chorale):
    html = chorale.roll(1)._repr_html_()
    text = shown(html)
    roll = chorale.roll(1)
    assert "1 steps a beat" in text and f"{100 * roll.off_grid:.3g} %" in text and f"merged {roll.n_merged}" in text
    assert len(pictures(html)) == 1 and len(sound(html)) == round((roll.piece().duration_s + 1) * 22050)


def test_the_first_minute_is_heard():
    notes = [(480 * n, 480 * n + 960, 40 + n % 40, 80) for n in range(200)]
    piece = Piece((Track(notes), Track([(0, 96000, 30, 50)], is_drum=True)), tempos=((0, 500_000), (9600, 1_000_000)))
    assert piece.duration_s > 100
    html = piece._repr_html_()
    assert len(sound(html)) == 61 * 22050
    assert "The first 60 seconds" in shown(html) and "60 to 120 beats a minute" in shown(html)
    assert len(html) < 2.5e6


def test_a_minute_of_drums_is_not_too_large():
    """Noise is what FLAC packs worst."""
    pitches = np.random.default_rng(0).integers(35, 57, 960).tolist()
    hits = [(60 * n, 60 * n + 120, pitch, 100) for n, pitch in enumerate(pitches)]
    html = Piece((Track(hits, is_drum=True), Track([(0, 57600, 60, 90)])))._repr_html_()
    assert len(html) < 2.5e6


def test_names_in_music_are_escaped():
    track = Track([(0, 480, 60, 80)], EVIL)
    html = Piece((track,), name=EVIL)._repr_html_()
    assert EVIL not in html and shown(html).count(EVIL) == 2


def test_silence_is_shown():
    for piece in (Piece(()), Piece((Track([], "Tacet"),))):
        html = piece._repr_html_()
        assert "Notes 0 " in shown(html) and "<img" not in html and "<audio" not in html


def test_a_piece_of_too_many_bars_to_draw():
    html = Piece((Track([(0, 480, 60, 80), (2**30, 2**30 + 480, 60, 80)]),))._repr_html_()
    assert "No picture: " in shown(html) and len(sound(html)) == 1.5 * 22050


# ---- models


def test_a_model_and_its_training():
    frames = Frames(4, 60, 3)
    about = {"corpus": EVIL, "tempo_bpm": 60, "meter": [4, 4], "pickup_beats": 0, "program": 0}
    model = MusicModel(NADE(Dense(frames.n_inputs, 8, seed=0), n_hidden=2), frames, about)
    text = shown(model_html(model))
    assert "60 to 62" in text and "4 steps a beat" in text and EVIL in text and "NADE" in text
    fit = Fit(model.filter, (Epoch(3.0, 2.5, 0.5),), 1)
    html = training_html(Training(model, {EVIL: 1.25}, fit))
    assert f"{EVIL} 1.250" in shown(html) and len(pictures(html)) == 1

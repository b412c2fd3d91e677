"""Plots and the report: what is drawn are the numbers of the filter, and a page is written whole or not at all."""

import os
import re
from base64 import b64decode

import matplotlib
import numpy as np
import pytest
import scipy.signal

from rnndsp import plots, report, stability
from rnndsp.composition import Feedback, Knobs
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filters.dense import Dense
from rnndsp.filters.lstm import LSTM
from rnndsp.framed import Framed
from rnndsp.plots import responses
from rnndsp.response import impulse_response
from rnndsp.statespace import DelayStateSpace, StateSpace, gain
from rnndsp.training import Epoch

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of backend

RATE = 48000.0
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def butterworth():
    return StateSpace(*scipy.signal.tf2ss(*scipy.signal.butter(4, 1000, fs=RATE)), sample_rate=RATE)


@pytest.fixture
def comb():
    """All modes fade by 60 dB in 0.1 s."""
    gamma = 10 ** (-3 / (0.1 * RATE))
    return DelayStateSpace([[gamma**480]], [[1]], [[1]], [[0]], [480], sample_rate=RATE)


@pytest.fixture
def oscillator():
    return Feedback(gain(1.0), 1.01, delay=7, allow_unstable=True)


@pytest.fixture(scope="module")
def cell():
    return LSTM(1, 4, seed=3) >> gain(np.ones((1, 4)))


def points(line):
    return np.asarray(line.get_xdata()) + 1j * np.asarray(line.get_ydata())


def texts(ax):
    return [text.get_text() for text in ax.texts]


def tick_labels(axis):
    axis.axes.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels()]


# ---- poles


def test_poles_are_drawn_where_they_are(ax, butterworth):
    fading, lasting = plots.pole_plot(butterworth, ax=ax)
    np.testing.assert_array_equal(points(fading), butterworth.poles())
    assert points(lasting).size == 0
    assert {"0 Hz", "5 kHz", "10 kHz", "24 kHz", "1 ms"} <= set(texts(ax))
    assert f"spectral radius {butterworth.spectral_radius():.6g}" in ax.get_title()
    # the dotted circle at which 60 dB take 1 ms
    radii = [abs(points(line)[0]) for line in ax.lines if line.get_linestyle() == ":"]
    assert np.min(np.abs(np.array(radii) - 10 ** (-3 / 48))) < 1e-12


def test_poles_outside_the_circle_look_different(ax, oscillator):
    fading, lasting = plots.pole_plot(oscillator, ax=ax)
    assert points(fading).size == 0
    np.testing.assert_array_equal(points(lasting), oscillator.poles())
    assert (fading.get_marker(), fading.get_color()) != (lasting.get_marker(), lasting.get_color())
    assert fading.get_marker() != lasting.get_marker()
    assert "0.5 $f_s$" in texts(ax)
    assert "1.00142" in ax.get_title()


def test_poles_on_top_of_each_other_are_counted(ax):
    plots.pole_plot(StateSpace(np.zeros((3, 3)), np.ones((3, 1)), np.ones((1, 3)), [[0]]), ax=ax)
    assert "×3" in texts(ax)


def test_known_poles_are_not_computed_again(ax, comb, monkeypatch):
    known = comb.poles()
    monkeypatch.setattr(stability, "poles", None)
    fading, _ = plots.pole_plot(comb, poles=known, ax=ax)
    assert points(fading).size == 480


def test_without_axes_one_figure_is_opened(butterworth):
    fading, _ = plots.pole_plot(butterworth)
    assert [pyplot.figure(n) for n in pyplot.get_fignums()] == [fading.figure]


def test_decay_of_modes(ax, butterworth):
    fading, growing, lasting = plots.pole_decay_plot(butterworth, ax=ax)
    upper = [z for z in butterworth.poles() if z.imag >= 0]
    expected = [np.angle(z) * RATE / (2 * np.pi) + 1j * stability.t60_s(abs(z), RATE) for z in upper]
    np.testing.assert_allclose(points(fading), expected, rtol=1e-12)
    assert points(growing).size == points(lasting).size == 0
    assert ax.get_yscale() == "log"
    assert {"0 Hz", "100 Hz", "1 kHz", "10 kHz"} <= set(tick_labels(ax.xaxis))


def test_decay_of_modes_of_a_comb(ax, comb):
    fading, _, _ = plots.pole_decay_plot(comb, ax=ax)
    np.testing.assert_allclose(fading.get_ydata(), 0.1, rtol=1e-9)
    np.testing.assert_allclose(np.sort(fading.get_xdata()), np.arange(241) * 100, atol=1e-6)


def test_modes_that_do_not_decay(ax, oscillator):
    fading, growing, _ = plots.pole_decay_plot(oscillator, ax=ax)
    assert points(fading).size == 0
    np.testing.assert_allclose(growing.get_ydata(), 3 * 7 / np.log10(1.01))
    on_circle = Feedback(gain(1.0), 1.0, delay=4, allow_unstable=True)
    _, growing, lasting = plots.pole_decay_plot(on_circle, ax=ax)
    assert points(growing).size == 0
    np.testing.assert_allclose(lasting.get_xdata(), [0, 0.25, 0.5], atol=1e-9)


def test_frozen_poles(ax, cell):
    frozen = stability.frozen_poles(cell, np.linspace(-1, 1, 40), every=8)
    inside, outside, colorbar = plots.frozen_pole_plot(frozen, sample_rate=RATE, ax=ax)
    drawn = inside.get_offsets() @ [1, 1j]
    np.testing.assert_array_equal(drawn, frozen.poles.ravel())
    assert len(outside.get_offsets()) == 0
    np.testing.assert_allclose(inside.get_array(), np.repeat(np.arange(0, 40, 8), 8) / 48)
    assert colorbar.ax.get_ylabel() == "time (ms)"


def test_frozen_poles_outside_and_none_at_all(ax):
    frozen = stability.FrozenPoles(np.array([0, 5]), np.array([[0.5, 0.2], [1.5, 0.2]], complex))
    inside, outside, colorbar = plots.frozen_pole_plot(frozen, ax=ax)
    np.testing.assert_array_equal(outside.get_offsets(), [[1.5, 0]])
    assert len(inside.get_offsets()) == 3
    assert colorbar.ax.get_ylabel() == "time (samples)"
    plots.frozen_pole_plot(stability.FrozenPoles(np.zeros(0, int), np.zeros((0, 2), complex)), ax=ax)


# ---- responses


def test_impulse_response_in_milliseconds(ax, butterworth):
    (line,) = plots.impulse_response_plot(butterworth, 200, ax=ax)
    np.testing.assert_array_equal(line.get_ydata(), impulse_response(butterworth, 200)[:, 0])
    np.testing.assert_allclose(line.get_xdata(), np.arange(200) / 48)
    assert ax.get_xlabel() == "time (ms)"


def test_the_default_length_shows_the_decay(ax, comb):
    (line,) = plots.impulse_response_plot(comb, ax=ax)
    # 75 dB at 60 dB in 0.1 s, and the delay itself
    assert line.get_xdata()[-1] == pytest.approx(1000 * (0.125 + 0.01), rel=1e-3)


def test_long_responses_keep_their_extremes(ax):
    u = np.random.default_rng(0).standard_normal(30000)
    x, y = responses._extremes(np.arange(30000.0), u)
    assert y.size == 2 * responses.SLICES
    assert (y.min(), y.max()) == (u.min(), u.max())
    assert np.all(np.diff(x) >= 0)


def test_growing_responses_are_cut(ax, oscillator):
    (line,) = plots.impulse_response_plot(oscillator, ax=ax)
    assert 7 < np.max(line.get_ydata()) < 12
    assert ax.get_ylim()[1] < np.max(line.get_ydata())
    plots.impulse_response_plot(Feedback(gain(50.0), 300.0, delay=1, allow_unstable=True), ax=ax)


def test_four_outputs_at_most(ax):
    six = Dense(1, 6, seed=0)
    assert len(plots.impulse_response_plot(six, ax=ax)) == 4
    curves, _ = plots.frequency_response_plot(six, ax=ax)
    assert len(curves) == 4
    assert ax.get_legend().get_title().get_text() == "first 4 of 6"


def test_energy_decay():
    h = 0.5 ** np.arange(60)
    np.testing.assert_allclose(plots.energy_decay_db(h)[:40], 20 * np.log10(0.5) * np.arange(40), atol=1e-9)


def test_decay_time_of_one_pole(ax):
    pole = 10 ** (-3 / (0.25 * RATE))
    (line,) = plots.decay_plot(StateSpace([[pole]], [[1]], [[1]], [[0]], sample_rate=RATE), ax=ax)
    assert line.get_label() == "output 1: 60 dB in 0.25 s"
    np.testing.assert_allclose(
        np.interp([0, 0.125], np.array(line.get_xdata()) / 1000, line.get_ydata()), [0, -30], atol=0.01
    )


def test_no_decay_time_where_nothing_decays(ax, oscillator):
    (line,) = plots.decay_plot(oscillator, ax=ax)
    assert "60 dB" not in line.get_label()


def test_half_power_at_the_cutoff(ax, butterworth):
    (curve,), averages = plots.frequency_response_plot(butterworth, ax=ax)
    frequency, db = curve.get_data()
    assert averages == []
    assert np.interp(1000, frequency, db) == pytest.approx(10 * np.log10(0.5), abs=0.01)
    assert {"100 Hz", "1 kHz", "10 kHz"} <= set(tick_labels(ax.xaxis))
    (curve,), _ = plots.frequency_response_plot(butterworth, [1000.0, 2000.0], ax=ax)
    assert curve.get_ydata()[0] == pytest.approx(10 * np.log10(0.5), abs=1e-6)


def test_average_of_many_modes(ax):
    comb = DelayStateSpace([[0.5]], [[1]], [[1]], [[0]], [960], sample_rate=RATE)
    _, (average,) = plots.frequency_response_plot(comb, ax=ax)
    frequency, db = average.get_data()
    # a third of an octave holds many periods here, and the mean power over one is 1 / (1 - 0.25)
    np.testing.assert_allclose(db[(frequency > 3000) & (frequency < 8000)], -10 * np.log10(0.75), atol=0.2)


def test_small_signals_are_said_to_be_so(ax, cell):
    plots.frequency_response_plot(cell, ax=ax)
    assert "small signals" in ax.get_title()


def test_spectrogram_of_a_sine(ax):
    t = np.arange(9600) / RATE
    image = plots.spectrogram_plot(0.5 * np.sin(2 * np.pi * 3000 * t), RATE, ax=ax)
    db = image.get_array()
    assert np.all(np.argmax(db, axis=0) * RATE / 1024 == 3000)
    np.testing.assert_allclose(db.max(axis=0), 20 * np.log10(0.5), atol=1e-9)
    assert image.colorbar.ax.get_ylabel() == "level (dB)"
    assert "5 kHz" in tick_labels(ax.yaxis)
    plots.spectrogram_plot(np.zeros((100, 2)), RATE, ax=ax)
    with pytest.raises(ParameterError, match="n_channels"):
        plots.spectrogram_plot(np.zeros(0), RATE, ax=ax)


# ---- training


def history(losses, validation):
    return [Epoch(a, b, 1.0) for a, b in zip(losses, validation, strict=True)]


def test_losses_against_epochs(ax):
    training, validation, best = plots.history_plot(history([3, 2, 1.5], [2.5, 2.25, 2.375]), ax=ax)
    np.testing.assert_array_equal(points(training), [1 + 3j, 2 + 2j, 3 + 1.5j])
    np.testing.assert_array_equal(points(validation), [1 + 2.5j, 2 + 2.25j, 3 + 2.375j])
    np.testing.assert_array_equal(points(best), [2 + 2.25j])
    assert training.get_linestyle() != validation.get_linestyle()
    assert ax.get_yscale() == "linear"
    assert ax.get_title() == "3 epochs, the best is 2"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation", "best epoch"]
    assert all(float(label) % 1 == 0 for label in tick_labels(ax.xaxis))


def test_losses_that_fall_far_have_a_logarithmic_scale(ax):
    plots.history_plot(history([100, 5, 1], [np.inf, 4, 2]), ax=ax)
    assert ax.get_yscale() == "log" and {"2", "10", "50"} <= set(tick_labels(ax.yaxis))
    below = plots.history_plot(history([100, 5, -1], [90, 4, 2]))[0].axes
    assert below.get_yscale() == "linear"


def test_without_validation_the_last_epoch_counts(ax):
    _, _, best = plots.history_plot(history([3, 1, 2], [np.nan] * 3), ax=ax)
    np.testing.assert_array_equal(points(best), [3 + 2j])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "last epoch"]


def test_no_epochs_at_all(ax):
    assert all(points(line).size == 0 for line in plots.history_plot([], ax=ax))
    ax.figure.canvas.draw()


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
    names = {"poles", "pole_decay", "impulse_response", "energy_decay", "frequency_response"}
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
    assert "? unknown" in page and "◐ holds at these operating points only" in page
    assert (tmp_path / "frozen_poles.png").exists() and (tmp_path / "spectrogram.png").exists()
    assert len(embedded(page)) == 7


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
    assert "blew up" in page and len(embedded(page)) == 4


@pytest.mark.parametrize("filt", [Dense(1, 2, seed=0), gain(0.5), gain(0.0)])
def test_page_of_a_filter_without_memory(tmp_path, filt):
    page = report.analyze(filt, tmp_path).read_text(encoding="utf-8")
    assert "No poles to draw" in page and len(embedded(page)) == 2


def test_page_of_a_filter_that_works_in_frames(tmp_path):
    framed = Framed.spectral_gain(np.ones(33), n_fft=64)
    page = report.analyze(framed, tmp_path, sample_rate=RATE).read_text(encoding="utf-8")
    assert "only every 16 samples" in page and len(embedded(page)) == 1


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
    other = report.analyze(knob, tmp_path / "b").read_text(encoding="utf-8")
    assert "drive = 0.5" in other and not set(embedded(page)) & set(embedded(other))
    for wrong in ({"drive": 2.0}, {"gain": 1.0}):
        with pytest.raises(ParameterError, match=r"drive"):
            report.analyze(knob, tmp_path / "c", controls=wrong)
    assert not (tmp_path / "c").exists()


def test_another_sample_rate_is_refused(tmp_path, butterworth):
    with pytest.raises(ParameterError, match="48000"):
        report.analyze(butterworth, tmp_path, sample_rate=44100)

"""Plots: what is drawn are the numbers of the filter."""

import matplotlib
import numpy as np
import pytest
import scipy.signal

from rnndsp import plots, stability
from rnndsp.composition import Feedback
from rnndsp.errors import ParameterError
from rnndsp.filters.dense import Dense
from rnndsp.filters.lstm import LSTM
from rnndsp.plots import responses
from rnndsp.response import impulse_response
from rnndsp.statespace import DelayStateSpace, StateSpace, gain
from rnndsp.training import Epoch

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of backend

RATE = 48000.0


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
    fading, lasting, *_ = plots.pole_plot(butterworth, ax=ax)
    np.testing.assert_array_equal(points(fading), butterworth.poles())
    assert points(lasting).size == 0
    assert {"0 Hz", "5 kHz", "10 kHz", "24 kHz", "1 ms"} <= set(texts(ax))
    assert f"spectral radius {butterworth.spectral_radius():.6g}" in ax.get_title()
    # the dotted circle at which 60 dB take 1 ms
    radii = [abs(points(line)[0]) for line in ax.lines if line.get_linestyle() == ":"]
    assert np.min(np.abs(np.array(radii) - 10 ** (-3 / 48))) < 1e-12


def test_poles_outside_the_circle_look_different(ax, oscillator):
    fading, lasting, *_ = plots.pole_plot(oscillator, ax=ax)
    assert points(fading).size == 0
    np.testing.assert_array_equal(points(lasting), oscillator.poles())
    assert (fading.get_marker(), fading.get_color()) != (lasting.get_marker(), lasting.get_color())
    assert fading.get_marker() != lasting.get_marker()
    assert "0.5 $f_s$" in texts(ax)
    assert "1.00142" in ax.get_title()


def test_zeros_and_hidden_modes(ax, butterworth):
    _, _, rings, hidden = plots.pole_plot(butterworth >> StateSpace([[0.5]], [[1]], [[0]], [[1]]), ax=ax)
    # four zeros at -1, which rounding spreads; that of the second part hides its pole
    np.testing.assert_allclose(np.sort(points(rings).real), [-1, -1, -1, -1, 0.5], atol=1e-2)
    np.testing.assert_allclose(points(hidden), [0.5], atol=1e-9)
    assert ax.get_title().endswith("○ 5 zeros, □ hidden: 1")


def test_poles_on_top_of_each_other_are_counted(ax):
    plots.pole_plot(StateSpace(np.zeros((3, 3)), np.ones((3, 1)), np.ones((1, 3)), [[0]]), ax=ax)
    assert "×3" in texts(ax)


def test_known_poles_are_not_computed_again(ax, comb, monkeypatch):
    known = comb.poles()
    monkeypatch.setattr(stability, "poles", None)
    fading, *_ = plots.pole_plot(comb, poles=known, ax=ax)
    assert points(fading).size == 480


def test_without_axes_one_figure_is_opened(butterworth):
    fading, *_ = plots.pole_plot(butterworth)
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


# ---- certificates


def test_certificates(ax):
    values = (0.01, 0.0, 5.0, np.inf, np.nan)
    tests = [stability.Test(str(i), "contraction", value) for i, value in enumerate(values)]
    tests.append(stability.Test("half", "", 1, 2))
    rows = [
        stability.Property("contraction", stability.Verdict.LOCAL, "", tests=tuple(tests)),
        stability.Property("decay", stability.Verdict.REFUTED, ""),
    ]
    bars = plots.certificate_plot(rows, ax=ax)
    # to the left in decades where passed, to the right where not, cut off at four
    ends = {name: bar.get_width() for (_, name), bar in bars.items()}
    expected = {"0": -2, "1": -4, "2": np.log10(5), "3": 4, "4": 0, "half": np.log10(0.5)}
    assert ends == pytest.approx(expected, abs=1e-12)
    assert [bool(bar.get_hatch()) for bar in bars.values()] == [False, False, True, True, True, False]
    markers = [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1]
    assert markers == ["o", "<", "X", ">", "o"]
    assert {"◐ holds at these operating points only", "✗ refuted", "∞", "0.01"} <= set(texts(ax))
    assert any("nan" in text for text in texts(ax))


def test_certificates_without_any_test(ax, butterworth):
    assert plots.certificate_plot(butterworth.stability(), ax=ax) == {}
    assert texts(ax).count("✓ proved") == 5
    pyplot.close("all")
    bars = plots.certificate_plot(LSTM(1, 3, seed=0).stability())
    (number,) = pyplot.get_fignums()
    assert len(bars) == len(pyplot.figure(number).axes[0].patches) - 5


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


def test_octaves_of_two_modes(ax):
    """A low mode of 0.5 s and a high one of 0.2 s: each octave shows its own."""
    radii, w = 10 ** (-3 / (RATE * np.array([0.5, 0.2]))), 2 * np.pi * np.array([250, 4000]) / RATE
    modes = [
        StateSpace(r * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]), [[1], [0]], [[1, 0]], [[0]])
        for r, a in zip(radii, w, strict=True)
    ]
    lines = plots.octave_decay_plot((modes[0] + modes[1]).replace(sample_rate=RATE), ax=ax)
    assert list(lines) == [62.5 * 2.0**k for k in range(9)]
    for centre, t60 in ((250, 0.5), (4000, 0.2)):
        number, unit = lines[centre].get_label().split()[2:]
        assert float(number) * {"s": 1, "ms": 1e-3}[unit] == pytest.approx(t60, rel=0.02)
    with pytest.raises(ParameterError, match="sample rate"):
        plots.octave_decay_plot(modes[0], ax=ax)
    with pytest.raises(ParameterError, match="output=1"):
        plots.octave_decay_plot(modes[0].replace(sample_rate=RATE), output=1, ax=ax)


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

"""Sound of a piece: at what time, pitch and level it is, by the synthesizer that is always there and by FluidSynth."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rnndsp.errors import ParameterError
from rnndsp.midi.piece import Piece, Track
from rnndsp.midi.render import render

RATE = 16000


@pytest.fixture
def bare(monkeypatch):
    """No FluidSynth."""
    monkeypatch.setitem(sys.modules, "fluidsynth", None)


@pytest.fixture
def fluid():
    try:
        import fluidsynth  # noqa: F401
    except ImportError:
        pytest.skip("pyfluidsynth, or the library behind it, is not installed")


@pytest.fixture
def piece():
    """A4, a rest, and A5 with C#6: half a second each."""
    return Piece((Track([(0, 480, 69, 100), (960, 1440, 81, 100)]), Track([(960, 1440, 85, 100)], program=40)))


def level(y, begin_s, end_s, rate=RATE):
    return np.sqrt(np.mean(y[round(begin_s * rate) : round(end_s * rate), 0] ** 2))


def strongest(y, begin_s, end_s, n, rate=RATE):
    """The n strongest frequencies, in Hz."""
    part = y[round(begin_s * rate) : round(end_s * rate), 0]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * len(part)))
    peaks = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] > power[2:])) + 1
    return sorted(peaks[np.argsort(power[peaks])[-n:]] * rate / (8 * len(part)))


def test_pitch_time_and_level(bare, piece):
    y = render(piece, sample_rate=RATE)
    assert (y.shape, y.dtype) == ((round(2.5 * RATE), 1), np.float32)
    assert np.abs(y).max() == pytest.approx(0.5)
    assert strongest(y, 0.05, 0.45, 2) == pytest.approx([440, 880], abs=2)
    assert strongest(y, 1.05, 1.45, 4) == pytest.approx([880, 1108.7, 1760, 2217.5], abs=2)
    assert level(y, 0.5, 1.0) == level(y, 1.5, 2.5) == 0
    # in proportion to velocity
    soft = render(Piece((Track([(0, 480, 69, 25), (960, 1440, 69, 100)]),)), sample_rate=RATE)
    assert level(soft, 1, 1.5) / level(soft, 0, 0.5) == pytest.approx(4, rel=1e-3)


def test_nothing_clicks(bare):
    repeated = [(0, 240, 60, 100), (240, 480, 60, 100), (480, 500, 60, 100), (500, 501, 60, 100)]
    y = render(Piece((Track(repeated),)), sample_rate=44100)[:, 0]
    # a step, or a kink, would stand out of the curvature of the tones
    bend = np.abs(np.diff(y, 2))
    steady = bend[2000:8000].max()
    assert bend.max() < 1.5 * steady
    assert abs(y[0]) < 1e-4
    joint = np.abs(y[round(0.25 * 44100) - 20 : round(0.25 * 44100) + 20])
    assert joint.max() < 0.02


def test_partials_stay_below_half_the_sample_rate(bare):
    y = render(Piece((Track([(0, 960, 105, 100)]),)), sample_rate=8000)
    tone = 3520.0  # its octave would fold down to 960 Hz
    spectrum = np.abs(np.fft.rfft(y[400:7000, 0] * np.hanning(6600)))
    frequency = np.fft.rfftfreq(6600, 1 / 8000)
    near = np.abs(frequency - tone) < 50
    assert spectrum[~near].max() < 1e-3 * spectrum[near].max()
    assert not render(Piece((Track([(0, 960, 127, 100)]),)), sample_rate=8000).any()


def test_silence(bare):
    for quiet in (Piece(()), Piece((Track([]),)), Piece((Track([(0, 480, 36, 100)], is_drum=True),))):
        y = render(quiet, sample_rate=8000)
        assert y.shape == (round((quiet.duration_s + 1) * 8000), 1)
        assert not y.any()


def test_what_cannot_be_rendered(bare, piece, tmp_path):
    with pytest.raises(ParameterError, match=r"2\.01 hours: two are the most"):
        render(Piece((Track([(0, 2 * 7236, 60, 64)]),), 1))
    for sample_rate in (0, 7999, 96001, 44100.5):
        with pytest.raises(ParameterError, match=f"sample_rate={sample_rate}"):
            render(piece, sample_rate=sample_rate)
    with pytest.raises(ParameterError, match=r"x\.sf2' cannot be played.*pip install 'rnndsp\[synth\]'"):
        render(piece, soundfont=tmp_path / "x.sf2")


def test_a_broken_fluidsynth_is_no_obstacle(monkeypatch, bare, piece):
    expected = render(piece, sample_rate=RATE)

    class Broken:
        @staticmethod
        def Synth(samplerate):
            raise AttributeError("undefined symbol")

    monkeypatch.setitem(sys.modules, "fluidsynth", Broken)
    assert np.array_equal(render(piece, sample_rate=RATE), expected)
    with pytest.raises(ParameterError, match=r"undefined symbol.*rnndsp\[synth\]"):
        render(piece, soundfont=__file__)


# ---- FluidSynth


def test_fluidsynth_plays_the_same_music(fluid, piece, monkeypatch):
    y = render(piece, sample_rate=RATE)
    assert (y.shape, y.dtype) == ((round(2.5 * RATE), 1), np.float32)
    assert np.abs(y).max() == pytest.approx(0.5)
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    other = render(piece, sample_rate=RATE)
    assert not np.allclose(y, other, atol=0.01)
    for begin_s, end_s, tones in ((0.05, 0.45, [440]), (1.05, 1.45, [880, 1108.7])):
        for sound in (y, other):
            found = np.array(strongest(sound, begin_s, end_s, 8))
            assert all(np.abs(found - tone).min() < 8 for tone in tones)
    assert level(y, 0.8, 1.0) < 0.1 * level(y, 0.05, 0.45)
    assert abs(y[-1, 0]) < 1e-3


def test_fluidsynth_plays_drums(fluid):
    drums = Piece((Track([(0, 480, 38, 100)], is_drum=True),))
    assert np.abs(render(drums, sample_rate=RATE)).max() == pytest.approx(0.5)
    assert not render(Piece(()), sample_rate=RATE).any()


def test_a_soundfont_that_is_none(fluid, piece, tmp_path):
    for content in (None, b"no soundfont"):
        if content:
            (tmp_path / "x.sf2").write_bytes(content)
        with pytest.raises(ParameterError, match=r"x\.sf2' cannot be played"):
            render(piece, soundfont=tmp_path / "x.sf2")


def test_a_soundfont_given(fluid, piece):
    import pretty_midi

    bundled = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")
    given = render(piece, sample_rate=RATE, soundfont=bundled)
    assert given == pytest.approx(render(piece, sample_rate=RATE), abs=0.01)

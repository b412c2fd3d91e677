"""To scipy and python-control, and back."""

import sys

import numpy as np
import pytest
from scipy import signal

from rnndsp import StateSpace, delay, gain
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, SOS, FeedbackDelayNetwork


def network():
    return FeedbackDelayNetwork((3, 5, 7), t60_s=0.01, sample_rate=44100, n_channels=2, dry=0.3)


def impulse(filt, n_frames=40):
    return np.stack([filt(u) for u in np.eye(filt.n_inputs)[:, None] * np.eye(1, n_frames)[0][:, None]], axis=-1)


def test_to_scipy_and_back():
    filt = network()
    system = filt.to_scipy()
    assert isinstance(system, signal.dlti) and system.dt == 1 / 44100
    _, y = signal.dimpulse(system, n=40)
    np.testing.assert_allclose(np.stack(y, axis=-1), impulse(filt), atol=1e-15)
    back = StateSpace.from_scipy(system)
    assert back == filt.expand() and back.sample_rate == 44100
    assert gain([[2.0, 1.0]]).to_scipy().dt is True
    assert StateSpace.from_scipy(gain([[2.0, 1.0]]).to_scipy()) == gain([[2.0, 1.0]])


def test_from_representations_of_scipy():
    b, a = signal.butter(4, 0.2)
    u = np.random.default_rng(0).standard_normal(300)
    expected = signal.lfilter(b, a, u)
    z, p, k = signal.butter(4, 0.2, output="zpk")
    for system in (signal.dlti(b, a), signal.dlti(z, p, k), signal.dlti(*signal.tf2ss(b, a))):
        np.testing.assert_allclose(StateSpace.from_scipy(system)(u), expected, atol=1e-12)
    assert StateSpace.from_scipy(signal.dlti(b, a, dt=1 / 96000)).sample_rate == 96000
    assert StateSpace.from_scipy(signal.dlti(b, a, dt=0.3)).sample_rate == 1 / 0.3
    assert StateSpace.from_scipy(signal.dlti(b, a, dt=True)).sample_rate is None


def test_zeros_and_poles_keep_their_digits():
    """A low cutoff of order 10, whose coefficients would move the poles out of the circle."""
    z, p, k = signal.butter(10, 0.002, output="zpk")
    filt = StateSpace.from_scipy(signal.dlti(z, p, k))
    found = filt.poles()
    assert max(np.min(np.abs(found - pole)) for pole in p) < 1e-10
    assert np.max(np.abs(np.roots(np.poly(p)))) > 1
    np.testing.assert_allclose(filt(np.ones(20000)), signal.sosfilt(signal.zpk2sos(z, p, k), np.ones(20000)), atol=1e-9)


def test_fewer_zeros_than_poles_are_latency():
    filt = StateSpace.from_scipy(signal.dlti([0.5], [0.3, -0.2, 0.1], 2.0))
    b, a = signal.zpk2tf([0.5], [0.3, -0.2, 0.1], 2.0)
    np.testing.assert_allclose(filt(np.eye(1, 20)[0]), signal.lfilter([0, 0, *b], a, np.eye(1, 20)[0]), atol=1e-15)


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (signal.lti([1.0], [1.0, 1.0]), "continuous system: sample it first"),
        (signal.lti([], [-1.0], 1.0), "continuous system: sample it first"),
        (signal.butter(2, 0.3), "tuple is no scipy.signal.dlti: wrap"),
        (np.eye(2), "ndarray is no scipy.signal.dlti"),
        (signal.dlti([1.0, 2.0, 3.0], [1.0, 0.5]), "no state space: Improper"),
        (signal.dlti([0.1, 0.2], [0.5], 1.0), "1 more zeros than poles look ahead"),
        (signal.dlti([[0.5j]], [[1.0]], [[1.0]], [[0.0]]), "complex coefficients"),
    ],
)
def test_what_scipy_has_that_is_no_filter(system, said):
    with pytest.raises(ParameterError, match=said):
        StateSpace.from_scipy(system)


def test_too_long_for_a_dense_matrix():
    for convert in (delay(30000).to_scipy, delay(30000).to_control):
        with pytest.raises(ParameterError, match="expanding 30000 states"):
            convert()


def test_small_signal_filter_of_a_cell():
    filt = LSTM(1, 3, seed=1)
    system = filt.linearize().to_scipy()
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(system.A)), np.sort_complex(filt.poles()), atol=1e-12)


def test_to_control_and_back():
    control = pytest.importorskip("control")
    filt = network()
    system = filt.to_control()
    assert isinstance(system, control.StateSpace) and system.dt == 1 / 44100
    assert StateSpace.from_control(system) == filt.expand()
    w = np.linspace(0.1, 3, 20)
    np.testing.assert_allclose(np.moveaxis(system(np.exp(1j * w)), 2, 0), filt.frequency_response(w), atol=1e-12)
    hidden = StateSpace(np.diag([0.5, 0.3]), [[1.0], [0.0]], [[1.0, 0.0]], [[0.0]])
    assert hidden.to_control().nstates == 2 and hidden.to_control().dt is True
    assert StateSpace.from_control(hidden.to_control()) == hidden
    assert StateSpace.from_control(gain([[2.0]]).to_control()) == gain([[2.0]])


def test_from_representations_of_control():
    control = pytest.importorskip("control")
    b, a = signal.butter(3, 0.2)
    filt = StateSpace.from_control(control.tf(b, a, 1 / 48000))
    assert filt.sample_rate == 48000
    u = np.random.default_rng(0).standard_normal(200)
    np.testing.assert_allclose(filt(u), signal.lfilter(b, a, u), atol=1e-12)
    z, p, k = signal.butter(3, 0.2, output="zpk")
    np.testing.assert_allclose(StateSpace.from_control(control.zpk(z, p, k, True))(u), filt(u), atol=1e-12)
    assert StateSpace.from_control(control.tf([2.0], [1.0]))(u[:3]).tolist() == (2 * u[:3]).tolist()


def test_what_control_has_that_is_no_filter():
    control = pytest.importorskip("control")
    for system, said in (
        (control.tf([1.0], [1.0, 1.0]), "continuous: sample it first"),
        (control.ss([[0.5]], [[1.0]], [[1.0]], [[0.0]], None), "dt=None"),
        (control.tf([1.0, 0.0, 0.0], [1.0, 0.5], True), "non-proper"),
        (control.frd([1.0, 2.0], [0.1, 0.2]), "no control.StateSpace"),
        (signal.dlti([1.0], [1.0, 0.5]), "no control.StateSpace"),
    ):
        with pytest.raises(ParameterError, match=said):
            StateSpace.from_control(system)


def test_without_python_control(monkeypatch):
    """The message names the package."""
    monkeypatch.setitem(sys.modules, "control", None)
    for convert in (gain(1.0).to_control, lambda: StateSpace.from_control(None)):
        with pytest.raises(ParameterError, match="pip install control"):
            convert()


def test_sections_through_scipy():
    filt = SOS(signal.ellip(6, 1, 60, 0.2, output="sos"), sample_rate=48000)
    back = StateSpace.from_scipy(filt.linearize().to_scipy())
    u = np.random.default_rng(1).standard_normal(500)
    np.testing.assert_allclose(back(u), filt(u), atol=1e-12)


@pytest.mark.parametrize("order", [6, 24])
def test_sections_through_control(order):
    control = pytest.importorskip("control")
    sos = signal.ellip(order, 1, 60, 0.5, output="sos")
    u = np.random.default_rng(2).standard_normal(300)
    system = StateSpace.from_sos(sos, sample_rate=48000).to_control()
    y = control.forced_response(system, inputs=u).outputs
    np.testing.assert_allclose(y, signal.sosfilt(sos, u), atol=1e-12)
    np.testing.assert_allclose(StateSpace.from_control(system)(u), SOS(sos)(u), atol=1e-12)

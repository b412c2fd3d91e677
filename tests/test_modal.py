"""Modes against scipy's partial fractions, closed forms, and the impulse response of the filter itself."""

import numpy as np
import pytest
from scipy import signal
from scipy.stats import ortho_group

from rnndsp import DelayStateSpace, Feedback, Latency, Parallel, StateSpace, delay, gain, impulse_response
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filters import GRU, LSTM, SOS, Dense, FeedbackDelayNetwork, GerzonAllpass, TransferFunction
from rnndsp.stability import modal, modal_decomposition

RATE = 48000.0


def response(filt, n_frames):
    linear = filt.linearize()
    return np.stack([impulse_response(linear, n_frames, channel=i) for i in range(filt.n_inputs)], axis=2)


def check(filt, n_frames, tolerance):
    modes = modal_decomposition(filt)
    h = response(filt, n_frames)
    size = np.max(np.abs(h))
    assert np.max(np.abs(modes.impulse_response(n_frames) - h)) <= tolerance * size
    assert modes.error <= 100 * tolerance
    assert np.all(modes.condition >= 1 - 1e-9)
    return modes


@pytest.mark.parametrize("design", [signal.butter(2, 0.2), signal.ellip(5, 1, 40, 0.3)])
def test_partial_fractions_of_scipy(design):
    """residuez has r' / (1 - p/z) = r' + r / (z - p) with r = r' p."""
    modes = check(TransferFunction(*design), 500, 1e-11)
    r, p, k = signal.residuez(*design)
    places = [int(np.argmin(np.abs(modes.poles - pole))) for pole in p]
    assert sorted(places) == list(range(p.size))
    np.testing.assert_allclose(modes.poles[places], p, rtol=1e-9)
    np.testing.assert_allclose(modes.residues[places, 0, 0], r * p, rtol=1e-7)
    np.testing.assert_allclose(modes.fir.ravel(), [np.sum(r).real + np.sum(k)], rtol=1e-9)


def test_modes_of_a_comb():
    """z^m = g^m: H = 1 / (z^m - g^m), every residue is p / (m g^m), every mode fades alike."""
    m, t60_s = 480, 0.1
    g = 10 ** (-3 / (t60_s * RATE))
    modes = check(DelayStateSpace([[g**m]], [[1]], [[1]], [[0]], [m], sample_rate=RATE), 5000, 1e-12)
    np.testing.assert_allclose(modes.residues[:, 0, 0], modes.poles / (m * g**m), rtol=1e-10)
    np.testing.assert_allclose(modes.t60, t60_s, rtol=1e-9)
    upper = modes.poles.imag >= 0
    np.testing.assert_allclose(np.sort(modes.frequency[upper]), 100 * np.arange(241), atol=1e-6)
    amplitude = g / (m * g**m) * np.where(modes.poles.imag == 0, 1, 2)
    np.testing.assert_allclose(modes.level_db[:, 0, 0], 20 * np.log10(amplitude), atol=1e-8)
    np.testing.assert_allclose(modes.condition, 1 / g ** (m - 1) * (1 - g ** (2 * m)) / (1 - g**2) / m, rtol=1e-9)


def test_conditions_are_those_of_the_expanded_matrix():
    rng = np.random.default_rng(5)
    filt = DelayStateSpace(
        0.5 * rng.standard_normal((3, 3)),
        rng.standard_normal((3, 2)),
        rng.standard_normal((2, 3)),
        np.eye(2),
        [2, 3, 7],
    )
    modes = check(filt, 200, 1e-11)
    values, V = np.linalg.eig(filt.expand().A)
    W = np.linalg.inv(V)
    for pole, condition in zip(modes.poles, modes.condition, strict=True):
        i = int(np.argmin(np.abs(values - pole)))
        assert condition == pytest.approx(np.linalg.norm(V[:, i]) * np.linalg.norm(W[i]), rel=1e-8)


def test_a_network_of_thousands_of_samples():
    """No matrix of that size: 5424 of them squared would take 235 MB."""
    filt = FeedbackDelayNetwork([1201, 1283, 1409, 1531], t60_s=1.0, sample_rate=RATE, n_channels=2)
    modes = check(filt, 20000, 1e-10)
    assert modes.poles.size == 5424 and modes.residues.shape == (5424, 2, 2)
    np.testing.assert_allclose(modes.t60, 1.0, rtol=1e-6)
    # with losses of its own in every line
    check(filt.replace(A=filt.A * [0.9, 0.95, 0.85, 0.99]), 5000, 1e-10)


def test_multiple_poles_with_as_many_modes():
    """Householder's matrix has a triple pole at 1, equal lines have every pole of one line as often."""
    B, C = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[1.0, -2.0, 0.5, 3.0]])
    modes = check(DelayStateSpace(np.eye(4) - 0.5, B, C, [[0.0]], [7, 11, 13, 17]), 2000, 1e-10)
    assert np.count_nonzero(np.abs(modes.poles - 1) < 1e-9) == 3
    at_one = np.abs(modes.poles - 1) < 1e-9
    assert np.ptp(modes.residues[at_one]) < 1e-9
    U = ortho_group.rvs(4, random_state=np.random.default_rng(0))
    check(DelayStateSpace(0.9 * U, np.eye(4), np.eye(4), np.zeros((4, 4)), [50] * 4), 2000, 1e-11)
    check(DelayStateSpace(0.9 * np.eye(2), np.eye(2), np.ones((2, 2)), np.eye(2), [50, 50]), 500, 1e-11)


def test_poles_at_the_origin_are_a_finite_response():
    modes = check(delay(100), 200, 1e-15)
    assert modes.poles.size == 0
    np.testing.assert_array_equal(modes.fir[:, 0, 0], np.eye(1, 101, 100)[0])
    modes = check(delay(30) >> FeedbackDelayNetwork([101, 233, 311], t60_s=0.2, sample_rate=RATE, dry=0.5), 3000, 1e-10)
    assert modes.poles.size == 645 and len(modes.fir) == 31 and modes.fir[30, 0, 0] != 0
    modes = check(gain([[1.0, 2.0, 3.0]]), 3, 0)
    assert modes.impulse_response(3).shape == (3, 1, 3) and modes.error == 0
    assert modal_decomposition(gain(0.0)).impulse_response(0).shape == (0, 1, 1)


def test_other_filters():
    check(GerzonAllpass([5, 7, 11], gain=0.5, matrix="random"), 500, 1e-12)
    check(SOS(signal.ellip(12, 1, 60, 0.2, output="sos")), 1000, 1e-10)
    growing = check(Feedback(gain(1.0), 1.02, delay=70, allow_unstable=True), 3000, 1e-10)
    assert np.isinf(growing.t60).all()
    cell = Feedback(GRU(1, 8, seed=0) >> Dense(8, 1), 0.2, delay=7)
    check(cell, 300, 1e-11)
    # poles at 0, some of them but for rounding
    check(Parallel(LSTM(1, 3) >> Dense(3, 1), gain(0.5) >> Latency(9)), 300, 1e-11)
    state = cell.run(0.5 * np.ones(20))[1]
    there = modal_decomposition(cell, state, [0.5])
    assert not np.allclose(there.poles[:3], modal_decomposition(cell).poles[:3], atol=1e-4)


@pytest.mark.parametrize("multiplicity", [2, 6])
def test_defective_poles_are_refused(multiplicity):
    with pytest.raises(RnndspError, match="multiple"):
        modal_decomposition(TransferFunction([1.0], np.poly([0.9] * multiplicity)))
    jordan = np.diag([0.9] * multiplicity) + np.eye(multiplicity, k=1)
    last, first = np.eye(multiplicity)[:, -1:], np.eye(multiplicity)[:1]
    with pytest.raises(RnndspError, match="multiple"):
        modal_decomposition(StateSpace(jordan, last, first, [[0.0]]))


def test_near_multiple_poles_are_marked():
    modes = modal_decomposition(StateSpace([[0.9, 1.0], [0.0, 0.9 + 1e-4]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]]))
    np.testing.assert_allclose(modes.condition, 1e4, rtol=1e-3)
    assert modes.error < 1e-9


def test_too_large(monkeypatch):
    with pytest.raises(ParameterError, match="too many"):
        modal_decomposition(Feedback(gain(1.0), 0.5, delay=2**19))
    monkeypatch.setattr(modal, "AT_ONCE", 64)  # pieces fit together
    check(FeedbackDelayNetwork([11, 13, 17], t60_s=0.01, sample_rate=RATE), 500, 1e-11)

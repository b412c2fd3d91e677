"""The nearest filter that passes. Oracles: closed forms, the unchanged filter, simulation, exhaustive search."""

import numpy as np
import pytest
from scipy import signal

from rnndsp import DelayStateSpace, Feedback, StateSpace
from rnndsp.errors import ParameterError
from rnndsp.filters import GRU, LSTM, Dense, Elman, orthogonal_matrix
from rnndsp.framed import Framed
from rnndsp.stability import Verdict, certify, stabilize


def meet(filt, n_frames=4000, level=1.0):
    """How far runs from random states are apart in the end, on the same noise."""
    rng = np.random.default_rng(0)
    state = filt.rest_state((8,))
    state = state.unravel(rng.uniform(-1, 1, state.ravel().shape))
    u = level * np.broadcast_to(rng.uniform(-1, 1, (n_frames, filt.n_inputs)), (8, n_frames, filt.n_inputs))
    _, end = filt.run(np.ascontiguousarray(u), state)
    return float(np.max(np.ptp(end.ravel(), axis=0)))


def test_what_passes_stays_as_it_is():
    cell = Elman(1, 3).replace(U=0.5 * np.eye(3))
    done = stabilize(cell)
    assert done.filter is cell and done.changes == {} and done.largest_change_db == 0


def test_only_the_poles_outside_are_moved():
    z, p, k = signal.butter(4, 0.2, output="zpk")
    p[np.argsort(-np.abs(p))[:2]] *= 1.02 / np.abs(p).max()
    unstable = StateSpace(*signal.zpk2ss(z, p, k))
    assert unstable.stability()["contraction"].verdict == Verdict.REFUTED
    done = stabilize(unstable, radius=0.999)
    assert done.verdict.verdict == Verdict.PROVED
    expected = np.where(np.abs(p) > 0.999, 0.999 * p / np.abs(p), p)
    np.testing.assert_allclose(np.sort_complex(done.filter.poles()), np.sort_complex(expected), atol=1e-9)
    assert done.changes.keys() == {"A"} and 0 < done.changes["A"] < 0.05


def test_a_real_pole_comes_straight_in():
    done = stabilize(StateSpace([[1.25]], [[1.0]], [[1.0]], [[0.0]]), radius=0.9)
    assert abs(done.filter.A[0, 0] - 0.9) < 1e-12 and abs(done.changes["A"] - 0.35 / 1.25) < 1e-12
    # at frequency 0: 1 / (1 - p)
    assert abs(done.after_db[0, 0, 0] - 20) < 1e-9 and abs(done.before_db[0, 0, 0] - 20 * np.log10(4)) < 1e-9
    assert "A changed by 28 %" in str(done)


def test_a_network_loses_the_same_everywhere():
    m = np.array([101, 203, 307, 401])
    grows = DelayStateSpace(1.02 * orthogonal_matrix(4, "hadamard"), np.ones((4, 1)), np.ones((1, 4)), [[0.0]], m)
    done = stabilize(grows, radius=0.9999)
    factor = done.filter.spectral_radius() / grows.spectral_radius()
    np.testing.assert_allclose(done.filter.A, grows.A * factor**m, rtol=1e-9)
    assert done.verdict.verdict == Verdict.PROVED and done.filter.spectral_radius() <= 0.9999 + 1e-12


def test_elman_by_cutting_off_singular_values():
    rng = np.random.default_rng(1)
    U = 6 * rng.uniform(-1, 1, (6, 6)) / np.sqrt(6)
    cell = Elman(1, 6).replace(U=U)
    assert meet(cell, level=0.01) > 0.1
    done = stabilize(cell)
    assert done.verdict.verdict == Verdict.PROVED and meet(done.filter) < 1e-8
    # scaling all of U until it passes changes more
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        passed = certify(cell.replace(U=middle * U)).verdict == Verdict.PROVED
        low, high = (middle, high) if passed else (low, middle)
    assert done.changes["U"] < 1 - low


@pytest.mark.parametrize(
    "filt",
    [
        LSTM(1, 3, seed=2),
        GRU(1, 4, seed=1, reset="before") >> Dense(4, 1),
        Feedback(Elman(1, 2) >> Dense(2, 1), -2.5, delay=5),
    ],
    ids=["lstm", "gru", "feedback"],
)
def test_others_by_turning_down_what_feeds_back(filt):
    assert certify(filt).verdict != Verdict.PROVED
    done = stabilize(filt)
    assert done.verdict.verdict == Verdict.PROVED and meet(done.filter) < 1e-6
    assert all(0 < part < 1 for part in done.changes.values())
    # the largest factor: a little less change no longer passes
    more = {
        name: done.filter.params[name] + 0.02 * (filt.params[name] - done.filter.params[name]) for name in done.changes
    }
    assert certify(filt.replace(**more)).verdict != Verdict.PROVED


def test_smaller_inputs_need_less():
    cell = GRU(1, 3, seed=4).replace(U=1.5 * GRU(1, 3, seed=4).U)
    loud, soft = (stabilize(cell, input_bound=bound).changes.get("U", 0) for bound in (2.0, 0.1))
    assert soft < loud


def test_bad_input():
    cell = Elman(1, 2)
    for wrong in ({"property": "bounded output"}, {"property": "x"}, {"radius": 1.0}, {"input_bound": -1.0}):
        with pytest.raises(ParameterError):
            stabilize(cell, **wrong)
    with pytest.raises(ParameterError, match="frames"):
        stabilize(Framed(Elman(10, 6) >> Dense(6, 10), n_fft=8, hop_length=2))
    with pytest.raises(ParameterError, match="contracting"):
        stabilize(LSTM(1, 3, recurrence="orthogonal"))
    with pytest.raises(ParameterError, match="local"):
        stabilize(LSTM(1, 3, seed=2), property="decay")

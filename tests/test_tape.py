"""Tapes. Oracles: one voice after the other, every schedule of recomputation tried, whole tapes, differences."""

from functools import cache

import numpy as np
import pytest

from rnndsp import Feedback, ParameterError, Stage, gain
from rnndsp.activations import tanh
from rnndsp.engine import Cell
from rnndsp.filter import PIECE, _split
from rnndsp.filters import GRU, LSTM, Dense, Elman
from rnndsp.testing import check_filter


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def moved(filt, seed=1):
    """Other biases, or much would be zero."""
    rng = np.random.default_rng(seed)
    return filt.replace(**{k: v + 0.3 * rng.standard_normal(v.shape) for k, v in filt.params.items()})


def assert_same(found, expected):
    np.testing.assert_array_equal(found.u, expected.u)
    np.testing.assert_array_equal(found.state, expected.state)
    for name, value in expected.params.items():
        np.testing.assert_array_equal(found.params[name], value)


# ---- voices side by side


@pytest.mark.parametrize(
    "filt",
    [LSTM(2, 5), GRU(3, 4), GRU(1, 9, reset="before"), Elman(2, 6, recurrence="diagonal")],
    ids=["sums", "apart", "two stages", "diagonal"],
)
@pytest.mark.parametrize("n_voices", [6, 8, 19])
def test_voices_are_learnt_from_as_if_alone(filt, n_voices):
    """Some in the lanes of a vector, some over; the gradient by parameters is the sum over them."""
    filt = moved(filt)
    u = noise(n_voices, 45, filt.n_inputs)
    dy, dx = noise(n_voices, 45, filt.n_outputs, seed=2), noise(n_voices, filt.n_states, seed=3)
    found = filt.tape(u).adjoint(dy, dx)
    alone = [filt.tape(u[voice]).adjoint(dy[voice], dx[voice]) for voice in range(n_voices)]
    np.testing.assert_allclose(found.u, [one.u for one in alone], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.state, [one.state for one in alone], rtol=1e-11, atol=1e-13)
    for name, value in found.params.items():
        np.testing.assert_allclose(value, sum(one.params[name] for one in alone), rtol=1e-10, atol=1e-12)


def _product_unit(a, r, s, p):
    return (a[0] * r[0] + 0.1 * r[1],)


def _product_adjoint(a, r, s, p, d):
    return (d[0] * r[0], 0 * d[0]), (d[0] * a[0], 0.1 * d[0]), (0 * d[0],), ()


class Multiplied(Cell):
    """A unit that needs a and r apart, as is taken for granted."""

    stages = (Stage(_product_unit, _product_adjoint, n_gates=2, n_out=1),)


class Half(Cell):
    """The same, of which it is said that the sum is enough."""

    stages = (Stage(_product_unit, _product_adjoint, n_gates=2, n_out=1, apart=0),)


def test_gates_apart():
    check_filter(moved(Multiplied(2, 3)))
    with pytest.raises(AssertionError, match="gradient by"):
        check_filter(moved(Half(2, 3)))


def _branching_adjoint(a, r, s, p, d):
    x = a[0] + r[0]
    g = d[0] * (1 - tanh(x) ** 2) if x < 30 else 0 * d[0]
    return (g,), (g,), (0 * g,), ()


class Branching(Cell):
    """An adjoint that vectors cannot do, of a unit that they can."""

    stages = (Stage(lambda a, r, s, p: (tanh(a[0] + r[0]),), _branching_adjoint, n_gates=1, n_out=1),)


def test_an_adjoint_for_single_numbers():
    filt, elman = Branching(1, 2), Elman(1, 2)
    elman = elman.replace(**filt.params)
    u, dy = noise(16, 30, 1), noise(16, 30, 2, seed=1)
    tape, expected = filt.tape(u), elman.tape(u)
    np.testing.assert_array_equal(tape.y, filt(u))
    np.testing.assert_allclose(tape.y, expected.y, rtol=1e-13)
    found, expected = tape.adjoint(dy).params, expected.adjoint(dy).params
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11)


# ---- pieces, and states in place of tapes


@pytest.mark.parametrize("n_slots", range(6))
def test_no_schedule_runs_fewer_pieces_again(n_slots):
    @cache
    def least(n, slots):
        if n == 1:
            return 0
        if not slots:
            return n * (n - 1) // 2
        return min(m + least(n - m, slots - 1) + least(m, slots) for m in range(1, n))

    @cache
    def ours(n, slots):
        if n == 1:
            return 0
        m = _split(n, slots)
        return m + ours(n - m, max(slots - 1, 0)) + ours(m, slots)

    assert [ours(n, n_slots) for n in range(1, 50)] == [least(n, n_slots) for n in range(1, 50)]


@pytest.mark.parametrize(
    "filt", [LSTM(1, 4) >> Dense(4, 1), Feedback(Elman(1, 2) >> Dense(2, 1), gain(0.3), delay=50)], ids=["cell", "loop"]
)
def test_kept_states_give_the_same_bits(filt):
    n_frames = 4 * PIECE + 100
    u, dy, dx = noise(2, n_frames, 1), noise(2, n_frames, 1, seed=1), noise(2, filt.n_states, seed=2)
    whole = filt.tape(u)
    expected = whole.adjoint(dy, dx)
    assert_same(whole.adjoint(dy, dx), expected)  # what a tape held is spent, and found again
    for kept in (0, 1, 2, 9):
        tape = filt.tape(u, kept_states=kept)
        np.testing.assert_array_equal(tape.y, whole.y)
        assert tape.state == whole.state
        for _ in range(2):
            assert_same(tape.adjoint(dy, dx), expected)


@pytest.mark.parametrize("kept", [None, 1])
def test_what_happens_to_the_input_later_is_nothing_to_the_tape(kept):
    filt, u = moved(LSTM(1, 3)), noise(2 * PIECE, 1)
    dy = noise(2 * PIECE, 3, seed=1)
    expected = filt.tape(u.copy()).adjoint(dy)
    tape = filt.tape(u, kept_states=kept)
    u[:] = 7
    for _ in range(2):
        assert_same(tape.adjoint(dy), expected)


def test_from_piece_to_piece():
    """A gradient over several pieces is that of the chain rule over them."""
    filt, n_frames = moved(Elman(1, 2)), PIECE + 40
    u, dy = noise(n_frames, 1), noise(n_frames, 2, seed=1)
    whole = filt.tape(u).adjoint(dy)
    first = filt.tape(u[:500])
    last = filt.tape(u[500:], first.state).adjoint(dy[500:])
    start = first.adjoint(dy[:500], last.state)
    np.testing.assert_allclose(whole.u, np.concatenate([start.u, last.u]), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(whole.state, start.state, rtol=1e-12)
    for name, value in whole.params.items():
        np.testing.assert_allclose(value, start.params[name] + last.params[name], rtol=1e-11)


@pytest.mark.parametrize("filt", [LSTM(2, 3), LSTM(2, 3) >> Dense(3, 1), Dense(2, 1)], ids=["cell", "series", "dense"])
def test_parameters_alone(filt):
    u, dy = noise(3, 20, 2), noise(3, 20, filt.n_outputs, seed=1)
    expected = filt.tape(u).adjoint(dy).params
    found = filt.tape(u).adjoint_of_params(dy)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("kept", [-1, 1.5, "two", True])
def test_bad_numbers_of_states(kept):
    with pytest.raises(ParameterError, match="kept_states"):
        gain(1.0).tape(np.zeros(3), kept_states=kept)

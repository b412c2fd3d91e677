"""Jacobians, Lyapunov exponents, gradients, memory. Oracles: closed forms, published values, NumPy loops, PyTorch."""

import math
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from scipy.linalg import block_diag, solve_discrete_lyapunov
from scipy.optimize import linear_sum_assignment

import rnndsp
from rnndsp import Feedback, Framed, Knobs, NonFiniteError, ParameterError, StateSpace, gain, plots, stability
from rnndsp._tangents import Jacobians
from rnndsp.engine import Cell, Stage
from rnndsp.filters import GRU, LSTM, DelayStateSpace, Dense, Elman, FeedbackDelayNetwork, StateVariable
from rnndsp.stability import trajectories
from rnndsp.state import Field
from tests.all_filters import FILTERS

mpl.use("Agg")


def linear(A, B=None, C=None, **config):
    A = np.atleast_2d(np.asarray(A, float))
    n = len(A)
    B = np.ones((n, 1)) if B is None else np.asarray(B, float)
    C = np.eye(n) if C is None else np.asarray(C, float)
    return StateSpace(A, B, C, np.zeros((len(C), B.shape[1])), **config)


class Map(rnndsp.Filter):
    """A map without input, as a filter: subclasses give ``start`` and ``step``, the next state and the Jacobian."""

    start: ClassVar[tuple[float, ...]]

    def __init__(self, **config):
        super().__init__(config, {})

    def _setup(self):
        self.n_inputs, self.n_outputs = 1, len(self.start)
        self.fields = (Field("x", (self.n_outputs,)),)

    def _rest(self, vector):
        vector[...] = self.start

    def _advance(self, u, state, y):
        for voice in range(len(u)):
            for t in range(u.shape[1]):
                state.rows[voice] = y[voice, t] = self.step(state.rows[voice])[0]

    def _record(self, u, state):
        raise NotImplementedError

    def _adjoint(self, memory, dy, dx):
        raise NotImplementedError

    def _linearize(self, state, u):
        J = np.atleast_2d(np.array(self.step(state.vector)[1], float))
        return StateSpace(J, np.zeros((len(J), 1)), J, np.zeros((len(J), 1)))

    def _jacobians(self, u, state):
        n = self.n_states
        y, J = np.empty((len(u), n)), np.empty((len(u), n, n))
        for t in range(len(u)):
            y[t], J[t] = self.step(state.vector)
            state.vector[:] = y[t]
        state.index += len(u)
        none = np.zeros((1, n, 1))
        return Jacobians(J, none, J, none, np.ones(n, np.int64), y)


class Logistic(Map):
    start = (0.2345,)

    def step(self, x):
        return 4 * x * (1 - x), 4 - 8 * x


class Tent(Map):
    start = (0.2345,)

    def step(self, x):
        # in floating point the tent map itself ends at 0 after 53 steps: here a nearby slope keeps it going
        up = x < 0.5
        slope = 1.9999999999
        return np.where(up, slope * x, slope * (1 - x)), np.where(up, 2, -2)


class Henon(Map):
    start = (0.1, 0.1)

    def step(self, x):
        return (1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]), ((-2.8 * x[0], 1), (0.3, 0))


class Cat(Map):
    start = (0.1, 0.234)

    def step(self, x):
        return ((x[0] + x[1]) % 1, (x[0] + 2 * x[1]) % 1), ((1, 1), (1, 2))


class Baker(Map):
    start = (0.1234, 0.3)

    def step(self, x):
        return ((1.9999999 * x[0]) % 1, (x[1] + (x[0] >= 0.5)) / 2), ((2, 0), (0, 0.5))


class Standard(Map):
    start = (2.68156, 2.31167)

    def step(self, x):
        p = (x[1] + math.sin(x[0])) % (2 * math.pi)
        c = math.cos(x[0])
        return ((x[0] + p) % (2 * math.pi), p), ((1 + c, 1), (c, 1))


class FoldedTowel(Map):
    start = (0.085, -0.121, 0.075)

    def step(self, v):
        x, y, z = v
        new = (
            3.8 * x * (1 - x) - 0.05 * (y + 0.35) * (1 - 2 * z),
            0.1 * ((y + 0.35) * (1 - 2 * z) - 1) * (1 - 1.9 * x),
            3.78 * z * (1 - z) + 0.2 * y,
        )
        J = (
            (3.8 - 7.6 * x, -0.05 * (1 - 2 * z), 0.1 * (y + 0.35)),
            (
                -0.19 * ((y + 0.35) * (1 - 2 * z) - 1),
                0.1 * (1 - 2 * z) * (1 - 1.9 * x),
                -0.2 * (y + 0.35) * (1 - 1.9 * x),
            ),
            (0, 0.2, 3.78 - 7.56 * z),
        )
        return new, J


def chaotic_lstm():
    """Laurent and von Brecht (2017): two units, no input, no bias."""
    U = {
        "i": [[-1, -4], [-3, -2]],
        "f": [[-2, 6], [0, -6]],
        "g": [[-1, -6], [6, -9]],
        "o": [[4, 1], [-9, -7]],
    }
    cell = LSTM(1, 2).replace(U=np.concatenate([U[gate] for gate in "ifgo"]), W=np.zeros((8, 1)), b=np.zeros(8))
    return cell, cell.rest_state().unravel(np.array([0.1, 0.2, 0.3, 0.1]))


def chaotic_gru(sign):
    """The same authors' GRU, of either convention for z: a sigmoid of the opposite is one minus it."""
    cell = GRU(1, 2, reset="before")
    Uz, Ur, Uh = sign * np.array([[0, 1], [1, 1]]), [[0, 1], [1, 0]], [[-5, -8], [8, 5]]
    cell = cell.replace(U=np.concatenate([Ur, Uz, Uh]), W=np.zeros((6, 1)), b=np.zeros(6), b_rec=np.zeros(6))
    return cell, cell.rest_state().unravel(np.array([0.1, 0.2]))


# ---- Jacobians


@pytest.mark.parametrize(
    "name",
    [
        *("dense tanh", "state variable", "delay state space", "elman relu", "lstm diagonal", "gru before", "series"),
        *("parallel with latency", "residual", "knobs", "feedback linear", "feedback one sample", "feedback nested"),
        "stack",
    ],
)
def test_jacobians_are_the_small_signal_filters_of_every_frame(name):
    filt = FILTERS[name]()
    rng = np.random.default_rng(1)
    u = 0.5 * rng.standard_normal((7, filt.n_inputs))
    controls = {c.name: c.default * rng.uniform(0.9, 1, 7) for c in filt.controls}
    _, state = filt.run(0.3 * rng.standard_normal((5, filt.n_inputs)))
    pieces = list(stability.jacobians(filt, u, state, controls=controls))
    assert sum(len(piece.y) for piece in pieces) == 7
    (found,) = pieces
    for t in range(7):
        now = {k: v[t] for k, v in controls.items()}
        small = filt.linearize(state, u[t], controls=now)
        np.testing.assert_array_equal(found.delays, small.delays)
        for key in "ABCD":
            matrices = getattr(found, key)
            np.testing.assert_allclose(matrices[min(t, len(matrices) - 1)], getattr(small, key), atol=1e-13)
        y, state = filt.run(u[t : t + 1], state, controls=now)
        np.testing.assert_allclose(found.y[t], y[0], atol=1e-13)


def numpy_lstm_jacobian(cell, h, c, u):
    """The equations, one frame at a time, and the next state."""
    n = cell.n_units
    a = np.asarray(cell.params["W"]) @ u + cell.U @ h + cell.params["b"]
    i, f, o = (1 / (1 + np.exp(-a[k * n : (k + 1) * n])) for k in (0, 1, 3))
    g = np.tanh(a[2 * n : 3 * n])
    new = f * c + i * g
    q = np.tanh(new)
    Ui, Uf, Ug, Uo = (cell.U[k * n : (k + 1) * n] for k in range(4))
    dc = (g * i * (1 - i))[:, None] * Ui + (c * f * (1 - f))[:, None] * Uf + (i * (1 - g * g))[:, None] * Ug
    s = o * (1 - q * q)
    dh = s[:, None] * dc + (q * o * (1 - o))[:, None] * Uo
    return np.block([[dh, np.diag(s * f)], [dc, np.diag(f)]]), o * q, new


@pytest.mark.parametrize("n", [1, 5, 8, 19])
def test_jacobians_of_an_lstm_by_hand(n):
    """Sizes of less than a vector, of one, and of some and a rest."""
    cell = LSTM(2, n, seed=3).replace(b=np.random.default_rng(0).standard_normal(4 * n))
    u = np.random.default_rng(1).standard_normal((30, 2))
    J, B = cell.jacobians(u, cell.rest_state())
    h, c = np.zeros(n), np.zeros(n)
    for t in range(30):
        expected, new, c = numpy_lstm_jacobian(cell, h, c, u[t])
        np.testing.assert_allclose(J[t], expected, atol=1e-14)
        h = new
    step = 1e-6
    for k in range(2):
        nudge = step * np.eye(2)[k]
        _, state = cell.run(u[:-1])
        ends = [cell.run(u[-1:] + s * nudge, state)[1].ravel() for s in (1, -1)]
        np.testing.assert_allclose(B[-1][:, k], (ends[0] - ends[1]) / (2 * step), atol=1e-9)


def _bent(a, r, s, p):
    x = a[0] + r[0] + p[0] * s[0]
    if x < 0:
        x = 0.1 * x
    return (x,)


def _bent_adjoint(a, r, s, p, d):
    g = d[0] if a[0] + r[0] + p[0] * s[0] >= 0 else 0.1 * d[0]
    return (g,), (g,), (g * p[0],), (g * s[0],)


class Bent(Cell):
    """A unit that branches takes numbers, but no vectors; and it has a parameter of its own."""

    stages = (Stage(_bent, _bent_adjoint, n_gates=1, n_out=1),)
    unit_params = ("leak",)


def test_jacobians_of_a_cell_whose_unit_branches():
    rng = np.random.default_rng(0)
    cell = Bent(1, 8, seed=1).replace(leak=rng.uniform(0, 1, 8))
    u = rng.standard_normal((20, 1))
    J, B = cell.jacobians(u, cell.rest_state())
    h = np.zeros(8)
    for t in range(20):
        x = cell.params["W"][:, 0] * u[t, 0] + cell.U @ h + cell.params["leak"] * h
        slope = np.where(x >= 0, 1, 0.1)
        np.testing.assert_allclose(J[t], slope[:, None] * (cell.U + np.diag(cell.params["leak"])), atol=1e-14)
        np.testing.assert_allclose(B[t], slope[:, None] * cell.params["W"], atol=1e-14)
        h = slope * x


def test_pieces_are_the_whole_and_stay_small():
    cell = LSTM(1, 19)
    u = np.random.default_rng(0).standard_normal(2000)
    largest, frames = 0, []
    for piece in stability.jacobians(cell, u):
        largest = max(largest, piece.A.nbytes)
        frames.append(piece.A[:, :, ::7].copy())
    assert len(frames) > 5 and largest < 3e6
    J, _ = cell.jacobians(u[:, None], cell.rest_state())
    np.testing.assert_allclose(np.concatenate(frames), J[:, :, ::7], atol=1e-15)


def test_jacobians_against_torch():
    torch = pytest.importorskip("torch")
    cell = LSTM(1, 5, seed=4)
    W, U, b = (torch.tensor(np.array(v)) for v in (cell.params["W"], cell.U, cell.params["b"]))

    def step(x, u):
        h, c = x[:5], x[5:]
        i, f, g, o = (W @ u + U @ h + b).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * c.tanh(), c])

    x, u = torch.tensor(np.random.default_rng(0).uniform(-1, 1, 10)), torch.tensor([0.3], dtype=torch.float64)
    J, B = torch.func.jacrev(step, argnums=(0, 1))(x, u)
    ours = cell.jacobians(u.numpy()[None], cell.rest_state().unravel(x.numpy()))
    np.testing.assert_allclose(ours[0][0], J.numpy(), atol=1e-14)
    np.testing.assert_allclose(ours[1][0], B.numpy(), atol=1e-14)


# ---- frozen poles


@pytest.mark.parametrize("every", [1, 3])
def test_frozen_poles_are_those_of_each_frame(every):
    filt = LSTM(1, 5, seed=1) >> Dense(5, 1) >> StateVariable("lowpass", cutoff_hz=2000, q=2, sample_rate=48000)
    u = np.random.default_rng(0).standard_normal(20)
    controls = {"cutoff_hz": np.linspace(1000, 4000, 20)}
    frozen = stability.frozen_poles(filt, u, every=every, controls=controls)
    np.testing.assert_array_equal(frozen.index, np.arange(0, 20, every))
    state = filt.rest_state()
    for t in range(20):
        now = {"cutoff_hz": controls["cutoff_hz"][t]}
        if t % every == 0:
            expected = filt.poles(state, u[t : t + 1], controls=now)
            np.testing.assert_allclose(frozen.poles[t // every], expected, atol=1e-12)
        _, state = filt.run(u[t : t + 1], state, controls=now)


def test_frozen_poles_of_units_that_remember_alone():
    """A Jacobian of many blocks, and those at rest of a delay network, which are the same at all frames."""
    cell = LSTM(1, 9, recurrence="diagonal")
    u = np.random.default_rng(0).standard_normal(12)
    J, _ = cell.jacobians(u[:, None], cell.rest_state())
    frozen = stability.frozen_poles(cell, u).poles
    np.testing.assert_allclose(np.sort_complex(frozen), np.sort_complex(np.linalg.eigvals(J)), atol=1e-13)
    assert np.all(np.diff(np.abs(frozen), axis=1) <= 1e-15)
    network = FeedbackDelayNetwork([7, 11, 13, 17], t60_s=0.01, sample_rate=48000)
    for row in stability.frozen_poles(network, np.zeros(5)).poles:
        np.testing.assert_array_equal(row, network.poles())
    assert stability.frozen_poles(gain(2.0), np.zeros(5)).poles.shape == (5, 0)


def distance_of_sets(a, b):
    """The largest distance of partners, in the pairing that makes the sum of distances smallest."""
    far = np.abs(a[:, None] - b)
    return np.max(far[linear_sum_assignment(far)])


@pytest.mark.parametrize("n_units", [37, 38, 40, 101])
def test_frozen_poles_on_both_sides_of_lapacks_change_of_method(n_units):
    cell = LSTM(1, n_units)
    u = np.random.default_rng(0).standard_normal(30)
    J, _ = cell.jacobians(u[:, None], cell.rest_state())
    frozen = stability.frozen_poles(cell, u).poles
    assert np.all(np.diff(np.abs(frozen), axis=1) <= 1e-15)
    for found, matrix in zip(frozen, J, strict=True):
        assert distance_of_sets(found, np.linalg.eigvals(matrix)) < 1e-12


def test_double_shift_against_closed_forms():
    rng = np.random.default_rng(0)
    n = 90
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    exact = rng.uniform(-1, 1, n)
    turns = np.exp(1j * rng.uniform(0.1, 3, n // 2))
    rotations = block_diag(*([[z.real, -z.imag], [z.imag, z.real]] for z in turns))
    triangle, badly_scaled = np.triu(rng.standard_normal((n, n))), 10.0 ** rng.uniform(-8, 8, n)
    ring = np.roll(np.eye(n), 1, axis=0)
    for matrix, poles, tolerance in [
        (Q @ np.diag(exact) @ Q.T, exact, 1e-13),
        (Q @ rotations @ Q.T, np.concatenate([turns, turns.conj()]), 1e-13),
        (triangle, np.diag(triangle), 0),  # which balancing alone solves
        (badly_scaled[:, None] * (Q @ np.diag(exact) @ Q.T) / badly_scaled, exact, 1e-12),
        (ring, np.exp(2j * np.pi * np.arange(n) / n), 1e-13),
    ]:
        before = matrix.copy()
        assert distance_of_sets(trajectories._spectra(np.array([matrix]))[0], poles) <= tolerance
        np.testing.assert_array_equal(matrix, before)
    for scale in (1e-200, 1e200):  # these go another way
        found = trajectories._spectra(np.array([scale * ring]))[0] / scale
        assert distance_of_sets(found, np.exp(2j * np.pi * np.arange(n) / n)) < 1e-12
    with pytest.raises(np.linalg.LinAlgError):
        trajectories._spectra(np.full((1, n, n), np.nan))


def test_frozen_poles_of_a_linear_filter_are_found_once(monkeypatch):
    network = FeedbackDelayNetwork([7, 11, 13, 17], t60_s=0.01, sample_rate=48000)
    calls = []
    monkeypatch.setattr(trajectories, "_eigenvalues", lambda A, delays: calls.append(1) or network.poles())
    for every in (1, 7):
        assert stability.frozen_poles(network, np.zeros(20000), every=every).poles.shape[1] == network.n_states
    assert len(calls) == 2


def test_poles_keep_their_places():
    t = np.linspace(0.1, 1, 50)[:, None]
    ways = np.hstack([0.9 * np.exp(2j * t), 0.9 * np.exp(-2j * t), 0.8 - 1.5 * t + 0.1j, -0.7 + 0j * t])
    rng = np.random.default_rng(0)
    shuffled = np.array([row[rng.permutation(4)] for row in ways])
    shuffled[0] = ways[0]
    np.testing.assert_array_equal(stability.track(shuffled), ways)
    np.testing.assert_array_equal(np.sort_complex(shuffled), np.sort_complex(ways))  # nothing is changed
    with pytest.raises(ParameterError, match="n_poles"):
        stability.track(np.zeros(3))


# ---- Lyapunov exponents of maps: published and exact values


@pytest.mark.parametrize(
    ("system", "n_frames", "expected", "tolerance"),
    [
        (Logistic, 20000, [math.log(2)], 3e-3),
        (Tent, 1000, [math.log(2)], 1e-12),
        (Henon, 40000, [0.41922, -1.62319], 4e-3),
        (Cat, 2000, [0.962424, -0.962424], 1e-6),
        (Baker, 1000, [math.log(2), -math.log(2)], 1e-12),
        (Standard, 40000, [0.10497, -0.10497], 1.5e-2),
        (FoldedTowel, 20000, [0.4323, 0.3716, -3.296], 1.2e-2),
    ],
)
def test_exponents_of_maps(system, n_frames, expected, tolerance):
    found = stability.lyapunov_spectrum(system(), n_frames=n_frames, check=True)
    np.testing.assert_allclose(found.exponents, expected, atol=tolerance)
    # directions may part by 1e10 from one orthonormalisation to the next
    assert abs(found.exponents.sum() - found.log_det) < (1e-10 if found.every == 1 else 1e-5)
    assert found.n_frames == n_frames - n_frames // 10
    assert not found.conditional
    if system is Henon:
        exact = stability.lyapunov_spectrum(system(), n_frames=2000, every=1).exponents
        assert abs(exact.sum() - math.log(0.3)) < 1e-12
        assert abs(found.dimension - 1.2583) < 3e-3
        assert abs(found.entropy - 0.41922) < 4e-3
    if system is FoldedTowel:
        assert abs(found.dimension - (2 + (0.4323 + 0.3716) / 3.296)) < 5e-3


def test_a_filter_that_only_linearises_gets_the_same_exponents():
    class Plain(Henon):
        _jacobians = rnndsp.Filter._jacobians

    fast, slow = (stability.lyapunov_spectrum(system(), n_frames=300).exponents for system in (Henon, Plain))
    np.testing.assert_allclose(fast, slow, atol=1e-13)


@pytest.mark.parametrize("wrap", [lambda cell: cell >> Dense(9, 1), lambda cell: Dense(1, 1) >> cell])
def test_layers_without_states_change_no_exponent_and_cost_no_structure(wrap):
    cell = LSTM(1, 9, seed=2)
    u = np.random.default_rng(0).standard_normal(60)
    whole = wrap(cell)
    pieces = list(stability.jacobians(whole, u))
    assert {piece.mixed for piece in pieces} == {9}
    A = np.concatenate([piece.A for piece in pieces])
    found = stability.lyapunov_spectrum(whole, u, transient=20, every=1).exponents
    # whatever the directions to start from, their volume grows by |det J|
    assert abs(found.sum() - np.mean(np.linalg.slogdet(A[20:])[1])) < 1e-10
    product = np.linalg.multi_dot(A[20::-1])
    last = stability.gradient_norms(whole, u, 21, n_starts=1).state_db[0, -1]
    assert abs(last - 20 * np.log10(np.linalg.norm(product, 2))) < 1e-9
    both = list(stability.jacobians(cell >> Dense(9, 1) >> LSTM(1, 3), u))
    assert {piece.mixed for piece in both} == {0}


def test_confidence_intervals_cover_the_truth():
    """ln 2 for the logistic map: 95 % intervals, from many starts."""
    rng = np.random.default_rng(0)
    covered, width = 0, []
    for x in rng.uniform(0.05, 0.95, 60):
        cell = Logistic()
        state = cell.rest_state().unravel(np.array([x]))
        (low, high), *_ = stability.lyapunov_spectrum(cell, n_frames=3000, state=state).interval
        covered += low <= math.log(2) <= high
        width.append(high - low)
    assert covered >= 50
    assert 0 < np.mean(width) < 0.1


# ---- and of filters


def test_exponents_of_a_chaotic_lstm():
    cell, state = chaotic_lstm()
    found = stability.lyapunov_spectrum(cell, n_frames=100000, state=state, every=1, check=True)
    np.testing.assert_allclose(found.exponents, [0.1696, -0.386, -1.675, -4.62], atol=6e-3)
    assert abs(found.exponents.sum() + 6.51) < 6e-3
    assert abs(found.exponents.sum() - found.log_det) < 1e-10
    assert found.interval[0, 0] < 0.1696 < found.interval[0, 1]
    quick = stability.lyapunov_spectrum(cell, n_frames=100000, state=state, every=3)
    np.testing.assert_allclose(quick.exponents, found.exponents, atol=1e-4)
    assert found.index[-1] == found.n_frames == 90000
    np.testing.assert_allclose(found.trace[-1], found.exponents, atol=1e-12)


@pytest.mark.parametrize(("sign", "expected"), [(1, [0.0695, -0.514]), (-1, [0.220, -0.542])])
def test_exponents_of_a_chaotic_gru(sign, expected):
    cell, state = chaotic_gru(sign)
    found = stability.lyapunov_spectrum(cell, n_frames=100000, state=state, every=1, check=True)
    np.testing.assert_allclose(found.exponents, expected, atol=4e-3)
    assert abs(found.exponents.sum() - found.log_det) < 1e-10


def test_exponents_of_a_random_network_below_chaos():
    """x = g J tanh(x), g < 1: ln |eigenvalues of g J|, all of them at the fixed point 0."""
    n = 20
    U = 0.8 * np.random.default_rng(0).standard_normal((n, n)) / math.sqrt(n)
    cell = Elman(1, n).replace(U=U)
    found = stability.lyapunov_spectrum(cell, n_frames=20000)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(U))))[::-1]
    np.testing.assert_allclose(found.exponents, expected, atol=2e-3)
    assert abs(found.exponents.sum() - np.linalg.slogdet(U)[1]) < 1e-5


@pytest.mark.parametrize(("g", "low", "high"), [(1.5, 0.060, 0.063), (2.0, 0.147, 0.153), (3.0, 0.299, 0.305)])
def test_exponents_of_a_random_network_in_chaos(g, low, high):
    """The largest one of 300 tanh units lies just below its mean-field value, .0652, .1547, .3102."""
    n = 300
    rng = np.random.default_rng(1)
    cell = Elman(1, n).replace(U=g * rng.standard_normal((n, n)) / math.sqrt(n))
    state = cell.rest_state().unravel(rng.uniform(-1, 1, n))
    found = stability.lyapunov_spectrum(cell, n_frames=4000, n_exponents=1, state=state)
    assert low - 0.012 < found.exponents[0] < high + 0.012


def test_exponents_of_linear_filters_are_their_poles():
    found = stability.lyapunov_spectrum(linear(np.diag([1.1, 0.8])), n_frames=400, every=1)
    np.testing.assert_allclose(found.exponents, np.log([1.1, 0.8]), atol=1e-12)
    assert found.interval[0, 0] <= found.exponents[0] <= found.interval[0, 1]
    assert abs(found.dimension - 1 - math.log(1.1) / -math.log(0.8)) < 1e-12
    rng = np.random.default_rng(2)
    network = DelayStateSpace(
        0.6 * rng.standard_normal((3, 3)), np.ones((3, 1)), np.ones((1, 3)), np.zeros((1, 1)), [1, 4, 6]
    )
    found = stability.lyapunov_spectrum(network, n_frames=20000, check=True)
    np.testing.assert_allclose(found.exponents, np.log(np.abs(network.poles())), atol=3e-3)
    assert abs(found.exponents.sum() - found.log_det) < 1e-6
    same = stability.lyapunov_spectrum(network.expand(), n_frames=20000)
    np.testing.assert_allclose(same.exponents, found.exponents, atol=2e-3)


def test_long_delay_lines_cost_no_matrix():
    network = FeedbackDelayNetwork([1031, 1327, 1523, 1871], t60_s=0.5, sample_rate=48000)
    found = stability.lyapunov_spectrum(network, n_frames=20000, n_exponents=2)
    assert abs(found.exponents_per_s[0] + math.log(1000) / 0.5) < 0.1


@pytest.mark.parametrize("n", [1, 5, 19])
def test_exponents_by_hand(n):
    """A QR decomposition of NumPy's at every frame."""
    cell = LSTM(1, n, seed=2)
    u = np.random.default_rng(0).standard_normal(600)
    found = stability.lyapunov_spectrum(cell, u, transient=200, every=1)
    h, c, Q, total = (
        np.zeros(n),
        np.zeros(n),
        np.linalg.qr(np.random.default_rng(5).standard_normal((2 * n, 2 * n)))[0],
        0,
    )
    for t in range(600):
        J, h, c = numpy_lstm_jacobian(cell, h, c, u[t : t + 1])
        Q, R = np.linalg.qr(J @ Q)
        total = total + np.log(np.abs(np.diag(R))) * (t >= 200)
    np.testing.assert_allclose(found.exponents.sum(), np.sum(total) / 400, atol=1e-9)
    np.testing.assert_allclose(found.exponents, np.sort(total / 400)[::-1], atol=8e-3)
    read_out = stability.lyapunov_spectrum(cell >> Dense(n, 1), u, transient=200, every=1)
    np.testing.assert_allclose(read_out.exponents, found.exponents, atol=1e-9)


def test_exponents_given_an_input():
    """A loud input tames chaos: conditional exponents depend on it."""
    cell, state = chaotic_lstm()
    driven = cell.replace(W=np.ones((8, 1)))
    u = np.random.default_rng(0).standard_normal(3000)
    found = stability.lyapunov_spectrum(driven, 3 * u, state=state)
    assert found.conditional and found.interval[0, 1] < 0
    assert not stability.lyapunov_spectrum(driven, np.full(50, 0.1), state=state).conditional
    whole = stability.lyapunov_spectrum(driven, u, state=state, every=1)
    part = stability.lyapunov_spectrum(driven, u, state=state, n_exponents=2, every=1)
    np.testing.assert_allclose(part.exponents, whole.exponents[:2], atol=2e-3)
    windows = stability.finite_time_exponents(driven, u, 300, n_exponents=4, state=state)
    assert windows.shape == (9, 4)
    # the transient is a tenth, just as one window here: the windows' mean is the spectrum
    np.testing.assert_allclose(windows.mean(axis=0), whole.exponents, atol=1e-3)
    assert windows.std(axis=0).min() > 1e-3


def test_directions_that_are_lost_at_once():
    """Dead ReLU units: -inf for each, and the others are those of the units that live."""
    rng = np.random.default_rng(0)
    U = 0.2 * np.abs(rng.standard_normal((6, 6)))
    b = np.array([1, 1, 1, -1e3, 1, -1e3])
    cell = Elman(1, 6, activation="relu").replace(U=U, b=b)
    found = stability.lyapunov_spectrum(cell, n_frames=4000, check=True)
    alive = np.flatnonzero(b > 0)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(U[np.ix_(alive, alive)]))))[::-1]
    np.testing.assert_allclose(found.exponents[:4], expected, atol=5e-3)
    assert np.all(np.isneginf(found.exponents[4:])) and np.isneginf(found.log_det)
    assert not np.isnan(found.trace).any()


def test_a_singular_start_is_no_loss():
    """An LSTM without biases has a singular Jacobian at zero, which is met once and then never again."""
    cell = LSTM(1, 4, seed=2)
    u = np.append(0, np.random.default_rng(0).standard_normal(2000))
    assert abs(np.linalg.det(cell.jacobians(u[:1, None], cell.rest_state())[0][0])) < 1e-30
    found = stability.lyapunov_spectrum(cell, u, check=True)
    assert np.isfinite(found.exponents).all()
    assert found.every > 1 and abs(found.exponents.sum() - found.log_det) < 1e-3
    exact = stability.lyapunov_spectrum(cell, u, every=1, check=True)
    assert abs(exact.exponents.sum() - exact.log_det) < 1e-9
    np.testing.assert_allclose(found.exponents, exact.exponents, atol=1e-3)


def test_what_few_exponents_do_not_tell():
    grows = linear(np.diag([1.5, 1.2, 0.5]))
    found = stability.lyapunov_spectrum(grows, n_frames=100, n_exponents=2)
    assert np.isnan(found.dimension) and np.isnan(found.entropy) and np.isnan(found.log_det)
    assert stability.lyapunov_spectrum(grows, n_frames=100).dimension == pytest.approx(
        2 + math.log(1.8) / math.log(2), abs=1e-3
    )
    assert stability.lyapunov_spectrum(linear(0.5), n_frames=100).dimension == 0


# ---- gradients and memory


def test_gradients_of_a_linear_filter():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((4, 4))
    A *= 0.9 / np.max(np.abs(np.linalg.eigvals(A)))
    filt = linear(A, rng.standard_normal((4, 2)), rng.standard_normal((3, 4)))
    found = stability.gradient_norms(filt, np.zeros((400, 2)), 300, n_starts=3)
    assert found.lag[0] == 0 and found.lag[-1] == 300 and found.start.tolist() == [0, 50, 99]
    for place, k in enumerate(found.lag):
        power = np.linalg.matrix_power(A, k)
        norms = [np.linalg.norm(power, 2), np.linalg.norm(filt.C @ power, 2)]
        np.testing.assert_allclose(found.state_db[:, place], 20 * np.log10(norms[0]), atol=1e-8)
        np.testing.assert_allclose(found.output_db[:, place], 20 * np.log10(norms[1]), atol=1e-8)
        if k:
            norm = np.linalg.norm(filt.C @ np.linalg.matrix_power(A, k - 1) @ filt.B, 2)
            np.testing.assert_allclose(found.input_db[:, place], 20 * np.log10(norm), atol=1e-8)
        else:
            assert np.all(np.isneginf(found.input_db[:, place]))
    assert abs(found.exponent - math.log(0.9)) < 2e-3 and found.verdict == "vanishing"


@pytest.mark.parametrize(("size", "verdict"), [(0.9, "vanishing"), (0.9999, "in between"), (1.1, "exploding")])
def test_verdicts_about_gradients(size, verdict):
    turn = size * np.array([[0.6, -0.8], [0.8, 0.6]])
    found = stability.gradient_norms(linear(turn), np.zeros(20001), 20000 if size < 1 else 2000, n_starts=1)
    assert found.verdict == (verdict if size != 0.9999 else "in between")
    assert abs(found.exponent - math.log(size)) < 1e-9  # also where the product leaves the range of floats


def test_gradients_of_delay_lines_are_those_of_the_expanded_filter():
    rng = np.random.default_rng(1)
    network = DelayStateSpace(
        0.4 * rng.standard_normal((3, 3)),
        rng.standard_normal((3, 1)),
        rng.standard_normal((2, 3)),
        [[1], [0]],
        [1, 5, 3],
    )
    a, b = (stability.gradient_norms(f, np.zeros(60), 40, n_starts=2) for f in (network, network.expand()))
    np.testing.assert_allclose(a.state_db, b.state_db, atol=1e-9)
    np.testing.assert_allclose(a.output_db, b.output_db, atol=1e-9)
    np.testing.assert_allclose(a.input_db, b.input_db, atol=1e-9)


def test_gradients_are_those_of_back_propagation():
    filt = LSTM(1, 8, seed=3) >> Dense(8, 1)
    u = np.random.default_rng(0).standard_normal(60)
    found = stability.gradient_norms(filt, u, 40, n_starts=2)
    for row, t in enumerate(found.start):
        for place, k in enumerate(found.lag):
            dy = np.zeros(t + k + 1)
            dy[-1] = 1
            gradient = filt.tape(u[: t + k + 1]).adjoint(dy)
            np.testing.assert_allclose(found.input_db[row, place], 20 * np.log10(np.abs(gradient.u[t])), atol=1e-7)
    assert abs(found.exponent - stability.lyapunov_spectrum(filt, u, n_exponents=1).exponents[0]) < 0.05


def test_memory_horizon_is_the_length_of_an_impulse_response():
    found = stability.memory_horizon(linear(0.99, sample_rate=48000), np.zeros(4000), n_starts=3)
    # 1 at lag 1 and .99^(k-1) after: at or below 1/1000 from k - 1 = 687.3 on
    assert found.samples == math.ceil(math.log(1000) / -math.log(0.99)) + 1
    assert found.ms == pytest.approx(1000 * found.samples / 48000)
    assert stability.memory_horizon(linear(0.99), np.zeros(4000), drop_db=20).samples == 231
    assert stability.memory_horizon(linear(1.0), np.zeros(400)).samples == np.inf
    assert stability.memory_horizon(gain(2.0), np.zeros(400)).samples == 1
    assert stability.memory_horizon(rnndsp.delay(7), np.zeros(400)).samples == 8
    assert stability.memory_horizon(linear(0.99), np.zeros(600)).ms is None
    assert np.all(np.isinf(stability.memory_horizon(linear(0.99), np.zeros(600)).frames))
    network = FeedbackDelayNetwork([31, 37, 41, 43], t60_s=0.02, sample_rate=48000)
    h = np.abs(rnndsp.response.impulse_response(network, 4000)[:, 0])
    expected = np.flatnonzero(h > 1e-3 * h.max())[-1] + 1
    assert stability.memory_horizon(network, np.zeros(8000), n_starts=2).samples == expected


def test_memory_horizon_along_audio():
    filt = LSTM(1, 8, seed=3) >> Dense(8, 1)
    u = np.random.default_rng(0).standard_normal(600)
    found = stability.memory_horizon(filt, u, n_starts=3)
    for t, frames in zip(found.start, found.frames, strict=True):
        nudge = 1e-7 * np.eye(600)[t]
        effect = np.abs(filt(u + nudge) - filt(u - nudge))[t:]
        assert frames == np.flatnonzero(effect > 1e-3 * effect.max())[-1] + 1


def test_memory_capacity():
    found = stability.memory_capacity(rnndsp.delay(12), 40, n_frames=2000)
    np.testing.assert_allclose(found.capacity, np.arange(41) < 12, atol=1e-6)
    assert abs(found.total - 12) < 1e-6
    # of one state, (1 - a^2) a^2k
    found = stability.memory_capacity(linear(0.8), n_frames=20000)
    np.testing.assert_allclose(found.capacity[:5], 0.36 * 0.64 ** np.arange(5), atol=0.02)
    assert abs(found.total - 1) < 0.05
    cell = LSTM(1, 5, seed=1)
    found = stability.memory_capacity(cell, n_frames=3000)
    assert 2 < found.total < cell.n_states
    loud = stability.memory_capacity(cell, n_frames=3000, level=20.0)
    assert loud.total < found.total


# ---- two runs


def test_sensitivity_of_a_linear_filter():
    A = np.array([[0.9, 5], [0, 0.8]])
    found = stability.sensitivity(linear(A), np.random.default_rng(0).standard_normal(100), size=1e-3, n_runs=5)
    push = np.random.default_rng(0).standard_normal((5, 2))
    push *= 1e-3 / np.linalg.norm(push, axis=1, keepdims=True)
    for place, k in enumerate(found.index):
        expected = np.linalg.norm(push @ np.linalg.matrix_power(A, k).T, axis=1)
        np.testing.assert_allclose(found.distance[:, place], expected, atol=1e-13)
    assert found.index[0] == 0 and found.index[-1] == 100


def test_sensitivity_of_chaos():
    cell, state = chaotic_lstm()
    _, state = cell.run(np.zeros(500), state)
    found = stability.sensitivity(cell, np.zeros(3000), state, size=1e-12, n_runs=16)
    grown = np.log(np.median(found.distance, axis=0))
    some = (found.index > 10) & (found.index < 100)
    assert abs(np.polyfit(found.index[some], grown[some], 1)[0] - 0.17) < 0.06
    assert np.median(found.distance[:, -1]) > 0.05


def test_contraction_rate():
    T = np.random.default_rng(0).standard_normal((3, 3))
    A = T @ np.diag([0.9, 0.5, -0.3]) @ np.linalg.inv(T)
    P = np.linalg.inv(T @ T.T)
    u = np.random.default_rng(1).standard_normal(300)
    found = stability.contraction_rate(linear(A, sample_rate=1000), u, metric=P)
    assert abs(found.norm - 0.9) < 1e-12
    assert abs(found.rate - math.log(0.9)) < 0.01 and abs(found.factor - 0.9) < 0.01
    assert abs(found.db_per_s - 20000 * found.rate / math.log(10)) < 1e-9
    plain = stability.contraction_rate(linear(A), u)
    assert abs(plain.norm - np.linalg.norm(A, 2)) < 1e-12
    W = solve_discrete_lyapunov(A.T, np.eye(3))
    assert stability.contraction_rate(linear(A), u, metric=W).norm < 1
    assert stability.contraction_rate(rnndsp.delay(1), u).rate == -np.inf
    cell, state = chaotic_lstm()
    assert stability.contraction_rate(cell, np.zeros(50), state, size=1e-6).rate > 0


# ---- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: stability.jacobians(f, np.zeros((3, 2))), "signal of shape"),
        (lambda f: stability.jacobians(f, np.zeros((2, 3, 1))), "one voice"),
        (lambda f: stability.jacobians(f, []), "empty"),
        (lambda f: stability.jacobians(f, ["a"]), "real numbers"),
        (lambda f: stability.jacobians(f, np.zeros(3), linear(0.5).rest_state()), "state of this filter"),
        (lambda f: stability.jacobians(f, np.zeros(3), "rest"), "state of this filter"),
        (lambda f: stability.jacobians(f, np.zeros(3), controls={"gain": 1}), "unknown controls"),
        (lambda f: stability.jacobians(Framed.spectral_gain(np.ones(9), n_fft=16), np.zeros(64)), "works in frames"),
        (lambda f: stability.frozen_poles(f, np.zeros(3), every=0), "every"),
        (lambda f: stability.lyapunov_spectrum(f, n_frames=0), "n_frames"),
        (lambda f: stability.lyapunov_spectrum(f, np.zeros(9), n_frames=10), "n_frames=10"),
        (lambda f: stability.lyapunov_spectrum(f, n_frames=100, transient=99), "transient"),
        (lambda f: stability.lyapunov_spectrum(f, n_frames=100, every=91), "every"),
        (lambda f: stability.lyapunov_spectrum(f, n_frames=100, n_exponents=5), "n_exponents=5"),
        (lambda f: stability.lyapunov_spectrum(gain(1.0), n_frames=100), "no state"),
        (lambda f: stability.finite_time_exponents(f, np.zeros(19), 10), "window=10"),
        (lambda f: stability.gradient_norms(f, np.zeros(10), 10), "max_lag=10"),
        (lambda f: stability.gradient_norms(rnndsp.delay(2000), np.zeros(10), 5), "memory_horizon"),
        (lambda f: stability.memory_horizon(f, np.zeros(10), drop_db=0), "drop_db"),
        (lambda f: stability.memory_capacity(f, n_frames=5), "n_frames=5"),
        (lambda f: stability.memory_capacity(f, max_lag=100000), "n_frames=10000"),
        (lambda f: stability.memory_capacity(f, level=0), "level"),
        (lambda f: stability.memory_capacity(f, channel=1), "channel=1"),
        (lambda f: stability.memory_capacity(gain(1.0)), "states"),
        (lambda f: stability.sensitivity(f, np.zeros(10), size=0), "size"),
        (lambda f: stability.contraction_rate(f, np.zeros(10), metric=-np.eye(4)), "positive definite"),
        (lambda f: stability.contraction_rate(f, np.zeros(10), metric=np.eye(3)), "symmetric"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call(LSTM(1, 2))


def test_what_blows_up_says_so():
    with pytest.raises(NonFiniteError, match="input"):
        stability.jacobians(LSTM(1, 2), [0.0, np.nan])
    wild = Elman(1, 2, activation="relu").replace(U=1e200 * np.ones((2, 2)), b=np.ones(2))
    for call in (
        lambda: stability.lyapunov_spectrum(wild, n_frames=50),
        lambda: stability.frozen_poles(wild, np.zeros(50), every=5),
        lambda: stability.gradient_norms(wild, np.zeros(50), 10),
        lambda: stability.memory_horizon(wild, np.zeros(50)),
        lambda: stability.sensitivity(wild, np.zeros(50)),
        lambda: stability.contraction_rate(wild, np.zeros(50)),
    ):
        with pytest.raises(NonFiniteError, match=r"blew up|NaN or infinity"):
            call()


# ---- plots


@pytest.fixture
def ax():
    figure, axes = pyplot.subplots(layout="constrained")
    yield axes
    figure.canvas.draw()  # formatters and layout run now, and may not warn
    pyplot.close(figure)


def test_lyapunov_plots(ax):
    cell, state = chaotic_lstm()
    found = stability.lyapunov_spectrum(cell, n_frames=2000, state=state)
    bars = plots.lyapunov_plot(found, ax=ax)
    np.testing.assert_allclose([bar.get_height() for bar in bars], found.exponents)
    assert [bool(bar.get_hatch()) for bar in bars] == [True, False, False, False]
    assert "chaos" in ax.get_title()
    ax.clear()
    lines = plots.lyapunov_trace_plot(found, ax=ax)
    np.testing.assert_array_equal(lines[1].get_ydata(), found.trace[:, 1])
    dead = Elman(1, 3, activation="relu", sample_rate=8000).replace(b=np.array([1, -100, 1]), U=0.5 * np.eye(3))
    found = stability.lyapunov_spectrum(dead, n_frames=100)
    ax.clear()
    plots.lyapunov_plot(found, ax=ax)
    assert "1 lost at once" in ax.get_title() and ax.get_ylabel() == "nats a second"


def test_gradient_and_sensitivity_plots(ax):
    filt = linear(0.5 * np.eye(2), sample_rate=8000)
    norms = stability.gradient_norms(filt, np.zeros(60), 50)
    lines = plots.gradient_plot(norms, ax=ax)
    np.testing.assert_allclose(lines[0].get_ydata(), 20 * np.log10(0.5) * norms.lag[1:], atol=1e-9)
    np.testing.assert_allclose(lines[0].get_xdata(), norms.lag[1:] / 8000)
    assert "vanishing" in ax.get_title()
    ax.clear()
    runs = stability.sensitivity(filt, np.zeros(60), size=1.0)
    thin, median = plots.sensitivity_plot(runs, ax=ax)
    assert len(thin) == 8
    np.testing.assert_allclose(median.get_ydata(), 0.5 ** runs.index[1:])
    ax.clear()
    plots.sensitivity_plot(stability.sensitivity(rnndsp.delay(1), np.zeros(5)), ax=ax)
    assert "have met" in ax.get_title()


def test_ways_of_frozen_poles(ax):
    """Two poles that pass each other: each is joined with itself."""
    t = np.linspace(0, 1, 30)
    ways = np.stack([0.5 + 0.4 * t, 0.5 - 0.4 * t + 0.01j * np.sin(9 * t)], axis=1)
    frozen = stability.FrozenPoles(np.arange(30), np.array([z[np.argsort(-abs(z))] for z in ways]))
    plots.frozen_pole_plot(frozen, ax=ax)
    (drawn,) = [c for c in ax.collections if hasattr(c, "get_segments")]
    steps = np.array(drawn.get_segments())
    assert len(steps) == 58
    assert np.max(np.linalg.norm(steps[:, 1] - steps[:, 0], axis=1)) < 0.02
    loops = Feedback(Knobs(LSTM(2, 3) >> Dense(3, 1), {"drive": 0.5}), 0.5, delay=2)
    plots.frozen_pole_plot(stability.frozen_poles(loops, np.linspace(-1, 1, 8)), ax=ax)

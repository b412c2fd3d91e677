"""Operating points. Oracles: closed forms, textbook maps, the index theorem, finite differences, real captures."""

import itertools

import matplotlib
import numpy as np
import pytest
from test_captures import capture

from rnndsp import Feedback, Framed, Knobs, StateSpace, delay, gain, plots
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.filters import GRU, LSTM, SOS, Dense, Elman, FeedbackDelayNetwork
from rnndsp.stability import (
    PointKind,
    continue_points,
    cycles,
    fixed_points,
    floquet_multipliers,
    poles,
    rest_states,
)
from rnndsp.stability.points import _Family, classify
from rnndsp.stability.resting import Orbits, polish
from rnndsp.state import Field

matplotlib.use("Agg")

R = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
# Textbook maps (x, u, r) -> next x, and their Jacobians; r is a control.
MAPS = {
    "logistic": (1, lambda x, u, r: r * x * (1 - x), lambda x, u, r: [[r * (1 - 2 * x[0])]]),
    "tanh": (1, lambda x, u, r: np.tanh(r * x + u), lambda x, u, r: [[r * (1 - np.tanh(r * x[0] + u) ** 2)]]),
    "turned": (1, lambda x, u, r: np.tanh(-r * x + u), lambda x, u, r: [[-r * (1 - np.tanh(u - r * x[0]) ** 2)]]),
    "henon": (
        2,
        lambda x, u, r: np.stack([1 - r * x[0] ** 2 + x[1], 0.3 * x[0]]),
        lambda x, u, r: [[-2 * r * x[0], 1], [0.3, 0]],
    ),
    "rotor": (2, lambda x, u, r: np.tanh(r * (R @ x)), lambda x, u, r: r * R * (1 - np.tanh(r * R @ x) ** 2)[:, None]),
    "ring": (1, lambda x, u, r: x + 0.3 * (1 - x**2 - r**2), lambda x, u, r: [[1 - 0.6 * x[0]]]),
    "circle": (1, lambda x, u, r: (x + r) % 1, lambda x, u, r: [[1.0]]),
}


class Map(Filter):
    """x[t] = f(x[t-1], u[t], r), y = x."""

    def __init__(self, kind, r, low=-10.0, high=10.0):
        super().__init__({"kind": kind, "r": r, "low": low, "high": high}, {})

    def _setup(self):
        self._no_children()
        self.n, self.f, self.slope = MAPS[self.config["kind"]]
        self.n_inputs, self.n_outputs, self.fields = 1, self.n, (Field("x", (self.n,)),)
        self.controls = (Control("r", self.config["r"], self.config["low"], self.config["high"]),)

    def _advance(self, u, state, y):
        x = state.rows.T
        for t in range(u.shape[1]):
            x = self.f(x, u[:, t, 0], u[:, t, 1])
            y[:, t] = x.T
        state.rows[...] = x.T

    def _linearize(self, state, u):
        J = np.array(self.slope(state.vector, *u), float).reshape(self.n, self.n)
        return StateSpace(J, np.zeros((self.n, 1)), J, np.zeros((self.n, 1)))

    def _record(self, u, state):
        raise NotImplementedError

    _adjoint = _record


def elman(U, W=None, **config):
    U = np.atleast_2d(np.asarray(U, float))
    return Elman(1, len(U), **config).replace(U=U, W=np.ones((len(U), 1)) if W is None else W)


NON_ESP = [[2.4925796234, -0.885183332], [5.6930810185, -1.9394910237]]


def outputs(points):
    return np.sort([point.y[0] for point in points])


# ---- fixed points


@pytest.mark.parametrize(
    ("w", "x", "slope"),
    [(1.5, 0.8585596366, 0.394313), (2.0, 0.9575040241, 0.166372), (3.0, 0.9949015285, 0.0305128)],
)
def test_published_points_of_one_unit(w, x, slope):
    """x = tanh(w x), reference table 2.9; 0 has the slope w."""
    found = fixed_points(elman(w))
    np.testing.assert_allclose([p.y[0] for p in found], [-x, x, 0], atol=1e-10)
    np.testing.assert_allclose([p.poles[0] for p in found], [slope, slope, w], rtol=2e-6)
    assert [p.kind for p in found] == [PointKind.STABLE_NODE, PointKind.STABLE_NODE, PointKind.UNSTABLE_NODE]
    assert max(p.residual for p in found) < 1e-12
    # the small-signal filter: C = J, D = B, so the gain at 0 Hz is the slope of the output by a constant input
    dc = {round(p.y[0], 3): p.linear.frequency_response(0.0)[0, 0, 0].real for p in found}
    for point in fixed_points(elman(w), [1e-6]):
        y = min((p.y[0] for p in found), key=lambda y: abs(y - point.y[0]))
        np.testing.assert_allclose((point.y[0] - y) / 1e-6, dc[round(y, 3)], rtol=1e-4)


def test_a_spectral_radius_below_one_with_other_points():
    """Finding 8: rho(U) = 0.453, yet five fixed points, the published one stable."""
    found = fixed_points(elman(NON_ESP, [[1.0], [0.0]]))
    assert abs(abs(np.linalg.eigvals(NON_ESP)).max() - 0.453) < 1e-3
    kinds = [p.kind for p in found]
    assert kinds.count(PointKind.SADDLE) == 2 and kinds[0] == PointKind.STABLE_FOCUS and len(found) == 5
    stable = [p.y for p in found if p.kind.is_stable]
    assert any(np.allclose(y, [-0.83251, -0.99283], atol=5e-6) for y in stable)


@pytest.mark.parametrize("seed", range(6))
def test_index_sum_and_slopes_of_random_cells(seed):
    """A map of a ball into itself: the signs of det(I - J) over all fixed points sum to 1 (Brouwer, Lefschetz)."""
    rng = np.random.default_rng(seed)
    cell = [
        elman(2.2 * rng.standard_normal((3, 3))),
        GRU(1, 3, seed=seed).replace(U=4 * rng.standard_normal((9, 3)), b=rng.standard_normal(9)),
    ][seed % 2]
    u = rng.standard_normal(1)
    found = fixed_points(cell, u)
    signs = []
    for point in found:
        x = point.state.ravel()
        moved = cell.run(u[None], point.state)[1].ravel()
        assert np.max(np.abs(moved - x)) < 1e-12
        h = 1e-6 * np.eye(3)
        ends = [cell.run(np.tile(u, (3, 1, 1)), cell.rest_state((3,)).unravel(x + d))[1].ravel() for d in (h, -h)]
        J = (ends[0] - ends[1]).T / 2e-6
        signs.append(np.sign(np.linalg.det(np.eye(3) - J)))
        expected = np.linalg.eigvals(J)
        np.testing.assert_allclose(np.sort(np.abs(point.poles)), np.sort(np.abs(expected)), atol=1e-7)
        # what a nearby state does agrees with the kind
        start = cell.rest_state((8,)).unravel(x + 1e-6 * rng.standard_normal((8, 3)))
        size = abs(point.poles[0])
        far = np.abs(cell.run(np.broadcast_to(u, (8, 300, 1)), start)[0][:, -1] - point.y).max()
        if size < 0.95 or size > 1.1:
            assert (far < 1e-6) == point.kind.is_stable
    assert sum(signs) == 1, signs


def test_dc_of_a_composition_and_memoryless_parts():
    net = LSTM(1, 3, seed=4) >> Dense(3, 2, seed=1)
    (point,) = fixed_points(net, [0.7])
    y = net(np.full((20000, 1), 0.7))
    np.testing.assert_allclose(point.y, y[-1], atol=1e-12)
    (static,) = fixed_points(Dense(2, 1, seed=3), [0.5, -1.0])
    np.testing.assert_allclose(static.y, Dense(2, 1, seed=3)(np.array([[0.5, -1.0]]))[0])
    assert static.kind == PointKind.STABLE_NODE and static.poles.size == 0


@pytest.mark.parametrize("m", [1, 7, 1000])
def test_a_long_line_is_one_unknown(m):
    """y[t] = tanh(w y[t-m] + u): the fixed points of one unit, poles z^m = slope."""
    w, u = 2.0, 0.1
    loop = Feedback(Dense(1, 1, activation="tanh").replace(W=[[1.0]], b=[0.0]), w, delay=m)
    found = fixed_points(loop, [u], n_starts=16)
    expected = fixed_points(elman(w), [u])
    np.testing.assert_allclose(outputs(found), outputs(expected), atol=1e-12)
    for point in found:
        slope = w * (1 - point.y[0] ** 2)
        np.testing.assert_allclose(np.abs(point.poles), slope ** (1 / m), rtol=1e-9)
        assert point.state.size == m and np.ptp(point.state.ravel()) == 0
        assert (point.kind.is_stable) == (slope < 1)


def test_linear_filters_exactly():
    rng = np.random.default_rng(0)
    A, B, C_, D = (rng.standard_normal(s) for s in ((4, 4), (4, 2), (3, 4), (3, 2)))
    (point,) = fixed_points(StateSpace(A, B, C_, D), [0.3, -2.0])  # spectral radius 2.5: it repels
    x = np.linalg.solve(np.eye(4) - A, B @ [0.3, -2.0])
    np.testing.assert_allclose(point.state.ravel(), x, rtol=1e-10)
    np.testing.assert_allclose(point.y, C_ @ x + D @ [0.3, -2.0], rtol=1e-10)
    assert point.kind == PointKind.SADDLE
    network = FeedbackDelayNetwork([1031, 1327, 1523], t60_s=0.3, sample_rate=48000)
    (rest,) = fixed_points(network, [1.0])
    np.testing.assert_allclose(rest.y, network.linearize().frequency_response(0.0)[0, :, 0].real, rtol=1e-9)
    assert rest.kind.is_stable and rest.poles.size == 3881


def test_a_pole_at_one_is_a_continuum_or_nothing():
    integrator = StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]])
    (point,) = fixed_points(integrator)
    assert point.kind == PointKind.CONTINUUM and point.y[0] == 0
    assert fixed_points(integrator, [1.0]) == ()
    # a pole at 1 that the input does not reach
    A, b = np.diag([1.0, 0.5]), np.array([[0.0], [1.0]])
    (point,) = fixed_points(StateSpace(A, b, np.ones((1, 2)), [[0.0]]), [1.0])
    assert point.kind == PointKind.CONTINUUM
    np.testing.assert_allclose(point.state.ravel(), [0, 2], atol=1e-12)
    # a lossless loop turns, but z = 1 is no pole of it
    (point,) = fixed_points(Feedback(gain(1.0), -1.0, delay=3, allow_unstable=True))
    assert point.kind == PointKind.MARGINAL


def test_kinds():
    for multipliers, kind in [
        ([0.5, 0.2], "stable node"),
        ([-0.5, 0.2], "stable node"),
        ([0.5 + 0.1j, 0.5 - 0.1j], "stable focus"),
        ([0.9, 0.5 + 0.1j, 0.5 - 0.1j], "stable node"),
        ([1.5, 1.2], "unstable node"),
        ([1.5j, -1.5j, 1.2], "unstable focus"),
        ([1.5, 0.2], "saddle"),
        ([1.5j, -1.5j, 0.2], "saddle"),
        ([-1.0, 0.2], "marginal"),
        ([1 - 1e-12], "marginal"),
        ([1 - 1e-8], "stable node"),
        ([1.5, 1.0], "unstable node"),
        ([0.5 + 1e-9j, 0.5 - 1e-9j], "stable node"),  # a double one, split by rounding
        ([], "stable node"),
    ]:
        assert classify(np.array(multipliers, complex)) == kind, multipliers


def test_points_without_a_pull_are_left_out():
    """h = tanh(h) has one fixed point, 0, at which the slope is 1: nothing tells it from its neighbours."""
    assert fixed_points(elman(1.0)) == ()
    (point,) = fixed_points(elman(-1.0))  # a flip: pulled at, but on the circle
    assert point.kind == PointKind.MARGINAL
    slow = LSTM(1, 1).replace(W=np.zeros((4, 1)), U=np.zeros((4, 1)), b=[-40, 30, 0, 0])
    assert fixed_points(slow) == ()


def test_large_states_are_found_as_exactly_as_small_ones():
    cell = elman(np.diag([0.999, 0.5]), activation="identity").replace(b=[1000.0, 1.0])
    (point,) = fixed_points(cell)
    np.testing.assert_allclose(point.y, [1e6, 2.0], rtol=1e-9)
    assert polish(cell, cell.rest_state()) is not None


def test_a_map_that_blows_up_from_most_places():
    """Logistic: from outside of [0, 1] it goes to minus infinity; fixed points 0 and 1 - 1/r, slopes r and 2 - r."""
    found = fixed_points(Map("logistic", 3.3))
    np.testing.assert_allclose(outputs(found), [0, 1 - 1 / 3.3], atol=1e-12)
    np.testing.assert_allclose([p.poles[0] for p in found], [2 - 3.3, 3.3], rtol=1e-10)


def test_henon_points():
    a, b = 1.4, 0.3
    found = fixed_points(Map("henon", a))
    root = np.sqrt((1 - b) ** 2 + 4 * a)
    np.testing.assert_allclose(outputs(found), np.array([-(1 - b) - root, -(1 - b) + root]) / (2 * a), rtol=1e-12)
    for point in found:
        assert point.kind == PointKind.SADDLE
        np.testing.assert_allclose(np.prod(point.poles), -b, rtol=1e-10)


def test_rest_states_are_fixed_points_of_silence():
    cell = elman(NON_ESP, [[1.0], [0.0]])
    found = fixed_points(cell)
    for state in rest_states(cell):
        assert min(np.max(np.abs(p.state.ravel() - state.ravel())) for p in found) < 1e-9


# ---- cycles


def test_cycles_of_the_logistic_map():
    """At r = 4 all are known: 1, 2, 3 and 6 of periods 2 to 5, x = sin^2(pi k / (2^p +- 1)), multipliers +-2^p."""
    logistic = Map("logistic", 4.0)
    for period, n in ((2, 1), (3, 2), (4, 3)):
        found = cycles(logistic, period=period, n_starts=100)
        assert len(found) == n
        exact = np.sin(np.pi * np.arange(1, 2**period) / np.array([[2**period - 1], [2**period + 1]])) ** 2
        for cycle in found:
            assert cycle.period == period and cycle.kind == PointKind.UNSTABLE_NODE
            np.testing.assert_allclose(abs(cycle.multipliers[0]), 2.0**period, rtol=1e-8)
            assert max(np.min(np.abs(exact - x)) for x in cycle.y[:, 0]) < 1e-10
            np.testing.assert_allclose(logistic.run(np.zeros((period, 1)), cycle.states[0])[0], cycle.y, atol=1e-10)


def test_two_cycle_of_the_logistic_map():
    """Multiplier 4 + 2 r - r^2."""
    r = 3.4
    (cycle,) = cycles(Map("logistic", r), period=2)
    root = np.sqrt((r - 3) * (r + 1))
    np.testing.assert_allclose(np.sort(cycle.y[:, 0]), (r + 1 + np.array([-root, root])) / (2 * r), rtol=1e-12)
    np.testing.assert_allclose(cycle.multipliers, [4 + 2 * r - r**2], rtol=1e-9)
    assert cycle.kind == PointKind.STABLE_NODE


def test_two_cycle_of_henon():
    """Sum (1-b)/a and product ((1-b)^2 - a)/a^2 of its first coordinates; the multipliers' product is b^2."""
    a, b = 1.4, 0.3
    (cycle,) = cycles(Map("henon", a), period=2)
    x = cycle.y[:, 0]
    np.testing.assert_allclose([x.sum(), x.prod()], [(1 - b) / a, ((1 - b) ** 2 - a) / a**2], rtol=1e-10)
    np.testing.assert_allclose(np.prod(cycle.multipliers).real, b**2, rtol=1e-9)
    assert cycle.kind == PointKind.SADDLE


def test_flip_cycle_of_a_unit():
    """x = tanh(-w x): the fixed points of tanh(w x) taken in turn; multiplier slope^2; no lower or higher period."""
    (cycle,) = cycles(elman(-1.5), period=2)
    np.testing.assert_allclose(np.abs(cycle.y[:, 0]), 0.8585596366, atol=1e-10)
    np.testing.assert_allclose(cycle.multipliers, [0.394313025499**2], rtol=1e-9)
    assert cycles(elman(-1.5), period=4) == cycles(elman(-0.9), period=2) == cycles(elman(1.5), period=2) == ()


def test_cycles_through_a_line():
    """y[t] = tanh(-w y[t-3]): the 2-cycle of one unit, as y[t-3] = y[t-1]; multipliers z^3 = slope, squared."""
    loop = Feedback(Dense(1, 1, activation="tanh").replace(W=[[1.0]], b=[0.0]), -1.5, delay=3)
    (cycle,) = cycles(loop, period=2, n_starts=24)
    np.testing.assert_allclose(np.abs(cycle.y[:, 0]), 0.8585596366, atol=1e-10)
    np.testing.assert_allclose(np.abs(cycle.multipliers), 0.394313025499 ** (2 / 3), rtol=1e-8)
    np.testing.assert_allclose(loop.run(np.zeros((2, 1)), cycle.states[0])[0], cycle.y, atol=1e-12)


def test_cycles_of_lines_longer_than_a_frame():
    """y[t] = tanh(1.5 y[t-2]): even and odd frames rest apart, in different ones of the three fixed points."""
    loop = Feedback(Dense(1, 1, activation="tanh").replace(W=[[1.0]], b=[0.0]), 1.5, delay=2)
    found = cycles(loop, period=2, n_starts=24)
    assert [cycle.kind for cycle in found] == [PointKind.STABLE_NODE, PointKind.SADDLE, PointKind.SADDLE]
    slope = 0.394313025499
    for cycle, expected in zip(found, ([slope, slope], [1.5, slope], [1.5, slope]), strict=True):
        np.testing.assert_allclose(cycle.multipliers, expected, rtol=1e-9)


def test_derivative_of_a_motion_by_differences():
    """Lines of several lengths, also longer than the period."""
    filt = Feedback(Elman(1, 2, seed=1) >> Dense(2, 1, seed=2), -0.8, delay=5) >> delay(2) >> elman(1.5)
    orbits = Orbits(filt, [0.3], None, 3)
    v, h = np.random.default_rng(0).standard_normal((3, orbits.delays.size)), 1e-6
    assert sorted(orbits.delays) == [1, 1, 1, 2, 5]
    expected = np.empty((v.size, v.size))
    for k, d in enumerate(h * np.eye(v.size)):
        ahead, behind = v + d.reshape(v.shape), v - d.reshape(v.shape)
        change = (ahead - orbits.step(ahead)[0]) - (behind - orbits.step(behind)[0])
        expected[:, k] = change.ravel() / (2 * h)
    np.testing.assert_allclose(orbits.loop(orbits.linears(v)), expected, atol=1e-8)


# ---- continuation


@pytest.mark.parametrize("w", [1.2, 2.0, 3.0])
def test_folds_of_a_unit_in_its_input(w):
    """x = tanh(w x + u) folds where x^2 = 1 - 1/w, u = artanh x - w x."""
    x = np.sqrt(1 - 1 / w)
    fold = w * x - np.arctanh(x)
    (branch,) = continue_points(elman(w), 0, [-2, 2])
    assert branch.ends == ("range", "range") and branch.name == "input 0"
    assert [point.kind for point in branch.special] == ["fold", "fold"]
    np.testing.assert_allclose(sorted(point.parameter for point in branch.special), [-fold, fold], rtol=1e-9)
    for point in branch.special:
        np.testing.assert_allclose(branch.parameter[point.index], point.parameter)
        np.testing.assert_allclose(abs(branch.states[point.index, 0]), x, rtol=1e-6)
        assert abs(point.multiplier - 1) < 1e-8
    # every point of the curve, and where it is stable: between the folds and beyond them
    u, y = branch.parameter, branch.y[:, 0]
    np.testing.assert_allclose(y, np.tanh(w * y + u), atol=1e-11)
    np.testing.assert_allclose(branch.poles[:, 0], w * (1 - y**2), atol=1e-9)
    inner = np.abs(y) < x - 1e-4
    assert not branch.stable[inner].any() and branch.stable[np.abs(y) > x + 1e-4].all() and inner.sum() > 5
    assert set(u[[0, -1]]) == {-2.0, 2.0}


def test_no_fold_below_the_cusp():
    """The two folds meet in a cusp at w = 1."""
    (branch,) = continue_points(elman(0.95), 0, [-1, 1])
    assert branch.special == () and branch.stable.all()


def test_folds_in_a_knob_at_the_limits_of_its_range():
    """The same unit, its input a knob: at the ends of the range the slope by the knob is taken from within."""
    unit = Knobs(Elman(2, 1).replace(U=[[2.0]], W=[[0.0, 1.0]]), {"bias": 0.0}, low=-1, high=1)
    x = np.sqrt(0.5)
    fold = 2 * x - np.arctanh(x)
    (branch,) = continue_points(unit, "bias", [-1, 1])
    np.testing.assert_allclose(sorted(point.parameter for point in branch.special), [-fold, fold], rtol=1e-9)
    assert set(branch.parameter[[0, -1]]) == {-1.0, 1.0}
    family = _Family(unit, "bias", [-1, 1], None, None)
    for bias in (-1.0, 0.3, 1.0):
        np.testing.assert_allclose(family.slope(np.array([0.2, bias])), 1 - np.tanh(0.4 + bias) ** 2, rtol=1e-5)


def test_pitchfork():
    """x = tanh(r x) at r = 1: the zero branch loses its stability, the two others come out of it."""
    found = continue_points(Map("tanh", 1.0), "r", [0.5, 2.0])
    straight, bent = sorted(found, key=lambda branch: np.ptp(branch.states))
    assert np.max(np.abs(straight.states)) == 0
    (point,) = straight.special
    assert point.kind == "branch point" and abs(point.parameter - 1) < 1e-9
    np.testing.assert_array_equal(straight.stable, straight.parameter < 1)
    np.testing.assert_allclose(sorted(bent.states[[0, -1], 0]), [-0.9575040241, 0.9575040241], atol=1e-9)
    (point,) = bent.special
    assert point.kind == "branch point" and abs(point.parameter - 1) < 1e-6


def test_flip():
    """x = tanh(-r x) at r = 1: multiplier -1, and the cycle of period 2 beyond only."""
    turned = Map("turned", 1.5)
    (branch,) = continue_points(turned, "r", [0.5, 1.5])
    (point,) = branch.special
    assert point.kind == "flip" and abs(point.parameter - 1) < 1e-9 and abs(point.multiplier + 1) < 1e-8
    np.testing.assert_array_equal(branch.stable, branch.parameter < 1)
    assert len(cycles(turned, period=2, controls={"r": 1.01})) == 1
    assert cycles(turned, period=2, controls={"r": 0.99}) == ()


def test_neimark_sacker():
    """x = tanh(r R x) with a rotation R by 0.7 at r = 1: a pair exp(+-0.7j), and an oscillation beyond."""
    (branch,) = continue_points(Map("rotor", 1.0), "r", [0.5, 1.5])
    (point,) = branch.special
    assert point.kind == "Neimark-Sacker" and abs(point.parameter - 1) < 1e-9
    assert abs(point.multiplier - np.exp(0.7j)) < 1e-8
    for row, r in zip(branch.poles, branch.parameter, strict=True):
        np.testing.assert_allclose(np.sort_complex(row), r * np.exp([-0.7j, 0.7j]), atol=1e-9)
    assert np.ptp(np.angle(branch.poles), axis=0).max() < 1e-9  # each column keeps to one of the pair


def test_logistic_branches():
    """0 and 1 - 1/r cross at r = 1; the second flips at r = 3."""
    found = continue_points(Map("logistic", 2.0), "r", [0.5, 3.5])
    special = sorted((round(point.parameter, 5), point.kind) for branch in found for point in branch.special)
    assert special == [(1.0, "branch point"), (1.0, "branch point"), (3.0, "flip")]


def test_henon_fold():
    """Two fixed points meet at a = -(1-b)^2 / 4; the attracting one flips at a = 3 (1-b)^2 / 4."""
    (branch,) = continue_points(Map("henon", 0.1), "r", [-0.2, -0.05])
    (point,) = branch.special
    assert point.kind == "fold" and abs(point.parameter + 0.7**2 / 4) < 1e-9
    found = continue_points(Map("henon", 0.1), "r", [0.1, 0.5])
    (point,) = (point for branch in found for point in branch.special)
    assert len(found) == 2 and point.kind == "flip" and abs(point.parameter - 3 * 0.7**2 / 4) < 1e-9


def test_a_closed_curve():
    """x^2 + r^2 = 1: stable on the upper half, two folds at r = +-1."""
    (branch,) = continue_points(Map("ring", 0.0), "r", [-2, 0, 2])
    assert branch.ends == ("closed", "closed")
    np.testing.assert_allclose(branch.states[:, 0] ** 2 + branch.parameter**2, 1, atol=1e-10)
    assert sorted((point.kind, round(point.parameter, 9)) for point in branch.special) == [("fold", -1), ("fold", 1)]
    np.testing.assert_array_equal(branch.stable, branch.states[:, 0] > 1e-6)


def test_the_kink_of_a_relu():
    """x = relu(a u - 1.5 x): 0 below u = 0, where the slope of x jumps to -1.5; a bend too sharp is where it ends."""
    (branch,) = continue_points(elman(-1.5, [[0.1]], activation="relu"), 0, [-1, 1])
    (point,) = branch.special
    assert point.kind == "jump" and abs(point.parameter) < 1e-9 and branch.ends == ("range", "range")
    found = continue_points(elman(-1.5, [[5.0]], activation="relu"), 0, [-1, 1])
    assert len(found) == 2 and all("lost" in branch.ends for branch in found)
    assert max(abs(branch.parameter).min() for branch in found) < 1e-5  # both come as far as the kink


def test_linear_branch():
    """The output is the gain at 0 Hz times the level, and no pole moves."""
    filt = SOS([[1.0, 0.3, 0.2, 1.0, -1.2, 0.7]])
    (branch,) = continue_points(filt, 0, [-1, 1])
    dc = filt.linearize().frequency_response(0.0)[0, 0, 0].real
    np.testing.assert_allclose(branch.y[:, 0], dc * branch.parameter, atol=1e-9)
    np.testing.assert_allclose(np.sort_complex(branch.poles[7]), np.sort_complex(np.roots([1, -1.2, 0.7])), atol=1e-9)
    assert branch.special == () and np.max(np.abs(np.diff(branch.parameter))) < 0.1
    assert continue_points(StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]]), 0, [0, 1]) == ()  # a continuum
    (static,) = continue_points(Dense(1, 1, activation="tanh").replace(W=[[2.0]], b=[0.1]), 0, [-1, 1])
    np.testing.assert_allclose(static.y[:, 0], np.tanh(2 * static.parameter + 0.1), rtol=1e-12)


# ---- periodic drive


def test_floquet_multipliers_of_a_linear_filter():
    """eig(A)^p, whatever the drive; the response is the phasor's."""
    rng = np.random.default_rng(1)
    A = rng.standard_normal((4, 4))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    filt = StateSpace(A, rng.standard_normal((4, 1)), rng.standard_normal((1, 4)), [[0.3]])
    p = 7
    w = 2 * np.pi / p
    found = floquet_multipliers(filt, np.cos(w * np.arange(p)))
    expected = np.linalg.eigvals(A) ** p
    assert max(np.min(np.abs(found.multipliers - z)) for z in expected) < 1e-10
    H = filt.frequency_response(w)[0, 0, 0]
    np.testing.assert_allclose(found.y[:, 0], (H * np.exp(1j * w * np.arange(p))).real, atol=1e-10)
    assert found.stable and found.repeats == 1
    network = FeedbackDelayNetwork([3, 5, 7], t60_s=0.01, sample_rate=8000)
    found = floquet_multipliers(network, [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(np.abs(found.multipliers), np.sort(np.abs(poles(network)) ** 4)[::-1], rtol=1e-8)


@pytest.mark.parametrize("cell", [elman(1.5), LSTM(1, 2, seed=3) >> Dense(2, 1, seed=0)])
def test_floquet_multipliers_by_differences(cell):
    """A sine drive: the Jacobian of the map of a whole period, by central differences."""
    p = 25
    u = 0.8 * np.sin(2 * np.pi * np.arange(p) / p)[:, None]
    found = floquet_multipliers(cell, u)
    np.testing.assert_allclose(cell.run(u, found.state)[1].ravel(), found.state.ravel(), atol=1e-12)
    np.testing.assert_allclose(cell(np.tile(u, (400, 1)))[-p:], found.y, atol=1e-9)
    n, h = found.state.size, 1e-5
    ends = [
        cell.run(np.tile(u, (n, 1, 1)), cell.rest_state((n,)).unravel(found.state.ravel() + d * np.eye(n)))[1].ravel()
        for d in (h, -h)
    ]
    expected = np.linalg.eigvals((ends[0] - ends[1]).T / (2 * h))
    np.testing.assert_allclose(np.sort(np.abs(found.multipliers)), np.sort(np.abs(expected)), rtol=1e-4, atol=1e-9)
    assert found.stable and found.repeats == 1 and found.residual < 1e-12


def test_a_response_that_repels_is_told_from_the_one_that_the_run_comes_to():
    """x = tanh(-2 x): at rest it repels with -2, the run goes to a cycle of two periods."""
    cell = elman(-2.0)
    start = cell.rest_state().unravel([0.01])
    found = floquet_multipliers(cell, [0.0], start)
    assert not found.stable and found.repeats == 2
    np.testing.assert_allclose(found.multipliers, [-2.0], rtol=1e-9)
    cycle = floquet_multipliers(cell, [0.0, 0.0], start)
    np.testing.assert_allclose(cycle.multipliers, [0.166372087752**2], rtol=1e-9)
    assert cycle.stable and cycle.repeats == 1
    chaotic = floquet_multipliers(Map("logistic", 4.0), [0.0], Map("logistic", 4.0).rest_state().unravel([0.3]))
    assert chaotic.repeats == 0 and not chaotic.stable


def test_a_run_that_does_not_settle_is_refused():
    """x + 0.618 modulo 1 has no response of any period."""
    turning = Map("circle", (np.sqrt(5) - 1) / 2)
    with pytest.raises(ParameterError, match="quasi-periodic"):
        floquet_multipliers(turning, [0.0, 0.0])
    with pytest.raises(ParameterError, match=r"after 2 periods; give that many, np\.tile"):
        floquet_multipliers(Map("circle", 0.5), [0.0])
    wild = elman(5 * np.random.default_rng(0).standard_normal((30, 30)) / np.sqrt(30))
    with pytest.raises(ParameterError, match="chaotic"):  # the product of 4000 Jacobians leaves the range of floats
        floquet_multipliers(wild, 0.1 * np.sin(2 * np.pi * np.arange(4000) / 4000))
    with pytest.raises(NonFiniteError):
        floquet_multipliers(elman(1.5, activation="relu"), [1.0])


# ---- bad input


def test_bad_input_is_refused():
    cell = elman(1.5)
    for call in (
        lambda: fixed_points(cell, [np.nan]),
        lambda: fixed_points(cell, [1.0, 2.0]),
        lambda: fixed_points(cell, "loud"),
        lambda: fixed_points(cell, n_starts=-1),
        lambda: fixed_points(cell, controls={"drive": 0.5}),
        lambda: fixed_points(Map("tanh", 1.0), controls={"r": [1.0, 2.0]}),
        lambda: fixed_points(Map("tanh", 1.0, low=-np.inf, high=np.inf), controls={"r": np.inf}),
        lambda: fixed_points(Framed.spectral_gain(np.ones(9), n_fft=16)),
        lambda: fixed_points(LSTM(1, 1100)),
        lambda: cycles(cell, period=1),
        lambda: cycles(cell, period=5000),
        lambda: cycles(delay(2000), period=2),
        lambda: continue_points(cell, "drive", [0, 1]),
        lambda: continue_points(cell, 1, [0, 1]),
        lambda: continue_points(cell, 0, [1, 1]),
        lambda: continue_points(cell, 0, [0, np.inf]),
        lambda: continue_points(cell, 0, "all"),
        lambda: continue_points(Map("tanh", 1.0, high=2.0), "r", [0, 3]),
        lambda: continue_points(delay(1000), 0, [0, 1]),
        lambda: floquet_multipliers(cell, np.zeros((0, 1))),
        lambda: floquet_multipliers(cell, np.zeros((4, 2))),
        lambda: floquet_multipliers(cell, "sine"),
        lambda: floquet_multipliers(delay(2000), [1.0]),
        lambda: floquet_multipliers(Framed.spectral_gain(np.ones(9), n_fft=16), [1.0]),
    ):
        with pytest.raises(ParameterError):
            call()
    other = LSTM(1, 2).rest_state()
    with pytest.raises(ParameterError):
        polish(cell, other)
    single = LSTM(1, 2).run(np.ones(50, np.float32))[1]
    np.testing.assert_allclose(polish(LSTM(1, 2), single).ravel(), 0, atol=1e-12)
    empty = floquet_multipliers(gain(2.0), [1.0, -1.0])
    assert empty.stable and empty.y[:, 0].tolist() == [2.0, -2.0]
    assert fixed_points(elman(2.0, activation="relu"), [1.0]) == ()  # the only solution of x = 2 x + 1 is negative


# ---- a real capture


def test_ts9_folds_between_one_and_two_rest_states(data_path):
    """One stable point at knob 0 and 1, two and a saddle at 0.5: one curve that folds near 0.45 and 0.62."""
    path = data_path / "models" / "guitarml" / "NeuralPi_TS9.json"
    if not path.is_file():
        pytest.skip(f"no capture: {path} is absent")
    model = capture(path)
    kinds = {k: [p.kind for p in fixed_points(model, controls={"knob1": k}, n_starts=24)] for k in (0.0, 0.5, 1.0)}
    assert all(len(kinds[k]) == 1 and kinds[k][0].is_stable for k in (0.0, 1.0))
    assert [kind.is_stable for kind in kinds[0.5]] == [True, True, False] and kinds[0.5][2] == PointKind.SADDLE
    (branch,) = continue_points(model, "knob1", [0.0, 1.0], n_starts=8)
    low, high = sorted(point.parameter for point in branch.special)
    assert [point.kind for point in branch.special] == ["fold", "fold"]
    assert abs(low - 0.4494606) < 1e-6 and abs(high - 0.6168917) < 1e-6
    # in the middle the curve passes the same points that the search finds
    crossing = np.flatnonzero(np.diff(np.sign(branch.parameter - 0.5)))
    assert branch.stable[crossing].tolist() == [True, False, True]
    for knob, n in ((low - 1e-4, 1), (low + 1e-4, 3)):
        assert len(fixed_points(model, controls={"knob1": knob}, n_starts=24)) == n, knob
    period = 45  # about 1 kHz
    drive = 0.1 * np.sin(2 * np.pi * np.arange(period) / period)
    response = floquet_multipliers(model, drive, controls={"knob1": 0.0})
    assert response.stable and 0 < abs(response.multipliers[0]) < 1


# ---- pictures


def test_phase_portrait(ax):
    cell = elman(NON_ESP, [[1.0], [0.0]])
    found = fixed_points(cell)
    drawn = plots.phase_portrait(cell, points=found, n_frames=40, ax=ax)
    stable = np.array([p.y for p in found if p.kind.is_stable])
    np.testing.assert_allclose(drawn.points["stable"].get_xydata(), stable)
    assert drawn.points["stable"].get_markerfacecolor() != drawn.points["saddle"].get_markerfacecolor() == "white"
    assert len(drawn.points["saddle"].get_xydata()) == 2 and "unstable" not in drawn.points
    way = drawn.trajectories[3].get_xydata()
    for here, there in itertools.pairwise(way):
        np.testing.assert_allclose(np.tanh(cell.U @ here), there, atol=1e-12)
    # arrows point where the next state lies
    x, step = np.column_stack([drawn.field.X, drawn.field.Y]), np.column_stack([drawn.field.U, drawn.field.V])
    going = np.tanh(x @ cell.U.T) - x
    size = np.linalg.norm(going, axis=1)
    np.testing.assert_allclose(step[size > 0], (going / size[:, None])[size > 0], atol=1e-9)


def test_phase_portrait_of_many_states(ax):
    net = LSTM(1, 4, seed=1) >> Dense(4, 1)
    drawn = plots.phase_portrait(net, n_frames=30, ax=ax)
    assert drawn.field is None and len(drawn.points["stable"].get_xydata()) == 1
    assert "principal component" in ax.get_xlabel()
    chosen = plots.phase_portrait(LSTM(1, 4, seed=1), states=(0, 5), n_frames=5, ax=ax)
    assert ax.get_xlabel() == "h[0]" and ax.get_ylabel() == "c[1]" and len(chosen.trajectories) == 16
    for wrong in ((0, 8), (0, 1, 2)):
        with pytest.raises(ParameterError):
            plots.phase_portrait(LSTM(1, 4, seed=1), states=wrong)
    with pytest.raises(ParameterError):
        plots.phase_portrait(elman(1.5))


def test_continuation_plot(ax):
    (branch,) = continue_points(elman(2.0), 0, [-1, 1])
    drawn = plots.continuation_plot(branch, ax=ax)
    assert len(drawn.stable) == 2 and len(drawn.unstable) == 1
    assert drawn.stable[0].get_linestyle() != drawn.unstable[0].get_linestyle()
    ends = np.sort(drawn.unstable[0].get_xdata()[[0, -1]])  # dashed from fold to fold
    np.testing.assert_allclose(ends, [-0.5328399754, 0.5328399754], atol=1e-9)
    np.testing.assert_allclose(np.sort(drawn.special["fold"].get_xdata()), ends)
    pieces = np.concatenate([line.get_xydata() for line in (*drawn.stable, *drawn.unstable)])
    np.testing.assert_allclose(pieces[:, 1], np.tanh(2 * pieces[:, 1] + pieces[:, 0]), atol=1e-9)
    radius = plots.continuation_plot([branch], quantity="radius", ax=ax)
    assert max(radius.stable[0].get_ydata()) <= 1 + 1e-8 <= max(radius.unstable[0].get_ydata())
    for wrong in ({"quantity": "phase"}, {"output": 1}):
        with pytest.raises(ParameterError):
            plots.continuation_plot(branch, **wrong)
    with pytest.raises(ParameterError):
        plots.continuation_plot([])


def test_pole_locus_plot(ax):
    (branch,) = continue_points(Map("rotor", 1.0), "r", [0.5, 1.5])
    drawn = plots.pole_locus_plot(branch, sample_rate=48000, ax=ax)
    assert len(drawn.ways) == 2
    inside = drawn.poles.get_offsets() @ [1, 1j]
    np.testing.assert_allclose(np.abs(inside), drawn.poles.get_array(), atol=1e-9)  # |pole| = r, the colour
    assert np.abs(drawn.outside.get_offsets() @ [1, 1j]).min() >= 1 - 1e-10
    assert len(inside) + len(drawn.outside.get_offsets()) == branch.poles.size


def test_floquet_plot(ax):
    found = floquet_multipliers(elman(-2.0), [0.0], elman(-2.0).rest_state().unravel([0.01]))
    fading, lasting = plots.floquet_plot(found, ax=ax)
    np.testing.assert_allclose(lasting.get_xdata(), [-2.0])
    assert len(fading.get_xdata()) == 0 and "repeats after 2 periods" in ax.get_title()
    fading, _ = plots.floquet_plot(floquet_multipliers(elman(0.5), [1.0, -1.0]), sample_rate=48000, ax=ax)
    assert len(fading.get_xdata()) == 1 and any("Hz" in text.get_text() for text in ax.texts)


def test_rest_states_take_the_kernels_of_run():
    cell = Elman(1, 3)
    loop = cell._loop(cell._shape(np.dtype(float), "units"))
    before = set(loop.signatures)
    rest_states(cell)
    assert all(signature[0].mutable for signature in set(loop.signatures) - before), "compiled for a read-only input"

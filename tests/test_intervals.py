"""Intervals and boxes. Oracles: rational arithmetic, extended precision, sampled units, Jacobians and runs."""

from fractions import Fraction

import numpy as np
import pytest

from rnndsp import Cell, Stage, _intervals
from rnndsp._intervals import Interval, affine, continuous, hull, meet
from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.filters import GRU, LSTM, Elman
from rnndsp.stability._boxes import Matrix, jacobian, reach, stage_boxes


def leaky(a, r, s, p):
    leak = sigmoid(p[0])
    return (s[0] + leak * (tanh(a[0] + r[0]) - s[0]),)


def leaky_adjoint(a, r, s, p, d):
    leak, g = sigmoid(p[0]), tanh(a[0] + r[0])
    dgate = d[0] * leak * (1 - g * g)
    return (dgate,), (dgate,), (d[0] * (1 - leak),), (d[0] * (g - s[0]) * leak * (1 - leak),)


class LeakyCell(Cell):
    stages = (Stage(leaky, leaky_adjoint, n_gates=1, n_out=1),)
    unit_params = ("leak",)
    saturating = True


CELLS = {
    "elman": lambda **k: Elman(2, 3, **k),
    "elman relu": lambda **k: Elman(2, 3, activation="relu", **k),
    "elman identity": lambda **k: Elman(2, 3, activation="identity", **k),
    "lstm": lambda **k: LSTM(2, 3, **k),
    "lstm diagonal": lambda **k: LSTM(2, 3, recurrence="diagonal", **k),
    "gru after": lambda **k: GRU(2, 3, **k),
    "gru before": lambda **k: GRU(2, 3, reset="before", **k),
    "leaky": lambda **k: LeakyCell(2, 3, **k),
}


def random_cell(make, rng, scale=1.0):
    cell = make(seed=rng)
    return cell.replace(**{name: scale * rng.standard_normal(v.shape) for name, v in cell.params.items()})


def numbers(rng, n):
    """Of all sizes, exact zeros, ends of sigmoids and the least numbers that there are among them."""
    some = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)
    some[: n // 8] = rng.choice([0.0, 0.5, 1.0, -1.0, 5e-324, -5e-324, 1e-200, -1e-200, 1e-308], n // 8)
    rng.shuffle(some)
    return some


def intervals(rng, n, k):
    """Intervals, and numbers within each, ends included: shape (k, n)."""
    a, b = numbers(rng, n), numbers(rng, n)
    b = np.where(rng.random(n) < 0.2, a, b)
    lo, hi = np.minimum(a, b), np.maximum(a, b)
    within = np.clip(lo + rng.uniform(0, 1, (k, n)) * (hi - lo), lo, hi)
    within[0], within[1] = lo, hi
    return Interval(lo, hi), within


def holds(found, exact):
    """Whether rational numbers, an object array of shape (k, n), lie within."""
    return all(
        (lo == -np.inf or Fraction(lo) <= x) and (hi == np.inf or x <= Fraction(hi))
        for row in exact
        for lo, hi, x in zip(found.lo.tolist(), found.hi.tolist(), row, strict=True)
    )


rational = np.frompyfunc(Fraction, 1, 1)

OPERATIONS = {
    "sum": lambda x, y, z: x + y,
    "difference": lambda x, y, z: x - y,
    "product": lambda x, y, z: x * y,
    "negative": lambda x, y, z: -x,
    "magnitude": lambda x, y, z: abs(x),
    "square": lambda x, y, z: x * x,
    "bell": lambda x, y, z: x * (1 - x),
    "bell backwards": lambda x, y, z: (1 - x) * x,
    "blend": lambda x, y, z: z * (x - y) + y,
    "blend backwards": lambda x, y, z: y + (x - y) * z,
    "mixed up": lambda x, y, z: (1 - z) * (x - y) + x * (1 - y) - 3 * x,
    "half": lambda x, y, z: 0.5 * x + 0.5,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_holds_all_exact_results(name):
    rng = np.random.default_rng(0)
    operation = OPERATIONS[name]
    (x, xs), (y, ys) = intervals(rng, 400, 8), intervals(rng, 400, 8)
    ends = np.sort(rng.choice([0.0, 1.0, 0.3, 0.9, 1e-200], (2, 400)), axis=0)
    z, zs = Interval(*ends), ends[0] + rng.choice([0, 1], (8, 400)) * (ends[1] - ends[0])
    zs = np.clip(zs, *ends)
    assert holds(operation(x, y, z), operation(rational(xs), rational(ys), rational(zs)))


def test_maximum_minimum_and_sign():
    rng = np.random.default_rng(1)
    (x, xs), (y, ys) = intervals(rng, 300, 6), intervals(rng, 300, 6)
    for f in (np.maximum, np.minimum):
        assert np.all((f(x, y).lo <= f(xs, ys)) & (f(xs, ys) <= f(x, y).hi))
        assert np.all((f(x, 0.0).lo <= f(xs, 0)) & (f(xs, 0) <= f(x, 0.0).hi))
    assert np.all((np.sign(x).lo <= np.sign(xs)) & (np.sign(xs) <= np.sign(x).hi))


def test_tanh_and_sigmoid_in_extended_precision():
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.standard_normal(20000) * 10.0 ** rng.integers(-8, 2, 20000), [0, 800, -800, 5e-324]])
    true = np.tanh(points.astype(np.longdouble))
    found = np.tanh(Interval(points))
    assert np.all((found.lo <= true) & (true <= found.hi))
    assert np.max(found.hi - found.lo) < 1e-14 and np.all(np.abs(found.mag) <= 1)
    s = sigmoid(Interval(points))
    true = 1 / (1 + np.exp(-points.astype(np.longdouble)))
    assert np.all((s.lo <= true) & (true <= s.hi)) and np.max(s.hi - s.lo) < 1e-14
    assert np.all((s.lo >= 0) & (s.hi <= 1))  # or blends are lost where gates close


def test_what_is_known_of_the_same_number_makes_it_tight():
    x = Interval(-1.0, 2.0)
    assert (x * x).lo == 0 and abs((x * x).hi - 4) < 1e-14
    z = Interval(0.1, 0.8)
    assert abs((z * (1 - z)).hi - 0.25) < 1e-14 and abs((z * (1 - z)).lo - 0.09) < 1e-14
    assert (Interval(0.1, 0.8) * (1 - z)).hi > 0.7  # another number in the same range
    a, b = Interval(-1.0, 1.0), Interval(-1.0, 1.0)
    assert (z * (a - b) + b).within(Interval(-1.0, 1.0))
    assert fma(Interval(0.0, 1.0), a - b, b).within(Interval(-1.0, 1.0))  # also where a gate can stay open
    assert (z * (a - b) + Interval(-1.0, 1.0)).hi > 1.5
    x, y = Interval(-1.0, 1.0), Interval(-1.0, 1.0)
    x.summing(y, Interval(-0.5, 0.5))
    assert (x + y).hi == (y + x).hi == 0.5 and (x + Interval(-1.0, 1.0)).hi > 1.9


def test_infinite_ends():
    everything = Interval(-np.inf, np.inf)
    assert (0.0 * everything).mag == 0 and (everything * everything).lo == 0
    assert np.tanh(everything).within(Interval(-1.0, 1.0))
    assert sigmoid(everything).within(Interval(0.0, 1.0)) and everything.mid == 0
    half = Interval(np.array([1.0, 0.25]), np.array([np.inf, 0.5]))
    found = affine(np.array([[1.0, -1.0], [0.0, 2.0], [-1.0, 0.0]]), half, [0.5, 0.0, 0.0])
    assert found.lo[0] <= 1.0 and abs(found.lo[0] - 1.0) < 1e-12 and found.hi[0] == np.inf
    assert abs(found.lo[1] - 0.5) < 1e-12 and abs(found.hi[1] - 1.0) < 1e-12
    assert found.lo[2] == -np.inf and abs(found.hi[2] + 1) < 1e-12
    x = Interval([1e308]) + Interval([1e308])
    assert x.lo < np.inf and x.hi == np.inf
    assert not np.isnan((Interval([-1e308], [1e308]) * Interval([-1e308], [1e308])).lo).any()


def test_what_underflows_is_not_zero():
    small = Interval(1e-200)
    assert (small * small).hi > 0 and (small * -small).lo < 0 and (small * 1e-200).lo >= 0
    assert (0 * small).mag == 0


def test_set_operations():
    a, b = Interval([0.0, 1.0], [2.0, 2.0]), Interval([1.0, -1.0], [3.0, 0.5])
    assert hull(a, b).lo.tolist() == [0, -1] and hull(a, b).hi.tolist() == [3, 2]
    both = meet(a[:1], b[:1])
    assert both.lo == 1 and both.hi == 2 and meet(a, b) is None
    assert a.rad.min() >= 0.5 and a.mag.tolist() == [2, 2] and not a.within(b)


def test_affine_holds_the_exact_sum():
    rng = np.random.default_rng(3)
    for n in (1, 5, 40):
        M, b = rng.standard_normal((7, n)) * 10.0 ** rng.integers(-4, 4, (7, n)), rng.standard_normal(7)
        (x, xs) = intervals(rng, n, 6)
        found = affine(M, x, b)
        assert holds(found, (rational(M) @ rational(xs).T).T + rational(b))
        corner = np.where(M[0] > 0, x.hi, x.lo)
        assert found.hi[0] - float(rational(M[0]) @ rational(corner) + Fraction(b[0])) < 1e-10


def test_matrices_hold_the_exact_product_and_sum():
    rng = np.random.default_rng(4)
    for _ in range(20):
        mids, rads = rng.standard_normal((2, 5, 5)), rng.uniform(0, 0.1, (2, 5, 5)) * rng.integers(0, 2)
        one, two = (Matrix(mid, rad) for mid, rad in zip(mids, rads, strict=True))
        for found, f in ((one @ two, lambda a, b: a @ b), (one + two, lambda a, b: a + b)):
            for _ in range(4):
                some = [
                    rational(m) + rational(np.sign(rng.standard_normal((5, 5)))) * rational(r)
                    for m, r in zip(mids, rads, strict=True)
                ]
                exact = f(*some)
                assert np.all(abs(exact - rational(found.mid)) <= rational(found.rad))
                assert np.all(abs(exact) <= rational(found.mag))


# ---- units


def boxes(cell, rng, width):
    """A random box of states and inputs, and points in it, many at its ends."""
    n = cell.n_units
    made = []
    for size in (*[n] * len(cell.state_names), cell.n_inputs):
        middle, by = rng.uniform(-1, 1, size), width * rng.uniform(0, 1, size)
        where = np.clip(rng.uniform(-1.5, 1.5, (60, size)), -1, 1)
        made.append((Interval(middle - by, middle + by), middle + where * by))
    *state, (u, us) = made
    return tuple(s[0] for s in state), u, np.concatenate([s[1] for s in state], axis=1), us


def step(cell, x, u):
    """One sample in plain NumPy, for rows of states and inputs."""
    n = cell.n_units
    s = tuple(x.reshape(len(x), -1, n).swapaxes(0, 1))
    p = tuple(cell.params[name] for name in cell.unit_params)
    for stage, W, U, b, b_rec in cell._parts():
        a = (u @ W.T + b).reshape(len(x), -1, n).swapaxes(0, 1)
        mixed = np.tile(s[0], stage.n_gates) * U if U.ndim == 1 else s[0] @ U.T
        r = (mixed + b_rec).reshape(len(x), -1, n).swapaxes(0, 1)
        s = stage.unit(tuple(a), tuple(r), s, p)
    return np.concatenate(s, axis=1)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("width", [1e-9, 0.1, 1.0, 20.0])
def test_boxes_hold_all_that_units_do(name, width):
    rng = np.random.default_rng(5)
    for scale in (0.3, 3.0):
        cell = random_cell(CELLS[name], rng, scale)
        x, u, xs, us = boxes(cell, rng, width)
        *_, last = stage_boxes(cell, x, u)
        out = last.out()
        lo, hi = (np.concatenate([getattr(part, end) for part in out]) for end in ("lo", "hi"))
        y = step(cell, xs, us)
        room = 1e-12 * (1 + np.abs(y))
        assert np.all((lo - room <= y) & (y <= hi + room))
        J, B = jacobian(cell, x, u)
        for state, frame in zip(xs, us, strict=True):
            here = cell.rest_state().unravel(state)
            (A,), (into,) = cell.jacobians(frame[None], here)
            if name == "elman relu" and np.min(np.abs(step_before_relu(cell, state, frame))) < 1e-9:
                continue
            assert np.all(np.abs(A - J.mid) <= J.rad + 1e-12 * (1 + np.abs(A)))
            assert np.all(np.abs(into - B.mid) <= B.rad + 1e-12 * (1 + np.abs(into)))


def step_before_relu(cell, state, frame):
    return cell.params["W"] @ frame + cell.U @ state + cell.params["b"]


def inputs(rng, n_voices, n_frames, n_inputs, cell=None):
    """Within ±1: noise, squares of all periods, constants, switching."""
    u = rng.uniform(-1, 1, (n_frames, n_voices, n_inputs))
    t = np.arange(n_frames)[:, None, None]
    period = rng.integers(2, 60, (n_voices, n_inputs))
    square = np.where((t // period) % 2, 1.0, -1.0)
    steady = np.sign(rng.standard_normal((n_voices, n_inputs)))
    kind = np.arange(n_voices)[:, None] % 4
    return np.where(kind == 0, u, np.where(kind == 1, square, np.where(kind == 2, steady, np.sign(u))))


@pytest.mark.parametrize("name", CELLS)
def test_what_is_reached_stays_within_and_from_rest_at_every_sample(name):
    rng = np.random.default_rng(6)
    told = 0
    for scale in (0.1, 0.3, 0.5, 1.0, 2.0):
        cell = random_cell(CELLS[name], rng, scale)
        found = reach(cell, Interval(-np.ones(2), np.ones(2)))
        if found is None:
            assert "elman" in name and name != "elman"
            continue
        told += 1
        inner, ever = ([np.concatenate([getattr(part, end) for part in box]) for end in ("lo", "hi")] for box in found)
        u = inputs(rng, 48, 600, 2)
        # the input that pushes one unit up, and down, as far as its slopes at rest say
        (J,), (B,) = cell.jacobians(np.zeros((1, 2)), cell.rest_state())
        for k, row in enumerate(np.eye(len(J))[:3]):
            for frame in u[::-1]:
                frame[2 * k], frame[2 * k + 1] = np.sign(row @ B), -np.sign(row @ B)
                row = row @ J
        x = np.zeros((48, cell.n_states))
        x[24:, : cell.n_units] = rng.choice([-1.0, 1.0], (24, cell.n_units))
        for t, frame in enumerate(u):
            x = step(cell, x, frame)
            assert np.all((ever[0] - 1e-12 <= x[:24]) & (x[:24] <= ever[1] + 1e-12))
            if t > 400:  # long after the steps in which the box was made smaller
                assert np.all((inner[0] - 1e-9 <= x) & (x <= inner[1] + 1e-9))
    assert told >= 2


# ---- units of others


def _plain_adjoint(a, r, s, p, d):
    return (0 * d[0],), (0 * d[0],), (0 * d[0],), ()


def test_a_unit_that_branches_or_jumps_takes_no_intervals():
    x = Interval(-1.0, 1.0)
    for branch in (lambda: x == 0, lambda: x != 0, lambda: bool(x), lambda: x < 0, lambda: {x}, lambda: float(x)):
        with pytest.raises(TypeError):
            branch()
    with continuous(), pytest.raises(TypeError):
        np.sign(x)
    with continuous():
        assert np.sign(Interval(0.5, 1.0)).lo == 1
    assert np.sign(x).hi == 1


@pytest.mark.parametrize("name", ["branch", "jump", "lookup", "divides", "power"])
def test_cells_that_take_no_intervals_are_left_open(name):
    """Each has a derivative that says 0, and two rest states that are out of sight of silence."""
    units = {
        "branch": lambda a, r, s, p: ((0 * a[0]) if s[0] == 3.0 else np.tanh(4 * r[0] + 0 * a[0]),),
        "jump": lambda a, r, s, p: (0.5 * np.sign(a[0] + r[0]),),
        "lookup": lambda a, r, s, p: (np.array([0.0, 0.5])[int(s[0] > 0.2)] + 0 * a[0],),
        "divides": lambda a, r, s, p: (a[0] / (1 + s[0] * s[0]),),
        "power": lambda a, r, s, p: (a[0] ** 2,),
    }

    class Other(Cell):
        stages = (Stage(units[name], _plain_adjoint, n_gates=1, n_out=1),)
        saturating = True

    from rnndsp.stability.enclosures import Place, cell_enclosure

    cell = Other(1, 2)
    for place in (Place(Interval([-1.0], [1.0])), Place(Interval([-1.0], [1.0]), (np.zeros(1), cell.rest_state()))):
        assert cell_enclosure(cell, place).contraction == ""


def test_a_wrong_bell_is_seen():
    """The checks above can fail."""
    z = Interval(0.1, 0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_intervals, "_bell", lambda x: Interval(0 * x.lo, 0 * x.hi + 0.125))
        assert (z * (1 - z)).hi < 0.25

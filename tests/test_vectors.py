"""Vectors inside kernels, and the engine's loops over them.

Oracles: NumPy in the same dtype, exact rational numbers for the fused product, whole numbers for sums, NumPy loops for
cells of a user. For the engine itself its twins: lanes across units, across voices and none at all give the same bits.
"""

import math
import platform
from fractions import Fraction

import numpy as np
import pytest
from numba.core.errors import TypingError
from numba.core.registry import cpu_target

from rnndsp import Cell, Stage
from rnndsp._jit import kernel
from rnndsp._mixing import put_out
from rnndsp._vectors import (
    accumulate,
    aligned,
    flushed,
    fma,
    fold,
    lane,
    lanes,
    larger,
    load,
    load_each,
    power_of_two,
    smaller,
    store,
    transpose,
    widen,
)
from rnndsp.activations import sigmoid, tanh
from rnndsp.filters import GRU, LSTM, Elman

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 3.0)
ONE = (None,)
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]
FUSED = "+fma," in FEATURES or platform.machine().lower() in ("aarch64", "arm64")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=[1, 2, 4, 8, 16])
def wide(request):
    return (None,) * request.param


@pytest.fixture(params=[1, 4, 16])
def some(request):
    """Fewer of them, where compiling takes longer than is learnt."""
    return (None,) * request.param


def noise(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def pairs(dtype):
    """All pairs of special values, and as many random ones."""
    x, y = (part.ravel() for part in np.meshgrid(SPECIAL, SPECIAL))
    return np.concatenate([x, 3 * noise(64)], dtype=dtype), np.concatenate([y, noise(64, seed=1)], dtype=dtype)


def same(found, expected, what=""):
    """Equal to the bit, NaN for NaN."""
    np.testing.assert_array_equal(found, expected, what)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(expected[number]), what)


# ---- operations


@kernel
def one_operand(x, y, wide):
    n = x.size
    for i in range(0, n, len(wide)):
        v = load(x, i, wide, wide)
        store(y, i, -v, wide)
        store(y, i + n, +v, wide)
        store(y, i + 2 * n, abs(v), wide)
        store(y, i + 3 * n, np.abs(v), wide)
        store(y, i + 4 * n, math.fabs(v), wide)
        store(y, i + 5 * n, np.sqrt(v), wide)
        store(y, i + 6 * n, math.sqrt(v), wide)


ONE_OPERAND = (np.negative, np.positive, *[np.abs] * 3, *[np.sqrt] * 2)


@kernel
def by_lane(x, y, wide):
    n = x.size
    for i in range(0, n, len(wide)):
        v = load(x, i, wide, wide)
        store(y, i, np.exp(v), wide)
        store(y, i + n, math.exp(v), wide)
        store(y, i + 2 * n, np.expm1(v), wide)
        store(y, i + 3 * n, math.expm1(v), wide)
        store(y, i + 4 * n, np.log(v), wide)
        store(y, i + 5 * n, math.log(v), wide)
        store(y, i + 6 * n, np.sin(v), wide)
        store(y, i + 7 * n, math.sin(v), wide)
        store(y, i + 8 * n, np.cos(v), wide)
        store(y, i + 9 * n, math.cos(v), wide)
        store(y, i + 10 * n, np.tanh(v), wide)
        store(y, i + 11 * n, math.tanh(v), wide)
        store(y, i + 12 * n, math.atan(v), wide)
        store(y, i + 13 * n, np.sign(v), wide)
        store(y, i + 14 * n, np.floor(v), wide)
        store(y, i + 15 * n, math.floor(v), wide)


BY_LANE = (
    *(f for f in (np.exp, np.expm1, np.log, np.sin, np.cos, np.tanh) for _ in range(2)),
    *(np.arctan, np.sign, np.floor, np.floor),
)


@kernel
def two_operands(u, v, y, wide):
    n = u.size
    for i in range(0, n, len(wide)):
        a, b = load(u, i, wide, wide), load(v, i, wide, wide)
        store(y, i, a + b, wide)
        store(y, i + n, a - b, wide)
        store(y, i + 2 * n, a * b, wide)
        store(y, i + 3 * n, a / b, wide)
        store(y, i + 4 * n, math.copysign(a, b), wide)
        store(y, i + 5 * n, np.copysign(a, b), wide)
        store(y, i + 6 * n, larger(a, b), wide)
        store(y, i + 7 * n, smaller(a, b), wide)
        store(y, i + 8 * n, np.maximum(a, b), wide)
        store(y, i + 9 * n, np.minimum(a, b), wide)
        store(y, i + 10 * n, a**b, wide)
        store(y, i + 11 * n, np.power(a, b), wide)
        store(y, i + 12 * n, math.pow(a, b), wide)


TWO_OPERANDS = (
    *(np.add, np.subtract, np.multiply, np.divide, np.copysign, np.copysign),
    lambda a, b: np.where(a < b, b, a),
    lambda a, b: np.where(a > b, b, a),
)


@kernel
def with_numbers(x, y, wide):
    n = x.size
    for i in range(0, n, len(wide)):
        v = load(x, i, wide, wide)
        store(y, i, v + 2, wide)
        store(y, i + n, 2 - v, wide)
        store(y, i + 2 * n, 0.5 * v, wide)
        store(y, i + 3 * n, v * np.float32(0.25), wide)
        store(y, i + 4 * n, np.float64(1.5) / v, wide)
        store(y, i + 5 * n, v / True, wide)
        store(y, i + 6 * n, np.maximum(v, 0), wide)
        store(y, i + 7 * n, np.minimum(np.float64(1.5), v), wide)
        store(y, i + 8 * n, math.copysign(2, v), wide)
        store(y, i + 9 * n, larger(v, 1), wide)
        store(y, i + 10 * n, smaller(v, 1.0), wide)
        store(y, i + 11 * n, fma(2, v, 1.0), wide)
        store(y, i + 12 * n, v**2, wide)
        store(y, i + 13 * n, 2.0**v, wide)


WITH_NUMBERS = (
    *(lambda x: x + 2, lambda x: 2 - x, lambda x: 0.5 * x, lambda x: 0.25 * x, lambda x: 1.5 / x, lambda x: x),
    *(lambda x: np.maximum(x, 0), lambda x: np.minimum(x, 1.5), lambda x: np.copysign(2, x)),
    *(lambda x: np.where(x < 1, 1, x), lambda x: np.where(x > 1, 1, x)),
    *(lambda x: 2 * x + 1, lambda x: x * x, lambda x: 2**x),
)


def through(function, n_rows, wide, *operands):
    y = np.empty((n_rows, operands[0].size), operands[0].dtype)
    function(*operands, y, wide)
    return y


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


def test_exact_operations_of_one_vector(dtype, wide):
    x, _ = pairs(dtype)
    for found, expected in zip(through(one_operand, 7, wide, x), ONE_OPERAND, strict=True):
        same(found, expected(x), expected)


def test_functions_done_lane_by_lane(dtype, wide):
    x = np.concatenate([10 * noise(60), [1e-3, -1e-5, 0, -0.0]], dtype=dtype)
    found = through(by_lane, 16, wide, x)
    for row, expected in zip(found, BY_LANE, strict=True):
        np.testing.assert_allclose(row, expected(x), rtol=8 * np.finfo(dtype).eps, err_msg=expected.__name__)
    same(found[:-1], through(by_lane, 16, ONE, x)[:-1])  # a number's floor is an int, without a -0


def test_operations_of_two_vectors(dtype, wide):
    u, v = pairs(dtype)
    found = through(two_operands, 13, wide, u, v)
    for place, expected in enumerate(TWO_OPERANDS):
        same(found[place], expected(u, v), f"operation {place}")
    for row in found[10:]:
        np.testing.assert_allclose(row, np.power(u, v), rtol=8 * np.finfo(dtype).eps)
    plain = through(two_operands, 13, ONE, u, v)
    same(found[:8], plain[:8])
    same(found[10:], plain[10:])


def test_maximum_and_minimum(dtype, wide):
    u, v = pairs(dtype)
    found = through(two_operands, 13, wide, u, v)[8:10]
    for row, expected in zip(found, (np.maximum, np.minimum), strict=True):
        np.testing.assert_array_equal(row, expected(u, v))
        np.testing.assert_array_equal(np.isnan(row), np.isnan(u) | np.isnan(v))
        # of two zeros NumPy promises neither
        alike = (u != 0) | (v != 0) | (np.signbit(u) == np.signbit(v))
        same(row[alike], expected(u, v)[alike])


def test_of_two_zeros_vectors_and_numbers_take_the_same(dtype, wide):
    u, v = pairs(dtype)
    same(through(two_operands, 13, wide, u, v)[8:10], through(two_operands, 13, ONE, u, v)[8:10])


def test_numbers_on_either_side_are_of_the_dtype_of_the_vector(dtype, wide):
    x, _ = pairs(dtype)
    found = through(with_numbers, 14, wide, x)
    for place, expected in enumerate(WITH_NUMBERS[:-2]):
        np.testing.assert_array_equal(found[place], expected(x).astype(dtype), f"operation {place}")
    for row, expected in zip(found[-2:], WITH_NUMBERS[-2:], strict=True):
        np.testing.assert_allclose(row, expected(x), rtol=8 * np.finfo(dtype).eps)


@kernel
def tenth(x, y, wide):
    for i in range(0, x.size, len(wide)):
        store(y, i, 0.1 * load(x, i, wide, wide) - np.float64(0.7), wide)


@pytest.mark.parametrize("n_lanes", [2, 16])
def test_a_number_is_rounded_to_the_dtype_of_the_vector(n_lanes):
    x, y = noise(64, dtype=np.float32), np.empty(64, np.float32)
    tenth(x, y, (None,) * n_lanes)
    same(y, np.float32(0.1) * x - np.float32(0.7))


@kernel
def mixed_dtypes(x, y, wide):
    store(y, 0, load(x, 0, wide, wide) + load(y, 0, wide, wide), wide)


@kernel
def compared(x, y, wide):
    if load(x, 0, wide, wide) > 0:
        store(y, 0, load(x, 0, wide, wide), wide)


@pytest.mark.parametrize("function", [mixed_dtypes, compared])
def test_vectors_of_two_dtypes_and_branches_are_refused(function):
    with pytest.raises(TypingError):
        function(np.ones(4, np.float32), np.ones(4), (None,) * 4)


# ---- fused product, flushing, powers


@kernel
def fused(x, y, z, out, wide):
    for i in range(0, x.size, len(wide)):
        store(out, i, fma(load(x, i, wide, wide), load(y, i, wide, wide), load(z, i, wide, wide)), wide)


def rounded(number, dtype):
    """The nearest number of the dtype to a fraction, a tie going to the even one."""
    guess = dtype.type(float(number))
    near = [np.nextafter(guess, dtype.type(-np.inf)), guess, np.nextafter(guess, dtype.type(np.inf))]
    integer = np.dtype(f"u{dtype.itemsize}")
    return min(near, key=lambda c: (abs(Fraction(float(c)) - number), int(c.view(integer)) % 2))


def test_fma(dtype, some):
    x, y, z = noise(3, 512, dtype=dtype)
    z[::2] = -x[::2] * y[::2]  # what is left is the rounding error of the product
    found = np.empty_like(x)
    fused(x, y, z, found, some)
    fractions = (Fraction(a) * Fraction(b) + Fraction(c) for a, b, c in np.float64([x, y, z]).T.tolist())
    exact = np.array([rounded(number, dtype) for number in fractions])
    if FUSED:
        same(found, exact)
        assert np.count_nonzero(found[::2]) > 200
    else:  # a machine that is named may have it all the same
        assert np.all((found == exact) | (found == x * y + z))


@kernel
def flush_below(x, y, tiny, wide):
    for i in range(0, x.size, len(wide)):
        store(y, i, flushed(load(x, i, wide, wide), tiny), wide)


def test_flushed(dtype, some):
    tiny = dtype.type(1e-20)
    steps = [np.nextafter(tiny, dtype.type(0)), tiny, np.finfo(dtype).smallest_subnormal, 1e-10]
    x = np.concatenate([SPECIAL, steps, np.negative(steps)], dtype=dtype)
    y = np.empty_like(x)
    flush_below(x, y, tiny, some)
    same(y, np.where(np.abs(x) < tiny, dtype.type(0), x))


@kernel
def exponential(x, y, wide):
    for i in range(0, x.size, len(wide)):
        store(y, i, power_of_two(load(x, i, wide, wide)), wide)


def test_power_of_two(dtype, some):
    info = np.finfo(dtype)
    n = np.linspace(info.minexp, info.maxexp - 1, 64).round()
    x = (1.5 * 2.0**info.nmant + info.maxexp - 1 + n).astype(dtype)
    y = np.empty_like(x)
    exponential(x, y, some)
    same(y, (2.0**n).astype(dtype))


# ---- memory


@kernel
def spread(x, y, wide, one):
    for i in range(x.size):
        store(y, i * len(wide), load(x, i, one, wide), wide)


@kernel
def reverse(x, y, wide, one):
    for i in range(0, x.size, len(wide)):
        v = load(x, i, wide, wide)
        for j in range(len(wide)):
            store(y, i + len(wide) - 1 - j, lane(v, j), one)


@kernel
def three(x, y, at, step, wide, count):
    parts = load_each(x, at, step, wide, wide, count)
    for k in range(len(count)):
        store(y, k * len(wide), parts[k], wide)


def test_loads(dtype, some):
    n, x = len(some), noise(64, dtype=dtype)
    y = np.empty((64, n), dtype)
    spread(x, y, some, ONE)
    same(y, np.repeat(x[:, None], n, axis=1))
    y = np.empty(64, dtype)
    reverse(x, y, some, ONE)
    same(y, x.reshape(-1, n)[:, ::-1].ravel())
    # no vector needs to be aligned
    y = np.empty((3, n), dtype)
    three(x, y, 3, 7, some, (None,) * 3)
    same(y, np.stack([x[at : at + n] for at in (3, 10, 17)]))


@kernel
def turn(y, at, step, x, start, last, wide):
    transpose(y, at, step, x, start, len(wide), last, wide)


def test_transpose(dtype, wide):
    n, step = len(wide), len(wide) + 3
    x = np.arange(5 + n * n, dtype=dtype)
    for n_rows in {1, (n + 1) // 2, n}:
        y = np.full(2 + n * step, -1, dtype)
        turn(y, 2, step, x, 5, 5 + (n_rows - 1) * n, wide)
        rows = x[5:].reshape(n, n)[np.minimum(np.arange(n), n_rows - 1)]
        expected = np.full_like(y, -1)
        expected[2:].reshape(n, step)[:, :n] = rows.T
        same(y, expected, f"{n_rows} rows")


@kernel
def product(weights, x, y, n, width, entry, wide, outputs, chains):
    sums = load_each(weights, 0, len(width), width, wide, outputs)
    at, k = len(outputs) * len(width), 0
    many = widen(sums, chains)
    for _ in range(n):
        many = accumulate(many, outputs, weights, at, width, x, k, entry)
        at += len(outputs) * len(width) * len(chains)
        k += len(entry) * len(chains)
    sums = fold(many, outputs)
    for i in range(len(outputs)):
        store(y, i * len(wide), sums[i], wide)


@pytest.mark.parametrize("across", ["weights", "entries"])
def test_sums_of_products(dtype, some, across):
    n_lanes, n_chains = len(some), {1: 4, 4: 1, 16: 2}[len(some)]
    n, outputs = 3, (None,) * 3
    chains = (None,) * n_chains
    width, entry = (some, ONE) if across == "weights" else (ONE, some)
    rng = np.random.default_rng(n_chains)
    # whole numbers: the order of the sum is of no account
    table = rng.integers(-9, 9, (1 + n * n_chains, len(outputs), len(width))).astype(dtype)
    x = rng.integers(-9, 9, (n * n_chains, len(entry))).astype(dtype)
    y = np.empty((len(outputs), n_lanes), dtype)
    product(table.ravel(), x.ravel(), y, n, width, entry, some, outputs, chains)
    same(y, table[0] + np.sum(table[1:] * x[:, None], axis=0))


@kernel
def put(y, at, stop, x, count, wide):
    put_out(y, at, stop, load(x, 0, wide, wide), count, wide)


def test_put_out_writes_nothing_beyond_its_stop(dtype, some):
    n, x = len(some), np.arange(1, 17, dtype=dtype)
    for stop in range(n, 2 * n + 2):
        y = np.zeros(40, dtype)
        put(y, n, stop, x, min(n, stop - n), some)
        written = min(n, stop - n)
        same(y[n : n + written], x[:written])
        assert not y[:n].any() and not y[stop:].any()


def test_aligned(dtype):
    kept = []  # the allocator would hand out the same place again
    assert aligned((2, 0), dtype).shape == (2, 0)
    for n in [*range(1, 70), 1000, 4097]:
        for shape in ((n,), (3, n), (2, 1, n)):
            a = aligned(shape, dtype)
            kept.append(a)
            assert a.ctypes.data % 64 == 0 and a.flags.c_contiguous and a.flags.writeable
            assert a.shape == shape and a.dtype == dtype and not a.any()
            a[...] = 1


@pytest.mark.parametrize(
    "bad",
    [np.zeros(8)[::2], np.zeros((4, 4))[:, :2], np.zeros((4, 4), order="F")],
    ids=["strided", "columns", "fortran"],
)
def test_an_array_that_is_not_contiguous_is_refused_when_compiling(bad):
    good, wide = np.zeros(16), (None,) * 4
    for refused in (
        lambda: spread(bad, good, wide, ONE),
        lambda: spread(good, bad, wide, ONE),
        lambda: three(bad, good, 0, 1, wide, (None,) * 3),
        lambda: turn(bad, 0, 1, good, 0, 0, wide),
        lambda: product(bad, good, good, 1, wide, ONE, wide, ONE, ONE),
    ):
        with pytest.raises(TypingError, match="is not contiguous"):
            refused()


# ---- the engine: the same bits whatever the lanes


def leaky(a, r, s, p):
    leak = sigmoid(p[0])
    return (s[0] + leak * (tanh(p[1] * (a[0] + r[0])) - s[0]),)


def leaky_adjoint(a, r, s, p, d):
    leak, x = sigmoid(p[0]), a[0] + r[0]
    g = tanh(p[1] * x)
    slope = d[0] * leak * (1 - g * g)
    return (slope * p[1],), (slope * p[1],), (d[0] * (1 - leak),), (d[0] * (g - s[0]) * leak * (1 - leak), slope * x)


class Leaky(Cell):
    """h[t] = (1 - λ) h[t-1] + λ tanh(drive (W u[t] + U h[t-1] + b)), λ = sigmoid(leak), y[t] = h[t].

    State: h (n_units), zero at rest. Stability: |h| < 1 from rest, being a mean of numbers within (-1, 1).
    """

    stages = (Stage(leaky, leaky_adjoint, n_gates=1, n_out=1),)
    unit_params = ("leak", "drive")


CELLS = {
    "lstm": LSTM,
    "gru after": GRU,
    "gru before": lambda d, n: GRU(d, n, reset="before"),
    "elman tanh": Elman,
    "elman relu": lambda d, n: Elman(d, n, activation="relu"),
    "elman identity": lambda d, n: Elman(d, n, activation="identity"),
    "diagonal": lambda d, n: LSTM(d, n, recurrence="diagonal"),
    "leaky": Leaky,
}
# a loop takes seconds to compile: the cells that differ from "elman tanh" by an operation alone go in one dtype
CASES = [
    (name, dtype)
    for name in CELLS
    for dtype in ("float32", "float64")
    if (name, dtype) not in (("elman relu", "float64"), ("elman identity", "float32"))
]
UNITS, INPUTS, VOICES = (1, 2, 7, 16, 17, 40), (1, 3), (1, 3, 8, 15, 16, 17, 33)


@pytest.fixture(params=CASES, ids=" ".join)
def case(request):
    """A function that makes a cell, and a dtype."""
    name, dtype = request.param

    def make(n_inputs, n_units):
        f = CELLS[name](n_inputs, n_units)
        free = [k for k in f.params if k.startswith("b") or k in f.unit_params]
        return f.replace(**{k: 0.5 * noise(*f.params[k].shape, seed=i) for i, k in enumerate(free)})

    return make, np.dtype(dtype)


def advance(cell, across, u, x):
    """Output and final state, from ``x`` on; what lies around the output has to stay as it is."""
    n = u.shape[0] * u.shape[1] * cell.n_units
    memory, end, runner = np.full(n + 64, np.nan, u.dtype), x.copy(), cell._ready(u.dtype, across)
    y = memory[32:-32].reshape(*u.shape[:2], cell.n_units)
    runner.run(u, end, y, runner.rows())
    assert np.isnan(memory[:32]).all() and np.isnan(memory[-32:]).all(), "written beyond the output"
    return y, end


def test_lanes_across_units_or_voices_or_none_give_the_same_bits(case):
    make, dtype = case
    for n_units in UNITS:
        for n_inputs in INPUTS:
            cell, n_voices = make(n_inputs, n_units), lanes(dtype) + 3
            u = noise(n_voices, 23, n_inputs, dtype=dtype)
            x = noise(n_voices, cell.n_states, seed=1, dtype=dtype)
            plain = advance(cell, "none", u, x)
            assert np.isfinite(plain[0]).all() and np.any(plain[0])
            for across in ("units", "voices"):
                for found, expected in zip(advance(cell, across, u, x), plain, strict=True):
                    same(found, expected, f"{across}, {n_units} units, {n_inputs} inputs")


def test_the_three_twins_are_three(case):
    make, dtype = case
    cell = make(1, 7)
    shapes = [cell._shape(dtype, across) for across in ("units", "voices", "none")]
    assert [len(shape.all) for shape in shapes] == [lanes(dtype), lanes(dtype), 1]
    for across, shape in zip(("units", "voices", "none"), shapes, strict=True):
        assert cell._ready(dtype, across).loop is cell._loop(shape)


@pytest.mark.parametrize("n_units", [7, 17])
def test_every_voice_among_many_is_the_voice_alone(case, n_units):
    make, dtype = case
    cell, u = make(2, n_units), noise(33, 40, 2, dtype=dtype)
    alone = [cell.run(voice) for voice in u]
    y = np.stack([out for out, _ in alone])
    ends = np.stack([state.ravel() for _, state in alone])
    for n_voices in VOICES:
        found, end = cell.run(u[:n_voices])
        same(found, y[:n_voices], f"{n_voices} voices")
        same(end.ravel(), ends[:n_voices], f"{n_voices} voices")


def test_blocks_of_many_voices(case):
    make, dtype = case
    rng = np.random.default_rng(0)
    cell = make(3, 17)
    for n_voices in (1, 17, 33):
        u = noise(n_voices, 90, 3, dtype=dtype)
        whole, end = cell.run(u)
        for _ in range(3):
            stream = cell.stream(voices=(n_voices,), dtype=dtype)
            cuts = sorted([0, 1, *rng.integers(0, 90, 8)])
            parts = [stream.process(block) for block in np.split(u, cuts, axis=1)]
            same(np.concatenate(parts, axis=1), whole)
            assert stream.state == end


@pytest.mark.parametrize("n_voices", [1, 17])
def test_the_tape_has_the_bits_of_run(case, n_voices):
    make, dtype = case
    for n_units in (2, 17, 40):
        cell, u = make(3, n_units), noise(n_voices, 31, 3, dtype=dtype)
        y, end = cell.run(u)
        tape = cell.tape(u)
        same(tape.y, y)
        assert tape.state == end


# ---- units of a user


def branching(a, r, s, p):
    x = a[0] + r[0]
    if x > 0.5:
        x = 0.5 + 0.25 * (x - 0.5)
    return (x,)


def functions(a, r, s, p):
    x = a[0] + r[0]
    return (np.sign(x) * (1 - math.exp(-(abs(x) ** 1.5))) + 0.1 * s[0] ** 3,)


def misspelt(a, r, s, p):
    return (tahn(a[0]),)  # noqa: F821


def no_such_attribute(a, r, s, p):
    return (a[0].tanh,)


def wrong_count(a, r, s, p):
    return (a[1] + r[0],)


def cell_of(unit):
    return type(unit.__name__, (Cell,), {"stages": (Stage(unit, None, n_gates=1, n_out=1),)})


Branching, Functions = cell_of(branching), cell_of(functions)


def numpy_loop(cell, u, unit):
    h, out = np.zeros((len(u), cell.n_units)), []
    for t in range(u.shape[1]):
        h = unit(u[:, t] @ cell.params["W"].T + h @ cell.U.T, h)
        out.append(h)
    return np.stack(out, axis=1)


def run_as(cell, unit, dtype, across):
    """Compare with the NumPy loop, and every voice with itself alone; ``across`` is what lanes there are to be."""
    u = noise(17, 60, 2)
    y, end = cell.run(u.astype(dtype))
    np.testing.assert_allclose(y, numpy_loop(cell, u, unit), atol=1e-13 if dtype == np.float64 else 2e-6)
    for voice in range(17):
        alone, state = cell.run(u[voice].astype(dtype))
        same(y[voice], alone)
        same(end.ravel()[voice], state.ravel())
    for asked, lanes_of in across.items():
        assert cell._ready(dtype, asked).loop is cell._loop(cell._shape(dtype, lanes_of))


def test_a_unit_that_branches_runs_on_plain_numbers():
    across = {"units": "none", "voices": "none"}
    run_as(Branching(2, 9), lambda x, h: np.minimum(x, 0.375 + 0.25 * x), np.dtype(np.float32), across)


def test_a_unit_of_functions_runs_on_vectors(dtype):
    across = {"units": "units", "voices": "voices"}
    cell = Functions(2, 9)
    run_as(cell, lambda x, h: np.sign(x) * (1 - np.exp(-(np.abs(x) ** 1.5))) + 0.1 * h**3, dtype, across)


@pytest.mark.parametrize("unit", [misspelt, no_such_attribute, wrong_count])
def test_a_wrong_unit_is_an_error_of_numba(unit):
    with pytest.raises(TypingError):
        cell_of(unit)(1, 3)(np.ones(4, np.float32))

"""Vectors of numbers inside kernels, one lane a unit or a voice: explicit, as LLVM's own vectoriser is moody.

A ``Vector`` is added, multiplied and handed to functions like a number. A vector of one lane *is* a number, so a kernel
written with the functions below has its plain twin: itself, compiled for one lane. Lengths that have to be known when
compiling are passed as tuples of None.
"""

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.np.arrayobj import make_array
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "Vector",
    "accumulate",
    "add_tile",
    "aligned",
    "every",
    "flushed",
    "fma",
    "fold",
    "keep",
    "lane",
    "lanes",
    "larger",
    "load",
    "load_each",
    "outer",
    "power_of_two",
    "put",
    "smaller",
    "store",
    "total",
    "transpose",
    "widen",
    "zeros",
]

CACHE_LINE = 64  # bytes
_intrinsic: Any = intrinsic
_ALIGN = {types.float32: 4, types.float64: 8}


@cache
def lanes(dtype: np.dtype[Any]) -> int:
    """How many numbers the widest registers of this machine hold, or of the one that Numba is told to compile for."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    n_bytes = 64 if "+avx512f" in features else 32 if "+avx," in features else 16
    return n_bytes // dtype.itemsize


def aligned(shape: tuple[int, ...], dtype: DTypeLike, *, blank: bool = True) -> NDArray[Any]:
    """Zeros that start at a cache line, as vectors that lie across two take twice as long to load; or anything, if not
    ``blank``."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = (np.zeros if blank else np.empty)(n_bytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


class Vector(types.Type):
    """Numba's type of ``lanes`` numbers of ``dtype`` in one register."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.lanes))


def _kind(dtype: Any, n_lanes: int) -> Any:
    return Vector(dtype, n_lanes) if n_lanes > 1 else dtype


def _common(kinds: Any) -> Any:
    """The type of a result: that of the vectors among the operands, all of them being of one."""
    vectors = {kind for kind in kinds if isinstance(kind, Vector)}
    fits = len(vectors) == 1 and all(isinstance(kind, Vector | types.Number | types.Boolean) for kind in kinds)
    return vectors.pop() if fits else None


def _spread(builder: Any, number: Any, n_lanes: int) -> Any:
    """The same number in every lane."""
    if n_lanes == 1:
        return number
    blank = ir.Constant(ir.VectorType(number.type, n_lanes), ir.Undefined)
    first = builder.insert_element(blank, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(ir.IntType(32), n_lanes), None))


def _cast(context: Any, builder: Any, value: Any, kind: Any, wanted: Any) -> Any:
    """A number or a vector as ``wanted``."""
    if kind == wanted:
        return value
    if isinstance(wanted, Vector):
        return _spread(builder, context.cast(builder, value, kind, wanted.dtype), wanted.lanes)
    return context.cast(builder, value, kind, wanted)


def _llvm(builder: Any, name: str, *values: Any) -> Any:
    """Call an LLVM intrinsic that works lane by lane."""
    kind = values[0].type
    suffix = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    suffix += "f32" if getattr(kind, "element", kind) == ir.FloatType() else "f64"
    signature = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), values)


# ---- vectors as operands


def _operation(function: Any, n_arguments: int, emit: Callable[..., Any]) -> None:
    """Let kernels call ``function`` on vectors, numbers among them spread; ``emit`` gets vectors of one type."""

    @type_callable(function)
    def _typed(_context: Any) -> Any:
        def unary(x: Any) -> Any:
            return _common([x])

        def binary(x: Any, y: Any) -> Any:
            return _common([x, y])

        return unary if n_arguments == 1 else binary

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = signature.return_type
        operands = [_cast(context, builder, v, k, kind) for v, k in zip(values, signature.args, strict=True)]
        return (
            emit(builder, *operands) if emit is not _by_lane else _by_lane(context, builder, function, kind, operands)
        )

    operands = ((Vector,),) if n_arguments == 1 else ((Vector, Vector), (Vector, types.Any), (types.Any, Vector))
    for kinds in operands:
        lower_builtin(function, *kinds)(lower)


def _by_lane(context: Any, builder: Any, function: Any, kind: Any, operands: Any) -> Any:
    """Any function of numbers, one lane after the other."""

    def unary(x: Any) -> Any:
        return function(x)

    def binary(x: Any, y: Any) -> Any:
        return function(x, y)

    scalar = unary if len(operands) == 1 else binary
    signature = kind.dtype(*[kind.dtype] * len(operands))
    result = ir.Constant(operands[0].type, ir.Undefined)
    for lane in map(ir.IntType(32), range(kind.lanes)):
        numbers = [builder.extract_element(v, lane) for v in operands]
        number = context.compile_internal(builder, scalar, signature, numbers)
        result = builder.insert_element(result, number, lane)
    return result


def _maximum(comparison: str) -> Callable[..., Any]:
    def emit(builder: Any, x: Any, y: Any) -> Any:
        # a comparison with NaN is false and gives y; where that is no NaN, x may be one
        best = builder.select(builder.fcmp_ordered(comparison, x, y), x, y)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, best)

    return emit


_operation(operator.add, 2, lambda builder, x, y: builder.fadd(x, y))
_operation(operator.sub, 2, lambda builder, x, y: builder.fsub(x, y))
_operation(operator.mul, 2, lambda builder, x, y: builder.fmul(x, y))
_operation(operator.truediv, 2, lambda builder, x, y: builder.fdiv(x, y))
_operation(operator.neg, 1, lambda builder, x: builder.fneg(x))
_operation(operator.pos, 1, lambda builder, x: x)
for _absolute in (abs, np.abs, math.fabs):
    _operation(_absolute, 1, lambda builder, x: _llvm(builder, "fabs", x))
for _root in (np.sqrt, math.sqrt):
    _operation(_root, 1, lambda builder, x: _llvm(builder, "sqrt", x))
_operation(math.copysign, 2, lambda builder, x, y: _llvm(builder, "copysign", x, y))
_operation(np.copysign, 2, lambda builder, x, y: _llvm(builder, "copysign", x, y))
_operation(np.maximum, 2, _maximum(">="))
_operation(np.minimum, 2, _maximum("<="))
_UNARY: tuple[Any, ...] = (
    *(np.sign, np.exp, np.expm1, np.log, np.sin, np.cos, np.tanh, np.floor),
    *(math.exp, math.expm1, math.log, math.sin, math.cos, math.tanh, math.atan, math.floor),
)
_BINARY: tuple[Any, ...] = (operator.pow, math.pow, np.power)
for _function in (*_UNARY, *_BINARY):
    _operation(_function, 1 if _function in _UNARY else 2, _by_lane)


# ---- functions of numbers and vectors alike


def _chosen(comparison: str) -> Any:
    def typed(_context: Any, x: Any, y: Any) -> Any:
        kind = _common([x, y]) or x

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y = (_cast(context, builder, v, k, kind) for v, k in zip(values, signature.args, strict=True))
            return builder.select(builder.fcmp_ordered(comparison, x, y), y, x)

        return kind(x, y), codegen

    return _intrinsic(typed)


larger: Any = _chosen("<")
"""``larger(x, y)``: y where x < y, else x, so that a NaN in x stays; of the type of x where both are numbers."""
smaller: Any = _chosen(">")


@_intrinsic
def fma(_context: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z``, in one rounding where the machine can: said, not left to the compiler, which might do it in one
    place and not in another."""
    kind = _common([x, y, z]) or z

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        operands = [_cast(context, builder, v, k, kind) for v, k in zip(values, signature.args, strict=True)]
        return _llvm(builder, "fmuladd", *operands)

    return kind(x, y, z), codegen


@_intrinsic
def flushed(_context: Any, x: Any, tiny: Any) -> Any:
    """``x``, or zero where its magnitude is below ``tiny``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        limit = _cast(context, builder, values[1], signature.args[1], x)
        small = builder.fcmp_ordered("<", _llvm(builder, "fabs", values[0]), limit)
        zero = ir.Constant(values[0].type, None)
        return builder.select(small, zero, values[0])

    return x(x, tiny), codegen


@_intrinsic
def power_of_two(_context: Any, x: Any) -> Any:
    """2**n, where n + bias are the low bits of ``x``: shifts them from the mantissa into the exponent field."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        n_bits, mantissa = (32, 23) if getattr(x, "dtype", x) == types.float32 else (64, 52)
        kind = values[0].type
        n_lanes = kind.count if isinstance(kind, ir.VectorType) else 1
        integer = ir.IntType(n_bits)
        bits = builder.bitcast(values[0], ir.VectorType(integer, n_lanes) if n_lanes > 1 else integer)
        return builder.bitcast(builder.shl(bits, _spread(builder, integer(mantissa), n_lanes)), kind)

    return x(x), codegen


# ---- memory


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    if kind.layout != "C":
        raise TypingError(f"{kind} is not contiguous: its flat index means nothing")
    return builder.gep(make_array(kind)(context, builder, array).data, [at])


def _read(builder: Any, pointer: Any, offset: int, width: int, n_lanes: int) -> Any:
    """``width`` numbers from ``pointer + offset`` on; a single one goes to every lane."""
    number = pointer.type.pointee
    pointer = builder.gep(pointer, [ir.IntType(64)(offset)])
    if width == 1:
        return _spread(builder, builder.load(pointer), n_lanes)
    value = builder.load(builder.bitcast(pointer, ir.VectorType(number, width).as_pointer()))
    value.align = 4 if number == ir.FloatType() else 8  # which is no promise of more
    return value


def _require_writable(array: Any) -> None:
    if not array.mutable:
        raise TypingError(f"{array} is read-only")


@_intrinsic
def load(_context: Any, array: Any, at: Any, width: Any, n_lanes: Any) -> Any:
    """``len(width)`` numbers of a contiguous array from the flat index ``at`` on: one a lane, or one for all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _read(builder, _address(context, builder, array, *values[:2]), 0, width.count, n_lanes.count)

    return _kind(array.dtype, n_lanes.count)(array, types.intp, width, n_lanes), codegen


@_intrinsic
def load_each(_context: Any, array: Any, at: Any, step: Any, width: Any, n_lanes: Any, count: Any) -> Any:
    """A tuple of ``len(count)`` such loads, ``step`` numbers apart."""
    kind = types.BaseTuple.from_types([_kind(array.dtype, n_lanes.count)] * count.count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        parts, at = [], values[1]
        for _ in range(count.count):
            parts.append(
                _read(builder, _address(context, builder, array, values[0], at), 0, width.count, n_lanes.count)
            )
            at = builder.add(at, values[2])
        return context.make_tuple(builder, kind, parts)

    return kind(array, types.intp, types.intp, width, n_lanes, count), codegen


@_intrinsic
def put(_context: Any, value: Any, i: Any, number: Any) -> Any:
    """``value`` with another number in one lane."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, index, new = values
        return builder.insert_element(vector, new, index) if isinstance(value, Vector) else new

    return value(value, types.intp, getattr(value, "dtype", value)), codegen


@_intrinsic
def keep(_context: Any, value: Any, count: Any) -> Any:
    """``value`` with zeros in all but the first ``count`` lanes."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind, n = values[0].type, value.lanes if isinstance(value, Vector) else 1
        place = ir.Constant(ir.VectorType(ir.IntType(64), n), [*range(n)]) if n > 1 else ir.IntType(64)(0)
        kept = builder.icmp_signed("<", place, _spread(builder, values[1], n))
        return builder.select(kept, values[0], ir.Constant(kind, None))

    return value(value, types.intp), codegen


@_intrinsic
def zeros(_context: Any, values: Any) -> Any:
    """A tuple of zeros, of the types of ``values``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(arguments[0].type, None)

    return values(values), codegen


@_intrinsic
def lane(_context: Any, value: Any, i: Any) -> Any:
    """The number in one lane."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_element(*values) if isinstance(value, Vector) else values[0]

    return getattr(value, "dtype", value)(value, types.intp), codegen


@_intrinsic
def store(_context: Any, array: Any, at: Any, value: Any, n_lanes: Any) -> Any:
    """Write ``value``, one number a lane, to a contiguous array from the flat index ``at`` on."""
    kind = _kind(array.dtype, n_lanes.count)
    _require_writable(array)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _address(context, builder, array, *values[:2])
        vector = _cast(context, builder, values[2], signature.args[2], kind)
        builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer())).align = _ALIGN[array.dtype]
        return context.get_dummy_value()

    return types.void(array, types.intp, value, n_lanes), codegen


@_intrinsic
def transpose(_context: Any, y: Any, at: Any, step: Any, x: Any, start: Any, gap: Any, last: Any, n_lanes: Any) -> Any:
    """As many vectors of ``x`` as there are lanes, ``gap`` apart from ``start`` on (that at ``last`` again where they
    end sooner): their first numbers go to ``y[at:]``, their second ones to ``y[at + step:]``, and so on."""
    _require_writable(y)
    if y.dtype != x.dtype:
        raise TypingError(f"transpose from {x} to {y}")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        n = n_lanes.count
        rows = []
        place = values[4]
        for _ in range(n):
            inside = builder.icmp_signed("<", place, values[6])
            pointer = _address(context, builder, x, values[3], builder.select(inside, place, values[6]))
            rows.append(_read(builder, pointer, 0, n, n))
            place = builder.add(place, values[5])
        # pairs of rows exchange every other number, then every other two, ...
        half = 1
        while half < n:
            masks = (
                [j if not j & half else n + (j ^ half) for j in range(n)],
                [j ^ half if not j & half else n + j for j in range(n)],
            )
            chosen = [ir.Constant(ir.VectorType(ir.IntType(32), n), mask) for mask in masks]
            for i in range(n):
                if not i & half:
                    pair = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in chosen)
            half *= 2
        goal = values[1]
        for row in rows:
            pointer = _address(context, builder, y, values[0], goal)
            builder.store(row, builder.bitcast(pointer, row.type.as_pointer())).align = _ALIGN[x.dtype]
            goal = builder.add(goal, values[2])
        return context.get_dummy_value()

    return types.void(y, types.intp, types.intp, x, types.intp, types.intp, types.intp, n_lanes), codegen


# ---- sums of products in registers


@_intrinsic
def accumulate(
    _context: Any, sums: Any, count: Any, weights: Any, at: Any, width: Any, x: Any, k: Any, entry: Any
) -> Any:
    """``sums[i] += weights[i] * x[k]`` for ``len(count)`` sums, weights of ``len(width)`` numbers from ``at`` on.

    Where there are several times as many sums, the next ones take the entry after that, and so on: chains, as a sum in
    one register would wait four cycles for every term. ``entry`` is as wide as an entry of x.
    """
    kind = sums.dtype
    n_lanes = kind.lanes if isinstance(kind, Vector) else 1

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        totals = cgutils.unpack_tuple(builder, values[0], sums.count)
        first = _address(context, builder, weights, values[2], values[3])
        entries = _address(context, builder, x, values[5], values[6])
        for i in range(sums.count):
            if i % count.count == 0:
                factor = _read(builder, entries, i // count.count * entry.count, entry.count, n_lanes)
            weight = _read(builder, first, i * width.count, width.count, n_lanes)
            totals[i] = _llvm(builder, "fmuladd", weight, factor, totals[i])
        return context.make_tuple(builder, sums, totals)

    return sums(sums, count, weights, types.intp, width, x, types.intp, entry), codegen


@_intrinsic
def widen(_context: Any, sums: Any, chains: Any) -> Any:
    """``len(chains)`` times as many sums, the further ones zero."""
    kind = types.UniTuple(sums.dtype, sums.count * chains.count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        totals = cgutils.unpack_tuple(builder, values[0], sums.count)
        zeros = [ir.Constant(total.type, None) for total in totals] * (chains.count - 1)
        return context.make_tuple(builder, kind, totals + zeros)

    return kind(sums, chains), codegen


@_intrinsic
def fold(_context: Any, sums: Any, count: Any) -> Any:
    """The chains of :func:`accumulate` added up, into ``len(count)`` sums."""
    kind = types.UniTuple(sums.dtype, count.count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        n = count.count
        totals = cgutils.unpack_tuple(builder, values[0], sums.count)
        while len(totals) > n:
            half = len(totals) // 2
            totals = [builder.fadd(a, b) for a, b in zip(totals[:half], totals[half:], strict=True)]
        return context.make_tuple(builder, kind, totals)

    return kind(sums, count), codegen


def _sum_of_lanes(builder: Any, part: Any) -> Any:
    n = part.type.count if isinstance(part.type, ir.VectorType) else 1
    while n > 1:
        n //= 2
        halves = (ir.Constant(ir.VectorType(ir.IntType(32), n), [*range(k, k + n)]) for k in (0, n))
        low, high = (builder.shuffle_vector(part, part, half) for half in halves)
        part = builder.fadd(low, high)
        if n == 1:
            part = builder.extract_element(part, ir.IntType(32)(0))
    return part


@_intrinsic
def total(_context: Any, value: Any) -> Any:
    """The sum over all lanes: halves, then quarters, and so on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _sum_of_lanes(builder, values[0])

    return getattr(value, "dtype", value)(value), codegen


@_intrinsic
def outer(_context: Any, sums: Any, rows: Any, x: Any, at: Any, width: Any, start: Any, n_lanes: Any) -> Any:
    """``sums[i, j] += x[at + i] * x[start + j]``, ``len(rows)`` rows of a tuple of vectors.

    Entries of the rows are ``len(width)`` numbers wide (and apart), those of the columns one a lane.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        totals = cgutils.unpack_tuple(builder, values[0], sums.count)
        left, right = (_address(context, builder, x, values[2], place) for place in (values[3], values[5]))
        n_columns = sums.count // rows.count
        n = n_lanes.count
        columns = [_read(builder, right, j * n, n, n) for j in range(n_columns)]
        for i in range(rows.count):
            factor = _read(builder, left, i * width.count, width.count, n)
            for j, column in enumerate(columns):
                totals[i * n_columns + j] = _llvm(builder, "fmuladd", factor, column, totals[i * n_columns + j])
        return context.make_tuple(builder, sums, totals)

    return sums(sums, rows, x, types.intp, width, types.intp, n_lanes), codegen


@_intrinsic
def add_tile(_context: Any, out: Any, at: Any, step: Any, sums: Any, rows: Any, width: Any) -> Any:
    """Add ``len(rows)`` rows of a tuple to those of ``out``, ``step`` apart from ``at`` on: each vector as it is, or
    where ``len(width)`` is 1, the sum of its lanes."""
    _require_writable(out)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        n_columns = sums.count // rows.count
        place = values[1]
        for i, value in enumerate(cgutils.unpack_tuple(builder, values[3], sums.count)):
            if i and i % n_columns == 0:
                place = builder.add(place, values[2])
            pointer = _address(context, builder, out, values[0], place)
            pointer = builder.gep(pointer, [ir.IntType(64)(i % n_columns * width.count)])
            part = _sum_of_lanes(builder, value) if width.count == 1 else value
            pointer = builder.bitcast(pointer, part.type.as_pointer())
            before = builder.load(pointer)
            before.align = _ALIGN[out.dtype]
            builder.store(builder.fadd(before, part), pointer).align = _ALIGN[out.dtype]
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, sums, rows, width), codegen


@_intrinsic
def every(_context: Any, values: Any, first: Any, step: Any) -> Any:
    """``values[len(first)::len(step)]`` of a tuple."""
    chosen = slice(first.count, None, step.count)
    kind = types.BaseTuple.from_types([values.dtype] * len(range(values.count)[chosen]))

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, kind, cgutils.unpack_tuple(builder, arguments[0], values.count)[chosen])

    return kind(values, first, step), codegen

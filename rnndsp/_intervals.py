"""Sets of numbers in place of numbers: a result holds whatever any choice of the operands gives, rounding included.

A unit of a cell, and its adjoint, are plain functions of numbers. Called with intervals they give bounds of all that
the unit can do; what is proved here is proved for all cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "affine", "continuous", "hull", "meet"]

Real = NDArray[np.float64]

EPS, TINIEST = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).smallest_subnormal)
# NumPy's tanh is good to a few units in the last place; this many are allowed for.
TANH_ULPS = 8
_CONTINUOUS: ContextVar[bool] = ContextVar("continuous", default=False)


class Interval:
    """An array of closed intervals, ``lo <= x <= hi``, rounded outwards after every operation.

    Three expressions are bounded better than operation by operation, because the same object stands in them twice: ``x
    * x``, ``x * (1 - x)``, and ``z * (a - b) + b`` for a ``z`` within [0, 1]. And two intervals may know their sum
    better than from their ends, see :meth:`summing`.
    """

    __slots__ = ("_blend", "_complement", "_difference", "_sum", "hi", "lo")

    lo: Real
    hi: Real
    _complement: Interval | None  # this is 1 minus that
    _difference: tuple[Interval, Interval] | None  # this is the first minus the second
    _blend: tuple[Interval, Interval, Interval] | None  # this is the first times (the second minus the third)
    _sum: tuple[Interval, Interval] | None  # added to the first it gives the second

    def __init__(self, lo: ArrayLike, hi: ArrayLike | None = None) -> None:
        self.lo = np.asarray(lo, np.float64)
        self.hi = self.lo if hi is None else np.asarray(hi, np.float64)
        self._complement = self._difference = self._blend = self._sum = None

    def __repr__(self) -> str:
        return f"Interval({self.lo}, {self.hi})"

    def __getitem__(self, index: Any) -> Interval:
        return Interval(self.lo[index], self.hi[index])

    @property
    def mid(self) -> Real:
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(0.5 * self.lo + 0.5 * self.hi, nan=0.0)  # of all numbers it is zero

    @property
    def rad(self) -> Real:
        """No less than the distance of either end from ``mid``."""
        return np.asarray(_up(np.maximum(self.hi - self.mid, self.mid - self.lo)))

    @property
    def mag(self) -> Real:
        """Largest magnitude."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    @property
    def _ends(self) -> tuple[Real, ...]:
        return (self.lo,) if self.lo is self.hi else (self.lo, self.hi)

    def within(self, other: Interval) -> bool:
        """Whether every number in here is in the other, too."""
        return bool(np.all(self.lo >= other.lo) and np.all(self.hi <= other.hi))

    def summing(self, other: Interval, total: Interval) -> Self:
        """Say that ``self + other``, these two objects, lies within ``total``."""
        self._sum = other, total
        return self

    def _undecided(self, *_: object) -> NoReturn:
        raise TypeError("a set of numbers may do both: a unit that branches takes no intervals")

    __bool__ = _undecided
    __eq__ = _undecided
    __ne__ = _undecided
    __hash__ = None  # type: ignore[assignment]

    # ---- arithmetic

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __abs__(self) -> Interval:
        low = np.where((self.lo <= 0) & (self.hi >= 0), 0.0, np.minimum(np.abs(self.lo), np.abs(self.hi)))
        return Interval(low, self.mag)

    def __add__(self, other: Any) -> Interval:
        other = _interval(other)
        for one, two in ((self, other), (other, self)):
            if one._sum is not None and one._sum[0] is two:
                return one._sum[1]
            if one._blend is not None and one._blend[2] is two:
                return _blended(*one._blend)
        return _total(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Interval:
        other = _interval(other)
        result = _total(self, -other)
        result._difference = self, other
        return result

    def __rsub__(self, other: Any) -> Interval:
        result = _interval(other) - self
        if np.ndim(other) == 0 and other == 1:
            result._complement = self
        return result

    def __mul__(self, other: Any) -> Interval:
        other = _interval(other)
        if other is self:
            size = abs(self)
            return _outward(_product(size.lo, size.lo), _product(size.hi, size.hi), least=0.0)
        for one, two in ((self, other), (other, self)):
            if two._complement is not None and two._complement is one:
                return _bell(two._complement)
        ends = [_product(a, b) for a in self._ends for b in other._ends]
        low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
        result = _outward(low, high)
        if _is_half(self) or _is_half(other):  # exact, but for the least numbers: so a sigmoid stays within [0, 1]
            result = Interval(
                *(np.where(np.abs(e) > 1e-300, e, out) for e, out in ((low, result.lo), (high, result.hi)))
            )
        for one, two in ((self, other), (other, self)):
            if two._difference is not None and np.all(one.lo >= 0) and np.all(one.hi <= 1):
                result._blend = one, *two._difference
        return result

    __rmul__ = __mul__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            return NotImplemented
        a = inputs[0]
        match ufunc:
            case np.add:
                return _interval(a) + inputs[1]
            case np.subtract:
                # a plain 1 keeps its meaning
                return self.__rsub__(a) if inputs[1] is self and not isinstance(a, Interval) else a - inputs[1]
            case np.multiply:
                return _interval(a) * inputs[1]
            case np.negative:
                return -a
            case np.absolute:
                return abs(a)
            case np.tanh:
                slack = 1 + TANH_ULPS * EPS
                lo, hi = np.tanh(a.lo), np.tanh(a.hi)
                wide = _outward(np.where(lo < 0, lo * slack, lo / slack), np.where(hi < 0, hi / slack, hi * slack))
                return Interval(np.maximum(wide.lo, -1.0), np.minimum(wide.hi, 1.0))
            case np.sign:
                if _CONTINUOUS.get() and np.any(np.sign(a.lo) != np.sign(a.hi)):
                    raise TypeError("a unit that jumps takes no intervals")
                return Interval(np.sign(a.lo), np.sign(a.hi))
            case np.maximum | np.minimum:
                x, y = map(_interval, inputs)
                return Interval(ufunc(x.lo, y.lo), ufunc(x.hi, y.hi))
        return NotImplemented


@contextmanager
def continuous() -> Iterator[None]:
    """Where a jump is a TypeError: a derivative says nothing of what it does."""
    before = _CONTINUOUS.set(True)
    try:
        yield
    finally:
        _CONTINUOUS.reset(before)


def _interval(x: Any) -> Interval:
    return x if isinstance(x, Interval) else Interval(x)


def _is_half(x: Interval) -> bool:
    return x.lo is x.hi and x.lo.ndim == 0 and bool(x.lo == 0.5)


def _total(x: Interval, y: Interval) -> Interval:
    """The sum, rounded where it is not exact (Knuth's two-sum): 1 - z, and a sigmoid, stay within [0, 1]."""
    ends = []
    with np.errstate(invalid="ignore", over="ignore"):
        for a, b, way in ((x.lo, y.lo, -np.inf), (x.hi, y.hi, np.inf)):
            total = a + b
            part = total - a
            exact = (a - (total - part)) + (b - part) == 0
            ends.append(np.where(exact, total, np.nextafter(total, way)))
    return Interval(*ends)


def _up(x: Any) -> Any:
    return np.nextafter(x, np.inf)


def _outward(lo: Any, hi: Any, least: float = -np.inf) -> Interval:
    # what is exactly zero stays so: sums and products that vanish by structure
    down = np.where(lo == 0, 0.0, np.nextafter(lo, -np.inf))
    return Interval(np.maximum(down, least), np.where(hi == 0, 0.0, _up(hi)))


def _product(a: Any, b: Any) -> Any:
    """a * b where an infinite end times zero is zero, as the end itself is never taken, and nothing else is zero."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        product = a * b
        if np.all(np.abs(product) > 0):
            return product
    nothing = np.copysign(TINIEST, np.sign(a) * np.sign(b))
    return np.where((a == 0) | (b == 0), 0.0, np.where(product == 0, nothing, product))


def _bell(x: Interval) -> Interval:
    """x (1 - x), which rises up to 1/2 and falls from there."""
    ends = [_product(e, 1 - e) for e in (x.lo, x.hi)]
    top = np.where((x.lo <= 0.5) & (x.hi >= 0.5), 0.25, np.maximum(*ends))
    slack = 4 * EPS
    low, high = np.minimum(*ends), top
    return _outward(low - slack * np.abs(low), high + slack * np.abs(high))


def _blended(z: Interval, a: Interval, b: Interval) -> Interval:
    """z a + (1 - z) b, linear in each: all extremes are at ends."""
    low = [(e * Interval(a.lo) + (1 - e) * Interval(b.lo)).lo for e in (Interval(z.lo), Interval(z.hi))]
    high = [(e * Interval(a.hi) + (1 - e) * Interval(b.hi)).hi for e in (Interval(z.lo), Interval(z.hi))]
    # rounding aside, it is no less than both and no more than both
    least, most = np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi)
    return Interval(np.maximum(np.minimum(*low), least), np.minimum(np.maximum(*high), most))


def hull(a: Interval, b: Interval) -> Interval:
    """The least interval that holds both."""
    return Interval(np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi))


def meet(a: Interval, b: Interval) -> Interval | None:
    """What both have in common; None where that is nothing in any entry."""
    low, high = np.maximum(a.lo, b.lo), np.minimum(a.hi, b.hi)
    return None if np.any(low > high) else Interval(low, high)


def affine(matrix: Real, x: Interval, b: ArrayLike = 0.0) -> Interval:
    """``matrix @ x + b`` for vectors of intervals, the last axis of ``x`` being multiplied."""
    matrix = np.asarray(matrix, np.float64)
    positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
    unbounded = not (np.isfinite(x.lo).all() and np.isfinite(x.hi).all())
    if unbounded:  # where 0 times infinity has to be 0
        parts = Interval(matrix) * Interval(x.lo[..., None, :], x.hi[..., None, :])
        finite = np.maximum(*(np.where(np.isfinite(end), np.abs(end), 0.0) for end in (x.lo, x.hi)))
        lo, hi, size = parts.lo.sum(-1), parts.hi.sum(-1), finite @ np.abs(matrix).T
    else:
        lo, hi = x.lo @ positive.T + x.hi @ negative.T, x.hi @ positive.T + x.lo @ negative.T
        size = x.mag @ np.abs(matrix).T
    slack = (matrix.shape[-1] + 4) * EPS * (size + np.abs(b)) * (1 + 1e-9)
    return Interval(lo + b - slack, hi + b + slack)

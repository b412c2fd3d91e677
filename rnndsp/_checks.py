"""Checks that many filters make of their settings."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import ParameterError

if TYPE_CHECKING:
    from rnndsp.filter import Filter

__all__ = ["choice", "generator", "number", "real_array", "reals", "require_filter", "whole_number", "whole_numbers"]


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int, or a :class:`ParameterError` that names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"{name}={value!r} must be a whole number, at least {least}")
    return int(value)


def number(name: str, value: Any) -> float:
    """``value`` as a float, or a :class:`ParameterError` that names it."""
    try:
        if not isinstance(value, bool) and isinstance(value, Real) and abs(float(value)) < np.inf:
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise ParameterError(f"{name}={value!r} must be a number")


def real_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """``value`` as an array of real numbers of any dtype, or a :class:`ParameterError` that names it."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise ParameterError(f"{name}={value!r} must be an array: its rows have different lengths") from None
    if array.dtype.kind not in "fiub":
        said = f"{name} has dtype {array.dtype}" if array.ndim else f"{name}={value!r}"
        raise ParameterError(f"{said}; give real numbers")
    return array


def reals(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """:func:`real_array` as float64."""
    return real_array(name, value).astype(np.float64)


def whole_numbers(name: str, value: ArrayLike, least: int = 1) -> NDArray[np.int64]:
    """``value`` as a row of whole numbers, at least one of them, or a :class:`ParameterError` that names it."""
    array = real_array(name, value)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size or not least <= array.min():
        raise ParameterError(f"{name}={value!r} must be a row of whole numbers, each at least {least}")
    return array.astype(np.int64)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """``value`` if it is one of the names that are known, or a :class:`ParameterError` that says them."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ParameterError(f"{name}={value!r}: choose one of {sorted(known)}")
    return value


def require_filter(value: Any) -> Filter:
    """``value``, or a :class:`ParameterError` where it is no filter."""
    from rnndsp.filter import Filter  # here, as filters check their settings, too

    if not isinstance(value, Filter):
        raise ParameterError(f"{value!r} is not a filter; a number goes in as rnndsp.gain(number)")
    return value


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """A random generator from a seed, or the one that is given."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(whole_number("seed", seed, least=0))

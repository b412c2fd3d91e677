"""Checks that many filters make of their settings."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from rnndsp.errors import ParameterError

__all__ = ["generator", "number", "whole_number"]


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int, or a :class:`ParameterError` that names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"{name}={value!r} must be a whole number, at least {least}")
    return int(value)


def number(name: str, value: Any) -> float:
    """``value`` as a float, or a :class:`ParameterError` that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(float(value)) < np.inf:
        raise ParameterError(f"{name}={value!r} must be a number")
    return float(value)


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """A random generator from a seed, or the one that is given."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(whole_number("seed", seed, least=0))

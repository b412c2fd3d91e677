"""What is known of a filter, and how well: a verdict for each property."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.state import State

__all__ = ["Boundedness", "Property", "StabilityReport", "Test", "Verdict"]

# The properties that have a verdict.
BOUNDED, ISS, CONTRACTION, UNIQUE = "bounded output", "input-to-state stability", "contraction", "unique rest state"
DECAY = "decay"


class Boundedness(IntEnum):
    """What is known of a filter's output before looking at any signal."""

    UNKNOWN = 0
    BOUNDED = 1  # for bounded inputs
    SATURATING = 2  # for any input at all


class Verdict(StrEnum):
    """How sure a statement is."""

    PROVED = "proved"
    REFUTED = "refuted"
    LOCAL = "holds at these operating points only"
    MARGINAL = "marginal by design"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Test:
    """A sufficient condition, ``value < limit``, passed or not.

    Attributes
    ----------
    name : str
    shows : str
        The property that is proved where it is passed.
    value, limit : float
    source : str
        Author and year.
    """

    name: str
    shows: str
    value: float
    limit: float = 1.0
    source: str = ""

    @property
    def passed(self) -> bool:
        return self.value < self.limit

    @property
    def margin(self) -> float:
        """How far it is passed, in parts of the limit; negative where it is not."""
        return 1 - self.value / self.limit


@dataclass(frozen=True)
class Property:
    """One property, its verdict, and why.

    Attributes
    ----------
    name : str
    verdict : Verdict
    statement : str
        What was found, in a sentence.
    hypotheses : str
        What the statement supposes.
    witness : Any
        For a refutation, what refutes it: a pole, an operating point, a pair of rest states.
    tests : tuple of Test
        What was tried, passed or not.
    bound : float, optional
        For a bounded output the bound; for what holds for small inputs only, the largest amplitude it is shown for.
    """

    name: str
    verdict: Verdict
    statement: str
    hypotheses: str = ""
    witness: Any = None
    tests: tuple[Test, ...] = ()
    bound: float | None = None

    @property
    def margin(self) -> float | None:
        """That of the best test which shows this property; None where no test was tried."""
        return max((test.margin for test in self.tests if test.shows == self.name), default=None)


@dataclass(frozen=True)
class StabilityReport:
    """One row a property; iterate it, index it by name, or print it.

    Attributes
    ----------
    properties : tuple of Property
    rest_states : tuple of State
        Those found at silence, the one reached from the initial state first.
    poles : ndarray
        Of the small-signal filter at the first of them.
    """

    properties: tuple[Property, ...]
    rest_states: tuple[State, ...]
    poles: NDArray[np.complex128]

    def __iter__(self) -> Iterator[Property]:
        return iter(self.properties)

    def __getitem__(self, name: str) -> Property:
        return {row.name: row for row in self.properties}[name]

    def _repr_html_(self) -> str:
        """The table, as notebooks show it."""
        from rnndsp import notebook

        return notebook.stability_html(self)

    def __str__(self) -> str:
        """A table of 120 letters a line: property, verdict, margin of the best test, what was found."""
        widths = (26, 12, 8, 74)
        lines = [_columns(("property", "verdict", "margin", "what was found"), widths), "-" * sum(widths)]
        for row in self.properties:
            verdict = {Verdict.LOCAL: "local only", Verdict.MARGINAL: "marginal"}.get(row.verdict, row.verdict.value)
            margin = "" if row.margin is None else _short(row.margin)
            said = wrap(row.statement, widths[-1], break_on_hyphens=False) or [""]
            if row.hypotheses:
                said += wrap(f"supposing: {row.hypotheses}", widths[-1], break_on_hyphens=False)
            starts = ((row.name, verdict, margin), *[("", "", "")] * (len(said) - 1))
            lines += [_columns((*start, line), widths) for start, line in zip(starts, said, strict=True)]
        return "\n".join(lines)


def _short(margin: float) -> str:
    """In seven letters at most."""
    return f"{margin:.2g}" if abs(margin) < 10 else f"{margin:.0f}" if abs(margin) < 1e4 else f"{margin:.0e}"


def below_one(value: float) -> str:
    """Four digits of it, and more where these would round to one."""
    return f"{value:.4g}" if value < 0.9999 else f"1 - {1 - value:.2g}"


def _columns(cells: Iterable[str], widths: tuple[int, ...]) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()

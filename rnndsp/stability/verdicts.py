"""What is known of a filter, and how well: a verdict for each property."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.state import State

__all__ = ["Boundedness", "Property", "StabilityReport", "Verdict"]


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
    UNKNOWN = "unknown"


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
    """

    name: str
    verdict: Verdict
    statement: str
    hypotheses: str = ""
    witness: Any = None


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
        lines = []
        for row in self.properties:
            lines.append(f"{row.name:<26}{row.verdict.value}")
            lines.append(f"    {row.statement}")
            if row.hypotheses:
                lines.append(f"    supposing: {row.hypotheses}")
        return "\n".join(lines)

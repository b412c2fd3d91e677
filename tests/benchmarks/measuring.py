"""Timing of rivals side by side, and the rows of the report."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

REPEATS = 9

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measurement: ``value`` of ours, and of a rival; ``ratio`` has a bound where there is a target."""

    name: str
    value: float
    unit: str
    rival: str = ""
    rival_value: float = math.nan
    ratio: float = math.nan
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    def __str__(self) -> str:
        target = f">= {self.at_least:g}" if self.at_least is not None else ""
        target = f"<= {self.at_most:g}" if self.at_most is not None else target
        rival = f"{self.rival:<22}{_number(self.rival_value):>9}"
        verdict = {True: "pass", False: "SHORT", None: ""}[self.passed]
        head = f"{self.name:<30}{_number(self.value):>9} {self.unit:<10} {rival} {_number(self.ratio):>9}"
        return f"{head} {target:<8}{verdict:<6}{self.note}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        fields = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        return {**fields, "passed": self.passed}


HEADER = f"{'':<30}{'ours':>9} {'':<10} {'rival':<22}{'':>9} {'ratio':>9} target"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def medians(calls: Mapping[str, Call], n_samples: int, repeats: int = REPEATS) -> dict[str, float]:
    """Microseconds a sample of each call, the median of interleaved repeats."""
    for call in calls.values():
        call()  # compile, and warm the caches
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - started) / n_samples * 1e6)
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}

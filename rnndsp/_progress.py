"""A bar on a terminal for what takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(label: str, *, after_s: float = 0.0) -> Iterator[Callable[..., None]]:
    """A bar on standard error; what it yields is told (done, total), and a line of text beside it if there is one.

    It only appears on a terminal, and where it is still being told something ``after_s`` seconds later.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(label, total=None, text="")
    began, shown = time.perf_counter(), False

    def tell(done: int, total: int, text: str = "") -> None:
        nonlocal shown
        if not shown and time.perf_counter() - began >= after_s:
            progress.start()
            shown = True
        progress.update(task, completed=done, total=total, text=text)

    try:
        yield tell
    finally:
        if shown:
            progress.stop()

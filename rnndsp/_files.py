"""Writing files so that nothing is lost: a temporary name first, then a rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnndsp.errors import ParameterError

__all__ = ["writing"]


@contextmanager
def writing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there on success, remove it on failure.

    Raises
    ------
    ParameterError
        ``path`` exists and ``force`` is not set, or its folder is missing or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise ParameterError(f"{target} is a folder; name a file")
    if target.exists() and not force:
        raise ParameterError(f"{target} exists; to replace it say force=True (-f on the command line)")
    if not target.parent.is_dir():
        raise ParameterError(f"the folder {target.parent} does not exist; make it first")
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise ParameterError(f"cannot write to the folder {target.parent}: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)

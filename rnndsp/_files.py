"""Writing files so that nothing is lost: a temporary name first, then a rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnndsp.errors import ParameterError

__all__ = ["check_writable", "new_folder", "writing"]

# In every folder that we made, so that we know which may be replaced.
MARK = ".rnndsp"


def check_writable(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise now what :func:`writing` would raise in the end: before work that takes long."""
    _, temporary = _claim(Path(path), force)
    temporary.unlink()


def _claim(target: Path, force: bool) -> tuple[Path, Path]:
    """The target and a new temporary file beside it."""
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
    return target, temporary


@contextmanager
def writing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there on success, remove it on failure.

    Raises
    ------
    ParameterError
        ``path`` exists and ``force`` is not set, or its folder is missing or cannot be written.
    """
    target, temporary = _claim(Path(path), force)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        # some writers put a file of their own there, which only its owner may read
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes that name on success and is removed on failure.

    With ``force`` a folder that is there is replaced, but only one that was written here: any other may hold what is
    not ours to delete.

    Raises
    ------
    ParameterError
        ``path`` exists, or the folder around it is missing or cannot be written.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not force:
            raise ParameterError(f"{target} exists; to replace it say force=True (-f on the command line)")
        if not (target / MARK).is_file():
            raise ParameterError(f"{target} was not written by rnndsp and is not replaced; name another folder")
    if not target.absolute().parent.is_dir():
        raise ParameterError(f"the folder {target.parent} does not exist; make it first")
    temporary = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
    except OSError as error:
        raise ParameterError(f"cannot write to the folder {target.parent}: {error.strerror}") from error
    try:
        (temporary / MARK).touch()
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""Fixtures that all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# before NumPy is loaded: several tests at a time, each on all cores, would mostly wait for one another
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_path() -> Path:
    """The folder of real data, no part of the project; tests that ask for it are skipped where it is absent."""
    folder = os.environ.get("RNNDSP_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(folder)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent, and RNNDSP_DATA names no folder")
    return folder


@pytest.fixture
def ax() -> Any:
    """Axes of a figure that is on no screen."""
    from matplotlib.figure import Figure

    return Figure().add_subplot()


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")

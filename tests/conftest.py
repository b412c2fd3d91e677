"""Fixtures that all tests share."""

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# before NumPy is loaded: several tests at a time, each on all cores, would mostly wait for one another
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A second look at the same code, installed from the wheel: does it hold all it needs, and does it work from elsewhere?
QUICK = bool(os.environ.get("RNNDSP_QUICK"))
# All of these all the same: what ships and is public, and every filter.
WHOLE = ("test_layout.py", "test_check_filter.py")
# Few tests, but minutes of them; pytest-xdist begins with the files of the most tests, and one worker would be left
# with these at the end while the others are idle.
LONG = ("test_certificates.py", "test_docs.py", "test_cli.py", "test_examples.py", "test_cache.py", "test_notebook.py")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the order below is the one that counts


def pytest_report_header() -> list[str]:
    told = f"RNNDSP_QUICK: nothing slow, and one set of parameters a test, but for {' and '.join(WHOLE)}"
    return [told] * QUICK


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slowest files first, then those of the most tests; in the quick pass a part of them, told in the header."""
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.path.name] = sizes.get(item.path.name, 0) + 1
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(item.path.name, len(LONG)), -sizes[item.path.name]))
    if QUICK:
        left_out = _left_out(items)
        config.hook.pytest_deselected(items=left_out)
        gone = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in gone]


def _left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """All but one set of parameters of every test: which one, the name of the test decides, so that all have a turn."""
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="quick: slow, and the pass before had it"))
        elif item.path.name not in WHOLE:
            families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {id(family[zlib.crc32(name.encode()) % len(family)]) for name, family in families.items()}
    return [item for family in families.values() for item in family if id(item) not in kept]


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

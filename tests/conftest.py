"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_path() -> Path:
    """The folder of real data, no part of the project; tests that ask for it are skipped where it is absent."""
    folder = os.environ.get("RNNDSP_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(folder)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent, and RNNDSP_DATA names no folder")
    return folder

"""The kernels' cache on disk: a second process compiles nothing, and no edit of a source is ever missed.

Oracles: the files in the cache folder, Numba's own statistics, and the closed form of a one-unit cell, before and after
its source is edited. All edits keep length and time stamp of the file, which is all that Numba itself looks at.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnndsp

CORE = Path(rnndsp.__file__).parent

BUILT_IN = """
import json
import numpy as np

from rnndsp.filters import GRU, LSTM, SOS, Dense, Elman, FeedbackDelayNetwork, dense, sections
from rnndsp import statespace
from rnndsp._vectors import lanes

u = np.ones((6, 1), np.float32)
cells = [LSTM(1, 2), GRU(1, 2), GRU(1, 2, reset="before"), Elman(1, 2)]
others = [Dense(1, 2), SOS([[1, 0.5, 0, 1, -0.5, 0]]), FeedbackDelayNetwork([2, 3], t60_s=1, sample_rate=8000)]
y = [filt(u).tolist() for filt in (*cells, *others)]
kernels = [cell._loop(cell._shape(np.dtype(np.float32), "units")) for cell in cells]
kernels += [dense._forward_few(lanes(np.dtype(np.float32))), sections._forward, statespace._forward]
hits, misses = ([sum(getattr(k.stats, what).values()) for k in kernels] for what in ("cache_hits", "cache_misses"))
print(json.dumps([hits, misses, y]))
"""

CELL = """
import helpers
from helpers import shape
from rnndsp import Cell, Stage
from rnndsp.activations import tanh

def unit(a, r, s, p):
    g = tanh(a[0] + r[0])
    return (shape(s[0] + 0.25 * (g - s[0])) + helpers.offset(s[0]) + helpers.TABLE[0],)

def adjoint(a, r, s, p, d):
    g = tanh(a[0] + r[0])
    e = 1.00 * d[0]
    return (e * 0.25 * (1 - g * g),), (e * 0.25 * (1 - g * g),), (0.75 * e,), ()

class Leaky(Cell):
    r'''h[t] = 0.75 h[t-1] + 0.25 tanh(W u[t] + U h[t-1] + b).

    *State*: h, zero at rest. *Stability*: |h| < 1 from rest.
    '''

    stages = (Stage(unit, adjoint, n_gates=1, n_out=1),)
    saturating = True
"""

HELPERS = """
import numpy as np
from numba.extending import register_jitable

TABLE = np.array([0.00, 1.00])

@register_jitable
def shape(x):
    return 1.00 * x

@register_jitable
def offset(x):
    return 0.00 * x
"""

USE = """
import json, sys
import numpy as np
from leaky import Leaky

from rnndsp.testing import check_filter

filt = Leaky(1, 1).replace(W=[[1.0]], U=[[0.0]], b=[0.0])
y = filt([0.5, 0.5])
kernel = filt._loop(filt._shape(np.dtype(float), "units"))
print(json.dumps([y.tolist(), sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values())]))
if "check" in sys.argv:
    check_filter(Leaky(2, 3))
"""


class Place:
    """A folder of modules with a cache of its own, and processes that use both."""

    def __init__(self, folder: Path) -> None:
        self.modules, self.cache = folder / "modules", folder / "cache"
        self.modules.mkdir()
        self.cache.mkdir()

    def run(self, code: str, *arguments: str, package: Path = CORE.parent) -> Any:
        environment = {
            **os.environ,
            "NUMBA_CACHE_DIR": str(self.cache),
            "PYTHONPATH": os.pathsep.join([str(self.modules), str(package)]),
            # Python's own byte code is stale, too, after an edit that keeps length and time
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.modules,
            check=False,
        )
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    def files(self) -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in self.cache.rglob("*") if path.is_file()}


def edit(path: Path, old: str, new: str) -> None:
    """Replace one piece of a source; the file is as long and as old as before."""
    text, stamp = path.read_text(encoding="utf-8"), path.stat()
    assert text.count(old) == 1 and len(old.encode()) == len(new.encode())
    path.write_text(text.replace(old, new), encoding="utf-8")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns and path.stat().st_size == stamp.st_size


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_second_process_compiles_nothing(place: Place) -> None:
    hits, misses, first = place.run(BUILT_IN)
    assert not any(hits) and all(misses), "the cache was not empty"
    before = place.files()
    assert before
    hits, misses, second = place.run(BUILT_IN)
    assert all(hits) and not any(misses), f"hits {hits}, misses {misses}"
    assert place.files() == before, "a second process wrote to the cache"
    assert first == second


@pytest.mark.slow
def test_a_users_cell(place: Place) -> None:
    cell, helpers = place.modules / "leaky.py", place.modules / "helpers.py"
    cell.write_text(CELL)
    helpers.write_text(HELPERS)

    def output(leak: float = 0.25, scale: float = 1, offset: float = 0, table: float = 0) -> list[float]:
        y, h = [], 0.0
        for _ in range(2):
            h = scale * (h + leak * (np.tanh(0.5) - h)) + offset * h + table
            y.append(h)
        return y

    def check(hit: bool, expected: list[float], *arguments: str) -> None:
        y, hits, misses = place.run(USE, *arguments)
        assert np.allclose(y, expected, rtol=1e-14), f"{y} is not {expected}: old machine code was used"
        assert (hits, misses) == ((1, 0) if hit else (0, 1))

    check(False, output(), "check")
    before = place.files()
    check(True, output(), "check")
    assert place.files() == before
    edit(cell, "s[0] + 0.25 * (g - s[0])", "s[0] + 0.50 * (g - s[0])")
    check(False, output(0.5))
    check(True, output(0.5))
    edit(helpers, "return 1.00 * x", "return 0.50 * x")
    check(False, output(0.5, 0.5))
    # what is reached as an attribute of a module, in a file from which nothing else is imported
    (place.modules / "more.py").write_text(HELPERS)
    cell.write_text(CELL.replace("import helpers", "import more as helpers"))
    check(False, output(scale=0.5))
    check(True, output(scale=0.5))
    edit(place.modules / "more.py", "return 0.00 * x", "return 0.50 * x")
    check(False, output(scale=0.5, offset=0.5))
    edit(place.modules / "more.py", "np.array([0.00", "np.array([0.25")
    check(False, output(scale=0.5, offset=0.5, table=0.25))
    check(True, output(scale=0.5, offset=0.5, table=0.25))


UPGRADED = """
import json
import numpy as np
import rnndsp
from rnndsp.filters import Dense, Elman

cell = Elman(1, 1).replace(W=[[1.0]], U=[[0.5]], b=[0.0])
dense = Dense(1, 1, activation="sigmoid").replace(W=[[1.0]], b=[0.0])
straight = Elman(1, 1, activation="identity").replace(W=[[1.0]], U=[[0.0625]], b=[0.0])
tail = straight(np.array([1, 0, 0], np.float32))
print(json.dumps([rnndsp.__file__, cell([0.5, 0.5]).tolist(), dense([0.5]).tolist(), tail.tolist()]))
"""


@pytest.mark.slow
def test_an_upgrade_of_the_package(place: Place, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(CORE, site / "rnndsp", ignore=shutil.ignore_patterns("__pycache__"))
    assert not (site / "rnndsp" / "filters").is_symlink()

    def run() -> tuple[list[float], float]:
        nonlocal tail
        file, cell, (dense,), tail = place.run(UPGRADED, package=site)
        assert Path(file).parent == site / "rnndsp"
        return cell, dense

    tail: list[float] = []

    first = np.tanh(0.5)
    old, sigmoid = [first, np.tanh(0.5 + 0.5 * first)], 1 / (1 + np.exp(-0.5))
    for _ in range(2):
        cell, dense = run()
        assert np.allclose(cell, old) and np.isclose(dense, sigmoid)
    edit(
        site / "rnndsp" / "filters" / "elman.py",
        "    return (tanh(a[0] + r[0]),)",
        "    return (tanh(a[0] - r[0]),)",
    )
    cell, dense = run()
    assert np.allclose(cell, [first, np.tanh(0.5 - 0.5 * first)]) and np.isclose(dense, sigmoid)
    source = site / "rnndsp" / "activations.py"
    edit(source, "return fma(0.5, tanh(0.5 * x), 0.5)", "return fma(-.5, tanh(0.5 * x), 0.5)")
    cell, dense = run()
    assert np.allclose(cell, [first, np.tanh(0.5 - 0.5 * first)]) and np.isclose(dense, 1 - sigmoid)
    # what stands for a function in kernels: this unit names nothing of that file
    assert tail == [1, 0.0625, 0.0625**2]
    edit(source, '"float32": 1e-20', '"float32": 1e-02')
    cell, dense = run()
    assert tail == [1, 0.0625, 0]
    # an intrinsic is no function, but a source all the same
    edit(
        site / "rnndsp" / "_vectors.py",
        "builder.select(small, zero, values[0])",
        "builder.select(small, values[0], zero)",
    )
    cell, dense = run()
    assert cell == [0, 0] and np.isclose(dense, 1 - sigmoid)

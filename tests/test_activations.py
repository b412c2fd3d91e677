"""Activations: grade, special values, symmetry, and that their kernels are vector code and cacheable."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest

from rnndsp.activations import TINY, flush, sigmoid, tanh

# Not `kernel`: its disk cache is stamped by this file alone and would outlive an edit of activations.py
compiled = numba.njit(nogil=True, error_model="numpy")


@compiled
def tanh_over(x, y):
    for i in range(x.size):
        y[i] = tanh(x[i])


@compiled
def sigmoid_over(x, y):
    for i in range(x.size):
        y[i] = sigmoid(x[i])


@compiled
def flush_over(x, y):
    for i in range(x.size):
        y[i] = flush(x[i])


@compiled
def one_tanh(x):
    return tanh(x)


OVER = {tanh: tanh_over, sigmoid: sigmoid_over, flush: flush_over}


def apply(function, x):
    y = np.empty_like(x)
    OVER[function](x, y)
    return y


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def grid(dtype):
    """Positive and negative: linear about zero and over the whole range, logarithmic from the subnormals to the top."""
    info = np.finfo(dtype)
    decades = np.linspace(np.log10(float(info.smallest_subnormal)), np.log10(float(info.max)), 100_001)
    x = np.concatenate([np.linspace(0, 0.5, 200_001), np.linspace(0, 45, 400_001), 10.0 ** decades[1:-1]])
    x = x.astype(dtype)
    return np.concatenate([x, -x, [info.max, -info.max]], dtype=dtype)


def exact(x):
    return np.tanh(x.astype(np.longdouble))


def test_tanh_grade(grid, dtype):
    absolute, relative = (3e-7, 5e-7) if dtype == np.float32 else (5e-16, 1e-15)
    error = np.abs(apply(tanh, grid) - exact(grid))
    assert error.max() <= absolute
    # half a subnormal is the rounding of the reference itself
    assert np.all(error <= relative * np.abs(exact(grid)) + np.finfo(dtype).smallest_subnormal / 2)


def test_tanh_is_odd_and_bounded(grid):
    y = apply(tanh, grid)
    assert np.array_equal(apply(tanh, -grid), -y)
    assert np.abs(y).max() == 1


def test_tanh_has_the_same_bits_in_vector_and_scalar_code(grid):
    x = grid[::499]
    assert np.array_equal(apply(tanh, x), [one_tanh(v) for v in x])


def test_sigmoid_grade(grid, dtype):
    y = apply(sigmoid, grid)
    expected = 0.5 + 0.5 * np.tanh(grid.astype(np.longdouble) / 2)
    assert np.abs(y - expected).max() <= (3e-7 if dtype == np.float32 else 5e-16)
    assert 0 <= y.min() <= 1.1e-20 and y.max() == 1


# nine times over, so that vector and remainder loops both see every value
@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (tanh, [np.nan, 1, -1, 0, 0]),
        (sigmoid, [np.nan, 1, 0, 0.5, 0.5]),
        (flush, [np.nan, np.inf, -np.inf, 0, 0]),
    ],
)
def test_special_values(function, expected, times, dtype):
    x = np.repeat(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype), times)
    for y in (apply(function, x), function(x)):
        assert y.dtype == dtype
        np.testing.assert_allclose(y, np.repeat(expected, times), rtol=0, atol=1.1e-20)


def test_flush(dtype):
    tiny = dtype.type(TINY[dtype.name])
    below = np.nextafter(tiny, dtype.type(0))
    x = np.array([tiny, -tiny, below, -below, np.finfo(dtype).smallest_subnormal, 1, -3], dtype)
    for y in (apply(flush, x), flush(x)):
        assert np.array_equal(y, np.array([tiny, -tiny, 0, 0, 0, 1, -3], dtype))


@pytest.mark.parametrize("function", [tanh, sigmoid, flush])
def test_plain_python(function, dtype):
    x = np.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    y = function(x)
    assert y.dtype == dtype and y.shape == x.shape
    assert np.allclose(y.ravel(), apply(function, x.ravel()), rtol=1e-6)
    assert function(x[0, 0]).dtype == dtype
    assert isinstance(function(0.25), float)


@pytest.mark.skipif(
    bool(numba.config.CPU_NAME) or not llvmlite.binding.get_host_cpu_features().get("avx"), reason="target without AVX"
)
@pytest.mark.parametrize("function", [tanh, sigmoid])
def test_vectorised(function, dtype):
    apply(function, np.ones(1, dtype))
    over, array = OVER[function], numba.from_dtype(dtype)[::1]
    ir = over.inspect_llvm((array, array))
    lanes = re.findall(rf"fdiv [^\n]*<(\d+) x {'float' if dtype == np.float32 else 'double'}>", ir)
    assert lanes and max(map(int, lanes)) * dtype.itemsize >= 32
    assert dtype == np.float64 or not re.search(r"fpext|\bx double>", ir)


def test_cached_across_processes(tmp_path):
    Path(tmp_path, "cached.py").write_text(
        "import numpy as np\n"
        "from rnndsp._jit import kernel\n"
        "from rnndsp.activations import flush, sigmoid, tanh\n"
        "@kernel\n"
        "def mixed(x):\n"
        "    for i in range(x.size):\n"
        "        x[i] = flush(tanh(x[i]) * sigmoid(x[i]))\n"
        "mixed(np.ones(3, np.float32)), mixed(np.ones(3))\n"
        "print(sum(mixed.stats.cache_hits.values()))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(tmp_path / "cached.py")]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [int(run.stdout) for run in runs] == [0, 2]

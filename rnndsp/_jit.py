"""The one door to Numba: typed decorators, the compile options of every kernel, and the cache key of kernel sources."""

import hashlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import overload, register_jitable

__all__ = ["inline", "kernel", "source_key", "specialise"]

F = TypeVar("F", bound=Callable[..., Any])

# The vectoriser gives up at a call that LLVM thinks too large to inline (a gate of four sigmoids is): inline always.
# No fastmath, anywhere: sums keep their order, a NaN test survives, and `fma` says where a product is not rounded.
_INSIDE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "forceinline": True}

# What stands for a function in kernels, which its own source does not name.
_SPECIALISED: dict[Callable[..., Any], list[Callable[..., Any]]] = {}

_overload: Any = overload
_kernel: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


def kernel(function: F) -> F:
    """Compile lazily, once per dtype, kept on disk; releases the GIL.

    Numba's cache stamps the file of the cached function alone: after an edit of a function that it calls, or an upgrade
    of the package, it would go on giving the old machine code. What a closure captures does enter its key, so a hash of
    all the sources below is captured here.
    """
    code = function.__code__.replace(co_freevars=(*function.__code__.co_freevars, "source_key"))
    closure = (*(function.__closure__ or ()), types.CellType(source_key(function)))
    keyed: Any = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    keyed.__qualname__, keyed.__doc__ = function.__qualname__, function.__doc__
    compiled: F = _kernel(keyed)
    return compiled


def inline(function: F) -> F:
    """Make a plain Python function callable from kernels; it stays a plain function outside of them."""
    register_jitable(**_INSIDE)(function)
    return function


def specialise(stub: Callable[..., Any]) -> Callable[[F], F]:
    """Choose an implementation of ``stub`` by the types of its arguments, at compile time (``numba.overload``)."""

    def decorate(function: F) -> F:
        _SPECIALISED.setdefault(stub, []).append(function)
        found: F = _overload(stub, jit_options=_INSIDE)(function)
        return found

    return decorate


def source_key(*functions: Callable[..., Any]) -> str:
    """Hash of the source file of every function, and of every constant, that is reached from ``functions``."""
    # this file too: it holds the compile options
    digest = hashlib.sha256(numba.__version__.encode() + Path(__file__).read_bytes())
    seen: set[int] = set()
    files: set[str] = set()

    def visit(function: Any) -> None:
        function = getattr(function, "py_func", getattr(function, "_defn", function))  # a dispatcher, an intrinsic
        if id(function) in seen or not isinstance(function, types.FunctionType):
            return
        seen.add(id(function))
        path = Path(function.__code__.co_filename)
        if str(path) not in files:
            files.add(str(path))
            # without a file (a notebook, a prompt) the byte code and its constants have to do
            digest.update(path.read_bytes() if path.is_file() else _anatomy(function.__code__))
        captured = [cell.cell_contents for cell in function.__closure__ or ()]
        names = _names(function.__code__)
        named = [(name, function.__globals__.get(name)) for name in names]
        # `helpers.soft(x)` names the module `helpers` and its attribute `soft`
        modules = [value for _, value in named if isinstance(value, types.ModuleType) and _foreign(value.__name__)]
        named += [(name, getattr(module, name)) for module in modules for name in names if hasattr(module, name)]
        for implementation in _SPECIALISED.get(function, ()):
            visit(implementation)
        for name, value in [*named, *(("", value) for value in captured)]:
            if isinstance(value, int | float | complex | str | tuple | np.generic):
                digest.update(f"{name}={value!r}".encode())
            elif isinstance(value, np.ndarray):
                digest.update(f"{name}={value.dtype}{value.shape}".encode() + value.tobytes())
            elif _foreign(getattr(value, "__module__", None) or ""):
                visit(value)

    for function in functions:
        visit(function)
    return digest.hexdigest()


def _foreign(module: str) -> bool:
    """Whether a module's sources may change while Numba's version does not."""
    return module.partition(".")[0] not in ("numpy", "numba", "math", "builtins")


def _names(code: types.CodeType) -> list[str]:
    """What a function names, those inside it included."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return [*code.co_names, *inner]


def _anatomy(code: types.CodeType) -> bytes:
    inner = b"".join(_anatomy(c) if isinstance(c, types.CodeType) else repr(c).encode() for c in code.co_consts)
    return code.co_code + repr(code.co_names).encode() + inner

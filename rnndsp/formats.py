"""Filters and states as files: one safetensors file, numbers and a description, nothing that runs."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._files import writing
from rnndsp.errors import FormatError, RnndspError
from rnndsp.filter import Filter
from rnndsp.state import Field, State

__all__ = ["load", "load_state", "save", "save_state"]

FORMAT_VERSION = 1
# A composition nested deeper than this was not made by a person.
MAX_DEPTH = 50


def save(filt: Filter, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a filter to a file that :func:`load` reads back, equal to the bit.

    The file is in safetensors format: every array of ``filt.params`` under its name, and in the metadata the format
    version and the tree of classes and configurations as JSON.

    Raises
    ------
    ParameterError
        The file exists and ``force`` is not set, or cannot be written.
    """
    _write(path, "filter", _describe(filt), dict(filt.params), force)


def load(path: str | os.PathLike[str]) -> Filter:
    """Read a filter written by :func:`save`.

    No code of the file's is run: a class is only ever looked up by name, among ours and among those that you have
    imported.

    Raises
    ------
    FormatError
        The file is missing, damaged, of a newer version, of an unknown class; a tensor is missing, left over, of a
        wrong shape, or holds NaN.
    """
    description, tensors = _read(path, "filter")
    try:
        filt = _build(description, tensors, "", 0)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except (RnndspError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise FormatError(f"{path} does not describe a filter: {error}") from error
    if tensors:
        raise FormatError(f"{path}: tensors left over, {sorted(tensors)}; this is not the file of such a filter")
    return filt


def save_state(state: State, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a state to a file that :func:`load_state` reads back."""
    tensors: dict[str, NDArray[Any]] = {}
    _write(path, "state", _describe_state(state, tensors, "state"), tensors, force)


def load_state(path: str | os.PathLike[str]) -> State:
    """Read a state; whether it fits a filter is checked where it is used."""
    description, tensors = _read(path, "state")
    try:
        state = _build_state(description, tensors, "state", 0)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(f"{path} does not describe a state: {error}") from error
    if tensors:
        raise FormatError(f"{path}: tensors left over, {sorted(tensors)}")
    return state


def _write(
    path: str | os.PathLike[str], kind: str, description: Any, tensors: dict[str, NDArray[Any]], force: bool
) -> None:
    from safetensors.numpy import save_file

    metadata = {"format": "rnndsp", "format_version": str(FORMAT_VERSION), kind: json.dumps(description)}
    with writing(path, force=force) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary, metadata)


def _read(path: str | os.PathLike[str], kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FormatError(f"{path} is not a file")
    try:
        # the library checks header and sizes against the file before anything is allocated
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "rnndsp" or kind not in metadata:
                raise FormatError(f"{path} is a safetensors file, but holds no rnndsp {kind}")
            version = metadata.get("format_version", "")
            if version != str(FORMAT_VERSION):
                raise FormatError(
                    f"{path} has format version {version!r}, this rnndsp reads {FORMAT_VERSION}; upgrade rnndsp"
                )
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
            if odd := {name: dtype for name, dtype in kinds.items() if dtype not in ("F32", "F64")}:
                raise FormatError(f"{path}: tensors must be float32 or float64, not {odd}")
            tensors = {name: file.get_tensor(name) for name in kinds}
        return json.loads(metadata[kind]), tensors
    except (SafetensorError, OSError, json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is not a file that rnndsp wrote, or is damaged: {error}") from error


def _describe(filt: Filter) -> dict[str, Any]:
    return {
        "class": filt.registered_name(),
        "config": dict(filt.config),
        "sample_rate": filt.sample_rate,
        "children": [_describe(child) for child in filt.children],
    }


def _build(node: Any, tensors: dict[str, NDArray[Any]], prefix: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise FormatError(f"filters nested deeper than {MAX_DEPTH}")
    if not isinstance(node, dict) or set(node) != {"class", "config", "sample_rate", "children"}:
        raise FormatError("the description of a filter must have class, config, sample_rate and children")
    cls = _find(node["class"])
    children = [_build(child, tensors, f"{prefix}{place}.", depth + 1) for place, child in enumerate(node["children"])]
    own = [name for name in tensors if name.startswith(prefix) and "." not in name[len(prefix) :]]
    config = {name: _tuples(value) for name, value in node["config"].items()}
    return cls._restore(config, {name[len(prefix) :]: tensors.pop(name) for name in own}, children, node["sample_rate"])


def _tuples(value: Any) -> Any:
    """JSON has no tuples, a configuration no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _find(name: str) -> type[Filter]:
    if not isinstance(name, str):
        raise FormatError(f"class {name!r} is not a name")
    if name not in Filter.registry and "." not in name:
        import rnndsp
        from rnndsp import filters

        # looking a public name up imports the family that defines it
        for room in (rnndsp, filters):
            if name in room.__all__:
                getattr(room, name)
    cls = Filter.registry.get(name)
    if cls is None or inspect.isabstract(cls):
        module, _, bare = name.rpartition(".")
        remedy = f"run `import {module}`, which should define {bare}," if module else f"define a Filter called {bare}"
        raise FormatError(f"unknown filter class {name!r}: {remedy} and load again")
    return cls


def _describe_state(state: State, tensors: dict[str, NDArray[Any]], name: str) -> dict[str, Any]:
    tensors[name] = state.vector
    children = [_describe_state(child, tensors, f"{name}.{place}") for place, child in enumerate(state.children)]
    return {"index": state.index, "fields": [list(field) for field in state.fields], "children": children}


def _build_state(node: Any, tensors: dict[str, NDArray[Any]], name: str, depth: int) -> State:
    if depth > MAX_DEPTH:
        raise ValueError(f"states nested deeper than {MAX_DEPTH}")
    fields = tuple(Field(str(field), _tuples(shape), _tuples(rings)) for field, shape, rings in node["fields"])
    vector = tensors.pop(name)
    if vector.ndim < 1 or vector.shape[-1] != sum(field.size for field in fields) or not np.isfinite(vector).all():
        raise ValueError(f"{name} of shape {vector.shape} does not hold the fields {fields}")
    children = tuple(_build_state(n, tensors, f"{name}.{i}", depth + 1) for i, n in enumerate(node["children"]))
    return State(vector, fields, children, int(node["index"]))

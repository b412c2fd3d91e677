"""Filters and states as files: one safetensors file, numbers and a description, nothing that runs."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
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

# Tensors by what stands before their last dot: each filter of a tree finds its own at once.
_Rooms = dict[str, dict[str, NDArray[Any]]]


def save(filt: Filter, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a filter to a file that :func:`load` reads back, equal to the bit.

    The file is in safetensors format: every array of ``filt.params`` under its name, and in the metadata the format
    version and the tree of classes and configurations as JSON.

    Parameters
    ----------
    filt : Filter
    path : path
    force : bool
        Replace a file that is there.

    Raises
    ------
    ParameterError
        The file exists and ``force`` is not set, or cannot be written.
    """
    write(path, {"filter": describe(filt)}, dict(filt.params), force=force)


def load(path: str | os.PathLike[str]) -> Filter:
    """Read a filter written by :func:`save`.

    No code of the file's is run: a class is only ever looked up by name, among ours and among those that you have
    imported.

    Parameters
    ----------
    path : path

    Raises
    ------
    FormatError
        The file is missing, damaged, of a newer version, of an unknown class; a tensor is missing, left over, of a
        wrong shape, or holds NaN.
    """
    description, tensors = read(path, "filter")
    try:
        rooms: _Rooms = {}
        for name, value in tensors.items():
            place, dot, bare = name.rpartition(".")
            rooms.setdefault(place + dot, {})[bare] = value
        filt = _build(description, rooms, "", 0)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:  # whatever a class says to what the file says, it is the file's fault
        raise FormatError(f"{path} does not describe a filter: {_said(error)}") from error
    if left := [place + name for place, room in rooms.items() for name in room]:
        raise FormatError(f"{path}: tensors left over, {sorted(left)}; this is not the file of such a filter")
    return filt


def save_state(state: State, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a state to a file that :func:`load_state` reads back.

    Parameters
    ----------
    state : State
    path : path
    force : bool
        Replace a file that is there.
    """
    tensors: dict[str, NDArray[Any]] = {}
    write(path, {"state": _describe_state(state, tensors, "state")}, tensors, force=force)


def load_state(path: str | os.PathLike[str]) -> State:
    """Read a state; whether it fits a filter is checked where it is used.

    Parameters
    ----------
    path : path

    Raises
    ------
    FormatError
        The file is missing, damaged or inconsistent, or holds NaN.
    """
    description, tensors = read(path, "state")
    try:
        state = _build_state(description, tensors, "state", 0)
    except Exception as error:
        raise FormatError(f"{path} does not describe a state: {_said(error)}") from error
    if tensors:
        raise FormatError(f"{path}: tensors left over, {sorted(tensors)}")
    return state


def write(
    path: str | os.PathLike[str], contents: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, force: bool
) -> None:
    """Write tensors and, by kind, descriptions of what they are; :func:`read` gives both back."""
    from safetensors.numpy import save_file

    metadata = {kind: json.dumps(description) for kind, description in contents.items()}
    with writing(path, force=force) as temporary:
        save_file(
            {name: np.asarray(value, order="C") for name, value in tensors.items()},
            temporary,
            {"format": "rnndsp", "format_version": str(FORMAT_VERSION), **metadata},
        )


def read(path: str | os.PathLike[str], kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The description of a kind and the tensors of a file, or a :class:`FormatError`; sizes are checked first."""
    from safetensors import SafetensorError, safe_open

    if not isinstance(path, str | os.PathLike):
        raise FormatError(f"{path!r} is no path")
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
        return json.loads(metadata[kind], object_pairs_hook=_unique), tensors
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        # the first eight bytes of ours are a length: text gives one that is beyond all bounds
        why = "it holds text" if _is_text(path) else error
        raise FormatError(f"{path} is not a file that rnndsp wrote, or is damaged: {why}") from error


def _is_text(path: str | os.PathLike[str]) -> bool:
    try:
        with Path(path).open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    return bool(start) and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RnndspError) else f"{type(error).__name__}: {error}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, readers would differ about which one counts."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]}")
    return dict(pairs)


def describe(filt: Filter) -> dict[str, Any]:
    return {
        "class": filt.registered_name(),
        "config": dict(filt.config),
        "sample_rate": filt.sample_rate,
        "children": [describe(child) for child in filt.children],
    }


def _build(node: Any, rooms: _Rooms, prefix: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise FormatError(f"filters nested deeper than {MAX_DEPTH}")
    if not isinstance(node, dict) or set(node) != {"class", "config", "sample_rate", "children"}:
        raise FormatError("the description of a filter must have class, config, sample_rate and children")
    cls = _find(node["class"])
    if not isinstance(node["config"], dict) or not isinstance(node["children"], list):
        raise FormatError("config must be an object, children a list")
    children = [_build(child, rooms, f"{prefix}{place}.", depth + 1) for place, child in enumerate(node["children"])]
    config = {name: _tuples(value) for name, value in node["config"].items()}
    return cls._restore(config, rooms.pop(prefix, {}), children, node["sample_rate"])


def _tuples(value: Any) -> Any:
    """JSON has no tuples, a configuration no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _find(name: str) -> type[Filter]:
    if not isinstance(name, str):
        raise FormatError(f"class {name!r} is not a name")
    if name not in Filter.registry and name[:1].isupper() and "." not in name:
        import rnndsp
        from rnndsp import filters

        # looking a public name up imports the family that defines it
        for room in (rnndsp, filters):
            if name in room.__all__:
                getattr(room, name)
    cls = Filter.registry.get(name)
    if cls is None or inspect.isabstract(cls):
        module, _, bare = name.rpartition(".")
        if module == "__main__":
            remedy = f"it was defined in a script or notebook; define {bare} in this one"
        elif module:
            remedy = f"run `import {module}`, which should define {bare},"
        else:
            remedy = "this rnndsp has no such filter; upgrade it"
        raise FormatError(f"unknown filter class {name!r}: {remedy} and load again")
    return cls


def _describe_state(state: State, tensors: dict[str, NDArray[Any]], name: str) -> dict[str, Any]:
    tensors[name] = state.vector
    children = [_describe_state(child, tensors, f"{name}.{place}") for place, child in enumerate(state.children)]
    return {"index": state.index, "fields": [list(field) for field in state.fields], "children": children}


def _build_state(node: Any, tensors: dict[str, NDArray[Any]], name: str, depth: int) -> State:
    if depth > MAX_DEPTH:
        raise ValueError(f"states nested deeper than {MAX_DEPTH}")
    if not isinstance(node, dict) or set(node) != {"index", "fields", "children"}:
        raise ValueError("the description of a state must have index, fields and children")
    if not isinstance(node["fields"], list) or not isinstance(node["children"], list):
        raise ValueError("fields and children must be lists")
    if type(node["index"]) is not int or not 0 <= node["index"] < 2**62:
        raise ValueError(f"the sample index {node['index']!r} must be a whole number of at least 0")
    fields = tuple(_build_field(*part) for part in node["fields"])
    if len({field.name for field in fields}) < len(fields):
        raise ValueError(f"two fields of one name among {[field.name for field in fields]}")
    vector = tensors.pop(name)
    if vector.ndim < 1 or vector.shape[-1] != sum(field.size for field in fields) or not np.isfinite(vector).all():
        raise ValueError(f"{name} of shape {vector.shape} does not hold the fields {fields}")
    children = tuple(_build_state(n, tensors, f"{name}.{i}", depth + 1) for i, n in enumerate(node["children"]))
    return State(vector, fields, children, node["index"])


def _build_field(name: Any, shape: Any, rings: Any) -> Field:
    if not (isinstance(name, str) and all(isinstance(part, list) for part in (shape, rings))):
        raise ValueError(f"a field has a name, a shape and rings, not {name!r}, {shape!r}, {rings!r}")
    if not all(type(n) is int and n >= least for part, least in ((shape, 0), (rings, 1)) for n in part):
        raise ValueError(f"field {name}: {shape=} and {rings=} must be whole numbers")
    field = Field(name, tuple(shape), tuple(rings))
    if rings and sum(rings) != field.size:
        raise ValueError(f"field {name}: {rings=} do not fill its {shape=}")
    return field

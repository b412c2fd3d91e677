"""The state of a filter: a value apart from the filter, passed in and handed back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnndsp.errors import ParameterError

__all__ = ["Field", "State"]


class Field(NamedTuple):
    """One named part of a state: its shape for one voice, and the lengths of the delay lines it is made of, if any.

    A field with ``rings`` is flat, ``sum(rings)`` long: one circular delay line after the other. Sample ``index %
    length`` of a line is the oldest, so nothing is ever moved and no position has to be stored.

    Attributes
    ----------
    name : str
    shape : tuple of int
    rings : tuple of int
    """

    name: str
    shape: tuple[int, ...]
    rings: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class State:
    """What a filter remembers between two samples.

    Parameters are the filter's, the state is yours: :meth:`Filter.run` takes one and hands the next one back, and never
    changes the one it was given. ``state.h`` (or ``state["h"]``) is the field that the filter's docstring calls ``h``;
    compositions hold the states of their parts in ``state.children``.

    Parameters
    ----------
    vector : ndarray, shape (..., n)
        The own fields of the filter, one after the other; leading axes are voices.
    index : int
        Absolute index of the next sample since the start of the signal.
    fields : tuple of Field
    children : tuple of State
    """

    __slots__ = ("_workspaces", "children", "fields", "index", "rows", "vector")

    def __init__(
        self,
        vector: NDArray[Any],
        fields: tuple[Field, ...] = (),
        children: tuple[State, ...] = (),
        index: int = 0,
    ) -> None:
        self.vector = vector
        self.fields = fields
        self.children = children
        self.index = index
        # the own fields as (voices, n), a view for the kernels
        self.rows = vector.reshape(math.prod(vector.shape[:-1]), vector.shape[-1])
        self._workspaces: dict[Any, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # what else it holds is made of these, or scribbled on
        return State, (self.vector, self.fields, self.children, self.index)

    def workspace(self, name: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """An array that a kernel scribbles on, made once, so that blocks allocate nothing; no part of the value."""
        array = self._workspaces.get(name)
        if array is None:
            array = self._workspaces[name] = make()
        return array

    def buffer(self, name: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A workspace for a signal, made anew only when the blocks change their size."""
        array = self._workspaces.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._workspaces[name] = np.empty(shape, dtype)
        return array

    def forget_workspaces(self) -> None:
        """Before a state goes to another filter, or to a user."""
        self._workspaces.clear()
        for child in self.children:
            child.forget_workspaces()

    def __getitem__(self, name: str) -> NDArray[Any]:
        start = 0
        for field in self.fields:
            stop = start + field.size
            if field.name == name:
                return self.vector[..., start:stop].reshape(*self.vector.shape[:-1], *field.shape)
            start = stop
        raise KeyError(f"{name!r}: this state has the fields {[field.name for field in self.fields]}")

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in self.fields)

    def _order(self) -> NDArray[np.intp]:
        """Storage index of each entry of :meth:`ravel`: delay lines from their oldest sample to their newest."""
        parts, start = [], 0
        for field in self.fields:
            for length in field.rings or (field.size,):
                shift = self.index % length if field.rings else 0
                parts.append(start + np.roll(np.arange(length), -shift))
                start += length
        return np.concatenate(parts) if parts else np.zeros(0, np.intp)

    def ravel(self) -> NDArray[Any]:
        """The whole state as one flat vector a voice, shape (..., n_states): what Jacobians and poles refer to.

        Own fields first, then the children's; a delay line runs from its oldest sample (the next to come out) to its
        newest.
        """
        own = self.vector[..., self._order()]
        return np.concatenate([own, *(child.ravel() for child in self.children)], axis=-1)

    def unravel(self, flat: NDArray[Any]) -> State:
        """A state of the same layout and sample index with the values of ``flat``, the inverse of :meth:`ravel`."""
        flat = np.asarray(flat, self.vector.dtype)
        if flat.shape[-1] != self.size:
            raise ParameterError(f"{flat.shape=}: this state holds {self.size} numbers a voice")
        vector = np.empty((*flat.shape[:-1], self.vector.shape[-1]), self.vector.dtype)
        vector[..., self._order()] = flat[..., : self.vector.shape[-1]]
        children, start = [], self.vector.shape[-1]
        for child in self.children:
            children.append(child.unravel(flat[..., start : start + child.size]))
            start += child.size
        return State(vector, self.fields, tuple(children), self.index)

    @property
    def size(self) -> int:
        """How many numbers a voice remembers."""
        return int(self.vector.shape[-1]) + sum(child.size for child in self.children)

    def copy(self) -> State:
        return State(self.vector.copy(), self.fields, tuple(child.copy() for child in self.children), self.index)

    def voice(self, place: int) -> State:
        """One voice of several, sharing memory with this state (its sample index apart)."""
        children = tuple(child.voice(place) for child in self.children)
        return State(self.rows[place : place + 1], self.fields, children, self.index)

    @property
    def indices(self) -> tuple[Any, ...]:
        """Sample index, here and in all children."""
        return self.index, tuple(child.indices for child in self.children)

    @indices.setter
    def indices(self, indices: tuple[Any, ...]) -> None:
        self.index = indices[0]
        for child, inner in zip(self.children, indices[1], strict=True):
            child.indices = inner

    def assign(self, other: State) -> None:
        """Take over the values of another state of the same layout, in place (no allocation)."""
        self.vector[...] = other.vector
        self.index = other.index
        for mine, theirs in zip(self.children, other.children, strict=True):
            mine.assign(theirs)

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Fields and voices, whatever the dtype."""
        return self.fields, self.vector.shape, tuple(child.shapes for child in self.children)

    @property
    def layout(self) -> tuple[Any, ...]:
        """Shapes and dtypes: two states with equal layouts can stand in for each other."""
        return self.shapes, self.dtypes

    @property
    def dtypes(self) -> tuple[Any, ...]:
        return self.vector.dtype, tuple(child.dtypes for child in self.children)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return (
            self.layout == other.layout
            and self.index == other.index
            and bool(np.array_equal(self.vector, other.vector))
            and self.children == other.children
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        names = ", ".join(f"{field.name}{field.shape}" for field in self.fields)
        inside = f", children={list(self.children)}" if self.children else ""
        return f"State({names}; voices={self.vector.shape[:-1]}, index={self.index}{inside})"

"""Filters made of filters: series, parallel, residual, feedback, and knobs. Each is again a filter."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp import _tangents, statespace
from rnndsp._checks import number, require_filter, whole_number
from rnndsp._intervals import Interval, hull
from rnndsp._jit import kernel
from rnndsp._tangents import Jacobians
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import MAX_STATES, Control, Filter
from rnndsp.stability import Boundedness
from rnndsp.stability._metrics import SLACK, feedback_gain
from rnndsp.stability.enclosures import (
    Enclosure,
    Place,
    combined,
    enclosed,
    last_output,
    unbounded,
)
from rnndsp.stability.spectrum import MARGIN, loop_radius
from rnndsp.stability.verdicts import below_one
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace

__all__ = ["Crossfade", "Feedback", "Knobs", "Latency", "Parallel", "Residual", "Series", "Stack"]

# Frames that a composition hands on at a time: what is between its parts then stays in the cache, and small.
CHUNK = 4096
# Rounds in which bounds of what goes round a loop have to stop growing.
LOOPS = 40

Params = dict[str, NDArray[Any]]
# what a filter's _adjoint returns: derivatives of the input, of the initial state, of the parameters
Backward = tuple[NDArray[Any], NDArray[Any], Params]


@kernel
def _gather(full: Any, signal: Any, n: Any, u: Any, first: Any) -> None:
    """The first ``n`` columns from ``signal``, the others from ``u``, there from column ``first`` on.

    NumPy takes several times as long to copy rows that are so short.
    """
    for voice in range(full.shape[0]):
        for t in range(full.shape[1]):
            for i in range(n):
                full[voice, t, i] = signal[voice, t, i]
            for i in range(n, full.shape[2]):
                full[voice, t, i] = u[voice, t, first + i - n]


class _Composition(Filter):
    """What compositions share: handing each child its controls, and collecting its gradients."""

    def _setup(self) -> None:
        self.is_linear = all(child.is_linear for child in self.children)
        self.period = math.lcm(*(child.period for child in self.children))

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        if u.shape[1] <= CHUNK:
            self._hand_on(u, state, y)
            return
        for t in range(0, u.shape[1], CHUNK):
            part = np.ascontiguousarray(u[:, t : t + CHUNK])
            out = state.buffer("out", (*part.shape[:2], self.n_outputs), u.dtype)
            self._hand_on(part, state, out)
            y[:, t : t + CHUNK] = out

    def _hand_on(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        """:meth:`_advance` for a piece that is not long."""
        raise NotImplementedError

    def _inputs(self, u: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """The signal, and the columns of controls of each child."""
        return u[..., : self.n_inputs], [u[..., columns] for columns in self._columns()]

    def _fed(self, place: int, signal: NDArray[Any], u: NDArray[Any], state: State) -> NDArray[Any]:
        """A child's kernel input: the first columns of ``signal``, and its controls from ``u``; both contiguous."""
        n, columns = self.children[place].n_inputs, self._columns()[place]
        n_columns = n + columns.stop - columns.start
        if signal.shape[2] == n_columns == n:
            return signal
        full = state.buffer(("fed", place), (*u.shape[:2], n_columns), u.dtype)
        _gather(full, signal, n, u, columns.start)
        return full

    def _contraction(self) -> str | None:
        own = super()._contraction()
        if own is None and all(child._contraction() for child in self.children):
            return "every part contracts: " + "; ".join(dict.fromkeys(str(c._contraction()) for c in self.children))
        return own

    def _energy_gain(self, place: Place) -> float:
        return super()._energy_gain(place) if self.is_linear else self._energy_of(self._energy_gains(place))

    def _energy_gains(self, place: Place) -> list[float]:
        """Of the children, whatever comes to them."""
        whatever = Place(place.u)
        return [
            child._energy_gain(whatever.inside(unbounded(child.n_inputs), np.zeros(child.n_inputs), columns, i))
            for i, (child, columns) in enumerate(zip(self.children, self._columns(), strict=True))
        ]

    def _energy_of(self, gains: list[float]) -> float:
        """That of the whole."""
        return np.inf

    def _columns(self) -> list[slice]:
        """Where the controls of each child stand, behind the inputs and the own controls."""
        found: list[slice] = self._derived("columns", self._count_columns)
        return found

    def _count_columns(self) -> list[slice]:
        counts = [len(child.controls) for child in self.children]
        first = self.n_inputs + len(self.controls) - sum(counts)
        return [slice(*ends) for ends in pairwise(accumulate(counts, initial=first))]

    def _split(self, dx: NDArray[Any]) -> list[NDArray[Any]]:
        """Cut a flat state into the own part and one for each child."""
        own = sum(field.size for field in self.fields)
        return np.split(dx, np.cumsum([own, *(child.n_states for child in self.children)])[:-1], axis=1)


@kernel
def _add(y: Any, part: Any) -> None:
    """``y += part``; NumPy would warn where a filter has blown up, which is the stream's business."""
    for voice in range(y.shape[0]):
        for t in range(y.shape[1]):
            for channel in range(y.shape[2]):
                y[voice, t, channel] += part[voice, t, channel]


def _joined(signal: NDArray[Any], controls: NDArray[Any]) -> NDArray[Any]:
    """A child's kernel input: contiguous, its controls appended."""
    if not controls.shape[-1]:
        return np.ascontiguousarray(signal)
    return np.concatenate([signal, controls], axis=-1)


def _output(child: Filter, u: NDArray[Any]) -> NDArray[Any]:
    return np.empty((*u.shape[:2], child.n_outputs), u.dtype)


def _peek(child: Filter, state: State, u: NDArray[Any]) -> NDArray[Any]:
    """The output frame for one input frame, the state left alone."""
    y = np.empty((1, 1, child.n_outputs))
    child._process(u[None, None], state.copy(), y)
    frame: NDArray[Any] = y[0, 0]
    return frame


def _prefixed(params: list[Params]) -> Params:
    return {f"{place}.{name}": value for place, own in enumerate(params) for name, value in own.items()}


class Series(_Composition):
    """``a >> b >> c``: the output of each filter is the input of the next.

    Parameters
    ----------
    *filters : Filter
        The outputs of each as many as the inputs of the next.

    Notes
    -----
    *State*: the filters' states in ``children``. *Latency*: the sum. *Stability*: a series of filters that are
    bounded-input bounded-output, input-to-state stable or contracting is so too.

    Raises
    ------
    ParameterError
        Channel counts, sample rates or control names that do not fit.
    """

    def __init__(self, *filters: Filter) -> None:
        flat = [part for f in map(require_filter, filters) for part in (f.children if type(f) is Series else (f,))]
        super().__init__({}, {}, flat)

    def _setup(self) -> None:
        super()._setup()
        if not self.children:
            raise ParameterError("Series needs at least one filter")
        for before, after in zip(self.children, self.children[1:], strict=False):
            if before.n_outputs != after.n_inputs:
                raise ParameterError(
                    f"{type(before).__name__} has {before.n_outputs} outputs, {type(after).__name__} after it has "
                    f"{after.n_inputs} inputs; put a Dense or a gain matrix in between"
                )
        self.n_inputs, self.n_outputs = self.children[0].n_inputs, self.children[-1].n_outputs
        self.latency = sum(child.latency for child in self.children)

    def _hand_on(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        signal = u
        n_voices, n_frames, _ = u.shape
        last = len(self.children) - 1
        for place, child in enumerate(self.children):
            full = self._fed(place, signal, u, state)
            signal = y if place == last else state.buffer(place, (n_voices, n_frames, child.n_outputs), u.dtype)
            child._process(full, state.children[place], signal)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        signal, controls = self._inputs(u)
        memories = []
        for child, inner, columns in zip(self.children, state.children, controls, strict=True):
            signal, memory = child._tape(_joined(signal, columns), inner)
            memories.append(memory)
        return signal, memories

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        dy, columns, parts, params = self._back(memory, dy, dx)
        first = self.children[0]
        du, part, own = first._adjoint(memory[0], np.ascontiguousarray(dy), parts[0])
        dy, columns[0] = du[..., : first.n_inputs], du[..., first.n_inputs :]
        dx = np.concatenate([part, *parts[1:]], axis=1)
        return np.concatenate([dy, *columns], axis=-1), dx, _prefixed([own, *params[1:]])

    def _adjoint_of_params(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> tuple[NDArray[Any], Params]:
        dy, _, parts, params = self._back(memory, dy, dx)
        part, own = self.children[0]._adjoint_of_params(memory[0], np.ascontiguousarray(dy), parts[0])
        return np.concatenate([part, *parts[1:]], axis=1), _prefixed([own, *params[1:]])

    def _back(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], list[NDArray[Any]], list[NDArray[Any]], list[Params]]:
        """From the end to the output of the first child."""
        parts = self._split(dx)[1:]
        params: list[Params] = [{}] * len(parts)
        columns: list[NDArray[Any]] = [dy] * len(parts)
        for place in range(len(parts) - 1, 0, -1):
            child = self.children[place]
            du, parts[place], params[place] = child._adjoint(memory[place], np.ascontiguousarray(dy), parts[place])
            dy, columns[place] = du[..., : child.n_inputs], du[..., child.n_inputs :]
        return dy, columns, parts, params

    def _boundedness(self) -> Boundedness:
        kinds = [child._boundedness() for child in self.children]
        if Boundedness.SATURATING in kinds:
            # after the last part that saturates all that counts is what follows it
            last = len(kinds) - 1 - kinds[::-1].index(Boundedness.SATURATING)
            return Boundedness.SATURATING if all(kinds[last:]) else Boundedness.UNKNOWN
        return min(kinds)

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        signal, controls = self._inputs(u)
        whole: DelayStateSpace | None = None
        for child, inner, columns in zip(self.children, state.children, controls, strict=True):
            frame = np.concatenate([signal, columns])
            part = child._linearize(inner, frame)
            whole = part if whole is None else statespace.series(whole, part)
            signal = _peek(child, inner, frame)
        assert whole is not None
        return whole

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        signal, controls = self._inputs(u)
        whole: Jacobians | None = None
        for child, inner, columns in zip(self.children, state.children, controls, strict=True):
            part = child._jacobians(_joined(signal, columns), inner)
            whole = part if whole is None else _tangents.series(whole, part)
            signal = part.y
        assert whole is not None
        state.index += len(u)
        return whole

    def _enclosure(self, place: Place) -> Enclosure:
        signal, frame = place.u[: self.n_inputs], place.middle[: self.n_inputs]
        found: list[Enclosure] = []
        for i, (child, columns) in enumerate(zip(self.children, self._columns(), strict=True)):
            here = place.inside(signal, frame, columns, i)
            found.append(child._enclosure(here))
            signal, frame = found[-1].y, last_output(child, here)
        return enclosed(signal, combined(found, lambda total, gain: gain @ total), found)

    def _energy_of(self, gains: list[float]) -> float:
        return math.prod(gains)


class Parallel(_Composition):
    """``a + b``: all filters on the same input, their outputs summed.

    Parameters
    ----------
    *filters : Filter
        Of equal numbers of inputs and of outputs. Those of less latency than the others are delayed to match.

    Notes
    -----
    *State*: the filters' states in ``children``. *Latency*: the largest. *Stability*: a sum of stable filters is
    stable.

    Raises
    ------
    ParameterError
        Channel counts, sample rates or control names that do not fit.
    """

    def __init__(self, *filters: Filter) -> None:
        flat = [part for f in map(require_filter, filters) for part in (f.children if type(f) is Parallel else (f,))]
        super().__init__({}, {}, _aligned(flat))

    def _setup(self) -> None:
        super()._setup()
        shapes = {(child.n_inputs, child.n_outputs) for child in self.children}
        if len(shapes) != 1:
            raise ParameterError(f"Parallel needs filters of equal inputs and outputs, not {sorted(shapes)}")
        if len({child.latency for child in self.children}) != 1:
            raise ParameterError("Parallel needs filters of equal latency")
        ((self.n_inputs, self.n_outputs),) = shapes
        self.latency = self.children[0].latency

    def _hand_on(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        part = state.buffer("part", y.shape, y.dtype)
        for place, child in enumerate(self.children):
            child._process(self._fed(place, u, u, state), state.children[place], part if place else y)
            if place:
                _add(y, part)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        signal, controls = self._inputs(u)
        parts, memories = zip(
            *(child._tape(_joined(signal, controls[i]), state.children[i]) for i, child in enumerate(self.children)),
            strict=True,
        )
        y = parts[0].copy()
        for part in parts[1:]:
            _add(y, part)
        return y, memories

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        parts = self._split(dx)[1:]
        sides = [
            child._adjoint(inner, dy, part) for child, inner, part in zip(self.children, memory, parts, strict=True)
        ]
        total = np.sum([du[..., : self.n_inputs] for du, _, _ in sides], axis=0)
        du = np.concatenate([total, *(du[..., self.n_inputs :] for du, _, _ in sides)], axis=-1)
        return du, np.concatenate([dx for _, dx, _ in sides], axis=1), _prefixed([params for _, _, params in sides])

    def _boundedness(self) -> Boundedness:
        return min(child._boundedness() for child in self.children)

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        signal, controls = self._inputs(u)
        parts = [
            child._linearize(inner, np.concatenate([signal, columns]))
            for child, inner, columns in zip(self.children, state.children, controls, strict=True)
        ]
        whole = parts[0]
        for part in parts[1:]:
            whole = statespace.parallel(whole, part)
        return whole

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        signal, controls = self._inputs(u)
        parts = [
            child._jacobians(_joined(signal, columns), inner)
            for child, inner, columns in zip(self.children, state.children, controls, strict=True)
        ]
        whole = parts[0]
        for part in parts[1:]:
            whole = _tangents.parallel(whole, part)
        state.index += len(u)
        return whole

    def _enclosure(self, place: Place) -> Enclosure:
        signal, frame = place.u[: self.n_inputs], place.middle[: self.n_inputs]
        found = [
            child._enclosure(place.inside(signal, frame, columns, i))
            for i, (child, columns) in enumerate(zip(self.children, self._columns(), strict=True))
        ]
        return enclosed(reduce(operator.add, (part.y for part in found)), combined(found, operator.add), found)

    def _energy_of(self, gains: list[float]) -> float:
        return sum(gains)


class Stack(_Composition):
    """Filters side by side, each on channels of its own: ``y = [a(u[:, :k]), b(u[:, k:])]``.

    Parameters
    ----------
    *filters : Filter
        Those of less latency than the others are delayed to match.
    shared : bool
        One set of controls turns all of them, which have to have the same ones.

    Notes
    -----
    *State*: the filters' states in ``children``. *Latency*: the largest. *Stability*: what all of them have.

    Raises
    ------
    ParameterError
        No filter, or sample rates or controls that do not fit.

    Examples
    --------
    >>> from rnndsp import delay, gain
    >>> Stack(gain(0.5), delay(1))([[1.0, 1.0], [0.0, 0.0]])
    array([[0.5, 0. ],
           [0. , 1. ]])
    """

    def __init__(self, *filters: Filter, shared: bool = False) -> None:
        super().__init__({"shared": bool(shared)}, {}, _aligned([require_filter(f) for f in filters]))

    def _setup(self) -> None:
        super()._setup()
        if not self.children:
            raise ParameterError("Stack needs at least one filter")
        if len({child.latency for child in self.children}) != 1:
            raise ParameterError("Stack needs filters of equal latency")
        self.shared = self.config["shared"]
        if self.shared:
            self.controls = self.children[0].controls
            if any(child.controls != self.controls for child in self.children):
                raise ParameterError("shared=True needs filters with the same controls")
        self.n_inputs = sum(child.n_inputs for child in self.children)
        self.n_outputs = sum(child.n_outputs for child in self.children)
        self.latency = self.children[0].latency

    def _inherited(self) -> list[Control]:
        return [] if self.shared else super()._inherited()

    def _inputs(self, u: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        if not self.shared:
            return super()._inputs(u)
        return u[..., : self.n_inputs], [u[..., self.n_inputs :]] * len(self.children)

    def _columns(self) -> list[slice]:
        return [slice(self.n_inputs, None)] * len(self.children) if self.shared else super()._columns()

    def _channels(self, counts: Iterable[int]) -> list[slice]:
        ends = np.cumsum([0, *counts])
        return [slice(first, stop) for first, stop in pairwise(ends)]

    @property
    def _entries(self) -> list[slice]:
        return self._channels(child.n_inputs for child in self.children)

    @property
    def _exits(self) -> list[slice]:
        return self._channels(child.n_outputs for child in self.children)

    def _parts_of(self, u: NDArray[Any]) -> list[NDArray[Any]]:
        """What each filter gets, its controls included."""
        signal, controls = self._inputs(u)
        return [_joined(signal[..., own], columns) for own, columns in zip(self._entries, controls, strict=True)]

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        parts = zip(self._parts_of(u), self._exits, strict=True)
        for place, (part, own) in enumerate(parts):
            child = self.children[place]
            out = state.buffer(place, (*u.shape[:2], child.n_outputs), u.dtype)
            child._process(part, state.children[place], out)
            y[..., own] = out

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        taped = zip(self.children, self._parts_of(u), state.children, strict=True)
        parts, memories = zip(*(child._tape(part, inner) for child, part, inner in taped), strict=True)
        return np.concatenate(parts, axis=-1), memories

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        sides = [
            child._adjoint(inner, np.ascontiguousarray(dy[..., own]), part)
            for child, inner, own, part in zip(self.children, memory, self._exits, self._split(dx)[1:], strict=True)
        ]
        counts = [child.n_inputs for child in self.children]
        signals = [du[..., :n] for (du, _, _), n in zip(sides, counts, strict=True)]
        controls = [du[..., n:] for (du, _, _), n in zip(sides, counts, strict=True)]
        controls = [np.sum(controls, axis=0)] if self.shared else controls
        du = np.concatenate([*signals, *controls], axis=-1)
        return du, np.concatenate([dx for _, dx, _ in sides], axis=1), _prefixed([params for _, _, params in sides])

    def _boundedness(self) -> Boundedness:
        return min(child._boundedness() for child in self.children)

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        parts = zip(self.children, state.children, self._parts_of(u), strict=True)
        return reduce(statespace.stack, (child._linearize(inner, part) for child, inner, part in parts))

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        parts = zip(self.children, self._parts_of(u), state.children, strict=True)
        whole = reduce(_tangents.stack, (child._jacobians(part, inner) for child, part, inner in parts))
        state.index += len(u)
        return whole

    def _enclosure(self, place: Place) -> Enclosure:
        parts = zip(self.children, self._entries, self._columns(), strict=True)
        found = [
            child._enclosure(place.inside(place.u[own], place.middle[own], columns, i))
            for i, (child, own, columns) in enumerate(parts)
        ]
        y = Interval(*(np.concatenate(ends) for ends in zip(*((part.y.lo, part.y.hi) for part in found), strict=True)))
        return enclosed(y, combined(found, statespace.block_diagonal), found)

    def _energy_of(self, gains: list[float]) -> float:
        return max(gains)


def _aligned(filters: list[Filter]) -> list[Filter]:
    """All of the largest latency among them."""
    latency = max((f.latency for f in filters), default=0)
    return [f if f.latency == latency else f >> Latency(latency - f.latency, f.n_outputs) for f in filters]


class Residual(Parallel):
    """``y = u + a(u)``, the dry signal delayed by the latency of ``a``.

    Parameters
    ----------
    inner : Filter
        With as many outputs as inputs.

    Notes
    -----
    *State*: those of the dry path and of ``inner``, in ``children``. *Stability*: that of ``inner``, as for any
    :class:`Parallel`.
    """

    def __init__(self, inner: Filter) -> None:
        super().__init__(statespace.gain(np.eye(require_filter(inner).n_inputs)), inner)


@kernel
def _blend(y: Any, second: Any, u: Any, mix: Any) -> None:
    """``y`` where the column ``mix`` of ``u`` is 0, ``second`` where it is 1."""
    for voice in range(y.shape[0]):
        for t in range(y.shape[1]):
            share = u[voice, t, mix]
            for channel in range(y.shape[2]):
                y[voice, t, channel] = (1 - share) * y[voice, t, channel] + share * second[voice, t, channel]


class Crossfade(Parallel):
    r"""From one filter to another by a knob, both on the same input.

    .. math:: y[t] = (1 - m[t])\,a(u)[t] + m[t]\,b(u)[t]

    With ``rnndsp.gain(1.0)`` for a it is the dry/wet knob of an effect b.

    Parameters
    ----------
    first, second : Filter
        a and b, of equal numbers of inputs and of outputs. The one of less latency is delayed to match.
    mix : float
        Default of the control ``mix``, within 0 and 1.

    Notes
    -----
    *Controls*: ``mix``, m, read at every sample; then those of both filters.

    *State*: the filters' states in ``children``. *Latency*: the larger. *Stability*: that of both, however ``mix``
    moves.

    Raises
    ------
    ParameterError
        A mix out of its range; channel counts, sample rates or control names that do not fit.
    """

    def __init__(self, first: Filter, second: Filter, *, mix: float = 0.5) -> None:
        Filter.__init__(self, {"mix": mix}, {}, _aligned([require_filter(first), require_filter(second)]))

    def _setup(self) -> None:
        super()._setup()
        if len(self.children) != 2:
            raise ParameterError(f"{type(self).__name__} has two parts, not {len(self.children)}")
        self.controls = (Control("mix", number("mix", self.config["mix"]), 0.0, 1.0),)
        self.controls[0].check(self.controls[0].default)

    def _shares(self, u: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """How much of each filter is heard, at every frame."""
        mix = u[..., self.n_inputs, None]
        return 1 - mix, mix

    def _hand_on(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        second = state.buffer("part", y.shape, y.dtype)
        for place, (child, out) in enumerate(zip(self.children, (y, second), strict=True)):
            child._process(self._fed(place, u, u, state), state.children[place], out)
        _blend(y, second, u, self.n_inputs)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        signal, controls = self._inputs(u)
        (a, of_a), (b, of_b) = (
            child._tape(_joined(signal, columns), inner)
            for child, columns, inner in zip(self.children, controls, state.children, strict=True)
        )
        y = a.copy()
        _blend(y, b, u, self.n_inputs)
        return y, (u, (of_a, of_b), b - a)

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        u, memories, apart = memory
        parts = [dy * share for share in self._shares(u)]
        sides = [
            child._adjoint(inner, np.ascontiguousarray(part), own)
            for child, inner, part, own in zip(self.children, memories, parts, self._split(dx)[1:], strict=True)
        ]
        n = self.n_inputs
        total = sides[0][0][..., :n] + sides[1][0][..., :n]
        dmix = np.sum(dy * apart, axis=-1, keepdims=True)
        du = np.concatenate([total, dmix, *(du[..., n:] for du, _, _ in sides)], axis=-1)
        return du, np.concatenate([dx for _, dx, _ in sides], axis=1), _prefixed([params for _, _, params in sides])

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        signal, controls = self._inputs(u)
        parts = [
            child._linearize(inner, np.concatenate([signal, columns]))
            for child, inner, columns in zip(self.children, state.children, controls, strict=True)
        ]
        first, second = (
            statespace.space(p.A, p.B, share * p.C, share * p.D, p.delays, sample_rate=p.sample_rate)
            for p, share in zip(parts, self._shares(u), strict=True)
        )
        return statespace.parallel(first, second)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        signal, controls = self._inputs(u)
        parts = []
        for child, inner, columns, share in zip(self.children, state.children, controls, self._shares(u), strict=True):
            part = child._jacobians(_joined(signal, columns), inner)
            each = share[..., None]
            parts.append(part._replace(C=each * part.C, D=each * part.D, y=share * part.y))
        state.index += len(u)
        return _tangents.parallel(*parts)

    def _enclosure(self, place: Place) -> Enclosure:
        signal, frame, mix = place.u[: self.n_inputs], place.middle[: self.n_inputs], place.u[self.n_inputs]
        found = []
        for i, (child, columns) in enumerate(zip(self.children, self._columns(), strict=True)):
            part, share = child._enclosure(place.inside(signal, frame, columns, i)), mix if i else 1 - mix
            found.append(part if part.gain is None else replace(part, gain=float(share.mag) * part.gain))
        (first, second), gain = found, combined(found, operator.add)
        return enclosed(mix * (second.y - first.y) + first.y, gain, found)


class Latency(DelayStateSpace):
    """A pure delay that nobody asked for: it counts as latency, where :func:`rnndsp.delay` is an effect.

    Parameters
    ----------
    n_samples, n_channels : int

    Notes
    -----
    *State*: field ``lines``, see :class:`DelayStateSpace`; zero at rest. *Stability*: always, there being no feedback.
    """

    def __init__(self, n_samples: int, n_channels: int = 1) -> None:
        if n_samples < 1 or n_channels < 1:
            raise ParameterError(f"{n_samples=} and {n_channels=} must be at least 1")
        one = np.eye(n_channels)
        super().__init__(0 * one, one, one, 0 * one, [n_samples] * n_channels)

    def _setup(self) -> None:
        super()._setup()
        if len(set(self.delays.tolist())) != 1:
            raise ParameterError(f"Latency delays all channels alike, not by {self.delays.tolist()}")
        self.latency = int(self.delays[0])


class Feedback(_Composition):
    r"""A loop with an explicit delay.

    .. math:: y[t] = F\big(u[t] + G(y[t - d])\big)

    Parameters
    ----------
    forward : Filter
        F.
    backward : Filter or float
        G, from the outputs of F to its inputs; a number is a gain. Its sign is yours: nothing is subtracted.
    delay : int
        d in samples, at least 1.
    allow_unstable : bool
        Accept a linear loop that does not decay: oscillators are instruments.

    Notes
    -----
    *State*: field ``line``, the last d outputs, channel after channel; then the states of F and G in ``children``. Zero
    at rest.

    Blocks run through F and G in chunks of d samples, so a loop of a few samples costs a call of both each few samples.

    *Stability*: a linear loop is refused unless its spectral radius is below one, which for it is necessary and
    sufficient. For a nonlinear one nothing is checked here; a small gain, the product of the Lipschitz constants of F
    and G below one, in the maximum norm or in that of energy, suffices, and :meth:`stability` looks for it.

    Raises
    ------
    ParameterError
        Channel counts that do not fit, or a linear loop with spectral radius >= 1.
    """

    def __init__(
        self, forward: Filter, backward: Filter | float = 1.0, *, delay: int, allow_unstable: bool = False
    ) -> None:
        if isinstance(backward, int | float | np.number):
            backward = statespace.gain(float(backward) * np.eye(require_filter(forward).n_outputs))
        config = {"delay": delay, "allow_unstable": allow_unstable}
        super().__init__(config, {}, [require_filter(forward), require_filter(backward)])

    def _setup(self) -> None:
        super()._setup()
        if len(self.children) != 2:
            raise ParameterError(f"Feedback has two parts, forward and backward, not {len(self.children)}")
        forward, backward = self.children
        if (backward.n_inputs, backward.n_outputs) != (forward.n_outputs, forward.n_inputs):
            raise ParameterError(
                f"backward has {backward.n_inputs} inputs and {backward.n_outputs} outputs, forward needs "
                f"{forward.n_outputs} and {forward.n_inputs}"
            )
        self.n_inputs, self.n_outputs = forward.n_inputs, forward.n_outputs
        self.latency = forward.latency
        self.delay = whole_number("delay", self.config["delay"])
        if self.delay > MAX_STATES:
            raise ParameterError(f"delay={self.delay} is more than {MAX_STATES} samples")
        if not isinstance(self.config["allow_unstable"], bool):
            raise ParameterError(f"allow_unstable={self.config['allow_unstable']!r} must be True or False")
        self.fields = (Field("line", (self.n_outputs * self.delay,), (self.delay,) * self.n_outputs),)

    def _check(self) -> None:
        if self.is_linear and not self.config["allow_unstable"]:
            radius = loop_radius(self)
            if radius is None:
                raise ParameterError(
                    f"this loop of {self.n_states} states is too large to tell whether it decays; shorten its delays, "
                    "or say allow_unstable=True"
                )
            if radius >= 1 - MARGIN:
                raise ParameterError(
                    f"this loop has spectral radius {radius:.12g} >= 1 and would not decay; lower the gain of "
                    "backward, or say allow_unstable=True"
                )

    def _loop(self, u: NDArray[Any], state: State, y: NDArray[Any], chunks: list[Any] | None) -> None:
        (forward, backward), (ahead, behind) = self.children, state.children
        signal, controls = self._inputs(u)
        n_voices, n_frames = u.shape[:2]
        line = state.rows.reshape(n_voices, self.n_outputs, self.delay)
        for now, place in self._chunks(n_frames, state.index):
            # a copy, as the line is overwritten below and the tape keeps this
            returned = _joined(line[:, :, place].transpose(0, 2, 1).copy(), controls[1][:, now])
            if chunks is None:
                back = _output(backward, returned)
                backward._process(returned, behind, back)
                entering = _joined(signal[:, now] + back, controls[0][:, now])
                out = _output(forward, entering)
                forward._process(entering, ahead, out)
            else:
                back, memory = backward._tape(returned, behind)
                out, other = forward._tape(_joined(signal[:, now] + back, controls[0][:, now]), ahead)
                chunks.append((now, other, memory))
            line[:, :, place] = flush(out).transpose(0, 2, 1)
            y[:, now] = out

    def _chunks(self, n_frames: int, index: int) -> Iterator[tuple[slice, slice]]:
        """Frames in turn, and where they stand in the line; chunks end where it wraps round."""
        t = 0
        while t < n_frames:
            position = (index + t) % self.delay
            n = min(self.delay - position, n_frames - t)
            yield slice(t, t + n), slice(position, position + n)
            t += n

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        with np.errstate(all="ignore"):  # a loop that blows up is the stream's business
            self._loop(u, state, y, None)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = _output(self, u)
        chunks: list[Any] = []
        self._loop(u, state, y, chunks)
        return y, (u.shape, chunks)

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        (forward, backward), d = self.children, self.delay
        shape, chunks = memory
        n_voices, n_frames = shape[:2]
        own, ahead, behind = self._split(dx)
        # outputs from -d to the end on one axis: the initial line, then those of this run
        outputs = np.zeros((n_voices, d + n_frames, self.n_outputs), dy.dtype)
        outputs[:, d:] = dy
        outputs[:, n_frames:] += own.reshape(n_voices, self.n_outputs, d).transpose(0, 2, 1)
        du = np.zeros(shape, dy.dtype)
        split = self.n_inputs + len(forward.controls)
        params: list[Params] = [{}, {}]
        for now, other, inner in reversed(chunks):
            then = slice(now.start + d, now.stop + d)
            dentering, ahead, dforward = forward._adjoint(other, np.ascontiguousarray(outputs[:, then]), ahead)
            du[:, now, :split] = dentering
            dback = np.ascontiguousarray(dentering[..., : self.n_inputs])
            dreturned, behind, dbackward = backward._adjoint(inner, dback, behind)
            outputs[:, now] += dreturned[..., : self.n_outputs]
            du[:, now, split:] = dreturned[..., self.n_outputs :]
            for total, part in zip(params, (dforward, dbackward), strict=True):
                total.update({name: total.get(name, 0) + value for name, value in part.items()})
        if not chunks:
            params = [{k: np.zeros_like(v) for k, v in child.params.items()} for child in self.children]
        initial = outputs[:, :d].transpose(0, 2, 1).reshape(n_voices, -1)
        return du, np.concatenate([initial, ahead, behind], axis=1), _prefixed(params)

    def _contraction(self) -> str | None:
        return Filter._contraction(self)  # contracting parts do not make a contracting loop

    def _enclosure(self, place: Place) -> Enclosure:
        if self.is_linear:
            return super()._enclosure(place)
        signal, (ahead, behind) = place.u[: self.n_inputs], self._columns()
        frame, line = place.middle[: self.n_inputs], np.zeros(self.n_outputs)
        if place.rest:
            line = place.rest[1].vector.reshape(self.n_outputs, self.delay)[:, 0]
        y, held = Interval(line), False
        for _ in range(LOOPS):
            there = place.inside(y, line, behind, 1)
            back = self.children[1]._enclosure(there)
            entering = frame + last_output(self.children[1], there)
            out = self.children[0]._enclosure(place.inside(signal + back.y, entering, ahead, 0))
            # while all that came back is within y, so is what comes next: then it is for ever
            held = out.y.within(y)
            if held or not np.isfinite(out.y.mag).all():
                break
            y = hull(y, out.y + Interval(-0.1 * out.y.rad, 0.1 * out.y.rad))
        gain, why = None, ""
        if held and out.gain is not None and back.gain is not None:
            gain = feedback_gain(out.gain @ back.gain, out.gain)
        if gain is not None:
            why = "small gain: round the loop all differences shrink"
        elif (around := math.prod(self._energy_gains(place))) < 1 - SLACK:
            kept = below_one(around**2)
            why = f"small gain in a quadratic norm: round the loop differences keep {kept} of their energy"
        return enclosed(out.y if held else unbounded(self.n_outputs), gain, [out, back], why)

    def _energy_of(self, gains: list[float]) -> float:
        around = math.prod(gains)
        return gains[0] / (1 - around) if around < 1 - SLACK else np.inf

    def _boundedness(self) -> Boundedness:
        forward, backward = (child._boundedness() for child in self.children)
        if forward == Boundedness.SATURATING:
            return forward
        if backward == Boundedness.SATURATING:
            return forward  # F hears u plus something bounded
        return super()._boundedness()

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        (forward, backward), (ahead, behind) = self.children, state.children
        signal, controls = self._inputs(u)
        oldest = state.vector.reshape(self.n_outputs, self.delay)[:, state.index % self.delay]
        returned = np.concatenate([oldest, controls[1]])
        entering = np.concatenate([signal + _peek(backward, behind, returned), controls[0]])
        return statespace.feedback(
            forward._linearize(ahead, entering), backward._linearize(behind, returned), self.delay
        )

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        if self.is_linear:
            return super()._jacobians(u, state)
        (forward, backward), (ahead, behind) = self.children, state.children
        signal, controls = self._inputs(u)
        line = state.rows.reshape(self.n_outputs, self.delay)
        pieces = []
        for now, place in self._chunks(len(u), state.index):
            back = backward._jacobians(_joined(line[:, place].T.copy(), controls[1][now]), behind)
            out = forward._jacobians(_joined(signal[now] + back.y, controls[0][now]), ahead)
            line[:, place] = flush(out.y).T
            pieces.append(_tangents.feedback(out, back, self.delay))
        state.index += len(u)
        return _tangents.in_turn(pieces)


class Knobs(_Composition):
    """Makes the last inputs of a filter its controls, as amp and effect models take their knobs.

    Parameters
    ----------
    inner : Filter
        Its first inputs are the signal, its last ones the knobs.
    knobs : mapping of str to float
        Name and default of each knob, in the order of the inputs.
    low, high : float
        Range of the knobs.

    Notes
    -----
    *State*: that of ``inner``, in ``children``. *Stability*: that of ``inner``, whose last inputs stay within the range
    of the knobs.

    Examples
    --------
    >>> from rnndsp.filters import LSTM, Dense
    >>> amp = Knobs(LSTM(2, 8) >> Dense(8, 1), {"drive": 0.5})
    >>> amp.n_inputs, [control.name for control in amp.controls]
    (1, ['drive'])
    """

    def __init__(self, inner: Filter, knobs: Mapping[str, float], *, low: float = 0.0, high: float = 1.0) -> None:
        config = {
            "names": tuple(knobs),
            "defaults": tuple(map(float, knobs.values())),
            "low": float(low),
            "high": float(high),
        }
        super().__init__(config, {}, [require_filter(inner)])

    def _setup(self) -> None:
        if len(self.children) != 1:
            raise ParameterError(
                f"Knobs has one part, the filter whose inputs it turns into knobs, not {len(self.children)}"
            )
        (inner,) = self.children
        # a knob that is an input like the others leaves an offset where there is no signal, so is_linear stays false
        names, defaults, low, high = (self.config[k] for k in ("names", "defaults", "low", "high"))
        if not (isinstance(names, tuple) and isinstance(defaults, tuple) and len(names) == len(defaults)):
            raise ParameterError(f"{names=} and {defaults=} must be tuples of one length")
        if not 1 <= len(names) < inner.n_inputs:
            raise ParameterError(
                f"{len(names)} knobs {list(names)} for a filter of {inner.n_inputs} inputs: one must be the signal"
            )
        if any("." in str(name) for name in names):
            raise ParameterError(f"knobs {list(names)}: a dot in a name is for the knobs of parts, as in '0.drive'")
        self.controls = tuple(Control(name, value, low, high) for name, value in zip(names, defaults, strict=True))
        for control in self.controls:
            control.check(control.default)
        self.n_inputs, self.n_outputs = inner.n_inputs - len(names), inner.n_outputs
        self.latency, self.period = inner.latency, inner.period

    def _boundedness(self) -> Boundedness:
        return self.children[0]._boundedness()

    # the columns of the knobs stand just where the inner filter expects its last inputs

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self.children[0]._process(u, state.children[0], y)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        return self.children[0]._tape(u, state.children[0])

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        du, dx, params = self.children[0]._adjoint(memory, dy, dx)
        return du, dx, _prefixed([params])

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        full = self.children[0]._linearize(state.children[0], u)
        B, D = full.B[:, : self.n_inputs], full.D[:, : self.n_inputs]
        return statespace.space(full.A, B, full.C, D, full.delays, sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        found = self.children[0]._jacobians(u, state.children[0])
        state.index += len(u)
        return found._replace(B=found.B[..., : self.n_inputs], D=found.D[..., : self.n_inputs])

    def _enclosure(self, place: Place) -> Enclosure:
        inner = self.children[0]._enclosure(place.inside(place.u, place.middle, slice(0), 0))
        return inner if inner.gain is None else replace(inner, gain=inner.gain[:, : self.n_inputs])

    def _energy_gain(self, place: Place) -> float:
        return self.children[0]._energy_gain(Place(place.u))

"""What a filter is: parameters that never change, a state apart from them, and one interface for all."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.state import Field, State

if TYPE_CHECKING:
    from rnndsp._tangents import Jacobians
    from rnndsp.composition import Parallel, Series
    from rnndsp.stability import Boundedness, StabilityReport
    from rnndsp.stability.enclosures import Enclosure, Place
    from rnndsp.statespace import DelayStateSpace
    from rnndsp.stream import Stream

__all__ = ["Control", "Filter", "Gradient", "Tape"]

Controls = Mapping[str, ArrayLike]

_DERIVING = threading.RLock()

# Numbers that a state may hold, 46 minutes of delay at 48 kHz: what asks for more is a slip or a damaged file.
MAX_STATES = 2**27

# Frames that are taped, and whose gradients are summed, at a time.
PIECE = 1024


@dataclass(frozen=True)
class Control:
    """A knob: an input that a player turns, held constant or ramped while the signal flows.

    Attributes
    ----------
    name : str
        Its key in ``stream.controls``; a unit stands at the end of the name (``cutoff_hz``).
    default, low, high : float
        Value where none is given, and the closed range of allowed values.
    """

    name: str
    default: float
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ParameterError(f"a control has a name, not {self.name!r}")
        for value in (self.default, self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ParameterError(f"control {self.name}={value!r} must be one number; ramps go to run and stream")

    def check(self, value: ArrayLike) -> NDArray[np.float64]:
        """The value as an array, or a :class:`ParameterError` where it leaves the range."""
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise ParameterError(f"control {self.name}={value!r} must be a number") from None
        if not np.all((array >= self.low) & (array <= self.high)):
            raise ParameterError(f"control {self.name}={value!r} must lie within [{self.low:g}, {self.high:g}]")
        return array


@dataclass(frozen=True)
class Gradient:
    """Derivatives of a scalar loss.

    Attributes
    ----------
    u : ndarray, shape of the input
    state : ndarray, shape (..., n_states)
        By the initial state, in the order of :meth:`State.ravel`.
    params : dict of str to ndarray
        By every parameter, under its name in ``filt.params``.
    controls : dict of str to ndarray, shape (..., n_frames)
        By the value of every control at every frame.
    """

    u: NDArray[Any]
    state: NDArray[Any]
    params: dict[str, NDArray[Any]]
    controls: dict[str, NDArray[Any]]


class Tape:
    """A forward pass that remembers what its adjoint needs, or can find it again.

    Attributes
    ----------
    y : ndarray
        The output, equal to the bit to that of :meth:`Filter.run`.
    state : State
        The state after the last sample.
    """

    def __init__(
        self, filt: Filter, signal: NDArray[Any], state: State, shape: tuple[int, ...], kept: int | None
    ) -> None:
        # a copy, as frames may be run again when the caller has long written over his
        self._filter, self._signal, self._start = filt, signal.copy(), state
        self._input_shape, self._kept = shape, kept
        self._n_pieces = max(1, -(-signal.shape[1] // PIECE))
        self._memories: list[Any] = []
        self._states: dict[int, State] = {}
        self.state = state.copy()
        with np.errstate(all="ignore"):
            pieces = list(self._first_pass())
        y = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        require_finite(y, "output", state.index)
        self.y = filt._release(y, state.vector.shape[:-1], len(shape) == 1)

    def adjoint(self, dy: ArrayLike, dstate: ArrayLike | None = None) -> Gradient:
        """Back-propagate through time.

        Parameters
        ----------
        dy : array, shape of ``y``
            Derivative of the loss with respect to every output sample.
        dstate : array, shape (..., n_states), optional
            Derivative with respect to the final state, in the order of :meth:`State.ravel`.

        Returns
        -------
        Gradient
        """
        filt, lead = self._filter, self.state.vector.shape[:-1]
        du, dx, params = self._back(dy, dstate, filt._adjoint)
        n_frames = du.shape[1]
        controls = {c.name: du[..., i].reshape(*lead, n_frames) for i, c in enumerate(filt.controls, filt.n_inputs)}
        du = du[..., : filt.n_inputs].reshape(self._input_shape)
        return Gradient(du, dx.reshape(*lead, self.state.size), params, controls)

    def adjoint_of_params(self, dy: ArrayLike) -> dict[str, NDArray[Any]]:
        """The derivatives by the parameters alone, which is faster."""
        return self._back(dy, None, lambda *given: (None, *self._filter._adjoint_of_params(*given)))[2]

    def _back(
        self, dy: ArrayLike, dstate: ArrayLike | None, adjoint: Callable[..., Any]
    ) -> tuple[Any, NDArray[Any], dict[str, NDArray[Any]]]:
        dy = np.ascontiguousarray(dy, self.y.dtype)
        if dy.shape != self.y.shape:
            raise ParameterError(f"{dy.shape=} must equal the shape of the output, {self.y.shape}")
        n_voices, n_frames = self._signal.shape[:2]
        n_states, lead = self.state.size, self.state.vector.shape[:-1]
        dx = np.zeros((n_voices, n_states), self.y.dtype)
        if dstate is not None:
            dstate = np.asarray(dstate, self.y.dtype)
            if dstate.shape != (*lead, n_states):
                raise ParameterError(f"{dstate.shape=} must be that of state.ravel(), {(*lead, n_states)}")
            dx[...] = dstate.reshape(n_voices, n_states)
        dy = dy.reshape(n_voices, n_frames, self._filter.n_outputs)
        inputs: list[Any] = []
        total: dict[str, NDArray[Any]] = {}
        with np.errstate(all="ignore"):
            for piece, memory in self._backwards():
                du, dx, params = adjoint(memory, np.ascontiguousarray(dy[:, _frames(piece)]), dx)
                inputs.append(du)
                total = {name: total[name] + value for name, value in params.items()} if total else params
        whole = np.concatenate(inputs[::-1], axis=1) if inputs[0] is not None else None
        return whole, dx, total

    def _first_pass(self) -> Iterator[NDArray[Any]]:
        """The output, piece by piece; keeps all memories, or the states from which they are first sought."""
        wanted, first, left = set(), 0, self._kept or 0
        while left and self._n_pieces - first > 1:
            first += _split(self._n_pieces - first, left)
            left -= 1
            wanted.add(first)
        for piece in range(self._n_pieces):
            if piece in wanted:
                self._states[piece] = self.state.copy()
            if self._kept is None:
                y, memory = self._filter._tape(self._piece(piece), self.state)
                self._memories.append(memory)
                yield y
            else:
                yield self._run(piece, self.state)

    def _piece(self, piece: int) -> NDArray[Any]:
        return np.ascontiguousarray(self._signal[:, _frames(piece)])

    def _run(self, piece: int, state: State) -> NDArray[Any]:
        u = self._piece(piece)
        y = np.empty((*u.shape[:2], self._filter.n_outputs), u.dtype)
        self._filter._process(u, state, y)
        return y

    def _backwards(self) -> Iterator[tuple[int, Any]]:
        """Each piece and its memory, the last one first. An adjoint may spoil a memory: it is used once."""
        if self._kept is not None:
            yield from self._unrolled(0, self._n_pieces, self._start, self._kept)
            return
        if not self._memories:
            state = self._start.copy()
            self._memories = [self._filter._tape(self._piece(piece), state)[1] for piece in range(self._n_pieces)]
        while self._memories:
            yield len(self._memories) - 1, self._memories.pop()

    def _unrolled(self, first: int, stop: int, state: State, slots: int) -> Iterator[tuple[int, Any]]:
        """The same from the state before piece ``first``, while as many further states as ``slots`` are kept."""
        if stop - first == 1:
            yield first, self._filter._tape(self._piece(first), state.copy())[1]
            return
        middle = first + _split(stop - first, slots)
        later = self._states.pop(middle, None)
        if later is None:
            later = state.copy()
            for piece in range(first, middle):
                self._run(piece, later)
        yield from self._unrolled(middle, stop, later, max(slots - 1, 0))
        del later
        yield from self._unrolled(first, middle, state, slots)


def _frames(piece: int) -> slice:
    return slice(piece * PIECE, (piece + 1) * PIECE)


def _split(n: int, slots: int) -> int:
    """After how many of ``n`` pieces to keep the next state, with room for so many, that the least is run again."""
    held = slots + 1  # and the state before the first piece
    r = 0  # how often a piece is run again at most
    while comb(held + r, held) < n:
        r += 1
    return max(n - comb(held + r - 1, held - 1), comb(held + r - 2, held) if r > 1 else 1)


class Filter(ABC):
    """A causal system with a state: ``x[t] = f(x[t-1], u[t])``, ``y[t] = g(x[t], u[t])``.

    A filter is an immutable value: a class, a ``config`` of plain values, ``params`` (arrays) and, in compositions,
    ``children``. Those four say everything; saving, loading, comparing and ``replace`` work on them alone.

    Signals have time before channels, ``(..., n_frames, n_channels)``, leading axes being independent voices; a 1-D
    array is one channel. float32 in gives float32 out, float64 gives float64.

    Attributes
    ----------
    n_inputs, n_outputs, n_states : int
    latency : int
        Delay of the output against the input that the filter is not meant for, in samples.
    period : int
        1 for a filter that does the same at every sample; the hop of one that works in frames.
    sample_rate : float or None
        In Hz, where the filter only makes sense at one; a signal at another rate is refused.
    marginal_poles : tuple of complex
        Poles of a linear filter that stand on the unit circle by design, as those of an integrated process at 1.
    controls : tuple of Control
        Knobs, those of the children included.
    params : mapping of str to read-only ndarray
    """

    registry: ClassVar[dict[str, type[Filter]]] = {}

    config: Mapping[str, Any]
    children: tuple[Filter, ...]
    sample_rate: float | None
    n_inputs: int
    n_outputs: int
    latency: int = 0
    period: int = 1
    is_linear: bool = False
    marginal_poles: tuple[complex, ...] = ()
    fields: tuple[Field, ...] = ()
    controls: tuple[Control, ...] = ()
    _own: dict[str, NDArray[Any]]
    _cache: dict[Any, Any]

    # ---- construction: one way in, for constructors, replace() and files alike

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Filter.registry[cls.registered_name()] = cls

    @classmethod
    def registered_name(cls) -> str:
        """Name in saved files: the bare one for our own classes, ``module.Class`` for a user's."""
        ours = cls.__module__.partition(".")[0] == "rnndsp"
        return cls.__qualname__ if ours else f"{cls.__module__}.{cls.__qualname__}"

    def __init__(
        self,
        config: Mapping[str, Any],
        params: Mapping[str, ArrayLike],
        children: Sequence[Filter] = (),
        sample_rate: float | None = None,
    ) -> None:
        put = self.__dict__.__setitem__
        rates = {float(f.sample_rate) for f in children if f.sample_rate is not None}
        if sample_rate is not None:
            number = isinstance(sample_rate, int | float | np.number) and not isinstance(sample_rate, bool)
            if not (number and 0 < sample_rate < 1e12):
                raise ParameterError(f"{sample_rate=} must be a positive number of Hz, or None")
            rates.add(float(sample_rate))
        if len(rates) > 1:
            raise ParameterError(f"sample rates differ: {sorted(rates)} Hz; build all parts for the same one")
        put("sample_rate", rates.pop() if rates else None)
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
        watched = _Watched(plain)
        put("config", watched)
        put("children", tuple(children))
        put("_own", {name: _parameter(name, value) for name, value in params.items()})
        put("_cache", {})
        put("_sealed", False)
        self._setup()
        if self.n_states > MAX_STATES:
            raise ParameterError(
                f"{type(self).__name__} would remember {float(min(self.n_states, 10**300)):.3g} numbers, more than "
                f"{MAX_STATES}"
            )
        expected = self._shapes()
        if set(expected) != set(self._own):
            missing, extra = sorted(set(expected) - set(self._own)), sorted(set(self._own) - set(expected))
            raise ParameterError(f"{type(self).__name__}: parameters missing {missing}, unknown {extra}")
        for name, shape in expected.items():
            if self._own[name].shape != tuple(shape):
                raise ParameterError(
                    f"{type(self).__name__}: {name} has shape {self._own[name].shape}, must have {tuple(shape)}"
                )
        put("controls", (*self.controls, *self._inherited()))
        names = [control.name for control in self.controls]
        if len(set(names)) < len(names):
            raise ParameterError(f"{type(self).__name__}: two controls of one name among {names}")
        put("_sealed", True)
        self._check()
        if unread := sorted(set(plain) - watched.read):
            raise ParameterError(f"{type(self).__name__} has no setting {unread}: it looks at {sorted(watched.read)}")
        put("config", MappingProxyType(plain))

    def _inherited(self) -> list[Control]:
        """The children's controls as its own."""
        return _inherited(self.children, {control.name for control in self.controls})

    @abstractmethod
    def _setup(self) -> None:
        """Check ``config`` and ``children``; set ``n_inputs``, ``n_outputs``, ``fields`` and what else follows.

        Every entry of ``config`` must be looked at here, in ``_shapes`` or in ``_check``: others count as unknown.
        """

    def _no_children(self) -> None:
        """For the ``_setup`` of filters that are not made of others."""
        if self.children:
            raise ParameterError(f"{type(self).__name__} is not made of other filters; {len(self.children)} are given")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, as the configuration wants them."""
        return {}

    def _check(self) -> None:  # noqa: B027 (most filters take any values)
        """Refuse parameters whose values, not shapes, are wrong."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_sealed", False):
            raise AttributeError(f"a filter never changes: use replace({name}=...) for a changed copy")
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a filter never changes: {name} cannot be deleted")

    @classmethod
    def _restore(
        cls,
        config: Mapping[str, Any],
        params: Mapping[str, ArrayLike],
        children: Sequence[Filter] = (),
        sample_rate: float | None = None,
    ) -> Self:
        self = cls.__new__(cls)
        Filter.__init__(self, config, params, children, sample_rate)
        return self

    @property
    def params(self) -> Mapping[str, NDArray[Any]]:
        """Every array by name, read-only; those of a child are prefixed with its place, ``"0.W"``."""
        named = dict(self._own)
        for place, child in enumerate(self.children):
            named.update({f"{place}.{name}": value for name, value in child.params.items()})
        return MappingProxyType(named)

    def replace(self, **changes: Any) -> Self:
        """A copy with other parameters, ``filt.replace(b=new_b)``; ``sample_rate`` and configuration values likewise.

        Those of children go by their prefixed names: ``filt.replace(**{"0.W": W})``.
        """
        self._require_known(changes)
        children = []
        for place, child in enumerate(self.children):
            inside = {k.partition(".")[2]: v for k, v in changes.items() if k.startswith(f"{place}.")}
            if "sample_rate" in changes and child.sample_rate is not None:
                inside["sample_rate"] = changes["sample_rate"]
            children.append(child.replace(**inside) if inside else child)
        return self._restore(
            {name: changes.get(name, value) for name, value in self.config.items()},
            {name: changes.get(name, value) for name, value in self._own.items()},
            children,
            changes.get("sample_rate", self.sample_rate),
        )

    def _require_known(self, changes: Mapping[str, Any]) -> None:
        """Refuse to :meth:`replace` what there is not."""
        known = self._replaceable()
        if unknown := sorted(set(changes) - known):
            raise ParameterError(f"replace: unknown name {unknown}; known are {sorted(known)}")

    def _replaceable(self) -> set[str]:
        inside = (f"{place}.{name}" for place, child in enumerate(self.children) for name in child._replaceable())
        return {*self._own, *self.config, "sample_rate", *inside}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filter):
            return NotImplemented
        return (
            type(self) is type(other)
            and self.config == other.config
            and self.sample_rate == other.sample_rate
            and self.children == other.children
            and self._own.keys() == other._own.keys()
            and all(np.array_equal(value, other._own[name]) for name, value in self._own.items())
        )

    def __hash__(self) -> int:
        # equal filters may differ in dtype and in the sign of a zero
        values = ((value.astype(np.float64) + 0.0).tobytes() for value in self._own.values())
        return hash((type(self).__name__, *values, self.children))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._restore, (dict(self.config), dict(self._own), self.children, self.sample_rate)

    def __repr__(self) -> str:
        parts = [f"{k}={v!r}" for k, v in self.config.items()] + [repr(child) for child in self.children]
        if self.sample_rate is not None:
            parts.append(f"sample_rate={self.sample_rate:g}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from rnndsp import notebook

        return notebook.filter_html(self)

    # ---- what a concrete filter provides: signals are (voices, frames, inputs + controls), states change in place

    @abstractmethod
    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        """Filter a block: write ``y``, move ``state`` on, ``state.index`` apart."""

    @abstractmethod
    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        """:meth:`_advance` that returns the output and what :meth:`_adjoint` needs."""

    @abstractmethod
    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        """Derivatives by input (controls included), initial state (flat) and parameters, from those by y and end."""

    def _adjoint_of_params(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """The same without those by the input."""
        _, dx, params = self._adjoint(memory, dy, dx)
        return dx, params

    @abstractmethod
    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        """Small-signal filter about a state without voices and one input frame (controls included)."""

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        """:meth:`_linearize` at every frame of one voice, (frames, inputs + controls); ``state`` moves on."""
        from rnndsp._tangents import frame_by_frame  # here, as filters can be described without Numba

        return frame_by_frame(self, u, state)

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype to compute in for a signal of ``dtype``."""
        return dtype

    def _rest(self, vector: NDArray[Any]) -> None:
        """Write the own fields' values at rest; zero unless a filter says otherwise."""
        vector[...] = 0

    def _boundedness(self) -> Boundedness:
        """What is known about the output, see :class:`rnndsp.stability.Boundedness`."""
        from rnndsp.stability import Boundedness
        from rnndsp.stability.spectrum import decays

        return Boundedness(self.is_linear and decays(self))

    def _contraction(self) -> str | None:
        """Why two runs on the same input always converge, from any two states; None where that is not proved."""
        from rnndsp.stability.spectrum import decays

        if not self.n_states:
            return "no memory"
        if self.is_linear and decays(self):
            return "linear, all poles inside the unit circle"
        return None

    def _enclosure(self, place: Place) -> Enclosure:
        """What holds for every input (controls included) within a range, see :mod:`rnndsp.stability.enclosures`."""
        from rnndsp.stability.enclosures import filter_enclosure

        return filter_enclosure(self, place)

    def _energy_gain(self, place: Place) -> float:
        """Bound of the 2-norm of y1 - y2 over that of u1 - u2, over all time and from equal states; whatever comes in.

        Infinite where none is known, or unless any two runs on the same input come together as a geometric series does.
        """
        from rnndsp.stability.enclosures import energy_gain

        return energy_gain(self, place)

    def _process(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._advance(u, state, y)
        state.index += u.shape[1]

    def _tape(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, memory = self._record(u, state)
        state.index += u.shape[1]
        return y, memory

    def _derived(self, key: Any, make: Callable[..., Any], *arguments: Any) -> Any:
        """What kernels need, made once by ``make(*arguments)``, also when several threads ask."""
        value = self._cache.get(key)
        if value is None:
            with _DERIVING:
                value = self._cache.get(key)
                if value is None:
                    value = self._cache[key] = make(*arguments)
        return value

    # ---- the interface

    @property
    def n_states(self) -> int:
        """How many numbers one voice remembers."""
        return sum(field.size for field in self.fields) + sum(child.n_states for child in self.children)

    def rest_state(self, voices: tuple[int, ...] = (), dtype: DTypeLike = np.float64) -> State:
        """The documented initial state, for ``voices`` independent voices."""
        own = np.empty((*voices, sum(field.size for field in self.fields)), self._state_dtype(np.dtype(dtype)))
        self._rest(own)
        return State(own, self.fields, tuple(child.rest_state(voices, dtype) for child in self.children))

    def __call__(
        self, u: ArrayLike, *, controls: Controls | None = None, sample_rate: float | None = None
    ) -> NDArray[Any]:
        """Filter a whole signal from rest. Parameters as in :meth:`run`."""
        return self.run(u, controls=controls, sample_rate=sample_rate)[0]

    def run(
        self,
        u: ArrayLike,
        state: State | None = None,
        *,
        controls: Controls | None = None,
        sample_rate: float | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Filter a signal, or a piece of one, from a state to a state.

        Parameters
        ----------
        u : array, shape (..., n_frames, n_inputs), or (n_frames,) for one input; float32 or float64
        state : State, optional
            Where to start; the state of rest when absent. It is not changed.
        controls : mapping of str to float or array of n_frames, optional
            Values of the filter's controls, their defaults when absent.
        sample_rate : float, optional
            That of the signal in Hz; an error when it differs from the filter's.

        Returns
        -------
        y : ndarray, shape (..., n_frames, n_outputs)
            1-D where ``u`` is and the filter has one output. Cutting a signal into pieces does not change a bit of it.
        state : State

        Raises
        ------
        ParameterError
            Wrong shape, dtype, sample rate or control.
        NonFiniteError
            NaN or infinity in the input, or the filter blew up.
        """
        signal, lead, flat = self._accept(u, controls, sample_rate)
        state = self._start(state, lead, signal.dtype)
        y = np.empty((*signal.shape[:2], self.n_outputs), signal.dtype)
        require_finite(signal, "input", state.index)
        with np.errstate(all="ignore"):
            self._process(signal, state, y)
        require_finite(y, "output", state.index - signal.shape[1])
        state.forget_workspaces()
        return self._release(y, lead, flat), state

    def tape(
        self,
        u: ArrayLike,
        state: State | None = None,
        *,
        controls: Controls | None = None,
        sample_rate: float | None = None,
        kept_states: int | None = None,
    ) -> Tape:
        """Like :meth:`run`, keeping what back-propagation needs: ``tape.adjoint(dy)`` gives the gradients.

        Parameters
        ----------
        u, state, controls, sample_rate
            As in :meth:`run`.
        kept_states : int, optional
            Keep at most so many states in place of the whole tape, and run the frames between them again, 1024 at a
            time: the same gradient, to the bit, for less memory and more time. One for every 1024 frames costs one more
            forward pass, fewer cost more (after Gruslys et al. 2016, "Memory-efficient backpropagation through time",
            with the schedule of Griewank and Walther 2000, "Algorithm 799: revolve").
        """
        kept = None if kept_states is None else whole_number("kept_states", kept_states, least=0)
        signal, lead, _ = self._accept(u, controls, sample_rate)
        state = self._start(state, lead, signal.dtype)
        require_finite(signal, "input", state.index)
        return Tape(self, signal, state, np.shape(u), kept)

    def stream(
        self,
        *,
        voices: tuple[int, ...] = (),
        dtype: DTypeLike = np.float32,
        sample_rate: float | None = None,
        ramp_s: float = 0.02,
        on_nonfinite: str = "raise",
    ) -> Stream:
        """A running voice (or several): ``stream.process(block)``, see :class:`rnndsp.Stream`."""
        from rnndsp.stream import Stream

        return Stream(
            self, voices=voices, dtype=dtype, sample_rate=sample_rate, ramp_s=ramp_s, on_nonfinite=on_nonfinite
        )

    def linearize(
        self, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
    ) -> DelayStateSpace:
        """The small-signal filter about an operating point, from analytic Jacobians.

        Parameters
        ----------
        state : State, optional
            One voice; the state of rest when absent.
        u : array, shape (n_inputs,), optional
            The input frame that arrives in that state; silence when absent.
        controls : mapping of str to float, optional

        Returns
        -------
        StateSpace or DelayStateSpace
            Its states are those of ``state.ravel()``. A cell reads its new state, y = g(x+, u), so C = C_g J and D =
            D_g + C_g B.
        """
        frame = np.zeros(self.n_inputs) if u is None else np.atleast_1d(np.asarray(u, np.float64))
        if frame.shape != (self.n_inputs,):
            raise ParameterError(f"{frame.shape=}: the input frame must have shape ({self.n_inputs},)")
        here = self.rest_state()
        if state is not None:
            if not isinstance(state, State):
                raise ParameterError(f"{state!r} is no state: take one from run() or rest_state()")
            if state.shapes != here.shapes:
                raise ParameterError(f"linearize takes one voice of a state of this filter, {here!r}, not {state!r}")
            here.assign(state)
        linear = self._linearize(here, self._extend(frame[None, None, :], controls)[0, 0])
        return linear if linear.sample_rate == self.sample_rate else linear.replace(sample_rate=self.sample_rate)

    def poles(
        self, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
    ) -> NDArray[np.complex128]:
        """Poles of the filter, of its small-signal filter about an operating point when it is not linear."""
        from rnndsp import stability

        return stability.poles(self, state, u, controls=controls)

    def spectral_radius(
        self, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
    ) -> float:
        """Largest magnitude of the poles; below one is no global proof for a cell, only decay near that point."""
        from rnndsp import stability

        return stability.spectral_radius(self, state, u, controls=controls)

    def stability(self, *, input_bound: float = 1.0, controls: Controls | None = None) -> StabilityReport:
        """One verdict for each stability property, with its hypotheses: see :func:`rnndsp.stability.report`."""
        from rnndsp import stability

        return stability.report(self, input_bound=input_bound, controls=controls)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the filter to one file that :func:`rnndsp.load` reads back, equal to the bit."""
        from rnndsp import formats

        formats.save(self, path, force=force)

    def __rshift__(self, other: Filter) -> Series:
        """``a >> b``: a, then b."""
        from rnndsp.composition import Series

        return Series(self, other)

    def __add__(self, other: Filter) -> Parallel:
        """``a + b``: both on the same input, outputs summed, latencies aligned."""
        from rnndsp.composition import Parallel

        return Parallel(self, other)

    # ---- the one gate between public arrays and kernels

    def _accept(
        self, u: ArrayLike, controls: Controls | None, sample_rate: float | None
    ) -> tuple[NDArray[Any], tuple[int, ...], bool]:
        signal = np.asarray(u)
        self.check_rate(sample_rate)
        if signal.dtype not in (np.float32, np.float64):
            raise ParameterError(
                f"signal of dtype {signal.dtype}: filters take float32 or float64; scale integer audio first, "
                "e.g. (x / 32768).astype('float32') for 16 bits"
            )
        flat = signal.ndim == 1
        if signal.ndim == 0:
            raise ParameterError("the signal is a single number; give an array of shape (n_frames, n_channels)")
        if flat and self.n_inputs == 1:
            signal = signal[:, None]
        if signal.ndim < 2 or signal.shape[-1] != self.n_inputs:
            raise ParameterError(_shape_advice(signal.shape, self.n_inputs))
        lead = signal.shape[:-2]
        signal = (
            signal.reshape(-1, *signal.shape[-2:]) if signal.size else np.zeros(_voices(signal.shape), signal.dtype)
        )
        return self._extend(signal, controls), lead, flat

    def _extend(self, signal: NDArray[Any], controls: Controls | None) -> NDArray[Any]:
        """Append the controls as further input channels."""
        if not isinstance(controls, Mapping | None):
            raise ParameterError(f"{controls=} must be a mapping of names to values")
        given = dict(controls or {})
        if not self.controls and not given:
            return np.ascontiguousarray(signal)
        n_voices, n_frames = signal.shape[:2]
        full = np.empty((n_voices, n_frames, self.n_inputs + len(self.controls)), signal.dtype)
        full[..., : self.n_inputs] = signal
        for place, control in enumerate(self.controls, self.n_inputs):
            value = control.check(given.pop(control.name, control.default))
            if value.ndim and value.shape != (n_frames,):
                raise ParameterError(
                    f"control {control.name} of shape {value.shape}: a number, or one a frame ({n_frames})"
                )
            full[..., place] = value
        if given:
            names = [control.name for control in self.controls]
            raise ParameterError(f"unknown controls {sorted(given)}; this filter has {names or 'none'}")
        return full

    def _start(self, state: State | None, lead: tuple[int, ...], dtype: np.dtype[Any]) -> State:
        fresh = self.rest_state(lead, dtype)
        if state is None:
            return fresh
        if not isinstance(state, State):
            raise ParameterError(f"{state!r} is no state: start from filt.rest_state(voices, dtype)")
        if state.layout != fresh.layout:
            raise ParameterError(
                f"the state does not fit: it is {state!r} of {state.vector.dtype}, this filter and signal need "
                f"{fresh!r} of {fresh.vector.dtype}; start from filt.rest_state(voices, dtype)"
            )
        return state.copy()

    def _release(self, y: NDArray[Any], lead: tuple[int, ...], flat: bool) -> NDArray[Any]:
        return y.reshape(-1) if flat and self.n_outputs == 1 else y.reshape(*lead, *y.shape[1:])

    def check_rate(self, sample_rate: float | None) -> None:
        """Raise :class:`ParameterError` when a signal at ``sample_rate`` is not for this filter."""
        if sample_rate is not None and not 0 < float(sample_rate) < np.inf:
            raise ParameterError(f"{sample_rate=} must be a positive number of Hz, or None")
        if sample_rate is not None and self.sample_rate is not None and float(sample_rate) != self.sample_rate:
            raise ParameterError(
                f"{sample_rate=} Hz, but the filter is made for {self.sample_rate:g} Hz; resample the signal, or "
                "rebuild the filter for its rate"
            )


class _Watched(Mapping[str, Any]):
    """A configuration that knows which of its entries were looked at."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._config[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)


def require_finite(signal: NDArray[Any], what: str, index: int) -> None:
    """Raise :class:`NonFiniteError` that names the first bad sample of (voices, frames, channels)."""
    from rnndsp._mixing import all_finite  # here, as filters can be described without Numba

    if all_finite(np.ascontiguousarray(signal)):
        return
    voice, frame, channel = np.argwhere(~np.isfinite(signal))[np.argmin(np.nonzero(~np.isfinite(signal))[1])]
    remedy = (
        "clean the signal, or stream with on_nonfinite='reset' or 'hold'"
        if what == "input"
        else "the filter blew up: see filt.stability()"
    )
    raise NonFiniteError(
        f"{what} is {signal[voice, frame, channel]} at sample {index + frame}, channel {channel}, voice {voice}; "
        f"{remedy}"
    )


def _inherited(children: Sequence[Filter], taken: set[str]) -> list[Control]:
    """The children's controls; one whose name stands twice goes by its child's place, ``"0.cutoff_hz"``."""
    inside = [(place, control) for place, child in enumerate(children) for control in child.controls]
    count = Counter([*taken, *(control.name for _, control in inside)])
    prefixed = [replace(control, name=f"{place}.{control.name}") for place, control in inside]
    named = [new if count[old.name] > 1 else old for new, (_, old) in zip(prefixed, inside, strict=True)]
    # a child may have a "1.cutoff_hz" of its own: then all go by their places
    return named if len({control.name for control in named}) == len(named) else prefixed


def _parameter(name: str, value: ArrayLike) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.bool_)):
            raise ParameterError(f"parameter {name} has dtype {array.dtype}; give real numbers")
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ParameterError(f"parameter {name} holds NaN or infinity")
    array = array.copy()
    array.flags.writeable = False
    return array.view()  # which nobody can make writeable again


def _voices(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return int(np.prod(shape[:-2], dtype=np.int64)), shape[-2], shape[-1]


def _shape_advice(shape: tuple[int, ...], n_inputs: int) -> str:
    said = f"signal of shape {shape}, but the filter has {n_inputs} input{'s' * (n_inputs > 1)}: "
    if len(shape) >= 2 and shape[-2] == n_inputs:
        return (
            said
            + "time comes before channels, (..., n_frames, n_channels); librosa's (channels, n) needs a transpose, u.T"
        )
    if len(shape) >= 2 and n_inputs == 1 and shape[-2] < shape[-1]:
        return said + "in librosa's (channels, n), run one voice a channel with filt(u[..., None])"
    if len(shape) >= 2 and n_inputs == 1:
        return (
            said + "to run one voice a channel, make channels the leading axis: filt(np.moveaxis(u, -1, 0)[..., None])"
        )
    return said + f"give (..., n_frames, {n_inputs})"

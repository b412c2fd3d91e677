"""The engine of all recurrent cells: a linear mixing of the last state, then the same small nonlinearity in every unit.

A cell gives the nonlinearity of one unit and its adjoint, as plain functions of numbers. From these the loops here
derive the block filter, its taped form, back-propagation through time and the Jacobian, once for all cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numba.core.errors import TypingError
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, whole_number
from rnndsp._jit import inline, kernel, specialise
from rnndsp._mixing import affine, gather, put_out, rows, scatter, unmix
from rnndsp._vectors import aligned, every, lanes, load, load_each, store, transpose
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.recurrence import recurrence
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["Cell", "Stage"]


class Stage(NamedTuple):
    r"""Mix, then unit: one half-step of a cell. Most cells have one stage, a reset-before GRU has two.

    With ``s`` the tuple of vectors that enter (the cell's state for the first stage, the outcome of the stage before
    for the second), the stage forms for its gates

    .. math:: a = W u + b, \qquad r = U s_0 \; (+\, b_{rec})

    and hands on ``unit(a, r, s, p)``, evaluated unit by unit.

    Attributes
    ----------
    unit : function (a, r, s, p) -> tuple
        Of tuples of numbers: pre-activations from the input, from the recurrence (one a gate), entering state, own
        parameters.
    adjoint : function (a, r, s, p, d) -> (da, dr, ds, dp)
        Derivatives by the four, times ``d``, the derivative of the loss by each value that ``unit`` returned.
    n_gates : int
    n_out : int
        How many values ``unit`` returns.
    """

    unit: Callable[..., Any]
    adjoint: Callable[..., Any]
    n_gates: int
    n_out: int


class _Weights(NamedTuple):
    """What the backward loop reads of one stage; ``gates`` and ``out`` are tuples of None, known when compiling."""

    W: Any
    U: Any
    p: Any
    gates: Any
    out: Any


# Bytes of weights that stay in the first-level cache from one frame to the next.
L1 = 32768


def _store_each(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> None:
    """Write a tuple of numbers or vectors, ``step`` apart, and flushed."""


@specialise(_store_each)
def _store_some(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> Any:
    def several(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> None:
        store(x, at, flush(values[0]), lanes)
        _store_each(x, at + step, step, values[1:], lanes)

    def none(x: Any, at: Any, step: Any, values: Any, lanes: Any) -> None:
        pass

    return several if len(values) else none


def _put(y: Any, first: Any, t: Any, tape: Any, at: Any, n_voices: Any, lanes: Any, entry: Any) -> None:
    """Write the hidden state of a frame, on the tape from ``at`` on, to ``y`` of the voices from ``first`` on."""


@specialise(_put)
def _put_voices(y: Any, first: Any, t: Any, tape: Any, at: Any, n_voices: Any, lanes: Any, entry: Any) -> Any:
    def one(y: Any, first: Any, t: Any, tape: Any, at: Any, n_voices: Any, lanes: Any, entry: Any) -> None:
        n = y.shape[2]
        goal, stop = (first * y.shape[1] + t) * n, (first + 1) * y.shape[1] * n
        for j in range(0, n, len(lanes)):
            put_out(y, goal + j, stop, load(tape, at + j, lanes, lanes), min(n - j, len(lanes)), lanes)

    def several(y: Any, first: Any, t: Any, tape: Any, at: Any, n_voices: Any, lanes: Any, entry: Any) -> None:
        n = y.shape[2]
        goal, stop = (first * y.shape[1] + t) * n, (first + 1) * y.shape[1] * n
        for j in range(0, n, len(lanes)):
            # as in put_out, whole vectors go where they are written over
            if n_voices == len(lanes) and goal + j + len(lanes) <= stop:
                source, last = at + j * len(lanes), at + (n - 1) * len(lanes)
                transpose(y, goal + j, y.shape[1] * n, tape, source, last, lanes)
            else:
                for voice in range(n_voices):
                    for k in range(j, min(n, j + len(lanes))):
                        y[first + voice, t, k] = load(tape, at + k * len(lanes) + voice, (None,), (None,))

    return one if entry.count == 1 else several


class _Lanes(NamedTuple):
    """How a kernel uses its vectors, as tuples of None: ``all`` lanes, and how wide a weight and an entry of x is.

    ``units`` is how many units are mixed at a time, beside those in the lanes: as an entry of x is then read once for
    all of them.
    """

    all: Any
    weight: Any
    entry: Any
    units: Any

    def blocks(self, n_units: int) -> int:
        return -(-n_units // (len(self.weight) * len(self.units)))

    def part(self, n_units: int) -> int:
        """Numbers in a row for each unit to have one a voice."""
        return self.blocks(n_units) * len(self.all) * len(self.units)

    def frame(self, n_inputs: int) -> int:
        """Numbers in a row for an input frame of each voice."""
        return -(-n_inputs * len(self.entry) // len(self.all)) * len(self.all)


@cache
def _lanes(dtype: np.dtype[Any], across: str, dense: bool) -> _Lanes:
    """Lanes ``across`` the units of one voice, across voices, or none: the plain twin of both."""
    wide, one = _nones(lanes(dtype)), _nones(1)
    return {
        "units": _Lanes(wide, wide, one, one),
        "voices": _Lanes(wide, one, wide, _nones(1 + dense)),
        "none": _Lanes(one, one, one, one),
    }[across]


@cache
def _forward(stages: tuple[Stage, ...], n_states: int, n_params: int, dense: bool, shape: _Lanes) -> Any:
    """Compile the time loop for a list of stages. The functions are captured, so that they enter the cache key.

    ``tape`` has a row for every frame and one for what comes after it, or just two to be used in turn. In a row stand
    the input frame, then for every stage what enters, a and r, each ``m`` numbers a part. Units (or units times voices)
    are taken in blocks, the weights in the order in which they are read.
    """
    two = len(stages) == 2
    unit0, unit1 = stages[0].unit, stages[-1].unit
    entering0, entering1 = _nones(n_states), _nones(stages[0].n_out)
    gates0, gates1, params = _nones(stages[0].n_gates), _nones(stages[-1].n_gates), _nones(n_params)
    lanes, weight, entry, units = plain = tuple(shape)
    counts0 = (gates0, _nones(len(gates0) * len(units)), entering0, params)
    counts1 = (gates1, _nones(len(gates1) * len(units)), entering1, params)
    one = _nones(1)
    for stage in stages:
        inline(stage.unit)

    @kernel
    def forward(u: Any, y: Any, x: Any, weights: Any, tape: Any, m: Any, enter: Any, taped: Any) -> None:
        n_frames, n_inputs, n, width = u.shape[1], u.shape[2], y.shape[2], tape.shape[2]
        n_mixed = n if dense else 1
        between = enter + (len(entering0) + 2 * len(gates0)) * m
        second = m // len(lanes) * len(weight) * (len(gates0) * (2 + n_inputs + n_mixed) + len(params))
        for first in range(0, u.shape[0], len(entry)):
            n_voices = min(len(entry), u.shape[0] - first)
            row = after = first * (n_frames + 1) * width if taped else 0
            for voice in range(n_voices):
                for part in range(len(entering0)):
                    for j in range(n):
                        goal = row + enter + part * m + j * len(entry) + voice
                        store(tape, goal, x[first + voice, part * n + j], one)
            for t in range(n_frames):
                after = row + width if taped or t % 2 == 0 else row - width
                for voice in range(n_voices):
                    for i in range(n_inputs):
                        store(tape, row + i * len(entry) + voice, u[first + voice, t, i], one)
                # there and back: what was read last is still in the cache
                back = t % 2 == 1 and weights.size * weights.itemsize > L1
                sizes = (row, m, n_inputs, n_mixed)
                how = (dense, back, taped)
                if two:
                    _through(unit0, weights, 0, tape, enter, row + between, sizes, how, counts0, plain)
                    _through(unit1, weights, second, tape, between, after + enter, sizes, how, counts1, plain)
                else:
                    _through(unit0, weights, 0, tape, enter, after + enter, sizes, how, counts0, plain)
                _put(y, first, t, tape, after + enter, n_voices, lanes, entry)
                row = after
            for voice in range(n_voices):
                for part in range(len(entering0)):
                    for j in range(n):
                        source = after + enter + part * m + j * len(entry) + voice
                        x[first + voice, part * n + j] = load(tape, source, one, one)

    return forward


@inline
def _through(
    unit: Any, weights: Any, at: Any, tape: Any, enter: Any, leave: Any, sizes: Any, how: Any, counts: Any, shape: Any
) -> None:
    """One stage of a frame: from the parts at ``enter`` in its row to those at ``leave``."""
    row, m, n_inputs, n_mixed = sizes
    dense, back, _ = how
    _, mixed, _, params = counts
    lanes, weight, entry, units = shape
    step = len(mixed) * len(weight)
    block = step * (2 + n_inputs + n_mixed) + len(params) * len(units) * len(weight)
    n_blocks = m // (len(lanes) * len(units))
    enter += row
    for i in range(n_blocks):
        b = n_blocks - 1 - i if back else i
        place = b * len(lanes) * len(units)
        first = at + b * block
        a = affine(weights, first, weight, tape, row, n_inputs, entry, lanes, mixed)
        first += step * (1 + n_inputs)
        if dense:
            r = affine(weights, first, weight, tape, enter, n_mixed, entry, lanes, mixed)
        else:
            r = affine(weights, first, weight, tape, enter + place, 1, lanes, lanes, mixed)
        first += step * (1 + n_mixed)
        _apply(unit, a, r, (), weights, first, tape, enter + place, leave + place, m, how, counts, shape)


def _apply(
    unit: Any,
    a: Any,
    r: Any,
    done: Any,
    weights: Any,
    at: Any,
    tape: Any,
    enter: Any,
    leave: Any,
    m: Any,
    how: Any,
    counts: Any,
    shape: Any,
) -> None:
    """The nonlinearity of a block, for each of the units that were mixed together but those ``done``."""


@specialise(_apply)
def _apply_to_each(
    unit: Any,
    a: Any,
    r: Any,
    done: Any,
    weights: Any,
    at: Any,
    tape: Any,
    enter: Any,
    leave: Any,
    m: Any,
    how: Any,
    counts: Any,
    shape: Any,
) -> Any:
    def several(
        unit: Any,
        a: Any,
        r: Any,
        done: Any,
        weights: Any,
        at: Any,
        tape: Any,
        enter: Any,
        leave: Any,
        m: Any,
        how: Any,
        counts: Any,
        shape: Any,
    ) -> None:
        gates, _, entering, params = counts
        lanes, weight, _, units = shape
        own_a, own_r = every(a, done, units), every(r, done, units)
        s = load_each(tape, enter, m, lanes, lanes, entering)
        p = load_each(weights, at, len(units) * len(weight), weight, lanes, params)
        if how[2]:
            pre = enter + len(entering) * m
            _store_each(tape, pre, m, own_a, lanes)
            _store_each(tape, pre + len(gates) * m, m, own_r, lanes)
        _store_each(tape, leave, m, unit(own_a, own_r, s, p), lanes)
        step = len(lanes)
        _apply(unit, a, r, (*done, None), weights, at + 1, tape, enter + step, leave + step, m, how, counts, shape)

    def none(
        unit: Any,
        a: Any,
        r: Any,
        done: Any,
        weights: Any,
        at: Any,
        tape: Any,
        enter: Any,
        leave: Any,
        m: Any,
        how: Any,
        counts: Any,
        shape: Any,
    ) -> None:
        pass

    return several if done.count < shape[3].count else none


@inline
def _back(
    adjoint: Any, w: Any, x: Any, entering: Any, a: Any, r: Any, d: Any, da: Any, dr: Any, dx: Any, dp: Any
) -> None:
    """The adjoint of :func:`_through`: from d, the derivative by ``out``, to da, dr, dx, dp."""
    s, parts = rows(x, entering), rows(d, w.out)
    gate_a, gate_r, gate_da, gate_dr = rows(a, w.gates), rows(r, w.gates), rows(da, w.gates), rows(dr, w.gates)
    ds, own = rows(dx, entering), rows(dp, w.p)
    for j in range(s[0].size):
        g = adjoint(gather(gate_a, j), gather(gate_r, j), gather(s, j), gather(w.p, j), gather(parts, j))
        scatter(gate_da, j, g[0])
        scatter(gate_dr, j, g[1])
        scatter(ds, j, g[2])
        scatter(own, j, g[3])
    unmix(ds[0], w.U, dr)


@cache
def _backward(stages: tuple[Stage, ...]) -> Any:
    """Compile back-propagation through time."""
    two = len(stages) == 2
    adjoint0, adjoint1 = stages[0].adjoint, stages[-1].adjoint
    for stage in stages:
        inline(stage.adjoint)

    @kernel
    def backward(dy: Any, dx: Any, weights: Any, state: Any, tapes: Any, gates: Any) -> None:
        d = np.empty(dx.shape[1], dx.dtype)
        for voice in range(dy.shape[0]):
            for t in range(dy.shape[1] - 1, -1, -1):
                for i in range(d.size):
                    d[i] = dx[voice, i]
                for j in range(dy.shape[2]):
                    d[j] += dy[voice, t, j]
                x0, a0, r0 = tapes[0]
                da, dr, dp = gates[0]
                entry, a, r = x0[voice, t], a0[voice, t], r0[voice, t]
                if two:
                    x1, a1, r1 = tapes[1]
                    da1, dr1, dp1 = gates[1]
                    inner, between = x1[voice, t], weights[0].out
                    dinner = np.empty(inner.size, d.dtype)
                    ga, gr, gp = da1[voice, t], dr1[voice, t], dp1[voice, t]
                    _back(adjoint1, weights[1], inner, between, a1[voice, t], r1[voice, t], d, ga, gr, dinner, gp)
                    ha, hr, hp = da[voice, t], dr[voice, t], dp[voice, t]
                    _back(adjoint0, weights[0], entry, state, a, r, dinner, ha, hr, dx[voice], hp)
                else:
                    ha, hr, hp = da[voice, t], dr[voice, t], dp[voice, t]
                    _back(adjoint0, weights[0], entry, state, a, r, d, ha, hr, dx[voice], hp)

    return backward


class Cell(Filter):
    r"""A recurrent cell: subclasses name their state and give the unit; everything else is here.

    .. math:: a_g = W_g u[t] + b_g, \qquad r_g = U_g h[t-1], \qquad
              (h, \ldots)[t] = \mathrm{unit}(a, r, (h, \ldots)[t-1]), \qquad y[t] = h[t]

    Parameters
    ----------
    n_inputs, n_units : int
    recurrence : {"dense", "diagonal", "orthogonal"}
        Form of each U.
    seed : int or Generator
        For the initial weights.
    sample_rate : float, optional
        Hz.
    **config
        Further settings of a subclass, plain values that its ``_stages`` or ``_setup`` looks at.

    Attributes to set in a subclass
    -------------------------------
    state_names : tuple of str
        The first one is the hidden state that is mixed and put out.
    stages : tuple of Stage
    unit_params : tuple of str
        Names of further parameters of shape (n_units,), handed to every unit as ``p``.
    saturating : bool
        Whether the output stays bounded from rest whatever the weights and the input.
    recurrent_bias : bool
        Whether there is a bias ``b_rec`` of the recurrent part, r = U h + b_rec.

    Notes
    -----
    *Parameters*: ``W`` (n_gates * n_units, n_inputs), gate after gate; ``U`` (n_gates * n_units, n_units), or
    (n_gates * n_units,) when diagonal, or ``U_skew`` when orthogonal (:mod:`rnndsp.recurrence`); ``b`` (n_gates *
    n_units,).

    *State*: the fields of ``state_names``, each of n_units; zero at rest. The output is the *new* hidden state, so a
    linearised cell has C = [J]_h and D = [B]_h.

    *Stability*: depends on the unit; a subclass says what holds for its own.
    """

    state_names: tuple[str, ...] = ("h",)
    stages: tuple[Stage, ...] = ()
    unit_params: tuple[str, ...] = ()
    recurrent_bias: bool = False
    saturating: bool = False

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        *,
        recurrence: str = "dense",
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
        **config: Any,
    ) -> None:
        config = {"n_inputs": n_inputs, "n_units": n_units, "recurrence": recurrence, **config}
        super().__init__(config, self._initial(config, generator(seed)), sample_rate=sample_rate)

    @classmethod
    def _initial(cls, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Random parameters: uniform within ±1/sqrt(n_units), zero biases."""
        n_inputs, n = whole_number("n_inputs", config["n_inputs"]), whole_number("n_units", config["n_units"])
        kind = recurrence(config["recurrence"])
        gates = sum(stage.n_gates for stage in cls._stages(config))
        params = {
            "W": rng.uniform(-1, 1, (gates * n, n_inputs)) / np.sqrt(n),
            kind.param: kind.initial(gates, n, rng),
            "b": np.zeros(gates * n),
        }
        if cls.recurrent_bias:
            params["b_rec"] = np.zeros(gates * n)
        params.update({name: np.zeros(n) for name in cls.unit_params})
        return params

    @classmethod
    def _stages(cls, config: Mapping[str, Any]) -> tuple[Stage, ...]:
        """The stages, where the configuration chooses among several."""
        return cls.stages

    def _setup(self) -> None:
        self._no_children()
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_units = self.n_outputs = whole_number("n_units", self.config["n_units"])
        self._recurrence = recurrence(self.config["recurrence"])
        self._chain = self._stages(self.config)
        if not self._chain:
            raise ParameterError(f"{type(self).__name__} has no stages: only a subclass that gives them is a cell")
        self._gates = sum(stage.n_gates for stage in self._chain)
        self.fields = tuple(Field(name, (self.n_units,)) for name in self.state_names)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n = self._gates * self.n_units
        shapes: dict[str, tuple[int, ...]] = {
            "W": (n, self.n_inputs),
            self._recurrence.param: self._recurrence.shape(self._gates, self.n_units),
            "b": (n,),
        }
        if self.recurrent_bias:
            shapes["b_rec"] = (n,)
        return {**shapes, **dict.fromkeys(self.unit_params, (self.n_units,))}

    def _boundedness(self) -> Boundedness:
        return Boundedness.SATURATING if self.saturating else super()._boundedness()

    @classmethod
    def from_torch(
        cls, state_dict: Mapping[str, ArrayLike], *, prefix: str = "", sample_rate: float | None = None, **config: Any
    ) -> Self:
        """A cell with the weights of one PyTorch layer.

        Parameters
        ----------
        state_dict : mapping of str to array
            ``weight_ih_l0``, ``weight_hh_l0`` and, unless it was made without, ``bias_ih_l0``, ``bias_hh_l0``; tensors
            on the CPU are arrays enough.
        prefix : str
            What stands before these names, ``"rec."``.

        Raises
        ------
        ParameterError
            A name is missing or left over, or a shape does not fit.
        """
        arrays = {name.removeprefix(prefix): np.asarray(v) for name, v in state_dict.items() if name.startswith(prefix)}
        weights = {"weight_ih_l0", "weight_hh_l0"}
        biases = {"bias_ih_l0", "bias_hh_l0"}
        if set(arrays) not in (weights, weights | biases):
            raise ParameterError(
                f"from_torch: found {sorted(arrays)}, needs {sorted(weights)} and, if any, {sorted(biases)}"
            )
        W, U = arrays["weight_ih_l0"], arrays["weight_hh_l0"]
        if W.ndim != 2 or U.ndim != 2:
            raise ParameterError(f"from_torch: weights of shapes {W.shape} and {U.shape} are not matrices")
        zero = np.zeros(len(W), W.dtype)
        b, b_rec = arrays.get("bias_ih_l0", zero), arrays.get("bias_hh_l0", zero)
        if b.shape != zero.shape or b_rec.shape != zero.shape:
            raise ParameterError(f"from_torch: biases of shapes {b.shape} and {b_rec.shape}, must be {zero.shape}")
        params = (
            {"W": W, "U": U, "b": b, "b_rec": b_rec}
            if cls.recurrent_bias
            else {"W": W, "U": U, "b": np.add(b, b_rec, dtype=np.float64)}
        )
        settings = {
            p.name: p.default
            for p in inspect.signature(cls).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name not in ("seed", "sample_rate")
        }
        full = {"n_inputs": W.shape[1], "n_units": U.shape[1], **settings, **config}
        return cls._restore(full, params, sample_rate=sample_rate)

    @property
    def U(self) -> NDArray[Any]:
        """The recurrent weights as the kernels use them, whatever their parametrisation."""
        free = self._own[self._recurrence.param]
        matrix: NDArray[Any] = self._derived("U", lambda: self._recurrence.matrix(free, self.n_units))
        return matrix

    def _weights(self, dtype: np.dtype[Any]) -> tuple[_Weights, ...]:
        """Private contiguous copies for the backward loop, one set a stage."""

        def make() -> tuple[_Weights, ...]:
            p = tuple(self._own[name].astype(dtype) for name in self.unit_params)
            return tuple(
                _Weights(W.astype(dtype), U.astype(dtype), p, _nones(stage.n_gates), _nones(stage.n_out))
                for stage, W, U, _, _ in self._parts()
            )

        weights: tuple[_Weights, ...] = self._derived(("weights", dtype), make)
        return weights

    def _parts(self) -> Iterator[tuple[Stage, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Each stage with its share of W, U, b and b_rec."""
        first = 0
        b = self._own["b"]
        b_rec = self._own["b_rec"] if self.recurrent_bias else np.zeros_like(b)
        for stage in self._chain:
            part = slice(first, first + stage.n_gates * self.n_units)
            yield stage, self._own["W"][part], self.U[part], b[part], b_rec[part]
            first = part.stop

    def _stream(self, dtype: np.dtype[Any], width: int) -> NDArray[Any]:
        """All weights in the order in which the forward loop reads them, for blocks of ``width`` units."""

        def make() -> NDArray[Any]:
            n = self.n_units
            blocks = -(-n // width)
            p = [self._own[name] for name in self.unit_params]
            ordered = []
            for stage, W, U, b, b_rec in self._parts():
                columns = [b[:, None], W, b_rec[:, None], U.reshape(len(b), -1)]
                table = np.concatenate(columns, axis=1).reshape(stage.n_gates, n, -1)  # gates, units, columns
                rows = np.concatenate([table.transpose(2, 0, 1).reshape(-1, n), np.reshape(p, (-1, n))])
                padded = np.zeros((len(rows), blocks * width))
                padded[:, :n] = rows
                ordered.append(padded.reshape(-1, blocks, width).transpose(1, 0, 2).ravel())
            weights = aligned((sum(map(len, ordered)),), dtype)
            weights[...] = np.concatenate(ordered)
            return weights

        weights: NDArray[Any] = self._derived(("stream", dtype, width), make)
        return weights

    def _shape(self, dtype: np.dtype[Any], across: str) -> _Lanes:
        return _lanes(dtype, across, self.U.ndim == 2)

    def _loop(self, shape: _Lanes) -> Any:
        return _forward(self._chain, len(self.state_names), len(self.unit_params), self.U.ndim == 2, shape)

    def _entering(self) -> Iterator[tuple[int, Stage]]:
        """Each stage with the number of vectors that enter it."""
        entering = len(self.state_names)
        for stage in self._chain:
            yield entering, stage
            entering = stage.n_out

    def _runner(self, dtype: np.dtype[Any], across: str) -> _Runner:
        shape = self._shape(dtype, across)
        part, frame = shape.part(self.n_units), shape.frame(self.n_inputs)
        width = frame + part * sum(n_in + 2 * stage.n_gates for n_in, stage in self._entering())
        weights = self._stream(dtype, len(shape.weight) * len(shape.units))
        runner = _Runner(self._loop(shape), weights, part, frame, width)
        try:
            u, x, y = (np.zeros((0, 0, n), dtype) for n in (self.n_inputs, 0, self.n_units))
            runner.run(u, x.reshape(0, 0), y, runner.rows())
        except TypingError:
            if across == "none":
                raise
            return self._runner(dtype, "none")  # a unit that branches, say, takes numbers but no vectors
        return runner

    def _ready(self, dtype: np.dtype[Any], across: str) -> _Runner:
        runner: _Runner = self._derived((across, dtype.char), self._runner, dtype, across)
        return runner

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        n_voices, x = u.shape[0], state.rows
        batched = _batched(n_voices, lanes(u.dtype)) if n_voices > 1 else 0
        if batched:
            runner = self._ready(u.dtype, "voices")
            runner.run(u[:batched], x[:batched], y[:batched], state.workspace("voices", runner.rows))
            u, x, y = u[batched:], x[batched:], y[batched:]
        if batched < n_voices:
            runner = self._ready(u.dtype, "units")
            runner.run(u, x, y, state.workspace("units", runner.rows))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_units), u.dtype)
        runner = self._ready(u.dtype, "units")
        rows = runner.rows(*u.shape[:2])
        runner.run(u, state.rows, y, rows, taped=True)
        return y, (u, self._tapes(rows[:, :-1, runner.frame :].reshape(*u.shape[:2], -1, runner.part)))

    def _tapes(self, parts: NDArray[Any]) -> list[tuple[NDArray[Any], ...]]:
        """What entered each stage, a and r, (voices, frames, vectors * n_units) each, without the blocks' padding."""
        tapes, first = [], 0
        for n_in, stage in self._entering():
            cuts = [first, first + n_in, first + n_in + stage.n_gates, first + n_in + 2 * stage.n_gates]
            tapes.append(
                tuple(parts[:, :, i:j, : self.n_units].reshape(*parts.shape[:2], -1) for i, j in pairwise(cuts))
            )
            first = cuts[-1]
        return tapes

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tapes = memory
        n, n_params, dtype = self.n_units, len(self.unit_params), u.dtype
        gates = tuple(
            (np.empty_like(a), np.empty_like(r), np.empty((*u.shape[:2], n_params * n), dtype)) for _, a, r in tapes
        )
        dx = np.ascontiguousarray(dx, dtype).copy()
        weights, names = self._weights(dtype), _nones(len(self.state_names))
        _backward(self._chain)(np.ascontiguousarray(dy), dx, weights, names, tuple(tapes), gates)
        # what remains are matrix products over all frames at once
        da = np.concatenate([g[0] for g in gates], axis=-1).reshape(-1, self._gates * n)
        dr = np.concatenate([g[1] for g in gates], axis=-1).reshape(-1, self._gates * n)
        mixed = np.concatenate(
            [np.tile(x[..., :n], stage.n_gates) for (x, _, _), stage in zip(tapes, self._chain, strict=True)], axis=-1
        ).reshape(-1, self._gates * n)
        if self.U.ndim == 1:
            dU = np.sum(dr * mixed, axis=0)
        else:
            blocks = [dr[:, i : i + n].T @ mixed[:, i : i + n] for i in range(0, self._gates * n, n)]
            dU = np.concatenate(blocks)
        free = self._own[self._recurrence.param]
        params = {
            "W": da.T @ u.reshape(-1, self.n_inputs),
            self._recurrence.param: self._recurrence.adjoint(free, n, dU),
            "b": da.sum(axis=0),
        }
        if self.recurrent_bias:
            params["b_rec"] = dr.sum(axis=0)
        dp = sum(g[2].sum(axis=(0, 1)) for g in gates)
        params.update({name: dp[i * n : (i + 1) * n] for i, name in enumerate(self.unit_params)})
        du = (da @ self._own["W"].astype(dtype)).reshape(u.shape)
        return du, dx, params

    def jacobians(self, u: NDArray[Any], state: State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Analytic Jacobians of the new state by the old one and by the input, at every frame of a trajectory.

        Parameters
        ----------
        u : ndarray, shape (n_frames, n_inputs)
        state : State
            One voice.

        Returns
        -------
        J : ndarray, shape (n_frames, n_states, n_states)
        B : ndarray, shape (n_frames, n_states, n_inputs)
        """
        start = self.rest_state((1,))
        start.assign(state)
        _, (_, tapes) = self._record(np.asarray(u, np.float64)[None], start)
        J = B = np.zeros(0)
        for place, (stage, w, tape) in enumerate(
            zip(self._chain, self._weights(np.dtype(np.float64)), tapes, strict=True)
        ):
            through, into = self._local(stage, w, *(part[0] for part in tape))
            J, B = (through @ J, into + through @ B) if place else (through, into)
        return J, B

    def _local(
        self, stage: Stage, w: _Weights, x: NDArray[Any], a: NDArray[Any], r: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Jacobians of one stage's outcome by what enters it and by the input, for all frames."""
        n, n_frames = self.n_units, len(x)
        n_in = x.shape[1] // n
        through = np.zeros((n_frames, stage.n_out * n, n_in * n))
        into = np.zeros((n_frames, stage.n_out * n, self.n_inputs))
        U = (
            w.U.reshape(stage.n_gates, n, -1)
            if w.U.ndim == 2
            else np.einsum("gi,ij->gij", w.U.reshape(-1, n), np.eye(n))
        )
        W = w.W.reshape(stage.n_gates, n, -1)
        ones, diagonal = np.ones((n_frames, n)), np.arange(n)
        s, gate_a, gate_r = (np.split(m, k, axis=1) for m, k in ((x, n_in), (a, stage.n_gates), (r, stage.n_gates)))
        for k in range(stage.n_out):
            seed = tuple(ones * (i == k) for i in range(stage.n_out))
            da, dr, ds, _ = stage.adjoint(tuple(gate_a), tuple(gate_r), tuple(s), w.p, seed)
            part = slice(k * n, (k + 1) * n)
            for j in range(n_in):
                through[:, k * n + diagonal, j * n + diagonal] += ds[j] * ones
            for g in range(stage.n_gates):
                through[:, part, :n] += (dr[g] * ones)[:, :, None] * U[g]
                into[:, part] += (da[g] * ones)[:, :, None] * W[g]
        return through, into

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        (J,), (B,) = self.jacobians(u[None], state)
        return StateSpace(J, B, J[: self.n_units], B[: self.n_units], sample_rate=self.sample_rate)


class _Runner(NamedTuple):
    """A compiled forward loop and what it needs besides signals and state."""

    loop: Any
    weights: NDArray[Any]
    part: int
    frame: int
    width: int

    def rows(self, n_voices: int = 1, n_frames: int = 1) -> NDArray[Any]:
        """A row for every frame and one for what comes after the last."""
        return aligned((n_voices, n_frames + 1, self.width), self.weights.dtype)

    def run(
        self, u: NDArray[Any], x: NDArray[Any], y: NDArray[Any], rows: NDArray[Any], *, taped: bool = False
    ) -> None:
        self.loop(u, y, x, self.weights, rows, self.part, self.frame, taped)


def _batched(n_voices: int, wide: int) -> int:
    """How many voices are best taken side by side: below half of the lanes, one after the other is faster."""
    whole = n_voices // wide * wide
    return n_voices if n_voices - whole >= wide / 2 else whole


def _nones(n: int) -> tuple[None, ...]:
    return (None,) * n

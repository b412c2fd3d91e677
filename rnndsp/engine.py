"""The engine of all recurrent cells: a linear mixing of the last state, then the same small nonlinearity in every unit.

A cell gives the nonlinearity of one unit and its adjoint, as plain functions of numbers. From these the loops here
derive the block filter, its taped form, back-propagation through time and the Jacobian, once for all cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numba.core.errors import TypingError
from numpy.typing import ArrayLike, NDArray

from rnndsp._backward import Backward, Sums
from rnndsp._checks import generator, whole_number
from rnndsp._intervals import Interval
from rnndsp._loops import Lanes, Runner, batched, forward_loop, lanes_across, nones
from rnndsp._tangents import Jacobians, local_loop
from rnndsp._vectors import aligned, lanes
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.recurrence import recurrence
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place, cell_enclosure
from rnndsp.stability.verdicts import Test
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
    apart : int, optional
        Of how many gates, the last ones, ``adjoint`` needs a and r apart; of all when absent. Of the others a tape
        holds a + r alone, given as a, and da is taken for dr as well: less memory, and faster.
    """

    unit: Callable[..., Any]
    adjoint: Callable[..., Any]
    n_gates: int
    n_out: int
    apart: int | None = None

    @property
    def n_apart(self) -> int:
        return self.n_gates if self.apart is None else self.apart

    @property
    def n_kept(self) -> int:
        """Parts that a tape holds of the pre-activations."""
        return self.n_gates + self.n_apart


class Cell(Filter):
    r"""A recurrent cell: subclasses name their state and give the unit; everything else is here.

    .. math:: a_g = W_g u[t] + b_g, \qquad r_g = U_g h[t-1], \qquad
              (h, \ldots)[t] = \mathrm{unit}(a, r, (h, \ldots)[t-1]), \qquad y[t] = h[t]

    Parameters
    ----------
    n_inputs, n_units : int
    recurrence : str
        Form of each U: "dense", "diagonal", "stable_diagonal", "orthogonal", "householder", "cayley", "givens",
        "butterfly", "urnn", "full_capacity", "oscillating", "antisymmetric" or "contracting".
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
    *Parameters*: ``W`` (n_gates * n_units, n_inputs), gate after gate; ``b`` (n_gates * n_units,); and for U, with n =
    n_units, what its form (:mod:`rnndsp.recurrence`) leaves free, from which ``cell.U`` follows:

    ===================  ==========================================  ================================================
    recurrence           free parameters                             U of every gate
    ===================  ==========================================  ================================================
    ``dense``            ``U`` (n_gates * n, n)                      any matrix
    ``diagonal``         ``U`` (n_gates * n,)                        any diagonal
    ``stable_diagonal``  ``U_rates`` (n_gates * n,)                  a diagonal within (-1, 1)
    ``orthogonal``       ``U_skew`` (n_gates, n (n - 1) / 2)         a rotation
    ``householder``      ``U_mirrors`` (n_gates, n, n)               a product of n reflections
    ``cayley``           ``U_cayley`` (n_gates, n (n - 1) / 2)       orthogonal, of determinant (-1)^(n // 2)
    ``givens``           ``U_angles`` (n_gates, n (n - 1) / 2)       a rotation, by n layers; ``givens:4`` has 4
    ``butterfly``        ``U_butterfly`` (n_gates, n/2 log2 n)       log2 n layers of rotations
    ``urnn``             ``U_factors`` (n_gates, 7, n / 2)           a unitary product, real and imaginary parts
    ``full_capacity``    ``U_full`` (n_gates, n, n)                  any orthogonal matrix, the nearest to a free one
    ``oscillating``      ``U_modes`` (n_gates, n)                    n / 2 rotations that shrink
    ``antisymmetric``    ``U_damped`` (n_gates, 1 + n (n - 1) / 2)   skew-symmetric, minus γ I
    ``contracting``      ``U_contraction`` (n_gates, n + 1, n)       a contraction in a norm with weighted units
    ===================  ==========================================  ================================================

    *State*: the fields of ``state_names``, each of n_units; zero at rest. The output is the *new* hidden state, so a
    linearised cell has C = [J]_h and D = [B]_h.

    *Stability*: depends on the unit; a subclass says what holds for its own. ``stable_diagonal``, ``oscillating`` and
    ``contracting`` make a cell with one gate and a unit of slope within [0, 1], as ``Elman``'s, forget its state by
    construction. They bound the matrices of gated cells, which is no proof that these are stable.
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
        if len(self._chain) > 2:
            raise ParameterError(f"{type(self).__name__} has {len(self._chain)} stages: a cell has one or two")
        if self._chain[-1].n_out != len(self.state_names):
            raise ParameterError(
                f"{type(self).__name__}: the last stage has n_out={self._chain[-1].n_out}, but the state consists of "
                f"{list(self.state_names)}: it must return as many"
            )
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

    @property
    def _mixing(self) -> NDArray[np.float64]:
        """U of every gate as a matrix, (gates, n_units, n_units), also where it is diagonal."""
        n, U = self.n_units, self.U.astype(np.float64)
        return U.reshape(-1, n, n) if U.ndim == 2 else np.einsum("gi,ij->gij", U.reshape(-1, n), np.eye(n))

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

    def _shape(self, dtype: np.dtype[Any], across: str) -> Lanes:
        return lanes_across(dtype, across, self.U.ndim == 2)

    def _loop(self, shape: Lanes) -> Any:
        return forward_loop(self._chain, len(self.state_names), len(self.unit_params), self.U.ndim == 2, shape)

    def _entering(self) -> Iterator[tuple[int, Stage]]:
        """Each stage with the number of vectors that enter it."""
        entering = len(self.state_names)
        for stage in self._chain:
            yield entering, stage
            entering = stage.n_out

    def _runner(self, dtype: np.dtype[Any], across: str) -> Runner:
        shape = self._shape(dtype, across)
        part, frame = shape.part(self.n_units), shape.frame(self.n_inputs)
        width = frame + part * sum(n_in + stage.n_kept for n_in, stage in self._entering())
        weights = self._stream(dtype, len(shape.weight) * len(shape.units))
        runner = Runner(self._loop(shape), weights, part, frame, width, shape)
        try:
            u, x, y = (np.zeros((0, 0, n), dtype) for n in (self.n_inputs, 0, self.n_units))
            runner.run(u, x.reshape(0, 0), y, runner.rows())
        except TypingError:
            if across == "none":
                raise
            return self._runner(dtype, "none")  # a unit that branches, say, takes numbers but no vectors
        return runner

    def _ready(self, dtype: np.dtype[Any], across: str) -> Runner:
        runner: Runner = self._derived((across, dtype.char), self._runner, dtype, across)
        return runner

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        n_voices, x = u.shape[0], state.rows
        together = batched(n_voices, lanes(u.dtype), self.n_units) if n_voices > 1 else 0
        if together:
            runner = self._ready(u.dtype, "voices")
            runner.run(u[:together], x[:together], y[:together], state.workspace(runner.width, runner.rows))
            u, x, y = u[together:], x[together:], y[together:]
        if together < n_voices:
            runner = self._ready(u.dtype, "units")
            runner.run(u, x, y, state.workspace(runner.width, runner.rows))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        n_voices, x = u.shape[0], state.rows
        y = np.empty((*u.shape[:2], self.n_units), u.dtype)
        together = batched(n_voices, lanes(u.dtype), self.n_units) if n_voices > 1 else 0
        shares = [("voices", slice(together))] if together else []
        if together < n_voices or not n_voices:
            shares.append(("units", slice(together, n_voices)))
        memory = []
        for across, own in shares:
            back = self._returner(u.dtype, across)
            rows = back.runner.rows(len(u[own]), u.shape[1])
            back.runner.run(u[own], x[own], y[own], rows, taped=True)
            memory.append((back, own, rows))
        return y, (u.shape, memory)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        du = np.empty(memory[0], dy.dtype)
        dx, params = self._back(memory, dy, dx, du)
        return du, dx, params

    def _adjoint_of_params(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        return self._back(memory, dy, dx, None)

    def _back(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any], du: NDArray[Any] | None
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        n, dy, dx = self.n_units, np.ascontiguousarray(dy), dx.copy()
        found = [back.run(dy[own], dx[own], rows, None if du is None else du[own]) for back, own, rows in memory[1]]
        sums = Sums(*(sum(parts[1:], parts[0]) for parts in zip(*found, strict=True)))
        params = {
            "W": sums.W,
            self._recurrence.param: self._recurrence.adjoint(self._own[self._recurrence.param], n, sums.U),
            "b": sums.a,
        }
        if self.recurrent_bias:
            params["b_rec"] = sums.r
        return dx, {**params, **dict(zip(self.unit_params, sums.p, strict=True))}

    def _returner(self, dtype: np.dtype[Any], across: str) -> Backward:
        def make() -> Backward:
            runner = self._ready(dtype, across)
            matrices = [(W, U) for _, W, U, _, _ in self._parts()]
            own = np.reshape([self._own[name] for name in self.unit_params], (-1, self.n_units))
            back = Backward(self._chain, len(self.state_names), matrices, own, runner, dtype)
            try:
                back.compile()
            except TypingError:
                if across == "none":
                    raise
                return self._returner(dtype, "none")  # as in _runner: it is taped on single numbers then, too
            return back

        found: Backward = self._derived(("back", across, dtype.char), make)
        return found

    def jacobians(self, u: NDArray[Any], state: State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Analytic Jacobians of the new state by the old one and by the input, at every frame of a trajectory.

        They take n_frames * n_states^2 numbers; :func:`rnndsp.stability.jacobians` gives them in pieces.

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
        start = self.rest_state()
        start.assign(state)
        found = self._jacobians(np.asarray(u, np.float64), start)
        return found.A, found.B

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        n, n_frames, dtype = self.n_units, len(u), np.dtype(np.float64)
        runner = self._ready(dtype, "units")
        tape, y = runner.rows(1, n_frames), np.empty((1, n_frames, n))
        runner.run(u[None], state.rows, y, tape, taped=True)
        state.index += n_frames
        J = B = np.zeros(0)
        enter = runner.frame
        p = np.zeros((len(self.unit_params), runner.part))
        p[:, :n] = np.reshape([self._own[name] for name in self.unit_params], (-1, n))
        for place, ((n_in, _), (stage, W, U, _, _)) in enumerate(zip(self._entering(), self._parts(), strict=True)):
            W, U = W.astype(dtype), U.astype(dtype)
            through = np.empty((n_frames, stage.n_out * n, n_in * n))
            into = np.empty((n_frames, stage.n_out * n, self.n_inputs))
            loop = self._derived(("local", place), self._local, stage, n_in, runner.part, U)
            loop(tape, enter, runner.part, W, U, p, through, into)
            J, B = (through @ J, into + through @ B) if place else (through, into)
            enter += (n_in + stage.n_kept) * runner.part
        mixed = n if len(self._chain) == 1 < len(self.state_names) else 0
        return Jacobians(J, B, J[:, :n], B[:, :n], np.ones(self.n_states, np.int64), y[0], mixed)

    def _local(self, stage: Stage, n_in: int, part: int, U: NDArray[Any]) -> Any:
        """The loop for one stage's Jacobians, in vectors where its adjoint takes them and they fit the tape."""
        wide = nones(lanes(np.dtype(np.float64)))
        loop = local_loop(stage, n_in, len(self.unit_params), wide if part % len(wide) == 0 else nones(1))
        try:
            tape, p, W = np.zeros((1, 1, 0)), np.zeros((len(self.unit_params), part)), np.zeros((0, self.n_inputs))
            loop(tape, 0, part, W, U, p, np.zeros((0, stage.n_out * self.n_units, 0)), np.zeros((0, 0, 0)))
        except TypingError:
            return local_loop(stage, n_in, len(self.unit_params), nones(1))
        return loop

    def _enclosure(self, place: Place) -> Enclosure:
        return cell_enclosure(self, place)

    def _nearest_contraction(self) -> Self | None:
        """The cell with recurrent weights changed as little as lets it contract; None where that is not known."""
        return None

    def _published_tests(self, u: Interval) -> tuple[Test, ...]:
        """What the literature knows of this cell, for inputs within ``u``."""
        return ()

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        (J,), (B,) = self.jacobians(u[None], state)
        return StateSpace(J, B, J[: self.n_units], B[: self.n_units], sample_rate=self.sample_rate)

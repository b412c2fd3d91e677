"""Regularisers for training: noise in the cells of a filter, drawn anew for every batch and gone when it is used.

Each is given to :func:`rnndsp.training.fit` as ``regularizer=`` and acts on every cell inside the filter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnndsp import statespace
from rnndsp._checks import number
from rnndsp._jit import inline
from rnndsp._tangents import Jacobians
from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.composition import Backward, Feedback, Params, Series
from rnndsp.engine import Cell, Stage
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability import Boundedness
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = [
    "GradientNorm",
    "RecurrentDropout",
    "Regularizer",
    "ScheduledSampling",
    "VariationalDropout",
    "Zoned",
    "Zoneout",
]

Array = NDArray[Any]
F = TypeVar("F", bound=Filter)
Stages = tuple[Stage, ...]


class Noise(NamedTuple):
    """Random numbers that depend on what they are for alone: not on blocks, shards or what was drawn before.

    ``key`` is that of the batch, ``voices`` the places of the sequences in it, of ``n_voices`` in all; ``share`` is how
    much of the training is done.
    """

    key: tuple[int, ...]
    voices: tuple[int, ...]
    n_voices: int
    share: float
    stream: int = 0

    def hits(self, rate: float, stream: int, n_voices: int, n: int, frames: slice | None = None) -> NDArray[np.bool_]:
        """Events of probability ``rate``, (voices, frames, n); one frame for the whole sequence where none are named.

        Philox counts: the words of a frame stand where the number of the frame, the stream and the voice say.
        """
        first, n_frames = (frames.start, frames.stop - frames.start) if frames else (0, 1)
        words = -(-n // 8)  # of 256 bits a frame
        key = np.random.SeedSequence(self.key).generate_state(2, np.uint64)
        found = np.empty((n_voices, n_frames, n), bool)
        several = n_voices // len(self.voices)  # where a filter runs some voices for each one that it is given
        for place in range(n_voices):
            voice = self.voices[place // several] * several + place % several
            counter = np.array([first * words, 8 * self.stream + stream, voice, 0], np.uint64)
            raw = np.random.Philox(key=key, counter=counter).random_raw(4 * words * n_frames)
            found[place] = raw.view(np.uint32).reshape(n_frames, -1)[:, :n] < rate * 2.0**32
        return found


class Regularizer(ABC):
    """What :func:`rnndsp.training.fit` does to a filter while it trains it."""

    def settled(self, filt: F) -> F:
        """The filter as it is used, validated and returned; refuses one on which there is nothing to act."""
        self._altered(filt, Noise((0,), (0,), 1, 0.0))
        return filt

    def trained(self, filt: Filter, noise: Noise) -> Filter:
        """A filter for some sequences of a batch: its tape gives the gradient under the names of the parameters."""
        return self._altered(filt, noise) if self._acts else filt

    @property
    def _acts(self) -> bool:
        """Whether it does anything at all."""
        return True

    def _altered(self, filt: Filter, noise: Noise) -> Filter:
        cells: list[Cell] = []

        def change(part: Filter) -> Filter | None:
            if isinstance(part, Zoned):
                raise ParameterError(f"{self!r}: the cells of this filter are zoned, and take Zoneout alone")
            if not isinstance(part, Cell):
                return None
            cells.append(part)
            return self._cell(part, noise._replace(stream=len(cells)))

        found = _rebuilt(filt, change)
        if not cells:
            raise ParameterError(f"{self!r} acts on cells, and there is none in {filt!r}")
        return found

    @abstractmethod
    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        """What stands for a cell in a batch."""


def _rebuilt(filt: Filter, change: Callable[[Filter], Filter | None]) -> Filter:
    """A filter with some of its parts, however deep inside, changed."""
    found = change(filt)
    if found is not None:
        return found
    children = [_rebuilt(child, change) for child in filt.children]
    if all(new is old for new, old in zip(children, filt.children, strict=True)):
        return filt
    return type(filt)._restore(filt.config, filt._own, children, filt.sample_rate)


def _rates(**given: float) -> tuple[float, ...]:
    for name, rate in given.items():
        if not 0 <= number(name, rate) < 1:
            raise ParameterError(f"{name}={rate} must be at least 0 and below 1")
    return tuple(map(float, given.values()))


@dataclass(frozen=True)
class VariationalDropout(Regularizer):
    r"""Dropout with one mask for all frames of a sequence.

    .. math:: a_g = W_g (m_u \circ u[t]) + b_g, \qquad r_g = U_g (m_h \circ h[t-1])

    The masks hold 0 with the probability that is asked for, otherwise 1 / (1 - probability), so that they are 1 on
    average, and the cell without them is what is validated and returned. All gates share a mask.

    Attributes
    ----------
    inputs, recurrent : float
        Probabilities within [0, 1): of inputs, and of units as the gates of all units see them. What a unit keeps of
        its own state is not masked.

    Notes
    -----
    A GRU with ``reset="before"`` mixes its state twice, and takes ``inputs`` alone.

    References
    ----------
    Y. Gal, Z. Ghahramani (2016), "A theoretically grounded application of dropout in recurrent neural networks".
    """

    inputs: float = 0.2
    recurrent: float = 0.2

    def __post_init__(self) -> None:
        _rates(inputs=self.inputs, recurrent=self.recurrent)

    @property
    def _acts(self) -> bool:
        return bool(self.inputs or self.recurrent)

    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        stages = _variational(cell._chain, len(cell.state_names)) if self.recurrent else None

        def masks(n_voices: int, frames: slice) -> Array:
            kept = ~noise.hits(self.recurrent, 0, n_voices, cell.n_units)
            return np.broadcast_to(kept / (1 - self.recurrent), (n_voices, frames.stop - frames.start, cell.n_units))

        def entering(n_voices: int) -> Array | None:
            return ~noise.hits(self.inputs, 1, n_voices, cell.n_inputs) / (1 - self.inputs) if self.inputs else None

        return _masked(cell, stages, masks, entering)


@dataclass(frozen=True)
class RecurrentDropout(Regularizer):
    r"""Dropout of what gated cells write into their memory, anew at every frame; what they remember is not lost.

    .. math::
        c[t] &= f\, c[t-1] + i \circ m[t] \circ g \quad\text{(LSTM)} \\
        h[t] &= z\, h[t-1] + (1 - z) \circ m[t] \circ n \quad\text{(GRU)}

    The mask holds 0 with the probability p, otherwise 1 / (1 - p); the cell without it is what is validated and
    returned.

    Attributes
    ----------
    candidate : float
        p, within [0, 1).

    References
    ----------
    S. Semeniuta, A. Severyn, E. Barth (2016), "Recurrent dropout without memory loss".
    """

    candidate: float = 0.25

    def __post_init__(self) -> None:
        _rates(candidate=self.candidate)

    @property
    def _acts(self) -> bool:
        return self.candidate > 0

    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        name = (type(cell).registered_name(), cell.config.get("reset"))
        if name not in _DROPPED:
            known = ", ".join(sorted({cls for cls, _ in _DROPPED}))
            raise ParameterError(f"RecurrentDropout knows the candidates of {known}, not of {type(cell).__name__}")

        def masks(n_voices: int, frames: slice) -> Array:
            return ~noise.hits(self.candidate, 0, n_voices, cell.n_units, frames) / (1 - self.candidate)

        return _masked(cell, _DROPPED[name], masks)


@dataclass(frozen=True)
class Zoneout(Regularizer):
    r"""Units that at random keep their state for a frame, instead of taking the new one.

    .. math:: h[t] = m_h[t] \circ h[t-1] + (1 - m_h[t]) \circ \tilde h[t], \qquad
              c[t] = m_c[t] \circ c[t-1] + (1 - m_c[t]) \circ \tilde c[t]

    The tilde marks what the cell makes of its old state and its input, the masks hold 1 with the probability that is
    asked for, otherwise 0. What is validated and returned has the probabilities in place of the masks, as the authors
    have it: every cell in it is a :class:`Zoned` one.

    Attributes
    ----------
    h, c : float
        Probabilities within [0, 1], of the hidden state and of the second one where a cell has two.

    References
    ----------
    D. Krueger et al. (2017), "Zoneout: regularizing RNNs by randomly preserving hidden activations".
    """

    h: float = 0.05
    c: float = 0.05

    def __post_init__(self) -> None:
        _kept_rates(self.h, self.c)

    @property
    def _acts(self) -> bool:
        return bool(self.h or self.c)

    def settled(self, filt: F) -> F:
        super().settled(filt)
        if not self._acts:
            return filt

        def change(part: Filter) -> Filter | None:
            cell = part.children[0] if isinstance(part, Zoned) else part
            return Zoned(cell, h=self.h, c=self.c) if isinstance(cell, Cell) else None

        settled: Any = _rebuilt(filt, change)
        return settled  # type: ignore[no-any-return]

    def _altered(self, filt: Filter, noise: Noise) -> Filter:
        # the parameters and the state of the cell stay one level down
        def bare(part: Filter) -> Filter | None:
            return Series._restore({}, {}, part.children) if isinstance(part, Zoned) else None

        return super()._altered(_rebuilt(filt, bare), noise)

    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        def masks(n_voices: int, frames: slice) -> Array:
            rates = (self.h, self.c)[: len(cell.state_names)]
            hits = [noise.hits(rate, place, n_voices, cell.n_units, frames) for place, rate in enumerate(rates)]
            return np.tensordot([1.0, 2.0][: len(hits)], hits, 1)  # all in one number, see _masks

        return _masked(cell, _zoned(cell._chain, len(cell.state_names), None), masks)


@dataclass(frozen=True)
class GradientNorm(Regularizer):
    r"""Pascanu's soft constraint: what goes back through an Elman cell is to keep its norm from frame to frame.

    .. math::
        \Omega = \frac{1}{n} \sum_{voices} \sum_t
            \Big(\frac{\|D_{t-1} U^T g_t\|}{\|g_t\|} - 1\Big)^2, \qquad
        g_t = \frac{\partial E}{\partial a_t}, \quad D_t = \mathrm{diag}(\varphi'(a_t))

    over the n sequences of a batch, where the gradient E of the frames to come is not zero. ``weight`` times the
    derivative of Ω by U is added to the gradient, with g and D held fixed, as the authors do; the loss that is told
    has no Ω. It is a constraint on what the loss sees, not on all directions, and no bound of any gradient.

    Attributes
    ----------
    weight : float
        At least 0.

    Notes
    -----
    Elman cells alone: in a gated one the Jacobian from frame to frame depends on U through its gates, too. It takes a
    few products of n_units x n_units a frame more than back-propagation.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio (2013), "On the difficulty of training recurrent neural networks", eq. 9 and 10.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if number("weight", self.weight) < 0:
            raise ParameterError(f"weight={self.weight} must be at least 0")

    @property
    def _acts(self) -> bool:
        return self.weight > 0

    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        name = cell.config.get("activation")
        if type(cell).registered_name() != "Elman" or name not in _SLOPES:
            raise ParameterError(f"GradientNorm knows the slopes of Elman cells, not of {type(cell).__name__}")
        config = {"cell": cell, "weight": self.weight / noise.n_voices, "slope": _SLOPES[name]}
        return _Constrained._restore(config, cell._own, sample_rate=cell.sample_rate)


# slopes of activations by their values
_SLOPES: dict[Any, Callable[[Array], Array]] = {
    "tanh": lambda h: 1 - h * h,
    "relu": lambda h: np.sign(h),
    "identity": np.ones_like,
}


@dataclass(frozen=True)
class ScheduledSampling(Regularizer):
    r"""For predictors that see what came before: the truth first, and more and more often what they said themselves.

    .. math:: y[t] = f\big(u[t],\; m[t]\, y[t-1] + (1 - m[t])\, y^*[t-1]\big), \qquad
              P(m[t] = 1) = p\, \min(1, s / s_1)

    where s is the share of the training that is done, and y* the truth, which the data give as the last inputs of the
    filter, as many as it has outputs: see :func:`rnndsp.filters.teacher_forced`. The gradient is exact, it goes through
    what was fed back, too. Validated is the predictor as it is, on the inputs that are given; for its free run see
    :func:`rnndsp.filters.closed_loop`.

    Attributes
    ----------
    probability : float
        p within [0, 1].
    ramp : float
        s_1 within (0, 1].

    Notes
    -----
    It runs a loop of one sample, with a call of the filter for each, as :class:`rnndsp.Feedback` does.

    References
    ----------
    S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer (2015), "Scheduled sampling for sequence prediction with recurrent
    neural networks".
    """

    probability: float = 1.0
    ramp: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= number("probability", self.probability) <= 1:
            raise ParameterError(f"probability={self.probability} must be within [0, 1]")
        if not 0 < number("ramp", self.ramp) <= 1:
            raise ParameterError(f"ramp={self.ramp} must be within (0, 1]")

    @property
    def _acts(self) -> bool:
        return self.probability > 0

    def _altered(self, filt: Filter, noise: Noise) -> Filter:
        if filt.n_inputs < filt.n_outputs or filt.controls:
            raise ParameterError(
                f"ScheduledSampling: the last {filt.n_outputs} inputs must be the outputs a frame ago, and "
                f"{type(filt).__name__} has {filt.n_inputs} inputs and {len(filt.controls)} controls"
            )
        rate = self.probability * min(1.0, noise.share / self.ramp)
        return _Sampled._restore({"filter": filt, "rate": rate, "noise": noise}, filt.params)

    def _cell(self, cell: Cell, noise: Noise) -> Filter:
        raise NotImplementedError


def _kept_rates(h: float, c: float) -> tuple[float, float]:
    for name, rate in (("h", h), ("c", c)):
        if not 0 <= number(name, rate) <= 1:
            raise ParameterError(f"{name}={rate} must be within [0, 1]")
    return float(h), float(c)


class Zoned(Filter):
    r"""A cell that takes a part of its old state into the new one, as one trained with zoneout is used.

    .. math:: h[t] = p_h\, h[t-1] + (1 - p_h)\, \tilde h[t], \qquad c[t] = p_c\, c[t-1] + (1 - p_c)\, \tilde c[t],
              \qquad y[t] = h[t]

    Parameters
    ----------
    cell : Cell
        Of one or two states; what it makes of its old state and its input has the tilde.
    h, c : float
        p within [0, 1], see :class:`Zoneout`.

    Notes
    -----
    *State*: that of ``cell``, in ``children``. *Stability*: a saturating cell stays saturating, as averages of numbers
    within a range are within it. Whether the cell forgets its state follows from its Jacobians, p I + (1 - p) J: see
    :meth:`stability`.
    """

    def __init__(self, cell: Cell, *, h: float = 0.05, c: float = 0.05) -> None:
        super().__init__({"h": h, "c": c}, {}, [cell])

    def _setup(self) -> None:
        rates = _kept_rates(self.config["h"], self.config["c"])
        cell = self.children[0] if len(self.children) == 1 else None
        if not isinstance(cell, Cell):
            raise ParameterError(f"Zoned has one part, a cell, not {list(self.children)}")
        self.n_inputs, self.n_outputs = cell.n_inputs, cell.n_outputs
        stages = _zoned(cell._chain, len(cell.state_names), rates)
        self._inner = _variant(cell, stages, cell._own, cell.n_inputs, cell.config["recurrence"])

    def _advance(self, u: Array, state: State, y: Array) -> None:
        self._inner._process(u, state.children[0], y)

    def _record(self, u: Array, state: State) -> tuple[Array, Any]:
        return self._inner._tape(u, state.children[0])

    def _adjoint(self, memory: Any, dy: Array, dx: Array) -> Backward:
        du, dx, params = self._inner._adjoint(memory, dy, dx)
        return du, dx, {f"0.{name}": value for name, value in params.items()}

    def _linearize(self, state: State, u: Array) -> DelayStateSpace:
        return self._inner._linearize(state.children[0], u)

    def _jacobians(self, u: Array, state: State) -> Jacobians:
        found = self._inner._jacobians(u, state.children[0])
        state.index += len(u)
        return found

    def _boundedness(self) -> Boundedness:
        kind = self.children[0]._boundedness()
        return kind if kind == Boundedness.SATURATING else Boundedness.UNKNOWN


class _Variant(Cell):
    """A cell with the stages of another one changed.

    *State*: that of the other one. *Stability*: nothing is known.
    """

    @classmethod
    def _stages(cls, config: Mapping[str, Any]) -> Stages:
        stages: Stages = config["stages"]
        return stages

    def _setup(self) -> None:
        self.state_names, self.unit_params, self.recurrent_bias = self.config["names"]
        super()._setup()


def _variant(cell: Cell, stages: Stages, params: Mapping[str, Array], n_inputs: int, recurrence: str) -> _Variant:
    names = (cell.state_names, cell.unit_params, cell.recurrent_bias)
    config = {"n_inputs": n_inputs, "n_units": cell.n_units, "recurrence": recurrence}
    return _Variant._restore({**config, "stages": stages, "names": names}, params)


Masks = Callable[[int, slice], Array]


def _masked(
    cell: Cell, stages: Stages | None, masks: Masks, entering: Callable[[int], Array | None] = lambda n: None
) -> _Masked:
    config = {"cell": cell, "stages": stages, "masks": masks, "entering": entering}
    return _Masked._restore(config, cell._own, sample_rate=cell.sample_rate)


class _Masked(Filter):
    """A cell with masks.

    They come to its units as the pre-activations of one more gate, the first one, which sees nothing but further inputs
    that are the masks.

    *State*: that of the cell. *Stability*: nothing is known.
    """

    def _setup(self) -> None:
        self._no_children()
        self._bare: Cell = self.config["cell"]
        self._masks: Masks = self.config["masks"]
        self._entering: Callable[[int], Array | None] = self.config["entering"]
        cell, stages = self._bare, self.config["stages"]
        self.n_inputs, self.n_outputs, self.fields = cell.n_inputs, cell.n_outputs, cell.fields
        self._widened = stages is not None
        self._inner: Cell = self._wide(stages) if stages is not None else cell

    def _wide(self, stages: Stages) -> Cell:
        cell, n = self._bare, self._bare.n_units
        own, U = cell._own, cell.U
        rest = {name: value for name, value in own.items() if name in ("b", "b_rec")}
        W = np.zeros((len(own["W"]) + n, cell.n_inputs + n))
        W[:n, cell.n_inputs :], W[n:, : cell.n_inputs] = np.eye(n), own["W"]
        wide = {name: np.concatenate([np.zeros((n, *v.shape[1:])), v]) for name, v in {**rest, "U": U}.items()}
        kept = {name: own[name] for name in cell.unit_params}
        recurrence = "dense" if U.ndim == 2 else "diagonal"
        return _variant(cell, stages, {"W": W, **wide, **kept}, cell.n_inputs + n, recurrence)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self._bare._shapes()

    def _fed(self, u: Array, state: State) -> tuple[Array, Array | None]:
        """The input with its masks, and what it was multiplied by."""
        scale = self._entering(len(u))
        u = u if scale is None else (u * scale).astype(u.dtype)
        if self._widened:
            masks = self._masks(len(u), slice(state.index, state.index + u.shape[1]))
            u = np.concatenate([u, masks.astype(u.dtype)], axis=2)
        return u, scale

    def _advance(self, u: Array, state: State, y: Array) -> None:
        self._inner._advance(self._fed(u, state)[0], state, y)

    def _record(self, u: Array, state: State) -> tuple[Array, Any]:
        u, scale = self._fed(u, state)
        y, memory = self._inner._record(u, state)
        return y, (memory, scale)

    def _adjoint(self, memory: Any, dy: Array, dx: Array) -> Backward:
        du, dx, params = self._inner._adjoint(memory[0], dy, dx)
        du = du[..., : self.n_inputs]
        return du if memory[1] is None else (du * memory[1]).astype(du.dtype), dx, self._narrow(params)

    def _adjoint_of_params(self, memory: Any, dy: Array, dx: Array) -> tuple[Array, Params]:
        dx, params = self._inner._adjoint_of_params(memory[0], dy, dx)
        return dx, self._narrow(params)

    def _narrow(self, params: Params) -> Params:
        if not self._widened:
            return params
        cell, n = self._bare, self._bare.n_units
        kept = {name: value[n:] for name, value in params.items() if name in ("b", "b_rec", "U")}
        free = cell._recurrence.param
        by_free = cell._recurrence.adjoint(cell._own[free], n, kept.pop("U"))
        own = {name: params[name] for name in cell.unit_params}
        return {**own, **kept, "W": params["W"][n:, : cell.n_inputs], free: by_free}

    def _linearize(self, state: State, u: Array) -> DelayStateSpace:
        raise ParameterError("a cell with masks is there for training alone")


class _Constrained(Filter):
    """An Elman cell whose adjoint adds the derivative of Ω to that of the loss.

    A further input of each unit, zero, goes straight to its pre-activation: the derivative by it is g.

    *State*: that of the cell. *Stability*: nothing is known.
    """

    def _setup(self) -> None:
        self._no_children()
        self._bare: Cell = self.config["cell"]
        cell = self._bare
        self._weight, self._slope = self.config["weight"], self.config["slope"]
        self.n_inputs, self.n_outputs, self.fields = cell.n_inputs, cell.n_outputs, cell.fields
        W = np.concatenate([cell._own["W"], np.eye(cell.n_units)], axis=1)
        n_inputs = cell.n_inputs + cell.n_units
        self._inner = _variant(cell, cell._chain, {**cell._own, "W": W}, n_inputs, cell.config["recurrence"])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self._bare._shapes()

    def _fed(self, u: Array) -> Array:
        return np.concatenate([u, np.zeros((*u.shape[:2], self._bare.n_units), u.dtype)], axis=2)

    def _advance(self, u: Array, state: State, y: Array) -> None:
        self._inner._advance(self._fed(u), state, y)

    def _record(self, u: Array, state: State) -> tuple[Array, Any]:
        before = state.rows[:, None].copy()
        y, memory = self._inner._record(self._fed(u), state)
        return y, (memory, np.concatenate([before, y], axis=1)[:, :-1])

    def _adjoint(self, memory: Any, dy: Array, dx: Array) -> Backward:
        du, dx, params = self._inner._adjoint(memory[0], dy, dx)
        du, g = np.split(du, [self.n_inputs], axis=2)
        by_U = self._weight * _constraint(self._bare._mixing[0], g, self._slope(memory[1]))[1]
        if self._bare.U.ndim == 1:
            by_U = np.diagonal(by_U)
        cell, free = self._bare, self._bare._recurrence.param
        params["W"] = params["W"][:, : self.n_inputs]
        params[free] = params[free] + cell._recurrence.adjoint(cell._own[free], cell.n_units, by_U)
        return du, dx, params

    def _linearize(self, state: State, u: Array) -> DelayStateSpace:
        return self._bare._linearize(state, u)


def _constraint(U: Array, g: Array, slopes: Array) -> tuple[float, Array]:
    """Ω, summed over voices, and its derivative by U, from g_t and D_{t-1} of (voices, frames, units)."""
    g, slopes = (x.reshape(-1, len(U)).astype(np.float64) for x in (g, slopes))
    length = np.linalg.norm(g, axis=1, keepdims=True)
    g = g / np.where(length > 0, length, 1)  # Ω depends on directions alone
    back = g @ U * slopes
    norm = np.linalg.norm(back, axis=1, keepdims=True)
    off = np.where(length > 0, norm - 1, 0)
    return float(np.sum(off**2)), g.T @ (2 * off * slopes * back / np.where(norm > 0, norm, 1))


class _Sampled(Filter):
    """A predictor some of whose last inputs are what it said a frame ago.

    *State*: that of a loop around the predictor, in ``line`` and in ``inner`` as :meth:`State.ravel` has it.
    *Stability*: nothing is known.
    """

    def _setup(self) -> None:
        self._no_children()
        filt: Filter = self.config["filter"]
        self.n_inputs, self.n_outputs = filt.n_inputs, filt.n_outputs
        n_in, n = self.n_inputs, self.n_outputs
        switch = _Switch._restore({"n_inputs": n_in, "n": n, **{k: self.config[k] for k in ("rate", "noise")}}, {})
        back = statespace.gain(np.concatenate([np.zeros((n_in, n)), np.eye(n)]))
        self._loop = Feedback(Series._restore({}, {}, (switch, filt)), back, delay=1, allow_unstable=True)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.config["filter"].params.items()}

    def rest_state(self, voices: tuple[int, ...] = (), dtype: DTypeLike = np.float64) -> State:
        return self._loop.rest_state(voices, dtype)

    def _fed(self, u: Array) -> Array:
        return np.concatenate([u, np.zeros((*u.shape[:2], self.n_outputs), u.dtype)], axis=2)

    def _process(self, u: Array, state: State, y: Array) -> None:
        self._loop._process(self._fed(u), state, y)

    def _tape(self, u: Array, state: State) -> tuple[Array, Any]:
        return self._loop._tape(self._fed(u), state)

    def _adjoint(self, memory: Any, dy: Array, dx: Array) -> Backward:
        du, dx, params = self._loop._adjoint(memory, dy, dx)
        inside = {name.removeprefix("0.1."): value for name, value in params.items() if name.startswith("0.1.")}
        return du[..., : self.n_inputs], dx, inside

    def _advance(self, u: Array, state: State, y: Array) -> None:
        raise NotImplementedError  # the state is that of the loop, which counts for itself

    def _record(self, u: Array, state: State) -> tuple[Array, Any]:
        raise NotImplementedError

    def _linearize(self, state: State, u: Array) -> DelayStateSpace:
        raise ParameterError("a predictor that is sampled is there for training alone")


class _Switch(Filter):
    """Of its inputs (u, truth, own) it hands on u, and the truth or its own.

    *State*: none. *Stability*: what comes out is what came in.
    """

    def _setup(self) -> None:
        self.n_inputs, self.n_outputs = self.config["n_inputs"] + self.config["n"], self.config["n_inputs"]
        self._rate, self._noise = self.config["rate"], self.config["noise"]

    def _chosen(self, n_voices: int, first: int, n_frames: int) -> NDArray[np.bool_]:
        """Where its own is handed on; drawn in blocks, as a loop asks for one frame at a time."""
        blocks = []
        for block in range(first // 1024, (first + n_frames - 1) // 1024 + 1):
            frames = slice(block * 1024, (block + 1) * 1024)
            drawn = self._derived((n_voices, block), self._noise.hits, self._rate, 0, n_voices, 1, frames)
            blocks.append(drawn[:, max(first - frames.start, 0) : first + n_frames - frames.start])
        return np.concatenate(blocks, axis=1)

    def _advance(self, u: Array, state: State, y: Array) -> None:
        y[...] = self._record(u, state)[0]

    def _record(self, u: Array, state: State) -> tuple[Array, Any]:
        n = self.config["n"]
        own = self._chosen(len(u), state.index, u.shape[1])
        truth = u[..., -2 * n : -n]
        return np.concatenate([u[..., : -2 * n], np.where(own, u[..., -n:], truth)], axis=2), own

    def _adjoint(self, memory: Any, dy: Array, dx: Array) -> Backward:
        n = self.config["n"]
        fed, zero = dy[..., -n:], np.zeros((), dy.dtype)
        parts = [dy[..., :-n], np.where(memory, zero, fed), np.where(memory, fed, zero)]
        return np.concatenate(parts, axis=2), dx, {}

    def _linearize(self, state: State, u: Array) -> DelayStateSpace:
        raise ParameterError("a switch of samples is there for training alone")


# what stands for parts of a filter in a batch is in no file
for _cls in (_Constrained, _Masked, _Sampled, _Switch, _Variant):
    del Filter.registry[_cls.registered_name()]


# ---- stages with a mask, a[0], which is the first gate


def _masks(code: Any) -> Any:
    """The masks of two states from one number, 0 to 3: its first bit and its second."""
    c = code * (code - 1) * (7 - 2 * code) / 6
    return code - 2 * c, c


@cache
def _zoned(stages: Stages, n_states: int, rates: tuple[float, float] | None) -> Stages:
    """States kept by the masks, or in part where there are ``rates``; every further stage is handed the old states."""
    if n_states > 2:
        raise ParameterError(f"zoneout takes cells of one state or two, not of {n_states}")
    two, own = n_states == 2, rates is None
    h, c = rates or (0.0, 0.0)
    first, last = stages[0], stages[-1]
    unit0, adjoint0, unit1, adjoint1 = first.unit, first.adjoint, last.unit, last.adjoint
    for function in (unit0, adjoint0, unit1, adjoint1, _masks):
        inline(function)

    @inline
    def kept(code: Any, s: Any, new: Any) -> Any:
        if two:
            mh, mc = _masks(code) if own else (h, c)
            return mh * s[0] + (1 - mh) * new[0], mc * s[1] + (1 - mc) * new[1]
        m = code if own else h
        return (m * s[0] + (1 - m) * new[0],)

    @inline
    def parted(code: Any, d: Any) -> Any:
        """What goes to the old state, and what to the new one."""
        if two:
            mh, mc = _masks(code) if own else (h, c)
            return (mh * d[0], mc * d[1]), ((1 - mh) * d[0], (1 - mc) * d[1])
        m = code if own else h
        return (m * d[0],), ((1 - m) * d[0],)

    @inline
    def summed(x: Any, y: Any) -> Any:
        return (x[0] + y[0], x[1] + y[1]) if two else (x[0] + y[0],)

    @inline
    def without(x: Any) -> Any:
        return x[1:] if own else x

    @inline
    def padded(x: Any) -> Any:
        return (0 * x[0], *x) if own else x

    def unit(a: Any, r: Any, s: Any, p: Any) -> Any:
        return kept(a[0], s, unit0(without(a), without(r), s, p))

    def adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        old, new = parted(a[0], d)
        da, dr, ds, dp = adjoint0(without(a), without(r), s, p, new)
        return padded(da), padded(dr), summed(old, ds), dp

    def enter(a: Any, r: Any, s: Any, p: Any) -> Any:
        return (*unit0(without(a), without(r), s, p), a[0], *s)

    @inline
    def handed(s: Any) -> Any:
        """What the first stage returns by itself, the mask, the old states."""
        return (s[:-3], s[-3], s[-2:]) if two else (s[:-2], s[-2], s[-1:])

    def enter_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        own_d, _, old = handed(d)
        da, dr, ds, dp = adjoint0(without(a), without(r), s, p, own_d)
        return padded(da), padded(dr), summed(old, ds), dp

    def leave(a: Any, r: Any, s: Any, p: Any) -> Any:
        own_s, code, old = handed(s)
        return kept(code, old, unit1(a, r, own_s, p))

    def leave_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        own_s, code, _ = handed(s)
        old, new = parted(code, d)
        da, dr, ds, dp = adjoint1(a, r, own_s, p, new)
        return da, dr, (*ds, 0 * code, *old), dp

    if len(stages) == 1:
        return (Stage(unit, adjoint, first.n_gates + own, n_states, first.n_apart),)
    return (
        Stage(enter, enter_adjoint, first.n_gates + own, first.n_out + 1 + n_states, first.n_apart),
        Stage(leave, leave_adjoint, last.n_gates, n_states, last.n_apart),
    )


@cache
def _variational(stages: Stages, n_states: int) -> Stages:
    """A stage before that masks what is mixed; the old state goes beside it."""
    if len(stages) > 1:
        raise ParameterError(
            "VariationalDropout(recurrent=...) masks what a cell mixes, and this cell mixes twice; for a GRU take "
            "reset='after', or recurrent=0"
        )
    (only,) = stages
    unit, adjoint = only.unit, only.adjoint
    for function in (unit, adjoint):
        inline(function)

    def enter(a: Any, r: Any, s: Any, p: Any) -> Any:
        return (a[0] * s[0], *s)

    def enter_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        zero = 0 * a[0]
        return (zero,), (zero,), (a[0] * d[0] + d[1], *d[2:]), ()

    def leave(a: Any, r: Any, s: Any, p: Any) -> Any:
        return unit(a, r, s[1:], p)

    def leave_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        da, dr, ds, dp = adjoint(a, r, s[1:], p, d)
        return da, dr, (0 * s[0], *ds), dp

    return (
        Stage(enter, enter_adjoint, 1, 1 + n_states, 0),
        Stage(leave, leave_adjoint, only.n_gates, n_states, only.n_apart),
    )


def _lstm(a: Any, r: Any, s: Any, p: Any) -> Any:
    i, f = sigmoid(a[1] + r[1]), sigmoid(a[2] + r[2])
    g, o = tanh(a[3] + r[3]), sigmoid(a[4] + r[4])
    c = fma(f, s[1], i * (a[0] * g))
    return o * tanh(c), c


def _lstm_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    i, f = sigmoid(a[1] + r[1]), sigmoid(a[2] + r[2])
    g, o = tanh(a[3] + r[3]), sigmoid(a[4] + r[4])
    q = tanh(f * s[1] + i * (a[0] * g))
    dc = d[1] + d[0] * o * (1 - q * q)
    written, forgotten = dc * a[0] * g * (i * (1 - i)), dc * s[1] * (f * (1 - f))
    gates = (0 * dc, written, forgotten, dc * i * a[0] * (1 - g * g), d[0] * q * (o * (1 - o)))
    return gates, gates, (0 * dc, dc * f), ()


def _after(a: Any, r: Any, s: Any, p: Any) -> Any:
    reset, z = sigmoid(a[1] + r[1]), sigmoid(a[2] + r[2])
    n = a[0] * tanh(fma(reset, r[3], a[3]))
    return (fma(z, s[0] - n, n),)


def _after_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[1] + r[1]), sigmoid(a[2] + r[2])
    n = tanh(a[3] + reset * r[3])
    dn = d[0] * (1 - z) * a[0] * (1 - n * n)
    dreset, dz = dn * r[3] * (reset * (1 - reset)), d[0] * (s[0] - a[0] * n) * (z * (1 - z))
    return (0 * dn, dreset, dz, dn), (0 * dn, dreset, dz, dn * reset), (d[0] * z,), ()


def _gates(a: Any, r: Any, s: Any, p: Any) -> Any:
    return sigmoid(a[1] + r[1]) * s[0], sigmoid(a[2] + r[2]), s[0], a[0]


def _gates_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[1] + r[1]), sigmoid(a[2] + r[2])
    g = (0 * z, d[0] * s[0] * (reset * (1 - reset)), d[1] * (z * (1 - z)))
    return g, g, (d[0] * reset + d[2],), ()


def _candidate(a: Any, r: Any, s: Any, p: Any) -> Any:
    n = s[3] * tanh(a[0] + r[0])
    return (fma(s[1], s[2] - n, n),)


def _candidate_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    n = tanh(a[0] + r[0])
    dn = d[0] * (1 - s[1]) * s[3] * (1 - n * n)
    return (dn,), (dn,), (0 * dn, d[0] * (s[2] - s[3] * n), d[0] * s[1], 0 * dn), ()


_DROPPED: dict[tuple[str, Any], Stages] = {
    ("LSTM", None): (Stage(_lstm, _lstm_adjoint, n_gates=5, n_out=2, apart=0),),
    ("GRU", "after"): (Stage(_after, _after_adjoint, n_gates=4, n_out=1, apart=1),),
    ("GRU", "before"): (
        Stage(_gates, _gates_adjoint, n_gates=3, n_out=4, apart=0),
        Stage(_candidate, _candidate_adjoint, n_gates=1, n_out=1, apart=0),
    ),
}

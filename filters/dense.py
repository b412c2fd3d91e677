"""The dense layer: a memoryless linear map, then an activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, generator, whole_number
from rnndsp._intervals import affine as bounds_of
from rnndsp._jit import inline, kernel
from rnndsp._mixing import affine, load_some, put_out
from rnndsp._tangents import Jacobians
from rnndsp._vectors import aligned, fma, keep, lanes, larger, load, store, total
from rnndsp.activations import sigmoid, tanh
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, gain

__all__ = ["Dense"]

# Slope of each activation as a function of its value; the place of a name is its number in the kernel.
SLOPES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "identity": np.ones_like,
    "tanh": lambda y: 1 - y * y,
    "relu": lambda y: (y > 0).astype(y.dtype),
    "sigmoid": lambda y: y * (1 - y),
}

# What each does to bounds.
_BOUNDS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda a: a,
    "tanh": tanh,
    "relu": lambda a: np.maximum(a, 0.0),
    "sigmoid": sigmoid,
}


@inline
def activated(a: Any, activation: Any) -> Any:
    if activation == 1:
        a = tanh(a)
    elif activation == 2:
        a = larger(a, 0)
    elif activation == 3:
        a = sigmoid(a)
    return a


@cache
def _forward(n_lanes: int) -> Any:
    """Compile the loop over frames for blocks of so many outputs."""
    wide, one = (None,) * n_lanes, (None,)

    @kernel
    def forward(u: Any, y: Any, weights: Any, activation: Any) -> None:
        n_inputs, n = u.shape[2], y.shape[2]
        block = len(wide) * (1 + n_inputs)
        for voice in range(u.shape[0]):
            stop = (voice + 1) * y.shape[1] * n
            for t in range(u.shape[1]):
                frame = voice * y.shape[1] + t
                for place in range(0, n, len(wide)):
                    at = place // len(wide) * block
                    (a,) = affine(weights, at, wide, u, frame * n_inputs, n_inputs, one, wide, one)
                    put_out(y, frame * n + place, stop, activated(a, activation), min(n - place, len(wide)), wide)

    return forward


@cache
def _forward_few(n_lanes: int) -> Any:
    """The same for so few outputs that lanes are inputs: first their weights for each output, then all b."""
    wide, one = (None,) * n_lanes, (None,)

    @kernel
    def forward(u: Any, y: Any, weights: Any, activation: Any) -> None:
        n_inputs, n = u.shape[2], y.shape[2]
        row, whole = weights.size // n - 1, n_inputs // len(wide) * len(wide)
        for frame in range(u.shape[0] * u.shape[1]):
            for j in range(n):
                at, products = frame * n_inputs, keep(load(weights, 0, one, wide), 0)
                for i in range(0, whole, len(wide)):
                    products = fma(load(weights, j * row + i, wide, wide), load(u, at + i, wide, wide), products)
                if whole < n_inputs:
                    x = load_some(u, at + whole, n_inputs - whole, wide)
                    products = fma(load(weights, j * row + whole, wide, wide), x, products)
                a = total(products) + load(weights, n * row + j, one, one)
                store(y, frame * n + j, activated(a, activation), one)

    return forward


class Dense(Filter):
    r"""Dense layer: the same map at every sample, no memory.

    .. math:: y[t] = \varphi(W u[t] + b)

    Parameters
    ----------
    n_inputs, n_outputs : int
    activation : {"identity", "tanh", "relu", "sigmoid"}
        φ.
    seed : int or Generator
        For W uniform within ±1/sqrt(n_inputs); b is zero.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``W`` (n_outputs, n_inputs) and ``b`` (n_outputs,).

    *State*: none. Linear in the sense of :attr:`is_linear` where φ is the identity and b is zero.

    *Stability*: always, having no state. As no φ is steeper than one, outputs are never further apart than ||W||_2
    times the inputs; and for every input tanh stays within [-1, 1] and sigmoid within [0, 1].

    Raises
    ------
    ParameterError
        An activation that does not exist, or sizes that are not whole numbers of at least 1.

    References
    ----------
    F. Rosenblatt (1958), "The perceptron: a probabilistic model for information storage and organization in the brain".
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        activation: str = "identity",
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        config = {"n_inputs": n_inputs, "n_outputs": n_outputs, "activation": activation}
        k, p = whole_number("n_inputs", config["n_inputs"]), whole_number("n_outputs", config["n_outputs"])
        W = generator(seed).uniform(-1, 1, (p, k)) / np.sqrt(k)
        super().__init__(config, {"W": W, "b": np.zeros(p)}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_outputs = whole_number("n_outputs", self.config["n_outputs"])
        activation = self.config["activation"]
        choice("activation", activation, SLOPES)
        self.is_linear = activation == "identity" and not np.any(self._own.get("b", 0))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"W": (self.n_outputs, self.n_inputs), "b": (self.n_outputs,)}

    @classmethod
    def from_torch(
        cls,
        state_dict: Mapping[str, ArrayLike],
        *,
        prefix: str = "",
        activation: str = "identity",
        sample_rate: float | None = None,
    ) -> Self:
        """A layer with the weights of a PyTorch ``Linear``.

        Parameters
        ----------
        state_dict : mapping of str to array
            ``weight`` and, unless it was made without, ``bias``; tensors on the CPU are arrays enough.
        prefix : str
            What stands before these names, ``"lin."``.
        activation : {"identity", "tanh", "relu", "sigmoid"}
            What follows the layer.

        Raises
        ------
        ParameterError
            A name is missing or left over, or a shape does not fit.
        """
        arrays = {name.removeprefix(prefix): np.asarray(v) for name, v in state_dict.items() if name.startswith(prefix)}
        if set(arrays) not in ({"weight"}, {"weight", "bias"}):
            raise ParameterError(
                f"from_torch: found {sorted(arrays)}, needs ['weight'] and, if any, ['bias'] of one layer"
            )
        W = arrays["weight"]
        if W.ndim != 2:
            raise ParameterError(f"from_torch: a weight of shape {W.shape} is not a matrix")
        p, k = W.shape
        config = {"n_inputs": k, "n_outputs": p, "activation": activation}
        return cls._restore(config, {"W": W, "b": arrays.get("bias", np.zeros(p, W.dtype))}, sample_rate=sample_rate)

    def _runner(self, dtype: np.dtype[Any]) -> tuple[Any, NDArray[Any], int]:
        """The compiled loop, b and W in the order in which it reads them, and the number of the activation."""
        wide, b, W = lanes(dtype), self._own["b"], self._own["W"]
        few = 4 * self.n_outputs <= wide
        if few:
            ordered = np.append(np.pad(W, ((0, 0), (0, -self.n_inputs % wide))).ravel(), b)
        else:
            table = np.pad(np.column_stack([b, W]), ((0, -self.n_outputs % wide), (0, 0)))
            ordered = table.reshape(-1, wide, 1 + self.n_inputs).transpose(0, 2, 1).ravel()
        weights = aligned((ordered.size,), dtype)
        weights[...] = ordered
        loop = _forward_few(wide) if few else _forward(wide)
        return loop, weights, list(SLOPES).index(self.config["activation"])

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        loop, weights, activation = self._derived(u.dtype.char, self._runner, u.dtype)
        loop(u, y, weights, activation)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        self._advance(u, state, y)
        return y, (u, y)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, y = memory
        da = (dy * SLOPES[self.config["activation"]](y)).reshape(-1, self.n_outputs)
        du = (da @ self._own["W"].astype(u.dtype)).reshape(u.shape)
        return du, dx, {"W": da.T @ u.reshape(-1, self.n_inputs), "b": da.sum(axis=0)}

    def _boundedness(self) -> Boundedness:
        bounded = self.config["activation"] in ("tanh", "sigmoid")
        return Boundedness.SATURATING if bounded else Boundedness.BOUNDED

    def _enclosure(self, place: Place) -> Enclosure:
        W = self._own["W"].astype(np.float64)
        a = bounds_of(W, place.u, self._own["b"].astype(np.float64))
        y = _BOUNDS[self.config["activation"]](a)
        return Enclosure(y, "no memory", self._steepest * np.abs(W), parts=((self, place),))

    def _energy_gain(self, place: Place) -> float:
        return self._steepest * float(np.linalg.norm(self._own["W"].astype(np.float64), 2)) * (1 + 1e-6)

    @property
    def _steepest(self) -> float:
        return 0.25 if self.config["activation"] == "sigmoid" else 1.0

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        y, _ = self._record(u[None, None], state)
        slope = SLOPES[self.config["activation"]](y[0, 0])
        return gain(slope[:, None] * self._own["W"], sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        y, _ = self._tape(u[None], state)
        told = y[0, :1] if self.config["activation"] == "identity" else y[0]  # a straight line has one slope
        D = SLOPES[self.config["activation"]](told)[:, :, None] * self._own["W"]
        none = np.zeros((1, 0, 0)), np.zeros((1, 0, self.n_inputs)), np.zeros((1, self.n_outputs, 0))
        return Jacobians(*none, D, np.zeros(0, np.int64), y[0])

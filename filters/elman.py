"""Elman's simple recurrent network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnndsp._checks import choice
from rnndsp.activations import tanh
from rnndsp.engine import Cell, Stage
from rnndsp.recurrence import Contracting
from rnndsp.stability._decay import diagonal_scaling, norm_below_one
from rnndsp.stability.enclosures import Place

__all__ = ["Elman"]


def _tanh(a: Any, r: Any, s: Any, p: Any) -> Any:
    return (tanh(a[0] + r[0]),)


def _tanh_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    h = tanh(a[0] + r[0])
    g = d[0] * (1 - h * h)
    return (g,), (g,), (0 * g,), ()


def _relu(a: Any, r: Any, s: Any, p: Any) -> Any:
    return (np.maximum(a[0] + r[0], 0 * a[0]),)


def _relu_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    g = d[0] * np.maximum(np.sign(a[0] + r[0]), 0 * a[0])
    return (g,), (g,), (0 * g,), ()


def _identity(a: Any, r: Any, s: Any, p: Any) -> Any:
    return (a[0] + r[0],)


def _identity_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    return (d[0],), (d[0],), (0 * d[0],), ()


_UNITS = {
    "tanh": (Stage(_tanh, _tanh_adjoint, n_gates=1, n_out=1, apart=0),),
    "relu": (Stage(_relu, _relu_adjoint, n_gates=1, n_out=1, apart=0),),
    "identity": (Stage(_identity, _identity_adjoint, n_gates=1, n_out=1, apart=0),),
}


class Elman(Cell):
    r"""Simple recurrent network.

    .. math:: h[t] = \varphi(W u[t] + U h[t-1] + b), \qquad y[t] = h[t]

    Parameters
    ----------
    n_inputs, n_units : int
    activation : {"tanh", "relu", "identity"}
        φ. With "identity" the cell is a linear state-space filter.
    recurrence : str
        Form of U: "dense", "diagonal", "stable_diagonal", "orthogonal", "householder", "oscillating",
        "cayley", "givens", "butterfly", "urnn", "full_capacity", "antisymmetric" or "contracting", as
        :class:`rnndsp.Cell` describes them. A diagonal one with "relu" is the
        IndRNN.
    seed : int or Generator
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: ``h`` (n_units), zero at rest.

    *Stability*: with tanh the output lies within (-1, 1) whatever the weights. It forgets its initial state for every
    input if ||D U D^-1||_2 < 1 for some diagonal D, since tanh and relu have slopes within [0, 1]; a spectral radius of
    U below one is not enough. The forms "stable_diagonal", "oscillating" and "contracting" of U are so by construction.

    References
    ----------
    J. L. Elman (1990), "Finding structure in time". S. Li et al. (2018), "Independently recurrent neural network
    (IndRNN)".
    """

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        *,
        activation: str = "tanh",
        recurrence: str = "dense",
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        super().__init__(
            n_inputs, n_units, recurrence=recurrence, seed=seed, sample_rate=sample_rate, activation=activation
        )

    @classmethod
    def _stages(cls, config: Mapping[str, Any]) -> tuple[Stage, ...]:
        return _UNITS[choice("activation", config["activation"], _UNITS)]

    def _setup(self) -> None:
        super()._setup()
        self.saturating = self.config["activation"] == "tanh"
        self.is_linear = self.config["activation"] == "identity" and not np.any(self._own["b"])

    def _nearest_contraction(self) -> Elman | None:
        if self.U.ndim != 2 or "U" not in self.params:
            return None
        _, d = diagonal_scaling(self.U)
        left, s, right = np.linalg.svd(d[:, None] * self.U / d)
        U = left * np.minimum(s, 0.999) @ right  # with room, as the next look finds its scaling anew
        return self.replace(U=U * d / d[:, None])

    def _contraction(self) -> str | None:
        # holds in either norm, as both are monotone in the slopes, a diagonal matrix within [0, 1]
        if self.is_linear:
            return super()._contraction()
        U, name = self._mixing[0], "U"
        if isinstance(self._recurrence, Contracting):
            (d,) = self._recurrence.scaling(self._own[self._recurrence.param])
            U, name = d[:, None] * U / d, "D U D^-1"
        norm = norm_below_one(U)
        return f"{name} has {norm}, and the activation's slope lies within [0, 1]" if norm else None

    def _energy_gain(self, place: Place) -> float:
        if self.is_linear:
            return super()._energy_gain(place)
        loop, forward = (float(np.linalg.norm(M.astype(np.float64), 2)) for M in (self._mixing[0], self._own["W"]))
        return forward / (1 - loop) * (1 + 1e-6) if loop < 1 - 1e-9 else np.inf

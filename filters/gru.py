"""Gated recurrent unit, with the reset gate before or after the recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.engine import Cell, Stage
from rnndsp.errors import ParameterError

__all__ = ["GRU"]


def _after(a: Any, r: Any, s: Any, p: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    n = tanh(fma(reset, r[2], a[2]))
    return (fma(z, s[0] - n, n),)


def _after_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    n = tanh(a[2] + reset * r[2])
    dn = d[0] * (1 - z) * (1 - n * n)
    dreset, dz = dn * r[2] * reset * (1 - reset), d[0] * (s[0] - n) * z * (1 - z)
    return (dreset, dz, dn), (dreset, dz, dn * reset), (d[0] * z,), ()


def _gates(a: Any, r: Any, s: Any, p: Any) -> Any:
    return sigmoid(a[0] + r[0]) * s[0], sigmoid(a[1] + r[1]), s[0]


def _gates_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    g = (d[0] * s[0] * reset * (1 - reset), d[1] * z * (1 - z))
    return g, g, (d[0] * reset + d[2],), ()


def _candidate(a: Any, r: Any, s: Any, p: Any) -> Any:
    n = tanh(a[0] + r[0])
    return (fma(s[1], s[2] - n, n),)


def _candidate_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    n = tanh(a[0] + r[0])
    dn = d[0] * (1 - s[1]) * (1 - n * n)
    return (dn,), (dn,), (0 * dn, d[0] * (s[2] - n), d[0] * s[1]), ()


_RESETS = {
    "after": (Stage(_after, _after_adjoint, n_gates=3, n_out=1),),
    "before": (
        Stage(_gates, _gates_adjoint, n_gates=2, n_out=3),
        Stage(_candidate, _candidate_adjoint, n_gates=1, n_out=1),
    ),
}


class GRU(Cell):
    r"""Gated recurrent unit.

    .. math::
        r, z &= \sigma(W_\bullet u[t] + U_\bullet h[t-1] + b_\bullet) \\
        n &= \tanh(W_n u[t] + b_n + r\,(U_n h[t-1] + b_{rec})) \quad\text{(reset after: PyTorch, cuDNN)} \\
        n &= \tanh(W_n u[t] + b_n + U_n (r\,h[t-1]) + b_{rec}) \quad\text{(reset before: Cho et al.)} \\
        h[t] &= (1 - z)\, n + z\, h[t-1], \quad y[t] = h[t]

    Parameters
    ----------
    n_inputs, n_units : int
    reset : {"after", "before"}
        Where the reset gate acts. The two are different cells: weights of one do not fit the other.
    recurrence : {"dense", "diagonal", "orthogonal"}
        Form of each U.
    seed : int or Generator
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: gates in the order r, z, n, as in PyTorch; ``b_rec`` is the recurrent bias of all three.

    *State*: ``h`` (n_units), zero at rest.

    *Stability*: h is a convex mean of its last value and a number within (-1, 1), so from rest the output stays within
    (-1, 1) whatever the weights.

    References
    ----------
    K. Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder". J. Chung et al. (2014),
    "Empirical evaluation of gated recurrent neural networks on sequence modeling".
    """

    recurrent_bias = True
    saturating = True

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        *,
        reset: str = "after",
        recurrence: str = "dense",
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        super().__init__(n_inputs, n_units, recurrence=recurrence, seed=seed, sample_rate=sample_rate, reset=reset)

    @classmethod
    def _stages(cls, config: Mapping[str, Any]) -> tuple[Stage, ...]:
        name = config["reset"]
        if name not in _RESETS:
            raise ParameterError(f"reset={name!r}: choose 'after' or 'before'")
        return _RESETS[name]

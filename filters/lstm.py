"""Long short-term memory with a forget gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.engine import Cell, Stage

__all__ = ["LSTM"]


def _unit(a: Any, r: Any, s: Any, p: Any) -> Any:
    i, f = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    g, o = tanh(a[2] + r[2]), sigmoid(a[3] + r[3])
    c = fma(f, s[1], i * g)
    return o * tanh(c), c


def _adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    i, f = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    g, o = tanh(a[2] + r[2]), sigmoid(a[3] + r[3])
    q = tanh(f * s[1] + i * g)
    dc = d[1] + d[0] * o * (1 - q * q)
    gates = (dc * g * i * (1 - i), dc * s[1] * f * (1 - f), dc * i * (1 - g * g), d[0] * q * o * (1 - o))
    return gates, gates, (0 * dc, dc * f), ()


class LSTM(Cell):
    r"""Long short-term memory.

    .. math::
        i, f, o &= \sigma(W_\bullet u[t] + U_\bullet h[t-1] + b_\bullet) \\
        g &= \tanh(W_g u[t] + U_g h[t-1] + b_g) \\
        c[t] &= f\, c[t-1] + i\, g, \quad h[t] = o \tanh c[t], \quad y[t] = h[t]

    Parameters
    ----------
    n_inputs, n_units : int
    recurrence : {"dense", "diagonal", "orthogonal"}
        Form of each U.
    seed : int or Generator
        For weights uniform within ±1/sqrt(n_units); the forget bias starts at 1 (Jozefowicz et al. 2015).
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: gates in the order i, f, g, o, as in PyTorch.

    *State*: ``h`` and ``c`` (n_units each), zero at rest.

    *Stability*: the output lies within (-1, 1) whatever the weights, and c is bounded by max i / (1 - max f). That says
    nothing about getting stuck: see :meth:`stability`.

    References
    ----------
    S. Hochreiter, J. Schmidhuber (1997), "Long short-term memory". F. Gers, J. Schmidhuber, F. Cummins (2000),
    "Learning to forget".
    """

    state_names = ("h", "c")
    saturating = True
    stages = (Stage(_unit, _adjoint, n_gates=4, n_out=2),)

    @classmethod
    def _initial(cls, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        params = super()._initial(config, rng)
        n = int(config["n_units"])
        params["b"][n : 2 * n] = 1
        return params

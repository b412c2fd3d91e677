"""Long short-term memory with a forget gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._intervals import Interval
from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.engine import Cell, Stage
from rnndsp.stability._metrics import SLACK
from rnndsp.stability.verdicts import CONTRACTION, ISS, Test

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
    gates = (dc * g * (i * (1 - i)), dc * s[1] * (f * (1 - f)), dc * i * (1 - g * g), d[0] * q * (o * (1 - o)))
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
    recurrence : str
        Form of each U: "dense", "diagonal", "stable_diagonal", "orthogonal", "householder", "oscillating",
        "cayley", "givens", "butterfly", "urnn", "full_capacity", "antisymmetric" or "contracting", as
        :class:`rnndsp.Cell` describes them.
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
    stages = (Stage(_unit, _adjoint, n_gates=4, n_out=2, apart=0),)

    def _published_tests(self, u: Interval) -> tuple[Test, ...]:
        """Input-to-state stability and contraction by the norms of the literature, h within ±1.

        E. Terzi et al. (2021), "Learning model predictive control with long short-term memory networks". J. Miller, M.
        Hardt (2019), "Stable recurrent models".
        """
        n = self.n_units
        W, b = (np.abs(self.params[name].astype(np.float64)) for name in ("W", "b"))
        U = self._mixing
        # the largest pre-activation of each gate, i, f, g, o
        a = (W @ u.mag + np.abs(U).sum(axis=2).ravel() + b).reshape(4, n).max(axis=1)
        i, f, o = (float(sigmoid(a[k])) for k in (0, 1, 3))
        g = float(np.tanh(a[2]))
        found = []
        for p in (1, 2, np.inf):
            Ui, Uf, Ug, Uo = (float(np.linalg.norm(part, p)) for part in U)
            name = f"of LSTM, in the {'maximum ' if p == np.inf else f'{p}-'}norm"
            c = i * g / max(1 - f, 1e-300)
            alpha = 0.25 * Uf * c + i * Ug + 0.25 * Ui * g
            found += [
                Test(f"published ISS {name}", ISS, f + o * i * Ug, source="Terzi et al. 2021"),
                Test(
                    f"published incremental ISS {name}",
                    CONTRACTION,
                    f + alpha * o + 0.25 * np.tanh(c) * Uo * (1 - f),
                    source="Terzi et al. 2021, Bonassi et al. 2023",
                ),
            ]
        # of the four inequalities of Miller and Hardt the worst, in parts of what is allowed
        Ui, Uf, Ug, Uo = (float(np.linalg.norm(part, np.inf)) for part in U)
        rest = max(1 - f, 1e-300)
        # and the gate has to shut, also where nothing is fed back
        worst = max(Ui / rest, Uo / rest, 4 * Ug / rest, Uf / rest / rest) if f < 1 - SLACK else np.inf
        found.append(
            Test("several samples together contract, of LSTM", CONTRACTION, worst, source="Miller & Hardt 2019")
        )
        return tuple(found)

    @classmethod
    def _initial(cls, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        params = super()._initial(config, rng)
        n = int(config["n_units"])
        params["b"][n : 2 * n] = 1
        return params

"""Gated recurrent unit, with the reset gate before or after the recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnndsp._intervals import Interval
from rnndsp.activations import fma, sigmoid, tanh
from rnndsp.engine import Cell, Stage
from rnndsp.errors import ParameterError
from rnndsp.stability._metrics import SLACK, perron
from rnndsp.stability.verdicts import CONTRACTION, ISS, Test

__all__ = ["GRU"]


def _after(a: Any, r: Any, s: Any, p: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    n = tanh(fma(reset, r[2], a[2]))
    return (fma(z, s[0] - n, n),)


def _after_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    n = tanh(a[2] + reset * r[2])
    dn = d[0] * (1 - z) * (1 - n * n)
    dreset, dz = dn * r[2] * (reset * (1 - reset)), d[0] * (s[0] - n) * (z * (1 - z))
    return (dreset, dz, dn), (dreset, dz, dn * reset), (d[0] * z,), ()


def _gates(a: Any, r: Any, s: Any, p: Any) -> Any:
    return sigmoid(a[0] + r[0]) * s[0], sigmoid(a[1] + r[1]), s[0]


def _gates_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    reset, z = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
    g = (d[0] * s[0] * (reset * (1 - reset)), d[1] * (z * (1 - z)))
    return g, g, (d[0] * reset + d[2],), ()


def _candidate(a: Any, r: Any, s: Any, p: Any) -> Any:
    n = tanh(a[0] + r[0])
    return (fma(s[1], s[2] - n, n),)


def _candidate_adjoint(a: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
    n = tanh(a[0] + r[0])
    dn = d[0] * (1 - s[1]) * (1 - n * n)
    return (dn,), (dn,), (0 * dn, d[0] * (s[2] - n), d[0] * s[1]), ()


_RESETS = {
    "after": (Stage(_after, _after_adjoint, n_gates=3, n_out=1, apart=1),),
    "before": (
        Stage(_gates, _gates_adjoint, n_gates=2, n_out=3, apart=0),
        Stage(_candidate, _candidate_adjoint, n_gates=1, n_out=1, apart=0),
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
    recurrence : str
        Form of each U: "dense", "diagonal", "stable_diagonal", "orthogonal", "householder", "oscillating",
        "cayley", "givens", "butterfly", "urnn", "full_capacity", "antisymmetric" or "contracting", as
        :class:`rnndsp.Cell` describes them.
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

    def _published_tests(self, u: Interval) -> tuple[Test, ...]:
        r"""Input-to-state stability and contraction from bounds of the gates, h within ±1.

        With the reset before by the norms of Bonassi et al. 2021, "On the stability properties of gated recurrent units
        neural networks"; with the reset after, which is another cell, by comparison matrices of ours:

        .. math:: \rho(R |U_n|) < 1, \quad
                  \rho\big(R |U_n| + \tfrac14 M |U_r| + \tfrac14 \tfrac{1 + N}{1 - Z} |U_z|\big) < 1,

        R, Z, N, M being bounds of r, z, n and of \|U_n h + b_rec\|, unit by unit.
        """
        n = self.n_units
        U = np.abs(self._mixing)
        Ur, Uz, Un = U
        b, b_rec = (self.params[name].astype(np.float64).reshape(3, n) for name in ("b", "b_rec"))
        drive = (np.abs(self.params["W"].astype(np.float64)) @ u.mag).reshape(3, n)
        mixed = U.sum(axis=2)
        r, z = (sigmoid(drive[k] + mixed[k] + b[k] + b_rec[k]) for k in (0, 1))
        if self.config["reset"] == "before":
            candidate = float(np.tanh(np.max(drive[2] + mixed[2] + np.abs(b[2] + b_rec[2]))))
            reset, update = (float(sigmoid(np.max(drive[k] + mixed[k] + np.abs(b[k] + b_rec[k])))) for k in (0, 1))
            norms = [float(np.linalg.norm(part, np.inf)) for part in U]
            held = 0.25 * (1 + candidate) / max(1 - update, 1e-300) * norms[1]
            stuck = 0.0 if update < 1 - SLACK else np.inf  # where the gate never lets go, nothing fades
            source = "Bonassi et al. 2021"
            return (
                Test("published ISS of GRU, in the maximum norm", ISS, norms[2] * reset + stuck, source=source),
                Test(
                    "published incremental ISS of GRU, in the maximum norm",
                    CONTRACTION,
                    norms[2] * (0.25 * norms[0] + reset) + held + stuck,
                    source=source,
                ),
            )
        m = np.maximum(np.abs(mixed[2] + b_rec[2]), np.abs(-mixed[2] + b_rec[2]))
        candidate = np.tanh(drive[2] + np.abs(b[2]) + r * m)
        held = 0.25 * (1 + candidate) / np.maximum(1 - z, 1e-300)
        M = r[:, None] * Un + 0.25 * m[:, None] * Ur + held[:, None] * Uz
        stuck = 0.0 if np.max(z) < 1 - SLACK else np.inf
        name = "of GRU with the reset after, by a comparison matrix"
        return (
            Test(f"ISS {name}", ISS, perron(r[:, None] * Un)[0] + stuck, source="ours"),
            Test(f"incremental ISS {name}", CONTRACTION, perron(M)[0] + stuck, source="ours"),
        )

    @classmethod
    def _stages(cls, config: Mapping[str, Any]) -> tuple[Stage, ...]:
        name = config["reset"]
        if name not in _RESETS:
            raise ParameterError(f"reset={name!r}: choose 'after' or 'before'")
        return _RESETS[name]

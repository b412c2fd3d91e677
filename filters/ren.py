"""Recurrent equilibrium networks: nonlinear filters that are contracting by construction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import choice, generator, number, whole_number
from rnndsp._jit import kernel
from rnndsp._loops import batched, nones
from rnndsp._mixing import add_product, affine
from rnndsp._tangents import Jacobians
from rnndsp._vectors import aligned, fma, lanes, load, store
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.dense import SLOPES, activated
from rnndsp.recurrence import BELOW_ONE, shrunk, shrunk_adjoint
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Place
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["REN"]

Real = NDArray[np.float64]

# H is kept so far from singular, against the mean of its diagonal: room for rounding in the proof, and no more, as it
# also limits how slowly a state can decay where the rate is 1.
LEAST = 1e-6


@cache
def _forward(across: int, width: int) -> Any:
    """Compile the loop over frames: lanes are voices, ``across`` of them, or the rows of the matrices, ``width``."""
    entry, weight, wide, one = nones(across), nones(width), nones(across * width), nones(1)

    @kernel
    def forward(u: Any, y: Any, x: Any, weights: Any, z: Any, r: Any, tape: Any, n_units: Any, activation: Any) -> None:
        """``z`` holds x, u and w, ``r`` the rows v, new x and y; the weights are read from one end to the other."""
        n, k, n_rows = x.shape[1], u.shape[2], r.size // len(entry) - len(weight)
        for first in range(0, u.shape[0], len(entry)):
            n_voices = min(len(entry), u.shape[0] - first)
            for voice in range(n_voices):
                for j in range(n):
                    store(z, j * len(entry) + voice, x[first + voice, j], one)
            for t in range(u.shape[1]):
                for voice in range(n_voices):
                    for i in range(k):
                        store(z, (n + i) * len(entry) + voice, u[first + voice, t, i], one)
                for row in range(0, n_rows, len(weight)):
                    (a,) = affine(weights, row * (1 + n + k), weight, z, 0, n + k, entry, wide, one)
                    store(r, row * len(entry), a, wide)
                at = n_rows * (1 + n + k)
                for i in range(n_units):
                    w = activated(load(r, i * len(entry), entry, entry), activation)
                    store(z, (n + k + i) * len(entry), w, entry)
                    # of the rows in the block of the next unit, those up to this one have no weight
                    for row in range((i + 1) // len(weight) * len(weight), n_rows, len(weight)):
                        before = load(r, row * len(entry), wide, wide)
                        store(r, row * len(entry), fma(load(weights, at + row, weight, wide), w, before), wide)
                    at += n_rows
                for voice in range(n_voices):
                    for j in range(min(tape.shape[2], n)):
                        tape[first + voice, t, j] = load(z, j * len(entry) + voice, one, one)
                    for j in range(n, tape.shape[2]):
                        tape[first + voice, t, j] = load(z, (k + j) * len(entry) + voice, one, one)
                    for j in range(y.shape[2]):
                        out = load(r, (n_units + n + j) * len(entry) + voice, one, one)
                        y[first + voice, t, j] = flush(out)
                # what is copied too much lands where the next u and w will be
                for j in range(0, n, len(weight)):
                    store(z, j * len(entry), flush(load(r, (n_units + j) * len(entry), wide, wide)), wide)
            for voice in range(n_voices):
                for j in range(n):
                    x[first + voice, j] = load(z, j * len(entry) + voice, one, one)

    return forward


@kernel
def _backward(dy: Any, dx: Any, slopes: Any, by_x: Any, by_w: Any, d: Any) -> None:
    """Write the derivative by each row (v, new x, y) to ``d``; ``dx`` moves from the end to the start."""
    n_units, n = slopes.shape[2], dx.shape[1]
    dw = np.empty(n_units, dy.dtype)
    for voice in range(dy.shape[0]):
        for t in range(dy.shape[1] - 1, -1, -1):
            row = d[voice, t]
            for j in range(n):
                row[n_units + j] = dx[voice, j]
            for j in range(dy.shape[2]):
                row[n_units + n + j] = dy[voice, t, j]
            dw[:] = 0
            add_product(dw, by_w[n_units:], row[n_units:])
            for i in range(n_units - 1, -1, -1):
                row[i] = slopes[voice, t, i] * dw[i]
                for j in range(i):
                    dw[j] = fma(by_w[i, j], row[i], dw[j])
            dx[voice] = 0
            add_product(dx[voice], by_x, row)


class _Explicit(NamedTuple):
    """What follows from the free parameters.

    ``table`` has the rows v, new x and y, and the columns 1, x, u and w; ``E``, ``P`` and ``scale``, the diagonal of Λ,
    are what it came from. ``coupling`` is K^-1 G^T, without rows where there is no bound of the gain.
    """

    table: Real
    E: Real
    P: Real
    scale: Real
    coupling: Real


class REN(Filter):
    r"""Recurrent equilibrium network: a linear filter in a loop with units, contracting whatever its parameters are.

    .. math::
        \begin{pmatrix} x[t] \\ v[t] \\ y[t] \end{pmatrix} =
        \begin{pmatrix} A & B_1 & B_2 \\ C_1 & D_{11} & D_{12} \\ C_2 & D_{21} & D_{22} \end{pmatrix}
        \begin{pmatrix} x[t-1] \\ w[t] \\ u[t] \end{pmatrix} + b, \qquad w[t] = \varphi(v[t])

    D11 being strictly lower triangular, the units of one sample are solved one after the other.

    Parameters
    ----------
    n_inputs, n_outputs : int
    n_states : int
        Size n of x.
    n_units : int
        How many nonlinear units, m.
    activation : {"identity", "tanh", "relu", "sigmoid"}
        φ; the slopes of all of these lie within [0, 1]. With "identity" and no bias the filter is linear.
    rate : float
        Two runs on the same input come closer by this factor a sample at least, in the norm of the metric. Within (0,
        1]; a 60 dB decay in t60_s seconds is ``10 ** (-3 / (t60_s * sample_rate))``. At 1 they come closer, no matter
        how slowly.
    gain_bound : float, optional
        Two inputs from one state give outputs that differ by this factor more at most, as 2-norms over all time and
        channels: ||y1 - y2|| <= gain_bound ||u1 - u2||, the H-infinity norm of a linear filter.
    seed : int or Generator
        For random weights.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``X`` (2 n + m, 2 n + m) and ``Y`` (n, n), any numbers, from which the matrices follow:

    .. math::
        H &= X^T X + \epsilon I = \begin{pmatrix} H_{11} & \cdot & \cdot \\ H_{21} & H_{22} & \cdot \\
            H_{31} & H_{32} & P \end{pmatrix}, \qquad
        E = \tfrac12 (H_{11} + P / \mathrm{rate}^2 + Y - Y^T), \quad \Lambda = \tfrac12 \operatorname{diag} H_{22} \\
        A &= E^{-1} H_{31}, \quad B_1 = E^{-1} H_{32}, \quad C_1 = -\Lambda^{-1} H_{21}, \quad
            D_{11} = -\Lambda^{-1} \operatorname{tril}(H_{22}, -1)

    with ε a millionth of 1 + the mean diagonal of the rest; ``B2`` (n, n_inputs) and ``D12`` (m, n_inputs), which enter
    as E^-1 B2 and Λ^-1 D12; ``C2`` (n_outputs, n), ``D21`` (n_outputs, m) and ``D22`` (n_outputs, n_inputs) as they
    are; biases ``b_x`` (n,), ``b_v`` (m,) and ``b_y`` (n_outputs,). :attr:`matrices` has what the filter runs with.
    With a bound γ of the gain, D22 becomes γ D22 (I + D22^T D22)^(-1/2), and H is larger by

    .. math::
        G K^{-1} G^T, \qquad G = \begin{pmatrix} 0 & C_2^T \\ -D_{12} & D_{21}^T \\ B_2 & 0 \end{pmatrix}, \quad
        K = \begin{pmatrix} \gamma I & D_{22}^T \\ D_{22} & \gamma I \end{pmatrix}

    *State*: ``x`` (n), zero at rest. The output reads the state before its update.

    *Stability*: contracting at the rate, in the metric E^T P^-1 E, for every input and whatever the free parameters.
    Proof: with Δ the difference of two runs and V = Δx^T E^T P^-1 E Δx, a slope within [0, 1] gives Δw^T Λ (Δv - Δw) >=
    0, and so does H > 0, by a Schur complement, new V < Δx^T (E + E^T - P / rate²) Δx <= rate² V. With a bound of the
    gain γ \|Δu\|² - \|Δy\|² / γ is added on the right, and summed over time. The matrices being rounded, the
    inequalities are looked at again for those that run in float64, with room for the rounding of the look; where one
    fails, as it may if Y is by orders of magnitude larger than X, :meth:`stability` and :attr:`lipschitz_bound` claim
    nothing. Outputs are bounded for bounded inputs.

    *Cost*: the units wait for one another, so a voice alone takes as long as that many tanh one after the other. Voices
    side by side do not.

    Raises
    ------
    ParameterError
        An activation that does not exist, sizes that are not whole numbers of at least 1, a rate outside of (0, 1], a
        bound of the gain that is not positive, or parameters so large that no finite matrices follow.

    References
    ----------
    M. Revay, R. Wang, I. Manchester (2024), "Recurrent equilibrium networks: flexible dynamic models with guaranteed
    stability and robustness".
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        n_states: int,
        n_units: int,
        activation: str = "tanh",
        rate: float = 1.0,
        gain_bound: float | None = None,
        seed: int | np.random.Generator = 0,
        sample_rate: float | None = None,
    ) -> None:
        k, p = whole_number("n_inputs", n_inputs), whole_number("n_outputs", n_outputs)
        n, m = whole_number("n_states", n_states), whole_number("n_units", n_units)
        config: dict[str, Any] = {"n_inputs": k, "n_outputs": p, "n_states": n, "n_units": m}
        config |= {"activation": activation, "rate": rate, "gain_bound": gain_bound}
        rng = generator(seed)
        X = rng.standard_normal((2 * n + m, 2 * n + m)) / np.sqrt(2 * n + m)
        # old and new x correlated, for memories from none to long
        memory = rng.uniform(0, 1, n)
        X[:, n + m :] = memory * X[:, :n] + np.sqrt(1 - memory**2) * X[:, n + m :]
        read_out = rng.uniform(-1, 1, (p, n + m)) / np.sqrt(n + m)
        params = {
            "X": X,
            "Y": np.zeros((n, n)),
            "B2": rng.uniform(-1, 1, (n, k)),
            "D12": rng.uniform(-1, 1, (m, k)),
            "C2": read_out[:, :n],
            "D21": read_out[:, n:],
            "D22": np.zeros((p, k)),
            "b_x": np.zeros(n),
            "b_v": np.zeros(m),
            "b_y": np.zeros(p),
        }
        super().__init__(config, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_outputs = whole_number("n_outputs", self.config["n_outputs"])
        self.n_units = whole_number("n_units", self.config["n_units"])
        self.rate = number("rate", self.config["rate"])
        if not 0 < self.rate <= 1:
            raise ParameterError(f"rate={self.rate!r} must lie within (0, 1]: it is a factor a sample")
        bound = self.config["gain_bound"]
        self.gain_bound = None if bound is None else number("gain_bound", bound)
        if self.gain_bound is not None and self.gain_bound <= 0:
            raise ParameterError(f"gain_bound={bound!r} must be positive, or None")
        activation = self.config["activation"]
        choice("activation", activation, SLOPES)
        biased = any(np.any(self._own.get(name, 0)) for name in ("b_x", "b_v", "b_y"))
        self.is_linear = activation == "identity" and not biased
        self.fields = (Field("x", (whole_number("n_states", self.config["n_states"]),)),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, m, k, p = self.n_states, self.n_units, self.n_inputs, self.n_outputs
        return {
            "X": (2 * n + m, 2 * n + m),
            "Y": (n, n),
            "B2": (n, k),
            "D12": (m, k),
            "C2": (p, n),
            "D21": (p, m),
            "D22": (p, k),
            "b_x": (n,),
            "b_v": (m,),
            "b_y": (p,),
        }

    # ---- from free parameters to matrices, and back

    def _check(self) -> None:
        self._explicit  # noqa: B018 (raises)

    @property
    def _explicit(self) -> _Explicit:
        explicit: _Explicit = self._derived("explicit", self._solve)
        return explicit

    def _blocks(self) -> tuple[slice, slice, slice]:
        """Of the rows of H: x, v and new x."""
        n, m = self.n_states, self.n_units
        return slice(n), slice(n, n + m), slice(n + m, None)

    def _solve(self) -> _Explicit:
        p = {name: value.astype(np.float64) for name, value in self._own.items()}
        x, v, new = self._blocks()
        try:
            with np.errstate(all="ignore"):
                if self.gain_bound is not None:
                    p["D22"] = self.gain_bound * BELOW_ONE * shrunk(p["D22"])
                G, coupling = self._coupled(p)
                H = p["X"].T @ p["X"] + G @ coupling
                H += LEAST * (1 + np.trace(H) / len(H)) * np.eye(len(H))
                P, scale = H[new, new], H.diagonal()[v] / 2
                E = (H[x, x] + P / self.rate**2 + p["Y"] - p["Y"].T) / 2
                units = np.hstack([-H[v, x], p["D12"], -np.tril(H[v, v], -1)]) / scale[:, None]
                states = np.linalg.solve(E, np.hstack([H[new, x], p["B2"], H[new, v]]))
                full = np.vstack([units, states, np.hstack([p["C2"], p["D22"], p["D21"]])])
        except np.linalg.LinAlgError:
            full = np.full(1, np.nan)
        if not np.isfinite(full).all():
            most = max(np.max(np.abs(value)) for value in self._own.values())
            raise ParameterError(
                f"parameters up to {most:g}, rate={self.rate:g} and gain_bound={self.gain_bound}: no finite matrices "
                "follow, bring them nearer to 1"
            )
        return _Explicit(np.column_stack([np.concatenate([p["b_v"], p["b_x"], p["b_y"]]), full]), E, P, scale, coupling)

    def _coupled(self, p: Mapping[str, Real]) -> tuple[Real, Real]:
        """G and K^-1 G^T, of no columns and rows where there is no bound of the gain."""
        k, size = self.n_inputs, self.n_inputs + self.n_outputs
        if self.gain_bound is None:
            return np.zeros((len(p["X"]), 0)), np.zeros((0, len(p["X"])))
        x, v, new = self._blocks()
        G, K = np.zeros((len(p["X"]), size)), self.gain_bound * np.eye(size)
        G[v, :k], G[new, :k], G[x, k:], G[v, k:] = -p["D12"], p["B2"], p["C2"].T, p["D21"].T
        K[k:, :k], K[:k, k:] = p["D22"], p["D22"].T
        return G, np.asarray(np.linalg.solve(K, G.T), np.float64)

    def _solve_adjoint(self, d: Real) -> dict[str, Real]:
        """Derivatives by the free parameters from ``d``, those by the table."""
        table, E, _, scale, coupling = self._explicit
        n, m, k, X = self.n_states, self.n_units, self.n_inputs, self._own["X"].astype(np.float64)
        x, v, new = self._blocks()
        bias, d = d[:, 0], d[:, 1:]
        units, states = d[:m] / scale[:, None], np.linalg.solve(E.T, d[m : m + n])
        dscale = -np.sum(units * table[:m, 1:], axis=1)
        dE = -states @ table[m : m + n, 1:].T
        (C1, D12, D11), (A, B2, B1), (C2, D22, D21) = (
            np.split(part, [n, n + k], axis=1) for part in (units, states, d[m + n :])
        )
        dH = np.zeros(X.shape)
        dH[x, x], dH[new, new] = dE / 2, dE / (2 * self.rate**2)
        dH[v, x], dH[new, x], dH[new, v] = -C1, A, B1
        dH[v, v] = np.diag(dscale / 2) - np.tril(D11, -1)
        dH += LEAST / len(X) * np.trace(dH) * np.eye(len(X))
        dH += dH.T
        if self.gain_bound is not None:
            dG = dH @ coupling.T
            D12, B2, C2, D21 = D12 - dG[v, :k], B2 + dG[new, :k], C2 + dG[x, k:].T, D21 + dG[v, k:].T
            D22 = self.gain_bound * BELOW_ONE * (D22 - (coupling @ dG)[k:, :k])
            D22 = shrunk_adjoint(self._own["D22"].astype(np.float64), D22)
        own = {"X": X @ dH, "Y": (dE - dE.T) / 2, "B2": B2, "D12": D12, "C2": C2, "D21": D21, "D22": D22}
        return own | {"b_v": bias[:m], "b_x": bias[m : m + n], "b_y": bias[m + n :]}

    @property
    def matrices(self) -> Mapping[str, Real]:
        """What the filter runs with: A, B1, B2, C1, D11, D12, C2, D21, D22, b_x, b_v and b_y."""
        n, m = self.n_states, self.n_units
        cuts = 1, 1 + n, 1 + n + self.n_inputs
        found = {}
        for rows, (b, *names) in zip(
            np.split(self._explicit.table, [m, m + n]),
            (("b_v", "C1", "D12", "D11"), ("b_x", "A", "B2", "B1"), ("b_y", "C2", "D22", "D21")),
            strict=True,
        ):
            bias, *parts = np.split(rows, cuts, axis=1)
            found.update({b: bias[:, 0].copy()} | {name: part.copy() for name, part in zip(names, parts, strict=True)})
        return MappingProxyType(found)

    @property
    def metric(self) -> Real:
        """The matrix E^T P^-1 E of the norm in which the filter contracts."""
        _, E, P, *_ = self._explicit
        return np.asarray(E.T @ np.linalg.solve(P, E))

    # ---- the filter

    def _runner(self, dtype: np.dtype[Any], across: int) -> tuple[Any, ...]:
        """The loop for voices side by side, its weights in the order in which it reads them, and what it works in."""
        table, before = self._explicit.table, 1 + self.n_states + self.n_inputs
        width = lanes(dtype) // across
        padded = np.pad(table, ((0, -len(table) % width), (0, 0)))
        straight = padded[:, :before].reshape(-1, width, before).transpose(0, 2, 1)
        weights = aligned((padded.size,), dtype)
        weights[...] = np.append(straight.ravel(), padded[:, before:].T.ravel())
        # with room for what a vector writes too much
        sizes = table.shape[1] - 1 + width, len(padded) + width
        work = (
            ((name, across), partial(aligned, (size * across,), dtype)) for name, size in zip("zr", sizes, strict=True)
        )
        return _forward(across, width), weights, *work

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: NDArray[Any]) -> None:
        n_lanes = lanes(u.dtype)
        together = batched(len(u), n_lanes, n_lanes) if len(u) > 1 else 0
        activation = list(SLOPES).index(self.config["activation"])
        for across, part in ((n_lanes, slice(together)), (1, slice(together, None))):
            if len(u[part]):
                loop, weights, *work = self._derived((u.dtype.char, across), self._runner, u.dtype, across)
                z, r = (state.workspace(*array) for array in work)
                loop(u[part], y[part], state.rows[part], weights, z, r, tape[part], self.n_units, activation)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, np.empty((len(u), 0, 0), u.dtype))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        tape = np.empty((*u.shape[:2], self.n_states + self.n_units), u.dtype)
        self._run(u, state, y, tape)
        return y, (u, *np.split(tape, [self.n_states], axis=-1))

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, x, w = memory
        table, n, k = self._explicit.table.astype(u.dtype), self.n_states, self.n_inputs
        by_x, by_u, by_w = (np.ascontiguousarray(part) for part in np.split(table[:, 1:], [n, n + k], axis=1))
        d, dx = np.empty((*u.shape[:2], len(table)), u.dtype), np.ascontiguousarray(dx, u.dtype).copy()
        slopes = SLOPES[self.config["activation"]](np.ascontiguousarray(w))
        _backward(np.ascontiguousarray(dy), dx, slopes, by_x, by_w, d)
        flat = d.reshape(-1, len(table))
        parts = [part.reshape(len(flat), -1) for part in (x, u, w)]
        dtable = np.column_stack([flat.sum(axis=0), *(flat.T @ part for part in parts)])
        return (flat @ by_u).reshape(u.shape), dx, self._solve_adjoint(dtable.astype(np.float64))

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        A, B, C, D, *_ = self._jacobians(u[None], state.copy())
        return StateSpace(A[0], B[0], C[0], D[0], sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        y, (_, _, w) = self._tape(u[None], state)
        n, m = self.n_states, self.n_units
        slopes = SLOPES[self.config["activation"]](w[0])[:, :, None]
        straight, by_w = np.split(self._explicit.table[:, 1:], [n + self.n_inputs], axis=1)
        full = straight[m:] + by_w[m:] @ np.linalg.solve(np.eye(m) - slopes * by_w[:m], slopes * straight[:m])
        (A, B), (C, D) = (np.split(rows, [n], axis=2) for rows in np.split(full, [n], axis=1))
        return Jacobians(A, B, C, D, np.ones(n, np.int64), y[0])

    # ---- stability

    def _boundedness(self) -> Boundedness:
        return Boundedness(self._contraction() is not None)

    def _contraction(self) -> str | None:
        closer = f"by a factor of {self.rate:.8g} a sample at least" if self.rate < 1 else "at every sample"
        said = f"contracting by construction: two runs come closer {closer}, in the metric E^T P^-1 E"
        return said if self._proved[0] else None

    def _energy_gain(self, place: Place) -> float:
        return self.lipschitz_bound if self.rate < 1 and self._contraction() else np.inf

    @property
    def lipschitz_bound(self) -> float:
        """Proved bound of the 2-norm of y1 - y2 over that of u1 - u2, from equal states: infinity where none is."""
        return self.gain_bound if self.gain_bound is not None and self._proved[1] else np.inf

    @property
    def _proved(self) -> tuple[bool, bool]:
        """Whether the rate and the bound of the gain are."""
        proved: tuple[bool, bool] = self._derived("proved", lambda: (self._falls(None), self._falls(self.gain_bound)))
        return proved

    def _falls(self, gain_bound: float | None) -> bool:
        """Whether the metric falls, by the matrices that run, rounding included; with a bound, less what passes."""
        table, E, P, scale, _ = self._explicit
        n, m = self.n_states, self.n_units
        with np.errstate(all="ignore"):
            try:
                root = np.linalg.solve(np.linalg.cholesky(P), E)
            except np.linalg.LinAlgError:
                return False
            T = (
                table[:, 1:]
                if gain_bound is not None
                else np.delete(table[:, 1:], np.s_[n : n + self.n_inputs], axis=1)
            )
            x, w = slice(n), slice(T.shape[1] - m, None)
            # of the differences of x, u and w: what was and comes in, less what a slope within [0, 1] rules out
            kept = (gain_bound or 0.0) * np.eye(T.shape[1])
            kept[x, x], kept[w, w] = self.rate**2 * root.T @ root, np.diag(2 * scale)
            kept[w] -= scale[:, None] * T[:m]
            kept[:, w] -= (scale[:, None] * T[:m]).T
            moved = root @ T[m : m + n]
            heard = T[m + n :] / np.sqrt(gain_bound) if gain_bound is not None else T[:0]
            size = np.linalg.norm(kept) + np.linalg.norm(root) ** 2 * (1 + np.linalg.norm(T[m : m + n]) ** 2)
            size += np.linalg.norm(heard) ** 2
            if not np.isfinite(size):
                return False
            least = np.linalg.eigvalsh(kept - moved.T @ moved - heard.T @ heard)[0]
            return bool(least > 8 * len(kept) * np.finfo(np.float64).eps * size)

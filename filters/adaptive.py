"""Adaptive filters: weights that follow a desired signal while it flows, and are part of the state."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number, whole_number
from rnndsp._jit import inline, kernel
from rnndsp._mixing import dot
from rnndsp._tangents import by_adjoint
from rnndsp._vectors import accumulate, aligned, keep, lanes, load, smaller, store, total, widen
from rnndsp.activations import flush, fma
from rnndsp.errors import ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DENSE_LIMIT, DelayStateSpace, StateSpace

__all__ = ["LMS", "NLMS", "RLS", "AffineProjection", "rls_gain", "rls_rows", "rls_tiles"]

# What the kernels compute in, whatever the signal's dtype.
REAL = np.dtype(np.float64)
# Numbers that the processor takes at a time.
WIDE, ONE = (None,) * lanes(REAL), (None,)
MAX_ORDER = 512
# A leak below this is lost in the rounding of the weights.
LEAST_LEAK = 1e-9


@inline
def _inner(x: Any, i: Any, y: Any, j: Any, n: Any) -> Any:
    """Product of n numbers of x from i on with as many of y from j on."""
    products, whole = keep(load(x, 0, ONE, WIDE), 0), n - n % len(WIDE)
    for k in range(0, whole, len(WIDE)):
        products = fma(load(x, i + k, WIDE, WIDE), load(y, j + k, WIDE, WIDE), products)
    rest = 0.0
    for k in range(whole, n):
        rest = fma(x[i + k], y[j + k], rest)
    return rest + total(products)


@inline
def _add(v: Any, g: Any, x: Any, at: Any) -> None:
    """``v += g x``, of x from ``at`` on."""
    whole = v.size - v.size % len(WIDE)
    for i in range(0, whole, len(WIDE)):
        store(v, i, fma(load(x, at + i, WIDE, WIDE), g, load(v, i, WIDE, WIDE)), WIDE)
    for i in range(whole, v.size):
        v[i] = fma(g, x[at + i], v[i])


@inline
def _leak(v: Any, leak: Any) -> None:
    if leak > 0:
        for i in range(v.size):
            v[i] = flush((1 - leak) * v[i])


@inline
def _errors(x: Any, d: Any, v: Any, t: Any, n: Any, n_references: Any, e: Any) -> Any:
    """Errors ``e`` of the weights on the newest frames, newest first, and the estimate of the newest one."""
    newest = 0.0
    for j in range(e.size):
        at = (t + e.size - 1 - j) * n_references
        estimate = _inner(v, 0, x, at, n)
        e[j] = d[t + e.size - 1 - j] - estimate
        if j == 0:
            newest = estimate
    return newest


@inline
def _factor(x: Any, t: Any, n: Any, n_references: Any, floor: Any, S: Any) -> None:
    """S = L diag(s) L^T of the products of the newest regressors: L below the diagonal, s on it."""
    order = len(S)
    for i in range(order):
        a = (t + order - 1 - i) * n_references
        for j in range(i + 1):
            b = (t + order - 1 - j) * n_references
            S[i, j] = _inner(x, a, x, b, n)
        S[i, i] += floor
    for j in range(order):
        for k in range(j):
            S[j, j] -= S[j, k] * S[j, k] * S[k, k]
        for i in range(j + 1, order):
            for k in range(j):
                S[i, j] -= S[i, k] * S[j, k] * S[k, k]
            S[i, j] /= S[j, j]


@inline
def _solve(S: Any, z: Any) -> None:
    """``z`` becomes S^-1 z, from the factors of S."""
    order = len(S)
    for i in range(order):
        for k in range(i):
            z[i] -= S[i, k] * z[k]
    for i in range(order):
        z[i] /= S[i, i]
    for i in range(order - 1, -1, -1):
        for k in range(i + 1, order):
            z[i] -= S[k, i] * z[k]


@kernel
def _descend(x: Any, d: Any, step: Any, y: Any, v: Any, floor: Any, leak: Any, normalised: Any, tape: Any) -> None:
    """Along the newest regressor. Signals come with their past in front; weights stand oldest sample first, as a window
    of ``x`` does."""
    n, n_references = v.shape[1], x.shape[2]
    for voice in range(len(x)):
        signal, weights, desired = x[voice].ravel(), v[voice], d[voice]
        for t in range(y.shape[1]):
            if tape.shape[1] > 0:
                tape[voice, t] = weights
            at = t * n_references
            estimate = _inner(weights, 0, signal, at, n)
            error = desired[t] - estimate
            y[voice, t, 0], y[voice, t, 1] = flush(estimate), flush(error)
            if normalised:
                error /= _inner(signal, at, signal, at, n) + floor
            _leak(weights, leak)
            _add(weights, step[voice, t] * error, signal, at)


@kernel
def _project(x: Any, d: Any, step: Any, y: Any, v: Any, floor: Any, leak: Any, S: Any, z: Any, tape: Any) -> None:
    """As :func:`_descend`, along the regressors of several frames."""
    n, n_references, order = v.shape[1], x.shape[2], z.size
    for voice in range(len(x)):
        signal, weights, desired = x[voice].ravel(), v[voice], d[voice]
        for t in range(y.shape[1]):
            if tape.shape[1] > 0:
                tape[voice, t] = weights
            estimate = _errors(signal, desired, weights, t, n, n_references, z)
            y[voice, t, 0], y[voice, t, 1] = flush(estimate), flush(z[0])
            _factor(signal, t, n, n_references, floor, S)
            _solve(S, z)
            _leak(weights, leak)
            for j in range(order):
                _add(weights, step[voice, t] * z[j], signal, (t + order - 1 - j) * n_references)


@kernel
def _project_back(
    dy: Any, x: Any, d: Any, step: Any, dx: Any, dd: Any, dstep: Any, dv: Any, settings: Any, tape: Any, order: Any
) -> None:
    floor, leak, normalised = settings
    n, n_references = dv.shape[1], x.shape[2]
    S, e, z, s = np.zeros((order, order)), np.zeros(order), np.zeros(order), np.zeros(order)
    for voice in range(len(x)):
        signal, desired, by_signal, by_weights = x[voice].ravel(), d[voice], dx[voice].ravel(), dv[voice]
        for t in range(dy.shape[1] - 1, -1, -1):
            weights, mu = tape[voice, t], step[voice, t]
            _errors(signal, desired, weights, t, n, n_references, e)
            z[:] = e
            if normalised:
                _factor(signal, t, n, n_references, floor, S)
                _solve(S, z)
            # w' = (1 - leak) w + mu X z
            total = 0.0
            for j in range(order):
                at = (t + order - 1 - j) * n_references
                s[j] = dot(by_weights, signal[at : at + n])
                total += s[j] * z[j]
                s[j] *= mu
                for i in range(n):
                    by_signal[at + i] += mu * z[j] * by_weights[i]
            dstep[voice, t] = total
            for i in range(n):
                by_weights[i] *= 1 - leak
            # z = S^-1 e with S = X^T X + floor: what comes to e is S^-1 dz, and to S minus its product with z
            if normalised:
                _solve(S, s)
                for j in range(order):
                    at = (t + order - 1 - j) * n_references
                    for k in range(order):
                        other, g = (t + order - 1 - k) * n_references, s[j] * z[k] + z[j] * s[k]
                        for i in range(n):
                            by_signal[at + i] -= g * signal[other + i]
            # e = d - X^T w, and y = (d - e, e) of the newest frame
            for j in range(order):
                by_error = s[j] + (dy[voice, t, 1] - dy[voice, t, 0] if j == 0 else 0.0)
                at = (t + order - 1 - j) * n_references
                dd[voice, t + order - 1 - j] += by_error + (dy[voice, t, 0] if j == 0 else 0.0)
                for i in range(n):
                    by_signal[at + i] -= by_error * weights[i]
                    by_weights[i] -= by_error * signal[at + i]


@inline
def _place(i: Any, j: Any) -> Any:
    """Where U[i, j] stands in tiles: squares as wide as a vector, those of the same columns one after the other."""
    n = len(WIDE)
    return (j // n * (j // n + 1) // 2 + i // n) * n * n + j % n * n + i % n


@inline
def _unpack(packed: Any, U: Any, n: Any) -> None:
    U[:] = 0.0  # a signal that blew up has left NaN beside the triangle too
    k = 0
    for j in range(n):
        for i in range(j):
            U[_place(i, j)] = packed[k]
            k += 1
        U[_place(j, j)] = 1.0


@inline
def _pack(U: Any, packed: Any, n: Any) -> None:
    k = 0
    for j in range(n):
        for i in range(j):
            packed[k] = U[_place(i, j)]
            k += 1


def rls_tiles(n: int) -> NDArray[np.float64]:
    """U = 1 for :func:`rls_gain`."""
    U = aligned((_place(0, -(-n // len(WIDE)) * len(WIDE)),), REAL)
    U[[_place(j, j) for j in range(n)]] = 1
    return U


def rls_rows(n: int) -> NDArray[np.float64]:
    """The five other arrays of :func:`rls_gain`, zero."""
    return aligned((5, -(-n // len(WIDE)) * len(WIDE) + len(WIDE)), REAL)


@inline
def rls_gain(phi: Any, U: Any, D: Any, forgetting: Any, ceiling: Any, b: Any, f: Any, alpha: Any) -> Any:
    """One step of Bierman's update of P = U diag(D) U^T by a regressor.

    Parameters
    ----------
    phi, D, b, f, alpha : array
        From :func:`rls_rows`: the regressor; the pivots, which are positive and stay so, as every step multiplies them
        by a positive number; ``b`` becomes P phi, of P before the step; the last two are scribbled on. What is beyond n
        in the first three is zero and stays so.
    U : array
        From :func:`rls_tiles`.
    forgetting, ceiling : float
        No D rises beyond ``ceiling``.

    Returns
    -------
    float
        forgetting + phi^T P phi: the gain of the weights is P phi over it.
    """
    n, size, at = len(WIDE), phi.size - len(WIDE), 0
    nothing = keep(load(phi, 0, WIDE, WIDE), 0)
    for j in range(0, size, n):
        products = widen((nothing,), WIDE)
        for i in range(0, j + n, n):
            products = accumulate(products, WIDE, U, at, WIDE, phi, i, WIDE)
            at += n * n
        for k in range(n):
            f[j + k] = total(products[k])
        store(b, j, nothing, WIDE)
    alpha[0] = forgetting
    for j in range(size):
        alpha[j + 1] = fma(f[j], D[j] * f[j], alpha[j])
    denominator = alpha[size]
    # f becomes D f, by which P phi grows with each column, and alpha by how much of that the column changes
    for j in range(0, size, n):
        pivots, before, values = load(D, j, WIDE, WIDE), load(alpha, j, WIDE, WIDE), load(f, j, WIDE, WIDE)
        after = load(alpha, j + 1, WIDE, WIDE)
        store(D, j, smaller(pivots * before / (after * forgetting), ceiling), WIDE)
        store(f, j, pivots * values, WIDE)
        store(alpha, j, -values / before, WIDE)
    at = 0
    for j in range(0, size, n):
        for i in range(0, j + n, n):
            sums = load(b, i, WIDE, WIDE)
            for k in range(n):
                entries = load(U, at, WIDE, WIDE)
                # the diagonal stays 1, as there the sum is still zero
                store(U, at, fma(sums, load(alpha, j + k, ONE, WIDE), entries), WIDE)
                sums = fma(entries, load(f, j + k, ONE, WIDE), sums)
                at += n
            store(b, i, sums, WIDE)
    return denominator


@kernel
def _recurse(
    x: Any, d: Any, y: Any, v: Any, factors: Any, forgetting: Any, ceiling: Any, U: Any, rows: Any, tapes: Any
) -> None:
    n, n_references = v.shape[1], x.shape[2]
    packed_D, packed_U = factors
    tape_v, tape_U, tape_D = tapes
    phi, D, b, f, alpha = rows
    for voice in range(len(x)):
        signal, weights = x[voice].ravel(), v[voice]
        D[:], D[:n] = 0.0, packed_D[voice]
        _unpack(packed_U[voice], U, n)
        for t in range(y.shape[1]):
            if tape_v.shape[1] > 0:
                tape_v[voice, t], tape_D[voice, t] = weights, D[:n]
                _pack(U, tape_U[voice, t], n)
            at = t * n_references
            for i in range(n):
                phi[i] = signal[at + i]
            estimate = _inner(signal, at, weights, 0, n)
            error = d[voice, t] - estimate
            y[voice, t, 0], y[voice, t, 1] = flush(estimate), flush(error)
            _add(weights, error / rls_gain(phi, U, D, forgetting, ceiling, b, f, alpha), b, 0)
        _pack(U, packed_U[voice], n)
        packed_D[voice] = D[:n]


@kernel
def _recurse_back(
    dy: Any, x: Any, d: Any, dx: Any, dd: Any, dv: Any, dU: Any, dD: Any, forgetting: Any, ceiling: Any, tapes: Any
) -> None:
    n, n_references = dv.shape[1], x.shape[2]
    tape_v, tape_U, tape_D = tapes
    b = np.zeros((n + 1, n))  # P phi as far as the columns before j make it
    f, alpha, db = np.zeros(n), np.zeros(n + 1), np.zeros(n)
    alpha[0] = forgetting
    for voice in range(len(x)):
        signal, by_signal, by_weights = x[voice].ravel(), dx[voice].ravel(), dv[voice]
        by_U, by_D = dU[voice], dD[voice]
        for t in range(dy.shape[1] - 1, -1, -1):
            at = t * n_references
            phi, weights, U, D = signal[at : at + n], tape_v[voice, t], tape_U[voice, t], tape_D[voice, t]
            column = 0
            for j in range(n):
                f[j] = phi[j] + dot(U[column : column + j], phi[:j])
                alpha[j + 1] = alpha[j] + f[j] * D[j] * f[j]
                for i in range(j):
                    b[j + 1, i] = b[j, i] + U[column + i] * D[j] * f[j]
                b[j + 1, j] = D[j] * f[j]
                column += j
            error = d[voice, t] - dot(weights, phi)
            # w' = w + e b / alpha
            g = dot(by_weights, b[n]) / alpha[n]
            by_alpha = -g * error / alpha[n]
            for i in range(n):
                db[i] = by_weights[i] * error / alpha[n]
            by_error = g + dy[voice, t, 1] - dy[voice, t, 0]
            dd[voice, t] += by_error + dy[voice, t, 0]
            for i in range(n):
                by_weights[i] -= by_error * phi[i]
                by_signal[at + i] -= by_error * weights[i]
            for j in range(n - 1, -1, -1):
                column -= j
                v, q = D[j] * f[j], -f[j] / alpha[j]
                by_v, by_q = db[j], 0.0
                for i in range(j):
                    entry = by_U[column + i]
                    by_q += entry * b[j, i]
                    by_v += db[i] * U[column + i]
                    by_U[column + i] += db[i] * v
                    db[i] += entry * q
                by_f, by_before = -by_q / alpha[j], -by_q * q / alpha[j]
                scale = alpha[j] / (alpha[j + 1] * forgetting)
                h = by_D[j] if D[j] * scale < ceiling else 0.0
                by_D[j] = h * scale
                by_before += h * D[j] / (alpha[j + 1] * forgetting)
                by_alpha -= h * D[j] * scale / alpha[j + 1]
                by_f += by_alpha * v
                by_v += by_alpha * f[j]
                by_before += by_alpha
                by_D[j] += by_v * f[j]
                by_f += by_v * D[j]
                by_signal[at + j] += by_f
                for i in range(j):
                    by_U[column + i] += by_f * phi[i]
                    by_signal[at + i] += by_f * U[column + i]
                by_alpha = by_before


class _Adaptive(Filter):
    """What all have in common: a tapped delay line in front of weights, float64 throughout.

    Signals go to the kernels with the past that they need in front, weights with the oldest sample first: so a
    regressor is a window of the signal as it stands.
    """

    n_outputs = 2

    def _set_size(self, order: int = 1) -> None:
        self._no_children()
        self.n_taps = whole_number("n_taps", self.config["n_taps"])
        self.n_references = whole_number("n_references", self.config["n_references"])
        self.order = order
        self.n_inputs = self.n_references + 1
        self.fields = (
            Field("w", (self.n_taps, self.n_references)),
            Field("past", (self.n_taps + order - 2, self.n_references)),
            Field("targets", (order - 1,)),
        )

    def _positive(self, name: str) -> float:
        value = number(name, self.config[name])
        if value <= 0:
            raise ParameterError(f"{name}={value!r} must be positive")
        return value

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return REAL

    def _weights(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A view of the weights in flat states, oldest sample first."""
        n, c = self.n_taps, self.n_references
        return rows[:, : n * c].reshape(len(rows), n, c)[:, ::-1]

    def _enter(self, u: NDArray[Any], state: State) -> tuple[NDArray[np.float64], ...]:
        """References and desired signal with their past, and the weights, in workspaces."""
        n_voices, n_frames, c = *u.shape[:2], self.n_references
        held, rows = self.n_taps + self.order - 2, state.rows
        first = self.n_taps * c
        x = state.buffer("x", (n_voices, held + n_frames, c), REAL)
        d = state.buffer("d", (n_voices, self.order - 1 + n_frames), REAL)
        v = state.workspace("v", partial(aligned, (n_voices, first), REAL))
        x[:, :held] = rows[:, first : first + held * c].reshape(n_voices, held, c)
        x[:, held:] = u[..., :c]
        d[:, : self.order - 1] = rows[:, first + held * c : first + held * c + self.order - 1]
        d[:, self.order - 1 :] = u[..., c]
        v.reshape(n_voices, self.n_taps, c)[...] = self._weights(rows)
        return x, d, v

    def _leave(self, x: NDArray[Any], d: NDArray[Any], v: NDArray[Any], rows: NDArray[Any]) -> None:
        """What the next block needs, into flat states."""
        held, first = self.n_taps + self.order - 2, self.n_taps * self.n_references
        self._weights(rows)[...] = v.reshape(len(v), self.n_taps, self.n_references)
        after = first + held * self.n_references
        rows[:, first:after] = x[:, x.shape[1] - held :].reshape(len(x), -1)
        rows[:, after : after + self.order - 1] = d[:, d.shape[1] - self.order + 1 :]

    def _gradients(
        self, x: NDArray[Any], d: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Where the derivatives by signals with their past, and by weights, are summed: those by the end state."""
        held, first = self.n_taps + self.order - 2, self.n_taps * self.n_references
        by_x, by_d = np.zeros(x.shape), np.zeros(d.shape)
        after = first + held * self.n_references
        by_x[:, x.shape[1] - held :] = dx[:, first:after].reshape(len(x), held, self.n_references)
        by_d[:, d.shape[1] - self.order + 1 :] = dx[:, after : after + self.order - 1]
        return by_x, by_d, self._weights(dx).astype(np.float64).reshape(len(x), -1)

    def _gathered(
        self, by_x: NDArray[Any], by_d: NDArray[Any], by_v: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Derivatives by the input without controls, and by the initial state."""
        held, first = self.n_taps + self.order - 2, self.n_taps * self.n_references
        initial = dx.copy()
        after = first + held * self.n_references
        self._weights(initial)[...] = by_v.reshape(len(by_v), self.n_taps, self.n_references)
        initial[:, first:after] = by_x[:, :held].reshape(len(by_x), -1)
        initial[:, after : after + self.order - 1] = by_d[:, : self.order - 1]
        return np.concatenate([by_x[:, held:], by_d[:, self.order - 1 :, None]], axis=2), initial

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        n = self.n_states
        if n + self.n_outputs > DENSE_LIMIT:
            raise ParameterError(f"linearizing {n} states would take a matrix of {8 * n * n / 1e6:.0f} MB")
        found = by_adjoint(self, u[None], state.ravel()[None], state)
        return StateSpace(*(matrices[0] for matrices in found), sample_rate=self.sample_rate)


class _Projecting(_Adaptive):
    """LMS, and affine projection of any order."""

    normalised = True

    def _set_step(self, highest: float) -> None:
        self.leak = number("leak", self.config["leak"])
        if not 0 <= self.leak < 1:
            raise ParameterError(f"leak={self.leak!r} must lie within [0, 1)")
        self.controls = (Control("step", number("step", self.config["step"]), 0.0, highest * (1 - self.leak)),)
        self.controls[0].check(self.controls[0].default)
        self.floor = self._positive("floor") if self.normalised else 0.0

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        x, d, v = self._enter(u, state)
        step, out = state.buffer("step", u.shape[:2], REAL), state.buffer("out", y.shape, REAL)
        step[...] = u[..., -1]
        if self.order == 1:
            _descend(x, d, step, out, v, self.floor, self.leak, self.normalised, tape)
        else:
            S, z = (state.buffer(i, (self.order,) * i, REAL) for i in (2, 1))
            _project(x, d, step, out, v, self.floor, self.leak, S, z, tape)
        y[...] = out
        self._leave(x, d, v, state.rows)
        return x, d, step

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, np.empty((len(u), 0, 0)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, tape = np.empty((*u.shape[:2], 2), u.dtype), np.empty((*u.shape[:2], self.n_taps * self.n_references))
        x, d, step = self._run(u, state, y, tape)
        return y, (x.copy(), d.copy(), step.copy(), tape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        x, d, step, tape = memory
        by_x, by_d, by_v = self._gradients(x, d, dx)
        by_step = np.empty(step.shape)
        settings = self.floor, self.leak, self.normalised
        _project_back(dy.astype(REAL), x, d, step, by_x, by_d, by_step, by_v, settings, tape, self.order)
        du, initial = self._gathered(by_x, by_d, by_v, dx)
        return np.concatenate([du, by_step[..., None]], axis=2).astype(dy.dtype), initial, {}

    # the proof is in the docstring of AffineProjection

    def _boundedness(self) -> Boundedness:
        return Boundedness.BOUNDED if self._contraction() else Boundedness.UNKNOWN

    def _contraction(self) -> str | None:
        if not self.normalised or self.leak < LEAST_LEAK:
            return None
        return f"normalised steps never stretch the weights, which leak by {self.leak:g} a sample"


class LMS(_Projecting):
    r"""Least mean squares: the weights go down the gradient of the squared error of the moment.

    .. math::
        \varphi[t] = (u[t], u[t-1], \dots, u[t-n+1]), \quad e[t] = d[t] - w^T \varphi[t], \quad
        w \leftarrow (1 - \lambda) w + \mu\, e[t]\, \varphi[t]

    Inputs are the references u and the desired signal d, outputs the estimate :math:`w^T \varphi[t]` with the weights
    from before the update, and the error e[t].

    Parameters
    ----------
    n_taps : int
        n, the length of the delay line.
    step : float
        Default of the control ``step``, μ, at least 0; zero holds the weights.
    n_references : int
        Channels of u, each with weights of its own.
    leak : float
        λ, within [0, 1): forgets weights that nothing calls for.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Controls*: ``step``, read at every sample.

    *State*: ``w`` (n_taps, n_references), where w[k] belongs to u[t-k]; ``past``, the references of the last n - 1
    frames, oldest first; ``targets`` (none). All zero at rest, float64 whatever the signal's dtype. A filter with what
    was learned is ``TransferFunction(state.w[:, 0], [1])``.

    *Stability*: unknown for signals in general. For a white or independent regressor the mean of the weights converges
    only if 0 < μ < 2 / λ_max(E φ φ^T), and their variance if about 0 < μ < 2 / (3 n E u²); a louder signal is
    enough to make a step too large, and then the weights grow until ``run`` raises :class:`NonFiniteError`.
    :class:`NLMS` measures the power itself.

    Raises
    ------
    ParameterError
        A negative step, a leak out of range, sizes that are not whole numbers of at least 1.

    References
    ----------
    B. Widrow, M. E. Hoff (1960), "Adaptive switching circuits". A. H. Sayed (2008), "Adaptive filters".
    """

    normalised = False

    def __init__(
        self,
        n_taps: int,
        *,
        step: float = 0.01,
        n_references: int = 1,
        leak: float = 0.0,
        sample_rate: float | None = None,
    ) -> None:
        config = {"n_taps": n_taps, "n_references": n_references, "step": step, "leak": leak}
        super().__init__(config, {}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._set_size()
        self._set_step(np.inf)


class AffineProjection(_Projecting):
    r"""Affine projection: the weights go towards the nearest ones that would explain the last few frames.

    .. math::
        w \leftarrow (1 - \lambda) w + \mu\, X (X^T X + \varepsilon I)^{-1} e, \qquad e = d - X^T w

    X holds the regressors φ[t], ..., φ[t-K+1] of the last K frames in its columns, d their desired values. Inputs are
    the references u and the desired signal d, outputs the estimate and the error of the newest frame, both with the
    weights from before the update.

    Parameters
    ----------
    n_taps : int
        Length of the delay line.
    order : int
        K, at most n_taps n_references and 512. A larger one learns faster from coloured signals, costs
        n_taps K² / 2 + K³ / 6 products a frame, and lets more noise into the weights.
    step : float
        Default of the control ``step``, μ, within [0, 2 (1 - leak)]; zero holds the weights.
    floor : float
        ε, positive: a power below which the steps become small. In squared units of u, times n_taps.
    n_references : int
        Channels of u, each with weights of its own.
    leak : float
        λ, within [0, 1): forgets weights that nothing calls for.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Controls*: ``step``, read at every sample.

    *State*: ``w`` (n_taps, n_references), where w[k] belongs to u[t-k]; ``past``, the references of the last n_taps +
    K - 2 frames, oldest first; ``targets``, the last K - 1 desired values. All zero at rest, float64 whatever the
    signal's dtype.

    *Stability*: with 0 < μ < 2 a noiseless error of the weights never grows, whatever the reference; noise may still
    push the weights along directions that the reference does not excite. With a leak the filter forgets its initial
    state and its output is bounded for bounded inputs. Proof: for the same input two runs have the same X once their
    delay lines are full, and the difference of their weights is multiplied by (1 - λ) I - μ X (X^T X + ε I)^-1 X^T,
    symmetric, with eigenvalues between 1 - λ - μ and 1 - λ; the range of μ keeps them within ±(1 - λ). What is added
    each time is at most μ \|d\| / (2 √ε).

    Raises
    ------
    ParameterError
        A step or leak out of range, a floor that is not positive, an order that is too large.

    References
    ----------
    K. Ozeki, T. Umeda (1984), "An adaptive filtering algorithm using an orthogonal projection to an affine subspace and
    its properties". A. H. Sayed (2008), "Adaptive filters".
    """

    def __init__(
        self,
        n_taps: int,
        order: int,
        *,
        step: float = 0.5,
        floor: float = 1e-3,
        n_references: int = 1,
        leak: float = 0.0,
        sample_rate: float | None = None,
    ) -> None:
        config = {"n_taps": n_taps, "n_references": n_references, "step": step, "leak": leak, "floor": floor}
        super().__init__({**config, "order": order}, {}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._set_size(whole_number("order", self.config["order"]))
        most = min(self.n_taps * self.n_references, MAX_ORDER)
        if self.order > most:
            raise ParameterError(
                f"order={self.order} must be at most {most}: there are no more weights, or {MAX_ORDER}"
            )
        self._set_step(2.0)


class NLMS(AffineProjection):
    r"""Normalised least mean squares: affine projection of order one.

    .. math::
        w \leftarrow (1 - \lambda) w + \frac{\mu\, e[t]}{\varepsilon + \|\varphi[t]\|^2}\, \varphi[t], \qquad
        e[t] = d[t] - w^T \varphi[t]

    Inputs are the references u and the desired signal d, outputs the estimate :math:`w^T \varphi[t]` with the weights
    from before the update, and the error e[t].

    Parameters
    ----------
    n_taps : int
        Length of the delay line.
    step : float
        Default of the control ``step``, μ, within [0, 2 (1 - leak)]; zero holds the weights, 1 learns fastest.
    floor : float
        ε, positive: a power below which the steps become small. In squared units of u, times n_taps.
    n_references : int
        Channels of u, each with weights of its own.
    leak : float
        λ, within [0, 1): forgets weights that nothing calls for.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Controls*: ``step``, read at every sample.

    *State*: ``w`` (n_taps, n_references), where w[k] belongs to u[t-k]; ``past``, the references of the last n_taps - 1
    frames, oldest first; ``targets`` (none). All zero at rest, float64 whatever the signal's dtype.

    *Stability*: as :class:`AffineProjection`, of which it is the case K = 1: with a leak it forgets its initial state
    and its output is bounded for bounded inputs; without one that is unknown.

    Raises
    ------
    ParameterError
        A step or leak out of range, a floor that is not positive.

    References
    ----------
    J. Nagumo, A. Noda (1967), "A learning method for system identification". A. H. Sayed (2008), "Adaptive filters".
    """

    def __init__(
        self,
        n_taps: int,
        *,
        step: float = 0.5,
        floor: float = 1e-3,
        n_references: int = 1,
        leak: float = 0.0,
        sample_rate: float | None = None,
    ) -> None:
        super().__init__(
            n_taps, 1, step=step, floor=floor, n_references=n_references, leak=leak, sample_rate=sample_rate
        )

    def _setup(self) -> None:
        super()._setup()
        if self.order != 1:
            raise ParameterError(f"order={self.order}: NLMS has order 1, use AffineProjection")


class RLS(_Adaptive):
    r"""Recursive least squares with forgetting, in square-root form.

    .. math::
        k = \frac{P \varphi}{\lambda + \varphi^T P \varphi}, \quad e[t] = d[t] - w^T \varphi[t], \quad
        w \leftarrow w + k\, e[t], \quad P \leftarrow \frac{P - k \varphi^T P}{\lambda}

    After every frame w minimises :math:`\sum_s \lambda^{t-s} (d[s] - w^T \varphi[s])^2 + \lambda^{t+1} \|w\|^2 / P_0`
    over the frames so far, while the ceiling has not been met. Inputs are the references u and the desired signal d,
    outputs the estimate :math:`w^T \varphi[t]` with the weights from before the update, and the error e[t].

    Parameters
    ----------
    n_taps : int
        Length of the delay line.
    forgetting : float
        λ, within (0, 1]; the memory is about 1 / (1 - λ) frames, with 1 it is endless.
    initial_covariance : float
        P_0, positive: P at rest is P_0 I. In units of 1 / u²; the larger, the less the zero weights of rest count.
    max_covariance : float
        Ceiling of the pivots of P, at least P_0, see below.
    n_references : int
        Channels of u, each with weights of its own.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: ``w`` (n_taps, n_references), where w[k] belongs to u[t-k]; ``past``, the references of the last n_taps - 1
    frames, oldest first; ``targets`` (none); ``D`` and ``U``, the factors of P = U diag(D) U^T, with U unit upper
    triangular and packed column by column: see :meth:`covariance`. P_0 I and zero weights at rest, float64 whatever the
    signal's dtype.

    *Numerics*: Bierman's update keeps D positive and P symmetric, whatever rounding does. While the reference is silent
    or excites some directions only, forgetting alone would let P grow as λ^-t in the others, until it overflows and the
    next sound bursts. Here no pivot D rises beyond ``max_covariance``, which is as if some knowledge came back just
    then.

    *Cost*: about 1.5 N² products a frame for N = n_taps n_references weights; as many numbers as N² / 2 are remembered.

    *Stability*: unknown for signals in general. If the reference keeps exciting all weights, what two runs on the same
    input differ by decays at least as λ^t.

    Raises
    ------
    ParameterError
        A forgetting out of range, a covariance that is not positive, a ceiling below it, sizes that are no whole
        numbers of at least 1.

    References
    ----------
    G. J. Bierman (1976), "Measurement updating using the U-D factorization". L. Ljung (1999), "System identification:
    theory for the user".
    """

    def __init__(
        self,
        n_taps: int,
        *,
        forgetting: float = 0.999,
        initial_covariance: float = 100.0,
        max_covariance: float = 1e6,
        n_references: int = 1,
        sample_rate: float | None = None,
    ) -> None:
        config = {
            "n_taps": n_taps,
            "n_references": n_references,
            "forgetting": forgetting,
            "initial_covariance": initial_covariance,
            "max_covariance": max_covariance,
        }
        super().__init__(config, {}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._set_size()
        n = self.n_taps * self.n_references
        self.fields = (*self.fields, Field("D", (n,)), Field("U", (n * (n - 1) // 2,)))
        self.forgetting = number("forgetting", self.config["forgetting"])
        if not 0 < self.forgetting <= 1:
            raise ParameterError(f"forgetting={self.forgetting!r} must lie within (0, 1]")
        self.initial_covariance = self._positive("initial_covariance")
        self.max_covariance = self._positive("max_covariance")
        if self.max_covariance < self.initial_covariance:
            raise ParameterError(
                f"max_covariance={self.max_covariance!r} is below initial_covariance={self.initial_covariance!r}"
            )

    def covariance(self, state: State) -> NDArray[np.float64]:
        """P of a state, shape (..., N, N), in the order of ``state.w.ravel()``; symmetric and positive definite."""
        n = self.n_taps * self.n_references
        U = np.zeros((*state.D.shape[:-1], n, n))
        U[..., np.arange(n), np.arange(n)] = 1
        columns, rows = np.tril_indices(n, -1)
        U[..., rows, columns] = state.U
        order = np.arange(n).reshape(self.n_taps, self.n_references)[::-1].ravel()
        root = (U * np.sqrt(state.D)[..., None, :])[..., order, :]
        P: NDArray[np.float64] = root @ np.swapaxes(root, -1, -2)
        return P

    def _rest(self, vector: NDArray[Any]) -> None:
        vector[...] = 0
        self._factors(vector)[0][...] = self.initial_covariance

    def _factors(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Views of D and U in flat states."""
        n = self.n_taps * self.n_references
        first = sum(field.size for field in self.fields[:3])
        return rows[..., first : first + n], rows[..., first + n :]

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tapes: tuple[NDArray[Any], ...]) -> tuple[Any, ...]:
        x, d, v = self._enter(u, state)
        U, rows = (state.workspace(make, partial(make, v.shape[1])) for make in (rls_tiles, rls_rows))
        out, factors = state.buffer("out", y.shape, REAL), self._factors(state.rows)
        _recurse(x, d, out, v, factors, self.forgetting, self.max_covariance, U, tuple(rows), tapes)
        y[...] = out
        self._leave(x, d, v, state.rows)
        return x, d

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        none = np.empty((len(u), 0, 0))
        self._run(u, state, y, (none, none, none))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        n = self.n_taps * self.n_references
        y = np.empty((*u.shape[:2], 2), u.dtype)
        tapes = tuple(np.empty((*u.shape[:2], size)) for size in (n, n * (n - 1) // 2, n))
        x, d = self._run(u, state, y, tapes)
        return y, (x.copy(), d.copy(), tapes)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        x, d, tapes = memory
        by_x, by_d, by_v = self._gradients(x, d, dx)
        by_D, by_U = (np.array(part, np.float64) for part in self._factors(dx))
        _recurse_back(dy.astype(REAL), x, d, by_x, by_d, by_v, by_U, by_D, self.forgetting, self.max_covariance, tapes)
        du, initial = self._gathered(by_x, by_d, by_v, dx)
        for part, value in zip(self._factors(initial), (by_D, by_U), strict=True):
            part[...] = value
        return du.astype(dy.dtype), initial, {}

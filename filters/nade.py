"""Autoregressive head: the probability of a frame of bits, one bit after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import statespace
from rnndsp._checks import generator, whole_number
from rnndsp._jit import kernel
from rnndsp._mixing import add_product, dot
from rnndsp.activations import tanh
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place, unbounded
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["NADE"]


@kernel
def _forward(context: Any, bits: Any, y: Any, V: Any, UT: Any, LT: Any) -> None:
    n, n_hidden = y.shape[2], V.shape[1]
    hidden, entry = np.empty(n_hidden, y.dtype), np.empty(n_hidden, y.dtype)
    for voice in range(y.shape[0]):
        for t in range(y.shape[1]):
            c, x, out = context[voice, t], bits[voice, t], y[voice, t]
            for j in range(n):
                out[j] = c[j]
            for i in range(n_hidden):
                entry[i] = c[n + i]
                hidden[i] = tanh(entry[i])
            first = 0
            for k in range(n):
                # the hidden units move only where a bit is set: up to there, all bits read the same ones
                if x[k] != 0 or k == n - 1:
                    add_product(out[first : k + 1], UT[:, first : k + 1], hidden)
                    first = k + 1
                    for j in range(first, n):
                        out[j] += LT[k, j] * x[k]
                    for i in range(n_hidden):
                        entry[i] += V[k, i] * x[k]
                        hidden[i] = tanh(entry[i])


@kernel
def _backward(
    context: Any, bits: Any, dy: Any, dcontext: Any, dbits: Any, V: Any, U: Any, L: Any, dV: Any, dU: Any, dLT: Any
) -> None:
    n, n_hidden = dy.shape[2], V.shape[1]
    dtype, one = dy.dtype, dy.dtype.type(1)  # a plain 1 would make double precision of it
    entry, da, hidden = np.empty(n_hidden, dtype), np.empty(n_hidden, dtype), np.empty((n, n_hidden), dtype)
    for voice in range(dy.shape[0]):
        for t in range(dy.shape[1]):
            c, x, d = context[voice, t], bits[voice, t], dy[voice, t]
            dc, dx = dcontext[voice, t], dbits[voice, t]
            for i in range(n_hidden):
                entry[i] = c[n + i]
                hidden[0, i] = tanh(entry[i])
                da[i] = 0
            for k in range(n):
                dx[k] = 0
            for k in range(n - 1):
                if x[k] != 0:
                    for i in range(n_hidden):
                        entry[i] += V[k, i] * x[k]
                        hidden[k + 1, i] = tanh(entry[i])
                else:
                    for i in range(n_hidden):
                        hidden[k + 1, i] = hidden[k, i]
            for k in range(n - 1, -1, -1):
                g, h, read, added = d[k], hidden[k], U[k], dU[k]
                dc[k] = g
                # by this bit, through all the later ones
                dx[k] += dot(V[k], da)
                if x[k] != 0:
                    entering, later = dV[k], dLT[k]
                    for i in range(n_hidden):
                        entering[i] += x[k] * da[i]
                    for j in range(k + 1, n):
                        later[j] += x[k] * d[j]
                if g == 0:  # a bit that is not scored
                    continue
                before = L[k]
                for j in range(k):
                    dx[j] += before[j] * g
                for i in range(n_hidden):
                    added[i] += g * h[i]
                    da[i] += g * read[i] * (one - h[i] * h[i])
            for i in range(n_hidden):
                dc[n + i] = da[i]


class NADE(Filter):
    r"""Autoregressive head: log-odds of every bit of a frame, given the context and the bits before it in the frame.

    With c[t], a[t] the first n and the last m outputs of the ``context`` filter, and x[t] the frame of n bits,

    .. math::
        h_k &= \tanh\Big(a[t] + \sum_{j<k} V_j\, x_j[t]\Big) \\
        y_k[t] &= c_k[t] + U_k \cdot h_k + \sum_{j<k} L_{kj}\, x_j[t], \qquad
        p(x_k[t] = 1 \mid \ldots) = \sigma(y_k[t])

    so that the sum of the Bernoulli log-likelihoods of a frame is its exact log-probability. Trained with the frames
    that came (teacher forcing: the bits are inputs), it then draws new ones with :meth:`sample`.

    Parameters
    ----------
    context : Filter
        What the frame depends on beside itself; its outputs are c and a, one after the other.
    n_hidden : int
        m, at least 0; without hidden units each bit is a logistic regression on the context and the bits before it.
    seed : int or Generator
        For V and U, uniform within ±1/sqrt(m); L is zero.

    Notes
    -----
    *Inputs*: those of ``context``, then the n bits (any real numbers). *Outputs*: n log-odds.

    *Parameters*: ``V`` and ``U`` (n, m), ``L`` (n, n), of which only what lies below the diagonal counts.

    *State*: none of its own; that of ``context`` in ``children``.

    *Stability*: that of ``context``, as the head has no memory; bounded for bounded inputs where ``context`` is, and
    forgetting its initial state where ``context`` does.

    Raises
    ------
    ParameterError
        ``context`` is no filter, has latency, or no more outputs than ``n_hidden``.

    References
    ----------
    H. Larochelle, I. Murray (2011), "The neural autoregressive distribution estimator". N. Boulanger-Lewandowski,
    Y. Bengio, P. Vincent (2012), "Modeling temporal dependencies in high-dimensional sequences".
    """

    def __init__(
        self,
        context: Filter,
        *,
        n_hidden: int,
        seed: int | np.random.Generator = 0,
    ) -> None:
        if not isinstance(context, Filter):
            raise ParameterError(f"{context=} is not a filter")
        m = whole_number("n_hidden", n_hidden, least=0)
        n, rng = max(context.n_outputs - m, 0), generator(seed)
        V, U = rng.uniform(-1, 1, (2, n, m)) / np.sqrt(max(m, 1))
        super().__init__({"n_hidden": m}, {"V": V, "U": U, "L": np.zeros((n, n))}, [context])

    def _setup(self) -> None:
        if len(self.children) != 1:
            raise ParameterError(f"NADE has one part, its context, not {len(self.children)}")
        (context,) = self.children
        self.n_hidden = whole_number("n_hidden", self.config["n_hidden"], least=0)
        self.n_outputs = context.n_outputs - self.n_hidden
        if self.n_outputs < 1:
            raise ParameterError(
                f"n_hidden={self.n_hidden} leaves no bits of the {context.n_outputs} outputs of the context: it needs "
                "one output a bit and one a hidden unit"
            )
        if context.latency:
            raise ParameterError(f"a context that is {context.latency} frames late would meet bits of later frames")
        self.n_inputs = context.n_inputs + self.n_outputs
        self.period = context.period

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, m = self.n_outputs, self.n_hidden
        return {"V": (n, m), "U": (n, m), "L": (n, n)}

    @property
    def context(self) -> Filter:
        """What the frames depend on beside themselves."""
        return self.children[0]

    def sample(
        self,
        context: ArrayLike,
        rng: np.random.Generator,
        *,
        temperature: float = 1.0,
        allowed: Callable[[NDArray[np.bool_]], NDArray[np.bool_]] | None = None,
    ) -> NDArray[np.bool_]:
        r"""Draw one frame.

        The hidden units change only where a bit is set, so which bit is set next, if any, is one draw:

        .. math:: p(\text{next} = j) = \sigma(y_j) \prod_{i<j} (1 - \sigma(y_i))

        Parameters
        ----------
        context : array, shape (n + m,)
            One output frame of the context filter.
        rng : Generator
        temperature : float
            Divides the log-probabilities of these draws: 1 draws from the model, less keeps to what is likely, 0 takes
            the likeliest of each draw. (Dividing the log-odds of each bit would rather empty the frames: of several
            bits, each unlikely, but one of them sure to come, none would.)
        allowed : function, optional
            Of the bits set so far, to which bits may be set; asked again after each bit that is.

        Returns
        -------
        ndarray of bool, shape (n,)

        Raises
        ------
        ParameterError
            A context of another shape, or a negative temperature.
        NonFiniteError
            NaN in the context.
        """
        n = self.n_outputs
        frame = np.asarray(context, np.float64)
        if frame.shape != (n + self.n_hidden,):
            raise ParameterError(f"context of shape {frame.shape} must be one frame, ({n + self.n_hidden},)")
        if np.isnan(frame).any():
            raise NonFiniteError("the context holds NaN")
        if not 0 <= temperature < np.inf:
            raise ParameterError(f"{temperature=} must be a number of at least 0")
        V, U, L = (self._own[name] for name in "VUL")
        bits, odds, entry = np.zeros(n, bool), frame[:n].copy(), frame[n:].copy()
        first = 0
        while first < n:
            y = odds[first:] + U[first:] @ np.tanh(entry)
            if allowed is not None:
                may = np.asarray(allowed(bits.copy()))
                if may.shape != (n,):
                    raise ParameterError(f"allowed gives {may.shape}, must give one truth value a bit, ({n},)")
                y[np.logical_not(may[first:])] = -np.inf
            # none of the bits before; the last entry is that no bit is set any more
            none = np.concatenate([[0], -np.cumsum(np.logaddexp(0, y))])
            likely = np.append(none[:-1] - np.logaddexp(0, -y), none[-1]) + temperature * rng.gumbel(size=len(none))
            k = first + int(np.argmax(likely))
            if k == n:
                break
            bits[k] = True
            odds += L[:, k]
            entry += V[k]
            first = k + 1
        return bits

    # ---- the filter

    def _weights(self, dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
        def make() -> dict[str, NDArray[Any]]:
            straight = {name: value.astype(dtype, order="C") for name, value in self._own.items()}
            return straight | {f"{name}T": value.T.astype(dtype, order="C") for name, value in self._own.items()}

        weights: dict[str, NDArray[Any]] = self._derived(("weights", dtype), make)
        return weights

    def _parts(self, u: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """What the context hears, its controls included, and the bits."""
        k, n = self.context.n_inputs, self.n_inputs
        return np.concatenate([u[..., :k], u[..., n:]], axis=-1), np.ascontiguousarray(u[..., k:n])

    def _odds(self, context: NDArray[Any], bits: NDArray[Any], y: NDArray[Any]) -> None:
        w = self._weights(bits.dtype)
        _forward(context, bits, y, w["V"], w["UT"], w["LT"])

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        heard, bits = self._parts(u)
        context = np.empty((*u.shape[:2], self.context.n_outputs), u.dtype)
        self.context._process(heard, state.children[0], context)
        self._odds(context, bits, y)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        heard, bits = self._parts(u)
        context, memory = self.context._tape(heard, state.children[0])
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        self._odds(context, bits, y)
        return y, (context, bits, memory)

    def _back(
        self, context: NDArray[Any], bits: NDArray[Any], dy: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        """Derivatives by the context's output, the bits and the own parameters."""
        w = self._weights(bits.dtype)
        dcontext, dbits = np.empty_like(context), np.empty_like(bits)
        dV, dU, dLT = (np.zeros_like(w[name]) for name in ("V", "U", "LT"))
        _backward(context, bits, dy, dcontext, dbits, w["V"], w["U"], w["L"], dV, dU, dLT)
        return dcontext, dbits, {"V": dV, "U": dU, "L": dLT.T}

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        context, bits, inner = memory
        dcontext, dbits, own = self._back(context, bits, np.ascontiguousarray(dy))
        dheard, dx, params = self.context._adjoint(inner, dcontext, dx)
        k = self.context.n_inputs
        du = np.concatenate([dheard[..., :k], dbits, dheard[..., k:]], axis=-1)
        return du, dx, own | {f"0.{name}": value for name, value in params.items()}

    def _boundedness(self) -> Boundedness:
        return min(self.context._boundedness(), Boundedness.BOUNDED)

    def _contraction(self) -> str | None:
        return self.context._contraction()

    def _enclosure(self, place: Place) -> Enclosure:
        signal, n = place.u[: self.context.n_inputs], self.context.n_inputs
        inner = self.context._enclosure(place.inside(signal, place.middle[:n], slice(self.n_inputs, None), 0))
        return replace(inner, y=unbounded(self.n_outputs), gain=None)

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        heard, bits = self._parts(u[None, None])
        inner = self.context._linearize(state.children[0], heard[0, 0])
        context = np.empty((1, 1, self.context.n_outputs))
        self.context._process(heard, state.children[0].copy(), context)
        # one row of the Jacobian a voice
        rows, n = np.eye(self.n_outputs)[:, None], self.n_outputs
        by_context, by_bits, _ = self._back(np.repeat(context, n, axis=0), np.repeat(bits, n, axis=0), rows)
        G = by_context[:, 0]
        B = np.pad(inner.B, ((0, 0), (0, n)))
        D = np.hstack([G @ inner.D, by_bits[:, 0]])
        return statespace.space(inner.A, B, G @ inner.C, D, inner.delays, sample_rate=self.sample_rate)

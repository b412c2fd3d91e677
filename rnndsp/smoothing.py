"""Controls that glide: smoothing as a part of the filter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number, require_filter
from rnndsp._jit import kernel
from rnndsp.activations import flush
from rnndsp.composition import Backward, _Composition, _prefixed
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, space

__all__ = ["Smoothed"]


@kernel
def _glide(u: Any, s: Any, keep: Any, low: Any, high: Any, inside: Any) -> None:
    """In the last columns of ``u`` what the controls are smoothed to takes their place."""
    n = s.shape[1]
    first = u.shape[2] - n
    for voice in range(u.shape[0]):
        for t in range(u.shape[1]):
            for i in range(n):
                value = np.float64(u[voice, t, first + i])
                s[voice, i] = flush(value + keep * (s[voice, i] - value))
                # nothing but a state from elsewhere can be outside
                u[voice, t, first + i] = min(max(s[voice, i], low[i]), high[i])
                if inside.shape[1] > 0:
                    inside[voice, t, i] = low[i] <= s[voice, i] <= high[i]


@kernel
def _glide_back(du: Any, ds: Any, keep: Any, inside: Any) -> None:
    n = ds.shape[1]
    first = du.shape[2] - n
    for voice in range(du.shape[0]):
        for t in range(du.shape[1] - 1, -1, -1):
            for i in range(n):
                d = ds[voice, i]
                if inside[voice, t, i]:
                    d += np.float64(du[voice, t, first + i])
                du[voice, t, first + i] = (1 - keep) * d
                ds[voice, i] = keep * d


class Smoothed(_Composition):
    r"""A filter whose controls glide to where they are set, each through a one-pole lowpass.

    .. math:: s[t] = v[t] + e^{-1 / (f_s \tau)}\,(s[t-1] - v[t])

    v is a control as it is given, s what the filter gets in its place.

    Parameters
    ----------
    filt : Filter
        With at least one control; all of them are smoothed, in the unit of their names.
    time_s : float
        Time constant τ: after τ a control has gone 63 % of its way, after 4.6 τ 99 %. 0 does not smooth.
    sample_rate : float, optional
        Hz; needed where the filter has none.

    Notes
    -----
    *Controls*: those of the filter.

    *State*: ``s``, what each control has got to, at rest its default; then the state of the filter in ``children``.

    A :class:`Stream` ramps its controls too, but differently. That ramp is the player's: linear over ``ramp_s``, it
    starts when a control is set to a number, belongs to the stream and ends with it. This one is part of the filter: it
    smooths whatever comes, values given a frame to :meth:`run`, steps from a sequencer, ramps of a stream; it is saved
    with the filter, its state is in the filter's state, and gradients pass through it. It never overshoots, and what a
    control leads to stays within its range. It does not quite arrive either. Where both are not wanted stream with
    ``ramp_s=0``.

    Smoothing makes a modulation slow, not safe: see the filter for which courses of its controls it stands.

    *Stability*: that of the filter, if it holds for every course of its controls. *Latency*: that of the filter.

    Raises
    ------
    ParameterError
        No controls, no sample rate, a negative time.

    Examples
    --------
    >>> from rnndsp.filters import StateVariable
    >>> soft = Smoothed(StateVariable(cutoff_hz=500, sample_rate=48000), time_s=0.01)
    >>> [control.name for control in soft.controls]
    ['cutoff_hz', 'q']
    """

    def __init__(self, filt: Filter, time_s: float, *, sample_rate: float | None = None) -> None:
        super().__init__({"time_s": time_s}, {}, [require_filter(filt)], sample_rate=sample_rate)

    def _setup(self) -> None:
        super()._setup()
        # the smoothed controls are a state in which the filter is not linear
        self.is_linear = False
        if len(self.children) != 1 or not self.children[0].controls:
            raise ParameterError("Smoothed has one part, a filter with controls to smooth")
        if self.sample_rate is None:
            raise ParameterError("sample_rate=None: a time in seconds needs one")
        time_s = number("time_s", self.config["time_s"])
        if time_s < 0:
            raise ParameterError(f"{time_s=} must not be negative")
        (inner,) = self.children
        self.keep = math.exp(-1 / (self.sample_rate * time_s)) if time_s else 0.0
        self.n_inputs, self.n_outputs, self.latency = inner.n_inputs, inner.n_outputs, inner.latency
        self.fields = (Field("s", (len(inner.controls),)),)

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _rest(self, vector: NDArray[Any]) -> None:
        vector[...] = [control.default for control in self.controls]

    def _smooth(self, u: NDArray[Any], state: State, taped: bool) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The frames as the filter gets them, and where the smoothed controls are within their ranges."""
        low, high = (np.array([getattr(control, end) for control in self.controls]) for end in ("low", "high"))
        full, inside = u.copy(), np.empty((len(u), u.shape[1] * taped, len(low)), np.bool_)
        _glide(full, state.rows, self.keep, low, high, inside)
        return full, inside

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self.children[0]._process(self._smooth(u, state, False)[0], state.children[0], y)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        full, inside = self._smooth(u, state, True)
        y, memory = self.children[0]._tape(full, state.children[0])
        return y, (memory, inside)

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        inner, inside = memory
        own, rest = self._split(dx)
        du, rest, params = self.children[0]._adjoint(inner, dy, rest)
        ds = own.astype(np.float64)
        _glide_back(du, ds, self.keep, inside)
        return du, np.concatenate([ds.astype(dx.dtype), rest], axis=1), _prefixed([params])

    def _boundedness(self) -> Boundedness:
        return self.children[0]._boundedness()

    def _contraction(self) -> str | None:
        why = self.children[0]._contraction()
        return why and f"where its controls come from is forgotten; {why}"

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        (inner,), held = self.children, state.children[0]
        full, inside = self._smooth(u[None, None], state.copy(), True)
        part = inner._linearize(held, full[0, 0])
        # by the controls: the adjoint of one frame, from each output and from what each line is given, the newest in it
        n, k, m = part.delays.size, len(self.controls), self.n_inputs
        each = n + self.n_outputs
        many = inner.rest_state((each,))
        many.indices = held.indices
        _, memory = inner._tape(np.tile(full, (each, 1, 1)), many.unravel(np.tile(held.ravel(), (each, 1))))
        dy, dx = np.zeros((each, 1, self.n_outputs)), np.zeros((each, inner.n_states))
        dy[n:, 0] = np.eye(self.n_outputs)
        dx[np.arange(n), np.cumsum(part.delays) - 1] = 1
        slopes = inner._adjoint(memory, dy, dx)[0][:, 0, m:] * np.where(inside[0, 0], self.keep, 0)
        A = np.block([[self.keep * np.eye(k), np.zeros((k, n))], [slopes[:n], part.A]])
        B, C = np.vstack([np.zeros((k, m)), part.B]), np.hstack([slopes[n:], part.C])
        return space(A, B, C, part.D, [1] * k + part.delays.tolist(), sample_rate=self.sample_rate)

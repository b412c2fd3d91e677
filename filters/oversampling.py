"""Filters that run at a multiple of the sample rate, where what they distort has room for its harmonics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import statespace
from rnndsp._checks import number, require_filter, whole_number
from rnndsp._intervals import Interval
from rnndsp.composition import CHUNK, Backward, _Composition, _joined, _prefixed
from rnndsp.errors import ParameterError
from rnndsp.filter import MAX_STATES, Filter
from rnndsp.filters.taps import BLOCK, Taps
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place, enclosed, last_output
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace

__all__ = ["Oversampled", "Polyphase"]

Real = NDArray[np.float64]

# Kaiser's formula for the shape of his window, and what 16 digits can do.
LEAST_DB, MOST_DB = 50.0, 200.0


class Polyphase(Taps):
    r"""Lowpass between two sample rates, a multiple of each other: the samples of a frame stand side by side.

    .. math:: h[n] = \operatorname{sinc}(n / k)\, w[n], \qquad \|n\| \le r k, \qquad w \text{ Kaiser's window}

    Up, one frame of c channels gives one of k c: the k samples that it becomes, one after the other. Down is the
    reverse. Each of the k phases adds up to one, so that constants pass unchanged.

    Parameters
    ----------
    n_channels : int
        c.
    factor : int
        k.
    down : bool
        From the higher rate to the lower one.
    reach : int
        r, frames on either side; the latency.
    stopband_db : float
        What is left of images and aliases, below 0 dB; within 50 and 200.
    offset : int
        Samples of the higher rate by which it is later still; below k.

    Notes
    -----
    *Parameters*: none, the design follows from the settings. *State*: ``lines``, see :class:`Taps`. *Stability*:
    always, there being no feedback.

    References
    ----------
    J. F. Kaiser (1974), "Nonrecursive digital filter design using the I0-sinh window function". R. E. Crochiere, L. R.
    Rabiner (1981), "Interpolation and decimation of digital signals: a tutorial review".
    """

    def __init__(
        self,
        n_channels: int,
        factor: int,
        *,
        down: bool = False,
        reach: int = 32,
        stopband_db: float = 90.0,
        offset: int = 0,
    ) -> None:
        config = {"n_channels": n_channels, "factor": factor, "down": bool(down)}
        Filter.__init__(self, {**config, "reach": reach, "stopband_db": stopband_db, "offset": offset}, {})

    def _setup(self) -> None:
        self._no_children()
        self.n_channels = whole_number("n_channels", self.config["n_channels"])
        self.factor = whole_number("factor", self.config["factor"], least=2)
        self.latency = self.reach = whole_number("reach", self.config["reach"])
        self.offset = whole_number("offset", self.config["offset"], least=0)
        self.stopband_db = number("stopband_db", self.config["stopband_db"])
        if not LEAST_DB <= self.stopband_db <= MOST_DB:
            raise ParameterError(f"stopband_db={self.stopband_db:g} must lie within {LEAST_DB:g} and {MOST_DB:g}")
        if self.offset >= self.factor:
            raise ParameterError(f"offset={self.offset} must be less than factor={self.factor}")
        if self.n_channels * self.factor * self.reach > MAX_STATES:
            raise ParameterError(f"factor={self.factor} and reach={self.reach}: too many coefficients")
        self.n_inputs, self.n_outputs = self.n_channels, self.n_channels * self.factor
        self.down = self.config["down"]
        if self.down:
            self.n_inputs, self.n_outputs = self.n_outputs, self.n_inputs
        self.delays = np.arange(2 * self.reach + 1 + (self.offset > 0))
        self.delays.flags.writeable = False
        self.length = self.delays.size - 1 + BLOCK
        self.fields = (Field("lines", (self.n_inputs * self.length,), (self.length,) * self.n_inputs),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    @property
    def _gains(self) -> Real:
        gains: Real = self._derived("gains", self._design)
        return gains

    def _design(self) -> Real:
        k, r = self.factor, self.reach
        n = np.arange(-r * k, (r + 1) * k)  # whole frames: the last k - 1 are zero
        window = np.zeros(n.size)
        window[: 2 * r * k + 1] = np.kaiser(2 * r * k + 1, 0.1102 * (self.stopband_db - 8.7))
        phases = (np.sinc(n / k) * window).reshape(-1, k)
        phases[:, 0] = n[::k] == 0  # where rounding leaves no zeros
        phases /= phases.sum(axis=0)
        if self.down:
            # of a frame the last sample has come in last: it is heard first
            h = np.append(np.zeros(self.offset), phases) / k
            n_ago = k * np.arange(len(self.delays))[:, None] - np.arange(k)
            phases = np.append(h, 0.0)[np.clip(n_ago, -1, h.size)]
        gains: Real = np.einsum("mj,ab->majb" if self.down else "mj,ab->mjab", phases, np.eye(self.n_channels))
        return gains.reshape(-1, self.n_outputs, self.n_inputs)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        du, dx, _ = super()._adjoint(memory, dy, dx)
        return du, dx, {}


class Oversampled(_Composition):
    """Runs a filter at a multiple of the sample rate: interpolation, the filter, decimation.

    What a nonlinear filter adds above half of the sample rate folds back as tones that belong to no harmonic. At k
    times the rate it has k times the room, and the decimator takes away what did not belong.

    Parameters
    ----------
    inner : Filter
        For the higher rate: this filter's ``sample_rate`` is that of ``inner`` over ``factor``.
    factor : int
        k, at least 2.
    reach : int
        Length of both lowpasses, in samples of the lower rate on either side: their band of transition, about half of
        the lower rate, is (stopband_db - 8) / (28.7 reach) of that rate wide, 0.09 as a default.
    stopband_db : float
        What is left of images and aliases beyond it, below 0 dB; within 50 and 200.

    Attributes
    ----------
    latency : int
        ``2 * reach``, and that of ``inner`` in samples of the lower rate, rounded up.

    Notes
    -----
    *Controls*: those of ``inner``, held for k of its samples.

    *State*: those of interpolator, ``inner`` and decimator, in ``children``. *Stability*: that of ``inner``: the
    lowpasses are without feedback, so it is bounded, contracting and decays if ``inner`` does, and at the same speed.

    Raises
    ------
    ParameterError
        A factor below 2, a reach below 1, a stopband out of range.

    References
    ----------
    R. E. Crochiere, L. R. Rabiner (1981), "Interpolation and decimation of digital signals: a tutorial review".

    Examples
    --------
    >>> from rnndsp.filters import DiodeClipper
    >>> clipper = Oversampled(DiodeClipper(gain_db=20, sample_rate=8 * 48000), 8)
    >>> clipper.sample_rate, clipper.latency
    (48000.0, 64)
    """

    def __init__(self, inner: Filter, factor: int, *, reach: int = 32, stopband_db: float = 90.0) -> None:
        k = whole_number("factor", factor, least=2)
        offset = -require_filter(inner).latency % k
        up = Polyphase(inner.n_inputs, k, reach=reach, stopband_db=stopband_db)
        down = Polyphase(inner.n_outputs, k, down=True, reach=reach, stopband_db=stopband_db, offset=offset)
        super().__init__({}, {}, [up, inner, down])

    @classmethod
    def _restore(
        cls,
        config: Mapping[str, Any],
        params: Mapping[str, ArrayLike],
        children: Sequence[Filter] = (),
        sample_rate: float | None = None,
    ) -> Self:
        return super()._restore(config, params, children)  # the rate is that of inner, divided

    def replace(self, **changes: Any) -> Self:
        rate = changes.pop("sample_rate", None)
        if rate is not None:
            changes["1.sample_rate"] = rate * self.factor
        return super().replace(**changes)

    def _setup(self) -> None:
        super()._setup()
        if len(self.children) != 3 or not all(isinstance(self.children[i], Polyphase) for i in (0, 2)):
            raise ParameterError("Oversampled has three parts: an interpolator, the filter and a decimator")
        up, inner, down = self.children
        assert isinstance(up, Polyphase) and isinstance(down, Polyphase)
        k = self.factor = up.factor
        sizes = (up.n_outputs, down.n_inputs, down.factor)
        late = inner.latency + down.offset
        if sizes != (k * inner.n_inputs, k * inner.n_outputs, k) or late % k:
            raise ParameterError(
                f"interpolator and decimator do not fit {type(inner).__name__}: build the filter anew, Oversampled(...)"
            )
        self.n_inputs, self.n_outputs = inner.n_inputs, inner.n_outputs
        self.latency = up.reach + down.reach + late // k
        self.period = math.lcm(inner.period, k) // k
        if inner.sample_rate is not None:
            self.sample_rate = inner.sample_rate / k

    def _fast(self, signal: NDArray[Any], controls: NDArray[Any]) -> NDArray[Any]:
        """What the interpolator gave, with the controls, as ``inner`` takes it."""
        n_voices, n_frames = signal.shape[:2]
        apart = signal.reshape(n_voices, n_frames * self.factor, self.n_inputs)
        return _joined(apart, np.repeat(controls, self.factor, axis=1))

    def _slow(self, signal: NDArray[Any]) -> NDArray[Any]:
        """What ``inner`` gave, as the decimator takes it."""
        n_voices, n_frames, n_channels = signal.shape
        return signal.reshape(n_voices, n_frames // self.factor, self.factor * n_channels)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        up, inner, down = self.children
        signal, (_, controls, _) = self._inputs(u)
        n_voices, n_frames, size = *u.shape[:2], max(CHUNK // self.factor, 1)
        for t in range(0, n_frames, size):
            now = slice(t, t + size)
            part = np.ascontiguousarray(signal[:, now])
            fast = state.buffer("up", (n_voices, part.shape[1], up.n_outputs), u.dtype)
            up._process(part, state.children[0], fast)
            full = self._fast(fast, controls[:, now])
            out = state.buffer("inner", (*full.shape[:2], inner.n_outputs), u.dtype)
            inner._process(full, state.children[1], out)
            done = state.buffer("down", (n_voices, part.shape[1], down.n_outputs), u.dtype)
            down._process(self._slow(out), state.children[2], done)
            y[:, now] = done

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        up, inner, down = self.children
        signal, (_, controls, _) = self._inputs(u)
        fast, first = up._tape(np.ascontiguousarray(signal), state.children[0])
        out, second = inner._tape(self._fast(fast, controls), state.children[1])
        y, third = down._tape(self._slow(out), state.children[2])
        return y, (first, second, third)

    def _adjoint(self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]) -> Backward:
        up, inner, down = self.children
        parts = self._split(dx)[1:]
        dout, parts[2], _ = down._adjoint(memory[2], np.ascontiguousarray(dy), parts[2])
        n_voices, n_frames = dy.shape[:2]
        dout = np.ascontiguousarray(dout).reshape(n_voices, n_frames * self.factor, inner.n_outputs)
        dfull, parts[1], params = inner._adjoint(memory[1], dout, parts[1])
        dfast = np.ascontiguousarray(dfull[..., : self.n_inputs]).reshape(n_voices, n_frames, up.n_outputs)
        dsignal, parts[0], _ = up._adjoint(memory[0], dfast, parts[0])
        held = (n_voices, n_frames, self.factor, len(self.controls))
        dcontrols = dfull[..., self.n_inputs :].reshape(held).sum(axis=2)
        return np.concatenate([dsignal, dcontrols], axis=-1), np.concatenate(parts, axis=1), _prefixed([{}, params])

    def _boundedness(self) -> Boundedness:
        return self.children[1]._boundedness()

    def _contraction(self) -> str | None:
        return self.children[1]._contraction()

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        up, inner, down = self.children
        signal, (_, controls, _) = self._inputs(u[None, None])
        fast, _ = up._tape(signal, state.children[0].copy())
        found = inner._jacobians(self._fast(fast, controls)[0], state.children[1].copy())
        # as one filter that takes a frame of k samples and gives one
        A, B = np.eye(inner.n_states), np.zeros((inner.n_states, 0))
        C, D = np.zeros((0, inner.n_states)), np.zeros((0, up.n_outputs))
        for t in range(self.factor):
            a, b, c, d = (m[t % len(m)] for m in (found.A, found.B, found.C, found.D))
            now = statespace.space(a, b, c, d, found.delays).expand()
            heard = np.hstack([now.C @ B, now.D])
            C, D = np.vstack([C, now.C @ A]), np.vstack([D, np.pad(heard, ((0, 0), (0, D.shape[1] - heard.shape[1])))])
            A, B = now.A @ A, np.hstack([now.A @ B, now.B])
        lifted = statespace.StateSpace(A, B, C, D)
        ends = up._linearize(state.children[0], signal[0, 0]), down._linearize(state.children[2], np.zeros(0))
        return statespace.series(statespace.series(ends[0], lifted), ends[1])

    def _enclosure(self, place: Place) -> Enclosure:
        (up, inner, down), columns, k = self.children, self._columns(), self.factor
        here = place.inside(place.u[: self.n_inputs], place.middle[: self.n_inputs], columns[0], 0)
        first, frame = up._enclosure(here), last_output(up, here)[: self.n_inputs]
        # of the k samples of a frame each may be like any other
        apart = Interval(first.y.lo.reshape(k, -1).min(axis=0), first.y.hi.reshape(k, -1).max(axis=0))
        here = place.inside(apart, frame, columns[1], 1)
        second, frame = inner._enclosure(here), last_output(inner, here)
        together = Interval(np.tile(second.y.lo, k), np.tile(second.y.hi, k))
        third = down._enclosure(place.inside(together, np.tile(frame, k), columns[2], 2))
        gain = None
        if first.gain is not None and second.gain is not None and third.gain is not None:
            most = first.gain.reshape(k, -1, self.n_inputs).max(axis=0)
            gain = third.gain @ np.tile(second.gain @ most, (k, 1))
        return enclosed(third.y, gain, [first, second, third])

    def _energy_of(self, gains: list[float]) -> float:
        return math.prod(gains)

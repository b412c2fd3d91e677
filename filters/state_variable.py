"""The trapezoidal state variable filter, whose cutoff can be played."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._jit import inline, kernel
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["StateVariable"]

# Every output is m_u u + (m_1 + m_k k) v1 + m_2 v2.
_KINDS = {
    "lowpass": (0.0, 0.0, 0.0, 1.0),
    "bandpass": (0.0, 1.0, 0.0, 0.0),
    "highpass": (1.0, 0.0, -1.0, -1.0),
    "notch": (1.0, 0.0, -1.0, 0.0),
}


@inline
def _solve(u: Any, g: Any, k: Any, s1: Any, s2: Any) -> Any:
    """Both integrators' outputs, and the 1 / (1 + g (g + k)) that solves their loop without a delay."""
    h = 1 / (1 + g * (g + k))
    v1 = h * (s1 + g * (u - s2))
    return v1, s2 + g * v1, h


@kernel
def _forward(u: Any, y: Any, s: Any, rate: Any, mix: Any, tape: Any) -> None:
    m_u, m_1, m_k, m_2 = mix
    taped = tape.shape[1] > 0
    for voice in range(u.shape[0]):
        s1, s2 = s[voice, 0], s[voice, 1]
        cutoff = g = 0.0
        for t in range(u.shape[1]):
            x, k = np.float64(u[voice, t, 0]), 1 / np.float64(u[voice, t, 2])
            if u[voice, t, 1] != cutoff:  # most knobs rest most of the time, and the tangent is half of the work
                cutoff = np.float64(u[voice, t, 1])
                g = math.tan(math.pi * cutoff / rate)
            if taped:
                tape[voice, t, 0], tape[voice, t, 1] = s1, s2
            v1, v2, _ = _solve(x, g, k, s1, s2)
            s1, s2 = flush(2 * v1 - s1), flush(2 * v2 - s2)
            y[voice, t, 0] = flush(m_u * x + (m_1 + m_k * k) * v1 + m_2 * v2)
        s[voice, 0], s[voice, 1] = s1, s2


@kernel
def _backward(dy: Any, u: Any, du: Any, ds: Any, rate: Any, mix: Any, tape: Any) -> None:
    m_u, m_1, m_k, m_2 = mix
    for voice in range(dy.shape[0]):
        d1, d2 = ds[voice, 0], ds[voice, 1]
        for t in range(dy.shape[1] - 1, -1, -1):
            x, k = np.float64(u[voice, t, 0]), 1 / np.float64(u[voice, t, 2])
            g = math.tan(math.pi * np.float64(u[voice, t, 1]) / rate)
            s1, s2, d = tape[voice, t, 0], tape[voice, t, 1], np.float64(dy[voice, t, 0])
            v1, _, h = _solve(x, g, k, s1, s2)
            dv2 = 2 * d2 + m_2 * d
            dv1 = h * (2 * d1 + (m_1 + m_k * k) * d + g * dv2)  # by s1 + g (u - s2)
            dg = v1 * dv2 + (x - s2 - (2 * g + k) * v1) * dv1
            dk = m_k * v1 * d - g * v1 * dv1
            d1, d2 = dv1 - d1, dv2 - d2 - g * dv1
            du[voice, t, 0] = m_u * d + g * dv1
            du[voice, t, 1] = dg * (1 + g * g) * math.pi / rate
            du[voice, t, 2] = -dk * k * k
        ds[voice, 0], ds[voice, 1] = d1, d2


class StateVariable(Filter):
    r"""Trapezoidal (topology-preserving) state variable filter: second order, to be modulated at will.

    .. math::
        v_1 &= \frac{s_1 + g\,(u - s_2)}{1 + g (g + k)}, \quad v_2 = s_2 + g\,v_1,
            \qquad g = \tan\frac{\pi f_c}{f_s}, \quad k = \frac1q \\
        s_1 &\leftarrow 2 v_1 - s_1, \quad s_2 \leftarrow 2 v_2 - s_2

    lowpass :math:`v_2`, bandpass :math:`v_1`, highpass :math:`u - k v_1 - v_2`, notch :math:`u - k v_1`. The bandpass
    has gain q at the cutoff (skirts of constant gain), the others have gain one in their pass bands.

    Parameters
    ----------
    kind : {"lowpass", "bandpass", "highpass", "notch"}
    cutoff_hz : float
        Default of the control ``cutoff_hz``, within 1 Hz and 0.49 sample_rate.
    q : float
        Default of the control ``q``, within 0.1 and 100; 1/sqrt(2) is Butterworth's, -3 dB at the cutoff.
    sample_rate : float
        Hz.

    Notes
    -----
    *Controls*: ``cutoff_hz`` and ``q``, read at every sample.

    *State*: ``s`` (s1, s2), zero at rest; float64 whatever the signal's dtype.

    *Linear* in signal and state, however the controls move. While they rest it is the bilinear transform of
    1 / (p² + k p + 1), prewarped to be exact at the cutoff.

    *Stability*: bounded-input bounded-output for every course of the controls within their ranges, audio rate included.
    Proof: without input \|s\|² changes by -4 g k v1² a sample, whatever g and k. Two samples in a row lose nothing only
    if s1 = g s2 and then -g s2 = g' s2, that is if s = 0. The ranges being compact, two samples shrink \|s\| by a
    factor below one that is the same for all courses. It is near one for low cutoffs: bounded does not mean quiet.

    Raises
    ------
    ParameterError
        A kind that does not exist, no sample rate, a control out of its range.

    References
    ----------
    V. Zavalishin (2012), "The art of VA filter design". A. Simper (2013), "Solving the continuous SVF equations using
    trapezoidal integration and equivalent currents". A. Wishnick (2014), "Time-varying filters for musical
    applications".
    """

    is_linear = True
    n_inputs = n_outputs = 1

    def __init__(
        self, kind: str = "lowpass", *, cutoff_hz: float = 1000.0, q: float = 0.7071, sample_rate: float | None
    ) -> None:
        super().__init__({"kind": kind, "cutoff_hz": cutoff_hz, "q": q}, {}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        kind, cutoff_hz, q = (self.config[name] for name in ("kind", "cutoff_hz", "q"))
        if kind not in _KINDS:
            raise ParameterError(f"{kind=} is unknown; choose one of {sorted(_KINDS)}")
        if self.sample_rate is None:
            raise ParameterError("sample_rate=None: a cutoff in Hz needs one")
        self.controls = (
            Control("cutoff_hz", cutoff_hz, 1.0, 0.49 * self.sample_rate),
            Control("q", q, 0.1, 100.0),
        )
        for control in self.controls:
            control.check(control.default)
        self.fields = (Field("s", (2,)),)

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: NDArray[np.float64]) -> None:
        _forward(u, y, state.rows, self.sample_rate, _KINDS[self.config["kind"]], tape)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, np.empty((u.shape[0], 0, 2)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, tape = np.empty((*u.shape[:2], 1), u.dtype), np.empty((*u.shape[:2], 2))
        self._run(u, state, y, tape)
        return y, (u, tape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tape = memory
        du, ds = np.empty_like(u), dx.astype(np.float64)
        _backward(dy, u, du, ds, self.sample_rate, _KINDS[self.config["kind"]], tape)
        return du, ds.astype(dx.dtype), {}

    # for every course of the controls: the proof is in the docstring

    def _boundedness(self) -> Boundedness:
        return Boundedness.BOUNDED

    def _contraction(self) -> str | None:
        return "the energy of a state variable filter falls, whatever its controls do"

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        # linear at fixed controls: its answers to s = (1, 0), s = (0, 1) and u = 1 are the columns of the matrices
        frames = np.tile(u, (3, 1, 1))
        frames[:, 0, 0] = 0, 0, 1
        unit = self.rest_state((3,))
        unit.s[:2] = np.eye(2)
        y = np.empty((3, 1, 1))
        self._advance(frames, unit, y)
        AB, CD = unit.s.T, y[:, 0].T
        return StateSpace(AB[:, :2], AB[:, 2:], CD[:, :2], CD[:, 2:], sample_rate=self.sample_rate)

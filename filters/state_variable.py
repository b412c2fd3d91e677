"""The trapezoidal state variable filter, whose cutoff can be played."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import choice
from rnndsp._jit import inline, kernel
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Control
from rnndsp.filters._modulated import Modulated
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State

__all__ = ["StateVariable"]

# Every output is m_u u + (m_1 + m_k k) v1 + m_2 v2, each m a polynomial in A = 10^(gain_db / 40), of coefficients in
# rising powers. Last come the powers of A that g and k are multiplied by.
_KINDS = {
    "lowpass": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "bandpass": ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "highpass": ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "notch": ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "allpass": ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-2.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "peaking": ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "low_shelf": ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (-0.5, 0.0, 0.0)),
    "high_shelf": ((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, -1.0), (1.0, 0.0, -1.0), (0.5, 0.0, 0.0)),
}
_WITH_GAIN = ("peaking", "low_shelf", "high_shelf")


@inline
def _loop(g: Any, k: Any) -> Any:
    """What solves the loop of both integrators, which has no delay."""
    return 1 / (1 + g * (g + k))


@inline
def _solve(u: Any, g: Any, h: Any, s1: Any, s2: Any) -> Any:
    """Both integrators' outputs."""
    v1 = h * (s1 + g * (u - s2))
    return v1, s2 + g * v1


@inline
def _gained(gain_db: Any, kind: Any) -> Any:
    """A, what g and k are multiplied by, what is mixed, and the slope of that by A."""
    A = 10 ** (gain_db / 40)
    (u0, u1, u2), (a0, a1, a2), (k0, k1, k2), (b0, b1, b2), (of_g, of_k, _) = kind
    mix = u0 + A * (u1 + A * u2), a0 + A * (a1 + A * a2), k0 + A * (k1 + A * k2), b0 + A * (b1 + A * b2)
    slope = u1 + 2 * A * u2, a1 + 2 * A * a2, k1 + 2 * A * k2, b1 + 2 * A * b2
    return A, A**of_g, A**of_k, mix, slope


@kernel
def _forward(u: Any, y: Any, s: Any, rate: Any, kind: Any, tape: Any) -> None:
    taped = tape.shape[1] > 0
    for voice in range(u.shape[0]):
        s1, s2 = s[voice, 0], s[voice, 1]
        cutoff, q, gain_db, tangent, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        _, of_g, of_k, mix, _ = _gained(gain_db, kind)
        by_u, by_1, by_2 = 0.0, 0.0, 0.0
        for t in range(u.shape[1]):
            gain = np.float64(u[voice, t, 3]) if u.shape[2] > 3 else 0.0
            # most knobs rest most of the time, and what follows from them is most of the work
            if u[voice, t, 1] != cutoff or u[voice, t, 2] != q or gain != gain_db:
                if u[voice, t, 1] != cutoff:
                    cutoff = np.float64(u[voice, t, 1])
                    tangent = math.tan(math.pi * cutoff / rate)
                if gain != gain_db:
                    gain_db = gain
                    _, of_g, of_k, mix, _ = _gained(gain_db, kind)
                q = np.float64(u[voice, t, 2])
                g, k = tangent * of_g, of_k / q
                h = _loop(g, k)
                by_u, by_1, by_2 = mix[0], mix[1] + mix[2] * k, mix[3]
            if taped:
                tape[voice, t, 0], tape[voice, t, 1] = s1, s2
            x = np.float64(u[voice, t, 0])
            v1, v2 = _solve(x, g, h, s1, s2)
            s1, s2 = flush(2 * v1 - s1), flush(2 * v2 - s2)
            y[voice, t, 0] = flush(by_u * x + by_1 * v1 + by_2 * v2)
        s[voice, 0], s[voice, 1] = s1, s2


@kernel
def _backward(dy: Any, u: Any, du: Any, ds: Any, rate: Any, kind: Any, tape: Any) -> None:
    for voice in range(dy.shape[0]):
        d1, d2 = ds[voice, 0], ds[voice, 1]
        for t in range(dy.shape[1] - 1, -1, -1):
            x, q = np.float64(u[voice, t, 0]), np.float64(u[voice, t, 2])
            gain_db = np.float64(u[voice, t, 3]) if u.shape[2] > 3 else 0.0
            A, of_g, of_k, mix, slope = _gained(gain_db, kind)
            tangent = math.tan(math.pi * np.float64(u[voice, t, 1]) / rate)
            (m_u, m_1, m_k, m_2), (n_u, n_1, n_k, n_2) = mix, slope
            g, k = tangent * of_g, of_k / q
            h = _loop(g, k)
            s1, s2, d = tape[voice, t, 0], tape[voice, t, 1], np.float64(dy[voice, t, 0])
            v1, v2 = _solve(x, g, h, s1, s2)
            dv2 = 2 * d2 + m_2 * d
            dv1 = h * (2 * d1 + (m_1 + m_k * k) * d + g * dv2)  # by s1 + g (u - s2)
            dg = v1 * dv2 + (x - s2 - (2 * g + k) * v1) * dv1
            dk = m_k * v1 * d - g * v1 * dv1
            d1, d2 = dv1 - d1, dv2 - d2 - g * dv1
            du[voice, t, 0] = m_u * d + g * dv1
            du[voice, t, 1] = dg * of_g * (1 + tangent * tangent) * math.pi / rate
            du[voice, t, 2] = -dk * k / q
            if u.shape[2] > 3:
                by_A = d * (n_u * x + (n_1 + n_k * k) * v1 + n_2 * v2)
                by_A += (kind[4][0] * g * dg + kind[4][1] * k * dk) / A
                du[voice, t, 3] = by_A * A * math.log(10) / 40
        ds[voice, 0], ds[voice, 1] = d1, d2


class StateVariable(Modulated):
    r"""Trapezoidal (topology-preserving) state variable filter: second order, to be modulated at will.

    .. math::
        v_1 &= \frac{s_1 + g\,(u - s_2)}{1 + g (g + k)}, \quad v_2 = s_2 + g\,v_1,
            \qquad g = \tan\frac{\pi f_c}{f_s}, \quad k = \frac1q \\
        s_1 &\leftarrow 2 v_1 - s_1, \quad s_2 \leftarrow 2 v_2 - s_2

    lowpass :math:`v_2`, bandpass :math:`v_1`, highpass :math:`u - k v_1 - v_2`, notch :math:`u - k v_1`, allpass
    :math:`u - 2 k v_1`. The bandpass has gain q at the cutoff (skirts of constant gain), the others have gain one in
    their pass bands.

    Those with a gain, A = 10^(gain_db / 40), are the analogue prototypes of the usual equalisers:

    ==========  =======================================  ==========  ============
    kind        output                                   g times     k times
    ==========  =======================================  ==========  ============
    peaking     u + (A² - 1) k v1                        1           1/A
    low_shelf   u + (A - 1) k v1 + (A² - 1) v2           A^(-1/2)    1
    high_shelf  A² u + (A - A²) k v1 + (1 - A²) v2       A^(1/2)     1
    ==========  =======================================  ==========  ============

    peaking has gain_db at the cutoff and 0 dB far from it; a shelf has gain_db on its side, 0 dB on the other and half
    of it, in dB, at the cutoff.

    Parameters
    ----------
    kind : {"lowpass", "bandpass", "highpass", "notch", "allpass", "peaking", "low_shelf", "high_shelf"}
    cutoff_hz : float
        Default of the control ``cutoff_hz``, within 1 Hz and 0.49 sample_rate.
    q : float
        Default of the control ``q``, within 0.1 and 100; 1/sqrt(2) is Butterworth's, -3 dB at the cutoff.
    gain_db : float
        Default of the control ``gain_db`` of peaking and shelves, within -40 and 40; the other kinds have none.
    sample_rate : float
        Hz.

    Notes
    -----
    *Controls*: ``cutoff_hz`` and ``q``, and ``gain_db`` where the kind has it, read at every sample.

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
        A kind that does not exist, no sample rate, a control out of its range, a gain for a kind that has none.

    References
    ----------
    V. Zavalishin (2012), "The art of VA filter design". A. Simper (2013), "Solving the continuous SVF equations using
    trapezoidal integration and equivalent currents". A. Wishnick (2014), "Time-varying filters for musical
    applications".
    """

    def __init__(
        self,
        kind: str = "lowpass",
        *,
        cutoff_hz: float = 1000.0,
        q: float = 0.7071,
        gain_db: float = 0.0,
        sample_rate: float | None,
    ) -> None:
        config = {"kind": kind, "cutoff_hz": cutoff_hz, "q": q}
        if kind in _WITH_GAIN or gain_db != 0:
            config["gain_db"] = gain_db
        super().__init__(config, {}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        kind, cutoff_hz, q = (self.config[name] for name in ("kind", "cutoff_hz", "q"))
        choice("kind", kind, _KINDS)
        if self.sample_rate is None:
            raise ParameterError("sample_rate=None: a cutoff in Hz needs one")
        self.controls = (
            Control("cutoff_hz", cutoff_hz, 1.0, 0.49 * self.sample_rate),
            Control("q", q, 0.1, 100.0),
        )
        if kind in _WITH_GAIN:
            self.controls += (Control("gain_db", self.config.get("gain_db", 0.0), -40.0, 40.0),)
        for control in self.controls:
            control.check(control.default)
        self.fields = (Field("s", (2,)),)

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

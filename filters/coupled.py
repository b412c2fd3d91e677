"""The coupled form: one resonance as a rotation that shrinks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._jit import kernel
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Control
from rnndsp.filters._modulated import Modulated
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State

__all__ = ["CoupledForm"]

# ln of 60 dB.
FADED = math.log(1000)


@kernel
def _forward(u: Any, y: Any, x: Any, rate: Any, taps: Any, tape: Any) -> None:
    taped = tape.shape[1] > 0
    for voice in range(u.shape[0]):
        x1, x2 = x[voice, 0], x[voice, 1]
        frequency = t60 = c = s = -1.0
        for t in range(u.shape[1]):
            if u[voice, t, 1] != frequency or u[voice, t, 2] != t60:  # most knobs rest most of the time
                frequency, t60 = np.float64(u[voice, t, 1]), np.float64(u[voice, t, 2])
                r, angle = math.exp(-FADED / (rate * t60)), 2 * math.pi * frequency / rate
                c, s = r * math.cos(angle), r * math.sin(angle)
            turned = c * x1 - s * x2
            x2 = flush(s * x1 + c * x2)
            x1 = flush(turned + np.float64(u[voice, t, 0]))
            if taped:
                tape[voice, t, 0], tape[voice, t, 1], tape[voice, t, 2] = x1, x2, turned
            y[voice, t, 0] = flush(taps[0] * x1 + taps[1] * x2)
        x[voice, 0], x[voice, 1] = x1, x2


@kernel
def _backward(dy: Any, u: Any, du: Any, dx: Any, rate: Any, taps: Any, tape: Any, dtaps: Any) -> None:
    for voice in range(dy.shape[0]):
        d1, d2 = dx[voice, 0], dx[voice, 1]
        for t in range(dy.shape[1] - 1, -1, -1):
            d = np.float64(dy[voice, t, 0])
            x1, x2, turned = tape[voice, t, 0], tape[voice, t, 1], tape[voice, t, 2]
            frequency, t60 = np.float64(u[voice, t, 1]), np.float64(u[voice, t, 2])
            r, angle = math.exp(-FADED / (rate * t60)), 2 * math.pi * frequency / rate
            c, s = r * math.cos(angle), r * math.sin(angle)
            dtaps[0] += x1 * d
            dtaps[1] += x2 * d
            d1, d2 = d1 + taps[0] * d, d2 + taps[1] * d
            du[voice, t, 0] = d1
            du[voice, t, 1] = (d2 * turned - d1 * x2) * 2 * math.pi / rate
            du[voice, t, 2] = (d1 * turned + d2 * x2) * FADED / (rate * t60 * t60)
            d1, d2 = c * d1 + s * d2, c * d2 - s * d1
        dx[voice, 0], dx[voice, 1] = d1, d2


class CoupledForm(Modulated):
    r"""Resonator in coupled (normal, Gold-Rader) form, its frequency and its decay to be modulated at will.

    .. math::
        x[t] = r \begin{bmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{bmatrix} x[t-1]
               + \begin{bmatrix} u[t] \\ 0 \end{bmatrix}, \qquad y[t] = v_1 x_1[t] + v_2 x_2[t],
        \qquad \theta = \frac{2\pi f}{f_s}, \quad r = 10^{-3 / (f_s T_{60})}

    An impulse rings as :math:`r^t (v_1 \cos\theta t + v_2 \sin\theta t)`: one mode of a struck object. At its frequency
    the gain is about \|v\| / (2 (1 - r)), which is large.

    Parameters
    ----------
    frequency_hz : float
        Default of the control ``frequency_hz``, within 0 and half the sample rate.
    t60_s : float
        Default of the control ``t60_s``, the time in which the ringing falls by 60 dB, within 0.1 ms and 100 s.
    taps : array, shape (2,)
        Amplitudes of the cosine and of the sine, v.
    sample_rate : float
        Hz.

    Notes
    -----
    *Controls*: ``frequency_hz`` and ``t60_s``, read at every sample. A change turns and shrinks the state otherwise
    from then on, and leaves it where it is: the amplitude neither jumps nor clicks.

    *Parameters*: ``taps``.

    *State*: ``x`` (x1, x2), zero at rest; float64 whatever the signal's dtype.

    *Stability*: bounded-input bounded-output and contracting for every course of the controls within their ranges,
    audio rate included. Proof: a rotation keeps \|x\|, so every sample shrinks \|x\|, and the distance of any two
    states, by the factor r, which is at most that of 100 s, below one by more than rounding. Hence \|y\| <= \|v\|
    max \|u\| / (1 - r_max).

    Poles r e^(±iθ) have the same precision all over the plane, where in direct form they crowd away from z = ±1.

    Raises
    ------
    ParameterError
        No sample rate, taps that are not two, a control out of its range.

    See Also
    --------
    Lattice : any order. StateVariable : second order with zeros, by cutoff and q.

    References
    ----------
    B. Gold, C. M. Rader (1967), "Effects of parameter quantization on the poles of a digital filter". J. Laroche
    (2007), "On the stability of time-varying recursive filters".

    Examples
    --------
    >>> CoupledForm(12000, t60_s=0.5, taps=[1, 0], sample_rate=48000)([1.0, 0.0, 0.0]).round(2)
    array([ 1.,  0., -1.])
    """

    def __init__(
        self,
        frequency_hz: float = 440.0,
        *,
        t60_s: float = 1.0,
        taps: ArrayLike = (0.0, 1.0),
        sample_rate: float | None,
    ) -> None:
        super().__init__({"frequency_hz": frequency_hz, "t60_s": t60_s}, {"taps": taps}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        frequency_hz, t60_s = self.config["frequency_hz"], self.config["t60_s"]
        if self.sample_rate is None:
            raise ParameterError("sample_rate=None: a frequency in Hz needs one")
        self.controls = (
            Control("frequency_hz", frequency_hz, 0.0, 0.5 * self.sample_rate),
            Control("t60_s", t60_s, 1e-4, 100.0),
        )
        for control in self.controls:
            control.check(control.default)
        self.fields = (Field("x", (2,)),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"taps": (2,)}

    @property
    def _taps(self) -> NDArray[np.float64]:
        taps: NDArray[np.float64] = self._derived("taps", partial(self._own["taps"].astype, np.float64, order="C"))
        return taps

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        _forward(u, y, state.rows, self.sample_rate, self._taps, np.empty((u.shape[0], 0, 3)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, tape = np.empty((*u.shape[:2], 1), u.dtype), np.empty((*u.shape[:2], 3))
        _forward(u, y, state.rows, self.sample_rate, self._taps, tape)
        return y, (u, tape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tape = memory
        du, dx64, dtaps = np.empty_like(u), dx.astype(np.float64), np.zeros(2)
        _backward(dy, u, du, dx64, self.sample_rate, self._taps, tape, dtaps)
        return du, dx64.astype(dx.dtype), {"taps": dtaps}

    # for every course of the controls: the proof is in the docstring

    def _boundedness(self) -> Boundedness:
        return Boundedness.BOUNDED

    def _contraction(self) -> str | None:
        return "a rotation that shrinks, whatever its controls do"

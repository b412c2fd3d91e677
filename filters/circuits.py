"""Circuits with diodes, simulated from their equations: honest pairs of dry and wet sound from any dry one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, reals, whole_number
from rnndsp._intervals import Interval
from rnndsp._jit import inline, kernel
from rnndsp._tangents import Jacobians
from rnndsp.activations import flush
from rnndsp.composition import Series
from rnndsp.errors import ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.filters.oversampling import Oversampled
from rnndsp.filters.sections import SOS
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, StateSpace, gain

__all__ = ["DiodeClipper", "overdrive"]

Real = NDArray[np.float64]

# Of a small silicon diode: ideality 1.752 times kT/q at 27 degrees Celsius.
THERMAL_V = 1.752 * 25.85e-3
# A step this small, in units of a diode's thermal voltage, leaves an error of less than half its cube: 2e-14 V.
LAST_STEP = 1e-4
# Steps at most. Diodes as they are sold take four, the worst of 100 000 parts drawn over dozens of decades took 35.
STEPS = 100
# What a gain in dB may be.
LOWEST_DB, HIGHEST_DB = -60.0, 80.0
# In volt: for louder inputs the bound of the output would overflow on the way, so it is infinite.
LOUDEST = 1e100
# The couplings of the overdrive have to be below half of the sample rate.
LOWEST_RATE = 1000.0


@inline
def _currents(v: Any, g: Any, b0: Any, a0: Any, b1: Any, a1: Any) -> Any:
    """The exponentials of both directions, and the slope by v of what :func:`_voltage` solves."""
    e0, e1 = b0 * math.exp(a0 * v), b1 * math.exp(-a1 * v)
    return e0, e1, 1 + g + a0 * e0 + a1 * e1


@inline
def _voltage(p: Any, g: Any, b0: Any, a0: Any, b1: Any, a1: Any) -> Any:
    """v of (1 + g) v + b0 (exp(a0 v) - 1) - b1 (exp(-a1 v) - 1) = p."""
    if p < 0:
        b0, a0, b1, a1 = b1, a1, b0, a0
    q = abs(p)
    # for positive v none of the three terms is negative, so each is q at most
    low, high = 0.0, q / (1 + g)
    if a0 * high > 1:
        high = min(high, math.log(1 + q / b0) / a0)
    v = high
    for _ in range(STEPS):
        e0, e1, slope = _currents(v, g, b0, a0, b1, a1)
        excess = (1 + g) * v + (e0 - b0) - (e1 - b1) - q
        if excess > 0:
            high = v
        else:
            low = v
        new = v - excess * slope / (slope * slope - 0.5 * excess * (a0 * a0 * e0 - a1 * a1 * e1))
        if not (low <= new <= high):
            new = 0.5 * (low + high)
        step, v = abs(new - v), new
        if step * max(a0, a1) <= LAST_STEP:
            break
    return math.copysign(v, p)


@kernel
def _forward(u: Any, y: Any, s: Any, gain_db: Any, g: Any, b: Any, a: Any, tape: Any) -> None:
    taped, turned = tape.shape[1] > 0, u.shape[2] > 1
    for voice in range(u.shape[0]):
        x, level, factor = s[voice, 0], gain_db, 10 ** (gain_db / 20)
        for t in range(u.shape[1]):
            if turned and u[voice, t, 1] != level:
                level = np.float64(u[voice, t, 1])
                factor = 10 ** (level / 20)
            v = _voltage(x + g * factor * u[voice, t, 0], g, b[0], a[0], b[1], a[1])
            x = flush(2 * v - x)
            y[voice, t, 0] = flush(v)
            if taped:
                tape[voice, t] = v
        s[voice, 0] = x


@kernel
def _backward(
    dy: Any, u: Any, du: Any, ds: Any, gain_db: Any, g: Any, b: Any, a: Any, tape: Any, dg: Any, db: Any, da: Any
) -> None:
    """``dg``, ``db`` and ``da`` become the derivatives by g and by the logarithms of b and a."""
    turned = u.shape[2] > 1
    for voice in range(dy.shape[0]):
        d = ds[voice, 0]
        for t in range(dy.shape[1] - 1, -1, -1):
            v, level = tape[voice, t], np.float64(u[voice, t, 1]) if turned else gain_db
            factor = 10 ** (level / 20)
            e0, e1, slope = _currents(v, g, b[0], a[0], b[1], a[1])
            volts = factor * u[voice, t, 0]
            dp = (dy[voice, t, 0] + 2 * d) / slope
            d = dp - d
            du[voice, t, 0] = g * factor * dp
            if turned:
                du[voice, t, 1] = g * volts * dp * (math.log(10) / 20)
            dg[0] += (volts - v) * dp
            db[0] -= (e0 - b[0]) * dp
            db[1] += (e1 - b[1]) * dp
            da[0] -= a[0] * v * e0 * dp
            da[1] -= a[1] * v * e1 * dp
        ds[voice, 0] = d


class DiodeClipper(Filter):
    r"""Diode clipper: a resistor into a capacitor, with diodes across it in both directions.

    .. math::
        C \dot v = \frac{x - v}{R} - i(v), \qquad
        i(v) = I_0 \left( e^{v / V_0} - 1 \right) - I_1 \left( e^{-v / V_1} - 1 \right), \qquad
        x = 10^{\mathrm{gain\_db} / 20} u, \qquad y = v

    by the trapezoidal rule: with T the time of a sample, :math:`g = T / 2 R C` and :math:`k = T / 2 C`, v solves

    .. math:: (1 + g)\,v + k\,i(v) = s + g\,x, \qquad s \leftarrow 2 v - s

    Parameters
    ----------
    resistance_ohm, capacitance_f : float
        R and C.
    saturation_a : float or (float, float)
        Saturation currents I0 and I1 of the diodes that conduct for positive and for negative v, in ampere. n diodes
        side by side have n times the current.
    thermal_v : float or (float, float)
        V0 and V1: their thermal voltages times their ideality, in volt. n diodes in a row have n times the voltage.
    gain_db : float
        In front: at 0 dB a sample of 1 is 1 V. Within -60 and 80.
    knob : str, optional
        Name of the control that turns ``gain_db``, read at every sample; None for a gain that is fixed.
    sample_rate : float
        Hz. Exponentials make harmonics without end, and what is above half of it folds back: see
        :class:`rnndsp.filters.Oversampled`.

    Notes
    -----
    *Parameters*: ``log_resistance`` and ``log_capacitance`` (1,), ``log_saturation`` and ``log_thermal`` (2,): natural
    logarithms of the components, which stay positive wherever a search moves them. The output knows of R, C and the
    currents only R C and R times the currents, so data do not tell all of them apart.

    *Controls*: the knob.

    *State*: ``s`` (), the voltage of the capacitor and half a sample's worth of its current, zero at rest; float64
    whatever the signal's dtype.

    *Method*: every sample is one equation in one unknown, whose left side rises with v. Halley's method (Newton's, with
    the curvature) starts from an upper bound of \|v\|, the less of what the linear part and what the diodes alone
    would allow, and falls onto the solution wherever the left side is convex, as it is for equal diodes. Near v = 0 of
    unequal ones it may not be: a step that leaves the bounds on either side of the solution is replaced by halving
    them.

    *Stability*: contracting, and bounded for bounded inputs, at every sample rate. Proof: F, the left side, has F' >=
    1 + g. Of two runs on the same input new Δs = (2 / F' - 1) Δs for an F' in between, a factor within -1 and
    \|1 - g\| / (1 + g), ends excluded while v is bounded; and it is: where \|x\| <= U, \|s\| <= max(1, g) U stays true,
    and a larger \|s\| does not grow. As at least 4 g (Δv)² of (Δs)² is lost at every sample, outputs come together on
    any input at all. From equal states they differ by at most max(1, 2 g / (1 + g)) times the largest difference of x,
    and as 2-norms over all time by no more than x does.

    Where diodes conduct well the factor comes near -1: after a jump of many volts the voltage rings about its new value
    at half the sample rate, the less the higher that is.

    Raises
    ------
    ParameterError
        Components that are not positive numbers, no sample rate, a gain out of its range.

    References
    ----------
    D. T. Yeh, J. S. Abel, J. O. Smith (2007), "Simplified, physically-informed models of distortion and overdrive
    guitar effects pedals". D. T. Yeh, J. S. Abel, A. Vladimirescu, J. O. Smith (2008), "Numerical methods for
    simulation of guitar distortion circuits". K. J. Werner et al. (2015), "An improved and generalized diode clipper
    model for wave digital filters". G. Dahlquist (1978), "G-stability is equivalent to A-stability".

    Examples
    --------
    >>> clipper = DiodeClipper(gain_db=20, sample_rate=48000)
    >>> float(clipper(np.ones(1000))[-1].round(4))
    0.6494
    """

    n_inputs = n_outputs = 1

    def __init__(
        self,
        *,
        resistance_ohm: float = 2200.0,
        capacitance_f: float = 10e-9,
        saturation_a: float | Sequence[float] = 2.52e-9,
        thermal_v: float | Sequence[float] = THERMAL_V,
        gain_db: float = 0.0,
        knob: str | None = "gain_db",
        sample_rate: float | None,
    ) -> None:
        params = {
            "log_resistance": _log("resistance_ohm", resistance_ohm, 1),
            "log_capacitance": _log("capacitance_f", capacitance_f, 1),
            "log_saturation": _log("saturation_a", saturation_a, 2),
            "log_thermal": _log("thermal_v", thermal_v, 2),
        }
        super().__init__({"gain_db": gain_db, "knob": knob}, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        if self.sample_rate is None:
            raise ParameterError("sample_rate=None: components in ohm and farad need one")
        self.gain_db, knob = number("gain_db", self.config["gain_db"]), self.config["knob"]
        control = Control("gain_db" if knob is None else knob, self.gain_db, LOWEST_DB, HIGHEST_DB)
        control.check(self.gain_db)
        self.controls = () if knob is None else (control,)
        self.fields = (Field("s", ()),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"log_resistance": (1,), "log_capacitance": (1,), "log_saturation": (2,), "log_thermal": (2,)}

    def _check(self) -> None:
        with np.errstate(all="ignore"):
            g, b, a = self._table
        if not (np.isfinite([g, *b, *a]).all() and min(g, *b, *a) > 0):
            raise ParameterError("components of these sizes give numbers beyond all bounds: are the units right?")

    def _components(self) -> tuple[Real, ...]:
        """R, C, both I and both V."""
        return tuple(np.exp(self._own[name].astype(np.float64)) for name in self._shapes())

    @property
    def _table(self) -> tuple[float, Real, Real]:
        """g, k I and 1 / V: what the kernels work with."""

        def make() -> tuple[float, Real, Real]:
            assert self.sample_rate is not None
            R, C, current, thermal = self._components()
            g = 1 / (2 * R * C * self.sample_rate)
            return float(g[0]), current / (2 * C * self.sample_rate), 1 / thermal

        table: tuple[float, Real, Real] = self._derived("table", make)
        return table

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        _forward(u, y, state.rows, self.gain_db, *self._table, np.empty((len(u), 0)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, tape = np.empty((*u.shape[:2], 1), u.dtype), np.empty(u.shape[:2])
        _forward(u, y, state.rows, self.gain_db, *self._table, tape)
        return y, (u, tape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        (u, tape), (g, b, a) = memory, self._table
        du, ds = np.empty_like(u), dx.astype(np.float64)
        dg, db, da = np.zeros(1), np.zeros(2), np.zeros(2)
        _backward(np.ascontiguousarray(dy), u, du, ds, self.gain_db, g, b, a, tape, dg, db, da)
        by_resistance = -g * dg
        params = {
            "log_resistance": by_resistance,
            "log_capacitance": by_resistance - db.sum(),
            "log_saturation": db,
            "log_thermal": -da,
        }
        return du, ds.astype(dx.dtype), params

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        A, B, C, D, *_ = self._jacobians(u[None], state.copy())
        return StateSpace(A[0], B[0], C[0], D[0], sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        y, (_, (v,)) = self._tape(u[None], state)
        g, b, a = self._table
        slope = (1 + g + b[0] * a[0] * np.exp(a[0] * v) + b[1] * a[1] * np.exp(-a[1] * v))[:, None, None]
        level = u[:, 1] if self.controls else np.full(len(u), self.gain_db)
        into = g * 10 ** (level[:, None, None] / 20)
        return Jacobians(2 / slope - 1, 2 * into / slope, 1 / slope, into / slope, np.ones(1, np.int64), y[0])

    # ---- stability: the proofs are in the docstring

    def _boundedness(self) -> Boundedness:
        return Boundedness.BOUNDED

    def _contraction(self) -> str | None:
        return "a passive circuit by the trapezoidal rule: at every sample differences of its state shrink"

    def _enclosure(self, place: Place) -> Enclosure:
        g, b, a = self._table
        factor = 10 ** (float(place.u.hi[1] if self.controls else self.gain_db) / 20)
        volts = factor * float(place.u.mag[0])
        start = abs(float(place.rest[1].vector[0])) if place.rest else 0.0
        reach = max(start, max(1.0, g) * volts) + g * volts
        ends = [_voltage(p, g, b[0], a[0], b[1], a[1]) if reach < LOUDEST else p * np.inf for p in (-reach, reach)]
        y = Interval(*(np.array([end]) for end in ends)) * (1 + 1e-9)
        why = self._contraction() or ""
        return Enclosure(y, why, np.array([[max(1.0, 2 * g / (1 + g)) * factor * (1 + 1e-9)]]), parts=((self, place),))


def _log(name: str, value: ArrayLike, n: int) -> Real:
    """Logarithms of n positive numbers, or of one that stands for all of them."""
    array = reals(name, value)
    if array.shape not in ((), (2,)[: n - 1]) or not np.all((array > 0) & (array < np.inf)):
        raise ParameterError(f"{name}={value!r} must be a positive number" + ", or two of them" * (n > 1))
    return np.log(np.broadcast_to(array, (n,)))


def overdrive(
    *,
    drive_db: float = 20.0,
    tone_hz: float = 4500.0,
    level_db: float = -6.0,
    oversampling: int = 8,
    sample_rate: float,
) -> Filter:
    """Overdrive of two stages, as in a pedal: equal diodes, then unequal ones.

    A highpass at 150 Hz, as bass would mask all else; the drive; two equal diodes; a highpass at 30 Hz; 12 dB; one
    diode against two in a row; a highpass at 20 Hz, as unequal diodes leave an offset; a lowpass for the tone; the
    level. Couplings and tone are of first order.

    Parameters
    ----------
    drive_db : float
        Gain in front of the first clipper, within -60 and 80; the control ``drive_db``.
    tone_hz : float
        -3 dB of the lowpass.
    level_db : float
        Gain behind, within -60 and 80. At -6 dB a guitar as loud as a recording can be comes out within ±0.7.
    oversampling : int
        How many times the rate the circuit runs at; 1 lets all harmonics fold back.
    sample_rate : float
        Hz.

    Returns
    -------
    Filter
        A composition: :class:`Oversampled` (but for ``oversampling=1``), then a gain.

    Raises
    ------
    ParameterError
        A drive, tone or level out of range.

    References
    ----------
    D. T. Yeh, J. S. Abel, J. O. Smith (2007), "Simplified, physically-informed models of distortion and overdrive
    guitar effects pedals".
    """
    from scipy import signal

    if number("sample_rate", sample_rate) < LOWEST_RATE:
        raise ParameterError(f"{sample_rate=} must be at least {LOWEST_RATE:g} Hz")
    if not 0 < number("tone_hz", tone_hz) < sample_rate / 2:
        raise ParameterError(f"{tone_hz=} must lie between 0 and half the sample rate, {sample_rate / 2:g} Hz")
    if not LOWEST_DB <= number("level_db", level_db) <= HIGHEST_DB:
        raise ParameterError(f"{level_db=} must lie within {LOWEST_DB:g} and {HIGHEST_DB:g}")
    level = gain(10 ** (level_db / 20), sample_rate=sample_rate)
    rate = sample_rate * whole_number("oversampling", oversampling)

    def first_order(kind: Literal["highpass", "lowpass"], cutoff_hz: float) -> SOS:
        return SOS(signal.butter(1, cutoff_hz, kind, output="sos", fs=rate), sample_rate=rate)

    circuit = Series(
        first_order("highpass", 150.0),
        DiodeClipper(gain_db=drive_db, knob="drive_db", sample_rate=rate),
        first_order("highpass", 30.0),
        DiodeClipper(thermal_v=(2 * THERMAL_V, THERMAL_V), gain_db=12.0, knob=None, sample_rate=rate),
        first_order("highpass", 20.0),
        first_order("lowpass", tone_hz),
    )
    return (circuit if oversampling == 1 else Oversampled(circuit, oversampling)) >> level

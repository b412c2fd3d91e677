"""Cascades of direct form II transposed sections: what scipy designs, as running filters."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial, reduce
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import _conversions
from rnndsp._checks import whole_number
from rnndsp._conversions import ACCURACY, ZPK
from rnndsp._jit import inline, kernel
from rnndsp._vectors import aligned, flushed, fma, lanes, load, load_each, store
from rnndsp.activations import TINY, flush
from rnndsp.filter import Filter
from rnndsp.state import Field, State
from rnndsp.statespace import FAINTEST, DelayStateSpace, StateSpace, series

__all__ = ["SOS", "TransferFunction"]

# Frames that are brought into the lanes at a time, and that go through a section before the next one has its turn: few,
# as the processor looks so far ahead and works on several sections at once, each of which has to wait for itself.
CHUNK, RUN = 64, 8
# A longer section keeps the lanes busy with its own states, where there are few voices.
LONG = 32


@inline
def _moved(z: Any, b: Any, v: Any, a: Any, w: Any) -> Any:
    """What moves into a state: ``z`` is the state behind it, and w is known last."""
    return fma(-a, w, fma(b, v, z))


@inline
def _through(
    table: Any, c: Any, work: Any, x: Any, start: Any, step: Any, n_frames: Any, order: Any, known: Any, lanes: Any
) -> None:
    """Frames of ``work`` from ``start`` on through the section with coefficients at ``c`` and states at ``x``.

    The first two states stay in registers.
    """
    one, two = (None,), (None, None)
    wide, a = len(lanes), c + max(order, 2) + 1
    b0 = load(table, c, one, lanes)
    b1, b2 = load_each(table, c + 1, 1, one, lanes, two)
    a1, a2 = load_each(table, a, 1, one, lanes, two)
    z0, z1 = load_each(work, x, wide, lanes, lanes, two)
    for at in range(start, start + n_frames * wide, wide):
        v = load(work, at, lanes, lanes)
        w = fma(b0, v, z0)
        if len(known) > 0:
            z0 = _moved(z1, b1, v, a1, w)
        if len(known) > 1:
            z1 = _moved(load(work, x + 2 * wide, lanes, lanes), b2, v, a2, w)
        if len(known) > 2:
            for k in range(2, order):
                behind = load(work, x + (k + 1) * wide, lanes, lanes)
                bk, ak = load(table, c + k + 1, one, lanes), load(table, a + k, one, lanes)
                store(work, x + k * wide, _moved(behind, bk, v, ak, w), lanes)
        store(work, at + step, w, lanes)
    store(work, x, z0, lanes)
    store(work, x + wide, z1, lanes)


@kernel
def _forward(
    u: Any, y: Any, z: Any, index: Any, table: Any, tiny: Any, work: Any, taped: Any, known: Any, lanes: Any
) -> None:
    """Lanes are voices. ``known`` has as many entries as a section has states, three if there are more than two.

    ``table`` has a row b0, b1, ..., a1, ... for every section, with at least two states, zeros if need be. States below
    ``tiny`` become zero. ``work`` holds the states, those of each section and the zero that moves into the last one;
    then what goes through the cascade, from the input to the output: a chunk of it, in place, or (one lane only) the
    tape, voice after voice, with a row of all frames for the input of every section and one for the output.
    """
    one = (None,)
    n_voices, n_frames, wide = u.shape[0], u.shape[1], len(lanes)
    n_sections, width = table.shape
    order = z.shape[1] // n_sections
    own = width // 2 + 1
    step = n_frames if taped else 0
    for first in range(0, n_voices, wide):
        n_taken = min(wide, n_voices - first)
        if n_taken < wide:
            work[:] = 0  # what is left in the other lanes might decay into subnormals
        for voice in range(n_taken):
            for s in range(n_sections):
                for k in range(order):
                    work[(s * own + k) * wide + voice] = z[first + voice, s * order + k]
        for begin in range(-((index - 1) % CHUNK), n_frames, CHUNK):
            head, stop = max(begin, 0), min(begin + CHUNK, n_frames)
            # where frame 0 is, or would be
            enter = (n_sections * own + (first * (n_sections + 1) * n_frames if taped else -head)) * wide
            leave = enter + n_sections * step
            for voice in range(n_taken):
                for t in range(head, stop):
                    store(work, enter + t * wide + voice, load(u, (first + voice) * n_frames + t, one, one), one)
            for run in range(head - (head - begin) % RUN, stop, RUN):
                t, end = max(run, head), min(run + RUN, stop)
                for s in range(n_sections):
                    x, at = s * own * wide, enter + s * step + t * wide
                    _through(table, s * width, work, x, at, step, end - t, order, known, lanes)
                # at every sample this would lengthen the recursion by a third; 16 samples are too few to turn subnormal
                if (index + end - 1) % 16 == 0:
                    for x in range(0, n_sections * own * wide, wide):
                        store(work, x, flushed(load(work, x, lanes, lanes), tiny), lanes)
            for voice in range(n_taken):
                for t in range(head, stop):
                    store(y, (first + voice) * n_frames + t, flush(load(work, leave + t * wide + voice, one, one)), one)
        for voice in range(n_taken):
            for s in range(n_sections):
                for k in range(order):
                    z[first + voice, s * order + k] = work[(s * own + k) * wide + voice]


@kernel
def _backward(dy: Any, du: Any, dz: Any, b: Any, a: Any, tape: Any, db: Any, da: Any) -> None:
    """The adjoint has direct form: ``p[s, k]`` is the derivative by the output of section s, k samples on."""
    n_sections, order = a.shape
    p = np.zeros((n_sections, order + 1))
    for voice in range(dy.shape[0]):
        p[:, 1:] = dz[voice]
        for t in range(dy.shape[1] - 1, -1, -1):
            d: Any = np.float64(dy[voice, t, 0])
            for s in range(n_sections - 1, -1, -1):
                v, w = tape[voice, s, t], tape[voice, s + 1, t]
                for k in range(order):
                    d -= a[s, k] * p[s, k + 1]
                    da[s, k] -= p[s, k + 1] * w
                p[s, 0] = d
                d = 0.0
                for k in range(order + 1):
                    d += b[s, k] * p[s, k]
                    db[s, k] += p[s, k] * v
                for k in range(order, 0, -1):
                    p[s, k] = p[s, k - 1]
            du[voice, t, 0] = d
        dz[voice] = p[:, 1:]


class _Cascade(Filter):
    """Sections of equal order in series, each in direct form II transposed."""

    is_linear = True
    n_inputs = n_outputs = 1

    def _set_size(self, n_sections: int, order: int) -> None:
        self._no_children()
        self.n_sections = whole_number("n_sections", n_sections)
        self.order = whole_number("order", order, least=0)
        self.fields = (Field("z", (self.n_sections, self.order)),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"b": (self.n_sections, self.order + 1), "a": (self.n_sections, self.order)}

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _coefficients(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        def make() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            return self._own["b"].astype(np.float64, order="C"), self._own["a"].astype(np.float64, order="C")

        coefficients: tuple[NDArray[np.float64], NDArray[np.float64]] = self._derived("coefficients", make)
        return coefficients

    def _ready(self) -> tuple[Any, ...]:
        """For the forward kernel: its table, ``tiny``, ``known``, how few voices go one by one, and lanes for both.

        Lanes come with what makes the array to work in.
        """
        b, a = (np.pad(c, ((0, 0), (0, max(2 - self.order, 0)))) for c in self._coefficients())
        counts = 1, lanes(np.dtype(np.float64))
        few = counts[1] // 2 if self.order > LONG else 1
        across = (((None,) * n, partial(self._work, n, CHUNK * n)) for n in counts)
        # scipy puts all of the gain into the first section, where a low cutoff of order 24 has signals of 1e-60
        level = np.min(np.cumprod(np.max(np.abs(b), axis=1)))
        tiny = TINY["float64"] * float(np.clip(level, FAINTEST, 1))
        return np.hstack([b, a]), tiny, (None,) * min(self.order, 3), few, *across

    def _work(self, n_lanes: int, size: int) -> NDArray[np.float64]:
        """The states, and room for ``size`` numbers."""
        return aligned((self.n_sections * (max(self.order, 2) + 1) * n_lanes + size,), np.float64)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        table, tiny, known, few, one, wide = self._derived("ready", self._ready)
        across, make = wide if u.shape[0] > few else one
        _forward(u, y, state.rows, state.index, table, tiny, state.workspace(across, make), False, known, across)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        table, tiny, known, *_ = self._derived("ready", self._ready)
        shape = (u.shape[0], self.n_sections + 1, u.shape[1])
        y, work = np.empty((*u.shape[:2], 1), u.dtype), self._work(1, math.prod(shape))
        _forward(u, y, state.rows, state.index, table, tiny, work, True, known, (None,))
        return y, work[work.size - math.prod(shape) :].reshape(shape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        b, a = self._coefficients()
        du, db, da = np.empty(dy.shape, dy.dtype), np.zeros_like(b), np.zeros_like(a)
        dz = dx.astype(np.float64).reshape(len(dx), *a.shape)
        _backward(dy, du, dz, b, a, memory, db, da)
        return du, dz.reshape(dx.shape).astype(dx.dtype), {"b": db, "a": da}

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        def section(b: NDArray[Any], a: NDArray[Any]) -> DelayStateSpace:
            return StateSpace(*_conversions.section(b, a), sample_rate=self.sample_rate)

        return reduce(series, map(section, *self._coefficients()))

    def to_ba(self, *, tolerance: float = ACCURACY) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerator and denominator in rising powers of 1/z, scipy's ``(b, a)``.

        Parameters
        ----------
        tolerance : float
            By how much of itself rounding the coefficients may change the frequency response; a sharp filter of high
            order loses all of it.

        Raises
        ------
        ParameterError
            It would change by more; the message says by how much.
        """
        return _conversions.sos_to_ba(self.to_sos(), tolerance)

    @abstractmethod
    def to_sos(self) -> NDArray[np.float64]:
        """Scipy's table of second-order sections."""


class SOS(_Cascade):
    r"""Second-order sections in series, each in direct form II transposed.

    .. math::
        w[t] = b_0 v[t] + z_0[t], \qquad z_0[t+1] = b_1 v[t] - a_1 w[t] + z_1[t], \qquad z_1[t+1] = b_2 v[t] - a_2 w[t]

    The first section's v is the input, every other one's the w before it, and the last w is the output.

    Parameters
    ----------
    sos : array, shape (n_sections, 6)
        Rows b0, b1, b2, a0, a1, a2, as the designs of scipy.signal give with ``output="sos"``; divided by a0.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``b`` (n_sections, 3) and ``a`` (n_sections, 2), a1 and a2; a0 = 1 is left out.

    *State*: ``z`` (n_sections, 2), zero at rest: scipy's ``zi`` and ``zf``. State and coefficients are float64 whatever
    the signal's dtype, as float32 coefficients move poles near z = 1.

    *Stability*: the state decays if and only if \|a2\| < 1 and \|a1\| < 1 + a2 in every section, for constant
    coefficients. Under the same condition the output is bounded for bounded input, and under no other unless a zero of
    the cascade cancels an outer pole. Coefficients that change while it runs may make it grow without bound although
    every setting is stable: two resonances of radius 0.99, at 0.05 and 3 rad, in turn at every sample grow by 2.38 a
    sample. To modulate take :class:`StateVariable`, :class:`CoupledForm` or :class:`Lattice`, which stay bounded.

    Raises
    ------
    ParameterError
        A shape that is not (n_sections, 6), or a0 = 0.

    See Also
    --------
    StateVariable, CoupledForm, Lattice : safe to modulate.

    References
    ----------
    L. B. Jackson (1970), "Roundoff-noise analysis for fixed-point digital filters realized in cascade or parallel
    form".

    Examples
    --------
    >>> from scipy.signal import butter
    >>> lowpass = SOS(butter(4, 1000, fs=48000, output="sos"), sample_rate=48000)
    >>> round(lowpass.spectral_radius(), 4)
    0.9512
    """

    def __init__(self, sos: ArrayLike, *, sample_rate: float | None = None) -> None:
        table = _conversions.sections(sos)
        params = {"b": table[:, :3], "a": table[:, 4:]}
        super().__init__({"n_sections": len(table)}, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._set_size(self.config["n_sections"], 2)

    @classmethod
    def from_zpk(cls, z: ArrayLike, p: ArrayLike, k: float, *, sample_rate: float | None = None) -> Self:
        """From zeros, poles and gain, paired by scipy's ``zpk2sos``.

        Parameters
        ----------
        z, p : array of complex numbers
            At most as many zeros as poles; what they are fewer is latency.
        k : float
            Spread over the sections by powers of two, so that none works at a level of 1e-60 or 1e60.
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            More zeros than poles, or complex ones without their conjugates.
        """
        return cls(_conversions.zpk_to_sos(z, p, k), sample_rate=sample_rate)

    @classmethod
    def from_ba(
        cls, b: ArrayLike, a: ArrayLike, *, tolerance: float = ACCURACY, sample_rate: float | None = None
    ) -> Self:
        """From numerator and denominator, as :class:`TransferFunction` has them, by their roots.

        Parameters
        ----------
        b, a : array, one-dimensional
        tolerance : float
            As in :meth:`TransferFunction.to_zpk`.
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            Coefficients that have lost too many digits.
        """
        return cls(TransferFunction(b, a).to_sos(tolerance=tolerance), sample_rate=sample_rate)

    @property
    def sos(self) -> NDArray[np.float64]:
        """The sections as scipy's array of shape (n_sections, 6)."""
        b, a = self._coefficients()
        return np.hstack([b, np.ones((self.n_sections, 1)), a])

    def to_sos(self) -> NDArray[np.float64]:
        """The same as :attr:`sos`."""
        return self.sos

    def to_zpk(self) -> ZPK:
        """Zeros, poles and gain, scipy's ``(z, p, k)``; those at 0 that only fill up a section left out."""
        return _conversions.rows_to_zpk((row[:3], row[3:]) for row in self.sos)


class TransferFunction(_Cascade):
    r"""Rational transfer function in direct form II transposed, scipy's ``lfilter``.

    .. math:: H(z) = \frac{b_0 + b_1 z^{-1} + \dots + b_K z^{-K}}{1 + a_1 z^{-1} + \dots + a_K z^{-K}}

    .. math:: y[t] = b_0 u[t] + z_0[t], \qquad z_k[t+1] = b_{k+1} u[t] - a_{k+1} y[t] + z_{k+1}[t], \qquad z_K = 0

    Parameters
    ----------
    b, a : array, one-dimensional
        Numerator and denominator in rising powers of 1/z; both are divided by a[0], the shorter one is filled up with
        zeros. ``a=[1]`` makes an FIR filter.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``b`` (1, K+1) and ``a`` (1, K), a1 to aK; a0 = 1 is left out. K = max(len(b), len(a)) - 1.

    *State*: ``z`` (1, K), zero at rest: scipy's ``zi`` and ``zf``. State and coefficients are float64 whatever the
    signal's dtype.

    *Stability*: the state decays if and only if all roots of z^K + a1 z^(K-1) + ... + aK lie within the unit circle.
    Then the output is bounded for bounded input, and else only if a zero cancels every outer root. K roots that lie
    together move by the K-th root of a rounding error: above order 6 or so, for a low cutoff sooner, design an
    :class:`SOS` instead, since :meth:`to_sos` cannot bring back what the coefficients have lost. Coefficients that
    change while it runs may make it grow, as those of :class:`SOS`.

    Raises
    ------
    ParameterError
        Coefficients that are not one-dimensional or missing, or a[0] = 0.

    References
    ----------
    A. V. Oppenheim, R. W. Schafer (1975), "Digital signal processing".

    Examples
    --------
    >>> TransferFunction([0.5], [1, -0.5])([1.0, 0.0, 0.0])
    array([0.5  , 0.25 , 0.125])
    """

    def __init__(self, b: ArrayLike, a: ArrayLike, *, sample_rate: float | None = None) -> None:
        numerator, denominator = _conversions.polynomials(b, a)
        params = {"b": numerator[None], "a": denominator[None, 1:]}
        super().__init__({"order": numerator.size - 1}, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._set_size(1, self.config["order"])

    @classmethod
    def from_zpk(
        cls, z: ArrayLike, p: ArrayLike, k: float, *, tolerance: float = ACCURACY, sample_rate: float | None = None
    ) -> Self:
        """From zeros, poles and gain, where polynomials can hold them.

        Parameters
        ----------
        z, p : array of complex numbers
            At most as many zeros as poles; what they are fewer is latency.
        k : float
        tolerance : float
            As in :meth:`to_ba`.
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            As in :meth:`SOS.from_zpk`, or too many digits would be lost.
        """
        return cls.from_sos(_conversions.zpk_to_sos(z, p, k), tolerance=tolerance, sample_rate=sample_rate)

    @classmethod
    def from_sos(cls, sos: ArrayLike, *, tolerance: float = ACCURACY, sample_rate: float | None = None) -> Self:
        """From second-order sections, where polynomials can hold them.

        Parameters
        ----------
        sos : array, shape (n_sections, 6)
        tolerance : float
            As in :meth:`to_ba`.
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            As in :class:`SOS`, or too many digits would be lost.
        """
        return cls(*SOS(sos).to_ba(tolerance=tolerance), sample_rate=sample_rate)

    def to_ba(self, *, tolerance: float = ACCURACY) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Its own coefficients, scipy's ``(b, a)``: nothing is lost, whatever the tolerance."""
        (b,), (a,) = self._coefficients()
        return b, np.concatenate([[1.0], a])

    def to_zpk(self, *, tolerance: float = ACCURACY) -> ZPK:
        """Zeros, poles and gain, scipy's ``(z, p, k)``.

        Parameters
        ----------
        tolerance : float
            By how much of itself rounding the coefficients, in the last digit, may have changed the frequency response.

        Raises
        ------
        ParameterError
            It may have changed by more, or the order is above 1000.
        """
        return _conversions.ba_to_zpk(*self.to_ba(), tolerance)

    def to_sos(self, *, tolerance: float = ACCURACY) -> NDArray[np.float64]:
        """Scipy's table of second-order sections, by :meth:`to_zpk`; the state of :class:`SOS` has another layout.

        Parameters
        ----------
        tolerance : float
            As in :meth:`to_zpk`.

        Raises
        ------
        ParameterError
            As in :meth:`to_zpk`.
        """
        return _conversions.zpk_to_sos(*self.to_zpk(tolerance=tolerance))

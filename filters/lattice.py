"""The normalised lattice, whose reflection coefficients can be played, and the recursion that finds them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, real_array, reals, whole_number
from rnndsp._conversions import points
from rnndsp._jit import kernel
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.filters._modulated import Modulated
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State

__all__ = ["Lattice", "reflections", "step_down", "step_up"]

# What a lattice must lose of its energy in as many samples as it has stages, for a proof that survives rounding.
LEAST_LOSS = 1e-12
# By how much of its distance to the unit circle a pole may miss where it was asked for.
POLE_ERROR = 0.01

Real = NDArray[np.float64]


def step_down(a: ArrayLike) -> Real:
    r"""Reflection coefficients of a polynomial, by the Levinson recursion run backwards.

    .. math:: k_i = a^{(i)}_i, \qquad a^{(i-1)}_j = \frac{a^{(i)}_j - k_i\,a^{(i)}_{i-j}}{1 - k_i^2}

    Parameters
    ----------
    a : array, shape (n + 1,)
        Rising powers of 1/z, divided by a[0].

    Returns
    -------
    ndarray, shape (n,)
        k1 to kn, all within (-1, 1), which is so if and only if all roots lie within the unit circle.

    Raises
    ------
    ParameterError
        A root on or outside the unit circle, or so near to it that rounding puts it there; NaN, infinity, a[0] = 0.
    """
    rest = real_array("a", a)
    if rest.ndim != 1 or not rest.size or not np.isfinite(rest).all() or not rest[0]:
        raise ParameterError(f"a={a!r} must be finite real coefficients with a[0] other than zero")
    k: Real = -reflections(-rest[1:] / np.float64(rest[0]))
    outside = np.flatnonzero(~(np.abs(k) < 1))
    if outside.size:
        i = outside[-1]
        raise ParameterError(
            f"a has a root on or outside the unit circle, or lost to rounding: k{i + 1} = {k[i]:.9g} must lie "
            "within (-1, 1)"
        )
    return k


@kernel
def reflections(a: Any) -> Any:
    """The partial autocorrelations behind the coefficients of an autoregression; not finite where one reaches 1."""
    k = a.copy()
    for m in range(a.size - 1, 0, -1):
        scale = (1 - k[m]) * (1 + k[m])
        for j in range((m + 1) // 2):
            front, back = k[j], k[m - 1 - j]
            k[j] = (front + k[m] * back) / scale
            k[m - 1 - j] = (back + k[m] * front) / scale
    return k


def step_up(k: ArrayLike) -> list[Real]:
    """The polynomials of orders 0 to n that n reflection coefficients stand for: :func:`step_down` undone.

    Parameters
    ----------
    k : array, shape (n,)

    Returns
    -------
    list of n + 1 ndarrays
        The i-th of shape (i + 1,), rising powers of 1/z, its first coefficient 1; its last one is k_i.
    """
    coefficients, polynomials = reals("k", k), [np.ones(1)]
    if coefficients.ndim != 1:
        raise ParameterError(f"k has shape {coefficients.shape}, must be one-dimensional")
    for each in coefficients:
        a = np.append(polynomials[-1], 0.0)
        polynomials.append(a + each * a[::-1])
    return polynomials


@kernel
def _forward(u: Any, y: Any, z: Any, table: Any, taps: Any, tape: Any) -> None:
    """``table`` holds k and sqrt(1 - k²), which follow the controls where there are any."""
    n = z.shape[1]
    taped = tape.shape[1] > 0
    for voice in range(u.shape[0]):
        for t in range(u.shape[1]):
            for i in range(u.shape[2] - 1):
                k = np.float64(u[voice, t, 1 + i])
                if k != table[0, i]:
                    table[0, i], table[1, i] = k, math.sqrt((1 - k) * (1 + k))
            f, total = np.float64(u[voice, t, 0]), 0.0
            if taped:
                tape[voice, t, 0, n] = f
            for i in range(n - 1, -1, -1):
                k, c, d = table[0, i], table[1, i], z[voice, i]
                g = k * f + c * d
                f = c * f - k * d
                total += taps[i + 1] * g
                if i + 1 < n:
                    z[voice, i + 1] = flush(g)
                if taped:
                    tape[voice, t, 0, i], tape[voice, t, 1, i + 1] = f, g
            z[voice, 0] = flush(f)
            if taped:
                tape[voice, t, 1, 0] = f
            y[voice, t, 0] = flush(total + taps[0] * f)


@kernel
def _backward(dy: Any, u: Any, du: Any, dz: Any, table: Any, taps: Any, tape: Any, dk: Any, dtaps: Any) -> None:
    """Rotations turned back; by the angle of one the derivative is p dq - q dp, p and q being what leaves it."""
    n = dz.shape[1]
    moving = u.shape[2] > 1
    for voice in range(dy.shape[0]):
        for t in range(dy.shape[1] - 1, -1, -1):
            d = np.float64(dy[voice, t, 0])
            dp = dz[voice, 0] + taps[0] * d
            dtaps[0] += tape[voice, t, 1, 0] * d
            for i in range(n):
                k, c = table[0, i], table[1, i]
                if moving:
                    k = np.float64(u[voice, t, 1 + i])
                    c = math.sqrt((1 - k) * (1 + k))
                p, q = tape[voice, t, 0, i], tape[voice, t, 1, i + 1]
                dq = taps[i + 1] * d
                if i + 1 < n:
                    dq += dz[voice, i + 1]
                dtaps[i + 1] += q * d
                turned = (p * dq - q * dp) / c
                if moving:
                    du[voice, t, 1 + i] = turned
                else:
                    dk[i] += turned
                dz[voice, i] = c * dq - k * dp
                dp = c * dp + k * dq
            du[voice, t, 0] = dp


class Lattice(Modulated):
    r"""Normalised lattice and ladder: a chain of rotations, to be modulated at will.

    .. math::
        \begin{bmatrix} f_{i-1}[t] \\ g_i[t] \end{bmatrix} =
        \begin{bmatrix} c_i & -k_i \\ k_i & c_i \end{bmatrix}
        \begin{bmatrix} f_i[t] \\ g_{i-1}[t-1] \end{bmatrix}, \quad c_i = \sqrt{1 - k_i^2}, \quad i = n, \dots, 1

    .. math:: f_n = u, \qquad g_0 = f_0, \qquad y = \sum_{i=0}^{n} v_i\,g_i

    The poles are the roots of the polynomial that :func:`step_up` makes of k. Any numerator of order n has its taps v:
    1/prod(c) at g_0 alone gives 1/A(z), one at g_n the allpass.

    Parameters
    ----------
    k : array, shape (n,)
        Reflection coefficients k1 to kn, within (-1, 1).
    taps : array, shape (n + 1,), optional
        v; when absent, those of 1/A(z) at these k.
    modulated : bool
        Make controls of the reflection coefficients, ``k`` being their defaults. The taps stay: with moving k the gain
        of a filter that was 1/A(z) moves as prod(c).
    k_max : float
        Range of the controls, -k_max to k_max.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Controls*: ``k1`` to ``kn`` where ``modulated``, read at every sample.

    *Parameters*: ``taps``, and ``k`` where it is no control.

    *State*: ``z`` (n), g_0 to g_{n-1} one sample ago, zero at rest; float64 whatever the signal's dtype.

    *Energy*: every stage is a rotation, so for every course of the controls, exact arithmetic assumed, ``g_n² + change
    of |z|² = u²``: no modulation makes sound out of nothing, and the allpass stays allpass in the sense of energy.

    *Stability*: with k at rest all poles lie within the unit circle. With k moving within \|k\| <= k_max < 1,
    bounded-input bounded-output and contracting for every course, audio rate included. Proof: without input, n samples
    in a row lose the energy e of the g_n that comes out. A stage whose f_i and g_i have the energy e over some samples
    has at most h e, h = (1 + k_max) / (1 - k_max), at its other side, which is that stage's equation solved for f_{i-1}
    and g_{i-1}. So each g_i one sample ago, down to the first, had at most h^n e, and all of them n h^n e: a share of
    at least 1 / (n h^n) is lost. Rounding may undo a share below 1e-12, so for lattices of more stages, or of a
    larger k_max, this filter claims no proof (n = 2 at 0.9999, 4 at 0.99, 8 at 0.9 are within it). Without the limit
    k_max energy is still safe, but a lattice that shuts, k nearing one, may keep it for ever.

    In float32 signals the controls have float32's precision, too coarse for k within 1e-5 of one: low resonances want
    float64.

    Raises
    ------
    ParameterError
        A reflection coefficient of magnitude one or more, or beyond k_max; taps that are not one more than k.

    See Also
    --------
    CoupledForm : one resonance. StateVariable : second order, by cutoff and q.

    References
    ----------
    A. H. Gray, J. D. Markel (1975), "A normalized digital filter structure". A. H. Gray (1980), "Passive cascaded
    lattice digital filters".

    Examples
    --------
    >>> resonance = Lattice.from_poles([0.9 + 0.3j, 0.9 - 0.3j])
    >>> resonance.params["k"].round(4)
    array([-0.9474,  0.9   ])
    """

    def __init__(
        self,
        k: ArrayLike,
        taps: ArrayLike | None = None,
        *,
        modulated: bool = False,
        k_max: float = 0.9999,
        sample_rate: float | None = None,
    ) -> None:
        coefficients = real_array("k", k)
        if coefficients.ndim != 1 or not coefficients.size:
            raise ParameterError(f"k={k!r} must be one-dimensional real reflection coefficients, at least one")
        _require_inside(coefficients)
        if not isinstance(modulated, bool):
            raise ParameterError(f"{modulated=} must be True or False")
        if taps is None:
            taps = np.eye(1, coefficients.size + 1)[0] / _cosines(coefficients.astype(np.float64)).prod()
        config: dict[str, Any] = {"order": coefficients.size}
        params = {"taps": real_array("taps", taps)}
        if modulated:
            config |= {"k": tuple(coefficients.tolist()), "k_max": k_max}
        else:
            params["k"] = coefficients
        super().__init__(config, params, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self.order = whole_number("order", self.config["order"])
        if "k" in self.config:
            k, self.k_max = self.config["k"], number("k_max", self.config["k_max"])
            if not 0 < self.k_max < np.float32(1 - 2.0**-24):
                raise ParameterError(f"k_max={self.k_max!r} must lie within 0 and 1, by more than float32 can tell")
            if not isinstance(k, tuple) or len(k) != self.order:
                raise ParameterError(f"{k=} must be a tuple of {self.order} reflection coefficients")
            self.controls = tuple(
                Control(f"k{i}", value, -self.k_max, self.k_max) for i, value in enumerate(k, start=1)
            )
            for control in self.controls:
                control.check(control.default)
        self.fields = (Field("z", (self.order,)),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"taps": (self.order + 1,)}
        return shapes if self.controls else {**shapes, "k": (self.order,)}

    def _check(self) -> None:
        if not self.controls:
            _require_inside(self._own["k"])

    @classmethod
    def from_ba(
        cls,
        b: ArrayLike,
        a: ArrayLike,
        *,
        modulated: bool = False,
        k_max: float = 0.9999,
        sample_rate: float | None = None,
    ) -> Self:
        """The lattice with the transfer function b/a, coefficients in rising powers of 1/z.

        Raises
        ------
        ParameterError
            A root of a that is not within the unit circle, a numerator longer than the denominator.
        """
        k, rest = step_down(a), reals("b", b)
        if rest.ndim != 1 or not 1 <= rest.size <= k.size + 1:
            raise ParameterError(f"b has shape {rest.shape}, must be 1 to {k.size + 1} real coefficients: fill a up")
        rest = np.pad(rest / np.float64(np.asarray(a)[0]), (0, k.size + 1 - rest.size))
        taps, gains = np.empty(k.size + 1), _gains(k)
        for i, polynomial in reversed(list(enumerate(step_up(k)))):
            taps[i] = rest[i] / gains[i]
            rest = (rest - rest[i] * polynomial[::-1])[:-1]
        return cls(k, taps, modulated=modulated, k_max=k_max, sample_rate=sample_rate)

    @classmethod
    def from_poles(
        cls, poles: ArrayLike, *, modulated: bool = False, k_max: float = 0.9999, sample_rate: float | None = None
    ) -> Self:
        """The lattice 1/A(z) with these poles, complex ones in conjugate pairs.

        Raises
        ------
        ParameterError
            A pole on or outside the unit circle, or without its conjugate; poles so close together that by way of a
            polynomial one would miss its place by more than 1 % of its distance to the unit circle.
        """
        p = points("poles", poles)
        if not p.size:
            raise ParameterError("no poles: a lattice has at least one")
        if np.abs(p).max() >= 1:
            raise ParameterError(f"a pole at radius {np.abs(p).max():.9g}: all must lie within the unit circle")
        a = np.poly(p)
        if np.iscomplexobj(a):
            raise ParameterError(f"poles={poles!r}: complex poles come in conjugate pairs")
        lost = f"{p.size} poles so close together are lost in a polynomial: "
        remedy = "put lattices of fewer poles in series"
        try:
            k = step_down(a)
        except ParameterError as error:
            raise ParameterError(f"{lost}{error}; {remedy}") from None
        filt = cls(k, modulated=modulated, k_max=k_max, sample_rate=sample_rate)
        found = np.linalg.eigvals(filt.linearize().A)
        missed = np.min(np.abs(p[:, None] - found), axis=1) / (1 - np.abs(p))
        if missed.max() > POLE_ERROR:
            raise ParameterError(
                f"{lost}one misses its place by {100 * missed.max():.3g} % of its distance to the unit circle; {remedy}"
            )
        return filt

    @classmethod
    def allpass(
        cls, k: ArrayLike, *, modulated: bool = False, k_max: float = 0.9999, sample_rate: float | None = None
    ) -> Self:
        """The allpass with the poles of k: what goes into the lattice and leaves it at its far end, g_n."""
        n = np.size(k)
        return cls(k, np.eye(1, n + 1, n)[0], modulated=modulated, k_max=k_max, sample_rate=sample_rate)

    @property
    def k(self) -> Real:
        """The reflection coefficients, the defaults where they are controls."""
        return np.array([c.default for c in self.controls]) if self.controls else self._own["k"].astype(np.float64)

    def _table(self) -> Real:
        return np.stack([self.k, _cosines(self.k)])

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: Real) -> None:
        taps = self._derived("taps", partial(self._own["taps"].astype, np.float64, order="C"))
        _forward(u, y, state.rows, state.workspace("table", self._table), taps, tape)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, np.empty((u.shape[0], 0, 2, 0)))

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y, tape = np.empty((*u.shape[:2], 1), u.dtype), np.empty((*u.shape[:2], 2, self.order + 1))
        self._run(u, state, y, tape)
        return y, (u, tape)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, tape = memory
        du, dz, taps = np.empty_like(u), dx.astype(np.float64), self._own["taps"].astype(np.float64)
        dk, dtaps = np.zeros(self.order), np.zeros(self.order + 1)
        _backward(dy, u, du, dz, self._table(), taps, tape, dk, dtaps)
        return du, dz.astype(dx.dtype), {"taps": dtaps} if self.controls else {"taps": dtaps, "k": dk}

    # for every course of the controls: the proof is in the docstring

    def _forgets(self) -> bool:
        n = self.order
        return ((1 - self.k_max) / (1 + self.k_max)) ** n / n > LEAST_LOSS

    def _boundedness(self) -> Boundedness:
        return Boundedness(self._forgets()) if self.controls else Filter._boundedness(self)

    def _contraction(self) -> str | None:
        if not self.controls:
            return Filter._contraction(self)
        return "a lattice of rotations loses energy, whatever its controls do" if self._forgets() else None


def _require_inside(k: NDArray[Any]) -> None:
    for i, value in enumerate(k, start=1):
        if not abs(value) < 1:
            raise ParameterError(f"k{i} = {value:.9g}: reflection coefficients must lie within (-1, 1)")


def _cosines(k: Real) -> Real:
    found: Real = np.sqrt((1 - k) * (1 + k))
    return found


def _gains(k: Real) -> Real:
    """Of the polynomial behind each g_i: the product of c_{i+1} to c_n."""
    return np.append(np.cumprod(_cosines(k)[::-1])[::-1], 1.0)

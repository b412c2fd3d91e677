"""Hammerstein-Wiener models: a curve, a linear filter, a curve; and the fit of all three to data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, reals, whole_number
from rnndsp._intervals import Interval
from rnndsp._jit import kernel
from rnndsp._tangents import Jacobians
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import MAX_STATES, Filter
from rnndsp.filters.sections import TransferFunction
from rnndsp.identification import LOUDEST, RANK, persistency_of_excitation
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Enclosure, Place
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, gain

__all__ = ["HammersteinWienerFit", "Shaper", "fit_hammerstein_wiener"]

Real = NDArray[np.float64]

# Poles that the start finds outside the unit circle go inside, at most this far.
FARTHEST = 0.99
# Relative change at which the search ends.
FLAT = 1e-15


@kernel
def _shape(u: Any, y: Any, knots: Any, values: Any, slopes: Any) -> None:
    n_pieces = slopes.shape[1]
    for voice in range(u.shape[0]):
        for t in range(u.shape[1]):
            for i in range(u.shape[2]):
                x = u[voice, t, i]
                low, high = 0, n_pieces  # the piece whose first knot is the last one not above x
                while high - low > 1:
                    middle = (low + high) // 2
                    if x >= knots[i, middle]:
                        low = middle
                    else:
                        high = middle
                y[voice, t, i] = values[i, low] + slopes[i, low] * (x - knots[i, low])


class Shaper(Filter):
    r"""Memoryless curve through knots, straight between and beyond them.

    .. math:: y = y_i + \frac{y_{i+1} - y_i}{x_{i+1} - x_i} (u - x_i), \qquad x_i \le u < x_{i+1}

    The first and the last piece go on beyond the knots.

    Parameters
    ----------
    x : array, shape (n_knots,) or (n_channels, n_knots)
        Knots, at least two, rising; of every channel its own.
    y : array, shape of x
        Values there.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *Parameters*: ``x`` and ``y`` (n_channels, n_knots).

    *State*: none.

    *Stability*: always, having no state: outputs are never further apart than the steepest slope times the inputs. Two
    knots of the same value at either end make it saturate.

    Raises
    ------
    ParameterError
        Fewer than two knots, knots that do not rise, shapes that differ.

    References
    ----------
    L. O. Chua, S. M. Kang (1977), "Section-wise piecewise-linear functions: canonical representation, properties, and
    applications".

    Examples
    --------
    >>> clip = Shaper([-2, -1, 1, 2], [-1, -1, 1, 1])
    >>> clip([-3.0, 0.5, 7.0])
    array([-1. ,  0.5,  1. ])
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, *, sample_rate: float | None = None) -> None:
        knots, values = (np.atleast_2d(real_array(*v)) for v in (("x", x), ("y", y)))
        if knots.ndim != 2 or knots.shape != values.shape:
            raise ParameterError(f"x has shape {knots.shape} and y {values.shape}: both are (n_channels, n_knots)")
        config = dict(zip(("n_channels", "n_knots"), knots.shape, strict=True))
        super().__init__(config, {"x": knots, "y": values}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self.n_inputs = self.n_outputs = whole_number("n_channels", self.config["n_channels"])
        self.n_knots = whole_number("n_knots", self.config["n_knots"], least=2)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys("xy", (self.n_inputs, self.n_knots))

    def _check(self) -> None:
        with np.errstate(all="ignore"):
            fine = np.all(np.diff(self._own["x"].astype(np.float64)) > 0) and np.isfinite(self._tables[2]).all()
        if not fine:
            raise ParameterError("the knots x must rise, and not by so little that a slope overflows")

    @property
    def _tables(self) -> tuple[Real, Real, Real]:
        """Knots, values, and the slope of every piece."""
        x, y = (self._own[name].astype(np.float64) for name in "xy")
        return x, y, np.diff(y) / np.diff(x)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        tables = self._derived(u.dtype.char, lambda: tuple(np.array(t, u.dtype, order="C") for t in self._tables))
        _shape(u, y, *tables)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty_like(u)
        self._advance(u, state, y)
        return y, u

    def _pieces(self, u: NDArray[Any]) -> NDArray[np.intp]:
        """The piece that every number lies on, channels last."""
        x = self._own["x"].astype(np.float64)
        found = [np.searchsorted(x[i, 1:-1], u[..., i], side="right") for i in range(self.n_inputs)]
        return np.stack(found, axis=-1)

    def _slopes(self, u: NDArray[Any]) -> Real:
        slopes: Real = self._tables[2][np.arange(self.n_inputs), self._pieces(u)]
        return slopes

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        x, _, slopes = self._tables
        piece, channel = self._pieces(memory), np.arange(self.n_inputs)
        slope, width = slopes[channel, piece], np.diff(x)[channel, piece]
        part = (memory - x[channel, piece]) / width
        by_x, by_y = np.zeros_like(x), np.zeros_like(x)
        where = np.broadcast_to(channel, piece.shape)
        for table, weight in ((by_y, dy), (by_x, -slope * dy)):
            np.add.at(table, (where, piece), weight * (1 - part))
            np.add.at(table, (where, piece + 1), weight * part)
        return (slope * dy).astype(dy.dtype), dx, {"x": by_x, "y": by_y}

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        return gain(np.diag(self._slopes(u)), sample_rate=self.sample_rate)

    def _jacobians(self, u: NDArray[Any], state: State) -> Jacobians:
        y, _ = self._tape(u[None], state)
        n = self.n_inputs
        D = self._slopes(u)[:, :, None] * np.eye(n)
        return Jacobians(np.zeros((1, 0, 0)), np.zeros((1, 0, n)), np.zeros((1, n, 0)), D, np.zeros(0, np.int64), y[0])

    def _boundedness(self) -> Boundedness:
        flat = not self._tables[2][:, [0, -1]].any()
        return Boundedness.SATURATING if flat else Boundedness.BOUNDED

    def _enclosure(self, place: Place) -> Enclosure:
        _, y, slopes = self._tables
        bounds = []
        steepest = np.zeros(self.n_inputs)
        for i in range(self.n_inputs):
            low, high = (float(end[i]) for end in (place.u.lo, place.u.hi))
            first, last = self._pieces(np.broadcast_to([[low], [high]], (2, self.n_inputs)))[:, i]
            steepest[i] = np.abs(slopes[i, first : last + 1]).max()
            ends = [self._at(i, first, low), self._at(i, last, high)]
            inside = y[i, first + 1 : last + 1]
            lows, highs = [float(e.lo) for e in ends], [float(e.hi) for e in ends]
            bounds.append((min([*lows, *inside]), max([*highs, *inside])))
        lo, hi = np.array(bounds).T
        return Enclosure(Interval(lo, hi), "no memory", np.diag(steepest * (1 + 1e-12)), parts=((self, place),))

    def _at(self, channel: int, piece: int, u: float) -> Interval:
        """The value at a number, which may be infinite, on a piece."""
        x, y, slopes = (table[channel, piece] for table in self._tables)
        if slopes == 0:
            return Interval(y)
        if np.isinf(u):
            return Interval(np.sign(slopes) * u)
        value: Interval = (Interval(u) - x) * slopes + y
        return value

    def _energy_gain(self, place: Place) -> float:
        return float(np.abs(self._tables[2]).max()) * (1 + 1e-6)


@dataclass(frozen=True)
class HammersteinWienerFit:
    """A curve, a linear filter, a curve, fitted to data.

    Attributes
    ----------
    filter : Filter
        The parts that were asked for in series: Shaper, TransferFunction, Shaper.
    residuals : ndarray, shape (n_frames,)
        Data minus what the filter gives in their place, by simulation from rest.
    converged : bool
        Whether the search ended at a minimum, and not at ``max_steps``.
    """

    filter: Filter
    residuals: Real
    converged: bool


def fit_hammerstein_wiener(
    u: ArrayLike,
    y: ArrayLike,
    *,
    n_poles: int,
    n_zeros: int,
    delay: int = 0,
    knots_in: int | ArrayLike = 7,
    knots_out: int | ArrayLike = 7,
    max_steps: int = 200,
    sample_rate: float | None = None,
) -> HammersteinWienerFit:
    r"""Fit a curve, a linear filter and a curve in series to an input and an output.

    .. math:: \min \sum_t \big(y[t] - g\big((H * f(u))[t]\big)\big)^2, \qquad
              H = z^{-d} \frac{b_0 + \dots + b_{n_b} z^{-n_b}}{1 + a_1 z^{-1} + \dots + a_{n_a} z^{-n_a}}

    Parameters
    ----------
    u, y : array, shape (n_frames,)
    n_poles, n_zeros : int
        n_a and n_b.
    delay : int
        d in samples.
    knots_in, knots_out : int or array
        Of f and of g: how many, evenly over the range of what enters, or where they are; 0 for a straight line through
        the origin, so that ``knots_out=0`` makes a Hammerstein and ``knots_in=0`` a Wiener model.
    max_steps : int
        Of the search.
    sample_rate : float, optional
        Hz, of the filter that is returned.

    Returns
    -------
    HammersteinWienerFit

    Raises
    ------
    ParameterError
        NaN, wrong shapes, too few frames, an input or output that does not change, knots that do not rise, or an input
        that does not excite enough (see :func:`rnndsp.identification.arx`).

    Notes
    -----
    It begins with least squares on products of curve and filter coefficients, the nearest curve times filter to that
    (exact for a Hammerstein model without noise), and g a straight line; then all coefficients move together, by
    ``scipy.optimize.least_squares`` with exact derivatives. The minimum that is found is a local one: a g that is not
    monotone may need another start. What f and H, or H and g, share as a factor is not told by data; f is returned with
    the root mean square of its output equal to that of u. The filter is simulated from rest, so data that begin in the
    middle leave a transient in the residuals.

    References
    ----------
    E.-W. Bai (1998), "An optimal two-stage identification algorithm for Hammerstein-Wiener nonlinear systems". A.
    Wills et al. (2013), "Identification of Hammerstein-Wiener models".
    """
    from scipy.optimize import least_squares

    u, y = _one_channel("u", u), _one_channel("y", y)
    if u.size != y.size:
        raise ParameterError(f"u has {u.size} frames and y has {y.size}: they must be of the same length")
    n_poles, n_zeros = whole_number("n_poles", n_poles, least=0), whole_number("n_zeros", n_zeros, least=0)
    delay, max_steps = whole_number("delay", delay, least=0), whole_number("max_steps", max_steps)
    x_knots = _knots("knots_in", knots_in, u)
    n_f, n_g = x_knots.size, knots_out if isinstance(knots_out, int) else reals("knots_out", knots_out).size
    least = delay + 2 * n_poles + (max(n_f, 1) + 1) * (n_zeros + 1) + n_g
    if u.size < least:
        raise ParameterError(f"{u.size} frames are too few for so many coefficients: at least {least} are needed")
    if least * u.size > MAX_STATES:
        raise ParameterError(f"{u.size} frames and so many coefficients would take more than {MAX_STATES} numbers")
    excited = persistency_of_excitation(u, n_zeros + 1)
    if not excited.sufficient:
        raise ParameterError(
            f"the input is persistently exciting of order {excited.order}, {n_zeros=} needs {n_zeros + 1}"
        )
    if np.linalg.matrix_rank(_hats(u, x_knots)) < n_f:
        raise ParameterError(f"knots_in={knots_in!r}: the input does not reach all knots; take fewer")
    f, b, a = _start(u, y, n_poles, n_zeros, delay, x_knots)
    hats, one = _hats(u, x_knots), np.ones(1)
    v_knots = _knots("knots_out", knots_out, _filtered(b, a, delay, hats @ (f if f.size else one)))
    sizes = np.cumsum([f.size, b.size, a.size])

    def unpack(p: Real) -> list[Real]:
        f, b, a, g = np.split(p, sizes)
        return [f if f.size else one, b, a, g if g.size else one]

    def residuals(p: Real) -> Real:
        f, b, a, g = unpack(p)
        try:
            with np.errstate(all="ignore"):
                return _hats(_filtered(b, a, delay, hats @ f), v_knots) @ g - y
        except RnndspError:  # unstable on the way, or beyond all numbers: the step is too long
            return np.full(y.shape, np.inf)

    def jacobian(p: Real) -> Real:
        f, b, a, g = unpack(p)
        x = hats @ f
        v = _filtered(b, a, delay, x)
        slope = Shaper(v_knots, g)._slopes(v[:, None]) if v_knots.size else one[:, None]
        curve = [_filtered(b, a, delay, h) for h in hats.T[: x_knots.size]]
        numerator = _lagged(_filtered(one, a, delay, x), range(b.size))
        denominator = -_lagged(_filtered(one, a, 0, v), range(1, a.size + 1))
        return np.column_stack([slope * np.column_stack([*curve, numerator, denominator]), _hats(v, v_knots)])[
            :, : p.size
        ]

    start = np.concatenate([f, b, a, v_knots])  # g begins as a straight line
    found = least_squares(
        residuals, start, jacobian, x_scale="jac", max_nfev=max_steps, xtol=FLAT, ftol=FLAT, gtol=FLAT
    )
    f, b, a, g = unpack(found.x)
    level, wanted = (float(np.sqrt(np.mean(s**2))) for s in (hats @ f, u))
    if x_knots.size and level > 0:
        f, b = f * (wanted / level), b * (level / wanted)
    linear = TransferFunction(np.concatenate([np.zeros(delay), b]), np.concatenate([[1.0], a]), sample_rate=sample_rate)
    parts: list[Filter] = [linear]
    if x_knots.size:
        parts.insert(0, Shaper(x_knots, f))
    if v_knots.size:
        parts.append(Shaper(v_knots, g))
    whole = reduce(lambda first, second: first >> second, parts)
    return HammersteinWienerFit(whole, y - whole(u), found.status > 0)


def _one_channel(name: str, value: ArrayLike) -> Real:
    array = reals(name, value)
    if array.ndim != 1 or not np.all(np.abs(array) <= LOUDEST):
        raise ParameterError(f"{name} must be one channel, (n_frames,), of finite numbers up to {LOUDEST:g}")
    return array


def _knots(name: str, knots: int | ArrayLike, signal: Real) -> Real:
    """Where the knots are; none for a straight line."""
    if isinstance(knots, int | np.integer) and not isinstance(knots, bool):
        if knots == 0:
            return np.zeros(0)
        n = whole_number(name, knots, least=2)
        if n > signal.size:
            raise ParameterError(f"{name}={n}: more knots than the {signal.size} frames there are")
        low, high = float(signal.min()), float(signal.max())
        if not low < high:
            raise ParameterError(f"{name}: what enters the curve does not change, so nothing can be said of it")
        return np.linspace(low, high, n)
    array = reals(name, knots)
    if array.ndim != 1 or array.size < 2 or not (np.isfinite(array).all() and np.all(np.diff(array) > 0)):
        raise ParameterError(f"{name}={knots!r}: a number of knots, or at least two rising ones")
    return array


def _hats(u: Real, knots: Real) -> Real:
    """What multiplies the value at every knot; the signal itself where there are none."""
    if not knots.size:
        return u[:, None]
    piece = np.searchsorted(knots[1:-1], u, side="right")
    part = (u - knots[piece]) / (knots[piece + 1] - knots[piece])
    hats = np.zeros((u.size, knots.size))
    row = np.arange(u.size)
    hats[row, piece], hats[row, piece + 1] = 1 - part, part
    return hats


def _filtered(b: Real, a: Real, delay: int, x: Real) -> Real:
    return TransferFunction(np.concatenate([np.zeros(delay), b]), np.concatenate([[1.0], a]))(x)


def _lagged(x: Real, lags: range) -> Real:
    """Columns x[t - lag], from rest."""
    padded = np.concatenate([np.zeros(max(lags, default=0)), x])
    columns = [padded[padded.size - x.size - lag : padded.size - lag] for lag in lags]
    return np.stack(columns, axis=1) if columns else np.zeros((x.size, 0))


def _start(u: Real, y: Real, n_poles: int, n_zeros: int, delay: int, knots: Real) -> tuple[Real, Real, Real]:
    """f at its knots, b and a: least squares on the products of f and b, and the nearest ones that are products."""
    hats = _hats(u, knots)[:, 1:] if knots.size else u[:, None]  # all hats together are the constant below
    lags = [_lagged(h, range(delay, delay + n_zeros + 1)) for h in hats.T]
    X = np.column_stack([*lags, -_lagged(y, range(1, n_poles + 1)), np.ones(u.size)])
    scale = np.linalg.norm(X, axis=0)
    scale[scale == 0] = 1
    found = np.linalg.lstsq(X / scale, y, rcond=RANK)[0] / scale
    products, a, constant = found[: -n_poles - 1], found[-n_poles - 1 : -1], found[-1]
    left, values, right = np.linalg.svd(products.reshape(len(lags), -1))
    if not values[0] > RANK * np.abs(y).max():
        raise ParameterError("the output does not depend on the input: nothing can be learned from it")
    b = values[0] * right[0]
    poles = np.roots([1.0, *a])
    outer = np.abs(poles) >= 1
    poles[outer] = FARTHEST / poles[outer].conj()
    a = np.real(np.poly(poles))[1:]
    if not knots.size:
        return np.zeros(0), left[0, 0] * b, a
    f = np.concatenate([[0.0], left[:, 0]])
    if f[-1] < f[0]:
        f, b = -f, -b
    if abs(b.sum()) > 1e-6 * np.abs(b).sum():
        f += constant / b.sum()
    level, wanted = (float(np.sqrt(np.mean(x**2))) for x in (_hats(u, knots) @ f, u))
    return f * (wanted / level), b * (level / wanted), a

"""Linear filters as arrays and objects of scipy and python-control, and back.

Among zeros, poles and gain, second-order sections, and state space nothing is lost; polynomials lose digits, all of
them where poles crowd together, so every way through them asks how many.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, reals
from rnndsp.errors import ParameterError

__all__ = [
    "ACCURACY",
    "ZPK",
    "ba_to_zpk",
    "from_control",
    "from_scipy",
    "points",
    "polynomials",
    "rows_to_zpk",
    "section",
    "sections",
    "sos_to_ba",
    "sos_to_ss",
    "to_control",
    "to_scipy",
    "without_origin",
    "zpk_to_sos",
]

Real = NDArray[np.float64]
Matrices = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

# By how much of itself the response may be wrong where polynomials are come by: -120 dB.
ACCURACY = 1e-6
# Just outside of the unit circle, where a pole on it is not infinite: signals of up to a million samples.
RADIUS = 1 + 1e-6
# The longest polynomial whose roots are looked for.
MAX_ORDER = 1000
EPS = float(np.finfo(np.float64).eps)


class ZPK(NamedTuple):
    r"""Zeros, poles and gain of a filter of one input and one output, as scipy has them.

    .. math:: H(z) = k \, \frac{\prod_i (z - z_i)}{\prod_i (z - p_i)}

    Attributes
    ----------
    z, p : ndarray of complex numbers
        As many more poles as zeros as the filter has samples of latency. What is not real comes in conjugate pairs.
    k : float
    """

    z: NDArray[np.complex128]
    p: NDArray[np.complex128]
    k: float


def rows_to_zpk(rows: Iterable[tuple[Real, Real]]) -> ZPK:
    """Of filters in series, each b0, b1, ... and a0, a1, ... of equal length; zeros and poles at 0 cancel."""
    z, p, k = [np.zeros(0, np.complex128)], [np.zeros(0, np.complex128)], 1.0
    for b, a in rows:
        first = b[np.flatnonzero(b)[:1]]
        k *= float(first[0] / a[0]) if first.size else 0.0
        with np.errstate(all="ignore"):  # a zero beyond all numbers
            z.append(_roots(b))
            p.append(_roots(a))
    return ZPK(*without_origin(np.concatenate(z), np.concatenate(p)), k)


def without_origin(
    z: NDArray[np.complex128], p: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Zeros and poles, those left out that cancel each other at 0."""
    common = min(np.count_nonzero(z == 0), np.count_nonzero(p == 0))
    return np.delete(z, np.flatnonzero(z == 0)[:common]), np.delete(p, np.flatnonzero(p == 0)[:common])


def _roots(c: Real) -> NDArray[np.complex128]:
    c = c[np.flatnonzero(c)[0] :] if c.any() else c[:0]
    if len(c) != 3:
        return np.roots(c).astype(np.complex128)
    # keeps double roots double, and conjugate ones exactly so
    half, last = -c[1] / c[0] / 2, c[2] / c[0]
    square = half * half - last
    if square < 0:
        return np.asarray(half + np.sqrt(-square) * np.array([1j, -1j]), np.complex128)
    far = half + np.copysign(np.sqrt(square) if np.isfinite(square) else abs(half), half)
    return np.array([far, last / far if far else 0.0], np.complex128)


def ba_to_zpk(b: Real, a: Real, tolerance: float) -> ZPK:
    """Roots of polynomials in 1/z of equal length, where they are known well enough."""
    if max(len(b), len(a)) > MAX_ORDER + 1:
        raise ParameterError(f"order {len(a) - 1} is more than the {MAX_ORDER} for which roots are looked for")
    found = rows_to_zpk([(b, a)])
    _require_accuracy(
        [b],
        [a],
        found.p,
        tolerance,
        f"the coefficients of order {len(a) - 1} have lost their digits before they came here: design with "
        'output="sos" or "zpk"',
    )
    return found


def sos_to_ba(sos: Real, tolerance: float) -> tuple[Real, Real]:
    """Polynomials in 1/z, where rounding their coefficients leaves enough of the response."""
    b, a = np.split(sos, 2, axis=1)
    _require_accuracy(
        b, a, rows_to_zpk(zip(b, a, strict=True)).p, tolerance, "stay with second-order sections or state space"
    )
    numerator, denominator = reduce(np.convolve, b), reduce(np.convolve, a)
    # rows of first order end in zeros
    stop = int(np.max(np.flatnonzero((numerator != 0) | (denominator != 0)))) + 1
    return numerator[:stop], denominator[:stop]


def _require_accuracy(
    b: Iterable[Real], a: Iterable[Real], poles: NDArray[np.complex128], tolerance: float, remedy: str
) -> None:
    r"""Refuse polynomials, products of rows, whose rounding changes the frequency response by more than ``tolerance``.

    .. math:: \frac{\Delta H}{H} \approx N \epsilon \, \frac{\prod \sum |a_k|}{|a(e^{j\omega})|}, \qquad
              \Delta H \approx N \epsilon \, \frac{\prod \sum |b_k|}{|a(e^{j\omega})|}

    Below 1 no pole crosses the unit circle (Rouche); next to it one moves by so many parts of its distance.
    """
    tolerance = number("tolerance", tolerance)
    if tolerance <= 0:
        raise ParameterError(f"{tolerance=} must be above 0")
    w = np.concatenate([np.angle(poles), np.linspace(0, np.pi, 65)])
    with np.errstate(all="ignore"):
        (b_size, b_at), (a_size, a_at) = (_logarithms(rows, w) for rows in (b, a))
        worst = a_size - np.min(a_at)
        if np.isfinite(b_size):
            worst = np.logaddexp(worst, b_size - np.min(a_at) - np.max(b_at - a_at))
        error = EPS * max(len(poles), 1) * float(np.exp(min(worst, 700.0)))
    if not error <= tolerance:
        much = f"by up to {error:.1g} of itself" if error < 1 else "by more than all of it"
        digits = f"{max(0.0, -np.log10(error)):.0f} of 16 digits are left, {(worst / np.log(10)):.0f} are lost"
        raise ParameterError(
            f"as polynomials of order {len(poles)} the filter is ill-conditioned: rounding its coefficients changes "
            f"the response {much} ({digits}), {tolerance=}; {remedy}"
        )


def _logarithms(rows: Iterable[Real], w: Real) -> tuple[float, Real]:
    """Of the product of all rows: the log of how large it may be on the unit circle, and is at the angles ``w``."""
    turn = np.exp(-1j * w) / RADIUS
    size, at = 0.0, np.zeros(w.size)
    for row in rows:
        size += float(np.log(np.sum(np.abs(row))))
        at += np.log(np.abs(np.polyval(row[::-1], turn)))
    return size, at


def zpk_to_sos(z: ArrayLike, p: ArrayLike, k: float) -> Real:
    """Sections paired by scipy's ``zpk2sos``, the gain spread over them, latency in the numerators."""
    zeros, poles = (points(name, value) for name, value in (("z", z), ("p", p)))
    gain, latency = number("k", k), poles.size - zeros.size
    if latency < 0:
        raise ParameterError(f"{-latency} more zeros than poles look ahead: a filter needs at least as many poles")
    from scipy import signal

    # whose type knows real zeros and poles only
    zpk2sos: Any = signal.zpk2sos
    # each is delayed a sample below
    zeros = np.concatenate([zeros, np.zeros(latency)])
    single = np.zeros((poles.size % 2, 6))
    if len(single):
        # taken out, or scipy's filling, a pole and a zero at 0, may end in different sections
        (zero, zeros), (pole, poles) = _smallest_real(zeros), _smallest_real(poles)
        single[0] = 1, -zero, 0, 1, -pole, 0
    try:
        sos = np.vstack([single, zpk2sos(zeros, poles, gain)])
    except ValueError as error:
        raise ParameterError(f"zeros and poles of a real filter come in conjugate pairs: {error}") from None
    if len(single) and not poles.size:  # the gain has a section of its own
        sos = np.concatenate([gain * sos[:1, :3], sos[:1, 3:]], axis=1)
    for row in sos:
        while latency and not row[2] and row[:3].any():
            row[:3] = np.roll(row[:3], 1)
            latency -= 1
    return _spread(sos)


def _smallest_real(z: NDArray[np.complex128]) -> tuple[float, NDArray[np.complex128]]:
    """One of an odd number of points that pair up, and the others."""
    is_real = np.abs(z.imag) <= 100 * EPS * np.abs(z)
    if not is_real.any():
        raise ParameterError("zeros and poles of a real filter come in conjugate pairs: an odd one is not real")
    i = int(np.argmin(np.where(is_real, np.abs(z), np.inf)))
    return float(z[i].real), np.delete(z, i)


def points(name: str, value: ArrayLike) -> NDArray[np.complex128]:
    try:
        array = np.asarray(value).astype(np.complex128)
    except (TypeError, ValueError):
        raise ParameterError(f"{name}={value!r} must be a row of numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ParameterError(f"{name} of shape {array.shape} must be one row of finite numbers")
    return array


def _spread(sos: Real) -> Real:
    """The same cascade, the gain up to each section brought near to 1 by powers of two: scipy puts all into the first.

    A lowpass of order 24 at 1/1000 of the sample rate would start with a gain of 1e-60.
    """
    if not sos[:, :3].any(axis=1).all():
        return sos
    b, a = np.split(sos, 2, axis=1)
    z, p, _ = rows_to_zpk(zip(b, a, strict=True))
    turn = np.exp(-1j * np.concatenate([np.angle(z), np.angle(p), np.linspace(0, np.pi, 65)]))
    result, height, moved = sos.copy(), np.zeros(turn.size), 0
    with np.errstate(all="ignore"):
        for i in range(len(sos) - 1):
            height += np.log2(np.abs(np.polyval(b[i, ::-1], turn))) - np.log2(np.abs(np.polyval(a[i, ::-1], turn)))
            top = np.max(height[np.isfinite(height)], initial=-np.inf)
            shift = -round(float(top)) - moved if np.isfinite(top) else 0
            result[i, :3] = np.ldexp(b[i], shift)
            moved += shift
        result[-1, :3] = np.ldexp(b[-1], -moved)
        # exactly the same filter, or the one that was asked for
        same = np.isfinite(result).all() and (np.count_nonzero(result) == np.count_nonzero(sos))
    return result if same else sos


def section(b: Real, a: Real) -> Matrices:
    """Direct form II transposed as state space: b0, b1, ... and a1, a2, ... (a0 = 1), scipy's ``zi`` the state."""
    A = np.eye(len(a), k=1)
    A[:, :1] -= a[:, None]
    return A, (b[1:] - a * b[0])[:, None], np.eye(1, len(a)), b[:1, None]


def sections(sos: ArrayLike) -> Real:
    """Scipy's table of sections, divided by a0."""
    table = reals("sos", sos)
    if table.ndim != 2 or table.shape[1] != 6 or not len(table):
        raise ParameterError(f"sos has shape {table.shape}, must be (n_sections, 6): rows b0, b1, b2, a0, a1, a2")
    return np.hstack(_normalised(*np.split(table, 2, axis=1)))


def polynomials(b: ArrayLike, a: ArrayLike) -> tuple[Real, Real]:
    """Numerator and denominator of equal length, divided by a0."""
    coefficients = {"b": reals("b", b), "a": reals("a", a)}
    for name, value in coefficients.items():
        if value.ndim != 1 or not value.size:
            raise ParameterError(f"{name} has shape {value.shape}, must be one-dimensional and not empty")
    length = max(value.size for value in coefficients.values())
    numerator, denominator = _normalised(*(np.pad(c, (0, length - c.size))[None] for c in coefficients.values()))
    return numerator[0], denominator[0]


def _normalised(b: Real, a: Real) -> tuple[Real, Real]:
    if not a[:, 0].all():
        raise ParameterError(
            "a0 = 0: the first coefficient of a denominator must not vanish, or the output would precede the input"
        )
    return b / a[:, :1], a / a[:, :1]


def sos_to_ss(sos: Real) -> Matrices:
    """A chain of sections, whose state matrix keeps the digits that coefficients of a high order lose."""
    from rnndsp.statespace import DENSE_LIMIT, DelayStateSpace, StateSpace, series

    if not np.isfinite(sos).all():
        raise ParameterError("sos holds NaN or infinity")
    if 2 * len(sos) > DENSE_LIMIT:
        raise ParameterError(f"{len(sos)} sections are too many for a dense state matrix: run them as an SOS filter")
    parts: list[DelayStateSpace] = []
    for row in _spread(sos):
        # no state for what is zero
        order = max(np.flatnonzero(row[:3] != 0).max(initial=0), np.flatnonzero(row[3:] != 0).max(initial=0))
        parts.append(StateSpace(*section(row[: order + 1], row[4 : 4 + order])))
    whole = reduce(series, parts)
    return whole.A, whole.B, whole.C, whole.D


def to_scipy(matrices: tuple[NDArray[Any], ...], sample_rate: float | None) -> Any:
    """A discrete-time ``scipy.signal.StateSpace``."""
    from scipy.signal import StateSpace

    return StateSpace(*matrices, dt=_step(sample_rate))


def to_control(matrices: tuple[NDArray[Any], ...], sample_rate: float | None) -> Any:
    """A discrete-time ``control.StateSpace``."""
    return _control().StateSpace(*matrices, _step(sample_rate), remove_useless_states=False)


def from_scipy(system: Any) -> tuple[Matrices, float | None]:
    """Matrices and sample rate of a ``scipy.signal.dlti`` in any representation."""
    from scipy import signal

    if isinstance(system, signal.lti):
        raise ParameterError(
            f"{type(system).__name__} is a continuous system: sample it first, system.to_discrete(1 / sample_rate), or "
            "design it for discrete time with fs="
        )
    if not isinstance(system, signal.dlti):
        raise ParameterError(
            f"{type(system).__name__} is no scipy.signal.dlti: wrap coefficients, zeros, poles and gain, or matrices, "
            "scipy.signal.dlti(*system, dt=1 / sample_rate)"
        )
    if isinstance(system, signal.ZerosPolesGain):
        return sos_to_ss(zpk_to_sos(system.zeros, system.poles, system.gain)), _rate(system.dt)
    try:
        space = system.to_ss()
    except ValueError as error:
        raise ParameterError(f"the system has no state space: {error}") from None
    return _real(space.A, space.B, space.C, space.D), _rate(system.dt)


def from_control(system: Any) -> tuple[Matrices, float | None]:
    """Matrices and sample rate of a discrete-time linear system of python-control."""
    control = _control()
    if not isinstance(system, control.StateSpace | control.TransferFunction):
        raise ParameterError(f"{type(system).__name__} is no control.StateSpace or control.TransferFunction")
    if isinstance(system, control.TransferFunction):
        try:
            system = control.tf2ss(system)
        except (ImportError, ValueError, control.exception.ControlMIMONotImplemented) as error:
            raise ParameterError(f"python-control makes no state space of it: {error}; give it one") from None
    if system.dt is None and system.nstates:
        raise ParameterError("the system has dt=None: set its dt to 1 / sample_rate, or to True where there is no rate")
    if system.dt == 0 and system.nstates:
        raise ParameterError(
            "the system is continuous: sample it first, control.sample_system(system, 1 / sample_rate), with "
            "method='bilinear' for the audio engineer's transform"
        )
    return _real(system.A, system.B, system.C, system.D), _rate(system.dt)


def _control() -> Any:
    try:
        return import_module("control")
    except ImportError:
        raise ParameterError("python-control is not installed: pip install control") from None


def _step(sample_rate: float | None) -> float | bool:
    return True if sample_rate is None else 1 / sample_rate


def _rate(step: float | bool | None) -> float | None:
    if step is None or step is True or step == 0:
        return None
    rate = 1 / step
    # what came through a reciprocal
    return float(round(rate)) if abs(rate - round(rate)) < 1e-9 * rate else rate


def _real(*matrices: Any) -> Matrices:
    found = [np.atleast_2d(np.asarray(matrix)) for matrix in matrices]
    if any(np.any(np.imag(matrix)) for matrix in found):
        raise ParameterError("the system has complex coefficients: filters are real")
    A, B, C, D = (np.array(matrix.real, np.float64) for matrix in found)
    n = A.shape[0] if A.size else 0
    return A.reshape(n, n), B.reshape(n, D.shape[1]), C.reshape(D.shape[0], n), D

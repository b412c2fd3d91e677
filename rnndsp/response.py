"""What comes out: impulse and frequency responses, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, space

__all__ = [
    "FrequencyResponse",
    "GroupDelay",
    "PhaseResponse",
    "SingularValues",
    "energy_decay_db",
    "fitted_t60",
    "frequency_response",
    "group_delay",
    "impulse_response",
    "phase_response",
    "singular_values",
]

# Numbers of the matrices that are inverted at once.
AT_ONCE = 2**21
# A response of fewer roundings of its terms counts as zero.
ROUNDINGS = 64 * float(np.finfo(np.float64).eps)
# Steps from zero frequency to the first one asked for, to know how often the phase has turned by then.
MOST_STEPS = 4096


@dataclass(frozen=True)
class FrequencyResponse:
    """H on a grid of frequencies.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample (0 to 0.5).
    h : ndarray, shape (n, n_outputs, n_inputs)
        Complex; NaN where a pole lies on the unit circle right at that frequency.
    """

    frequency: NDArray[np.float64]
    h: NDArray[np.complex128]

    @property
    def magnitude_db(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            db: NDArray[np.float64] = 20 * np.log10(np.abs(self.h))
        return db


@dataclass(frozen=True)
class GroupDelay:
    """By how many samples each frequency's envelope is delayed.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample.
    samples : ndarray, shape (n, n_outputs, n_inputs)
        NaN where H is zero or infinite, as there it has no phase.
    """

    frequency: NDArray[np.float64]
    samples: NDArray[np.float64]


@dataclass(frozen=True)
class PhaseResponse:
    """The phase, followed from zero frequency on.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample.
    radians : ndarray, shape (n, n_outputs, n_inputs)
        Unwrapped; NaN where H is zero or infinite.
    delay : ndarray, shape (n, n_outputs, n_inputs)
        The phase delay in samples, by which a sine comes out later: minus the phase by the angular frequency. At zero
        frequency its limit, the group delay; NaN there for a filter that inverts a constant, which has none.
    """

    frequency: NDArray[np.float64]
    radians: NDArray[np.float64]
    delay: NDArray[np.float64]


@dataclass(frozen=True)
class SingularValues:
    """The gains of a filter of several channels, over all mixes of its inputs.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample.
    values : ndarray, shape (n, min(n_outputs, n_inputs))
        Largest first; NaN where H is. The largest over all frequencies is the H-infinity norm.
    """

    frequency: NDArray[np.float64]
    values: NDArray[np.float64]


def impulse_response(
    filt: Filter,
    n_frames: int,
    *,
    channel: int = 0,
    level: float = 1.0,
    controls: Mapping[str, ArrayLike] | None = None,
) -> NDArray[Any]:
    """Output for an impulse of ``level`` on one input, divided by ``level``: shape (n_frames, n_outputs).

    For a nonlinear filter it depends on the level; its output at rest, the response to silence, is taken off.

    Parameters
    ----------
    filt : Filter
    n_frames : int
    channel : int
        The input that gets the impulse; the others get silence.
    level : float
    controls : mapping of str to float or array of n_frames, optional
    """
    if level == 0 or not np.isfinite(level):
        raise ParameterError(f"{level=} must be a finite number other than 0")
    u = np.zeros((2, n_frames, filt.n_inputs))
    if n_frames:
        u[0, 0, channel] = level
    with_impulse, silent = filt(u, controls=controls)
    response: NDArray[Any] = (with_impulse - silent) / level
    return response


def frequency_response(
    filt: Filter,
    frequency: ArrayLike | int = 512,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> FrequencyResponse:
    """H of a linear filter, or of the small-signal filter of any other about an operating point.

    Parameters
    ----------
    filt : Filter
    frequency : array or int
        In Hz where the filter has a sample rate, else in cycles a sample; an int for so many from 0 to half the sample
        rate.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        Frequencies that are no row of finite numbers.
    """
    grid, w = _grid(filt, frequency)
    return FrequencyResponse(grid, in_pieces(filt.linearize(state, u, controls=controls), w))


def group_delay(
    filt: Filter,
    frequency: ArrayLike | int = 512,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> GroupDelay:
    r"""Group delay of every pair of output and input, in samples.

    .. math:: \tau = -\frac{\mathrm{d}}{\mathrm{d}\omega} \arg H
              = \mathrm{Re}\, \frac{C\,P^{-1} M (A\,P^{-1} B + B)}{H},
              \qquad P = \mathrm{diag}(z^{m_i}) - A, \quad M = \mathrm{diag}(m_i), \quad z = e^{j\omega}

    Parameters
    ----------
    filt : Filter
    frequency, state, u, controls
        As in :func:`frequency_response`.

    Raises
    ------
    ParameterError
        Frequencies that are no row of finite numbers.

    Notes
    -----
    Exact but for rounding, with no differences of phases. It is that of the whole filter, its latency included, and
    negative where a filter seems to foresee. Where H is zero within rounding the result is NaN: on a zero on the unit
    circle the phase jumps by half a turn, which no group delay tells of.

    The group delay of det H of a lossless network of as many outputs as inputs is, on the average over frequency, the
    total length of its delay lines.

    References
    ----------
    J. O. Smith (2007), "Introduction to Digital Filters with Audio Applications", section on group delay.
    """
    grid, w = _grid(filt, frequency)
    return GroupDelay(grid, _with_delay(filt.linearize(state, u, controls=controls), w)[1])


def phase_response(
    filt: Filter,
    frequency: ArrayLike | int = 512,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> PhaseResponse:
    """Unwrapped phase of every pair of output and input, and the phase delay.

    Parameters
    ----------
    filt : Filter
    frequency : array or int
        As in :func:`frequency_response`; an array must ascend from 0 or more.
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Raises
    ------
    ParameterError
        Frequencies that are no row of finite numbers, or do not ascend.

    Notes
    -----
    Between two frequencies the phase turns by as much as the mean of their group delays says, to the nearest whole
    turn. So a pure delay of any length is followed on any grid, but a resonance only on one that resolves it. At zero
    frequency the phase is 0, or pi where H is negative.
    """
    grid, w = _grid(filt, frequency)
    if np.any(np.diff(w, prepend=0) < 0):
        raise ParameterError("the phase is followed from zero frequency: give frequencies that ascend from 0 or more")
    linear = filt.linearize(state, u, controls=controls)
    first = w[0] if w.size else 0.0
    steps = int(min(2 * first * (1 + linear.delays.sum()), MOST_STEPS)) + 1
    w = np.concatenate([np.linspace(0, first, steps, endpoint=False), w])
    h, tau = _with_delay(linear, w)
    # over a zero on the circle nothing is known of the delay, and the nearest branch is as good as any
    known = np.nan_to_num(tau)
    expected = -(known[1:] + known[:-1]) / 2 * np.diff(w)[:, None, None]
    wrapped = np.nan_to_num(np.angle(h))
    turned = np.diff(wrapped, axis=0)
    turned += 2 * np.pi * np.round((expected - turned) / (2 * np.pi))
    phase = np.abs(wrapped[:1]) + np.concatenate([np.zeros_like(tau[:1]), np.cumsum(turned, axis=0)])
    phase[np.isnan(tau)] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        delay = np.where(w[:, None, None] > 0, -phase / w[:, None, None], np.where(phase == 0, tau, np.nan))
    return PhaseResponse(grid, phase[steps:], delay[steps:])


def singular_values(
    filt: Filter,
    frequency: ArrayLike | int = 512,
    *,
    state: State | None = None,
    u: ArrayLike | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> SingularValues:
    """Singular values of H: the least and largest gain over all mixes of the inputs, and those between.

    Parameters
    ----------
    filt : Filter
    frequency, state, u, controls
        As in :func:`frequency_response`.

    Raises
    ------
    ParameterError
        Frequencies that are no row of finite numbers.
    """
    response = frequency_response(filt, frequency, state=state, u=u, controls=controls)
    values = np.full((len(response.h), min(response.h.shape[1:])), np.nan)
    known = np.isfinite(response.h).all(axis=(1, 2))
    values[known] = np.linalg.svd(response.h[known], compute_uv=False)
    return SingularValues(response.frequency, values)


def in_pieces(linear: DelayStateSpace, w: NDArray[np.float64], radius: float = 1.0) -> NDArray[np.complex128]:
    """H at many z = radius e^jw, in pieces, as a matrix is inverted for each; NaN on a pole."""
    if radius != 1:  # diag(z^m) - A with its rows scaled
        rows = radius ** -linear.delays.astype(np.float64)[:, None]
        linear = space(rows * linear.A, rows * linear.B, linear.C, linear.D, linear.delays)
    pieces = np.array_split(w, 1 + w.size * len(linear.A) ** 2 // AT_ONCE)
    return np.concatenate([_response(linear, piece) for piece in pieces])


def _response(linear: DelayStateSpace, w: NDArray[np.float64]) -> NDArray[np.complex128]:
    try:
        return linear.frequency_response(w)
    except np.linalg.LinAlgError:  # a pole right on one of the frequencies
        if w.size == 1:
            return np.full((1, *linear.D.shape), np.nan + 0j)
        return np.concatenate([_response(linear, half) for half in np.array_split(w, 2)])


def _grid(filt: Filter, frequency: ArrayLike | int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies as they are asked for, and in radians a sample."""
    rate = filt.sample_rate or 1.0
    if isinstance(frequency, int | np.integer):
        grid = np.linspace(0, rate / 2, whole_number("frequency", frequency))
    else:
        grid = np.atleast_1d(np.asarray(frequency, np.float64))
    if grid.ndim != 1 or not np.isfinite(grid).all():
        raise ParameterError(f"frequency of shape {grid.shape} must be a row of finite numbers, or how many of them")
    return grid, 2 * np.pi * grid / rate


def _with_delay(linear: DelayStateSpace, w: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """H and its group delay."""
    A, B, m = linear.A, linear.B, linear.delays
    n, k = B.shape
    # -j dH/dw is the response of the network to what enters its own lines, each multiplied by its length
    p = linear.n_outputs
    twice = space(
        np.block([[A, np.zeros((n, n))], [m[:, None] * A, A]]),
        np.vstack([B, m[:, None] * B]),
        np.block([[linear.C, np.zeros((p, n))], [np.zeros((p, n)), linear.C], [np.eye(n, 2 * n)]]),
        np.vstack([linear.D, np.zeros((p + n, k))]),
        np.concatenate([m, m]),
    )
    h, moved, inside = np.split(in_pieces(twice, w), [p, 2 * p], axis=1)
    size = np.abs(linear.D) + np.abs(linear.C) @ np.abs(inside)
    nothing = ~(np.abs(h) > ROUNDINGS * size)
    tau = np.real(moved / np.where(nothing, 1, h))
    tau[nothing] = np.nan
    return h, tau


def energy_decay_db(h: ArrayLike) -> NDArray[np.float64]:
    """Energy still to come, in dB of all of it.

    Parameters
    ----------
    h : array, shape (n_frames, ...)
        Impulse response; the result has its shape.

    References
    ----------
    M. R. Schroeder (1965), "New method of measuring reverberation time".
    """
    energy = np.cumsum(np.square(np.asarray(h, np.float64))[::-1], axis=0)[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        decay: NDArray[np.float64] = 10 * np.log10(energy / energy[:1])
    return decay


def fitted_t60(decay_db: NDArray[np.float64]) -> float:
    """Twice the frames in which a straight line through -5 to -35 dB falls by 30 dB (ISO 3382), else NaN.

    Parameters
    ----------
    decay_db : array, shape (n_frames,)
        As :func:`energy_decay_db` gives it.
    """
    span = np.flatnonzero((decay_db <= -5) & (decay_db >= -35))
    # what falls only at the very end has been cut off, and has not faded
    if span.size < 3 or span[-1] > 0.9 * len(decay_db):
        return np.nan
    return float(-60 / np.polyfit(span, decay_db[span], 1)[0])

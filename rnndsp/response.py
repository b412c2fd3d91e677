"""What comes out: impulse and frequency responses, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.state import State

__all__ = ["FrequencyResponse", "frequency_response", "impulse_response"]


@dataclass(frozen=True)
class FrequencyResponse:
    """H on a grid of frequencies.

    Attributes
    ----------
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample (0 to 0.5).
    h : ndarray, shape (n, n_outputs, n_inputs)
        Complex.
    """

    frequency: NDArray[np.float64]
    h: NDArray[np.complex128]

    @property
    def magnitude_db(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            db: NDArray[np.float64] = 20 * np.log10(np.abs(self.h))
        return db


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
    """
    rate = filt.sample_rate or 1.0
    if isinstance(frequency, int | np.integer):
        grid = np.linspace(0, rate / 2, int(frequency))
    else:
        grid = np.atleast_1d(np.asarray(frequency, np.float64))
    linear = filt.linearize(state, u, controls=controls)
    return FrequencyResponse(grid, linear.frequency_response(2 * np.pi * grid / rate))

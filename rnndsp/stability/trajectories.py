"""What becomes of small differences while a filter runs on a signal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.stability.spectrum import poles
from rnndsp.state import State

__all__ = ["FrozenPoles", "frozen_poles"]

Controls = Mapping[str, ArrayLike]


@dataclass(frozen=True)
class FrozenPoles:
    """Eigenvalues of the Jacobian at frames of a trajectory.

    Attributes
    ----------
    index : ndarray, shape (n,)
        The frames looked at.
    poles : ndarray, shape (n, n_states)
        Largest magnitude first. A picture, not a proof: all of them inside the circle does not make a time-varying
        system stable.
    """

    index: NDArray[np.int64]
    poles: NDArray[np.complex128]


def frozen_poles(
    filt: Filter, u: ArrayLike, state: State | None = None, *, every: int = 1, controls: Controls | None = None
) -> FrozenPoles:
    """Poles of the small-signal filter at every ``every``-th frame while the filter runs on a signal.

    Parameters
    ----------
    filt : Filter
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice.
    state : State, optional
    every : int
    controls : mapping of str to float, optional
    """
    whole_number("every", every)
    signal = np.asarray(u, np.float64)
    signal = signal[:, None] if signal.ndim == 1 else signal
    if signal.ndim != 2 or signal.shape[1] != filt.n_inputs:
        raise ParameterError(f"signal of shape {np.shape(u)} must be (n_frames, {filt.n_inputs}), one voice")
    state = filt.rest_state() if state is None else state
    index = np.arange(0, len(signal), every)
    found = np.empty((index.size, filt.n_states), np.complex128)
    for row, t in enumerate(index):
        if row:
            _, state = filt.run(signal[index[row - 1] : t], state, controls=controls)
        found[row] = poles(filt, state, signal[t], controls=controls)
    return FrozenPoles(index, found)

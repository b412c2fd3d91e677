"""What filters share that are linear while their controls move, at every sample if need be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["Modulated"]


class Modulated(Filter):
    """One channel, linear in signal and state for every course of the controls; computed in float64."""

    is_linear = True
    n_inputs = n_outputs = 1

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        # its answers to unit states and to u = 1, at these controls, are the columns of the matrices
        n = self.n_states
        frames = np.tile(u, (n + 1, 1, 1))
        frames[:, 0, 0] = 0
        frames[n, 0, 0] = 1
        unit = self.rest_state((n + 1,))
        unit.vector[:n] = np.eye(n)
        y = np.empty((n + 1, 1, 1))
        self._advance(frames, unit, y)
        AB, CD = unit.vector.T, y[:, 0].T
        return StateSpace(AB[:, :n], AB[:, n:], CD[:, :n], CD[:, n:], sample_rate=self.sample_rate)

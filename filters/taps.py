"""Sparse echoes: a few samples of a long impulse response, as the early reflections of a room are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, whole_number, whole_numbers
from rnndsp._jit import kernel
from rnndsp._vectors import aligned, fma, lanes, load, store
from rnndsp.activations import flush
from rnndsp.errors import ParameterError
from rnndsp.filter import MAX_STATES, Filter
from rnndsp.stability import Boundedness
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace, space

__all__ = ["Taps"]

# Frames that are written into the line before all taps read them; the line is so much longer than the longest tap.
BLOCK = 64


@kernel
def _forward(u: Any, y: Any, x: Any, index: Any, wires: Any, gains: Any, sums: Any, lanes: Any) -> None:
    """Lanes are frames, a block of which goes into the line before the taps read them.

    ``wires`` has a column input, output, delay for every gain.
    """
    one, wide = (None,), len(lanes)
    n_frames, n_inputs = u.shape[1], u.shape[2]
    length = x.shape[1] // n_inputs
    for voice in range(u.shape[0]):
        for begin in range(0, n_frames, BLOCK):
            n_new = min(BLOCK, n_frames - begin)
            entry = voice * x.shape[1] + (index + begin) % length
            for i in range(n_inputs):
                place, stop = entry + i * length, voice * x.shape[1] + (i + 1) * length
                for t in range(n_new):
                    store(x, place, u[voice, begin + t, i], one)
                    place = place + 1 if place + 1 < stop else place + 1 - length
            sums[:] = 0
            for k in range(gains.size):
                first, goal = voice * x.shape[1] + wires[0, k] * length, wires[1, k] * BLOCK
                place = first + (index + begin - wires[2, k]) % length
                straight = min(n_new + wide - 1, first + length - place) // wide * wide
                for t in range(0, straight, wide):
                    total = fma(gains[k], load(x, place + t, lanes, lanes), load(sums, goal + t, lanes, lanes))
                    store(sums, goal + t, total, lanes)
                for t in range(straight, n_new):
                    here = place + t if place + t < first + length else place + t - length
                    total = fma(gains[k], load(x, here, one, one), load(sums, goal + t, one, one))
                    store(sums, goal + t, total, one)
            for t in range(n_new):
                for o in range(y.shape[2]):
                    y[voice, begin + t, o] = flush(load(sums, o * BLOCK + t, one, one))


class Taps(Filter):
    r"""A delay line with taps: a long FIR filter most of whose samples are zero.

    .. math:: y[t] = \sum_k G_k\,u[t - m_k]

    Parameters
    ----------
    delays : sequence of n ints
        m_k in samples, at least 0.
    gains : array, shape (n, n_outputs, n_inputs)
        G_k. What is zero costs nothing.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: ``lines``, the last max m_k + 64 samples of one input after the other, zero at rest; float64 whatever the
    signal's dtype.

    *Stability*: always, there being no feedback.

    Raises
    ------
    ParameterError
        Delays that are not whole numbers of at least 0, gains of another shape.

    References
    ----------
    J. A. Moorer (1979), "About this reverberation business".

    Examples
    --------
    >>> Taps([0, 2], [[[1.0]], [[-0.5]]])([1.0, 0.0, 0.0, 0.0])
    array([ 1. ,  0. , -0.5,  0. ])
    """

    is_linear = True

    def __init__(
        self,
        delays: Sequence[int] | NDArray[np.integer[Any]],
        gains: ArrayLike,
        *,
        sample_rate: float | None = None,
    ) -> None:
        m, G = whole_numbers("delays", delays, least=0), real_array("gains", gains)
        if G.ndim != 3 or not G.size or len(G) != m.size:
            raise ParameterError(f"gains of shape {G.shape} must be of shape ({m.size}, n_outputs, n_inputs)")
        config = {"delays": tuple(int(i) for i in m), "n_inputs": G.shape[2], "n_outputs": G.shape[1]}
        super().__init__(config, {"gains": G}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        delays = self.config["delays"]
        if not (isinstance(delays, tuple) and delays and all(type(m) is int and 0 <= m <= MAX_STATES for m in delays)):
            raise ParameterError(
                f"{delays=}: every delay must be a whole number of samples, at least 0 and at most {MAX_STATES}"
            )
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_outputs = whole_number("n_outputs", self.config["n_outputs"])
        lengths = np.array(delays, np.int64)
        lengths.flags.writeable = False
        self.delays = lengths.view()
        self.length = max(delays) + BLOCK
        self.fields = (Field("lines", (self.n_inputs * self.length,), (self.length,) * self.n_inputs),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gains": (self.delays.size, self.n_outputs, self.n_inputs)}

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def _gains(self) -> NDArray[np.float64]:
        return self._own["gains"].astype(np.float64, order="C")

    def _packed(self) -> tuple[Any, ...]:
        """What :func:`_forward` gets beside signals and state, and how to make its work."""
        k, o, i = np.nonzero(self._gains)
        wires = np.stack([i, o, self.delays[k]])
        make = partial(aligned, (self.n_outputs * BLOCK,), np.float64)
        return wires, self._gains[k, o, i], (None,) * lanes(np.dtype(np.float64)), make

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        wires, gains, across, make = self._derived("packed", self._packed)
        _forward(u, y, state.rows, state.index, wires, gains, state.workspace("sums", make), across)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        held = state.ravel().reshape(len(u), self.n_inputs, self.length).transpose(0, 2, 1)
        heard = np.concatenate([held, u.astype(np.float64)], axis=1)
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        self._advance(u, state, y)
        return y, heard

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        n_voices, n_frames = dy.shape[:2]
        gains, dgains = self._gains, np.zeros(self._gains.shape)
        # by all that the taps may have heard: the line at the start, then the input; its end is the line at the end
        dheard = np.zeros(memory.shape)
        dheard[:, n_frames:] = dx.reshape(n_voices, self.n_inputs, self.length).transpose(0, 2, 1)
        for k, m in enumerate(self.delays):
            then = slice(self.length - m, self.length - m + n_frames)
            dheard[:, then] += dy @ gains[k]
            dgains[k] = np.einsum("vto,vti->oi", dy, memory[:, then])
        initial = dheard[:, : self.length].transpose(0, 2, 1).reshape(n_voices, -1)
        return dheard[:, self.length :].astype(dy.dtype), initial.astype(dx.dtype), {"gains": dgains}

    def _boundedness(self) -> Boundedness:
        return Boundedness.BOUNDED

    def _contraction(self) -> str | None:
        return "no feedback"

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        # the line cut at every tap, from its far end to its near one
        ends = np.unique(np.append(self.delays[self.delays > 0], self.length))[::-1]
        gains, n = self._gains, ends.size
        one, p = np.eye(self.n_inputs), self.n_outputs
        C, D = np.zeros((p, self.n_inputs, n)), np.zeros((p, self.n_inputs))
        for m, G in zip(self.delays, gains, strict=True):
            if m:
                C[:, :, ends == m] += G[:, :, None]
            else:
                D += G
        return space(
            np.kron(one, np.eye(n, k=1)),
            np.kron(one, np.eye(n)[:, -1:]),
            C.reshape(p, -1),
            D,
            np.tile(ends - np.append(ends[1:], 0), self.n_inputs),
            sample_rate=self.sample_rate,
        )

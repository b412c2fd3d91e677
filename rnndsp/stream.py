"""A running filter: the only object that changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnndsp._checks import whole_number
from rnndsp._mixing import all_finite
from rnndsp.errors import ParameterError
from rnndsp.filter import Control, Filter, require_finite
from rnndsp.state import State

__all__ = ["Stream"]

# Where no sample rate is known, ramps are as long as at this one.
DEFAULT_RATE_HZ = 48000.0
# Frames between two looks at a voice that has just misbehaved.
STEP = 64


class _Ramps(MutableMapping[str, float]):
    """The controls of a stream: setting one starts a linear ramp at the next sample."""

    def __init__(self, controls: tuple[Control, ...], length: int) -> None:
        self._controls = {control.name: control for control in controls}
        self._length = max(length, 1)
        self.index = 0
        # from, to, index of the first ramped sample
        self._ramps = {control.name: (control.default, control.default, -self._length) for control in controls}

    def _at(self, name: str, index: Any) -> Any:
        start, target, first = self._ramps[name]
        done = np.clip((index - first + 1) / self._length, 0, 1)
        # start + (target - start) may be a rounding error beside the target
        return np.where(done == 1, target, start + (target - start) * done)

    def __setitem__(self, name: str, value: float) -> None:
        if name not in self._controls:
            raise ParameterError(f"unknown control {name!r}; this filter has {sorted(self._controls)}")
        target = self._controls[name].check(value)
        if target.ndim:
            raise ParameterError(f"control {name}={value!r} must be one number; it is ramped for you")
        self._ramps[name] = (float(self._at(name, self.index - 1)), float(target), self.index)

    def __getitem__(self, name: str) -> float:
        """The value that was set, which the ramp may still be approaching."""
        return self._ramps[name][1]

    def __delitem__(self, name: str) -> None:
        raise ParameterError("controls cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._ramps)

    def __len__(self) -> int:
        return len(self._ramps)

    def fill(self, columns: NDArray[Any]) -> None:
        """Write the next frames of every control into (voices, frames, controls)."""
        for place, (name, (_, target, first)) in enumerate(self._ramps.items()):
            still = self.index >= first + self._length
            columns[..., place] = target if still else self._at(name, self.index + np.arange(columns.shape[1]))

    def adopt(self, controls: tuple[Control, ...]) -> None:
        """Go on with another filter's controls of the same names: those never turned glide to its defaults."""
        turned = {name for name, control in self._controls.items() if self[name] != control.default}
        for control in controls:
            if control.name in turned:
                for value in (self._at(control.name, self.index - 1), self[control.name]):
                    control.check(float(value))
        self._controls = {control.name: control for control in controls}
        for control in controls:
            if control.name not in turned and control.default != self[control.name]:
                self[control.name] = control.default

    def settle(self) -> None:
        """End all ramps at once and count from zero."""
        self._ramps = {name: (target, target, -self._length) for name, (_, target, _) in self._ramps.items()}
        self.index = 0


class Stream:
    """A filter running on a signal that comes in blocks, as from a sound card.

    Parameters
    ----------
    filt : Filter
    voices : tuple of int
        Leading axes of the blocks: independent signals through the same filter.
    dtype : float32 or float64
        Of the blocks.
    sample_rate : float, optional
        Of the blocks, in Hz; an error when it is not the filter's.
    ramp_s : float
        How long a control takes to its new value, linearly, so that nothing clicks.
    on_nonfinite : {"raise", "reset", "hold"}
        What to do about NaN and infinity, for each voice by itself. "raise": :class:`NonFiniteError`; a bad input
        leaves the stream as it was before the block, a filter that blew up needs ``reset()``. "reset": zero is put out
        at that sample and the voice starts again from rest. "hold": a bad input frame is replaced by the last good one;
        a voice that blew up stays at its last good output until ``reset()``.

    Attributes
    ----------
    controls : mutable mapping of str to float
        ``stream.controls["cutoff_hz"] = 800`` ramps from the next sample on.
    n_nonfinite : int
        At how many samples the policy had to act.

    Notes
    -----
    The output is a function of the input and of the sample index at which controls were set, never of how the signal
    was cut into blocks, to the bit. One stream belongs to one thread.
    """

    def __init__(
        self,
        filt: Filter,
        *,
        voices: tuple[int, ...] = (),
        dtype: DTypeLike = np.float32,
        sample_rate: float | None = None,
        ramp_s: float = 0.02,
        on_nonfinite: str = "raise",
    ) -> None:
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise ParameterError(f"{dtype=} is no dtype: a stream runs in float32 or float64") from None
        if self.dtype not in (np.float32, np.float64):
            raise ParameterError(f"{dtype=}: a stream runs in float32 or float64")
        if not isinstance(voices, tuple | list):
            raise ParameterError(f"{voices=} must be a tuple, (2,) for two voices")
        if on_nonfinite not in ("raise", "reset", "hold"):
            raise ParameterError(f"{on_nonfinite=}: choose 'raise', 'reset' or 'hold'")
        if not isinstance(ramp_s, int | float | np.number) or not 0 <= ramp_s < np.inf:
            raise ParameterError(f"{ramp_s=} must be a finite time of at least 0 s")
        filt.check_rate(sample_rate)
        self.filter = filt
        self.voices = tuple(whole_number("voices", n, least=0) for n in voices)
        self._n_voices = math.prod(self.voices)
        self.sample_rate = sample_rate or filt.sample_rate
        self.on_nonfinite = on_nonfinite
        self._ramps = _Ramps(filt.controls, round(ramp_s * (self.sample_rate or DEFAULT_RATE_HZ)))
        self.reset()

    @property
    def controls(self) -> MutableMapping[str, float]:
        """Set one by its name, and it ramps from the next sample on."""
        return self._ramps

    def reset(self) -> None:
        """Back to rest and to sample index 0; controls keep their values."""
        self._state = self.filter.rest_state(self.voices, self.dtype)
        self._held_input = np.zeros((self._n_voices, self.filter.n_inputs), self.dtype)
        self._held_output = np.zeros((self._n_voices, self.filter.n_outputs), self.dtype)
        self._stuck = np.zeros(self._n_voices, np.bool_)
        self.n_nonfinite = 0
        self._ramps.settle()

    @property
    def index(self) -> int:
        """How many samples have been processed since the start or the last reset."""
        return self._ramps.index

    @property
    def state(self) -> State:
        """A copy of the filter's state; assign one to jump there."""
        return self._state.copy()

    @state.setter
    def state(self, state: State) -> None:
        if state.layout != self._state.layout:
            raise ParameterError(f"the state does not fit: {state!r} into {self._state!r}")
        self._state.assign(state)

    def swap(self, filt: Filter) -> None:
        """Go on with another filter of the same state layout and controls, from the state as it is.

        Controls that were turned stay where they are, the others glide to the new filter's defaults.
        """
        if not isinstance(filt, Filter):
            raise ParameterError(f"swap takes a filter, not {filt!r}")
        if filt.rest_state(self.voices, self.dtype).layout != self._state.layout or (
            (filt.n_inputs, filt.n_outputs) != (self.filter.n_inputs, self.filter.n_outputs)
        ):
            raise ParameterError(
                f"{filt!r} has another state layout or other channels than {self.filter!r}; start a new stream"
            )
        if [c.name for c in filt.controls] != list(self.controls):
            raise ParameterError(f"swap: controls {[c.name for c in filt.controls]} differ from {list(self.controls)}")
        filt.check_rate(self.sample_rate)
        self._ramps.adopt(filt.controls)
        self._state.forget_workspaces()
        self.filter = filt

    def process(self, block: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Filter the next block.

        Parameters
        ----------
        block : ndarray, shape (*voices, n_frames, n_inputs), of the stream's dtype
            1-D (n_frames,) where there are no voices and one input. It is not changed.
        out : ndarray, optional
            C-contiguous and writeable, where to write the output; may not be ``block`` itself.

        Returns
        -------
        ndarray, shape (*voices, n_frames, n_outputs)
            ``out`` where it was given.

        Raises
        ------
        ParameterError
            A block or ``out`` of the wrong shape or dtype.
        NonFiniteError
            See ``on_nonfinite``.
        """
        filt = self.filter
        u = self._blocks(block, filt.n_inputs, "block")
        n_frames = u.shape[1]
        if out is None:
            flat = block.ndim == 1 and filt.n_outputs == 1
            out = np.empty((n_frames,) if flat else (*self.voices, n_frames, filt.n_outputs), self.dtype)
        elif not isinstance(out, np.ndarray) or not out.flags.carray or np.may_share_memory(out, block):
            raise ParameterError("out must be a writeable C-contiguous array that shares no memory with the block")
        y = self._blocks(out, filt.n_outputs, "out")
        if y.shape[1] != n_frames:
            raise ParameterError(f"out holds {y.shape[1]} frames, the block {n_frames}")
        if filt.controls:
            shape = (u.shape[0], n_frames, filt.n_inputs + len(filt.controls))
            full = self._state.buffer("controls", shape, self.dtype)
            full[..., : filt.n_inputs] = u
            self._ramps.fill(full[..., filt.n_inputs :])
            u = full
        else:
            u = np.ascontiguousarray(u)
        if n_frames:
            self._guarded(u, y)
            self._ramps.index += n_frames
        return out

    def _blocks(self, array: NDArray[Any], n_channels: int, what: str) -> NDArray[Any]:
        if not isinstance(array, np.ndarray):
            raise ParameterError(f"{what} is a {type(array).__name__}, must be a NumPy array of {self.dtype}")
        if array.dtype != self.dtype:
            raise ParameterError(
                f"{what} of dtype {array.dtype}, the stream runs in {self.dtype}; convert it, or stream(dtype=...)"
            )
        shape = array.shape
        if not self.voices and shape[1:] == (n_channels,):
            return array[None]
        if len(shape) == 1 and not self.voices and n_channels == 1:
            return array[None, :, None]
        if len(shape) != len(self.voices) + 2 or shape[-1] != n_channels or shape[:-2] != self.voices:
            wanted = ", ".join([*map(str, self.voices), "n_frames", str(n_channels)])
            raise ParameterError(
                f"{what} of shape {array.shape} must be ({wanted}): time before channels; librosa's (channels, n) "
                "needs a transpose, voices are given as stream(voices=(n,))"
            )
        return array.reshape(self._n_voices, *shape[-2:])

    # ---- NaN and infinity

    def _guarded(self, u: NDArray[Any], y: NDArray[Any]) -> None:
        """Process a block, and where input or output is not finite apply the policy, voice by voice."""
        clean = all_finite(u)
        if self.on_nonfinite == "raise":
            if not clean:
                require_finite(u, "input", self.index)
            self.filter._process(u, self._state, y)
            if not all_finite(y):
                require_finite(y, "output", self.index)
            return
        with np.errstate(all="ignore"):
            self._forgiven(u, y, clean)

    def _forgiven(self, u: NDArray[Any], y: NDArray[Any], clean: bool) -> None:
        before = self._state.indices
        if clean and not self._stuck.any():
            self.filter._process(u, self._state, y)
            if not all_finite(y):
                for bad in np.flatnonzero(~np.isfinite(y).all(axis=(1, 2))).tolist():
                    part = self._state.voice(bad)
                    self._careful(bad, u, y, part, self._act(bad, y, part, before, 0))
        else:
            for voice in range(len(u)):
                part = self._state.voice(voice)
                part.indices = before
                self._careful(voice, u, y, part, 0)
            self._state.indices = self._later(before, u.shape[1])
        if self.on_nonfinite == "hold":
            if clean:
                self._held_input[...] = u[:, -1, : self.filter.n_inputs]
            self._held_output[...] = y[:, -1]

    def _careful(self, voice: int, u: NDArray[Any], y: NDArray[Any], state: State, t: int) -> None:
        """One voice from frame ``t`` on, its state being good there; in short steps, as a failure costs one again."""
        n_inputs, n_frames = self.filter.n_inputs, u.shape[1]
        signal = u[voice : voice + 1].copy()
        bad = ~np.isfinite(signal[0]).all(axis=1)
        if self.on_nonfinite == "hold":
            for k in np.flatnonzero(bad):
                signal[0, k, :n_inputs] = signal[0, k - 1, :n_inputs] if k else self._held_input[voice]
            self.n_nonfinite += int(bad.sum())
            self._held_input[voice] = signal[0, -1, :n_inputs]
            bad[:] = False
        while t < n_frames and not self._stuck[voice]:
            ahead = bad[t : t + STEP]
            stop = t + (int(np.argmax(ahead)) if ahead.any() else ahead.size)
            before = state.indices
            part = np.empty((1, stop - t, y.shape[2]), y.dtype)
            self.filter._process(np.ascontiguousarray(signal[:, t:stop]), state, part)
            y[voice, t:stop] = part[0]
            failed = not np.isfinite(part).all()
            if failed or (stop < n_frames and bad[stop]):
                y[voice, stop:] = 0 if failed else np.nan  # the bad frame is where the output is not finite
                t = self._act(voice, y, state, before, t)
            else:
                t = stop
        if self._stuck[voice]:
            y[voice, t:] = self._held_output[voice]

    def _act(self, voice: int, y: NDArray[Any], state: State, before: tuple[Any, ...], t: int) -> int:
        """The policy at the first bad frame from ``t`` on, where the indices were ``before``; where to go on."""
        self.n_nonfinite += 1
        bad = t + int(np.argmax(~np.isfinite(y[voice, t:]).all(axis=1)))
        if self.on_nonfinite == "hold":
            self._stuck[voice] = True
            if bad:
                self._held_output[voice] = y[voice, bad - 1]
            return bad
        # on from rest with the sample index that belongs to the next frame
        state.assign(self.filter.rest_state((1,), self.dtype))
        state.indices = self._later(before, bad + 1 - t)
        y[voice, bad] = 0
        return bad + 1

    def _later(self, indices: tuple[Any, ...], n_frames: int) -> tuple[Any, ...]:
        """The sample indices, here and in all children, so many frames on: those of a voice that hears silence."""
        rest = self.filter.rest_state((1,), self.dtype)
        rest.indices = indices
        silence = self.filter._extend(np.zeros((1, n_frames, self.filter.n_inputs), self.dtype), None)
        self.filter._process(silence, rest, np.empty((1, n_frames, self.filter.n_outputs), self.dtype))
        return rest.indices

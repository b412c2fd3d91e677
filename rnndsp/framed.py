"""Filters that work on spectra: short-time Fourier frames in, overlap-add out, a memory from frame to frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import statespace
from rnndsp._checks import whole_number
from rnndsp.activations import TINY
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.state import Field, State
from rnndsp.statespace import DelayStateSpace

if TYPE_CHECKING:
    from rnndsp.stability import Boundedness

__all__ = ["Framed", "SpectralGain"]


class SpectralGain(Filter):
    r"""A gain for every bin of a one-sided spectrum.

    .. math:: Y_k = g_k U_k

    Parameters
    ----------
    gain : array, shape (n_bins,)
        Linear gains, real.
    sample_rate : float, optional
        Hz; none inside of :class:`Framed`, which runs it once a frame.

    Notes
    -----
    Inputs and outputs are the ``n_bins`` real parts, then the ``n_bins`` imaginary parts. *State*: none.
    *Stability*: bounded-input bounded-output always.
    """

    is_linear = True

    def __init__(self, gain: ArrayLike, *, sample_rate: float | None = None) -> None:
        super().__init__({"n_bins": np.size(gain)}, {"gain": gain}, sample_rate=sample_rate)

    def _setup(self) -> None:
        self._no_children()
        self.n_bins = whole_number("n_bins", self.config["n_bins"])
        self.n_inputs = self.n_outputs = 2 * self.n_bins

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gain": (self.n_bins,)}

    def _twice(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        gain: NDArray[Any] = self._derived(("gain", dtype), lambda: np.tile(self._own["gain"], 2).astype(dtype))
        return gain

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        with np.errstate(all="ignore"):
            np.multiply(u, self._twice(u.dtype), out=y)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        return u * self._twice(u.dtype), u

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        both = np.einsum("vtk,vtk->k", dy, memory).reshape(2, -1)
        return dy * self._twice(dy.dtype), dx, {"gain": both.sum(axis=0)}

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        return statespace.gain(np.diag(self._twice(np.dtype(np.float64))), sample_rate=self.sample_rate)


class Framed(Filter):
    r"""Runs a filter on the spectra of overlapping frames, one every ``hop_length`` samples, and adds up the results.

    .. math::

        U_b = \mathrm{rfft}(w_a[j]\,u[b - N + j]), \qquad (Y_b, x_b) = f(U_b, x_{b-1}), \qquad
        y[b + j] \mathrel{+}= w_s[j]\,\mathrm{irfft}(Y_b)[j]

    with j = 0 ... N - 1, at every multiple b of the hop. The inner filter's state moves once a frame, so a spectral
    filter can have a memory: smoothed gates, recurrent masks, spectral delays.

    Parameters
    ----------
    inner : Filter
        Its 2 (n_fft // 2 + 1) inputs and as many outputs are the real parts of a one-sided spectrum, then the imaginary
        ones. A sine of amplitude 1 at the centre of a bin has magnitude 1 there. It runs at the rate of the frames and
        has no ``sample_rate``.
    n_fft : int
        Length N of a frame in samples.
    hop_length : int, optional
        Samples from frame to frame, a quarter of ``n_fft`` when absent. It must divide ``n_fft`` at least twice.
    sample_rate : float, optional
        Hz.

    Attributes
    ----------
    latency : int
        ``n_fft`` samples, and ``hop_length`` for each frame of the inner filter's: an inner filter that changes nothing
        gives the input delayed by exactly that much.
    period : int
        The filter is the same again only after ``hop_length`` samples: a linear inner filter makes it linear, not
        time-invariant.

    Notes
    -----
    *State*: ``history``, the last ``n_fft`` input samples, and ``overlap``, the next ``n_fft`` output samples as far as
    they are known; zero at rest. The inner filter's state is the only one of ``children``. Frames end at sample indices
    that are multiples of the hop. Controls of the inner filter are read at the last sample of a frame.

    *Windows*: the square root of a periodic Hann window on the way in and on the way out; where they overlap, their
    products add up to one.

    *Stability*: the frames have no feedback of their own, so boundedness, forgetting and decay are the inner filter's.

    Raises
    ------
    ParameterError
        A hop that does not divide the frame, an inner filter of the wrong size or with a sample rate.

    References
    ----------
    J. B. Allen, L. R. Rabiner (1977), "A unified approach to short-time Fourier analysis and synthesis".

    Examples
    --------
    >>> softer = Framed.spectral_gain(np.full(33, 0.5), n_fft=64)
    >>> softer(np.arange(100.0))[softer.latency :][:4].round(9)
    array([0. , 0.5, 1. , 1.5])
    """

    def __init__(
        self, inner: Filter, *, n_fft: int = 1024, hop_length: int | None = None, sample_rate: float | None = None
    ) -> None:
        config = {"n_fft": n_fft, "hop_length": n_fft // 4 if hop_length is None else hop_length}
        super().__init__(config, {}, (inner,), sample_rate)

    @classmethod
    def spectral_gain(
        cls, gains: ArrayLike, *, n_fft: int = 1024, hop_length: int | None = None, sample_rate: float | None = None
    ) -> Framed:
        """A fixed real gain for each of the n_fft // 2 + 1 bins: a zero-phase equaliser but for the latency.

        Frames are not padded: gains that vary quickly over frequency ring longer than a frame, and what is beyond its
        end wraps to its beginning.
        """
        return cls(SpectralGain(gains), n_fft=n_fft, hop_length=hop_length, sample_rate=sample_rate)

    def _setup(self) -> None:
        if len(self.children) != 1:
            raise ParameterError(f"Framed runs one filter, not {len(self.children)}")
        inner = self.children[0]
        n_fft, hop = (whole_number(name, self.config[name]) for name in ("n_fft", "hop_length"))
        if hop > n_fft // 2 or n_fft % hop:
            raise ParameterError(
                f"{n_fft=}, hop_length={hop}: the hop must be a half, a third, a quarter ... of the frame"
            )
        n_bins = n_fft // 2 + 1
        if (inner.n_inputs, inner.n_outputs) != (2 * n_bins, 2 * n_bins):
            raise ParameterError(
                f"{type(inner).__name__} has {inner.n_inputs} inputs and {inner.n_outputs} outputs; frames of "
                f"{n_fft=} need {2 * n_bins} of both, {n_bins} real parts and {n_bins} imaginary parts"
            )
        if inner.sample_rate is not None:
            raise ParameterError(
                f"the inner filter is made for {inner.sample_rate:g} Hz, but runs once every {hop} samples; build it "
                "without sample_rate, and give Framed that of the signal"
            )
        self.n_inputs = self.n_outputs = 1
        self.n_fft, self.hop_length, self._n_bins = n_fft, hop, n_bins
        self.latency = n_fft + hop * inner.latency
        self.period = hop * inner.period
        self.fields = (Field("history", (n_fft,), (n_fft,)), Field("overlap", (n_fft,), (n_fft,)))

    def _windows(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        def make() -> tuple[NDArray[Any], NDArray[Any]]:
            window = np.sin(np.pi / self.n_fft * np.arange(self.n_fft))
            # a sine of amplitude 1 gives sum(window) / 2; the overlapping squares add up to n_fft / (2 hop)
            scale = window.sum() / 2
            analysis, synthesis = window / scale, window * (scale * 2 * self.hop_length / self.n_fft)
            return analysis.astype(dtype), synthesis.astype(dtype)

        windows: tuple[NDArray[Any], NDArray[Any]] = self._derived(("windows", dtype), make)
        return windows

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        inner = self.children[0]

        def apply(spectrum: NDArray[Any]) -> NDArray[Any]:
            out = np.empty((len(spectrum), 1, inner.n_outputs), spectrum.dtype)
            inner._process(spectrum, state.children[0], out)
            return out

        with np.errstate(all="ignore"):  # an inner filter that blows up is the stream's business
            self._frames(u, state, y, apply)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        memories = []

        def apply(spectrum: NDArray[Any]) -> NDArray[Any]:
            out, memory = self.children[0]._tape(spectrum, state.children[0])
            memories.append(memory)
            return out

        y = np.empty((*u.shape[:2], 1), u.dtype)
        self._frames(u, state, y, apply)
        return y, (state.index, u.shape, memories)

    def _frames(
        self, u: NDArray[Any], state: State, y: NDArray[Any], apply: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        n_fft, hop, n_frames = self.n_fft, self.hop_length, u.shape[1]
        analysis, synthesis = self._windows(u.dtype)
        history, overlap = state.rows[:, :n_fft], state.rows[:, n_fft:]
        t = 0
        while t < n_frames:
            place = (state.index + t) % n_fft
            # up to the end of this hop, so never past the end of a line
            n = min(hop - place % hop, n_frames - t)
            now, line = slice(t, t + n), slice(place, place + n)
            history[:, line] = _flushed(u[:, now, 0])
            y[:, now, 0] = overlap[:, line]
            overlap[:, line] = 0
            t += n
            oldest = place + n
            if oldest % hop == 0:
                spectrum = _rfft(np.roll(history, -oldest, axis=1) * analysis)
                spectrum = apply(np.concatenate([spectrum, u[:, t - 1, 1:]], axis=1)[:, None])[:, 0]
                overlap += np.roll(_flushed(_irfft(spectrum, n_fft) * synthesis), oldest, axis=1)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        index, (n_voices, n_frames, n_columns), memories = memory
        inner, n_fft, hop = self.children[0], self.n_fft, self.hop_length
        analysis, synthesis = self._windows(dy.dtype)
        # all but the outermost bins stand for two of the two-sided spectrum
        fold = np.full(self._n_bins, 2, dy.dtype)
        fold[0] = 1
        if n_fft % 2 == 0:
            fold[-1] = 1
        fold = np.tile(fold, 2)
        # inputs from n_fft before the block on, outputs until n_fft after it: a frame is the same slice of both
        dinput = np.zeros((n_voices, n_fft + n_frames), dy.dtype)
        dinput[:, n_frames:] = dx[:, :n_fft]
        doutput = np.concatenate([dy[..., 0], dx[:, n_fft : 2 * n_fft]], axis=1)
        dinner = dx[:, 2 * n_fft :]
        dcontrols = np.zeros((n_voices, n_frames, n_columns - 1), dy.dtype)
        params: dict[str, Any] = {name: np.zeros_like(value) for name, value in inner.params.items()}
        first = hop - index % hop
        for t, inside in zip(range(first, n_frames + 1, hop)[::-1], memories[::-1], strict=True):
            frame = slice(t, t + n_fft)
            dspectrum = _rfft(doutput[:, frame] * synthesis) * (fold / n_fft)
            dframe, dinner, gradient = inner._adjoint(inside, dspectrum[:, None], dinner)
            dspectrum, dcontrols[:, t - 1] = np.split(dframe[:, 0], [inner.n_inputs], axis=1)
            dinput[:, frame] += _irfft(dspectrum * (n_fft / fold), n_fft) * analysis
            params = {name: params[name] + value for name, value in gradient.items()}
        du = np.concatenate([dinput[:, n_fft:, None], dcontrols], axis=-1)
        dstate = np.concatenate([dinput[:, :n_fft], doutput[:, :n_fft], dinner], axis=1)
        return du, dstate, {f"0.{name}": value for name, value in params.items()}

    def _boundedness(self) -> Boundedness:
        return self.children[0]._boundedness()

    def _contraction(self) -> str | None:
        inner = self.children[0]._contraction()
        return None if inner is None else f"frames without feedback around an inner filter that forgets: {inner}"

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        raise ParameterError(
            f"Framed does the same thing again only every {self.period} samples, so no time-invariant filter stands "
            "for it and it has no poles; linearize its inner filter, filt.children[0], which runs once a frame"
        )


def _flushed(x: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.abs(x) < TINY[x.dtype.name], 0, x)


# One frame of one voice at a time: a transform of several may be vectorised across them, with other roundings.


def _rfft(frames: NDArray[Any]) -> NDArray[Any]:
    """Spectra of (voices, n_fft) as real parts, then imaginary parts; numpy's transform keeps float32."""
    half = frames.shape[1] // 2 + 1
    spectra = np.empty((len(frames), 2 * half), frames.dtype)
    for voice, frame in enumerate(frames):
        spectrum = np.fft.rfft(frame)
        spectra[voice, :half], spectra[voice, half:] = spectrum.real, spectrum.imag
    return spectra


def _irfft(spectra: NDArray[Any], n_fft: int) -> NDArray[Any]:
    half = n_fft // 2 + 1
    frames = np.empty((len(spectra), n_fft), spectra.dtype)
    for voice, spectrum in enumerate(spectra):
        frames[voice] = np.fft.irfft(spectrum[:half] + 1j * spectrum[half:], n_fft)
    return frames

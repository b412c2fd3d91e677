"""Losses for training: squared errors, audio measures, likelihoods, quantiles; each with its exact derivative."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number, reals, whole_number, whole_numbers
from rnndsp.errors import ParameterError

__all__ = [
    "DC",
    "ESR",
    "Categorical",
    "Gaussian",
    "GaussianMixture",
    "Loss",
    "MultiResolutionSTFT",
    "Quantile",
    "WeightedSum",
    "bernoulli",
    "squared",
]

Array = NDArray[Any]
# (output, target) -> (loss of every frame, derivative of their sum by the output); a target of NaN is not scored
LossFunction = Callable[[Array, Array], tuple[Array, Array]]

# What lies beyond them would not be a number in single precision any more once it is squared.
LARGEST_FLOOR_DB = 200
LEAST_SCALE = 1e-15
LARGEST_SIZE = 2**20
# Samples of windowed signals that are transformed at once: what stays in a cache.
CHUNK = 2**16
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Loss(ABC):
    """A loss with settings: a function of output and target that can be added to others and weighted.

    ``ESR() + 0.5 * DC()`` is one again, and so is the sum with a plain function. To write your own, give a frozen
    dataclass this base and a ``__call__``; its ``repr`` must name all its settings, as checkpoints tell trainings apart
    by it.
    """

    # otherwise a NumPy scalar would multiply an array of objects
    __array_ufunc__ = None

    @abstractmethod
    def __call__(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Loss of every frame, and the derivative of their sum by the output.

        Parameters
        ----------
        y : ndarray, shape (n_voices, n_frames, n_outputs)
            Voices are judged independently of each other.
        target : ndarray, shape (n_voices, n_frames, n_targets)
            NaN where not scored: for single channels, for frames, or at the end as padding.

        Returns
        -------
        values : ndarray, shape (n_voices, n_frames)
            0 for frames that are not scored. Training minimises their mean over the scored frames. The loss of a whole
            sequence stands at each of its scored frames, so that this mean is the one over the sequences, weighted by
            length.
        dy : ndarray, shape of ``y``
        """

    def n_targets(self, n_outputs: int) -> int:
        """How many channels the target of a filter with so many outputs has: as many, unless a loss says otherwise.

        Parameters
        ----------
        n_outputs : int

        Raises
        ------
        ParameterError
            No filter of so many outputs can be judged by this loss.
        """
        return n_outputs

    def __add__(self, other: LossFunction) -> WeightedSum:
        if not callable(other):
            return NotImplemented
        return WeightedSum((*_terms(self), *_terms(other)))

    def __radd__(self, other: LossFunction) -> WeightedSum:
        if not callable(other):
            return NotImplemented
        return WeightedSum((*_terms(other), *_terms(self)))

    def __mul__(self, weight: float) -> WeightedSum:
        weight = number("weight", weight)
        return WeightedSum(tuple((weight * own, loss) for own, loss in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True, repr=False)
class WeightedSum(Loss):
    r"""Sum of losses, each times a weight.

    .. math:: \ell[t] = \sum_i w_i\, \ell_i[t]

    ``ESR() + 0.5 * DC()`` makes one; written out, it also takes weights for plain functions such as :func:`squared`.

    Parameters
    ----------
    terms : tuple of pairs (weight, loss)
        Losses, or functions like them; all must want a target of the same number of channels.
    """

    terms: tuple[tuple[float, LossFunction], ...]

    def __post_init__(self) -> None:
        try:
            terms = tuple((number("weight", weight), loss) for weight, loss in self.terms)
        except TypeError:
            raise ParameterError(f"terms={self.terms!r} must be pairs of a weight and a loss") from None
        for _, loss in terms:
            if isinstance(loss, type) or not callable(loss):
                raise ParameterError(f"{loss!r} is no loss; one with settings is made first, as in ESR()")
        if not terms:
            raise ParameterError("a sum of losses needs at least one")
        object.__setattr__(self, "terms", terms)

    def __call__(self, y: Array, target: Array) -> tuple[Array, Array]:
        parts = [[weight * part for part in loss(y, target)] for weight, loss in self.terms]
        values, dy = (reduce(np.add, each) for each in zip(*parts, strict=True))
        return values, dy

    def n_targets(self, n_outputs: int) -> int:
        wanted = [n_targets(loss, n_outputs) for _, loss in self.terms]
        if len(set(wanted)) > 1:
            raise ParameterError(f"{self!r} of {n_outputs} outputs: its losses want targets of {wanted} channels")
        return wanted[0]

    def __repr__(self) -> str:
        # brackets, as it may stand in another text
        parts = [label(loss) if weight == 1 else f"{weight!r} * {label(loss)}" for weight, loss in self.terms]
        return f"({' + '.join(parts)})"


def n_targets(loss: LossFunction, n_outputs: int) -> int:
    """How many channels the target of a filter with so many outputs has; for a plain function as many."""
    return loss.n_targets(n_outputs) if isinstance(loss, Loss) else n_outputs


def label(loss: LossFunction) -> str:
    """A loss with its settings as text, the same in every process: no address of an object stands in it."""
    if isinstance(loss, Loss) and type(loss).__repr__ is not object.__repr__:
        return repr(loss)
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))


def _terms(loss: LossFunction) -> tuple[tuple[float, LossFunction], ...]:
    return loss.terms if isinstance(loss, WeightedSum) else ((1.0, loss),)


# ---- frame by frame, as many targets as outputs


def bernoulli(y: Array, target: Array) -> tuple[Array, Array]:
    r"""Negative log-likelihood of bits, in nats, from their log-odds.

    .. math:: \ell[t] = \sum_k \log(1 + e^{y_k[t]}) - x_k[t]\, y_k[t]

    Parameters
    ----------
    y : ndarray, shape (..., n_frames, n)
        Log-odds.
    target : ndarray, shape of ``y``
        The bits x, 0 or 1; NaN where not scored.

    Returns
    -------
    values : ndarray, shape (..., n_frames)
    dy : ndarray, shape of ``y``
        Derivative of the sum of the values.
    """
    scored = ~np.isnan(target)
    x = np.where(scored, target, 0)
    tail = np.exp(-np.abs(y))
    values = np.where(scored, np.maximum(y, 0) + np.log1p(tail) - x * y, 0)
    probability = np.where(y >= 0, 1, tail) / (1 + tail)
    return values.sum(axis=-1), np.where(scored, probability - x, 0)


def squared(y: Array, target: Array) -> tuple[Array, Array]:
    r"""Squared error, summed over the channels: for one channel its mean over the frames is the mean squared error.

    .. math:: \ell[t] = \sum_k (y_k[t] - x_k[t])^2

    Parameters
    ----------
    y : ndarray, shape (..., n_frames, n)
    target : ndarray, shape of ``y``
        NaN where not scored.

    Returns
    -------
    values : ndarray, shape (..., n_frames)
    dy : ndarray, shape of ``y``
        Derivative of the sum of the values.
    """
    error = np.where(np.isnan(target), 0, y - target)
    return np.sum(error**2, axis=-1), 2 * error


# ---- the losses with settings see the mask and the target apart


class _Masked(Loss):
    def __call__(self, y: Array, target: Array) -> tuple[Array, Array]:
        y, target = np.asarray(y), np.asarray(target)
        if y.ndim < 2 or y.shape[:-1] != target.shape[:-1] or target.shape[-1] != self.n_targets(y.shape[-1]):
            raise ParameterError(
                f"{self!r} of an output of shape {y.shape} and a target of shape {target.shape}: (..., n_frames, "
                "n_outputs) and (..., n_frames, n_targets)"
            )
        if y.dtype.kind != "f" or target.dtype.kind != "f":
            raise ParameterError(f"{self!r} of {y.dtype} and {target.dtype}: float32 or float64")
        n_voices = math.prod(y.shape[:-2])
        x = target.reshape(n_voices, *target.shape[-2:])
        scored = ~np.isnan(x)
        values, dy = self._masked(y.reshape(n_voices, *y.shape[-2:]), np.where(scored, x, 0), scored)
        return values.astype(y.dtype, copy=False).reshape(y.shape[:-1]), dy.astype(y.dtype, copy=False).reshape(y.shape)

    @abstractmethod
    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        """:meth:`__call__` of three axes; ``x`` is 0 where it is not scored."""


def _spread(values: Array, scored: Array) -> tuple[Array, Array]:
    """The loss of each voice at all its scored frames, and their number, which multiplies its derivative."""
    frames: Array = np.any(scored, axis=-1)
    return np.where(frames, values[:, None], 0), np.count_nonzero(frames, axis=-1)


def _floor(value: float) -> float:
    db = number("floor_db", value)
    if abs(db) > LARGEST_FLOOR_DB:
        raise ParameterError(f"floor_db={value!r} must be within {-LARGEST_FLOOR_DB} and {LARGEST_FLOOR_DB} dB")
    return db


def _energy(x: Array, scored: Array, floor_db: float) -> Array:
    """Sum of the squares of each voice, at least as if their mean were the floor's."""
    energy = np.sum(np.square(x, dtype=np.float64), axis=(1, 2))
    n = np.count_nonzero(scored, axis=(1, 2))
    return np.asarray(np.maximum(energy, np.maximum(n, 1) * 10 ** (floor_db / 10)))


@dataclass(frozen=True)
class ESR(_Masked):
    r"""Error-to-signal ratio of every sequence, behind a first-order high-pass for both signals.

    .. math::
        \ell = \frac{\sum_{t,k} (\tilde y_k[t] - \tilde x_k[t])^2}{\max(\sum_{t,k} \tilde x_k[t]^2,\; N \phi)}, \qquad
        \tilde y_k[t] = y_k[t] - p\, y_k[t-1], \qquad \phi = 10^{\mathrm{floor\_db} / 10}

    over the N numbers of the sequence that are scored, those of all its channels together. 1 is what silence gets.

    Parameters
    ----------
    pre_emphasis : float
        p, 0 to 1. The ear cares more about high frequencies than their share of the energy: 0.85 takes 16.5 dB from the
        lowest and adds 5.3 dB to the highest. 0 weighs all alike.
    floor_db : float
        Least mean square of the target that it is divided by, after the pre-emphasis, in dB relative to 1, the mean
        square of a full-scale square wave (a full-scale sine has -3 dB). It holds for silent stretches, whose ratio
        would be infinite; louder ones have their exact ratio.

    Notes
    -----
    What is not scored counts as 0 in both signals, as does what was before the first frame. The loss of a sequence
    stands at each of its scored frames. A sequence cut into pieces is a mean of the ratios of the pieces, which is not
    that of the whole: quiet pieces weigh more.

    References
    ----------
    A. Wright, E.-P. Damskägg, V. Välimäki (2019), "Real-time black-box modelling with recurrent neural networks".
    A. Wright, V. Välimäki (2020), "Perceptual loss function for neural modelling of audio systems".
    """

    pre_emphasis: float = 0.85
    floor_db: float = -60.0

    def __post_init__(self) -> None:
        p = number("pre_emphasis", self.pre_emphasis)
        if not 0 <= p <= 1:
            raise ParameterError(f"pre_emphasis={self.pre_emphasis!r} must be within 0 and 1")
        object.__setattr__(self, "pre_emphasis", p)
        object.__setattr__(self, "floor_db", _floor(self.floor_db))

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        error = self._emphasised(np.where(scored, y - x, 0), scored)
        energy = _energy(self._emphasised(x, scored), scored, self.floor_db)
        values, n = _spread(np.sum(np.square(error, dtype=np.float64), axis=(1, 2)) / energy, scored)
        dy = (2 * n / energy).astype(y.dtype)[:, None, None] * error
        dy[:, :-1] -= self.pre_emphasis * dy[:, 1:]
        return values, np.where(scored, dy, 0)

    def _emphasised(self, signal: Array, scored: Array) -> Array:
        found = signal.copy()
        found[:, 1:] -= self.pre_emphasis * signal[:, :-1]
        return np.where(scored, found, 0)


@dataclass(frozen=True)
class DC(_Masked):
    r"""Square of the mean error of every sequence, relative to the mean square of its target.

    .. math:: \ell = \frac{\sum_k N_k \left(\frac{1}{N_k} \sum_t (y_k[t] - x_k[t])\right)^2}
        {\max(\sum_{t,k} x_k[t]^2,\; N \phi)}, \qquad \phi = 10^{\mathrm{floor\_db} / 10}

    over the N_k numbers of channel k that are scored, N of all channels. Pre-emphasis leaves an error-to-signal ratio
    nearly blind to an offset; this is what is added to it.

    Parameters
    ----------
    floor_db : float
        Least mean square of the target that it is divided by, as in :class:`ESR`, but without pre-emphasis.

    References
    ----------
    A. Wright, E.-P. Damskägg, L. Juvela, V. Välimäki (2020), "Real-time guitar amplifier emulation with deep learning".
    """

    floor_db: float = -60.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor_db", _floor(self.floor_db))

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        total = np.sum(y - x, axis=1, where=scored, dtype=np.float64)
        mean = total / np.maximum(np.count_nonzero(scored, axis=1), 1)
        energy = _energy(x, scored, self.floor_db)
        values, n = _spread(np.sum(mean * total, axis=1) / energy, scored)
        slope = (2 * n / energy)[:, None] * mean
        return values, np.where(scored, slope.astype(y.dtype)[:, None], 0)


@dataclass(frozen=True)
class MultiResolutionSTFT(_Masked):
    r"""Distance of short-time spectra: spectral convergence and log magnitudes, averaged over several resolutions.

    .. math::
        \ell = \frac1R \sum_{r=1}^R \left( w_c \frac{\lVert |X_r| - |Y_r| \rVert_F}{\lVert |X_r| \rVert_F}
        + w_m \frac{1}{M_r} \bigl\lVert \log |X_r| - \log |Y_r| \bigr\rVert_1 \right), \qquad
        |Y| = \sqrt{\mathrm{Re}^2 Y + \mathrm{Im}^2 Y + \phi^2}, \quad \phi = 10^{\mathrm{floor\_db} / 20}

    with M numbers in a spectrogram, those of all channels together; logarithms are natural. Phases do not matter to it:
    it is for what no waveform loss can match, noise and long delays, and mostly stands beside one.

    Parameters
    ----------
    sizes : tuple of int
        Lengths of the windows, even, at least 4 samples. The windows are periodic Hann ones, scaled such that a sine of
        amplitude 1 at the centre of a bin has magnitude 1 there.
    hops : tuple of int, optional
        Samples from window to window for each size, at most half of it; a quarter of it when absent.
    convergence, log_magnitude : float
        The weights w_c and w_m, at least 0.
    floor_db : float
        Magnitude φ of the floor under both spectra, in dB relative to a full-scale sine: keeps silent frames finite,
        and says below what level differences no longer count.

    Notes
    -----
    The spectra are those of the stretch from the first to the last scored frame of a sequence: windows are centred on
    its first frame and every hop from there up to its end, and see zeros outside of it. So a sequence shorter than a
    window works as if it were surrounded by silence, and padding changes nothing. What is not scored within counts as 0
    in both signals. The loss of a sequence stands at each of its scored frames.

    Spectra are taken by pieces, so memory is some megabytes and about a dozen copies of the signal. Where output
    and target have equal magnitudes the loss has a kink; the derivative is taken as 0 there.

    References
    ----------
    S. Ö. Arık, H. Jun, G. Diamos (2019), "Fast spectrogram inversion using multi-head convolutional neural networks".
    R. Yamamoto, E. Song, J.-M. Kim (2020), "Parallel WaveGAN: a fast waveform generation model based on generative
    adversarial networks with multi-resolution spectrogram".
    C. J. Steinmetz, J. D. Reiss (2020), "auraloss: audio-focused loss functions in PyTorch".
    """

    sizes: Sequence[int] = (512, 1024, 2048)
    hops: Sequence[int] | None = None
    convergence: float = 1.0
    log_magnitude: float = 1.0
    floor_db: float = -100.0

    def __post_init__(self) -> None:
        sizes = whole_numbers("sizes", self.sizes, least=4)
        if np.any(sizes % 2) or sizes.max() > LARGEST_SIZE:
            raise ParameterError(f"sizes={self.sizes!r} must be even and at most {LARGEST_SIZE}")
        hops = sizes // 4 if self.hops is None else whole_numbers("hops", self.hops)
        if hops.shape != sizes.shape or np.any(2 * hops > sizes):
            raise ParameterError(f"hops={self.hops!r} must be one for each of the {sizes=}, at most half of it")
        weights = {name: number(name, getattr(self, name)) for name in ("convergence", "log_magnitude")}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ParameterError(f"weights {weights} must be at least 0, and not both 0")
        values = {"sizes": tuple(sizes.tolist()), "hops": tuple(hops.tolist()), "floor_db": _floor(self.floor_db)}
        for name, value in (values | weights).items():
            object.__setattr__(self, name, value)

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        totals, dy, y = np.zeros(len(y)), np.zeros_like(y), np.where(scored, y, 0)
        frames: Array = np.any(scored, axis=-1)
        (places,) = np.nonzero(frames.any(axis=-1))
        if len(places):
            first = frames[places].argmax(axis=-1)
            end = frames.shape[1] - frames[places, ::-1].argmax(axis=-1)
            spans, which = np.unique(np.stack([first, end], axis=-1), axis=0, return_inverse=True)
            # voices that are scored over the same stretch have their spectra taken together
            for i, (start, stop) in enumerate(spans):
                voices = places[which.ravel() == i]
                signals = np.stack([y[voices, start:stop], x[voices, start:stop]]).swapaxes(-1, -2)
                for size, hop in zip(self.sizes, self.hops or (), strict=True):
                    value, slope = self._resolution(np.ascontiguousarray(signals), size, hop)
                    totals[voices] += value
                    dy[voices, start:stop] += slope.swapaxes(-1, -2)
        values, n = _spread(totals / len(self.sizes), scored)
        return values, np.where(scored, (n / len(self.sizes)).astype(y.dtype)[:, None, None] * dy, 0)

    def _resolution(self, signals: Array, size: int, hop: int) -> tuple[Array, Array]:
        """Loss of each voice at one resolution, and its derivative by the output; (2, voices, channels, frames)."""
        _, n_voices, n_channels, n_frames = signals.shape
        dtype, middle = signals.dtype, slice(size // 2, size // 2 + n_frames)
        padded = np.zeros((2, n_voices, n_channels, n_frames + size), dtype)
        padded[..., middle] = signals
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=-1)[..., ::hop, :]
        n_windows = windows.shape[-2]
        hann = (2 / size * (1 - np.cos(2 * np.pi / size * np.arange(size)))).astype(dtype)
        # the sum over the bins of a one-sided spectrum, as irfft takes it, counts all but the outer ones twice
        count = np.full(size // 2 + 1, size / 2, dtype)
        count[[0, -1]] = size
        floor = 10 ** (self.floor_db / 10)
        error, energy, deviation = np.zeros((3, n_voices))
        slopes = np.zeros_like(padded)
        step = max(1, CHUNK // (2 * n_voices * n_channels * size))
        for start in range(0, n_windows, step):
            Y, X = np.fft.rfft(windows[..., start : start + step, :] * hann)
            a, b = (np.sqrt(Z.real**2 + Z.imag**2 + floor) for Z in (Y, X))
            difference = a - b
            for total, terms in ((error, difference**2), (energy, b**2), (deviation, np.abs(np.log(a / b)))):
                total += np.sum(terms, axis=(1, 2, 3), dtype=np.float64)
            # derivatives by the magnitudes, and from there by the spectrum
            by_magnitude = np.stack([difference, np.sign(difference) / a])
            back = np.fft.irfft(by_magnitude * (count * Y / a), size) * hann
            for i in range(back.shape[-2]):
                place = (start + i) * hop
                slopes[..., place : place + size] += back[..., i, :]
        n_numbers = n_windows * n_channels * len(count)
        values = self.convergence * np.sqrt(error / energy) + self.log_magnitude * deviation / n_numbers
        root = np.sqrt(error * energy)
        scale = np.divide(self.convergence, root, out=np.zeros(n_voices), where=root > 0).astype(dtype)
        dy = scale[:, None, None] * slopes[0] + self.log_magnitude / n_numbers * slopes[1]
        return values, dy[..., middle]


# ---- likelihoods and quantiles


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _normal(mean: Array, log_scale: Array, x: Array, scored: Array, min_scale: float) -> tuple[Array, Array, Array]:
    """Negative log densities and their derivatives by mean and log-scale, number by number; 0 where not scored."""
    log_sigma = np.logaddexp(log_scale, math.log(min_scale))
    inverse = np.exp(-log_sigma)
    z = np.where(scored, x - mean, 0) * inverse
    values = np.where(scored, 0.5 * z**2 + log_sigma + HALF_LOG_2PI, 0)
    return values, -z * inverse, np.where(scored, (1 - z**2) * np.exp(log_scale - log_sigma), 0)


def _scale(value: float) -> float:
    found = number("min_scale", value)
    if found < LEAST_SCALE:
        raise ParameterError(f"min_scale={value!r} must be at least {LEAST_SCALE}")
    return found


@dataclass(frozen=True)
class Categorical(_Masked):
    r"""Negative log-likelihood of classes, in nats, from their logits: softmax and cross-entropy.

    .. math:: \ell[t] = -\sum_k x_k[t] \log p_k[t], \qquad p_k = e^{y_k} / \sum_j e^{y_j}

    with one softmax and one sum for each group of channels.

    Parameters
    ----------
    groups : tuple of int, optional
        Numbers of classes, at least 2, of independent variables side by side: ``(12, 5)`` is one of 12 in the first 12
        channels, one of 5 in the others. All channels are one group when absent.

    Notes
    -----
    The target has the probabilities of the classes, a single 1 where the class is known; those of a group must add up
    to 1 within 0.001. A group with a NaN in it is not scored at that frame.

    References
    ----------
    J. S. Bridle (1990), "Probabilistic interpretation of feedforward classification network outputs, with relationships
    to statistical pattern recognition".
    """

    groups: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(whole_numbers("groups", self.groups, least=2).tolist()))

    def n_targets(self, n_outputs: int) -> int:
        if self.groups is not None and sum(self.groups) != n_outputs:
            raise ParameterError(f"groups={self.groups} are of {sum(self.groups)} channels, not {n_outputs}")
        return n_outputs

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        values, dy = np.zeros(y.shape[:-1]), np.zeros_like(y)
        ends = np.cumsum(self.groups or (y.shape[-1],))
        for place in map(slice, (0, *ends[:-1]), ends):
            whole: Array = np.all(scored[..., place], axis=-1, keepdims=True)
            p = np.where(whole, x[..., place], 0)
            total = p.sum(axis=-1, keepdims=True)
            if np.any(p < 0) or np.any(np.abs(total - whole) > 1e-3):
                raise ParameterError("targets of Categorical must be probabilities: at least 0, and 1 in all")
            logs = _log_softmax(y[..., place])
            values -= np.sum(p * logs, axis=-1)
            dy[..., place] = np.exp(logs) * total - p
        return values, dy


@dataclass(frozen=True)
class Gaussian(_Masked):
    r"""Negative log-likelihood, in nats, of a normal distribution for every channel of the target.

    .. math:: \ell[t] = \sum_k \frac{(x_k[t] - \mu_k[t])^2}{2 \sigma_k[t]^2} + \log \sigma_k[t] + \tfrac12 \log 2\pi,
        \qquad \sigma_k = \sigma_{\min} + e^{s_k}

    The filter has 2n outputs for n channels of the target: first all means μ, then all log-scales s.

    Parameters
    ----------
    min_scale : float
        σ_min, positive, in units of the target: without it the density of a value that is hit exactly has no limit.

    References
    ----------
    D. A. Nix, A. S. Weigend (1994), "Estimating the mean and variance of the target probability distribution".
    """

    min_scale: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_scale", _scale(self.min_scale))

    def n_targets(self, n_outputs: int) -> int:
        if n_outputs < 2 or n_outputs % 2:
            raise ParameterError(f"Gaussian takes an even number of outputs, means and log-scales, not {n_outputs}")
        return n_outputs // 2

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        mean, log_scale = np.split(y, 2, axis=-1)
        values, *slopes = _normal(mean, log_scale, x, scored, self.min_scale)
        return values.sum(axis=-1, dtype=np.float64), np.concatenate(slopes, axis=-1)


@dataclass(frozen=True)
class GaussianMixture(_Masked):
    r"""Negative log-likelihood, in nats, of a mixture of normal distributions with diagonal covariances.

    .. math:: \ell[t] = -\log \sum_{j=1}^K \pi_j[t] \prod_k \mathcal N(x_k[t];\, \mu_{jk}[t], \sigma_{jk}[t]^2), \qquad
        \pi = \mathrm{softmax}(a), \quad \sigma_{jk} = \sigma_{\min} + e^{s_{jk}}

    The filter has K (1 + 2n) outputs for n channels of the target: the K logits a, then the n means of the first
    component, those of the second and so on, then all log-scales s in the same order.

    Parameters
    ----------
    n_components : int
        K.
    min_scale : float
        σ_min, positive, in units of the target: keeps a component from collapsing onto one value.

    Notes
    -----
    Where only some channels of a frame are scored it is their marginal density that counts.

    References
    ----------
    C. M. Bishop (1994), "Mixture density networks".
    A. Graves (2013), "Generating sequences with recurrent neural networks".
    """

    n_components: int
    min_scale: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_components", whole_number("n_components", self.n_components))
        object.__setattr__(self, "min_scale", _scale(self.min_scale))

    def n_targets(self, n_outputs: int) -> int:
        n, rest = divmod(n_outputs - self.n_components, 2 * self.n_components)
        if n < 1 or rest:
            raise ParameterError(
                f"{self!r} takes n_components * (1 + 2 n) outputs for targets of n channels, not {n_outputs}"
            )
        return n

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        K, shape = self.n_components, (*y.shape[:-1], self.n_components, x.shape[-1])
        logits, *normals = np.split(y, [K, K + K * x.shape[-1]], axis=-1)
        mean, log_scale = (part.reshape(shape) for part in normals)
        apart, *slopes = _normal(mean, log_scale, x[..., None, :], scored[..., None, :], self.min_scale)
        frames = scored.any(axis=-1, keepdims=True)
        logs = _log_softmax(logits)
        joint = logs - apart.sum(axis=-1)
        # the shares of the components in the density: softmax once more
        shares = np.exp(_log_softmax(joint))
        top = joint.max(axis=-1, keepdims=True)
        values = np.where(frames, -top - np.log(np.exp(joint - top).sum(axis=-1, keepdims=True)), 0)
        by_logits = np.where(frames, np.exp(logs) - shares, 0)
        rest = [(shares[..., None] * slope).reshape(part.shape) for slope, part in zip(slopes, normals, strict=True)]
        return values[..., 0], np.concatenate([by_logits, *rest], axis=-1)


@dataclass(frozen=True)
class Quantile(_Masked):
    r"""Pinball loss: its least mean is at the quantiles of the target, given what the filter knows.

    .. math:: \ell[t] = \sum_{i,k} \max\bigl(\tau_i (x_k[t] - q_{ik}[t]),\; (\tau_i - 1)(x_k[t] - q_{ik}[t])\bigr)

    The filter has n outputs q for each level τ, n being the channels of the target: first those of the first level.

    Parameters
    ----------
    levels : tuple of float
        τ, rising, between 0 and 1: 0.5 is the median, 0.1 and 0.9 enclose four fifths of the target.

    Notes
    -----
    Nothing keeps the quantiles of two levels from crossing each other. At q = x there is a kink; the derivative is
    taken as 0 there.

    References
    ----------
    R. Koenker, G. Bassett (1978), "Regression quantiles".
    """

    levels: Sequence[float] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        levels = reals("levels", self.levels)
        if levels.ndim != 1 or not levels.size or not np.all(np.diff(levels, prepend=0, append=1) > 0):
            raise ParameterError(f"levels={self.levels!r} must rise and be between 0 and 1")
        object.__setattr__(self, "levels", tuple(levels.tolist()))

    def n_targets(self, n_outputs: int) -> int:
        n, rest = divmod(n_outputs, len(self.levels))
        if n < 1 or rest:
            raise ParameterError(f"{self!r} takes {len(self.levels)} outputs for each target, not {n_outputs} in all")
        return n

    def _masked(self, y: Array, x: Array, scored: Array) -> tuple[Array, Array]:
        levels = np.asarray(self.levels, y.dtype)[:, None]
        q = y.reshape(*y.shape[:-1], len(levels), x.shape[-1])
        error = np.where(scored[..., None, :], x[..., None, :] - q, 0)
        slope = np.where(error > 0, levels, np.where(error < 0, levels - 1, 0))
        values: Array = np.asarray(np.sum(slope * error, axis=(-1, -2), dtype=np.float64))
        return values, -slope.reshape(y.shape)

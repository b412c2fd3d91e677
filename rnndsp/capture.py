"""Learn an audio effect from a dry and a wet recording: line them up, look what is wrong with them, train, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import audio, training
from rnndsp._checks import number, real_array, require_filter, whole_number
from rnndsp.composition import Knobs
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.losses import DC, ESR

__all__ = ["Alignment", "Capture", "Pair", "alignment", "check_pair", "error_to_signal", "learn", "read_pair"]

Signal = NDArray[np.float32]
Real = NDArray[np.float64]
Progress = Callable[[int, int, str], None]

# ---- lining up
# Spectra are whitened but for what is this much weaker than their mean magnitude: for the search anywhere, where bass
# helps, and for the search nearby, where treble tells when sound begins.
COARSE, FINE = 1e-3, 1e-4
# Samples that are looked at to find the latency, and in each of the parts for the drift.
LONGEST, PART = 2**21, 2**15
# A steady note has a peak every period: the largest ones, down to this part of the top, are compared with each other.
CANDIDATES, CANDIDATE = 10, 0.4
# By how many samples what is found may be off before it is refined, and from one part to the next.
NEARBY, DRIFTED = 16, 128
# Samples on which a static curve and a short filter are tried.
TRIED, TAPS = 2**15, 8
LEAST_EXPLAINED = 0.2
# A peak is one if it exceeds the root mean square of all by so much; the largest of noise has 5 to 8.
LEAST_SHARPNESS = 10.0
# What is closer to the next sample than this is that sample.
ROUNDING = 0.25

# ---- looking at
SILENCE, CLIPPED, CLIPPED_RUN, GAP_S = 1e-4, 0.999, 3, 0.5
QUIET_DB, SHORT_S, OFFSET = -40.0, 20.0, 0.2
# Samples of the signals over which their clocks have to differ, and parts in a million.
DRIFT, DRIFT_PPM = 2.0, 5.0

# ---- training
# Where validation and test begin, as parts of the whole.
VALIDATION, TEST = 0.7, 0.85
# Epochs at most, their time at least, and how many batches the first one has, of which nobody knows how long it takes.
N_EPOCHS, EPOCH_S, FIRST_BATCHES = 60, 0.5, 4
BATCH_SIZE, WARM_UP, RATE = 32, 128, 1e-2
# Least mean square of a piece that its error is divided by, relative to that of the whole: quiet ones weigh less.
FLOOR_DB = -20.0
LEAD_IN = 48000


# ---- lining up


@dataclass(frozen=True)
class Alignment:
    """How one recording lies in time against another.

    Attributes
    ----------
    latency : int
        Samples by which the second one is late; negative where it is early.
    fraction : float
        What of a sample is left, from -0.25 up to 0.75: it is late by ``latency + fraction``. An effect that delays
        treble by itself, as every lowpass does, adds to it.
    inverted : bool
        The second one has the opposite polarity.
    explained : float
        Part of its energy that a static curve and a filter of 17 taps make out of the first one: 0.4 and more for
        distortions, below 0.15 for two recordings that do not belong together.
    drift_ppm : float
        How much faster the clock of the second one runs, in parts of a million; NaN where that cannot be told.
    """

    latency: int
    fraction: float
    inverted: bool
    explained: float
    drift_ppm: float

    @property
    def is_sure(self) -> bool:
        """Whether the two belong together."""
        return self.explained >= LEAST_EXPLAINED


def alignment(dry: ArrayLike, wet: ArrayLike) -> Alignment:
    r"""When a sound comes out of an effect, against when it went in.

    The highest peaks of either sign of the generalised cross-correlation

    .. math:: c[\tau] = \mathcal F^{-1} \frac{\overline{X} Y}{|X Y| + \epsilon \overline{|X Y|}}

    are candidates; the one is taken with which a static curve and a short filter turn most of the dry signal into the
    wet one. A second correlation, with a smaller ε, gives the sample and its part.

    Parameters
    ----------
    dry, wet : array, shape (n_frames,) or (n_frames, 1)
        Of any lengths; the first 2 097 152 frames are looked at.

    Returns
    -------
    Alignment

    Raises
    ------
    ParameterError
        Not one channel, or less than 64 frames.
    NonFiniteError
        NaN or infinity.

    Notes
    -----
    The part of a sample is where the band-limited interpolation of c has its peak; for a pure delay it is exact. The
    drift is the median slope of the latencies of 3 to 64 parts of the files, unless these lie scattered; of a file of
    some seconds it may be a quarter off. Half a second of a steady note in common may be taken for a period more or
    less.

    References
    ----------
    C. H. Knapp, G. C. Carter (1976), "The generalized correlation method for estimation of time delay".
    """
    x, y = (_mono(name, signal) for name, signal in (("dry", dry), ("wet", wet)))
    correlation = _correlation(x[:LONGEST], y[:LONGEST], COARSE)
    scores = {
        lag: _explained(*_overlap(x, y, lag))
        for lag in _candidates(correlation, min(len(x), LONGEST), min(len(y), LONGEST))
    }
    rough = max(scores, key=lambda lag: scores[lag], default=0)
    x, y = _overlap(x, y, rough)
    if not (x.any() and y.any()):
        return Alignment(rough, 0.0, False, 0.0, np.nan)
    late = rough + _peak(x[:LONGEST], y[:LONGEST], NEARBY, FINE)[0]
    latency = int(np.floor(late + ROUNDING))
    explained = scores.get(rough, 0.0)
    drift = _drift(x, y) if explained >= LEAST_EXPLAINED else np.nan
    return Alignment(latency, late - latency, bool(x @ y < 0), explained, drift)


def _mono(name: str, signal: ArrayLike) -> Real:
    array = real_array(name, signal)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) < 64:
        raise ParameterError(f"{name} of shape {array.shape}: give one channel, (n_frames,), of 64 frames at least")
    if not (finite := np.isfinite(array)).all():
        raise NonFiniteError(f"{name}: NaN or infinity at frame {np.argmin(finite)}")
    return array.astype(np.float64)


def _overlap(x: Real, y: Real, late: int) -> tuple[Real, Real]:
    """What two signals have in common, the second one being late."""
    x, y = x[max(0, -late) :], y[max(0, late) :]
    n = min(len(x), len(y))
    return x[:n], y[:n]


def _correlation(x: Real, y: Real, whitening: float) -> Real:
    """The generalised cross-correlation, circular: negative lags at its end."""
    from scipy import fft, signal

    # ends that are cut off are an impulse to what whitens
    x, y = (part * signal.windows.tukey(len(part), 0.1) for part in (x, y))
    n = fft.next_fast_len(len(x) + len(y), real=True)
    cross = np.conj(fft.rfft(x, n)) * fft.rfft(y, n)
    size = np.abs(cross)
    return np.asarray(fft.irfft(cross / np.maximum(size + whitening * size.mean(), 1e-300), n))


def _candidates(correlation: Real, n_x: int, n_y: int) -> list[int]:
    """Lags of the highest peaks of signals of so many frames."""
    height = np.abs(correlation)
    height[n_y : len(height) - n_x + 1] = 0
    least, found = CANDIDATE * height.max(), []
    for _ in range(CANDIDATES):
        top = int(np.argmax(height))
        if not height[top] or height[top] < least:
            break
        found.append(top if top < n_y else top - len(height))
        height[np.arange(top - TAPS, top + TAPS + 1) % len(height)] = 0
    return found


def _explained(x: Real, y: Real) -> float:
    """Part of the energy of y that a static curve of x, and a filter of every second tap about 0, explain."""
    if len(x) > TRIED:  # where it is loudest
        energy = np.cumsum(y**2)
        start = int(np.argmax(energy[TRIED:] - energy[:-TRIED]))
        x, y = x[start : start + TRIED], y[start : start + TRIED]
    level = float(np.std(x))
    if len(x) < 32 * TAPS or not level:
        return 0.0
    bent = np.tanh(x / level)
    curves = np.stack([x, bent, np.tanh(5 * x / level), bent**2], axis=-1)
    A = np.concatenate([np.roll(curves, n, axis=0) for n in range(-TAPS, TAPS + 1, 2)], axis=1)[TAPS:-TAPS]
    A, b = A - A.mean(axis=0), y[TAPS:-TAPS] - y[TAPS:-TAPS].mean()
    normal = A.T @ A
    normal[np.diag_indices_from(normal)] += 1e-8 * np.trace(normal) / len(normal)
    error = b - A @ np.linalg.solve(normal, A.T @ b)
    return max(0.0, 1 - float(error @ error) / max(float(b @ b), 1e-300))


def _peak(x: Real, y: Real, reach: int, whitening: float) -> tuple[float, float]:
    """By how many samples y is late, at most ``reach``, and how far the peak stands out."""
    from scipy import signal

    correlation = _correlation(x, y, whitening)
    peak = int(np.argmax(np.abs(correlation[np.arange(-reach, reach + 1)]))) - reach
    around = np.sign(correlation[peak]) * correlation[np.arange(peak - 32, peak + 32)]
    dense = np.asarray(signal.resample(around, 16 * len(around)))
    top = 16 * 31 + int(np.argmax(dense[16 * 31 : 16 * 33 + 1]))
    a, b, c = dense[top - 1 : top + 2]
    bend = a - 2 * b + c
    part = (top + (0.5 * (a - c) / bend if bend else 0.0)) / 16 - 32
    return float(peak + part), float(dense[top] / max(_level(correlation), 1e-300))


def _drift(x: Real, y: Real) -> float:
    """How much later a second signal, aligned to the first, becomes, in parts of a million."""
    from scipy import stats

    n_parts = min(64, len(x) // PART)
    if n_parts < 3:
        return np.nan
    # from the middle out, as that is where the latency of the whole holds
    starts = np.linspace(0, len(x) - PART, n_parts).astype(int)
    found = {}
    for way in (starts[n_parts // 2 :], starts[: n_parts // 2][::-1]):
        guess = 0
        for start in way:
            u, v = _overlap(x[start : start + PART], y[max(0, start + guess) : start + guess + PART], 0)
            late, sharpness = _peak(u, v, DRIFTED, COARSE) if len(v) > PART // 2 else (0.0, 0.0)
            if sharpness >= LEAST_SHARPNESS:
                found[int(start)] = guess + late
                guess = round(guess + late)
    if len(found) < 3:
        return np.nan
    at, late_at = np.array(list(found)), np.array(list(found.values()))
    slope, level, _, _ = stats.theilslopes(late_at, at)
    # each part has its latency where it is loudest; a clock that runs faster counts more samples
    scatter = np.median(np.abs(late_at - level - slope * at))
    return 1e6 * float(slope) if scatter < 0.5 * (1 + abs(slope) * PART) else np.nan


# ---- looking at


@dataclass(frozen=True)
class Pair:
    """Two recordings of the same sound, lined up: what goes into an effect, and what comes out.

    Attributes
    ----------
    dry : ndarray, shape (n_frames, 1 + number of knobs), float32
        The signal, and where the knobs stood.
    wet : ndarray, shape (n_frames, 1), float32
    sample_rate : float
        Hz.
    knobs : tuple of str
    latency : int
        Samples that were taken off the start of ``wet``; of ``dry`` where it is negative. One less than what was found,
        but for 0: to let an effect answer a sample late costs little, to ask for it a sample before it is played a lot.
    alignment : Alignment or None
        As it was found; None where the latency was given.
    remarks : tuple of str
        What is not as it should be, in whole sentences.
    """

    dry: Signal
    wet: Signal
    sample_rate: float
    knobs: tuple[str, ...]
    latency: int
    alignment: Alignment | None
    remarks: tuple[str, ...]

    @property
    def level(self) -> float:
        """Root mean square of the dry signal."""
        return _level(self.dry[:, 0])

    @property
    def gain(self) -> float:
        """By how much the dry signal is multiplied where that alone comes closest to the wet one."""
        x = self.dry[:, 0].astype(np.float64)
        return float(x @ self.wet[:, 0]) / max(float(x @ x), 1e-300)

    @property
    def splits(self) -> tuple[int, int]:
        """The frames where validation and test begin."""
        return int(VALIDATION * len(self.wet)), int(TEST * len(self.wet))

    def __str__(self) -> str:
        found = self.alignment
        lines = [f"{_seconds(len(self.wet), self.sample_rate)} in common at {self.sample_rate:g} Hz"]
        lines[0] += f", level {_db(self.level):.1f} dB dry, {_db(_level(self.wet)):.1f} dB wet"
        late = self.latency if found is None else found.latency + found.fraction
        line = f"wet is {abs(late):.{2 * (found is not None)}f} samples {'late' if late >= 0 else 'early'}"
        line += f" ({1e3 * abs(late) / self.sample_rate:.2f} ms)"
        if found is None:
            line += ", as told"
        else:
            line += ", inverted" * found.inverted + f"; {self.latency} are taken off"
            line += f"; a curve and a short filter explain {100 * found.explained:.0f} % of it"
        lines.append(line)
        return "\n".join([*lines, *(f"note: {remark}" for remark in self.remarks)])


def read_pair(
    dry: str | PathLike[str],
    wet: str | PathLike[str],
    *,
    knobs: Sequence[str] = (),
    latency: int | None = None,
) -> Pair:
    """Two audio files as a :class:`Pair`.

    Parameters
    ----------
    dry, wet : path
        Files as in :func:`rnndsp.audio.read`, of one sample rate.
    knobs, latency
        As in :func:`check_pair`.

    Raises
    ------
    ParameterError, FormatError
        As in :func:`rnndsp.audio.read` and :func:`check_pair`.
    """
    (u, rate), (x, other) = (audio.read(path) for path in (dry, wet))
    if rate != other:
        raise ParameterError(
            f"{fspath(dry)!r} has {rate} Hz, {fspath(wet)!r} {other} Hz: they must be of one sample rate; convert one "
            f"of them, as in 'sox in.wav -r {rate} out.wav'"
        )
    names = f"dry, {fspath(dry)!r},", f"wet, {fspath(wet)!r},"
    return _checked(u, x, float(rate), tuple(knobs), latency, names)


def check_pair(
    dry: ArrayLike,
    wet: ArrayLike,
    *,
    sample_rate: float,
    knobs: Sequence[str] = (),
    latency: int | None = None,
) -> Pair:
    """Line up two recordings, cut them to what they have in common, and say what is wrong with them.

    Parameters
    ----------
    dry : array, shape (n_frames,) or (n_frames, n_channels)
        What went into the effect; full scale is ±1. Its first channel is the signal, the next ones say where the knobs
        stood, one for each of their names. Two equal channels without any knob count as one.
    wet : array, shape (n_frames,) or (n_frames, 1)
        What came out.
    sample_rate : float
        Hz.
    knobs : sequence of str
    latency : int, optional
        Samples by which ``wet`` is late; found by :func:`alignment` when absent.

    Returns
    -------
    Pair
        Silence at both ends is cut off, too.

    Raises
    ------
    ParameterError
        Stereo, silence, a latency that is not found, less in common than can be learnt from.
    NonFiniteError
        NaN or infinity in a signal.
    """
    return _checked(dry, wet, number("sample_rate", sample_rate), tuple(knobs), latency, ("dry", "wet"))


def _checked(
    dry: ArrayLike, wet: ArrayLike, rate: float, knobs: tuple[str, ...], latency: int | None, names: tuple[str, str]
) -> Pair:
    if rate <= 0:
        raise ParameterError(f"sample_rate={rate:g} must be positive")
    if len(set(knobs)) < len(knobs):
        raise ParameterError(f"knobs {list(knobs)}: two have the same name")
    u, x = _channels(names[0], dry, 1 + len(knobs)), _channels(names[1], wet, 1)
    for name, signal in zip(names, (u, x), strict=True):
        if not (finite := np.isfinite(signal).all(axis=1)).all():
            place = int(np.argmin(finite))
            raise NonFiniteError(f"{name} has NaN or infinity at {place / rate:.4f} s; export it again")
        if (peak := float(np.max(np.abs(signal[:, 0]), initial=0))) < SILENCE:
            raise ParameterError(
                f"{name} is silent: its peak is {_db(peak):.0f} dB; was the right track recorded, and the effect on?"
            )
    found = None
    if latency is None:
        found = alignment(u[:, 0], x)
        if not found.is_sure:
            raise ParameterError(
                f"{names[0]} and {names[1]} do not seem to be of the same performance: at no latency does the one "
                f"explain more than {100 * found.explained:.0f} % of the other. If they are, and the effect leaves "
                "nothing as it was, say the latency yourself, latency=SAMPLES (--latency on the command line)"
            )
        latency = found.latency - (found.latency != 0)
    else:
        latency = whole_number("latency", latency, least=-(2**62))
    left = len(u) - max(0, -latency), len(x) - max(0, latency)
    u, x = u[max(0, -latency) :][: max(0, left[1])], x[max(0, latency) :][: max(0, left[0])]
    remarks = []
    if (rest := abs(left[0] - left[1])) >= GAP_S * rate:
        longer = "dry" if left[0] > left[1] else "wet"
        remarks.append(f"{longer} goes on for {_seconds(rest, rate)} after the end of the other one: not used")
    (loud,) = np.nonzero(np.abs(x[:, 0]) >= SILENCE)
    if len(loud):
        u, x = u[loud[0] : loud[-1] + 1], x[loud[0] : loud[-1] + 1]
    if len(x) < 4096 or not u[:, 0].any():
        raise ParameterError(
            f"{names[0]} and {names[1]} have {_seconds(len(x), rate)} of sound in common: too little to learn from; a "
            "minute or more is good"
        )
    remarks += _remarks(u[:, 0], x[:, 0], rate, found)
    return Pair(np.ascontiguousarray(u), np.ascontiguousarray(x), rate, knobs, latency, found, tuple(remarks))


def _channels(name: str, value: ArrayLike, n: int) -> Signal:
    array = real_array(name, value)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ParameterError(f"{name} of {array.dtype} and shape {array.shape}: give floats, (n_frames, n_channels)")
    if array.shape[1] == 2 and n == 1 and np.array_equal(array[:, 0], array[:, 1]):
        array = array[:, :1]
    if array.shape[1] != n:
        many = f"{array.shape[1]} channel{'s' * (array.shape[1] != 1)}"
        if n > 1:
            raise ParameterError(f"{name} has {many}; the signal and {n - 1} knob{'s' * (n > 2)} are {n}")
        raise ParameterError(
            f"{name} has {many}, and a capture is of one; export one of them, as in 'sox in.wav out.wav remix 1'"
            + ", or name the others as knobs" * name.startswith("dry")
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _remarks(u: Signal, x: Signal, rate: float, found: Alignment | None) -> Iterator[str]:
    if len(x) < SHORT_S * rate:
        yield f"{_seconds(len(x), rate)} is short: what is not played cannot be learnt; a minute or more is good"
    for name, signal in (("dry", u), ("wet", x)):
        if runs := _runs(np.abs(signal) >= CLIPPED, CLIPPED_RUN):
            first, n = runs[0][0] / rate, sum(stop - start for start, stop in runs)
            yield (
                f"{name} clips: {n} samples at full scale at {len(runs)} places, first at {first:.2f} s; record it "
                "some dB lower, or what the converter did will be learnt, too"
            )
        if (level := _db(_level(signal))) < QUIET_DB:
            yield f"{name} is quiet, {level:.1f} dB: raise its level, as noise is learnt, too"
        if abs(offset := float(signal.mean(dtype=np.float64))) > OFFSET * _level(signal):
            yield f"{name} has an offset of {offset:+.4f}, {100 * abs(offset) / _level(signal):.0f} % of its level"
    if gaps := _runs(np.abs(x) < SILENCE, int(GAP_S * rate)):
        total = sum(stop - start for start, stop in gaps)
        yield f"wet is silent for {_seconds(total, rate)} in all, at {len(gaps)} places"
    if _level(x[int(TEST * len(x)) :]) < 0.01 * _level(x):
        yield "the end, on which the result is judged, is nearly silent: its error says little"
    if found is not None:
        drift = found.drift_ppm * 1e-6 * len(x)
        if abs(drift) > DRIFT and abs(found.drift_ppm) > DRIFT_PPM:
            yield (
                f"the clocks differ by {found.drift_ppm:.0f} parts in a million, {drift:+.1f} samples over the whole: "
                "play and record with one and the same interface"
            )


def _runs(there: NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    """First and last but one index of the stretches that are at least so long."""
    edges = np.flatnonzero(np.diff(np.r_[0, there.astype(np.int8), 0])).reshape(-1, 2)
    return [(int(start), int(stop)) for start, stop in edges if stop - start >= least]


def _level(signal: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def _db(magnitude: float) -> float:
    return 20 * float(np.log10(magnitude)) if magnitude else -np.inf


def _seconds(n_frames: int, rate: float) -> str:
    return f"{n_frames / rate:.2f} s"


# ---- training


@dataclass(frozen=True)
class Capture:
    """What :func:`learn` gives.

    Attributes
    ----------
    filter : Filter
        In single precision, with the sample rate of the recordings; knobs are controls.
    pair : Pair
    fit : rnndsp.training.Fit
        How the training went.
    seconds : float
        How long it took.
    y : ndarray, shape (n_frames, 1)
        What the filter makes of the whole dry recording, from rest.
    """

    filter: Filter
    pair: Pair
    fit: training.Fit[Filter]
    seconds: float
    y: Signal

    def _held_out(self, pre_emphasis: float) -> float:
        test = slice(self.pair.splits[1], None)
        return error_to_signal(self.y[test], self.pair.wet[test], pre_emphasis=pre_emphasis)

    @cached_property
    def esr(self) -> float:
        """Error-to-signal ratio of the last 15 % of the recording, which nothing was learnt from."""
        return self._held_out(0.0)

    @cached_property
    def esr_emphasised(self) -> float:
        """The same behind the high-pass of :class:`rnndsp.losses.ESR`, which makes treble count as the ear does."""
        return self._held_out(ESR().pre_emphasis)

    @cached_property
    def esr_by_second(self) -> Real:
        """Error-to-signal ratio of every second of the recording, the last one shorter; shape (n,)."""
        n = max(1, round(self.pair.sample_rate))
        starts = range(0, len(self.y), n)
        return np.array([error_to_signal(self.y[t : t + n], self.pair.wet[t : t + n]) for t in starts])

    def __str__(self) -> str:
        worst = int(np.argmax(self.esr_by_second))
        median, most = float(np.median(self.esr_by_second)), float(self.esr_by_second[worst])
        held_out = _seconds(len(self.y) - self.pair.splits[1], self.pair.sample_rate)
        return (
            f"ESR {self.esr:.2g} ({10 * np.log10(max(self.esr, 1e-30)):.1f} dB) on the last {held_out}, held out; "
            f"{self.esr_emphasised:.2g} with pre-emphasis\n"
            f"second by second {median:.2g} in the median, {most:.2g} at worst, at {worst} s; "
            f"trained for {self.seconds:.0f} s, {len(self.fit.history)} epochs, the best is {self.fit.best}"
        )


def error_to_signal(y: ArrayLike, target: ArrayLike, *, pre_emphasis: float = 0.0) -> float:
    """Energy of the error relative to that of the target, both behind a first-order high-pass.

    Parameters
    ----------
    y, target : array, shape (n_frames, n_channels)
    pre_emphasis : float
        See :class:`rnndsp.losses.ESR`, whose floor of -60 dB holds, too: silent targets count as if they were as loud.
    """
    values, _ = ESR(pre_emphasis=pre_emphasis)(np.asarray(y, np.float64), np.asarray(target, np.float64))
    return float(values[0])


def learn(
    filt: Filter,
    pair: Pair,
    *,
    minutes: float = 2.0,
    n_batches: int | None = None,
    n_warm_up: int = WARM_UP,
    n_frames: int | None = None,
    rate: float = RATE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Capture:
    """Train a filter to sound like an effect, for so much time, and judge it by what it has not heard.

    The first 70 % of the recording are learnt from, in pieces from random places; the next 15 % say which weights are
    kept; the last 15 % what they are worth. The loss is :class:`rnndsp.losses.ESR` with pre-emphasis plus
    :class:`rnndsp.losses.DC`.

    Parameters
    ----------
    filt : Filter
        Of one output, and as many inputs as ``pair.dry`` has channels: :func:`rnndsp.filters.recurrent_effect` makes
        one. It is not changed.
    pair : Pair
    minutes : float
        When to be done, compilation not counted.
    n_batches : int, optional
        Train on so many batches of 32 pieces in place of a time: then the same seed gives the same weights.
    n_warm_up : int
        Frames of each piece that are not scored, in which the state settles: how far the effect looks back. Flangers,
        echoes and compressors need more.
    n_frames : int, optional
        Frames of each piece that are scored, four times ``n_warm_up`` when absent.
    rate : float
        Of Adam, at the start.
    seed : int
    progress : function, optional
        Called with the batches done, their total, and a line about the last epoch.

    Returns
    -------
    Capture

    Raises
    ------
    ParameterError
        A filter or setting that does not fit, or a recording shorter than a piece.
    NonFiniteError
        The training exploded; a lower rate helps.
    """
    n_warm_up = whole_number("n_warm_up", n_warm_up)
    n_frames = 4 * n_warm_up if n_frames is None else whole_number("n_frames", n_frames)
    if number("minutes", minutes) <= 0:
        raise ParameterError(f"{minutes=} must be positive")
    if n_batches is not None:
        n_batches = whole_number("n_batches", n_batches)
    if (require_filter(filt).n_inputs, filt.n_outputs) != (pair.dry.shape[1], 1):
        raise ParameterError(
            f"a filter of {filt.n_inputs} inputs and {filt.n_outputs} outputs; this capture has {pair.dry.shape[1]} "
            "(the signal, and the knobs) and 1"
        )
    if filt.sample_rate not in (None, pair.sample_rate):
        raise ParameterError(f"the filter has {filt.sample_rate:g} Hz, the recordings {pair.sample_rate:g} Hz")
    _with_knobs(filt, pair)  # or it refuses their names
    validation, test = pair.splits
    if validation < n_frames + n_warm_up:
        raise ParameterError(
            f"{n_frames=} and {n_warm_up=} are more than the {validation} frames there are to learn from"
        )
    pieces = _Pieces(pair.dry[:validation], pair.wet[:validation], n_frames, n_warm_up)
    lead_in = max(0, validation - LEAD_IN)
    target = pair.wet[lead_in:test].copy()
    target[: validation - lead_in] = np.nan
    held_out = [(pair.dry[lead_in:test], target)]
    floor_db = max(_db(_level(pair.wet)) + FLOOR_DB, -200.0)

    def fitted(data: Any, n_epochs: int, tell: Progress | None) -> training.Fit[Filter]:
        """The one place that trains."""
        return training.fit(
            filt,
            data,
            ESR(floor_db=floor_db) + DC(floor_db=floor_db),
            validation=held_out,
            n_epochs=n_epochs,
            batch_size=BATCH_SIZE,
            rate=rate,
            seed=seed,
            progress=tell,
        )

    if n_batches is None:
        fitted(pieces.fixed(1), 1, None)  # compiles
        began = time.perf_counter()
        n_epochs = min(N_EPOCHS, max(4, round(60 * minutes / EPOCH_S)))
        done = fitted(pieces.timed(60 * minutes, n_epochs), n_epochs, progress)
    else:
        began = time.perf_counter()
        each = -(-n_batches // N_EPOCHS)
        done = fitted(pieces.fixed(each), -(-n_batches // each), progress)
    seconds = time.perf_counter() - began
    single = {name: value.astype(np.float32) for name, value in done.filter.params.items()}
    model = done.filter.replace(**single, sample_rate=pair.sample_rate)
    y = model(pair.dry)
    return Capture(_with_knobs(model, pair), pair, done, seconds, np.asarray(y, np.float32))


class _Pieces:
    """Data for training: pieces of a recording from random places."""

    def __init__(self, dry: Signal, wet: Signal, n_frames: int, n_warm_up: int) -> None:
        self.dry, self.wet, self.n_warm_up, self.length = dry, wet, n_warm_up, n_frames + n_warm_up

    def draw(self, rng: np.random.Generator, n_batches: int) -> list[tuple[Signal, Signal]]:
        pieces = []
        for start in rng.integers(0, len(self.dry) - self.length + 1, n_batches * BATCH_SIZE):
            place = slice(start, start + self.length)
            target = self.wet[place].copy()
            target[: self.n_warm_up] = np.nan
            pieces.append((self.dry[place], target))
        return pieces

    def fixed(self, n_batches: int) -> Callable[[np.random.Generator], list[tuple[Signal, Signal]]]:
        return lambda rng: self.draw(rng, n_batches)

    def timed(self, seconds: float, n_epochs: int) -> Callable[[np.random.Generator], list[tuple[Signal, Signal]]]:
        """Epochs of as many batches as there is time for."""
        end, left = time.perf_counter() + seconds, n_epochs
        last, n_batches = 0.0, 0

        def draw(rng: np.random.Generator) -> list[tuple[Signal, Signal]]:
            nonlocal last, n_batches, left
            now = time.perf_counter()
            n_batches = (
                max(1, round(max(0.0, end - now) / left * n_batches / (now - last))) if n_batches else FIRST_BATCHES
            )
            last, left = now, max(1, left - 1)
            return self.draw(rng, n_batches)

        return draw


def _with_knobs(model: Filter, pair: Pair) -> Filter:
    """Knobs stand at the median of where they stood, and turn as far as they were turned, or from 0 to 1."""
    if not pair.knobs:
        return model
    where = pair.dry[:, 1:]
    low, high = min(0.0, float(where.min())), max(1.0, float(where.max()))
    return Knobs(model, dict(zip(pair.knobs, np.median(where, axis=0).tolist(), strict=True)), low=low, high=high)

"""What a nonlinear filter adds to sines, and what it does by itself: harmonics, intermodulation, aliasing, oscillation.

Every measure drives one input with tones of a whole number of cycles a window, waits until the output repeats, and
takes the spectrum of one window: there is no leakage, and what is read off is exact to rounding once the filter has
settled. Levels in dB are of the amplitude: a sine of amplitude 1 has 0 dB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.state import State

__all__ = [
    "Aliasing",
    "Behaviour",
    "DescribingFunction",
    "HarmonicDistortion",
    "Intermodulation",
    "Motion",
    "OrbitDiagram",
    "aliasing",
    "describing_function",
    "harmonic_distortion",
    "intermodulation",
    "limit_cycle",
    "orbit_diagram",
]

# Two windows that differ by less, relative to the largest value in them, are the same.
SETTLED = 1e-13
# Numbers that a window of all voices may hold.
MAX_SIZE = 2**25
# Tones of a standard, and the amplitude of the first over that of the second.
TONES = {"smpte": ((60.0, 7000.0), 4.0), "ccif": ((19000.0, 20000.0), 1.0)}
# How far a filter that was bounded would never get.
BLOWN_UP = 1e9
# Length of a stimulus in frames, and of the pieces in which silence follows.
PIECE = 8192
# A curve is closed where the mean step along it, sorted by phase, is smaller in terms of the mean excursion.
CLOSED = 0.01
# A wave repeats after a whole number of samples where it returns as exactly as this. That is much finer, as one of two
# frequencies nearly returns now and then.
REPEATS = 1e-4
# Of a cycle that is told from other motions there are so many.
LEAST_CYCLES = 8
# A cycle whose second half is larger or smaller than its first by more is on its way to something else.
STEADY = 1e-4

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


def _db(ratio: ArrayLike) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 20 * np.log10(np.abs(ratio))


@dataclass(frozen=True)
class DescribingFunction:
    """The gain of the fundamental against level.

    Attributes
    ----------
    frequency_hz : float
        The one that was measured: that nearest to the one asked for of which a window holds whole cycles.
    levels_db : ndarray, shape (n_levels,)
        Of the sine at the input.
    gain : ndarray of complex, shape (n_levels,)
        Fundamental of the output over the sine at the input.
    drift : ndarray, shape (n_levels,)
        Change of the output from the window before to the one that was measured, relative to its largest value. What is
        not small has not settled, or does not repeat with the drive: then the gain is one of many.
    """

    frequency_hz: float
    levels_db: Real
    gain: Complex
    drift: Real

    @property
    def gain_db(self) -> Real:
        """Magnitude in dB."""
        return np.asarray(_db(self.gain))

    @property
    def phase_deg(self) -> Real:
        """Phase in degrees, without jumps from one level to the next."""
        return np.degrees(np.unwrap(np.angle(self.gain)))


@dataclass(frozen=True)
class HarmonicDistortion:
    """Harmonics of a sine against its level.

    Attributes
    ----------
    frequency_hz : float
        The one that was measured, see :class:`DescribingFunction`.
    levels_db : ndarray, shape (n_levels,)
        Of the sine at the input.
    harmonics : ndarray of complex, shape (n_levels, n_harmonics)
        Amplitudes, the fundamental first, only those below half the sample rate. For an input a cos(w t) the output
        holds Re sum_n harmonics[n-1] exp(i n w t).
    dc_shift : ndarray, shape (n_levels,)
        Mean of the output, less its mean on silence.
    thd : ndarray, shape (n_levels,)
        Total harmonic distortion: root of the power of *all* harmonics from the second to half the sample rate, over
        the amplitude of the fundamental.
    aliasing : ndarray, shape (n_levels,)
        The same of all that is neither DC nor one of these harmonics: aliased ones, noise, subharmonics.
    drift : ndarray, shape (n_levels,)
        As in :class:`DescribingFunction`.
    """

    frequency_hz: float
    levels_db: Real
    harmonics: Complex
    dc_shift: Real
    thd: Real
    aliasing: Real
    drift: Real

    @property
    def harmonics_db(self) -> Real:
        """Level of each harmonic, shape (n_levels, n_harmonics); 0 dB is an amplitude of 1."""
        return np.asarray(_db(self.harmonics))

    @property
    def thd_db(self) -> Real:
        """:attr:`thd` in dB."""
        return np.asarray(_db(self.thd))

    @property
    def thd_n(self) -> Real:
        """THD+N: all but DC and the fundamental, over the fundamental."""
        return np.hypot(self.thd, self.aliasing)

    @property
    def thd_n_db(self) -> Real:
        """:attr:`thd_n` in dB."""
        return np.asarray(_db(self.thd_n))

    @property
    def aliasing_db(self) -> Real:
        """:attr:`aliasing` in dB."""
        return np.asarray(_db(self.aliasing))


@dataclass(frozen=True)
class Intermodulation:
    """What two tones make of each other.

    Attributes
    ----------
    tones_hz : ndarray, shape (2,)
        f1 and f2, those that were measured, see :class:`DescribingFunction`.
    level_db : float
        Of the peak of both together at the input.
    tones : ndarray, shape (2,)
        Their amplitudes in the output.
    orders : ndarray of int, shape (n_products, 2)
        m and n of each product m f1 + n f2; those of one tone alone are harmonics and not among them.
    products_hz : ndarray, shape (n_products,)
        Their frequencies, between 0 and half the sample rate: none is aliased.
    products : ndarray, shape (n_products,)
        Their amplitudes.
    spectrum_hz, spectrum : ndarray, shape (n_frames // 2 + 1,)
        All of the output, as amplitudes.
    drift : float
        As in :class:`DescribingFunction`.
    """

    tones_hz: Real
    level_db: float
    tones: Real
    orders: NDArray[np.int64]
    products_hz: Real
    products: Real
    spectrum_hz: Real
    spectrum: Real
    drift: float

    def amplitude(self, m: int, n: int) -> float:
        """Amplitude of the product at ``m f1 + n f2`` (or its negative); NaN where it was not measured.

        Parameters
        ----------
        m, n : int
        """
        found = (self.orders == (m, n)).all(1) | (self.orders == (-m, -n)).all(1)
        return float(self.products[found][0]) if found.any() else np.nan

    @property
    def products_db(self) -> Real:
        """Level of each product; 0 dB is an amplitude of 1."""
        return np.asarray(_db(self.products))

    @property
    def imd_db(self) -> float:
        """Root of the power of all products over that of both tones, in dB."""
        return float(_db(np.linalg.norm(self.products) / np.linalg.norm(self.tones)))

    @property
    def modulation_db(self) -> float:
        """Modulation distortion, in dB: the sidebands of f2 at +-f1 and +-2 f1, over f2; what SMPTE's tones are for.

        With a(f) the amplitude at f and d_n = (a(f2 + n f1) + a(f2 - n f1)) / a(f2), it is the root of d_1^2 + d_2^2.
        """
        first, second = (self.amplitude(n, 1) + self.amplitude(-n, 1) for n in (1, 2))
        return float(_db(np.hypot(first, second) / self.tones[1]))

    @property
    def difference_db(self) -> float:
        """Difference-frequency distortion of second order, in dB: a(f2 - f1) / (2 a(f2)); what CCIF's tones are for."""
        return float(_db(self.amplitude(-1, 1) / (2 * self.tones[1])))


@dataclass(frozen=True)
class Aliasing:
    """Aliasing against the frequency of a sine.

    Attributes
    ----------
    frequency_hz : ndarray, shape (n,)
        Those that were measured, see :class:`DescribingFunction`.
    level_db : float
        Of the sine at the input.
    ratio : ndarray, shape (n,)
        Aliasing-to-signal ratio, one of *power*.
    drift : ndarray, shape (n,)
        As in :class:`DescribingFunction`.
    """

    frequency_hz: Real
    level_db: float
    ratio: Real
    drift: Real

    @property
    def ratio_db(self) -> Real:
        """The ratio in dB."""
        return np.asarray(_db(np.sqrt(self.ratio)))


class Behaviour(StrEnum):
    """What a filter does on silence in the long run."""

    REST = "rest"
    CYCLE = "limit cycle"
    IRREGULAR = "quasi-periodic or chaotic"
    FADING = "still fading"
    GROWING = "still growing"
    BLOW_UP = "blow-up"


@dataclass(frozen=True)
class Motion:
    """What became of one start.

    Attributes
    ----------
    start : str
        The stimulus, or which initial state.
    behaviour : Behaviour
    frequency_hz : float
        Of a limit cycle, else NaN.
    level_db : float
        Of what oscillates at the loudest output: 0 dB has the power of a sine of amplitude 1. It is -inf at rest.
    dc : float
        Mean of that output; NaN after a blow-up.
    state : State
        Where the search ended: going on from here goes on with the motion.
    """

    start: str
    behaviour: Behaviour
    frequency_hz: float
    level_db: float
    dc: float
    state: State


@dataclass(frozen=True)
class OrbitDiagram:
    """The values that an output visits in the long run, against a parameter.

    Attributes
    ----------
    parameter : str
        What the values are of: "input level", the name of a knob, or "parameter".
    values : ndarray, shape (n_values,)
    orbits : ndarray, shape (n_values, n_starts, n_orbit)
        One sample a period of the drive; NaN where the filter blew up.
    """

    parameter: str
    values: Real
    orbits: Real

    def period(self, tolerance: float = 1e-6) -> NDArray[np.int64]:
        """After how many periods of the drive each orbit repeats, shape (n_values, n_starts).

        Parameters
        ----------
        tolerance : float
            What counts as the same, in terms of the orbit's largest magnitude. Near a bifurcation an orbit settles
            slowly, and is called longer than it is unless ``n_transient`` is large.

        Returns
        -------
        ndarray of int
            0 where an orbit does not repeat within half of ``n_orbit``.
        """
        n = self.orbits.shape[2]
        found = np.zeros(self.orbits.shape[:2], np.int64)
        close = tolerance * np.max(np.abs(self.orbits), axis=2)
        for p in range(n // 2, 0, -1):
            found[np.max(np.abs(self.orbits[..., p:] - self.orbits[..., :-p]), axis=2) <= close] = p
        return found


# ---- measures of sines


def describing_function(
    filt: Filter,
    frequency_hz: float,
    levels_db: ArrayLike,
    *,
    channel: int = 0,
    output: int = 0,
    state: State | None = None,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    n_frames: int = 8192,
    n_windows: int = 32,
) -> DescribingFunction:
    """Gain of the fundamental against level: the frequency response of a nonlinear filter, one frequency at a time.

    Parameters
    ----------
    filt : Filter
    frequency_hz : float
        Between 0 and half the sample rate.
    levels_db : array, shape (n_levels,)
        Levels of the sine, 0 dB for an amplitude of 1. All of them are measured at once, as voices of one run.
    channel, output : int
        The input that gets the sine, the others getting silence; and the output that is looked at.
    state : State, optional
        Of one voice, where all levels start; the initial state when absent. A filter with several rest states may
        answer differently from each.
    controls : mapping of str to float, optional
    sample_rate : float, optional
        In Hz, needed where the filter has none of its own.
    n_frames : int
        Length of a window, rounded up to a multiple of ``filt.period``. Frequencies are as fine as the sample rate over
        half of it.
    n_windows : int
        Windows to wait at most for the output to repeat, at least 2.

    Returns
    -------
    DescribingFunction
        It includes the filter's latency, as a phase.

    Raises
    ------
    ParameterError
    NonFiniteError
        The filter blew up.

    Notes
    -----
    The describing function predicts a loop round the filter only as far as the rest of the loop takes away the
    harmonics.

    References
    ----------
    A. Gelb, W. E. Vander Velde (1968), "Multiple-Input Describing Functions and Nonlinear System Design".
    """
    levels = _levels(levels_db)
    rate = _rate(filt, sample_rate)
    n_frames = _window(filt, n_frames)
    k = _coprime(frequency_hz, rate, n_frames)
    y, drift = _settled(filt, _sines(levels, k, n_frames), channel, output, state, controls, n_windows)
    gain = 2j * np.fft.rfft(y)[:, k] / n_frames / _amplitude(levels)
    return DescribingFunction(k * rate / n_frames, levels, gain, drift)


def harmonic_distortion(
    filt: Filter,
    frequency_hz: float,
    levels_db: ArrayLike,
    n_harmonics: int = 10,
    *,
    channel: int = 0,
    output: int = 0,
    state: State | None = None,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    n_frames: int = 8192,
    n_windows: int = 32,
) -> HarmonicDistortion:
    """Harmonics, total harmonic distortion and DC shift of a sine against its level, with aliasing kept apart.

    Parameters
    ----------
    filt, frequency_hz, levels_db, channel, output, state, controls, sample_rate, n_frames, n_windows
        As in :func:`describing_function`.
    n_harmonics : int
        How many to list, the fundamental included; there are fewer where half the sample rate comes first.

    Returns
    -------
    HarmonicDistortion

    Raises
    ------
    ParameterError
    NonFiniteError
        The filter blew up.

    Notes
    -----
    The number of cycles a window has no divisor in common with the length of the window. Then no two harmonics of an
    order below half that length share a line of the spectrum, wherever they alias to.
    """
    levels = _levels(levels_db)
    rate = _rate(filt, sample_rate)
    n_frames = _window(filt, n_frames)
    k = _coprime(frequency_hz, rate, n_frames)
    n_harmonics = min(whole_number("n_harmonics", n_harmonics), (n_frames - 1) // 2 // k)
    waves = np.concatenate([_sines(levels, k, n_frames), np.zeros((1, n_frames))])  # and silence
    y, drift = _settled(filt, waves, channel, output, state, controls, n_windows)
    mean = np.mean(y, axis=1)
    order = np.arange(1, n_harmonics + 1)
    # a sine is a cosine a quarter of a cycle later
    harmonics = 2 * np.fft.rfft(y[:-1])[:, order * k] / n_frames * 1j**order
    _, higher, rest = _shares(y[:-1], k)
    with np.errstate(divide="ignore", invalid="ignore"):
        thd, other = np.sqrt([higher, rest]) / np.abs(harmonics[:, 0])
    return HarmonicDistortion(k * rate / n_frames, levels, harmonics, mean[:-1] - mean[-1], thd, other, drift[:-1])


def aliasing(
    filt: Filter,
    frequency_hz: ArrayLike,
    level_db: float = 0.0,
    *,
    channel: int = 0,
    output: int = 0,
    state: State | None = None,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    n_frames: int = 8192,
    n_windows: int = 32,
) -> Aliasing:
    r"""Aliasing-to-signal ratio of sines: how much of the output is neither DC nor a harmonic of the input.

    .. math:: \frac{\sum_{j \notin \{0, k, 2k, \dots\}} |Y_j|^2}{\sum_{n \ge 1,\, n k < N/2} |Y_{n k}|^2}

    with Y the spectrum of a window of N frames that holds k cycles. The fundamental counts as signal, DC as neither.

    Parameters
    ----------
    filt, channel, output, state, controls, sample_rate, n_frames, n_windows
        As in :func:`describing_function`.
    frequency_hz : float or array, shape (n,)
        All are measured at once, as voices of one run.
    level_db : float
        Of the sine, 0 dB for an amplitude of 1.

    Returns
    -------
    Aliasing

    Raises
    ------
    ParameterError
    NonFiniteError
        The filter blew up.

    Notes
    -----
    k and N have no common divisor, so an aliased harmonic falls onto a true one only from an order above N/2. Whatever
    else is no harmonic counts as aliasing too: look at ``drift`` to see whether the output repeats at all.

    References
    ----------
    R. Sato, J. O. Smith (2025), "Aliasing reduction in neural amp modeling by smoothing activations", where N is a
    large prime and DC counts as aliasing.
    """
    wanted = _list("frequency_hz", frequency_hz)
    level = _levels(level_db)[0]
    rate = _rate(filt, sample_rate)
    n_frames = _window(filt, n_frames)
    k = np.array([_coprime(float(f), rate, n_frames) for f in wanted])
    waves = _sines(np.full(k.size, level), k, n_frames)
    y, drift = _settled(filt, waves, channel, output, state, controls, n_windows)
    first, higher, rest = np.transpose([_shares(row[None], cycles) for row, cycles in zip(y, k, strict=True)])[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rest / (first + higher)
    return Aliasing(k * rate / n_frames, float(level), ratio, drift)


def intermodulation(
    filt: Filter,
    tones: str | tuple[float, float] = "smpte",
    level_db: float = 0.0,
    *,
    ratio: float | None = None,
    max_order: int = 5,
    channel: int = 0,
    output: int = 0,
    state: State | None = None,
    controls: Controls | None = None,
    sample_rate: float | None = None,
    n_frames: int = 16384,
    n_windows: int = 32,
) -> Intermodulation:
    """Intermodulation of two tones: the frequencies m f1 + n f2 that were not there before.

    Parameters
    ----------
    filt, channel, output, state, controls, sample_rate, n_frames, n_windows
        As in :func:`describing_function`.
    tones : {"smpte", "ccif"} or tuple of two floats
        60 Hz and 7 kHz at 4:1, or 19 and 20 kHz at 1:1, or any two frequencies f1 and f2 in Hz.
    level_db : float
        Of the peak of both tones together: at 0 dB their amplitudes add up to 1.
    ratio : float, optional
        Amplitude of f1 over that of f2, when absent the standard's, or 1 for frequencies.
    max_order : int
        Products up to \\|m\\| + \\|n\\| of so much are listed; 3 to 12.

    Returns
    -------
    Intermodulation

    Raises
    ------
    ParameterError
        Also where a window holds no two frequencies near to those asked for whose products can be told apart.
    NonFiniteError
        The filter blew up.

    Notes
    -----
    Both frequencies are moved to a near one such that harmonics and products, aliased ones too, have a line of the
    spectrum each up to twice ``max_order``.

    References
    ----------
    SMPTE RP 120 (modulation, 60 Hz and 7 kHz), IEC 60268-3 (modulation and difference-frequency distortion; the latter
    was CCIF's, now ITU-R's).
    """
    if isinstance(tones, str) and tones not in TONES:
        raise ParameterError(f"{tones=} must be one of {sorted(TONES)}, or two frequencies in Hz")
    wanted, standard = TONES[tones] if isinstance(tones, str) else (tones, 1.0)
    two = _list("tones", wanted)
    share = number("ratio", standard if ratio is None else ratio)
    if two.size != 2 or two[0] == two[1] or share <= 0:
        raise ParameterError(f"{tones=}, {ratio=}: give two different frequencies in Hz, and a positive ratio")
    level = _levels(level_db)[0]
    rate = _rate(filt, sample_rate)
    n_frames = _window(filt, n_frames)
    if whole_number("max_order", max_order, 3) > 12:
        raise ParameterError(f"{max_order=} must be 3 to 12")
    for f in two:
        _check_frequency("tones", float(f), rate)
    k = _apart(two * n_frames / rate, n_frames, 2 * max_order)
    amplitude = _amplitude(level) * np.array([share, 1]) / (share + 1)
    wave = amplitude @ _sines(np.zeros(2), k, n_frames)
    y, drift = _settled(filt, wave[None], channel, output, state, controls, n_windows)
    spectrum = np.asarray(2 * np.abs(np.fft.rfft(y[0])) / n_frames, np.float64)
    spectrum[0] /= 2
    orders = _orders(max_order)
    orders = orders[(orders != 0).all(1)]
    orders *= np.sign(orders @ k)[:, None]
    orders = orders[2 * orders @ k < n_frames]
    orders = orders[np.argsort(orders @ k)]
    at = orders @ k
    hz = np.asarray(np.arange(spectrum.size) * (rate / n_frames), np.float64)
    return Intermodulation(
        hz[k], float(level), spectrum[k], orders, hz[at], spectrum[at], hz, spectrum, float(drift[0])
    )


def _rate(filt: Filter, sample_rate: float | None) -> float:
    filt.check_rate(sample_rate)
    rate = filt.sample_rate or sample_rate
    if rate is None:
        raise ParameterError(f"{sample_rate=}: this filter has none of its own, so give that of the signal in Hz")
    return float(rate)


def _list(name: str, values: ArrayLike) -> Real:
    """Some finite numbers, or a :class:`ParameterError` that names them."""
    try:
        array = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        raise ParameterError(f"{name}={values!r} must be numbers") from None
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ParameterError(f"{name} of shape {array.shape} must be a list of at least one number, all of them finite")
    return array


def _levels(levels_db: ArrayLike) -> Real:
    levels = _list("levels_db", levels_db)
    if np.max(np.abs(levels)) > 1000:
        raise ParameterError(f"levels up to {np.max(np.abs(levels)):g} dB: they must lie within -1000 and 1000")
    return levels


def _amplitude(levels_db: Any) -> Any:
    return 10 ** (levels_db / 20)


def _channels(filt: Filter, channel: int, output: int) -> None:
    for name, value, n in (("channel", channel, filt.n_inputs), ("output", output, filt.n_outputs)):
        if whole_number(name, value, 0) >= n:
            raise ParameterError(f"{name}={value}: this filter has {n}, counted from 0")


def _window(filt: Filter, n_frames: int) -> int:
    """A length that any filter's frames fit into."""
    return -(-whole_number("n_frames", n_frames, 16) // filt.period) * filt.period


def _check_frequency(name: str, frequency_hz: float, rate: float) -> None:
    if not 0 < number(name, frequency_hz) < rate / 2:
        raise ParameterError(
            f"{name}: {frequency_hz:g} Hz must lie between 0 and half the sample rate, {rate / 2:g} Hz"
        )


def _coprime(frequency_hz: float, rate: float, n_frames: int) -> int:
    """Cycles a window, prime to its length, of the frequency that comes nearest."""
    _check_frequency("frequency_hz", frequency_hz, rate)
    _check_size(n_frames)
    wanted = frequency_hz * n_frames / rate
    k = np.arange(max(1, int(wanted) - 64), min((n_frames + 1) // 2, int(wanted) + 65))  # gaps are much smaller
    k = k[np.gcd(k, n_frames) == 1]
    return int(k[np.argmin(np.abs(k - wanted))])


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise ParameterError(
            f"{size} samples at once are more than {MAX_SIZE}: take fewer levels or a smaller n_frames"
        )


def _orders(highest: int) -> NDArray[np.int64]:
    """All (m, n) but (0, 0) with |m| + |n| up to so much, one of each pair of opposites."""
    m, n = np.mgrid[-highest : highest + 1, 0 : highest + 1]
    keep = (np.abs(m) + n <= highest) & ((n > 0) | (m > 0))
    return np.stack([m[keep], n[keep]], axis=1)


def _apart(wanted: Real, n_frames: int, highest: int) -> NDArray[np.int64]:
    """The two nearest whole numbers of cycles a window of which all combinations have a line of their own."""
    _check_size(n_frames)
    near = np.round(wanted).astype(np.int64)
    pairs = near + np.stack(np.meshgrid(np.arange(-24, 25), np.arange(-24, 25)), axis=-1).reshape(-1, 2)
    pairs = pairs[((pairs > 0) & (2 * pairs < n_frames)).all(1)]
    orders = _orders(highest)
    for pair in pairs[np.argsort(np.sum((pairs - wanted) ** 2, axis=1))]:
        lines = orders @ pair % n_frames
        if np.unique(np.append(np.minimum(lines, n_frames - lines), 0)).size == len(orders) + 1:
            return np.asarray(pair)
    raise ParameterError(
        f"near to lines {wanted[0]:.3g} and {wanted[1]:.3g} of n_frames={n_frames} no two tones have products that all "
        "fall on lines of their own; take a longer window"
    )


def _sines(levels_db: Real, cycles: Any, n_frames: int) -> Real:
    """One sine a row, of so many cycles."""
    _check_size(levels_db.size * n_frames)
    k = np.broadcast_to(cycles, levels_db.shape)
    phase = np.outer(k, np.arange(n_frames)) % n_frames / n_frames
    return np.asarray(_amplitude(levels_db)[:, None] * np.sin(2 * np.pi * phase))


def _voices(filt: Filter, state: State | None, n: int) -> State:
    """The same state for all voices."""
    start = filt.rest_state((n,))
    if state is None:
        return start
    if not isinstance(state, State) or state.shapes != filt.rest_state().shapes:
        raise ParameterError(f"{state!r} is not one voice of a state of this filter: take one from filt.run()")
    start.indices = state.indices
    return start.unravel(np.broadcast_to(state.ravel(), (n, state.size)))


def _settled(
    filt: Filter,
    waves: Real,
    channel: int,
    output: int,
    state: State | None,
    controls: Controls | None,
    n_windows: int,
) -> tuple[Real, Real]:
    """The last window of one output for periodic inputs, and how much of it differs from the window before."""
    _channels(filt, channel, output)
    _check_size(waves.size * max(filt.n_inputs + len(filt.controls), filt.n_outputs))
    u = np.zeros((*waves.shape, filt.n_inputs))
    u[..., channel] = waves
    now = _voices(filt, state, len(u))
    y, now = filt.run(u, now, controls=controls)
    for _ in range(whole_number("n_windows", n_windows, 2) - 1):
        last, (y, now) = y, filt.run(u, now, controls=controls)
        change = np.max(np.abs(y[..., output] - last[..., output]), axis=1)
        largest = np.max(np.abs(y[..., output]), axis=1)
        drift = np.divide(change, largest, out=np.zeros_like(change), where=largest > 0)
        if drift.max() <= SETTLED:
            break
    return y[..., output], drift


def _shares(y: Real, k: int) -> tuple[Real, Real, Real]:
    """Power of the fundamental, of the other harmonics and of the rest but DC, each as squared amplitudes."""
    n_frames = y.shape[1]
    power = np.asarray(np.abs(2 * np.fft.rfft(y) / n_frames) ** 2, np.float64)
    if n_frames % 2 == 0:
        power[:, -1] /= 2  # a line without a mirror image
    power[:, 0] = 0
    harmonic = power[:, k : (n_frames + 1) // 2 : k].copy()
    power[:, k : (n_frames + 1) // 2 : k] = 0
    return harmonic[:, 0], harmonic[:, 1:].sum(axis=1), power.sum(axis=1)


# ---- what a filter does by itself


def limit_cycle(
    filt: Filter,
    *,
    levels_db: ArrayLike = (0.0, -40.0),
    n_starts: int = 8,
    seed: int = 0,
    n_frames: int = 2**17,
    floor_db: float = -120.0,
    channel: int = 0,
    controls: Controls | None = None,
    sample_rate: float | None = None,
) -> tuple[Motion, ...]:
    """Search for oscillation by itself: what the filter does on silence, long after something has set it going.

    Parameters
    ----------
    filt : Filter
    levels_db : array, shape (n_levels,)
        Peak levels of the stimuli, 0 dB for 1: an impulse, and 8192 frames of a constant, of a sine that sweeps from 0
        to half the sample rate, and of noise. Each starts in the initial state and is followed by silence.
    n_starts : int
        Random states to start from besides, each entry uniform in (-1, 1), with no stimulus.
    seed : int
        For these and the noise.
    n_frames : int
        Silence after that, at least 1024. The second half is what is looked at: what no output shows in that time is
        not found, and cycles of which it holds less than eight are taken for irregular.
    floor_db : float
        What moves by less counts as rest. Rounding makes small cycles in many linear filters.
    channel : int
        The input that gets the stimuli.
    controls : mapping of str to float, optional
    sample_rate : float, optional
        In Hz, needed where the filter has none of its own.

    Returns
    -------
    tuple of Motion
        One for each start, all run as voices of one block: first the initial state left alone, then the stimuli, then
        the random states.

    Raises
    ------
    ParameterError

    Notes
    -----
    *Limit cycle* says that the loudest output, sorted by its phase at one frequency, is a closed curve within one
    percent, and that its strongest line grows or fades by less than 1e-4 from one half to the other. The frequency is
    that of the strongest line, or an integer fraction of it down to an eighth. As it need not divide the sample rate,
    the samples need not repeat; where they do and no such frequency fits, it is that of the repetition. Whether the
    cycle attracts is not tested: an ideal linear oscillator passes, but with another level for each stimulus.

    *Quasi-periodic or chaotic* is what stays but is no such curve; two frequencies at once are not told from chaos.
    A second frequency weaker than about 40 dB below the first is overlooked. Whatever no start has found may exist.

    References
    ----------
    M. M. Dworetsky (1983), "A period-finding method for sparse randomly spaced observations or 'How long is a piece of
    string?'". J. Laskar (1990), "The chaotic motion of the solar system", for frequencies from phases of windows.
    """
    rate = _rate(filt, sample_rate)
    levels = _levels(levels_db)
    floor = float(_amplitude(_levels(floor_db)[0]))
    n_starts = whole_number("n_starts", n_starts, 0)
    half = whole_number("n_frames", n_frames, 1024) // 2
    rng = generator(seed)
    _channels(filt, channel, 0)
    ramp = np.arange(PIECE) / PIECE
    shapes = {
        "impulse": np.eye(1, PIECE)[0],
        "constant": np.ones(PIECE),
        "sweep": np.sin(np.pi / 2 * PIECE * ramp**2),
        "noise": rng.uniform(-1, 1, PIECE),
    }
    names = ["initial state"] + [f"{name} at {level:g} dB" for name in shapes for level in levels]
    first_random = len(names)
    names += [f"random state {i + 1}" for i in range(n_starts)]
    _check_size(len(names) * half * max(filt.n_inputs + len(filt.controls), filt.n_outputs))
    u = np.zeros((len(names), PIECE, filt.n_inputs))
    u[1:first_random, :, channel] = [_amplitude(level) * shape for shape in shapes.values() for level in levels]
    state = filt.rest_state((len(names),))
    _play(filt, filt._extend(u, controls), state)
    flat = state.ravel()
    flat[first_random:] = rng.uniform(-1, 1, (n_starts, filt.n_states))
    state = state.unravel(flat)
    u[...] = 0
    silence = filt._extend(u, controls)
    lengths = [min(PIECE, half - start) for start in range(0, half, PIECE)]
    for length in lengths:
        _play(filt, silence[:, :length], state)
    y = np.concatenate([_play(filt, silence[:, :length], state) for length in lengths], axis=1)
    motions = []
    for place, name in enumerate(names):
        end = filt.rest_state()
        end.indices = state.indices
        end = end.unravel(state.voice(place).ravel()[0])
        motions.append(_motion(name, y[place], end, floor, rate))
    return tuple(motions)


def _play(filt: Filter, signal: Real, state: State) -> Real:
    """The output, whatever it is: one voice that blows up is no reason to stop the others. Moves the state on."""
    y = np.empty((*signal.shape[:2], filt.n_outputs))
    with np.errstate(all="ignore"):
        filt._process(np.ascontiguousarray(signal), state, y)
    return y


def _motion(name: str, y: Real, end: State, floor: float, rate: float) -> Motion:
    """What one voice does, from its outputs on silence and the state after them."""
    if not all(np.max(np.abs(a), initial=0) < BLOWN_UP for a in (y, end.ravel())):  # NaN is not less either
        return Motion(name, Behaviour.BLOW_UP, np.nan, np.inf, np.nan, end)
    mean = np.mean(y, axis=0)
    loudest = int(np.argmax(np.std(y, axis=0)))
    dc, wave = float(mean[loudest]), y[:, loudest] - mean[loudest]
    level = float(_db(np.sqrt(2) * np.std(wave)))
    if np.max(np.abs(y - mean)) < floor:
        return Motion(name, Behaviour.REST, np.nan, -np.inf, dc, end)
    if frequency := _cycle(wave):
        return Motion(name, Behaviour.CYCLE, frequency * rate, level, dc, end)
    rms = [float(np.std(piece)) for piece in np.array_split(wave, 8)]
    behaviour = Behaviour.IRREGULAR
    if np.all(np.diff(rms) < 0) and rms[-1] < 0.9 * rms[0]:
        behaviour = Behaviour.FADING
    elif np.all(np.diff(rms) > 0) and rms[0] < 0.9 * rms[-1]:
        behaviour = Behaviour.GROWING
    return Motion(name, behaviour, np.nan, level, dc, end)


def _cycle(wave: Real) -> float:
    """The frequency of a wave that goes on and on, in cycles a sample; 0 for any other."""
    strongest, growth = _strongest(wave)
    if abs(growth - 1) < STEADY:
        for frequency in strongest / np.arange(1, 9):
            if frequency * len(wave) >= LEAST_CYCLES and _string_length(wave, frequency) < CLOSED:
                return float(frequency)
        if period := _repetition(wave):
            return 1 / period
    return 0.0


def _strongest(wave: Real) -> tuple[float, float]:
    """The strongest frequency in cycles a sample, and its amplitude in the second half over that in the first.

    The phase moves on by the frequency from one half to the other, which tells it far finer than a spectrum does.
    """
    half = len(wave) // 2
    turn = 2 * np.pi * np.arange(2 * half) / (2 * half)
    taper = 0.35875 - 0.48829 * np.cos(turn) + 0.14128 * np.cos(2 * turn) - 0.01168 * np.cos(3 * turn)
    coarse = int(np.argmax(np.abs(np.fft.rfft(taper * wave[: 2 * half])))) / (2 * half)
    z = (taper[::2] * wave[: 2 * half].reshape(2, half)) @ np.exp(-2j * np.pi * coarse * np.arange(half))
    z[1] *= np.exp(-2j * np.pi * coarse * half)
    frequency = coarse + float(np.angle(z[1] * np.conj(z[0]))) / (2 * np.pi * half)
    with np.errstate(divide="ignore", invalid="ignore"):
        return frequency, float(np.abs(z[1]) / np.abs(z[0]))


def _string_length(wave: Real, frequency: float) -> float:
    """The mean step from sample to sample in the order of their phase, over the mean excursion."""
    phase = frequency * np.arange(len(wave)) % 1
    sorted_wave = wave[np.argsort(phase)]
    return float(np.mean(np.abs(np.diff(sorted_wave, append=sorted_wave[0]))) / np.mean(np.abs(wave)))


def _repetition(wave: Real) -> int:
    """After how many samples the wave repeats, within a quarter of its length; 0 for never."""
    n = len(wave)
    product = np.fft.irfft(np.abs(np.fft.rfft(wave, 2 * n)) ** 2)[:n]
    energy = np.concatenate([[0.0], np.cumsum(wave**2)])
    both = energy[n:0:-1] + energy[n] - energy[:n]
    same = np.flatnonzero((both - 2 * product)[1 : n // 4] < REPEATS**2 * both[1 : n // 4])
    return int(same[0]) + 1 if same.size else 0


def orbit_diagram(
    filt: Filter | Callable[[float], Filter],
    values: ArrayLike,
    *,
    knob: str | None = None,
    level: float = 0.0,
    period: int = 1,
    n_transient: int = 1000,
    n_orbit: int = 200,
    n_starts: int = 1,
    seed: int = 0,
    channel: int = 0,
    output: int = 0,
    controls: Controls | None = None,
) -> OrbitDiagram:
    """Bifurcation diagram: the values that the output goes on visiting, against a parameter.

    One value is a rest state or an answer with the period of the drive, two an answer with twice that period, a band
    quasi-periodic motion or chaos.

    Parameters
    ----------
    filt : Filter or callable
        The filter, or what makes one for each value: ``lambda g: cell.replace(U=g * U)``.
    values : array, shape (n_values,)
        Of the parameter: of the knob where one is named, of what makes the filter where that is given, and else of the
        amplitude of the drive.
    knob : str, optional
        Name of a control.
    level : float
        Amplitude of the drive, where the values are not those.
    period : int
        Of the drive ``level * cos(2 pi t / period)`` in samples; 1 for a constant. The output is looked at where the
        drive has its maximum.
    n_transient, n_orbit : int
        Periods to wait, and to look at.
    n_starts : int
        The initial state and so many less one random ones, each entry uniform in (-1, 1) and the same at all values: a
        filter with more than one attractor shows several.
    seed : int
        For these.
    channel, output : int
        The input that is driven, and the output that is looked at.
    controls : mapping of str to float, optional
        Of the other knobs.

    Returns
    -------
    OrbitDiagram

    Raises
    ------
    ParameterError

    Notes
    -----
    All values and starts of one filter are voices of one run. Each value starts afresh: nothing is carried along from
    the one before.
    """
    at = _list("values", values)
    drive = np.full(at.size, number("level", level))
    if isinstance(filt, Filter):
        if knob is None:
            name, jobs = "input level", [(filt, at, at)]
        else:
            name, jobs = knob, [(filt, drive, at)]
    elif callable(filt) and knob is None:
        name, jobs = "parameter", [(filt(float(value)), drive[:1], at[:1]) for value in at]
    else:
        raise ParameterError(f"{filt=}, {knob=}: give a filter, or what makes one of a value and no knob")
    orbits = [
        _orbits(part, amplitude, knob, turns, period, n_transient, n_orbit, n_starts, seed, channel, output, controls)
        for part, amplitude, turns in jobs
    ]
    return OrbitDiagram(name, at, np.concatenate(orbits))


def _orbits(
    filt: Filter,
    drive: Real,
    knob: str | None,
    at: Real,
    period: int,
    n_transient: int,
    n_orbit: int,
    n_starts: int,
    seed: int,
    channel: int,
    output: int,
    controls: Controls | None,
) -> Real:
    """The orbits of one filter, shape (n_values, n_starts, n_orbit)."""
    if not isinstance(filt, Filter):
        raise ParameterError(f"{filt!r} is no filter: what is given must make one of a value")
    _channels(filt, channel, output)
    period, n_transient = whole_number("period", period), whole_number("n_transient", n_transient, 0)
    n_orbit, n_starts = whole_number("n_orbit", n_orbit), whole_number("n_starts", n_starts)
    n_voices, width = drive.size * n_starts, max(filt.n_inputs + len(filt.controls), filt.n_outputs)
    _check_size(n_voices * max(n_orbit, period * width, filt.n_states))
    state = filt.rest_state((drive.size, n_starts))
    flat = state.ravel()
    flat[:, 1:] = generator(whole_number("seed", seed, 0)).uniform(-1, 1, (n_starts - 1, filt.n_states))
    state = state.unravel(flat)
    # as many periods at a time as make a block of moderate size
    n_periods = min(max(1, 2**20 // (n_voices * period * width)), n_transient + n_orbit)
    u = np.zeros((drive.size, n_starts, n_periods * period, filt.n_inputs))
    phase = np.arange(n_periods * period) % period / period
    u[..., channel] = np.multiply.outer(drive, np.cos(2 * np.pi * phase))[:, None]
    signal = filt._extend(u.reshape(n_voices, -1, filt.n_inputs), controls)
    if knob is not None:
        place = {control.name: i for i, control in enumerate(filt.controls)}.get(knob)
        if place is None:
            raise ParameterError(f"{knob=}: this filter has {[control.name for control in filt.controls] or 'none'}")
        signal[..., filt.n_inputs + place] = np.repeat(filt.controls[place].check(at), n_starts)[:, None]
    orbits = np.empty((n_voices, n_orbit))
    for start in range(-n_transient, n_orbit, n_periods):
        stop = min(start + n_periods, n_orbit)
        y = _play(filt, signal[:, : (stop - start) * period], state)[:, ::period, output]
        orbits[:, max(start, 0) : max(stop, 0)] = y[:, max(-start, 0) :]
    orbits[~np.isfinite(orbits)] = np.nan
    return orbits.reshape(drive.size, n_starts, n_orbit)

"""A reverb to turn on: early reflections, and a network of delay lines that fades as a room does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number, whole_number
from rnndsp.composition import Series
from rnndsp.errors import ParameterError
from rnndsp.filters.absorption import DampedNetwork
from rnndsp.filters.fdn import orthogonal_matrix
from rnndsp.filters.taps import Taps

__all__ = ["PRESETS", "Reverb", "ReverbSettings"]

Real = NDArray[np.float64]

# Octaves for which the decay time is designed, and corners of the shelves that do it, in Hz.
BANDS_HZ: Real = 62.5 * np.exp2(np.arange(9))
CORNERS_HZ = np.array([250.0, 1400.0, 5000.0, 12000.0])
# Bands and corners go no higher, of the sample rate.
HIGHEST = 0.42
# Lines at size 1, in s.
SHORTEST_S, LONGEST_S = 0.023, 0.079
# Of the shortest decay time, at most so much in a line.
SHARE = 0.15
N_LINES, N_REFLECTIONS = 16, 12
# Of what is drawn: of the first sixteen the one that rings least.
SEED = 4


@dataclass(frozen=True)
class ReverbSettings:
    """What a :class:`Reverb` is made from.

    Attributes
    ----------
    t60_s : float
        Time in which the tail decays by 60 dB, at 500 Hz to 1 kHz.
    brightness : float
        The decay time at 8 kHz over that, within 0.2 and 1.
    warmth : float
        The decay time at 125 Hz over that, within 0.6 and 1.7.
    size : float
        Of the room: 1 is a hall with lines of 23 to 79 ms. Within 0.05 and 4.
    predelay_s : float
        Before the first reflection, at most 1 s.
    early : float
        How much of the energy of the wet sound is in the early reflections, within 0 and 1.
    width : float
        0 is mono, 1 is two tails that have nothing in common.
    mix : float
        0 is dry, 1 is wet.
    modulation : float
        How far pairs of lines are turned into each other, in radians, within 0 and pi; 0 for a reverb that does not
        move.
    modulation_hz : float
        How often they are turned to and fro.
    """

    t60_s: float = 2.2
    brightness: float = 0.45
    warmth: float = 1.15
    size: float = 1.0
    predelay_s: float = 0.02
    early: float = 0.25
    width: float = 1.0
    mix: float = 0.3
    modulation: float = 0.0
    modulation_hz: float = 0.5

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= number(name, getattr(self, name)) <= high:
                raise ParameterError(f"{name}={getattr(self, name)!r} must lie within {low:g} and {high:g}")


_RANGES = {
    "t60_s": (0.05, 100.0),
    "brightness": (0.2, 1.0),
    "warmth": (0.6, 1.7),
    "size": (0.05, 4.0),
    "predelay_s": (0.0, 1.0),
    "early": (0.0, 1.0),
    "width": (0.0, 1.0),
    "mix": (0.0, 1.0),
    "modulation": (0.0, np.pi),
    "modulation_hz": (0.0, 20.0),
}

PRESETS: dict[str, ReverbSettings] = {
    "room": ReverbSettings(
        t60_s=0.45, brightness=0.7, warmth=1.0, size=0.3, predelay_s=0.003, early=0.5, width=0.9, mix=0.25
    ),
    "chamber": ReverbSettings(
        t60_s=1.2, brightness=0.6, warmth=1.1, size=0.6, predelay_s=0.008, early=0.3, width=1.0, mix=0.3
    ),
    "hall": ReverbSettings(),
    "plate": ReverbSettings(
        t60_s=1.8, brightness=0.75, warmth=1.3, size=0.6, predelay_s=0.0, early=0.05, width=1.0, mix=0.3
    ),
    "cathedral": ReverbSettings(
        t60_s=5.5, brightness=0.45, warmth=1.3, size=1.6, predelay_s=0.035, early=0.12, width=1.0, mix=0.35
    ),
}


class Reverb(Series):
    r"""A reverb for one channel or two: early reflections by :class:`Taps` into a :class:`DampedNetwork` of 16 lines.

    Parameters
    ----------
    preset : {"room", "chamber", "hall", "plate", "cathedral"}
        Where all settings start.
    sample_rate : float
        Hz.
    n_channels : int
        1 or 2, inputs and outputs alike.
    **settings : float
        Of :class:`ReverbSettings`, to replace those of the preset: ``t60_s``, ``brightness``, ``warmth``, ``size``,
        ``predelay_s``, ``early``, ``width``, ``mix``, ``modulation``, ``modulation_hz``.

    Notes
    -----
    The decay time at f over ``t60_s`` is 1 / (1 + a(f)), with a(f) of two first-order curves that meet ``warmth`` at
    125 Hz and ``brightness`` at 8 kHz; :meth:`t60_at` gives the time. Third octaves meet it within 5 % (``room`` from
    125 Hz up). Where the room is too large for it, its lines are shortened: to 0.15 of the shortest decay time.

    *Level*: ``(1 - mix)`` of the dry and ``mix`` of the wet sound, whose response has about unit energy, so that it is
    as loud as the dry sound of a broad spectrum. Peaks are higher. Of white noise of full scale in both channels the
    wet sound alone peaks at +8 to +9 dB, of a sine sweep of full scale, where it meets a mode, at +12 to +15 dB; with
    the mix of the presets it is +3 and +4 to +7 dB. So leave 6 dB of headroom, or record in floating point.

    *State*: those of both parts in ``children``.

    *Stability*: proved to decay, see :class:`DampedNetwork`, modulated or not: the modulation turns what comes out of
    the lines, which keeps its energy at every sample.

    Raises
    ------
    ParameterError
        An unknown preset or setting, one out of its range, or more than two channels.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators". J. A. Moorer (1979),
    "About this reverberation business".

    Examples
    --------
    >>> hall = Reverb("hall", t60_s=3.0, sample_rate=48000)
    >>> hall(np.zeros((480, 2))).shape
    (480, 2)
    """

    def __init__(self, preset: str = "hall", *, sample_rate: float, n_channels: int = 2, **settings: Any) -> None:
        if preset not in PRESETS:
            raise ParameterError(f"{preset=}: choose one of {sorted(PRESETS)}")
        if unknown := sorted(set(settings) - set(_RANGES)):
            raise ParameterError(f"unknown settings {unknown}: a reverb has {sorted(_RANGES)}")
        if not 1 <= whole_number("n_channels", n_channels) <= 2:
            raise ParameterError(f"{n_channels=}: a reverb has 1 or 2")
        rate = number("sample_rate", sample_rate)
        if not 4000 <= rate <= 1e6:
            raise ParameterError(f"{sample_rate=} Hz must lie within 4000 and 1e6")
        super().__init__(*_parts(replace(PRESETS[preset], **settings), rate, n_channels))

    def t60_at(self, frequency_hz: Any) -> Real:
        """Decay time of the tail at these frequencies, in s: the mean over all lines, as their filters give it.

        Parameters
        ----------
        frequency_hz : array, shape (n,)
        """
        network = self.children[-1]
        assert isinstance(network, DampedNetwork) and self.sample_rate is not None
        w = 2 * np.pi * np.atleast_1d(np.asarray(frequency_hz, np.float64)) / self.sample_rate
        lost_db = -20 * np.log10(np.abs(network.absorption_response(w)))
        return np.asarray(60 * np.mean(network.delays / lost_db, axis=1) / self.sample_rate)


def decay_times(settings: ReverbSettings, frequency_hz: Real) -> Real:
    """The decay time that a setting stands for, at each frequency."""

    def curve(f: Any) -> tuple[Any, Any]:
        return 1 / (1 + (f / 250.0) ** 2), 1 / (1 + (5000.0 / f) ** 2)

    # what both add at 707 Hz, 125 Hz and 8 kHz to the rate of the decay
    wanted = np.array([1.0, 1 / settings.warmth, 1 / settings.brightness])
    table = np.array([[1.0, *curve(f)] for f in (707.0, 125.0, 8000.0)])
    level, low, high = np.linalg.solve(table, wanted)
    below, above = curve(frequency_hz)
    return np.asarray(settings.t60_s / (level + low * below + high * above))


def _parts(settings: ReverbSettings, rate: float, n_channels: int) -> tuple[Taps, DampedNetwork]:
    bands, corners = BANDS_HZ[HIGHEST * rate > BANDS_HZ], CORNERS_HZ[HIGHEST * rate > CORNERS_HZ]
    times = decay_times(settings, bands)
    longest_s = min(settings.size * LONGEST_S, SHARE * float(times.min()))
    scale = longest_s / LONGEST_S
    lines = _coprime(rate * scale * np.geomspace(SHORTEST_S, LONGEST_S, N_LINES))
    k = n_channels
    rng = np.random.default_rng(SEED)
    late = DampedNetwork(
        lines,
        t60_s=times,
        bands_hz=bands,
        corners_hz=corners,
        sample_rate=rate,
        n_channels=k,
        matrix=_scrambled(rng),
        modulation=settings.modulation,
        modulation_hz=settings.modulation_hz,
    )
    # of the two channels every one drives and hears all lines, with signs that are orthogonal to those of the other
    signs = np.sign(orthogonal_matrix(N_LINES, "hadamard"))[[5, 10][:k]]
    hears = np.sign(orthogonal_matrix(N_LINES, "hadamard"))[[3, 12][:k]]
    narrow = (
        1.0
        if k == 1
        else np.array([[1 + settings.width, 1 - settings.width], [1 - settings.width, 1 + settings.width]])
    )
    across = np.atleast_2d(narrow) / np.linalg.norm(np.atleast_2d(narrow)[0])
    level = np.abs(late.params["C"][0, 0])
    wet = settings.mix * across
    B = np.hstack([np.zeros((N_LINES, k)), signs.T / np.sqrt(N_LINES)])
    C = np.sqrt(1 - settings.early) * level * wet @ hears
    D = np.hstack([(1 - settings.mix) * np.eye(k), np.sqrt(settings.early) * wet])
    late = late.replace(n_inputs=2 * k, B=B, C=C, D=D)
    return _reflections(settings, rate, scale, k, rng), late


def _scrambled(rng: np.random.Generator) -> Real:
    """Hadamard's matrix with rows exchanged and signs drawn, so that no channel meets a line of it alone."""
    rows, columns = rng.choice([-1.0, 1.0], (2, N_LINES))
    return np.asarray(rows[:, None] * orthogonal_matrix(N_LINES, "hadamard")[rng.permutation(N_LINES)] * columns)


def _reflections(settings: ReverbSettings, rate: float, scale: float, k: int, rng: np.random.Generator) -> Taps:
    """The dry sound, then the reflections of each channel."""
    delays, gains = [0], [np.vstack([np.eye(k), np.zeros((k, k))])]
    for channel in range(k):
        # ever denser, as reflections in a room are, and weaker with the distance
        times = (
            scale * 0.075 * ((np.arange(N_REFLECTIONS) + rng.uniform(0.2, 0.8, N_REFLECTIONS)) / N_REFLECTIONS) ** 0.7
        )
        g = rng.choice([-1.0, 1.0], N_REFLECTIONS) / (0.12 + times / times.max())
        g /= np.linalg.norm(g)
        for time, gain in zip(times, g, strict=True):
            delays.append(round(rate * (settings.predelay_s + time)))
            G = np.zeros((2 * k, k))
            G[k + channel, channel] = gain
            gains.append(G)
    return Taps(delays, np.array(gains), sample_rate=rate)


def _coprime(lengths: Real) -> list[int]:
    """Whole numbers near these, without common factors: lines that have no echoes in common."""
    found: list[int] = []
    for length in lengths:
        m = max(round(length), 2)
        while any(np.gcd(m, other) > 1 for other in found):
            m += 1
        found.append(m)
    return found

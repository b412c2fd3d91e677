"""A reverb to turn on: early reflections, and a network of delay lines that fades as a room does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import choice, generator, number, reals, whole_number
from rnndsp.composition import Crossfade, Series
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.absorption import DampedNetwork
from rnndsp.filters.fdn import orthogonal_matrix
from rnndsp.filters.taps import Taps
from rnndsp.statespace import gain

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
# Rows of Hadamard's matrix by which each channel drives the lines, and hears them.
DRIVES = [5, 10, 3, 12, 6, 9, 1, 2, 4, 7, 8, 11, 13, 14, 15, 0]
HEARS = [3, 12, 5, 10, 9, 6, 2, 1, 7, 4, 11, 8, 14, 13, 0, 15]


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
    seed : int
        Of the reflections and of the signs in the matrix: another one is another room of the same kind.
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
    seed: int = 290

    def __post_init__(self) -> None:
        whole_number("seed", self.seed, least=0)
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

SETTINGS = sorted(field.name for field in fields(ReverbSettings))

# The seeds are those, of many, with which the few low modes of a small room fade most evenly.
PRESETS: dict[str, ReverbSettings] = {
    "room": ReverbSettings(
        t60_s=0.45, brightness=0.7, warmth=1.0, size=0.3, predelay_s=0.003, early=0.5, width=0.9, mix=0.25, seed=1633
    ),
    "chamber": ReverbSettings(
        t60_s=1.2, brightness=0.6, warmth=1.1, size=0.6, predelay_s=0.008, early=0.3, width=1.0, mix=0.3, seed=173
    ),
    "hall": ReverbSettings(),
    "plate": ReverbSettings(
        t60_s=1.8, brightness=0.75, warmth=1.3, size=0.6, predelay_s=0.0, early=0.05, width=1.0, mix=0.3, seed=55
    ),
    "cathedral": ReverbSettings(
        t60_s=5.5, brightness=0.45, warmth=1.3, size=1.6, predelay_s=0.035, early=0.12, width=1.0, mix=0.35, seed=55
    ),
}


class Reverb(Crossfade):
    r"""A reverb to turn on: early reflections by :class:`Taps` into a :class:`DampedNetwork` of 16 lines.

    Parameters
    ----------
    preset : {"room", "chamber", "hall", "plate", "cathedral"}
        Where all settings start.
    sample_rate : float
        Hz.
    n_channels : int
        1 to 16, inputs and outputs alike.
    **settings : float
        Of :class:`ReverbSettings`, to replace those of the preset: ``t60_s``, ``brightness``, ``warmth``, ``size``,
        ``predelay_s``, ``early``, ``width``, ``mix``, ``modulation``, ``modulation_hz``, ``seed``.

    Notes
    -----
    *Controls*, to be turned while it runs: ``mix``, and ``t60_s``, the decay time in the middle of the range. A shorter
    one makes all frequencies fade faster by as many dB a second, so the longer ones lose most. A longer one spares all
    the same; it goes to where the slowest takes four times as long as designed (the hall to 6 s).

    *Settings* are kept in ``config``; ``replace(t60_s=4)`` designs another reverb, all of its parts anew, also at
    another sample rate.

    The decay time at f over ``t60_s`` is 1 / (1 + a(f)), with a(f) of two first-order curves that meet ``warmth`` at
    125 Hz and ``brightness`` at 8 kHz; :meth:`t60_at` gives the time. At 48 kHz octaves from 62 Hz to 16 kHz, and the
    third octaves at their centres, meet it within 5 % in all presets, mono or stereo, over -5 to -35 dB of all impulse
    responses together; where a small room has few modes, third octaves elsewhere are off by up to 10 %. Where the
    room is too large for it, its lines are shortened: to 0.15 of the shortest decay time.

    *Level*: ``(1 - mix)`` of the dry and ``mix`` of the wet sound, whose response has about unit energy, so that it is
    as loud as the dry sound of a broad spectrum. Peaks are higher. Of white noise of full scale in both channels the
    wet sound alone peaks at +8 to +10 dB, of a sine sweep of full scale, where it meets a mode, at +10 to +13 dB; with
    the mix of the presets it is +2 to +4 and +3 to +7 dB. So leave 6 dB of headroom, or record in floating point.

    *State*: those of dry sound, reflections and network in ``children``.

    *Stability*: proved to decay, see :class:`DampedNetwork`, modulated or not and however the controls move: the
    modulation turns what comes out of the lines, which keeps its energy at every sample.

    Raises
    ------
    ParameterError
        An unknown preset or setting, one out of its range, or more than 16 channels.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators". J. A. Moorer (1979),
    "About this reverberation business".

    Examples
    --------
    >>> hall = Reverb("hall", t60_s=3.0, sample_rate=48000)
    >>> hall(np.zeros((480, 2)), controls={"t60_s": 1.5, "mix": np.linspace(0, 1, 480)}).shape
    (480, 2)
    """

    def __init__(self, preset: str = "hall", *, sample_rate: float, n_channels: int = 2, **settings: Any) -> None:
        start = PRESETS[choice("preset", preset, PRESETS)]
        if unknown := sorted(set(settings) - set(SETTINGS)):
            raise ParameterError(f"unknown settings {unknown}: a reverb has {SETTINGS}")
        if not 1 <= whole_number("n_channels", n_channels) <= N_LINES:
            raise ParameterError(f"{n_channels=}: a reverb has 1 to {N_LINES}")
        rate = number("sample_rate", sample_rate)
        if not 4000 <= rate <= 1e6:
            raise ParameterError(f"{sample_rate=} Hz must lie within 4000 and 1e6")
        chosen = replace(start, **settings)
        parts = gain(np.eye(n_channels)), Series(*_parts(chosen, rate, n_channels))
        Filter.__init__(self, asdict(chosen) | {"n_channels": n_channels}, {}, parts, rate)

    def _setup(self) -> None:
        super()._setup()
        ReverbSettings(**{name: self.config[name] for name in SETTINGS})
        if self.config["n_channels"] != self.n_inputs:
            raise ParameterError(f"{self.config['n_channels']} channels are said, and parts of {self.n_inputs} given")

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings, number of channels or sample rate, designed anew, or with other parameters.

        Parameters of parts go by their prefixed names, as in :meth:`Filter.replace`; a new design has none of those
        that were replaced before.
        """
        self._require_known(changes)
        design = {name: value for name, value in changes.items() if name in self.config or name == "sample_rate"}
        if not set(design) - {"mix"}:
            return super().replace(**changes)
        new = type(self)(**{**self.config, "sample_rate": self.sample_rate, **design})
        return new.replace(**{name: value for name, value in changes.items() if name not in design})

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.config.items())
        return f"Reverb({settings}, sample_rate={self.sample_rate:g})"

    @property
    def network(self) -> DampedNetwork:
        """The delay lines that make the tail."""
        (network,) = (part for part in self.children[1].children if isinstance(part, DampedNetwork))
        return network

    def t60_at(self, frequency_hz: Any) -> Real:
        """Decay time of the tail at these frequencies, in s: the mean over all lines, as their filters give it.

        Parameters
        ----------
        frequency_hz : array, shape (n,)
            Within 0 and half the sample rate.
        """
        assert self.sample_rate is not None
        w = 2 * np.pi * np.atleast_1d(reals("frequency_hz", frequency_hz)) / self.sample_rate
        if w.ndim != 1 or not np.all((w >= 0) & (w <= np.pi)):
            raise ParameterError(
                f"{frequency_hz=} must be a row of frequencies within 0 and half the sample rate, "
                f"{self.sample_rate / 2:g} Hz"
            )
        lost_db = -20 * np.log10(np.abs(self.network.absorption_response(w)))
        return np.asarray(60 * np.mean(self.network.delays / lost_db, axis=1) / self.sample_rate)


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
    rng = generator(settings.seed)
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
        control_s=settings.t60_s,
    )
    # every channel drives and hears all lines, with signs that are orthogonal to those of the others
    signs = np.sign(orthogonal_matrix(N_LINES, "hadamard"))
    across = settings.width * np.eye(k) + (1 - settings.width) / k
    across /= np.linalg.norm(across[0])
    level = np.abs(late.params["C"][0, 0])
    C = np.sqrt(1 - settings.early) * level * across @ signs[HEARS[:k]]
    late = late.replace(B=signs[DRIVES[:k]].T / np.sqrt(N_LINES), C=C, D=np.sqrt(settings.early) * across)
    return _reflections(settings, rate, scale, k, rng), late


def _scrambled(rng: np.random.Generator) -> Real:
    """Hadamard's matrix with rows exchanged and signs drawn, so that no channel meets a line of it alone."""
    rows, columns = rng.choice([-1.0, 1.0], (2, N_LINES))
    return np.asarray(rows[:, None] * orthogonal_matrix(N_LINES, "hadamard")[rng.permutation(N_LINES)] * columns)


def _reflections(settings: ReverbSettings, rate: float, scale: float, k: int, rng: np.random.Generator) -> Taps:
    """Those of each channel."""
    delays, gains = [], []
    for channel in range(k):
        # ever denser, as reflections in a room are, and weaker with the distance
        times = (
            scale * 0.075 * ((np.arange(N_REFLECTIONS) + rng.uniform(0.2, 0.8, N_REFLECTIONS)) / N_REFLECTIONS) ** 0.7
        )
        g = rng.choice([-1.0, 1.0], N_REFLECTIONS) / (0.12 + times / times.max())
        g /= np.linalg.norm(g)
        for time, size in zip(times, g, strict=True):
            delays.append(round(rate * (settings.predelay_s + time)))
            G = np.zeros((k, k))
            G[channel, channel] = size
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

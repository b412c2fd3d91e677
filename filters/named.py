"""Filters by name, ``lowpass:cutoff_hz=4000,order=4+echo``, for the command line and for quick trials."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rnndsp import formats
from rnndsp._checks import number, whole_number
from rnndsp.composition import Feedback, Parallel, Series, Stack
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters import circuits
from rnndsp.filters.allpass import GerzonAllpass
from rnndsp.filters.coupled import CoupledForm
from rnndsp.filters.reverb import Reverb, ReverbSettings
from rnndsp.filters.sections import SOS
from rnndsp.filters.state_variable import StateVariable
from rnndsp.statespace import delay, gain

__all__ = ["NAMES", "named"]


Setting = float | int | str
Kind = Literal["lowpass", "highpass", "bandpass", "bandstop"]


def _butterworth(kind: Kind, edges_hz: tuple[float, ...], order: int, sample_rate: float) -> SOS:
    from scipy import signal

    if not all(0 < edge < sample_rate / 2 for edge in edges_hz) or list(edges_hz) != sorted(set(edges_hz)):
        edges = ", ".join(f"{edge:g}" for edge in edges_hz)
        raise ParameterError(
            f"{kind} at {edges} Hz: must rise within 0 and half the sample rate, {sample_rate / 2:g} Hz"
        )
    if not 1 <= order <= 24:
        raise ParameterError(f"{order=} must lie within 1 and 24")
    edge = edges_hz[0] if len(edges_hz) == 1 else list(edges_hz)
    return SOS(signal.butter(order, edge, kind, output="sos", fs=sample_rate), sample_rate=sample_rate)


def lowpass(sample_rate: float, n_channels: int, *, cutoff_hz: float = 1000.0, order: int = 2) -> Filter:
    """Butterworth lowpass"""
    return _butterworth("lowpass", (cutoff_hz,), order, sample_rate)


def highpass(sample_rate: float, n_channels: int, *, cutoff_hz: float = 100.0, order: int = 2) -> Filter:
    """Butterworth highpass"""
    return _butterworth("highpass", (cutoff_hz,), order, sample_rate)


def bandpass(
    sample_rate: float, n_channels: int, *, low_hz: float = 300.0, high_hz: float = 3400.0, order: int = 2
) -> Filter:
    """Butterworth bandpass"""
    return _butterworth("bandpass", (low_hz, high_hz), order, sample_rate)


def bandstop(
    sample_rate: float, n_channels: int, *, low_hz: float = 45.0, high_hz: float = 55.0, order: int = 2
) -> Filter:
    """Butterworth bandstop"""
    return _butterworth("bandstop", (low_hz, high_hz), order, sample_rate)


def low_shelf(sample_rate: float, n_channels: int, *, cutoff_hz: float = 200.0, gain_db: float = 3.0) -> Filter:
    """state variable filter that lifts, or lowers, what is below cutoff_hz; both settings are controls, too"""
    return StateVariable("low_shelf", cutoff_hz=cutoff_hz, gain_db=gain_db, sample_rate=sample_rate)


def high_shelf(sample_rate: float, n_channels: int, *, cutoff_hz: float = 4000.0, gain_db: float = 3.0) -> Filter:
    """state variable filter that lifts, or lowers, what is above cutoff_hz; both settings are controls, too"""
    return StateVariable("high_shelf", cutoff_hz=cutoff_hz, gain_db=gain_db, sample_rate=sample_rate)


def peaking(
    sample_rate: float, n_channels: int, *, cutoff_hz: float = 1000.0, q: float = 1.0, gain_db: float = 3.0
) -> Filter:
    """state variable filter that lifts, or lowers, what is about cutoff_hz; all settings are controls, too"""
    return StateVariable("peaking", cutoff_hz=cutoff_hz, q=q, gain_db=gain_db, sample_rate=sample_rate)


def resonator(sample_rate: float, n_channels: int, *, frequency_hz: float = 440.0, t60_s: float = 1.0) -> Filter:
    """rings at frequency_hz for t60_s, with a gain of about one there; both settings are controls, too"""
    bare = CoupledForm(frequency_hz, t60_s=t60_s, sample_rate=sample_rate)
    return bare.replace(taps=[0.0, -2 * math.expm1(-3 * math.log(10) / (sample_rate * t60_s))])


def allpass(sample_rate: float, n_channels: int, *, delay_s: float = 0.01, gain: float = 0.6) -> Filter:
    """Gerzon allpass, the first channel's line of delay_s, the others' a little longer"""
    lengths = _primes(delay_s * 1.07 ** np.arange(n_channels), sample_rate)
    return GerzonAllpass(lengths, gain=gain, sample_rate=sample_rate)


def echo(
    sample_rate: float, n_channels: int, *, delay_s: float = 0.35, feedback: float = 0.5, mix: float = 0.4
) -> Filter:
    """repeats every delay_s, each by the factor feedback weaker"""
    n = _samples(delay_s, sample_rate)
    loop = Feedback(gain(1.0), feedback, delay=n)
    return Parallel(gain(1.0, sample_rate=sample_rate), delay(n) >> loop >> gain(mix))


def reverb(sample_rate: float, n_channels: int, *, preset: str = "hall", **settings: Any) -> Filter:
    """a room; what is not set is of the preset room, chamber, hall, plate or cathedral; t60_s and mix are controls"""
    return Reverb(preset, sample_rate=sample_rate, n_channels=n_channels, **settings)


def overdrive(sample_rate: float, n_channels: int, *, drive: float = 0.5) -> Filter:
    """a trained LSTM that models a small overdrive circuit at 48000 Hz, with the control drive"""
    with resources.as_file(resources.files("rnndsp") / "data" / "overdrive.safetensors") as path:
        model = formats.load(path)
    model.check_rate(sample_rate)
    return model.replace(defaults=(drive,))


def pedal(
    sample_rate: float, n_channels: int, *, drive_db: float = 20.0, tone_hz: float = 4500.0, level_db: float = -6.0
) -> Filter:
    """an overdrive of diodes, solved as a circuit at eight times the sample rate; drive_db is a control, too"""
    return circuits.overdrive(drive_db=drive_db, tone_hz=tone_hz, level_db=level_db, sample_rate=sample_rate)


NAMES: dict[str, Callable[..., Filter]] = {
    design.__name__: design
    for design in (
        *(lowpass, highpass, bandpass, bandstop, low_shelf, high_shelf, peaking, resonator),
        *(allpass, echo, reverb, overdrive, pedal),
    )
}


# Settings that a signature does not show.
MORE: dict[str, dict[str, Setting]] = {"reverb": asdict(ReverbSettings())}


def _settings(name: str) -> dict[str, Setting]:
    """The keys of a name, with their defaults."""
    parameters = inspect.signature(NAMES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | MORE.get(name, {})


def usage(name: str) -> str:
    """The spec of a name with all its settings at their defaults."""
    return f"{name}:" + ",".join(f"{key}={default}" for key, default in _settings(name).items())


def named(spec: str, *, sample_rate: float, n_channels: int = 1) -> Filter:
    """Build a filter, or a chain of them, from names and settings.

    Parameters
    ----------
    spec : str
        Links with ``+`` in between, each ``name`` or ``name:key=value,key=value``; :data:`NAMES` has the names, and the
        signature of each its keys and defaults. A link may also be the path of a saved filter.
    sample_rate : float
        Hz.
    n_channels : int
        For filters that treat channels together, as a reverb does; the others are for one channel. In a chain with such
        a one they run on each channel by itself.

    Raises
    ------
    ParameterError
        An unknown name or key, a value of another kind or out of range; a file that does not exist; links that do not
        fit.
    FormatError
        A file that is no filter.

    Examples
    --------
    >>> named("lowpass:cutoff_hz=4000,order=4+echo", sample_rate=48000).children[0].n_states
    4
    """
    if not isinstance(spec, str):
        raise ParameterError(f"{spec=} must be a text such as 'lowpass:cutoff_hz=4000,order=4+echo'")
    if not number("sample_rate", sample_rate) > 0:
        raise ParameterError(f"{sample_rate=} must be a positive number of Hz")
    n_channels = whole_number("n_channels", n_channels)
    # a plus before a digit belongs to a number, 1e+3; one in the name of a file that exists to it
    texts = [spec] if _is_file(spec) else re.split(r"\+(?!\d)", spec)
    links = [_link(text.strip(), sample_rate, n_channels) for text in texts]
    if len(links) == 1:
        return links[0]
    if n_channels > 1 and any(link.n_inputs > 1 or link.n_outputs > 1 for link in links):
        links = [
            Stack(*[link] * n_channels, shared=True) if link.n_inputs == link.n_outputs == 1 else link for link in links
        ]
    return Series(*links)


def _is_file(spec: str) -> bool:
    try:
        return Path(spec).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte in it
        return False


def _link(spec: str, sample_rate: float, n_channels: int) -> Filter:
    if _is_file(spec):
        return formats.load(spec)
    if os.sep in spec or spec.endswith(".safetensors"):
        raise ParameterError(f"there is no file {spec!r}")
    name, _, settings = spec.partition(":")
    if name not in NAMES:
        raise ParameterError(f"unknown filter {name!r}: choose one of {sorted(NAMES)}, or name a file that exists")
    keys = _settings(name)
    given: dict[str, Setting] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in keys or key in given:
            raise ParameterError(f"{spec!r}: unknown or repeated setting {key!r}; all of them are {usage(name)}")
        try:
            told = given[key] = type(keys[key])(value)
        except ValueError:
            raise ParameterError(
                f"{spec!r}: {key}={value!r} is no {type(keys[key]).__name__}; e.g. {usage(name)}"
            ) from None
        if not isinstance(told, str) and not abs(told) < 1e15:
            raise ParameterError(f"{spec!r}: {key} must be finite, and below 1e15")
    return NAMES[name](sample_rate, n_channels, **given)


def _samples(time_s: float, sample_rate: float) -> int:
    n = round(time_s * sample_rate)
    if not 1 <= n <= 60 * sample_rate:
        raise ParameterError(f"a delay of {time_s:g} s is less than a sample or more than a minute")
    return n


def _primes(times_s: NDArray[np.floating[Any]], sample_rate: float) -> list[int]:
    """Distinct primes near these times in samples: lines without common factors have no echoes in common."""
    found: list[int] = []
    for time_s in times_s:
        n = max(_samples(float(time_s), sample_rate), 2)
        while n in found or any(n % k == 0 for k in range(2, int(n**0.5) + 1)):
            n += 1
        found.append(n)
    return found

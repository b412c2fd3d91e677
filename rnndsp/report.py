"""One page about a filter that can be mailed: verdicts, plots, and what they mean in a sentence each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike, NDArray

from rnndsp import notebook, plots, stability
from rnndsp._files import writing
from rnndsp._findings import FAILURES, FEW, STATED_DB, Findings, checked, one_thread
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.notebook import drawn
from rnndsp.plots._style import duration, time_axis
from rnndsp.plots.responses import DECAY_DB, IMPULSE_DB, MANY_STATES, response_frames
from rnndsp.stability.spectrum import MARGIN, t60_s

__all__ = ["analyze", "as_dict", "html_page"]

Controls = Mapping[str, float]

# Frames of a trajectory whose poles are drawn.
FROZEN_FRAMES = 100
# Of a page that has all of them.
N_SECTIONS = 8
# What rings no longer than this has no octaves to tell apart.
MIN_BAND_S = 0.1
# A part of a sound that is no more than rounding.
INAUDIBLE = 1e-8
# Longer signals are cut for the analysis; of shorter ones a spectrogram, in windows of 1024 frames, shows nothing.
SIGNAL_FRAMES, SPECTROGRAM_FRAMES = 2**17, 2**12
BURST_LEVEL = 10 ** (-12 / 20)

STYLE = """
:root { color: #1c2430; background: #fff; font: 17px/1.55 Georgia, 'Times New Roman', serif; }
body { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1, h2, th, dt, .badge, figcaption b { font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem; padding-bottom: .25rem; border-bottom: 1px solid #cfd6de; }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1.2rem 0; }
dt { font-size: .75rem; color: #5a6675; } dd { margin: 0; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { overflow-wrap: anywhere; } small { color: #5a6675; }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .55rem .9rem .55rem 0; border-bottom: 1px solid #e4e8ed; }
thead th { font-size: .75rem; color: #5a6675; font-weight: 400; } tbody th { font-size: .95rem; font-weight: 600; }
.plots { display: grid; gap: 2rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
figure { margin: 0; } figure:only-child { max-width: 50rem; }
img { width: 100%; height: auto; display: block; } figcaption { margin-top: .5rem; }
@media (max-width: 40rem) {
  thead { display: none; } tr { display: block; padding: .6rem 0; border-bottom: 1px solid #e4e8ed; }
  th, td { display: block; border: 0; padding: .1rem 0; }
}
@media print { figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class _Picture:
    """A plot by the name of its file, or only the sentence why there is none."""

    title: str
    sentence: str
    name: str = ""
    png: bytes = b""


@dataclass(frozen=True)
class _Section:
    """A heading, HTML below it, and pictures."""

    title: str
    html: str
    pictures: tuple[_Picture, ...] = ()


def analyze(
    filt: Filter,
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    sample_rate: float | None = None,
    signal: ArrayLike | None = None,
    controls: Controls | None = None,
    sweep: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Write a page about a filter, ``index.html``, and the plots on it as PNG files beside it.

    The page holds its pictures, so it can be sent alone. It needs no network and runs no script. What does not apply to
    a filter is left out; what cannot be found, or would take minutes, is a sentence that says so.

    Parameters
    ----------
    filt : Filter
    directory : path
        Made where it is missing.
    name : str, optional
        Heading of the page; the make-up of the filter when absent.
    sample_rate : float, optional
        Hz, for a filter that does not say its own.
    signal : array, shape (n_frames, n_inputs) or (n_frames,), optional
        What to play to it: for poles, Lyapunov exponents and gradients along the way of a nonlinear filter, and for a
        spectrogram of its output. When absent the poles are those under a noise burst at -12 dB, the rest is told under
        steady noise. At most 131072 frames are used.
    controls : mapping of str to float, optional
        Where the knobs stand; at their defaults when absent.
    sweep : sequence of str, optional
        Names of knobs to turn over their range, one at a time: how many rest states are there?
    force : bool
        Replace files that are there.

    Returns
    -------
    Path
        That of ``index.html``.

    Raises
    ------
    ParameterError
        A file is in the way, the directory cannot be written, or sample rate, signal or knobs do not fit the filter.
    """
    return write(find_out(filt, name, sample_rate, signal, controls, sweep), directory, force=force)


def as_dict(
    filt: Filter,
    *,
    name: str | None = None,
    sample_rate: float | None = None,
    signal: ArrayLike | None = None,
    controls: Controls | None = None,
    sweep: Sequence[str] = (),
) -> dict[str, Any]:
    """The numbers of the page of :func:`analyze`, as ``rnndsp analyze --json`` prints them.

    Parameters
    ----------
    filt, name, sample_rate, signal, controls, sweep
        As in :func:`analyze`.

    Returns
    -------
    dict
        Of plain values only: strict JSON, None standing for what is not finite or not known. ``missing`` says what
        could not be found, and why. Poles are pairs of real and imaginary part, the 200 largest. Of a nonlinear filter
        ``small_signal``, ``transient_growth`` and ``loop`` are those about the rest state named first.
        ``along_a_signal`` and ``distortion`` say what was played.

    Raises
    ------
    ParameterError
        Sample rate, signal or knobs do not fit the filter.
    """
    return find_out(filt, name, sample_rate, signal, controls, sweep).as_dict()


def find_out(
    filt: Filter,
    name: str | None = None,
    sample_rate: float | None = None,
    signal: ArrayLike | None = None,
    controls: Controls | None = None,
    sweep: Sequence[str] = (),
) -> Findings:
    """What :func:`write` and ``as_dict`` tell, once its arguments are known to fit; nothing is computed yet."""
    filt.check_rate(sample_rate)
    checked(filt, controls)
    if sample_rate is not None and filt.sample_rate is None:
        filt = filt.replace(sample_rate=sample_rate)
    heard = None if signal is None else _checked(filt, signal)
    return Findings(filt, name=name, controls=controls, signal=heard, sweep=sweep)


def write(
    found: Findings,
    directory: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """The page of :func:`analyze`; ``progress`` is told the sections done, about their number, and their titles."""
    folder = Path(directory)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"cannot make the directory {folder}: {error.strerror}; name another one") from error
    with ExitStack() as files:
        if made:
            files.callback(_remove_if_empty, folder)
        # entered first, so renamed last: a page is there only when its pictures are
        page = files.enter_context(writing(folder / "index.html", force=force))
        # an unstable filter overflows, which is a finding and no accident
        with np.errstate(all="ignore"), one_thread():
            sections = []
            for section in _sections(found):
                sections.append(section)
                if progress:
                    progress(len(sections), N_SECTIONS, section.title)
        for picture in (picture for section in sections for picture in section.pictures):
            if picture.png:
                files.enter_context(writing(folder / picture.name, force=force)).write_bytes(picture.png)
        page.write_text(_page(found, sections), encoding="utf-8")
    return folder / "index.html"


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _checked(filt: Filter, signal: ArrayLike) -> NDArray[np.float64]:
    u = np.asarray(signal)
    if u.ndim == 1 and filt.n_inputs == 1:
        u = u[:, None]
    if u.ndim != 2 or u.shape[1] != filt.n_inputs or not len(u):
        raise ParameterError(
            f"{u.shape=}: the signal must have shape (n_frames, {filt.n_inputs}), as the filter's inputs"
        )
    if u.dtype not in (np.float32, np.float64) or not np.isfinite(u).all():
        raise ParameterError(f"the signal ({u.dtype}) must be of finite float32 or float64")
    return u[:SIGNAL_FRAMES].astype(np.float64)


# ---- pictures, each with what a musician wants to know from it


def _level(db: float) -> str:
    return f"{round(float(db), 1) + 0.0:+.1f} dB"  # no negative zero


def _pitch(frequency: float, rate: float | None) -> str:
    if frequency < 1e-6 * (rate or 1):
        frequency = 0.0  # an angle of rounding errors
    return EngFormatter("Hz")(float(f"{frequency:.3g}")) if rate else f"{frequency:.3g} cycles a sample"


Maker = Callable[[Findings], _Picture | None]


def _sections(found: Findings) -> Iterator[_Section]:
    """In the order of the page; what has nothing to say is left out."""
    small = "What it does" if found.filt.is_linear else "Small sounds, and fading away"
    parts: list[tuple[str, Callable[[Findings], str] | None, list[Maker]]] = [
        ("Is it stable?", _verdicts, [_certificates]),
        ("At rest", _rest_text, [_rest_states]),
        (small, _gains, [_poles, _pole_decay, _frequency, _group_delay, _impulse, _decay, _bands]),
        ("Before it fades", None, [_growth, _pseudospectrum]),
        ("The feedback loop", None, [_loop]),
        ("While it plays", _memory, [_frozen, _lyapunov, _gradients, _spectrogram]),
        ("Overtones", None, [_harmonics, _aliasing]),
        ("Turning the knobs", None, [partial(_sweep, knob=knob) for knob in found.swept]),
    ]
    for title, tell, makers in parts:
        html, pictures = tell(found) if tell else "", _made(found, makers)
        if html or pictures:
            yield _Section(title, html, pictures)


def _made(found: Findings, makers: Sequence[Maker]) -> tuple[_Picture, ...]:
    pictures = []
    for make in makers:
        try:
            picture = make(found)
        except FAILURES as error:
            picture = _Picture("A missing picture", f"{error}.")
        if picture:
            pictures.append(picture)
    return tuple(pictures)


def _paragraphs(*sentences: str) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence)


def _absent(found: Findings, title: str, part: str) -> _Picture | None:
    """The sentence why a part is missing, None where it does not apply."""
    return _Picture(title, f"Not drawn: {found.missing[part]}.") if part in found.missing else None


def _verdicts(found: Findings) -> str:
    if found.verdicts is None:
        return _paragraphs(f"No verdicts: {found.missing['verdicts']}.")
    return notebook.verdict_table(found.verdicts)


def _certificates(found: Findings) -> _Picture | None:
    report = found.verdicts
    tests = [test for row in report or () for test in row.tests]
    if report is None or not tests:
        return None
    lines = sum(1.25 + sum(0.5 + 0.5 * (1 + len(test.name) // 46) for test in row.tests) for row in report)
    _, png = drawn(lambda ax: plots.certificate_plot(report, ax=ax), 9.0, 0.9 + 0.27 * lines)
    passed = sum(test.passed for test in tests)
    said = f"{passed or 'None'} of the {len(tests)} numerical tests {'are' if passed > 1 else 'is'} passed. One is"
    said += " enough for a proof of what it is about; one that is not passed says nothing."
    return _Picture("What was tried", said, "certificates.png", png)


def _rest_text(found: Findings) -> str:
    if found.filt.is_linear:
        return ""
    if found.probe is None:
        return _paragraphs(f"Its rest states were not searched: {found.missing['probe']}.")
    n = len(found.probe.rest_states)
    moral = {0: "Left alone, it does not come to rest.", 1: "Left alone, it always came to rest in the same way."}.get(
        n, "It has several ways to be at rest, and answers the same guitar in another way in each."
    )
    lines = str(found.probe).splitlines()
    return _paragraphs(moral) + f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _rest_states(found: Findings) -> _Picture | None:
    probe = found.probe
    if probe is None or not probe.rest_states or (len(probe.rest_states) == 1 and not probe.transitions):
        return None
    _, png = drawn(lambda ax: plots.rest_probe_plot(probe, ax=ax), 9.0, 4.6)
    n = len(probe.transitions)
    said = (
        f"{n} sound{'s' * (n != 1)} found that lead{'s' * (n == 1)} from one to another; a larger dot is reached from"
    )
    said += " more of the random starts."
    return _Picture("Rest states and what flips them", said, "rest_states.png", png)


def _gains(found: Findings) -> str:
    """Norms in words."""
    if found.norms is None:
        return _paragraphs(f"Its gains were not found: {found.missing['norms']}.") if "norms" in found.missing else ""
    norms, known = found.norms, {}
    if found.fades and np.isfinite(norms.peak_gain) and norms.peak_gain > 0:
        at = f" at {_pitch(norms.peak_frequency, found.filt.sample_rate)}"
        known["Loudest steady tone"] = _level(20 * np.log10(norms.peak_gain)) + at
        known["Loudest output, inputs within ±1"] = _level(norms.headroom_db)
        known["Level of white noise"] = _level(20 * np.log10(norms.h2)) if norms.h2 else "silence"
    if found.hidden is not None and len(found.hidden):
        n = int(found.hidden.unstable.sum())
        known["Modes not heard or not driven"] = f"{len(found.hidden)}" + (f", {n} of them unstable" if n else "")
    return notebook.facts(known) if known else ""


def _poles(found: Findings) -> _Picture | None:
    filt, z = found.filt, found.poles
    if z is None:
        why = found.missing.get("linear") or found.missing.get("poles")
        return _Picture("Poles", f"No poles to draw: {why}.")
    if not z.size:
        return _Picture("Poles", "No poles to draw: without memory, an output frame depends on one input frame only.")
    _, png = drawn(lambda ax: plots.pole_plot(filt, found.rest, controls=found.controls, poles=z, ax=ax), 7.0, 5.8)
    beyond = int(np.count_nonzero(np.abs(z) >= 1 - MARGIN))
    where = "" if filt.is_linear else ", for soft sounds about rest"
    some = f"All {z.size:,} poles" if beyond in (0, z.size) else f"{beyond:,} of {z.size:,} poles"
    some = "Both poles" if z.size == 2 and beyond != 1 else some
    some = "Its only pole lies" if z.size == 1 else some + (" lies" if beyond == 1 else " lie")
    if beyond:
        said = f"{some} on or outside the unit circle{where}: what rings there never fades."
    else:
        said = f"{some} inside the unit circle{where}: everything that rings fades."
    return _Picture("Poles", said, "poles.png", png)


def _pole_decay(found: Findings) -> _Picture | None:
    filt, z = found.filt, found.poles
    if z is None or not z.size:
        return None
    _, png = drawn(lambda ax: plots.pole_decay_plot(filt, found.rest, poles=z, ax=ax), 7.0, 5.8)
    rate = filt.sample_rate
    size = np.abs(z)
    slowest = z[np.argmax(size)]
    at = _pitch(abs(np.angle(slowest)) / (2 * np.pi) * (rate or 1.0), rate)
    radius = found.radius
    if radius > 1 + MARGIN:
        said = f"Its fastest growing mode, at {at}, is 60 dB louder after {duration(3 / np.log10(radius), rate)}."
    elif radius >= 1 - MARGIN:
        said = f"Its slowest mode, at {at}, rings for ever."
    else:
        slow, half, fast = (t60_s(float(r), 1.0) for r in (radius, np.median(size), size.min()))
        said = f"Its slowest mode, at {at}, needs {duration(slow, rate)} to fade by 60 dB"
        said += f"; half of all modes need less than {duration(half, rate)}." if 1 <= half < 0.9 * slow else "."
        if fast > 0.99 * slow:
            said = f"All its modes fade at one rate, by 60 dB in {duration(slow, rate)}."
    return _Picture("How long each mode rings", said, "pole_decay.png", png)


def _impulse(found: Findings) -> _Picture | None:
    filt, controls = found.filt, found.controls
    n = response_frames(filt, controls, found.slowest, IMPULSE_DB)
    lines, png = drawn(lambda ax: plots.impulse_response_plot(filt, n, controls=controls, ax=ax))
    h = np.stack([np.abs(line.get_ydata()) for line in lines])
    peak, rate = h.max(), filt.sample_rate
    x = np.asarray(lines[0].get_xdata()) / time_axis(n, rate)[0][1]  # in frames again
    if not peak:
        said = "A click gives silence."
    elif found.radius > 1 + MARGIN and filt.is_linear:
        said = f"A click never dies away: it is shown for the first {duration(n, rate)}."
    else:
        loud, alive = (np.flatnonzero(np.any(h >= part * peak, axis=0)) for part in (0.5, 1e-3))
        first, last = x[loud[0]], x[alive[-1]]
        said = f"A click is heard {f'after {duration(first, rate)}' if first else 'at once'}, and "
        if last >= 0.999 * (n - 1):
            said += f"stays within 60 dB of its peak for the {duration(n, rate)} shown."
        else:
            said += f"has faded by 60 dB after {duration(last + 1, rate)}."
    return _Picture("What a click turns into", said, "impulse_response.png", png)


def _decay(found: Findings) -> _Picture | None:
    filt, controls = found.filt, found.controls
    if not found.fades or not found.radius:
        return None
    n = response_frames(filt, controls, found.slowest, DECAY_DB)
    lines, png = drawn(lambda ax: plots.decay_plot(filt, n, controls=controls, ax=ax))
    label = str(lines[0].get_label()).partition(": ")[2]
    said = f"Of a click, the energy still to come falls by {label}." if label.startswith("60") else f"There is {label}."
    return _Picture("How the energy fades", said, "energy_decay.png", png)


def _bands(found: Findings) -> _Picture | None:
    filt, rate = found.filt, found.filt.sample_rate
    if not rate or not found.fades or not found.radius or t60_s(found.radius, rate) < MIN_BAND_S:
        return None
    n = response_frames(filt, found.controls, found.slowest, DECAY_DB)
    lines, png = drawn(lambda ax: plots.octave_decay_plot(filt, n, controls=found.controls, ax=ax))
    times = {centre: str(line.get_label()).partition(": ")[2] for centre, line in lines.items()}
    known = {centre: said for centre, said in times.items() if not said.startswith("no")}
    if not known:
        return _Picture("How each octave fades", "No octave falls along a straight line.", "octave_decay.png", png)
    low, high = min(known), max(known)
    said = f"To fade by 60 dB, the octave about {_pitch(low, rate)} takes {known[low]}"
    said += f", that about {_pitch(high, rate)} {known[high]}." if high > low else "."
    return _Picture("How each octave fades", said, "octave_decay.png", png)


def _frequency(found: Findings) -> _Picture | None:
    filt, controls = found.filt, found.controls
    if found.linear is None:
        return None
    at: dict[str, Any] = {"state": found.rest, "controls": controls}
    if filt.n_states > MANY_STATES:  # so many turns of the phase are not followed for sure
        (curves, averages), png = drawn(lambda ax: plots.frequency_response_plot(filt, ax=ax, **at))
    else:
        (curves, averages, _), png = drawn(lambda ax: plots.bode_plot(filt, ax=tuple(ax), **at), 7.0, 5.8, n_rows=2)
    frequency, db = (np.asarray(data, np.float64) for data in (averages or curves)[0].get_data())
    rate = filt.sample_rate
    top, least = int(np.argmax(db)), int(np.argmin(db))
    plateau = np.flatnonzero(db >= db[top] - 0.05)
    if frequency[plateau[-1]] > 2 * frequency[plateau[0]]:  # its lower end, whatever rounding makes of it
        top = int(plateau[0])
    if not np.isfinite(db[top]):
        said = "Nothing passes."
    elif db[top] - db[least] < 0.1:
        said = f"All frequencies pass alike, at {_level(db[top])}."
    elif averages:
        said = (
            f"In third-octave means it is loudest at {_pitch(frequency[top], rate)}, {_level(db[top])}, and softest at "
        )
        said += f"{_pitch(frequency[least], rate)}, {_level(db[least])}."
    else:
        where = {0: "at the lowest frequencies", len(db) - 1: "at the highest frequencies"}.get(
            top, f"at {_pitch(frequency[top], rate)}"
        )
        far = np.flatnonzero(db < db[top] - 3)
        low, high = np.max(far[far < top], initial=-1) + 1, np.min(far[far > top], initial=len(db)) - 1
        ends = (f"from {_pitch(frequency[low], rate)}" if low else "", f"to {_pitch(frequency[high], rate)}")
        span = " ".join(ends if high < len(db) - 1 else (*ends[:1], "up")).strip() if far.size else "everywhere"
        span = span if low else span.replace("to", "up to", 1)
        said = f"It is loudest {where}, {_level(db[top])}, and within 3 dB of that {span}."
        if far.size and high - low < 5:
            said = f"It is loudest {where}, {_level(db[top])}, in a narrow peak."
    if found.radius >= 1 - MARGIN:
        said += " But it is not stable: no steady tone will ever sound like that."
    elif not filt.is_linear:
        said += " This holds for soft sounds about rest; louder ones also gain overtones."
    return _Picture("Tone", said, "frequency_response.png", png)


def _group_delay(found: Findings) -> _Picture | None:
    filt = found.filt
    if not found.fades or not filt.n_states:
        return None
    (curves, averages), png = drawn(
        lambda ax: plots.group_delay_plot(filt, state=found.rest, controls=found.controls, ax=ax)
    )
    frequency, delay = (np.asarray(data, np.float64) for data in (averages or curves)[0].get_data())
    known = np.flatnonzero(np.isfinite(delay))
    if not known.size:
        return None
    most = known[np.argmax(delay[known])]
    rate = filt.sample_rate
    shift = duration(max(delay[most], 0.0) * (rate / 1000 if rate else 1.0), rate)
    said = f"Notes about {_pitch(frequency[most], rate)} come out latest, {shift} after they go in."
    if np.ptp(delay[known]) < 0.02 * max(abs(delay[most]), 1e-9):
        said = f"All notes come out {shift} after they go in."
    return _Picture("Delay", said, "group_delay.png", png)


def _growth(found: Findings) -> _Picture | None:
    growth, rate = found.growth, found.filt.sample_rate
    if growth is None:
        return _absent(found, "What a state may grow to", "growth")
    _, png = drawn(lambda ax: plots.transient_plot(growth, sample_rate=rate, ax=ax))
    if not found.fades:
        said = "No state is sure to fade, as some poles do not."
    elif growth.maximum > 1 + 1e-9:
        said = f"Before it fades, what it has stored may grow up to {growth.maximum:.3g} times, after "
        said += f"{duration(growth.argmax, rate)}: a number about its inside, not about its output."
    else:
        said = "What it has stored never grows, it only fades."
    return _Picture("What a state may grow to", said, "transients.png", png)


def _pseudospectrum(found: Findings) -> _Picture | None:
    filt = found.filt
    if found.linear is None or not found.linear.n_states or filt.n_states > FEW:
        return None
    _, png = drawn(
        lambda ax: plots.pseudospectrum_plot(filt, found.rest, controls=found.controls, n_points=60, ax=ax), 7.0, 5.8
    )
    said = "How far poles move when its numbers change a little, as by rounding: contours that leave the circle warn."
    return _Picture("How exact its numbers must be", said, "pseudospectrum.png", png)


def _loop(found: Findings) -> _Picture | None:
    if found.loop is None:
        return _absent(found, "The loop", "loop")
    curve, room = found.loop
    _, png = drawn(lambda ax: plots.nyquist_plot(curve, room, ax=ax), 7.0, 5.8)
    rate = found.filt.sample_rate
    if not room.stable:
        said = "The loop is not stable." if room.stable is False else "Whether the loop is stable was not settled."
    elif np.isfinite(room.gain_up_db):
        at = _pitch(room.gain_up_frequency, rate)
        said = f"The loop may be {room.gain_up_db:.3g} dB louder before it howls, at {at}."
    else:
        said = "The loop does not howl however loud it is."
    return _Picture("Room before it howls", said, "nyquist.png", png)


def _burst(n_inputs: int) -> NDArray[np.float64]:
    t = np.arange(4096)
    noise = np.random.default_rng(0).uniform(-1, 1, (t.size, n_inputs))
    return BURST_LEVEL * noise * np.exp(-t / 800)[:, None]


def _frozen(found: Findings) -> _Picture | None:
    filt, heard = found.filt, found.signal
    if filt.is_linear or found.poles is None or not found.poles.size:
        return None
    title = "Poles while it plays"
    if filt.n_states > FEW:
        return _Picture(
            title, f"Not drawn: with {filt.n_states:,} states the poles of every frame would take too long."
        )
    u = _burst(filt.n_inputs) if heard is None else heard
    n_frames = FROZEN_FRAMES // (1 + filt.n_states // 64)
    frozen = stability.frozen_poles(filt, u, every=-(-len(u) // n_frames), controls=found.controls)
    _, png = drawn(lambda ax: plots.frozen_pole_plot(frozen, sample_rate=filt.sample_rate, ax=ax), 7.0, 5.8)
    beyond = int(np.count_nonzero(np.max(np.abs(frozen.poles), axis=1) >= 1 - MARGIN))
    played = "a noise burst at -12 dB" if heard is None else "the given signal"
    said = (
        f"Under {played} the poles move; in {beyond} of {frozen.index.size} moments some are on or outside the circle."
    )
    said += " A picture, not a proof."
    return _Picture(title, said, "frozen_poles.png", png)


def _memory(found: Findings) -> str:
    horizon = found.horizon
    if horizon is None:
        why = found.missing.get("horizon")
        return _paragraphs(f"How long it remembers was not found: {why}.") if why else ""
    if not np.isfinite(horizon.samples):
        return _paragraphs(f"Under {found.played} a small change of the input is still heard when the sound ends.")
    lasts = duration(horizon.samples, found.filt.sample_rate)
    return _paragraphs(
        f"Under {found.played} it forgets a small click after {lasts}: by then its effect has faded by "
        f"{horizon.drop_db:g} dB."
    )


def _lyapunov(found: Findings) -> _Picture | None:
    spectrum, rate = found.lyapunov, found.filt.sample_rate
    title = "Do two runs meet?"
    if spectrum is None:
        return _absent(found, title, "lyapunov")
    _, png = drawn(lambda ax: plots.lyapunov_plot(spectrum, ax=ax))
    first = float(spectrum.exponents[0])
    half = duration(np.log(10) * 3 / abs(first), rate) if np.isfinite(first) and first else "no time"
    said = f"Under {found.played} small differences "
    if first > 0:
        said += f"grow a thousandfold in {half}: it never plays the same twice."
    elif found.probe and len(found.probe.rest_states) > 1:
        said += f"shrink to a thousandth in {half}. Large ones need not: it has more than one rest state."
    else:
        said += f"shrink to a thousandth in {half}: it plays the same every time."
    return _Picture(title, said + " Measured on this sound, and no proof.", "lyapunov.png", png)


def _gradients(found: Findings) -> _Picture | None:
    norms, title = found.gradients, "How far back training sees"
    if norms is None:
        return _absent(found, title, "gradients")
    _, png = drawn(lambda ax: plots.gradient_plot(norms, ax=ax))
    far = duration(int(norms.lag[-1]), found.filt.sample_rate)
    said = {
        "vanishing": f"What happened {far} ago no longer matters to it, nor to training.",
        "exploding": f"What happened {far} ago matters more than what happens now: training it is unstable.",
    }.get(norms.verdict, f"What happened {far} ago still matters to it.")
    return _Picture(title, said, "gradients.png", png)


def _harmonics(found: Findings) -> _Picture | None:
    sines, title = found.harmonics, "Overtones against level"
    if sines is None:
        return _absent(found, title, "harmonics")
    _, png = drawn(lambda ax: plots.harmonic_plot(sines, ax=ax))
    at = int(np.argmin(np.abs(sines.levels_db - STATED_DB)))
    said = f"A sine of {sines.frequency_hz:.0f} Hz at {sines.levels_db[at]:g} dB comes out with "
    said += f"{100 * sines.thd[at]:.2g} % of overtones" if np.isfinite(sines.thd[at]) else "no clear tone"
    if sines.thd[at] < INAUDIBLE:
        said = "A sine comes out without overtones"
    elif sines.thd[0] < 1:
        said += f", one at {sines.levels_db[0]:g} dB with {100 * sines.thd[0]:.2g} %"
    return _Picture(title, said + "." + _assumed(found), "harmonics.png", png)


def _aliasing(found: Findings) -> _Picture | None:
    alias, title = found.aliasing, "Wrong tones of high notes"
    if alias is None:
        return _absent(found, title, "aliasing")
    _, png = drawn(lambda ax: plots.aliasing_plot(alias, ax=ax))
    known = np.flatnonzero(np.isfinite(alias.ratio_db))
    said = "High notes gain no tones that are not theirs."
    if known.size and np.max(alias.ratio_db[known]) > 20 * np.log10(INAUDIBLE):
        worst = known[np.argmax(alias.ratio_db[known])]
        said = f"Tones that belong to no overtone (aliasing) are loudest for a note of {alias.frequency_hz[worst]:.0f}"
        said += f" Hz: {_level(alias.ratio_db[worst])} of all that sounds, at {alias.level_db:g} dB."
    return _Picture(title, said + _assumed(found), "aliasing.png", png)


def _assumed(found: Findings) -> str:
    return "" if found.filt.sample_rate else f" For want of a sample rate, {found.rate:g} Hz are assumed."


def _sweep(found: Findings, knob: str) -> _Picture | None:
    if found.sweeps is None:
        return _absent(found, f"Turning {knob}", "sweeps")
    sweep = found.sweeps[knob]
    _, png = drawn(lambda ax: plots.rest_sweep_plot(sweep, ax=ax))
    said = "; ".join(str(sweep).splitlines())
    return _Picture(f"Turning {knob}", f"{said}.", f"sweep_{found.swept.index(knob) + 1}.png", png)


def _spectrogram(found: Findings) -> _Picture | None:
    filt, heard = found.filt, found.signal
    if heard is None or len(heard) < SPECTROGRAM_FRAMES:
        return None
    y = filt(heard, controls=found.controls)
    _, png = drawn(lambda ax: plots.spectrogram_plot(y, filt.sample_rate or 1.0, ax=ax))
    change = 10 * np.log10(np.mean(y**2) / np.mean(heard**2)) if heard.any() and y.any() else 0.0
    peak = 20 * np.log10(np.max(np.abs(y))) if y.any() else -np.inf
    said = f"The given signal comes out {_level(change)} in level, with its peak at {_level(peak)} of full scale."
    if not filt.sample_rate:
        said += " No sample rate is known: frequencies are in cycles a sample, times in samples."
    return _Picture("What comes out", said, "spectrogram.png", png)


# ---- the page


def _tree(filt: Filter) -> str:
    plain = {"delays"} if set(filt.config.get("delays", ())) <= {1} else set()  # state space as everybody knows it
    config = ", ".join(f"{key}={value!r}" for key, value in filt.config.items() if key not in plain)
    inner = "".join(_tree(child) for child in filt.children)
    inner = f"<ul>{inner}</ul>" if inner else ""
    return f"<li>{escape(type(filt).__name__)} <small>{escape(notebook.shortened(config, 160))}</small>{inner}</li>"


def _figure(picture: _Picture) -> str:
    stop = "" if picture.title.endswith("?") else "."
    caption = f"<b>{escape(picture.title)}{stop}</b> {escape(picture.sentence)}"
    if not picture.png:
        return f"<figure><figcaption>{caption}</figcaption></figure>"
    img = notebook.image(f"{picture.title}: plot", picture.png)
    return f"<figure>{img}<figcaption>{caption}</figcaption></figure>"


def _page(found: Findings, sections: Sequence[_Section]) -> str:
    body = [f"<ul>{_tree(found.filt)}</ul>", notebook.facts(notebook.filter_facts(found.filt, found.controls))]
    for section in sections:
        body += [f"<h2>{escape(section.title)}</h2>", section.html]
        if section.pictures:
            body.append(f'<div class="plots">{"".join(map(_figure, section.pictures))}</div>')
    return html_page(found.name, "\n".join(body))


def html_page(title: str, body: str) -> str:
    """A page in the style of :func:`analyze`.

    Parameters
    ----------
    title : str
        Text, which gets escaped.
    body : str
        HTML, which does not.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""

"""One page about a filter that can be mailed: verdicts, plots, and what they mean in a sentence each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike, NDArray

from rnndsp import notebook, plots, stability
from rnndsp._files import writing
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.notebook import drawn
from rnndsp.plots._style import duration, time_axis
from rnndsp.plots.responses import DECAY_DB, IMPULSE_DB, response_frames
from rnndsp.stability import StabilityReport
from rnndsp.stability.spectrum import MARGIN
from rnndsp.state import State

__all__ = ["analyze", "html_page"]

Controls = Mapping[str, float]

# Frames of a trajectory whose poles are drawn, and the most states for which that is cheap enough.
FROZEN_FRAMES = 100
FROZEN_STATES = 300
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
figure { margin: 0; } img { width: 100%; height: auto; display: block; } figcaption { margin-top: .5rem; }
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


def analyze(
    filt: Filter,
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    sample_rate: float | None = None,
    signal: ArrayLike | None = None,
    controls: Controls | None = None,
    force: bool = False,
) -> Path:
    """Write a page about a filter, ``index.html``, and the plots on it as PNG files beside it.

    The page holds its pictures, so it can be sent alone. It needs no network and runs no script.

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
        What to play to it: for the poles along the way of a nonlinear filter, and for a spectrogram of its output. When
        absent the poles are those under a noise burst at -12 dB. At most 131072 frames are used.
    controls : mapping of str to float, optional
        Where the knobs stand; at their defaults when absent.
    force : bool
        Replace files that are there.

    Returns
    -------
    Path
        That of ``index.html``.

    Raises
    ------
    ParameterError
        A file is in the way, the directory cannot be written, or sample rate or signal do not fit the filter.
    """
    filt.check_rate(sample_rate)
    _check_controls(filt, controls or {})
    if sample_rate is not None and filt.sample_rate is None:
        filt = filt.replace(sample_rate=sample_rate)
    heard = None if signal is None else _checked(filt, signal)
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
        with np.errstate(all="ignore"):  # an unstable filter overflows, which is a finding and no accident
            verdicts, trouble = _verdicts(filt, controls)
            pictures = list(_pictures(filt, controls, verdicts, heard))
        for picture in pictures:
            if picture.png:
                files.enter_context(writing(folder / picture.name, force=force)).write_bytes(picture.png)
        title = name or notebook.make_up(filt)
        page.write_text(_page(filt, controls, title, verdicts, trouble, pictures), encoding="utf-8")
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


def _check_controls(filt: Filter, controls: Controls) -> None:
    """Raise for an unknown control or one beyond its range, before anything is computed."""
    known = {control.name: control for control in filt.controls}
    unknown = sorted(set(controls) - set(known))
    if unknown:
        raise ParameterError(f"unknown controls {unknown}; this filter has {list(known)}")
    for name, value in controls.items():
        known[name].check(value)


def _verdicts(filt: Filter, controls: Controls | None) -> tuple[StabilityReport | None, str]:
    try:
        return filt.stability(controls=controls), ""
    except RnndspError as error:
        return None, str(error)


@dataclass(frozen=True)
class _Subject:
    """A filter, where its knobs stand, where it rests, and its poles there, where it has any."""

    filt: Filter
    controls: Controls | None
    rest: State | None
    poles: NDArray[np.complex128] | None

    @property
    def radius(self) -> float:
        return 0.0 if self.poles is None else float(np.max(np.abs(self.poles), initial=0))


# ---- pictures, each with what a musician wants to know from it


def _level(db: float) -> str:
    return f"{round(float(db), 1) + 0.0:+.1f} dB"  # no negative zero


def _pitch(frequency: float, rate: float | None) -> str:
    if frequency < 1e-6 * (rate or 1):
        frequency = 0.0  # an angle of rounding errors
    return EngFormatter("Hz")(float(f"{frequency:.3g}")) if rate else f"{frequency:.3g} cycles a sample"


def _pictures(
    filt: Filter, controls: Controls | None, verdicts: StabilityReport | None, heard: NDArray[np.float64] | None
) -> Iterator[_Picture]:
    rest = verdicts.rest_states[0] if verdicts and verdicts.rest_states else None
    found: NDArray[np.complex128] | None = None
    try:
        filt.linearize(rest, controls=controls)
        found = verdicts.poles if verdicts else stability.poles(filt, rest, controls=controls)
    except RnndspError as error:
        yield _Picture("Poles", f"No poles to draw: {error}.")
    subject = _Subject(filt, controls, rest, found)
    makers: list[Callable[[_Subject], _Picture]] = []
    if found is not None and found.size:
        makers += [_poles, _pole_decay]
    elif found is not None:
        yield _Picture("Poles", "No poles to draw: without memory, an output frame depends on one input frame only.")
    makers.append(_impulse)
    if 0 < subject.radius < 1 - MARGIN:
        makers.append(_decay)
    if found is not None:
        makers.append(_frequency)
    if found is not None and found.size and not filt.is_linear:
        makers.append(partial(_frozen, heard=heard))
    if heard is not None and len(heard) >= SPECTROGRAM_FRAMES:
        makers.append(partial(_spectrogram, heard=heard))
    for make in makers:
        try:
            yield make(subject)
        except RnndspError as error:
            yield _Picture("A missing picture", f"{error}.")


def _poles(subject: _Subject) -> _Picture:
    filt, found = subject.filt, subject.poles
    assert found is not None
    _, png = drawn(lambda ax: plots.pole_plot(filt, subject.rest, poles=found, ax=ax), 7.0, 5.8)
    beyond = int(np.count_nonzero(np.abs(found) >= 1 - MARGIN))
    where = "" if filt.is_linear else ", for soft sounds about rest"
    some = f"All {found.size:,} poles" if beyond in (0, found.size) else f"{beyond:,} of {found.size:,} poles"
    some = "Its only pole lies" if found.size == 1 else some + (" lies" if beyond == 1 else " lie")
    if beyond:
        said = f"{some} on or outside the unit circle{where}: what rings there never fades."
    else:
        said = f"{some} inside the unit circle{where}: everything that rings fades."
    return _Picture("Poles", said, "poles.png", png)


def _pole_decay(subject: _Subject) -> _Picture:
    filt, found = subject.filt, subject.poles
    assert found is not None
    _, png = drawn(lambda ax: plots.pole_decay_plot(filt, subject.rest, poles=found, ax=ax), 7.0, 5.8)
    rate = filt.sample_rate
    size = np.abs(found)
    slowest = found[np.argmax(size)]
    at = _pitch(abs(np.angle(slowest)) / (2 * np.pi) * (rate or 1.0), rate)
    radius = subject.radius
    if radius > 1 + MARGIN:
        said = f"Its fastest growing mode, at {at}, is 60 dB louder after {duration(3 / np.log10(radius), rate)}."
    elif radius >= 1 - MARGIN:
        said = f"Its slowest mode, at {at}, rings for ever."
    else:
        slow, half, fast = (stability.t60_s(float(r), 1.0) for r in (radius, np.median(size), size.min()))
        said = f"Its slowest mode, at {at}, needs {duration(slow, rate)} to fade by 60 dB"
        said += f"; half of all modes need less than {duration(half, rate)}." if 1 <= half < 0.9 * slow else "."
        if fast > 0.99 * slow:
            said = f"All its modes fade at one rate, by 60 dB in {duration(slow, rate)}."
    return _Picture("How long each mode rings", said, "pole_decay.png", png)


def _impulse(subject: _Subject) -> _Picture:
    filt, controls = subject.filt, subject.controls
    n = response_frames(filt, controls, subject.poles, IMPULSE_DB)
    lines, png = drawn(lambda ax: plots.impulse_response_plot(filt, n, controls=controls, ax=ax))
    h = np.stack([np.abs(line.get_ydata()) for line in lines])
    peak, rate = h.max(), filt.sample_rate
    x = np.asarray(lines[0].get_xdata()) / time_axis(n, rate)[0][1]  # in frames again
    if not peak:
        said = "A click gives silence."
    elif subject.radius > 1 + MARGIN and filt.is_linear:
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


def _decay(subject: _Subject) -> _Picture:
    filt, controls = subject.filt, subject.controls
    n = response_frames(filt, controls, subject.poles, DECAY_DB)
    lines, png = drawn(lambda ax: plots.decay_plot(filt, n, controls=controls, ax=ax))
    label = str(lines[0].get_label()).partition(": ")[2]
    said = f"Of a click, the energy still to come falls by {label}." if label.startswith("60") else f"There is {label}."
    return _Picture("How the energy fades", said, "energy_decay.png", png)


def _frequency(subject: _Subject) -> _Picture:
    filt, controls = subject.filt, subject.controls
    (curves, averages), png = drawn(
        lambda ax: plots.frequency_response_plot(filt, state=subject.rest, controls=controls, ax=ax)
    )
    frequency, db = (np.asarray(data, np.float64) for data in (averages or curves)[0].get_data())
    rate = filt.sample_rate
    # of a plateau its lower end, whatever rounding makes of it
    top, least = int(np.argmax(db >= db.max() - 0.05)), int(np.argmin(db))
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
    if subject.radius >= 1 - MARGIN:
        said += " But it is not stable: no steady tone will ever sound like that."
    elif not filt.is_linear:
        said += " This holds for soft sounds about rest; louder ones also gain overtones."
    return _Picture("Tone", said, "frequency_response.png", png)


def _burst(n_inputs: int) -> NDArray[np.float64]:
    t = np.arange(4096)
    noise = np.random.default_rng(0).uniform(-1, 1, (t.size, n_inputs))
    return BURST_LEVEL * noise * np.exp(-t / 800)[:, None]


def _frozen(subject: _Subject, heard: NDArray[np.float64] | None) -> _Picture:
    filt, controls = subject.filt, subject.controls
    title = "Poles while it plays"
    if filt.n_states > FROZEN_STATES:
        return _Picture(
            title, f"Not drawn: with {filt.n_states:,} states the poles of every frame would take too long."
        )
    u = _burst(filt.n_inputs) if heard is None else heard
    n_frames = FROZEN_FRAMES // (1 + filt.n_states // 64)
    frozen = stability.frozen_poles(filt, u, every=-(-len(u) // n_frames), controls=controls)
    _, png = drawn(lambda ax: plots.frozen_pole_plot(frozen, sample_rate=filt.sample_rate, ax=ax), 7.0, 5.8)
    beyond = int(np.count_nonzero(np.max(np.abs(frozen.poles), axis=1) >= 1 - MARGIN))
    played = "a noise burst at -12 dB" if heard is None else "the given signal"
    said = (
        f"Under {played} the poles move; in {beyond} of {frozen.index.size} moments some are on or outside the circle."
    )
    said += " A picture, not a proof."
    return _Picture(title, said, "frozen_poles.png", png)


def _spectrogram(subject: _Subject, heard: NDArray[np.float64]) -> _Picture:
    filt, controls = subject.filt, subject.controls
    y = filt(heard, controls=controls)
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
    caption = f"<b>{escape(picture.title)}.</b> {escape(picture.sentence)}"
    if not picture.png:
        return f"<figure><figcaption>{caption}</figcaption></figure>"
    img = notebook.image(f"{picture.title}: plot", picture.png)
    return f"<figure>{img}<figcaption>{caption}</figcaption></figure>"


def _page(
    filt: Filter,
    controls: Controls | None,
    name: str,
    verdicts: StabilityReport | None,
    trouble: str,
    pictures: list[_Picture],
) -> str:
    facts = notebook.facts(notebook.filter_facts(filt, controls or {}))
    table = notebook.verdict_table(verdicts) if verdicts else f"<p>No verdicts: {escape(trouble)}.</p>"
    body = f"""<ul>{_tree(filt)}</ul>
{facts}
<h2>Is it stable?</h2>
{table}
<h2>What it does</h2>
<div class="plots">
{"".join(map(_figure, pictures))}
</div>"""
    return html_page(name, body)


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

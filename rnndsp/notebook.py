"""How filters, verdicts and trainings show themselves in notebooks: fragments of HTML, which the report shares.

Whatever becomes text is escaped here, as names come from users and files. A notebook may be dark or light: outside of
badges and plots, which have grounds of their own, nothing has a colour.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnndsp import plots
from rnndsp.composition import Series
from rnndsp.errors import RnndspError
from rnndsp.filter import Control, Filter
from rnndsp.plots._style import duration
from rnndsp.plots.certificates import BADGES
from rnndsp.stability import Property, StabilityReport, Verdict
from rnndsp.stability.overview import certified
from rnndsp.stability.spectrum import in_words, n_lines, pole_cost

if TYPE_CHECKING:
    from rnndsp.training import Fit

__all__ = [
    "badge",
    "box",
    "drawn",
    "facts",
    "filter_facts",
    "filter_html",
    "fit_html",
    "image",
    "make_up",
    "picture",
    "sentence",
    "shortened",
    "stability_html",
    "verdict_table",
]

# Of a filter that is analysed unasked: lines of the network, and nanoseconds for its poles where some are long.
MOST_LINES, MOST_COST = 200, 1e8
MOST_LETTERS = 300
# Pixels of the page for an inch of a figure, and of the file, which sharp screens show.
PAGE_DPI, FILE_DPI = 80, 120

BADGE = "display:inline-block;padding:.12rem .6rem;border-radius:.8rem;font-size:.82rem;max-width:12rem"

# "div" makes these rules stronger than those of Jupyter.
STYLE = """
div.rnndsp { line-height: 1.45; overflow-wrap: anywhere; }
div.rnndsp p { margin: .5rem 0; max-width: 44rem; }
div.rnndsp dl { display: flex; flex-wrap: wrap; gap: .5rem 1.8rem; margin: .6rem 0; }
div.rnndsp dt { font-size: .75rem; font-weight: normal; opacity: .75; } div.rnndsp dd { margin: 0; }
div.rnndsp small { opacity: .75; } div.rnndsp code { font-size: .85rem; background: none; }
div.rnndsp table { border-collapse: collapse; max-width: 60rem; font-size: inherit; }
div.rnndsp th, div.rnndsp td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; }
div.rnndsp tr { border-bottom: 1px solid rgba(128, 128, 128, .4); }
div.rnndsp thead th { font-size: .75rem; font-weight: normal; opacity: .75; }
div.rnndsp img { max-width: 100%; height: auto; border-radius: .3rem; margin: .3rem 0; display: block; }
div.rnndsp audio { width: 30rem; max-width: 100%; display: block; margin: .6rem 0; }
"""


# ---- fragments


def box(title: str, *parts: str) -> str:
    """What a notebook shows: a title, which gets escaped, and HTML, which does not."""
    return f'<div class="rnndsp"><style>{STYLE}</style><b>{escape(title)}</b>{"".join(parts)}</div>'


def facts(pairs: Mapping[str, str]) -> str:
    """A list of small headings, with text below each."""
    return _terms((name, escape(text)) for name, text in pairs.items())


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{escape(name)}</dt><dd>{html}</dd></div>" for name, html in pairs) + "</dl>"


def sentence(text: str) -> str:
    """A remark in a smaller type."""
    return f"<p><small>{escape(text)}</small></p>"


def shortened(text: str, n_letters: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= n_letters else text[: n_letters - 3] + "..."


def drawn(
    draw: Callable[[Any], Any], width: float = 7.0, height: float = 4.4, dpi: float = 130, *, n_rows: int = 1
) -> tuple[Any, bytes]:
    """What ``draw`` returns, and the picture as PNG; no pyplot, so nothing is left open.

    With several rows ``draw`` gets an array of axes, which share the horizontal one.
    """
    figure = Figure((width, height), dpi=dpi, layout="constrained")
    artists = draw(figure.subplots(n_rows, sharex=True))
    png = BytesIO()
    figure.savefig(png, format="png")
    return artists, png.getvalue()


def image(alt: str, png: bytes, width: int | None = None) -> str:
    """A picture that the page holds itself; ``width`` in pixels of the page."""
    sized = "" if width is None else f' width="{width}"'
    return f'<img alt="{escape(alt)}"{sized} src="data:image/png;base64,{b64encode(png).decode("ascii")}">'


def picture(alt: str, draw: Callable[[Axes], Any], width: float, height: float) -> str:
    """A plot of so many inches, as notebooks show it."""
    return image(alt, drawn(draw, width, height, FILE_DPI)[1], round(PAGE_DPI * width))


# ---- verdicts


def badge(verdict: Verdict) -> str:
    """A verdict with its sign, on a ground of its own."""
    sign, ground, ink = BADGES[verdict]
    return f'<span class="badge" style="{BADGE};background:{ground};color:{ink}">{sign} {escape(verdict.value)}</span>'


def _row(row: Property) -> str:
    supposed = f"<br><small>supposing: {escape(row.hypotheses)}</small>" if row.hypotheses else ""
    said = f"{escape(row.statement)}{supposed}"
    return f'<tr><th scope="row">{escape(row.name)}</th><td>{badge(row.verdict)}</td><td>{said}</td></tr>'


def verdict_table(rows: Iterable[Property]) -> str:
    """A table with a row for each property: its name, its verdict as a badge, and what was found."""
    head = "<thead><tr><th>Property</th><th>Verdict</th><th>What was found</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(map(_row, rows))}</tbody></table>"


def stability_html(report: StabilityReport) -> str:
    """The table of a report."""
    return box("Is it stable?", verdict_table(report))


# ---- filters


def make_up(filt: Filter) -> str:
    """The classes that a signal goes through."""
    parts = filt.children if type(filt) is Series else (filt,)
    return " → ".join(type(part).__name__ for part in parts)


def filter_facts(filt: Filter, controls: Mapping[str, float]) -> dict[str, str]:
    """What is known of a filter before any analysis, its controls at these values or else their defaults."""
    known = {
        "Inputs, outputs": f"{filt.n_inputs}, {filt.n_outputs}",
        "States": f"{filt.n_states:,}",
        "Parameters": f"{sum(value.size for value in filt.params.values()):,}",
        "Latency": duration(filt.latency, filt.sample_rate) if filt.latency else "none",
        "Sample rate": f"{filt.sample_rate:g} Hz" if filt.sample_rate else "any",
        "Kind": "linear" if filt.is_linear else "nonlinear",
    }
    if filt.controls:
        known["Controls"] = ", ".join(_knob(c, controls.get(c.name, c.default)) for c in filt.controls)
    return known


def _knob(control: Control, value: float) -> str:
    bounded = np.isfinite([control.low, control.high]).any()
    return f"{control.name} = {value:g}" + (f" ({control.low:g} to {control.high:g})" if bounded else "")


def filter_html(filt: Filter) -> str:
    """Make-up, facts, what is known of its stability, and its poles, as far as they are found at a glance.

    A nonlinear filter is not run, as its full report would: of it only what its parts prove is told, and the poles
    about the state it starts from.
    """
    parts = [f"<br><code>{escape(shortened(repr(filt), MOST_LETTERS))}</code>", facts(filter_facts(filt, {}))]
    for look in (_verdicts, _poles):
        try:
            with np.errstate(all="ignore"):  # an unstable filter overflows, which is a finding and no accident
                parts.append(look(filt))
        except RnndspError as error:
            parts.append(sentence(f"{error}."))
        except Exception as error:  # a user's own filter may raise anything, and is shown all the same
            parts.append(sentence(f"{type(error).__name__}: {error}"))
    return box(make_up(filt), *parts)


def _is_quick(filt: Filter) -> bool:
    """Whether its poles are found at a glance."""
    n, lines = filt.n_states, n_lines(filt)
    return lines <= MOST_LINES and (n == lines or pole_cost(n, lines) <= MOST_COST)


def _verdicts(filt: Filter) -> str:
    if n_lines(filt) > MOST_LINES:
        return sentence("Large, so its stability may take a while: call .stability().")
    whole = filt.period > 1 or (filt.is_linear and _is_quick(filt))
    rows = filt.stability() if whole else certified(filt)
    badges = _terms((row.name, badge(row.verdict)) for row in rows)
    return badges + ("" if whole else sentence("That is what its parts prove; .stability() looks further."))


def _poles(filt: Filter) -> str:
    if filt.period == 1 and not _is_quick(filt):
        return sentence(
            f"No poles drawn, as {filt.n_states:,} states may take a while: call rnndsp.report.analyze(filt, folder)."
        )
    found = filt.poles()
    if not found.size:
        return sentence("No poles: without memory, an output frame depends on one input frame only.")
    plot = picture("Poles", lambda ax: plots.pole_plot(filt, poles=found, ax=ax), 5.4, 4.9)
    where = "Poles about the state it starts from, for soft sounds; .stability() finds where it settles."
    return plot + ("" if filt.is_linear else sentence(where))


# ---- training


def fit_html(fit: Fit[Any]) -> str:
    """Best epoch, losses, and a plot of both losses against the epochs."""
    history = fit.history
    known = {"Filter": make_up(fit.filter), "Best epoch": f"{fit.best} of {len(history)}"}
    if not history:
        return box("Fit", facts(known))
    known["Training loss at the end"] = f"{history[-1].loss:.4g}"
    if not np.isnan(history[-1].validation):
        known["Validation loss at the end"] = f"{history[-1].validation:.4g}"
    known["Time"] = in_words(sum(epoch.seconds for epoch in history))
    return box("Fit", facts(known), picture("Losses", lambda ax: plots.history_plot(history, ax=ax), 6.4, 3.6))

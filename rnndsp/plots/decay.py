"""How long each octave rings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike

from rnndsp import response
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.plots._style import axes, duration, time_axis
from rnndsp.plots.responses import DECAY_DB, SLICES, response_frames
from rnndsp.response import energy_decay_db, fitted_t60

__all__ = ["octave_decay_plot"]

DASHES = ("-", "--", "-.", ":")
LOWEST_HZ = 62.5


def octave_decay_plot(
    filt: Filter,
    n_frames: int | None = None,
    *,
    channel: int = 0,
    output: int = 0,
    level: float = 1.0,
    controls: Mapping[str, ArrayLike] | None = None,
    ax: Axes | None = None,
) -> dict[float, Line2D]:
    """Energy decay curves of the impulse response in octave bands, each with the decay time fitted to it.

    The bands are cut out by Butterworth filters of third order that run backwards in time, so that their own ringing
    comes before the sound and not after it.

    Parameters
    ----------
    filt : Filter
        With a sample rate.
    n_frames, channel, level, controls, ax
        As in :func:`rnndsp.plots.decay_plot`.
    output : int

    Returns
    -------
    dict of float to Line2D
        The curve of each band, by its centre in Hz, from 62.5 Hz up. Labels name the time for 60 dB, as fitted from -5
        to -35; where it falls within a few periods of the centre this is the time of the band's own filter.

    Raises
    ------
    ParameterError
        A filter without a sample rate, or without that output.

    References
    ----------
    F. Jacobsen and J. H. Rindel (1987), "Time reversed decay measurements".
    """
    from scipy import signal

    rate = filt.sample_rate
    if rate is None:
        raise ParameterError("octaves need a sample rate: give the filter one, filt.replace(sample_rate=48000)")
    if not 0 <= output < filt.n_outputs:
        raise ParameterError(f"{output=}: this filter has {filt.n_outputs}, counted from 0")
    n_frames = response_frames(filt, controls, None, DECAY_DB) if n_frames is None else n_frames
    h = response.impulse_response(filt, n_frames, channel=channel, level=level, controls=controls)[:, output]
    ax = axes(ax)
    t, label = time_axis(n_frames, rate)
    step = max(1, n_frames // SLICES)
    centres = [f for f in LOWEST_HZ * 2.0 ** np.arange(16) if f * np.sqrt(2) < 0.49 * rate]
    lines: dict[float, Line2D] = {}
    heard = 0.0
    for place, centre in enumerate(centres):
        edges = [centre / np.sqrt(2), centre * np.sqrt(2)]
        band = signal.sosfilt(signal.butter(3, edges, "bandpass", fs=rate, output="sos"), h[::-1])[::-1]
        decay = energy_decay_db(band)
        fitted = fitted_t60(decay)
        said = duration(fitted, rate) if np.isfinite(fitted) else "no straight fall"
        shown = np.where(np.isfinite(decay), decay, np.nan)[::step]
        name = f"{EngFormatter('Hz')(centre)}: {said}"
        colour, style = colormaps["viridis"](0.92 * place / max(len(centres) - 1, 1)), DASHES[place % len(DASHES)]
        (lines[centre],) = ax.plot(t[::step], shown, style, color=colour, linewidth=1.3, label=name)
        loud = np.flatnonzero(decay >= -75)
        heard = max(heard, float(t[loud[-1]])) if loud.size else heard
    ax.legend(fontsize=8, loc="upper right", title="60 dB in", title_fontsize=8)
    ax.set(xlabel=label, ylabel="energy still to come (dB)", ylim=(-75, 5), xlim=(0, heard or None))
    ax.grid(alpha=0.3)
    ax.set_title("energy decay in octaves")
    return lines

"""Where the poles are, and how fast what they stand for fades."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.errors import RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.state import State

__all__ = ["poles", "spectral_radius", "t60_s"]

# Poles are computed in floating point: this near to the unit circle they count neither as inside nor as outside.
MARGIN = 1e-10
# Loops of more lines are refused unseen, and the poles of a loop may cost so many nanoseconds.
MAX_LINES, MAX_COST = 500, 2e9

Controls = Mapping[str, ArrayLike]


def poles(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> NDArray[np.complex128]:
    """Poles of a linear filter, or of the small-signal filter of any other about an operating point.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.

    Returns
    -------
    ndarray of n_states complex numbers
        Largest magnitude first. Those of long delay lines are found without forming a matrix of their length.
    """
    linear = filt.linearize(state, u, controls=controls)
    return delay_poles(np.asarray(linear.A, np.float64), linear.delays)


def spectral_radius(
    filt: Filter, state: State | None = None, u: ArrayLike | None = None, *, controls: Controls | None = None
) -> float:
    """Largest magnitude of :func:`poles`, 0 for a filter without memory.

    It is the asymptotic factor a sample by which a linear filter decays. It is no norm: a filter may grow for a while
    with a radius below one, and a cell whose Jacobian has one everywhere may still not forget.

    Parameters
    ----------
    filt : Filter
    state, u, controls
        The operating point, as in :meth:`Filter.linearize`.
    """
    found = poles(filt, state, u, controls=controls)
    return float(np.max(np.abs(found))) if found.size else 0.0


def decays(filt: Filter) -> bool:
    """Whether it is proved that a linear filter decays, whatever its controls do: so only where it has none."""
    if filt.controls:
        return False
    linear = filt.linearize()
    return decay_certificate(np.asarray(linear.A, np.float64), linear.delays) is not None


def loop_radius(filt: Filter) -> float | None:
    """The spectral radius of a linear loop, or 0 where it is proved to decay; None where it would take too long."""
    if n_lines(filt) > MAX_LINES:
        return None
    with np.errstate(all="ignore"):
        linear = filt.linearize()
        A, m = np.asarray(linear.A, np.float64), linear.delays
        if not np.isfinite(A).all():
            return np.inf
        if decay_certificate(A, m) is not None:
            return 0.0
        # poles in z**common, of which a loop of one line or of equal ones has few however long it is
        common = int(np.gcd.reduce(m))
        total = float(np.sum(m)) / common
        if pole_cost(total, len(m)) > MAX_COST:
            return None
        try:
            found = delay_poles(A, m // common)
        except RnndspError:
            return None
        return float(np.max(np.abs(found)) ** (1 / common))


def pole_cost(n_states: float, n_lines: int) -> float:
    """About how many nanoseconds the poles of a network of delay lines take."""
    return n_states**2 + 5 * n_states * n_lines**3


def n_lines(filt: Filter) -> int:
    """How large its state matrix is, in which a delay line counts once however long it is."""
    own = sum(len(field.rings) or field.size for field in filt.fields)
    return own + sum(map(n_lines, filt.children))


def t60_s(radius: float, sample_rate: float) -> float:
    """Time to decay by 60 dB at a factor ``radius`` a sample; infinite from 1 on.

    Parameters
    ----------
    radius : float
        At least 0.
    sample_rate : float
        Hz.
    """
    if radius >= 1:
        return np.inf
    return float(-3 / (sample_rate * np.log10(radius))) if radius > 0 else 0.0


def in_words(time_s: float) -> str:
    """A time with three digits and the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time_s >= 0.1 * size:
            return f"{time_s / size:.3g} {unit}"
    return f"{time_s * 1e9:.3g} ns"

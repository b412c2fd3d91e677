"""Where a filter comes to rest on silence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from rnndsp.errors import NonFiniteError
from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace

__all__ = ["rest_states"]

# Silence given to a filter to come to rest, and states told apart as different ones.
SETTLE_FRAMES = 20000
SAME = 1e-4
# How near to a true rest state one must be that is called so.
NEAR, EPS = 1e-7, float(np.finfo(np.float64).eps)

Controls = Mapping[str, ArrayLike]


def rest_states(
    filt: Filter, *, n_starts: int = 8, seed: int = 0, controls: Controls | None = None
) -> tuple[State, ...]:
    """States in which the filter comes to rest on silence, from its initial state and from random ones.

    Only points are returned that are fixed to rounding, and that are pulled at by enough for a true rest state to be
    next to them; that there are no others is not proved. The first is the one reached from the initial state, where it
    comes to rest at all.

    Parameters
    ----------
    filt : Filter
    n_starts : int
        Random states to start from.
    seed : int
        For these.
    controls : mapping of str to float, optional
    """
    rng = np.random.default_rng(seed)
    start = filt.rest_state((n_starts + 1,))
    flat = start.ravel()
    flat[1:] = rng.uniform(-1, 1, flat[1:].shape)
    silence = np.zeros((n_starts + 1, SETTLE_FRAMES, filt.n_inputs))
    u = filt._extend(silence, controls)
    y = np.empty((*u.shape[:2], filt.n_outputs))
    end = start.unravel(flat)
    with np.errstate(all="ignore"):
        filt._process(u, end, y)
    found: list[State] = []
    for voice in range(n_starts + 1):
        here = filt.rest_state()
        here.indices = end.indices
        here = here.unravel(end.voice(voice).ravel()[0])
        fixed = polish(filt, here, controls=controls)
        if fixed is not None and all(
            np.max(np.abs(fixed.ravel() - other.ravel()), initial=0) > SAME for other in found
        ):
            found.append(fixed)
    return tuple(found)


def polish(filt: Filter, state: State, u: ArrayLike | None = None, *, controls: Controls | None = None) -> State | None:
    """Newton's method towards x = F(x, u) for a constant frame u; None where it does not end at a fixed point."""
    frame = np.zeros(filt.n_inputs) if u is None else np.asarray(u, np.float64)
    for _ in range(20):
        x = state.ravel()
        if not np.isfinite(x).all():
            return None
        try:
            moved = filt.run(frame[None], state, controls=controls)[1].ravel()
        except NonFiniteError:
            return None
        linear = filt.linearize(state, frame, controls=controls)
        error = np.max(np.abs(moved - x), initial=0)
        if error < 1e-12:
            # nearly at rest is not at rest where hardly anything pulls back
            return state if error + EPS < NEAR * pull(linear) else None
        # at rest a delay line holds one value all along: a line is one unknown, however long it is
        newest = np.cumsum(linear.delays) - 1
        step = np.linalg.lstsq(np.eye(newest.size) - linear.A, moved[newest] - x[newest], rcond=None)[0]
        state = state.unravel(np.repeat(x[newest] + step, linear.delays))
    return None


def pull(linear: DelayStateSpace) -> float:
    """How far I - A is from singular: zero where a constant state other than rest stays as it is."""
    return float(np.min(np.linalg.svd(np.eye(len(linear.A)) - linear.A, compute_uv=False), initial=1))

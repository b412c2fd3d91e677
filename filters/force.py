"""FORCE learning: the read-out of a cell, taught while its output is fed back, until it generates a signal alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, reals, require_filter, whole_number
from rnndsp._jit import kernel
from rnndsp.composition import Feedback, Series
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.adaptive import rls_gain, rls_rows, rls_tiles
from rnndsp.filters.dense import Dense
from rnndsp.state import State
from rnndsp.statespace import DENSE_LIMIT

__all__ = ["ForceFit", "force_train"]


@kernel
def _learn(errors: Any, W: Any, phi: Any, U: Any, D: Any, b: Any, f: Any, alpha: Any) -> None:
    """One step of recursive least squares for all rows of W, which share their covariance."""
    denominator = rls_gain(phi, U, D, 1.0, np.inf, b, f, alpha)
    for i in range(len(W)):
        g = errors[i] / denominator
        for j in range(W.shape[1]):
            W[i, j] += g * b[j]


@dataclass(frozen=True)
class ForceFit:
    """A generator, and the state in which its training ended.

    Attributes
    ----------
    generator : Feedback
        The cell and its read-out, :class:`Dense`, in a loop; what comes in is added to what is fed back.
    state : State
        Where to go on from: ``y, state = fit.generator.run(np.zeros((n_frames, n_outputs)), fit.state)``. From rest it
        may end in another pattern.
    errors : ndarray, shape (n_frames, n_outputs)
        Target minus output while it was taught, before each step of the read-out; zero while it settled.
    """

    generator: Feedback
    state: State
    errors: NDArray[np.float64]


def force_train(cell: Filter, target: ArrayLike, *, alpha: float = 1.0, every: int = 1, settle: int = 100) -> ForceFit:
    r"""Teach a read-out to make a cell generate a signal.

    .. math:: h[t] = \mathrm{cell}(z[t-1]), \qquad z[t] = W h[t], \qquad e[t] = d[t] - z[t]

    W follows the target d by recursive least squares that starts with P = I / α, while its own output z is fed back.
    So the errors are small from early on, but never zero, and the cell learns to live with them.

    Parameters
    ----------
    cell : Filter
        With as many inputs as the target has channels: its input weights are those of the feedback. It should be slow,
        changing little from frame to frame, and just about active by itself: an ``Elman`` with U = (1 - a) I + a J,
        where 1/a is a time constant well below the period and J random with spectral radius about 1.2.
    target : array, shape (n_frames,) or (n_frames, n_channels)
        d; several periods of it.
    alpha : float
        α, positive: how slowly it learns at first. In squared units of h, times the number of units.
    every : int
        Frames between two steps of the read-out.
    settle : int
        So many frames of the target itself are fed to the cell first, at least 1, as one at rest would stay there.

    Returns
    -------
    ForceFit

    Raises
    ------
    ParameterError
        NaN, a wrong shape, a cell whose inputs are not as many as the target's channels, more than 4000 outputs of it.
    NonFiniteError
        The cell blew up.

    Notes
    -----
    The cost of a step is 1.5 N² products for N outputs of the cell, and a call of it a frame. Nothing is proved about
    the loop that comes out: look at what it generates, and at :func:`rnndsp.stability.cycles` or
    :func:`rnndsp.stability.lyapunov_spectrum` along it.

    References
    ----------
    D. Sussillo, L. F. Abbott (2009), "Generating coherent patterns of activity from chaotic neural networks".
    """
    require_filter(cell)
    d = reals("target", target)
    if d.ndim not in (1, 2) or not np.isfinite(d).all():
        raise ParameterError(f"the target, of shape {d.shape}, must be (n_frames, n_channels) of finite numbers")
    d = d if d.ndim == 2 else d[:, None]
    alpha, every = number("alpha", alpha), whole_number("every", every)
    if alpha <= 0:
        raise ParameterError(f"{alpha=} must be positive")
    p, n = d.shape[1], cell.n_outputs
    settle = whole_number("settle", settle)
    if len(d) <= settle:
        raise ParameterError(f"the target has {len(d)} frames, {settle=} leaves none to learn from")
    if cell.n_inputs != p:
        raise ParameterError(
            f"the target has shape {d.shape}, but the cell takes {cell.n_inputs} channels to feed back"
        )
    if n > DENSE_LIMIT:
        raise ParameterError(f"the cell has {n} outputs, more than {DENSE_LIMIT}: their covariance would be too large")
    W, U = np.zeros((p, n)), rls_tiles(n)
    phi, D, *work = rls_rows(n)
    D[:n] = 1 / alpha
    errors, stream = np.zeros(d.shape), cell.stream(dtype=np.float64)
    stream.process(d[: settle - 1])
    z = d[settle - 1 : settle]
    with np.errstate(all="ignore"):  # a cell that blows up is seen by its stream
        for t in range(settle, len(d)):
            h = stream.process(z)[0]
            z = (W @ h)[None]
            errors[t] = d[t] - z[0]
            if t % every == 0:
                phi[:n] = h
                _learn(errors[t], W, phi, U, D, *work)
    readout = Dense(n, p).replace(W=W)
    # the loop of a linear cell is to keep oscillating
    generator = Feedback(cell >> readout, delay=1, allow_unstable=True)
    state = generator.rest_state()
    state.line[...] = z[0]
    parts = stream.state.children if isinstance(cell, Series) else (stream.state,)
    for place, part in zip(state.children[0].children, parts, strict=False):  # the read-out, which comes last, has none
        place.assign(part)
    return ForceFit(generator, state, errors)

"""Predictors of the next output from the last one: trained on the truth, run on what they say themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, require_filter, whole_number
from rnndsp.composition import Feedback
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.state import State
from rnndsp.statespace import DelayStateSpace, gain

__all__ = ["Channels", "closed_loop", "teacher_forced"]


class Channels(Filter):
    r"""Silent channels before and after those of the input; nothing in it can be trained.

    .. math:: y[t] = (0, \ldots, 0, u[t], 0, \ldots, 0)

    Parameters
    ----------
    n_inputs : int
    before, after : int
        How many silent ones.

    Notes
    -----
    *State*: none. *Stability*: it hands on what it gets.

    See Also
    --------
    closed_loop : what it is for.

    References
    ----------
    L. Ljung (1999), "System identification", ch. 4.
    """

    is_linear = True

    def __init__(self, n_inputs: int, *, before: int = 0, after: int = 0) -> None:
        super().__init__({"n_inputs": n_inputs, "before": before, "after": after}, {})

    def _setup(self) -> None:
        self._no_children()
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self._first = whole_number("before", self.config["before"], least=0)
        self.n_outputs = self._first + self.n_inputs + whole_number("after", self.config["after"], least=0)

    @property
    def _own_channels(self) -> slice:
        return slice(self._first, self._first + self.n_inputs)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        y[...] = 0
        y[..., self._own_channels] = u

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        self._advance(u, state, y)
        return y, None

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        return np.ascontiguousarray(dy[..., self._own_channels]), dx, {}

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        return gain(np.eye(self.n_outputs)[:, self._own_channels])


def closed_loop(predictor: Filter, *, allow_unstable: bool = False) -> Filter:
    r"""The free run of a predictor, whose last inputs are its outputs a frame ago.

    .. math:: y[t] = f(u[t], y[t-1]), \qquad y[-1] = 0

    To train it is output-error training: its errors add up as they will in use, and the gradient goes all the way
    round the loop. To train the predictor itself on :func:`teacher_forced` data is equation-error training.

    Parameters
    ----------
    predictor : Filter
        f, of more inputs than outputs.
    allow_unstable : bool
        As in :class:`rnndsp.Feedback`.

    Returns
    -------
    Filter
        Of the first inputs alone; the predictor is ``closed.children[1].children[0]``, whatever was trained.

    Raises
    ------
    ParameterError
        Too few inputs, or a linear loop that does not decay.

    References
    ----------
    L. Ljung (1999), "System identification", ch. 4 and 7. R. Williams, D. Zipser (1989), "A learning algorithm for
    continually running fully recurrent neural networks".
    """
    n_own, n = require_filter(predictor).n_inputs - predictor.n_outputs, predictor.n_outputs
    if n_own < 1:
        raise ParameterError(
            f"closed_loop: {type(predictor).__name__} has {predictor.n_inputs} inputs, and needs more "
            f"than its {n} outputs"
        )
    back = Channels(n, before=n_own)
    return Channels(n_own, after=n) >> Feedback(predictor, back, delay=1, allow_unstable=allow_unstable)


def teacher_forced(u: ArrayLike, target: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """A pair to train a predictor with: beside the input the true output a frame ago.

    Parameters
    ----------
    u : array, shape (n_frames, n_inputs)
    target : array, shape (n_frames, n_outputs)
        Without gaps.

    Returns
    -------
    u : ndarray, shape (n_frames, n_inputs + n_outputs)
    target : ndarray, shape (n_frames, n_outputs)

    Raises
    ------
    ParameterError
        Shapes that do not fit.
    """
    u, y = real_array("u", u), real_array("target", target)
    if u.ndim != 2 or y.ndim != 2 or len(u) != len(y):
        raise ParameterError(
            f"u of shape {u.shape} and target of {y.shape}: (n_frames, n_inputs) and (n_frames, n_outputs)"
        )
    return np.concatenate([u, np.concatenate([np.zeros_like(y[:1]), y[:-1]])], axis=1), y

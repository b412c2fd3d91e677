"""Recurrent models of audio effects, as they are learnt from recordings: a cell, a read-out, the dry signal added."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from rnndsp._checks import choice, number, whole_number
from rnndsp.composition import Parallel
from rnndsp.engine import Cell
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.dense import Dense
from rnndsp.filters.elman import Elman
from rnndsp.filters.gru import GRU
from rnndsp.filters.lstm import LSTM
from rnndsp.filters.ren import REN
from rnndsp.statespace import gain

__all__ = ["CELLS", "CERTIFIED", "recurrent_effect"]

CELLS: dict[str, Callable[..., Cell]] = {
    "gru": GRU,
    "lstm": LSTM,
    "elman": Elman,
    "diagonal": partial(LSTM, recurrence="diagonal"),
}
# Contracting by construction.
CERTIFIED = "ren"


def recurrent_effect(
    cell: str = "gru",
    n_units: int = 16,
    *,
    n_knobs: int = 0,
    level: float = 1.0,
    skip: float = 1.0,
    seed: int = 0,
    sample_rate: float | None = None,
) -> Filter:
    r"""An effect to be trained: a cell that hears the signal and the knobs, a read-out, and the dry signal added.

    .. math:: y[t] = g\,u[t] + w^T h[t] + b, \qquad h = \mathrm{cell}(u, \mathrm{knobs})

    Parameters
    ----------
    cell : {"gru", "lstm", "elman", "diagonal", "ren"}
        "diagonal" is an LSTM whose units do not hear each other; "ren" a :class:`REN`, which forgets its state on every
        input whatever it learns, and has read-out and dry path built in.
    n_units : int
        A REN has as many states, too.
    n_knobs : int
        Further inputs behind the signal, constant or slow.
    level : float
        Root mean square of the signals it will hear. The first weights of the signal are divided by it, so that the
        cell is driven into its nonlinearity from the start; at 0.1 that saves most of the training.
    skip : float
        g at the start; it is learnt, too.
    seed : int
    sample_rate : float, optional
        Hz.

    Returns
    -------
    Filter
        With 1 + ``n_knobs`` inputs; :class:`rnndsp.Knobs` makes controls of the last ones.

    Raises
    ------
    ParameterError
        An unknown cell, or a setting out of range.

    References
    ----------
    A. Wright, E.-P. Damskägg, V. Välimäki (2019), "Real-time black-box modelling with recurrent neural networks".
    """
    n_inputs = 1 + whole_number("n_knobs", n_knobs, least=0)
    if number("level", level) <= 0:
        raise ParameterError(f"{level=} must be positive")
    scale = np.r_[level, np.ones(n_knobs)]
    direct = number("skip", skip) * np.eye(1, n_inputs)
    if choice("cell", cell, [*CELLS, CERTIFIED]) == CERTIFIED:
        net = REN(n_inputs, 1, n_states=n_units, n_units=n_units, seed=seed, sample_rate=sample_rate)
        return net.replace(B2=net.params["B2"] / scale, D12=net.params["D12"] / scale, D22=direct)
    heard = CELLS[cell](n_inputs, n_units, seed=seed, sample_rate=sample_rate)
    heard = heard.replace(W=heard.params["W"] / scale)
    return Parallel(heard >> Dense(n_units, 1, seed=seed), gain(direct))

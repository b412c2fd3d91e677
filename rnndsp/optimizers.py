"""How training turns gradients into steps: Adam, RMSprop, gradient descent with momentum, and schedules of the rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number
from rnndsp.errors import ParameterError

__all__ = ["SGD", "Adam", "Optimizer", "RMSprop", "schedule"]

Array = NDArray[Any]
Schedule = Callable[[float], float]


class Optimizer(ABC):
    """A rule that gives the direction of the next step; the rate and the weight decay are those of :func:`rnndsp.fit`.

    To write your own, give a frozen dataclass this base, ``slots`` and a ``direction``. Its ``repr`` must name all its
    settings, as checkpoints tell trainings apart by it.

    Attributes
    ----------
    slots : tuple of str
        Names of the arrays that it remembers for every parameter, all of them zero at first.
    """

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]: ...

    @abstractmethod
    def direction(self, gradient: Array, memory: Mapping[str, Array], n_steps: int) -> tuple[Array, dict[str, Array]]:
        """Where to go from one parameter: it is lowered by the rate times this.

        Parameters
        ----------
        gradient : ndarray of float64
        memory : mapping of str to ndarray
            What it remembers, by slot.
        n_steps : int
            Of which step this is, 1 at first.

        Returns
        -------
        direction : ndarray
        memory : dict of str to ndarray
            To be remembered now.
        """


def _share(name: str, value: float) -> None:
    if not 0 <= number(name, value) < 1:
        raise ParameterError(f"{name}={value!r} must lie within [0, 1)")


def _positive(name: str, value: float) -> None:
    if number(name, value) <= 0:
        raise ParameterError(f"{name}={value!r} must be positive")


@dataclass(frozen=True)
class Adam(Optimizer):
    r"""Adam; with a weight decay, AdamW.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        d &= \frac{m}{1 - \beta_1^k} \Big/ \Big(\sqrt{\frac{v}{1 - \beta_2^k}} + \epsilon\Big)

    Parameters
    ----------
    beta1, beta2 : float
    epsilon : float

    References
    ----------
    D. Kingma, J. Ba (2015), "Adam: a method for stochastic optimization". I. Loshchilov, F. Hutter (2019), "Decoupled
    weight decay regularization".
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _share("beta1", self.beta1)
        _share("beta2", self.beta2)
        _positive("epsilon", self.epsilon)

    @property
    def slots(self) -> tuple[str, ...]:
        return "first", "second"

    def direction(self, gradient: Array, memory: Mapping[str, Array], n_steps: int) -> tuple[Array, dict[str, Array]]:
        first = self.beta1 * memory["first"] + (1 - self.beta1) * gradient
        second = self.beta2 * memory["second"] + (1 - self.beta2) * gradient**2
        root = np.sqrt(second / (1 - self.beta2**n_steps)) + self.epsilon
        return first / (1 - self.beta1**n_steps) / root, {"first": first, "second": second}


@dataclass(frozen=True)
class RMSprop(Optimizer):
    r"""Gradients over their running root mean square.

    .. math:: v \leftarrow \alpha v + (1 - \alpha) g^2, \quad d \leftarrow \mu d + g / (\sqrt v + \epsilon)

    Parameters
    ----------
    alpha : float
    momentum : float
        μ.
    epsilon : float

    References
    ----------
    T. Tieleman, G. Hinton (2012), "Lecture 6.5: rmsprop". A. Graves (2013), "Generating sequences with recurrent neural
    networks".
    """

    alpha: float = 0.99
    momentum: float = 0.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _share("alpha", self.alpha)
        _share("momentum", self.momentum)
        _positive("epsilon", self.epsilon)

    @property
    def slots(self) -> tuple[str, ...]:
        return "second", "velocity"

    def direction(self, gradient: Array, memory: Mapping[str, Array], n_steps: int) -> tuple[Array, dict[str, Array]]:
        second = self.alpha * memory["second"] + (1 - self.alpha) * gradient**2
        velocity = self.momentum * memory["velocity"] + gradient / (np.sqrt(second) + self.epsilon)
        return velocity, {"second": second, "velocity": velocity}


@dataclass(frozen=True)
class SGD(Optimizer):
    r"""Gradient descent with momentum.

    .. math:: v \leftarrow \mu v + g, \quad d = v \quad\text{or, looking ahead,}\quad d = g + \mu v

    Parameters
    ----------
    momentum : float
        μ.
    nesterov : bool
        Look ahead.

    References
    ----------
    I. Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning".
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        _share("momentum", self.momentum)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",)

    def direction(self, gradient: Array, memory: Mapping[str, Array], n_steps: int) -> tuple[Array, dict[str, Array]]:
        velocity = self.momentum * memory["velocity"] + gradient
        return gradient + self.momentum * velocity if self.nesterov else velocity, {"velocity": velocity}


# The rate falls to this share of where it started.
LEAST = 0.02

_SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda done: LEAST + (1 - LEAST) * 0.5 * float(1 + np.cos(np.pi * done)),
    "exponential": lambda done: float(LEAST**done),
    "linear": lambda done: 1 - (1 - LEAST) * done,
    "constant": lambda done: 1.0,
}


def schedule(name: str, *, warm_up: float = 0.0) -> Schedule:
    """How the rate falls while a training goes on: all but "constant" end at 1/50 of where they started.

    Parameters
    ----------
    name : {"cosine", "exponential", "linear", "constant"}
    warm_up : float
        Over this share of the training it first rises from 0.

    Returns
    -------
    function
        From the share of the training that is done, 0 to 1, to the share of the rate.

    Raises
    ------
    ParameterError
        Another name, or a share outside [0, 1).
    """
    if name not in _SCHEDULES:
        raise ParameterError(f"schedule {name!r}: choose one of {sorted(_SCHEDULES)}, or give a function")
    _share("warm_up", warm_up)
    falling = _SCHEDULES[name]

    def share(done: float) -> float:
        if done < warm_up:
            return done / warm_up
        return falling((done - warm_up) / (1 - warm_up))

    share.__qualname__ = f"schedule({name!r}, warm_up={warm_up!r})"
    return share

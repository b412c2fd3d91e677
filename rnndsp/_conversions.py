"""Linear filters as objects of scipy and python-control, and back."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp.errors import ParameterError

__all__ = ["from_control", "from_scipy", "to_control", "to_scipy"]

Matrices = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def to_scipy(matrices: tuple[NDArray[Any], ...], sample_rate: float | None) -> Any:
    """A discrete-time ``scipy.signal.StateSpace``."""
    from scipy.signal import StateSpace

    return StateSpace(*matrices, dt=_step(sample_rate))


def to_control(matrices: tuple[NDArray[Any], ...], sample_rate: float | None) -> Any:
    """A discrete-time ``control.StateSpace``."""
    return _control().StateSpace(*matrices, _step(sample_rate), remove_useless_states=False)


def from_scipy(system: Any) -> tuple[Matrices, float | None]:
    """Matrices and sample rate of a ``scipy.signal.dlti`` in any representation."""
    from scipy import signal

    if isinstance(system, signal.lti):
        raise ParameterError(
            f"{type(system).__name__} is a continuous system: sample it first, system.to_discrete(1 / sample_rate), or "
            "design it for discrete time with fs="
        )
    if not isinstance(system, signal.dlti):
        raise ParameterError(
            f"{type(system).__name__} is no scipy.signal.dlti: wrap coefficients, zeros, poles and gain, or matrices, "
            "scipy.signal.dlti(*system, dt=1 / sample_rate)"
        )
    try:
        space = _from_sections(system) if isinstance(system, signal.ZerosPolesGain) else system.to_ss()
    except ValueError as error:
        raise ParameterError(f"the system has no state space: {error}") from None
    return _real(space.A, space.B, space.C, space.D), _rate(system.dt)


def from_control(system: Any) -> tuple[Matrices, float | None]:
    """Matrices and sample rate of a discrete-time linear system of python-control."""
    control = _control()
    if not isinstance(system, control.StateSpace | control.TransferFunction):
        raise ParameterError(f"{type(system).__name__} is no control.StateSpace or control.TransferFunction")
    if isinstance(system, control.TransferFunction):
        try:
            system = control.tf2ss(system)
        except (ImportError, ValueError, control.exception.ControlMIMONotImplemented) as error:
            raise ParameterError(f"python-control makes no state space of it: {error}; give it one") from None
    if system.dt is None and system.nstates:
        raise ParameterError("the system has dt=None: set its dt to 1 / sample_rate, or to True where there is no rate")
    if system.dt == 0 and system.nstates:
        raise ParameterError(
            "the system is continuous: sample it first, control.sample_system(system, 1 / sample_rate), with "
            "method='bilinear' for the audio engineer's transform"
        )
    return _real(system.A, system.B, system.C, system.D), _rate(system.dt)


def _from_sections(system: Any) -> Any:
    """State space of zeros and poles, which keeps the digits that coefficients of a high order lose."""
    from scipy import signal

    from rnndsp.statespace import StateSpace, delay, series

    latency = len(system.poles) - len(system.zeros)
    if latency < 0:
        raise ValueError(f"{-latency} more zeros than poles look ahead")
    # not by scipy's tf2ss, which takes the small numerators of a low cutoff for zero
    chain = (
        StateSpace([[-a1, -a2], [1, 0]], [[1], [0]], [[b1 - a1 * b0, b2 - a2 * b0]], [[b0]])
        for b0, b1, b2, _, a1, a2 in signal.zpk2sos(system.zeros, system.poles, system.gain)
    )
    return reduce(series, chain, delay(latency)).expand()


def _control() -> Any:
    try:
        return import_module("control")
    except ImportError:
        raise ParameterError("python-control is not installed: pip install control") from None


def _step(sample_rate: float | None) -> float | bool:
    return True if sample_rate is None else 1 / sample_rate


def _rate(step: float | bool | None) -> float | None:
    if step is None or step is True or step == 0:
        return None
    rate = 1 / step
    # what came through a reciprocal
    return float(round(rate)) if abs(rate - round(rate)) < 1e-9 * rate else rate


def _real(*matrices: Any) -> Matrices:
    found = [np.atleast_2d(np.asarray(matrix)) for matrix in matrices]
    if any(np.any(np.imag(matrix)) for matrix in found):
        raise ParameterError("the system has complex coefficients: filters are real")
    A, B, C, D = (np.array(matrix.real, np.float64) for matrix in found)
    n = A.shape[0] if A.size else 0
    return A.reshape(n, n), B.reshape(n, D.shape[1]), C.reshape(D.shape[0], n), D

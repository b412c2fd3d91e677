"""Jacobians, Lyapunov exponents and frozen poles along a signal, against plain NumPy and PyTorch's autograd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rnndsp import stability
from rnndsp.filters import LSTM
from tests.benchmarks.measuring import Call, Row

RATE = 44100
# The slow rivals get fewer frames: what they cost a frame does not depend on their number.
FEW = 60

Real = NDArray[np.float64]
Step = Callable[[Real, Real, Real], tuple[Real, Real, Real]]


def trajectories(seconds: float = 1.0, n_frames: int = 10_000) -> Iterator[Row]:
    """An LSTM's Jacobians along a second of audio, its spectrum over 10 000 frames, its frozen poles on two cores."""
    rng = np.random.default_rng(0)
    scipy.linalg.inv(np.eye(2))  # loads the BLAS that is to be limited, too
    with threadpool_limits(1, "blas"):
        yield from _jacobians(LSTM(1, 40), rng.standard_normal(round(seconds * RATE)))
        yield from _spectrum(LSTM(1, 64), rng.standard_normal(n_frames))
        yield from _poles(LSTM(1, 40), rng.standard_normal(100))


def _jacobians(cell: LSTM, u: Real) -> Iterator[Row]:
    few = u[:FEW]
    rivals = {
        "NumPy, broadcasting": (lambda: _along(numpy_step(cell), cell, few), FEW),
        "NumPy, einsum": (lambda: _along(einsum_step(cell), cell, few), FEW),
        "linearize, every frame": (lambda: [cell.linearize(None, few[t : t + 1]) for t in range(FEW)], FEW),
    }
    with suppress(ImportError):
        rivals["PyTorch, jacrev"] = torch_jacobians(cell, few), FEW
    bounds = {"NumPy, broadcasting": 10.0, "linearize, every frame": 10.0, "PyTorch, jacrev": 1.0}
    yield from _rows("Jacobians, LSTM-40", {"ours": (lambda: _all_of(cell, u), len(u)), **rivals}, bounds, 15)


def _spectrum(cell: LSTM, u: Real) -> Iterator[Row]:
    few = u[:FEW]
    rivals = {"NumPy, QR every frame": (lambda: numpy_spectrum(numpy_step(cell), cell, few), FEW)}
    with suppress(ImportError):
        rivals["PyTorch, jacrev"] = torch_spectrum(cell, few), FEW
    ours = (lambda: stability.lyapunov_spectrum(cell, u, transient=len(u) // 20)), len(u)
    bounds = {"NumPy, QR every frame": 5.0, "PyTorch, jacrev": 1.0}
    yield from _rows("Lyapunov, LSTM-64", {"ours": ours, **rivals}, bounds, 5)


def _poles(cell: LSTM, u: Real) -> Iterator[Row]:
    few, J = u[:FEW], cell.jacobians(u[:, None], cell.rest_state())[0]
    rivals = {"eigvals, one thread": (lambda: np.linalg.eigvals(J), len(u))}
    with suppress(ImportError):
        rivals["PyTorch, jacrev"] = torch_poles(cell, few), FEW
    ours = (lambda: stability.frozen_poles(cell, u)), len(u)
    bounds = {"eigvals, one thread": 1.8, "PyTorch, jacrev": 1.0}
    yield from _rows("frozen poles, LSTM-40", {"ours": ours, **rivals}, bounds, 30)


def _rows(name: str, calls: Mapping[str, tuple[Call, int]], bounds: Mapping[str, float], repeats: int) -> Iterator[Row]:
    """The best of interleaved repeats of each, by its own number of frames."""
    times = dict.fromkeys(calls, np.inf)
    for call, _ in calls.values():
        call()
    for _ in range(repeats):
        for key, (call, n_frames) in calls.items():
            started = time.perf_counter()
            call()
            times[key] = min(times[key], (time.perf_counter() - started) / n_frames * 1e6)
    ours = times.pop("ours")
    for rival, value in times.items():
        yield Row(name, ours, "us/frame", rival, value, value / ours, at_least=bounds.get(rival), note="best of all")


def _all_of(cell: LSTM, u: Real) -> None:
    for _ in stability.jacobians(cell, u):
        pass


# ---- rivals


def _gates(cell: LSTM) -> Callable[[Real, Real, Real], tuple[Any, ...]]:
    n, W, U, b = cell.n_units, np.array(cell.params["W"]), np.array(cell.U), np.array(cell.params["b"])

    def gates(h: Real, c: Real, u: Real) -> tuple[Any, ...]:
        a = W @ u + U @ h + b
        i, f, o = (1 / (1 + np.exp(-a[k * n : (k + 1) * n])) for k in (0, 1, 3))
        g = np.tanh(a[2 * n : 3 * n])
        new = f * c + i * g
        q = np.tanh(new)
        s = o * (1 - q * q)
        # slopes of c and of h by each gate's sum
        dc = np.array([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), np.zeros(n)])
        dh = s * dc
        dh[3] = q * o * (1 - o)
        return dc, dh, f, s, o * q, new

    return gates


def numpy_step(cell: LSTM) -> Step:
    """One frame as one would write it by hand."""
    n, gates = cell.n_units, _gates(cell)
    blocks = np.array(cell.U).reshape(4, n, n)

    def step(h: Real, c: Real, u: Real) -> tuple[Real, Real, Real]:
        dc, dh, f, s, h, c = gates(h, c, u)
        down = sum(dc[k][:, None] * blocks[k] for k in range(3))
        across = s[:, None] * down + dh[3][:, None] * blocks[3]
        return np.block([[across, np.diag(s * f)], [down, np.diag(f)]]), h, c

    return step


def einsum_step(cell: LSTM) -> Step:
    n, gates = cell.n_units, _gates(cell)
    blocks = np.array(cell.U).reshape(4, n, n)

    def step(h: Real, c: Real, u: Real) -> tuple[Real, Real, Real]:
        dc, dh, f, s, h, c = gates(h, c, u)
        J = np.zeros((2 * n, 2 * n))
        J[:n, :n], J[n:, :n] = np.einsum("gi,gij->ij", dh, blocks), np.einsum("gi,gij->ij", dc, blocks)
        J[:n, n:], J[n:, n:] = np.diag(s * f), np.diag(f)
        return J, h, c

    return step


def _along(step: Step, cell: LSTM, u: Real) -> Real:
    h, c, J = np.zeros(cell.n_units), np.zeros(cell.n_units), np.zeros((0, 0))
    for t in range(len(u)):
        J, h, c = step(h, c, u[t : t + 1])
    return J


def numpy_spectrum(step: Step, cell: LSTM, u: Real) -> Real:
    n = 2 * cell.n_units
    Q, total = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0], np.zeros(n)
    h, c = np.zeros(cell.n_units), np.zeros(cell.n_units)
    for t in range(len(u)):
        J, h, c = step(h, c, u[t : t + 1])
        Q, R = np.linalg.qr(J @ Q)
        total += np.log(np.abs(np.diag(R)))
    return total / len(u)


def _torch_step(cell: LSTM) -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(1)
    n = cell.n_units
    W, U, b = (torch.tensor(np.array(v)) for v in (cell.params["W"], cell.U, cell.params["b"]))

    def step(x: Any, u: Any) -> tuple[Any, Any]:
        i, f, g, o = (W @ u + U @ x[:n] + b).chunk(4)
        c = f.sigmoid() * x[n:] + i.sigmoid() * g.tanh()
        new = torch.cat([o.sigmoid() * c.tanh(), c])
        return new, new

    return torch, torch.func.jacrev(step, has_aux=True)


def torch_jacobians(cell: LSTM, u: Real) -> Call:
    torch, jacobian = _torch_step(cell)

    def call() -> Any:
        x, J = torch.zeros(2 * cell.n_units, dtype=torch.float64), None
        for t in range(len(u)):
            J, x = jacobian(x, torch.from_numpy(u[t : t + 1]))
        return J

    np.testing.assert_allclose(call().numpy(), _along(numpy_step(cell), cell, u), atol=1e-12)
    return call


def torch_spectrum(cell: LSTM, u: Real) -> Call:
    torch, jacobian = _torch_step(cell)

    def call() -> Any:
        x, n = torch.zeros(2 * cell.n_units, dtype=torch.float64), 2 * cell.n_units
        Q, total = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0], torch.zeros(n, dtype=torch.float64)
        for t in range(len(u)):
            J, x = jacobian(x, torch.from_numpy(u[t : t + 1]))
            Q, R = torch.linalg.qr(J @ Q)
            total += R.diagonal().abs().log()
        return total / len(u)

    return call


def torch_poles(cell: LSTM, u: Real) -> Call:
    torch, jacobian = _torch_step(cell)

    def call() -> Any:
        x, poles = torch.zeros(2 * cell.n_units, dtype=torch.float64), []
        for t in range(len(u)):
            J, x = jacobian(x, torch.from_numpy(u[t : t + 1]))
            poles.append(torch.linalg.eigvals(J))
        return torch.stack(poles)

    expected = stability.frozen_poles(cell, u).poles
    np.testing.assert_allclose(np.sort(np.abs(call().numpy())), np.sort(np.abs(expected)), atol=1e-9)
    return call

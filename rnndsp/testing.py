"""The conformance suite: what every filter promises, tested on the one you give."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnndsp import formats
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Control, Filter
from rnndsp.stability import Boundedness
from rnndsp.state import State

__all__ = ["check_filter"]

N_FRAMES = 96
# Step of central differences in float64, and what they may deviate by.
STEP, CLOSE = 1e-5, 2e-6
# The largest state whose Jacobian is checked entry by entry.
JACOBIAN_LIMIT = 400


def check_filter(filt: Filter, *, level: float = 0.3, seed: int = 0) -> None:
    """Assert that a filter keeps the promises of the filter interface.

    Block-split invariance to the bit (``run`` and ``stream``, control ramps included), independence of voices,
    causality, reset, rest, dtypes, empty blocks, immutability, save and load, linearisation and adjoint against central
    differences, superposition of linear filters, errors for bad input.

    Parameters
    ----------
    filt : Filter
    level : float
        Of the random test signal.
    seed : int

    Raises
    ------
    AssertionError
        Names the promise that is broken.
    """
    rng = np.random.default_rng(seed)
    u = level * rng.standard_normal((N_FRAMES, filt.n_inputs))
    _check_shapes_and_dtypes(filt, u)
    _check_blocks(filt, u, rng)
    _check_voices(filt, u, rng)
    _check_causality(filt, u, rng)
    _check_value(filt, u)
    _check_tape(filt, u, rng)
    if filt.period == 1 and filt.n_states <= JACOBIAN_LIMIT:
        _check_linearization(filt, u)
    if filt.is_linear:
        _check_superposition(filt, u, rng)
    _check_bad_input(filt, u)


def _check_shapes_and_dtypes(filt: Filter, u: NDArray[Any]) -> None:
    for dtype in (np.float32, np.float64):
        signal = u.astype(dtype)
        before = signal.copy()
        y = filt(signal)
        assert y.shape == (len(u), filt.n_outputs), f"output shape {y.shape}"
        assert y.dtype == dtype, f"{dtype.__name__} in, {y.dtype} out"
        assert np.array_equal(signal, before), "the input was changed"
        assert np.isfinite(y).all(), "output not finite"
    assert isinstance(filt.latency, int) and filt.latency >= 0, f"latency {filt.latency!r}"
    rest = filt.rest_state()
    assert rest.size == filt.n_states, "n_states is not the size of the state"
    y, state = filt.run(u[:0])
    assert y.shape == (0, filt.n_outputs) and state == rest, "an empty block moved the state"
    _, state = filt.run(u)
    assert state.unravel(state.ravel()) == state, "unravel does not undo ravel"


def _pieces(u: NDArray[Any], rng: np.random.Generator) -> list[NDArray[Any]]:
    """Random blocks, one of no and one of a single sample among them."""
    return np.split(u, sorted([0, 0, 1, *rng.integers(0, len(u) + 1, 8)]))


def _check_blocks(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64):
        signal = u.astype(dtype)
        whole, end = filt.run(signal)
        for _ in range(3):
            state: State | None = None
            parts = []
            for piece in _pieces(signal, rng):
                kept = None if state is None else state.copy()
                y, after = filt.run(piece, state)
                assert state == kept, "run changed the state it was given"
                parts.append(y)
                state = after
            assert np.array_equal(np.concatenate(parts), whole), f"blocks change the output ({dtype.__name__})"
            assert state == end, "blocks change the final state"
        stream = filt.stream(dtype=dtype)
        for _ in range(2):
            out = np.empty_like(whole)
            t = 0
            for piece in _pieces(signal, rng):
                stream.process(piece, out[t : t + len(piece)])
                t += len(piece)
            assert np.array_equal(out, whole), "stream and run differ, or reset does not go back to rest"
            assert stream.state == end, "the stream ends in another state than run"
            stream.reset()
        if filt.controls:
            _check_ramps(filt, signal, rng)


def _check_ramps(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    values = {c.name: 0.9 * c.default + 0.1 * (c.high if np.isfinite(c.high) else c.default + 1) for c in filt.controls}

    def render(cuts: list[int]) -> NDArray[Any]:
        stream = filt.stream(dtype=u.dtype, ramp_s=30 / (filt.sample_rate or 48000))
        first = stream.process(u[:20])
        stream.controls.update(values)
        return np.concatenate([first, *(stream.process(piece) for piece in np.split(u[20:], cuts))])

    whole = render([])
    for _ in range(3):
        cuts = sorted(int(c) for c in rng.integers(0, len(u) - 20, 5))
        assert np.array_equal(render(cuts), whole), "blocks change the output while a control ramps"
    assert np.allclose(whole[:20], filt(u)[:20], atol=1e-6), "a control acts before it is set"


def _check_voices(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    many = np.stack([u, rng.permutation(u), 0 * u])
    together, state = filt.run(many)
    for voice in range(len(many)):
        alone, end = filt.run(many[voice])
        assert np.allclose(together[voice], alone, rtol=1e-6, atol=1e-9), "a voice depends on the others"
        assert np.allclose(state.ravel()[voice], end.ravel(), rtol=1e-6, atol=1e-9), (
            "a voice's state depends on the others"
        )
    assert filt(many[None]).shape == (1, *together.shape), "leading axes are lost"


def _check_causality(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    later = u.copy()
    later[60:] = rng.standard_normal(later[60:].shape) * 0.1
    assert np.array_equal(filt(u)[:60], filt(later)[:60]), "the output depends on the future"
    if filt._boundedness() == Boundedness.SATURATING:
        loud, louder = (np.max(np.abs(filt(size * u)), initial=0) for size in (1e3, 1e6))
        assert louder <= 2 * loud + 1, "it is said to saturate, but grows with the input"


def _check_value(filt: Filter, u: NDArray[Any]) -> None:
    for name, value in filt.params.items():
        assert not value.flags.writeable, f"parameter {name} can be written"
    try:
        filt.latency = 3
    except AttributeError:
        pass
    else:
        raise AssertionError("attributes can be set")
    assert filt.replace() == filt, "replace() without changes is another filter"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "filter.safetensors"
        filt.save(path)
        again = formats.load(path)
        assert again == filt and type(again) is type(filt), "load does not give back what was saved"
        assert np.array_equal(again(u), filt(u)), "the loaded filter sounds different"
        _, state = filt.run(u)
        formats.save_state(state, Path(folder) / "state.safetensors")
        assert formats.load_state(Path(folder) / "state.safetensors") == state, "a saved state comes back different"


def _check_tape(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    _, start = filt.run(u[:7])
    start.indices = filt.rest_state().indices
    u = u[7:]
    x = start.ravel()
    x = x + 0.1 * rng.standard_normal(x.shape)
    start = start.unravel(x)
    tape = filt.tape(u, start)
    y, end = filt.run(u, start)
    assert np.array_equal(tape.y, y) and tape.state == end, "the taped forward pass differs from the plain one"
    wy, wx = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
    gradient = tape.adjoint(wy, wx)

    def loss(filt: Filter, u: NDArray[Any], x: NDArray[Any], controls: Any = None) -> float:
        y, end = filt.run(u, start.unravel(x), controls=controls)
        return float(np.sum(y * wy) + np.sum(end.ravel() * wx))

    def agree(analytic: Any, plus: float, minus: float, what: str) -> None:
        numeric = (plus - minus) / (2 * STEP)
        error = abs(analytic - numeric)
        assert error < CLOSE * (1 + abs(numeric)), f"gradient by {what}: {analytic:.9g}, by differences {numeric:.9g}"

    e = rng.standard_normal(u.shape)
    agree(np.sum(gradient.u * e), loss(filt, u + STEP * e, x), loss(filt, u - STEP * e, x), "the input")
    e = rng.standard_normal(x.shape)
    agree(np.sum(gradient.state * e), loss(filt, u, x + STEP * e), loss(filt, u, x - STEP * e), "the initial state")
    for control in filt.controls:
        e = rng.standard_normal(len(u)) * max(1.0, abs(control.default))

        def turned(sign: int, control: Control = control, e: NDArray[Any] = e) -> float:
            return loss(filt, u, x, {control.name: control.default + sign * STEP * e})

        agree(np.sum(gradient.controls[control.name] * e), turned(1), turned(-1), control.name)
    assert set(gradient.params) == set(filt.params), "gradients and parameters have other names"
    for name, value in filt.params.items():
        assert gradient.params[name].shape == value.shape, f"gradient by {name} has another shape"
        e = rng.standard_normal(value.shape)
        up, down = (filt.replace(**{name: value + sign * STEP * e}) for sign in (1, -1))
        agree(np.sum(gradient.params[name] * e), loss(up, u, x), loss(down, u, x), name)


def _check_linearization(filt: Filter, u: NDArray[Any]) -> None:
    _, state = filt.run(u[:-1])
    frame, x, n = u[-1], state.ravel(), filt.n_inputs
    linear = filt.linearize(state, frame).expand()
    assert linear.A.shape == (x.size, x.size), f"A has shape {linear.A.shape}, the state {x.size} numbers"

    def step(x: NDArray[Any], frame: NDArray[Any]) -> NDArray[Any]:
        y, after = filt.run(frame[None], state.unravel(x))
        return np.concatenate([after.ravel(), y[0]])

    def differences(f: Any, size: int) -> NDArray[Any]:
        columns = [(f(STEP * e) - f(-STEP * e)) / (2 * STEP) for e in np.eye(size)]
        return np.array(columns).reshape(size, x.size + filt.n_outputs).T

    by_state = differences(lambda e: step(x + e, frame), x.size)
    by_input = differences(lambda e: step(x, frame + e), n)
    pairs = {
        "A": (linear.A, by_state[: x.size]),
        "B": (linear.B, by_input[: x.size]),
        "C": (linear.C, by_state[x.size :]),
        "D": (linear.D, by_input[x.size :]),
    }
    for name, (analytic, numeric) in pairs.items():
        error = np.max(np.abs(analytic - numeric), initial=0)
        assert error < CLOSE * (1 + np.max(np.abs(numeric), initial=0)), f"{name} of linearize is off by {error:.3g}"


def _check_superposition(filt: Filter, u: NDArray[Any], rng: np.random.Generator) -> None:
    other = rng.permutation(u)
    both, first, second = filt(2 * u - 3 * other), filt(u), filt(other)
    scale = 1 + np.max(np.abs(both), initial=0)
    assert np.max(np.abs(both - (2 * first - 3 * second)), initial=0) < 1e-9 * scale, (
        "is_linear, but does not superpose"
    )
    if filt.period == 1:
        assert np.allclose(filt.linearize()(u), first, rtol=1e-9, atol=1e-9 * scale), (
            "linearize() is another linear filter"
        )


def _check_bad_input(filt: Filter, u: NDArray[Any]) -> None:
    bad = u.copy()
    bad[5] = np.nan
    cases: list[tuple[type[Exception], Any]] = [
        (NonFiniteError, lambda: filt(bad)),
        (ParameterError, lambda: filt(u.astype(np.int16))),
        (ParameterError, lambda: filt(np.zeros((10, filt.n_inputs + 1)))),
        (ParameterError, lambda: filt(u, controls={"no such control": 1})),
        (ParameterError, lambda: filt.stream().process(u.astype(np.float64))),
    ]
    for kind, call in cases:
        try:
            call()
        except kind:
            continue
        raise AssertionError(f"bad input is not refused with {kind.__name__}")

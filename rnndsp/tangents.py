"""Forward-mode derivatives: directional ones along a run, and real-time recurrent learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import real_array, require_filter
from rnndsp._threads import one_thread
from rnndsp.composition import Crossfade, Feedback, Knobs, Parallel, Series, Stack
from rnndsp.engine import Cell
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter, require_finite
from rnndsp.state import State
from rnndsp.statespace import DENSE_LIMIT, DelayStateSpace

__all__ = ["Sensitivities", "Tangent", "jvp", "rtrl"]

Real = NDArray[np.float64]
Params = dict[str, Real]


class Moved(NamedTuple):
    """How a parameter moves in some of the directions; in the others it does not.

    ``values`` has its shape behind the axis of those directions; None where each moves one number of it by one.
    """

    slots: slice
    values: Real | None

    def rows(self, rows: slice, k: int) -> Moved:
        """Of a matrix of k columns, some rows alone; of a vector, with k = 1."""
        if self.values is None:
            first = self.slots.start
            return Moved(slice(first + rows.start * k, first + rows.stop * k), None)
        return Moved(self.slots, self.values.reshape(len(self.values), -1, k)[:, rows])


Moves = dict[str, Moved]
# output, its derivatives (frames, directions, outputs), those of the state at the end (directions, states)
Pushed = tuple[Real, Real, Real]

# Numbers in the arrays of one piece of a signal.
PIECE = 2**20
# Directions that are followed at once, numbers that their states hold together, numbers in a table along the signal.
MAX_DIRECTIONS, MAX_CARRIED, MAX_TABLE = 4096, 2**24, 2**27
# What a call of an adjoint costs, in frames of that adjoint.
OVERHEAD = 100


@dataclass(frozen=True)
class Tangent:
    """A run, and how it changes to first order.

    Attributes
    ----------
    y : ndarray, shape (n_frames, n_outputs)
        The output; (n_frames,) where the input is and the filter has one output.
    dy : ndarray, shape of ``y``
        Its directional derivative.
    state : State
        After the last frame.
    dstate : ndarray, shape (n_states,)
        Directional derivative of ``state.ravel()``.
    """

    y: Real
    dy: Real
    state: State
    dstate: Real


@dataclass(frozen=True)
class Sensitivities:
    """What real-time recurrent learning gives.

    Attributes
    ----------
    y : ndarray, shape (n_frames, n_outputs)
        The output; (n_frames,) where the input is and the filter has one output.
    params : dict of str to ndarray
        Derivative of every output sample by every parameter, (n_frames, n_outputs, *shape of the parameter); with
        ``dloss`` the gradient of the loss, (*shape of the parameter,).
    state : State
        After the last frame.
    dstate : dict of str to ndarray, shapes (n_states, *shape of the parameter)
        Derivative of ``state.ravel()`` by every parameter: what is carried forward.
    """

    y: Real
    params: Params
    state: State
    dstate: Params


def jvp(
    filt: Filter,
    u: ArrayLike,
    *,
    du: ArrayLike | None = None,
    dstate: ArrayLike | None = None,
    dparams: Mapping[str, ArrayLike] | None = None,
    dcontrols: Mapping[str, ArrayLike] | None = None,
    state: State | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> Tangent:
    r"""Directional derivative of a run: a Jacobian times a vector, without forming the Jacobian.

    .. math:: \dot y = \left.\frac{d}{d\epsilon}\right|_0 \mathrm{filt}_{\theta + \epsilon \dot\theta}
              (u + \epsilon \dot u;\; x_0 + \epsilon \dot x_0)

    Parameters
    ----------
    filt : Filter
        Any.
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice. All is computed in float64.
    du : array, shape of ``u``, optional
        Direction in which the input moves; what is not given does not move.
    dstate : array, shape (n_states,), optional
        That of the initial state, in the order of :meth:`State.ravel`.
    dparams : mapping of str to array, optional
        Those of parameters, under their names in ``filt.params``.
    dcontrols : mapping of str to float or array of n_frames, optional
        Those of controls.
    state : State, optional
        Where to start; the state of rest when absent.
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    Tangent

    Raises
    ------
    ParameterError
        A wrong shape, name, state or control; more than 4000 states in a part without a closed form.
    NonFiniteError
        NaN or infinity in the signal or in a direction, or a filter or a derivative that blows up.

    Notes
    -----
    Exact to rounding for every filter; nothing is differenced. Series, parallels, stacks, crossfades, knobs and loops
    hand tangents from part to part. A linear part without controls, whose parameters do not move, filters them as it
    filters signals. Cells, dense layers and (delay) state spaces have closed forms, a matrix product a frame. Every
    other part goes the way of its own adjoint, in pieces of a few frames: one voice of it for every output sample and
    every final state; where parameters move one call each, which takes some 0.1 ms a frame and output.

    A cell whose recurrent weights have a parametrisation (:mod:`rnndsp.recurrence`) calls the adjoint of that map once
    for every entry of U where those parameters move.

    References
    ----------
    A. Griewank, A. Walther (2008), "Evaluating derivatives".
    """
    signal, here, flat = _entering(filt, u, state, controls)
    n_frames = len(signal)
    moved = np.zeros((n_frames, 1, signal.shape[1]))
    if du is not None:
        moved[:, 0, : filt.n_inputs] = _direction("du", du, np.shape(u)).reshape(n_frames, filt.n_inputs)
    names = [control.name for control in filt.controls]
    for name, value in (dcontrols or {}).items():
        if name not in names:
            raise ParameterError(f"dcontrols: unknown control {name!r}; this filter has {names or 'none'}")
        shape = (n_frames,) if np.ndim(value) else ()
        moved[:, 0, filt.n_inputs + names.index(name)] = _direction(f"dcontrols[{name!r}]", value, shape)
    dx = np.zeros((1, filt.n_states))
    if dstate is not None:
        dx[0] = _direction("dstate", dstate, (filt.n_states,))
    known, dp = filt.params, Moves()
    for name, value in (dparams or {}).items():
        if name not in known:
            raise ParameterError(f"dparams: unknown parameter {name!r}; known are {sorted(known)}")
        dp[name] = Moved(slice(0, 1), _direction(f"dparams[{name!r}]", value, known[name].shape)[None])
    dp |= _recurrent(filt, dp)
    y, dy = np.empty((n_frames, filt.n_outputs)), np.empty((n_frames, filt.n_outputs))
    with one_thread():  # several would wait for each other at every frame
        for now in _pieces(filt, n_frames, 1):
            y[now], moved_y, dx = _step(filt, signal[now], here, moved[now], dx, dp)
            dy[now] = moved_y[:, 0]
    return Tangent(_flat(y, flat), _flat(dy, flat), here, dx[0])


def rtrl(
    filt: Filter,
    u: ArrayLike,
    state: State | None = None,
    *,
    dloss: Callable[[int, Real], ArrayLike] | None = None,
    dstate: Mapping[str, ArrayLike] | None = None,
    only: Sequence[str] | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
) -> Sensitivities:
    r"""Real-time recurrent learning: how state and output depend on every parameter, carried forward in time.

    .. math::
        \frac{dx_t}{d\theta} = \frac{\partial x_t}{\partial x_{t-1}} \frac{dx_{t-1}}{d\theta} +
        \frac{\partial x_t}{\partial \theta}, \qquad
        \frac{dy_t}{d\theta} = \frac{\partial y_t}{\partial x_{t-1}} \frac{dx_{t-1}}{d\theta} +
        \frac{\partial y_t}{\partial \theta}

    Parameters
    ----------
    filt : Filter
        Any, but a small one.
    u : array, shape (n_frames, n_inputs) or (n_frames,)
        One voice. All is computed in float64.
    state : State, optional
        Where to start; the state of rest when absent.
    dloss : function, optional
        Of the index of a frame and its output, (n_outputs,), to the derivative of the loss by that output. Then no
        table along the signal is kept, only the gradient summed so far: a signal may be as long as it likes.
    dstate : mapping of str to array, optional
        How the initial state depends on the parameters, the ``dstate`` of the block before; not at all when absent.
    only : sequence of str, optional
        Names of the parameters to look at; all of them when absent.
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    Sensitivities

    Raises
    ------
    ParameterError
        A wrong shape, name, state or control; too many parameters or states, or too large a table.
    NonFiniteError
        NaN or infinity in the signal, or a filter or a derivative that blows up.

    Notes
    -----
    It takes n_states n_params numbers, and time in proportion to n_states^2 n_params a frame for dense cells, where
    back-propagation through time takes n_states numbers a frame, and n_params products. So it pays where the gradient
    is wanted while the signal runs, or where the whole Jacobian is, as in :func:`rnndsp.batch_fit.fit_least_squares`.
    With the weights as they are throughout, the sum over time is the gradient of back-propagation. For the rest see
    :func:`jvp`.

    References
    ----------
    R. J. Williams, D. Zipser (1989), "A learning algorithm for continually running fully recurrent neural networks".
    """
    signal, here, flat = _entering(filt, u, state, controls)
    names = list(filt.params) if only is None else list(dict.fromkeys(only))
    if unknown := sorted(set(names) - set(filt.params)):
        raise ParameterError(f"only: unknown parameters {unknown}; known are {sorted(filt.params)}")
    shapes = {name: filt.params[name].shape for name in names}
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()], dtype=np.int64)
    n_frames, p, m = len(signal), filt.n_outputs, int(ends[-1]) if names else 0
    if m > MAX_DIRECTIONS or m * filt.n_states > MAX_CARRIED:
        raise ParameterError(
            f"{m} parameters and {filt.n_states} states: forward derivatives would carry {m * filt.n_states:.3g} "
            f"numbers along; at most {MAX_DIRECTIONS} parameters and {MAX_CARRIED:.3g} numbers: use only=..., or "
            "filt.tape(u).adjoint(dy)"
        )
    if dloss is None and n_frames * p * m > MAX_TABLE:
        raise ParameterError(
            f"a table of {n_frames} frames, {p} outputs and {m} parameters has more than {MAX_TABLE:.3g} numbers: give "
            "dloss=..., use only=..., or cut the signal into blocks that hand on state and dstate"
        )

    def cut(table: Real) -> Params:
        """The last axis, all parameters one after the other, as the parameters."""
        parts = np.split(table, ends[:-1], axis=-1) if names else []
        return {name: part.reshape(*table.shape[:-1], *shapes[name]) for name, part in zip(names, parts, strict=True)}

    dp = {k: Moved(slice(int(end) - math.prod(shapes[k]), int(end)), None) for k, end in zip(names, ends, strict=True)}
    dp |= _recurrent(filt, dp)
    dx = np.zeros((m, filt.n_states))
    if dstate is not None:
        if set(dstate) != set(names):
            raise ParameterError(f"dstate has the names {sorted(dstate)}, not those of the parameters, {sorted(names)}")
        given = [_direction(f"dstate[{k!r}]", dstate[k], (filt.n_states, *shapes[k])) for k in names]
        dx = np.concatenate([part.reshape(filt.n_states, -1) for part in given], axis=1).T if names else dx
    y = np.empty((n_frames, p))
    table = np.zeros((n_frames, p, m) if dloss is None else m)
    with one_thread():
        for now in _pieces(filt, n_frames, max(m, 1)):
            still = np.zeros((now.stop - now.start, m, signal.shape[1]))
            y[now], dy, dx = _step(filt, signal[now], here, still, dx, dp)
            if dloss is None:
                table[now] = dy.transpose(0, 2, 1)
                continue
            for t, frame in enumerate(dy, now.start):
                table += frame @ _direction(f"dloss at frame {t}", dloss(t, y[t]), (p,))
    return Sensitivities(_flat(y, flat), cut(table), here, cut(dx.T))


def _entering(
    filt: Filter, u: ArrayLike, state: State | None, controls: Mapping[str, ArrayLike] | None
) -> tuple[Real, State, bool]:
    """One voice's signal with its controls as further columns, a state that may be changed, whether ``u`` is flat."""
    signal, lead, flat = require_filter(filt)._accept(real_array("u", u).astype(np.float64), controls, None)
    if lead:
        raise ParameterError(f"signal of shape {np.shape(u)}: give one voice, (n_frames, {filt.n_inputs})")
    here = filt.rest_state()
    if state is not None:
        if not isinstance(state, State) or state.shapes != here.shapes:
            raise ParameterError(f"{state!r} is not one voice of a state of this filter, {here!r}")
        here.assign(state)
    require_finite(signal, "input", here.index)
    return signal[0], here, flat


def _direction(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Real:
    found = real_array(name, value).astype(np.float64)
    if found.shape != shape:
        raise ParameterError(f"{name} has shape {found.shape}, must have {shape}")
    if not np.isfinite(found).all():
        raise NonFiniteError(f"{name} holds NaN or infinity")
    return found


def _flat(y: Real, flat: bool) -> Real:
    return y[:, 0] if flat and y.shape[1] == 1 else y


def _pieces(filt: Filter, n_frames: int, m: int) -> Iterator[slice]:
    """So many frames at a time that what is computed for all of them at once stays small."""
    size = max(1, PIECE // max(_size(part, m) for part in _parts(filt)))
    for t in range(0, n_frames, size):
        yield slice(t, min(t + size, n_frames))


def _parts(filt: Filter) -> Iterator[Filter]:
    yield filt
    for child in filt.children:
        yield from _parts(child)


def _size(filt: Filter, m: int) -> int:
    """Numbers in the largest of a frame's arrays, m directions or a matrix."""
    if isinstance(filt, Cell):
        return max(m * filt._gates * filt.n_units, filt.n_states**2)
    inside = filt.delays.size if isinstance(filt, DelayStateSpace) else 0
    return m * max(filt.n_inputs + len(filt.controls), filt.n_outputs, inside)


def _step(filt: Filter, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    start = state.index
    with np.errstate(all="ignore"):
        y, dy, dx = _push(filt, u, state, du, dx, dp)
    require_finite(y[None], "output", start)
    if not (np.isfinite(dy).all() and np.isfinite(dx).all()):
        raise NonFiniteError(
            f"a derivative is not finite between the samples {start} and {state.index}: see "
            "rnndsp.stability.gradient_norms"
        )
    return y, dy, dx


# ---- one rule for every kind of filter: tangents in, tangents out; ``state`` moves on
#
# u (frames, inputs + controls), du (frames, directions, inputs + controls), dx (directions, states), and dp the
# directions of those parameters that move, (directions, *shape), under their names in filt.params


def _push(filt: Filter, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    if not (dp or du.any() or dx.any()):
        return _plain(filt, u, state), np.zeros((len(u), len(dx), filt.n_outputs)), dx
    if filt.is_linear and not filt.controls and not dp:
        return _filtered(filt, u, state, du, dx)
    if type(filt).registered_name() == "Dense":  # a filter, which the core does not import
        return _dense(filt, u, state, du, dx, dp)
    # what has the same adjoint has the same derivative
    rule = _RULES.get(type(filt)._adjoint, _by_adjoint)
    found: Pushed = rule(filt, u, state, du, dx, dp)
    return found


def _plain(filt: Filter, u: Real, state: State) -> Real:
    y = np.empty((len(u), filt.n_outputs))
    filt._process(np.ascontiguousarray(u[None]), state, y[None])
    return y


def _filtered(filt: Filter, u: Real, state: State, du: Real, dx: Real) -> Pushed:
    """A linear filter does to tangents what it does to signals: each of them is a voice."""
    tangents, dy = state.unravel(dx), np.empty((len(dx), len(u), filt.n_outputs))
    filt._process(np.ascontiguousarray(du.transpose(1, 0, 2)), tangents, dy)
    return _plain(filt, u, state), dy.transpose(1, 0, 2), tangents.ravel()


def _by_adjoint(filt: Filter, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    """Jacobians of a few frames at a time, row by row from the adjoint."""
    n, p, m = filt.n_states, filt.n_outputs, len(dx)
    if n > DENSE_LIMIT:
        raise ParameterError(
            f"{type(filt).__name__} has {n} states, more than {DENSE_LIMIT}, and no forward derivative but by the "
            "adjoints of all of them: filt.tape(u).adjoint(dy) gives derivatives of one number at a time"
        )
    # L frames take L p + n calls, each of them so much for itself and so much a frame
    size = max(1, math.isqrt(OVERHEAD * n // p))
    ys, dys = [np.empty((0, p))], [np.empty((0, m, p))]
    for t in range(0, len(u), size):
        piece, moved = np.ascontiguousarray(u[None, t : t + size]), du[t : t + size]
        n_frames = piece.shape[1]
        n_rows, at_y = n_frames * p + n, n_frames * p
        # gradients by parameters come summed over the voices
        each = 1 if dp else max(1, PIECE // n_rows)
        before, change = state.ravel()[None], np.empty((n_rows, m))
        for first in range(0, n_rows, each):
            rows = np.eye(min(each, n_rows - first), n_rows, first)
            voices = state.unravel(np.repeat(before, len(rows), axis=0))
            _, memory = filt._tape(np.repeat(piece, len(rows), axis=0), voices)
            by_y = np.ascontiguousarray(rows[:, :at_y]).reshape(-1, n_frames, p)
            gu, gx, gp = filt._adjoint(memory, by_y, np.ascontiguousarray(rows[:, at_y:]))
            found = np.tensordot(gu, moved, ((1, 2), (0, 2))) + gx @ dx.T
            for name in gp.keys() & dp.keys():
                slots, values = dp[name]
                along = np.ravel(gp[name])
                found[:, slots] += along if values is None else values.reshape(len(values), -1) @ along
            change[first : first + each] = found
        ys.append(_plain(filt, piece[0], state))
        dys.append(change[:at_y].reshape(n_frames, p, m).transpose(0, 2, 1))
        dx = change[at_y:].T
    return np.concatenate(ys), np.concatenate(dys), dx


def _inside(dp: Moves, place: int) -> Moves:
    """Those of a child."""
    lead = f"{place}."
    return {name.removeprefix(lead): value for name, value in dp.items() if name.startswith(lead)}


def _side_by_side(filt: Filter, u: list[Real], state: State, du: list[Real], dx: Real, dp: Moves) -> list[Pushed]:
    """All children, each on what it gets, its controls included."""
    return [
        _push(child, u[i], state.children[i], du[i], part, _inside(dp, i))
        for i, (child, part) in enumerate(zip(filt.children, filt._split(dx)[1:], strict=True))  # type: ignore[attr-defined]
    ]


def _joined(signal: Real, controls: Real) -> Real:
    return np.concatenate([signal, controls], axis=-1)


def _series(filt: Series, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    (signal, controls), (moved, turned) = filt._inputs(u), filt._inputs(du)
    parts = filt._split(dx)[1:]
    for i, child in enumerate(filt.children):
        signal, moved, parts[i] = _push(
            child,
            _joined(signal, controls[i]),
            state.children[i],
            _joined(moved, turned[i]),
            parts[i],
            _inside(dp, i),
        )
    state.index += len(u)
    return signal, moved, np.concatenate(parts, axis=1)


def _parallel(filt: Parallel, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    (signal, controls), (moved, turned) = filt._inputs(u), filt._inputs(du)
    sides = _side_by_side(
        filt, [_joined(signal, c) for c in controls], state, [_joined(moved, c) for c in turned], dx, dp
    )
    state.index += len(u)
    ys, dys, dxs = zip(*sides, strict=True)
    return sum(ys[1:], ys[0]), sum(dys[1:], dys[0]), np.concatenate(dxs, axis=1)


def _crossfade(filt: Crossfade, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    (signal, controls), (moved, turned) = filt._inputs(u), filt._inputs(du)
    (a, da, dxa), (b, db, dxb) = _side_by_side(
        filt, [_joined(signal, c) for c in controls], state, [_joined(moved, c) for c in turned], dx, dp
    )
    state.index += len(u)
    mix, dmix = u[:, filt.n_inputs, None], du[..., filt.n_inputs, None]
    dy = (1 - mix[:, None]) * da + mix[:, None] * db + dmix * (b - a)[:, None]
    return (1 - mix) * a + mix * b, dy, np.concatenate([dxa, dxb], axis=1)


def _stack(filt: Stack, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    sides = _side_by_side(filt, filt._parts_of(u), state, filt._parts_of(du), dx, dp)
    state.index += len(u)
    ys, dys, dxs = zip(*sides, strict=True)
    return np.concatenate(ys, axis=1), np.concatenate(dys, axis=2), np.concatenate(dxs, axis=1)


def _knobs(filt: Knobs, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    state.index += len(u)
    return _push(filt.children[0], u, state.children[0], du, dx, _inside(dp, 0))


def _feedback(filt: Feedback, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    (forward, backward), (ahead, behind) = filt.children, state.children
    dp_ahead, dp_behind = _inside(dp, 0), _inside(dp, 1)
    (signal, controls), (moved, turned) = filt._inputs(u), filt._inputs(du)
    m, p, delay = len(dx), filt.n_outputs, filt.delay
    own, d_ahead, d_behind = filt._split(dx)
    line = state.rows.reshape(p, delay)
    # stored as the line is: sample t at t modulo the delay
    d_line = np.roll(own.reshape(m, p, delay), state.index, axis=2)
    y, dy = np.empty((len(u), p)), np.empty((len(u), m, p))
    for now, place in filt._chunks(len(u), state.index):
        back, d_back, d_behind = _push(
            backward,
            _joined(line[:, place].T, controls[1][now]),
            behind,
            _joined(d_line[:, :, place].transpose(2, 0, 1), turned[1][now]),
            d_behind,
            dp_behind,
        )
        y[now], dy[now], d_ahead = _push(
            forward,
            _joined(signal[now] + back, controls[0][now]),
            ahead,
            _joined(moved[now] + d_back, turned[0][now]),
            d_ahead,
            dp_ahead,
        )
        line[:, place], d_line[:, :, place] = y[now].T, dy[now].transpose(1, 2, 0)
    state.index += len(u)
    own = np.roll(d_line, -state.index, axis=2).reshape(m, -1)
    return y, dy, np.concatenate([own, d_ahead, d_behind], axis=1)


def _recur(A: Real, forced: Real, dx: Real, delays: NDArray[np.int64]) -> tuple[Real, Real]:
    """What the lines give at every frame where each gets A times that, and ``forced``; what they hold at the end."""
    exits = np.empty_like(forced)
    if np.all(delays == 1):
        for t in range(len(forced)):
            exits[t] = dx
            dx = dx @ A[min(t, len(A) - 1)].T + forced[t]
        return exits, dx
    lines, place, first = dx.copy(), np.zeros_like(delays), np.cumsum(delays) - delays
    for t in range(len(forced)):
        exits[t] = lines[:, first + place]
        lines[:, first + place] = exits[t] @ A[min(t, len(A) - 1)].T + forced[t]
        place = (place + 1) % delays
    each = np.split(lines, first[1:], axis=1)
    return exits, np.concatenate([np.roll(line, -shift, axis=1) for line, shift in zip(each, place, strict=True)], 1)


def _force(goal: Real, moved: Moved | None, by: Real, x: Real) -> None:
    """Add to ``goal``, (frames, directions, n), what moves with the sums M x of a matrix M of (gates n, k).

    ``by``, (frames, gates n), are the slopes by the sums, x is (frames, k).
    """
    if moved is None or not by.size or not x.size:
        return
    n_frames, n, k = len(goal), goal.shape[2], x.shape[1]
    gates, part = by.shape[1] // n, goal[:, moved.slots]
    if moved.values is None:  # a number of M moves the unit of its row alone
        own = np.einsum("tgjkj->tgjk", part.reshape(n_frames, gates, n, k, n))
        own += by.reshape(len(by), gates, n, 1) * x[:, None, None]
    else:
        rows = moved.values.reshape(len(moved.values), gates * n, k)
        sums = by[:, None] * np.tensordot(x, rows, (1, 2))
        part += sums.reshape(*sums.shape[:2], gates, n).sum(axis=2)


def _delay_state_space(filt: DelayStateSpace, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    A, B, C, D = filt._matrices
    d, _ = _recur(A[None], (u @ B.T)[:, None], state.ravel()[None], filt.delays)
    entering = du @ B.T
    _force(entering, dp.get("A"), np.ones((1, len(A))), d[:, 0])
    _force(entering, dp.get("B"), np.ones((1, len(A))), u)
    exits, dx = _recur(A[None], entering, dx, filt.delays)
    dy = exits @ C.T + du @ D.T
    _force(dy, dp.get("C"), np.ones((1, len(C))), d[:, 0])
    _force(dy, dp.get("D"), np.ones((1, len(C))), u)
    return _plain(filt, u, state), dy, dx


def _dense(filt: Filter, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    W, b = filt.params["W"].astype(np.float64), filt.params["b"]
    # inputs that go straight to the sums before the activation tell its slope
    config = {**filt.config, "n_inputs": filt.n_inputs + filt.n_outputs}
    wider = type(filt)._restore(config, {"W": np.hstack([W, np.eye(len(W))]), "b": b})
    y = _plain(filt, u, state)
    D = wider._jacobians(np.hstack([u, np.zeros_like(y)]), wider.rest_state()).D[..., filt.n_inputs :]
    slope = np.diagonal(D, axis1=1, axis2=2)
    dy = slope[:, None] * (du @ W.T)
    _force(dy, dp.get("W"), slope, u)
    _force(dy, dp.get("b"), slope, np.ones((1, 1)))
    return y, dy, dx


def _cell(cell: Cell, u: Real, state: State, du: Real, dx: Real, dp: Moves) -> Pushed:
    """Every frame's Jacobians from the stages' adjoints, which outside of kernels take arrays of all frames at once."""
    if not cell._derived("takes arrays", _takes_arrays, cell):
        return _by_adjoint(cell, u, state, du, dx, dp)
    n, m, n_frames = cell.n_units, len(dx), len(u)
    y, entering = _states(cell, u, state)
    s = tuple(np.split(entering, len(cell.state_names), axis=1))
    own = tuple(cell.params[name].astype(np.float64) for name in cell.unit_params)
    A: Real = np.zeros(0)
    B = forced = A
    first, one = 0, np.ones((1, 1))
    for place, (stage, W, _, b, b_rec) in enumerate(cell._parts()):
        rows = slice(first * n, (first + stage.n_gates) * n)
        W, U = W.astype(np.float64), cell._mixing[first : first + stage.n_gates].reshape(-1, n)
        first += stage.n_gates
        a, r = (tuple(np.split(sums, stage.n_gates, axis=1)) for sums in (u @ W.T + b, s[0] @ U.T + b_rec))
        through = np.zeros((n_frames, stage.n_out * n, len(s) * n))
        into = np.zeros((n_frames, stage.n_out * n, cell.n_inputs))
        moved = np.zeros((n_frames, m, stage.n_out * n))
        for k in range(stage.n_out):
            seed = tuple(np.full((n_frames, n), float(i == k)) for i in range(stage.n_out))
            by_a, by_r, by_s, by_p = stage.adjoint(a, r, s, own, seed)
            by_a, by_r = (np.concatenate(np.broadcast_arrays(*g), axis=1) for g in (by_a, by_r))
            out, units = slice(k * n, (k + 1) * n), np.arange(n)
            through[:, out, :n] = _mixed(by_r, U, n)
            into[:, out] = _mixed(by_a, W, n)
            for i, slope in enumerate(by_s):
                through[:, k * n + units, i * n + units] += slope
            goal = moved[..., out]
            for name, slopes, x in (("W", by_a, u), ("b", by_a, one), ("b_rec", by_r, one)):
                if name in dp:
                    _force(goal, dp[name].rows(rows, x.shape[1]), slopes, x)
            if "U" in dp and cell.U.ndim == 2:
                _force(goal, dp["U"].rows(rows, n), by_r, s[0])
            elif "U" in dp:
                _force(goal, dp["U"].rows(rows, 1), by_r * np.tile(s[0], stage.n_gates), one)
            for name, slopes in zip(cell.unit_params, by_p, strict=True):
                _force(goal, dp.get(name), slopes, one)
        if place:
            A, B, forced = through @ A, into + through @ B, moved + forced @ through.swapaxes(1, 2)
        else:
            A, B, forced = through, into, moved
        s = tuple(stage.unit(a, r, s, own))
    entered, dx = _recur(A, forced + du @ B.swapaxes(1, 2), dx, np.ones(A.shape[1], np.int64))
    return y, np.concatenate([entered[1:], dx[None]])[..., :n], dx


def _takes_arrays(cell: Cell) -> bool:
    """False for a unit that branches, say, or calls what is made for single numbers."""
    parts = (np.zeros((2, 1)),) * max(n_in for n_in, _ in cell._entering())
    own = (np.zeros(1),) * len(cell.unit_params)
    try:
        with np.errstate(all="ignore"):
            for n_in, stage in cell._entering():
                sums = (np.zeros((2, 1)),) * stage.n_gates
                stage.unit(sums, sums, parts[:n_in], own)
                stage.adjoint(sums, sums, parts[:n_in], own, (np.zeros((2, 1)),) * stage.n_out)
    except (TypeError, ValueError):
        return False
    return True


def _states(cell: Cell, u: Real, state: State) -> tuple[Real, Real]:
    """The output, and the states that enter the frames."""
    before = state.vector.copy()
    if len(cell.state_names) == 1:
        y = _plain(cell, u, state)
        return y, np.concatenate([before[None], y[:-1]])
    y, entering = np.empty((len(u), cell.n_units)), np.empty((len(u), before.size))
    for t in range(len(u)):
        entering[t] = state.vector
        y[t] = _plain(cell, u[t : t + 1], state)
    return y, entering


def _mixed(by: Real, weights: Real, n: int) -> Real:
    """Slopes times weights, summed over the gates: (frames, n, columns)."""
    gates = len(weights) // n
    summed: Real = np.einsum("tgj,gjk->tjk", by.reshape(len(by), gates, n), weights.reshape(gates, n, -1))
    return summed


def _recurrent(filt: Filter, dp: Moves) -> Moves:
    """How U moves, under its own name, in all cells of which something moves from which U follows."""
    found: Moves = {}
    for place, child in enumerate(filt.children):
        found |= {f"{place}.{name}": moved for name, moved in _recurrent(child, _inside(dp, place)).items()}
    if isinstance(filt, Cell) and filt._recurrence.param in dp and filt._recurrence.param != "U":
        slots, values = dp[filt._recurrence.param]
        free, size = filt.params[filt._recurrence.param], filt.U.size
        dU = np.empty((slots.stop - slots.start, size))
        for entry, one in enumerate(np.eye(size)):
            along = np.ravel(filt._recurrence.adjoint(free, filt.n_units, one.reshape(filt.U.shape)))
            dU[:, entry] = along if values is None else values.reshape(len(values), -1) @ along
        found["U"] = Moved(slots, dU.reshape(-1, *filt.U.shape))
    return found


_RULES: dict[Any, Callable[..., Pushed]] = {
    Series._adjoint: _series,
    Parallel._adjoint: _parallel,
    Crossfade._adjoint: _crossfade,
    Stack._adjoint: _stack,
    Knobs._adjoint: _knobs,
    Feedback._adjoint: _feedback,
    DelayStateSpace._adjoint: _delay_state_space,
    Cell._adjoint: _cell,
}

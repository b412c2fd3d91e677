"""Forward-mode derivatives. Oracles: adjoints, which are tested against differences elsewhere; closed forms."""

import numpy as np
import pytest
from all_filters import FILTERS

from rnndsp import (
    Cell,
    Crossfade,
    Feedback,
    Knobs,
    NonFiniteError,
    Parallel,
    ParameterError,
    Residual,
    Stack,
    Stage,
    StateSpace,
    delay,
    gain,
    tangents,
)
from rnndsp.activations import sigmoid, tanh
from rnndsp.filters import GRU, LSTM, Dense, Elman, Taps, TransferFunction
from rnndsp.tangents import jvp, rtrl

N_FRAMES = 21


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def directions(filt, n_frames, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "du": rng.standard_normal((n_frames, filt.n_inputs)),
        "dstate": rng.standard_normal(filt.n_states),
        "dparams": {name: rng.standard_normal(value.shape) for name, value in filt.params.items()},
        "dcontrols": {control.name: rng.standard_normal(n_frames) for control in filt.controls},
    }


def started(filt, n_frames=N_FRAMES):
    """A signal, and a state of some frames before it."""
    u = 0.3 * noise(n_frames + 7, filt.n_inputs)
    return u[7:], filt.run(u[:7])[1]


def scattered(filt, scale=0.5, seed=3):
    """The same filter with random numbers for all its parameters."""
    rng = np.random.default_rng(seed)
    return filt.replace(**{name: scale * rng.standard_normal(value.shape) for name, value in filt.params.items()})


# ---- Jacobian times vector


def check_transpose(filt, u, state, close=1e-12):
    """``<w, J v> = <J' w, v>`` for the whole map from input, state, parameters and controls to output and state."""
    v, rng = directions(filt, len(u)), np.random.default_rng(2)
    found, tape = jvp(filt, u, state=state, **v), filt.tape(u, state)
    np.testing.assert_array_equal(found.y, tape.y)
    assert found.state == tape.state
    wy, wx = rng.standard_normal(tape.y.shape), rng.standard_normal(filt.n_states)
    g = tape.adjoint(wy, wx)
    left = [np.sum(wy * found.dy), wx @ found.dstate]
    right = [np.sum(g.u * v["du"]), g.state @ v["dstate"]]
    for name in ("params", "controls"):
        right += [np.sum(getattr(g, name)[key] * value) for key, value in v[f"d{name}"].items()]
    assert abs(sum(left) - sum(right)) <= close * (sum(map(abs, left)) + sum(map(abs, right)))
    return found


@pytest.mark.parametrize("name", FILTERS)
def test_it_is_the_transpose_of_the_adjoint(name):
    filt = FILTERS[name]()
    check_transpose(filt, *started(filt))


def check_differences(filt):
    """All that may move, not by way of an adjoint."""
    (u, state), h = started(filt), 1e-5
    v = directions(filt, len(u))
    found = jvp(filt, u, state=state, **v)

    def moved(e):
        other = filt.replace(**{name: value + e * v["dparams"][name] for name, value in filt.params.items()})
        start = state.unravel(state.ravel() + e * v["dstate"])
        controls = {control.name: control.default + e * v["dcontrols"][control.name] for control in filt.controls}
        y, end = other.run(u + e * v["du"], start, controls=controls)
        return y, end.ravel()

    for analytic, up, down in zip((found.dy, found.dstate), moved(h), moved(-h), strict=True):
        np.testing.assert_allclose(analytic, (up - down) / (2 * h), atol=1e-8)
    table = rtrl(filt, u, state).params
    for name, along in v["dparams"].items():
        alone = jvp(filt, u, state=state, dparams={name: along})
        np.testing.assert_allclose(np.tensordot(table[name], along, along.ndim), alone.dy, atol=1e-13)


def test_against_differences():
    knobs = Knobs(LSTM(2, 3) >> Dense(3, 1, activation="tanh"), {"drive": 0.5})
    check_differences(Feedback(knobs >> delay(2), -0.4, delay=5))


def _gate(a, r, s, p):
    z = sigmoid(a[0] + r[0] + p[0] * s[1])
    return z * s[0], z, s[1]


def _gate_adjoint(a, r, s, p, d):
    z = sigmoid(a[0] + r[0] + p[0] * s[1])
    g = (d[0] * s[0] + d[1]) * z * (1 - z)
    return (g,), (g,), (d[0] * z, d[2] + g * p[0]), (g * s[1], 0 * g)


def _store(a, r, s, p):
    n = tanh(a[0] + r[0] * p[1])
    c = s[1] * s[2] + (1 - s[1]) * n
    return c * s[1] + n, c


def _store_adjoint(a, r, s, p, d):
    n = tanh(a[0] + r[0] * p[1])
    c = s[1] * s[2] + (1 - s[1]) * n
    dc = d[0] * s[1] + d[1]
    g = (d[0] + dc * (1 - s[1])) * (1 - n * n)
    return (g,), (g * p[1],), (0 * g, d[0] * c + dc * (s[2] - n), dc * s[1]), (0 * g, g * r[0])


class Odd(Cell):
    """Two stages, two vectors, parameters of units, and recurrent sums that act otherwise than those of the input."""

    state_names = ("h", "c")
    unit_params = ("peep", "scale")
    recurrent_bias = True
    stages = (Stage(_gate, _gate_adjoint, n_gates=1, n_out=3), Stage(_store, _store_adjoint, n_gates=1, n_out=2))


@pytest.mark.slow
def test_a_cell_of_ones_own():
    check_differences(scattered(Odd(2, 3, recurrence="diagonal"), 0.7))


class Branching(Cell):
    """A unit that kernels take, and NumPy does not."""

    stages = (
        Stage(
            lambda a, r, s, p: (a[0] if a[0] > r[0] else r[0],),
            lambda a, r, s, p, d: ((d[0],), (0.0,), (0.0,), ()) if a[0] > r[0] else ((0.0,), (d[0],), (0.0,), ()),
            n_gates=1,
            n_out=1,
        ),
    )


def test_units_of_single_numbers_go_by_their_adjoint(monkeypatch):
    """Nothing is compiled here: the adjoint is another's."""
    called = []
    monkeypatch.setattr(tangents, "_by_adjoint", lambda *given: called.append(given[0]) or given[1:4])
    filt = Branching(1, 2)
    tangents._push(filt, np.ones((3, 1)), filt.rest_state(), np.ones((3, 1, 1)), np.zeros((1, 2)), {})
    assert called == [filt]


def test_parts_alone_add_up():
    """Linear in the directions; and what is not given does not move."""
    filt = Residual(GRU(1, 4) >> Dense(4, 1))
    u, state = started(filt)
    v = directions(filt, len(u))
    together = jvp(filt, u, state=state, **v)
    alone = [jvp(filt, u, state=state, **{name: value}) for name, value in v.items()]
    np.testing.assert_allclose(sum(part.dy for part in alone), together.dy, atol=1e-14)
    np.testing.assert_allclose(sum(part.dstate for part in alone), together.dstate, atol=1e-14)
    assert not jvp(filt, u, state=state).dy.any()


def test_one_channel_stays_flat():
    filt, u = Elman(1, 3) >> Dense(3, 1), noise(9)
    flat, wide = jvp(filt, u, du=u), jvp(filt, u[:, None], du=u[:, None])
    assert flat.y.shape == flat.dy.shape == (9,)
    np.testing.assert_array_equal(flat.dy, wide.dy[:, 0])


@pytest.mark.parametrize("make", [FILTERS["series"], FILTERS["oversampled"], FILTERS["feedback nested"]])
def test_pieces_change_nothing(make, monkeypatch):
    filt = make()
    u, state = started(filt)
    v = directions(filt, len(u))
    whole = jvp(filt, u, state=state, **v)
    monkeypatch.setattr(tangents, "PIECE", 40)
    pieces = jvp(filt, u, state=state, **v)
    np.testing.assert_allclose(pieces.dy, whole.dy, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pieces.dstate, whole.dstate, rtol=1e-12, atol=1e-12)


# ---- real-time recurrent learning


def check_rtrl(filt, u, state=None, close=1e-12):
    """As back-propagation through time, output by output and in all; and the state at the end."""
    found, tape = rtrl(filt, u, state), filt.tape(u, state)
    w = noise(*tape.y.shape, seed=4)
    gradient = tape.adjoint(w).params
    online = rtrl(filt, u, state, dloss=lambda t, y: w[t])
    np.testing.assert_array_equal(found.y, tape.y)
    assert set(found.params) == set(filt.params)
    for name, expected in gradient.items():
        size = np.max(np.abs(expected), initial=1e-300)
        np.testing.assert_allclose(np.tensordot(w, found.params[name], 2), expected, atol=close * size)
        np.testing.assert_allclose(online.params[name], expected, atol=close * size)
    row = noise(filt.n_states, seed=5)
    by_state = filt.tape(u, state).adjoint(np.zeros_like(tape.y), row).params
    for name, expected in by_state.items():
        scale = np.max(np.abs(expected), initial=1e-300)
        np.testing.assert_allclose(np.tensordot(row, found.dstate[name], 1), expected, atol=close * scale)
    return found


SMALL = {
    "elman": lambda: Elman(2, 4),
    "elman relu": lambda: Elman(1, 4, activation="relu"),
    "elman identity": lambda: Elman(1, 3, activation="identity", recurrence="diagonal"),
    "elman orthogonal": lambda: Elman(1, 4, recurrence="orthogonal"),
    "elman stable": lambda: Elman(1, 4, recurrence="stable_diagonal"),
    "lstm": lambda: LSTM(2, 3),
    "lstm diagonal": lambda: LSTM(1, 4, recurrence="diagonal"),
    "gru after": lambda: GRU(2, 3),
    "gru before": lambda: GRU(1, 4, reset="before"),
    "gru householder": lambda: GRU(1, 3, recurrence="householder"),
    "dense": lambda: Dense(2, 3, activation="sigmoid"),
    "state space": lambda: StateSpace(np.eye(3), np.eye(3, 2), np.eye(2, 3), np.eye(2)),
    "series": lambda: LSTM(1, 3) >> Dense(3, 2, activation="tanh") >> GRU(2, 2),
    "residual": lambda: Residual(Elman(2, 3) >> Dense(3, 2)),
    "parallel": lambda: Parallel(Elman(1, 3) >> Dense(3, 1), TransferFunction([0.3, 0.2], [1, -0.5])),
    "stack": lambda: Stack(Elman(1, 2), Dense(1, 1)),
    "crossfade": lambda: Crossfade(Elman(1, 2) >> Dense(2, 1), Dense(1, 1), mix=0.3),
    "feedback": lambda: Feedback(Elman(1, 3) >> Dense(3, 1), -0.5, delay=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_rtrl_is_back_propagation(name):
    filt = scattered(SMALL[name]())
    check_rtrl(filt, *started(filt))


def test_rtrl_of_a_resonator():
    """y = a^(t-1) b c for an impulse, whose derivatives are known."""
    a, b, c = 0.8, 0.5, 2.0
    filt, t = StateSpace([[a]], [[b]], [[c]], [[0.0]]), np.arange(1, 30)
    found = rtrl(filt, np.eye(30)[0])
    np.testing.assert_allclose(found.params["A"][1:, 0, 0, 0], (t - 1) * a ** (t - 2.0) * b * c, rtol=1e-13)
    np.testing.assert_allclose(found.params["B"][1:, 0, 0, 0], a ** (t - 1) * c, rtol=1e-13)
    np.testing.assert_allclose(found.params["C"][1:, 0, 0, 0], a ** (t - 1) * b, rtol=1e-13)
    np.testing.assert_array_equal(found.params["D"][:, 0, 0, 0], np.eye(30)[0])
    np.testing.assert_allclose(found.dstate["A"][0, 0, 0], 29 * a**28 * b, rtol=1e-13)


def test_blocks_hand_on_the_sensitivities(monkeypatch):
    filt = LSTM(1, 3) >> Dense(3, 1)
    u = noise(30, 1)
    whole = rtrl(filt, u)
    first = rtrl(filt, u[:11])
    second = rtrl(filt, u[11:], first.state, dstate=first.dstate)
    monkeypatch.setattr(tangents, "PIECE", 1)
    frames = rtrl(filt, u)
    for name, expected in whole.params.items():
        joined = np.concatenate([first.params[name], second.params[name]])
        np.testing.assert_allclose(joined, expected, atol=1e-15)
        np.testing.assert_allclose(frames.params[name], expected, atol=1e-15)
        np.testing.assert_allclose(second.dstate[name], whole.dstate[name], atol=1e-15)


def test_some_parameters_only():
    filt = GRU(1, 3, recurrence="orthogonal") >> Dense(3, 1)
    u = noise(12, 1)
    whole, some = rtrl(filt, u), rtrl(filt, u, only=["1.W", "0.U_skew"])
    assert list(some.params) == ["1.W", "0.U_skew"]
    for name, value in some.params.items():
        np.testing.assert_allclose(value, whole.params[name], atol=1e-15)
    none = rtrl(delay(3), u)
    assert set(none.params) == set(delay(3).params) and rtrl(filt, u, only=[]).params == {}


def test_the_loss_is_told_frame_after_frame():
    """With the error as it comes: the gradient of the squared error."""
    filt, u, target = Elman(1, 3) >> Dense(3, 1), noise(25, 1), noise(25, 1, seed=9)
    seen = []

    def dloss(t, y):
        seen.append(t)
        return 2 * (y - target[t])

    found, tape = rtrl(filt, u, dloss=dloss), filt.tape(u)
    expected = tape.adjoint(2 * (tape.y - target)).params
    assert seen == list(range(25))
    for name, value in found.params.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-13)


# ---- errors


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"du": noise(9, 2)}, r"du has shape \(9, 2\)"),
        ({"dstate": noise(4)}, r"dstate has shape \(4,\)"),
        ({"dparams": {"W": 1.0}}, "unknown parameter 'W'; known are"),
        ({"dparams": {"0.W": 1.0}}, r"dparams\['0.W'\] has shape"),
        ({"dcontrols": {"drive": 1.0}}, "unknown control 'drive'"),
        ({"state": 3}, "not one voice of a state"),
        ({"controls": {"drive": 1.0}}, "unknown controls"),
        ({"u": noise(2, 9, 1)}, "one voice"),
        ({"u": noise(9, 3)}, "3"),
        ({"u": "noise"}, "u="),
        ({"filt": "LSTM"}, "is not a filter"),
    ],
)
def test_bad_directions_are_named(settings, names):
    with pytest.raises(ParameterError, match=names):
        jvp(**{"filt": Elman(1, 3) >> Dense(3, 1), "u": noise(9, 1), **settings})


def test_no_numbers():
    filt, u = Elman(1, 3), noise(9, 1)
    with pytest.raises(NonFiniteError, match="input is nan"):
        jvp(filt, np.full((9, 1), np.nan))
    with pytest.raises(NonFiniteError, match="du holds NaN"):
        jvp(filt, u, du=np.full((9, 1), np.inf))
    loud = StateSpace([[2.0]], [[1.0]], [[1.0]], [[1.0]])
    with pytest.raises(NonFiniteError, match="output"):
        jvp(loud, np.ones((2000, 1)))
    # the state stays at rest, what would change it does not
    with pytest.raises(NonFiniteError, match="derivative is not finite"):
        jvp(loud, np.zeros((2000, 1)), dstate=[1.0])


def test_too_many_parameters():
    with pytest.raises(ParameterError, match=r"4099 parameters.*only="):
        rtrl(Dense(4098, 1), np.zeros((3, 4098)))
    with pytest.raises(ParameterError, match=r"dloss=.*only="):
        rtrl(Dense(1, 1000), np.zeros((100, 1)))
    with pytest.raises(ParameterError, match=r"4066 states.*adjoint"):
        jvp(Taps([4002], [[[1.0]]]), np.zeros(3), dparams={"gains": [[[1.0]]]})
    with pytest.raises(ParameterError, match=r"unknown parameters \['U'\]"):
        rtrl(Dense(2, 1), np.zeros((3, 2)), only=["U"])
    with pytest.raises(ParameterError, match="dstate has the names"):
        rtrl(Elman(1, 2), np.zeros((3, 1)), dstate={})
    with pytest.raises(ParameterError, match="dloss at frame 0"):
        rtrl(gain(1.0), np.zeros((3, 1)), dloss=lambda t, y: [1.0, 2.0])

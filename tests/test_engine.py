"""The engine. Oracles: NumPy loops of each cell's equations, the linear limit, orthogonality, differences."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from rnndsp import ParameterError, StateSpace
from rnndsp.filters import GRU, LSTM, Dense, Elman

RNG = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman_loop(f, u):
    h, out = np.zeros(f.n_units), []
    for frame in u:
        h = np.tanh(f.params["W"] @ frame + f.U @ h + f.params["b"])
        out.append(h)
    return np.array(out)


def lstm_loop(f, u):
    h = c = np.zeros(f.n_units)
    out = []
    for frame in u:
        i, forget, g, o = np.split(f.params["W"] @ frame + f.U @ h + f.params["b"], 4)
        c = sigmoid(forget) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def gru_loop(f, u):
    h, out = np.zeros(f.n_units), []
    for frame in u:
        a_r, a_z, a_n = np.split(f.params["W"] @ frame + f.params["b"], 3)
        U_r, U_z, U_n = np.split(f.U, 3)
        b_r, b_z, b_n = np.split(f.params["b_rec"], 3)
        r, z = sigmoid(a_r + U_r @ h + b_r), sigmoid(a_z + U_z @ h + b_z)
        recurrent = r * (U_n @ h + b_n) if f.config["reset"] == "after" else U_n @ (r * h) + b_n
        n = np.tanh(a_n + recurrent)
        h = (1 - z) * n + z * h
        out.append(h)
    return np.array(out)


def shaken(f):
    """With random biases, which start at zero."""
    return f.replace(**{k: 0.5 * RNG.standard_normal(v.shape) for k, v in f.params.items() if k.startswith("b")})


@pytest.mark.parametrize("n_units", [1, 2, 7, 8, 9, 16, 33])
@pytest.mark.parametrize("n_inputs", [1, 3, 10])
@pytest.mark.parametrize(
    ("make", "loop"),
    [
        (Elman, elman_loop),
        (LSTM, lstm_loop),
        (lambda d, n: GRU(d, n, reset="after"), gru_loop),
        (lambda d, n: GRU(d, n, reset="before"), gru_loop),
    ],
    ids=["elman", "lstm", "gru after", "gru before"],
)
def test_numpy_loop(make, loop, n_inputs, n_units):
    f = shaken(make(n_inputs, n_units))
    u = RNG.standard_normal((60, n_inputs))
    np.testing.assert_allclose(f(u), loop(f, u), atol=1e-13)
    np.testing.assert_allclose(f(u.astype(np.float32)), loop(f, u), atol=3e-6)


@pytest.mark.parametrize("cell", [Elman, LSTM, GRU, lambda *a, **k: GRU(*a, reset="before", **k)])
def test_diagonal_recurrence_is_the_dense_one_with_diagonal_blocks(cell):
    diagonal = shaken(cell(2, 5, recurrence="diagonal"))
    blocks = np.concatenate([np.diag(d) for d in diagonal.U.reshape(-1, 5)])
    dense = cell(2, 5).replace(**{**diagonal.params, "U": blocks})
    u = RNG.standard_normal((80, 2))
    np.testing.assert_allclose(diagonal(u), dense(u), atol=1e-14)
    w = RNG.standard_normal((80, 5))
    a, b = diagonal.tape(u).adjoint(w), dense.tape(u).adjoint(w)
    expected = np.concatenate([np.diag(d) for d in b.params["U"].reshape(-1, 5, 5)])
    np.testing.assert_allclose(a.params["U"], expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_orthogonal_recurrence(n):
    f = LSTM(1, n, recurrence="orthogonal", seed=3)
    for U in f.U.reshape(4, n, n):
        np.testing.assert_allclose(U @ U.T, np.eye(n), atol=1e-13)
    # the map stays orthogonal wherever training moves the free parameters
    moved = f.replace(U_skew=f.params["U_skew"] + 3 * RNG.standard_normal(f.params["U_skew"].shape))
    np.testing.assert_allclose(moved.U[:n] @ moved.U[:n].T, np.eye(n), atol=1e-12)


def test_linear_limit():
    """With an identity unit a cell is x+ = U x + W u, y = x+: the state space (U, W, U, W)."""
    f = Elman(2, 6, activation="identity")
    U, W = f.U, f.params["W"]
    u = RNG.standard_normal((200, 2))
    np.testing.assert_allclose(f(u), StateSpace(U, W, U, W)(u), rtol=1e-12, atol=1e-14)
    assert f.is_linear
    assert not f.replace(b=np.ones(6)).is_linear
    np.testing.assert_allclose(sorted(np.abs(f.poles())), sorted(np.abs(np.linalg.eigvals(U))), atol=1e-12)


def test_small_signals_follow_the_linearisation():
    f = shaken(LSTM(1, 6))
    _, state = f.run(RNG.standard_normal(50))
    linear = f.linearize(state, [0.2])
    y0, end = f.run([0.2], state)
    for size in (1e-3, 1e-4):
        y, _ = f.run([0.2 + size], state)
        assert np.max(np.abs(y - y0 - size * linear.D.T)) < 0.2 * size**2 * 10
    assert linear.n_states == end.size


def test_a_bad_recurrence_or_size_is_refused():
    for bad in ({"recurrence": "sparse"}, {"n_units": 0}, {"n_units": 2.5}, {"n_inputs": True}):
        with pytest.raises(ParameterError):
            LSTM(**{"n_inputs": 1, "n_units": 4, **bad})
    with pytest.raises(ParameterError, match="activation"):
        Elman(1, 2, activation="selu")
    with pytest.raises(ParameterError, match="reset"):
        GRU(1, 2, reset="during")


def test_seed():
    assert LSTM(1, 8, seed=4) == LSTM(1, 8, seed=4)
    assert LSTM(1, 8, seed=4) != LSTM(1, 8, seed=5)


def test_jacobians_along_a_trajectory_are_those_of_each_frame():
    f = shaken(GRU(2, 5, reset="before"))
    u = RNG.standard_normal((20, 2))
    J, B = f.jacobians(u, f.rest_state())
    state = f.rest_state()
    for t in range(20):
        linear = f.linearize(state, u[t])
        np.testing.assert_allclose(J[t], linear.A, atol=1e-14)
        np.testing.assert_allclose(B[t], linear.B, atol=1e-14)
        _, state = f.run(u[t : t + 1], state)


@pytest.mark.parametrize("voices", [(), (16,)])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: f >> Dense(8, 1)], ids=["bare", "in a series"])
def test_a_swap_to_a_cell_that_needs_more_room(wrap, voices):
    """Both cells have one field h, but the rows of the new one's loop are longer."""
    u = RNG.standard_normal((*voices, 40, 1)).astype(np.float32)
    stream = wrap(Elman(1, 8)).stream(voices=voices)
    stream.process(u)
    state, gru = stream.state, wrap(GRU(1, 8, reset="before"))
    stream.swap(gru)
    assert np.array_equal(stream.process(u), gru.run(u, state)[0])


@pytest.mark.parametrize("shape", [(0, 2), (0, 5, 2), (3, 0, 2)])
@pytest.mark.parametrize("cell", [LSTM(2, 8), GRU(2, 3, reset="before")])
def test_no_frames_and_no_voices(cell, shape):
    tape = cell.tape(np.zeros(shape))
    assert tape.y.shape == (*shape[:-1], cell.n_units)
    gradient = tape.adjoint(np.zeros(tape.y.shape))
    assert gradient.u.shape == shape and not any(np.any(g) for g in gradient.params.values())
    assert cell.jacobians(np.zeros((0, 2)), cell.rest_state())[0].shape == (0, cell.n_states, cell.n_states)


ONE = Elman(1, 1)._chain[0]


@pytest.mark.parametrize(
    ("stages", "error", "said"),
    [
        ((ONE,) * 3, ParameterError, "one or two"),
        ((ONE._replace(n_out=2),), ParameterError, "n_out=2"),
        ((ONE._replace(unit=lambda a, r, s, p: (a[0], r[0])),), TypingError, "returned 2 values"),
        ((ONE._replace(unit=lambda a, r, s, p: ()),), TypingError, "returned 0 values"),
    ],
)
def test_stages_that_do_not_fit(stages, error, said, monkeypatch):
    monkeypatch.setattr(Elman, "_stages", classmethod(lambda cls, config: stages))
    with pytest.raises(error, match=said):
        Elman(1, 3)(np.zeros(4))

"""Parametrisations of the recurrent matrix. Oracles: closed forms, central differences, eigenvalues, training."""

import numpy as np
import pytest

from rnndsp import ParameterError, fit, load
from rnndsp.filters import GRU, LSTM, Dense, Elman
from rnndsp.recurrence import BELOW_ONE, RECURRENCES, recurrence, shrunk, shrunk_adjoint
from rnndsp.stability import Verdict
from rnndsp.training import evaluate, squared

SIZES = [1, 2, 3, 6]


def blocks(name, free, n):
    """The square matrix of every gate."""
    U = recurrence(name).matrix(free, n)
    return U.reshape(-1, n, n) if U.ndim == 2 else np.array([np.diag(row) for row in U.reshape(-1, n)])


def wandering(name, n, n_gates=2, trials=30, size=3.0):
    """Free parameters near the start, and far off where training may carry them."""
    rng = np.random.default_rng(n)
    kind = recurrence(name)
    for k in range(trials):
        free = kind.initial(n_gates, n, rng)
        yield free + size * k / trials * rng.standard_normal(free.shape)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", RECURRENCES)
def test_adjoint_against_central_differences(name, n):
    rng = np.random.default_rng(n)
    kind = recurrence(name)
    free = kind.initial(3, n, rng)
    assert free.shape == kind.shape(3, n)
    free = free + 0.3 * rng.standard_normal(free.shape)
    G = rng.standard_normal(kind.matrix(free, n).shape)
    numeric = np.zeros(free.shape)
    for place in np.ndindex(free.shape):
        step = np.zeros(free.shape)
        step[place] = 1e-5
        up, down = (np.sum(G * kind.matrix(free + sign * step, n)) for sign in (1, -1))
        numeric[place] = (up - down) / 2e-5
    np.testing.assert_allclose(kind.adjoint(free, n, G), numeric, rtol=1e-7, atol=2e-9)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ["orthogonal", "householder"])
def test_orthogonal(name, n):
    for free in wandering(name, n):
        for U in blocks(name, free, n):
            np.testing.assert_allclose(U @ U.T, np.eye(n), atol=1e-12)
            determinant = 1 if name == "orthogonal" else (-1) ** n
            np.testing.assert_allclose(np.linalg.det(U), determinant, atol=1e-12)


def test_householder_against_the_product_written_out():
    v, w = np.array([[3.0, 4.0], [1.0, -2.0]])
    H, K = (np.eye(2) - 2 * np.outer(a, a) / (a @ a) for a in (v, w))
    np.testing.assert_allclose(recurrence("householder").matrix(np.array([[v, w]]), 2), H @ K, atol=1e-15)
    # a vector of zeros is no mirror, and stays where it is
    free = np.array([[v, 0 * w]])
    np.testing.assert_allclose(recurrence("householder").matrix(free, 2), H, atol=1e-15)
    assert not np.any(recurrence("householder").adjoint(free, 2, np.eye(2))[0, 1])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ["stable_diagonal", "oscillating"])
def test_eigenvalues_inside_the_circle_and_a_normal_matrix(name, n):
    for free in (*wandering(name, n), *wandering(name, n, size=1e3), *wandering(name, n, size=1e17)):
        for U in blocks(name, free, n):
            assert np.max(np.abs(np.linalg.eigvals(U))) < 1 - 5e-7
            assert np.linalg.norm(U.astype(np.float32).astype(float), 2) < 1 - 5e-7


def test_oscillating_has_the_modes_it_is_given():
    r, theta = np.array([0.9, 0.5, 0.8]), np.array([0.3, 2.0])
    free = np.concatenate([np.log(-np.log(r)), theta])[None]
    found = np.linalg.eigvals(recurrence("oscillating").matrix(free, 5))
    pairs = r[:2] * np.exp(1j * theta)
    expected = np.concatenate([pairs, pairs.conj(), r[2:]]) * BELOW_ONE
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(expected), atol=1e-12)
    # a lone unit's impulse response is r^t cos(θ t), times W
    f = Elman(1, 2, activation="identity", recurrence="oscillating")
    f = f.replace(U_modes=[[np.log(-np.log(0.9)), 0.3]], W=[[1.0], [0.0]])
    t = np.arange(50)
    expected = (0.9 * BELOW_ONE) ** t * np.cos(0.3 * t)
    np.testing.assert_allclose(f(np.eye(1, 50)[0])[:, 0], expected, atol=1e-13)


def test_antisymmetric_and_eulers_step():
    """Chang et al. 2019: all real parts are -γ, and h + ε U h is stable exactly up to ε = 2γ / (γ² + ω²)."""
    for free in wandering("antisymmetric", 5, size=1.0):
        for row, U in zip(free, blocks("antisymmetric", free, 5), strict=True):
            gamma, values = np.exp(row[0]), np.linalg.eigvals(U)
            np.testing.assert_allclose(values.real, -gamma, atol=1e-12)
            limit = np.min(2 * gamma / (gamma**2 + values.imag**2))
            for factor, stable in ((1 - 1e-9, True), (1 + 1e-9, False)):
                assert (np.max(np.abs(1 + factor * limit * values)) <= 1) == stable


@pytest.mark.parametrize("n", SIZES)
def test_contracting_by_its_own_scaling(n):
    kind = RECURRENCES["contracting"]
    over = 0
    for free in (*wandering("contracting", n), *wandering("contracting", n, size=50.0)):
        for d, U in zip(kind.scaling(free), blocks("contracting", free, n), strict=True):
            assert np.linalg.norm(d[:, None] * U / d, 2) < 1 - 5e-7
            over += np.linalg.norm(U, 2) > 1
    assert over or n == 1  # the scaling is needed


def test_every_scaled_contraction_can_be_reached():
    rng = np.random.default_rng(0)
    for n in SIZES:
        Q, delta = rng.standard_normal((n, n)), rng.standard_normal(n)
        Q *= 0.95 / np.linalg.norm(Q, 2)
        W, s, V = np.linalg.svd(Q / BELOW_ONE)
        free = np.vstack([W * (s / np.sqrt(1 - s**2)) @ V, delta])[None]
        wanted = np.diag(np.exp(-delta)) @ Q @ np.diag(np.exp(delta))
        np.testing.assert_allclose(recurrence("contracting").matrix(free, n), wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 2), (4, 4)])
def test_shrunk_is_the_matrix_function_also_where_singular_values_meet(shape):
    rng = np.random.default_rng(1)
    m, n = shape
    for X in (rng.standard_normal(shape), np.eye(m, n), np.zeros(shape), 1e-9 * rng.standard_normal(shape)):
        values, vectors = np.linalg.eigh(np.eye(n) + X.T @ X)
        np.testing.assert_allclose(shrunk(X), X @ (vectors / np.sqrt(values)) @ vectors.T, atol=1e-14)
        G, E = rng.standard_normal((2, *shape))
        numeric = np.sum(G * (shrunk(X + 1e-5 * E) - shrunk(X - 1e-5 * E))) / 2e-5
        np.testing.assert_allclose(np.sum(shrunk_adjoint(X, G) * E), numeric, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", ["stable_diagonal", "oscillating", "contracting"])
def test_elman_is_certified_by_construction(name, activation):
    for seed in range(20):
        cell = Elman(1, 6, activation=activation, recurrence=name, seed=seed)
        assert cell.stability()["contraction"].verdict == Verdict.PROVED
    assert Elman(1, 6, recurrence="orthogonal").stability()["contraction"].verdict != Verdict.PROVED


def test_elman_contracts_in_the_norm_of_its_scaling():
    """Random cells far from the start, from two states on the same input: never further apart than before."""
    rng = np.random.default_rng(2)
    kind = RECURRENCES["contracting"]
    for activation in ("tanh", "relu"):
        for free in wandering("contracting", 4, n_gates=1):
            cell = Elman(1, 4, activation=activation, recurrence="contracting").replace(U_contraction=free)
            (d,) = kind.scaling(free)
            assert cell.stability()["contraction"].verdict == Verdict.PROVED
            start = cell.rest_state((2,)).unravel(rng.standard_normal((2, 4)))
            distance = [np.linalg.norm(d * np.subtract(*start.h))]
            for frame in rng.standard_normal((30, 1, 1, 1)):
                _, start = cell.run(np.broadcast_to(frame[0], (2, 1, 1)), start)
                distance.append(np.linalg.norm(d * np.subtract(*start.h)))
            assert np.all(np.diff(distance) <= 1e-15)


@pytest.mark.parametrize("name", ["householder", "stable_diagonal", "oscillating", "antisymmetric", "contracting"])
def test_every_cell_takes_it_trains_and_comes_back_from_a_file(name, tmp_path):
    truth = Elman(1, 1, activation="identity").replace(W=[[0.5]], U=[[0.6]])
    pairs = [(u, truth(u)) for u in 0.5 * np.random.default_rng(0).standard_normal((8, 40, 1))]
    filt = Elman(1, 6, recurrence=name) >> Dense(6, 1)
    found = fit(filt, pairs, squared, n_epochs=80, rate=0.03)
    assert evaluate(found.filter, pairs, squared) < 0.2 * evaluate(filt, pairs, squared)
    free = f"0.{recurrence(name).param}"
    assert not np.array_equal(found.filter.params[free], filt.params[free])
    cells = [LSTM(2, 4, recurrence=name), GRU(2, 5, reset="before", recurrence=name), found.filter]
    for place, cell in enumerate(cells):
        path = tmp_path / f"{place}.safetensors"
        cell.save(path)
        assert load(path) == cell


def test_errors_name_what_is_wrong():
    with pytest.raises(ParameterError, match=r"recurrence='sparse': choose one of .*antisymmetric.*stable_diagonal"):
        Elman(1, 3, recurrence="sparse")
    for name, size in (("orthogonal", 1e300), ("antisymmetric", 800.0), ("contracting", 9e3)):
        cell = Elman(1, 3, recurrence=name)
        param = cell._recurrence.param
        shape = cell.params[param].shape
        huge = cell.replace(**{param: np.linspace(size, -size, np.prod(shape)).reshape(shape)})
        with pytest.raises(ParameterError, match=f"{param} holds numbers up to .*too large"):
            huge(np.ones(3))
    with pytest.raises(ParameterError, match="U_modes has shape"):
        Elman(1, 3, recurrence="oscillating").replace(U_modes=np.zeros((1, 4)))

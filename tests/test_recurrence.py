"""Parametrisations of the recurrent matrix. Oracles: closed forms, central differences, eigenvalues, training."""

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import least_squares

from rnndsp import ParameterError, fit, load
from rnndsp.filters import GRU, LSTM, Dense, Elman
from rnndsp.losses import squared
from rnndsp.recurrence import BELOW_ONE, RECURRENCES, recurrence, shrunk, shrunk_adjoint
from rnndsp.stability import Verdict
from rnndsp.training import evaluate

SIZES = [1, 2, 3, 6]
# Determinant of those that are orthogonal, by the number of units.
ORTHOGONAL = {
    "orthogonal": lambda n: 1,
    "householder": lambda n: (-1) ** n,
    "cayley": lambda n: (-1) ** (n // 2),
    "givens": lambda n: 1,
    "givens:1": lambda n: 1,
    "butterfly": lambda n: 1,
    "urnn": lambda n: 1,
    "full_capacity": lambda n: None,
}
FORMS = [*RECURRENCES, "givens:1"]


def sized(names):
    """Names with the sizes that they have."""
    return [(name, n) for name in names for n in SIZES if name != "urnn" or n % 2 == 0]


def blocks(name, free, n):
    """The square matrix of every gate."""
    U = recurrence(name).matrix(free, n)
    return U.reshape(-1, n, n) if U.ndim == 2 else np.array([np.diag(row) for row in U.reshape(-1, n)])


def haar(n, rng, count):
    """Random orthogonal matrices."""
    for _ in range(count):
        Q, R = np.linalg.qr(rng.standard_normal((n, n)))
        yield Q * np.sign(np.diag(R))


def wandering(name, n, n_gates=2, trials=30, size=3.0):
    """Free parameters near the start, and far off where training may carry them."""
    rng = np.random.default_rng(n)
    kind = recurrence(name)
    for k in range(trials):
        free = kind.initial(n_gates, n, rng)
        yield free + size * k / trials * rng.standard_normal(free.shape)


@pytest.mark.parametrize(("name", "n"), sized(FORMS))
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


@pytest.mark.parametrize(("name", "n"), sized(ORTHOGONAL))
def test_orthogonal(name, n):
    for free in (*wandering(name, n), *wandering(name, n, size=1e6)):
        for U in blocks(name, free, n):
            np.testing.assert_allclose(U @ U.T, np.eye(n), atol=1e-13)
            determinant = ORTHOGONAL[name](n) or np.sign(np.linalg.det(U))
            np.testing.assert_allclose(np.linalg.det(U), determinant, atol=1e-13)


def test_number_of_free_parameters():
    for name, sizes in {
        "orthogonal": {1: 0, 6: 15, 9: 36},
        "householder": {1: 1, 6: 36},
        "cayley": {1: 0, 6: 15, 9: 36},
        "givens": {1: 0, 2: 1, 6: 15, 9: 36},
        "givens:4": {4: 6, 6: 10, 9: 16},
        "butterfly": {1: 0, 2: 1, 8: 12, 64: 192, 6: 7},
        "urnn": {2: 7, 6: 21, 64: 224},
        "full_capacity": {1: 1, 6: 36},
    }.items():
        for n, count in sizes.items():
            free = recurrence(name).initial(3, n, np.random.default_rng(0))
            assert free.shape == recurrence(name).shape(3, n) and free.size == 3 * count


@pytest.mark.parametrize("n", [2, 3, 6])
def test_exponential_and_cayley_against_their_definition(n):
    for name in ("orthogonal", "cayley"):
        for free in wandering(name, n, n_gates=1, size=1.0):
            S = np.zeros((n, n))
            S[np.tril_indices(n, -1)] = free[0]
            S -= S.T
            one, signs = np.eye(n), np.diag([1.0, -1.0] * n)[:n, :n]
            wanted = expm(S) if name == "orthogonal" else np.linalg.solve(one + S, one - S) @ signs
            np.testing.assert_allclose(recurrence(name).matrix(free, n), wanted, atol=1e-12)


def test_cayley_reaches_what_it_claims():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        signs = np.diag([1.0, -1.0] * n)[:n, :n]
        for Q in haar(n, rng, 20):
            if np.linalg.det(Q) * np.linalg.det(signs) < 0:
                Q[0] *= -1
            Y = Q @ signs
            S = np.linalg.solve(np.eye(n) + Y, np.eye(n) - Y)
            free = S[np.tril_indices(n, -1)][None]
            np.testing.assert_allclose(recurrence("cayley").matrix(free, n), Q, atol=1e-10)
    # -1 is an eigenvalue of U wherever there is a -1 in the signs to begin with
    assert np.min(np.abs(np.linalg.eigvals(recurrence("cayley").matrix(np.zeros((1, 6)), 4)) + 1)) < 1e-15


def test_full_capacity_reaches_every_orthogonal_matrix_and_takes_the_nearest():
    rng = np.random.default_rng(1)
    kind = recurrence("full_capacity")
    for Q in (*haar(4, rng, 10), -np.eye(4), np.diag([1.0, 1, 1, -1])):
        np.testing.assert_allclose(kind.matrix(Q[None], 4), Q, atol=1e-14)
        G = rng.standard_normal((4, 4))
        # half of the gradient on the manifold, G - Q G^T Q (Wisdom et al. 2016)
        np.testing.assert_allclose(kind.adjoint(Q[None], 4, G)[0], (G - Q @ G.T @ Q) / 2, atol=1e-14)
        X = Q + 0.3 * rng.standard_normal((4, 4))
        nearest = np.linalg.norm(X - kind.matrix(X[None], 4))
        assert all(nearest <= np.linalg.norm(X - other) for other in haar(4, rng, 50))
    # where none is nearest, one is taken, and nothing is divided by zero
    for X in (np.zeros((4, 4)), np.diag([1.0, 1, 0, 0])):
        U = kind.matrix(X[None], 4)
        np.testing.assert_allclose(U @ U.T, np.eye(4), atol=1e-14)
        assert np.isfinite(kind.adjoint(X[None], 4, np.ones((4, 4)))).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_n_layers_of_givens_reach_every_rotation(n):
    """As Clements et al. 2016 show by taking a matrix apart; here the angles are searched."""
    rng = np.random.default_rng(n)
    kind = recurrence("givens")
    for Q in haar(n, rng, 10):
        Q[0] *= np.linalg.det(Q)
        best = np.inf
        for _ in range(20):
            found = least_squares(
                lambda x, Q=Q: (kind.matrix(x[None], n) - Q).ravel(), kind.initial(1, n, rng)[0], xtol=1e-15, ftol=1e-15
            )
            best = min(best, np.max(np.abs(found.fun)))
            if best < 1e-7:
                break
        assert best < 1e-7


def test_layers_of_rotations_written_out():
    def turn(n, i, j, angle):
        R = np.eye(n)
        R[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return R

    a = np.random.default_rng(0).uniform(-3, 3, 6)
    wanted = turn(4, 1, 2, a[5]) @ turn(4, 0, 1, a[3]) @ turn(4, 2, 3, a[4]) @ turn(4, 1, 2, a[2])
    wanted = wanted @ turn(4, 0, 1, a[0]) @ turn(4, 2, 3, a[1])
    np.testing.assert_allclose(recurrence("givens").matrix(a[None], 4), wanted, atol=1e-15)
    two = recurrence("givens:2").matrix(a[None, :3], 4)
    np.testing.assert_allclose(two, turn(4, 1, 2, a[2]) @ turn(4, 0, 1, a[0]) @ turn(4, 2, 3, a[1]), atol=1e-15)
    wanted = turn(4, 0, 2, a[2]) @ turn(4, 1, 3, a[3]) @ turn(4, 0, 1, a[0]) @ turn(4, 2, 3, a[1])
    np.testing.assert_allclose(recurrence("butterfly").matrix(a[None, :4], 4), wanted, atol=1e-15)


def test_who_meets_whom():
    rng = np.random.default_rng(3)
    for n in (8, 16):
        free = recurrence("butterfly").initial(1, n, rng)
        assert np.all(recurrence("butterfly").matrix(free, n))
        distance = np.abs(np.arange(n) - np.arange(n)[:, None])
        for layers in (1, 3, n):
            kind = recurrence(f"givens:{layers}")
            band = kind.matrix(kind.initial(1, n, rng), n)
            assert not np.any(band[distance > layers])
            assert layers < n or np.all(band)


def test_urnn_against_the_product_written_out():
    """Arjovsky et al. 2016, with complex matrices; then as many units act on real and imaginary parts."""
    m = 5
    kind = recurrence("urnn")
    for free in wandering("urnn", 2 * m, n_gates=1):
        theta, v = free[0, :3], free[0, 3:5] + 1j * free[0, 5:]
        F = np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(m)) / m) / np.sqrt(m)
        D = [np.diag(np.exp(1j * t)) for t in theta]
        R = [np.eye(m) - 2 * np.outer(w, w.conj()) / (w.conj() @ w) for w in v]
        permutation = np.eye(m)[kind._order(m)]
        W = D[2] @ R[1] @ F.conj().T @ D[1] @ permutation @ R[0] @ F @ D[0]
        U = kind.matrix(free, 2 * m)
        h = np.random.default_rng(0).standard_normal(2 * m)
        after = W @ (h[:m] + 1j * h[m:])
        np.testing.assert_allclose(U @ h, np.concatenate([after.real, after.imag]), atol=1e-13)
    for m in (1, 2, 9, 300):
        order = kind._order(m)
        assert sorted(order) == list(range(m)) and (m < 3 or np.any(np.diff(order) != 1))
    # vectors of zeros are no mirrors, and stay where they are
    free[0, 3:] = 0
    assert np.isfinite(kind.matrix(free, 10)).all() and not np.any(kind.adjoint(free, 10, np.eye(10))[0, 3:])


def test_a_loop_of_any_of_them_keeps_its_energy():
    """A linear cell in silence, 100,000 samples."""
    for name in ORTHOGONAL:
        cell = Elman(1, 4, activation="identity", recurrence=name, seed=1)
        _, state = cell.run(np.ones(3))
        _, after = cell.run(np.zeros(100_000), state)
        assert np.sum(after.ravel() ** 2) == pytest.approx(np.sum(state.ravel() ** 2), rel=1e-9)


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


@pytest.mark.parametrize(
    "name",
    [
        *("householder", "stable_diagonal", "oscillating", "antisymmetric", "contracting"),
        *("cayley", "givens", "givens:2", "butterfly", "urnn", "full_capacity"),
    ],
)
def test_every_cell_takes_it_trains_and_comes_back_from_a_file(name, tmp_path):
    truth = Elman(1, 1, activation="identity").replace(W=[[0.5]], U=[[0.6]])
    pairs = [(u, truth(u)) for u in 0.5 * np.random.default_rng(0).standard_normal((8, 40, 1))]
    filt = Elman(1, 6, recurrence=name) >> Dense(6, 1)
    found = fit(filt, pairs, squared, n_epochs=80, rate=0.03)
    assert evaluate(found.filter, pairs, squared) < 0.2 * evaluate(filt, pairs, squared)
    free = f"0.{recurrence(name).param}"
    assert not np.array_equal(found.filter.params[free], filt.params[free])
    cells = [LSTM(2, 4, recurrence=name), GRU(2, 4, reset="before", recurrence=name), found.filter]
    for place, cell in enumerate(cells):
        path = tmp_path / f"{place}.safetensors"
        cell.save(path)
        assert load(path) == cell


def test_errors_name_what_is_wrong():
    with pytest.raises(ParameterError, match=r"recurrence='sparse': choose one of .*antisymmetric.*stable_diagonal"):
        Elman(1, 3, recurrence="sparse")
    for name, size in (("orthogonal", 1e300), ("cayley", 1e10), ("antisymmetric", 800.0), ("contracting", 9e3)):
        cell = Elman(1, 3, recurrence=name)
        param = cell._recurrence.param
        shape = cell.params[param].shape
        huge = cell.replace(**{param: np.linspace(size, -size, np.prod(shape)).reshape(shape)})
        with pytest.raises(ParameterError, match=f"{param} holds numbers up to .*too large"):
            huge(np.ones(3))
    for name in ("givens:0", "givens:-1", "givens:", "givens:2.5", "givens:²", "butterfly:2", "cayley:", 3, None):
        with pytest.raises(ParameterError, match=r"choose one of .*, or 'givens:4' for 4 layers"):
            Elman(1, 4, recurrence=name)
    with pytest.raises(ParameterError, match=r"givens:9999999999.*: 4 layers reach every rotation of 4 units"):
        Elman(1, 4, recurrence="givens:9999999999")
    with pytest.raises(ParameterError, match="takes units in pairs, real and imaginary parts: not 5"):
        Elman(1, 5, recurrence="urnn")
    with pytest.raises(ParameterError, match="U_modes has shape"):
        Elman(1, 3, recurrence="oscillating").replace(U_modes=np.zeros((1, 4)))

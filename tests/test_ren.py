"""Recurrent equilibrium networks. Oracles: the equations in NumPy, closed forms, the linear limit, differences."""

import itertools

import numpy as np
import pytest
from scipy import signal

from rnndsp import ParameterError, StateSpace, fit, load
from rnndsp.filters import REN, Dense
from rnndsp.losses import squared
from rnndsp.stability import Boundedness, Verdict
from rnndsp.training import evaluate

RNG = np.random.default_rng(0)
PHI = {
    "identity": lambda v: v,
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
}


def shaken(filt, seed=0, size=0.5):
    """With all parameters moved, the biases and D22 too, which start at zero."""
    rng = np.random.default_rng(seed)
    return filt.replace(**{k: v + size * rng.standard_normal(v.shape) for k, v in filt.params.items()})


def small(activation="tanh", seed=0, **settings):
    return shaken(REN(2, 3, n_states=4, n_units=5, activation=activation, seed=seed, **settings), seed)


def slow_loop(f, u, x):
    M, phi, out = f.matrices, PHI[f.config["activation"]], []
    for frame in u:
        w = np.zeros(f.n_units)
        for i in range(f.n_units):
            w[i] = phi(M["C1"][i] @ x + M["D11"][i, :i] @ w[:i] + M["D12"][i] @ frame + M["b_v"][i])
        out.append(M["C2"] @ x + M["D21"] @ w + M["D22"] @ frame + M["b_y"])
        x = M["A"] @ x + M["B1"] @ w + M["B2"] @ frame + M["b_x"]
    return np.array(out), x


def distance(f, difference):
    return np.sqrt(np.einsum("...i,ij,...j", difference, f.metric, difference))


# ---- the filter


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 2, 16, 16), (5, 1, 3, 33), (1, 9, 17, 2)])
@pytest.mark.parametrize("activation", PHI)
def test_numpy_loop(activation, sizes):
    k, p, n, m = sizes
    f = shaken(REN(k, p, n_states=n, n_units=m, activation=activation), size=0.2)
    # voices alone, side by side, and some of both
    for voices in (1, 3, 16, 21):
        u = RNG.standard_normal((voices, 40, k))
        start = f.rest_state((voices,)).unravel(RNG.standard_normal((voices, n)))
        y, end = f.run(u, start)
        for voice in {0, voices - 1}:
            expected, x = slow_loop(f, u[voice], start.x[voice])
            np.testing.assert_allclose(y[voice], expected, atol=2e-12)
            np.testing.assert_allclose(end.x[voice], x, atol=2e-12)
    np.testing.assert_allclose(f(u.astype(np.float32)), f(u), atol=1e-4)
    assert np.array_equal(f.tape(u).y, f(u))


def test_closed_form():
    """n = m = 1 with X upper triangular: the numbers that follow, by hand."""
    X, y, rate = np.array([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [0.0, 0.0, 2.0]]), [[0.3]], 0.5
    f = REN(1, 1, n_states=1, n_units=1, rate=rate).replace(X=X, Y=y, B2=[[0.7]], D12=[[0.4]])
    eps = 1e-6 * (1 + (1 + 5 + 5.25) / 3)
    h11, h22, p, h21, h31, h32 = 1 + eps, 5 + eps, 5.25 + eps, 2.0, 0.5, 0.0
    e, scale = (h11 + 4 * p) / 2, h22 / 2
    expected = {"A": h31 / e, "B1": h32 / e, "B2": 0.7 / e, "C1": -h21 / scale, "D11": 0.0, "D12": 0.4 / scale}
    for name, value in expected.items():
        np.testing.assert_allclose(f.matrices[name], [[value]], rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(f.metric, [[e**2 / p]], rtol=1e-14)
    assert f.matrices["A"][0, 0] ** 2 < rate**2
    for h in (-32 / 7, 0.0, 9.0):  # of x+ = a x + b tanh(c x): the slope stays within the rate
        assert abs(f.linearize(f.rest_state().unravel(np.array([h]))).A[0, 0]) < rate


def test_d11_is_strictly_lower_triangular_and_h_is_what_it_is_made_of():
    f = small(rate=0.9)
    M, (n, m) = f.matrices, (4, 5)
    H = f.params["X"].T @ f.params["X"]
    H += 1e-6 * (1 + np.trace(H) / len(H)) * np.eye(len(H))
    assert not np.any(np.triu(M["D11"]))
    scale = np.diag(H)[n : n + m] / 2
    E = (H[:n, :n] + H[n + m :, n + m :] / 0.81 + f.params["Y"] - f.params["Y"].T) / 2
    W = np.diag(2 * scale) - scale[:, None] * M["D11"] - (scale[:, None] * M["D11"]).T
    np.testing.assert_allclose(W, H[n : n + m, n : n + m], atol=1e-13)
    np.testing.assert_allclose(E @ M["A"], H[n + m :, :n], atol=1e-13)
    np.testing.assert_allclose(E @ M["B1"], H[n + m :, n : n + m], atol=1e-13)
    np.testing.assert_allclose(-scale[:, None] * M["C1"], H[n : n + m, :n], atol=1e-13)
    np.testing.assert_allclose(E @ M["B2"], f.params["B2"], atol=1e-13)


def test_linear_limit():
    f = REN(2, 3, n_states=4, n_units=5, activation="identity")
    M, (u,) = f.matrices, RNG.standard_normal((1, 300, 2))
    loop = np.linalg.inv(np.eye(5) - M["D11"])
    A, B = M["A"] + M["B1"] @ loop @ M["C1"], M["B2"] + M["B1"] @ loop @ M["D12"]
    C, D = M["C2"] + M["D21"] @ loop @ M["C1"], M["D22"] + M["D21"] @ loop @ M["D12"]
    assert f.is_linear
    np.testing.assert_allclose(f(u), StateSpace(A, B, C, D)(u), atol=1e-13)
    np.testing.assert_allclose(f.linearize().A, A, atol=1e-14)
    assert f.stability()["contraction"].verdict == Verdict.PROVED
    assert not f.replace(b_v=np.ones(5)).is_linear


@pytest.mark.parametrize("gain_bound", [None, 1.5])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_every_gradient_against_central_differences(activation, gain_bound):
    f = small(activation, rate=0.9, gain_bound=gain_bound)
    u, weight = RNG.standard_normal((12, 2)), RNG.standard_normal((12, 3))
    gradient = f.tape(u).adjoint(weight)
    for name, value in f.params.items():
        for place in np.ndindex(value.shape):
            step = np.zeros(value.shape)
            step[place] = 1e-5
            up, down = (np.sum(weight * f.replace(**{name: value + sign * step})(u)) for sign in (1, -1))
            found = gradient.params[name][place]
            assert abs(found - (up - down) / 2e-5) < 1e-6 * (1 + abs(found)), (name, place)


def test_silence_ends_in_zeros_and_not_in_subnormals():
    f = REN(1, 1, n_states=6, n_units=4, rate=0.8)
    for dtype in (np.float32, np.float64):
        stream = f.stream(dtype=dtype, voices=(19,))
        size = 10.0 ** (-2 * np.arange(19) + 2)
        parts = [size[:, None, None].astype(dtype), np.zeros((19, 2000, 1), dtype)]
        y = np.concatenate([stream.process(part) for part in parts], axis=1)
        assert not np.any((y != 0) & (np.abs(y) < np.finfo(dtype).tiny))
        assert not np.any(y[:, -1]) and not np.any(stream.state.x)


# ---- stability


@pytest.mark.parametrize("activation", PHI)
@pytest.mark.parametrize("rate", [0.3, 0.95, 1.0])
def test_it_contracts_at_the_rate_in_its_metric(activation, rate):
    worst = 0.0
    for seed in range(10):
        f = small(activation, seed, rate=rate)
        assert f.stability()["contraction"].verdict == Verdict.PROVED
        assert f._boundedness() == Boundedness.BOUNDED
        state = f.rest_state((2, 50)).unravel(3 * np.random.default_rng(seed).standard_normal((2, 50, 4)))
        before = distance(f, np.subtract(*state.x))
        for frame in np.random.default_rng(seed).standard_normal((20, 50, 1, 2)):
            _, state = f.run(np.stack([frame, frame]), state)
            after = distance(f, np.subtract(*state.x))
            seen = before > 1e-9
            worst = max(worst, np.max(after[seen] / before[seen], initial=0))
            before = after
    assert 0.5 * rate < worst <= rate


def test_whatever_training_makes_of_the_parameters():
    """Of many wild filters nearly all are certified, and none of these takes a step apart, found by its Jacobians."""
    rng = np.random.default_rng(1)
    certified = 0
    for trial in range(300):
        n, m = rng.integers(1, 6, 2)
        rate, bound = rng.uniform(0.2, 1), float(rng.uniform(0.1, 10)) if rng.random() < 0.5 else None
        f = REN(
            1, 2, n_states=int(n), n_units=int(m), activation=str(rng.choice(list(PHI))), rate=rate, gain_bound=bound
        )
        scales = 10.0 ** rng.uniform(-6, 6, len(f.params))
        f = f.replace(
            **{k: s * rng.standard_normal(v.shape) for (k, v), s in zip(f.params.items(), scales, strict=True)}
        )
        if not f._contraction():
            continue
        certified += 1
        root = np.linalg.cholesky(f.metric).T
        for _ in range(10):
            state = f.rest_state().unravel(10.0 ** rng.uniform(-6, 6) * rng.standard_normal(n))
            A = f.linearize(state, 10.0 ** rng.uniform(-6, 6) * rng.standard_normal(1)).A
            assert np.linalg.norm(root @ A @ np.linalg.inv(root), 2) < rate * (1 + 1e-9), trial
    assert certified > 200


def test_the_look_refuses_matrices_with_more_gain():
    f = small(rate=0.9, gain_bound=1.5)
    explicit, (n, m) = f._explicit, (4, 5)
    assert f._falls(1.5) and not f._falls(0.01)
    x, u, w, outputs = slice(1, 1 + n), slice(1 + n, -m), slice(-m, None), slice(m + n, None)
    for rows, columns in ((outputs, x), (outputs, u), (outputs, w), (slice(m), u), (slice(m, m + n), u)):
        table = explicit.table.copy()
        table[rows, columns] *= 100
        f._cache["explicit"] = explicit._replace(table=table)
        assert f._falls(None) and not f._falls(1.5)
        f._cache.pop("proved", None)
        assert f._contraction() and f.lipschitz_bound == np.inf


@pytest.mark.parametrize("name", ["A", "B1", "C1", "D11"])
def test_the_look_refuses_matrices_that_do_not_contract(name):
    f = small(rate=0.9, gain_bound=1.5)
    explicit, (n, m) = f._explicit, (4, 5)
    rows = slice(m, m + n) if name in ("A", "B1") else slice(m)
    columns = slice(1, 1 + n) if name in ("A", "C1") else slice(-m, None)
    for factor, holds in ((1 + 1e-12, True), (100.0, False)):
        table = explicit.table.copy()
        table[rows, columns] *= factor
        f._cache["explicit"] = explicit._replace(table=table)
        assert f._falls(None) == holds
        f._cache.pop("proved", None)
        assert (f._contraction() is not None) == holds and f._boundedness() == holds


def tables(steepest, n_trials=2000):
    """Random matrices, and whether the look finds that they contract; it is told of slopes up to ``steepest``."""
    rng = np.random.default_rng(4)
    for _ in range(n_trials // 20):
        n, m = (int(size) for size in rng.integers(1, 4, 2))
        f = REN(1, 1, n_states=n, n_units=m, rate=rng.uniform(0.3, 1), seed=rng)
        explicit = f._explicit
        for _ in range(20):
            table = explicit.table.copy()
            for rows in (slice(m), slice(m, m + n)):
                for columns in (slice(1, 1 + n), slice(-m, None)):
                    table[rows, columns] *= 10.0 ** rng.uniform(-1, 0.7)
            told = table.copy()
            told[:m] *= steepest
            f._cache["explicit"] = explicit._replace(table=told)
            yield f, table, f._falls(None)


def parts(f, table, rng):
    """Whether two runs come apart at some slopes within [0, 1]: those at the corners, and some inside."""
    (n, m), root = (f.n_states, f.n_units), np.linalg.cholesky(f.metric).T
    A, B1, C1, D11 = table[m : m + n, 1 : 1 + n], table[m : m + n, -m:], table[:m, 1 : 1 + n], table[:m, -m:]
    slopes = [*itertools.product((0.0, 1.0), repeat=m), *rng.uniform(0, 1, (8, m))]
    steps = (A + B1 @ np.linalg.solve(np.eye(m) - np.diag(s) @ D11, np.diag(s) @ C1) for s in slopes)
    return any(np.linalg.norm(root @ J @ np.linalg.inv(root), 2) > f.rate * (1 + 1e-9) for J in steps)


def test_the_look_is_sound_and_a_broken_one_is_caught():
    rng = np.random.default_rng(5)
    found = [(proved, parts(f, table, rng)) for f, table, proved in tables(1.0)]
    assert len(found) == 2000 and sum(proved for proved, _ in found) > 500
    assert sum(apart for _, apart in found) > 200
    assert not any(proved and apart for proved, apart in found)
    assert any(proved and parts(f, table, rng) for f, table, proved in tables(0.5))


@pytest.mark.parametrize("activation", PHI)
def test_gain_bound(activation):
    """No two inputs part the outputs by more, in particular not those that many steps of power iteration find."""
    most = 0.0
    for seed, bound in enumerate((0.1, 1.0, 30.0)):
        f = small(activation, seed, gain_bound=bound)
        assert f.lipschitz_bound == bound
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((150, 2))
        y, e = f(u), rng.standard_normal((150, 2))
        for size in (1e-3, 1.0, 30.0):
            for _ in range(30):
                e *= size / np.linalg.norm(e)
                d = f(u + e) - y
                assert np.linalg.norm(d) <= bound * size * (1 + 1e-9)
                e = f.tape(u + e).adjoint(d).u
            most = max(most, np.linalg.norm(d) / (bound * size))
        w = np.linspace(0, np.pi, 200)
        response = f.linearize(u=u[0]).frequency_response(w)
        assert np.max(np.linalg.norm(response, 2, axis=(1, 2))) < bound
    assert most > 0.5  # it is not so far from what happens
    assert REN(1, 1, n_states=2, n_units=2).lipschitz_bound == np.inf


def test_the_linear_gain_is_below_the_bound_at_every_frequency():
    f = REN(1, 1, n_states=3, n_units=2, activation="identity", gain_bound=0.5, seed=3).replace(D22=[[50.0]])
    linear = f.linearize()
    (b,), a = signal.ss2tf(linear.A, linear.B, linear.C, linear.D)
    _, h = signal.freqz(b, a, worN=4096)
    assert 0.4 < np.max(np.abs(h)) < 0.5


# ---- training, files, errors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_learns_and_stays_certified(dtype, tmp_path):
    b, a = signal.butter(1, 0.1)
    u = RNG.standard_normal((12, 100, 1)).astype(dtype)
    pairs = [(x, np.tanh(3 * signal.lfilter(b, a, x, axis=0)).astype(dtype)) for x in u]
    f = REN(1, 1, n_states=4, n_units=6, rate=0.95)
    found = fit(f, pairs, squared, n_epochs=60, rate=0.02).filter
    assert evaluate(found, pairs, squared) < 0.05 * evaluate(f, pairs, squared)
    assert not np.array_equal(found.params["X"], f.params["X"])
    assert found.stability()["contraction"].verdict == Verdict.PROVED
    found.save(tmp_path / "ren.safetensors")
    assert load(tmp_path / "ren.safetensors") == found
    assert (found >> Dense(1, 2)).stability()["contraction"].verdict == Verdict.PROVED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "selu"}, "activation='selu': choose"),
        ({"rate": 0.0}, r"rate=0.0 must lie within \(0, 1\]"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"rate": np.nan}, "rate=nan"),
        ({"rate": "fast"}, "rate='fast'"),
        ({"gain_bound": -1.0}, "gain_bound=-1.0 must be positive"),
        ({"gain_bound": np.inf}, "gain_bound=inf"),
        ({"n_states": 0}, "n_states=0"),
        ({"n_units": 2.5}, "n_units=2.5"),
        ({"n_inputs": 0}, "n_inputs=0"),
        ({"n_outputs": True}, "n_outputs=True"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_settings(change, said):
    with pytest.raises(ParameterError, match=said):
        REN(**{"n_inputs": 1, "n_outputs": 1, "n_states": 2, "n_units": 2, **change})


def test_bad_parameters():
    f = REN(1, 1, n_states=2, n_units=2, gain_bound=1.0)
    with pytest.raises(ParameterError, match="X has shape"):
        f.replace(X=np.eye(5))
    for name in ("X", "B2", "D12", "C2", "D21"):
        shape = f.params[name].shape
        huge = np.linspace(-1e200, 1e200, 2 * np.prod(shape))[: np.prod(shape)].reshape(shape)
        with pytest.raises(ParameterError, match=r"parameters up to 1e\+200"):
            f.replace(**{name: huge})
    # a huge rotation leaves nothing to move, but the metric is beyond all numbers
    assert f.replace(Y=[[0, 1e200], [0, 0]])._contraction() is None
    assert f.replace(D22=[[1e300]]).matrices["D22"] < 1
    assert f.replace(X=np.zeros((6, 6))).stability()["contraction"].verdict == Verdict.PROVED


def test_small_signal_filters_along_a_trajectory():
    f = small()
    u, start = RNG.standard_normal((30, 2)), f.rest_state().unravel(RNG.standard_normal(4))
    state = start.copy()
    along = f._jacobians(u, state)
    y, end = f.run(u, start)
    assert state == end and np.array_equal(along.y, y)
    here = start
    for t in range(30):
        linear = f.linearize(here, u[t])
        for name in "ABCD":
            np.testing.assert_allclose(getattr(along, name)[t], linear.params[name], atol=1e-13)
        _, here = f.run(u[t : t + 1], here)

"""Tests of losslessness, and completions. Oracles: closed forms, frequency responses, construction, published cases."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import rnndsp
from rnndsp import ParameterError
from rnndsp.filters import (
    LSTM,
    SOS,
    DelayStateSpace,
    GerzonAllpass,
    StateSpace,
    nested_allpass,
    poletti_allpass,
    series_allpass,
)
from rnndsp.stability import (
    allpass_test,
    complete_allpass,
    gramians,
    hankel_singular_values,
    norm,
    paraunitary_test,
    uniallpass_test,
    unilossless_test,
)

QUICK = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def haar(n, seed=0):
    Q, R = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return Q * np.sign(np.diag(R))


def network(V, delays):
    n = len(delays)
    return DelayStateSpace(V[:n, :n], V[:n, n:], V[n:, :n], V[n:, n:], delays)


# ---- lossless for all delays


@QUICK
@given(st.integers(1, 12), st.floats(0, 8), st.integers(0, 2**31))
def test_scaled_orthogonal_matrices_are_unilossless_with_their_own_weights(n, spread, seed):
    rng = np.random.default_rng(seed)
    d = np.exp(rng.uniform(-spread, spread, n))
    A = haar(n, seed) / d[:, None] * d
    found = unilossless_test(A)
    assert found.holds and found.residual < 1e-12
    np.testing.assert_allclose(found.storage / d**2, found.storage[0] / d[0] ** 2, rtol=1e-6)  # up to one factor
    W = np.diag(found.storage)
    np.testing.assert_allclose(found.matrix @ found.matrix.T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(A.T @ W @ A / np.sqrt(np.outer(*2 * [found.storage])), np.eye(n), atol=1e-11)


def test_by_how_much_a_matrix_is_not_unilossless():
    U, d = haar(5, 3), np.array([1, 10, 0.1, 3, 0.5])
    for g in (1 - 1e-6, 0.9, 1.01):
        found = unilossless_test(g * d[:, None] * U / d)
        assert found.residual == pytest.approx(abs(1 - g**2), rel=1e-9) and not found.holds
    E = np.random.default_rng(0).standard_normal((5, 5))
    for size in (1e-4, 1e-7):
        assert 0.1 * size < unilossless_test(U + size * E).residual < 20 * size
    # an orthogonal similarity that is not diagonal leaves all eigenvalues on the circle, but for one set of delays only
    T = np.eye(5) + 0.3 * E
    rotated = np.linalg.solve(T, U @ T)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(rotated)), 1, atol=1e-12)
    assert unilossless_test(rotated).residual > 0.1
    assert DelayStateSpace(rotated, T[:, :1], T[:1], [[0]], [3, 1, 4, 1, 5]).spectral_radius() > 1.01


def test_irreducible_blocks_are_looked_at_one_by_one():
    first, second = haar(3, 1), haar(2, 2)
    A = np.block([[first, np.ones((3, 2))], [np.zeros((2, 3)), second]])
    order = [3, 0, 4, 1, 2]
    found = unilossless_test(A[np.ix_(order, order)])
    assert found.holds and found.residual < 1e-12
    assert np.max(np.abs(found.matrix @ found.matrix.T - np.eye(5))) > 0.5  # one feeds the other
    alone = unilossless_test(np.where(A == 1, 0, A))
    np.testing.assert_allclose(alone.matrix @ alone.matrix.T, np.eye(5), atol=1e-12)
    # triangular, with signs on the diagonal: known to be lossless (Schlecht and Habets 2017)
    triangle = np.tril(np.random.default_rng(0).standard_normal((4, 4)), -1) + np.diag([1.0, -1, 1, -1])
    assert unilossless_test(triangle).residual == 0
    assert unilossless_test(triangle + 0.5 * np.eye(4)).residual == pytest.approx(1.25)
    # no loop at all loses everything; no lines lose nothing
    assert unilossless_test(np.eye(3, k=1)).residual == np.inf
    assert unilossless_test(np.zeros((0, 0))).holds


# ---- allpass for all delays


@QUICK
@given(st.integers(0, 8), st.integers(1, 3), st.floats(0, 6), st.integers(0, 2**31))
def test_scaled_orthogonal_networks_are_uniallpass(n, k, spread, seed):
    rng = np.random.default_rng(seed)
    d = np.append(np.exp(rng.uniform(-spread, spread, n)), np.ones(k))
    U = haar(n + k, seed)
    found = uniallpass_test(network(U / d[:, None] * d, rng.integers(1, 90, n)))
    assert found.residual < 1e-11
    np.testing.assert_allclose(found.storage, d[:n] ** 2, rtol=1e-6)
    np.testing.assert_allclose(found.matrix, U, atol=1e-6)
    # scaled inputs are another network
    bad = uniallpass_test(network(np.diag([*np.ones(n), *np.full(k, 1.001)]) @ U, np.ones(n, int)))
    assert not bad.holds and bad.residual > 1e-4


def test_weights_of_published_structures():
    """Schlecht 2021: P, which solves A P A^T + B B^T = P, is diagonal."""
    g = np.array([0.5, 0.6, 0.7])
    for filt, P in (
        (nested_allpass([1, 1, 1], gains=g), [0.2448, 0.3264, 0.51]),
        (series_allpass([1, 1, 1], gains=g), 1 - g**2),
        (poletti_allpass([1, 1, 1], gain=0.6, matrix="random"), [4.0] * 3),
    ):
        found = uniallpass_test(filt)
        assert found.residual < 1e-14
        np.testing.assert_allclose(1 / found.storage, P, rtol=1e-14)
        np.testing.assert_allclose(gramians(filt).controllability, np.diag(P), atol=1e-14)
        np.testing.assert_allclose(gramians(filt).observability, np.diag(found.storage), atol=1e-13)
        np.testing.assert_allclose(paraunitary_test(filt).storage, np.diag(found.storage), atol=1e-13)


def test_allpass_but_not_uniallpass():
    """Schlecht 2021: a similarity that mixes lines 1 and 2 goes unseen where they are alike, and nowhere else."""
    X = np.eye(4)
    for v in ([1, 2, 3, 4], [2, -1, 1, -1], [1, 0, -2, 3]):
        X = X @ (np.eye(4) - 2 * np.outer(v, v) / np.dot(v, v))
    T = np.eye(4)
    T[0, 0], T[1, 0] = -0.1, 0.5
    V = np.linalg.solve(T, X @ T)
    for delays in ([1, 1, 1], [2, 2, 1], [7, 7, 3]):
        filt = network(V, delays)
        assert filt.spectral_radius() < 0.995
        assert allpass_test(filt).residual < 1e-12 and paraunitary_test(filt).residual < 1e-12
        assert not uniallpass_test(filt).holds and uniallpass_test(filt).residual > 1
        m = delays[0]
        storage = np.kron((T.T @ T)[:2, :2], np.eye(m))  # sample by sample of both lines
        np.testing.assert_allclose(paraunitary_test(filt).storage[: 2 * m, : 2 * m], storage, atol=1e-12)
    unstable = network(V, [2, 1, 1])
    assert unstable.spectral_radius() > 1.4
    assert allpass_test(unstable).residual > 0.1
    with pytest.raises(ParameterError, match="does not decay"):
        paraunitary_test(unstable)
    # what it came from is allpass for these as well
    assert uniallpass_test(network(X, [2, 1, 1])).holds and allpass_test(network(X, [2, 1, 1])).residual < 1e-12


# ---- for the delays that it has


def test_paraunitary_residual_is_the_mean_over_all_frequencies():
    rng = np.random.default_rng(5)
    A = rng.standard_normal((4, 4))
    A *= 0.8 / np.max(np.abs(np.linalg.eigvals(A)))
    filt = StateSpace(A, rng.standard_normal((4, 2)), rng.standard_normal((3, 4)), rng.standard_normal((3, 2)))
    H = filt.frequency_response(2 * np.pi * np.arange(512) / 512)
    gram = H.conj().transpose(0, 2, 1) @ H - np.eye(2)
    mean = np.sqrt(np.mean(np.sum(np.abs(gram) ** 2, axis=(1, 2))))
    assert paraunitary_test(filt).residual == pytest.approx(mean, rel=1e-12)


def test_states_in_any_units_and_hidden_modes_make_no_difference():
    rng = np.random.default_rng(1)
    V = haar(8, 4)
    T = rng.standard_normal((6, 6)) * np.logspace(-4, 4, 6)
    A, B, C, D = V[:6, :6], V[:6, 6:], V[6:, :6], V[6:, 6:]
    changed = StateSpace(np.linalg.solve(T, A @ T), np.linalg.solve(T, B), C @ T, D)
    assert paraunitary_test(changed).residual < 1e-9 and allpass_test(changed).residual < 1e-9
    # an output that is heard only from a mode that is not driven, and a mode that is not heard
    hidden = StateSpace(
        np.block([[A, np.zeros((6, 2))], [np.zeros((2, 6)), np.diag([0.5, 0.3])]]),
        np.vstack([B, [[0, 0], [1, 1]]]),
        np.hstack([C, [[1, 0], [0, 0]]]),
        D,
    )
    assert paraunitary_test(hidden).residual < 1e-12 and not uniallpass_test(hidden).holds


def test_more_outputs_than_inputs_and_filters_that_are_not_delay_networks():
    # the two outputs of a lossless splitter
    b, a = scipy.signal.butter(3, 0.3)
    c = scipy.signal.butter(3, 0.3, "high")[0]
    split = StateSpace(*scipy.signal.tf2ss(np.array([b, c]), a))
    assert paraunitary_test(split).residual < 1e-13 and allpass_test(split).residual < 1e-12
    lowpass = SOS(scipy.signal.butter(3, 0.3, output="sos"))
    assert allpass_test(lowpass).residual == pytest.approx(1, abs=1e-9)  # nothing passes at half the sample rate
    allpass = SOS([[0.5, -0.3, 1, 1, -0.3, 0.5]])
    assert paraunitary_test(allpass).residual < 1e-13 and allpass_test(allpass).residual < 1e-13
    assert paraunitary_test(rnndsp.gain(haar(3))).holds and not paraunitary_test(rnndsp.gain(0.5)).holds


def test_long_lines():
    filt = GerzonAllpass([1009, 2003, 4001], gain=0.5, matrix="random")
    assert allpass_test(filt).residual < 1e-11 and uniallpass_test(filt).residual < 1e-14
    # gains that are one at many frequencies, and not between these
    for n in (4, 40, 64):
        comb = StateSpace(*scipy.signal.tf2ss([1 + 1e-6, *np.zeros(n - 1), -1e-6], [1, *np.zeros(n)]))
        np.testing.assert_allclose(comb.frequency_response(2 * np.pi * np.arange(n) / n), 1, atol=1e-12)
        assert 2e-6 < allpass_test(comb).residual < 5e-6


# ---- completion


@QUICK
@given(st.integers(1, 10), st.data(), st.integers(0, 2**31))
def test_completion_is_orthogonal_with_as_few_channels_as_can_be(n, data, seed):
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n))
    s = np.ones(n)
    s[n - k :] = rng.uniform(0, 0.99, k)
    A = haar(n, seed) * s @ haar(n, seed + 1)
    delays = rng.integers(1, 50, n)
    filt = complete_allpass(A, delays, sample_rate=8000)
    V = np.block([[filt.A, filt.B], [filt.C, filt.D]])
    assert V.shape == (n + k, n + k) and k == np.linalg.matrix_rank(np.eye(n) - A @ A.T, tol=1e-9)
    np.testing.assert_allclose(V @ V.T, np.eye(n + k), atol=1e-12)
    np.testing.assert_array_equal(filt.A, A)
    np.testing.assert_array_equal(filt.delays, delays)
    assert uniallpass_test(filt).residual < 1e-12


def test_completion_of_a_known_allpass():
    filt = GerzonAllpass([3, 5, 8], gain=-0.6, matrix="random", seed=4)
    found = complete_allpass(filt.A, filt.delays)
    # the same up to rotations of input and output
    H, G = (x.frequency_response(np.linspace(0, np.pi, 9)) for x in (filt, found))
    left = np.linalg.solve(filt.B, found.B)
    right = np.linalg.solve(filt.C.T, found.C.T).T
    np.testing.assert_allclose(left @ left.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(right @ H @ left, G, atol=1e-12)
    one = complete_allpass([[0.5]])
    assert isinstance(one, StateSpace) and one.D[0, 0] == -0.5 and one.B[0, 0] * one.C[0, 0] == pytest.approx(0.75)


# ---- what holds for all of them


def test_invariants_of_lossless_networks():
    """Stability reference 2.3.4: both Gramians and all Hankel singular values, energy and phase."""
    rng = np.random.default_rng(2)
    for n, k, seed in ((3, 2, 0), (5, 2, 1), (4, 3, 2)):
        delays = rng.integers(1, 12, n)
        filt = GerzonAllpass.from_matrix(haar(n + k, seed), delays)
        assert filt.spectral_radius() < 0.999
        w = np.linspace(0, 2 * np.pi, 4001)
        H = filt.frequency_response(w)
        np.testing.assert_allclose(np.linalg.svd(H, compute_uv=False), 1, atol=1e-12)
        for gramian in (gramians(filt).controllability, gramians(filt).observability):
            np.testing.assert_allclose(gramian, np.eye(delays.sum()), atol=1e-12)
        np.testing.assert_allclose(hankel_singular_values(filt), 1, atol=1e-12)
        assert norm(filt) ** 2 == pytest.approx(k, rel=1e-12) and norm(filt, p=np.inf) == pytest.approx(1, abs=1e-9)
        fall = np.diff(np.angle(np.linalg.det(H)))
        fall = np.sum((fall + np.pi) % (2 * np.pi) - np.pi)
        assert fall == pytest.approx(-2 * np.pi * delays.sum(), rel=1e-9)


@pytest.mark.parametrize("delays", [[1, 1, 1, 1], [3, 1, 7, 12]])
def test_a_lossless_loop_keeps_its_energy_over_a_million_samples(delays):
    """With lines of one sample every sample goes through the matrix."""
    d = np.array([1, 3, 0.2, 1])
    loop = DelayStateSpace(haar(4) / d[:, None] * d, np.ones((4, 1)), np.ones((1, 4)), [[0]], delays)
    weights = np.repeat(unilossless_test(loop.A).storage, delays)
    _, state = loop.run(np.random.default_rng(1).standard_normal(100))
    before = weights @ state.ravel() ** 2
    _, state = loop.run(np.zeros(1_000_000), state)
    assert weights @ state.ravel() ** 2 == pytest.approx(before, rel=1e-9)
    assert before > 1


# ---- bad input


def test_errors_say_what_is_wrong():
    for A, says in (
        ([[1, np.nan], [0, 1]], "NaN or infinity"),
        (np.ones((2, 3)), r"shape \(2, 3\): it must be a square"),
        ("matrix", "A='matrix'; give real numbers"),
        ([1.0], r"shape \(1,\)"),
    ):
        for test in (unilossless_test, complete_allpass):
            with pytest.raises(ParameterError, match=says):
                test(A)
    with pytest.raises(ParameterError, match="singular value of 2, above 1, and is no part of an orthogonal"):
        complete_allpass(np.diag([2.0, 0.5]))
    with pytest.raises(ParameterError, match="A is orthogonal: the loop is closed"):
        complete_allpass(haar(3))
    with pytest.raises(ParameterError, match=r"delays of shape \(2,\) for a matrix of 3"):
        complete_allpass(0.5 * haar(3), [1, 2])
    with pytest.raises(ParameterError, match="at least 1"):
        complete_allpass(0.5 * haar(2), [1, 0])
    wide = rnndsp.gain(np.ones((1, 2)))
    for test, says in ((uniallpass_test, "as many of the one"), (paraunitary_test, "lost"), (allpass_test, "lost")):
        with pytest.raises(ParameterError, match=f"2 inputs and 1 outputs: .*{says}"):
            test(wide)
    with pytest.raises(ParameterError, match="more than the 500"):
        paraunitary_test(GerzonAllpass([300, 301]))
    with pytest.raises(ParameterError, match="too many to look at: see uniallpass_test"):
        allpass_test(GerzonAllpass([10**6] * 20))
    assert np.isnan(allpass_test(StateSpace([[1]], [[1]], [[1]], [[0]])).residual)
    assert not allpass_test(StateSpace([[1]], [[1]], [[1]], [[0]])).holds
    # huge and tiny numbers are no crash
    for size in (1e300, 1e-300):
        A = size * haar(3)
        assert not unilossless_test(A).holds
        assert not uniallpass_test(StateSpace(A, A[:, :1], A[:1], [[size]])).holds
    d = np.array([1e-150, 1, 1e150])
    assert unilossless_test(d[:, None] * haar(3) / d).holds
    d = np.array([1e-100, 1, 1e100])
    assert uniallpass_test(network(haar(4) * np.append(d, 1) / np.append(d, 1)[:, None], [1, 2, 3])).holds
    assert not uniallpass_test(LSTM(1, 1)).holds  # of its linear part at rest

"""Allpasses combined from others. Oracles: transfer functions of the literature, lattice recursions, scipy, energy."""

import re

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import rnndsp
from rnndsp import ParameterError, load
from rnndsp.filters import (
    SOS,
    Elman,
    GerzonAllpass,
    ParaunitaryFIR,
    StateSpace,
    closed_allpass,
    nested_allpass,
    orthogonal_matrix,
    poletti_allpass,
    series_allpass,
    vector_allpass,
)
from rnndsp.stability import allpass_test, gramians, hankel_singular_values, norm, paraunitary_test, uniallpass_test

QUICK = settings(max_examples=40, deadline=None, database=None, derandomize=True)
W = np.linspace(0, np.pi, 33)


def scalar(filt):
    return filt.frequency_response(W)[:, 0, 0]


def random_similarity(filt, seed=0):
    """The same response from other states, so that no diagonal weights show it to be lossless."""
    T = np.random.default_rng(seed).standard_normal((filt.n_states, filt.n_states))
    dense = filt.linearize().expand()
    return StateSpace(np.linalg.solve(T, dense.A @ T), np.linalg.solve(T, dense.B), dense.C @ T, dense.D)


# ---- one channel


@QUICK
@given(st.lists(st.tuples(st.integers(1, 400), st.floats(-0.95, 0.95)), min_size=1, max_size=6))
def test_series_and_nest_have_the_responses_of_their_recursions(sections):
    delays, gains = zip(*sections, strict=True)
    in_series, nested = np.ones(W.size, complex), np.ones(W.size, complex)
    for m, g in sections:
        z = np.exp(-1j * W * m)
        in_series *= (g + z) / (1 + g * z)
        nested = (g + z * nested) / (1 + g * z * nested)
    chain, nest = series_allpass(delays, gains=gains), nested_allpass(delays, gains=gains)
    np.testing.assert_allclose(scalar(chain), in_series, atol=1e-11)
    np.testing.assert_allclose(scalar(nest), nested, atol=1e-11)
    g = np.array(gains)
    for filt, variance in ((chain, 1 - g**2), (nest, np.cumprod((1 - g**2)[::-1])[::-1])):
        found = uniallpass_test(filt)
        assert found.residual < 1e-12
        np.testing.assert_allclose(1 / found.storage, variance, rtol=1e-9)
        np.testing.assert_array_equal(filt.delays, delays)
    np.testing.assert_allclose(np.diag(chain.A), -g)
    assert not np.triu(chain.A, 1).any()


def test_one_line_is_schroeders_whichever_way():
    u = np.random.default_rng(0).standard_normal(500)
    wanted = GerzonAllpass([7], gain=-0.4)(u)
    for build in (series_allpass, nested_allpass):
        np.testing.assert_allclose(build([7], gains=[-0.4], sample_rate=8000)(u), wanted, atol=1e-14)
    np.testing.assert_allclose(poletti_allpass([7], gain=-0.4)(u), wanted, atol=1e-14)
    np.testing.assert_allclose(vector_allpass(rnndsp.delay(7), gain=-0.4)(u), wanted, atol=1e-14)
    assert series_allpass([1], gains=[0.5]).sample_rate is None
    assert isinstance(nested_allpass([1, 1], gains=[0.5, 0.1]), StateSpace)


@pytest.mark.parametrize("k", [[0.5], [0.5, -0.3, 0.8], [0.1, 0.95, -0.7, 0.2, 0.6]])
def test_lines_of_one_sample_are_the_lattice_of_their_reflection_coefficients(k):
    a = np.ones(1)
    for reflection in k:  # step up (Levinson)
        a = np.append(a, 0) + reflection * np.append(0, a[::-1])
    filt = nested_allpass([1] * len(k), gains=k)
    u = np.random.default_rng(1).standard_normal(300)
    wanted = scipy.signal.lfilter(a[::-1], a, u)
    np.testing.assert_allclose(filt(u), wanted, atol=1e-11)
    # normalised: an orthogonal matrix, and all states of variance one
    V = uniallpass_test(filt).matrix
    normalised = GerzonAllpass.from_matrix(V, [1] * len(k))
    np.testing.assert_allclose(V @ V.T, np.eye(len(k) + 1), atol=1e-14)
    np.testing.assert_allclose(normalised(u), wanted, atol=1e-11)
    np.testing.assert_allclose(gramians(normalised).controllability, np.eye(len(k)), atol=1e-12)
    # a product of rotations of neighbours, in turn: a Hessenberg matrix
    assert not np.triu(V, 2).any()


# ---- many channels


def test_poletti_has_gerzons_response_and_other_levels():
    for g in (-0.7, 0.0, 0.3, 0.9):
        filt = poletti_allpass([3, 5, 8, 13], gain=g, matrix="random", seed=2)
        U = orthogonal_matrix(4, "random", seed=2)
        for name, wanted in (
            ("A", -g * U),
            ("B", (1 + g) * np.eye(4)),
            ("C", (1 - g) * U),
            ("D", g * np.eye(4)),
        ):
            np.testing.assert_allclose(filt.params[name], wanted, atol=1e-15)
        gerzon = GerzonAllpass([3, 5, 8, 13], gain=g, matrix="random", seed=2)
        np.testing.assert_allclose(filt.frequency_response(W), gerzon.frequency_response(W), atol=1e-13)
        np.testing.assert_allclose(gramians(filt).controllability, (1 + g) / (1 - g) * np.eye(29), atol=1e-12)


LOOPS = {
    "delays": lambda: rnndsp.delay(3, 2),
    "gerzon": lambda: rnndsp.delay(2, 2) >> GerzonAllpass([5, 9], gain=0.4),
    "paraunitary": lambda: rnndsp.delay(1, 2) >> ParaunitaryFIR.random(2, 5, seed=3),
    "nested": lambda: (
        vector_allpass(rnndsp.delay(4, 2) >> vector_allpass(rnndsp.delay(3, 2), gain=0.5), gain=-0.8)
        >> rnndsp.delay(2, 2)
    ),
    "any states": lambda: random_similarity(rnndsp.delay(1, 2) >> GerzonAllpass([2, 3])),
    "sections": lambda: rnndsp.Stack(
        rnndsp.delay(1) >> SOS([[0.5, -0.3, 1, 1, -0.3, 0.5]]), rnndsp.delay(6) >> SOS([[0.3, 0.2, 1, 1, 0.2, 0.3]])
    ),
    "long": lambda: rnndsp.delay(700, 2) >> random_similarity(GerzonAllpass([2, 3])),
}


@pytest.mark.parametrize("name", LOOPS)
def test_gerzons_theorem_for_any_lossless_loop(name):
    loop = LOOPS[name]()
    U = loop.linearize().frequency_response(W)
    for g in (0.6, -0.85, 0.0):
        filt = vector_allpass(loop, gain=g)
        H = filt.frequency_response(W)
        one = np.eye(2)
        np.testing.assert_allclose(H, np.linalg.solve(one + g * U, g * one + U), atol=1e-11)
        np.testing.assert_allclose(np.linalg.svd(H, compute_uv=False), 1, atol=1e-11)
        assert filt.n_states == loop.n_states and filt.stability()["bounded output"].verdict == "proved"
    V = orthogonal_matrix(5, "random", seed=1)
    A, B, C, D = V[:2, :2], V[:2, 2:], V[2:, :2], V[2:, 2:]
    filt = closed_allpass(V, loop)
    H = filt.frequency_response(W)
    np.testing.assert_allclose(
        H, D + C @ U @ np.linalg.solve(np.eye(2) - A @ U, np.broadcast_to(B, (W.size, 2, 3))), atol=1e-11
    )
    np.testing.assert_allclose(np.linalg.svd(H, compute_uv=False), 1, atol=1e-11)
    if filt.n_states < 100:
        assert paraunitary_test(filt).residual < 1e-11
        np.testing.assert_allclose(hankel_singular_values(filt), 1, atol=1e-8)
        assert norm(filt) ** 2 == pytest.approx(3, rel=1e-10)


def test_energy_is_kept_over_a_million_samples():
    inner = vector_allpass(rnndsp.delay(37, 2) >> GerzonAllpass([101, 149], gain=0.3), gain=0.5)
    filt = vector_allpass(rnndsp.delay(11, 2) >> inner, gain=-0.7)
    assert uniallpass_test(filt).residual < 1e-14
    u = np.random.default_rng(0).standard_normal((1_000_000, 2))
    y, state = filt.run(u)
    assert np.sum(y**2) + np.sum(state.ravel() ** 2) == pytest.approx(np.sum(u**2), rel=1e-9)
    # and none is left of a click after its tail
    click = np.zeros((200_000, 2))
    click[0] = 1, -2
    assert np.sum(filt(click) ** 2) == pytest.approx(5, rel=1e-9)


@pytest.mark.parametrize(
    "build",
    [
        lambda m: series_allpass(m, gains=[0.5, -0.4, 0.7]),
        lambda m: nested_allpass(m, gains=[0.5, -0.4, 0.7]),
        lambda m: poletti_allpass(m, gain=0.4, matrix="random"),
        lambda m: vector_allpass(rnndsp.delay(1, 3) >> GerzonAllpass(m - 1), gain=0.4),
    ],
)
def test_invariants(build):
    """Unit Hankel singular values, energy of the channels, and a phase that falls by 2 pi a sample of delay."""
    filt = build(np.array([7, 11, 13]))
    np.testing.assert_allclose(hankel_singular_values(filt), 1, atol=1e-10)
    assert norm(filt) ** 2 == pytest.approx(filt.n_outputs, rel=1e-12)
    w = np.linspace(0, 2 * np.pi, 8001)
    turns = np.diff(np.angle(np.linalg.det(filt.frequency_response(w)))) / (2 * np.pi)
    assert np.sum((turns + 0.5) % 1 - 0.5) == pytest.approx(-31, rel=1e-9)
    assert allpass_test(filt).residual < 1e-12 and filt.spectral_radius() < 1


def test_saved_and_loaded(tmp_path):
    for place, filt in enumerate((nested_allpass([3, 5], gains=[0.5, 0.2]), vector_allpass(rnndsp.delay(3, 2)))):
        path = tmp_path / f"{place}.safetensors"
        filt.save(path)
        assert load(path) == filt


# ---- bad input


def test_errors_say_what_is_wrong():
    for build in (series_allpass, nested_allpass):
        for delays, gains, says in (
            ([3, 5], [0.5], r"2 delays and gains of shape \(1,\): give one gain a delay"),
            ([], [], r"delays=\[\] must be a row"),
            (3, 0.5, "delays=3 must be a row"),
            ([3], [1.0], r"gains=\[1.0\] must lie within \(-1, 1\)"),
            ([3], [np.nan], "must lie within"),
            ([2.5], [0.5], "whole numbers"),
            ([1.0], [0.5], "whole numbers"),
            ([0], [0.5], "at least 1"),
        ):
            with pytest.raises(ParameterError, match=says):
                build(delays, gains=gains)
    for build in (lambda g: poletti_allpass([3], gain=g), lambda g: vector_allpass(rnndsp.delay(3), gain=g)):
        for g in (1.0, -1.0, np.nan):
            with pytest.raises(ParameterError, match=re.escape(f"gain={g} must ")):
                build(g)
    with pytest.raises(ParameterError, match="differs from the identity by 3"):
        poletti_allpass([3, 5], matrix=2 * np.eye(2))
    for loop, says in (
        (GerzonAllpass([3, 5], gain=0.3), r"a way without delay, of gain 0.3: put a delay before it, as delay\(1, 2\)"),
        (rnndsp.gain(np.eye(2)), "without delay, of gain 1"),
        (rnndsp.Stack(rnndsp.delay(1), rnndsp.gain(1.0)), "without delay, of gain 1"),
        (rnndsp.delay(3) >> rnndsp.gain(1.001), r"not lossless: U\^H U differs from the identity by 0.002"),
        (rnndsp.delay(900) >> rnndsp.gain(0.5), r"not lossless: U\^H U differs from the identity by 0.75"),
        (rnndsp.delay(3) >> rnndsp.gain(np.ones((2, 1))), "1 inputs and 2 outputs: as many of each"),
        (Elman(2, 2), "must be a linear filter without controls, not .*Elman"),
        (0.5, "must be a linear filter without controls, not 0.5"),
        (StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]]), "does not decay"),
    ):
        with pytest.raises(ParameterError, match=says):
            vector_allpass(loop)
    with pytest.raises(ParameterError, match="V of size 2 leaves no channel beside the 2 of the loop"):
        closed_allpass(np.eye(2), rnndsp.delay(1, 2))
    with pytest.raises(ParameterError, match="not orthogonal"):
        closed_allpass(np.ones((3, 3)), rnndsp.delay(1, 2))

"""Paraunitary matrices of finite impulse responses. Oracles: the product written out, convolution, energy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnndsp import ParameterError, load
from rnndsp.filters import ParaunitaryFIR, orthogonal_matrix
from rnndsp.stability import gramians, hankel_singular_values, norm, paraunitary_test, uniallpass_test

QUICK = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def product(vectors, first, delays):
    """Taps of V_L(z) ... V_1(z) E_0, by multiplying polynomials of matrices."""
    taps = first[None]
    for v, m in zip(vectors, delays, strict=True):
        P = np.outer(v, v) / np.dot(v, v)
        longer = np.zeros((len(taps) + m, *first.shape))
        longer[: len(taps)] += (np.eye(len(v)) - P) @ taps
        longer[m:] += P @ taps
        taps = longer
    return taps


@QUICK
@given(st.integers(1, 5), st.integers(0, 7), st.data(), st.integers(0, 2**31))
def test_taps_are_the_product_and_orthogonal_to_their_shifts(n, n_blocks, data, seed):
    rng = np.random.default_rng(seed)
    delays = data.draw(st.lists(st.integers(1, 9), min_size=n_blocks, max_size=n_blocks))
    vectors, E0 = rng.standard_normal((n_blocks, n)), orthogonal_matrix(n, "random", seed=seed)
    filt = ParaunitaryFIR(vectors, matrix=E0, delays=delays)
    E = filt.taps
    np.testing.assert_allclose(E, product(vectors, E0, delays), atol=1e-14)
    for lag in range(len(E)):
        correlation = np.einsum("kij,klj->il", E[: len(E) - lag], E[lag:])
        np.testing.assert_allclose(correlation, np.eye(n) * (lag == 0), atol=1e-13)
    V = np.block([[filt.A, filt.B], [filt.C, filt.D]])
    np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-14)
    # all poles are zero: nothing comes back
    assert not np.any(np.linalg.matrix_power(np.abs(filt.A) > 0, max(n_blocks, 1)))


def test_it_filters_and_forgets():
    filt = ParaunitaryFIR.random(3, 4, seed=5, delays=[1, 3, 2, 7], sample_rate=8000)
    u = np.random.default_rng(0).standard_normal((400, 3))
    E = filt.taps
    assert E.shape == (14, 3, 3) and np.any(E[-1])
    wanted = np.stack([sum(np.convolve(u[:, j], E[:, i, j])[:400] for j in range(3)) for i in range(3)], axis=1)
    np.testing.assert_allclose(filt(u), wanted, atol=1e-13)
    y = filt(np.vstack([u, np.zeros((13, 3))]))
    assert np.sum(y**2) == pytest.approx(np.sum(u**2), rel=1e-13)
    assert not np.any(filt(np.vstack([u, np.zeros((30, 3))]))[413:])


def test_invariants():
    filt = ParaunitaryFIR.random(3, 6, seed=1)
    assert filt.n_states == 6
    np.testing.assert_allclose(gramians(filt).controllability, np.eye(6), atol=1e-13)
    np.testing.assert_allclose(hankel_singular_values(filt), 1, atol=1e-13)
    assert norm(filt) ** 2 == pytest.approx(3, rel=1e-13)
    assert uniallpass_test(filt).residual < 1e-14 and paraunitary_test(filt).residual < 1e-13
    w = np.linspace(0, 2 * np.pi, 1001)
    H = filt.frequency_response(w)
    np.testing.assert_allclose(np.linalg.svd(H, compute_uv=False), 1, atol=1e-13)
    # degree: the determinant is a pure delay of as many samples as there are blocks
    np.testing.assert_allclose(np.linalg.det(H), np.linalg.det(H[0]) * np.exp(-6j * w), atol=1e-12)
    assert filt.stability()["decay"].verdict == "proved"


def test_the_same_from_a_seed_a_file_and_scaled_vectors(tmp_path):
    filt = ParaunitaryFIR.random(2, 3, seed=4)
    assert ParaunitaryFIR.random(2, 3, seed=4) == filt != ParaunitaryFIR.random(2, 3, seed=5)
    filt.save(tmp_path / "f.safetensors")
    again = load(tmp_path / "f.safetensors")
    assert again == filt and type(again) is ParaunitaryFIR
    np.testing.assert_array_equal(again.taps, filt.taps)
    one = ParaunitaryFIR([[3.0, 4.0]], delays=2)
    np.testing.assert_allclose(one.taps, [[[0.64, -0.48], [-0.48, 0.36]], 0 * np.eye(2), [[0.36, 0.48], [0.48, 0.64]]])
    np.testing.assert_allclose(ParaunitaryFIR([[-30.0, -40.0]], delays=2).taps, one.taps, atol=1e-16)
    named = ParaunitaryFIR(np.eye(2), matrix="householder")
    np.testing.assert_allclose(named.taps[0] + named.taps[1] + named.taps[2], orthogonal_matrix(2, "householder"))
    assert ParaunitaryFIR(np.zeros((0, 2))).taps.tolist() == [[[1, 0], [0, 1]]]


def test_errors_say_what_is_wrong():
    for vectors, settings_, says in (
        ([1.0, 2.0], {}, r"shape \(2,\): give one a row"),
        (np.zeros((2, 0)), {}, "give one a row"),
        ([[0.0, 0.0]], {}, "other than zero"),
        ([[np.nan, 0.0]], {}, "other than zero"),
        ([[1.0, 0.0]], {"matrix": np.ones((2, 2))}, "not orthogonal"),
        ([[1.0, 0.0]], {"matrix": np.eye(3)}, r"2 channels and a matrix of shape \(3, 3\) do not fit"),
        ([[1.0, 0.0]], {"matrix": "square"}, "kind='square'"),
        ([[1.0, 0.0]], {"delays": [1, 2]}, r"1 vectors and delays of shape \(2,\)"),
        ([[1.0, 0.0]], {"delays": 0}, "at least 1"),
        ([[1.0, 0.0]], {"delays": 1.5}, "whole number"),
    ):
        with pytest.raises(ParameterError, match=says):
            ParaunitaryFIR(vectors, **settings_)
    with pytest.raises(ParameterError, match="n_channels=0"):
        ParaunitaryFIR.random(0, 3)
    with pytest.raises(ParameterError, match="n_blocks=-1"):
        ParaunitaryFIR.random(2, -1)

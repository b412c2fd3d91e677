"""Poles of delay networks against dense eigenvalues and closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filters import DampedNetwork, Reverb
from rnndsp.stability import _delay_poles
from rnndsp.stability._delay_poles import _expand, delay_poles

Real = NDArray[np.float64]
M4 = np.array([211, 150, 337, 98])
HOUSEHOLDER = np.eye(4) - 0.5


def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def orthogonal(n: int) -> Real:
    return ortho_group.rvs(n, random_state=rng())


def distance(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> float:
    assert a.shape == b.shape
    cost = np.abs(a[:, None] - b)
    return float(cost[linear_sum_assignment(cost)].max())


def check_order_and_symmetry(z: NDArray[np.complex128]) -> None:
    assert z.dtype == np.complex128
    assert (np.diff(np.abs(z)) <= 0).all()
    np.testing.assert_array_equal(np.sort_complex(z), np.sort_complex(z.conj()))


@pytest.mark.parametrize(
    ("A", "m"),
    [
        (rng().normal(size=(3, 3)), [4, 7, 9]),
        (orthogonal(4), M4),
        (orthogonal(4) * [0.9, 0.5, 0.8, 0.3], M4),
        (10 * orthogonal(4), [301, 1, 200, 150]),
        (rng().normal(size=(8, 8)), [21, 150, 137, 98, 44, 66, 79, 3]),
        (orthogonal(3) * [1, 1e-4, 1e-9], [200, 301, 7]),
        (HOUSEHOLDER, M4),  # a triple pole at 1
        (HOUSEHOLDER, [201, 201, 201, 98]),  # all poles of one line twice
        (np.array([[0, 2.0, 0], [0, 0, -1], [0.3, 0, 0]]), [300, 201, 100]),  # one ring
    ],
)
def test_expanded_matrix(A: Real, m: list[int]) -> None:
    z = delay_poles(A, m)
    check_order_and_symmetry(z)
    assert distance(z, np.linalg.eigvals(_expand(A, np.array(m)))) < 1e-9
    assert np.log(np.abs(z)).sum() == pytest.approx(np.linalg.slogdet(A)[1], abs=1e-9)
    if len(z) < 1000:
        sign = np.prod(np.sign(np.real(z[z.imag == 0])))  # pairs multiply to something positive
        assert sign == np.sign(np.linalg.det(A)) * (-1) ** (sum(m) + len(m))


def test_both_regimes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    A, m = rng().normal(size=(5, 5)), [11, 40, 23, 31, 2]
    dense = delay_poles(A, m)
    monkeypatch.setattr(_delay_poles, "DENSE", 0)
    assert distance(delay_poles(A, m), dense) < 1e-11


@pytest.mark.parametrize(("n", "size"), [(4, 800), (8, 4000), (32, 3000), (8, 20000)])
@pytest.mark.parametrize("g", [1.0, 0.9997])
def test_homogeneous_decay(n: int, size: int, g: float) -> None:
    m = rng().integers(size // n // 2, size // n * 3 // 2, n)
    z = delay_poles(orthogonal(n) * g**m, m)
    assert len(z) == m.sum()
    np.testing.assert_allclose(np.abs(z), g, rtol=0, atol=1e-10)
    assert len(np.unique(np.round(z, 9))) == len(z)


def test_householder_of_many_lines() -> None:
    m = rng().integers(20, 60, 32)
    z = delay_poles(np.eye(32) - 1 / 16, m)
    np.testing.assert_allclose(np.abs(z), 1, rtol=0, atol=1e-10)
    assert np.count_nonzero(np.abs(z - 1) < 1e-10) == 31


@pytest.mark.parametrize("m", [M4, [5, 9, 7, 4]])
def test_projection(m: list[int]) -> None:
    """I - vv^T has rank 3: the shortest line is redundant."""
    v = np.array([0.1, 0.5, 0.5, 0.7])
    z = delay_poles(np.eye(4) - np.outer(v, v), m)
    check_order_and_symmetry(z)
    assert np.count_nonzero(z == 0) == min(m)
    assert np.abs(z[z != 0]).min() > 0.3
    assert np.abs(np.abs(z) - 1).min() < 1e-12


def test_rank_one() -> None:
    """z^m1 = sum_i w_i b_i z^(m1 - m_i): a polynomial of the longest delay."""
    w, b, m = np.array([1.0, 2, -1]), np.array([0.3, 0.1, 0.5]), np.array([60, 35, 20])
    p = np.zeros(61)
    p[0], p[m] = 1, -w * b
    z = delay_poles(np.outer(w, b), m)
    assert np.count_nonzero(z == 0) == 55
    assert distance(z[:60], np.roots(p)) < 1e-10


def test_degenerate_rank() -> None:
    """Rank 2, but the longest delays with a principal minor other than 0 are 179 + 142: one deflation is not enough."""
    r, q = np.array([-3.0, -1, -1, -1, 1, -1]), np.array([-1.0, -3, 1, 1, 3, -3])
    A, m = np.array([r, r, r, r, r, q]), np.array([133, 183, 146, 179, 185, 142])
    z = delay_poles(A, m)
    assert np.count_nonzero(z == 0) == m.sum() - 179 - 142
    x = z[np.abs(z) > 0][::40]
    P = np.array([np.linalg.svd(np.diag(v**m) - A, compute_uv=False) for v in x])
    assert (P[:, -1] < 1e-11 * P[:, 0]).all()


@pytest.mark.parametrize(
    ("A", "m"),
    [
        (np.zeros((2, 2)), [3, 700]),
        (np.triu(np.ones((5, 5)), 1), [100, 200, 300, 400, 500]),
        (np.array([[1.0, 1], [-1, -1]]), [400, 400]),
        (np.array([[0.0]]), [7]),
    ],
)
def test_all_at_the_origin(A: Real, m: list[int]) -> None:
    np.testing.assert_array_equal(delay_poles(A, m), np.zeros(sum(m)))


@pytest.mark.parametrize("a", [0.5, -0.5, 1.0, -2.0])
@pytest.mark.parametrize("m", [1, 2, 5, 1000])
def test_comb(a: float, m: int) -> None:
    z = delay_poles([[a]], [m])
    check_order_and_symmetry(z)
    np.testing.assert_allclose(z**m, a, rtol=1e-11)
    assert len(np.unique(np.round(z, 9))) == m


def test_block_triangular() -> None:
    U = orthogonal(4)
    A = np.block([[U, rng().normal(size=(4, 4))], [np.zeros((4, 4)), 0.7 * U]])
    p = rng().permutation(8)
    m = np.r_[M4, M4 + 3]
    expected = np.r_[delay_poles(U, M4), delay_poles(0.7 * U, M4 + 3)]
    z = delay_poles(A[np.ix_(p, p)], m[p])
    check_order_and_symmetry(z)
    assert distance(z, expected) < 1e-11


def test_common_factor() -> None:
    A = rng().normal(size=(3, 3))
    z = delay_poles(A, [400, 600, 1000])
    check_order_and_symmetry(z)
    assert distance(np.sort_complex(np.round(z**200, 8))[::200], np.sort_complex(delay_poles(A, [2, 3, 5]))) < 1e-7


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for A, m in [(np.eye(2), [1]), (np.eye(2), [0, 1]), (np.eye(1), [1.5]), ([[np.nan]], [1]), (np.ones((1, 2)), [1])]:
        with pytest.raises(ParameterError):
            delay_poles(A, m)
    assert delay_poles(np.empty((0, 0)), []).shape == (0,)
    monkeypatch.setattr(_delay_poles, "SWEEPS", 1)
    with pytest.raises(RnndspError, match="did not converge"):
        delay_poles(orthogonal(4), M4)


# ---- filters in the loop


@pytest.mark.parametrize("corners_hz", [None, [400.0, 12000.0]])  # 12 kHz has a pole and a zero next to the origin
def test_filters_in_the_loop(corners_hz: list[float] | None) -> None:
    network = DampedNetwork(
        [97, 149, 211, 263],
        t60_s=[0.05, 0.04, 0.02],
        bands_hz=[200, 2000, 9000],
        corners_hz=corners_hz,
        sample_rate=48000,
        matrix="random",
    )
    linear = network.linearize()
    found = _delay_poles.folded(linear.A, linear.delays)
    assert found is not None and found.counts[0].tolist() == [2] * 4
    z = delay_poles(linear.A, linear.delays)
    check_order_and_symmetry(z)
    assert distance(z, np.linalg.eigvals(_expand(linear.A, linear.delays))) < 1e-11


def test_all_poles_of_a_room_fade_as_designed() -> None:
    room = Reverb("room", sample_rate=48000)
    linear = room.network.linearize()
    z = delay_poles(linear.A, linear.delays)
    assert z.size == linear.n_states > 10000
    frequency_hz = np.angle(z) * 48000 / (2 * np.pi)
    heard = (frequency_hz > 50) & (frequency_hz < 10000)
    t60_s = -3 / (48000 * np.log10(np.abs(z[heard])))
    np.testing.assert_allclose(t60_s, room.t60_at(frequency_hz[heard]), rtol=1e-3)
    # diag(z^m) - A is singular at each, as far as powers of so many factors tell
    for pole in z[: -100 : z.size // 40]:
        P = np.diag(pole**linear.delays) - linear.A
        assert np.linalg.svd(P / np.linalg.norm(P, axis=0), compute_uv=False)[-1] < 1e-11


def test_what_is_more_than_filters_is_not_taken_out() -> None:
    A = DampedNetwork([97, 149], t60_s=[0.05, 0.02], bands_hz=[200, 9000], sample_rate=48000).linearize().A
    m = np.array([97, 149, 1, 1])
    assert _delay_poles.folded(A, m) is not None
    for i, j in ((2, 1), (2, 3), (1, 3)):  # a state driven by both lines, or coupled to another, or heard elsewhere
        changed = A.copy()
        changed[i, j] += 0.1
        assert _delay_poles.folded(changed, m) is None
        assert distance(delay_poles(changed, m), np.linalg.eigvals(_expand(changed, m))) < 1e-11

"""Zeros, hidden modes, sensitivities. Oracles: closed forms, scipy's designs, differences, the rank of the pencil."""

import numpy as np
import pytest
from scipy import linalg, signal

from rnndsp import DelayStateSpace, StateSpace, delay, gain
from rnndsp.errors import ParameterError
from rnndsp.filters import GRU, LSTM, SOS, Dense, FeedbackDelayNetwork, GerzonAllpass, orthogonal_matrix
from rnndsp.stability import (
    coefficient_sensitivity,
    hidden_modes,
    is_minimum_phase,
    pole_sensitivity,
    poles,
    spectrum,
    zeros,
)
from rnndsp.statespace import series

LONG = (1009, 1511, 1777, 2311)


def assert_same_set(found, expected, atol):
    assert len(found) == len(expected)
    rows, columns = linalg_match(found, expected)
    np.testing.assert_allclose(np.asarray(found)[rows], np.asarray(expected)[columns], atol=atol)


def linalg_match(found, expected):
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(np.abs(np.subtract.outer(found, expected)))


def random_space(rng, n, k, p, D=True):
    draw = rng.standard_normal
    return StateSpace(0.4 * draw((n, n)), draw((n, k)), draw((p, n)), draw((p, k)) if D else np.zeros((p, k)))


def rank_drop(filt, z):
    """The smallest singular value of the system matrix at z, relative to that beside it."""
    size = [
        np.linalg.svd(np.block([[np.diag(at**filt.delays) - filt.A, -filt.B], [filt.C, filt.D]]), compute_uv=False)[-1]
        for at in (z, z * np.exp(0.01j) + 0.001)
    ]
    return size[0] / size[1]


# ---- zeros


@pytest.mark.parametrize("kind", ["sections", "direct form"])
def test_zeros_of_a_design(kind):
    z, p, k = signal.ellip(6, 1, 60, 0.3, output="zpk")
    filt = SOS(signal.zpk2sos(z, p, k)) if kind == "sections" else StateSpace(*signal.tf2ss(*signal.zpk2tf(z, p, k)))
    assert_same_set(zeros(filt), z, 1e-10)


def test_multiple_zeros_are_as_sure_as_they_can_be():
    """Four at -1: the fourth root of rounding."""
    assert_same_set(zeros(SOS(signal.butter(4, 0.1, output="sos"))), -np.ones(4), 2e-3)


def test_no_spurious_zeros():
    """y = 0.1 / (z - 0.9) has none; each sample of latency takes one away; a gain has none."""
    assert zeros(StateSpace(*signal.tf2ss([0.1], [1, -0.9]))).size == 0
    assert zeros(gain([[2.0]])).size == 0
    assert zeros(delay(7)).size == 0
    rng = np.random.default_rng(0)
    poles_at = np.array([0.9, 0.5, -0.3, 0.8, 0.1, -0.7])
    for n_zeros in range(7):
        b = rng.standard_normal(n_zeros + 1)
        filt = StateSpace(*signal.tf2ss(b, np.poly(poles_at)))
        assert_same_set(zeros(filt), np.roots(b), 1e-8 * (1 + np.max(np.abs(np.roots(b)), initial=0) ** 2))


def test_zeros_with_a_regular_d():
    rng = np.random.default_rng(1)
    for n, k in ((3, 1), (5, 2), (6, 4)):
        filt = random_space(rng, n, k, k)
        assert_same_set(zeros(filt), np.linalg.eigvals(filt.A - filt.B @ np.linalg.solve(filt.D, filt.C)), 1e-8)


def test_zeros_of_many_channels():
    """Without direct sound n - k of them; their directions are blocked."""
    rng = np.random.default_rng(2)
    for n, k in ((4, 2), (6, 3), (5, 1)):
        filt = random_space(rng, n, k, k, D=False)
        found = zeros(filt)
        assert len(found) == n - k
        assert max(rank_drop(filt, z) for z in found) < 1e-9


def test_zeros_of_parts_side_by_side():
    z, p = [[0.5, -0.2], [1.5]], [[0.9, 0.3], [-0.4, 0.6]]
    parts = [StateSpace(*signal.zpk2ss(*both, 1.0)) for both in zip(z, p, strict=True)]
    matrices = [linalg.block_diag(*(getattr(part, name) for part in parts)) for name in "ABCD"]
    assert_same_set(zeros(StateSpace(*matrices)), [0.5, -0.2, 1.5], 1e-12)


@pytest.mark.parametrize(("k", "p"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_zeros_of_unlike_numbers_of_channels(k, p):
    """Any such filter has none; one in series with a zero on every channel of the narrow side has that one."""
    rng = np.random.default_rng(3)
    filt = random_space(rng, 4, k, p)
    assert zeros(filt).size == 0
    narrow = min(k, p)
    one = np.eye(narrow)
    fir = StateSpace(0 * one, one, -0.7 * one, one)  # 1 - .7 / z
    whole = fir >> filt if k < p else filt >> fir
    assert_same_set(zeros(whole), [0.7] * narrow, 1e-10)


def test_hidden_modes_are_zeros():
    filt = StateSpace(np.diag([0.5, 0.3]), [[1.0], [0.0]], [[1.0, 1.0]], [[1.0]])
    assert_same_set(zeros(filt), [0.3, -0.5], 1e-14)


def test_zeros_do_not_hang_on_scales():
    filt = SOS(signal.ellip(4, 1, 60, 0.3, output="sos")).linearize()
    scaled = filt.replace(B=1e-12 * filt.B, C=1e7 * filt.C, D=1e-5 * filt.D)
    assert_same_set(zeros(scaled), zeros(filt), 1e-10)


def test_zeros_of_a_cell():
    """A tone there leaves no trace in the output of the small-signal filter."""
    filt = LSTM(1, 4, seed=2) >> Dense(4, 1)
    _, state = filt.run(np.random.default_rng(0).standard_normal((50, 1)))
    linear = filt.linearize(state, [0.2])
    found = zeros(filt, state, [0.2])
    assert len(found) == 8
    assert max(rank_drop(linear, z) for z in found) < 1e-9


def test_zeros_of_an_allpass():
    filt = GerzonAllpass((5, 7, 11), gain=0.6)
    assert_same_set(zeros(filt), 1 / poles(filt).conj(), 1e-9)
    long = GerzonAllpass((1009, 1511), gain=0.6)
    assert long.n_states > spectrum.DENSE
    assert_same_set(np.abs(zeros(long)), 1 / np.abs(poles(long)), 1e-12)


@pytest.mark.parametrize("dry", [0.0, 0.4])
def test_zeros_of_long_lines(dry):
    """Two ways to the same zeros, with and without latency."""
    filt = FeedbackDelayNetwork((7, 11, 13, 17), t60_s=0.01, sample_rate=48000, dry=dry)
    dense, long = zeros(filt), spectrum._long_zeros(filt.linearize())
    assert len(dense) == (48 if dry else 41)
    assert_same_set(long, dense, 1e-9)
    network = FeedbackDelayNetwork(LONG, t60_s=1.0, sample_rate=48000, dry=dry)
    found = zeros(network)
    assert len(found) == sum(LONG) - (0 if dry else LONG[0])
    # their product, from the highest and the lowest coefficient of the numerator
    response = network.frequency_response(np.angle(found[:5]))
    assert np.all(np.isfinite(response))
    assert max(rank_drop(network, z) for z in found[::500]) < 1e-6


def test_zeros_out_of_reach():
    one = np.ones((4, 1))
    network = DelayStateSpace(0.5 * orthogonal_matrix(4), np.hstack([one, one]), np.hstack([one]).T, [[0, 0]], LONG)
    with pytest.raises(ParameterError, match="as many outputs as inputs"):
        zeros(network)
    singular = DelayStateSpace(0.5 * orthogonal_matrix(4), np.eye(4)[:, :2], np.eye(4)[:2], np.zeros((2, 2)), LONG)
    with pytest.raises(ParameterError, match="add some direct sound"):
        zeros(singular)


# ---- hidden modes


def test_hidden_modes():
    filt = StateSpace(np.diag([1.1, 0.9, 0.5, -0.3]), [[0.0], [1.0], [0.0], [1.0]], [[1.0, 0.0, 0.0, 1.0]], [[0.0]])
    found = hidden_modes(filt)
    np.testing.assert_allclose(found.pole, [1.1, 0.9, 0.5], atol=1e-12)
    assert found.uncontrollable.tolist() == [True, False, True]
    assert found.unobservable.tolist() == [False, True, True]
    assert found.unstable.tolist() == [True, False, False]
    assert len(found) == 3


def test_hidden_modes_in_any_coordinates():
    rng = np.random.default_rng(4)
    for _ in range(20):
        A = linalg.block_diag(np.diag([0.9, -0.5]), [[0.6, -0.6], [0.6, 0.6]], [[0.2]])
        B, C = rng.standard_normal((5, 2)), rng.standard_normal((2, 5))
        B[2:4] = 0
        C[:, 0] = 0
        T = rng.standard_normal((5, 5))
        filt = StateSpace(T @ A @ np.linalg.inv(T), 1e-6 * T @ B, 1e5 * C @ np.linalg.inv(T), np.zeros((2, 2)))
        found = hidden_modes(filt)
        np.testing.assert_allclose(found.pole, [0.9, 0.6 - 0.6j, 0.6 + 0.6j], atol=1e-8)
        assert found.uncontrollable.tolist() == [False, True, True]
        assert found.unobservable.tolist() == [True, False, False]


def test_of_two_equal_poles_one_is_hidden():
    filt = StateSpace(np.diag([0.5, 0.5, 0.1]), np.ones((3, 1)), np.ones((1, 3)), [[0.0]])
    found = hidden_modes(filt)
    np.testing.assert_allclose(found.pole, [0.5])
    assert found.uncontrollable.all() and found.unobservable.all()
    # a chain of two has only one direction
    chain = StateSpace([[0.5, 1.0], [0.0, 0.5]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
    assert len(hidden_modes(chain)) == 0


def test_nothing_is_hidden_in_a_design():
    assert len(hidden_modes(SOS(signal.ellip(6, 1, 60, 0.3, output="sos")))) == 0
    assert len(hidden_modes(delay(30000))) == 0
    assert len(hidden_modes(gain(1.0))) == 0
    assert len(hidden_modes(GRU(2, 5, seed=0))) == 0


DESIGNS = {
    "ellip": lambda n, f: signal.ellip(n, 1, 60, f, output="zpk"),
    "butter": lambda n, f: signal.butter(n, f, output="zpk"),
    "cheby1": lambda n, f: signal.cheby1(n, 1, f, output="zpk"),
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_steep_filters_are_told_from_sections_that_cancel(kind):
    """The weakest mode of the first is driven by 7e-11 of what the matrix is."""
    pair = 0.9 * np.exp([0.3j, -0.3j])
    ends, starts = StateSpace.from_zpk([0.1, 0.2], pair, 1.0), StateSpace.from_zpk(pair, [0.3, 0.4], 1.0)  # cancelled
    for cutoff in (0.002, 0.02, 0.9):
        steep = StateSpace.from_zpk(*DESIGNS[kind](24, cutoff))
        assert len(hidden_modes(steep)) == 0
        found = hidden_modes(series(ends, series(starts, steep))).pole
        # what a low Butterworth keeps of the others, by its zeros at -1, is 1e-60
        found = found if kind == "ellip" or cutoff > 0.5 else found[found.imag != 0]
        np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(pair), atol=1e-10)


def test_a_hidden_mode_at_a_pole_that_is_not():
    """Poles that rounding has moved by 1e-8, from where the pencil has full rank."""
    A, B = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 0.0], [1.0, 0.0, 0.2]]), np.array([[1.0], [0.0], [0.0]])
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    found = hidden_modes(StateSpace(turn.T @ A @ turn, turn.T @ B, np.array([[1.0, 1.0, 1.0]]) @ turn, [[0.0]]))
    np.testing.assert_allclose(found.pole, [0.5], atol=1e-7)
    assert found.uncontrollable.all() and not found.unobservable.any()


def test_hidden_modes_of_long_lines():
    """A Householder matrix keeps three of four directions: a threefold pole at gamma, of which one input drives one.

    The output adds all lines up with one sign, so it hears none of them.
    """
    filt = FeedbackDelayNetwork(LONG, t60_s=1.0, sample_rate=48000)
    found = hidden_modes(filt)
    gamma = 10 ** (-3 / 48000)
    np.testing.assert_allclose(found.pole, [gamma] * 3, atol=1e-9)
    assert found.uncontrollable.tolist() == [True, True, False] and found.unobservable.all()
    assert not found.unstable.any()
    assert len(hidden_modes(filt.replace(A=filt.A @ np.diag([1.0, 0.9, 0.8, 0.7])))) == 0


# ---- sensitivity


def test_pole_sensitivity():
    """[[.9, 5], [0, .8]]: 1 / |y^H x| = sqrt(1 + 50^2); a normal matrix has 1."""
    one = np.ones((2, 1))
    filt = StateSpace([[0.9, 5.0], [0.0, 0.8]], one, one.T, [[0.0]])
    np.testing.assert_allclose(pole_sensitivity(filt), np.sqrt(1 + 50**2), rtol=1e-12)
    for normal in ([[0.6, -0.6], [0.6, 0.6]], [[0.5, 0.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.5]]):
        np.testing.assert_allclose(pole_sensitivity(StateSpace(normal, one, one.T, [[0.0]])), 1, rtol=1e-12)
    jordan = pole_sensitivity(StateSpace([[0.5, 1.0], [0.0, 0.5]], one, one.T, [[0.0]]))
    assert np.all(jordan > 1e12)
    assert pole_sensitivity(gain(1.0)).size == 0


def test_pole_sensitivity_is_that_of_scipy():
    rng = np.random.default_rng(5)
    for n in (3, 6):
        filt = random_space(rng, n, 1, 1)
        values, left, right = linalg.eig(filt.A, left=True)
        expected = 1 / np.abs(np.sum(left.conj() * right, axis=0))
        found = poles(filt)
        order = [int(np.argmin(np.abs(values - p))) for p in found]
        np.testing.assert_allclose(pole_sensitivity(filt), expected[order], rtol=1e-9)


def test_pole_sensitivity_is_reached():
    """The worst change of the loop matrix moves a pole by so much, the lines being of any length."""
    filt = DelayStateSpace([[0.5, 0.6], [-0.5, 0.4]], np.ones((2, 1)), np.ones((1, 2)), [[0.0]], [3, 4])
    worst = pole_sensitivity(filt)[0]
    pole = poles(filt)[0]
    rng = np.random.default_rng(6)
    loop = np.diag(pole**filt.delays) - filt.A
    u, _, vh = np.linalg.svd(loop)
    moves = []
    for E in (np.outer(u[:, -1], vh[-1]).real, np.outer(u[:, -1], vh[-1]).imag, *rng.standard_normal((200, 2, 2))):
        E = E / np.linalg.norm(E, 2)
        moved = poles(filt.replace(A=filt.A + 1e-7 * E))
        moves.append(np.min(np.abs(moved - pole)) / 1e-7)
    assert 0.5 * worst < max(moves) <= worst * (1 + 1e-4)


def test_pole_sensitivity_of_long_lines():
    """One line: p^m = a, dp / da = p / (m a)."""
    filt = DelayStateSpace([[0.7]], [[1.0]], [[1.0]], [[0.0]], [5000])
    np.testing.assert_allclose(pole_sensitivity(filt), np.abs(poles(filt)) / (5000 * 0.7), rtol=1e-9)


def test_coefficient_sensitivity():
    """Poles .9, .8, .7: dp / da_2 = -45 for the first."""
    found = coefficient_sensitivity(np.poly([0.9, 0.8, 0.7]))
    np.testing.assert_allclose(found.pole, [0.9, 0.8, 0.7], atol=1e-12)
    np.testing.assert_allclose(found.derivative[0, 2], -45, rtol=1e-10)
    np.testing.assert_allclose(found.derivative[:, 2], [-45, 80, -35], rtol=1e-10)


def test_coefficient_sensitivity_against_differences():
    a = 3 * np.poly([0.9, -0.5, 0.3 + 0.6j, 0.3 - 0.6j]).real
    found = coefficient_sensitivity(a)
    for k in range(5):
        up, down = ([*a[:k], a[k] + step, *a[k + 1 :]] for step in (1e-6, -1e-6))
        for i, p in enumerate(found.pole):
            moved = [roots[np.argmin(np.abs(roots - p))] for roots in (np.roots(up), np.roots(down))]
            assert abs((moved[0] - moved[1]) / 2e-6 - found.derivative[i, k]) < 1e-7 * (1 + abs(found.derivative[i, k]))


def test_coefficient_sensitivity_of_odd_polynomials():
    assert np.isinf(coefficient_sensitivity([1.0, 0.0, 0.0]).derivative[:, 2]).all()
    assert coefficient_sensitivity([2.0]).pole.size == 0
    for wrong in ([], [0.0, 1.0], [[1.0]], [1.0, np.nan], StateSpace([[0.5]], [[1]], [[1]], [[0]]), "1"):
        with pytest.raises(ParameterError, match="one row of finite numbers"):
            coefficient_sensitivity(wrong)


# ---- minimum phase


def test_minimum_phase():
    def of(b, a):
        return is_minimum_phase(StateSpace(*signal.tf2ss(b, a)))

    assert of([1.0, -0.5], [1.0, -0.9])
    assert not of([1.0, -2.0], [1.0, -0.9])
    assert not of([1.0, -1.0], [1.0, -0.9])  # a zero on the circle
    assert not is_minimum_phase(StateSpace([[0.9]], [[1.0]], [[1.0]], [[0.0]]))  # latency
    assert not of([1.0, -0.5], [1.0, -1.1])
    assert is_minimum_phase(gain(0.5)) and not is_minimum_phase(gain(0.0))
    assert not is_minimum_phase(delay(3))
    assert not is_minimum_phase(SOS(signal.butter(4, 0.1, output="sos")))
    with pytest.raises(ParameterError, match="as many outputs as inputs"):
        is_minimum_phase(gain([[1.0, 2.0]]))


def test_minimum_phase_of_long_lines():
    """1 + 0.6 / z^5000 has its zeros inside, an allpass outside; a network with enough direct sound inside."""
    comb = DelayStateSpace([[0.0]], [[1.0]], [[0.6]], [[1.0]], [5000])
    assert is_minimum_phase(comb)
    assert not is_minimum_phase(comb.replace(C=[[1.5]]))
    assert not is_minimum_phase(GerzonAllpass((1009, 1511)))
    assert is_minimum_phase(FeedbackDelayNetwork((701, 903), t60_s=0.05, sample_rate=48000, dry=20.0))


def test_minimum_phase_has_the_gain_of_its_first_sample():
    """Jensen: the mean of ln |H| over the circle is ln |b0|, for a minimum-phase filter only."""
    w = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    for zero in (0.5, -0.8, 1.5):
        filt = StateSpace(*signal.tf2ss([2.0, -2.0 * zero], [1.0, -0.6]))
        mean = np.mean(np.log(np.abs(filt.frequency_response(w))))
        assert (abs(mean - np.log(2.0)) < 1e-12) == is_minimum_phase(filt)


def test_hidden_modes_where_numbers_run_over():
    beyond = StateSpace(np.full((2, 2), 1e308), np.ones((2, 1)), np.ones((1, 2)), [[0.0]])
    with np.errstate(all="ignore"):
        assert len(hidden_modes(beyond)) <= 2

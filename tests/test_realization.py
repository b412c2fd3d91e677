"""Conversions, realisations, discretisation.

Oracles: the zeros and poles that scipy designs, its responses of zeros and poles, sosfilt and lfilter, closed forms,
published Hankel singular values, python-control.
"""

import numpy as np
import pytest
from scipy import signal

from rnndsp import delay, gain
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, SOS, DelayStateSpace, FeedbackDelayNetwork, GerzonAllpass, StateSpace, TransferFunction
from rnndsp.realization import ZPK, balanced, discretized, minimal, reduced, zpk
from rnndsp.stability import gramians, hankel_singular_values, hidden_modes, peak_gain
from rnndsp.statespace import lft, parallel, series

DESIGNS = {
    "butter": lambda order, f, output: signal.butter(order, 2 * f, output=output),
    "ellip": lambda order, f, output: signal.ellip(order, 1, 60, 2 * f, output=output),
}
# in parts of the sample rate
CUTOFFS = (0.001, 0.02, 0.25, 0.45)
W = np.linspace(0.01, 3.1, 200)


def moved(found, expected):
    """Farthest that an entry of either list is from the other list, in parts of it."""
    assert len(found) == len(expected)
    apart = np.abs(np.asarray(found)[:, None] - expected) / np.abs(expected)
    return max(apart.min(axis=0).max(initial=0), apart.min(axis=1).max(initial=0))


def random_space(rng, n, n_inputs=1, n_outputs=1, radius=0.9):
    A = rng.standard_normal((n, n))
    A *= radius / np.max(np.abs(np.linalg.eigvals(A)), initial=1e-9)
    draw = rng.standard_normal
    return StateSpace(A, draw((n, n_inputs)), draw((n_outputs, n)), draw((n_outputs, n_inputs)))


def minus(filt):
    return filt.replace(C=-filt.C, D=-filt.D)


# ---- zeros and poles, sections, state space


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_poles_are_kept_at_any_order(design, cutoff):
    for order in range(2, 25):
        z, p, k = DESIGNS[design](order, cutoff, "zpk")
        sos = DESIGNS[design](order, cutoff, "sos")
        space = StateSpace.from_zpk(z, p, k)
        assert space.n_states == order
        for filt in (
            SOS(sos),
            SOS.from_zpk(z, p, k),
            space,
            SOS(space.to_sos()),
            StateSpace.from_sos(space.to_sos()),
            StateSpace.from_scipy(signal.dlti(z, p, k)),
        ):
            found = filt.to_zpk()
            # even in parts of the distance from the unit circle that is 1e-9
            assert moved(found.p, p) < 3e-12
            assert abs(found.k / k - 1) < 1e-12
            assert len(found.z) == order
            if design == "ellip":
                assert moved(found.z, z) < 1e-11
            else:  # all at -1: pairs of them are known to half the digits
                assert moved(found.z, z) < 1e-7
        assert moved(space.poles(), p) < 3e-12


@pytest.mark.parametrize("design", DESIGNS)
def test_sections_and_state_space_equal_scipy(design):
    u = np.random.default_rng(0).standard_normal(2000)
    for order in (2, 7, 24):
        for cutoff in CUTOFFS[2:]:
            z, p, k = DESIGNS[design](order, cutoff, "zpk")
            sos = DESIGNS[design](order, cutoff, "sos")
            expected = signal.sosfilt(sos, u)
            space = StateSpace.from_zpk(z, p, k)
            for filt in (SOS(sos), SOS.from_zpk(z, p, k), space, StateSpace.from_sos(sos), SOS(space.to_sos())):
                np.testing.assert_allclose(filt(u), expected, rtol=0, atol=1e-12 * np.max(np.abs(expected)))


def test_a_cascade_whose_first_gain_is_tiny_is_heard():
    """Scipy puts all of the gain into the first section: 8e-61, far below what is flushed as silence."""
    z, p, k = DESIGNS["butter"](24, 0.001, "zpk")
    sos = DESIGNS["butter"](24, 0.001, "sos")
    u = np.ones(20000)
    expected = signal.sosfilt(sos, u)
    space = StateSpace.from_zpk(z, p, k)
    assert k < 1e-60
    for filt in (SOS(sos), SOS.from_zpk(z, p, k), space, StateSpace.from_sos(sos), SOS(sos).linearize()):
        # rounding next to z = 1, of scipy as well
        np.testing.assert_allclose(filt(u), expected, atol=1e-9)
    cut, state = SOS(sos).run(u[:777])
    np.testing.assert_array_equal(np.concatenate([cut, SOS(sos).run(u[777:], state)[0]]), SOS(sos)(u))
    assert not SOS(sos)(np.eye(1, 400000)[0])[-1000:].any()
    spread = SOS.from_zpk(z, p, k).sos
    w = np.append(np.abs(np.angle(p)), 0)
    levels = [np.max(np.abs(signal.freqz_sos(spread[:n], w)[1])) for n in range(1, 13)]
    assert min(levels) > 0.5 and max(levels) < 2
    np.testing.assert_allclose(np.prod(spread[:, 0]), k, rtol=1e-14)


def test_float32_audio_where_float32_coefficients_are_unstable():
    sos = signal.ellip(8, 1, 60, 2, fs=48000, output="sos")
    rounded = sos.astype(np.float32).astype(np.float64)
    assert max(np.max(np.abs(np.roots(row[3:]))) for row in rounded) > 1.0001
    u = np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    expected = signal.sosfilt(sos, u.astype(np.float64))
    y, state = SOS(sos).run(u)
    assert y.dtype == np.float32 and state.vector.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


@pytest.mark.parametrize(
    ("z", "p"),
    [
        ([], []),
        ([], [0.3]),
        ([0.5], [0.3]),
        ([], [0.3, -0.2, 0.1]),
        ([0.5], [0.3, 0.2 + 0.1j, 0.2 - 0.1j]),
        ([0.0, 0.0], [0.5, 0.4, -0.3]),
        ([0.0, 0.5], [0.0, 0.0, 0.9]),
        ([], [0.0, 0.0, 0.0]),
        ([1j, -1j], [1.2, 0.5, 0.4, 0.3]),
    ],
)
def test_latency_and_zeros_at_the_origin(z, p):
    u = np.eye(1, 12)[0]
    b, a = signal.zpk2tf(z, p, 2.0)
    b, a = np.atleast_1d(b), np.atleast_1d(a)
    expected = signal.lfilter(np.concatenate([np.zeros(len(a) - len(b)), b]), a, u)
    common = min(z.count(0.0), p.count(0.0))
    for kind in (SOS, StateSpace, TransferFunction):
        filt = kind.from_zpk(z, p, 2.0, sample_rate=8000)
        assert filt.sample_rate == 8000
        np.testing.assert_allclose(filt(u), expected, atol=1e-14)
        back = StateSpace.from_ba(*filt.to_ba())
        np.testing.assert_allclose(back(u), expected, atol=1e-13)
        np.testing.assert_allclose(SOS(filt.to_sos())(u), expected, atol=1e-13)
        found = filt.to_zpk()
        assert isinstance(found, ZPK) and found.k == pytest.approx(2, rel=1e-13)
        assert (len(found.z), len(found.p)) == (len(z) - common, len(p) - common)
        for roots, given in ((found.z, z), (found.p, p)):
            rest = sorted(given, key=abs)[common:]
            np.testing.assert_allclose(np.sort_complex(roots), np.sort_complex(np.array(rest, complex)), atol=1e-13)
            np.testing.assert_array_equal(np.sort_complex(roots), np.sort_complex(roots.conj()))


def test_state_of_a_direct_form_is_that_of_lfilter():
    b, a = signal.butter(4, 0.3)
    u, zi = np.random.default_rng(0).standard_normal(100), np.array([0.3, -0.2, 0.5, 0.1])
    filt = StateSpace.from_ba(3 * b, 3 * a)
    y, state = filt.run(u, filt.rest_state().unravel(zi))
    expected, zf = signal.lfilter(b, a, u, zi=zi)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    np.testing.assert_allclose(state.ravel(), zf, atol=1e-13)


# ---- polynomials


def test_polynomials_hold_what_they_promise_or_refuse():
    accepted = refused = 0
    for design in DESIGNS.values():
        for order in range(2, 25):
            for cutoff in CUTOFFS:
                z, p, k = design(order, cutoff, "zpk")
                w = np.concatenate([W, np.abs(np.angle(p))])
                h = signal.freqz_zpk(z, p, k, w)[1]
                try:
                    b, a = SOS.from_zpk(z, p, k).to_ba()
                except ParameterError:
                    b, a = signal.zpk2tf(z, p, k)
                    near = np.min(np.abs(np.roots(a)[:, None] - p), axis=0) / (1 - np.abs(p))
                    assert near.max() > 1e-10  # in parts of the distance from the circle
                    refused += 1
                else:
                    off = np.max(np.abs(signal.freqz(b, a, w)[1] - h)) / np.max(np.abs(h))
                    assert off < 1e-6
                    assert np.max(np.abs(np.roots(a))) < 1
                    assert moved(np.roots(a), p) < 1e-6
                    accepted += 1
    assert accepted > 30 and refused > 100


def test_order_24_loses_every_digit_and_the_message_says_how_many():
    z, p, k = DESIGNS["butter"](24, 0.001, "zpk")
    assert np.max(np.abs(np.roots(np.poly(p)))) > 1
    for convert in (
        SOS.from_zpk(z, p, k).to_ba,
        StateSpace.from_zpk(z, p, k).to_ba,
        lambda: TransferFunction.from_zpk(z, p, k),
        lambda: TransferFunction.from_sos(signal.zpk2sos(z, p, k)),
        lambda: TransferFunction(*signal.zpk2tf(z, p, k)).to_zpk(),
        lambda: TransferFunction(*signal.zpk2tf(z, p, k)).to_sos(),
        lambda: SOS.from_ba(*signal.zpk2tf(z, p, k)),
    ):
        with pytest.raises(
            ParameterError, match=r"order 24 .* ill-conditioned.*.0 of 16 digits are left, \d\d are lost"
        ):
            convert()
    with pytest.raises(ParameterError, match=r"60 are lost.*stay with second-order sections"):
        SOS.from_zpk(z, p, k).to_ba()


def test_tolerance_is_the_figure():
    """A double pole at r: the sum of |a| over a(1) is ((1 + r) / (1 - r))^2."""
    b, a = [1.0, 0.0, 0.0], [1.0, -2 * 0.999, 0.999**2]
    figure = 2 * np.finfo(float).eps * (1.999 / 0.001) ** 2 * 2  # numerator as much as denominator
    assert 1.7e-9 < figure / 2 < 1.8e-9 < figure
    assert len(TransferFunction(b, a).to_zpk(tolerance=1.1 * figure).p) == 2
    with pytest.raises(ParameterError, match=r"by up to .e-09 of itself .. of 16 digits are left, 7 are lost.*=1e-09"):
        TransferFunction(b, a).to_zpk(tolerance=1e-9)
    # coefficients as they stand are never refused
    b, a = signal.zpk2tf(*DESIGNS["butter"](24, 0.001, "zpk"))
    np.testing.assert_allclose(TransferFunction(b, a).to_ba()[1], a)
    np.testing.assert_allclose(StateSpace.from_ba(b, a).C, np.eye(1, 24))
    # an integrator is exact
    np.testing.assert_array_equal(SOS([[1, 0, 0, 1, -1, 0]]).to_ba()[1], [1, -1])


# ---- any filter, entry by entry


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 20])
@pytest.mark.parametrize("direct", [True, False])
def test_entries_of_a_matrix(n, direct):
    filt = random_space(np.random.default_rng(n), n, 2, 3)
    filt = filt if direct else filt.replace(D=0 * filt.D)
    h = filt.frequency_response(W)
    for i in range(3):
        for j in range(2):
            z, p, k = filt.to_zpk(entry=(i, j))
            found = signal.freqz_zpk(z, p, k, W)[1]
            np.testing.assert_allclose(found, h[:, i, j], atol=1e-12 * (np.max(np.abs(h)) + 1e-300))
            assert len(p) - len(z) == (0 if direct or not n else 1)
            np.testing.assert_allclose(
                SOS(filt.to_sos(entry=(i, j))).linearize().frequency_response(W)[:, 0, 0], found, atol=1e-11
            )
    if n == 3:
        b, a = filt.to_ba(entry=(2, 1))
        np.testing.assert_allclose(a, np.poly(filt.A), atol=1e-13)
        np.testing.assert_allclose(signal.freqz(b, a, W)[1], h[:, 2, 1], atol=1e-12)


def test_networks_cells_and_what_does_not_move():
    reverb = FeedbackDelayNetwork((13, 17, 29), t60_s=0.05, sample_rate=8000, n_channels=2, dry=0.3)
    z, p, k = zpk(reverb, entry=(0, 1))
    expected = reverb.linearize().frequency_response(W)[:, 0, 1]
    np.testing.assert_allclose(signal.freqz_zpk(z, p, k, W)[1], expected, atol=1e-11)
    assert len(p) == 59 and len(p) - len(z) == 13  # the shortest line
    cell = LSTM(1, 3, seed=1)
    state = cell.rest_state().unravel(np.linspace(-0.5, 0.7, 6))
    z, p, k = zpk(cell, state, entry=(2, 0))
    expected = cell.linearize(state).frequency_response(W)[:, 2, 0]
    np.testing.assert_allclose(signal.freqz_zpk(z, p, k, W)[1], expected, atol=1e-13)
    for filt, n, k in ((delay(5), 5, 1.0), (gain(0.0), 0, 0.0), (delay(3) >> gain(-2.0), 3, -2.0)):
        found = zpk(filt)
        assert not len(found.z) and found.p.tolist() == [0] * n and found.k == k
    # nothing leads to the second state, and from the third nothing leads out
    loose = StateSpace(np.diag([0.5, 2.0, 3.0]), [[1.0], [0.0], [1.0]], [[1.0, 1.0, 0.0]], [[0.0]])
    assert zpk(loose).p.tolist() == [0.5] and minimal(loose) == StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]])


def test_a_series_is_taken_apart():
    """12 zeros at -1 and 12 poles at 0.9, which as one matrix would be known to a tenth."""
    part = StateSpace.from_zpk([-1.0], [0.9], 0.01)
    filt = part
    for _ in range(11):
        filt = series(filt, part)
    z, p, k = zpk(filt)
    np.testing.assert_allclose(z, -np.ones(12), atol=1e-13)
    np.testing.assert_allclose(p, 0.9 * np.ones(12), atol=1e-15)
    assert k == pytest.approx(1e-24, rel=1e-12)
    allpass = GerzonAllpass([7], gain=0.6) >> GerzonAllpass([11], gain=0.5)
    z, p, k = zpk(allpass)
    assert k == pytest.approx(zpk(allpass.children[0]).k * zpk(allpass.children[1]).k, rel=1e-14)
    np.testing.assert_allclose(np.sort(np.abs(z)), np.sort(1 / np.abs(p)), rtol=1e-12)


# ---- fewer states


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize(
    "hidden", [np.diag([0.5, 0.99, 1.1]), [[0.9, 1, 0], [0, 0.9, 0], [0, 0, 0.9]]], ids=["apart", "jordan"]
)
def test_minimal_takes_hidden_modes_and_no_others(cutoff, hidden):
    rng = np.random.default_rng(1)
    for order in (2, 5, 12, 24):
        filt = StateSpace.from_zpk(*DESIGNS["ellip"](order, cutoff, "zpk"))
        assert minimal(filt) == filt
        assert minimal(parallel(filt, filt)).n_states == order
        turn = np.linalg.qr(rng.standard_normal((order + 3, order + 3)))[0]
        A = np.zeros((order + 3, order + 3))
        A[:order, :order], A[order:, order:] = filt.A, hidden
        B, C = np.vstack([filt.B, np.zeros((3, 1))]), np.hstack([filt.C, np.ones((1, 3))])
        for heard in (True, False):
            wide = StateSpace(turn.T @ A @ turn, turn.T @ B, C @ turn, filt.D)
            wide = wide if heard else StateSpace(wide.A.T, wide.C.T, wide.B.T, wide.D)
            found = minimal(wide)
            assert found.n_states == order
            np.testing.assert_allclose(found.frequency_response(W), filt.frequency_response(W), atol=1e-9)


def test_minimal_cancels_a_zero_and_a_pole():
    cancelled = series(StateSpace.from_zpk([0.5], [0.9], 2.0), StateSpace.from_zpk([0.9], [0.2], 1.0))
    assert len(hidden_modes(cancelled)) == 1
    z, p, k = zpk(minimal(cancelled))
    np.testing.assert_allclose([*z, *p, k], [0.5, 0.2, 2.0], atol=1e-14)
    unstable = series(StateSpace.from_zpk([], [2.0], 1.0), StateSpace.from_zpk([], [0.5], 1.0))
    assert minimal(unstable) == unstable
    for n in (1, 4):
        rng = np.random.default_rng(n)
        filt = random_space(rng, n, 2, 2)
        twice = minimal(parallel(filt, filt))
        assert twice.n_states == n
        np.testing.assert_allclose(twice.frequency_response(W), 2 * filt.frequency_response(W), atol=1e-12)
    assert minimal(gain([[1.0, 2.0]])) == gain([[1.0, 2.0]])
    filt = StateSpace.from_zpk(*DESIGNS["ellip"](6, 0.15, "zpk"))
    assert minimal(parallel(filt, minus(filt))).n_states == 0


def published():
    """AB09AD's example of SLICOT, continuous, of seven states, two inputs and three outputs."""
    A = [
        [-0.04165, 0.0000, 4.9200, -4.9200, 0.0000, 0.0000, 0.0000],
        [-5.2100, -12.500, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.0000, 3.3300, -3.3300, 0.0000, 0.0000, 0.0000, 0.0000],
        [0.5450, 0.0000, 0.0000, 0.0000, -0.5450, 0.0000, 0.0000],
        [0.0000, 0.0000, 0.0000, 4.9200, -0.04165, 0.0000, 4.9200],
        [0.0000, 0.0000, 0.0000, 0.0000, -5.2100, -12.500, 0.0000],
        [0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 3.3300, -3.3300],
    ]
    B, C = np.zeros((7, 2)), np.zeros((3, 7))
    B[1, 0] = B[5, 1] = 12.5
    C[0, 0] = C[1, 3] = C[2, 4] = 1
    return np.array(A), B, C, np.zeros((3, 2))


def test_published_hankel_singular_values():
    """The bilinear transform keeps them."""
    values = [2.5139, 2.0846, 1.9178, 0.7666, 0.5473, 0.0253, 0.0246]
    filt = discretized(*published(), sample_rate=3.0, method="bilinear")
    np.testing.assert_allclose(hankel_singular_values(filt), values, atol=5.1e-5)
    few = reduced(filt, order=5)
    np.testing.assert_allclose(few.hankel_values, values, atol=5.1e-5)
    assert few.error_bound == pytest.approx(2 * (0.0253 + 0.0246), abs=2e-4)
    np.testing.assert_allclose(hankel_singular_values(few.filter), values[:5], atol=2e-2)
    error = peak_gain(parallel(filt, minus(few.filter)))
    assert 0.0253 - 5e-5 <= error.upper <= few.error_bound


@pytest.mark.parametrize("seed", range(4))
def test_balanced(seed):
    rng = np.random.default_rng(seed)
    filt = random_space(rng, 6, 2, 3)
    wide = parallel(filt, random_space(rng, 3, 2, 3).replace(B=np.zeros((3, 2)), D=np.zeros((3, 2))))
    found = balanced(wide)
    values = hankel_singular_values(filt)
    assert found.n_states == 6
    for gramian in vars(gramians(found)).values():
        np.testing.assert_allclose(gramian, np.diag(values), atol=1e-12 * values[0])
    np.testing.assert_allclose(found.frequency_response(W), filt.frequency_response(W), atol=1e-11)


def test_balanced_and_reduced_at_high_order():
    for order in (6, 24):
        for cutoff in CUTOFFS:
            filt = StateSpace.from_zpk(*DESIGNS["ellip"](order, cutoff, "zpk"))
            whole = balanced(filt)
            assert moved(whole.poles(), filt.poles()) < 1e-11
            for kept in (order // 2, order - 1):
                few = reduced(filt, order=kept)
                assert few.filter.n_states == kept and few.filter.spectral_radius() < 1
                error = peak_gain(parallel(filt, minus(few.filter)))
                # no filter of that order is nearer than the first value that is gone
                assert few.hankel_values[kept] * (1 - 1e-6) <= error.upper <= few.error_bound * (1 + 1e-6)


def test_closed_form_and_tolerance():
    """1 / (z - a) has the one Hankel singular value 1 / (1 - a^2)."""
    for a in (0.5, -0.99):
        few = reduced(StateSpace.from_zpk([], [a], 1.0), order=1)
        assert few.hankel_values == pytest.approx([1 / (1 - a * a)], rel=1e-12)
        nothing = reduced(StateSpace.from_zpk([], [a], 1.0), order=0)
        assert nothing.filter.n_states == 0 and nothing.error_bound == pytest.approx(2 / (1 - a * a), rel=1e-12)
    filt = random_space(np.random.default_rng(3), 12, radius=0.7)
    orders = []
    for level in (40.0, -20.0, -40.0, -80.0, -400.0):
        few = reduced(filt, tolerance_db=level)
        assert few.error_bound <= 10 ** (level / 20) or few.filter.n_states == 12
        assert peak_gain(parallel(filt, minus(few.filter))).upper <= few.error_bound * (1 + 1e-9) + 1e-12
        if few.filter.n_states:
            assert reduced(filt, order=few.filter.n_states - 1).error_bound > 10 ** (level / 20)
        orders.append(few.filter.n_states)
    assert orders == sorted(orders) and orders[0] == 0 and orders[-1] == 12
    assert reduced(filt, order=100).filter.n_states == 12


def test_equal_values_are_not_parted():
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lossless = StateSpace([[0.0, 0.6], [0.6, 0.0]], 0.8 * np.eye(2), 0.8 * np.eye(2), [[0.0, -0.6], [-0.6, 0.0]])
    np.testing.assert_allclose(hankel_singular_values(lossless), [1, 1], atol=1e-13)
    with pytest.raises(ParameterError, match=r"order=1 parts Hankel singular values equal to 1: take 0 or 2"):
        reduced(lossless.replace(B=lossless.B @ turn, D=lossless.D @ turn), order=1)
    assert reduced(lossless, tolerance_db=3.0).filter.n_states == 2


# ---- continuous time


def test_first_order_in_closed_form():
    """dx/dt = -w x + w u."""
    w, rate = 2 * np.pi * 100.0, 1000.0
    t = 1 / rate
    matrices = [[-w]], [[w]], [[1.0]], [[0.0]]

    def pole(method, **settings):
        filt = discretized(*matrices, sample_rate=rate, method=method, **settings)
        assert filt.sample_rate == rate
        return filt.A.item()

    for method in ("zoh", "foh", "impulse"):
        assert pole(method) == pytest.approx(np.exp(-w * t), rel=1e-14)
    assert pole("euler") == pytest.approx(1 - w * t, rel=1e-14)
    assert pole("backward_diff") == pytest.approx(1 / (1 + w * t), rel=1e-14)
    assert pole("bilinear") == pytest.approx((2 - w * t) / (2 + w * t), rel=1e-14)
    filt = discretized(*matrices, sample_rate=rate, method="zoh")
    n = np.arange(20)
    np.testing.assert_allclose(filt(np.ones(20)), 1 - np.exp(-w * t * n), atol=1e-14)
    filt = discretized(*matrices, sample_rate=rate, method="foh")
    np.testing.assert_allclose(filt(n * t), n * t - (1 - np.exp(-w * t * n)) / w, atol=1e-14)
    filt = discretized(*matrices, sample_rate=rate, method="impulse")
    np.testing.assert_allclose(filt(np.eye(1, 20)[0]), w * t * np.exp(-w * t * n), atol=1e-14)
    for f in (10.0, 100.0, 499.0):
        filt = discretized(*matrices, sample_rate=rate, method="bilinear", prewarp_hz=f)
        found = filt.frequency_response(2 * np.pi * f / rate).item()
        assert found == pytest.approx(w / (2j * np.pi * f + w), rel=1e-12)


def test_as_scipys_bilinear_filters():
    """A Butterworth prototype, prewarped to its cutoff, is the digital design."""
    order, f, rate = 5, 3000.0, 48000.0
    analogue = signal.ZerosPolesGain(*signal.butter(order, 2 * np.pi * f, analog=True, output="zpk")).to_ss()
    filt = discretized(
        analogue.A, analogue.B, analogue.C, analogue.D, sample_rate=rate, method="bilinear", prewarp_hz=f
    )
    z, p, k = signal.butter(order, f, fs=rate, output="zpk")
    np.testing.assert_allclose(filt.frequency_response(W)[:, 0, 0], signal.freqz_zpk(z, p, k, W)[1], atol=1e-9)
    assert moved(filt.poles(), p) < 1e-9


def test_discretisation_equals_python_control():
    control = pytest.importorskip("control")
    for matrices in (published(), (np.array([[0.0, 1.0], [-4.0, -0.4]]), np.eye(2), np.eye(2), np.ones((2, 2)))):
        for method in ("zoh", "foh", "bilinear", "euler", "backward_diff"):
            expected = control.sample_system(control.ss(*matrices), 0.1, method)
            found = discretized(*matrices, sample_rate=10.0, method=method)
            for name in "ABCD":
                np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-13)
        expected = control.sample_system(control.ss(*matrices), 0.1, "bilinear", prewarp_frequency=2 * np.pi * 2)
        found = discretized(*matrices, sample_rate=10.0, method="bilinear", prewarp_hz=2.0)
        np.testing.assert_allclose(found.A, expected.A, atol=1e-13)
        np.testing.assert_allclose(found.D, expected.D, atol=1e-13)


# ---- loops of linear filters


def test_linear_fractional_transformation_equals_python_control():
    pytest.importorskip("control")
    rng = np.random.default_rng(0)
    for k, p in ((2, 2), (3, 2), (2, 3)):
        plant, around = random_space(rng, 4, k, p, 0.5), random_space(rng, 3, p - 1, k - 1, 0.5)
        found = lft(plant, around)
        expected = plant.to_control().lft(around.to_control())
        assert found.n_inputs == found.n_outputs == 1
        np.testing.assert_allclose(
            found.frequency_response(W)[:, 0, 0],
            np.array([expected(np.exp(1j * w)) for w in W]).reshape(-1),
            atol=1e-10,
        )


def test_linear_fractional_transformation_in_closed_form():
    """P11 + P12 K (1 - P22 K)^-1 P21, frequency by frequency; delay lines stay lines."""
    rng = np.random.default_rng(1)
    plant = random_space(rng, 3, 3, 3)
    around = DelayStateSpace(0.3 * np.eye(2), np.eye(2), 0.2 * np.eye(2), 0.1 * np.ones((2, 2)), [1000, 3])
    found = lft(plant, around)
    assert found.delays.tolist() == [1, 1, 1, 1000, 3]
    P, K = plant.frequency_response(W), around.frequency_response(W)
    loop = np.linalg.solve(np.eye(2) - P[:, 1:, 1:] @ K, P[:, 1:, :1])
    np.testing.assert_allclose(found.frequency_response(W), P[:, :1, :1] + P[:, :1, 1:] @ K @ loop, atol=1e-10)
    # feedback with one sample of delay: y = g (u + h y[t-1])
    g, h = gain(0.5), gain(0.8)
    adder = gain([[0.0, 1.0], [1.0, 0.0]])
    closed = lft(lft_of_sum(g), series(delay(1), h))
    np.testing.assert_allclose(closed(np.eye(1, 6)[0]), 0.5 * 0.4 ** np.arange(6), atol=1e-15)
    assert lft(adder, gain(1.0))(np.ones(3)).tolist() == [1, 1, 1]


def lft_of_sum(g):
    """(u, w) to (y, y), y = g (u + w)."""
    return series(series(gain([[1.0, 1.0]]), g), gain([[1.0], [1.0]]))


# ---- bad input

SPACE = StateSpace(0.5 * np.eye(2), np.eye(2), np.eye(2), np.zeros((2, 2)))
ONE = StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SOS.from_zpk([0.1, 0.2], [0.5], 1.0), "1 more zeros than poles look ahead"),
        (lambda: SOS.from_zpk([], [0.5j, 0.2], 1.0), "conjugate pairs"),
        (lambda: SOS.from_zpk([], [0.5j], 1.0), "an odd one is not real"),
        (lambda: StateSpace.from_zpk([], [np.nan], 1.0), "p of shape .1,. must be one row of finite numbers"),
        (lambda: StateSpace.from_zpk([[1.0]], [0.1], 1.0), "z of shape"),
        (lambda: StateSpace.from_zpk(["x"], [0.1], 1.0), "must be a row of numbers"),
        (lambda: SOS.from_zpk([], [0.1], 1j), "k=1j must be a number"),
        (lambda: SOS.from_zpk([], [0.1], np.inf), "k=inf must be a number"),
        (lambda: StateSpace.from_sos(np.ones((2, 5))), "n_sections, 6"),
        (lambda: StateSpace.from_sos([[1, 0, 0, 0, 1, 1]]), "a0 = 0"),
        (lambda: StateSpace.from_sos([[np.nan, 0, 0, 1, 0, 0]]), "sos holds NaN"),
        (lambda: StateSpace.from_sos([[1, 0, 0, 1, 0.5, 0.1]] * 2001), "2001 sections are too many"),
        (lambda: StateSpace.from_ba([1.0], [0.0, 1.0]), "a0 = 0"),
        (lambda: StateSpace.from_ba([[1.0]], [1.0]), "b has shape"),
        (lambda: TransferFunction(np.ones(1200), [1.0]).to_zpk(), "order 1199 is more than the 1000"),
        (lambda: SOS.from_zpk([], [0.1], 1.0).to_ba(tolerance=0), "tolerance=0.0 must be above 0"),
        (lambda: SOS.from_zpk([], [0.1], 1.0).to_ba(tolerance="x"), "tolerance='x' must be a number"),
        (lambda: SPACE.to_zpk(), r"2 outputs and 2 inputs: say entry=\(output, input\)"),
        (lambda: zpk(SPACE, entry=(0, 2)), "there is no input 2"),
        (lambda: zpk(SPACE, entry=(-1, 0)), "output of entry=-1"),
        (lambda: zpk(SPACE, entry=5), "entry=5 must be two whole numbers"),
        (lambda: minimal(SPACE, tolerance=0), "tolerance=0 must lie within"),
        (lambda: minimal(delay(501)), "501 states are more than the 500"),
        (lambda: balanced(delay(501)), "501 states are more than the 500"),
        (lambda: balanced(StateSpace.from_zpk([], [1.0], 1.0)), "does not decay"),
        (lambda: reduced(SPACE), "give one of them"),
        (lambda: reduced(SPACE, order=1, tolerance_db=-60), "give one of them"),
        (lambda: reduced(SPACE, order=-1), "order=-1 must be a whole number"),
        (lambda: reduced(SPACE, tolerance_db=np.nan), "tolerance_db=nan must be a number"),
        (lambda: discretized([[0.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=0), "sample_rate=0 must be a positive"),
        (lambda: discretized([[0.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=1, method="tustin"), "choose one of"),
        (lambda: discretized([[0.0, 1.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=1), "A has shape"),
        (lambda: discretized([[np.nan]], [[1.0]], [[1.0]], [[0.0]], sample_rate=1), "A holds NaN"),
        (lambda: discretized([[1e9]], [[1.0]], [[1.0]], [[0.0]], sample_rate=1), "leads beyond all numbers"),
        (
            lambda: discretized([[2.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=1, method="bilinear"),
            "singular|Singular",
        ),
        (lambda: discretized([[0.0]], [[1.0]], [[1.0]], [[1.0]], sample_rate=1, method="impulse"), "strictly proper"),
        (lambda: discretized([[0.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=8, prewarp_hz=1), "goes with"),
        (
            lambda: discretized([[0.0]], [[1.0]], [[1.0]], [[0.0]], sample_rate=8, method="bilinear", prewarp_hz=4),
            "half the sample rate, 4 Hz",
        ),
        (lambda: lft(ONE, SPACE), "does not fit"),
        (lambda: lft(gain([[0.0, 1.0], [1.0, 1.0]]), gain(1.0)), "no solution"),
        (lambda: lft(SPACE.replace(sample_rate=8.0), ONE.replace(sample_rate=9.0)), "sample rates differ: 8 and 9"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ParameterError, match=said):
        call()

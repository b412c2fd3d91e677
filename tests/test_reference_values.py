"""Exact, verified and published values that the tests of single modules do not hold yet, grouped by their theory.

Values of norms, Gramians, Kreiss constants, products of matrices, maps and fixed points are in the tests of the
functions that find them; here are allpasses and lossless networks, the theory of random networks, digital oscillations.
"""

import itertools

import numpy as np
import pytest
from scipy import signal
from scipy.linalg import solve_continuous_lyapunov

from rnndsp import Feedback, Filter, StateSpace, delay, gain, impulse_response
from rnndsp.distortion import Behaviour, limit_cycle
from rnndsp.filters import (
    GRU,
    LSTM,
    SOS,
    DelayStateSpace,
    Elman,
    FeedbackDelayNetwork,
    GerzonAllpass,
    TransferFunction,
    orthogonal_matrix,
)
from rnndsp.response import group_delay
from rnndsp.stability import (
    Verdict,
    certify,
    gramians,
    hankel_singular_values,
    is_minimum_phase,
    jacobians,
    lyapunov_spectrum,
    norm,
    peak_gain,
    poles,
    spectral_radius,
    t60_s,
)
from rnndsp.state import Field
from tests.test_gains import THREE
from tests.test_trajectories import Map

CIRCLE = np.linspace(0, 2 * np.pi, 97)


def whole(A, B, C, D):
    return np.block([[A, B], [C, D]])


def parted(V, n):
    return V[:n, :n], V[:n, n:], V[n:, :n], V[n:, n:]


def gap(H):
    """How far H^H H is from the identity at the worst frequency."""
    return np.max(np.abs(np.conj(np.swapaxes(H, 1, 2)) @ H - np.eye(H.shape[2])))


def characteristic(A, m):
    """Coefficients of det(diag(z^m) - A) / z^sum(m) in powers of 1 / z, from the 2^N principal minors."""
    p = np.zeros(sum(m) + 1)
    for size in range(len(m) + 1):
        for rows in itertools.combinations(range(len(m)), size):
            minor = np.linalg.det(A[np.ix_(rows, rows)]) if rows else 1.0
            p[sum(m[i] for i in rows)] += (-1) ** size * minor
    return p


# ---- linear filters (sections 2.1 and 2.8)


def test_decay_time_of_a_pole():
    """r = 10^(-3 / (fs T60)): 0.9999280468 for two seconds at 48 kHz."""
    network = FeedbackDelayNetwork([1, 3], t60_s=2.0, sample_rate=48000)
    assert spectral_radius(network) == pytest.approx(0.9999280468, abs=5e-11)
    assert t60_s(0.9999280468, 48000) == pytest.approx(2.0, rel=1e-6)


def test_second_order_triangle():
    """1 + a1 / z + a2 / z^2 decays if and only if |a2| < 1 and |a1| < 1 + a2."""
    rng = np.random.default_rng(0)
    inside = 0
    for a1, a2 in zip(rng.uniform(-2.4, 2.4, 150), rng.uniform(-1.2, 1.2, 150), strict=True):
        filt = TransferFunction([1.0], [1.0, a1, a2])
        decays = abs(a2) < 1 and abs(a1) < 1 + a2
        assert (spectral_radius(filt) < 1) == decays
        assert certify(filt, property="contraction").verdict == (Verdict.PROVED if decays else Verdict.REFUTED)
        inside += decays
    assert 40 < inside < 110


def test_reflection_coefficients_give_poles_inside():
    """2000 random vectors r through k = r / sqrt(1 + r^2) and Levinson's step-up: always stable."""
    rng = np.random.default_rng(1)
    for _ in range(2000):
        a = np.ones(1)
        for r in rng.standard_normal(rng.integers(1, 9)) * rng.choice([0.3, 1.0, 3.0]):
            a = np.append(a, 0)
            a += r / np.sqrt(1 + r**2) * a[::-1]
        assert np.max(np.abs(poles(TransferFunction([1.0], a)))) < 1


def test_continuous_gramians_pass_the_moebius_map():
    """z = (1 + s) / (1 - s) keeps Gramians and gains: published H2 2.237461821810309, H-infinity 4.276759162964244."""
    A, B, C, D = THREE
    back = np.linalg.inv(np.eye(3) - A)
    filt = StateSpace(back @ (np.eye(3) + A), np.sqrt(2) * back @ B, np.sqrt(2) * C @ back, D + C @ back @ B)
    found = gramians(filt)
    np.testing.assert_allclose(found.controllability, solve_continuous_lyapunov(A, -B @ B.T), rtol=1e-11)
    assert np.sqrt(np.trace(C @ found.controllability @ C.T)) == pytest.approx(2.237461821810309, rel=1e-13)
    assert np.sqrt(np.trace(B.T @ found.observability @ B)) == pytest.approx(2.237461821810309, rel=1e-13)
    assert peak_gain(filt).gain == pytest.approx(4.276759162964244, rel=1e-12)
    # 1 / (s + 1) becomes (1 + 1 / z) / 2
    one = StateSpace([[0.0]], [[np.sqrt(0.5)]], [[np.sqrt(0.5)]], [[0.5]])
    assert np.sqrt(gramians(one).controllability.item()) == pytest.approx(0.7071067811865, abs=1e-13)
    assert peak_gain(one).gain == pytest.approx(1, rel=1e-12)


def test_minimum_phase_comes_first():
    """Of the filters with one magnitude it has the most energy in its first k samples, for every k."""
    inside = np.array([0.8, -0.5, 0.3 + 0.6j, 0.3 - 0.6j])
    energies = {}
    for flips in itertools.product([False, True], repeat=3):
        flipped = np.array([*flips, flips[2]])
        # z - q and 1 - q* z have the same magnitude on the circle
        b = np.poly(np.where(flipped, 1 / np.conj(inside), inside)) * np.prod(np.where(flipped, np.abs(inside), 1))
        filt = SOS(signal.tf2sos(b.real, np.poly([0.7, -0.6, 0.2, 0.1])))
        assert is_minimum_phase(filt) == (not any(flips))
        energies[flips] = np.cumsum(impulse_response(filt, 200)[:, 0] ** 2)
    first = energies.pop((False, False, False))
    for other in energies.values():
        assert np.all(other <= first * (1 + 1e-12)) and other[0] < 0.9 * first[0]
        assert other[-1] == pytest.approx(first[-1], rel=1e-12)


def test_group_delay_of_allpass_poles():
    """The sum of (1 - r^2) / (1 - 2 r cos(w - angle) + r^2), which is positive, and on average the order."""
    at = np.array([0.9 * np.exp(0.5j), 0.9 * np.exp(-0.5j), -0.7, 0.3])
    a = np.poly(at).real
    found = group_delay(TransferFunction(a[::-1], a), np.linspace(0, 0.5, 4097))
    w, r = 2 * np.pi * found.frequency[:, None], np.abs(at)
    expected = np.sum((1 - r**2) / (1 - 2 * r * np.cos(w - np.angle(at)) + r**2), axis=1)
    np.testing.assert_allclose(found.samples[:, 0, 0], expected, rtol=1e-9)
    assert np.min(expected) > 0
    assert np.trapezoid(found.samples[:, 0, 0], w[:, 0]) / np.pi == pytest.approx(4, abs=1e-9)


# ---- oscillation from rounding and overflow (section 2.1)


class Rounded(Filter):
    """y[t] = Q(u[t] + a1 y[t-1] + a2 y[t-2]), for a word of few bits: only run."""

    def __init__(self, a1, a2, quantize, start):
        super().__init__({"a1": a1, "a2": a2, "quantize": quantize, "start": start}, {})

    def _setup(self):
        self.n_inputs = self.n_outputs = 1
        self.fields = (Field("y", (2,)),)
        self.a1, self.a2, self.start = (self.config[name] for name in ("a1", "a2", "start"))
        self.quantize = QUANTIZE[self.config["quantize"]]

    def _rest(self, vector):
        vector[...] = self.start

    def _advance(self, u, state, y):
        past = state.rows
        for t in range(u.shape[1]):
            new = self.quantize(u[:, t, 0] + self.a1 * past[:, 0] + self.a2 * past[:, 1])
            past[:, 1], past[:, 0], y[:, t, 0] = past[:, 0].copy(), new, new

    def _record(self, u, state):
        raise AssertionError("this filter is only run")

    _adjoint = _linearize = _record


QUANTIZE = {
    "round": np.round,
    "wrap": lambda x: (x + 1) % 2 - 1,  # two's complement
    "saturate": lambda x: np.clip(x, -1, 1),
}


def motion_of(filt):
    return limit_cycle(filt, sample_rate=1.0, n_frames=2048, n_starts=0, levels_db=-400.0)[0]


@pytest.mark.parametrize("start", [100.0, -37.0, 10.0])
def test_dead_band(start):
    """Jackson: rounded to whole steps, a pole at +-a sticks at 0.5 / (1 - a) = 10 of them, with one sign or both."""
    still = motion_of(Rounded(0.95, 0.0, "round", (start, 0.0)))
    assert still.behaviour == Behaviour.REST and still.dc == 10 * np.sign(start)
    turning = motion_of(Rounded(-0.95, 0.0, "round", (start, 0.0)))
    assert turning.behaviour == Behaviour.CYCLE and turning.frequency_hz == pytest.approx(0.5, rel=1e-12)
    assert turning.level_db == pytest.approx(20 * np.log10(10 * np.sqrt(2)), abs=1e-9)
    inside = motion_of(Rounded(0.95, 0.0, "round", (7.0, 0.0)))
    assert inside.behaviour == Behaviour.REST and inside.dc == 7


def test_overflow():
    """y[t] = y[t-1] - y[t-2] / 2 from (0.8, -0.8): two's complement swings for ever, saturation comes to rest."""
    assert spectral_radius(TransferFunction([1.0], [1.0, -1.0, 0.5])) == pytest.approx(np.sqrt(0.5))
    swinging = motion_of(Rounded(1.0, -0.5, "wrap", (0.8, -0.8)))
    assert swinging.behaviour == Behaviour.CYCLE and swinging.frequency_hz == pytest.approx(0.5, rel=1e-12)
    assert swinging.level_db == pytest.approx(20 * np.log10(0.8 * np.sqrt(2)), abs=1e-9)
    assert motion_of(Rounded(1.0, -0.5, "saturate", (0.8, -0.8))).behaviour == Behaviour.REST


@pytest.mark.parametrize(("dtype", "n_frames"), [(np.float32, 667), (np.float64, 1000)])
def test_a_tail_ends_where_it_is_flushed(dtype, n_frames):
    """60 dB a second at 100 Hz: at -400 dB and -600 dB, long before float32 turns subnormal at -758.6 dB, 12.6 s."""
    unit = Elman(1, 1, activation="identity").replace(W=[[1.0]], U=[[10 ** (-3 / 100)]], b=[0.0])
    y = unit(np.eye(1, 1300, dtype=dtype)[0])
    assert y.dtype == dtype and abs(np.flatnonzero(y)[-1] - n_frames) <= 1
    before_subnormal_s = -20 * np.log10(np.finfo(np.float32).tiny) / 60
    assert before_subnormal_s == pytest.approx(12.64, abs=0.01) and n_frames / 100 < before_subnormal_s


# ---- lossless networks and allpasses (section 2.3)


@pytest.mark.parametrize("seed", range(3))
def test_closure_by_a_paraunitary_filter(seed):
    """Gerzon: [[A, B], [C, D]] unitary, closed by any paraunitary U(z), is paraunitary: to 1e-12 on the circle."""
    n, k = 3, 2
    A, B, C, D = parted(orthogonal_matrix(n + k, "random", seed=seed), n)
    U = GerzonAllpass([2, 3, 5], gain=0.4, matrix="random", seed=seed)
    late = U >> delay(1, n)  # a loop needs a delay somewhere
    loop = Feedback(gain(np.eye(n)), U >> gain(A), delay=1)
    closed = gain(D) + (gain(B) >> loop >> late >> gain(C))
    H = closed.linearize().frequency_response(CIRCLE)
    u = late.linearize().frequency_response(CIRCLE)
    np.testing.assert_allclose(H, D + C @ u @ np.linalg.inv(np.eye(n) - A @ u) @ B, atol=1e-12)
    assert gap(H) < 1e-12
    assert peak_gain(closed).gain == pytest.approx(1, abs=1e-9) and norm(closed) ** 2 == pytest.approx(k, rel=1e-9)


def test_vector_schroeder():
    """H = (I + g U(z))^-1 (g I + U(z)) with U(z) = U diag(z^-m): Gerzon's form of the same filter."""
    for seed, g in enumerate((0.6, -0.35)):
        m, U = np.array([1, 4, 6]), orthogonal_matrix(3, "random", seed=seed)
        u = U * np.exp(-1j * CIRCLE[:, None, None] * m)
        H = GerzonAllpass(m, gain=g, matrix=U).frequency_response(CIRCLE)
        np.testing.assert_allclose(H, np.linalg.solve(np.eye(3) + g * u, g * np.eye(3) + u), atol=1e-13)
        assert gap(H) < 1e-13


def test_generalised_characteristic_polynomial():
    """2^N principal minors against the poles, and the numerator of one channel: det D times that of A - B D^-1 C."""
    rng = np.random.default_rng(2)
    for m in ([3, 1, 2], [2, 5, 3, 4], [1, 1, 1, 6]):
        n = len(m)
        A, b, c, d = (rng.standard_normal(shape) for shape in ((n, n), (n, 1), (1, n), (1, 1)))
        filt = DelayStateSpace(A, b, c, d, m)
        p = characteristic(A, m)
        np.testing.assert_allclose(p, np.poly(poles(filt)).real, atol=1e-9 * np.max(np.abs(p)))
        over = d.item() * characteristic(A - b @ c / d, m)
        expected = signal.freqz(over, p, CIRCLE)[1]
        np.testing.assert_allclose(filt.frequency_response(CIRCLE)[:, 0, 0], expected, rtol=1e-8)


def test_poles_lie_between_the_bounds_of_the_loop():
    """sigma_min^(1 / m_min) <= |p| <= sigma_max^(1 / m_max), for singular values of the loop matrix below one."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        n = int(rng.integers(2, 6))
        P, Q = (orthogonal_matrix(n, "random", seed=rng) for _ in range(2))
        sigma, m = rng.uniform(0.3, 0.99, n), rng.integers(1, 12, n)
        sizes = np.abs(poles(DelayStateSpace(P * sigma @ Q, np.ones((n, 1)), np.ones((1, n)), [[0.0]], m)))
        assert sigma.min() ** (1 / m.min()) <= sizes.min() * (1 + 1e-9)
        assert sizes.max() <= sigma.max() ** (1 / m.max()) * (1 + 1e-9)


def test_unilossless_networks_have_all_poles_on_the_circle():
    """A diagonally similar to orthogonal: for any delays. Similar by another matrix: for equal ones only."""
    rng = np.random.default_rng(4)
    U, scale, mixing = orthogonal_matrix(4, "random", seed=4), rng.uniform(0.2, 5, 4), rng.standard_normal((4, 4))
    for m in ([1, 1, 1, 1], [2, 3, 5, 7], [13, 1, 4, 9]):
        for A, lossless in ((U * scale / scale[:, None], True), (mixing @ U @ np.linalg.inv(mixing), len({*m}) == 1)):
            found = poles(DelayStateSpace(A, np.ones((4, 1)), np.ones((1, 4)), [[0.0]], m))
            assert len(found) == sum(m) and (np.max(np.abs(np.abs(found) - 1)) < 1e-9) == lossless


def series_of(gains):
    """Schroeder's allpasses in a row: lower triangular, the gains on its diagonal."""
    A, B, C, D = (np.array([[x]]) for x in (gains[0], 1 - gains[0] ** 2, 1.0, -gains[0]))
    for g in gains[1:]:
        through, none = 1 - g**2, np.zeros_like(B)
        A, B = whole(A, none, through * C, np.array([[g]])), np.concatenate([B, through * D])
        C, D = np.concatenate([-g * C, [[1.0]]], axis=1), -g * D
    return A, B, C, D


def nested(gains):
    """Gardner's: each allpass in the loop of the next."""
    A, B, C, D = (np.array([[x]]) for x in (gains[0], 1 - gains[0] ** 2, 1.0, -gains[0]))
    for g in gains[1:]:
        A, B, C, D = (
            whole(A, B, g * C, g * D),
            np.concatenate([0 * B, [[1 - g**2]]]),
            np.concatenate([C, D], axis=1),
            np.array([[-g]]),
        )
    return A, B, C, D


def poletti(g, n):
    U, one = orthogonal_matrix(n, "random", seed=5), np.eye(n)
    return -g * U, (1 + g) * one, (1 - g) * U, g * one


def scaled_orthogonal(n, k):
    """An orthogonal matrix in other units: similar by a diagonal matrix."""
    scale = np.concatenate([np.random.default_rng(6).uniform(0.2, 4, n), np.ones(k)])
    return parted(orthogonal_matrix(n + k, "random", seed=7) * scale / scale[:, None], n)


def completed(n, k):
    """B, C, D from A alone: I - A A^T = B B^T and I - A^T A = C^T C of rank k, D = -B^+ A C^T."""
    A = parted(orthogonal_matrix(n + k, "random", seed=8), n)[0]
    (U, s, _), (V, t, _) = (np.linalg.svd(np.eye(n) - G) for G in (A @ A.T, A.T @ A))
    assert s[k:].max() < 1e-14
    B, C = U[:, :k] * np.sqrt(s[:k]), (V[:, :k] * np.sqrt(t[:k])).T
    return A, B, C, -np.linalg.pinv(B) @ A @ C.T


UNIALLPASS = {
    "series": (series_of((0.5, 0.6, -0.7)), None),
    "nested": (nested((0.5, 0.6, 0.7)), np.array([0.2448, 0.3264, 0.51])),
    "Poletti": (poletti(0.4, 3), np.full(3, 1.4 / 0.6)),
    "scaled orthogonal": (scaled_orthogonal(4, 2), None),
    "completed": (completed(5, 2), np.ones(5)),
}


@pytest.mark.parametrize("name", UNIALLPASS)
def test_uniallpass_networks(name):
    """P of A P A^T - P + B B^T = 0 is diagonal, V diag(P, I) V^T = diag(P, I), and any delays will do."""
    (A, B, C, D), published = UNIALLPASS[name]
    n = len(A)
    P = gramians(StateSpace(A, B, C, D)).controllability
    diagonal = np.diag(P)
    np.testing.assert_allclose(P, np.diag(diagonal), atol=1e-12)
    if published is not None:
        np.testing.assert_allclose(diagonal, published, rtol=1e-12)
    V, energy = whole(A, B, C, D), np.append(diagonal, np.ones(len(D)))
    np.testing.assert_allclose(V * energy @ V.T, np.diag(energy), atol=1e-12)
    for m in ([1] * n, [7, 11, 2, 3, 5][:n], [4, 1, 9, 1, 2][:n]):
        filt = DelayStateSpace(A, B, C, D, m)
        assert spectral_radius(filt) < 1 and gap(filt.frequency_response(CIRCLE)) < 1e-10
        np.testing.assert_allclose(hankel_singular_values(filt), 1, rtol=1e-8)
    if len(D) == 1:  # the numerator is the reversed denominator, up to its sign
        over, under = D.item() * characteristic(A - B @ C / D, m), characteristic(A, m)
        np.testing.assert_allclose(over * np.sign(over[-1]), under[::-1], atol=1e-12)


def test_allpass_for_some_delays_only():
    """Similar to orthogonal by a matrix that mixes the first two lines: allpass and stable while these are equally
    long, for (1, 1, 1) and (2, 2, 1), but unstable and no allpass for (2, 1, 1); Schlecht's example."""
    mixing = np.eye(4)
    mixing[:2, 0] = -0.1, 0.5
    A, B, C, D = parted(np.linalg.solve(mixing, orthogonal_matrix(4, "random", seed=9)) @ mixing, 3)
    P = gramians(StateSpace(A, B, C, D)).controllability
    assert np.max(np.abs(P - np.diag(np.diag(P)))) > 0.1
    for m, allpass in (([1, 1, 1], True), ([2, 2, 1], True), ([2, 1, 1], False)):
        filt = DelayStateSpace(A, B, C, D, m)
        assert (spectral_radius(filt) < 1) == allpass
        assert (gap(filt.frequency_response(CIRCLE)) < 1e-9) == allpass
        assert (certify(filt, property="contraction").verdict == Verdict.PROVED) == allpass


def paraunitary_residuals(filt):
    """Of D^T C + B^T P A = 0 and D^T D + B^T P B = I, P the observability Gramian of a minimal filter."""
    P = gramians(filt).observability
    A, B, C, D = filt.A, filt.B, filt.C, filt.D
    crossed, own = D.T @ C + B.T @ P @ A, D.T @ D + B.T @ P @ B - np.eye(filt.n_inputs)
    return max(np.max(np.abs(crossed)), np.max(np.abs(own)))


def test_paraunitary_in_state_space():
    """The Gramian decides it for recursive filters of many channels, without looking at any frequency."""
    kept = GerzonAllpass([1, 3, 2], gain=0.6, matrix="random", seed=3).expand()
    mixing = np.random.default_rng(9).standard_normal((6, 6))
    turned = StateSpace(
        np.linalg.solve(mixing, kept.A @ mixing), np.linalg.solve(mixing, kept.B), kept.C @ mixing, kept.D
    )
    for filt in (kept, turned):
        assert paraunitary_residuals(filt) < 1e-10 and gap(filt.frequency_response(CIRCLE)) < 1e-10
    for filt in (
        turned.replace(D=turned.D + 1e-3),
        FeedbackDelayNetwork([1, 3, 2], t60_s=0.001, sample_rate=48000, n_channels=3).expand(),
    ):
        assert paraunitary_residuals(filt) > 1e-4 and gap(filt.frequency_response(CIRCLE)) > 1e-4


def test_finite_paraunitary_filters():
    """Vaidyanathan: V_L(z) ... V_1(z) E_0, V = I - v v^T + v v^T / z; sum_k E_k E_{k+l}^T is I at l = 0, and else 0."""
    rng = np.random.default_rng(10)
    n, degree = 3, 5
    filt = gain(orthogonal_matrix(n, "random", seed=rng))
    for _ in range(degree):
        v = rng.standard_normal((n, 1))
        v /= np.linalg.norm(v)
        filt = filt >> StateSpace([[0.0]], v.T, v, np.eye(n) - v @ v.T)
    E = np.stack([impulse_response(filt, degree + 5, channel=j) for j in range(n)], axis=-1)
    assert np.max(np.abs(E[degree + 1 :])) == 0 and np.max(np.abs(E[degree])) > 1e-3
    for lag in range(degree + 1):
        sums = np.sum(E[: len(E) - lag] @ np.swapaxes(E[lag:], 1, 2), axis=0)
        np.testing.assert_allclose(sums, np.eye(n) * (lag == 0), atol=1e-13)
    H = filt.linearize().frequency_response(CIRCLE)
    assert gap(H) < 1e-12
    turns = np.unwrap(np.angle(np.linalg.det(filt.linearize().frequency_response(np.linspace(0, 2 * np.pi, 2001)))))
    assert (turns[0] - turns[-1]) / (2 * np.pi) == pytest.approx(degree, abs=1e-9)  # the phase of det H falls by 2 pi


# ---- cells (section 2.4)


def test_jacobian_of_a_gru():
    """The formulas of both kinds, at every frame: W_n u + U_n (r h) + b with the reset before, W_n u + r (U_n h + b)
    after, which is that of PyTorch."""
    rng = np.random.default_rng(11)
    n = 4
    for reset in ("before", "after"):
        cell = GRU(2, n, reset=reset)
        cell = cell.replace(**{name: rng.standard_normal(np.shape(p)) for name, p in cell.params.items()})
        u = rng.standard_normal((12, 2))
        found = np.concatenate([np.asarray(piece.A) for piece in jacobians(cell, u)])
        (Wr, Wz, Wn), (br, bz, bn) = np.split(cell.params["W"], 3), np.split(cell.params["b"], 3)
        (Ur, Uz, Un), (cr, cz, cn) = np.split(cell.params["U"], 3), np.split(cell.params["b_rec"], 3)
        h = np.zeros(n)
        for t in range(12):
            r, z = (
                1 / (1 + np.exp(-(W @ u[t] + b + U @ h + c))) for W, b, U, c in ((Wr, br, Ur, cr), (Wz, bz, Uz, cz))
            )
            if reset == "after":
                m = Un @ h + cn
                g = np.tanh(Wn @ u[t] + bn + r * m)
                inner = np.diag(r) @ Un + np.diag(m * r * (1 - r)) @ Ur
            else:
                g = np.tanh(Wn @ u[t] + bn + Un @ (r * h) + cn)
                inner = Un @ (np.diag(r) + np.diag(h * r * (1 - r)) @ Ur)
            J = np.diag(z) + np.diag((h - g) * z * (1 - z)) @ Uz + np.diag((1 - z) * (1 - g**2)) @ inner
            np.testing.assert_allclose(found[t], J, atol=1e-13)
            h = z * h + (1 - z) * g


@pytest.mark.parametrize("cell", [LSTM(1, 3), GRU(1, 4), GRU(1, 4, reset="before"), Elman(1, 5)])
def test_jacobians_by_differences(cell):
    """Within 1e-9, as central differences allow."""
    rng = np.random.default_rng(12)
    cell = cell.replace(**{name: rng.standard_normal(np.shape(p)) for name, p in cell.params.items()})
    start, u, step = rng.uniform(-1, 1, cell.n_states), np.array([[0.4]]), 1e-5
    J, B = cell.jacobians(u, cell.rest_state().unravel(start))

    def after(x, v):
        return cell.run(v, cell.rest_state().unravel(x))[1].ravel()

    for k, e in enumerate(step * np.eye(cell.n_states)):
        np.testing.assert_allclose(J[0][:, k], (after(start + e, u) - after(start - e, u)) / (2 * step), atol=1e-9)
    np.testing.assert_allclose(B[0][:, 0], (after(start, u + step) - after(start, u - step)) / (2 * step), atol=1e-9)


# ---- random networks and flows (sections 2.5.9 and 2.9)

MEAN_FIELD = [  # gain, exponent, variance of what goes into a unit
    (1.1, 0.00507, 0.11275),
    (1.2, 0.01648, 0.24951),
    (1.5, 0.06522, 0.79335),
    (2.0, 0.15472, 2.12147),
    (3.0, 0.31025, 6.30539),
    (5.0, 0.53243, 20.6994),
    (10.0, 0.85644, 91.705),
]


@pytest.mark.parametrize(("g", "exponent", "variance"), MEAN_FIELD)
def test_mean_field_of_a_random_network(g, exponent, variance):
    """x = g J tanh(x): q = g^2 E[tanh(sqrt(q) z)^2], exponent ln(g^2 E[sech(sqrt(q) z)^4]) / 2, for very many units.

    300 come close, but just above g = 1, where chaos is slow and weak, not very.
    """
    z = np.linspace(-12, 12, 20001)
    weight = np.exp(-(z**2) / 2) / np.sum(np.exp(-(z**2) / 2))
    q = g * g
    for _ in range(400):
        q = g * g * np.sum(weight * np.tanh(np.sqrt(q) * z) ** 2)
    assert q == pytest.approx(variance, rel=2e-5)
    assert np.log(g * g * np.sum(weight / np.cosh(np.sqrt(q) * z) ** 4)) / 2 == pytest.approx(exponent, abs=6e-6)
    n, rng = 300, np.random.default_rng(0)
    cell = Elman(1, n).replace(U=g * rng.standard_normal((n, n)) / np.sqrt(n))
    start = cell.rest_state().unravel(rng.uniform(-1, 1, n))
    y, _ = cell.run(np.zeros((3000, 1)), start)
    assert g * g * np.mean(y[1000:] ** 2) == pytest.approx(q, rel=0.25 if g < 1.5 else 0.03)
    found = lyapunov_spectrum(cell, n_frames=3000, n_exponents=1, state=start).exponents[0]
    assert exponent - (0.015 if g < 1.5 else 0.01) - 0.03 * exponent < found < exponent + 0.005


class Lorenz(Map):
    """The flow (10, 28, 8/3) over a time of 0.005, by a step of Runge and Kutta's for the state and its derivative."""

    start = (1.0, 2.0, 20.0)

    def step(self, v):
        def slope(v, J):
            x, y, z = v
            by_state = np.array([[-10.0, 10.0, 0.0], [28.0 - z, -1.0, -x], [y, x, -8 / 3]])
            return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]), by_state @ J

        v, J, h = np.array(v), np.eye(3), 0.005
        a, A = slope(v, J)
        b, B = slope(v + h / 2 * a, J + h / 2 * A)
        c, C = slope(v + h / 2 * b, J + h / 2 * B)
        d, D = slope(v + h * c, J + h * C)
        return v + h / 6 * (a + 2 * b + 2 * c + d), J + h / 6 * (A + 2 * B + 2 * C + D)


def test_exponents_of_the_lorenz_flow():
    """0.9056, 0, -14.5723 a unit of time, their sum -(10 + 1 + 8/3), exactly; dimension 2.062."""
    found = lyapunov_spectrum(Lorenz(), n_frames=12000)
    assert found.exponents.sum() / 0.005 == pytest.approx(-41 / 3, abs=1e-5)
    np.testing.assert_allclose(found.exponents / 0.005, [0.9056, 0, -14.5723], atol=0.05)
    assert found.dimension == pytest.approx(2.062, abs=0.005)

"""Norms, Gramians, certificates. Oracles: closed forms, published values, scipy, python-control, brute force."""

import numpy as np
import pytest
from scipy import linalg, signal

from rnndsp import Feedback, Framed, Knobs, Series, delay, gain, impulse_response
from rnndsp.errors import ParameterError
from rnndsp.filters import (
    LSTM,
    SOS,
    DelayStateSpace,
    Dense,
    FeedbackDelayNetwork,
    GerzonAllpass,
    StateSpace,
    orthogonal_matrix,
)
from rnndsp.stability import (
    gains,
    gramians,
    hankel_singular_values,
    headroom_db,
    lyapunov_certificate,
    norm,
    norm_bounds,
    peak_gain,
)
from rnndsp.stability._decay import decay_certificate

INF = np.inf
ALL = (1, 2, INF)

# python-control's test system of three states, two inputs and two outputs
THREE = (
    np.array(
        [
            [-1.017041847539126, -0.224182952826418, 0.042538079149249],
            [-0.310374015319095, -0.51646158140778, -0.11919579022175],
            [-1.452723568727942, 1.7995860837102088, -1.491935830615152],
        ]
    ),
    np.array(
        [
            [0.312858596637428, -0.164879019209038],
            [-0.864879917324456, 0.627707287528727],
            [-0.030051296196269, 1.093265669039484],
        ]
    ),
    np.array(
        [
            [1.109273297614398, 0.077359091130425, -1.113500741486764],
            [-0.863652821988714, -1.214117043615409, -0.006849328103348],
        ]
    ),
    np.zeros((2, 2)),
)
LONG = (1009, 1511, 1777, 2311)


def direct(b, a):
    return StateSpace(*signal.tf2ss(b, a))


def sampled(system, step, method="zoh"):
    return StateSpace(*signal.cont2discrete(system, step, method)[:4], sample_rate=1 / step)


def pair(radius, angle):
    return direct([1, 0, 0], [1, -2 * radius * np.cos(angle), radius**2])


def random_filter(rng, n, n_inputs=1, n_outputs=1, radius=0.9):
    A = rng.standard_normal((n, n))
    A *= radius / np.max(np.abs(np.linalg.eigvals(A)))
    draw = rng.standard_normal
    return StateSpace(A, draw((n, n_inputs)), draw((n_outputs, n)), draw((n_outputs, n_inputs)))


def random_network(rng):
    """A stable network of a few short lines, often with parts that only feed each other one way."""
    n, k, p = (int(rng.integers(1, most)) for most in (6, 3, 3))
    m = rng.choice([1, 1, 2, 3, 7, 12], n)
    A = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.6)
    draw = rng.standard_normal
    made = DelayStateSpace(A, draw((n, k)), draw((p, n)), draw((p, k)), m)
    radius = made.spectral_radius()
    return made.replace(A=A * (rng.uniform(0.3, 0.99) / radius) ** m) if radius > 0 else made


# ---- the table of known values


def test_one_pole():
    """1 / (1 - .9 / z)."""
    filt = direct([1, 0], [1, -0.9])
    assert norm(filt, p=1) == pytest.approx(10, rel=1e-11)
    assert norm(filt, p=2) == pytest.approx(2.294157338705618, rel=1e-14)
    assert norm(filt, p=INF) == pytest.approx(10, rel=1e-9)
    assert peak_gain(filt).gain == pytest.approx(10, rel=1e-14)
    assert peak_gain(filt).frequency == 0
    assert headroom_db(filt) == pytest.approx(20, abs=1e-9)


def test_resonator():
    r, theta = 0.95, np.pi / 5
    filt = pair(r, theta)
    peak = peak_gain(filt)
    assert peak.gain == pytest.approx(1 / ((1 - r**2) * np.sin(theta)), rel=1e-12)
    assert peak.gain == pytest.approx(17.449247350811, rel=1e-12)
    assert peak.gain <= peak.upper <= peak.gain * (1 + 1e-9)
    assert 2 * np.pi * peak.frequency == pytest.approx(np.arccos((1 + r**2) * np.cos(theta) / (2 * r)), abs=1e-8)
    assert 2 * np.pi * peak.frequency == pytest.approx(0.626505238, abs=1e-8)
    assert norm(filt) ** 2 == pytest.approx(15.526653762236599, rel=1e-13)
    np.testing.assert_allclose(hankel_singular_values(filt), [8.891162, 7.668042], atol=5e-7)


def test_sampled_second_order():
    """100 / (s^2 + 10 s + 100): the bilinear transform keeps the peak and moves it by the known warp."""
    peak = peak_gain(sampled(signal.tf2ss([100.0], [1.0, 10.0, 100.0]), 0.01, "bilinear"))
    assert peak.gain == pytest.approx(1 / (2 * 0.5 * np.sqrt(0.75)), rel=1e-12)
    assert 2 / 0.01 * np.tan(np.pi * peak.frequency * 0.01) == pytest.approx(7.0710678, abs=1e-5)


def test_sampled_first_order():
    filt = sampled(signal.tf2ss([1.0], [1.0, 1.0]), 0.1)
    assert norm(filt) == pytest.approx(np.sqrt(np.tanh(0.05)), rel=1e-13)
    assert norm(filt) == pytest.approx(0.223513699524858, rel=2e-8)  # as published, right to so much
    assert peak_gain(filt).gain == pytest.approx(1, rel=1e-13)


def test_three_states():
    filt = sampled(THREE, 0.1)
    assert peak_gain(filt).gain == pytest.approx(4.276759162964228, rel=1e-12)
    assert norm(filt) == pytest.approx(0.707434962289554, rel=1e-12)
    bilinear = sampled(THREE, 0.1, "bilinear")
    assert peak_gain(bilinear).gain == pytest.approx(4.276759162964244, rel=1e-12)


def test_python_control_agrees():
    control = pytest.importorskip("control")
    rng = np.random.default_rng(3)
    for n, k in ((2, 1), (4, 2), (6, 3)):
        filt = random_filter(rng, n, k, k)
        other = filt.to_control()
        assert norm(filt) == pytest.approx(control.system_norm(other, 2), rel=1e-9)
        assert peak_gain(filt).gain == pytest.approx(control.system_norm(other, "inf", tol=1e-9), rel=1e-8)


@pytest.mark.parametrize(
    "filt",
    [
        pair(1.0, 0.3),  # 1 / (s^2 + 1) in discrete time
        pair(1.001, 0.3),
        StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]]),
        StateSpace([[1.0, 1.0], [0.0, 1.0]], [[1.0], [0.0]], [[1.0, 0.0]], [[0.0]]),
        StateSpace([[1e200]], [[1.0]], [[1.0]], [[0.0]]),
        DelayStateSpace(orthogonal_matrix(4), np.ones((4, 1)), np.ones((1, 4)), [[0.0]], LONG),
        DelayStateSpace([[1.01]], [[1.0]], [[1.0]], [[0.0]], [30000]),
    ],
)
def test_marginal_and_unstable(filt):
    assert [norm(filt, p=p) for p in ALL] == [INF] * 3
    assert headroom_db(filt) == INF


def test_memoryless():
    filt = gain([[3.0, 4.0], [0.0, 1.0]])
    assert norm(filt, p=1) == pytest.approx(7, rel=1e-11)
    assert norm(filt) == pytest.approx(np.sqrt(26), rel=1e-15)
    assert norm(filt, p=INF) == pytest.approx(np.linalg.norm([[3, 4], [0, 1]], 2), rel=1e-9)
    silent = gain([[0.0]])
    assert [norm(silent, p=p) for p in ALL] == [0, 0, 0]
    assert headroom_db(silent) == -INF


@pytest.mark.parametrize("n_samples", [3, 48000])
def test_pure_delay(n_samples):
    for p in ALL:
        assert norm(delay(n_samples), p=p) == pytest.approx(1, rel=1e-9)


# ---- near the unit circle


@pytest.mark.parametrize("distance", [1e-6, 1e-9])
def test_slow_pole(distance):
    a = 1 - distance
    filt = StateSpace([[a]], [[1.0]], [[1.0]], [[0.0]])
    room = 1e-15 / distance  # what rounding does there
    assert norm(filt) == pytest.approx(1 / np.sqrt((1 - a) * (1 + a)), rel=room)
    assert norm(filt, p=INF) == pytest.approx(1 / (1 - a), rel=1e-9)
    bounds = norm_bounds(filt, p=1)
    assert bounds.lower <= 1 / (1 - a) * (1 + room) and 1 / (1 - a) <= bounds.upper
    assert bounds.upper / bounds.lower < 1 + 1e-4


def test_slow_pair():
    """Sum of |sin((n + 1) w)| r^n / sin w, about 2 / pi of its envelope: too slow to be summed, so it is enclosed."""
    r, angle = 1 - 1e-9, 0.3
    bounds = norm_bounds(pair(r, angle), p=1)
    true = 2 / np.pi / ((1 - r) * np.sin(angle))
    assert bounds.lower < true < bounds.upper < 2.1 * bounds.lower
    assert norm(pair(r, angle), p=INF) == pytest.approx(0.5 / ((1 - r) * np.sin(angle)), rel=1e-6)


def test_slow_network():
    """Hardly any loss: the ends are far apart, but they are ends."""
    filt = FeedbackDelayNetwork(LONG, t60_s=1e5, sample_rate=48000)
    bounds = norm_bounds(filt)
    # white noise in equilibrium: every line holds what its losses let in
    assert bounds.lower < 1.02 < bounds.upper < 50


# ---- what must hold for all


def test_chain_of_norms():
    """H2 <= H-infinity <= l1 <= min(|D| + 2 sum of Hankel singular values, (2 n + 1) H-infinity)."""
    rng = np.random.default_rng(1)
    w = np.linspace(0, np.pi, 301)
    for _ in range(300):
        n = int(rng.integers(1, 9))
        filt = random_filter(rng, n, radius=rng.choice([0.3, 0.9, 0.99]))
        two, one, peak = norm(filt), norm_bounds(filt, p=1), peak_gain(filt)
        room = 1 + 1e-9
        assert np.max(np.abs(filt.frequency_response(w))) <= peak.gain * room
        assert two <= peak.gain * room <= one.upper * room**2
        assert one.lower <= min(abs(filt.D[0, 0]) + 2 * np.sum(hankel_singular_values(filt)), (2 * n + 1) * peak.upper)
        assert one.upper <= one.lower * (1 + 1e-8)


def test_many_channels():
    rng = np.random.default_rng(2)
    for k, p in ((1, 3), (3, 1), (2, 2), (3, 2)):
        filt = random_filter(rng, 5, k, p)
        h = np.stack([impulse_response(filt, 800, channel=j) for j in range(k)], axis=-1)
        assert norm(filt, p=1) == pytest.approx(np.max(np.sum(np.abs(h), axis=(0, 2))), rel=1e-9)
        assert norm(filt) == pytest.approx(np.linalg.norm(h), rel=1e-12)
        H = np.fft.fft(h, 1 << 15, axis=0)
        best = np.max(np.linalg.norm(H, 2, axis=(1, 2)))
        peak = peak_gain(filt)
        assert best * (1 - 1e-12) <= peak.gain <= best * (1 + 1e-5)


def test_scales_do_not_matter():
    """What is in volts inside and in dB full scale outside has the same gain."""
    filt = pair(0.95, 0.6)
    scaled = filt.replace(B=1e-9 * filt.B, C=1e6 * filt.C, D=1e-3 * filt.D)
    for p in ALL:
        assert norm(scaled, p=p) == pytest.approx(1e-3 * norm(filt, p=p), rel=1e-9)


def test_headroom_is_needed():
    """The signs of the reversed impulse response bring the output to within 1e-9 of the bound, and nothing beyond."""
    filt = SOS(signal.ellip(6, 1, 60, 0.2, output="sos"))
    h = impulse_response(filt, 3000)[:, 0]
    bound = 10 ** (headroom_db(filt) / 20)
    assert filt(np.sign(h[::-1]))[-1] == pytest.approx(bound, rel=1e-9)
    loud = filt(np.random.default_rng(0).choice([-1.0, 1.0], 20000))
    assert 0.5 * bound < np.max(np.abs(loud)) < bound


def test_elliptic_ripple():
    """The passband ripple of an elliptic filter ends at 0 dB."""
    filt = SOS(signal.ellip(10, 1, 80, [0.01, 0.02], btype="band", output="sos"), sample_rate=48000)
    peak = peak_gain(filt)
    assert peak.gain == pytest.approx(1, rel=1e-9)
    assert 0.01 * 24000 <= peak.frequency <= 0.02 * 24000


# ---- lossless networks


@pytest.mark.parametrize("delays", [(1, 1, 1), (7, 11, 13, 17)])
def test_lossless(delays):
    filt = GerzonAllpass(delays, gain=0.5, matrix="random")
    assert norm(filt, p=INF) == pytest.approx(1, rel=1e-9)
    assert norm(filt) ** 2 == pytest.approx(len(delays), rel=1e-12)
    np.testing.assert_allclose(hankel_singular_values(filt), 1, rtol=1e-10)
    # mean group delay of det H: what is stored
    w = np.linspace(0, 2 * np.pi, 20001)
    phase = np.unwrap(np.angle(np.linalg.det(filt.frequency_response(w))))
    assert (phase[0] - phase[-1]) / (2 * np.pi) == pytest.approx(sum(delays), abs=1e-9)


def test_long_allpass():
    filt = GerzonAllpass((5003, 9001, 12007), gain=0.6, matrix="random", sample_rate=48000)
    peak = peak_gain(filt)
    assert abs(peak.gain - 1) < 1e-12 and 1 <= peak.upper < 1 + 1e-9
    assert norm(filt) == pytest.approx(np.sqrt(3), rel=1e-9)
    # one channel is Schroeder's: |g| + (1 - g^2) (1 + g + g^2 ...)
    schroeder = GerzonAllpass([30011], gain=0.6)
    assert norm(schroeder, p=1) == pytest.approx(0.6 + (1 - 0.36) / (1 - 0.6), rel=1e-9)


def test_long_allpass_of_any_matrix():
    """More lines than channels: no line loses anything by itself, and only the peak gain is known."""
    filt = GerzonAllpass.from_matrix(orthogonal_matrix(8, "random", seed=1), [301, 401, 507, 603, 701, 209])
    assert norm(filt, p=INF) == pytest.approx(1, rel=1e-9)
    with pytest.raises(ParameterError, match="no bound is found for how 2722 states ring out"):
        norm(filt, p=1)


# ---- long networks


def test_long_network():
    filt = FeedbackDelayNetwork(LONG, t60_s=0.5, sample_rate=48000, n_channels=2, dry=0.3)
    h = np.stack([impulse_response(filt, 120000, channel=j) for j in range(2)], axis=-1)  # 2.5 s: -300 dB
    one = norm_bounds(filt, p=1)
    assert one.lower == pytest.approx(np.max(np.sum(np.abs(h), axis=(0, 2))), rel=1e-10)
    assert one.lower <= one.upper <= one.lower * (1 + 1e-9)
    assert norm(filt) == pytest.approx(np.linalg.norm(h), rel=1e-10)
    peak = peak_gain(filt)
    assert peak.gain <= peak.upper <= peak.gain * (1 + 1e-6)
    grid = np.linalg.norm(np.fft.fft(h, 1 << 17, axis=0), 2, axis=(1, 2))
    assert np.max(grid) <= peak.upper
    assert np.linalg.norm(filt.frequency_response(2 * np.pi * peak.frequency / 48000)[0], 2) == pytest.approx(peak.gain)


def test_comb_with_a_lowpass_in_its_loop():
    """The loop holds short lines too, which have to be proved passive: peak 1 / (1 - .7), at zero."""
    loop = Feedback(SOS(signal.butter(2, 0.3, output="sos")), 0.7, delay=2000)
    peak = peak_gain(loop)
    assert peak.gain == pytest.approx(1 / 0.3, rel=1e-12) and peak.frequency == 0
    assert peak.upper == pytest.approx(1 / 0.3, rel=1e-8)
    h = loop(np.eye(1, 200000)[0])
    assert norm(loop, p=1) == pytest.approx(np.sum(np.abs(h)), rel=1e-9)
    assert norm(loop) == pytest.approx(np.linalg.norm(h), rel=1e-9)


def test_reverb():
    """A cascade of allpasses into a network."""
    diffused = Series(*(GerzonAllpass([m], gain=0.65) for m in (211, 347, 577)))
    lines = [m for m in range(1103, 3800) if all(m % k for k in range(2, 62))][::20][:16]
    filt = diffused >> FeedbackDelayNetwork(lines, t60_s=0.3, sample_rate=48000, matrix="hadamard", seed=1)
    h = filt(np.eye(1, 120000)[0])
    assert filt.n_states > 20000
    assert norm(filt, p=1) == pytest.approx(np.sum(np.abs(h)), rel=1e-9)
    assert norm(filt) == pytest.approx(np.linalg.norm(h), rel=1e-9)


def test_long_lines_agree_with_dense_matrices(monkeypatch):
    """Short networks as if they were long, with all ways of proving the decay: every bound holds, and they meet."""
    rng = np.random.default_rng(1)
    n_found = 0
    for _ in range(80):
        filt = random_network(rng)
        known = [norm_bounds(filt, p=p) for p in ALL]
        with monkeypatch.context() as patch:
            patch.setattr(gains, "MAX_STATES", int(rng.choice([0, 400])))
            patch.setattr(gains, "MAX_OPEN_STATES", int(rng.choice([3, 60])))
            storage = gains._storage(filt)
        if storage is None:
            continue
        n_found += 1
        assert decay_certificate(filt.A, filt.delays) is not None
        rest = gains._StorageRest(filt, *storage)
        response = gains._ring(filt, rest)
        for n_frames, left in response.marks:
            assert np.all(np.sum(np.abs(response.h[n_frames:]), axis=(0, 2)) <= left * (1 + 1e-9) + 1e-13)
        energy, rows = np.sum(response.h**2), np.sum(np.abs(response.h), axis=(0, 2))
        assert np.max(rows) <= known[0].upper and known[0].lower <= np.max(rows + response.marks[-1][1]) * (1 + 1e-11)
        assert np.sqrt(energy + rest.energy(response.state)) == pytest.approx(known[1].upper, rel=1e-10)
        peak, _, upper = gains._by_grid(filt, rest)
        assert peak <= known[2].upper and known[2].lower <= upper * (1 + 1e-12)
        assert upper <= peak * 1.02
        assert rest.storage_gain() >= known[2].lower * (1 - 1e-12)
    assert n_found > 70


@pytest.mark.parametrize("kind", ["hankel", "storage"])
def test_bounds_of_the_rest_hold_at_any_state(kind):
    """From any state, for which nothing is tuned."""
    rng = np.random.default_rng(4)
    for _ in range(40):
        filt = random_network(rng)
        if kind == "hankel":
            rest = gains._HankelRest(filt, gains._powers(filt))
        elif (storage := gains._storage(filt)) is not None:
            rest = gains._StorageRest(filt, *storage)
        x = rng.standard_normal((2, filt.n_states)) * (rng.random(filt.n_states) < 0.3)
        y, _ = filt.run(np.zeros((2, 4000, filt.n_inputs)), filt.rest_state((2,)).unravel(x))
        assert np.all(np.sum(np.abs(y), axis=(0, 1)) <= rest.bound(x) + 1e-12)
        assert np.sum(y**2) <= rest.energy(x) * (1 + 1e-9) + 1e-12


def test_the_grid_misses_little():
    """Half way between two points of the grid is the worst place for a peak: Fejer's kernel put there."""
    n = 64
    worst = np.pi / (8 * n)
    h = (np.exp(-1j * worst * np.arange(n)).conj())[:, None, None].real / n
    w, values, apart = gains._on_grid(h)
    assert apart == pytest.approx(worst)
    assert w.min() == 0 and w.max() >= np.pi - apart
    np.testing.assert_allclose(values[w <= np.pi], np.abs(gains_of(h[:, 0, 0], w[w <= np.pi])), atol=1e-12)
    fine = np.max(np.abs(gains_of(h[:, 0, 0], np.linspace(0, np.pi, 200001))))
    assert np.max(values) <= fine * (1 + 1e-12) <= np.max(values) / np.cos(apart * n / 2)


def gains_of(h, w):
    return np.polyval(h[::-1], np.exp(-1j * w))


# ---- larger dense filters


def test_what_does_not_matter_is_left_out():
    """130 states, of which few matter."""
    rng = np.random.default_rng(5)
    A = linalg.block_diag(
        *(
            r * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
            for r, a in zip(rng.uniform(0.1, 0.9, 65), rng.uniform(0, np.pi, 65), strict=True)
        )
    )
    filt = StateSpace(A, 0.1 * rng.standard_normal((130, 1)), rng.standard_normal((1, 130)), [[0.3]])
    peak = peak_gain(filt)
    assert gains._reduced(filt, gains._powers(filt))[0].n_states < 100
    best = np.max(np.abs(np.fft.rfft(impulse_response(filt, 1000)[:, 0], 1 << 16)))
    assert best <= peak.upper <= best * (1 + 1e-5)
    assert peak.upper <= peak.gain * (1 + 1e-8)


def test_large_dense_filter():
    """All 150 states matter: then the ends are a few percent apart."""
    A = 0.9 * orthogonal_matrix(150, "random", seed=2)
    rng = np.random.default_rng(2)
    filt = StateSpace(A, rng.standard_normal((150, 1)), rng.standard_normal((1, 150)), [[0.0]])
    peak = peak_gain(filt)
    h = impulse_response(filt, 400)[:, 0]
    best = np.max(np.abs(np.fft.rfft(h, 1 << 16)))
    assert peak.gain <= best * (1 + 1e-6) and best <= peak.upper <= 1.05 * peak.gain
    assert norm(filt, p=1) == pytest.approx(np.sum(np.abs(h)), rel=1e-9)


# ---- nonlinear filters at an operating point


def test_operating_point():
    filt = Knobs(LSTM(2, 6, seed=1) >> Dense(6, 1), {"drive": 0.2})
    _, state = filt.run(np.random.default_rng(0).standard_normal((150, 1)))
    point = {"state": state, "u": [0.4], "controls": {"drive": 0.7}}
    linear = filt.linearize(state, [0.4], controls={"drive": 0.7})
    h = impulse_response(linear, 3000)[:, 0]
    assert norm(filt, p=1, **point) == pytest.approx(np.sum(np.abs(h)), rel=1e-9)
    P = linalg.solve_discrete_lyapunov(linear.A, linear.B @ linear.B.T)
    assert norm(filt, **point) ** 2 == pytest.approx((linear.C @ P @ linear.C.T + linear.D @ linear.D.T).item())
    assert peak_gain(filt, **point).gain == pytest.approx(np.max(np.abs(np.fft.rfft(h, 1 << 14))), rel=1e-6)
    assert norm(filt, **point) != pytest.approx(norm(filt), rel=1e-3)


# ---- Gramians and certificates


def test_gramians():
    rng = np.random.default_rng(6)
    for n, k, p in ((1, 1, 1), (4, 1, 2), (7, 3, 2)):
        filt = random_filter(rng, n, k, p, radius=0.97)
        found = gramians(filt)
        np.testing.assert_allclose(
            found.controllability, linalg.solve_discrete_lyapunov(filt.A, filt.B @ filt.B.T), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            found.observability, linalg.solve_discrete_lyapunov(filt.A.T, filt.C.T @ filt.C), rtol=1e-9, atol=1e-12
        )
        sigma = np.sqrt(np.linalg.eigvals(found.controllability @ found.observability).real)
        np.testing.assert_allclose(hankel_singular_values(filt), np.sort(sigma)[::-1], rtol=1e-7)


def test_small_hankel_singular_values_keep_their_digits():
    """A pole that is nearly cancelled: the square roots of eigenvalues would lose it in rounding."""
    filt = StateSpace(np.diag([0.9, 0.5]), [[1.0], [1e-7]], [[1.0, 1e-7]], [[0.0]])
    # to first order the small one is that of the rest, less what the large one takes over
    small = 1e-14 / (1 - 0.25) - 1e-14 / (1 - 0.45) ** 2 * (1 - 0.81)
    assert hankel_singular_values(filt)[1] == pytest.approx(small, rel=1e-3)


def test_hidden_states_have_hankel_singular_value_zero():
    filt = StateSpace(np.diag([0.5, 0.3, 0.2]), [[1.0], [0.0], [1.0]], [[1.0, 1.0, 0.0]], [[0.0]])
    np.testing.assert_allclose(hankel_singular_values(filt), [1 / 0.75, 0, 0], atol=1e-15)


def test_lyapunov_bound():
    """||A^k|| stays below the bound, and the published matrix [[.9, 5], [0, .8]] peaks at 13.477879199, k = 6."""
    rng = np.random.default_rng(7)
    matrices = [rng.standard_normal((n, n)) for n in (1, 2, 3, 5, 8)]
    matrices = [0.95 * A / np.max(np.abs(np.linalg.eigvals(A))) for A in matrices]
    for A in (np.array([[0.9, 5.0], [0.0, 0.8]]), *matrices):
        n = len(A)
        found = lyapunov_certificate(StateSpace(A, np.zeros((n, 1)), np.zeros((1, n)), [[0.0]]))
        assert found.recheck() and found.residual < 1e-8
        np.testing.assert_allclose(found.P, linalg.solve_discrete_lyapunov(A.T, np.eye(n)), rtol=1e-10)
        sizes = [np.linalg.norm(np.linalg.matrix_power(A, k), 2) for k in range(200)]
        assert all(size <= found.decay(k) * (1 + 1e-12) for k, size in enumerate(sizes))
        assert found.decay(10**6) < 1e-9
    sizes = [np.linalg.norm(np.linalg.matrix_power([[0.9, 5.0], [0.0, 0.8]], k), 2) for k in range(50)]
    assert np.argmax(sizes) == 6 and max(sizes) == pytest.approx(13.477879199, abs=1e-9)


def test_a_false_certificate_is_noticed():
    filt = random_filter(np.random.default_rng(8), 4)
    found = lyapunov_certificate(filt)
    for wrong in (found.P - 1.1 * np.linalg.eigvalsh(found.P)[0] * np.eye(4), -found.P, np.eye(4) * 1e-3):
        assert not type(found)(found.A, wrong, found.Q, found.residual).recheck()
    assert not type(found)(1.3 * found.A / filt.spectral_radius(), found.P, found.Q, found.residual).recheck()
    assert not type(found)(found.A, found.P, -found.Q, found.residual).recheck()


@pytest.mark.parametrize("radius", [1.0, 1.1, 1 - 1e-16])
def test_no_certificate_without_decay(radius):
    assert lyapunov_certificate(StateSpace([[radius]], [[1.0]], [[1.0]], [[0.0]])) is None


def test_certificates_of_other_filters():
    assert lyapunov_certificate(LSTM(1, 5, seed=0)).recheck()
    assert lyapunov_certificate(GerzonAllpass([3, 5, 7])).recheck()
    assert lyapunov_certificate(gain(2.0)).recheck() and lyapunov_certificate(gain(2.0)).decay(1) == 0


# ---- errors


def test_errors():
    filt = pair(0.9, 1.0)
    for p in (3, True, "inf", None, np.ones(2)):
        with pytest.raises(ParameterError, match="choose 1, 2 or"):
            norm(filt, p=p)
    for ask in (gramians, hankel_singular_values, lyapunov_certificate):
        with pytest.raises(ParameterError, match="501 states are more than the 500"):
            ask(delay(501))
    with pytest.raises(ParameterError, match="does not decay"):
        gramians(pair(1.0, 0.5))
    with pytest.raises(ParameterError, match="linearize its inner filter"):
        norm(Framed.spectral_gain(np.ones(9), n_fft=16, hop_length=4))
    with pytest.raises(ParameterError, match="unknown controls"):
        norm(filt, controls={"drive": 1.0})
    with pytest.raises(ParameterError, match="whole number"):
        lyapunov_certificate(filt).decay(-1)


def test_numbers_beyond_all_numbers():
    """Overflow is infinite gain, or an error of our own: no warning, no crash."""
    loud = StateSpace([[0.5]], [[1e200]], [[1e200]], [[0.0]])
    assert norm(loud) == norm(loud, p=INF) == INF
    with pytest.raises(ParameterError, match="beyond double precision"):
        norm(loud, p=1)
    steep = StateSpace([[0.5, 1e150], [0.0, 0.5]], [[1.0], [1.0]], [[1.0, 1.0]], [[0.0]])
    assert norm(steep, p=INF) == pytest.approx(4e150, rel=1e-9)
    assert lyapunov_certificate(steep) is None
    faint = StateSpace([[0.5]], [[1e-200]], [[1e-200]], [[0.0]])
    assert [norm(faint, p=p) for p in ALL] == [0, 0, 0]

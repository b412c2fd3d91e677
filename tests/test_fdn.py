"""Gerzon's allpass, feedback delay networks, and the filters that are built by name.

Oracles: closed forms (Schroeder's allpass, echo times and levels, pole radii, Butterworth's -3 dB), unitarity and the
balance of energy, scipy.signal.lfilter, and the decay time read off the impulse response by Schroeder's backward
integration.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import rnndsp
from rnndsp import frequency_response, impulse_response
from rnndsp.errors import ParameterError
from rnndsp.filters import FeedbackDelayNetwork, GerzonAllpass, Reverb, named, orthogonal_matrix
from rnndsp.stability import peak_gain
from rnndsp.testing import check_filter

RATE = 48000
KINDS = ["householder", "hadamard", "random"]
QUICK = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def impulse(n):
    return np.eye(1, n)[0]


def measured_t60_s(h, rate, low_db=-40, high_db=-5):
    """Schroeder (1965): the energy still to come, as a line in decibels."""
    to_come = np.cumsum(h[::-1] ** 2)[::-1]
    db = 10 * np.log10(to_come / to_come[0])
    part = np.flatnonzero((db < high_db) & (db > low_db))
    slope = np.polyfit(part / rate, db[part], 1)[0]
    return -60 / slope


# ---- orthogonal matrices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_orthogonal_matrices(kind, n):
    U = orthogonal_matrix(n, kind, seed=3)
    np.testing.assert_allclose(U @ U.T, np.eye(n), atol=1e-13)
    if kind == "hadamard":
        np.testing.assert_allclose(np.abs(U), 1 / np.sqrt(n), rtol=1e-15)
        np.testing.assert_array_equal(np.sign(U), np.sign(scipy.linalg.hadamard(n)))
    elif kind == "householder" and n > 1:
        np.testing.assert_allclose(U @ np.ones(n), -np.ones(n), atol=1e-12)  # the mirror image of the normal
        assert np.linalg.det(U) == pytest.approx(-1)
    elif kind == "random":
        np.testing.assert_array_equal(U, orthogonal_matrix(n, kind, seed=3))
        assert n == 1 or np.max(np.abs(U - orthogonal_matrix(n, kind, seed=4))) > 0.1


def test_random_orthogonal_matrices_are_uniform():
    rng = np.random.default_rng(0)
    many = np.array([orthogonal_matrix(3, "random", seed=rng) for _ in range(4000)])
    # of Haar's measure: entries of mean 0 and variance 1/3, determinants of both signs alike
    np.testing.assert_allclose(many.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose((many**2).mean(axis=0), 1 / 3, atol=0.02)
    assert abs(np.linalg.det(many).mean()) < 0.06


GALLERY = ["anderson", "circulant", "hadamard", "householder", "nested_allpass", "random", "tiny_rotation"]


@pytest.mark.parametrize("kind", GALLERY)
def test_the_gallery_is_orthogonal(kind):
    for n in (4, 8, 16, 64) if kind in ("anderson", "hadamard") else (1, 2, 3, 6, 16, 33):
        U = orthogonal_matrix(n, kind, seed=n)
        np.testing.assert_allclose(U @ U.T, np.eye(n), atol=1e-12)
        np.testing.assert_array_equal(U, orthogonal_matrix(n, kind, seed=n))
    filt = FeedbackDelayNetwork([101, 211, 307, 401], t60_s=0.5, sample_rate=8000, matrix=kind, seed=3)
    np.testing.assert_allclose(np.abs(filt.poles()), 10 ** (-3 / (8000 * 0.5)), atol=1e-9)


def test_circulant_matrices():
    for n in (5, 8):
        U = orthogonal_matrix(n, "circulant", seed=1)
        np.testing.assert_array_equal(U, scipy.linalg.circulant(U[0]).T)
        np.testing.assert_allclose(np.abs(np.fft.fft(U[0])), 1, atol=1e-14)


def test_anderson_matrices():
    U = orthogonal_matrix(12, "anderson").reshape(3, 4, 3, 4).transpose(0, 2, 1, 3)
    for i in range(3):
        for j in range(3):
            block = orthogonal_matrix(4, "hadamard") if j == (i + 1) % 3 else np.zeros((4, 4))
            np.testing.assert_array_equal(U[i, j], block)


def test_tiny_rotations():
    values = np.linalg.eigvals(orthogonal_matrix(9, "tiny_rotation", seed=2))
    angles = np.sort(np.abs(np.angle(values))) / (2 * np.pi)
    assert angles[0] < 1e-9 and np.all((angles[1:] >= 0.009) & (angles[1:] <= 0.011))
    assert np.linalg.det(orthogonal_matrix(8, "tiny_rotation")) == pytest.approx(1)


def gardner(gains):
    """[[A, B], [C, D]] of allpasses nested in each other, by the recursion of Gardner (1992)."""
    A, B, C, D = np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), np.ones((1, 1))
    for g in gains:
        n = len(A)
        A = np.block([[A, B], [g * C, g * D]])
        B = np.vstack([np.zeros((n, 1)), [[1 - g * g]]])
        C, D = np.hstack([C, D]), np.array([[-g]])
    return A, B, C, D


def test_nested_allpasses():
    A, B, _, _ = gardner([0.5, 0.6, 0.7])
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    np.testing.assert_allclose(P, np.diag([0.2448, 0.3264, 0.51]), atol=1e-15)  # published
    A, B, C, D = gardner(np.random.default_rng(5).uniform(0.6, 0.8, 5))
    energy = np.append(np.sqrt(np.diag(scipy.linalg.solve_discrete_lyapunov(A, B @ B.T))), 1)
    scaled = np.block([[A, B], [C, D]]) * energy / energy[:, None]
    np.testing.assert_allclose(orthogonal_matrix(6, "nested_allpass", seed=5), scaled, atol=1e-13)


def test_bad_matrices():
    with pytest.raises(ParameterError, match="multiple of four lines, not 6; take 'circulant'"):
        orthogonal_matrix(6, "anderson")
    for n, kind, says in (
        (0, "random", "n=0"),
        (6, "hadamard", "power of two, not 6; take"),
        (4, "dense", "kind='dense': choose"),
    ):
        with pytest.raises(ParameterError, match=says):
            orthogonal_matrix(n, kind)
    slightly = np.eye(2) * (1 + 1e-6)
    for build in (
        lambda U: GerzonAllpass([3, 5], matrix=U),
        lambda U: FeedbackDelayNetwork([3, 5], t60_s=1, sample_rate=RATE, matrix=U),
    ):
        for U, says in (
            (slightly, "differs from the identity by 2e-06"),
            (np.ones((2, 3)), r"square, not of shape \(2, 3\)"),
            (np.eye(3), r"2 delays and a matrix of shape \(3, 3\) do not fit"),
            (np.full((2, 2), np.nan), "not orthogonal"),
        ):
            with pytest.raises(ParameterError, match=says):
                build(U)
        assert build(np.eye(2)).n_states == 8


# ---- Gerzon's allpass


def assert_unitary(filt, w):
    H = filt.frequency_response(w)
    gram = np.conj(np.swapaxes(H, 1, 2)) @ H
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(filt.n_inputs), gram.shape), atol=1e-12)


@QUICK
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(KINDS),
    st.floats(-0.95, 0.95),
    st.data(),
    st.integers(0, 2**31),
)
def test_gerzon_is_unitary_at_every_frequency(n, kind, g, data, seed):
    delays = data.draw(st.lists(st.integers(1, 5000), min_size=n, max_size=n))
    filt = GerzonAllpass(delays, gain=g, matrix=kind, seed=seed)
    assert_unitary(filt, np.linspace(0, np.pi, 65))


@QUICK
@given(st.integers(1, 6), st.integers(1, 4), st.data(), st.integers(0, 2**31))
def test_from_matrix_is_unitary_and_keeps_energy(n, k, data, seed):
    delays = data.draw(st.lists(st.integers(1, 300), min_size=n, max_size=n))
    V = orthogonal_matrix(n + k, "random", seed=seed)
    filt = GerzonAllpass.from_matrix(V, delays)
    np.testing.assert_array_equal(np.block([[filt.A, filt.B], [filt.C, filt.D]]), V)
    u = noise(2000, k, seed=seed)
    y, state = filt.run(u)
    assert np.sum(y**2) + np.sum(state.ravel() ** 2) == pytest.approx(np.sum(u**2), rel=1e-12)
    # a mode of A near the circle makes H^H H a difference of large numbers
    if np.max(np.abs(np.linalg.eigvals(filt.A))) < 0.99:
        w = np.linspace(0, np.pi, 33)
        H = filt.frequency_response(w)
        np.testing.assert_allclose(
            np.conj(np.swapaxes(H, 1, 2)) @ H, np.broadcast_to(np.eye(k), (33, k, k)), atol=1e-11
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "delays", [[1], [337], [1, 1], [101, 757], [3, 5, 7, 11], [1, 211, 433, 677, 1009, 1301, 1511, 1999]]
)
def test_energy_is_kept(kind, delays):
    u = noise(100_000, len(delays), seed=len(delays))
    y, state = GerzonAllpass(delays, gain=-0.7, matrix=kind, seed=1).run(u)
    stored = np.sum(state.ravel() ** 2)
    assert stored > 0 and np.sum(y**2) + stored == pytest.approx(np.sum(u**2), rel=1e-9)


@pytest.mark.parametrize("g", [-0.9, 0.0, 0.3, 0.7])
@pytest.mark.parametrize("m", [1, 2, 13, 480])
def test_one_channel_is_schroeders(g, m):
    filt, n = GerzonAllpass([m], gain=g), 6 * m + 1
    h = np.zeros(n)
    h[0] = g
    h[m::m] = (1 - g**2) * (-g) ** np.arange(6)
    np.testing.assert_allclose(filt(impulse(n)), h, atol=1e-15)
    u = noise(3000)
    b, a = np.zeros(m + 1), np.zeros(m + 1)
    b[[0, m]], a[0], a[m] = (g, 1), 1, g
    np.testing.assert_allclose(filt(u), scipy.signal.lfilter(b, a, u), atol=1e-13)
    assert filt.spectral_radius() == pytest.approx(abs(g) ** (1 / m), abs=1e-12)


def test_bad_allpasses():
    for g in (1, -1, 1.5, np.nan):
        with pytest.raises(ParameterError, match=re.escape(f"gain={g} must ")):
            GerzonAllpass([3], gain=g)
    for delays in ([0], [-2], [2.5], [], 3):
        with pytest.raises(ParameterError):
            GerzonAllpass(delays)
    with pytest.raises(ParameterError, match="leaves no channel beside 2 delay lines"):
        GerzonAllpass.from_matrix(np.eye(2), [3, 5])
    with pytest.raises(ParameterError, match="not orthogonal"):
        GerzonAllpass.from_matrix(2 * np.eye(3), [3, 5])


# ---- feedback delay networks


def lines(rate, n):
    """Mutually prime lengths of 10 to 40 ms."""
    found = []
    for length in rate * np.geomspace(0.010, 0.040, n):
        m = int(length)
        while any(np.gcd(m, k) > 1 for k in found):
            m += 1
        found.append(m)
    return found


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("t60_s", [0.3, 0.8, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_decays_in_the_designed_time(rate, t60_s, kind):
    filt = FeedbackDelayNetwork(lines(rate, 8), t60_s=t60_s, sample_rate=rate, matrix=kind, seed=2)
    h = filt(impulse(int(1.3 * t60_s * rate)))
    # lines of up to 40 ms make steps in a short tail, so fit over more of it
    assert measured_t60_s(h, rate, low_db=-55) == pytest.approx(t60_s, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "delays", [[7, 11, 13, 17], [1, 1, 1, 1], [37, 43, 61, 70], [10, 20, 30, 40], [211, 307, 401, 503]]
)
@pytest.mark.parametrize("t60_s", [0.002, 0.1, 20])
def test_all_poles_lie_on_one_circle(kind, delays, t60_s):
    filt = FeedbackDelayNetwork(delays, t60_s=t60_s, sample_rate=RATE, matrix=kind, seed=5)
    gamma = 10 ** (-3 / (RATE * t60_s))
    poles = filt.poles()
    assert len(poles) == sum(delays)
    np.testing.assert_allclose(np.abs(poles), gamma, atol=1e-9)
    assert rnndsp.stability.t60_s(filt.spectral_radius(), RATE) == pytest.approx(t60_s, rel=1e-6)


def test_the_lossless_limit():
    filt = FeedbackDelayNetwork([101, 203, 307, 409], t60_s=1e7, sample_rate=8000)
    gamma = 10 ** (-3 / (8000 * 1e7))
    np.testing.assert_allclose(np.abs(filt.poles()), 1, atol=1e-9)
    _, state = filt.run(impulse(2000))
    energy = np.sum(state.ravel() ** 2)
    assert energy == pytest.approx(1, rel=1e-5)  # B has unit norm
    _, later = filt.run(np.zeros(100_000), state)
    lost = 1 - np.sum(later.ravel() ** 2) / energy
    assert lost == pytest.approx(1 - gamma ** (2 * 100_000), rel=0.01)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_wet_sound_has_unit_energy_and_the_dry_one_is_direct(n_channels):
    # the mean over many draws of the signs: one draw is off by its interference
    energy = []
    for seed in range(40):
        filt = FeedbackDelayNetwork(
            lines(8000, 8), t60_s=0.2, sample_rate=8000, n_channels=n_channels, matrix="random", seed=seed
        )
        energy.append(np.sum(impulse_response(filt, 4000) ** 2))
    assert np.mean(energy) == pytest.approx(1, rel=0.15)
    filt = FeedbackDelayNetwork(lines(8000, 8), t60_s=0.2, sample_rate=8000, n_channels=n_channels, dry=0.3, wet=2.0)
    plain = FeedbackDelayNetwork(lines(8000, 8), t60_s=0.2, sample_rate=8000, n_channels=n_channels)
    u = noise(500, n_channels)
    np.testing.assert_allclose(filt(u), 0.3 * u + 2 * plain(u), atol=1e-13)


def by_loop(filt, u):
    """The equations of a network from rest, frame by frame."""
    v = np.zeros((len(u), len(filt.delays)))
    y = np.empty((len(u), filt.n_outputs))
    for t in range(len(u)):
        back = t - filt.delays
        d = np.where(back < 0, 0, v[back, np.arange(len(back))])
        v[t], y[t] = filt.A @ d + filt.B @ u[t], filt.C @ d + filt.D @ u[t]
    return y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "n_channels"), [(1, 1), (4, 1), (8, 3), (16, 2)])
def test_networks_equal_their_equations(kind, n, n_channels):
    filt = FeedbackDelayNetwork(
        lines(RATE, n), t60_s=1.5, sample_rate=RATE, n_channels=n_channels, matrix=kind, dry=0.7, seed=6
    )
    u = noise(6000, n_channels, seed=n)
    y, expected = filt(u), by_loop(filt, u)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.max(np.abs(expected)))
    y = filt(u.astype(np.float32))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


def test_bad_networks():
    for t60_s in (0, -1, np.nan, np.inf):
        with pytest.raises(ParameterError, match=r"t60_s=.* must be (positive|a number)"):
            FeedbackDelayNetwork([3, 5], t60_s=t60_s, sample_rate=RATE)
    # where the decay of a sample rounds to one, or that of a line to nothing
    for t60_s in (1e30, 1e-9):
        with pytest.raises(ParameterError, match=f"t60_s={t60_s} is beyond double precision".replace("+", r"\+")):
            FeedbackDelayNetwork([3, 5], t60_s=t60_s, sample_rate=RATE)
    for delays in ([-3, 5], [0, 5], [2.5, 5], [], [[3, 5]]):
        with pytest.raises(ParameterError):
            FeedbackDelayNetwork(delays, t60_s=1, sample_rate=RATE)


# ---- by name

OVERDRIVE = Path(rnndsp.__file__).parent / "data" / "overdrive.safetensors"


@pytest.mark.parametrize("order", [1, 2, 5, 12, 24])
@pytest.mark.parametrize("edge_hz", [50.0, 1000.0, 20000.0])
def test_lowpass_and_highpass_have_3_db_at_the_cutoff(order, edge_hz):
    for name, passes, stops in (("lowpass", 0.0, RATE / 2), ("highpass", RATE / 2, 0.0)):
        filt = named(f"{name}:cutoff_hz={edge_hz},order={order}", sample_rate=RATE)
        db = frequency_response(filt, [edge_hz, passes]).magnitude_db[:, 0, 0]
        np.testing.assert_allclose(db, [10 * np.log10(0.5), 0], atol=1e-6)
        assert np.abs(frequency_response(filt, [stops]).h[0, 0, 0]) < 1e-6
        assert filt.n_states == 2 * ((order + 1) // 2) and filt.sample_rate == RATE


def test_steep_filters_have_3_db_at_the_cutoff():
    filt = named("lowpass:cutoff_hz=50,order=12", sample_rate=RATE)
    _, expected = scipy.signal.sosfreqz(filt.sos, [50.0], fs=RATE)
    assert np.abs(expected[0]) == pytest.approx(np.sqrt(0.5), rel=1e-6)
    db = frequency_response(filt, [50.0]).magnitude_db[0, 0, 0]
    assert db == pytest.approx(10 * np.log10(0.5), abs=1e-3)


def test_bandpass_and_bandstop_have_3_db_at_both_edges():
    for name, inside in (("bandpass", 1.0), ("bandstop", 0.0)):
        filt = named(f"{name}:low_hz=500,high_hz=4000,order=3", sample_rate=RATE)
        warp = np.tan(np.pi * np.array([500, 4000]) / RATE)
        centre = RATE / np.pi * np.arctan(np.sqrt(np.prod(warp)))
        h = np.abs(frequency_response(filt, [500, 4000, centre, 0.0]).h[:, 0, 0])
        np.testing.assert_allclose(h, [np.sqrt(0.5), np.sqrt(0.5), inside, 1 - inside], atol=1e-6)


@pytest.mark.parametrize(("delay_s", "feedback", "mix"), [(0.01, 0.5, 0.4), (0.35, -0.8, 1.0), (0.001, 0.99, 0.1)])
def test_echo(delay_s, feedback, mix):
    filt = named(f"echo:delay_s={delay_s},feedback={feedback},mix={mix}", sample_rate=RATE)
    m = round(delay_s * RATE)
    h = impulse(8 * m)
    h[m::m] = mix * feedback ** np.arange(7.0)
    np.testing.assert_allclose(filt(impulse(8 * m)), h, atol=1e-14)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_allpass_by_name(rate, n_channels):
    filt = named("allpass:delay_s=0.01,gain=-0.5", sample_rate=rate, n_channels=n_channels)
    assert_unitary(filt, np.linspace(0, np.pi, 65))
    wanted = 0.01 * rate * 1.07 ** np.arange(n_channels)
    assert np.all((filt.delays >= wanted - 1) & (filt.delays < wanted + 20)) and len(set(filt.delays)) == n_channels
    assert all(m % k for m in filt.delays.tolist() for k in range(2, int(m**0.5) + 1))  # primes


def test_named_reverb_is_the_preset_but_for_what_is_set():
    u = np.random.default_rng(0).standard_normal((3000, 2))
    filt = named("reverb:preset=plate,t60_s=0.8,mix=0.5", sample_rate=16000, n_channels=2)
    np.testing.assert_array_equal(filt(u), Reverb("plate", t60_s=0.8, mix=0.5, sample_rate=16000)(u))
    many = named("reverb:size=0.2", sample_rate=16000, n_channels=4)
    assert many == Reverb("hall", size=0.2, sample_rate=16000, n_channels=4)


@pytest.mark.parametrize("kind", ["low_shelf", "high_shelf", "peaking"])
def test_named_equalisers(kind):
    filt = named(f"{kind}:cutoff_hz=1000,gain_db=-6", sample_rate=RATE)
    at = {"low_shelf": 1e-3, "high_shelf": np.pi, "peaking": 2 * np.pi * 1000 / RATE}[kind]
    assert 20 * np.log10(np.abs(filt.linearize().frequency_response(at))).item() == pytest.approx(-6, abs=1e-3)


def test_named_resonator():
    filt = named("resonator:frequency_hz=3000,t60_s=0.05", sample_rate=RATE)
    peak = peak_gain(filt)
    assert peak.gain == pytest.approx(1, abs=0.01) and peak.frequency == pytest.approx(3000, rel=1e-3)
    assert filt.spectral_radius() == pytest.approx(10 ** (-3 / (RATE * 0.05)), rel=1e-12)


@pytest.mark.skipif(not OVERDRIVE.is_file(), reason=f"{OVERDRIVE.name} has not been trained yet")
def test_overdrive():
    filt = named("overdrive:drive=0.25", sample_rate=RATE)
    (control,) = filt.controls
    assert (control.name, control.default) == ("drive", 0.25)
    u = 0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(4800))
    y = filt(u)
    np.testing.assert_array_equal(y, named("overdrive", sample_rate=RATE)(u, controls={"drive": 0.25}))
    assert 0.01 < np.max(np.abs(y[2400:])) < 2
    spectrum = np.abs(np.fft.rfft(y[-2400:] * np.hanning(2400)))
    assert spectrum[3 * 22] > 1e-4 * spectrum[22]  # it distorts: 1320 Hz from 440 Hz
    for rate, spec in ((44100, "overdrive"), (RATE, "overdrive:drive=2")):
        with pytest.raises(ParameterError, match=r"48000 Hz; resample|must lie within \[0, 1\]"):
            named(spec, sample_rate=rate)


@pytest.mark.parametrize(
    "spec",
    [
        "lowpass:cutoff_hz=5000",
        "highpass:cutoff_hz=5000",
        "bandpass:low_hz=5000,high_hz=9000",
        "echo:delay_s=0.001",
        "allpass:delay_s=0.001",
        "peaking:q=3",
        "resonator:t60_s=0.01",
    ],
)
def test_named_filters_keep_the_promises_of_filters(spec):
    check_filter(named(spec, sample_rate=RATE))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", r"unknown filter '': choose one of \['allpass', 'bandpass'"),
        ("LowPass", "unknown filter 'LowPass': choose one of"),
        ("lowpass:cutoff=3", "unknown or repeated setting 'cutoff'; all of them are lowpass:cutoff_hz=1000.0,order=2"),
        ("lowpass:4000", "setting '4000'; all of them are"),
        ("lowpass:sample_rate=3", "setting 'sample_rate'"),
        ("lowpass:order=2,order=4", "repeated setting 'order'"),
        ("lowpass:cutoff_hz=high", "cutoff_hz='high' is no float; e.g. lowpass:cutoff_hz=1000.0"),
        ("lowpass:cutoff_hz=", "cutoff_hz='' is no float"),
        ("lowpass:order=2.5", "order='2.5' is no int"),
        ("lowpass:cutoff_hz=nan", "cutoff_hz must be finite"),
        ("lowpass:cutoff_hz=-inf", "cutoff_hz must be finite"),
        ("lowpass:order=" + "9" * 40, "order must be finite"),
        ("lowpass:cutoff_hz=24000", r"24000 Hz: .* half the sample rate, 24000 Hz"),
        ("highpass:cutoff_hz=0", "half the sample rate"),
        ("bandpass:low_hz=4000,high_hz=300", "must rise within 0 and half the sample rate"),
        ("bandstop:low_hz=300,high_hz=300", "must rise"),
        ("lowpass:order=0", "order=0 must lie within 1 and 24"),
        ("highpass:order=1000", "order=1000 must lie within 1 and 24"),
        ("echo:delay_s=1e9", r"delay of 1e\+09 s is .* more than a minute"),
        ("echo:delay_s=0", "delay of 0 s is less than a sample"),
        ("echo:delay_s=-1", "delay of -1 s"),
        ("echo:feedback=1", "spectral radius 1 >= 1 .* lower the gain"),
        ("echo:feedback=-1.5", "spectral radius 1"),
        ("allpass:gain=1", r"gain=1\.0 must lie within"),
        ("allpass:delay_s=1e9", "more than a minute"),
        ("allpass:delay_s=-1", "less than a sample"),
        ("reverb:t60_s=0", r"t60_s=0\.0"),
        ("reverb:size=0", r"size=0\.0 must lie within 0\.05 and 4"),
        ("reverb:preset=cave", "preset='cave': choose one of"),
        ("resonator:t60_s=0", "t60_s"),
        ("peaking:q=1e9", "q"),
        ("reverb:size=11", "size=11"),
    ],
)
def test_bad_specs_name_the_remedy(spec, says):
    with pytest.raises(ParameterError, match=says):
        named(spec, sample_rate=RATE)


@pytest.mark.parametrize("name", ["lowpass", "echo", "reverb", "allpass"])
def test_bad_rates_and_channels(name):
    for rate, n_channels in ((0, 1), (-48000, 1), (np.nan, 1), (np.inf, 1), (RATE, 0), (RATE, -2)):
        with pytest.raises(ParameterError, match=r"sample_rate=.* number|n_channels=.* at least 1"):
            named(name, sample_rate=rate, n_channels=n_channels)

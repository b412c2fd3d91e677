"""Lattice and CoupledForm, and what modulation does to each structure.

Oracles: scipy's lfilter, closed forms, the polynomials' own roots, the energy balances that the proofs rest on, the
product of the state matrices for how fast a direct form grows.
"""

from itertools import pairwise

import numpy as np
import pytest
import scipy.signal

from rnndsp.errors import ParameterError
from rnndsp.filters.coupled import CoupledForm
from rnndsp.filters.lattice import Lattice, step_down, step_up
from rnndsp.filters.sections import SOS
from rnndsp.filters.state_variable import StateVariable
from rnndsp.stability import Boundedness, gramians

RATE = 48000.0


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.max(np.abs(desired)))


# ---- the recursion


def test_any_reflection_coefficients_make_a_stable_polynomial_and_come_back():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        k = rng.uniform(-0.95, 0.95, rng.integers(1, 9))
        a = step_up(k)[-1]
        assert np.abs(np.roots(a)).max() < 1
        np.testing.assert_allclose(step_down(3 * a), k, atol=1e-7)


def test_step_down_tells_stable_from_unstable():
    rng = np.random.default_rng(1)
    for _ in range(500):
        n = rng.integers(1, 4)
        poles = rng.uniform(0.5, 1.2, n) * np.exp(1j * rng.uniform(0.1, 3, n))
        a = np.poly(np.concatenate([poles, poles.conj()])).real
        if np.abs(poles).max() < 1:
            assert np.abs(step_down(a)).max() < 1
        else:
            with pytest.raises(ParameterError, match="unit circle"):
                step_down(a)


def test_second_order_in_closed_form():
    # Jury's triangle |a2| < 1, |a1| < 1 + a2, is |k2| < 1, |k1| < 1
    a1, a2 = -1.2, 0.6
    np.testing.assert_allclose(step_down([1, a1, a2]), [a1 / (1 + a2), a2], rtol=1e-15)
    np.testing.assert_array_equal(step_down([2.0]), [])


# ---- the lattice at rest


@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_lattice_equals_lfilter(order):
    rng = np.random.default_rng(order)
    a, b, u = 2 * step_up(rng.uniform(-0.8, 0.8, order))[-1], rng.standard_normal(order + 1), noise(2000)
    filt = Lattice.from_ba(b, a)
    close(filt(u), scipy.signal.lfilter(b, a, u))
    short = b[: (order + 1) // 2]  # a numerator may be shorter
    close(Lattice.from_ba(short, a)(u), scipy.signal.lfilter(short, a, u))
    all_pole = Lattice(filt.k, modulated=True)
    close(all_pole(u), scipy.signal.lfilter([1], a / 2, u))


def test_lattice_keeps_its_poles():
    poles = np.array([0.98 * np.exp(0.3j), 0.98 * np.exp(-0.3j), 0.9, -0.5, 0.95 * np.exp(2j), 0.95 * np.exp(-2j)])
    found = Lattice.from_poles(poles, sample_rate=RATE).poles()
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(poles), atol=1e-12)


def test_poles_lost_in_a_polynomial_are_refused_with_a_figure():
    _, poles, _ = scipy.signal.butter(24, 0.02, output="zpk")
    with pytest.raises(ParameterError, match=r"24 poles so close together are lost .* k\d+ = [-\d.]+ must lie"):
        Lattice.from_poles(poles)
    _, poles, _ = scipy.signal.butter(9, 0.02, output="zpk")
    with pytest.raises(ParameterError, match=r"9 poles so close together are lost .* by 3.45 %"):
        Lattice.from_poles(poles)
    Lattice.from_poles(scipy.signal.butter(4, 0.02, output="zpk")[1])


def test_allpass_is_lossless():
    filt = Lattice.allpass([-0.9, 0.7, 0.2, -0.6])
    w = np.linspace(0, np.pi, 200)
    np.testing.assert_allclose(np.abs(filt.linearize().frequency_response(w)).ravel(), 1, atol=1e-13)
    np.testing.assert_allclose(gramians(filt).controllability, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(gramians(filt).observability, np.eye(4), atol=1e-12)
    u = noise(1_000_000)
    y, end = filt.run(u)
    assert np.sum(y**2) + np.sum(end.z**2) == pytest.approx(np.sum(u**2), rel=1e-9)


# ---- the lattice played


def courses(n_frames, order, k_max, seed=0):
    """Reflection coefficients that jump at every sample, half of them from one end of the range to the other."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(-k_max, k_max, (order, n_frames))
    k[:, ::2] = k_max * rng.choice([-1, 1], (order, (n_frames + 1) // 2))
    return {f"k{i + 1}": course for i, course in enumerate(k)}


def test_energy_is_kept_for_every_course():
    filt, u = Lattice.allpass(np.zeros(6), modulated=True), noise(100_000)
    y, end = filt.run(u, controls=courses(u.size, 6, 0.9999))
    assert np.sum(y**2) + np.sum(end.z**2) == pytest.approx(np.sum(u**2), rel=1e-12)
    # at every sample, from any state
    state, controls = filt.rest_state((50,)).unravel(noise(50, 6)), courses(100, 6, 0.9999, 1)
    for t in range(100):
        frame = noise(50, 1, 1, seed=t)
        before = np.sum(state.z**2, axis=-1) + frame[:, 0, 0] ** 2
        y, state = filt.run(frame, state, controls={name: k[t] for name, k in controls.items()})
        np.testing.assert_allclose(np.sum(state.z**2, axis=-1) + y[:, 0, 0] ** 2, before, rtol=1e-14)


@pytest.mark.parametrize(("order", "k_max"), [(1, 0.9), (2, 0.99), (4, 0.7), (8, 0.5)])
def test_silence_loses_as_much_as_the_proof_says(order, k_max):
    filt = Lattice.allpass(np.zeros(order), modulated=True, k_max=k_max)
    least, worst = ((1 - k_max) / (1 + k_max)) ** order / order, 1.0
    for seed in range(60):
        x = noise(20, order, seed=seed)
        start = filt.rest_state((20,)).unravel(x / np.linalg.norm(x, axis=1, keepdims=True))
        _, end = filt.run(np.zeros((20, order, 1)), start, controls=courses(order, order, k_max, seed))
        worst = min(worst, np.min(1 - np.sum(end.z**2, axis=-1)))
    assert worst >= least * (1 - 1e-9)
    if order == 1:  # where the bound is (1 - k) / (1 + k), the loss is 1 - k^2
        assert worst == pytest.approx(1 - k_max**2, rel=1e-9)


def test_what_a_lattice_says_of_its_controls():
    assert Lattice(np.zeros(4), modulated=True, k_max=0.99)._contraction()
    for unsure in (Lattice(np.zeros(5), modulated=True, k_max=0.99), Lattice(np.zeros(3), modulated=True)):
        assert unsure._contraction() is None and unsure._boundedness() == Boundedness.UNKNOWN
    assert Lattice(np.full(9, 0.5))._contraction()  # at rest its poles decide


def test_blocks_of_a_played_lattice_change_no_bit():
    filt, u, controls = Lattice([0.1, 0.2, 0.3], modulated=True, k_max=0.99), noise(2, 200, 1), courses(200, 3, 0.99)
    whole, end = filt.run(u, controls=controls)
    state, pieces = filt.rest_state((2,)), []
    for start, stop in pairwise([0, 1, 60, 61, 100, 200]):
        part = {name: c[start:stop] for name, c in controls.items()}
        y, state = filt.run(u[:, start:stop], state, controls=part)
        pieces.append(y)
    assert state == end
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Lattice([0.5, 1.0]), "k2 = 1:"),
        (lambda: Lattice([0.5, np.nan]), "k2 = nan"),
        (lambda: Lattice([0.5, -1.2], modulated=True), "k2 = -1.2"),
        (lambda: Lattice([0.5]).replace(k=[-1.0]), "k1 = -1"),
        (lambda: Lattice([]), "at least one"),
        (lambda: Lattice([[0.5]]), "one-dimensional"),
        (lambda: Lattice([0.5j]), "real"),
        (lambda: Lattice([0.5], [1, 2, 3]), "taps has shape"),
        (lambda: Lattice([0.99999], modulated=True), "k1=0.99999"),
        (lambda: Lattice([0.5], modulated=True, k_max=1.0), "k_max=1.0"),
        (lambda: Lattice([0.5], modulated=True)([0.0], controls={"k1": 1.0}), "k1"),
        (lambda: Lattice([0.5])([0.0], controls={"k1": 0.1}), "unknown controls"),
        (lambda: Lattice.from_ba([1], [1, -1]), "k1 = -1"),
        (lambda: Lattice.from_ba([1, 2, 3], [1, 0.5]), "1 to 2 real"),
        (lambda: Lattice.from_ba([1], [0, 1]), "other than zero"),
        (lambda: Lattice.from_ba([1], [1, np.inf]), "finite"),
        (lambda: Lattice.from_poles([0.5, 1.5]), "radius 1.5"),
        (lambda: Lattice.from_poles([0.5j]), "conjugate"),
        (lambda: Lattice.from_poles([np.nan]), "finite"),
    ],
)
def test_lattice_refuses(make, names):
    with pytest.raises(ParameterError, match=names):
        make()


# ---- the coupled form


def test_coupled_form_rings_as_its_formula():
    t, r, angle = np.arange(3000), 10 ** (-3 / (RATE * 0.05)), 2 * np.pi * 1234.5 / RATE
    filt = CoupledForm(1234.5, t60_s=0.05, taps=[0.3, -0.8], sample_rate=RATE)
    impulse = (t == 0).astype(float)
    np.testing.assert_allclose(filt(impulse), r**t * (0.3 * np.cos(angle * t) - 0.8 * np.sin(angle * t)), atol=1e-12)
    np.testing.assert_allclose(np.sort_complex(filt.poles()), r * np.exp([-1j * angle, 1j * angle]), rtol=1e-14)
    # 60 dB down after T60, to the sample, and sine and cosine of one another
    envelope = CoupledForm(0, t60_s=0.05, taps=[1, 0], sample_rate=RATE)(impulse)
    assert envelope[2400] == pytest.approx(1e-3, rel=1e-9)


def test_coupled_form_shrinks_for_every_course():
    rng = np.random.default_rng(0)
    frequency, t60 = rng.uniform(0, 0.5 * RATE, 500), np.exp(rng.uniform(np.log(1e-4), np.log(100), 500))
    filt, u = CoupledForm(taps=[0.6, -0.8], sample_rate=RATE), np.sign(noise(500))
    state = filt.rest_state((20,)).unravel(noise(20, 2))
    for t in range(100):
        before = np.linalg.norm(state.x, axis=-1)
        _, state = filt.run(np.zeros((20, 1, 1)), state, controls={"frequency_hz": frequency[t], "t60_s": t60[t]})
        np.testing.assert_allclose(np.linalg.norm(state.x, axis=-1), before * 10 ** (-3 / (RATE * t60[t])), rtol=1e-14)
    t60 = np.minimum(t60, 0.001)
    y = filt(u, controls={"frequency_hz": frequency, "t60_s": t60})
    assert np.max(np.abs(y)) <= 1 / (1 - 10 ** (-3 / (RATE * 0.001)))
    # a frequency that is switched leaves the amplitude where it is
    switched = np.where(np.arange(500) < 250, 1000.0, 7000.0)
    impulse = np.eye(1, 500)[0]
    cosine, sine = (
        CoupledForm(t60_s=1, taps=v, sample_rate=RATE)(impulse, controls={"frequency_hz": switched}) for v in np.eye(2)
    )
    np.testing.assert_allclose(np.hypot(cosine, sine), 10 ** (-3 * np.arange(500) / RATE), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: CoupledForm(sample_rate=None), "sample_rate"),
        (lambda: CoupledForm(30000, sample_rate=RATE), "frequency_hz"),
        (lambda: CoupledForm(t60_s=0, sample_rate=RATE), "t60_s"),
        (lambda: CoupledForm(t60_s=np.nan, sample_rate=RATE), "t60_s"),
        (lambda: CoupledForm(taps=[1, 2, 3], sample_rate=RATE), "taps has shape"),
        (lambda: CoupledForm(sample_rate=RATE)(np.zeros(3), controls={"t60_s": -1.0}), "t60_s"),
    ],
)
def test_coupled_form_refuses(make, names):
    with pytest.raises(ParameterError, match=names):
        make()


# ---- all of them under the same modulation


def resonances(radius, angle):
    """One pair of poles in four structures, and the controls that bring it about."""
    poles = radius * np.exp([1j * angle, -1j * angle])
    _, a1, a2 = np.poly(poles)
    g, d = np.sqrt((1 + a1 + a2) / (1 - a1 + a2)), 4 / (1 - a1 + a2)
    sos = SOS([[1, 0, 0, 1, a1, a2]])
    k1, k2 = step_down([1, a1, a2])
    return {
        "direct": (sos, {}),
        "lattice": (Lattice.allpass([0, 0], modulated=True), {"k1": k1, "k2": k2}),
        "coupled": (
            CoupledForm(sample_rate=RATE),
            {"frequency_hz": angle * RATE / (2 * np.pi), "t60_s": -3 / (RATE * np.log10(radius))},
        ),
        "tpt": (
            StateVariable("bandpass", sample_rate=RATE),
            {"cutoff_hz": np.arctan(g) * RATE / np.pi, "q": 2 * g / ((1 - a2) * d)},
        ),
    }, poles


def test_modulation_makes_a_direct_form_grow_and_no_other():
    # two resonances of radius 0.99 that take turns, sample by sample
    (low, low_poles), (high, high_poles) = resonances(0.99, 0.05), resonances(0.99, 3.0)
    for which, poles in ((low, low_poles), (high, high_poles)):
        for name, (filt, controls) in which.items():
            found = np.sort_complex(filt.poles(controls=controls))
            np.testing.assert_allclose(found, np.sort_complex(poles), atol=1e-10, err_msg=name)
    u = np.sign(noise(400))
    state, grown = low["direct"][0].rest_state(), np.empty(400)
    for t in range(400):
        filt = (low, high)[t % 2]["direct"][0]
        y, state = filt.run(u[t : t + 1], state)
        grown[t] = abs(y[0])
    product = high["direct"][0].linearize().A @ low["direct"][0].linearize().A
    rate = np.sqrt(np.abs(np.linalg.eigvals(product)).max())
    assert rate == pytest.approx(2.380548, rel=1e-6)
    assert (grown[399] / grown[199]) ** (1 / 200) == pytest.approx(rate, rel=1e-6)
    assert grown[-1] > 1e140
    for name in ("lattice", "coupled", "tpt"):
        filt, slow = low[name]
        fast = high[name][1]
        controls = {key: np.where(np.arange(48000) % 2, fast[key], slow[key]) for key in slow}
        y = filt(np.sign(noise(48000)), controls=controls)
        assert np.max(np.abs(y)) < 30, name

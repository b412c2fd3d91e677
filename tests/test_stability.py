"""Poles and verdicts. Oracles: closed forms, published values, counterexamples that a loose test calls stable."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import signal

from rnndsp import Feedback, Framed, Knobs, Residual, StateSpace, delay, gain, stability
from rnndsp.errors import ParameterError
from rnndsp.filters import (
    GRU,
    LSTM,
    SOS,
    Dense,
    Elman,
    FeedbackDelayNetwork,
    GerzonAllpass,
    StateVariable,
    TransferFunction,
)
from rnndsp.stability import Property, StabilityReport, Verdict, certify
from rnndsp.stability._decay import decay_certificate
from rnndsp.stability._delay_poles import delay_poles
from rnndsp.stability.verdicts import CONTRACTION


def elman(W, U, **config):
    U = np.atleast_2d(np.asarray(U, float))
    return Elman(1, len(U), **config).replace(W=np.reshape(W, (-1, 1)), U=U)


def test_poles_of_a_design():
    z, p, k = signal.butter(6, 0.1, output="zpk")
    found = SOS(signal.zpk2sos(z, p, k)).poles()
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(p), atol=1e-12)


def test_poles_of_a_comb():
    """z^5 = 0.5."""
    found = Feedback(gain(1.0), 0.5, delay=5).poles()
    expected = 0.5 ** (1 / 5) * np.exp(2j * np.pi * np.arange(5) / 5)
    assert np.max(np.min(np.abs(found[:, None] - expected), axis=1)) < 1e-14


@pytest.mark.parametrize(
    ("w", "x", "slope"),
    [(1.5, 0.8585596366, 0.394313), (2.0, 0.9575040241, 0.166372), (3.0, 0.9949015285, 0.0305128)],
)
def test_rest_states_of_a_bistable_unit(w, x, slope):
    """x = tanh(w x): published fixed points and slopes there."""
    cell = elman([1.0], [[w]])
    found = sorted(stability.rest_states(cell), key=lambda state: float(state.h[0]))
    # the initial state, 0, is a rest state too: it repels
    np.testing.assert_allclose([state.h[0] for state in found], [-x, 0, x], atol=1e-9)
    state = found[2]
    assert abs(cell.poles(state)[0] - slope) < 1e-6
    report = cell.stability()
    assert report["bounded output"].verdict == Verdict.PROVED
    assert report["unique rest state"].verdict == Verdict.REFUTED
    assert report["contraction"].verdict == Verdict.REFUTED


def test_a_spectral_radius_below_one_is_no_proof():
    """rho(U) = 0.453, yet x = tanh(U x) has a stable fixed point away from zero (-0.83251, -0.99283)."""
    cell = elman([1.0, 0.0], [[2.4925796234, -0.885183332], [5.6930810185, -1.9394910237]])
    assert abs(np.max(np.abs(np.linalg.eigvals(cell.U))) - 0.453) < 1e-3
    report = cell.stability()
    assert report["contraction"].verdict == Verdict.REFUTED
    assert report["unique rest state"].verdict == Verdict.REFUTED
    assert any(np.allclose(state.h, [-0.83251, -0.99283], atol=1e-5) for state in report.rest_states)


def test_contraction_is_proved_only_where_it_holds():
    """Random cells: what is called contracting does contract, from many starts and on loud inputs."""
    rng = np.random.default_rng(0)
    proved = 0
    for seed in range(60):
        n = int(rng.integers(1, 7))
        cell = elman(rng.standard_normal(n), rng.uniform(0.2, 1.6) * rng.standard_normal((n, n)) / np.sqrt(n))
        if cell._contraction() is None:
            continue
        proved += 1
        start = cell.rest_state((2,)).unravel(rng.uniform(-1, 1, (2, n)))
        u = np.broadcast_to(rng.standard_normal((400, 1)) * 3, (2, 400, 1))
        y, _ = cell.run(u, start)
        assert np.max(np.abs(y[0, -1] - y[1, -1])) < 1e-3, seed
    assert proved >= 10
    assert elman([1.0], [[1.0]])._contraction() is None
    assert elman([1.0, 1.0], [[0.5, 10.0], [0.0, 0.5]])._contraction() is not None  # rho(|U|) = 0.5 in a weighted norm


def test_relu_is_not_called_bounded():
    cell = elman([1.0], [[1.2]], activation="relu")
    assert cell.stability()["bounded output"].verdict != Verdict.PROVED


def test_linear_verdicts():
    stable = StateSpace([[0.9]], [[1.0]], [[1.0]], [[0.0]], sample_rate=48000).stability()
    assert {row.verdict for row in stable} == {Verdict.PROVED}
    unstable = StateSpace([[1.1]], [[1.0]], [[1.0]], [[0.0]]).stability()
    assert unstable["bounded output"].verdict == Verdict.REFUTED
    assert abs(unstable["bounded output"].witness - 1.1) < 1e-12
    assert unstable["unique rest state"].verdict == Verdict.PROVED
    hidden = StateSpace([[1.1, 0], [0, 0.5]], [[0.0], [1.0]], [[1.0, 1.0]], [[0.0]]).stability()
    assert hidden["bounded output"].verdict == Verdict.UNKNOWN
    assert hidden["input-to-state stability"].verdict == Verdict.REFUTED
    integrator = StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]]).stability()
    assert {row.verdict for row in integrator} == {Verdict.UNKNOWN}
    static = Dense(2, 2, activation="tanh").stability()
    assert static["bounded output"].verdict == static["contraction"].verdict == Verdict.PROVED


def test_pole_outside_is_a_growth_in_simulation():
    loop = Feedback(gain(1.0), 1.01, delay=7, allow_unstable=True)
    radius = loop.spectral_radius()
    assert abs(radius - 1.01 ** (1 / 7)) < 1e-12
    y = loop(np.eye(1, 7 * 200)[0])
    assert abs(y[7 * 150] - 1.01**150) < 1e-9


@pytest.mark.parametrize("t60_s", [0.3, 2.0])
def test_t60_of_a_network(t60_s):
    network = FeedbackDelayNetwork([1031, 1327, 1523, 1871], t60_s=t60_s, sample_rate=48000)
    radius = network.spectral_radius()
    assert abs(stability.t60_s(radius, 48000) / t60_s - 1) < 1e-6
    assert f"60 dB in {t60_s:.3g} s" in network.stability()["decay"].statement


def test_frozen_poles():
    cell = LSTM(2, 4, seed=2)
    u = np.random.default_rng(1).standard_normal((60, 2))
    frozen = stability.frozen_poles(cell, u, every=7)
    np.testing.assert_array_equal(frozen.index, np.arange(0, 60, 7))
    J, _ = cell.jacobians(u, cell.rest_state())
    for t, found in zip(frozen.index, frozen.poles, strict=True):
        np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(np.linalg.eigvals(J[t])), atol=1e-12)


def test_frozen_poles_inside_the_circle_prove_nothing():
    """Two matrices with all poles at zero, used in turn, grow by 1.8 a step."""
    first = np.array([[0, 1.8], [0, 0]])
    assert StateSpace(first, np.eye(2), np.eye(2), np.zeros((2, 2))).spectral_radius() < 1e-7
    assert abs(np.max(np.abs(np.linalg.eigvals(first @ first.T))) - 1.8**2) < 1e-12


@pytest.mark.parametrize(
    ("filt", "bounded"),
    [
        (LSTM(1, 4) >> Dense(4, 1), True),
        (GRU(1, 4) >> Dense(4, 1) >> GerzonAllpass([5]), True),
        (Dense(1, 1, activation="relu"), True),
        (Feedback(LSTM(1, 2) >> Dense(2, 1), 5.0, delay=3), True),  # saturates inside, whatever the gain
        (Feedback(Dense(1, 1, activation="relu").replace(W=[[1.0]]), 5.0, delay=3), False),
        (LSTM(1, 2) >> Elman(2, 3, activation="relu").replace(U=2 * np.eye(3)), False),
        (delay(3) + gain(0.5), True),
    ],
)
def test_boundedness_of_compositions(filt, bounded):
    verdict = filt.stability()["bounded output"].verdict
    assert (verdict == Verdict.PROVED) == bounded


@pytest.mark.parametrize("bound", [-1, np.nan, np.inf, [1, 2], "1", None])
@pytest.mark.parametrize("filt", [SOS([[1, 0, 0, 1, -0.5, 0.2]]), Elman(1, 2)])
def test_a_bound_of_inputs_that_is_none_is_refused(filt, bound):
    for ask in (certify, stability.report):
        with pytest.raises(ParameterError, match="input_bound"):
            ask(filt, input_bound=bound)


def test_what_is_nearly_one_is_not_called_one():
    said = certify(Elman(1, 1).replace(W=[[1.0]], U=[[0.99999]])).statement
    assert "1 - 1e-05 < 1" in said


def test_columns_of_the_table_stand_apart():
    tests = (stability.Test("a norm", CONTRACTION, 137.25),)
    rows = Property(CONTRACTION, Verdict.REFUTED, "2 rest states found", tests=tests)
    assert "refuted     -136    2 rest states found" in str(StabilityReport((rows,), (), np.zeros(0, complex)))


def test_report_reads():
    text = str(LSTM(1, 4, sample_rate=48000).stability())
    words = " ".join(text.split())
    assert "bounded output" in words and "supposing: silence" in words and "60 dB in" in words


# ---- a wrong "proved" is the worst bug this project can have


def decays_exactly(denominator):
    """Schur-Cohn in rational arithmetic: all reflection coefficients of the float coefficients within (-1, 1)."""
    a = [Fraction(float(c)) for c in denominator]
    while len(a) > 1:
        k = a[-1] / a[0]
        if abs(k) >= 1:
            return False
        a = [(x - k * y) / (1 - k * k) for x, y in zip(a[:-1], a[:0:-1], strict=True)]
    return True


def test_proved_decay_is_true_in_rational_arithmetic():
    """Ill-conditioned denominators, roots crowded near 1: their computed poles are far off, on either side."""
    rng = np.random.default_rng(0)
    said = {"proved": 0, "computed inside, truly outside": 0}
    for _ in range(400):
        order = int(rng.integers(2, 10))
        roots = rng.uniform(0.5, 0.95, order) if rng.random() < 0.5 else [1.0, *rng.uniform(0.85, 0.97, order)]
        a = np.poly(roots)  # whose rounding puts the root at 1 on either side
        filt = TransferFunction([1.0], a)
        true = decays_exactly(np.concatenate([[1.0], filt.params["a"][0]]))
        verdict = filt.stability()["contraction"].verdict
        assert not (verdict == Verdict.PROVED and not true)
        assert not (verdict == Verdict.REFUTED and true)
        said["proved"] += verdict == Verdict.PROVED
        said["computed inside, truly outside"] += not true and filt.spectral_radius() < 1 - 1e-10
    assert said["proved"] >= 100 and said["computed inside, truly outside"] >= 10


def test_a_transfer_function_that_blows_up_though_its_computed_poles_lie_inside():
    b, a = signal.butter(7, 0.002)
    filt = TransferFunction(b, a)
    assert filt.spectral_radius() < 1 and not decays_exactly(a)
    assert {row.verdict for row in filt.stability()} == {Verdict.UNKNOWN}
    assert SOS(signal.butter(7, 0.002, output="sos")).stability()["contraction"].verdict == Verdict.PROVED


def test_controls_are_not_taken_at_their_defaults():
    loop = Feedback(StateVariable("lowpass", cutoff_hz=1000, sample_rate=48000), 0.9, delay=36)
    assert loop.stability()["contraction"].verdict == Verdict.PROVED
    assert loop.stability(controls={"q": 10.0})["contraction"].verdict == Verdict.REFUTED
    both = loop + elman([1.0], [[0.1]])
    assert Verdict.PROVED not in {row.verdict for row in both.stability(controls={"q": 10.0})}
    assert all("q=" in row.hypotheses for row in both.stability() if row.verdict == Verdict.PROVED)
    assert StateVariable(sample_rate=48000)._contraction()  # proved for every course of its controls


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_marginal_cell_is_not_refuted(n):
    """A rotation of odd size has an eigenvalue 1: h = tanh(U h) only at 0, but hardly anything pulls there."""
    cell = Elman(1, n, recurrence="orthogonal") if n > 1 else elman([1.0], [[1.0]])
    assert cell.stability()["unique rest state"].verdict == Verdict.UNKNOWN
    slow = LSTM(1, 1).replace(W=np.zeros((4, 1)), U=np.zeros((4, 1)), b=[-40, 30, 0, 0])
    assert slow.stability()["unique rest state"].verdict != Verdict.REFUTED


def test_no_slope_is_named_on_a_kink():
    relu = elman([1.0], [[2.0]], activation="relu")
    assert relu.stability()["decay"].verdict == Verdict.UNKNOWN
    assert relu(np.eye(1, 30)[0] * 1e-6)[-1] > 1e2  # an impulse of 1e-6, doubled at every sample


def test_growth_behind_a_long_delay_is_left_open():
    row = (StateSpace([[2.0]], [[1.0]], [[1.0]], [[0.0]]) >> delay(5000)).stability()["bounded output"]
    assert row.verdict == Verdict.UNKNOWN and "open" in row.statement


def test_decay_is_not_called_faster_than_it_is():
    """(z - 0.5)^2: the power grows a little faster than 0.5^n, the certificate leaves room for it."""
    filt = StateSpace([[0.5, 1.0], [0.0, 0.5]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
    assert filt.stability()["decay"].verdict in (Verdict.PROVED, Verdict.UNKNOWN)
    report = FeedbackDelayNetwork([101, 127, 149], t60_s=0.2, sample_rate=48000).stability()
    assert report["decay"].verdict == Verdict.PROVED


def test_certificates_never_contradict_the_poles():
    """Random networks of short and long lines, near the edge: what is proved to decay has all poles inside."""
    rng = np.random.default_rng(3)
    proved = undecided = 0
    for _ in range(500):
        n = int(rng.integers(1, 6))
        A = rng.standard_normal((n, n)) * (rng.random((n, n)) < rng.choice([0.5, 1.0]))
        if rng.random() < 0.3:
            A = np.linalg.qr(A)[0]
        A *= rng.uniform(0.5, 1.05) / max(np.max(np.abs(np.linalg.eigvals(A))), 1e-3)
        lines = [np.ones(n, int), rng.integers(1, 6, n), np.where(rng.random(n) < 0.4, rng.integers(150, 700, n), 1)]
        delays = lines[int(rng.integers(3))].astype(np.int64)
        radius = np.max(np.abs(delay_poles(A, delays)))
        certificate = decay_certificate(A, delays)
        assert certificate is None or radius < 1, (certificate, radius)
        proved += certificate is not None
        undecided += certificate is None and radius < 1 - 1e-6
    assert proved > 250 and undecided < 25


def test_a_filter_is_always_answered():
    """Ill-conditioned poles behind a cell, frames behind knobs, a blow-up on the way to rest: verdicts, no errors."""
    steep = SOS(signal.butter(4, 30, fs=48000, output="sos"))
    behind = (LSTM(1, 2) >> Dense(2, 1) >> Feedback(steep, 0.5, delay=1000)).stability()
    assert behind["bounded output"].verdict == Verdict.PROVED and behind["decay"].verdict == Verdict.UNKNOWN
    frames = Framed.spectral_gain(np.ones(9), n_fft=16)
    assert Knobs(gain([[1.0, 0.5]]) >> frames, {"k": 0.5}).stability()["decay"].verdict == Verdict.UNKNOWN
    assert Residual(elman([1.0], [[3.0]], activation="relu")).stability()["decay"].verdict == Verdict.UNKNOWN


def test_one_rest_state_of_an_unstable_filter_is_proved_by_more_than_its_poles():
    rng = np.random.default_rng(0)
    for _ in range(50):
        roots = [1.0, 1.5, *rng.uniform(0.85, 0.97, 5)]  # one root at 1 but for rounding, one far outside
        report = TransferFunction([1.0], np.poly(roots)).stability()
        assert report["contraction"].verdict == Verdict.REFUTED
        assert report["unique rest state"].verdict == Verdict.UNKNOWN


class Integrated(TransferFunction):
    """A recursion with two differences: they put two poles at 1 on purpose."""

    marginal_poles = (1.0, 1.0)


@pytest.mark.parametrize(("root", "expected"), [(0.9, Verdict.MARGINAL), (1.1, Verdict.REFUTED)])
def test_differences_are_marginal_by_design(root, expected):
    denominator = np.polymul(np.polymul([1, -1], [1, -1]), [1, -root])
    report = Integrated([1.0], denominator).stability()
    assert report["contraction"].verdict == report["decay"].verdict == expected
    plain = TransferFunction([1.0], denominator).stability()
    assert plain["contraction"].verdict in (Verdict.UNKNOWN, Verdict.REFUTED)


def test_what_holds_for_every_course_of_the_controls_is_told():
    svf = StateVariable(cutoff_hz=2000.0, sample_rate=48000)
    for filt in (svf, svf >> SOS([[1, 0, 0, 1, -0.5, 0.2]])):
        row = filt.stability()[CONTRACTION]
        assert row.verdict == Verdict.PROVED and "whatever course its controls take" in row.hypotheses
    row = Feedback(svf, -0.5, delay=7).stability()[CONTRACTION]  # whose controls could make it howl
    assert row.verdict == Verdict.PROVED and "held still" in row.hypotheses

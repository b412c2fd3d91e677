"""LMS, NLMS, affine projection and RLS.

Oracles: plain NumPy loops, padasip on the same data, regularised least squares in closed form at every time, the
conformance suite (adjoint and linearisation against differences).
"""

import numpy as np
import pytest

from rnndsp import NonFiniteError, ParameterError
from rnndsp.filters import LMS, NLMS, RLS, AffineProjection
from rnndsp.stability import Boundedness
from rnndsp.testing import check_filter


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def regressors(u, n_taps):
    """Rows (u[t], u[t-1], ...), channels inside of taps as in ``state.w``."""
    u = u.reshape(len(u), -1)
    full = np.concatenate([np.zeros((n_taps - 1, u.shape[1])), u])
    return np.stack([full[n_taps - 1 - k : len(full) - k] for k in range(n_taps)], axis=1).reshape(len(u), -1)


def room(n_taps=8, n_frames=400, n_references=1, seed=0, level=0.1):
    """References, and what a random path makes of them with some noise."""
    u = noise(n_frames, n_references, seed=seed)
    w = noise(n_taps * n_references, seed=seed + 1)
    return u, regressors(u, n_taps) @ w + level * noise(n_frames, seed=seed + 2), w


def joined(u, d):
    return np.column_stack([u, d])


def projected(u, d, n_taps, order, step, floor, leak=0.0, normalised=True):
    """The definition, step by step."""
    phi = regressors(u, n_taps)
    phi = np.concatenate([np.zeros((order - 1, phi.shape[1])), phi])
    d = np.concatenate([np.zeros(order - 1), d])
    w, out = np.zeros(phi.shape[1]), []
    for t in range(order - 1, len(d)):
        X, target = phi[t - order + 1 : t + 1][::-1].T, d[t - order + 1 : t + 1][::-1]
        e = target - X.T @ w
        out.append((X[:, 0] @ w, e[0]))
        z = np.linalg.solve(X.T @ X + floor * np.eye(order), e) if normalised else e
        w = (1 - leak) * w + step * X @ z
    return np.array(out), w


CASES = {
    "lms": (lambda c: LMS(8, step=0.02, n_references=c), 1, 0.02, 0.0, 0.0),
    "leaky lms": (lambda c: LMS(8, step=0.02, n_references=c, leak=0.03), 1, 0.02, 0.0, 0.03),
    "nlms": (lambda c: NLMS(8, step=0.7, floor=0.1, n_references=c), 1, 0.7, 0.1, 0.0),
    "leaky nlms": (lambda c: NLMS(8, step=1.2, floor=0.1, n_references=c, leak=0.2), 1, 1.2, 0.1, 0.2),
    "affine": (lambda c: AffineProjection(8, 3, step=0.5, floor=0.2, n_references=c), 3, 0.5, 0.2, 0.0),
    "affine of full order": (lambda c: AffineProjection(8, 8, step=1.5, n_references=c, leak=0.1), 8, 1.5, 1e-3, 0.1),
}


@pytest.mark.parametrize("n_references", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_projections_are_their_definition(case, n_references):
    make, order, step, floor, leak = CASES[case]
    u, d, _ = room(n_references=n_references)
    y, state = make(n_references).run(joined(u, d))
    expected, w = projected(u, d, 8, order, step, floor, leak, case.rpartition(" ")[2] != "lms")
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(state.w.ravel(), w, rtol=0, atol=1e-10 * np.abs(w).max())


def test_order_one_is_nlms():
    u, d, _ = room()
    signal = joined(u, d)
    np.testing.assert_array_equal(NLMS(8, step=0.3)(signal), AffineProjection(8, 1, step=0.3)(signal))


@pytest.mark.parametrize("name", ["lms", "nlms", "affine", "rls"])
def test_padasip(name):
    padasip = pytest.importorskip("padasip")
    u, d, _ = room(n_taps=12, n_frames=500)
    rivals = padasip.filters
    ours, rival = {
        "lms": lambda: (LMS(12, step=0.02), rivals.FilterLMS(12, mu=0.02, w="zeros")),
        "nlms": lambda: (NLMS(12, step=0.5, floor=1e-3), rivals.FilterNLMS(12, mu=0.5, eps=1e-3, w="zeros")),
        "affine": lambda: (
            AffineProjection(12, 4, step=0.5, floor=1e-3),
            rivals.FilterAP(12, mu=0.5, order=4, ifc=1e-3, w="zeros"),
        ),
        "rls": lambda: (
            RLS(12, forgetting=0.98, initial_covariance=10),
            rivals.FilterRLS(12, mu=0.98, eps=0.1, w="zeros"),
        ),
    }[name]()
    y, e, w = rival.run(d, regressors(u, 12))
    out, state = ours.run(joined(u, d))
    np.testing.assert_allclose(out, np.column_stack([y, e]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(state.w[:, 0], rival.w, rtol=0, atol=1e-9)
    _, before = ours.run(joined(u, d)[:300])
    np.testing.assert_allclose(before.w[:, 0], w[300], rtol=0, atol=1e-9)  # its history is of before each frame


@pytest.mark.parametrize(("forgetting", "n_references"), [(1.0, 1), (0.97, 1), (0.9, 2)])
def test_rls_is_regularised_least_squares_at_every_time(forgetting, n_references):
    n, p0 = 5, 20.0
    u, d, _ = room(n_taps=n, n_frames=120, n_references=n_references)
    filt = RLS(n, forgetting=forgetting, initial_covariance=p0, n_references=n_references)
    phi, N = regressors(u, n), n * n_references
    state = filt.rest_state()
    for t in range(len(d)):
        y, state = filt.run(joined(u, d)[t : t + 1], state)
        weight = forgetting ** np.arange(t, -1, -1)[:, None]
        R = (weight * phi[: t + 1]).T @ phi[: t + 1] + forgetting ** (t + 1) / p0 * np.eye(N)
        w = np.linalg.solve(R, (weight * phi[: t + 1]).T @ d[: t + 1])
        np.testing.assert_allclose(state.w.ravel(), w, rtol=0, atol=1e-10 * (1 + np.abs(w).max()))
        np.testing.assert_allclose(filt.covariance(state), np.linalg.inv(R), rtol=1e-9, atol=1e-9)
        assert y[0].sum() == pytest.approx(d[t], abs=1e-12)


def test_rls_keeps_its_covariance_positive_over_a_million_samples():
    # loud, silent and one-sided stretches: plain forgetting would reach 0.99^-200000 = 1e873 in the second
    n, rng = 4, np.random.default_rng(0)
    filt = RLS(n, forgetting=0.99, initial_covariance=10, max_covariance=1e5)
    w = np.array([0.5, -1.0, 0.25, 2.0])
    state = filt.rest_state()
    for level, steady in [(1.0, 0), (0.0, 0), (0.0, 1.0), (1e-3, 0), (10.0, 0)]:
        u = level * rng.standard_normal(200_000) + steady
        past = np.concatenate([state.past[:, 0], u])
        d = np.convolve(past, w)[n - 1 : n - 1 + len(u)] + 1e-6 * rng.standard_normal(len(u))
        y, state = filt.run(joined(u, d), state)
        P = filt.covariance(state)
        np.testing.assert_array_equal(P, P.T)
        eigenvalues = np.linalg.eigvalsh(P)
        assert eigenvalues[0] > 0 and eigenvalues[-1] <= 1e6
        assert state.D.max() <= 1e5
        assert np.abs(y[1000:, 1]).max() < 1e-3 * max(level, 1.0)
    np.testing.assert_allclose(state.w[:, 0], w, atol=1e-6)


def test_a_stationary_covariance_is_that_of_the_exponential_window():
    # white noise of unit power: P tends to (1 - forgetting) I
    u = noise(20_000, seed=4)
    filt = RLS(6, forgetting=0.999)
    _, state = filt.run(joined(u, u))
    np.testing.assert_allclose(filt.covariance(state), 0.001 * np.eye(6), atol=1.5e-4)


@pytest.mark.parametrize(
    "make", [lambda n: NLMS(n, step=1.0, floor=1e-6), lambda n: RLS(n), lambda n: LMS(n, step=0.03)]
)
def test_the_path_is_found(make):
    u, d, w = room(n_taps=16, n_frames=4000, level=0.0)
    _, state = make(16).run(joined(u, d))
    np.testing.assert_allclose(state.w[:, 0], w, atol=1e-4)


def test_affine_projection_learns_a_coloured_signal_faster():
    u = noise(3000, seed=3)
    for t in range(1, len(u)):
        u[t] += 0.95 * u[t - 1]
    w = noise(16, seed=5)
    d = regressors(u, 16) @ w
    left = [
        np.linalg.norm(AffineProjection(16, order, step=0.5, floor=1e-6).run(joined(u, d))[1].w[:, 0] - w)
        for order in (1, 2, 8)
    ]
    assert left[1] < 0.1 * left[0] and left[2] < 0.1 * left[0]


def test_normalised_steps_never_move_away_from_the_truth():
    u, d, w = room(n_taps=6, n_frames=300, level=0.0)
    for step in (0.1, 1.0, 1.99):
        filt, state, last = AffineProjection(6, 2, step=step), None, np.linalg.norm(w)
        for t in range(len(d)):
            _, state = filt.run(joined(u, d)[t : t + 1], state)
            distance = np.linalg.norm(state.w[:, 0] - w)
            assert distance <= last + 1e-12
            last = distance


def test_a_leak_makes_runs_forget_where_they_began():
    filt = NLMS(4, step=1.5, leak=0.05)
    assert filt._boundedness() == Boundedness.BOUNDED and "leak" in filt._contraction()
    assert NLMS(4)._contraction() is None and LMS(4, leak=0.1)._contraction() is None
    u, d, _ = room(n_taps=4, n_frames=203)
    a, b = filt.rest_state(), filt.rest_state()
    b.w[...] = 3.0
    _, a = filt.run(joined(u, d)[:3], a)
    _, b = filt.run(joined(u, d)[:3], b)
    start = np.linalg.norm(a.w - b.w)
    for t in (53, 103, 203):
        _, end_a = filt.run(joined(u, d)[3:t], a)
        _, end_b = filt.run(joined(u, d)[3:t], b)
        assert np.linalg.norm(end_a.w - end_b.w) <= 0.95 ** (t - 3) * start * (1 + 1e-12)


def test_too_large_a_step_is_seen():
    u, d, _ = room(n_frames=3000)
    with pytest.raises(NonFiniteError, match="blew up"):
        LMS(8, step=1.0)(joined(u, d))
    stream = LMS(8, step=1.0).stream(dtype=np.float64, on_nonfinite="reset")
    assert np.isfinite(stream.process(joined(u, d))).all()
    # nothing of a burst that no float can hold is left in what the kernel works on
    filt = RLS(4)
    stream, state = filt.stream(dtype=np.float64, on_nonfinite="reset"), filt.rest_state()
    stream.process(np.full((1, 2), 1e200))
    stream.state = state
    np.testing.assert_array_equal(stream.process(joined(u, d)[:9]), filt.run(joined(u, d)[:9], state)[0])


def test_the_step_is_a_knob():
    u, d, _ = room()
    signal, filt = joined(u, d), NLMS(8)
    _, learned = filt.run(signal[:200])
    _, held = filt.run(signal[200:], learned, controls={"step": 0.0})
    np.testing.assert_array_equal(held.w, learned.w)
    steps = np.where(np.arange(400) < 200, 0.5, 0.0)
    _, end = filt.run(signal, controls={"step": steps})
    np.testing.assert_array_equal(end.w, learned.w)
    with pytest.raises(ParameterError, match="step"):
        filt.run(signal, controls={"step": 2.1})


@pytest.mark.parametrize(
    "filt",
    [
        NLMS(3, n_references=2, leak=0.01),
        AffineProjection(1, 1),
        AffineProjection(4, 4, step=1.7, floor=0.1),
        RLS(1, initial_covariance=2.0),
        RLS(4, forgetting=1.0, initial_covariance=1.0),
        # pivots at the ceiling for want of sound in the first frames, and for the quiet voice throughout
        RLS(3, forgetting=0.7, initial_covariance=1.0, max_covariance=1.5),
    ],
    ids=repr,
)
def test_what_every_filter_promises(filt):
    check_filter(filt)


def test_an_error_comes_back_through_the_learning():
    # the step that leaves the least error: its gradient by the control, against differences
    u, d, _ = room(n_frames=150)
    signal, filt = joined(u, d), NLMS(8)

    def loss(step):
        return np.sum(filt.run(signal, controls={"step": step})[0][:, 1] ** 2)

    tape = filt.tape(signal, controls={"step": 0.4})
    dy = np.zeros_like(tape.y)
    dy[:, 1] = 2 * tape.y[:, 1]
    found = tape.adjoint(dy).controls["step"].sum()
    assert found == pytest.approx((loss(0.4 + 1e-6) - loss(0.4 - 1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LMS(0), "n_taps"),
        (lambda: LMS(4, step=-0.1), "step"),
        (lambda: LMS(4, step=np.nan), "step"),
        (lambda: LMS(4, step=np.inf), "step"),
        (lambda: LMS(4, step="fast"), "step"),
        (lambda: LMS(4, leak=1.0), "leak"),
        (lambda: LMS(4, n_references=0), "n_references"),
        (lambda: NLMS(4, step=2.5), "step"),
        (lambda: NLMS(4, step=1.9, leak=0.1), "step"),
        (lambda: NLMS(4, floor=0.0), "floor"),
        (lambda: AffineProjection(4, 0), "order"),
        (lambda: AffineProjection(4, 5), "at most 4"),
        (lambda: AffineProjection(4000, 600), "at most 512"),
        (lambda: RLS(4, forgetting=0.0), "forgetting"),
        (lambda: RLS(4, forgetting=1.01), "forgetting"),
        (lambda: RLS(4, initial_covariance=-1.0), "initial_covariance"),
        (lambda: RLS(4, initial_covariance=10.0, max_covariance=1.0), "max_covariance"),
        (lambda: RLS(10**6), "remember"),
        (lambda: RLS(10**400), "remember"),
        (lambda: RLS(100).linearize(), "MB"),
    ],
)
def test_impossible_settings_are_refused(make, match):
    with pytest.raises(ParameterError, match=match):
        make()

"""The Kalman filter against closed forms, the joint Gaussian, statsmodels, exact fractions and finite differences."""

import itertools
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import signal

from rnndsp import NonFiniteError, ParameterError, StateSpace
from rnndsp._tangents import frame_by_frame
from rnndsp.filters import LSTM, SOS, Elman, KalmanFilter, fit_em

FORMS = ("square_root", "joseph")


def covariance(rng, n):
    root = rng.standard_normal((n, n))
    return root @ root.T + 0.1 * np.eye(n)


def example(seed=0, n=3, p=2, k=2, frames=12):
    """A model, its noises and start, and a series with missing channels and frames."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A *= 0.9 / np.max(np.abs(np.linalg.eigvals(A)))
    space = StateSpace(A, rng.standard_normal((n, k)), rng.standard_normal((p, n)), rng.standard_normal((p, k)))
    arguments = {
        "process_noise": covariance(rng, n),
        "measurement_noise": covariance(rng, p),
        "mean": rng.standard_normal(n),
        "covariance": covariance(rng, n),
    }
    y, u = rng.standard_normal((frames, p)), rng.standard_normal((frames, k))
    y[2], y[4, 0], y[6:8, 1] = np.nan, np.nan, np.nan
    return space, arguments, y, u


def walk(**arguments):
    """The local level model: a random walk in noise."""
    space = StateSpace([[1.0]], [[0.0]], [[1.0]], [[0.0]])
    noises = {"process_noise": 1, "measurement_noise": 1, "covariance": 1e6}
    return KalmanFilter(space, known_inputs=False, **{**noises, **arguments})


class Joint:
    """All states and measurements of a short series as linear maps of x[0], w and v: one Gaussian, to be conditioned.

    A slow oracle that knows nothing of recursions.
    """

    def __init__(self, space, arguments, y, u):
        A, B, C, D = space.A, space.B, space.C, space.D
        self.n, p, frames = len(A), len(C), len(y)
        parts = [arguments["covariance"]] + [arguments["process_noise"]] * frames
        parts += [arguments["measurement_noise"]] * frames
        edges = np.cumsum([0, *map(len, parts)])
        noise, one = np.zeros((edges[-1], edges[-1])), np.eye(edges[-1])
        for part, start, stop in zip(parts, edges, edges[1:], strict=False):
            noise[start:stop, start:stop] = part
        x, from_x = arguments["mean"], one[: self.n]
        x_rows, y_rows = [(x, from_x)], []
        for t in range(frames):
            v = edges[1 + frames + t]
            y_rows.append((C @ x + D @ u[t], C @ from_x + one[v : v + p]))
            w = edges[1 + t]
            x, from_x = A @ x + B @ u[t], A @ from_x + one[w : w + self.n]
            x_rows.append((x, from_x))
        self.mean, maps = (np.concatenate(rows) for rows in zip(*x_rows, strict=True))
        self.heard, y_maps = (np.concatenate(rows) for rows in zip(*y_rows, strict=True))
        self.P, self.across, self.S = maps @ noise @ maps.T, maps @ noise @ y_maps.T, y_maps @ noise @ y_maps.T
        self.y = y

    def given(self, n_frames):
        """Mean and covariance of all states from the first measurements, and the log density of those."""
        y = self.y.ravel()
        seen = np.flatnonzero(~np.isnan(y) & (np.arange(y.size) < n_frames * self.y.shape[1]))
        S, across, e = self.S[np.ix_(seen, seen)], self.across[:, seen], (y - self.heard)[seen]
        density = -0.5 * (e @ np.linalg.solve(S, e) + np.linalg.slogdet(2 * np.pi * S)[1])
        K = np.linalg.solve(S, across.T).T
        return self.mean + K @ e, self.P - K @ across.T, density

    def at(self, n_frames, t, other=None):
        mean, P, _ = self.given(n_frames)
        rows, columns = (slice(s * self.n, (s + 1) * self.n) for s in (t, t if other is None else other))
        return mean[rows], P[rows, columns]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_conditions_the_joint_gaussian(form, seed):
    space, arguments, y, u = example(seed)
    kalman = KalmanFilter(space, **arguments, form=form)
    oracle = Joint(space, arguments, y, u)
    done, smoothed = kalman.filter(y, u), kalman.smooth(y, u)
    for t in range(len(y)):
        for found, (mean, P) in (
            ((done.predicted_means[t], done.predicted_covariances[t]), oracle.at(t, t)),
            ((done.means[t], done.covariances[t]), oracle.at(t + 1, t)),
            ((smoothed.means[t], smoothed.covariances[t]), oracle.at(len(y), t)),
        ):
            assert np.allclose(found[0], mean, rtol=1e-10, atol=1e-10)
            assert np.allclose(found[1], P, rtol=1e-10, atol=1e-10)
        if t:
            _, lag = oracle.at(len(y), t, t - 1)
            assert np.allclose(smoothed.lag_one_covariances[t - 1], lag, rtol=1e-10, atol=1e-10)
        e = y[t] - space.C @ done.predicted_means[t] - space.D @ u[t]
        assert np.allclose(done.innovations[t], e, atol=1e-12, equal_nan=True)
    mean, P = oracle.at(len(y), len(y))  # a forecast of one frame
    assert np.allclose(done.state.mean, mean, rtol=1e-10, atol=1e-10)
    assert np.allclose(kalman.filter(y[:0], u[:0], done.state).state["mean"], mean, atol=1e-10)
    for value in (done.log_likelihood, kalman.log_likelihood(y, u), smoothed.log_likelihood):
        assert abs(value - oracle.given(len(y))[2]) < 1e-10 * abs(value)


def test_missing_frames_at_the_end_are_a_forecast():
    space, arguments, y, u = example(3)
    kalman = KalmanFilter(space, **arguments)
    longer = kalman.filter(np.vstack([y, np.full((4, 2), np.nan)]), np.vstack([u, u[:4]]))
    mean, P = kalman.filter(y, u).state.mean, kalman.filter(y, u).state.factor
    P = P @ P.T
    for t in range(4):
        assert np.allclose(longer.means[len(y) + t], mean, atol=1e-12)
        assert np.allclose(longer.covariances[len(y) + t], P, atol=1e-12)
        mean, P = space.A @ mean + space.B @ u[t], space.A @ P @ space.A.T + arguments["process_noise"]


@pytest.mark.parametrize("form", FORMS)
def test_pieces_give_the_same_bits(form):
    space, arguments, y, u = example(1)
    kalman = KalmanFilter(space, **arguments, form=form)
    whole = kalman.filter(y, u)
    state, means, log_likelihood = None, [], 0.0
    for piece in (slice(0, 3), slice(3, 3), slice(3, 8), slice(8, None)):
        done = kalman.filter(y[piece], u[piece], state)
        state, log_likelihood = done.state, log_likelihood + done.log_likelihood
        means.append(done.means)
    assert np.array_equal(np.concatenate(means), whole.means) and state == whole.state
    assert abs(log_likelihood - whole.log_likelihood) < 1e-12 * abs(log_likelihood)
    full = np.nan_to_num(y)  # as a filter it takes [y, u], and nothing is missing
    assert np.array_equal(kalman(np.hstack([full, u])), kalman.filter(full, u).means)


def test_local_level_settles_at_the_golden_ratio():
    steady = walk().steady_state()
    golden = (1 + np.sqrt(5)) / 2
    assert abs(steady.covariance[0, 0] - golden) < 1e-12
    assert abs(steady.gain[0, 0] - (golden - 1)) < 1e-12
    assert abs(steady.innovation_covariance[0, 0] - (golden + 1)) < 1e-12
    assert np.allclose(steady.filter.poles(), [2 - golden], atol=1e-12)
    done = walk().filter(np.zeros(60))
    assert abs(done.predicted_covariances[-1, 0, 0] - golden) < 1e-12
    assert abs(done.covariances[-1, 0, 0] - (golden - 1)) < 1e-12


def test_errors_are_as_large_as_it_says():
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal(20000))
    y = x + rng.standard_normal(20000)
    found = walk()(y)
    assert abs(np.mean((found - x) ** 2) / (np.sqrt(5) / 2 - 0.5) - 1) < 0.03
    e = walk(output="innovation")(y)[20:]
    correlation = np.array([e[lag:] @ e[: e.size - lag] for lag in range(1, 20)]) / (e @ e)
    assert np.max(np.abs(correlation)) < 4 / np.sqrt(e.size), "the innovations are not white"


@pytest.mark.parametrize("output", ["state", "measurement", "innovation"])
def test_the_innovations_form_is_what_the_filter_becomes(output):
    space, arguments, _, _ = example(4)
    kalman = KalmanFilter(space, **arguments, output=output)
    steady = kalman.steady_state()
    A, K, C = space.A, steady.gain, space.C
    wanted = np.linalg.eigvals(A - A @ K @ C)
    assert np.allclose(sorted(np.abs(steady.filter.poles())), sorted(np.abs(wanted)), atol=1e-12)
    P = steady.covariance
    S = C @ P @ C.T + arguments["measurement_noise"]
    assert np.allclose(A @ (P - P @ C.T @ np.linalg.solve(S, C @ P)) @ A.T + arguments["process_noise"], P, atol=1e-10)
    u = np.random.default_rng(1).standard_normal((400, kalman.n_inputs))
    # the start is forgotten as the poles decay
    assert np.max(np.abs(kalman(u)[300:] - steady.filter(u)[300:])) < 1e-10
    state = kalman.run(u)[1]
    linear = kalman.linearize(state)
    n = len(A)
    assert np.allclose(linear.A[:n, :n], steady.filter.A, atol=1e-10)
    assert np.allclose(linear.B[:n], steady.filter.B, atol=1e-10)


def test_jacobians_at_once_are_those_frame_by_frame():
    space = StateSpace([[0.5, 0.2], [0.0, 0.9]], [[1.0], [0.5]], [[1.0, 1.0]], [[0.0]])
    u = np.random.default_rng(0).standard_normal((9, 2))
    for form in ("square_root", "joseph"):
        kalman = KalmanFilter(space, process_noise=1, measurement_noise=0.1, form=form)
        one, other = kalman.rest_state(), kalman.rest_state()
        found, expected = kalman._jacobians(u, one), frame_by_frame(kalman, u, other)
        for a, b in zip(found[:6], expected[:6], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.ravel(), other.ravel())
        assert one.index == other.index == 9


def test_any_linear_filter_is_a_model():
    lowpass = SOS(signal.butter(2, 0.1, output="sos"), sample_rate=8000)
    kalman = KalmanFilter(lowpass, process_noise=0.01, measurement_noise=1, output="measurement")
    assert kalman.sample_rate == 8000
    rng = np.random.default_rng(0)
    u = rng.standard_normal(4000)
    clean, state = np.empty(4000), np.zeros(2)
    space = lowpass.linearize()
    for t in range(4000):
        clean[t] = (space.C @ state + space.D @ u[t : t + 1])[0]
        state = space.A @ state + space.B @ u[t : t + 1] + 0.1 * rng.standard_normal(2)
    noisy = clean + rng.standard_normal(4000)
    found = kalman(np.column_stack([noisy, u]))[:, 0]
    error = np.mean((found - clean) ** 2)
    assert error < 0.5 * min(np.mean((noisy - clean) ** 2), np.mean((lowpass(u) - clean) ** 2))
    elman = Elman(1, 2, activation="identity")
    assert np.array_equal(KalmanFilter(elman, process_noise=1, measurement_noise=1).model.C, elman.U)


# ---- likelihood


def changed(space, arguments, name, step):
    matrices = {key: getattr(space, key) + (step if key == name else 0) for key in "ABCD"}
    return StateSpace(**matrices), {key: value + (step if key == name else 0) for key, value in arguments.items()}


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_likelihood(form):
    space, arguments, y, u = example(2)
    gradient = KalmanFilter(space, **arguments, form=form).gradient(y, u)
    rng = np.random.default_rng(0)
    assert set(gradient) == {*"ABCD", *arguments}
    for name, value in gradient.items():
        e = rng.standard_normal(value.shape)
        if name in ("process_noise", "measurement_noise", "covariance"):
            assert np.allclose(value, value.T, rtol=1e-10, atol=1e-10 * np.max(np.abs(value)))
            e = e + e.T
        up, down = (
            KalmanFilter(changed(space, arguments, name, step)[0], **changed(space, arguments, name, step)[1])
            for step in (1e-5 * e, -1e-5 * e)
        )
        numeric = (up.log_likelihood(y, u) - down.log_likelihood(y, u)) / 2e-5
        assert abs(np.sum(value * e) - numeric) < 1e-6 * (1 + abs(numeric)), name


def test_gradient_is_fishers_of_the_smoother():
    """The gradient of log p(y) is what the smoother expects of that of log p(x, y)."""
    space, arguments, y, u = example(5)
    kalman = KalmanFilter(space, **arguments)
    smoothed, gradient = kalman.smooth(y, u), kalman.gradient(y, u)
    m, P, lag = smoothed.means, smoothed.covariances, smoothed.lag_one_covariances
    inverse = np.linalg.inv(arguments["covariance"])
    assert np.allclose(gradient["mean"], inverse @ (m[0] - arguments["mean"]), rtol=1e-9, atol=1e-9)
    off = m[0] - arguments["mean"]
    wanted = 0.5 * inverse @ (P[0] + np.outer(off, off) - arguments["covariance"]) @ inverse
    assert np.allclose(gradient["covariance"], wanted, rtol=1e-8, atol=1e-9)
    # the last frame's noise is not heard
    inverse, A = np.linalg.inv(arguments["process_noise"]), space.A
    w = m[1:] - m[:-1] @ A.T - u[:-1] @ space.B.T
    assert np.allclose(gradient["B"], inverse @ w.T @ u[:-1], rtol=1e-8, atol=1e-9)
    wanted = inverse @ (w.T @ m[:-1] + np.sum(lag - A @ P[:-1], 0))
    assert np.allclose(gradient["A"], wanted, rtol=1e-8, atol=1e-9)


def test_gradient_needs_no_inverse_of_the_noise():
    # an AR(2) process, whose noise drives one of two states, known without noise of the measurement
    def model(a, b):
        space = StateSpace([[a, 1.0], [b, 0.0]], [[0.0], [0.0]], [[1.0, 0.0]], [[0.0]])
        return KalmanFilter(
            space, process_noise=np.diag([1.0, 0.0]), measurement_noise=0, covariance=1, known_inputs=False
        )

    y = np.random.default_rng(0).standard_normal(50)
    gradient = model(0.5, -0.3).gradient(y)["A"]
    for place, e in ((0, (1e-6, 0)), (1, (0, 1e-6))):
        up, down = model(0.5 + e[0], -0.3 + e[1]), model(0.5 - e[0], -0.3 - e[1])
        assert abs(gradient[place, 0] - (up.log_likelihood(y) - down.log_likelihood(y)) / 2e-6) < 1e-6


def test_statsmodels_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools = pytest.importorskip("statsmodels.tsa.statespace.kalman_smoother")
    space, arguments, y, u = example(6, frames=60)
    # a series with a correlated noise and partly missing frames
    rival = tools.KalmanSmoother(k_endog=2, k_states=3, k_posdef=3)
    rival.bind(np.asfortranarray(y.T))
    rival["design"], rival["transition"], rival["selection"] = space.C, space.A, np.eye(3)
    rival["obs_cov"], rival["state_cov"] = arguments["measurement_noise"], arguments["process_noise"]
    rival["obs_intercept"], rival["state_intercept"] = space.D @ u.T, space.B @ u.T
    rival.initialize_known(arguments["mean"], arguments["covariance"])
    theirs = rival.smooth()
    kalman = KalmanFilter(space, **arguments)
    ours, smoothed = kalman.filter(y, u), kalman.smooth(y, u)
    assert abs(ours.log_likelihood - theirs.llf) < 1e-10 * abs(theirs.llf)
    assert np.allclose(ours.means, theirs.filtered_state.T, rtol=1e-9, atol=1e-10)
    assert np.allclose(smoothed.means, theirs.smoothed_state.T, rtol=1e-9, atol=1e-10)
    assert np.allclose(smoothed.covariances, theirs.smoothed_state_cov.transpose(2, 0, 1), rtol=1e-9, atol=1e-10)


# ---- numbers that are hard


def test_square_root_form_is_right_where_the_plain_update_is_lost():
    # position, speed and acceleration: nothing is known at first, then the position is measured with hardly any noise
    dt, start, noise, n_frames = 0.01, 1e8, 1e-12, 25
    A, C = np.array([[1, dt, dt * dt / 2], [0, 1, dt], [0, 0, 1]]), np.array([[1.0, 0, 0]])
    space = StateSpace(A, np.zeros((3, 1)), C, [[0.0]])
    kalman = KalmanFilter(space, process_noise=0, measurement_noise=noise, covariance=start, known_inputs=False)
    # the same recursion P - K C P in floats and in fractions
    move = np.array([[Fraction(entry) for entry in row] for row in A])
    plain, exact = (
        start * np.eye(3),
        Fraction(start) * np.array([[Fraction(int(i == j)) for j in range(3)] for i in range(3)]),
    )
    lost, found = [], kalman.filter(np.zeros(n_frames)).covariances
    for t in range(n_frames):
        plain = plain - np.outer(plain[:, 0], plain[0]) / (plain[0, 0] + noise)
        exact = exact - np.outer(exact[:, 0], exact[0]) / (exact[0, 0] + Fraction(noise))
        lost.append(np.linalg.eigvalsh(plain)[0])
        size = np.sqrt(np.diagonal(exact).astype(float))
        error = (found[t] - exact.astype(float)) / size[:, None] / size
        assert np.max(np.abs(error)) < 1e-5
        # P is the square of its factor: no eigenvalue below what rounding that product may cost
        assert np.linalg.eigvalsh(found[t] / size[:, None] / size)[0] > -1e-15
        plain, exact = A @ plain @ A.T, move @ exact @ move.T
    assert min(lost) < -1e-8, "this is not hard"


@pytest.mark.parametrize("form", FORMS)
def test_covariances_of_badly_scaled_models_stay_positive(form):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        size = 10.0 ** rng.uniform(-4, 4, 4)
        A = rng.standard_normal((4, 4))
        A *= 0.99 / np.max(np.abs(np.linalg.eigvals(A)))
        A = A * size[:, None] / size
        space = StateSpace(A, np.zeros((4, 1)), rng.standard_normal((2, 4)) / size, np.zeros((2, 1)))
        kalman = KalmanFilter(
            space, process_noise=1e-6 * size**2, measurement_noise=1e-6, covariance=size**2, form=form
        )
        done = kalman.filter(rng.standard_normal((300, 2)))
        for P in (done.covariances, done.predicted_covariances, kalman.smooth(np.zeros((50, 2))).covariances):
            assert np.min(np.linalg.eigvalsh(P / (size[:, None] * size))) > -1e-13


@pytest.mark.parametrize("form", FORMS)
def test_a_measurement_that_tells_nothing_new_changes_nothing(form):
    one = StateSpace(0.9 * np.eye(2), np.zeros((2, 1)), [[1.3, 0.5]], [[0.0]])
    sizes = np.array([1.0, 0.3, 0.7])  # rounding leaves something of the second and third
    twice = StateSpace(one.A, one.B, sizes[:, None] * one.C, np.zeros((3, 1)))
    y = np.random.default_rng(0).standard_normal(40)
    first, second = (
        KalmanFilter(space, process_noise=1, measurement_noise=0, form=form).filter(series)
        for space, series in ((one, y), (twice, y[:, None] * sizes))
    )
    assert np.allclose(first.means, second.means, atol=1e-12)
    assert np.allclose(first.covariances, second.covariances, atol=1e-12)
    for start in np.linspace(1, 2, 20):  # whichever way it is rounded
        kalman = KalmanFilter(twice, process_noise=1, measurement_noise=0, covariance=start, form=form)
        with pytest.raises(ParameterError, match="no variance"):
            kalman.log_likelihood(np.ones((1, 3)))
    # known exactly, measured exactly: the smoother divides by nothing either
    still = KalmanFilter(one, process_noise=0, measurement_noise=0, covariance=0, form=form)
    assert np.array_equal(still.smooth(np.zeros(5)).covariances, np.zeros((5, 2, 2)))
    assert np.array_equal(still(np.zeros((5, 2))), np.zeros((5, 2)))
    # what decays without noise underflows, and ends in zeros
    fades = KalmanFilter(one, process_noise=0, measurement_noise=0.1, covariance=1, form=form)
    assert np.max(np.abs(fades.filter(np.ones(9000)).covariances[-1])) < 1e-200


# ---- EM


def test_em_never_loses_likelihood_and_ends_where_the_gradient_is_zero():
    space, arguments, y, u = example(7, n=2, frames=80)
    kalman = KalmanFilter(space, **arguments)
    fit = fit_em(kalman, y, u, max_iterations=60)
    rise = np.diff(fit.log_likelihoods)
    assert len(rise) == 60 or fit.converged
    assert np.all(rise > -1e-9 * np.abs(fit.log_likelihoods[1:])) and rise[0] > 10
    assert abs(fit.filter.log_likelihood(y, u) - fit.log_likelihoods[-1]) < 1e-9 * abs(fit.log_likelihoods[-1])
    # correlated noise, half of one channel missing: one that is measured tells of the other
    y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 80)
    y[::2, 1] = np.nan
    learn = ("measurement_noise", "C", "D")
    kalman = KalmanFilter(space, **{**arguments, "process_noise": 0.01})
    fit = fit_em(kalman, y, u, learn=learn, max_iterations=500, tolerance=1e-12)
    gradient = fit.filter.gradient(y, u)
    for name in learn:
        assert np.max(np.abs(gradient[name])) < 1e-3, name
    for name in ("process_noise", "mean", "covariance"):
        assert np.allclose(getattr(fit.filter, name), getattr(kalman, name), atol=1e-12)
    assert np.array_equal(fit.filter.model.A, space.A)


def test_em_finds_the_noises_of_a_random_walk():
    rng = np.random.default_rng(1)
    y = 10 + np.cumsum(rng.standard_normal(3000)) + 2 * rng.standard_normal(3000)
    y[rng.random(3000) < 0.1] = np.nan
    fit = fit_em(walk(), y, learn=("process_noise", "measurement_noise", "mean"), max_iterations=40)
    assert abs(fit.filter.process_noise[0, 0] - 1) < 0.2
    assert abs(fit.filter.measurement_noise[0, 0] / 4 - 1) < 0.1
    # A alone, from a wrong start: regression on what the smoother expects
    x = signal.lfilter([1], [1, -0.8], rng.standard_normal(2000))
    wrong = walk(covariance=1).replace(A=[[0.1]])
    fit = fit_em(wrong, x + rng.standard_normal(2000), learn=["A"], max_iterations=30)
    assert abs(fit.filter.model.A[0, 0] - 0.8) < 0.05


# ---- errors


def test_bad_arguments_are_named():
    space, good, y, u = example()
    good = {"process_noise": 1, "measurement_noise": 1}
    lopsided, negative = np.eye(3), np.array([[1.0, 2], [2, 1]])
    lopsided[0, 1] = 0.5
    cases = [
        (r"process_noise has shape", {"process_noise": np.eye(2)}),
        (r"process_noise is not symmetric", {"process_noise": lopsided}),
        (r"measurement_noise is not positive semidefinite", {"measurement_noise": negative}),
        (r"measurement_noise has the variance -1", {"measurement_noise": -1}),
        (r"not positive semidefinite", {"measurement_noise": [[0.0, 1.0], [1.0, 1.0]]}),
        (r"process_noise holds NaN", {"process_noise": np.nan}),
        (r"process_noise='loud'", {"process_noise": "loud"}),
        (r"process_noise=1j", {"process_noise": 1j}),
        (r"covariance has shape", {"covariance": np.eye(4)}),
        (r"mean has shape", {"mean": np.zeros(4)}),
        (r"output='position'", {"output": "position"}),
        (r"form='plain'", {"form": "plain"}),
        (r"known_inputs=1", {"known_inputs": 1}),
    ]
    for said, wrong in cases:
        with pytest.raises(ParameterError, match=said):
            KalmanFilter(space, **{**good, **wrong})
    with pytest.raises(ParameterError, match="linear filter"):
        KalmanFilter(LSTM(1, 2), **good)
    with pytest.raises(ParameterError, match="linear filter"):
        KalmanFilter(np.eye(3), **good)
    with pytest.raises(ParameterError, match="no state"):
        KalmanFilter(StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[1.0]]), **good)
    with pytest.raises(ParameterError, match="no stationary covariance"):
        walk(covariance=None)
    kalman = KalmanFilter(space, **good)
    infinite = y.copy()
    infinite[0, 0] = np.inf
    series = [(y[:, :1], u), (y[None], u), (y, u[1:]), (y, np.full_like(u, np.nan)), (infinite, u), ("noise", u)]
    for (wrong, known), method in itertools.product(series, ("filter", "smooth", "log_likelihood", "gradient")):
        with pytest.raises(ParameterError):
            getattr(kalman, method)(wrong, known)
    with pytest.raises(ParameterError, match="no state: start"):
        kalman.filter(y, u, y)
    with pytest.raises(ParameterError, match="state does not fit"):
        kalman.filter(y, u, walk().rest_state())
    with pytest.raises(ParameterError, match="too many to keep"):
        KalmanFilter(StateSpace(0.5 * np.eye(200), np.zeros((200, 1)), np.ones((1, 200)), [[0.0]]), **good).smooth(
            np.zeros(2000)
        )


def test_no_data_is_no_likelihood_and_no_steady_state_is_said():
    kalman = walk(covariance=2)
    for nothing in (np.zeros(0), np.full(5, np.nan)):
        assert kalman.log_likelihood(nothing) == 0
        assert np.allclose(kalman.filter(nothing).covariances[:, 0, 0], 2 + np.arange(len(nothing)))
        assert len(kalman.smooth(nothing).means) == len(nothing)
        assert not kalman.gradient(nothing)["A"].any()
    with pytest.raises(ParameterError, match="no steady state"):
        walk(process_noise=0).steady_state()
    deaf = StateSpace([[1.1]], [[0.0]], [[0.0]], [[0.0]])
    with pytest.raises(ParameterError, match="no steady state"):
        KalmanFilter(deaf, process_noise=1, measurement_noise=1, covariance=1).steady_state()
    with pytest.raises(NonFiniteError, match="unstable"):
        KalmanFilter(deaf, process_noise=1, measurement_noise=1, mean=[1.0], covariance=1).filter(np.zeros(9000))
    large = np.full(5, 1e200)
    for ask in (kalman.log_likelihood, kalman.gradient, kalman.filter, kalman.smooth, lambda y: fit_em(kalman, y)):
        with pytest.raises(NonFiniteError, match="scale the measurements"):
            ask(large)
    assert np.array_equal(walk(process_noise=1e200, measurement_noise=1e-200).steady_state().gain, [[1]])


def test_bad_arguments_of_em():
    kalman, y = walk(), np.zeros(9)
    for said, call in [
        ("no KalmanFilter", lambda: fit_em(LSTM(1, 1), y)),
        ("learn", lambda: fit_em(kalman, y, learn="A")),
        ("learn", lambda: fit_em(kalman, y, learn=["noise"])),
        ("learn", lambda: fit_em(kalman, y, learn=None)),
        ("learn", lambda: fit_em(kalman, y, learn=[["A"]])),
        ("max_iterations", lambda: fit_em(kalman, y, max_iterations=0)),
        ("tolerance", lambda: fit_em(kalman, y, tolerance="small")),
        ("EM needs", lambda: fit_em(kalman, np.full(9, np.nan))),
        ("EM needs", lambda: fit_em(kalman, y[:1])),
    ]:
        with pytest.raises(ParameterError, match=said):
            call()
    # a series without any variance: the noises shrink towards zero, and nothing breaks
    fit = fit_em(kalman, y, learn=("process_noise", "measurement_noise"), max_iterations=50)
    assert np.isfinite(fit.log_likelihoods).all() and fit.filter.measurement_noise[0, 0] < 0.5

"""Training on all data at once, and read-outs. Oracles: the makers of the data, normal equations, Newton's method."""

import numpy as np
import pytest

from rnndsp import Feedback, NonFiniteError, Parallel, ParameterError, StateSpace, batch_fit, gain
from rnndsp.batch_fit import fit_lbfgs, fit_least_squares
from rnndsp.filters import Dense, Elman, TransferFunction, fit_readout
from rnndsp.losses import bernoulli, squared
from rnndsp.training import evaluate


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def near(filt, distance, seed=1):
    rng = np.random.default_rng(seed)
    return filt.replace(**{k: v + distance * rng.standard_normal(v.shape) for k, v in filt.params.items()})


def furthest(found, truth):
    return max(np.max(np.abs(found.params[name] - value), initial=0) for name, value in truth.params.items())


ROOM = Elman(1, 1, activation="identity").replace(W=[[1.0]], U=[[0.98]])

FITS = {
    "least squares": fit_least_squares,
    "lbfgs": lambda filt, data, **settings: fit_lbfgs(filt, data, squared, **settings),
}


# ---- Levenberg-Marquardt


def ordered(filt):
    """Of all that are alike, with units in another order or of other signs, the one with rising positive weights."""
    W, U, b, C, c = (filt.params[name] for name in ("0.W", "0.U", "0.b", "1.W", "1.b"))
    order, sign = np.argsort(np.abs(C[0])), np.sign(C[0])
    U = sign[:, None] * U * sign
    return [(sign[:, None] * W)[order], U[order][:, order], (sign * b)[order], np.abs(C[0])[order], c]


def test_a_network_is_found_again():
    rng = np.random.default_rng(13)
    truth = (Elman(1, 4, seed=7) >> Dense(4, 1, seed=8)).replace(
        **{"0.W": 2 * noise(4, 1, seed=4), "0.b": 0.3 * rng.standard_normal(4)}
    )
    data = [(u, truth(u)) for u in noise(4, 100, 1, seed=4)]
    start = near(truth, 0.2, seed=5)
    found = fit_least_squares(start, data)
    assert furthest(start, truth) > 0.3 and evaluate(start, data, squared) > 1e-3
    for value, expected in zip(ordered(found.filter), ordered(truth), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-10)
    assert max(np.max(np.abs(found.filter(u) - y)) for u, y in data) < 1e-12
    losses = [epoch.loss for epoch in found.history]
    assert losses == sorted(losses, reverse=True) and found.best == len(losses) and losses[-1] < 1e-24


def test_a_hammerstein_model_is_found_again():
    """From poles and a curve that are far away."""
    truth = Dense(1, 1, activation="tanh").replace(W=[[1.5]], b=[0.3]) >> TransferFunction([0.2, 0.1], [1, -1.2, 0.6])
    start = Dense(1, 1, activation="tanh").replace(W=[[1.0]]) >> TransferFunction([0.3, 0.0], [1, -0.8, 0.3])
    u = noise(150, 1)
    found = fit_least_squares(start, [(u, truth(u))])
    assert furthest(found.filter, truth) < 1e-12
    assert len(found.history) < 15


def test_a_linear_output_equation_is_linear_least_squares():
    """In one step; what has no target is not scored, and the poles are not to move."""
    room = StateSpace([[0.5, 0.3], [-0.3, 0.6]], [[1.0], [0.5]], [[0.0, 0.0]], [[0.0]])
    u, y = noise(200, 1), noise(200, 1, seed=1)
    y[:20] = np.nan
    states = StateSpace(room.A, room.B, np.eye(2), np.zeros((2, 1)))(u)
    expected, residue, *_ = np.linalg.lstsq(np.hstack([states, u])[20:], y[20:])
    found = fit_least_squares(room, [(u, y)], only=["C", "D"])
    np.testing.assert_allclose(np.append(found.filter.C, found.filter.D), expected[:, 0], atol=1e-12)
    assert len(found.history) <= 2
    np.testing.assert_allclose(found.history[-1].loss, residue[0] / 180, rtol=1e-12)
    np.testing.assert_allclose(evaluate(found.filter, [(u, y)], squared), residue[0] / 180, rtol=1e-12)
    np.testing.assert_array_equal(found.filter.A, room.A)


def test_nothing_depends_on_the_basis():
    """A state space with parameters to spare: J is singular all along. At the end the error is that of the noise."""
    truth = StateSpace([[0.7, 0.3], [-0.3, 0.6]], [[1.0], [0.5]], [[1.0, 0.4]], [[0.1]])
    u = noise(150, 1)
    found = fit_least_squares(near(truth, 0.1), [(u, truth(u))])
    assert np.max(np.abs(found.filter(u) - truth(u))) < 1e-12


# ---- L-BFGS


def test_logistic_regression():
    """Newton's method has the same optimum, and there the gradient is zero."""
    X = noise(400, 3)
    bits = (np.random.default_rng(5).random((400, 1)) < 1 / (1 + np.exp(-X @ [[1.0], [-2.0], [0.5]] - 0.3))).astype(
        float
    )
    data = [(X[:150], bits[:150]), (X[150:300], bits[150:300]), (X[300:], bits[300:])]
    found = fit_lbfgs(Dense(3, 1), data, bernoulli, tolerance=1e-14)
    T, w = np.hstack([X, np.ones((400, 1))]), np.zeros(4)
    for _ in range(20):
        p = 1 / (1 + np.exp(-T @ w))
        w += np.linalg.solve(T.T @ (T * (p * (1 - p))[:, None]), T.T @ (bits[:, 0] - p))
    np.testing.assert_allclose(np.append(found.filter.params["W"], found.filter.params["b"]), w, atol=1e-6)
    tape = found.filter.tape(X)
    slopes = tape.adjoint_of_params(bernoulli(tape.y, bits)[1] / 400)
    assert max(np.max(np.abs(slope)) for slope in slopes.values()) < 1e-7
    np.testing.assert_allclose(found.history[-1].loss, evaluate(found.filter, data, bernoulli), rtol=1e-12)


def test_all_frames_count_once():
    """Sequences of several lengths, some of it not scored: the loss is that of all of it."""
    data = [(noise(n, 2, seed=n), noise(n, 1, seed=n + 50)) for n in (5, 9, 5, 1, 9)]
    data[1][1][3:] = np.nan
    filt = Elman(2, 3) >> Dense(3, 1)
    for fit in FITS.values():
        found = fit(filt, data, n_steps=3)
        assert len(found.history) == 3 < found.best + 1
        np.testing.assert_allclose(found.history[-1].loss, evaluate(found.filter, data, squared), rtol=1e-12)


# ---- both


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("kind", ["explodes", "refused"])
def test_steps_that_cannot_be_taken(fit, kind, monkeypatch):
    """Trials that blow up, or that a loop refuses to be: the search gets there all the same."""
    u = noise(2000, 1)
    if kind == "explodes":
        truth, start, only = ROOM, ROOM.replace(W=[[0.1]], U=[[0.9]]), ["W", "U"]
    else:
        u, only, back = u[:300], ["0.D", "1.D"], 0.5 if fit is fit_least_squares else -0.5
        truth, start = Feedback(gain(0.5), 0.99, delay=3), Feedback(gain(0.1), back, delay=3)
    failed = []
    plain = batch_fit._Search.filter

    def counted(self, theta):
        try:
            model = plain(self, theta)
            model(u)
        except (ParameterError, NonFiniteError) as error:
            failed.append(type(error))
            raise
        return model

    monkeypatch.setattr(batch_fit._Search, "filter", counted)
    found = fit(start, [(u, truth(u))], only=only)
    assert set(failed) == {NonFiniteError if kind == "explodes" else ParameterError}
    assert furthest(found.filter, truth) < 1e-5
    assert np.isfinite([epoch.loss for epoch in found.history]).all()


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_the_best_weights_are_kept(fit):
    """Noise learnt by heart: the validation loss falls, then rises."""
    u, rng = noise(30, 12), np.random.default_rng(3)
    truth = np.eye(1, 12)
    data = [(u, np.tanh(u @ truth.T) + 0.7 * rng.standard_normal((30, 1)))]
    held_out = [(v, np.tanh(v @ truth.T)) for v in noise(2, 200, 12, seed=5)]
    start = Dense(12, 1, activation="tanh").replace(W=0.1 * noise(1, 12, seed=7))
    found = fit(start, data, validation=held_out, n_steps=20)
    scores = [evaluate(start, held_out, squared), *(epoch.validation for epoch in found.history)]
    assert found.best == np.argmin(scores) < len(found.history) and scores[-1] > 1.1 * min(scores)
    np.testing.assert_allclose(evaluate(found.filter, held_out, squared), min(scores), rtol=1e-12)
    patient = fit(start, data, validation=held_out, n_steps=20, patience=2)
    assert patient.best == found.best and len(patient.history) == found.best + 2


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_dtypes_stay_and_the_filter_too(fit):
    truth = Dense(2, 1).replace(W=[[0.5, -0.25]], b=[1.0])
    u = noise(50, 2).astype(np.float32)
    data = [(u, truth(u))]
    start = Dense(2, 1)
    start = start.replace(**{name: value.astype(np.float32) for name, value in start.params.items()})
    before, signal = {name: value.copy() for name, value in start.params.items()}, u.copy()
    found = fit(start, data)
    for name, value in found.filter.params.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(start.params[name], before[name])
    np.testing.assert_array_equal(u, signal)
    assert furthest(found.filter, truth) < 1e-6


GOOD = np.ones((4, 2)), np.ones((4, 1))


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"data": [(np.ones((4, 3)), GOOD[1])]}, "3 inputs"),
        ({"data": [(GOOD[0], np.ones((5, 1)))]}, r"\(4, 2\) and \(5, 1\)"),
        ({"data": []}, "no frame to score"),
        ({"data": [(GOOD[0], np.full((4, 1), np.nan))]}, "no frame to score"),
        ({"validation": [(np.ones((4, 3)), GOOD[1])]}, r"validation\[0\]"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"tolerance": "small"}, "tolerance='small'"),
        ({"patience": 3}, "patience=3 needs validation"),
        ({"only": ["U"]}, r"unknown parameters \['U'\]"),
        ({"only": []}, "no parameters"),
        ({"filt": 3}, "is not a filter"),
    ],
)
def test_bad_settings_are_named(fit, settings, names):
    with pytest.raises(ParameterError, match=names):
        fit(**{"filt": Dense(2, 1), "data": [GOOD], **settings})


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_no_numbers_where_it_starts(fit):
    with pytest.raises(NonFiniteError, match="input is NaN"):
        fit(Dense(2, 1), [(np.full((4, 2), np.nan), GOOD[1])])
    with pytest.raises(NonFiniteError, match="output is"):
        fit(ROOM.replace(U=[[3.0]]), [(np.ones((1000, 1)), np.ones((1000, 1)))])


def test_too_large_a_jacobian():
    with pytest.raises(ParameterError, match=r"100000 residuals by 1000 parameters.*fit_lbfgs"):
        fit_least_squares(Dense(1, 500), [(np.zeros((200, 1)), np.zeros((200, 500)))])


# ---- read-outs


@pytest.mark.parametrize("ridge", [0.0, 7.0])
@pytest.mark.parametrize("n_blocks", [1, 50])
def test_ridge_regression(ridge, n_blocks, monkeypatch):
    """The normal equations; one output is not scored everywhere, and scales and offsets differ."""
    X = noise(300, 4) * [1, 10, 0.1, 1] + [0, 3, 0, 0]
    y = X @ noise(4, 2, seed=1) + 0.1 * noise(300, 2, seed=2) + [3, -50]
    y[40:90, 1] = np.nan
    monkeypatch.setattr("rnndsp.filters.readout.BLOCK", 6 * 300 // n_blocks)
    found = fit_readout(Dense(4, 2), [(X[:170], y[:170]), (X[170:], y[170:])], ridge=ridge)
    for k in range(2):
        rows = ~np.isnan(y[:, k])
        x, d = X[rows], y[rows, k]
        around = x - x.mean(axis=0)
        w = np.linalg.solve(around.T @ around + ridge * np.eye(4), around.T @ (d - d.mean()))
        np.testing.assert_allclose(found.filter.params["W"][k], w, rtol=1e-9)
        np.testing.assert_allclose(found.filter.params["b"][k], d.mean() - x.mean(axis=0) @ w, rtol=1e-9)
        np.testing.assert_allclose(found.loss[k], np.mean((found.filter(x)[:, k] - d) ** 2), rtol=1e-9)
        # the score by the matrix that makes the fit of the targets
        H = np.hstack([np.ones((len(x), 1)), x])
        H = H @ np.linalg.solve(H.T @ H + np.diag([0, *[ridge] * 4]), H.T)
        gcv = np.mean((d - H @ d) ** 2) / (1 - np.trace(H) / len(x)) ** 2
        np.testing.assert_allclose(found.validation[k], gcv, rtol=1e-9)


def test_the_ridge_is_chosen():
    """Noise on many regressors: some ridge is better than none, and no other one of the grid is better still."""
    rng = np.random.default_rng(0)
    X, V = rng.standard_normal((2, 60, 40))
    truth = 0.2 * rng.standard_normal((40, 1))
    y = X @ truth + rng.standard_normal((60, 1))
    held_out = [(V, V @ truth)]
    chosen = fit_readout(Dense(40, 1), [(X, y)], validation=held_out)
    np.testing.assert_allclose(chosen.validation, evaluate(chosen.filter, held_out, squared), rtol=1e-9)
    for factor in (0.3, 3, 0):
        other = fit_readout(Dense(40, 1), [(X, y)], validation=held_out, ridge=factor * chosen.ridge[0])
        assert other.validation > chosen.validation
    crossed = fit_readout(Dense(40, 1), [(X, y)])
    assert evaluate(crossed.filter, held_out, squared) < 0.6 * other.validation  # of no ridge at all


def test_regressors_that_depend_on_each_other():
    """Twice the same, and one that does not move; then more of them than frames: the weights of least norm."""
    x = noise(50, 1)
    found = fit_readout(Dense(3, 1), [(np.hstack([x, x, np.ones((50, 1))]), 4 * x + 1)], ridge=0.0)
    np.testing.assert_allclose(found.filter.params["W"], [[2, 2, 0]], atol=1e-12)
    np.testing.assert_allclose(found.filter.params["b"], [1], atol=1e-12)
    X, y = noise(5, 9), noise(5, 1, seed=1)
    found = fit_readout(Dense(9, 1), [(X, y)], ridge=0.0)
    expected = np.linalg.pinv(X - X.mean(axis=0)) @ (y - y.mean())
    np.testing.assert_allclose(found.filter.params["W"], expected.T, atol=1e-12)
    assert np.isfinite(fit_readout(Dense(9, 1), [(X, y)]).validation).all()


def narma(n_frames, rng):
    u, y = rng.uniform(0, 0.5, (n_frames, 1)), np.zeros((n_frames, 1))
    for t in range(9, n_frames - 1):
        y[t + 1] = 0.3 * y[t] + 0.05 * y[t] * y[t - 9 : t + 1].sum() + 1.5 * u[t - 9] * u[t] + 0.1
    return u, y


def test_an_echo_state_network_learns_narma():
    """A. Atiya, A. Parlos (2000). The reservoir is that of H. Jaeger: random, of spectral radius 0.9."""
    n, rng = 100, np.random.default_rng(0)
    U = rng.standard_normal((n, n))
    U *= 0.9 / np.max(np.abs(np.linalg.eigvals(U)))
    cell = Elman(1, n).replace(W=rng.uniform(-0.1, 0.1, (n, 1)), U=U, b=rng.uniform(-0.5, 0.5, n))
    (u, y), (v, x) = narma(2000, rng), narma(1000, rng)
    wanted = np.where(np.arange(2000)[:, None] < 100, np.nan, y)
    found = fit_readout(cell >> Dense(n, 1), [(u, wanted)])

    def nrmse(filt):
        return np.sqrt(np.mean((filt(v) - x)[100:] ** 2) / np.var(x[100:]))

    fir = TransferFunction(np.linalg.lstsq(np.hstack([np.roll(u, k, 0) for k in range(20)])[20:], y[20:])[0][:, 0], [1])
    assert nrmse(found.filter) < 0.3 < nrmse(fir)
    np.testing.assert_array_equal(found.filter.params["0.U"], U)
    # the loss is that of the frames that are scored, in blocks or at once
    np.testing.assert_allclose(found.loss, np.mean((found.filter(u) - y)[100:] ** 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"filt": Dense(2, 1, activation="tanh")}, "linear Dense"),
        ({"filt": Dense(2, 2) >> Elman(2, 1)}, "linear Dense"),
        ({"filt": Parallel(Dense(2, 1), Dense(2, 1))}, "linear Dense"),
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"ridge": "small"}, "ridge='small'"),
        ({"data": [(np.ones((4, 3)), GOOD[1])]}, r"data\[0\] of shapes \(4, 3\)"),
        ({"data": [(GOOD[0], np.ones((4, 2)))]}, r"\(4, 2\) and \(4, 2\)"),
        ({"data": []}, "0 frames to score"),
        ({"data": [(GOOD[0], np.full((4, 1), np.nan))]}, "0 frames to score"),
        ({"validation": [(np.ones((4, 3)), GOOD[1])]}, r"validation\[0\]"),
        ({"filt": Dense(4001, 1)}, "4001 inputs"),
    ],
)
def test_bad_readouts_are_named(settings, names):
    with pytest.raises(ParameterError, match=names):
        fit_readout(**{"filt": Elman(2, 3) >> Dense(3, 1), "data": [GOOD], **settings})


def test_no_numbers_for_a_readout():
    with pytest.raises(NonFiniteError, match=r"data\[0\]"):
        fit_readout(Dense(2, 1), [(np.full((4, 2), np.nan), GOOD[1])])

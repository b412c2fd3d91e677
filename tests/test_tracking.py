"""Tracking through noise: the linear limit, a Bayes filter on a grid, convergence of particles, and cells."""

import numpy as np
import pytest

from rnndsp import NonFiniteError, ParameterError, StateSpace, delay, gain
from rnndsp.filters import (
    LSTM,
    Elman,
    GerzonAllpass,
    KalmanFilter,
    StateVariable,
    extended_kalman_filter,
    particle_filter,
    unscented_kalman_filter,
)
from rnndsp.framed import Framed

GAUSSIAN = extended_kalman_filter, unscented_kalman_filter
ALL = (*GAUSSIAN, particle_filter)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def noisy(filt, u, process_noise, measurement_noise, covariance, seed=0):
    """States before each frame, outputs, and outputs as measured, of a filter that lives through noise."""
    rng = np.random.default_rng(seed)
    state = filt.rest_state()
    state = state.unravel(np.sqrt(covariance) * rng.standard_normal(state.size))
    states, outputs = [], []
    for frame in u:
        states.append(state.ravel())
        y, state = filt.run(frame[None], state)
        outputs.append(y[0])
        state = state.unravel(state.ravel() + np.sqrt(process_noise) * rng.standard_normal(state.size))
    outputs = np.array(outputs)
    return np.array(states), outputs, outputs + np.sqrt(measurement_noise) * rng.standard_normal(outputs.shape)


def linear_case():
    """A linear cell, a series with missing channels and frames, and noises that are no multiples of the identity."""
    cell = Elman(1, 3, activation="identity", seed=1)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((80, 1))
    y = cell(u) + 0.3 * rng.standard_normal((80, 3))
    y[5], y[9, 1], y[20:23, :2] = np.nan, np.nan, np.nan
    root = 0.2 * rng.standard_normal((3, 3))
    noises = {"process_noise": root @ root.T, "measurement_noise": [0.09, 0.04, 0.25], "covariance": 0.5 * np.eye(3)}
    return cell, y, u, noises


@pytest.mark.parametrize(("track", "close"), [(extended_kalman_filter, 1e-12), (unscented_kalman_filter, 1e-9)])
def test_on_a_linear_cell_they_are_the_kalman_filter(track, close):
    cell, y, u, noises = linear_case()
    kalman = KalmanFilter(cell, **noises).filter(y, u)
    found = track(cell, y, u, **noises)
    assert np.max(np.abs(found.means - kalman.means)) < close
    assert np.max(np.abs(found.covariances - kalman.covariances)) < close
    linear = cell.linearize()
    assert np.max(np.abs(found.outputs - kalman.means @ linear.C.T - u @ linear.D.T)) < close
    assert abs(found.log_likelihood - kalman.log_likelihood) < 1e-9 * abs(kalman.log_likelihood)
    assert np.max(np.abs(found.state.ravel() - kalman.state.mean)) < close
    assert np.max(np.abs(found.covariance - kalman.state.factor @ kalman.state.factor.T)) < close


@pytest.mark.parametrize("track", GAUSSIAN)
def test_delay_lines_and_pieces(track):
    # lines that turn: states in the order of ravel(), whatever the sample index
    allpass = GerzonAllpass([3, 5], gain=0.5)
    rng = np.random.default_rng(1)
    u = rng.standard_normal((60, 2))
    y = allpass(u) + 0.1 * rng.standard_normal((60, 2))
    noises = {"process_noise": 1e-3, "measurement_noise": 0.01, "covariance": 0.1}
    kalman = KalmanFilter(allpass, **noises).filter(y, u)
    whole = track(allpass, y, u, **noises)
    assert np.max(np.abs(whole.means - kalman.means)) < 1e-9
    first = track(allpass, y[:23], u[:23], **noises)
    second = track(allpass, y[23:], u[23:], **{**noises, "covariance": first.covariance}, state=first.state)
    assert np.max(np.abs(np.vstack([first.means, second.means]) - whole.means)) < 1e-9
    assert abs(first.log_likelihood + second.log_likelihood - whole.log_likelihood) < 1e-8


def test_particles_converge_to_the_kalman_filter_as_one_over_the_root_of_their_number():
    cell, y, u, noises = linear_case()
    kalman = KalmanFilter(cell, **noises).filter(y, u)
    errors = {}
    for n_particles in (100, 6400):
        runs = [particle_filter(cell, y, u, **noises, n_particles=n_particles, seed=seed) for seed in range(4)]
        errors[n_particles] = rms([run.means - kalman.means for run in runs])
        assert rms([run.covariances - kalman.covariances for run in runs]) < 1 / np.sqrt(n_particles)
    # 64 times as many: 8 times as near
    assert 5 < errors[100] / errors[6400] < 13
    spread = np.sqrt(np.mean(np.einsum("tii->ti", kalman.covariances)))
    assert errors[6400] < 5 * spread / np.sqrt(6400)
    assert abs(runs[0].log_likelihood - kalman.log_likelihood) < 1
    assert np.all((runs[0].effective_sizes >= 1) & (runs[0].effective_sizes <= 6400 * (1 + 1e-9)))


def test_seeds_reproduce():
    cell, y, u, noises = linear_case()
    runs = [particle_filter(cell, y, u, **noises, n_particles=50, seed=seed) for seed in (3, 3, 4)]
    assert np.array_equal(runs[0].means, runs[1].means) and runs[0].log_likelihood == runs[1].log_likelihood
    assert not np.array_equal(runs[0].means, runs[2].means)


def test_a_cell_that_bends_against_bayes_rule_on_a_grid():
    """One tanh unit, driven hard: the density of its state on a grid of points is the exact answer."""
    cell = Elman(1, 1).replace(W=[[0.5]], U=[[2.0]], b=[0.1])
    process, measurement, start = 0.05, 0.3, 0.5
    u = 0.5 * np.random.default_rng(2).standard_normal((40, 1))
    _, _, y = noisy(cell, u, process, measurement, start, seed=5)
    x = np.linspace(-4, 4, 1201)
    density, means, variances, total = np.exp(-0.5 * x**2 / start), [], [], 0.0
    density /= density.sum()
    for t in range(len(u)):
        moved = np.tanh(2 * x + 0.5 * u[t] + 0.1)
        density *= np.exp(-0.5 * (y[t] - moved) ** 2 / measurement) / np.sqrt(2 * np.pi * measurement)
        total += np.log(density.sum())
        density /= density.sum()
        means.append(density @ x)
        variances.append(density @ x**2 - means[-1] ** 2)
        kernel = np.exp(-0.5 * (x[:, None] - moved) ** 2 / process)
        density = (kernel / kernel.sum(axis=0)) @ density
    noises = {"process_noise": process, "measurement_noise": measurement, "covariance": start}
    found = particle_filter(cell, y, u, **noises, n_particles=20000, seed=1)
    assert rms(found.means[:, 0] - means) < 0.02 * np.sqrt(np.mean(variances))
    assert rms(found.covariances[:, 0, 0] - variances) < 0.02 * np.mean(variances)
    assert abs(found.log_likelihood - total) < 0.05
    # Gaussians are an approximation here, and the unscented one the better one
    extended, unscented = (rms(track(cell, y, u, **noises).means[:, 0] - means) for track in GAUSSIAN)
    assert unscented < extended < np.sqrt(np.mean(variances))


# what is left of the error of a run from rest on the same input, without the measurements; 0.14 and 0.22 were found
RATIO = {"elman": 0.2, "lstm": 0.3}


def cases():
    rng = np.random.default_rng(0)
    elman = Elman(1, 8, seed=3).replace(U=1.2 * np.linalg.qr(rng.standard_normal((8, 8)))[0])
    lstm = LSTM(1, 6, seed=1)
    gates = lstm.params["b"].copy()
    gates[6:12] += 3  # forget slowly
    return {"elman": elman, "lstm": lstm.replace(b=gates)}


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_cells_are_tracked_through_noise_better_than_open_loop(name):
    cell = cases()[name]
    process, measurement, start = 0.02**2, 0.2**2, 0.3**2
    u = np.random.default_rng(1).standard_normal((300, 1))
    states, outputs, y = noisy(cell, u, process, measurement, start)
    open_loop = [cell.rest_state().ravel()]
    state = None
    for frame in u[:-1]:
        _, state = cell.run(frame[None], state)
        open_loop.append(state.ravel())
    noises = {"process_noise": process, "measurement_noise": measurement, "covariance": start}
    for track in ALL:
        found = track(cell, y, u, **noises)
        assert rms(found.means - states) < RATIO[name] * rms(np.array(open_loop) - states)
        assert rms(found.outputs - outputs) < RATIO[name] * rms(cell(u) - outputs)
        assert rms(found.outputs - outputs) < 0.5 * rms(y - outputs)
        # errors are as large as it says
        e = found.means - states
        squares = np.einsum("ti,ti->t", e, np.linalg.solve(found.covariances, e[..., None])[..., 0])
        assert 0.5 < np.mean(squares) / cell.n_states < 2


@pytest.mark.parametrize("track", ALL)
def test_knobs_are_turned(track):
    filt = StateVariable("lowpass", cutoff_hz=500, q=1, sample_rate=8000)
    cutoff = np.linspace(500, 2000, 50)
    u = np.random.default_rng(0).standard_normal((50, 1))
    y = filt(u, controls={"cutoff_hz": cutoff})
    found = track(filt, y, u, process_noise=1e-8, measurement_noise=1e-4, controls={"cutoff_hz": cutoff})
    assert rms(found.outputs - y) < 1e-3
    deaf = track(filt, y, u, process_noise=1e-8, measurement_noise=1e-4)
    assert rms(deaf.outputs - y) > 0.02


@pytest.mark.parametrize("track", ALL)
def test_bad_arguments_are_named(track):
    cell = Elman(1, 2)
    good = {"process_noise": 0.1, "measurement_noise": 0.1}
    y, u = np.zeros((5, 2)), np.zeros((5, 1))
    infinite = np.full((5, 2), np.inf)
    dear = {"n_particles": 10_000} if track is particle_filter else {}
    cases = [
        ("not a filter", lambda: track(np.eye(2), y, u, **good)),
        ("works in frames", lambda: track(Framed.spectral_gain(np.ones(5), n_fft=8, hop_length=4), y[:, :1], **good)),
        ("no state", lambda: track(gain(1.0), y[:, :1], **good)),
        ("y has shape", lambda: track(cell, y[:, :1], u, **good)),
        ("y holds infinity", lambda: track(cell, infinite, u, **good)),
        ("u has shape", lambda: track(cell, y, u[1:], **good)),
        ("u holds NaN", lambda: track(cell, y, u * np.nan, **good)),
        ("process_noise has shape", lambda: track(cell, y, u, **{**good, "process_noise": np.eye(3)})),
        ("process_noise is not symm", lambda: track(cell, y, u, **{**good, "process_noise": [[1, 0], [1, 1.0]]})),
        (
            "measurement_noise is not pos",
            lambda: track(cell, y, u, **{**good, "measurement_noise": [[1, 2], [2, 1.0]]}),
        ),
        ("measurement_noise holds NaN", lambda: track(cell, y, u, **{**good, "measurement_noise": np.nan})),
        ("covariance has the variance", lambda: track(cell, y, u, **good, covariance=-1)),
        ("state does not fit", lambda: track(cell, y, u, **good, state=Elman(1, 3).rest_state())),
        ("unknown controls", lambda: track(cell, y, u, **good, controls={"drive": 1})),
        ("controls='drive'", lambda: track(cell, y, u, **good, controls="drive")),
        ("too many", lambda: track(LSTM(1, 500), np.zeros((200, 500)), **good)),
        ("would take about", lambda: track(delay(3000), np.zeros(10), **good, **dear)),
        ("measurement_noise='loud'", lambda: track(cell, y, u, **{**good, "measurement_noise": "loud"})),
    ]
    for said, call in cases:
        with pytest.raises(ParameterError, match=said):
            call()
    # an exactly known state, measured without noise
    with pytest.raises(ParameterError, match="measurement_noise"):
        track(cell, y, u, process_noise=0, measurement_noise=0)


def test_bad_arguments_of_one():
    cell, y = Elman(1, 2), np.zeros((5, 2))
    good = {"process_noise": 0.1, "measurement_noise": 0.1}
    for said, call in [
        ("kappa", lambda: unscented_kalman_filter(cell, y, **good, kappa=-1)),
        ("kappa", lambda: unscented_kalman_filter(cell, y, **good, kappa="wide")),
        ("n_particles", lambda: particle_filter(cell, y, **good, n_particles=0)),
        ("n_particles", lambda: particle_filter(cell, y, **good, n_particles=10**9)),
        ("resample_below", lambda: particle_filter(cell, y, **good, resample_below=2)),
        ("seed", lambda: particle_filter(cell, y, **good, seed=-1)),
    ]:
        with pytest.raises(ParameterError, match=said):
            call()


@pytest.mark.parametrize("track", ALL)
def test_what_blows_up_is_said_and_no_data_are_no_trouble(track):
    filt = StateSpace([[1e30]], [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(NonFiniteError, match="blew up"):
        track(filt, np.full(40, np.nan), process_noise=1, measurement_noise=1)
    cell = Elman(1, 2)
    with pytest.raises(NonFiniteError, match="at frame 0"):  # with a log density of minus infinity
        track(cell, np.full((3, 2), 1e160), process_noise=1, measurement_noise=1)
    for frames in (0, 4):
        found = track(cell, np.full((frames, 2), np.nan), process_noise=0.01, measurement_noise=1)
        assert found.log_likelihood == 0 and len(found.means) == frames and np.isfinite(found.covariance).all()

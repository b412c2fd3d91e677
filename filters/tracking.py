"""Tracking the state of any filter through noise: extended and unscented Kalman filters, and the particle filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, number, require_filter, whole_number
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.kalman import MAX_TABLE, correct, covariance_factor, joined_frames, triangularize
from rnndsp.state import State

__all__ = ["ParticlesTracked", "Tracked", "extended_kalman_filter", "particle_filter", "unscented_kalman_filter"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

# Products, of some 10 nanoseconds each: more than two minutes are refused.
MAX_WORK = 1.2e10


@dataclass(frozen=True)
class Tracked:
    """What is known of a filter's state as the measurements come in; states are in the order of ``state.ravel()``.

    Attributes
    ----------
    means, covariances : ndarray, shapes (n_frames, n_states), (n_frames, n_states, n_states)
        Of the state in which frame t is met, given the measurements up to frame t.
    outputs : ndarray, shape (n_frames, n_outputs)
        The filter's output at frame t without the noise, expected from the same.
    log_likelihood : float
        Of all measurements, as far as the method's approximation goes.
    state : State
        Mean of the state after the last frame, before its measurement: what to go on from.
    covariance : ndarray, shape (n_states, n_states)
        Of that.
    """

    means: Real
    covariances: Real
    outputs: Real
    log_likelihood: float
    state: State
    covariance: Real


@dataclass(frozen=True)
class ParticlesTracked(Tracked):
    """What :func:`particle_filter` finds.

    Attributes
    ----------
    means, covariances, outputs, log_likelihood, state, covariance
        As in :class:`Tracked`, sums over the particles; ``log_likelihood`` is the logarithm of an unbiased estimate.
    effective_sizes : ndarray, shape (n_frames,)
        1 / sum of the squared weights, as how many particles of equal weight they count.
    """

    effective_sizes: Real


class _Task(NamedTuple):
    """Checked arguments: frames hold inputs and controls."""

    filt: Filter
    measured: Real
    frames: Real
    Q: Real
    R: Real
    start: State
    G: Real

    @property
    def empty(self) -> tuple[Real, Real, Real]:
        n = self.start.size
        return np.empty((len(self.frames), n)), np.empty((len(self.frames), n, n)), np.empty(self.measured.shape)


def _task(
    filt: Filter,
    y: ArrayLike,
    u: ArrayLike | None,
    process_noise: ArrayLike,
    measurement_noise: ArrayLike,
    state: State | None,
    covariance: ArrayLike,
    controls: Controls | None,
    n_particles: int = 0,
) -> _Task:
    require_filter(filt)
    if filt.period > 1:
        raise ParameterError(
            f"{type(filt).__name__} works in frames of {filt.period} samples: track the filter inside of it"
        )
    n, p = filt.n_states, filt.n_outputs
    if not n:
        raise ParameterError("the filter has no state to be tracked")
    signal = joined_frames(y, u, p, filt.n_inputs)
    if max(1, len(signal)) * n * n > MAX_TABLE:
        raise ParameterError(
            f"covariances of {n} states at {len(signal)} frames are too many to keep; go piece by piece from "
            "tracked.state and tracked.covariance, or track a smaller filter"
        )
    work = min(len(signal) * (n_particles * n**2 or (n + p) ** 3), 10**300)
    if work > MAX_WORK:
        a_frame = "n_particles n_states²" if n_particles else "(n_states + n_outputs)³"
        raise ParameterError(
            f"{n} states and {p} outputs at {len(signal)} frames would take about {1e-8 * work:.2g} s, as {a_frame} "
            "products a frame; track a smaller filter, or go piece by piece from tracked.state and tracked.covariance"
        )
    return _Task(
        filt,
        signal[:, :p],
        filt._extend(signal[None, :, p:], controls)[0],
        covariance_factor("process_noise", process_noise, n),
        covariance_factor("measurement_noise", measurement_noise, p),
        filt._start(state, (), np.dtype(np.float64)),
        covariance_factor("covariance", covariance, n),
    )


def _move(filt: Filter, frame: Real, x: Real, place: State) -> tuple[Real, Real, State]:
    """New states and outputs of many voices, one a row of x, at one frame; and a place (sample index) for the next."""
    voices, y = place.unravel(x), np.empty((len(x), 1, filt.n_outputs))
    filt._process(np.tile(frame, (len(x), 1, 1)), voices, y)
    return voices.ravel(), y[:, 0], voices


def _finite(t: int, *arrays: Real) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise NonFiniteError(f"the filter blew up at frame {t}: see filt.stability()")


def _corrected(
    task: _Task, t: int, expected: Real, x: Real, by_output: Real, by_state: Real
) -> tuple[Real, Real, float]:
    """State and factor after a measurement; ``by_output`` and ``by_state`` are deviations with their covariances."""
    seen = ~np.isnan(task.measured[t])
    (n, m), n_seen, p = by_state.shape, int(seen.sum()), len(seen)
    M = np.zeros((n_seen + n, p + max(m, n)))
    M[:n_seen, :p], M[:n_seen, p : p + m], M[n_seen:, p : p + m] = task.R[seen], by_output[seen], by_state
    _finite(t, M, expected)
    x, G = x.copy(), np.empty((n, n))
    log_density = float(correct(M, task.measured[t, seen] - expected[seen], n_seen, x, G))
    if log_density == np.inf:
        raise ParameterError(
            f"the measurement at frame {t} has no variance, given those before it; give measurement_noise > 0"
        )
    if log_density == -np.inf:
        raise NonFiniteError(
            f"the measurement at frame {t} lies so far from what was expected that its log density is beyond all "
            "floats: scale the measurements, or give a larger noise"
        )
    return x, G, log_density


def _joined(deviations: Real, Q: Real) -> Real:
    """Triangular factor of the sum of two covariances."""
    M = np.hstack([deviations, Q])
    triangularize(M, 0)
    return M[:, : len(M)]


@np.errstate(all="ignore")
def extended_kalman_filter(
    filt: Filter,
    y: ArrayLike,
    u: ArrayLike | None = None,
    *,
    process_noise: ArrayLike,
    measurement_noise: ArrayLike,
    state: State | None = None,
    covariance: ArrayLike = 0.0,
    controls: Controls | None = None,
) -> Tracked:
    r"""Track the state of any filter by a Kalman filter on what it linearises to about its own estimate.

    .. math:: x[t+1] = f(x[t], u[t]) + w[t], \quad y[t] = g(x[t], u[t]) + v[t], \qquad w \sim N(0, Q),\ v \sim N(0, R)

    with f and g the new state and the output of the filter at a frame that is met in state x.

    Parameters
    ----------
    filt : Filter
        With at least one state. A filter that works in frames is refused.
    y : array, shape (n_frames, n_outputs), or (n_frames,)
        Its output as measured, one voice; NaN where a channel is missing.
    u : array, shape (n_frames, n_inputs), optional
        Its input; silence when absent.
    process_noise, measurement_noise : float, array (n,) of variances, or matrix (n, n)
        Q (n = n_states) and R (n = n_outputs), symmetric positive semidefinite.
    state : State, optional
        Mean of the state at the start; rest when absent.
    covariance : float, array (n_states,) or (n_states, n_states)
        Of the state at the start; 0 says that it is known.
    controls : mapping of str to float or array of n_frames, optional

    Returns
    -------
    Tracked

    Raises
    ------
    ParameterError
        Wrong shapes, covariances that are none, a filter in frames or without state, too many numbers, or states and
        frames that would take more than two minutes; a measurement without any variance.
    NonFiniteError
        The filter blows up at the estimated states, or a measurement lies so far from what was expected that its log
        density is beyond all floats.

    Notes
    -----
    Two linearisations and two steps of the filter a frame, and (n_states + n_outputs)^3 operations; the covariance is
    kept as a triangular factor. On a linear filter it is the Kalman filter. Elsewhere the covariance is that of small
    errors: where the filter bends much within it, the estimate may be biased or diverge, and nothing warns of that.
    The noise w comes after f: a cell whose output is its new state is measured before the noise is added to it.

    References
    ----------
    A. Jazwinski (1970), "Stochastic Processes and Filtering Theory".
    """
    task = _task(filt, y, u, process_noise, measurement_noise, state, covariance, controls)
    means, covariances, outputs = task.empty
    place, G, total = task.start, task.G, 0.0
    x = place.ravel()
    for t, frame in enumerate(task.frames):
        if not np.isnan(task.measured[t]).all():
            C = filt._linearize(place.unravel(x), frame).expand()._matrices[2]
            _, expected, _ = _move(filt, frame, x[None], place)
            x, G, log_density = _corrected(task, t, expected[0], x, C @ G, G)
            total += log_density
        means[t], covariances[t] = x, G @ G.T
        A = filt._linearize(place.unravel(x), frame).expand()._matrices[0]
        moved, output, voices = _move(filt, frame, x[None], place)
        x, outputs[t], place = moved[0], output[0], voices.unravel(moved[0])
        G = _joined(A @ G, task.Q)
        _finite(t, covariances[t], x, output, G)
    return Tracked(means, covariances, outputs, total, place.unravel(x), G @ G.T)


@np.errstate(all="ignore")
def unscented_kalman_filter(
    filt: Filter,
    y: ArrayLike,
    u: ArrayLike | None = None,
    *,
    process_noise: ArrayLike,
    measurement_noise: ArrayLike,
    state: State | None = None,
    covariance: ArrayLike = 0.0,
    kappa: float | None = None,
    controls: Controls | None = None,
) -> Tracked:
    r"""Track the state of any filter by running it from 2 n + 1 states that have the mean and covariance of what is
    known.

    .. math:: x_0 = \hat x, \quad x_{\pm i} = \hat x \pm \sqrt{n + \kappa}\,(P^{1/2})_i, \qquad
              w_0 = \frac{\kappa}{n + \kappa}, \quad w_{\pm i} = \frac{1}{2 (n + \kappa)}

    Parameters
    ----------
    filt, y, u, process_noise, measurement_noise, state, covariance, controls
        As in :func:`extended_kalman_filter`.
    kappa : float, optional
        Not negative, so that covariances stay positive. When absent max(3 - n, 0), which for up to three states gets
        the fourth moments of a Gaussian right along each axis; 0 is the cubature filter.

    Returns
    -------
    Tracked

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`extended_kalman_filter`; or ``kappa`` is negative.

    Notes
    -----
    No Jacobian is needed, and means are right to second order. The states run as voices of one filter, twice a frame:
    to weigh the measurement, and to move on. Covariances are triangular factors throughout.

    References
    ----------
    S. Julier, J. Uhlmann (1997), "New extension of the Kalman filter to nonlinear systems". R. van der Merwe, E. Wan
    (2001), "The square-root unscented Kalman filter for state and parameter-estimation". I. Arasaratnam, S. Haykin
    (2009), "Cubature Kalman filters".
    """
    task = _task(filt, y, u, process_noise, measurement_noise, state, covariance, controls)
    n = task.start.size
    kappa = float(max(3 - n, 0)) if kappa is None else number("kappa", kappa)
    if kappa < 0:
        raise ParameterError(f"{kappa=} must not be negative: a negative weight can make a covariance negative")
    weights = np.full(2 * n + 1, 0.5 / (n + kappa))
    weights[0] = kappa / (n + kappa)
    root = np.sqrt(weights)[:, None]

    def spread(x: Real, G: Real) -> Real:
        arms = np.sqrt(n + kappa) * G.T
        return np.vstack([x, x + arms, x - arms])

    means, covariances, outputs = task.empty
    place, G, total = task.start, task.G, 0.0
    x = place.ravel()
    for t, frame in enumerate(task.frames):
        if not np.isnan(task.measured[t]).all():
            points = spread(x, G)
            _, heard, _ = _move(filt, frame, points, place)
            expected = weights @ heard
            x, G, log_density = _corrected(task, t, expected, x, (root * (heard - expected)).T, (root * (points - x)).T)
            total += log_density
        means[t], covariances[t] = x, G @ G.T
        moved, heard, voices = _move(filt, frame, spread(x, G), place)
        x, outputs[t] = weights @ moved, weights @ heard
        place = voices.unravel(x)
        G = _joined((root * (moved - x)).T, task.Q)
        _finite(t, covariances[t], x, outputs[t], G)
    return Tracked(means, covariances, outputs, total, place.unravel(x), G @ G.T)


@np.errstate(all="ignore")
def particle_filter(
    filt: Filter,
    y: ArrayLike,
    u: ArrayLike | None = None,
    *,
    process_noise: ArrayLike,
    measurement_noise: ArrayLike,
    state: State | None = None,
    covariance: ArrayLike = 0.0,
    n_particles: int = 1000,
    resample_below: float = 0.5,
    seed: int | np.random.Generator = 0,
    controls: Controls | None = None,
) -> ParticlesTracked:
    """Track the state of any filter by many copies of it that live through random noise, weighed by the measurements.

    Parameters
    ----------
    filt, y, u, process_noise, state, covariance, controls
        As in :func:`extended_kalman_filter`.
    measurement_noise : float, array (n_outputs,) or (n_outputs, n_outputs)
        R, positive definite.
    n_particles : int
    resample_below : float
        Particles are drawn anew where their effective number falls below this part of them; within [0, 1].
    seed : int or Generator
        The same seed gives the same result.

    Returns
    -------
    ParticlesTracked

    Raises
    ------
    ParameterError, NonFiniteError
        As in :func:`extended_kalman_filter`; or R is singular.

    Notes
    -----
    The bootstrap filter with systematic resampling; all particles run as voices of one filter, once a frame. Right for
    any filter as the number of particles goes to infinity, with errors as 1 / sqrt(n_particles) for a given number of
    states; the number that is needed grows exponentially with that of states and with the measurement's precision: look
    at ``effective_sizes``. Particles that blow up get weight zero.

    References
    ----------
    N. Gordon, D. Salmond, A. Smith (1993), "Novel approach to nonlinear/non-Gaussian Bayesian state estimation". G.
    Kitagawa (1996), "Monte Carlo filter and smoother for non-Gaussian nonlinear state space models".
    """
    whole_number("n_particles", n_particles)
    resample_below = number("resample_below", resample_below)
    if not 0 <= resample_below <= 1:
        raise ParameterError(f"{resample_below=} must lie within [0, 1]")
    rng = generator(seed)
    task = _task(filt, y, u, process_noise, measurement_noise, state, covariance, controls, n_particles)
    n = task.start.size
    if n_particles * n > MAX_TABLE:
        raise ParameterError(f"{n_particles=} of {n} states are too many")
    if np.linalg.matrix_rank(task.R) < len(task.R):
        raise ParameterError("measurement_noise is singular: particles are weighed by its density; make it positive")
    means, covariances, outputs = task.empty
    sizes = np.empty(len(task.frames))
    place, log_weights, total = task.start, np.full(n_particles, -np.log(n_particles)), 0.0
    weights = np.exp(log_weights)
    x = place.ravel() + rng.standard_normal((n_particles, n)) @ task.G.T
    for t, frame in enumerate(task.frames):
        moved, heard, place = _move(filt, frame, x, place)
        alive = np.asarray(np.isfinite(np.hstack([moved, heard])).all(axis=1, keepdims=True))
        moved, heard = np.where(alive, moved, 0), np.where(alive, heard, 0)
        log_weights = log_weights + np.where(alive[:, 0], _log_density(task, t, heard), -np.inf)
        largest = np.max(log_weights)
        if not np.isfinite(largest):
            raise NonFiniteError(
                f"no particle is left at frame {t}: all blew up, or are out of reach of the measurement"
            )
        weights = np.exp(log_weights - largest)
        scale = weights.sum()
        weights /= scale
        total += float(largest + np.log(scale))
        log_weights = log_weights - largest - np.log(scale)
        means[t], covariances[t] = _moments(x, weights)
        outputs[t] = weights @ heard
        _finite(t, means[t], covariances[t])
        sizes[t] = 1 / np.sum(weights**2)
        if sizes[t] < resample_below * n_particles:
            moved = moved[_systematic(weights, rng)]
            weights = np.full(n_particles, 1 / n_particles)
            log_weights = np.log(weights)
        x = moved + rng.standard_normal(moved.shape) @ task.Q.T
    mean, spread = _moments(x, weights)
    return ParticlesTracked(means, covariances, outputs, total, place.unravel(mean), spread, sizes)


def _log_density(task: _Task, t: int, heard: Real) -> Real:
    seen = ~np.isnan(task.measured[t])
    R = task.R[seen] @ task.R[seen].T
    e = task.measured[t, seen] - heard[:, seen]
    squares = np.sum(e * np.linalg.solve(R, e.T).T, axis=1)
    return np.asarray(-0.5 * (squares + np.linalg.slogdet(2 * np.pi * R)[1]))


def _moments(x: Real, weights: Real) -> tuple[Real, Real]:
    mean = weights @ x
    off = x - mean
    return mean, (off * weights[:, None]).T @ off


def _systematic(weights: Real, rng: np.random.Generator) -> NDArray[np.intp]:
    """Each particle as many times as its weight says, rounded up or down."""
    edges = np.cumsum(weights)
    ticks = (rng.random() + np.arange(len(weights))) / len(weights) * edges[-1]
    return np.asarray(np.minimum(np.searchsorted(edges, ticks, side="right"), len(weights) - 1))

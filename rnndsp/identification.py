"""Linear models from data: least squares, subspaces, impulse responses, spectral filters; and what an input excites."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, real_array, whole_number
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import MAX_STATES
from rnndsp.statespace import DENSE_LIMIT, StateSpace

__all__ = [
    "ArxFit",
    "Excitation",
    "SpectralBasis",
    "SpectralFit",
    "SubspaceFit",
    "arx",
    "era",
    "n4sid",
    "persistency_of_excitation",
    "spectral_filters",
    "spectral_fit",
]

Real = NDArray[np.float64]

# Singular values below this part of the largest one are rounding of the data, or would lose half of all digits.
RANK = 1e-9
# Squares of larger numbers, and sums of them, might overflow; those of numbers below one over it vanish.
LOUDEST = 1e100
# Variance of innovations, over that of the output, below which they are rounding.
NO_NOISE = 1e-18
# A simulated model may grow to so many times its data, at the cost of as many digits.
OUTGROWN = 1e8
# Frames that are brought into a triangle at a time.
CHUNK = 16384


@dataclass(frozen=True)
class Excitation:
    """What a signal excites.

    Attributes
    ----------
    order : int
        The largest order of which it is persistently exciting, at most the one that was asked for.
    required : int
        The order that was asked for.
    singular_values : ndarray
        Of the block Hankel matrix with ``required`` block rows, over the root of its number of columns: for white noise
        the standard deviation of each channel.
    tolerance : float
        Part of the largest singular value below which one counts as zero.
    """

    order: int
    required: int
    singular_values: Real
    tolerance: float

    @property
    def sufficient(self) -> bool:
        """Whether the order that was asked for is reached."""
        return self.order == self.required


@dataclass(frozen=True)
class ArxFit:
    """An autoregressive model with input; ``a`` has the sign that it has in a transfer function's denominator.

    Attributes
    ----------
    system : StateSpace
        From the input to the output, as many states as the longer of both parts needs.
    a : ndarray, shape (n_poles, n_outputs, n_outputs)
        a[k - 1] multiplies y[t - k].
    b : ndarray, shape (n_zeros + 1, n_outputs, n_inputs)
        b[k] multiplies u[t - delay - k].
    residuals : ndarray, shape (n_frames, n_outputs)
        What a prediction by one sample misses; zero in the first frames, which have no past.
    singular_values : ndarray
        Of the regressors, each scaled to norm one: small ones are combinations that the data do not tell.
    """

    system: StateSpace
    a: Real
    b: Real
    residuals: Real
    singular_values: Real


@dataclass(frozen=True)
class SubspaceFit:
    """A state-space model, and the singular values that show its order.

    Attributes
    ----------
    system : StateSpace
    singular_values : ndarray
        All of them; those beyond the order were left out.
    initial_state : ndarray, shape (n_states,)
        Of the data; zero where it is from an impulse response.
    residuals : ndarray, shape (n_frames, n_outputs) or that of the impulse response
        Data minus what the model gives in its place, from the initial state on, by simulation.
    gain : ndarray, shape (n_states, n_outputs), or None
        K, of the innovations e that drive the state: x[t+1] = A x[t] + B u[t] + K e[t], y[t] = C x[t] + D u[t] + e[t],
        with all poles of A - K C inside the circle. None where it is from an impulse response, or where the data have
        no such K.
    innovation_covariance : ndarray, shape (n_outputs, n_outputs), or None
        Of e.
    """

    system: StateSpace
    singular_values: Real
    initial_state: Real
    residuals: Real = field(repr=False)
    gain: Real | None = None
    innovation_covariance: Real | None = None

    def predictor(self) -> StateSpace:
        r"""The innovations form as a filter: frames [y, u] in, y[t] as expected from all before and u[t] out.

        .. math:: x[t+1] = (A - K C)\,x[t] + K\,y[t] + (B - K D)\,u[t], \qquad \hat y[t] = C\,x[t] + D\,u[t]

        This is what a Kalman filter of this model comes to. It is stable, whatever ``system`` is; its state starts from
        ``initial_state``.

        Raises
        ------
        ParameterError
            ``gain`` is None.
        """
        if self.gain is None:
            raise ParameterError("there is no gain: it takes n4sid, and outputs with noise that the model explains")
        A, B, C, D = (self.system.params[name] for name in "ABCD")
        from_y, through = np.hstack([self.gain, B - self.gain @ D]), np.hstack([np.zeros((len(C), len(C))), D])
        return StateSpace(A - self.gain @ C, from_y, C, through, sample_rate=self.system.sample_rate)


@dataclass(frozen=True)
class SpectralBasis:
    """The filters of spectral filtering.

    Attributes
    ----------
    eigenvalues : ndarray, shape (n_filters,)
        Falling.
    filters : ndarray, shape (n_filters, n_taps)
        Orthonormal rows.
    """

    eigenvalues: Real
    filters: Real


@dataclass(frozen=True)
class SpectralFit:
    """A predictor made of spectral filters.

    Attributes
    ----------
    basis : SpectralBasis
    direct : ndarray, shape (2, n_outputs, n_inputs)
        Weights of u[t] and u[t - 1].
    weights : ndarray, shape (n_filters, n_outputs, n_inputs)
        Of the filtered inputs.
    residuals : ndarray, shape (n_frames, n_outputs)
        What a prediction by one sample misses.
    impulse_response : ndarray, shape (n_taps + 2, n_outputs, n_inputs)
        Of the filter that the weights stand for; :func:`era` makes a small state space of it.
    """

    basis: SpectralBasis
    direct: Real
    weights: Real
    residuals: Real
    impulse_response: Real


def persistency_of_excitation(u: ArrayLike, order: int, *, tolerance: float = RANK) -> Excitation:
    r"""How many past samples of an input can be told apart.

    .. math:: U_L = \begin{pmatrix} u[0] & u[1] & \cdots \\ \vdots & \vdots & \\ u[L-1] & u[L] & \cdots \end{pmatrix}

    u is persistently exciting of order L if U_L has full row rank: an FIR filter of length L, or a model with L
    coefficients on the input, can then be found from its answer. A sum of k sines excites order 2k.

    Parameters
    ----------
    u : array, shape (n_frames,) or (n_frames, n_channels)
    order : int
        L to look for.
    tolerance : float
        Singular values below this part of the largest are taken for zero.

    Returns
    -------
    Excitation

    Raises
    ------
    ParameterError
        NaN, a wrong shape, or fewer than ``order (n_channels + 1) - 1`` frames, for which no signal would do.

    Notes
    -----
    Sufficient in exact arithmetic; with noise the smallest singular values bound from below how much of it is averaged
    away.

    References
    ----------
    K. J. Astrom, T. Bohlin (1965), "Numerical identification of linear dynamic systems from normal operating records".
    J. C. Willems et al. (2005), "A note on persistency of excitation".

    Examples
    --------
    >>> persistency_of_excitation(np.sin(np.arange(100.0)), 5).order
    2
    """
    signal, order = real_signal("u", u), whole_number("order", order)
    tolerance = number("tolerance", tolerance)
    if not 0 < tolerance < 1:
        raise ParameterError(f"{tolerance=} must lie within (0, 1)")
    n = signal.shape[1]
    _long_enough(len(signal), order * (n + 1) - 1, f"order={order}")
    _not_too_large(order * n, "order")
    rows = triangle(lagged([(signal, range(order)[::-1])], order - 1))
    return _excitation(rows / np.sqrt(len(signal) - order + 1), order, n, tolerance)


def _excitation(triangle: Real, required: int, n_channels: int, tolerance: float) -> Excitation:
    """From the triangular factor of a Hankel matrix, the block rows in order: its leading parts are those of less."""
    part = triangle[: required * n_channels, : required * n_channels]
    values: Real = np.linalg.svd(part, compute_uv=False).astype(np.float64)
    order = required
    if not values[-1] > tolerance * values[0]:  # the smallest singular value falls with every row: halve
        low, high = 0, required
        while high - low > 1:
            k = (low + high) // 2
            some = np.linalg.svd(part[: k * n_channels, : k * n_channels], compute_uv=False)
            low, high = (k, high) if some[-1] > tolerance * values[0] else (low, k)
        order = low
    return Excitation(order, required, values, tolerance)


def _require_excitation(found: Excitation, remedy: str) -> None:
    if not found.sufficient:
        raise ParameterError(
            f"the input is persistently exciting of order {found.order} only, and {found.required} is needed: {remedy}"
        )


def arx(
    u: ArrayLike,
    y: ArrayLike,
    *,
    n_poles: int,
    n_zeros: int,
    delay: int = 0,
    ridge: float = 0.0,
    sample_rate: float | None = None,
) -> ArxFit:
    r"""Autoregressive model with input, by least squares: a transfer function.

    .. math:: y[t] + \sum_{k=1}^{n_a} a_k\, y[t-k] = \sum_{k=0}^{n_b} b_k\, u[t-d-k] + e[t]

    Parameters
    ----------
    u : array, shape (n_frames,) or (n_frames, n_inputs)
    y : array, shape (n_frames,) or (n_frames, n_outputs)
    n_poles, n_zeros : int
        n_a and n_b, at least 0; n_poles = 0 makes an FIR filter.
    delay : int
        d in samples, at least 0.
    ridge : float
        Adds ``ridge`` times the squared weights, of regressors scaled to norm one, to the squared errors: for data that
        do not tell all of them.
    sample_rate : float, optional
        Hz, of the system that is returned.

    Returns
    -------
    ArxFit

    Raises
    ------
    ParameterError
        NaN, wrong shapes, too few frames; or regressors that depend on each other while ridge is 0, because the input
        does not excite enough or the model is larger than what made the data.

    Notes
    -----
    Without bias only if e is white: noise that is merely added to the output draws the poles towards zero, which
    :func:`n4sid` does not do. :func:`rnndsp.filters.fit_var` fits the same equation as a process, with
    :math:`A_k = -a_k`: by exact likelihood too, with a constant, missing values and standard errors.

    References
    ----------
    L. Ljung (1999), "System identification: theory for the user".
    """
    u, y = _pair(u, y)
    n_poles, n_zeros = whole_number("n_poles", n_poles, least=0), whole_number("n_zeros", n_zeros, least=0)
    delay, ridge = whole_number("delay", delay, least=0), number("ridge", ridge)
    if ridge < 0:
        raise ParameterError(f"{ridge=} must not be negative")
    (n, k), p = u.shape, y.shape[1]
    reach = max(n_poles, n_zeros + delay)
    size = n_poles * p + (n_zeros + 1) * k
    _long_enough(n, reach + size, f"{n_poles=}, {n_zeros=}, {delay=}")
    _not_too_large(size, "n_poles and n_zeros")
    parts = [(y, range(1, n_poles + 1)), (u, range(delay, delay + n_zeros + 1)), (y, (0,))]
    weights, values, _ = regression(triangle(lagged(parts, reach)), size, ridge)
    if ridge == 0 and values[-1] <= RANK * values[0]:
        excited = persistency_of_excitation(u, min(n_zeros + 1, (n + 1) // (k + 1)))
        _require_excitation(excited, "take a richer input, a smaller n_zeros, or ridge > 0")
        raise ParameterError(
            f"{n_poles=}, {n_zeros=}: these data are explained by fewer poles or zeros; lower them, or take ridge > 0"
        )
    residuals = np.zeros_like(y)
    residuals[reach:] = missed(lagged(parts, reach), weights)
    a = -weights[: n_poles * p].reshape(n_poles, p, p).swapaxes(1, 2)
    b = weights[n_poles * p :].reshape(n_zeros + 1, k, p).swapaxes(1, 2)
    return ArxFit(observer_form(a, np.pad(b, ((delay, 0), (0, 0), (0, 0))), sample_rate), a, b, residuals, values)


def observer_form(a: Real, b: Real, sample_rate: float | None) -> StateSpace:
    """State space of ``y[t] + sum a[k-1] y[t-k] = sum b[k] u[t-k]``, one block of states a lag."""
    p, order = b.shape[1], max(len(a), len(b) - 1)
    a, b = np.pad(a, ((0, order - len(a)), (0, 0), (0, 0))), np.pad(b, ((0, order + 1 - len(b)), (0, 0), (0, 0)))
    A = np.eye(order * p, k=p)
    if order:
        A[:, :p] -= a.reshape(order * p, p)
    B = (b[1:] - a @ b[0]).reshape(order * p, b.shape[2])
    return StateSpace(A, B, np.eye(p, order * p), b[0], sample_rate=sample_rate)


def n4sid(
    u: ArrayLike,
    y: ArrayLike,
    *,
    order: int | None = None,
    horizon: int = 10,
    feedthrough: bool = True,
    sample_rate: float | None = None,
) -> SubspaceFit:
    r"""State-space model from input and output, by a subspace.

    .. math:: x[t+1] = A x[t] + B u[t] + w[t], \qquad y[t] = C x[t] + D u[t] + v[t]

    What past inputs and outputs tell of future outputs, future inputs apart, has the rank of the state.

    Parameters
    ----------
    u : array, shape (n_frames,) or (n_frames, n_inputs)
    y : array, shape (n_frames,) or (n_frames, n_outputs)
    order : int, optional
        Number of states. When absent, where the singular values fall most steeply: look at
        :func:`rnndsp.plots.order_plot` then.
    horizon : int
        Samples of past and of future that are looked at; horizon n_outputs must be above the order. About twice the
        order is enough without noise, more is better with it.
    feedthrough : bool
        Whether there is a D; without, it is zero.
    sample_rate : float, optional
        Hz, of the system that is returned.

    Returns
    -------
    SubspaceFit

    Raises
    ------
    ParameterError
        NaN, wrong shapes, too few frames, an order that is too large, an input that does not excite 2 horizon samples,
        or a model whose simulation blows up.

    Notes
    -----
    Future outputs are projected on the past orthogonally to future inputs (the weighting of MOESP, the more robust one
    where inputs are coloured); A and C come from the shift of the observability matrix, then B, D and the initial state
    from least squares on the simulated output. Without noise exact up to rounding; with white noise w and v
    consistent in open loop, but A may come out unstable from short data, and data from a closed loop are biased.
    Cost 4 n_frames (horizon (n_inputs + n_outputs))² operations, memory for the states of all frames.

    The gain: what the states of two horizons, one frame apart, and the output leave over beside A, C and the inputs has
    the covariance of w and v; it is positive, so that the Riccati equation of the Kalman filter gives K. Exact for a
    long horizon and many frames; where nothing is left over, K is that of an output known up to rounding, which is zero
    for a stable system.

    References
    ----------
    P. Van Overschee, B. De Moor (1994), "N4SID: subspace algorithms for the identification of combined
    deterministic-stochastic systems". M. Verhaegen (1994), "Identification of the deterministic part of MIMO state
    space models given in innovations form from input-output data".
    """
    u, y = _pair(u, y)
    horizon = whole_number("horizon", horizon, least=2)
    (n_frames, m), p = u.shape, y.shape[1]
    rows = 2 * horizon * (m + p)
    _not_too_large(rows, "horizon")
    _long_enough(n_frames, rows + 2 * horizon - 1, f"{horizon=}")
    past, future = range(horizon, 2 * horizon)[::-1], range(horizon)[::-1]
    # every row is a sample of u or y: future inputs, past inputs, past outputs, future outputs
    R = triangle(lagged([(u, future), (u, past), (y, past), (y, future)], 2 * horizon - 1))
    R /= np.sqrt(n_frames - 2 * horizon + 1)
    excited = _excitation(R, 2 * horizon, m, RANK)
    if not excited.sufficient:  # in words of time: the blocks above are not in order
        excited = persistency_of_excitation(u, 2 * horizon)
        _require_excitation(excited, "take a richer input, or a smaller horizon")
    middle = slice(horizon * m, rows - horizon * p)
    left, values, _ = np.linalg.svd(R[middle, rows - horizon * p :].T)
    n = _order(order, values, (horizon - 1) * p, f"horizon={horizon}")
    gamma = left[:, :n] * np.sqrt(values[:n])
    A, C = np.linalg.lstsq(gamma[:-p], gamma[p:], rcond=None)[0], gamma[:p]
    B, D, x0, residuals = _inputs_and_start(A, C, u, y, feedthrough)
    gain, covariance = _innovations(R, gamma, A, C, horizon * m)
    return SubspaceFit(StateSpace(A, B, C, D, sample_rate=sample_rate), values, x0, residuals, gain, covariance)


def _innovations(R: Real, gamma: Real, A: Real, C: Real, n_future: int) -> tuple[Real | None, Real | None]:
    """Gain and covariance of the innovations, from the triangle of future inputs, past inputs and outputs, and future
    outputs: what is known at a time is the rows up to it, and the first ``n_future`` rows are future inputs."""
    from scipy.linalg import solve_discrete_are

    p, n = C.shape
    known, future = len(R) - len(gamma), R[n_future:, len(R) - len(gamma) :]
    known -= n_future
    now, later = (np.linalg.pinv(g) for g in (gamma, gamma[:-p]))
    x = np.zeros((len(future), n))
    x[:known] = future[:known] @ now.T
    missed = np.hstack([-x @ A.T, future[:, :p] - x @ C.T])
    missed[: known + p, :n] += future[: known + p, p:] @ later.T
    both = missed.T @ missed
    both[n:, n:] += NO_NOISE * np.sum(R[:, -p:] ** 2) * np.eye(p)
    size = np.trace(both[n:, n:])
    Q, S, V = both[:n, :n] / size, both[:n, n:] / size, both[n:, n:] / size
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what comes out is looked at
            P = solve_discrete_are(A.T, C.T, Q, V, s=S)
            covariance = C @ P @ C.T + V
            K = np.linalg.solve(covariance, (A @ P @ C.T + S).T).T
            if not np.abs(np.linalg.eigvals(A - K @ C)).max() < 1:
                return None, None
    except (np.linalg.LinAlgError, ValueError):
        return None, None
    return K, size * covariance


def _inputs_and_start(A: Real, C: Real, u: Real, y: Real, feedthrough: bool) -> tuple[Real, Real, Real, Real]:
    """B, D, initial state and residuals, by least squares on the simulated output, which is linear in them."""
    (n_frames, m), (p, n) = u.shape, C.shape
    _not_too_large(n * (m + 1) * p + p * m * p, "order", n_frames)
    drive = np.zeros((m + 1, n_frames + 1, 1))
    drive[:m, :n_frames, 0] = u.T
    drive[m, 0] = 1  # an impulse is an initial state one frame later
    columns = np.empty((n_frames, p, n * (m + 1) + feedthrough * p * m))
    unit = np.eye(n)
    try:
        for i in range(n):
            answer = StateSpace(A, unit[:, [i]], C, np.zeros((p, 1)))(drive)
            for j in range(m):
                columns[..., i * m + j] = answer[j, :n_frames]
            columns[..., n * m + i] = answer[m, 1:]
        if feedthrough:
            columns[..., n * (m + 1) :] = np.kron(np.eye(p), u[:, None, :])
        X = columns.reshape(n_frames * p, -1)
        with np.errstate(over="ignore"):
            scale = np.linalg.norm(X, axis=0)
        # the growth of a pole that is not in the data leaves no digits for what is
        if not np.all(scale <= OUTGROWN * max(np.linalg.norm(y), np.linalg.norm(u))):
            raise NonFiniteError("the simulation outgrows the data")
    except NonFiniteError:
        raise ParameterError(
            f"the model has poles up to {np.abs(np.linalg.eigvals(A)).max():.4g} and its simulation blows up: "
            "take another order or horizon, or remove drifts from the data"
        ) from None
    scale[scale == 0] = 1
    found = np.linalg.lstsq(X / scale, y.ravel(), rcond=None)[0] / scale
    residuals = y - (X @ found).reshape(y.shape)
    B, x0 = found[: n * m].reshape(n, m), found[n * m : n * (m + 1)]
    D = found[n * (m + 1) :].reshape(p, m) if feedthrough else np.zeros((p, m))
    return B, D, x0, residuals


def era(
    impulse_response: ArrayLike,
    *,
    order: int | None = None,
    horizon: int | None = None,
    sample_rate: float | None = None,
) -> SubspaceFit:
    r"""State-space model from an impulse response: the eigensystem realisation algorithm.

    .. math:: H_{ij} = h[1+i+j] = C A^{i+j} B = U S V^T, \quad A = S^{-1/2} U^T H^{\to} V S^{-1/2}

    where :math:`H^{\to}` holds h[2+i+j]. The rank of H is the order.

    Parameters
    ----------
    impulse_response : array, shape (n_frames,), (n_frames, n_outputs) or (n_frames, n_outputs, n_inputs)
        h, whose first sample becomes D.
    order : int, optional
        Number of states. When absent, where the singular values fall most steeply: look at
        :func:`rnndsp.plots.order_plot` then.
    horizon : int, optional
        Block rows and columns of H, at most (n_frames - 1) / 2, which is the default; the response beyond twice this
        length is not looked at.
    sample_rate : float, optional
        Hz, of the system that is returned.

    Returns
    -------
    SubspaceFit

    Raises
    ------
    ParameterError
        NaN, a wrong shape, too few frames, an order that is too large, H with more than 4000 rows or columns.

    Notes
    -----
    Without noise exact up to rounding; otherwise nearly the balanced truncation of the filter with this response. An
    impulse response that is cut off before it has decayed may give poles outside the unit circle.

    References
    ----------
    J.-N. Juang, R. S. Pappa (1985), "An eigensystem realization algorithm for modal parameter identification and model
    reduction".
    """
    h = np.asarray(impulse_response)
    if h.ndim in (1, 2):  # of one input
        h = h.reshape(len(h), -1, 1)
    if h.ndim != 3 or 0 in h.shape[1:]:
        raise ParameterError(f"impulse_response has shape {h.shape}, must be (n_frames, n_outputs, n_inputs)")
    p, m = h.shape[1:]
    h = real_signal("impulse_response", h.reshape(len(h), -1)).reshape(h.shape)
    _long_enough(len(h), 3, "an impulse response")
    most = (len(h) - 1) // 2
    r = most if horizon is None else whole_number("horizon", horizon)
    if r > most:
        raise ParameterError(f"horizon={r} must be at most {most} for {len(h)} frames")
    _not_too_large(r * max(p, m), "horizon")
    windows = np.lib.stride_tricks.sliding_window_view(h[1 : 2 * r + 1], r, axis=0)  # (r + 1, p, m, r)
    both = windows.transpose(0, 1, 3, 2).reshape((r + 1) * p, r * m)
    left, values, right = np.linalg.svd(both[: r * p], full_matrices=False)
    n = _order(order, values, min(r * p, r * m), f"horizon={r}")
    root = np.sqrt(values[:n])
    A = (left[:, :n] / root).T @ both[p:] @ (right[:n].T / root)
    system = StateSpace(A, root[:, None] * right[:n, :m], left[:p, :n] * root, h[0], sample_rate=sample_rate)
    impulses = np.zeros((m, len(h), m))
    impulses[range(m), 0, range(m)] = 1
    with np.errstate(all="ignore"):
        try:
            residuals = h - system(impulses).transpose(1, 2, 0)
        except NonFiniteError:
            raise ParameterError(
                f"the model has poles up to {np.abs(np.linalg.eigvals(A)).max():.4g} and blows up: take another order, "
                "or a response that decays"
            ) from None
    return SubspaceFit(system, values, np.zeros(n), residuals)


def spectral_filters(n_taps: int, n_filters: int) -> SpectralBasis:
    r"""The filters of spectral filtering: what responses of real decays have in common.

    .. math::
        Z_{ij} = \frac{2}{(i+j)^3 - (i+j)} = \int_0^1 \mu(\alpha)_i\, \mu(\alpha)_j\, d\alpha, \qquad
        \mu(\alpha)_i = (\alpha - 1)\, \alpha^{i-1}

    Parameters
    ----------
    n_taps : int
        Size of Z, at most 4000.
    n_filters : int
        How many of its top eigenvectors.

    Returns
    -------
    SpectralBasis

    Raises
    ------
    ParameterError
        Sizes that are no whole numbers of at least 1, or more filters than taps.

    Notes
    -----
    The eigenvalues fall geometrically, so some 20 filters stand for any decay; from about 1e-16 of the largest on,
    eigenvalues and filters are rounding.

    References
    ----------
    E. Hazan, K. Singh, C. Zhang (2017), "Learning linear dynamical systems via spectral filtering".
    """
    from scipy.linalg import eigh

    n, k = whole_number("n_taps", n_taps), whole_number("n_filters", n_filters)
    if k > n:
        raise ParameterError(f"n_filters={k} must be at most n_taps={n}")
    _not_too_large(n, "n_taps")
    s = np.add.outer(np.arange(1.0, n + 1), np.arange(1.0, n + 1))
    values, vectors = eigh(2 / (s**3 - s), subset_by_index=(n - k, n - 1))
    return SpectralBasis(values[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1].T))


def spectral_fit(
    u: ArrayLike, y: ArrayLike, *, n_filters: int = 20, n_taps: int = 200, ridge: float = 0.0
) -> SpectralFit:
    r"""Predict an output from filtered inputs, by least squares: convex, whatever the number of states.

    .. math::
        y[t] = y[t-1] + P_0 u[t] + P_1 u[t-1] + \sum_j M_j\, \sigma_j^{1/4} \sum_{i=1}^{n} \phi_j(i)\, u[t-1-i]

    with the eigenvalues σ and filters φ of :func:`spectral_filters`.

    Parameters
    ----------
    u : array, shape (n_frames,) or (n_frames, n_inputs)
    y : array, shape (n_frames,) or (n_frames, n_outputs)
        Both from rest: what came before counts as zero.
    n_filters, n_taps : int
    ridge : float
        Adds ``ridge`` times the squared weights, of regressors scaled to norm one, to the squared errors.

    Returns
    -------
    SpectralFit

    Raises
    ------
    ParameterError
        NaN, wrong shapes, too few frames, an input of zeros.

    Notes
    -----
    Meant for filters with real poles within [0, 1], near 1 ones included, where the error falls geometrically with
    n_filters; oscillations are not caught. Weights of which the data tell nothing are zero (least norm).

    References
    ----------
    E. Hazan, K. Singh, C. Zhang (2017), "Learning linear dynamical systems via spectral filtering".
    """
    from scipy.signal import oaconvolve

    u, y = _pair(u, y)
    ridge = number("ridge", ridge)
    if ridge < 0:
        raise ParameterError(f"{ridge=} must not be negative")
    basis = spectral_filters(n_taps, n_filters)
    (n_frames, m), p, k = u.shape, y.shape[1], n_filters
    _long_enough(n_frames, (k + 2) * m + 1, f"{n_filters=}")
    _not_too_large((k + 2) * m, "n_filters", n_frames)
    if not u.any():
        raise ParameterError("the input is zero throughout: nothing can be learned from it")
    taps = np.zeros((k + 2, n_taps + 2))  # of all regressors
    taps[0, 0] = taps[1, 1] = 1
    taps[2:, 2:] = basis.eigenvalues.clip(0)[:, None] ** 0.25 * basis.filters
    X = np.empty((n_frames, (k + 2) * m))
    for j, i in np.ndindex(k + 2, m):
        X[:, j * m + i] = oaconvolve(u[:, i], taps[j])[:n_frames]
    scale = np.linalg.norm(X, axis=0)
    scale[scale == 0] = 1
    left, values, right = np.linalg.svd(X / scale, full_matrices=False)
    inverse = np.zeros_like(values)
    kept = values > 1e-13 * values[0]
    inverse[kept] = values[kept] / (values[kept] ** 2 + ridge)
    change = np.diff(y, axis=0, prepend=0)
    found = (right.T * inverse) @ (left.T @ change) / scale[:, None]
    weights = found.reshape(k + 2, m, p).swapaxes(1, 2)
    response = np.cumsum(np.tensordot(taps.T, weights, axes=1), axis=0)
    return SpectralFit(basis, weights[:2], weights[2:], change - X @ found, response)


# ---- data


def real_signal(name: str, value: ArrayLike, *, gaps: bool = False) -> Real:
    """(n_frames, n_channels) of finite numbers, or of NaN where there are gaps."""
    array = real_array(name, value)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.shape[1]:
        raise ParameterError(f"{name} has shape {array.shape}, must be (n_frames,) or (n_frames, n_channels)")
    array = array.astype(np.float64)
    good = ~np.isinf(array) if gaps else np.isfinite(array)
    if not good.all():
        remedy = "NaN stands for missing values" if gaps else "leave such frames out at the ends"
        raise ParameterError(f"{name} is not finite at frame {int(np.argmin(good.all(axis=1)))}: {remedy}")
    reached = np.nanmax(np.abs(array), axis=0, initial=0)
    if reached.max() > LOUDEST:
        raise ParameterError(f"{name} reaches {reached.max():.3g}, whose square overflows: scale it down")
    if np.any((reached > 0) & (reached < 1 / LOUDEST)):
        reached = reached[reached > 0].min()
        raise ParameterError(f"a channel of {name} only reaches {reached:.3g}, whose square vanishes: scale it up")
    return array


def _pair(u: ArrayLike, y: ArrayLike) -> tuple[Real, Real]:
    u, y = real_signal("u", u), real_signal("y", y)
    if len(u) != len(y):
        raise ParameterError(f"u has {len(u)} frames and y has {len(y)}: they must be of the same length")
    return u, y


def _long_enough(n_frames: int, least: int, what: str) -> None:
    if n_frames < least:
        raise ParameterError(f"{n_frames} frames are too few for {what}: at least {least} are needed")


def _not_too_large(size: int, what: str, n_frames: int = 0) -> None:
    """Of a matrix with ``size`` rows, square, or as long as the data."""
    if size > DENSE_LIMIT:
        raise ParameterError(f"{what} would make a matrix of {size} rows, more than {DENSE_LIMIT}: lower it")
    if size * n_frames > MAX_STATES:
        raise ParameterError(
            f"{what} for {n_frames} frames would take {size * n_frames:.3g} numbers, more than {MAX_STATES}"
        )


def _order(order: int | None, values: Real, most: int, what: str) -> int:
    """The order asked for, or the one after which the singular values fall most steeply."""
    if not values[0] > 0:
        raise ParameterError("the output does not depend on the input at all: there is no order to find")
    if order is None:
        floor = np.maximum(values[: most + 1], 1e-14 * values[0])
        return min(int(np.argmax(floor[:-1] / floor[1:])) + 1, most) if len(floor) > 1 else 1
    n = whole_number("order", order)
    if n > most:
        raise ParameterError(f"order={n} is too large: at most {most} with {what}")
    if values[n - 1] <= 1e-14 * values[0]:
        rank = int(np.sum(values > 1e-14 * values[0]))
        raise ParameterError(f"order={n} is too large: the data have order {rank}")
    return n


def lagged(parts: Sequence[tuple[Real, Iterable[int]]], first: int) -> Iterator[Real]:
    """Rows [signal[t - lag] for all lags, of one signal after the other], from ``first`` on, some frames at a time."""
    n = len(parts[0][0])
    for start in range(first, n, CHUNK):
        stop = min(start + CHUNK, n)
        yield np.concatenate([x[start - lag : stop - lag] for x, lags in parts for lag in lags], axis=1)


def triangle(chunks: Iterable[Real]) -> Real:
    """R of the QR factors of all rows without NaN; a chunk after the other, as its size is that of a row."""
    R: Real | None = None
    for chunk in chunks:
        rows = chunk[np.isfinite(chunk).all(axis=1)]
        R = np.asarray(np.linalg.qr(rows if R is None else np.concatenate([R, rows]), mode="r"))
    assert R is not None
    return np.pad(R, ((0, R.shape[1] - len(R)), (0, 0)))


def regression(R: Real, n_columns: int, ridge: float = 0.0) -> tuple[Real, Real, Real]:
    """Least squares from the triangle of rows [regressors, targets]: weights, one row a regressor; singular values of
    the regressors scaled to norm one; and F with F F' the inverse of their normal matrix."""
    X, target = R[:n_columns, :n_columns], R[:n_columns, n_columns:]
    scale = np.linalg.norm(X, axis=0)
    scale[scale == 0] = 1
    left, values, right = np.linalg.svd(X / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = right.T / scale[:, None] * (values / (values**2 + ridge)) @ (left.T @ target)
        return weights, values, right.T / scale[:, None] / values


def missed(chunks: Iterable[Real], weights: Real) -> Real:
    """What the weights of :func:`regression` leave of the targets; NaN where a row has NaN."""
    n = len(weights)
    return np.concatenate([chunk[:, n:] - chunk[:, :n] @ weights for chunk in chunks])

"""Training of small filters on all data at once: Levenberg-Marquardt and L-BFGS, through scipy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rnndsp._checks import number, reals, require_filter, whole_number
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.losses import LossFunction, squared
from rnndsp.tangents import rtrl
from rnndsp.training import Epoch, Fit, Pair, _checked, evaluate

__all__ = ["fit_lbfgs", "fit_least_squares"]

F = TypeVar("F", bound=Filter)
Real = NDArray[np.float64]
Pairs = list[tuple[Real, Real]]

# Numbers in the largest Jacobian.
MAX_JACOBIAN = 2**26
# Numbers of outputs that are taped at a time.
BATCH = 2**20
# Where a step leads to no number, the slope there counts as so many times that where it began, but upwards.
STEEP = 4.0


class _Done(Exception):  # noqa: N818 (no error)
    """Enough steps, or no better ones for long."""


class _Search:
    """Where a search stands, and the best weights on the way."""

    def __init__(
        self,
        filt: Filter,
        validation: Pairs,
        loss: LossFunction,
        only: Sequence[str] | None,
        limits: tuple[int, int | None],
    ) -> None:
        names = list(filt.params) if only is None else list(dict.fromkeys(only))
        if unknown := sorted(set(names) - set(filt.params)):
            raise ParameterError(f"only: unknown parameters {unknown}; known are {sorted(filt.params)}")
        if not names:
            raise ParameterError("there are no parameters to fit")
        self.start = filt
        self.shapes = {name: filt.params[name].shape for name in names}
        self.theta = np.concatenate([filt.params[name].astype(np.float64).ravel() for name in names])
        self._validation, self._loss = validation, loss
        self._n_steps, self._patience = limits
        self._began = time.perf_counter()
        self._history: list[Epoch] = []
        self._best, self._least, self._kept = 0, np.inf, self.theta
        self.last_loss = np.nan

    def filter(self, theta: Real) -> Filter:
        """The filter with other parameters, as exact as they are."""
        parts = np.split(theta, np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])[:-1])
        return self.start.replace(
            **{name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        )

    def judge(self, theta: Real) -> float:
        if not self._validation:
            return float("nan")
        try:
            return evaluate(self.filter(theta), self._validation, self._loss)
        except (ParameterError, NonFiniteError):
            return np.inf

    def begin(self, loss: float) -> None:
        self.last_loss = loss
        self._least = self.judge(self.theta)

    def step(self, theta: Real, loss: float) -> None:
        """After a step that is taken."""
        now = time.perf_counter()
        judged = self.judge(theta)
        self._history.append(Epoch(loss, judged, now - self._began))
        self._began = now
        self.theta, self.last_loss = theta.copy(), loss
        if np.isnan(judged) or judged < self._least:
            self._kept, self._best, self._least = self.theta, len(self._history), judged
        late = self._patience is not None and len(self._history) - self._best >= self._patience
        if late or len(self._history) >= self._n_steps:
            raise _Done

    def fit(self, stopped: str = "") -> Fit[Any]:
        best = self.filter(self._kept)
        kinds = {name: best.params[name].astype(self.start.params[name].dtype) for name in self.shapes}
        return Fit(best.replace(**kinds), tuple(self._history), self._best, stopped)


def fit_least_squares(
    filt: F,
    data: Sequence[Pair],
    *,
    validation: Sequence[Pair] = (),
    n_steps: int = 100,
    tolerance: float = 1e-12,
    patience: int | None = None,
    only: Sequence[str] | None = None,
) -> Fit[F]:
    r"""Train a small filter on squared error by Levenberg and Marquardt's method: few steps, to the last digit.

    .. math:: \min_\theta \sum_t \lVert y_\theta[t] - d[t] \rVert^2, \qquad
              \theta \leftarrow \theta - (J^\mathsf{T} J + \lambda S)^{-1} J^\mathsf{T} (y - d)

    J is the exact Jacobian of the whole output by the parameters, from :func:`rnndsp.tangents.rtrl`; S scales every
    parameter by its column of J. Every sequence starts from rest, and only the inputs are given: output error.

    Parameters
    ----------
    filt : Filter
        Where to start; it is not changed.
    data : sequence of pairs
        Pairs of an input, (n_frames, n_inputs), and what is wanted, (n_frames, n_outputs); NaN in the latter where
        nothing is. All is computed in float64.
    validation : sequence of pairs
        The weights with the least squared error here are those that are returned; the first ones may be.
    n_steps : int
        At most so many steps that lower the error.
    tolerance : float
        Stop when error or parameters change by less, relative to themselves, or the gradient is as small.
    patience : int, optional
        Stop after so many steps without a better validation loss.
    only : sequence of str, optional
        Names of the parameters to change; all of them when absent.

    Returns
    -------
    Fit
        An epoch is a step that was taken, its loss that of the training data after it, as
        :func:`rnndsp.training.evaluate` gives it.

    Raises
    ------
    ParameterError
        Data that do not fit the filter, unknown parameters, a Jacobian of more than 6.7e7 numbers.
    NonFiniteError
        NaN or infinity in an input, or a filter that blows up where it starts. Where it blows up, or is refused, on the
        way, the step is tried again, shorter.

    Notes
    -----
    ``scipy.optimize.least_squares(method="trf")`` with a singular value decomposition of J in every step, so parameters
    of which nothing depends, as the bases of a state space, do no harm. The cost of a step is that of ``rtrl``, and of
    the decomposition, n_outputs n_frames n_params^2. A minimum that it finds is a local one.

    References
    ----------
    D. Marquardt (1963), "An algorithm for least-squares estimation of nonlinear parameters". M. Branch, T. Coleman, Y.
    Li (1999), "A subspace, interior, and conjugate gradient method for large-scale bound-constrained minimization
    problems".
    """
    from scipy.optimize import least_squares

    n_steps, pairs, held_out, tolerance = _settled(filt, data, squared, validation, n_steps, tolerance, patience)
    search = _Search(filt, held_out, squared, only, (n_steps, patience))
    scored = [~np.isnan(target) for _, target in pairs]
    n_residuals = sum(int(np.count_nonzero(mask)) for mask in scored)
    if n_residuals * search.theta.size > MAX_JACOBIAN:
        raise ParameterError(
            f"the Jacobian of {n_residuals} residuals by {search.theta.size} parameters has more than "
            f"{MAX_JACOBIAN:.2g} numbers: use only=..., less data, fit_lbfgs or rnndsp.fit"
        )
    count = sum(int(np.count_nonzero(mask.any(axis=1))) for mask in scored)

    def residuals(theta: Real) -> Real:
        try:
            model = search.filter(theta)
            parts = [(model(u) - target)[mask] for (u, target), mask in zip(pairs, scored, strict=True)]
        except (ParameterError, NonFiniteError):
            if np.array_equal(theta, search.theta):  # where it starts
                raise
            return np.full(n_residuals, np.inf)
        return np.concatenate(parts)

    told = False

    def jacobian(theta: Real) -> Real:
        nonlocal told
        model, rows, total = search.filter(theta), [], 0.0
        for (u, target), mask in zip(pairs, scored, strict=True):
            found = rtrl(model, u, only=list(search.shapes))
            parts = [part.reshape(*target.shape, -1)[mask] for part in found.params.values()]
            rows.append(np.concatenate(parts, axis=1))
            total += float(np.sum((found.y.reshape(target.shape) - target)[mask] ** 2))
        # scipy asks for it where it starts, and after every step that is taken
        (search.step if told else lambda theta, loss: search.begin(loss))(theta, total / count)
        told = True
        return np.concatenate(rows)

    with suppress(_Done):
        least_squares(
            residuals,
            search.theta,
            jacobian,
            method="trf",
            x_scale="jac",
            ftol=tolerance,
            xtol=tolerance,
            gtol=tolerance,
            max_nfev=20 * n_steps,
        )
    return search.fit()


def fit_lbfgs(
    filt: F,
    data: Sequence[Pair],
    loss: LossFunction,
    *,
    validation: Sequence[Pair] = (),
    n_steps: int = 200,
    tolerance: float = 1e-10,
    memory: int = 20,
    patience: int | None = None,
    only: Sequence[str] | None = None,
) -> Fit[F]:
    r"""Train a filter on all data at once by L-BFGS: a quasi-Newton method with a line search, for any loss.

    Parameters
    ----------
    filt : Filter
        Where to start; it is not changed.
    data : sequence of pairs
        As in :func:`fit_least_squares`.
    loss : function
        As in :func:`rnndsp.fit`; its mean over the scored frames falls with every step.
    validation : sequence of pairs
        The weights with the least loss here are those that are returned; the first ones may be.
    n_steps : int
        At most so many steps.
    tolerance : float
        Stop when the loss falls by less, relative to itself or to 1, or no entry of the gradient is larger.
    memory : int
        From how many steps the curvature is estimated.
    patience : int, optional
        Stop after so many steps without a better validation loss.
    only : sequence of str, optional
        Names of the parameters to change; all of them when absent.

    Returns
    -------
    Fit
        An epoch is a step, its loss that of the training data after it.

    Raises
    ------
    ParameterError
        Data that do not fit the filter, or unknown parameters.
    NonFiniteError
        NaN or infinity in an input, or a filter or loss that is not finite where it starts. Where they are not, or the
        filter is refused, on the way, the line search comes back.

    Notes
    -----
    ``scipy.optimize.minimize(method="L-BFGS-B")`` with gradients by back-propagation through time, in float64,
    sequences of one length together. Without noise in the gradient it needs far fewer passes over small data than
    :func:`rnndsp.fit`; on large data, or with a random augmentation, take that one.

    References
    ----------
    D. Liu, J. Nocedal (1989), "On the limited memory BFGS method for large scale optimization".
    """
    from scipy.optimize import minimize

    n_steps, pairs, held_out, tolerance = _settled(filt, data, loss, validation, n_steps, tolerance, patience)
    memory = whole_number("memory", memory)
    search = _Search(filt, held_out, loss, only, (n_steps, patience))
    batches = list(_batches(pairs))
    count = sum(int(np.count_nonzero(~np.isnan(target).all(axis=-1))) for _, target in batches)

    def gradient(theta: Real) -> tuple[float, Real]:
        model, total, slopes = search.filter(theta), 0.0, np.zeros(theta.size)
        with np.errstate(all="ignore"):
            for u, target in batches:
                tape = model.tape(u)
                values, dy = loss(tape.y, target)
                total += float(np.sum(values))
                found = tape.adjoint_of_params(dy)
                slopes += np.concatenate([np.ravel(found[name]) for name in search.shapes])
        if not (np.isfinite(total) and np.isfinite(slopes).all()):
            raise NonFiniteError("the loss or its gradient is not finite where the search starts")
        return total / count, slopes / count

    first, slopes = gradient(search.theta)
    search.begin(first)
    seen: dict[bytes, tuple[float, Real]] = {search.theta.tobytes(): (first, slopes)}
    held = slopes

    def value(theta: Real) -> tuple[float, Real]:
        if theta.tobytes() in seen:
            return seen[theta.tobytes()]
        try:
            found = gradient(theta)
        except (ParameterError, NonFiniteError):
            # no better, and uphill: the line search comes back most of the way
            return search.last_loss, -STEEP * held
        seen[theta.tobytes()] = found
        return found

    def taken(xk: Real) -> None:  # scipy's name
        nonlocal held, seen
        found = value(xk)
        seen, held = {xk.tobytes(): found}, found[1]
        search.step(xk, found[0])

    settings: Any = {"maxiter": n_steps, "maxfun": 20 * n_steps, "maxcor": memory, "ftol": tolerance, "gtol": tolerance}
    stopped = ""
    with suppress(_Done):
        done = minimize(value, search.theta, jac=True, method="L-BFGS-B", callback=taken, options=settings)
        if done.status == 2:  # else it is at a minimum, or has done all its steps
            stopped = f"no step along the gradient lowers the loss: {done.message}"
    return search.fit(stopped)


def _settled(
    filt: Filter,
    data: Sequence[Pair],
    loss: LossFunction,
    validation: Sequence[Pair],
    n_steps: int,
    tolerance: float,
    patience: int | None,
) -> tuple[int, Pairs, Pairs, float]:
    """What both have to check first; signals in float64."""
    require_filter(filt)
    n_steps = whole_number("n_steps", n_steps)
    if not 0 < (tolerance := number("tolerance", tolerance)) < 1:
        raise ParameterError(f"{tolerance=} must lie between 0 and 1")

    def exact(what: str, pairs: Sequence[Pair]) -> Pairs:
        wide = [(reals(f"{what}[{i}]", u), reals(f"{what}[{i}]", target)) for i, (u, target) in enumerate(pairs)]
        return _checked(filt, wide, what, loss)

    pairs, held_out = exact("data", data), exact("validation", validation) if len(validation) else []
    if patience is not None and whole_number("patience", patience) and not held_out:
        raise ParameterError(f"{patience=} needs validation data to look at")
    return n_steps, pairs, held_out, tolerance


def _batches(pairs: Pairs) -> Iterator[tuple[Real, Real]]:
    """Sequences of one length as voices, no more at a time than their tape should hold."""
    for length in sorted({len(u) for u, _ in pairs}):
        alike = [pair for pair in pairs if len(pair[0]) == length]
        most = max(1, BATCH // length)
        for first in range(0, len(alike), most):
            signals, targets = zip(*alike[first : first + most], strict=True)
            yield np.stack(signals), np.stack(targets)

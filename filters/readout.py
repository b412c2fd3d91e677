"""Read-outs by least squares: the last layer of a network, given all that is before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import number, reals
from rnndsp.composition import Series
from rnndsp.errors import NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.filters.dense import Dense
from rnndsp.statespace import DENSE_LIMIT

__all__ = ["ReadoutFit", "fit_readout"]

Real = NDArray[np.float64]
Pair = tuple[ArrayLike, ArrayLike]

# Numbers in the block of frames that is folded in at a time, where it is not made longer than it is wide.
BLOCK = 2**20
# Ridges that are tried, relative to the largest squared singular value of the regressors.
RIDGES = np.concatenate([[0.0], np.logspace(-16, 2, 73)])


@dataclass(frozen=True)
class ReadoutFit:
    """A filter whose last layer was fitted.

    Attributes
    ----------
    filter : Filter
    ridge : ndarray, shape (n_outputs,)
        λ of every output.
    loss : ndarray, shape (n_outputs,)
        Mean squared error of the training data.
    validation : ndarray, shape (n_outputs,)
        That of the validation data; where there are none, the generalised cross-validation score, an estimate of it.
    """

    filter: Filter
    ridge: Real
    loss: Real
    validation: Real


def fit_readout(
    filt: Filter, data: Sequence[Pair], *, ridge: float | None = None, validation: Sequence[Pair] = ()
) -> ReadoutFit:
    r"""Ridge regression for the last layer of a network: how echo state networks are trained.

    .. math:: \min_{W, b} \sum_t (d_k[t] - W_k h[t] - b_k)^2 + \lambda_k \lVert W_k \rVert^2

    for every output k, h being what the filters before the last one put out.

    Parameters
    ----------
    filt : Filter
        A series that ends with a linear :class:`Dense`; it is not changed, and the filters before stay as they are.
    data : sequence of pairs
        Pairs of an input, (n_frames, n_inputs), and what is wanted, (n_frames, n_outputs); NaN where nothing is, as in
        the first frames, in which a reservoir still forgets its state of rest.
    ridge : float, optional
        λ, at least 0, in units of h squared, summed over the frames. When absent that of the least error on
        ``validation``, or of the least generalised cross-validation score where there is none, among 0 and 10^(k/4)
        times the largest squared singular value of h, k from -64 to 8.
    validation : sequence of pairs

    Returns
    -------
    ReadoutFit

    Raises
    ------
    ParameterError
        Another filter, data that do not fit it, fewer than two frames to learn from, a negative ridge.
    NonFiniteError
        NaN or infinity in an input, or a filter that blows up.

    Notes
    -----
    Block after block of h and d is folded into one triangle by orthogonal transformations, in float64, so memory does
    not grow with the signal and the condition number is not squared, as it is in normal equations. The cost is
    n_frames N² products for N outputs of the reservoir. b is not shrunk. The ridge of an output does not depend on how
    the others are scaled. Generalised cross-validation takes errors of neighbouring frames for independent, which they
    seldom are: it may choose too small a ridge, so give validation data where there are any.

    References
    ----------
    A. Hoerl, R. Kennard (1970), "Ridge regression: biased estimation for nonorthogonal problems". G. Golub, M. Heath,
    G. Wahba (1979), "Generalized cross-validation as a method for choosing a good ridge parameter". H. Jaeger (2001),
    "The 'echo state' approach to analysing and training recurrent neural networks".
    """
    parts = filt.children if isinstance(filt, Series) else ()
    last = parts[-1] if parts else filt
    if not isinstance(last, Dense) or last.config["activation"] != "identity":
        raise ParameterError(f"{filt!r} must be a series that ends with a linear Dense")
    if last.n_inputs > DENSE_LIMIT:
        raise ParameterError(f"the last layer has {last.n_inputs} inputs, more than {DENSE_LIMIT}: use rnndsp.fit")
    if ridge is not None and (ridge := number("ridge", ridge)) < 0:
        raise ParameterError(f"{ridge=} must be at least 0")
    before = Series(*parts[:-1]) if len(parts) > 1 else None
    triangles = _triangles(before, last, data, "data")
    judges = _triangles(before, last, validation, "validation") if len(validation) else [None] * last.n_outputs
    found = [_regress(*triangle, judge, ridge) for triangle, judge in zip(triangles, judges, strict=True)]
    W, b, ridges, losses, scores = (np.array(column) for column in zip(*found, strict=True))
    place = f"{len(parts) - 1}." if parts else ""
    changed = {name: value.astype(last.params[name].dtype) for name, value in (("W", W), ("b", b))}
    return ReadoutFit(filt.replace(**{place + k: v for k, v in changed.items()}), ridges, losses, scores)


def _triangles(before: Series | None, last: Dense, data: Sequence[Pair], what: str) -> list[tuple[Real, int]]:
    """For each output the triangle R with R'R = Z'Z, Z being rows of [1, h, d] that are scored, and their number."""
    n, p = last.n_inputs, last.n_outputs
    n_inputs = before.n_inputs if before else n
    size = max(n + 2, BLOCK // (n + 2))
    # outputs that are scored at the same frames, as all mostly are, share their triangle
    groups: dict[bytes, list[int]] = {}
    pairs = []
    for place, (u, target) in enumerate(data):
        u, target = reals(f"{what}[{place}]", u), reals(f"{what}[{place}]", target)
        if u.ndim != 2 or target.shape != (len(u), p) or u.shape[1] != n_inputs:
            raise ParameterError(
                f"{what}[{place}] of shapes {u.shape} and {target.shape}: (n_frames, {n_inputs}) and (n_frames, {p})"
            )
        if not np.isfinite(u).all() or np.isinf(target).any():
            raise NonFiniteError(f"{what}[{place}]: an input is NaN or infinite, or a target infinite")
        pairs.append((u, target))
    for k in range(p):
        mask = b"".join(np.isnan(target[:, k]).tobytes() for _, target in pairs)
        groups.setdefault(mask, []).append(k)
    found: dict[int, tuple[Real, int]] = {}
    for together in groups.values():
        R, count = np.zeros((0, 1 + n + len(together))), 0
        for u, target in pairs:
            state = before.rest_state() if before else None
            for t in range(0, len(u), size):
                h = u[t : t + size]
                if before is not None:
                    h, state = before.run(h, state)
                d = target[t : t + size, together]
                rows = ~np.isnan(d[:, 0])
                Z = np.hstack([np.ones((len(d), 1)), h, d])[rows]
                R, count = _triangle(np.vstack([R, Z])), count + len(Z)
        if count < 2:
            raise ParameterError(f"{what}: output {together[0]} has {count} frames to score; it takes two at least")
        full = np.zeros((R.shape[1], R.shape[1]))
        full[: len(R)] = R
        for i, k in enumerate(together):
            columns = [*range(1 + n), 1 + n + i]
            found[k] = _triangle(full[:, columns]), count
    return [found[k] for k in range(p)]


def _triangle(rows: Real) -> Real:
    R: Real = np.linalg.qr(rows, "r")  # type: ignore[assignment]
    return R


def _regress(
    R: Real, count: int, judge: tuple[Real, int] | None, ridge: float | None
) -> tuple[Real, float, float, float, float]:
    """W, b, the ridge, the training error and the score of one output."""
    n = len(R) - 2
    # the first row is the mean's: those below are the triangle of what is left without it
    U, s, Vt = np.linalg.svd(R[1 : 1 + n, 1 : 1 + n])
    along, rest = U.T @ R[1 : 1 + n, -1], float(np.sum(R[1 + n :, -1] ** 2))
    largest = float(s[0] ** 2) if n and s[0] > 0 else 1.0
    rounding = s > (s[0] if n else 0.0) * max(count, n) * np.finfo(np.float64).eps

    def weights(value: float) -> tuple[Real, float]:
        """Of a ridge; where it is zero those of least norm."""
        W = Vt.T @ np.divide(s * along, s**2 + value, out=np.zeros(n), where=rounding | (value > 0))
        return W, float((R[0, -1] - R[0, 1 : 1 + n] @ W) / R[0, 0])

    def errors(value: float) -> float:
        left = np.where(rounding | (value > 0), value / np.where(rounding, s**2 + value, value or 1.0), 1.0)
        return float(np.sum((left * along) ** 2) + rest) / count

    def score(value: float) -> float:
        if judge is not None:
            W, b = weights(value)
            return float(np.sum((judge[0] @ np.concatenate([[-b], -W, [1.0]])) ** 2) / judge[1])
        free = 1 - (1 + float(np.sum(np.where(rounding, s**2 / np.where(rounding, s**2 + value, 1.0), 0.0)))) / count
        return errors(value) / free**2 if free > 0 else np.inf

    if ridge is None:
        ridge = min((float(value) for value in largest * RIDGES), key=score)
    W, b = weights(ridge)
    return W, b, ridge, errors(ridge), score(ridge)

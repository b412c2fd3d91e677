"""Training: exact gradients through any filter, Adam, and the weights that did best on what was held out."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from rnndsp import formats
from rnndsp._checks import whole_number
from rnndsp.errors import FormatError, NonFiniteError, ParameterError
from rnndsp.filter import Filter

__all__ = ["Epoch", "Fit", "bernoulli", "evaluate", "fit", "squared"]

F = TypeVar("F", bound=Filter)
Array = NDArray[Any]
Pair = tuple[ArrayLike, ArrayLike]
Data = Sequence[Pair] | Callable[[np.random.Generator], Sequence[Pair]]
# (output, target) -> (loss of every frame, its derivative by the output); a target of NaN is not scored
Loss = Callable[[Array, Array], tuple[Array, Array]]

# A batch is cut into so many parts, whatever the number of processors, so that sums always run in the same order.
SHARDS = 4
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
# The learning rate falls along half a cosine to this share of where it started.
FINAL_RATE = 0.02


class Epoch(NamedTuple):
    """One pass over the data.

    Attributes
    ----------
    loss : float
        Mean over the scored frames of the training data, as it went along.
    validation : float
        The same for the validation data after the epoch; NaN where there is none.
    seconds : float
        How long it took.
    """

    loss: float
    validation: float
    seconds: float


@dataclass(frozen=True)
class Fit(Generic[F]):
    """What training gives.

    Attributes
    ----------
    filter : Filter
        With the weights that did best on the validation data, the last ones where there is none.
    history : tuple of Epoch
    best : int
        The epoch these weights are of, the first being 1; 0 for those it started from.
    """

    filter: F
    history: tuple[Epoch, ...]
    best: int

    def _repr_html_(self) -> str:
        """Losses and their plot, as notebooks show them."""
        from rnndsp import notebook

        return notebook.fit_html(self)


def bernoulli(y: Array, target: Array) -> tuple[Array, Array]:
    r"""Negative log-likelihood of bits, in nats, from their log-odds.

    .. math:: \ell[t] = \sum_k \log(1 + e^{y_k[t]}) - x_k[t]\, y_k[t]

    Parameters
    ----------
    y : ndarray, shape (..., n_frames, n)
        Log-odds.
    target : ndarray, shape of ``y``
        The bits x, 0 or 1; NaN where not scored.

    Returns
    -------
    values : ndarray, shape (..., n_frames)
    dy : ndarray, shape of ``y``
        Derivative of the sum of the values.
    """
    scored = ~np.isnan(target)
    x = np.where(scored, target, 0)
    tail = np.exp(-np.abs(y))
    values = np.where(scored, np.maximum(y, 0) + np.log1p(tail) - x * y, 0)
    probability = np.where(y >= 0, 1, tail) / (1 + tail)
    return values.sum(axis=-1), np.where(scored, probability - x, 0)


def squared(y: Array, target: Array) -> tuple[Array, Array]:
    r"""Squared error, summed over the channels.

    .. math:: \ell[t] = \sum_k (y_k[t] - x_k[t])^2

    Parameters
    ----------
    y : ndarray, shape (..., n_frames, n)
    target : ndarray, shape of ``y``
        NaN where not scored.

    Returns
    -------
    values : ndarray, shape (..., n_frames)
    dy : ndarray, shape of ``y``
        Derivative of the sum of the values.
    """
    error = np.where(np.isnan(target), 0, y - target)
    return np.sum(error**2, axis=-1), 2 * error


def fit(
    filt: F,
    data: Data,
    loss: Loss,
    *,
    validation: Sequence[Pair] = (),
    n_epochs: int = 20,
    batch_size: int = 8,
    rate: float = 3e-3,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Fit[F]:
    r"""Train a filter by back-propagation through time and Adam.

    With g the gradient of the mean loss over the scored frames of a batch, its norm clipped,

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)

    for every parameter, the rate η falling along half a cosine to a fiftieth. Every sequence starts from rest.

    Parameters
    ----------
    filt : Filter
        It is not changed.
    data : sequence of pairs, or function
        Pairs of an input, (n_frames, n_inputs), and what is wanted at each frame, (n_frames, n_outputs), of any lengths
        and of one dtype, in which the filter is computed; NaN in the latter where nothing is wanted. A function is
        called at the start of every epoch with a random generator and returns such a sequence: for augmentation.
    loss : function
        Of output and target, to the loss of each frame and the derivative of their sum by the output:
        :func:`bernoulli`, :func:`squared` or one of your own.
    validation : sequence of pairs
        The weights of the epoch with the least loss here are those that are returned.
    n_epochs, batch_size : int
    rate : float
        η at the start.
    weight_decay : float
        λ.
    clip_norm : float
        Largest Euclidean norm of the gradient of one batch.
    patience : int, optional
        Stop after so many epochs without a better validation loss.
    seed : int
        For the order of the data, and for ``data`` where it is a function. Two runs are equal to the bit.
    checkpoint : path, optional
        Written after every epoch. When it is there, training goes on from it, to the same weights, to the bit, as
        without the interruption.
    progress : function, optional
        Called after every batch with the batches done, their total, and a line about the last epoch.

    Returns
    -------
    Fit

    Raises
    ------
    ParameterError
        Data that do not fit the filter or each other, a setting out of range, or a checkpoint of another training.
    NonFiniteError
        The loss is not a number any more; the checkpoint, if any, is that of the last good epoch.

    References
    ----------
    D. Kingma, J. Ba (2015), "Adam: a method for stochastic optimization". I. Loshchilov, F. Hutter (2019), "Decoupled
    weight decay regularization".
    """
    n_epochs, batch_size = whole_number("n_epochs", n_epochs), whole_number("batch_size", batch_size)
    for name, value in (("rate", rate), ("clip_norm", clip_norm)):
        if not 0 < value < np.inf:
            raise ParameterError(f"{name}={value!r} must be a positive number")
    if not 0 <= weight_decay * rate < 1:
        raise ParameterError(f"{weight_decay=} must be at least 0, and times the rate {rate} less than 1")
    if patience is not None and not validation:
        raise ParameterError(f"{patience=} needs validation data to look at")
    tell = progress or (lambda done, total, text: None)
    draw = _source(data, whole_number("seed", seed, least=0))
    held_out = _checked(filt, validation)
    first_epoch = _checked(filt, draw(1))
    if not first_epoch:
        raise ParameterError("there are no data to learn from")
    run = _Run.start(filt)
    path = None if checkpoint is None else Path(checkpoint)
    label = _label(filt, first_epoch, held_out, loss, (n_epochs, batch_size, rate, weight_decay, clip_norm, seed))
    if path is not None and path.exists():
        run = _Run.load(path, filt, label)
    per_epoch = -(-len(first_epoch) // batch_size)
    total = n_epochs * per_epoch
    # the shards share the processors already: threads of the BLAS inside each would only wait for each other
    with ThreadPoolExecutor(SHARDS) as pool, threadpool_limits(1, "blas"):
        while run.epoch < n_epochs and not (patience is not None and run.epoch - run.best >= patience):
            began = time.perf_counter()
            pairs = _checked(filt, draw(run.epoch + 1)) if run.epoch else first_epoch
            sums, counts = 0.0, 0
            for place, batch in enumerate(_batches(pairs, batch_size, np.random.default_rng([seed, run.epoch, 1]))):
                value, count, gradient = _gradient(pool, filt.replace(**run.params), batch, loss)
                if not np.isfinite(value):
                    raise NonFiniteError(f"the loss is {value} in epoch {run.epoch + 1}; try a rate below {rate}")
                sums, counts = sums + value, counts + count
                done = min(run.epoch * per_epoch + place, total - 1)
                falling = 0.5 * (1 + np.cos(np.pi * done / total))
                run.step(gradient, rate * (FINAL_RATE + (1 - FINAL_RATE) * falling), weight_decay, clip_norm)
                tell(done + 1, total, run.text)
            judged = evaluate(filt.replace(**run.params), held_out, loss) if held_out else float("nan")
            run.close(Epoch(sums / counts, judged, time.perf_counter() - began))
            if path is not None:
                run.save(path, label)
    tell(total, total, run.text)
    return Fit(filt.replace(**run.kept), tuple(run.history), run.best)


def evaluate(filt: Filter, data: Sequence[Pair], loss: Loss) -> float:
    """Mean loss over all scored frames of all sequences, each from rest.

    Parameters
    ----------
    filt : Filter
    data : sequence of pairs
        As in :func:`fit`.
    loss : function
        As in :func:`fit`.
    """
    total, count = 0.0, 0
    for u, target in _checked(filt, data):
        values, _ = loss(filt(u)[None], target[None])
        total += float(values.sum(dtype=np.float64))
        count += _n_scored(target)
    if not count:
        raise ParameterError("there is no frame to score")
    return total / count


@dataclass
class _Run:
    """Where a training stands: all that a checkpoint holds."""

    params: dict[str, Array]
    first: dict[str, Array]
    second: dict[str, Array]
    kept: dict[str, Array]
    n_steps: int
    history: list[Epoch]
    best: int

    @classmethod
    def start(cls, filt: Filter) -> _Run:
        params = dict(filt.params)
        zero = {name: np.zeros(value.shape) for name, value in params.items()}
        return cls(params, zero, dict(zero), params, 0, [], 0)

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def text(self) -> str:
        if not self.history:
            return ""
        said = f"epoch {self.epoch}: loss {self.history[-1].loss:.4f}"
        last = self.history[-1].validation
        return said if np.isnan(last) else f"{said}, held out {last:.4f}"

    def step(self, gradient: dict[str, Array], rate: float, weight_decay: float, clip_norm: float) -> None:
        self.n_steps += 1
        norm = np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradient.values()))
        scale = min(1.0, clip_norm / norm) if norm else 1.0
        bias1, bias2 = 1 - BETA1**self.n_steps, 1 - BETA2**self.n_steps
        changed = {}
        for name, value in self.params.items():
            g = scale * gradient[name].astype(np.float64)
            self.first[name] = BETA1 * self.first[name] + (1 - BETA1) * g
            self.second[name] = BETA2 * self.second[name] + (1 - BETA2) * g**2
            move = self.first[name] / bias1 / (np.sqrt(self.second[name] / bias2) + EPSILON)
            changed[name] = ((1 - rate * weight_decay) * value - rate * move).astype(value.dtype)
        self.params = changed

    def close(self, epoch: Epoch) -> None:
        """End an epoch; keep its weights where they are the best ones."""
        self.history.append(epoch)
        earlier = [e.validation for e in self.history[:-1]]
        if np.isnan(epoch.validation) or epoch.validation < min(earlier, default=np.inf):
            self.kept, self.best = self.params, self.epoch

    def save(self, path: Path, label: str) -> None:
        tensors = {f"{group}/{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        description = {"label": label, "n_steps": self.n_steps, "best": self.best, "history": self.history}
        formats.write(path, {"checkpoint": description}, tensors, force=True)

    @classmethod
    def load(cls, path: Path, filt: Filter, label: str) -> _Run:
        description, tensors = formats.read(path, "checkpoint")
        if not isinstance(description, dict) or description.get("label") != label:
            raise ParameterError(
                f"{path} is the checkpoint of another training: other data, filter or settings; delete it, or name "
                "another one"
            )
        try:
            rooms = {group: {name: tensors[f"{group}/{name}"] for name in filt.params} for group in _GROUPS}
            history = [Epoch(*map(float, row)) for row in description["history"]]
            return cls(**rooms, n_steps=description["n_steps"], history=history, best=description["best"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is a damaged checkpoint; delete it to start anew ({error!r})") from error


_GROUPS = ("params", "first", "second", "kept")


def _source(data: Data, seed: int) -> Callable[[int], Sequence[Pair]]:
    """The data of an epoch."""
    if callable(data):
        return lambda epoch: data(np.random.default_rng([seed, epoch, 0]))
    return lambda epoch: data


def _checked(filt: Filter, data: Sequence[Pair]) -> list[tuple[Array, Array]]:
    pairs = [(np.asarray(u), np.asarray(target)) for u, target in data]
    for place, (u, target) in enumerate(pairs):
        if u.ndim != 2 or target.ndim != 2 or len(u) != len(target) or not len(u):
            raise ParameterError(
                f"data[{place}] of shapes {u.shape} and {target.shape}: (n_frames, n_inputs) and (n_frames, n_outputs)"
            )
        if (u.shape[1], target.shape[1]) != (filt.n_inputs, filt.n_outputs):
            raise ParameterError(
                f"data[{place}] has {u.shape[1]} inputs and {target.shape[1]} outputs, the filter {filt.n_inputs} "
                f"and {filt.n_outputs}"
            )
        if u.dtype != target.dtype or u.dtype != pairs[0][0].dtype:
            raise ParameterError(f"data[{place}] of {u.dtype} and {target.dtype}: all must be of one dtype")
    return pairs


def _n_scored(target: Array) -> int:
    return int(np.count_nonzero(~np.isnan(target).all(axis=-1)))


def _batches(
    pairs: list[tuple[Array, Array]], batch_size: int, rng: np.random.Generator
) -> Iterator[list[tuple[Array, Array]]]:
    """In random order, but sequences of about the same length together, as the shorter ones are padded."""
    lengths = np.array([len(u) for u, _ in pairs]) * rng.uniform(0.8, 1.25, len(pairs))
    order = np.argsort(lengths, kind="stable")
    starts = np.arange(0, len(pairs), batch_size)
    for start in rng.permutation(starts):
        yield [pairs[place] for place in order[start : start + batch_size]]


def _gradient(
    pool: ThreadPoolExecutor, filt: Filter, batch: list[tuple[Array, Array]], loss: Loss
) -> tuple[float, int, dict[str, Array]]:
    """Sum of the loss over a batch, number of scored frames, and gradient of the mean."""
    n_frames = max(len(u) for u, _ in batch)
    count = sum(_n_scored(target) for _, target in batch)
    u = np.zeros((len(batch), n_frames, filt.n_inputs), batch[0][0].dtype)
    target = np.full((len(batch), n_frames, filt.n_outputs), np.nan, u.dtype)
    for voice, (signal, wanted) in enumerate(batch):
        u[voice, : len(signal)], target[voice, : len(wanted)] = signal, wanted

    def part(voices: Array) -> tuple[float, dict[str, Array]]:
        tape = filt.tape(u[voices])
        values, dy = loss(tape.y, target[voices])
        return float(values.sum(dtype=np.float64)), tape.adjoint(dy / max(count, 1)).params

    shards = np.array_split(np.arange(len(batch)), min(SHARDS, len(batch)))
    parts = list(pool.map(part, shards))
    total = {name: np.sum([gradient[name] for _, gradient in parts], axis=0) for name in filt.params}
    return sum((value for value, _ in parts), 0.0), count, total


def _label(filt: Filter, data: Any, validation: Any, loss: Loss, settings: tuple[Any, ...]) -> str:
    """A hash of all that decides how a training goes."""
    digest = hashlib.sha256(json.dumps([formats.describe(filt), settings, loss.__qualname__]).encode())
    for array in (*filt.params.values(), *(array for pair in (*data, *validation) for array in pair)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

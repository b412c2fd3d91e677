"""Training: exact gradients through any filter, Adam, and the weights that did best on what was held out."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from rnndsp import formats
from rnndsp._checks import number, whole_number
from rnndsp._files import check_writable
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
        Of output and target, (voices, n_frames, n_outputs), to the loss of each frame and the derivative of their sum
        by the output: :func:`bernoulli`, :func:`squared` or one of your own. Where the target is NaN both must be 0,
        as shorter sequences of a batch are padded with it. It is called from several threads at once.
    validation : sequence of pairs
        The weights with the least loss here are those that are returned; the first ones may be.
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
        Data that do not fit the filter or each other, a setting out of range, a checkpoint of another training, or a
        step that makes a linear feedback loop unstable which was made without ``allow_unstable``.
    NonFiniteError
        Loss, gradient or weights are not finite any more; the checkpoint, if any, is that of the epoch before.
    FormatError
        A damaged checkpoint.

    Notes
    -----
    A batch is cut into four parts, whatever the machine, computed by as many threads; meanwhile the BLAS of the whole
    process runs on one thread each.

    References
    ----------
    D. Kingma, J. Ba (2015), "Adam: a method for stochastic optimization". I. Loshchilov, F. Hutter (2019), "Decoupled
    weight decay regularization".
    """
    if not isinstance(filt, Filter):
        raise ParameterError(f"{filt!r} is not a filter")
    n_epochs, batch_size = whole_number("n_epochs", n_epochs), whole_number("batch_size", batch_size)
    seed = whole_number("seed", seed, least=0)
    weight_decay = number("weight_decay", weight_decay)
    if (rate := number("rate", rate)) <= 0 or (clip_norm := number("clip_norm", clip_norm)) <= 0:
        raise ParameterError(f"{rate=} and {clip_norm=} must be positive")
    if not 0 <= weight_decay * rate < 1:
        raise ParameterError(f"{weight_decay=} must be at least 0, and times the rate {rate} less than 1")
    tell = progress or (lambda done, total, text: None)
    draw = _source(data, seed)
    first_epoch = _checked(filt, _some(draw(1)), "data")
    held_out = _checked(filt, validation, "validation", first_epoch[0][0].dtype) if len(validation) else []
    if patience is not None and whole_number("patience", patience) and not held_out:
        raise ParameterError(f"{patience=} needs validation data to look at")
    run = _Run.start(filt, evaluate(filt, held_out, loss) if held_out else np.inf)
    path, label = None, ""
    if checkpoint is not None:
        path = Path(checkpoint)
        check_writable(path, force=True)
        settings = (n_epochs, batch_size, rate, weight_decay, clip_norm, seed)
        label = _label(filt, (first_epoch, held_out), loss, settings)
        if path.exists():
            run = _Run.load(path, filt, label)
    per_epoch = -(-len(first_epoch) // batch_size)
    total = n_epochs * per_epoch
    # the shards share the processors already: threads of the BLAS inside each would only wait for each other
    with ThreadPoolExecutor(SHARDS) as pool, threadpool_limits(1, "blas"):
        while run.epoch < n_epochs and not (patience is not None and run.epoch - run.best >= patience):
            began = time.perf_counter()
            pairs = _checked(filt, _some(draw(run.epoch + 1)), "data") if run.epoch else first_epoch
            batches = list(_batches(pairs, batch_size, np.random.default_rng([seed, run.epoch, 1])))
            sums, counts, judged = 0.0, 0, float("nan")
            for place, batch in enumerate(batches):
                # an epoch of more or fewer batches than the first one takes as much of the whole
                done = run.epoch * per_epoch + place * per_epoch // len(batches)
                falling = 0.5 * (1 + np.cos(np.pi * done / total))
                with _exploding(run.epoch + 1, rate):
                    value, count, gradient = _gradient(pool, filt.replace(**run.params), batch, loss)
                    run.step(gradient, rate * (FINAL_RATE + (1 - FINAL_RATE) * falling), weight_decay, clip_norm)
                sums, counts = sums + value, counts + count
                tell(done + 1, total, run.text)
            if held_out:
                with _exploding(run.epoch + 1, rate):
                    judged = _finite("validation loss", evaluate(filt.replace(**run.params), held_out, loss))
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
    for u, target in _checked(filt, data, "data"):
        with np.errstate(all="ignore"):
            values, _ = loss(filt(u)[None], target[None])
            total += float(values.sum(dtype=np.float64))
        count += _n_scored(target)
    return total / count


@contextmanager
def _exploding(epoch: int, rate: float) -> Iterator[None]:
    """Say when it was, and what to do."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"epoch {epoch}: {error}; try a rate below {rate}") from error


def _finite(what: str, value: float) -> float:
    if not np.isfinite(value):
        raise NonFiniteError(f"the {what} is {value}")
    return value


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
    least: float

    @classmethod
    def start(cls, filt: Filter, least: float) -> _Run:
        params = dict(filt.params)
        zero = {name: np.zeros(value.shape) for name, value in params.items()}
        return cls(params, zero, dict(zero), params, 0, [], 0, least)

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
        with np.errstate(over="ignore"):
            squares = [float(np.sum(np.square(g, dtype=np.float64))) for g in gradient.values()]
        norm = _finite("norm of the gradient", np.sqrt(sum(squares)))
        scale = min(1.0, clip_norm / norm) if norm else 1.0
        bias1, bias2 = 1 - BETA1**self.n_steps, 1 - BETA2**self.n_steps
        changed = {}
        for name, value in self.params.items():
            g = scale * gradient[name].astype(np.float64)
            self.first[name] = BETA1 * self.first[name] + (1 - BETA1) * g
            self.second[name] = BETA2 * self.second[name] + (1 - BETA2) * g**2
            move = self.first[name] / bias1 / (np.sqrt(self.second[name] / bias2) + EPSILON)
            with np.errstate(over="ignore"):
                changed[name] = ((1 - rate * weight_decay) * value - rate * move).astype(value.dtype)
            if not np.isfinite(changed[name]).all():
                raise NonFiniteError(f"parameter {name} is not finite any more")
        self.params = changed

    def close(self, epoch: Epoch) -> None:
        """End an epoch; keep its weights where they are the best ones."""
        self.history.append(epoch)
        if np.isnan(epoch.validation) or epoch.validation < self.least:
            self.kept, self.best, self.least = self.params, self.epoch, epoch.validation

    def save(self, path: Path, label: str) -> None:
        tensors = {f"{group}/{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        description = {"label": label, "history": self.history, "least": self.least}
        description |= {"n_steps": self.n_steps, "best": self.best}
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
            for group, room in rooms.items():
                for name, value in room.items():
                    like = filt.params[name]
                    kind = np.float64 if group in ("first", "second") else like.dtype
                    sound = np.isfinite(value).all() and (group != "second" or np.all(value >= 0))
                    if value.shape != like.shape or value.dtype != kind or not sound:
                        raise ValueError(f"{group}/{name}")
            history = [Epoch(*map(float, row)) for row in description["history"]]
            n_steps, best = (whole_number(name, description[name], least=0) for name in ("n_steps", "best"))
            if best > len(history):
                raise ValueError(f"{best=}")
            return cls(**rooms, n_steps=n_steps, history=history, best=best, least=float(description["least"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is a damaged checkpoint; delete it to start anew ({error!r})") from error


_GROUPS = ("params", "first", "second", "kept")


def _source(data: Data, seed: int) -> Callable[[int], Sequence[Pair]]:
    """The data of an epoch."""
    if callable(data):
        return lambda epoch: data(np.random.default_rng([seed, epoch, 0]))
    pairs = list(data)
    return lambda epoch: pairs


def _some(pairs: Sequence[Pair]) -> Sequence[Pair]:
    if not len(pairs):
        raise ParameterError("there are no data to learn from")
    return pairs


def _checked(
    filt: Filter, data: Sequence[Pair], what: str, dtype: np.dtype[Any] | None = None
) -> list[tuple[Array, Array]]:
    pairs = [(np.asarray(u), np.asarray(target)) for u, target in data]
    for place, (u, target) in enumerate(pairs):
        if u.ndim != 2 or target.ndim != 2 or len(u) != len(target) or not len(u):
            raise ParameterError(
                f"{what}[{place}] of shapes {u.shape} and {target.shape}: "
                "(n_frames, n_inputs) and (n_frames, n_outputs)"
            )
        if (u.shape[1], target.shape[1]) != (filt.n_inputs, filt.n_outputs):
            raise ParameterError(
                f"{what}[{place}] has {u.shape[1]} inputs and {target.shape[1]} outputs, the filter {filt.n_inputs} "
                f"and {filt.n_outputs}"
            )
        dtype = dtype or u.dtype
        if dtype not in (np.float32, np.float64):
            raise ParameterError(f"{what}[{place}] of {dtype}: float32 or float64")
        if u.dtype != dtype or target.dtype != dtype:
            raise ParameterError(f"{what}[{place}] of {u.dtype} and {target.dtype}: all must be of one dtype")
        if not np.isfinite(u).all():
            raise NonFiniteError(f"{what}[{place}]: an input is NaN or infinite")
        if np.isinf(target).any():
            raise NonFiniteError(f"{what}[{place}]: a target is infinite")
    if not any(_n_scored(target) for _, target in pairs):
        raise ParameterError(f"{what}: there is no frame to score")
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
        # what overflows is found below; a thread does not take this over from where it was started
        with np.errstate(all="ignore"):
            tape = filt.tape(u[voices])
            values, dy = loss(tape.y, target[voices])
            value = _finite("loss", float(values.sum(dtype=np.float64)))
            return value, tape.adjoint(dy / max(count, 1)).params

    shards = np.array_split(np.arange(len(batch)), min(SHARDS, len(batch)))
    parts = list(pool.map(part, shards))
    total = {name: np.sum([gradient[name] for _, gradient in parts], axis=0) for name in filt.params}
    return sum((value for value, _ in parts), 0.0), count, total


def _label(filt: Filter, data: Any, loss: Loss, settings: tuple[Any, ...]) -> str:
    """A hash of all that decides how a training goes."""
    shapes = [[[(array.shape, array.dtype.name) for array in pair] for pair in pairs] for pairs in data]
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    digest = hashlib.sha256(json.dumps([formats.describe(filt), settings, name, shapes]).encode())
    for array in (*filt.params.values(), *(array for pairs in data for pair in pairs for array in pair)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

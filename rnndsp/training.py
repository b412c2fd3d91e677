"""Training: exact gradients through any filter, small steps along them, and the weights that did best on what was held
out."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from rnndsp import formats, losses
from rnndsp._checks import number, whole_number
from rnndsp._files import check_writable
from rnndsp._progress import progress_bar
from rnndsp.errors import FormatError, NonFiniteError, ParameterError
from rnndsp.filter import Filter
from rnndsp.losses import LossFunction
from rnndsp.optimizers import Adam, Optimizer, Schedule, schedule
from rnndsp.regularizers import Noise, Regularizer
from rnndsp.state import State

__all__ = ["Epoch", "Fit", "evaluate", "fit"]

F = TypeVar("F", bound=Filter)
Array = NDArray[Any]
Pair = tuple[ArrayLike, ArrayLike]
Data = Sequence[Pair] | Callable[[np.random.Generator], Sequence[Pair]]
Progress = Callable[[int, int, str], None]


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
    stopped : str
        Why it ended before its time; empty where it did not.
    """

    filter: F
    history: tuple[Epoch, ...]
    best: int
    stopped: str = ""

    def _repr_html_(self) -> str:
        """Losses and their plot, as notebooks show them."""
        from rnndsp import notebook

        return notebook.fit_html(self)


def fit(
    filt: F,
    data: Data,
    loss: LossFunction,
    *,
    validation: Sequence[Pair] = (),
    n_epochs: int = 20,
    batch_size: int = 8,
    optimizer: Optimizer | None = None,
    rate: float = 3e-3,
    schedule: str | Schedule = "cosine",
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    clip_value: float | None = None,
    truncate: int | None = None,
    kept_states: int | None = None,
    keep: Callable[[F], F] | None = None,
    regularizer: Regularizer | None = None,
    patience: int | None = None,
    time_limit_s: float | None = None,
    n_shards: int = 2,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Fit[F]:
    r"""Train a filter by back-propagation through time and small steps along the gradient.

    With g the gradient of the mean loss over the scored frames of a batch, clipped, d the direction that the optimizer
    makes of it, and η_k the rate of the schedule,

    .. math:: \theta \leftarrow (1 - \eta_k \lambda)\, \theta - \eta_k\, d

    Parameters
    ----------
    filt : Filter
        It is not changed.
    data : sequence of pairs (u, target), or function
        Arrays of (n_frames, n_inputs) and (n_frames, n_targets), of one dtype; lengths may differ, every sequence
        starts from rest. NaN in a target means that nothing is wanted there. A function of a random generator is called
        at the start of every epoch, so that data may be varied.
    loss : function (y, target) -> (values, dy)
        See :mod:`rnndsp.losses`; arrays of (voices, frames, channels), values of (voices, frames). ``dy`` is the
        derivative of the sum of the values. It is called from several threads at once.
    validation : sequence of pairs
        The weights with the least loss here are those that are returned; the first ones may be.
    n_epochs, batch_size : int
    optimizer : Optimizer, optional
        :class:`rnndsp.optimizers.Adam` when absent.
    rate : float
        η at the start.
    schedule : str or function
        How η falls, see :func:`rnndsp.optimizers.schedule`.
    weight_decay : float
        λ.
    clip_norm : float
        Largest Euclidean norm of the gradient of one batch.
    clip_value : float, optional
        Largest magnitude of any of its numbers, before that.
    truncate : int, optional
        Frames after which a step is made: back-propagation ends there, while the state is carried on.
    kept_states : int, optional
        States that a tape keeps in place of all that the gradient needs, see :meth:`Filter.tape`: less memory, more
        time, the same gradient.
    keep : function of a filter, optional
        Called after every step with the new filter; gives the one to go on with, as
        ``lambda f: rnndsp.stability.stabilize(f).filter`` one with a certificate. It may change parameters alone.
    regularizer : Regularizer, optional
        Noise or a constraint while it trains, see :mod:`rnndsp.regularizers`; there it says what is then validated.
    patience : int, optional
        Stop after so many epochs without a better validation loss.
    time_limit_s : float, optional
        Stop after the epoch in which so many seconds have passed; the schedule ends then, too. Such a training is not
        the same twice.
    n_shards : int
        Parts of a batch that are computed side by side, whatever the number of processors.
    seed : int
        For the order of the data, and for ``data`` where it is a function. Two runs are equal to the bit.
    checkpoint : path, optional
        Written after every epoch. When it is there, training goes on from it, to the same weights, to the bit, as
        without the interruption.
    progress : function, optional
        Called after every batch with the batches done, their total, and a line about the last epoch. When absent, a bar
        on a terminal shows them after two seconds.

    Returns
    -------
    Fit

    Warns
    -----
    RuntimeWarning
        Loss, gradient or weights were not finite any more in a later epoch: it says where and ends with the weights of
        the last epoch before that, or the best ones.

    Raises
    ------
    ParameterError
        Data that do not fit the filter or each other, a setting out of range, a checkpoint of another training, or a
        step that makes a linear feedback loop unstable which was made without ``allow_unstable``.
    NonFiniteError
        Loss, gradient or weights are not finite any more, in the first epoch.
    FormatError
        A damaged checkpoint.

    Notes
    -----
    Sums run over fixed shards of a batch and a fixed grid of frames. While it trains, the BLAS of the whole process
    runs on one thread for each shard.

    References
    ----------
    P. Werbos (1990), "Backpropagation through time". R. Pascanu, T. Mikolov, Y. Bengio (2013), "On the difficulty of
    training recurrent neural networks". R. Williams, J. Peng (1990), "An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories".
    """
    if not isinstance(filt, Filter):
        raise ParameterError(f"{filt!r} is not a filter")
    if regularizer is not None:
        if not isinstance(regularizer, Regularizer):
            raise ParameterError(f"{regularizer=}: give Zoneout() or another of rnndsp.regularizers")
        filt = regularizer.settled(filt)
    settings = _Settings.checked(
        loss=loss,
        n_epochs=n_epochs,
        batch_size=batch_size,
        optimizer=optimizer or Adam(),
        rate=rate,
        falling=schedule,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        clip_value=clip_value,
        truncate=truncate,
        kept_states=kept_states,
        keep=keep,
        regularizer=regularizer,
        n_shards=n_shards,
        seed=seed,
    )
    if time_limit_s is not None and number("time_limit_s", time_limit_s) <= 0:
        raise ParameterError(f"{time_limit_s=} must be positive")
    draw = _source(data, settings.seed)
    first_epoch = _checked(filt, _some(draw(1)), "data", loss)
    held_out = _checked(filt, validation, "validation", loss, first_epoch[0][0].dtype) if len(validation) else []
    if patience is not None and whole_number("patience", patience) and not held_out:
        raise ParameterError(f"{patience=} needs validation data to look at")
    run = _Run.start(filt, settings.optimizer, evaluate(filt, held_out, loss) if held_out else np.inf)
    path, label = None, ""
    if checkpoint is not None:
        path = Path(checkpoint)
        check_writable(path, force=True)
        label = _label(filt, (first_epoch, held_out), settings)
        if path.exists():
            run = _Run.load(path, filt, settings.optimizer, label)
    per_epoch = -(-len(first_epoch) // settings.batch_size)
    total = settings.n_epochs * per_epoch
    began, stopped = time.perf_counter(), ""
    # the shards share the processors already: threads of the BLAS inside each would only wait for each other
    with (
        ThreadPoolExecutor(settings.n_shards) as pool,
        threadpool_limits(1, "blas"),
        nullcontext(progress) if progress else progress_bar("training", after_s=2.0) as tell,
    ):
        while run.epoch < settings.n_epochs:
            if patience is not None and run.epoch - run.best >= patience:
                stopped = f"no better for {patience} epochs"
                break
            at = time.perf_counter()
            if time_limit_s is not None and at - began >= time_limit_s:
                stopped = f"{time_limit_s:g} seconds are over"
                break
            pairs = _checked(filt, _some(draw(run.epoch + 1)), "data", loss) if run.epoch else first_epoch
            order = np.random.default_rng([settings.seed, run.epoch, 1])
            batches = list(_batches(pairs, settings.batch_size, order))
            sums, counts, judged = 0.0, 0, float("nan")
            try:
                for place, batch in enumerate(batches):
                    # an epoch of more or fewer batches than the first one takes as much of the whole
                    done = run.epoch * per_epoch + place * per_epoch // len(batches)
                    share = done / total
                    if time_limit_s is not None:
                        share = min(1.0, max(share, (time.perf_counter() - began) / time_limit_s))
                    with _located(run.epoch + 1, place + 1):
                        value, count = _learn(run, filt, batch, place, settings, share, pool)
                    sums, counts = sums + value, counts + count
                    tell(done + 1, total, run.text)
                if held_out:
                    with _located(run.epoch + 1, len(batches)):
                        judged = _finite("validation loss", evaluate(filt.replace(**run.params), held_out, loss))
            except NonFiniteError as error:
                if not run.epoch:
                    raise NonFiniteError(f"{error}; try a rate below {settings.rate:g}") from error
                stopped = f"{error}; try a rate below {settings.rate:g}"
                said = f"training stopped: {stopped}; kept are the weights of epoch {run.best}"
                warnings.warn(said, RuntimeWarning, stacklevel=2)
                break
            run.close(Epoch(sums / counts, judged, time.perf_counter() - at))
            if path is not None:
                run.save(path, label)
        tell(total, total, run.text)
    return Fit(filt.replace(**run.kept), tuple(run.history), run.best, stopped)


@dataclass(frozen=True)
class _Settings:
    """All that decides how a training goes, data and filter apart."""

    loss: LossFunction
    n_epochs: int
    batch_size: int
    optimizer: Optimizer
    rate: float
    falling: Schedule
    weight_decay: float
    clip_norm: float
    clip_value: float | None
    truncate: int | None
    kept_states: int | None
    keep: Callable[[Any], Any] | None
    regularizer: Regularizer | None
    n_shards: int
    seed: int

    @classmethod
    def checked(cls, **given: Any) -> _Settings:
        for name in ("n_epochs", "batch_size", "n_shards"):
            given[name] = whole_number(name, given[name])
        given["seed"] = whole_number("seed", given["seed"], least=0)
        for name, least in (("truncate", 1), ("kept_states", 0)):
            if given[name] is not None:
                given[name] = whole_number(name, given[name], least=least)
        for name in ("rate", "clip_norm", "clip_value"):
            if given[name] is not None:
                given[name] = number(name, given[name])
                if given[name] <= 0:
                    raise ParameterError(f"{name}={given[name]} must be positive")
        given["weight_decay"] = number("weight_decay", given["weight_decay"])
        if not 0 <= given["weight_decay"] * given["rate"] < 1:
            raise ParameterError(
                f"weight_decay={given['weight_decay']} must be at least 0, and times the rate {given['rate']} below 1"
            )
        if not isinstance(given["optimizer"], Optimizer):
            raise ParameterError(f"optimizer={given['optimizer']!r}: give Adam() or another of rnndsp.optimizers")
        if isinstance(given["falling"], str):
            given["falling"] = schedule(given["falling"])
        for name in ("loss", "falling", "keep"):
            if given[name] is not None and (isinstance(given[name], type) or not callable(given[name])):
                raise ParameterError(f"{'schedule' if name == 'falling' else name}={given[name]!r} must be a function")
        return cls(**given)

    @property
    def label(self) -> list[Any]:
        """What tells it from others, the same in another process."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        functions = {name: losses.label(named.pop(name)) for name in ("loss", "falling", "keep") if named[name]}
        return [functions, {name: repr(value) for name, value in named.items() if name not in functions}]


def evaluate(filt: Filter, data: Sequence[Pair], loss: LossFunction) -> float:
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
    for u, target in _checked(filt, data, "data", loss):
        with np.errstate(all="ignore"):
            values, _ = loss(filt(u)[None], target[None])
            total += float(values.sum(dtype=np.float64))
        count += _n_scored(target)
    return total / count


@contextmanager
def _located(epoch: int, step: int) -> Iterator[None]:
    """Say when it was."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"epoch {epoch}, batch {step}: {error}") from error


def _finite(what: str, value: float) -> float:
    if not np.isfinite(value):
        raise NonFiniteError(f"the {what} is {value}")
    return value


@dataclass
class _Run:
    """Where a training stands: all that a checkpoint holds."""

    params: dict[str, Array]
    memory: dict[str, dict[str, Array]]  # of the optimizer, slot by slot
    kept: dict[str, Array]
    n_steps: int
    history: list[Epoch]
    best: int
    least: float

    @classmethod
    def start(cls, filt: Filter, optimizer: Optimizer, least: float) -> _Run:
        params = dict(filt.params)
        memory = {slot: {name: np.zeros(value.shape) for name, value in params.items()} for slot in optimizer.slots}
        return cls(params, memory, params, 0, [], 0, least)

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

    def step(self, gradient: dict[str, Array], settings: _Settings, rate: float) -> None:
        self.n_steps += 1
        full = {name: g.astype(np.float64) for name, g in gradient.items()}
        if (limit := settings.clip_value) is not None:
            # what is not finite is told below
            full = {name: np.where(np.isfinite(g), np.clip(g, -limit, limit), g) for name, g in full.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            squares = {name: float(np.sum(np.square(g))) for name, g in full.items()}
        norm = np.sqrt(sum(squares.values()))
        if not np.isfinite(norm):
            worst = max(squares, key=lambda name: np.nan_to_num(squares[name], nan=np.inf))
            raise NonFiniteError(f"the norm of the gradient is {norm}, by that of {worst}")
        scale = min(1.0, settings.clip_norm / norm) if norm else 1.0
        changed = {}
        for name, value in self.params.items():
            own = {slot: arrays[name] for slot, arrays in self.memory.items()}
            direction, own = settings.optimizer.direction(scale * full[name], own, self.n_steps)
            for slot, array in own.items():
                self.memory[slot][name] = array
            with np.errstate(over="ignore"):
                new = ((1 - rate * settings.weight_decay) * value - rate * direction).astype(value.dtype)
            if not np.isfinite(new).all():
                raise NonFiniteError(f"parameter {name} is not finite any more")
            changed[name] = new
        self.params = changed

    def close(self, epoch: Epoch) -> None:
        """End an epoch; keep its weights where they are the best ones."""
        self.history.append(epoch)
        if np.isnan(epoch.validation) or epoch.validation < self.least:
            self.kept, self.best, self.least = self.params, self.epoch, epoch.validation

    @property
    def _groups(self) -> dict[str, dict[str, Array]]:
        return {"params": self.params, "kept": self.kept, **self.memory}

    def save(self, path: Path, label: str) -> None:
        tensors = {f"{group}/{name}": value for group, room in self._groups.items() for name, value in room.items()}
        description = {"label": label, "history": self.history, "least": self.least}
        description |= {"n_steps": self.n_steps, "best": self.best}
        formats.write(path, {"checkpoint": description}, tensors, force=True)

    @classmethod
    def load(cls, path: Path, filt: Filter, optimizer: Optimizer, label: str) -> _Run:
        description, tensors = formats.read(path, "checkpoint")
        if not isinstance(description, dict) or description.get("label") != label:
            raise ParameterError(
                f"{path} is the checkpoint of another training: other data, filter or settings; delete it, or name "
                "another one"
            )
        try:
            fresh = cls.start(filt, optimizer, 0.0)._groups
            rooms = {group: {name: tensors[f"{group}/{name}"] for name in room} for group, room in fresh.items()}
            for group, room in rooms.items():
                for name, value in room.items():
                    like = fresh[group][name]
                    sound = np.isfinite(value).all() and (group != "second" or np.all(value >= 0))
                    if value.shape != like.shape or value.dtype != like.dtype or not sound:
                        raise ValueError(f"{group}/{name}")
            history = [Epoch(*map(float, row)) for row in description["history"]]
            n_steps, best = (whole_number(name, description[name], least=0) for name in ("n_steps", "best"))
            if best > len(history):
                raise ValueError(f"{best=}")
            params, kept = rooms.pop("params"), rooms.pop("kept")
            return cls(params, rooms, kept, n_steps, history, best, float(description["least"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is a damaged checkpoint; delete it to start anew ({error!r})") from error


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
    filt: Filter, data: Sequence[Pair], what: str, loss: LossFunction, dtype: np.dtype[Any] | None = None
) -> list[tuple[Array, Array]]:
    n_targets = losses.n_targets(loss, filt.n_outputs)
    pairs = [(np.asarray(u), np.asarray(target)) for u, target in data]
    for place, (u, target) in enumerate(pairs):
        if u.ndim != 2 or target.ndim != 2 or len(u) != len(target) or not len(u):
            raise ParameterError(
                f"{what}[{place}] of shapes {u.shape} and {target.shape}: "
                "(n_frames, n_inputs) and (n_frames, n_targets)"
            )
        if (u.shape[1], target.shape[1]) != (filt.n_inputs, n_targets):
            raise ParameterError(
                f"{what}[{place}] has {u.shape[1]} inputs and {target.shape[1]} targets, the filter {filt.n_inputs} "
                f"inputs and {filt.n_outputs} outputs, for which this loss takes {n_targets} targets"
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


def _learn(
    run: _Run,
    filt: Filter,
    batch: list[tuple[Array, Array]],
    place: int,
    settings: _Settings,
    share: float,
    pool: ThreadPoolExecutor,
) -> tuple[float, int]:
    """All steps of a batch; the sum of its loss and the number of its scored frames."""
    u, target = _padded(batch)
    shards = np.array_split(np.arange(len(batch)), min(settings.n_shards, len(batch)))
    states: list[State | None] = [None] * len(shards)
    length = settings.truncate or u.shape[1]
    sums, counts = 0.0, 0
    for start in range(0, u.shape[1], length):
        frames = slice(start, start + length)
        now = filt.replace(**run.params)
        count = sum(_n_scored(wanted[frames]) for wanted in target)

        def part(
            voices: Array, state: State | None, now: Filter = now, frames: slice = frames, count: int = count
        ) -> tuple[float, dict[str, Array], State]:
            if settings.regularizer is not None:
                key = (settings.seed, run.epoch, place, 2)
                now = settings.regularizer.trained(now, Noise(key, tuple(voices.tolist()), len(batch), share))
            # what overflows is found below; a thread does not take this over from where it was started
            with np.errstate(all="ignore"):
                if not count:
                    return 0.0, {}, now.run(u[voices, frames], state)[1]
                tape = now.tape(u[voices, frames], state, kept_states=settings.kept_states)
                values, dy = settings.loss(tape.y, target[voices, frames])
                value = _finite("loss", float(values.sum(dtype=np.float64)))
                return value, tape.adjoint_of_params(dy / count), tape.state

        values, gradients, ends = zip(*pool.map(part, shards, states), strict=True)
        states = list(ends)
        if count:
            total = {name: np.sum([gradient[name] for gradient in gradients], axis=0) for name in run.params}
            run.step(total, settings, settings.rate * settings.falling(share))
            if settings.keep is not None:
                run.params = _kept(settings.keep(filt.replace(**run.params)), run.params)
            sums, counts = sums + sum(values), counts + count
    return sums, counts


def _kept(filt: Filter, params: dict[str, Array]) -> dict[str, Array]:
    """What ``keep`` made of the parameters, in their dtypes."""
    found = getattr(filt, "params", {})
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in params.items()}:
        raise ParameterError(f"keep gave {filt!r}: it must return the filter with other parameters of the same shapes")
    return {name: found[name].astype(value.dtype) for name, value in params.items()}


def _padded(batch: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Sequences side by side, the shorter ones followed by silence that is not scored."""
    n_frames = max(len(u) for u, _ in batch)
    first, wanted = batch[0]
    u = np.zeros((len(batch), n_frames, first.shape[1]), first.dtype)
    target = np.full((len(batch), n_frames, wanted.shape[1]), np.nan, first.dtype)
    for voice, (signal, goal) in enumerate(batch):
        u[voice, : len(signal)], target[voice, : len(goal)] = signal, goal
    return u, target


def _label(filt: Filter, data: Any, settings: _Settings) -> str:
    """A hash of all that decides how a training goes."""
    shapes = [[[(array.shape, array.dtype.name) for array in pair] for pair in pairs] for pairs in data]
    digest = hashlib.sha256(json.dumps([formats.describe(filt), settings.label, shapes]).encode())
    for array in (*filt.params.values(), *(array for pairs in data for pair in pairs for array in pair)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

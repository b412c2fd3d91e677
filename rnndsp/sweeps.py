"""Sweeps: one training for each of many settings, side by side, and what came of them in one table."""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any, overload

import numpy as np

from rnndsp import formats
from rnndsp._checks import choice, number, whole_number
from rnndsp._files import check_writable, writing
from rnndsp._progress import progress_bar
from rnndsp._threads import one_thread
from rnndsp.errors import FormatError, ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.training import Epoch, Fit, Progress

__all__ = ["Run", "Table", "grid", "log_uniform", "read", "sample", "sweep", "uniform"]

Setting = dict[str, Any]
Draw = Callable[[np.random.Generator], Any]

OF_FITS = ("loss", "validation", "best_epoch")
OF_RUNS = ("seconds", "stopped", "error", "path")
# Longer texts are cut where a table is shown.
MOST_LETTERS = 60
# Settings in a row that :func:`sample` has drawn before, until it gives up.
MOST_DRAWS = 1000


@dataclass(frozen=True)
class Run:
    """What came of one setting.

    Attributes
    ----------
    setting : dict
    numbers : dict of float
        Of a :class:`rnndsp.Fit` the ``loss`` and ``validation`` loss of its ``best_epoch``, NaN where the weights it
        started from were the best ones; of a function that returns one number the ``loss``; else those it returned.
        Empty where it raised an error.
    seconds : float
        How long it took.
    fit : Fit, optional
        With the trained filter and its history, where there is one.
    error : str
        What was raised, empty where nothing was.
    path : Path, optional
        The file, which :func:`rnndsp.load` reads where there is a filter.
    """

    setting: Setting
    numbers: dict[str, float]
    seconds: float
    fit: Fit[Any] | None = None
    error: str = ""
    path: Path | None = None

    @property
    def _row(self) -> dict[str, Any]:
        stopped = self.fit.stopped if self.fit else ""
        ends = (self.seconds, stopped, self.error, str(self.path or ""))
        return {**self.setting, **self.numbers, **dict(zip(OF_RUNS, ends, strict=True))}


@dataclass(frozen=True, repr=False)
class Table(Sequence[Run]):
    """The runs of a sweep; printed, one in each line.

    Attributes
    ----------
    runs : tuple of Run
    """

    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, place: int) -> Run: ...

    @overload
    def __getitem__(self, place: slice) -> Table: ...

    def __getitem__(self, place: int | slice) -> Run | Table:
        return Table(self.runs[place]) if isinstance(place, slice) else self.runs[place]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the settings, then of the numbers, then seconds, stopped, error and path."""
        groups = ((run.setting for run in self.runs), (run.numbers for run in self.runs))
        return tuple(dict.fromkeys([*(name for group in groups for names in group for name in names), *OF_RUNS]))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each run, None where it lacks something: what ``pandas.DataFrame`` takes."""
        columns = self.columns
        return [{name: row.get(name) for name in columns} for row in (run._row for run in self.runs)]

    @property
    def best(self) -> Run:
        """The run with the least validation loss, or the least loss where there is none, or the least first number.

        Raises
        ------
        ParameterError
            No run came to an end.
        """
        if not any(run.numbers for run in self.runs):
            errors = [run.error for run in self.runs]
            raise ParameterError(f"no run came to an end{f'; the first one said: {errors[0]}' if errors else ''}")
        return self.sorted().runs[0]

    @property
    def measure(self) -> str:
        """Name of the number that :attr:`best` goes by."""
        known = dict.fromkeys(name for run in self.runs for name, value in run.numbers.items() if value == value)
        return next((name for name in ("validation", "loss", *known) if name in known and name != "best_epoch"), "loss")

    def sorted(self, by: str = "", *, descending: bool = False) -> Table:
        """The runs in order; those that lack the number come last.

        Parameters
        ----------
        by : str
            Name of a column. When absent, the validation loss, or the loss where there is none, or the first number.
        descending : bool
            The largest first.
        """
        by = choice("by", by, self.columns) if by else self.measure

        def key(run: Run) -> tuple[int, Any]:
            """Of a column with numbers and words, numbers come first."""
            value = run._row[by]
            return (0, value) if _is_real(value) else (1, str(value))

        there: list[Run] = []
        missing: list[Run] = []
        for run in self.runs:
            value = run._row.get(by)
            (missing if value is None or value != value else there).append(run)
        # what failed comes last of all
        return Table((*sorted(there, key=key, reverse=descending), *sorted(missing, key=lambda run: bool(run.error))))

    def to_csv(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the rows, under a line with the names of the columns.

        Parameters
        ----------
        path : path
        force : bool
            Replace a file that is there.
        """
        with writing(path, force=force) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """What is shown: no paths, and neither errors nor reasons where there are none."""
        rows = self.rows
        shown = [name for name in self.columns if name != "path"]
        shown = [name for name in shown if name not in OF_RUNS[1:] or any(row[name] for row in rows)]
        return shown, [[_shown(row[name]) for name in shown] for row in rows]

    def __repr__(self) -> str:
        names, cells = self._cells()
        columns = []
        for name, column in zip(names, zip(*cells, strict=True) if cells else [()] * len(names), strict=True):
            width = max(map(len, (name, *column)))
            # seconds are last of the numbers; what follows them is text
            place = str.ljust if name in OF_RUNS[1:] else str.rjust
            columns.append([place(text, width) for text in (name, *column)])
        return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))

    def _repr_html_(self) -> str:
        """The table, as notebooks show it."""
        from rnndsp import notebook

        names, cells = self._cells()
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in cells)
        title = f"Sweep, {len(self)} run{'s' * (len(self) != 1)}"
        return notebook.box(title, f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def sweep(
    train: Callable[..., Any],
    settings: Iterable[Mapping[str, Any]],
    *,
    folder: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> Table:
    """Call a function with each of many settings, several at a time, and put what comes of it in a table.

    A run that raises an error has it in the table, and does not stop the others.

    Parameters
    ----------
    train : function
        Called with the items of a setting as keywords. It returns a :class:`rnndsp.Fit`, a number, or a mapping of
        names to numbers; one of them may be a Fit under the name ``fit``.
    settings : iterable of mappings
        Names to numbers, texts, booleans, None, or lists and tuples of these, no two alike. See :func:`grid` and
        :func:`sample`.
    folder : path, optional
        Each run that came to an end is written there at once, in a file of its own. A later call with this folder takes
        such runs from there, and makes those that are missing, those that raised an error among them.
    n_jobs : int, optional
        Runs at a time, each in a process of its own where there are more than one; -1 for as many as there are
        processors. When absent, what ``joblib.parallel_config`` says, one outside of it. Within
        ``joblib.parallel_config("dask")`` the runs go to the machines of a Dask cluster.
    progress : function, optional
        Called after every run with the runs done, their total, and a line about them. When absent, a bar on a terminal
        shows them after two seconds.

    Returns
    -------
    Table
        In the order of the settings.

    Raises
    ------
    ParameterError
        No settings, two alike, one that is not plain data; a folder that holds something else or the runs of another
        function; a function that cannot be sent to another process.
    FormatError
        A damaged file in the folder.
    RnndspError
        A process ended without notice. The runs that came to an end before are in the folder.

    Notes
    -----
    Matrix products of a run take one thread, so that its result does not depend on ``n_jobs``: it is the same wherever
    ``train`` draws its random numbers from seeds of its own. Of a Dask cluster each worker should have one thread, as
    the number of threads for matrix products is one of the whole process.

    The files hold numbers and text alone. They know the name of the function, but neither what it does nor its data:
    where these have changed, name another folder.

    A run that ends its process on a Dask cluster is tried on others; when it ended four, the sweep waits for it for
    ever, as joblib is not told. Interrupt it then.
    """
    if not callable(train):
        raise ParameterError(f"train={train!r} must be a function")
    if n_jobs is not None and whole_number("n_jobs", n_jobs, least=-(2**31)) == 0:
        raise ParameterError(f"{n_jobs=} must not be 0; -1 is as many as there are processors")
    plain = [_plain_setting(place, setting) for place, setting in enumerate(settings)]
    names = [_name(setting) for setting in plain]
    if not plain:
        raise ParameterError("there are no settings to run")
    if twins := [setting for place, setting in enumerate(plain) if names[place] in names[:place]]:
        raise ParameterError(f"the setting {twins[0]} stands there twice")
    label = _label(train)
    room = None if folder is None else _room(Path(folder))
    paths = [None if room is None else room / name for name in names]
    runs: dict[int, Run] = {}
    for place, path in enumerate(paths):
        if path is not None and path.exists():
            runs[place] = _load(path, plain[place], label)
    todo = [place for place in range(len(plain)) if place not in runs]
    if todo and (path := paths[todo[0]]) is not None:
        check_writable(path, force=True)
    with (
        _same_classes(),
        nullcontext(progress) if progress else progress_bar("sweep", after_s=2.0) as tell,
        closing(_outcomes(train, [(place, plain[place]) for place in todo], n_jobs)) as outcomes,
    ):
        for place, run in outcomes:
            if (path := paths[place]) is not None and not run.error:
                run = _save(run, path, label)
            runs[place] = run
            tell(len(runs), len(plain), _summary(runs.values()))
    return Table(tuple(runs[place] for place in range(len(plain))))


def read(folder: str | os.PathLike[str]) -> Table:
    """The runs in a folder of :func:`sweep`, also while others are still under way, by the names of their files.

    Parameters
    ----------
    folder : path

    Raises
    ------
    ParameterError
        There is no such folder, or it holds no runs.
    FormatError
        A damaged file.
    """
    paths = sorted(Path(folder).glob("run-*.safetensors"))
    if not paths:
        raise ParameterError(f"{folder} is no folder with runs of a sweep")
    return Table(tuple(_load(path) for path in paths))


def grid(**values: Iterable[Any]) -> list[Setting]:
    """All combinations of the values, the last name varying fastest.

    Parameters
    ----------
    **values : iterable
        The values of each name.
    """
    rooms = {name: _listed(name, value) for name, value in values.items()}
    return [dict(zip(rooms, chosen, strict=True)) for chosen in itertools.product(*rooms.values())] if rooms else []


def sample(n: int, seed: int, /, **values: Iterable[Any] | Draw) -> list[Setting]:
    """Settings at random, all different; of a larger n the first ones are the same.

    Parameters
    ----------
    n : int
        How many.
    seed : int
    **values : iterable or function
        Of each name the values to choose from, or a function of a random generator, as :func:`log_uniform` gives.

    Raises
    ------
    ParameterError
        The values have not as many combinations.
    """
    n, rng = whole_number("n", n), np.random.default_rng(whole_number("seed", seed, least=0))
    draws = {name: value if callable(value) else _chooser(_listed(name, value)) for name, value in values.items()}
    found: dict[str, Setting] = {}
    since = 0
    while len(found) < n:
        setting = _plain_setting(len(found), {name: draw(rng) for name, draw in draws.items()})
        since = since + 1 if (name := _name(setting)) in found else 0
        found.setdefault(name, setting)
        if since > MOST_DRAWS:
            raise ParameterError(f"{n=}, but only {len(found)} different settings were found")
    return list(found.values())


def uniform(low: float, high: float) -> Draw:
    """For :func:`sample`: numbers from low to high, all alike.

    Parameters
    ----------
    low, high : float
    """
    low, high = number("low", low), number("high", high)
    if not low < high:
        raise ParameterError(f"{low=} must be below {high=}")
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """For :func:`sample`: numbers from low to high whose logarithms are all alike, as for learning rates.

    Parameters
    ----------
    low, high : float
        Positive.
    """
    if not 0 < number("low", low) < number("high", high):
        raise ParameterError(f"{low=} and {high=} must be positive, and the first one less")
    draw = uniform(float(np.log(low)), float(np.log(high)))
    return lambda rng: float(np.clip(np.exp(draw(rng)), low, high))


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ParameterError(f"{name}={value!r}: give a list of values, also of a single one")
    if not (values := list(value)):
        raise ParameterError(f"{name}: there are no values")
    return values


def _chooser(values: list[Any]) -> Draw:
    return lambda rng: values[rng.integers(len(values))]


# ---- settings


def _plain_setting(place: int, setting: Any) -> Setting:
    if not isinstance(setting, Mapping) or not all(isinstance(name, str) for name in setting):
        raise ParameterError(f"settings[{place}]={setting!r} must be a mapping of names to values")
    if taken := sorted({*OF_FITS, *OF_RUNS} & set(setting)):
        raise ParameterError(f"settings[{place}]: {taken[0]} is the name of a result; give this setting another one")
    try:
        return {name: _plain(value) for name, value in setting.items()}
    except TypeError as error:
        raise ParameterError(
            f"settings[{place}]={setting!r}: {error} is not plain data; let the setting name it, and make it in train"
        ) from None


def _plain(value: Any) -> Any:
    """The value, of types that JSON can hold and that are the same in every process."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else tuple(map(_plain, value))
    if value is None or type(value) in (str, bool, int) or (type(value) is float and np.isfinite(value)):
        return value
    raise TypeError(repr(value))


def _name(setting: Setting) -> str:
    """Of the file; the order of the names does not count."""
    text = json.dumps(setting, sort_keys=True)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def _label(train: Callable[..., Any]) -> str:
    while isinstance(train, functools.partial):
        train = train.func
    return str(getattr(train, "__qualname__", type(train).__qualname__))


# ---- runs


def _outcomes(
    train: Callable[..., Any], jobs: Sequence[tuple[int, Setting]], n_jobs: int | None
) -> Generator[tuple[int, Run], None, None]:
    """What comes of them, each with its place, in the order in which they end."""
    if not jobs:
        return
    import cloudpickle
    from joblib import Parallel, delayed, effective_n_jobs

    if effective_n_jobs(n_jobs) != 1:
        try:  # now, as Dask would wait for ever
            cloudpickle.dumps(train)
        except Exception as error:
            raise ParameterError(
                f"train={train!r}, or what it refers to, cannot be sent to another process: {error}; use n_jobs=1"
            ) from error
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    try:
        with closing(parallel(delayed(_attempt)(train, *job) for job in jobs)) as done:
            yield from done
    except Exception as error:  # those of the runs are in them
        said = (str(error).splitlines() or [""])[0]
        raise RnndspError(
            f"a process at work on the runs was lost; was there enough memory? ({type(error).__name__}: {said})"
        ) from error


@contextmanager
def _same_classes() -> Iterator[None]:
    """A filter of a class of this script, back from another process, registers a twin of its class: undo that."""
    known = dict(Filter.registry)
    try:
        yield
    finally:
        Filter.registry.update(known)


def _attempt(train: Callable[..., Any], place: int, setting: Setting) -> tuple[int, Run]:
    began = time.perf_counter()
    try:
        with one_thread():
            found = train(**setting)
        numbers, fit = _understood(found, setting)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return place, Run(setting, {}, time.perf_counter() - began, error=said)
    return place, Run(setting, numbers, time.perf_counter() - began, fit)


def _understood(found: Any, setting: Setting) -> tuple[dict[str, float], Fit[Any] | None]:
    given: Mapping[Any, Any] = {"fit" if isinstance(found, Fit) else "loss": found}
    if isinstance(found, Mapping):
        given = found
    numbers: dict[str, float] = {}
    fit = given.get("fit")
    if isinstance(fit, Fit):
        best = fit.history[fit.best - 1] if fit.best else Epoch(np.nan, np.nan, 0.0)
        numbers = dict(zip(OF_FITS, (best.loss, best.validation, float(fit.best)), strict=True))
        given = {name: value for name, value in given.items() if name != "fit"}
    for name, value in given.items():
        if not isinstance(name, str) or not _is_real(value):
            what = f"{name!r}: {value!r}" if isinstance(found, Mapping) else repr(found)
            raise ParameterError(f"train returned {what}; it must return a Fit, a number, or a mapping of numbers")
        if name in OF_RUNS or name in setting:
            raise ParameterError(f"train returned a number {name!r}, which is the name of something else")
        numbers[name] = float(value)
    if not numbers:
        raise ParameterError("train returned no number")
    return numbers, fit if isinstance(fit, Fit) else None


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _summary(runs: Iterable[Run]) -> str:
    table = Table(tuple(runs))
    n_failed = sum(bool(run.error) for run in table)
    said = [f"{n_failed} failed"] if n_failed else []
    if n_failed < len(table):
        said.append(f"least {table.measure} {table.best.numbers.get(table.measure, np.nan):.4g}")
    return ", ".join(said)


# ---- files


def _room(folder: Path) -> Path:
    """The folder, made where it is not there."""
    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder")
    if not folder.exists():
        if not folder.absolute().parent.is_dir():
            raise ParameterError(f"the folder {folder.parent} does not exist; make it first")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ParameterError(f"cannot make the folder {folder}: {error.strerror}") from error
    if any(not path.name.startswith(".") for path in folder.iterdir()) and not any(folder.glob("run-*.safetensors")):
        raise ParameterError(f"{folder} holds something else than runs of a sweep; name another folder")
    return folder


def _save(run: Run, path: Path, label: str) -> Run:
    description: dict[str, Any] = {"train": label, "setting": run.setting, "numbers": run.numbers}
    description |= {"seconds": run.seconds, "fit": None}
    if run.fit is None:
        formats.write(path, {"run": description}, {}, force=True)
    else:
        description["fit"] = {"history": run.fit.history, "best": run.fit.best, "stopped": run.fit.stopped}
        described = {"run": description, "filter": formats.describe(run.fit.filter)}
        formats.write(path, described, dict(run.fit.filter.params), force=True)
    return replace(run, path=path)


def _load(path: Path, setting: Setting | None = None, label: str | None = None) -> Run:
    """A run from its file; with a setting and a label, only theirs."""
    description, _ = formats.read(path, "run")
    try:
        found, train = _plain_setting(0, description["setting"]), str(description["train"])
        if _name(found) != path.name:
            raise ValueError(f"this is the file of {found}")
        numbers = {str(name): float(value) for name, value in description["numbers"].items()}
        seconds, about = float(description["seconds"]), description["fit"]
        if about is not None:
            history, stopped = tuple(Epoch(*map(float, row)) for row in about["history"]), str(about["stopped"])
            if (best := whole_number("best", about["best"], least=0)) > len(history):
                raise ValueError(f"{best=}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is a damaged run; delete it to have it made anew ({error!r})") from error
    if label is not None and train != label:
        raise ParameterError(f"{path.parent} holds runs of {train}, not of {label}; name another folder")
    fit = None if about is None else Fit(formats.load(path), history, best, stopped)
    # what was a tuple is a list in the file
    return Run(found if setting is None else setting, numbers, seconds, fit, path=path)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 3] + "..."

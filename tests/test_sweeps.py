"""Sweeps. Oracles: the same calls one by one, files read by others (safetensors, csv), and sweeps cut short."""

import csv
import functools
import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors import safe_open
from threadpoolctl import threadpool_info, threadpool_limits

from rnndsp import Fit, FormatError, ParameterError, RnndspError, fit, load
from rnndsp.filters import Dense, Elman
from rnndsp.losses import squared
from rnndsp.plots import sweep_plot
from rnndsp.sweeps import Run, Table, _name, _plain_setting, grid, log_uniform, read, sample, sweep, uniform
from rnndsp.training import Epoch

SETTINGS = grid(rate=[0.01, 0.03], n=[1, 2], seed=[0, 1])


def train(rate, n, seed):
    """A training of a few milliseconds; one of the settings is beyond it."""
    if (rate, n) == (0.03, 1):
        raise ValueError("too fast\nfor one unit")
    rng = np.random.default_rng(seed)
    pairs = [(u, u.cumsum(axis=0)[:, :1]) for u in rng.standard_normal((4, 6, 2))]
    filt = Elman(2, n, seed=seed) >> Dense(n, 1, seed=seed)
    return fit(filt, pairs, squared, validation=pairs[1:], n_epochs=2, rate=rate)


# sent by value: a process that does not have this folder on its path could not import it
train.__module__ = "__main__"


def made(n=2, losses=((3.0, 4.0), (1.0, 2.0)), best=2, stopped=""):
    """What a training might give."""
    return Fit(Dense(n, 1, seed=n), tuple(Epoch(*pair, 0.5) for pair in losses), best, stopped)


def told(table):
    """All but the times; as text, in which NaN is NaN."""
    return [json.dumps([run.setting, run.numbers, run.error]) for run in table]


def counted(function):
    """The function, and a list of what it was called with."""
    calls = []

    @functools.wraps(function)
    def counting(**setting):
        calls.append(setting)
        return function(**setting)

    return counting, calls


@pytest.fixture(scope="module")
def alone():
    return sweep(train, SETTINGS)


# ---- runs


def test_runs_are_those_of_the_function(alone):
    assert [run.setting for run in alone] == SETTINGS
    for run in alone:
        try:
            expected = train(**run.setting)
        except ValueError:
            assert run.error == "ValueError: too fast\nfor one unit" and not run.numbers and run.fit is None
        else:
            last = expected.history[expected.best - 1]
            assert expected.best and not run.error and run.fit.filter == expected.filter
            assert run.numbers == {"loss": last.loss, "validation": last.validation, "best_epoch": expected.best}
    assert sum(bool(run.error) for run in alone) == 2
    assert alone.best.numbers["validation"] == min(run.numbers["validation"] for run in alone if run.numbers)


def test_processes_change_nothing(alone, tmp_path):
    with warnings.catch_warnings():
        # forks are of no harm here, and joblib makes none
        warnings.simplefilter("ignore", DeprecationWarning)
        table = sweep(train, SETTINGS, folder=tmp_path / "runs", n_jobs=2)
    assert told(table) == told(alone) == told(sweep(train, SETTINGS, folder=tmp_path / "runs"))
    for run, other in zip(table, alone, strict=True):
        assert run.error or run.fit.filter == other.fit.filter == load(run.path)


def test_filters_of_classes_that_other_processes_do_not_know(tmp_path):
    Mine = type("Mine", (Elman,), {"__module__": "__main__"})  # as if in a script

    def returns(n):
        return Fit(Mine(1, n), (), 0)

    for _ in range(2):
        for run in sweep(returns, grid(n=[1, 2]), folder=tmp_path, n_jobs=2):
            assert type(run.fit.filter) is type(load(run.path)) is Mine


@pytest.mark.slow
def test_a_cluster_changes_nothing(alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    import joblib

    calls = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ports and forks: theirs
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        )
        with cluster, distributed.Client(cluster), joblib.parallel_config("dask"):
            table = sweep(train, SETTINGS, folder=tmp_path, progress=lambda *call: calls.append(call))
            lock = threading.Lock()
            with pytest.raises(ParameterError, match="cannot be sent to another process"):
                sweep(lambda a: lock and a, grid(a=[1, 2]))
    assert told(table) == told(alone) == told(sweep(train, SETTINGS, folder=tmp_path))
    assert [call[:2] for call in calls] == [(n, 8) for n in range(1, 9)]


def test_what_a_function_may_return():
    def returns(what):
        return {
            "number": 2,
            "numpy": np.float32(0.5),
            "nan": np.nan,
            "mapping": {"esr": 0.25, "ratio": np.int64(3)},
            "fit": made(),
            "both": {"fit": made(losses=((3, np.nan),), best=1), "esr": 0.5, "loss": 7},
            "untrained": made(best=0),
        }[what]

    expected = [
        {"loss": 2.0},
        {"loss": 0.5},
        {"loss": np.nan},
        {"esr": 0.25, "ratio": 3.0},
        {"loss": 1.0, "validation": 2.0, "best_epoch": 2.0},
        {"loss": 7.0, "validation": np.nan, "best_epoch": 1.0, "esr": 0.5},
        {"loss": np.nan, "validation": np.nan, "best_epoch": 0.0},
    ]
    names = ["number", "numpy", "nan", "mapping", "fit", "both", "untrained"]
    table = sweep(returns, grid(what=names))
    np.testing.assert_equal([run.numbers for run in table], expected)
    assert [run.fit is not None for run in table] == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    "found", [None, "0.5", True, {}, {"esr": "low"}, {1: 0.5}, {"fit": 0.5j}, {"a": 3.0}, {"error": 1.0}, [0.5]]
)
def test_what_a_function_may_not_return(found):
    (run,) = sweep(lambda a: found, grid(a=[1]))
    assert run.error.startswith("ParameterError: train returned") and not run.numbers


def test_progress_tells_of_failures_and_of_the_least():
    def odd(a):
        return 1 / (a % 2)

    calls = []
    sweep(odd, grid(a=[1, 2, 3]), progress=lambda *call: calls.append(call))
    assert calls == [(1, 3, "least loss 1"), (2, 3, "1 failed, least loss 1"), (3, 3, "1 failed, least loss 1")]


def test_matrix_products_take_one_thread():
    def n_threads(a):
        return max(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")

    with threadpool_limits(2, "blas"):
        (run,) = sweep(n_threads, grid(a=[1]))
        assert run.numbers == {"loss": 1.0} and n_threads(1) == 2


# ---- files


def test_an_interrupted_sweep_resumes(tmp_path):
    def stopping(a):
        if a == 3:
            raise KeyboardInterrupt
        return made(a)

    def going(a):
        return made(a)

    going.__qualname__ = stopping.__qualname__
    settings = grid(a=[1, 2, 3, 4])
    with pytest.raises(KeyboardInterrupt):
        sweep(stopping, settings, folder=tmp_path)
    assert [run.setting["a"] for run in read(tmp_path).sorted("a")] == [1, 2]
    again, calls = counted(going)
    table = sweep(again, settings, folder=tmp_path)
    assert calls == [{"a": 3}, {"a": 4}] and told(table) == told(sweep(going, settings))
    # more settings, in another order
    table = sweep(again, [{"a": 5}, *settings[::-1]], folder=tmp_path)
    assert calls[2:] == [{"a": 5}] and [run.setting["a"] for run in table] == [5, 4, 3, 2, 1]
    assert table[1].fit == made(4) and table[1].path.name in {path.name for path in tmp_path.iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_errors_are_tried_again(tmp_path):
    broken = [True]

    def sometimes(a):
        if broken and a == 1:
            raise OSError("no disk")
        return a

    table = sweep(sometimes, grid(a=[1, 2]), folder=tmp_path)
    assert [run.error for run in table] == ["OSError: no disk", ""] and table[0].path is None
    broken.clear()
    assert [run.numbers for run in sweep(sometimes, grid(a=[1, 2]), folder=tmp_path)] == [{"loss": 1.0}, {"loss": 2.0}]


def test_files_hold_all_of_a_run(tmp_path):
    found = made(3, ((3.0, np.nan), (0.1, np.nan)), stopped="no better for 3 epochs")
    (run,) = sweep(
        lambda **setting: {"fit": found, "esr": 0.1}, [{"shape": (1, 2), "name": "ä", "n": None}], folder=tmp_path
    )
    (other,) = read(tmp_path)
    assert other.setting == {"shape": [1, 2], "name": "ä", "n": None} and run.setting["shape"] == (1, 2)
    assert (other.numbers["esr"], other.seconds, other.path) == (0.1, run.seconds, run.path)
    assert repr(other.fit) == repr(found) and load(run.path) == found.filter
    with safe_open(run.path, framework="numpy") as file:
        assert json.loads(file.metadata()["run"])["setting"] == other.setting


def test_names_of_files_know_neither_order_nor_type():
    def names(*settings):
        return {_name(_plain_setting(0, setting)) for setting in settings}

    assert len(names({"a": 1, "b": 0.1}, {"b": np.float64(0.1), "a": np.int8(1)})) == 1
    assert len(names({"a": 1}, {"a": 2}, {"a": True}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1}, {})) == 8
    # in every process, today and tomorrow
    assert names({"rate": 0.001, "n": 8}) == {"run-bf5b8c640b87c2ef.safetensors"}


def spoil(path, change):
    """The same file with another description."""
    from safetensors.numpy import load_file, save_file

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    description = json.loads(metadata["run"])
    change(description)
    save_file(tensors, path, metadata | {"run": json.dumps(description)})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("numbers"),
        lambda d: d.update(numbers=[1]),
        lambda d: d.update(numbers={"loss": "low"}),
        lambda d: d.update(setting={"a": 2}),
        lambda d: d.update(setting=3),
        lambda d: d.update(seconds=None),
        lambda d: d["fit"].pop("best"),
        lambda d: d["fit"].update(best=9),
        lambda d: d["fit"].update(history=[[1, 2]]),
        lambda d: d.update(fit=3),
    ],
)
def test_damaged_descriptions(tmp_path, change):
    def returns(a):
        return made()

    (run,) = sweep(returns, grid(a=[1]), folder=tmp_path)
    spoil(run.path, change)
    for again in (lambda: read(tmp_path), lambda: sweep(returns, grid(a=[1]), folder=tmp_path)):
        with pytest.raises(FormatError, match="damaged run; delete it"):
            again()


def test_damaged_files(tmp_path):
    def returns(a):
        return made()

    (run,) = sweep(returns, grid(a=[1]), folder=tmp_path)
    whole = run.path.read_bytes()
    for spoiled in (whole[: len(whole) // 2], whole[:-1], b"", b"pickle"):
        run.path.write_bytes(spoiled)
        with pytest.raises(FormatError, match=run.path.name):
            sweep(returns, grid(a=[1]), folder=tmp_path)
    made(5).filter.save(run.path, force=True)
    with pytest.raises(FormatError, match="holds no rnndsp run"):
        sweep(returns, grid(a=[1]), folder=tmp_path)


def test_folders_that_are_something_else(tmp_path):
    def first(a):
        return a

    def second(a):
        return a

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for folder, names in (("home", "something else"), ("home/letter.txt", "not a folder"), ("a/b", "does not exist")):
        with pytest.raises(ParameterError, match=names):
            sweep(first, grid(a=[1]), folder=tmp_path / folder)
    sweep(first, grid(a=[1]), folder=tmp_path / "runs")
    with pytest.raises(ParameterError, match=r"runs of .*first, not of .*second"):
        sweep(second, grid(a=[1]), folder=tmp_path / "runs")
    sweep(functools.partial(first), grid(a=[1]), folder=tmp_path / "runs")
    for folder in ("home", "nowhere", "home/letter.txt"):
        with pytest.raises(ParameterError, match="no folder with runs"):
            read(tmp_path / folder)


# ---- settings


def test_grids():
    assert grid(a=[1, 2], b=["xy"]) == [{"a": 1, "b": "xy"}, {"a": 2, "b": "xy"}]
    assert [tuple(s.values()) for s in grid(b=range(2), a=np.array([0.5, 2]))] == [(0, 0.5), (0, 2), (1, 0.5), (1, 2)]
    for values, names in (({"a": 3}, "a=3"), ({"a": "tanh"}, "a='tanh'"), ({"a": []}, "no values")):
        with pytest.raises(ParameterError, match=names):
            grid(**values)


def test_samples():
    ranges = {"rate": log_uniform(1e-4, 1e-2), "skip": uniform(-1, 2), "n": [8, 16], "seed": [0]}
    settings = sample(400, 3, **ranges)
    assert settings[:7] == sample(7, 3, **ranges) != sample(7, 4, **ranges)
    rates, skips = (np.array([setting[name] for setting in settings]) for name in ("rate", "skip"))
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2 and skips.min() >= -1 and skips.max() < 2
    # four standard deviations of a mean of 400
    assert abs(np.log10(rates).mean() + 3) < 4 * 2 / np.sqrt(12 * 400)
    assert abs(skips.mean() - 0.5) < 4 * 3 / np.sqrt(12 * 400)
    assert abs(np.mean([setting["n"] == 8 for setting in settings]) - 0.5) < 0.1
    assert sorted(s["a"] for s in sample(3, 0, a=[1, 2, 3])) == [1, 2, 3]
    with pytest.raises(ParameterError, match="only 3 different"):
        sample(4, 0, a=[1, 2, 3])
    for wrong in (
        lambda: log_uniform(0, 1),
        lambda: log_uniform(2, 1),
        lambda: uniform(1, 1),
        lambda: sample(0, 0, a=[1]),
    ):
        with pytest.raises(ParameterError):
            wrong()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([], "no settings"),
        ([{"a": 1}, {"a": 2}, {"a": 1}], "twice"),
        ([{"a": 1, "b": 2}, {"b": 2, "a": np.int64(1)}], "twice"),
        ({"a": 1}, r"settings\[0\]='a'"),
        ([{"a": 1}, 3], r"settings\[1\]=3"),
        ([{3: 1}], "names"),
        ([{"a": np.nan}], "nan is not plain"),
        ([{"a": 1j}], "1j is not plain"),
        ([{"a": [1, squared]}], "squared.* is not plain"),
        ([{"a": {"b": 1}}], "not plain"),
        ([{"a": np.ones(2)}], "not plain"),
        ([{"loss": "esr"}], "loss is the name of a result"),
    ],
)
def test_bad_settings_are_named(settings, names):
    with pytest.raises(ParameterError, match=names):
        sweep(lambda **setting: pytest.fail("it ran"), settings)


def test_bad_arguments_are_named():
    for n_jobs in (0, 1.5, "all"):
        with pytest.raises(ParameterError, match="n_jobs"):
            sweep(train, SETTINGS, n_jobs=n_jobs)
    with pytest.raises(ParameterError, match="train=3"):
        sweep(3, SETTINGS)
    lock = threading.Lock()
    with pytest.raises(ParameterError, match="cannot be sent to another process: cannot pickle"):
        sweep(lambda a: lock and a, grid(a=[1, 2]), n_jobs=2)


# ---- tables


def a_table():
    runs = (
        Run({"rate": 0.001, "cell": "gru"}, {"loss": 0.5, "validation": 0.75}, 2.0, path=Path("runs/a")),
        Run({"rate": 0.01, "cell": "lstm"}, {}, 0.125, error="ValueError: " + 20 * "long " + "\nand <b>"),
        Run({"rate": 0.1, "cell": "gru", "n": 12345}, {"loss": 0.25, "validation": np.nan}, 1.0),
        Run({"rate": 1.0, "cell": None}, {"loss": 2.0, "validation": 0.625}, 3.0),
    )
    return Table(runs)


COLUMNS = ["rate", "cell", "n", "loss", "validation", "seconds", "stopped", "error", "path"]


def rates(table):
    return [run.setting["rate"] for run in table]


def test_tables_are_sorted():
    table = a_table()
    assert rates(table.sorted()) == [1.0, 0.001, 0.1, 0.01] and table.best is table[3]
    assert rates(table.sorted("loss")) == [0.1, 0.001, 1.0, 0.01]
    assert rates(table.sorted("loss", descending=True)) == [1.0, 0.001, 0.1, 0.01]
    assert rates(table.sorted("cell")) == [0.001, 0.1, 0.01, 1.0] and rates(table.sorted("n"))[0] == 0.1
    assert rates(table.sorted("seconds")[:2]) == [0.01, 0.1] and len(table) == 4
    with pytest.raises(ParameterError, match="by='esr': choose one of"):
        table.sorted("esr")
    assert Table(table.runs[2:3]).best is table[2]
    mixed = Table(tuple(Run({"a": a}, {"esr": 1.0 - a_place}, 0) for a_place, a in enumerate(["b", 2, "a", 1.5])))
    assert [run.setting["a"] for run in mixed.sorted("a")] == [1.5, 2, "a", "b"] and mixed.best is mixed[3]
    for runs, names in ((table.runs[1:2], "ValueError: long"), ((), "no run came to an end$")):
        with pytest.raises(ParameterError, match=names):
            _ = Table(runs).best


def test_tables_as_text():
    assert str(a_table()[:3]).splitlines() == [
        " rate  cell      n  loss  validation  seconds  error",
        "0.001   gru          0.5        0.75        2",
        " 0.01  lstm                             0.125  ValueError: " + (9 * "long ")[:45] + "...",
        "  0.1   gru  12345  0.25         nan        1",
    ]
    assert str(a_table()[:1]).split() == [
        "rate",
        "cell",
        "loss",
        "validation",
        "seconds",
        "0.001",
        "gru",
        "0.5",
        "0.75",
        "2",
    ]


def test_tables_as_csv_and_rows(tmp_path):
    table = a_table()
    table.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table.columns) == COLUMNS
    assert [float(row["rate"]) for row in rows] == rates(table) and rows[1]["error"] == table[1].error
    assert (rows[0]["path"], rows[0]["n"], rows[2]["n"]) == ("runs/a", "", "12345")
    assert table.rows[0] | {"validation": 0.75} == table.rows[0] and table.rows[0]["n"] is None
    with pytest.raises(ParameterError, match="exists"):
        table.to_csv(tmp_path / "table.csv")


def test_tables_in_notebooks_are_escaped():
    page = Table(tuple(Run({"<i>": "<b>"}, {"loss": 1.0}, 1.0) for _ in range(1)))._repr_html_()
    assert "<th>&lt;i&gt;</th>" in page and "<td>&lt;b&gt;</td>" in page and "1 run<" in page
    assert "<td>12345</td>" in a_table()._repr_html_()


def test_a_lost_process(tmp_path):
    def dying(a):
        import os

        return a if a < 2 else os._exit(1)

    with pytest.raises(RnndspError, match="was lost"):
        sweep(dying, grid(a=[1, 2]), folder=tmp_path, n_jobs=2)


# ---- plots


def test_plots_of_sweeps():
    figure = Figure()
    table = sweep(
        lambda **s: np.nan if s["seed"] == 9 else s["rate"] * s["n"] * (1 + s["seed"] % 3),
        grid(rate=[1.0, 20.0], n=[2, 3], seed=[0, 2, 4, 9]),
    )
    ax = figure.subplots()
    points = sweep_plot(table, "rate", by="n", ax=ax)
    assert list(points) == [2, 3] and (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    np.testing.assert_array_equal(points[3].get_xydata(), [[1, 3], [1, 9], [1, 6], [20, 60], [20, 180], [20, 120]])
    (median,) = (line for line in ax.lines if line not in points.values() and line.get_color() == points[3].get_color())
    np.testing.assert_array_equal(median.get_xydata(), [[1, 6], [20, 120]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["n = 2", "n = 3"]
    ax = figure.add_subplot()
    words = sweep_plot(a_table(), "cell", y="seconds", ax=ax)
    np.testing.assert_array_equal(words[None].get_xydata(), [[0, 2], [1, 0.125], [0, 1]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["gru", "lstm"] and ax.get_legend() is None
    with pytest.raises(ParameterError, match="can be told apart"):
        sweep_plot(Table(tuple(Run({"a": 1, "b": b}, {"loss": 1.0}, 0) for b in range(5))), "a", by="b")
    for wrong in ({"x": "rat"}, {"x": "rate", "y": "esr"}, {"x": "rate", "by": "size"}):
        with pytest.raises(ParameterError, match="choose one of"):
            sweep_plot(a_table(), **wrong)
    assert sweep_plot(a_table()[1:2], "rate", ax=figure.add_subplot()) == {}

"""Files: round trips to the bit, hostile files of every kind, a fuzzer, and saving that never loses anything.

Oracles: equality with what was saved; for everything else the promise of :func:`rnndsp.load` itself, a
:class:`FormatError` or a valid filter, where valid means the tree of classes that the file has and the shapes that
these classes want.
"""

import copy
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from all_filters import FILTERS
from safetensors import safe_open
from scipy import signal

import rnndsp
from rnndsp import Cell, Feedback, FormatError, Knobs, ParameterError, load, load_state, save_state
from rnndsp.filters import GRU, LSTM, SOS, Dense, Elman, FeedbackDelayNetwork, StateSpace, StateVariable

# Seconds of computing that no hostile file may take, however busy the machine: generous, for "does not hang".
PATIENCE = 5
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "bool": "BOOL"}

Tree = dict[str, Any]
Tensors = dict[str, np.ndarray]


def write_raw(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def craft(path: Path, tree: Any, tensors: Tensors | None = None, *, kind: str = "filter", version: str = "1") -> None:
    """A safetensors file written by hand, of a description as an object or as JSON."""
    text = tree if isinstance(tree, str) else json.dumps(tree)
    header: Tree = {"__metadata__": {"format": "rnndsp", "format_version": version, kind: text}}
    data = b""
    for name, value in (tensors or {}).items():
        end = len(data) + value.nbytes
        header[name] = {"dtype": DTYPES[value.dtype.name], "shape": value.shape, "data_offsets": [len(data), end]}
        data += value.tobytes()
    write_raw(path, json.dumps(header).encode(), data)


def parts(path: Path, kind: str = "filter") -> tuple[Any, Tensors]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()[kind]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def described(filt: rnndsp.Filter, folder: Path) -> tuple[Any, Tensors]:
    path = folder / "described.safetensors"
    filt.save(path, force=True)
    return parts(path)


def node(name: Any, config: Any = None, rate: Any = None, children: Any = ()) -> Tree:
    return {"class": name, "config": {} if config is None else config, "sample_rate": rate, "children": list(children)}


def refused(path: Path, read: Callable[[Path], Any] = load, match: str | None = None) -> None:
    start = time.process_time()
    with pytest.raises(FormatError, match=match):
        read(path)
    assert time.process_time() - start < PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.safetensors"


def _good() -> dict[str, rnndsp.Filter]:
    return {
        "lstm": LSTM(1, 3) >> Dense(3, 1),
        "feedback": Feedback(SOS(signal.butter(2, 0.3, output="sos")), 0.5, delay=6),
        "sos": SOS(signal.butter(4, 0.3, output="sos"), sample_rate=48000),
        "fdn": FeedbackDelayNetwork([3, 4, 5], t60_s=0.1, sample_rate=8000),
        "knobs": Knobs(GRU(3, 2) >> Dense(2, 1, activation="tanh"), {"drive": 0.5, "tone": 0.2}),
        "variable": StateVariable("lowpass", cutoff_hz=900, q=1, sample_rate=48000) >> Elman(1, 2),
    }


# ---- round trips


def test_single_numbers_keep_their_shape(path: Path) -> None:
    rnndsp.formats.write(path, {"checkpoint": {}}, {"level": np.array(0.5), "row": np.zeros(1)}, force=False)
    _, tensors = rnndsp.formats.read(path, "checkpoint")
    assert tensors["level"].shape == () and tensors["row"].shape == (1,)


@pytest.mark.parametrize("name", FILTERS)
def test_round_trip(name: str, path: Path) -> None:
    filt = FILTERS[name]()
    filt.save(path)
    again = load(path)
    assert again == filt and type(again) is type(filt) and again.config == filt.config
    for key, value in filt.params.items():
        assert again.params[key].dtype == value.dtype and again.params[key].tobytes() == value.tobytes()
    u = 0.1 * np.random.default_rng(0).standard_normal((2, 40, filt.n_inputs))
    for dtype in (np.float32, np.float64):
        y, state = filt.run(u.astype(dtype))
        assert np.array_equal(again(u.astype(dtype)), y)
        save_state(state, path, force=True)
        restored = load_state(path)
        assert restored == state and restored.layout == state.layout
        assert np.array_equal(again.run(u.astype(dtype), restored)[0], filt.run(u.astype(dtype), state)[0])


def test_float32_parameters_stay_float32(path: Path) -> None:
    filt = Dense(2, 2).replace(W=np.array([[1, 2], [3, 0.1]], np.float32))
    filt.save(path)
    assert load(path).params["W"].dtype == np.float32


# ---- not our file, or a damaged one


def test_text_is_called_text(path: Path) -> None:
    path.write_text('{"model": "LSTM", "weights": []}')
    refused(path, match="it holds text")


@pytest.mark.parametrize("read", [load, load_state])
def test_not_a_model(read: Callable[[Path], Any], path: Path) -> None:
    refused(path, read, "not a file")
    refused(path.parent, read, "not a file")
    rng = np.random.default_rng(0)
    contents = [b"", b"\0", b"hello, this is text\n" * 20, b"{}", bytes(8), b"\xff" * 100, b"RIFF" + bytes(60)]
    contents += [rng.bytes(n) for n in (1, 7, 8, 9, 100, 10000)]
    for content in contents:
        path.write_bytes(content)
        refused(path, read)
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    refused(path, read, "holds no rnndsp")
    safetensors.numpy.save_file({"x": np.zeros(3)}, path, {"format": "pt"})
    refused(path, read, "holds no rnndsp")


def test_filter_and_state_are_not_confused(path: Path) -> None:
    LSTM(1, 2).save(path)
    refused(path, load_state, "no rnndsp state")
    save_state(LSTM(1, 2).rest_state(), path, force=True)
    refused(path, load, "no rnndsp filter")


def test_truncated(path: Path) -> None:
    _good()["lstm"].save(path)
    whole = path.read_bytes()
    for n in range(0, len(whole), 10):
        path.write_bytes(whole[:n])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


def test_lying_header(path: Path) -> None:
    Dense(1, 2).save(path)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for lie in (0, 1, length - 1, length + 1, len(whole), 2**31, 2**32, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", lie) + whole[8:])
        refused(path)
    header = json.loads(whole[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    for key, value in [
        ("shape", [10**12, 10**12]),
        ("shape", [2**62, 4]),
        ("shape", [-1, -2]),
        ("shape", [10**9]),
        ("shape", "x"),
        ("dtype", "F128"),
        ("dtype", 3),
        ("data_offsets", [0, 10**15]),
        ("data_offsets", [8, 0]),
        ("data_offsets", [-8, 0]),
        ("data_offsets", [0]),
    ]:
        lying = copy.deepcopy(header)
        lying[name][key] = value
        write_raw(path, json.dumps(lying).encode(), whole[8 + length :])
        refused(path)


@pytest.mark.parametrize("version", ["0", "2", "x", "", "1.0", " 1"])
def test_version(version: str, path: Path, tmp_path: Path) -> None:
    tree, tensors = described(Dense(1, 1), tmp_path)
    craft(path, tree, tensors, version=version)
    refused(path, match="format version")


# ---- tensors


def test_tensors_must_be_those_of_the_class(path: Path, tmp_path: Path) -> None:
    tree, good = described(LSTM(1, 3) >> Dense(3, 1), tmp_path)
    craft(path, tree, good)
    assert load(path) == LSTM(1, 3) >> Dense(3, 1)
    for name, value in good.items():
        craft(path, tree, {k: v for k, v in good.items() if k != name})
        refused(path, match="missing")
        flat = value.ravel()
        wrong = [flat if value.ndim > 1 else value[:, None], value[:-1], value[None], value.sum(), flat[:0]]
        for shaped in wrong:
            craft(path, tree, {**good, name: np.asarray(shaped)})
            refused(path, match="shape")
        for bad in (np.nan, np.inf, -np.inf):
            poisoned = value.copy()
            poisoned.flat[-1] = bad
            craft(path, tree, {**good, name: poisoned})
            refused(path, match="NaN")
        for dtype in (np.float16, np.int64, np.bool_):
            craft(path, tree, {**good, name: value.astype(dtype)})
            refused(path, match="float32 or float64")
    for extra in ("x", "0.x", "2.W", "1.0.W", "", ".", "0.", "..", "W"):
        craft(path, tree, {**good, extra: np.zeros(1)})
        refused(path)


# ---- classes


class Unfinished(rnndsp.Filter):
    """Abstract, as its methods are missing."""


NOT_CLASSES: list[Any] = ["Filter", "_Composition", "_Cascade", "Cell", "Unfinished", f"{__name__}.Unfinished", "load"]
NOT_CLASSES += [
    "Stage",
    "State",
    "named",
    "stability",
    "plots",
    "report",
    "midi",
    "rnndsp.filters.LSTM",
    "lstm",
    "LSTM ",
]
NOT_CLASSES += ["", ".", "..", "a.", ".a", "LSTM\0", "__class__", "__getattr__", "__init__", "__main__", "registry"]
NOT_CLASSES += ["object", "eval", "os", "é" * 1000, None, 7, 1.5, True, [], ["LSTM"], {}, {"LSTM": 1}]


@pytest.mark.parametrize("name", NOT_CLASSES)
def test_no_such_class(name: Any, path: Path, tmp_path: Path) -> None:
    assert f"{__name__}.Unfinished" in rnndsp.Filter.registry
    tree, tensors = described(LSTM(1, 2), tmp_path)
    for config in (tree["config"], {}):
        craft(path, {**tree, "class": name, "config": config}, tensors)
        refused(path)


def test_unknown_class_names_the_remedy(path: Path) -> None:
    for name, remedy in [
        ("my_cells.Leaky", "import my_cells`"),
        ("lab.cells.Leaky", "import lab.cells`"),
        ("os.system", "import os`"),
        ("__main__.X", "script or notebook"),
        ("Reverb3000", "upgrade"),
    ]:
        craft(path, node(name))
        refused(path, match=remedy)


def test_loading_imports_no_module_that_a_file_names(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    for name in ("trap_module.X", "trap_module", "antigravity.Fly", "antigravity", "rnndsp.trap", "turtledemo.X"):
        craft(path, node(name, children=[node(name)]))
        refused(path)
    new = set(sys.modules) - before
    assert not {name for name in new if name.partition(".")[0] in ("trap_module", "antigravity", "turtledemo")}


def test_a_users_class_is_found_once_imported(path: Path) -> None:
    class Copy(LSTM):
        """Registered under this module's name."""

    filt = Copy(1, 2)
    filt.save(path)
    assert load(path) == filt
    del rnndsp.Filter.registry[Copy.registered_name()]
    refused(path, match="import ")


# ---- configurations

HUGE = [10**12, 10**30, 10**400, 1e308, 1e999, -1, 0, -(10**20)]
ODD: list[Any] = [
    *HUGE,
    float("nan"),
    1.5,
    "1",
    "x",
    "",
    None,
    True,
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    [None],
    ["a"],
    [1e999],
]


@pytest.mark.parametrize("name", _good())
def test_odd_settings(name: str, path: Path, tmp_path: Path) -> None:
    """Every entry of every configuration of a tree becomes something else, or goes, or gets company."""
    filt = _good()[name]
    tree, tensors = described(filt, tmp_path)

    def attempt(changed: Any) -> None:
        craft(path, changed, tensors)
        start = time.process_time()
        try:
            found = load(path)
        except FormatError:
            pass
        else:
            require_sound(found, tree)
        assert time.process_time() - start < PATIENCE

    for place in places(tree):
        for key, old in at(tree, place)["config"].items():
            for odd in [*ODD, *([[*old[:-1], odd] for odd in ODD] if isinstance(old, list) else ())]:
                changed = copy.deepcopy(tree)
                at(changed, place)["config"][key] = odd
                attempt(changed)
            changed = copy.deepcopy(tree)
            del at(changed, place)["config"][key]
            craft(path, changed, tensors)
            refused(path)
        changed = copy.deepcopy(tree)
        at(changed, place)["config"]["extra"] = 1
        craft(path, changed, tensors)
        refused(path, match="extra")
        for odd in ODD:
            for key in ("config", "children", "sample_rate", "class"):
                changed = copy.deepcopy(tree)
                at(changed, place)[key] = odd
                attempt(changed)
        for key in ("config", "children", "sample_rate", "class"):
            changed = copy.deepcopy(tree)
            del at(changed, place)[key]
            craft(path, changed, tensors)
            refused(path)


def places(tree: Tree, here: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    inside = [p for i, child in enumerate(tree["children"]) for p in places(child, (*here, i))]
    return [here, *inside]


def at(tree: Tree, place: tuple[int, ...]) -> Tree:
    for i in place:
        tree = tree["children"][i]
    return tree


def require_sound(filt: rnndsp.Filter, tree: Tree | None = None) -> None:
    """The tree of classes is that of the file, every parameter has the shape its class wants, and it is finite."""
    if tree is not None:
        assert filt.registered_name() == tree["class"] and len(filt.children) == len(tree["children"])
    assert {name: value.shape for name, value in filt._own.items()} == filt._shapes()
    assert all(np.isfinite(value).all() and value.dtype in (np.float32, np.float64) for value in filt._own.values())
    assert type(filt.n_inputs) is int and type(filt.n_outputs) is int and filt.n_inputs >= 1 and filt.n_outputs >= 1
    assert 0 <= filt.n_states <= 2**27
    assert filt.sample_rate is None or 0 < filt.sample_rate < np.inf
    for place, child in enumerate(filt.children):
        require_sound(child, None if tree is None else tree["children"][place])


@pytest.mark.parametrize("gate", [10**12, 10**18, 10**30])
def test_huge_sizes_are_refused_before_they_are_allocated(gate: int, path: Path) -> None:
    one = {"A": np.zeros((1, 1)), "B": np.ones((1, 1)), "C": np.ones((1, 1)), "D": np.ones((1, 1))}
    none = {"W": np.zeros((0, 1)), "U": np.zeros((0, 1)), "b": np.zeros(0)}
    line = {"n_inputs": 1, "n_outputs": 1}
    for recurrence in ("dense", "diagonal", "orthogonal"):
        craft(path, node("LSTM", {"n_inputs": 1, "n_units": gate, "recurrence": recurrence}), none)
        refused(path)
    craft(path, node("DelayStateSpace", {**line, "delays": [gate]}), one)
    refused(path, match="delays")
    craft(path, node("DelayStateSpace", {**line, "delays": [2**27, 1]}), {**one, "A": np.zeros((2, 2))})
    refused(path)
    craft(path, node("SOS", {"n_sections": gate}), {"a": np.zeros((0, 2)), "b": np.zeros((0, 3))})
    refused(path)
    wide = {"A": np.zeros((0, 0)), "B": np.zeros((0, 10**12)), "C": np.zeros((0, 0)), "D": np.zeros((0, 10**12))}
    craft(path, node("StateSpace", {"delays": [], "n_inputs": 10**12, "n_outputs": 0}), wide)
    refused(path)
    craft(path, *loop(gate, 0.5))
    refused(path, match="delay")
    with pytest.raises(ParameterError, match=r"numbers|delay"):
        rnndsp.delay(gate)


def loop(delay: Any, gain: float, *, allow_unstable: Any = False) -> tuple[Tree, Tensors]:
    """y[t] = u[t] + gain y[t - delay], from the pieces that a file holds."""
    wire = {"A": np.zeros((0, 0)), "B": np.zeros((0, 1)), "C": np.zeros((1, 0))}
    blocks = [{**wire, "D": np.full((1, 1), value)} for value in (1.0, gain)]
    children = [node("StateSpace", {"delays": [], "n_inputs": 1, "n_outputs": 1})] * 2
    tensors = {f"{i}.{name}": value for i, block in enumerate(blocks) for name, value in block.items()}
    return node("Feedback", {"delay": delay, "allow_unstable": allow_unstable}, children=children), tensors


def test_unstable_loops_need_permission(path: Path) -> None:
    for delay in (1, 7, 100, 30000, 10**6, 2**27):
        craft(path, *loop(delay, 0.5))
        assert load(path).n_states == delay
        for gain in (1.0, -1.0, 1.5, 1e308):
            craft(path, *loop(delay, gain))
            refused(path, match="allow_unstable")
            craft(path, *loop(delay, gain, allow_unstable=True))
            assert load(path).config["allow_unstable"] is True
    for permission in ("yes", 1, None, [True]):
        craft(path, *loop(3, 1.5, allow_unstable=permission))
        refused(path, match="allow_unstable")


def test_the_stability_check_of_a_loop_is_quick_and_right(path: Path, tmp_path: Path) -> None:
    # the loop's gain is 0.9 or 1.1 at 0 Hz, where the lowpass has gain 1: stable for every delay, and unstable
    lowpass = SOS(signal.butter(2, 0.3, output="sos"))
    tree, tensors = described(Feedback(lowpass, 0.9, delay=2000), tmp_path)
    for delay in (1, 30, 2000, 20000, 10**5, 10**7, 2**26):
        tree["config"]["delay"] = delay
        craft(path, tree, {**tensors, "1.D": np.array([[0.9]])})
        start = time.process_time()
        assert load(path).delay == delay
        assert time.process_time() - start < PATIENCE
        craft(path, tree, {**tensors, "1.D": np.array([[1.1]])})
        refused(path, match="allow_unstable")
    # many lines: no matrix of their number squared is formed
    units = 20000
    cell = node("Elman", {"n_inputs": 1, "n_units": units, "recurrence": "diagonal", "activation": "identity"})
    wide = {f"0.{k}": np.zeros(s) for k, s in {"W": (units, 1), "U": (units,), "b": (units,)}.items()}
    back = node("Dense", {"n_inputs": units, "n_outputs": 1, "activation": "identity"})
    wide |= {"1.W": np.ones((1, units)), "1.b": np.zeros(1)}
    craft(path, node("Feedback", {"delay": 1, "allow_unstable": False}, children=[cell, back]), wide)
    refused(path, match="too large")


def test_nested_deeply_and_widely(path: Path) -> None:
    leaf = json.dumps(node("StateVariable", {"kind": "lowpass", "cutoff_hz": 100, "q": 1}, 48000.0))

    def deep(n: int) -> str:
        return '{"class":"Series","config":{},"sample_rate":null,"children":[' * n + leaf + "]}" * n

    craft(path, deep(50))
    assert load(path).n_states == 2
    for n in (51, 200, 10_000):
        craft(path, deep(n))
        refused(path)
    for n in (500, 5000, 100_000):
        for text in (
            "[" * n + "]" * n,
            leaf.replace("100", "[" * n + "]" * n),
            leaf.replace("100", '{"a":' * n + "1" + "}" * n),
        ):
            craft(path, text)
            refused(path)
    one = {"A": np.zeros((1, 1)), "B": np.ones((1, 1)), "C": np.ones((1, 1)), "D": np.ones((1, 1))}
    line = node("StateSpace", {"delays": [1], "n_inputs": 1, "n_outputs": 1})
    n = 3000
    tensors = {f"{i}.{name}": value for i in range(n) for name, value in one.items()}
    craft(path, node("Series", children=[line] * n), tensors)
    start = time.process_time()
    assert len(load(path).children) == n
    assert time.process_time() - start < PATIENCE


def test_json_that_is_no_json(path: Path, tmp_path: Path) -> None:
    tree, tensors = described(Dense(1, 1), tmp_path)
    text = json.dumps(tree)
    twice = [
        text.replace('"config"', '"config": {}, "config"'),
        text.replace('"n_inputs"', '"n_inputs": 1, "n_inputs"'),
    ]
    for odd in [
        "",
        "null",
        "1",
        "[]",
        "{}",
        '"x"',
        "{",
        text[:-1],
        text + "x",
        text + text,
        text.replace("1", "9" * 5000),
    ]:
        craft(path, odd, tensors)
        refused(path)
    for odd in twice:
        craft(path, odd, tensors)
        refused(path, match="twice")


def test_leaves_have_no_children(path: Path, tmp_path: Path) -> None:
    leaf = node("StateVariable", {"kind": "lowpass", "cutoff_hz": 100, "q": 1}, 48000.0)
    for filt in (Dense(1, 1), LSTM(1, 1), SOS(signal.butter(2, 0.3, output="sos")), rnndsp.gain(1), rnndsp.Latency(3)):
        tree, tensors = described(filt, tmp_path)
        craft(path, {**tree, "children": [leaf]}, tensors)
        refused(path)


# ---- states


def test_odd_states(path: Path) -> None:
    filt = LSTM(1, 2) >> Dense(2, 1) >> rnndsp.delay(3)
    save_state(filt.run(np.ones((2, 5, 1)))[1], path)
    tree, tensors = parts(path, "state")
    inner = tree["children"][0]
    assert inner["fields"] == [["h", [2], []], ["c", [2], []]]
    h, c = inner["fields"]
    fields: list[Any] = [
        [],
        [h],
        [c, c],
        [h, ["c", [3], []]],
        [h, ["c", [2], [3]]],
        [h, ["c", [2], [2, 0]]],
        [h, [7, [2], []]],
    ]
    fields += [
        [h, ["c", [2.0], []]],
        [h, ["c", [-2], []]],
        [["h", [-2], []], ["c", [-2], []]],
        [h, ["c", [True, 2], []]],
    ]
    fields += [
        [["h", [10**12, 10**12], []]],
        [["h", [2**32, 2**32], []], h, c],
        [h, "abc"],
        [h, 7],
        7,
        None,
        "ab",
        {"h": 1},
    ]
    bad: list[tuple[str, Any]] = [("fields", value) for value in fields]
    bad += [("index", value) for value in ("5", 5.5, -1, 10**30, 1e999, None, True, [5])]
    bad += [("children", value) for value in (5, "ab", None, {}, [inner], [7])] + [("extra", 1)]
    for key, value in bad:
        for where in (tree, inner):
            changed = copy.deepcopy(tree)
            (changed if where is tree else changed["children"][0])[key] = value
            craft(path, changed, tensors, kind="state")
            try:
                found = load_state(path)
            except FormatError:
                continue
            # what loads (no fields where there are none, say) is the state it was
            assert found == _loaded(path, tree, tensors)
    for name, value in tensors.items():
        craft(path, tree, {k: v for k, v in tensors.items() if k != name}, kind="state")
        refused(path, load_state)
        for wrong in (value[..., :0] if value.size else np.zeros((2, 1)), np.full((*value.shape[:-1], 7), 1.0)):
            craft(path, tree, {**tensors, name: wrong}, kind="state")
            refused(path, load_state)
        if value.size:
            craft(path, tree, {**tensors, name: np.full_like(value, np.nan)}, kind="state")
            refused(path, load_state)
    craft(path, tree, {**tensors, "x": np.zeros(1)}, kind="state")
    refused(path, load_state, "left over")
    deep = '{"index":0,"fields":[],"children":[' * 5000 + "]}" * 5000
    craft(path, deep, kind="state")
    refused(path, load_state)


def _loaded(path: Path, tree: Any, tensors: Tensors) -> rnndsp.State:
    craft(path, tree, tensors, kind="state")
    return load_state(path)


# ---- the fuzzer


@pytest.mark.parametrize("name", ["lstm", "feedback", "sos", "fdn", "knobs"])
def test_mutated_bytes(name: str, path: Path) -> None:
    _good()[name].save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(700):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            # most of the damage in the header, where it can do harm
            i = int(rng.integers(0, len(data) if rng.random() < 0.2 else min(length + 8, len(data))))
            match rng.integers(0, 5):
                case 0:
                    data[i] = rng.integers(0, 256)
                case 1:
                    data[i] ^= 1 << int(rng.integers(0, 8))
                case 2:
                    del data[i : i + int(rng.integers(1, 9))]
                case 3:
                    data[i:i] = data[i : i + int(rng.integers(1, 9))]
                case 4:
                    data[i] = ord(rng.choice(list('0123456789[]{}",:.-eN')))
        path.write_bytes(bytes(data))
        survive(path)


@pytest.mark.parametrize("name", ["lstm", "feedback", "sos", "fdn", "knobs"])
def test_mutated_descriptions(name: str, path: Path, tmp_path: Path) -> None:
    tree, tensors = described(_good()[name], tmp_path)
    donors = [described(filt, tmp_path) for filt in _good().values()]
    rng = np.random.default_rng(2)
    for _ in range(600):
        changed, held = copy.deepcopy(tree), dict(tensors)
        for _ in range(rng.integers(1, 4)):
            here = changed
            while isinstance(here["children"], list) and here["children"] and rng.random() < 0.6:
                child = here["children"][rng.integers(len(here["children"]))]
                if not (isinstance(child, dict) and {"children", "config", "class"} <= set(child)):
                    break
                here = child
            other, other_tensors = donors[rng.integers(len(donors))]
            match rng.integers(0, 7):
                case 0 | 1 if isinstance(here["config"], dict) and here["config"]:
                    key = str(rng.choice(list(here["config"])))
                    here["config"][key] = (
                        ODD[rng.integers(len(ODD))] if rng.random() < 0.6 else int(rng.integers(0, 50000))
                    )
                case 2:
                    here["class"] = str(rng.choice(list(rnndsp.Filter.registry)))
                case 3:
                    here["children"] = copy.deepcopy([*other["children"], other])
                case 4 if isinstance(here["children"], list):
                    rng.shuffle(here["children"])
                    here["children"] = here["children"][: int(rng.integers(0, 4))]
                case 5:
                    here["config"] = copy.deepcopy(other["config"])
                    held |= other_tensors
                case 6 if held:
                    key = str(rng.choice(list(held)))
                    held[key] = [held[key].T, 1e60 * np.sign(held[key]), held[key] + 1, held[key][:1]][rng.integers(4)]
        held = {key: np.ascontiguousarray(value) for key, value in held.items()}
        craft(path, changed, held)
        survive(path)


def survive(path: Path) -> None:
    start = time.process_time()
    try:
        found = load(path)
    except FormatError:
        pass
    else:
        require_sound(found, parts(path)[0])
    assert time.process_time() - start < PATIENCE


# ---- saving


def test_an_existing_file_needs_force(path: Path) -> None:
    old, new = Dense(1, 1, seed=1), Dense(1, 1, seed=2)
    old.save(path)
    for write in (new.save, lambda p: save_state(new.rest_state(), p)):
        with pytest.raises(ParameterError, match="force"):
            write(path)
        assert load(path) == old
    new.save(path, force=True)
    assert load(path) == new
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Dense(1, 1)
    old.save(path)

    def fail(tensors: Any, filename: Path, metadata: Any) -> None:
        Path(filename).write_bytes(b"half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    for target in (path, path.with_name("new.safetensors")):
        with pytest.raises(KeyboardInterrupt):
            Dense(2, 2).save(target, force=True)
    assert list(path.parent.iterdir()) == [path] and load(path) == old


def test_a_configuration_that_is_no_json_writes_nothing(path: Path) -> None:
    class Odd(Cell):
        """A cell with a setting that JSON cannot hold."""

        stages = Elman._stages({"activation": "tanh"})

        def _setup(self) -> None:
            super()._setup()
            self.thing = self.config["thing"]

    odd = Odd(1, 1, thing=1 + 2j)
    with pytest.raises((ParameterError, TypeError)):
        odd.save(path)
    assert not list(path.parent.iterdir())


def test_nowhere_to_write(tmp_path: Path) -> None:
    filt = Dense(1, 1)
    with pytest.raises(ParameterError, match="does not exist"):
        filt.save(tmp_path / "no" / "f.safetensors")
    with pytest.raises(ParameterError, match="folder"):
        filt.save(tmp_path, force=True)
    if Path("/proc/self").is_dir():
        with pytest.raises(ParameterError, match="cannot write"):
            filt.save("/proc/f.safetensors")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(ParameterError, match="cannot write"):
        filt.save(locked / "f.safetensors")
    assert not list(locked.iterdir())


def test_a_new_file_can_be_read_by_others(path: Path) -> None:
    umask = os.umask(0o022)
    try:
        Dense(1, 1).save(path)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_settings_a_class_never_looks_at_are_refused() -> None:
    with pytest.raises(ParameterError, match="no setting"):
        rnndsp.Filter.__init__(
            Dense.__new__(Dense),
            {"n_inputs": 1, "n_outputs": 1, "activation": "tanh", "actuation": "relu"},
            {"W": np.ones((1, 1)), "b": np.zeros(1)},
        )


def test_weights_from_torch_have_all_settings(path: Path) -> None:
    weights = {"weight_ih_l0": np.ones((6, 1)), "weight_hh_l0": np.ones((6, 2))}
    cell = GRU.from_torch(weights)
    assert cell.config == GRU(1, 2).config
    cell.save(path)
    assert load(path) == cell


def test_a_space_without_channels_is_refused() -> None:
    with pytest.raises(ParameterError):
        StateSpace(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((1, 0)), np.zeros((1, 0)))

"""The house: who may import whom, what is public, what ships, and that all of it is documented.

Oracles: the syntax trees of the sources, ``pyproject.toml``, and lists written out here. The tests also run against an
installed wheel from another folder; those of the checkout are skipped there.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rnndsp
import rnndsp.filters
import rnndsp.midi

CORE = Path(rnndsp.__file__).parent
CHECKOUT = CORE.parent if (CORE.parent / "pyproject.toml").is_file() else None
ROOMS = ("filters", "midi")
# Folders of the core itself, which see what the core sees.
PARTS = ("plots", "stability")
# What the core shows to the world may look into the rooms; nothing of the core may look at the command line.
COMMAND_LINE = ("__main__", "cli", "demo")
FACES = ("__init__", *COMMAND_LINE)

PUBLIC = [
    "Cell",
    "Control",
    "Crossfade",
    "DelayStateSpace",
    "Feedback",
    "Field",
    "Filter",
    "Fit",
    "FormatError",
    "Framed",
    "Gradient",
    "Knobs",
    "Latency",
    "NonFiniteError",
    "Parallel",
    "ParameterError",
    "Residual",
    "RnndspError",
    "Series",
    "Smoothed",
    "SpectralGain",
    "Stack",
    "Stage",
    "State",
    "StateSpace",
    "Stream",
    "Tape",
    "Zoned",
    "audio",
    "batch_fit",
    "capture",
    "delay",
    "distortion",
    "filters",
    "fit",
    "frequency_response",
    "gain",
    "identification",
    "impulse_response",
    "load",
    "load_state",
    "losses",
    "midi",
    "optimizers",
    "plots",
    "realization",
    "regularizers",
    "report",
    "residuals",
    "response",
    "save",
    "save_state",
    "stability",
    "sweeps",
    "tangents",
    "testing",
    "training",
]
PUBLIC_FILTERS = [
    "ARIMA",
    "AffineProjection",
    "ArimaFit",
    "Channels",
    "CoupledForm",
    "DampedNetwork",
    "DelayStateSpace",
    "Dense",
    "DiodeClipper",
    "EMFit",
    "Elman",
    "FeedbackDelayNetwork",
    "FilteredStates",
    "ForceFit",
    "Forecast",
    "GRU",
    "GerzonAllpass",
    "HammersteinWienerFit",
    "KalmanFilter",
    "LMS",
    "LSTM",
    "Lattice",
    "LinearPrediction",
    "NADE",
    "NLMS",
    "OrderSelection",
    "Oversampled",
    "ParaunitaryFIR",
    "Polyphase",
    "ParticlesTracked",
    "REN",
    "RLS",
    "ReadoutFit",
    "Reverb",
    "ReverbSettings",
    "SOS",
    "Shaper",
    "SmoothedStates",
    "StateSpace",
    "StateVariable",
    "SteadyState",
    "Taps",
    "Tracked",
    "TransferFunction",
    "VarFit",
    "VarOrderSelection",
    "absorption_filters",
    "closed_allpass",
    "closed_loop",
    "extended_kalman_filter",
    "fit_arima",
    "fit_em",
    "fit_hammerstein_wiener",
    "fit_readout",
    "fit_var",
    "force_train",
    "linear_prediction",
    "named",
    "nested_allpass",
    "orthogonal_matrix",
    "overdrive",
    "particle_filter",
    "poletti_allpass",
    "recurrent_effect",
    "select_order",
    "select_var_order",
    "series_allpass",
    "teacher_forced",
    "unscented_kalman_filter",
    "vector_allpass",
]
PUBLIC_MIDI = [
    "Corpus",
    "Frames",
    "Key",
    "MusicModel",
    "NOTE",
    "Piece",
    "Roll",
    "Track",
    "Training",
    "checkpoints",
    "chorales",
    "estimate_key",
    "piano_roll_plot",
    "read",
    "read_folder",
    "render",
    "train",
    "write",
]
PUBLIC_STABILITY = [
    "Boundedness",
    "Branch",
    "CoefficientSensitivity",
    "CommonNorm",
    "Contraction",
    "Cycle",
    "FixedPoint",
    "FrozenPoles",
    "GradientNorms",
    "Gramians",
    "HiddenModes",
    "JointSpectralRadius",
    "Losslessness",
    "LyapunovCertificate",
    "LyapunovSpectrum",
    "Margins",
    "MemoryCapacity",
    "MemoryHorizon",
    "Modes",
    "NormBounds",
    "Nyquist",
    "PeakGain",
    "PeriodicResponse",
    "PointKind",
    "Property",
    "Pseudospectrum",
    "RestProbe",
    "RestState",
    "RestSweep",
    "RootLocus",
    "Sensitivity",
    "SlowVariation",
    "SpecialPoint",
    "StabilityReport",
    "Stabilized",
    "Test",
    "TransientGrowth",
    "Transition",
    "Verdict",
    "WindowProducts",
    "allpass_test",
    "certified_level",
    "certify",
    "coefficient_sensitivity",
    "common_norm",
    "complete_allpass",
    "continue_points",
    "contraction_rate",
    "cycles",
    "eigenvector_condition",
    "finite_time_exponents",
    "fixed_points",
    "floquet_multipliers",
    "frozen_poles",
    "frozen_settings",
    "gradient_norms",
    "gramians",
    "hankel_singular_values",
    "headroom_db",
    "henrici_departure",
    "hidden_modes",
    "is_minimum_phase",
    "jacobians",
    "joint_spectral_radius",
    "kreiss_constant",
    "lyapunov_certificate",
    "lyapunov_spectrum",
    "margins",
    "memory_capacity",
    "memory_horizon",
    "modal_decomposition",
    "norm",
    "norm_bounds",
    "numerical_radius",
    "nyquist",
    "open_loop",
    "paraunitary_test",
    "peak_gain",
    "pole_sensitivity",
    "poles",
    "probe_rest_states",
    "pseudospectrum",
    "report",
    "rest_states",
    "root_locus",
    "sensitivity",
    "slow_variation",
    "spectral_radius",
    "stability_radius",
    "stabilize",
    "sweep_rest_states",
    "t60_s",
    "track",
    "transient_growth",
    "uniallpass_test",
    "unilossless_test",
    "window_products",
    "zeros",
]
PUBLIC_PLOTS = [
    "aliasing_plot",
    "bode_plot",
    "certificate_plot",
    "continuation_plot",
    "decay_plot",
    "describing_function_plot",
    "energy_decay_db",
    "esr_plot",
    "floquet_plot",
    "frequency_response_plot",
    "frozen_pole_plot",
    "gradient_plot",
    "group_delay_plot",
    "harmonic_plot",
    "history_plot",
    "impulse_response_plot",
    "intermodulation_plot",
    "lyapunov_plot",
    "lyapunov_trace_plot",
    "nyquist_plot",
    "octave_decay_plot",
    "orbit_plot",
    "order_plot",
    "phase_portrait",
    "pole_decay_plot",
    "pole_locus_plot",
    "pole_plot",
    "pseudospectrum_plot",
    "residual_plot",
    "rest_probe_plot",
    "rest_sweep_plot",
    "root_locus_plot",
    "sensitivity_plot",
    "singular_value_plot",
    "spectrogram_plot",
    "sweep_plot",
    "transient_plot",
]
MODULES = [
    "audio",
    "batch_fit",
    "capture",
    "distortion",
    "identification",
    "losses",
    "optimizers",
    "plots",
    "realization",
    "regularizers",
    "report",
    "response",
    "stability",
    "sweeps",
    "tangents",
    "testing",
    "training",
]


def checkout() -> Path:
    if CHECKOUT is None:
        pytest.skip("not in a checkout: rnndsp is installed")
    return CHECKOUT


def python(code: str) -> str:
    """What a new process prints, with the same rnndsp to import, from wherever."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CORE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout


# ---- imports


def sources(folder: Path) -> list[Path]:
    """The modules of one room, those of the rooms inside it left out."""
    inside = [folder, *(folder / part for part in PARTS)] if folder == CORE else [folder]
    return sorted(path for place in inside for path in place.iterdir() if path.suffix in (".py", ".pyi"))


def imports(path: Path, package: str) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, whether or not it is a type checker's, and whether it does so at once."""

    def visit(tree: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for item in ast.iter_child_nodes(tree):
            if isinstance(item, ast.Import):
                yield from ((alias.name, at_once) for alias in item.names)
            elif isinstance(item, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) - item.level + 1] if item.level else []
                module = ".".join([*base, *([item.module] if item.module else [])])
                yield module, at_once
                # `from rnndsp import filters` names a module, `from rnndsp.filters import LSTM` a class
                yield from ((f"{module}.{alias.name}", at_once) for alias in item.names)
            else:
                inside = isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(item, at_once and not inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_core_imports_no_room() -> None:
    for path in sources(CORE):
        if path.stem in FACES:
            continue
        for name, at_once in imports(path, "rnndsp"):
            assert name.partition(".")[2] not in COMMAND_LINE, f"{path.name} imports the command line"
            for room in ROOMS:
                # loading looks a class up by its name
                lookup = path.stem == "formats" and room == "filters" and not at_once
                assert lookup or not within(name, f"rnndsp.{room}"), f"{path.name} imports {name}"


def test_filters_know_nothing_of_music() -> None:
    for path in sources(CORE / "filters"):
        for name, _ in imports(path, "rnndsp.filters"):
            assert not within(name, "rnndsp.midi"), f"filters/{path.name} imports {name}"


def test_music_knows_filters_by_their_public_names() -> None:
    allowed = {"rnndsp.filters", *(f"rnndsp.filters.{name}" for name in PUBLIC_FILTERS)}
    for path in sources(CORE / "midi"):
        for name, _ in imports(path, "rnndsp.midi"):
            assert not within(name, "rnndsp.filters") or name in allowed, f"midi/{path.name} imports {name}"


def test_rooms_import_each_other_absolutely() -> None:
    for room in ROOMS:
        for path in sources(CORE / room):
            for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(item, ast.ImportFrom):
                    assert item.level < 2, f"{room}/{path.name} imports by dots across rooms"
                    assert item.level or (item.module or "").partition(".")[0] not in ROOMS, f"{room}/{path.name}"


def test_no_room_is_a_top_level_module() -> None:
    if CHECKOUT is None:
        code = "import importlib.util as u, json; print(json.dumps([n for n in ('filters', 'midi') if u.find_spec(n)]))"
        assert json.loads(python(code)) == []
    for name in list(sys.modules):
        assert name.partition(".")[0] not in ROOMS


def test_importing_is_light() -> None:
    heavy = ["numpy", "numba", "scipy", "matplotlib", "librosa", "soundfile", "safetensors", "typer", "mido"]
    for line in ("import rnndsp", "import rnndsp.filters, rnndsp.midi", "import rnndsp; dir(rnndsp); rnndsp.midi"):
        found = json.loads(
            python(f"{line}\nimport json, sys; print(json.dumps([m for m in {heavy} if m in sys.modules]))")
        )
        assert found == [], f"{line} loads {found}"


def test_running_filters_does_not_load_scipy_signal() -> None:
    code = """
import sys
import numpy as np
from rnndsp.filters import LSTM, SOS, Dense, FeedbackDelayNetwork
for filt in (LSTM(1, 2) >> Dense(2, 1), FeedbackDelayNetwork([3, 4], t60_s=1, sample_rate=8000),
             SOS([[1, 0, 0, 1, -0.5, 0]])):
    filt(np.zeros(10))
    filt.stream().process(np.zeros(10, np.float32))
print([m for m in ("scipy.signal", "matplotlib", "librosa", "soundfile") if m in sys.modules])
"""
    assert python(code).strip() == "[]"


# ---- what ships


def test_packages_named_are_the_folders_that_are_there() -> None:
    root = checkout()
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert tool["package-dir"] == {"rnndsp": "rnndsp", **{f"rnndsp.{room}": room for room in ROOMS}}
    packages = {*tool["package-dir"], *(f"rnndsp.{part}" for part in PARTS)}
    assert set(tool["packages"]) == packages and tool["include-package-data"] is False
    found = {
        ".".join(("rnndsp", *(() if path.parts[0] == "rnndsp" else path.parts[:1]), *path.parts[1:-1]))
        for top in ("rnndsp", *ROOMS)
        for path in (p.relative_to(root) for p in (root / top).rglob("__init__.py"))
        if path.parts[:2] not in {("rnndsp", room) for room in ROOMS}
    }
    assert found == set(tool["packages"])


def test_symlinks() -> None:
    root = checkout()
    for room in ROOMS:
        link = root / "rnndsp" / room
        if not link.is_symlink():
            pytest.skip("a checkout without symbolic links")
        assert link.readlink().as_posix() == f"../{room}"
        assert (root / room).is_dir() and not (root / room).is_symlink()


def test_top_level_of_the_repository() -> None:
    root = checkout()
    if not (root / ".git").exists():
        pytest.skip("not in a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip(f"git does not answer: {done.stderr}")
    allowed = "pyproject.toml README.md CHANGELOG.md LICENSE .gitignore .ci rnndsp filters midi examples tests docs"
    assert {line.partition("/")[0] for line in done.stdout.splitlines()} == set(allowed.split())
    assert not [
        line for line in done.stdout.splitlines() if re.match(r"(filters|midi|rnndsp)/(.*/)?(conftest|test_)", line)
    ]


def test_type_information_ships() -> None:
    assert (CORE / "py.typed").is_file()
    for folder in (CORE, *(CORE / name for name in (*PARTS, *ROOMS))):
        assert (folder / "__init__.pyi").is_file()


# ---- the public face


def test_public_names_are_frozen() -> None:
    assert sorted(rnndsp.__all__) == sorted(PUBLIC)
    assert sorted(rnndsp.filters.__all__) == sorted(PUBLIC_FILTERS)
    assert sorted(rnndsp.midi.__all__) == sorted(PUBLIC_MIDI)
    assert sorted(rnndsp.stability.__all__) == sorted(PUBLIC_STABILITY)
    assert sorted(rnndsp.plots.__all__) == sorted(PUBLIC_PLOTS)
    assert set(PUBLIC) <= set(dir(rnndsp)) and set(PUBLIC_FILTERS) <= set(dir(rnndsp.filters))


def test_stubs_agree_with_what_is_there() -> None:
    for package in (rnndsp, rnndsp.plots, rnndsp.stability, rnndsp.filters, rnndsp.midi):
        stub = ast.parse((Path(package.__file__).parent / "__init__.pyi").read_text())
        for item in stub.body:
            if not isinstance(item, ast.ImportFrom):
                continue
            assert item.level == 1
            for alias in item.names:
                assert alias.asname == alias.name, "a stub re-exports only what it renames to itself"
                found = getattr(package, alias.name)
                module = importlib.import_module(f"{package.__name__}.{item.module or alias.name}")
                assert found is (getattr(module, alias.name) if item.module else module)
                assert not item.module or alias.name in module.__all__, f"{alias.name} is missing in __all__"
    with pytest.raises(AttributeError):
        rnndsp.no_such_name  # noqa: B018


def test_version_is_that_of_the_package() -> None:
    root = checkout()
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"] == rnndsp.__version__


def public() -> dict[str, Any]:
    """Everything public by its dotted name: of the package, of the filters, and of the public modules."""
    found = {name: getattr(rnndsp, name) for name in PUBLIC}
    found |= {f"filters.{name}": getattr(rnndsp.filters, name) for name in PUBLIC_FILTERS}
    found |= {f"midi.{name}": getattr(rnndsp.midi, name) for name in PUBLIC_MIDI}
    for module in MODULES:
        names = getattr(rnndsp, module).__all__
        found |= {f"{module}.{name}": getattr(getattr(rnndsp, module), name) for name in names}
    return found


def section(doc: str, title: str) -> str:
    """The body of a numpydoc section."""
    parts = re.split(r"(?m)^(\w[\w ]*)\n-{3,}$", inspect.cleandoc(doc))
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(title, "")


def described(doc: str, *titles: str) -> set[str]:
    """Names that stand before a colon, or alone, at the margin of a section."""
    heads = [line for t in titles for line in section(doc, t).splitlines() if line and not line[0].isspace()]
    return {name.strip().lstrip("*") for head in heads for name in head.partition(" : ")[0].split(",")}


def parameters(thing: Any) -> set[str]:
    return {p.name for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")}


def test_everything_public_has_a_docstring() -> None:
    missing = []
    for name, thing in public().items():
        if not isinstance(thing, ModuleType | type) and not callable(thing):
            continue  # a constant
        if not inspect.getdoc(thing) or (isinstance(thing, type) and not thing.__doc__):
            missing.append(name)
    assert missing == []


def test_docstrings_name_all_parameters() -> None:
    missing = []
    for name, thing in public().items():
        if isinstance(thing, ModuleType) or not callable(thing):
            continue
        # neither errors and enumerations nor what only filters make or subclasses call have documented parameters
        if thing in (rnndsp.Filter, rnndsp.Tape) or (
            isinstance(thing, type) and issubclass(thing, Exception | str | int)
        ):
            continue
        doc = inspect.getdoc(thing) or ""
        titles = ["Parameters"]
        if dataclasses.is_dataclass(thing) or (isinstance(thing, type) and issubclass(thing, tuple)):
            titles.append("Attributes")
        wanted = parameters(thing)
        if isinstance(thing, type) and issubclass(thing, rnndsp.Cell) and "__init__" not in vars(thing):
            wanted.discard("config")  # a cell without settings of its own has the constructor of all cells
        if lacking := wanted - described(doc, *titles):
            missing.append(f"{name}: {', '.join(sorted(lacking))}")
    assert missing == []


def concrete() -> list[type[rnndsp.Filter]]:
    for room in (rnndsp, rnndsp.filters):
        for name in room.__all__:
            getattr(room, name)
    ours = {cls for cls in rnndsp.Filter.registry.values() if cls.__module__.partition(".")[0] == "rnndsp"}
    return sorted((cls for cls in ours if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)


def test_every_filter_states_its_state_and_its_stability() -> None:
    missing = []
    for cls in concrete():
        doc = (cls.__doc__ or "").lower()
        missing += [f"{cls.__name__}: {word}" for word in ("*state*", "*stability*") if word not in doc]
        if cls.__module__.startswith("rnndsp.filters.") and not section(cls.__doc__ or "", "References").strip():
            missing.append(f"{cls.__name__}: References")
    assert missing == []

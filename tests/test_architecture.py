"""The direction of imports, and what every module must contain."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY

import roundhouse

SOURCES = sorted(
    path
    for folder in ("roundhouse", "studies", "analysis", "benchmarks", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
)
SOURCES += [REPOSITORY / "runner.py", REPOSITORY / "train.py"]
LONGEST = 500
HEAVY = {"torch", "torchvision", "numpy", "sklearn", "matplotlib", "paramiko"}
DOES_IO = {
    "os", "io", "subprocess", "shutil", "socket", "tempfile", "sqlite3", "time", "datetime", "random",
    "roundhouse.files", "roundhouse.store", "roundhouse.machine", "roundhouse.views", "roundhouse.engine",
    "roundhouse.jobs", "roundhouse.cli", "roundhouse.schedulers",
}  # fmt: skip
LAYERS = ("model", "machine", "schedulers", "store", "config", "views", "engine", "jobs", "doctor", "cli")
IMPURE_CALLS = {
    "open", "read_text", "write_text", "read_bytes", "write_bytes", "exists", "is_file", "is_dir", "stat", "glob",
    "iterdir", "mkdir", "touch", "unlink", "print", "input", "time", "monotonic", "perf_counter", "sleep", "now",
    "today", "localtime", "getenv", "urandom", "uuid4",
}  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY).with_suffix("")).replace("/", ".").removesuffix(".__init__")


def imports_of(path: Path, with_types: bool = True) -> set[str]:
    """Full names of all that a module imports, inside functions too; without those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    if not with_types:
        only_types = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        skipped = {id(part) for node in only_types for statement in node.body for part in ast.walk(statement)}
    else:
        skipped = set()
    return imports_in(tree, skipped)


def imports_in(tree: ast.AST, skipped: Collection[int] = ()) -> set[str]:
    """Full names of all that a tree imports; without the nodes of these ids."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules_in(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def starting_with(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")}


def everything_under(module: str, seen: set[str] | None = None) -> set[str]:
    """All modules that come with this one, however far, and all that they import from elsewhere."""
    seen = set() if seen is None else seen
    for name in imports_of_name(module):
        if name not in seen:
            seen.add(name)
            everything_under(name, seen)
    return seen


def imports_of_name(module: str) -> set[str]:
    path = file_of(module)
    return imports_of(path, with_types=False) if path else set()


def file_of(module: str) -> Path | None:
    """The file of a module of this repository."""
    base = REPOSITORY / module.replace(".", "/")
    return next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)


ANALYSES = sorted(REPOSITORY.glob("studies/*/analysis/**/*.py"))  # no job loads them
TRAINED = [path for path in modules_in("studies") if path not in ANALYSES]
OF_STUDIES = ("roundhouse.training", "roundhouse.options", "roundhouse.errors", "roundhouse.metrics",
              "roundhouse.figures", "roundhouse.disk_space")  # fmt: skip


@pytest.mark.parametrize("path", TRAINED, ids=name_of)
def test_a_study_knows_of_roundhouse_only_what_is_meant_for_studies(path: Path) -> None:
    imported = imports_of(path)
    assert starting_with(imported, "roundhouse") <= starting_with(imported, *OF_STUDIES)
    assert not any(".analysis" in name for name in starting_with(imported, "studies")), "a job would load it"


@pytest.mark.parametrize("path", modules_in("roundhouse"), ids=name_of)
def test_roundhouse_imports_no_study_and_no_test(path: Path) -> None:
    assert not starting_with(imports_of(path), "studies", "tests", "runner", "train")


@pytest.mark.parametrize("path", modules_in("roundhouse/training"), ids=name_of)
def test_training_knows_neither_records_nor_schedulers(path: Path) -> None:
    assert not starting_with(imports_of(path), *(f"roundhouse.{name}" for name in LAYERS))


@pytest.mark.parametrize("path", [*modules_in("analysis"), *ANALYSES], ids=name_of)
def test_the_analysis_needs_neither_pytorch_nor_a_study_nor_a_scheduler(path: Path) -> None:
    forbidden = ("torch", "torchvision", "runner", "train", "tests", "roundhouse.training")
    assert not starting_with(imports_of(path), *forbidden)
    own = name_of(path).partition(".analysis")[0] + ".analysis" if path in ANALYSES else "none"
    studies = starting_with(imports_of(path), "studies")
    assert studies <= starting_with(studies, own), "only that of a study imports its own modules"
    ours = starting_with(
        imports_of(path), "roundhouse.schedulers", "roundhouse.schedulers.command", "roundhouse.engine.user_actions"
    )
    assert not ours, "records are only read, and no scheduler is queried"


OUTSIDE_ANALYSIS = [
    path
    for path in SOURCES
    if path.relative_to(REPOSITORY).parts[0] not in ("analysis", "tests", "benchmarks") and path not in ANALYSES
]


@pytest.mark.parametrize("path", OUTSIDE_ANALYSIS, ids=name_of)
def test_only_toolbox_benchmarks_and_the_analyses_of_studies_import_the_analysis(path: Path) -> None:
    assert not starting_with(imports_of(path), "analysis")


def impurities_of(source: str) -> set[str]:
    """What a module of the model must not use: imports that do I/O, however far, and calls that do."""
    tree = ast.parse(source)
    imported = imports_in(tree)
    reached = set(imported)
    for name in imported:
        everything_under(name, reached)
    ours = [path for name in reached if (path := file_of(name)) is not None]
    calls = calls_in(tree).union(*(calls_in(ast.parse(path.read_text())) for path in ours))
    # A function that formats a given time is pure, so `time` is allowed further down; calls of a clock are not.
    return starting_with(imported, *DOES_IO) | starting_with(reached, *DOES_IO - {"time"}) | calls & IMPURE_CALLS


def calls_in(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        one.id if isinstance(one, ast.Name) else one.attr for one in calls if isinstance(one, (ast.Name, ast.Attribute))
    }


@pytest.mark.parametrize("path", modules_in("roundhouse/model"), ids=name_of)
def test_the_model_does_no_input_or_output_nor_does_anything_that_it_imports(path: Path) -> None:
    assert not impurities_of(path.read_text())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from roundhouse.store.metrics import result_of", "roundhouse.store.metrics"),
        ("from roundhouse import files", "roundhouse.files"),
        ("from roundhouse.config import named_files", "is_file"),
        ("import time", "time"),
        ("def now(): return time.monotonic()", "monotonic"),
        ("def size(path): return path.stat().st_size", "stat"),
        ("print(1)", "print"),
    ],
)
def test_an_impure_line_in_the_model_is_found(line: str, found: str) -> None:
    evaluate = (REPOSITORY / "roundhouse/model/evaluate.py").read_text()
    assert found in impurities_of(f"{evaluate}\n{line}\n")


@pytest.mark.parametrize("path", modules_in("roundhouse"), ids=name_of)
def test_imports_go_down_the_layers_only(path: Path) -> None:
    """A module of a layer knows its own and those before it; one outside the layers knows none."""
    folder = path.parent.name
    known = set(LAYERS[: LAYERS.index(folder) + 1]) if folder in LAYERS else set()
    reached = imports_of(path, with_types=False)
    assert {layer for layer in LAYERS if starting_with(reached, f"roundhouse.{layer}")} <= known


def test_only_the_record_knows_the_names_of_its_files() -> None:
    names = {
        "job.json",
        "claim.json",
        "result.json",
        "history.json",
        "status.json",
        "progress.json",
        "environment.json",
    }
    found = {}
    for path in modules_in("roundhouse"):
        constants = {
            node.value for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }  # fmt: skip
        if names & constants:
            found[name_of(path)] = names & constants
    assert set(found) == {"roundhouse.store.record"}, found


def test_nothing_that_a_login_node_runs_imports_heavy_packages() -> None:
    verbs = [name_of(path) for path in modules_in("roundhouse/cli")]  # main imports them by name
    reached = everything_under("runner").union(verbs, *map(everything_under, verbs))
    assert "roundhouse.cli.main" in everything_under("runner")
    assert "roundhouse.schedulers.pbs" in reached
    assert not {name.partition(".")[0] for name in reached} & HEAVY
    assert not starting_with(reached, "roundhouse.training", "studies")


def loaded_by(module: str) -> set[str]:
    """All modules that a Python has loaded once it has imported this one."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, capture_output=True, text=True)
    return set(done.stdout.split())


LIGHT = [path for name in ("options", "check", "metrics") for path in (REPOSITORY / "studies").glob(f"*/{name}.py")]


@pytest.mark.parametrize("path", sorted(LIGHT), ids=name_of)
def test_what_a_login_node_and_the_analysis_load_of_a_study_is_not_heavy(path: Path) -> None:
    loaded = loaded_by(name_of(path))
    assert {name_of(path), name_of(path.parent)} <= loaded
    assert not loaded & (HEAVY | {"roundhouse.training"})


def test_runner_py_imports_nothing_heavy() -> None:
    loaded = loaded_by("runner")
    assert "runner" in loaded
    assert not loaded & (HEAVY | {"pydantic", "rich", "yaml", "jinja2", "psutil", "filelock"})


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_for_and_fits_into_a_head(path: Path) -> None:
    text = path.read_text()
    if not text.strip():
        assert path.name == "__init__.py"
        return
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert len(first) > 10
    assert first[-1] in ".:`?"
    length = len(text.splitlines())
    assert length <= LONGEST or path.is_relative_to(REPOSITORY / "tests"), f"{path} has {length} lines"


def test_the_version_is_stated_in_one_place() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: roundhouse.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", roundhouse.__version__)

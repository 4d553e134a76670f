"""Which way imports go, and what every module owes its reader."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
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
    "os", "io", "pathlib", "subprocess", "shutil", "socket", "tempfile", "sqlite3", "time", "datetime", "random",
    "roundhouse.files", "roundhouse.store", "roundhouse.machine", "roundhouse.views", "roundhouse.engine",
    "roundhouse.jobs", "roundhouse.cli", "roundhouse.schedulers",
}  # fmt: skip
LAYERS = ("model", "machine", "schedulers", "store", "config", "views", "engine", "jobs", "doctor", "cli")
UPWARD = {"halving.py": {"store"}, "selection.py": {"store", "config"}}


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
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
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
    base = REPOSITORY / module.replace(".", "/")
    path = next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)
    return imports_of(path, with_types=False) if path else set()


@pytest.mark.parametrize("path", modules_in("studies"), ids=name_of)
def test_a_study_knows_of_roundhouse_only_training_options_and_errors(path: Path) -> None:
    ours = starting_with(imports_of(path), "roundhouse")
    assert ours <= starting_with(ours, "roundhouse.training", "roundhouse.options", "roundhouse.errors")


@pytest.mark.parametrize("path", modules_in("roundhouse"), ids=name_of)
def test_roundhouse_imports_no_study_and_no_test(path: Path) -> None:
    assert not starting_with(imports_of(path), "studies", "tests", "runner", "train")


@pytest.mark.parametrize("path", modules_in("roundhouse/training"), ids=name_of)
def test_training_knows_neither_records_nor_schedulers(path: Path) -> None:
    assert not starting_with(imports_of(path), *(f"roundhouse.{name}" for name in LAYERS))


@pytest.mark.parametrize("path", modules_in("analysis"), ids=name_of)
def test_the_analysis_needs_neither_pytorch_nor_a_study_nor_a_scheduler(path: Path) -> None:
    forbidden = ("torch", "torchvision", "studies", "runner", "train", "tests", "roundhouse.training")
    assert not starting_with(imports_of(path), *forbidden)
    ours = starting_with(
        imports_of(path), "roundhouse.schedulers", "roundhouse.schedulers.command", "roundhouse.engine.user_actions"
    )
    assert not ours, "records are only read, and no scheduler is asked"


OUTSIDE_ANALYSIS = [
    path for path in SOURCES if path.relative_to(REPOSITORY).parts[0] not in ("analysis", "tests", "benchmarks")
]


@pytest.mark.parametrize("path", OUTSIDE_ANALYSIS, ids=name_of)
def test_only_toolbox_and_benchmarks_import_the_analysis(path: Path) -> None:
    assert not starting_with(imports_of(path), "analysis")


def test_the_plan_does_no_input_or_output_however_far_one_looks() -> None:
    reached = everything_under("roundhouse.model.plan")
    assert not starting_with(reached, *DOES_IO - {"pathlib"}), "Path is in it as a type only"
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for module in ("model/plan", "model/retry", "model/attempt", "model/causes", "model/answers")
        for node in ast.walk(ast.parse((REPOSITORY / "roundhouse" / f"{module}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))
    }
    assert not calls & {"open", "read_text", "write_text", "exists", "stat", "print", "input", "time"}


@pytest.mark.parametrize("path", modules_in("roundhouse"), ids=name_of)
def test_imports_go_down_the_layers_only(path: Path) -> None:
    """A module of a layer knows its own and those before it; one outside the layers knows none."""
    folder = path.parent.name
    known = set(LAYERS[: LAYERS.index(folder) + 1]) if folder in LAYERS else set()
    known |= UPWARD.get(path.name, set()) if folder == "model" else set()
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
    telling = {}
    for path in modules_in("roundhouse"):
        constants = {
            node.value for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }  # fmt: skip
        if names & constants:
            telling[name_of(path)] = names & constants
    assert set(telling) == {"roundhouse.store.record"}, telling


def test_nothing_that_a_login_node_runs_imports_what_is_heavy() -> None:
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


@pytest.mark.parametrize("path", sorted((REPOSITORY / "studies").glob("*/check.py")), ids=name_of)
def test_what_a_study_is_asked_on_a_login_node_loads_nothing_heavy(path: Path) -> None:
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


def test_the_version_is_said_in_one_place() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: roundhouse.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", roundhouse.__version__)

"""The documentation is true: links, options, exit codes, examples, lists of modules."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from shipped_rounds import unpack

from roundhouse.cli import exit_codes
from roundhouse.cli.parser import make_parser
from roundhouse.config import directives
from roundhouse.config.round import load_round
from roundhouse.figures import KEYS, Kind
from roundhouse.metrics import Declarations, Metric
from roundhouse.model import causes, plan

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(page for place in (".", "docs", "studies/*") for page in REPOSITORY.glob(f"{place}/*.md"))
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
EXAMPLE = REPOSITORY / "docs/your_own_script.md"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHER_OPTIONS = {
    *re.findall(r"--[a-z-]+", " ".join(f"--{name}" for _, names, _ in directives.RESERVED for name in names.split())),
    "--gres",
    "--qos",
    "--reservation",
    "--exclusive",
    "--export",
    "--constraint",
    "--account",
    "--open-mode",
    "--array",
    "--version",
    "--data",
    "--to",
    "--check",
    "--analysis",
    "--control",
    "--study",
    "--formats",
}  # of schedulers, of toolbox/setup.sh, and of the analysis


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options_of_the_parser() -> set[str]:
    return {option for action in make_parser(REPOSITORY)._actions for option in action.option_strings}


def fenced(page: Path, language: str) -> list[str]:
    """The blocks of code in a page that are in this language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for tag, block in blocks if tag == language]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, and there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_imports_in_python_examples_exist(page: Path) -> None:
    for code in fenced(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("roundhouse", "analysis")):
                exec(ast.unparse(node), {})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_option_of_the_runner_that_is_named_exists(page: Path) -> None:
    for line in page.read_text().splitlines():
        named = OPTION.findall(line.partition("runner.py")[2]) if "runner.py" in line else []
        named += re.findall(r"`(--[a-z-]+)[ `]", line)
        unknown = set(named) - options_of_the_parser() - OTHER_OPTIONS
        assert not unknown, f"{page.name}: {line}"


def test_the_table_of_directives_that_belong_to_roundhouse_is_that_of_the_code() -> None:
    slurm, pbs, _ = zip(*rows_under("Directives", "docs/site_file.md"), strict=True)
    named = set(re.findall(r"`--([\w-]+)`", " ".join(slurm)))
    assert named == {name.partition("/")[0] for _, names, _ in directives.RESERVED for name in names.split()}
    named = set(re.findall(r"`-(\w(?: \w+)?)`", " ".join(pbs)))
    assert named == {name.replace(":", " ") for _, _, names in directives.RESERVED for name in names.split()}


def test_every_option_of_the_runner_is_explained() -> None:
    explained = set(OPTION.findall((REPOSITORY / "docs/running.md").read_text()))
    assert options_of_the_parser() - {"--help", "-h"} <= explained


def rows_under(heading: str, page: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = re.split(rf"^## {heading}\n", (REPOSITORY / page).read_text(), flags=re.MULTILINE)[1]
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    documented = {int(code) for code, _ in rows_under("Exit codes", "docs/running.md")}
    assert documented == set(exit_codes.ExitCode)
    assert documented == {int(code) for code in re.findall(r"^  (\d+)  ", exit_codes.table(), re.MULTILINE)}


def test_the_tables_of_states_and_causes_are_complete() -> None:
    states = {state.strip("`") for state, *_ in rows_under("States", "docs/running.md")}
    assert states == {str(state) for state in plan.State}
    cells = [cell for cell, *_ in rows_under("Causes", "docs/running.md")]
    documented = set(re.findall(r"`(\w+)`", " ".join(cells)))
    assert documented == {str(cause) for cause in causes.Cause}


def test_the_map_of_modules_is_complete() -> None:
    section = (REPOSITORY / "docs/design.md").read_text().partition("## Modules")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `roundhouse/")]
    listed = set()
    for first, *others in rows:
        (place,) = re.findall(r"`([\w/.]+)`", first)
        listed |= (
            {place} if place.endswith(".py") else {place + name for name in re.findall(r"`([\w/]+\.py)`", others[-1])}
        )
    paths = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "roundhouse").rglob("*.py")]
    assert listed == {str(path) for path in paths if path.name != "__init__.py"}


def test_the_map_of_the_analysis_is_complete() -> None:
    section = (REPOSITORY / "docs/analysis.md").read_text().partition("## Modules")[2]
    names = {path.name for path in (REPOSITORY / "analysis").glob("*.py")} - {"__init__.py"}
    names |= {f"{path.parent.name}/" for path in (REPOSITORY / "analysis").glob("*/__init__.py")}
    assert names == set(re.findall(r"`([\w/]+(?:\.py|/))`", section)) - {"analysis/"}


def test_the_example_of_data_frames_runs_unchanged(tmp_path: Path) -> None:
    (code,) = [one for one in fenced(REPOSITORY / "docs/analysis.md", "python") if "load_round" in one]
    left_out = shutil.ignore_patterns("__pycache__", "experiment_*")
    for name in ("roundhouse", "analysis"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
    unpack(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "logit" in done.stdout


def test_the_example_of_your_own_script_runs_as_written(tmp_path: Path) -> None:
    for name in ("roundhouse", "templates", "sites"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("runner.py", "train.py"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (train, compare, _), (written,) = fenced(EXAMPLE, "python"), fenced(EXAMPLE, "yaml")
    assert fenced(REPOSITORY / "README.md", "yaml") == [written]
    (tmp_path / "my_train.py").write_text(train)
    (tmp_path / "compare.py").write_text(compare)
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds/mine.yaml").write_text(written)

    done = subprocess.run(
        [sys.executable, "runner.py", "--round", "mine", "--scheduler", "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in shown_table(EXAMPLE):
        assert line.rstrip() in [one.rstrip() for one in done.stdout.splitlines()], done.stdout
    best = json.loads((tmp_path / "experiments/mine/comparison/attempts/1/files/best.json").read_text())
    assert best["folder"].endswith("lr_0.5/attempts/1/files")


def shown_table(page: Path) -> list[str]:
    """The table that the page shows as the output of its example."""
    shown = next(block for block in fenced(page, "") if "--round mine" in block)
    return shown.splitlines()[2:]


def test_the_example_script_resumes_from_an_earlier_attempt(tmp_path: Path) -> None:
    (tmp_path / "my_train.py").write_text(fenced(EXAMPLE, "python")[0])
    now = tmp_path / "2"
    now.mkdir()
    (now / "state.json").write_text("[9, 3.0]")  # copied from an earlier attempt
    done = subprocess.run(
        [sys.executable, "my_train.py", "--lr", "0.1", "--out", str(now)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "resuming after epoch 9\n"
    assert json.loads((now / "state.json").read_text()) == [10, 3.0]


def test_the_examples_of_declarations_can_be_used_unchanged(tmp_path: Path) -> None:
    page = REPOSITORY / "docs/analysis.md"
    (code,) = [one for one in fenced(page, "python") if "METRICS" in one]
    found: dict[str, Any] = {}
    exec(code, found)
    declared = Declarations(found["METRICS"], found["ARRAYS"], found["APART"], found["COST"])
    assert (declared.main, declared.axis("val_iou")) == ("val_iou", "validation IoU (%)")
    (code,) = [one for one in fenced(page, "python") if "FIGURES" in one]
    exec(code, found)
    texts = fenced(page, "yaml")
    (kinds,) = [one for one in texts if "kind: tradeoff" in one]
    texts.remove(kinds)
    group = "{path: e, command: 'true', config: {width: 1, model: unet}}"
    (tmp_path / "r.yaml").write_text("\n".join(["round: r", f"experiments: {{e: {group}}}", *texts]))
    loaded = load_round("r", tmp_path)
    made = Declarations(figures=found["FIGURES"]).updated(loaded.metrics, loaded.apart, loaded.figures)
    assert (made.apart, made.reference("val_iou", {})) == (("region",), 0.12)
    assert [(name, one.title) for name, one in made.figures.items()] == [
        ("iou_by_width", "How wide must the network be?")
    ]
    groups = [f"  {one}: {{path: {one}, command: 'true', config: {{techniques: '1', arch: a}}}}"
              for one in ("base", "versions")]  # fmt: skip
    (tmp_path / "k.yaml").write_text("\n".join(["round: k", "experiments:", *groups, kinds]))
    drawn = [one for one in load_round("k", tmp_path).figures.values() if one]
    assert [one.kind for one in drawn] == ["images", "epochs", "interaction", "box", "tradeoff"]


def test_every_kind_of_figure_is_explained_with_its_keys() -> None:
    rows = rows_under("Figures by declaration", "docs/analysis.md")
    assert [row[0].strip("`") for row in rows] == list(get_args(Kind))
    for kind, _, needs, may in rows:
        named = [set(re.findall(r"`(\w+)`", one)) for one in (needs, may)]
        assert named == [set(one) for one in KEYS[kind.strip("`")]]


def test_every_argument_of_metric_is_explained() -> None:
    named = [row[0].strip("`") for row in rows_under("What a study declares", "docs/analysis.md")]
    assert named == [one.name for one in dataclasses.fields(Metric)]

"""The analysis that a study offers: found by convention, run by the scripts, and unable to stop the generic figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import folders_in, record_runs
from rounds_for_tests import REPOSITORY, snapshot

from analysis.rounds import Folders
from roundhouse.model.causes import Cause

ROUND = """\
round: r
study: tiny
experiments: {e: {path: "{seed}", grid: {seed: [0, 1]}}}
"""
METRICS = {"epochs": [{"epoch": 1, "fid": 3.0}], "final": {"fid": 3.0}}
ANALYSIS = """\
from roundhouse.errors import RoundhouseError

def analyse(found, suite):
    suite.say(f"{len(found.entries)} runs, {suite.jobs} processes, {'+'.join(suite.formats)}")
    suite.note("nothing is missing")
    folder = suite.folders.results(found.name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "summary.md").open("a") as file:
        file.write("fid is 3\\n\\n")
    return []
"""


@dataclass(frozen=True)
class Repository:
    """A copy of the analysis, with a small study, and a round of it that was recorded."""

    root: Path

    @property
    def place(self) -> Folders:
        return folders_in(self.root)

    def study(self, analysis: str | None, **modules: str) -> None:
        folder = self.root / "studies" / "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").write_text("PRELOAD = ()\n")
        if analysis is not None:
            (folder / "analysis").mkdir(exist_ok=True)
            for name, text in {"__init__": analysis, **modules}.items():
                (folder / "analysis" / f"{name}.py").write_text(text)

    def call(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A script with --round r; no byte code is kept, as a test may change a module twice within a second."""
        words = [sys.executable, self.root / "analysis" / script, "--round", "r", *options]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=self.root, env=env)

    def summaries(self) -> int:
        """How often the analysis of the study was run."""
        file = self.place.results("r") / "summary.md"
        return file.read_text().count("fid is 3") if file.exists() else 0

    def drawn(self) -> set[str]:
        return {path.name for path in (self.place.results("r") / "plots").rglob("*.png")}


GENERIC = {"0.png", "1.png", "e_results.png", "e_learning.png"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    ignored = shutil.ignore_patterns("experiment_*", "__pycache__")
    shutil.copytree(REPOSITORY / "analysis", made.root / "analysis", ignore=ignored)
    (made.root / "roundhouse").symlink_to(REPOSITORY / "roundhouse")
    made.study(ANALYSIS)
    record_runs(made.place, ROUND, {"0": METRICS, "1": METRICS})
    return made


def test_the_script_runs_what_the_study_offers(repository: Repository) -> None:
    done = repository.call("suite.py", "--jobs", "3", "--formats", "png,svg")
    assert (done.returncode, done.stdout) == (0, "2 runs, 3 processes, png+svg\n")
    assert done.stderr == "suite.py: nothing is missing\n"
    assert repository.summaries() == 1
    assert repository.call("suite.py").returncode == 0
    assert repository.summaries() == 2, "a call of the script always runs it"


def test_a_study_without_an_analysis_is_one_line(repository: Repository) -> None:
    shutil.rmtree(repository.root / "studies/tiny/analysis")
    done = repository.call("suite.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "r: study tiny has no analysis of its own (studies/NAME/analysis)\n"
    plotted = repository.call("plot_experiments.py")
    assert (plotted.returncode, plotted.stderr) == (0, "")


def test_a_round_of_commands_is_one_line(repository: Repository) -> None:
    place = repository.place
    (place.rounds / "r.yaml").unlink()
    shutil.rmtree(place.experiments / "r")
    record_runs(place, "round: r\nexperiments: {e: {path: e, command: 'true'}}\n", {"e": {"x": 1}})
    done = repository.call("suite.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "r: it has no study, and so no analysis of its own (studies/NAME/analysis)\n"


def test_the_other_scripts_run_it_once_until_something_changes(repository: Repository) -> None:
    before = snapshot(repository.place.experiments)
    for script in ("plot_experiments.py", "plot_experiments.py", "report.py"):
        done = repository.call(script)
        assert (done.returncode, done.stderr) == (0, "")
        assert "runs," not in done.stdout, "its progress is not printed there"
    assert repository.summaries() == 1
    page = (repository.place.results("r") / "report/index.html").read_text()
    assert "fid is 3" in page
    file = repository.place.experiments / "r/0/attempts/1/metrics.json"
    file.write_text(json.dumps({**METRICS, "used": {"seconds": 2.0}}))
    repository.call("report.py")
    assert repository.summaries() == 2, "the metrics of a run changed"
    repository.study(ANALYSIS + "# another line\n")
    repository.call("plot_experiments.py")
    assert repository.summaries() == 3, "the code of the analysis changed"
    repository.call("plot_experiments.py", "--formats", "pdf")
    assert repository.summaries() == 4, "another format is to be drawn"
    repository.call("plot_experiments.py")
    assert repository.summaries() == 4, "formats that were drawn once are kept up to date"
    assert set(snapshot(repository.place.experiments)) == set(before)


def test_while_experiments_are_ahead_only_the_script_runs_it(repository: Repository) -> None:
    file = repository.place.rounds / "r.yaml"
    file.write_text(ROUND.replace("[0, 1]", "[0, 1, 2]"))
    assert repository.call("plot_experiments.py").returncode == 0
    assert repository.summaries() == 0
    assert repository.call("suite.py").returncode == 0
    assert repository.summaries() == 1


def test_experiments_that_failed_are_not_waited_for(repository: Repository) -> None:
    (repository.place.rounds / "r.yaml").unlink()
    shutil.rmtree(repository.place.experiments / "r")
    text = f"retry: {{error: 1}}\n{ROUND}"
    record_runs(repository.place, text, {"0": METRICS, "1": METRICS}, cause=Cause.ERROR)
    repository.call("plot_experiments.py")
    assert repository.summaries() == 1


BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "an exception": (
        "from studies.tiny.analysis.work import analyse\n",
        {"work": "def analyse(found, suite):\n    rows = {}\n    return rows['fid']\n"},
        "the analysis of study 'tiny' failed in studies/tiny/analysis/work.py, line 3: KeyError: 'fid'",
    ),
    "an import": (
        "import no_such_module\n",
        {},
        "the analysis of study 'tiny' failed in studies/tiny/analysis/__init__.py, line 1: ModuleNotFoundError: "
        "No module named 'no_such_module'",
    ),
    "an exit": (
        "import sys\ndef analyse(found, suite):\n    sys.exit('enough')\n",
        {},
        "the analysis of study 'tiny' failed in studies/tiny/analysis/__init__.py, line 3: SystemExit: enough",
    ),
    "no function": (
        "def analyze(found, suite):\n    return []\n",
        {},
        "the analysis of study 'tiny' failed in studies/tiny/analysis.py: AttributeError: ",
    ),
    "a file": (
        "def analyse(found, suite):\n    open('/nowhere/else')\n",
        {},
        "/nowhere/else: No such file or directory",
    ),
    "a dead process": (
        "from studies.tiny.analysis.work import run as analyse\n",
        {"work": "import os\nfrom concurrent.futures import ProcessPoolExecutor\ndef die(x):\n    os._exit(1)\n"
                 "def run(found, suite):\n    pool = ProcessPoolExecutor(1)\n    pool.submit(die, 1).result()\n"},
        "a worker process was killed, perhaps because memory ran out; try --jobs 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_in_a_study_is_one_line_and_the_generic_figures_are_drawn(repository: Repository, name: str) -> None:
    analysis, modules, message = BROKEN[name]
    repository.study(analysis, **modules)
    for _ in range(2):
        done = repository.call("plot_experiments.py")
        assert done.returncode == 1, "and again, as long as it fails"
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"r: {message}")
        assert repository.drawn() == GENERIC
    done = repository.call("report.py")
    assert message.partition(": ")[0] in done.stderr
    assert (repository.place.results("r") / "report/index.html").exists()
    done = repository.call("suite.py")
    assert done.returncode == (2 if name == "an import" else 1)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"suite.py: {message}")


def test_a_study_can_refuse_a_round(repository: Repository) -> None:
    repository.study(
        "from roundhouse.errors import RoundhouseError\n"
        "def analyse(found, suite):\n    raise RoundhouseError(f'round {found.name} has one run only')\n"
    )
    done = repository.call("suite.py")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "suite.py: round r has one run only\n")
    done = repository.call("plot_experiments.py")
    assert (done.returncode, done.stderr) == (0, ""), "a refusal is no failure there"


def test_the_options_of_the_newest_call_are_kept_by_the_other_scripts(repository: Repository) -> None:
    repository.study(ANALYSIS.replace('"fid is 3', 'suite.options.get("control", "no") + " control. fid is 3'))
    state = repository.place.results("r") / "suite.json"
    assert repository.call("suite.py").returncode == 0
    content: dict[str, Any] = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "key": "old", "options": {"control": "mine"}}))
    assert repository.call("plot_experiments.py").returncode == 0
    assert "mine control. fid is 3" in (repository.place.results("r") / "summary.md").read_text()
    state.write_text("{")
    assert repository.call("plot_experiments.py").returncode == 0
    assert json.loads(state.read_text())["options"] == {}


def test_jobs_do_not_load_the_analysis_of_their_study(repository: Repository) -> None:
    """In an allocation, all modules of a study are loaded once, before any experiment starts."""
    repository.study("raise SystemError('a job loaded the analysis')\n", helper="raise SystemError\n")
    folder = repository.root / "studies/tiny"
    (folder / "methods").mkdir()
    (folder / "methods/__init__.py").write_text("")
    (folder / "methods/one.py").write_text("")
    (folder / "models.py").write_text("")
    program = (
        "import sys; from roundhouse.jobs.preload import _load_study; _load_study('tiny');"
        "print(sorted(one for one in sys.modules if one.startswith('studies.tiny')), 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository.root, capture_output=True, text=True, check=True
    )
    names = ["studies.tiny", "studies.tiny.methods", "studies.tiny.methods.one", "studies.tiny.models"]
    assert done.stdout == f"{names} False\n"


@pytest.mark.parametrize("study", [path.parent.name for path in (REPOSITORY / "studies").glob("*/analysis")])
def test_a_shipped_study_is_preloaded_without_its_analysis(study: str) -> None:
    program = (
        f"import sys; from roundhouse.jobs.preload import _load_study; _load_study('{study}');"
        f"print('studies.{study}.check' in sys.modules, [one for one in sys.modules if one.startswith"
        f"(('studies.{study}.analysis', 'analysis', 'matplotlib'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"

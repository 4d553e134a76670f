"""An experiment that cannot start is reported before anything is submitted, never opened, and delays no other."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_pbs import FakePBS
from rounds_for_tests import REPOSITORY, Rounds, snapshot

import studies
from roundhouse.config.site import Site
from roundhouse.engine.study_check import StudyChecks
from roundhouse.model.experiment import Experiment

DONE, WORK_REMAINS, FAILED = 0, 3, 4

CHECK = """\
import json
from roundhouse.errors import RoundhouseError

def check(config, data):
    with open({notes!r} + "/checked", "a") as checked:
        print(json.dumps(config), file=checked)
    if "lr" in config and not isinstance(config["lr"], float):
        raise RoundhouseError(f"lr is {{config['lr']!r}}, and must be a number")
    if "dataset" in config and not (data / config["dataset"]).exists():
        raise RoundhouseError(f"data set {{config['dataset']}} is missing in {{data}}")
"""


@dataclass
class Repository(Rounds):
    """A separate repository: the real runner, with the test's studies and sites."""

    @property
    def root(self) -> Path:
        return self.folder / "repository"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def argv(self, *options: str) -> list[str]:
        words = super().argv(*options)
        words[1] = str(self.root / "runner.py")
        return [*words, "--site", "here"]

    def make(self) -> None:
        for name in ("studies", "sites"):
            (self.root / name).mkdir(parents=True)
        for name in ("runner.py", "train.py"):
            (self.root / name).write_text((REPOSITORY / name).read_text())
        for name in ("roundhouse", "templates"):
            (self.root / name).symlink_to(REPOSITORY / name)
        (self.root / "studies/__init__.py").touch()
        (self.root / "sites/here.yaml").write_text(f"data: {self.data}\n")
        self.data.mkdir()

    def study(self, name: str = "s", check: str | None = CHECK, package: str = "") -> None:
        """A study that cannot train: no test of this file gets so far."""
        folder = self.root / "studies" / name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(package)
        if check is not None:
            (folder / "check.py").write_text(check.format(notes=str(self.notes)) if check is CHECK else check)

    def checked(self) -> list[dict[str, Any]]:
        """The configs that the study's check was called with, since the last call of this method."""
        configs = [json.loads(line) for line in self.lines("checked")]
        (self.notes / "checked").unlink(missing_ok=True)
        return configs


@pytest.fixture
def rounds(rounds: Rounds) -> Repository:
    made = Repository(folder=rounds.folder, mark=rounds.mark)
    made.make()
    return made


def seeds(path: str, count: int = 1, **group: Any) -> dict[str, Any]:
    """A group of the study `s`, or of another, with these seeds."""
    chosen = {"study": "s"} if "command" not in group and "study" not in group else {}
    return {"path": f"{path}/{{seed}}", "grid": {"seed": list(range(count))}, **chosen, **group}


# ------------------------------------------------------------------------------------------------on the local machine


def test_what_is_refused_is_never_opened_and_the_rest_runs_to_its_end(rounds: Repository) -> None:
    rounds.study()
    rounds.write({
        "good": seeds("good", command="true"),
        "bad": seeds("bad", 3, config={"lr": "fast"}),
        "waits": seeds("waits", command="true", after=["bad"]),
    })  # fmt: skip
    done = rounds.call()
    refusal = "cannot start: lr is 'fast', and must be a number"
    assert done.returncode == FAILED
    assert done.stderr.splitlines() == [f"bad/0 and 2 more {refusal}"]
    assert done.stdout.count("\nblocked ") + done.stdout.startswith("blocked ") == 1, "reported once while it runs"
    statuses = rounds.status()
    assert {path: row["state"] for path, row in statuses.items()} == {
        "good/0": "completed", "bad/0": "blocked", "bad/1": "blocked", "bad/2": "blocked", "waits/0": "pending",
    }  # fmt: skip
    assert statuses["bad/1"]["reason"] == refusal
    assert statuses["waits/0"]["reason"] == f"waits for bad/0, which is blocked: {refusal}"
    assert not rounds.directory("bad").exists()
    assert not rounds.directory("waits").exists()


def test_the_exit_code_says_whether_other_work_remains(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"good": seeds("good", command="true"), "bad": seeds("bad", config={"lr": "fast"})})
    assert rounds.call("--limit", "0").returncode == WORK_REMAINS
    assert rounds.call("--only", "bad/*", "--limit", "0").returncode == FAILED
    assert rounds.call("--only", "good/*").returncode == DONE
    assert rounds.call().returncode == FAILED


def test_a_dry_run_reports_what_cannot_start_and_changes_nothing(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"good": seeds("good"), "bad": seeds("bad", 2, config={"lr": "fast"})})
    done = rounds.call("--dry-run")
    lines = done.stdout.splitlines()
    assert done.returncode == DONE
    assert [line.split()[:2] for line in lines[:3]] == [
        ["submit", "good/0"],
        ["blocked", "bad/0"],
        ["blocked", "bad/1"],
    ]
    assert lines[-2] == "Round r: 3 experiments: 1 pending, 2 blocked."
    assert lines[-1].startswith("1 single job would be submitted through local")
    assert done.stderr.splitlines() == ["bad/0 and 1 more cannot start: lr is 'fast', and must be a number"]
    assert snapshot(rounds.experiments) == {}


def test_the_explanation_and_the_table_show_it_too(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"bad": seeds("bad", config={"lr": "fast"})})
    refusal = "cannot start: lr is 'fast', and must be a number"
    assert f"state     blocked: {refusal}\n" in rounds.call("--why", "bad/0").stdout
    status = rounds.call("--status")
    assert (status.returncode, status.stderr) == (DONE, f"bad/0 {refusal}\n")
    assert ["bad/0", "blocked", refusal] in [
        line.split(maxsplit=2) for line in map(str.strip, status.stdout.splitlines())
    ]


def test_in_a_large_round_one_message_covers_all_that_it_concerns(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"good": seeds("good"), "bad": seeds("bad", 70, config={"lr": "fast"})})
    done = rounds.call("--status")
    assert done.stderr.splitlines() == ["bad/0 and 69 more cannot start: lr is 'fast', and must be a number"]
    assert "bad/" not in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("bad")] == [["bad", "70"]]


def test_what_is_fixed_continues_automatically(rounds: Repository) -> None:
    rounds.study()
    rounds.write({"e": seeds("e", config={"dataset": "letters"})})
    assert rounds.call().returncode == FAILED
    assert rounds.status()["e/0"]["reason"] == f"cannot start: data set letters is missing in {rounds.data}"
    (rounds.data / "letters").mkdir()
    assert rounds.call("--dry-run").stdout.startswith("submit ")


def test_a_retry_does_not_change_a_refused_experiment(rounds: Repository) -> None:
    (rounds.root / "sites/here.yaml").write_text("python: /bin/false\n")
    rounds.study(check=None)
    rounds.write({"e": seeds("e", config={"lr": "fast"})})
    assert rounds.call().returncode == FAILED
    assert rounds.call("--retry", "--limit", "0").stdout.startswith("e/0: will be retried")
    rounds.study()
    attempts = rounds.causes("e/0")
    assert attempts == ["error", "error", "retry"]
    done = rounds.call("--retry")
    assert done.returncode == FAILED
    assert done.stdout.startswith("nothing to retry")
    assert rounds.causes("e/0") == attempts
    assert rounds.status()["e/0"]["reason"] == "cannot start: lr is 'fast', and must be a number"


# --------------------------------------------------------------------------------------------------- on a cluster


def on_pbs(rounds: Repository, fake: FakePBS) -> None:
    rounds.extra = {key: fake.env[key] for key in ("FAKE_PBS", "PATH")}
    fake.turn(stopped=True)


def test_a_watch_does_not_wait_for_what_cannot_start(rounds: Repository, fake_pbs: FakePBS) -> None:
    on_pbs(rounds, fake_pbs)
    rounds.study()
    rounds.write({"bad": seeds("bad", config={"lr": "fast"}), "waits": seeds("waits", after=["bad"])})
    done = rounds.call("--watch", "30", "--scheduler", "pbs")
    assert done.returncode == FAILED
    assert "Next pass" not in done.stdout
    assert fake_pbs.jobs() == {}


def test_running_jobs_are_not_checked_again(rounds: Repository, fake_pbs: FakePBS) -> None:
    on_pbs(rounds, fake_pbs)
    rounds.study()
    (rounds.data / "letters").mkdir()
    rounds.write({"e": seeds("e", config={"dataset": "letters"})})
    assert rounds.call("--scheduler", "pbs").returncode == WORK_REMAINS
    assert rounds.checked() == [{"dataset": "letters"}]
    (rounds.data / "letters").rmdir()
    done = rounds.call("--scheduler", "pbs")
    assert (done.returncode, done.stderr) == (WORK_REMAINS, "")
    assert rounds.checked() == []
    assert len(fake_pbs.jobs()) == 1


def test_without_a_data_set_only_what_needs_it_is_blocked(rounds: Repository, fake_pbs: FakePBS) -> None:
    on_pbs(rounds, fake_pbs)
    for name in ("distillation", "data_files.py"):
        (rounds.root / "studies" / name).symlink_to(REPOSITORY / "studies" / name)
    teacher = {"path": "{dataset}/pure/{model}", "grid": {"dataset": ["digits", "cifar100"]}}
    student = {**teacher, "path": "{dataset}/logit/{model}", "after": {"teacher": {"dataset": "{dataset}"}}}
    rounds.write({
        "teacher": {**teacher, "study": "distillation", "config": {"model": "ResNet20"}},
        "student": {**student, "study": "distillation", "config": {"model": "ResNet8", "teacher": "ResNet20",
                                                                   "method": "logit"}},
    })  # fmt: skip
    done = rounds.call("--scheduler", "pbs")
    assert done.returncode == WORK_REMAINS
    (line,) = done.stderr.splitlines()
    assert line.startswith("cifar100/pure/ResNet20 and 1 more cannot start: ")
    for part in ("cifar100", str(rounds.data), "toolbox/setup.sh --data cifar100"):
        assert part in line
    assert rounds.states() == {
        "digits/pure/ResNet20": "in_progress", "cifar100/pure/ResNet20": "blocked",
        "digits/logit/ResNet8": "pending", "cifar100/logit/ResNet8": "blocked",
    }  # fmt: skip
    assert len(fake_pbs.jobs()) == 1


def test_a_misspelt_method_is_reported_before_its_teacher_has_started(rounds: Repository, fake_pbs: FakePBS) -> None:
    on_pbs(rounds, fake_pbs)
    for name in ("distillation", "data_files.py"):
        (rounds.root / "studies" / name).symlink_to(REPOSITORY / "studies" / name)
    config = {"model": "ResNet8", "teacher": "ResNet20", "method": "fitnet"}
    rounds.write({
        "teacher": seeds("t", study="distillation", config={"model": "ResNet20"}),
        "student": seeds("s", 2, study="distillation", config=config, after=["teacher"]),
    })  # fmt: skip
    done = rounds.call("--scheduler", "pbs", "--dry-run")
    (line,) = done.stderr.splitlines()
    assert line.startswith("s/0 and 1 more cannot start: unknown method 'fitnet': did you mean 'fitnets'?")
    assert fake_pbs.jobs() == {}


# ------------------------------------------------------------------------------------------------ the check itself


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("def check(config, data):\n    return config['widht']", "check.py, line 2: KeyError: 'widht'"),
        ("from studies.s import help\ndef check(config, data):\n    help.me()", "help.py, line 2: ValueError: never"),
        ("def check(config, data)\n    pass", "check.py: SyntaxError: "),
        ("import no_such_module", "check.py, line 1: ModuleNotFoundError: "),
        ("def chekc(config, data): pass", "check.py: AttributeError: "),
        ("def check(config): pass", "check.py: TypeError: "),
        ("import sys\ndef check(config, data):\n    sys.exit('enough')", "check.py, line 3: SystemExit: enough"),
    ],
)
def test_a_mistake_in_the_check_itself_is_reported_in_one_line_with_its_place(
    rounds: Repository, check: str, message: str
) -> None:
    rounds.study(check=check)
    (rounds.root / "studies/s/help.py").write_text("def me():\n    raise ValueError('never')\n")
    rounds.write({"e": seeds("e", 3), "good": seeds("good", command="true")})
    done = rounds.call("--scheduler", "local")
    assert done.returncode == FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith("e/0 and 2 more cannot start: the check of study 's' failed in studies/s/")
    assert message in line
    assert rounds.states()["good/0"] == "completed"


def test_a_study_without_a_check_is_not_even_imported(rounds: Repository) -> None:
    rounds.study(check=None, package="raise SystemExit('imported')")
    rounds.write({"e": seeds("e", config={"patience": 0})})
    done = rounds.call("--dry-run")
    assert (done.returncode, done.stderr) == (DONE, "")
    assert done.stdout.startswith("submit ")


Ask = Callable[..., str]


@pytest.fixture
def ask(rounds: Repository, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The refusal of an experiment of the study `s` with this config, all in one pass."""
    rounds.study()
    monkeypatch.setattr(studies, "__path__", [str(rounds.root / "studies")])
    monkeypatch.delattr(studies, "s", raising=False)
    for name in ("studies.s", "studies.s.check"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    readiness = StudyChecks(rounds.root, Site(data=str(rounds.data)))

    def ask(study: str | None = "s", **config: Any) -> str:
        return readiness.refusal(Experiment("r", "e", "e", study, config))

    return ask


def test_the_check_sees_the_config_without_the_keys_of_the_loop(rounds: Repository, ask: Ask) -> None:
    assert ask(lr=0.1, seed=3, precision="fp32", patience=2) == ""
    assert rounds.checked() == [{"lr": 0.1}]


def test_a_mistake_in_a_key_of_the_loop_is_reported_without_the_study_s_check(rounds: Repository, ask: Ask) -> None:
    assert ask(lr=0.1, patience=0) == "config key 'patience' is 0; it must be > 0, or null for no limit"
    assert rounds.checked() == []


def test_the_same_config_is_checked_once_in_a_pass_whatever_the_seed(rounds: Repository, ask: Ask) -> None:
    assert [ask(lr=lr, seed=seed) for seed in range(3) for lr in (0.1, 0.2)] == [""] * 6
    assert rounds.checked() == [{"lr": 0.1}, {"lr": 0.2}]


def test_values_that_are_equal_but_not_the_same_are_each_checked(rounds: Repository, ask: Ask) -> None:
    assert ask(lr=1.0) == ""
    assert ask(lr=True) == "lr is True, and must be a number"
    assert ask(lr=1) == "lr is 1, and must be a number"


def test_lists_and_mappings_in_a_config_are_no_obstacle(rounds: Repository, ask: Ask) -> None:
    assert ask(milestones=[1, 2], more={"b": None, "a": [0.5]}) == ""
    assert rounds.checked() == [{"milestones": [1, 2], "more": {"b": None, "a": [0.5]}}]


def test_a_command_has_no_study_to_check_it(rounds: Repository, ask: Ask) -> None:
    assert ask(study=None, lr="fast") == ""
    assert ask(study="t", lr="fast") == ""
    assert rounds.checked() == []


def test_without_a_data_folder_the_study_s_check_gets_none(rounds: Repository, ask: Ask) -> None:
    (rounds.root / "studies/s/check.py").write_text("def check(config, data):\n    assert data is None\n")
    assert StudyChecks(rounds.root, Site()).refusal(Experiment("r", "e", "e", "s", {})) == ""
    assert "AssertionError" in ask()


def test_the_example_in_the_documentation_works_unchanged(rounds: Repository) -> None:
    page = (REPOSITORY / "docs/adding_a_study.md").read_text()
    example = r"`studies/spirals/{}`[^`]*?:\n\n```python\n(.*?)```"
    options, check = (re.findall(example.format(name), page, re.DOTALL)[0] for name in ("options.py", "check.py"))
    rounds.study("spirals", check)
    (rounds.root / "studies/spirals/options.py").write_text(options)
    rounds.write({"good": seeds("good", study="spirals"), "bad": seeds("bad", study="spirals", config={"widht": 8})})
    refusal = "cannot start: unknown key 'config.widht': did you mean 'width'?"
    assert rounds.call("--dry-run").stderr.splitlines() == [f"bad/0 {refusal}"]
    rounds.data.rmdir()
    missing = f"good/0 cannot start: data directory {rounds.data} does not exist: create it"
    assert missing in rounds.call("--dry-run").stderr


# ------------------------------------------------------------------------------------------- the study distillation


def distillation(config: dict[str, Any], data: Path) -> tuple[str, set[str]]:
    """What the study's check says of a config, and which modules are loaded after that."""
    code = (
        "import json, pathlib, sys; from roundhouse.errors import RoundhouseError\n"
        "from studies.distillation import check\n"
        "try: check.check(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "except RoundhouseError as error: print(error)\n"
        "print('MODULES', *sys.modules)"
    )
    words = [sys.executable, "-c", code, json.dumps(config), str(data)]
    printed = subprocess.run(words, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
    refusal, _, loaded = printed.partition("MODULES")
    return refusal.strip(), set(loaded.split())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "ResNet8"}, ""),
        ({"model": "ResNet8", "milestones": [3, 5], "schedule": "steps"}, ""),
        ({"model": "ResNet9"}, "unknown model 'ResNet9': did you mean 'ResNet"),
        ({"model": "ResNet8", "learning_rate": 0.1}, "unknown key 'config.learning_rate'"),
        ({"model": "ResNet8", "lr": "1e-3"}, "config.lr should be a finite number, not '1e-3'"),
        ({"model": "ResNet8", "method": "fitnet"}, "unknown method 'fitnet': did you mean 'fitnets'?"),
        ({"model": "ResNet8", "dataset": "digit"}, "did you mean 'digits'?"),
        ({"model": "ResNet8", "dataset": "cifar100"}, "toolbox/setup.sh --data cifar100"),
    ],
)
def test_the_distillation_study_reports_what_cannot_start_without_loading_torch(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    refusal, loaded = distillation(config, tmp_path)
    assert message in refusal
    assert bool(message) == bool(refusal)
    assert "studies.distillation.check" in loaded
    assert not {"torch", "torchvision", "numpy", "sklearn"} & loaded

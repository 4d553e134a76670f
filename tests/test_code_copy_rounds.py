"""Real rounds with `snapshot: true`: the checkout is edited, and jobs run the code as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import SlurmCluster
from cluster_helpers import (
    DONE,
    FAILED,
    WORK_REMAINS,
    ClusterRounds,
    dead,
    names_of,
    pbs_rounds,
)
from fake_pbs import FakePBS
from rounds_for_tests import REPOSITORY, finish, interrupt, wait_for

from roundhouse.store import code_copy, history, record

USAGE = 2
# It notes its word, and waits until it is released.
PROGRAM = """\
import os, sys, time
import lib
name, notes = sys.argv[1:]
with open(f"{notes}/{name}", "a") as file:
    file.write(lib.WORD + "\\n")
while not os.path.exists(f"{notes}/{name}.go"):
    time.sleep(0.05)
"""


def edit(rounds: ClusterRounds, word: str) -> None:
    """What the checkout's code says from now on."""
    (rounds.repository / "lib.py").write_text(f"WORD = {word!r}\n")


def write(rounds: ClusterRounds, *names: str, **group: Any) -> None:
    """rounds/r.yaml: programs of the checkout, run from a copy of it."""
    (rounds.repository / "my_train.py").write_text(PROGRAM)
    edit(rounds, "old")
    command = [sys.executable, "my_train.py", "{name}", str(rounds.notes)]
    groups = {"e": {"path": "{name}", "grid": {"name": list(names)}, "command": command, **group}}
    rounds.write(yaml.safe_dump({"round": "r", "snapshot": True, "experiments": groups}))


def put_in_git(folder: Path) -> str:
    """The commit of all that is in a checkout."""
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-C", str(folder)]
    shutil.copy(REPOSITORY / ".gitignore", folder)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "state"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def code_of(rounds: ClusterRounds, path: str, number: int = 1) -> str | None:
    return rounds.record(path).attempts[number - 1].opened.code


def copies(rounds: ClusterRounds) -> set[str]:
    return {path.name for path in (rounds.experiments / "r" / code_copy.COPIES).iterdir() if path.is_dir()}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[ClusterRounds]:
    """A separate checkout, whose rounds run on the local machine, in two slots."""
    made = ClusterRounds(folder=tmp_path, scheduler="local")
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def pbs(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def test_on_the_local_machine_a_call_runs_the_code_as_it_was_at_its_start(here: ClusterRounds) -> None:
    write(here, "a", "b", "c")
    runner = here.start()
    wait_for(lambda: here.lines("a") and here.lines("b"), "two run, and one waits for a slot")
    edit(here, "new")
    here.release("a", "b", "c")
    assert finish(runner)[0] == DONE
    assert [here.lines(name) for name in "abc"] == [["old"]] * 3
    assert len(copies(here)) == 1
    assert {here.view(name)["code"] for name in "abc"} == copies(here)


def test_a_resume_runs_the_same_code_unless_the_current_code_is_requested(here: ClusterRounds) -> None:
    write(here, "a")
    head = put_in_git(here.repository)
    edit(here, "old, edited")
    for number, options in enumerate([(), (), ("--code", "current"), ()], 1):
        runner = here.start(*options)
        wait_for(lambda: len(here.lines("a")) == number, f"attempt {number} runs")  # noqa: B023
        interrupt(runner)
        assert finish(runner)[0] == 130
        edit(here, "new")
    here.release("a")
    assert here.call().returncode == DONE
    assert here.lines("a") == ["old, edited", "old, edited", "new", "new", "new"]
    first, second, third, *later = (code_of(here, "a", number) for number in range(1, 6))
    assert first == second != third
    assert later == [third, third]
    assert copies(here) == {first, third}
    explanation = here.call("--why", "a").stdout
    assert f"{str(first)[:7]} (commit {head[:7]}, edited)" in explanation
    changed = f"changed from {str(first)[:7]} to {str(third)[:7]} (commit {head[:7]}, edited) by attempt 3"
    assert explanation.count("changed from") == 1
    assert f"code      {changed}" in explanation
    status = here.status()["a"]
    assert status["code"] == third
    assert [one["code"] for one in here.view("a")["attempts"]] == [first, first, third, third, third]
    ran = history.environments(here.directory("a"))
    assert [ran[number]["code"] for number in range(1, 6)] == [first, first, third, third, third]
    assert {(one["commit"], one["edited"]) for one in ran.values()} == {(head, True)}


def test_a_retry_says_which_code_it_runs(here: ClusterRounds) -> None:
    write(here, "a")
    (here.repository / "my_train.py").write_text("import sys; sys.exit('a mistake')\n")
    assert here.call().returncode == FAILED
    (here.repository / "my_train.py").write_text("print('fixed')\n")
    done = here.call("--retry")
    assert done.returncode == FAILED, "it runs the code that has failed"
    assert "For the current code: --retry --code current" in done.stdout
    done = here.call("--retry", "--code", "current")
    assert done.returncode == DONE
    assert "For the current code" not in done.stdout


def test_a_job_that_waits_in_the_queue_runs_the_code_as_it_was_submitted(pbs: ClusterRounds, fake_pbs: FakePBS) -> None:
    write(pbs, "a", "b")
    fake_pbs.turn(stopped=True)
    assert pbs.call("--only", "a").returncode == WORK_REMAINS
    edit(pbs, "new")
    assert pbs.call().returncode == WORK_REMAINS
    edit(pbs, "newest")
    (pbs.repository / "my_train.py").unlink()
    fake_pbs.turn()
    pbs.release("a", "b")
    pbs.pass_until_done()
    assert (pbs.lines("a"), pbs.lines("b")) == (["old"], ["new"])
    assert copies(pbs) == {code_of(pbs, "a"), code_of(pbs, "b")}


def test_a_job_that_pbs_starts_again_runs_the_same_code(pbs: ClusterRounds, fake_pbs: FakePBS) -> None:
    write(pbs, "a")
    assert pbs.call().returncode == WORK_REMAINS
    wait_for(lambda: pbs.lines("a") == ["old"], "it runs")
    edit(pbs, "new")
    fake_pbs.rerun(pbs.view("a")["job_id"])
    wait_for(lambda: pbs.lines("a") == ["old", "old"], "it runs again")
    pbs.release("a")
    pbs.pass_until_done()
    assert code_of(pbs, "a", 1) == code_of(pbs, "a", 2) is not None
    assert len(names_of(fake_pbs)) == 1


def test_an_allocation_keeps_its_code_which_is_reported_and_the_next_runs_the_requested_code(
    pbs: ClusterRounds, fake_pbs: FakePBS
) -> None:
    write(pbs, "a", "b", resources={"pack": {"slots": 1}, "max_running": 1})
    pbs.call()
    wait_for(lambda: pbs.lines("a") == ["old"], "it runs")
    edit(pbs, "new")
    (job_id,) = fake_pbs.jobs()
    assert (
        f"the code they were submitted with: {job_id}. To run the present code" in pbs.call("--code", "current").stdout
    )
    fake_pbs.run(["qdel", job_id])
    wait_for(lambda: pbs.causes("a") == ["preempted"], "it has saved its place")
    pbs.release("a", "b")
    fake_pbs.wait_for_state(job_id, "F")
    assert "To run the present code" not in pbs.call("--code", "current").stdout
    pbs.pass_until_done()
    assert (pbs.lines("a"), pbs.lines("b")) == (["old", "new"], ["new"])


@pytest.mark.cluster
def test_on_slurm_neither_a_queued_job_nor_a_resume_sees_an_edited_checkout(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    extra = {key: slurm_cluster.env[key] for key in ("SLURM_CONF", "PATH")}
    slurm = ClusterRounds(folder=tmp_path, extra=extra, scheduler="slurm")
    try:
        blocker = slurm.folder / "blocker.sh"
        blocker.write_text("#!/bin/sh\nsleep 600\n")
        foreign = slurm_cluster.run(["sbatch", "--parsable", "-c8", "-o/dev/null", str(blocker)]).stdout.strip()
        wait_for(lambda: slurm_cluster.job_states()[foreign] == "RUNNING", "the cluster is full")
        write(slurm, "a", resources={"ncpus": 8})
        assert slurm.call().returncode == WORK_REMAINS
        edit(slurm, "new")
        slurm_cluster.run(["scancel", foreign])
        wait_for(lambda: slurm.lines("a") == ["old"], "it runs once there is room")
        family = slurm.family("a")
        slurm_cluster.run(["scancel", slurm.view("a")["job_id"]])
        wait_for(lambda: all(dead(one) for one in family), "it is killed")
        slurm.pass_until(lambda: len(slurm.lines("a")) == 2, "it is resumed")
        slurm.python("a", 2).kill()
        slurm.release("a")
        wait_for(lambda: slurm.record("a").attempts[1].closed, "it records that it was killed")
        assert slurm.call("--code", "current").returncode == WORK_REMAINS
        slurm.pass_until_done()
        assert slurm.lines("a") == ["old", "old", "new"]
    finally:
        slurm_cluster.clear()
        slurm.kill()


def test_a_lost_copy_blocks_the_experiments_that_have_run_with_it_and_no_others(here: ClusterRounds) -> None:
    write(here, "a", "b")
    runner = here.start("--only", "a")
    wait_for(lambda: here.lines("a"), "it runs")
    interrupt(runner)
    finish(runner)
    here.release("a", "b")
    copy = code_copy.copy_of(here.experiments / "r", str(code_of(here, "a")))
    copy.rename(here.folder / "aside")
    edit(here, "new")
    done = here.call()
    assert done.returncode == FAILED
    missing = f"{copy}, the copy of the code that it ran with, is missing or incomplete."
    assert f"a cannot start: {missing} Restore it, or use the present code: --code current" in done.stderr
    assert here.states() == {"a": "blocked", "b": "completed"}
    assert (here.lines("a"), here.lines("b")) == (["old"], ["new"])
    assert here.call("--dry-run").stdout.count("blocked") == 2
    (here.folder / "aside").rename(copy)
    (copy / "lib.py").unlink()
    assert here.states()["a"] == "blocked", "a file of it is gone"
    assert here.call("--code", "current").returncode == DONE
    assert here.lines("a") == ["old", "new"]
    assert "(its copy is missing)" not in here.call("--why", "a").stdout


def test_what_is_installed_or_on_the_path_does_not_lead_back_to_the_checkout(here: ClusterRounds) -> None:
    """An editable install of the checkout, PYTHONPATH, a program elsewhere, a module, children of multiprocessing."""
    environment = here.folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (ours,) = [path for path in sys.path if path.endswith("site-packages")][:1]
    (site / "editable.pth").write_text(f"{here.repository}\n{ours}\n")
    python = str(environment / "bin/python")
    write(here, "unused")
    (here.folder / "elsewhere.py").write_text("import lib; print('says', lib.WORD)\n")
    spawning = (
        "import multiprocessing as m, my_module\n"
        "if __name__ == '__main__':\n    child = m.get_context('spawn').Process(target=my_module.say)\n"
        "    child.start(); child.join()\n"
    )
    (here.repository / "my_module.py").write_text(
        "import lib\ndef say(): print('says', lib.WORD)\nif __name__ == '__main__': say()\n"
    )
    (here.repository / "spawning.py").write_text(spawning)
    commands = {
        "installed": [python, str(here.folder / "elsewhere.py")],
        "module": [python, "-m", "my_module"],
        "spawned": [python, "spawning.py"],
        "shell": ["sh", "-c", "echo says $(cut -d\\' -f2 lib.py)"],
    }
    groups = {name: {"path": name, "command": words} for name, words in commands.items()}
    here.write(yaml.safe_dump({"round": "r", "snapshot": True, "experiments": groups}))
    edits = f"""echo "WORD = 'new'" > {here.repository}/lib.py"""
    here.set_site(python=python, setup=[f"export PYTHONPATH={here.repository}", edits])
    assert here.call().returncode == DONE
    assert "new" in (here.repository / "lib.py").read_text()
    logs = {name: (here.attempt(name) / record.LOG).read_text() for name in commands}
    assert {name: "says old" in log for name, log in logs.items()} == dict.fromkeys(commands, True), logs


def test_a_job_whose_python_loads_other_code_refuses_to_run(here: ClusterRounds) -> None:
    write(here, "a")
    (here.repository / "train.py").unlink()
    (here.repository / "train.py").write_text(
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import train; sys.exit(train.main(sys.argv))"
    )
    assert here.call().returncode == FAILED
    assert not here.lines("a")
    assert f"of the code, but Python loaded {REPOSITORY}" in here.status()["a"]["reason"]


def test_data_of_the_checkout_is_found_from_the_copy(here: ClusterRounds) -> None:
    """By a relative path, and as the default folder of the study's data sets."""
    data = here.repository / "data"
    data.mkdir()
    (data / "digits").write_text("here\n")
    script = (
        "from studies.distillation.sources import data_directory;"
        "print(open('data/digits').read(), (data_directory(None) / 'digits').read_text())"
    )
    group = {"path": "e", "command": [sys.executable, "-c", script]}
    here.write(yaml.safe_dump({"round": "r", "snapshot": True, "experiments": {"e": group}}))
    assert here.call().returncode == DONE
    assert "here\n here\n" in (here.attempt("e") / record.LOG).read_text()


def test_a_study_is_resumed_with_the_code_of_its_first_attempt(here: ClusterRounds) -> None:
    (here.repository / "studies").unlink()
    shutil.copytree(REPOSITORY / "studies", here.repository / "studies", ignore=shutil.ignore_patterns("__pycache__"))
    config = {"model": "ResNet8", "method": "pure", "dataset": "digits", "epochs": 6, "batch_size": 64, "lr": 0.1}
    group = {"path": "e", "study": "distillation", "config": config}
    here.write(yaml.safe_dump({"round": "r", "snapshot": True, "experiments": {"e": group}}))
    runner = here.start()
    wait_for(lambda: "epoch 1/6" in log(here, 1), "an epoch is trained")
    interrupt(runner)
    assert finish(runner)[0] == 130
    (here.repository / "studies/distillation/train.py").write_text("raise RuntimeError('edited')\n")
    assert here.call().returncode == DONE
    assert "resumed after epoch" in log(here, 2)
    copy = code_copy.copy_of(here.experiments / "r", str(code_of(here, "e", 2)))
    assert str(copy) in log(here, 2)


def log(rounds: ClusterRounds, number: int) -> str:
    path = rounds.attempt("e", number) / record.LOG
    return path.read_text() if path.exists() else ""


def test_an_archived_round_takes_its_code_along(here: ClusterRounds) -> None:
    write(here, "a")
    here.release("a")
    assert here.call().returncode == DONE
    code = code_of(here, "a")
    assert here.call("--analysis", str(here.analysis), "--archive").returncode == DONE
    archived = here.analysis / "experiment_r"
    assert code_copy.is_whole(code_copy.copy_of(archived / "experiments", str(code)))
    assert f"code {code}" in (archived / "README.md").read_text()
    assert str(code)[:7] in here.call("--analysis", str(here.analysis), "--why", "a").stdout


def test_without_snapshot_nothing_is_copied_and_code_current_makes_no_sense(here: ClusterRounds) -> None:
    here.write({"e": {"path": "e", "command": ["true"]}})
    done = here.call("--code", "current")
    assert done.returncode == USAGE
    assert "has no `snapshot: true`" in done.stderr
    assert here.call().returncode == DONE
    assert not (here.experiments / "r" / code_copy.COPIES).exists()
    assert "code" not in json.loads((here.directory("e") / record.HISTORY).read_text())["attempts"][0]["job"]


@pytest.mark.parametrize("option", [("--status",), ("--why", "a"), ("--cancel",), ("--archive",)])
def test_code_current_goes_with_what_submits(here: ClusterRounds, option: tuple[str, ...]) -> None:
    write(here, "a")
    done = here.call("--code", "current", *option)
    assert done.returncode == USAGE
    assert "--code" in done.stderr


def test_a_round_that_starts_to_use_copies_continues_with_one(here: ClusterRounds) -> None:
    write(here, "a")
    file = here.rounds / "r.yaml"
    wanting = file.read_text()
    file.write_text(wanting.replace("snapshot: true", "snapshot: false"))
    runner = here.start()
    wait_for(lambda: here.lines("a"), "it runs")
    interrupt(runner)
    finish(runner)
    file.write_text(wanting)
    here.release("a")
    assert here.call().returncode == DONE
    assert (code_of(here, "a", 1), code_of(here, "a", 2)) == (None, copies(here).pop())
    assert "changed from the checkout at that time to" in here.call("--why", "a").stdout


def test_a_dry_run_shows_the_copy_and_makes_none(here: ClusterRounds) -> None:
    write(here, "a")
    done = here.call("--dry-run")
    folder = Path(done.stdout.split("Scripts: ")[1].strip())
    script = next(folder.iterdir()).read_text()
    assert f"cd {here.experiments}/r/{code_copy.COPIES}/" in script
    assert not (here.experiments / "r").exists()

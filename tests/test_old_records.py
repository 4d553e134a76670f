"""Records written by earlier versions: every file is still understood, and a half-finished round continues.

`data/records_X_Y/README.md` lists what the records of version X.Y contain, and how they were made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cluster import SlurmCluster
from cluster_helpers import DONE, FAILED, ClusterRounds, finish_passes
from rounds_for_tests import MARK, Rounds, snapshot

from roundhouse.schedulers.user import user_name

VERSIONS = sorted((Path(__file__).parent / "data").glob("records_*"))
ROUND, COPIED, ARCHIVED = "half", "copied", "home"  # half-finished; with code copies; local, archived
BASE, CLUSTER, CPUS = "/tmp/rh01", "oldcluster", 16  # where the records were made; what the scheduler was called

Status = Mapping[str, Any]


def change_text(folder: Path, changes: Mapping[str, str]) -> None:
    """Replace text in all files of a folder. Times of files and hard links stay: they are part of the record."""
    pattern = re.compile("|".join(map(re.escape, sorted(changes, key=len, reverse=True))))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".npz", ".log"):
            before, times = path.read_text(), path.stat()
            after = pattern.sub(lambda found: changes[found[0]], before)
            if after != before:
                path.write_text(after)
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def open_attempts(rounds: Rounds, name: str = "*") -> Iterator[Path]:
    """Directories of the attempts that are neither closed nor void."""
    for job in sorted(rounds.experiments.glob(f"{name}/**/attempts/*/job.json")):
        claim = job.parent / "claim.json"
        void = claim.exists() and json.loads(claim.read_text()).get("void")
        if not (void or (job.parent / "result.json").exists()):
            yield job.parent


def extract(data: Path, rounds: Rounds, changes: Mapping[str, str] | None = None) -> None:
    """Put round files and records where `rounds` has them, as if the user who runs this test had made them."""
    with tarfile.open(data / "records.tar.xz") as archive:
        archive.extractall(rounds.folder, filter="data")
    for file in (data / "rounds").iterdir():
        (rounds.rounds / file.name).write_bytes(file.read_bytes())
    change_text(rounds.experiments, {'"user": "root"': json.dumps({"user": user_name()})[1:-1], **(changes or {})})


def answer_as_recorded(data: Path, rounds: ClusterRounds) -> None:
    """A Slurm that answers queries as it did when the records were made, and changes nothing."""
    commands = rounds.folder / "commands"
    commands.mkdir()
    answers = {
        "scontrol": f"cat {data}/scontrol.txt",
        "squeue": f"cat {data}/squeue.txt",
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "sbatch": "[ \"$1\" = --version ] && echo 'slurm-wlm 22.05.8' || { echo 'not in this test' >&2; exit 1; }",
        "scancel": "echo 'not in this test' >&2; exit 1",
    }
    for name, program in answers.items():
        (commands / name).write_text(f"#!/bin/sh\n{program}\n")
        (commands / name).chmod(0o755)
    rounds.extra["PATH"] = f"{commands}:{os.environ['PATH']}"
    for place in open_attempts(rounds):  # running jobs still send heartbeats
        if (place / "claim.json").exists() and not (place / "gone").exists():
            (place / "progress.json").touch()


def archived_by_hand(rounds: Rounds) -> None:
    """The half-finished round where an archived one would be, so that --status and --why query no scheduler."""
    folder = rounds.analysis / f"experiment_{ROUND}"
    folder.mkdir()
    (rounds.experiments / ROUND).rename(folder / "experiments")


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def data(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def rounds(data: Path, tmp_path: Path) -> Iterator[ClusterRounds]:
    made = ClusterRounds(folder=tmp_path, scheduler="slurm")
    extract(data, made)
    answer_as_recorded(data, made)
    try:
        yield made
    finally:
        made.kill()


def status(rounds: ClusterRounds, name: str = ROUND) -> dict[str, Status]:
    return rounds.status("--analysis", str(rounds.analysis), name=name)


def expected(data: Path, name: str) -> dict[str, Status]:
    """`--status --json` of the version that wrote the records, by path."""
    return {row["path"]: row for row in json.loads((data / f"{name}.json").read_text())}


def assert_same(now: Mapping[str, Status], old: Mapping[str, Status]) -> None:
    """Every field is equal. The reason may be worded otherwise, but it names the same numbers, or is still empty.

    The run is one by epoch: older versions counted nothing else.
    """
    assert list(now) == list(old)
    for path, row in old.items():
        reason, before = now[path]["reason"], row["reason"]
        progress = {"unit": "epoch" if row["epoch"] is not None else None, "step": None, "steps": None}
        assert {**now[path], "reason": ""} == {**row, **progress, "reason": ""}
        assert bool(reason) == bool(before), (path, reason, before)
        assert set(re.findall(r"\d+", before)) <= set(re.findall(r"\d+", reason)), (path, reason, before)


def test_status_equals_that_of_the_old_version_and_changes_nothing(data: Path, rounds: ClusterRounds) -> None:
    before = snapshot(rounds.experiments)
    assert_same(status(rounds), expected(data, "status"))
    assert_same(status(rounds, COPIED), expected(data, "status_copied"))
    assert snapshot(rounds.experiments) == before


def test_offline_status_equals_that_of_the_old_version(data: Path, rounds: ClusterRounds) -> None:
    archived_by_hand(rounds)
    assert_same(status(rounds), expected(data, "status_offline"))


def test_modules_that_stored_job_scripts_start_still_exist(rounds: ClusterRounds) -> None:
    scripts = [path.read_text() for path in rounds.experiments.rglob("job.sh")]
    started = {module for script in scripts for module in re.findall(r"-m (roundhouse\.[\w.]+)", script)}
    # Only scripts that request GPUs have the second. Without it, a job on PBS would use every GPU of its node.
    assert started == {"roundhouse.jobs.allocation"}
    assert all(find_spec(module) for module in {*started, "roundhouse.machine.gpus"})


def test_the_archived_round_is_shown(data: Path, rounds: ClusterRounds) -> None:
    assert_same(status(rounds, ARCHIVED), expected(data, "status_archived"))
    why = rounds.call("--why", "bad", "--analysis", str(rounds.analysis), name=ARCHIVED)
    assert why.returncode == 0 and "attempt 2 " in why.stdout and "exit code 3" in why.stdout


# One process for all experiments: most of a call is the start of Python.
WHY = """\
import sys
sys.path.insert(0, {repository!r})
import runner
for path in {paths!r}:
    print("<<<", path, flush=True)
    assert runner.main([*sys.argv[1:], "--why", path]) == 0
"""


@pytest.mark.parametrize("offline", [False, True], ids=["live", "offline"])
def test_why_shows_each_attempt_as_the_old_version_recorded_it(rounds: ClusterRounds, offline: bool) -> None:
    views = {
        str(path.parent.relative_to(rounds.experiments / ROUND)): json.loads(path.read_text())
        for path in (rounds.experiments / ROUND).rglob("status.json")
    }
    if offline:
        archived_by_hand(rounds)
    code = WHY.format(repository=str(rounds.repository), paths=list(views))
    argv = rounds.argv("--round", ROUND, "--analysis", str(rounds.analysis))
    out = subprocess.run(
        [sys.executable, "-c", code, *argv[2:]],
        env={**rounds.env, **rounds.extra}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    stories = {part.partition("\n")[0].strip(): part for part in out.split("<<<")[1:]}
    assert list(stories) == list(views) and len(views) > 30
    for path, view in views.items():
        for attempt in view.get("attempts", ()):  # a job that no pass has seen yet does not know the others
            assert f"attempt {attempt['number']} " in stories[path]
            for recorded in (attempt["job_id"] or "", attempt["cause"] or "", attempt["why"]):
                assert recorded in stories[path], (attempt, stories[path])
    assert "Socket timed out" in stories["unclear"], "the answer to a submission"
    assert "200" in stories["memory"], "MiB that attempt 2 requested, after attempt 1 was short of memory with 100"


# ------------------------------------------------------------------------------------------ the round continues


def submit_again(rounds: ClusterRounds, cluster: SlurmCluster) -> None:
    """Submit the stored job scripts of all that was queued or running, as if no job had started yet.

    Attempts in an allocation stay as they are: for the agent, which starts again, the scheduler has restarted the job.
    """

    def submit(script: Path) -> str:
        return cluster.run(["sbatch", "--parsable", str(script)]).stdout.strip()

    for group in sorted((rounds.experiments / ROUND / ".jobs").iterdir()):
        (group / "job_id").write_text(f"{submit(group / 'job.sh')}\n")
    for place in open_attempts(rounds, ROUND):
        text = (place / "job.json").read_text()
        job = json.loads(text)
        in_allocation = job["shared"] is not None and job["array_index"] is None
        if in_allocation or place.parents[1].name in ("gone", "unsubmitted", "unclear"):
            continue
        for name in ("claim.json", "progress.json"):
            (place / name).unlink(missing_ok=True)
        if job["shared"] is None:
            job_id = submit(place / "job.sh")
            if job["job_id"] is not None:
                (place / "job.json").write_text(re.sub(r'"job_id": "\d+"', f'"job_id": "{job_id}"', text))


def job_names(rounds: Rounds) -> set[str]:
    """The names of all jobs in the records."""
    attempts = (attempt for path in rounds.status(name=ROUND) for attempt in rounds.record(path, ROUND).attempts)
    return {attempt.opened.job_name for attempt in attempts}


@pytest.mark.cluster
def test_a_half_finished_round_continues_and_nothing_is_lost_or_run_twice(
    data: Path, slurm: ClusterRounds, slurm_cluster: SlurmCluster
) -> None:
    places = {
        f"{BASE}/venv/bin/python": sys.executable,
        BASE: str(slurm.folder),
        CLUSTER: slurm_cluster.folder.name,
        f"ncpus: {CPUS}": "ncpus: 2",
        f'"ncpus": {CPUS}': '"ncpus": 2',
        f"--cpus-per-task={CPUS}": "--cpus-per-task=2",
    }
    extract(data, slurm, places)
    change_text(slurm.rounds, places)
    slurm.set_site(environment={"ROUNDHOUSE_SIGN_OF_LIFE": "0.5", MARK: slurm.mark, "NOTES": str(slurm.notes)})
    slurm.release(*(path.replace("/", "") for path in expected(data, "status")))
    submit_again(slurm, slurm_cluster)
    codes = finish_passes(slurm.passing(500, "--round", ROUND, until=(DONE, FAILED), pause=0.3), 180)
    assert codes[-1] == FAILED  # some had failed before

    now = slurm.status(name=ROUND)
    for path, old in expected(data, "status").items():
        over = old["state"] in ("completed", "failed", "cancelled", "pruned") or path == "orphan"
        state = old["state"] if over else "pruned" if path == "contest/2" else "completed"
        assert now[path]["state"] == state, now[path]
        causes, notes = slurm.causes(path, ROUND), slurm.lines(path.replace("/", ""))
        assert causes.count("completed") == (state == "completed"), (path, causes)
        assert [line.split()[0] for line in notes].count("end") == (state == "completed" and not over), (path, notes)
        assert len(notes) == len(set(notes)), f"an attempt of {path} was run twice: {notes}"
    jobs = slurm_cluster.run(["squeue", "-h", "-r", "-t", "all", "-o", "%j %K"]).stdout.split("\n")
    names = job_names(slurm)
    ours = [job for job in jobs if job.partition(" ")[0] in names]
    assert len(ours) == len(set(ours)), "a token was submitted twice"

"""A dry run of arrays, allocations and single jobs: what it prints about each, and the scripts that it writes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_helpers import DONE, ClusterRounds, pbs_rounds
from fake_pbs import FakePBS

from roundhouse.engine import dry_run
from roundhouse.engine.report import PlannedJob
from roundhouse.model.experiment import Experiment, Pack, Resources
from roundhouse.store import job_group
from roundhouse.views import resource_format


@pytest.fixture
def rounds(fake_pbs: FakePBS, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, tmp_path) as made:
        yield made


def group(path: str, seeds: int, **resources: Any) -> dict[str, Any]:
    path = f"{path}/{{seed}}"
    return {"path": path, "grid": {"seed": list(range(seeds))}, "command": "true", "resources": resources}


def test_a_dry_run_shows_each_job_that_a_pass_would_submit(fake_pbs: FakePBS, rounds: ClusterRounds) -> None:
    fake_pbs.turn(max_array_size=3)
    rounds.write({
        "many": group("many", 5, array=True, max_running=2),
        "packed": group("packed", 5, ncpus=2, pack={"slots": 4}),
        "one": group("one", 1),
    })  # fmt: skip
    done = rounds.call("--dry-run")
    assert done.returncode == DONE
    *lines, last = done.stdout.splitlines()
    summary, _, place = last.partition(" Scripts: ")
    assert summary == (
        "2 arrays of 3 and 2 tasks, 2 allocations of 4 slots and 1 single job "
        "would be submitted through pbs (site test)."
    )
    folder = Path(place)
    scripts = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert scripts == [
        "allocation_1/job.sh", "allocation_2/job.sh", "array_1/job.sh", "array_1/manifest", "array_2/job.sh",
        "array_2/manifest", "one__0.sh",
    ]  # fmt: skip
    assert lines.count(f"array        2 tasks (1 core, 1:00:00), 1 at a time: {folder}/array_2/job.sh "
                       f"{folder}/array_2/manifest") == 1  # fmt: skip
    assert any(
        line.startswith("allocation   2 cores, 1:00:00 for 4 slots; 5 experiments may run in it") for line in lines
    )
    assert any(line.startswith("note         4 slots share 2 cores") for line in lines)
    manifest = (folder / "array_1" / job_group.MANIFEST).read_text().splitlines()
    assert [line.split()[2] for line in manifest] == ["many/0", "many/1", "many/2"]
    assert "\n#PBS -J 0-2%1\n" in (folder / "array_1" / job_group.SCRIPT).read_text()
    assert all(subprocess.run(["bash", "-n", path], check=False).returncode == 0 for path in folder.rglob("*.sh"))
    assert not rounds.experiments.exists()
    assert fake_pbs.jobs() == {}

    done = rounds.call("--dry-run", "--limit", "0")
    assert done.stdout.splitlines()[-1] == "Nothing would be submitted through pbs (site test)."


def planned(arrays: Sequence[int] = (), slots: Sequence[int] = (), single: int = 0) -> list[PlannedJob]:
    nothing: Any = None
    jobs = [PlannedJob("array", [nothing] * tasks, Resources(array=True), str) for tasks in arrays]
    jobs += [PlannedJob("allocation", [nothing], Resources(pack=Pack(each)), str) for each in slots]
    return jobs + [PlannedJob("single job", [nothing], Resources(), str)] * single


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        (planned(), "Nothing"),
        (planned(single=1), "1 single job"),
        (
            planned([1000, 200], [8] * 3, 4),
            "2 arrays of 1000 and 200 tasks, 3 allocations of 8 slots and 4 single jobs",
        ),
        (planned([40] * 9, single=1), "9 arrays of 40 tasks and 1 single job"),
        (planned([40] * 9 + [2]), "10 arrays of 2 to 40 tasks"),
        (planned([5], [1]), "1 array of 5 tasks and 1 allocation of 1 slot"),
        (planned(slots=[2, 4, 2]), "3 allocations of 2, 4 and 2 slots"),
    ],
)
def test_the_jobs_are_summarised_in_a_sentence(jobs: list[PlannedJob], sentence: str) -> None:
    assert dry_run.summary(jobs) == sentence


def test_without_a_job_there_is_no_folder() -> None:
    assert dry_run.write([], Path("/nowhere/r")) == (None, [])


@pytest.mark.parametrize(
    ("resources", "notes"),
    [
        (Resources(ncpus=1), []),
        (Resources(ncpus=8, pack=Pack(8)), []),
        (Resources(ncpus=8, ngpus=4, pack=Pack(8, per_gpu=2)), []),
        (Resources(ncpus=4, pack=Pack(8)), ["8 slots share 4 cores (ncpus): experiments slow each other down"]),
        (
            Resources(ncpus=4, ngpus=4, pack=Pack(3, per_gpu=2)),
            ["3 slots, but 4 GPUs with 2 on each (per_gpu) have room for 8"],
        ),
    ],
)
def test_what_may_surprise_in_an_allocation_is_reported(resources: Resources, notes: list[str]) -> None:
    assert resource_format.divided(resources) == notes


@pytest.mark.parametrize(
    ("config", "resources", "note"),
    [
        ({"processes": 2}, Resources(ncpus=2), ""),
        ({}, Resources(ncpus=4, ngpus=4), ""),
        ({"processes": 3}, Resources(ncpus=4, ngpus=3), ""),
        (
            {"processes": 3}, Resources(ncpus=4, ngpus=2),
            "3 processes of a run need a GPU each (processes), and it has 2 (ngpus)",
        ),
        ({"processes": 3, "device": "cpu"}, Resources(ncpus=4, ngpus=2), ""),
        (
            {"processes": 2}, Resources(ncpus=8, ngpus=4, pack=Pack(4)),
            "2 processes of a run need a GPU each (processes), and it has 1 (ngpus)",
        ),
        (
            {"processes": 4}, Resources(ncpus=2),
            "4 processes of a run (processes) share 2 cores (ncpus): they slow each other down",
        ),
        (
            {}, Resources(ncpus=1, ngpus=4),
            "4 processes of a run (processes) share 1 core (ncpus): they slow each other down",
        ),
        (
            {"processes": 0}, Resources(),
            "a run would fail: config key 'processes' is 0; write auto, or a number >= 1",
        ),
        (
            {"processes": "two"}, Resources(),
            "a run would fail: config key 'processes' is 'two'; write auto, or a number >= 1",
        ),
    ],
)  # fmt: skip
def test_processes_that_do_not_fit_the_resources_of_a_run_are_reported_once(
    config: dict[str, Any], resources: Resources, note: str
) -> None:
    statuses: list[Any] = [
        SimpleNamespace(experiment=Experiment("r", "e", path, "s", config, resources), resources=resources)
        for path in ("a", "b")
    ]
    found = dry_run.notes([PlannedJob("single job", [status], resources, str) for status in statuses])
    assert found == ([f"note         {note}"] if note else [])


def test_a_command_has_no_processes_to_report() -> None:
    experiment = Experiment("r", "e", "a", None, {"processes": "many"}, Resources(), command=("true",))
    status: Any = SimpleNamespace(experiment=experiment, resources=Resources())
    assert dry_run.notes([PlannedJob("single job", [status], Resources(), str)]) == []

"""How arrays are submitted: with a scheduler that refuses them, and with other runners that are faster."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from roundhouse import dispatch, record, shared_job
from roundhouse.attempt import Opened
from roundhouse.causes import Cause
from roundhouse.dispatch import Workplace
from roundhouse.experiment import Experiment, Pack, Resources
from roundhouse.schedulers.base import Identity, Jobs, Refused, SubmitAnswer, Submitted
from roundhouse.site import Site
from roundhouse.submission import manifest

REPOSITORY = Path(__file__).parent.parent
TOO_LARGE = Refused("Array job exceeds server or queue size limit", later=True, too_large=True)
TOO_MANY = Refused("would exceed complex's per-user limit", later=True)


@dataclass
class Refusing:
    """A scheduler that answers with `refusal`: to an array of more than `most` tasks, or to more than `most` jobs."""

    most: int
    refusal: Refused
    meanwhile: Callable[[], object] = lambda: None  # what others do after this pass has read the records
    asked: list[int] = field(default_factory=list)
    jobs: int = 0
    queues: list[str | None] = field(default_factory=list)
    kind: str = "slurm"
    grace: float = 180.0

    def identity(self, run: Any) -> Identity:
        return Identity("slurm", "here", "me")

    def query(self, run: Any, ids: Any, names: Any) -> Jobs:
        return Jobs(())

    def array_limit(self, run: Any, queue: str | None) -> int:
        self.queues.append(queue)
        self.meanwhile()
        return 100

    def submit(self, run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        manifest = script.parent / shared_job.MANIFEST
        tasks = len(manifest.read_text().splitlines()) if manifest.exists() else 1
        self.asked.append(tasks)
        if tasks + (0 if self.refusal.too_large else self.jobs) > self.most:
            return self.refusal
        self.jobs += tasks
        return Submitted(str(len(self.asked)))

    def cancel(self, run: Any, ids: Any) -> list[str]:
        return []


@dataclass
class Desk:
    """A round of `tasks` experiments that ask for the same, and passes over it."""

    folder: Path
    scheduler: Refusing
    tasks: int = 8
    resources: Resources = Resources(array=True)

    @property
    def experiments(self) -> list[Experiment]:
        return [Experiment("r", "e", f"e/{n}", "s", {"n": n}, self.resources) for n in range(self.tasks)]

    def directory(self, number: int) -> Path:
        return self.folder / "r" / f"e/{number}"

    def look_and_act(self) -> list[str]:
        """One pass; the states that it tells."""
        scheduler: Any = self.scheduler
        run: Any = None
        place = Workplace(self.folder, REPOSITORY, Site(), scheduler, run, "python", analysis=self.folder / "analysis")
        return [str(row.action.state) for row in dispatch.run_pass(place, self.experiments).rows]

    def causes(self, number: int) -> list[str]:
        return [str(attempt.cause) for attempt in record.read(self.directory(number)).attempts]

    def open_elsewhere(self, number: int) -> None:
        """Another runner opens the first attempt, and is about to submit it."""
        experiment = self.experiments[number]
        opened = Opened("rhother", {"kind": "slurm", "server": "here", "user": "me", "boot": ""}, "", {})
        assert record.open_attempt(self.directory(number), 1, replace(opened, config_hash=experiment.config_hash()))


@pytest.mark.parametrize(
    ("limit", "max_jobs", "jobs"), [(None, None, 6), (None, 10, 5), (5, None, 5), (1, 3, 1), (0, None, 0)]
)
def test_a_pass_that_only_tells_foresees_the_very_jobs_of_one_that_submits(
    limit: int | None, max_jobs: int | None, jobs: int, tmp_path: Path
) -> None:
    array, packed = Resources(array=True, max_running=6), Resources(ncpus=4, pack=Pack(2), max_running=2)
    experiments = [Experiment("r", "a", f"a/{n}", "s", {"n": n}, array, priority=n % 2) for n in range(13)]
    experiments += [Experiment("r", "p", f"p/{n}", "s", {"n": n}, packed) for n in range(5)]
    experiments += [Experiment("r", "o", f"o/{n}", "s", {"n": n}, priority=2) for n in range(2)]
    submitted: list[str] = []

    def submit(run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        beside = script.parent / shared_job.MANIFEST
        submitted.append(script.read_text() + (beside.read_text() if beside.exists() else ""))
        return Submitted(str(len(submitted)))

    scheduler: Any = Refusing(0, TOO_MANY)
    scheduler.submit, scheduler.array_limit = submit, lambda *_: 10
    run: Any = None
    place = Workplace(tmp_path / "e", REPOSITORY, Site(), scheduler, run, "python", max_jobs, analysis=tmp_path)
    told = dispatch.run_pass(place, experiments, act=False, limit=limit).foreseen
    assert not (tmp_path / "e").exists()
    foreseen = [
        job.script() + (manifest(job.rows, ["T"] * len(job.rows)) if job.kind == "array" else "") for job in told
    ]
    dispatch.run_pass(place, experiments, limit=limit)
    assert [without_tokens(text) for text in foreseen] == [without_tokens(text) for text in submitted]
    assert len(foreseen) == jobs


def without_tokens(text: str) -> str:
    return re.sub(r"\brh[a-z2-7]{13}\b", "T", text)


def test_an_array_that_is_too_large_for_its_queue_goes_in_smaller_ones_in_the_same_pass(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(3, TOO_LARGE), tasks=10, resources=Resources(array=True, queue="develop"))
    assert desk.look_and_act() == ["in_progress"] * 10
    assert desk.scheduler.asked == [10, 5, 2, 2, 2, 2, 2]
    assert desk.scheduler.queues == ["develop"]
    assert desk.causes(0) == ["limit", "limit", "None"]


def test_a_refusal_for_size_says_nothing_of_how_many_jobs_there_may_be(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(1, TOO_LARGE), tasks=4)
    assert desk.look_and_act() == ["in_progress"] * 4
    attempts = [attempt for number in range(4) for attempt in record.read(desk.directory(number)).attempts]
    assert {attempt.claim.jobs for attempt in attempts if attempt.claim} == {None}


def test_smaller_arrays_fill_a_limit_on_jobs(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(5, TOO_MANY))
    assert desk.look_and_act() == ["in_progress"] * 5 + ["pending"] * 3
    assert desk.scheduler.asked == [8, 4, 3, 1, 1]


def test_smaller_arrays_share_max_running_as_well(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(4, TOO_LARGE), resources=Resources(array=True, max_running=6))
    desk.look_and_act()
    submitted = [folder for folder in (tmp_path / "r" / ".jobs").iterdir() if (folder / shared_job.JOB_ID).exists()]
    headers = [(folder / shared_job.SCRIPT).read_text() for folder in submitted]
    assert len(headers) == 2
    assert all("--array=0-3%3\n" in header for header in headers)


@pytest.mark.parametrize("refusal", [TOO_LARGE, TOO_MANY])
def test_after_a_refusal_nothing_is_opened_beside_what_another_runner_has_opened(
    refusal: Refused, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, Refusing(1, refusal), tasks=3)
    desk.scheduler.meanwhile = lambda: desk.open_elsewhere(1)
    assert desk.look_and_act()[1] == "submitting"
    assert desk.causes(1) == ["None"]
    assert desk.causes(0) == ["limit", "None"]


def test_after_a_refusal_nothing_is_opened_that_was_cancelled_meanwhile(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(1, TOO_LARGE), tasks=2)
    submit = desk.scheduler.submit

    def cancelled_while_submitted(run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        if not desk.scheduler.asked:
            assert record.void(desk.directory(0), 1, Cause.CANCELLED, "by the user")
        return submit(run, script, name)

    desk.scheduler.submit = cancelled_while_submitted  # type: ignore[method-assign]
    desk.look_and_act()
    assert desk.causes(0) == ["cancelled"]
    assert desk.causes(1) == ["limit", "None"]


def test_an_array_without_a_task_of_its_own_is_not_submitted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Refusing(9, TOO_LARGE), tasks=2)
    desk.scheduler.meanwhile = lambda: [desk.open_elsewhere(number) for number in range(2)]
    assert desk.look_and_act() == ["submitting"] * 2
    assert desk.scheduler.asked == []

"""How arrays are submitted: within `max_running`, to a scheduler that refuses them, next to faster runners."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.config.site import Site
from roundhouse.engine import one_pass
from roundhouse.engine.context import PassContext
from roundhouse.engine.submit_job import manifest
from roundhouse.errors import RoundhouseError
from roundhouse.model.answers import Identity, Job, Jobs, JobState, Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Pack, Resources
from roundhouse.model.plan import State, Verb
from roundhouse.model.retry import exhausted
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.model.throttle import Throttle
from roundhouse.store import job_group, record
from roundhouse.views import tables
from roundhouse.views.explanation import explain

REPOSITORY = Path(__file__).parent.parent
TOO_LARGE = Refused("Array job exceeds server or queue size limit", later=True, scope=Scope.SIZE)
TOO_MANY = Refused("would exceed complex's per-user limit", later=True, scope=Scope.ALL)


@dataclass
class Refusing:
    """A scheduler that answers with `refusal`: to an array of more than `most` tasks, or to more than `most` jobs."""

    most: int
    refusal: Refused
    meanwhile: Callable[[], object] = lambda: None  # what others do after this pass has read the records
    sizes: list[int] = field(default_factory=list)
    jobs: int = 0
    queues: list[str | None] = field(default_factory=list)
    kind: str = "slurm"
    grace: float = 180.0
    size: int = 100  # most tasks of an array
    live: int = 0  # jobs that the user is said to have

    def identity(self, run: Any) -> Identity:
        return Identity("slurm", "here", "me")

    def query(self, run: Any, ids: Any, names: Any, since: Any = None) -> Jobs:
        return Jobs(tuple(Job(str(number), f"another{number}", JobState.RUNNING) for number in range(self.live)))

    def array_limit(self, run: Any, queue: str | None) -> int:
        self.queues.append(queue)
        self.meanwhile()
        return self.size

    def submit(self, run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        manifest = script.parent / job_group.MANIFEST
        tasks = len(manifest.read_text().splitlines()) if manifest.exists() else 1
        self.sizes.append(tasks)
        if tasks + (0 if self.refusal.scope is Scope.SIZE else self.jobs) > self.most:
            return self.refusal
        self.jobs += tasks
        return Submitted(str(len(self.sizes)))

    def cancel(self, run: Any, ids: Any) -> list[str]:
        return []


@dataclass
class Passes:
    """A round of `tasks` experiments that ask for the same, and passes over it."""

    folder: Path
    scheduler: Refusing
    tasks: int = 8
    resources: Resources = Resources(array=True)
    more: Sequence[Experiment] = ()
    repository: Path = REPOSITORY

    @property
    def experiments(self) -> list[Experiment]:
        made = [Experiment("r", "e", f"e/{n}", "s", {"n": n}, self.resources) for n in range(self.tasks)]
        return [*made, *self.more]

    def directory(self, number: int) -> Path:
        return self.folder / "r" / f"e/{number}"

    def rows(self, **how: Any) -> list[ExperimentStatus]:
        """The rows of one pass."""
        scheduler: Any = self.scheduler
        run: Any = None
        place = PassContext(
            self.folder, self.repository, Site(), scheduler, run, "python", analysis=self.folder / "analysis"
        )
        return one_pass.run_pass(place, self.experiments, **how).statuses

    def look_and_act(self, **how: Any) -> list[str]:
        """One pass; the states that it reports."""
        return [str(row.action.state) for row in self.rows(**how)]

    def end(self, cause: Cause, *numbers: int) -> None:
        """The newest attempts of these experiments end."""
        for number in numbers:
            attempt = record.read(self.directory(number)).next_number - 1
            assert record.close(self.directory(number), attempt, cause, "as the test says")

    def arrays(self) -> list[str]:
        """What the arrays that were accepted ask for: tasks, and how many of them at a time."""
        submitted = [folder for folder in (self.folder / "r" / ".jobs").iterdir() if (folder / "job_id").exists()]
        scripts = [(folder / job_group.SCRIPT).read_text() for folder in submitted]
        return sorted(script.split("--array=")[1].split()[0] for script in scripts)

    def causes(self, number: int) -> list[str]:
        return [str(attempt.cause) for attempt in record.read(self.directory(number)).attempts]

    def open_elsewhere(self, number: int, server: str = "here") -> None:
        """Another runner opens the first attempt, and is about to submit it."""
        experiment = self.experiments[number]
        opened = Opened("rhother", {"kind": "slurm", "server": server, "user": "me", "boot": ""}, "", {})
        assert record.open_attempt(self.directory(number), 1, replace(opened, config_hash=experiment.config_hash()))


@pytest.mark.parametrize(
    ("limit", "max_jobs", "jobs"), [(None, None, 6), (None, 10, 3), (5, None, 3), (1, 3, 1), (0, None, 0)]
)
def test_a_dry_run_plans_exactly_the_jobs_that_a_pass_submits(
    limit: int | None, max_jobs: int | None, jobs: int, tmp_path: Path
) -> None:
    array, packed = Resources(array=True, max_running=6), Resources(ncpus=4, pack=Pack(2), max_running=2)
    experiments = [Experiment("r", "a", f"a/{n}", "s", {"n": n}, array, priority=n % 2) for n in range(13)]
    experiments += [Experiment("r", "p", f"p/{n}", "s", {"n": n}, packed) for n in range(5)]
    experiments += [Experiment("r", "o", f"o/{n}", "s", {"n": n}, priority=2) for n in range(2)]
    submitted: list[str] = []

    def submit(run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        manifest = script.parent / job_group.MANIFEST
        submitted.append(script.read_text() + (manifest.read_text() if manifest.exists() else ""))
        return Submitted(str(len(submitted)))

    scheduler: Any = Refusing(0, TOO_MANY)
    scheduler.submit, scheduler.array_limit = submit, lambda *_: 10
    run: Any = None
    place = PassContext(tmp_path / "e", REPOSITORY, Site(), scheduler, run, "python", max_jobs, analysis=tmp_path)
    dry = one_pass.run_pass(place, experiments, act=False, limit=limit).planned
    assert not (tmp_path / "e").exists()
    planned = [
        job.script() + (manifest(job.statuses, ["T"] * len(job.statuses)) if job.kind == "array" else "") for job in dry
    ]
    one_pass.run_pass(place, experiments, limit=limit)
    assert [without_tokens(text) for text in planned] == [without_tokens(text) for text in submitted]
    assert len(planned) == jobs


def without_tokens(text: str) -> str:
    return re.sub(r"\brh[a-z2-7]{13}\b", "T", text)


def test_an_array_that_is_too_large_for_its_queue_goes_in_smaller_ones_in_the_same_pass(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(3, TOO_LARGE), tasks=10, resources=Resources(array=True, queue="develop"))
    assert passes.look_and_act() == ["in_progress"] * 10
    assert passes.scheduler.sizes == [10, 5, 2, 2, 2, 2, 2]
    assert passes.scheduler.queues == ["develop"]
    assert passes.causes(0) == ["limit", "limit", "None"]


def test_a_refusal_for_size_says_nothing_of_how_many_jobs_there_may_be(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(1, TOO_LARGE), tasks=4)
    assert passes.look_and_act() == ["in_progress"] * 4
    attempts = [attempt for number in range(4) for attempt in record.read(passes.directory(number)).attempts]
    assert {attempt.claim.jobs for attempt in attempts if attempt.claim} == {None}


def test_smaller_arrays_fill_a_limit_on_jobs(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(5, TOO_MANY))
    assert passes.look_and_act() == ["in_progress"] * 5 + ["pending"] * 3
    assert passes.scheduler.sizes == [8, 4, 3, 1, 1]


def test_smaller_arrays_share_max_running_as_well(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(4, TOO_LARGE), resources=Resources(array=True, max_running=6))
    passes.look_and_act()
    assert passes.arrays() == ["0-3%3", "0-3%3"]


@pytest.mark.parametrize("refusal", [TOO_LARGE, TOO_MANY])
def test_after_a_refusal_nothing_is_opened_next_to_what_another_runner_has_opened(
    refusal: Refused, tmp_path: Path
) -> None:
    passes = Passes(tmp_path, Refusing(1, refusal), tasks=3)
    passes.scheduler.meanwhile = lambda: passes.open_elsewhere(1)
    assert passes.look_and_act()[1] == "submitting"
    assert passes.causes(1) == ["None"]
    assert passes.causes(0) == ["limit", "None"]


def test_after_a_refusal_nothing_is_opened_that_was_cancelled_meanwhile(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(1, TOO_LARGE), tasks=2)
    submit = passes.scheduler.submit

    def cancelled_while_submitted(run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        if not passes.scheduler.sizes:
            assert record.void(passes.directory(0), 1, Cause.CANCELLED, "by the user")
        return submit(run, script, name)

    passes.scheduler.submit = cancelled_while_submitted  # type: ignore[method-assign]
    passes.look_and_act()
    assert passes.causes(0) == ["cancelled"]
    assert passes.causes(1) == ["limit", "None"]


def test_an_array_without_a_task_of_its_own_is_not_submitted(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(9, TOO_LARGE), tasks=2)
    passes.scheduler.meanwhile = lambda: [passes.open_elsewhere(number) for number in range(2)]
    assert passes.look_and_act() == ["submitting"] * 2
    assert passes.scheduler.sizes == []


@pytest.mark.parametrize(
    "resources", [Resources(), Resources(array=True), Resources(pack=Pack(2))], ids=["single", "array", "allocation"]
)
def test_an_error_in_a_template_opens_nothing(resources: Resources, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/slurm.sh.j2").write_text("{{ no_such_name }}")
    passes = Passes(tmp_path / "experiments", Refusing(9, TOO_MANY), 2, resources, repository=tmp_path)
    with pytest.raises(RoundhouseError, match="no_such_name"):
        passes.rows()
    assert [record.read(passes.directory(number)).attempts for number in range(2)] == [(), ()]
    assert not list((tmp_path / "experiments/r").iterdir())


def test_after_a_limit_nothing_is_tried_until_the_user_has_fewer_jobs_or_10_minutes_are_over(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(0, TOO_MANY), tasks=2, resources=Resources())
    passes.scheduler.live = 5
    for _ in range(2):
        found = {(str(row.action.state), row.action.reason, row.action.cause) for row in passes.rows()}
        assert found == {("pending", "limit reached: would exceed complex's per-user limit", Cause.LIMIT)}
        assert passes.scheduler.sizes == [1], "one submission tests the limit for all"
    passes.scheduler.live = 4
    passes.look_and_act()
    assert passes.scheduler.sizes == [1, 1]
    passes.look_and_act()
    assert passes.scheduler.sizes == [1, 1]
    for claim in tmp_path.rglob(record.CLAIM):
        os.utime(claim, (claim.stat().st_atime, claim.stat().st_mtime - 601))
    passes.look_and_act()
    assert passes.scheduler.sizes == [1, 1, 1]


# ---------------------------------------------------------------------------------------------- max_running

FOUR = Resources(array=True, max_running=4, mem_mb=100)
FULL = "max_running: all 4 places for this resource request are taken; a later pass submits it"
FOR_THESE = Refused("QOSMaxCpuPerUserLimit", later=True, scope=Scope.REQUEST)
CLOSED = Refused("Queue is not enabled", later=True, scope=Scope.QUEUE)
UNKNOWN_QUEUE = Refused("Unknown queue", scope=Scope.QUEUE)
NO_ACCOUNT = Refused("Invalid account", scope=Scope.ALL)


@dataclass
class Choosy(Refusing):
    """A scheduler that refuses jobs whose script contains a word, and accepts all others."""

    word: str = ""

    def submit(self, run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        self.sizes.append(1)
        return self.refusal if self.word in script.read_text() else Submitted(str(len(self.sizes)))


def choosy(tmp_path: Path, refusal: Refused, word: str) -> Passes:
    """Three experiments that ask for 3 cores, one for 4 cores in the same queue, and one in the queue `other`."""
    more = [
        Experiment("r", "e", "four", "s", {"n": "four"}, Resources(ncpus=4, queue="main")),
        Experiment("r", "e", "other", "s", {"n": "other"}, Resources(queue="other")),
    ]
    return Passes(tmp_path, Choosy(0, refusal, word=word), 3, Resources(ncpus=3, queue="main"), more)


IN_PROGRESS, PENDING, BLOCKED = "in_progress", "pending", "blocked"


@pytest.mark.parametrize(
    ("refusal", "word", "states", "submissions"),
    [
        (FOR_THESE, "cpus-per-task=3", [PENDING, PENDING, PENDING, IN_PROGRESS, IN_PROGRESS], 3),
        (CLOSED, "partition=main", [PENDING, PENDING, PENDING, PENDING, IN_PROGRESS], 2),
        (UNKNOWN_QUEUE, "partition=main", [BLOCKED, BLOCKED, BLOCKED, BLOCKED, IN_PROGRESS], 2),
        (NO_ACCOUNT, "", [BLOCKED] * 5, 1),
    ],
)
def test_a_refusal_delays_what_it_concerns_and_nothing_else(
    refusal: Refused, word: str, states: list[str], submissions: int, tmp_path: Path
) -> None:
    passes = choosy(tmp_path, refusal, word)
    rows = passes.rows()
    assert [str(row.action.state) for row in rows] == states
    assert len(passes.scheduler.sizes) == submissions
    assert all(refusal.why in row.action.reason for row in rows if row.action.state is not State.IN_PROGRESS)
    assert exhausted(record.read(passes.directory(0)).attempts, RetryPolicy()) == ""
    assert passes.causes(0) == [str(Cause.LIMIT if refusal.later else Cause.SITE)]


@pytest.mark.parametrize("refusal", [UNKNOWN_QUEUE, NO_ACCOUNT])
def test_a_refusal_of_every_job_is_one_message_and_costs_no_try(refusal: Refused, tmp_path: Path) -> None:
    passes = choosy(tmp_path, refusal, "partition=main")
    for _ in range(5):
        rows = passes.rows()
        messages = tables.refusals(rows)
        assert len(messages) == 1 and refusal.why in messages[0] and "site file" in messages[0]
    choosy_no_more = Choosy(0, refusal, word="in no script")
    passes.scheduler = choosy_no_more
    assert set(passes.look_and_act()) == {IN_PROGRESS}


@pytest.mark.parametrize("scope", [Scope.QUEUE, Scope.REQUEST])
def test_an_array_beyond_a_limit_that_counts_tasks_is_submitted_in_smaller_ones(scope: Scope, tmp_path: Path) -> None:
    limit = Refused("would exceed queue main's per-user limit", later=True, scope=scope, counts_tasks=True)
    passes = Passes(tmp_path, Refusing(10, limit), 30, Resources(array=True, queue="main"))
    states = passes.look_and_act()
    assert states.count("in_progress") == 10 and states.count("pending") == 20
    assert passes.scheduler.sizes[:3] == [30, 15, 7]
    before = len(passes.scheduler.sizes)
    passes.look_and_act()
    assert len(passes.scheduler.sizes) == before, "the last refusal, of a single job, holds back the others for a while"


def test_after_a_refusal_of_every_job_a_single_one_finds_out_whether_the_site_file_was_corrected(
    tmp_path: Path,
) -> None:
    passes = Passes(tmp_path, Choosy(0, UNKNOWN_QUEUE), 8, Resources(array=True, queue="main"))
    for _ in range(4):
        assert set(passes.look_and_act()) == {BLOCKED}
    assert [len(passes.causes(number)) for number in range(8)] == [4, *[1] * 7]
    passes.scheduler = Refusing(100, UNKNOWN_QUEUE)
    assert set(passes.look_and_act()) == {IN_PROGRESS}
    assert passes.scheduler.sizes == [1, 7]


def test_what_waits_for_an_experiment_that_cannot_be_submitted_does_not_wait_for_ever(tmp_path: Path) -> None:
    student = Experiment("r", "s", "s/0", "s", {}, Resources(queue="main"), after={"e": ("e/0",)})
    rows = Passes(tmp_path, Choosy(0, UNKNOWN_QUEUE), 1, Resources(queue="main"), [student]).rows()
    assert [goes_on(row) for row in rows] == [False, False]
    assert "waits for e/0, which is blocked" in rows[1].action.reason


@pytest.mark.parametrize("refusal", [FOR_THESE, CLOSED])
def test_what_was_refused_for_now_is_tried_again_after_a_while_and_costs_no_try(
    refusal: Refused, tmp_path: Path
) -> None:
    passes = choosy(tmp_path, refusal, "partition=main")
    passes.look_and_act()
    before = len(passes.scheduler.sizes)
    passes.look_and_act()
    assert len(passes.scheduler.sizes) == before, "what was refused a moment ago is not tried"
    make_older(tmp_path, 700)
    passes.scheduler = Choosy(0, refusal, word="in no script")
    assert set(passes.look_and_act()) == {IN_PROGRESS}


def make_older(folder: Path, seconds: float) -> None:
    """Set the times of all files of the records back by this many seconds."""
    for path in folder.rglob("*.json"):
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_the_message_of_an_unclear_answer_is_kept_until_the_attempt_is_given_up(tmp_path: Path) -> None:
    for folder, resources in (("one", Resources()), ("array", Resources(array=True))):
        passes = Passes(tmp_path / folder, Refusing(0, TOO_MANY), 2, resources)
        message = "sbatch (exit 1): sbatch: error: Socket timed out on send/recv operation"
        passes.scheduler.submit = lambda *_, message=message: Unclear(message)  # type: ignore[method-assign, misc]
        assert all(message in row.action.reason for row in passes.rows())
        (waiting, _) = passes.rows()
        assert waiting.action.state is State.SUBMITTING and message in waiting.action.reason
        assert message in explain(waiting)
        make_older(tmp_path, 700)
        given_up = passes.rows(limit=0)[0].record.newest
        assert given_up is not None and given_up.cause is Cause.UNCLAIMED and message in given_up.why


WILLING = Refused("never said", later=True, scope=Scope.ALL)


def test_what_is_requeued_waits_while_an_older_array_runs_as_much_as_there_may_be(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(99, WILLING), resources=FOUR)
    assert passes.look_and_act() == ["in_progress"] * 8
    assert passes.arrays() == ["0-7%4"]
    passes.end(Cause.PREEMPTED, 0)
    passes.end(Cause.MEMORY, 1)  # and so it requests more than the others
    hows: list[dict[str, Any]] = [{"act": False}, {}, {"only": lambda one: one.path == "e/0"}]
    for how in hows:
        first = passes.rows(**how)[0].action
        assert (first.verb, first.state, first.reason) == (Verb.NOTHING, State.PENDING, FULL)
    assert passes.causes(0) == ["preempted"], "no attempt is opened"
    passes.end(Cause.COMPLETED, 2, 3, 4)
    actions = [row.action for row in passes.rows(act=False)[:2]]
    assert [(action.verb, action.reason == FULL) for action in actions] == [(Verb.SUBMIT, False), (Verb.NOTHING, True)]
    assert passes.look_and_act() == ["in_progress", "pending", *["completed"] * 3, *["in_progress"] * 3]
    passes.end(Cause.COMPLETED, 0)
    assert passes.look_and_act()[1] == "in_progress"
    assert passes.scheduler.sizes == [8, 1, 1]


def test_a_new_array_gets_the_places_that_are_free_and_no_more_tasks_than_are_their_share(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(99, WILLING), tasks=20, resources=FOUR)
    passes.look_and_act()
    passes.end(Cause.PREEMPTED, *range(17))
    assert passes.look_and_act().count("pending") == 17 - 5
    assert passes.arrays() == ["0-19%4", "0-4%1"]
    passes.end(Cause.COMPLETED, *range(17, 20))
    assert passes.look_and_act().count("pending") == 3
    assert passes.arrays() == ["0-19%4", "0-4%1", "0-8%3"]


def test_of_more_arrays_than_may_run_at_a_time_some_are_submitted_later(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(99, WILLING, size=2), tasks=10, resources=FOUR)
    assert [row.action.reason for row in passes.rows(act=False)] == [""] * 8 + [FULL] * 2
    assert passes.look_and_act() == ["in_progress"] * 8 + ["pending"] * 2
    assert passes.arrays() == ["0-1%1"] * 4
    passes.end(Cause.COMPLETED, 0, 2)
    assert passes.look_and_act()[8:] == ["pending"] * 2
    passes.end(Cause.COMPLETED, 1, 3)
    assert passes.look_and_act()[8:] == ["in_progress"] * 2


def test_what_waits_for_a_place_takes_nothing_from_other_limits(tmp_path: Path) -> None:
    other = [Experiment("r", "o", f"o/{n}", "s", {"n": n}, Resources(), -1.0) for n in range(3)]
    passes = Passes(tmp_path, Refusing(99, WILLING), resources=FOUR)
    passes.look_and_act()
    passes.end(Cause.PREEMPTED, *range(4))
    passes.more = other
    assert passes.look_and_act(limit=2) == ["pending"] * 4 + ["in_progress"] * 6 + ["pending"]
    assert passes.rows(act=False, limit=0)[0].action.reason == "not submitted in this pass"


def test_all_tasks_of_an_array_with_an_unknown_throttle_hold_places(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(99, WILLING, size=4), resources=FOUR)
    passes.look_and_act()
    for path in tmp_path.rglob(job_group.AT_ONCE):
        path.write_text("")
    passes.end(Cause.PREEMPTED, 0, 1)
    assert passes.look_and_act()[:2] == ["pending"] * 2
    passes.end(Cause.COMPLETED, 2, 4, 5)
    assert passes.look_and_act()[0] == "in_progress"


def test_what_is_open_elsewhere_holds_no_place(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(99, WILLING), resources=FOUR)
    for number in range(4):
        passes.open_elsewhere(number, server="there")
    assert passes.look_and_act() == ["submitting"] * 4 + ["in_progress"] * 4
    assert passes.arrays() == ["0-3%4"]


def test_a_refused_array_holds_no_place(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Refusing(2, TOO_LARGE), resources=FOUR)
    assert passes.look_and_act() == ["in_progress"] * 8
    assert passes.arrays() == ["0-1%1"] * 4


@given(most=st.integers(1, 9), size=st.integers(1, 9), tasks=st.integers(1, 60), data=st.data())
def test_arrays_never_run_more_than_there_may_be_and_in_the_end_all_have_run(
    most: int, size: int, tasks: int, data: st.DataObject
) -> None:
    waiting, requeued = tasks, 0
    arrays: list[list[int]] = []  # tasks that are left of each, and how many of them at a time

    def running() -> int:
        return sum(min(left, at_once) for left, at_once in arrays)

    while waiting or running():
        throttle = Throttle(most, most - running())
        while waiting and not throttle.full:
            may = throttle.share(waiting)
            array = min(may, size)
            arrays.append([array, throttle.take(array, may)])
            waiting -= array
        assert running() <= most
        assert waiting == 0 or running() == most, "no place is left empty"
        ending = data.draw(st.lists(st.sampled_from([one for one in arrays if one[0]]), min_size=1, max_size=9))
        for one in ending:
            again = requeued < 20 and one[0] > 0 and data.draw(st.booleans())
            waiting, requeued = waiting + again, requeued + again
            one[0] = max(0, one[0] - 1)

"""How many allocations are submitted, and what their agents take: with a simulated scheduler, and locally."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, wait_for
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from roundhouse.config.round import load_round
from roundhouse.config.site import Site
from roundhouse.engine import allocations, one_pass
from roundhouse.engine.allocations import Allocation
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.errors import RoundhouseError
from roundhouse.jobs import agent as agent_module
from roundhouse.jobs import allocation
from roundhouse.jobs.agent import Agent
from roundhouse.machine.pool import SLOT, TOKEN
from roundhouse.model import selection
from roundhouse.model.answers import Identity, Job, Jobs, JobState, Refused, Scope, SubmitAnswer, Submitted
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Pack, Resources
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group, record
from roundhouse.views import tables

HERE = Identity("slurm", "here", "me")
PACKED = Resources(pack=Pack(slots=2))


def an_allocation(only: str | None = None, resources: Resources = PACKED, **more: Any) -> Allocation:
    return Allocation("rhx", "r", resources, HERE, "rounds", "analysis", None, only=only, **more)


# ---------------------------------------------------------------------------------------------- how many

globs = st.sampled_from([None, "a*", "a1", "b*", "*1", "nothing"])
paths = st.lists(st.sampled_from([f"{letter}{number}" for letter in "abc" for number in range(4)]), unique=True)


@given(paths, st.lists(globs), st.integers(1, 4))
def test_with_the_computed_number_of_further_allocations_each_experiment_finds_a_slot(
    waiting: list[str], living: list[str | None], slots: int
) -> None:
    resources = Resources(pack=Pack(slots))
    there = [an_allocation(only, resources) for only in living]
    more = allocations.wanted(waiting, resources, there)
    free = [one for one in [*there, *[an_allocation(None, resources)] * more] for _ in range(slots)]
    assert more <= allocations.wanted(waiting, resources, []) == -(-len(waiting) // slots)
    if waiting:
        takes = csr_array([[int(one.takes(path)) for one in free] for path in waiting])
        assert (maximum_bipartite_matching(takes, perm_type="column") >= 0).all()


@given(st.integers(0, 30), st.integers(0, 5), st.integers(1, 4), st.none() | st.integers(1, 4))
def test_without_only_what_counts_is_how_many_live(waiting: int, living: int, slots: int, most: int | None) -> None:
    resources = Resources(pack=Pack(slots), max_running=most)
    needed = -(-waiting // slots)
    named = [f"e{number}" for number in range(waiting)]
    expected = max(0, (needed if most is None else min(needed, most)) - living)
    assert allocations.wanted(named, resources, [an_allocation(None, resources)] * living) == expected


def test_an_allocation_of_an_older_version_takes_anything(tmp_path: Path) -> None:
    allocations.write(tmp_path, an_allocation("a*"))
    found = allocations.read(tmp_path)
    assert found is not None
    assert (found.takes("a1"), found.takes("b1")) == (True, False)
    value = json.loads((tmp_path / allocations.FILE).read_text())
    del value["only"], value["current_code"]
    (tmp_path / allocations.FILE).write_text(json.dumps(value))
    older = allocations.read(tmp_path)
    assert older is not None
    assert older.takes("b1")
    assert not older.current_code


# ---------------------------------------------------------------------------------------------- passes


@dataclass
class Listing:
    """A scheduler that keeps submitted jobs in a list, and starts nothing."""

    jobs: list[Job] = field(default_factory=list)
    kind: str = "slurm"
    grace: float = 180.0
    refusal: Refused | None = None

    def identity(self, run: Any) -> Identity:
        return HERE

    def query(self, run: Any, ids: Any, names: Any, since: Any = None) -> Jobs:
        return Jobs(tuple(self.jobs))

    def array_limit(self, run: Any, queue: str | None) -> int:
        return 100

    def submit(self, run: Any, script: Path, name: str, need: Any = None) -> SubmitAnswer:
        if self.refusal:
            return self.refusal
        self.jobs.append(Job(str(len(self.jobs) + 1), name, JobState.QUEUED))
        return Submitted(self.jobs[-1].id)

    def cancel(self, run: Any, ids: Any) -> list[str]:
        self.jobs = [replace(job, state=JobState.ENDED) if job.id in ids else job for job in self.jobs]
        return []


@dataclass
class Passes:
    """Passes over experiments that are packed, two in an allocation."""

    folder: Path
    names: Sequence[str]
    resources: Resources = PACKED
    snapshot: bool = False
    scheduler: Listing = field(default_factory=Listing)

    def make(self, only: str | None = None, code: str = "present", current: bool = False) -> PassReport:
        """One pass, while the tree is in the state `code`."""
        scheduler: Any = self.scheduler
        run: Any = None
        place = PassContext(
            self.folder, REPOSITORY, Site(), scheduler, run, "python", analysis=self.folder / "analysis"
        )
        place.only, place.current_code = only, current
        place.copies.present["r"] = code
        glob = an_allocation(only)
        return one_pass.run_pass(place, self.experiments, only=lambda experiment: glob.takes(experiment.path))

    @property
    def experiments(self) -> list[Experiment]:
        return [
            Experiment("r", "e", name, None, {}, self.resources, command=("true",), snapshot=self.snapshot)
            for name in self.names
        ]

    def submitted(self) -> list[str | None]:
        """What each allocation takes, in the order of their submission."""
        found = [allocations.read(job_group.directory_of(self.folder / "r", job.name)) for job in self.scheduler.jobs]
        return [one.only for one in found if one is not None]


def reasons(report: PassReport) -> dict[str, str]:
    return {row.experiment.path: row.action.reason for row in report.statuses}


def test_what_an_allocation_for_others_will_not_take_gets_one_of_its_own_in_a_later_pass(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ["a1", "a2", "b1", "b2", "b3"])
    assert reasons(passes.make("a*")) == dict.fromkeys(["a1", "a2"], "waits for a slot in allocation 1")
    assert reasons(passes.make("a1"))["a1"] == "waits for a slot in allocation 1, queued"
    assert passes.submitted() == ["a*"]
    found = reasons(passes.make())
    assert passes.submitted() == ["a*", None, None]
    assert found["a1"] == "waits for a slot in allocation 1, queued (and in 2 more)"
    assert found["b1"] == "waits for a slot in allocation 2 (and in 1 more)"
    passes.make()
    passes.make("b1")
    assert len(passes.submitted()) == 3


def test_where_no_more_allocations_may_exist_the_reason_says_why_the_existing_ones_do_not_fit(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ["a1", "b1"], replace(PACKED, max_running=1))
    passes.make("a*")
    found = reasons(passes.make())
    assert found["a1"] == "waits for a slot in allocation 1, queued"
    assert found["b1"] == "limit reached: max_running: 1, and the existing allocations were submitted with --only"
    assert passes.submitted() == ["a*"]


def test_a_queue_that_allocations_cannot_use_is_one_message(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ("a1", "a2", "b1"))
    passes.scheduler.refusal = Refused("Unknown queue", scope=Scope.QUEUE)
    rows = passes.make().statuses
    assert {str(row.action.state) for row in rows} == {"blocked"}
    (message,) = tables.refusals(rows)
    assert "Unknown queue" in message and "site file" in message
    passes.scheduler.refusal = None
    assert {str(row.action.state) for row in passes.make().statuses} == {"pending"}


def test_an_allocation_that_has_not_started_is_deleted_once_nothing_that_it_takes_is_left(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ["a1", "b1"])
    passes.make("a*")
    passes.names = ["b1"]
    passes.make()
    assert [job.state for job in passes.scheduler.jobs] == [JobState.ENDED, JobState.QUEUED]


def test_experiments_of_other_allocations_continue_when_the_scheduler_will_not_run_one(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ["a1", "b1"])
    passes.make("a*")
    passes.scheduler.jobs = [replace(passes.scheduler.jobs[0], state=JobState.BLOCKED, words="PartitionTimeLimit")]
    found = reasons(passes.make())
    assert found["a1"] == "the scheduler will not run its allocation 1: PartitionTimeLimit"
    assert found["b1"] == "waits for a slot in allocation 2"


def test_allocations_that_run_other_code_are_reported_when_the_current_code_is_requested(tmp_path: Path) -> None:
    passes = Passes(tmp_path, ["a1"], snapshot=True)
    assert passes.make(code="old", current=True).notes == []
    assert passes.make(code="old", current=True).notes == []
    assert passes.make(code="new").notes == []
    (note,) = passes.make(code="new", current=True).notes
    assert "keep the code they were submitted with: 1." in note
    passes.scheduler.cancel(None, ["1"])
    assert passes.make(code="new", current=True).notes == []
    assert passes.make(code="new", current=True).notes == []


def test_what_has_run_continues_with_the_current_code_only_in_an_allocation_submitted_for_that(
    tmp_path: Path,
) -> None:
    passes = Passes(tmp_path, ["a1"], snapshot=True)
    ran = Opened("rhold", {}, passes.experiments[0].config_hash(), {}, code="old")
    assert record.open_attempt(tmp_path / "r" / "a1", 1, ran)
    row = ExperimentStatus(passes.experiments[0], record.read(tmp_path / "r" / "a1"), *[None] * 2)  # type: ignore[arg-type]
    assert an_allocation(code="new").code_of(row) == "old"
    assert an_allocation(code="new", current_code=True).code_of(row) == "new"


# ---------------------------------------------------------------------------------------------- agents


@dataclass
class Packed:
    """A round of commands, and an agent that runs them here."""

    folder: Path

    def agent(self, groups: dict[str, Any], slots: int, code: str | None = None, **allocated: Any) -> Agent:
        rounds = self.folder / "rounds"
        rounds.mkdir()
        packed = {"ncpus": slots, "walltime": "1:00:00", "pack": {"slots": slots}}
        (rounds / "r.yaml").write_text(yaml.safe_dump({"round": "r", "resources": packed, "experiments": groups}))
        like = load_round("r", rounds).experiments[0].resources
        made = Allocation(
            record.new_token(), "r", like, HERE, str(rounds), str(self.folder / "analysis"), None, code, **allocated
        )
        directory = job_group.directory_of(self.folder / "experiments" / "r", made.name)
        directory.mkdir(parents=True)
        allocations.write(directory, made)
        return allocation.prepare(directory, "77", time.monotonic(), ExitStack())

    def directory(self, path: str) -> Path:
        return self.folder / "experiments" / "r" / path

    def causes(self, path: str) -> list[str]:
        return [str(attempt.cause) for attempt in record.read(self.directory(path)).attempts]

    @contextmanager
    def at_work(self, agent: Agent) -> Iterator[None]:
        """While an agent runs; at the end it is stopped."""
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            yield
        finally:
            agent.on_signal(signal.SIGTERM, None)
            thread.join()


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Packed(tmp_path)


def group(path: str, command: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "command": command, **more}


def test_an_agent_takes_only_what_it_was_submitted_for_and_the_history_names_its_job(packed: Packed) -> None:
    groups = {"all": group("{name}", "true", grid={"name": ["b1", "a1", "a2"]})}
    packed.agent(groups, 2, only="a*").run()
    assert [packed.causes(path) for path in ("a1", "a2", "b1")] == [["completed"], ["completed"], []]
    known = record.read(packed.directory("a1"))
    assert known.compacted
    assert known.completed is not None
    assert known.completed.job_id == "77"


def test_an_agent_stops_a_cancelled_experiment_immediately_and_nothing_else(packed: Packed) -> None:
    agent = packed.agent({"all": group("{name}", "sleep 1000", grid={"name": ["a", "b"]})}, 2)
    with packed.at_work(agent):
        started = [packed.directory(path) / "attempts/1/progress.json" for path in "ab"]
        wait_for(lambda: all(file.exists() for file in started), "both run")
        record.request_cancel(packed.directory("a"), 1)
        wait_for(lambda: packed.causes("a") == ["cancelled"], "it is stopped", 30)  # otherwise it checks once a minute
        assert packed.causes("b") == ["None"]
    assert packed.causes("b") == ["preempted"]


def test_an_agent_ranks_the_candidates_of_a_selection_once_per_query_of_its_slots(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = """sh -c 'printf "{{\\"loss\\": %s}}" {lr} > {directory}/metrics.json'"""
    choice = {"from": "sweep", "metric": "loss", "mode": "min", "top": 3}
    groups = {
        "sweep": group("s/{lr}", say, grid={"lr": [1, 2, 3]}),
        "best": group("b/{rank}", "true", select=choice),
    }
    rankings = [0]  # since it looked at its slots last
    agent, ranking = packed.agent(groups, 3), selection.ranking
    query = agent.slots.query

    def counted(*arguments: Any) -> Any:
        rankings.append(0)
        return query(*arguments)

    def rank(runs: Any, mode: str) -> Any:
        rankings[-1] += 1
        return ranking(runs, mode)

    monkeypatch.setattr(agent.slots, "query", counted)
    monkeypatch.setattr(selection, "ranking", rank)
    agent.run()
    assert [packed.causes(f"b/{rank}") for rank in (1, 2, 3)] == [["completed"]] * 3
    assert max(rankings) == 1


def test_an_agent_that_fills_a_slot_does_not_read_ended_experiments_again(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"all": group("{name}", "true", grid={"name": ["over", "b1", "b2", "b3"]})}
    agent = packed.agent(groups, 1)
    over = agent.experiments[0]
    opened = Opened("rhold", asdict(HERE), over.config_hash(), {})
    assert record.open_attempt(packed.directory("over"), 1, opened)
    assert record.void(packed.directory("over"), 1, Cause.CANCELLED, "by the user")
    reads: list[Path] = []
    real = record.read
    monkeypatch.setattr(record, "read", lambda directory: (reads.append(directory), real(directory))[1])
    monkeypatch.setattr(agent_module, "EVALUATE_EVERY", 1000.0)
    agent.run()
    assert [packed.causes(name) for name in ("b1", "b2", "b3")] == [["completed"]] * 3
    assert reads.count(packed.directory("over")) == 3  # as it starts, as it looks around, and once more at its end


@contextmanager
def holding(agent: Agent) -> Iterator[subprocess.Popen[bytes]]:
    """A process that this allocation did not start, in the first of its slots."""
    environ = {TOKEN: "rhstray", SLOT: f"{agent.allocation.name} cpu/0", "PATH": os.environ["PATH"]}
    process = subprocess.Popen(["sleep", "1000"], env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_agent_whose_slots_are_in_use_by_others_reports_it_waits_and_ends_with_that_reason(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agent_module, "EVALUATE_EVERY", 0.05)
    monkeypatch.setattr(agent_module, "HELD_FOR", 0.3)
    agent = packed.agent({"all": group("a", "true")}, 1)
    with holding(agent) as stray:
        agent.run()
        holder = f"process {stray.pid} of job rhstray"
    assert packed.causes("a") == []
    assert holder in agent.end
    assert capsys.readouterr().out.count(holder) == 1


def test_an_agent_takes_a_slot_as_soon_as_others_have_left_it(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "EVALUATE_EVERY", 0.05)
    agent = packed.agent({"all": group("a", "true")}, 1)
    with holding(agent) as stray, packed.at_work(agent):
        wait_for(lambda: agent.held_by, "it waits")
        stray.kill()
        wait_for(lambda: packed.causes("a") == ["completed"], "it runs")


def test_an_agent_continues_in_free_slots_and_needs_none_for_what_has_ended(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = packed.agent({"all": group("{name}", "true", grid={"name": ["a", "b"]})}, 2)
    with holding(agent) as stray:
        agent.run()
    # A job that has just ended may still hold its slot for a moment: that is a limit, and no try.
    assert [[one for one in packed.causes(name) if one != "limit"] for name in "ab"] == [["completed"]] * 2
    assert agent.end == "nothing is left to take"
    assert f"process {stray.pid} of job rhstray" in capsys.readouterr().out


def test_an_agent_says_whether_it_ends_for_a_signal_or_for_lack_of_time(packed: Packed) -> None:
    agent = packed.agent({"all": group("a", "true")}, 1)
    agent.ends = time.monotonic() + 1
    agent.run()
    assert packed.causes("a") == []
    assert agent.end == "too little of its walltime is left to start another experiment"
    agent.on_signal(signal.SIGTERM, None)
    assert agent.end == "it was stopped by SIGTERM"


def test_an_agent_that_fails_lets_what_runs_save_its_place(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = packed.agent(
        {"all": group("a", f"sh -c 'trap \"exit 75\" TERM; touch {tmp_path}/runs; sleep 1000 & wait'")}, 1
    )
    monkeypatch.setattr(allocation, "prepare", lambda *_: agent)
    monkeypatch.setattr(allocation, "SIGNALS", ())

    def fails() -> None:
        wait_for((tmp_path / "runs").exists, "it runs")
        raise RoundhouseError("the record is gone")

    monkeypatch.setattr(agent, "_stop_cancelled", fails)
    assert allocation.main(["", str(tmp_path), "7"]) == 1
    assert packed.causes("a") == ["preempted"]


def test_an_agent_for_the_present_code_runs_it_whatever_has_run_before(packed: Packed) -> None:
    groups = {"all": group("a", "true")}
    agent = packed.agent(groups, 1, code="new", current_code=True)
    one = replace(agent.experiments[0], snapshot=True)
    ran = Opened("rhold", {}, one.config_hash(), {}, code="old")
    assert record.open_attempt(packed.directory("a"), 1, ran)
    assert agent.context.copies.of(one, record.read(packed.directory("a"))) == "new"

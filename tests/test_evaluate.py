"""The one evaluation: of a whole round or a part, once or again, and within a pass that acts on it.

Three things are most likely to go wrong, and come first: a record that is older than the scheduler's answer; a status
that is kept though what it rests on has changed; and a comparison at a rung that misses a part of its group.
"""

from __future__ import annotations

import random
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.config.site import Site
from roundhouse.engine.context import PassContext
from roundhouse.engine.one_pass import run_pass
from roundhouse.model.answers import Identity, Job, Jobs, JobState, QueryFailed
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evaluation, Evidence, completed, evaluate
from roundhouse.model.experiment import Experiment, Halving, Selection
from roundhouse.model.plan import Action, Clock, State, Verb
from roundhouse.store import metrics, record

HOME = Identity("slurm", "home", "me")
CLOCK = Clock(10_000.0, 180.0, 120.0)
HALVING = Halving("loss", "min", 10, 0.5)


def experiment(path: str, *after: str, **more: Any) -> Experiment:
    return Experiment("r", path[0], path, "s", {"name": path}, after={one: (one,) for one in after}, **more)


def ended(one: Experiment, cause: Cause, loss: float = 0.0, pause_at: int | None = None, number: int = 1) -> Attempt:
    opened = Opened(f"t{number}", asdict(HOME), one.config_hash(), {}, "7", pause_at=pause_at)
    progress = Progress(10, 20, 0, "loss", loss, loss, final={"loss": loss})
    return Attempt(number, opened, Claim(host="n"), Result(cause, final=cause is Cause.ERROR), progress)


def records(experiments: list[Experiment], **attempts: Attempt) -> dict[str, Record]:
    found = {one.path: Record(Path("/nowhere") / one.path) for one in experiments}
    return found | {path: replace(found[path], attempts=(one,), next_number=2) for path, one in attempts.items()}


# ---------------------------------------------------------------------------------------------- the three risks


class Cluster:
    """A scheduler with one job. While it is queried, `meanwhile` happens."""

    kind, grace = "slurm", 180.0

    def __init__(self, *jobs: Job) -> None:
        self.jobs, self.meanwhile, self.deleted = jobs, (lambda: None), list[str]()

    def identity(self, run: Any) -> Identity:
        return HOME

    def query(self, run: Any, ids: Any, names: Any, since: Any = None) -> Jobs:
        self.meanwhile()
        return Jobs(self.jobs)

    def cancel(self, run: Any, ids: Any) -> list[str]:
        self.deleted += ids
        return []


@pytest.fixture
def opened(tmp_path: Path) -> tuple[PassContext, Experiment, Path, Cluster]:
    """A pass's context, an experiment with a job that runs, its directory, and the scheduler."""
    one, cluster = experiment("a"), Cluster(Job("7", "rhtoken", JobState.RUNNING))
    directory = tmp_path / "r" / "a"
    assert record.open_attempt(directory, 1, Opened("rhtoken", asdict(HOME), one.config_hash(), {}))
    record.record_job_id(directory, 1, "7")
    context = PassContext(tmp_path, tmp_path, Site(), cluster, lambda argv: None, "py")  # type: ignore[arg-type, return-value]
    return context, one, directory, cluster


def test_a_record_that_changes_while_the_scheduler_is_queried_is_read_again(opened: Any) -> None:
    context, one, directory, cluster = opened
    cluster.jobs = (Job("7", "rhtoken", JobState.ENDED),)
    cluster.meanwhile = lambda: record.close(directory, 1, Cause.COMPLETED, "")
    (status,) = run_pass(context, [one], limit=0).statuses
    assert status.action.state is State.COMPLETED
    assert not (record.attempt_directory(directory, 1) / record.GONE).exists()


def test_a_job_is_deleted_once_in_a_pass_and_reported_once(opened: Any) -> None:
    context, one, directory, cluster = opened
    record.request_cancel(directory, 1)
    report = run_pass(context, [one], limit=0)
    assert cluster.deleted == ["7"]
    assert [action.verb for _, action in report.done] == [Verb.KILL]
    assert (report.statuses[0].action.state, report.statuses[0].action.reason) == (State.IN_PROGRESS, "being cancelled")


def test_what_a_step_changes_counts_for_its_dependents_in_the_same_pass(opened: Any) -> None:
    context, one, directory, cluster = opened
    student = experiment("b", "a")
    cluster.jobs = ()
    record.request_cancel(directory, 1)
    assert record.void(directory, 1, Cause.CANCELLED, "by the user")
    _, status = run_pass(context, [one, student], limit=0).statuses
    assert status.action.reason == "waits for a, which is cancelled: by the user"
    assert status.inputs.hopeless


def test_without_act_no_step_is_carried_out(opened: Any) -> None:
    context, one, directory, cluster = opened
    cluster.jobs = ()
    before = sorted(path.name for path in record.attempt_directory(directory, 1).iterdir())
    (status,) = run_pass(context, [one], act=False).statuses
    assert status.action.verb is Verb.MARK_GONE
    assert sorted(path.name for path in record.attempt_directory(directory, 1).iterdir()) == before


def at_a_rung(loss: dict[str, float]) -> tuple[list[Experiment], dict[str, Record]]:
    """A group of which these have paused, and a student of each."""
    group = [Experiment("r", "g", path, "s", {"name": path}, halving=HALVING) for path in loss]
    students = [experiment(f"student/{one.path}", one.path) for one in group]
    paused = {one.path: ended(one, Cause.RUNG, loss[one.path], pause_at=10) for one in group}
    return [*students, *group], records([*students, *group], **paused)


def test_at_a_rung_the_whole_group_is_compared_and_a_part_of_it_never() -> None:
    experiments, known = at_a_rung({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    evaluation = Evaluation(experiments, Evidence(known, metrics, CLOCK))
    assert {evaluation.status(path).action.verb for path in ("c", "d")} == {Verb.SUBMIT}
    statuses = evaluation.whole_round()
    assert [statuses[path].action.verb for path in "abcd"] == [Verb.SUBMIT, Verb.SUBMIT, Verb.PRUNE, Verb.PRUNE]


def test_what_depends_on_a_blocked_comparison_reports_it() -> None:
    experiments, known = at_a_rung({"a": 0.1, "b": 0.2})
    nameless = [replace(one, halving=replace(HALVING, metric="los")) if one.halving else one for one in experiments]
    statuses = evaluate(nameless, Evidence(known, metrics, CLOCK))
    why = "a does not report the metric 'los': did you mean 'loss'?"
    assert (statuses["a"].action.state, statuses["a"].action.reason) == (State.BLOCKED, why)
    assert statuses["student/b"].action.reason == f"waits for b, which is blocked: {why}"
    assert statuses["student/b"].inputs.hopeless


def test_nothing_is_pruned_or_submitted_while_the_scheduler_cannot_be_queried() -> None:
    experiments, known = at_a_rung({"a": 0.1, "b": 0.2})
    evidence = Evidence(known, metrics, CLOCK, query_error="the server is down")
    assert {one.action.verb for one in evaluate(experiments, evidence).values()} == {Verb.NOTHING}


# ---------------------------------------------------------------------------------------------- parts and wholes


CAUSES = st.sampled_from([None, Cause.COMPLETED, Cause.ERROR, Cause.CANCELLED, Cause.PREEMPTED])


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Experiment], dict[str, Record]]:
    """Experiments that depend on earlier ones, in any order in the file, and how each has ended, if it has."""
    made: list[Experiment] = []
    for number in range(draw(st.integers(1, 8))):
        after = draw(st.lists(st.sampled_from([one.path for one in made]), max_size=3, unique=True)) if made else []
        made.append(experiment(f"e{number}", *after))
    chosen = {one.path: cause for one in made if (cause := draw(CAUSES)) is not None}
    attempts = {path: ended(one, chosen[path]) for one in made if (path := one.path) in chosen}
    shuffled = draw(st.permutations(made))
    return list(shuffled), records(list(shuffled), **attempts)


@given(rounds(), st.randoms(use_true_random=False))
def test_a_part_is_evaluated_as_the_whole_round_in_any_order(made: Any, shuffle: random.Random) -> None:
    experiments, known = made
    evidence = Evidence(known, metrics, CLOCK)
    whole = evaluate(experiments, evidence)
    assert list(whole) == [one.path for one in experiments]
    paths = list(whole)
    shuffle.shuffle(paths)
    part = Evaluation(experiments, evidence)
    assert {path: part.status(path) for path in paths} == whole
    assert evaluate(experiments, evidence, completed(whole)) == whole


@given(rounds(), st.data())
def test_dependents_are_updated_as_in_a_new_evaluation(made: Any, data: st.DataObject) -> None:
    experiments, known = made
    one = data.draw(st.sampled_from(experiments))
    evidence = Evidence(known, metrics, CLOCK)
    before = evaluate(experiments, evidence)
    if before[one.path].action.state is not State.PENDING:
        return
    refused = replace(before[one.path], action=Action(Verb.NOTHING, State.BLOCKED, "the queue is wrong"))
    evaluation = Evaluation(experiments, evidence, before | {one.path: refused})
    evaluation.update_dependents([one.path])
    fresh = evaluate(experiments, evidence, {one.path: refused})
    pending = [path for path in before if before[path].action.state is State.PENDING]
    assert {path: evaluation.statuses[path] for path in pending} == {path: fresh[path] for path in pending}
    assert {path: other.action for path, other in evaluation.statuses.items()} == {
        path: other.action for path, other in fresh.items()
    }


def test_a_long_chain_of_dependencies_is_evaluated() -> None:
    chain = [experiment(f"e{number}", *([f"e{number - 1}"] if number else [])) for number in range(3000)]
    statuses = evaluate(chain[::-1], Evidence(records(chain), metrics, CLOCK))
    assert statuses["e2999"].action.reason == "waits for e2998, which is pending"


def test_a_selection_is_made_from_the_group_whatever_is_evaluated_first() -> None:
    sweep = [Experiment("r", "sweep", f"s/{lr}", "s", {"lr": lr}) for lr in (1, 2)]
    choice = Selection(groups=("sweep",), rank=1, metric="loss", mode="min", inputs=False)
    best = Experiment("r", "best", "b", "s", {}, after={"sweep": ("s/1", "s/2")}, selection=choice)
    known = records([*sweep, best], **{"s/1": ended(sweep[0], Cause.COMPLETED, 0.4)})
    evaluation = Evaluation([best, *sweep], Evidence(known, metrics, CLOCK))
    assert evaluation.status("b").action.reason == "waits for 1 of 2 of group sweep"
    known["s/2"] = replace(known["s/2"], attempts=(ended(sweep[1], Cause.COMPLETED, 0.3),))
    status = evaluate([best, *sweep], Evidence(known, metrics, CLOCK), completed(evaluation.statuses))["b"]
    assert (status.action.verb, status.experiment.config) == (Verb.SUBMIT, {"lr": 2})


def test_a_failed_query_is_no_evidence_about_an_open_attempt() -> None:
    one = experiment("a")
    known = {"a": Record(Path("/nowhere/a"), (Attempt(1, Opened("t", asdict(HOME), one.config_hash(), {}, "7")),))}
    no_answer = Evidence(known, metrics, CLOCK, answer=lambda *_: QueryFailed("the server is down"))
    actions = [evaluate([one], evidence)["a"].action for evidence in (Evidence(known, metrics, CLOCK), no_answer)]
    assert [(one.state, one.reason) for one in actions] == [
        (State.IN_PROGRESS, ""), (State.IN_PROGRESS, "state unknown: the server is down")
    ]  # fmt: skip


def test_the_reader_of_metrics_is_a_module_or_anything_alike() -> None:
    fake: Any = types.SimpleNamespace(result_of=lambda *_: 0.5, value_at=lambda *_: None, names_of=lambda *_: ["loss"])
    experiments, known = at_a_rung({"a": 0.1, "b": 0.2})
    assert "does not report" in evaluate(experiments, Evidence(known, fake, CLOCK))["a"].action.reason

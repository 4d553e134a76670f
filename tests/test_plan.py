"""The decision, line by line: what is known about one experiment, and the action that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.model.answers import Job, JobState, QueryFailed
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result, Verdict
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Pack, Resources
from roundhouse.model.plan import Action, Answer, Clock, Inputs, State, Unknown, Verb, decide
from roundhouse.model.retry import next_resources, request
from roundhouse.model.retry_policy import HARD_LIMIT, SOFT_LIMIT, RetryPolicy

NOW = 100_000.0
CLOCK = Clock(NOW, grace=180.0, submission_delay=120.0)
HOME = {"kind": "slurm", "server": "cluster", "user": "me", "boot": ""}
OPENED = Opened("rhtoken", HOME, "hash", {}, job_id="7", at=NOW - 5000)
HELD = Claim(job_id="7", nonce="n", at=NOW - 4000)
FREE = Inputs({})
DOWN = QueryFailed("the server is down")
MARKS = (Cause.RETRY, Cause.RERUN, Cause.CANCELLED, Cause.ARCHIVED, Cause.PRUNED)
OUTCOMES = [cause for cause in Cause if cause not in (Cause.COMPLETED, Cause.DIVERGED, *MARKS)]


def job(state: JobState, words: str = "", cause: Cause | None = None) -> Job:
    return Job("7", "rhtoken", state, words, cause)


QUEUED, RUNNING, ENDED = (job(state) for state in (JobState.QUEUED, JobState.RUNNING, JobState.ENDED))


def ended(cause: Cause, why: str = "", gained: bool | None = False, **result: Any) -> Attempt:
    """An attempt that has ended. `gained`: whether it finished an epoch; None: it does not report epochs."""
    if cause in (Cause.UNCLAIMED, Cause.REFUSED, Cause.LIMIT, *MARKS):
        mark = cause if cause in MARKS else None
        opened = replace(OPENED, job_id=None, mark=mark)
        return Attempt(0, opened, Claim(True, cause, why, at=NOW - 60, jobs=5))
    progress = Progress() if gained is None else Progress(epoch=5 if gained else 4, epochs=9, started_epoch=4)
    return Attempt(0, OPENED, HELD, Result(cause, why, **result), progress)


def record_of(*attempts: Attempt, **other: Any) -> Record:
    numbered = tuple(replace(attempt, number=number) for number, attempt in enumerate(attempts, 1))
    return Record(Path("e"), numbered, next_number=len(attempts) + 1, **other)


def decided(
    attempts: Sequence[Attempt] = (),
    answer: Answer = DOWN,
    inputs: Inputs = FREE,
    clock: Clock = CLOCK,
    **other: Any,
) -> Action:
    return decide(record_of(*attempts), answer, inputs, clock, "hash", **other)


def outcome(action: Action) -> tuple[Verb, State]:
    return action.verb, action.state


# ------------------------------------------------------------------------------------------------------- decisions

PREEMPTED_GUESS = Attempt(
    0, OPENED, HELD, Result(Cause.PREEMPTED, "stopped by TERM", 75, ("TERM",), guess=True), result_at=NOW - 30
)


@pytest.mark.parametrize("cause", [Cause.MEMORY, Cause.WALLTIME, Cause.NODE, Cause.DELETED])
def test_the_schedulers_verdict_on_a_guess_is_recorded_before_anything_else(cause: Cause) -> None:
    action = decided([PREEMPTED_GUESS], job(JobState.ENDED, "finished: exceeded resource mem", cause))
    assert (outcome(action), action.cause) == ((Verb.VERDICT, State.PENDING), cause)
    assert action.reason == "job 7: finished: exceeded resource mem"


def test_a_scheduler_that_gives_no_cause_confirms_the_guess() -> None:
    action = decided([PREEMPTED_GUESS], job(JobState.ENDED, "finished"))
    assert (action.verb, action.cause, action.reason) == (Verb.VERDICT, Cause.PREEMPTED, "stopped by TERM")


def test_a_job_that_is_queued_again_was_preempted() -> None:
    guess = replace(PREEMPTED_GUESS, result=Result(Cause.WALLTIME, guess=True))
    for state in (JobState.QUEUED, JobState.BLOCKED):
        assert decided([guess], job(state)).cause is Cause.PREEMPTED
        assert decided([guess], job(state, cause=Cause.NODE)).cause is Cause.NODE


def test_the_next_attempt_waits_for_the_verdict_but_not_for_ever() -> None:
    for answer in (RUNNING, DOWN):
        waiting = decided([PREEMPTED_GUESS], answer)
        assert outcome(waiting) == (Verb.NOTHING, State.PENDING) and "waiting for the scheduler" in waiting.reason
        assert decided([replace(PREEMPTED_GUESS, result_at=NOW - 181)], answer).verb is Verb.SUBMIT
    assert decided([PREEMPTED_GUESS], Unknown()).verb is Verb.SUBMIT, "a scheduler without history says no more"
    assert decided([PREEMPTED_GUESS], Unknown(history=True)).verb is Verb.NOTHING, "its history may be late"
    late = replace(PREEMPTED_GUESS, result_at=NOW - 181)
    assert decided([late], Unknown(history=True)).verb is Verb.SUBMIT


def test_a_verdict_changes_the_cause_and_nothing_else() -> None:
    guess = replace(PREEMPTED_GUESS, verdict=Verdict(Cause.MEMORY, "job 7: exceeded resource mem"))
    assert guess.closed and (guess.cause, guess.why) == (Cause.MEMORY, "job 7: exceeded resource mem")
    again = decided([guess], Unknown())
    assert again.verb is Verb.SUBMIT and "memory (job 7: exceeded resource mem)" in again.reason
    failed = decided([guess, guess], Unknown())
    assert (failed.state, failed.cause) == (State.FAILED, Cause.MEMORY)
    certain = replace(guess, result=Result(Cause.ERROR))
    assert certain.cause is Cause.ERROR, "a cause that the job knows for certain is kept"


def test_the_walltime_of_an_allocation_is_no_verdict_on_what_ran_in_it() -> None:
    packed = replace(PREEMPTED_GUESS, opened=replace(OPENED, shared="../.jobs/rhallocation"))
    ended_late = job(JobState.ENDED, "finished: exceeded resource walltime", Cause.WALLTIME)
    assert decided([packed], ended_late).cause is Cause.PREEMPTED
    assert decided([packed], job(JobState.ENDED, "", Cause.MEMORY)).cause is Cause.MEMORY


def test_memory_of_an_allocation_counts_towards_no_retry_limit_but_the_next_one_requests_more() -> None:
    requested = Resources(mem_mb=1000, pack=Pack(slots=4))
    opened = replace(OPENED, shared="../.jobs/rhallocation", resources=request(Resources(), requested))
    short = replace(PREEMPTED_GUESS, opened=opened, verdict=Verdict(Cause.MEMORY), progress=Progress(5, 9, 4))
    assert decided([short] * 5, Unknown()).verb is Verb.SUBMIT
    assert next_resources(requested, [short], RetryPolicy()).mem_mb == 2000


# -------------------------------------------------------------------------------------------- 1, 2, 3: leave it alone


def test_a_completed_experiment_never_changes() -> None:
    done = ended(Cause.COMPLETED)
    for attempts in ([done], [ended(Cause.ERROR), done], [done, ended(Cause.CANCELLED)], [done, ended(Cause.RETRY)]):
        for answer in (QUEUED, ENDED, Unknown(), DOWN):
            assert outcome(decided(attempts, answer)) == (Verb.NOTHING, State.COMPLETED)


def test_what_is_completed_with_another_config_is_not_trained_again() -> None:
    action = decide(record_of(ended(Cause.COMPLETED)), Unknown(), FREE, CLOCK, "another")
    assert (outcome(action), action.reason) == ((Verb.NOTHING, State.BLOCKED), "completed with another config")


@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.ARCHIVED])
def test_what_the_user_cancelled_or_archived_stays_until_retry(cause: Cause) -> None:
    for attempt in (ended(cause, "by the user"), Attempt(0, OPENED, HELD, Result(cause))):
        assert outcome(decided([attempt], Unknown())) == (Verb.NOTHING, State.CANCELLED)
        assert decided([attempt, ended(Cause.RETRY)], Unknown()).verb is Verb.SUBMIT


def test_without_an_answer_of_its_scheduler_nothing_is_concluded() -> None:
    old = Attempt(0, replace(OPENED, at=0.0), HELD, progress_at=1.0, gone_at=2.0, cancel=True)
    action = decided([old], DOWN)
    assert (outcome(action), action.reason) == ((Verb.NOTHING, State.IN_PROGRESS), "state unknown: the server is down")
    nameless = Attempt(0, replace(OPENED, at=0.0, job_id=None))
    assert outcome(decided([nameless], DOWN)) == (Verb.NOTHING, State.SUBMITTING)


def test_an_unreadable_record_waits_for_the_user() -> None:
    for attempts in ((), (ended(Cause.ERROR),), (ended(Cause.COMPLETED),)):
        action = decide(record_of(*attempts, damage="attempts/2/job.json is empty"), RUNNING, FREE, CLOCK, "hash")
        assert outcome(action) == (Verb.NOTHING, State.BLOCKED)
        assert "attempts/2/job.json is empty" in action.reason


def test_a_record_keeps_to_the_scheduler_that_it_ran_on_until_retry() -> None:
    here = {**HOME, "server": "another cluster"}
    action = decided([ended(Cause.PREEMPTED)], Unknown(), scheduler=here)
    assert outcome(action) == (Verb.NOTHING, State.BLOCKED)
    assert "slurm on cluster, user me: run the pass there" in action.reason
    failed = decided([ended(Cause.ERROR), ended(Cause.ERROR)], Unknown(), scheduler=here)
    assert outcome(failed) == (Verb.NOTHING, State.FAILED), "there is nothing to run, here or there"
    assert decided([ended(Cause.PREEMPTED)], Unknown(), scheduler={**HOME, "boot": "since"}).verb is Verb.SUBMIT
    assert decided([ended(Cause.PREEMPTED), ended(Cause.RETRY)], Unknown(), scheduler=here).verb is Verb.SUBMIT
    assert decided([], Unknown(), scheduler=here).verb is Verb.SUBMIT


# ------------------------------------------------------------------------------------------------ 4: its job is alive


@pytest.mark.parametrize("answer", [QUEUED, RUNNING])
def test_a_job_that_is_queued_or_runs_is_waited_for(answer: Job) -> None:
    assert outcome(decided([Attempt(0, OPENED)], answer)) == (Verb.NOTHING, State.IN_PROGRESS)
    assert decided([Attempt(0, OPENED)], job(JobState.QUEUED, "Priority")).reason == "Priority"


def test_a_job_that_will_not_run_is_reported_with_the_schedulers_reason() -> None:
    action = decided([Attempt(0, OPENED)], job(JobState.BLOCKED, "JobHeldUser"))
    assert outcome(action) == (Verb.NOTHING, State.BLOCKED)
    assert "job 7: JobHeldUser" in action.reason


def test_a_job_that_runs_without_a_heartbeat_is_reported_and_not_touched() -> None:
    for seconds, reported in ((1700, False), (1860, True)):
        action = decided([Attempt(0, OPENED, HELD, progress_at=NOW - seconds)], RUNNING)
        assert outcome(action) == (Verb.NOTHING, State.IN_PROGRESS)
        assert ("last heartbeat was 31 min ago" in action.reason) is reported
    fresh = Attempt(0, OPENED, replace(HELD, at=NOW - 10))
    assert decided([fresh], RUNNING).reason == "", "it has only just started"


def test_a_job_that_is_seen_again_is_not_gone() -> None:
    assert decided([Attempt(0, OPENED, HELD, gone_at=NOW - 9999)], RUNNING).verb is Verb.UNMARK_GONE


def test_what_is_gone_from_a_slot_is_decided_by_the_agent_though_the_allocation_lives() -> None:
    opened = replace(OPENED, shared="../.jobs/rhallocation")
    outside, inside = replace(RUNNING, name="rhallocation"), replace(RUNNING, name=opened.token)
    fresh, old = (Attempt(0, opened, HELD, gone_at=NOW - age) for age in (30, 61))
    assert decided([fresh], outside).verb is Verb.NOTHING
    assert decided([fresh], inside).verb is Verb.UNMARK_GONE
    assert decided([old], outside).verb is Verb.UNMARK_GONE, "no agent has closed it"
    cancelled = decided([replace(fresh, cancel=True)], outside)
    assert (cancelled.verb, cancelled.reason) == (Verb.NOTHING, "being cancelled"), "its job runs others"
    again = replace(outside, state=JobState.QUEUED)
    assert decided([fresh], again).verb is Verb.UNMARK_GONE, "no agent runs before the job has started again"
    task = replace(fresh, opened=replace(opened, index=0))
    assert decided([task], outside).verb is Verb.UNMARK_GONE, "a task of an array has no agent"
    for age, verb in ((179, Verb.NOTHING), (181, Verb.CLOSE)):
        lost = replace(fresh, gone_at=NOW - age)
        assert decided([lost], Unknown()).verb is verb, "the allocation has ended, and its agent with it"


def test_a_job_of_an_attempt_to_be_cancelled_is_deleted() -> None:
    action = decided([Attempt(0, OPENED, HELD, cancel=True)], RUNNING)
    assert (outcome(action), action.job_id) == ((Verb.KILL, State.IN_PROGRESS), "7")


def test_a_closed_attempt_stays_closed_whatever_the_scheduler_reports_about_its_job() -> None:
    assert decided([ended(Cause.ERROR)], RUNNING).verb is Verb.SUBMIT


# ------------------------------------------------------------------------------------------------------- 5: no job ID


@pytest.mark.parametrize("answer", [QUEUED, RUNNING, ENDED])
def test_a_job_that_is_found_by_its_name_is_adopted(answer: Job) -> None:
    action = decided([Attempt(0, replace(OPENED, job_id=None))], answer)
    assert (action.verb, action.job_id) == (Verb.ADOPT, "7")


def test_an_attempt_without_a_job_is_given_time_and_then_its_claim_is_taken() -> None:
    for age, verb, state in ((119, Verb.NOTHING, State.SUBMITTING), (121, Verb.VOID, State.PENDING)):
        action = decided([Attempt(0, replace(OPENED, job_id=None, at=NOW - age))], Unknown())
        assert outcome(action) == (verb, state)
    assert action.cause is Cause.UNCLAIMED


def test_a_claim_contains_the_job_id_too() -> None:
    attempt = Attempt(0, replace(OPENED, job_id=None, at=0.0), HELD)
    action = decided([attempt], RUNNING)
    assert (action.verb, action.job_id) == (Verb.ADOPT, "7")
    assert decided([attempt], Unknown()).verb is Verb.MARK_GONE, "a job that claimed is not to be voided"


def test_a_marker_whose_process_died_is_completed() -> None:
    for cause in MARKS:
        action = decided([ended(Cause.ERROR), Attempt(0, replace(OPENED, mark=cause, job_id=None))], DOWN)
        assert (action.verb, action.cause) == (Verb.VOID, cause)


# ------------------------------------------------------------------------------------------------- 6: its job is gone


@pytest.mark.parametrize("answer", [ENDED, Unknown()])
def test_a_job_that_is_gone_is_missed_for_a_while_before_its_attempt_is_closed(answer: Answer) -> None:
    attempt = Attempt(0, OPENED, HELD, progress_at=NOW - 4000)
    assert outcome(decided([attempt], answer)) == (Verb.MARK_GONE, State.IN_PROGRESS)
    missed = replace(attempt, gone_at=NOW - 179)
    assert outcome(decided([missed], answer)) == (Verb.NOTHING, State.IN_PROGRESS)
    action = decided([replace(attempt, gone_at=NOW - 181)], answer)
    assert (action.verb, action.cause) == (Verb.CLOSE, Cause.UNKNOWN)


def test_a_job_that_is_gone_but_has_a_heartbeat_is_not_closed() -> None:
    attempt = Attempt(0, OPENED, HELD, progress_at=NOW - 10, gone_at=NOW - 9999)
    action = decided([attempt], Unknown())
    assert (action.verb, "heartbeats continue" in action.reason) == (Verb.MARK_GONE, True)


def test_an_attempt_that_no_job_started_in_is_closed_by_taking_its_claim() -> None:
    action = decided([Attempt(0, OPENED, gone_at=NOW - 999)], Unknown())
    assert (action.verb, action.cause) == (Verb.VOID, Cause.UNCLAIMED)
    ended = decided([Attempt(0, OPENED, gone_at=NOW - 999)], job(JobState.ENDED, "Exit_status -29"))
    assert "Exit_status -29" in ended.reason


@pytest.mark.parametrize("cause", [Cause.WALLTIME, Cause.MEMORY, Cause.NODE, Cause.DELETED])
def test_the_schedulers_verdict_is_the_cause(cause: Cause) -> None:
    answer = job(JobState.ENDED, "its words", cause)
    action = decided([Attempt(0, OPENED, HELD, gone_at=NOW - 999)], answer)
    assert (action.verb, action.cause, action.reason) == (Verb.CLOSE, cause, "its words")
    assert decided([Attempt(0, OPENED, gone_at=NOW - 999)], answer).verb is Verb.VOID
    cancelled = decided([Attempt(0, OPENED, HELD, gone_at=NOW - 999, cancel=True)], answer)
    assert cancelled.cause is Cause.CANCELLED, "unless the user asked for it"


# ------------------------------------------------------------------------------------------------ 7: again, or enough


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.MEMORY, Cause.UNKNOWN, Cause.UNCLAIMED, Cause.REFUSED])
def test_a_fault_of_its_own_is_tried_twice(cause: Cause) -> None:
    one = ended(cause, "the reason")
    again = decided([one])
    assert outcome(again) == (Verb.SUBMIT, State.PENDING)
    assert again.reason == f"retry after {cause} (the reason)"
    failed = decided([one] * HARD_LIMIT)
    assert outcome(failed) == (Verb.NOTHING, State.FAILED)
    assert failed.reason == f"failed 2 times; last cause: {cause} (the reason)"
    assert failed.cause is cause


def test_faults_of_different_kinds_count_together_and_progress_does_not_excuse_them() -> None:
    assert decided([ended(Cause.ERROR, gained=True), ended(Cause.PREEMPTED), ended(Cause.MEMORY)]).state is State.FAILED


def test_walltimes_with_a_new_epoch_reach_no_retry_limit() -> None:
    assert decided([ended(Cause.WALLTIME, gained=True)] * 500).verb is Verb.SUBMIT


def test_a_walltime_without_a_new_epoch_is_a_fault() -> None:
    assert decided([ended(Cause.WALLTIME)]).verb is Verb.SUBMIT
    assert decided([ended(Cause.WALLTIME)] * 2).state is State.FAILED
    assert decided([ended(Cause.WALLTIME), ended(Cause.WALLTIME, gained=True)]).verb is Verb.SUBMIT


def test_a_walltime_of_a_program_that_does_not_report_its_epochs_is_a_soft_cause() -> None:
    assert decided([ended(Cause.WALLTIME, gained=None)] * (SOFT_LIMIT - 1)).verb is Verb.SUBMIT
    assert decided([ended(Cause.WALLTIME, gained=None)] * SOFT_LIMIT).state is State.FAILED


@pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.NODE, Cause.DELETED, Cause.INPUT])
def test_a_soft_cause_has_a_retry_limit_of_twenty_in_a_row_without_an_epoch(cause: Cause) -> None:
    one = ended(cause, "drained")
    assert decided([one] * (SOFT_LIMIT - 1)).verb is Verb.SUBMIT
    failed = decided([one] * SOFT_LIMIT)
    assert failed.state is State.FAILED
    assert failed.reason == f"interrupted 20 times without a newly saved step; last cause: {cause} (drained)"
    got_on = [one] * 15 + [ended(cause, gained=True)] + [one] * 15
    assert decided(got_on).verb is Verb.SUBMIT


def test_ctrl_c_is_never_a_reason_to_give_up() -> None:
    assert decided([ended(Cause.PREEMPTED, signals=("INT",))] * 100).verb is Verb.SUBMIT
    assert decided([ended(Cause.PREEMPTED, signals=("INT", "TERM"))] * 100).state is State.FAILED


def test_a_limit_of_the_scheduler_never_counts() -> None:
    later = replace(CLOCK, now=NOW + 9999)
    assert decided([ended(Cause.LIMIT)] * 500, clock=later).verb is Verb.SUBMIT


def test_a_pause_at_a_rung_never_counts_and_needs_no_new_epoch() -> None:
    paused = [ended(Cause.RUNG, gained=gained) for gained in (True, False, None)] * 100
    assert outcome(decided(paused)) == (Verb.SUBMIT, State.PENDING)
    assert decided(paused).reason == ""


def test_what_was_pruned_stays_so_until_it_is_tried_again() -> None:
    pruned = [ended(Cause.RUNG), ended(Cause.PRUNED, "rank 3 of 4")]
    action = decide(record_of(*pruned), DOWN, FREE, CLOCK, "another")
    assert (outcome(action), action.reason) == ((Verb.NOTHING, State.PRUNED), "rank 3 of 4")
    assert decided([*pruned, ended(Cause.RETRY)]).verb is Verb.SUBMIT


def test_a_retry_starts_the_counts_again() -> None:
    for cause, count in ((Cause.ERROR, HARD_LIMIT), (Cause.PREEMPTED, SOFT_LIMIT)):
        exhausted = [ended(cause)] * count
        assert decided(exhausted).state is State.FAILED
        assert outcome(decided([*exhausted, ended(Cause.RETRY)])) == (Verb.SUBMIT, State.PENDING)
        assert decided([*exhausted, ended(Cause.RETRY), *exhausted]).state is State.FAILED


def test_a_result_that_no_retry_can_fix_is_final_until_the_user_retries() -> None:
    final = ended(Cause.ERROR, "an input changed since the first attempt", final=True)
    action = decided([final])
    assert (outcome(action), action.reason) == (
        (Verb.NOTHING, State.FAILED),
        "an input changed since the first attempt",
    )
    assert decided([final, ended(Cause.RETRY)]).verb is Verb.SUBMIT


@pytest.mark.parametrize("before", [[], [Cause.ERROR], [Cause.PREEMPTED, Cause.RETRY], [Cause.RUNG]])
def test_diverged_is_final_until_the_user_retries(before: list[Cause]) -> None:
    attempts = [*map(ended, before), ended(Cause.DIVERGED, "loss is NaN", final=True)]
    for answer in (DOWN, Unknown(), QUEUED, ENDED):
        action = decided(attempts, answer)
        assert (outcome(action), action.reason) == ((Verb.NOTHING, State.DIVERGED), "loss is NaN")
        assert action.cause is Cause.DIVERGED
    assert decided([*attempts, ended(Cause.RETRY)]).verb is Verb.SUBMIT
    changed = decide(record_of(*attempts), Unknown(), FREE, CLOCK, "another")
    assert (outcome(changed), changed.reason) == ((Verb.NOTHING, State.BLOCKED), "diverged with another config")


def test_what_has_run_with_another_config_waits_for_the_user() -> None:
    for attempts in ([ended(Cause.PREEMPTED)], [ended(Cause.PREEMPTED), ended(Cause.RETRY)]):
        action = decide(record_of(*attempts), Unknown(), FREE, CLOCK, "another")
        assert (outcome(action), action.reason) == ((Verb.NOTHING, State.BLOCKED), "has run with another config")


def test_what_has_only_been_cancelled_may_change_its_config() -> None:
    only_marks = record_of(ended(Cause.CANCELLED), ended(Cause.RETRY))
    assert decide(only_marks, Unknown(), FREE, CLOCK, "another").verb is Verb.SUBMIT


# -------------------------------------------------------------------------------------------- 8, 9: what it waits for


def test_what_waits_is_pending_and_says_for_what() -> None:
    waiting = Inputs(None, "waits for t, which is in_progress")
    for attempts in ([], [ended(Cause.PREEMPTED)]):
        action = decided(attempts, inputs=waiting)
        assert (outcome(action), action.reason) == ((Verb.NOTHING, State.PENDING), waiting.waiting)
    assert decided([ended(Cause.ERROR)] * 2, inputs=waiting).state is State.FAILED
    nothing_to_come = replace(waiting, hopeless=True, blocked=True)
    assert outcome(decided(inputs=nothing_to_come)) == (Verb.NOTHING, State.BLOCKED)


def test_a_teacher_that_changed_since_attempt_1_is_a_failure() -> None:
    first = replace(ended(Cause.PREEMPTED), opened=replace(OPENED, inputs={"teacher": "a", "other": "x"}))
    same = Inputs({"other": "x", "teacher": "a"})
    assert decided([first], inputs=same).verb is Verb.SUBMIT
    action = decided([first], inputs=Inputs({"teacher": "b", "other": "x"}))
    why = "teacher changed since the first attempt; --retry uses the present one"
    assert (outcome(action), action.reason) == ((Verb.NOTHING, State.FAILED), why)
    assert decided([first, ended(Cause.PREEMPTED)], inputs=same).verb is Verb.SUBMIT, "attempt 1 pins, no later one"


def test_what_waits_for_nothing_and_never_ran_is_submitted() -> None:
    action = decided()
    assert (outcome(action), action.reason) == ((Verb.SUBMIT, State.PENDING), "")


# ---------------------------------------------------------------------------------------------- all conditions together


ATTEMPTS = st.lists(
    st.builds(ended, st.sampled_from(OUTCOMES + [Cause.RETRY]), gained=st.sampled_from([None, False, True])),
    max_size=30,
)
ANSWERS = st.sampled_from([Unknown(), DOWN, QUEUED, RUNNING, ENDED, job(JobState.BLOCKED, "held")])


@given(attempts=ATTEMPTS, answer=ANSWERS, waits=st.booleans(), open_one=st.booleans(), claimed=st.booleans())
def test_an_open_attempt_is_never_skipped_and_a_closed_one_never_closed_again(
    attempts: list[Attempt], answer: Answer, waits: bool, open_one: bool, claimed: bool
) -> None:
    if open_one:
        attempts = [*attempts, Attempt(0, OPENED, HELD if claimed else None)]
    action = decided(attempts, answer, Inputs(None, "waits") if waits else FREE)
    if open_one:
        assert action.verb not in (Verb.SUBMIT, Verb.CLOSE, Verb.VOID), "not in the first pass"
        assert action.state in (State.IN_PROGRESS, State.BLOCKED)
    else:
        assert action.verb in (Verb.SUBMIT, Verb.NOTHING)
        assert action.verb is Verb.SUBMIT or action.state is State.FAILED or action.reason


@given(attempts=ATTEMPTS, more=st.sampled_from(OUTCOMES))
def test_what_has_failed_stays_failed_whatever_is_added_but_a_retry(attempts: list[Attempt], more: Cause) -> None:
    if decided(attempts).state is State.FAILED:
        assert decided([*attempts, ended(more)]).state is State.FAILED
        assert decided([*attempts, ended(Cause.RETRY)]).verb is Verb.SUBMIT


@pytest.mark.parametrize(
    ("state", "properties"),
    [
        (State.PENDING, set()),
        (State.SUBMITTING, {"active"}),
        (State.IN_PROGRESS, {"active"}),
        (State.BLOCKED, {"needs_user", "never_completes"}),
        (State.COMPLETED, {"final", "ended_well"}),
        (State.FAILED, {"final", "needs_user", "never_completes"}),
        (State.CANCELLED, {"final", "needs_user", "never_completes"}),
        (State.PRUNED, {"final", "ended_well", "never_completes"}),
        (State.DIVERGED, {"final", "ended_well", "never_completes"}),
    ],
)
def test_the_properties_of_each_state(state: State, properties: set[str]) -> None:
    names = [name for name, value in vars(State).items() if isinstance(value, property) and not name.startswith("_")]
    assert {name for name in names if getattr(state, name)} == properties

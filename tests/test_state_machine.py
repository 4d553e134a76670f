"""The five invariants hold whatever runners, jobs, scheduler and files do; a weakened protocol is detected."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulation import HOME, Crash, Faults, Process, Thread, World

from roundhouse import files
from roundhouse.config.site import Site
from roundhouse.engine import one_pass, reconcile, run_again, user_actions
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import SchedulerSnapshot
from roundhouse.engine.submit_job import Submitter
from roundhouse.model import evaluate
from roundhouse.model.answers import Identity, Job, JobState
from roundhouse.model.attempt import Attempt, Pin, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources, StartFrom
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import job_group, markers, record

HIDDEN = [record.CLAIM, record.RESULT, record.VERDICT, record.JOB, job_group.JOB_ID]  # files that a pass may not see
HIDDEN += [f"{number}/{record.JOB}" for number in (2, 3, 4)]  # of one attempt, possibly a marker, but not of others
TEACHER = Experiment("r", "teacher", "t/0", "s", {"lr": 0.1})
START = StartFrom("init", "t/0")
STUDENT = Experiment("r", "student", "s/0", "s", {"lr": 0.2}, after={"teacher": ("t/0",)}, start=START)
TASK = Resources(array=True, max_running=1)
TASKS = [Experiment("r", name, f"{name}/0", "s", {}, TASK) for name in "ab"]
TASKS.append(Experiment("r", "c", "c/0", "s", {}, TASK, after={"a": ("a/0",)}))
ELSEWHERE = Identity("slurm", "elsewhere", "me")
STEPS = st.integers(1, 60)
Known = Mapping[Path, Record]  # by the experiment's directory


def memory_folder() -> Path:
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="roundhouse-test-", dir=shared if shared.is_dir() else None))


class Rounds(RuleBasedStateMachine):
    """Two experiments, one of which uses the other as input and starts from it, and everything that can happen."""

    experiments: tuple[Experiment, ...] = (TEACHER, STUDENT)
    outcomes = ("accepted", "accepted", "unclear", "late", "lost", "refused", "limit")
    mutate: Callable[[World], None] = staticmethod(lambda world: None)

    def __init__(self) -> None:
        super().__init__()
        self.root = memory_folder()
        self.world = World(self.root)
        self.world.bend()
        self.undo: list[Callable[[], None]] = []
        self.context = PassContext(self.root, self.root, Site(), self.world.scheduler(), lambda argv: None, "py")
        self.context.script = lambda *_: "#!/bin/bash\n"  # type: ignore[method-assign]
        self.context.shared_script = lambda *given: str(given[4]["tasks"])  # type: ignore[method-assign]
        self.passes: list[Thread] = []
        self.completed: dict[tuple[Path, int], int] = {}  # the attempt, by directory and number of reruns before it
        self.tokens: dict[tuple[Path, int], str] = {}
        self.verdicts: dict[Path, bytes] = {}
        type(self).mutate(self)

    @initialize(
        begun=st.integers(0, 4),
        outcome=st.sampled_from(["accepted", "accepted", "unclear", "late"]),
        array_limit=st.integers(2, 3),
        late_runner=st.none() | st.integers(1, 30),
        data=st.data(),
    )
    def the_round_is_under_way(
        self, begun: int, outcome: str, array_limit: int, late_runner: int | None, data: st.DataObject
    ) -> None:
        self.world.outcome, self.world.array_limit = outcome, array_limit
        if begun and late_runner:
            self.race(late_runner, data.draw(st.sampled_from(self.outcomes)))
        elif begun:
            self.run_pass()
        if begun >= 2 and self.queued():
            self.run_job(self.queued()[0], 8 if begun >= 3 else 2)
            self.run_pass()
        if begun == 4:
            self.user_action("rerun")
        self.world.outcome = "accepted"

    # ------------------------------------------------------------------------------------------ runners

    def run_pass(self) -> PassReport:
        job_group._known.clear()  # each pass is made by another process
        return one_pass.run_pass(self.context, self.experiments)

    def user_action(self, name: str, of: str = "*") -> None:
        statuses = one_pass.run_pass(self.context, self.experiments, act=False).statuses
        chosen = lambda experiment: of in ("*", experiment.path)  # noqa: E731
        if name == "cancel":
            user_actions.cancel(self.context, statuses)
        elif name in ("retry", "retry, named", "keep files"):
            named, keep = name == "retry, named", name == "keep files"
            lines = run_again.retry(statuses, chosen, named=named, keep_files=keep)
            self.what_is_retried_can_run({line.partition(":")[0] for line in lines if "will be retried" in line})
        elif name in ("rerun", "rerun by force"):
            run_again.rerun(statuses, chosen, force=name != "rerun")
        elif name == "accept":
            run_again.accept(statuses, chosen, "me")
        else:
            user_actions.mark_archived(statuses)

    def what_is_retried_can_run(self, paths: set[str]) -> None:
        """A retry is enough after a change of the config."""
        for status in one_pass.run_pass(self.context, self.experiments, act=False).statuses:
            if status.experiment.path in paths:
                blocked = status.action.reason.startswith("has run with another config")
                assert not blocked, f"{status.experiment.path} cannot be retried"

    def under(self, faults: Faults, work: Callable[[], Any]) -> None:
        self.world.faults = faults
        try:
            work()
        except (Crash, OSError):
            pass  # the process is gone, or a user action reported that the disk is full
        finally:
            self.world.faults = Faults()

    @rule()
    def a_good_pass(self) -> None:
        self.run_pass()

    @rule(hide=st.sets(st.sampled_from(HIDDEN)))
    def a_pass(self, hide: set[str]) -> None:
        self.under(Faults(hide=frozenset(hide)), self.run_pass)

    @rule(at=STEPS)
    def a_pass_that_crashes(self, at: int) -> None:
        self.under(Faults(crash_at=at), self.run_pass)

    @rule(at=st.integers(1, 8))
    def a_pass_on_a_full_disk(self, at: int) -> None:
        self.under(Faults(full_at=at), self.run_pass)

    @precondition(lambda self: len(self.passes) < 3)
    @rule(pause=STEPS)
    def a_pass_that_halts_midway(self, pause: int) -> None:
        thread = Thread(self.run_pass, pause)
        thread.proceed()
        if not thread.finished:
            self.passes.append(thread)

    @rule(pause=STEPS)
    def two_runners_at_once(self, pause: int) -> None:
        self.race(pause, self.world.outcome)

    def race(self, pause: int, outcome: str) -> None:
        """One runner halts while another makes its whole pass, and then finds this outcome of what it submits."""
        thread = Thread(self.run_pass, pause)
        thread.proceed()
        self.run_pass()
        self.world.outcome = outcome
        while not thread.finished:
            thread.proceed()

    @precondition(lambda self: self.passes)
    @rule()
    def a_halted_pass_goes_on(self) -> None:
        self.passes.pop(0).proceed()

    @rule(
        seldom=st.integers(0, 5),
        name=st.sampled_from(["cancel", "retry", "retry, named", "archive"]),
        crash=st.none() | STEPS,
    )
    def an_action_of_the_user(self, seldom: int, name: str, crash: int | None) -> None:
        if not name.startswith("retry") and seldom:
            return  # a round that is cancelled early does not reach later states
        self.under(Faults(crash_at=crash), lambda: self.user_action(name))

    @rule(data=st.data(), name=st.sampled_from(["rerun", "rerun by force", "retry", "keep files", "accept"]))
    def an_experiment_is_wanted_again(self, data: st.DataObject, name: str) -> None:
        of = data.draw(st.sampled_from([one.path for one in self.experiments]))
        crash = data.draw(st.none() | STEPS)
        self.under(Faults(crash_at=crash), lambda: self.user_action(name, of))

    @rule(data=st.data(), value=st.integers(0, 1), retried=st.booleans())
    def the_round_file_is_edited(self, data: st.DataObject, value: int, retried: bool) -> None:
        """Passes that have begun still know the old config."""
        edited = data.draw(st.sampled_from(self.experiments))
        changed = replace(edited, config={**edited.config, "new": value})
        self.experiments = tuple(changed if one is edited else one for one in self.experiments)
        if retried:
            self.user_action("retry", edited.path)

    @rule(damage=st.sampled_from(["delete", "truncate", "roll back"]))
    def status_files_are_lost(self, damage: str) -> None:
        for path in self.root.rglob(record.STATUS):
            if damage == "delete":
                path.unlink()
            else:
                path.write_text(
                    '{"version": 1, "state": "pend' if damage == "truncate" else '{"version": 1, "state": "pending"}'
                )

    # ------------------------------------------------------------------------------------------ scheduler

    @rule(data=st.data())
    def submissions_will_be(self, data: st.DataObject) -> None:
        self.world.outcome = data.draw(st.sampled_from(self.outcomes))

    @rule(fails=st.booleans())
    def queries_will_fail(self, fails: bool) -> None:
        self.world.query_fails = fails

    @rule(identity=st.sampled_from([HOME, HOME, HOME, ELSEWHERE]))
    def another_scheduler_answers(self, identity: Identity) -> None:
        self.world.identity = identity

    @rule(seconds=st.sampled_from([20, 61, 130, 200, 6000]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    @precondition(lambda self: self.queued())
    @rule(data=st.data(), steps=st.integers(1, 4))
    def a_job_starts(self, data: st.DataObject, steps: int) -> None:
        self.run_job(data.draw(st.sampled_from(self.queued())), steps)

    def run_job(self, job: Any, steps: int) -> None:
        process = self.world.start(job)
        for _ in range(steps):
            self.world.step(process)

    @precondition(lambda self: self.queued())
    @rule(data=st.data())
    def a_queued_job_is_dropped(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.queued())).known = False

    @precondition(lambda self: self.living())
    @rule(data=st.data(), orphan=st.booleans(), steps=st.integers(0, 6))
    def a_job_is_started_again(self, data: st.DataObject, orphan: bool, steps: int) -> None:
        """Requeued by the scheduler: with its first incarnation dead, or, cut off from it, alive."""
        job = data.draw(st.sampled_from(self.living())).job
        for process in [one for one in self.living() if one.job is job]:
            if orphan:
                process.stopped = process.ever_stopped = True
            else:
                self.world.vanish(process, None)
        self.world.reconsider(job)
        job.state, job.cause = JobState.QUEUED, None
        if steps:
            self.run_job(job, steps)

    @rule()
    def history_is_forgotten(self) -> None:
        for job in self.world.jobs:
            job.known = job.known and job.state is not JobState.ENDED

    @rule()
    def job_ids_are_used_again(self) -> None:
        self.history_is_forgotten()
        self.world.next_id = 1

    # ------------------------------------------------------------------------------------------ jobs

    def queued(self) -> list[Any]:
        return [job for job in self.world.jobs if job.state is JobState.QUEUED and not job.arrives]

    def living(self) -> list[Process]:
        return [process for process in self.world.processes if process.alive]

    @precondition(lambda self: self.living())
    @rule(data=st.data(), steps=st.integers(1, 6))
    def a_job_goes_on(self, data: st.DataObject, steps: int) -> None:
        process = data.draw(st.sampled_from(self.living()))
        for _ in range(steps):
            self.world.step(process)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), cause=st.sampled_from([None, Cause.WALLTIME, Cause.NODE, Cause.MEMORY]))
    def a_job_vanishes(self, data: st.DataObject, cause: Cause | None) -> None:
        self.world.vanish(data.draw(st.sampled_from(self.living())), cause)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), cause=st.sampled_from([Cause.ERROR, Cause.WALLTIME, Cause.PREEMPTED, Cause.DIVERGED]))
    def a_job_ends_with_a_word(self, data: st.DataObject, cause: Cause) -> None:
        process = data.draw(st.sampled_from(self.living()))
        if not process.stopped:
            self.world.finish(process, cause)

    @precondition(lambda self: self.living())
    @rule(
        data=st.data(),
        guess=st.sampled_from([Cause.ERROR, Cause.WALLTIME, Cause.PREEMPTED]),
        verdict=st.sampled_from([Cause.MEMORY, Cause.NODE, Cause.DELETED]),
        queued=st.booleans(),
        late_runner=st.none() | st.integers(1, 30),
    )
    def a_job_is_ended_from_outside(
        self, data: st.DataObject, guess: Cause, verdict: Cause, queued: bool, late_runner: int | None
    ) -> None:
        """Its shell writes a guess; the scheduler knows why, or queues the job again. Two runners may query it."""
        process = data.draw(st.sampled_from(self.living()))
        if not process.stopped:
            self.world.finish(process, guess, verdict)
            if queued and not any(other.job is process.job for other in self.living()):
                self.world.reconsider(process.job)
                process.job.state, process.job.cause = JobState.QUEUED, None
            if late_runner:
                self.race(late_runner, self.world.outcome)

    @precondition(lambda self: self.queued())
    @rule(data=st.data(), pause=STEPS, verdict=st.sampled_from([Cause.MEMORY, Cause.NODE]))
    def a_job_runs_and_is_ended_while_a_pass_is_under_way(
        self, data: st.DataObject, pause: int, verdict: Cause
    ) -> None:
        """The scheduler's answer from before it started is no evidence about its end."""
        thread = Thread(self.run_pass, pause)
        thread.proceed()
        if queued := self.queued():
            process = self.world.start(data.draw(st.sampled_from(queued)))
            for _ in range(3):
                self.world.step(process)
            if process.alive and process.holds is not None:
                self.world.finish(process, Cause.PREEMPTED, verdict)
        while not thread.finished:
            thread.proceed()

    @precondition(lambda self: self.queued())
    @rule(data=st.data(), cause=st.sampled_from([Cause.MEMORY, Cause.NODE, Cause.DELETED]), late=st.integers(1, 30))
    def a_job_runs_and_two_runners_learn_why_it_ended(self, data: st.DataObject, cause: Cause, late: int) -> None:
        """One of them is late: the scheduler may have changed its answer in between."""
        process = self.world.start(data.draw(st.sampled_from(self.queued())))
        for _ in range(3):
            self.world.step(process)
        if process.alive and process.holds is not None:
            self.world.finish(process, Cause.PREEMPTED, cause)
            self.race(late, self.world.outcome)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), stopped=st.booleans())
    def a_job_is_frozen_or_thawed(self, data: st.DataObject, stopped: bool) -> None:
        process = data.draw(st.sampled_from(self.living()))
        process.stopped = stopped
        process.ever_stopped = process.ever_stopped or stopped

    # ------------------------------------------------------------------------------------------ invariants

    def known(self) -> Known:
        """The records of all experiments now."""
        return {place: record.read(place) for place in map(self.context.directory, self.experiments)}

    @invariant()
    def all_invariants_hold(self) -> None:
        """With records that are read once for all invariants, since reading takes most of the time."""
        known = self.known()
        for holds in self.held:
            holds(self, known)

    def one_attempt_is_open(self, known: Known) -> None:
        for directory, rec in known.items():
            unclosed = [attempt.number for attempt in rec.attempts if not attempt.closed]
            assert len(unclosed) <= 1, f"{directory}: attempts {unclosed} are open at once"
            numbers = [attempt.number for attempt in rec.attempts]
            assert numbers == list(range(1, len(numbers) + 1)), f"{directory}: attempts {numbers}"
            assert not rec.damage and not rec.notes

    def one_writer_per_directory(self, known: Known) -> None:
        for (directory, number), writers in self.world.writers.items():
            assert len(writers) == 1, f"{directory}, attempt {number}: {len(writers)} writers"
            attempt = next(one for one in known[directory].attempts if one.number == number)
            assert attempt.claim is not None, "a writer without a claim"
            assert not attempt.claim.void, "a job started in a void attempt"
            assert attempt.claim.nonce in writers, "the claim is not the writer's"

    def one_submit_per_token(self, known: Known) -> None:
        assert all(count == 1 for count in self.world.submits.values()), "a token was submitted twice"
        for where, tokens in self.world.submitted.items():
            assert len(tokens) == 1, f"{where} was submitted {len(tokens)} times"

    def the_id_of_an_attempt_is_that_of_its_job(self, known: Known) -> None:
        for directory, rec in known.items():
            newest = rec.newest
            for job in self.world.jobs if newest and newest.job_id and not newest.closed else ():
                if job.name == newest.opened.job_name and job.index == (newest.opened.index or 0):
                    assert newest.job_id == job.id, f"{directory} looks for job {newest.job_id}, but has {job.id}"

    def no_job_starts_in_an_attempt_that_is_over(self, known: Known) -> None:
        assert not self.world.late_starts

    def absence_is_no_evidence(self, known: Known) -> None:
        """No job whose heartbeats continue, and that never froze, was given up by a runner."""
        for process in self.living():
            if process.reporting and not process.ever_stopped:
                attempts = known[process.job.directory].attempts
                attempt = next(one for one in attempts if one.number == process.holds)
                assert attempt.result is None, f"closed as {attempt.result} while its job is well"

    def nothing_runs_twice_at_once(self, known: Known) -> None:
        well = [p.job.directory for p in self.living() if p.reporting and not p.ever_stopped]
        assert len(well) == len(set(well))

    def completed_is_final_and_unique(self, known: Known) -> None:
        """Between two reruns."""
        for directory, rec in known.items():
            reruns, done = 0, dict[int, list[int]]()
            for attempt in rec.attempts:
                reruns += attempt.opened.mark is Cause.RERUN
                if attempt.cause is Cause.COMPLETED:
                    done.setdefault(reruns, []).append(attempt.number)
            for era in range(reruns + 1):
                numbers, before = done.get(era, []), self.completed.get((directory, era))
                assert len(numbers) <= 1, f"{directory}: attempts {numbers} have completed"
                assert before is None or numbers == [before], f"{directory} was completed and is not any more"
                if numbers:
                    self.completed[directory, era] = numbers[0]

    def no_number_is_used_twice(self, known: Known) -> None:
        for directory, rec in known.items():
            for attempt in rec.attempts:
                first = self.tokens.setdefault((directory, attempt.number), attempt.opened.token)
                assert first == attempt.opened.token, f"{directory}: number {attempt.number} was used twice"

    def attempts_have_the_config_and_inputs_that_are_pinned(self, known: Known) -> None:
        """Those of the last marker that pins them, and all the same until the next one."""
        for directory, rec in known.items():
            pinned: tuple[Any, Any] = (None, None)
            for attempt in rec.attempts:
                pin, own = attempt.opened.pin, attempt.opened.identity
                if pin is not None:
                    pinned = (pin.config_hash, pin.inputs)
                elif attempt.opened.mark is None:
                    fits = all(one in (None, mine) for one, mine in zip(pinned, own, strict=True))
                    assert fits, f"{directory}: attempt {attempt.number} has another config, or other inputs"
                    pinned = own

    def diverged_is_final_until_a_retry(self, known: Known) -> None:
        for directory, rec in known.items():
            final = False
            for attempt in rec.attempts:
                assert not final or attempt.opened.mark is not None, f"{directory} ran again after it had diverged"
                final = (final or attempt.cause is Cause.DIVERGED) and attempt.opened.mark is not Cause.RETRY

    def a_verdict_is_a_reason_and_no_more(self, known: Known) -> None:
        """It corrects the guess of an attempt that is closed, never completes one, and never changes."""
        for directory, rec in known.items():
            for attempt in rec.attempts:
                verdict = attempt.verdict
                if verdict is None:
                    continue
                assert attempt.result is not None, f"{directory}: attempt {attempt.number} is open, with a verdict"
                assert attempt.result.guess, f"{directory}: attempt {attempt.number} was no guess"
                assert attempt.cause is verdict.cause and attempt.cause is not Cause.COMPLETED
                path = record.attempt_directory(directory, attempt.number) / record.VERDICT
                if b'"attempts"' not in path.read_bytes():  # otherwise it was compacted
                    before = self.verdicts.setdefault(path, path.read_bytes())
                    assert before == path.read_bytes(), f"{directory}: the verdict on attempt {attempt.number} changed"

    def a_verdict_is_what_the_scheduler_says(self, known: Known) -> None:
        for directory, rec in known.items():
            for attempt in rec.attempts:
                place = record.attempt_directory(directory, attempt.number)
                if attempt.verdict is not None and place in self.world.verdicts:
                    expected = self.world.verdicts[place]
                    assert attempt.verdict.cause is expected, (
                        f"{place}: {attempt.verdict} but the scheduler says {expected}"
                    )

    def no_attempt_is_submitted_before_the_verdict(self, known: Known) -> None:
        assert not self.world.early, f"{self.world.early}: submitted before the verdict on the attempt before"

    held: tuple[Callable[[Any, Known], None], ...] = (
        one_attempt_is_open,
        one_writer_per_directory,
        one_submit_per_token,
        the_id_of_an_attempt_is_that_of_its_job,
        no_job_starts_in_an_attempt_that_is_over,
        absence_is_no_evidence,
        nothing_runs_twice_at_once,
        completed_is_final_and_unique,
        diverged_is_final_until_a_retry,
        no_number_is_used_twice,
        attempts_have_the_config_and_inputs_that_are_pinned,
        a_verdict_is_a_reason_and_no_more,
        a_verdict_is_what_the_scheduler_says,
        no_attempt_is_submitted_before_the_verdict,
    )

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            for thread in self.passes:
                while not thread.finished:
                    thread.proceed()
            for undo in self.undo:
                undo()
            self.world.unbend()
            shutil.rmtree(self.root, ignore_errors=True)

    def has_ended(self, status: ExperimentStatus) -> bool:
        return status.action.state.final or status.action.state.needs_user or status.inputs.hopeless

    def everything_ends(self) -> None:
        """From now on nothing fails: then every experiment reaches an end, and reports which."""
        world = self.world
        world.query_fails, world.outcome = False, "accepted"
        for process in self.living():
            process.stopped = False
        states: dict[str, Any] = {}
        for turn in range(80):
            while self.passes:
                self.passes.pop().proceed()
            world.identity = ELSEWHERE if turn % 2 else HOME  # a pass on either cluster, in turn
            report = self.run_pass()
            states = {status.experiment.path: status.action for status in report.statuses}
            elsewhere = any("its jobs belong to" in status.action.reason for status in report.statuses)
            if all(map(self.has_ended, report.statuses)) and not elsewhere:
                break
            world.advance(700)
            for job in self.queued():
                world.start(job)
            for process in self.living():
                for _ in range(8):
                    world.step(process)
            known = self.known()
            self.one_attempt_is_open(known)
            self.one_writer_per_directory(known)
        else:
            raise AssertionError(f"no end is reached: {states}")
        known = self.known()
        for path, action in states.items():
            attempts = known[self.root / "r" / path].attempts
            done = [one.number for one in attempts if one.cause is Cause.COMPLETED]
            rerun = [one.number for one in attempts if one.opened.mark is Cause.RERUN]
            new = bool(done) and max(done) > max(rerun, default=0)
            assert action.state is not State.COMPLETED or new, f"{path} is completed by a result from before its rerun"
        self.completed_is_final_and_unique(known)
        self.one_submit_per_token(known)


class Arrays(Rounds):
    """Three experiments that are submitted as tasks of arrays, as far as the limits allow."""

    experiments = tuple(TASKS)
    outcomes = (*Rounds.outcomes, "limit for arrays", "too large", "too large")


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int = 60, phases: Any = None) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            print_blob=False,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=phases or (Phase.generate, Phase.shrink),
        ),
    )


def test_the_invariants_hold_in_every_state() -> None:
    run(Rounds, examples=250)


def test_the_invariants_hold_for_the_tasks_of_arrays() -> None:
    run(Arrays, examples=250)


def takeover(machine: Any) -> None:
    """A job that finds its attempt claimed takes the claim over."""
    machine.world.takeover = True


def no_void(machine: Any) -> None:
    """A runner gives up an attempt without a known job, and does not take its claim."""
    real = record.void

    def void(directory: Path, number: int, cause: Cause, why: str, **more: Any) -> bool:
        give_up = record.close if cause is Cause.UNCLAIMED else real
        return give_up(directory, number, cause, why)

    record.void = void  # type: ignore[assignment]
    machine.undo.append(lambda: setattr(record, "void", real))


def shared_open(machine: Any) -> None:
    """Opening an attempt does not exclude others."""
    bent = files.create_exclusive

    def create(path: Path, value: Any) -> bool:
        if path.name != record.JOB:
            return bool(bent(path, value))
        files.replace(path, files.dump(value))
        return True

    files.create_exclusive = create


def every_task_runs(machine: Any) -> None:
    """A task of an array runs its experiment even if another runner has opened the attempt."""
    real = Submitter._open_task

    def open_task(self: Submitter, row: ExperimentStatus, index: int, shared: Path) -> str:
        return real(self, row, index, shared) or record.new_token()

    Submitter._open_task = open_task  # type: ignore[method-assign]
    machine.undo.append(lambda: setattr(Submitter, "_open_task", real))


def task_for_array(machine: Any) -> None:
    """The ID of the task that is found first is written down as that of the array."""
    real = job_group.array_id
    job_group.array_id = lambda job_id: job_id
    machine.undo.append(lambda: setattr(job_group, "array_id", real))


def verdict_on_open_attempts(machine: Any) -> None:
    """A verdict is recorded as soon as the job has ended, whether its attempt is closed by a guess or not."""
    real = evaluate.decide

    def decide(rec: Record, answer: Any, *rest: Any) -> Action:
        newest = rec.newest
        if newest and not newest.closed and isinstance(answer, Job) and answer.state is JobState.ENDED and answer.cause:
            return Action(Verb.VERDICT, State.PENDING, "", answer.cause)
        return real(rec, answer, *rest)

    evaluate.decide = decide
    machine.undo.append(lambda: setattr(evaluate, "decide", real))


def verdict_replaced(machine: Any) -> None:
    """A later verdict replaces the first."""
    bent = files.create_exclusive

    def create(path: Path, value: Any) -> bool:
        if path.name != record.VERDICT:
            return bool(bent(path, value))
        files.replace(path, files.dump(value))
        return True

    files.create_exclusive = create


def answers_of_before(machine: Any) -> None:
    """An answer counts for an attempt that has ended since."""
    real = reconcile.answer_for

    def answer_for(attempt: Attempt | None, before: Attempt | None, seen: SchedulerSnapshot) -> Any:
        return real(attempt, attempt if before and attempt and before.number == attempt.number else before, seen)

    reconcile.answer_for = answer_for
    machine.undo.append(lambda: setattr(reconcile, "answer_for", real))


def no_wait_for_the_verdict(machine: Any) -> None:
    """The next attempt is opened at once, whatever the scheduler reports."""
    real = Attempt.awaits_verdict
    Attempt.awaits_verdict = property(lambda self: False)  # type: ignore[method-assign, assignment]
    machine.undo.append(lambda: setattr(Attempt, "awaits_verdict", real))


def diverged_is_an_error(machine: Any) -> None:
    """An experiment that has diverged is submitted again, as after an error."""
    real = evaluate.decide

    def decide(rec: Record, answer: Any, *rest: Any) -> Action:
        newest = rec.newest
        if newest and newest.result and newest.result.cause is Cause.DIVERGED:
            failed = replace(newest, result=Result(Cause.ERROR))
            rec = replace(rec, attempts=(*rec.attempts[:-1], failed))
        return real(rec, answer, *rest)

    evaluate.decide = decide
    machine.undo.append(lambda: setattr(evaluate, "decide", real))


def numbers_from_the_beginning(machine: Any) -> None:
    """A rerun moves the old attempts away and counts from 1 again."""
    real = run_again.mark

    def mark(rec: Record, experiment: Experiment, cause: Cause, why: str, **more: Any) -> bool:
        if cause is not Cause.RERUN:
            return real(rec, experiment, cause, why, **more)
        shutil.rmtree(rec.directory / record.ATTEMPTS)
        (rec.directory / record.HISTORY).unlink(missing_ok=True)
        return real(Record(rec.directory), experiment, cause, why, **more)

    run_again.mark = mark
    machine.undo.append(lambda: setattr(run_again, "mark", real))


def old_result_counts(machine: Any) -> None:
    """A result from before the rerun makes the experiment completed."""
    real = Record.completed
    Record.completed = property(lambda self: next(iter(self.results), None))  # type: ignore[method-assign, assignment]
    machine.undo.append(lambda: setattr(Record, "completed", real))


def nothing_is_pinned(machine: Any) -> None:
    """An attempt has the config and inputs of the moment, whatever has run before."""
    real = Record.pin
    Record.pin = property(lambda self: Pin())  # type: ignore[method-assign, assignment]
    machine.undo.append(lambda: setattr(Record, "pin", real))


def retry_without_pin(machine: Any) -> None:
    """A retry does not say which config the attempts after it have."""
    real = run_again.mark

    def mark(rec: Record, experiment: Experiment, cause: Cause, why: str, **more: Any) -> bool:
        return markers.mark(rec, experiment, cause, why)

    run_again.mark = mark
    machine.undo.append(lambda: setattr(run_again, "mark", real))


@pytest.mark.parametrize(
    ("machine", "weaken", "message"),
    [
        (Rounds, takeover, "writers|not the writer's|open at once"),
        (Rounds, no_void, "late_starts"),
        (Rounds, shared_open, "was submitted 2 times"),
        (Arrays, every_task_runs, "was submitted 2 times"),
        (Arrays, task_for_array, "looks for job"),
        (Rounds, verdict_on_open_attempts, "is open, with a verdict|no end is reached"),
        (Rounds, verdict_replaced, "the verdict on attempt . changed"),
        (Rounds, no_wait_for_the_verdict, "submitted before the verdict"),
        (Rounds, diverged_is_an_error, "ran again after it had diverged"),
        (Rounds, answers_of_before, "but the scheduler says|submitted before the verdict"),
        (Rounds, numbers_from_the_beginning, "used twice|is completed by a result|is not any more|in a void attempt"),
        (Rounds, old_result_counts, "by a result from before its rerun"),
        (Rounds, nothing_is_pinned, "has another config, or other inputs"),
        (Rounds, retry_without_pin, "cannot be retried"),
    ],
)
def test_a_weaker_protocol_is_found_out(machine: type[Rounds], weaken: Callable[[Any], None], message: str) -> None:
    class Weak(machine):  # type: ignore[misc, valid-type]
        mutate = staticmethod(weaken)

    with pytest.raises(AssertionError, match=message):
        run(Weak, examples=4000, phases=(Phase.generate,))  # it ends with the first that fails

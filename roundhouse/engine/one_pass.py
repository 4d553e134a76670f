"""One pass over a round: query the scheduler, evaluate, update the records, submit, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from roundhouse import files
from roundhouse.engine import allocations
from roundhouse.engine.context import PassContext
from roundhouse.engine.reconcile import MOST_STEPS, Reconciler
from roundhouse.engine.removed import removed_experiments
from roundhouse.engine.report import PassReport
from roundhouse.engine.scheduler_snapshot import (
    NOT_QUERIED,
    SchedulerSnapshot,
    is_open_question,
    query_scheduler,
    stale_jobs,
)
from roundhouse.engine.submit import Submissions
from roundhouse.engine.submit_job import Submitter
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evaluation, completed, evaluate
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Clock
from roundhouse.model.removed import compare_with_round, evaluate_removed
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.archive import Archive, make_directory


def run_pass(
    context: PassContext,
    experiments: Sequence[Experiment],
    *,
    act: bool = True,
    limit: int | None = None,
    only: Callable[[Experiment], bool] = lambda experiment: True,
) -> PassReport:
    """Evaluate all experiments, act on those chosen by `only`, submit at most `limit` jobs.

    Experiments that have a record but are not among `experiments` are reported apart: their open attempts are closed,
    and none is opened. Without `act`, nothing is changed: the report says what a pass would do.
    """
    unlisted = _removed(context, experiments)
    before = {one.path: record.read(context.directory(one)) for one in [*experiments, *unlisted]}
    relevant = [before[one.path] for one in experiments]
    relevant += [rec for one in unlisted if (rec := before[one.path]).newest and is_open_question(rec.newest)]
    snapshot, clock = _query(context, experiments, relevant, act)
    report = PassReport(clock=clock, query_time=snapshot.took)
    if snapshot.error and snapshot is not NOT_QUERIED:
        report.blind = True
        report.trouble.append(f"the scheduler could not be queried, so nothing was changed: {snapshot.error}")
    reconciler = Reconciler(context, snapshot, clock, report, dict(before))
    chosen = [one.path for one in experiments if only(one)]
    statuses = evaluate(experiments, reconciler.evidence)
    unlisted = list(filter(only, unlisted))
    removed = evaluate_removed(unlisted, reconciler.evidence)
    for _ in range(MOST_STEPS if act else 0):
        if not reconciler.carry_out([*(statuses[path] for path in chosen), *removed]):
            break
        statuses = evaluate(experiments, reconciler.evidence, completed(statuses))
        removed = evaluate_removed(unlisted, reconciler.evidence)
    if act and not snapshot.error:
        _delete_jobs(context, reconciler, before, [*statuses.values(), *removed])
    submissions = Submissions(Submitter(context, snapshot, report, act), clock, list(statuses.values()))
    changed = {one.experiment.path: one for one in submissions.submit([statuses[path] for path in chosen], limit)}
    evaluation = Evaluation(experiments, reconciler.evidence, statuses | changed)
    evaluation.update_dependents([path for path, one in changed.items() if one.action.cause is Cause.SITE])
    report.statuses = [evaluation.statuses[path] for path in chosen]
    report.removed = compare_with_round(removed, evaluation.statuses)
    for status in [*report.statuses, *removed] if act else ():
        reconciler.refresh(status)
    report.trouble += [
        f"{one.experiment.path}: {one.record.damage}" for one in report.statuses if not one.record.readable
    ]
    return report


def _removed(context: PassContext, experiments: Sequence[Experiment]) -> list[Experiment]:
    names = dict.fromkeys(one.round for one in experiments)
    return [found for name in names for found in removed_experiments(name, context.experiments / name, experiments)]


def _query(
    context: PassContext, experiments: Sequence[Experiment], records: Sequence[Record], act: bool
) -> tuple[SchedulerSnapshot, Clock]:
    """The scheduler's answer, and the time at which it was read. A compacted round needs neither."""
    if all(rec.compacted for rec in records):
        return NOT_QUERIED, Clock(0.0, 0.0, 0.0)
    if act:
        context.experiments.mkdir(parents=True, exist_ok=True)
        for name in {experiment.round for experiment in experiments}:
            make_directory(Archive.of(name, context.experiments, context.analysis or context.repository / "analysis"))
    snapshot = query_scheduler(context.scheduler, context.run, records)
    return snapshot, Clock(_now(context, act), context.scheduler.grace, context.submission_delay, context.backoff)


def _now(context: PassContext, act: bool) -> float:
    """The file server's time, for which a file is created there; where a call may only read, the time of this host."""
    try:
        return files.server_time(context.experiments)
    except OSError as error:
        if act or isinstance(error, NotADirectoryError):
            raise
        return time.time()


def _delete_jobs(
    context: PassContext,
    reconciler: Reconciler,
    before: Mapping[str, Record],
    statuses: Sequence[ExperimentStatus],
) -> None:
    """Delete the jobs of cancelled experiments, and queued jobs that have nothing to do any more."""
    snapshot = reconciler.snapshot
    jobs = stale_jobs(before.values(), (status.record for status in statuses), snapshot)
    for name in {status.experiment.round for status in statuses}:
        jobs += allocations.useless(context.experiments / name, statuses, snapshot)
    if jobs := [*jobs, *reconciler.jobs_to_delete]:
        reconciler.report.trouble += context.scheduler.cancel(context.run, jobs)

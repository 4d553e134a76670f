"""Everything known about one experiment, as text: `--why`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from roundhouse.formatting import abbreviated, date_and_time, duration, walltime
from roundhouse.model.attempt import EPOCH, STEP, Attempt, missing_inputs
from roundhouse.model.experiment import Experiment, changes
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import code_copy, logs
from roundhouse.views import resource_format

PATHS = 12  # dependencies that are listed
CLOCK_SKEW = 60.0  # seconds by which clocks may differ; a file that is later than this has lost its time in a copy
LATEST = 1e11  # seconds since 1970; what is later is not a time


def explain(status: ExperimentStatus, notes: Iterable[str] = ()) -> str:
    """Config, retry policy, dependencies, each attempt with its times, what the next one requests, and the log."""
    experiment, rec, action = status.experiment, status.record, status.action
    round_directory = Path(str(rec.directory).removesuffix(f"/{experiment.path}"))
    lines = [
        f"{experiment.round}/{experiment.path}",
        f"  state     {action.state}{': ' + action.reason if action.reason else ''}",
        f"  config    {', '.join(f'{key}={value}' for key, value in experiment.config.items())}",
        *([f"  command   {shlex.join(experiment.command)}"] if experiment.command else []),
        f"  retries   {resource_format.policy(experiment.retry)}",
        *([f"  time limit {walltime(experiment.time_limit)}"] if experiment.time_limit else []),
        *([f"  selected  {experiment.selection.choice or 'nothing yet'}"] if experiment.selection else []),
        f"  depends on {abbreviated(experiment.dependencies, PATHS) or 'nothing'}",
        *([f"  starts    from {experiment.start}"] if experiment.start else []),
        *_missing(status),
        f"  directory {rec.directory}",
        *(f"  note      {note}" for note in notes),
        *(f"  note      {note}" for note in rec.notes),
        *(f"  code      {line}" for line in code_copy.story(rec, round_directory)),
        *(f"  earlier result: attempt {one.number}, {_ended(one)}" for one in rec.results if one is not rec.completed),
    ]
    for attempt in rec.attempts:
        lines.append(f"  attempt {attempt.number}  {'; '.join(_facts(attempt, experiment))}")
        if times := _times(attempt):
            lines.append(f"             {times}")
    if action.state in (State.PENDING, State.FAILED):
        remarks = resource_format.remarks(experiment.resources, rec.attempts, experiment.retry)
        lines += [f"  note      {remark}" for remark in remarks]
    if action.state is State.PENDING:
        unchanged = ", as in the round file" if status.resources == experiment.resources else ""
        lines.append(f"  next      requests {resource_format.job(status.resources)}{unchanged}")
    if (last := status.shown) and (tail := logs.tail(rec.directory, last.number)):
        lines += [f"  end of the log of attempt {last.number}:", *(f"    {line}" for line in tail.split("\n"))]
    return "\n".join(line.replace("\n", "\\n") for line in lines)


def _missing(status: ExperimentStatus) -> Iterator[str]:
    """The dependencies that the run that is shown does not have."""
    if (shown := status.shown) is None or not status.experiment.partial:
        return
    for group, paths in missing_inputs(status.experiment.after, shown.opened.inputs).items():
        yield f"  without   {abbreviated(paths, PATHS)} of group {group}, in attempt {shown.number}"


def _ended(attempt: Attempt) -> str:
    at = attempt.result.at if attempt.result else 0.0
    return f"completed {date_and_time(at)} UTC" if 0 < at < LATEST else "completed"


def _facts(attempt: Attempt, experiment: Experiment) -> Iterator[str]:
    """What is known of one attempt, except its times."""
    if attempt.opened.mark is not None:
        yield f"marker: {attempt.opened.mark} ({attempt.why})"
        if attempt.opened.ran is not None and (found := changes(attempt.opened.ran, experiment.identity())):
            yield f"what ran before had another config: {found}"
        if attempt.opened.keep_files:
            yield "the attempts after it may resume from its files (--keep-files), so the result is approximate"
        return
    scheduler = attempt.opened.scheduler
    yield f"job {attempt.job_id or '(no ID known)'} of {scheduler.get('kind')} on {scheduler.get('server')}"
    if increased := resource_format.changes(attempt.opened.resources):
        yield increased
    if attempt.claim and not attempt.claim.void:
        yield f"started on {attempt.claim.host or 'an unknown host'}"
    if progress := attempt.progress:
        yield from (f"{unit} {done}" for unit in (EPOCH, STEP) if (done := str(progress.counter(unit))))
        if experiment.time_limit and progress.time_used:
            yield f"time used {walltime(round(progress.time_used))} of {walltime(experiment.time_limit)}"
        if progress.gpu_use:
            yield progress.gpu_use.text
    if attempt.closed:
        yield f"ended: {attempt.cause}{f' ({attempt.why})' if attempt.why else ''}"
        if attempt.result and attempt.result.cause is not attempt.cause:
            yield f"the job itself recorded {attempt.result.cause} ({attempt.result.why})"
        return
    if attempt.gone_at is not None:
        slot = ", or no longer in its slot of the allocation" if attempt.opened.packed else ""
        yield f"not found by the last query of the scheduler{slot}"
    yield "open"
    if attempt.opened.answer and attempt.job_id is None:
        yield f"the scheduler's answer to its submission: {attempt.opened.answer}"


def _times(attempt: Attempt) -> str:
    """When it was submitted, started and ended, in UTC, and how long it ran, as far as that is known.

    Of a job that left no result, only the last heartbeat is known, and when a pass closed the attempt.
    """
    opened, claim, result = attempt.opened.at, attempt.claim, attempt.result
    if attempt.opened.mark is not None:
        return f"set {date_and_time(opened)} UTC" if 0 < opened < LATEST else ""
    by_job = result is not None and result.by_job
    started = claim.started if claim and not claim.void else 0.0
    ended = result.at if result else claim.started if claim and claim.void else 0.0
    heartbeat = 0.0 if by_job else attempt.progress_at or 0.0
    moments = {
        "submitted": opened if opened <= (started or ended or LATEST) + CLOCK_SKEW else 0.0,
        "started": started,
        "last heartbeat": heartbeat if heartbeat <= (ended or LATEST) + CLOCK_SKEW else 0.0,
        "ended" if by_job else "closed": ended,
    }
    known = [f"{event} {date_and_time(at)}" for event, at in moments.items() if 0 < at < LATEST]
    ran = f"; ran {duration(ended - started)}" if by_job and 0 < started <= ended < LATEST else ""
    return f"{', '.join(known)} UTC{ran}" if known else ""

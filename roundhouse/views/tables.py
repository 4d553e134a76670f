"""What a person sees: rows as dictionaries, tables, a summary, the story of one experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.formatting import counted, date_and_time, number
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State, Verb
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.store import code_copy, logs
from roundhouse.views import eta, resource_format

if TYPE_CHECKING:
    from rich.table import Table

MANY = 60  # experiments above which a table shows groups, and single rows only for what needs attention
LONG = 24  # characters of a reason above which it is told once for rows below each other
LISTED = 12  # paths, or lines of one kind, that are told in one place
SKEW = 60.0  # seconds by which clocks may differ; a file that is later has lost its own time in a copy
LATEST = 1e11  # seconds since 1970: what is beyond is no time

_STYLE = {
    State.COMPLETED: "green",
    State.IN_PROGRESS: "cyan",
    State.SUBMITTING: "cyan",
    State.PENDING: "dim",
    State.PRUNED: "dim green",
    State.BLOCKED: "yellow",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
}


_BY_MARK = (State.CANCELLED, State.PRUNED)  # states whose moment is that of a mark


def status_of(row: ExperimentStatus) -> dict[str, Any]:
    """The content of status.json, its time apart."""
    attempt = row.shown
    told = as_dict(row)
    for now in ("job_state", "goes_on"):  # what only a look at all of the round, and at the scheduler, can tell
        del told[now]
    told["scheduler"] = dict(attempt.opened.scheduler) if attempt else None
    told["notes"] = list(row.record.notes)
    told["attempts"] = [
        {
            "number": one.number,
            "job_id": one.job_id,
            "cause": str(one.cause) if one.cause else None,
            "why": one.why,
            "code": one.opened.code,
        }
        for one in row.record.attempts
    ]
    return told


def as_dict(row: ExperimentStatus) -> dict[str, Any]:
    """One object of `--status --json`."""
    attempt = row.shown
    progress = _progress(row.record)
    cause = row.action.cause or (attempt.cause if attempt and attempt.closed else None)
    return {
        "path": row.experiment.path,
        "state": str(row.action.state),
        "since": _since(row),
        "goes_on": goes_on(row),
        "attempt": attempt.number if attempt else None,
        "job_id": attempt.job_id if attempt else None,
        "job_state": row.job_state,
        "epoch": progress.epoch if progress else None,
        "epochs": progress.epochs if progress else None,
        "metric": progress.metric if progress else None,
        "best": progress.best if progress else None,
        "metric_name": progress.metric_name if progress else None,
        "cause": str(cause) if cause else None,
        "reason": row.action.reason,
        "code": attempt.opened.code if attempt else None,
    }


def _since(row: ExperimentStatus) -> float | None:
    """Since when it is so; None where no attempt accounts for the state: before the first, and between two."""
    attempt = row.record.newest if row.action.state in _BY_MARK else row.shown
    return attempt.since if attempt and row.action.state is not State.PENDING else None


def _progress(rec: Record) -> Any:
    """The furthest that any attempt has come, the newest first."""
    if rec.completed:
        return rec.completed.progress
    return next((one.progress for one in reversed(rec.attempts) if one.progress), None)


def table(rows: Sequence[ExperimentStatus]) -> Table:
    """The table at the end of a pass. A large round is told by group, with rows for what needs a person."""
    from rich.table import Table
    from rich.text import Text

    if len(rows) > MANY:
        attention = (State.FAILED, State.BLOCKED)
        rows = [row for row in rows if row.action.state in attention and not row.refusal][:MANY]
    told = [as_dict(row) for row in rows]
    metrics = {one["metric_name"] for one in told} - {None}
    columns = {
        "experiment": [one["path"] for one in told],
        "state": [Text(one["state"], style=_STYLE[row.action.state]) for one, row in zip(told, rows, strict=True)],
        "attempt": [str(one["attempt"] or "") for one in told],
        "job": [_job(row, one) for row, one in zip(rows, told, strict=True)],
        "epoch": [f"{one['epoch']}/{one['epochs']}" if one["epochs"] else "" for one in told],
        " ".join(["best", *metrics]) if len(metrics) == 1 else "best": [number(one["best"]) for one in told],
        "reason": _reasons(rows),
    }
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    shown = {heading: cells for heading, cells in columns.items() if any(map(str, cells))}
    for heading in shown:
        wide = heading in ("experiment", "reason")
        right = heading not in ("experiment", "state", "job", "reason")
        drawn.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=not wide)
    for cells in zip(*shown.values(), strict=True):
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return drawn


def _reasons(rows: Sequence[ExperimentStatus]) -> list[str]:
    """Why each has its state. A reason that rows below each other share is shown once.

    A reason that needs a person is shown in full for each, unless it stands below the table too.
    """
    alike = (State.PENDING, State.SUBMITTING, State.IN_PROGRESS)
    waiting = [row.action.reason if row.action.state in alike or row.refusal else "" for row in rows]
    return [
        "(as above)" if len(reason) > LONG and reason == above else row.action.reason
        for row, above, reason in zip(rows, ["", *waiting], waiting, strict=False)
    ]


def _job(row: ExperimentStatus, told: Mapping[str, Any]) -> str:
    """The job's ID and state, while they say something: those of this machine are named by tokens."""
    attempt = row.shown
    if row.action.state is State.COMPLETED or attempt is None or attempt.opened.scheduler.get("kind") == "local":
        return ""
    return " ".join(part for part in (told["job_id"], told["job_state"]) if part)


def groups(rows: Sequence[ExperimentStatus]) -> Table:
    """Counts of states by group, for rounds too large to list."""
    from rich.table import Table

    counts: dict[str, Counter[State]] = {}
    for row in rows:
        counts.setdefault(row.experiment.group, Counter())[row.action.state] += 1
    states = [state for state in State if any(count[state] for count in counts.values())]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("group")
    for state in states:
        drawn.add_column(str(state), justify="right", style=_STYLE[state])
    for group, count in counts.items():
        drawn.add_row(group, *(str(count[state] or "") for state in states))
    return drawn


def summary(name: str, rows: Sequence[ExperimentStatus], of: int) -> str:
    """One line: how the round stands, or those of its `of` experiments that were chosen."""
    counts = Counter(row.action.state for row in rows)
    if rows and counts[State.COMPLETED] == len(rows):
        chosen = f"all {of}" if len(rows) == of else f"the {len(rows)} chosen of {of}"
        return f"Round {name}: {chosen} experiments are completed."
    parts = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return f"Round {name}: {len(rows)}{f' chosen of {of}' if len(rows) != of else ''} experiments: {parts or 'none'}."


def prospect(row: ExperimentStatus) -> str:
    """What a pass would do about one experiment, for what resources, and what it waits for: a line of `--dry-run`."""
    action = row.action
    step = action.state if action.verb is Verb.NOTHING else action.verb.value
    if row.refusal:  # told once for all that it concerns
        waited_for = [path for paths in row.experiment.after.values() for path in paths]
        why = f"waits for {', '.join(waited_for)}" if waited_for else ""
    else:
        why = action.reason
    return f"{step:12} {row.experiment.path} ({resource_format.job(row.resources)}){f': {why}' if why else ''}"


def refusals(rows: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each thing that keeps experiments from starting, however many it keeps."""
    kept: dict[str, list[str]] = {}
    for row in rows:
        if row.refusal:
            kept.setdefault(row.refusal, []).append(row.experiment.path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} cannot start: {refusal}"
        for refusal, paths in kept.items()
    ]


def limits(rows: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each limit that holds experiments back, in the words of whoever set it."""
    held = Counter(row.action.reason for row in rows if row.action.cause is Cause.LIMIT)
    return [f"{counted(count, 'experiment')} held back: {reason}" for reason, count in held.items()]


def story(row: ExperimentStatus) -> str:
    """Everything known about one experiment: `--why`."""
    rec = row.record
    choice = row.experiment.selection
    waits_for = [path for paths in row.experiment.after.values() for path in paths]
    lines = [
        f"{row.experiment.round}/{row.experiment.path}",
        f"  state     {row.action.state}{': ' + row.action.reason if row.action.reason else ''}",
        f"  config    {', '.join(f'{key}={value}' for key, value in row.experiment.config.items())}",
        f"  retries   {resource_format.policy(row.retry)}",
        *([f"  selected  {choice.choice or 'nothing yet'}"] if choice else []),
        f"  {'waited for' if row.shown else 'waits for'} {_listed(waits_for) or 'nothing'}",
        f"  directory {rec.directory}",
    ]
    lines += [f"  note      {note}" for note in rec.notes]
    round_directory = Path(str(rec.directory).removesuffix(f"/{row.experiment.path}"))
    lines += [f"  code      {line}" for line in code_copy.story(rec, round_directory)]
    for attempt in rec.attempts:
        lines.append(f"  attempt {attempt.number}  {_told(attempt)}")
        if times := _times(attempt):
            lines.append(f"             {times}")
    if row.action.state in (State.PENDING, State.FAILED):
        said = row.experiment.resources
        lines += [f"  note      {note}" for note in resource_format.remarks(said, rec.attempts, row.retry)]
        if row.action.state is State.PENDING:
            same = ", as the round file says" if row.resources == said else ""
            lines.append(f"  next      asks for {resource_format.job(row.resources)}{same}")
    last = row.shown
    tail = logs.tail(rec.directory, last.number) if last else ""
    if last and tail:
        lines += [f"  log of attempt {last.number}, its end:", *(f"    {line}" for line in tail.splitlines())]
    return "\n".join(lines)


def _listed(paths: Sequence[str]) -> str:
    """Paths in a line, if they are not too many."""
    more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    return ", ".join(paths[:LISTED]) + more


def choices(rows: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each rank of each selecting group whose choice is made: what was chosen, beside its spread."""
    made = (row.experiment for row in rows)
    lines = dict.fromkeys((one.group, one.selection.choice) for one in made if one.selection and one.selection.choice)
    told = [f"{group}: {choice}" for group, choice in lines]
    return told[:LISTED] + ([f"... and {len(told) - LISTED} more; --why tells"] if len(told) > LISTED else [])


def _told(attempt: Attempt) -> str:
    if attempt.opened.mark is not None:
        return f"a mark, no run: {attempt.opened.mark} ({attempt.why})"
    scheduler: Mapping[str, str] = attempt.opened.scheduler
    parts = [f"job {attempt.job_id or '(none known)'} of {scheduler.get('kind')} on {scheduler.get('server')}"]
    if changed := resource_format.changed(attempt.opened.resources):
        parts.append(changed)
    if attempt.claim and not attempt.claim.void:
        parts.append(f"started on {attempt.claim.host or 'an unknown host'}")
    if attempt.progress and attempt.progress.epochs:
        parts.append(f"epoch {attempt.progress.epoch}/{attempt.progress.epochs}")
    if attempt.gone_at is not None and not attempt.closed:
        parts.append("not seen at the last look")
    if attempt.closed:
        parts.append(f"ended: {attempt.cause}{' (' + attempt.why + ')' if attempt.why else ''}")
        if attempt.result and attempt.result.cause is not attempt.cause:
            parts.append(f"the job itself recorded {attempt.result.cause} ({attempt.result.why})")
    else:
        parts.append("open")
        if attempt.opened.answer and attempt.job_id is None:
            parts.append(f"the answer to its submission: {attempt.opened.answer}")
    return "; ".join(parts)


def _times(attempt: Attempt) -> str:
    """When it was submitted, started and ended, in UTC, and how long it ran, as far as that is known.

    Of a job that left no result only its last sign of life is known, and when a pass closed the attempt.
    """
    opened, claim, result = attempt.opened.at, attempt.claim, attempt.result
    if attempt.opened.mark is not None:
        return f"set {date_and_time(opened)} UTC" if 0 < opened < LATEST else ""
    void = attempt.void and claim is not None
    own = result is not None and result.exit_code is not None  # the job's shell wrote it
    began = claim.started if claim and not void else 0.0
    over = result.at if result else claim.started if claim and void else 0.0
    seen = 0.0 if own else attempt.progress_at or 0.0
    moments = {
        "submitted": opened if opened <= (began or over or LATEST) + SKEW else 0.0,
        "started": began,
        "last sign of life": seen if seen <= (over or LATEST) + SKEW else 0.0,
        "ended" if own else "closed": over,
    }
    told = [f"{what} {date_and_time(at)}" for what, at in moments.items() if 0 < at < LATEST]
    ran = f"; ran {eta.duration(over - began)}" if own and 0 < began <= over < LATEST else ""
    return f"{', '.join(told)} UTC{ran}" if told else ""

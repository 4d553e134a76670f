"""Tables and lines about a round: the status of its experiments, counts by group, refusals, limits, a summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roundhouse.formatting import counted, number
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.terminal import escape
from roundhouse.views import resource_format
from roundhouse.views.status_json import as_dict, shown_progress

if TYPE_CHECKING:
    from rich.table import Table

MANY = 60  # experiments above which a round is shown by group, and only experiments that need the user in rows
LONG = 24  # characters of a reason above which it is shown once for rows below each other
LISTED = 12  # lines of one kind that are printed

_STYLE = {
    State.COMPLETED: "green",
    State.IN_PROGRESS: "cyan",
    State.SUBMITTING: "cyan",
    State.PENDING: "dim",
    State.PRUNED: "dim green",
    State.DIVERGED: "dim red",
    State.BLOCKED: "yellow",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
}


def table(statuses: Sequence[ExperimentStatus]) -> Table:
    """A row per experiment; of a large round, only experiments that need the user."""
    from rich.table import Table
    from rich.text import Text

    if len(statuses) > MANY:
        attention = (State.FAILED, State.BLOCKED)
        statuses = [one for one in statuses if one.action.state in attention and not one.refusal][:MANY]
    values = [as_dict(one) for one in statuses]
    metrics = {one["metric_name"] for one in values} - {None}
    columns = {
        "experiment": [one["path"] for one in values],
        "state": [Text(str(one.action.state), style=_STYLE[one.action.state]) for one in statuses],
        "attempt": [str(one["attempt"] or "") for one in values],
        "job": [_job(status, one) for status, one in zip(statuses, values, strict=True)],
        **_progress(statuses),
        " ".join(["best", *metrics]) if len(metrics) == 1 else "best": [number(one["best"]) for one in values],
        "reason": _reasons(statuses),
    }
    made = Table(box=None, pad_edge=False, header_style="bold")
    filled = {heading: cells for heading, cells in columns.items() if any(map(str, cells))}
    for heading in filled:
        left, wide = heading in ("experiment", "state", "job", "reason"), heading in ("experiment", "reason")
        made.add_column(Text(heading), justify="left" if left else "right", overflow="fold", no_wrap=not wide)
    for row in zip(*filled.values(), strict=True):
        made.add_row(*(cell if isinstance(cell, Text) else Text(escape(cell)) for cell in row))
    return made


def _progress(statuses: Sequence[ExperimentStatus]) -> dict[str, list[str]]:
    """The column of epochs or steps. If the experiments count different units, each cell names its own."""
    reported = [shown_progress(status) for status in statuses]
    cells = [(one.unit, str(one.counter())) if one else ("", "") for one in reported]
    units = {unit for unit, done in cells if done}
    if len(units) == 1:
        return {units.pop(): [done for _, done in cells]}
    return {"progress": [f"{unit} {done}" if done else "" for unit, done in cells]}


def _reasons(statuses: Sequence[ExperimentStatus]) -> list[str]:
    """The reason of each state; a long reason that rows below each other share is shown once.

    A reason that needs the user is shown in each row, unless it is printed below the table as well.
    """
    shared = (State.PENDING, State.SUBMITTING, State.IN_PROGRESS)
    reasons = [one.action.reason if one.action.state in shared or one.refusal else "" for one in statuses]
    return [
        "(as above)" if len(reason) > LONG and reason == above else status.action.reason
        for status, above, reason in zip(statuses, ["", *reasons], reasons, strict=False)
    ]


def _job(status: ExperimentStatus, values: Mapping[str, Any]) -> str:
    """The ID and state of the job, while they matter; local jobs have only tokens."""
    attempt = status.shown
    if status.action.state is State.COMPLETED or attempt is None or attempt.opened.scheduler.get("kind") == "local":
        return ""
    return " ".join(part for part in (values["job_id"], values["job_state"]) if part)


def groups(statuses: Sequence[ExperimentStatus]) -> Table:
    """Counts of states by group, for rounds too large to list."""
    from rich.table import Table
    from rich.text import Text

    counts: dict[str, Counter[State]] = defaultdict(Counter)
    for one in statuses:
        counts[one.experiment.group][one.action.state] += 1
    states = [state for state in State if any(count[state] for count in counts.values())]
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("group")
    for state in states:
        made.add_column(str(state), justify="right", style=_STYLE[state])
    for group, count in counts.items():
        made.add_row(Text(group), *(str(count[state] or "") for state in states))
    return made


def summary(name: str, statuses: Sequence[ExperimentStatus], total: int) -> str:
    """One line with the states of a round, or of those of its `total` experiments that were selected."""
    counts = Counter(one.action.state for one in statuses)
    if statuses and counts[State.COMPLETED] == len(statuses):
        selected = f"all {total}" if len(statuses) == total else f"all {len(statuses)} selected of {total}"
        return f"Round {name}: {selected} experiments are completed."
    parts = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    selected = f" selected of {total}" if len(statuses) != total else ""
    return f"Round {name}: {len(statuses)}{selected} experiments: {parts or 'none'}."


def planned(status: ExperimentStatus) -> str:
    """A line of `--dry-run`: what a pass would do about an experiment, its resource request, and the reason."""
    action, why = status.action, status.action.reason
    step = action.state if action.verb is Verb.NOTHING else action.verb.value
    if status.refusal:  # printed once for all experiments that it concerns
        dependencies = ", ".join(path for paths in status.experiment.after.values() for path in paths)
        why = f"depends on {dependencies}" if dependencies else ""
    return f"{step:12} {status.experiment.path} ({resource_format.job(status.resources)}){f': {why}' if why else ''}"


def refusals(statuses: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each reason for which experiments cannot start, however many they are."""
    counts = Counter(one.refusal for one in statuses if one.refusal)
    first = {one.refusal: one.experiment.path for one in reversed(statuses)}
    more = {refusal: f" and {count - 1} more" if count > 1 else "" for refusal, count in counts.items()}
    return [f"{first[refusal]}{more[refusal]} cannot start: {refusal}" for refusal in counts]


def limits(statuses: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each limit that delays experiments, with the text of the scheduler or site that set it."""
    delayed = Counter(one.action.reason for one in statuses if one.action.cause is Cause.LIMIT)
    return [f"{counted(count, 'experiment')} delayed: {reason}" for reason, count in delayed.items()]


def choices(statuses: Sequence[ExperimentStatus]) -> list[str]:
    """A line for each rank of each selecting group that has made its choice."""
    selections = ((one.experiment.group, one.experiment.selection) for one in statuses)
    made = dict.fromkeys((group, one.choice) for group, one in selections if one and one.choice)
    lines = [f"{group}: {choice}" for group, choice in made]
    return lines[:LISTED] + ([f"... and {len(lines) - LISTED} more: see --why"] if len(lines) > LISTED else [])

"""Progress of a round that runs in the foreground: bars on a terminal, a line for each change anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from roundhouse.formatting import number
from roundhouse.model.attempt import Record
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.views import eta
from roundhouse.views.tables import as_dict

_SILENT = (State.COMPLETED, State.PENDING, State.CANCELLED, State.PRUNED)  # not told when it was so from the start


class Display:
    """Shows rows as they change. A context manager, since it takes the terminal over."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metric]}"),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._live = Live(Group(self._bars), console=self.console, refresh_per_second=4, transient=True)
        self._round: TaskID | None = None
        self._running: dict[str, TaskID] = {}
        self._told: dict[str, tuple[State, int | None]] = {}
        self._refusals: set[str] = set()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def show(self, rows: Sequence[ExperimentStatus], fresh: Callable[[Path], Record] | None = None) -> None:
        """Show how the rows stand; `fresh` reads anew the records of those in progress."""
        for row in rows:
            if row.action.state is State.IN_PROGRESS and fresh is not None:
                row = replace(row, record=fresh(row.record.directory))
            self._tell(row)
            self._draw(row)
        done = sum(row.action.state in (State.COMPLETED, State.PRUNED) for row in rows)
        if self._round is None:
            self._round = self._bars.add_task("[bold]round", total=len(rows), metric="")
        self._bars.update(self._round, completed=done)
        if fresh is None and self.console.is_terminal:
            self._bars.update(self._round, metric=_end(rows))

    def _tell(self, row: ExperimentStatus) -> None:
        """A line when an experiment's state changes, or it starts another attempt."""
        state, path = row.action.state, row.experiment.path
        attempt = row.shown.number if row.shown else None
        known = self._told.get(path)
        self._told[path] = (state, attempt)
        if known is None and state in _SILENT or known == (state, attempt):
            return
        if state in (State.PENDING, State.SUBMITTING) or row.refusal in self._refusals:
            return  # one refusal may concern the whole round, and is told once
        if row.refusal:
            self._refusals.add(row.refusal)
        told = as_dict(row)
        best = f", best {told['metric_name']} {number(told['best'])}" if told["best"] is not None else ""
        started = f" (attempt {attempt})" if state is State.IN_PROGRESS else ""
        reason = f": {told['reason']}" if told["reason"] and state is not State.COMPLETED else ""
        self.say(f"{str(state).replace('_', ' '):11} {path}{started}{best if state is State.COMPLETED else ''}{reason}")

    def _draw(self, row: ExperimentStatus) -> None:
        """A bar for each experiment that runs."""
        path = row.experiment.path
        if row.action.state is not State.IN_PROGRESS or row.record.completed:
            if path in self._running:
                self._bars.remove_task(self._running.pop(path))
            return
        told = as_dict(row)
        if path not in self._running:
            self._running[path] = self._bars.add_task(path, total=None, metric="")
        metric = f"{told['metric_name']} {number(told['metric'])}" if told["metric"] is not None else ""
        self._bars.update(self._running[path], completed=told["epoch"] or 0, total=told["epochs"], metric=metric)


def _end(rows: Sequence[ExperimentStatus]) -> str:
    """When the round may end; empty while that is not known."""
    end = eta.outlook([eta.work_of(row) for row in rows]).end
    return f"ends {eta.when(end, time.time())}" if end and end.usual else ""

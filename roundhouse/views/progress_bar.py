"""Progress of a round on the local machine: bars on a terminal, else a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from roundhouse.formatting import number
from roundhouse.model.attempt import Record
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.views import eta
from roundhouse.views.console import EscapingConsole
from roundhouse.views.status_json import as_dict, shown_progress

_SILENT = (State.COMPLETED, State.PENDING, State.CANCELLED, State.PRUNED, State.DIVERGED)
"""States that are not printed if a round begins with them."""


class Display(Progress):
    """Shows statuses as they change. A context manager, since it controls the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or EscapingConsole()
        name, metric = TextColumn("{task.description}"), TextColumn("{task.fields[metric]}", markup=False)
        columns = name, BarColumn(), MofNCompleteColumn(), metric, TimeElapsedColumn()
        super().__init__(
            *columns, console=console, refresh_per_second=4, transient=True, disable=not console.is_terminal
        )
        self._round = self.add_task("[bold]round", total=None, metric="")
        self._running: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[State, int | None]] = {}
        self._refusals: set[str] = set()

    def say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def show(self, statuses: Sequence[ExperimentStatus], fresh: Callable[[Path], Record] | None = None) -> None:
        """Show the statuses; `fresh` reads the records of those in progress again."""
        for status in statuses:
            if status.action.state is State.IN_PROGRESS and fresh is not None:
                status = replace(status, record=fresh(status.record.directory))
            self._print(status)
            self._draw(status)
        done = sum(status.action.state.ended_well for status in statuses)
        self.update(self._round, completed=done, total=len(statuses))
        if fresh is None and not self.disable:
            end = eta.estimate([eta.workload_of(status) for status in statuses]).end
            self.update(self._round, metric=f"ETA: {eta.when(end, time.time())}" if end and end.usual else "")

    def _print(self, status: ExperimentStatus) -> None:
        """A line when an experiment's state changes, or it starts another attempt."""
        state, path = status.action.state, status.experiment.path
        attempt = status.shown.number if status.shown else None
        before = self._printed.get(path)
        self._printed[path] = (state, attempt)
        if before is None and state in _SILENT or before == (state, attempt):
            return
        if state in (State.PENDING, State.SUBMITTING) or status.refusal in self._refusals:
            return  # one refusal may concern the whole round, and is printed once
        if status.refusal:
            self._refusals.add(status.refusal)
        values = as_dict(status)
        best = f", best {values['metric_name']} {number(values['best'])}" if values["best"] is not None else ""
        started = f" (attempt {attempt})" if state is State.IN_PROGRESS else ""
        reason = f": {values['reason']}" if values["reason"] and state is not State.COMPLETED else ""
        self.say(f"{str(state).replace('_', ' '):11} {path}{started}{best if state is State.COMPLETED else ''}{reason}")

    def _draw(self, status: ExperimentStatus) -> None:
        """A bar for each experiment that runs."""
        path = status.experiment.path
        if status.action.state is not State.IN_PROGRESS or status.record.completed:
            if path in self._running:
                self.remove_task(self._running.pop(path))
            return
        values = as_dict(status)
        if path not in self._running:
            self._running[path] = self.add_task(escape_markup(path), total=None, metric="")
        progress = shown_progress(status)
        shown = list(progress.means.items())[:1] if progress else []
        shown += [(values["metric_name"], values["metric"])] if values["metric"] is not None else []
        metric = ", ".join(f"{name} {number(value)}" for name, value in dict(shown).items())
        done, planned, *_ = progress.counter() if progress else (0, None)
        self.update(self._running[path], completed=done, total=planned, metric=metric)

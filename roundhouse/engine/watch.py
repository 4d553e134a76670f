"""Passes over a round on a cluster, again and again: how long to wait between two, and what is told meanwhile."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from roundhouse.config.round import Round
from roundhouse.engine.report import PassReport
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import number
from roundhouse.model.causes import Cause
from roundhouse.model.plan import VERDICT_WITHIN, Clock, State
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.views import eta, tables
from roundhouse.views.measured import is_running
from roundhouse.views.status_json import as_dict

AT_LEAST = 30.0  # seconds between two passes: many people share the scheduler
SHARE = 5  # so many times as long as the scheduler took to answer, and the whole pass, but for that not beyond AT_MOST
AT_MOST = 600.0  # seconds between two passes while nothing changes
GROWTH = 1.5  # by which the pause grows with each pass that finds nothing new, or fails
AFTER = 1.0  # seconds after the moment at which something is expected
MANY = 20  # changes above which they are counted, not listed

Standing = tuple[State, int | None, str | None]  # state, attempt, job state


class NoPass(Exception):
    """No pass could be made this time; its words say why."""


@dataclass(frozen=True, slots=True)
class Passed:
    """One pass over a round, in `took` seconds, the wait for the lock apart. `code`: the exit code of one such pass.

    `over`: nothing is left to do, or nothing more will happen. `failed`: the scheduler or the disk did.
    """

    round: Round
    report: PassReport
    took: float
    code: int
    over: bool
    failed: bool


@dataclass
class Latest:
    """The round as its file says now; while that cannot be read, as it last was. What is wrong is told once."""

    round: Round
    read: Callable[[], Round]
    wrong: str = ""

    def look(self) -> Round:
        before, self.wrong = self.wrong, ""
        try:
            self.round = self.read()
        except (RoundhouseError, OSError) as error:
            self.wrong = str(error)
            if self.wrong != before:
                print(self.wrong, file=sys.stderr, flush=True)
                say("The round file as it is now cannot be used. Until it is mended, the watch goes on with the last.")
        return self.round


@dataclass
class Watch:
    """Passes until nothing is left to do. Of a pass it remembers how things stood and what was said, and nothing else.

    `one_pass` makes one, or raises NoPass; `show` draws the whole table, at the start and at the end. `every`: a pause
    in seconds, instead of one that follows what happens.
    """

    one_pass: Callable[[], Passed]
    show: Callable[[Passed], None]
    every: float | None = None
    still: int = 0  # passes in a row that found nothing new
    known: dict[str, Standing] | None = None
    said: set[str] | None = None
    code: int = 0

    def run(self, sleep: Callable[[float], None] = time.sleep) -> int:
        """Returns the exit code of the last pass. KeyboardInterrupt: the user has enough."""
        while (pause := self.turn()) is not None:
            gc.collect()
            sleep(pause)
        return self.code

    def turn(self) -> float | None:
        """One pass: seconds to the next, None if it was the last."""
        try:
            passed = self.one_pass()
        except NoPass as words:
            self.still += 1
            pause = pause_for(max(AT_LEAST, self.every or 0.0), self.still)
            say(f"No pass was made: {words}. Next one in {pause:.0f} s.")
            return pause
        first, changed = self.known is None, self._changed(passed)
        self.still = 0 if changed else self.still + 1
        self._tell(passed, changed)
        self.code = passed.code
        if passed.over:
            return None
        pause = pause_after(passed, self.still, self.every)
        say(_next(pause, passed) + " Ctrl-C ends the watch, not the jobs." * first)
        return pause

    def _changed(self, passed: Passed) -> list[ExperimentStatus]:
        """The rows that are not as they were. What was seen without the scheduler is no news."""
        if passed.report.blind and self.known is not None:
            return []
        before, self.known = self.known or {}, {row.experiment.path: _standing(row) for row in passed.report.rows}
        return [row for row in passed.report.rows if before.get(row.experiment.path) != _standing(row)]

    def _tell(self, passed: Passed, changed: Sequence[ExperimentStatus]) -> None:
        report = passed.report
        amiss, held = tables.refusals(report.rows) + report.trouble, tables.limits(report.rows)
        before, self.said = self.said, {*amiss, *held}
        if before is not None:
            _list(changed)
        if before is None or passed.over:
            self.show(passed)
            return
        for line in amiss:
            if line not in before:
                print(line, file=sys.stderr, flush=True)
        for line in held:
            if line not in before:
                say(line)
        if passed.failed:
            say("The pass failed. Nothing was lost.")
        if not report.blind:
            summary = tables.summary(passed.round.name, report.rows, len(passed.round.experiments))
            say(" ".join([summary, *eta.lines(report.rows, time.time())]))


# ---------------------------------------------------------------------------------------------------- how long to wait


def pause_for(least: float, still: int, moments: Iterable[float] = ()) -> float:
    """Seconds until the next pass: `least`, and more with each of `still` passes that found nothing new.

    No more than until something is expected (`moments`, in seconds from now), but in any case `least`.
    """
    grown = min(least * GROWTH ** min(still, 30), AT_MOST)
    soonest = min((moment + AFTER for moment in moments if moment > 0), default=grown)
    return max(least, min(grown, soonest))


def pause_after(passed: Passed, still: int, every: float | None) -> float:
    """Seconds until the pass after this one."""
    least = max(AT_LEAST, min(SHARE * passed.took, AT_MOST), SHARE * passed.report.asking, every or 0.0)
    if passed.failed:
        return pause_for(least, still)
    return least if every is not None else pause_for(least, still, moments(passed.report.rows, passed.report.clock))


def moments(rows: Sequence[ExperimentStatus], clock: Clock) -> Iterator[float]:
    """When something is expected, in seconds from `clock.now`: the end of a job or of a wait. Below 0: it is late."""
    left = eta.left_of([eta.workload_of(row) for row in rows])
    for row in rows:
        newest = row.record.newest
        if newest is None or not goes_on(row):
            continue
        if newest.gone_at is not None and not newest.closed:
            yield newest.gone_at + clock.grace - clock.now
        elif newest.claim is not None and is_running(row):
            yield newest.claim.at + row.experiment.resources.walltime_s - clock.now
            expected = left[row.experiment.path]
            if expected is not None:
                yield (newest.progress_at or newest.claim.at) + expected.usual - clock.now
        elif row.action.state is State.SUBMITTING:
            yield newest.opened.at + clock.settle - clock.now
        elif newest.awaits_verdict:
            yield (newest.result_at or clock.now) + VERDICT_WITHIN - clock.now
        elif newest.cause is Cause.LIMIT and newest.claim is not None:
            yield newest.claim.at + clock.limit_backoff - clock.now


def _next(pause: float, passed: Passed) -> str:
    took, asking = passed.took, passed.report.asking
    long = f": this one took {took:.0f} s, {asking:.0f} of them to ask the scheduler" if SHARE * took >= pause else ""
    return f"Next pass in {pause:.0f} s{long if pause > AT_LEAST else ''}."


# -------------------------------------------------------------------------------------------------------- what is told


def _standing(row: ExperimentStatus) -> Standing:
    return row.action.state, row.shown.number if row.shown else None, row.job_state


def _list(changed: Sequence[ExperimentStatus]) -> None:
    if len(changed) <= MANY:
        for row in changed:
            say(_line(row))
        return
    for (what, group), count in Counter((_state(row), row.experiment.group) for row in changed).items():
        say(f"{what}: {count} of {group}")


def _state(row: ExperimentStatus) -> str:
    state = row.action.state
    return f"{state}, {row.job_state}" if row.job_state and state is State.IN_PROGRESS else str(state)


def _line(row: ExperimentStatus) -> str:
    """How an experiment stands now."""
    told = as_dict(row)
    attempt = f", attempt {told['attempt']}" if (told["attempt"] or 0) > 1 else ""
    best = f", best {told['metric_name']} {number(told['best'])}" if told["best"] is not None else ""
    reason = f": {told['reason']}" if told["reason"] else ""
    return f"{_state(row)}: {told['path']}{attempt}{best}{reason}"


def say(line: str) -> None:
    """A line with the time of day, since a watch lasts for days."""
    print(time.strftime("%a %H:%M:%S"), line, flush=True)

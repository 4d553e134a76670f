"""--watch: repeated passes over a round on a cluster, the pauses between them, and what is printed meanwhile."""

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
SHARE = 5  # the pause is so many times the scheduler's answer time and the time of the pass, the latter up to AT_MOST
AT_MOST = 600.0  # seconds between two passes while nothing changes
GROWTH = 1.5  # by which the pause grows with each pass that finds nothing new, or fails
AFTER = 1.0  # seconds after an expected event
MANY = 20  # more changes than this are counted, not listed

Shown = tuple[State, int | None, str | None]  # state, attempt, job state


class NoPass(Exception):
    """No pass could be made this time; the message says why."""


@dataclass(frozen=True, slots=True)
class Passed:
    """One pass over a round, in `took` seconds, without the wait for the lock. `code`: the exit code of such a pass.

    `over`: nothing is left to do, or nothing more will happen. `failed`: the scheduler or the disk failed.
    """

    round: Round
    report: PassReport
    took: float
    code: int
    over: bool
    failed: bool


@dataclass
class Latest:
    """The round as in its file; while that cannot be read, as it last was. Each error is reported once."""

    round: Round
    read: Callable[[], Round]
    wrong: str = ""

    def reload(self) -> Round:
        before, self.wrong = self.wrong, ""
        try:
            self.round = self.read()
        except (RoundhouseError, OSError) as error:
            self.wrong = str(error)
            if self.wrong != before:
                print(self.wrong, file=sys.stderr, flush=True)
                say("The round file cannot be used. Until it is fixed, the watch continues with the last version.")
        return self.round


@dataclass
class Watch:
    """Passes until nothing is left to do. Of each pass, only the statuses and the printed messages are remembered.

    `one_pass` makes one, or raises NoPass; `show` draws the whole table, at the start and at the end. `every`: a pause
    in seconds, instead of one that follows what happens.
    """

    one_pass: Callable[[], Passed]
    show: Callable[[Passed], None]
    every: float | None = None
    unchanged: int = 0  # passes in a row that found nothing new
    known: dict[str, Shown] | None = None
    printed: set[str] | None = None
    code: int = 0

    def run(self, sleep: Callable[[float], None] = time.sleep) -> int:
        """Returns the exit code of the last pass. KeyboardInterrupt: the user ends the watch."""
        while (pause := self._pass()) is not None:
            gc.collect()
            sleep(pause)
        return self.code

    def _pass(self) -> float | None:
        """One pass: seconds to the next, None if it was the last."""
        try:
            passed = self.one_pass()
        except NoPass as reason:
            self.unchanged += 1
            pause = pause_for(max(AT_LEAST, self.every or 0.0), self.unchanged)
            say(f"No pass was made: {reason}. Next one in {pause:.0f} s.")
            return pause
        first, changed = self.known is None, self._changed(passed)
        self.unchanged = 0 if changed else self.unchanged + 1
        self._print(passed, changed)
        self.code = passed.code
        if passed.over:
            return None
        pause = pause_after(passed, self.unchanged, self.every)
        say(_next(pause, passed) + " Ctrl-C ends the watch, not the jobs." * first)
        return pause

    def _changed(self, passed: Passed) -> list[ExperimentStatus]:
        """The statuses that have changed. A pass without the scheduler's answer shows no changes."""
        if passed.report.blind and self.known is not None:
            return []
        before, self.known = self.known or {}, {one.experiment.path: _shown(one) for one in passed.report.statuses}
        return [one for one in passed.report.statuses if before.get(one.experiment.path) != _shown(one)]

    def _print(self, passed: Passed, changed: Sequence[ExperimentStatus]) -> None:
        report = passed.report
        errors, limits = tables.refusals(report.statuses) + report.trouble, tables.limits(report.statuses)
        before, self.printed = self.printed, {*errors, *limits}
        if before is not None:
            _list(changed)
        if before is None or passed.over:
            self.show(passed)
            return
        for line in (one for one in errors if one not in before):
            print(line, file=sys.stderr, flush=True)
        for line in (one for one in limits if one not in before):
            say(line)
        if passed.failed:
            say("The pass failed. Nothing was lost.")
        if not report.blind:
            summary = tables.summary(passed.round.name, report.statuses, len(passed.round.experiments))
            say(" ".join([summary, *eta.lines(report.statuses, time.time())]))


def pause_for(least: float, unchanged: int, moments: Iterable[float] = ()) -> float:
    """Seconds until the next pass: `least`, and more with each of `unchanged` passes that found nothing new.

    At most until the next expected event (`moments`, in seconds from now), but always at least `least`.
    """
    grown = min(least * GROWTH ** min(unchanged, 30), AT_MOST)
    soonest = min((moment + AFTER for moment in moments if moment > 0), default=grown)
    return max(least, min(grown, soonest))


def pause_after(passed: Passed, unchanged: int, every: float | None) -> float:
    """Seconds until the pass after this one."""
    report = passed.report
    least = max(AT_LEAST, min(SHARE * passed.took, AT_MOST), SHARE * report.query_time, every or 0.0)
    if every is not None and not passed.failed:
        return least
    return pause_for(least, unchanged, () if passed.failed else moments(report.statuses, report.clock))


def moments(statuses: Sequence[ExperimentStatus], clock: Clock) -> Iterator[float]:
    """Expected events, in seconds from `clock.now`: the end of a job or of a wait. Below 0: it is late."""
    left = eta.left_of([eta.workload_of(status) for status in statuses])
    for status in statuses:
        newest = status.record.newest
        if newest is None or not goes_on(status):
            continue
        if newest.gone_at is not None and not newest.closed:
            yield newest.gone_at + clock.grace - clock.now
        elif newest.claim is not None and is_running(status):
            yield newest.claim.at + status.experiment.resources.walltime_s - clock.now
            expected = left[status.experiment.path]
            if expected is not None:
                yield (newest.progress_at or newest.claim.at) + expected.usual - clock.now
        elif status.action.state is State.SUBMITTING:
            yield newest.opened.at + clock.submission_delay - clock.now
        elif newest.awaits_verdict:
            yield (newest.result_at or clock.now) + VERDICT_WITHIN - clock.now
        elif newest.cause is Cause.LIMIT and newest.claim is not None:
            yield newest.claim.at + clock.limit_backoff - clock.now


def _next(pause: float, passed: Passed) -> str:
    long = ""
    if AT_LEAST < pause <= SHARE * passed.took:
        long = f": this one took {passed.took:.0f} s, {passed.report.query_time:.0f} of them for the scheduler's answer"
    return f"Next pass in {pause:.0f} s{long}."


def _shown(status: ExperimentStatus) -> Shown:
    return status.action.state, status.shown.number if status.shown else None, status.job_state


def _list(changed: Sequence[ExperimentStatus]) -> None:
    if len(changed) <= MANY:
        for status in changed:
            say(_line(status))
        return
    for (what, group), count in Counter((_state(status), status.experiment.group) for status in changed).items():
        say(f"{what}: {count} of {group}")


def _state(status: ExperimentStatus) -> str:
    state = status.action.state
    return f"{state}, {status.job_state}" if status.job_state and state is State.IN_PROGRESS else str(state)


def _line(status: ExperimentStatus) -> str:
    values = as_dict(status)
    attempt = f", attempt {values['attempt']}" if (values["attempt"] or 0) > 1 else ""
    best = f", best {values['metric_name']} {number(values['best'])}" if values["best"] is not None else ""
    reason = f": {values['reason']}" if values["reason"] else ""
    return f"{_state(status)}: {values['path']}{attempt}{best}{reason}"


def say(line: str) -> None:
    """Print a line with the day and time, since a watch may last for days."""
    print(time.strftime("%a %H:%M:%S"), line, flush=True)

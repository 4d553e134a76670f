"""Successive halving: runs pause at every rung, the best settings of their group continue, the others are pruned. Pure.

The outcome at a rung is a function of the values that all runs of the group had there, so every pass computes
the same. After Karnin, Koren and Somekh (2013) and Jamieson and Talwalkar (2016), with one difference: rungs are a
fixed number of epochs or steps apart, where theirs get further apart as fewer settings are left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from roundhouse.model.attempt import EPOCH, Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Halving, setting_of
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.selection import Candidate, Metrics, describe, ranking
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.names import nearest


def pause_at(experiment: Experiment, rec: Record) -> int | None:
    """The epoch or step at which the next attempt must pause; None if it runs to its end.

    An experiment that was pruned and is retried, or runs again, is not compared again.
    """
    if experiment.halving is None or _exempt(rec):
        return None
    return max((position for _, position in _pauses(rec)), default=0) + experiment.halving.every


def compare_at_rungs(statuses: Mapping[str, ExperimentStatus], metrics: Metrics) -> dict[str, ExperimentStatus]:
    """The new statuses of experiments that have paused and not continued yet: they wait, continue, or are pruned."""
    contests: dict[tuple[str, str], list[ExperimentStatus]] = {}
    for status in statuses.values():
        if halving := status.experiment.halving:
            key = status.experiment.group, json.dumps(status.experiment.config.get(halving.per or ""), sort_keys=True)
            contests.setdefault(key, []).append(status)
    changed: dict[str, ExperimentStatus] = {}
    for members in contests.values():
        paused = {one.experiment.path: position for one in members if (position := _paused_at(one)) is not None}
        for position in sorted(set(paused.values())):
            rung = _rung(members, position, metrics)
            changed |= {path: rung.applied(statuses[path]) for path, at in paused.items() if at == position}
    return changed


@dataclass(frozen=True, slots=True)
class _Rung:
    """The comparison of some experiments at one epoch or step: their ranking; or what it waits for (see `Inputs`)."""

    halving: Halving
    position: str  # `epoch 4`, `step 4000`
    ranked: Sequence[Candidate] = ()
    wait: str = ""
    hopeless: bool = False
    blocked: bool = False

    def applied(self, status: ExperimentStatus) -> ExperimentStatus:
        """The status of an experiment that paused at this rung, with the outcome of the comparison."""
        if self.wait:
            inputs = replace(status.inputs, hopeless=self.hopeless, blocked=self.blocked)
            state = State.BLOCKED if self.blocked else State.PENDING
            return replace(status, action=Action(Verb.NOTHING, state, self.wait), inputs=inputs)
        kept = math.ceil(Fraction(str(self.halving.keep)) * len(self.ranked))  # settings that continue
        rank = next(rank for rank, one in enumerate(self.ranked) if status.experiment.path in one.paths)
        best = "lowest" if self.halving.mode == "min" else "highest"
        what = f"rank {rank + 1} of {len(self.ranked)} at {self.position} by the {best} {self.halving.metric}"
        if rank < kept:
            # The last one left does not pause again: there is nothing to compare it with.
            experiment = replace(status.experiment, halving=None) if kept == 1 else status.experiment
            return replace(status, experiment=experiment, action=replace(status.action, reason=f"continues: {what}"))
        own, last = (describe(one, self.ranked) for one in (self.ranked[rank], self.ranked[kept - 1]))
        return replace(status, action=Action(Verb.PRUNE, State.PENDING, f"{what}: {own}; the last kept: {last}"))


def _rung(members: Sequence[ExperimentStatus], position: int, metrics: Metrics) -> _Rung:
    """Compare the experiments at this epoch or step, if all have reached it that still may."""
    halving = members[0].experiment.halving
    assert halving is not None
    reached = [(status, _reached(status, position)) for status in members]
    unit = next((one.progress.unit for _, one in reached if one and one.progress), EPOCH)
    place = f"{unit} {position}"
    missing = [status for status, attempt in reached if attempt is None and _may_reach(status)]
    if missing:
        wait = f"waits at {place} for {len(missing)} of {len(members)}"
        stuck = [status for status in missing if not goes_on(status)]
        if stuck:
            first = f"{stuck[0].experiment.path} is {stuck[0].action.state}"
            wait += f", of which {len(stuck)} will not get there automatically ({first})"
        return _Rung(halving, place, wait=wait, hopeless=bool(stuck))
    runs, continuing = [], {setting_of(status.experiment.config) for status, attempt in reached if attempt}
    for status, attempt in reached:
        if attempt is None:
            if _is_worst(status, position, continuing):
                runs.append((status.experiment.path, status.experiment.config, math.nan))
            continue
        path, directory = status.experiment.path, status.record.directory
        value = metrics.value_at(directory, attempt, halving.metric, position)
        if value is None:
            hint = nearest(halving.metric, metrics.names_of(directory, attempt))
            wait = f"{path} does not report the metric {halving.metric!r}: {hint}"
            return _Rung(halving, place, wait=wait, hopeless=True, blocked=True)
        runs.append((path, status.experiment.config, value))
    return _Rung(halving, place, ranking(runs, halving.mode))


def _pauses(rec: Record) -> list[tuple[Attempt, int]]:
    """The attempts that paused at a rung, each with its epoch or step.

    After a retry with another config or other inputs, which starts from the beginning, those before it do not count.
    """
    markers = [one for one in rec.attempts if one.opened.mark is Cause.RETRY and one.opened.pin is not None]
    last = markers[-1] if markers and not markers[-1].opened.keep_files else None
    pin = last.opened.pin if last else None
    return [
        (one, one.opened.pause_at)
        for one in rec.runs
        if one.cause is Cause.RUNG
        and one.opened.pause_at
        and (last is None or pin is None or one.number > last.number or pin.fits(one))
    ]


def _pruned(rec: Record) -> bool:
    return any(one.cause is Cause.PRUNED for one in rec.attempts)


def _is_worst(status: ExperimentStatus, position: int, continuing: Collection[str]) -> bool:
    """Whether it did not reach this rung because it diverged, and thereby makes its setting the last one.

    It counts at the first rung that it did not reach, and at later ones while other seeds of its setting continue.
    """
    newest = status.record.newest
    if status.action.state is not State.DIVERGED or newest is None or _exempt(status.record):
        return False
    return newest.opened.pause_at == position or setting_of(status.experiment.config) in continuing


def _exempt(rec: Record) -> bool:
    """Whether it is not compared any more: it was pruned, or its first result counts at the rungs."""
    return any(one.cause is Cause.PRUNED or one.opened.mark is Cause.RERUN for one in rec.attempts)


def _may_reach(status: ExperimentStatus) -> bool:
    """Whether it may still reach a rung that it has not reached."""
    return not status.action.state.final and not _exempt(status.record)


def _paused_at(status: ExperimentStatus) -> int | None:
    """The rung at which it has paused, if it could continue now and has not yet."""
    runs, pauses = status.record.runs, _pauses(status.record)
    if status.action.verb is not Verb.SUBMIT or not pauses or _exempt(status.record):
        return None
    last, position = pauses[-1]
    return position if last is runs[-1] else None


def _reached(status: ExperimentStatus, position: int) -> Attempt | None:
    """The attempt whose metrics include this position: the first that paused there or later, else its first result.

    An experiment that was pruned and is retried counts only at the rungs before that.
    """
    paused = [one for one, at in _pauses(status.record) if at >= position]
    return paused[0] if paused else None if _pruned(status.record) else next(iter(status.record.results), None)

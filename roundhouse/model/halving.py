"""Successive halving: runs pause at every rung, the best settings of their group go on, the others are pruned.

The verdict at a rung is a pure function of the values that all contenders had at its epoch, so every pass finds the
same. After Karnin, Koren and Somekh (2013) and Jamieson and Talwalkar (2016), of whom it differs in one thing: rungs
are a fixed number of epochs apart, where theirs are the further apart the fewer are left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Halving
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.selection import Candidate, ranking, shown
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.names import nearest
from roundhouse.store.metrics import names_of, value_at

_OVER = (State.COMPLETED, State.PRUNED, State.FAILED, State.CANCELLED)


def pause_at(experiment: Experiment, rec: Record) -> int | None:
    """The epoch at which its next attempt is to pause; None for one that runs to its end.

    What was pruned and is tried again is in no contest any more.
    """
    if experiment.halving is None or _pruned(rec):
        return None
    return max((epoch for _, epoch in _pauses(rec)), default=0) + experiment.halving.every


def judged(rows: Mapping[str, ExperimentStatus]) -> dict[str, ExperimentStatus]:
    """The rows of what has paused and not gone on yet, with what is to become of them: wait, go on, or be pruned."""
    contests: dict[tuple[str, str], list[ExperimentStatus]] = {}
    for row in rows.values():
        if row.experiment.halving:
            per = row.experiment.halving.per
            contests.setdefault((row.experiment.group, _text(row.experiment.config.get(per or ""))), []).append(row)
    changed: dict[str, ExperimentStatus] = {}
    for members in contests.values():
        paused = {row.experiment.path: epoch for row in members if (epoch := _held_at(row)) is not None}
        for epoch in sorted(set(paused.values())):
            verdict = _Rung(members, epoch)
            changed |= {path: verdict.applied(rows[path]) for path, at in paused.items() if at == epoch}
    return changed


class _Rung:
    """The contest of some experiments at one epoch."""

    def __init__(self, members: Sequence[ExperimentStatus], epoch: int) -> None:
        halving = members[0].experiment.halving
        assert halving is not None
        self.halving: Halving = halving
        self.epoch, self.wait, self.hopeless, self.blocked = epoch, "", False, False
        self.ranked: list[Candidate] = []
        reached = [(row, _reached(row, epoch)) for row in members]
        missing = [row for row, attempt in reached if attempt is None and _may_come(row)]
        if missing:
            self._wait_for(missing, len(members))
        else:
            self._rank([(row, attempt) for row, attempt in reached if attempt])

    def _rank(self, contenders: Sequence[tuple[ExperimentStatus, Attempt]]) -> None:
        runs, metric = [], self.halving.metric
        for row, attempt in contenders:
            value = value_at(row.record.directory, attempt, metric, self.epoch)
            if value is None:
                hint = nearest(metric, names_of(row.record.directory, attempt))
                self.wait = f"{row.experiment.path} tells no metric {metric!r}: {hint}"
                self.hopeless = self.blocked = True
                return
            runs.append((row.experiment.path, row.experiment.config, value))
        self.ranked = ranking(runs, self.halving.mode)

    @property
    def kept(self) -> int:
        """How many settings go on."""
        return math.ceil(Fraction(str(self.halving.keep)) * len(self.ranked))

    def _wait_for(self, missing: Sequence[ExperimentStatus], of: int) -> None:
        stuck = [row for row in missing if not goes_on(row)]
        self.wait = f"waits at epoch {self.epoch} for {len(missing)} of {of}"
        if stuck:
            self.wait += f", of which {len(stuck)} will not come by themselves ({stuck[0].experiment.path} is "
            self.wait += f"{stuck[0].action.state})"
        self.hopeless = bool(stuck)

    def applied(self, row: ExperimentStatus) -> ExperimentStatus:
        """The row of one that paused here, with the verdict."""
        if self.wait:
            inputs = replace(row.inputs, hopeless=self.hopeless, blocked=self.blocked)
            state = State.BLOCKED if self.blocked else State.PENDING
            return replace(row, action=Action(Verb.NOTHING, state, self.wait), inputs=inputs)
        rank = next(rank for rank, one in enumerate(self.ranked) if row.experiment.path in one.paths)
        keeps = rank < self.kept
        best = "lowest" if self.halving.mode == "min" else "highest"
        what = f"rank {rank + 1} of {len(self.ranked)} at epoch {self.epoch} by the {best} {self.halving.metric}"
        if keeps:
            # The last one left has nobody to pause for any more.
            experiment = replace(row.experiment, halving=None) if self.kept == 1 else row.experiment
            return replace(row, experiment=experiment, action=replace(row.action, reason=f"goes on: {what}"))
        last = f"the last kept: {self._shown(self.ranked[self.kept - 1])}"
        return replace(
            row, action=Action(Verb.PRUNE, State.PENDING, f"{what}: {self._shown(self.ranked[rank])}; {last}")
        )

    def _shown(self, one: Candidate) -> str:
        return shown(one, self.ranked)


def _pauses(rec: Record) -> list[tuple[Attempt, int]]:
    """The attempts that paused at a rung, each with its epoch."""
    return [(one, one.opened.pause_at) for one in rec.runs if one.cause is Cause.RUNG and one.opened.pause_at]


def _pruned(rec: Record) -> bool:
    return any(one.cause is Cause.PRUNED for one in rec.attempts)


def _may_come(row: ExperimentStatus) -> bool:
    """Whether it may still reach a rung that it has not reached."""
    return row.action.state not in _OVER and not _pruned(row.record)


def _held_at(row: ExperimentStatus) -> int | None:
    """The rung at which it has paused, if it would go on now, and has not yet."""
    last = row.record.runs[-1] if row.record.runs else None
    waits = row.action.verb is Verb.SUBMIT and last is not None and last.cause is Cause.RUNG
    return last.opened.pause_at if waits and last and not _pruned(row.record) else None


def _reached(row: ExperimentStatus, epoch: int) -> Attempt | None:
    """The attempt whose metrics tell of this epoch: the first that paused there or later, else the one completed.

    Once pruned, an experiment that is tried again counts at the rungs before that alone.
    """
    paused = [one for one, at in _pauses(row.record) if at >= epoch]
    return paused[0] if paused else None if _pruned(row.record) else row.record.completed


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)

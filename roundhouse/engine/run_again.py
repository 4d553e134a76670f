"""The user runs experiments again, or keeps results although the round file has changed: retry, rerun, accept.

Retry and rerun set a marker, which is opened as any attempt is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated, counted
from roundhouse.model.attempt import Attempt, Pin, Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import inputs_of
from roundhouse.model.experiment import Experiment, changes, identity_in
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import accepted, record
from roundhouse.store.markers import mark

LISTED = 8  # paths in one line
_FASTER = "refused, another runner has just opened an attempt"

Statuses = Sequence[ExperimentStatus]
Chosen = Callable[[Experiment], bool]


def retry(statuses: Statuses, chosen: Chosen, named: bool = False, keep_files: bool = False) -> list[str]:
    """Retry failed and cancelled experiments: set a marker after which the retry limits start again.

    The marker pins config and inputs as they are now. With `keep_files`, an experiment whose config has changed may
    resume from what it wrote with the old one. Pruned and diverged ones are retried only if they are `named`: the round
    is done with them, and there may be many. Returns a line for each experiment that was failed, cancelled or
    unreadable, or whose attempt is open, and a line for each change of the config.
    """
    again = (State.FAILED, State.CANCELLED, *([State.PRUNED, State.DIVERGED] if named else []))
    by_path = {one.experiment.path: one for one in statuses}
    lines, changed = [], _Changes()
    for status in statuses:
        path, state, rec = status.experiment.path, status.action.state, record.read(status.record.directory)
        if not chosen(status.experiment) or rec.completed:
            continue
        if rec.compacted and rec.damage:
            why = f"it was completed, and its {rec.damage}: restore it, or remove {rec.directory}"
            lines.append(f"{path}: refused, {why}")
        elif not rec.readable:
            lines.append(f"{path}: refused, {rec.damage}")
        elif rec.damage:
            lines.append(f"{path}: {_retry_unreadable(rec, status.experiment)}")
        elif rec.newest is not None and not rec.newest.closed:
            lines.append(f"{path}: {_refused_open(rec.newest)}")
        elif state in again or _is_blocked_by_its_record(status):
            # Of a partial group, those are taken that have completed when the attempt starts.
            inputs = None if status.experiment.partial else inputs_of(status.experiment, by_path).pinned
            lines.append(f"{path}: {_retry(rec, status.experiment, inputs, keep_files, changed)}")
    return lines + changed.lines("retried with another config")


def _retry(
    rec: Record, experiment: Experiment, inputs: Mapping[str, object] | None, keep_files: bool, changed: _Changes
) -> str:
    """Set the marker of a retry, which pins the config and `inputs`. Returns what was done, for the user."""
    pin, before = _pin(experiment, inputs), rec.pin
    other = before.config_hash not in (None, pin.config_hash) or before.inputs not in (None, inputs)
    more: dict[str, Any] = {"pin": pin, "keep_files": keep_files and other} if rec.runs else {}
    return "will be retried" if _mark(rec, experiment, Cause.RETRY, changed, **more) else _FASTER


def _refused_open(newest: Attempt) -> str:
    return f"refused, attempt {newest.number} is open: wait for it, or --cancel it first"


def _mark(rec: Record, experiment: Experiment, cause: Cause, changed: _Changes, **more: Any) -> bool:
    """Set a marker that notes what ran before, if that was another config."""
    ran = _ran(rec) if rec.runs else None
    found = changes(ran, experiment.identity()) if ran else ""
    done = mark(rec, experiment, cause, "by the user", ran=ran if found else None, **more)
    if done and found:
        changed.add(found, experiment.path)
    return done


def _ran(rec: Record) -> dict[str, Any] | None:
    """What an experiment has run, as far as config.yaml can be read."""
    try:
        return identity_in(record.read_config(rec.directory))
    except RoundhouseError:
        return None  # it is written again with the next attempt


def rerun(statuses: Statuses, chosen: Chosen, force: bool = False) -> list[str]:
    """Run completed experiments again: set a marker before which nothing counts any more; the old result stays.

    Without `force`, it is refused while an experiment that uses the result has not ended. Returns a line for each
    completed experiment, and a line for each change of the config.
    """
    lines, changed = [], _Changes()
    dependents = _dependents(statuses)
    for status in statuses:
        path, rec = status.experiment.path, record.read(status.record.directory)
        if not chosen(status.experiment) or rec.completed is None or rec.damage:
            continue
        newest, using = rec.newest, dependents.get(path, [])
        if newest is not None and not newest.closed:
            lines.append(f"{path}: {_refused_open(newest)}")
        elif using and not force:
            have = "have" if len(using) > 1 else "has"
            why = f"its result is used by {abbreviated(using, LISTED)}, which {have} not ended"
            lines.append(f"{path}: refused, {why}. They keep the old result if they have started; to run it: --force")
        else:
            experiment = status.changed or status.experiment
            done = _mark(rec, experiment, Cause.RERUN, changed, pin=_pin(experiment, None))
            kept = f"will run again; the result of attempt {rec.completed.number} stays"
            lines.append(f"{path}: {kept if done else _FASTER}")
    return lines + changed.lines("run again with another config")


def accept(statuses: Statuses, chosen: Chosen, user: str) -> list[str]:
    """Accept the results of completed experiments for the config that the round file has now.

    Returns a line for each completed experiment that cannot be accepted, and a line for each change of the config.
    """
    lines, changed = [], _Changes()
    for status in statuses:
        experiment, rec = status.experiment, status.record
        if not chosen(experiment) or rec.completed is None or rec.damage or status.action.state is not State.BLOCKED:
            continue
        try:
            ran = record.read_config(rec.directory)
            if record.config_hash(ran) != rec.completed.opened.config_hash:
                raise RoundhouseError(f"{rec.directory / record.CONFIG} does not hold the config that ran")
            if (ran["study"], ran["after"]) != (experiment.study, experiment.identity()["after"]):
                raise RoundhouseError("its study or its dependencies have changed, which cannot be accepted")
            if not accepted.accept(rec, experiment, ran, user):
                raise RoundhouseError("this config was accepted before, for another result")
        except RoundhouseError as error:
            lines.append(f"{experiment.path}: refused, {error}; --rerun runs it with the new config")
            continue
        changed.add(changes(ran, experiment.identity()), experiment.path)
    return lines + changed.lines("accepted, although the config has changed")


class _Changes:
    """Changes of configs, each with the paths of the experiments that have it: the same one is reported once."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def add(self, found: str, path: str) -> None:
        """Note that a config has changed, with what `changes` has found."""
        self._paths.setdefault(found, []).append(path)

    def lines(self, what: str) -> list[str]:
        return [
            f"{counted(len(paths), 'experiment')} {what}: {found} ({abbreviated(paths, LISTED)})"
            for found, paths in self._paths.items()
        ]


def _pin(experiment: Experiment, inputs: Mapping[str, object] | None) -> Pin:
    """What the next attempts must have; what is not determined yet, the next attempt determines."""
    return Pin(None if experiment.undecided else experiment.config_hash(), inputs)


def _dependents(statuses: Statuses) -> dict[str, list[str]]:
    """The experiments that have not ended, by the path of each that they depend on."""
    found: dict[str, list[str]] = {}
    for status in statuses:
        if not status.action.state.final:
            for path in {one for paths in status.experiment.after.values() for one in paths}:
                found.setdefault(path, []).append(status.experiment.path)
    return found


def _is_blocked_by_its_record(status: ExperimentStatus) -> bool:
    """Closed, and blocked only because it has run with another config, or through another scheduler."""
    blocked = status.action.state is State.BLOCKED and not status.refusal and not status.inputs.blocked
    return blocked and bool(status.record.runs)


def _retry_unreadable(rec: Record, experiment: Experiment) -> str:
    """Abandon an unreadable newest attempt, if it is certain that nothing runs, or can start, in it."""
    number = rec.next_number - 1
    voided = record.void(rec.directory, number, Cause.UNKNOWN, f"unreadable: {rec.damage}")
    if not voided and not (record.attempt_directory(rec.directory, number) / record.RESULT).exists():
        return f"refused, {rec.damage}, and a job may still run in attempt {number}: end it, then remove that directory"
    return "will be retried" if mark(rec, experiment, Cause.RETRY, "by the user") else _FASTER

"""The status of every experiment of a round, evaluated from evidence that was gathered before. Pure.

A pass, a status without a scheduler and the agent of an allocation all evaluate through this module. What acts on the
result (steps of the record protocol, submissions, files) lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from roundhouse.formatting import abbreviated
from roundhouse.model.answers import Job, QueryFailed
from roundhouse.model.attempt import Record, missing_inputs, result_for, result_identity
from roundhouse.model.experiment import Experiment, changes
from roundhouse.model.halving import compare_at_rungs
from roundhouse.model.plan import Action, Answer, Clock, Inputs, State, Verb, decide
from roundhouse.model.selection import Metrics, Selections
from roundhouse.model.status import ExperimentStatus

LISTED = 3  # missing inputs in a reason
NOT_QUERIED = QueryFailed("")
_NONE: Mapping[str, ExperimentStatus] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a round. The functions must give the same answer each time within one evaluation.

    `records`: by path. `clock`: the file server's time. `metrics`: reads the metrics of attempts.
    `answer`: what the scheduler reports for the newest attempt of a record.
    `scheduler`: the identity of the scheduler, as job.json names it; None if it is unknown.
    `query_error`: why the scheduler could not be queried; nothing is submitted or pruned then.
    `refusal`: why a pending experiment cannot start (study check, copy of the code); empty if it can.
    `details`: what logs and config.yaml add to the reason of a state that the user must act on.
    `accepted`: what a completed experiment ran, if the user has accepted its result for this config hash; else None.
    """

    records: Mapping[str, Record]
    metrics: Metrics
    clock: Clock
    answer: Callable[[Experiment, Record], Answer] = lambda experiment, record: NOT_QUERIED
    scheduler: Mapping[str, str] | None = None
    query_error: str = ""
    refusal: Callable[[Experiment, Record], str] = lambda experiment, record: ""
    details: Callable[[Experiment, Record, State], str] = lambda experiment, record, state: ""
    accepted: Callable[[Record, str], Mapping[str, Any] | None] = lambda record, config_hash: None


def evaluate(
    experiments: Sequence[Experiment], evidence: Evidence, known: Mapping[str, ExperimentStatus] = _NONE
) -> dict[str, ExperimentStatus]:
    """The status of each experiment, by path, in their order. Those in `known` are not evaluated again."""
    return Evaluation(experiments, evidence, known).whole_round()


def completed(statuses: Mapping[str, ExperimentStatus]) -> dict[str, ExperimentStatus]:
    """The statuses that nothing changes any more."""
    return {path: status for path, status in statuses.items() if status.action.state is State.COMPLETED}


class Evaluation:
    """An evaluation that goes as far as it is needed: for one experiment and its dependencies, or the whole round."""

    def __init__(
        self, experiments: Sequence[Experiment], evidence: Evidence, known: Mapping[str, ExperimentStatus] = _NONE
    ) -> None:
        self._experiments = {experiment.path: experiment for experiment in experiments}
        self._evidence = evidence
        self.statuses = dict(known)
        self._selections = Selections(self.statuses, evidence.metrics)

    def status(self, path: str) -> ExperimentStatus:
        """The status of one experiment. At a rung it counts as continuing: comparisons need the whole round."""
        pending = [path]  # a stack, since chains of dependencies may be long
        while pending:
            if pending[-1] in self.statuses:
                pending.pop()
                continue
            experiment = self._experiments[pending[-1]]
            missing = [one for paths in experiment.after.values() for one in paths if one not in self.statuses]
            if missing:
                pending += missing
            else:
                self.statuses[experiment.path] = self._evaluate(experiment)
        return self.statuses[path]

    def again(self, path: str) -> ExperimentStatus:
        """The status of one experiment whose record has changed."""
        self.statuses.pop(path, None)
        return self.status(path)

    def whole_round(self) -> dict[str, ExperimentStatus]:
        """The status of each experiment, with the comparisons at rungs."""
        for path in self._experiments:
            self.status(path)
        in_order = {path: self.statuses[path] for path in self._experiments}
        compared = compare_at_rungs(in_order, self._evidence.metrics)
        self.statuses |= compared
        self.update_dependents(compared)
        return {path: self.statuses[path] for path in self._experiments}

    def update_dependents(self, changed: Iterable[str]) -> None:
        """Evaluate again what is pending and depends, directly or not, on an experiment whose status has changed."""
        first = set(changed)
        if not first:
            return
        affected, dependents, pending = set(first), self._dependents(), list(first)
        while pending:
            for path in dependents.get(pending.pop(), ()):
                if path not in affected and self.statuses[path].action.state is State.PENDING:
                    affected.add(path)
                    pending.append(path)
        again = affected - first
        for path in again:
            del self.statuses[path]
        self._selections = Selections(self.statuses, self._evidence.metrics)
        for path in again:
            self.status(path)

    def _dependents(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path, experiment in self._experiments.items():
            for paths in experiment.after.values():
                for one in paths:
                    found.setdefault(one, []).append(path)
        return found

    def _evaluate(self, experiment: Experiment) -> ExperimentStatus:
        """The status of one experiment whose dependencies are evaluated."""
        evidence, rec = self._evidence, self._evidence.records[experiment.path]
        present = self._selections.resolve(experiment)
        expected = expected_hash(present, rec)
        experiment, accepted = self._as_it_ran(present, rec, expected)
        if accepted and rec.completed:
            expected = rec.completed.opened.config_hash
        inputs = inputs_of(experiment, self.statuses, rec.pin.inputs if experiment.after else None)
        answer = evidence.answer(experiment, rec)
        action = decide(rec, answer, inputs, evidence.clock, expected, evidence.scheduler, experiment.retry)
        if action.state is State.COMPLETED and (note := accepted or self._outdated_inputs(rec)):
            action = replace(action, reason=note)
        if action.state.active and rec.newest and rec.newest.opened.config_hash not in ("", expected):
            action = _with_note(action, "runs with the config of an earlier version of the round file")
        if experiment.partial and (note := self._missing(experiment, rec, action, inputs)):
            action = _with_note(action, note)
        # Experiments with open dependencies are checked too: their mistakes are reported at once.
        waiting = action.state is State.PENDING and action.verb in (Verb.NOTHING, Verb.SUBMIT)
        refusal = evidence.refusal(experiment, rec) if waiting else ""
        if refusal:
            action = Action(Verb.NOTHING, State.BLOCKED, f"cannot start: {refusal}")
        elif action.verb is Verb.SUBMIT and evidence.query_error:
            action = Action(Verb.NOTHING, State.PENDING, "the scheduler could not be queried")
        if action.state.needs_user and rec.runs:
            action = replace(action, reason=action.reason + evidence.details(experiment, rec, action.state))
        job_state = answer.state.value if isinstance(answer, Job) else None
        changed = present if experiment is not present else None
        return ExperimentStatus(experiment, rec, action, inputs, job_state, refusal, changed)

    def _missing(self, experiment: Experiment, rec: Record, action: Action, inputs: Inputs) -> str:
        """Which dependencies the run that is shown, or the next one, does not have."""
        given = inputs.pinned if action.verb is Verb.SUBMIT else None
        if action.state.active and rec.newest:
            given = rec.newest.opened.inputs
        elif action.state is State.COMPLETED and rec.completed:
            given = rec.completed.opened.inputs
        missing = missing_inputs(experiment.after, given) if given else {}
        return "; ".join(
            f"without {len(paths)} of {len(experiment.after[group])} of group {group}: {_states(paths, self.statuses)}"
            for group, paths in missing.items()
        )

    def _as_it_ran(self, experiment: Experiment, rec: Record, expected: str) -> tuple[Experiment, str]:
        """The experiment, with the config that ran if its result was accepted for the present one, and what differs."""
        done = rec.completed
        if done is None or experiment.undecided or done.opened.config_hash == expected:
            return experiment, ""
        ran = self._evidence.accepted(rec, expected)
        if ran is None:
            return experiment, ""
        note = f"accepted, although the round file has changed: {changes(ran, experiment.identity())}"
        command = tuple(ran["command"]) if ran["command"] else None
        return replace(experiment, config=ran["config"], command=command, time_limit=ran.get("time_limit")), note

    def _outdated_inputs(self, rec: Record) -> str:
        """Which inputs of a completed experiment have been run again since."""
        entries = [one for entries in rec.completed.opened.inputs.values() for one in entries] if rec.completed else []
        known = ((one, self.statuses[one["path"]].record) for one in entries if one["path"] in self.statuses)
        rerun = [one["path"] for one, of in known if (found := result_for(one, of)) and found is not of.completed]
        return f"trained from an earlier run of {', '.join(rerun)}" if rerun else ""


def inputs_of(
    experiment: Experiment, statuses: Mapping[str, ExperimentStatus], pinned: Mapping[str, Any] | None = None
) -> Inputs:
    """The inputs of an experiment, from the statuses of the experiments named in its `after`.

    Inputs that are `pinned` and still exist are kept, also if they have been run again since.
    """
    if experiment.undecided and experiment.selection:
        choice = experiment.selection
        return Inputs(None, choice.waiting, choice.hopeless, choice.blocked, ended=choice.blocked)
    found: dict[str, Any] = {}
    for group, paths in experiment.after.items():
        before = {entry["path"]: entry for entry in (pinned or {}).get(group, ())}
        partial = group in experiment.partial
        # What completes after the first attempt is not added: the attempts of an experiment have the same inputs.
        for path in [one for one in paths if one in before] if partial and before else paths:
            status = statuses[path]
            state, reason, done = status.action.state, status.action.reason, status.record.completed
            kept = before.get(path)
            if kept and state is not State.BLOCKED and result_for(kept, status.record):
                found.setdefault(group, []).append(kept)
                continue
            if done is None or state is not State.COMPLETED:
                ended = state.final or (status.inputs.ended and not state.active)
                if partial and ended:
                    continue
                hopeless = state.never_completes or status.inputs.hopeless
                why = f": {reason}" if reason and hopeless else ""
                return Inputs(None, f"waits for {path}, which is {state}{why}", hopeless, ended=ended)
            found.setdefault(group, []).append({"path": path, **result_identity(done)})
        if partial and group not in found:
            why = f"none of the {len(paths)} experiments of group {group} has completed: {_states(paths, statuses)}"
            return Inputs(None, why, hopeless=True, ended=True)
    return Inputs(found)


def _with_note(action: Action, note: str) -> Action:
    return replace(action, reason=f"{action.reason}; {note}" if action.reason else note)


def _states(paths: Sequence[str], statuses: Mapping[str, ExperimentStatus]) -> str:
    """The states of missing dependencies, of which only the first are listed."""
    states = ((path, statuses[path].action.state) for path in paths)
    texts = [f"{path} {'has completed since' if one is State.COMPLETED else f'is {one}'}" for path, one in states]
    return abbreviated(texts, LISTED)


def expected_hash(experiment: Experiment, rec: Record) -> str:
    """The config hash that a record must have. While a selection is open, the config that has run is accepted."""
    if not experiment.undecided:
        return experiment.config_hash()
    return rec.config_hash or experiment.config_hash()

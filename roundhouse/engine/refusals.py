"""Refusals of the scheduler, and what else of a round is not submitted for the same reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from roundhouse.model.answers import Refused, Scope
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import Action, State, Verb
from roundhouse.model.status import ExperimentStatus

_FIX = {
    Scope.QUEUE: "Correct `queue` in the round file's resources or the site file, or `project` in the site file",
    Scope.ALL: "Correct `project`, `queue` or `directives` in the site file, or ask the cluster's support",
}
_FOR_NOW = {Scope.QUEUE: "its queue takes no jobs now", Scope.REQUEST: "limit reached for these resources"}


def cause_of(refused: Refused) -> Cause:
    """The cause with which a refused attempt is voided."""
    if refused.later:
        return Cause.LIMIT
    return Cause.SITE if refused.scope in _FIX else Cause.REFUSED


def reason_of(refused: Refused) -> str:
    """The reason shown for an experiment whose own submission was refused."""
    if refused.later:
        return f"{_FOR_NOW.get(refused.scope, 'limit reached')}: {refused.why}"
    if refused.scope in _FIX:
        which = "for its queue" if refused.scope is Scope.QUEUE else "of this account"
        return f"the scheduler refuses every job {which}: {refused.why}. {_FIX[refused.scope]}, then run the pass again"
    return refused.why


@dataclass
class Refusals:
    """The refusals of one pass. `queue`: that of jobs whose resources name none."""

    queue: str | None = None
    _found: dict[object, Refused] = field(default_factory=dict)

    def add(self, resources: Resources, refused: Refused) -> None:
        """Record that a job with these resources was refused. Limits on the number of jobs are not kept here."""
        if refused.scope is not Scope.SIZE and not (refused.later and refused.scope is Scope.ALL):
            self._found[self._applies_to(refused.scope, resources)] = refused

    def of(self, resources: Resources) -> Refused | None:
        """The refusal that applies to a job with these resources, if any."""
        scopes = (Scope.ALL, Scope.QUEUE, Scope.REQUEST)
        return next((one for scope in scopes if (one := self._found.get(self._applies_to(scope, resources)))), None)

    def queue_of(self, resources: Resources) -> str | None:
        """The queue of a job with these resources; None: the cluster's default."""
        return resources.queue or self.queue

    def _applies_to(self, scope: Scope, resources: Resources) -> object:
        if scope is Scope.QUEUE:
            return scope, self.queue_of(resources)
        return resources if scope is Scope.REQUEST else scope


def held_back(status: ExperimentStatus, refused: Refused) -> ExperimentStatus:
    """An experiment that is not submitted, because a job was refused for a reason that applies to it too."""
    if refused.scope in _FIX and not refused.later:
        return blocked(status, refused)
    if refused.later:
        why = reason_of(refused)
    else:
        why = f"not submitted: a job with the same resource request was refused ({refused.why})"
    return replace(status, action=Action(Verb.NOTHING, State.PENDING, why, Cause.LIMIT))


def blocked(status: ExperimentStatus, refused: Refused) -> ExperimentStatus:
    """An experiment that cannot be submitted until the site file or the account is corrected."""
    why = reason_of(refused)
    return replace(status, action=Action(Verb.NOTHING, State.BLOCKED, f"cannot start: {why}", Cause.SITE), refusal=why)

"""What the scheduler has refused, and so what else of a round is not submitted for the same reason."""

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
    """Under which cause a refused attempt is made void."""
    if refused.later:
        return Cause.LIMIT
    return Cause.SITE if refused.scope in _FIX else Cause.REFUSED


def reason_of(refused: Refused) -> str:
    """The reason that an experiment shows whose own submission was refused."""
    if refused.later:
        return f"{_FOR_NOW.get(refused.scope, 'limit reached')}: {refused.why}"
    if refused.scope in _FIX:
        which = "for its queue" if refused.scope is Scope.QUEUE else "of this account"
        return f"the scheduler refuses every job {which}: {refused.why}. {_FIX[refused.scope]}, then run the pass again"
    return refused.why


@dataclass
class Refusals:
    """The refusals that hold in one pass. `queue`: where a job goes whose resources name none."""

    queue: str | None = None
    _by_request: dict[Resources, Refused] = field(default_factory=dict)
    _by_queue: dict[str | None, Refused] = field(default_factory=dict)
    _of_all: Refused | None = None

    def add(self, resources: Resources, refused: Refused) -> None:
        """A job with these resources was refused. A limit on the user's jobs, or on tasks, is not kept here."""
        if refused.scope is Scope.REQUEST:
            self._by_request[resources] = refused
        elif refused.scope is Scope.QUEUE:
            self._by_queue[resources.queue or self.queue] = refused
        elif refused.scope is Scope.ALL and not refused.later:
            self._of_all = refused

    def of(self, resources: Resources) -> Refused | None:
        """The refusal that holds for a job with these resources as well."""
        by_queue = self._by_queue.get(resources.queue or self.queue)
        return self._of_all or by_queue or self._by_request.get(resources)


def held_back(row: ExperimentStatus, refused: Refused) -> ExperimentStatus:
    """An experiment that is not submitted, because another was refused for a reason that holds for it too."""
    if refused.scope in _FIX and not refused.later:
        return blocked(row, refused)
    if refused.later:
        why = reason_of(refused)
    else:
        why = f"not submitted: a job that asks for the same resources was refused ({refused.why})"
    return replace(row, action=Action(Verb.NOTHING, State.PENDING, why, Cause.LIMIT))


def blocked(row: ExperimentStatus, refused: Refused) -> ExperimentStatus:
    """An experiment that cannot be submitted until the site file or the account is corrected."""
    why = reason_of(refused)
    return replace(row, action=Action(Verb.NOTHING, State.BLOCKED, f"cannot start: {why}", Cause.SITE), refusal=why)

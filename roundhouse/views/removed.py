"""What is printed about experiments that have a record, but are no longer in the round file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from roundhouse.formatting import counted
from roundhouse.model.removed import RemovedExperiment
from roundhouse.views.status_json import as_dict

LISTED = 12  # experiments that are listed


def lines(removed: Sequence[RemovedExperiment]) -> list[str]:
    """How many there are, and how many have a job; a line for each; what to do if only the path was changed."""
    if not removed:
        return []
    jobs, are = sum(one.is_open for one in removed), "is" if len(removed) == 1 else "are"
    head = f"{counted(len(removed), 'experiment')} {are} no longer in the round file"
    head += f"; {jobs} {'has' if jobs == 1 else 'have'} a queued or running job:" if jobs else ":"
    more = [f"  ... and {len(removed) - LISTED} more: see --status --json"] if len(removed) > LISTED else []
    ordered = sorted(removed, key=lambda one: not one.is_open)
    renamed = [one for one in removed if one.same_as]
    advice = [_advice(min(renamed, key=lambda one: bool(one.obstacle)), len(renamed) - 1)] if renamed else []
    return [head, *map(_line, ordered[:LISTED]), *more, *advice]


def as_json(one: RemovedExperiment) -> dict[str, Any]:
    """The object of `--status --json`; its reason says in which state the record is."""
    return {**as_dict(one.status), "state": "removed", "goes_on": False, "reason": description(one)}


def description(one: RemovedExperiment) -> str:
    """The state of its record, and where the round file has the same config."""
    status = one.status
    if one.is_open:
        text = f"{status.action.state}, attempt {status.record.next_number - 1} is open"
        text += f": {status.action.reason}" if status.action.reason else ""
    elif status.inputs.waiting == status.action.reason and status.record.newest:
        text = f"last attempt: {status.record.newest.cause}"
    else:
        text = f"{status.action.state}{': ' if status.action.reason else ''}{status.action.reason}"
    return f"{text}; the round file has the same config at {one.same_as}" if one.same_as else text


def explanation(one: RemovedExperiment) -> list[str]:
    """The notes that `--why` prints in addition."""
    return ["no longer in the round file: no further attempt is made", *([_advice(one)] if one.same_as else [])]


def _line(one: RemovedExperiment) -> str:
    stop = f" (to stop it: --cancel --only {shlex.quote(one.path)})" if one.is_open else ""
    return f"  removed {one.path}: {description(one)}{stop}"


def _advice(one: RemovedExperiment, others: int = 0) -> str:
    """What to do about an experiment whose path was changed."""
    more = f" (and {others} more)" if others else ""
    text = f"{one.path}{more} seems to have another path in the round file, {one.same_as}. To use its record, restore "
    text += "the path in the round file"
    if one.obstacle:
        return f"{text}. The record cannot be moved: {one.obstacle}"
    source = one.status.record.directory
    target = source.parents[one.path.count("/")] / one.same_as
    make, move = shlex.join(["mkdir", "-p", str(target.parent)]), shlex.join(["mv", "-T", str(source), str(target)])
    return f"{text}; or move it before a pass starts {one.same_as}: {make} && {move}"

"""Why attempts end."""

from __future__ import annotations

from enum import Enum


class Cause(str, Enum):
    """How an attempt ended. Written into result.json and into void claims; `plan` counts by them."""

    COMPLETED = "completed"
    WALLTIME = "walltime"  # the job's time was up: normal life
    PREEMPTED = "preempted"  # the scheduler (or Ctrl-C, on this machine) took the job down, to be resumed
    NODE = "node"  # the node failed
    DELETED = "deleted"  # somebody removed the job from the scheduler, but did not cancel the experiment
    INPUT = "input"  # what it needs (a teacher's checkpoint) was not visible yet where the job ran
    MEMORY = "memory"
    ERROR = "error"
    UNKNOWN = "unknown"
    UNCLAIMED = "unclaimed"  # submitted, or about to be, and no job ever started
    REFUSED = "refused"  # the scheduler definitely refused this request
    SITE = "site"  # the scheduler refuses every such job: the queue or the account is wrong, not the experiment
    LIMIT = "limit"  # the scheduler refused for now
    CANCELLED = "cancelled"  # by the user
    RUNG = "rung"  # paused, to be compared with its group
    PRUNED = "pruned"  # a mark, no run: others of its group were better
    RETRY = "retry"  # a mark, no run: the user asked for another try, counting starts again
    ARCHIVED = "archived"  # a mark, no run: the round was put away

    def __str__(self) -> str:
        return self.value

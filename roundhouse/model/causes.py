"""Why attempts end."""

from __future__ import annotations

from enum import Enum


class Cause(str, Enum):
    """How an attempt ended. Written into result.json and into void claims; retry limits are counted per cause."""

    COMPLETED = "completed"
    WALLTIME = "walltime"  # the job ran out of time, as is normal
    PREEMPTED = "preempted"  # the scheduler (or Ctrl-C on the local machine) stopped the job; it is resumed
    NODE = "node"  # the node failed
    DELETED = "deleted"  # the job was deleted in the scheduler, without --cancel
    INPUT = "input"  # an input (a teacher's checkpoint) was not visible yet on the node
    MEMORY = "memory"
    ERROR = "error"
    UNKNOWN = "unknown"
    UNCLAIMED = "unclaimed"  # submitted, or about to be, but no job started
    REFUSED = "refused"  # the scheduler refused this request permanently
    SITE = "site"  # the scheduler refuses every such job: the queue or the account is wrong, not the experiment
    LIMIT = "limit"  # the scheduler refused for now
    CANCELLED = "cancelled"  # by the user
    RUNG = "rung"  # paused, to be compared with its group
    DIVERGED = "diverged"  # the run ended with metrics and says that another attempt would diverge as well
    PRUNED = "pruned"  # a marker, no run: others of its group were better
    RETRY = "retry"  # a marker, no run: the user wants another attempt, and the retry limits start again
    RERUN = "rerun"  # a marker, no run: the user wants a completed experiment to run again; the old result stays
    ARCHIVED = "archived"  # a marker, no run: the round was archived

    def __str__(self) -> str:
        return self.value

    @property
    def planned(self) -> bool:
        """The next attempt follows as planned: nothing went wrong."""
        return self in (Cause.RETRY, Cause.RERUN, Cause.LIMIT, Cause.RUNG)

    @property
    def not_submitted(self) -> bool:
        """The scheduler refused the job for a reason that does not concern the experiment."""
        return self in (Cause.LIMIT, Cause.SITE)

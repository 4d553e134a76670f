"""Why attempts end: the causes, and the exit codes by which train.py tells them to the job's shell."""

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


# Exit codes of train.py. The job's shell turns them into causes; any other code is an error,
# and a death by signal is judged by the shell from the signals that it saw itself.
EXIT_COMPLETED = 0
EXIT_ERROR = 1
EXIT_NOT_MINE = 70  # the claim is not, or no longer, this job's: leave without a trace
EXIT_MEMORY = 71
EXIT_INPUT = 72
EXIT_GPU_MEMORY = 73  # the GPU's: more memory for the job would not help
EXIT_STOPPED = 75  # asked to stop, stopped at a safe point; a later attempt goes on from the checkpoint
EXIT_WALLTIME = 76  # stopped itself because no further epoch fits into the walltime
EXIT_INPUT_CHANGED = 77  # an input is not the one that the first attempt recorded: no retry will mend it
EXIT_RUNG = 78  # paused at the epoch that it was told, with a checkpoint; it may go on, or be pruned

"""The end of the walltime: what stops when, so that results are written before the scheduler kills the job. Pure.

All times are in seconds. What a scheduler does after its first signal determines them:

- Slurm sends SIGUSR2 `SIGNAL_BEFORE_END` before the end of the walltime; otherwise SIGTERM, and SIGKILL `KillWait`
  later (30 s by default).
- PBS and Torque send SIGTERM, and SIGKILL `kill_delay` later (10 s by default). When the agent of an allocation has
  ended, they kill what is left at once.

Within that time the agent passes the signal on, waits, kills the trainings that are still running, waits until the job
shells have written their results, and records the statuses of the experiments.
"""

from __future__ import annotations

import signal

SIGNAL_BEFORE_END = 120  # Slurm's SIGUSR2
SIGNAL_FROM = 300  # shorter jobs get no SIGUSR2
TIME_IS_UP = 90  # a job that is stopped so shortly before the end has run out of walltime
RESULT = 2.5  # within which a job shell writes its result once what it ran was killed
_STOP_BEFORE_END = 60
_SAVE_BEFORE_END = 100.0  # of SIGNAL_BEFORE_END
_SAVE_BEFORE_KILL_WAIT = 24.0  # of 30
_SAVE_BEFORE_KILL_DELAY = 6.0  # of 10


def margin(walltime: int) -> int:
    """How long before the end of the walltime training stops: 60 s, or a tenth of the walltime if that is less."""
    return min(_STOP_BEFORE_END, walltime // 10)


def worth_starting(left: float, walltime: int) -> bool:
    """Whether an experiment may start in an allocation: more than 5 minutes, or a tenth of the walltime, is left."""
    return left > min(300.0, walltime / 10)


def starts_late(left: float, walltime: int) -> bool:
    """Whether an experiment has clearly less than its walltime, so that running out of it is not its fault."""
    return left < 0.9 * walltime


def seconds_to_save(kind: str, number: int) -> float:
    """How long jobs may take to save a checkpoint, after signal `number` from a scheduler of this kind."""
    if kind != "slurm":
        return _SAVE_BEFORE_KILL_DELAY
    return _SAVE_BEFORE_END if number == signal.SIGUSR2 else _SAVE_BEFORE_KILL_WAIT

"""How long what runs in an allocation has to save its place once the allocation must end.

All numbers follow from what a scheduler does after its first signal:

- PBS and Torque send SIGTERM, and SIGKILL `kill_delay` later (10 s by default). When the agent has ended, they kill
  what is left at once.
- Slurm sends USR2 120 s before the end of the walltime, as templates/slurm.sh.j2 requests; otherwise SIGTERM, and
  SIGKILL `KillWait` later (30 s by default).

Within that time the agent passes the signal on, waits, kills the trainings that still run, waits until the job shells
have written their results, and records the state of the experiments.
"""

from __future__ import annotations

import signal

SAVE_BEFORE_KILL_DELAY = 6.0  # of 10 s
SAVE_BEFORE_KILL_WAIT = 24.0  # of 30 s
SAVE_BEFORE_WALLTIME = 100.0  # of 120 s
RESULT = 2.5  # seconds in which a shell writes its result once what it ran was killed


def seconds_to_save(kind: str, number: int) -> float:
    """How long jobs may take to save their place, after this signal from a scheduler of this kind."""
    if kind != "slurm":
        return SAVE_BEFORE_KILL_DELAY
    return SAVE_BEFORE_WALLTIME if number == signal.SIGUSR2 else SAVE_BEFORE_KILL_WAIT

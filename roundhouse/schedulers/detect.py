"""Which scheduler to use: the one that was requested, or the one whose commands exist."""

from __future__ import annotations

import re
import shutil

from roundhouse.errors import RoundhouseError
from roundhouse.schedulers.base import Output, Run, Scheduler

KINDS = ("auto", "cluster", "slurm", "pbs", "local")

# Slurm's commands (sbatch, or its qsub) without a cluster, for example after installing a distribution's package.
UNCONFIGURED = re.compile(r"DNS SRV lookup failed|Could not establish a configuration source")


def detect(kind: str, user: str, run: Run) -> tuple[Scheduler | None, str]:
    """The scheduler for this user, or None for the local machine, and a remark for the user (or "").

    A cluster that is configured but does not answer stays the scheduler: its jobs must not run locally as well.
    "cluster" is any scheduler, but never the local machine. RoundhouseError: the requested scheduler is not on this
    host, or there is an unknown one.
    """
    if kind not in KINDS:
        raise RoundhouseError(f"unknown scheduler {kind!r}: choose {', '.join(KINDS)}")
    if kind == "local":
        return None, ""
    remarks = []
    for one, command, find in (("slurm", "sbatch", find_slurm), ("pbs", "qsub", find_pbs)):
        if kind not in ("auto", "cluster", one):
            continue
        if shutil.which(command) is None:
            problem = f"no {one} on this host: there is no command {command!r}"
        elif (scheduler := find(user, run)) is not None:
            return scheduler, ""
        else:
            problem = f"{command} is installed, but no cluster is configured (no slurm.conf)"
            remarks.append(problem)
        if kind == one:
            raise RoundhouseError(f"{problem}. Use --scheduler local to run on the local machine")
    if kind == "cluster":
        problem = "; ".join(remarks) or "there is neither sbatch nor qsub"
        raise RoundhouseError(f"no cluster on this host: {problem}. Nothing was run on the local machine")
    return None, "; ".join(remarks)


def find_slurm(user: str, run: Run) -> Scheduler | None:
    from roundhouse.schedulers.slurm import Slurm

    return None if unconfigured(run(["sbatch", "--version"])) else Slurm(user)


def find_pbs(user: str, run: Run) -> Scheduler | None:
    """PBS or Torque, according to `qstat --version`. Grid Engine has commands with the same names."""
    answer = run(["qstat", "--version"])
    printed = answer.stdout + answer.stderr
    if "pbs_version" in printed:
        from roundhouse.schedulers.pbs import PBS

        return PBS(user)
    if re.search(r"^version:", printed, re.IGNORECASE | re.MULTILINE) or "qstat [-f] [-a|-i|-r]" in printed:
        from roundhouse.schedulers.torque import Torque

        return Torque(user)
    if unconfigured(answer):
        return None
    raise RoundhouseError(
        f"qsub belongs to a scheduler that is not supported: {answer.complaint}. "
        "Use --scheduler local to run on the local machine"
    )


def unconfigured(answer: Output) -> bool:
    """Whether both signs of a missing configuration are there. If only the server is down, the first one is missing."""
    return answer.code not in (0, None) and len(set(UNCONFIGURED.findall(answer.stderr))) == 2

"""Which scheduler is here: the one asked for, or the one whose commands exist."""

from __future__ import annotations

import re
import shutil

from roundhouse.errors import RoundhouseError
from roundhouse.schedulers.base import Output, Run, Scheduler

KINDS = ("auto", "cluster", "slurm", "pbs", "local")

# Commands without a cluster behind them, as after installing a distribution's package.
UNCONFIGURED = re.compile(r"DNS SRV lookup failed|Could not establish a configuration source")


def detect(kind: str, user: str, run: Run) -> tuple[Scheduler | None, str]:
    """The scheduler for this user, or None for this machine itself, and a remark for the person (or "").

    A cluster that is configured but does not answer stays the scheduler: its jobs must not be run here as well.
    "cluster" is any scheduler, and never this machine. RoundhouseError: the scheduler asked for is not here, or there
    is one that is not known.
    """
    if kind not in KINDS:
        raise RoundhouseError(f"no scheduler {kind!r}: choose {', '.join(KINDS)}")
    if kind == "local":
        return None, ""
    remarks = []
    for one, command, find in (("slurm", "sbatch", find_slurm), ("pbs", "qsub", find_pbs)):
        if kind not in ("auto", "cluster", one):
            continue
        if shutil.which(command) is None:
            problem = f"no {one} here: there is no command {command!r}"
        else:
            scheduler, problem = find(user, run)
            if scheduler is not None:
                return scheduler, ""
            remarks.append(problem)
        if kind == one:
            raise RoundhouseError(f"{problem}. Use --scheduler local to run on this machine")
    if kind == "cluster":
        problem = "; ".join(remarks) or "there is neither sbatch nor qsub"
        raise RoundhouseError(f"no cluster here: {problem}. Nothing was run on this machine itself")
    return None, "; ".join(remarks)


def find_slurm(user: str, run: Run) -> tuple[Scheduler | None, str]:
    from roundhouse.schedulers.slurm import Slurm

    if unconfigured(run(["sbatch", "--version"])):
        return None, "sbatch is installed, but no cluster is configured (no slurm.conf)"
    return Slurm(user), ""


def find_pbs(user: str, run: Run) -> tuple[Scheduler | None, str]:
    """PBS or Torque, by what `qstat --version` says. Grid Engine has commands of the same names."""
    answer = run(["qstat", "--version"])
    said = answer.stdout + answer.stderr
    if "pbs_version" in said:
        from roundhouse.schedulers.pbs import PBS

        return PBS(user), ""
    if re.search(r"^version:", said, re.IGNORECASE | re.MULTILINE) or "qstat [-f] [-a|-i|-r]" in said:
        from roundhouse.schedulers.torque import Torque

        return Torque(user), ""
    if unconfigured(answer):
        return None, "qsub is installed, but no cluster is configured"
    raise RoundhouseError(
        f"there is a qsub, but of no scheduler known to Roundhouse: {answer.complaint}. "
        "Use --scheduler local to run on this machine"
    )


def unconfigured(answer: Output) -> bool:
    """Whether both marks of a missing configuration are there; one that names a server that is down lacks the first."""
    return answer.code not in (0, None) and len(set(UNCONFIGURED.findall(answer.stderr))) == 2

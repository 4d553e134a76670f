"""Which variables of the user's shell the scheduler's commands are given.

Slurm and PBS read options from variables, and these win over the header of a job script or filter what a query shows.
A pass must work in the same way from any shell, from cron and from inside a job, so they are removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

# Slurm: every variable of its commands, but for those that select a cluster and prove who the user is. What a job of
# Slurm is given has such a name too, and `sbatch` hands all SLURM_* on to the new job, --export=NONE or not.
_SLURM = re.compile(
    r"(SLURM|SLURMD|SLURMCTLD|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SACCTMGR|SCANCEL|SCONTROL|SINFO|SPRIO|SSHARE|SREPORT|SSTAT"
    r"|STRIGGER|SATTACH|SBCAST|SDIAG|SCRONTAB)_.*"
)
_OF_SLURM_KEPT = re.compile(r"SLURM_(CONF|CONF_SERVER|CLUSTERS|JWT|SACK_.*)")

# PBS and Torque: what changes how a script is read, what makes commands print more, and what a job is given. All else
# stays: any key of pbs.conf may be set as a variable, and which server and installation there is, they say.
_PBS = re.compile(
    r"PBS_DPREFIX|PBSDEBUG|PBSLOGLEVEL|PBSCOREDUMP"
    r"|PBS_(O_.*|JOB.*|ARRAY.*|NUM_.*|NODEFILE|NODENUM|VNODENUM|TASKNUM|QUEUE|ENVIRONMENT|MOMPORT|NP|GPUFILE|MICFILE"
    r"|WALLTIME|VERSION|COOKIE|SID)"
)

# Variables that people set instead of a key of the site file; what to write there for each.
_INSTEAD = {
    "SBATCH_ACCOUNT": "project",
    "SBATCH_PARTITION": "queue",
    "SBATCH_QOS": "directives",
    "SBATCH_RESERVATION": "directives",
    "SBATCH_CONSTRAINT": "directives",
}


def for_scheduler(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a scheduler's command: `environ` without what would steer it, and with messages in English."""
    kept = {name: value for name, value in environ.items() if not steers(name)}
    # Names in paths stay readable: only the language of messages, and the form of dates and numbers, are set.
    characters = kept.pop("LC_ALL", "") or kept.get("LC_CTYPE") or kept.get("LANG")
    kept.pop("LANGUAGE", None)
    kept |= {"LC_MESSAGES": "C", "LC_TIME": "C", "LC_NUMERIC": "C"}
    return kept | {"LC_CTYPE": characters} if characters else kept


def steers(name: str) -> bool:
    """Whether a variable changes what a scheduler's command does, beyond which cluster it asks."""
    return bool(_PBS.fullmatch(name) or (_SLURM.fullmatch(name) and not _OF_SLURM_KEPT.fullmatch(name)))


def without_effect(environ: Mapping[str, str], written: Collection[str]) -> list[str]:
    """One message for each variable that a user of Slurm may rely on, unless its key is `written` in the site file."""
    return [
        f"{name} is set in this shell, but has no effect on jobs: if they need it, write {key!r} in the site file"
        for name, key in _INSTEAD.items()
        if name in environ and key not in written
    ]

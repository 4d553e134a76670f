"""Which environment variables of the user's shell the scheduler's commands get.

Slurm and PBS read options from variables, which override the header of a job script or filter the results of a query.
A pass must work in the same way from any shell, from cron and from inside a job, so these variables are removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

# Slurm: every variable of its commands, except those that select a cluster or authenticate the user. The variables of a
# Slurm job have such names too, and `sbatch` passes all SLURM_* on to the new job, even with --export=NONE.
_SLURM = re.compile(
    r"(SLURM|SLURMD|SLURMCTLD|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SACCTMGR|SCANCEL|SCONTROL|SINFO|SPRIO|SSHARE|SREPORT|SSTAT"
    r"|STRIGGER|SATTACH|SBCAST|SDIAG|SCRONTAB)_.*"
)
_SLURM_KEPT = re.compile(r"SLURM_(CONF|CONF_SERVER|CLUSTERS|JWT|SACK_.*)")

# PBS and Torque: variables that change how a script is read or what commands print, and the variables of a job. All
# others stay: any key of pbs.conf may be set as a variable, and they select the server and the installation.
_PBS = re.compile(
    r"PBS_DPREFIX|PBSDEBUG|PBSLOGLEVEL|PBSCOREDUMP"
    r"|PBS_(O_.*|JOB.*|ARRAY.*|NUM_.*|NODEFILE|NODENUM|VNODENUM|TASKNUM|QUEUE|ENVIRONMENT|MOMPORT|NP|GPUFILE|MICFILE"
    r"|WALLTIME|VERSION|COOKIE|SID)"
)

# Variables that users may set instead of a key of the site file -> that key.
_SITE_KEYS = {
    "SBATCH_ACCOUNT": "project",
    "SBATCH_PARTITION": "queue",
    "SBATCH_QOS": "directives",
    "SBATCH_RESERVATION": "directives",
    "SBATCH_CONSTRAINT": "directives",
}


def for_scheduler(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a scheduler's command: without variables that change its behaviour, messages in English."""
    kept = {name: value for name, value in environ.items() if not changes_commands(name)}
    # The character set of paths stays; only the language of messages and the format of dates and numbers are set.
    characters = kept.pop("LC_ALL", "") or kept.get("LC_CTYPE") or kept.get("LANG")
    kept.pop("LANGUAGE", None)
    kept |= {"LC_MESSAGES": "C", "LC_TIME": "C", "LC_NUMERIC": "C"}
    return kept | {"LC_CTYPE": characters} if characters else kept


def changes_commands(name: str) -> bool:
    """Whether a variable changes the behaviour of a scheduler's command, other than which cluster it contacts."""
    return bool(_PBS.fullmatch(name) or (_SLURM.fullmatch(name) and not _SLURM_KEPT.fullmatch(name)))


def without_effect(environ: Mapping[str, str], written: Collection[str]) -> list[str]:
    """A message for each variable that a Slurm user may rely on, unless its key is `written` in the site file."""
    return [
        f"{name} is set in this shell, but has no effect on jobs: if they need it, set {key!r} in the site file"
        for name, key in _SITE_KEYS.items()
        if name in environ and key not in written
    ]

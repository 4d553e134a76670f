"""Checks of the cluster: the site, the scheduler, the queue."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from typing import NamedTuple

from roundhouse.doctor.account import Account, Finding, missing, ok, warning
from roundhouse.model.answers import QueryFailed
from roundhouse.names import nearest
from roundhouse.schedulers.base import Run

COMMANDS = {
    "slurm": ("sbatch", "squeue", "scancel", "scontrol", "sinfo"),
    "pbs": ("qsub", "qstat", "qdel", "qselect"),
    "torque": ("qsub", "qstat", "qdel"),
}


class Partition(NamedTuple):
    """A line of sinfo: a partition of Slurm, and nodes of it that are in one state."""

    name: str
    default: bool
    availability: str
    node_state: str
    gres: str  # generic resources


def check_site(account: Account) -> Iterator[Finding]:
    site, host = account.site, socket.gethostname()
    if account.site_name is None and site.name == "default":
        yield warning(
            "site",
            f"no site has `hosts` that match {host}: copy one of sites/example_*.yaml, and set queue, project, "
            "modules and data. Without a site, jobs go to the default queue",
        )
    else:
        yield ok("site", f"{site.name}, for {host}")
    if site.python and "/" in site.python and not os.access(site.python, os.X_OK):
        yield warning("site", f"its python {site.python} is not on this host: check that it is on the nodes")


def check_scheduler(account: Account) -> Iterator[Finding]:
    scheduler, remark = account.detected
    if scheduler is None:
        yield warning("scheduler", f"{remark or 'none found'}: rounds run on the local machine")
        return
    absent = [command for command in COMMANDS[scheduler.kind] if shutil.which(command) is None]
    if absent:
        yield missing("scheduler", f"{scheduler.kind} has no command {', '.join(absent)} on this host: load its module")
        return
    identity, jobs = scheduler.identity(account.run), scheduler.query(account.run, (), ())
    if isinstance(identity, QueryFailed) or isinstance(jobs, QueryFailed):
        why = next(one.why for one in (identity, jobs) if isinstance(one, QueryFailed))
        yield missing("scheduler", f"{scheduler.kind} does not answer: {why}")
    else:
        yield ok("scheduler", f"{scheduler.kind} on {identity.server} answers; you have {len(jobs.jobs)} jobs")


def check_queue(account: Account) -> Iterator[Finding]:
    scheduler, _ = account.detected
    if scheduler is None:
        return
    if scheduler.kind == "slurm":
        yield check_partition(account.run, account.site.queue)
    elif account.site.queue is None:
        yield ok("queue", "the default queue: the site sets no `queue`")
    else:
        yield check_pbs_queue(account.run, account.site.queue)


def check_partition(run: Run, name: str | None) -> Finding:
    """`name` None: the default partition."""
    found = partitions(run)
    if not found:
        return warning("queue", "sinfo does not list the partitions")
    selected = select(found, name)
    if not selected and name:
        hint = nearest(name, {one.name for one in found})
        return missing("queue", f"there is no partition {name!r}; change `queue` in the site file: {hint}")
    if not selected:
        return warning("queue", "the site sets no `queue`, and this cluster has no default partition")
    title = f"partition {selected[0].name}"
    if all(one.availability != "up" for one in selected):
        return warning("queue", f"{title} is {selected[0].availability}: jobs will wait until it is up")
    if all(re.match(r"down|drain|drng|fail|maint|unk", one.node_state) for one in selected):
        return warning("queue", f"no node of {title} is in service now")
    return ok("queue", f"{title} is up")


def partitions(run: Run) -> list[Partition]:
    """What sinfo lists; empty if it does not answer."""
    answer = run(["sinfo", "-h", "-o", "%P|%a|%t|%G"])
    rows = [line.split("|") for line in answer.stdout.splitlines() if line.count("|") == 3]
    return [Partition(row[0].rstrip("*"), row[0].endswith("*"), *row[1:]) for row in rows if answer.code == 0]


def select(found: list[Partition], name: str | None) -> list[Partition]:
    """The lines of the partition `name`, or of the default one."""
    return [one for one in found if (one.name == name if name else one.default)]


def check_pbs_queue(run: Run, name: str) -> Finding:
    answer = run(["qstat", "-Q", "-f", name])
    state = dict(re.findall(r"^\s+(enabled|started)\s*=\s*(\w+)", answer.stdout, re.MULTILINE))
    if re.search(r"unknown queue", answer.stderr, re.IGNORECASE):
        return missing("queue", f"there is no queue {name!r}: qstat -Q lists them. Change `queue` in the site file")
    if answer.code != 0 or not state:
        return warning("queue", f"the state of queue {name!r} is not known: {answer.complaint}")
    if set(state.values()) != {"True"}:
        values = ", ".join(f"{key} is {value}" for key, value in state.items())
        return warning("queue", f"{name}: {values}: jobs will be refused or will wait")
    return ok("queue", f"{name} is enabled and started")

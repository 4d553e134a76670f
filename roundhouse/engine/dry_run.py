"""A dry run: descriptions of the jobs that a pass would submit, and their scripts in a temporary directory."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from roundhouse import files
from roundhouse.engine.report import PlannedJob
from roundhouse.engine.submit import SLOT_AWAITED
from roundhouse.engine.submit_job import manifest
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from roundhouse.model.status import ExperimentStatus
from roundhouse.settings import split_config
from roundhouse.store import job_group, record
from roundhouse.views import resource_format

_LISTED = 3  # jobs of one kind whose sizes are listed one by one


def write(jobs: Sequence[PlannedJob], round_directory: Path) -> tuple[Path | None, list[str]]:
    """Write the scripts of the jobs into the round's folder for dry runs, instead of those of the dry run before.

    Returns the folder, None without jobs, and a line for each job that runs more than one experiment.
    """
    if not jobs:
        return None, []
    with _folder(round_directory) as folder:
        return folder, _write(jobs, folder)


def _write(jobs: Sequence[PlannedJob], folder: Path) -> list[str]:
    lines, numbers = [], Counter[str]()
    for job in jobs:
        if job.kind == "single job":
            name = f"{job.statuses[0].experiment.path.replace('/', '__')}.sh"
            (folder / name).write_bytes(files.as_bytes(job.script()))
            continue
        numbers[job.kind] += 1
        directory = folder / f"{job.kind}_{numbers[job.kind]}"  # no script of a single job has this name
        directory.mkdir()
        (directory / job_group.SCRIPT).write_bytes(files.as_bytes(job.script()))
        if job.kind == "array":
            tokens = [record.new_token() for _ in job.statuses]
            (directory / job_group.MANIFEST).write_bytes(files.as_bytes(manifest(job.statuses, tokens)))
        lines.append(f"{job.kind:12} {_description(job)}: {' '.join(map(str, sorted(directory.iterdir())))}")
    return lines


@contextmanager
def _folder(round_directory: Path) -> Iterator[Path]:
    """An empty folder for this round, in a directory below the temporary one that only this user can read or write.

    Two dry runs of a user do not write at the same time. OSError: there is no such directory.
    """
    parent = Path(tempfile.gettempdir(), f"roundhouse-{os.getuid()}")
    parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            unsafe = "other users can use it: remove it, or set TMPDIR to another directory"
            raise PermissionError(errno.EACCES, unsafe, str(parent))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        of_this_round = hashlib.sha256(os.fsencode(round_directory)).hexdigest()[:8]
        folder = parent / f"{round_directory.name}-{of_this_round}"  # projects may have rounds of the same name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        os.close(descriptor)


def _description(job: PlannedJob) -> str:
    resources = resource_format.job(job.resources)
    if job.kind == "allocation":
        return f"{resources}; {counted(len(job.statuses), 'experiment')} may run in it"
    at_once = f", {job.at_once} at a time" if job.at_once else ""
    return f"{counted(len(job.statuses), 'task')} ({resources}){at_once}"


def notes(jobs: Sequence[PlannedJob]) -> list[str]:
    """A line for each property of allocations, or of runs in several processes, that may be unexpected."""
    kinds = dict.fromkeys(job.resources for job in jobs if job.kind == "allocation")
    found = [note for resources in kinds for note in resource_format.divided(resources)]
    statuses = {status.experiment.path: status for job in jobs for status in job.statuses}  # allocations share them
    found += [note for note in map(_of_processes, statuses.values()) if note]
    return [f"{'note':12} {note}" for note in dict.fromkeys(found)]


def _of_processes(status: ExperimentStatus) -> str:
    """Why the processes of a run do not fit its resources, or its config does not say how many; else empty."""
    if status.experiment.study is None:
        return ""
    share = status.resources.in_a_slot()
    try:
        settings = replace(split_config(status.experiment.config)[0], ngpus=share.ngpus)
    except RoundhouseError as error:
        return f"a run would fail: {error}"
    count = settings.count_processes
    if settings.device != "cpu" and 0 < share.ngpus < count:
        return f"{count} processes of a run need a GPU each (processes), and it has {share.ngpus} (ngpus)"
    if count > share.ncpus:
        cores = counted(share.ncpus, "core")
        return f"{count} processes of a run (processes) share {cores} (ncpus): they slow each other down"
    return ""


def summary(jobs: Sequence[PlannedJob]) -> str:
    """The number of jobs of each kind and size: `2 arrays of 1000 and 200 tasks and 4 single jobs`."""
    arrays = [len(job.statuses) for job in jobs if job.kind == "array"]
    slots = [job.resources.pack.slots for job in jobs if job.kind == "allocation" and job.resources.pack]
    single = sum(job.kind == "single job" for job in jobs)
    parts = [
        *([f"{counted(len(arrays), 'array')} of {_sizes(arrays, 'task')}"] if arrays else []),
        *([f"{counted(len(slots), 'allocation')} of {_sizes(slots, 'slot')}"] if slots else []),
        *([counted(single, "single job")] if single else []),
    ]
    return _and(parts) or "Nothing"


def followers(statuses: Sequence[ExperimentStatus], jobs: Sequence[PlannedJob], limit: int | None) -> str:
    """How many more experiments the same call would run on the local machine; empty if there are none."""
    waiting = sum(status.action == SLOT_AWAITED for status in statuses)
    more = waiting if limit is None else min(waiting, limit - len(jobs))
    return f", and {more} more would follow as slots become free" if more > 0 else ""


def _sizes(numbers: Sequence[int], what: str) -> str:
    if len(set(numbers)) == 1:
        return counted(numbers[0], what)
    if len(numbers) > _LISTED:
        return f"{min(numbers)} to {max(numbers)} {what}s"
    return f"{_and([str(number) for number in numbers])} {what}s"


def _and(parts: Sequence[str]) -> str:
    """A list of words, as in a sentence."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)

"""What the verbs need: the round and its experiments, the site, the scheduler, the lock, the umask."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path

from roundhouse.cli.output import warn
from roundhouse.config.round import Round, load_round
from roundhouse.config.site import Site, load_site
from roundhouse.engine.context import PassContext
from roundhouse.errors import Busy, RoundhouseError
from roundhouse.files import umask_for
from roundhouse.machine.pool import Pool, make_pool
from roundhouse.model.experiment import Experiment
from roundhouse.names import nearest
from roundhouse.schedulers.command import runner as command_runner
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.environment import without_effect
from roundhouse.schedulers.local import Local
from roundhouse.schedulers.user import user_name
from roundhouse.store.archive import Archive, refuse_archived
from roundhouse.store.removed import removed_paths

LOCK_TIMEOUT = 120.0  # seconds to wait for another pass over the same round
LOCAL_LOCK_TIMEOUT = 5.0  # the same on the local machine, where a pass lasts as long as the training

Only = Callable[[Experiment], bool]


@dataclass(frozen=True)
class Target:
    """The round of a call, where its records are, and which experiments `--only` selects."""

    round: Round
    archive: Archive
    only: Only


@dataclass(frozen=True)
class Session(Target):
    """A round, and the site and scheduler that run it."""

    context: PassContext
    pool: Pool | None  # None on a cluster; else the round runs on the local machine


def load_target(options: argparse.Namespace) -> Target:
    """The round that the options name. RoundhouseError: it cannot be loaded, or `--only` selects nothing."""
    loaded = load_round(options.round, options.rounds)
    archive = Archive.of(loaded.name, options.experiments.absolute(), options.analysis.absolute())
    return Target(loaded, archive, selector(loaded, options.only, archive))


def connect(target: Target, options: argparse.Namespace, repository: Path) -> Session:
    """Detect the scheduler of a round. RoundhouseError: there is none, or the round cannot be run."""
    loaded = target.round
    refuse_archived(target.archive)
    check_studies(loaded, repository)
    if options.code and not any(experiment.snapshot for experiment in loaded.experiments):
        raise RoundhouseError(
            f"--code is only valid for rounds that run copies of the code: {loaded.file} has no `snapshot: true`"
        )
    experiments = options.experiments.absolute()
    site = site_with_umask(options, repository, experiments)
    loaded = loaded.at(site.retry)
    run = command_runner(site.command_limit)
    kind = options.scheduler if options.scheduler not in (None, "auto") else site.scheduler
    if kind == "cluster" and site.scheduler in ("slurm", "pbs"):
        kind = site.scheduler
    scheduler, remark = detect(kind, user_name(), run)
    if scheduler is not None and scheduler.kind == "slurm":
        for message in without_effect(os.environ, {one.name for one in fields(site) if getattr(site, one.name)}):
            warn(message)
    if remark:
        warn(f"{remark}; running on the local machine")
    pool = None
    if scheduler is None:
        # What shares an allocation on a cluster has a slot of its own here.
        slots = [replace(one, resources=one.resources.in_a_slot()) for one in loaded.experiments]
        shared = max((one.resources.pack.per_gpu for one in loaded.experiments if one.resources.pack), default=1)
        loaded = replace(loaded, experiments=slots)
        cores = max((one.resources.ncpus for one in slots), default=1)
        pool = make_pool(cores, options.jobs_per_gpu or shared)
        scheduler = Local(pool)
    context = PassContext(
        experiments, repository, site, scheduler, run, site.python or sys.executable,
        rounds=options.rounds.absolute(), analysis=options.analysis.absolute(),
        current_code=options.code == "current", only=options.only,
    )  # fmt: skip
    if pool:
        context.submission_delay, context.backoff, context.room = 5.0, 0.0, pool.room
    else:
        context.max_jobs, context.submission_delay = site.max_jobs, max(120.0, 2 * site.command_limit)
    return Session(loaded, target.archive, target.only, context, pool)


def selector(loaded: Round, glob: str | None, archive: Archive) -> Only:
    """A function that says whether `--only` selects an experiment. RoundhouseError: it selects none.

    Experiments that are no longer in the round file can be selected, too.
    """
    if glob is None:
        return lambda experiment: True
    paths = [experiment.path for experiment in loaded.experiments]
    if not any(fnmatchcase(path, glob) for path in paths):
        paths += removed_paths(archive.records if archive.there else archive.source, paths)
    if not any(fnmatchcase(path, glob) for path in paths):
        hint = nearest(glob, paths)
        raise RoundhouseError(f"--only {glob!r} matches no experiment of round {loaded.name}; {hint}")
    return lambda experiment: fnmatchcase(experiment.path, glob)


def check_studies(loaded: Round, repository: Path) -> None:
    """RoundhouseError: the round names a study that does not exist."""
    folder = repository / "studies"
    known = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    for study in {experiment.study for experiment in loaded.experiments if experiment.study} - set(known):
        raise RoundhouseError(f"{loaded.file}: there is no study {study!r} in {folder}: {nearest(study, known)}")


def site_with_umask(options: argparse.Namespace, repository: Path, directory: Path) -> Site:
    """The site. Also sets the umask of this process and of its jobs: the site's, else the one that fits `directory`."""
    site = load_site(options.site, repository / "sites", socket.gethostname())
    mask = int(site.umask, 8) if site.umask else umask_for(directory, os.umask(0o077))
    os.umask(mask)
    return replace(site, umask=f"{mask:03o}")


@contextmanager
def lock(experiments: Path, name: str, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Let only one pass over a round run at a time. Busy: another one runs.

    Correctness does not depend on it: where locks do not work, passes may overlap.
    """
    import filelock

    experiments.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(experiments / f".{name}.lock")
    try:
        held.acquire(timeout=timeout)
    except filelock.Timeout:
        raise Busy(
            f"another process works on round {name} ({held.lock_file} is locked): try again later, or use --status"
        ) from None
    except (NotImplementedError, OSError) as error:
        warn(f"{held.lock_file} cannot be locked ({error}); continuing: the record is safe without it")
    try:
        yield
    finally:
        held.release()

"""Archive a round: its records move, as a whole, from experiments/ to analysis/experiment_NAME/, with a README.

No late process can undo that. What was never started is voided first; passes refuse the name of an archived round; and
a pass that is already running fails, since only its first step makes the directory of the round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from roundhouse import files
from roundhouse.config.round import Round
from roundhouse.engine import archive_documents, offline, user_actions
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.archive import Archive, refuse_archived


def archive_round(archive: Archive, loaded: Round, force: bool) -> list[str]:
    """Archive the round. Returns lines that say what was done. RoundhouseError: why not; nothing has moved then."""
    refuse_archived(archive)
    if not archive.source.is_dir():
        raise RoundhouseError(f"round {loaded.name} has no records in {archive.source}: there is nothing to archive")
    _check_file_systems(archive)
    statuses, removed = _statuses(loaded, archive.source), _removed(loaded, archive.source)
    _refuse_open([*statuses, *removed])
    unfinished = [status for status in statuses if not status.action.state.ended_well]
    if unfinished and not force:
        raise RoundhouseError(
            f"{len(unfinished)} of {len(statuses)} experiments are not completed, such as "
            f"{unfinished[0].experiment.path} ({unfinished[0].action.state}). To archive the round as it is, "
            "permanently: --archive --force"
        )
    if obstacles := user_actions.mark_archived(statuses):
        raise RoundhouseError("\n".join(["experiments are running, so nothing was moved:", *obstacles[:10]]))
    began = time.time()
    archive_documents.write(archive, loaded, statuses)
    stored = archive.stored
    _move(stored, archive.records)
    if late := _late([*_statuses(loaded, archive.records), *_removed(loaded, archive.records)]):
        _move(archive.records, stored)
        raise RoundhouseError("\n".join(["a job started meanwhile, so the round was moved back:", *late[:10]]))
    if stored != archive.source:
        archive.source.unlink()  # now a link to nothing
    completed = sum(status.action.state is State.COMPLETED for status in statuses)
    done = f"{completed} of {counted(len(statuses), 'experiment')} completed"
    done += f", {len(removed)} that are no longer in the round file" if removed else ""
    return [
        f"Round {loaded.name} is archived: {archive.folder} ({done}, {time.time() - began:.1f} s).",
        f"Its round file stays in {loaded.file}, a copy is next to the records"
        f"{', with those that it extends' if len(loaded.files) > 1 else ''}.",
    ]


def _statuses(loaded: Round, directory: Path) -> list[ExperimentStatus]:
    places = {one.path: directory / one.path for one in loaded.experiments}
    return list(offline.statuses(loaded.experiments, places).values())


def _removed(loaded: Round, directory: Path) -> list[ExperimentStatus]:
    return offline.removed(loaded.name, loaded.experiments, directory)


def _refuse_open(statuses: Sequence[ExperimentStatus]) -> None:
    for status in statuses:
        if status.record.damage:
            raise RoundhouseError(
                f"{status.experiment.path}: {status.record.damage}: it is unknown whether it still runs. "
                "Restore the file, --retry it if it was never completed, or remove its directory"
            )
    open_ones = [status for status in statuses if status.record.newest is not None and not status.record.newest.closed]
    if open_ones:
        raise RoundhouseError(
            f"{len(open_ones)} experiments have an open attempt, such as {open_ones[0].experiment.path}: wait for "
            "them, or --cancel them and run passes until --status shows no job"
        )


def _check_file_systems(archive: Archive) -> None:
    archive.folder.mkdir(parents=True, exist_ok=True)
    if archive.source.stat().st_dev != archive.folder.stat().st_dev:
        target = archive.source.resolve().parent.parent / archive.folder.name
        raise RoundhouseError(
            f"{archive.stored} and {archive.folder} are on different file systems, between which a directory cannot be "
            f"moved as a whole. Make the second a link into the first, and try again: rmdir {archive.folder}; "
            f"mkdir {target}; ln -s {target} {archive.folder}"
        )


def _move(source: Path, target: Path) -> None:
    """Rename a directory, as a whole."""
    try:
        os.rename(source, target)
    except OSError as error:
        raise RoundhouseError(f"{source} could not be moved to {target}: {error.strerror}; nothing was moved") from None
    files.sync_directory(source.parent)
    files.sync_directory(target.parent)


def _late(statuses: Iterable[ExperimentStatus]) -> list[str]:
    """Void what a runner opened while the round moved. Returns what a job has claimed and is running."""
    running = []
    for status in statuses:
        directory, newest = status.record.directory, status.record.newest
        if newest is not None and not newest.closed:
            if not record.void(directory, newest.number, Cause.ARCHIVED, "the round was archived"):
                running.append(f"{status.experiment.path}: attempt {newest.number}")
    return running

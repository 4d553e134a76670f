"""The directory of a job that runs several attempts (an array or an allocation): what they share."""

from __future__ import annotations

import shutil
from pathlib import Path

from roundhouse import files
from roundhouse.model.answers import array_id

FOLDER = ".jobs"  # in the round's directory; no experiment's path begins with a dot
SCRIPT, MANIFEST, JOB_ID, AT_ONCE, ANSWER = "job.sh", "manifest", "job_id", "at_once", "answer"
FAILURE = "failure"  # written by the job script of an allocation (templates/allocation.sh.j2)

_known: dict[str, str] = {}  # directory -> ID, which never changes


def directory_of(round_directory: Path, name: str) -> Path:
    """The directory of the job with this name."""
    return round_directory / FOLDER / name


def make(directory: Path) -> None:
    """Create the job's directory. FileNotFoundError: the round's directory is gone, because it was archived."""
    files.make_directory(directory.parent)
    files.make_directory(directory)


def remove(directory: Path) -> None:
    """Remove the directory of a job that the scheduler has refused; nothing refers to it."""
    shutil.rmtree(directory, ignore_errors=True)


def write_id(directory: Path, job_id: str) -> None:
    """Write the job's ID. `job_id` may be that of any task of the array."""
    files.replace(directory / JOB_ID, f"{array_id(job_id)}\n".encode())


def read_id(directory: str) -> str | None:
    """The job's ID, if it is known."""
    if directory not in _known:
        raw = files.read_bytes(f"{directory}/{JOB_ID}")
        if not raw:
            return None
        _known[directory] = raw.decode(errors="replace").strip()
    return _known[directory]


def write_answer(directory: Path, answer: str) -> None:
    """Write the scheduler's answer to a submission if it is unclear whether the job exists."""
    files.replace(directory / ANSWER, answer.encode(errors="replace"))


def read_answer(directory: Path) -> str:
    """The scheduler's answer to a submission; empty if it was clear."""
    return (files.read_bytes(directory / ANSWER) or b"").decode(errors="replace")


def read_failure(directory: Path) -> str:
    """Why the agent of an allocation did not start; empty if it did, or nothing is known."""
    return (files.read_bytes(directory / FAILURE) or b"").decode(errors="replace").strip()


def write_at_once(directory: Path, tasks: int) -> None:
    """Write how many tasks of the array may run at a time."""
    files.replace(directory / AT_ONCE, f"{tasks}\n".encode())


def read_at_once(directory: Path) -> int | None:
    """How many tasks of the array may run at a time; None if there is no limit, or it cannot be parsed."""
    raw = (files.read_bytes(directory / AT_ONCE) or b"").strip()
    return int(raw) if raw.isdigit() else None

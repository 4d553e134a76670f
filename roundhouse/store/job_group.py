"""A job that runs more than one attempt, an array say: its directory in the round's, which holds what they share."""

from __future__ import annotations

import shutil
from pathlib import Path

from roundhouse import files
from roundhouse.model.answers import array_id

FOLDER = ".jobs"  # in the round's directory; no experiment's path begins with a dot
SCRIPT, MANIFEST, JOB_ID, AT_ONCE, ANSWER = "job.sh", "manifest", "job_id", "at_once", "answer"

_known: dict[str, str] = {}  # directory -> ID, which stays once it is written


def directory_of(round_directory: Path, name: str) -> Path:
    """Where the job called `name` lies."""
    return round_directory / FOLDER / name


def make(directory: Path) -> None:
    """Make the job's directory. FileNotFoundError: the round's is gone, since it was archived."""
    files.make_directory(directory.parent)
    files.make_directory(directory)


def remove(directory: Path) -> None:
    """Remove a job's directory, as the scheduler has refused the job and nothing refers to it."""
    shutil.rmtree(directory, ignore_errors=True)


def write_id(directory: Path, job_id: str) -> None:
    """Write down the job's ID; that of an array, from the ID of any of its tasks."""
    files.replace(directory / JOB_ID, f"{array_id(job_id)}\n".encode())


def read_id(directory: str) -> str | None:
    """The job's ID, if it is known by now."""
    if directory not in _known:
        raw = files.read_bytes(f"{directory}/{JOB_ID}")
        if not raw:
            return None
        _known[directory] = raw.decode(errors="replace").strip()
    return _known[directory]


def write_answer(directory: Path, answer: str) -> None:
    """Write down what the scheduler said to the submission, where that did not settle whether there is a job."""
    files.replace(directory / ANSWER, answer.encode(errors="replace"))


def read_answer(directory: Path) -> str:
    """What the scheduler said to the submission; empty if that was clear."""
    return (files.read_bytes(directory / ANSWER) or b"").decode(errors="replace")


def write_at_once(directory: Path, tasks: int) -> None:
    """Write down how many tasks of the array the scheduler is asked to run at a time."""
    files.replace(directory / AT_ONCE, f"{tasks}\n".encode())


def read_at_once(directory: Path) -> int | None:
    """How many tasks of the array run at a time; None if that was not bounded, or cannot be understood."""
    raw = (files.read_bytes(directory / AT_ONCE) or b"").strip()
    return int(raw) if raw.isdigit() else None

"""An experiment's files: attempts, claims, results, history, status.json. Only this module knows their names.

An attempt is a log of three files. Each is created exclusively, once, and never changed back:

    job.json     open:  the attempt exists, and the process that opened it may submit it, once
    claim.json   start: one job holds the attempt exclusively; or it is void, and no job may ever start in it
    result.json  close: how it ended

A fourth, verdict.json, is created likewise if a job was ended from outside: the cause that its scheduler reports.

The functions here decide nothing: `model` decides, and the engine and the job itself act.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.model.answers import Scope, task_id
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, hash_of, identity_in
from roundhouse.store import job_group, json_fields
from roundhouse.store.json_files import VERSION, Unreadable, parse, read_if_valid, read_json

ATTEMPTS, CONFIG, STATUS, HISTORY = "attempts", "config.yaml", "status.json", "history.json"
JOB, CLAIM, RESULT, VERDICT = "job.json", "claim.json", "result.json", "verdict.json"
ACCEPTED = "accepted"
PROGRESS, ENVIRONMENT, GONE, CANCEL = "progress.json", "environment.json", "gone", "cancel"
SCRIPT, LOG, SCHEDULER_LOG = "job.sh", "out.log", "scheduler.log"
CARRIED, FREED = "carried.json", "freed"
OF_AN_ATTEMPT = frozenset(
    {JOB, CLAIM, RESULT, VERDICT, PROGRESS, ENVIRONMENT, GONE, CANCEL, SCRIPT, LOG, SCHEDULER_LOG, CARRIED, FREED}
)
OUTPUTS = ("metrics.json", "best.pth", "outputs.npz")  # linked from the experiment's directory once it is completed
NAMES = frozenset({ATTEMPTS, CONFIG, STATUS, HISTORY, ACCEPTED, *OUTPUTS})  # not allowed as names of experiments


# ---------------------------------------------------------------------------------------------- reading


def read(directory: Path) -> Record:
    """Everything known of the experiment in `directory`. Never raises, whatever is there."""
    try:
        return _read(directory)
    except OSError as error:
        return Record(
            directory, damage=f"{error.filename or directory} cannot be read: {error.strerror}", readable=False
        )


def _read(directory: Path) -> Record:
    raw = files.read_bytes(f"{directory}/{HISTORY}")
    attempts: list[Attempt] = []
    if raw is not None:
        try:
            attempts = _from_history(directory, parse(raw))
        except Unreadable as error:
            return Record(directory, compacted=True, damage=f"{HISTORY} {error}")
        last = attempts[-1].number
        # Attempts after a rerun are not in it. One file answers for all, since a round may have thousands of histories.
        if not is_opened(directory, last + 1):
            return Record(directory, tuple(attempts), compacted=True, in_history=last, next_number=last + 1)
    damage: dict[int, str] = {}
    numbers = sorted(int(name) for name in files.list_names(f"{directory}/{ATTEMPTS}") if name.isdigit())
    last = compacted = attempts[-1].number if attempts else 0
    for number in numbers:
        if number <= compacted:
            continue
        place = attempt_directory(directory, number)
        names = set(files.list_names(place))
        if JOB not in names:
            continue  # its opener died before the link: the attempt is not open
        last = number
        try:
            attempts.append(_read_attempt(place, number, names))
        except Unreadable as error:
            damage[number] = f"{ATTEMPTS}/{number}/{error}"
    if damage and raw is None and HISTORY in files.list_names(directory):
        return _read(directory)  # it was compacted meanwhile
    blocking = damage.pop(last, "")
    return Record(
        directory,
        tuple(attempts),
        in_history=compacted,
        damage=blocking,
        notes=tuple(damage.values()),
        next_number=last + 1,
    )


def _read_attempt(place: Path, number: int, names: set[str]) -> Attempt:
    opened_at = files.modified(place / JOB)
    job = read_json(place, JOB)
    if job is None or opened_at is None:
        raise Unreadable(f"{JOB} vanished while it was read")
    try:
        opened = _with_job_id(json_fields.opened(job, opened_at), place)
        claim = _read_claim(place) if CLAIM in names else None
        result = json_fields.result(read_json(place, RESULT)) if RESULT in names else None
        verdict = json_fields.verdict(read_json(place, VERDICT)) if VERDICT in names else None
    except json_fields.INVALID as error:
        raise Unreadable(f"holds an invalid value ({error})") from None
    return Attempt(
        number,
        opened,
        claim,
        result,
        progress=_progress(place) if PROGRESS in names else None,
        progress_at=files.modified(place / PROGRESS) if PROGRESS in names else None,
        gone_at=files.modified(place / GONE) if GONE in names else None,
        cancel=CANCEL in names,
        verdict=verdict,
        result_at=files.modified(place / RESULT) if result is not None and result.guess else None,
    )


def _with_job_id(opened: Opened, place: Path) -> Opened:
    """Add the job's ID, which for a job with several attempts is written once, next to that job's script."""
    if opened.job_id is not None or opened.shared is None:
        return opened
    shared = os.path.normpath(place.parent.parent / opened.shared)
    known = job_group.read_id(shared)
    if known:
        return replace(opened, job_id=task_id(known, opened.index))
    return replace(opened, answer=job_group.read_answer(Path(shared)))


def _read_claim(place: Path) -> Claim | None:
    raw, at = files.read_bytes(f"{place}/{CLAIM}"), files.modified(place / CLAIM)
    if raw is not None and not raw.strip():
        return Claim(at=at or 0.0)  # held, holder unknown: see files.create_exclusive
    return json_fields.claim(read_json(place, CLAIM), at or 0.0)


def _progress(place: Path) -> Progress | None:
    try:
        return json_fields.progress(read_json(place, PROGRESS))
    except Unreadable:
        return None


def _from_history(directory: Path, history: Mapping[str, Any]) -> list[Attempt]:
    try:
        attempts = [
            Attempt(
                number=int(entry["number"]),
                opened=_opened_then(directory, entry),
                claim=json_fields.claim(entry["claim"], _times(entry).get("claim", 0.0)),
                result=json_fields.result(entry["result"]),
                progress=json_fields.progress(entry["progress"]),
                progress_at=_times(entry).get("heartbeat"),
                verdict=json_fields.verdict(entry.get("verdict")),
            )
            for entry in history["attempts"]
        ]
    except json_fields.INVALID as error:
        raise Unreadable(f"holds an invalid value ({error})") from None
    if not attempts:
        raise Unreadable("holds no attempt")
    return attempts


def _times(entry: Mapping[str, Any]) -> dict[str, float]:
    """The times of files by the file server's clock; empty in older histories."""
    return {name: float(at) for name, at in (entry.get("times") or {}).items() if at is not None}


def _opened_then(directory: Path, entry: Mapping[str, Any]) -> Opened:
    """A job.json in the history. For an attempt in a slot, the job's ID is that of the allocation."""
    opened = json_fields.opened(entry["job"], entry["job"].get("at", 0.0))
    return _with_job_id(opened, attempt_directory(directory, entry["number"])) if opened.packed else opened


# ---------------------------------------------------------------------------------------------- attempts


def new_token() -> str:
    """A job name that is never used again: 15 characters, which even old PBS versions accept."""
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return "rh" + "".join(alphabet[byte % 32] for byte in os.urandom(13))


def attempt_directory(directory: Path, number: int) -> Path:
    return directory / ATTEMPTS / str(number)


def files_directory(directory: Path, attempt: Attempt) -> Path:
    """Where the files of a study or a command lie in an attempt's directory: outputs, checkpoints, what is carried."""
    return attempt_directory(directory, attempt.number) / attempt.opened.files


def is_opened(directory: Path, number: int) -> bool:
    """Whether attempt `number` has been opened, as far as is visible here. Faster than reading the record."""
    return files.modified(f"{directory}/{ATTEMPTS}/{number}/{JOB}") is not None  # a Path takes longer than the answer


def open_attempt(directory: Path, number: int, opened: Opened, below: Path | None = None) -> bool:
    """Open attempt `number`, exclusively. False: another process was first, or the directory is gone; do not submit.

    Only the opener of attempt 1 creates the experiment's directory, and only below `below`, the round's directory,
    which is gone if the round was archived.
    """
    place = attempt_directory(directory, number)
    try:
        if number == 1:
            _make_directories(place.parent, below)
    except (FileNotFoundError, NotADirectoryError):
        return False
    value = {
        "version": VERSION,
        "nonce": uuid.uuid4().hex,
        "token": opened.token,
        "job_id": opened.job_id,
        "shared": opened.shared,
        "array_index": opened.index,
        "config_hash": opened.config_hash,
        "scheduler": dict(opened.scheduler),
        "inputs": dict(opened.inputs),
        "mark": str(opened.mark) if opened.mark else None,
        "pause_at": opened.pause_at,
        "answer": "",
        **({"resources": dict(opened.resources)} if opened.resources else {}),
        **({"code": opened.code} if opened.code else {}),
        **({"pin": asdict(opened.pin)} if opened.pin else {}),
        **({"keep_files": True} if opened.keep_files else {}),
        **({"ran": dict(opened.ran)} if opened.ran else {}),
        **({"files": opened.files} if opened.files else {}),
        **({"carry": list(opened.carry)} if opened.carry is not None else {}),
    }
    try:
        files.make_directory(place)
        return files.create_exclusive(place / JOB, value)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make_directories(directory: Path, below: Path | None) -> None:
    if below is None:
        directory.mkdir(parents=True, exist_ok=True)
        return
    place = below
    for part in directory.relative_to(below).parts:
        place = place / part
        files.make_directory(place)


def record_job_id(directory: Path, number: int, job_id: str) -> None:
    """Add the job's ID to job.json. If this write is lost, the job is found again by its name."""
    shared = _complete(directory, number, "job_id", job_id)
    if shared is not None:
        job_group.write_id(shared, job_id)


def record_answer(directory: Path, number: int, answer: str) -> None:
    """Add the scheduler's answer to the submission to job.json. No decision depends on it."""
    _complete(directory, number, "answer", answer)


def _complete(directory: Path, number: int, key: str, text: str) -> Path | None:
    """Add to job.json; for a job with several attempts, return its directory instead, which holds it once for all."""
    path = attempt_directory(directory, number) / JOB
    try:
        value = parse(files.read_bytes(path) or b"")
    except Unreadable:
        return None
    if value.get("shared"):
        return directory / str(value["shared"])
    if "token" in value:  # otherwise the experiment was compacted, and its history is final
        files.replace(path, files.dump({**value, key: text}))
    return None


def void(
    directory: Path,
    number: int,
    cause: Cause,
    why: str,
    jobs: int | None = None,
    scope: Scope = Scope.ALL,
) -> bool:
    """Take the attempt's claim, so that no job can ever start in it. False: a job or another runner was first.

    After a temporary refusal, `jobs` is the number of jobs that the scheduler accepts at most, and `scope` what the
    refusal is about.
    """
    value = {"void": True, "jobs": jobs, "scope": str(scope)}
    return _create(attempt_directory(directory, number) / CLAIM, cause, why, value)


def close(directory: Path, number: int, cause: Cause, why: str) -> bool:
    """Close an attempt whose job can no longer do it. False: it has a result already."""
    return _create(attempt_directory(directory, number) / RESULT, cause, why)


def write_verdict(directory: Path, number: int, cause: Cause, why: str) -> bool:
    """Add the scheduler's cause to an attempt that is closed by a guess. False: another runner was first."""
    return _create(attempt_directory(directory, number) / VERDICT, cause, why)


def _create(path: Path, cause: Cause, why: str, more: Mapping[str, Any] | None = None) -> bool:
    """Create a file with which a runner ends an attempt, or states its cause. False: the file exists already."""
    value = {
        "version": VERSION,
        "nonce": uuid.uuid4().hex,
        "cause": str(cause),
        "why": why,
        "by": f"runner {os.uname().nodename}:{os.getpid()}",
        "at": time.time(),
        **(more or {}),
    }
    try:
        return files.create_exclusive(path, value)
    except (FileNotFoundError, NotADirectoryError):
        return False


# ---------------------------------------------------------------------------------------------- gone, cancel


def mark_gone(directory: Path, number: int) -> None:
    files.touch(attempt_directory(directory, number) / GONE)


def unmark_gone(directory: Path, number: int) -> None:
    files.remove(attempt_directory(directory, number) / GONE)


def request_cancel(directory: Path, number: int) -> None:
    files.touch(attempt_directory(directory, number) / CANCEL)


def to_be_cancelled(directory: Path, number: int) -> bool:
    """Whether the attempt is to be cancelled. A listing is up to date on network file systems too."""
    return CANCEL in files.list_names(attempt_directory(directory, number))


# ---------------------------------------------------------------------------------------------- config


_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # written in C, four times as fast


def write_config(directory: Path, experiment: Experiment) -> None:
    """Write config.yaml, unless it has this content already."""
    value = {"version": VERSION, "round": experiment.round, "group": experiment.group, "path": experiment.path}
    data = yaml.dump({**value, **experiment.identity()}, Dumper=_Dumper, sort_keys=False).encode()
    if files.read_bytes(directory / CONFIG) != data:
        files.replace(directory / CONFIG, data)


def read_config(directory: Path) -> dict[str, Any]:
    """config.yaml as a mapping with round, group, path, study, command, config, after; time_limit, if there is one."""
    path = directory / CONFIG
    raw = files.read_bytes(path)
    if raw is None:
        raise RoundhouseError(f"{path} does not exist: {directory} is not an experiment. runner.py creates experiments")
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = None
    kinds: dict[str, Any] = {"round": str, "path": str, "config": dict, "after": dict, "command": (list, type(None))}
    kinds["time_limit"] = (int, type(None))
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        raise RoundhouseError(
            f"{path} cannot be parsed. Remove it; the next pass that opens an attempt writes it again"
        )
    return {"study": None, "command": None, **value}


def config_hash(config: Mapping[str, Any]) -> str:
    """The hash that job.json must hold for a config.yaml with this content."""
    return hash_of(identity_in(config))


# ---------------------------------------------------------------------------------------------- status


def read_status(directory: Path) -> dict[str, Any] | None:
    """status.json, or None if it is absent or cannot be parsed: it is a view, and is written again."""
    return read_if_valid(directory, STATUS)


def status_says(directory: Path, state: str) -> bool:
    """Whether status.json is complete and holds this state. Faster than parsing it."""
    raw = files.read_bytes(f"{directory}/{STATUS}") or b""
    return raw.endswith(b"}\n") and f'"state": "{state}"'.encode() in raw


def write_status(directory: Path, view: Mapping[str, Any]) -> None:
    """Replace status.json if it differs from `view` in anything but its time."""
    before = read_status(directory) or {}
    before.pop("updated_at", None)
    if before != {"version": VERSION, **view}:
        files.replace(
            directory / STATUS, files.dump({"version": VERSION, **view, "updated_at": time.time()}), durable=False
        )

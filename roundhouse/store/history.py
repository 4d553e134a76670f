"""history.json: a completed experiment is compacted into it, because clusters limit the number of files."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.model.attempt import Attempt, Record
from roundhouse.store import json_fields, record
from roundhouse.store.json_files import VERSION, Unreadable, parse, read_json

_REMOVED = (
    record.PROGRESS,
    record.ENVIRONMENT,
    record.GONE,
    record.CANCEL,
    record.SCRIPT,
)  # history.json has their content


def compact(rec: Record) -> None:
    """Compact a completed experiment: merge its small files into history.json. Safe to repeat, and to be killed in.

    history.json is created once. Attempts after a later rerun are not compacted: they stay next to it.

    The names job.json, claim.json, result.json and verdict.json stay, as hard links to history.json (which cost no
    inode): the exclusive creation still fails for a late runner or job.
    """
    directory, path = rec.directory, rec.directory / record.HISTORY
    if rec.completed is None or rec.damage or (rec.in_history and not rec.compacted):
        return
    if any(attempt.claim is None for attempt in rec.attempts):
        return  # every closed attempt has a claim: if one is not visible, the record was read from a stale cache
    if not rec.compacted:
        entries = [_history_entry(directory, attempt) for attempt in rec.attempts]
        if any(entry["job"] is None for entry in entries):
            return  # as above
        value = {"version": VERSION, "nonce": uuid.uuid4().hex, "attempts": entries}
        files.create_exclusive(path, value)
    try:
        within = {entry["number"] for entry in parse(files.read_bytes(path) or b"")["attempts"]}
    except (Unreadable, *json_fields.INVALID):
        return
    for attempt in rec.attempts:
        if attempt.number not in within:
            continue  # another runner was first, and had read the record before a rerun
        place = record.attempt_directory(directory, attempt.number)
        try:
            for name in set(files.list_names(place)) & {record.JOB, record.CLAIM, record.RESULT, record.VERDICT}:
                files.replace_by_link(place / name, path)
        except FileNotFoundError:
            continue  # another runner compacts the same experiment and has removed our draft
        for name in _REMOVED:
            files.remove(place / name)
        for leftover in place.glob(".draft-*"):
            files.remove(leftover)


def _history_entry(directory: Path, attempt: Attempt) -> dict[str, Any]:
    place = record.attempt_directory(directory, attempt.number)
    entry: dict[str, Any] = {"number": attempt.number}
    for key, name in (
        ("job", record.JOB),
        ("claim", record.CLAIM),
        ("result", record.RESULT),
        ("verdict", record.VERDICT),
        ("progress", record.PROGRESS),
        ("environment", record.ENVIRONMENT),
    ):
        try:
            entry[key] = read_json(place, name)
        except Unreadable as error:
            entry[key] = None
            entry.setdefault("damage", []).append(str(error))
    if entry["job"] is not None:
        entry["job"]["at"] = attempt.opened.at
    entry["times"] = {"claim": attempt.claim.at if attempt.claim else None, "heartbeat": attempt.progress_at}
    return entry


def environments(directory: Path) -> dict[int, dict[str, Any]]:
    """What ran, by attempt: host, device, versions, commit. Attempts without it are left out."""
    found: dict[int, dict[str, Any]] = {}
    last = 0
    try:
        raw = files.read_bytes(f"{directory}/{record.HISTORY}")
        if raw is not None:
            known = {entry["number"]: entry["environment"] for entry in parse(raw)["attempts"]}
            found = {number: one for number, one in known.items() if isinstance(one, dict)}
            last = max(known)
    except (OSError, Unreadable, *json_fields.INVALID):
        return {}
    for number in (int(name) for name in files.list_names(f"{directory}/{record.ATTEMPTS}") if name.isdigit()):
        if number <= last:
            continue
        try:
            environment = read_json(record.attempt_directory(directory, number), record.ENVIRONMENT)
        except (OSError, Unreadable):
            continue
        if environment is not None:
            found[number] = environment
    return dict(sorted(found.items()))

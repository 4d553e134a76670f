"""What must hold after a run of chaos.py: checks of the journal, of submissions, and of the record against both.

Each check returns its findings as text; none means that it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from chaos_journal import LINES
from chaos_round import SHELLS, SUBMISSIONS, Folder

from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause

Line = Mapping[str, Any]  # of the journal


def verify(
    folder: Folder, records: Mapping[str, Record], expected: Mapping[str, str], in_slurm: Sequence[str]
) -> Iterator[str]:
    """Everything that must hold at the end.

    `records`: by ROUND/PATH. `expected`: PATH -> hash of the results. `in_slurm`: names of all jobs that Slurm knows.
    """
    lines = read_lines(folder.journal / LINES)
    yield from one_writer(lines)
    yield from resumed(lines, {path: begins_again(rec.attempts) for path, rec in records.items()})
    yield from tokens_unique(records)
    own = by_path(lines)
    for path, rec in records.items():
        yield from numbered(path, rec)
        yield from completed_once(path, rec.attempts)
        linked = results(rec.directory) if rec.completed else "nothing"
        yield from ran_what_is_recorded(path, rec, own.get(path, []), expected[path.partition("/")[2]], linked)
    known = {attempt.opened.token for rec in records.values() for attempt in rec.attempts}
    known |= {place.name for place in folder.experiments.glob("*/.jobs/*")}
    yield from submitted_once(_words(folder.journal / SHELLS), known, "shell of job")
    yield from submitted_once(_words(folder.journal / SUBMISSIONS), known, "job")
    yield from submitted_once(in_slurm, known, "in Slurm, job")
    if "Traceback" in (folder.base / "calls.log").read_text(errors="replace"):
        yield "a call of runner.py ended with a traceback: see calls.log"


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def read_lines(file: Path) -> list[Line]:
    """The journal; empty if nothing has run."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def by_path(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line["path"]].append(line)
    return found


def one_writer(lines: Iterable[Line]) -> Iterator[str]:
    """No two processes of an experiment were alive at once, none came after a later one, none shared an attempt."""
    for path, own in by_path(lines).items():
        for line in own:
            if line["event"] == "double":
                yield f"{path}: process {line['pid']} of attempt {line['attempt']} started while {line['holder']} lived"
        # `double` is noted by a process that did nothing.
        writers = [key for key, _ in groupby((one["attempt"], one["pid"]) for one in own if one["event"] != "double")]
        for (before, first), (after, second) in zip(writers, writers[1:], strict=False):
            if after <= before:
                yield f"{path}: process {second} wrote in attempt {after} after process {first} in attempt {before}"


def begins_again(attempts: Sequence[Attempt]) -> list[int]:
    """The numbers of the markers after which an experiment begins with nothing.

    These are a rerun, and a retry after which it has other inputs, because what it depends on was run again.
    """
    found, ran = [], None
    marker: Attempt | None = None
    for attempt in attempts:
        if attempt.opened.mark is not None:
            marker = attempt
            if attempt.cause is Cause.RERUN:
                found.append(attempt.number)
            continue
        if marker is not None and marker.cause is Cause.RETRY and ran not in (None, attempt.opened.inputs):
            found.append(marker.number)
        ran, marker = attempt.opened.inputs, None
    return found


def resumed(lines: Iterable[Line], fresh: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Each attempt began with the last epoch that an earlier one had saved, and found all its files.

    `fresh`: the markers of each experiment after which it begins with nothing; see `begins_again`.
    """
    for path, own in by_path(lines).items():
        yield from (f"{path}: {line['file']} is missing or damaged" for line in own if line["event"] == "damaged")
        saved, newest = 0, 0
        for attempt, group in groupby(own, key=lambda line: line["attempt"]):
            epochs = [line["epoch"] for line in group if line.get("epoch") is not None]
            if any(newest < marker < attempt for marker in fresh.get(path, ())):
                saved = 0
            if epochs and epochs[0] < saved:
                yield f"{path}: attempt {attempt} began at epoch {epochs[0]}, but epoch {saved} had been saved"
            saved, newest = max([saved, *epochs]), attempt


def submitted_once(names: Iterable[str], known: set[str], what: str) -> Iterator[str]:
    """No name was submitted twice, and each is known in a record."""
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} {name} was submitted {times} times"
        if name not in known:
            yield f"{what} {name} was submitted, but no record contains it"


def completed_once(path: str, attempts: Sequence[Attempt]) -> Iterator[str]:
    """Between two rerun markers, exactly one attempt is completed, and none that runs follows it."""
    parts: list[list[Attempt]] = [[]]
    for attempt in attempts:
        if attempt.cause is Cause.RERUN:
            parts.append([])
        else:
            parts[-1].append(attempt)
    for number, part in enumerate(parts):
        done = [attempt.number for attempt in part if attempt.cause is Cause.COMPLETED]
        if len(done) != 1:
            yield f"{path}: {len(done)} completed attempts {done} after {number} reruns"
        later = [one.number for one in part if done and one.number > done[0] and one.opened.mark is None]
        if later:
            yield f"{path}: attempts {later} were opened after attempt {done[0]} had completed"


def numbered(path: str, record: Record) -> Iterator[str]:
    """The record is readable, its numbers have no gap, and there is no other attempt on disk."""
    if record.damage or record.notes:
        yield f"{path}: {record.damage} {record.notes}"
    numbers = [attempt.number for attempt in record.attempts]
    opened = (record.directory / "attempts").glob("*/job.json")  # without it, a runner died before it opened it
    there = sorted(int(file.parent.name) for file in opened)
    if not numbers == there == list(range(1, len(numbers) + 1)):
        yield f"{path}: attempts {numbers} in the record, {there} on disk"


def tokens_unique(records: Mapping[str, Record]) -> Iterator[str]:
    """A token belongs to one attempt; or to several in succession of one job, which its scheduler started again."""
    holders: dict[str, list[tuple[str, Attempt]]] = defaultdict(list)
    for path, record in records.items():
        for attempt in record.attempts:
            holders[attempt.opened.token].append((path, attempt))
    for token, found in holders.items():
        for (path, one), (other, next_one) in zip(found, found[1:], strict=False):
            restarted = path == other and next_one.number == one.number + 1 and one.cause is Cause.PREEMPTED
            if not (restarted and one.job_id == next_one.job_id):
                yield f"token {token} is used by {path} attempt {one.number} and {other} attempt {next_one.number}"


def ran_what_is_recorded(path: str, record: Record, lines: Iterable[Line], expected: str, linked: str) -> Iterator[str]:
    """The journal knows each attempt that completed, and all results are those of a run without kills."""
    ends = {line["attempt"]: line["hash"] for line in lines if line["event"] == "end"}
    for attempt in record.attempts:
        if attempt.cause is Cause.COMPLETED and ends.get(attempt.number) != expected:
            found = ends.get(attempt.number, "no end in the journal")
            yield f"{path}: attempt {attempt.number} has the result {found} instead of {expected}"
    if linked != expected:
        yield f"{path}: the results at the top are {linked} instead of {expected}"
    unknown = {line["attempt"] for line in lines} - {attempt.number for attempt in record.attempts}
    if unknown:
        yield f"{path}: attempts {sorted(unknown)} ran, but are not in the record"


def results(directory: Path) -> str:
    """The hash of the results that lie at the top of an experiment's directory."""
    if "study" in directory.parent.name:
        weight = np.load(directory / "outputs.npz")["weight"]
        return hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()
    return str(json.loads((directory / "metrics.json").read_text())["hash"])


class Watcher:
    """Looks at the attempts on disk again and again: a directory, once there, stays, and keeps its token."""

    def __init__(self, experiments: Path) -> None:
        self.experiments = experiments
        self.seen: dict[Path, tuple[int, str]] = {}  # attempt's directory -> inode, token
        self.findings: list[str] = []

    def look(self) -> None:
        for place in self.experiments.glob("*/*/*/attempts/*"):
            try:
                inode = place.stat().st_ino
                job = json.loads((place / "job.json").read_text())
            except (OSError, ValueError):
                continue  # not opened yet
            token = _token(job, int(place.name))
            before = self.seen.setdefault(place, (inode, token))
            if before != (inode, token):
                self.findings.append(f"{place}: was {before}, is {(inode, token)}")
                self.seen[place] = (inode, token)

    def finish(self) -> list[str]:
        self.look()
        lost = [f"{place}: has vanished" for place in self.seen if not place.is_dir()]
        return [*self.findings, *lost]


def _token(job: Mapping[str, Any], number: int) -> str:
    """The token in job.json, which becomes a name of history.json."""
    entries = [entry["job"] for entry in job.get("attempts", ()) if entry["number"] == number]
    return str((entries[0] if entries else job)["token"])

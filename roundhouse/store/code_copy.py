"""Copies of the code: a job runs the tree as it was when it was submitted. There is one copy per state of the tree.

A copy is in its round's directory, `experiments/ROUND/.code/HASH/`. It is made in a draft, which is then renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store.code_tree import Entry, entries_of, left_behind, stamp_of, state_of
from roundhouse.store.git import commit_of, program_state

COPIES = ".code"  # in a round's directory; no experiment's path begins with a dot
ABOUT = ".snapshot.json"  # in a copy: its hash, commit and files
STAMP = ".stamp.json"  # next to the copies: sizes and times of the tree's files when its hash was computed
VERSION = 1
_DIGITS, _SHORT = 16, 7  # of a hash, in names and in messages
_TRIES = 3  # to copy a tree that changes meanwhile
_RECENT = 2.0  # seconds within which a file can change twice without a change of its time
_ABANDONED = 86400.0  # seconds after which a draft is that of a runner that died


@dataclass
class Copies:
    """The code that jobs submitted by one call of runner.py run. The tree is read once, at the first submission.

    `current`: experiments that have run before use the present tree too.
    """

    repository: Path
    experiments: Path
    analysis: Path
    current: bool = False
    present: dict[str, str] = field(default_factory=dict)  # round -> copy of the present tree
    _whole: set[Path] = field(default_factory=set)

    def path(self, round_name: str, code: str) -> Path:
        """The path of a copy."""
        return copy_of(self.experiments / round_name, code).absolute()

    def refusal(self, experiment: Experiment, record: Record) -> str:
        """Why no further attempt can start: its copy of the code is missing. Empty if there is no reason."""
        code = kept(record) if experiment.snapshot and not self.current else None
        if code is None or (copy := self.path(experiment.round, code)) in self._whole:
            return ""
        if not is_whole(copy):
            return f"{copy}, the copy of the code that it ran with, is missing or incomplete. " \
                   "Restore it, or use the present code: --code current"  # fmt: skip
        self._whole.add(copy)
        return ""

    def of(self, experiment: Experiment, record: Record, make: bool = True) -> str | None:
        """The code of the next attempt: the hash of a copy, which then exists. None: the checkout.

        Without `make`, nothing is copied. RoundhouseError: the tree cannot be copied.
        """
        if not experiment.snapshot:
            return None
        code = None if self.current else kept(record)
        if code is not None:
            return code
        name = experiment.round
        if name not in self.present:
            tree, left_out = self.repository, self._left_out()
            copies = self.experiments / name / COPIES
            self.present[name] = take(tree, copies, left_out) if make else _state(_code_in(tree, left_out))
        return self.present[name]

    def _left_out(self) -> tuple[str, ...]:
        """Prefixes of paths that are records, not code."""
        tree, experiments, analysis = map(os.path.realpath, (self.repository, self.experiments, self.analysis))
        return (f"{tree}/experiments/", f"{experiments}/", f"{analysis}/experiment_")


def kept(record: Record) -> str | None:
    """The copy that further attempts use: that of the newest run that a scheduler accepted."""
    for attempt in reversed(record.runs):
        if not (attempt.void and attempt.cause in (Cause.LIMIT, Cause.REFUSED, Cause.SITE, Cause.CANCELLED)):
            return attempt.opened.code
    return None


def copy_of(round_directory: Path, code: str) -> Path:
    return round_directory / COPIES / code


def take(tree: Path, copies: Path, left_out: tuple[str, ...] = ()) -> str:
    """Copy the tree to `copies`, unless this state of it was copied before. Returns the hash of its state.

    RoundhouseError: it cannot be copied. FileNotFoundError: the round's directory is gone.
    """
    files.make_directory(copies)
    now = files.server_time(copies)
    _sweep(copies, now)
    for _ in range(_TRIES):
        entries = _code_in(tree, left_out)
        code = _known(copies, entries) or _state(entries)
        if code and (is_whole(copies / code) or _make(tree, entries, copies, code)):
            if max(one.status.st_ctime for one in entries) < now - _RECENT:
                known = {"version": VERSION, "stamp": stamp_of(entries), "code": code}
                files.replace(copies / STAMP, files.dump(known))
            _link(tree, copies / code, left_behind(tree, entries, left_out))
            return code
    raise RoundhouseError(
        f"the files in {tree} change while they are copied: call runner.py again when they no longer change"
    )


def _code_in(tree: Path, left_out: tuple[str, ...]) -> list[Entry]:
    entries = [one for one in entries_of(tree, left_out) if one.path != ABOUT]
    if not any(one.path == "train.py" for one in entries):
        raise RoundhouseError(f"{tree} contains no train.py to copy: check that git does not ignore it")
    return entries


def _state(entries: Sequence[Entry]) -> str:
    """The hash, shortened for names; empty if a file was removed meanwhile."""
    with suppress(FileNotFoundError):
        return state_of(entries)[:_DIGITS]
    return ""


def _known(copies: Path, entries: Sequence[Entry]) -> str:
    """The hash of the state if no size and time has changed since it was computed; else empty."""
    known = _read(copies / STAMP) or {}
    return str(known.get("code", "")) if known.get("stamp") == stamp_of(entries) else ""


def _make(tree: Path, entries: Sequence[Entry], copies: Path, code: str) -> bool:
    """Copy the entries. False: their hash is not, or no longer, `code`."""
    about = {"version": VERSION, "code": code, **code_state(tree, "normal"), "made_at": time.time(), "tree": str(tree)}
    about["files"] = {one.path: None if one.link is not None else one.status.st_size for one in entries}
    draft = copies / f".draft-{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        if state_of(entries, draft)[:_DIGITS] != code:
            return False
        files.replace(draft / ABOUT, files.dump(about))
        for folder, _, _ in os.walk(draft):
            files.sync_directory(Path(folder))
        _put(draft, copies / code)
    except FileNotFoundError:
        return False
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    files.sync_directory(copies)
    return True


def _put(draft: Path, copy: Path) -> None:
    """Rename the draft. A copy of another runner is kept; an incomplete one is replaced."""
    try:
        os.rename(draft, copy)
    except OSError:
        if not copy.is_dir():
            raise
        if not is_whole(copy):
            aside = copy.with_name(f".draft-{uuid.uuid4().hex}")
            os.rename(copy, aside)
            os.rename(draft, copy)
            shutil.rmtree(aside, ignore_errors=True)


def _link(tree: Path, copy: Path, names: Iterable[str]) -> None:
    """Link what was not copied, such as data/, so that relative paths work from the copy."""
    for name in names:
        with suppress(FileExistsError):
            (copy / name).symlink_to(Path(os.path.realpath(tree), name))


def _sweep(copies: Path, now: float) -> None:
    """Remove drafts of runners that died while they made a copy."""
    for draft in copies.glob(".draft-*"):
        if now - (files.modified(draft) or now) > _ABANDONED:
            shutil.rmtree(draft, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(files.read_bytes(path) or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.get("version") == VERSION else None


# ---------------------------------------------------------------------------------------------- about a copy


def is_whole(copy: Path) -> bool:
    """Whether a copy exists with all its files; only their sizes are compared."""
    about = _read(copy / ABOUT)
    if about is None or not isinstance(about.get("files"), dict):
        return False
    try:
        return all(size in (None, os.lstat(copy / name).st_size) for name, size in about["files"].items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def code_state(tree: Path, untracked: str = "no") -> dict[str, Any]:
    """`commit` of the code in `tree`, and whether it was `edited` since, as `git.commit_of` returns them.

    For a copy: those of the tree that it was made from, and its own hash, `code`.
    """
    about = _read(tree / ABOUT)
    if about is not None:
        return {key: about.get(key) for key in ("commit", "edited", "code")}
    return commit_of(tree, untracked)


def command_state(tree: Path, command: Sequence[str], folder: Path) -> dict[str, Any]:
    """`code_state`, but of the repository that holds the program of a command, if there is one: see `program_state`.

    `tree`: the code that starts the command, in `folder`.
    """
    state = code_state(tree)
    if "code" in state:  # the program in a copy is described by the copy
        whole = os.path.realpath(tree)
        command = [word for word in command if not Path(os.path.realpath(folder / word)).is_relative_to(whole)]
    return state | (program_state(command, folder) or {})


def story(record: Record, round_directory: Path) -> list[str]:
    """A line for the first code that ran, and one for each change of it. Empty if only the checkout ran."""
    lines: list[str] = []
    before: str | None = None
    for number, attempt in enumerate(record.runs):
        code = attempt.opened.code
        if number == 0 and code is not None:
            lines.append(_description(round_directory, code))
        elif code != before:
            lines.append(
                f"changed from {_short(before)} to {_description(round_directory, code)} by attempt {attempt.number}"
            )
        before = code
    return lines


def _short(code: str | None) -> str:
    return code[:_SHORT] if code is not None else "the checkout at that time"


def _description(round_directory: Path, code: str | None) -> str:
    if code is None:
        return _short(code)
    about = _read(copy_of(round_directory, code) / ABOUT)
    if about is None:
        return f"{_short(code)} (its copy is missing)"
    commit = f"commit {str(about['commit'])[:_SHORT]}" if about.get("commit") else "no commit"
    return f"{_short(code)} ({commit}{', edited' * bool(about.get('edited'))})"

"""Calls of git, which only read: the commit of a folder, and whether its files were edited."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse.environ import for_git

_LIMIT = 30.0  # seconds
_NO_REPOSITORY = re.compile("not a git repository|must be run in a work tree")
_OTHER_OWNER = re.compile(r"dubious ownership|unsafe repository")


@dataclass(frozen=True, slots=True)
class GitAnswer:
    """What git printed. `refusal`: why it did not answer; empty if it did, or if the folder is not in a repository."""

    out: bytes = b""
    refusal: str = ""
    ok: bool = True


def ask(folder: Path, *words: str, limit: float = _LIMIT) -> GitAnswer:
    """Run git in `folder`. No variable of the calling shell leads it to another repository.

    TimeoutExpired: it did not end within `limit` seconds.
    """
    argv = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=limit, check=False, env=for_git(os.environ))
    except OSError:  # git is not installed
        return GitAnswer(ok=False)
    if done.returncode == 0:
        return GitAnswer(done.stdout)
    said = os.fsdecode(done.stderr).strip()
    if not said or _NO_REPOSITORY.search(said):
        return GitAnswer(ok=False)
    return GitAnswer(refusal=_reason(folder, said), ok=False)


def _reason(folder: Path, said: str) -> str:
    if not _OTHER_OWNER.search(said):
        return said.splitlines()[0]
    there = re.search(r"'(.*)'", said)
    place = there[1] if there else str(folder)
    return (
        f"git refuses {place}, since another user owns it (dubious ownership). "
        f"To allow it: git config --global --add safe.directory {place}"
    )


def commit_of(folder: Path, untracked: str = "no") -> dict[str, Any]:
    """`commit` of the folder's repository, and whether its files were `edited` since; None if git does not know.

    `git_refusal` is added if git refuses to say. `untracked`: value of git's option --untracked-files, whether
    untracked files count as edits.
    """
    try:
        head = ask(folder, "rev-parse", "--verify", "--quiet", "HEAD")
        changed = ask(folder, "status", "--porcelain", f"--untracked-files={untracked}")
    except subprocess.TimeoutExpired:
        return {"commit": None, "edited": None, "git_refusal": f"git did not answer within {_LIMIT:g} s"}
    state: dict[str, Any] = {
        "commit": os.fsdecode(head.out).strip() or None,
        "edited": bool(changed.out.strip()) if changed.ok else None,
    }
    refusal = head.refusal or changed.refusal
    return state | {"git_refusal": refusal} if refusal else state


def program_state(command: Sequence[str], folder: Path) -> dict[str, Any] | None:
    """`repository` that holds the program of a command run in `folder`, with `commit` and `edited`; None if unknown.

    The program is the first word that names a file which git tracks, or would track: in `python -u train.py`, that is
    train.py, because git ignores what is in an environment or outside of repositories.
    """
    for number, word in enumerate(command):
        file = folder / word
        if not (number or "/" in word) or not os.path.isfile(file):
            continue
        try:
            tracked = ask(file.parent, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", file.name)
            top = ask(file.parent, "rev-parse", "--show-toplevel")
            new = ask(file.parent, "ls-files", "-z", "--others", "--", file.name)
        except subprocess.TimeoutExpired:
            return None
        if tracked.refusal:
            return {"commit": None, "edited": None, "git_refusal": tracked.refusal}
        if tracked.out:
            state = {"repository": os.fsdecode(top.out).rstrip("\n"), **commit_of(file.parent)}
            return state | ({"edited": True} if new.out else {})
    return None

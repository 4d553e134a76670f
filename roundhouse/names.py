"""Names that the user types: which are legal, and the nearest one that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from roundhouse.errors import RoundhouseError

MOST = 12  # names in one message
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)


def is_name(name: str) -> bool:
    """Whether a round, group or site can have this name: letters, digits, - and _, no - first."""
    return _NAME.fullmatch(name) is not None


def is_identifier(name: str) -> bool:
    """Whether a config key or a study can have this name: ASCII letters, digits and _, no digit first."""
    return name.isidentifier() and name.isascii()


def nearest(name: str, known: Iterable[str], most: int = MOST) -> str:
    """The end of a message about an unknown name: `did you mean 'grid'?`, or up to `most` names if none is near."""
    from difflib import get_close_matches

    by_lower = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"did you mean {by_lower[close[0]]!r}?"
    named = sorted(by_lower.values())
    listed = ", ".join(named[:most]) + (f", and {len(named) - most} more" if len(named) > most else "")
    return f"there {'is' if len(named) == 1 else 'are'} {listed or 'none'}"


def named_files(folder: Path) -> list[Path]:
    """The files NAME.yaml in a folder, by name; none if there is no folder."""
    return sorted(file for file in folder.glob("*.yaml") if is_name(file.stem) and file.is_file())


def named_file(kind: str, name: str, folder: Path) -> Path:
    """`FOLDER/NAME.yaml`. If there is none, a RoundhouseError names the nearest one and lists those that exist."""
    path = folder / f"{name}.yaml"
    if is_name(name) and path.is_file():
        return path
    existing = [file.stem for file in named_files(folder)]
    if not existing:
        raise RoundhouseError(f"no {kind} {name!r}: there is no {kind} file (NAME.yaml) in {folder}")
    message = f"no {kind} {name!r} in {folder}: {nearest(Path(name).stem, existing)}"
    if "did you mean" in message:
        message += f" There {'is' if len(existing) == 1 else 'are'} {', '.join(existing)}"
    if not is_name(name):
        message += f"\nA {kind} is named by letters, digits, - and _ only, without folder or ending"
    raise RoundhouseError(message)

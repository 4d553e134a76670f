"""The YAML files of a folder that are selected by name: rounds and sites."""

from __future__ import annotations

from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.names import is_name, nearest


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
        message += f" Available: {', '.join(existing)}"
    if not is_name(name):
        message += f"\nThe name of a {kind} consists of letters, digits, - and _, without directory or extension"
    raise RoundhouseError(message)

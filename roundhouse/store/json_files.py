"""JSON files of the record, read strictly: an object of the version that this Roundhouse writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roundhouse import files

VERSION = 1


class Unreadable(Exception):
    """A file of the record exists and cannot be parsed."""


def parse(raw: bytes) -> dict[str, Any]:
    """The object in the content of a file. Unreadable: there is none, or it is of another version."""
    if not raw.strip():
        raise Unreadable("is empty")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise Unreadable("is not valid JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("does not hold a JSON object")
    if value.get("version", 0) != VERSION:
        raise Unreadable(f"has version {value.get('version')!r}; this Roundhouse reads version {VERSION}")
    return value


def read_json(place: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of the record; None if it is absent. Unreadable: as for `parse`, with the name of the file."""
    raw = files.read_bytes(f"{place}/{name}")
    if raw is None:
        return None
    try:
        return parse(raw)
    except Unreadable as error:
        raise Unreadable(f"{name} {error}") from None


def read_if_valid(place: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of the record; None if it is absent or cannot be parsed."""
    try:
        return parse(files.read_bytes(f"{place}/{name}") or b"")
    except Unreadable:
        return None

"""The paths that experiments can have: below the round's folder, and none inside another."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache

from roundhouse.store.record import NAMES

LONGEST_COMPONENT = 200  # bytes; file systems allow 255, temporary names need some


def path_fault(path: str) -> str | None:
    """Why a path within a round is not legal, or None."""
    if path.startswith("/"):
        return "is absolute; it must be relative to the round's directory"
    for component in path.split("/"):
        fault = _component_fault(component)
        if fault:
            return fault
    return None


@lru_cache(maxsize=65536)
def _component_fault(component: str) -> str | None:
    if not component:
        return "has an empty component"
    if component in (".", ".."):
        return f"has the component {component!r}, which could lead out of the round's directory"
    if component[0] in ".-":
        return f"has a component that begins with {component[0]!r}: {component!r}"
    if "\\" in component or not component.isprintable():
        return f"has a backslash or a control character: {component!r}"
    if component != component.strip():
        return f"has a component that begins or ends with a space: {component!r}"
    if len(component.encode()) > LONGEST_COMPONENT:
        return f"has a component longer than {LONGEST_COMPONENT} bytes: {component[:40]!r}..."
    if not component.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":
        return f"is not ASCII, and this locale encodes file names as {encoding}, not UTF-8: set PYTHONUTF8=1"
    if component in NAMES:
        return f"has the component {component!r}, which is a file name of the record"
    return None


def ancestors_among(paths: Iterable[str]) -> dict[str, str]:
    """Paths that are folders of other paths, each with one path inside it."""
    paths = list(paths)
    inside: dict[str, str] = {}
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in inside:
            inside[parent] = path
            parent = parent.rpartition("/")[0]
    return {path: inside[path] for path in paths if path in inside}

"""Names that the user types: which are legal, and the nearest one that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 12  # names in one message
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)


def is_name(name: str) -> bool:
    """Whether a round, group or site can have this name: letters, digits, - and _, not beginning with -."""
    return _NAME.fullmatch(name) is not None


def is_identifier(name: str) -> bool:
    """Whether a config key or a study can have this name: ASCII letters, digits and _, no digit first."""
    return name.isidentifier() and name.isascii()


def similar_to(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to an unknown one; None if none is similar."""
    from difflib import get_close_matches

    by_lower = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def nearest(name: str, known: Iterable[str], most: int = MOST) -> str:
    """The end of a message about an unknown name: `did you mean 'grid'?`, or up to `most` names if none is similar."""
    named = sorted({one.lower(): one for one in known}.values())
    if (similar := similar_to(name, named)) is not None:
        return f"did you mean {similar!r}?"
    if not named:
        return "there are none"
    listed = ", ".join(named[:most]) + (f", and {len(named) - most} more" if len(named) > most else "")
    return f"choose from {listed}"

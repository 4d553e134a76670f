"""A part of the written summary that the analyses of all studies share: what a round lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def missing_lines(lines: Sequence[str], most: int) -> Iterator[str]:
    """The first `most` lines about what is missing as a list, and how many more there are."""
    yield from (f"- {one}" for one in lines[:most])
    if len(lines) > most:
        yield f"- {len(lines) - most} more: run `python analysis/suite.py` to see them."
    if not lines:
        yield "Nothing."

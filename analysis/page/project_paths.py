"""Paths as the page shows them: relative to the project, and without the name of anybody's home directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.rounds import REPOSITORY

Shorten = Callable[[str], str]

_HOMES = r"(?:/[\w.+-]+){0,2}/(?:home|homes|users|Users)/(?:[a-z]/)?[^/\s'\"<>:;,)]+"  # also those of other computers


def shortener(folders: Sequence[Path]) -> Shorten:
    """A function that shortens the paths in a text.

    A path in one of the `folders` begins with the folder's name, a path in the repository has no prefix, and `~` stands
    for any home directory.
    """
    names = {str(one): folder.name for folder in folders for one in (folder, folder.resolve())}
    names |= {str(one): "." for one in (REPOSITORY, REPOSITORY.resolve())}
    names |= {str(one): "~" for one in (Path.home(), Path.home().resolve())}
    names = {path: name for path, name in names.items() if path != "/"}
    known = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.~/+-])(?:(?P<known>{known})(?![\w.+-])|{_HOMES})(?P<slash>/?)")

    def short(found: re.Match[str]) -> str:
        name = names.get(found["known"] or "", "~")
        return "" if name == "." and found["slash"] else name + found["slash"]

    return lambda text: pattern.sub(short, text)


def shortened(value: Any, shorten: Shorten) -> Any:
    """Plain data in which all texts are shortened; the keys of mappings are kept."""
    if type(value) is str:  # not Markup
        return shorten(value)
    if isinstance(value, Path):
        return shorten(str(value))
    if isinstance(value, dict):
        return {key: shortened(one, shorten) for key, one in value.items()}
    return [shortened(one, shorten) for one in value] if isinstance(value, list) else value

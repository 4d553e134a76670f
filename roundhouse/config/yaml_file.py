"""YAML files written by the user, read strictly: every mistake is reported with file, line and the nearest legal name.

Numbers are read as in YAML 1.2 (1e-3 is a number, 2:00:00 is text), booleans as in YAML 1.1 (also yes, no, on, off).
Values with more than one possible meaning (dates, 007, 1_000) are mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from roundhouse import schema
from roundhouse.errors import RoundhouseError
from roundhouse.schema import Location

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastestLoader
else:
    _FastestLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Model = TypeVar("Model")
DEEPEST = 50  # levels of mappings and lists; versions of PyYAML and of Python differ in what they can read
_TAG = "tag:yaml.org,2002:"
_PLAIN = [
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF")),
    ("int", re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(?:_[0-9]+)*)")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")),
    ("timestamp", re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?")),
]


class YamlFile:
    """A file's `data`, the line of each key and item in it, and the mistakes found so far."""

    def __init__(self, path: Path, builder: _Builder, data: dict[str, Any]) -> None:
        self.path = path
        self.data = data
        self._lines = builder.lines
        self._first_line = builder.first_line
        self._problems = builder.problems

    def line(self, location: Location) -> int:
        """The line of the key or item at `location`, or of the innermost part of it that exists; from 1."""
        value, line = self.data, self._first_line
        for part in location:
            lines = self._lines.get(id(value), {})
            if part not in lines:
                break
            value, line = value[part], lines[part]  # type: ignore[index]
        return line

    def problem(self, location: Location, message: str) -> None:
        """Note a mistake; `check` reports it."""
        self._problems.append((self.line(location), message))

    def check(self) -> None:
        """Raise one RoundhouseError with all mistakes in the order of their lines, if there are any."""
        if self._problems:
            ordered = dict.fromkeys(sorted(self._problems))
            raise RoundhouseError("\n".join(f"{self.path}:{line}: {message}" for line, message in ordered))

    def read_as(self, model: type[Model]) -> Model:
        """The data as a dataclass. RoundhouseError with all mistakes so far."""
        content = schema.read(model, self.data, self.problem)
        self.check()
        return content


def read_yaml(path: Path) -> YamlFile:
    """Read one mapping from a file. RoundhouseError if it is not readable YAML.

    Mistakes inside it (a duplicate key, a date) are kept for `check`.
    """
    try:
        text = path.read_text(encoding="utf-8")
        builder = _Builder(path, text, _FastestLoader)
        data = builder.document()
    except OSError as error:
        raise RoundhouseError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RoundhouseError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        # The parser written in C reads ahead, and newer versions of it limit the depth. The one in Python does not.
        with suppress(yaml.YAMLError):
            _Builder(path, text, yaml.SafeLoader).document()
        raise RoundhouseError(_syntax_error(path, text, error)) from None
    except yaml.YAMLError as error:
        raise RoundhouseError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not builder.first_line:
        raise RoundhouseError(f"{path}: is empty")
    if not isinstance(data, dict):
        raise RoundhouseError(f"{path}:{builder.first_line}: must be a mapping (KEY: VALUE lines)")
    return YamlFile(path, builder, data)


def _syntax_error(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = text.splitlines()
    hint = ""
    if number <= len(lines) and re.search(r"[:-]\s+\{\w+\}", lines[number - 1]):
        hint = "; text that begins with { needs quotes"
    elif number <= len(lines) and lines[number - 1].startswith("\t"):
        hint = "; indent with spaces, not with tabs"
    return f"{path}:{number}: is not YAML: {error.problem or error.context}{hint}"


class _Builder:
    """Builds plain data from the parser's events, with the line of each key and item.

    `lines`: for the `id` of each mapping and list, the line of each key or index.
    """

    def __init__(self, path: Path, text: str, loader: type[yaml.SafeLoader]) -> None:
        self.lines: dict[int, dict[Any, int]] = {}
        self.problems: list[tuple[int, str]] = []
        self.first_line = 0
        self._path = path
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._anchors: dict[str, Any] = {}

    def document(self) -> Any:
        """The only document of the file; None if it has none."""
        value = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.first_line:
                    raise self._error(event, "is not YAML: found another document")
                root = next(self._events)
                self.first_line = _line(root)
                value = self._value(root, 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        """A string, number, boolean, None, list or dict. An anchored value is built once and shared."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._error(event, f"is not YAML: found undefined alias {event.anchor!r}")
            found = self._anchors[event.anchor]
            if isinstance(found, yaml.CollectionStartEvent):
                raise self._error(found, "the value anchored here contains itself")
            return found
        if event.anchor in self._anchors:
            raise self._error(event, f"is not YAML: found duplicate anchor {event.anchor!r}")
        if event.anchor:
            self._anchors[event.anchor] = event  # until it is built
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif depth == DEEPEST:
            raise self._error(event, f"values are nested more than {DEEPEST} levels deep")
        else:
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            value = self._mapping(depth + 1) if is_mapping else self._list(depth + 1)
            if event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
                value = self._wrong(event, f"values of type {_short(event.tag)} are not supported")
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        lines = self.lines[id(items)] = {}
        for event in self._items():
            lines[len(items)] = _line(event)
            items.append(self._value(event, depth))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        own_lines: dict[Any, int] = {}
        merged: dict[str, Any] = {}
        merged_lines: dict[Any, int] = {}
        for key_event in self._items():
            is_merge = isinstance(key_event, yaml.ScalarEvent) and key_event.value == "<<" and key_event.implicit[0]
            key = self._value(key_event, depth)
            value = self._value(next(self._events), depth)
            if is_merge:
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        self._wrong(key_event, "<< merges mappings only")
                        continue
                    merged = {**source, **merged}
                    merged_lines = {**self.lines[id(source)], **merged_lines}
            elif not isinstance(key, str):
                shown = key_event.value if isinstance(key_event, yaml.ScalarEvent) else "here"
                self._wrong(key_event, f"the key {shown} must be text: quote it")
            elif key in own:
                self._wrong(key_event, f"the key {key!r} appears twice (first on line {own_lines[key]})")
            else:
                own[key], own_lines[key] = value, _line(key_event)
        mapping = {**merged, **own}
        self.lines[id(mapping)] = {**merged_lines, **own_lines}
        return mapping

    def _items(self) -> Iterable[Any]:
        """The events that begin an item, up to the end of the mapping or list."""
        return iter(self._next_item, None)

    def _next_item(self) -> Any:
        event = next(self._events)
        return None if isinstance(event, yaml.CollectionEndEvent) else event

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        kind = _kind_of(event)
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind == "timestamp":
            return self._wrong(event, f"{text} is a date in YAML: quote it")
        if kind == "int":
            with suppress(ValueError):
                if "_" not in text:
                    return int(text, 0)
            return self._wrong(
                event, f"{text} has two possible meanings: quote it if it is text, else write it in full"
            )
        if kind == "float":
            with suppress(ValueError):
                if math.isfinite(number := float(text)):
                    return number
            return self._wrong(event, f"{text} is not a finite number")
        return self._wrong(event, f"values of type {_short(str(event.tag))} are not supported")

    def _wrong(self, event: Any, message: str) -> Any:
        """Note a mistake; the value is None."""
        self.problems.append((_line(event), message))

    def _error(self, event: Any, message: str) -> RoundhouseError:
        return RoundhouseError(f"{self._path}:{_line(event)}: {message}")


def _kind_of(event: yaml.ScalarEvent) -> str:
    """The type of a scalar: its tag, or for plain text the first that its pattern fits."""
    if event.tag not in (None, "!"):
        return str(event.tag).removeprefix(_TAG)
    kinds = (kind for kind, pattern in _PLAIN if event.implicit[0] and pattern.fullmatch(event.value))
    return next(kinds, "str")


def _line(event: Any) -> int:
    """The line where an event begins; from 1."""
    return int(event.start_mark.line) + 1


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")

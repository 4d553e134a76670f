"""YAML files written by the user, read strictly: every mistake is reported with file, line and the nearest legal name.

Numbers are read as in YAML 1.2 (1e-3 is a number, 2:00:00 is text), booleans as in YAML 1.1 (also yes, no, on, off).
Values with more than one possible meaning (dates, 007, 1_000) are mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
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
Place = tuple[Path, int]  # a file, and a line of it, from 1
DEEPEST = 50  # levels of mappings and lists; versions of PyYAML and of Python differ in what they can read
_TAG = "tag:yaml.org,2002:"
_UNFINISHED = object()


class Places:
    """The place (file, and line from 1) of each key of some mappings, and of each item of some lists.

    Mappings and lists are known by their `id`, so they are kept alive.
    """

    def __init__(self, *others: Places) -> None:
        self._known: dict[int, tuple[Any, Mapping[Any, Place]]] = {}
        for other in others:
            self._known |= other._known

    def note(self, value: Any, places: Mapping[Any, Place]) -> None:
        """`places`: that of each key or item of `value`."""
        self._known[id(value)] = value, places

    def of(self, value: Any) -> Mapping[Any, Place]:
        """The place of each key or item of `value`; empty if it is not known."""
        return self._known[id(value)][1] if id(value) in self._known else {}


class YamlFile:
    """A file's `data`, the place of each key and item in it, and the mistakes found so far.

    Some of the data may be from another file: see `extends`. `first`: where the data begins.
    """

    def __init__(self, data: Any, places: Places, first: Place, problems: Iterable[tuple[Place, str]] = ()) -> None:
        self.data, self.places = data, places
        self._first, self._problems = first, list(problems)

    @property
    def path(self) -> Path:
        return self._first[0]

    def place(self, location: Location) -> Place:
        """The place of the key or item at `location`, or of the innermost part of it that exists."""
        value, place = self.data, self._first
        for part in location:
            places = self.places.of(value)
            if part not in places:
                break
            value, place = value[part], places[part]
        return place

    def problem(self, location: Location, message: str) -> None:
        """Note a mistake; `check` reports it."""
        self._problems.append((self.place(location), message))

    def check(self) -> None:
        """Raise one RoundhouseError with all mistakes in the order of their lines, if there are any."""
        if not self._problems:
            return
        ordered = dict.fromkeys(sorted(self._problems, key=lambda one: (one[0][0] != self.path, *one)))
        extending = f" (as {self.path.name} extends it)"
        lines = [f"{path}:{line}: {why}{extending * (path != self.path)}" for (path, line), why in ordered]
        raise RoundhouseError("\n".join(lines))

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
        _check_depth(path, text, _FastestLoader)
        root = yaml.compose(text, _Loader)
        if root is None:
            raise RoundhouseError(f"{path}: is empty")
        if not isinstance(root, yaml.MappingNode):
            raise RoundhouseError(f"{path}:{_line(root)}: must be a mapping (KEY: VALUE lines)")
        builder = _Builder(path)
        return YamlFile(builder.value(root), builder.places, builder.place(root), builder.problems)
    except OSError as error:
        raise RoundhouseError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RoundhouseError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        # The parser written in C reads ahead, and newer versions of it limit the depth. The one in Python does not.
        with suppress(yaml.YAMLError):
            _check_depth(path, text, yaml.SafeLoader)
        raise RoundhouseError(_syntax_error(path, text, error)) from None
    except yaml.YAMLError as error:
        raise RoundhouseError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None


def _check_depth(path: Path, text: str, loader: type[yaml.SafeLoader]) -> None:
    """RoundhouseError if values are nested too deep for functions that call themselves for each level."""
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RoundhouseError(f"{path}:{_line(event)}: values are nested more than {DEEPEST} levels deep")


def _syntax_error(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    line = [*text.splitlines(), ""][number - 1]
    hint = ""
    if re.search(r"[:-]\s+\{\w+\}", line):
        hint = "; text that begins with { needs quotes"
    elif line.startswith("\t"):
        hint = "; indent with spaces, not with tabs"
    problem = ", ".join(filter(None, (error.context, error.problem)))
    return f"{path}:{number}: is not valid YAML: {problem}{hint}"


class _Loader(_FastestLoader):
    """Parses text to nodes. The tag of plain text is that of the first of these patterns that fits."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    ("int", r"[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(?:_[0-9]+)*)"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
    ("timestamp", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"),
    ("merge", r"<<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


class _Builder:
    """Builds plain data from the nodes of a file."""

    def __init__(self, path: Path) -> None:
        self.places = Places()
        self.problems: list[tuple[Place, str]] = []
        self._path = path
        self._built: dict[yaml.Node, Any] = {}  # _UNFINISHED while its items are built

    def value(self, node: yaml.Node) -> Any:
        """A string, number, boolean, None, list or dict. An anchored list or mapping is built once and shared."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node not in self._built:
            self._built[node] = _UNFINISHED
            built = self._mapping(node) if isinstance(node, yaml.MappingNode) else self._list(node)
            wanted = _TAG + ("map" if isinstance(built, dict) else "seq")
            self._built[node] = built if node.tag == wanted else self._unsupported(node)
        elif self._built[node] is _UNFINISHED:
            problem = "the value anchored here contains itself"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return self._built[node]

    def _list(self, node: yaml.Node) -> list[Any]:
        items = [self.value(item) for item in node.value]
        self.places.note(items, dict(enumerate(map(self.place, node.value))))
        return items

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        own_places: dict[Any, Place] = {}
        merged: dict[str, Any] = {}
        merged_places: dict[Any, Place] = {}
        for key_node, value_node in node.value:
            key, value = self.value(key_node), self.value(value_node)
            if key_node.tag == _TAG + "merge":
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        self._wrong(key_node, "<< merges mappings only")
                        continue
                    merged = {**source, **merged}
                    merged_places = {**self.places.of(source), **merged_places}
            elif not isinstance(key, str):
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "here"
                self._wrong(key_node, f"the key {shown} must be text: quote it")
            elif key in own:
                self._wrong(key_node, f"the key {key!r} appears twice (first on line {own_places[key][1]})")
            else:
                own[key], own_places[key] = value, self.place(key_node)
        mapping = {**merged, **own}
        self.places.note(mapping, {**merged_places, **own_places})
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind in ("str", "merge"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind == "timestamp":
            return self._wrong(node, f"{text} is a date in YAML: quote it")
        if kind == "int":
            with suppress(ValueError):
                if "_" not in text:
                    return int(text, 0)
            return self._wrong(node, f"{text} has two possible meanings: quote it if it is text, else write it in full")
        if kind == "float":
            with suppress(ValueError):
                if math.isfinite(number := float(text)):
                    return number
            return self._wrong(node, f"{text} is not a finite number")
        return self._unsupported(node)

    def _unsupported(self, node: yaml.Node) -> Any:
        return self._wrong(node, f"values of type {node.tag.replace(_TAG, '!!')} are not supported")

    def _wrong(self, node: yaml.Node, message: str) -> Any:
        """Note a mistake; the value is None."""
        self.problems.append((self.place(node), message))

    def place(self, node: yaml.Node) -> Place:
        return self._path, _line(node)


def _line(part: Any) -> int:
    """The line where a node or an event begins; from 1."""
    return int(part.start_mark.line) + 1

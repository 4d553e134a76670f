"""YAML files written by the user, read strictly: every mistake is reported with file, line and the nearest legal name.

Numbers are read as in YAML 1.2 (1e-3 is a number, 2:00:00 is text), booleans as in YAML 1.1 (also yes, no, on, off).
Values with more than one possible meaning (dates, 007, 1_000) are mistakes.
"""

from __future__ import annotations

import math
import re
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
_UNFINISHED = object()


class YamlFile:
    """A file's `data`, the line of each key and item in it, and the mistakes found so far."""

    def __init__(self, path: Path, root: yaml.Node) -> None:
        builder = _Builder()
        self.path = path
        self.data = builder.value(root)
        self._first_line = _line(root)
        self._lines = builder.lines
        self._problems = builder.problems

    def line(self, location: Location) -> int:
        """The line of the key or item at `location`, or of the innermost part of it that exists; from 1."""
        value, line = self.data, self._first_line
        for part in location:
            lines = self._lines.get(id(value), {})
            if part not in lines:
                break
            value, line = value[part], lines[part]
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
        _check_depth(path, text, _FastestLoader)
        root = yaml.compose(text, _Loader)
        if root is None:
            raise RoundhouseError(f"{path}: is empty")
        if not isinstance(root, yaml.MappingNode):
            raise RoundhouseError(f"{path}:{_line(root)}: must be a mapping (KEY: VALUE lines)")
        return YamlFile(path, root)
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
    """Builds plain data from nodes.

    `lines`: for the `id` of each mapping and list, the line of each key or index.
    """

    def __init__(self) -> None:
        self.lines: dict[int, dict[Any, int]] = {}
        self.problems: list[tuple[int, str]] = []
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
        self.lines[id(items)] = dict(enumerate(map(_line, node.value)))
        return items

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        own_lines: dict[Any, int] = {}
        merged: dict[str, Any] = {}
        merged_lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key, value = self.value(key_node), self.value(value_node)
            if key_node.tag == _TAG + "merge":
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        self._wrong(key_node, "<< merges mappings only")
                        continue
                    merged = {**source, **merged}
                    merged_lines = {**self.lines[id(source)], **merged_lines}
            elif not isinstance(key, str):
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "here"
                self._wrong(key_node, f"the key {shown} must be text: quote it")
            elif key in own:
                self._wrong(key_node, f"the key {key!r} appears twice (first on line {own_lines[key]})")
            else:
                own[key], own_lines[key] = value, _line(key_node)
        mapping = {**merged, **own}
        self.lines[id(mapping)] = {**merged_lines, **own_lines}
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
        self.problems.append((_line(node), message))


def _line(part: Any) -> int:
    """The line where a node or an event begins; from 1."""
    return int(part.start_mark.line) + 1

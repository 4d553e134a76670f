"""YAML files written by people, read strictly: every mistake is told with file, line and the nearest legal name.

Numbers are read as YAML 1.2 has them (1e-3 is a number, 2:00:00 is text), booleans as YAML 1.1 (yes, no, on, off too).
What YAML would guess at (dates, 007, 1_000) is a mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from yaml import SafeLoader as _FastestLoader
else:
    _FastestLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Location = Sequence[str | int]
DEEPEST = 50  # levels of mappings and lists; versions of PyYAML and of Python differ in what they can read
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"


class StrictModel(BaseModel):
    """What a file may hold: no other keys, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Model = TypeVar("Model", bound=BaseModel)


class YamlFile:
    """A file's `data`, the line of everything in it, and the problems found so far."""

    def __init__(self, path: Path, root: yaml.Node, data: Any, problems: list[tuple[int, str]]) -> None:
        self.path = path
        self.data = data
        self._root = root
        self._problems = problems

    def line(self, location: Location) -> int:
        """The line of the key or item at `location`, or of the innermost part of it that exists; from 1."""
        node, line = self._root, _line(self._root)
        for part in location:
            found = _child(node, part)
            if found is None:
                break
            node, line = found
        return line

    def problem(self, location: Location, message: str) -> None:
        """Note a mistake; `check` tells it."""
        self._problems.append((self.line(location), message))

    def check(self) -> None:
        """Raise one RoundhouseError with all problems in the order of their lines, if there is any."""
        if self._problems:
            ordered = dict.fromkeys(sorted(self._problems))
            raise RoundhouseError("\n".join(f"{self.path}:{line}: {message}" for line, message in ordered))

    def validate(self, model: type[Model]) -> Model:
        """The data as `model`; a RoundhouseError tells all that does not fit."""
        try:
            content = model.model_validate(self.data)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self.problem(*_explain(detail, model))
            self.check()
            raise
        self.check()
        return content


def read_yaml(path: Path) -> YamlFile:
    """Read one mapping from a file.

    Problems inside it (a key twice, a date) are kept for `check`. RoundhouseError if it is no readable YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(path, text, _FastestLoader)
        root = _compose(text)
        builder = _Builder(path)
        data = builder.build(root) if root else None
    except OSError as error:
        raise RoundhouseError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RoundhouseError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        # The parser written in C reads ahead, and newer versions of it have a limit there. The one in Python has none.
        with suppress(yaml.YAMLError):
            _check_depth(path, text, yaml.SafeLoader)
        raise RoundhouseError(_syntax_error(path, text, error)) from None
    except yaml.YAMLError as error:
        raise RoundhouseError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if root is None:
        raise RoundhouseError(f"{path}: is empty")
    if not isinstance(root, yaml.MappingNode):
        raise RoundhouseError(f"{path}:{_line(root)}: must be a mapping (KEY: VALUE lines)")
    return YamlFile(path, root, data, builder.problems)


class _Loader(_FastestLoader):
    """Parses to nodes; which plain words are numbers and the like is said below."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(?:_[0-9]+)*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("timestamp", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?", "0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_first))


def _check_depth(path: Path, text: str, loader: type[yaml.SafeLoader]) -> None:
    """RoundhouseError if values are nested more than DEEPEST levels deep: what builds them would recurse so deep."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RoundhouseError(f"{path}:{_line(event)}: values are nested more than {DEEPEST} levels deep")


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


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
    """Builds plain data from nodes, and notes by line what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[tuple[int, str]] = []
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()

    def build(self, node: yaml.Node) -> Any:
        """A string, number, boolean, None, list or dict. What is anchored is built once and shared."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise RoundhouseError(f"{self._path}:{_line(node)}: what is anchored here contains itself")
        if id(node) not in self._built:
            self._open.add(id(node))
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                self._built[id(node)] = self._mapping(node)
            elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                self._built[id(node)] = [self.build(item) for item in node.value]
            else:
                self._built[id(node)] = self._wrong(node, f"values of type {_short(node.tag)} have no place here")
            self._open.discard(id(node))
        return self._built[id(node)]

    def _wrong(self, node: yaml.Node, message: str) -> Any:
        """Note a mistake; None stands in for the value."""
        self.problems.append((_line(node), message))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for source in _merge_sources(value_node):
                    merged = {**self.build(source), **merged}
                continue
            key, value = self.build(key_node), self.build(value_node)
            if not isinstance(key, str):
                self._wrong(key_node, f"the key {_source(key_node)} must be text: quote it")
            elif key in own:
                self._wrong(key_node, f"the key {key!r} appears twice (first on line {lines[key]})")
            else:
                own[key], lines[key] = value, _line(key_node)
        return {**merged, **own}

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.tag == _TAG + "str":
            return text
        if node.tag == _TAG + "null":
            return None
        if node.tag == _TAG + "bool":
            return text.lower() in ("yes", "true", "on")
        if node.tag == _TAG + "int":
            return self._integer(node, text)
        if node.tag == _TAG + "float":
            return self._float(node, text)
        if node.tag == _TAG + "timestamp":
            return self._wrong(node, f"{text} is a date to YAML: quote it")
        return self._wrong(node, f"values of type {_short(node.tag)} have no place here")

    def _integer(self, node: yaml.ScalarNode, text: str) -> Any:
        try:
            if "_" not in text:
                return int(text, 0)
        except ValueError:
            pass
        return self._wrong(node, f"{text} can be read in two ways: quote it if it is text, else write the plain number")

    def _float(self, node: yaml.ScalarNode, text: str) -> Any:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return number if math.isfinite(number) else self._wrong(node, f"{text} is not a finite number")


def _line(part: Any) -> int:
    """Where a node or an event begins; from 1."""
    return int(part.start_mark.line) + 1


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _source(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "here"


def _merge_sources(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if isinstance(source, yaml.MappingNode):
            yield source


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    """What lies at a key or an index of a node, and its line."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], _line(node.value[part])
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value == part:
            return value, _line(key)
    sources = (source for key, value in node.value if key.tag == _MERGE for source in _merge_sources(value))
    return next((found for source in sources if (found := _child(source, part))), None)


# What a value should be, by pydantic's name of the error: its messages differ between its versions.
_TYPES = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
}
_LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}


def _explain(detail: ErrorDetails, model: type[BaseModel]) -> tuple[Location, str]:
    """Where and what: pydantic's finding in our words."""
    location = [part for part in detail["loc"] if part != "[key]"]
    where = ".".join(map(str, location))
    if detail["type"] == "extra_forbidden":
        legal = _keys_at(model, location[:-1])
        return location, f"unknown key {where!r}: {nearest(str(location[-1]), legal, len(legal))}"
    if detail["type"] == "missing":
        return location[:-1], f"{'.'.join(map(str, location[:-1])) or 'the file'} needs the key {location[-1]!r}"
    if detail["type"] == "value_error":
        return location, f"{where}: {detail['ctx']['error']}"
    given = repr(detail["input"])
    return location, f"{where} {_should(detail)}, not {given if len(given) <= 60 else given[:57] + '...'}"


def _should(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind in _TYPES:
        return f"should be {_TYPES[kind]}"
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return f"should be {words} {detail['ctx'][key]:g}"
    if kind == "literal_error":
        return f"should be {detail['ctx']['expected']}"
    return detail["msg"].removeprefix("Input ")


def _keys_at(annotation: Any, location: Location) -> list[str]:
    """The keys that a model knows at a place inside it."""
    for arm in _arms(annotation):
        # Python 3.10 takes list[str] for a type, and issubclass refuses it.
        if get_origin(arm) is None and isinstance(arm, type) and issubclass(arm, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in arm.model_fields.items()}
            if not location:
                return list(fields)
            if location[0] in fields:
                return _keys_at(fields[str(location[0])], location[1:])
        elif location and get_origin(arm) in (dict, list):
            return _keys_at(get_args(arm)[-1], location[1:])
    return []


def _arms(annotation: Any) -> Iterator[Any]:
    """A type without Annotated and without `| None`."""
    if hasattr(annotation, "__metadata__"):
        yield from _arms(annotation.__origin__)
    elif get_origin(annotation) in (None, dict, list):
        yield annotation
    else:
        for arm in get_args(annotation):
            yield from _arms(arm)

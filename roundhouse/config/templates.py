"""Text with {placeholders} and expressions, both on the keys of a config."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from roundhouse.names import nearest

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def plain_text(value: Any) -> str:
    """A value in a path: true, false, null, numbers as Python writes them, text as it is.

    ValueError for lists and mappings.
    """
    if isinstance(value, str):
        return value
    kind = "list" if isinstance(value, list) else "mapping" if isinstance(value, dict) else ""
    if kind:
        raise ValueError(f"is a {kind}, which has no place in a path")
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def any_text(value: Any) -> str:
    """A value in a command: as in a path; lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, (list, dict)) else plain_text(value)


@dataclass(frozen=True)
class Template:
    """Literal text and names, in turn: `literals[0] names[0] literals[1] names[1] ... literals[-1]`."""

    literals: tuple[str, ...]
    names: tuple[str, ...]

    def fill(self, values: Mapping[str, Any], text: Callable[[Any], str] = plain_text) -> str:
        """The text with every name replaced by its value. ValueError for a missing name, or from `text`."""
        parts = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            value = self._get(name, values)
            if type(value) is not str:
                try:
                    value = text(value)
                except ValueError as error:
                    raise ValueError(f"{name!r} {error}") from None
            parts += value, literal
        return "".join(parts)

    def value(self, values: Mapping[str, Any]) -> Any:
        """The value itself where the text is one placeholder and nothing else; otherwise as `fill`."""
        return self._get(self.names[0], values) if self.literals == ("", "") else self.fill(values)

    def _get(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        missing = dict.fromkeys(name for name in self.names if name not in values)
        raise ValueError(", ".join(f"unknown name {name!r}: {nearest(name, values)}" for name in missing))


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template:
    """Read `a/{name}/b`, where {{ and }} stand for braces. ValueError says what is wrong with it."""
    literals, names, end = [""], [], 0
    for token in _TOKEN.finditer(text):
        literals[-1] += text[end : token.start()]
        end = token.end()
        if token.group() in ("{{", "}}"):
            literals[-1] += token.group()[0]
            continue
        if token.group(1) is None:
            raise ValueError(f"{text!r} has a lone {token.group()}: write {token.group() * 2} for a brace")
        if not token.group(1).isidentifier():
            raise ValueError(f"{text!r} has {token.group()}: braces hold the name of a config key and nothing else")
        names.append(token.group(1))
        literals.append("")
    literals[-1] += text[end:]
    return Template(tuple(literals), tuple(names))


def fill_words(words: Sequence[str], values: Mapping[str, Any], text: Callable[[Any], str]) -> tuple[str, ...]:
    """The words of a command with their names filled in, but for {directory}, which the job knows.

    ValueError: a name that is not among the values.
    """
    templates = [parse_template(word) for word in words]
    known = {**values, "directory": "{directory}"}
    return tuple(one.fill(known, text) if one.names else one.literals[0] for one in templates)


class Expression:
    """A Jinja expression on a config, computed once for each set of values of the keys that it names."""

    def __init__(self, source: str) -> None:
        """ValueError if it is no expression."""
        from jinja2 import StrictUndefined, TemplateError, meta
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined)
        environment.globals.clear()
        try:
            self._compute = environment.compile_expression(source, undefined_to_none=False)
            self._names = sorted(meta.find_undeclared_variables(environment.parse("{{ (" + source + ") }}")))
        except TemplateError as error:
            raise ValueError(f"{source!r} is no expression: {error}") from None
        self._source = source
        self._known: dict[tuple[Any, ...], Any] = {}

    def truth(self, config: Mapping[str, Any]) -> bool:
        """Its value as true or false. ValueError says why there is none."""
        return bool(self._value(config))

    def number(self, config: Mapping[str, Any]) -> float:
        """Its value as a finite number. ValueError says why there is none."""
        value = self._value(config)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{self._source!r} must give a number, not {value!r}")
        return float(value)

    def _value(self, config: Mapping[str, Any]) -> Any:
        key = tuple((name in config, type(config.get(name)), any_text(config.get(name))) for name in self._names)
        if key not in self._known:
            self._known[key] = self._evaluate(config)
        return self._known[key]

    def _evaluate(self, config: Mapping[str, Any]) -> Any:
        from jinja2 import Undefined, UndefinedError

        try:
            value = self._compute(config)
            return str(value) if isinstance(value, Undefined) else value  # the text of what is undefined is an error
        except UndefinedError as error:
            unknown = [name for name in self._names if name not in config]
            hint = f": {nearest(unknown[0], config)}" if unknown else ""
            raise ValueError(f"{self._source!r}: {error}{hint}") from None
        except Exception as error:  # an expression may fail in any way that Python can
            raise ValueError(f"{self._source!r}: {error}") from error

"""Text with {placeholders} for the keys of a config."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from roundhouse.names import nearest

NO_ITEMS = "none"  # how the empty subset is written
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def plain_text(value: Any) -> str:
    """A value in a path: true, false, null, numbers as Python writes them, text as it is.

    ValueError for lists and mappings.
    """
    if isinstance(value, str):
        return value
    kind = "list" if isinstance(value, list) else "mapping" if isinstance(value, dict) else ""
    if kind:
        raise ValueError(f"is a {kind}, which a path cannot contain")
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
    """Read `a/{name}/b`, where {{ and }} stand for braces. ValueError if it is not a template."""
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
            raise ValueError(f"{text!r} has {token.group()}: only the name of a config key can be between braces")
        names.append(token.group(1))
        literals.append("")
    literals[-1] += text[end:]
    return Template(tuple(literals), tuple(names))


def fill_words(words: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of a command with their names filled in, except {directory}, which the job knows.

    ValueError for a name without a value.
    """
    templates = [parse_template(word) for word in words]
    known = {**values, "directory": "{directory}"}
    return tuple(one.fill(known, any_text) for one in templates)


def printable(config: Mapping[str, Any], subsets: Collection[str]) -> Mapping[str, Any]:
    """The config with KEY_name for each key of `combinations`: its items joined by +."""
    if not subsets:
        return config
    chosen = {key: config[key] for key in subsets if isinstance(config.get(key), list)}
    return {**config, **{name_of(key): "+".join(map(any_text, chosen[key])) or NO_ITEMS for key in chosen}}


def name_of(key: str) -> str:
    """The name of a value of `combinations` in paths."""
    return f"{key}_name"

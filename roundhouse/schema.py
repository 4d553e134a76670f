"""Dataclasses as schemas of files: plain data is read into them strictly, and their JSON Schema is generated.

A field is written with `key`. Its type says what a file may hold, without any conversion; `Annotated` adds a `Rule`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from roundhouse.names import nearest

Location = Sequence[str | int]  # keys and indices that lead to a value
Report = Callable[[Location, str], None]
Model = TypeVar("Model")

_TYPES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_LIMITS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "greater than or equal to"),
    "exclusiveMinimum": (operator.gt, "greater than"),
    "maximum": (operator.le, "less than or equal to"),
    "exclusiveMaximum": (operator.lt, "less than"),
}


@dataclass(frozen=True, eq=False)
class Rule:
    """What a value must satisfy in addition to its type.

    `before` and `after` return the value, or raise ValueError: `before` is called with the value as it is written,
    `after` once its type is right. `limits` have the names of JSON Schema. `form` is the JSON Schema of what may be
    written, where the type does not say it, and `also` that of another way to write it.
    """

    before: Callable[[Any], Any] | None = None
    after: Callable[[Any], Any] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    form: Mapping[str, Any] | None = None
    also: Mapping[str, Any] | None = None


def checked(fits: Callable[[str], object], message: str) -> Rule:
    """The rule for text that `fits` must accept. `message` may show the text, as {!r}."""

    def check(text: str) -> str:
        if not fits(text):
            raise ValueError(message.format(text))
        return text

    return Rule(after=check)


@dataclass(frozen=True)
class Partial:
    """A mapping of only those fields of a dataclass that are written, to be merged with others.

    So are the dataclasses in it, except those with a required key: these are read as a whole.
    """

    of: type


Count = Annotated[int, Rule(limits={"minimum": 1})]


def key(
    description: str, default: Any = dataclasses.MISSING, *, name: str = "", factory: Any = dataclasses.MISSING
) -> Any:
    """A field that a file may set; it is required if it has neither a default nor a `factory`.

    `name`: the key in the file, if the field has another name.
    """
    return field(default=default, default_factory=factory, metadata={"description": description, "name": name})


def read(model: type[Model], data: Any, report: Report, at: Location = ()) -> Model:
    """`data` as `model`. Each mistake is reported with its location; what is returned then is not usable.

    `at`: the location of `data` itself.
    """
    value: Model = _Reader(report).value(model, data, at)
    return value


class _Unfit(ValueError):
    """A value of a wrong type or size; the message follows the name of its location."""

    def __init__(self, should: str, value: Any) -> None:
        given = repr(value)
        super().__init__(f"should be {should}, not {given if len(given) <= 60 else given[:57] + '...'}")


class _Reader:
    def __init__(self, report: Report) -> None:
        self._report = report

    def value(self, kind: Any, value: Any, at: Location, partial: bool = False) -> Any:
        """The value as `kind`; None if it is wrong, which is reported."""
        try:
            return self._checked(kind, value, at, partial)
        except _Unfit as error:
            self._report(at, f"{_dotted(at)} {error}")
        except ValueError as error:
            self._report(at, f"{_dotted(at)}: {error}")
        return None

    def _checked(self, kind: Any, value: Any, at: Location, partial: bool) -> Any:
        base, rules = _parts(kind)
        for rule in rules:
            if isinstance(rule, Partial):
                return self._fields(rule.of, value, at, True)
            value = rule.before(value) if rule.before else value
        written, value = value, self._typed(base, value, at, partial)
        for rule in rules:
            for name, limit in rule.limits.items():
                holds, words = _LIMITS[name]
                if not holds(value, limit):
                    raise _Unfit(f"{words} {limit:g}", written)
            value = rule.after(value) if rule.after else value
        return value

    def _typed(self, kind: Any, value: Any, at: Location, partial: bool) -> Any:
        origin, arms = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            whole = any(_required(one) for one in dataclasses.fields(kind))
            fields = self._fields(kind, value, at, partial and not whole)
            return fields if partial and not whole else kind(**fields) if fields is not None else None
        if origin in (Union, UnionType):
            if value is None and NoneType in arms:
                return None
            fitting = [arm for arm in arms if isinstance(arm, type) and isinstance(value, arm)]
            return self._checked((fitting or [arm for arm in arms if arm is not NoneType])[0], value, at, partial)
        if origin is Literal:
            if isinstance(value, str) and value in arms:
                return value
            *others, last = map(repr, arms)
            raise _Unfit(f"{', '.join(others)} or {last}", value)
        if origin in (list, tuple):
            if not isinstance(value, (list, tuple)):
                raise _Unfit("a list", value)
            return origin(self.value(arms[0], item, (*at, number)) for number, item in enumerate(value))
        if origin in (dict, Mapping):
            return self._mapping(arms, value, at)
        if kind is float and type(value) is int and abs(value) < 2**1023:
            return float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise _Unfit(_TYPES[kind], value)
        return value

    def _mapping(self, arms: Sequence[Any], value: Any, at: Location) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Unfit("a mapping", value)
        return {
            self.value(arms[0], name, (*at, name)): self.value(arms[1], one, (*at, name)) for name, one in value.items()
        }

    def _fields(self, kind: type, value: Any, at: Location, partial: bool) -> dict[str, Any] | None:
        """The fields that are written, by name; None if a required one is missing."""
        if not isinstance(value, dict):
            raise _Unfit("a mapping", value)
        keys = keys_of(kind)
        for name in value.keys() - keys.keys():
            place = (*at, name)
            self._report(place, f"unknown key {_dotted(place)!r}: {nearest(name, keys, len(keys))}")
        missing = [name for name, (one, _) in keys.items() if _required(one) and name not in value]
        for name in missing:
            self._report(at, f"{_dotted(at) or 'the file'} needs the key {name!r}")
        fields = {
            one.name: self.value(hint, value[name], (*at, name), partial)
            for name, (one, hint) in keys.items()
            if name in value
        }
        return None if missing else fields


def _dotted(at: Location) -> str:
    return ".".join(map(str, at))


def _parts(kind: Any) -> tuple[Any, Sequence[Any]]:
    """A type, and what `Annotated` adds to it."""
    return (get_args(kind)[0], get_args(kind)[1:]) if get_origin(kind) is Annotated else (kind, ())


def _required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


@cache
def keys_of(kind: type) -> Mapping[str, tuple[dataclasses.Field[Any], Any]]:
    """The keys of a dataclass in files: each with its field and its type."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.metadata.get("name") or one.name: (one, hints[one.name]) for one in dataclasses.fields(kind)}


def json_schema(model: type) -> dict[str, Any]:
    """The JSON Schema of what `read` accepts for `model`."""
    definitions: dict[str, Any] = {}
    root = _object(model, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    keys = keys_of(kind)
    properties = {
        name: {"description": one.metadata["description"], **_form(hint, definitions), **_default(one)}
        for name, (one, hint) in keys.items()
    }
    return {
        "title": kind.__name__,
        "description": (kind.__doc__ or "").split("\n")[0],
        "type": "object",
        "properties": properties,
        "required": [name for name, (one, _) in keys.items() if _required(one)],
        "additionalProperties": False,
    }


def _default(one: dataclasses.Field[Any]) -> dict[str, Any]:
    """The default, where it is a plain value."""
    return {"default": one.default} if one.default is None or type(one.default) in _TYPES else {}


def _form(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of one type."""
    kind, rules = _parts(kind)
    form = _form_of_type(kind, definitions)
    for rule in rules:
        if isinstance(rule, Partial):
            form = _form_of_type(rule.of, definitions)
            continue
        form = {**(form if rule.form is None else rule.form), **rule.limits}
        form = form if rule.also is None else {"anyOf": [rule.also, form]}
    return form


def _form_of_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arms = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object(kind, definitions)  # type: ignore[arg-type]
        return {"$ref": f"#/$defs/{name}"}
    if origin in (Union, UnionType):
        return {"anyOf": [_form(arm, definitions) for arm in arms]}
    if origin is Literal:
        return {"enum": list(arms)}
    if origin in (list, tuple):
        return {"type": "array", "items": _form(arms[0], definitions)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _form(arms[1], definitions)}
    return {} if kind is Any else {"type": "null" if kind is NoneType else _JSON_TYPES[kind]}

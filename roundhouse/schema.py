"""Dataclasses as schemas of files: pydantic reads plain data into them strictly, and generates their JSON Schema.

A field is written with `key`. Its type says what a file may hold, without any conversion; `Annotated` adds limits
(annotated_types) and a `Rule`. pydantic is imported at the first use, as most jobs need the model, but read nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge

from roundhouse.names import nearest

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema, ErrorDetails

Location = Sequence[str | int]  # keys and indices that lead to a value
Report = Callable[[Location, str], None]
Model = TypeVar("Model")
Count = Annotated[int, Ge(1)]

# What a value should be, by pydantic's type of the error: its messages differ between its versions.
_SHOULD_BE = {
    **dict.fromkeys(("dataclass_type", "dict_type"), "a mapping"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("float_type", "finite_number"), "a finite number"),
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "greater than or equal to {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "less than or equal to {le:g}",
}


@dataclass(frozen=True, eq=False)
class Rule:
    """What a value must satisfy in addition to its type.

    `before` is called with the value as it is written, `after` once its type is right; they return it, or raise
    ValueError. `form`: the JSON Schema of what may be written, if the type has another. `also`: of another way.
    """

    before: Callable[[Any], Any] | None = None
    after: Callable[[Any], Any] | None = None
    form: Mapping[str, Any] | None = None
    also: Mapping[str, Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        schema = handler(source)
        if self.after:
            schema = core_schema.no_info_after_validator_function(self.after, schema)
        return core_schema.no_info_before_validator_function(self.before, schema) if self.before else schema

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        form = dict(self.form or handler(schema))
        return {"anyOf": [self.also, form]} if self.also else form


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
    With `override` no key is required, in these neither, and null removes what another mapping has.
    """

    of: type
    override: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(_override(self.of) if self.override else _typed_dict(self.of))


def key(description: str, default: Any = MISSING, *, name: str = "", factory: Any = MISSING) -> Any:
    """A field that a file may set, as the key `name` if given; required without a default and a `factory`."""
    metadata = {"description": description, **({"alias": name} if name else {})}
    return field(default=default, default_factory=factory, metadata=metadata)


def read(model: type[Model], data: Any, report: Report, at: Location = ()) -> Model:
    """Plain data as `model`. Each mistake is reported with its location; what is returned then is not usable.

    `at`: the location of `data` itself.
    """
    from pydantic import ValidationError

    kind: Any = model
    try:
        # Only from JSON does pydantic read mappings as dataclasses, and lists as tuples, without any other conversion.
        value: Model = _adapter(kind).validate_json(json.dumps(data))
        return value
    except ValidationError as error:
        found: dict[Location, tuple[Location, str]] = {}
        for detail in error.errors(include_url=False):
            place, keys = _follow(model, detail["loc"])
            found.setdefault(place, _explain(detail, (*at, *place), keys))  # for a union, the first of several
    for place, message in found.values():
        report(place, message)
    return None  # type: ignore[return-value]


def json_schema(model: Any) -> dict[str, Any]:
    """The JSON Schema of what `read` accepts for `model`."""
    schema = _adapter(model).json_schema()
    for form in (schema, *schema.get("$defs", {}).values()):
        if "properties" in form:
            form.setdefault("additionalProperties", False)  # pydantic before 2.14 leaves it out for dataclasses
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def keys_of(kind: Any) -> Mapping[Any, tuple[Field[Any], Any]]:
    """The keys of a dataclass in files, each with its field and its type; none for other types."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind, include_extras=True)
    return {one.metadata.get("alias", one.name): (one, hints[one.name]) for one in fields(kind)}


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, GetPydanticSchema, TypeAdapter

    # Given a dataclass directly, TypeAdapter accepts no config.
    indirect = GetPydanticSchema(lambda source, handler: handler.generate_schema(model))
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(Annotated[Any, indirect], config=config)


@cache
def _typed_dict(kind: Any) -> Any:
    """The TypedDict of the fields of a dataclass, of which one that is not written is missing."""
    import pydantic
    from typing_extensions import Required, TypedDict

    new: Any = TypedDict
    types = {}
    for name, (one, hint) in keys_of(kind).items():
        base, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if keys_of(base) and not any(_is_required(inner) for inner, _ in keys_of(base).values()):
            base = _typed_dict(base)
        parts = (base, *rules, pydantic.Field(alias=name, description=one.metadata["description"]))
        types[one.name] = Required[Annotated[parts]] if _is_required(one) else Annotated[parts]
    return new(kind.__name__, types, total=False)


@cache
def _override(kind: Any) -> Any:
    """The TypedDict of the fields of a dataclass, of which any may be missing or null."""
    import pydantic
    from typing_extensions import TypedDict

    new: Any = TypedDict
    types = {
        one.name: Annotated[_loose(hint) | None, pydantic.Field(alias=name, description=one.metadata["description"])]
        for name, (one, hint) in keys_of(kind).items()
    }
    return new(f"{kind.__name__}Override", types, total=False)


def _loose(hint: Any) -> Any:
    """A type with overrides in place of dataclasses."""
    if get_origin(hint) is Annotated:
        base, *rules = get_args(hint)
        parts = (_loose(base), *rules)
        return Annotated[parts]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_loose, get_args(hint)))]  # noqa: UP007
    return _override(hint) if keys_of(hint) else hint


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _explain(detail: ErrorDetails, at: Location, keys: Collection[Any]) -> tuple[Location, str]:
    """Where to report a mistake, and the message. `keys`: the known ones of the mapping that `at` leads into."""
    kind, where, outer = detail["type"], ".".join(map(str, at)), ".".join(map(str, at[:-1]))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return at, f"unknown key {where!r}: {nearest(str(at[-1]), keys, len(keys))}"
    if kind == "missing":
        return at[:-1], f"{outer or 'the file'} needs the key {at[-1]!r}"
    if kind == "value_error":
        return at, f"{where}: {detail['ctx']['error']}"
    should = f"should be {_SHOULD_BE[kind]}".format_map(detail.get("ctx", {})) if kind in _SHOULD_BE else detail["msg"]
    given = repr(detail["input"])
    return at, f"{where} {should}, not {given if len(given) <= 60 else given[:57] + '...'}"


def _follow(kind: Any, location: Location) -> tuple[Location, Collection[Any]]:
    """A location without what pydantic adds to it, and the known keys of the mapping that it leads into."""
    place: list[str | int] = []
    keys: Mapping[Any, tuple[Field[Any], Any]] = {}
    for part in location:
        kind, *others = _arms(kind)
        if others or part == "[key]":  # a type of a union, or a mistake in the key itself
            continue
        keys = keys_of(kind)
        types = [keys[part][1]] if part in keys else get_args(kind) or [Any]
        kind = types[0 if get_origin(kind) is tuple else -1]
        place.append(part)
    return tuple(place), keys


def _arms(kind: Any) -> list[Any]:
    """The types of a union without None, or a type, each without what `Annotated` adds."""
    if get_origin(kind) is Annotated:
        base, *rules = get_args(kind)
        return _arms(next((one.of for one in rules if isinstance(one, Partial)), base))
    if get_origin(kind) in (Union, UnionType):
        return [one for arm in get_args(kind) if arm is not NoneType for one in _arms(arm)]
    return [kind]

"""Dataclasses as schemas: what is read, each mistake with its location, and the JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt, Le
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.config.round_schema import ExtendingFile, RoundFile
from roundhouse.config.site import Site
from roundhouse.schema import Count, Location, Partial, json_schema, key, read


@dataclass(frozen=True)
class Inner:
    size: Count = key("Size")
    share: Annotated[float, Gt(0), Le(1)] = key("Share", 0.5)


@dataclass(frozen=True)
class Growth:
    factor: float = key("Factor", 2.0)
    most: int | None = key("Most", None)


@dataclass(frozen=True)
class Policy:
    growth: Growth = key("Growth", Growth())
    inner: Inner | None = key("Inner", None)
    tries: int = key("Tries", 2)


@dataclass(frozen=True)
class Example:
    text: str = key("Text", name="from")
    mode: Literal["min", "max"] = key("Mode", "min")
    inner: Inner | None = key("Inner", None)
    items: list[tuple[int, ...]] = key("Items", factory=list)
    table: dict[str, bool] = key("Table", factory=dict)
    either: float | str = key("Number or text", 0.0)
    policy: Annotated[Mapping[str, Any], Partial(Policy)] = key("Policy", factory=dict)


def reading(data: Any) -> tuple[Any, list[tuple[Location, str]]]:
    problems: list[tuple[Location, str]] = []
    return read(Example, data, lambda at, message: problems.append((at, message))), problems


def test_values_are_read_into_their_types_without_conversion() -> None:
    data = {"from": "x", "mode": "max", "inner": {"size": 3, "share": 1}, "items": [[1, 2], []], "table": {"a": True}}
    found, problems = reading({**data, "either": "x + 1"})
    assert problems == []
    assert found == Example("x", "max", Inner(3, 1.0), [(1, 2), ()], {"a": True}, "x + 1")
    assert type(found.inner.share) is float


def test_a_partial_mapping_has_only_what_is_written_and_reads_a_dataclass_with_required_keys_as_a_whole() -> None:
    found, problems = reading({"from": "x", "policy": {"growth": {"most": 5}, "inner": {"size": 1}}})
    assert problems == []
    assert found.policy == {"growth": {"most": 5}, "inner": Inner(1)}


@pytest.mark.parametrize(
    ("data", "location", "message"),
    [
        ([], (), " should be a mapping, not []"),
        ({}, (), "the file needs the key 'from'"),
        ({"from": 5}, ("from",), "from should be text, not 5"),
        ({"from": "x", "text": "y"}, ("text",), "unknown key 'text': choose from either, from, inner, items, mode, "),
        ({"from": "x", "mode": "mean"}, ("mode",), "mode should be 'min' or 'max', not 'mean'"),
        ({"from": "x", "inner": {}}, ("inner",), "inner needs the key 'size'"),
        ({"from": "x", "inner": {"size": 0}}, ("inner", "size"), "inner.size should be greater than or equal to 1"),
        ({"from": "x", "inner": {"size": True}}, ("inner", "size"), "should be a whole number, not True"),
        ({"from": "x", "inner": {"size": 1, "share": 0}}, ("inner", "share"), "should be greater than 0, not 0"),
        ({"from": "x", "inner": {"size": 1, "share": 2}}, ("inner", "share"), "less than or equal to 1, not 2"),
        ({"from": "x", "items": [[1], [1, "2"]]}, ("items", 1, 1), "items.1.1 should be a whole number, not '2'"),
        ({"from": "x", "table": {"a": 1}}, ("table", "a"), "table.a should be true or false, not 1"),
        ({"from": "x", "either": float("inf")}, ("either",), "either should be a finite number, not inf"),
        ({"from": "x", "policy": {"growth": {"mast": 1}}}, ("policy", "growth", "mast"), "did you mean 'most'?"),
    ],
)
def test_a_mistake_is_reported_with_its_location(data: Any, location: Location, message: str) -> None:
    _, ((at, reported),) = reading(data)
    assert at == location
    assert message in reported


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(["from", "mode", "inner", "size", "items", "table", "either", "policy", "growth", "x"])
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=8)


@given(DATA)
def test_any_data_is_read_or_reported(data: Any) -> None:
    found, problems = reading(data)
    assert problems or isinstance(found, Example)


def test_the_json_schema_has_each_type_with_its_limits() -> None:
    schema = json_schema(Example)
    assert schema["required"] == ["from"]
    assert schema["properties"]["mode"] == {
        "title": "Mode", "description": "Mode", "type": "string", "enum": ["min", "max"], "default": "min",
    }  # fmt: skip
    assert schema["properties"]["inner"]["anyOf"] == [{"$ref": "#/$defs/Inner"}, {"type": "null"}]
    assert schema["properties"]["policy"]["$ref"] == "#/$defs/Policy"
    assert schema["$defs"]["Inner"]["properties"]["share"] == {
        "title": "Share", "description": "Share", "type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("model", [RoundFile, ExtendingFile, Site])
def test_every_reference_of_a_json_schema_exists_and_every_key_has_a_description(model: type) -> None:
    schema = json_schema(model)
    for kind in (schema, *schema["$defs"].values()):
        assert kind["additionalProperties"] is False
        assert all(one["description"] for one in kind["properties"].values())

    def references(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(references, part))
        if not isinstance(part, dict):
            return set()
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))

    assert references(schema) == {f"#/$defs/{name}" for name in schema["$defs"]}

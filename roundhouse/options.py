"""Options read from a config: a dataclass is the list of legal keys, and a wrong one is answered with the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from roundhouse.errors import RoundhouseError

Options = TypeVar("Options")
_types_of = functools.cache(typing.get_type_hints)  # slow, and the runner checks the configs of whole rounds


def choose(kind: str, name: object, known: Collection[str]) -> str:
    """`name` if it is one of `known`; else a RoundhouseError that says which names exist and which is nearest."""
    if isinstance(name, str) and name in known:
        return name
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RoundhouseError(f"unknown {kind} {name!r}: {hint}known are {', '.join(sorted(known))}")


def read_options(kind: type[Options], config: Mapping[str, Any]) -> Options:
    """Fill the dataclass `kind` from `config`. Its fields may be bool, int, float, str, None, some of them, or tuples.

    RoundhouseError: a key that `kind` does not have, a required one that is missing, a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in config:
        choose("config key", key, fields)
    types = _types_of(kind)  # type: ignore[arg-type]
    missing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in config and field.default is missing and field.default_factory is missing:
            raise RoundhouseError(f"the config lacks {name!r}")
    return kind(**{key: _value(key, value, types[key]) for key, value in config.items()})


def _value(key: str, value: Any, wanted: Any) -> Any:
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, (list, tuple)):
            raise RoundhouseError(f"config key {key!r} is {value!r} ({type(value).__name__}); it must be a list")
        return tuple(_value(key, one, typing.get_args(wanted)[0]) for one in value)
    accepted = typing.get_args(wanted) or (wanted,)
    if float in accepted and type(value) is int:
        value = float(value)
    if type(value) is float and not math.isfinite(value):
        raise RoundhouseError(f"config key {key!r} is {value}; it must be finite")
    if type(value) in accepted:
        return value
    names = " or ".join("null" if one is type(None) else one.__name__ for one in accepted)
    hint = ""
    if isinstance(value, str) and float in accepted:
        hint = " (YAML takes 1e-3 for text: write 1.0e-3)"
    raise RoundhouseError(f"config key {key!r} is {value!r} ({type(value).__name__}); it must be {names}{hint}")

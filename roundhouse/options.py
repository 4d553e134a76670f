"""Options read from a config: a dataclass is the list of legal keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from roundhouse import schema
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest

Options = TypeVar("Options")

FEEDS = ("auto", "device", "workers")
"""Where batches are made: on the device; by worker processes; auto: on the device if the data fits there."""


def choose(kind: str, name: object, known: Collection[str]) -> str:
    """`name` if it is one of `known`; otherwise a RoundhouseError with the nearest one, or with all."""
    if isinstance(name, str) and name in known:
        return name
    raise RoundhouseError(f"unknown {kind} {name!r}: {nearest(str(name), known, len(known))}")


def read_options(kind: type[Options], config: Mapping[str, Any]) -> Options:
    """Fill the dataclass `kind` from `config`. Its fields may be bool, int, float, str, None, some of them, or tuples.

    RoundhouseError: a key that `kind` does not have, a required one that is missing, a value of another type.
    """
    problems: list[str] = []
    options = schema.read(kind, dict(config), lambda at, message: problems.append(message), ("config",))
    if problems:
        raise RoundhouseError("; ".join(problems))
    return options


def check_batch(batch_size: int, accumulation: int | str, largest_batch: int | None = None) -> None:
    """RoundhouseError: a batch cannot be computed in so many parts (a number, or auto), or cannot become so large."""
    if isinstance(accumulation, str):
        choose("accumulation", accumulation, ("auto",))
    elif not 1 <= accumulation <= batch_size:
        raise RoundhouseError(
            f"config key 'accumulation' is {accumulation}; it must be auto, or lie between 1 and batch_size, which is "
            f"{batch_size}"
        )
    if largest_batch is not None and largest_batch < batch_size:
        raise RoundhouseError(
            f"config key 'largest_batch' is {largest_batch}; it must not be below batch_size, which is {batch_size}"
        )

"""The combinations of a group: grid x zip, less exclude."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from roundhouse.names import nearest
from roundhouse.roundfile.schema import Group
from roundhouse.yamlfile import YamlFile

Row = dict[str, Any]


def rows_of(file: YamlFile, name: str, group: Group) -> list[Row]:
    """The values of grid and zip, the last key changing fastest. None where they are wrong: a problem of `file`.

    A group without grid and zip has one empty row, or none if it has `include`.
    """
    if not _is_sound(file, name, group):
        return []
    if not group.grid and not group.zip:
        rows: list[Row] = [] if group.include else [{}]
    else:
        keys = (*group.grid, *group.zip)
        steps = list(zip(*group.zip.values(), strict=True)) if group.zip else [()]
        rows = [
            dict(zip(keys, (*values, *step), strict=True)) for *values, step in product(*group.grid.values(), steps)
        ]
    return _without_excluded(file, name, group, rows)


def _is_sound(file: YamlFile, name: str, group: Group) -> bool:
    place = ("experiments", name)
    sound = True

    def wrong(where: tuple[str, ...], message: str) -> None:
        nonlocal sound
        sound = False
        file.problem((*place, *where), message)

    for kind, lists in (("grid", group.grid), ("zip", group.zip)):
        if not lists and kind in group.model_fields_set:
            wrong((kind,), f"{kind} of group {name!r} is empty: leave it out for a single experiment")
        for key, values in lists.items():
            if not values:
                wrong((kind, key), f"{kind} of group {name!r} has no values for {key!r}")
    for key in group.grid.keys() & group.zip.keys():
        wrong(("zip", key), f"{key!r} is both in grid and in zip of group {name!r}")
    lengths = {key: len(values) for key, values in group.zip.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        wrong(("zip",), f"the lists in zip of group {name!r} are not equally long: {told}")
    return sound


def _without_excluded(file: YamlFile, name: str, group: Group, rows: list[Row]) -> list[Row]:
    dropped: set[int] = set()
    for position, excluded in enumerate(group.exclude):
        place = ("experiments", name, "exclude", position)
        unknown = [key for key in excluded if key not in group.grid and key not in group.zip]
        for key in unknown:
            known = nearest(key, [*group.grid, *group.zip])
            file.problem(
                (*place, key), f"exclude names {key!r}, which is not in grid or zip of group {name!r}: {known}"
            )
        if unknown:
            continue
        matching = {number for number, row in enumerate(rows) if excluded and _has(row, excluded)}
        if not matching:
            what = "matches no combination of" if excluded else "names no values in"
            file.problem(place, f"exclude {what} group {name!r}")
        dropped |= matching
    if rows and len(dropped) == len(rows) and not group.include:
        file.problem(("experiments", name, "exclude"), f"exclude drops every combination of group {name!r}")
    return [row for number, row in enumerate(rows) if number not in dropped] if dropped else rows


def _has(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether all wanted values are in the row; 1 is not true."""
    return all(
        row[key] == value and isinstance(row[key], bool) == isinstance(value, bool) for key, value in wanted.items()
    )

"""The combinations of a group: all that it sweeps, combined, less exclude."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roundhouse.config.round_schema import Group
from roundhouse.config.selecting import ranks
from roundhouse.config.sweeps import (
    Row,
    Section,
    draw_axis,
    focus_axis,
    grid_axes,
    name_of,
    product_of,
    subset_axis,
)
from roundhouse.config.yaml_file import YamlFile
from roundhouse.names import nearest

KINDS = ("focus", "grid", "zip", "combinations", "random")  # in the order of keys in a combination


def rows_of(file: YamlFile, name: str, group: Group, defaults: Mapping[str, Any]) -> list[Row]:
    """The values of all that is swept, the last key changing fastest. None where they are wrong: problems of `file`.

    A group that sweeps nothing has one empty row, or none if it has `include`.
    """
    section = Section(file, name)
    _check_lists(section, group)
    _check_keys(section, group)
    _check_given_names(section, group, defaults)
    axes = [ranks(group)] if group.select else []
    axes += [focus_axis(section, group.focus)] if group.focus else []
    axes += grid_axes(group.grid)
    if group.zip and section.is_sound:
        axes.append([dict(zip(group.zip, step, strict=True)) for step in zip(*group.zip.values(), strict=True)])
    axes += [subset_axis(section, key, subsets) for key, subsets in group.combinations.items()]
    axes += [draw_axis(section, group.random)] if group.random else []
    if not section.is_sound:
        return []
    rows = [] if group.include and not axes else product_of(section, (), axes)
    return _without_excluded(section, group, rows) if section.is_sound else []


def _check_lists(section: Section, group: Group) -> None:
    """Nothing is empty, and the lists of zip are equally long."""
    name = section.name
    for kind in KINDS:
        if kind in group.model_fields_set and not getattr(group, kind):
            section.wrong((kind,), f"{kind} of group {name!r} is empty: leave it out for a single experiment")
    for kind, lists in (("grid", group.grid), ("zip", group.zip)):
        for key, values in lists.items():
            if not values:
                section.wrong((kind, key), f"{kind} of group {name!r} has no values for {key!r}")
    lengths = {key: len(values) for key, values in group.zip.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        section.wrong(("zip",), f"the lists in zip of group {name!r} are not equally long: {told}")


def _swept(group: Group) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each swept key: (kind, key, where it is written within the group)."""
    for kind in ("grid", "zip", "combinations", "random"):
        for key in getattr(group, kind):
            if kind != "random" or key not in ("count", "seed"):
                yield kind, key, (kind, key)
    for name, part in group.focus.items():
        for key in part.grid:
            yield "focus", key, ("focus", name, "grid", key)


def _check_keys(section: Section, group: Group) -> None:
    """No key is swept in two ways. Sub-sweeps of focus may share keys: they stand one beside the other."""
    kinds: dict[str, str] = {}
    for kind, key, where in _swept(group):
        other = kinds.setdefault(key, kind)
        if other != kind:
            section.wrong(where, f"{key!r} is both in {other} and in {kind} of group {section.name!r}")


def _check_given_names(section: Section, group: Group, defaults: Mapping[str, Any]) -> None:
    """The names that a sweep gives by itself stand nowhere else; `include` may say `draw` and `focus`."""
    printable = {name_of(key): f"the printable name of {key!r}" for key in group.combinations}
    given = dict(printable)
    given |= {"draw": "the number of the draw from random"} if group.random else {}
    given |= {"rank": "the rank of what is selected"} if group.select else {}
    given |= {"focus": "the name of the sub-sweep in focus"} if group.focus else {}
    places = [(key, where) for _, key, where in _swept(group)] + [(key, ("config", key)) for key in group.config]
    for key, where in places:
        if key in given:
            section.wrong(where, f"{key!r} is {given[key]} in group {section.name!r}: choose another key")
    for number, row in enumerate(group.include):
        for key in row.keys() & printable.keys():
            section.wrong(("include", number, key), f"{key!r} is {given[key]} in group {section.name!r}: leave it out")
    for key in defaults.keys() & given.keys():
        section.is_sound = False
        message = f"{key!r} is {given[key]} in group {section.name!r}: choose another key"
        section.file.problem(("defaults", key), message)


def _without_excluded(section: Section, group: Group, rows: list[Row]) -> list[Row]:
    dropped: set[int] = set()
    keys = {key: None for row in rows for key in row} if group.exclude else {}
    kinds = " or ".join(kind for kind in KINDS if kind in ("grid", "zip") or getattr(group, kind))
    for position, excluded in enumerate(group.exclude):
        unknown = [key for key in excluded if key not in keys]
        for key in unknown:
            message = f"exclude names {key!r}, which is not in {kinds} of group {section.name!r}: {nearest(key, keys)}"
            section.wrong(("exclude", position, key), message)
        if unknown:
            continue
        matching = {number for number, row in enumerate(rows) if excluded and _has(row, excluded)}
        if not matching:
            what = "matches no combination of" if excluded else "names no values in"
            section.wrong(("exclude", position), f"exclude {what} group {section.name!r}")
        dropped |= matching
    if rows and len(dropped) == len(rows) and not group.include:
        section.wrong(("exclude",), f"exclude drops every combination of group {section.name!r}")
    return [row for number, row in enumerate(rows) if number not in dropped] if dropped else rows


def _has(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether all wanted values are in the row; 1 is not true."""
    return all(
        key in row and row[key] == value and isinstance(row[key], bool) == isinstance(value, bool)
        for key, value in wanted.items()
    )

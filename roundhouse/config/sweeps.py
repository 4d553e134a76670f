"""The combinations of a group: the product of all that it sweeps, without those that it excludes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from roundhouse.config.draws import draw_axis
from roundhouse.config.round_schema import Subsets, Values
from roundhouse.config.section import Section
from roundhouse.names import nearest
from roundhouse.placeholders import NO_ITEMS, any_text, name_of, plain_text

MAX_COMBINATIONS = 1_000_000  # in one group
KINDS = ("focus", "grid", "zip", "combinations", "random")  # in the order of keys in a combination

Row = dict[str, Any]


def rows_of(section: Section) -> list[Row]:
    """The values of all that a group sweeps, the last key changing fastest. None if there are mistakes in it.

    A group that sweeps nothing has one empty row, or none if it has `include`.
    """
    group = section.group
    _check_lists(section)
    _check_keys(section)
    axes = [[{group.select.per: value} for value in section.per_values]] if group.select and group.select.per else []
    axes += [[{"rank": rank} for rank in range(1, group.select.top + 1)]] if group.select else []
    axes += [_focus_axis(section)] if group.focus else []
    axes += _grid_axes(group.grid)
    if group.zip and section.is_sound:
        axes.append([dict(zip(group.zip, step, strict=True)) for step in zip(*group.zip.values(), strict=True)])
    axes += [_subset_axis(section, key, subsets) for key, subsets in group.combinations.items()]
    axes += [draw_axis(section)] if group.random else []
    if not section.is_sound or (group.select and group.select.per and not section.per_values):
        return []
    rows = [] if group.include and not axes else _product(section, (), axes)
    return _without_excluded(section, rows) if section.is_sound else []


def _check_lists(section: Section) -> None:
    """Nothing is empty, and the lists of zip are equally long."""
    name, group = section.name, section.group
    for kind in KINDS:
        if section.writes(kind) and not getattr(group, kind):
            section.wrong((kind,), f"{kind} of group {name!r} is empty: leave it out for a single experiment")
    for kind, lists in (("grid", group.grid), ("zip", group.zip)):
        for key, values in lists.items():
            if not values:
                section.wrong((kind, key), f"{kind} of group {name!r} has no values for {key!r}")
    lengths = {key: len(values) for key, values in group.zip.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        section.wrong(("zip",), f"the lists in zip of group {name!r} are not equally long: {listed}")


def _swept(section: Section) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each swept key: (kind, key, where it is written within the group)."""
    for kind in ("grid", "zip", "combinations", "random"):
        for key in getattr(section.group, kind):
            if kind != "random" or key not in ("count", "seed"):
                yield kind, key, (kind, key)
    for name, part in section.group.focus.items():
        for key in part.grid:
            yield "focus", key, ("focus", name, "grid", key)


def _check_keys(section: Section) -> None:
    """No key is swept in two ways, or has a name that sweeps set. `include` can set `draw` and `focus`.

    Sub-sweeps of focus may share keys: no combination is part of two of them.
    """
    group, name = section.group, section.name
    kinds: dict[str, str] = {}
    for kind, key, where in _swept(section):
        other = kinds.setdefault(key, kind)
        if other != kind:
            section.wrong(where, f"{key!r} is both in {other} and in {kind} of group {name!r}")
    names = {name_of(key): f"the printable name of {key!r}" for key in group.combinations}
    reserved = dict(names)
    reserved |= {"draw": "the number of the draw from random"} if group.random else {}
    reserved |= {"rank": "the rank of the selected setting"} if group.select else {}
    reserved |= {"focus": "the name of the sub-sweep in focus"} if group.focus else {}
    per = group.select.per if group.select else None
    places = [(key, where) for _, key, where in _swept(section)] + [(key, ("config", key)) for key in group.config]
    for key, where in places:
        if key in reserved:
            section.wrong(where, f"{key!r} is {reserved[key]} in group {name!r}: choose another key")
        elif key == per:
            section.wrong(where, f"{key!r} is `per` of select in group {name!r}, which sets its values: leave it out")
    for number, row in enumerate(group.include):
        for key in row.keys() & names.keys():
            section.wrong(("include", number, key), f"{key!r} is {names[key]} in group {name!r}: leave it out")
    for key in section.content.defaults.keys() & reserved.keys():
        section.is_sound = False
        section.file.problem(("defaults", key), f"{key!r} is {reserved[key]} in group {name!r}: choose another key")


def _grid_axes(grid: Values) -> list[list[Row]]:
    """An axis for each key."""
    return [[{key: value} for value in values] for key, values in grid.items()]


def _product(section: Section, where: Sequence[str], axes: Sequence[Sequence[Row]]) -> list[Row]:
    """All rows of each axis with all of the others, the last changing fastest; one empty row without any axis."""
    if math.prod(map(len, axes)) > MAX_COMBINATIONS:
        section.wrong(where, f"group {section.name!r} has more than {MAX_COMBINATIONS:,} combinations")
        return []
    return [{key: value for part in parts for key, value in part.items()} for parts in product(*axes)]


def _focus_axis(section: Section) -> list[Row]:
    """The product of each sub-sweep, one after the other, with the sub-sweep's name as `focus`."""
    rows: list[Row] = []
    for name, part in section.group.focus.items():
        where, what = ("focus", name, "grid"), f"grid of focus {name!r} in group {section.name!r}"
        if not part.grid:
            section.wrong(where, f"{what} is empty")
        for key in [key for key, values in part.grid.items() if not values]:
            section.wrong((*where, key), f"{what} has no values for {key!r}")
        rows += [{"focus": name, **row} for row in _product(section, where[:2], _grid_axes(part.grid))]
    return rows


def _subset_axis(section: Section, key: str, written: Subsets) -> list[Row]:
    """The subsets by size in the order in which sizes are written, then those selected that are not yet among them."""

    def wrong(message: str, *part: str | int) -> None:
        section.wrong(("combinations", key, *part), f"combinations of {key!r} in group {section.name!r}: {message}")

    items = _items(written.of, wrong)
    if not written.sizes and not written.select:
        wrong("needs sizes or select")
    for position, size in enumerate(written.sizes):
        if size > len(written.of):
            wrong(f"there are no {size} items in `of`, only {len(written.of)}", "sizes", position)
        if size in written.sizes[:position]:
            wrong(f"size {size} appears twice", "sizes", position)
    selected: list[list[str]] = []
    for position, subset in enumerate(written.select):
        texts = [any_text(item) for item in subset]
        for unknown in [text for text in texts if text not in items]:
            wrong(f"{unknown!r} is not an item of `of`: {nearest(unknown, items)}", "select", position)
        ordered = [text for text in items if text in texts]
        if len(set(texts)) < len(texts):
            wrong(f"{'+'.join(texts)} has an item twice", "select", position)
        elif ordered in selected:
            wrong(f"{'+'.join(ordered) or NO_ITEMS} is selected twice", "select", position)
        selected.append(ordered)
    if section.is_sound and sum(math.comb(len(items), size) for size in written.sizes) > MAX_COMBINATIONS:
        wrong(f"more than {MAX_COMBINATIONS:,} subsets", "sizes")
    if not section.is_sound:
        return []
    subsets = [chosen for size in written.sizes for chosen in combinations(items, size)]
    subsets += [tuple(chosen) for chosen in selected if len(chosen) not in written.sizes]
    return [{key: [items[text] for text in chosen]} for chosen in subsets]


def _items(of: Sequence[Any], wrong: Callable[..., None]) -> dict[str, Any]:
    """Each item by its text, which must be unique."""
    items: dict[str, Any] = {}
    if not of:
        wrong("`of` is empty", "of")
    for position, item in enumerate(of):
        try:
            text = plain_text(item)
        except ValueError as error:
            wrong(f"item {any_text(item)} {error}", "of", position)
            continue
        if text in items:
            wrong(f"{text!r} is in `of` twice", "of", position)
        items[text] = item
    return items


def _without_excluded(section: Section, rows: list[Row]) -> list[Row]:
    group, name = section.group, section.name
    dropped: set[int] = set()
    keys = {key: None for row in rows for key in row} if group.exclude else {}
    fixed = {**section.content.defaults, **group.config}
    for position, excluded in enumerate(group.exclude):
        # What the extended round excludes may not exist here any more: its sweep may be smaller, or a key of it fixed.
        inherited = section.inherits(("exclude", position))
        unknown = [key for key in excluded if key not in keys] if not inherited else []
        for key in unknown:
            kinds = " or ".join(kind for kind in KINDS if kind in ("grid", "zip") or getattr(group, kind))
            message = f"exclude names {key!r}, which is not in {kinds} of group {name!r}: {nearest(key, keys)}"
            section.wrong(("exclude", position, key), message)
        if unknown:
            continue
        complete = [{**fixed, **row} for row in rows] if inherited else rows
        matching = {number for number, row in enumerate(complete) if excluded and _has(row, excluded)}
        if not matching and not inherited:
            what = "matches no combination of" if excluded else "names no values in"
            section.wrong(("exclude", position), f"exclude {what} group {name!r}")
        dropped |= matching
    if rows and len(dropped) == len(rows) and not group.include:
        section.wrong(("exclude",), f"exclude drops every combination of group {name!r}")
    return [row for number, row in enumerate(rows) if number not in dropped] if dropped else rows


def _has(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether all wanted values are in the row; 1 is not true."""
    return all(
        key in row and row[key] == value and isinstance(row[key], bool) == isinstance(value, bool)
        for key, value in wanted.items()
    )

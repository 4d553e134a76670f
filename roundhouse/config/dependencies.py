"""The dependencies of each experiment: the paths that must be completed first, without cycles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from roundhouse.config.section import Section
from roundhouse.names import nearest
from roundhouse.placeholders import parse_template

Located = Sequence[tuple[str, Mapping[str, Any]]]  # (path, names) of a group's experiments
Dependencies = dict[str, tuple[str, ...]]  # group: the paths in it that an experiment depends on


def dependencies_of(sections: Mapping[str, Section], located: Mapping[str, Located]) -> dict[str, list[Dependencies]]:
    """The dependencies of each experiment of each group, in order. Mistakes become problems of the file."""
    found: dict[str, list[Dependencies]] = {name: [{} for _ in located[name]] for name in sections}
    for name, section in sections.items():
        source = _source(section)
        for group in source & located.keys():
            paths = tuple(path for path, _ in located[group])
            for one in found[name]:
                one[group] = paths
        for target in [one for one in section.group.after if one not in source]:
            if target not in sections:
                section.wrong(("after", target), f"unknown group {target!r}: {nearest(target, sections)}")
            elif located[target]:
                _add(section, target, located, found[name])
    _check_groups_for_cycles(sections)
    for name, section in sections.items():
        if name in section.group.after:
            graph = {path: one.get(name, ()) for (path, _), one in zip(located[name], found[name], strict=True)}
            cycle = _cycle(graph)
            if cycle:
                message = f"experiments of group {name!r} depend on each other in a cycle: {_chain(cycle)}"
                section.wrong(("after", name), message)
    return found


def _source(section: Section) -> set[str]:
    """The group that a group selects from, if any."""
    return {section.group.select.group} if section.group.select else set()


def _add(section: Section, target: str, located: Mapping[str, Located], found: list[Dependencies]) -> None:
    """Find in `target` the dependencies of each experiment of a group."""
    place, own = ("after", target), located[section.name]
    conditions = _conditions(section, target, located[target])
    if conditions is None:
        return
    matching = _index(located[target], list(conditions))
    unmatched = []
    for (path, names), dependencies in zip(own, found, strict=True):
        try:
            wanted = tuple(_comparable(value(names)) for value in conditions.values())
        except ValueError as error:
            section.wrong(place, f"after of group {section.name!r}: {error}")
            return
        if wanted in matching:
            dependencies[target] = matching[wanted]
        else:
            unmatched.append(path)
    # A chain inside one group has a beginning: experiments there that match nothing have no dependencies.
    if unmatched and (target != section.name or len(unmatched) == len(own)):
        more = f" (nor for {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
        section.wrong(place, f"no experiment of group {target!r} matches `after` for {unmatched[0]}{more}")


def _conditions(
    section: Section, target: str, targets: Located
) -> dict[str, Callable[[Mapping[str, Any]], Any]] | None:
    """For each key in `after`, how its value follows from the experiment that depends; None if one is wrong."""
    keys = {key for _, names in targets for key in names}
    conditions: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    for key, value in section.group.after[target].items():
        if key not in keys:
            section.wrong(("after", target, key), f"group {target!r} has no config key {key!r}: {nearest(key, keys)}")
            return None
        try:
            conditions[key] = parse_template(value).value if isinstance(value, str) else _constant(value)
        except ValueError as error:
            section.wrong(("after", target, key), f"after.{target}.{key}: {error}")
            return None
    return conditions


def _constant(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda names: value


def _index(targets: Located, keys: list[str]) -> dict[tuple[Any, ...], tuple[str, ...]]:
    """The paths of a group by the values of some keys; an experiment without one of them is left out."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for path, names in targets:
        if all(key in names for key in keys):
            found.setdefault(tuple(_comparable(names[key]) for key in keys), []).append(path)
    return {values: tuple(paths) for values, paths in found.items()}


def _comparable(value: Any) -> Any:
    """Hashable; 1 equals 1.0 but not true."""
    return json.dumps([value], sort_keys=True) if isinstance(value, (bool, list, dict)) else value


def _check_groups_for_cycles(sections: Mapping[str, Section]) -> None:
    graph = {name: (section.group.after.keys() | _source(section)) - {name} for name, section in sections.items()}
    cycle = _cycle(graph)
    if cycle:
        section = sections[cycle[0]]
        where = ("select",) if cycle[1] in _source(section) else ("after", cycle[1])
        section.wrong(where, f"groups depend on each other in a cycle: {_chain(cycle)}")


def _cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Nodes of which each depends on the next, the last being the first; empty if there is no cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][::-1]
        return found
    return []


def _chain(cycle: Sequence[str]) -> str:
    return " depends on ".join(cycle)

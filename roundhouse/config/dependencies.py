"""The dependencies of each experiment: the paths that must be completed first, without cycles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from roundhouse.config.round_schema import ALLOW, PARTIAL
from roundhouse.config.section import Section
from roundhouse.model.experiment import comparable
from roundhouse.names import nearest
from roundhouse.placeholders import Template, parse_template
from roundhouse.schema import Location

Dependencies = dict[str, tuple[str, ...]]  # group: the paths in it that an experiment depends on


def dependencies_of(sections: Mapping[str, Section]) -> dict[str, list[Dependencies]]:
    """The dependencies of each experiment of each group, in order. Mistakes become problems of the file."""
    found: dict[str, list[Dependencies]] = {name: [{} for _ in one.combinations] for name, one in sections.items()}
    for name, section in sections.items():
        sources = sources_of(section)
        for group in [one for one in sources if one in sections]:
            _add_source(section, sections[group], found[name])
        for target in [one for one in section.group.after if one not in sources]:
            if target not in sections:
                section.wrong(("after", target), f"unknown group {target!r}: {nearest(target, sections)}")
            elif sections[target].combinations:
                _add(section, sections[target], found[name])
    edges = _edges(sections)
    _check_groups_for_cycles(sections, edges)
    for name, section in sections.items():
        if name in edges[name]:
            graph = {
                one.path: (*paths.get(name, ()), *([start.source] if start else []))
                for one, paths, start in zip(section.combinations, found[name], section.starts, strict=True)
            }
            cycle = _cycle(graph)
            if cycle:
                message = f"experiments of group {name!r} depend on each other in a cycle: {' depends on '.join(cycle)}"
                section.wrong(edges[name][name], message)
    return found


def _edges(sections: Mapping[str, Section]) -> dict[str, dict[str, Location]]:
    """For each group, those that it depends on, and where the file says so."""
    owners = {one.path: name for name, section in sections.items() for one in section.combinations}
    found: dict[str, dict[str, Location]] = {}
    for name, section in sections.items():
        found[name] = {owners[one.source]: (one.kind,) for one in section.starts if one and one.source in owners}
        found[name] |= {group: ("after", group) for group in section.group.after}
        found[name] |= dict.fromkeys(sources_of(section), ("select",))
    return found


def partial_groups(section: Section) -> tuple[str, ...]:
    """The groups of which the experiments that completed are enough, once the others have ended."""
    return tuple(name for name, conditions in section.group.after.items() if conditions.get(ALLOW) == PARTIAL)


def input_files_of(section: Section) -> dict[str, tuple[str, ...]]:
    """By group, the files that are inputs. Mistakes become problems of the file."""
    groups = section.group.after.keys() | set(sources_of(section))
    written = section.group.inputs_from
    if written and not groups:
        section.wrong(("inputs_from",), f"group {section.name!r} has inputs_from, but no `after`: it has no inputs")
    for name in written.keys() - groups - {""} if groups else ():
        section.wrong(("inputs_from", name), f"inputs_from: {name!r} is not in `after`: {nearest(name, groups)}")
    names = {group: tuple(written.get("", written.get(group, ()))) for group in groups}
    return {group: those for group, those in names.items() if those}


def sources_of(section: Section) -> tuple[str, ...]:
    """The groups that a group selects from."""
    return section.group.select.groups if section.group.select else ()


def sources_first(sections: Mapping[str, Section]) -> list[Section]:
    """All groups, each after those that it selects from, as far as there is no cycle."""
    graph = {name: sections.keys() & sources_of(section) for name, section in sections.items()}
    if _cycle(graph):
        return list(sections.values())
    return [sections[name] for name in TopologicalSorter(graph).static_order()]


def _add_source(section: Section, source: Section, found: list[Dependencies]) -> None:
    """All experiments of a group that is selected from; with `per`, those of the same value.

    Those whose value is not known before their own selection is made may have any.
    """
    per = section.group.select.per if section.group.select else None
    later = tuple(one.path for one in source.combinations if per and per not in one.names)
    paths: dict[Any, list[str]] = {}
    for one in source.combinations:
        if not per or per in one.names:
            paths.setdefault(comparable(one.names.get(per)) if per else None, []).append(one.path)
    shared = {value: (*those, *later) for value, those in paths.items()}
    for own, dependencies in zip(section.combinations, found, strict=True):
        value = comparable(own.names.get(per)) if per else None
        if those := shared.get(value, later):
            dependencies[source.name] = those


def _add(section: Section, target: Section, found: list[Dependencies]) -> None:
    """Find in `target` the dependencies of each experiment of a group."""
    place, own = ("after", target.name), section.combinations
    matched = matching(section, target, section.group.after[target.name], place)
    if matched is None:
        return
    unmatched = []
    for one, dependencies, paths in zip(own, found, matched, strict=True):
        if paths:
            dependencies[target.name] = paths
        else:
            unmatched.append(one.path)
    # A chain inside one group has a beginning: experiments there that match nothing have no dependencies.
    if unmatched and (target is not section or len(unmatched) == len(own)):
        more = f" (nor for {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
        section.wrong(place, f"no experiment of group {target.name!r} matches `after` for {unmatched[0]}{more}")


def matching(
    section: Section, target: Section, written: Mapping[str, Any], place: Location
) -> list[tuple[str, ...]] | None:
    """For each experiment of a group, the paths in `target` that fulfil the conditions `written` at `place`.

    None: they are wrong, which is a problem of the file.
    """
    conditions = _conditions(section, target, written, place)
    if conditions is None:
        return None
    paths: dict[tuple[Any, ...], list[str]] = {}
    for one in target.combinations:
        if conditions.keys() <= one.names.keys():
            paths.setdefault(tuple(comparable(one.names[key]) for key in conditions), []).append(one.path)
    matched = {values: tuple(those) for values, those in paths.items()}  # shared by those that depend on it
    found = []
    for one in section.combinations:
        try:
            wanted = tuple(
                comparable(value.value(one.names) if isinstance(value, Template) else value)
                for value in conditions.values()
            )
        except ValueError as error:
            section.wrong(place, f"{place[0]} of group {section.name!r}: {error}")
            return None
        found.append(matched.get(wanted, ()))
    return found


def _conditions(
    section: Section, target: Section, written: Mapping[str, Any], place: Location
) -> dict[str, Any] | None:
    """For each key of the conditions its value, or a Template that gives it; None if one is wrong."""
    name, keys, of_after = target.name, {key for names in target.names for key in names}, place[0] == "after"
    conditions: dict[str, Any] = {}
    for key, value in written.items():
        where, shown = (*place, key), ".".join((*map(str, place), key))
        if key == ALLOW and of_after:
            if value != PARTIAL:
                section.wrong(where, f"{shown} must be {PARTIAL!r} (got {value!r})")
            continue
        if key not in keys:
            hint = nearest(key, {*keys, ALLOW} if of_after else keys)
            hint = hint if hint.endswith("?") else nearest(key, keys)  # `allow` is no config key
            section.wrong(where, f"group {name!r} has no config key {key!r}: {hint}")
            return None
        try:
            conditions[key] = parse_template(value) if isinstance(value, str) else value
        except ValueError as error:
            section.wrong(where, f"{shown}: {error}")
            return None
    return conditions


def _check_groups_for_cycles(sections: Mapping[str, Section], edges: Mapping[str, Mapping[str, Location]]) -> None:
    cycle = _cycle({name: targets.keys() - {name} for name, targets in edges.items()})
    if cycle:
        message = f"groups depend on each other in a cycle: {' depends on '.join(cycle)}"
        sections[cycle[0]].wrong(edges[cycle[0]][cycle[1]], message)


def _cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Nodes of which each depends on the next, the last being the first; empty if there is no cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][::-1]
        return found
    return []

"""What `after` means for each experiment: the paths that must be completed first, and no circles among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from roundhouse.config.round_schema import Group
from roundhouse.config.templates import parse_template
from roundhouse.config.yaml_file import YamlFile
from roundhouse.names import nearest

Located = Sequence[tuple[str, Mapping[str, Any]]]  # (path, config) of a group's experiments
Waiting = dict[str, tuple[str, ...]]  # group: the paths in it that an experiment waits for
Conditions = dict[str, Callable[[Mapping[str, Any]], Any]]  # key of the group waited for: the value it must have


def waits_of(file: YamlFile, groups: Mapping[str, Group], located: Mapping[str, Located]) -> dict[str, list[Waiting]]:
    """What each experiment of each group with `after` waits for, in order. Mistakes become problems of `file`."""
    waits = {name: [Waiting() for _ in located[name]] for name, group in groups.items() if group.after or group.select}
    for name, waiting in waits.items():
        chosen_from = _chosen_from(groups[name])
        for group in chosen_from & located.keys():
            paths = tuple(path for path, _ in located[group])
            for one in waiting:
                one[group] = paths
        for target in [one for one in groups[name].after if one not in chosen_from]:
            if target not in groups:
                file.problem(
                    ("experiments", name, "after", target), f"unknown group {target!r}: {nearest(target, groups)}"
                )
            elif located[target]:
                _add(file, name, groups[name], target, located, waiting)
    _check_groups_for_circles(file, groups)
    for name, waiting in waits.items():
        if name in groups[name].after:
            _check_experiments_for_circles(file, name, located[name], waiting)
    return waits


def _chosen_from(group: Group) -> set[str]:
    return {group.select.group} if group.select else set()


def _add(
    file: YamlFile, name: str, group: Group, target: str, located: Mapping[str, Located], waiting: list[Waiting]
) -> None:
    """Find in `target` what each experiment of group `name` waits for."""
    place = ("experiments", name, "after", target)
    conditions = _conditions(file, place, group.after[target], located[target])
    if conditions is None:
        return
    matching = _index(located[target], list(conditions))
    unmatched = []
    for number, (path, config) in enumerate(located[name]):
        try:
            wanted = tuple(_comparable(value(config)) for value in conditions.values())
        except ValueError as error:
            file.problem(place, f"after of group {name!r}: {error}")
            return
        found = matching.get(wanted, ())
        if found:
            waiting[number][target] = found
        else:
            unmatched.append(path)
    # A chain inside one group has a beginning: there, those that match nothing wait for nothing.
    if unmatched and (target != name or len(unmatched) == len(located[name])):
        more = f" (nor for {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
        file.problem(place, f"no experiment of group {target!r} is what {unmatched[0]} waits for{more}")


def _conditions(
    file: YamlFile, place: tuple[str, ...], written: Mapping[str, Any], targets: Located
) -> Conditions | None:
    """The conditions of one `after`, or None where they are wrong."""
    keys = {key for _, config in targets for key in config}
    conditions: Conditions = {}
    for key, value in written.items():
        if key not in keys:
            file.problem((*place, key), f"group {place[-1]!r} has no config key {key!r}: {nearest(key, keys)}")
            return None
        try:
            conditions[key] = _wanted(value)
        except ValueError as error:
            file.problem((*place, key), f"after.{place[-1]}.{key}: {error}")
            return None
    return conditions


def _wanted(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    """How a condition's value follows from the config of the experiment that waits."""
    template = parse_template(value) if isinstance(value, str) else None
    return template.value if template else lambda config: value


def _index(targets: Located, keys: list[str]) -> dict[tuple[Any, ...], tuple[str, ...]]:
    """The paths of a group by the values of some keys; an experiment without one of them is left out."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for path, config in targets:
        if all(key in config for key in keys):
            found.setdefault(tuple(_comparable(config[key]) for key in keys), []).append(path)
    return {values: tuple(paths) for values, paths in found.items()}


def _comparable(value: Any) -> Any:
    """Hashable; 1 equals 1.0 but not true."""
    return json.dumps([value], sort_keys=True) if isinstance(value, (bool, list, dict)) else value


def _check_groups_for_circles(file: YamlFile, groups: Mapping[str, Group]) -> None:
    try:
        TopologicalSorter(
            {name: ({*group.after} | _chosen_from(group)) - {name} for name, group in groups.items()}
        ).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        chosen = circle[1] in _chosen_from(groups[circle[0]])
        place = ("experiments", circle[0], "select") if chosen else ("experiments", circle[0], "after", circle[1])
        file.problem(place, f"groups wait for each other in a circle: {' waits for '.join(circle)}")


def _check_experiments_for_circles(file: YamlFile, name: str, located: Located, waiting: list[Waiting]) -> None:
    """Circles within group `name`, which waits for itself."""
    place = ("experiments", name, "after", name)
    graph = {path: found.get(name, ()) for (path, _), found in zip(located, waiting, strict=True)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        file.problem(
            place, f"experiments of group {name!r} wait for each other in a circle: {' waits for '.join(circle)}"
        )

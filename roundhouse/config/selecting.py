"""What `select` and `halving` mean when the round file is read: ranks, and what is known before a choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.config.round_schema import Group, RoundFile
from roundhouse.config.templates import parse_template
from roundhouse.config.yaml_file import YamlFile
from roundhouse.formatting import counted
from roundhouse.model.experiment import SEED, Halving, Selection, setting_of
from roundhouse.names import nearest

Names = Sequence[Mapping[str, Any]]  # of each experiment of a group: its config, and what may be named besides


def base_of(group: Group, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a group's configs begin with. Where something is chosen, the choice comes before the round's defaults."""
    return dict(group.config) if group.select else {**defaults, **group.config}


def not_yet_known(group: Group) -> str:
    """The end of a message about a name that is missing in a selecting group."""
    if group.select is None:
        return ""
    return f"; what is chosen from group {group.select.group!r} is not known yet, only the group's own keys and rank"


def ranks(group: Group) -> list[dict[str, Any]]:
    """A row for each rank."""
    return [{"rank": rank} for rank in range(1, group.select.top + 1)] if group.select else []


def check_selections(file: YamlFile, groups: Mapping[str, Group], names: Mapping[str, Names]) -> None:
    """Sources exist and are large enough, ranks are in range, and commands name what there will be."""
    for name, group in groups.items():
        if group.select is None:
            continue
        place, source = ("experiments", name, "select"), group.select.group
        others = [one for one in groups if one != name]
        if source not in others:
            hint = "a group cannot choose from itself" if source == name else nearest(source, others)
            file.problem((*place, "from"), f"no other group is called {source!r}: {hint}")
            continue
        if source in group.after:
            file.problem(("experiments", name, "after", source), f"group {name!r} waits for all of {source!r} already, "
                         "since it selects from it: leave it out here")  # fmt: skip
        there = len({setting_of(one) for one in names[source]})
        if names[source] and group.select.top > there:
            file.problem((*place, "top"), f"group {source!r} has {counted(there, 'setting')} (seeds apart), so "
                         f"its best {group.select.top} cannot be chosen")  # fmt: skip
        for number, row in enumerate(group.include):
            if type(row.get("rank")) is not int or not 1 <= row["rank"] <= group.select.top:
                file.problem(("experiments", name, "include", number), f"include of group {name!r} needs the rank of "
                             f"what is chosen, from 1 to {group.select.top}")  # fmt: skip
        _check_command(file, name, group, names[name], known_names(source, groups, names))


def known_names(name: str, groups: Mapping[str, Group], names: Mapping[str, Names], below: int = 0) -> set[str]:
    """What every choice from group `name` will have: keys of all its configs, but no seed if that varies."""
    listed = names[name]
    if not listed or below > len(groups):
        return set()
    keys = set.intersection(*(set(one) for one in listed))
    if len({json.dumps(one.get(SEED)) for one in listed}) > 1:
        keys.discard(SEED)
    source = groups[name].select
    return keys | known_names(source.group, groups, names, below + 1) if source and source.group in groups else keys


def halving_of(file: YamlFile, name: str, group: Group, names: Names) -> Halving | None:
    """How a group is pruned early. Mistakes become problems of `file`."""
    wanted, place = group.halving, ("experiments", name, "halving")
    if wanted is None:
        return None
    lacking = [one for one in names if wanted.per is not None and wanted.per not in one]
    if lacking:
        file.problem((*place, "per"), f"per of group {name!r}: unknown key {wanted.per!r}: "
                     f"{nearest(str(wanted.per), lacking[0])}")  # fmt: skip
    if wanted.per == SEED:
        file.problem((*place, "per"), f"per of group {name!r}: seeds are compared by their mean, not one by one")
    if name in group.after:
        file.problem(place, f"group {name!r} waits for itself, so its runs cannot pause for each other")
    return Halving(wanted.metric, wanted.mode, wanted.every, wanted.keep, wanted.per)


def _check_command(file: YamlFile, name: str, group: Group, own: Names, chosen: set[str]) -> None:
    if group.command is None or not own:
        return
    known = {*set.intersection(*(set(one) for one in own)), *chosen, "directory"}
    for word in group.command:
        try:
            unknown = [one for one in parse_template(word).names if one not in known]
        except ValueError as error:
            file.problem(("experiments", name, "command"), f"command of group {name!r}: {error}")
            return
        if unknown:
            told = f"unknown name {unknown[0]!r}: {nearest(unknown[0], known)}"
            file.problem(("experiments", name, "command"), f"command of group {name!r}: {told}")


def selections_of(content: RoundFile, name: str, names: Names) -> list[Selection | None]:
    """For each experiment of a group what it is to choose."""
    group = content.experiments[name]
    wanted = group.select
    if wanted is None:
        return [None] * len(names)
    return [
        Selection(
            group=wanted.group,
            rank=one["rank"] if type(one.get("rank")) is int else 0,
            top=wanted.top,
            metric=wanted.metric,
            mode=wanted.mode,
            inputs=wanted.inputs,
            defaults=content.defaults,
            combinations=tuple(
                dict.fromkeys(key for each in content.experiments.values() for key in each.combinations)
            ),
        )
        for one in names
    ]

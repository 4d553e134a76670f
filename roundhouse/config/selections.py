"""`select` and `halving` of a group: what is checked before any experiment has run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from roundhouse.config.section import Section
from roundhouse.formatting import counted
from roundhouse.model.experiment import SEED, Selection, setting_of
from roundhouse.names import nearest
from roundhouse.placeholders import parse_template


def check_selection(section: Section, sections: Mapping[str, Section]) -> None:
    """The source exists and is large enough, ranks are in range, and the command names what will be known."""
    group, name = section.group, section.name
    if group.select is None:
        return
    source, top = group.select.group, group.select.top
    if not section.other_group(("select", "from"), source, "a group cannot select from itself"):
        return
    if source in group.after:
        section.wrong(
            ("after", source), f"group {name!r} depends on all of {source!r} because it selects from it: leave it out"
        )
    settings = len({setting_of(names) for names in sections[source].names})
    if 0 < settings < top:
        section.wrong(
            ("select", "top"),
            f"group {source!r} has {counted(settings, 'setting')} (without seeds): cannot select the best {top}",
        )
    for number, row in enumerate(group.include):
        if type(row.get("rank")) is not int or not 1 <= row["rank"] <= top:
            message = f"include of group {name!r} needs the rank of the selected setting, from 1 to {top}"
            section.wrong(("include", number), message)
    _check_command(section, _known_names(sections[source], sections))


def _known_names(section: Section, sections: Mapping[str, Section], depth: int = 0) -> set[str]:
    """The names that every selection from a group has: keys of all its configs, but no seed if that varies."""
    listed = section.names
    if not listed or depth > len(sections):
        return set()
    keys = set.intersection(*(set(one) for one in listed))
    if len({json.dumps(one.get(SEED)) for one in listed}) > 1:
        keys.discard(SEED)
    source = sections.get(section.group.select.group) if section.group.select else None
    return keys | _known_names(source, sections, depth + 1) if source else keys


def _check_command(section: Section, selected: set[str]) -> None:
    command, own = section.group.command, section.names
    if command is None or not own:
        return
    known = {*set.intersection(*(set(one) for one in own)), *selected, "directory"}
    try:
        unknown = [name for word in command for name in parse_template(word).names if name not in known]
    except ValueError as error:
        section.wrong(("command",), f"command of group {section.name!r}: {error}")
        return
    for name in unknown[:1]:
        section.wrong(("command",), f"command of group {section.name!r}: unknown name {name!r}: {nearest(name, known)}")


def selections_of(section: Section) -> Sequence[Selection | None]:
    """For each experiment of a group the selection that it depends on."""
    content, rule = section.content, section.group.select
    if rule is None:
        return [None] * len(section.combinations)
    written = {one.name: getattr(rule, one.name) for one in dataclasses.fields(rule)}
    keys = dict.fromkeys(key for group in content.experiments.values() for key in group.combinations)
    ranks = [one["rank"] if type(one.get("rank")) is int else 0 for one in section.names]
    return [Selection(**written, rank=rank, defaults=content.defaults, combinations=tuple(keys)) for rank in ranks]


def check_halving(section: Section) -> None:
    """Runs can be compared by `per`, and do not depend on each other."""
    halving, name = section.group.halving, section.name
    if halving is None:
        return
    lacking = [one for one in section.names if halving.per is not None and halving.per not in one]
    if lacking:
        hint = nearest(str(halving.per), lacking[0])
        section.wrong(("halving", "per"), f"per of group {name!r}: unknown key {halving.per!r}: {hint}")
    if halving.per == SEED:
        section.wrong(("halving", "per"), f"per of group {name!r}: seeds are compared by their mean, not one by one")
    own = {one.path for one in section.combinations}
    if name in section.group.after or any(start and start.source in own for start in section.starts):
        section.wrong(("halving",), f"group {name!r} depends on itself, so its runs cannot pause for each other")

"""`select` and `halving` of a group: what is checked before any experiment has run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.config.dependencies import sources_of
from roundhouse.config.section import Section
from roundhouse.expressions import Expression
from roundhouse.formatting import counted
from roundhouse.model.experiment import SEED, Selection, comparable, setting_of
from roundhouse.names import nearest
from roundhouse.placeholders import any_text, parse_template


def check_selection(section: Section, sections: Mapping[str, Section]) -> None:
    """The sources exist and are large enough, ranks are in range, and the command names what will be known."""
    group, name = section.group, section.name
    if group.select is None:
        return
    for source in group.select.groups:
        if not section.other_group(("select", "from"), source, "a group cannot select from itself"):
            return
        if source in group.after:
            message = f"group {name!r} depends on all of {source!r} because it selects from it: leave it out"
            section.wrong(("after", source), message)
    if group.select.where is not None:
        try:
            Expression(group.select.where)
        except ValueError as error:
            section.wrong(("select", "where"), str(error))
    _check_number_of_settings(section, sections)
    _check_include(section)
    _check_command(section, _known_names(section, sections))


def per_values(section: Section, sections: Mapping[str, Section]) -> list[Any]:
    """The values of `per` in the groups that a group selects from, in their order; none without `per`.

    A group that selects the key itself has no value yet: it counts if another one has them.
    """
    select = section.group.select
    if select is None or select.per is None:
        return []
    if select.per == SEED:
        section.wrong(("select", "per"), "per of select: seeds are compared by their mean, not one by one")
        return []
    listed = [(source, names) for source in select.groups if source in sections for names in sections[source].names]
    known = [(source, names) for source, names in listed if select.per in names]
    later = {source for source in select.groups if known and _selects_key(sections.get(source), select.per, sections)}
    for source, names in listed:
        if select.per not in names and source not in later:
            section.wrong(("select", "per"), f"per of select: group {source!r} has experiments without the key "
                          f"{select.per!r}: {nearest(select.per, names)}{sections[source].not_yet_known}")  # fmt: skip
            return []
    return list({comparable(names[select.per]): names[select.per] for _, names in known}.values())


def _selects_key(section: Section | None, key: str, sections: Mapping[str, Section]) -> bool:
    """Whether the experiments of a group get this key from the settings that they select."""
    return section is not None and section.group.select is not None and key in _known_names(section, sections)


def _check_number_of_settings(section: Section, sections: Mapping[str, Section]) -> None:
    """There are enough settings, for each value of `per`."""
    select = section.group.select
    assert select is not None
    listed = [(source, names) for source in select.groups for names in sections[source].names]
    for value in section.per_values if select.per else [None]:
        of_value = [one for one in listed if not select.per or comparable(one[1].get(select.per)) == comparable(value)]
        settings = len({(source, setting_of(names)) for source, names in of_value})
        if 0 < settings < select.top:
            have = "have" if len(select.groups) > 1 else "has"
            with_value = f" with {select.per}={any_text(value)}" if select.per else ""
            number_of = f"{select.named(repr)} {have} {counted(settings, 'setting')}{with_value} (without seeds)"
            section.wrong(("select", "top"), f"{number_of}: cannot select the best {select.top}")


def _check_include(section: Section) -> None:
    """Each combination of `include` has the rank, and the value of `per`, of one selected setting."""
    group, select = section.group, section.group.select
    assert select is not None
    known = {comparable(value) for value in section.per_values}
    for number, row in enumerate(group.include):
        place = ("include", number)
        if type(row.get("rank")) is not int or not 1 <= row["rank"] <= select.top:
            needs = f"needs the rank of the selected setting, from 1 to {select.top}"
            section.wrong(place, f"include of group {section.name!r} {needs}")
        if known and (select.per not in row or comparable(row[select.per]) not in known):
            values = ", ".join(map(any_text, section.per_values))
            section.wrong(place, f"include of group {section.name!r} needs the key {select.per!r}: one of {values}")


def _known_names(section: Section, sections: Mapping[str, Section], depth: int = 0) -> set[str]:
    """The names that every setting has that a group may select: keys of all configs of its sources, known or selected.

    Without the seed, if seeds vary.
    """
    sources = [sections[name] for name in sources_of(section) if name in sections and sections[name].names]
    if not sources or depth > len(sections):
        return set()
    keys = (set.intersection(*map(set, one.names)) | _known_names(one, sections, depth + 1) for one in sources)
    seeds = {json.dumps(names.get(SEED)) for one in sources for names in one.names}
    return set.intersection(*keys) - ({SEED} if len(seeds) > 1 else set())


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

"""From the groups of a round file to experiments: configs, paths, resources, commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import compress
from typing import Any, TypeVar

from roundhouse.config.dependencies import dependencies_of, partial_groups
from roundhouse.config.expressions import Expression
from roundhouse.config.paths import ancestors_among, path_fault
from roundhouse.config.round_schema import RoundFile
from roundhouse.config.section import Combination, Section
from roundhouse.config.selections import check_halving, check_selection, selections_of
from roundhouse.config.sweeps import rows_of
from roundhouse.config.yaml_file import YamlFile
from roundhouse.model.experiment import Carry, Experiment, Resources
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.placeholders import any_text, fill_words, parse_template, printable
from roundhouse.schema import Location

Column = TypeVar("Column")


def expand(name: str, file: YamlFile, content: RoundFile) -> list[Experiment]:
    """All experiments of round `name`, in the order of the file. Mistakes become problems of `file`."""
    if not content.experiments:
        file.problem(("experiments",), "experiments is empty: a round has at least one group")
    sections = {group: Section(file, content, group) for group in content.experiments}
    for section in sections.values():
        section.combinations = _combinations(section)
    _check_paths(sections)
    dependencies = dependencies_of(sections)
    resources = {group: _resources(section) for group, section in sections.items()}
    retry = RetryPolicy().updated(content.retry)
    _check_retry(file, retry, resources)
    experiments: list[Experiment] = []
    for group, section in sections.items():
        check_selection(section, sections)
        check_halving(section)
        baseline = section.group.baseline
        if baseline is not None:
            section.other_group(("baseline",), baseline, "a group cannot be its own baseline")
        study, carry, time_limit = _study(section), _carry(section), _time_limit(section)
        columns = (
            resources[group],
            _priorities(section),
            dependencies[group],
            _commands(section),
            selections_of(section),
        )
        experiments += [
            Experiment(
                round=name,
                group=group,
                path=one.path,
                study=study,
                config=one.config,
                resources=requested,
                priority=priority,
                after=after,
                partial=partial_groups(section),
                command=command,
                retry=retry,
                snapshot=content.snapshot,
                selection=selection,
                halving=section.group.halving,
                carry=carry,
                time_limit=time_limit,
            )
            for one, requested, priority, after, command, selection in zip(section.combinations, *columns, strict=True)
        ]
    return experiments


def _combinations(section: Section) -> list[Combination]:
    """Those of all that is swept, then those of include. One whose path is wrong is left out and becomes a problem."""
    group, defaults = section.group, section.content.defaults
    try:
        template = parse_template(group.path)
    except ValueError as error:
        section.wrong(("path",), f"path of group {section.name!r}: {error}")
        return []
    # A selected setting overrides the round's defaults, so these are added later.
    base = group.config if group.select else {**defaults, **group.config}
    rows: list[tuple[Mapping[str, Any], Location]] = [(row, ("path",)) for row in rows_of(section)]
    rows += [(row, ("include", number)) for number, row in enumerate(group.include)]
    combinations: list[Combination] = []
    faults: dict[Location, dict[str, None]] = {}
    for row, place in rows:
        config = {**base, **row}
        names = printable(config, group.combinations)
        try:
            path = template.fill(names)
            fault = path_fault(path)
            if fault is None:
                combinations.append(Combination(row, place, config, names, path))
                continue
            message = f"{path!r} {fault} ({_shown(row)})"
        except ValueError as error:
            message = f"{error}{section.not_yet_known}"
        faults.setdefault(place, {})[message] = None
    for place, messages in faults.items():
        more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
        section.wrong(place, f"path of group {section.name!r}: {next(iter(messages))}{more}")
    return combinations


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={any_text(value)}" for key, value in values.items()) or "its only combination"


def _check_paths(sections: Mapping[str, Section]) -> None:
    """No two experiments have one path, and none lies inside another's directory. One message per pair of groups."""
    owners: dict[str, tuple[str, Combination]] = {}
    for group, section in sections.items():
        rivals = set()
        for one in section.combinations:
            rival, other = owners.setdefault(one.path, (group, one))
            if other is not one and rival not in rivals:
                rivals.add(rival)
                section.wrong(one.place, _collision(group, one, rival, other))
    inside: dict[tuple[str, str], str] = {}
    for outer, inner in ancestors_among(owners).items():
        pair = owners[outer][0], owners[inner][0]
        inside.setdefault(pair, f"path {inner!r} of group {pair[1]!r} lies inside {outer!r} of group {pair[0]!r}")
    for (_, group), message in inside.items():
        sections[group].wrong(("path",), f"{message}: no experiment may lie inside another's directory")


def _collision(group: str, one: Combination, rival: str, other: Combination) -> str:
    both = {**other.config, **one.config}
    differing = [key for key in both if key not in one.config or one.config[key] != other.config.get(key, ...)]
    whose = f"of group {rival!r} ({_shown(other.values)})" if rival != group else f"of ({_shown(other.values)})"
    hint = f"they differ in {', '.join(differing)}" if differing else "their configs are equal"
    advice = "add a key that differs to the path" if differing else "remove one of them"
    return f"path {one.path!r} of group {group!r} ({_shown(one.values)}) is also that {whose}: {hint}; {advice}"


def _study(section: Section) -> str | None:
    group, study = section.group, section.group.study or section.content.study
    if group.study and group.command:
        section.wrong(("study",), f"group {section.name!r} has both a study and a command: it needs one of them")
    if not (group.command or study):
        section.wrong((), f"group {section.name!r} has neither study nor command, and the round has no study")
    return None if group.command else study


def _carry(section: Section) -> Carry:
    if section.group.carry is not None and not section.group.command:
        section.wrong(
            ("carry",), f"group {section.name!r} has carry, but no command: a study resumes from its checkpoint"
        )
    return section.group.carry or Carry()


def _time_limit(section: Section) -> int | None:
    seconds = section.group.time_limit
    if seconds is not None and not section.group.command:
        section.wrong(
            ("time_limit",),
            f"group {section.name!r} has time_limit, but no command: a study has the config key time_limit, in "
            f"seconds: config: {{time_limit: {seconds}}}",
        )
    return seconds


def _resources(section: Section) -> list[Resources]:
    """The round's plain values, then its `when`, then the group's plain values, then its `when`: the last one wins."""
    layers: list[Mapping[str, Any]] = []
    holds: list[list[bool]] = []  # for each layer, whether it applies to each experiment
    own: Location = ("experiments", section.name)
    for place, written in (((), section.content.resources), (own, section.group.resources)):
        layers.append(written)
        holds.append([True] * len(section.combinations))
        for number, conditional in enumerate(written.get("when", [])):
            layers.append(conditional)
            where = (*place, "resources", "when", number, "if")
            condition = _computed(section, where, conditional["condition"], Expression.truth)
            holds.append(condition or [False] * len(section.combinations))

    @cache
    def merged(applies: tuple[bool, ...]) -> Resources:
        values = {key: value for layer in compress(layers, applies) for key, value in layer.items()}
        return Resources(**{key: values[key] for key in values.keys() - {"when", "condition"}})

    resources = [merged(applies) for applies in zip(*holds, strict=True)]
    for conflict in dict.fromkeys(filter(None, map(_conflict, dict.fromkeys(resources)))):
        section.wrong((), f"resources of group {section.name!r}: {conflict}")
    return resources


def _conflict(requested: Resources) -> str:
    """What cannot be combined in a resource request; empty if all can."""
    pack = requested.pack
    if pack is None:
        alone = requested.max_running is not None and not requested.array
        return "max_running needs array or pack; max_jobs in the site file limits single jobs" if alone else ""
    if requested.array:
        return "array and pack cannot be combined: allocations are submitted one by one"
    if requested.ngpus and pack.slots > requested.ngpus * pack.per_gpu:
        return f"{pack.slots} slots do not fit on {requested.ngpus} GPUs with {pack.per_gpu} on each (per_gpu)"
    if not requested.ngpus and pack.per_gpu > 1:
        return "per_gpu needs ngpus"
    return ""


def _check_retry(file: YamlFile, retry: RetryPolicy, resources: Mapping[str, Sequence[Resources]]) -> None:
    """No experiment requests more at first than `most` lets it grow to."""
    for cause, key in (("memory", "mem_mb"), ("walltime", "walltime_s")):
        most = getattr(retry, cause).most
        groups = [
            name for name, each in resources.items() if most and any((getattr(one, key) or 0) > most for one in each)
        ]
        if groups:
            more = f" (and {len(groups) - 1} more)" if len(groups) > 1 else ""
            less = f"most is less than the {key.partition('_')[0]} that group {groups[0]!r}{more} requests at first"
            file.problem(("retry", cause, "most"), f"retry.{cause}: {less}: raise it, or leave it out")


def _priorities(section: Section) -> list[float]:
    own = section.group.priority
    priority = section.content.priority if own is None else own
    if not isinstance(priority, str):
        return [priority] * len(section.combinations)
    place = ("priority",) if own is None else ("experiments", section.name, "priority")
    return _computed(section, place, priority, Expression.number) or [0.0] * len(section.combinations)


def _computed(
    section: Section, place: Location, source: str, value: Callable[[Expression, Mapping[str, Any]], Column]
) -> list[Column] | None:
    """An expression's value for each experiment of a group; None if there is none, which is a problem at `place`."""
    try:
        expression = Expression(source)
        return [value(expression, names) for names in section.names]
    except ValueError as error:
        section.file.problem(place, f"{error} (in group {section.name!r}){section.not_yet_known}")
        return None


def _commands(section: Section) -> Sequence[tuple[str, ...] | None]:
    """Each command with its placeholders filled in, except {directory}, which the job knows."""
    command, number = section.group.command, len(section.combinations)
    if command is None:
        return [None] * number
    if section.group.select is not None:
        return [tuple(command)] * number  # filled in when the selection is made
    try:
        return [fill_words(command, names) for names in section.names]
    except ValueError as error:
        section.wrong(("command",), f"command of group {section.name!r}: {error}")
        return [None] * number

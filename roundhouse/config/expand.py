"""From the groups of a round file to experiments: configs, paths, resources, commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from roundhouse.config.dependencies import waits_of
from roundhouse.config.grid import rows_of
from roundhouse.config.paths import ancestors_among, path_fault
from roundhouse.config.round_schema import Group, ResourceRequests, RoundFile
from roundhouse.config.selecting import base_of, check_selections, halving_of, not_yet_known, selections_of
from roundhouse.config.sweeps import printable
from roundhouse.config.templates import Expression, any_text, fill_words, parse_template
from roundhouse.config.yaml_file import Location, YamlFile
from roundhouse.model.experiment import Experiment, Resources

Configs = Sequence[Mapping[str, Any]]
Column = TypeVar("Column")


@dataclass(frozen=True, slots=True)
class Combination:
    """One choice of values in a group, where it is written, and the config and path that follow from it.

    `names`: the config, and what only paths, commands and expressions may name besides.
    """

    values: Mapping[str, Any]
    place: Location
    config: Mapping[str, Any]
    names: Mapping[str, Any]
    path: str

    def __str__(self) -> str:
        return _told(self.values)


def expand(name: str, file: YamlFile, content: RoundFile) -> list[Experiment]:
    """All experiments of round `name`, in the order of the file. Mistakes become problems of `file`."""
    groups = content.experiments
    if not groups:
        file.problem(("experiments",), "experiments is empty: a round has at least one group")
    combined = {group: _combinations(file, group, groups[group], content.defaults) for group in groups}
    _check_paths(file, combined)
    located = {group: [(one.path, one.names) for one in combinations] for group, combinations in combined.items()}
    check_selections(file, groups, {group: [one.names for one in combined[group]] for group in groups})
    waits = waits_of(file, groups, located)
    experiments: list[Experiment] = []
    asked: dict[str, list[Resources]] = {}
    retry = content.retry.written()
    for group, combinations in combined.items():
        names = [one.names for one in combinations]
        study = _study(file, content, group)
        halving = halving_of(file, group, groups[group], names)
        asked[group] = _resources(file, content, group, names)
        columns = zip(
            combinations,
            asked[group],
            _priorities(file, content, group, names),
            waits.get(group) or [{}] * len(names),
            _commands(file, group, groups[group], names),
            selections_of(content, group, names),
            strict=True,
        )
        experiments += [
            Experiment(
                name,
                group,
                one.path,
                study,
                one.config,
                resources,
                priority,
                after,
                command,
                retry,
                content.snapshot,
                choice,
                halving,
            )
            for one, resources, priority, after, command, choice in columns
        ]
    _check_retry(file, content, asked)
    return experiments


def _combinations(file: YamlFile, name: str, group: Group, defaults: Mapping[str, Any]) -> list[Combination]:
    """Those of all that is swept, then those of include. One whose path is wrong is left out and becomes a problem."""
    place = ("experiments", name)
    try:
        template = parse_template(group.path)
    except ValueError as error:
        file.problem((*place, "path"), f"path of group {name!r}: {error}")
        return []
    base = base_of(group, defaults)
    swept = rows_of(file, name, group, defaults)
    rows: list[tuple[Mapping[str, Any], Location]] = [(row, (*place, "path")) for row in swept]
    rows += [(row, (*place, "include", number)) for number, row in enumerate(group.include)]
    combinations: list[Combination] = []
    faults: dict[Location, dict[str, None]] = {}
    for row, origin in rows:
        config = {**base, **row}
        names = printable(config, group.combinations)
        try:
            path = template.fill(names)
            fault = path_fault(path)
            if fault is None:
                combinations.append(Combination(row, origin, config, names, path))
                continue
            message = f"{path!r} {fault} ({_told(row)})"
        except ValueError as error:
            message = f"{error}{not_yet_known(group)}"
        faults.setdefault(origin, {})[message] = None
    for origin, messages in faults.items():
        more = f"; so have {len(messages) - 1} more of its paths" if len(messages) > 1 else ""
        file.problem(origin, f"path of group {name!r}: {next(iter(messages))}{more}")
    return combinations


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={any_text(value)}" for key, value in values.items()) or "its only combination"


def _check_paths(file: YamlFile, combined: Mapping[str, Sequence[Combination]]) -> None:
    """No two experiments with one path, and none inside another's directory. Told once for each pair of groups."""
    owners: dict[str, tuple[str, Combination]] = {}
    for group, combinations in combined.items():
        rivals = set()
        for one in combinations:
            rival, other = owners.setdefault(one.path, (group, one))
            if other is not one and rival not in rivals:
                rivals.add(rival)
                file.problem(one.place, _collision(group, one, rival, other))
    inside: dict[tuple[str, str], str] = {}
    for outer, inner in ancestors_among(owners).items():
        pair = owners[outer][0], owners[inner][0]
        inside.setdefault(pair, f"path {inner!r} of group {pair[1]!r} lies inside {outer!r} of group {pair[0]!r}")
    for (_, group), message in inside.items():
        file.problem(("experiments", group, "path"), f"{message}: no experiment may lie inside another's directory")


def _collision(group: str, one: Combination, rival: str, other: Combination) -> str:
    both = {**other.config, **one.config}
    differing = [key for key in both if key not in one.config or one.config[key] != other.config.get(key, ...)]
    whose = f"of group {rival!r} ({other})" if rival != group else f"of ({other})"
    hint = f"they differ in {', '.join(differing)}" if differing else "their configs are equal"
    advice = "write into the path what tells them apart" if differing else "drop one of them"
    return f"path {one.path!r} of group {group!r} ({one}) is also that {whose}: {hint}; {advice}"


def _study(file: YamlFile, content: RoundFile, name: str) -> str | None:
    group = content.experiments[name]
    place = ("experiments", name)
    if group.study and group.command:
        file.problem((*place, "study"), f"group {name!r} has both a study and a command: it needs one of them")
    if not (group.study or group.command or content.study):
        file.problem(place, f"group {name!r} has neither study nor command, and the round names no study")
    return None if group.command else group.study or content.study


def _resources(file: YamlFile, content: RoundFile, name: str, configs: Configs) -> list[Resources]:
    """The round's plain values, then its `when`, then the group's plain values, then its `when`: the last one wins."""
    group = content.experiments[name]
    asked: list[Mapping[str, Any]] = []
    holds: list[list[bool]] = []
    requests: list[tuple[Location, ResourceRequests]] = [
        (("resources",), content.resources),
        (("experiments", name, "resources"), group.resources),
    ]
    for place, request in requests:
        asked.append(request.asked())
        holds.append([True] * len(configs))
        for number, conditional in enumerate(request.when):
            asked.append(conditional.asked())
            condition = _computed(
                file, name, group, (*place, "when", number, "if"), conditional.condition, configs, Expression.truth
            )
            holds.append(condition or [False] * len(configs))

    @cache
    def merged(applies: tuple[bool, ...]) -> Resources:
        values: dict[str, Any] = {}
        for layer, applied in zip(asked, applies, strict=True):
            values.update(layer if applied else {})
        return Resources(**values)

    resources = [merged(applies) for applies in zip(*holds, strict=True)]
    for fault in dict.fromkeys(filter(None, map(_senseless, dict.fromkeys(resources)))):
        file.problem(("experiments", name), f"resources of group {name!r}: {fault}")
    return resources


def _senseless(asked: Resources) -> str:
    """What does not go together in what a job asks for; empty if all does."""
    pack = asked.pack
    if pack is None:
        alone = asked.max_running is not None and not asked.array
        return "max_running goes with array or pack; max_jobs in the site file bounds single jobs" if alone else ""
    if asked.array:
        return "array and pack exclude each other: allocations are submitted one by one"
    if asked.ngpus and pack.slots > asked.ngpus * pack.per_gpu:
        return f"{pack.slots} slots do not fit on {asked.ngpus} GPUs with {pack.per_gpu} on each (per_gpu)"
    if not asked.ngpus and pack.per_gpu > 1:
        return "per_gpu makes no sense without ngpus"
    return ""


def _check_retry(file: YamlFile, content: RoundFile, asked: Mapping[str, Sequence[Resources]]) -> None:
    """No experiment asks at once for more than `most` lets it grow to."""
    memory, walltime = content.retry.memory.most, content.retry.walltime.most
    for cause, key, most in (("memory", "mem_mb", memory), ("walltime", "walltime_s", walltime)):
        groups = [name for name, each in asked.items() if most and any((getattr(one, key) or 0) > most for one in each)]
        if groups:
            more = f" (and {len(groups) - 1} more)" if len(groups) > 1 else ""
            told = f"most is less than the {key.partition('_')[0]} that group {groups[0]!r}{more} asks for at first"
            file.problem(("retry", cause, "most"), f"retry.{cause}: {told}: raise it, or leave it out")


def _priorities(file: YamlFile, content: RoundFile, name: str, configs: Configs) -> list[float]:
    group = content.experiments[name]
    own = group.priority
    priority, place = (content.priority, ["priority"]) if own is None else (own, ["experiments", name, "priority"])
    if not isinstance(priority, str):
        return [float(priority)] * len(configs)
    return _computed(file, name, group, place, priority, configs, Expression.number) or [0.0] * len(configs)


def _computed(
    file: YamlFile,
    name: str,
    group: Group,
    place: Location,
    source: str,
    configs: Configs,
    value: Callable[[Expression, Mapping[str, Any]], Column],
) -> list[Column] | None:
    """An expression's value for each config of group `name`. None where there is none, which is a problem of `file`."""
    try:
        expression = Expression(source)
        return [value(expression, config) for config in configs]
    except ValueError as error:
        file.problem(place, f"{error} (in group {name!r}){not_yet_known(group)}")
        return None


def _commands(file: YamlFile, name: str, group: Group, configs: Configs) -> list[tuple[str, ...] | None]:
    """Each command with its names filled in, but for {directory}, which the job knows."""
    if group.command is None:
        return [None] * len(configs)
    if group.select is not None:
        return [tuple(group.command)] * len(configs)  # filled in when the choice is made
    try:
        return [fill_words(group.command, config, any_text) for config in configs]
    except ValueError as error:
        file.problem(("experiments", name, "command"), f"command of group {name!r}: {error}")
        return [None] * len(configs)

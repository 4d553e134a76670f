"""The schema of a round file: its keys, and what each may hold. `ResourceRequest` and the like are in `model`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from roundhouse.figures import Figure
from roundhouse.metrics import Metric
from roundhouse.model.experiment import Carry, ConfigKey, Halving, ResourceRequest, SelectionRule
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.names import is_identifier, is_name
from roundhouse.schema import Partial, Rule, checked, key
from roundhouse.units import Walltime

ALLOW, PARTIAL = "allow", "partial"  # under a group in `after`
_SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1"}


def command_words(value: Any) -> Any:
    """The words of a command line; a list is words already. No shell runs them, so `|` and `>` have no effect."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
        for word in _SHELL_WORDS.intersection(value):
            raise ValueError(
                f"{word} needs a shell, and none is used: write [bash, -c, '...'], or put it into a script"
            )
    elif not isinstance(value, list):
        raise ValueError(f"should be text or a list, not {value!r}")
    if not value:
        raise ValueError("is empty")
    return value


def _dependencies(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"should be a list of groups, or a mapping GROUP: {{KEY: VALUE}} (got {value!r})")
    if isinstance(value, dict) and isinstance(value.get(ALLOW), str):
        raise ValueError(f"has {ALLOW!r} in the wrong place: write GROUP: {{{ALLOW}: {value[ALLOW]}}}")
    is_list_of_groups = isinstance(value, list) and all(isinstance(group, str) for group in value)
    return {group: {} for group in value} if is_list_of_groups else value


def _input_files(value: Any) -> Any:
    """A list alone is for all groups that are inputs, and kept under an empty name."""
    return {"": value} if isinstance(value, list) else value


def _priority(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is neither a number nor an expression")
    return value


def _carry(value: Any) -> Any:
    """A list alone means `files`, and false none of them."""
    if value is True:
        raise ValueError("should be false, a list of globs, or a mapping; all files are copied by default")
    if value is False or isinstance(value, list):
        value = {"files": value or []}
    if not isinstance(value, dict):
        raise ValueError("should be false, a list of globs, or a mapping with `files` and `keep`")
    if isinstance(value.get("files"), list):
        value = {**value, "files": tuple(map(_glob, value["files"]))}
    return value


def _glob(value: Any) -> Any:
    """A glob of `carry`, relative to the command's directory: `logs/` and `./logs` mean `logs`."""
    if not isinstance(value, str):
        return value
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if value.startswith("/") or ".." in parts or not parts:
        raise ValueError(f"should hold globs relative to the command's directory, such as '*.pt' (got {value!r})")
    return "/".join(parts)


_LIMITS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_DISTRIBUTION = {
    "type": "object",
    "properties": {
        "uniform": _LIMITS,
        "log_uniform": _LIMITS,
        "integer": {**_LIMITS, "items": {"type": "integer"}},
        "choice": {"type": "array", "minItems": 1},
    },
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}
_DRAWS = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}, "seed": {"type": "integer", "default": 0}},
    "required": ["count"],
    "additionalProperties": _DISTRIBUTION,
}

_AFTER = {
    "type": "object",
    "additionalProperties": {"type": "object", "properties": {ALLOW: {"const": PARTIAL}}, "additionalProperties": True},
}

StudyName = Annotated[
    str,
    checked(is_identifier, "{!r} is not a study: a study is a package in studies/, named by letters, digits and _"),
]
FigureName = Annotated[str, checked(is_name, "the name of a figure consists of letters, digits, - and _ only")]
GroupName = Annotated[str, checked(is_name, "the name of a group consists of letters, digits, - and _ only")]
FocusName = Annotated[str, checked(is_name, "the name of a sub-sweep consists of letters, digits, - and _ only")]
Config = dict[ConfigKey, Any]
Values = dict[ConfigKey, list[Any]]
Command = Annotated[list[str], Rule(before=command_words, also={"type": "string"})]
FileName = Annotated[
    str,
    checked(
        lambda name: name and not name.startswith("/") and ".." not in name.split("/"),
        "{!r} is not the name of a file in the directory of an attempt, such as samples.npz",
    ),
]
InputFiles = Annotated[
    dict[str, list[FileName]],
    Rule(before=_input_files, also={"type": "array", "items": {"type": "string"}}),
]
Priority = Annotated[float | str, Rule(before=_priority)]
Draws = Annotated[dict[ConfigKey, Any], Rule(form=_DRAWS)]
CarryRule = Annotated[
    Carry, Rule(before=_carry, also={"anyOf": [{"const": False}, {"type": "array", "items": {"type": "string"}}]})
]
Dependencies = Annotated[
    dict[str, Config],
    Rule(before=_dependencies, form=_AFTER, also={"type": "array", "items": {"type": "string"}}),
]


@dataclass(frozen=True, kw_only=True)
class ConditionalResources(ResourceRequest):
    """Resources for the experiments for whose config an expression is true."""

    condition: str = key("Expression on the config, such as dataset == 'svhn'", name="if")


@dataclass(frozen=True)
class ResourceRequests(ResourceRequest):
    """What the jobs of experiments request, with other resources for some configs."""

    when: list[Annotated[Mapping[str, Any], Partial(ConditionalResources)]] = key(
        "Other resources for some configs; the last match wins", factory=list
    )


@dataclass(frozen=True)
class Subsets:
    """The subsets of some items that a key takes as values, each as a list in the order of the items."""

    of: list[Any] = key("The items: text, numbers, true, false, null")
    sizes: list[Annotated[int, Ge(0)]] = key("All subsets with these numbers of items", factory=list)
    select: list[list[Any]] = key("Subsets listed one by one, in addition to those of `sizes`", factory=list)


@dataclass(frozen=True)
class Focus:
    """A sub-sweep: only these keys vary, all others have the values of `config` and `defaults`."""

    grid: Values = key("Lists of values; all combinations are used")


@dataclass(frozen=True, kw_only=True)
class Continue:
    """The experiment whose training goes on, from its last checkpoint and at its position."""

    source: str = key("A group, or the path of an experiment in this round, with {KEY}", name="from")
    match: Config = key("KEY: VALUE: which experiment of the group, as in `after`", factory=dict)


@dataclass(frozen=True, kw_only=True)
class Init(Continue):
    """The checkpoint whose weights and states training starts with, at step 0."""

    source: str = key("A group, the path of an experiment in this round, or a .pth file, with {KEY}", name="from")
    snapshot: str | None = key("Tag of a kept checkpoint, with {KEY}; default: the last checkpoint", None)


@dataclass(frozen=True)
class Group:
    """Experiments that share a path template: all combinations of what is swept, without `exclude`, plus `include`."""

    path: str = key("Directory of each experiment, with {KEY} for config values")
    grid: Values = key("Lists of values; all combinations are used", factory=dict)
    zip: Values = key("Lists of equal length, taken in step, combined with the grid", factory=dict)
    combinations: dict[ConfigKey, Subsets] = key("Subsets of items, combined with the grid", factory=dict)
    random: Draws = key("Random values, combined with the grid: count, seed, KEY: {DISTRIBUTION: ...}", factory=dict)
    focus: dict[FocusName, Focus] = key("Sub-sweeps, each over its own keys, combined with the grid", factory=dict)
    include: list[Config] = key("Combinations to add", factory=list)
    exclude: list[Config] = key("Combinations to remove: those with all of these values", factory=list)
    config: Config = key("Config of all experiments of the group; overrides `defaults`", factory=dict)
    resources: Annotated[Mapping[str, Any], Partial(ResourceRequests)] = key(
        "Overrides the round's resources, key by key", factory=dict
    )
    priority: Priority | None = key("Number or expression; higher goes first", None)
    after: Dependencies = key(
        "GROUP: {KEY: VALUE}: experiments that must be completed first; with allow: partial, those that can be",
        factory=dict,
    )
    select: SelectionRule | None = key("Use the best settings of another group: from, metric, mode, top, inputs", None)
    inputs_from: InputFiles = key(
        "GROUP: [FILE, ...]: files of the dependencies that are inputs; default: best.pth. A list: of all groups",
        factory=dict,
    )
    init: Init | None = key("Start from a checkpoint of another experiment: from, snapshot, match", None)
    continue_: Continue | None = key("Continue the training of another experiment: from, match", None, name="continue")
    halving: Halving | None = key("Successive halving: metric, mode, every, keep, per", None)
    baseline: str | None = key("Group with whose results the results of this one are compared", None)
    command: Command | None = key("Program to run instead of a study, with {KEY} and {directory}", None)
    carry: CarryRule | None = key(
        "Files of an earlier attempt that a command gets: globs, or false; default: all", None
    )
    time_limit: Walltime | None = key("How long a command may run, over all its jobs; then it gets SIGINT", None)
    study: StudyName | None = key("Overrides the round's study", None)


@dataclass(frozen=True, kw_only=True)
class RoundFile:
    """A round: a named set of experiments."""

    round: str = key("The file's name, without .yaml")
    extends: str | None = key("Another round, whose groups this one has, with other values", None)
    groups: list[GroupName] | None = key("With `extends`: which groups of that round; default: all", None)
    study: StudyName | None = key("The package in studies/ that the experiments train", None)
    description: str | None = key("Free text", None)
    resources: Annotated[Mapping[str, Any], Partial(ResourceRequests)] = key("What the jobs request", factory=dict)
    retry: Annotated[Mapping[str, Any], Partial(RetryPolicy)] = key(
        "How many attempts may end with each cause, and what the next job requests; overrides the site's, key by key",
        factory=dict,
    )
    defaults: Config = key("Config of all experiments, unless a group overrides it", factory=dict)
    priority: Priority = key("Number or expression; higher goes first", 0.0)
    metrics: dict[str, Annotated[Mapping[str, Any], Partial(Metric)]] = key(
        "Metrics as tables and figures show them; overrides what the study declares, key by key", factory=dict
    )
    apart: list[ConfigKey] | None = key(
        "Config keys whose values are never compared with each other; default: as the study declares", None
    )
    figures: dict[FigureName, Figure | None] = key(
        "Figures to draw in addition; null: not that of the study", factory=dict
    )
    snapshot: bool = key("Jobs run a copy of the code, as it was when they were submitted", False)
    experiments: dict[GroupName, Group] = key("The groups of experiments")


@dataclass(frozen=True, kw_only=True)
class ExtendingFile(RoundFile):
    """A round that has the groups of another one."""

    extends: str = key("Another round, whose groups this one has, with other values")
    experiments: dict[GroupName, Annotated[Mapping[str, Any], Partial(Group, override=True)]] = key(  # type: ignore[assignment]
        "What groups of the other round have instead, key by key; and new groups", factory=dict
    )

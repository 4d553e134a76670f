"""The words of a round file: its keys, what each may hold, and how memory, times and commands are written."""

from __future__ import annotations

import math
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from roundhouse.config.yaml_file import StrictModel
from roundhouse.model.experiment import Pack
from roundhouse.names import is_name

_WALLTIME = r"(?:(?:(\d+)-)?(\d+):)?(\d+):([0-5]?\d)"
_MEMORY = r"(\d+(?:\.\d+)?) ?([kmgt])(?:i?b)?"
_MEBIBYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
_SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1"}


def walltime_seconds(value: Any) -> int:
    """Seconds of "H:MM:SS", "MM:SS", "D-HH:MM:SS", or of an int, which is in seconds already."""
    seconds = 0
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (match := re.fullmatch(_WALLTIME, value, re.ASCII)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds < 1:
        raise ValueError(f'{value!r} is no walltime: write "H:MM:SS", "MM:SS", "D-HH:MM:SS" or whole seconds')
    return seconds


def memory_mebibytes(value: Any) -> int | None:
    """MiB, rounded up, of "16gb", "512mb", "2G" and the like; all units are powers of 1024. None stays None."""
    if value is None:
        return None
    match = re.fullmatch(_MEMORY, value.lower(), re.ASCII) if isinstance(value, str) else None
    mebibytes = math.ceil(float(match[1]) * _MEBIBYTES[match[2]]) if match else 0
    if mebibytes < 1:
        raise ValueError(f"{value!r} is no amount of memory: write a number and a unit, such as 16gb or 512mb")
    return mebibytes


def _longest(value: Any) -> int | None:
    return None if value is None else walltime_seconds(value)


def _tries_alone(value: Any) -> Any:
    return {"tries": value} if isinstance(value, int) and not isinstance(value, bool) else value


def command_words(value: Any) -> Any:
    """The words of a command line; a list is words already. There is no shell, so nothing for `|` or `>` to do."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
        for word in _SHELL_WORDS.intersection(value):
            raise ValueError(
                f"{word} needs a shell, and none is there: write [bash, -c, '...'], or put it into a script"
            )
    elif not isinstance(value, list):
        raise ValueError(f"should be text or a list, not {value!r}")
    if not value:
        raise ValueError("is empty")
    return value


def _waits(value: Any) -> Any:
    is_list_of_groups = isinstance(value, list) and all(isinstance(group, str) for group in value)
    return {group: {} for group in value} if is_list_of_groups else value


def _priority(value: Any) -> Any:
    fits = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{value!r} is neither a number nor an expression")
    return value


def _config_key(key: str) -> str:
    if key == "directory":
        raise ValueError("is the experiment's directory in commands: choose another key")
    if not (key.isidentifier() and key.isascii()):
        raise ValueError("must be made of letters, digits and _, so that paths and expressions can name it")
    return key


def _group_name(name: str) -> str:
    if not is_name(name):
        raise ValueError("a group is named by letters, digits, - and _ only")
    return name


def _focus_name(name: str) -> str:
    if not is_name(name):
        raise ValueError("a sub-sweep is named by letters, digits, - and _ only")
    return name


def _study_name(name: str) -> str:
    if not (name.isidentifier() and name.isascii()):
        raise ValueError(f"{name!r} is no study: a study is a package in studies/, named by letters, digits and _")
    return name


def _queue_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[^\s-]\S*", name):
        raise ValueError(f"{name!r} is no queue: write one word")
    return name


Count = Annotated[int, Field(ge=1)]
Walltime = Annotated[
    int,
    BeforeValidator(walltime_seconds),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"^{_WALLTIME}$"}, {"type": "integer", "minimum": 1}]}),
]
Memory = Annotated[
    int | None,
    BeforeValidator(memory_mebibytes),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)? ?[kmgtKMGT]([iI]?[bB])?$"}, {"type": "null"}]}
    ),
]
LongestTime = Annotated[
    int | None,
    BeforeValidator(_longest),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_WALLTIME}$"},
                {"type": "integer", "minimum": 1},
                {"type": "null"},
            ]
        }
    ),
]
Growths = Annotated[int, Field(ge=1, le=100)]
Factor = Annotated[float, Field(ge=1, le=10)]
Queue = Annotated[str | None, AfterValidator(_queue_name)]
Key = Annotated[str, AfterValidator(_config_key)]
GroupName = Annotated[str, AfterValidator(_group_name)]
FocusName = Annotated[str, AfterValidator(_focus_name)]
StudyName = Annotated[str, AfterValidator(_study_name)]
Config = dict[Key, Any]
Values = dict[Key, list[Any]]
Command = Annotated[
    list[str],
    BeforeValidator(command_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Priority = Annotated[
    float | str,
    BeforeValidator(_priority),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
_LIMITS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_DISTRIBUTIONS = {
    "uniform": _LIMITS,
    "log_uniform": _LIMITS,
    "integer": {**_LIMITS, "items": {"type": "integer"}},
    "choice": {"type": "array", "minItems": 1},
}
Draws = Annotated[
    dict[Key, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"count": {"type": "integer", "minimum": 1}, "seed": {"type": "integer", "default": 0}},
            "required": ["count"],
            "additionalProperties": {
                "type": "object",
                "properties": _DISTRIBUTIONS,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        }
    ),
]
Waits = Annotated[
    dict[str, Config],
    BeforeValidator(_waits),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "object"}},
                {"type": "array", "items": {"type": "string"}},
            ]
        }
    ),
]


class PackRequest(StrictModel):
    """How the job is divided among experiments."""

    slots: Count = Field(description="Experiments that run at a time")
    per_gpu: Count = Field(default=1, description="Experiments that share a GPU")


class ResourceRequest(StrictModel):
    """What a job asks for. Only what is written counts; the values here are those of a round that says nothing."""

    ncpus: Count = Field(default=1, description="CPU cores")
    mpiprocs: Count | None = Field(default=None, description="MPI processes (PBS)")
    mem: Memory = Field(default=None, description="Memory of the whole job: 16gb, 512mb")
    ngpus: Annotated[int, Field(ge=0)] = Field(default=0, description="GPUs")
    walltime: Walltime = Field(
        default=3600, description='Longest time of one job: "H:MM:SS", "MM:SS", "D-HH:MM:SS" or seconds'
    )
    queue: Queue = Field(default=None, description="Queue or partition, instead of the site's")

    array: bool = Field(default=False, description="Experiments with equal resources go as one array job")
    max_running: Count | None = Field(default=None, description="Most tasks of arrays, or allocations, at a time")
    pack: PackRequest | None = Field(default=None, description="One job runs many experiments, in slots")

    def asked(self) -> dict[str, Any]:
        """What is written here, by the names of `roundhouse.model.experiment.Resources`."""
        renamed = {"mem": "mem_mb", "walltime": "walltime_s"}
        written = ResourceRequest.model_fields.keys() & self.model_fields_set
        asked = {renamed.get(name, name): getattr(self, name) for name in written}
        if self.pack is not None:
            asked["pack"] = Pack(self.pack.slots, self.pack.per_gpu)
        return asked


class ConditionalResources(ResourceRequest):
    """What experiments ask for instead, if the expression holds for their config."""

    condition: str = Field(alias="if", description="Expression on the config, such as dataset == 'svhn'")


class ResourceRequests(ResourceRequest):
    """What experiments ask for, and when they ask for something else."""

    when: list[ConditionalResources] = Field(
        default=[], description="Other resources for some configs; a later match wins"
    )


class MoreMemory(StrictModel):
    """After memory ran out."""

    tries: Growths = Field(default=2, description="So many attempts may end so")
    factor: Factor = Field(default=2.0, description="Each next job asks for so many times the memory")
    most: Memory = Field(default=None, description="Most memory to ask for: 128gb; null for no limit")
    accumulate: bool = Field(
        default=False, description="If it was the GPU's: compute a batch in twice as many parts each time"
    )


class MoreTime(StrictModel):
    """After a walltime without one new epoch."""

    tries: Growths = Field(default=2, description="So many attempts may end so")
    factor: Factor = Field(default=2.0, description="Each next job asks for so many times the walltime")
    most: LongestTime = Field(default=None, description='Longest walltime to ask for: "48:00:00"; null for no limit')


class OtherNode(StrictModel):
    """After a node failed."""

    tries: Count = Field(default=20, description="So many attempts in a row, without a new epoch, may end so")
    exclude: bool = Field(default=True, description="Keep away from nodes that failed (Slurm)")


def _or_tries(kind: type[StrictModel]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, kind.model_json_schema()]})


AfterMemory = Annotated[MoreMemory, BeforeValidator(_tries_alone), _or_tries(MoreMemory)]
AfterWalltime = Annotated[MoreTime, BeforeValidator(_tries_alone), _or_tries(MoreTime)]
AfterNode = Annotated[OtherNode, BeforeValidator(_tries_alone), _or_tries(OtherNode)]


class Retry(StrictModel):
    """How many attempts may end by each cause, and what the next job asks for. Only what is written counts."""

    error: Count = Field(default=2, description="So many attempts may end with an error")
    memory: AfterMemory = Field(default=MoreMemory(), description="After memory ran out")
    walltime: AfterWalltime = Field(default=MoreTime(), description="After a walltime without one new epoch")
    unknown: Count = Field(default=2, description="So many attempts may end without a word")
    unclaimed: Count = Field(default=2, description="So many jobs may never start")
    refused: Count = Field(default=2, description="So many jobs may be refused by the scheduler")
    preempted: Count = Field(default=20, description="So many in a row, without a new epoch, may be taken down")
    node: AfterNode = Field(default=OtherNode(), description="After a node failed")
    deleted: Count = Field(default=20, description="So many in a row, without a new epoch, may be deleted")
    input: Count = Field(default=20, description="So many in a row may not see an input")

    def written(self) -> tuple[tuple[str, str, Any], ...]:
        """What is written here, by the names of `roundhouse.model.retry.Written`."""
        said: list[tuple[str, str, Any]] = []
        for cause in sorted(self.model_fields_set):
            value = getattr(self, cause)
            keys = sorted(value.model_fields_set) if isinstance(value, StrictModel) else []
            said += [(cause, key, getattr(value, key)) for key in keys] if keys else [(cause, "tries", value)]
        return tuple(said)


class Subsets(StrictModel):
    """Which subsets of some items a key takes, each as a list in the order of the items."""

    of: list[Any] = Field(description="The items: text, numbers, true, false, null")
    sizes: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="All subsets of so many items")
    select: list[list[Any]] = Field(default=[], description="Subsets by name, alone or besides those of sizes")


class Focus(StrictModel):
    """A sub-sweep: only these keys vary, all others are as in config and defaults."""

    grid: Values = Field(description="Lists of values, all combined with all")


class Select(StrictModel):
    """The best settings of another group, chosen once all of it is over."""

    group: str = Field(alias="from", description="The group to choose from")
    metric: str = Field(description="What they are ranked by: the mean over seeds of this metric")
    mode: Literal["min", "max"] = Field(description="Whether the lowest or the highest is the best")
    top: Count = Field(default=1, description="How many settings to choose")
    inputs: bool = Field(default=True, description="Whether the chosen runs are inputs, or only their config counts")


class Halve(StrictModel):
    """Early pruning: the group's runs pause again and again, and only the best settings go on."""

    metric: str = Field(description="What settings are ranked by at a pause: the mean over seeds of this metric")
    mode: Literal["min", "max"] = Field(description="Whether the lowest or the highest is the best")
    every: Count = Field(description="Epochs from one pause to the next")
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="The share of settings that goes on")
    per: Key | None = Field(
        default=None, description="A key: settings are compared among those with equal values of it"
    )


class Group(StrictModel):
    """Experiments that share a path template: all that is swept combined, less exclude, plus include."""

    path: str = Field(description="Directory of each experiment, with {KEY} for config values")
    grid: Values = Field(default={}, description="Lists of values, all combined with all")
    zip: Values = Field(default={}, description="Equally long lists, taken in step, combined with the grid")
    combinations: dict[Key, Subsets] = Field(default={}, description="Subsets of items, combined with the grid")
    random: Draws = Field(
        default={}, description="Draws of values, combined with the grid: count, seed, KEY: {DISTRIBUTION: ...}"
    )
    focus: dict[FocusName, Focus] = Field(
        default={}, description="Sub-sweeps over some keys each, one beside the other, combined with the grid"
    )
    include: list[Config] = Field(default=[], description="Combinations to add")
    exclude: list[Config] = Field(default=[], description="Combinations to drop: those with all of these values")
    config: Config = Field(default={}, description="Config of all experiments of the group; wins over defaults")
    resources: ResourceRequests = Field(default=ResourceRequests(), description="Wins over the round's resources")
    priority: Priority | None = Field(default=None, description="Number or expression; higher goes first")
    after: Waits = Field(default={}, description="GROUP: {KEY: VALUE}: experiments that must be completed first")
    select: Select | None = Field(
        default=None, description="The best settings of another group: from, metric, mode, top, inputs"
    )
    halving: Halve | None = Field(default=None, description="Early pruning: metric, mode, every, keep, per")
    baseline: str | None = Field(default=None, description="Group beside whose results this one's are shown")
    command: Command | None = Field(
        default=None, description="Program to run instead of a study, with {KEY} and {directory}"
    )
    study: StudyName | None = Field(default=None, description="Instead of the round's study")


class RoundFile(StrictModel):
    """A round: a named set of experiments."""

    round: str = Field(description="The file's name, without .yaml")
    study: StudyName | None = Field(default=None, description="The package in studies/ that the experiments train")
    description: str | None = Field(default=None, description="For people")
    resources: ResourceRequests = Field(default=ResourceRequests(), description="What the jobs ask for")
    retry: Retry = Field(default=Retry(), description="How often an experiment is tried again; wins over the site's")
    defaults: Config = Field(default={}, description="Config of all experiments, unless a group says otherwise")
    priority: Priority = Field(default=0.0, description="Number or expression; higher goes first")
    snapshot: bool = Field(default=False, description="Jobs run a copy of the code, as it was when they were submitted")
    experiments: dict[GroupName, Group] = Field(description="The groups of experiments")

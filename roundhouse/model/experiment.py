"""One experiment as the round file describes it: path, config, setting, resources, dependencies."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from roundhouse.formatting import walltime
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.names import is_identifier
from roundhouse.schema import Count, Rule, checked, key
from roundhouse.units import Memory, Walltime

IDENTITY = ("study", "command", "config", "after")  # the keys of `Experiment.identity`
STARTS = ("init", "continue")  # at most one of these is in it, too: see `StartFrom`
SELECTED = ""  # the `source` of a start while the experiment's selection is not made
IF_SET = (*STARTS, "time_limit")  # it has these keys only if they are set, so that older hashes stay valid
SEED = "seed"  # experiments that differ only in this key have the same setting


def setting_of(config: Mapping[str, Any], *apart: str) -> str:
    """The identity of a setting within its group: the config without the seed, and without the keys `apart`."""
    return json.dumps({key: config[key] for key in config if key not in (SEED, *apart)}, sort_keys=True, default=str)


def comparable(value: Any) -> Any:
    """A value of a config as dependencies compare it: hashable; 1 equals 1.0 but not true."""
    return json.dumps([value], sort_keys=True) if isinstance(value, (bool, list, dict)) else value


QueueName = Annotated[
    str, checked(re.compile(r"[^\s-]\S*").fullmatch, "{!r} is not the name of a queue: write one word")
]
ConfigKey = Annotated[
    str,
    checked(lambda name: name != "directory", "is the experiment's directory in commands: choose another key"),
    checked(is_identifier, "must consist of letters, digits and _, so that paths and expressions can name it"),
]
Mode = Literal["min", "max"]


def _group_names(value: Any) -> Any:
    """One group, or a list of groups."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise ValueError(f"should be a group or a list of groups, not {value!r}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"contains {name!r} twice")
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Pack:
    """How one job is divided into slots, in which it runs many experiments."""

    slots: Count = key("Experiments that run at the same time")
    per_gpu: Count = key("Experiments that share a GPU", 1)


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a round file requests for a job. Memory in MiB for the whole job, time in seconds; 0 GPUs is a CPU job."""

    ncpus: Count = key("CPU cores", 1)
    mpiprocs: Count | None = key("MPI processes (PBS)", None)
    mem_mb: Memory | None = key("Memory of the whole job: 16gb, 512mb", None, name="mem")
    ngpus: Annotated[int, Ge(0)] = key("GPUs", 0)
    walltime_s: Walltime = key(
        'Time limit of one job: "H:MM:SS", "MM:SS", "D-HH:MM:SS" or seconds', 3600, name="walltime"
    )
    queue: QueueName | None = key("Queue or partition; overrides the site's", None)
    array: bool = key("Submit experiments with equal resources as one array job", False)
    max_running: Count | None = key("Maximum number of array tasks, or of allocations, at the same time", None)
    pack: Pack | None = key("One job runs many experiments, in slots", None)


@dataclass(frozen=True, slots=True)
class Resources(ResourceRequest):
    """What one job requests: the round file's request, as changed after earlier attempts; see `retry`."""

    exclude: tuple[str, ...] = ()  # nodes that the job must not run on
    accumulate: int = 1  # a batch is computed in this many times as many parts

    def in_a_slot(self) -> Resources:
        """The resources of one experiment: all of them, or with `pack` its share of the cores, and one GPU at most."""
        if self.pack is None:
            return self
        return replace(self, ncpus=max(1, self.ncpus // self.pack.slots), ngpus=min(1, self.ngpus), pack=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRule:
    """The best settings of one or several other groups, selected once all of their experiments have ended."""

    groups: Annotated[tuple[str, ...], Rule(before=_group_names, also={"type": "string"})] = key(
        "The group to select from, or a list of groups, whose settings are ranked together", name="from"
    )
    metric: str = key("Settings are ranked by the mean over seeds of this metric")
    mode: Mode = key("Whether the lowest or the highest value is the best")
    top: Count = key("How many settings to select", 1)
    inputs: bool = key("Whether the selected runs are inputs; if false, only their config is used", True)
    where: str | None = key(
        "Expression on config keys and metrics (means over seeds): settings for which it is false are left out", None
    )
    per: ConfigKey | None = key("A config key: the best `top` settings for each of its values, separately", None)

    def named(self, shown: Callable[[str], str] = str) -> str:
        """The groups in a message: `group a`, or `groups a, b`."""
        return f"group{'s' * (len(self.groups) > 1)} {', '.join(map(shown, self.groups))}"


@dataclass(frozen=True, slots=True)
class Selection(SelectionRule):
    """The selection that one experiment depends on: the setting of one rank, among those of equal `per`.

    `choice` describes the selected setting, its spread over seeds and its rivals. It is empty until the selection is
    made, and `waiting` says why it is not. `hopeless`: that will not change automatically; `blocked`: nor by a retry,
    since the round file requests what does not exist.
    """

    rank: int = 0  # from 1
    defaults: Mapping[str, Any] = field(default_factory=dict)  # for keys that neither setting nor group has
    combinations: tuple[str, ...] = ()  # keys of the config whose printable names a command can use
    choice: str = ""
    waiting: str = ""
    hopeless: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving within a group: its runs pause at regular intervals, and only the best settings continue."""

    metric: str = key("Settings are compared by the mean over seeds of this metric")
    mode: Mode = key("Whether the lowest or the highest value is the best")
    every: Count = key("Epochs or steps, whichever the runs count, from one pause to the next")
    keep: Annotated[float, Gt(0), Lt(1)] = key("Fraction of the settings that continues", 0.5)
    per: ConfigKey | None = key("A config key: settings are compared with those that have the same value", None)


@dataclass(frozen=True, slots=True)
class Carry:
    """Which files of an earlier attempt a command finds in its directory, and how long earlier attempts keep them."""

    files: tuple[str, ...] | None = key("Globs of the files to copy; null: all files", None)
    keep: Count | None = key("Delete copied files from ended attempts older than the last so many; null: never", None)


@dataclass(frozen=True, slots=True)
class StartFrom:
    """The checkpoint that a study starts from: `init` or `continue` of the round file (`kind`).

    `source`: the path of an experiment in the round; or, with `is_file`, the user's own .pth file, absolute or relative
    to the project. `snapshot`: the tag of a kept checkpoint; None: the last one of the experiment.
    """

    kind: str
    source: str
    snapshot: str | None = None
    is_file: bool = False

    def __str__(self) -> str:
        snapshot = f", snapshot {self.snapshot}" if self.snapshot is not None else ""
        return f"{self.source or 'the selected run'}{snapshot} ({self.kind})"

    @property
    def checkpoint(self) -> str:
        """The checkpoint's name in the directory of the source's completed attempt."""
        return "checkpoint.pth" if self.snapshot is None else f"snapshots/{self.snapshot}.pth"

    def identity(self) -> dict[str, dict[str, str]]:
        """The part of `Experiment.identity` that describes it; `start_in` reads it."""
        if self.is_file:
            return {self.kind: {"file": self.source}}
        return {self.kind: {"from": self.source, **({"snapshot": self.snapshot} if self.snapshot is not None else {})}}


def start_in(identity: Mapping[str, Any]) -> StartFrom | None:
    """The checkpoint that the experiment with this identity, or config.yaml, starts from; None: it has none."""
    for kind in STARTS:
        if written := identity.get(kind):
            is_file = "file" in written
            return StartFrom(kind, written["file" if is_file else "from"], written.get("snapshot"), is_file)
    return None


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. `after`: its dependencies, as paths in the round by the name of their group.

    `partial`: the groups of which those that completed are enough, once the others have ended (`allow: partial`).
    `input_files`: for a group in `after`, the files of its experiments that are inputs; without, `best.pth`. Neither is
    part of the config.

    While its `selection` is not made, `config` holds only what its own group says, `after` all experiments that are
    selected from, and `command` its placeholders.
    """

    round: str
    group: str
    path: str
    study: str | None
    config: Mapping[str, Any]
    resources: Resources = Resources()
    priority: float = 0.0
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    partial: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None  # words of the user's own program, with {placeholders}; instead of a study
    retry: RetryPolicy = RetryPolicy()
    snapshot: bool = False  # its jobs run a copy of the code, as it was when they were submitted
    selection: Selection | None = None
    halving: Halving | None = None
    carry: Carry = Carry()  # of a command
    start: StartFrom | None = None
    input_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    time_limit: int | None = None  # of a command: seconds that it may run, over all its attempts

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The paths in the round that it depends on: those in `after`, and the experiment that it starts from."""
        paths = tuple(path for paths in self.after.values() for path in paths)
        if self.start is None or self.start.is_file or self.start.source in (SELECTED, *paths):
            return paths
        return (*paths, self.start.source)

    @property
    def undecided(self) -> bool:
        """Whether its selection is not made yet."""
        return self.selection is not None and not self.selection.choice

    def setting(self, *apart: str) -> str:
        """The identity of its setting: equal for experiments that differ only in the seed, or in the keys `apart`.

        It does not include the command, which follows from the config within a group, and may name the seed.
        """
        return json.dumps([self.group, self.study, setting_of(self.config, *apart)])

    def identity(self) -> dict[str, Any]:
        """Everything that its result depends on: if any of it changes, it is another experiment."""
        return {
            "study": self.study,
            "command": list(self.command) if self.command else None,
            "config": dict(self.config),
            "after": {group: list(paths) for group, paths in self.after.items()},
            **(self.start.identity() if self.start else {}),
            **({"time_limit": self.time_limit} if self.time_limit is not None else {}),
        }

    def config_hash(self) -> str:
        """SHA-256 over `identity()`, as hexadecimal."""
        return hash_of(self.identity())


def identity_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the experiment that config.yaml describes."""
    return {key: config.get(key) for key in IDENTITY} | {key: config[key] for key in IF_SET if config.get(key)}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two identities of an experiment: `lr was 0.1, is now 0.2`; empty if nothing does."""
    found, follows = [], set()
    for prefix, part in (("", "config"), ("after.", "after"), *((f"{kind}.", kind) for kind in STARTS)):
        then, now = before.get(part) or {}, after.get(part) or {}
        for name in dict.fromkeys((*then, *now)):
            if name not in then:
                found.append(f"{prefix}{name} is new: {now[name]!r}")
            elif name not in now:
                found.append(f"{prefix}{name} was {then[name]!r}, is gone")
            elif then[name] != now[name]:
                found.append(f"{prefix}{name} was {then[name]!r}, is now {now[name]!r}")
                follows.add((str(then[name]), str(now[name])))
    then, now = before.get("time_limit"), after.get("time_limit")
    if then != now:
        texts = [walltime(value) if value else "not set" for value in (then, now)]
        found.append(f"time_limit was {texts[0]}, is now {texts[1]}")
    if before.get("study") != after.get("study"):
        found.append(f"study was {before.get('study')!r}, is now {after.get('study')!r}")
    return ", ".join([*found, *_command_changes(before.get("command"), after.get("command"), follows)])


def acceptable(ran: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a result can be accepted for another identity: only config and command differ."""
    return all(ran.get(key) == now.get(key) for key in ("study", "after", *STARTS))


def _command_changes(
    before: Sequence[str] | None, after: Sequence[str] | None, follows: Container[tuple[str, str]]
) -> list[str]:
    """The words of a command that were replaced, added or removed, but not those that follow from config keys."""
    if before == after:
        return []
    if not before or not after:
        return [f"command was {shlex.join(before or ())!r}, is now {shlex.join(after or ())!r}"]
    from difflib import SequenceMatcher

    found = []
    for kind, first, last, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = before[first:last], after[start:end]
        if kind == "replace" and len(old) == len(new):
            for position, pair in enumerate(zip(old, new, strict=True), first):
                option = before[position - 1] if position else ""
                context = f"after {option} " if option.startswith("-") else ""
                if pair not in follows:
                    found.append(f"{pair[0]!r} {context}in the command is now {pair[1]!r}")
        elif kind == "replace":
            found.append(f"{shlex.join(old)!r} in the command is now {shlex.join(new)!r}")
        elif kind != "equal":
            found.append(f"{shlex.join(old or new)!r} is {'new in' if new else 'gone from'} the command")
    return found


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def hash_of(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(_CANONICAL.encode(identity).encode()).hexdigest()

"""One experiment as the round file describes it: path, config, setting, resources, what it waits for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SEED = "seed"  # what differs in it alone is one setting


def setting_of(config: Mapping[str, Any], *apart: str) -> str:
    """What identifies a setting within its group: the config without the seed, and without these keys."""
    return json.dumps({key: config[key] for key in config if key not in (SEED, *apart)}, sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Pack:
    """How a job is divided: into so many slots, of which so many share a GPU."""

    slots: int
    per_gpu: int = 1


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job asks of the scheduler. Memory in MiB for the whole job, time in seconds; 0 GPUs is a CPU job.

    `exclude` and `accumulate` are never the round file's: they come of how earlier attempts ended; see `retry`.
    """

    ncpus: int = 1
    mpiprocs: int | None = None
    mem_mb: int | None = None
    ngpus: int = 0
    walltime_s: int = 3600
    queue: str | None = None  # overrides the site's
    array: bool = False  # goes as one task of an array, with others that ask for the same
    max_running: int | None = None  # so many tasks of an array, or allocations, at a time
    pack: Pack | None = None  # the job is an allocation, and runs one experiment after the other in each slot
    exclude: tuple[str, ...] = ()  # nodes to keep away from
    accumulate: int = 1  # a batch is computed in so many times as many parts

    def in_a_slot(self) -> Resources:
        """What one experiment has: all of it, or with `pack` its share of the cores, and one GPU at most."""
        if self.pack is None:
            return self
        return replace(self, ncpus=max(1, self.ncpus // self.pack.slots), ngpus=min(1, self.ngpus), pack=None)


@dataclass(frozen=True, slots=True)
class Selection:
    """The rank-th best setting of another group, to be chosen once all of that group is over.

    `choice` says what was chosen, with its spread and its rivals; it is empty until then, and `waiting` says why.
    `hopeless`: that will not come by itself; `blocked`: nor by a retry, since the round file asks for what is not
    there.
    """

    group: str
    rank: int  # from 1
    top: int
    metric: str
    mode: str  # min, max
    inputs: bool  # whether the directories of the chosen runs are inputs, or only their config counts
    defaults: Mapping[str, Any]  # for keys that neither the choice nor the selecting group has
    combinations: tuple[str, ...] = ()  # keys of the config whose printable names a command may say
    choice: str = ""
    waiting: str = ""
    hopeless: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Halving:
    """Early pruning within a group: after each `every` epochs the best share `keep` of its settings goes on."""

    metric: str
    mode: str  # min, max
    every: int
    keep: float
    per: str | None = None  # a config key: each of its values is a contest of its own


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. `after` maps a group's name to the paths, in the round, that must be completed first.

    With a `selection` that is not made yet, `config` holds only what its own group says, `after` all that is chosen
    from, and `command` its unfilled names.
    """

    round: str
    group: str
    path: str
    study: str | None
    config: Mapping[str, Any]
    resources: Resources = Resources()
    priority: float = 0.0
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    command: tuple[str, ...] | None = None  # words of the user's own program, with {placeholders}; instead of a study
    retry: tuple[tuple[str, str, Any], ...] = ()  # what the round file says of it: (cause, key, value); see `retry`
    snapshot: bool = False  # its jobs run a copy of the code, as it was when they were submitted
    selection: Selection | None = None
    halving: Halving | None = None

    @property
    def undecided(self) -> bool:
        """Whether it waits for its selection to be made."""
        return self.selection is not None and not self.selection.choice

    def setting(self, *apart: str) -> str:
        """What it shares with the experiments that differ from it in their seed alone, or in these keys of the config.

        The command is no part of it: within a group it follows from the config, and may name the seed.
        """
        return json.dumps([self.group, self.study, setting_of(self.config, *apart)])

    def identity(self) -> dict[str, Any]:
        """Everything that makes its result what it is: if any of this changes, it is another experiment."""
        return {
            "study": self.study,
            "command": list(self.command) if self.command else None,
            "config": dict(self.config),
            "after": {group: list(paths) for group, paths in self.after.items()},
        }

    def config_hash(self) -> str:
        """SHA-256 over `identity()`, as hexadecimal."""
        return hash_of(self.identity())


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def hash_of(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(_CANONICAL.encode(identity).encode()).hexdigest()

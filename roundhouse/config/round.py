"""From rounds/NAME.yaml to a Round: its study and its experiments, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roundhouse import schema
from roundhouse.config.expand import expand
from roundhouse.config.named_files import named_file
from roundhouse.config.round_schema import RoundFile
from roundhouse.config.yaml_file import read_yaml
from roundhouse.model.experiment import Experiment
from roundhouse.model.retry_policy import RetryPolicy


@dataclass(frozen=True, slots=True)
class Round:
    """A named set of experiments, in the order of the file. `study` may be None: a group can have its own.

    `baselines`: for a group, the group with whose results its own are compared. `retry`: what the file says of retries.
    `metrics` and `apart`: what it declares for tables and figures (see `Declarations.updated`).
    """

    name: str
    file: Path
    study: str | None
    experiments: list[Experiment]
    baselines: dict[str, str]
    retry: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    apart: Sequence[str] | None = None

    def at(self, site_retry: Mapping[str, Any]) -> Round:
        """The round at a site: its `retry` overrides the site's, key by key."""
        if not site_retry:
            return self
        policy = RetryPolicy().updated(site_retry).updated(self.retry)
        return replace(self, experiments=[replace(one, retry=policy) for one in self.experiments])


def load_round(name: str, rounds_dir: Path) -> Round:
    """Read `ROUNDS_DIR/NAME.yaml`. RoundhouseError with all mistakes in it, one per line: file, line, what is wrong."""
    file = read_yaml(named_file("round", name, rounds_dir))
    content = file.read_as(RoundFile)
    if content.round != name:
        file.problem(("round",), f"the name of the round is {content.round!r}, but the file is {file.path.name}")
    experiments = expand(name, file, content)
    file.check()
    baselines = {group: one.baseline for group, one in content.experiments.items() if one.baseline is not None}
    return Round(name, file.path, content.study, experiments, baselines, content.retry, content.metrics, content.apart)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of round files, for editors."""
    return schema.json_schema(RoundFile)

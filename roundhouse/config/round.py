"""From rounds/NAME.yaml to a Round: its study and its experiments, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roundhouse import schema
from roundhouse.config.expand import expand
from roundhouse.config.extends import read_round_file
from roundhouse.config.round_schema import ExtendingFile, RoundFile
from roundhouse.config.yaml_file import YamlFile
from roundhouse.figures import Figure, unknown_keys
from roundhouse.model.experiment import Experiment
from roundhouse.model.retry_policy import RetryPolicy
from roundhouse.names import nearest


@dataclass(frozen=True, slots=True)
class Round:
    """A named set of experiments, in the order of the file. `study` may be None: a group can have its own.

    `files`: the round file, and those that it extends. `baselines`: for a group, the group with whose results its own
    are compared. `retry`: what the file says of retries.
    `metrics`, `apart` and `figures`: what it declares for tables and figures (see `Declarations.updated`).
    """

    name: str
    files: tuple[Path, ...]
    study: str | None
    experiments: list[Experiment]
    baselines: dict[str, str]
    retry: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    apart: Sequence[str] | None = None
    figures: Mapping[str, Figure | None] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.files[0]

    def at(self, site_retry: Mapping[str, Any]) -> Round:
        """The round at a site: its `retry` overrides the site's, key by key."""
        if not site_retry:
            return self
        policy = RetryPolicy().updated(site_retry).updated(self.retry)
        return replace(self, experiments=[replace(one, retry=policy) for one in self.experiments])


def load_round(name: str, rounds_dir: Path) -> Round:
    """Read `ROUNDS_DIR/NAME.yaml`. RoundhouseError with all mistakes in it, one per line: file, line, what is wrong."""
    file, content, files = read_round_file(name, rounds_dir)
    experiments = expand(name, file, content)
    _check_figures(file, content, experiments)
    file.check()
    baselines = {group: one.baseline for group, one in content.experiments.items() if one.baseline is not None}
    return Round(
        name,
        files,
        content.study,
        experiments,
        baselines,
        content.retry,
        content.metrics,
        content.apart,
        content.figures,
    )


def _check_figures(file: YamlFile, content: RoundFile, experiments: Sequence[Experiment]) -> None:
    """The figures of this file name groups and config keys that exist. Those of the other round may be left out."""
    known = dict.fromkeys(key for one in experiments for key in one.config)
    own = {name: one for name, one in content.figures.items() if file.place(("figures", name))[0] == file.path}
    for name, figure in own.items():
        for where, message in unknown_keys(figure, known) if figure else ():
            file.problem(("figures", name, where), f"figures.{name}.{where}: {message}")
        for group in figure.groups if figure else ():
            if group not in content.experiments:
                message = f"there is no group {group!r}: {nearest(group, content.experiments)}"
                file.problem(("figures", name, "groups"), f"figures.{name}.groups: {message}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of round files, for editors: another one for a file that extends a round."""
    both = schema.json_schema(RoundFile | ExtendingFile)
    plain, extending = both.pop("anyOf")
    return {**both, "if": {"required": ["extends"]}, "then": extending, "else": plain}

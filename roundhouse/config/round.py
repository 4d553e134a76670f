"""From rounds/NAME.yaml to a Round: its study and its experiments, all checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse.config.expand import expand
from roundhouse.config.round_schema import RoundFile
from roundhouse.config.yaml_file import YamlFile, read_yaml
from roundhouse.model.experiment import Experiment
from roundhouse.names import named_file, nearest


@dataclass(frozen=True, slots=True)
class Round:
    """A named set of experiments, in the order of the file. `study` may be None: a group can have its own.

    `baselines`: for a group, the group beside whose results its own are shown.
    """

    name: str
    file: Path
    study: str | None
    experiments: list[Experiment]
    baselines: dict[str, str]


def load_round(name: str, rounds_dir: Path) -> Round:
    """Read `ROUNDS_DIR/NAME.yaml`. RoundhouseError tells every mistake in it, one a line: file, line, what is wrong."""
    file = read_yaml(named_file("round", name, rounds_dir))
    content = file.validate(RoundFile)
    if content.round != name:
        file.problem(("round",), f"the round calls itself {content.round!r}, but the file is {file.path.name}")
    experiments = expand(name, file, content)
    baselines = _baselines(file, content)
    file.check()
    return Round(name, file.path, content.study, experiments, baselines)


def _baselines(file: YamlFile, content: RoundFile) -> dict[str, str]:
    named = {name: group.baseline for name, group in content.experiments.items() if group.baseline is not None}
    for name, baseline in named.items():
        others = [group for group in content.experiments if group != name]
        if baseline not in others:
            told = "a group is no baseline of itself" if baseline == name else nearest(baseline, others)
            file.problem(("experiments", name, "baseline"), f"no other group is called {baseline!r}: {told}")
    return named


def json_schema() -> dict[str, Any]:
    """The JSON Schema of round files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RoundFile.model_json_schema()}

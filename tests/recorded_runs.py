"""Records of finished runs with given metrics, for tests of what is made from metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.rounds import Folders
from roundhouse import files
from roundhouse.config.round import load_round
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.store import record

Content = Mapping[str, Mapping[str, Any]]  # of a file, by the path of the experiment


def folders_in(folder: Path) -> Folders:
    return Folders(folder / "experiments", folder / "rounds", folder / "analysis")


def record_runs(
    place: Folders, text: str, metrics: Content, progress: Content | None = None, cause: Cause = Cause.COMPLETED
) -> None:
    """A round with this file, whose experiments ran once each and left these files; others have no record."""
    place.rounds.mkdir(parents=True, exist_ok=True)
    name = text.partition("round:")[2].split()[0]
    (place.rounds / f"{name}.yaml").write_text(text, encoding="utf-8")
    for experiment in load_round(name, place.rounds).experiments:
        if experiment.path not in metrics:
            continue
        directory = place.experiments / name / experiment.path
        opened = Opened(record.new_token(), {"kind": "local"}, experiment.config_hash(), {})
        assert record.open_attempt(directory, 1, opened)
        record.write_config(directory, experiment)
        own = record.attempt_directory(directory, 1)
        assert files.create_exclusive(own / "claim.json", {"version": 1, "nonce": "n", "at": 1.0})
        if progress:
            content = {"version": 1, **progress[experiment.path]}
            (own / "progress.json").write_text(json.dumps(content))
        record.close(directory, 1, cause, "")
        (own / "metrics.json").write_text(json.dumps(metrics[experiment.path]))

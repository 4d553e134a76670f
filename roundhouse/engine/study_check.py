"""Whether an experiment can start, before anything is submitted: its study's `check`, its paths, its checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse import study_modules
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment
from roundhouse.settings import split_config

if TYPE_CHECKING:
    from roundhouse.config.site import Site
Check = Callable[[Mapping[str, Any], Path | None], object]


class StudyChecks:
    """The answers of the studies' checks, each once in a pass: a data set may have been fetched by the next pass."""

    def __init__(self, repository: Path, site: Site) -> None:
        self._repository, self._data = repository, Path(site.data) if site.data else None
        self._checks: dict[str, Check | str | None] = {}
        self._answers: dict[tuple[str, str], str] = {}

    def refusal(self, experiment: Experiment) -> str:
        """Why the experiment cannot start, as the `check` of its study says; empty if it can, or there is no check.

        An experiment whose selection is open has no config to check yet.
        """
        study = experiment.study
        if study is None or experiment.undecided:
            return ""
        if study not in self._checks:
            self._checks[study] = self._load(study)
        check = self._checks[study]
        if check is None:
            return ""
        try:
            _, config = split_config(experiment.config)
        except RoundhouseError as error:
            return str(error)
        if isinstance(check, str):
            return check
        question = study, json.dumps(config, sort_keys=True)  # text, since 1, 1.0 and True are equal as keys
        if question not in self._answers:
            self._answers[question] = self._answer(study, check, config)
        return self._answers[question]

    def _load(self, study: str) -> Check | str | None:
        """The `check` of a study; None if it has none; if it cannot be imported, the reason."""
        try:
            module = study_modules.load(self._repository, study, "check")
            check: Check | None = module.check if module else None
            return check
        except RoundhouseError as error:
            return str(error)
        except AttributeError as error:
            return study_modules.failure(study, "check", error)

    def _answer(self, study: str, check: Check, config: Mapping[str, Any]) -> str:
        try:
            check(config, self._data)
        except RoundhouseError as error:
            return str(error)
        except (Exception, SystemExit) as error:
            return study_modules.failure(study, "check", error)
        return ""


def path_refusal(experiments: Path, experiment: Experiment) -> str:
    """Why a command cannot get its directories in environment variables; empty if it can.

    `experiments`: the directory of all records.
    """
    if experiment.command is None:
        return ""
    separates = "contains ':', which separates the directories in ROUNDHOUSE_EARLIER and ROUNDHOUSE_INPUT_GROUP"
    if os.pathsep in str(experiments):
        return f"the directory of the records, {experiments}, {separates}: use another one (--experiments)"
    if any(os.pathsep in path for paths in ((experiment.path,), *experiment.after.values()) for path in paths):
        return f"its path, or that of a dependency, {separates}: change `path` in the round file"
    return ""


def gpu_refusal(experiment: Experiment) -> str:
    """Why the study of an experiment cannot train on a host without GPUs; empty if it can."""
    requested = experiment.resources.ngpus
    if experiment.study is None or not requested or experiment.config.get("device") == "cpu":
        return ""
    return (
        f"it trains on a GPU (ngpus: {requested}), and this host has none: use another host, or write device: cpu in "
        "its config"
    )


def start_refusal(repository: Path, experiment: Experiment) -> str:
    """Why the user's own file that an experiment starts from cannot be used; empty if it can."""
    start = experiment.start
    if start is None or not start.is_file:
        return ""
    path = repository.absolute() / start.source
    if path.is_file():
        return "" if os.access(path, os.R_OK) else f"{path} in `{start.kind}` cannot be read: its permissions forbid it"
    return f"{path} in `{start.kind}` does not exist, or is not a file"

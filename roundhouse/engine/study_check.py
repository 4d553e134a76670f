"""Whether an experiment can start: the `check` of its study runs before anything is submitted."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment
from roundhouse.settings import split_config

if TYPE_CHECKING:
    from roundhouse.config.site import Site

Check = Callable[[Mapping[str, Any], Path | None], object]


class StudyChecks:
    """The answers of the studies' checks, each asked once a pass: a data set may have been fetched by the next pass."""

    def __init__(self, repository: Path, site: Site) -> None:
        self._repository, self._site = repository, site
        self._checks: dict[str, Check | None] = {}
        self._answers: dict[tuple[str, str], str] = {}

    def refusal(self, experiment: Experiment) -> str:
        """Why the experiment cannot start, as the `check` of its study says; empty if it can, or there is no check.

        An experiment whose selection is open has no config to check yet.
        """
        study = None if experiment.undecided else experiment.study
        check = self._check_of(study) if study is not None else None
        if study is None or check is None:
            return ""
        try:
            _, config = split_config(experiment.config)
        except RoundhouseError as error:
            return str(error)
        question = study, json.dumps(config, sort_keys=True)  # text, since 1, 1.0 and True are equal as keys
        if question not in self._answers:
            self._answers[question] = self._ask(study, check, config)
        return self._answers[question]

    def _check_of(self, study: str) -> Check | None:
        if study not in self._checks:
            there = (self._repository / "studies" / study / "check.py").is_file()
            self._checks[study] = _load(study) if there else None
        return self._checks[study]

    def _ask(self, study: str, check: Check, config: Mapping[str, Any]) -> str:
        try:
            check(config, Path(self._site.data) if self._site.data else None)
        except RoundhouseError as error:
            return str(error)
        except (Exception, SystemExit) as error:
            return _failure(study, error)
        return ""


def _load(study: str) -> Check:
    """The `check` of the study; if it cannot be imported, a function that refuses every config with the reason."""
    try:
        check: Check = importlib.import_module(f"studies.{study}.check").check
        return check
    except (Exception, SystemExit) as error:
        reason = _failure(study, error)

    def refuse(config: Mapping[str, Any], data: Path | None) -> None:
        raise RoundhouseError(reason)

    return refuse


def _failure(study: str, error: BaseException) -> str:
    """An error in the check itself, in one line: the place in the study's folder, and the exception."""
    folder = f"studies/{study}/"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in frame.filename]
    where = f"{frames[-1].filename.rpartition(folder)[2]}, line {frames[-1].lineno}" if frames else "check.py"
    return f"the check of study {study!r} failed in {folder}{where}: {type(error).__name__}: {error}"

"""Modules that a study may have, found by their names: check, metrics, analysis. An error in one is a single line."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from roundhouse.errors import RoundhouseError

FOLDER = "studies"


def load(repository: Path, study: str, name: str) -> ModuleType | None:
    """The module or package `studies.STUDY.NAME`; None if there is none. RoundhouseError: its import fails."""
    place = repository / FOLDER / study / name
    if not (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()):
        return None
    if str(repository) not in sys.path:
        sys.path.append(str(repository))
    try:
        return importlib.import_module(f"{FOLDER}.{study}.{name}")
    except (Exception, SystemExit) as error:
        raise RoundhouseError(failure(study, name, error)) from None


def failure(study: str, name: str, error: BaseException) -> str:
    """An error in a module of a study, in one line: the place in the study's folder, and the exception."""
    folder = f"{FOLDER}/{study}/"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in frame.filename]
    where = f"{frames[-1].filename.rpartition(folder)[2]}, line {frames[-1].lineno}" if frames else f"{name}.py"
    text = " ".join(str(error).split())
    return f"the {name} of study {study!r} failed in {folder}{where}: {type(error).__name__}: {text}"

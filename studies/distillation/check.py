"""The check before a submission: every key and value of the config is valid, and the data set exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import read_options
from studies.distillation import sources
from studies.distillation.options import Options


def check(config: Mapping[str, Any], data: Path | None) -> None:
    """StudyError if a run with this config could not start. `data` holds downloaded data sets; None: the default."""
    options = read_options(Options, config)
    missing = sources.missing(options.dataset, data)
    if missing:
        raise StudyError(missing)

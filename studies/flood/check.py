"""Before submission: every key and value of the config is valid, samples that it names exist; and `disk`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.options import read_options
from studies.flood.disk import disk
from studies.flood.kept_files import samples_file
from studies.flood.options import Options

__all__ = ["check", "disk"]


def check(config: Mapping[str, Any], data: Path | None) -> None:
    """StudyError if a run with this config could not start. `data` is not used: the data are computed."""
    options = read_options(Options, config)
    if options.samples is not None:
        samples_file(Path(options.samples))

"""Before submission: every key and value of the config is valid, and `disk`. The data are computed, not downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.options import read_options
from studies.flow_matching.disk import disk
from studies.flow_matching.options import Options

__all__ = ["check", "disk"]


def check(config: Mapping[str, Any], data: Path | None) -> None:
    """StudyError if a run with this config could not start. `data` is not used: the fields are computed."""
    read_options(Options, config)

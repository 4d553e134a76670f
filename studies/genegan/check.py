"""The check before a submission: every key and value of the config is valid, and the files that it names exist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose, read_options
from studies.genegan import celeba
from studies.genegan.options import Options


def check(config: Mapping[str, Any], data: Path | None) -> None:
    """StudyError if a run with this config could not start. `data` holds the data sets; None: the default folder."""
    options = read_options(Options, config)
    if options.dataset == "celeba":
        choose("attribute", options.attribute, celeba.ATTRIBUTES)
        if lack := celeba.missing(data, options.sizes):
            raise StudyError(lack)
    if options.init is not None and is_file_name(options.init) and not Path(options.init).is_file():
        raise StudyError(f"config key 'init': there is no file {Path(options.init).absolute()}")
    if options.init_map is not None:
        read_map(Path(options.init_map))


def is_file_name(init: str) -> bool:
    """Whether `init` names a file, not a group of the round: it has a folder or a suffix."""
    return "/" in init or Path(init).suffix != ""


def read_map(path: Path) -> dict[str, str]:
    """The mapping file: names of weights in the file that `init` names, and the names here. StudyError: it is wrong."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise StudyError(f"config key 'init_map': {path.absolute()} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StudyError(f"config key 'init_map': {path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise StudyError(f"config key 'init_map': {path} must hold one JSON object: names in the file, and names here")
    return found

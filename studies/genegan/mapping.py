"""The mapping file of `init_map`: which names of a file of weights are which of the generator. No torch here."""

from __future__ import annotations

import json
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError


def read_mapping(path: Path) -> dict[str, str]:
    """A JSON file: an object of names of weights -> names of the generator, each in full or as a prefix with a dot."""
    what = f"config key 'init_map': {path.absolute()}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{what} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StudyError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise StudyError(f"{what} must be a JSON object: names in the file of `init` -> names of the generator")
    if not found:
        raise StudyError(f"{what} is empty: give names in the file of `init` -> names of the generator")
    for name, target in found.items():
        if name.endswith(".") != target.endswith("."):
            raise StudyError(f"{what} has {name!r}: {target!r}; both or none must end in a dot")
    return found

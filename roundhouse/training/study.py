"""Finds a study: `studies/NAME/train.py` with its function `train`, and `options.py` with its class `Options`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roundhouse.errors import RoundhouseError
from roundhouse.options import read_options
from roundhouse.training.run import Run

_STUDIES = Path(__file__).parents[2] / "studies"


def load_study(
    name: str, config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], data: Path | None
) -> Callable[[Run], None]:
    """The study's training, with its options read from `config`.

    RoundhouseError: there is no such study, it lacks a part, or the config has an unknown key or a wrong value.
    """
    if importlib.util.find_spec(f"studies.{name}") is None:
        known = sorted(path.name for path in _STUDIES.iterdir() if (path / "__init__.py").exists())
        raise RoundhouseError(f"there is no study {name!r} in studies/; available: {', '.join(known)}")
    options = read_options(_part(name, "options", "Options"), config)
    train = _part(name, "train", "train")
    return lambda run: train(run, options, inputs, data)


def _part(name: str, module: str, wanted: str) -> Any:
    """What a study must define in one of its modules."""
    if importlib.util.find_spec(f"studies.{name}.{module}") is None:
        raise RoundhouseError(f"study {name!r} has no studies/{name}/{module}.py; see docs/adding_a_study.md")
    found = getattr(importlib.import_module(f"studies.{name}.{module}"), wanted, None)
    if found is None:
        raise RoundhouseError(f"studies/{name}/{module}.py does not define {wanted}; see docs/adding_a_study.md")
    return found

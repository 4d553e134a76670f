"""A trained generator from a file: the best weights of a run, or a kept checkpoint, with the config of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from roundhouse.options import read_options
from roundhouse.training import StudyError, read_weights
from roundhouse.training.keep import KEPT, SNAPSHOTS
from studies.genegan.networks import Generator
from studies.genegan.options import Options

GENERATOR, CONFIG = "generator", "config"
"""The parts of a checkpoint, and the entries of best.pth, that this module needs. CONFIG is the text of `config_of`."""


LATEST = "latest"
"""Kept file with the name of the newest kept checkpoint."""


@dataclass(frozen=True)
class Loaded:
    generator: Generator
    options: Options
    step: int | None  # None: best.pth does not say
    device: torch.device


def config_of(options: Options) -> str:
    """The config of a run as text, to be tracked and kept with the weights."""
    return json.dumps(asdict(options))


class Config:
    """The config of this run, for its checkpoints: not replaced by that of a run whose weights it starts from."""

    def __init__(self, options: Options) -> None:
        self._text = config_of(options)

    def state_dict(self) -> str:
        return self._text

    def load_state_dict(self, state: str) -> None:
        """Keeps its own."""


def load_generator(path: Path, device: torch.device) -> Loaded:
    """`path`: a file, or the directory of an experiment or of one of its attempts, whose newest checkpoint is loaded.

    StudyError: the file is missing or damaged, or has no generator of this study.
    """
    path = newest_checkpoint(path) if path.is_dir() else path
    content = read_weights(path)
    parts: Mapping[str, Any] = content.get("parts", content)
    if not (isinstance(parts.get(CONFIG), str) and isinstance(parts.get(GENERATOR), Mapping)):
        raise StudyError(f"{path} has no generator: give best.pth or a file of snapshots/ of a genegan run")
    known = {one.name for one in fields(Options)}
    options = read_options(Options, {key: one for key, one in json.loads(parts[CONFIG]).items() if key in known})
    generator = Generator(options)
    try:
        generator.load_state_dict(dict(parts[GENERATOR]))
    except RuntimeError as error:
        raise StudyError(f"{path}: its weights do not fit the networks of this version: {error}") from error
    generator.to(device).eval().requires_grad_(False)
    return Loaded(generator, options, content.get("step"), device)


def newest_checkpoint(directory: Path) -> Path:
    """The newest kept checkpoint of an experiment or an attempt. StudyError: it has none."""
    attempts = (one for one in directory.glob("attempts/*") if one.name.isdigit())
    for place in (*sorted(attempts, key=lambda one: -int(one.name)), directory):
        pointer = place / KEPT / LATEST
        # a run that was killed while it kept its first checkpoint has named one that is not there
        if pointer.is_file() and (found := place / SNAPSHOTS / pointer.read_text().strip()).is_file():
            return found
    raise StudyError(f"{directory} has no kept checkpoint ({KEPT}/{LATEST}): give an experiment, an attempt, or a file")


def device_of(name: str) -> torch.device:
    """The device of this name; `auto`: the first GPU if there is one. StudyError: there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StudyError(f"--device {name}: {str(error).splitlines()[0]}; use cpu, cuda or cuda:N") from error
    return device

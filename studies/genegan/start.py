"""The weights that a generator starts from: those of a VQVAE of the same round, or of a file of the user's own."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roundhouse.training import StudyError, read_weights
from studies.genegan.check import is_file_name
from studies.genegan.mapping import read_mapping
from studies.genegan.networks import Generator
from studies.genegan.options import Options
from studies.genegan.vqvae import OWN_MAPPING, load_mapped
from studies.genegan.vqvae_training import WEIGHTS


def start_from(generator: Generator, init: str, options: Options, inputs: Mapping[str, Sequence[Path]]) -> str:
    """Load the weights that `init` names, a file or a group. Prints and returns what was and was not loaded.

    StudyError: there is no such input, the file cannot be read, or no weight has a name of the generator.
    """
    path = Path(init) if is_file_name(init) else _input(init, inputs)
    weights = weights_of_file(path) if is_file_name(init) else read_weights(path)[WEIGHTS]
    mapping = OWN_MAPPING if options.init_map is None else read_mapping(Path(options.init_map))
    report = str(load_mapped(generator, weights, mapping))
    print(f"weights of {path}: {report}", flush=True)
    return report


def _input(group: str, inputs: Mapping[str, Sequence[Path]]) -> Path:
    places = inputs.get(group, ())
    if len(places) != 1:
        raise StudyError(
            f"config key 'init' is {group!r}, and `after` in the round file gives {len(places)} experiments of this "
            "group: it must give one"
        )
    return places[0] / "best.pth"


def weights_of_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save`, by name; in a dictionary inside another one, by both names with a dot.

    Of a best.pth of this study, those of the VQVAE. StudyError: it cannot be read, or has no tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StudyError(f"config key 'init': {path} cannot be read: {error.strerror or error}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise StudyError(
            f"config key 'init': {path} cannot be read by PyTorch {torch.__version__} ({type(error).__name__}). "
            "Save only tensors, in dictionaries: torch.save(model.state_dict(), ...)"
        ) from None
    found = dict(_tensors(content.get(WEIGHTS, content) if isinstance(content, Mapping) else content))
    if not found:
        raise StudyError(f"config key 'init': {path} has no tensors in dictionaries: save a state_dict")
    return found


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield str(name), value
        else:
            yield from ((f"{name}.{rest}", tensor) for rest, tensor in _tensors(value))

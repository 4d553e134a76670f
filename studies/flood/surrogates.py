"""A surrogate with what it takes to build it again: made from a config, and read from the weights of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from roundhouse.training import StudyError, read_weights
from studies.flood.architectures import make
from studies.flood.options import Options

NETWORK, DESCRIPTION = "network", "surrogate"
"""Entries of best.pth: the weights, and the text of `description`."""
_KEYS = ("architecture", "width", "attention", "downsampler", "last")


def new_surrogate(options: Options) -> nn.Module:
    """With weights from torch's global generator."""
    return make(options.architecture, options.width, options.attention, options.downsampler, options.last)


def description(options: Options) -> str:
    """The part of the config that says what network it is."""
    return json.dumps({key: getattr(options, key) for key in _KEYS})


def read_surrogate(path: Path) -> nn.Module:
    """The trained network of a run's best.pth. StudyError: the file has none of this version."""
    content: dict[str, Any] = read_weights(path)
    try:
        network = new_surrogate(Options(**json.loads(content[DESCRIPTION])))
        network.load_state_dict(dict(content[NETWORK]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StudyError(f"{path} has no surrogate of this version of the study: {error}") from error
    return network.eval().requires_grad_(False)

"""The disk space of a run, by its options. The runner imports it, so no torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from roundhouse.disk_space import RunSpace, run_space
from roundhouse.options import read_options
from studies.flow_matching.options import Options

_BYTES = 4  # of a value: float32
_FEATURES, _TIME_CHANNELS = 32, 256  # Fourier features of a point; sinusoids of t
_SHOWN, _MAPS = 8, 6  # test fields and arrays of outputs.npz
REFLOW, CONSISTENCY, SPECTRAL, ADAPTIVE_NORM, SELF_CONDITIONING, AVERAGE = 1, 3, 4, 5, 6, 7


def disk(config: Mapping[str, Any]) -> RunSpace:
    """StudyError: the config is invalid.

    A checkpoint has the network, the two moments of Adam, and an average of the weights for techniques 3 and 7 each.
    Technique 1 keeps its pairs.
    """
    options = read_options(Options, config)
    techniques = options.technique_numbers
    network = _BYTES * (parameters(options) + _FEATURES)
    copies = 3 + (CONSISTENCY in techniques) + (AVERAGE in techniques)
    outputs = min(_SHOWN, options.test_fields) * _MAPS * options.size**2 + 2 * options.test_fields
    pairs = _pairs(options) if REFLOW in techniques else 0
    return run_space(copies * network, network, _BYTES * pairs, _BYTES * outputs)


def parameters(options: Options) -> int:
    """Of the network."""
    width, hidden = options.d_model, options.feedforward or 4 * options.d_model
    techniques = options.technique_numbers
    norm = _linear(width, 3 * width) if ADAPTIVE_NORM in techniques else 2 * width
    asked = _FEATURES + 1 + (SELF_CONDITIONING in techniques)
    tokens = _linear(_FEATURES + 1, width) + _linear(asked, width)
    time = _linear(_TIME_CHANNELS, width) + _linear(width, width)
    attention = _linear(width, 3 * width) + _linear(width, width)
    attention += options.heads if options.locality == "distance" else 0
    block = 2 * norm + attention + _linear(width, hidden) + _linear(hidden, width)
    return tokens + time + options.num_layers * block + norm + _linear(width, 1)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _pairs(options: Options) -> int:
    """Values of the coupled pairs: points and values of what is seen, and points, noise and end of what is asked."""
    patch = options.query_pattern == "patch" or SPECTRAL in options.technique_numbers
    asked = math.isqrt(options.queries) ** 2 if patch else options.queries
    return options.fields * options.reflow_pairs * (3 * options.observations + 4 * asked)

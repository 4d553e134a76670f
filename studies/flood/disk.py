"""The disk space of a run, by its options. The runner imports it, so no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roundhouse.disk_space import RunSpace, run_space
from roundhouse.options import read_options
from studies.flood.options import PATCH, Options

_BYTES = 4  # of a value: float32
_FINE = 10  # points of the bed in a cell, along each side
_PARAMETERS = {
    "02": 93_665, "03": 4_165_313, "04": 99_939, "05": 31_031_745, "07": 585_827, "08": 414_661, "09": 4_117_441,
}  # fmt: skip
"""Of the architectures at width 1, without their downsampler. At another width they are about its square as many."""


def disk(config: Mapping[str, Any]) -> RunSpace:
    """StudyError: the config is invalid.

    A checkpoint of a training has the network and the two moments of Adam. Relative errors are kept for each sample;
    dry patches are not subtracted, and the number of parameters is that of the default attention without downsampler.
    """
    options = read_options(Options, config)
    cells, snapshots = options.cells**2, options.snapshots
    fields = cells * (_FINE**2 + 3) + cells * snapshots * (2 if options.double else 1)
    if options.task == "simulation":
        state = 3 * cells * (2 if options.double else 1) + cells * snapshots
        return run_space(_BYTES * state, kept=_BYTES * fields, outputs=_BYTES * cells * (snapshots + 1))
    floods = options.train + options.validation + options.test
    if options.task == "samples":
        return run_space(0, kept=_BYTES * floods * cells * (_FINE**2 + 1 + snapshots))
    patches = ((options.cells - PATCH) // options.stride + 1) ** 2 * max(0, snapshots - options.lead)
    outputs = _BYTES * (floods * patches + 3 * 4 * PATCH**2)
    if options.task == "training":
        network = round(_BYTES * _PARAMETERS[options.architecture] * max(options.width**2, 0.01))
        return run_space(3 * network, network, outputs=outputs)
    return run_space(0, outputs=outputs)

"""The ten techniques: each changes a few parts of the design, and knows none of the others."""

from __future__ import annotations

from studies.flow_matching.design import Design, base_design
from studies.flow_matching.options import Options
from studies.flow_matching.techniques import (
    adaptive_norm,
    clip_and_warmup,
    consistency,
    moving_average,
    multi_scale_encoding,
    noise_schedule,
    reflow,
    self_conditioning,
    spectral_loss,
    stochastic_depth,
)

MODULES = {
    1: reflow,
    2: multi_scale_encoding,
    3: consistency,
    4: spectral_loss,
    5: adaptive_norm,
    6: self_conditioning,
    7: moving_average,
    8: noise_schedule,
    9: clip_and_warmup,
    10: stochastic_depth,
}
"""By number. Each has `apply(design, options)`, and `CHANGES`: the parts of the design that it changes."""


def design_of(options: Options) -> Design:
    """The base with the techniques of `options`."""
    design = base_design(options)
    for number in options.technique_numbers:
        design = MODULES[number].apply(design, options)
    return design

"""Technique 7, exponential moving average: the model is evaluated with averaged weights.

As is usual in diffusion models (for example Ho et al. 2020, arXiv:2006.11239, appendix B): after each step,
w' <- b w' + (1 - b) w, with the warm-up b = min(0.999, (1 + k) / (10 + k)) in update k. The trained weights are not
changed. See `averages.py`.
"""

from __future__ import annotations

from dataclasses import replace

from studies.flow_matching.design import Design
from studies.flow_matching.options import Options

CHANGES = ("decay",)


def apply(design: Design, options: Options) -> Design:
    return replace(design, decay=options.ema_decay)

"""Technique 9, gradient clipping and warm-up: norm 1 at most; the rate rises linearly, then falls as a cosine.

Pascanu et al. 2013 (arXiv:1211.5063) for clipping, Loshchilov and Hutter 2017 (arXiv:1608.03983) for the cosine. The
schedule counts steps, not epochs: with 1,600 steps and a share of 0.1, the full rate is reached after 160 steps.
"""

from __future__ import annotations

from dataclasses import replace

from studies.flow_matching.design import Design, warmup_cosine
from studies.flow_matching.options import Options

CHANGES = ("rate", "clip_norm")


def apply(design: Design, options: Options) -> Design:
    return replace(design, rate=warmup_cosine(options.warmup_share), clip_norm=options.clip_norm)

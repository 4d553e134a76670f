"""Small models of the flow matching study, and steps outside a run, for tests."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from studies.flow_matching.design import Design
from studies.flow_matching.fields import dataset
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options
from studies.flow_matching.sources import FieldSource
from studies.flow_matching.tasks import Task
from studies.flow_matching.techniques import design_of

SMALL: dict[str, Any] = {
    "size": 8, "observations": 10, "queries": 16, "d_model": 16, "heads": 2, "num_layers": 2, "dropout": 0.0,
    "fields": 12, "batch_size": 12,
}  # fmt: skip


def options_of(techniques: str = "", **config: Any) -> Options:
    return Options(**{**SMALL, "techniques": techniques, **config})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(options: Options, design: Design | None = None) -> FlowModel:
    """With the weights of seed 0."""
    torch.manual_seed(0)
    design = design or design_of(options)
    return FlowModel(Network(options, design), design, contextlib.nullcontext)


def batch_of(options: Options, design: Design, seed: int = 1) -> tuple[Task, Tensor]:
    source = FieldSource(dataset(options.complexity, "train", options.fields, options.size), options, design)
    return source.draw(torch.arange(options.fields), seeded(seed), seeded(seed + 1))

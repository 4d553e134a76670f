"""Technique 1, rectified flow: a second phase on pairs that the trained flow itself has coupled (*reflow*).

Liu, Gong and Liu, Flow Straight and Fast, 2022 (arXiv:2209.03003), section 2: the base is the first rectification.
From its velocity v and noise x0, with the observations y of a training field,

    x1' = x0 + int_0^1 v(z_t, t | y) dt,

and the second phase minimises E ||v(z_t, t | y) - dz/dt||^2 with z_t between x0 and x1' (B, Q). Its trajectories cross
less, so that they are straighter and few steps suffice. It starts from the weights of the first phase. An epoch has as
many pairs as there are fields, drawn from all of them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.flow_matching.design import Design, Phase
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.options import Options
from studies.flow_matching.sources import FieldSource, PairSource
from studies.flow_matching.tasks import Task

CHANGES = ("phases",)
_AT_ONCE = 64  # pairs that are integrated at the same time


def apply(design: Design, options: Options) -> Design:
    def couple(run: Run, model: FlowModel, fields: FieldSource) -> PairSource:
        saved = run.once("pairs", lambda: coupled(run, model, fields, options))
        tensors = {name: value.to(run.device) for name, value in saved["task"].items()}
        return PairSource(Task(**tensors, side=saved["side"]), saved["x0"].to(run.device), fields.count)

    return replace(design, phases=(*design.phases, Phase("reflow", options.second_phase_epochs, couple)))


def coupled(run: Run, model: FlowModel, fields: FieldSource, options: Options) -> dict[str, object]:
    """Pairs (x0, x1') for each training field, with their observations, asked points and noise."""
    model.network.eval()
    order = torch.arange(fields.count).repeat_interleave(options.reflow_pairs)
    task, x0 = fields.draw(order, run.generator("pairs"), run.generator("noise of pairs"))
    ends = ends_of(model, task, x0, options)
    tensors = {"seen_at": task.seen_at, "seen": task.seen, "asked_at": task.asked_at, "truth": ends}
    return {"task": tensors, "side": task.side, "x0": x0}


def ends_of(model: FlowModel, task: Task, x0: Tensor, options: Options) -> Tensor:
    """x1' of the noise `x0`, both (N, Q)."""
    chunks = [slice(first, first + _AT_ONCE) for first in range(0, len(x0), _AT_ONCE)]
    steps, sampler = options.sample_steps, options.sampler
    return torch.cat([model.sample(task.rows(chunk), x0[chunk], steps, sampler) for chunk in chunks])

"""Technique 3, consistency loss: two neighbouring points of a path must lead to the same end.

Yang et al., Consistency Flow Matching, 2024 (arXiv:2407.02398), equation 6. [0, 1] is cut into segments; e is the end
of that of t. With f(t, z) the point at e that the velocity at (t, z) leads to (z + (e - t) v on the linear path),

    L = ||f(t, z_t) - f'(t + d, z_{t+d})||^2 + a ||v(t, z_t) - v'(t + d, z_{t+d})||^2,   d = 1e-3, a = 1e-5,

where ' is a moving average of the weights, of this loss alone, without gradient. z_{t+d} is on the path of the same
pair (x0, x1), all (B, Q). Where t + d would be beyond e, d is e - t.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from studies.flow_matching.averages import MovingAverage
from studies.flow_matching.design import Design, Term
from studies.flow_matching.flow import FlowModel, Moment
from studies.flow_matching.options import Options

CHANGES = ("terms",)
AHEAD = 1e-3
VELOCITY_WEIGHT = 1e-5
DECAY = 0.999


def apply(design: Design, options: Options) -> Design:
    def term(model: FlowModel) -> Term:
        return ConsistencyTerm(model, options.consistency_segments, options.consistency_weight)

    return replace(design, terms=(*design.terms, term))


class ConsistencyTerm(Term):
    name = "consistency"

    def __init__(self, model: FlowModel, segments: int, weight: float) -> None:
        self.model, self.segments, self.weight = model, segments, weight
        self.average = MovingAverage(model.network, DECAY)
        self.target = model.with_network(self.average.network)

    def loss(self, moment: Moment) -> Tensor:
        path, t = self.model.path, moment.t
        end = segment_end(t, self.segments)
        later = torch.minimum(t + AHEAD, end)
        z = path.point(moment.x0, moment.task.truth, later)
        with torch.no_grad():
            velocity = self.target.velocity(moment.task, z, later, moment.estimate)
            goal = path.jump(z, velocity, later, end)
        reached = path.jump(moment.z, moment.velocity, t, end)
        return (reached - goal).square().mean() + VELOCITY_WEIGHT * (moment.velocity - velocity).square().mean()

    def tracked(self) -> dict[str, nn.Module]:
        return {"consistency_average": self.average}

    def after_step(self) -> None:
        self.average.update(self.model.network)


def segment_end(t: Tensor, segments: int) -> Tensor:
    """The end of the segment of each t (B,): the smallest k / segments above t, at most 1."""
    return ((t * segments).floor() + 1).clamp(max=segments) / segments

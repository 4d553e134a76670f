"""Conditional flow matching: the loss of a training step, and sampling by integration of the learned velocity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.flow_matching.design import Design, Term
from studies.flow_matching.network import Network
from studies.flow_matching.tasks import ALL, Task


@dataclass(frozen=True)
class Moment:
    """One training step, as the further losses see it. Values are (B, Q), `t` is (B,)."""

    task: Task
    x0: Tensor
    t: Tensor
    z: Tensor
    velocity: Tensor
    target: Tensor
    estimate: Tensor | None


class FlowModel:
    """A network whose output is the velocity dz/dt at the asked points."""

    def __init__(self, network: Network, design: Design, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.network, self.design, self.path = network, design, design.path
        self.autocast = autocast

    def with_network(self, network: Network) -> FlowModel:
        return FlowModel(network, self.design, self.autocast)

    def velocity(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        with self.autocast():
            return self.network(task, z, t, estimate)  # type: ignore[no-any-return]

    def loss(
        self, task: Task, x0: Tensor, draw: torch.Generator, terms: Sequence[Term] = (), rows: slice = ALL
    ) -> dict[str, Tensor]:
        """Scalars by name: `flow` is E ||v - dz/dt||^2, the others are those of `terms`, unweighted.

        `rows`: only these fields of the batch, with the random numbers that they have in the whole of it.
        """
        t = self.design.times(len(task), draw)[rows].to(x0.device, non_blocking=True)
        task, x0 = task.rows(rows), x0[rows]
        z, target = self.path.point(x0, task.truth, t), self.path.velocity(x0, task.truth, t)
        estimate = self.design.estimate.in_training(
            lambda channel: self.path.data(z, self.velocity(task, z, t, channel), t), z, draw
        )
        velocity = self.velocity(task, z, t, estimate)
        moment = Moment(task, x0, t, z, velocity, target, estimate)
        return {"flow": (velocity - target).square().mean()} | {term.name: term.loss(moment) for term in terms}

    def sample(self, task: Task, x0: Tensor, steps: int, sampler: str) -> Tensor:
        """x1 at the asked points (B, Q) from noise `x0` (B, Q): see `trajectory`."""
        return self.trajectory(task, x0, steps, sampler)[-1][-1]

    @torch.no_grad()
    def trajectory(
        self, task: Task, x0: Tensor, steps: int, sampler: str
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Each step of the sampler, "euler" or "heun": t (B,), the point z there, the velocity there, the next point.

        The network's estimate of x1 is fed to its next evaluation, if the design has such a channel. The last step of
        Heun's method is one of Euler's, so the velocity is never evaluated at t = 1. There z = x1 says nothing about
        x0, so a network answers as if x0 were 0, and half a step of the true x0 would remain in the sample as noise.
        Karras et al. 2022 (arXiv:2206.00364), algorithm 1, end in the same way; the order of the method is still 2.

        A step of Euler's method goes along the path of the pair (x0, x1) that has this velocity (DDIM; Song et al.
        2021, arXiv:2010.02502). On the linear path that is the usual z + v / steps; on a curved one, z + v / steps
        would leave it, and miss the data by several per cent in the last of four steps.
        """
        feed, z = self.design.estimate, x0
        estimate = feed.at_start(x0)
        found = []
        for step in range(steps):
            t, later = (x0.new_full((len(x0),), moment / steps) for moment in (step, step + 1))
            velocity = self.velocity(task, z, t, estimate)
            estimate = feed.next(self.path.data(z, velocity, t))
            after = self.path.jump(z, velocity, t, later)
            if sampler == "heun" and step + 1 < steps:
                second = self.velocity(task, after, later, estimate)
                estimate = feed.next(self.path.data(after, second, later))
                after = z + (velocity + second) / (2 * steps)
            found.append((t, z, velocity, after))
            z = after
        return found

    def straightness(self, task: Task, x0: Tensor, steps: int) -> float:
        """S = E int ||(derivative of the path from x0 to x1') - v(z_t, t)||^2 dt along the model's own trajectory.

        x1' is its end, by Heun's method. S is 0 if and only if the trajectory is the path: for the linear one, a
        straight line (Liu et al. 2022, section 2.2). With pairs of data instead it would be the training loss.
        """
        points = self.trajectory(task, x0, steps, "heun")
        end = points[-1][-1]
        return float(
            torch.stack([(self.path.velocity(x0, end, t) - v).square().mean() for t, _, v, _ in points]).mean()
        )

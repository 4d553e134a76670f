"""The trained parts of one phase: optimiser, further losses, and the weights with which the model is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from roundhouse.training import Step, in_parts
from studies.flow_matching.averages import MovingAverage
from studies.flow_matching.design import Design, Term
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options
from studies.flow_matching.regression import RegressionModel
from studies.flow_matching.sources import FieldSource, Source

Model = FlowModel | RegressionModel


class Trainer:
    """Trains the network of `model` on `source`."""

    def __init__(self, model: Model, design: Design, source: Source, options: Options, epochs: int) -> None:
        self.model, self.design, self.source = model, design, source
        self.batch_size, self.lr = options.batch_size, options.lr
        self.part = options.batch_size  # fields that are computed at the same time
        self.steps = epochs * self.steps_per_epoch
        self.optimiser = torch.optim.Adam(model.network.parameters(), lr=options.lr, fused=True)
        self.terms: list[Term] = [term(model) for term in design.terms] if isinstance(model, FlowModel) else []
        self.average = None if design.decay is None else MovingAverage(model.network, design.decay)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.source.count // self.batch_size)

    @property
    def done(self) -> int:
        """The steps so far: fewer than `steps` if the training has ended early."""
        return int(max((state["step"] for state in self.optimiser.state.values()), default=0))

    @property
    def weights(self) -> Network:
        """The network with which the model is evaluated."""
        return self.model.network if self.average is None else self.average.network

    def parts(self, phase: str) -> dict[str, object]:
        """What a checkpoint needs, by names that belong to the phase."""
        found: dict[str, object] = {"optimiser": self.optimiser}
        if self.average is not None:
            found["average"] = self.average
        for term in self.terms:
            found |= term.tracked()
        return {f"{phase}_{name}": part for name, part in found.items()}

    def step(self, step: Step, chosen: Tensor, number: int) -> None:
        """One step on examples (B,); `number` counts the steps of the phase from 0."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * self.design.rate(number, self.steps)
        task, x0 = self.source.batch(chosen, step)
        own = step.shard(len(chosen))
        self.optimiser.zero_grad(set_to_none=True)
        found = []
        for part, share in in_parts(own.stop - own.start, self.part):
            rows = slice(own.start + part.start, own.start + part.stop)
            losses = self.model.loss(task, x0, step.generator("times"), self.terms, rows)
            step.backward(share * self.total(losses))
            found.append({name: share * one.detach() for name, one in losses.items()})
        means = {name: torch.stack([one[name] for one in found]).sum() for name in found[0]}
        step.watch(self.total(means))
        step.update(self.optimiser, clip_norm=self.design.clip_norm)
        if self.average is not None:
            self.average.update(self.model.network)
        for term in self.terms:
            term.after_step()
        step.average(loss=means["flow"], **{f"{term.name}_loss": means[term.name] for term in self.terms})

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The flow loss with the others, weighted."""
        loss = losses["flow"]
        for term in self.terms:
            loss = loss + term.weight * losses[term.name]
        return loss

    def attempt(self, fields: FieldSource, size: int) -> None:
        """Forward and backward pass of so many fields, with any random numbers."""
        self.model.network.train()
        chosen, draw = torch.arange(size) % fields.count, torch.Generator()
        task, x0 = fields.draw(chosen, draw, draw)
        self.total(self.model.loss(task, x0, draw, self.terms)).backward()  # type: ignore[no-untyped-call]

    def epoch_order(self, draw: torch.Generator) -> tuple[Tensor, ...]:
        """The examples of each step of an epoch (B,); the last has what is left."""
        return torch.split(self.source.order(draw), self.batch_size)

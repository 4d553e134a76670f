"""Generator and critics with their optimisers: one step of either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

from roundhouse.training import Step
from studies.genegan.images import Batch
from studies.genegan.losses import (
    clip_weights,
    critic_loss,
    critic_terms,
    frozen,
    generator_loss,
    generator_terms,
    mean_squares,
    step_weights,
)
from studies.genegan.networks import Critics, Generator, critic_inputs, exchange
from studies.genegan.options import Options

Made = TypeVar("Made")
RMS_DECAY = 0.8
ADAM_BETAS = (0.5, 0.99)


class Players:
    """The two sides of the game. `drawn` is the only size of a step of `resolution_mode: random`, else None."""

    def __init__(
        self,
        generator: Generator,
        critics: Critics,
        options: Options,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.generator, self.critics, self.options, self.autocast = generator, critics, options, autocast
        self.generator_optimiser, self.critic_optimiser = (
            optimiser_of(module, options) for module in (generator, critics)
        )

    def train_critics(self, step: Step, batch: Batch, drawn: int | None) -> dict[str, Tensor]:
        """One step of the critics. The generator's weights do not change."""
        with torch.no_grad():
            made = self._made(batch, critic_inputs)
        seen = {size: one for size, one in made.items() if size in self.critics.sizes}
        terms = {size: critic_terms(one, self.options.objective, self.critics) for size, one in seen.items()}
        losses = critic_loss(terms, step_weights(self.options, drawn, self.critics.sizes), self.options)
        step.optimise(losses["loss"], self.critic_optimiser)
        if self.options.objective == "wgan":
            clip_weights(self.critics, self.options.clip)
        return losses

    def train_generator(self, step: Step, batch: Batch, drawn: int | None) -> dict[str, Tensor]:
        """One step of the generator. The critics' weights do not change."""
        made = self._made(batch, exchange)
        with frozen(self.critics):
            terms = {
                size: generator_terms(one, self.options.objective, self.critics if size in self.critics.sizes else None)
                for size, one in made.items()
            }
        decay = mean_squares(self.generator)
        losses = generator_loss(terms, step_weights(self.options, drawn), decay, self.options)
        step.optimise(losses["loss"], self.generator_optimiser)
        return losses

    def _made(self, batch: Batch, make: Callable[[Generator, Tensor, Tensor], Mapping[int, Made]]) -> dict[int, Made]:
        with self.autocast():
            return {
                size: made
                for given, images in batch.with_attribute.items()
                for size, made in make(self.generator, images, batch.without_attribute[given]).items()
            }


def optimiser_of(module: torch.nn.Module, options: Options) -> torch.optim.Optimizer:
    """RMSProp with decay 0.8 (wgan; Arjovsky et al. 2017 use no momentum), or Adam (r1)."""
    if options.objective == "wgan":
        return torch.optim.RMSprop(module.parameters(), lr=options.rate, alpha=RMS_DECAY)
    return torch.optim.Adam(module.parameters(), lr=options.rate, betas=ADAM_BETAS)

"""Trains the VQVAE alone, on images with and without the attribute, so that a generator can start from its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from roundhouse.training import Run
from studies.genegan.batches import Batches
from studies.genegan.images import Images
from studies.genegan.options import Options
from studies.genegan.vqvae import VQVAE, vqvae_terms

WEIGHTS = "vqvae"
"""The entry of best.pth."""


def train_vqvae(run: Run, options: Options, images: Images) -> None:
    """Train it; the last weights are the result."""
    model = run.prepare(VQVAE(options).to(run.device))
    model.codebook.run = run
    optimiser = torch.optim.Adam(model.parameters(), lr=options.rate)
    run.track(vqvae=model, optimiser=optimiser)
    run.best(None, weights={WEIGHTS: model})
    sizes = options.input_sizes
    batches = Batches(run, options, images, lambda step: [sizes])
    for step in run.steps(options.iterations, save_every=options.save_every):
        model.train()
        batch = batches.next(step)
        terms: list[dict[str, Tensor]] = []
        for size in sizes:
            with run.autocast():
                terms.append(vqvae_terms(model, torch.cat([batch.with_attribute[size], batch.without_attribute[size]])))
        means = {name: torch.stack([one[name] for one in terms]).mean() for name in terms[0]}
        step.optimise(means["loss"], optimiser)
        step.average(**{f"vqvae_{name}": value for name, value in means.items()})
        if step.every(options.log_every) or step.index + 1 == options.iterations:
            run.record()
    run.finish()

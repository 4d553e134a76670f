"""The task `training`: a surrogate learns the change of the depth over one lead, by its L1 loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from roundhouse.training import Run, plan_batch
from studies.flood.measures import summarise
from studies.flood.options import Options
from studies.flood.predictions import Predicted, predict, relative_metrics, shown
from studies.flood.samples import Batch
from studies.flood.surrogates import DESCRIPTION, NETWORK, description, new_surrogate
from studies.flood.tasks.inputs import Inputs, samples_of


def fit(run: Run, options: Options, inputs: Inputs) -> None:
    """Train the surrogate of the config on the samples of one set."""
    sets = {name: one.to(run.device) for name, one in samples_of(options, inputs).splits.items()}
    train, validation = sets["train"], sets["validation"]
    network = new_surrogate(options).to(run.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.lr)
    plateau = ReduceLROnPlateau(optimiser, factor=options.plateau_factor, patience=options.plateau_patience)
    run.prepare(network)
    run.track(network=network, optimiser=optimiser, plateau=plateau)
    run.best("val_loss", mode="min", weights={NETWORK: network, DESCRIPTION: description(options)})

    def attempt(size: int) -> None:
        network.train()
        loss_of(run, network, train.batch(torch.arange(size) % len(train))).backward()  # type: ignore[no-untyped-call]

    largest = None if options.largest_batch is None else min(options.largest_batch, len(train))
    plan = plan_batch(run, attempt, [network], options.batch_size, options.accumulation, largest)
    for epoch in run.epochs(options.epochs):
        network.train()
        order = torch.randperm(len(train), generator=epoch.generator("order"))
        for step, chosen in epoch.batches(torch.split(order, plan.size)):
            own = chosen[step.shard(len(chosen))]
            optimiser.zero_grad(set_to_none=True)
            losses = []
            for rows, share in plan.parts_of(len(own)):
                losses.append(share * loss_of(run, network, train.batch(own[rows])))
                step.backward(losses[-1])
            loss = torch.stack(losses).detach().sum()
            step.watch(loss)
            step.update(optimiser)
            step.average(loss=loss)
        network.eval()
        found = predict(network, validation, run.autocast, run.pausable)
        rae = summarise(found.change, found.true).median
        run.record(val_loss=found.loss, val_rae=rae, learning_rate=optimiser.param_groups[0]["lr"], **plan.metrics)
        if options.schedule == "plateau":
            plateau.step(found.loss)

    run.load_best()
    network.eval()
    predicted = {name: predict(network, one, run.autocast, run.pausable) for name, one in sets.items()}
    parameters = sum(one.numel() for one in network.parameters())
    arrays = {f"{name}_rae": one.errors() for name, one in predicted.items()}
    metrics = {name: value for split, one in predicted.items() for name, value in split_metrics(split, one).items()}
    maps = shown(predicted["test"], sets["test"])
    run.finish({**arrays, **maps}, {**metrics, **plan.metrics, "network_parameters": parameters})


def loss_of(run: Run, network: nn.Module, batch: Batch) -> Tensor:
    """The mean L1 loss of the samples of a batch."""
    with run.autocast():
        change = network(batch.terrain, batch.depth, batch.boundary)
    return F.l1_loss(change.float(), batch.target)


def split_metrics(split: str, predicted: Predicted) -> dict[str, float]:
    """Final metrics of a split: losses of the surrogate and of persistence, and relative errors."""
    dummy = {"train": "dummy_train_loss", "validation": "dummy_val_loss", "test": "dummy_loss"}[split]
    return {f"{split}_loss": predicted.loss, dummy: predicted.dummy_loss, **relative_metrics(predicted, split)}

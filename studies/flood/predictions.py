"""What a surrogate predicts for the samples of a set, over one lead or several, and the metrics of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roundhouse.training import StudyError
from studies.flood.measures import (
    THRESHOLDS,
    changes,
    depth_after,
    depth_errors,
    relative_errors,
    root_mean_square_error,
    summarise,
)
from studies.flood.options import PATCH
from studies.flood.samples import RING, Batch, Samples, on_ring
from studies.flood.terrain import coarsen

BATCH = 128  # samples at a time: 53 MB of terrain
PLACES = (0.0, 0.5, 1.0)  # of the samples that are shown, by relative error: best, median, worst

Autocast = Callable[[], AbstractContextManager[None]]
Items = Callable[[Iterable[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Changes of the depth over a lead, in m, each (N, 32, 32) on the CPU, and the depth before."""

    depth: Tensor
    true: Tensor
    change: Tensor

    @property
    def loss(self) -> float:
        """L1, m."""
        return float((self.change.double() - self.true.double()).abs().mean())

    @property
    def dummy_loss(self) -> float:
        """L1 of persistence, m."""
        return float(self.true.double().abs().mean())

    def errors(self) -> Tensor:
        """Relative absolute error of each sample (N,); NaN if nothing changes in it, as it then is in no summary."""
        return torch.where(changes(self.true), relative_errors(self.change, self.true), torch.nan)


@torch.no_grad()
def predict(network: nn.Module, samples: Samples, autocast: Autocast, items: Items = iter) -> Predicted:
    """The upright samples of a set. `items` goes through the batches, as `run.pausable` does."""
    parts = []
    for indices in items(torch.split(samples.upright(), BATCH)):
        batch = samples.batch(indices)
        with autocast():
            change = network(batch.terrain, batch.depth, batch.boundary)
        parts.append([one[:, 0].float().cpu() for one in (batch.depth, batch.target, change)])
    return Predicted(*(torch.cat(one) for one in zip(*parts, strict=True)))


def from_ring(batch: Batch) -> Tensor:
    """The change (B, 1, 32, 32) that follows from the ring alone, without learning.

    It is given on the ring. Inside, it is the mean of two linear interpolations between the inner cells of the ring:
    one from left to right, and one from top to bottom.
    """
    change = batch.boundary - batch.depth  # inside, it is not known
    share = torch.linspace(0, 1, PATCH - 2 * RING + 2).to(change)[1:-1]

    def across(known: Tensor) -> Tensor:
        """(..., 32, 32) -> (..., 28, 28)."""
        first, last = known[..., RING:-RING, RING - 1 : RING], known[..., RING:-RING, -RING : 1 - RING]
        return first + share * (last - first)

    change[..., RING:-RING, RING:-RING] = (across(change) + across(change.mT).mT) / 2
    return change


def relative_metrics(predicted: Predicted, name: str) -> dict[str, float]:
    """Median, quartiles and share below 1 of the relative error, and the number of samples that are left out."""
    found = summarise(predicted.change, predicted.true)
    return {
        f"{name}_rae": found.median,
        f"{name}_rae_lower": found.lower,
        f"{name}_rae_upper": found.upper,
        f"{name}_rae_below": found.below,
        f"{name}_rae_dropped": float(found.dropped),
    }


def depth_metrics(predicted: Predicted, spacing: float) -> dict[str, float]:
    """Errors of the depth after the lead, of the test set; those that are not defined on it are left out."""
    true = predicted.depth + predicted.true
    errors = depth_errors(depth_after(predicted.depth, predicted.change), true, spacing)
    found = {
        "test_loss": predicted.loss,
        "dummy_loss": predicted.dummy_loss,
        "test_rmse": errors.rmse,
        **{f"test_csi_{100 * one:.0f}cm": value for one, value in zip(THRESHOLDS, errors.csi, strict=True)},
        "test_mass_error": errors.mass,
        "test_absolute_mass_error": errors.absolute_mass,
        "test_front_error": errors.front,
        "test_front_states": errors.front_states,
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def shown(predicted: Predicted, samples: Samples) -> dict[str, Tensor]:
    """The best, the median and the worst sample: terrain, depth, truth and prediction (3, 32, 32), in m."""
    errors = predicted.errors()
    order = errors.argsort()[: int(errors.isfinite().sum())]
    chosen = order[[round(place * (len(order) - 1)) for place in PLACES]]
    terrain = samples.batch(samples.upright()[chosen]).terrain[:, 0].cpu()
    return {
        "terrain": coarsen(terrain),
        "depth": predicted.depth[chosen],
        "truth": predicted.true[chosen],
        "prediction": predicted.change[chosen],
    }


@torch.no_grad()
def rollout(network: nn.Module, samples: Samples, leads: int, autocast: Autocast) -> dict[str, float]:
    """Errors after 1, 2, ... leads, when each prediction starts from the one before; the ring is the true one.

    Of the samples with so many leads. The relative error is that of the change since the start, so that of persistence
    is 1 at each lead.
    """
    indices = samples.upright()
    indices = indices[samples.places[indices, 1] + leads * samples.lead < samples.depths.shape[1]]
    if not len(indices):
        raise StudyError(
            f"no sample has {leads} leads after its input: lower config key 'leads', or simulate for longer"
        )
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(leads)]
    for some in torch.split(indices, BATCH):
        start, terrain = samples.depth_at(some, 0), samples.batch(some).terrain
        depth = start
        for lead in range(leads):
            true = samples.depth_at(some, lead + 1)
            with autocast():
                change = network(terrain, depth, on_ring(true))
            depth = depth_after(depth, change.float())
            parts[lead].append(((depth - start)[:, 0].cpu(), (true - start)[:, 0].cpu()))
    found = {}
    for lead, pairs in enumerate(parts, 1):
        change, true = (torch.cat(one) for one in zip(*pairs, strict=True))
        found[f"rollout{lead}_rae"] = summarise(change, true).median
        found[f"rollout{lead}_rmse"] = root_mean_square_error(change, true)
    return found

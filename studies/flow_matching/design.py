"""The design of a run: what a technique may change, with the values of the base."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from studies.flow_matching.blocks import Norm
from studies.flow_matching.fields import draw_patches, draw_pixels
from studies.flow_matching.options import Options
from studies.flow_matching.paths import LinearPath, Path, uniform_times

if TYPE_CHECKING:
    from roundhouse.training import Run
    from studies.flow_matching.flow import FlowModel, Moment
    from studies.flow_matching.sources import FieldSource, Source

BASE_FREQUENCIES = 16


class Estimate:
    """What the network is given about x1 besides z_t: in the base nothing."""

    channels = 0

    def in_training(self, first_pass: Callable[[Tensor], Tensor], like: Tensor, draw: torch.Generator) -> Tensor | None:
        """The further channel (B, Q) in a training step. `first_pass`: a channel -> the estimate of x1 from it."""
        return None

    def at_start(self, like: Tensor) -> Tensor | None:
        """The channel at the start of sampling; `like` is (B, Q)."""
        return None

    def next(self, data: Tensor) -> Tensor | None:
        """The channel after a sampling step that estimated x1 as `data`."""
        return None


class Term(ABC):
    """A loss beside the flow loss, and what it keeps from step to step."""

    name: str
    weight: float

    @abstractmethod
    def loss(self, moment: Moment) -> Tensor:
        """A scalar."""

    def tracked(self) -> dict[str, nn.Module]:
        """What checkpoints must hold, by name."""
        return {}

    def after_step(self) -> None:  # noqa: B027  # optional: most losses keep nothing
        """Called after each step of the optimiser."""


@dataclass(frozen=True)
class Phase:
    """A loop of training: its name, its epochs, and what it trains on."""

    name: str
    epochs: int
    source: Callable[[Run, FlowModel, FieldSource], Source]
    """(run, model as it was trained so far, training fields) -> what the phase trains on."""


@dataclass(frozen=True)
class Design:
    """Functions of a technique replace those of the base, or are added to a tuple."""

    # tokens
    frequencies: Callable[[], Tensor]  # -> (2, F), in cycles a unit of the coordinates
    queries: Callable[[int, torch.Generator], tuple[Tensor, int | None]]  # B -> asked pixels (B, Q), side of the square
    estimate: Estimate
    # block
    norm: type[Norm]
    drop: Callable[[int, int], nn.Module]  # (layer, layers) -> acts on what a branch adds
    # loss
    path: Path
    times: Callable[[int, torch.Generator], Tensor]  # B -> t (B,)
    terms: tuple[Callable[[FlowModel], Term], ...]
    # schedule and optimiser
    rate: Callable[[int, int], float]  # (step, steps of the phase) -> factor of the learning rate
    clip_norm: float | None
    phases: tuple[Phase, ...]
    # weights
    decay: float | None  # of the moving average with whose weights the model is evaluated; None: its own weights


def base_design(options: Options) -> Design:
    """The base: version 2, with the controls of `options`."""
    asked = patch_queries if options.query_pattern == "patch" else random_queries
    return Design(
        frequencies=base_frequencies,
        queries=lambda count, draw: asked(options, count, draw),
        estimate=Estimate(),
        norm=Norm,
        drop=lambda layer, layers: nn.Identity(),
        path=LinearPath(),
        times=uniform_times,
        terms=(),
        rate=warmup_cosine(options.warmup_share) if options.schedule == "warmup_cosine" else constant_rate,
        clip_norm=None,
        phases=(Phase("train", options.epochs, lambda run, model, fields: fields),),
        decay=None,
    )


def base_frequencies() -> Tensor:
    """16 frequencies from N(0, 1) (Tancik et al. 2020)."""
    return torch.randn(2, BASE_FREQUENCIES)


def random_queries(options: Options, count: int, draw: torch.Generator) -> tuple[Tensor, None]:
    return draw_pixels(count, options.size**2, options.queries, draw), None


def patch_queries(options: Options, count: int, draw: torch.Generator) -> tuple[Tensor, int]:
    """A square at a random place in each field, of the largest side that has no more than `queries` pixels."""
    side = math.isqrt(options.queries)
    return draw_patches(count, options.size, side, draw), side


def constant_rate(step: int, steps: int) -> float:
    return 1.0


def warmup_cosine(share: float) -> Callable[[int, int], float]:
    """The rate rises linearly over `share` of all steps, then falls as half a period of a cosine; both by the step."""

    def rate(step: int, steps: int) -> float:
        warmup = max(1, round(share * steps))
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    return rate

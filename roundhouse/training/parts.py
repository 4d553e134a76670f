"""Batches as large as the GPU's memory allows: one batch in several parts, or a larger batch than the config asks for.

What fits is found by attempts, before training. On a CPU nothing is tried: a lack of memory ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import nn

from roundhouse.training.memory import fewest_parts, free_cached_memory, memory_ran_out
from roundhouse.training.passes import buffers_kept, clear_gradients
from roundhouse.training.reproducibility import global_states, restore_globals
from roundhouse.training.run import Run
from roundhouse.training.tracking import Value

AUTO = "auto"
PROBED = ("cuda",)  # types of devices on which a lack of memory is an error, and not the end of the process
MARGIN = 0.1  # of the device's memory: left free for optimisers, evaluation and fragmentation

Attempt = Callable[[int], None]
"""Forward and backward pass of so many samples, as in a step of the training."""


@dataclass(frozen=True)
class BatchPlan:
    """How this run computes its batches: `size` samples each, in `parts` parts of at most `part` samples."""

    size: int
    parts: int
    part: int
    metrics: dict[str, float] = field(default_factory=dict)
    """To be recorded: `effective_batch` and `accumulation`, as far as the config has asked for something."""

    def parts_of(self, count: int) -> Iterator[tuple[slice, float]]:
        """The parts of a batch of `count` samples; see `in_parts`."""
        return in_parts(count, self.part)


def in_parts(count: int, size: int) -> Iterator[tuple[slice, float]]:
    """Slices of at most `size` samples, with their share of all `count`: the weight of their mean loss."""
    for first in range(0, count, size):
        last = min(first + size, count)
        yield slice(first, last), (last - first) / count


def plan_batch(
    run: Run,
    attempt: Attempt,
    modules: Sequence[nn.Module],
    batch_size: int,
    accumulation: int | str = 1,
    largest_batch: int | None = None,
) -> BatchPlan:
    """How to compute batches; call it once, before the first loop. `modules` are those that `attempt` trains.

    `accumulation` is the number of parts, or `auto`. With `largest_batch`, the batch may be larger than `batch_size`.
    An attempt changes neither gradients, nor buffers, nor the global generators.
    """
    size = fill_memory(run, attempt, modules, batch_size, accumulation, largest_batch)
    parts = number_of_parts(run, attempt, modules, size, accumulation)
    part = -(-samples_here(run, size) // parts)
    parts = -(-samples_here(run, size) // part)  # 6 samples in 4 parts are 3 parts of 2
    metrics: dict[str, float] = {}
    if largest_batch is not None:
        metrics["effective_batch"] = size
    if accumulation != 1 or parts > 1:
        metrics["accumulation"] = parts
    return BatchPlan(size, parts, part, metrics)


def fill_memory(
    run: Run,
    attempt: Attempt,
    modules: Sequence[nn.Module],
    batch_size: int,
    accumulation: int | str,
    largest_batch: int | None,
) -> int:
    """The size of a batch: doubled as often as it fits into memory and is at most `largest_batch`.

    It is part of the checkpoint, so a resume keeps it, whatever fits there. It is that of the process with the least
    memory. None, or a device without attempts: `batch_size`.
    """
    if largest_batch is None:
        return batch_size
    kept = Value()
    run.track(effective_batch=kept)
    sizes = doubled(batch_size, largest_batch)
    if not run.resumed or kept.value not in sizes:  # that of a run which this one starts from is not its own
        parts = accumulation if isinstance(accumulation, int) else 1
        tried = _reserving(run, modules, attempt)
        with nothing_changed(modules):
            found = last_fitting(
                sizes if can_probe(run.device) else sizes[:1],
                lambda size: fits(tried, -(-samples_here(run, size) // parts)),
            )
        kept.value = agree(run, found, "min")
    return int(kept.value)


def number_of_parts(
    run: Run, attempt: Attempt, modules: Sequence[nn.Module], batch_size: int, accumulation: int | str
) -> int:
    """The number of parts of a batch: as configured, or with `auto` the first of 1, 2, 4, ... that fits into memory.

    With `auto` it is part of the checkpoint. A resume uses it, or a larger one if this no longer fits, and is then
    approximate. All processes have the same number: they wait for each other in each step. If memory has run out
    nevertheless, in an earlier attempt, it is multiplied by `run.accumulate`.
    """
    here = samples_here(run, batch_size)
    if isinstance(accumulation, int):
        return min(here, accumulation * run.accumulate)
    kept = _Most()
    run.track(accumulation=kept)
    before = kept.value if run.resumed else None
    if can_probe(run.device):
        tried = _reserving(run, modules, attempt) if before is None else attempt
        with nothing_changed(modules):
            found = fewest_parts(
                sorted({*doubled(before or 1, here), max(before or 1, here)}),
                lambda parts: tried(-(-here // min(here, parts * run.accumulate))),
            )
        kept.value = agree(run, found, "max")
        if before is not None and kept.value > before:
            run.approximate(f"a batch is computed in {kept.value} parts instead of {before}: this GPU has less memory")
    elif before is None:
        kept.value = 1
    return min(here, int(kept.value) * run.accumulate)


class _Most(Value):
    """A number that is restored when it is tracked, and again where training continues: it never decreases."""

    def load_state_dict(self, state: int | None) -> None:
        self.value = max((one for one in (self.value, state) if one is not None), default=None)


# ------------------------------------------------------------------------------------------------------ the search


def doubled(first: int, most: int) -> list[int]:
    """`first`, and what doubling it gives, up to `most`."""
    found = [first]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found


def last_fitting(sizes: Sequence[int], fit: Callable[[int], bool]) -> int:
    """The last of `sizes` (ascending) before one that does not fit; the first, if none does or there is only one."""
    if len(sizes) == 1:
        return sizes[0]
    fitting = list(takewhile(fit, sizes))
    return fitting[-1] if fitting else sizes[0]


def fits(attempt: Attempt, size: int) -> bool:
    """Whether memory suffices for an attempt. Other errors are raised."""
    try:
        attempt(size)
    except RuntimeError as error:
        if not memory_ran_out(error, torch.device("cuda")):
            raise
        enough = False
    else:
        enough = True
    free_cached_memory()  # not above: the traceback of the error refers to the tensors
    return enough


def can_probe(device: torch.device) -> bool:
    """Whether attempts can find out what fits into the memory of a device."""
    return device.type in PROBED


def _reserving(run: Run, modules: Sequence[nn.Module], attempt: Attempt) -> Attempt:
    """The attempt while the margin and the state of an optimiser, two values for each weight, are occupied."""

    def reserving(size: int) -> None:
        held = torch.empty(_reserve(run.device, modules), dtype=torch.uint8, device=run.device)
        attempt(size)
        del held

    return reserving


def _reserve(device: torch.device, modules: Sequence[nn.Module]) -> int:
    if device.type != "cuda":
        return 0
    weights = sum(one.numel() * one.element_size() for module in modules for one in module.parameters())
    _, total = torch.cuda.mem_get_info(device)
    return int(MARGIN * total) + 2 * weights


@contextmanager
def nothing_changed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Clear the gradients of `modules` afterwards, and restore their buffers and the global generators."""
    states = global_states()
    with buffers_kept(modules):
        try:
            yield
        finally:
            clear_gradients(modules)
            restore_globals(states)


# ------------------------------------------------------------------------------------------- several processes


def agree(run: Run, number: int, how: str) -> int:
    """The smallest or largest (`min`, `max`) of the numbers that the processes have found. All must call it."""
    return int(run.reduce(torch.tensor(number, device=run.device), how))


def samples_here(run: Run, batch_size: int) -> int:
    """The most samples of a batch that one process of the run computes."""
    return -(-batch_size // run.processes)

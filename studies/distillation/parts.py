"""The parts of a batch: as configured, or the fewest that fit into the device's memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from roundhouse.training import Run, Step, Value, equal_parts, fewest_parts
from roundhouse.training.parts import AUTO, agree, can_probe, samples_here
from roundhouse.training.passes import Compute, Passes, buffers_kept, clear_gradients
from studies.distillation.filling import effective_batch
from studies.distillation.objective import Objective, check_memory
from studies.distillation.options import Options


class Accumulation:
    """Computes each batch in a number of parts, which is determined in the first batch, and kept in `parts`.

    With `accumulation: auto` a resume tries it again, and increases it if it does not fit there.
    """

    def __init__(self, run: Run, options: Options, objective: Objective, parts: Value) -> None:
        self._run = run
        self._options = options
        self._objective = objective
        self._parts = parts
        self._passes: Passes | None = None
        self._found = False  # in this process

    @property
    def number(self) -> int:
        """The number of parts: more than configured or determined if memory ran out nevertheless."""
        chosen = self._options.accumulation
        parts = self._parts.value or (chosen if isinstance(chosen, int) else 1)
        return equal_parts(samples_here(self._run, self._options.batch_size), parts * self._run.accumulate)

    def make_passes(self, compute: Compute, parts: int | None = None) -> Passes:
        """The passes for one loop: a graph on a GPU unless the config says otherwise."""
        kind = self._options.step
        if kind == "auto":
            kind = "graph" if self._run.device.type == "cuda" else "eager"
        return Passes(compute, self._objective.modules, kind, self.number if parts is None else parts)

    @property
    def passes(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """The passes of stage `train`."""
        if self._passes is None:
            self._passes = self.make_passes(self._objective.training)
        return self._passes

    def find(self, step: Step, images: Tensor, labels: Tensor, strength: Tensor) -> None:
        """Determine the number of parts, in the first batch that this process computes."""
        if self._found:
            return
        self._found = True
        before = self._parts.value
        if before is not None and not (self._options.accumulation == AUTO and can_probe(self._run.device)):
            return
        found = self._fewest(step, images, labels, strength, at_least=before or 1)
        self._parts.value = agree(self._run, found, "max")
        if self._parts.value != found:
            self._passes = None
        if before is not None and self._parts.value > before:
            self._run.approximate(
                f"a batch is computed in {self._parts.value} parts instead of {before}, which do not fit into memory"
            )

    def measure(self, images: Tensor, labels: Tensor, strength: Tensor) -> dict[str, float]:
        """In the first batch of an epoch: batch and parts, and the norms of the gradients of both terms."""
        objective, parts = self._objective, self.number
        sizes = {"accumulation": parts, **effective_batch(self._options)}
        if objective.method is None:
            return sizes
        size = len(images) // parts
        norms = objective.gradient_norms(images[:size], labels[:size], strength)
        return {**sizes, "distance_weight": objective.method.weight, **norms}

    def _fewest(self, step: Step, images: Tensor, labels: Tensor, strength: Tensor, at_least: int) -> int:
        """The configured number, or the fewest parts with which everything fits that an epoch computes."""
        chosen, count = self._options.accumulation, len(images)
        sizes = [chosen] if isinstance(chosen, int) else [n for n in range(at_least, count + 1) if count % n == 0]
        objective = self._objective

        def attempt(parts: int) -> None:
            if objective.method is not None:
                check_memory(objective.method, count // parts, self._run.device)
            if can_probe(self._run.device) and chosen == AUTO:
                self._passes = None  # with the memory pool of its graph
                clear_gradients(objective.modules)
                passes = self.make_passes(objective.training, equal_parts(count, parts * self._run.accumulate))
                with buffers_kept(objective.modules):
                    passes(step, (images, labels), strength)
                    if objective.method is not None:
                        size = count // parts
                        objective.gradient_norms(images[:size], labels[:size], strength)
                self._passes = passes  # a captured graph is the one that is used

        return fewest_parts(sizes, attempt)

"""The parts of a batch: as configured, or the fewest that fit into the device's memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from roundhouse.training import Run, Step, Value, equal_parts, fewest_parts
from roundhouse.training.passes import Compute, Passes, buffers_kept, clear_gradients
from studies.distillation.objective import Objective, check_memory
from studies.distillation.options import Options

PROBED = ("cuda",)  # types of devices on which a lack of memory is an error, and not the end of the process


class Accumulation:
    """Computes each batch in a number of parts, which is determined once, in the first batch, and kept in `parts`."""

    def __init__(self, run: Run, options: Options, objective: Objective, parts: Value) -> None:
        self._run = run
        self._options = options
        self._objective = objective
        self._parts = parts
        self._passes: Passes | None = None

    @property
    def number(self) -> int:
        """The number of parts: more than configured or determined if memory ran out nevertheless."""
        chosen = self._options.accumulation
        parts = self._parts.value or (chosen if isinstance(chosen, int) else 1)
        return equal_parts(self._options.batch_size, parts * self._run.accumulate)

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

    def measure(self, step: Step, images: Tensor, labels: Tensor, strength: Tensor) -> dict[str, float]:
        """In the first batch of an epoch: the number of parts, and the norms of the gradients of both terms."""
        if self._parts.value is None:
            self._parts.value = self._fewest(step, images, labels, strength)
        objective, parts = self._objective, self.number
        if objective.method is None:
            return {"accumulation": parts}
        size = len(images) // parts
        norms = objective.gradient_norms(images[:size], labels[:size], strength)
        return {"accumulation": parts, "distance_weight": objective.method.weight, **norms}

    def _fewest(self, step: Step, images: Tensor, labels: Tensor, strength: Tensor) -> int:
        """The configured number, or the fewest parts with which everything fits that an epoch computes."""
        chosen, count = self._options.accumulation, len(images)
        sizes = [chosen] if isinstance(chosen, int) else [n for n in range(1, count + 1) if count % n == 0]
        objective = self._objective

        def attempt(parts: int) -> None:
            if objective.method is not None:
                check_memory(objective.method, count // parts, self._run.device)
            if self._run.device.type in PROBED and chosen == "auto":
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

"""The forward and backward pass of one batch: eager, as a CUDA graph, or compiled; in parts where memory is short.

Networks for small images launch a thousand kernels a step, each of which takes less time than its launch. A CUDA graph
launches them all at once, with the same kernels on the same numbers, so it changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from roundhouse.training.task import Context

Compute = Callable[..., tuple[Tensor, Tensor]]
"""From a batch's tensors to (loss, metrics): a scalar that has gradients, and a vector that has none."""

_WARM_UP = 3  # passes before a capture: libraries allocate their workspaces in the first


class Step:
    """Computes gradients for `modules`; the optimiser's own step comes after it.

    `kind` is eager, graph or compile. A graph replays what the first batch did: all batches have its shapes, `compute`
    decides nothing by values, and `Parameter.grad` is not to be cleared in between.
    """

    def __init__(self, compute: Compute, modules: Sequence[nn.Module], kind: str, parts: int = 1) -> None:
        self._compute: Compute = torch.compile(compute) if kind == "compile" else compute
        self._modules = list(modules)
        self._parts = parts
        self._graph: Graph | None = None
        self._graphed = kind == "graph"

    def __call__(self, context: Context, batch: Sequence[Tensor], *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss; returns (loss, metrics), means over the parts, on the device.

        The tensors of `batch` are cut into the parts along their first dimension; `constants` go to each as they are.
        """
        if not self._graphed:
            clear_gradients(self._modules)
            return self._passes(context, batch, constants)
        if self._graph is None:
            self._graph = Graph(lambda *given: self._passes(context, given[: len(batch)], given[len(batch) :]),
                                (*batch, *constants), self._modules)  # fmt: skip
        return self._graph(*batch, *constants)

    def _passes(self, context: Context, batch: Sequence[Tensor], constants: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        told = []
        for part in zip(*(tensor.chunk(self._parts) for tensor in batch), strict=True):
            loss, metrics = self._compute(*part, *constants)
            context.backward(loss / self._parts)
            told.append((loss.detach(), metrics.detach()))
        if len(told) == 1:
            return told[0]
        losses, metrics_of_parts = zip(*told, strict=True)
        return torch.stack(losses).mean(), torch.stack(metrics_of_parts).mean(0)


class Graph:
    """A function that was captured once, on `inputs`, and is replayed on others of the same shapes and types.

    What it returns is overwritten by the next call. Buffers of `modules` (running statistics of batch normalisation)
    are put back to what they were before the warm-up, so a replay is to the last bit what the function itself does.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        inputs: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ) -> None:
        self._inputs = [one.clone() for one in inputs]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), buffers_kept(modules):
            for _ in range(_WARM_UP):
                clear_gradients(modules)
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        # Gradients that are made during the capture lie in the graph's own memory, and each replay writes them anew.
        clear_gradients(modules)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins the workers' batches may call CUDA meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._outputs


def clear_gradients(modules: Sequence[nn.Module]) -> None:
    """Leave no gradient at any parameter."""
    for module in modules:
        module.zero_grad(set_to_none=True)


@contextmanager
def buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Whatever passes happen inside, running statistics are afterwards what they were."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

"""The forward and backward pass of one batch: eager, as a CUDA graph, or compiled; in parts if memory is short.

Networks for small images launch a thousand kernels per step, each of which takes less time than its launch. A CUDA
graph launches them all at once: the same kernels on the same numbers, so the results are identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError
from roundhouse.training.loops import Step

Compute = Callable[..., tuple[Tensor, Tensor]]
"""From a batch's tensors to (loss, metrics): a scalar with gradients, and a vector without."""

_WARM_UP = 3  # passes before a capture: libraries allocate their workspaces in the first one


class Passes:
    """Computes the gradients of `modules`; call `step.update` with the optimisers afterwards.

    `kind` is eager, graph or compile. A graph replays the kernels of the first batch, so all batches must have the same
    shapes, `compute` must not branch on values, and `Parameter.grad` must not be cleared between calls.
    """

    def __init__(self, compute: Compute, modules: Sequence[nn.Module], kind: str, parts: int = 1) -> None:
        self._compute: Compute = torch.compile(compute) if kind == "compile" else compute
        self._modules = list(modules)
        self._parts = parts
        self._graph: Graph | None = None
        self._graphed = kind == "graph"

    def __call__(self, step: Step, batch: Sequence[Tensor], *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the mean loss; returns (loss, metrics), means over the parts, on the device.

        The tensors of `batch` are split into `parts` along their first dimension; each part gets all `constants`.
        """
        step.settle()
        if not self._graphed:
            clear_gradients(self._modules)
            return self._all_parts(step, batch, constants)
        if self._graph is None:
            self._graph = Graph(lambda *inputs: self._all_parts(step, inputs[: len(batch)], inputs[len(batch) :]),
                                (*batch, *constants), self._modules)  # fmt: skip
        return self._graph(*batch, *constants)

    def _all_parts(self, step: Step, batch: Sequence[Tensor], constants: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        results = []
        for part in zip(*(tensor.chunk(self._parts) for tensor in batch), strict=True):
            loss, metrics = self._compute(*part, *constants)
            step.scaled_backward(loss / self._parts)
            results.append((loss.detach(), metrics.detach()))
        if len(results) == 1:
            return results[0]
        losses, metrics_of_parts = zip(*results, strict=True)
        return torch.stack(losses).mean(), torch.stack(metrics_of_parts).mean(0)


class Graph:
    """A function that is captured once, on `inputs`, and replayed on other inputs of the same shapes and types.

    The next call overwrites the returned tensors. Buffers of `modules` (running statistics of batch normalisation) are
    restored after the warm-up, so a replay gives bit-identical results to calling the function. RoundhouseError: one of
    the modules has active dropout, whose random numbers would be those of the capture; or, at the first replay, the
    capture has recorded no computation of the loss.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        inputs: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ) -> None:
        refuse_dropout(modules)
        self._inputs = [tensor.clone() for tensor in inputs]
        self._verified = False
        # Streams belong to a device: on any other, the capture would record nothing.
        with torch.cuda.device(inputs[0].device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), buffers_kept(modules):
                for _ in range(_WARM_UP):
                    clear_gradients(modules)
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            # Gradients that are created during the capture are in the graph's memory, and each replay overwrites them.
            clear_gradients(modules)
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: the thread that pins the workers' batches may call CUDA at the same time.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor)
        if self._verified:
            self._graph.replay()
        else:
            self._replay_verified()
        return self._outputs

    def _replay_verified(self) -> None:
        """The first replay. RoundhouseError: it has not computed the loss."""
        loss = self._outputs[0]
        impossible = torch.full_like(loss, -torch.finfo(loss.dtype).max)
        loss.copy_(impossible)
        self._graph.replay()
        if torch.equal(loss, impossible):
            raise RoundhouseError(
                f"the CUDA graph is empty: the capture on {loss.device} has recorded no computation of the loss, so "
                "nothing would be trained. The loss must be computed on the device of its inputs, and on PyTorch's "
                "current stream: look for torch.cuda.set_device, torch.cuda.stream and threads, or use `step: eager`"
            )
        self._verified = True


def refuse_dropout(modules: Sequence[nn.Module]) -> None:
    """RoundhouseError: a module has active dropout."""
    for module in modules:
        for name, one in module.named_modules():
            if isinstance(one, nn.modules.dropout._DropoutNd) and one.training and one.p > 0:
                raise RoundhouseError(
                    f"a CUDA graph cannot repeat the random numbers of dropout ({type(module).__name__}.{name}): "
                    "use `step: eager`, or draw the mask with a generator of the step and pass it as an input"
                )


def clear_gradients(modules: Sequence[nn.Module]) -> None:
    """Set the gradients of all parameters to None."""
    for module in modules:
        module.zero_grad(set_to_none=True)


@contextmanager
def buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the buffers of `modules` (running statistics) afterwards, whatever passes run inside."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

"""CUDA graphs, emulated on the CPU: a capture records the operations, and a replay computes them again.

As on a GPU, a replay writes into the tensors of the capture and reads what is in its inputs then. Operations that the
capture does not see, because they run on another device's stream, are computed at once and are not in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Emulated:
    """What the emulation has seen: the devices of the streams, and the graphs with their operations."""

    current: int = 0  # the current device
    streams: list[int] = field(default_factory=list)
    captured_on: list[int] = field(default_factory=list)
    graphs: list[CapturedGraph] = field(default_factory=list)
    computes_on: int = 0  # the device whose tensors the CPU's stand for


class CapturedGraph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, results in self.operations:
                again = operation(*args, **kwargs)
                for mine, new in zip(_tensors(results), _tensors(again), strict=True):
                    if mine.data_ptr() != new.data_ptr():
                        mine.copy_(new)


class _Recording(TorchDispatchMode):
    """Records operations, and restores what they have changed: a capture computes nothing."""

    def __init__(self, graph: CapturedGraph) -> None:
        super().__init__()
        self._graph = graph
        self._made: set[int] = set()  # addresses of the tensors that exist only in the graph
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            if tensor.data_ptr() not in self._made | self._before.keys():
                self._before[tensor.data_ptr()] = tensor, tensor.clone()
        results = operation(*args, **(kwargs or {}))
        self._made |= {one.data_ptr() for one in _tensors(results)} - self._before.keys()
        self._graph.operations.append((operation, args, kwargs or {}, results))
        return results

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, torch.Tensor)]


class _Stream:
    def __init__(self, device: int) -> None:
        self.device = device

    def wait_stream(self, other: _Stream) -> None:
        assert self.device == other.device, "streams of two devices"


def emulate(monkeypatch: pytest.MonkeyPatch, computes_on: int = 0) -> Emulated:
    """Replace the parts of torch.cuda that a graph uses; tensors of the CPU stand for those on GPU `computes_on`."""
    seen = Emulated(computes_on=computes_on)

    def stream(*device: Any) -> _Stream:
        seen.streams.append(seen.current)
        return _Stream(seen.current)

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        before, seen.current = seen.current, computes_on
        yield
        seen.current = before

    def graph() -> CapturedGraph:
        seen.graphs.append(CapturedGraph())
        return seen.graphs[-1]

    @contextmanager
    def capture(
        graph: CapturedGraph, stream: _Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        on = 0 if stream is None else stream.device  # PyTorch's own stream stays on the device of the first capture
        seen.captured_on.append(on)
        with _Recording(graph) if on == computes_on else nullcontext():
            yield

    for name, stand_in in {
        "Stream": stream, "current_stream": lambda: _Stream(seen.current), "stream": lambda stream: nullcontext(),
        "device": device, "CUDAGraph": graph, "graph": capture,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return seen

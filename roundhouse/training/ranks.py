"""The processes of one run: all take the same steps, and process 0 decides for all.

Two ways connect them. Channels carry plain values, for decisions: process 0 sends and the others receive, or all send
and process 0 returns what it has received. PyTorch's process group carries tensors: gradients, weights, statistics.
With one process neither exists, and every function returns what it was given.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from roundhouse.errors import ConnectionLost, RoundhouseError
from roundhouse.options import choose

Value = TypeVar("Value")

REDUCTIONS = ("mean", "sum", "max", "min")
PATIENCE = 30  # minutes that a process waits for another one, without those in which it was suspended itself
_LOCAL = "127.0.0.1"
_LOST = ("onnection", "roken pipe", "remote process exited")  # in PyTorch's messages about a process that has ended
_TIMEOUT = timedelta(days=365)  # of tensors: a process that is gone is found sooner, and a suspended one may continue


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. `channels`: to the others, by number; elsewhere one, to process 0."""

    rank: int = 0
    count: int = 1
    channels: Sequence[Connection] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # on which the bits of a run depend

    @property
    def first(self) -> bool:
        """Whether this is process 0, which alone writes files."""
        return self.rank == 0

    def share(self, count: int) -> tuple[slice, float]:
        """The part of this process of `count` samples, and the weight of its mean in the mean over the processes.

        Parts differ by at most one sample. With fewer samples than processes, several have the same one.
        RoundhouseError: there is no sample.
        """
        if count < 1:
            raise RoundhouseError("a batch without samples cannot be divided among processes")
        first = self.rank * count // self.count
        if count >= self.count:
            end = (self.rank + 1) * count // self.count
            return slice(first, end), (end - first) * self.count / count
        same = sum(number * count // self.count == first for number in range(self.count))
        return slice(first, first + 1), self.count / (count * same)

    # ------------------------------------------------------------------------------------------- plain values

    def agree(self, what: str, value: Value) -> Value:
        """The value of process 0. RoundhouseError: another process is at another place."""
        if self.count == 1:
            return value
        if not self.first:
            received: Value = self._receive(self.channels[0], what)
            return received
        message = pickle.dumps((what, value))
        for channel in self.channels:
            _send(channel, message)
        return value

    def gather(self, what: str, value: Value) -> list[Value]:
        """The values of all processes, by number, in all of them. RoundhouseError: as for `agree`."""
        if self.count == 1:
            return [value]
        self.agree(what, None)  # if they are at different places, they find out instead of waiting for each other
        if self.first:
            return self.agree(what, [value, *(self._receive(channel, what) for channel in self.channels)])
        _send(self.channels[0], pickle.dumps((what, value)))
        return self.agree(what, [])

    def _receive(self, channel: Connection, what: str) -> Any:
        # Counted in waits and not by a clock, which goes on while a scheduler has suspended all processes.
        try:
            arrived = any(channel.poll(1.0) for _ in range(60 * PATIENCE))
            place, value = pickle.loads(channel.recv_bytes()) if arrived else (what, None)
        except (EOFError, OSError):
            raise ConnectionLost(f"process {self.rank} waits at {what!r} for another one, which has ended") from None
        if not arrived:
            raise RoundhouseError(
                f"process {self.rank} waits for the others at {what!r}, and none came within {PATIENCE} minutes: all "
                "processes of a run must call the same functions of `run` and `step`, in the same order"
            )
        if place != what:
            raise RoundhouseError(
                f"process {self.rank} is at {what!r}, and another one at {place!r}: all processes of a run must call "
                "the same functions of `run` and `step`, in the same order"
            )
        return value

    def means(self, what: str, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over the processes of each value."""
        if self.count == 1:
            return dict(values)
        rows = self.gather(what, dict(values))
        return {name: sum(row[name] for row in rows) / self.count for name in rows[0]}

    # ------------------------------------------------------------------------------------------- tensors

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        """A new tensor: the mean, sum, largest or smallest value over the processes, element by element."""
        choose("how", how, REDUCTIONS)
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        if self.count == 1:
            return result
        self.agree(f"the {how} of a tensor {tuple(result.shape)} of {result.dtype}", None)
        operation = {"max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}.get(how, dist.ReduceOp.SUM)
        with _connected():
            dist.all_reduce(result, op=operation)
        return result / self.count if how == "mean" else result

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have in process 0. RoundhouseError: their shapes differ."""
        if self.count == 1:
            return
        each = [tensor.detach() for tensor in tensors]
        shapes = self.gather("prepare", [tuple(tensor.shape) for tensor in each])
        if any(one != shapes[0] for one in shapes):
            raise RoundhouseError(
                "a module has other shapes in process 0 than in another one: what decides about its structure must be "
                "equal in all, for example with run.reduce"
            )
        for group in _by_type(each):
            flat = _flattened(group)
            with _connected():
                dist.broadcast(flat, src=0)
            _restore(flat, group)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor], weight: float) -> None:
        """Replace the gradients by their means over the processes, each weighted by the share of its samples.

        `weight`: the samples of this process, relative to the mean over the processes. A parameter that has a gradient
        in no process keeps none. RoundhouseError: a gradient is sparse.
        """
        if self.count == 1:
            return
        each = list(dict.fromkeys(parameters))
        self.agree(f"gradients of {len(each)} parameters with {sum(one.numel() for one in each)} numbers", None)
        if any(one.grad is not None and one.grad.is_sparse for one in each):
            raise RoundhouseError("sparse gradients cannot be averaged: use sparse=False, or `processes: 1`")
        for group in _by_type(each):
            missing = [one.grad is None for one in group]
            present = torch.ones(len(group), dtype=group[0].dtype, device=group[0].device)
            if any(missing):  # else the CPU need not wait for the device
                present.copy_(torch.tensor([not one for one in missing]))
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in group]
            flat = _flattened([*gradients, present])
            flat[: -len(group)] *= weight / self.count
            with _connected():
                dist.all_reduce(flat)
            _restore(flat, gradients)
            if any(missing):
                for one, gradient, found in zip(group, gradients, flat[-len(group) :].tolist(), strict=True):
                    if found:
                        one.grad = gradient


ALONE = Ranks()


def connect(rank: int, channels: Sequence[Connection], device: torch.device, links: Sequence[str] = ()) -> Ranks:
    """Join the process group of a run, in each of its processes: gloo on CPUs, NCCL on GPUs.

    `channels`: as in `Ranks`. `links`: how the GPUs are connected, as process 0 knows. The facts are those on which the
    order of summation depends.
    """
    if not channels:
        return ALONE
    ranks = Ranks(rank, 1 + len(channels), channels)
    count = ranks.agree("processes", ranks.count)
    ranks = Ranks(rank, count, channels)
    if sys.platform == "linux":  # all are on this host, whatever its name means to the network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _store(ranks)
    backend = "gloo" if device.type == "cpu" else "nccl"
    # A study may reduce a tensor on the CPU, too.
    backends = "gloo" if backend == "gloo" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backends, store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    facts: dict[str, Any] = {"processes": count, "backend": backend}
    if device.type == "cuda":
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        facts["models"] = ranks.gather("models", torch.cuda.get_device_name(device))
        facts["links"] = ranks.agree("links", list(links))
    return Ranks(rank, count, channels, facts)


def _store(ranks: Ranks) -> Any:
    """The key-value store with which the processes find each other; no other host can connect to it."""
    if not ranks.first:
        return dist.TCPStore(_LOCAL, ranks.agree("port", 0), ranks.count)  # type: ignore[attr-defined]
    listening = socket.create_server((_LOCAL, 0))
    port = ranks.agree("port", listening.getsockname()[1])
    return dist.TCPStore(  # type: ignore[attr-defined]
        _LOCAL, port, ranks.count, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def disconnect(ranks: Ranks) -> None:
    """Leave the process group, after everything is written: an error is no longer one of the run."""
    if ranks.count > 1:
        with suppress(RuntimeError):
            dist.destroy_process_group()


@contextmanager
def _connected() -> Iterator[None]:
    """ConnectionLost: PyTorch's process group reports an error, which is the end of another process."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST):
            raise  # such as memory that ran out
        raise ConnectionLost(f"the connection to another process of this run is lost ({error})") from error


def _send(channel: Connection, message: bytes) -> None:
    try:
        channel.send_bytes(message)
    except OSError:
        raise ConnectionLost("another process of this run has ended") from None


def fingerprint(state: Any) -> Any:
    """Plain values that are equal for bit-identical states, and differ for almost all others; quick on any device."""
    if isinstance(state, Tensor):
        return f"{state.dtype}{tuple(state.shape)}", _checksum(state)
    if isinstance(state, Mapping):
        return {key: fingerprint(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [fingerprint(value) for value in state]
    return repr(state)


def _checksum(tensor: Tensor) -> int:
    """The sum of all bytes, most of them as 32-bit numbers: whole numbers, so that their order does not matter."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 4:
        data = data.clone()  # 32-bit numbers must be aligned
    whole = len(data) // 4 * 4
    return int(data[:whole].view(torch.int32).sum(dtype=torch.int64) + data[whole:].sum(dtype=torch.int64))


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Groups of tensors with the same type of numbers and device, which one buffer can hold."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _restore(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy a result of `_flattened` back; it may be longer."""
    begin = 0
    for tensor in tensors:
        tensor.copy_(flat[begin : begin + tensor.numel()].view(tensor.shape))
        begin += tensor.numel()

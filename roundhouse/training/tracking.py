"""The tracked parts of a run: modules, optimisers, tensors and other values whose state a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from roundhouse.errors import RoundhouseError
from roundhouse.training.reproducibility import snapshot


class Value:
    """A plain value that training changes, to be tracked: `tries = Value(0)`, `run.track(tries=tries)`."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def state_dict(self) -> Any:
        return self.value

    def load_state_dict(self, state: Any) -> None:
        self.value = state


class Tracked:
    """Parts by name. Each is restored from `saved`, the state in a checkpoint, when it is tracked for the first time.

    `complete`: the checkpoint is one of this run, which tracks exactly the same parts at the same position.
    """

    def __init__(self, saved: Mapping[str, Any], complete: bool = True) -> None:
        self._saved = dict(saved)
        self._resumed = complete and bool(saved)
        self._parts: dict[str, Any] = {}
        self._new: set[str] = set()  # tracked, and not in the checkpoint

    def add(self, parts: Mapping[str, Any]) -> None:
        """Track the parts. A part of a name that is tracked already is replaced.

        RoundhouseError: a part cannot be tracked. Mismatch: the state in the checkpoint does not fit.
        """
        for name, part in parts.items():
            _check(name, part)
            if name in self._saved:
                try:
                    restore(part, self._saved.pop(name))
                except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                    raise Mismatch(f"{name}: {' '.join(str(error).split())}") from error
            elif name not in self._parts:
                self._new.add(name)
            self._parts[name] = part

    def release(self, names: Iterable[str]) -> None:
        """Do not track these any longer. RoundhouseError: one is not tracked."""
        for name in names:
            if name not in self._parts:
                raise RoundhouseError(f"run.release({name!r}): no part of this name is tracked")
            del self._parts[name]
            self._new.discard(name)

    def check_complete(self) -> None:
        """Mismatch: a loop continues, but it tracks other parts than the checkpoint has."""
        if not self._resumed:
            return
        if self._saved:
            raise Mismatch(f"the checkpoint has parts that are not tracked: {', '.join(self._saved)}")
        if self._new:
            raise Mismatch(f"the checkpoint has no state for {', '.join(sorted(self._new))}")

    def all_known(self) -> None:
        """From now on, no part is missing in the checkpoint: training has continued beyond it."""
        self._resumed = False
        self._saved.clear()

    def state(self) -> dict[str, Any]:
        """A copy of the states of all parts, on the CPU, with those in the checkpoint that are not tracked yet."""
        return {**self._saved, **{name: snapshot(state_of(part)) for name, part in self._parts.items()}}


class Mismatch(Exception):
    """The state in a checkpoint does not fit what the study tracks."""


def state_of(part: Any) -> Any:
    """The state of a module, tensor or other trackable part; a plain value as it is."""
    return part.state_dict() if hasattr(part, "state_dict") else part


def _check(name: str, part: Any) -> None:
    if isinstance(part, (torch.Tensor, dict, list)):
        return
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        return
    raise RoundhouseError(
        f"run.track({name}=...): a {type(part).__name__} cannot be restored in place: pass a module, an optimiser, a "
        "tensor, a dict, a list, an object with state_dict and load_state_dict, or roundhouse.training.Value(...)"
    )


def restore(part: Any, state: Any) -> None:
    """Restore a part from a result of `state_of`."""
    if isinstance(part, torch.Tensor):
        if part.shape != state.shape:
            raise ValueError(f"the tensor has shape {tuple(part.shape)}, and the saved one {tuple(state.shape)}")
        with torch.no_grad():
            part.copy_(state)
    elif isinstance(part, dict):
        part.clear()
        part.update(state)
    elif isinstance(part, list):
        part[:] = state
    else:
        if hasattr(part, "rebuild"):
            part.rebuild(state)
        part.load_state_dict(state)

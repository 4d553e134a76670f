"""The tracked parts of a run: modules, optimisers, tensors and other values whose state a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from roundhouse.errors import RoundhouseError
from roundhouse.training.ranks import Ranks, fingerprint
from roundhouse.training.reproducibility import snapshot

Shapes = list[tuple[int, ...]]


class Value:
    """A plain value that training changes, to be tracked: `tries = Value(0)`, `run.track(tries=tries)`."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def state_dict(self) -> Any:
        return self.value

    def load_state_dict(self, state: Any) -> None:
        self.value = state


class Tracked:
    """Parts by name. Each is restored from `saved`, the state in a checkpoint, when it is tracked.

    It is restored again where training continues: the code before that runs again after a resume, and may change it.
    Only its shapes must not change there, because optimisers would keep the old tensors.
    `complete`: the checkpoint is one of this run, which tracks exactly the same parts at the same position.
    """

    def __init__(self, saved: Mapping[str, Any], complete: bool = True) -> None:
        self._saved = dict(saved)
        self._resumed = complete and bool(saved)
        self._parts: dict[str, Any] = {}
        self._new: set[str] = set()  # tracked, and not in the checkpoint
        self._released: set[str] = set()
        self._shapes: dict[str, Shapes] = {}  # when it was tracked, or at the end of a loop or of `run.once`

    def add(self, parts: Mapping[str, Any], loop: str) -> None:
        """Track the parts; inside a loop, a part replaces the one of its name.

        RoundhouseError: a part cannot be tracked. Mismatch: the state in the checkpoint does not fit.
        """
        for name, part in parts.items():
            _check(name, part)
            self._check_name(name, part, loop)
            if name not in self._parts:
                if name in self._saved:
                    self._restore(name, part, restore)
                else:
                    self._new.add(name)
            self._parts[name] = part
            self._shapes[name] = _shapes_of(part)

    def _check_name(self, name: str, part: Any, loop: str) -> None:
        if name in self._released:
            raise RoundhouseError(f"run.track({name}=...): a part of this name was released: use another name")
        if loop and name not in self._parts:
            raise RoundhouseError(f"run.track({name}=...) inside the loop {loop!r}: track it before the loop")
        if not loop and self._parts.get(name, part) is not part:
            raise RoundhouseError(
                f"run.track({name}=...): another part of this name is tracked already: use another name (only inside a "
                "loop does a part replace another one)"
            )

    def release(self, names: Iterable[str], loop: str) -> None:
        """Do not track these any longer. RoundhouseError: one is not tracked, or a loop is running."""
        for name in names:
            if loop:
                raise RoundhouseError(f"run.release({name!r}) inside the loop {loop!r}: call it after the loop")
            if name not in self._parts:
                raise RoundhouseError(f"run.release({name!r}): no part of this name is tracked")
            del self._parts[name]
            self._saved.pop(name, None)
            self._new.discard(name)
            self._released.add(name)

    def check_complete(self) -> None:
        """Mismatch: a loop continues, but it tracks other parts than the checkpoint has."""
        if not self._resumed:
            return
        if missing := self._saved.keys() - self._parts.keys():
            raise Mismatch(f"the checkpoint has parts that are not tracked: {', '.join(sorted(missing))}")
        if self._new:
            raise Mismatch(f"the checkpoint has no state for {', '.join(sorted(self._new))}")

    def restore_all(self) -> None:
        """Restore all parts, at the position in the checkpoint. Mismatch: one does not fit."""
        for name in self._parts.keys() & self._saved.keys() if self._resumed else ():
            self._restore(name, self._parts[name], load)

    def note_shapes(self) -> None:
        """The shapes may have changed in the code that has just run."""
        self._shapes = {name: _shapes_of(part) for name, part in self._parts.items()}

    def check_shapes(self) -> None:
        """RoundhouseError: a module has other shapes than when it was tracked, or at the end of the last loop."""
        for name, part in self._parts.items():
            if _shapes_of(part) != self._shapes[name]:
                raise RoundhouseError(
                    f"the shapes of the tracked part {name!r} have changed outside a loop, which a resume repeats: "
                    "change them before run.track, inside a loop, or in a function that you give to run.once"
                )

    def check_equal(self, ranks: Ranks) -> None:
        """RoundhouseError: a part differs between the processes of the run. Buffers of modules may differ."""
        each = ranks.gather("state", {name: fingerprint(_shared(part)) for name, part in self._parts.items()})
        for number, other in enumerate(each[1:], 1):
            differing = [name for name in each[0].keys() | other.keys() if each[0].get(name) != other.get(name)]
            if differing:
                raise RoundhouseError(
                    f"the tracked part {min(differing)!r} differs between process 0 and process {number}: give modules "
                    "to run.prepare, update them with step.optimise or step.update, and compute everything else that "
                    "is tracked from values that are equal in all processes (run.reduce)"
                )

    def _restore(self, name: str, part: Any, how: Callable[[Any, Any], None]) -> None:
        try:
            how(part, self._saved[name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Mismatch(f"{name}: {' '.join(str(error).split())}") from error

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


def _shared(part: Any) -> Any:
    """What must be equal in all processes: of a module its parameters, of another part everything."""
    return dict(part.named_parameters()) if isinstance(part, torch.nn.Module) else state_of(part)


def _check(name: str, part: Any) -> None:
    if isinstance(part, (torch.Tensor, dict, list)):
        return
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        return
    raise RoundhouseError(
        f"run.track({name}=...): a {type(part).__name__} cannot be restored in place: pass a module, an optimiser, a "
        "tensor, a dict, a list, an object with state_dict and load_state_dict, or roundhouse.training.Value(...)"
    )


def _shapes_of(part: Any) -> Shapes:
    """The shapes of the parameters and buffers of a module; of another part nothing."""
    if not isinstance(part, torch.nn.Module):
        return []
    return [tuple(one.shape) for one in part.state_dict().values() if isinstance(one, torch.Tensor)]


def restore(part: Any, state: Any) -> None:
    """Restore a part from a result of `state_of`, after it has adopted its shapes."""
    if hasattr(part, "rebuild"):
        part.rebuild(state)
    load(part, state)


def load(part: Any, state: Any) -> None:
    """Restore a part that has the shapes of a result of `state_of`."""
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
        part.load_state_dict(state)

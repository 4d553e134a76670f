"""A run in progress, as the library sees it: its state, when it is saved, and why it must stop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.settings import Settings
from roundhouse.training import checkpoint, keep
from roundhouse.training.bests import BestRule, update_bests
from roundhouse.training.memory import peak_memory
from roundhouse.training.metrics_file import metrics_of
from roundhouse.training.optimise import WINDOW, FiniteCheck, Optimisation, Place
from roundhouse.training.precision import Precision
from roundhouse.training.ranks import ALONE, Ranks
from roundhouse.training.reproducibility import derive_seed, exactness, global_states, hash_state, snapshot
from roundhouse.training.state import EPOCH, STEP, Row, State, early_stop, ended
from roundhouse.training.timing import Timing
from roundhouse.training.tracking import Tracked

RUNG, WALLTIME = "rung", "walltime"
METRICS = "metrics.json"
OTHERS = "processes"  # the key of a checkpoint under which each process but the first has what is its own
RESERVED = ("stage", "epoch", "step", "seconds", "peak_memory_mb", "partial")  # of an entry of metrics.json


class Stopped(BaseException):
    """The run must stop and is resumed later. Not an Exception, so that a study does not catch it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Diverged(BaseException):
    """The study has found that its training diverged."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Hooks:
    """What the library calls.

    `report`: at the start and after each save. `recorded`: after each new entry of the history. `stop`: between steps,
    for the reason why the run must stop, if there is one. `means`: between steps, at most every 10 seconds,
    with the means so far of what the study averages, such as its training loss.
    """

    report: Callable[[Session], None]
    recorded: Callable[[Session], None]
    stop: Callable[[], str | None]
    means: Callable[[Mapping[str, float]], None] = lambda means: None


def number_of(name: str, value: Any) -> float:
    """A metric as a number. RoundhouseError: it is none."""
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise RoundhouseError(f"metric {name!r} must be a number, not {shown[:80]}") from None


@dataclass
class Session:
    """The mutable state of one run in one process, shared by `Run` and its loops.

    With several processes, each has its own, and all call the same methods; only that of process 0 writes files.
    """

    settings: Settings
    precision: Precision
    directory: Path
    hooks: Hooks
    state: State
    tracked: Tracked
    optimisation: Optimisation
    earlier: Sequence[Path] = ()
    ranks: Ranks = ALONE
    prepared: list[torch.nn.Module] = field(default_factory=list)  # given to `run.prepare`
    own_buffers: list[torch.Tensor] | None = None  # theirs in this process, in the checkpoint, if not as in process 0
    rules: dict[str, BestRule] = field(default_factory=dict)
    loop: str = ""  # the running one
    skipped: list[str] = field(default_factory=list)  # loops that have not begun, because training had ended
    replaying: bool = False  # the code before the position in the checkpoint runs again
    replayed: int = 0  # steps of the loops before the present position of that code
    started: tuple[int, int] = (0, 0)  # epochs and steps when this attempt began
    untimed: float = 0.0  # seconds of the step so far that do not count
    resumed_globals: dict[str, Any] | None = None  # the global generators at the position in the checkpoint
    resumed: bool = False  # it continues from a checkpoint
    repeating: bool = False  # the code between the begin of an epoch and its first batch runs again
    outdated: list[str] = field(default_factory=list)  # kept files to delete once no checkpoint names them
    replaced: list[str] = field(default_factory=list)  # kept files whose new content is not in place yet
    running: object | None = None  # the step whose body runs
    epoch: object | None = None  # the epoch whose body runs
    has_results: bool = False  # the study has called `run.finish`
    snapshots: list[Callable[[], None]] = field(default_factory=list)  # whole checkpoints to keep after this step
    after_break: Callable[[], None] | None = None  # completes a loop that the study has left with `break`
    stopped: Stopped | None = None  # raised, and maybe caught by the study
    final_hash: str | None = None
    means: dict[str, float] = field(default_factory=dict)  # of the present row, or else of the last one
    closing: Callable[[], None] | None = None
    timing: Timing = field(default_factory=Timing)
    _row_began: float = field(default_factory=lambda: time.monotonic())
    _changed: bool = False
    _entry_outside_loops: bool = False  # recorded since the last save
    _evaluating: tuple[dict[str, float], dict[str, Any]] | None = None  # metrics and generators before the evaluation
    _written: dict[str, Any] = field(default_factory=dict)  # the bests that are in their files
    _deleted_earlier: bool = False

    @property
    def checks(self) -> FiniteCheck:
        return self.optimisation.checks

    @property
    def main(self) -> BestRule | None:
        """The best whose metric is the run's main metric: the first that was declared."""
        return next(iter(self.rules.values()), None)

    @property
    def buffers(self) -> list[torch.Tensor]:
        """Those of the prepared modules, such as running statistics."""
        return [buffer for module in self.prepared for buffer in module.buffers()]

    @property
    def ended(self) -> str:
        """Why training has ended before its planned end."""
        return ended(self.state, self.settings)

    def where(self) -> str:
        """The present position, for messages."""
        if not self.loop:
            return "the code between the loops"
        loop = self.state.loops[self.loop]
        if self.state.unit == STEP:
            return f"stage {self.loop}, step {loop.done + 1}"
        return f"stage {self.loop}, epoch {loop.done + 1}"

    # ------------------------------------------------------------------------------------------- stopping

    def stop_reason(self, gap: float = 0.0) -> str | None:
        """Why the run must stop now and be resumed later, if the next safe point is `gap` seconds away."""
        return self.ranks.agree("stop", self._own_stop_reason(gap))

    def _own_stop_reason(self, gap: float) -> str | None:
        """The same, of this process alone."""
        if reason := self.hooks.stop():
            return reason
        deadline = self.settings.deadline
        return WALLTIME if deadline is not None and time.time() + gap >= deadline else None

    def safe_point(self, boundary: bool) -> None:
        """Between two steps: save if it is time, and stop if the run must. `boundary`: no epoch is open.

        Stopped: a signal, the walltime, or the rung of a comparison.
        """
        pause = self.settings.pause_at
        rung = RUNG if boundary and pause is not None and self.state.units >= pause else None
        due = self.timing.due(
            lambda gap: self._own_stop_reason(gap) or rung, 60 * self.settings.save_minutes, self.untimed
        )
        due = self.ranks.agree("safe point", due)
        if due.stop is not None:
            self.stop(due.stop)
        if due.save:
            self.save()
        if due.means and self.state.row.sums:
            self._note_means()
            self.hooks.means(self.means)
        self.timing.safe_at = time.monotonic()

    def agree_on_end(self) -> None:
        """After a step or an epoch: whether training has ended is for process 0 to say, whose time counts."""
        if self.ranks.count > 1:
            self.state.stopped, self.state.seconds = self.ranks.agree("end", (self.state.stopped, self.state.seconds))

    def diverge_globals(self, *position: int | str) -> None:
        """From here on PyTorch's global generators give other numbers in each process, as dropout must."""
        if not self.ranks.first:
            torch.manual_seed(derive_seed(self.settings.seed, "process", self.ranks.rank, *position))

    def check_prepared(self) -> None:
        """RoundhouseError: the study is not written for several processes."""
        if self.ranks.count > 1 and not self.prepared:
            raise RoundhouseError(
                f"this run has {self.ranks.count} processes, but its study has not called run.prepare(model) before "
                "its first loop, so each would do all the work: set the config key `processes: 1`, or see "
                '"Several processes" in docs/adding_a_study.md'
            )

    def before_evaluation(self) -> None:
        """After the last batch of an epoch: stop if what follows would not end before the walltime.

        Stopped: that, or a signal.
        """
        self.begin_evaluation()
        if reason := self.stop_reason(self.timing.evaluation + self.timing.saving):
            self.stop(reason)

    def begin_evaluation(self, generators: dict[str, Any] | None = None) -> None:
        """The batches of an epoch are complete. What follows is repeated if it is interrupted.

        `generators`: the states of the global generators after the batches, if others than the present ones.
        """
        self.timing.safe_at = None
        self.ranks.broadcast(self.buffers)
        self._evaluating = dict(self.state.row.metrics), generators or global_states()

    def stop(self, reason: str) -> NoReturn:
        """Save, and end this attempt."""
        self.save() if self.loop else self.save_outside_loops()
        self.stopped = Stopped(reason)
        raise self.stopped

    def check_skipped(self) -> None:
        """RoundhouseError: gradient scaling skipped too many steps since the last call."""
        self.optimisation.check_skipped(self.settings.max_skipped, self.where(), self.precision.name)

    def check_many_skipped(self) -> None:
        """The same, once many steps have been made since the last call."""
        if self.optimisation.count_unchecked() >= WINDOW:
            self.check_skipped()

    # ------------------------------------------------------------------------------------------- recording

    def changed(self) -> None:
        """The state differs from the saved one."""
        self._changed = True

    @property
    def unsaved_results(self) -> bool:
        """Whether the last checkpoint lacks an entry, or names other kept files than there are to be."""
        return bool(self._entry_outside_loops or self.replaced or self.outdated)

    def average(self, values: Mapping[str, Any], weight: float = 1.0) -> None:
        """Add values, times `weight`, to the means of the present row. They stay on the device.

        RoundhouseError: one has the name of a metric of the row.
        """
        row = self.state.row
        for name, value in values.items():
            self._check_name(name, row.metrics)
            tensor = torch.as_tensor(value).detach()
            if tensor.numel() != 1:
                raise RoundhouseError(f"step.average({name}=...) has the shape {tuple(tensor.shape)}: pass a scalar")
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor = tensor.float()  # a sum of many would lose all precision
            elif not tensor.is_floating_point():
                tensor = tensor.double()
            tensor = tensor.reshape(()) if weight == 1 else tensor.reshape(()) * weight
            if name in row.sums:
                row.sums[name] += tensor
            else:
                row.sums[name] = tensor.clone()
            row.counts[name] = row.counts.get(name, 0) + 1

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Add metrics to the present row, those of process 0.

        RoundhouseError: one has that name already. NotFinite: one is not finite.
        """
        self.checks.check()
        last = self.state.history[-1] if self.state.history else {}
        recorded = last if self.state.unit == STEP and last.get(STEP) == self.present_step else {}
        numbers = {name: number_of(name, value) for name, value in metrics.items()}
        for name, number in self.ranks.agree("metrics", numbers).items():
            if self.repeating and name in self.state.row.metrics:
                continue
            self._check_name(name, {**self.state.row.metrics, **self.state.row.sums, **recorded})
            self.checks.metric(Place(self.state.step, self.where(), f"metric {name}"), number)
            self.state.row.metrics[name] = number
        self.changed()

    def _note_means(self) -> dict[str, float]:
        """Compute the means of the present row. What is shown of them is finite, as JSON is."""
        row = self.state.row
        means = {name: (total / row.counts[name]).item() for name, total in row.sums.items()}
        means = self.ranks.means("means", means)
        self.means, self.timing.means_at = (
            {name: one for name, one in means.items() if math.isfinite(one)},
            time.monotonic(),
        )
        return dict(means)

    def _check_name(self, name: str, used: Mapping[str, Any]) -> None:
        if name in RESERVED or name in used:
            raise RoundhouseError(f"two metrics of {self.where()} have the same name: {name}")

    def close_row(self, partial: bool = False) -> None:
        """Append the present row to the history, and update what is best so far."""
        state, row, now = self.state, self.state.row, time.monotonic()
        self.checks.check()
        metrics = self._note_means()
        for name, mean in metrics.items():
            self.checks.metric(Place(state.step, self.where(), f"metric {name}"), mean)
        metrics |= row.metrics
        position: dict[str, Any] = {"stage": self.loop or next(reversed(state.loops))}
        if state.unit == EPOCH:
            position["epoch"] = state.epoch + 1
        position["step"] = self.present_step
        seconds = round(row.seconds + now - self._row_began, 3)
        if self.loop:
            state.loops[self.loop].seconds += now - self._row_began
        entry = {**position, **metrics, "seconds": seconds, "peak_memory_mb": self.peak_memory()}
        state.history.append({**entry, "partial": True} if partial else entry)
        state.row, self._row_began, self._evaluating = Row(), now, None
        self._entry_outside_loops = not self.loop
        update_bests(state, self.rules, metrics, self.settings.min_delta)
        self.changed()
        self.hooks.recorded(self)

    @property
    def present_step(self) -> int:
        """The number of the step whose body runs, from 1; between steps, that of complete ones."""
        if self.replaying:
            return self.replayed
        return self.state.step + (self.state.unit == STEP and self.running is not None)

    def peak_memory(self) -> int:
        """Megabytes."""
        return round(peak_memory(self.precision.device) / 1e6)

    def discard_row(self) -> None:
        """Start an empty row."""
        self.state.row, self._row_began = Row(), time.monotonic()

    def begin_row(self) -> None:
        """The time of the present row is counted from now on."""
        self._row_began = time.monotonic()

    def early_stop(self) -> None:
        """End the training if the main metric has not improved for long enough."""
        if reason := early_stop(self.state, self.settings):
            self.state.stopped = self.state.stopped or reason
        self.agree_on_end()

    # ------------------------------------------------------------------------------------------- saving

    def save(self, parts: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint, and the files that follow from it. NotFinite: a loss before it is not finite."""
        needed = self._changed or not (self.directory / checkpoint.CHECKPOINT).exists()
        if self.ranks.agree("save", needed):
            began = time.monotonic()
            content = self.content(parts)
            if self.ranks.first:
                self._write(content, began)
            self._changed = self._entry_outside_loops = False
            self.replaced.clear()
            self.outdated.clear()
        self.timing.saved_at = time.monotonic()

    def _write(self, content: Mapping[str, Any], began: float) -> None:
        """Write a checkpoint, and the files that follow from it. `began`: when its content was to be collected."""
        checkpoint.save(self.directory, content)
        self.timing.saving = max(self.timing.saving, time.monotonic() - began)
        if not self._deleted_earlier:
            checkpoint.delete_earlier(self.earlier)
            self._deleted_earlier = True
        self.write_files()
        self._place_kept()
        checkpoint.delete_files((self.directory, *self.earlier), self.outdated)
        self.hooks.report(self)

    def save_outside_loops(self) -> None:
        """Save what was kept, with the parts of the last checkpoint: the code since then runs again after a resume."""
        path = self.directory / checkpoint.CHECKPOINT
        if not self.ranks.agree("checkpoint", path.exists()):
            self.save()
            return
        last = checkpoint.read(path) if self.ranks.first else {"parts": {}}
        if not any(loop.open for loop in self.state.loops.values()):
            self.save(last["parts"])
            return
        # A limit has ended an epoch inside, which another run may continue from this position: only names are new.
        if self.ranks.first:
            self._write({**last, "kept": dict(self.state.kept)}, time.monotonic())
        self._entry_outside_loops = False
        self.replaced.clear()
        self.outdated.clear()

    def content(self, parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of a checkpoint: a copy of the present state. `parts`: instead of the present parts."""
        self.checks.check()
        self.optimisation.collect()
        state, now = self.state, time.monotonic()
        state.row.seconds += now - self._row_began
        if self.loop:
            state.loops[self.loop].seconds += now - self._row_began
        self._row_began = now
        state.recent, state.unchecked = list(self.optimisation.recent), self.optimisation.unchecked
        state.globals = self.resumed_globals or (self._evaluating[1] if self._evaluating else None)
        if state.globals is None and self.loop and state.loops[self.loop].open:
            state.globals = global_states()
        scaler = self.optimisation.scaler
        others = self._others(parts is None)
        values = {
            **state.content(),
            "environment": exactness(self.precision.device, self.precision.name) | dict(self.ranks.facts),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "parts": (self.tracked.state() if self.ranks.first else {}) if parts is None else parts,
            **others,
        }
        values["row"] = snapshot(values["row"])
        if self._evaluating is not None:
            values["row"]["metrics"] = self._evaluating[0]  # the evaluation is repeated
        return values

    def _others(self, check: bool) -> dict[str, Any]:
        """What the other processes add to a checkpoint: the state that is each one's own. `check`: that of the parts.

        RoundhouseError: a tracked part differs between the processes.
        """
        if self.ranks.count == 1:
            return {}
        if check:
            self.tracked.check_equal(self.ranks)
        own = {"globals": self.state.globals, "sums": snapshot(self.state.row.sums), "buffers": snapshot(self.buffers)}
        return {OTHERS: self.ranks.gather("own state", own)[1:]}

    def restore_parts(self) -> None:
        """Restore the tracked parts once more, at the position in the checkpoint."""
        self.tracked.restore_all()
        if self.own_buffers is not None:
            for buffer, saved in zip(self.buffers, self.own_buffers, strict=False):
                buffer.data.copy_(saved)
            self.own_buffers = None

    def keep_snapshots(self) -> None:
        """Keep the whole checkpoints that were requested during the step or epoch that is now complete."""
        requested, self.snapshots = self.snapshots, []
        for write in requested:
            write()

    def hash_parts(self) -> None:
        """Hash the tracked parts: at the end of the last loop this is the hash of the whole run."""
        self.final_hash = hash_state(self.tracked.state()) if self.ranks.first else None

    def complete_break(self) -> None:
        """Complete a loop that the study has left with `break`. Stopped: this attempt has been stopped."""
        if self.stopped is not None:
            raise self.stopped
        if self.after_break is not None:
            complete, self.after_break = self.after_break, None
            complete()

    def write_files(self, final: Mapping[str, float] | None = None, diverged: Mapping[str, Any] | None = None) -> None:
        """Write `metrics.json`, and the best weights that have changed, from the state."""
        if not self.ranks.first:
            return
        self.replace(METRICS, files.dump(metrics_of(self, final, diverged)))
        for file, one in self.state.bests.items():
            if self._written.get(file) is not one:
                checkpoint.write(self.directory / file, one["state"])
                self._written[file] = one

    def replace(self, name: str, data: bytes) -> str:
        """Write a file into the attempt's directory; returns its SHA-256, in process 0."""
        return keep.write(self.directory, name, data) if self.ranks.first else ""

    def keep(self, name: str, data: bytes) -> None:
        """Write a kept file. One that exists is replaced after the next checkpoint, since the last one names it."""
        if name in self.state.kept or name in self.outdated:
            self.state.kept[name] = self.replace(keep.next_of(name), data)
            self.replaced.append(name)
            self.outdated = [one for one in self.outdated if one != name]
        else:
            self.state.kept[name] = self.replace(name, data)
        self.changed()

    def _place_kept(self) -> None:
        """The checkpoint that names the new contents of kept files is written: replace the old ones."""
        for name in self.replaced:
            with suppress(FileNotFoundError):  # it was replaced twice, or deleted since
                os.replace(self.directory / keep.next_of(name), self.directory / name)

    def close(self) -> None:
        """Release what the study has opened."""
        if self.closing is not None:
            with suppress(Exception):
                self.closing()

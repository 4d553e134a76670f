"""A run in progress, as the library sees it: its state, when it is saved, and why it must stop."""

from __future__ import annotations

import os
import time
from collections import deque
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
from roundhouse.training.memory import peak_memory
from roundhouse.training.metrics_file import metrics_of
from roundhouse.training.optimise import WINDOW, FiniteCheck, Optimisation, Place
from roundhouse.training.precision import Precision
from roundhouse.training.reproducibility import exactness, global_states, hash_state, snapshot
from roundhouse.training.state import EPOCH, STEP, Row, State, better, early_stop, ended
from roundhouse.training.tracking import Tracked, state_of

RUNG, WALLTIME = "rung", "walltime"
METRICS = "metrics.json"
RESERVED = ("stage", "epoch", "step", "seconds", "peak_memory_mb", "partial")  # of an entry of metrics.json
_RECENT = 20  # steps from whose times the next one's is estimated


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
class BestRule:
    """One best: the weights are written to `file` when the metric improves; without a metric, at the end."""

    file: str
    metric: str | None
    mode: str
    weights: Mapping[str, Any]


@dataclass(frozen=True)
class Hooks:
    """What the library calls.

    `report`: at the start and after each save. `recorded`: after each new entry of the history. `stop`: between steps,
    for the reason why the run must stop, if there is one.
    """

    report: Callable[[Session], None]
    recorded: Callable[[Session], None]
    stop: Callable[[], str | None]


def number_of(name: str, value: Any) -> float:
    """A metric as a number. RoundhouseError: it is none."""
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise RoundhouseError(f"metric {name!r} must be a number, not {shown[:80]}") from None


@dataclass
class Session:
    """The mutable state of one run in one process, shared by `Run` and its loops."""

    settings: Settings
    precision: Precision
    directory: Path
    hooks: Hooks
    state: State
    tracked: Tracked
    optimisation: Optimisation
    earlier: Sequence[Path] = ()
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
    closing: Callable[[], None] | None = None
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _row_began: float = field(default_factory=lambda: time.monotonic())
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _safe_at: float | None = None  # when the last safe point to stop at was passed
    _changed: bool = False
    _entry_outside_loops: bool = False  # recorded since the last save
    _saving: float = 0.0  # seconds that the longest save took
    _evaluation: float = 0.0  # and the longest work that is not part of a step
    _saved_for_evaluation: bool = False
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
        if reason := self.hooks.stop():
            return reason
        deadline = self.settings.deadline
        return WALLTIME if deadline is not None and time.time() + gap >= deadline else None

    def safe_point(self, boundary: bool) -> None:
        """Between two steps: save if it is time, and stop if the run must. `boundary`: no epoch is open.

        Stopped: a signal, the walltime, or the rung of a comparison.
        """
        now = time.monotonic()
        if self._safe_at is not None:
            self._gaps.append(max(0.0, now - self._safe_at - self.untimed))
        gap = (max(self._gaps) if self._gaps else 0.0) + self._saving
        pause = self.settings.pause_at
        reached = boundary and pause is not None and self.state.units >= pause
        self._stop_for(self.stop_reason(gap) or (RUNG if reached else None))
        if now - self._saved_at >= 60 * self.settings.save_minutes:
            self.save()
        elif not self._saved_for_evaluation and self.stop_reason(gap + self._evaluation):
            self.save()  # an evaluation in the next step may not end before the walltime
            self._saved_for_evaluation = True
        self._safe_at = time.monotonic()

    def before_evaluation(self) -> None:
        """After the last batch of an epoch: stop if what follows would not end before the walltime.

        Stopped: that, or a signal.
        """
        self.begin_evaluation()
        self._stop_for(self.stop_reason(self._evaluation + self._saving))

    def begin_evaluation(self, generators: dict[str, Any] | None = None) -> None:
        """The batches of an epoch are complete. What follows is repeated if it is interrupted.

        `generators`: the states of the global generators after the batches, if others than the present ones.
        """
        self._safe_at = None
        self._evaluating = dict(self.state.row.metrics), generators or global_states()

    def _stop_for(self, reason: str | None) -> None:
        if reason is not None:
            self.stop(reason)

    def stop(self, reason: str) -> NoReturn:
        """Save, and end this attempt."""
        self.save() if self.loop else self.save_outside_loops()
        self.stopped = Stopped(reason)
        raise self.stopped

    def evaluated(self, seconds: float) -> None:
        """Note the time of work that is not part of a step."""
        self._evaluation = max(self._evaluation, seconds)
        self._safe_at = None

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

    def average(self, values: Mapping[str, Any]) -> None:
        """Add values to the means of the present row. They stay on the device.

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
            tensor = tensor.reshape(())
            if name in row.sums:
                row.sums[name] += tensor
            else:
                row.sums[name] = tensor.clone()
            row.counts[name] = row.counts.get(name, 0) + 1

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Add metrics to the present row. RoundhouseError: one has that name already. NotFinite: one is not finite."""
        self.checks.check()
        last = self.state.history[-1] if self.state.history else {}
        recorded = last if self.state.unit == STEP and last.get(STEP) == self.present_step else {}
        for name, value in metrics.items():
            number = number_of(name, value)
            if self.repeating and name in self.state.row.metrics:
                continue
            self._check_name(name, {**self.state.row.metrics, **self.state.row.sums, **recorded})
            self.checks.metric(Place(self.state.step, self.where(), f"metric {name}"), number)
            self.state.row.metrics[name] = number
        self.changed()

    def _check_name(self, name: str, used: Mapping[str, Any]) -> None:
        if name in RESERVED or name in used:
            raise RoundhouseError(f"two metrics of {self.where()} have the same name: {name}")

    def close_row(self, partial: bool = False) -> None:
        """Append the present row to the history, and update what is best so far."""
        state, row, now = self.state, self.state.row, time.monotonic()
        self.checks.check()
        metrics = {}
        for name, total in row.sums.items():
            metrics[name] = (total / row.counts[name]).item()
            self.checks.metric(Place(state.step, self.where(), f"metric {name}"), metrics[name])
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
        self._update_bests(metrics)
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

    def _update_bests(self, metrics: Mapping[str, float]) -> None:
        for rule in self.rules.values():
            if rule.metric is None or rule.metric not in metrics:
                continue
            value = metrics[rule.metric]
            best = self.state.bests.get(rule.file)
            if better(value, None if best is None else best["value"], rule.mode):
                self.state.bests[rule.file] = self.best_now(rule, value)
            if rule is self.main:
                self._count_stale(value, rule.mode)

    def _count_stale(self, value: float, mode: str) -> None:
        if better(value, self.state.reference, mode, self.settings.min_delta):
            self.state.reference, self.state.stale = value, 0
        else:
            self.state.stale += 1

    def best_now(self, rule: BestRule, value: float | None) -> dict[str, Any]:
        """The present weights as the best ones."""
        last = self.state.history[-1] if self.state.history else {}
        position = {key: last[key] for key in (EPOCH, STEP) if key in last}
        weights = {name: snapshot(state_of(part)) for name, part in rule.weights.items()}
        return {**position, "value": value, "state": weights}

    def early_stop(self) -> None:
        """End the training if the main metric has not improved for long enough."""
        if reason := early_stop(self.state, self.settings):
            self.state.stopped = self.state.stopped or reason

    # ------------------------------------------------------------------------------------------- saving

    def save(self, parts: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint, and the files that follow from it. NotFinite: a loss before it is not finite."""
        if self._changed or not (self.directory / checkpoint.CHECKPOINT).exists():
            began = time.monotonic()
            checkpoint.save(self.directory, self.content(parts))
            self._changed = self._entry_outside_loops = False
            self._saving = max(self._saving, time.monotonic() - began)
            if not self._deleted_earlier:
                checkpoint.delete_earlier(self.earlier)
                self._deleted_earlier = True
            self.write_files()
            self._place_kept()
            checkpoint.delete_files((self.directory, *self.earlier), self.outdated)
            self.outdated.clear()
            self.hooks.report(self)
        self._saved_at = time.monotonic()

    def save_outside_loops(self) -> None:
        """Save what was kept, with the parts of the last checkpoint: the code since then runs again after a resume."""
        path = self.directory / checkpoint.CHECKPOINT
        self.save(checkpoint.read(path)["parts"] if path.exists() else None)

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
        values = {
            **state.content(),
            "environment": exactness(self.precision.device, self.precision.name),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "parts": self.tracked.state() if parts is None else parts,
        }
        values["row"] = snapshot(values["row"])
        if self._evaluating is not None:
            values["row"]["metrics"] = self._evaluating[0]  # the evaluation is repeated
        return values

    def keep_snapshots(self) -> None:
        """Keep the whole checkpoints that were requested during the step or epoch that is now complete."""
        requested, self.snapshots = self.snapshots, []
        for write in requested:
            write()

    def hash_parts(self) -> None:
        """Hash the tracked parts: at the end of the last loop this is the hash of the whole run."""
        self.final_hash = hash_state(self.tracked.state())

    def complete_break(self) -> None:
        """Complete a loop that the study has left with `break`. Stopped: this attempt has been stopped."""
        if self.stopped is not None:
            raise self.stopped
        if self.after_break is not None:
            complete, self.after_break = self.after_break, None
            complete()

    def write_files(self, final: Mapping[str, float] | None = None, diverged: Mapping[str, Any] | None = None) -> None:
        """Write `metrics.json`, and the best weights that have changed, from the state."""
        self.replace(METRICS, files.dump(metrics_of(self, final, diverged)))
        for file, one in self.state.bests.items():
            if self._written.get(file) is not one:
                checkpoint.write(self.directory / file, one["state"])
                self._written[file] = one

    def replace(self, name: str, data: bytes) -> str:
        """Write a file into the attempt's directory; returns its SHA-256."""
        return keep.write(self.directory, name, data)

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
        self.replaced.clear()

    def close(self) -> None:
        """Release what the study has opened."""
        if self.closing is not None:
            with suppress(Exception):
                self.closing()

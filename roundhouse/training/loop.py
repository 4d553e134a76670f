"""The training loop: epochs, checkpoints, metrics, limits and resume, for any study.

The checkpoint is the only state of a run. It also contains the metrics of all epochs and the best weights;
`metrics.json` and `best.pth` are written from it, so all files always describe the same epoch.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.options import choose
from roundhouse.settings import Settings
from roundhouse.training import checkpoint
from roundhouse.training.guards import check_steps, merge_metrics
from roundhouse.training.memory import peak_memory
from roundhouse.training.precision import Precision, choose_device, choose_precision
from roundhouse.training.reproducibility import (
    derive_seed,
    differences,
    exactness,
    hash_state,
    make_deterministic,
    seed_globals,
    snapshot,
)
from roundhouse.training.task import Context, Stopped, Task

RUNG = "rung"  # the reason of a run that paused at `settings.pause_at`
METRICS, BEST, OUTPUTS = "metrics.json", "best.pth", "outputs.npz"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is. Epochs are counted over all stages; `epoch` of `epochs` are done."""

    stage: str
    epoch: int
    epochs: int
    metrics: Mapping[str, float]  # of the last epoch; empty before the first
    metric: str
    best: float | None
    started_epoch: int  # epochs that were done when this attempt began
    exact: bool
    seconds_per_epoch: float | None = None  # median over the epochs of this stage; None before the first


@dataclass(frozen=True)
class Outcome:
    """How a run ended. A later attempt continues an unfinished run from its checkpoint."""

    finished: bool
    reason: str  # completed, max epochs, early stopping, time limit; unfinished: walltime, rung, or that of `stop`
    epochs_run: int
    exact: bool
    final_hash: str | None = None  # of the state after the last epoch; None if unfinished
    metrics: Mapping[str, float] = field(default_factory=dict)  # the final ones
    artifacts: Mapping[str, str] = field(default_factory=dict)  # file name -> SHA-256


@dataclass
class _Run:
    """A run in progress: its arguments, and what a checkpoint contains in addition to the task's own state."""

    task: Task
    settings: Settings
    directory: Path
    precision: Precision
    scaler: torch.amp.GradScaler | None
    stop: Callable[[], str | None]
    epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # epoch, value, state
    prepared: dict[str, Any] = field(default_factory=dict)  # name of a finished stage before the last -> its weights
    exact: bool = True
    accumulate: int = 1  # factor on the number of parts of a batch; it never decreases
    steps: list[bool] = field(default_factory=list)  # with gradient scaling: which of the latest steps were taken
    begun: int = 0  # number of stages whose begin_stage was called
    longest: float = 0.0  # seconds of the longest epoch of this attempt, including writing

    @property
    def total(self) -> int:
        return sum(stage.epochs for stage in self.task.stages)

    def locate(self, epoch: int) -> tuple[int, int]:
        """(index of the stage, epoch within it), from 0, of the epoch that follows `epoch` done ones."""
        for index, stage in enumerate(self.task.stages):
            if epoch < stage.epochs:
                return index, epoch
            epoch -= stage.epochs
        return len(self.task.stages) - 1, self.task.stages[-1].epochs

    def stop_reason(self) -> str | None:
        """Why the run must stop now and be resumed later; None if it need not."""
        if reason := self.stop():
            return reason
        deadline = self.settings.deadline
        return "walltime" if deadline is not None and time.time() >= deadline else None

    def context(self, index: int, epoch: int, purpose: str) -> Context:
        stage = self.task.stages[index]
        seed_globals(derive_seed(self.settings.seed, purpose, stage.name, epoch))
        return Context(stage, epoch, self.settings.seed, self.precision, self.scaler, self.stop_reason, self.accumulate)


def prepare(settings: Settings) -> Precision:
    """Choose device and precision, and make the process deterministic. Call it before a study is built.

    RoundhouseError: the device does not exist, or the installed PyTorch has no kernels for it.
    """
    if settings.deterministic:
        make_deterministic()
    return choose_precision(settings.precision, choose_device(settings.device))


def run(
    task: Task,
    settings: Settings,
    directory: Path,
    earlier: Sequence[Path],
    report: Callable[[TrainingProgress], None],
    stop: Callable[[], str | None],
    of_another_config: Sequence[Path] = (),
) -> Outcome:
    """Train `task` to its end, or until `stop` returns a reason or the deadline is reached.

    It pauses after `settings.pause_at` epochs; the results do not depend on pauses. It writes only into `directory`,
    and resumes from the newest valid checkpoint there or in the folders of `earlier` attempts (oldest first), whose
    checkpoints it deletes once `directory` has its own. A resume from those in `of_another_config`, which the user has
    allowed, is approximate. `report` is called at the start and after each epoch, `stop` between batches.
    RoundhouseError: the disk is full, a loss is not finite, the study violates the `Task` interface.
    """
    _validate(task)
    precision = prepare(settings)
    scaler = torch.amp.GradScaler(precision.device.type) if precision.scaled else None
    this = _Run(task, settings, directory, precision, scaler, stop, accumulate=settings.accumulate)
    try:
        _resume(this, earlier, of_another_config)
        started = this.epochs
        report(_progress(this, started))
        while (finished := _finished(this)) is None:
            _train_one_epoch(this)
            if this.epochs == started + 1:
                checkpoint.delete_earlier(earlier)
            report(_progress(this, started))
        outcome = _finish(this, finished)
        checkpoint.delete_earlier(earlier)
        files.remove(directory / checkpoint.PREVIOUS)
        return outcome
    except Stopped as stopped:
        return Outcome(False, stopped.reason, this.epochs, this.exact)
    finally:
        getattr(task, "close", lambda: None)()


def _validate(task: Task) -> None:
    choose("mode", task.mode, ("max", "min"))
    names = [stage.name for stage in task.stages]
    if len(set(names)) != len(names) or not sum(stage.epochs for stage in task.stages):
        raise RoundhouseError(
            f"a task needs stages with different names and at least one epoch; it has {list(task.stages)}"
        )


def _resume(this: _Run, earlier: Sequence[Path], of_another_config: Sequence[Path]) -> None:
    found = checkpoint.newest(this.directory, earlier)
    if found is None:
        return
    content, other = found.content, found.path.parent in of_another_config
    if other and content["epochs"] > this.total:
        raise RoundhouseError(
            f"{found.path} has {content['epochs']} epochs, but the new config only {this.total}: "
            "to start from the beginning, --retry without --keep-files"
        )
    this.epochs, this.history, this.best = content["epochs"], content["history"], content["best"]
    this.prepared = content["prepared"]
    accumulate_before = content.get("accumulate", 1)
    this.accumulate = max(accumulate_before, this.accumulate)
    _begin_stages(this, this.locate(this.epochs - 1)[0])
    changed = differences(content["environment"], exactness(this.precision.device, this.precision.name))
    if this.accumulate > accumulate_before:
        factor = this.accumulate // accumulate_before
        changed.append(f"batches are split into {factor} times as many parts, because memory ran out")
    if other:
        changed.append("it continues a run with another config or other inputs (--keep-files)")
    if not this.settings.deterministic:
        changed.append("deterministic is off")
    if not getattr(this.task, "exact", True):
        changed.append("its kernels may differ between processes")
    if changed:
        checkpoint.warn(f"resume is approximate: {', '.join(changed)}")
    this.exact = content["exact"] and not changed
    try:
        this.task.load_state(content["task"])
    except (RuntimeError, ValueError, KeyError) as error:
        remedy = "use the code that wrote it, or archive the experiment and start it again"
        if other:
            remedy = "to start from the beginning, --retry without --keep-files"
        why = "the new config has another model" if other else "the code of its study has changed"
        raise RoundhouseError(
            f"{found.path} does not match this experiment ({' '.join(str(error).split())}): {why}; {remedy}"
        ) from error
    if this.scaler is not None and content["scaler"]:
        this.scaler.load_state_dict(content["scaler"])
    if found.path != this.directory / checkpoint.CHECKPOINT:  # this folder must be complete even if no epoch is left
        checkpoint.save(this.directory, content)
    _write_files(this, improved=True)


def _begin_stages(this: _Run, last: int) -> None:
    """Begin the stages up to index `last` that have not begun."""
    while this.begun <= last:
        this.task.begin_stage(this.context(this.begun, 0, "begin"))
        this.begun += 1


def _finished(this: _Run) -> str | None:
    """Why training is finished; None if it is not."""
    settings = this.settings
    if this.epochs >= this.total:
        return "completed"
    if settings.max_epochs is not None and this.epochs >= settings.max_epochs:
        return "max epochs"
    if (
        settings.patience is not None
        and this.best is not None
        and this.epochs - this.best["epoch"] >= settings.patience
    ):
        return "early stopping"
    if settings.time_limit is not None and this.history:
        seconds = [record["seconds"] for record in this.history]
        if sum(seconds) + max(seconds) > settings.time_limit:
            return "time limit"
    return None


def _train_one_epoch(this: _Run) -> None:
    if reason := this.stop_reason():
        raise Stopped(reason)
    if this.settings.pause_at is not None and this.epochs >= this.settings.pause_at:
        raise Stopped(RUNG)
    deadline = this.settings.deadline
    if deadline is not None and time.time() + this.longest > deadline:
        raise Stopped("walltime")
    began = time.monotonic()
    index, epoch = this.locate(this.epochs)
    _begin_stages(this, index)
    context = this.context(index, epoch, "epoch")
    trained = this.task.train_epoch(context)
    context.check_losses()
    check_steps(this.steps, context, this.settings.max_skipped)
    evaluated = this.task.evaluate(context)
    metrics = merge_metrics(trained, evaluated, context)
    seconds = round(time.monotonic() - began, 3)
    peak = round(peak_memory(this.precision.device) / 1e6)
    place = {"stage": context.stage.name, "epoch": this.epochs + 1}
    this.history.append({**place, **metrics, "seconds": seconds, "peak_memory_mb": peak})
    this.epochs += 1
    last = index == len(this.task.stages) - 1
    if not last and epoch == context.stage.epochs - 1:
        this.prepared[context.stage.name] = snapshot(this.task.best_state())
    improved = last and _improves(this, metrics)
    if improved:
        this.best = {
            "epoch": this.epochs,
            "value": metrics[this.task.metric],
            "state": snapshot(this.task.best_state()),
        }
    checkpoint.save(this.directory, _content(this))
    _write_files(this, improved)
    this.longest = max(this.longest, time.monotonic() - began)


def _improves(this: _Run, metrics: Mapping[str, float]) -> bool:
    choose("main metric", this.task.metric, metrics)
    if this.best is None:
        return True
    value, best = metrics[this.task.metric], float(this.best["value"])
    return value > best if this.task.mode == "max" else value < best


def _content(this: _Run) -> dict[str, Any]:
    return {
        "epochs": this.epochs,
        "history": this.history,
        "best": this.best,
        "prepared": this.prepared,
        "exact": this.exact,
        "accumulate": this.accumulate,
        "environment": exactness(this.precision.device, this.precision.name),
        "scaler": this.scaler.state_dict() if this.scaler is not None else None,
        "task": snapshot(this.task.state()),
    }


def _write_files(this: _Run, improved: bool, final: Mapping[str, float] | None = None) -> None:
    """Write `metrics.json`, `best.pth` if `improved`, and missing `STAGE.pth`, from the content of the checkpoint."""
    best = this.best and {"epoch": this.best["epoch"], this.task.metric: this.best["value"]}
    metrics = {"metric": this.task.metric, "mode": this.task.mode, "exact": this.exact, "best": best, "final": final}
    used = {
        "seconds": round(sum(record["seconds"] for record in this.history), 3),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in this.history),
    }
    _replace(this.directory / METRICS, files.dump({**metrics, "used": used, "epochs": this.history}))
    if improved and this.best is not None:
        checkpoint.write(this.directory / BEST, this.best["state"])
    for name, state in this.prepared.items():
        if not (this.directory / f"{name}.pth").exists():
            checkpoint.write(this.directory / f"{name}.pth", state)


def _replace(path: Path, data: bytes) -> None:
    """`files.replace`, with a RoundhouseError for a full disk."""
    try:
        files.replace(path, data)
    except OSError as error:
        raise checkpoint.cannot_write(path, error) from error


def _finish(this: _Run, reason: str) -> Outcome:
    """Compute outputs and final metrics from the best weights. If interrupted, the next attempt repeats it."""
    if stopped := this.stop_reason():
        raise Stopped(stopped)
    final_hash = hash_state(this.task.state())
    if this.best is None:  # training ended before its last stage
        this.best = {"epoch": this.epochs, "value": None, "state": snapshot(this.task.best_state())}
    index, epoch = this.locate(this.epochs - 1)
    arrays, metrics = this.task.outputs(this.best["state"], this.context(index, epoch + 1, "outputs"))
    final = {name: float(value) for name, value in metrics.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
    _replace(this.directory / OUTPUTS, buffer.getvalue())
    _write_files(this, improved=True, final=final)
    written = (BEST, OUTPUTS, *(f"{name}.pth" for name in this.prepared))
    artifacts = {name: hashlib.sha256((this.directory / name).read_bytes()).hexdigest() for name in written}
    return Outcome(True, reason, this.epochs, this.exact, final_hash, final, artifacts)


def _progress(this: _Run, started: int) -> TrainingProgress:
    last: dict[str, Any] = this.history[-1] if this.history else {"stage": this.task.stages[0].name}
    metrics = {name: value for name, value in last.items() if name not in ("stage", "epoch", "peak_memory_mb")}
    epochs = min(this.total, this.settings.max_epochs or this.total)
    best = this.best["value"] if this.best else None
    seconds = [entry["seconds"] for entry in this.history if entry["stage"] == last["stage"]]
    pace = round(statistics.median(seconds), 3) if seconds else None
    return TrainingProgress(
        last["stage"], this.epochs, epochs, metrics, this.task.metric, best, started, this.exact, pace
    )

"""`Run`: what a study uses. The study keeps its loop, the library keeps the state."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest
from roundhouse.options import choose
from roundhouse.training import checkpoint, keep, loops
from roundhouse.training.bests import BestRule, best_now
from roundhouse.training.loops import Epoch, Step, Streams
from roundhouse.training.reproducibility import derive_seed, seed_globals, snapshot
from roundhouse.training.session import RESERVED, Diverged, Session, number_of
from roundhouse.training.state import EPOCH, STEP
from roundhouse.training.tracking import restore

Item = TypeVar("Item")
Module = TypeVar("Module", bound=torch.nn.Module)


class Run(Streams):
    """One training run. Its generators are the same in every attempt: for initialisation and fixed noise."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.settings.seed, "run")
        self._session = session
        self._once_names: set[str] = set()
        self._finished: tuple[dict[str, np.ndarray], dict[str, float]] | None = None
        self._close: list[Callable[[], None]] = []
        session.closing = self._close_all
        self.seed_globals("train")

    # ------------------------------------------------------------------------------------------- the setting

    @property
    def device(self) -> torch.device:
        """The device for all computation."""
        return self._session.precision.device

    @property
    def accumulate(self) -> int:
        """1; or, after GPU memory ran out, the factor by which to increase the number of parts of a batch."""
        return self._session.state.accumulate

    @property
    def ended(self) -> str:
        """Why training has ended before its planned end, such as "time limit"; empty if it has not."""
        return self._session.ended

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of the loops that have not begun, because training had ended before them."""
        return tuple(self._session.skipped)

    @property
    def processes(self) -> int:
        """How many processes compute this run; all of them run the whole study."""
        return self._session.ranks.count

    @property
    def rank(self) -> int:
        """The number of this process, from 0. Process 0 writes all files, and its metrics are recorded."""
        return self._session.ranks.rank

    def prepare(self, module: Module) -> Module:
        """Say that the study can train this module in several processes, which start from the weights of process 0.

        To be called before the first loop, and again when the module has got new parameters. It returns the module
        itself: gradients are averaged by `step.update` and `step.optimise`. Running statistics and other buffers are
        each process's own in training; those of process 0 are saved, and used in evaluations after the batches of an
        epoch or inside `run.untimed`.
        """
        session = self._session
        session.complete_break()
        if not any(one is module for one in session.prepared):
            session.prepared.append(module)
        session.ranks.broadcast([*module.parameters(), *module.buffers()])
        return module

    def reduce(self, tensor: torch.Tensor, how: str = "mean") -> torch.Tensor:
        """The mean, sum, max or min of a tensor over the processes, element by element: for what all must decide alike.

        With one process, the tensor's values. All processes must call it.
        """
        return self._session.ranks.reduce(tensor, how)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the run, for forward passes. Compute losses outside it, in float32."""
        return self._session.precision.autocast()

    def seed_globals(self, name: str) -> None:
        """Seed the global generators before building what the loop `name` trains. Done for `train` at the start."""
        seed_globals(derive_seed(self._session.settings.seed, "begin", name, 0))

    def planned(self, units: int) -> None:
        """Say how many epochs, or steps, all loops will have, for progress and ETA; else only begun loops are known."""
        self._session.state.planned = units

    @property
    def resumed(self) -> bool:
        """Whether it continues from a checkpoint, instead of beginning anew, with weights of another run or without."""
        return self._session.resumed

    @property
    def config_seed(self) -> int:
        """The config key `seed`: for data that have it as their number. Random numbers come from the generators."""
        return self._session.settings.seed

    def approximate(self, why: str = "its kernels may differ between processes") -> None:
        """Say that the bits may differ from those of an earlier attempt: a resume is reported as approximate."""
        if self._session.resumed and self._session.state.exact:
            checkpoint.warn(f"resume is approximate: {why}")
            self._session.state.exact = False

    def on_close(self, function: Callable[[], None]) -> None:
        """Call `function` when the run ends in this process, also after an error: to end processes, for example."""
        self._close.append(function)

    def results(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """What `finish` was given. All bests have weights afterwards."""
        self._session.complete_break()
        self._check_outside("the study ends")
        self._settle_bests()
        self._warn_of_missing_metrics()
        return self._finished or ({}, {})

    def _settle_bests(self) -> None:
        """The bests without a metric, or without a value of it, are the present weights."""
        bests = self._session.state.bests
        for rule in self._session.rules.values():
            if rule.file not in bests:
                bests[rule.file] = best_now(self._session.state, rule, None)

    def _warn_of_missing_metrics(self) -> None:
        session = self._session
        known = sorted({name for row in session.state.history for name in row} - set(RESERVED))
        for rule in session.rules.values():
            if rule.metric is not None and session.state.bests[rule.file]["value"] is None:
                checkpoint.warn(
                    f"metric {rule.metric!r} was never recorded ({nearest(rule.metric, known)}): "
                    f"{rule.file} has the last weights"
                )
        if session.settings.patience is not None and (session.main is None or session.main.metric is None):
            checkpoint.warn("config key 'patience' has no effect: the study has no main metric (run.best)")

    def _check_outside(self, what: str) -> None:
        """RoundhouseError: a loop is running, or was left while its iterator is still referenced."""
        if loop := self._session.loop:
            raise RoundhouseError(
                f"{what} inside the loop {loop!r}: it must come after it. (A loop that was left with `break` runs "
                "as long as a variable, like a progress bar, holds its iterator: delete the variable, or use run.stop)"
            )

    def _close_all(self) -> None:
        while self._close:
            self._close.pop()()

    # ------------------------------------------------------------------------------------------- state

    def track(self, **parts: Any) -> None:
        """Make these part of each checkpoint; on a resume they are restored here.

        Modules, optimisers, tensors, dicts, lists, or any object with `state_dict` and `load_state_dict`. One with
        `rebuild(state)` is first given the saved state, so that it can adopt its shapes: track a network whose shape
        changes before you build its optimiser. Inside a loop, an object replaces the one that has its name.
        RoundhouseError: one cannot be tracked, or does not fit the checkpoint.
        """
        self._session.complete_break()
        self._session.tracked.add(parts, self._session.loop)
        self._session.changed()

    def release(self, *names: str) -> None:
        """Leave these parts out of later checkpoints: an optimiser whose loop is over."""
        self._session.complete_break()
        self._session.tracked.release(names, self._session.loop)
        self._session.changed()

    def best(
        self, metric: str | None, *, weights: Mapping[str, Any], mode: str = "max", file: str = "best.pth"
    ) -> None:
        """Keep the weights of the best value of a metric in `file`; without a metric, the last ones.

        `weights`: names with modules, tensors or plain values, as they will be in the file. The first best declares
        the main metric of the run. Several are possible, with a file each; one of the same file and metric replaces the
        first.
        """
        session = self._session
        session.complete_break()
        choose("mode", mode, ("max", "min"))
        if session.loop:
            raise RoundhouseError(f"run.best({metric!r}) inside the loop {session.loop!r}: call it before the loop")
        before = session.rules.get(file)
        if before is not None and metric and before.metric and before.metric != metric:
            raise RoundhouseError(f"run.best({metric!r}): {file!r} is that of {before.metric!r} already: pass file=...")
        if not keep.is_weights_name(keep.check_name(file)):
            raise RoundhouseError(f"run.best(file={file!r}): the name must be like best_ema.pth, without a folder")
        if not isinstance(weights, Mapping):
            raise RoundhouseError(
                f"run.best({metric!r}): weights must be a mapping of names, not {type(weights).__name__}"
            )
        session.rules[file] = BestRule(file, metric, mode, dict(weights))

    def load_best(self, file: str = "best.pth") -> None:
        """Load the best weights into the objects that were given to `run.best`, after the last loop.

        Without a value of the metric so far, the present weights are the best. Inside a loop there must be a value.
        """
        session = self._session
        session.complete_break()
        rule = session.rules.get(file)
        if rule is None:
            raise RoundhouseError(f"run.load_best({file!r}): no run.best with this file")
        if session.loop and file not in session.state.bests:
            raise RoundhouseError(f"run.load_best({file!r}) inside the loop {session.loop!r}: there is no value so far")
        if not session.loop:
            self._settle_bests()
        for name, part in rule.weights.items():
            saved = session.state.bests[file]["state"][name]
            if isinstance(part, torch.Tensor) or hasattr(part, "load_state_dict"):
                restore(part, saved)

    def once(self, name: str, function: Callable[[], Any]) -> Any:
        """The value of `function`, computed once between two loops; later attempts get the value that was kept.

        It may also change tracked parts, whose shapes included: a checkpoint is written after it, and a resume does not
        repeat it. The value has tensors and plain values. It is in `kept/once/NAME.pth`; tensors are on the CPU.
        """
        session = self._session
        session.complete_break()
        self._check_outside(f"run.once({name!r}) is called")
        if name in self._once_names:
            raise RoundhouseError(f"run.once({name!r}) is called twice: give each value its own name")
        self._once_names.add(name)
        file = f"{keep.KEPT}/once/{keep.check_name(name)}.pth"
        if file in session.state.kept:
            value = checkpoint.read(session.directory / file)["value"]
            session.restore_parts()
        else:
            session.tracked.check_shapes()
            seed_globals(derive_seed(session.settings.seed, "once", name))
            value = session.ranks.agree("once", snapshot(function()))
            session.keep(file, checkpoint.pack({"value": value}))
            session.save()
        session.tracked.note_shapes()
        seed_globals(derive_seed(session.settings.seed, "after once", name))
        return value

    # ------------------------------------------------------------------------------------------- loops

    def steps(
        self,
        total: int | None,
        *,
        name: str = "train",
        save_every: int | None = None,
        until: Callable[[], bool] | None = None,
    ) -> Iterator[Step]:
        """A loop by steps. `total` may be None if `until`, called before each step, or a limit ends it.

        A checkpoint is written every `save_every` steps, after `save_minutes`, when the run must stop, and at the end.
        """
        return loops.steps(self._session, total, name, save_every, until)

    def epochs(self, total: int | None, *, name: str = "train") -> Iterator[Epoch]:
        """A loop by epochs. A checkpoint is written after each, if `save_each_epoch`, and inside one as for `steps`."""
        return loops.epochs(self._session, total, name)

    def pausable(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, for a long evaluation after the batches of an epoch or after the last loop: a signal ends it.

        The next attempt repeats the evaluation. In a loop by steps, a step is always completed.
        """
        session = self._session
        session.complete_break()
        for item in items:
            inside_step = bool(session.loop) and not session.state.loops[session.loop].open
            if not inside_step and (reason := session.stop_reason()):
                session.stop(reason)
            yield item

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """What runs inside a step but is no training, such as an evaluation: `time_limit` does not count it."""
        began, before = time.monotonic(), self._session.untimed
        self._session.ranks.broadcast(self._session.buffers)
        try:
            yield
        finally:
            self._session.untimed = before + time.monotonic() - began  # one inside it counts once

    # ------------------------------------------------------------------------------------------- results

    @property
    def history(self) -> list[dict[str, Any]]:
        """The entries that are recorded so far, oldest first: a copy. After a resume, those of the checkpoint, too."""
        self._session.complete_break()
        return [dict(row) for row in self._session.state.history]

    def record(self, **metrics: float) -> None:
        """Record metrics: with the epoch; in a loop by steps as an entry of its own, with the averages since the last.

        A metric need not be recorded each time. After a loop by steps, the entry is of its last step: for what is
        measured when a limit has ended the loop. It is recorded once, even if the code there runs again after a resume.
        RoundhouseError: a name is used twice. A value that is not finite is treated as a loss that is not finite.
        """
        session = self._session
        session.complete_break()
        if not session.loop and session.state.unit != STEP:
            raise RoundhouseError("run.record() outside a loop: give metrics of the whole run to run.finish()")
        if not session.loop and self.recorded(*metrics):
            return
        session.note(metrics)
        if session.state.unit == STEP:
            session.close_row()

    def recorded(self, *names: str) -> bool:
        """In a run by steps: whether the present step has entries with all these names; after a loop, its last step.

        Without names: whether it has an entry.
        """
        session = self._session
        session.complete_break()
        if session.state.unit == EPOCH:
            raise RoundhouseError("run.recorded() in a run by epochs: it is for runs by steps")
        rows = [row for row in session.state.history if row[STEP] == session.present_step]
        return bool(rows) and all(any(name in row for row in rows) for name in names)

    def keep(self, name: str, data: Any) -> None:
        """Keep an artefact as `kept/NAME`; see `training.keep.encoded` for what fits which ending."""
        session = self._session
        session.complete_break()
        file = f"{keep.KEPT}/{keep.check_name(name)}"
        if name.startswith("once/"):
            raise RoundhouseError(f"run.keep({name!r}, ...): the folder once/ is that of run.once")
        if session.replaying and file in session.state.kept:
            return  # it was written before the position in the checkpoint
        session.keep(file, keep.encoded(name, data))

    def keep_checkpoint(self, tag: str | None = None, *, last: int | None = None) -> None:
        """Keep the whole state as `snapshots/TAG.pth`, by default named by the position, after this step or epoch.

        `last`: of those without a tag, only the newest so many are kept. All losses before it are finite.
        """
        session = self._session
        session.complete_break()
        if last is not None and last < 1:
            raise RoundhouseError(f"run.keep_checkpoint(last={last}): at least the newest one must be kept")
        if tag is not None and ("/" in tag or re.fullmatch(r"(?:epoch|step)_\d{8,}", tag)):
            raise RoundhouseError(f"run.keep_checkpoint({tag!r}): a tag has no '/', and is not like step_00000001")
        if session.loop:
            session.snapshots.append(partial(self._keep_now, tag, last))
        else:
            self._keep_now(tag, last)

    def _keep_now(self, tag: str | None, last: int | None) -> None:
        session, state = self._session, self._session.state
        prefix = f"{keep.SNAPSHOTS}/{state.unit or STEP}_"
        file = f"{prefix}{state.units:08}.pth" if tag is None else f"{keep.SNAPSHOTS}/{keep.check_name(tag)}.pth"
        if session.replaying and (file in state.kept or state.loops):
            return  # it was kept, and maybe dropped since, before the position in the checkpoint
        content = {"format": checkpoint.FORMAT, **session.content()}
        session.keep(file, checkpoint.pack(content))
        if last is not None and tag is None:
            for old in sorted(one for one in state.kept if one.startswith(prefix))[:-last]:
                del state.kept[old]
                session.outdated.append(old)

    def drop_checkpoint(self, tag: str) -> None:
        """Delete the checkpoint kept with this tag, if there is one, once the checkpoint of the run no longer names it.

        One that is requested in the present step or epoch is kept after it, so it is not there yet.
        """
        session, file = self._session, f"{keep.SNAPSHOTS}/{keep.check_name(tag)}.pth"
        session.complete_break()
        if not session.replaying and session.state.kept.pop(file, None) is not None:
            session.outdated.append(file)
            session.changed()

    def stop(self, why: str) -> None:
        """End the training after this step: its loop, and all later ones, have no further steps."""
        if not why:
            raise RoundhouseError("run.stop(why): say why; it is recorded")
        self._session.state.stopped = self._session.state.stopped or why
        self._session.changed()

    def diverged(self, why: str) -> NoReturn:
        """End the run: its training diverged. This is final, and the metrics so far are its result."""
        raise Diverged(why)

    def finish(self, outputs: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Give the results of the run, after its last loop: arrays for `outputs.npz`, and final metrics.

        RoundhouseError: it is called twice or inside a loop, or an output is no array of numbers, text or truth values.
        """
        self._session.complete_break()
        self._check_outside("run.finish() is called")
        if self._finished is not None:
            raise RoundhouseError("run.finish() is called twice: give all results in one call")
        arrays = {name: keep.array(f"run.finish(outputs={{{name!r}: ...}})", value)
                  for name, value in (outputs or {}).items()}  # fmt: skip
        self._finished = arrays, {name: number_of(name, value) for name, value in (metrics or {}).items()}
        self._session.has_results = True

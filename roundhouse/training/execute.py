"""Executes a study: resumes it, confirms a loss that is not finite, and writes its results."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.settings import Settings, Start
from roundhouse.training import checkpoint, keep
from roundhouse.training.memory import free_cached_memory
from roundhouse.training.optimise import FiniteCheck, NotFinite, Optimisation, Place
from roundhouse.training.precision import Precision, choose_device, choose_precision, use_device, use_float32
from roundhouse.training.progress import position_of
from roundhouse.training.ranks import ALONE, Ranks
from roundhouse.training.reproducibility import differences, exactness, make_deterministic
from roundhouse.training.run import Run
from roundhouse.training.session import OTHERS, RUNG, WALLTIME, Diverged, Hooks, Session, Stopped
from roundhouse.training.state import State
from roundhouse.training.tracking import Mismatch, Tracked

__all__ = ["RUNG", "WALLTIME", "Attempt", "Hooks", "Outcome", "Start", "execute", "prepare"]
OUTPUTS = "outputs.npz"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. A later attempt continues an unfinished run from its checkpoint."""

    finished: bool
    reason: str  # completed, or why training ended early; unfinished: walltime, rung, or that of `stop`
    position: str  # what is complete: epoch 3/10
    exact: bool
    diverged: bool = False
    final_hash: str | None = None  # of the tracked parts after the last loop; None if unfinished
    metrics: Mapping[str, float] = field(default_factory=dict)  # the final ones
    artifacts: Mapping[str, str] = field(default_factory=dict)  # file name -> SHA-256


@dataclass(frozen=True)
class Attempt:
    """Where an attempt writes, and what it may continue from. `of_another_config`: those the user has allowed."""

    directory: Path
    earlier: Sequence[Path] = ()
    of_another_config: Sequence[Path] = ()
    start: Start | None = None


def prepare(settings: Settings) -> Precision:
    """Choose device and precision, and make the process deterministic. Call it before a study is built.

    A GPU becomes the current one, and float32 is float32 everywhere, without TF32.
    RoundhouseError: the device cannot be used.
    """
    if settings.deterministic:
        make_deterministic()
    use_float32()
    device = choose_device(settings.device, settings.ngpus)
    use_device(device)
    return choose_precision(settings.precision, device)


def execute(
    study: Callable[[Run], None], settings: Settings, attempt: Attempt, hooks: Hooks, ranks: Ranks = ALONE
) -> Outcome:
    """Train to the end, or until the run must stop. It writes only into the attempt's directory.

    `ranks`: this process among those of the run; all call this function with the same study and settings.

    It resumes from the newest valid checkpoint there or in `earlier` (oldest first), whose checkpoints it deletes once
    the directory has its own. A loss that is not finite is confirmed once by computing it again from the last
    checkpoint. RoundhouseError: the disk is full, a loss is not reproducible, the study is not written as it should be.
    """
    precision = prepare(settings)
    try:
        return _run_once(study, settings, precision, attempt, hooks, ranks, None)
    except NotFinite as error:
        place, text = error.place, str(error)
    checkpoint.warn(f"{text}; it is computed again from the last checkpoint, to confirm it")
    free_cached_memory()  # of the first try, to which the traceback of the error has referred
    try:
        return _run_once(study, settings, precision, attempt, hooks, ranks, place)
    except NotFinite as error:
        if error.place != place:
            raise RoundhouseError(
                f"{text}, but when it was computed again from the last checkpoint, {error}: not reproducible, suspect "
                "the hardware (or kernels that are not deterministic)"
            ) from None
    return _diverged(
        settings, precision, attempt, hooks, ranks, f"{text} at precision {precision.name}, twice", place.step
    )


def _run_once(
    study: Callable[[Run], None],
    settings: Settings,
    precision: Precision,
    attempt: Attempt,
    hooks: Hooks,
    ranks: Ranks,
    expected: Place | None,
) -> Outcome:
    session, found = _open(settings, precision, attempt, hooks, ranks, expected)
    try:
        run = Run(session)
        hooks.report(session)
        study(run)
        arrays, metrics = run.results()
        return _finish(session, arrays, metrics)
    except Mismatch as error:
        raise _does_not_match(found, error, attempt) from error
    except Stopped as stopped:
        return Outcome(False, stopped.reason, position_of(session), session.state.exact)
    except Diverged as diverged:
        ranks.gather("run.diverged", None)
        return _write_diverged(session, diverged.why, session.state.step)
    finally:
        session.close()


def _open(
    settings: Settings, precision: Precision, attempt: Attempt, hooks: Hooks, ranks: Ranks, expected: Place | None
) -> tuple[Session, Path | None]:
    """The session, at the position of the checkpoint that it resumes or starts from, and that file."""
    scaler = torch.amp.GradScaler(precision.device.type) if precision.scaled else None
    optimisation = Optimisation(scaler, FiniteCheck(expected, ranks), ranks)
    found = _newest(attempt, ranks)
    start = attempt.start if found is None else None
    if start is not None:
        found = checkpoint.Found(start.path, checkpoint.read_whole(start.path))

    def session_of(state: State, tracked: Tracked) -> Session:
        place = attempt.directory
        return Session(settings, precision, place, hooks, state, tracked, optimisation, attempt.earlier, ranks)

    if found is None or (start is not None and not start.keeps_position):
        parts = found.content["parts"] if found else {}
        session = session_of(State(accumulate=settings.accumulate), Tracked(parts, complete=False))
        return session, found.path if found else None
    state = State.of(found.content)
    source = found.path.parent if start is None else start.path.parent
    if start is not None:
        state.continued()
        source = source.parent if source.name == keep.SNAPSHOTS else source
    before, state.accumulate = state.accumulate, max(state.accumulate, settings.accumulate)
    other = found.path.parent in attempt.of_another_config
    changed = _changes(found.content, state, before, precision, settings, ranks, other)
    if changed:
        if ranks.first:
            checkpoint.warn(f"resume is approximate: {', '.join(changed)}")
        state.exact = False
    state.kept = ranks.agree("kept", keep.link_from(source, attempt.directory, state.kept) if ranks.first else {})
    if scaler is not None and found.content["scaler"]:
        scaler.load_state_dict(found.content["scaler"])
    optimisation.recent, optimisation.unchecked = list(state.recent), state.unchecked
    own_buffers = _take_own(state, found.content, ranks)
    state.row.sums = {name: one.to(precision.device) for name, one in state.row.sums.items()}
    session = session_of(state, Tracked(found.content["parts"]))
    session.own_buffers = own_buffers
    session.started = state.epoch, state.step
    session.resumed = session.replaying = True
    session.resumed_globals, state.globals = state.globals, None
    if ranks.first and found.path != attempt.directory / checkpoint.CHECKPOINT:
        # This directory must be complete even if nothing is left to train.
        checkpoint.save(attempt.directory, found.content)
    return session, found.path


def _newest(attempt: Attempt, ranks: Ranks) -> checkpoint.Found | None:
    """The checkpoint to resume from, which process 0 chooses."""
    found = checkpoint.newest(attempt.directory, attempt.earlier) if ranks.first else None
    path = ranks.agree("checkpoint", found.path if found else None)
    if path is not None and not ranks.first:
        found = checkpoint.Found(path, checkpoint.read_whole(path))
    ranks.gather("checkpoint read", None)  # from now on, process 0 may replace the file
    return found


def _take_own(state: State, content: Mapping[str, Any], ranks: Ranks) -> list[torch.Tensor] | None:
    """What belongs to this process alone, if the run had as many processes when it was saved. Returns its buffers."""
    others = content.get(OTHERS, [])
    if not ranks.first and len(others) == ranks.count - 1:
        own = others[ranks.rank - 1]
        state.globals, state.row.sums = own["globals"], own["sums"]
        return list(own["buffers"])
    return None


def _changes(
    content: Mapping[str, Any],
    state: State,
    before: int,
    precision: Precision,
    settings: Settings,
    ranks: Ranks,
    other: bool,
) -> list[str]:
    """Why the resume is approximate; empty if it is exact."""
    changed = differences(content["environment"], exactness(precision.device, precision.name) | dict(ranks.facts))
    if state.accumulate > before:
        factor = state.accumulate // before
        changed.append(f"batches are split into {factor} times as many parts, because memory ran out")
    if other:
        changed.append("it continues a run with another config or other inputs (--keep-files)")
    if not settings.deterministic:
        changed.append("deterministic is off")
    return changed


def _does_not_match(path: Path | None, error: Mismatch, attempt: Attempt) -> RoundhouseError:
    other = path is not None and path.parent in attempt.of_another_config
    remedy = "use the code that wrote it, or start the experiment from the beginning with --rerun"
    if other:
        remedy = "to start from the beginning, --retry without --keep-files"
    why = "the new config has another model, or fewer epochs or steps" if other else "the code of its study has changed"
    if attempt.start is not None and path == attempt.start.path:
        why, remedy = "it is of another model or study", "change `init` or `continue` in the round file"
    return RoundhouseError(f"{path} does not match this experiment ({error}): {why}; {remedy}")


def _finish(session: Session, arrays: Mapping[str, np.ndarray], metrics: Mapping[str, float]) -> Outcome:
    """Write the results. If it is interrupted, the next attempt repeats what follows the last loop."""
    state = session.state
    if not state.loops:
        raise RoundhouseError("the study has no loop: it must use run.steps or run.epochs")
    if reason := session.stop_reason():
        session.stop(reason)
    session.checks.passed(state.step + 1)
    if session.unsaved_results:
        session.save_outside_loops()
    reason = session.ended or "completed"
    session.ranks.gather("results", None)  # no result is written while another process trains
    if not session.ranks.first:
        return Outcome(True, reason, position_of(session), state.exact)
    files_of_run = dict(state.kept)
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
        files_of_run[OUTPUTS] = session.replace(OUTPUTS, buffer.getvalue())
    session.write_files(final=metrics)
    for name in (*state.bests, checkpoint.CHECKPOINT):
        files_of_run[name] = hashlib.sha256((session.directory / name).read_bytes()).hexdigest()
    checkpoint.delete_earlier(session.earlier)
    files.remove(session.directory / checkpoint.PREVIOUS)
    return Outcome(True, reason, position_of(session), state.exact, False, session.final_hash, metrics, files_of_run)


def _diverged(
    settings: Settings, precision: Precision, attempt: Attempt, hooks: Hooks, ranks: Ranks, why: str, step: int
) -> Outcome:
    """Record that the run diverged, with the metrics up to the last checkpoint."""
    session, _ = _open(settings, precision, replace(attempt, start=None), hooks, ranks, None)
    return _write_diverged(session, why, step)


def _write_diverged(session: Session, why: str, step: int) -> Outcome:
    """`step`: how many steps were complete before."""
    session.write_files(diverged={"step": step, "why": why})
    return Outcome(False, why, position_of(session), session.state.exact, diverged=True)

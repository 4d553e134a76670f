"""The progress of a run: for progress.json, and as lines of the log."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from roundhouse.training.session import RESERVED, Session
from roundhouse.training.state import EPOCH, STEP, LoopState


def progress_of(session: Session) -> dict[str, Any]:
    """What progress.json says of a run. Steps and epochs are counted over all loops, and only those that are saved."""
    state, main, planned = session.state, session.main, planned_units(session)
    last: Mapping[str, Any] = state.history[-1] if state.history else {}
    per_epoch, per_step = _pace(session)
    epochs_at_start, steps_at_start = session.started
    metric = main.metric if main else None
    best = state.bests.get(main.file) if main else None
    found: dict[str, Any] = {
        "unit": state.unit or None,
        "step": state.step,
        "steps": planned if state.unit == STEP else _planned_steps(session, planned),
        "started_step": steps_at_start,
        "seconds_per_step": per_step,
        "stage": session.loop or last.get("stage"),
        "metric_name": metric,
        "metric": next((one[metric] for one in reversed(state.history) if metric in one), None) if metric else None,
        "best": best["value"] if best else None,
        "mode": main.mode if main and metric else None,
        "exact": state.exact,
        "means": session.means,
    }
    if state.unit != STEP:
        found |= {"epoch": state.epoch, "epochs": planned, "started_epoch": epochs_at_start}
        found["seconds_per_epoch"] = per_epoch
    return found


def planned_units(session: Session) -> int | None:
    """Epochs or steps over all loops: as the study has said, else of the loops that are known."""
    state, settings = session.state, session.settings
    totals = [loop.total for loop in state.loops.values()]
    known = [one for one in totals if one is not None]
    total = state.planned
    if total is None and totals and len(known) == len(totals):
        total = sum(known)
    limit = settings.max_steps if state.unit == STEP else settings.max_epochs
    return min((one for one in (total, limit) if one is not None), default=None)


def _planned_steps(session: Session, epochs: int | None) -> int | None:
    """Steps over all loops, if all epochs have as many as those that are complete; None: not known."""
    complete = [one for one in session.state.history if EPOCH in one and not one.get("partial")]
    if epochs is None or not complete:
        return None
    steps, done = complete[-1][STEP], complete[-1][EPOCH]
    return int(steps // done * epochs) if steps % done == 0 else None


def _pace(session: Session) -> tuple[float | None, float | None]:
    """Seconds per epoch, the median of the present stage; and per step. None: not measured yet."""
    state = session.state
    stage = session.loop or next(reversed(state.loops), "")
    seconds = [row["seconds"] for row in state.history if row["stage"] == stage and EPOCH in row]
    loop = state.loops.get(stage, LoopState())
    per_epoch = round(statistics.median(seconds), 3) if seconds else None
    return per_epoch, round(loop.seconds / loop.steps, 6) if loop.steps else None


def line_of(session: Session) -> str:
    """A line about the newest entry of the history: `epoch 3/10 (train): loss 0.5`."""
    entry = session.state.history[-1]
    unit = session.state.unit or EPOCH
    planned = _of(planned_units(session))
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in entry.items() if name not in RESERVED)
    seconds = f", seconds {entry['seconds']:.4g}" if unit == EPOCH else ""
    return f"{unit} {entry[unit]}{planned} ({entry['stage']}): {metrics}{seconds}"


def position_of(session: Session) -> str:
    """The position that is saved: `epoch 3/10`, `epoch 3/10, batch 5`, `step 400/1000`."""
    state = session.state
    unit = state.unit or EPOCH
    planned = _of(planned_units(session))
    inside = [loop.batch for loop in state.loops.values() if loop.open and loop.batch]
    return f"{unit} {state.units}{planned}" + (f", batch {inside[-1]}" if inside else "")


def _of(planned: int | None) -> str:
    return "" if planned is None else f"/{planned}"

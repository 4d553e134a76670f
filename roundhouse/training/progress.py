"""The progress of a run: for progress.json, and as lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roundhouse.training.session import RESERVED, Session
from roundhouse.training.state import EPOCH, STEP


def progress_of(session: Session) -> dict[str, Any]:
    """What progress.json says of a run. Steps and epochs are counted over all loops, and only those that are saved."""
    state, main = session.state, session.main
    last: Mapping[str, Any] = state.history[-1] if state.history else {}
    per_epoch, per_step = session.pace()
    epochs_at_start, steps_at_start = session.started
    found: dict[str, Any] = {
        "unit": state.unit or None,
        "step": state.step,
        "steps": session.planned if state.unit == STEP else session.planned_steps,
        "started_step": steps_at_start,
        "seconds_per_step": per_step,
        "stage": session.loop or last.get("stage"),
        "metric_name": main.metric if main else None,
        "metric": last.get(main.metric) if main and main.metric else None,
        "best": session.best_value,
        "mode": main.mode if main and main.metric else None,
        "exact": state.exact,
    }
    if state.unit != STEP:
        found |= {"epoch": state.epoch, "epochs": session.planned, "started_epoch": epochs_at_start}
        found["seconds_per_epoch"] = per_epoch
    return found


def line_of(session: Session) -> str:
    """A line about the newest entry of the history: `epoch 3/10 (train): loss 0.5`."""
    entry = session.state.history[-1]
    unit = session.state.unit or EPOCH
    planned = f"/{session.planned}" if session.planned is not None else ""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in entry.items() if name not in RESERVED)
    seconds = f", seconds {entry['seconds']:.4g}" if unit == EPOCH else ""
    return f"{unit} {entry[unit]}{planned} ({entry['stage']}): {metrics}{seconds}"


def position_of(session: Session) -> str:
    """The position that is saved: `epoch 3/10`, `epoch 3/10, batch 5`, `step 400/1000`."""
    state = session.state
    unit = state.unit or EPOCH
    planned = f"/{session.planned}" if session.planned is not None else ""
    inside = [loop.batch for loop in state.loops.values() if loop.open and loop.batch]
    return f"{unit} {state.units}{planned}" + (f", batch {inside[-1]}" if inside else "")

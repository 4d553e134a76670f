"""The content of metrics.json, from the state of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from roundhouse.training.state import EPOCH, STEP

if TYPE_CHECKING:
    from roundhouse.training.session import Session


def metrics_of(
    session: Session, final: Mapping[str, float] | None, diverged: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What was recorded, and what is best. `final`: of a finished run; `diverged`: where and why."""
    state, main = session.state, session.main
    best = state.bests.get(main.file) if main and main.metric else None
    shown: dict[str, Any] | None = None
    if best and main and main.metric and best["value"] is not None:
        shown = {key: best[key] for key in (EPOCH, STEP) if key in best} | {main.metric: best["value"]}
    metrics: dict[str, Any] = {
        "metric": main.metric if main else None,
        "mode": main.mode if main and main.metric else None,
        "exact": state.exact,
        "best": shown,
        "final": final,
    }
    if session.ended:
        metrics["ended"] = session.ended
    if diverged:
        metrics["diverged"] = diverged
    used = {
        "seconds": round(sum(row["seconds"] for row in state.history) + state.row.seconds, 3),
        "train_seconds": round(state.seconds, 3),
        "peak_memory_mb": max((row["peak_memory_mb"] for row in state.history), default=session.peak_memory()),
    }
    return {**metrics, "used": used, "epochs": state.history}

"""When a run saves, stops and reports between its steps, by the times that steps, saves and evaluations took so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

MEANS_EVERY = 10.0  # seconds between two reports of means, which wait for the device
_RECENT = 20  # steps from whose times the next one's is estimated


class Due(NamedTuple):
    """What is due between two steps."""

    stop: str | None = None  # why the run must stop
    save: bool = False
    means: bool = False  # reporting them


@dataclass
class Timing:
    """The times of one attempt, in seconds, by the monotonic clock."""

    saved_at: float = field(default_factory=lambda: time.monotonic())
    means_at: float = field(default_factory=lambda: time.monotonic())  # when they were computed last
    safe_at: float | None = None  # when the last safe point to stop at was passed
    saving: float = 0.0  # what the longest save took
    evaluation: float = 0.0  # and the longest work that is not part of a step
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _saved_for_evaluation: bool = False

    def due(self, why_stop: Callable[[float], str | None], save_every: float, untimed: float) -> Due:
        """What is due now, after a step of which `untimed` seconds do not count.

        `why_stop`: why the run must stop, if the next safe point is so many seconds away. `save_every`: seconds.
        """
        now = time.monotonic()
        if self.safe_at is not None:
            self._gaps.append(max(0.0, now - self.safe_at - untimed))
        gap = max(self._gaps, default=0.0) + self.saving
        if stop := why_stop(gap):
            return Due(stop)
        save = now - self.saved_at >= save_every
        if not save and not self._saved_for_evaluation and why_stop(gap + self.evaluation):
            save = self._saved_for_evaluation = True  # an evaluation in the next step may not end before the walltime
        return Due(None, save, now - self.means_at >= MEANS_EVERY)

    def evaluated(self, seconds: float) -> None:
        """Note the time of work that is not part of a step."""
        self.evaluation = max(self.evaluation, seconds)
        self.safe_at = None

"""The period of a summary, and its dates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from roundhouse.errors import RoundhouseError

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to just before `until`, in seconds since 1970."""

    since: float
    until: float

    def __contains__(self, at: float) -> bool:
        return self.since <= at < self.until

    def overlap(self, start: float, end: float) -> float:
        """How many seconds of this span are in the period."""
        return max(0.0, min(end, self.until) - max(start, self.since))


def read_moment(text: str, before: float) -> float:
    """A date, or `N days` before the moment `before`, in seconds since 1970. RoundhouseError: it is neither."""
    try:
        if found := re.fullmatch(r"(\d+)\s*d(?:ays?)?(?:\s+ago)?", text.strip(), re.ASCII):
            moment = EPOCH + timedelta(seconds=before) - timedelta(days=int(found[1]))
        else:
            moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc).timestamp()
    except (ValueError, OverflowError):
        raise RoundhouseError(f"a date must be like 2026-11-14, 2026-11-14T09:30 or `7 days` (got {text!r})") from None


def format_time(at: float, form: str = "%d %b %Y, %H:%M") -> str:
    """A time in UTC."""
    return (EPOCH + timedelta(seconds=at)).strftime(form).lstrip("0")

"""A console of rich that prints no control characters except its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from roundhouse.terminal import escape


class EscapingConsole(Console):
    """By default, it prints to stdout. Text is escaped before it is fitted into columns."""

    def __init__(self, **options: Any) -> None:
        stdout = getattr(sys.stdout, "unfiltered", sys.stdout)  # the control codes of rich must pass
        super().__init__(**{"file": stdout, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape(segment.text))

"""Results of the checks: rows, a table of them, and the JSON file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAILED, SKIPPED, MEASURED = "ok", "FAILED", "skipped", "measured"
HEADINGS = ("part", "check", "result", "figures")


@dataclass(frozen=True)
class Row:
    """One result. `values`: the figures, for the JSON file; `text`: the same, or the reason, for the table."""

    part: str
    check: str
    result: str
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a part gets: the device, when it must have ended, and what to do with a row."""

    part: str
    device: str
    deadline: float  # time.monotonic()
    write: Callable[[Row], None]

    @property
    def small(self) -> bool:
        """A dry run on tiny stand-ins."""
        return self.device == "cpu"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def row(self, check: str, result: str, text: str = "", **values: Any) -> None:
        self.write(Row(self.part, check, result, text, values))

    def attempt(self, check: str, work: Callable[[], None], needs: float = 0.0) -> None:
        """Do `work`, which writes its own rows. An error is a row; without time for it (`needs`, in seconds) so too."""
        if self.left < needs:
            self.row(check, SKIPPED, "no time left")
            return
        try:
            work()
        except Exception as error:
            self.row(check, FAILED, shortened(f"{type(error).__name__}: {error}"))


def shortened(text: str, length: int = 200) -> str:
    """On one line of a table."""
    return " ".join(text.replace("|", "/").split())[:length]


def append(path: Path, row: Row) -> None:
    """Add a row to a file, so that it is there whatever happens to the part."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """The complete rows of a file."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table_head() -> str:
    return f"{line(HEADINGS)}\n|{'---|' * len(HEADINGS)}"


def table_row(row: Row) -> str:
    return line((row.part, row.check, row.result, row.text))


def summary(rows: Sequence[Row]) -> str:
    counts = {result: sum(row.result == result for row in rows) for result in (OK, FAILED, SKIPPED, MEASURED)}
    return ", ".join(f"{number} {result}" for result, number in counts.items())


def write_json(path: Path, device: str, seconds: float, rows: Sequence[Row]) -> None:
    """All results so far, with those of the part `machine` in a place of their own."""
    machine = next((dict(row.values) for row in rows if row.part == "machine"), {})
    each = [asdict(row) for row in rows]
    content = {"device": device, "machine": machine, "seconds": round(seconds, 1), "rows": each}
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(draft, path)

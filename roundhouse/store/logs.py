"""The last lines of attempts' logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from roundhouse import files
from roundhouse.model.attempt import Record
from roundhouse.store import record

_END = 1 << 16  # bytes at the end of a log that are read
_LONG = 2000  # characters of a line, of which more are not shown: its start and its end are
_CONTROL = re.compile(  # what moves the cursor, erases or colours; one match for each
    r"""(\x1b\[[0-?]*[ -/]*[@-~]   # sequences such as colours, or "erase the line"
    |\x1b[]PX^_].*?(?:\x07|\x1b\\|$)   # strings such as the title of the window
    |\x1b[ -/]*[0-~]
    |\r|\x08)""",
    re.VERBOSE,
)
_OURS = "roundhouse: attempt"  # prefix of lines about the run that the run did not print


def tail(directory: Path, number: int, lines: int = 15) -> str:
    """The last lines of out.log and of scheduler.log."""
    own, kept = _end(record.attempt_directory(directory, number) / record.LOG), _scheduler_log(directory, number)
    return "\n".join([*own[-lines:], *kept[-lines:]])


def last_line(rec: Record) -> str:
    """The last log line of a failed run; of scheduler.log, if the run never started."""
    place = record.attempt_directory(rec.directory, rec.runs[-1].number)
    lines: list[str] = []
    for line in _end(place / record.LOG) or _scheduler_log(rec.directory, rec.runs[-1].number):
        if line.startswith(f"{_OURS} {rec.runs[-1].number} runs "):
            lines.clear()  # the lines before come from the site's setup lines
        elif line.strip() and not line.startswith(_OURS):
            lines.append(line.strip())
    return f". Last log line: {lines[-1].removeprefix('roundhouse: ')[:200]}" if lines else ""


def _scheduler_log(directory: Path, number: int) -> list[str]:
    """The last lines of scheduler.log. For a task of an array, PBS leaves it in the array's directory as log.INDEX."""
    place = record.attempt_directory(directory, number)
    if lines := _end(place / record.SCHEDULER_LOG):
        return lines
    try:
        value = json.loads(files.read_bytes(place / record.JOB) or b"{}")
        compacted = [one["job"] for one in value.get("attempts", ()) if one["number"] == number]
        opened = compacted[0] if compacted else value
        return _end(directory / opened["shared"] / f"log.{int(opened['array_index'])}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # It is not a task, or its job.json cannot be parsed.
        return []


def _end(log: Path) -> list[str]:
    """The last lines of a log, as a terminal shows them."""
    try:
        raw = files.read_end(log, _END) or b""
    except OSError as error:  # an unreadable log must not stop a pass
        return [f"{log.name} cannot be read: {error.strerror}"]
    lines = raw.decode(errors="backslashreplace").removesuffix("\n").split("\n") if raw else []
    return [_shortened(as_displayed(line)) for line in (lines[1:] if len(raw) == _END and len(lines) > 1 else lines)]


def _shortened(line: str) -> str:
    return line if len(line) <= _LONG else f"{line[: _LONG // 2]} ... {line[-_LONG // 2 :]}"


def as_displayed(line: str) -> str:
    """What a line looks like on a terminal: text after a carriage return replaces the text before, as in progress bars.

    Colours and other sequences are left out.
    """
    line = line.removesuffix("\r")
    if not _CONTROL.search(line):
        return line
    shown, at = "", 0
    for part in _CONTROL.split(line):
        if part == "\r":
            at = 0
        elif part == "\b":
            at = max(at - 1, 0)
        elif part in ("\x1b[K", "\x1b[0K"):
            shown = shown[:at]
        elif part == "\x1b[2K":
            shown = " " * at
        elif not part.startswith("\x1b"):
            shown, at = shown[:at].ljust(at) + part + shown[at + len(part) :], at + len(part)
    return shown

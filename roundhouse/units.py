"""Memory and walltimes as files write them, read into MiB and seconds."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from roundhouse.schema import Rule

_WALLTIME = r"(?:(?:(\d+)-)?(\d+):)?(\d+):([0-5]?\d)"
_MEMORY = r"(\d{1,15}(?:\.\d+)?) ?([kmgt])(?:i?b)?"
_MEBIBYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}


def walltime_seconds(value: Any) -> int:
    """Seconds of "H:MM:SS", "MM:SS", "D-HH:MM:SS", or of an int, which is in seconds already. ValueError otherwise."""
    seconds = 0
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (match := re.fullmatch(_WALLTIME, value, re.ASCII)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds < 1:
        raise ValueError(f'{value!r} is not a walltime: write "H:MM:SS", "MM:SS", "D-HH:MM:SS" or whole seconds')
    return seconds


def memory_mebibytes(value: Any) -> int:
    """MiB, rounded up, of "16gb", "512mb", "2G" and the like; all units are powers of 1024. ValueError otherwise."""
    match = re.fullmatch(_MEMORY, value.lower(), re.ASCII) if isinstance(value, str) else None
    mebibytes = math.ceil(float(match[1]) * _MEBIBYTES[match[2]]) if match else 0
    if mebibytes < 1:
        raise ValueError(f"{value!r} is not an amount of memory: write a number and a unit, such as 16gb or 512mb")
    return mebibytes


Walltime = Annotated[
    int,
    Rule(
        before=walltime_seconds,
        form={"anyOf": [{"type": "string", "pattern": f"^{_WALLTIME}$"}, {"type": "integer", "minimum": 1}]},
    ),
]
Memory = Annotated[
    int,
    Rule(before=memory_mebibytes, form={"type": "string", "pattern": r"^\d+(\.\d+)? ?[kmgtKMGT]([iI]?[bB])?$"}),
]

"""The lines under `setup` in a site file, as complete shell commands: each is checked when it has run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_SHOWN = 200  # characters of a command, in the reason of a failure


@dataclass(frozen=True, slots=True)
class SetupCommand:
    """A complete shell command: one line of `setup`, or several, such as those of an `if`. `number`: of its first."""

    number: int
    text: str

    @property
    def shown(self) -> str:
        """Its text in the reason of a failure: one line."""
        first, *more = self.text.strip().splitlines() or [""]
        return f"{first[:_SHOWN]} ..." if more or len(first) > _SHOWN else first


def syntax_error(lines: Sequence[str]) -> str:
    """Why bash cannot read the lines; empty if it can."""
    said = _parsed("\n".join(lines)) if lines else ""
    return re.sub(r"^(/\S*/)?bash: (warning: )?", "", said.splitlines()[0]) if said else ""


@lru_cache(maxsize=8)
def setup_commands(lines: tuple[str, ...]) -> tuple[SetupCommand, ...]:
    """The commands of the lines, in their order. Lines that are incomplete alone are one command with those below."""
    commands: list[SetupCommand] = []
    first = 0
    for number in range(1, len(lines) + 1):
        text = "\n".join(lines[first:number])
        if number == len(lines) or not (text.endswith("\\") or _parsed(text)):
            commands.append(SetupCommand(first + 1, text))
            first = number
    return tuple(commands)


def _parsed(text: str) -> str:
    """What bash says about the syntax of a text, without running it; nothing if it is complete and correct."""
    done = subprocess.run(
        ["bash", "-O", "extglob", "-n"],
        input=text + "\n", capture_output=True, text=True, encoding="utf-8", errors="surrogateescape", check=False,
    )  # fmt: skip
    return done.stderr.strip()

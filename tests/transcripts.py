"""Reads transcripts of real commands: files with `$ command`, `[exit N]`, `[stdout]`, `[stderr]`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from roundhouse.schedulers.base import Output

DATA = Path(__file__).parent / "data"


def transcripts(folder: str) -> dict[str, list[Output]]:
    """File name without ending -> the commands in it, in order."""
    return {path.stem: read_transcript(path.read_text()) for path in sorted((DATA / folder).glob("*.txt"))}


def transcript(folder: str, name: str) -> Output:
    """The first command of a file."""
    return read_transcript((DATA / folder / f"{name}.txt").read_text())[0]


def read_transcript(text: str) -> list[Output]:
    """The commands of one file. If stdout and stderr are not separated, a JSON document is stdout."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        code = re.search(r"^\[exit (\d+)\]\n", said, re.MULTILINE)
        assert code is not None, f"no exit code: {command}"
        sections = re.search(r"^\[stdout\]\n(.*)^\[stderr\]\n?(.*)", said, re.MULTILINE | re.DOTALL)
        if sections:
            stdout, stderr = sections[1], sections[2]
        else:
            mixed = said.replace(code[0], "")
            document = re.search(r"^\{\n.*^\}\n", mixed, re.MULTILINE | re.DOTALL)
            stdout = document[0] if document else ""
            stderr = mixed.replace(stdout, "") if stdout else mixed
        found.append(Output(tuple(shlex.split(command)), int(code[1]), stdout, stderr))
    return found


def replay(answers: Mapping[str, Output | Sequence[Output]]) -> Callable[[Sequence[str]], Output]:
    """A `run` that answers by the longest prefix of the command line in `answers`; the answers of a list in order."""
    queues = {start: list(given) if not isinstance(given, Output) else None for start, given in answers.items()}

    def run(argv: Sequence[str]) -> Output:
        line = " ".join(argv)
        start = max((start for start in answers if line.startswith(start)), key=len, default=None)
        assert start is not None, f"unexpected line: {line}"
        queue = queues[start]
        if queue is None:
            recorded = answers[start]
            assert isinstance(recorded, Output)
            return recorded
        assert queue, f"unexpected command: {line}"
        return queue.pop(0)

    return run

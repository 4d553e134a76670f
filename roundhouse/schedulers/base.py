"""The interface of a scheduler: submit, query, cancel, with answers of distinct types.

A scheduler builds command lines and parses what they print. It runs nothing itself: it is passed `run`, which runs one
command under a time limit. It decides nothing, and knows neither records nor plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from roundhouse.model.answers import Identity, Jobs, QueryFailed, SubmitAnswer

if TYPE_CHECKING:  # it needs packages, and toolbox/setup.sh runs without any
    from roundhouse.model.experiment import Resources


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a command. `code` is None if it did not start or exceeded its limit; `stderr` then says which."""

    argv: tuple[str, ...]
    code: int | None
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """One line for the user: the command, its exit code and its output."""
        printed = " ".join((self.stderr.strip() or self.stdout.strip() or "no output").split())
        return f"{self.argv[0]} (exit {'none' if self.code is None else self.code}): {printed[:300]}"


Run = Callable[[Sequence[str]], Output]
QueryAnswer = Jobs | QueryFailed


class Scheduler(Protocol):
    """The methods of a scheduler. All take `run` and return answers; none raises because of a command's output."""

    kind: str
    grace: float  # seconds for which a job must be missing before it counts as gone

    def identity(self, run: Run) -> Identity | QueryFailed:
        """Which scheduler answers on this host."""

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        """Submit a rendered script. Its header has resources, name and log; only the local machine uses `need`."""

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> QueryAnswer:
        """All live jobs of this user, and those jobs with `ids` or `names` whose end the scheduler remembers.

        `since`: none of them was submitted before this time, in seconds since 1970.
        """

    def array_limit(self, run: Run, queue: str | None) -> int:
        """How many tasks an array may have in `queue` (None: the default queue); 1 if there are no arrays."""

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        """Delete jobs; returns error messages. That a job is already gone is not an error."""


def in_batches(words: Iterable[str], size: int) -> list[list[str]]:
    """Sorted lists of at most `size` words, because the length of command lines is limited."""
    ordered = sorted(words)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]

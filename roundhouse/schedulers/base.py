"""What a scheduler is to the rest: three verbs, and answers that cannot be mistaken for one another.

A scheduler builds command lines and reads what they print. It runs nothing itself: it is handed `run`,
which runs one command under a time limit. It decides nothing, and knows neither records nor plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roundhouse.model.answers import Identity, Jobs, QueryFailed, SubmitAnswer
from roundhouse.model.experiment import Resources


@dataclass(frozen=True, slots=True)
class Output:
    """What a command did. `code` is None if it did not start or outlasted its limit; `stderr` then says which."""

    argv: tuple[str, ...]
    code: int | None
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """One line for a person: the command and what it said."""
        said = " ".join((self.stderr.strip() or self.stdout.strip() or "said nothing").split())
        return f"{self.argv[0]} (exit {'none' if self.code is None else self.code}): {said[:300]}"


Run = Callable[[Sequence[str]], Output]
ONE_CORE = Resources()


class Scheduler(Protocol):
    """The verbs of a scheduler. All take `run` and return answers; none raises for what a command said."""

    kind: str
    grace: float  # seconds a job must be missing before its silence counts

    def identity(self, run: Run) -> Identity | QueryFailed:
        """Which scheduler answers here."""
        ...

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        """Submit a rendered script. Its header holds resources, name and log already; this machine looks at `need`."""
        ...

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        """All live jobs of this user; of `ids` and `names` also what is remembered of their end.

        `since`: none of them was submitted before this time, in seconds since 1970.
        """
        ...

    def array_limit(self, run: Run, queue: str | None) -> int:
        """How many tasks an array may have in `queue`, None being the default one; 1 where there are no arrays."""
        ...

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        """Delete jobs; returns complaints. That a job is gone already is no complaint."""
        ...


def in_batches(words: Iterable[str], size: int) -> list[list[str]]:
    """Words in sorted lists of at most `size`: command lines have limits."""
    listed = sorted(words)
    return [listed[start : start + size] for start in range(0, len(listed), size)]

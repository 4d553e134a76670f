"""The commits of a period, by area of the project."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.methodology import in_markdown
from roundhouse.environ import for_git
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from toolbox.weekly.period import Period, format_time

AREAS = {
    "roundhouse/": "Runner and schedulers", "runner.py": "Runner and schedulers", "templates/": "Runner and schedulers",
    "sites/": "Runner and schedulers", "roundhouse/training/": "Training", "train.py": "Training",
    "analysis/": "Analysis", "toolbox/": "Toolbox", "rounds/": "Rounds", "benchmarks/": "Benchmarks",
    "docs/": "Documentation", "tests/": "Tests", ".github/": "Project files",
}  # fmt: skip
SECONDARY = ("Tests", "Documentation", "Project files")  # the area of a commit only if it changes nothing else


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that is no merge. `files`: by path, lines added and removed; both 0 for a file that is not text."""

    at: int
    subject: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def area(self) -> str:
        """The area of most of its lines."""
        lines: Counter[str] = Counter()
        for path, (added, removed) in self.files.items():
            lines[area_of(path)] += added + removed + 1
        return max(lines, key=lambda area: (area not in SECONDARY, lines[area], area))


def area_of(path: str) -> str:
    """The area of the project that a file belongs to: `Analysis`, `Study NAME`, or its top folder's name."""
    folder, _, rest = path.partition("/")
    if folder == "studies" and "/" in rest:
        return f"Study {rest.partition('/')[0]}"
    known = [place for place in AREAS if path == place or (place.endswith("/") and path.startswith(place))]
    if known:
        return AREAS[max(known, key=len)]
    return f"Folder {folder}" if rest else "Documentation" if path.endswith(".md") else "Project files"


def commits_of(repository: Path, period: Period) -> list[Commit]:
    """The commits of a period on the branch that is checked out, oldest first. RoundhouseError: git failed."""
    command = ["git", "-C", str(repository), "-c", "log.showSignature=false", "log", "-z", "--no-merges", "--no-color",
               "--numstat", "--relative", "--no-renames", "--no-ext-diff", "--no-textconv", "--encoding=UTF-8",
               "--format=commit %H %ct%x00%s", f"--since=@{max(0, math.floor(period.since) - 1)}"]  # fmt: skip
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=300, env=for_git(os.environ))
    except (OSError, subprocess.SubprocessError) as error:
        raise RoundhouseError(f"git log failed: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RoundhouseError(f"git log failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    found = list(_parsed(done.stdout.decode(errors="replace").split("\0")))
    return [one for one in reversed(found) if one.at in period and one.files]


def _parsed(tokens: Iterable[str]) -> Iterator[Commit]:
    """Commits from what `git log -z --numstat` prints: a head, its subject, then a token for each file."""
    left, commit = iter(tokens), None
    for token in left:
        if head := re.fullmatch(r"\n?commit [0-9a-f]{40,64} (\d+)", token):
            if commit:
                yield commit
            commit = Commit(int(head[1]), next(left, ""))
        elif commit and (line := re.fullmatch(r"\n?(\d+|-)\t(\d+|-)\t(.+)", token, re.DOTALL)):
            added, removed = (0 if number == "-" else int(number) for number in (line[1], line[2]))
            commit.files[line[3]] = (added, removed)
    if commit:
        yield commit


def totals(commits: Sequence[Commit]) -> str:
    """`3 commits to 12 files, 240 lines added and 31 removed`."""
    files = {path for commit in commits for path in commit.files}
    added, removed = (sum(lines[n] for commit in commits for lines in commit.files.values()) for n in (0, 1))
    lines = f"{counted(added, 'line', ',')} added and {removed:,} removed"
    return f"{counted(len(commits), 'commit', ',')} to {counted(len(files), 'file', ',')}, {lines}"


def work_section(commits: Sequence[Commit]) -> Iterator[str]:
    """The commits by area in Markdown, the area with most of them first, each area's commits in order."""
    areas: dict[str, list[Commit]] = {}
    for commit in commits:
        areas.setdefault(commit.area, []).append(commit)
    for area, ones in sorted(areas.items(), key=lambda item: (item[0] in SECONDARY, -len(item[1]), item[0])):
        days = list(dict.fromkeys(format_time(commit.at, "%d %b") for commit in ones))
        when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
        yield f"**{in_markdown(area)}**: {totals(ones)}, {when}."
        yield "\n".join(
            f"- {format_time(one.at, '%d %b')}: {in_markdown(one.subject) or '(no subject)'}" for one in ones
        )

"""The commits of a period, by area of a repository, and the few subjects that show what was done in each."""

from __future__ import annotations

import math
import os
import re
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.methodology import in_markdown
from roundhouse.environ import for_git
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import abbreviated, counted
from toolbox.weekly.period import Period

TOP = "top level"  # the area of files that are in no folder
SECONDARY = ("tests", "docs", TOP)  # the area of a commit only if it changes nothing else
AREAS_SHOWN, SUBJECTS_SHOWN, LONGEST = 4, 3, 110  # a longer subject is cut
# "Merge branch 'a' into b", "Merge a and b: what they do", "Merge main": what follows the names of the branches
MERGED = re.compile(r"Merge(?: (?:branch(?:es)?|remote-tracking branch|pull request|tag|commits?)\b)?[^:;]*[:;]\s*(.+)")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit; a merge has the files that it brought. `files`: by path, lines added and removed; both 0 if binary.

    `brought`: the hashes of the commits that a merge added to the branch that is checked out.
    """

    at: int
    subject: str
    name: str = ""  # its hash
    parents: tuple[str, ...] = ()
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    brought: frozenset[str] = frozenset()

    @property
    def area(self) -> str:
        """The area of most of its lines."""
        lines: Counter[str] = Counter()
        for path, (added, removed) in self.files.items():
            lines[area_of(path)] += added + removed + 1
        return max(lines, key=lambda area: (not is_secondary(area), lines[area], area))

    @property
    def merge(self) -> bool:
        return len(self.parents) > 1

    @property
    def size(self) -> int:
        return sum(map(sum, self.files.values()))

    @property
    def story(self) -> str:
        """What it says was done, in one line; empty for a merge that only names branches."""
        found = MERGED.match(self.subject) if self.merge else None
        text = found[1] if found else "" if self.merge else self.subject or "(no subject)"
        return textwrap.shorten(text, LONGEST, placeholder=" …") if text.strip() else ""


def area_of(path: str) -> str:
    """The top folder of a file; `studies/NAME` for that of a study."""
    folders = path.split("/")[:-1]
    return "/".join(folders[: 2 if folders[:1] == ["studies"] else 1]) or TOP


def is_secondary(area: str) -> bool:
    return area in SECONDARY or area.startswith(".")


def commits_of(repository: Path, period: Period) -> list[Commit]:
    """The commits of a period on the branch that is checked out, oldest first; of merges those into this branch.

    RoundhouseError: git failed.
    """
    command = ["git", "-C", str(repository), "-c", "log.showSignature=false", "log", "-z", "-c", "--no-color",
               "--numstat", "--relative", "--no-renames", "--no-ext-diff", "--no-textconv", "--encoding=UTF-8",
               "--format=commit %H %ct %P%x00%s", f"--since=@{max(0, math.floor(period.since) - 1)}"]  # fmt: skip
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=300, env=for_git(os.environ))
    except (OSError, subprocess.SubprocessError) as error:
        raise RoundhouseError(f"git log failed: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RoundhouseError(f"git log failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    found = list(_parsed(done.stdout.decode(errors="replace").split("\0")))
    brought = _brought(found)
    return [
        replace(one, brought=frozenset(brought.get(one.name, ())))
        for one in reversed(found)
        if one.at in period and one.files and (not one.merge or one.name in brought)
    ]


def _brought(found: Sequence[Commit]) -> dict[str, list[str]]:
    """For the newest commit, its first parent, and so on, which were committed to this branch itself: the hashes of the
    commits that each of them added to it by a merge.
    """
    parents = {one.name: one.parents for one in found}
    line, name = [], found[0].name if found else ""
    while name in parents:
        line.append(name)
        name = parents[name][0] if parents[name] else ""
    brought, known = {}, set(line)
    for name in reversed(line):
        new, rest = [], list(parents[name][1:])
        while rest:
            if (one := rest.pop()) in parents and one not in known:
                known.add(one)
                new.append(one)
                rest += parents[one]
        brought[name] = new
    return brought


def _parsed(tokens: Iterable[str]) -> Iterator[Commit]:
    """Commits from what `git log -z --numstat` prints: a head, its subject, then a token for each file."""
    left, commit = iter(tokens), None
    for token in left:
        if head := re.fullmatch(r"\n?commit ([0-9a-f]{40,64}) (\d+) ([0-9a-f ]*)", token):
            if commit:
                yield commit
            commit = Commit(int(head[2]), next(left, ""), head[1], tuple(head[3].split()))
        elif commit and (line := re.fullmatch(r"\n*(\d+|-)\t(\d+|-)\t(.+)", token, re.DOTALL)):
            added, removed = (0 if number == "-" else int(number) for number in (line[1], line[2]))
            commit.files[line[3]] = (added, removed)
    if commit:
        yield commit


def work_section(commits: Sequence[Commit]) -> Iterator[str]:
    """The totals, and a few lines for each of the areas that changed most, in Markdown."""
    work = [one for one in commits if not one.merge]
    areas: dict[str, list[Commit]] = {}
    for commit in commits:
        areas.setdefault(commit.area, []).append(commit)
    sizes = {area: sum(one.size for one in ones if not one.merge) for area, ones in areas.items()}
    order = sorted(areas, key=lambda area: (is_secondary(area), -sizes[area], area))
    yield f"{totals(work)}."
    yield "\n".join("\n".join(area_lines(area, areas[area])) for area in order[:AREAS_SHOWN])
    others = [
        f"{area} ({counted(sum(not one.merge for one in areas[area]), 'commit')})" for area in order[AREAS_SHOWN:]
    ]
    if others:
        yield f"Also: {in_markdown(abbreviated(others, 2 * AREAS_SHOWN))}."


def totals(commits: Sequence[Commit]) -> str:
    """`3 commits to 12 files, 240 lines added and 31 removed`."""
    files = {path for commit in commits for path in commit.files}
    added, removed = (sum(lines[n] for commit in commits for lines in commit.files.values()) for n in (0, 1))
    lines = f"{counted(added, 'line', ',')} added and {removed:,} removed"
    return f"{counted(len(commits), 'commit', ',')} to {counted(len(files), 'file', ',')}, {lines}"


def area_lines(area: str, commits: Sequence[Commit]) -> list[str]:
    """The number of its commits; then what the largest merges say, else the largest commits; and how many more commits
    there are, without those that these merges brought.
    """
    stories: dict[str, Commit] = {}
    for one in sorted(commits, key=lambda one: (not one.merge, -one.size)):
        if one.story:
            stories.setdefault(one.story, one)
    shown = dict(list(stories.items())[:SUBJECTS_SHOWN])
    number = sum(not one.merge for one in commits)
    named = {name for one in shown.values() for name in (one.name, *one.brought)}
    more = sum(not one.merge and one.name not in named for one in commits)
    lines = [f"  - {in_markdown(story)}" for story in shown]
    if more and lines:
        lines[-1] += f"; and {more:,} more"
    return [f"- **{in_markdown(area)}**, {counted(number, 'commit', ',')}:", *lines]

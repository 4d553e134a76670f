#!/usr/bin/env python3
"""What happened in a week, from git and from the records of all rounds: Markdown, for a supervisor to read.

Records are only read, and no scheduler is asked. An experiment is told by its attempts: when one began, how it ended,
whether another followed. What the last known sign of life does not cover is not counted.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import write_bytes
from analysis.methodology import in_markdown
from analysis.methods_sections import figure, listed, tally
from analysis.round_summary import ExperimentSummary, RankedSetting, Spread, rankings, summaries_of, usage
from analysis.rounds import REPOSITORY, Folders, RoundEntry, RoundRecords, find_rounds, read_round
from roundhouse.engine.one_pass import hash_to_expect
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from roundhouse.model.answers import QueryFailed
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.plan import Clock, Inputs, State, decide
from roundhouse.names import is_name

HELP = """\
DATE is 2026-11-14 or 2026-11-14T09:30, in UTC unless it names an offset; or `7 days`, `7d`: so long before the end of
the period (for --until: before now). The last moment is not part of a period: periods that meet share nothing.

exit codes:
  0    told, also that there was nothing to tell
  2    usage: a date or a folder is wrong, or the file cannot be written
  130  interrupted
"""
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MOST = 20  # failures and problems of a round told one by one
PLACES = {
    "roundhouse/": "Runner and schedulers", "runner.py": "Runner and schedulers", "templates/": "Runner and schedulers",
    "sites/": "Runner and schedulers", "roundhouse/training/": "Training", "train.py": "Training",
    "analysis/": "Analysis", "toolbox/": "Toolbox", "rounds/": "Rounds", "benchmarks/": "Benchmarks",
    "docs/": "Documentation", "tests/": "Tests", ".github/": "Project files",
}  # fmt: skip
BESIDES = ("Tests", "Documentation", "Project files")  # what a commit is about only if it changes nothing else
KINDS = ("begun", "finished", "requeued", "failed", "pruned", "cancelled", "put away")


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to just before `until`, in seconds since 1970."""

    since: float
    until: float

    def __contains__(self, at: float) -> bool:
        return self.since <= at < self.until

    def overlap(self, start: float, end: float) -> float:
        """How many seconds of this span lie in the period."""
        return max(0.0, min(end, self.until) - max(start, self.since))


def read_moment(text: str, before: float) -> float:
    """A date, or `N days` before a moment, in seconds since 1970. RoundhouseError: neither."""
    try:
        if found := re.fullmatch(r"(\d+)\s*d(?:ays?)?(?:\s+ago)?", text.strip(), re.ASCII):
            told = EPOCH + timedelta(seconds=before) - timedelta(days=int(found[1]))
        else:
            told = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
        return (told if told.tzinfo else told.replace(tzinfo=timezone.utc)).astimezone(timezone.utc).timestamp()
    except (ValueError, OverflowError):
        what = f"{text!r} is no date: give one such as 2026-11-14 or 2026-11-14T09:30, or `7 days`"
        raise RoundhouseError(what) from None


def shown(at: float, form: str = "%d %b %Y, %H:%M") -> str:
    return (EPOCH + timedelta(seconds=at)).strftime(form).lstrip("0")


# ------------------------------------------------------------------------------------------------------------ commits


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that is no merge. `files`: by path, lines added and removed; both 0 where a file is not text."""

    at: int
    subject: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def area(self) -> str:
        """What most of its lines are about; tests and documentation count where there is nothing else."""
        lines: Counter[str] = Counter()
        for path, (added, removed) in self.files.items():
            lines[area_of(path)] += added + removed + 1
        return max(lines, key=lambda area: (area not in BESIDES, lines[area], area))


def area_of(path: str) -> str:
    """The part of the project that a file belongs to: `Analysis`, `Study distillation`, or its top folder's name."""
    folder, _, rest = path.partition("/")
    if folder == "studies" and "/" in rest:
        return f"Study {rest.partition('/')[0]}"
    known = [place for place in PLACES if path == place or (place.endswith("/") and path.startswith(place))]
    if known:
        return PLACES[max(known, key=len)]
    return f"Folder {folder}" if rest else "Documentation" if path.endswith(".md") else "Project files"


def commits_of(repository: Path, period: Period) -> list[Commit]:
    """The commits of a period on the branch that is checked out, oldest first. RoundhouseError: git tells nothing."""
    words = ["git", "-C", str(repository), "-c", "log.showSignature=false", "log", "-z", "--no-merges", "--no-color",
             "--numstat", "--relative", "--no-renames", "--no-ext-diff", "--no-textconv", "--encoding=UTF-8",
             "--format=commit %H %ct%x00%s", f"--since=@{max(0, math.floor(period.since) - 1)}"]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        done = subprocess.run(words, check=False, capture_output=True, timeout=300, env={**env, "LC_ALL": "C"})
    except (OSError, subprocess.SubprocessError) as error:
        raise RoundhouseError(f"git cannot be asked: {error}") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise RoundhouseError(f"git tells of no commits: {told[0] if told else f'exit code {done.returncode}'}")
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


def changes(commits: Sequence[Commit]) -> str:
    """`3 commits to 12 files, 240 lines added and 31 removed`."""
    files = {path for commit in commits for path in commit.files}
    added, removed = (sum(lines[n] for commit in commits for lines in commit.files.values()) for n in (0, 1))
    told = f"{counted(added, 'line', ',')} added and {removed:,} removed"
    return f"{counted(len(commits), 'commit', ',')} to {counted(len(files), 'file', ',')}, {told}"


def told_work(commits: Sequence[Commit]) -> Iterator[str]:
    """The commits by area, the area with most of them first, each area's story in order."""
    areas: dict[str, list[Commit]] = {}
    for commit in commits:
        areas.setdefault(commit.area, []).append(commit)
    for area, ones in sorted(areas.items(), key=lambda item: (item[0] in BESIDES, -len(item[1]), item[0])):
        days = list(dict.fromkeys(shown(commit.at, "%d %b") for commit in ones))
        when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
        yield f"**{in_markdown(area)}**: {changes(ones)}, {when}."
        yield "\n".join(f"- {shown(one.at, '%d %b')}: {in_markdown(one.subject) or '(no subject)'}" for one in ones)


# -------------------------------------------------------------------------------------------------------- experiments


@dataclass(frozen=True, slots=True)
class Event:
    """What befell an experiment: one of KINDS, and why; of `requeued` the cause is that of the try before."""

    at: float
    kind: str
    cause: str = ""
    why: str = ""


def opened_at(one: Attempt) -> float:
    """When an attempt was opened. A copy may have lost the file's own time, but not what the claim says."""
    times = [one.opened.at, one.claim.started if one.claim else 0.0]
    return min((at for at in times if at), default=0.0)


def events_of(entry: RoundEntry) -> list[Event]:
    """All that befell an experiment so far, in order."""
    told: list[Event] = []
    before: Attempt | None = None
    attempts = entry.record.attempts
    for number, one in enumerate(attempts, 1):
        run = one.opened.mark is None and one.cause is not Cause.LIMIT
        if run and before and before.cause is not Cause.RUNG:
            told.append(Event(opened_at(one), "requeued", str(before.cause)))
        if one.claim and not one.void and all(event.kind != "begun" for event in told):
            told.append(Event(one.claim.started, "begun"))
        if one.closed:
            at = one.result.at if one.result else opened_at(one) if one.claim is None else one.claim.started
            kind = _ending(entry, one, attempts[:number])
            told += [Event(at, kind, str(one.cause), one.why)] if kind else []
        before = one if run else before
    return told


def _ending(entry: RoundEntry, one: Attempt, attempts: tuple[Attempt, ...]) -> str:
    """What the end of the last of these attempts meant for the experiment; empty if it was tried again by itself."""
    ends = {Cause.COMPLETED: "finished", Cause.CANCELLED: "cancelled", Cause.ARCHIVED: "put away",
            Cause.PRUNED: "pruned"}  # fmt: skip
    if one.cause in ends:
        return ends[one.cause]
    return "failed" if one.opened.mark is None and state_after(entry, attempts) is State.FAILED else ""


def state_after(entry: RoundEntry, attempts: tuple[Attempt, ...]) -> State:
    """The state of an experiment when it had these attempts and no more."""
    if attempts == entry.record.attempts:
        return entry.state
    known = replace(entry.record, attempts=attempts)
    inputs = Inputs(known.runs[0].opened.inputs if known.runs else None)
    clock, never = Clock(0.0, 0.0, 0.0), QueryFailed("no scheduler is asked here")
    expected = hash_to_expect(entry.experiment, known)
    return decide(known, never, inputs, clock, expected, retry=entry.status.retry).state


def attempts_until(entry: RoundEntry, moment: float) -> tuple[Attempt, ...]:
    """The attempts as they were then: what was opened, claimed or closed later is not in them."""
    made = []
    for one in entry.record.attempts:
        if opened_at(one) < moment:
            claim = one.claim if one.claim and one.claim.started < moment else None
            result = one.result if one.result and one.result.at < moment else None
            made.append(replace(one, claim=claim, result=result))
    return tuple(made)


def standing(entry: RoundEntry, moment: float) -> str:
    """How an experiment stood at a moment, in a word."""
    attempts = attempts_until(entry, moment)
    state = state_after(entry, attempts)
    if state in (State.IN_PROGRESS, State.SUBMITTING):
        return "running" if attempts and attempts[-1].claim else "queued"
    return {State.PENDING: "waiting"}.get(state, str(state))


def at_the_time(known: Sequence[ExperimentSummary], moment: float) -> list[ExperimentSummary]:
    """The same experiments, of which those that completed later are pending."""
    made = []
    for one in known:
        done = one.entry.record.completed
        if done and done.result and done.result.at >= moment:
            action = replace(one.entry.status.action, state=State.PENDING)
            one = ExperimentSummary(replace(one.entry, status=replace(one.entry.status, action=action)), one.metrics)
        made.append(one)
    return made


# ------------------------------------------------------------------------------------------------------------- rounds


@dataclass(frozen=True)
class Happened:
    """A round in a period. `events`: by path, those of the period; `hours`: by path, in `unit`, in the period."""

    found: RoundRecords
    known: Sequence[ExperimentSummary]
    problems: Sequence[str]
    period: Period
    events: Mapping[str, Sequence[Event]]
    hours: Mapping[str, float]
    unit: str

    @classmethod
    def of(cls, found: RoundRecords, period: Period) -> Happened:
        known, raw = summaries_of(found)
        problems = [one.replace(f"{found.directory}{os.sep}", "") for one in raw]
        events = {one.entry.path: [event for event in events_of(one.entry) if event.at in period] for one in known}
        unit = usage(known, found.file is not None).unit
        hours = {one.entry.path: hours_in(one, period, unit) for one in known}
        return cls(found, known, problems, period, events, hours, unit)

    def number(self, kind: str, paths: Iterable[str]) -> int:
        """How many of these experiments it befell."""
        return sum(any(event.kind == kind for event in self.events[path]) for path in paths)

    @property
    def anything(self) -> bool:
        return any(self.events.values()) or any(self.hours.values()) or bool(self.problems)


def hours_in(one: ExperimentSummary, period: Period, unit: str) -> float:
    """What an experiment used in a period, in the unit of its round."""
    asked = one.entry.experiment.resources
    weight = {"GPU-hours": asked.ngpus, "CPU-hours": asked.ncpus}.get(unit, 1)
    return sum(period.overlap(start, end) for start, end in one.entry.spans) * weight / 3600


def sums(rounds: Iterable[Happened]) -> str:
    """`40 begun, 36 finished, 2 failed; 51.2 GPU-hours`: what is none of is left out."""
    befell: Counter[str] = Counter()
    used: dict[str, float] = {}
    for one in rounds:
        befell.update({kind: one.number(kind, one.events) for kind in KINDS})
        used[one.unit] = used.get(one.unit, 0.0) + sum(one.hours.values())
    told = ", ".join(f"{befell[kind]:,} {kind}" for kind in KINDS if befell[kind])
    hours = " and ".join(f"{figure(number)} {unit}" for unit, number in used.items() if number)
    return "; ".join([told or "none begun, finished or failed", *([hours] if hours else [])])


def told_round(one: Happened) -> Iterator[str]:
    """What befell a round: a paragraph, a table by group, what failed, which best results changed."""
    events = [event for several in one.events.values() for event in several]
    again = Counter(event.cause for event in events if event.kind == "requeued")
    yield f"### Round {in_markdown(one.found.name)}"
    why = f" Requeued after: {in_markdown(tally(again))}." if again else ""
    yield f"Of {counted(len(one.known), 'experiment', ',')}: {sums([one])}.{why}"
    yield table(*by_group(one))
    failed = [f"- {shown(event.at)}: {in_markdown(path)}: {in_markdown(event.cause)}{in_brackets(event.why)}"
              for path, several in one.events.items() for event in several if event.kind == "failed"]  # fmt: skip
    yield from ["Failed:", *some(failed)] if failed else []
    yield from told_best(one)
    unread = [f"- in its records: {in_markdown(line)}" for line in one.problems]
    yield from ["To be looked at:", *some(unread)] if unread else []


def in_brackets(text: str) -> str:
    return f" ({in_markdown(text)})" if text.strip() else ""


def some(lines: Sequence[str]) -> list[str]:
    """A list of at most MOST lines."""
    more = [f"- and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return ["\n".join([*lines[:MOST], *more])]


def by_group(one: Happened) -> tuple[list[str], list[list[str]]]:
    """Head and rows: what befell each group, and how it stands at the end of the period. No columns of nothing."""
    kinds = [kind for kind in KINDS if one.number(kind, one.events)]
    rows = []
    for group, entries in one.found.groups.items():
        paths = [entry.path for entry in entries]
        numbers = [str(one.number(kind, paths) or "") for kind in kinds]
        stand = stands(entries, one.period.until)
        rows.append([group, *numbers, figure(sum(one.hours[path] for path in paths)), stand])
    return ["Group", *kinds, one.unit, "At the end of the period"], rows


def stands(entries: Sequence[RoundEntry], moment: float) -> str:
    """`24 of 36 completed, 2 running, 10 waiting`."""
    found = Counter(standing(entry, moment) for entry in entries)
    completed = found.pop("completed", 0)
    return ", ".join(
        [f"{completed:,} of {len(entries):,} completed", *(f"{found[word]:,} {word}" for word in sorted(found))]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; all columns but the first and the last hold numbers, if there are more than these."""
    rules = ["---", *["---:"] * (len(head) - 2), "---"]
    lines = [map(in_markdown, head), rules, *(map(in_markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def told_best(one: Happened) -> Iterator[str]:
    """The best setting of each group and data set, where it or its result is another than at the beginning."""
    before, now = (rankings(one.found, at_the_time(one.known, at)) for at in (one.period.since, one.period.until))
    first = {(leader.group, leader.dataset): leader for leader in before}
    lines = []
    for leader in now:
        earlier = first.get((leader.group, leader.dataset))
        best, old = leader.settings[0], earlier.settings[0] if earlier else None
        told, was = told_setting(best, leader.result), told_setting(old, leader.result) if old else "none yet"
        if told != was:
            where = " on ".join(part for part in (leader.group, leader.dataset) if part)
            beside = (
                [f"baseline {leader.baseline} {spread_of(best.baseline, leader.result)}"] if leader.baseline else []
            )
            beside += [f"chance {amount(best.chance, leader.result)}"] if best.chance is not None else []
            chosen = f"{leader.result}, chosen by {leader.metric}" if leader.metric != leader.result else leader.result
            lines.append([where, chosen, was, told, "; ".join(beside) or "no baseline is named"])
    if lines:
        yield "Best results that changed (mean ± standard deviation over n seeds):"
        head = ["Group", "Result", "Before", "At the end", "Beside it"]
        yield table(head, lines).replace("---:", "---")
    else:
        yield "Best results: none changed." if now else "Best results: none yet."


def told_setting(one: RankedSetting, result: str) -> str:
    return f"{one.label}: {spread_of(one.result, result)}"


def spread_of(spread: Spread | None, name: str) -> str:
    """`93.10 ± 0.21 % (n = 3)`; of one seed the spread is not known."""
    if spread is None:
        return "not known"
    if spread.deviation is None:
        return f"{amount(spread.mean, name)} (n = 1)"
    share = name.endswith("accuracy")
    deviation = f"{100 * spread.deviation:.2f}" if share else f"{spread.deviation:.2g}"
    mean = f"{100 * spread.mean:.2f}" if share else f"{spread.mean:.4g}"
    return f"{mean} ± {deviation}{' %' * share} (n = {spread.n})"


def amount(value: float, name: str) -> str:
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4g}"


# ------------------------------------------------------------------------------------------------------------ summary


def rounds_of(place: Folders) -> list[str]:
    """The rounds that have records, those that were archived too."""
    archived = [one.parent.name.removeprefix("experiment_") for one in place.analysis.glob("experiment_*/experiments")]
    return sorted({*find_rounds(place), *(name for name in archived if is_name(name))})


def summary(period: Period, repository: Path, place: Folders) -> str:
    """The whole summary, in Markdown."""
    try:
        commits, silence = commits_of(repository, period), "No commits in this period."
    except RoundhouseError as error:
        commits, silence = [], f"{in_markdown(str(error))}."
    happened, unread = [], []
    for name in rounds_of(place):
        try:
            happened.append(Happened.of(read_round(name, place), period))
        except (RoundhouseError, OSError) as error:
            unread.append(f"Round {in_markdown(name)} cannot be read: {in_markdown(str(error))}.")
    happened = [one for one in happened if one.known or one.problems]
    told, quiet = [one for one in happened if one.anything], [one for one in happened if not one.anything]
    dates = f"{shown(period.since, '%d %b %Y')} to {shown(period.until, '%d %b %Y')}"
    parts = [f"# Summary, {dates}", f"From {shown(period.since)} to {shown(period.until)}; all times are UTC."]
    parts += [f"In short: {changes(commits) if commits else 'no commits'}. Experiments: {sums(told)}."]
    parts += ["## Work", *(told_work(commits) if commits else [silence]), "## Experiments"]
    parts += [part for one in told for part in told_round(one)]
    still = [f"{in_markdown(one.found.name)} ({stands(one.found.entries, period.until)})" for one in quiet]
    parts += [f"Nothing happened in {listed(still)}."] if still else []
    parts += unread if happened or unread else [f"No records of a round in {in_markdown(str(place.experiments))}."]
    return "\n\n".join(parts) + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="weekly_summary.py", description=str(__doc__).split("\n\n")[0], epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--since", metavar="DATE", nargs="+", default=["7 days"], help="default: 7 days")
    made.add_argument("--until", metavar="DATE", nargs="+", help="default: now")
    made.add_argument("--out", metavar="FILE", type=Path, help="write into this file, instead of to standard output")
    made.add_argument("--repository", metavar="DIR", type=Path, default=REPOSITORY, help="whose commits are told")
    add_folders(made)
    return made


def work(asked: argparse.Namespace) -> int:
    now = datetime.now(timezone.utc).timestamp()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # names and subjects may hold anything, and cron has no locale
    until = read_moment(" ".join(asked.until), now) if asked.until else now
    period = Period(read_moment(" ".join(asked.since), until), until)
    if period.since >= until:
        raise RoundhouseError(f"--since {shown(period.since)} is not before --until {shown(until)}")
    told = summary(period, asked.repository, folders_from(asked))
    if asked.out:
        write_bytes(asked.out, told.encode())
    print(asked.out if asked.out else told, end="\n" if asked.out else "")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())

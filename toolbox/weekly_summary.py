#!/usr/bin/env python3
"""Summarise a week, from git and from the records of all rounds: Markdown, for a supervisor to read.

Results first, then work by area, problems, and what is queued: about 40 lines. Records are only read, and no scheduler
is queried. Running time after the last known heartbeat is not counted.
"""

from __future__ import annotations

import argparse
import io
import sys
from datetime import datetime, timezone
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import write_bytes
from analysis.methodology import in_markdown
from analysis.rounds import REPOSITORY, Folders, find_rounds, read_round
from roundhouse.errors import RoundhouseError
from roundhouse.names import is_name
from toolbox.weekly import commits, outlook, rounds
from toolbox.weekly.period import Period, format_time, read_moment

HELP = """\
DATE is 2026-11-14 or 2026-11-14T09:30, in UTC unless it has an offset; or `7 days` or `7d`, counted back from the end
of the period (for --until: from now). The last moment does not belong to a period, so adjacent periods share nothing.

exit codes:
  0    success, also if nothing happened
  2    usage: a date or a folder is wrong, or the file cannot be written
  130  interrupted
"""


def rounds_of(place: Folders) -> list[str]:
    """The rounds that have records, archived ones too."""
    archived = [one.parent.name.removeprefix("experiment_") for one in place.analysis.glob("experiment_*/experiments")]
    return sorted({*find_rounds(place), *(name for name in archived if is_name(name))})


def summary(period: Period, repository: Path, place: Folders, now: float | None = None) -> str:
    """The whole summary, in Markdown. `now`: if the period ends now, so that an ETA says when its queue will end."""
    try:
        work = commits.commits_of(repository, period)
        lines = list(commits.work_section(work)) if work else ["No commits in this period."]
    except RoundhouseError as error:
        lines = [f"{in_markdown(str(error))}."]
    found, unreadable = [], []
    for name in rounds_of(place):
        try:
            found.append(rounds.Activity.of(read_round(name, place), period))
        except (RoundhouseError, OSError) as error:
            unreadable.append(f"Round {in_markdown(name)} cannot be read: {in_markdown(str(error))}")
    found = [one for one in found if one.known or one.problems]
    dates = f"{format_time(period.since, '%d %b %Y, %H:%M')} to {format_time(period.until, '%d %b %Y, %H:%M')}"
    results = (
        rounds.results_section(found) if found else [f"No records of a round in {in_markdown(str(place.experiments))}."]
    )
    parts = [f"# Summary of {dates} (UTC)", "## Results", *results, "## Work", *lines]
    if found or unreadable:
        parts += ["## Problems", *outlook.problems_section(found, unreadable)]
        parts += ["## Next", *outlook.queue_section(found, now)]
    return "\n\n".join(parts) + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="weekly_summary.py", description=str(__doc__).split("\n\n")[0], epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--since", metavar="DATE", nargs="+", default=["7 days"], help="default: 7 days")
    made.add_argument("--until", metavar="DATE", nargs="+", help="default: now")
    made.add_argument("--out", metavar="FILE", type=Path, help="write to this file instead of standard output")
    made.add_argument("--repository", metavar="DIR", type=Path, default=REPOSITORY, help="where to read commits")
    add_folders(made)
    return made


def write_summary(options: argparse.Namespace) -> int:
    now = datetime.now(timezone.utc).timestamp()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # names and subjects may contain anything, and cron has no locale
    until = read_moment(" ".join(options.until), now) if options.until else now
    period = Period(read_moment(" ".join(options.since), until), until)
    if period.since >= until:
        raise RoundhouseError(f"--since must be before --until (got {format_time(period.since)}, {format_time(until)})")
    text = summary(period, options.repository, folders_from(options), None if options.until else now)
    if options.out:
        write_bytes(options.out, text.encode())
    print(options.out if options.out else text, end="\n" if options.out else "")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, write_summary)


if __name__ == "__main__":
    sys.exit(main())

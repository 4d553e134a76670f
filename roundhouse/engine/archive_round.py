"""Archive a round: its records move, as a whole, from experiments/ to analysis/experiment_NAME/, with a README.

No late process can undo that. What was never started is voided first; passes refuse the name of an archived round; and
a pass that is already running fails, since only its first step makes the directory of the round.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

from roundhouse import files
from roundhouse.config.round import Round
from roundhouse.engine import offline, user_actions
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import date_and_time
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import record
from roundhouse.store.archive import RECORDS, Archive, refuse_archived
from roundhouse.store.code_copy import COPIES
from roundhouse.views.results import Setting, settings_of

README, ENVIRONMENT, PACKAGES = "README.md", "environments.json", "packages.txt"


def archive_round(archive: Archive, loaded: Round, force: bool) -> list[str]:
    """Archive the round. Returns lines that say what was done. RoundhouseError: why not; nothing has moved then."""
    refuse_archived(archive)
    if not archive.source.is_dir():
        raise RoundhouseError(f"round {loaded.name} has no records in {archive.source}: there is nothing to archive")
    _check_file_systems(archive)
    statuses = _rows(loaded, archive.source)
    _refuse_open(statuses)
    unfinished = [status for status in statuses if not status.action.state.ended_well]
    if unfinished and not force:
        raise RoundhouseError(
            f"{len(unfinished)} of {len(statuses)} experiments are not completed, such as "
            f"{unfinished[0].experiment.path} ({unfinished[0].action.state}). To archive the round as it is, "
            "permanently: --archive --force"
        )
    obstacles = user_actions.mark_archived(statuses)
    if obstacles:
        raise RoundhouseError("\n".join(["experiments are running, so nothing was moved:", *obstacles[:10]]))
    began = time.time()
    _write_documents(archive, loaded, statuses)
    _move(archive.source, archive.records)
    late = _late(loaded, archive)
    if late:
        _move(archive.records, archive.source)
        raise RoundhouseError("\n".join(["a job started meanwhile, so the round was moved back:", *late[:10]]))
    done = f"{len(statuses) - len(unfinished)} of {len(statuses)} experiments completed"
    return [
        f"Round {loaded.name} is archived: {archive.folder} ({done}, {time.time() - began:.1f} s).",
        f"Its round file stays in {loaded.file}, a copy is next to the records.",
    ]


def _rows(loaded: Round, directory: Path) -> list[ExperimentStatus]:
    places = {one.path: directory / one.path for one in loaded.experiments}
    return list(offline.statuses(loaded.experiments, places).values())


def _refuse_open(statuses: Iterable[ExperimentStatus]) -> None:
    open_ones = [status for status in statuses if status.record.newest is not None and not status.record.newest.closed]
    damaged = [status for status in statuses if status.record.damage]
    if damaged:
        raise RoundhouseError(
            f"{damaged[0].experiment.path}: {damaged[0].record.damage}: it is unknown whether it still runs. "
            "Restore the file, --retry it if it was never completed, or remove its directory"
        )
    if open_ones:
        first = open_ones[0]
        raise RoundhouseError(
            f"{len(open_ones)} experiments have an open attempt, such as {first.experiment.path}: wait for them, or "
            "--cancel them and run passes until --status shows no job"
        )


def _check_file_systems(archive: Archive) -> None:
    archive.folder.mkdir(parents=True, exist_ok=True)
    if archive.source.stat().st_dev != archive.folder.stat().st_dev:
        raise _apart(archive)


def _apart(archive: Archive) -> RoundhouseError:
    beside = archive.source.resolve().parent.parent / archive.folder.name
    return RoundhouseError(
        f"{archive.source} and {archive.folder} are on different file systems, between which a directory cannot be "
        f"moved as a whole. Make the second a link into the first, and try again: rmdir {archive.folder}; "
        f"mkdir {beside}; ln -s {beside} {archive.folder}"
    )


def _move(source: Path, target: Path) -> None:
    """Rename a directory, as a whole."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise RoundhouseError(f"{source} and {target} are on different file systems; nothing was moved") from None
        raise RoundhouseError(f"{source} could not be moved to {target}: {error.strerror}; nothing was moved") from None
    files.sync_directory(source.parent)
    files.sync_directory(target.parent)


def _late(loaded: Round, archive: Archive) -> list[str]:
    """Void what a runner opened while the round moved. Returns what a job has claimed and is running."""
    running = []
    for status in _rows(loaded, archive.records):
        newest = status.record.newest
        if newest is None or newest.closed:
            continue
        if not record.void(status.record.directory, newest.number, Cause.ARCHIVED, "the round was put away"):
            running.append(f"{status.experiment.path}: attempt {newest.number}")
    return running


# ---------------------------------------------------------------------------------------------- documents


def _write_documents(archive: Archive, loaded: Round, statuses: Sequence[ExperimentStatus]) -> None:
    """The round file, the environments, the packages installed now, and the README."""
    files.replace(archive.folder / f"{loaded.name}.yaml", loaded.file.read_bytes())
    found = environments(statuses)
    files.replace(archive.folder / ENVIRONMENT, files.dump({"environments": found}))
    packages = sorted({f"{one.metadata['Name']}=={one.version}" for one in distributions()}, key=str.lower)
    files.replace(archive.folder / PACKAGES, "\n".join([*packages, ""]).encode())
    if (archive.folder / README).exists():  # edits by the user are kept
        shutil.copy2(archive.folder / README, archive.folder / f"{README}.before")
    files.replace(archive.folder / README, readme(loaded, statuses, found, archive.folder).encode())


def environments(statuses: Iterable[ExperimentStatus]) -> list[dict[str, object]]:
    """The environments of the completed attempts, each once with the number of attempts; the most frequent first."""
    kinds: Counter[str] = Counter()
    known: dict[str, dict[str, object]] = {}
    for status in statuses:
        done = status.record.completed
        found = record.environments(status.record.directory).get(done.number) if done else None
        if found:
            kept = {key: value for key, value in found.items() if key not in ("version", "host")}
            key = repr(sorted(kept.items(), key=str))
            kinds[key] += 1
            known[key] = kept
    return [{"experiments": count, **known[key]} for key, count in kinds.most_common()]


def readme(
    loaded: Round,
    statuses: Sequence[ExperimentStatus],
    found: Sequence[Mapping[str, object]],
    folder: Path,
) -> str:
    """README.md of an archived round: content, times, places, results, figures; and whether it was stopped early."""
    states = Counter(status.action.state for status in statuses)
    completed, over = states[State.COMPLETED], sum(states[state] for state in State if state.ended_well)
    lines = [f"# Round {loaded.name}", ""]
    parts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
    if over == len(statuses) and completed < over:
        lines += [f"Pruned early, as the round file says, and therefore without results: {parts}.", ""]
    if over < len(statuses):
        lines += [
            f"**Stopped before its end**: {completed} of {len(statuses)} experiments are completed ({parts}).",
            "",
        ]
    lines += [
        *_what(loaded, statuses),
        "",
        "## When and where",
        "",
        *_when_and_where(statuses, found),
        "",
        "## Results",
        "",
    ]
    lines += [*_table(settings_of(statuses)), "", "## Contents", ""]
    lines += [f"- `{RECORDS}/`: the records", f"- `{loaded.name}.yaml`: the round file"]
    if any("code" in one for one in found):
        lines += [f"- `{RECORDS}/{COPIES}/`: the copies of the code that ran"]
    lines += [f"- `{ENVIRONMENT}`: the environments of the jobs; `{PACKAGES}`: the packages installed at this time"]
    figures = sorted(folder.glob("plots/overviews/*.png")) + sorted(folder.glob("figures/*.png"))
    lines += [f"- plots, figures, tables and report, if they were made; `python analysis/report.py --round "
              f"{loaded.name}` makes plots, tables and report again", ""]  # fmt: skip
    lines += [f"![{one.stem}]({one.relative_to(folder)})" for one in figures]
    return "\n".join(lines).rstrip() + "\n"


def _what(loaded: Round, statuses: Sequence[ExperimentStatus]) -> list[str]:
    groups = Counter(status.experiment.group for status in statuses)
    of = f"study `{loaded.study}`" if loaded.study else "commands, or several studies"
    return [
        f"{len(statuses)} experiments of {of}: {', '.join(f'{count} `{group}`' for group, count in groups.items())}.",
        *([f"{group} is compared with {baseline}." for group, baseline in loaded.baselines.items()]),
    ]


def _when_and_where(statuses: Sequence[ExperimentStatus], found: Sequence[Mapping[str, object]]) -> list[str]:
    attempts = [one for status in statuses for one in status.record.runs if one.claim and not one.claim.void]
    if not attempts:
        return ["Nothing has run."]
    starts = [one.claim.started for one in attempts if one.claim and one.claim.started]
    ends = [one.result.at for one in attempts if one.result and one.result.at]
    places = Counter(f"{one.opened.scheduler.get('kind')} on {one.opened.scheduler.get('server')}" for one in attempts)
    lines = [f"- jobs of {place}: {count}" for place, count in places.items()]
    if starts and ends:
        lines.insert(0, f"- from {date_and_time(min(starts))} to {date_and_time(max(ends))} (UTC)")
    for one in found:
        facts = ", ".join(f"{key} {value}" for key, value in one.items() if key != "experiments" and value is not None)
        lines.append(f"- {one['experiments']} completed with {facts}")
    return lines


def _table(settings: Sequence[Setting]) -> list[str]:
    """Mean ± standard deviation over seeds of every final metric."""
    if not settings:
        return ["No experiment was completed, or none left a metric."]
    names = list(dict.fromkeys(name for one in settings for name in one.values))
    lines = [
        "Mean ± standard deviation over seeds; ? where there is one seed.",
        "",
        f"| setting | seeds | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for one in settings:
        cells = [one.told(name) for name in names]
        lines.append(f"| {one.name.replace('|', chr(92) + '|')} | {one.seeds} | {' | '.join(cells)} |")
    return lines

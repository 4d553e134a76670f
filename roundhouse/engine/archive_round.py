"""A round is archived: its records move, as a whole, from experiments/ to analysis/experiment_NAME/, with a README.

Nothing late can bring it back. What was never started is voided first; passes refuse the name of an archived round; and
one that is already at work loses, since only the first step of a pass makes the round's directory.
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
from roundhouse.views.results import SettingResults, settings_of

_OVER = (State.COMPLETED, State.PRUNED)
README, ENVIRONMENT, PACKAGES = "README.md", "environments.json", "packages.txt"


def put_away(archive: Archive, loaded: Round, force: bool) -> list[str]:
    """Archive the round. Returns lines that tell what was done. RoundhouseError: why not; nothing has moved then."""
    refuse_archived(archive)
    if not archive.source.is_dir():
        raise RoundhouseError(f"round {loaded.name} has no records in {archive.source}: there is nothing to archive")
    _check_file_systems(archive)
    rows = _rows(loaded, archive.source)
    _refuse_open(rows)
    unfinished = [row for row in rows if row.action.state not in _OVER]
    if unfinished and not force:
        raise RoundhouseError(
            f"{len(unfinished)} of {len(rows)} experiments are not completed, such as {unfinished[0].experiment.path} "
            f"({unfinished[0].action.state}). To archive the round as it is, for good: --archive --force"
        )
    in_the_way = user_actions.put_away(rows)
    if in_the_way:
        raise RoundhouseError("\n".join(["something runs, so nothing was moved:", *in_the_way[:10]]))
    began = time.time()
    _write_beside(archive, loaded, rows)
    _move(archive.source, archive.records)
    late = _late(loaded, archive)
    if late:
        _move(archive.records, archive.source)
        raise RoundhouseError("\n".join(["a job started meanwhile, so the round was moved back:", *late[:10]]))
    done = f"{len(rows) - len(unfinished)} of {len(rows)} experiments completed"
    return [
        f"Round {loaded.name} is archived: {archive.folder} ({done}, {time.time() - began:.1f} s).",
        f"Its round file stays in {loaded.file}, a copy lies beside the records.",
    ]


def _rows(loaded: Round, directory: Path) -> list[ExperimentStatus]:
    places = {one.path: directory / one.path for one in loaded.experiments}
    return list(offline.rows(loaded.experiments, places).values())


def _refuse_open(rows: Iterable[ExperimentStatus]) -> None:
    open_ones = [row for row in rows if row.record.newest is not None and not row.record.newest.closed]
    damaged = [row for row in rows if row.record.damage]
    if damaged:
        raise RoundhouseError(
            f"{damaged[0].experiment.path}: {damaged[0].record.damage}: whether it still runs cannot be told. "
            "Restore the file, --retry it if it was never completed, or remove its directory"
        )
    if open_ones:
        first = open_ones[0]
        raise RoundhouseError(
            f"{len(open_ones)} experiments have an open attempt, such as {first.experiment.path}: wait for them, or "
            "--cancel them and pass again until --status shows no job"
        )


def _check_file_systems(archive: Archive) -> None:
    archive.folder.mkdir(parents=True, exist_ok=True)
    if archive.source.stat().st_dev != archive.folder.stat().st_dev:
        raise _apart(archive)


def _apart(archive: Archive) -> RoundhouseError:
    beside = archive.source.resolve().parent.parent / archive.folder.name
    return RoundhouseError(
        f"{archive.source} and {archive.folder} are on different file systems, and what is moved between them cannot "
        f"be moved as a whole. Make the second a link into the first, and try again: rmdir {archive.folder}; "
        f"mkdir {beside}; ln -s {beside} {archive.folder}"
    )


def _move(source: Path, target: Path) -> None:
    """Rename a directory: it is here or there, never half in both."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise RoundhouseError(f"{source} and {target} are on different file systems; nothing was moved") from None
        raise RoundhouseError(f"{source} could not be moved to {target}: {error.strerror}; nothing was moved") from None
    files.sync_directory(source.parent)
    files.sync_directory(target.parent)


def _late(loaded: Round, archive: Archive) -> list[str]:
    """Void what a runner opened while the round moved. Returns what a job has claimed: that runs, and must stay."""
    running = []
    for row in _rows(loaded, archive.records):
        newest = row.record.newest
        if newest is None or newest.closed:
            continue
        if not record.void(row.record.directory, newest.number, Cause.ARCHIVED, "the round was put away"):
            running.append(f"{row.experiment.path}: attempt {newest.number}")
    return running


# ---------------------------------------------------------------------------------------------- what lies beside


def _write_beside(archive: Archive, loaded: Round, rows: Sequence[ExperimentStatus]) -> None:
    """The round file, the environments, the packages installed now, and the README."""
    files.replace(archive.folder / f"{loaded.name}.yaml", loaded.file.read_bytes())
    told = environments(rows)
    files.replace(archive.folder / ENVIRONMENT, files.dump({"environments": told}))
    packages = sorted({f"{one.metadata['Name']}=={one.version}" for one in distributions()}, key=str.lower)
    files.replace(archive.folder / PACKAGES, "\n".join([*packages, ""]).encode())
    if (archive.folder / README).exists():  # a person's words are kept
        shutil.copy2(archive.folder / README, archive.folder / f"{README}.before")
    files.replace(archive.folder / README, readme(loaded, rows, told, archive.folder).encode())


def environments(rows: Iterable[ExperimentStatus]) -> list[dict[str, object]]:
    """What the completed attempts ran with, each kind once, with how many they are; the most frequent first."""
    kinds: Counter[str] = Counter()
    known: dict[str, dict[str, object]] = {}
    for row in rows:
        done = row.record.completed
        found = record.environments(row.record.directory).get(done.number) if done else None
        if found:
            told = {key: value for key, value in found.items() if key not in ("version", "host")}
            key = repr(sorted(told.items(), key=str))
            kinds[key] += 1
            known[key] = told
    return [{"experiments": count, **known[key]} for key, count in kinds.most_common()]


def readme(loaded: Round, rows: Sequence[ExperimentStatus], told: Sequence[Mapping[str, object]], folder: Path) -> str:
    """README.md of an archived round: what, when, where, results, figures; and whether it was halted."""
    states = Counter(row.action.state for row in rows)
    completed, over = states[State.COMPLETED], sum(states[state] for state in _OVER)
    lines = [f"# Round {loaded.name}", ""]
    parts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
    if over == len(rows) and completed < over:
        lines += [f"Pruned early, as its file says, and so without results: {parts}.", ""]
    if over < len(rows):
        lines += [f"**Halted before its end**: {completed} of {len(rows)} experiments are completed ({parts}).", ""]
    lines += [*_what(loaded, rows), "", "## When and where", "", *_when_and_where(rows, told), "", "## Results", ""]
    lines += [*_table(settings_of(rows)), "", "## What lies here", ""]
    lines += [f"- `{RECORDS}/`: the records", f"- `{loaded.name}.yaml`: the round file"]
    if any("code" in one for one in told):
        lines += [f"- `{RECORDS}/{COPIES}/`: the code that ran, as far as it was copied"]
    lines += [f"- `{ENVIRONMENT}`: what the jobs ran with; `{PACKAGES}`: what was installed when this was written"]
    figures = sorted(folder.glob("plots/overviews/*.png")) + sorted(folder.glob("figures/*.png"))
    lines += [f"- plots, figures, tables and report, as far as they were made; `python analysis/report.py --round "
              f"{loaded.name}` makes plots, tables and report anew", ""]  # fmt: skip
    lines += [f"![{one.stem}]({one.relative_to(folder)})" for one in figures]
    return "\n".join(lines).rstrip() + "\n"


def _what(loaded: Round, rows: Sequence[ExperimentStatus]) -> list[str]:
    groups = Counter(row.experiment.group for row in rows)
    of = f"study `{loaded.study}`" if loaded.study else "commands, or several studies"
    return [
        f"{len(rows)} experiments of {of}: {', '.join(f'{count} `{group}`' for group, count in groups.items())}.",
        *([f"{group} is shown beside {baseline}." for group, baseline in loaded.baselines.items()]),
    ]


def _when_and_where(rows: Sequence[ExperimentStatus], told: Sequence[Mapping[str, object]]) -> list[str]:
    attempts = [one for row in rows for one in row.record.runs if one.claim and not one.claim.void]
    if not attempts:
        return ["Nothing ever ran."]
    starts = [one.claim.started for one in attempts if one.claim and one.claim.started]
    ends = [one.result.at for one in attempts if one.result and one.result.at]
    places = Counter(f"{one.opened.scheduler.get('kind')} on {one.opened.scheduler.get('server')}" for one in attempts)
    lines = [f"- jobs of {place}: {count}" for place, count in places.items()]
    if starts and ends:
        lines.insert(0, f"- from {date_and_time(min(starts))} to {date_and_time(max(ends))} (UTC)")
    for one in told:
        facts = ", ".join(f"{key} {value}" for key, value in one.items() if key != "experiments" and value is not None)
        lines.append(f"- {one['experiments']} completed with {facts}")
    return lines


def _table(settings: Sequence[SettingResults]) -> list[str]:
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
        cells = [one.formatted(name) for name in names]
        lines.append(f"| {one.name.replace('|', chr(92) + '|')} | {one.seeds} | {' | '.join(cells)} |")
    return lines

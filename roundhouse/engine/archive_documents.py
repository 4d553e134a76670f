"""The documents of an archived round: README, round file, environments of the jobs, installed packages."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.config.round import Round
from roundhouse.formatting import date_and_time
from roundhouse.model.plan import State
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import history
from roundhouse.store.archive import RECORDS, Archive
from roundhouse.store.code_copy import COPIES
from roundhouse.views import measured
from roundhouse.views.results import SettingResults, settings_of

README, ENVIRONMENT, PACKAGES = "README.md", "environments.json", "packages.txt"


def write(archive: Archive, loaded: Round, statuses: Sequence[ExperimentStatus]) -> None:
    """Write the documents next to where the records will be. A README that the user may have edited is kept."""
    folder, found = archive.folder, environments(statuses)
    for file in loaded.files:
        files.replace(folder / file.name, file.read_bytes())
    files.replace(folder / ENVIRONMENT, files.dump({"environments": found}))
    packages = sorted({f"{one.metadata['Name']}=={one.version}" for one in distributions()}, key=str.lower)
    files.replace(folder / PACKAGES, files.as_bytes("\n".join([*packages, ""])))
    if (folder / README).exists():
        shutil.copy2(folder / README, folder / f"{README}.before")
    files.replace(folder / README, files.as_bytes(readme(loaded, statuses, found, folder)))


def environments(statuses: Iterable[ExperimentStatus]) -> list[dict[str, Any]]:
    """The environments of the completed attempts, each once with the number of attempts; the most frequent first."""
    kinds: dict[str, dict[str, Any]] = {}
    for status in statuses:
        done = status.record.completed
        if done and (found := history.environments(status.record.directory).get(done.number)):
            kept = {key: value for key, value in found.items() if key not in ("version", "host")}
            kinds.setdefault(repr(sorted(kept.items(), key=str)), {"experiments": 0, **kept})["experiments"] += 1
    return sorted(kinds.values(), key=lambda kind: -int(kind["experiments"]))


def readme(
    loaded: Round, statuses: Sequence[ExperimentStatus], found: Sequence[Mapping[str, object]], folder: Path
) -> str:
    """README.md of an archived round: content, times, places, results, figures; and whether it was stopped early."""
    states, total = Counter(status.action.state for status in statuses), len(statuses)
    completed, ended = states[State.COMPLETED], sum(states[state] for state in State if state.ended_well)
    counts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
    lines = [f"# Round {loaded.name}", ""]
    if completed < ended == total:
        lines += [f"Pruned or diverged experiments have ended early, and have no results: {counts}.", ""]
    if ended < total:
        lines += [
            f"**Archived unfinished**: {completed} of {total} experiments are completed ({counts}).",
            "",
        ]
    groups = Counter(status.experiment.group for status in statuses)
    of = f"study `{loaded.study}`" if loaded.study else "commands or several studies"
    lines += [f"{total} experiments ({of}): {', '.join(f'{count} `{group}`' for group, count in groups.items())}."]
    lines += [*(f"{group} is compared with {baseline}." for group, baseline in loaded.baselines.items()), ""]
    lines += ["## When and where", "", *_when_and_where(statuses, found), ""]
    lines += ["## Results", "", *_table(settings_of(statuses)), ""]
    lines += ["## Contents", "", f"- `{RECORDS}/`: the records", f"- `{loaded.name}.yaml`: the round file"]
    lines += [f"- `{file.name}`: a round that it extends" for file in loaded.files[1:]]
    if any("code" in one for one in found):
        lines += [f"- `{RECORDS}/{COPIES}/`: the copies of the code that ran"]
    lines += [f"- `{ENVIRONMENT}`: the environments of the jobs; `{PACKAGES}`: the packages installed at this time"]
    lines += [f"- plots, figures, tables and report, if they exist; `python analysis/report.py --round "
              f"{loaded.name}` makes plots, tables and report again", ""]  # fmt: skip
    figures = sorted(folder.glob("plots/overviews/*.png")) + sorted(folder.glob("figures/*.png"))
    lines += [f"![{one.stem}]({one.relative_to(folder)})" for one in figures]
    return "\n".join(lines).rstrip() + "\n"


def _when_and_where(statuses: Sequence[ExperimentStatus], found: Sequence[Mapping[str, object]]) -> list[str]:
    attempts = [one for status in statuses for one in status.record.runs if one.claim and not one.claim.void]
    if not attempts:
        return ["Nothing has run."]
    spans = [span for status in statuses for span in measured.spans(status.record)]
    places = Counter(f"{one.opened.scheduler.get('kind')} on {one.opened.scheduler.get('server')}" for one in attempts)
    lines = [f"- jobs of {place}: {count}" for place, count in places.items()]
    if spans:
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        lines.insert(0, f"- from {date_and_time(first)} to {date_and_time(last)} (UTC)")
    for one in found:
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

"""The sections of a methods chapter about a round: plain sentences, lists and tables, from what jobs recorded.

If runs differ in a version, a device or a setting, all values are listed, each with its number of runs.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.dataframes import moment
from analysis.provenance import NOT_RECORDED, SETTINGS, SOFTWARE, VERSIONS, Facts, RecordedRun
from analysis.round_summary import ExperimentSummary, counts, usage
from roundhouse.formatting import counted, walltime
from roundhouse.model.attempt import STEP
from roundhouse.model.experiment import Resources

NAMED = 12  # names or values listed one by one; the rest is counted
MISSING = (
    "The cluster: its size, queue limits, drivers, operating system. See its documentation and the site file.",
    "Config keys that the round file omits: they had the defaults of the study.",
)


@dataclass(frozen=True, slots=True)
class FactTable:
    """Cells of plain text. `columns`: for each l, r, or p (text that may be wrapped). False if it has no rows."""

    title: str
    columns: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True, slots=True)
class FactSection:
    """A section about one topic, in plain text."""

    title: str
    sentences: Sequence[str] = ()
    items: Sequence[str] = ()
    table: FactTable | None = None


def sections(facts: Facts) -> list[FactSection]:
    """All sections, differences between runs first; empty sections are left out."""
    kinds = (differences, overview, hardware, requests, software, durations, restarts, configuration)
    made = [*(kind(facts) for kind in kinds), FactSection("Not recorded", items=MISSING)]
    made += [FactSection("Unreadable, and left out", items=facts.problems)]
    return [one for one in made if one.sentences or one.items or one.table]


def listed(values: Iterable[str]) -> str:
    """The first `NAMED` values, and the number of the others."""
    texts = list(values)
    more = f", and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def tally(found: Counter[str]) -> str:
    """`walltime 12, node 3`, the most frequent first."""
    return listed(f"{name} {number}" for name, number in found.most_common())


def share(number: int, total: int) -> str:
    """`all 248`, `12 of 248`."""
    return f"{number:,} of {total:,}" if number < total else f"all {total:,}" if total > 1 else "the only one"


def in_runs(values: Counter[str]) -> str:
    """`2.4.1 (236 of 248 runs), 2.5.0 (12 of 248 runs)`."""
    total = values.total()
    return listed(f"{value} ({share(number, total)}{' runs' * (total > 1)})" for value, number in values.most_common())


def rows_of(facts: Facts, names: Mapping[str, str]) -> list[list[str]]:
    """A row for each value of each key: its name, the value, and how many runs have it."""
    found = {name: facts.values(key) for key, name in names.items()}
    return [[name, value, share(number, values.total())]
            for name, values in found.items() for value, number in values.most_common()]  # fmt: skip


def date_of(seconds: float) -> str:
    """A day in UTC: `3 January 2026`."""
    day = moment(seconds)
    return f"{day.day} {day:%B %Y}" if day is not None else NOT_RECORDED


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def figure(value: float) -> str:
    """A number with at least three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def differences(facts: Facts) -> FactSection:
    """Values that differ between runs, so that a text must not name a single one."""
    found = {name: facts.values(key) for key, name in {"model": "Device", **SOFTWARE, **SETTINGS}.items()}
    found["Scheduler"] = Counter(run.scheduler for run in facts.runs)
    edited = facts.values("edited")["yes"]
    items = [f"{name}: {in_runs(values)}." for name, values in found.items() if len(values) > 1]
    sentences = ["A text about the round must not name a single value for these."] if items else []
    if edited:
        items.append(f"Runs of edited code: {share(edited, len(facts.runs))}. The commit does not identify their code.")
    return FactSection("Runs differ" if sentences else "The code was edited", sentences, items)


def overview(facts: Facts) -> FactSection:
    total, groups = len(facts.summaries), facts.found.groups
    parts = f" in {len(groups)} groups: {listed(f'{name} {len(ones)}' for name, ones in groups.items())}"
    sentences = [f"Round {facts.found.name} has {counted(total, 'experiment', ',')}{parts * (len(groups) > 1)}."]
    states = {str(state).replace("_", " "): number for state, number in counts(facts.summaries).items()}
    sentences.append(f"Their states: {', '.join(f'{number:,} {state}' for state, number in states.items()) or 'none'}.")
    spans = [span for one in facts.summaries for span in one.entry.spans]
    if not spans:
        return FactSection("Overview", [*sentences, "No job has run."])
    first, last = date_of(min(start for start, _ in spans)), date_of(max(end for _, end in spans))
    when = f"on {first}" if first == last else f"from {first} to {last}"
    end = "last heartbeat so far" if any(one.running for one in facts.summaries) else "last end"
    sentences.append(f"Jobs ran {when} (UTC; first start to {end}).")
    used, completed = (usage(ones, facts.found.file is not None) for ones in (facts.summaries, facts.completed))
    partly = completed.unit == used.unit and completed.hours < used.hours
    some = f", {figure(completed.hours)} of them in completed experiments" if partly else ""
    sentences.append(f"{counted(len(facts.runs), 'run', ',')} took {figure(used.hours)} {used.unit}{some}.")
    return FactSection("Overview", sentences)


def hardware(facts: Facts) -> FactSection:
    hosts = sorted({run.host or f"a host that is {NOT_RECORDED}" for run in facts.runs})
    sentences = [f"Scheduler: {in_runs(Counter(run.scheduler for run in facts.runs))}.",
            f"Jobs ran on {counted(len(hosts), 'host', ',')}: {listed(hosts)}."] if hosts else []  # fmt: skip
    devices: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in facts.runs:
        devices.setdefault((run.value("model"), run.value("device")), []).append(run)
    rows = []
    for (model, kind), runs in sorted(devices.items(), key=lambda item: -len(item[1])):
        numbers = (len(runs), len({run.summary.entry.path for run in runs}), len({run.host for run in runs} - {""}))
        rows.append([model, {"cuda": "GPU", "cpu": "CPU"}.get(kind, kind), *(f"{number:,}" for number in numbers)])
    head = ["Device", "Kind", "Runs", "Experiments", "Hosts"]
    return FactSection("Scheduler and hardware", sentences, table=FactTable("Devices", "llrrr", head, rows))


def requests(facts: Facts) -> FactSection:
    if facts.found.file is None:
        sentence = f"Resource requests are {NOT_RECORDED}: they are in the round file, which is missing or invalid."
        return FactSection("Resource requests", [sentence])
    by_request: dict[tuple[str, Resources], list[ExperimentSummary]] = {}
    for one in facts.summaries:
        by_request.setdefault((one.entry.data_set, one.entry.experiment.resources), []).append(one)
    rows = []
    for (data_set, needs), ones in by_request.items():
        memory = f"{needs.mem_mb / 1024:.4g} GB" if needs.mem_mb else ""
        rows.append([data_set, listed(dict.fromkeys(one.entry.group for one in ones)), f"{len(ones):,}",
                     f"{needs.ncpus}", f"{needs.mpiprocs or ''}", memory, f"{needs.ngpus}", walltime(needs.walltime_s),
                     needs.queue or ""])  # fmt: skip
    head = ["Data set", "Groups", "Experiments", "Cores", "MPI processes", "Memory", "GPUs", "Walltime", "Queue"]
    sentence = "The request of each job in the current round file. A walltime may have been raised while the round ran."
    return FactSection(
        "Resource requests", [sentence], table=without_empty(FactTable("Resources of one job", "llrrrrrrl", head, rows))
    )


def software(facts: Facts) -> FactSection:
    total, found = len(facts.runs), {SOFTWARE[key]: facts.values(key) for key in VERSIONS}
    same = [f"{name} {value}" for name, values in found.items() for value in values if values[value] == total]
    common = [one for one in same if not one.endswith(NOT_RECORDED)]
    table = FactTable("Software and settings, as recorded by runs", "lpr", ["What", "Value", "Runs"],
                  rows_of(facts, {**SOFTWARE, **SETTINGS}) if total else [])  # fmt: skip
    return FactSection(
        "Software and determinism", [f"All runs had {', '.join(common)}."] if common else [], table=table
    )


def durations(facts: Facts) -> FactSection:
    """How long completed experiments took, by data set and the declared keys of `cost`; by group if they have none."""
    kinds: dict[tuple[str, ...], list[ExperimentSummary]] = {}
    keys = facts.found.declared.cost
    for one in facts.completed:
        values = [plain(one.entry.config.get(key, "")) for key in keys]
        group = "" if any(values) else one.entry.group
        kinds.setdefault((one.entry.data_set, group, *values), []).append(one)
    trained = [[one for one in map(training_seconds, ones) if one is not None] for ones in kinds.values()]
    jobs = [[one.entry.seconds for one in ones if one.entry.spans] for ones in kinds.values()]
    longest = max((seconds for several in (*trained, *jobs) for seconds in several), default=0.0)
    unit, size = ("s", 1) if longest < 120 else ("min", 60) if longest < 7200 else ("h", 3600)
    rows = [[*kind, f"{len(ones):,}", _range(training, size, len(ones)), _range(job, size, len(ones))]
            for (kind, ones), training, job in zip(kinds.items(), trained, jobs, strict=True)]  # fmt: skip
    names = [key.replace("_", " ").capitalize() for key in keys]
    head = ["Data set", "Group", *names, "n", f"Training ({unit})", f"Job ({unit})"]
    columns, title = f"ll{'l' * len(keys)}rrr", "Time of one completed experiment: median (minimum to maximum) of n"
    table = FactTable(title, columns, head, rows)
    explanation = "Training is the sum of all epochs. Job is the sum of all runs of an experiment, from start to end."
    return FactSection("Training time", [explanation] if rows else [], table=without_empty(table))


def training_seconds(one: ExperimentSummary) -> float | None:
    """Seconds of all epochs from its metrics, as a total or by epoch; None if they are not recorded."""
    reported = [epoch.get("seconds") for epoch in one.metrics.epochs]
    seconds = [value for value in reported if isinstance(value, (int, float))]
    return one.metrics.used.get("seconds", sum(seconds) if seconds and len(seconds) == len(reported) else None)


def _range(seconds: Sequence[float], size: int, of: int) -> str:
    if not seconds:
        return NOT_RECORDED
    middle, least, most = (figure(one / size) for one in (statistics.median(seconds), min(seconds), max(seconds)))
    notes = [f"{least} to {most}"] * (len(seconds) > 1) + [f"{len(seconds)} of {of}"] * (len(seconds) < of)
    return f"{middle} ({'; '.join(notes)})" if notes else middle


def restarts(facts: Facts) -> FactSection:
    experiments, sentences = [one.entry.experiment for one in facts.summaries], []
    if any(one.study for one in experiments):
        units = {one.unit for one in facts.summaries if one.entry.experiment.study}
        when = "at intervals of steps" if units == {STEP} else "after every epoch"
        sentences.append(f"A checkpoint is written {when}; a restarted job resumes from the newest one.")
    if any(one.command for one in experiments):
        sentences.append(f"Whether the commands of the round write checkpoints is {NOT_RECORDED}.")
    again = [runs for runs in facts.by_experiment if len(runs) > 1]
    if facts.runs:
        began = counted(len(facts.by_experiment), "experiment", ",")
        sentences.append(f"Of {began} that started, {len(again)} had more than one run.")
    if again:
        ended = Counter(str(run.attempt.cause) for runs in again for run in runs[:-1] if run.attempt.cause)
        sentences += [f"Exit causes of the runs before the last: {tally(ended)}.", *_resumed(again)]
    unstarted = Counter(str(one.cause) for summary in facts.summaries for one in summary.entry.record.runs if one.void)
    if unstarted:
        sentences.append(f"Attempts in which no job ever started: {tally(unstarted)}.")
    return FactSection("Checkpoints and restarts", sentences)


def _resumed(again: Sequence[Sequence[RecordedRun]]) -> list[str]:
    """How restarted experiments resumed, and whether the resume was exact."""
    resumed = [runs[0].summary for runs in again if any(run.resumed for run in runs)]
    unknown = sum(None in (run.resumed for run in runs[1:]) and not any(run.resumed for run in runs) for runs in again)
    ways = Counter({"from a checkpoint": len(resumed), NOT_RECORDED: unknown})
    ways["from the start"] = len(again) - ways.total()
    sentences = [f"They restarted: {tally(+ways)}."]
    known = [one.metrics.exact for one in resumed if one.metrics.epochs and one.entry.experiment.study]
    exact = {"exact": sum(known), "approximate": len(known) - sum(known), NOT_RECORDED: len(resumed) - len(known)}
    if resumed:
        parts = ", ".join(f"{name} for {number:,}" for name, number in exact.items() if number)
        sentences.append(f"Their resumes were {parts}; exact means bit for bit equal to an uninterrupted run.")
    return sentences


def configuration(facts: Facts) -> FactSection:
    rows, entries = [], [one.entry for one in facts.summaries]
    for key in dict.fromkeys(key for one in entries for key in one.config if key != "seed"):
        having = [(one.group, plain(one.config[key])) for one in entries if key in one.config]
        rows.append([key, _by_group(having), share(len(having), len(entries))])
    rows.sort(key=lambda row: (not row[2].startswith("all"), ", " in row[1]))
    commands = Counter(" ".join(one.experiment.command or ()) for one in entries)
    rows += [["command", command, share(number, len(entries))] for command, number in commands.items() if command]
    table = FactTable("Configuration, common values first", "lpr", ["Key", "Values", "Experiments"], rows)
    return FactSection("Seeds and configuration", _seeds(facts), table=table)


def _by_group(having: Sequence[tuple[str, str]]) -> str:
    """The values, with their groups if the group determines the value."""
    groups: dict[str, list[str]] = {}
    for group, value in dict.fromkeys(having):
        groups.setdefault(value, []).append(group)
    decided = len(groups) > 1 and len(dict.fromkeys(having)) == len({group for group, _ in having})
    return listed(f"{value} ({', '.join(ones)})" if decided else value for value, ones in groups.items())


def _seeds(facts: Facts) -> list[str]:
    seeds = sorted({plain(one.entry.config["seed"]) for one in facts.summaries if "seed" in one.entry.config},
                   key=lambda text: (len(text), text))  # fmt: skip
    if not seeds:
        return [f"Seeds are {NOT_RECORDED}: no config has the key seed."]
    planned = Counter(one.entry.setting for one in facts.summaries)
    completed = Counter(one.entry.setting for one in facts.completed)
    sentences = [f"{'Seeds' if len(seeds) > 1 else 'Seed'} {listed(seeds)}: {_by_setting(list(planned.values()))}."]
    if completed != planned:
        sentences.append(f"Completed: {_by_setting([completed[setting] for setting in planned])}.")
    return sentences


def _by_setting(numbers: Sequence[int]) -> str:
    found = Counter(numbers)
    kinds = sorted(found.items(), reverse=True)
    text = listed(f"{counted(number, 'setting', ',')} with {counted(seeds, 'seed', ',')}" for seeds, number in kinds)
    return f"{text}{' each' * (len(found) == 1 and len(numbers) > 1)}"


def without_empty(table: FactTable) -> FactTable:
    """The table without its empty columns."""
    kept = [number for number in range(len(table.head)) if any(row[number] for row in table.rows)]
    rows = [[row[number] for number in kept] for row in table.rows]
    return FactTable(table.title, "".join(table.columns[one] for one in kept), [table.head[one] for one in kept], rows)

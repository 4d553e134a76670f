"""The lists and tables of a methods chapter about a round, from what jobs recorded.

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
from analysis.provenance import NODE, NOT_RECORDED, SETTINGS, SOFTWARE, Facts, RecordedRun, training_seconds
from analysis.round_summary import ExperimentSummary
from analysis.rounds import RoundEntry
from roundhouse.formatting import walltime
from roundhouse.model.experiment import Resources
from roundhouse.store import cluster_file

LEAST_SHOWN = 0.005  # hours; less would be 0.00
NAMED = 12  # names or values listed one by one; the rest is counted
RECORDED = {"os": "the operating system", "driver": "the GPU driver", "tf32": "TF32",
            "cudnn_benchmark": "the cuDNN benchmark setting"}  # fmt: skip
OF_COMMANDS = "What commands load and set: their libraries, precision, determinism and checkpoints."
DEFAULTS = "Values of config keys that the round file omits: they were the defaults of the study or the program."


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
    """What must be known before the paragraphs are used, then the tables; empty sections are left out."""
    kinds = (differences, missing, devices, requests, software, durations, configuration)
    made = [*(kind(facts) for kind in kinds), FactSection("Unreadable, and left out", items=facts.problems)]
    return [one for one in made if one.sentences or one.items or one.table]


def listed(values: Iterable[str]) -> str:
    """The first `NAMED` values, and the number of the others."""
    texts = list(values)
    more = f", and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def tally(found: Counter[str]) -> str:
    """`12 walltime, 3 node`, the most frequent first."""
    return listed(f"{number:,} {name}" for name, number in found.most_common())


def share(number: int, total: int) -> str:
    """`all 248`, `12 of 248`."""
    return f"{number:,} of {total:,}" if number < total else f"all {total:,}" if total > 1 else "the only one"


def in_runs(values: Counter[str]) -> str:
    """`2.4.1 (236 of 248 runs), 2.5.0 (12 of 248 runs)`."""
    total = values.total()
    return listed(f"{value} ({share(number, total)}{' runs' * (total > 1)})" for value, number in values.most_common())


def rows_of(facts: Facts, names: Mapping[str, str]) -> list[list[str]]:
    """A row for each value of each key that a run recorded: its name, the value, and how many runs have it."""
    found = {name: facts.values(key) for key, name in names.items()}
    return [[name, value, share(number, values.total())]
            for name, values in found.items() if set(values) - {NOT_RECORDED}
            for value, number in values.most_common()]  # fmt: skip


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
    found = {name: facts.values(key) for key, name in {**SOFTWARE, **SETTINGS}.items()}
    found = {"Device": Counter(run.device[0] for run in facts.runs), **found}
    found["Scheduler"] = Counter(run.scheduler for run in facts.runs)
    edited = facts.values("edited")["yes"]
    items = [f"{name}: {in_runs(values)}." for name, values in found.items() if len(values) > 1]
    sentences = ["The paragraphs give all values of these; a text must not name a single one."] if items else []
    if edited:
        items.append(f"Runs of edited code: {share(edited, len(facts.runs))}. The commit does not identify their code.")
    return FactSection("Runs differ" if sentences else "The code was edited", sentences, items)


def missing(facts: Facts) -> FactSection:
    """What a methods chapter needs and no record contains."""
    unknown = []
    if facts.runs:
        on_gpu = any(run.device[1] == "GPU" for run in facts.runs)
        keys = [key for key in RECORDED if key == "os" or on_gpu]
        unknown = [
            what for key, what in RECORDED.items() if key in keys and not set(facts.values(key)) - {NOT_RECORDED}
        ]
    if any(not run.local for run in facts.runs) and cluster_file.read(facts.found.directory) is None:
        unknown.insert(0, "the size of the cluster")
    text = f"{unknown[0][0].upper()}{unknown[0][1:]}{''.join(f', {one}' for one in unknown[1:])}." if unknown else ""
    commands = [OF_COMMANDS] if any(one.entry.experiment.command for one in facts.summaries) else []
    return FactSection("Not recorded", items=[*([text] if text else []), *commands, DEFAULTS])


def devices(facts: Facts) -> FactSection:
    found: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in facts.runs:
        found.setdefault(run.device, []).append(run)
    rows = []
    for (model, kind), runs in sorted(found.items(), key=lambda item: -len(item[1])):
        numbers = (len(runs), len({run.summary.entry.path for run in runs}))
        hosts = listed(sorted({run.host for run in runs} - {""})) or NOT_RECORDED
        rows.append([model, kind, *(f"{number:,}" for number in numbers), hosts])
    head = ["Device", "Kind", "Runs", "Experiments", "Hosts"]
    return FactSection("Devices", table=FactTable("Where runs computed", "llrrp", head, rows))


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
        "Resource requests", [sentence], table=without_empty(FactTable("Resources of one job", "lprrrrrrl", head, rows))
    )


def software(facts: Facts) -> FactSection:
    rows = rows_of(facts, {**SOFTWARE, **SETTINGS, **NODE}) if facts.runs else []
    head = ["What", "Value", "Runs"]
    return FactSection(
        "Software and settings", table=FactTable("Software, settings and nodes, as recorded by runs", "lpr", head, rows)
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


def _range(seconds: Sequence[float], size: int, of: int) -> str:
    if not seconds:
        return NOT_RECORDED
    middle, least, most = (figure(one / size) for one in (statistics.median(seconds), min(seconds), max(seconds)))
    notes = [f"{least} to {most}"] * (len(seconds) > 1) + [f"{len(seconds)} of {of}"] * (len(seconds) < of)
    return f"{middle} ({'; '.join(notes)})" if notes else middle


def configuration(facts: Facts) -> FactSection:
    rows, entries = [], [one.entry for one in facts.summaries]
    for key in dict.fromkeys(key for one in entries for key in one.config if key != "seed"):
        having = [(one.group, plain(one.config[key])) for one in entries if key in one.config]
        rows.append([key, _by_group(having), share(len(having), len(entries))])
    rows.sort(key=lambda row: (not row[2].startswith("all"), ", " in row[1]))
    for group, ones in facts.found.groups.items():
        commands = Counter(commands_of([one for one in ones if one.experiment.command])).most_common()
        rows += [[f"command of {group}", text, share(number, len(entries))] for text, number in commands[:NAMED]]
        if others := [number for _, number in commands[NAMED:]]:
            rows.append([f"command of {group}", f"{len(others):,} more", share(sum(others), len(entries))])
    table = FactTable("Configuration, common values first", "lpr", ["Key", "Values", "Experiments"], rows)
    return FactSection("Configuration", table=table)


def commands_of(entries: Sequence[RoundEntry]) -> list[str]:
    """The command of each entry. Where the words of several differ only by a config key, its name is in their place."""
    commands = [one.experiment.command or () for one in entries]
    if len({len(words) for words in commands}) != 1:
        return list(map(" ".join, commands))
    places = [_with_key(words, entries) for words in zip(*commands, strict=True)]
    return list(map(" ".join, zip(*places, strict=True)))


def _with_key(words: Sequence[str], entries: Sequence[RoundEntry]) -> Sequence[str]:
    """The words at one place of several commands: `--lr={lr}` for all, if the value of this key is what differs."""
    for key in entries[0].config if len(set(words)) > 1 else ():
        values = [plain(one.config.get(key, "")) for one in entries]
        named = [
            word.replace(value, f"{{{key}}}") if value else word for word, value in zip(words, values, strict=True)
        ]
        if len(set(named)) == 1:
            return named
    return words


def _by_group(having: Sequence[tuple[str, str]]) -> str:
    """The values, with their groups if the group determines the value."""
    groups: dict[str, list[str]] = {}
    for group, value in dict.fromkeys(having):
        groups.setdefault(value, []).append(group)
    decided = len(groups) > 1 and len(dict.fromkeys(having)) == len({group for group, _ in having})
    return listed(f"{value} ({', '.join(ones)})" if decided else value for value, ones in groups.items())


def without_empty(table: FactTable) -> FactTable:
    """The table without its empty columns."""
    kept = [number for number in range(len(table.head)) if any(row[number] for row in table.rows)]
    rows = [[row[number] for number in kept] for row in table.rows]
    return FactTable(table.title, "".join(table.columns[one] for one in kept), [table.head[one] for one in kept], rows)

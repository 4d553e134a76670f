"""What the jobs of a round recorded, as the sections of a methods chapter: plain sentences, lists and tables.

A run is an attempt that a job started. Where runs differ, in a version, a device or a setting, all values are told,
each with how many runs have it. What no record says is "not recorded".
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.frames import moment
from analysis.rounds import RoundRecords
from analysis.standing import Known, counts, known_of, use
from roundhouse.formatting import counted, walltime
from roundhouse.model.attempt import Attempt
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import State
from roundhouse.store import record

NOT_RECORDED = "not recorded"
NAMED = 12  # names or values told one by one; more are counted
SOFTWARE = {"python": "Python", "torch": "PyTorch", "numpy": "NumPy", "cuda": "CUDA", "cudnn": "cuDNN",
            "commit": "Commit of the code", "edited": "Edited since the commit"}  # fmt: skip
SETTINGS = {"precision": "Precision", "deterministic": "Deterministic kernels only", "threads": "CPU threads",
            "instructions": "CPU instructions"}  # fmt: skip
ON_A_GPU, ON_A_CPU = ("cuda", "cudnn"), ("threads", "instructions")  # recorded of runs on such a device alone
VERSIONS = [key for key in SOFTWARE if key not in ("commit", "edited")]
ALWAYS = (SOFTWARE.keys() | SETTINGS.keys() | {"model"}) - {*ON_A_GPU, *ON_A_CPU}
MISSING = (
    "The cluster: its size, limits of its queues, drivers, operating system. See its own pages, and the site file.",
    "Config keys that the round file leaves out: they had the defaults of the study.",
)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of plain text. `columns`: for each l, r, or p for text that may need several lines. Without rows: false."""

    title: str
    columns: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True, slots=True)
class Section:
    """What is told of one matter, in plain text."""

    title: str
    sentences: Sequence[str] = ()
    items: Sequence[str] = ()
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that a job started. `environment`: what that job said of itself, if it came so far."""

    known: Known
    attempt: Attempt
    environment: Mapping[str, Any]

    def told(self, key: str) -> str:
        value = self.environment.get(key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        return NOT_RECORDED if value is None else str(value)

    @property
    def scheduler(self) -> str:
        """`slurm on SERVER`; of this machine's own slots, without what identifies it besides its name."""
        told = self.attempt.opened.scheduler
        kind, server = str(told.get("kind") or NOT_RECORDED), str(told.get("server") or "").partition("/")[0]
        named = {"local": "none (slots of one machine)"}.get(kind, kind)
        return f"{named} on {server}" if server else named

    @property
    def host(self) -> str:
        return (self.attempt.claim.host if self.attempt.claim else "") or str(self.environment.get("host") or "")

    @property
    def resumed(self) -> bool | None:
        """Whether it went on from a checkpoint; None where nobody says, as of commands."""
        progress = self.attempt.progress
        return progress.started_epoch > 0 if progress and self.known.entry.row.experiment.study else None


@dataclass(frozen=True)
class Facts:
    """A round with its metrics, read once, and what could not be read of it."""

    found: RoundRecords
    known: Sequence[Known]
    problems: Sequence[str]

    @classmethod
    def of(cls, found: RoundRecords) -> Facts:
        known, problems = known_of(found)
        return cls(found, known, [one.replace(f"{found.directory}{os.sep}", "") for one in problems])

    @cached_property
    def by_experiment(self) -> list[list[Run]]:
        """The runs of each experiment that has any, in order."""
        made = []
        for one in self.known:
            environments = record.environments(one.entry.directory)
            started = [attempt for attempt in one.entry.row.record.runs if attempt.claim and not attempt.void]
            made.append([Run(one, attempt, environments.get(attempt.number, {})) for attempt in started])
        return [runs for runs in made if runs]

    @cached_property
    def runs(self) -> list[Run]:
        return [run for runs in self.by_experiment for run in runs]

    @cached_property
    def completed(self) -> list[Known]:
        return [one for one in self.known if one.entry.state is State.COMPLETED]

    def values(self, key: str) -> Counter[str]:
        """How many runs recorded which value, of those whose kind of device has one."""
        elsewhere = {**dict.fromkeys(ON_A_GPU, "cpu"), **dict.fromkeys(ON_A_CPU, "cuda")}.get(key, "")
        told = Counter(run.told(key) for run in self.runs if run.environment.get("device") != elsewhere)
        return told if set(told) - {NOT_RECORDED} or key in ALWAYS else Counter()


def sections(facts: Facts) -> list[Section]:
    """All that is told, the differences between runs first; sections that say nothing are left out."""
    kinds = (differences, overview, hardware, requests, software, durations, restarts, configuration)
    made = [*(kind(facts) for kind in kinds), Section("Not recorded", items=MISSING)]
    made += [Section("Could not be read, and is left out", items=facts.problems)]
    return [one for one in made if one.sentences or one.items or one.table]


def listed(values: Iterable[str]) -> str:
    """The values one by one, or as many as can be told, and how many there are besides."""
    told = list(values)
    more = f", and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return ", ".join(told[:NAMED]) + more


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
    """A row for each value of each of these: what it is, the value, and how many runs have it."""
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
    """A number of at least three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def differences(facts: Facts) -> Section:
    """What must not be told as one value, because runs differ in it."""
    found = {name: facts.values(key) for key, name in {"model": "Device", **SOFTWARE, **SETTINGS}.items()}
    found["Scheduler"] = Counter(run.scheduler for run in facts.runs)
    edited = facts.values("edited")["yes"]
    items = [f"{name}: {in_runs(values)}." for name, values in found.items() if len(values) > 1]
    told = ["Name no single value for these in a text about the round."] if items else []
    if edited:
        items.append(f"Runs of edited code: {share(edited, len(facts.runs))}. The commit does not say what they ran.")
    return Section("Runs differ" if told else "The code was edited", told, items)


def overview(facts: Facts) -> Section:
    total, groups = len(facts.known), facts.found.groups
    parts = f" in {len(groups)} groups: {listed(f'{name} {len(ones)}' for name, ones in groups.items())}"
    told = [f"Round {facts.found.name} holds {counted(total, 'experiment', ',')}{parts * (len(groups) > 1)}."]
    states = {str(state).replace("_", " "): number for state, number in counts(facts.known).items()}
    told.append(f"Their states: {', '.join(f'{number:,} {state}' for state, number in states.items()) or 'none'}.")
    spans = [span for one in facts.known for span in one.spans]
    if not spans:
        return Section("Overview", [*told, "No job has run."])
    first, last = date_of(min(start for start, _ in spans)), date_of(max(end for _, end in spans))
    when = f"on {first}" if first == last else f"from {first} to {last}"
    end = "last sign of life so far" if any(one.running for one in facts.known) else "last end"
    told.append(f"Jobs ran {when} (UTC; first start to {end}).")
    used, through = (use(ones, facts.found.file is not None) for ones in (facts.known, facts.completed))
    partly = through.unit == used.unit and through.hours < used.hours
    some = f", {figure(through.hours)} of them in experiments that are completed" if partly else ""
    told.append(f"{counted(len(facts.runs), 'run', ',')} took {figure(used.hours)} {used.unit}{some}.")
    return Section("Overview", told)


def hardware(facts: Facts) -> Section:
    hosts = sorted({run.host or f"a host that is {NOT_RECORDED}" for run in facts.runs})
    told = [f"Scheduler: {in_runs(Counter(run.scheduler for run in facts.runs))}.",
            f"Jobs ran on {counted(len(hosts), 'host', ',')}: {listed(hosts)}."] if hosts else []  # fmt: skip
    devices: dict[tuple[str, str], list[Run]] = {}
    for run in facts.runs:
        devices.setdefault((run.told("model"), run.told("device")), []).append(run)
    rows = []
    for (model, kind), runs in sorted(devices.items(), key=lambda item: -len(item[1])):
        numbers = (len(runs), len({run.known.entry.path for run in runs}), len({run.host for run in runs} - {""}))
        rows.append([model, {"cuda": "GPU", "cpu": "CPU"}.get(kind, kind), *(f"{number:,}" for number in numbers)])
    head = ["Device", "Kind", "Runs", "Experiments", "Hosts"]
    return Section("Scheduler and hardware", told, table=Table("Devices", "llrrr", head, rows))


def requests(facts: Facts) -> Section:
    if facts.found.file is None:
        told = f"What jobs asked for is {NOT_RECORDED}: it is in the round file, which is missing or wrong."
        return Section("Resource requests", [told])
    asked: dict[tuple[str, Resources], list[Known]] = {}
    for one in facts.known:
        asked.setdefault((one.entry.data_set, one.entry.row.experiment.resources), []).append(one)
    rows = []
    for (data_set, needs), ones in asked.items():
        memory = f"{needs.mem_mb / 1024:.4g} GB" if needs.mem_mb else ""
        rows.append([data_set, listed(dict.fromkeys(one.entry.group for one in ones)), f"{len(ones):,}",
                     f"{needs.ncpus}", f"{needs.mpiprocs or ''}", memory, f"{needs.ngpus}", walltime(needs.walltime_s),
                     needs.queue or ""])  # fmt: skip
    head = ["Data set", "Groups", "Experiments", "Cores", "MPI processes", "Memory", "GPUs", "Walltime", "Queue"]
    told = "What each job asks for, as the round file says now: a walltime may have been raised while the round ran."
    return Section(
        "Resource requests", [told], table=without_empty(Table("Resources of one job", "llrrrrrrl", head, rows))
    )


def software(facts: Facts) -> Section:
    total, found = len(facts.runs), {SOFTWARE[key]: facts.values(key) for key in VERSIONS}
    same = [f"{name} {value}" for name, values in found.items() for value in values if values[value] == total]
    told = [one for one in same if not one.endswith(NOT_RECORDED)]
    table = Table("Software and settings, as runs found them", "lpr", ["What", "Value", "Runs"],
                  rows_of(facts, {**SOFTWARE, **SETTINGS}) if total else [])  # fmt: skip
    return Section("Software and determinism", [f"All runs had {', '.join(told)}."] if told else [], table=table)


def durations(facts: Facts) -> Section:
    """How long completed experiments took, by data set, model and method; by group, where they have neither."""
    kinds: dict[tuple[str, ...], list[Known]] = {}
    for one in facts.completed:
        model, method = (plain(one.entry.config.get(key, "")) for key in ("model", "method"))
        group = "" if model or method else one.entry.group
        kinds.setdefault((one.entry.data_set, group, model, method), []).append(one)
    trained = [[one for one in map(training_seconds, ones) if one is not None] for ones in kinds.values()]
    jobs = [[one.seconds for one in ones if one.spans] for ones in kinds.values()]
    longest = max((seconds for several in (*trained, *jobs) for seconds in several), default=0.0)
    unit, size = ("s", 1) if longest < 120 else ("min", 60) if longest < 7200 else ("h", 3600)
    rows = [[*kind, f"{len(ones):,}", _range(training, size, len(ones)), _range(job, size, len(ones))]
            for (kind, ones), training, job in zip(kinds.items(), trained, jobs, strict=True)]  # fmt: skip
    head = ["Data set", "Group", "Model", "Method", "n", f"Training ({unit})", f"Job ({unit})"]
    table = Table("Time of one completed experiment: median (least to most) of n", "llllrrr", head, rows)
    told = "Training is all epochs together. Job is from start to end, over all runs of an experiment."
    return Section("Training time", [told] if rows else [], table=without_empty(table))


def training_seconds(one: Known) -> float | None:
    """Seconds of all epochs, as its metrics tell them, together or one by one; None where they do not."""
    told = [epoch.get("seconds") for epoch in one.metrics.epochs]
    seconds = [value for value in told if isinstance(value, (int, float))]
    return one.metrics.used.get("seconds", sum(seconds) if seconds and len(seconds) == len(told) else None)


def _range(seconds: Sequence[float], size: int, of: int) -> str:
    if not seconds:
        return NOT_RECORDED
    middle, least, most = (figure(one / size) for one in (statistics.median(seconds), min(seconds), max(seconds)))
    told = [f"{least} to {most}"] * (len(seconds) > 1) + [f"{len(seconds)} of {of}"] * (len(seconds) < of)
    return f"{middle} ({'; '.join(told)})" if told else middle


def restarts(facts: Facts) -> Section:
    experiments, told = [one.entry.row.experiment for one in facts.known], []
    if any(one.study for one in experiments):
        told.append("A checkpoint is written after every epoch; a job that is started again goes on from the newest.")
    if any(one.command for one in experiments):
        told.append(f"Whether the commands of the round write checkpoints is {NOT_RECORDED}.")
    again = [runs for runs in facts.by_experiment if len(runs) > 1]
    if facts.runs:
        began = counted(len(facts.by_experiment), "experiment", ",")
        told.append(f"Of {began} that began, {len(again)} had more than one run.")
    if again:
        ended = Counter(str(run.attempt.cause) for runs in again for run in runs[:-1] if run.attempt.cause)
        told += [f"What ended the runs before the last: {tally(ended)}.", *_resumed(again)]
    unstarted = Counter(str(one.cause) for known in facts.known for one in known.entry.row.record.runs if one.void)
    if unstarted:
        told.append(f"Attempts in which no job ever started: {tally(unstarted)}.")
    return Section("Checkpoints and restarts", told)


def _resumed(again: Sequence[Sequence[Run]]) -> list[str]:
    """How those that were restarted went on, and whether that was exact."""
    resumed = [runs[0].known for runs in again if any(run.resumed for run in runs)]
    silent = sum(None in (run.resumed for run in runs[1:]) and not any(run.resumed for run in runs) for runs in again)
    went = Counter({"from a checkpoint": len(resumed), NOT_RECORDED: silent})
    went["from the start"] = len(again) - went.total()
    told = [f"They went on: {tally(+went)}."]
    judged = [one.metrics.exact for one in resumed if one.metrics.epochs and one.entry.row.experiment.study]
    exact = {"exact": sum(judged), "approximate": len(judged) - sum(judged), NOT_RECORDED: len(resumed) - len(judged)}
    if resumed:
        parts = ", ".join(f"{name} for {number:,}" for name, number in exact.items() if number)
        told.append(f"Their resumes were {parts}; exact means bit for bit as if never interrupted.")
    return told


def configuration(facts: Facts) -> Section:
    rows, entries = [], [one.entry for one in facts.known]
    for key in dict.fromkeys(key for one in entries for key in one.config if key != "seed"):
        having = [(one.group, plain(one.config[key])) for one in entries if key in one.config]
        rows.append([key, _by_group(having), share(len(having), len(entries))])
    rows.sort(key=lambda row: (not row[2].startswith("all"), ", " in row[1]))
    commands = Counter(" ".join(one.row.experiment.command or ()) for one in entries)
    rows += [["command", command, share(number, len(entries))] for command, number in commands.items() if command]
    table = Table("Configuration, what all experiments share first", "lpr", ["Key", "Values", "Experiments"], rows)
    return Section("Seeds and configuration", _seeds(facts), table=table)


def _by_group(having: Sequence[tuple[str, str]]) -> str:
    """The values; with their groups, where it is the group that decides."""
    groups: dict[str, list[str]] = {}
    for group, value in dict.fromkeys(having):
        groups.setdefault(value, []).append(group)
    decided = len(groups) > 1 and len(dict.fromkeys(having)) == len({group for group, _ in having})
    return listed(f"{value} ({', '.join(ones)})" if decided else value for value, ones in groups.items())


def _seeds(facts: Facts) -> list[str]:
    seeds = sorted({plain(one.entry.config["seed"]) for one in facts.known if "seed" in one.entry.config},
                   key=lambda text: (len(text), text))  # fmt: skip
    if not seeds:
        return [f"Seeds are {NOT_RECORDED}: no config has the key seed."]
    planned = Counter(one.entry.setting for one in facts.known)
    through = Counter(one.entry.setting for one in facts.completed)
    told = [f"{'Seeds' if len(seeds) > 1 else 'Seed'} {listed(seeds)}: {_by_setting(list(planned.values()))}."]
    if through != planned:
        told.append(f"Completed: {_by_setting([through[setting] for setting in planned])}.")
    return told


def _by_setting(numbers: Sequence[int]) -> str:
    found = Counter(numbers)
    kinds = sorted(found.items(), reverse=True)
    told = listed(f"{counted(number, 'setting', ',')} with {counted(seeds, 'seed', ',')}" for seeds, number in kinds)
    return f"{told}{' each' * (len(found) == 1 and len(numbers) > 1)}"


def without_empty(table: Table) -> Table:
    """The table without the columns in which nothing stands."""
    kept = [number for number in range(len(table.head)) if any(row[number] for row in table.rows)]
    rows = [[row[number] for number in kept] for row in table.rows]
    return Table(table.title, "".join(table.columns[one] for one in kept), [table.head[one] for one in kept], rows)

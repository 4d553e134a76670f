"""The paragraphs of a methods chapter about a round, to be pasted into a text: only what was recorded.

What is not recorded is left out. Where runs differ, all values are given, each with its number of runs.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.methods_sections import LEAST_SHOWN, date_of, figure, listed, plain, share, tally
from analysis.provenance import NOT_RECORDED, Facts, RecordedRun, training_seconds
from analysis.round_summary import ExperimentSummary, counts, usage
from roundhouse.formatting import counted, duration
from roundhouse.model.attempt import STEP
from roundhouse.model.experiment import Resources
from roundhouse.model.plan import State
from roundhouse.store import cluster_file

KINDS_SHOWN, TIMES_SHOWN = 3, 12  # kinds of nodes, and training times, that a sentence lists; more are in tables
PRECISIONS = {"fp32": "single precision (fp32)", "fp16": "automatic mixed precision (fp16)",
              "bf16": "automatic mixed precision (bf16)"}  # fmt: skip


def paragraphs(facts: Facts) -> list[str]:
    """What was run; where and with which software; restarts and times."""
    if not facts.runs:
        return [" ".join([*experiments(facts), "No job has run."])]
    parts = (
        [*experiments(facts), *period(facts)],
        [*cluster(facts), *jobs(facts), *hardware(facts), *software(facts), *determinism(facts)],
        [*checkpoints(facts), *restarts(facts), *times(facts)],
    )
    return [" ".join(sentences) for sentences in parts if sentences]


def joined(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def named(values: Counter[str]) -> str:
    """The value; if runs differ, each with its number of runs; empty if it is not recorded."""
    known = [(value, number) for value, number in values.most_common() if value != NOT_RECORDED]
    total = values.total()
    if len(known) == 1 and known[0][1] == total:
        return known[0][0]
    absent = total - sum(number for _, number in known)
    missing = [f"{NOT_RECORDED} for {counted(absent, 'run', ',')}"] if absent else []
    each = [f"{value} ({number:,} of {total:,} runs)" for value, number in known]
    return joined([*each, *missing]) if known else ""


# -------------------------------------------------------------------------------------------------- what was run


def experiments(facts: Facts) -> list[str]:
    total, groups = len(facts.summaries), facts.found.groups
    parts = f" in {len(groups)} groups ({listed(f'{name} {len(ones)}' for name, ones in groups.items())})"
    sentences = [f"The round {facts.found.name} has {counted(total, 'experiment', ',')}{parts * (len(groups) > 1)}."]
    states = {str(state).replace("_", " "): number for state, number in counts(facts.summaries).items()}
    if set(states) == {str(State.COMPLETED)}:
        sentences.append("All of them were completed.")
    elif states:
        sentences.append(f"Their states: {', '.join(f'{number:,} {state}' for state, number in states.items())}.")
    return [*sentences, *seeds(facts)]


def seeds(facts: Facts) -> list[str]:
    """With which seeds, and for how many settings; nothing if no config has the key."""
    found = sorted({plain(one.entry.config["seed"]) for one in facts.summaries if "seed" in one.entry.config},
                   key=lambda text: (len(text), text))  # fmt: skip
    if not found:
        return []
    planned = Counter(one.entry.setting for one in facts.summaries)
    completed = Counter(one.entry.setting for one in facts.completed)
    word = "Seeds" if len(found) > 1 else "The seed"
    sentences = [f"{word} {listed(found)} were used" if len(found) > 1 else f"{word} was {found[0]}"]
    sentences[0] += f": {_by_setting(list(planned.values()))}."
    if completed != planned:
        sentences.append(f"Completed so far: {_by_setting([completed[setting] for setting in planned])}.")
    return sentences


def _by_setting(numbers: Sequence[int]) -> str:
    found = Counter(numbers)
    kinds = sorted(found.items(), reverse=True)
    text = joined([f"{counted(number, 'setting', ',')} with {counted(count, 'seed', ',')}" for count, number in kinds])
    return f"{text}{' each' * (len(found) == 1 and len(numbers) > 1)}"


def period(facts: Facts) -> list[str]:
    """When jobs ran, and what they used."""
    spans = [span for one in facts.summaries for span in one.entry.spans]
    if not spans:
        return []
    first, last = date_of(min(start for start, _ in spans)), date_of(max(end for _, end in spans))
    when = f"on {first}" if first == last else f"between {first} and {last}"
    used, completed = (usage(ones, facts.found.file is not None) for ones in (facts.summaries, facts.completed))
    partly = completed.unit == used.unit and figure(completed.hours) != figure(used.hours)
    some = f", {figure(completed.hours)} of them in completed experiments" if partly else ""
    hours = figure(used.hours) if used.hours >= LEAST_SHOWN else "less than 0.01"
    return [f"The jobs ran {when} and used {hours} {used.unit} in {counted(len(facts.runs), 'run', ',')}"
            f"{some}."]  # fmt: skip


# --------------------------------------------------------------------------------------- where, and with which software


def cluster(facts: Facts) -> list[str]:
    """The scheduler and the cluster, its size, and the nodes of the queues that jobs used."""
    places = Counter(run.scheduler for run in facts.runs)
    sentences = [f"The jobs were run with {named(places)}."]
    recorded = cluster_file.read(facts.found.directory)
    if recorded is None or all(run.local for run in facts.runs):
        return sentences
    try:
        total, kinds = int(recorded["total"]), [kind for kind in recorded["kinds"] if int(kind["nodes"]) > 0]
        used = set(facts.values("queue")) - {NOT_RECORDED}
        chosen = [kind for kind in kinds if kind["queue"] in used] or [kind for kind in kinds if not kind["queue"]]
        chosen.sort(key=lambda kind: -int(kind["nodes"]))
        size = f"The cluster has {counted(total, 'node', ',')}" if total else ""
        nodes = [_nodes(kind) for kind in chosen[:KINDS_SHOWN]]
    except (KeyError, TypeError, ValueError):
        return sentences
    if len(chosen) > KINDS_SHOWN:
        nodes.append(f"{counted(len(chosen) - KINDS_SHOWN, 'other kind')} of node")
    place = "partition" if recorded.get("scheduler") == "slurm" else "queue"
    verb = f"{place}s {joined(sorted(used))} have" if len(used) > 1 else f"{place} {joined(sorted(used))} has"
    of = f"; the {verb} {joined(nodes)}" if chosen and chosen[0]["queue"] else f": {joined(nodes)}" if nodes else ""
    return [*sentences, *([f"{size}{of}."] if size else [])]


def _nodes(kind: Mapping[str, Any]) -> str:
    """`9 nodes with 40 cores, 192 GB of memory and 4 V100 GPUs`."""
    has = [counted(int(kind["cores"]), "core")]
    has += [f"{int(kind['memory_gb']):,} GB of memory"] if kind["memory_gb"] else []
    model = f"{kind['gpu']} " if kind["gpu"] else ""
    has += [counted(int(kind["gpus"]), f"{model}GPU")] if kind["gpus"] else []
    return f"{counted(int(kind['nodes']), 'node', ',')} with {joined(has)}"


def jobs(facts: Facts) -> list[str]:
    """What a job requested; the largest request, if they differ."""
    requests = Counter(one.entry.experiment.resources for one in facts.summaries)
    if facts.found.file is None or not requests:
        return []
    if len(requests) == 1:
        return [f"Each job requested {_request(next(iter(requests)))}."]
    most = Resources(
        ncpus=max(one.ncpus for one in requests), ngpus=max(one.ngpus for one in requests),
        mem_mb=max(one.mem_mb or 0 for one in requests), walltime_s=max(one.walltime_s for one in requests),
    )  # fmt: skip
    return [f"A job requested at most {_request(most)}."]


def _request(needs: Resources) -> str:
    parts = [counted(needs.ncpus, "core"), *([f"{needs.mem_mb / 1024:.4g} GB of memory"] if needs.mem_mb else [])]
    parts += [counted(needs.ngpus, "GPU")] if needs.ngpus else []
    return joined([*parts, f"{duration(needs.walltime_s).removesuffix(' 0 min')} of walltime"])


def hardware(facts: Facts) -> list[str]:
    """What computed, and the nodes around it."""
    devices = Counter(_device(run) for run in facts.runs)
    sentences = [f"The computations were done on {text}."] if (text := named(devices)) else []
    nodes = Counter(" and ".join(filter(None, [_processor(run), _gpus(run)])) or NOT_RECORDED for run in facts.runs)
    hosts = len({run.host for run in facts.runs} - {""})
    if text := named(nodes):
        where = f"The {hosts:,} nodes that were used have" if hosts > 1 else "The node that was used has"
        sentences.append(f"{where} {text}.")
    return sentences


def _device(run: RecordedRun) -> str:
    model, kind = run.device
    return model if model == NOT_RECORDED else f"{model} GPUs" if kind == "GPU" else f"CPUs ({model})"


def _processor(run: RecordedRun) -> str:
    cores, model = run.environment.get("cores"), run.environment.get("processor")
    other = f" ({model})" if model and model != run.device[0] else ""
    return f"{cores} logical cores{other}" if cores else ""


def _gpus(run: RecordedRun) -> str:
    gpus = run.environment.get("node_gpus")
    return f"{gpus} GPUs" if gpus else ""


def software(facts: Facts) -> list[str]:
    """Operating system, driver, versions and commit."""
    system, driver = named(facts.values("os")), named(facts.values("driver"))
    under = f"The operating system was {system}" if system else ""
    under += f"{', with' if under else 'The GPUs were used with'} NVIDIA driver {driver}" if driver else ""
    names = {"python": "Python", "torch": "PyTorch", "cuda": "CUDA", "cudnn": "cuDNN", "numpy": "NumPy"}
    versions = [f"{name} {text}" for key, name in names.items() if (text := named(facts.values(key)))]
    sentences = [*([f"{under}."] if under else []), *([f"The software was {joined(versions)}."] if versions else [])]
    if commit := named(facts.values("commit")):
        edited = facts.values("edited")["yes"]
        of = f" in {share(edited, len(facts.runs))} runs" if len(facts.runs) > 1 else ""
        sentences.append(f"The code was that of commit {commit}{f', with uncommitted changes{of}' if edited else ''}.")
    return sentences


def determinism(facts: Facts) -> list[str]:
    """Precision, and the settings on which bit-for-bit equality depends."""
    precision = Counter({PRECISIONS.get(name, name): number for name, number in facts.values("precision").items()})
    sentences = [f"Networks were trained in {text}."] if (text := named(precision)) else []
    words = {
        "deterministic": {"yes": "only deterministic kernels were allowed", "no": "kernels need not be deterministic"},
        "cudnn_benchmark": {"yes": "cuDNN benchmarking was on", "no": "cuDNN benchmarking was off"},
        "tf32": {"off": "TF32 was off", "no such hardware": ""},
    }
    clauses = []
    for key, meanings in words.items():
        values = facts.values(key)
        value = next(iter(values), NOT_RECORDED)
        if len(values) > 1:
            clauses.append(f"runs differ in {'TF32' if key == 'tf32' else key.replace('_', ' ')}")
        elif value != NOT_RECORDED:
            clauses.append(meanings.get(value, f"TF32 was allowed in {value}"))
    if threads := named(facts.values("threads")):
        clauses.append(f"each run on a CPU used {threads} thread{'s' * (threads != '1')}")
    text = joined([clause for clause in clauses if clause])
    return [*sentences, *([f"{text[0].upper()}{text[1:]}."] if text else [])]


# ---------------------------------------------------------------------------------------------- restarts and times


def checkpoints(facts: Facts) -> list[str]:
    studies = [one for one in facts.summaries if one.entry.experiment.study]
    if not studies:
        return []
    units = {one.unit for one in studies}
    when = "at intervals of steps" if units == {STEP} else "after every epoch"
    return [
        f"A checkpoint was written {when} and when a job was stopped. An interrupted experiment continues from the "
        "newest one, in a new job."
    ]


def restarts(facts: Facts) -> list[str]:
    """How many experiments were started again, after what, and whether their resumes were exact."""
    again = [runs for runs in facts.by_experiment if len(runs) > 1]
    began = counted(len(facts.by_experiment), "experiment", ",")
    if not again:
        return ["No experiment had to be restarted."] if len(facts.by_experiment) > 1 else []
    ended = Counter(str(run.attempt.cause) for runs in again for run in runs[:-1] if run.attempt.cause)
    sentences = [f"Of {began} that started, {len(again):,} needed more than one run (the earlier runs ended by: "
                 f"{tally(ended)})."]  # fmt: skip
    return [*sentences, *resumes(again)]


def resumes(again: Sequence[Sequence[RecordedRun]]) -> list[str]:
    """How restarted experiments resumed, and whether the resume was exact."""
    resumed = [runs[0].summary for runs in again if any(run.resumed for run in runs)]
    unknown = sum(None in (run.resumed for run in runs[1:]) and not any(run.resumed for run in runs) for runs in again)
    ways = {"continued from a checkpoint": len(resumed), "began again": len(again) - len(resumed) - unknown}
    text = joined([f"{number:,} {way}" for way, number in ways.items() if number])
    sentences = [f"Of these, {text}."] if text else []
    known = [one.metrics.exact for one in resumed if one.metrics.epochs and one.entry.experiment.study]
    if known and all(known) and len(known) == len(resumed):
        sentences.append("All resumed trainings are equal, bit for bit, to uninterrupted ones.")
    elif known:
        some = f"{sum(known):,} of {len(resumed):,}"
        sentences.append(f"{some} resumed trainings are equal, bit for bit, to uninterrupted ones.")
    return sentences


def times(facts: Facts) -> list[str]:
    """The median time of completed experiments, by group and data set; never over several data sets."""
    kinds: dict[tuple[str, str], list[ExperimentSummary]] = {}
    for one in facts.completed:
        kinds.setdefault((one.entry.group, one.entry.data_set), []).append(one)
    trained = {kind: _median(map(training_seconds, ones)) for kind, ones in kinds.items()}
    measured = "training time of an experiment"
    if not all(trained.values()):
        measured = "time of an experiment, over all its runs,"
        trained = {kind: _median(one.entry.seconds or None for one in ones) for kind, ones in kinds.items()}
    found = [(kind, value) for kind, value in trained.items() if value]
    if not found:
        return []
    if len(found) > TIMES_SHOWN:
        return ["Training times are in the table."]
    texts = [f"{value[0]}{_of(kind, len(found))} (n = {value[1]:,})" for kind, value in found]
    return [f"The median {measured} was {joined(texts)}."]


def _of(kind: tuple[str, str], kinds: int) -> str:
    group, data_set = kind
    place = f" on {data_set}" if data_set else ""
    return f" for {group}{place}" if kinds > 1 else place


def _median(seconds: Iterable[float | None]) -> tuple[str, int] | None:
    known = [one for one in seconds if one is not None]
    return (_time(statistics.median(known)), len(known)) if known else None


def _time(seconds: float) -> str:
    """`54.7 s`, `12.3 min`, `1.90 h`."""
    unit, size = ("s", 1) if seconds < 120 else ("min", 60) if seconds < 7200 else ("h", 3600)
    return f"{figure(seconds / size)} {unit}"

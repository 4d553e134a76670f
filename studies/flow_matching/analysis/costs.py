"""What the versions of a round cost: time of a step, of a sample and of a training, hours of the round, disk space."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.comparison import Interval
from analysis.rounds import RoundRecords
from studies.flow_matching.analysis.effects import UNKNOWN, difference_of, seed_noise
from studies.flow_matching.analysis.results import SAMPLE, STEP, TRAINING, FlowResults, Setting

COSTS = {STEP: "time of a training step", SAMPLE: "time of sampling a field", TRAINING: "time of all training steps"}
HOUR, GIGABYTE = 3600.0, 1e9


@dataclass(frozen=True)
class Overhead:
    """A cost of a technique alone, as a factor of the base's, with its 95 % interval; NaN if it is unknown."""

    factor: float
    interval: Interval


@dataclass(frozen=True)
class RoundCosts:
    """`hours`: from the first start of a version to the last end, NaN if none ran; `run_hours`: of all their runs.

    `parallel`: the most runs of the round at the same time. `checkpoint_gb`: files .pth of the versions now.
    """

    overheads: Mapping[str, Mapping[int, Overhead]]
    hours: float
    run_hours: float
    parallel: int
    checkpoint_gb: float


def costs_of(results: FlowResults, found: RoundRecords) -> RoundCosts:
    spans = [span for one in results.versions for run in one.runs for span in run.spans]
    hours = (max(end for _, end in spans) - min(start for start, _ in spans)) / HOUR if spans else math.nan
    every = [span for one in results.settings for run in one.runs for span in run.spans]
    return RoundCosts(
        {metric: overheads(results, metric) for metric in COSTS},
        hours,
        sum(end - start for start, end in spans) / HOUR,
        most_at_once(every),
        _checkpoint_bytes(results, found) / GIGABYTE,
    )


def overheads(results: FlowResults, metric: str) -> dict[int, Overhead]:
    """By technique, the ratio of its version alone to the base. The noise between seeds is that of the logarithms."""
    base = results.base
    if base is None or not _logs(base, metric):
        return {}
    noise = seed_noise([base, *results.versions], metric, math.log)
    made = {}
    for technique, setting in results.singles.items():
        if own := _logs(setting, metric):
            value, interval = difference_of(own, _logs(base, metric), noise)
            known = math.isfinite(interval.low)
            limits = Interval(math.exp(interval.low), math.exp(interval.high)) if known else UNKNOWN
            made[technique] = Overhead(math.exp(value), limits)
    return made


def _logs(setting: Setting, metric: str) -> list[float]:
    return [math.log(value) for value in setting.values(metric) if value > 0]


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """The largest number of these spans of time that overlap; one that ends when another starts does not."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


def usual_seconds(results: FlowResults) -> float:
    """The median time of a version from its start to its end; NaN if none is completed."""
    found = [sum(end - start for start, end in run.spans) for one in results.versions for run in one.runs if run.spans]
    return statistics.median(found) if found else math.nan


def _checkpoint_bytes(results: FlowResults, found: RoundRecords) -> int:
    paths = {path for one in results.versions for path in one.paths}
    folders = [entry.directory for entry in found.entries if entry.path in paths]
    files = [file for folder in folders if folder.is_dir() for file in folder.rglob("*.pth")]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())

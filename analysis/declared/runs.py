"""What a declared figure shows: the runs of its groups, their results by setting, and what these are compared with."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from analysis.declared.settings import SettingResult, pooled_noise
from analysis.declared.values import as_number
from analysis.learning_curves import plain
from analysis.result_metric import result_metric, sign_of
from analysis.rounding import significant
from analysis.rounds import (
    RoundEntry,
    WithBaseline,
    label_of,
    metrics_of,
    mode_among,
    modes_in,
    value_label,
    varying_keys,
)
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure
from roundhouse.metrics import Declarations, with_unit
from roundhouse.names import nearest
from roundhouse.store.metrics import RunMetrics

COSTS = {"gpu_hours": ("GPU-hours of a run", ""), "seconds": ("time of a run", "s"),
         "peak_memory_mb": ("peak GPU memory", "MB")}  # fmt: skip
"""What every run costs, with label and unit; a run may report further ones as final metrics."""


@dataclass(frozen=True)
class FigureRuns:
    """The runs that a figure shows, each with the runs of its baseline."""

    figure: Figure
    round_runs: Sequence[WithBaseline]

    @cached_property
    def shown(self) -> list[WithBaseline]:
        """Those of the declared groups; by default, all that have the config keys that the figure names.

        By default without those that are only there to be compared with.
        """
        if self.figure.groups:
            return [one for one in self.round_runs if one[0].group in self.figure.groups]
        keys = [name for _, name in self.figure.config_keys]
        having = [one for one in self.round_runs if all(key in one[0].config for key in keys)]
        serving = {one.path for _, baseline in having for one in baseline}
        return [one for one in having if one[0].path not in serving] or having

    @cached_property
    def entries(self) -> list[RoundEntry]:
        return [entry for entry, _ in self.shown]

    @cached_property
    def declared(self) -> Declarations:
        return (self.entries or [entry for entry, _ in self.round_runs])[0].declared

    @cached_property
    def metrics(self) -> Mapping[str, RunMetrics]:
        every = {one.path: one for entry, baseline in self.shown for one in (entry, *baseline)}
        return {path: metrics_of(one, []) for path, one in every.items()}

    @cached_property
    def varying(self) -> set[str]:
        """The config keys that vary, without the seed and those that are kept apart."""
        return varying_keys(self.entries) - {*self.declared.apart}

    @cached_property
    def own(self) -> list[RoundEntry]:
        """The shown runs without those that others of them are compared with.

        A baseline's own baseline is an ordinary run here, if it is shown.
        """
        every = {one.path for _, baseline in self.shown for one in baseline}
        compared = {one.path for entry, baseline in self.shown if entry.path not in every for one in baseline}
        return [one for one in self.entries if one.path not in compared]

    @property
    def data_sets(self) -> dict[str, list[RoundEntry]]:
        """These by data set, which are never in one panel; one without a name if nothing is kept apart."""
        return by_data_set(self.own)

    def baseline(self, entries: Sequence[RoundEntry]) -> list[RoundEntry]:
        """The runs that these are compared with, without those that are among them."""
        chosen = {one.path for one in entries}
        found = {one.path: one for entry, baseline in self.shown if entry.path in chosen for one in baseline}
        return [one for one in found.values() if one.path not in chosen]

    # ---------------------------------------------------------------------------------------------- values

    @cached_property
    def metric(self) -> str:
        """The metric whose values are shown: of the declared one the final metric, if a run has it; else the result."""
        if not self.figure.metric:
            shown = result_metric([(one, self.metrics[one.path]) for one in self.entries], self.declared)
            return shown.result if shown else ""
        final = self.declared.final_of(self.figure.metric)
        return final if any(final in self.metrics[one.path].final for one in self.entries) else self.figure.metric

    def require_metric(self) -> None:
        """RoundhouseError: no completed run has a finite value of the metric that is to be shown."""
        if all(self.value(one) is None for one in self.entries):
            if self.metric in self.known:
                raise RoundhouseError(f"no completed run has a finite value of the metric {self.metric!r}")
            raise RoundhouseError(f"no run has the metric {self.metric!r}: {nearest(self.metric, self.known)}")

    @property
    def known(self) -> list[str]:
        """The metrics that a run has."""
        found = [name for one in self.metrics.values() for name in (*one.final, *([one.metric] if one.metric else []))]
        return list(dict.fromkeys(found))

    def value(self, entry: RoundEntry, name: str | None = None) -> float | None:
        """A metric or a cost of a completed run, by default the metric that is shown, in the shown unit.

        None: it is not finite, or the run is not completed, so that its value is not comparable with those of others.
        """
        if not entry.completed:
            return None
        name = name or self.metric
        metrics = self.metrics[entry.path]
        found = metrics.value(name)
        if found is None and name in COSTS:
            found = _cost(entry, metrics, name)
        return None if found is None or not math.isfinite(found) else self.declared.of(name).factor * found

    def values(self, entries: Iterable[RoundEntry], name: str | None = None) -> tuple[float, ...]:
        return tuple(found for one in entries if (found := self.value(one, name)) is not None)

    def mode(self, name: str) -> str | None:
        """Which value of a metric is best, min or max; of a cost, min; None if nothing declares it."""
        known = mode_among(modes_in(self.entries, self.declared), name, self.metrics.values())
        return self.declared.of(name).mode or known or ("min" if name in COSTS else None)

    def sign(self, name: str) -> int:
        """1 if higher is better, -1 if lower is better, 0 if nothing declares it."""
        return sign_of(self.mode(name))

    # --------------------------------------------------------------------------------------------- settings

    def settings(self, entries: Sequence[RoundEntry], without: Iterable[str] = ()) -> list[SettingResult]:
        """The settings of these runs that have a result. Label: the values of the keys that vary, `without` some."""
        found: dict[str, list[RoundEntry]] = {}
        for one in entries:
            found.setdefault(f"{one.group} {one.setting}", []).append(one)
        made = [SettingResult(self.label(ones[0], without), tuple(ones), self.values(ones)) for ones in found.values()]
        return [one for one in made if one.values]

    def label(self, entry: RoundEntry, without: Iterable[str] = ()) -> str:
        """What is special about a run: the values of the keys that vary, `without` some; else its group."""
        return label_of(entry.config, self.varying - {*without}) or entry.group or "all runs"

    def parts(self, entries: Iterable[RoundEntry], without: Iterable[str] = ()) -> dict[str, list[RoundEntry]]:
        """The runs by what a box, a line or a block shows: the value of `by`; by default, the setting.

        `without`: keys in which runs of one part may differ.
        """
        by = self.figure.by
        found: dict[tuple[str, str], list[RoundEntry]] = {}
        for one in entries:
            if by:
                label = value_label(by, one.config[by]) if by in one.config else one.group
            else:
                label = self.label(one, without)
            found.setdefault((label, "" if by else one.group), []).append(one)
        labels = Counter(label for label, _ in found)
        made = {label if labels[label] == 1 else f"{label} ({group})": ones for (label, group), ones in found.items()}
        if by and all(as_number(ones[0].config.get(by)) is not None for ones in made.values()):
            return dict(sorted(made.items(), key=lambda one: as_number(one[1][0].config.get(by)) or 0.0))
        return made

    def pooled(self, parts: Iterable[Sequence[RoundEntry]]) -> str:
        """A sentence about the config keys, beside the seed, in which runs of one part differ; empty if there are none.

        Keys that are kept apart are not named: parts are made for each data set.
        """
        keys = sorted({key for ones in parts for key in varying_keys(ones)} - {*self.declared.apart})
        return f"Runs that differ in {', '.join(keys)} are taken together." if keys else ""

    def noise(self, entries: Sequence[RoundEntry]) -> str:
        """A sentence about the noise between seeds of these runs; empty if it is unknown."""
        noise = pooled_noise(self.settings(entries))
        if noise is None:
            return ""
        value = f"{significant(noise.deviation, 2)} {self.declared.of(self.metric).shown_unit}".rstrip()
        return f"Noise: the standard deviation over seeds, pooled over settings, is {value}."

    def reference(self, entries: Iterable[RoundEntry], name: str | None = None) -> float | None:
        """The mean of the declared baseline of the metric, such as chance, in the unit that is shown."""
        name = name or self.metric
        known = (self.declared.reference(name, self.metrics[one.path].final) for one in entries)
        values = [one for one in known if one is not None and math.isfinite(one)]
        return self.declared.of(name).factor * statistics.fmean(values) if values else None

    # ---------------------------------------------------------------------------------------------- words

    def reference_sentence(self, name: str | None = None) -> str:
        """The declared baseline of the metric, such as chance, for a caption; empty if there is none."""
        name = name or self.metric
        found = [self.reference(ones, name) for ones in self.data_sets.values()]
        known = sorted({one for one in found if one is not None})
        if not known:
            return ""
        label, unit = str(self.declared.reference_label(name)), self.declared.of(name).shown_unit
        value = " to ".join(map(significant, dict.fromkeys((known[0], known[-1]))))
        return f"{label[:1].upper()}{label[1:]} ({self.declared.label(name)}): {value} {unit}".rstrip() + "."

    def axis(self, name: str | None = None) -> str:
        """The axis label of a metric, a cost or a config key, with its unit."""
        name = name or self.metric
        if name in COSTS and name not in self.declared.metrics:
            return with_unit(*COSTS[name])
        return plain(self.declared.axis(name) if name not in self.config_keys else name.replace("_", " "))

    def label_of(self, name: str) -> str:
        """What a metric, a cost or a config key is called in a sentence."""
        if name in COSTS and name not in self.declared.metrics:
            return COSTS[name][0]
        return name.replace("_", " ") if name in self.config_keys else self.declared.label(name)

    @cached_property
    def config_keys(self) -> set[str]:
        return {key for one in self.entries for key in one.config}

    @property
    def states(self) -> str:
        """How many of the runs are completed."""
        done = sum(one.completed for one in self.entries)
        return f"{done} of {len(self.entries)} runs are completed."


def _cost(entry: RoundEntry, metrics: RunMetrics, name: str) -> float | None:
    if name == "gpu_hours":
        return entry.gpu_hours
    return metrics.used.get(name) or (entry.seconds if name == "seconds" else None)


def by_data_set(entries: Iterable[RoundEntry]) -> dict[str, list[RoundEntry]]:
    made: dict[str, list[RoundEntry]] = {}
    for one in entries:
        made.setdefault(one.data_set, []).append(one)
    return made


def baseline_label(entries: Sequence[RoundEntry]) -> str:
    """What these runs of a baseline are called in a legend; empty without runs."""
    return f"{entries[0].group} (baseline)" if entries else ""

"""Results of completed experiments by setting: the mean over seeds, always with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roundhouse.formatting import spread
from roundhouse.model.status import ExperimentStatus

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class SettingResults:
    """All completed experiments that differ only in their seed. `values`: for each metric, its values by seed."""

    name: str
    seeds: int
    values: dict[str, list[float]]

    def formatted(self, metric: str) -> str:
        """The metric's mean and spread, for tables."""
        return spread(self.values.get(metric, []))


def settings_of(statuses: Sequence[ExperimentStatus]) -> list[SettingResults]:
    """The settings with metrics, in the order of the round file."""
    by_setting: dict[str, list[ExperimentStatus]] = {}
    for one in statuses:
        if one.record.completed and one.record.completed.progress:
            by_setting.setdefault(one.experiment.setting(), []).append(one)
    return [found for found in map(_results, by_setting.values()) if found.values]


def _results(statuses: Sequence[ExperimentStatus]) -> SettingResults:
    values: dict[str, list[float]] = {}
    for one in statuses:
        progress = one.record.completed.progress if one.record.completed else None
        if progress is None:
            continue
        if progress.metric_name and progress.best is not None:
            values.setdefault(f"best {progress.metric_name}", []).append(progress.best)
        for name, value in progress.final.items():
            values.setdefault(name, []).append(value)
    return SettingResults(_pattern([one.experiment.path for one in statuses]), len(statuses), values)


def _pattern(paths: Sequence[str]) -> str:
    """One pattern for the paths, with * where they differ."""
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) > 1:
        return f"{paths[0]}, ..."
    return "/".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def table(settings: Sequence[SettingResults]) -> Table:
    """A row per setting: its number of seeds, and for each metric mean and standard deviation."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    if all(setting.seeds == 1 for setting in settings):
        made.caption = "One seed per setting: the noise of these results is not known."
    made.add_column("setting (mean ± standard deviation over seeds)", overflow="fold")
    made.add_column("seeds", justify="right")
    metrics = list(dict.fromkeys(name for setting in settings for name in setting.values))
    for name in metrics:
        made.add_column(name, justify="right")
    for setting in settings:
        made.add_row(setting.name, str(setting.seeds), *map(setting.formatted, metrics))
    return made

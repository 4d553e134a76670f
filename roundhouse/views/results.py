"""Results of completed experiments by setting: the mean over seeds, always with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roundhouse.formatting import spread
from roundhouse.model.attempt import Progress
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
    by_setting: dict[str, list[tuple[str, Progress]]] = {}
    for one in statuses:
        if one.record.completed and (progress := one.record.completed.progress):
            by_setting.setdefault(one.experiment.setting(), []).append((one.experiment.path, progress))
    return [found for found in map(_results, by_setting.values()) if found.values]


def _results(completed: Sequence[tuple[str, Progress]]) -> SettingResults:
    """The results of one setting, from the path and progress of its completed experiments."""
    values: dict[str, list[float]] = {}
    for _, progress in completed:
        if progress.metric_name and progress.best is not None:
            values.setdefault(f"best {progress.metric_name}", []).append(progress.best)
        for name, value in progress.final.items():
            values.setdefault(name, []).append(value)
    return SettingResults(_pattern([path for path, _ in completed]), len(completed), values)


def _pattern(paths: Sequence[str]) -> str:
    """One pattern for the paths, with * where they differ."""
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) > 1:
        return f"{paths[0]}, ..."
    return "/".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def table(settings: Sequence[SettingResults]) -> Table:
    """A row per setting: its number of seeds, and for each metric mean and standard deviation."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    if all(setting.seeds == 1 for setting in settings):
        made.caption = "One seed per setting: the standard deviation is unknown."
    made.add_column("setting (mean ± standard deviation over seeds)", overflow="fold")
    metrics = list(dict.fromkeys(name for setting in settings for name in setting.values))
    for name in ("seeds", *metrics):
        made.add_column(Text(name), justify="right")
    for setting in settings:
        made.add_row(Text(setting.name), str(setting.seeds), *map(setting.formatted, metrics))
    return made

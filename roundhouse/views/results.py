"""What completed experiments say: a setting is what seeds share, and its result is never shown without their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roundhouse.formatting import spread
from roundhouse.model.status import ExperimentStatus

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Setting:
    """All completed experiments that differ in their seed alone. `values` holds a list, by seed, for each metric."""

    name: str
    seeds: int
    values: dict[str, list[float]]

    def told(self, name: str) -> str:
        """A metric's mean and spread, as tables show it."""
        return spread(self.values.get(name, []))


def settings_of(rows: Sequence[ExperimentStatus]) -> list[Setting]:
    """The settings of a round in the order of its file, from the rows that are completed and have metrics."""
    groups: dict[str, list[ExperimentStatus]] = {}
    for row in rows:
        if row.record.completed and row.record.completed.progress:
            groups.setdefault(row.experiment.setting(), []).append(row)
    return [setting for setting in map(_setting, groups.values()) if setting.values]


def _setting(rows: Sequence[ExperimentStatus]) -> Setting:
    values: dict[str, list[float]] = {}
    for row in rows:
        progress = row.record.completed.progress if row.record.completed else None
        if progress is None:
            continue
        if progress.metric_name and progress.best is not None:
            values.setdefault(f"best {progress.metric_name}", []).append(progress.best)
        for name, value in progress.final.items():
            values.setdefault(name, []).append(value)
    return Setting(_common([row.experiment.path for row in rows]), len(rows), values)


def _common(paths: Sequence[str]) -> str:
    """The paths as one, with * where they differ."""
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) > 1:
        return f"{paths[0]}, ..."
    return "/".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def table(settings: Sequence[Setting]) -> Table:
    """A row for each setting: mean and standard deviation over its seeds, and how many these are."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    if all(setting.seeds == 1 for setting in settings):
        drawn.caption = "One seed each: how much of a difference is noise cannot be told."
    drawn.add_column("setting (mean ± standard deviation over seeds)", overflow="fold")
    drawn.add_column("seeds", justify="right")
    metrics = list(dict.fromkeys(name for setting in settings for name in setting.values))
    for name in metrics:
        drawn.add_column(name, justify="right")
    for setting in settings:
        drawn.add_row(setting.name, str(setting.seeds), *(setting.told(name) for name in metrics))
    return drawn

"""Results of completed experiments by setting: the mean over seeds, always with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roundhouse.formatting import counted, spread
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import Progress
from roundhouse.model.status import ExperimentStatus
from roundhouse.terminal import escape

if TYPE_CHECKING:
    from rich.table import Table

BEST = "best "  # before the name of the main metric: its best value, beside the final metrics
_SEEDS = "seeds"
_SETTING, _GAP = 24, 2  # least width of the column of settings, and the gap between two columns


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
            values.setdefault(f"{BEST}{progress.metric_name}", []).append(progress.best)
        for name, value in progress.final.items():
            values.setdefault(name, []).append(value)
    return SettingResults(_pattern([path for path, _ in completed]), len(completed), values)


def _pattern(paths: Sequence[str]) -> str:
    """One pattern for the paths, with * where they differ."""
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) > 1:
        return f"{paths[0]}, ..."
    return "/".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def ordered(settings: Sequence[SettingResults], declared: Sequence[Declarations]) -> list[str]:
    """All metrics, the most important ones first.

    That is the final metric of the declared main one, the best values, then the other metrics in the order in which
    they are declared, else recorded. Each is followed by the metric that holds its baseline.
    """
    recorded = list(dict.fromkeys(name for setting in settings for name in setting.values))
    main = [one.final_of(one.main) for one in declared if one.main]
    best = [name for name in recorded if name.startswith(BEST)]
    names: list[str] = []
    for name in (*main, *best, *(name for one in declared for name in one.metrics), *recorded):
        names += [name, *(base for one in declared if isinstance(base := one.of(name).baseline, str))]
    return [name for name in dict.fromkeys(names) if name in recorded]


def fitting(settings: Sequence[SettingResults], names: Sequence[str], width: int) -> list[str]:
    """The first of these metrics, as many as fit into a table of this width without a shortened number; at least one.

    A name of a setting that needs more than half of the width is wrapped.
    """
    from rich.cells import cell_len

    longest = max((cell_len(escape(setting.name)) for setting in settings), default=0)
    room = width - min(max(longest, _SETTING), width // 2) - _GAP - len(_SEEDS)
    shown: list[str] = []
    for name in names:
        cells = (name, *(setting.formatted(name) for setting in settings))
        room -= _GAP + max(cell_len(escape(cell)) for cell in cells)
        if shown and room < 0:
            break
        shown.append(name)
    return shown


def table(settings: Sequence[SettingResults], metrics: Sequence[str]) -> Table:
    """A row per setting: its number of seeds, and mean and standard deviation of each of these metrics."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    if all(setting.seeds == 1 for setting in settings):
        made.caption = "One seed per setting: the standard deviation is unknown."
    made.add_column("setting (mean ± standard deviation over seeds)", overflow="fold")
    for name in (_SEEDS, *metrics):
        made.add_column(Text(name), justify="right", no_wrap=True)
    for setting in settings:
        made.add_row(Text(setting.name), str(setting.seeds), *map(setting.formatted, metrics))
    return made


def not_shown(count: int, name: str) -> list[str]:
    """A line for the metrics of a round that did not fit, if there are any: how many, and where all of them are."""
    where = f"`analysis/tables.py --round {name}` writes all of them, and `load_round({name!r})` loads them"
    return [f"Not shown: {counted(count, 'more metric')}. {where}."] if count else []

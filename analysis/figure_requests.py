"""Which figures a round can have: curves, overviews of groups, declared figures, each with a key of what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.figure_store import file_name, key_of
from analysis.group_panels import FIGURES_AT_MOST, GroupPanels
from analysis.rounds import RoundEntry, RoundRecords, WithBaseline, newest_file
from roundhouse.figures import Figure
from roundhouse.names import similar_to

CURVES, RESULTS, LEARNING, DECLARED = "curves", "results", "learning", "declared"

Shown = tuple[WithBaseline, ...]


@dataclass(frozen=True, slots=True)
class FigureRequest:
    """A figure to draw: its place, and the experiments in it, each with its baseline.

    `part`: which of the figures of its kind, if a group has several; `declared`: if it is declared.
    """

    folder: Path
    name: str
    kind: str
    key: str
    formats: tuple[str, ...]
    shown: Shown
    part: int = 0
    declared: Figure | None = None

    @property
    def subject(self) -> str | None:
        return self.shown[0][0].path if self.kind == CURVES else None


def figure_requests(found: RoundRecords, folder: Path, formats: tuple[str, ...]) -> list[FigureRequest]:
    """All figures that a round can have, whether there is data for them yet or not."""
    baseline = {one.path: tuple(found.baseline_of(one)) for one in found.entries}
    declared = {id(one.declared): key_of([], repr(one.declared)) for one in found.entries}
    facts = {one.path: f"{_facts(one)} {declared[id(one.declared)]}" for one in found.entries}
    made: list[tuple[str, str, Shown, int]] = []
    for entry in found.entries:
        shown = ((entry, baseline[entry.path]),)
        made.append((f"curves/{file_name(entry.path)}", CURVES, shown, 0))
    for group, entries in found.groups.items():
        of_group = tuple((entry, baseline[entry.path]) for entry in entries)
        panels = GroupPanels(of_group)
        for kind, figures in ((RESULTS, panels.results), (LEARNING, panels.learning)):
            for part in range(min(len(figures), FIGURES_AT_MOST)):
                name = f"overviews/{file_name(group)}_{kind}{f'_{part + 1}' if part else ''}"
                made.append((name, kind, of_group, part))
    requests = [
        FigureRequest(folder, name, kind, _key(kind, shown, facts), formats, shown, part)
        for name, kind, shown, part in made
    ]
    everything = tuple((entry, baseline[entry.path]) for entry in found.entries)
    for name, figure in _declared_figures(found):
        own = [file for one in found.entries if (file := newest_file(one.record, figure.file))]
        key = key_of(own, _key(f"{DECLARED} {figure!r}", everything, facts))
        requests.append(FigureRequest(folder, f"declared/{name}", DECLARED, key, formats, everything, declared=figure))
    return requests


def _declared_figures(found: RoundRecords) -> Iterator[tuple[str, Figure]]:
    """The declared figures of a round, by name.

    The study, or the round that this one extends, may declare some for rounds with other config keys and groups. A key
    that is similar to an existing one is a slip, which is reported when the figure is drawn.
    """
    keys = {key for entry in found.entries for key in entry.config}
    for name, figure in found.declared.figures.items():
        missing = [key for _, key in figure.config_keys if key not in keys]
        of_others = bool(figure.groups) and not any(group in found.groups for group in figure.groups)
        if not of_others and (not missing or any(similar_to(key, keys) for key in missing)):
            yield name, figure


def _facts(entry: RoundEntry) -> str:
    """What figures show of an experiment in addition to its metrics."""
    progress = [one.progress and (one.progress.unit, one.progress.counter()) for one in entry.record.runs]
    return f"{entry.path} {entry.state} {entry.setting} {entry.config.get('seed')} {progress}"


def _key(kind: str, shown: Shown, facts: dict[str, str]) -> str:
    entries = {one.path: one for entry, baseline in shown for one in (entry, *baseline)}
    pairs = [f"{entry.path}: {[one.path for one in baseline]}" for entry, baseline in shown]
    files = [one.metrics_file for one in entries.values() if one.metrics_file]
    return key_of(files, kind, *pairs, *(facts[path] for path in entries))


def entries_in(figure: FigureRequest) -> list[RoundEntry]:
    """The experiments that a figure shows, without baselines: those of its part."""
    if figure.kind in (CURVES, DECLARED):
        return [entry for entry, _ in figure.shown]
    panels = GroupPanels(figure.shown)
    figures = panels.results if figure.kind == RESULTS else panels.learning
    return [entry for panel in figures[figure.part] for entry in panel.entries]

"""The activity of rounds in a period, in Markdown: totals, a table by group, failures, best results that changed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.methodology import in_markdown
from analysis.methods_sections import figure, listed, tally
from analysis.round_summary import ExperimentSummary, RankedSetting, Ranking, Spread, rankings, summaries_of, usage
from analysis.rounds import RoundEntry, RoundRecords
from roundhouse.formatting import counted
from roundhouse.metrics import Metric
from toolbox.weekly.history import KINDS, Event, events_of, hours_in, known_at, state_at
from toolbox.weekly.period import Period, format_time

SHOWN = 20  # failures and problems of a round that are listed


@dataclass(frozen=True)
class Activity:
    """A round in a period. `events`: by path, those of the period; `hours`: by path, in `unit`, in the period."""

    found: RoundRecords
    known: Sequence[ExperimentSummary]
    problems: Sequence[str]
    period: Period
    events: Mapping[str, Sequence[Event]]
    hours: Mapping[str, float]
    unit: str

    @classmethod
    def of(cls, found: RoundRecords, period: Period) -> Activity:
        known, raw = summaries_of(found)
        problems = [one.replace(f"{found.directory}{os.sep}", "") for one in raw]
        events = {one.entry.path: [event for event in events_of(one.entry) if event.at in period] for one in known}
        unit = usage(known, found.file is not None).unit
        hours = {one.entry.path: hours_in(one, period, unit) for one in known}
        return cls(found, known, problems, period, events, hours, unit)

    def number(self, kind: str, paths: Iterable[str]) -> int:
        """How many of these experiments have an event of this kind."""
        return sum(any(event.kind == kind for event in self.events[path]) for path in paths)

    @property
    def any(self) -> bool:
        return any(self.events.values()) or any(self.hours.values()) or bool(self.problems)


def totals(rounds: Iterable[Activity]) -> str:
    """`40 started, 36 finished, 2 failed; 51.2 GPU-hours`, without zeros."""
    numbers: Counter[str] = Counter()
    used: dict[str, float] = {}
    for one in rounds:
        numbers.update({kind: one.number(kind, one.events) for kind in KINDS})
        used[one.unit] = used.get(one.unit, 0.0) + sum(one.hours.values())
    events = ", ".join(f"{numbers[kind]:,} {kind}" for kind in KINDS if numbers[kind])
    hours = " and ".join(f"{figure(number)} {unit}" for unit, number in used.items() if number)
    return "; ".join([events or "none started, finished or failed", *([hours] if hours else [])])


def round_section(one: Activity) -> Iterator[str]:
    """The parts of a round's section."""
    events = [event for several in one.events.values() for event in several]
    causes = Counter(event.cause for event in events if event.kind == "requeued")
    yield f"### Round {in_markdown(one.found.name)}"
    why = f" Requeued after: {in_markdown(tally(causes))}." if causes else ""
    yield f"{counted(len(one.known), 'experiment', ',')}: {totals([one])}.{why}"
    yield table(*by_group(one))
    failed = [
        f"- {format_time(event.at)}: {in_markdown(path)}: {in_markdown(event.cause)}{in_brackets(event.why)}"
        for path, several in one.events.items()
        for event in several
        if event.kind == "failed"
    ]
    yield from ["Failed:", at_most(failed)] if failed else []
    yield from best_results(one)
    problems = [f"- {in_markdown(line)}" for line in one.problems]
    yield from ["Problems in the records:", at_most(problems)] if problems else []


def in_brackets(text: str) -> str:
    return f" ({in_markdown(text)})" if text.strip() else ""


def at_most(lines: Sequence[str]) -> str:
    """A list of at most SHOWN lines."""
    more = [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def by_group(one: Activity) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the events of each group, and its states at the end of the period. No columns of zeros."""
    kinds = [kind for kind in KINDS if one.number(kind, one.events)]
    rows = []
    for group, entries in one.found.groups.items():
        paths = [entry.path for entry in entries]
        numbers = [str(one.number(kind, paths) or "") for kind in kinds]
        states = states_at(entries, one.period.until)
        rows.append([group, *numbers, figure(sum(one.hours[path] for path in paths)), states])
    return ["Group", *kinds, one.unit, "At the end of the period"], rows


def states_at(entries: Sequence[RoundEntry], moment: float) -> str:
    """`24 of 36 completed, 2 running, 10 waiting`."""
    found = Counter(state_at(entry, moment) for entry in entries)
    completed = found.pop("completed", 0)
    others = [f"{found[state]:,} {state}" for state in sorted(found)]
    return ", ".join([f"{completed:,} of {len(entries):,} completed", *others])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first and the last contain numbers."""
    rules = ["---", *["---:"] * (len(head) - 2), "---"]
    lines = [map(in_markdown, head), rules, *(map(in_markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_results(one: Activity) -> Iterator[str]:
    """The best setting of each group and data set, if it or its result differs from that at the beginning."""
    before, now = (rankings(one.found, known_at(one.known, at)) for at in (one.period.since, one.period.until))
    first = {(leader.group, leader.dataset): leader for leader in before if leader.mode}
    rows = []
    for leader in [leader for leader in now if leader.mode]:
        earlier = first.get((leader.group, leader.dataset))
        best, result = leader.settings[0], leader.result
        metric = leader.declared.of(result)
        new = setting_result(best, metric)
        old = setting_result(earlier.settings[0], metric) if earlier else "none yet"
        if new != old:
            group = " on ".join(part for part in (leader.group, leader.dataset) if part)
            chosen = f"{result}, chosen by {leader.metric}" if leader.metric != result else result
            rows.append([group, chosen, old, new, comparison(best, leader)])
    if rows:
        yield "Best results that changed (mean ± standard deviation over n seeds):"
        head = ["Group", "Result", "Before", "At the end", "Comparison"]
        yield table(head, rows).replace("---:", "---")
    elif any(leader.mode for leader in now):
        yield "Best results: none changed."
    elif not now:
        yield "Best results: none yet."
    unknown = dict.fromkeys(f"{leader.metric} of {leader.group}" for leader in now if not leader.mode)
    if unknown:
        yield f"Not ranked, because no run declares which value is best: {in_markdown(listed(list(unknown)))}."


def setting_result(one: RankedSetting, metric: Metric) -> str:
    return f"{one.label}: {with_spread(one.result, metric)}"


def comparison(one: RankedSetting, ranking: Ranking) -> str:
    """`baseline student 81.00 ± 1.41 % (n = 2); chance 10.00 %`."""
    metric, label = ranking.declared.of(ranking.result), ranking.declared.reference_label(ranking.result)
    parts = [f"baseline {ranking.baseline} {with_spread(one.baseline, metric)}"] if ranking.baseline else []
    parts += [f"{label} {value(one.reference, None, metric)}"] if one.reference is not None else []
    return "; ".join(parts) or "the round names no baseline"


def with_spread(spread: Spread | None, metric: Metric) -> str:
    """`93.10 ± 0.21 % (n = 3)`; with one seed the spread is unknown."""
    return f"{value(spread.mean, spread.deviation, metric)} (n = {spread.n})" if spread else "unknown"


def value(mean: float, deviation: float | None, metric: Metric) -> str:
    """The value of a metric, with its unit."""
    digits, precision = (".2f", ".2f") if metric.percent else (".4g", ".2g")
    spread = "" if deviation is None else f" ± {metric.factor * deviation:{precision}}"
    return f"{metric.factor * mean:{digits}}{spread} {metric.shown_unit}".rstrip()

"""The activity of rounds in a period: what completed, and the best results next to their baselines, in Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from analysis import rounding
from analysis.methodology import in_markdown
from analysis.methods_sections import LEAST_SHOWN, figure
from analysis.round_summary import ExperimentSummary, Ranking, Spread, rankings, summaries_of, usage
from analysis.rounds import RoundRecords
from roundhouse.formatting import abbreviated, counted
from roundhouse.metrics import Metric
from toolbox.weekly.history import Event, events_of, hours_in, known_at, state_at
from toolbox.weekly.period import Period

ROUNDS_SHOWN, BESTS_SHOWN = 3, 4  # rounds with their results, and best results of them together; others are counted


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

    def number(self, kind: str) -> int:
        """How many experiments have an event of this kind in the period."""
        return sum(any(event.kind == kind for event in several) for several in self.events.values())

    @cached_property
    def states(self) -> dict[str, str]:
        """The state of each experiment at the end of the period, by path."""
        return {one.entry.path: state_at(one.entry, self.period.until) for one in self.known}

    @property
    def archived(self) -> bool:
        return self.found.directory.parent.name == f"experiment_{self.found.name}"

    @property
    def any(self) -> bool:
        return any(self.events.values()) or any(self.hours.values()) or bool(self.problems)


def results_section(rounds: Sequence[Activity]) -> Iterator[str]:
    """What completed; then the rounds with most of it, each with the best settings next to their baselines."""
    active = [one for one in rounds if one.any]
    done = sorted((one for one in active if one.number("finished")), key=lambda one: -one.number("finished"))
    share = BESTS_SHOWN // max(1, min(len(done), ROUNDS_SHOWN))
    lines = [line for one in done[:ROUNDS_SHOWN] for line in round_lines(one, share)]
    if rest := done[ROUNDS_SHOWN:]:
        lines.append(f"- {counted(len(rest), 'more round')}: {completed_in(rest)} completed")
    said = [f"{completed_in(done)} completed" if done else "No experiment completed"]
    said += [f"{number:,} {kind}" for kind in ("pruned", "cancelled") if (number := total(active, kind))]
    hours = " and ".join(f"{figure(amount)} {unit}" for unit, amount in used(active).items() if amount >= LEAST_SHOWN)
    spread = " ± is the standard deviation over n seeds." if any("±" in line for line in lines) else ""
    yield f"{', '.join(said)}{f'; {hours} used' if hours else ''}.{spread}"
    if lines:
        yield "\n".join(lines)


def total(rounds: Iterable[Activity], kind: str) -> int:
    return sum(one.number(kind) for one in rounds)


def completed_in(rounds: Sequence[Activity]) -> str:
    return counted(total(rounds, "finished"), "experiment", ",")


def used(rounds: Iterable[Activity]) -> dict[str, float]:
    """The hours of all rounds, by their unit."""
    found: dict[str, float] = {}
    for one in rounds:
        found[one.unit] = found.get(one.unit, 0.0) + sum(one.hours.values())
    return found


def round_lines(one: Activity, most: int) -> Iterator[str]:
    """`- **charlie**: 36 experiments completed, in all 120 of 288`, and at most so many best results."""
    now = sum(state == "completed" for state in one.states.values())
    lines = list(best_results(one))
    more = f"; see its report for {counted(len(lines) - most, 'more best result')}" if len(lines) > most else ""
    name, number = in_markdown(one.found.name), completed_in([one])
    yield f"- **{name}**: {number} completed, in all {now:,} of {len(one.known):,}{more}"
    yield from (f"  - {in_markdown(line)}" for line in lines[:most])


def best_results(one: Activity) -> list[str]:
    """The best setting of each group and data set, those with a baseline and those that changed in the period first."""
    before, now = (rankings(one.found, known_at(one.known, at)) for at in (one.period.since, one.period.until))
    first = {(leader.group, leader.dataset): best_result(leader) for leader in before if leader.mode}
    ranked = [leader for leader in now if leader.mode]
    compared = {leader.baseline for leader in ranked}
    ranked = [leader for leader in ranked if leader.group not in compared] or ranked
    lines = []
    for leader in ranked:
        earlier = first.get((leader.group, leader.dataset), "")
        changed = best_result(leader) != earlier
        then = f"; before: {earlier}" if earlier and changed else "; as before" if earlier else ""
        lines.append(((leader.baseline is None, not changed), described(leader) + then))
    lines.sort(key=lambda item: item[0])
    unknown = list(dict.fromkeys(leader.metric for leader in now if not leader.mode))
    why = f"no best setting by {abbreviated(unknown, 3)}: no run declares which value is best"
    return [*(line for _, line in lines), *([why] if unknown else [])]


def best_result(leader: Ranking) -> str:
    """`81.00 ± 1.41 % (n = 2) with logit, alpha 0.5`."""
    best, metric = leader.settings[0], leader.declared.of(leader.result)
    setting = f" with {best.label}" if best.label != leader.group else ""
    return f"{with_spread(best.result, metric)}{setting}"


def described(leader: Ranking) -> str:
    """`distilled on svhn: test accuracy 93.10 ± 0.21 % (n = 3) with logit, the best of 4 settings; baseline ...`."""
    declared, metric, best = leader.declared, leader.declared.of(leader.result), leader.settings[0]
    by = f" by {declared.label(leader.metric)}" if leader.metric != leader.result else ""
    parts = [f"{' on '.join(part for part in (leader.group, leader.dataset) if part)}: "
             f"{declared.label(leader.result)} {best_result(leader)}"]  # fmt: skip
    parts[0] += f", the best of {leader.of} settings{by}" if leader.of > 1 else ""
    if leader.baseline:
        parts.append(f"baseline {leader.baseline} {with_spread(best.baseline, metric)}")
    if best.reference is not None:
        parts.append(f"{declared.reference_label(leader.result)} {value(best.reference, None, metric)}")
    return "; ".join(parts)


def with_spread(spread: Spread | None, metric: Metric) -> str:
    """`93.10 ± 0.21 % (n = 3)`; with one seed the spread is unknown."""
    return f"{value(spread.mean, spread.deviation, metric)} (n = {spread.n})" if spread else "unknown"


def value(mean: float, deviation: float | None, metric: Metric) -> str:
    """The value of a metric, with its unit."""
    if deviation is None:
        text = f"{metric.factor * mean:{'.2f' if metric.percent else '.4g'}}"
    else:
        text = rounding.with_spread(metric.factor * mean, metric.factor * deviation)
    return f"{text} {metric.shown_unit}".rstrip()

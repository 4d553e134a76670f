"""The written summary, at most 60 lines: design, findings, architectures beside both baselines, tuning, convergence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.comparison import INTERVAL
from analysis.rounding import significant
from analysis.study_summary import missing_lines
from roundhouse.formatting import counted
from studies.flood.analysis.convergence import overview, sentence
from studies.flood.analysis.costs import ERROR, TIME, costs_of, verdict
from studies.flood.analysis.findings import evaluated_by_error, findings, ranked
from studies.flood.analysis.names import BIG_TEST, PERSISTENCE, RING, TUNED_KEYS, architecture_name
from studies.flood.analysis.results import FloodResults, Setting
from studies.flood.analysis.simulations import samples_table, simulations_table
from studies.flood.analysis.texts import UNKNOWN, better, difference, factor, over_seeds, ranged
from studies.flood.analysis.tuning import Tuned, best_by_key

MOST_MISSING = 4
MOST_TUNED = 5


@dataclass(frozen=True)
class SummaryData:
    """What the summary is written from. `missing`: a line each."""

    results: FloodResults
    tuned: Sequence[Tuned]
    missing: Sequence[str]


def summary(data: SummaryData) -> str:
    """summary.md of a round."""
    sections = {
        "Question and design": _design(data.results),
        "Findings": (f"{number}. {one}" for number, one in enumerate(findings(data.results, data.tuned), 1)),
        "Architectures on the big test set": _architectures(data),
        "What tuning gained (B)": _tuning(data),
        "Convergence": _convergence(data.results),
        "Data": _data(data.results),
        "Missing": missing_lines(data.missing, MOST_MISSING),
    }
    lines = [f"# Round {data.results.name}: results"]
    for title, section in sections.items():
        if content := list(section):
            lines += ["", f"## {title}", *content]
    return "\n".join(lines) + "\n"


def _design(results: FloodResults) -> Iterator[str]:
    done = sum(len(one.completed) for one in results.settings)
    total = sum(len(one.runs) for one in results.settings)
    seeds = len({run.seed for ones in results.trained.values() for one in ones for run in one.runs})
    stages = ", ".join(f"{name} {counted(len(ones), 'setting')}" for name, ones in results.trained.items())
    yield (
        "How well, and how fast, do networks predict the change of water depth over one lead, beside persistence "
        "(nothing changes, RAE 1) and beside the same solver on a coarser grid?"
    )
    yield ""
    yield (
        f"{done} of {counted(total, 'run')} completed; trained: {stages or 'nothing'}; {counted(seeds, 'seed')}. "
        "Median RAE = sum |error| / sum |true change| of a sample, lower is better; the mean is not used. Settings "
        f"are chosen by validation loss; test data are of other simulations. In brackets: {INTERVAL}, where n, the "
        "number of seeds, is given; else the range over seeds. Tables are in `results/`."
    )


# ------------------------------------------------------------------------------------------------ the big test set


def _architectures(data: SummaryData) -> Iterator[str]:
    """A row for each architecture of stage C or D, each coarse solver, and persistence."""
    results = data.results
    trained = {one.architecture: one for one in ranked(results, "C")}
    evaluated = {one.architecture: one for one in evaluated_by_error(results)}
    codes = [*evaluated, *(code for code in trained if code not in evaluated)]
    if not codes and not costs_of(results.coarse):
        return
    answers = {one.setting.label: verdict(one, costs_of(results.coarse)) for one in costs_of(results.evaluated)}
    yield "| | setting of C | median RAE | quartiles | below 1 | RMSE (m) | parameters | time / fine | beside coarse |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for code in codes:
        one, chosen = evaluated.get(code), trained.get(code)
        cells = _cells(one) if one else [UNKNOWN] * 6
        yield _line(architecture_name(code), chosen_setting(chosen), *cells, answers.get(code, ""))
    for one in (solver for solver in results.coarse if solver.completed):
        yield _line(f"{one.label} (solver)", "", *_cells(one), "")
    if math.isfinite(ring := results.ring(*BIG_TEST)):
        yield _line(RING, "", significant(ring), "", "", "", "0", "", "")
    yield _line(PERSISTENCE, "", "1", "1 to 1", "0 %", "", "0", "0", "")


def _cells(one: Setting) -> list[str]:
    lower, upper = one.mean("test_rae_lower"), one.mean("test_rae_upper")
    count = one.mean("network_parameters")
    return [
        over_seeds(one.values(ERROR)) if one.architecture else ranged(one.values(ERROR)),
        f"{significant(lower)} to {significant(upper)}" if math.isfinite(lower + upper) else UNKNOWN,
        _percent(one.values("test_rae_below")),
        ranged(one.values("test_rmse")),
        f"{count:,.0f}" if math.isfinite(count) else "",
        ranged(one.values(TIME)),
    ]


def _percent(values: Sequence[float]) -> str:
    return f"{ranged([100 * one for one in values])} %" if values else UNKNOWN


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def chosen_setting(one: Setting | None) -> str:
    """What the setting of stage C changes: `lr 0.0003`, or `untuned`."""
    if one is None:
        return UNKNOWN
    return ", ".join(f"{key} {value}" for key, value in one.changed.items()) or "untuned"


# ---------------------------------------------------------------------------------------------- tuning, convergence


def _tuning(data: SummaryData) -> Iterator[str]:
    """A line for each key: its best value for each architecture beside the untuned one, in pairs of seeds."""
    best = best_by_key(list(data.tuned))
    keys = sorted({key for key, _ in best}, key=lambda key: (TUNED_KEYS.index(key) if key in TUNED_KEYS else 9, key))
    for key in keys[:MOST_TUNED]:
        parts = [_gain(one) for (own, _), one in sorted(best.items()) if own == key]
        yield f"- {key}: {'; '.join(parts)}."
    if len(keys) > MOST_TUNED:
        yield f"- {len(keys) - MOST_TUNED} more keys are in `results/tuning.csv`."


def _gain(one: Tuned) -> str:
    values = ", ".join(map(str, one.setting.changed.values()))
    return (
        f"{one.setting.architecture} {values}: validation loss {factor(one.loss)} ({better(one.loss)}), "
        f"test RAE {difference(one.rae)} ({better(one.rae)})"
    )


def _convergence(results: FloodResults) -> Iterator[str]:
    """A sentence for each architecture, of stages A and C; of other stages, where a round has neither."""
    stages = [one for one in ("A", "C") if one in results.trained] or list(results.trained)
    settings = [one for stage in stages for one in results.trained[stage]]
    for code in dict.fromkeys(one.architecture for one in settings):
        if text := sentence([one for one in settings if one.architecture == code]):
            yield f"- {code or 'unknown'}: {text}."
    if len(results.trained) > len(stages):
        rules = "the rules are below the figures in `figures/convergence`"
        yield f"- {overview(results)}; see `results/convergence.csv`; {rules}."


def _data(results: FloodResults) -> Iterator[str]:
    for row in simulations_table(results):
        if row["completed"]:
            yield (
                f"- {row['set']}: {row['completed']} of {counted(row['simulations'], 'simulation')}; worst relative "
                f"mass error {_short(row['worst_mass_error'])} ({row['worst_simulation']}), smallest depth "
                f"{_short(row['smallest_depth'])} m, {row['steps_least']:,.0f} to {row['steps_most']:,.0f} steps."
            )
    parts = [f"{row['set']} {row['split']} {_short(row['samples'])} ({_short(row['dropped'])} dry dropped, "
             f"{_short(row['dummy_loss'])} m)" for row in samples_table(results)]  # fmt: skip
    if parts:
        yield f"- Samples (loss of persistence): {'; '.join(parts)}."


def _short(value: float | str) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and not value.is_integer()
        else f"{value:g}"
        if value != ""
        else UNKNOWN
    )


def missing_in(results: FloodResults) -> list[str]:
    """What the round lacks or could not be read, a line each."""
    lines = list(results.problems)
    by_group: dict[str, list[str]] = {}
    for one in results.settings:
        by_group.setdefault(one.group, []).extend(run.status for run in one.runs if not run.completed)
    for group, states in by_group.items():
        if states:
            kinds = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            lines.append(f"{group}: {counted(len(states), 'run')} without a result ({kinds})")
    return lines

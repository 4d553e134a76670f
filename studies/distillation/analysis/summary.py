"""The written summary, one page: question, design, findings, what could not be shown, contradictions, baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.comparison import (
    INTERVAL,
    POOLED,
    POWER,
    SHOWN_BELOW,
    Comparison,
    detectable,
    least_pairs,
    pairs_needed,
)
from analysis.rounding import decimals, fixed, significant, with_spread
from roundhouse.formatting import abbreviated, counted
from studies.distillation.analysis.effects import DISTILLED, MORE_ALPHA, SAME_ALPHA, SHRUNK, ComparisonFamily
from studies.distillation.analysis.expectations import CHECKS, contradictions
from studies.distillation.analysis.figure_data import FigureData
from studies.distillation.analysis.findings import PRIMARY, QUESTIONS, findings
from studies.distillation.analysis.measures import MEASURES
from studies.distillation.analysis.runs import CONTROL, PLAIN, TEACHER, MethodSetting

MOST_FINDINGS, MOST_NOTES = 10, 8
_COMPARED = {
    DISTILLED: "distilled student, {baseline}",
    SAME_ALPHA: "distilled student, control with the same alpha",
    SHRUNK: "control with alpha, {baseline}",
    MORE_ALPHA: "largest alpha, smallest alpha",
}


def summary(data: FigureData, notes: Sequence[str]) -> str:
    """summary.md of a round. `notes`: what is missing or cannot be read, a line each."""
    sections = {
        "Question and design": _design(data),
        "Findings": _findings(data),
        "Not shown": _not_shown(data),
        "Against expectation": _against_expectation(data),
        "Baselines, test images and time": _baselines(data),
        "Missing": _missing(notes),
    }
    lines = [f"# Round {data.runs.name}: results"]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _design(data: FigureData) -> Iterator[str]:
    runs = data.runs
    config = next(run.entry.config for run in runs.runs if run.setting.method in runs.methods)
    seeds = max(len(runs.of(setting, dataset)) for setting in runs.students for dataset in runs.datasets)
    yield (
        f"Does learning from a teacher ({config.get('teacher', 'a larger network')}) make a student "
        f"({config['model']}) more accurate than the same student on its own, with which method and at which alpha, "
        "and is that due to the teacher or only to the smaller cross entropy?"
    )
    yield ""
    yield (
        f"{len(runs.runs)} completed runs: {counted(len(runs.methods), 'method')} at alpha "
        f"{', '.join(f'{alpha:g}' for alpha in runs.alphas)}, their teachers, and controls with (1 - alpha) times the "
        f"cross entropy and no teacher, on {counted(len(runs.datasets), 'data set')} ({', '.join(runs.datasets)}) "
        f"with up to {counted(seeds, 'seed')}. A pair is two runs of one data set and seed; a difference is *shown* if "
        f"p < {SHOWN_BELOW:g} in a two-sided sign-flip test over all pairs, corrected by Holm for the comparisons of "
        "its measure and question."
    )
    yield ""
    yield (
        f"In parentheses: the {INTERVAL}, over pairs and not corrected for the number of comparisons. {POOLED} Test "
        f"accuracy is the primary measure; {counted(len({one.measure.column for one in data.families}) - 1, 'other')} "
        "explain it, without a correction for their number. Both runs of a pair are tested on the same images, so the "
        "noise of drawing other images is not in p and intervals; the standard error below shows its size."
    )


def _findings(data: FigureData) -> Iterator[str]:
    found = findings(data.families)
    for number, one in enumerate(found[:MOST_FINDINGS], 1):
        yield f"{number}. {one.sentence(data.baseline_label)}"
    total = sum(len(one.results) for one in data.families)
    shown = sum(len(one.results) for one in found)
    if not found:
        yield f"No difference is shown, in {counted(total, 'comparison')}."
        return
    if len(found) > MOST_FINDINGS:
        more = sum(len(one.results) for one in found[MOST_FINDINGS:])
        yield ""
        yield f"{more} more of the {shown} shown differences are in `figures/comparisons.csv`, with all {total}."


def _not_shown(data: FigureData) -> Iterator[str]:
    accuracy = {one.question: one for one in data.families if one.measure.column == PRIMARY}
    yield (
        "Test accuracy, differences in points. Estimates, as if the observed mean and spread were the true ones: with "
        f"how many pairs the largest difference that is not shown would be shown in {100 * POWER:g} % of repetitions, "
        "and which difference the present pairs would show (median of the comparisons)."
    )
    yield ""
    yield "| compared | not shown | pairs | largest not shown | pairs needed | these pairs would show |"
    yield "|---|---|---|---|---|---|"
    for question in QUESTIONS:
        if question in accuracy:
            compared = _COMPARED[question].format(baseline=data.baseline_label)
            yield f"| {compared} | {_row(accuracy[question])} |"
    others = [result for one in data.families if one.measure.column != PRIMARY for result in one.results.values()]
    yield ""
    yield (
        f"Of {len(others)} comparisons in other measures {sum(not one.shown for one in others)} are not shown; "
        "`figures/comparisons.csv` has the pairs that each would need."
    )


def _row(one: ComparisonFamily) -> str:
    """The cells of a family: how many are not shown, pairs, the largest of them, pairs needed, smallest detectable."""
    open_ones = {setting: result for setting, result in one.results.items() if not result.shown}
    total = len(one.results)
    pairs = sorted({result.n for result in one.results.values()})
    cells = [f"{len(open_ones)} of {total}", " to ".join(dict.fromkeys((str(pairs[0]), str(pairs[-1]))))]
    if not open_ones:
        return " | ".join([*cells, "", "", ""])
    setting, largest = max(open_ones.items(), key=lambda item: abs(item[1].mean))
    usual = float(np.median([detectable(result, total) for result in one.results.values()]))
    smallest = f"about {significant(usual * one.measure.factor, 2)}" if np.isfinite(usual) else "none"
    return " | ".join([*cells, f"{setting}: {one.measure.difference(largest)}", _needed(largest, total), smallest])


def _needed(one: Comparison, comparisons: int) -> str:
    needed = pairs_needed(one, comparisons)
    if np.isnan(needed):
        return f"at least {least_pairs(comparisons)}"
    return f"about {needed:.0f}" if np.isfinite(needed) else "over 1000"


def _against_expectation(data: FigureData) -> Iterator[str]:
    found = contradictions(data)
    yield from (f"- {line}" for line in found)
    if not found:
        yield f"Nothing: none of {len(CHECKS)} checks found a contradiction."


def _baselines(data: FigureData) -> Iterator[str]:
    runs, frame = data.runs, data.frame
    measure = MEASURES["gpu_hours" if frame["gpu_hours"].sum() > 0 else "seconds"]
    undistilled = (
        f" The {data.baseline_label} is the control at alpha 0, which has the distilled students' recipe; report and "
        "tables compare with the round file's baseline instead."
    )
    yield (
        "Test accuracy in %: mean ± standard deviation (number) over seeds. Times: medians of a run, in "
        f"{measure.unit}; all runs together took {significant(float(frame[measure.column].sum()))} {measure.unit}."
        f"{undistilled if data.undistilled.method == CONTROL else ''}"
    )
    yield ""
    yield f"| | {' | '.join(runs.datasets)} |"
    yield f"|---|{'---|' * len(runs.datasets)}"
    roles = {"teacher": MethodSetting(TEACHER, None), data.plain_label: MethodSetting(PLAIN, None)}
    if data.undistilled.method == CONTROL:
        roles[data.baseline_label] = data.undistilled
    rows = {"chance": [_chance(data, dataset) for dataset in runs.datasets]}
    rows |= {
        label: [_accuracy(data, setting, dataset) for dataset in runs.datasets] for label, setting in roles.items()
    }
    rows["test images; standard error of one accuracy (points)"] = [_images(data, dataset) for dataset in runs.datasets]
    rows["largest deviation from the run's own test_accuracy (points)"] = [
        _deviation(data, one) for one in runs.datasets
    ]
    rows["time: teacher; student alone; distilled"] = [_times(data, one, measure.column) for one in runs.datasets]
    for label, cells in rows.items():
        yield f"| {label} | {' | '.join(cells)} |"


def _chance(data: FigureData, dataset: str) -> str:
    known = data.frame[data.frame["dataset"] == dataset]["chance"].dropna()
    return fixed(100 * known.iloc[0], 2) if len(known) else "--"


def _accuracy(data: FigureData, setting: MethodSetting, dataset: str) -> str:
    found = data.values(setting, dataset, "accuracy") * 100
    return f"{with_spread(found.mean(), found.std())} ({len(found)})" if len(found) else "--"


def _images(data: FigureData, dataset: str) -> str:
    """How many test images, and the binomial standard error of the baseline's accuracy on them."""
    counts = data.frame[data.frame["dataset"] == dataset]["test_images"].dropna().astype(int)
    accuracy = data.values(data.undistilled, dataset, "accuracy")
    if counts.empty:
        return "--"
    numbers = " to ".join(dict.fromkeys((str(counts.min()), str(counts.max()))))
    if not len(accuracy):
        return numbers
    error = 100 * float(np.sqrt(accuracy.mean() * (1 - accuracy.mean()) / counts.max()))
    return f"{numbers}; {fixed(error, decimals(error))}"


def _deviation(data: FigureData, dataset: str) -> str:
    found = data.frame[data.frame["dataset"] == dataset]
    apart = (found["accuracy"] - found["reported_accuracy"]).abs().dropna() * 100
    return fixed(apart.max(), 2) if len(apart) else "--"


def _times(data: FigureData, dataset: str, column: str) -> str:
    """Median times of a run: teacher; students alone; distilled ones, from the fastest method to the slowest."""
    found = data.frame[data.frame["dataset"] == dataset]
    texts = []
    for methods in ([TEACHER], [PLAIN, CONTROL], data.runs.methods):
        medians = found[found["method"].isin(methods)].groupby("method")[column].median().dropna()
        ends = dict.fromkeys(map(significant, (medians.min(), medians.max()))) if len(medians) else ["--"]
        texts.append(" to ".join(ends))
    return "; ".join(texts)


def _missing(notes: Sequence[str]) -> Iterator[str]:
    """The first notes; equal ones about several runs are one line."""
    subjects: dict[str, list[str]] = {}
    for note in notes:
        subject, _, text = note.partition(": ")
        subjects.setdefault(text, []).append(subject)
    lines = [f"- {abbreviated(found, 1)}: {text}" if text else f"- {found[0]}" for text, found in subjects.items()]
    yield from lines[:MOST_NOTES]
    if len(lines) > MOST_NOTES:
        yield f"- {len(lines) - MOST_NOTES} more in `figures/missing.csv`."
    if not lines:
        yield "Nothing is missing: 0 experiments, 0 fields."

"""The written summary: sentences with the numbers that support them, or the statement that nothing is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.comparison import SHOWN_BELOW, Interval, smallest_p
from roundhouse.formatting import counted
from studies.distillation.analysis.effects import DISTILLED, MORE_ALPHA, SAME_ALPHA, SHRUNK, ComparisonFamily
from studies.distillation.analysis.figure_data import FigureData
from studies.distillation.analysis.measures import MEASURES, Measure
from studies.distillation.analysis.runs import CONTROL, PLAIN, TEACHER, MethodSetting

_ANSWER = {
    DISTILLED: "against the {baseline}",
    SAME_ALPHA: "against the control with the same alpha",
    SHRUNK: "against the {baseline}, from the smaller cross entropy alone",
    MORE_ALPHA: "from the smallest alpha to this one",
}
_TITLES = {
    DISTILLED: "Distilled students against the undistilled one",
    SAME_ALPHA: "The same against a control with the same alpha",
    SHRUNK: "The effect of alpha without a teacher",
    MORE_ALPHA: "The effect of a larger alpha",
}
TRAINED_ON_IT = ("sp", "nst")  # what these minimise is close to CKA


def summary(data: FigureData, problems: Sequence[str]) -> str:
    """summary.md of a round."""
    runs = data.runs
    lines = [f"# Round {runs.name}: results", "", *_basis(data), ""]
    lines += ["## Summary", "", *_in_short(data), "", "## Baselines and chance", "", *_baselines(data), ""]
    for question, title in _TITLES.items():
        selected = [one for one in data.families if one.question == question]
        lines += [
            f"## {title}",
            "",
            *(_questions(selected, data) if selected else ["Not shown: there are 0 pairs."]),
            "",
        ]
    lines += ["## Time", "", *_time(data), ""]
    notes = [*runs.missing, *problems]
    lines += ["## Missing", "", *([f"- {note}" for note in notes] or ["Nothing is missing: 0 experiments, 0 fields."])]
    return "\n".join(lines) + "\n"


def _in_short(data: FigureData) -> Iterator[str]:
    """For each question: how many differences are shown; those in accuracy by name."""
    for question, title in _TITLES.items():
        selected = [one for one in data.families if one.question == question]
        accuracy = next((one for one in selected if one.measure.column == "accuracy"), None)
        if accuracy is None:
            continue
        named = [f"{_named(one, accuracy)} {accuracy.measure.differences(result.mean)}"
                 for one, result in accuracy.results.items() if result.shown]  # fmt: skip
        others = [one for one in selected if one is not accuracy]
        shown, of = sum(r.shown for f in others for r in f.results.values()), sum(len(f.results) for f in others)
        yield (
            f"- {title}: of {counted(len(accuracy.results), 'difference')} in test accuracy {len(named)} shown"
            f"{': ' if named else ''}{'; '.join(named)}. Of {of} in other measures: {shown} shown."
        )


def _basis(data: FigureData) -> Iterator[str]:
    runs = data.runs
    yield (
        f"{len(runs.runs)} completed runs on {len(runs.datasets)} data set(s) ({', '.join(runs.datasets)}): "
        f"{counted(len(runs.methods), 'method')} at {counted(len(runs.alphas), 'alpha')}, with teachers and controls."
    )
    yield ""
    yield (
        "A pair shares data set and seed. p is of a two-sided sign-flip test on the pairs' differences, corrected by "
        f"Holm within each list of one measure; a difference is shown if p < {SHOWN_BELOW:g}. Several measures are "
        "compared, without a correction for their number. What is shown holds for these data sets only."
    )
    most = max((result.n for one in data.families for result in one.results.values()), default=0)
    family = max((len(one.results) for one in data.families), default=0)
    if most and smallest_p(most) * family >= SHOWN_BELOW:
        yield ""
        yield (
            f"With {most} pairs the smallest possible p is {smallest_p(most):.2g}, and {family} comparisons "
            "correct it to "
            f"{min(1.0, smallest_p(most) * family):.2g}: in a list that long, nothing can be shown."
        )


def _baselines(data: FigureData) -> Iterator[str]:
    runs = data.runs
    most = max(len(runs.of(setting, dataset)) for setting in runs.students for dataset in runs.datasets)
    yield f"Test accuracy in %, mean ± standard deviation over (n) seeds, at most {most}."
    if data.undistilled.method == CONTROL:
        yield (
            "The undistilled student is the control at alpha 0: the distilled students' recipe without a teacher. "
            "Report and tables compare with the round file's baseline instead, which may be the plain student."
        )
    yield ""
    rows = {"teacher": MethodSetting(TEACHER, None), data.plain_label: MethodSetting(PLAIN, None)}
    rows |= {f"control, alpha {one.alpha:g}": one for one in runs.students if one.method == CONTROL}
    yield f"| | {' | '.join(runs.datasets)} |"
    yield f"|---|{'---|' * len(runs.datasets)}"
    chances = data.frame.groupby("dataset")["chance"].first() * 100
    yield f"| chance | {' | '.join(f'{chances[one]:.2f}' for one in runs.datasets)} |"
    for label, setting in rows.items():
        cells = []
        for dataset in runs.datasets:
            found = data.values(setting, dataset, "accuracy") * 100
            spread = f"{found.std():.2f}" if len(found) > 1 else "?"
            cells.append(f"{found.mean():.2f} ± {spread} ({len(found)})" if len(found) else "--")
        yield f"| {label} | {' | '.join(cells)} |"


def _questions(selected: Sequence[ComparisonFamily], data: FigureData) -> Iterator[str]:
    for one in selected:
        answer = _ANSWER[one.question].format(baseline=data.baseline_label)
        yield f"### {one.measure.label[0].upper()}{one.measure.label[1:]}"
        yield ""
        shown = {setting: result for setting, result in one.results.items() if result.shown}
        for setting, result in shown.items():
            interval = data.intervals.get(setting) if one.question == DISTILLED else None
            if one.measure.column != "accuracy" or interval is None:
                interval = result.interval
            yield (
                f"- {_named(setting, one)}: {one.measure.differences(result.mean)} {answer} "
                f"(95 % interval {_interval(interval, one.measure)}, {result.n} pairs, p = {result.p_holm:.2g} "
                f"of {len(one.results)} comparisons).{_caution(setting, one)}"
            )
        rest = [setting for setting in one.results if setting not in shown]
        for method in dict.fromkeys(setting.method for setting in rest):
            yield f"- Not shown: {_not_shown(one, [setting for setting in rest if setting.method == method])}"
        yield ""


def _not_shown(one: ComparisonFamily, settings: Sequence[MethodSetting]) -> str:
    """The measured differences of one method that are not shown, and their smallest p."""
    found = [one.results[setting] for setting in settings]
    differences = one.measure.differences(*(result.mean for result in found))
    intervals = ", ".join(_interval(result.interval, one.measure) for result in found)
    alphas = ", ".join(f"{setting.alpha:g}" for setting in settings)
    pairs = ", ".join(dict.fromkeys(str(result.n) for result in found))
    least = min(result.p_holm for result in found)
    return (
        f"{settings[0].method} at alpha {alphas}: {differences} (95 % intervals {intervals}; {pairs} pairs, "
        f"least p = {least:.2g})."
    )


def _named(setting: MethodSetting, one: ComparisonFamily) -> str:
    return f"{setting.method} to alpha {setting.alpha:g}" if one.question == MORE_ALPHA else str(setting)


def _interval(interval: Interval, measure: Measure) -> str:
    return f"{measure.signed(interval.low)} to {measure.signed(interval.high)}"


def _caution(setting: MethodSetting, one: ComparisonFamily) -> str:
    if setting.method in TRAINED_ON_IT and one.measure.column.startswith("cka"):
        return " Its training objective is close to CKA: this is a check, not evidence."
    return ""


def _time(data: FigureData) -> Iterator[str]:
    hours = float(data.frame["gpu_hours"].sum())
    measure = MEASURES["gpu_hours" if hours > 0 else "seconds"]
    if hours > 0:
        yield f"All runs together took {hours:.1f} GPU-hours."
    else:
        yield f"No GPU was requested; all runs together trained for {data.frame['seconds'].sum():.0f} seconds."
    yield ""
    for method, found in data.frame.groupby("method", sort=False)[measure.column]:
        known = found.dropna()
        times = f"median {known.median():.3g} {measure.unit} a run, " if len(known) else ""
        yield f"- {method}: {times}{len(known)} runs."

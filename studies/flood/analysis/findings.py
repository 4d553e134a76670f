"""What a round shows, each with its baseline, n and interval: the sentences of the summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from analysis.comparison import LEAST_VALUES, mean_interval
from analysis.rounding import significant
from studies.flood.analysis.cost_figures import grows
from studies.flood.analysis.costs import ERROR, FASTER, OPEN, SLOWER, UNKNOWN, Cost, costs_of, verdict
from studies.flood.analysis.names import BIG_TEST, DOCUMENT_FOUR, RING
from studies.flood.analysis.results import VAL_LOSS, FloodResults, Setting
from studies.flood.analysis.texts import better, over_seeds, ranged
from studies.flood.analysis.tuning import TEST_RAE, Tuned, best_by_key, paired

BEST = 4  # architectures, of stage C
DEPTHS = {
    "test_rmse": "RMSE (m)",
    "test_csi_30cm": "critical success index at 30 cm",
    "test_absolute_mass_error": "relative error of a sample's volume",
    "test_front_error": "error of the front (m)",
}


def findings(results: FloodResults, tuned: Sequence[Tuned]) -> Iterator[str]:
    """The findings of a round, the most important first."""
    for one in (_persistence(results), _speed(results), _four(results), _depths(results), _leads(results),
                ranking(results, "A"), _tuning(tuned)):  # fmt: skip
        if one:
            yield one


def ranked(results: FloodResults, stage: str) -> list[Setting]:
    """The settings of a stage with a completed run and none that diverged, by the mean best validation loss."""
    found = [one for one in results.trained.get(stage, ()) if math.isfinite(one.mean(VAL_LOSS)) and not one.diverged]
    return sorted(found, key=lambda one: one.mean(VAL_LOSS))


def ranking(results: FloodResults, stage: str) -> str:
    """The order of a stage, and which settings the first one is shown to be better than."""
    order = ranked(results, stage)
    if not order:
        return ""
    first = order[0]
    listed = ", ".join(f"{one.label} {significant(one.mean(VAL_LOSS))}" for one in order)
    shown = [one.label for one in order[1:] if better(paired(first, one, VAL_LOSS)) == "better"]
    apart = [one.label for one in order[1:] if one.label not in shown]
    dummy = results.dummy(first.flood_set, "validation")
    beside = f"; persistence {significant(dummy)}" if math.isfinite(dummy) else ""
    text = f"Ranking of {stage} by mean validation loss (m){so_far(results, stage)}: {listed}{beside}."
    if shown:
        text += f" In pairs of seeds, {first.label} is better than {', '.join(shown)}"
        text += f"; not shown apart from {', '.join(apart)}." if apart else "."
    elif apart:
        text += f" In pairs of seeds, the first is not shown to be better than any other (n {len(first.completed)})."
    lost = [f"{one.label} ({one.diverged} of {len(one.runs)})" for one in results.trained[stage] if one.diverged]
    text += f" Not ranked, since a run diverged: {', '.join(lost)}." if lost else ""
    return f"{text} Median RAE of its test data: {over_seeds(first.values(TEST_RAE))}; persistence 1."


def so_far(results: FloodResults, stage: str) -> str:
    """` so far, with 19 of 21 runs`; empty once all runs of a stage are completed."""
    runs = [run for one in results.trained[stage] for run in one.runs]
    done = sum(run.completed for run in runs)
    return f" so far, with {done} of {len(runs)} runs" if done < len(runs) else ""


# ------------------------------------------------------------------------------------------------------ the big set


def evaluated_by_error(results: FloodResults) -> list[Setting]:
    """The architectures with a median error on the big test set, the best first: of stage D, else as C measured it."""
    found = {one.label: one for one in results.evaluated if one.values(ERROR)}
    known = {one.architecture for one in found.values()}
    found |= {one.label: one for one in results.trained.get("C", ())
              if one.architecture not in known and one.flood_set == "big" and one.values(ERROR)}  # fmt: skip
    return sorted(found.values(), key=lambda one: one.mean(ERROR))


def _chosen(results: FloodResults) -> Setting | None:
    """Of the evaluated architectures the one with the lowest validation loss in C; without C, the lowest error."""
    found = {one.architecture: one for one in evaluated_by_error(results)}
    ordered = [found[one.architecture] for one in ranked(results, "C") if one.architecture in found]
    return next(iter(ordered or found.values()), None)


def _persistence(results: FloodResults) -> str:
    """Which architectures beat persistence on the big test set, by their intervals."""
    found = evaluated_by_error(results)
    if not found:
        return ""
    beat = [one.label for one in found if mean_interval(one.values(ERROR)).high < 1]
    best = _chosen(results) or found[0]
    few = f"; {LEAST_VALUES} seeds are needed" if any(len(one.values(ERROR)) < LEAST_VALUES for one in found) else ""
    which = "the best of C by validation loss" if ranked(results, "C") else "the lowest"
    ring = results.ring(*BIG_TEST)
    beside = f"RAE 1; {RING} {significant(ring)}" if math.isfinite(ring) else "RAE 1"
    return (
        f"**Beside persistence ({beside}), big test set:** {which}, {best.label}, has a median RAE of "
        f"{over_seeds(best.values(ERROR))}, and {over_seeds(best.values('test_rae_below'), percent=True)} of samples "
        f"below 1. The interval is below 1 for {', '.join(beat) or 'none'} ({len(beat)} of {len(found)}){few}."
    )


def _speed(results: FloodResults) -> str:
    """Which surrogates are faster than a coarse solver of equal error."""
    surrogates, coarse = costs_of(results.evaluated), costs_of(results.coarse)
    if not surrogates:
        return ""
    if not coarse:
        return (
            "**Beside the coarse solver:** not measured, no coarse solver is completed. Time ratios to the fine "
            f"solver: {', '.join(f'{one.setting.label} {ranged(one.times)}' for one in surrogates)}."
        )
    answers = {one.setting.label: verdict(one, coarse) for one in surrogates}
    faster = [label for label, answer in answers.items() if answer == FASTER]
    unclear = [label for label, answer in answers.items() if answer in (OPEN, UNKNOWN)]
    slower = [label for label, answer in answers.items() if answer == SLOWER]
    head = f"faster at equal error, for every seed: {', '.join(faster)}" if faster else (
        "no surrogate is shown to be faster than a coarse solver of equal error")  # fmt: skip
    rest = f"; not faster: {', '.join(slower)}" if slower else ""
    rest += (
        f"; open (one seed, seeds disagree, or beyond the measured factors): {', '.join(unclear)}" if unclear else ""
    )
    times = ", ".join(f"{one.setting.label} {ranged(one.times)}" for one in _fastest(surrogates))
    devices = ", ".join(sorted({one.device for one in surrogates} - {""})) or "a device that is not recorded"
    return (
        f"**Beside the coarse solver:** {head}{rest}. Fastest, as a share of the fine solver's time: {times}. "
        f"Surrogates ran on {devices}, solvers on the CPU of the same host."
    )


def _fastest(surrogates: Sequence[Cost]) -> list[Cost]:
    return sorted(surrogates, key=lambda one: one.centre[0])[:2]


def _four(results: FloodResults) -> str:
    """The best four architectures of C by validation loss, and the document's four."""
    order = ranked(results, "C")
    if not order:
        return ""
    best = [one.architecture for one in order[:BEST]]
    document = [one for one in DOCUMENT_FOUR if one in {other.architecture for other in order}]
    text = f"Best {len(best)} of C by mean validation loss{so_far(results, 'C')}: {', '.join(best)}"
    if len(order) > BEST:
        fourth, fifth = order[BEST - 1 : BEST + 1]
        apart = better(paired(fourth, fifth, VAL_LOSS)) == "better"
        text += f" (the cut before {fifth.architecture} is {'shown' if apart else 'not shown'} in pairs of seeds)"
    errors = _errors(results)
    own = [f"{one} {errors[one]}" for one in document if one in errors]
    text += f". The document's four: {', '.join(own)}" if own else f". Of the document's four: {', '.join(document)}"
    both = [one for one in best if one in document]
    return f"{text}{' (median RAE, big test set)' if own else ''}; in both: {', '.join(both) or 'none'}."


def _errors(results: FloodResults) -> Mapping[str, str]:
    return {one.architecture: over_seeds(one.values(ERROR)) for one in evaluated_by_error(results)}


def _leads(results: FloodResults) -> str:
    found = [(one.label, *grows(one)) for one in evaluated_by_error(results)]
    listed = [
        f"{label} {significant(first)} to {significant(last)}" for label, first, last, leads in found if leads > 1
    ]
    most = max((leads for *_, leads in found), default=0)
    return f"Median RAE from 1 to {most} leads in a row (mean over seeds): {', '.join(listed)}." if listed else ""


def _depths(results: FloodResults) -> str:
    """Errors of the depth after a lead, of the best architecture and of the coarse solvers."""
    best = _chosen(results)
    if best is None or not best.values("test_rmse"):
        return ""
    shown = [best, *(one for one in results.coarse if one.values("test_rmse"))]
    parts = [f"{label} {', '.join(ranged(one.values(name)) for one in shown)}" for name, label in DEPTHS.items()]
    others = f" beside {', '.join(one.label for one in shown[1:])}" if len(shown) > 1 else ", without a coarse solver"
    return f"Depth after a lead, big test set, {best.label}{others}: {'; '.join(parts)}."


def _tuning(tuned: Sequence[Tuned]) -> str:
    """Which tuned settings are better than the untuned one by their intervals."""
    measured = [one for one in tuned if one.loss.n]
    if not measured:
        return ""
    gained = [one.setting.label for one in measured if better(one.loss) == "better"]
    best = min(best_by_key(list(measured)).values(), key=lambda one: one.setting.mean(VAL_LOSS))
    return (
        f"Tuning: {len(gained)} of {len(measured)} settings of B have a lower validation loss than the untuned one, by "
        f"intervals that are not corrected for their number{f' ({_listed(gained)})' if gained else ''}; the lowest is "
        f"{best.setting.label}. See `results/tuning.csv`."
    )


def _listed(labels: Sequence[str]) -> str:
    return "; ".join(labels[:6]) + (f"; {len(labels) - 6} more" if len(labels) > 6 else "")

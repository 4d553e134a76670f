"""The written summary: design, arms beside the dummies, answers, acceptance on faces, the document's figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.rounding import fixed, significant
from analysis.study_summary import missing_lines
from roundhouse.formatting import counted, duration
from roundhouse.model.plan import State
from studies.genegan.analysis.answers import LEAST_RATE, MOST_LOST, Answer, Criterion, criteria_of
from studies.genegan.analysis.comparisons import NO, OPEN, YES, Comparisons
from studies.genegan.analysis.document import BASE, FLOOR, REPORTED, SIZE, WHY_NOT_COMPARABLE
from studies.genegan.analysis.measures import MEASURES
from studies.genegan.analysis.results import DIRECTIONS, GeneganResults
from studies.genegan.analysis.texts import UNKNOWN, difference, over_seeds

MOST_MISSING = 10


@dataclass(frozen=True)
class SummaryData:
    """What the summary is written from. `missing`: a line each."""

    results: GeneganResults
    comparisons: Comparisons
    answers: Sequence[Answer]
    missing: Sequence[str]


def summary(data: SummaryData) -> str:
    """summary.md of a round."""
    sections = {
        "Question and design": _design(data.results),
        "Arms beside the dummies": _arms(data.results),
        "Answers": _answers(data),
        "Acceptance on procedural faces": _acceptance(data.results),
        "The document's figures": _reported(data.results),
        "Limits": _limits(data),
        "Missing": missing_lines(data.missing, MOST_MISSING),
    }
    lines = [f"# Round {data.results.name}: results"]
    for title, section in sections.items():
        if content := list(section):
            lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _design(results: GeneganResults) -> Iterator[str]:
    done, total = (sum(len(runs) for runs in ones) for ones in (
        [one.completed for one in results.arms], [one.runs for one in results.arms]))  # fmt: skip
    seeds = len({run.seed for arm in results.arms for run in arm.runs})
    yield (
        "GeneGAN exchanges an attribute between two faces without pairs. Each arm changes one thing of its baseline: "
        "does it get better, faster or more stable?"
    )
    yield ""
    yield (
        f"{done} of {counted(total, 'run')} completed, {counted(len(results.gans), 'arm')}, {counted(seeds, 'seed')}. "
        f"Distances: {', or '.join(map(str, results.evaluated)) or 'not known yet'}; lower is better. *Added*: Bu "
        "against real images with the attribute; *removed*: A0 against real images without it. The weights are the "
        "best by the validation distance, and are measured on test images. Differences are those of runs with the "
        "same seed, with their 95 % interval by Student's t, from three seeds on. `results/queue.md` has each "
        "experiment, `results/arms.csv` all comparisons, `results/results.csv` all runs."
    )
    if other := departures(results):
        yield ""
        yield f"**The round is not of the document's size**: {'; '.join(other)}. All answers hold for this size only."


def departures(results: GeneganResults) -> list[str]:
    """In what the baseline's config differs from the document's: `width 16 instead of 128`."""
    if results.base is None:
        return []
    found = [(key, results.base.option(key), wanted) for key, wanted in SIZE.items()]
    return [f"{key.replace('_', ' ')} {_text(own)} instead of {_text(wanted)}"
            for key, own, wanted in found if own != wanted]  # fmt: skip


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


# ---------------------------------------------------------------------------------------------------------- tables


def _arms(results: GeneganResults) -> Iterator[str]:
    on_faces = any(one.values("test_add_rate") for one in results.gans)
    names = [f"test_{direction}_fd" for direction in DIRECTIONS] + [f"test_{direction}_kd" for direction in DIRECTIONS]
    heads = [f"{name}, {text}" for name in (results.distance_name, results.kernel_name) for text in DIRECTIONS.values()]
    if on_faces:
        names += [f"test_{direction}_rate" for direction in DIRECTIONS]
        heads += [f"transfer rate, {text}" for text in DIRECTIONS.values()]
    yield f"| | {' | '.join(heads)} | iterations per second |"
    yield f"|---|{'---|' * (len(heads) + 1)}"
    dummies = {"floor": "two halves of the real images", "identity": "unchanged input", "copy": "another real image"}
    for ending, text in dummies.items():
        yield f"| {ending}: {text} | {' | '.join(_reference(results, f'{name}_{ending}') for name in names)} | |"
    for arm in results.gans:
        cells = [over_seeds(arm.values(name), percent=name.endswith("_rate")) for name in names]
        yield f"| {arm.label} | {' | '.join(cells)} | {over_seeds(arm.values('iterations_per_second'))} |"
    yield ""
    text = f"Mean ± standard deviation over seeds (n: seeds); test images. {FLOOR}"
    accuracy = results.reference("test_judge_accuracy")
    if math.isfinite(accuracy):
        text += f" The judge of the transfer rate is right for {100 * accuracy:.1f} % of real faces."
    yield text


def _reference(results: GeneganResults, name: str) -> str:
    """A final metric that no generator changes, as a cell."""
    value = results.reference(name)
    if not math.isfinite(value):
        return ""
    if name.endswith(("_outside_identity", "_outside_paste")):
        return "unchanged"  # its PSNR is infinite, which a run records as 120 dB
    return f"{100 * value:.1f} %" if "_rate" in name else significant(value)


def _answers(data: SummaryData) -> Iterator[str]:
    if not data.answers:
        yield "The round has none of the groups that the document's questions are about."
        return
    yield "| question | arm, beside | measure | answer | arm | beside it | difference or ratio (95 % interval) |"
    yield "|---|---|---|---|---|---|---|"
    before = None
    for one in data.answers:
        compared, measure = one.compared, MEASURES[one.measure]
        cells = (over_seeds(values, percent=measure.percent) for values in (compared.own, compared.other))
        better = "lower" if measure.mode == "min" else "higher"
        question = "" if one.question is before else one.question.text
        names = f"{compared.arm.label}, {compared.against.label}"
        shown = (question, names, f"{measure.label} ({better} is better)", one.verdict, *cells, difference(compared))
        yield f"| {' | '.join(shown)} |"
        before = one.question
    yield ""
    yield (
        "*yes*: the interval shows the arm to be better; *no*: it shows the arm to be worse; *open*: it contains no "
        "difference, or there are fewer than three pairs; *not measured*: no pair of completed runs of the same seed. "
        "These intervals are not corrected for the number of questions; `results/arms.csv` has p-values with Holm's "
        "correction over the arms."
    )
    yield from _notes(data.results)


def _notes(results: GeneganResults) -> Iterator[str]:
    """What an answer about stability or speed must be read with."""
    lost = [(arm.label, sum(run.state is State.DIVERGED for run in arm.runs), len(arm.runs)) for arm in results.gans]
    if diverged := [f"{label} {count} of {total}" for label, count, total in lost if count]:
        yield ""
        yield f"**Runs that diverged**, and are in no variance: {', '.join(diverged)}."
    vqvaes = [run for arm in results.arms if not arm.is_gan for run in arm.completed]
    own = [run.train_seconds for run in vqvaes if run.train_seconds > 0]
    if own and results.in_group("EXP06b"):
        yield ""
        yield (
            f"The training of the VQVAE, {duration(statistics.fmean(own))} for each seed, is not counted in the time "
            "of EXP06b."
        )


# ------------------------------------------------------------------------------------------------------ acceptance


def _acceptance(results: GeneganResults) -> Iterator[str]:
    arms = [one for one in results.gans if one.values("test_add_inside")]
    if not arms:
        if any(one.option("dataset") == "faces" for one in results.gans):
            yield "Not measured: no completed run on procedural faces."
        return
    yield "| | | transfer rate | PSNR inside (dB) | PSNR outside (dB) | its reconstruction | (a) | (b) | (c) |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for dummy in ("identity", "copy", "paste"):
        for direction, text in DIRECTIONS.items():
            names = [f"test_{direction}_{name}_{dummy}" for name in ("rate", "inside", "outside")]
            yield f"| {dummy} | {text} | {' | '.join(_reference(results, name) for name in names)} | | | | |"
    for arm in arms:
        criteria = {(one.letter, one.direction): one for one in criteria_of(arm)}
        for direction, text in DIRECTIONS.items():
            names = [f"test_{direction}_{name}" for name in ("rate", "inside", "outside")]
            cells = [over_seeds(arm.values(name), percent="_rate" in name)
                     for name in (*names, "test_reconstruction_outside")]  # fmt: skip
            cells += [_met(criteria[letter, direction]) for letter in "abc"]
            yield f"| {arm.label} | {text} | {' | '.join(cells)} |"
    yield ""
    accuracy = results.reference("test_judge_accuracy")
    judge = f"{100 * accuracy:.1f} %" if math.isfinite(accuracy) else "not known"
    yield (
        "A criterion is met if every seed meets it. (a) PSNR inside the region that differs is above the identity's "
        "and the copy's; paste is the mean of real faces of the wanted side in the true region, which no model knows. "
        f"(b) The transfer rate is at least {100 * LEAST_RATE:g} %, by a judge whose own accuracy is {judge}. (c) PSNR "
        f"outside the region is at most {MOST_LOST:g} dB below that of the reconstruction."
    )


def _met(one: Criterion) -> str:
    """`met (3 of 3)`."""
    words = {YES: "met", NO: "not met"}
    return f"{words[one.verdict]} ({one.met} of {len(one.margins)})" if one.margins else UNKNOWN


# --------------------------------------------------------------------------------------------- document, limits


def _reported(results: GeneganResults) -> Iterator[str]:
    yield "| | iteration | added | removed |"
    yield "|---|---|---|---|"
    for one in REPORTED:
        cells = (f"{one.iteration:,}", fixed(one.added, 2), fixed(one.removed, 2))
        yield f'| document, baseline: "FID" @128, N 5000 | {" | ".join(cells)} |'
    base = next(iter(results.in_group(BASE)), None) or results.base
    if base and base.values("test_add_fd"):
        ends = ", ".join(f"{one.iterations:,}" for one in base.completed)
        own = [over_seeds(base.values(f"test_{direction}_fd")) for direction in DIRECTIONS]
        ways = " or ".join(dict.fromkeys(str(one.evaluated) for one in base.completed))
        yield f"| this round, {base.label}: {ways}, test images | best up to {ends} | {' | '.join(own)} |"
    yield ""
    last = f"{REPORTED[-1].iteration:,}"
    yield f"The document's baseline ended at iteration {last}, after two boxes of three hours. {WHY_NOT_COMPARABLE}"


def _limits(data: SummaryData) -> Iterator[str]:
    open_ones = [one for one in data.answers if one.verdict == OPEN]
    yield f"- {len(open_ones)} of {counted(len(data.answers), 'answer')} open."
    pairs = [len(one.own) for one in data.comparisons.values() if one.own]
    if pairs and max(pairs) < 6:
        yield (
            f"- With {counted(max(pairs), 'pair')} a sign-flip test cannot show anything (p is at least "
            f"{2.0 ** (1 - max(pairs)):g}), so answers rest on intervals by Student's t, which take differences as "
            "normal."
        )
    if any(one.extractor == "auto" for one in data.results.evaluated):
        yield "- FD (auto): it is not recorded which extractor `extractor: auto` has chosen, so it is not called FID."
    if not any(math.isfinite(data.results.reference(f"test_{direction}_fd_floor")) for direction in DIRECTIONS):
        yield "- The floor is not known: half of the images are not more than the extractor's features."
    yield "- The variance of a loss is that between recorded rows of the last half of the iterations; a trend counts."
    yield "- Seconds, and iterations per second, compare only between runs on equal hardware with equal load."
    if data.results.in_group("EXP03_random"):
        yield (
            "- A row of EXP03_random averages over iterations of different sizes, whose losses differ: a part of its "
            "variance is that of the draw of sizes."
        )


def missing_in(results: GeneganResults) -> list[str]:
    """What the round lacks or could not be read, a line each."""
    lines = list(results.problems)
    for arm in results.arms:
        states = [run.status for run in arm.runs if not run.completed]
        if states:
            kinds = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            lines.append(f"{arm.label}: {counted(len(states), 'run')} without a result ({kinds})")
    return lines

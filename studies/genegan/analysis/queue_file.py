"""queue.md: the document's list of experiments with what this round has of each, made from its records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from analysis.rounding import significant
from analysis.rounds import REPOSITORY, newest_file
from roundhouse.formatting import abbreviated, counted, duration
from roundhouse.model.plan import State
from studies.genegan.analysis.document import BASE, CONTROL, FLOOR, PURPOSES
from studies.genegan.analysis.results import DIRECTIONS, DISTANCE, LOSSES, Arm, GeneganResults, Run
from studies.genegan.analysis.texts import over_seeds

MOST_PATHS = 3


def queue(results: GeneganResults) -> str:
    """queue.md, a section for each group in the order of the round file."""
    lines = [f"# Experiment queue of round {results.name}", "", *_ground_rules(results)]
    for group in dict.fromkeys(one.group for one in results.arms):
        arms = results.in_group(group)
        if group == "EXP06b" and results.in_group(BASE):
            lines += ["", *_control()]
        lines += ["", *_section(results, group, arms)]
    return "\n".join(lines) + "\n"


def _ground_rules(results: GeneganResults) -> Iterator[str]:
    yield (
        "Made from the records by `python analysis/suite.py`. Mean ± standard deviation over the completed seeds, or "
        "over all while none is completed; n: their number."
    )
    yield ""
    yield (
        f"- Distances of both directions: {', or '.join(map(str, results.evaluated)) or 'not known yet'}; at "
        "checkpoints on validation images, of the best weights on test images. *Added*: Bu against real images with "
        "the attribute; *removed*: A0 against real images without it."
    )
    floor, identity = ([results.reference(f"test_{direction}_fd_{name}") for direction in DIRECTIONS]
                       for name in ("floor", "identity"))  # fmt: skip
    yield (
        f"- For comparison, on test images: two halves of the real images (floor) {_pair(floor)}; the unchanged input "
        f"(identity) {_pair(identity)}; another real image of the wanted side (copy) 0 by definition. {FLOOR}"
    )
    yield "- Losses of a WGAN are no measure of quality: compare distances."


def _pair(values: Sequence[float]) -> str:
    """The values of both directions."""
    named = [f"{text} {significant(value) if math.isfinite(value) else 'not known'}"
             for text, value in zip(DIRECTIONS.values(), values, strict=True)]  # fmt: skip
    return ", ".join(named)


def _control() -> list[str]:
    return [f"## {CONTROL}: control without the weights of a VQVAE", "",
            f"- The runs of {BASE}: same config and seed."]  # fmt: skip


def _section(results: GeneganResults, group: str, arms: Sequence[Arm]) -> Iterator[str]:
    title, purpose = PURPOSES.get(group, ("", "none"))
    runs = [run for arm in arms for run in arm.runs]
    following = ", RUN NEXT" if group == next_group(results) else ""
    yield f"## {group or results.name} ({status_of(runs)}{following}){': ' * bool(title)}{title}"
    yield ""
    yield f"- Purpose: {purpose}"
    yield "- Command:"
    yield "```bash"
    yield from (f"python runner.py --round {results.name} --only '{one}'" for one in patterns_of(runs))
    yield "```"
    for arm in arms:
        if len(arms) > 1:
            yield f"- **{arm.label}**"
        yield from _results(arm)


def status_of(runs: Sequence[Run]) -> str:
    """`DONE` if all are; else how many are in each state, such as `1 done, 2 pending`."""
    words = [one.status for one in runs]
    counts = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    return "DONE" if set(words) == {"done"} else ", ".join(counts)


def next_group(results: GeneganResults) -> str | None:
    """The group with the highest priority of which no run has started; None if each has one."""
    waiting = [arm.runs[0].entry for arm in results.arms if all(one.state is State.PENDING for one in arm.runs)]
    return max(waiting, key=lambda one: one.experiment.priority).group if waiting else None


def patterns_of(runs: Sequence[Run]) -> list[str]:
    """What `--only` takes for these runs: `EXP00/*`, or the paths of runs that are in no folder."""
    parents = [path.rpartition("/")[0] for path in (one.path for one in runs)]
    return list(dict.fromkeys(f"{parent}/*" if parent else run.path for parent, run in zip(parents, runs, strict=True)))


def _results(arm: Arm) -> Iterator[str]:
    started = [one for one in arm.runs if one.rows]
    limit = arm.config.get("time_limit")
    box = f" (box of {duration(limit)} of training)" if isinstance(limit, (int, float)) else ""
    if not started:
        yield f"- Result{box}: none yet"
    else:
        yield f"- Result{box}:"
        ends = [f"{one.iterations:,}{'' if one.completed else f' ({one.status})'}" for one in started]
        yield f"  - last iteration: {_by_seed(started, ends)}"
        yield from _losses(arm)
        if arm.is_gan:
            yield from _files(started)
            yield from _distances(arm)
    for run in arm.runs:
        if not run.completed and run.state not in (State.PENDING, State.IN_PROGRESS, State.SUBMITTING):
            yield f"  - `{run.path}`: {run.status}: {run.why}"


def _by_seed(runs: Sequence[Run], texts: Sequence[str]) -> str:
    """`31,318` for one seed; `seed 0: 31,318; seed 1: 30,990` for several."""
    if len(runs) == 1 and len(texts) == 1:
        return f"{texts[0]} (seed {runs[0].seed})"
    return "; ".join(f"seed {run.seed}: {text}" for run, text in zip(runs, texts, strict=True))


def _losses(arm: Arm) -> Iterator[str]:
    losses = LOSSES if arm.is_gan else {"vqvae_loss": "VQVAE"}
    texts = [f"{text} {over_seeds([one.last(name) for one in arm.to_show()])}" for name, text in losses.items()]
    yield f"  - last losses: {', '.join(texts)}"


def name_of(iteration: int) -> str:
    """The name of the checkpoint and of the picture of an iteration, as the study writes it."""
    return f"iter_{iteration:06}"


def _files(shown: Sequence[Run]) -> Iterator[str]:
    names = [[name_of(step) for step, _ in one.series(DISTANCE)] for one in shown]
    kept = [[name for name in own if newest_file(one.entry.record, f"snapshots/{name}.pth")]
            for one, own in zip(shown, names, strict=True)]  # fmt: skip
    yield f"  - checkpoints kept: {_by_seed(shown, [', '.join(own) or 'none' for own in kept])}"
    pictures = [path for one, own in zip(shown, names, strict=True) for name in own
                if (path := newest_file(one.entry.record, f"kept/samples/{name}.png"))]  # fmt: skip
    last = [path for one, own in zip(shown, names, strict=True)
            if own and (path := newest_file(one.entry.record, f"kept/samples/{own[-1]}.png"))]  # fmt: skip
    texts = [f"`{path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}`" for path in last]
    where = f"; the newest: {abbreviated(texts, MOST_PATHS)}" if texts else ""
    yield f"  - samples: {counted(len(pictures), 'picture')}{where}"


def _distances(arm: Arm) -> Iterator[str]:
    """Of the completed runs, or of all while none is completed."""
    shown = arm.to_show()
    if not any(one.series(DISTANCE) for one in shown):
        return
    ways = list(dict.fromkeys(one.evaluated for one in shown))
    yield f"  - {' or '.join(map(str, ways))}:"
    last = {one.path: one.series(DISTANCE)[-1][0] for one in shown if one.series(DISTANCE)}
    steps = sorted({step for one in shown for step, _ in one.series(DISTANCE) if step != last[one.path]})
    for step in steps:
        runs = [one for one in shown if last.get(one.path) != step]
        values = [[dict(one.series(f"{direction}_fd")).get(step, math.nan) for one in runs] for direction in DIRECTIONS]
        yield f"    - {name_of(step)} (validation): {_both(values)}"
    ends = ", ".join(f"{step:,}" for step in dict.fromkeys(last.values()))
    values = [[one.last(f"{direction}_fd") for one in shown] for direction in DIRECTIONS]
    yield f"    - last iteration, {ends} (validation): {_both(values)}"
    tested = [arm.values(f"test_{direction}_fd") for direction in DIRECTIONS]
    if any(tested):
        yield f"    - best weights (test): {_both(tested)}"
        kernel = " or ".join(one.kernel_name for one in ways)
        yield f"    - {kernel}, best weights (test): " + _both(
            [arm.values(f"test_{direction}_kd") for direction in DIRECTIONS]
        )


def _both(values: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{text} {over_seeds(own)}" for text, own in zip(DIRECTIONS.values(), values, strict=True))

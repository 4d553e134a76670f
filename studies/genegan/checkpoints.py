"""Evaluates the generator of a run, and keeps samples and checkpoints, of which old ones are deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.training import Run
from studies.genegan.evaluation import Evaluation
from studies.genegan.loading import LATEST
from studies.genegan.networks import Generator
from studies.genegan.options import Options
from studies.genegan.pictures import grid
from studies.genegan.prune import Checkpoint, sound, to_delete

MAIN = "distance"
SHOWN = 8
"""Faces in a picture of samples."""
_OF_TRANSFER = ("rate", "inside", "outside")


def evaluate_and_keep(run: Run, generator: Generator, validation: Evaluation, iteration: int, options: Options) -> None:
    """Record the distances on validation images, and keep a picture, a checkpoint and the name of the latter.

    Nothing is done if this iteration, the last one of the loop, has been evaluated in the loop.
    """
    if run.recorded(MAIN):
        return
    with run.untimed():
        run.record(**with_mean(validation.distances(generator)), **_transfer(validation, generator))
        run.keep(f"samples/{name_of(iteration)}.png", grid(validation.samples(generator, SHOWN)))
    run.keep_checkpoint(name_of(iteration))
    run.keep(LATEST, f"{name_of(iteration)}.pth\n")
    for one in to_delete(kept_so_far(run.history), options.keep):
        run.drop_checkpoint(one.name)


def name_of(iteration: int) -> str:
    return f"iter_{iteration:06}"


def kept_so_far(history: Sequence[Mapping[str, Any]]) -> list[Checkpoint]:
    """The checkpoints that were kept with the entries of a history, deleted ones included."""
    steps = {row["step"]: position for position, row in enumerate(history) if MAIN in row}
    return [Checkpoint(name_of(step), step, sound(history[: position + 1])) for step, position in steps.items()]


def with_mean(distances: Mapping[str, float]) -> dict[str, float]:
    """`distance`, the mean of both directions, by which the best weights are chosen, before the distances."""
    return {MAIN: (distances["add_fd"] + distances["remove_fd"]) / 2, **distances}


def _transfer(validation: Evaluation, generator: Generator) -> dict[str, float]:
    """The measures of the generator itself; the dummies do not change, and stand beside the test."""
    found = validation.transfer(generator)
    wanted = {f"{direction}_{name}" for direction in ("add", "remove") for name in _OF_TRANSFER}
    return {name: value for name, value in found.items() if name in wanted | {"reconstruction_outside"}}

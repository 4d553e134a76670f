"""Answers to the document's questions, and the acceptance on procedural faces, each with numbers and n."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from studies.genegan.analysis.comparisons import NO, NOT_MEASURED, YES, Compared, Comparisons
from studies.genegan.analysis.document import QUESTIONS, Question
from studies.genegan.analysis.results import DIRECTIONS, Arm, GeneganResults

LEAST_RATE = 0.8  # of outputs that the judge finds on the wanted side
MOST_LOST = 3.0  # dB outside the region, below the reconstruction
FACES_ONLY = ("_rate", "_inside", "_outside")  # endings of measures that need the paired truth


@dataclass(frozen=True)
class Answer:
    """An answer to a question by one measure."""

    question: Question
    measure: str
    compared: Compared

    @property
    def verdict(self) -> str:
        return self.compared.answer


def answers_of(results: GeneganResults, comparisons: Comparisons) -> list[Answer]:
    """The questions about groups of this round, by each of their measures that its data set has."""
    return list(_answers(results, comparisons))


def _answers(results: GeneganResults, comparisons: Comparisons) -> Iterator[Answer]:
    on_faces = any(one.option("dataset") == "faces" for one in results.gans)
    for question in QUESTIONS:
        arms, others = results.in_group(question.group), results.in_group(question.against)
        if not arms or not others:
            continue
        for name in question.measures:
            if name.endswith(FACES_ONLY) and not on_faces:
                continue
            found = [comparisons[key] for arm in arms for other in others
                     if (key := (arm.label, other.label, name)) in comparisons]  # fmt: skip
            yield from (Answer(question, name, one) for one in found)


# ------------------------------------------------------------------------------------------ acceptance on faces


@dataclass(frozen=True)
class Criterion:
    """A criterion of acceptance for an arm, by its letter. `margins`: by how much each seed exceeds its limit.

    `strict`: it must exceed it, not only reach it.
    """

    letter: str
    direction: str
    margins: tuple[float, ...]
    strict: bool = False

    @property
    def met(self) -> int:
        """How many seeds meet it."""
        return sum(one > 0 or (not self.strict and one == 0) for one in self.margins)

    @property
    def verdict(self) -> str:
        """Met if each seed meets it."""
        if not self.margins:
            return NOT_MEASURED
        return YES if self.met == len(self.margins) else NO


def criteria_of(arm: Arm) -> list[Criterion]:
    """The criteria of an arm on procedural faces, in both directions; without a completed run, none is measured.

    (a) PSNR inside the region that differs is above that of identity and copy; (b) the transfer rate is high enough;
    (c) PSNR outside the region is not far below that of the reconstruction.
    """
    made = []
    for direction in DIRECTIONS:
        inside = f"test_{direction}_inside"
        above = _margins(arm, inside, f"{inside}_identity", f"{inside}_copy")
        rate = tuple(one - LEAST_RATE for one in arm.values(f"test_{direction}_rate"))
        lost = _margins(arm, "test_reconstruction_outside", f"test_{direction}_outside")
        made += [
            Criterion("a", direction, above, strict=True),
            Criterion("b", direction, rate),
            Criterion("c", direction, tuple(MOST_LOST - one for one in lost)),
        ]
    return made


def _margins(arm: Arm, name: str, *others: str) -> tuple[float, ...]:
    """By how much a measure exceeds the highest of others, for each completed run that has all of them."""
    margins = [tuple(run.value(name) - run.value(other) for other in others) for run in arm.completed]
    return tuple(min(one) for one in margins if math.isfinite(sum(one)))

"""Every study that comes with the project trains in two processes: the same losses as in one, and exact resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flood_tiny import Sets, few
from forked_ranks import in_processes
from kill_and_resume import SETTINGS, make_study
from parallel_study import attempt
from small_study import comparable, metrics_of

from roundhouse.settings import Settings
from roundhouse.training import Step
from roundhouse.training.execute import Outcome
from roundhouse.training.ranks import Ranks

OFTEN = dataclasses.replace(SETTINGS, save_minutes=0.0)
KINDS = ["pure", "logit", "factor_transfer", "flow", "flow in parts", "flow 1+2+3+4+5+6+7+8+9", "genegan r1",
         "genegan vqvae", "flood training"]  # fmt: skip
WITHIN = {"pure": 0.5, "logit": 0.5, "factor_transfer": 0.5, "flow": 0.1, "flow 1+2+3+4+5+6+7+8+9": 0.1,
          "genegan vqvae": 0.05}  # fmt: skip
"""Batch normalisation, dropout and the first vectors of a codebook depend on the number of processes; nothing else,
apart from rounding.
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, flood_sets: Sets) -> Path:
    """A folder with what the runs read: a teacher of the distillation, and samples of floods."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("inputs")
    few(flood_sets, folder / "sets/few")
    attempt(make_study("pure", folder / "teacher"), folder / "teacher", settings=SETTINGS)
    return folder


def train(kind: str, inputs: Path, place: Path, count: int, settings: Settings = SETTINGS, **more: Any) -> list[Any]:
    """One attempt. Each process writes the losses of its own parts of the batches next to it."""

    def work(ranks: Ranks) -> Outcome:
        losses: list[float] = []
        watch = Step.watch

        def noted(step: Step, loss: torch.Tensor) -> None:
            losses.append(float(loss.detach()))
            watch(step, loss)

        Step.watch = noted  # type: ignore[method-assign]
        outcome = attempt(make_study(kind, inputs / "teacher"), place, ranks, settings=settings, **more)
        place.with_name(f"{place.name} {ranks.rank}").write_text(json.dumps(losses))
        return outcome

    return in_processes(count, work)


def losses_of(place: Path) -> list[float]:
    rows = metrics_of(place)["epochs"]
    return [value for row in rows for name, value in row.items() if name.endswith("loss")]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one_and_resume_exactly(kind: str, inputs: Path, tmp_path: Path) -> None:
    (one,) = train(kind, inputs, tmp_path / "one", 1)
    whole = train(kind, inputs, tmp_path / "whole", 2)
    assert one.finished, one
    assert all(outcome.finished for outcome in whole), whole
    assert losses_of(tmp_path / "whole") == pytest.approx(losses_of(tmp_path / "one"), rel=WITHIN.get(kind, 1e-3))
    own = [json.loads((tmp_path / f"whole {rank}").read_text()) for rank in range(2)]
    assert len(own[0]) == len(own[1]) > 0
    assert all(first != second for first, second in zip(*own, strict=True)), "they have trained on the same samples"
    reasons = iter([None] * 5 + ["preempted"] * 9)
    stopped = train(kind, inputs, tmp_path / "1", 2, OFTEN, stop=lambda: next(reasons))
    assert {outcome.reason for outcome in stopped} == {"preempted"}, stopped
    resumed = train(kind, inputs, tmp_path / "2", 2, earlier=(tmp_path / "1",))
    assert resumed[0].exact
    assert comparable(resumed[0]).final_hash == comparable(whole[0]).final_hash

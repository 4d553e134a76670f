"""Losses and metrics that are not finite, and optimiser steps that gradient scaling skips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_study import SmallStudy, metrics_of, train, with_settings

from roundhouse.errors import RoundhouseError
from roundhouse.training import Epoch, Run, Step


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Spoiled(SmallStudy):
    """One batch has a loss that is not finite, in the first `times` computations of it."""

    def __init__(self, factor: float = float("nan"), times: int = 10) -> None:
        super().__init__()
        self.factor, self.times = factor, times

    def is_bad(self, epoch: Epoch, step: Step) -> bool:
        return (epoch.stage, epoch.index, step.index) == ("head", 1, 2)

    def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
        if self.is_bad(epoch, step):
            self.times -= 1
            return loss * self.factor if self.times >= 0 else loss
        return loss


@pytest.mark.parametrize(("factor", "shown"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_loss_that_is_not_finite_twice_ends_the_run_as_diverged_and_names_the_batch(
    tmp_path: Path, factor: float, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train(tmp_path, Spoiled(factor))
    place = f"the loss became {shown} in stage head, epoch 2, batch 3"
    assert (outcome.finished, outcome.diverged) == (False, True)
    assert outcome.reason == f"{place} at precision fp32, twice"
    assert f"{place}; it is computed again from the last checkpoint, to confirm it" in capsys.readouterr().err
    metrics = metrics_of(tmp_path)
    assert len(metrics["epochs"]) == 3
    assert metrics["diverged"] == {"step": 12, "why": outcome.reason}


def test_a_loss_that_is_finite_when_it_is_computed_again_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="not finite in stage head, epoch 2, batch 3, .*suspect the hardware"):
        train(tmp_path, Spoiled(times=1))
    assert "diverged" not in metrics_of(tmp_path)


def test_a_loss_that_is_not_finite_at_another_step_the_second_time_is_an_error(tmp_path: Path) -> None:
    class Wandering(Spoiled):
        def is_bad(self, epoch: Epoch, step: Step) -> bool:
            return (epoch.stage, epoch.index, step.index) == ("head", 1, 2 if self.times == 10 else 0)

    with pytest.raises(RoundhouseError, match=r"batch 3, but .* again .*, the loss became nan .*batch 1: not reprod"):
        train(tmp_path, Wandering())


def test_a_loss_that_is_not_finite_is_detected_within_the_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    class Long(SmallStudy):
        def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
            for step, number in epoch.batches(range(1000)):
                seen.append(number)
                step.watch(torch.tensor(float("nan")))

    outcome = train(tmp_path, Long())
    assert outcome.diverged
    assert "epoch 1, batch 1 " in outcome.reason
    assert len(seen) <= 100


def test_a_metric_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    class Immeasurable(SmallStudy):
        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            return {"distance": float("nan")}

    outcome = train(tmp_path, Immeasurable())
    assert outcome.diverged
    assert "metric distance became nan in stage autoencoder, epoch 1" in outcome.reason


def test_a_study_that_finds_that_it_diverged_ends_the_run_with_its_metrics(tmp_path: Path) -> None:
    class Collapsing(SmallStudy):
        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            if epoch.stage == "head":
                self.run.diverged("all images are equal")
            return super().evaluate(epoch)

        def __call__(self, run: Run) -> None:
            self.run = run
            super().__call__(run)

    outcome = train(tmp_path, Collapsing())
    assert (outcome.finished, outcome.diverged, outcome.reason) == (False, True, "all images are equal")
    metrics = metrics_of(tmp_path)
    assert (len(metrics["epochs"]), metrics["diverged"]["why"]) == (2, "all images are equal")


# Gradient scaling


class Overflowing(SmallStudy):
    """40 batches per epoch, some of which have a finite loss with an infinite gradient."""

    def __init__(self, epoch: int, batches: range) -> None:
        super().__init__((2, 1))
        self.bad = (epoch, batches)

    def train_epoch(self, run: Run, epoch: Epoch, optimizer: torch.optim.Adam) -> None:
        module = self.modules[epoch.stage]
        for step, batch in epoch.batches(range(40)):
            loss = module.weight.square().mean()
            if epoch.index == self.bad[0] and batch in self.bad[1]:
                loss = loss + torch.sqrt(loss * 0)
            step.optimise(loss, optimizer)


FP16 = with_settings(precision="fp16")


def test_some_steps_may_be_skipped_until_the_scale_is_low_enough(tmp_path: Path) -> None:
    assert train(tmp_path, Overflowing(0, range(10)), FP16).finished


def test_a_run_fails_if_gradient_scaling_skips_more_than_a_fifth_of_the_steps(tmp_path: Path) -> None:
    with pytest.raises(
        RoundhouseError, match=r"11 of the last 50 optimiser steps were skipped, up to stage autoencoder, epoch 2"
    ):
        train(tmp_path, Overflowing(1, range(11)), FP16)


def test_a_run_fails_if_gradient_scaling_skips_every_step_of_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=r"40 of the last 40 optimiser steps were skipped, up to .* epoch 1"):
        train(tmp_path, Overflowing(0, range(40)), FP16)


def test_the_share_of_steps_that_may_be_skipped_is_a_setting(tmp_path: Path) -> None:
    settings = dataclasses.replace(FP16, max_skipped=0.3)
    assert train(tmp_path, Overflowing(1, range(11)), settings).finished


@pytest.mark.parametrize("stop_at", [43, 47, 55])
def test_skipped_steps_are_counted_over_attempts(tmp_path: Path, stop_at: int) -> None:
    train(tmp_path, Overflowing(1, range(11)), FP16, stop_at=stop_at)
    with pytest.raises(RoundhouseError, match=r"11 of the last 50 optimiser steps were skipped"):
        train(tmp_path, Overflowing(1, range(11)), FP16)


def test_in_a_loop_by_steps_skipped_steps_are_checked_too(tmp_path: Path) -> None:
    seen: list[int] = []

    def study(run: Run) -> None:
        weight = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.0)
        run.track(weight=weight, optimizer=optimizer)
        for step in run.steps(1000):
            seen.append(step.index)
            loss = weight.square().sum()
            step.optimise(loss + torch.sqrt(loss * 0) if step.index >= 100 else loss, optimizer)

    with pytest.raises(RoundhouseError, match=r"50 of the last 50 optimiser steps were skipped, up to stage train"):
        train(tmp_path, study, FP16)
    assert len(seen) <= 200

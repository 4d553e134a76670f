"""What a step computes: several optimisers, gradient scaling, clipping, random streams, losses that are not finite."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_study import SETTINGS, run_tiny

from roundhouse.errors import RoundhouseError
from roundhouse.training import Run, Step, Value, read_weights
from roundhouse.training.memory import memory_ran_out
from roundhouse.training.optimise import FiniteCheck, Optimisation

FP16 = dataclasses.replace(SETTINGS, precision="fp16")


def parameter(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(value))


def optimisation(interval: int = 1) -> Optimisation:
    """Gradient scaling whose scale doubles after each step that was taken."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=interval)
    return Optimisation(scaler, FiniteCheck())


def test_two_optimisers_of_one_backward_pass_use_the_same_scale() -> None:
    first, second = parameter(), parameter()
    optimisers = [torch.optim.SGD([one], lr=1.0) for one in (first, second)]
    done = optimisation()
    for _ in range(2):  # with a scale that was updated in between, the second parameter would be 0.75 and then 0.5
        for one in optimisers:
            one.zero_grad()
        done.backward(0.25 * (first + second))
        done.update(optimisers)
    assert (first.item(), second.item()) == (0.5, 0.5)


def test_the_scale_is_also_the_same_if_the_optimisers_step_one_after_the_other() -> None:
    first, second = parameter(), parameter()
    done = optimisation()
    done.backward(0.5 * (first + second))
    for one in (first, second):
        done.update(torch.optim.SGD([one], lr=1.0))
    assert (first.item(), second.item()) == (0.5, 0.5)
    done.settle()
    assert done.scaler is not None
    assert done.scaler.get_scale() == 16.0, "one update for one backward pass"


def test_one_optimiser_may_step_twice_in_one_step_of_the_loop() -> None:
    weight = parameter()
    optimiser = torch.optim.SGD([weight], lr=1.0)
    done = optimisation()
    for _ in range(2):
        optimiser.zero_grad()
        done.backward(0.25 * weight)
        done.update(optimiser)
    assert weight.item() == 0.5


@pytest.mark.parametrize("settings", [SETTINGS, FP16], ids=["fp32", "fp16"])
def test_the_norm_that_is_clipped_is_that_of_all_gradients_together(settings: Any, tmp_path: Path) -> None:
    first, second = parameter(), parameter()

    def study(run: Run) -> None:
        optimisers = [torch.optim.SGD([one], lr=1.0) for one in (first, second)]
        run.track(first=first, second=second)
        for step in run.steps(1):
            step.optimise(3 * first + 4 * second, optimisers, clip_norm=1.0)

    run_tiny(study, tmp_path, settings)
    assert (first.item(), second.item()) == (pytest.approx(0.4, abs=1e-3), pytest.approx(0.2, abs=1e-3))


def test_gradients_that_a_loss_leaves_in_other_modules_are_not_used(tmp_path: Path) -> None:
    generator, critic = parameter(2.0), parameter(3.0)

    def study(run: Run) -> None:
        g, c = torch.optim.SGD([generator], lr=0.1), torch.optim.SGD([critic], lr=0.1)
        run.track(generator=generator, critic=critic)
        for step in run.steps(1):
            step.optimise(generator * critic, c)  # also gives the generator a gradient of 3
            step.optimise(generator, g)

    run_tiny(study, tmp_path)
    assert generator.item() == pytest.approx(1.9)


def test_each_step_stream_and_number_has_its_own_random_numbers_and_the_run_has_fixed_ones(tmp_path: Path) -> None:
    drawn: list[int] = []
    fixed: set[float] = set()

    def study(run: Run) -> None:
        run.track(x=torch.zeros(1))
        for name in ("one", "two"):
            for epoch in run.epochs(2, name=name):
                drawn.append(epoch.seed("noise"))
                for step, _ in epoch.batches(range(2)):
                    drawn.extend(step.seed(stream, k) for stream in ("noise", "batch") for k in range(2))
                    fixed.add(torch.rand(1, generator=run.generator("latents")).item())

    run_tiny(study, tmp_path)
    assert len(drawn) == len(set(drawn)) == 4 + 8 * 4
    assert len(fixed) == 1


def test_global_generators_give_other_numbers_in_each_step_whatever_was_drawn_before(tmp_path: Path) -> None:
    def numbers(extra: bool, directory: Path) -> list[float]:
        drawn = []

        def study(run: Run) -> None:
            run.track(x=torch.zeros(1))
            for _ in run.steps(4):
                drawn.append(torch.rand(1).item() + float(np.random.rand()))
                if extra:
                    torch.rand(7)

        run_tiny(study, directory)
        return drawn

    plain = numbers(False, tmp_path / "1")
    assert len(set(plain)) == 4
    assert numbers(True, tmp_path / "2") == plain


# ------------------------------------------------------------------------------------------- losses that are not finite


def failing(at: int, flaws: Iterator[float], recorded: bool = False) -> Any:
    """A study whose loss, or metric, in step `at` is multiplied by the next of `flaws`."""

    def study(run: Run) -> None:
        weight = parameter()
        optimiser = torch.optim.SGD([weight], lr=0.01)
        run.track(weight=weight, optimiser=optimiser)
        run.best("size", weights={"weight": weight})
        for step in run.steps(120, save_every=10):
            flaw = next(flaws) if step.index == at else 1.0
            step.optimise(weight.square() * (1.0 if recorded else flaw), optimiser)
            if step.every(5):
                run.record(size=weight.item() * (flaw if recorded else 1.0))

    return study


@pytest.mark.parametrize("recorded", [False, True], ids=["loss", "metric"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_twice_at_the_same_step_means_diverged(
    tmp_path: Path, bad: float, recorded: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    computed: list[float] = []

    def flaws() -> Iterator[float]:
        while True:
            computed.append(bad)
            yield bad

    outcome = run_tiny(failing(34, flaws(), recorded), tmp_path)
    assert len(computed) == 2, "confirmed once"
    assert (outcome.finished, outcome.diverged) == (False, True)
    assert ("metric size became" if recorded else "the loss became") in outcome.reason
    assert "stage train, step 35" in outcome.reason
    assert "computed again from the last checkpoint" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["diverged"]["why"] == outcome.reason
    assert [one["step"] for one in metrics["epochs"]] == [5, 10, 15, 20, 25, 30], "what was saved"
    assert read_weights(tmp_path / "best.pth")["weight"].isfinite()


@pytest.mark.parametrize("recorded", [False, True], ids=["loss", "metric"])
def test_a_loss_that_is_finite_the_second_time_is_an_error_of_the_hardware(tmp_path: Path, recorded: bool) -> None:
    with pytest.raises(RoundhouseError, match="not reproducible, suspect the hardware"):
        run_tiny(failing(34, iter([float("nan"), 1.0]), recorded), tmp_path)


def test_no_checkpoint_holds_weights_after_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        weight = parameter()
        optimiser = torch.optim.SGD([weight], lr=0.01)
        run.track(weight=weight)
        for step in run.steps(40, save_every=1):
            step.optimise(weight.square() * (float("nan") if step.index == 20 else 1.0), optimiser)

    assert run_tiny(study, tmp_path).diverged
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert (content["step"], bool(content["parts"]["weight"].isfinite())) == (20, True)


def test_a_study_can_say_that_it_diverged(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        run.track(x=Value(0))
        for step in run.steps(10):
            run.record(loss=float(step.index))
            if step.index == 4:
                run.diverged("the critic's loss is 1,000 times its median")

    outcome = run_tiny(study, tmp_path)
    assert outcome.diverged
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["diverged"] == {"step": 4, "why": "the critic's loss is 1,000 times its median"}
    assert len(metrics["epochs"]) == 5


# ------------------------------------------------------------------------------------------- steps that are skipped


def overflowing(bad: range) -> Any:
    def study(run: Run) -> None:
        weight = parameter(0.5)
        optimiser = torch.optim.SGD([weight], lr=0.01)
        run.track(weight=weight)
        for step in run.steps(120, save_every=25):
            loss = weight.square()
            if step.index in bad:
                loss = loss + torch.sqrt(loss * 0)  # a finite loss with an infinite gradient
            step.optimise(loss, optimiser)

    return study


def test_a_run_by_steps_fails_if_gradient_scaling_skips_too_many(tmp_path: Path) -> None:
    assert run_tiny(overflowing(range(10)), tmp_path / "few", FP16).finished
    with pytest.raises(RoundhouseError, match="11 of the last 50 optimiser steps were skipped, up to stage train"):
        run_tiny(overflowing(range(60, 71)), tmp_path / "many", FP16)


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu"),
        (
            torch.AcceleratorError("CUDA error: out of memory")
            if hasattr(torch, "AcceleratorError")
            else MemoryError(),
            None,
        ),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"), "host"),
        (MemoryError(), "host"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (ValueError("out of memory"), ""),
    ],
)
def test_errors_that_say_that_memory_ran_out_are_recognised(error: BaseException, where: str | None) -> None:
    expected = where if where is not None else ("gpu" if hasattr(torch, "AcceleratorError") else "host")
    assert memory_ran_out(error, torch.device("cuda")) == expected
    assert memory_ran_out(error, torch.device("cpu")) == ("host" if expected else "")


def test_a_step_knows_when_it_is_the_last_of_so_many(tmp_path: Path) -> None:
    chosen: list[int] = []

    def study(run: Run) -> None:
        run.track(x=Value(0))
        chosen.extend(step.index for step in run.steps(10) if isinstance(step, Step) and step.every(4))

    run_tiny(study, tmp_path)
    assert chosen == [3, 7]

"""A study that is not written as it should be gets an error that names the call and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_study import SmallStudy, train

from roundhouse.errors import RoundhouseError
from roundhouse.training import Epoch, Run, Step


def no_loop(run: Run) -> None:
    run.finish()


def same_name(run: Run) -> None:
    for _ in (*run.steps(1), *run.steps(1)):
        pass


def nested(run: Run) -> None:
    for _ in run.steps(1, name="outer"):
        for _ in run.steps(1, name="inner"):
            pass


def two_units(run: Run) -> None:
    for _ in run.steps(1, name="a"):
        pass
    for _ in run.epochs(1, name="b"):
        pass


def no_end(run: Run) -> None:
    for _ in run.steps(None):
        pass


def batches_twice(run: Run) -> None:
    for epoch in run.epochs(1):
        for _ in (*epoch.batches(range(2)), *epoch.batches(range(2))):
            pass


def in_a_step(act: Callable[[Run, Step], object]) -> Callable[[Run], None]:
    def study(run: Run) -> None:
        for step in run.steps(2):
            act(run, step)

    return study


def after_the_loop(act: Callable[[Run], object]) -> Callable[[Run], None]:
    def study(run: Run) -> None:
        for _ in run.steps(2):
            pass
        act(run)

    return study


def after_an_epoch(act: Callable[[Run], object]) -> Callable[[Run], None]:
    def study(run: Run) -> None:
        for epoch in run.epochs(1):
            for _ in epoch.batches(range(1)):
                pass
        act(run)

    return study


def twice_after_the_loop(run: Run) -> None:
    for _ in run.steps(1):
        run.record(a=1.0)
    run.record(a=1.0, b=1.0)


def once_twice(run: Run) -> None:
    for _ in range(2):
        run.once("value", lambda: 1)


@pytest.mark.parametrize(
    ("study", "complaint"),
    [
        (no_loop, "the study has no loop: it must use run.steps or run.epochs"),
        (same_name, "two loops of this run are called 'train': give each its own name"),
        (nested, "the loop 'inner' begins inside the loop 'outer'"),
        (two_units, "the loop 'b' counts epochs, but those before it steps"),
        (no_end, "it needs `until`"),
        (batches_twice, "epoch.batches() was called twice in one epoch of stage train"),
        (once_twice, "run.once('value') is called twice"),
        (
            in_a_step(lambda run, step: run.once("value", lambda: 1)),
            "run.once('value') is called inside the loop 'train'",
        ),
        (in_a_step(lambda run, step: run.finish()), "run.finish() is called inside the loop 'train'"),
        (lambda run: run.record(a=1.0), "run.record() outside a loop"),
        (after_an_epoch(lambda run: run.record(a=1.0)), "run.record() outside a loop"),
        (after_an_epoch(lambda run: run.recorded("a")), "run.recorded() in a run by epochs"),
        (twice_after_the_loop, "two metrics of the code between the loops have the same name: a"),
        (after_the_loop(lambda run: run.drop_checkpoint("../a")), "cannot be the name of a kept file"),
        (after_the_loop(lambda run: run.load_best()), "run.load_best('best.pth'): no run.best with this file"),
        (after_the_loop(lambda run: run.release("a")), "run.release('a'): no part of this name is tracked"),
        (after_the_loop(lambda run: run.keep_checkpoint(last=0)), "at least the newest one must be kept"),
        (after_the_loop(lambda run: run.best("a", mode="maximum", weights={})), "unknown mode 'maximum'"),
        (after_the_loop(lambda run: run.best("a", weights={}, file="../a.pth")), "cannot be the name of a kept file"),
        (after_the_loop(lambda run: run.track(a=3)), "run.track(a=...): a int cannot be restored in place"),
        (in_a_step(lambda run, step: run.record(step=1.0)), "have the same name: step"),
        (in_a_step(lambda run, step: run.record(seconds=1.0)), "have the same name: seconds"),
    ],
)
def test_a_study_that_violates_the_interface_gets_a_clear_error(
    tmp_path: Path, study: Callable[[Run], None], complaint: str
) -> None:
    with pytest.raises(RoundhouseError) as error:
        train(tmp_path, study)
    assert complaint in str(error.value)


@pytest.mark.parametrize("name", ["loss", "epoch", "stage", "partial"])
def test_two_metrics_of_one_epoch_with_the_same_name_are_an_error(tmp_path: Path, name: str) -> None:
    class Twice(SmallStudy):
        def evaluate(self, epoch: Epoch) -> dict[str, float]:
            return {name: 1.0}

    with pytest.raises(RoundhouseError, match=f"two metrics of stage autoencoder, epoch 1 have the same name: {name}"):
        train(tmp_path, Twice())


@pytest.mark.parametrize("name", ["loss", "seconds"])
def test_an_average_with_the_name_of_a_metric_is_an_error(tmp_path: Path, name: str) -> None:
    class Twice(SmallStudy):
        def loss(self, loss: torch.Tensor, epoch: Epoch, step: Step) -> torch.Tensor:
            if name == "loss" and step.index == 0:
                self.run.record(loss=1.0)
            elif name != "loss":
                step.average(**{name: loss})
            return loss

        def __call__(self, run: Run) -> None:
            self.run = run
            super().__call__(run)

    with pytest.raises(RoundhouseError, match=f"two metrics of stage autoencoder, epoch 1 have the same name: {name}"):
        train(tmp_path, Twice())


def test_a_main_metric_that_was_never_recorded_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Misspelt(SmallStudy):
        def begin(self, run: Run, name: str) -> torch.optim.Adam:
            run.best("distanc", mode="min", weights=dict(self.modules), file="misspelt.pth")
            return super().begin(run, name)

    assert train(tmp_path, Misspelt()).finished
    warning = "metric 'distanc' was never recorded (did you mean 'distance'?): misspelt.pth has the last weights"
    assert capsys.readouterr().err == f"roundhouse: {warning}\n"

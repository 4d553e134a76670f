"""Several processes of one run: equal losses, exact resume, agreement, and no process that waits forever."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_ranks import in_processes
from hypothesis import given
from hypothesis import strategies as st
from parallel_study import SETTINGS, Parallel, attempt
from small_study import comparable, metrics_of, single_epoch

from roundhouse.errors import ConnectionLost, RoundhouseError
from roundhouse.training import Run, Step
from roundhouse.training.execute import Outcome
from roundhouse.training.feeds import DeviceFeed
from roundhouse.training.ranks import Ranks, fingerprint

OFTEN = dataclasses.replace(SETTINGS, save_minutes=0.0)  # a checkpoint after each step


def train(
    directory: Path, study: Parallel | None = None, count: int = 2, earlier: tuple[Path, ...] = (), **more: Any
) -> list[Any]:
    """The outcomes of the processes of one attempt."""
    return in_processes(count, lambda ranks: attempt(study or Parallel(), directory, ranks, earlier, **more))


def losses_of(directory: Path) -> list[float]:
    return [row[name] for row in metrics_of(directory)["epochs"] for name in ("loss", "val_loss")]


# ------------------------------------------------------------------------------------------- parts and means


@given(st.integers(1, 9), st.integers(1, 500))
def test_the_parts_of_a_batch_give_its_mean_and_are_disjoint_if_there_are_enough_samples(
    count: int, samples: int
) -> None:
    shares = [Ranks(rank, count).share(samples) for rank in range(count)]
    parts = [range(samples)[part] for part, _ in shares]
    if samples >= count:
        assert [one for part in parts for one in part] == list(range(samples))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert {one for part in parts for one in part} == set(range(samples))
    # The mean over the processes of the weighted means of their parts is the mean of the batch.
    values = [one * one for one in range(samples)]
    means = [
        weight * sum(values[one] for one in part) / len(part) for part, (_, weight) in zip(parts, shares, strict=True)
    ]
    assert sum(means) / count == pytest.approx(sum(values) / samples)


@pytest.mark.parametrize("batch", [8, 7, 13])  # parts of different sizes; the last batch has 5, or only 1
@pytest.mark.parametrize("count", [2, 3])
def test_without_batch_statistics_the_losses_are_those_of_one_process(tmp_path: Path, count: int, batch: int) -> None:
    attempt(Parallel(noisy=False, batch=batch), tmp_path / "one")
    outcomes = train(tmp_path / "several", Parallel(noisy=False, batch=batch), count)
    assert losses_of(tmp_path / "several") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    assert all(one.finished for one in outcomes)
    assert [one.final_hash is None for one in outcomes] == [False] + [True] * (count - 1)


def gradients(ranks: Ranks, weights: list[float], missing: list[set[int]]) -> list[Any]:
    """The averaged gradients of three parameters, of which a process lacks some."""
    each = [torch.zeros(2), torch.zeros(3, dtype=torch.float64), torch.zeros(())]
    for place, one in enumerate(each):
        if place not in missing[ranks.rank]:
            one.grad = torch.full_like(one, 10.0 * place + ranks.rank + 1)
    ranks.average_gradients(each, weights[ranks.rank])
    return [None if one.grad is None else one.grad.reshape(-1).tolist() for one in each]


def test_gradients_are_averaged_with_the_weights_of_the_parts_also_where_a_process_has_none() -> None:
    missing = [{2}, {1, 2}]
    first, second = in_processes(2, lambda ranks: gradients(ranks, [1.5, 0.5], missing))
    assert first == second
    assert first[0] == [(1.5 * 1 + 0.5 * 2) / 2] * 2
    assert first[1] == [1.5 * 11 / 2] * 3
    assert first[2] is None, "a parameter without a gradient in any process must not be updated"


def test_values_are_reduced_element_by_element() -> None:
    def work(ranks: Ranks) -> list[Any]:
        tensor = torch.tensor([1.0, 4.0]) * (ranks.rank + 1)
        found = [ranks.reduce(tensor, how).tolist() for how in ("mean", "sum", "max", "min")]
        return [*found, tensor.tolist()]

    for rank, found in enumerate(in_processes(2, work)):
        assert found == [[1.5, 6.0], [3.0, 12.0], [2.0, 8.0], [1.0, 4.0], [1.0 * (rank + 1), 4.0 * (rank + 1)]]


class Numbers:
    """Training data of a feed: sample i is the number i, and the order of an epoch is random."""

    nbytes = 24

    def __len__(self) -> int:
        return 24

    def to(self, device: torch.device) -> Numbers:
        return self

    def draw(self, epoch: Any) -> torch.Tensor:
        return torch.randperm(24, generator=epoch.generator("order"))[None]

    def batch(self, draws: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (draws[0],)


@pytest.mark.parametrize("first", [0, 1])
def test_the_processes_of_a_feed_make_equal_parts_of_the_same_batches(first: int) -> None:
    def batches(rank: int, count: int) -> list[list[int]]:
        epoch = single_epoch()
        epoch.ranks = Ranks(rank, count)
        feed = DeviceFeed(Numbers(), 8, torch.device("cpu"))
        return [one.tolist() for (one,) in feed.batches(epoch, first)]

    halves = [batches(rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == batches(0, 1)
    with pytest.raises(RoundhouseError, match="'batch_size' is 8, which cannot be divided equally among 3 processes"):
        batches(0, 3)


# ------------------------------------------------------------------------------------------- exact resume


def resumed(root: Path, study: Parallel, count: int = 2, **more: Any) -> tuple[Outcome, Path]:
    """Attempts until one finishes; in the first ones a random process is killed in a random step."""
    chance, earlier = random.Random(more.pop("seed", 0)), []
    while True:
        here, left, victim = root / str(len(earlier) + 1), chance.randrange(1, 7), chance.randrange(count)
        steps = [0]

        def on_step(
            run: Run, step: Step, number: int, left: int = left, victim: int = victim, steps: Any = steps
        ) -> None:
            steps[0] += 1
            if run.rank == victim and steps[0] == left and len(earlier) < 4:
                os.kill(os.getpid(), signal.SIGKILL)

        outcomes = train(here, dataclasses.replace(study, on_step=on_step), count, tuple(earlier), **more)
        if outcomes[0] is not None and not isinstance(outcomes[0], BaseException):
            assert outcomes[0].finished
            return outcomes[0], here
        assert all(one is None or isinstance(one, ConnectionLost) for one in outcomes), outcomes
        earlier.append(here)


@pytest.mark.parametrize(("count", "settings"), [(2, OFTEN), (3, OFTEN), (2, SETTINGS)])
def test_processes_that_are_killed_at_random_resume_exactly(tmp_path: Path, count: int, settings: Any) -> None:
    whole = train(tmp_path / "whole", count=count, settings=settings)[0]
    outcome, last = resumed(tmp_path / "killed", Parallel(), count, settings=settings, seed=count)
    assert outcome.exact
    assert comparable(outcome) == comparable(whole)
    assert metrics_of(last) == metrics_of(tmp_path / "whole")


def test_a_network_that_grows_by_reduced_statistics_resumes_exactly(tmp_path: Path) -> None:
    study = Parallel(grows=True)
    whole = train(tmp_path / "whole", study, settings=OFTEN)[0]
    outcome, _ = resumed(tmp_path / "killed", study, settings=OFTEN, seed=5)
    assert whole.final_hash != train(tmp_path / "other", settings=OFTEN)[0].final_hash, "it has grown"
    assert comparable(outcome) == comparable(whole)


def test_another_number_of_processes_is_an_approximate_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop = iter([None] * 6 + ["preempted"] * 9)
    train(tmp_path / "1", settings=OFTEN, stop=lambda: next(stop))
    outcome = attempt(Parallel(), tmp_path / "2", earlier=(tmp_path / "1",))
    assert outcome.finished and not outcome.exact
    assert "resume is approximate: backend gloo -> None, processes 2 -> None" in capfd.readouterr().err
    outcomes = train(tmp_path / "3", count=3, earlier=(tmp_path / "2",))
    assert all(one.finished and not one.exact for one in outcomes)


# ------------------------------------------------------------------------------------------- agreement


def test_a_stop_is_decided_by_process_0_and_holds_for_all(tmp_path: Path) -> None:
    calls = [0]

    def stop() -> str | None:
        calls[0] += 1
        return "preempted" if calls[0] > 7 else None

    outcomes = train(tmp_path / "1", settings=OFTEN, stop=stop)
    assert {(one.finished, one.reason) for one in outcomes} == {(False, "preempted")}
    assert len({one.position for one in outcomes}) == 1
    whole = train(tmp_path / "whole")[0]
    assert comparable(train(tmp_path / "2", earlier=(tmp_path / "1",))[0]).final_hash == whole.final_hash


@pytest.mark.parametrize(
    "settings",
    [
        {"time_limit": 0.08},
        {"deadline": 0.0},
        {"pause_at": 2},
        {"max_steps": 7},
        {"patience": 1, "min_delta": 10.0},
    ],
)  # fmt: skip
def test_limits_are_reached_at_the_same_step_although_clocks_and_metrics_differ(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    def on_step(run: Run, step: Step, number: int) -> None:
        time.sleep(0.01 if run.rank == 0 else 0.03)

    study = Parallel(epochs=9, on_step=on_step)
    first, second = train(tmp_path, study, settings=dataclasses.replace(SETTINGS, **settings))
    assert (first.finished, first.reason, first.position) == (second.finished, second.reason, second.position)
    assert first.reason in {"time limit", "walltime", "rung", "max steps", "early stopping"}


def test_a_study_that_stops_by_its_own_clock_stops_where_process_0_does(tmp_path: Path) -> None:
    def on_step(run: Run, step: Step, number: int) -> None:
        if number == (6 if run.rank == 0 else 3):
            run.stop("enough")

    outcomes = train(tmp_path, Parallel(on_step=on_step))
    assert {(one.reason, one.position) for one in outcomes} == {("enough", "epoch 1/3, batch 1")}


def test_the_recorded_metrics_are_those_of_process_0_and_means_those_over_all(tmp_path: Path) -> None:
    def on_step(run: Run, step: Step, number: int) -> None:
        step.average(number=float(run.rank))
        if step.index == 0:
            run.record(odd=float(run.rank) + 1)

    train(tmp_path, Parallel(on_step=on_step), 3)
    rows = metrics_of(tmp_path)["epochs"]
    assert [row["odd"] for row in rows] == [1.0] * 3
    # Parts of 8 samples in 3 processes: 2, 3 and 3.
    assert [row["number"] for row in rows] == pytest.approx([(2 * 0 + 3 * 1 + 3 * 2) / 8] * 3)


def test_early_stopping_and_the_best_weights_follow_the_metric_of_process_0(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        network = run.prepare(torch.nn.Linear(2, 1))
        run.track(network=network)
        run.best("score", weights={"network": network})
        for step in run.steps(20):
            torch.nn.init.constant_(network.bias, float(step.index))
            run.record(score=float(min(step.index, 6) if run.rank == 0 else step.index))
        run.load_best()
        (tmp_path / str(run.rank)).write_text(str(network.bias.item()))

    settings = dataclasses.replace(SETTINGS, patience=2)
    outcomes = in_processes(2, lambda ranks: attempt(study, tmp_path, ranks, settings=settings))
    assert {(one.reason, one.position) for one in outcomes} == {("early stopping", "step 9/20")}
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["6.0", "6.0"]


def test_evaluations_use_the_running_statistics_of_process_0(tmp_path: Path) -> None:
    def study(run: Run) -> list[float]:
        network, spread = run.prepare(torch.nn.BatchNorm1d(2)), []
        run.track(network=network)

        def note() -> None:
            means = network.running_mean
            assert isinstance(means, torch.Tensor)
            spread.append(float((run.reduce(means, "max") - run.reduce(means, "min")).max()))

        for epoch in run.epochs(1):
            for step, _ in epoch.batches(range(3)):
                network(torch.randn(4, 2) + run.rank)
                note()
                with run.untimed():
                    note()
                network(torch.randn(4, 2) + run.rank)
                step.average(loss=0.0)
            note()
        (tmp_path / str(run.rank)).write_text(" ".join(map(str, spread)))
        return spread

    in_processes(2, lambda ranks: attempt(study, tmp_path, ranks))
    *training, evaluation = map(float, (tmp_path / "0").read_text().split())
    assert all(one > 0 for one in training[::2])
    assert not any(training[1::2])
    assert evaluation == 0


def test_a_loss_that_is_not_finite_in_one_process_ends_the_run_as_diverged_in_all(tmp_path: Path) -> None:
    def on_step(run: Run, step: Step, number: int) -> None:
        if number == 3:
            step.watch(torch.tensor(float("nan") if run.rank == 1 else 1.0))

    outcomes = train(tmp_path, Parallel(on_step=on_step))
    assert {(one.diverged, one.reason) for one in outcomes} == {
        (True, "the loss became nan in stage train, epoch 1, batch 3 at precision fp32, twice")
    }
    assert metrics_of(tmp_path)["diverged"]["step"] == 2


# ------------------------------------------------------------------------------------------- mistakes


def only_second(action: str) -> Any:
    def on_step(run: Run, step: Step, number: int) -> None:
        if number == 2 and run.rank == 1:
            match action:
                case "record":
                    run.record(odd=1.0)
                case "reduce":
                    run.reduce(torch.ones(()))
                case "diverged":
                    run.diverged("it says so")
                case "keep_checkpoint":
                    run.keep_checkpoint("odd")

    return on_step


@pytest.mark.parametrize(
    ("shape", "how"), [((2,), ("sum", "max")), (((2,), (3,)), ("sum", "sum"))], ids=["how", "shape"]
)
def test_reductions_that_do_not_belong_together_are_found(shape: Any, how: tuple[str, str]) -> None:
    shapes = shape if isinstance(shape[0], tuple) else (shape, shape)
    outcomes = in_processes(2, lambda ranks: ranks.reduce(torch.ones(shapes[ranks.rank]), how[ranks.rank]))
    assert any("must call the same functions" in str(one) for one in outcomes), outcomes


def test_tensors_with_other_strides_are_reduced_by_place() -> None:
    def work(ranks: Ranks) -> Any:
        tensor = torch.arange(6.0).reshape(2, 3)
        return ranks.reduce(tensor if ranks.first else tensor.T.contiguous().T, "sum").tolist()

    assert in_processes(2, work) == [(2 * torch.arange(6.0).reshape(2, 3)).tolist()] * 2


def test_gradients_of_different_networks_are_not_averaged() -> None:
    def work(ranks: Ranks) -> None:
        weight = torch.ones(2 + ranks.rank)
        weight.grad = torch.ones_like(weight)
        ranks.average_gradients([weight], 1.0)

    outcomes = in_processes(2, work)
    assert any("gradients of 1 parameters with 2 numbers" in str(one) for one in outcomes), outcomes


def test_a_buffer_that_training_uses_is_resumed_in_each_process(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        network = run.prepare(Follows())
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        run.track(network=network, optimiser=optimiser)
        for step in run.steps(12):
            x = torch.randn(8, 2, generator=step.generator("x"))[step.shard(8)]
            step.optimise(network(x).square().mean(), optimiser)

    def once(place: str, earlier: tuple[str, ...] = (), calls: int = 99, **settings: Any) -> Any:
        reasons = iter([None] * calls + ["preempted"] * 9)
        chosen = dataclasses.replace(SETTINGS, **settings)
        paths = tuple(tmp_path / one for one in earlier)
        return in_processes(
            2,
            lambda ranks: attempt(study, tmp_path / place, ranks, paths, chosen, lambda: next(reasons)),
        )[0]

    whole, often = once("whole"), once("often", save_minutes=0.0)
    assert not once("1", calls=9).finished
    resumed = once("2", ("1",))
    assert whole.final_hash == often.final_hash == resumed.final_hash is not None


class Follows(torch.nn.Module):
    """A layer whose input is shifted by a mean over earlier batches, which each process has of its own part."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.3)
        made: torch.Tensor = self.layer(x - self.mean)
        return made


@pytest.mark.parametrize("action", ["record", "reduce", "diverged", "keep_checkpoint"])
def test_processes_at_different_places_find_out_at_once(tmp_path: Path, action: str) -> None:
    began = time.monotonic()
    outcomes = train(tmp_path, Parallel(on_step=only_second(action)))
    assert time.monotonic() - began < 20
    assert all(isinstance(one, RoundhouseError) for one in outcomes)
    assert any("must call the same functions of `run` and `step`" in str(one) for one in outcomes), outcomes


def test_different_numbers_of_watched_losses_are_reported(tmp_path: Path) -> None:
    def on_step(run: Run, step: Step, number: int) -> None:
        for _ in range(1 + run.rank):
            step.watch(torch.ones(()))

    outcomes = train(tmp_path, Parallel(on_step=on_step))
    assert all(
        "have watched different numbers of losses: call step.watch equally often" in str(one) for one in outcomes
    )


def test_a_study_that_is_not_written_for_several_processes_is_refused(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        for _ in run.steps(3):
            pass

    outcomes = in_processes(2, lambda ranks: attempt(study, tmp_path, ranks))
    assert all("has not called run.prepare(model)" in str(one) for one in outcomes)


def test_parts_that_differ_between_the_processes_are_found_before_they_are_saved(tmp_path: Path) -> None:
    def study(run: Run) -> None:
        network = run.prepare(torch.nn.Linear(2, 1))
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        run.track(network=network)
        for _ in run.steps(3):
            network(torch.ones(1, 2) * (run.rank + 1)).sum().backward()
            optimiser.step()  # not step.update

    outcomes = in_processes(2, lambda ranks: attempt(study, tmp_path, ranks))
    assert all("the tracked part 'network' differs between process 0 and process 1" in str(one) for one in outcomes)
    assert not (tmp_path / "checkpoint.pth").exists()


def test_a_warning_says_that_all_processes_train_on_the_same_samples(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def study(run: Run) -> None:
        network = run.prepare(torch.nn.Linear(2, 1))
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        run.track(network=network)
        for step in run.steps(120):
            step.optimise(network(torch.randn(4, 2, generator=step.generator("x"))).square().mean(), optimiser)

    assert all(one.finished for one in in_processes(2, lambda ranks: attempt(study, tmp_path, ranks)))
    assert capfd.readouterr().err.count("losses in a row are the same in all processes") == 1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.integers(0, 19), st.integers(1, 5))
def test_a_fingerprint_changes_with_any_value_and_not_with_the_place_in_memory(
    values: list[int], place: int, by: int
) -> None:
    tensor = torch.tensor(values, dtype=torch.float16)
    inside = torch.cat([torch.zeros(1, dtype=torch.float16), tensor])[1:]
    assert fingerprint({"a": [tensor, 1]}) == fingerprint({"a": [inside, 1]})
    other = tensor.clone()
    other[place % len(values)] += by
    assert fingerprint({"a": [tensor, 1]}) != fingerprint({"a": [other, 1]})
    assert fingerprint({"a": [tensor, 1]}) != fingerprint({"a": [tensor, 2]})

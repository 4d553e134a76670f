"""Batches as large as memory allows, in the fewest parts that fit or larger than asked; a resume keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_study import metrics_of, train, with_settings
from torch import nn

from roundhouse.errors import RoundhouseError
from roundhouse.options import check_batch
from roundhouse.training import BatchPlan, Run, in_parts, plan_batch
from roundhouse.training.execute import Attempt, Hooks, Outcome, Start, execute
from roundhouse.training.parts import doubled, fits, last_fitting
from roundhouse.training.reproducibility import global_states

PROBED = "roundhouse.training.parts.PROBED"
DATA = torch.randn(96, 3, generator=torch.Generator().manual_seed(1))


class Memory:
    """A device on which at most `room` samples fit, and what was attempted there."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.attempts: list[int] = []

    def use(self, samples: int) -> None:
        self.attempts.append(samples)
        if samples > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is treated like a GPU: a lack of memory is an error there."""
    monkeypatch.setattr(PROBED, ("cuda", "cpu"))


def fitted(memory: Memory, plans: list[BatchPlan], **config: Any) -> Callable[[Run], None]:
    """A study that plans its batches, with running statistics, and draws from the global generators."""

    def study(run: Run) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        run.track(model=model, optimiser=optimiser)

        def attempt(size: int) -> None:
            memory.use(size)
            model(torch.randn(size, 3)).square().mean().backward()

        plan = plan_batch(run, attempt, [model], **config)
        plans.append(plan)
        for epoch in run.epochs(2):
            for step, batch in epoch.batches(torch.split(DATA, plan.size)):
                optimiser.zero_grad()
                for rows, share in plan.parts_of(len(batch)):
                    assert len(batch[rows]) <= memory.room
                    noise = torch.rand(len(batch[rows]), 3)
                    step.backward(share * model(batch[rows] + noise).square().mean())
                step.update(optimiser)
            run.record(**plan.metrics)
        run.finish()

    return study


def run_fitted(
    directory: Path, memory: Memory, plans: list[BatchPlan], earlier: tuple[Path, ...] = (), **config: Any
) -> Outcome:
    stop_at, accumulate = config.pop("stop_at", None), config.pop("accumulate", 1)
    settings = with_settings(accumulate=accumulate)
    return train(directory, fitted(memory, plans, **config), settings, earlier, stop_at=stop_at)


# The search


@given(st.integers(1, 500), st.integers(1, 500))
def test_the_parts_of_a_batch_cover_it_in_order_and_their_shares_add_up_to_one(count: int, size: int) -> None:
    parts = list(in_parts(count, size))
    assert [index for rows, _ in parts for index in range(count)[rows]] == list(range(count))
    assert all(0 < rows.stop - rows.start <= size for rows, _ in parts)
    assert all(share == (rows.stop - rows.start) / count for rows, share in parts)
    assert len(parts) == -(-count // size)
    assert size < count or parts[0][1] == 1.0


@given(st.integers(1, 300), st.integers(0, 10_000), st.integers(0, 12_000))
def test_a_batch_is_doubled_as_often_as_it_fits_and_is_allowed(asked: int, more: int, room: int) -> None:
    tried: list[int] = []

    def fit(size: int) -> bool:
        tried.append(size)
        return size <= room

    found = last_fitting(doubled(asked, asked + more), fit)
    factor = found // asked
    assert found == asked * factor and factor.bit_count() == 1
    assert found <= asked + more
    assert found <= room or found == asked
    assert 2 * found > min(room, asked + more)
    assert max(tried, default=0) <= max(asked, 2 * room)  # nothing far above what fits
    assert tried == sorted(set(tried))


def test_only_a_lack_of_memory_means_that_a_size_does_not_fit() -> None:
    assert fits(Memory(8).use, 8)
    assert not fits(Memory(8).use, 9)

    def wrong(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fits(wrong, 1)


# In a run


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize(("room", "size", "parts", "tried"), [
    (5, 16, 4, [16, 16, 8, 4]), (16, 16, 1, [16, 32, 16]), (40, 32, 1, [16, 32, 64, 32]), (999, 64, 1, [16, 32, 64, 64])
])  # fmt: skip
def test_a_batch_is_first_enlarged_and_otherwise_computed_in_the_fewest_parts(
    tmp_path: Path, room: int, size: int, parts: int, tried: list[int]
) -> None:
    memory, plans = Memory(room), list[BatchPlan]()
    outcome = run_fitted(tmp_path, memory, plans, batch_size=16, accumulation="auto", largest_batch=96)
    assert outcome.finished
    assert plans == [BatchPlan(size, parts, -(-size // parts), {"effective_batch": size, "accumulation": parts})]
    assert memory.attempts == tried
    recorded = metrics_of(tmp_path)["epochs"]
    assert [(one["effective_batch"], one["accumulation"]) for one in recorded] == [(size, parts)] * 2


@pytest.mark.usefixtures("probed")
def test_with_a_number_of_parts_a_batch_grows_until_one_part_does_not_fit(tmp_path: Path) -> None:
    plans: list[BatchPlan] = []
    run_fitted(tmp_path, Memory(20), plans, batch_size=16, accumulation=2, largest_batch=96)
    assert [(one.size, one.parts, one.part) for one in plans] == [(32, 2, 16)]


@pytest.mark.parametrize("config", [{}, {"accumulation": "auto"}, {"largest_batch": 96}])
def test_on_a_cpu_nothing_is_tried_and_the_batch_is_the_one_that_was_asked_for(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    memory, plans = Memory(999), list[BatchPlan]()
    outcome = run_fitted(tmp_path / "1", memory, plans, batch_size=16, **config)
    assert memory.attempts == []
    assert [(one.size, one.parts) for one in plans] == [(16, 1)]
    whole = run_fitted(tmp_path / "2", memory, plans, batch_size=16)
    assert outcome.finished and weights(tmp_path / "1") == weights(tmp_path / "2")
    assert plans[-1].metrics == {} and whole.finished


@pytest.mark.usefixtures("probed")
def test_attempts_change_nothing_that_training_uses(tmp_path: Path) -> None:
    run_fitted(tmp_path / "tried", Memory(16), [], batch_size=16, accumulation="auto", largest_batch=96)
    run_fitted(tmp_path / "asked", Memory(16), [], batch_size=16)
    assert weights(tmp_path / "tried") == weights(tmp_path / "asked")


@pytest.mark.usefixtures("probed")
def test_an_attempt_leaves_no_gradients_and_the_generators_as_they_were(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(3)

    def attempt(size: int) -> None:
        (model(torch.randn(size, 3)).square().sum()).backward()
        Memory(16).use(size)

    def study(run: Run) -> None:
        before = global_states()["torch"].clone(), model.running_mean.clone()  # type: ignore[union-attr]
        plan_batch(run, attempt, [model], 16, "auto", 64)
        assert torch.equal(global_states()["torch"], before[0])
        assert torch.equal(model.running_mean, before[1])  # type: ignore[arg-type]
        assert model.weight.grad is None
        list(run.steps(1))
        run.finish()

    assert train(tmp_path, study).finished


def weights(directory: Path) -> str:
    """The state of the model, as text."""
    parts = torch.load(directory / "checkpoint.pth", weights_only=True)["parts"]
    return repr({name: value.tolist() for name, value in parts["model"].items()})


# Over resumes


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize("room", [5, 40])
def test_a_resume_keeps_batch_and_parts_and_gives_the_same_bits(tmp_path: Path, room: int) -> None:
    config: dict[str, Any] = {"batch_size": 16, "accumulation": "auto", "largest_batch": 96}
    plans: list[BatchPlan] = []
    straight = run_fitted(tmp_path / "straight", Memory(room), plans, **config)
    folders: list[Path] = []
    for stop_at in (1, 3, 4):
        here = tmp_path / str(stop_at)
        assert not run_fitted(here, Memory(room), plans, tuple(folders), stop_at=stop_at, **config).finished
        folders.append(here)
    again = Memory(4 * room)  # a larger GPU
    last = run_fitted(tmp_path / "last", again, plans, tuple(folders), **config)
    assert last.finished and last.exact
    assert last.final_hash == straight.final_hash
    assert len({(one.size, one.parts) for one in plans}) == 1
    assert again.attempts == [plans[0].part]  # one, to see whether it still fits


@pytest.mark.usefixtures("probed")
def test_a_resume_with_less_memory_keeps_the_batch_in_more_parts_and_is_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = {"batch_size": 16, "accumulation": "auto", "largest_batch": 96}
    plans: list[BatchPlan] = []
    run_fitted(tmp_path / "1", Memory(40), plans, stop_at=2, **config)
    second = run_fitted(tmp_path / "2", Memory(9), plans, (tmp_path / "1",), stop_at=4, **config)
    third = run_fitted(tmp_path / "3", Memory(40), plans, (tmp_path / "1", tmp_path / "2"), **config)
    assert [(one.size, one.parts) for one in plans] == [(32, 1), (32, 4), (32, 4)]
    assert not second.exact and third.finished and not third.exact
    assert "resume is approximate: a batch is computed in 4 parts instead of 1" in capsys.readouterr().err


@pytest.mark.usefixtures("probed")
def test_a_batch_that_another_run_has_found_is_not_adopted(tmp_path: Path) -> None:
    """Such as that of a run with another config, or of the run whose weights this one starts from."""
    plans: list[BatchPlan] = []
    run_fitted(tmp_path / "1", Memory(40), plans, stop_at=1, batch_size=16, largest_batch=96)
    run_fitted(tmp_path / "2", Memory(40), plans, (tmp_path / "1",), batch_size=12, largest_batch=20)
    assert [one.size for one in plans] == [32, 12]


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize("config", [{"largest_batch": 96}, {"accumulation": "auto", "largest_batch": 96}])
def test_a_run_that_starts_from_the_weights_of_another_one_finds_its_own_batch(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    plans: list[BatchPlan] = []
    run_fitted(tmp_path / "1", Memory(40), plans, batch_size=16, **config)
    start = Start(tmp_path / "1/checkpoint.pth", keeps_position=False)
    hooks = Hooks(lambda session: None, lambda session: None, lambda: None)
    study = fitted(Memory(17), plans, batch_size=16, **config)
    (tmp_path / "2").mkdir()
    assert execute(study, with_settings(), Attempt(tmp_path / "2", start=start), hooks).finished
    assert [(one.size, one.parts) for one in plans] == [(32, 1), (16, 1)]


@pytest.mark.usefixtures("probed")
def test_parts_are_multiplied_after_memory_ran_out_nevertheless(tmp_path: Path) -> None:
    plans: list[BatchPlan] = []
    run_fitted(tmp_path / "1", Memory(8), plans, batch_size=16, accumulation="auto", stop_at=1)
    run_fitted(tmp_path / "2", Memory(8), plans, (tmp_path / "1",), batch_size=16, accumulation="auto", accumulate=2)
    run_fitted(tmp_path / "3", Memory(8), plans, batch_size=16, accumulation=2, accumulate=2)
    assert [one.parts for one in plans] == [2, 4, 4]


def test_a_batch_has_no_more_parts_than_samples(tmp_path: Path) -> None:
    plans: list[BatchPlan] = []

    def study(run: Run) -> None:
        plans.extend(plan_batch(run, Memory(9).use, [], 3, accumulation) for accumulation in (2, "auto"))
        list(run.steps(1))
        run.finish()

    assert train(tmp_path, study, with_settings(accumulate=4)).finished
    assert [one.parts for one in plans] == [3, 3]


@pytest.mark.usefixtures("probed")
def test_a_sample_that_does_not_fit_alone_is_an_error(tmp_path: Path) -> None:
    memory = Memory(0)
    with pytest.raises(RoundhouseError, match="a batch does not fit into memory in 6 parts: CUDA out of memory"):
        run_fitted(tmp_path, memory, [], batch_size=6, accumulation="auto")
    assert memory.attempts == [6, 3, 2, 1]


@pytest.mark.parametrize(("values", "message"), [
    ((8, 0), "'accumulation' is 0; it must be auto, or lie between 1 and batch_size, which is 8"),
    ((8, 9), "'accumulation' is 9"),
    ((8, "most"), "unknown accumulation 'most'"),
    ((8, 1, 7), "'largest_batch' is 7; it must not be below batch_size, which is 8"),
])  # fmt: skip
def test_a_batch_that_cannot_be_cut_or_enlarged_so_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RoundhouseError, match=message):
        check_batch(*values)
    check_batch(8, 8, 8)

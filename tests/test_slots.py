"""Which part of a machine each job gets: no part is assigned twice, and no job waits that can never run."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import wait_for

from roundhouse.machine.pool import Pool
from roundhouse.machine.slots import SEPARATOR, Layout, Room, Slot
from roundhouse.model.answers import Identity, Jobs, Refused, Submitted
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.allocation_slots import AllocationSlots
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.local import Local

layouts = st.builds(
    Layout,
    gpus=st.lists(st.sampled_from(["0", "1", "2", "GPU-8f3", "MIG-GPU-8f3/1/0"]), unique=True).map(tuple),
    per_gpu=st.integers(1, 3),
    cpu_slots=st.integers(1, 4),
    cores=st.integers(1, 64),
    most=st.none() | st.integers(1, 12),
)
needs = st.builds(Resources, ngpus=st.integers(0, 4))


def fill(layout: Layout, jobs: list[Resources]) -> list[Slot]:
    """The slots of those jobs that get one."""
    slots: list[Slot] = []
    for need in jobs:
        slot = layout.choose(need, taken(slots))
        slots += [slot] if slot else []
    return slots


def taken(slots: list[Slot]) -> set[str]:
    return {place for slot in slots for place in slot.name.split(SEPARATOR)}


@given(layouts, st.lists(needs, max_size=20))
def test_no_place_is_assigned_twice_and_no_whole_gpu_is_shared(layout: Layout, jobs: list[Resources]) -> None:
    slots = fill(layout, jobs)
    places = [place for slot in slots for place in slot.places]
    assert len(places) == len(set(places))
    for slot in slots:
        for gpu in slot.gpus or ():
            users = [other for other in slots if gpu in (other.gpus or ())]
            assert len(users) <= (1 if len(slot.gpus or ()) > 1 else layout.per_gpu)


@given(layouts, st.lists(needs, max_size=20))
def test_a_job_gets_as_many_gpus_as_it_requests_and_a_job_that_requests_none_sees_none(
    layout: Layout, jobs: list[Resources]
) -> None:
    for need in jobs:
        slot = layout.choose(need, set())
        if slot is not None and layout.gpus:
            assert len(slot.gpus or ()) == need.ngpus
            assert set(slot.gpus or ()) <= set(layout.gpus)
        elif slot is not None:
            assert slot.gpus is None, "on a machine without GPUs nothing is hidden"


@given(layouts, needs)
def test_exactly_the_jobs_that_do_not_fit_into_an_empty_machine_are_refused(layout: Layout, need: Resources) -> None:
    assert (layout.choose(need, set()) is None) == bool(layout.refusal(need))


@given(layouts, st.lists(needs, max_size=20))
def test_threads_are_never_more_than_the_cores_unless_each_job_has_one(layout: Layout, jobs: list[Resources]) -> None:
    """GPU jobs and others do not count against each other, unless all are counted."""
    for on_gpus in (True, False):
        same = [need for need in jobs if bool(need.ngpus and layout.gpus) == on_gpus]
        slots = fill(layout, same)
        assert sum(slot.threads * max(1, len(slot.gpus or ())) for slot in slots if slot.threads > 1) <= layout.cores
    if layout.most is not None:
        slots = fill(layout, jobs)
        assert len(slots) <= layout.most
        assert sum(slot.threads * max(1, len(slot.gpus or ())) for slot in slots if slot.threads > 1) <= layout.cores


@given(layouts, st.lists(needs, min_size=1, max_size=20), st.data())
def test_every_job_starts_eventually_whatever_else_is_submitted(
    layout: Layout, jobs: list[Resources], data: st.DataObject
) -> None:
    """Simulated passes: in each, some jobs end and new small jobs are submitted."""
    waiting = [need for need in jobs if not layout.refusal(need)]
    running = fill(layout, data.draw(st.lists(needs, max_size=10)))
    first = len(waiting)
    for _ in range(200):
        if not first:
            return
        room, left = Room(layout, taken(running)), []
        for number, need in enumerate([*waiting, Resources(ngpus=1), Resources()]):
            slot = layout.choose(need, taken(running) | room.kept) if room.take(need) else None
            if slot is not None:
                running.append(slot)
                first -= number < first
            elif number < len(waiting):
                left.append(need)
        waiting = left
        if running:
            running.pop(data.draw(st.integers(0, len(running) - 1)))
    raise AssertionError(f"still waiting: {waiting[:first]}")


def test_jobs_are_spread_over_the_gpus_before_they_share_them() -> None:
    layout = Layout(("0", "1"), 2, 1, 8)
    assert [slot.gpus for slot in fill(layout, [Resources(ngpus=1)] * 5)] == [("0",), ("1",), ("0",), ("1",)]


def test_a_gpu_with_jobs_of_a_runner_with_a_larger_per_gpu_is_not_used_whole() -> None:
    layout = Layout(("0", "1"), 1, 1, 8)
    assert layout.choose(Resources(ngpus=2), {"gpu 1/5"}) is None
    assert layout.choose(Resources(ngpus=1), {"gpu 0"}) == Slot(("gpu 1/0",), ("1",), 4)


def test_a_waiting_large_job_blocks_later_small_ones_except_those_without_a_gpu() -> None:
    room = Room(Layout(("0", "1"), 1, 1, 8), {"gpu 0/0"})
    assert [room.take(Resources(ngpus=count)) for count in (2, 1, 0, 0)] == [False, False, True, False]
    room = Room(Layout(("0", "1"), 1, 2, 8, most=2), {"gpu 0/0"})
    assert [room.take(Resources(ngpus=count)) for count in (2, 1, 0)] == [False, False, False]


def test_later_jobs_share_the_gpus_that_a_waiting_large_job_does_not_need() -> None:
    layout = Layout(("0", "1", "2", "3"), 2, 1, 8)
    room = Room(layout, {"gpu 0/0", "gpu 1/0", "gpu 2/0"})
    started = [room.take(Resources(ngpus=count)) for count in (2, 1, 1, 1, 2)]
    assert started == [False, True, True, False, False], "GPUs 3 and 0 are kept for the first"
    assert {place for place in room.taken if place.endswith("/1")} == {"gpu 1/1", "gpu 2/1"}


def test_the_cores_are_divided_among_the_slots() -> None:
    allocation = Layout(("0", "1", "2", "3"), per_gpu=2, cpu_slots=8, cores=32, most=8)
    assert [
        slot.threads for need in (0, 1, 2, 4) if (slot := allocation.choose(Resources(ngpus=need), set()))
    ] == [4, 4, 8, 8]  # fmt: skip


def test_two_allocations_on_one_node_do_not_use_each_others_places() -> None:
    first, second = (Layout((), 1, 1, 8, 1, home=f"{job} ") for job in (7, 8))
    slot = first.choose(Resources(), set())
    assert slot is not None
    assert first.choose(Resources(), set(slot.places)) is None
    assert second.choose(Resources(), set(slot.places)) is not None


@pytest.mark.parametrize(("gpus", "found"), [((), "none was found"), (("0",), "1 can be used")])
def test_a_job_that_requests_more_gpus_than_there_are_is_refused_immediately(gpus: tuple[str, ...], found: str) -> None:
    layout = Layout(gpus, 1, 1, 8)
    answer = Local(Pool(layout)).submit(None, None, "rh", Resources(ngpus=4))  # type: ignore[arg-type]
    assert isinstance(answer, Refused)
    assert not answer.later
    assert found in answer.why
    assert "requests 4 GPUs" in answer.why
    assert Room(layout, set()).take(Resources(ngpus=4)), "it may start, and is then refused"


def test_a_started_job_occupies_its_place_even_if_its_token_is_not_found(tmp_path: Path) -> None:
    """The environment of a process may be unreadable or not yet set."""
    started: list[subprocess.Popen[bytes]] = []

    def launch(script: Path, environ: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    slots = AllocationSlots(
        Pool(Layout((), 1, 2, 2, most=2, home=f"{tmp_path} "), launch), Identity("slurm", "c", "me"), "7"
    )
    script = tmp_path / "job.sh"
    try:
        answers = [slots.submit(no_command, script, token, Resources()) for token in ("a", "b", "c")]
        assert answers[:2] == [Submitted("7"), Submitted("7")]
        assert isinstance(answers[2], Refused)
        assert len({place for _, slot in slots.pool._started.values() for place in slot.places}) == 2
        started.pop(0).kill()
        wait_for(slots.pool.reap, "the first has ended")
        seen = slots.query(no_command, (), ())
        assert isinstance(seen, Jobs)
        assert {job.name for job in seen.jobs} >= {"b"}
        assert "a" not in {job.name for job in seen.jobs}
        room = slots.room
        assert room.take(Resources())
        assert not room.take(Resources()), "b has the other place"
    finally:
        for process in started:
            process.kill()
            process.wait()


def no_command(argv: Sequence[str]) -> Output:
    raise AssertionError(argv)

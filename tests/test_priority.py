"""The order in which experiments start: higher priority first; what a higher one cannot use now goes to lower ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rounds_for_tests import REPOSITORY, Rounds, finish, rounds, wait_for  # noqa: F401
from test_allocation_counts import Listing, Packed, packed  # noqa: F401

from roundhouse.config.site import Site
from roundhouse.engine import allocations, one_pass
from roundhouse.engine.context import PassContext
from roundhouse.model.experiment import Experiment, Pack, Resources
from roundhouse.store import record


def noting(notes: Path, then: str = "") -> list[str]:
    """A command that adds its name to the file `order`. If it begins with `slow`, it waits for the file `go`."""
    wait = f"case {{name}} in slow*) while [ ! -e {notes}/go ]; do sleep 0.05; done;; esac"
    return ["bash", "-c", f"echo {{name}} >> {notes}/order; {wait}; {then or 'true'}"]


def test_a_lower_priority_fills_a_slot_while_a_higher_one_waits_for_its_inputs(rounds: Rounds) -> None:  # noqa: F811
    command = noting(rounds.notes)
    rounds.write(
        {
            "low": {"path": "low/{name}", "grid": {"name": ["l1", "l2"]}, "priority": -1, "command": command},
            "high": {"path": "high", "config": {"name": "high"}, "priority": 5, "command": command, "after": ["input"]},
            "input": {"path": "input", "config": {"name": "slow"}, "priority": 1, "command": command},
            "middle": {"path": "middle", "config": {"name": "middle"}, "command": command},
        }
    )
    runner = rounds.start()  # with two slots
    wait_for(lambda: len(rounds.lines("order")) == 4, "all but the highest ran while its input is made")
    assert [name for name in rounds.lines("order") if name != "slow"] == ["middle", "l1", "l2"]
    assert rounds.states()["high"] == "pending"
    (rounds.notes / "go").touch()
    assert finish(runner)[0] == 0
    assert rounds.lines("order")[-1] == "high"


def test_a_lower_priority_shares_a_gpu_that_a_waiting_large_experiment_does_not_need(
    rounds: Rounds,  # noqa: F811
) -> None:
    rounds.extra["CUDA_VISIBLE_DEVICES"] = ",".join([*rounds.gpus, f"GPU-{rounds.mark}-2"])
    command = noting(rounds.notes, f"echo {{name}} $CUDA_VISIBLE_DEVICES >> {rounds.notes}/gpus")
    rounds.write(
        {
            "held": {"path": "{name}", "grid": {"name": ["slow1", "slow2", "slow3"]}, "priority": 9,
                     "command": command},
            "large": {"path": "large", "config": {"name": "large"}, "priority": 5, "command": command,
                      "resources": {"ngpus": 2}},
            "small": {"path": "{name}", "grid": {"name": ["s1", "s2"]}, "command": command},
        }
    )  # fmt: skip
    runner = rounds.start("--jobs-per-gpu", "2")
    wait_for(lambda: len(rounds.lines("gpus")) == 2, "the small ones ran")
    (first, gpu), (second, other) = (line.split() for line in rounds.lines("gpus"))
    assert (first, second) == ("s1", "s2"), "one after the other"
    assert gpu == other, "on the GPU that is not kept for the large one"
    assert rounds.states()["large"] == "pending"
    (rounds.notes / "go").touch()
    assert finish(runner)[0] == 0
    assert rounds.states()["large"] == "completed"


def test_the_slots_of_an_allocation_take_the_highest_priority_that_can_start(packed: Packed, tmp_path: Path) -> None:  # noqa: F811
    command = noting(tmp_path)
    names = ["l1", "h1", "l2", "h2"]
    groups = {
        "all": {"path": "{name}", "grid": {"name": names}, "priority": "5 if name in ['h1', 'h2'] else 0",
                "command": command},
        "first": {"path": "first", "config": {"name": "first"}, "priority": 9, "command": command, "after": ["last"]},
        "last": {"path": "last", "config": {"name": "last"}, "priority": -1, "command": command},
    }  # fmt: skip
    packed.agent(groups, 1).run()
    assert (tmp_path / "order").read_text().split() == ["h1", "h2", "l1", "l2", "last", "first"]


@pytest.mark.parametrize(
    ("high", "limit", "singles", "allocated"), [("single", 2, 2, 0), ("single", 3, 2, 1), ("packed", 2, 1, 1)]
)
def test_within_a_limit_of_jobs_the_highest_priority_is_submitted_first_packed_or_not(
    tmp_path: Path, high: str, limit: int, singles: int, allocated: int
) -> None:
    scheduler: Any = Listing()
    run: Any = None
    packing = Resources(ncpus=2, pack=Pack(slots=2), max_running=1)
    experiments = [Experiment("r", "p", f"p/{n}", "s", {"n": n}, packing, priority=high == "packed") for n in range(3)]
    experiments += [Experiment("r", "s", f"s/{n}", "s", {"n": n}, priority=high == "single") for n in range(2)]
    context = PassContext(tmp_path, REPOSITORY, Site(), scheduler, run, "python", limit, analysis=tmp_path / "analysis")
    statuses = one_pass.run_pass(context, experiments).statuses
    alone = [one for one in statuses if one.experiment.group == "s" and one.action.state == "in_progress"]
    made = [place for place in (tmp_path / "r").glob(".jobs/*") if allocations.read(place)]
    assert (len(alone), len(made)) == (singles, allocated)
    again = one_pass.run_pass(context, experiments).statuses
    reasons = {one.action.reason for one in again if one.experiment.group == "p"}
    assert all(reason.startswith("waits for a slot in allocation" if made else "limit reached") for reason in reasons)


def test_an_array_takes_no_experiment_of_lower_priority_than_one_that_is_not_in_it(tmp_path: Path) -> None:
    scheduler: Any = Listing()
    run: Any = None
    array, other = Resources(array=True), Resources(ncpus=2)
    experiments = [Experiment("r", "a", f"a/{n}", "s", {"n": n}, array, priority=n) for n in (0, 1, 5, 6, 7)]
    experiments += [Experiment("r", "o", "o", "s", {}, other, priority=5)]
    context = PassContext(tmp_path, REPOSITORY, Site(), scheduler, run, "python", analysis=tmp_path / "analysis")
    one_pass.run_pass(context, experiments)
    jobs = {one.path: record.read(tmp_path / "r" / one.path).attempts[0].job_id for one in experiments}
    assert jobs == {"a/7": "1_0", "a/6": "1_1", "a/5": "1_2", "o": "2", "a/1": "3_0", "a/0": "3_1"}

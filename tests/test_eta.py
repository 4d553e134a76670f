"""Hours used and left, and the ETA: never invented, never negative, whatever the clocks say."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.plan import Action, Inputs, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.views import eta
from roundhouse.views.eta import Estimate, Range, Workload, sentence, workload_of
from roundhouse.views.measured import LONGEST, counter_of, spans
from roundhouse.views.progress_bar import Display

NOW = 1.8e9
HOUR = 3600.0


def done(path: str, seconds: float, group: str = "g", **more: Any) -> Workload:
    return work(path, ahead=False, completed=True, seconds=seconds, runs=1, group=group, **more)


def running(path: str, left: int = 0, pace: float | None = None, **more: Any) -> Workload:
    planned = 10 + left if pace is not None else None
    return work(path, running=True, done=10, planned=planned, pace=pace, **{"runs": 1, **more})


def work(path: str, group: str = "g", dataset: str = "", **more: Any) -> Workload:
    plain = Workload(path, ahead=True, running=False, completed=False, seconds=0.0, runs=0, done=0, planned=None,
                     pace=None, gpus=0, cores=1, like=((group, dataset), (group,), ()))  # fmt: skip
    return plain._replace(**more)


def of(*works: Workload) -> Estimate:
    return eta.estimate(works)


# ------------------------------------------------------------------------------------------------- what is left

durations = st.floats(0, 1e6)
like = st.sampled_from(["a", "b"])


@st.composite
def rounds(draw: st.DrawFn) -> list[Workload]:
    """Experiments of every kind; each may depend on earlier ones in the list."""
    made: list[Workload] = []
    for number in range(draw(st.integers(0, 12))):
        path, group, gpus = str(number), draw(like), draw(st.integers(0, 2))
        kind = draw(st.sampled_from(["done", "running", "pending", "requeued"]))
        if kind == "done":
            made.append(done(path, draw(durations), group, gpus=gpus))
            continue
        before = [one.path for one in made if one.ahead and draw(st.booleans())] if kind == "pending" else []
        pace = draw(st.none() | st.floats(0, 1e4)) if kind != "pending" else None
        planned = draw(st.integers(1, 100)) if pace is not None else None
        made.append(
            work(path, group, running=kind == "running", seconds=draw(durations), runs=int(kind != "pending"),
                 pace=pace, planned=planned, done=draw(st.integers(0, 120)), gpus=gpus, after=tuple(before))
        )  # fmt: skip
    return made


def in_order(found: Range | None) -> bool:
    if found is None:
        return True
    slack = 1e-6 * max(1.0, found.usual)
    return 0 <= found.low <= found.usual + slack and found.usual <= found.high + slack


@given(rounds())
def test_nothing_is_ever_negative_and_bounds_are_in_order(works: list[Workload]) -> None:
    found = of(*works)
    assert found.used >= 0
    assert in_order(found.left)
    assert in_order(found.end)
    assert math.isfinite(found.used)
    assert not re.search(r"-\d|nan|inf", sentence(found, NOW))


@given(rounds())
def test_without_a_measurement_there_is_no_estimate(works: list[Workload]) -> None:
    unmeasured = [one._replace(pace=None) for one in works if not one.completed]
    found = of(*unmeasured)
    assert found.measured == 0
    if unmeasured:
        assert found.end is None
        assert found.left is None
        assert found.uncounted == len(unmeasured)


@given(rounds(), st.integers(0, 11), st.floats(0, 1e5))
def test_more_remaining_epochs_never_make_the_eta_earlier(works: list[Workload], which: int, more: float) -> None:
    own = [number for number, one in enumerate(works) if one.pace is not None]
    if not own or any(one.completed for one in works):
        return  # durations of others would change with it, or not rest on it
    works = [one if one.pace is not None else one._replace(pace=1.0, planned=100) for one in works]
    number = own[which % len(own)]
    longer = [*works]
    longer[number] = works[number]._replace(planned=(works[number].planned or 0) + int(more))
    before, after = of(*works), of(*longer)
    if before.end is not None and after.end is not None:
        assert after.end.low >= before.end.low * (1 - 1e-9)
        assert after.end.usual >= before.end.usual * (1 - 1e-9)
        assert after.end.high >= before.end.high * (1 - 1e-9)


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=20), st.integers(1, 5))
def test_a_list_schedule_ends_between_the_bounds(waiting: list[float], at_once: int) -> None:
    works = [running(f"r{number}", 0, 0.0) for number in range(at_once)]
    works += [work(f"w{number}", pace=1.0, planned=round(one)) for number, one in enumerate(waiting)]
    free = [0.0] * at_once
    for one in waiting:
        free.sort()
        free[0] += round(one)
    found = of(*works).end
    assert found is not None
    assert found.low * 0.999 <= max(free) <= found.high * 1.001


def test_its_own_pace_counts_and_any_part_of_the_running_epoch_may_be_left() -> None:
    found = of(running("a", left=6, pace=600, gpus=2))
    assert found.end == Range(3000, 3600, 3600)
    assert found.left == Range(2 * 3000 / 3600, 2, 2)
    assert found.unit == "GPU-hours"


def test_a_pending_experiment_takes_as_long_as_its_kind_else_its_group_else_the_round() -> None:
    took = [done("1", HOUR, dataset="x"), done("2", 2 * HOUR, dataset="y"), done("3", 5 * HOUR, "other")]
    assert of(*took, running("r", 0, 0.0), work("n", dataset="x")).left == Range(1, 1, 1)
    assert of(*took, running("r", 0, 0.0), work("n", dataset="z")).left == Range(1, 1.5, 2)
    assert of(*took, running("r", 0, 0.0), work("n", "third")).left == Range(1, 2, 5)


def test_before_anything_is_completed_running_experiments_are_extrapolated() -> None:
    found = of(running("r", left=10, pace=60, seconds=600), work("n"))
    assert found.left is not None
    assert found.left.usual == pytest.approx((600 + 600 + 600) / 3600)


def test_an_experiment_that_has_run_longer_than_all_others_has_no_upper_bound() -> None:
    found = of(done("c", HOUR), running("r", seconds=2 * HOUR))
    assert found.end == Range(0, 0, math.inf)
    assert sentence(found, NOW).endswith("No ETA: a running experiment has taken longer than all measured ones.")


def test_a_student_runs_after_its_teacher_however_many_run_at_once() -> None:
    took = [done("1", HOUR, "teacher"), done("2", 2 * HOUR, "student")]
    teacher = work("t", "teacher", running=True, runs=1)
    students = [work(f"s{number}", "student", after=("t",)) for number in range(3)]
    found = of(*took, teacher, *students).end
    assert found is not None
    assert found.low == 3 * HOUR, "all three at once, after the teacher"
    assert found.high == 7 * HOUR, "one at a time, as now"


def test_while_ready_experiments_wait_no_more_run_at_once_than_now() -> None:
    found = of(done("c", HOUR), running("r", 0, 0.0), *(work(str(number)) for number in range(4))).end
    assert found == Range(4 * HOUR, 4 * HOUR, 4 * HOUR)


def test_hours_count_gpus_or_without_any_cores() -> None:
    assert (of(done("a", HOUR, gpus=2), done("b", HOUR)).used, of(done("a", HOUR, gpus=2)).unit) == (2, "GPU-hours")
    assert (of(done("a", HOUR, cores=4)).used, of(done("a", HOUR, cores=4)).unit) == (4, "CPU-hours")


# -------------------------------------------------------------------------------------------- records and their clocks


def attempt(
    start: float, end: float | None, *, skew: float = 0.0, own: bool = True, number: int = 1, **more: Any
) -> Attempt:
    """An attempt that ran from `start` to `end` (None: it is running), on a host whose clock is `skew` ahead."""
    claim = Claim(nonce="n", at=start, started=start + skew)
    result = None if end is None else Result(Cause.COMPLETED if own else Cause.UNKNOWN, exit_code=0 if own else None,
                                             at=end + skew if own else end)  # fmt: skip
    return Attempt(number, Opened("token", {}, "hash", {}, "7", start), claim, result, **more)


def row(*attempts: Attempt, state: State = State.COMPLETED, after: tuple[str, ...] = ()) -> ExperimentStatus:
    one = Experiment("r", "g", "g/0", None, {"seed": 0}, Resources(ngpus=1), after={"t": after} if after else {})
    return ExperimentStatus(one, Record(Path("/nowhere"), attempts), Action(Verb.NOTHING, state), Inputs({}))


def pace(made: ExperimentStatus) -> float | None:
    counter = counter_of(made.record)
    return counter.seconds if counter else None


moments = st.floats(1, 4e9)
odd = st.one_of(moments, st.just(0.0), st.just(math.inf), st.just(math.nan), st.floats(-1e9, 0))


@given(moments, odd, odd, odd, st.booleans(), st.booleans())
def test_no_time_is_negative_or_absurd_whatever_the_clocks_say(
    opened: float, seen: float, started: float, end: float, own: bool, closed: bool
) -> None:
    result = Result(Cause.ERROR, exit_code=1 if own else None, at=end) if closed else None
    one = Attempt(1, Opened("t", {}, "h", {}, "7", opened), Claim(nonce="n", at=seen, started=started), result,
                  Progress(3, 10), progress_at=end)  # fmt: skip
    made = row(one, state=State.IN_PROGRESS if result is None else State.FAILED)
    assert all(0 <= last - first <= LONGEST + 1 for first, last in spans(made.record))
    assert 0 <= workload_of(made).seconds <= LONGEST + 1
    assert pace(made) is None or 0 < (pace(made) or 0) <= LONGEST


@given(st.floats(-1e6, 1e6))
def test_a_host_whose_clock_is_wrong_measures_the_same_time(skew: float) -> None:
    for one in (
        attempt(NOW, NOW + 500, skew=skew),
        attempt(NOW, NOW + 86400, skew=skew, own=False, progress_at=NOW + 500),
        attempt(NOW, None, skew=skew, progress_at=NOW + 500),
    ):
        assert workload_of(row(one)).seconds == pytest.approx(500, abs=1e-3)


def test_a_copy_that_lost_the_times_of_its_files_uses_their_content() -> None:
    copied = attempt(NOW, NOW + 500, own=False, progress_at=NOW + 9e5)
    assert copied.claim is not None
    late = replace(copied, claim=replace(copied.claim, at=NOW + 9e5))
    assert workload_of(row(late)).seconds == 500


def test_an_attempt_that_a_pass_closed_late_ends_at_its_last_heartbeat() -> None:
    closed = attempt(NOW, NOW + 86400, own=False, progress=Progress(5, 20), progress_at=NOW + 500)
    assert spans(row(closed).record) == [(NOW, NOW + 500)]
    assert workload_of(row(closed)).seconds == 500
    assert pace(row(closed)) == pytest.approx(100)
    ended = attempt(NOW, NOW + 600, progress_at=NOW + 500)
    assert workload_of(row(ended)).seconds == 600, "the job itself wrote when it ended"
    silent = attempt(NOW, NOW + 86400, own=False)
    assert workload_of(row(silent)).seconds == 0, "it has not come to its first heartbeat"


def test_without_the_time_of_a_heartbeat_the_end_of_the_attempt_is_an_upper_bound() -> None:
    """As in the history.json of older versions."""
    assert workload_of(row(attempt(NOW, NOW + 500, own=False, progress=Progress(1)))).seconds == 500


def test_a_job_without_a_heartbeat_has_used_nothing_yet() -> None:
    assert workload_of(row(attempt(NOW, None), state=State.IN_PROGRESS)).seconds == 0


def test_all_attempts_count_but_not_markers_and_what_never_started() -> None:
    void = Attempt(2, Opened("t", {}, "h", {}), Claim(void=True, cause=Cause.LIMIT, started=NOW))
    mark = Attempt(3, Opened("t", {}, "h", {}, mark=Cause.RETRY), Claim(void=True, cause=Cause.RETRY, started=NOW))
    made = row(
        attempt(NOW, NOW + 900, own=False, progress_at=NOW + 100), void, mark, attempt(NOW + 500, NOW + 700, number=4)
    )
    assert workload_of(made).seconds == 300
    assert workload_of(made).runs == 2


def test_without_a_measured_pace_the_epochs_that_an_attempt_gained_give_it() -> None:
    gained = attempt(NOW, None, progress=Progress(8, 20, started_epoch=3), progress_at=NOW + 500)
    assert pace(row(gained)) == pytest.approx(100)
    measured = replace(gained, progress=Progress(8, 20, started_epoch=3, seconds_per_epoch=90.0))
    assert pace(row(measured)) == 90
    none = replace(gained, progress=Progress(3, 20, started_epoch=3))
    assert pace(row(none)) is None


def test_on_a_terminal_the_bar_of_the_round_shows_the_eta() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    progress = Progress(4, 10, seconds_per_epoch=60.0)
    runs = row(attempt(NOW, None, progress=progress, progress_at=NOW + 240), state=State.IN_PROGRESS)
    with Display(console) as display:
        display.show([row(attempt(NOW, NOW + 1)), runs])
        assert display.tasks[0].fields["metric"].startswith("ETA: in 5 min to 6 min (")
        display.show([row(attempt(NOW, NOW + 1))])
        assert display.tasks[0].fields["metric"] == ""


def test_the_bar_of_a_run_has_its_training_loss_so_far_beside_its_metric() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    progress = Progress(4, 10, metric_name="val_loss", metric=0.25, means={"loss": 0.5, "penalty": 3.0})
    with Display(console) as display:
        display.show([row(attempt(NOW, None, progress=progress, progress_at=NOW), state=State.IN_PROGRESS)])
        assert display.tasks[1].fields["metric"] == "loss 0.5, val_loss 0.25"


# --------------------------------------------------------------------------------------------------------- output


def test_a_round_that_has_never_run_prints_nothing() -> None:
    assert sentence(of(work("a")), NOW) == ""


def test_an_unknown_eta_is_printed_with_its_reason() -> None:
    assert sentence(of(done("c", HOUR), work("a")), NOW) == (
        "1.0 CPU-hours used, about 1.0 left. No ETA yet: no experiment is running."
    )
    assert sentence(of(running("a", seconds=36)), NOW) == (
        "0.01 CPU-hours used. No ETA yet: no similar experiment was measured."
    )


def test_the_eta_is_printed_with_its_basis() -> None:
    works = [done("c1", HOUR), done("c2", 2 * HOUR), running("r", 10, 360.0), work("a"), work("b")]
    line = sentence(of(*works), NOW)
    assert line.startswith("3.0 CPU-hours used, 2.9 to 5.0 left. ETA: in 2 h 54 min to 5 h 0 min (")
    assert line.endswith("), with 1 of 3 remaining experiments running; based on 3 measured experiments.")


def test_without_some_durations_only_a_lower_bound_is_printed() -> None:
    works = [running("r", 10, 360.0), work("a")._replace(like=(("x",),))]
    line = sentence(of(*works), NOW)
    assert "at least 0.90 left. ETA: in at least 54 min, " in line
    assert ", without 1 experiment of unknown duration;" in line


def test_when_everything_has_ended_only_used_hours_are_printed() -> None:
    assert sentence(of(done("a", 250 * HOUR, gpus=1)), NOW) == "250 GPU-hours used."


def test_an_experiment_takes_as_long_as_those_with_the_most_equal_values() -> None:
    def one(path: str, **config: Any) -> tuple[str, ...]:
        return eta.kinds_of(Experiment("r", "g", path, None, {"epochs": 5, **config}))

    took = {"a": (HOUR, one("a", region="north", width=1, seed=0)), "b": (9 * HOUR, one("b", region="north", width=2))}
    took["c"] = (50 * HOUR, one("c", region="south", width=1))
    measured = [done(path, seconds)._replace(like=like) for path, (seconds, like) in took.items()]
    new = {
        "same setting": (one("n", region="north", width=2, seed=1), 9),
        "same region": (one("n", region="north", width=3), 5),
        "same group": (one("n", region="west", width=1), 9),
    }
    for why, (kinds, hours) in new.items():
        found = eta.left_of([*measured, work("n")._replace(like=kinds)])["n"]
        assert found and found.usual == hours * HOUR, why
    assert eta.kinds_of(Experiment("r", "h", "x", None, {}))[-2:] == ("group h", "")

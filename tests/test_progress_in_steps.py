"""Runs that count steps: what counts as progress, what is shown, the ETA, halving, metrics that may be missing."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rounds_for_tests import Rounds, rounds  # noqa: F401
from test_eta import attempt, row
from test_plan import HELD, OPENED, decided

from roundhouse.errors import RoundhouseError
from roundhouse.jobs import carry
from roundhouse.model.attempt import Attempt, Opened, Progress, Result
from roundhouse.model.causes import Cause
from roundhouse.model.plan import State, Verb
from roundhouse.model.retry import stuck
from roundhouse.model.retry_policy import SOFT_LIMIT
from roundhouse.store import json_fields
from roundhouse.store.metrics import names_of, read_metrics, result_of, value_at
from roundhouse.views import explanation, status_json, tables
from roundhouse.views.eta import workload_of
from roundhouse.views.measured import counter_of

NOW = 1e9


def progress(**values: Any) -> Progress:
    found = json_fields.progress({"version": 1, **values})
    assert found is not None
    return found


def test_means_are_read_as_far_as_they_are_numbers() -> None:
    assert progress(means={"loss": 0.5, "name": "x"}).means == {"loss": 0.5}
    assert progress(means=[1]).means == progress().means == {}


# ---------------------------------------------------------------------------------------- what counts as progress


@pytest.mark.parametrize(
    ("values", "unit", "reported", "gained"),
    [
        ({}, "epoch", False, False),
        ({"epoch": 0, "started_epoch": 0}, "epoch", False, False),  # what each job writes at its start
        ({"epoch": 3, "epochs": 9, "started_epoch": 3}, "epoch", True, False),
        ({"epoch": 4, "epochs": 9, "started_epoch": 3}, "epoch", True, True),
        ({"epoch": 0, "step": 0, "steps": 500}, "step", True, False),
        ({"epoch": 0, "step": 500, "started_step": 500}, "step", True, False),
        ({"epoch": 0, "step": 501, "started_step": 500}, "step", True, True),
        ({"epoch": 0, "step": 501}, "step", True, True),
        # By epoch, with steps: a part of an epoch that was saved counts.
        ({"epoch": 3, "epochs": 9, "started_epoch": 3, "step": 31, "started_step": 30}, "epoch", True, True),
        ({"epoch": 3, "epochs": 9, "started_epoch": 3, "step": 30, "started_step": 30}, "epoch", True, False),
        ({"epoch": 0, "epochs": 9, "step": 7, "started_step": 0, "unit": "epoch"}, "epoch", True, True),
        # A command by epoch that reports the step, but not where it started.
        ({"epoch": 3, "started_epoch": 3, "step": 30}, "epoch", True, False),
        ({"unit": "step", "step": 0}, "step", True, False),
        ({"unit": "minutes", "steps": 5}, "step", True, False),
    ],
)
def test_a_newly_saved_step_is_progress_or_an_epoch_where_steps_are_not_reported(
    values: dict[str, Any], unit: str, reported: bool, gained: bool
) -> None:
    found = progress(**values)
    assert (found.unit, found.reported, found.gained) == (unit, reported, gained)


@pytest.mark.parametrize("value", ["many", [], float("nan"), 1e400])
def test_a_step_that_is_no_number_makes_the_file_invalid(value: Any) -> None:
    assert json_fields.progress({"step": value}) is None


def ended(cause: Cause, **values: Any) -> Attempt:
    return Attempt(0, OPENED, HELD, Result(cause, "drained"), progress(**values))


def test_attempts_that_save_part_of_an_epoch_reach_no_retry_limit() -> None:
    """An epoch longer than the walltime, and one longer than the time between two preemptions."""
    for cause in (Cause.WALLTIME, Cause.PREEMPTED):
        long_epoch = [
            ended(cause, epoch=0, epochs=3, step=number + 1, steps=90, started_step=number) for number in range(60)
        ]
        assert decided(long_epoch).verb is Verb.SUBMIT


def test_a_walltime_without_a_newly_saved_step_counts_and_needs_more_time() -> None:
    one = ended(Cause.WALLTIME, epoch=0, step=400, started_step=400, steps=900)
    assert stuck(one)
    assert decided([one]).verb is Verb.SUBMIT
    assert decided([one] * 2).state is State.FAILED
    assert not stuck(ended(Cause.WALLTIME, epoch=0)), "it reports nothing"
    assert stuck(ended(Cause.WALLTIME, epoch=2, started_epoch=2)), "without a planned number, too"


def test_soft_causes_count_in_a_row_without_a_newly_saved_step() -> None:
    without, with_one = (ended(Cause.PREEMPTED, step=step, started_step=5) for step in (5, 6))
    failed = decided([without] * SOFT_LIMIT)
    assert failed.reason == "interrupted 20 times without a newly saved step; last cause: preempted (drained)"
    assert decided([*[without] * 15, with_one, *[without] * 15]).verb is Verb.SUBMIT


def test_a_job_does_not_count_unchanged_files_of_a_command_that_reports_steps(tmp_path: Path) -> None:
    from test_worker import claimed_attempt, open_attempt

    from roundhouse.model.experiment import Experiment
    from roundhouse.store import record

    one = Experiment("r", "g", "a", None, {}, command=("true",))
    directory = open_attempt(tmp_path, one)
    for content, count in (({"epoch": 0}, 1), ({"epoch": 0, "step": 0, "steps": 9}, 0)):
        (directory / "attempts/1/progress.json").write_text(json.dumps({"version": 1, **content}))
        record.close(directory, 1, Cause.WALLTIME, "")
        rec = record.read(directory)
        found = carry._unchanged_walltimes(claimed_attempt(directory), rec, rec.attempts[0])
        assert found == count


# ---------------------------------------------------------------------------------------- what is shown


def printed(*statuses: Any) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.table(statuses))
    return console.export_text()


def runs(*values: dict[str, Any]) -> list[Any]:
    return [
        row(attempt(NOW, None, progress=progress(**one), progress_at=NOW + 100), state=State.IN_PROGRESS)
        for one in values
    ]


def test_the_table_has_a_column_of_the_unit_that_the_runs_count() -> None:
    by_step = printed(*runs({"step": 4000, "steps": 10000}, {"step": 12}, {"step": 0}))
    assert by_step.splitlines()[0].split() == ["experiment", "state", "attempt", "job", "step"]
    assert [line.split()[4:] for line in by_step.splitlines()[1:4]] == [["4000/10000"], ["12"], []]
    by_epoch = printed(*runs({"epoch": 3, "epochs": 10, "step": 1234, "steps": 5000}))
    assert by_epoch.splitlines()[0].split()[-1] == "epoch"
    assert by_epoch.splitlines()[1].split()[-1] == "3/10"
    both = printed(*runs({"epoch": 3, "epochs": 10}, {"step": 4000, "steps": 10000}))
    assert both.splitlines()[0].split()[-1] == "progress"
    assert "epoch 3/10" in both and "step 4000/10000" in both


def test_json_and_why_report_steps() -> None:
    (one,) = runs({"epoch": 3, "epochs": 10, "step": 1234, "steps": 5000, "unit": "epoch"})
    found = status_json.as_dict(one)
    assert [found[key] for key in ("epoch", "epochs", "unit", "step", "steps")] == [3, 10, "epoch", 1234, 5000]
    assert "; epoch 3/10; step 1234/5000; open" in explanation.explain(one)
    (none,) = runs({"epoch": 0})
    assert "epoch 0" not in explanation.explain(none)


# ---------------------------------------------------------------------------------------- the ETA


def test_what_is_left_is_measured_in_the_unit_of_the_run() -> None:
    (one,) = runs({"step": 40, "steps": 100, "seconds_per_step": 2.0})
    assert workload_of(one).left == (118, 120, 120)
    (gained,) = runs({"step": 40, "started_step": 30, "steps": 100})
    assert workload_of(gained).left == (590, 600, 600), "10 steps in 100 s"
    (epochs,) = runs({"epoch": 4, "epochs": 10, "seconds_per_epoch": 60, "step": 400, "steps": 1000})
    assert workload_of(epochs).left == (300, 360, 360)


def test_before_the_first_epoch_steps_measure_what_is_left() -> None:
    (one,) = runs({"epoch": 0, "epochs": 10, "step": 10, "steps": 1000, "unit": "epoch"})
    counter = counter_of(one.record)
    assert counter is not None and counter.planned == 1000
    assert counter.seconds == pytest.approx(10)
    assert workload_of(one).left == (9890, 9900, 9900)


# ---------------------------------------------------------------------------------------- metrics.json


def write(directory: Path, content: dict[str, Any], **reported: Any) -> Attempt:
    place = directory / "attempts/1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.json").write_text(json.dumps(content))
    return Attempt(1, Opened("t", {}, "h", {}), progress=progress(**reported) if reported else None)


SPARSE: dict[str, Any] = {
    "metric": "fid", "mode": "min", "best": {"step": 4000, "fid": 8.0}, "ended": "early stopping",
    "epochs": [
        {"stage": "train", "step": 1000, "loss": 4.0},
        {"stage": "train", "step": 2000, "loss": 3.0, "fid": 9.0},
        {"stage": "train", "step": 3000, "loss": 2.0},
        {"stage": "train", "step": 4000, "fid": 8.0},
        {"stage": "train", "step": 5000, "loss": 1.0, "ema_fid": 7.0},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "position", "value"),
    [("fid", 3000, 9.0), ("fid", 2000, 9.0), ("fid", 4500, 8.0), ("loss", 4000, 2.0), ("loss", 99999, 1.0)],
)
@pytest.mark.parametrize("reported", [{"step": 5000, "steps": 5000}, {}])
def test_the_value_at_a_rung_is_the_last_one_recorded_by_then(
    tmp_path: Path, metric: str, position: int, value: float, reported: dict[str, Any]
) -> None:
    assert value_at(tmp_path, write(tmp_path, SPARSE, **reported), metric, position) == value


def test_a_metric_that_was_never_recorded_is_not_reported(tmp_path: Path) -> None:
    one = write(tmp_path, SPARSE, step=5000, steps=5000)
    assert value_at(tmp_path, one, "accuracy", 5000) is None
    assert {"fid", "loss", "ema_fid"} <= set(names_of(tmp_path, one))


def test_a_result_is_the_value_at_the_best_position_or_the_last_one(tmp_path: Path) -> None:
    one = write(tmp_path, SPARSE)
    assert result_of(tmp_path, one, "fid") == 8.0
    assert result_of(tmp_path, one, "loss") == 1.0, "it is missing at step 4000"
    dense = [{"epoch": number, "step": 10 * number, "loss": float(number)} for number in (1, 2, 3)]
    for best in ({"epoch": 2, "step": 20}, {"epoch": 2}):
        assert result_of(tmp_path, write(tmp_path, {"best": best, "epochs": dense}), "loss") == 2.0
    assert result_of(tmp_path, write(tmp_path, {"best": None, "metric": None, "epochs": dense}), "loss") == 3.0


def test_a_run_by_epoch_is_compared_by_its_epoch_though_it_records_steps(tmp_path: Path) -> None:
    dense = [{"epoch": number, "step": 100 * number, "loss": float(number)} for number in (1, 2, 3)]
    one = write(tmp_path, {"epochs": dense}, epoch=3, epochs=3, step=300, steps=300)
    assert value_at(tmp_path, one, "loss", 2) == 2.0


def test_metrics_without_a_main_metric_are_read(tmp_path: Path) -> None:
    write(tmp_path, {**SPARSE, "metric": None, "mode": None, "best": None, "diverged": {"step": 4, "why": "NaN"}})
    found = read_metrics(tmp_path / "attempts/1/metrics.json")
    assert (found.metric, found.mode, found.best, found.best_step) == (None, None, None, None)
    assert (found.ended, dict(found.diverged)) == ("early stopping", {"step": 4, "why": "NaN"})
    write(tmp_path, SPARSE)
    found = read_metrics(tmp_path / "attempts/1/metrics.json")
    assert (found.best, found.best_step, found.best_epoch) == (8.0, 4000, None)
    write(tmp_path, {**SPARSE, "diverged": "yes"})
    with pytest.raises(RoundhouseError, match="unreadable"):
        read_metrics(tmp_path / "attempts/1/metrics.json")


# ---------------------------------------------------------------------------------------- real rounds

# It counts steps: of 1000 each, of which it records the loss every 2000. It pauses at ROUNDHOUSE_PAUSE_AT.
STEPS = """\
import json, os, sys
folder, rate = sys.argv[1], float(sys.argv[2])
metrics = {"epochs": []}
if os.path.exists(folder + "/metrics.json"):
    metrics = json.load(open(folder + "/metrics.json"))
begun = start = len(metrics["epochs"]) * 1000
until = int(os.environ.get("ROUNDHOUSE_PAUSE_AT", 9000))
for step in range(start + 1000, min(until, 9000) + 1, 1000):
    entry = {"step": step, "rate": rate}
    if step % 2000 == 0:
        entry["loss"] = rate
    metrics["epochs"].append(entry)
    start = step
json.dump(metrics, open(folder + "/metrics.json", "w"))
json.dump({"step": start, "steps": 9000, "started_step": begun}, open(folder + "/progress.json", "w"))
sys.exit(78 if start < 9000 else 0)
"""


def test_halving_counts_the_steps_of_a_command(rounds: Rounds) -> None:  # noqa: F811
    (rounds.folder / "steps.py").write_text(textwrap.dedent(STEPS))
    rounds.write({"all": {
        "path": "s/{rate}", "grid": {"rate": [1, 2, 3]},
        "command": [sys.executable, "-SE", str(rounds.folder / "steps.py"), "{directory}", "{rate}"],
        "halving": {"metric": "loss", "mode": "min", "every": 3000, "keep": 0.5},
    }})  # fmt: skip
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert rounds.states() == {"s/1": "completed", "s/2": "pruned", "s/3": "pruned"}
    status = rounds.status()
    assert status["s/3"]["reason"].startswith("rank 3 of 3 at step 3000 by the lowest loss: rate=3, 3 ± ? (one run)")
    assert status["s/2"]["reason"].startswith("rank 2 of 2 at step 6000 by the lowest loss")
    assert [status["s/1"][key] for key in ("unit", "step", "steps")] == ["step", 9000, 9000]
    assert [one.opened.pause_at for one in rounds.record("s/1").attempts] == [3000, 6000, None]
    assert "step" in done.stdout and "9000/9000" in done.stdout
    content = json.loads((rounds.directory("s/2") / "status.json").read_text())
    assert [content[key] for key in ("unit", "step", "steps")] == ["step", 6000, 9000]

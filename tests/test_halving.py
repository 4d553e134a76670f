"""Early pruning by successive halving: pauses, decisions, markers; a run that paused ends like one that never did."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import Rounds, rounds  # noqa: F401
from small_study import SETTINGS, SmallStudy, comparable, train

from analysis.round_summary import counts, summaries_of
from analysis.rounds import Folders, read_round
from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Attempt, Claim, Opened, Pin, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Halving
from roundhouse.model.halving import compare_at_rungs, pause_at
from roundhouse.model.plan import Action, Inputs, State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import metrics, record
from toolbox.weekly.history import events_of

PER = Halving("loss", "min", 10, 0.5)

# ---------------------------------------------------------------------------------------------- valid round files


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{metric: loss, mode: min, every: 0}", "greater than or equal to 1"),
        ("{metric: loss, mode: min, every: 5, keep: 1.0}", "less than 1"),
        ("{metric: loss, mode: min}", "needs the key 'every'"),
        ("{metric: loss, mode: down, every: 5}", "'min' or 'max', not 'down'"),
        ("{metric: loss, mode: min, every: 5, per: dataste}", "unknown key 'dataste': did you mean 'dataset'?"),
        ("{metric: loss, mode: min, every: 5, per: seed}", "seeds are compared by their mean"),
    ],
)
def test_a_mistake_is_reported_by_file_and_line(tmp_path: Path, written: str, message: str) -> None:
    text = f"""\
        round: r
        study: s
        experiments:
          g:
            path: "{{dataset}}/{{seed}}"
            grid: {{dataset: [a, b], seed: [0, 1]}}
            halving: {written}
    """
    (tmp_path / "r.yaml").write_text(textwrap.dedent(text))
    with pytest.raises(RoundhouseError, match=r"r\.yaml:7: ") as caught:
        load_round("r", tmp_path)
    assert message in str(caught.value)


def test_a_group_that_waits_for_itself_cannot_pause_for_itself(tmp_path: Path) -> None:
    group = 'path: "{n}", zip: {n: [1, 2], before: [0, 1]}, after: {g: {n: "{before}"}}'
    (tmp_path / "r.yaml").write_text(
        f"round: r\nstudy: s\nexperiments:\n  g: {{{group}, halving: {{metric: a, mode: min, every: 1}}}}\n"
    )
    with pytest.raises(RoundhouseError, match="r.yaml:4: group 'g' depends on itself"):
        load_round("r", tmp_path)


# ---------------------------------------------------------------------------------------------- decisions


def attempt(number: int, cause: Cause | None, at: int | None = None, loss: float | None = None) -> Attempt:
    """An attempt that paused at an epoch with this loss, or ended in another way; or a marker."""
    mark = cause if cause in (Cause.PRUNED, Cause.RETRY) else None
    opened = Opened(f"t{number}", {"kind": "local"}, "hash", {}, mark=mark, pause_at=at)
    claim = Claim(void=mark is not None, cause=mark)
    result = Result(cause) if cause and not mark else None
    progress = Progress(at or 99, 99, 0, "loss", loss, loss) if loss is not None else None
    return Attempt(number, opened, claim, result, progress)


def row(name: str, *attempts: Attempt, state: State | None = None, **config: Any) -> ExperimentStatus:
    """An experiment with these attempts. A paused one would continue, unless `state` says otherwise."""
    experiment = Experiment("r", "g", name, "s", {"name": name, **config}, halving=PER)
    paused = attempts and attempts[-1].cause is Cause.RUNG
    state = state or (State.PENDING if paused or not attempts else State.IN_PROGRESS)
    action = Action(Verb.SUBMIT if state is State.PENDING else Verb.NOTHING, state)
    return ExperimentStatus(experiment, Record(Path("/nowhere") / name, attempts), action, Inputs({}))


def paused(name: str, loss: float, at: int = 10, **config: Any) -> ExperimentStatus:
    return row(name, *(attempt(n, Cause.RUNG, 10 * n, loss) for n in range(1, at // 10 + 1)), **config)


def verdicts(*rows: ExperimentStatus) -> dict[str, str]:  # noqa: F811
    found = compare_at_rungs({one.experiment.path: one for one in rows}, metrics)
    words = {Verb.SUBMIT: "continues", Verb.PRUNE: "pruned", Verb.NOTHING: "waits"}
    return {path: words[one.action.verb] for path, one in found.items()}


LOSSES = st.lists(st.one_of(st.floats(0, 9), st.just(math.nan), st.just(0.5)), min_size=1, max_size=12)


@given(losses=LOSSES, keep=st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9]), shuffle=st.randoms(use_true_random=False))
def test_the_best_share_and_at_least_one_continues_whatever_the_order_of_reading(
    losses: list[float], keep: float, shuffle: Any
) -> None:
    rows = [paused(f"p{number:02}", loss) for number, loss in enumerate(losses)]  # noqa: F811
    rows = [replace(one, experiment=replace(one.experiment, halving=replace(PER, keep=keep))) for one in rows]
    found = verdicts(*rows)
    kept = {path for path, verdict in found.items() if verdict == "continues"}
    assert len(kept) == max(1, math.ceil(Fraction(str(keep)) * len(losses)))
    worth = {f"p{number:02}": (math.isnan(loss), loss) for number, loss in enumerate(losses)}
    assert all(worth[good][0] <= worth[bad][0] for good in kept for bad in found.keys() - kept)
    finite = {path for path in worth if not worth[path][0]}
    assert all(worth[good] <= worth[bad] for good in kept & finite for bad in (found.keys() - kept) & finite)
    shuffle.shuffle(rows)
    assert verdicts(*rows) == found


def test_seeds_of_a_setting_continue_together_or_not_at_all() -> None:
    rows = [paused(f"{lr}/{seed}", loss) for lr, seed, loss in [(1, 0, 0.1), (1, 1, 0.9), (2, 0, 0.4), (2, 1, 0.4)]]  # noqa: F811
    rows = [
        replace(one, experiment=replace(one.experiment, config={"lr": int(name[0]), "seed": int(name[2])}))
        for one in rows
        for name in [one.experiment.path]
    ]
    assert verdicts(*rows) == {"1/0": "pruned", "1/1": "pruned", "2/0": "continues", "2/1": "continues"}


def test_nothing_is_decided_before_all_have_reached_the_rung_or_ended() -> None:
    two = paused("a", 0.1), paused("b", 0.2)
    running = row("c", attempt(1, None, 10))
    assert verdicts(*two, running) == {"a": "waits", "b": "waits"}
    assert verdicts(*two, row("c")) == {"a": "waits", "b": "waits"}
    failed = row("c", attempt(1, Cause.ERROR, 10), state=State.FAILED)
    assert verdicts(*two, failed) == {"a": "continues", "b": "pruned"}
    stuck = compare_at_rungs({one.experiment.path: one for one in (*two, row("c", state=State.BLOCKED))}, metrics)
    assert stuck["a"].inputs.hopeless
    assert stuck["a"].action.reason == (
        "waits at epoch 10 for 1 of 3, of which 1 will not get there automatically (c is blocked)"
    )


def diverged(name: str, heading_for: int | None, *before: Attempt, **config: Any) -> ExperimentStatus:
    """An experiment that diverged on its way to a rung."""
    last = attempt(len(before) + 1, Cause.DIVERGED, heading_for, math.nan)
    return row(name, *before, last, state=State.DIVERGED, **config)


def test_a_diverged_run_is_the_worst_at_the_rung_that_it_did_not_reach() -> None:
    two = paused("a", 0.1), paused("b", 0.2)
    assert verdicts(*two, diverged("c", 10), diverged("d", 10)) == {"a": "continues", "b": "continues"}
    alone = compare_at_rungs({one.experiment.path: one for one in (two[0], diverged("b", 10))}, metrics)
    assert alone["a"].experiment.halving is None, "the last one left pauses no more"
    later = [paused("a", 0.1, at=20), paused("b", 0.2, at=20)]
    assert verdicts(*later, diverged("c", 10), diverged("d", 10)) == {"a": "continues", "b": "pruned"}, "it is over"
    reached = diverged("c", 20, attempt(1, Cause.RUNG, 10, 0.05))
    assert verdicts(*two, reached) == {"a": "continues", "b": "pruned"}, "at epoch 10 it was the best"


def test_one_diverged_seed_makes_its_setting_the_last_at_each_rung() -> None:
    def seeds(at: int) -> list[ExperimentStatus]:
        rows = [paused("1/0", 0.1, at), diverged("1/1", 10), paused("2/0", 0.4, at), paused("2/1", 0.4, at)]  # noqa: F811
        return [
            replace(one, experiment=replace(one.experiment, config={"lr": int(name[0]), "seed": int(name[2])}))
            for one in rows
            for name in [one.experiment.path]
        ]

    for at in (10, 20):
        assert verdicts(*seeds(at)) == {"1/0": "pruned", "2/0": "continues", "2/1": "continues"}


def test_a_diverged_run_that_is_retried_is_waited_for() -> None:
    again = row("c", attempt(1, Cause.DIVERGED, 10), attempt(2, Cause.RETRY))
    assert verdicts(paused("a", 0.1), paused("b", 0.2), again) == {"a": "waits", "b": "waits"}


@pytest.mark.parametrize(
    ("pin", "keep_files", "heading_for"),
    [(Pin("other", {}), False, 10), (Pin("other", {}), True, 20), (Pin("hash", {}), False, 20)],
)
def test_a_retry_with_another_config_begins_at_the_first_rung(pin: Pin, keep_files: bool, heading_for: int) -> None:
    marker = attempt(3, Cause.RETRY)
    marker = replace(marker, opened=replace(marker.opened, pin=pin, keep_files=keep_files))
    again = row("c", attempt(1, Cause.RUNG, 10, 0.5), attempt(2, Cause.ERROR), marker, state=State.PENDING)
    assert pause_at(again.experiment, again.record) == heading_for
    expected = "waits" if heading_for == 10 else "continues"
    assert verdicts(paused("a", 0.1), again)["a"] == expected


def test_a_decision_stays_when_a_pass_died_halfway_and_when_the_others_have_continued() -> None:
    rows = [paused("a", 0.1), paused("b", 0.2), paused("c", 0.3), paused("d", 0.4)]  # noqa: F811
    first = verdicts(*rows)
    assert first == {"a": "continues", "b": "continues", "c": "pruned", "d": "pruned"}
    marked = row("c", attempt(1, Cause.RUNG, 10, 0.3), attempt(2, Cause.PRUNED), state=State.PRUNED)
    on = row("a", attempt(1, Cause.RUNG, 10, 0.1), attempt(2, None, 20))
    assert verdicts(on, rows[1], marked, rows[3]) == {"b": "continues", "d": "pruned"}
    far = paused("a", 0.1, at=20)
    assert verdicts(far, rows[1], marked, rows[3]) == {"a": "waits", "b": "continues", "d": "pruned"}


def test_at_the_next_rung_only_those_that_reached_it_are_compared() -> None:
    marked = row("c", attempt(1, Cause.RUNG, 10, 0.01), attempt(2, Cause.PRUNED), state=State.PRUNED)
    assert verdicts(paused("a", 0.1, at=20), paused("b", 0.2, at=20), marked) == {"a": "continues", "b": "pruned"}


def test_what_was_pruned_and_retried_runs_to_its_end_and_is_in_no_comparison() -> None:
    again = row("c", attempt(1, Cause.RUNG, 10, 0.3), attempt(2, Cause.PRUNED), attempt(3, Cause.RETRY))
    assert pause_at(again.experiment, again.record) is None
    done = row(
        "c", attempt(1, Cause.RUNG, 10, 0.3), attempt(2, Cause.PRUNED), attempt(4, Cause.COMPLETED, None, 0.0),
        state=State.COMPLETED,
    )  # fmt: skip
    for third in (again, done):
        assert verdicts(paused("a", 0.1, at=20), paused("b", 0.2, at=20), third) == {"a": "continues", "b": "pruned"}


def test_each_pause_is_one_step_after_the_last() -> None:
    assert [pause_at(one.experiment, one.record) for one in (row("a"), paused("a", 1.0), paused("a", 1.0, at=30))] == [
        10, 20, 40,
    ]  # fmt: skip


def test_comparisons_are_per_value_of_the_named_key() -> None:
    rows = [paused("a", 0.1, dataset="x"), paused("b", 0.9, dataset="y"), paused("c", 0.2, dataset="x")]  # noqa: F811
    rows = [replace(one, experiment=replace(one.experiment, halving=replace(PER, per="dataset"))) for one in rows]
    assert verdicts(*rows) == {"a": "continues", "b": "continues", "c": "pruned"}


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_training_that_pauses_ends_bit_for_bit_as_one_that_does_not(tmp_path: Path, every: int) -> None:
    straight = train(tmp_path / "straight", SmallStudy((3, 5)))
    folders: list[Path] = []
    outcome = None
    while outcome is None or not outcome.finished:
        folders.append(tmp_path / str(len(folders) + 1))
        pausing = replace(SETTINGS, pause_at=every * len(folders))
        outcome = train(folders[-1], SmallStudy((3, 5)), pausing, folders[:-1])
        if not outcome.finished:
            assert (outcome.reason, outcome.position) == ("rung", f"epoch {every * len(folders)}/8")
    assert len(folders) == math.ceil(8 / every)
    assert outcome.final_hash == straight.final_hash
    assert comparable(outcome).artifacts == comparable(straight).artifacts
    assert outcome.metrics == straight.metrics
    assert outcome.exact


def test_no_config_may_contain_a_pause(tmp_path: Path) -> None:
    from roundhouse.settings import split_config

    assert split_config({"pause_at": 3})[1] == {"pause_at": 3}, "left to the study, which refuses it"


# ---------------------------------------------------------------------------------------------- rounds that run

# Trains 6 epochs, whose loss is its rate at each; pauses where requested, unless it ignores that.
TRAIN = """
import json, os, sys
from pathlib import Path
out, rate, seed, ignoring = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["ignoring"]
start = 0
for folder in filter(None, os.environ["ROUNDHOUSE_EARLIER"].split(":")):
    if Path(folder, "place").exists():
        start = int(Path(folder, "place").read_text())
        break
pause = 99 if ignoring else int(os.environ.get("ROUNDHOUSE_PAUSE_AT", 99))
for epoch in range(start + 1, 7):
    Path(out, "place").write_text(str(epoch))
    progress = {"epoch": epoch, "epochs": 6, "started_epoch": start, "metric_name": "loss", "metric": rate}
    Path(out, "progress.json").write_text(json.dumps({"version": 1, **progress, "best": rate}))
    if epoch == pause and epoch < 6:
        sys.exit(78)
"""


def group(rounds: Rounds, *more: str, **halving: Any) -> dict[str, Any]:  # noqa: F811
    program = rounds.folder / "train.py"
    program.write_text(TRAIN)
    return {
        "path": "s/{rate}/{seed}",
        "grid": {"rate": [4, 1, 3, 2], "seed": [0]},
        "command": [sys.executable, "-SE", str(program), "{directory}", "{rate}", "{seed}", *more],
        "halving": {"metric": "loss", "mode": "min", "every": 2, "keep": 0.5, **halving},
    }


def test_half_of_a_round_is_pruned_at_each_rung_and_selections_use_the_rest(
    rounds: Rounds,  # noqa: F811
) -> None:
    groups = {
        "sweep": group(rounds),
        "best": {
            "path": "b/{rank}", "select": {"from": "sweep", "metric": "loss", "mode": "min"},
            "command": ["bash", "-c", "echo {rate} > {directory}/said"],
        },
    }  # fmt: skip
    rounds.write(groups)
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    states = rounds.states()
    assert states == {
        "s/4/0": "pruned", "s/1/0": "completed", "s/3/0": "pruned", "s/2/0": "pruned", "b/1": "completed",
    }  # fmt: skip
    assert rounds.causes("s/1/0") == ["rung", "rung", "completed"]
    assert rounds.causes("s/2/0") == ["rung", "rung", "pruned"]
    assert rounds.causes("s/4/0") == ["rung", "pruned"]
    status = rounds.status()["s/3/0"]
    assert status["reason"] == (
        "rank 3 of 4 at epoch 2 by the lowest loss: rate=3, 3 ± ? (one run); the last kept: rate=2, 2 ± ? (one run)"
    )
    assert not status["goes_on"]
    assert "1 completed, 3 pruned" in rounds.call("--only", "s/*").stdout
    assert (rounds.directory("b/1") / "attempts/1/files/said").read_text() == "1\n"
    again = rounds.call()
    assert again.returncode == 0
    assert "best: rank 1 of 1 settings left (3 pruned) of sweep by the lowest mean loss: s/1/0, 1 ± ? (one run)" in (
        again.stdout
    )
    before = {path: rounds.causes(path) for path in states}
    assert rounds.call("--retry").returncode == 0
    assert {path: rounds.causes(path) for path in states} == before, "--retry alone takes no pruning back"

    assert "s/4/0: will be retried" in rounds.call("--retry", "--only", "s/4/0").stdout
    assert rounds.causes("s/4/0") == ["rung", "pruned", "retry", "completed"]

    place = Folders(rounds.experiments, rounds.rounds, rounds.analysis)
    found = read_round("r", place)
    entries = {one.path: one for one in found.entries}
    assert entries["s/3/0"].state is State.PRUNED
    assert counts(summaries_of(found)[0]) == {State.COMPLETED: 3, State.PRUNED: 2}
    assert [event.kind for event in events_of(entries["s/2/0"])] == ["started", "pruned"], "a pause is no requeueing"
    assert rounds.call("--archive").returncode == 0, "a pruned experiment has ended"
    assert "Pruned or diverged experiments have ended early" in (rounds.analysis / "experiment_r/README.md").read_text()
    assert rounds.states()["s/3/0"] == "pruned"


def test_a_program_that_ignores_the_pause_runs_to_its_end_and_is_compared_by_its_last_value(
    rounds: Rounds,  # noqa: F811
) -> None:
    groups = {"ignoring": group(rounds, "ignoring")}
    rounds.write(groups)
    assert rounds.call().returncode == 0
    assert set(rounds.states().values()) == {"completed"}


def test_a_program_that_pauses_without_a_request_has_failed(rounds: Rounds) -> None:  # noqa: F811
    rounds.write({"g": {"path": "g", "command": ["bash", "-c", "exit 78"]}})
    assert rounds.call().returncode == 4
    assert rounds.causes("g") == ["error", "error"]


def test_a_dependent_of_a_pruned_experiment_reports_it_and_waits_for_nothing_else(rounds: Rounds) -> None:  # noqa: F811
    rounds.write({"sweep": group(rounds), "all": {"path": "all", "after": ["sweep"], "command": "true"}})
    assert rounds.call().returncode == 4
    waiting = rounds.status()["all"]
    assert "which is pruned" in waiting["reason"]
    assert not waiting["goes_on"]


def test_dependents_of_a_group_whose_metric_no_run_reports_are_blocked_as_well(rounds: Rounds) -> None:  # noqa: F811
    sweep = group(rounds, metric="accuracy")
    sweep["grid"] = {"rate": [1, 2], "seed": [0]}
    chosen = {"path": "c", "select": {"from": "sweep", "metric": "loss", "mode": "min"}, "command": "true"}
    last = {"path": "l", "after": ["chosen"], "command": "true"}
    rounds.write(
        {"last": last, "chosen": chosen, "sweep": sweep, "all": {"path": "a", "after": ["sweep"], "command": "true"}}
    )
    assert rounds.call().returncode == 4
    statuses = rounds.status()
    assert not any(one["goes_on"] for one in statuses.values())
    assert statuses["s/1/0"]["reason"].startswith("s/1/0 does not report the metric 'accuracy'")
    assert statuses["a"]["reason"].startswith(
        "waits for s/1/0, which is blocked: s/1/0 does not report the metric 'accuracy'"
    )
    assert "2 will not complete automatically (s/1/0 is blocked)" in statuses["c"]["reason"]
    assert statuses["l"]["reason"].startswith("waits for c, which is pending: waits for 2 of 2 of group sweep")
    place = Folders(rounds.experiments, rounds.rounds, rounds.analysis)
    alone = {one.path: one.status.action.reason for one in read_round("r", place).entries}
    assert alone == {path: one["reason"] for path, one in statuses.items()}
    states = {"s/1/0": "blocked", "s/2/0": "blocked", "a": "pending", "c": "pending", "l": "pending"}
    assert rounds.states() == states
    assert rounds.call("--retry").returncode == 4
    assert rounds.causes("s/1/0") == ["rung"], "the round file must be fixed"
    sweep["halving"]["metric"] = "loss"
    rounds.write({"sweep": sweep, "chosen": chosen})
    assert rounds.call().returncode == 0


def test_one_that_fails_is_left_out_and_the_others_are_compared(rounds: Rounds) -> None:  # noqa: F811
    sweep = group(rounds, every=4)
    sweep["include"] = [{"rate": "none", "seed": 0}]
    rounds.write({"sweep": sweep})
    assert rounds.call().returncode == 4
    assert sorted(rounds.states().items()) == [
        ("s/1/0", "completed"), ("s/2/0", "completed"), ("s/3/0", "pruned"), ("s/4/0", "pruned"),
        ("s/none/0", "failed"),
    ]  # fmt: skip


def test_one_that_diverges_is_done_with_and_the_comparison_does_not_wait_for_it(
    rounds: Rounds,  # noqa: F811
) -> None:
    sweep = group(rounds, every=4)
    sweep["include"] = [{"rate": 9, "seed": 0}]
    sweep["command"] = [
        "bash",
        "-c",
        f"[ {{rate}} != 9 ] || exit 79; {' '.join(sweep['command'][:3])} {{directory}} {{rate}} 0",
    ]
    rounds.write({"sweep": sweep})
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert rounds.states() == {
        "s/4/0": "pruned", "s/1/0": "completed", "s/3/0": "completed", "s/2/0": "completed", "s/9/0": "diverged",
    }  # fmt: skip


def test_an_interrupted_marker_is_completed_by_the_next_pass(rounds: Rounds) -> None:  # noqa: F811
    rounds.write({"sweep": group(rounds)})
    assert rounds.call("--only", "s/[34]/0").returncode == 3
    opened = Opened(record.new_token(), {"kind": "mark"}, "hash", {}, mark=Cause.PRUNED)
    assert record.open_attempt(rounds.directory("s/4/0"), 2, opened)
    assert rounds.call().returncode == 0
    assert rounds.causes("s/4/0") == ["rung", "pruned"]


def test_a_study_that_paused_ends_bit_for_bit_as_one_that_did_not(rounds: Rounds) -> None:  # noqa: F811
    config = {"dataset": "digits", "method": "pure", "model": "ResNet8", "epochs": 3, "max_epochs": 3}
    sweep = {"path": "{lr}/{seed}", "grid": {"lr": [0.0001, 0.1], "seed": [0]}, "config": config}
    halving = {"metric": "val_accuracy", "mode": "max", "every": 1}
    straight = {**sweep, "grid": {"lr": [0.1], "seed": [0]}}
    for name, one in (("straight", straight), ("halved", {**sweep, "halving": halving})):
        content = {"round": name, "study": "distillation", "resources": {"ncpus": 1}, "experiments": {"g": one}}
        rounds.write(json.dumps(content), name)
        done = rounds.call(name=name, timeout=300)
        assert done.returncode == 0, done.stdout
    assert rounds.states("halved") == {"0.0001/0": "pruned", "0.1/0": "completed"}
    assert rounds.causes("0.1/0", "halved") == ["rung", "completed"], "the last one left pauses no more"
    ends = [
        json.loads((rounds.directory("0.1/0", name) / "history.json").read_text())["attempts"][-1]["progress"]
        for name in ("straight", "halved")
    ]
    assert ends[0]["final_hash"] == ends[1]["final_hash"]
    for end in ends:
        del end["artifacts"]["checkpoint.pth"]  # it contains times
    assert ends[0]["artifacts"] == ends[1]["artifacts"]
    assert [ends[1]["epoch"], ends[1]["started_epoch"], ends[1]["exact"]] == [3, 1, True]

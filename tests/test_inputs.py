"""Inputs by the hashes of named files, and checkpoints that other experiments start from, in real rounds.

The study of these tests trains without PyTorch: a step adds a word to a list.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rounds_for_tests import Rounds, snapshot
from test_evaluate import CLOCK, ended, records
from test_study_check import Repository

from analysis.rounds import Folders, read_round
from roundhouse.model.attempt import Attempt, Progress, Record, result_for
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evidence, evaluate
from roundhouse.model.experiment import Experiment, StartFrom
from roundhouse.model.inputs import UNREAD
from roundhouse.model.plan import State, Verb
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import metrics, record

DONE, FAILED = 0, 4
NO_FILE = "attempt 1 of {} has no file {!r}, which `inputs_from` names"

TRAIN = """\
import hashlib, json, sys
from pathlib import Path
from roundhouse.jobs import worker
from roundhouse.model.exit_codes import JobExitCode

claimed = worker.enter(Path(sys.argv[1]))
if claimed.config["command"]:
    import real_train

    sys.exit(real_train.run_program(claimed))
config, place = claimed.config["config"], claimed.place
try:
    start, inputs = claimed.start(), claimed.inputs()
except worker.Leave as leave:
    print(leave)
    sys.exit(leave.code)
resumed = [one / "checkpoint.pth" for one in claimed.earlier() if (one / "checkpoint.pth").exists()]
state = {"step": 0, "words": []}
if resumed:
    state = json.loads(resumed[-1].read_text())
elif start:
    state = json.loads(start.path.read_text())
    state["step"] *= start.keeps_position
started, place_of = state["step"], {group: [str(one) for one in found] for group, found in inputs.items()}
claimed.write_environment({"inputs": place_of, "start": str(start.path) if start else None})
for name in ("kept", "snapshots"):
    (place / name).mkdir()
while state["step"] < config["steps"]:
    state["words"].append(config["word"])
    state["step"] += 1
    (place / "checkpoint.pth").write_text(json.dumps(state))
    if config.get("tags"):
        (place / f"snapshots/step_{state['step']}.pth").write_text(json.dumps(state))
    claimed.report(epoch=state["step"], epochs=config["steps"], started_epoch=started)
    if config.get("stop") == state["step"] and not resumed:
        if "overwrites" in config:
            Path(config["overwrites"]).write_text(json.dumps({"step": 9, "words": ["changed"]}))
        sys.exit(JobExitCode.STOPPED)
(place / "kept/samples.npz").write_text(config["word"] + str(claimed.number))
(place / "metrics.json").write_text(json.dumps({"loss": config.get("loss", 0.0)}))
written = [one for one in sorted(place.rglob("*")) if one.suffix in (".pth", ".npz")]
artifacts = {str(one.relative_to(place)): hashlib.sha256(one.read_bytes()).hexdigest() for one in written}
claimed.report(artifacts=artifacts)
"""


@pytest.fixture
def rounds(rounds: Rounds) -> Repository:
    made = Repository(folder=rounds.folder, mark=rounds.mark)
    made.make()
    (made.root / "train.py").rename(made.root / "real_train.py")
    (made.root / "train.py").write_text(TRAIN)
    made.study(check=None)
    return made


def group(path: str, word: str = "a", steps: int = 3, config: dict[str, Any] | None = None, **more: Any) -> Any:
    return {"path": path, "study": "s", "config": {"word": word, "steps": steps, **(config or {})}, **more}


def words(rounds: Repository, path: str) -> list[str]:
    """What the completed attempt has trained."""
    return list(json.loads((completed(rounds, path) / "checkpoint.pth").read_text())["words"])


def completed(rounds: Repository, path: str) -> Path:
    done = rounds.record(path).completed
    assert done is not None, rounds.call("--why", path).stdout
    return record.attempt_directory(rounds.directory(path), done.number)


def opened_inputs(rounds: Repository, path: str) -> list[Any]:
    return [one.opened.inputs for one in rounds.record(path).runs]


def ran_with(rounds: Repository, path: str) -> dict[str, Any]:
    """What the study was given."""
    from roundhouse.store.history import environments

    return environments(rounds.directory(path))[rounds.record(path).runs[-1].number]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reason(rounds: Repository, path: str) -> tuple[str, str]:
    row = rounds.status()[path]
    return row["state"], row["reason"]


# ---------------------------------------------------------------------------------------------- files of inputs


def test_an_input_is_pinned_by_the_hash_of_the_file_that_the_round_names(rounds: Repository) -> None:
    rounds.write({"samples": group("x"), "user": group("u", after=["samples"], inputs_from=["samples.npz"])})
    assert rounds.call().returncode == DONE
    kept = completed(rounds, "x") / "kept/samples.npz"
    assert opened_inputs(rounds, "u") == [{"samples": [{"path": "x", "files": {"kept/samples.npz": sha256(kept)}}]}]
    assert ran_with(rounds, "u")["inputs"] == {"samples": [str(kept.parent.parent)]}


def test_a_missing_file_blocks_with_its_name_and_what_there_is(rounds: Repository) -> None:
    user = group("u", after=["samples"], inputs_from={"samples": ["sample.npz"]})
    rounds.write({"samples": group("x"), "user": user, "last": group("z", after=["user"])})
    assert rounds.call().returncode == FAILED
    state, why = reason(rounds, "u")
    assert (state, why) == ("blocked", NO_FILE.format("x", "sample.npz") + ": did you mean 'kept/samples.npz'?")
    assert not rounds.status()["z"]["goes_on"]
    assert not rounds.directory("u").exists()
    user["inputs_from"] = {"samples": ["checkpoint.pth", "kept/samples.npz"]}
    rounds.write({"samples": group("x"), "user": user, "last": group("z", after=["user"])})
    assert rounds.call().returncode == DONE
    (inputs,) = opened_inputs(rounds, "u")
    assert inputs["samples"][0]["files"].keys() == {"checkpoint.pth", "kept/samples.npz"}


def test_a_file_that_was_changed_is_refused_and_a_retry_takes_the_newest_result(rounds: Repository) -> None:
    rounds.write({"samples": group("x"), "user": group("u", after=["samples"], inputs_from=["samples.npz"])})
    assert rounds.call("--only", "x").returncode == DONE
    kept = completed(rounds, "x") / "kept/samples.npz"
    kept.write_text("other samples")
    assert rounds.call().returncode == FAILED
    state, why = reason(rounds, "u")
    assert state == "failed"
    assert f"{kept} is not the file that this experiment was started with" in why
    assert rounds.causes("u") == ["error"], "it is not retried"
    assert "will run again" in rounds.call("--rerun", "--only", "x").stdout
    assert rounds.call("--retry").returncode == DONE
    new = completed(rounds, "x") / "kept/samples.npz"
    assert (new.parent.parent.name, new.read_text()) == ("3", "a3")
    assert opened_inputs(rounds, "u")[-1]["samples"][0]["files"] == {"kept/samples.npz": sha256(new)}
    assert ran_with(rounds, "u")["inputs"] == {"samples": [str(new.parent.parent)]}


def test_the_attempts_of_an_experiment_keep_the_files_of_the_first_one(rounds: Repository) -> None:
    user = group("u", config={"stop": 2}, after=["samples"], inputs_from=["samples.npz"])
    rounds.write({"samples": group("x"), "user": user})
    assert rounds.call().returncode == DONE
    first, second = opened_inputs(rounds, "u")
    assert first == second
    assert rounds.call("--rerun", "--only", "x").returncode == DONE
    assert reason(rounds, "u") == ("completed", "trained from an earlier run of x")


def test_a_command_s_file_must_exist_and_is_known_by_the_token(rounds: Repository) -> None:
    makes = ["bash", "-c", "mkdir {directory}/out; echo 1 > {directory}/out/samples.npz"]
    user = group("u", after=["samples"], inputs_from=["samples.npz"])
    groups = {"samples": {"path": "x", "command": makes}, "user": user}
    rounds.write(groups)
    assert rounds.call().returncode == FAILED
    assert reason(rounds, "u") == ("blocked", NO_FILE.format("x", "samples.npz"))
    groups["user"]["inputs_from"] = ["out/samples.npz"]
    rounds.write(groups)
    assert rounds.call().returncode == DONE
    done = rounds.record("x").completed
    assert done is not None
    assert opened_inputs(rounds, "u") == [
        {"samples": [{"path": "x", "token": done.opened.token, "files": {"out/samples.npz": None}}]}
    ]


def test_a_command_gets_the_directory_with_the_files(rounds: Repository) -> None:
    copies = ["bash", "-c", 'cp "$ROUNDHOUSE_INPUT_SAMPLES/kept/samples.npz" {directory}']
    command = {"path": "u", "after": ["samples"], "inputs_from": ["samples.npz"], "command": copies}
    rounds.write({"samples": group("x"), "user": command})
    assert rounds.call().returncode == DONE
    assert (completed(rounds, "u") / "files/samples.npz").read_text() == "a1"


# ---------------------------------------------------------------------------------------------- init


def test_a_run_starts_from_a_kept_checkpoint_of_another_and_counts_from_0(rounds: Repository) -> None:
    base = group("base", "a", config={"tags": True})
    branch = group("b/{at}", "b", 2, grid={"at": [1, 2]}, init={"from": "base", "snapshot": "step_{at}"})
    rounds.write({"base": base, "branch": branch, "last": group("l", "c", 1, init={"from": "base"})})
    assert rounds.call().returncode == DONE
    assert [words(rounds, path) for path in ("b/1", "b/2", "l")] == [["a", "b", "b"], ["a", "a", "b", "b"], [*"aaac"]]
    source = completed(rounds, "base") / "snapshots/step_1.pth"
    assert opened_inputs(rounds, "b/1") == [
        {"init": [{"path": "base", "files": {"snapshots/step_1.pth": sha256(source)}}]}
    ]
    assert ran_with(rounds, "b/1") | {"inputs": {}, "start": str(source)} == ran_with(rounds, "b/1")
    explanation = rounds.call("--why", "b/1").stdout
    assert "starts    from base, snapshot step_1 (init)" in explanation
    assert "depends on base" in explanation
    config = record.read_config(rounds.directory("b/1"))
    assert config["init"] == {"from": "base", "snapshot": "step_1"}


def test_a_resumed_attempt_uses_its_own_checkpoint_and_not_the_source(rounds: Repository) -> None:
    rounds.write({"base": group("base"), "b": group("b", "b", config={"stop": 2}, init={"from": "base"})})
    assert rounds.call().returncode == DONE
    assert rounds.causes("b") == ["preempted", "completed"]
    assert words(rounds, "b") == [*"aaabbb"]
    first, second = opened_inputs(rounds, "b")
    assert first == second


def test_a_missing_snapshot_blocks_and_the_tags_that_exist_are_listed(rounds: Repository) -> None:
    groups = {
        "base": group("base", steps=2, config={"tags": True}),
        "b": group("b", "b", init={"from": "base", "snapshot": "step_9"}),
    }
    rounds.write(groups)
    assert rounds.call().returncode == FAILED
    why = "cannot start: base has no snapshot 'step_9': it has step_1, step_2"
    assert reason(rounds, "b") == ("blocked", why)
    groups["b"]["init"]["snapshot"] = "step_2"
    rounds.write(groups)
    assert rounds.call().returncode == DONE


def test_the_source_is_waited_for_and_one_that_failed_is_named(rounds: Repository) -> None:
    rounds.write({"base": group("base", word=0), "b": group("b", init={"from": "base"})})  # type: ignore[arg-type]
    assert rounds.call().returncode == FAILED
    state, why = reason(rounds, "b")
    assert state == "pending"
    assert why.startswith("waits for base, which is failed: failed 2 times")
    assert not rounds.status()["b"]["goes_on"]


def test_a_rerun_of_the_source_is_refused_while_an_experiment_that_starts_from_it_has_not_ended(
    rounds: Repository,
) -> None:
    rounds.write({"base": group("base"), "b": group("b", init={"from": "base"})})
    assert rounds.call("--only", "base").returncode == DONE
    assert "base: refused, its result is used by b" in rounds.call("--rerun", "--only", "base").stdout


def test_a_changed_source_is_reported_as_a_changed_config(rounds: Repository) -> None:
    groups = {"base": group("base/{x}", grid={"x": [1, 2]}), "b": group("b", init={"from": "base/1"})}
    rounds.write(groups)
    assert rounds.call().returncode == DONE
    groups["b"]["init"] = {"from": "base/2"}
    rounds.write(groups)
    assert rounds.call().returncode == FAILED
    state, why = reason(rounds, "b")
    assert state == "blocked"
    assert "init.from was 'base/1', is now 'base/2'. --rerun runs it again; or restore the round file" in why
    assert "b: refused, its study or its dependencies have changed" in rounds.call("--accept").stdout
    assert rounds.call("--rerun", "--only", "b").returncode == DONE


def test_another_config_of_a_run_with_a_source_can_be_accepted(rounds: Repository) -> None:
    groups = {"base": group("base"), "b": group("b", init={"from": "base"})}
    rounds.write(groups)
    assert rounds.call().returncode == DONE
    groups["b"]["config"]["note"] = 1
    rounds.write(groups)
    assert rounds.call("--accept").returncode == DONE
    assert reason(rounds, "b") == ("completed", "accepted, although the round file has changed: note is new: 1")


# ---------------------------------------------------------------------------------------------- a file of the user


@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_must_exist_before_anything_is_submitted(rounds: Repository, absolute: bool) -> None:
    file = rounds.root / "weights.pth"
    written = str(file) if absolute else "weights.pth"
    rounds.write({"base": group("base"), "b": group("b", "b", 1, init={"from": written}, after=["base"])})
    dry_run = rounds.call("--dry-run")
    assert f"b cannot start: {file} in `init` does not exist, or is not a file" in dry_run.stderr
    assert rounds.call().returncode == FAILED
    assert not rounds.directory("b").exists()
    file.write_text(json.dumps({"step": 7, "words": ["w"]}))
    assert rounds.call().returncode == DONE
    assert words(rounds, "b") == ["w", "b"]
    (inputs,) = opened_inputs(rounds, "b")
    assert inputs["init"] == [{"path": written, "sha256": sha256(file)}]
    assert ran_with(rounds, "b")["start"] == str(file)


def test_a_file_that_was_changed_is_refused_until_a_retry(rounds: Repository) -> None:
    file = rounds.root / "weights.pth"
    file.write_text(json.dumps({"step": 0, "words": ["first"]}))
    old = sha256(file)
    config = {"stop": 1, "overwrites": str(file)}
    rounds.write({"b": group("b", "b", 2, config=config, init={"from": "weights.pth"})})
    assert rounds.call().returncode == FAILED
    assert rounds.causes("b") == ["preempted", "error"]
    assert f"{file} is not the file that this experiment was started with" in reason(rounds, "b")[1]
    assert rounds.call("--retry").returncode == DONE
    assert rounds.causes("b") == ["preempted", "error", "retry", "preempted", "completed"]
    assert [one["init"][0]["sha256"] for one in opened_inputs(rounds, "b")] == [old, old, *[sha256(file)] * 2]
    assert words(rounds, "b") == ["changed", "b", "b"], "with another input, nothing is resumed"


# ---------------------------------------------------------------------------------------------- continue


def test_a_finished_run_goes_on_as_one_long_run(rounds: Repository) -> None:
    grid = {"seed": [0, 1]}
    rounds.write(
        {
            "base": group("base/{seed}", grid=grid),
            "longer": group("longer/{seed}", steps=5, grid=grid, **{"continue": {"from": "base"}}),
            "long": group("long/{seed}", steps=5, grid=grid),
        }
    )
    assert rounds.call().returncode == DONE
    for seed in (0, 1):
        end = [completed(rounds, f"{name}/{seed}") / "checkpoint.pth" for name in ("longer", "long")]
        assert end[0].read_bytes() == end[1].read_bytes()
        source = completed(rounds, f"base/{seed}") / "checkpoint.pth"
        (inputs,) = opened_inputs(rounds, f"longer/{seed}")
        assert inputs == {"continue": [{"path": f"base/{seed}", "files": {"checkpoint.pth": sha256(source)}}]}
        assert rounds.record(f"longer/{seed}").runs[0].progress.started_epoch == 3  # type: ignore[union-attr]


def test_a_checkpoint_that_was_deleted_before_the_first_attempt_is_not_replaced_by_nothing(rounds: Repository) -> None:
    rounds.write({"base": group("base"), "b": group("b", steps=5, **{"continue": {"from": "base"}})})
    assert rounds.call("--only", "base").returncode == DONE
    (completed(rounds, "base") / "checkpoint.pth").unlink()
    rounds.call(timeout=120)
    assert set(rounds.causes("b")) == {"input"}
    assert "checkpoint.pth is not visible on this node" in reason(rounds, "b")[1]


def test_a_result_from_before_checkpoints_were_kept_names_what_to_do(rounds: Repository) -> None:
    rounds.write({"base": group("base"), "b": group("b", steps=5, **{"continue": {"from": "base"}})})
    assert rounds.call("--only", "base").returncode == DONE
    history = rounds.directory("base") / record.HISTORY
    known = json.loads(history.read_text())
    known["attempts"][0]["progress"]["artifacts"] = {"best.pth": "0"}
    history.write_text(json.dumps(known))
    assert rounds.call().returncode == FAILED
    why = "cannot start: base was completed without a checkpoint.pth. To run it again: --rerun"
    assert reason(rounds, "b") == ("blocked", why)
    assert rounds.call("--rerun", "--force", "--only", "base").returncode == DONE
    assert rounds.call().returncode == DONE


def test_the_best_settings_of_a_sweep_go_on(rounds: Repository) -> None:
    select = {"from": "sweep", "metric": "loss", "mode": "min"}
    sweep = group("s/{loss}/{seed}", steps=2, grid={"loss": [3, 1, 2], "seed": [0, 1]})
    del sweep["config"]["word"]
    sweep["zip"] = {"word": ["w"]}
    best = {"path": "best/{seed}", "study": "s", "select": select, "continue": {"from": "sweep"}}
    best |= {"config": {"steps": 4}, "grid": {"seed": [0, 1]}}
    rounds.write({"sweep": sweep, "best": best})
    assert rounds.call().returncode == DONE
    assert words(rounds, "best/1") == ["w"] * 4
    (inputs,) = opened_inputs(rounds, "best/1")
    assert inputs["continue"][0]["path"] == "s/1/1"
    best["grid"] = {"seed": [0, 1, 5]}
    rounds.write({"sweep": sweep, "best": best})
    assert rounds.call().returncode == FAILED
    state, why = reason(rounds, "best/5")
    assert state == "blocked"
    assert why == (
        "`continue` needs one run, and the selected setting has 2, none with seed 5: give the group the seeds of sweep"
    )


# ---------------------------------------------------------------------------------------------- nothing is lost


def test_an_archive_keeps_the_files_and_can_be_read_without_the_round_file(rounds: Repository) -> None:
    user = group("u", after=["base"], inputs_from=["samples.npz"])
    groups = {
        "base": group("base", config={"tags": True}),
        "b": group("b", init={"from": "base", "snapshot": "step_1"}),
        "u": user,
    }
    rounds.write(groups)
    assert rounds.call().returncode == DONE
    before = {name: content for name, content in snapshot(rounds.directory("base")).items() if name.endswith("z")}
    before |= {name: content for name, content in snapshot(rounds.directory("base")).items() if name.endswith(".pth")}
    assert {"attempts/1/kept/samples.npz", "attempts/1/snapshots/step_1.pth", "attempts/1/checkpoint.pth"} <= set(
        before
    )
    assert rounds.call("--archive").returncode == DONE
    archived = rounds.analysis / "experiment_r/experiments"
    after = snapshot(archived / "base")
    assert {name: after[name] for name in before} == before
    (rounds.rounds / "r.yaml").unlink()
    folders = Folders(rounds.rounds, rounds.experiments, rounds.analysis)
    found = {one.path: one for one in read_round("r", folders).entries}
    assert {path: one.state for path, one in found.items()} == dict.fromkeys(("base", "b", "u"), State.COMPLETED)


def test_deleting_copied_files_leaves_those_of_a_result(rounds: Repository) -> None:
    """Two attempts are interrupted, the third completes; after a rerun the same."""
    grows = (
        f"echo x >> {{directory}}/samples; n=$(wc -l < {rounds.notes}/n); echo >> {rounds.notes}/n; [ $((n % 3)) = 2 ]"
    )
    rounds.write(
        {
            "samples": {"path": "x", "command": ["bash", "-c", f"{grows} || exit 75"], "carry": {"keep": 1}},
            "user": group("u", after=["samples"], inputs_from=["samples"]),
        }
    )
    (rounds.notes / "n").touch()
    assert rounds.call("--only", "x").returncode == DONE
    assert rounds.call("--rerun", "--only", "x", "--force").returncode == DONE
    assert rounds.causes("x") == ["preempted", "preempted", "completed", "rerun", "preempted", "preempted", "completed"]
    left = [one for one in (1, 2, 3, 5, 6, 7) if (rounds.directory("x") / f"attempts/{one}/files/samples").exists()]
    assert {3, 7} <= set(left)
    assert left != [1, 2, 3, 5, 6, 7], "others were deleted"
    assert rounds.call().returncode == DONE


def test_an_experiment_that_was_removed_from_the_round_file_keeps_its_source(rounds: Repository) -> None:
    groups = {"base": group("base"), "b": group("b", init={"from": "base"})}
    rounds.write(groups)
    assert rounds.call().returncode == DONE
    groups["b"]["path"] = "renamed"
    rounds.write(groups)
    assert "the round file has the same config at renamed" in rounds.call("--status").stdout
    assert "depends on base" in rounds.call("--why", "b").stdout


# ---------------------------------------------------------------------------------------------- the decision


BASE = Experiment("r", "base", "base", "s", {})
BRANCH = Experiment("r", "b", "b", "s", {}, start=StartFrom("init", "base", "t"))


def with_artifacts(done: Attempt, **artifacts: str) -> Attempt:
    return replace(done, progress=Progress(artifacts={name.replace("_", "."): one for name, one in artifacts.items()}))


def status_of(last: Experiment, known: dict[str, Record], *others: Experiment) -> ExperimentStatus:
    statuses = evaluate([*others, last], Evidence(known, metrics, CLOCK))
    return statuses[last.path]


def test_an_entry_identifies_a_result_by_all_the_hashes_that_it_has() -> None:
    done = with_artifacts(ended(BASE, Cause.COMPLETED), a_npz="1", b_npz="2", best_pth="3")
    rec = Record(Path("/nowhere/base"), (done,))
    for entry in ({"files": {"a.npz": "1"}}, {"files": {"a.npz": "1", "b.npz": "2"}}, {"sha256": "3"}):
        assert result_for({"path": "base", **entry}, rec) is done
    for other in ({"files": {"a.npz": "2"}}, {"files": {"a.npz": "1", "c.npz": "2"}}, {"token": "other"}, {}):
        assert result_for({"path": "base", **other}, rec) is None
    plain = Record(rec.directory, (ended(BASE, Cause.COMPLETED),))
    assert result_for({"path": "base", "token": "t1", "files": {"x": None}}, plain) is plain.attempts[0]
    assert result_for({"path": "base", "token": "t2", "files": {"x": None}}, plain) is None


def test_a_partial_group_is_blocked_by_a_completed_run_without_the_file() -> None:
    runs = [Experiment("r", "runs", path, "s", {}) for path in ("a", "c")]
    last = Experiment(
        "r", "z", "z", "s", {}, after={"runs": ("a", "c")}, partial=("runs",), input_files={"runs": ("x.npz",)}
    )
    done = with_artifacts(ended(runs[0], Cause.COMPLETED), x_npz="1")
    known = records([*runs, last], a=done, c=ended(runs[1], Cause.ERROR))
    found = status_of(last, known, *runs)
    assert (found.action.verb, found.inputs.pinned) == (Verb.SUBMIT, {"runs": [{"path": "a", "files": {"x.npz": "1"}}]})
    known["c"] = replace(known["c"], attempts=(ended(runs[1], Cause.COMPLETED),))
    found = status_of(last, known, *runs)
    assert (found.action.state, found.action.reason) == (
        State.BLOCKED,
        NO_FILE.format("c", "x.npz") + ": there are none",
    )


def test_the_pinned_checkpoint_is_kept_after_a_rerun_of_the_source() -> None:
    first = with_artifacts(ended(BASE, Cause.COMPLETED), best_pth="0")
    first = replace(first, progress=Progress(artifacts={"snapshots/t.pth": "1"}))
    known = records([BASE, BRANCH], base=first)
    pinned = status_of(BRANCH, known, BASE).inputs.pinned
    assert pinned == {"init": [{"path": "base", "files": {"snapshots/t.pth": "1"}}]}
    began = ended(BRANCH, Cause.PREEMPTED)
    known["b"] = replace(known["b"], attempts=(replace(began, opened=replace(began.opened, inputs=pinned)),))
    mark = replace(ended(BASE, Cause.RERUN, number=2), progress=None)
    mark = replace(mark, opened=replace(mark.opened, mark=Cause.RERUN))
    second = replace(ended(BASE, Cause.COMPLETED, number=3), progress=Progress(artifacts={"snapshots/t.pth": "2"}))
    known["base"] = replace(known["base"], attempts=(first, mark, second))
    assert status_of(BRANCH, known, BASE).inputs.pinned == pinned
    assert status_of(replace(BRANCH, path="b"), known, BASE).action.verb is Verb.SUBMIT
    known["b"] = Record(known["b"].directory)
    assert status_of(BRANCH, known, BASE).inputs.pinned == {
        "init": [{"path": "base", "files": {"snapshots/t.pth": "2"}}]
    }


def test_without_the_files_at_hand_they_are_taken_for_granted() -> None:
    own = replace(BRANCH, start=StartFrom("init", "/nowhere.pth", is_file=True))
    assert status_of(own, records([own])).action.verb is Verb.SUBMIT
    assert UNREAD.has_file(Path("/nowhere"), ended(BASE, Cause.COMPLETED), "x")

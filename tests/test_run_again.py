"""Retry with a corrected config, rerun of completed experiments, accepted results: with real jobs on this host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import WORK_REMAINS, ClusterRounds
from rounds_for_tests import Bench, Rounds, snapshot

from roundhouse.model.attempt import Pin
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import changes
from roundhouse.store import history, markers, record

DONE, USAGE, FAILED = 0, 2, 4

# It appends a line to a file for each experiment, writes what it was given, and exits as the config says.
SCRIPT = r"""
name=$1 code=$2 value=$3
echo "$value" >> NOTES/"$name"
printf '{"score": %s}' "$value" > "$ROUNDHOUSE_DIRECTORY/metrics.json"
exit "$code"
"""


def write(rounds: Rounds, groups: dict[str, dict[str, Any]]) -> None:
    """A round of groups of one experiment, each with the config `code` (of its exit) and `value`."""
    program = rounds.folder / "program.sh"
    program.write_text(SCRIPT.replace("NOTES", str(rounds.notes)))
    rounds.notes.mkdir(exist_ok=True)
    content: dict[str, Any] = {}
    for name, given in groups.items():
        config = {key: given[key] for key in given if key != "after"}
        after = {"after": given["after"]} if "after" in given else {}
        command = f"bash {program} {name} {{code}} {{value}}"
        content[name] = {"path": name, "config": config, "command": command, **after}
    rounds.write(content)


def test_a_failed_run_is_retried_with_a_corrected_config(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 1, "value": 5}})
    assert rounds.call().returncode == FAILED
    write(rounds, {"a": {"code": 0, "value": 5}})
    blocked = rounds.status()["a"]
    assert blocked["state"] == "blocked"
    assert "code was 1, is now 0" in blocked["reason"]
    assert "--retry runs it with the new config" in blocked["reason"]
    retried = rounds.call("--retry")
    assert retried.returncode == DONE, retried.stdout + retried.stderr
    assert "1 experiment retried with another config: " in retried.stdout
    assert "code was 1, is now 0" in retried.stdout
    assert rounds.causes("a") == ["error", "error", "retry", "completed"]
    assert record.read_config(rounds.directory("a"))["config"]["code"] == 0
    assert "what ran before had another config: " in rounds.call("--why", "a").stdout


def test_changes_name_what_is_new_gone_and_different_and_no_word_of_a_command_that_follows_from_a_key() -> None:
    before = {"study": None, "command": ["run", "--lr", "0.1", "a.py"], "config": {"lr": 0.1, "old": 1}, "after": {}}
    after = {**before, "config": {"lr": 0.2, "new": [1]}, "after": {"t": ["t/0"]}}
    after["command"] = ["run", "--lr", "0.2", "b.py"]
    keys = "lr was 0.1, is now 0.2, old was 1, is gone, new is new: [1], after.t is new: ['t/0']"
    assert changes(before, after) == f"{keys}, 'a.py' in the command is now 'b.py'"
    option = {**before, "command": ["run", "--lr", "0.3", "a.py", "--wandb", "off"]}
    assert changes(before, option) == (
        "'0.1' after --lr in the command is now '0.3', '--wandb off' is new in the command"
    )
    assert (
        changes(option, {**before, "command": ["run", "--lr", "0.3", "a.py"]})
        == "'--wandb off' is gone from the command"
    )
    assert changes(before, {**before, "command": None}) == "command was 'run --lr 0.1 a.py', is now ''"
    assert changes({**before, "study": "s"}, before) == "study was 's', is now None"
    assert changes(before, dict(reversed(list(before.items())))) == ""


def test_the_same_change_of_many_experiments_is_reported_once(rounds: Rounds) -> None:
    names = [f"e{number:02}" for number in range(12)]
    program = rounds.folder / "fails.sh"
    program.write_text("exit 1")
    for _ in range(2):
        rounds.write({name: {"path": name, "config": {"lr": 1}, "command": f"bash {program}"} for name in names})
        rounds.call()
    program.write_text("exit 0")
    rounds.write({name: {"path": name, "config": {"lr": 2}, "command": f"bash {program}"} for name in names})
    retried = rounds.call("--retry").stdout
    lines = [line for line in retried.splitlines() if "retried with another config" in line]
    listed = ", ".join(names[:8])
    assert lines == [f"12 experiments retried with another config: lr was 1, is now 2 ({listed} and 4 more)"]


def test_earlier_files_are_used_after_a_change_of_the_config_only_if_the_user_says_so(rounds: Rounds) -> None:
    seen = rounds.notes / "earlier"
    command = f"bash -c 'echo \"$ROUNDHOUSE_EARLIER\" >> {seen}; exit $0' {{code}}"
    rounds.write({"a": {"path": "a", "config": {"code": 1}, "command": command}})
    rounds.call()
    rounds.write({"a": {"path": "a", "config": {"code": 2}, "command": command}})
    rounds.call("--retry")
    rounds.write({"a": {"path": "a", "config": {"code": 0}, "command": command}})
    rounds.call("--retry", "--keep-files")
    attempts = [[Path(one).parts for one in line.split(":") if one] for line in seen.read_text().splitlines()]
    numbers = [[parts[parts.index("attempts") + 1] for parts in line] for line in attempts]
    assert numbers == [[], ["1"], [], ["4"], ["5", "4", "2", "1"]]
    assert rounds.record("a").attempts[5].opened.keep_files
    assert "the result is approximate" in rounds.call("--why", "a").stdout


def test_keep_files_without_a_change_changes_nothing(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 1, "value": 5}})
    rounds.call()
    rounds.call("--retry", "--keep-files")
    assert not any(one.opened.keep_files for one in rounds.record("a").attempts)


def test_a_completed_experiment_runs_again_and_keeps_its_result(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    assert rounds.call().returncode == DONE
    directory = rounds.directory("a")
    before = {name: one for name, one in snapshot(directory).items() if name != record.STATUS}
    assert (directory / record.HISTORY).exists()
    rerun = rounds.call("--rerun", "--only", "a")
    assert rerun.returncode == DONE, rerun.stdout + rerun.stderr
    assert "a: will run again; the result of attempt 1 stays" in rerun.stdout
    assert rounds.causes("a") == ["completed", "rerun", "completed"]
    assert rounds.lines("a") == ["5", "5"]
    after = snapshot(directory)
    assert {name: after[name] for name in before if "metrics" not in name and name != record.CONFIG}.items() <= (
        before.items()
    ), "what the first run left was changed"
    assert "attempts/3" in str((directory / "metrics.json").resolve())
    assert "earlier result: attempt 1, completed 20" in rounds.call("--why", "a").stdout
    assert rounds.call().returncode == DONE
    assert rounds.lines("a") == ["5", "5"], "it runs again once"


def test_a_rerun_may_have_another_config(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    rounds.call()
    write(rounds, {"a": {"code": 0, "value": 6}})
    blocked = rounds.status()["a"]
    assert (blocked["state"], "value was 5, is now 6" in blocked["reason"]) == ("blocked", True)
    assert "--rerun runs it again" in blocked["reason"]
    assert "nothing to retry" in rounds.call("--retry").stdout
    assert "value was 5, is now 6" in rounds.call("--rerun", "--only", "*").stdout
    assert rounds.states() == {"a": "completed"}
    assert json.loads((rounds.directory("a") / "metrics.json").read_text()) == {"score": 6}


def test_a_rerun_needs_only_and_something_completed(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 1, "value": 5}})
    refused = rounds.call("--rerun")
    assert (refused.returncode, "--rerun requires --only GLOB" in refused.stderr) == (USAGE, True)
    rounds.call()
    assert "nothing to rerun" in rounds.call("--rerun", "--only", "*").stdout
    for option in ("--keep-files", "--force"):
        assert f"{option} is only valid with" in rounds.call(option).stderr


def test_a_rerun_of_what_is_in_use_must_be_forced_and_completed_experiments_keep_what_they_used(rounds: Rounds) -> None:
    groups: dict[str, dict[str, Any]] = {
        "t": {"code": 0, "value": 1},
        "s": {"code": 0, "value": 2, "after": ["t"]},
        "u": {"code": 1, "value": 3, "after": ["t"]},
    }
    write(rounds, groups)
    rounds.call("--limit", "2", "--only", "[ts]")
    assert rounds.states() == {"t": "completed", "s": "completed", "u": "pending"}
    refused = rounds.call("--rerun", "--only", "t", "--limit", "0").stdout
    assert "t: refused, its result is used by u, which has not ended" in refused
    assert rounds.causes("t") == ["completed"]
    rounds.call("--rerun", "--only", "t", "--force")
    assert rounds.causes("t") == ["completed", "rerun", "completed"]
    status = rounds.status()["s"]
    assert (status["state"], status["reason"]) == ("completed", "trained from an earlier run of t")
    assert rounds.lines("s") == ["2"], "it keeps the old result"
    rounds.call("--rerun", "--only", "s")
    assert rounds.status()["s"]["reason"] == ""
    newest = rounds.record("s").completed
    teacher = rounds.record("t").completed
    assert newest is not None
    assert teacher is not None
    assert newest.opened.inputs == {"t": [{"path": "t", "token": teacher.opened.token}]}


def test_what_has_started_keeps_the_input_that_it_started_with(rounds: Rounds) -> None:
    write(rounds, {"t": {"code": 0, "value": 1}, "u": {"code": 75, "value": 3, "after": ["t"]}})
    rounds.write((rounds.rounds / "r.yaml").read_text().replace("round: r", "round: r\nretry: {preempted: 2}"))
    rounds.call()
    assert rounds.causes("u") == ["preempted", "preempted"]
    rounds.call("--rerun", "--only", "t")
    rounds.call("--retry", "--only", "u")
    runs = [one.opened.inputs["t"][0]["token"] for one in rounds.record("u").runs]
    old, new = (one.opened.token for one in rounds.record("t").results)
    assert runs == [old, old, new, new], "a retry uses the present result, and anything else the one that is pinned"


def test_a_changed_config_is_accepted_for_a_completed_result(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}, "b": {"code": 0, "value": 5}, "c": {"code": 1, "value": 5}})
    rounds.call()
    write(rounds, {name: {"code": 0, "value": 5, "log_every": 10} for name in "abc"})
    assert rounds.states() == {"a": "blocked", "b": "blocked", "c": "blocked"}
    accepted = rounds.call("--accept", "--limit", "0").stdout
    assert "2 experiments accepted, although the config has changed: log_every is new: 10 (a, b)" in accepted
    status = rounds.status()
    assert [status[name]["state"] for name in "abc"] == ["completed", "completed", "blocked"]
    assert status["a"]["reason"] == "accepted, although the round file has changed: log_every is new: 10"
    (file,) = (rounds.directory("a") / "accepted").iterdir()
    content = json.loads(file.read_text())
    assert content["ran"]["config"] == {"code": 0, "value": 5}
    assert content["accepted"]["config"] == {"code": 0, "value": 5, "log_every": 10}
    assert content["user"]
    assert content["at"]
    assert "log_every" not in record.read_config(rounds.directory("a"))["config"], "config.yaml stays what ran"
    assert "config    code=0, value=5\n" in rounds.call("--why", "a").stdout
    assert "nothing to accept" in rounds.call("--accept").stdout


def test_a_rerun_after_a_change_was_accepted_runs_the_present_config(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    rounds.call()
    write(rounds, {"a": {"code": 0, "value": 6}})
    rounds.call("--accept")
    rerun = rounds.call("--rerun", "--only", "a")
    assert "1 experiment run again with another config: value was 5, is now 6 (a)" in rerun.stdout
    assert rounds.causes("a") == ["completed", "rerun", "completed"]
    assert rounds.lines("a") == ["5", "6"]


@pytest.mark.parametrize("damage", ["", "{", '{"ran": {}}'])
def test_an_unreadable_acceptance_counts_as_none(rounds: Rounds, damage: str) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    rounds.call()
    write(rounds, {"a": {"code": 0, "value": 6}})
    rounds.call("--accept")
    (file,) = (rounds.directory("a") / "accepted").iterdir()
    file.write_text(damage)
    assert rounds.states() == {"a": "blocked"}


def test_a_changed_study_or_dependency_is_not_accepted(rounds: Rounds) -> None:
    write(rounds, {"t": {"code": 0, "value": 1}, "a": {"code": 0, "value": 5}})
    rounds.call()
    write(rounds, {"t": {"code": 0, "value": 1}, "a": {"code": 0, "value": 5, "after": ["t"]}})
    refused = rounds.call("--accept").stdout
    assert "a: refused, its study or its dependencies have changed" in refused
    assert "--rerun runs it with the new config" in refused


def test_a_config_file_without_the_keys_that_are_null_is_accepted_all_the_same(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    rounds.call()
    config = rounds.directory("a") / record.CONFIG
    config.write_text(config.read_text().replace("study: null\n", ""))
    write(rounds, {"a": {"code": 0, "value": 6}})
    rounds.call("--accept")
    assert rounds.states() == {"a": "completed"}


@pytest.mark.parametrize("inputs", [{"t": 5}, {"t": [1]}, {"t": [{"sha256": "0"}]}])
def test_inputs_of_another_form_are_reported_as_unreadable(rounds: Rounds, inputs: Any) -> None:
    write(rounds, {"t": {"code": 0, "value": 1}, "a": {"code": 1, "value": 5, "after": ["t"]}})
    rounds.call()
    job = record.attempt_directory(rounds.directory("a"), 2) / record.JOB
    job.write_text(json.dumps({**json.loads(job.read_text()), "inputs": inputs}))
    assert "attempts/2/holds an invalid value" in rounds.status()["a"]["reason"]
    assert "will be retried" in rounds.call("--retry", "--limit", "0").stdout


def test_an_archived_round_is_not_run_again(rounds: Rounds) -> None:
    write(rounds, {"a": {"code": 0, "value": 5}})
    rounds.call()
    assert rounds.call("--archive").returncode == DONE
    refused = rounds.call("--rerun", "--only", "*")
    assert (refused.returncode, "archived" in refused.stderr) == (USAGE, True)


def test_a_job_of_a_rerun_that_the_scheduler_restarts_continues_in_the_next_attempt(bench: Bench) -> None:
    """history.json, of the attempts before the rerun, does not prevent it."""
    bench.open()
    assert bench.run() == (0, "")
    history.compact(record.read(bench.directory))
    assert markers.mark(record.read(bench.directory), bench.experiment, Cause.RERUN, "by the user", pin=Pin())
    bench.open(number=3, token="rhthethirdtoken")
    bench.token = "rhthethirdtoken"
    claim = {"version": 1, "nonce": "first", "job_id": "8", "host": "node"}
    (bench.place(3) / record.CLAIM).write_text(json.dumps(claim) + "\n")
    assert bench.run(bench.script(3), job_id="8") == (0, "")
    causes = [attempt.cause for attempt in record.read(bench.directory).attempts]
    assert causes == [Cause.COMPLETED, Cause.RERUN, Cause.PREEMPTED, Cause.COMPLETED]


def test_a_history_that_another_runner_made_before_a_rerun_is_not_made_again(bench: Bench) -> None:
    """A slow runner compacts what it read before the rerun; the attempts after it stay as they are."""
    bench.open()
    assert bench.run() == (0, "")
    before = record.read(bench.directory)
    assert markers.mark(before, bench.experiment, Cause.RERUN, "by the user", pin=Pin())
    bench.open(number=3, token="rhthethirdtoken")
    bench.token = "rhthethirdtoken"
    assert bench.run(bench.script(3)) == (0, "")
    after = record.read(bench.directory)
    history.compact(before)
    history.compact(after)
    found = record.read(bench.directory)
    assert [attempt.cause for attempt in found.attempts] == [Cause.COMPLETED, Cause.RERUN, Cause.COMPLETED]
    assert (found.in_history, found.compacted, found.damage, found.notes) == (1, False, "", ())
    assert found.attempts[2].opened.token == "rhthethirdtoken"
    assert set(history.environments(bench.directory)) <= {1, 3}


def test_a_rerun_whose_marker_cannot_be_read_is_not_undone(bench: Bench) -> None:
    """A read from a stale cache must not make the old result count, nor put the open attempt into history.json."""
    bench.open()
    assert bench.run() == (0, "")
    assert markers.mark(record.read(bench.directory), bench.experiment, Cause.RERUN, "by the user", pin=Pin())
    bench.open(number=3, token="rhthethirdtoken")
    (bench.place(3) / record.CLAIM).write_text('{"version": 1, "nonce": "n", "job_id": "8"}')
    marker = bench.place(2) / record.JOB
    whole = marker.read_bytes()
    marker.write_bytes(b"")
    stale = record.read(bench.directory)
    assert (stale.damage, len(stale.notes)) == ("", 1)
    assert (stale.completed, stale.resumable(3)) == (None, ())
    history.compact(stale)
    marker.write_bytes(whole)
    assert record.close(bench.directory, 3, Cause.COMPLETED, "")
    found = record.read(bench.directory)
    assert [one.number for one in found.results] == [1, 3]
    assert found.completed is found.attempts[-1]


@pytest.mark.cluster
def test_what_failed_on_the_local_machine_is_retried_on_the_cluster(slurm: ClusterRounds) -> None:
    write(slurm, {"a": {"code": 1, "value": 5}})
    slurm.call("--scheduler", "local")
    assert slurm.causes("a") == ["error", "error"]
    write(slurm, {"a": {"code": 0, "value": 5}})
    assert slurm.call().returncode == FAILED
    retried = slurm.call("--retry")
    assert retried.returncode == WORK_REMAINS, retried.stdout + retried.stderr
    slurm.pass_until_done()
    assert slurm.causes("a") == ["error", "error", "retry", "completed"]
    kinds = [one.opened.scheduler["kind"] for one in slurm.record("a").runs]
    assert kinds == ["local", "local", "slurm"]


@pytest.mark.cluster
def test_a_rerun_of_an_array_on_a_cluster(slurm: ClusterRounds) -> None:
    write(slurm, {name: {"code": 0, "value": 5} for name in "abc"})
    path = slurm.rounds / "r.yaml"
    path.write_text(path.read_text().replace("round: r", "round: r\nresources: {array: true}"))
    slurm.pass_until_done()
    assert slurm.call("--rerun", "--only", "[ab]").returncode == WORK_REMAINS
    slurm.pass_until_done()
    assert [slurm.causes(name) for name in "abc"] == [["completed", "rerun", "completed"]] * 2 + [["completed"]]
    assert [slurm.lines(name) for name in "abc"] == [["5", "5"], ["5", "5"], ["5"]]
    tokens = [one.opened.token for name in "abc" for one in slurm.record(name).attempts]
    assert len(set(tokens)) == len(tokens)

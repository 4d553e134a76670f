"""`allow: partial`: a comparison runs with what has completed, once nothing else can, and says what is missing.

Three things are most likely to go wrong: it starts although a missing one may still complete; its inputs change between
two attempts; and a round that waits today is another round once `allow` is added.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rounds_for_tests import Rounds, rounds  # noqa: F401
from test_evaluate import CLOCK, ended, experiment, records

from roundhouse.config.round import json_schema, load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evidence, evaluate
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State, Verb
from roundhouse.model.status import ExperimentStatus, goes_on
from roundhouse.store import metrics

# ---------------------------------------------------------------------------------------------- the round file

GROUPS = """\
round: r
study: s
experiments:
  runs: {{path: "{{x}}/{{seed}}", grid: {{x: [1, 2], seed: [0, 1]}}}}
  data: {{path: data}}
  compare:
    path: "c{{x}}"
    grid: {{x: [1, 2]}}
    after: {after}
"""


def load(tmp_path: Path, after: str) -> list[Experiment]:
    (tmp_path / "r.yaml").write_text(GROUPS.format(after=after))
    return load_round("r", tmp_path).experiments[-2:]


def test_it_is_written_for_each_group_and_is_not_part_of_the_config(tmp_path: Path) -> None:
    plain = load(tmp_path, '{runs: {x: "{x}"}, data: {}}')
    partial = load(tmp_path, '{runs: {x: "{x}", allow: partial}, data: {}}')
    assert [one.partial for one in plain + partial] == [(), (), ("runs",), ("runs",)]
    assert [one.after for one in plain] == [one.after for one in partial]
    assert [one.config_hash() for one in plain] == [one.config_hash() for one in partial]
    assert load(tmp_path, "{runs: {allow: partial}, data: {allow: partial}}")[0].partial == ("runs", "data")
    assert load(tmp_path, "[runs, data]")[0].partial == ()


@pytest.mark.parametrize("value", ["all", "true", "[partial]"])
def test_another_value_is_reported_by_file_and_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(RoundhouseError, match=r"r\.yaml:9: after\.runs\.allow must be 'partial' \(got "):
        load(tmp_path, f"{{runs: {{allow: {value}}}}}")


def test_the_schema_knows_it() -> None:
    listed, mapping = json_schema()["$defs"]["Group"]["properties"]["after"]["anyOf"]
    assert listed["type"] == "array"
    assert mapping["additionalProperties"]["properties"]["allow"] == {"const": "partial"}


# ---------------------------------------------------------------------------------------------- the decision

RUNS = [experiment(path) for path in ("a", "b", "c")]
COMPARE = Experiment("r", "z", "z", "s", {}, after={"runs": ("a", "b", "c")}, partial=("runs",))
ROUND = [*RUNS, COMPARE]


def status_of(known: dict[str, Record], one: Experiment = COMPARE, **evidence: Any) -> ExperimentStatus:
    return evaluate([*RUNS, one], Evidence(known, metrics, CLOCK, **evidence))[one.path]


def three(**causes: Cause) -> dict[str, Record]:
    return records(ROUND, **{path: ended(one, causes[path]) for one in RUNS if (path := one.path) in causes})


def test_it_starts_once_all_others_have_ended_without_completing() -> None:
    status = status_of(three(a=Cause.COMPLETED, b=Cause.DIVERGED, c=Cause.ERROR))
    assert status.action.verb is Verb.SUBMIT
    assert status.action.reason == "without 2 of 3 of group runs: b is diverged, c is failed"
    assert [entry["path"] for entry in status.inputs.pinned["runs"]] == ["a"]  # type: ignore[index]
    whole = status_of(three(a=Cause.COMPLETED, b=Cause.COMPLETED, c=Cause.COMPLETED))
    assert (whole.action.verb, whole.action.reason) == (Verb.SUBMIT, "")


def test_it_waits_while_a_missing_one_may_still_complete() -> None:
    pending = status_of(three(a=Cause.COMPLETED, b=Cause.ERROR))
    assert (pending.action.verb, pending.action.reason) == (Verb.NOTHING, "waits for c, which is pending")
    assert goes_on(pending)
    retryable = status_of(three(a=Cause.COMPLETED, b=Cause.PREEMPTED, c=Cause.ERROR))
    assert retryable.action.reason == "waits for b, which is pending"


def test_it_waits_for_a_blocked_one_and_says_so() -> None:
    refused = {"refusal": lambda one, rec: "no data" if one.path == "c" else ""}
    status = status_of(three(a=Cause.COMPLETED, b=Cause.COMPLETED), **refused)
    assert status.action.reason == "waits for c, which is blocked: cannot start: no data"
    assert not goes_on(status)


def test_one_whose_own_dependency_has_ended_counts_as_ended() -> None:
    behind = Experiment("r", "c", "c", "s", {}, after={"b": ("b",)})
    found = evaluate(
        [RUNS[0], RUNS[1], behind, COMPARE],
        Evidence(three(a=Cause.COMPLETED, b=Cause.ERROR), metrics, CLOCK),
    )
    assert found["c"].action.state is State.PENDING
    assert found["z"].action.reason == "without 2 of 3 of group runs: b is failed, c is pending"


def test_without_any_completed_one_it_never_starts() -> None:
    status = status_of(three(a=Cause.ERROR, b=Cause.ERROR, c=Cause.DIVERGED))
    assert (status.action.state, goes_on(status)) == (State.PENDING, False)
    assert status.action.reason == (
        "none of the 3 experiments of group runs has completed: a is failed, b is failed, c is diverged"
    )


def test_groups_without_the_option_must_be_complete() -> None:
    both = replace(COMPARE, after={"runs": ("a", "b"), "data": ("c",)})
    status = status_of(three(a=Cause.COMPLETED, b=Cause.ERROR, c=Cause.ERROR), both)
    assert status.action.reason.startswith("waits for c, which is failed")


def test_the_inputs_of_the_first_attempt_stay_when_a_missing_one_completes_later() -> None:
    known = three(a=Cause.COMPLETED, b=Cause.COMPLETED, c=Cause.ERROR)
    pinned = status_of(known).inputs.pinned
    assert pinned is not None
    first = ended(COMPARE, Cause.PREEMPTED)
    known["z"] = replace(known["z"], attempts=(replace(first, opened=replace(first.opened, inputs=pinned)),))
    known["c"] = three(c=Cause.COMPLETED)["c"]
    again = status_of(known)
    assert (again.action.verb, again.inputs.pinned) == (Verb.SUBMIT, pinned)
    assert "without 1 of 3 of group runs: c has completed since" in again.action.reason


# ---------------------------------------------------------------------------------------------- a real round

COMPARISON = ["bash", "-c", 'echo "$ROUNDHOUSE_INPUT_RUNS|$ROUNDHOUSE_MISSING_RUNS" > {directory}/said']


def test_a_comparison_of_which_one_is_cancelled_runs_and_names_it(rounds: Rounds) -> None:  # noqa: F811
    groups = {
        "runs": {"path": "lr/{lr}", "grid": {"lr": [1, 2, 3]}, "command": "true"},
        "compare": {"path": "compare", "after": ["runs"], "command": COMPARISON},
    }
    rounds.write(groups)
    rounds.call("--cancel", "--only", "lr/3")
    assert rounds.call().returncode == 4
    waiting = rounds.status()["compare"]
    assert (waiting["state"], waiting["goes_on"]) == ("pending", False)

    groups["compare"]["after"] = {"runs": {"allow": "partial"}}
    rounds.write(groups)
    done = rounds.call()
    assert done.returncode == 4, "one is cancelled"
    (said,) = (rounds.directory("compare") / "attempts/1").rglob("said")
    inputs, _, missing = said.read_text().strip().partition("|")
    assert [Path(one).is_relative_to(rounds.directory(f"lr/{lr}")) for lr, one in enumerate(inputs.split(":"), 1)] == [
        True, True,
    ]  # fmt: skip
    assert missing == "lr/3"
    row = rounds.status()["compare"]
    assert (row["state"], row["reason"]) == ("completed", "without 1 of 3 of group runs: lr/3 is cancelled")
    why = rounds.call("--why", "compare").stdout
    assert "without   lr/3 of group runs, in attempt 1" in why
    log = (rounds.directory("compare") / "attempts/1/out.log").read_text()
    assert "roundhouse: these experiments of group runs are missing: lr/3" in log

    assert rounds.call("--retry").returncode == 0
    assert rounds.causes("compare") == ["completed"], "what has completed stays as it is"
    assert rounds.status()["compare"]["reason"] == "without 1 of 3 of group runs: lr/3 has completed since"


def test_a_retried_comparison_takes_what_has_completed_by_then(rounds: Rounds) -> None:  # noqa: F811
    flag = rounds.folder / "ready"
    test = f"[ -e {flag} ] || [ {{lr}} != 3 ]"
    groups = {
        "runs": {"path": "lr/{lr}", "grid": {"lr": [1, 2, 3]}, "command": ["bash", "-c", test]},
        "compare": {
            "path": "compare", "after": {"runs": {"allow": "partial"}}, "command": ["bash", "-c", f"[ -e {flag} ]"],
        },
    }  # fmt: skip
    rounds.write(groups)
    assert rounds.call().returncode == 4
    assert rounds.states()["compare"] == "failed"
    flag.touch()
    assert rounds.call("--retry").returncode == 0
    done = rounds.record("compare").completed
    assert done is not None
    assert [entry["path"] for entry in done.opened.inputs["runs"]] == ["lr/1", "lr/2", "lr/3"]
    assert json.loads(rounds.call("--status", "--json", "--only", "compare").stdout)[0]["reason"] == ""

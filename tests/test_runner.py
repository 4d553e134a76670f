"""runner.py as a user calls it: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY, Rounds, snapshot

import runner
from roundhouse.store import record

DONE, USAGE, WORK_REMAINS, FAILED, SYSTEM_ERROR = 0, 2, 3, 4, 5
KEYS = [
    "path", "state", "since", "goes_on", "attempt", "job_id", "job_state", "epoch", "epochs", "unit", "step", "steps",
    "metric", "best", "metric_name", "cause", "reason", "code",
]  # fmt: skip

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(rounds: Rounds, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """runner.py in this process, on the test's own folders: exit code, stdout, stderr."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(rounds.gpus))

    def call(*options: str, name: str | None = "r", scheduler: str = "local") -> tuple[int, str, str]:
        argv = rounds.argv(*(["--round", name] if name else []), "--scheduler", scheduler, *options)[2:]
        try:
            code = runner.main(argv)
        except SystemExit as left:
            code = int(left.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def write_two(rounds: Rounds) -> None:
    rounds.write({
        "teacher": {"path": "t/{seed}", "grid": {"seed": [0, 1]}, "command": "true"},
        "student": {"path": "s", "command": "true", "after": ["teacher"]},
    })  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("round: r\nexperiments: {e: {path: e, command: x}", "is not valid YAML"),
        ("- a list", "r.yaml:1: must be a mapping"),
        ("", "is empty"),
        ("round: other\nexperiments: {e: {path: e, command: x}}", "the name of the round is 'other'"),
        ("round: r\nexperimets: {}", "did you mean 'experiments'?"),
        ("round: r\nexperiments:\n  e: {path: e, command: x}\n  f: {path: e, command: y}", "path 'e' of group 'f'"),
        ("round: r\nexperiments: {e: {path: e, command: x, vocabulary: y}}", "choose from after, baseline, carry, "
         "combinations, command, config, continue, exclude, focus, grid, halving, include, init, inputs_from, path, "
         "priority, random, resources, select, study, time_limit, zip"),
        ("round: r\nexperiments: {e: {path: e, command: x, after: [f]}, f: {path: f, study: s, after: [e]}}", "cycle"),
        ("round: r\nexperiments:\n  e: {path: '{a}', command: x, grid: {a: []}}", "has no values for 'a'"),
        ("round: r\nexperiments:\n  e: {path: ../e, command: x}", "could lead out of the round's directory"),
        ("round: r\nexperiments:\n  e: {path: /e, command: x}", "is absolute"),
        ("round: r\nexperiments:\n  e: {path: e}", "neither study nor command"),
        ("round: r\nexperiments:\n  e: {path: e, command: x, resources: {walltime: soon}}", "is not a walltime"),
    ],
)  # fmt: skip
def test_an_error_in_a_round_file_is_reported_with_its_place(
    rounds: Rounds, call: Call, content: str, expected: str
) -> None:
    rounds.write(content)
    code, out, err = call()
    assert code == USAGE
    assert err.startswith("runner.py: ")
    assert "r.yaml" in err
    assert expected in err
    assert out == ""
    assert not rounds.experiments.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--limit", "-1"], "--limit must be >= 0 (got -1)"),
        (["--watch", "0"], "--watch must be >= 1 (got 0)"),
        (["--watch", "nan"], "--watch must be >= 1 (got nan)"),
        (["--watch", "inf"], "--watch must be < 10,000,000 (got inf)"),
        (["--jobs-per-gpu", "0"], "--jobs-per-gpu must be >= 1 (got 0)"),
        (["--json"], "--json is only valid with --status"),
        (["--status", "--watch"], "--watch is only valid with a pass, --retry, --rerun or --accept (got --status)"),
        (["--dry-run", "--json"], "--json is only valid with --status (got --dry-run)"),
        (["--force"], "--force is only valid with --archive"),
        (["--archive", "--only", "s"], "a pass, --dry-run, --status, --cancel, --retry, --rerun or --accept"),
        (["--cancel", "--limit", "1"], "--limit is only valid with a pass, --dry-run, --retry, --rerun or --accept"),
        (["--status", "--code", "current"], "is only valid with a pass, --dry-run, --retry, --rerun or --accept"),
        (["--code", "current"], "has no `snapshot: true`"),
        (["--only", "x/*"], "--only 'x/*' matches no experiment of round r"),
        (["--only", "S"], "did you mean 's'?"),
        (["--why", "t/2"], "has no experiment 't/2'; did you mean 't/"),
        (["--why", "nowhere"], "has no experiment 'nowhere'"),
        (["--site", "example_slrm"], "no site 'example_slrm'"),
    ],
)
def test_an_error_in_the_options_is_reported(rounds: Rounds, call: Call, options: list[str], expected: str) -> None:
    write_two(rounds)
    code, out, err = call(*options)
    assert code == USAGE
    assert expected in err
    assert out == ""


@pytest.mark.parametrize("options", [["--status", "--dry-run"], ["--limit", "many"], ["--frobnicate"]])
def test_unknown_options_and_wrong_combinations_are_named(rounds: Rounds, call: Call, options: list[str]) -> None:
    write_two(rounds)
    code, out, err = call(*options)
    assert (code, out) == (USAGE, "")
    assert all(option in err.splitlines()[-1] for option in options)


def test_an_unknown_round_is_reported_with_the_nearest_name(rounds: Rounds, call: Call) -> None:
    rounds.write({"e": {"path": "e", "command": "true"}}, "charlie")
    code, _, err = call(name="charly")
    assert (code, "did you mean 'charlie'?" in err) == (USAGE, True)
    assert "--round NAME is required" in call(name=None)[2]
    assert "no round '../charlie'" in call(name="../charlie")[2]
    code, _, err = call("--rounds", str(rounds.folder / "nowhere"))
    assert (code, "there is no round file" in err) == (USAGE, True)


@pytest.mark.parametrize(("scheduler", "command"), [("pbs", "qsub"), ("slurm", "sbatch")])
def test_a_missing_scheduler_is_reported(
    rounds: Rounds, call: Call, monkeypatch: pytest.MonkeyPatch, scheduler: str, command: str
) -> None:
    write_two(rounds)
    monkeypatch.setenv("PATH", str(rounds.notes))
    code, _, err = call(scheduler=scheduler)
    assert code == USAGE
    assert f"there is no command {command!r}" in err
    assert "--scheduler local" in err
    assert not rounds.experiments.exists()


def test_a_file_in_place_of_the_experiments_folder_is_reported(rounds: Rounds, call: Call) -> None:
    write_two(rounds)
    rounds.experiments.write_text("a file")
    for options in ((), ("--status",), ("--dry-run",), ("--cancel",), ("--retry",), ("--why", "s")):
        code, _, err = call(*options)
        assert code == SYSTEM_ERROR
        assert str(rounds.experiments) in err
        assert len(err.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- output


def test_the_status_as_json_has_the_documented_keys(rounds: Rounds, call: Call) -> None:
    write_two(rounds)
    assert call("--only", "t/0")[0] == DONE
    code, out, err = call("--status", "--json")
    assert (code, err) == (DONE, "")
    statuses = json.loads(out)
    assert [list(one) for one in statuses] == [KEYS] * 3
    assert [(row["path"], row["state"], row["attempt"], row["cause"]) for row in statuses] == [
        ("t/0", "completed", 1, "completed"),
        ("t/1", "pending", None, None),
        ("s", "pending", None, None),
    ]
    assert statuses[2]["reason"] == "waits for t/1, which is pending"
    assert statuses[0]["job_id"].startswith("rh")
    code, out, _ = call("--status", "--json", "--only", "t/*")
    assert [row["path"] for row in json.loads(out)] == ["t/0", "t/1"]


@pytest.mark.parametrize(
    "options", [("--status",), ("--status", "--json"), ("--dry-run",), ("--why", "s"), ("--schema",)]
)
@pytest.mark.parametrize("begun", [False, True])
def test_options_that_only_print_change_nothing(
    rounds: Rounds, call: Call, options: tuple[str, ...], begun: bool
) -> None:
    write_two(rounds)
    if begun:
        call("--limit", "1")
    before = snapshot(rounds.folder)
    assert call(*options)[0] == DONE
    assert snapshot(rounds.folder) == before


def test_a_dry_run_prints_what_would_happen_and_writes_the_scripts(rounds: Rounds, call: Call) -> None:
    write_two(rounds)
    code, out, _ = call("--dry-run")
    assert code == DONE
    lines = out.splitlines()
    assert lines[0].split(maxsplit=2) == ["submit", "t/0", "(1 core, 1 GPU, 1:00:00)"]
    assert lines[2].split(maxsplit=2) == ["pending", "s", "(1 core, 1 GPU, 1:00:00): waits for t/0, which is pending"]
    assert lines[-1].startswith("2 single jobs would be submitted through local (site default). Scripts: ")
    folder = Path(lines[-1].rpartition(" ")[2])
    scripts = sorted(folder.iterdir())
    assert [script.name for script in scripts] == ["t__0.sh", "t__1.sh"]
    assert all(subprocess.run(["bash", "-n", script], check=False).returncode == 0 for script in scripts)
    assert not list(rounds.experiments.rglob("attempts"))


def test_a_dry_run_on_a_full_machine_counts_later_jobs(rounds: Rounds, call: Call) -> None:
    rounds.write({"e": {"path": "e/{n}", "grid": {"n": list(range(5))}, "command": "true", "resources": {"ngpus": 1}}})
    lines = call("--dry-run")[1].splitlines()
    assert sum(line.endswith("waits for a slot on the local machine") for line in lines) == 3
    jobs = "2 single jobs would be submitted through local (site default)"
    assert lines[-1].startswith(f"{jobs}, and 3 more would follow as slots become free. Scripts: ")
    assert f"{jobs}, and 1 more would" in call("--dry-run", "--limit", "3")[1]
    assert f"{jobs}. Scripts" in call("--dry-run", "--limit", "2")[1]


def test_why_takes_the_path_of_an_experiment_or_of_its_directory(
    rounds: Rounds, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_two(rounds)
    assert call("--only", "t/0")[0] == DONE
    code, out, _ = call("--why", "t/0")
    assert code == DONE
    for part in ("r/t/0", "state     completed", "seed=0", "attempt 1", "end of the log of attempt 1:"):
        assert part in out
    assert call("--why", str(rounds.directory("t/0")))[1] == out
    monkeypatch.chdir(rounds.directory("t"))
    assert call("--why", "0/")[1] == out
    assert "depends on t/0, t/1" in call("--why", "s")[1]


def test_the_schema_is_a_complete_and_strict_json_schema(call: Call) -> None:
    code, out, _ = call("--schema", name=None)
    assert code == DONE
    schema = json.loads(out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    plain, extending = (schema["$defs"][schema[key]["$ref"].rpartition("/")[2]] for key in ("else", "then"))
    for form in (plain, extending):
        assert {"round", "experiments", "defaults", "resources"} <= form["properties"].keys()
    assert schema["if"] == {"required": ["extends"]}
    assert {*plain["required"]} == {"round", "experiments"}
    assert {*extending["required"]} == {"round", "extends"}
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', out))
    assert references
    assert references == schema["$defs"].keys()
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_a_pass_over_completed_experiments_reports_it(rounds: Rounds, call: Call) -> None:
    write_two(rounds)
    assert call()[0] == DONE
    code, out, err = call()
    assert (code, err) == (DONE, "")
    assert "Round r: all 3 experiments are completed." in out
    assert "seeds" not in out, "a table of results says nothing where there are no metrics"
    assert call("--retry")[1].startswith("nothing to retry")
    assert call("--cancel")[1].startswith("nothing to cancel")


# --------------------------------------------------------------------------------------------------------- exit codes


def test_the_exit_code_follows_the_states_of_the_round(rounds: Rounds, call: Call) -> None:
    rounds.write({
        "good": {"path": "good", "command": "true"},
        "bad": {"path": "bad", "command": "false"},
        "waits": {"path": "waits", "command": "true", "after": ["bad"]},
    })  # fmt: skip
    assert call("--limit", "0")[0] == WORK_REMAINS
    assert call("--limit", "1")[0] == WORK_REMAINS
    assert call("--only", "good")[0] == DONE
    assert call()[0] == FAILED
    assert call("--only", "waits")[0] == FAILED, "dependents of a failure will not start automatically"
    assert call("--status")[0] == DONE
    assert call("--cancel")[0] == DONE
    assert call("--only", "waits")[0] == FAILED
    assert rounds.states() == {"good": "completed", "bad": "failed", "waits": "cancelled"}


def test_an_unreadable_record_is_a_system_error(rounds: Rounds, call: Call) -> None:
    write_two(rounds)
    rounds.directory("t/0").mkdir(parents=True)
    (rounds.directory("t/0") / record.HISTORY).symlink_to(record.HISTORY)
    for options in (("--only", "t/0"), ("--status",), ("--dry-run",)):
        code, _, err = call(*options)
        assert code == SYSTEM_ERROR
        assert err.count("\n") == 1
        assert "history.json cannot be read: Too many levels of symbolic links" in err
    code, out, _ = call()
    assert code == SYSTEM_ERROR
    assert ["t/1", "completed"] in [line.split()[:2] for line in out.splitlines()]


def test_a_closed_output_pipe_causes_no_traceback(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "{seed}", "grid": {"seed": list(range(3000))}, "command": "true"}})
    words = rounds.argv("--round", "r", "--status", "--json")
    with subprocess.Popen(words, env=rounds.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == SYSTEM_ERROR


# --------------------------------------------------------------------------------------------------- weak login nodes


def modules_after(*options: str, env: dict[str, str] | None = None) -> set[str]:
    """The modules that a call of runner.py has loaded by its end."""
    code = (
        "import sys; import runner\n"
        "try: runner.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *options], check=True, cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_help_loads_few_modules() -> None:
    loaded = modules_after("--help")
    assert not {"torch", "pydantic", "rich", "yaml", "jinja2", "numpy", "roundhouse.cli.run"} & loaded


def test_help_lists_every_option_and_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "runner.py", "--help"], check=True, cwd=REPOSITORY, capture_output=True, text=True
    )
    words = "round dry-run status watch only limit retry cancel why json scheduler site jobs-per-gpu experiments rounds"
    for word in words.split():
        assert f"--{word} " in done.stdout or f"--{word}\n" in done.stdout
    for code in (DONE, USAGE, WORK_REMAINS, FAILED, SYSTEM_ERROR, 130):
        assert f"\n  {code}  " in done.stdout


@pytest.mark.parametrize("options", [(), ("--status",), ("--dry-run",), ("--why", "s"), ("--cancel",), ("--schema",)])
def test_no_call_loads_torch(rounds: Rounds, options: tuple[str, ...]) -> None:
    write_two(rounds)
    words = rounds.argv("--round", "r", *options)[2:]
    loaded = modules_after(*words, env={**os.environ, **rounds.env})
    assert "roundhouse.cli.main" in loaded
    assert not {"torch", "numpy", "sklearn", "matplotlib"} & loaded

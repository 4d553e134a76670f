"""benchmarks/gpu_check.py: a dry run on the CPU does all its checks, it keeps its budget, and each check can fail."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu_check
from gpu_checks import bits, full_size, little_memory, marked_tests, packed, several, speed
from gpu_checks.budget import Part, Runner
from gpu_checks.distillation import TINY, Case, Ended, train_once
from gpu_checks.report import FAILED, MEASURED, OK, SKIPPED, Context, Row, append, read, table_row
from rounds_for_tests import wait_for
from torch.autograd import DeviceType

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def context(rows: list[Row]) -> Context:
    return Context("part", "cpu", time.monotonic() + 60, rows.append)


# The whole, without a GPU


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["machine", "bits", "memory", "several", "speed"], {MEASURED: 4, OK: 10}),
        (["packed", "tests"], {OK: 3, SKIPPED: 2}),
        (["studies"], {MEASURED: 12}),
    ],
)
def test_a_dry_run_does_all_checks_of_a_part(parts: list[str], expected: dict[str, int], tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--seconds", "550", "--only", *parts]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    results = [row["result"] for row in found["rows"]]
    assert {result: results.count(result) for result in set(results)} == expected
    assert {row["part"] for row in found["rows"]} == set(parts)
    assert all(table_row(Row(**row)) in done.stdout for row in found["rows"])
    if "machine" in parts:
        assert {"gpu", "driver", "torch", "cuda", "cudnn"} <= found["machine"].keys()


def test_the_parts_have_the_names_of_their_modules() -> None:
    for part in gpu_check.PARTS:
        module = gpu_check.MODULES.get(part.name, part.name)
        assert (REPOSITORY / f"benchmarks/gpu_checks/{module}.py").exists()


# The budget


def runner_of(folder: Path, code: str, budget: float = 60) -> Runner:
    """Its parts run this code. `argv`: name, seconds, rows."""
    lines = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'benchmarks')!r}); argv = sys.argv[1:]\n{code}"
    return Runner([sys.executable, "-c", lines], folder, budget, time.monotonic())


WRITES_A_ROW = "from pathlib import Path; from gpu_checks.report import Row, append\n"
WRITES_A_ROW += "append(Path(argv[2]), Row(argv[0], 'first', 'ok'))\n"


def test_a_part_over_its_limit_is_ended_with_its_processes_and_its_rows_stay(tmp_path: Path, rows: list[Row]) -> None:
    child = "import subprocess; one = subprocess.Popen(['sleep', '60'])\n"
    child += f"Path({str(tmp_path / 'pid')!r}).write_text(str(one.pid))\n"
    runner = runner_of(tmp_path, WRITES_A_ROW + child + "one.wait()")
    began = time.monotonic()
    found = runner.run(Part("slow", 3, "what"), rows.append)
    assert time.monotonic() - began < 20
    assert found == rows == [Row("slow", "first", OK), Row("slow", "what", SKIPPED, "ended at its time limit of 3 s")]
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it ends")


def test_a_part_that_breaks_is_a_failed_check_with_its_last_line(tmp_path: Path, rows: list[Row]) -> None:
    runner_of(tmp_path, WRITES_A_ROW + "sys.exit('no | memory')").run(Part("broken", 60, "what"), rows.append)
    assert rows == [Row("broken", "first", OK), Row("broken", "what", FAILED, "exit code 1: no / memory")]


def test_a_part_that_does_not_fit_into_the_budget_is_skipped(tmp_path: Path, rows: list[Row]) -> None:
    runner_of(tmp_path, "raise AssertionError", budget=12).run(Part("late", 60, "what"), rows.append)
    assert rows == [Row("late", "what", SKIPPED, "no time left")]


def test_a_row_that_is_not_complete_yet_is_read_later(tmp_path: Path) -> None:
    append(tmp_path / "rows", Row("bits", "pure", OK, values={"loss": 1.5}))
    with (tmp_path / "rows").open("a") as file:
        file.write('{"part": ')
    assert read(tmp_path / "rows") == [Row("bits", "pure", OK, values={"loss": 1.5})]


def test_a_check_without_time_or_with_an_error_is_a_row(context: Context, rows: list[Row]) -> None:
    context.attempt("late", lambda: None, needs=1000)
    context.attempt("broken", lambda: os.rmdir("/nonexistent"))
    assert [(row.check, row.result) for row in rows] == [("late", SKIPPED), ("broken", FAILED)]
    assert "No such file" in rows[1].text


# Each check can fail


def test_another_seed_or_loss_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("logit", "bf16", **TINY)
    same = Ended("hash", [{"loss": 1.0}], 1.0)

    def differing(number: int) -> list[str]:
        runs = iter([Ended("other", [{"loss": 2.0}], 1.0) if number == n else same for n in range(6)])
        monkeypatch.setattr(bits, "train_once", lambda *_, **__: next(runs))
        return bits.compare(case, "cpu")[0]

    assert differing(6) == []
    assert differing(0) == ["graph and eager", "metrics of graph and eager"]
    assert differing(2) == ["graph twice"]
    assert differing(3) == differing(4) == ["graph and eager in 2 parts"]
    assert differing(5) == ["worker feed"]


def test_runs_with_other_images_end_with_other_bits() -> None:
    case = Case("pure", "fp32", **TINY)
    first, other = (train_once(one, "cpu") for one in (case, dataclasses.replace(case, batches=3)))
    assert first.final_hash != other.final_hash
    assert [entry["epoch"] for entry in first.epochs] == [1, 2]


def test_parts_that_are_found_must_give_the_bits_of_given_ones(
    monkeypatch: pytest.MonkeyPatch, context: Context, rows: list[Row]
) -> None:
    runs = iter([Ended("one", [{"accumulation": 4.0}], 1.0), Ended("other", [{"accumulation": 4.0}], 1.0)])
    monkeypatch.setattr(little_memory, "train_once", lambda *_, **__: next(runs))
    little_memory.check(context, "logit", "logit", 1.0)
    assert (rows[0].result, rows[0].values["parts"]) == (FAILED, 4)


def test_a_graph_that_trains_nothing_on_the_second_gpu_is_found(
    monkeypatch: pytest.MonkeyPatch, context: Context, rows: list[Row]
) -> None:
    empty = Ended("hash", [{"loss": 4.0}, {"loss": 4.0}], 1.0)
    monkeypatch.setattr(several, "train_once", lambda *_, **__: empty)
    several.second_device(context, "second")
    assert rows[0].result == FAILED and "nothing was trained" in rows[0].text


def completed(digest: str) -> Any:
    progress = SimpleNamespace(artifacts={"best.pth": digest, "checkpoint.pth": os.urandom(4).hex()})
    return SimpleNamespace(completed=SimpleNamespace(progress=progress))


def test_experiments_alone_and_packed_must_write_the_same(context: Context, rows: list[Row]) -> None:
    packed.check_equal(context, {"a": completed("1"), "b": completed("2")}, {"a": completed("1"), "b": completed("2")})
    packed.check_equal(context, {"a": completed("1"), "b": completed("2")}, {"a": completed("1"), "b": completed("3")})
    packed.check_equal(context, {}, {})
    assert [row.result for row in rows] == [OK, FAILED, FAILED]
    assert rows[1].values["different"] == ["b"]


def test_the_report_of_pytest_is_read_with_its_failures(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        '<testsuites><testsuite><testcase name="test_a"/><testcase name="test_b"><failure message="assert | 1"/>'
        '</testcase><testcase name="test_c"><skipped/></testcase>'
        '<testcase name="test_d"><error message="no"/></testcase></testsuite></testsuites>'
    )
    assert marked_tests.outcomes(tmp_path / "report.xml") == [
        ("test_a", OK, ""), ("test_b", FAILED, "assert / 1"), ("test_c", SKIPPED, ""), ("test_d", FAILED, "no"),
    ]  # fmt: skip


def test_kernels_are_counted_without_copies_and_launches_by_their_names() -> None:
    def event(name: str, device: DeviceType, time: float = 500.0, annotation: bool = False) -> Any:
        return SimpleNamespace(name=name, device_type=device, device_time=time, is_user_annotation=annotation)

    gpu, cpu = DeviceType.CUDA, DeviceType.CPU
    events = [event("conv", gpu)] * 6 + [event("Memcpy DtoD", gpu), event("range", gpu, annotation=True)]
    events += [event("cudaGraphLaunch", cpu)] * 2 + [event("aten::conv", cpu)]
    found = speed.counts(SimpleNamespace(events=lambda: events), 2)  # type: ignore[arg-type]
    assert found == {"kernels_in_a_step": 3, "launches_in_a_step": 1, "gpu_busy_ms": 1.5}


def test_the_configs_of_the_full_size_are_those_of_the_shipped_rounds(context: Context) -> None:
    options = full_size.options_of(
        full_size.GeneganOptions, "genegan", dataclasses.replace(context, device="cuda"),
        {**full_size.group("genegan", "EXP07_r1")["config"], "dataset": "faces"},
    )  # fmt: skip
    assert (options.objective, options.norm, options.batch_size, options.sizes) == ("r1", "group", 64, (64, 96, 128))
    assert full_size.largest_width() == 2

"""The use of GPUs while a job runs: sampled with nvidia-smi into the record, and it never disturbs the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import folders_in, record_runs
from rounds_for_tests import Bench, fake_command, wait_for

from analysis.dataframes import frame_of
from analysis.gpu_use import advice
from analysis.page.sortable_table import table
from analysis.report import make_report
from analysis.round_summary import summaries_of
from analysis.rounds import read_round
from roundhouse.jobs.worker import ClaimedAttempt
from roundhouse.machine import gpu_sampler, gpus
from roundhouse.machine.gpu_sampler import GpuSampler, mig_parents, rows_of, sampler_for
from roundhouse.model.gpu_use import MOST_GPUS, GpuFigures, GpuUse, Totals, combined
from roundhouse.store import json_fields, record
from roundhouse.views.explanation import explain

ROWS = [
    ["0", "GPU-aa11", "10", "15625", "100.5"],
    ["1", "GPU-bb22", "90", "31250", "[N/A]"],
    ["2", "GPU-cc33", "[N/A]", "62500", "300"],
]
PRINT_ROWS = "; ".join(f"echo {', '.join(row)!r}" for row in ROWS)
values = st.none() | st.floats(0, 1e6)


# ------------------------------------------------------------------------------------------ which GPUs, what is kept


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (None, {"0": (10, 16384.0, 100.5), "1": (90, 32768.0, None), "2": (None, 65536.0, 300)}),
        (["1"], {"1": (90, 32768.0, None)}),
        (["GPU-bb22"], {"GPU-bb22": (90, 32768.0, None)}),
        (["GPU-b"], {"GPU-b": (90, 32768.0, None)}),
        (["7"], {}),
    ],
)
def test_a_job_gets_the_figures_of_its_own_gpus_by_index_or_uuid(gpus: list[str] | None, expected: Any) -> None:
    assert rows_of(dict(zip(gpus, gpus, strict=True)) if gpus else None, ROWS) == expected


def test_a_part_of_a_gpu_has_the_figures_of_the_whole_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "GPU 0: A100 (UUID: GPU-aa11)\n  MIG 1g.5gb Device 0: (UUID: MIG-x)\nGPU 1: A100 (UUID: GPU-bb22)\n"
    assert mig_parents(listing) == {"MIG-x": "GPU-aa11"}
    monkeypatch.setattr(gpu_sampler, "nvidia_smi", lambda *_, **__: listing)
    for name in ("MIG-x", "MIG-GPU-aa11/1/0"):
        assert rows_of(gpu_sampler._as_nvidia_smi_has_them([name]), ROWS) == {name: (10, 16384.0, 100.5)}
        assert GpuSampler([name], shared=False)._shared


@given(st.lists(st.lists(st.text(max_size=4), max_size=6), max_size=4))
def test_whatever_nvidia_smi_prints_is_no_error(rows: list[list[str]]) -> None:
    rows_of(None, rows)
    mig_parents("\n".join(map(",".join, rows)))


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.tuples(values, values, values), min_size=1), max_size=20))
def test_means_lie_below_maxima_and_the_record_reads_what_the_job_wrote(samples: list[Any]) -> None:
    totals = Totals()
    for sample in samples:
        totals.add(sample)
    summary = totals.summary(shared=True)
    known = [value for sample in samples for row in sample.values() for value in row if value is not None]
    assert (summary is None) == (not known)
    use = json_fields.gpu_use(json.loads(json.dumps(summary)))
    assert (use is None) == (summary is None)
    for one in use.gpus.values() if use else ():
        assert one.utilization is None or one.utilization <= (one.utilization_max or 0) + 0.1
    assert use is None or (use.samples == len(samples) and use.shared)


def test_the_record_is_bounded_for_any_number_of_gpus_and_samples() -> None:
    totals = Totals()
    for _ in range(100):
        totals.add({f"GPU-{number}": (50.0, 1.0, 2.0) for number in range(100)})
    summary = totals.summary(shared=False)
    assert summary is not None
    assert len(summary["gpus"]) == MOST_GPUS
    assert len(json.dumps(summary)) < 200 * MOST_GPUS


def test_attempts_count_by_their_samples_and_gpus_add_up_in_power_only() -> None:
    first = GpuUse(1, {"0": GpuFigures(0.0, 0.0, 10.0, 20.0, 100.0, 100.0)})
    second = GpuUse(3, {"5": GpuFigures(80.0, 90.0, 10.0, 10.0, 100.0, 300.0)}, shared=True)
    both = combined([first, None, second])
    assert both is not None
    assert (both.samples, both.utilization, both.memory_mb, both.power_w, both.shared) == (4, 60.0, 20.0, 100.0, True)
    two = GpuUse(1, {"0": GpuFigures(20.0, power_w=100.0), "1": GpuFigures(40.0, power_w=50.0)})
    assert (two.utilization, two.memory_mb, two.power_w) == (30.0, None, 150.0)
    assert combined([None]) is None


@pytest.mark.parametrize("written", [None, 3, {}, {"samples": 2}, {"samples": "x", "gpus": {"0": {}}},
                                     {"samples": 2, "gpus": {"0": {"unknown": 1.0}}}])  # fmt: skip
def test_progress_without_figures_or_with_invalid_ones_is_read(written: Any) -> None:
    progress = json_fields.progress({"epoch": 3, "epochs": 5, "gpu_use": written})
    assert progress is not None
    assert (progress.epoch, progress.gpu_use) == (3, None)


def test_only_a_job_that_requested_gpus_and_sees_one_is_sampled() -> None:
    assert sampler_for(0, {"CUDA_VISIBLE_DEVICES": "0"}) is None
    assert sampler_for(1, {"CUDA_VISIBLE_DEVICES": ""}) is None
    alone = sampler_for(1, {"CUDA_VISIBLE_DEVICES": "2", "ROUNDHOUSE_JOBS_PER_GPU": "1"})
    shared = sampler_for(1, {"CUDA_VISIBLE_DEVICES": "2", "ROUNDHOUSE_JOBS_PER_GPU": "4"})
    everything = sampler_for(2, {})
    assert alone is not None and shared is not None and everything is not None
    assert (alone._gpus, alone._shared, shared._shared, everything._gpus) == (["2"], False, True, None)


# ---------------------------------------------------------------------------------------------- failures


def ended(pid: int) -> bool:
    """Whether a process has ended; a zombie, which nothing collects in some containers, counts."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("answers", "calls"),
    [([[], [], []], 3), ([[], ROWS, [], [], []], 5), ([ROWS, [], [], []], 4), ([ROWS, [], ROWS, [], [], []], 6)],
)
def test_sampling_ends_after_several_failures_in_a_row(
    answers: list[list[list[str]]], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(answers)
    monkeypatch.setattr(gpu_sampler, "query_driver", lambda *_: left.pop(0))
    sampler = GpuSampler(["0"], shared=False)
    sampler.run(0)
    assert len(answers) - len(left) == calls
    summary = sampler.summary()
    assert (summary or {}).get("samples", 0) == sum(bool(one) for one in answers)


def test_nvidia_smi_is_ended_after_its_time_also_if_it_ignores_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PATH", fake_command(tmp_path, "nvidia-smi", f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60")
    )
    started = time.monotonic()
    assert gpus.query_driver("index", 1) == []
    assert time.monotonic() - started < 5
    wait_for(lambda: ended(int((tmp_path / "pid").read_text())), "it is killed")


def test_without_nvidia_smi_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert gpus.query_driver("index") == []


# ---------------------------------------------------------------------------------------------- in a job


def job_with_gpu(bench: Bench, nvidia_smi: str, command: str, gpu: str = "1") -> None:
    """A job of one GPU that runs a command, with this nvidia-smi."""
    bench.use_the_real_train("sh", "-c", command)
    job = bench.place() / record.JOB
    job.write_text(json.dumps({**json.loads(job.read_text()), "resources": {"ngpus": 1}}, indent=1))
    path = fake_command(bench.folder, "nvidia-smi", nvidia_smi)
    bench.extra |= {"PATH": path, "CUDA_VISIBLE_DEVICES": gpu, "ROUNDHOUSE_SIGN_OF_LIFE": "0.2"}


def gpu_use(bench: Bench) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads((bench.place() / record.PROGRESS).read_text()).get("gpu_use")
    return found


def test_the_figures_of_a_command_are_in_its_progress_while_it_runs_and_at_its_end(bench: Bench) -> None:
    job_with_gpu(bench, PRINT_ROWS, f"while [ ! -e {bench.folder}/go ]; do sleep 0.05; done")
    job = bench.start()
    wait_for(lambda: (bench.place() / record.PROGRESS).exists() and gpu_use(bench), "the heartbeat writes them")
    (bench.folder / "go").touch()
    assert job.wait(30) == 0
    use = gpu_use(bench)
    assert use is not None
    assert use["gpus"] == {
        "1": {"utilization": 90.0, "utilization_max": 90.0, "memory_mb": 32768.0, "memory_mb_max": 32768.0}
    }
    assert use["samples"] >= 1
    progress = bench.attempt().progress
    assert progress is not None and progress.gpu_use is not None
    assert progress.gpu_use.text.startswith("GPU: utilization 90 %, memory up to 32.8 GB (")


def test_a_job_without_a_driver_has_no_figures(bench: Bench) -> None:
    job_with_gpu(bench, f"echo called >> {bench.folder}/calls; exit 9", "sleep 1.5")
    assert bench.run()[0] == 0
    assert gpu_use(bench) is None
    calls = (bench.folder / "calls").read_text().splitlines()
    assert len(calls) <= 4, "once by the job's shell, three times by the sampler"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_ends_at_once_although_nvidia_smi_hangs(bench: Bench, number: int) -> None:
    hangs = f"""case "$*" in -L*) exit 9 ;; esac
        trap '' TERM; echo $$ > {bench.folder}/smi; while :; do sleep 0.1; done"""
    job_with_gpu(bench, hangs, "exec sleep 60")
    job = bench.start()
    wait_for((bench.folder / "smi").exists, "it is sampled")
    python, started = bench.python_of(job), time.monotonic()
    if number == signal.SIGTERM:
        job.terminate()
    else:
        python.kill()
    job.wait(30)
    assert time.monotonic() - started < 5
    assert bench.result().cause == ("preempted" if number == signal.SIGTERM else "unknown")
    hanging = psutil.Process(int((bench.folder / "smi").read_text()))
    assert os.getsid(hanging.pid) != job.pid
    parent = hanging.parent()
    assert parent is not None and "timeout" in parent.name(), "which ends it"
    hanging.kill()


# ---------------------------------------------------------------------------------------------- where it is shown

ROUND = """
round: r
resources: {ngpus: 1}
experiments:
  busy: {path: "busy/{seed}", command: "true", grid: {seed: [0, 1]}}
  idle: {path: "idle/{seed}", command: "true", grid: {seed: [0, 1]}}
"""


def use(utilization: float, **more: Any) -> dict[str, Any]:
    figures = {"utilization": utilization, "utilization_max": 100.0, "memory_mb_max": 4000.0, "power_w": 150.0}
    return {"epoch": 1, "gpu_use": {"samples": 4, "gpus": {"0": figures}, **more}}


def analysed(folder: Path, progress: dict[str, dict[str, Any]]) -> tuple[Any, list[str], list[str]]:
    """The DataFrame of a round, the columns of its report, and the sentences in it."""
    place = folders_in(folder)
    record_runs(place, ROUND, dict.fromkeys(progress, {}), progress)
    found = read_round("r", place)
    summaries, _ = summaries_of(found)
    columns = [column["label"] for column in table(summaries, found.declared, {})["columns"]]
    return frame_of(found), columns, advice(found.entries)


def test_the_figures_are_columns_and_a_group_that_hardly_uses_its_gpus_gets_a_sentence(tmp_path: Path) -> None:
    progress = {"busy/0": use(90.0), "busy/1": {"epoch": 1}, "idle/0": use(10.0), "idle/1": use(20.0, shared=True)}
    frame, columns, sentences = analysed(tmp_path, progress)
    assert frame.set_index("path").gpu_utilization.dropna().to_dict() == {
        "busy/0": 90.0,
        "idle/0": 10.0,
        "idle/1": 20.0,
    }
    assert list(frame.columns[-3:]) == ["gpu_utilization", "gpu_memory_mb", "gpu_power_w"]
    assert {"GPU utilization (%)", "GPU memory (GB)", "GPU power (W)"} <= set(columns)
    (sentence,) = sentences
    assert sentence.startswith("The GPUs of group idle were busy for only 15 % of the time (mean of 2 runs), although")


def test_runs_without_figures_have_neither_columns_nor_sentences(tmp_path: Path) -> None:
    frame, columns, sentences = analysed(tmp_path, {"busy/0": {"epoch": 1}, "idle/0": {"epoch": 1}})
    assert not [name for name in [*frame.columns, *columns] if "gpu_u" in name or "GPU " in name]
    assert sentences == []


def test_the_report_shows_the_sentence(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    record_runs(place, ROUND, {"idle/0": {}}, {"idle/0": use(5.0)})
    page, _ = make_report("r", place)
    assert "busy for only 5 % of the time (mean of 1 run): let several runs share a GPU" in page.read_text()


def test_why_says_how_much_an_attempt_used_its_gpu(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    record_runs(place, ROUND, {"idle/0": {}}, {"idle/0": use(5.0, shared=True)})
    (entry,) = [one for one in read_round("r", place).entries if one.path == "idle/0"]
    expected = "GPU: utilization 5 %, memory up to 4.0 GB, power 150 W (4 samples, shared with other jobs)"
    assert expected in explain(entry.status)


def test_every_report_of_a_job_has_the_figures_so_far(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.open()
    claimed = ClaimedAttempt(bench.directory, 1, "n", record.read_config(bench.directory), bench.attempt())
    claimed.report_gpu_use()
    assert not (bench.directory / "attempts/1/progress.json").exists(), "there is nothing to report"
    claimed.sampler = GpuSampler(["0"], shared=False)
    claimed.report(epoch=1)
    assert gpu_use(bench) is None
    answers = [ROWS, [], [], []]
    monkeypatch.setattr(gpu_sampler, "query_driver", lambda *_: answers.pop(0))
    claimed.sampler.run(0)
    claimed.report(epoch=2)
    assert (gpu_use(bench) or {})["samples"] == 1

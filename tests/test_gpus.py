"""Which GPUs a job uses if its environment sets none: as many as it requested, those with the most free memory."""

from __future__ import annotations

import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Bench, fake_command

from roundhouse.config.site import Site
from roundhouse.machine import gpus
from roundhouse.machine.gpus import choose, find_gpus, gpus_in_file, gpus_in_list, named_by_scheduler, turn_of
from roundhouse.model.experiment import Resources

indices = st.integers(0, 9).map(str)
lists = st.lists(indices, unique=True, max_size=6)
drivers = st.dictionaries(indices, st.integers(0, 90_000), max_size=8)


@given(st.integers(1, 8), st.dictionaries(st.sampled_from(["first", "second"]), lists), drivers, st.integers(0, 99))
def test_never_more_gpus_than_requested_none_twice_and_none_that_the_driver_does_not_list(
    count: int, named: dict[str, list[str]], free: dict[str, int], turn: int
) -> None:
    chosen, source = choose(count, named, free, turn)
    assert len(chosen) == len(set(chosen)) <= count
    assert set(chosen) <= (free.keys() or {gpu for one in named.values() for gpu in one})
    if source == "free memory":
        assert len(chosen) == min(count, len(free))
        others = free.keys() - set(chosen)
        assert all(
            free[gpu] // gpus.MEMORY_UNIT >= free[other] // gpus.MEMORY_UNIT for gpu in chosen for other in others
        )
    else:
        assert chosen == named[source][:count]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_jobs_that_start_one_after_the_other_on_an_idle_node_do_not_share_its_gpus(
    count: int, jobs: int, first: int
) -> None:
    idle = {str(gpu): 80_000 for gpu in range(count * jobs)}
    chosen = [gpu for turn in range(first, first + jobs) for gpu in choose(count, {}, idle, turn)[0]]
    assert len(set(chosen)) == count * jobs


def test_the_gpus_named_by_the_scheduler_are_used_unless_the_driver_does_not_list_them() -> None:
    free = {"0": 10, "1": 80_000}
    assert choose(1, {"PBS_GPUFILE": ["0"]}, free, 0) == (["0"], "PBS_GPUFILE")
    assert choose(1, {"SLURM_JOB_GPUS": ["0"]}, {}, 0) == (["0"], "SLURM_JOB_GPUS")
    # Slurm counts the node's GPUs, and a control group may let the job see one alone, as number 0.
    assert choose(1, {"SLURM_JOB_GPUS": ["3"]}, {"0": 10}, 0) == (["0"], "free memory")
    assert choose(2, {"PBS_GPUFILE": []}, free, 0) == (["1", "0"], "free memory")


def test_the_variables_and_files_of_schedulers_are_read(tmp_path: Path) -> None:
    (tmp_path / "gpufile").write_text("node-7-gpu2\nnode-7-gpu0\nnode-7-gpu2\n")
    named = named_by_scheduler({"PBS_GPUFILE": str(tmp_path / "gpufile"), "SLURM_JOB_GPUS": "0,2-3"})
    assert named == {"PBS_GPUFILE": ["2", "0"], "SLURM_JOB_GPUS": ["0", "2", "3"]}
    assert named_by_scheduler({"PBS_GPUFILE": str(tmp_path / "none")}) == {}


@given(st.text(string.printable))
def test_text_in_another_format_gives_no_gpu_and_no_error(text: str) -> None:
    for gpu in gpus_in_file(text) + gpus_in_list(text):
        assert gpu.isdigit()
    assert gpus_in_list(f"gpu:{text}") == []


@given(lists)
def test_a_list_of_ranges_gives_all_its_numbers(written: list[str]) -> None:
    assert gpus_in_list(",".join(written)) == written
    assert gpus_in_file("".join(f"node7-gpu{gpu}\n" for gpu in written)) == written


def test_tasks_of_an_array_and_jobs_in_a_row_differ() -> None:
    assert [turn_of(job) for job in ("41.server", "41[3].server2", "41_3", "unknown")] == [41, 44, 44, 0]


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("0, 2", ["0", "2"]),
        ("1,-1,0", ["1"]),
        ("-1", []),
        ("", []),
        ("0,,1", ["0"]),
        ("none", []),
        ("GPU-8932f937,GPU-1a,-1,GPU-7", ["GPU-8932f937", "GPU-1a"]),
        ("MIG-GPU-8932f937/1/0", ["MIG-GPU-8932f937/1/0"]),
    ],
)
def test_gpus_after_the_first_invalid_entry_are_hidden_as_in_cuda(written: str, used: list[str]) -> None:
    assert find_gpus({"CUDA_VISIBLE_DEVICES": written}) == used


# ---------------------------------------------------------------------------------------------- in job scripts

FOUR = "echo 0, 100; echo 1, 40000; echo 2, 100; echo 3, 90000"


def used(bench: Bench, kind: str, ngpus: int, lists: str, *setup: str) -> str:
    """CUDA_VISIBLE_DEVICES of a job's Python if the driver lists these rows."""
    path = fake_command(bench.folder, "nvidia-smi", f'case "$*" in *memory.free*) {lists} ;; *) exit 1 ;; esac')
    variables = {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    bench.kind, bench.python, bench.resources = kind, sys.executable, Resources(ngpus=ngpus)
    bench.site = Site(environment=variables, setup=["unset CUDA_VISIBLE_DEVICES", *setup])
    bench.train("import os; print('sees:', os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))")
    bench.open()
    assert bench.run()[0] == 0, bench.log()
    return bench.log().partition("sees: ")[2].splitlines()[0]


@pytest.mark.parametrize("kind", ["pbs", "torque", "slurm"])
def test_a_job_that_could_use_all_gpus_uses_those_with_the_most_free_memory(bench: Bench, kind: str) -> None:
    assert used(bench, kind, 2, FOUR) == "3,1"
    choice = "CUDA_VISIBLE_DEVICES was not set: this job uses GPU 3, 1 of the 4 on this node, chosen by free memory"
    assert choice in bench.log()


def test_a_job_uses_the_gpus_in_the_gpufile(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "gpufile").write_text("node7-gpu2\n")
    assert used(bench, "torque", 1, FOUR, f"export PBS_GPUFILE={tmp_path}/gpufile") == "2"
    assert "chosen by PBS_GPUFILE" in bench.log()


def test_a_variable_that_is_set_stays_unchanged(bench: Bench) -> None:
    assert used(bench, "pbs", 1, FOUR, "export CUDA_VISIBLE_DEVICES=") == ""


def test_a_job_that_requested_no_gpu_stays_unchanged(bench: Bench) -> None:
    assert used(bench, "pbs", 0, FOUR) == "all"


def test_a_job_in_a_slot_uses_the_gpus_of_its_slot(bench: Bench) -> None:
    assert used(bench, "local", 1, FOUR, "export ROUNDHOUSE_SLOT=cpu/0") == "all"


def test_too_few_gpus_are_reported(bench: Bench) -> None:
    assert used(bench, "pbs", 2, "echo 0, 100") == "0"
    assert "It requested 2 (ngpus), but no more were found" in bench.log()


def test_no_gpu_at_all_is_reported_and_nothing_is_set(bench: Bench) -> None:
    assert used(bench, "pbs", 1, "exit 9") == "all"
    assert "1 GPU requested (ngpus), but nvidia-smi lists none" in bench.log()

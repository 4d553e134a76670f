"""What a job records of its node and a round of its cluster: only what is there, and never an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster import CannotStart, start_slurm
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY

from roundhouse.config.site import Site
from roundhouse.engine.cluster_facts import record_cluster
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.model.plan import Action, State, Verb
from roundhouse.node_facts import cpu_model, node_facts
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.cluster_nodes import NodeKind, cluster_nodes, gpus_in, pbs_kinds, slurm_kinds
from roundhouse.store import cluster_file

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\nGCC version: 12.2.0\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (builder@host)\n"


@pytest.mark.parametrize(("version", "driver"), [(PROPRIETARY, "535.54.03"), (OPEN, "580.65.06")])
def test_a_gpu_node_names_its_driver_and_its_gpus(tmp_path: Path, version: str, driver: str) -> None:
    place = tmp_path / "proc/driver/nvidia"
    for number in range(4):
        (place / f"gpus/0000:{number}:00.0").mkdir(parents=True)
        text = f"Model: \t\t Tesla V100-SXM2-32GB\nIRQ:   \t\t {number}\n"
        (place / f"gpus/0000:{number}:00.0/information").write_text(text)
    (place / "version").write_text(version)
    found = node_facts(tmp_path)
    assert (found["driver"], found["node_gpus"]) == (driver, "4 Tesla V100-SXM2-32GB")


def test_a_node_without_these_files_says_less_and_raises_nothing(tmp_path: Path) -> None:
    found = node_facts(tmp_path)
    assert not {"os", "driver", "node_gpus"} & found.keys()
    assert all(found.values())


@pytest.mark.parametrize("line", ['PRETTY_NAME="Rocky Linux 8.9"', "PRETTY_NAME='Rocky Linux 8.9'"])
def test_the_operating_system_is_the_one_that_the_distribution_names(tmp_path: Path, line: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(f"NAME=Rocky\n{line}\nID=rocky\n")
    assert node_facts(tmp_path)["os"] == "Rocky Linux 8.9"


def test_the_processor_is_the_first_model_that_the_kernel_names(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Xeon Gold\n\nprocessor\t: 1\nmodel name\t: other\n"
    )
    assert cpu_model(tmp_path) == "Xeon Gold"


# ------------------------------------------------------------------------------------------------------------ clusters


@pytest.mark.parametrize(
    ("gres", "found"),
    [("gpu:v100:4(S:0-1),gpu:a100:2", {"v100": 4, "a100": 2}), ("gpu:4", {"": 4}), ("gpu", {"": 1}), ("(null)", {}),
     ("gpu:2g.20gb:3(S:1)", {"2g.20gb": 3}), ("lustre:1,gpu:tesla:1", {"tesla": 1}), ("", {})],
)  # fmt: skip
def test_gpus_in_generic_resources_are_counted(gres: str, found: dict[str, int]) -> None:
    assert gpus_in(gres) == found


def test_equal_nodes_of_a_partition_are_one_kind() -> None:
    text = "gpu|6|40|191000|gpu:v100:4(S:0-1)\ngpu|3|40|191000|gpu:v100:4\nlong|1359|24|128000|(null)\nbroken|x|1|1|\n"
    assert slurm_kinds(text) == {NodeKind("gpu", 40, 187, 4, "v100"): 9, NodeKind("long", 24, 125, 0): 1359}


PBS = """\
node1
     Mom = node1.example
     state = free
     resources_available.mem = 131072000kb
     resources_available.ncpus = 24
     resources_assigned.ncpus = 3

node2
     state = job-busy
     resources_available.mem = 131071000kb
     resources_available.ncpus = 24
     resources_available.ngpus = 0

gpu1
     resources_available.mem = 192gb
     resources_available.ncpus = 36
     resources_available.ngpus = 4
     queue = gpu_4
"""
TORQUE = """\
node1
     state = free
     np = 24
     status = rectime=1,physmem=131072000kb,ncpus=24,opsys=linux
     gpus = 2
"""


def test_equal_nodes_of_pbs_are_one_kind_whatever_their_last_kilobytes() -> None:
    assert pbs_kinds(PBS) == {NodeKind("", 24, 125, 0): 2, NodeKind("gpu_4", 36, 192, 4): 1}
    assert pbs_kinds(TORQUE) == {NodeKind("", 24, 125, 2): 1}


@given(st.text(max_size=200) | st.lists(st.sampled_from([*PBS.splitlines(), *TORQUE.splitlines(), "a|1|2|3|gpu"])))
def test_no_answer_of_a_scheduler_raises(answer: str | list[str]) -> None:
    text = answer if isinstance(answer, str) else "\n".join(answer)
    for kind in ("slurm", "pbs", "torque"):
        found = cluster_nodes(kind, lambda argv: Output(tuple(argv), 0, text, ""))
        assert found is None or json.dumps(found)
        assert cluster_nodes(kind, lambda argv: Output(tuple(argv), None, text, "no answer")) is None


class Asked:
    """A scheduler's commands that count how often they were called."""

    def __init__(self, *, code: int = 0) -> None:
        self.number, self.code = 0, code

    def __call__(self, argv: Any) -> Output:
        self.number += 1
        return Output(tuple(argv), self.code, PBS, "")


def passed(tmp_path: Path, run: Asked, kind: str = "pbs", jobs: int = 1) -> None:
    scheduler: Any = type("Scheduler", (), {"kind": kind})()
    (tmp_path / "r").mkdir(exist_ok=True)
    context = PassContext(tmp_path, REPOSITORY, Site(), scheduler, run, "python")
    experiment: Any = None
    report = PassReport(done=[(experiment, Action(Verb.SUBMIT, State.IN_PROGRESS, ""))] * jobs)
    record_cluster(context, "r", report)


def test_a_round_asks_once_and_only_after_a_submission(tmp_path: Path) -> None:
    run = Asked()
    passed(tmp_path, run, jobs=0)
    passed(tmp_path, run, kind="local")
    assert run.number == 0
    passed(tmp_path, run)
    passed(tmp_path, run)
    assert run.number == 1
    recorded = cluster_file.read(tmp_path / "r")
    assert recorded is not None
    assert (recorded["scheduler"], recorded["total"]) == ("pbs", 3)


def test_a_scheduler_that_does_not_answer_is_asked_again_and_nothing_fails(tmp_path: Path) -> None:
    passed(tmp_path, Asked(code=1))
    assert cluster_file.read(tmp_path / "r") is None
    passed(tmp_path, Asked())
    assert cluster_file.read(tmp_path / "r") is not None


@pytest.mark.parametrize("step", ["is_written", "write"])
def test_a_directory_that_cannot_be_used_does_not_fail_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(cluster_file, step, refuse)
    passed(tmp_path, Asked())
    assert cluster_file.read(tmp_path / "r") is None


def test_a_listing_without_an_answer_is_the_only_command() -> None:
    for kind in ("slurm", "pbs"):
        run = Asked(code=1)
        assert cluster_nodes(kind, run) is None
        assert run.number == 1, "each may take the whole time limit of a command"


def test_a_real_slurm_lists_its_nodes_once_although_they_are_in_two_partitions() -> None:
    try:
        slurm = start_slurm()
    except CannotStart as error:
        pytest.skip(str(error))
    try:
        found = cluster_nodes("slurm", slurm.run)
    finally:
        slurm.shut_down()
    assert found is not None and found["total"] == 1
    assert [(one["queue"], one["nodes"], one["cores"]) for one in found["kinds"]] == [("main", 1, 8), ("short", 1, 8)]

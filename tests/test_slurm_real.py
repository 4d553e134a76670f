"""Slurm's commands with a real Slurm."""

from __future__ import annotations

import getpass
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from accounting import account, limit_query_range
from cluster import CannotStart, SlurmCluster, run_command, skip_or_fail, start_slurm, wait_until

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.model.answers import Identity, Jobs, JobState, QueryFailed, Refused, Scope, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.slurm import Slurm

pytestmark = pytest.mark.cluster
USER = getpass.getuser()

Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a job script with the header of Roundhouse and a body of the test."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(Path(__file__).parent.parent / "templates" / "slurm.sh.j2", templates)

    def write(name: str, body: str, log: Path | None = None, queue: str | None = None) -> Path:
        (templates / "body.sh.j2").write_text("{% raw %}" + body + "\n{% endraw %}")
        site = Site()
        path = tmp_path / f"{name}.sh"
        resources = Resources(ncpus=1, mem_mb=100, walltime_s=600, queue=queue)
        text = job_script.render(
            job_script.environment(templates), "slurm", name=name, log=str(log or tmp_path / f"{name}.log"),
            resources=resources, site=site,
        )  # fmt: skip
        path.write_text(text)
        return path

    return write


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster) -> Iterator[Slurm]:
    yield Slurm(USER)
    slurm_cluster.clear()


def state_of(slurm: Slurm, cluster: SlurmCluster, name: str) -> JobState | None:
    answer = slurm.query(cluster.run, set(), {name})
    assert isinstance(answer, Jobs)
    return answer.by_name()[name][-1].state if name in answer.by_name() else None


def test_a_job_is_found_by_its_name_from_submission_to_cancellation(
    slurm: Slurm, slurm_cluster: SlurmCluster, script: Script
) -> None:
    answer = slurm.submit(slurm_cluster.run, script("rhlong", "sleep 600"), "rhlong")
    assert isinstance(answer, Submitted)
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhlong") is JobState.RUNNING, "the job runs")
    assert slurm.cancel(slurm_cluster.run, [answer.job_id]) == []
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhlong") is JobState.ENDED, "the job ends")
    answered = slurm.query(slurm_cluster.run, {answer.job_id}, set())
    assert isinstance(answered, Jobs)
    assert [job.cause for job in answered.jobs if job.id == answer.job_id] == [Cause.DELETED]
    assert slurm.cancel(slurm_cluster.run, [answer.job_id, "424242"]) == []


def test_a_name_that_was_never_submitted_is_not_known(slurm: Slurm, slurm_cluster: SlurmCluster) -> None:
    assert state_of(slurm, slurm_cluster, "rhnever") is None


def test_an_unknown_partition_is_refused(slurm: Slurm, slurm_cluster: SlurmCluster, script: Script) -> None:
    answer = slurm.submit(slurm_cluster.run, script("rhgpu", "true", queue="gpu_9"), "rhgpu")
    assert isinstance(answer, Refused)
    assert "gpu_9" in answer.why
    assert state_of(slurm, slurm_cluster, "rhgpu") is None


def test_a_job_does_not_inherit_the_variables_of_the_shell_that_submitted_it(
    slurm: Slurm, slurm_cluster: SlurmCluster, script: Script, tmp_path: Path
) -> None:
    env = {**slurm_cluster.env, "LEFTOVER": "from a login shell"}
    log = tmp_path / "env.log"
    slurm.submit(lambda argv: run_command(argv, env), script("rhenv", "env; echo HOME is $HOME", log), "rhenv")
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhenv") is JobState.ENDED, "the job ends")
    assert "LEFTOVER" not in log.read_text()
    assert f"HOME is {Path.home()}" in log.read_text()


def test_a_query_fails_while_the_controller_is_down_and_no_job_is_lost(script: Script) -> None:
    slurm = Slurm(USER)
    try:
        cluster = start_slurm(message_timeout=2)
    except CannotStart as problem:
        skip_or_fail(str(problem))
        return
    try:
        answer = slurm.submit(cluster.run, script("rhlong", "sleep 600"), "rhlong")
        assert isinstance(answer, Submitted)
        identity = slurm.identity(cluster.run)
        assert identity == Identity("slurm", cluster.folder.name, USER)
        cluster.stop_controller()
        assert isinstance(slurm.query(cluster.run, {answer.job_id}, {"rhlong"}), QueryFailed)
        assert isinstance(slurm.submit(cluster.run, script("rhother", "true"), "rhother"), Unclear)
        assert len(slurm.cancel(cluster.run, [answer.job_id])) == 1
        cluster.start_controller()
        wait_until(lambda: state_of(slurm, cluster, "rhlong") is JobState.RUNNING, "the job is known again")
        assert slurm.identity(cluster.run) == identity
    finally:
        cluster.shut_down()


# ------------------------------------------------------------------------------------------------ with accounting


@pytest.fixture(scope="module")
def accounted() -> Iterator[SlurmCluster]:
    """A Slurm with accounting, without limits, that remembers ended jobs only for seconds."""
    try:
        cluster = start_slurm(min_job_age=2, message_timeout=2)
    except CannotStart as problem:
        skip_or_fail(str(problem))
        return
    try:
        account(cluster, most_jobs=1000)
        yield cluster
    except CannotStart as problem:
        skip_or_fail(str(problem))
    finally:
        cluster.shut_down()


def test_a_job_that_the_controller_has_forgotten_is_found_in_history_by_id_and_by_name(
    accounted: SlurmCluster, script: Script
) -> None:
    slurm, began = Slurm(USER), time.time()
    answer = slurm.submit(accounted.run, script("rhpast", "exit 3"), "rhpast")
    assert isinstance(answer, Submitted)
    wait_until(lambda: answer.job_id not in accounted.job_states(), "the controller forgets the job", 120)
    for ids, names in (({answer.job_id}, set()), (set(), {"rhpast"})):
        past = slurm.query(accounted.run, ids, names, began)
        assert isinstance(past, Jobs)
        assert [(job.id, job.name, job.words) for job in past.jobs] == [(answer.job_id, "rhpast", "FAILED")]


def test_a_job_that_names_this_cluster_is_submitted(accounted: SlurmCluster, script: Script) -> None:
    job = naming(script("rhhere", "true"), accounted.folder.name)
    assert isinstance(Slurm(USER).submit(accounted.run, job, "rhhere"), Submitted)


def test_a_job_that_another_cluster_accepted_is_cancelled(accounted: SlurmCluster, script: Script) -> None:
    slurm = Slurm(USER)
    slurm.cluster = "another"  # so the real one is the other one
    answer = slurm.submit(accounted.run, naming(script("rhfar", "sleep 600"), accounted.folder.name), "rhfar")
    assert isinstance(answer, Refused)
    assert answer.scope is Scope.ALL

    def causes() -> list[Cause | None]:
        past = slurm.query(accounted.run, set(), {"rhfar"}, time.time() - 60)
        assert isinstance(past, Jobs)
        return [job.cause for job in past.jobs if job.name == "rhfar"]

    wait_until(lambda: causes() == [Cause.DELETED], "the job is cancelled")


def test_an_unknown_cluster_is_a_refusal_of_all_jobs(accounted: SlurmCluster, script: Script) -> None:
    answer = Slurm(USER).submit(accounted.run, naming(script("rhnowhere", "true"), "nowhere"), "rhnowhere")
    assert isinstance(answer, Refused)
    assert (answer.later, answer.scope) == (False, Scope.ALL)


def naming(script: Path, cluster: str) -> Path:
    """The script with a directive that chooses a cluster."""
    script.write_text(script.read_text().replace("#!/bin/bash", f"#!/bin/bash\n#SBATCH --clusters={cluster}"))
    return script


def test_a_time_range_that_the_site_does_not_allow_is_narrowed(accounted: SlurmCluster) -> None:
    if os.getuid() != 0:
        pytest.skip("Slurm limits the queries of users other than the one that it runs as")
    limit_query_range(accounted, "0-06:00:00")
    refused: list[Output] = []

    def as_nobody(argv: Sequence[str]) -> Output:
        answer = accounted.run(["setpriv", "--reuid=nobody", "--clear-groups", *argv])
        refused.extend([answer] if "Too wide" in answer.stderr else [])
        return answer

    slurm = Slurm("nobody")
    assert slurm.query(as_nobody, {"424242"}, set()) == Jobs((), history=True)
    assert refused == []
    assert slurm.query(as_nobody, set(), {"rhnever"}, time.time() - 20 * 86400) == Jobs((), history=True)
    assert len(refused) == 7
    assert slurm.query(as_nobody, set(), {"rhnever"}, time.time() - 20 * 86400) == Jobs((), history=True)
    assert len(refused) == 7

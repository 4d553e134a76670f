"""Torque's commands: recorded answers of Slurm's qsub and qstat, and these commands with a real Slurm."""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import SlurmCluster, wait_until
from transcripts import replay, transcript

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.errors import RoundhouseError
from roundhouse.model.answers import Identity, Jobs, JobState, QueryFailed, Refused, Scope, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.pbs_answers import read_delete
from roundhouse.schedulers.torque import Torque, read_status, read_submission

TORQUE = "torque_transcripts"
USER = getpass.getuser()

REAL_TORQUE = """\
Job Id: 4321.head.example.org
    Job_Name = rh0123456789abc
    Job_Owner = ann@login.example.org
    resources_used.walltime = 02:00:11
    job_state = C
    queue = batch
    server = head.example.org
    Output_Path = login.example.org:/home/ann/experiments/charlie/cifar100/logit/a
\tlpha_0.5/attempts/1/scheduler.log
    exit_status = -11
    submit_args = -j oe job.sh

Job Id: 4322.head.example.org
    Job_Name = rhcba9876543210
    Job_Owner = ann@login.example.org
    job_state = H
    Hold_Types = s

Job Id: 4323.head.example.org
    Job_Name = other
    Job_Owner = bob@login.example.org
    job_state = R

"""


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("qsub",), code, stdout, stderr)


def test_only_own_jobs_are_returned() -> None:
    answer = read_status(said(0, REAL_TORQUE), "ann")
    assert isinstance(answer, Jobs)
    assert [(job.id, job.name, job.state, job.cause) for job in answer.jobs] == [
        ("4321.head.example.org", "rh0123456789abc", JobState.ENDED, Cause.WALLTIME),
        ("4322.head.example.org", "rhcba9876543210", JobState.BLOCKED, None),
    ]


def test_the_states_of_a_slurm_behind_qstat_are_read() -> None:
    answer = read_status(transcript(TORQUE, "qstat_full"), "root")
    assert isinstance(answer, Jobs)
    assert {job.name: job.state for job in answer.jobs} == {
        "rhwall": JobState.RUNNING,
        "rhok": JobState.ENDED,
        "rhbad": JobState.ENDED,
        "rhlong": JobState.RUNNING,
        "rhbig": JobState.ENDED,
        "rhcpus": JobState.QUEUED,
        "rhpart": JobState.QUEUED,
        "rhheld": JobState.QUEUED,
        "rhdep": JobState.ENDED,
        "rhbegin": JobState.QUEUED,
        "rhgone": JobState.RUNNING,
        "two": JobState.QUEUED,
        "rhtorque": JobState.RUNNING,
        "long.sh": JobState.ENDED,
    }
    assert {job.cause for job in answer.jobs} == {None}


def test_an_empty_queue_is_an_answer_although_qstat_exits_with_153() -> None:
    assert read_status(transcript(TORQUE, "qstat_unknown_id"), "root") == Jobs(())
    assert read_status(said(0), "root") == Jobs(())


@pytest.mark.parametrize(
    "answer",
    [
        transcript(TORQUE, "qstat_controller_down"),
        said(153, "", "qstat: cannot connect to server head (errno=111) Connection refused"),
        said(None, "", "no answer within 60 s."),
        said(0, "qstat is closed for maintenance\n"),
        said(0, "", "Communication failure"),
    ],
)
def test_a_queue_that_was_not_printed_is_a_failed_query(answer: Output) -> None:
    assert isinstance(read_status(answer, "root"), QueryFailed)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (transcript(TORQUE, "qsub_ok"), Submitted("15")),
        (said(0, "4321.head.example.org\n"), Submitted("4321.head.example.org")),
        (transcript(TORQUE, "qsub_unknown_queue"), Refused),
        (transcript(TORQUE, "qsub_too_much_memory"), Refused),
        (said(170, "", "qsub: submit error (Unknown queue MSG=cannot locate queue)"), Refused),
        (transcript(TORQUE, "qsub_controller_down"), Unclear),
        (said(1, "", "qsub: submit error (Pbs Server is currently too busy to service this request)"), Unclear),
        (said(None, "", "no answer within 60 s."), Unclear),
    ],
)
def test_the_answer_to_a_submission_is_parsed(answer: Output, expected: Submitted | type) -> None:
    read = read_submission(answer)
    assert read == expected if isinstance(expected, Submitted) else type(read) is expected


def test_the_message_of_a_refusal_by_slurm_is_kept_however_long_the_command_is() -> None:
    answer = transcript(TORQUE, "qsub_too_much_memory")
    answer = replace(answer, stdout=answer.stdout.replace("long.sh.o", f"/scratch/{'experiments/' * 30}long.sh.o"))
    read = read_submission(answer)
    assert isinstance(read, Refused)
    assert read.why.startswith("qsub (exit 1): sbatch: error: Memory specification can not be satisfied")
    assert "Requested node configuration is not available" in read.why


@pytest.mark.parametrize(
    ("words", "later", "scope"),
    [
        ("Unknown queue MSG=cannot locate queue", False, Scope.QUEUE),
        ("Queue is not enabled MSG=queue is disabled", True, Scope.QUEUE),
        ("Unauthorized Request MSG=group ACL is not satisfied", False, Scope.ALL),
        ("Invalid account", False, Scope.ALL),
        ("Maximum number of jobs already in queue MSG=total", True, Scope.ALL),
        ("Job exceeds queue resource limits MSG=cannot satisfy queue max walltime requirement", False, Scope.REQUEST),
    ],
)
def test_the_scope_of_a_refusal_follows_from_its_message(words: str, later: bool, scope: Scope) -> None:
    answer = read_submission(said(170, "", f"qsub: submit error ({words})"))
    assert isinstance(answer, Refused)
    assert (answer.later, answer.scope) == (later, scope)


def test_lines_of_the_dynamic_linker_in_an_answer_are_ignored() -> None:
    noise = "ERROR: ld.so: object 'libsite.so' from LD_PRELOAD cannot be preloaded: ignored.\n"
    assert read_status(said(0, "", noise), "ann") == Jobs(())
    assert read_status(said(0, REAL_TORQUE, noise), "ann") == read_status(said(0, REAL_TORQUE), "ann")
    assert read_submission(said(0, "4321.head.example.org\n", noise)) == Submitted("4321.head.example.org")


def test_an_unreadable_row_does_not_hide_other_jobs() -> None:
    answer = read_status(said(0, REAL_TORQUE.replace("    Job_Name = rhcba9876543210\n", "")), "ann")
    assert isinstance(answer, Jobs)
    assert [job.id for job in answer.jobs] == ["4321.head.example.org"]
    assert answer.unreadable_row_of("4322.head.example.org", "rhcba9876543210")


def test_a_full_queue_is_a_temporary_refusal() -> None:
    answer = read_submission(said(198, "", "qsub: submit error (Maximum number of jobs already in queue MSG=total)"))
    assert isinstance(answer, Refused)
    assert answer.later


@pytest.mark.parametrize(
    ("name", "complaints"),
    [("qdel_running", 0), ("qdel_ended", 0), ("qdel_unknown", 0), ("qdel_controller_down", 1)],
)
def test_deleting_a_job_that_is_already_gone_is_not_an_error(name: str, complaints: int) -> None:
    assert len(read_delete(transcript(TORQUE, name))) == complaints


def test_a_path_that_qsub_would_split_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "my experiments" / "job.sh"
    script.parent.mkdir()
    script.touch()
    answer = Torque(USER).submit(replay({}), script, "rhx")
    assert isinstance(answer, Refused)
    assert "my experiments" in answer.why


def test_the_server_is_named_by_qstat() -> None:
    queues = said(
        0, "\nserver: head.example.org\n\nQueue            Memory CPU Time Walltime Node  Run Que Lm  State\n"
    )
    assert Torque("ann").identity(replay({"qstat -q": queues})) == Identity("torque", "head.example.org", "ann")


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        (transcript(TORQUE, "qstat_version"), "torque"),
        (said(0, "Version: 6.1.2\nCommit: 661e092552de43a785c15d39a3634a541d86898e\n"), "torque"),
        (transcript("pbs_transcripts", "qstat_version"), "pbs"),
        (transcript(TORQUE, "qstat_no_cluster"), None),
    ],
)
def test_qstat_shows_which_scheduler_qsub_belongs_to(
    version: Output, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qsub").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    scheduler, remark = detect("auto", USER, replay({"qstat --version": version}))
    assert (scheduler and scheduler.kind) == kind
    assert bool(remark) == (kind is None)


def test_a_qsub_of_an_unknown_scheduler_is_an_error_and_not_a_local_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qsub").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    grid_engine = said(1, "", "SGE 8.1.9\nunknown option --version\nusage: qstat [options]")
    with pytest.raises(RoundhouseError, match="--scheduler local"):
        detect("auto", USER, replay({"qstat --version": grid_engine}))


# With a real Slurm behind qsub, qstat and qdel


@pytest.fixture
def torque(torque_cluster: SlurmCluster, slurm_cluster: SlurmCluster) -> Iterator[Torque]:
    yield Torque(USER)
    slurm_cluster.clear()


@pytest.mark.cluster
def test_a_job_is_found_by_its_name_from_submission_to_cancellation(
    torque: Torque, torque_cluster: SlurmCluster, tmp_path: Path
) -> None:
    templates, log = tmp_path / "templates", tmp_path / "scheduler.log"
    templates.mkdir()
    shutil.copy(Path(__file__).parent.parent / "templates" / "torque.sh.j2", templates)
    (templates / "body.sh.j2").write_text("echo I run as $PBS_JOBID\nsleep 600\n")
    script = tmp_path / "job.sh"
    site = Site(queue="main")
    environment = job_script.environment(templates)
    script.write_text(
        job_script.render(environment, "torque", name="rhtorque", log=str(log), resources=Resources(ncpus=2), site=site)
    )

    def state() -> JobState | None:
        answer = torque.query(torque_cluster.run, set(), {"rhtorque"})
        assert isinstance(answer, Jobs)
        return next((job.state for job in answer.jobs if job.name == "rhtorque"), None)

    assert shutil.which("sbatch", path=torque_cluster.env["PATH"]) is None
    assert state() is None
    answer = torque.submit(torque_cluster.run, script, "rhtorque")
    assert isinstance(answer, Submitted)
    wait_until(lambda: state() is JobState.RUNNING, "the job runs")
    wait_until(lambda: log.exists() and log.read_text(), "the log is where the header says")
    assert torque.cancel(torque_cluster.run, [answer.job_id, "424242"]) == []
    wait_until(lambda: state() is JobState.ENDED, "the job ends")


@pytest.mark.cluster
def test_a_slurm_behind_qsub_is_named_by_its_cluster(torque: Torque, torque_cluster: SlurmCluster) -> None:
    assert torque.identity(torque_cluster.run) == Identity("torque", torque_cluster.folder.name, USER)


@pytest.mark.cluster
def test_a_host_with_only_qsub_is_detected(
    torque: Torque, torque_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", torque_cluster.env["PATH"])
    scheduler, _ = detect("auto", USER, torque_cluster.run)
    assert isinstance(scheduler, Torque)

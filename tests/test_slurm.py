"""Slurm's answers, as transcripts of a real one, and a real one."""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster import CannotStart, SlurmCluster, run_command, skip_or_fail, start_slurm, wait_until
from rounds_for_tests import Rounds, fake_command, finish, wait_for
from transcripts import replay, transcript, transcripts

from roundhouse.causes import Cause
from roundhouse.errors import RoundhouseError
from roundhouse.experiment import Resources
from roundhouse.passes import render
from roundhouse.schedulers.base import (
    Identity,
    Job,
    Jobs,
    JobState,
    Output,
    QueryFailed,
    Refused,
    Submitted,
    Unclear,
)
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.slurm import Slurm, job_of, read_cancel, read_history, read_queue, read_submission

SLURM = "slurm_transcripts"
USER = getpass.getuser()
MISSING = Output(("sacct",), None, "", "cannot be started: No such file or directory")


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("sbatch",), code, stdout, stderr)


SUBMISSIONS: dict[str, Submitted | type] = {
    "sbatch_ok": Submitted("1"),
    "sbatch_too_many_cpus_is_accepted": Submitted("8"),
    "sbatch_too_long_for_partition_is_accepted": Submitted("9"),
    "sbatch_unknown_partition": Refused,
    "sbatch_bad_time": Refused,
    "sbatch_too_much_memory": Refused,
    "sbatch_no_gpus": Refused,
    "sbatch_unknown_feature": Refused,
    "sbatch_unknown_reservation": Refused,
    "sbatch_unknown_option": Refused,
    "sbatch_no_script": Refused,
    "sbatch_empty_script": Refused,
    "sbatch_no_interpreter": Refused,
    "sbatch_dos_line_breaks": Refused,
    "sbatch_timeout_but_accepted": Unclear,
    "sbatch_controller_down": Unclear,
    "sbatch_no_cluster": Unclear,
}


@pytest.mark.parametrize("name", [name for name in transcripts(SLURM) if name.startswith("sbatch")])
def test_a_submission_is_read_as_what_it_was(name: str) -> None:
    answer, expected = read_submission(transcript(SLURM, name)), SUBMISSIONS[name]
    if isinstance(expected, Submitted):
        assert answer == expected
    else:
        assert type(answer) is expected
        assert not isinstance(answer, Refused) or not answer.later
        assert "sbatch" in answer.why


def test_a_cluster_behind_the_id_is_left_away() -> None:
    assert read_submission(said(0, "123;elsewhere\n")) == Submitted("123")


def test_words_of_a_site_before_the_id_do_no_harm() -> None:
    assert read_submission(said(0, "Welcome!\nYour account is lab.\n123\n")) == Submitted("123")


@pytest.mark.parametrize(
    "verdict",
    [
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.\n"
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    ],
)
def test_a_limit_means_later(verdict: str) -> None:
    answer = read_submission(said(1, "", verdict))
    assert isinstance(answer, Refused)
    assert answer.later


def test_a_limit_of_slurm_stands_in_the_table_and_nothing_is_tried_again_while_it_is_waited_for(
    rounds: Rounds,
) -> None:
    told = "sbatch: error: QOSMaxSubmitJobPerUserLimit\\nsbatch: error: Batch job submission failed: Job violates "
    told += "accounting/QOS policy (job submit limit, user's size and/or time limits)"
    tried = rounds.notes / "tried"
    refuse = f'[ "$1" = --version ] && exit; echo >> {tried}; printf "{told}\\n" >&2; exit 1'
    rounds.extra["PATH"] = fake_command(rounds.folder, "sbatch", refuse)
    fake_command(rounds.folder, "squeue", ":")
    fake_command(rounds.folder, "scontrol", "echo 'ClusterName             = far'")
    fake_command(rounds.folder, "sacct", ":")
    rounds.write({"e": {"path": "{seed}", "grid": {"seed": [0, 1, 2]}, "command": "true"}})
    for _ in range(2):
        done = rounds.call("--scheduler", "slurm")
        assert done.returncode == 3
        assert " ".join(done.stdout.split()).count("limit reached: sbatch (exit 1): sbatch: error: QOSMaxSubmit") == 1
        assert done.stdout.count("(as above)") == 2
        assert len(tried.read_text().splitlines()) == 1


def test_jobs_of_this_machine_are_no_matter_of_slurm_and_those_to_be_cancelled_stop_by_themselves(
    rounds: Rounds,
) -> None:
    hold = f"echo run >> {rounds.notes}/{{n}}; while [ ! -e {rounds.notes}/go ]; do sleep 0.05; done"
    rounds.write({"e": {"path": "{n}", "grid": {"n": [0, 1]}, "command": ["bash", "-c", hold]}})
    rounds.extra["ROUNDHOUSE_SIGN_OF_LIFE"] = "0.5"
    runner = rounds.start()
    wait_for(lambda: [rounds.lines("0"), rounds.lines("1")] == [["run"]] * 2, "two jobs run")
    runner.kill()
    finish(runner)
    rounds.extra["PATH"] = fake_command(rounds.folder, "sbatch", ":")
    fake_command(rounds.folder, "squeue", ":")
    fake_command(rounds.folder, "scontrol", "echo 'ClusterName             = far'")
    fake_command(rounds.folder, "sacct", f"echo $@ >> {rounds.notes}/asked; echo 'fatal: Bad job/step' >&2; exit 1")
    slurm = "--scheduler", "slurm"
    for options, code in (("--status",), 0), (("--dry-run",), 0), ((), 3):
        done = rounds.call(*options, *slurm)
        assert (done.returncode, done.stderr) == (code, "")
        assert "its job belongs to local on" in done.stdout
    done = rounds.call("--cancel", "--only", "1", *slurm)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1: attempt 1 marked to stop, but its job not signalled" in done.stdout
    assert "(--scheduler local): run the pass there" in done.stdout
    wait_for(lambda: rounds.causes("1") == ["cancelled"], "the job saw the mark")
    (rounds.notes / "go").touch()
    wait_for(lambda: rounds.causes("0") == ["completed"], "the other goes on to its end")
    assert not rounds.lines("asked")


def test_a_limit_on_each_single_job_is_refused_for_good() -> None:
    verdict = (
        "sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, user's size and/or time limits)"
    )
    answer = read_submission(said(1, "", verdict))
    assert isinstance(answer, Refused)
    assert not answer.later


@pytest.mark.parametrize(
    "answer",
    [
        said(None, "", "gave no answer within 60 s."),
        said(None, "", "gave no answer within 60 s. sbatch: error: Slurm temporarily unable to accept job, retrying"),
        said(1, "", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received"),
        said(1, "", "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: "
                    "Socket timed out on send/recv operation"),
        said(1, "", "sbatch: error: something that nobody has seen before"),
        said(0, "no number"),
        said(137, "123\n"),
    ],
)  # fmt: skip
def test_whatever_else_fails_may_have_been_accepted(answer: Output) -> None:
    assert isinstance(read_submission(answer), Unclear)


def test_the_queue_is_read_whole() -> None:
    answer = read_queue(transcript(SLURM, "squeue_all"))
    assert isinstance(answer, Jobs)
    held, running, ended = JobState.BLOCKED, JobState.RUNNING, JobState.ENDED
    assert {job.id: (job.name, job.state, job.cause) for job in answer.jobs} == {
        "1": ("rhwall", running, None),
        "2": ("rhok", ended, None),
        "3": ("rhbad", ended, None),
        "4": ("rhlong", running, None),
        "5": ("rhbig", ended, None),
        "8": ("rhcpus", held, None),
        "9": ("rhpart", held, None),
        "10": ("rhheld", held, None),
        "11": ("rhdep", ended, Cause.DELETED),
        "12": ("rhbegin", JobState.QUEUED, None),
        "13": ("rhgone", running, None),
        "14": ("two", held, None),
        "15": ("rhtorque", running, None),
        "16": ("long.sh", ended, None),
    }
    assert "PENDING (PartitionTimeLimit)" in [job.words for job in answer.jobs]


def test_an_empty_queue_is_an_answer() -> None:
    assert read_queue(transcript(SLURM, "squeue_nothing")) == Jobs(())


@pytest.mark.parametrize("name", ["squeue_controller_down", "squeue_timeout", "squeue_unknown_user"])
def test_a_queue_that_was_not_told_is_a_failed_query(name: str) -> None:
    assert isinstance(read_queue(transcript(SLURM, name)), QueryFailed)


def test_a_banner_instead_of_the_queue_is_a_failed_query() -> None:
    assert isinstance(read_queue(said(0, "squeue is closed for maintenance\n")), QueryFailed)


@pytest.mark.parametrize("state", ["COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "RESIZING", "STATE_OF_2031"])
def test_a_state_that_is_not_known_to_be_an_end_is_alive(state: str) -> None:
    assert job_of("1", state, "rhx").state is JobState.RUNNING


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("TIMEOUT", Cause.WALLTIME),
        ("DEADLINE", Cause.WALLTIME),
        ("OUT_OF_MEMORY", Cause.MEMORY),
        ("NODE_FAIL", Cause.NODE),
        ("BOOT_FAIL", Cause.NODE),
        ("PREEMPTED", Cause.PREEMPTED),
        ("CANCELLED by 1000", Cause.DELETED),
        ("FAILED", None),
        ("COMPLETED", None),
    ],
)
def test_an_end_has_the_cause_that_its_state_tells(state: str, cause: Cause | None) -> None:
    job = job_of("1", state, "rhx")
    assert (job.state, job.cause) == (JobState.ENDED, cause)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Priority", JobState.QUEUED),
        ("PENDING", "Resources", JobState.QUEUED),
        ("PENDING", "AssocGrpCpuLimit", JobState.QUEUED),
        ("PENDING", "QOSMaxJobsPerUserLimit", JobState.QUEUED),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-4]", JobState.QUEUED),
        ("PENDING", "PartitionDown", JobState.QUEUED),
        ("PENDING", "JobHeldAdmin", JobState.BLOCKED),
        ("PENDING", "launch failed requeued held", JobState.BLOCKED),
        ("PENDING", "QOSMaxJobsPerAccountLimit", JobState.QUEUED),
        ("PENDING", "QOSMaxGRESPerUser", JobState.QUEUED),
        ("PENDING", "QOSMaxWallDurationPerJobLimit", JobState.BLOCKED),
        ("PENDING", "AssocMaxGRESPerJob", JobState.BLOCKED),
        ("PENDING", "QOSMaxMemoryPerNode", JobState.BLOCKED),
        ("PENDING", "QOSMinCpuNotSatisfied", JobState.BLOCKED),
        ("PENDING", "MaxMemPerLimit", JobState.BLOCKED),
        ("PENDING", "PartitionConfig", JobState.BLOCKED),
        ("PENDING", "PartitionNodeLimit", JobState.BLOCKED),
        ("PENDING", "DependencyNeverSatisfied", JobState.BLOCKED),
        ("RESV_DEL_HOLD", "None", JobState.BLOCKED),
        ("RUNNING", "JobHeldUser", JobState.RUNNING),
        ("REQUEUED", "None", JobState.QUEUED),
    ],
)
def test_only_what_no_waiting_resolves_is_blocked(state: str, reason: str, expected: JobState) -> None:
    assert job_of("1", state, "rhx", reason).state is expected


def test_history_is_asked_only_for_what_the_queue_does_not_show() -> None:
    asked: list[tuple[str, ...]] = []

    def run(argv: Sequence[str]) -> Output:
        asked.append(tuple(argv))
        if argv[0] == "squeue":
            return Output(tuple(argv), 0, "7|RUNNING|None|rha\n", "")
        rows = "5|TIMEOUT|rhold\n" if "--jobs=5" in argv else "6|CANCELLED by 0|rhb\n6|RUNNING|rhb\n"
        return Output(tuple(argv), 0, rows, "")

    slurm = Slurm(USER)
    assert slurm.query(run, {"7"}, {"rha"}) == Jobs((Job("7", "rha", JobState.RUNNING, "RUNNING"),))
    assert [argv[0] for argv in asked] == ["squeue"]
    answer = slurm.query(run, {"5", "7"}, {"rha", "rhb"})
    assert isinstance(answer, Jobs)
    assert [(job.id, job.state, job.cause) for job in answer.jobs] == [
        ("7", JobState.RUNNING, None),
        ("5", JobState.ENDED, Cause.WALLTIME),
        ("6", JobState.ENDED, Cause.DELETED),
    ]
    assert [argv[-1] for argv in asked[2:]] == ["--jobs=5", "--name=rhb"]


def test_a_job_that_only_accounting_thinks_alive_is_not_known() -> None:
    assert read_history(said(0, "5|RUNNING|rha\n6|COMPLETED|rhb\n")) == Jobs(
        (Job("6", "rhb", JobState.ENDED, "COMPLETED"),)
    )


@pytest.mark.parametrize("sacct", [transcript(SLURM, "sacct_disabled"), MISSING])
def test_without_accounting_the_queue_alone_answers(sacct: Output) -> None:
    run = replay({"squeue": transcript(SLURM, "squeue_nothing"), "sacct": sacct})
    assert Slurm(USER).query(run, {"5"}, {"rha"}) == Jobs(())


@pytest.mark.parametrize(
    "sacct",
    [
        said(1, "", "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection"),
        said(None, "", "gave no answer within 60 s."),
        said(0, "", "sacct: error: Problem talking to the database: Connection refused"),
    ],
)
def test_accounting_that_is_down_fails_the_query(sacct: Output) -> None:
    run = replay({"squeue": transcript(SLURM, "squeue_nothing"), "sacct": sacct})
    assert isinstance(Slurm(USER).query(run, {"5"}, set()), QueryFailed)


@pytest.mark.parametrize(
    ("name", "complaints"),
    [
        ("scancel_running", 0),
        ("scancel_again", 0),
        ("scancel_unknown", 0),
        ("scancel_no_id", 1),
        ("scancel_controller_down", 1),
    ],
)
def test_that_a_job_is_gone_already_is_no_complaint(name: str, complaints: int) -> None:
    assert len(read_cancel(transcript(SLURM, name))) == complaints


def test_complaints_of_a_job_that_ended_meanwhile_are_dropped() -> None:
    gone = "scancel: error: Kill job error on job id 5: Job/step already completing or completed\n"
    other = "scancel: error: Kill job error on job id 6: Access/permission denied\n"
    assert read_cancel(said(1, "", gone + other)) == [other.strip()]


def test_a_controller_that_is_down_has_no_identity() -> None:
    run = replay({"scontrol": transcript(SLURM, "scontrol_controller_down")})
    assert isinstance(Slurm(USER).identity(run), QueryFailed)


def commands_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_sbatch_without_a_cluster_leaves_the_work_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_on_path(tmp_path, monkeypatch, "sbatch")
    run = replay({"sbatch --version": transcript(SLURM, "sbatch_no_cluster")})
    scheduler, remark = detect("auto", USER, run)
    assert scheduler is None
    assert "no cluster is configured" in remark
    with pytest.raises(RoundhouseError, match="no cluster is configured"):
        detect("slurm", USER, run)
    with pytest.raises(RoundhouseError, match="no cluster here: .*Nothing was run on this machine"):
        detect("cluster", USER, run)


@pytest.mark.parametrize(
    "answer",
    [
        said(None, "", "gave no answer within 60 s."),
        said(1, "", "sbatch: fatal: Unable to process configuration file"),
        said(1, "", "sbatch: error: _fetch_child: failed to fetch remote configs: Unable to contact slurm controller\n"
                    "sbatch: fatal: Could not establish a configuration source"),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_answer_stays_the_scheduler(
    answer: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_on_path(tmp_path, monkeypatch, "sbatch")
    scheduler, _ = detect("auto", USER, replay({"sbatch --version": answer}))
    assert isinstance(scheduler, Slurm)


def test_a_machine_without_commands_is_its_own_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands_on_path(tmp_path, monkeypatch)
    assert detect("auto", USER, replay({})) == (None, "")
    assert detect("local", USER, replay({})) == (None, "")
    with pytest.raises(RoundhouseError, match="neither sbatch nor qsub"):
        detect("cluster", USER, replay({}))


@pytest.mark.parametrize(("kind", "command"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_scheduler_asked_for_must_be_here(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_on_path(tmp_path, monkeypatch)
    with pytest.raises(RoundhouseError, match=f"no command '{command}'"):
        detect(kind, USER, replay({}))


# With a real Slurm

Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a job script with our header and a body of the test's own."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(Path(__file__).parent.parent / "templates" / "slurm.sh.j2", templates)

    def write(name: str, body: str, log: Path | None = None, queue: str | None = None) -> Path:
        (templates / "body.sh.j2").write_text("{% raw %}" + body + "\n{% endraw %}")
        site = SimpleNamespace(queue=None, project=None, directives=[])
        path = tmp_path / f"{name}.sh"
        resources = Resources(ncpus=1, mem_mb=100, walltime_s=600, queue=queue)
        text = render.render(
            render.environment(templates), "slurm", name=name, log=str(log or tmp_path / f"{name}.log"),
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


@pytest.mark.cluster
def test_a_job_is_seen_by_its_name_from_submission_to_cancellation(
    slurm: Slurm, slurm_cluster: SlurmCluster, script: Script
) -> None:
    answer = slurm.submit(slurm_cluster.run, script("rhlong", "sleep 600"), "rhlong")
    assert isinstance(answer, Submitted)
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhlong") is JobState.RUNNING, "the job runs")
    assert slurm.cancel(slurm_cluster.run, [answer.job_id]) == []
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhlong") is JobState.ENDED, "the job ends")
    told = slurm.query(slurm_cluster.run, {answer.job_id}, set())
    assert isinstance(told, Jobs)
    assert [job.cause for job in told.jobs if job.id == answer.job_id] == [Cause.DELETED]
    assert slurm.cancel(slurm_cluster.run, [answer.job_id, "424242"]) == []


@pytest.mark.cluster
def test_a_name_that_was_never_submitted_is_not_known(slurm: Slurm, slurm_cluster: SlurmCluster) -> None:
    assert state_of(slurm, slurm_cluster, "rhnever") is None


@pytest.mark.cluster
def test_an_unknown_partition_is_refused(slurm: Slurm, slurm_cluster: SlurmCluster, script: Script) -> None:
    answer = slurm.submit(slurm_cluster.run, script("rhgpu", "true", queue="gpu_9"), "rhgpu")
    assert isinstance(answer, Refused)
    assert "gpu_9" in answer.why
    assert state_of(slurm, slurm_cluster, "rhgpu") is None


@pytest.mark.cluster
def test_a_job_does_not_inherit_the_variables_of_the_shell_that_submitted_it(
    slurm: Slurm, slurm_cluster: SlurmCluster, script: Script, tmp_path: Path
) -> None:
    env = {**slurm_cluster.env, "LEFTOVER": "from a login shell"}
    log = tmp_path / "env.log"
    slurm.submit(lambda argv: run_command(argv, env), script("rhenv", "env; echo HOME is $HOME", log), "rhenv")
    wait_until(lambda: state_of(slurm, slurm_cluster, "rhenv") is JobState.ENDED, "the job ends")
    assert "LEFTOVER" not in log.read_text()
    assert "SLURM_EXPORT_ENV=ALL" in log.read_text()
    assert f"HOME is {Path.home()}" in log.read_text()


@pytest.mark.cluster
def test_a_controller_that_dies_fails_the_query_and_forgets_nothing(script: Script) -> None:
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

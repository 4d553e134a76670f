"""Parsing of Slurm's answers, recorded from a real controller, and queries of a real one."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rounds_for_tests import Rounds, fake_command, finish, wait_for
from transcripts import replay, transcript

from roundhouse.model.answers import Job, Jobs, JobState, QueryFailed
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.slurm import NARROWINGS, Slurm
from roundhouse.schedulers.slurm_answers import job_ids, job_of, read_cancel, read_history, read_queue

SLURM = "slurm_transcripts"
USER = getpass.getuser()
MISSING = Output(("sacct",), None, "", "cannot be started: No such file or directory")


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("sbatch",), code, stdout, stderr)


def test_a_limit_of_slurm_is_shown_in_the_table_and_submissions_wait_for_it(
    rounds: Rounds,
) -> None:
    words = "sbatch: error: QOSMaxSubmitJobPerUserLimit\\nsbatch: error: Batch job submission failed: Job violates "
    words += "accounting/QOS policy (job submit limit, user's size and/or time limits)"
    tried = rounds.notes / "tried"
    refuse = f'[ "$1" = --version ] && exit; echo >> {tried}; printf "{words}\\n" >&2; exit 1'
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


def test_local_jobs_are_not_queried_from_slurm_and_stop_when_they_are_cancelled(
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
    assert "1: attempt 1 marked to stop, but its job was not signalled" in done.stdout
    assert "(--scheduler local): run the pass there" in done.stdout
    wait_for(lambda: rounds.causes("1") == ["cancelled"], "the job saw the mark")
    (rounds.notes / "go").touch()
    wait_for(lambda: rounds.causes("0") == ["completed"], "the other completes")
    assert not rounds.lines("asked")


def test_all_jobs_of_the_queue_are_read() -> None:
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


@pytest.mark.parametrize(
    "name", ["squeue_controller_down", "squeue_timeout", "squeue_unknown_user", "squeue_munge_down"]
)
def test_a_queue_that_was_not_printed_is_a_failed_query(name: str) -> None:
    assert isinstance(read_queue(transcript(SLURM, name)), QueryFailed)


def test_a_banner_instead_of_the_queue_is_a_failed_query() -> None:
    assert isinstance(read_queue(said(0, "squeue is closed for maintenance\n")), QueryFailed)


@pytest.mark.parametrize("name", ["squeue_heterogeneous_and_arrays", "squeue_without_r"])
def test_ids_of_all_forms_are_read(name: str) -> None:
    answer = read_queue(transcript(SLURM, name))
    assert isinstance(answer, Jobs)
    arrays = {f"3_{index}": "rharray" for index in range(6)} | {f"4_{index}": "rhmore" for index in (1, 3, 5, 7, 9)}
    named = {"1+0": "rhhet", "1+1": "rhhet", "5": "na", "6": "café", "7": "rhlast"}
    assert {job.id: job.name for job in answer.jobs} == arrays | named
    assert answer.unreadable == ()
    assert {job.index for job in answer.jobs if job.name == "rharray"} == set(range(6))


def test_a_reason_may_be_any_text() -> None:
    answer = read_queue(transcript(SLURM, "squeue_qos_not_permitted"))
    assert isinstance(answer, Jobs)
    states = {job.id: job.state for job in answer.jobs}
    assert (states["7"], states["9"]) == (JobState.BLOCKED, JobState.QUEUED)
    (job,) = read_queue(said(0, "7|PENDING|a plugin | of the site|rha\n")).jobs  # type: ignore[union-attr]
    assert (job.id, job.name, job.state) == ("7", "rha", JobState.QUEUED)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("12", (["12"], True)),
        ("12_3", (["12_3"], True)),
        ("1+0", (["1+0"], True)),
        ("12_[0-2%2]", (["12_0", "12_1", "12_2"], True)),
        ("12_[7]", (["12_7"], True)),
        ("12_[1,3-5,10-20:5%4]", (["12_1", "12_3", "12_4", "12_5", "12_10", "12_15", "12_20"], True)),
        ("12_[0-1,5,...]", (["12_0", "12_1", "12_5"], False)),
        ("12_[]", ([], False)),
    ],
)
def test_an_id_may_represent_several_tasks(printed: str, expected: tuple[list[str], bool]) -> None:
    assert job_ids(printed) == expected


@pytest.mark.parametrize(
    ("rows", "unreadable"),
    [
        ("8|RUNN\n7|RUNNING|None|rha\n", "8|RUNN"),
        ("7|RUNNING|None|rha\n8|RUNNING|None|rh", "8|RUNNING|None|rh"),  # cut in the name
        ("7|RUNNING|None|rha\n8", "8"),
        ("7|RUNNING|None|rha\n8_[0-5,...]|PENDING|None|rhb\n", "8_[0-5,...]|PENDING|None|rhb"),
        ("\ufffd8|RUNNING|None|rhb\n7|RUNNING|None|rha\n", "\ufffd8|RUNNING|None|rhb"),
        ("8#1|RUNNING|None|rhb\n7|RUNNING|None|rha\n", "8#1|RUNNING|None|rhb"),
        ("7|RUNNING|None|rha\n8|\ufffd\ufffd|None|rhb\n", "8|\ufffd\ufffd|None|rhb"),
    ],
)
def test_an_unreadable_row_hides_no_other_job_and_leaves_its_own_job_unknown(rows: str, unreadable: str) -> None:
    answer = read_queue(said(0, rows))
    assert isinstance(answer, Jobs)
    assert Job("7", "rha", JobState.RUNNING, "RUNNING") in answer.jobs
    assert answer.unreadable == (unreadable,)
    assert answer.unreadable_row_of("8", "rhb") == unreadable
    assert answer.unreadable_row_of(None, "rhb") == unreadable


def test_a_row_truncated_within_its_id_may_belong_to_any_job_whose_id_begins_so() -> None:
    answer = read_queue(said(0, "7|RUNNING|None|rha\n1"))
    assert isinstance(answer, Jobs)
    assert answer.unreadable_row_of("12", "rhb") == "1"


def test_text_before_and_after_the_queue_is_ignored() -> None:
    answer = read_queue(said(0, "Welcome to the lab!\n7|RUNNING|None|rha\n\nQuestions? help@lab\n"))
    assert answer == Jobs((Job("7", "rha", JobState.RUNNING, "RUNNING"),))


CHATTER = (
    "ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded: ignored.\n"
    "lab-wrapper: error: no quota file\n"
    "squeue: error: Parsing error at unrecognized key: TopologyParam\n"
    'sacct: error: The option "FastSchedule" is defunct, please remove it from slurm.conf.\n'
)


@pytest.mark.parametrize("name", ["squeue_all", "squeue_nothing"])
def test_lines_of_other_programs_in_the_queue_are_ignored(name: str) -> None:
    answer = transcript(SLURM, name)
    assert read_queue(Output(answer.argv, 0, answer.stdout, CHATTER)) == read_queue(answer)


def test_the_message_of_a_failed_query_is_that_of_the_command() -> None:
    down = transcript(SLURM, "squeue_controller_down")
    answer = read_queue(Output(down.argv, 1, "", CHATTER * 3 + down.stderr))
    assert isinstance(answer, QueryFailed)
    assert answer.why.endswith("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert "ld.so" not in answer.why


def test_lines_of_other_programs_in_the_history_are_ignored() -> None:
    answer = transcript(SLURM, "sacct_names_and_arrays")
    assert read_history(Output(answer.argv, 0, answer.stdout, CHATTER)) == read_history(answer)


def test_an_error_of_squeue_counts_even_if_it_exits_with_0() -> None:
    down = transcript(SLURM, "squeue_controller_down").stderr
    assert isinstance(read_queue(said(0, "7|RUNNING|None|rha\n", CHATTER + down)), QueryFailed)
    assert isinstance(read_queue(said(0, "", "squeue: error: something new\n")), QueryFailed)


def rows_of(name: str) -> list[str]:
    return transcript(SLURM, name).stdout.splitlines(keepends=True)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["squeue_all", "squeue_heterogeneous_and_arrays", "squeue_without_r"]),
    row=st.integers(0, 20),
    cut=st.integers(1, 40),
    garbage=st.sampled_from(["", "\ufffd", "|", "#", " ", "\x00"]),
    ends_there=st.booleans(),
)
def test_a_mangled_row_never_hides_a_job(name: str, row: int, cut: int, garbage: str, ends_there: bool) -> None:
    """Every job of the real listing is read with its own state, or its state is unknown."""
    whole = read_queue(transcript(SLURM, name))
    assert isinstance(whole, Jobs)
    rows = rows_of(name)
    row %= len(rows)
    kept = rows[row][: min(cut, len(rows[row]) - 1)]
    assume(not (kept.isdigit() and garbage == "|"))  # the ID of another job
    rest = "" if ends_there else "\n" + "".join(rows[row + 1 :])
    answer = read_queue(said(0, "".join(rows[:row]) + kept + garbage + rest))
    ended = JobState.ENDED
    read = {job.id: job for job in answer.jobs} if isinstance(answer, Jobs) else {}
    for job in (job for line in rows[: row + 1] for job in jobs_of_row(line)):
        unknown = isinstance(answer, QueryFailed) or answer.unreadable_row_of(job.id, job.name)
        found = read.get(job.id)
        assert unknown or (found is not None and (found.state is ended) is (job.state is ended)), job


def jobs_of_row(line: str) -> tuple[Job, ...]:
    answer = read_queue(said(0, line))
    return answer.jobs if isinstance(answer, Jobs) else ()


@given(st.text(alphabet="0123456789|_+[]-%,ABCDEFG rh\n\r\x00\ufffd\u2028", max_size=80))
def test_no_text_makes_the_parsers_raise(text: str) -> None:
    assert isinstance(read_queue(said(0, text)), Jobs | QueryFailed)
    assert isinstance(read_history(said(0, text)), Jobs)


@pytest.mark.parametrize("state", ["COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "RESIZING", "STATE_OF_2031"])
def test_an_unknown_state_counts_as_alive(state: str) -> None:
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
        ("CANCELLED", Cause.DELETED),
        ("FAILED", None),
        ("COMPLETED", None),
    ],
)
def test_an_ended_job_has_the_cause_of_its_state(state: str, cause: Cause | None) -> None:
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
def test_a_pending_job_is_blocked_only_for_a_permanent_reason(state: str, reason: str, expected: JobState) -> None:
    assert job_of("1", state, "rhx", reason).state is expected


def test_history_is_queried_only_for_jobs_that_are_not_in_the_queue() -> None:
    asked: list[tuple[str, ...]] = []

    def run(argv: Sequence[str]) -> Output:
        asked.append(tuple(argv))
        if argv[0] == "squeue":
            return Output(tuple(argv), 0, "7|RUNNING|None|rha\n", "")
        rows = "5|TIMEOUT|rhold\n" if "--jobs=5" in argv else "6|CANCELLED by 0|rhb\n6|RUNNING|rhb\n6\n||\n8||rhc\n"
        return Output(tuple(argv), 0, rows, "")

    slurm = Slurm(USER)
    assert slurm.query(run, {"7"}, {"rha"}) == Jobs((Job("7", "rha", JobState.RUNNING, "RUNNING"),), history=True)
    assert [argv[0] for argv in asked] == ["squeue"]
    answer = slurm.query(run, {"5", "7"}, {"rha", "rhb"})
    assert isinstance(answer, Jobs)
    assert [(job.id, job.state, job.cause) for job in answer.jobs] == [
        ("7", JobState.RUNNING, None),
        ("5", JobState.ENDED, Cause.WALLTIME),
        ("6", JobState.ENDED, Cause.DELETED),
    ]
    assert [argv[-1] for argv in asked[2:]] == ["--jobs=5", "--name=rhb"]


def test_a_job_that_is_alive_only_in_accounting_is_not_known() -> None:
    assert read_history(said(0, "5|RUNNING|rha\n6|COMPLETED|rhb\n")) == Jobs(
        (Job("6", "rhb", JobState.ENDED, "COMPLETED"),)
    )


def test_pending_tasks_that_were_cancelled_are_ended_jobs() -> None:
    answer = read_history(transcript(SLURM, "sacct_names_and_arrays"))
    assert isinstance(answer, Jobs)
    tasks = {f"4_{index}": Cause.DELETED for index in (1, 3, 5, 7, 9)}
    assert {job.id: job.cause for job in answer.jobs} == {"6": None, "7": None, **tasks}


def test_an_ended_job_queried_by_id_is_kept_under_its_new_name() -> None:
    run = replay({"squeue": transcript(SLURM, "squeue_nothing"), "sacct": said(0, "5|COMPLETED|renamed\n")})
    answer = Slurm(USER).query(run, {"5"}, set())
    assert answer == Jobs((Job("5", "renamed", JobState.ENDED, "COMPLETED"),), history=True)


def test_history_is_queried_from_the_oldest_attempt_on() -> None:
    starts: list[int] = []

    def run(argv: Sequence[str]) -> Output:
        if argv[0] == "sacct":
            starts.append(int(argv[argv.index("-S") + 1].removeprefix("now-").removesuffix("seconds")))
        return Output(tuple(argv), 0, "", "")

    assert Slurm(USER).query(run, {"5"}, {"rha"}, time.time() - 7200) == Jobs((), history=True)
    assert all(7200 < start < 7200 + 2 * 3600 for start in starts)
    assert len(starts) == 2


def within(limit: float, starts: list[int]) -> Callable[[Sequence[str]], Output]:
    """A Slurm whose accounting allows time ranges of at most this many seconds for names; 0 refuses all."""

    def run(argv: Sequence[str]) -> Output:
        if argv[0] != "sacct":
            return Output(tuple(argv), 0, "", "")
        starts.append(int(argv[argv.index("-S") + 1].removeprefix("now-").removesuffix("seconds")))
        if starts[-1] > limit and argv[-1].startswith("--name="):
            return transcript(SLURM, "sacct_too_wide")
        return Output(tuple(argv), 0, "6|TIMEOUT|rhb\n", "")

    return run


def test_a_time_range_that_is_too_wide_is_narrowed_and_remembered() -> None:
    starts: list[int] = []
    slurm = Slurm(USER)
    run = within(7 * 86400, starts)
    answer = slurm.query(run, set(), {"rhb"}, time.time() - 30 * 86400)
    assert isinstance(answer, Jobs)
    assert [job.cause for job in answer.jobs] == [Cause.WALLTIME]
    assert len(starts) == 4
    assert starts[-1] == pytest.approx(30 / 8 * 86400, rel=0.01)
    slurm.query(run, set(), {"rhb"}, time.time() - 30 * 86400)
    assert len(starts) == 5
    slurm.query(run, {"5"}, set(), time.time() - 30 * 86400)
    assert starts[-1] > 30 * 86400, "IDs are looked for in any range"


def test_accounting_that_refuses_every_time_range_counts_as_no_history() -> None:
    starts: list[int] = []
    assert Slurm(USER).query(within(0, starts), set(), {"rhb"}) == Jobs(())
    assert len(starts) == NARROWINGS + 1


@pytest.mark.parametrize("sacct", [transcript(SLURM, "sacct_disabled"), MISSING])
def test_without_accounting_only_the_queue_is_used(sacct: Output) -> None:
    run = replay({"squeue": transcript(SLURM, "squeue_nothing"), "sacct": sacct})
    assert Slurm(USER).query(run, {"5"}, {"rha"}) == Jobs(())


@pytest.mark.parametrize(
    "sacct",
    [
        transcript(SLURM, "sacct_daemon_down"),
        transcript(SLURM, "sacct_munge_down"),  # it says "No such file or directory"
        said(None, "", "no answer within 60 s."),
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
        ("scancel_munge_down", 4),
        ("scancel_unknown_cluster", 2),
    ],
)
def test_cancelling_a_job_that_is_already_gone_is_not_an_error(name: str, complaints: int) -> None:
    assert len(read_cancel(transcript(SLURM, name))) == complaints


def test_errors_about_jobs_that_have_ended_are_dropped() -> None:
    gone = "scancel: error: Kill job error on job id 5: Job/step already completing or completed\n"
    other = "scancel: error: Kill job error on job id 6: Access/permission denied\n"
    assert read_cancel(said(1, "", gone + other)) == [other.strip()]


def test_lines_of_other_programs_are_not_errors_of_scancel() -> None:
    gone = "scancel: error: Kill job error on job id 5: Job/step already completing or completed\n"
    assert read_cancel(said(1, "", CHATTER + gone)) == []
    assert read_cancel(said(0, "", CHATTER)) == []
    assert len(read_cancel(said(1, "", "lab-wrapper: no quota\n"))) == 1


def test_a_controller_that_is_down_has_no_identity() -> None:
    run = replay({"scontrol": transcript(SLURM, "scontrol_controller_down")})
    assert isinstance(Slurm(USER).identity(run), QueryFailed)

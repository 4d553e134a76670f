"""What Slurm's answers to a submission mean, and which reasons of a pending job are permanent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from transcripts import DATA, replay, transcript, transcripts

from roundhouse.model.answers import JobState, Refused, Scope, Submitted, Unclear
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.slurm import Slurm
from roundhouse.schedulers.slurm_answers import job_of, read_submission
from roundhouse.schedulers.slurm_refusals import LIMITS, is_permanent, limit_of, refusal

SLURM = "slurm_transcripts"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
PRELOAD = "ERROR: ld.so: object 'libnss.so' from LD_PRELOAD cannot be preloaded: ignored.\n"


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("sbatch",), code, stdout, stderr)


def failed(verdict: str, *before: str) -> Output:
    lines = [*before, f"Batch job submission failed: {verdict}"]
    return said(1, "", "".join(f"sbatch: error: {line}\n" for line in lines))


NEVER = False, Scope.REQUEST
SUBMISSIONS: dict[str, Submitted | type | tuple[bool, Scope]] = {
    "sbatch_ok": Submitted("1"),
    "sbatch_named_cluster": Submitted("12"),
    "sbatch_too_many_cpus_is_accepted": Submitted("8"),
    "sbatch_too_long_for_partition_is_accepted": Submitted("9"),
    "sbatch_unknown_partition": (False, Scope.QUEUE),
    "sbatch_unknown_account": (False, Scope.QUEUE),
    "sbatch_unknown_qos": (False, Scope.QUEUE),
    "sbatch_partition_inactive": (True, Scope.QUEUE),
    "sbatch_unknown_feature": (False, Scope.ALL),
    "sbatch_unknown_reservation": (False, Scope.ALL),
    "sbatch_unknown_option": (False, Scope.ALL),
    "sbatch_unknown_cluster": (False, Scope.ALL),
    "sbatch_bad_time": (False, Scope.ALL),
    "sbatch_array_too_large": (True, Scope.SIZE),
    "sbatch_too_much_memory": NEVER,
    "sbatch_no_gpus": NEVER,
    "sbatch_no_script": NEVER,
    "sbatch_empty_script": NEVER,
    "sbatch_no_interpreter": NEVER,
    "sbatch_dos_line_breaks": NEVER,
    "sbatch_limit_cpus_per_job": NEVER,
    "sbatch_limit_walltime": NEVER,
    "sbatch_limit_min_cpus": NEVER,
    "sbatch_limit_memory": NEVER,
    "sbatch_limit_cpus_per_user": (True, Scope.REQUEST),
    "sbatch_limit_cpus_of_group": (True, Scope.REQUEST),
    "sbatch_limit_submitted_jobs": (True, Scope.ALL),
    "sbatch_timeout_but_accepted": Unclear,
    "sbatch_controller_down": Unclear,
    "sbatch_munge_down": Unclear,
    "sbatch_no_cluster": Unclear,
}


def meaning(answer: Output) -> Submitted | type | tuple[bool, Scope]:
    verdict = read_submission(answer)
    if isinstance(verdict, Refused):
        return verdict.later, verdict.scope
    return verdict if isinstance(verdict, Submitted) else Unclear


@pytest.mark.parametrize("name", [name for name in transcripts(SLURM) if name.startswith("sbatch")])
def test_the_answer_to_a_submission_is_parsed(name: str) -> None:
    assert meaning(transcript(SLURM, name)) == SUBMISSIONS[name]


@pytest.mark.parametrize("name", [name for name in SUBMISSIONS if not isinstance(SUBMISSIONS[name], Submitted)])
def test_the_message_of_sbatch_is_kept(name: str) -> None:
    answer = transcript(SLURM, name)
    verdict = read_submission(answer)
    assert isinstance(verdict, Refused | Unclear)
    assert " ".join(answer.stderr.splitlines()[0].split()) in verdict.why


def test_lines_of_a_site_before_the_id_are_ignored() -> None:
    assert read_submission(said(0, "Welcome!\nYour account is lab.\n123\n", PRELOAD)) == Submitted("123")


@pytest.mark.parametrize("name", [name for name in SUBMISSIONS if not isinstance(SUBMISSIONS[name], Submitted)])
def test_lines_of_other_programs_in_an_error_are_ignored(name: str) -> None:
    answer = transcript(SLURM, name)
    chatter = PRELOAD * 4 + "lab-wrapper: error: Connection refused\n"
    noisy = Output(answer.argv, answer.code, answer.stdout, chatter + answer.stderr + chatter)
    assert meaning(noisy) == SUBMISSIONS[name]
    assert "ld.so" not in getattr(read_submission(noisy), "why", "")


# ------------------------------------------------------------------------------------------------ communication

# Slurm's list of errors (slurm_errno.c of 22.05 and 25.05): those of the connection, in any part of it.
COMMUNICATION = """\
Unexpected message received
Communication connection failure
Message send failure
Message receive failure
Communication shutdown failure
Incompatible versions of client and server code
I/O stream version number error
Protocol authentication error
Insane message length
Can't find an address, check slurm.conf
Unexpected missing socket error
Unable to process incoming file descriptor
Read would block
Write would block
Connection rejected by handler
Connection forced closed by quiesce timeout
Connection timed out establishing
Connection timed out writing
Connection timed out reading
Kernel reported delayed socket error after successful write(), client side likely closed
Process is shutting down and closing all communications
Unable to contact slurm controller (connect failure)
Unable to contact slurm controller (send failure)
Unable to contact slurm controller (receive failure)
Unable to contact slurm controller (shutdown failure)
Slurm backup controller in standby mode
Controller is in standby mode, try a different controller
Received zero length message
Received message length < 0
Failed to send entire message
Header lengths are longer than data received
Socket timed out on send/recv operation
Zero Bytes were transmitted or received
Invalid authentication credential
Authentication credential expired
Cannot unpack credential
Unable to connect to database
Operation now in progress
No error
Slurm internal error, contact system administrator
Connection refused
Connection reset by peer
Connection timed out
No route to host
Network is unreachable
Broken pipe
Interrupted system call
Input/output error
""".splitlines()


@pytest.mark.parametrize("verdict", COMMUNICATION)
def test_after_an_error_of_the_connection_the_job_may_exist(verdict: str) -> None:
    answer = read_submission(failed(verdict, "invalid partition specified: x"))
    assert isinstance(answer, Unclear)
    assert verdict in answer.why


@pytest.mark.parametrize(
    "answer",
    [
        said(None, "", "no answer within 60 s."),
        said(None, "", "no answer within 60 s. sbatch: error: Slurm temporarily unable to accept job, retrying"),
        said(1, "", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.\n"),
        said(0, "no number"),
        said(137, "123\n"),
        said(1, "123\n", "sbatch: error: Invalid partition name specified"),
        said(-11, "", "sbatch: error: Invalid --time specification"),
        said(143, "", "sbatch: error: Batch job submission failed: Invalid partition name specified"),
        said(1, "", ""),
        said(1, "", "lab-wrapper: invalid partition specified"),
        said(127, "", "/usr/bin/sbatch: line 3: /opt/slurm/bin/sbatch: No such file or directory"),
        said(126, "", "/usr/bin/sbatch: line 3: /opt/slurm/bin/sbatch: Permission denied"),
        said(1, "", "sbatch: error: _fetch_child: failed to fetch remote configs: Unable to contact slurm controller"),
    ],
)
def test_without_a_message_of_the_controller_or_sbatch_it_is_unclear_whether_there_is_a_job(
    answer: Output,
) -> None:
    assert isinstance(read_submission(answer), Unclear)


def test_it_is_unclear_if_one_of_several_requests_may_have_been_accepted() -> None:
    tries = failed("Socket timed out on send/recv operation").stderr + failed("Invalid qos specification").stderr
    assert isinstance(read_submission(said(1, "", tries)), Unclear)


def test_an_unspecified_error_after_a_connection_error_is_unclear() -> None:
    lost = "slurm_receive_msg: Socket timed out on send/recv operation"
    assert isinstance(read_submission(failed("Unspecified error", lost)), Unclear)
    assert isinstance(read_submission(failed("Unspecified error", "Your licence timed out")), Refused)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        # Slurm's text for a job that a site's own filter (job_submit/lua) rejects.
        ("Unspecified error", NEVER),
        ("Requested time limit is invalid (missing or exceeds some limit)", NEVER),
        ("Requested node configuration is not available", NEVER),
        ("Node count specification invalid", NEVER),
        ("Memory required by task is not available", NEVER),
        ("An error of 2031", NEVER),
        ("Invalid partition name specified", (False, Scope.QUEUE)),
        ("No partition specified or system default partition", (False, Scope.QUEUE)),
        ("User's group not permitted to use this partition", (False, Scope.QUEUE)),
        ("Invalid account or account/partition combination specified", (False, Scope.QUEUE)),
        ("Access/permission denied", (False, Scope.QUEUE)),
        ("Access denied to requested reservation", (False, Scope.ALL)),
        ("Invalid wckey specification", (False, Scope.ALL)),
        ("Invalid user id", (False, Scope.ALL)),
        ("Partition in DOWN state", (True, Scope.QUEUE)),
        ("Requested reservation not usable now", (True, Scope.REQUEST)),
        ("Required node not available (down, drained or reserved)", (True, Scope.REQUEST)),
        ("Unable to create job record, try again", (True, Scope.ALL)),
        ("MaxJobCount limit reached", (True, Scope.ALL)),
        ("Resource temporarily unavailable", (True, Scope.ALL)),
        ("Rate limit exceeded, please retry later", (True, Scope.ALL)),
        ("System submissions disabled", (True, Scope.ALL)),
        ("I/O error writing script/environment to file", (True, Scope.ALL)),
        ("Requested account has breached requested QOS usage threshold", (True, Scope.ALL)),
        (POLICY, (True, Scope.ALL)),
    ],
)
def test_a_refusal_has_a_scope_and_is_temporary_or_not(verdict: str, expected: tuple[bool, Scope]) -> None:
    answer = failed(verdict, "spank: x11.so: Plugin file not found")
    assert meaning(answer) == expected


def test_the_text_of_a_filter_of_the_site_is_shown() -> None:
    verdict = read_submission(failed("Unspecified error", "The cpu demand is lower than 48. Use the partition huge."))
    assert isinstance(verdict, Refused)
    assert "The cpu demand is lower than 48. Use the partition huge." in verdict.why


def reasons() -> Iterator[tuple[str, str]]:
    """(meaning, reason), of all reasons that Slurm knows."""
    for part in (DATA / "slurm_reasons.txt").read_text().split("\n[")[1:]:
        name, _, words = part.partition("]")
        yield from ((name, word) for word in words.split())


MEANING = {"REQUEST": NEVER, "JOBS": (True, Scope.ALL), "RESOURCES": (True, Scope.REQUEST)}


@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_every_reason_has_one_meaning_in_upper_and_lower_case(change: type[str]) -> None:
    assert len(list(reasons())) > 190
    for name, word in reasons():
        assert is_permanent(change(word)) is (name in ("REQUEST", "HOPELESS")), word
        assert limit_of(change(word)) == MEANING.get(name), word


def test_no_reason_matches_two_limits() -> None:
    for _, word in reasons():
        assert sum(re.fullmatch(words, word, re.IGNORECASE) is not None for words in LIMITS.values()) <= 1, word


def test_a_limit_has_the_same_meaning_for_a_submission_and_a_pending_job() -> None:
    for name, word in reasons():
        if name in MEANING:
            assert meaning(failed(POLICY, word)) == MEANING[name], word
            waits = JobState.BLOCKED if name == "REQUEST" else JobState.QUEUED
            assert job_of("1", "PENDING", "rhx", word).state is waits, word


def test_a_limit_that_only_a_wrapper_names_does_not_count() -> None:
    answer = failed(POLICY, "QOSMinGRES")
    assert meaning(Output(answer.argv, 1, "", "QOSMaxJobsPerUserLimit\n" + answer.stderr)) == NEVER


def test_the_message_of_slurms_qsub_is_parsed_in_the_same_way() -> None:
    assert isinstance(refusal(Output(("qsub",), 1, "", "sbatch: error: invalid partition specified: x")), Refused)


# ------------------------------------------------------------------------------------------------ other clusters

CONFIG = Output((), 0, "ClusterName             = Here\n", PRELOAD)


def submit(answers: dict[str, Output]) -> tuple[object, list[str]]:
    calls: list[str] = []

    def run(argv: Sequence[str]) -> Output:
        calls.append(argv[0])
        return replay(answers)(argv)

    return Slurm("me").submit(run, DATA / "job.sh", "rhx"), calls


def test_a_job_with_the_name_of_this_cluster_in_the_answer_is_submitted() -> None:
    assert submit({"sbatch": said(0, "12;here\n"), "scontrol": CONFIG})[0] == Submitted("12")


def test_no_further_command_runs_if_no_cluster_is_named() -> None:
    assert submit({"sbatch": said(0, "12\n")}) == (Submitted("12"), ["sbatch"])


def test_a_job_that_another_cluster_accepted_is_cancelled_there_and_stops_the_pass() -> None:
    sent = {"sbatch": said(0, "12;far\n"), "scontrol": CONFIG, "scancel --clusters=far 12": said(0)}
    verdict, _ = submit(sent)
    assert isinstance(verdict, Refused)
    assert (verdict.later, verdict.scope) == (False, Scope.ALL)
    assert "job 12 was accepted by cluster 'far'" in verdict.why
    assert "SLURM_CLUSTERS=far" in verdict.why


def test_a_job_on_another_cluster_that_cannot_be_cancelled_may_still_run() -> None:
    failure = transcript(SLURM, "scancel_unknown_cluster")
    verdict, _ = submit({"sbatch": said(0, "12;far\n"), "scontrol": CONFIG, "scancel": failure})
    assert isinstance(verdict, Unclear)
    assert "scancel --clusters=far 12" in verdict.why
    assert "No cluster 'other' known" in verdict.why


def test_a_job_is_not_cancelled_if_the_name_of_this_cluster_is_unknown() -> None:
    verdict, calls = submit({"sbatch": said(0, "12;far\n"), "scontrol": transcript(SLURM, "scontrol_controller_down")})
    assert isinstance(verdict, Unclear)
    assert calls == ["sbatch", "scontrol"]

"""PBS's answers, as transcripts of a real one."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest
from transcripts import replay, transcript, transcripts

from roundhouse.causes import Cause
from roundhouse.schedulers.base import (
    Jobs,
    JobState,
    Output,
    QueryFailed,
    Refused,
    Scope,
    Submitted,
    Unclear,
    array_id,
)
from roundhouse.schedulers.pbs import PBS
from roundhouse.schedulers.pbs_answers import blocks_of, job_of, read_delete, read_selection, read_status
from roundhouse.schedulers.pbs_qsub import read_submission

REAL = "pbs_transcripts"
USER = getpass.getuser()
ENDED, RUNNING, QUEUED, BLOCKED = JobState.ENDED, JobState.RUNNING, JobState.QUEUED, JobState.BLOCKED

# What `qstat -f` said in each transcript: job ID -> name, state, cause.
STATUS: dict[str, dict[str, tuple[str, JobState, Cause | None]]] = {
    "qstat_json_finished_and_unknown_without_x": {},
    "qstat_json_held_and_never_fits": {"21.pbsnode": ("held", BLOCKED, None)},
    "qstat_json_numbers_and_booleans_coerced": {"22.pbsnode": ("0012", BLOCKED, None)},
    "qstat_t_json_array_running": {
        "15[0].pbsnode": ("arr", RUNNING, None),
        "15[1].pbsnode": ("arr", QUEUED, None),
        "15[2].pbsnode": ("arr", QUEUED, None),
        "15[3].pbsnode": ("arr", QUEUED, None),
    },
    "qstat_x_json_deleted_while_queued": {"20.pbsnode": ("long", ENDED, Cause.DELETED)},
    "qstat_x_json_deleted_while_running": {"16.pbsnode": ("long", ENDED, Cause.DELETED)},
    "qstat_x_json_exit_0_and_7": {"12.pbsnode": ("ok", ENDED, None)},
    "qstat_x_json_one_id_unknown": {"12.pbsnode": ("ok", ENDED, None)},
    "qstat_x_json_walltime_killed": {"23.pbsnode": ("wall", ENDED, Cause.WALLTIME)},
    "qstat_xf_dependency_dropped": {"18.pbsnode": ("ok", ENDED, None)},
    "qstat_xt_json_array_finished": {
        "15[0].pbsnode": ("arr", ENDED, None),
        "15[1].pbsnode": ("arr", ENDED, None),
        "15[2].pbsnode": ("arr", ENDED, None),
        "15[3].pbsnode": ("arr", ENDED, None),
    },
}
SUBMISSIONS: dict[str, Submitted | type] = {
    "qsub_ok": Submitted("12.pbsnode"),
    "qsub_array": Submitted("15[].pbsnode"),
    "qsub_dep_ok": Submitted("17.pbsnode"),
    "qsub_depend_on_unknown_id_is_accepted": Submitted("18.pbsnode"),
    "qsub_exit_7": Submitted("13.pbsnode"),
    "qsub_too_many_cpus_is_accepted": Submitted("20.pbsnode"),
    "qsub_bad_walltime": Refused,
    "qsub_name_too_long": Refused,
    "qsub_name_with_slash": Refused,
    "qsub_unknown_queue": Refused,
}
DELETIONS = ["qdel_finished", "qdel_queued", "qdel_running", "qdel_unknown"]
OTHERS = {
    "qselect_by_name", "qstat_finished_without_x", "qstat_table_array_tasks", "qstat_table_running",
    "qstat_unknown_id", "qstat_version", "server_down", "walltime_job_output", "qstat_x_f_mem_exceeded",
}  # fmt: skip


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("qsub",), code, stdout, stderr)


def asked_in(answer: Output) -> list[str]:
    """The job IDs on a command line."""
    return [word for word in answer.argv[1:] if word[0].isdigit()]


def told(answer: Jobs | QueryFailed) -> dict[str, tuple[str, JobState, Cause | None]]:
    assert isinstance(answer, Jobs), answer
    return {job.id: (job.name, job.state, job.cause) for job in answer.jobs}


def test_every_transcript_is_used() -> None:
    files = {path.stem for path in (Path(__file__).parent / "data" / REAL).glob("*.txt")}
    assert files == STATUS.keys() | SUBMISSIONS.keys() | set(DELETIONS) | OTHERS


def as_text(document: str) -> str:
    """What `qstat -f` prints where `-F json` printed this document."""
    text = ""
    for job_id, attributes in json.loads(document).get("Jobs", {}).items():
        text += f"Job Id: {job_id}\n"
        for key, value in attributes.items():
            if key == "Variable_List":
                value = ",\n\t".join(f"{name}={one}" for name, one in value.items())
            parts = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
            text += "".join(f"    {name} = {one}\n" for name, one in parts.items())
        text += "\n"
    return text


@pytest.mark.parametrize("name", sorted(STATUS))
def test_what_qstat_told_is_what_is_known(name: str) -> None:
    answer = transcript(REAL, name)
    text = as_text(answer.stdout) if answer.stdout.startswith("{") else answer.stdout
    asked = list(STATUS[name]) if answer.code == 0 else asked_in(answer)
    assert told(read_status(Output(answer.argv, answer.code, text, answer.stderr), asked)) == STATUS[name]


def test_a_document_that_tells_of_the_first_job_alone_is_no_answer() -> None:
    answer = transcript(REAL, "qstat_x_json_exit_0_and_7")
    assert asked_in(answer) == ["12.pbsnode", "13.pbsnode"]
    assert list(json.loads(answer.stdout)["Jobs"]) == ["12.pbsnode"]
    text = Output(answer.argv, answer.code, as_text(answer.stdout), answer.stderr)
    assert isinstance(read_status(text, ["12.pbsnode"]), Jobs)
    assert isinstance(read_status(text, asked_in(answer)), QueryFailed)


@pytest.mark.parametrize("name", ["qstat_unknown_id", "qstat_finished_without_x"])
def test_a_job_said_to_be_unknown_or_finished_is_not_known(name: str) -> None:
    answer = transcript(REAL, name)
    assert read_status(answer, asked_in(answer)) == Jobs(())


@pytest.mark.parametrize("name", sorted(SUBMISSIONS))
def test_a_submission_is_read_as_what_it_was(name: str) -> None:
    answer, expected = read_submission(transcript(REAL, name)), SUBMISSIONS[name]
    if isinstance(expected, Submitted):
        assert answer == expected
    else:
        assert type(answer) is expected
        assert not getattr(answer, "later", False)


def test_a_server_that_is_down_answers_nothing_though_it_prints_valid_json() -> None:
    table, as_json, submission, deletion = transcripts(REAL)["server_down"]
    assert "Jobs" not in json.loads(as_json.stdout)
    assert isinstance(read_status(as_json, ["10"]), QueryFailed)
    assert isinstance(read_status(Output(as_json.argv, 0, as_json.stdout, ""), ["10"]), QueryFailed)
    assert isinstance(read_selection(table), QueryFailed)
    assert isinstance(read_submission(submission), Unclear)
    assert read_delete(deletion) == ["Connection refused", "Couldn't connect to cluster: pbsnode"]


@pytest.mark.parametrize("name", DELETIONS)
def test_that_a_job_is_gone_already_is_no_complaint(name: str) -> None:
    assert read_delete(transcript(REAL, name)) == []


def test_that_a_task_is_gone_already_while_its_array_goes_on_is_no_complaint() -> None:
    said_so = "qdel: Request invalid for finished array subjob 15[3].pbsnode"
    assert read_delete(Output(("qdel",), 55, "", said_so)) == []


def test_qselect_prints_ids() -> None:
    assert read_selection(transcript(REAL, "qselect_by_name")) == ["16.pbsnode", "20.pbsnode"]


@pytest.mark.parametrize("name", ["qstat_table_running", "qstat_table_array_tasks"])
def test_a_table_instead_of_ids_is_a_failed_query(name: str) -> None:
    assert isinstance(read_selection(transcript(REAL, name)), QueryFailed)


@pytest.mark.parametrize(
    ("code", "stderr"),
    [
        (38, "qsub: would exceed complex's per-user limit of jobs in 'Q' state"),
        (39, "qsub: would exceed queue workq's per-user limit on resource ncpus"),
        (198, "qsub: Maximum number of jobs already in queue"),
        (38, "qsub: Maximum number of jobs already in complex"),
        (38, "qsub: Maximum number of jobs for user me already in queue workq"),
        (38, "qsub: Maximum number of jobs in 'Q' state for project p already in complex"),
    ],
)
def test_a_limit_means_later(code: int, stderr: str) -> None:
    answer = read_submission(said(code, "", stderr))
    assert isinstance(answer, Refused)
    assert answer.later


def test_an_array_that_is_too_large_may_be_accepted_in_parts() -> None:
    answer = read_submission(said(3, "", "qsub: Array job exceeds server or queue size limit"))
    assert isinstance(answer, Refused)
    assert answer.later and answer.scope is Scope.SIZE


SERVER = "Server: pbsnode\n    server_state = Active\n    default_queue = workq\n"


@pytest.mark.parametrize(
    ("server", "queue", "tasks"),
    [
        ("", "Queue: workq\n    queue_type = Execution\n", 10_000),
        ("    max_array_size = 500\n", "Queue: workq\n    queue_type = Execution\n", 500),
        ("    max_array_size = 500\n", "Queue: workq\n    max_array_size = 4\n", 4),
        ("", "Queue: workq\n    max_array_size = 20000\n", 10_000),
    ],
)
def test_an_array_has_as_many_tasks_as_server_and_queue_allow(server: str, queue: str, tasks: int) -> None:
    run = replay({"qstat -B -f": said(0, SERVER + server), "qstat -Q -f workq": said(0, queue)})
    assert PBS(USER).array_limit(run, None) == PBS(USER).array_limit(run, "workq") == tasks


def test_a_queue_that_tells_nothing_leaves_the_limit_to_the_server() -> None:
    run = replay({"qstat -B": said(0, SERVER), "qstat -Q": said(170, "", "qstat: Unknown queue nowhere")})
    assert PBS(USER).array_limit(run, "nowhere") == 10_000


def test_without_an_answer_jobs_are_submitted_one_by_one() -> None:
    assert PBS(USER).array_limit(replay({"qstat -B": said(255, "", "qstat: cannot connect")}), None) == 1


@pytest.mark.parametrize(
    ("task", "array"),
    [
        ("15[3].pbsnode", "15[].pbsnode"),
        ("15[3].my_head_node.local", "15[].my_head_node.local"),
        ("15[].pbsnode", "15[].pbsnode"),
        ("12.my_head_node", "12.my_head_node"),
        ("12_3", "12"),
        ("12", "12"),
    ],
)
def test_a_task_names_its_array_whatever_the_server_is_called(task: str, array: str) -> None:
    assert array_id(task) == array


@pytest.mark.parametrize(
    "answer",
    [
        said(183, "", "qsub: Batch protocol error"),
        said(None, "", "gave no answer within 60 s."),
        said(None, "12.pbsnode\n", "gave no answer within 60 s."),
        said(255, "", "qsub: End of File"),
        said(1, "", "something that nobody has seen before"),
        said(0, "", ""),
    ],
)
def test_whatever_else_fails_may_have_been_accepted(answer: Output) -> None:
    assert isinstance(read_submission(answer), Unclear)


@pytest.mark.parametrize(
    ("attributes", "state", "cause"),
    [
        ({"job_state": "E"}, RUNNING, None),
        ({"job_state": "S"}, RUNNING, None),
        ({"job_state": "?"}, RUNNING, None),
        ({"job_state": "W"}, QUEUED, None),
        ({"job_state": "H", "Hold_Types": "s"}, BLOCKED, None),
        ({"job_state": "Q", "comment": "Can Never Run: Insufficient amount of resource: ncpus"}, BLOCKED, None),
        ({"job_state": "Q", "comment": "Not Running: Insufficient amount of resource: ncpus"}, QUEUED, None),
        ({"job_state": "F", "Exit_status": "0", "substate": "91"}, ENDED, Cause.DELETED),
        ({"job_state": "F", "Exit_status": "-27", "substate": "93"}, ENDED, Cause.MEMORY),
        ({"job_state": "F", "Exit_status": "-29"}, ENDED, Cause.WALLTIME),
        ({"job_state": "F", "Exit_status": "271", "comment": "exceeded resource walltime"}, ENDED, Cause.WALLTIME),
        ({"job_state": "F", "Exit_status": "265", "substate": "93"}, ENDED, None),
        ({"job_state": "F", "Exit_status": "-11"}, ENDED, Cause.PREEMPTED),
        ({"job_state": "X", "Exit_status": "-1"}, ENDED, None),
    ],
)  # fmt: skip
def test_a_job_is_judged_by_its_state_alone(attributes: dict[str, str], state: JobState, cause: Cause | None) -> None:
    job = job_of("1.pbsnode", {"Job_Name": "rhx", **attributes})
    assert (job.state, job.cause) == (state, cause)


def test_long_values_of_the_text_form_are_put_together() -> None:
    jobs = blocks_of(transcript(REAL, "qstat_xf_dependency_dropped").stdout)
    attributes = jobs["18.pbsnode"]
    assert attributes["Variable_List"].startswith("PBS_O_HOME=/home/hpc,PBS_O_LANG=C.UTF-8,")
    assert attributes["Variable_List"].endswith("PBS_O_QUEUE=workq,PBS_O_HOST=pbsnode")
    assert attributes["depend"] == "afterok:9999.pbsnode@pbsnode"


def test_a_variable_of_many_lines_cannot_pass_for_an_attribute() -> None:
    text = "Job Id: 1.head\n    job_state = R\n    Variable_List = A=one\n    job_state = F\n    substate = 42\n\n"
    [attributes] = blocks_of(text).values()
    assert (attributes["job_state"], attributes["substate"]) == ("R", "42")


def test_a_history_that_is_refused_in_other_words_is_done_without() -> None:
    live = Output(
        ("qstat",), 153, "Job Id: 1.head\n    Job_Name = rhx\n    job_state = R\n\n", "qstat: Unknown Job Id 2.head"
    )
    run = replay({"qselect": said(0, "1.head\n"), "qstat -x": said(0, "", "qstat: no such thing"), "qstat -f": live})
    assert told(PBS(USER).query(run, {"2.head"}, set())) == {"1.head": ("rhx", RUNNING, None)}


def test_a_selection_that_failed_fails_the_query() -> None:
    down = transcripts(REAL)["server_down"][0]
    assert isinstance(PBS(USER).query(replay({"qselect": down}), {"12.pbsnode"}, set()), QueryFailed)

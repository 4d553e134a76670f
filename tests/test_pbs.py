"""Parsing of PBS's answers, recorded from a real server."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transcripts import read_transcript, replay, transcript, transcripts

from roundhouse.model.answers import Jobs, JobState, QueryFailed, Refused, Scope, Submitted, Unclear, array_id
from roundhouse.model.causes import Cause
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.pbs import PBS
from roundhouse.schedulers.pbs_answers import (
    NoAnswer,
    blocks_of,
    job_of,
    jobs_of,
    read_delete,
    read_listing,
    read_selection,
)
from roundhouse.schedulers.pbs_qsub import read_submission

REAL = "pbs_transcripts"
USER = getpass.getuser()
ENDED, RUNNING, QUEUED, BLOCKED = JobState.ENDED, JobState.RUNNING, JobState.QUEUED, JobState.BLOCKED

# The jobs in the `qstat -f` of each transcript: job ID -> name, state, cause.
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
    "qsub_hook_exception": Refused,
    "qsub_rejected_by_hook": Refused,
    "qsub_o_path_with_one_quote": Refused,
    "qsub_o_path_with_umlaut": Refused,
    "qsub_name_too_long": Refused,
    "qsub_name_with_slash": Refused,
    "qsub_unknown_queue": Refused,
}
DELETIONS = ["qdel_finished", "qdel_of_array_finished_task", "qdel_queued", "qdel_running", "qdel_unknown"]
OTHERS = {
    "history_off", "qdel_kills_server", "qdel_lists_of_queued_tasks", "qdel_three_queued_tasks_deletes_two",
    "qselect_by_name", "qstat_finished_without_x", "qstat_table_array_tasks", "qstat_table_running",
    "qstat_unknown_id", "qstat_version", "qsub_limits_and_refusals", "server_down", "server_down_2",
    "server_starting", "walltime_job_output",
}  # fmt: skip

# The jobs in transcripts of `qstat -f` without a command line: number or task -> state, cause.
QUEUED_TASK, RUNNING_TASK, HELD_TASK = (QUEUED, None), (RUNNING, None), (BLOCKED, None)
ENDED_TASK, DELETED_TASK, NODE_FAILED = (ENDED, None), (ENDED, Cause.DELETED), (ENDED, Cause.NODE)
LISTINGS: dict[str, dict[str, tuple[JobState, Cause | None]]] = {
    "qdel_force_mom_dead": {"11433": DELETED_TASK},
    "qdel_one_queued_task": {f"11471[{n}]": DELETED_TASK if n == 2 else QUEUED_TASK for n in range(4)},
    "qdel_whole_queued_array": {f"11471[{n}]": DELETED_TASK for n in range(4)},
    "qhold_array": {f"11472[{n}]": DELETED_TASK if n in (1, 3) else HELD_TASK for n in range(6)},
    "qstat_x_f_mem_exceeded": {"23": (ENDED, Cause.MEMORY)},
    "qstat_x_f_one_task_after_qterm_immediate": {"11437[0]": RUNNING_TASK},
    "qstat_x_f_rerun_etc": {"19": ENDED_TASK, "24": ENDED_TASK, "17": DELETED_TASK, "16": DELETED_TASK},
    "qstat_x_f_t_all_queued_tasks_deleted_one_by_one": {f"11431[{n}]": DELETED_TASK for n in range(3)},
    "qstat_x_f_t_array_after_server_restart": {
        **{f"11[{n}]": ENDED_TASK for n in (1, 2, 4)},
        **{f"11[{n}]": DELETED_TASK for n in (0, 3)},
        **{f"11[{n}]": RUNNING_TASK for n in (5, 6)},
    },
    "qstat_x_f_t_array_begun_then_held": {f"11407[{n}]": HELD_TASK if n else RUNNING_TASK for n in range(5)},
    "qstat_x_f_t_array_deleted": {f"12[{n}]": DELETED_TASK for n in range(5)},
    "qstat_x_f_t_array_held_and_rerun": {f"11405[{n}]": ENDED_TASK if n == 1 else RUNNING_TASK for n in range(5)},
    "qstat_x_f_t_array_held_before_begin": {f"11408[{n}]": HELD_TASK for n in range(3)},
    "qstat_x_f_t_array_mid": {
        f"5[{n}]": (ENDED_TASK, RUNNING_TASK, QUEUED_TASK)[n // 2] for n in range(6)
    },
    "qstat_x_f_t_array_never_fits": {f"11410[{n}]": HELD_TASK for n in range(3)},
    "qstat_x_f_t_array_rejected_by_route": {},
    "qstat_x_f_t_array_running": {f"5[{n}]": RUNNING_TASK if n < 2 else QUEUED_TASK for n in range(6)},
    "qstat_x_f_t_node_down_requeued": {
        **{f"11[{n}]": ENDED_TASK for n in (1, 2, 4, 5)},
        **{f"11[{n}]": DELETED_TASK for n in (0, 3)},
        **{f"32[{n}]": NODE_FAILED for n in (0, 1)},
        **dict.fromkeys(("11[6]", "32[2]", "32[3]", "18"), QUEUED_TASK),
        **dict.fromkeys(("29", "33"), (QUEUED, Cause.NODE)),  # queued again, after their node had failed
    },
    "qstat_x_f_t_tasks_deleted": {
        **{f"11[{n}]": RUNNING_TASK for n in (0, 1)},
        **{f"11[{n}]": QUEUED_TASK for n in (2, 4, 5, 6)},
        **{f"12[{n}]": RUNNING_TASK for n in (0, 1)},
        **dict.fromkeys(("11[3]", "12[2]", "12[3]", "12[4]"), DELETED_TASK),
    },
    "qstat_x_t_f_array_after_qterm_immediate": {"11437[2]": QUEUED_TASK, "11438": ENDED_TASK},
}  # fmt: skip


def read_status(answer: Output, requested: Collection[str]) -> Jobs | QueryFailed:
    """The jobs in an answer of `qstat -x -f`, if the server keeps a history."""
    try:
        listing = read_listing(answer, requested)
    except NoAnswer as failure:
        return QueryFailed(str(failure))
    return jobs_of(listing.jobs, listing.unreadable)


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("qsub",), code, stdout, stderr)


def requested_in(answer: Output) -> list[str]:
    """The job IDs on a command line."""
    return [word for word in answer.argv[1:] if word[0].isdigit()]


def summary(answer: Jobs | QueryFailed) -> dict[str, tuple[str, JobState, Cause | None]]:
    assert isinstance(answer, Jobs), answer
    return {job.id: (job.name, job.state, job.cause) for job in answer.jobs}


def test_every_transcript_is_used() -> None:
    files = {path.stem for path in (Path(__file__).parent / "data" / REAL).glob("*.txt")}
    assert files == STATUS.keys() | LISTINGS.keys() | SUBMISSIONS.keys() | set(DELETIONS) | OTHERS


def as_text(document: str) -> str:
    """The output of `qstat -f` that corresponds to this output of `-F json`."""
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
def test_jobs_in_a_listing_have_name_state_and_cause(name: str) -> None:
    answer = transcript(REAL, name)
    text = as_text(answer.stdout) if answer.stdout.startswith("{") else answer.stdout
    requested = list(STATUS[name]) if answer.code == 0 else requested_in(answer)
    assert summary(read_status(Output(answer.argv, answer.code, text, answer.stderr), requested)) == STATUS[name]


def test_a_document_with_only_the_first_job_is_a_failed_query() -> None:
    answer = transcript(REAL, "qstat_x_json_exit_0_and_7")
    assert requested_in(answer) == ["12.pbsnode", "13.pbsnode"]
    assert list(json.loads(answer.stdout)["Jobs"]) == ["12.pbsnode"]
    text = Output(answer.argv, answer.code, as_text(answer.stdout), answer.stderr)
    assert isinstance(read_status(text, ["12.pbsnode"]), Jobs)
    assert isinstance(read_status(text, requested_in(answer)), QueryFailed)


def listing(name: str) -> str:
    """The output of `qstat -f` in a transcript, without the command line and the exit code."""
    text = (Path(__file__).parent / "data" / REAL / f"{name}.txt").read_text()
    return (
        re.split(r"^\[", text[text.find("Job Id:") :], maxsplit=1, flags=re.MULTILINE)[0] if "Job Id:" in text else ""
    )


@pytest.mark.parametrize("name", sorted(LISTINGS))
def test_jobs_listed_by_a_real_qstat_have_state_and_cause(name: str) -> None:
    answer = read_status(said(0, listing(name)), [])
    assert isinstance(answer, Jobs) and not answer.unreadable
    assert {job.id.removesuffix(".pbsnode"): (job.state, job.cause) for job in answer.jobs} == LISTINGS[name]


def test_without_history_an_ended_task_may_have_run() -> None:
    jobs = blocks_of(listing("qdel_one_queued_task"))
    assert job_of("11471[2].pbsnode", jobs["11471[2].pbsnode"], history=False).cause is None


@given(st.sampled_from(sorted(LISTINGS)), st.data())
def test_a_mangled_answer_never_hides_a_job(name: str, data: st.DataObject) -> None:
    """Whatever lines are lost, cut or replaced: a job is known, or in an unreadable row, or the query has failed."""
    lines = listing(name).splitlines(keepends=True)
    requested = [job_id for job_id in blocks_of("".join(lines)) if "[]" not in job_id]
    for index in data.draw(st.sets(st.integers(0, max(len(lines) - 1, 0)), max_size=12)) if lines else ():
        lines[index] = data.draw(
            st.sampled_from(["", "\n", lines[index][:9], "site: be nice\n", "Job Id:\n", "\x00\n"])
        )
    answer = read_status(said(0, "".join(lines)), requested)
    if isinstance(answer, Jobs):
        known = {job.id for job in answer.jobs}
        assert all(one in known or answer.unreadable_row_of(one, "no name") for one in requested)


def test_an_unreadable_row_does_not_hide_other_jobs() -> None:
    text = "Job Id: 12.head\n    Job_Name = rhx\n    job_state = R\n\nJob Id: 13.head\n    queue = workq\n\n"
    answer = read_status(said(0, text), ["12.head", "13.head"])
    assert summary(answer) == {"12.head": ("rhx", RUNNING, None)}
    assert isinstance(answer, Jobs)
    assert answer.unreadable == ("13.head queue = workq",)
    assert answer.unreadable_row_of("13.head", "rhy") and not answer.unreadable_row_of("14.head", "rhy")


@pytest.mark.parametrize("name", ["qstat_unknown_id", "qstat_finished_without_x"])
def test_a_job_reported_as_unknown_or_finished_is_not_known(name: str) -> None:
    answer = transcript(REAL, name)
    assert read_status(answer, requested_in(answer)) == Jobs((), history=True)


@pytest.mark.parametrize("name", sorted(SUBMISSIONS))
def test_the_answer_to_a_submission_is_parsed(name: str) -> None:
    answer, expected = read_submission(transcript(REAL, name)), SUBMISSIONS[name]
    if isinstance(expected, Submitted):
        assert answer == expected
    else:
        assert isinstance(answer, Refused)
        assert answer.scope is Scope.QUEUE if name == "qsub_unknown_queue" else answer.scope is Scope.REQUEST
        assert answer.later == (name == "qsub_hook_exception")


def test_valid_json_from_a_server_that_is_down_is_a_failed_query() -> None:
    table, as_json, submission, deletion = transcripts(REAL)["server_down"]
    assert "Jobs" not in json.loads(as_json.stdout)
    assert isinstance(read_status(as_json, ["10"]), QueryFailed)
    assert isinstance(read_status(Output(as_json.argv, 0, as_json.stdout, ""), ["10"]), QueryFailed)
    with pytest.raises(NoAnswer):
        read_selection(table)
    assert isinstance(read_submission(submission), Unclear)
    assert read_delete(deletion) == ["Connection refused", "Couldn't connect to cluster: pbsnode"]


@pytest.mark.parametrize("name", DELETIONS)
def test_deleting_a_job_that_is_already_gone_is_not_an_error(name: str) -> None:
    assert read_delete(transcript(REAL, name)) == []


def test_deleting_a_task_that_is_already_gone_is_not_an_error_while_its_array_runs() -> None:
    message = "qdel: Request invalid for finished array subjob 15[3].pbsnode"
    assert read_delete(Output(("qdel",), 55, "", message)) == []


def test_qselect_prints_ids() -> None:
    assert read_selection(transcript(REAL, "qselect_by_name")) == ["16.pbsnode", "20.pbsnode"]


@pytest.mark.parametrize("name", ["qstat_table_running", "qstat_table_array_tasks"])
def test_a_table_instead_of_ids_is_a_failed_query(name: str) -> None:
    with pytest.raises(NoAnswer):
        read_selection(transcript(REAL, name))


REFUSALS: dict[int, tuple[bool, Scope]] = {
    3: (True, Scope.SIZE),
    38: (True, Scope.ALL),
    39: (True, Scope.REQUEST),
    198: (True, Scope.QUEUE),
    173: (True, Scope.QUEUE),
    159: (False, Scope.QUEUE),
    170: (False, Scope.QUEUE),
    174: (False, Scope.QUEUE),
    189: (False, Scope.ALL),
    **dict.fromkeys((1, 2, 166, 187, 188), (False, Scope.REQUEST)),
}
SUBMITTED_OR_REFUSED = re.findall(
    r"^### (.*)\n((?:.*\n)*?)# (?:Refused|Submitted|Unclear)",
    (Path(__file__).parent / "data" / REAL / "qsub_limits_and_refusals.txt").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("what", "text"), SUBMITTED_OR_REFUSED, ids=[what for what, _ in SUBMITTED_OR_REFUSED])
def test_each_answer_of_a_real_qsub_is_parsed(what: str, text: str) -> None:
    [said] = read_transcript(text)
    answer = read_submission(said)
    if said.code == 0:
        assert answer == Submitted(said.stdout.strip())
    elif said.code == 160:  # the server named behind @ was not reached
        assert isinstance(answer, Unclear)
    else:
        assert isinstance(answer, Refused) and said.code is not None
        expected = REFUSALS[said.code]
        if what.startswith("queue max_queued ") or what in ("queue array of 10", QUEUE_THRESHOLD):
            expected = (True, Scope.QUEUE)
        elif what == "project bad":
            expected = (False, Scope.ALL)
        assert (answer.later, answer.scope) == expected
        assert said.stderr.splitlines()[0].strip() in answer.why


QUEUE_THRESHOLD = "queue queued_jobs_threshold o:PBS_ALL, job 2"


def test_all_recorded_answers_of_qsub_are_tested() -> None:
    assert len(SUBMITTED_OR_REFUSED) == 52


def test_the_message_of_a_sites_hook_is_kept() -> None:
    answer = read_submission(transcript(REAL, "qsub_rejected_by_hook"))
    assert isinstance(answer, Refused)
    words = "Your job must request a project that has hours left (project x has used 100%)"
    assert answer.why.startswith(f"qsub (exit 32): qsub: {words}")


NOISE = "ERROR: ld.so: object 'libsite.so' from LD_PRELOAD cannot be preloaded: ignored.\nsite: be nice\n"


def test_lines_of_a_wrapper_or_a_library_in_an_answer_are_ignored() -> None:
    assert read_submission(said(0, "project x: 12 hours left\n12.head\n", NOISE)) == Submitted("12.head")
    refused = read_submission(said(170, "", f"{NOISE}qsub: Unknown queue\n"))
    assert refused == Refused("qsub (exit 170): qsub: Unknown queue", scope=Scope.QUEUE)
    assert read_selection(said(0, "12.head\n13[].head\n", NOISE)) == ["12.head", "13[].head"]
    assert read_selection(said(0, "", NOISE)) == []
    assert read_delete(said(35, "", f"{NOISE}qdel: Job has finished 12.head\n")) == []
    assert read_delete(said(159, "", f"{NOISE}qdel: Unauthorized Request 12.head\n")) == [
        "qdel: Unauthorized Request 12.head"
    ]
    listing = "Job Id: 12.head\n    Job_Name = rhx\n    job_state = R\n\n"
    known = read_status(said(153, listing, f"{NOISE}qstat: Unknown Job Id 13.head\n"), ["12.head", "13.head"])
    assert summary(known) == {"12.head": ("rhx", RUNNING, None)}


def test_an_error_of_qselect_is_a_failed_query_and_not_an_empty_queue() -> None:
    with pytest.raises(NoAnswer):
        read_selection(said(0, "", "qselect: Unknown error"))


def test_the_code_of_a_refusal_without_a_message_of_qsub_is_unclear() -> None:
    assert isinstance(read_submission(said(170, "", "the wrapper of this site has failed")), Unclear)


SERVER = "Server: pbsnode\n    server_state = Active\n    default_queue = workq\n"


@pytest.mark.parametrize(
    ("server", "queue", "tasks"),
    [
        ("", "Queue: workq\n    queue_type = Execution\n", 10_000),
        ("    max_array_size = 500\n", "Queue: workq\n    queue_type = Execution\n", 500),
        ("    max_array_size = 500\n", "Queue: workq\n    max_array_size = 4\n", 4),
        ("", "Queue: workq\n    max_array_size = 20000\n", 10_000),
        ("    max_array_size = unlimited\n", "Queue: workq\n    max_array_size = unlimited\n", 10_000),
    ],
)
def test_the_size_of_an_array_is_limited_by_server_and_queue(server: str, queue: str, tasks: int) -> None:
    run = replay({"qstat -B -f": said(0, SERVER + server), "qstat -Q -f workq": said(0, queue)})
    assert PBS(USER).array_limit(run, None) == PBS(USER).array_limit(run, "workq") == tasks


def test_without_information_on_the_queue_the_limit_of_the_server_counts() -> None:
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
def test_the_array_of_a_task_follows_from_its_id_for_any_server_name(task: str, array: str) -> None:
    assert array_id(task) == array


@pytest.mark.parametrize(
    "answer",
    [
        said(183, "", "qsub: Batch protocol error"),
        said(None, "", "no answer within 60 s."),
        said(None, "12.pbsnode\n", "no answer within 60 s."),
        said(255, "", "qsub: End of File"),
        said(1, "", "an unknown message"),
        said(0, "", ""),
    ],
)
def test_after_any_other_error_the_job_may_have_been_accepted(answer: Output) -> None:
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
def test_state_and_cause_of_a_job_follow_from_its_attributes(
    attributes: dict[str, str], state: JobState, cause: Cause | None
) -> None:
    job = job_of("1.pbsnode", {"Job_Name": "rhx", **attributes})
    assert (job.state, job.cause) == (state, cause)


def test_continued_lines_of_long_values_are_joined() -> None:
    jobs = blocks_of(transcript(REAL, "qstat_xf_dependency_dropped").stdout)
    attributes = jobs["18.pbsnode"]
    assert attributes["Variable_List"].startswith("PBS_O_HOME=/home/hpc,PBS_O_LANG=C.UTF-8,")
    assert attributes["Variable_List"].endswith("PBS_O_QUEUE=workq,PBS_O_HOST=pbsnode")
    assert attributes["depend"] == "afterok:9999.pbsnode@pbsnode"


def test_a_line_of_a_variable_is_not_read_as_an_attribute() -> None:
    text = "Job Id: 1.head\n    job_state = R\n    Variable_List = A=one\n    job_state = F\n    substate = 42\n\n"
    [attributes] = blocks_of(text).values()
    assert (attributes["job_state"], attributes["substate"]) == ("R", "42")


def test_a_query_works_without_history_whatever_the_message() -> None:
    live = Output(
        ("qstat",), 153, "Job Id: 1.head\n    Job_Name = rhx\n    job_state = R\n\n", "qstat: Unknown Job Id 2.head"
    )
    run = replay({"qselect": said(0, "1.head\n"), "qstat -x": said(0, "", "qstat: no such thing"), "qstat -f": live})
    assert summary(PBS(USER).query(run, {"2.head"}, set())) == {"1.head": ("rhx", RUNNING, None)}


def test_a_failed_selection_fails_the_query() -> None:
    down = transcripts(REAL)["server_down"][0]
    assert isinstance(PBS(USER).query(replay({"qselect": down}), {"12.pbsnode"}, set()), QueryFailed)

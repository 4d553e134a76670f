"""PBS through a fake server that runs the jobs; the fake is tested against transcripts of a real server."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import wait_until
from fake_pbs import FakePBS, make_fake_pbs
from transcripts import transcript, transcripts

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.model.answers import Identity, Job, Jobs, JobState, QueryFailed, Refused, Scope, Submitted, Unclear
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.pbs import PBS
from roundhouse.schedulers.pbs_answers import blocks_of

REAL = "pbs_transcripts"
USER = getpass.getuser()
ENDED, BLOCKED = JobState.ENDED, JobState.BLOCKED


def names(answer: Jobs | QueryFailed) -> dict[str, str]:
    """Job ID -> name, of a successful query."""
    assert isinstance(answer, Jobs), answer
    return {job.id: job.name for job in answer.jobs}


Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a job script with the header of Roundhouse and a body of the test."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(Path(__file__).parent.parent / "templates" / "pbs.sh.j2", templates)

    def write(
        name: str,
        body: str = "sleep 600",
        walltime_s: int = 600,
        log: Path | None = None,
        tasks: int = 0,
        at_once: int | None = None,
        **requested: Any,
    ) -> Path:
        (templates / "body.sh.j2").write_text("{% raw %}" + body + "\n{% endraw %}")
        site = Site()
        text = job_script.render(
            job_script.environment(templates), "pbs", name=name, log=str(log or tmp_path / f"{name}.log"),
            resources=Resources(walltime_s=walltime_s, **requested), site=site,
            array=SimpleNamespace(tasks=tasks, at_once=at_once) if tasks else None,
        )  # fmt: skip
        path = tmp_path / f"{name}.sh"
        path.write_text(text)
        return path

    return write


def submitted(fake: FakePBS, script: Path) -> str:
    answer = PBS(USER).submit(fake.run, script, script.stem)
    assert isinstance(answer, Submitted), answer
    return answer.job_id


def the_job(fake: FakePBS, job_id: str) -> Job | None:
    answer = PBS(USER).query(fake.run, {job_id}, set())
    assert isinstance(answer, Jobs), answer
    return next((job for job in answer.jobs if job.id == job_id), None)


def read_text(name: str) -> str:
    return (Path(__file__).parent / "data" / REAL / f"{name}.txt").read_text()


def shape(text: str) -> list[str]:
    """The text without parts that differ between jobs."""
    return [re.sub(r"\d+", "N", line) for line in text.splitlines()]


def keys_in_order(document: str) -> list[str]:
    [attributes] = json.loads(document)["Jobs"].values()
    return list(attributes)


def test_the_fake_has_the_messages_and_exit_codes_of_the_real_server(fake_pbs: FakePBS, script: Script) -> None:
    job_id = submitted(fake_pbs, script("ok", "true"))
    fake_pbs.wait_for_state(job_id, "F")
    number = job_id.partition(".")[0]
    for name in (
        "qdel_finished", "qdel_unknown", "qstat_finished_without_x", "qstat_unknown_id", "qstat_version",
        "qstat_json_finished_and_unknown_without_x", "qsub_unknown_queue",
    ):  # fmt: skip
        real = transcript(REAL, name)
        argv = [word.replace("12.pbsnode", job_id).replace("long.pbs", str(script("long"))) for word in real.argv]
        fake = fake_pbs.run(argv)
        assert fake.code == real.code, name
        assert shape(fake.stdout) == shape(real.stdout), name
        assert shape(fake.stderr) == shape(real.stderr), name
    real = transcript(REAL, "qstat_x_json_one_id_unknown")
    fake = fake_pbs.run(["qstat", "-x", "-f", "-F", "json", number, "424242"])
    assert (fake.code, fake.stderr) == (real.code, real.stderr)
    order = keys_in_order(real.stdout)
    assert [key for key in keys_in_order(fake.stdout) if key in order] == sorted(
        set(keys_in_order(fake.stdout)) & set(order), key=order.index
    )
    assert shape(fake.stdout)[:6] == shape(real.stdout)[:6]


def test_the_fake_reports_a_stopped_server_as_the_real_commands_do(fake_pbs: FakePBS, script: Script) -> None:
    job = script("ok")
    fake_pbs.turn(down=True)
    for real in transcripts(REAL)["server_down"]:
        fake = fake_pbs.run([str(job) if word == "ok.pbs" else word for word in real.argv])
        assert (fake.code, shape(fake.stdout), fake.stderr) == (real.code, shape(real.stdout), real.stderr)


def test_the_fake_reports_a_dropped_dependency_as_the_real_server_does(fake_pbs: FakePBS, script: Script) -> None:
    job = script("ok", "touch ran")
    fake = fake_pbs.run(["qsub", "-W", "depend=afterok:9999", str(job)])
    job_id = fake.stdout.strip()
    assert fake.code == 0
    text = fake_pbs.run(["qstat", "-xf", job_id]).stdout
    real = blocks_of(transcript(REAL, "qstat_xf_dependency_dropped").stdout)["18.pbsnode"]
    ours = blocks_of(text)[job_id]
    for key in ("job_state", "substate", "depend", "Hold_Types"):
        assert ours[key] == real[key]
    assert "Exit_status" not in ours
    known = the_job(fake_pbs, job_id)
    assert known is not None
    assert (known.state, known.cause) == (ENDED, None)


def test_the_fake_lists_an_array_as_the_real_server_does(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.05; done; exit $PBS_ARRAY_INDEX"
    array = script("arr", wait, tasks=4, at_once=1)
    fake = fake_pbs.run(["qsub", str(array)])
    real = transcripts(REAL)["qsub_array"][0]
    assert (shape(fake.stdout), fake.stderr, fake.code) == (shape(real.stdout), real.stderr, real.code)
    job_id = fake.stdout.strip()
    fake_pbs.wait_for_state("1[0].pbsnode", "R")
    check_array(fake_pbs, job_id, "qstat_t_json_array_running", ["-t"])
    rows = [line.split() for line in fake_pbs.run(["qstat", "-t"]).stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1[].pbsnode", *(f"1[{index}].pbsnode" for index in range(4))]
    assert [row[4] for row in rows] == ["B", "R", "Q", "Q", "Q"]
    go.touch()
    fake_pbs.wait_for_state(job_id, "F")
    check_array(fake_pbs, job_id, "qstat_xt_json_array_finished", ["-x", "-t"])


def check_array(fake_pbs: FakePBS, job_id: str, name: str, options: list[str]) -> None:
    """The fake lists all tasks as the transcript does: each with its state and the attributes in the same order."""
    real = json.loads(transcript(REAL, name).stdout)["Jobs"]
    fake = json.loads(fake_pbs.run(["qstat", *options, "-f", "-F", "json", job_id]).stdout)["Jobs"]
    assert [one.replace("15[", "1[") for one in real] == list(fake)
    for ours, theirs in zip(fake.values(), real.values(), strict=True):
        common = [key for key in theirs if key in ours]
        assert [key for key in ours if key in theirs] == common
        assert ours.keys() <= theirs.keys()
        for key in ("job_state", "array", "array_index", "array_indices_remaining", "array_state_count", "Exit_status"):
            if key != "Exit_status" or "array" not in theirs:
                assert ours.get(key) == theirs.get(key), key


# PBS with the fake server


def test_a_job_runs_and_its_output_exists_when_it_has_ended(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    log = tmp_path / "scheduler.log"
    job_id = submitted(fake_pbs, script("rhok", "echo I am $PBS_JOBID; exit 7", log=log))
    fake_pbs.wait_for_state(job_id, "F")
    assert log.read_text() == f"I am {job_id}\n"
    assert the_job(fake_pbs, job_id) == Job(
        job_id, "rhok", ENDED, f"finished: {fake_pbs.jobs()[job_id]['comment']}", None
    )
    assert fake_pbs.jobs()[job_id]["Exit_status"] == 7


def test_a_job_beyond_its_walltime_is_terminated_then_killed(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    job_id = submitted(
        fake_pbs, script("rhwall", "trap 'echo not yet' TERM; for i in 1 2 3 4 5 6; do sleep 5; done", 1)
    )
    fake_pbs.wait_for_state(job_id, "F")
    known = the_job(fake_pbs, job_id)
    assert known is not None
    assert known.cause is Cause.WALLTIME
    log = (tmp_path / "rhwall.log").read_text()
    assert shape(read_text("walltime_job_output"))[0].split(" N ")[0] in log
    assert "not yet" in log


def test_a_live_or_ended_job_is_found_by_its_name(fake_pbs: FakePBS, script: Script) -> None:
    pbs = PBS(USER)
    ended, alive = submitted(fake_pbs, script("rhended", "true")), submitted(fake_pbs, script("rhalive"))
    fake_pbs.wait_for_state(ended, "F")
    answer = pbs.query(fake_pbs.run, set(), {"rhended", "rhalive", "rhnever"})
    assert names(answer) == {ended: "rhended", alive: "rhalive"}


def test_a_deleted_job_has_ended_and_may_be_deleted_again(fake_pbs: FakePBS, script: Script) -> None:
    pbs, job_id = PBS(USER), submitted(fake_pbs, script("rhlong"))
    fake_pbs.wait_for_state(job_id, "R")
    assert pbs.cancel(fake_pbs.run, [job_id]) == []
    fake_pbs.wait_for_state(job_id, "F")
    known = the_job(fake_pbs, job_id)
    assert known is not None
    assert known.cause is Cause.DELETED
    assert pbs.cancel(fake_pbs.run, [job_id, "424242.pbsnode"]) == []


def test_a_job_deleted_while_queued_never_ran(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(stopped=True)
    job_id = submitted(fake_pbs, script("rhlong"))
    PBS(USER).cancel(fake_pbs.run, [job_id])
    fake_pbs.wait_for_state(job_id, "F")
    assert "Exit_status" not in fake_pbs.jobs()[job_id]
    assert the_job(fake_pbs, job_id).cause is Cause.DELETED  # type: ignore[union-attr]


def test_a_query_fails_while_the_server_is_down_and_finds_the_jobs_again_later(
    fake_pbs: FakePBS, script: Script
) -> None:
    pbs, job_id = PBS(USER), submitted(fake_pbs, script("rhlong"))
    identity = pbs.identity(fake_pbs.run)
    assert identity == Identity("pbs", "pbsnode", USER)
    fake_pbs.turn(down=True)
    assert isinstance(pbs.query(fake_pbs.run, {job_id}, {"rhlong"}), QueryFailed)
    assert isinstance(pbs.identity(fake_pbs.run), QueryFailed)
    assert isinstance(pbs.submit(fake_pbs.run, script("rhother"), "rhother"), Unclear)
    assert pbs.cancel(fake_pbs.run, [job_id])
    fake_pbs.turn()
    assert names(pbs.query(fake_pbs.run, {job_id}, set())).keys() == {job_id}


def test_without_history_an_ended_job_is_not_known(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(history=False)
    pbs = PBS(USER)
    ended, alive = submitted(fake_pbs, script("rhended", "true")), submitted(fake_pbs, script("rhalive"))
    fake_pbs.wait_for_state(ended, None)
    assert names(pbs.query(fake_pbs.run, {ended, alive}, {"rhended"})).keys() == {alive}


def test_a_job_accepted_but_reported_as_failed_is_found_by_its_name(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(fail_after_accept=True)
    assert isinstance(PBS(USER).submit(fake_pbs.run, script("rhlong"), "rhlong"), Unclear)
    assert list(names(PBS(USER).query(fake_pbs.run, set(), {"rhlong"})).values()) == ["rhlong"]


def test_a_job_accepted_after_the_time_limit_of_qsub_appears_later(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(accept_late=1.5)
    fake_pbs.limit = 1
    assert isinstance(PBS(USER).submit(fake_pbs.run, script("rhlate"), "rhlate"), Unclear)
    fake_pbs.limit = 60
    fake_pbs.turn()
    wait_until(lambda: names(PBS(USER).query(fake_pbs.run, set(), {"rhlate"})), "the job appears")


def test_a_limit_on_jobs_is_a_temporary_refusal(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(max_jobs=1)
    submitted(fake_pbs, script("rhone"))
    answer = PBS(USER).submit(fake_pbs.run, script("rhtwo"), "rhtwo")
    assert isinstance(answer, Refused)
    assert answer.later


def test_a_job_that_can_never_run_is_blocked_with_the_message_of_the_scheduler(
    fake_pbs: FakePBS, script: Script
) -> None:
    job_id = submitted(fake_pbs, script("rhbig", ncpus=64))
    wait_until(lambda: the_job(fake_pbs, job_id).state is BLOCKED, "it is blocked")  # type: ignore[union-attr]
    assert "Can Never Run" in the_job(fake_pbs, job_id).words  # type: ignore[union-attr]


def test_a_held_job_is_blocked(fake_pbs: FakePBS, script: Script) -> None:
    job_id = fake_pbs.run(["qsub", "-h", str(script("rhheld"))]).stdout.strip()
    assert the_job(fake_pbs, job_id).state is BLOCKED  # type: ignore[union-attr]


def test_a_job_that_exceeds_its_memory_is_killed_as_by_the_real_server(fake_pbs: FakePBS, script: Script) -> None:
    job_id = submitted(fake_pbs, script("rhbig", "sleep 600"))
    wait_until(lambda: "session" in fake_pbs.jobs()[job_id], "the job has started")
    fake_pbs.exceed_memory(job_id)
    fake_pbs.wait_for_state(job_id, "F")
    real = blocks_of(read_text("qstat_x_f_mem_exceeded"))["23.pbsnode"]
    ours = blocks_of(fake_pbs.run(["qstat", "-x", "-f", job_id]).stdout)[job_id]
    for key in ("job_state", "substate", "Exit_status", "run_count"):
        assert ours[key] == real[key], key
    assert ours["comment"].endswith(" and exceeded resource mem")
    assert the_job(fake_pbs, job_id).cause is Cause.MEMORY  # type: ignore[union-attr]


def test_a_job_on_a_crashed_node_is_unknown(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    job_id = submitted(fake_pbs, script("rhlong", f"touch {tmp_path}/started; sleep 600"))
    wait_until((tmp_path / "started").exists, "the job has started")
    fake_pbs.crash(job_id)
    assert the_job(fake_pbs, job_id) is None
    assert not (tmp_path / "rhlong.log").exists()


@pytest.mark.parametrize("orphan", [False, True])
def test_a_job_that_is_restarted_keeps_its_id(orphan: bool, fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    job_id = submitted(fake_pbs, script("rhagain", f"echo $$ $PBS_JOBID >> {starts}; sleep 600"))
    wait_until(lambda: len(starts.read_text().splitlines()) == 1, "the job starts")
    fake_pbs.rerun(job_id, orphan=orphan)
    wait_until(lambda: len(starts.read_text().splitlines()) == 2, "the job starts again")
    (first, one), (_, other) = (line.split() for line in starts.read_text().splitlines())
    assert one == other == job_id
    assert Path(f"/proc/{first}").exists() == orphan


def test_eight_clients_at_the_same_time_get_eight_jobs(fake_pbs: FakePBS, script: Script) -> None:
    scripts = [script(f"rh{number}") for number in range(8)]
    ids: list[str] = []
    clients = [threading.Thread(target=lambda one=one: ids.append(submitted(fake_pbs, one))) for one in scripts]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(set(ids)) == 8
    assert names(PBS(USER).query(fake_pbs.run, ids, set())).keys() == set(ids)


def test_the_fake_is_detected_by_its_commands(fake_pbs: FakePBS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_pbs.env["PATH"])
    scheduler, _ = detect("pbs", USER, fake_pbs.run)
    assert isinstance(scheduler, PBS)


# Arrays


def tasks_of(fake: FakePBS, job_id: str) -> dict[int | None, Job]:
    answer = PBS(USER).query(fake.run, {job_id}, set())
    assert isinstance(answer, Jobs), answer
    return {job.index: job for job in answer.jobs}


def test_each_task_of_an_array_is_a_job(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    body = "echo $PBS_JOBID is $PBS_ARRAY_INDEX of $PBS_ARRAY_ID; exit $PBS_ARRAY_INDEX"
    job_id = submitted(fake_pbs, script("rharray", body, tasks=3))
    assert job_id == "1[].pbsnode"
    fake_pbs.wait_for_state(job_id, "F")
    for index in range(3):
        log = tmp_path / f"rharray.log.{index}"
        assert log.read_text() == f"1[{index}].pbsnode is {index} of 1[].pbsnode\n"
        assert fake_pbs.jobs()[f"1[{index}].pbsnode"]["Exit_status"] == index
    assert {job.state for job in tasks_of(fake_pbs, job_id).values()} == {ENDED}


def test_an_ended_task_is_listed_while_its_array_runs(fake_pbs: FakePBS, script: Script) -> None:
    job_id = submitted(fake_pbs, script("rharray", "[ $PBS_ARRAY_INDEX = 0 ] || sleep 600", tasks=2))
    fake_pbs.wait_for_state("1[0].pbsnode", "X")
    fake_pbs.wait_for_state("1[1].pbsnode", "R")
    assert {index: job.state for index, job in tasks_of(fake_pbs, job_id).items()} == {
        0: ENDED,
        1: JobState.RUNNING,
    }
    assert fake_pbs.run(["qselect"]).stdout == "1[].pbsnode\n"
    assert PBS(USER).cancel(fake_pbs.run, ["1[0].pbsnode"]) == []


def test_a_task_is_deleted_without_the_others_and_the_array_with_all(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(running=2)
    job_id = submitted(fake_pbs, script("rharray", tasks=4))
    fake_pbs.wait_for_state("1[1].pbsnode", "R")
    assert PBS(USER).cancel(fake_pbs.run, ["1[1].pbsnode", "1[3].pbsnode"]) == []
    fake_pbs.wait_for_state("1[2].pbsnode", "R")
    known = tasks_of(fake_pbs, job_id)
    assert [known[index].state for index in range(4)] == [JobState.RUNNING, ENDED, JobState.RUNNING, ENDED]
    assert (known[1].cause, known[3].cause) == (Cause.DELETED, Cause.DELETED)
    fake_pbs.run(["qdel", job_id])
    fake_pbs.wait_for_state(job_id, "F")
    assert {job.state for job in tasks_of(fake_pbs, job_id).values()} == {ENDED}


def test_without_history_an_array_is_known_as_long_as_one_of_its_tasks(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(history=False)
    job_id = submitted(fake_pbs, script("rharray", "[ $PBS_ARRAY_INDEX = 0 ] || sleep 600", tasks=2))
    fake_pbs.wait_for_state("1[0].pbsnode", "X")
    known = tasks_of(fake_pbs, job_id)
    assert (known[0].state, known[0].words) == (ENDED, "finished: Subjob finished")
    fake_pbs.run(["qdel", job_id])
    fake_pbs.wait_for_state(job_id, None)
    assert tasks_of(fake_pbs, job_id) == {}


def test_no_more_tasks_run_at_a_time_than_the_array_allows(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    body = f"echo + >> {notes}; sleep 0.2; echo - >> {notes}"
    job_id = submitted(fake_pbs, script("rharray", body, tasks=5, at_once=2))
    fake_pbs.wait_for_state(job_id, "F")
    running = [notes.read_text()[:end].count("+") - notes.read_text()[:end].count("-") for end in range(20)]
    assert max(running) <= 2
    assert notes.read_text().count("-") == 5


@pytest.mark.parametrize("where", ["max_array_size", "queue_array_size"])
def test_an_array_larger_than_server_or_queue_allow_is_refused_for_its_size(
    where: str, fake_pbs: FakePBS, script: Script
) -> None:
    fake_pbs.turn(**{where: 3})
    assert PBS(USER).array_limit(fake_pbs.run, None) == 3
    answer = PBS(USER).submit(fake_pbs.run, script("rhlarge", tasks=4), "rhlarge")
    assert isinstance(answer, Refused)
    assert (answer.later, answer.scope) == (True, Scope.SIZE)
    assert submitted(fake_pbs, script("rhsmall", tasks=3))


def test_the_limit_on_jobs_counts_each_task(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(max_jobs=3)
    submitted(fake_pbs, script("rhtwo", tasks=2))
    answer = PBS(USER).submit(fake_pbs.run, script("rhmore", tasks=2), "rhmore")
    assert isinstance(answer, Refused)
    assert (answer.later, answer.scope) == (True, Scope.ALL)
    assert submitted(fake_pbs, script("rhone"))


# Deleting many jobs


@pytest.mark.parametrize("wanted", [range(12), range(1, 12), (3, 7, 10), (0, 2, 4, 6, 8, 10, 11)])
def test_any_set_of_queued_tasks_is_deleted_and_no_others(
    wanted: range | tuple[int, ...], fake_pbs: FakePBS, script: Script
) -> None:
    fake_pbs.turn(stopped=True)
    array, other = submitted(fake_pbs, script("rharray", tasks=12)), submitted(fake_pbs, script("rhother", tasks=3))
    alone = submitted(fake_pbs, script("rhalone"))
    ids = [array.replace("[]", f"[{index}]") for index in wanted] + [other.replace("[]", "[1]"), alone]
    assert PBS(USER).cancel(fake_pbs.run, ids[::-1]) == []
    states = {one: job["job_state"] for one, job in fake_pbs.jobs().items() if "[]" not in one}
    assert {one for one, state in states.items() if state == "Q"} == states.keys() - {*ids}
    assert not fake_pbs.crashed


def test_a_qdel_of_queued_tasks_with_other_jobs_crashes_the_server_permanently(tmp_path: Path, script: Script) -> None:
    fake = make_fake_pbs(tmp_path)
    fake.turn(stopped=True)
    array, alone = submitted(fake, script("rharray", tasks=2)), submitted(fake, script("rhalone"))
    assert fake.run(["qdel", alone, array.replace("[]", "[0]")]).code == 0
    assert fake.crashed and fake.run(["qstat"]).code == 255
    fake.shut_down()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["[3]", "[7]", "[10]"], "0-2,4-6,8-11"),
        (["[10]", "[3]", "[7]"], "0-2,4-9,11"),
        (["[3]", "[7-9]"], "0-2,4-6,10-11"),
        (["[1-3]", "[5-6]", "[8-9]"], "0,4,7-11"),
        (["[0-11]"], "-"),
        ([f"[{index}]" for index in range(12)], "-"),
    ],
)
def test_the_fake_deletes_the_first_two_of_several_ranges_as_the_real_server_does(
    words: list[str], left: str, fake_pbs: FakePBS, script: Script
) -> None:
    """The numbers are those of the transcript qdel_lists_of_queued_tasks."""
    fake_pbs.turn(stopped=True)
    array = submitted(fake_pbs, script("rharray", tasks=12))
    assert fake_pbs.run(["qdel", *(array.replace("[]", word) for word in words)]).code == 0
    names = blocks_of(fake_pbs.run(["qstat", "-x", "-f", array]).stdout)[array]
    assert names["array_indices_remaining"] == left


def test_jobs_that_are_still_queued_after_qdel_are_reported(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(running=1)
    alone = submitted(fake_pbs, script("rhalone"))
    fake_pbs.wait_for_state(alone, "R")
    array, deletions = submitted(fake_pbs, script("rharray", tasks=4)), []

    def run(argv: Sequence[str]) -> Output:
        if argv[0] != "qdel":
            return fake_pbs.run(argv)
        deletions.append(argv[1:])
        return Output(tuple(argv), 0, "", "")

    complaints = PBS(USER).cancel(run, [alone, *(array.replace("[]", f"[{index}]") for index in (0, 1, 3))])
    assert complaints == ["still queued after 3 calls of qdel: 2[0-1].pbsnode, 2[3].pbsnode"]
    assert [words[0] for words in deletions].count(alone) == 1, "what runs must not be signalled again"


@pytest.mark.parametrize("spelling", ["1", "1.pbsnode.cluster.example.org"])
def test_a_job_with_another_name_of_the_server_in_its_id_is_deleted(
    fake_pbs: FakePBS, script: Script, spelling: str
) -> None:
    fake_pbs.turn(stopped=True)
    alone = submitted(fake_pbs, script("rhalone"))
    assert PBS(USER).cancel(fake_pbs.run, [spelling]) == []
    fake_pbs.wait_for_state(alone, "F")


def test_a_running_job_is_signalled_once(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    fake_pbs.turn(kill_delay=60)
    body = f"trap 'echo TERM >> {tmp_path}/signals' TERM; touch {tmp_path}/started; while :; do sleep 0.1; done"
    job_id = submitted(fake_pbs, script("rhslow", body))
    wait_until((tmp_path / "started").exists, "the job has started")
    assert PBS(USER).cancel(fake_pbs.run, [job_id]) == []
    assert PBS(USER).cancel(fake_pbs.run, [job_id]) == []  # as a later pass does, while the job lives
    deletions = [words for words in fake_pbs.commands() if words[0] == "qdel"]
    assert deletions == [["qdel", job_id], ["qdel", job_id]]


# The state of many jobs


def test_many_jobs_are_queried_with_few_connections(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(stopped=True)
    ids = [submitted(fake_pbs, script(f"rh{number}")) for number in range(30)]
    fake_pbs.run(["qdel", ids[0]])
    fake_pbs.wait_for_state(ids[0], "F")
    before = len(fake_pbs.commands())
    known = PBS(USER).query(fake_pbs.run, ids, {f"rh{number}" for number in range(30)})
    assert names(known) == {one: f"rh{number}" for number, one in enumerate(ids)}
    requested = fake_pbs.commands()[before:]
    assert requested == [["qselect", "-u", USER], ["qstat", "-f"], ["qstat", "-x", "-f", ids[0]]]


def test_some_of_very_many_missing_jobs_are_queried_later(fake_pbs: FakePBS) -> None:
    ids = [f"{number}.pbsnode" for number in range(1000, 1300)]
    answer = PBS(USER).query(fake_pbs.run, ids, {"rhunclear"})
    assert isinstance(answer, Jobs) and not answer.jobs
    unknown = [one for one in ids if answer.left_open(one, "rhx")]
    assert len(unknown) == 200  # none of these jobs counts as gone
    qselect, *qstats, by_name = fake_pbs.commands()
    assert [qselect[0], *(words[0] for words in qstats), by_name[0]] == ["qselect", *["qstat"] * 5, "qselect"]
    assert max(map(len, qstats)) < 25


def test_some_of_very_many_names_are_queried_later(fake_pbs: FakePBS) -> None:
    names = [f"rh{number}" for number in range(1000, 1103)]
    answer = PBS(USER).query(fake_pbs.run, (), names)
    assert isinstance(answer, Jobs)
    assert len([name for name in names if answer.left_open("1.pbsnode", name)]) == 3
    assert len(fake_pbs.commands()) == 101


def test_a_running_task_that_its_array_does_not_list_is_found_by_its_own_id(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(running=1)
    array = submitted(fake_pbs, script("rharray", tasks=3))
    fake_pbs.wait_for_state("1[0].pbsnode", "R")
    fake_pbs.turn(running=1, tasks_missing=True)
    assert "1[0].pbsnode" not in fake_pbs.run(["qstat", "-x", "-t", "-f", array]).stdout
    known = PBS(USER).query(fake_pbs.run, {"1[0].pbsnode", "1[1].pbsnode"}, {"rharray"})
    assert isinstance(known, Jobs)
    assert {job.index: job.state for job in known.jobs}[0] is JobState.RUNNING
    assert PBS(USER).cancel(fake_pbs.run, ["1[0].pbsnode"]) == []
    fake_pbs.wait_for_state("1[0].pbsnode", "X")


def test_a_held_array_is_blocked_and_its_running_tasks_are_not(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(running=1)
    array = submitted(fake_pbs, script("rharray", tasks=3))
    fake_pbs.wait_for_state("1[0].pbsnode", "R")
    fake_pbs.hold(array)
    known = tasks_of(fake_pbs, array)
    assert [known[index].state for index in range(3)] == [JobState.RUNNING, BLOCKED, BLOCKED]
    assert "held" in known[1].words
    fake_pbs.release(array)
    assert tasks_of(fake_pbs, array)[1].state is JobState.QUEUED


def test_a_line_of_a_library_in_each_answer_is_ignored(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(chatter="ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded: ignored.", stopped=True)
    pbs, job_id = PBS(USER), submitted(fake_pbs, script("rhlong"))
    assert pbs.identity(fake_pbs.run) == Identity("pbs", "pbsnode", USER)
    assert pbs.array_limit(fake_pbs.run, None) == 10_000
    assert names(pbs.query(fake_pbs.run, {job_id, "99.pbsnode"}, {"rhlong", "rhnever"})) == {job_id: "rhlong"}
    assert pbs.cancel(fake_pbs.run, [job_id, "99.pbsnode"]) == []
    assert pbs.query(fake_pbs.run, (), ()) == Jobs((), history=True)


# Refusals


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"hook": "no hours left in project x"}, Refused("qsub (exit 32): qsub: no hours left in project x")),
        ({"disabled": ["workq"]}, Refused("qsub (exit 173): qsub: Queue is not enabled", True, Scope.QUEUE)),
        ({"queues": ["other"]}, Refused("qsub (exit 170): qsub: Unknown queue", False, Scope.QUEUE)),
    ],
)
def test_a_refusal_has_the_message_of_the_scheduler_and_a_scope(
    knobs: dict[str, Any], expected: Refused, fake_pbs: FakePBS, script: Script
) -> None:
    fake_pbs.turn(**knobs)
    assert PBS(USER).submit(fake_pbs.run, script("rhx"), "rhx") == expected


def test_a_routing_queue_has_the_array_limit_of_its_destinations(fake_pbs: FakePBS, script: Script) -> None:
    pbs = PBS(USER)
    fake_pbs.turn(routes={"route": ["workq"]}, queue_array_size=3)
    assert pbs.array_limit(fake_pbs.run, "route") == 3
    assert isinstance(pbs.submit(fake_pbs.run, script("rhsmall", tasks=3, queue="route"), "rhsmall"), Submitted)
    assert isinstance(pbs.submit(fake_pbs.run, script("rhone", queue="route"), "rhone"), Submitted)
    answer = pbs.submit(fake_pbs.run, script("rhlarge", tasks=4, queue="route"), "rhlarge")
    assert isinstance(answer, Refused)
    assert (answer.later, answer.scope) == (False, Scope.REQUEST)
    assert "3[].pbsnode" in answer.why and "routing queue route" in answer.why and "Unknown Job Id" in answer.why


def test_a_job_that_may_be_on_another_server_does_not_count_as_rejected(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(routes={"route": ["workq", "workq@elsewhere"]}, queue_array_size=3)
    large = script("rhlarge", tasks=4, queue="route")
    assert PBS(USER).submit(fake_pbs.run, large, "rhlarge") == Submitted("1[].pbsnode")


def test_each_queue_is_queried_once(fake_pbs: FakePBS, script: Script) -> None:
    pbs = PBS(USER)
    for name in ("rha", "rhb"):
        assert isinstance(pbs.submit(fake_pbs.run, script(name), name), Submitted)
    assert [words[:2] for words in fake_pbs.commands()] == [
        ["qsub", fake_pbs.commands()[0][1]], ["qstat", "-B"], ["qstat", "-Q"], ["qsub", fake_pbs.commands()[3][1]],
    ]  # fmt: skip

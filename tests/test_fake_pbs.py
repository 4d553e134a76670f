"""PBS through a fake that really runs the jobs, and is itself held to the transcripts."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import wait_until
from fake_pbs import FakePBS
from transcripts import transcript, transcripts

from roundhouse import render
from roundhouse.causes import Cause
from roundhouse.experiment import Resources
from roundhouse.schedulers.base import (
    Identity,
    Job,
    Jobs,
    JobState,
    QueryFailed,
    Refused,
    Submitted,
    Unclear,
)
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.pbs import (
    PBS,
    from_text,
)

REAL = "pbs_transcripts"
USER = getpass.getuser()
ENDED, BLOCKED = JobState.ENDED, JobState.BLOCKED


def told(answer: Jobs | QueryFailed) -> dict[str, str]:
    """Job ID -> name, of a query that was answered."""
    assert isinstance(answer, Jobs), answer
    return {job.id: job.name for job in answer.jobs}


Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a job script with our header and a body of the test's own."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(Path(__file__).parent.parent / "templates" / "pbs.sh.j2", templates)

    def write(name: str, body: str = "sleep 600", walltime_s: int = 600, log: Path | None = None, **asked: Any) -> Path:
        (templates / "body.sh.j2").write_text("{% raw %}" + body + "\n{% endraw %}")
        site = SimpleNamespace(queue=None, project=None, directives=[])
        text = render.render(
            render.environment(templates), "pbs", name=name, log=str(log or tmp_path / f"{name}.log"),
            resources=Resources(walltime_s=walltime_s, **asked), site=site,
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


def shape(text: str) -> list[str]:
    """The text without what differs from job to job."""
    return [re.sub(r"\d+", "N", line) for line in text.splitlines()]


def keys_in_order(document: str) -> list[str]:
    [attributes] = json.loads(document)["Jobs"].values()
    return list(attributes)


def test_the_fake_answers_in_the_words_and_codes_of_the_real_one(fake_pbs: FakePBS, script: Script) -> None:
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


def test_the_fake_goes_down_as_the_real_one(fake_pbs: FakePBS, script: Script) -> None:
    job = script("ok")
    fake_pbs.turn(down=True)
    for real in transcripts(REAL)["server_down"]:
        fake = fake_pbs.run([str(job) if word == "ok.pbs" else word for word in real.argv])
        assert (fake.code, shape(fake.stdout), fake.stderr) == (real.code, shape(real.stdout), real.stderr)


def test_the_fake_tells_a_dropped_dependency_as_the_real_one(fake_pbs: FakePBS, script: Script) -> None:
    job = script("ok", "touch ran")
    fake = fake_pbs.run(["qsub", "-W", "depend=afterok:9999", str(job)])
    job_id = fake.stdout.strip()
    assert fake.code == 0
    text = fake_pbs.run(["qstat", "-xf", job_id]).stdout
    real = from_text(transcript(REAL, "qstat_xf_dependency_dropped").stdout)["18.pbsnode"]
    ours = from_text(text)[job_id]
    for key in ("job_state", "substate", "depend", "Hold_Types"):
        assert ours[key] == real[key]
    assert "Exit_status" not in ours
    known = the_job(fake_pbs, job_id)
    assert known is not None
    assert (known.state, known.cause) == (ENDED, None)


# The scheduler and the fake together


def test_a_job_runs_and_its_output_is_there_when_it_has_ended(
    fake_pbs: FakePBS, script: Script, tmp_path: Path
) -> None:
    log = tmp_path / "my experiments" / "scheduler.log"
    log.parent.mkdir()
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
    assert shape(transcript_text("walltime_job_output"))[0].split(" N ")[0] in log
    assert "not yet" in log


def transcript_text(name: str) -> str:
    return (Path(__file__).parent / "data" / REAL / f"{name}.txt").read_text()


def test_a_job_is_found_by_its_name_alive_or_ended(fake_pbs: FakePBS, script: Script) -> None:
    pbs = PBS(USER)
    ended, alive = submitted(fake_pbs, script("rhended", "true")), submitted(fake_pbs, script("rhalive"))
    fake_pbs.wait_for_state(ended, "F")
    answer = pbs.query(fake_pbs.run, set(), {"rhended", "rhalive", "rhnever"})
    assert told(answer) == {ended: "rhended", alive: "rhalive"}


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


def test_a_server_that_is_down_fails_the_query_and_knows_the_jobs_again_later(
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
    assert told(pbs.query(fake_pbs.run, {job_id}, set())).keys() == {job_id}


def test_without_history_an_ended_job_is_not_known(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(history=False)
    pbs = PBS(USER)
    ended, alive = submitted(fake_pbs, script("rhended", "true")), submitted(fake_pbs, script("rhalive"))
    fake_pbs.wait_for_state(ended, None)
    assert told(pbs.query(fake_pbs.run, {ended, alive}, {"rhended"})).keys() == {alive}


def test_a_job_accepted_but_reported_as_failed_is_found_by_its_name(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(fail_after_accept=True)
    assert isinstance(PBS(USER).submit(fake_pbs.run, script("rhlong"), "rhlong"), Unclear)
    assert list(told(PBS(USER).query(fake_pbs.run, set(), {"rhlong"})).values()) == ["rhlong"]


def test_a_job_accepted_after_qsub_gave_up_appears_later(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(accept_late=1.5)
    fake_pbs.limit = 1
    assert isinstance(PBS(USER).submit(fake_pbs.run, script("rhlate"), "rhlate"), Unclear)
    fake_pbs.limit = 60
    fake_pbs.turn()
    wait_until(lambda: told(PBS(USER).query(fake_pbs.run, set(), {"rhlate"})), "the job appears")


def test_the_limit_on_jobs_means_later(fake_pbs: FakePBS, script: Script) -> None:
    fake_pbs.turn(max_jobs=1)
    submitted(fake_pbs, script("rhone"))
    answer = PBS(USER).submit(fake_pbs.run, script("rhtwo"), "rhtwo")
    assert isinstance(answer, Refused)
    assert answer.later


def test_a_job_that_can_never_run_is_blocked_with_the_words_of_the_scheduler(fake_pbs: FakePBS, script: Script) -> None:
    job_id = submitted(fake_pbs, script("rhbig", ncpus=64))
    wait_until(lambda: the_job(fake_pbs, job_id).state is BLOCKED, "it is blocked")  # type: ignore[union-attr]
    assert "Can Never Run" in the_job(fake_pbs, job_id).words  # type: ignore[union-attr]


def test_a_held_job_is_blocked(fake_pbs: FakePBS, script: Script) -> None:
    job_id = fake_pbs.run(["qsub", "-h", str(script("rhheld"))]).stdout.strip()
    assert the_job(fake_pbs, job_id).state is BLOCKED  # type: ignore[union-attr]


def test_a_crashed_node_leaves_no_trace_of_its_job(fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    job_id = submitted(fake_pbs, script("rhlong", f"touch {tmp_path}/started; sleep 600"))
    wait_until((tmp_path / "started").exists, "the job has started")
    fake_pbs.crash(job_id)
    assert the_job(fake_pbs, job_id) is None
    assert not (tmp_path / "rhlong.log").exists()


@pytest.mark.parametrize("zombie", [False, True])
def test_a_job_that_is_run_again_keeps_its_id(zombie: bool, fake_pbs: FakePBS, script: Script, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    job_id = submitted(fake_pbs, script("rhagain", f"echo $$ $PBS_JOBID >> {starts}; sleep 600"))
    wait_until(lambda: len(starts.read_text().splitlines()) == 1, "the job starts")
    fake_pbs.rerun(job_id, zombie=zombie)
    wait_until(lambda: len(starts.read_text().splitlines()) == 2, "the job starts again")
    (first, one), (_, other) = (line.split() for line in starts.read_text().splitlines())
    assert one == other == job_id
    assert Path(f"/proc/{first}").exists() == zombie


def test_eight_clients_at_once_get_eight_jobs(fake_pbs: FakePBS, script: Script) -> None:
    scripts = [script(f"rh{number}") for number in range(8)]
    ids: list[str] = []
    clients = [threading.Thread(target=lambda one=one: ids.append(submitted(fake_pbs, one))) for one in scripts]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(set(ids)) == 8
    assert told(PBS(USER).query(fake_pbs.run, ids, set())).keys() == set(ids)


def test_the_fake_is_found_by_its_commands(fake_pbs: FakePBS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_pbs.env["PATH"])
    scheduler, _ = detect("pbs", USER, fake_pbs.run)
    assert isinstance(scheduler, PBS)

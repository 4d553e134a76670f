"""An experiment's files: exclusive creation, unreadable files, compacting, and views."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.model import plan
from roundhouse.model.answers import QueryFailed
from roundhouse.model.attempt import Attempt, Opened, Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.status import ExperimentStatus
from roundhouse.store import carried, history, logs, record
from roundhouse.views import status_json, tables
from roundhouse.views.explanation import explain
from roundhouse.views.measured import spans

EXPERIMENT = Experiment("r", "e", "e", None, {"lr": 0.1}, command=("true",))
SCHEDULER = {"kind": "local", "server": "here", "user": "me", "boot": "b"}
OPENED = Opened("rhtoken", SCHEDULER, EXPERIMENT.config_hash(), {"teacher": [{"path": "t", "sha256": "0"}]})
CLAIM = {"version": 1, "nonce": "n", "job_id": "7", "host": "node", "at": 1}
RESULT = {"version": 1, "nonce": "n", "cause": "completed", "why": "", "exit_code": 0, "signals": [], "at": 2}
PROGRESS = {
    "version": 1, "epoch": 3, "epochs": 3, "started_epoch": 1, "metric_name": "accuracy", "metric": 0.5, "best": 0.75,
    "artifacts": {"best.pth": "0"}, "final": {"accuracy": 0.5},
}  # fmt: skip


def open_one(directory: Path, number: int = 1, opened: Opened = OPENED) -> Path:
    assert record.open_attempt(directory, number, opened)
    return record.attempt_directory(directory, number)


def write(place: Path, name: str, value: Any) -> None:
    (place / name).write_text(json.dumps(value))


def completed(directory: Path, *earlier: Cause) -> Path:
    """An experiment that completed, after attempts that ended otherwise."""
    for number, cause in enumerate(earlier, 1):
        place = open_one(directory, number)
        if cause in (Cause.UNCLAIMED, Cause.LIMIT):
            assert record.void(directory, number, cause, "no job", jobs=3)
        else:
            write(place, record.CLAIM, {**CLAIM, "nonce": str(number)})
            if cause is Cause.PREEMPTED:  # as far as the job knew
                write(place, record.RESULT, {**RESULT, "cause": str(cause), "guess": True})
                assert record.write_verdict(directory, number, Cause.MEMORY, "exceeded resource mem")
            else:
                assert record.close(directory, number, cause, "gone")
    place = open_one(directory, len(earlier) + 1)
    for name, value in ((record.CLAIM, CLAIM), (record.RESULT, RESULT), (record.PROGRESS, PROGRESS)):
        write(place, name, value)
    for name in (record.ENVIRONMENT, record.SCRIPT, record.LOG, "metrics.json", "best.pth"):
        (place / name).write_text("{}")
    return place


def lasting(rec: Record) -> list[Attempt]:
    """The attempts, without what compacting does not keep."""
    return [replace(one, gone_at=None, result_at=None, cancel=False) for one in rec.attempts]


# ------------------------------------------------------------------------------------------------- exclusive creation


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_fifty_threads_one_creates_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        without_links(monkeypatch)
    barrier, won = threading.Barrier(50), []

    def create(number: int) -> None:
        barrier.wait()
        if files.create_exclusive(tmp_path / "one", {"nonce": number}):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert json.loads((tmp_path / "one").read_text()) == {"nonce": won[0]}
    assert os.listdir(tmp_path) == ["one"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_twenty_processes_one_opens_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        without_links(monkeypatch)
    children = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            code = 2
            try:
                code = 0 if record.open_attempt(tmp_path / "e", 1, replace(OPENED, token=f"rh{number}")) else 1
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [1] * 19
    newest = record.read(tmp_path / "e").newest
    assert newest is not None
    assert newest.opened.token == f"rh{codes.index(0)}"


def test_a_link_that_the_file_system_repeated_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def repeated(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", repeated)
    assert files.create_exclusive(tmp_path / "one", {"nonce": 1})
    monkeypatch.undo()
    assert not files.create_exclusive(tmp_path / "one", {"nonce": 2})


def test_a_file_system_that_cannot_sync_a_directory_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    open_one(tmp_path)
    assert record.read(tmp_path).newest is not None


def full_when(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)


@pytest.mark.parametrize("function", ["fsync", "open", "link", "replace"])
@pytest.mark.parametrize(
    "step",
    [
        lambda directory: record.open_attempt(directory, 2, OPENED),
        lambda directory: record.void(directory, 1, Cause.UNCLAIMED, ""),
        lambda directory: record.close(directory, 1, Cause.UNKNOWN, ""),
        lambda directory: record.record_job_id(directory, 1, "7"),
        lambda directory: record.write_status(directory, {"state": "pending"}),
        lambda directory: record.write_config(directory, EXPERIMENT),
    ],
    ids=["open", "void", "close", "job id", "status", "config"],
)
def test_a_full_disk_leaves_no_partial_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, step: Callable[[Path], Any]
) -> None:
    open_one(tmp_path)
    write(tmp_path / "attempts" / "1", "checkpoint.pth", {})

    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = everything()
    with monkeypatch.context() as patch:
        full_when(patch, function)
        failed = False
        try:
            step(tmp_path)
        except OSError:
            failed = True
    if failed:
        assert everything() == before
    step(tmp_path)
    assert (everything() != before) or not failed, "once there is room, it works"


# ----------------------------------------------------------------------------------------- opening, claiming, closing


def test_attempt_one_makes_the_directory_and_no_later_one_does(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert not record.open_attempt(directory, 2, OPENED)
    assert not (tmp_path / "a").exists()
    assert record.open_attempt(directory, 1, OPENED)
    assert not record.open_attempt(directory, 1, OPENED)
    assert record.open_attempt(directory, 2, OPENED)
    shutil.rmtree(directory)
    assert not record.open_attempt(directory, 3, OPENED)
    assert not record.void(directory, 2, Cause.UNCLAIMED, "")
    assert not record.close(directory, 2, Cause.UNKNOWN, "")
    assert not directory.exists()


def test_an_attempt_is_open_until_it_is_void_or_has_a_result(tmp_path: Path) -> None:
    directory = tmp_path / "e"
    assert record.read(directory) == Record(directory)
    open_one(directory)
    rec = record.read(directory)
    assert rec.newest is not None
    assert (rec.newest.opened, rec.newest.closed, rec.next_number) == (
        replace(OPENED, at=rec.newest.opened.at),
        False,
        2,
    )
    assert record.void(directory, 1, Cause.LIMIT, "too many", jobs=4)
    assert not record.void(directory, 1, Cause.CANCELLED, "")
    newest = record.read(directory).newest
    assert newest is not None
    assert newest.claim is not None
    assert (newest.closed, newest.cause, newest.claim.why, newest.claim.jobs) == (True, Cause.LIMIT, "too many", 4)


def test_a_result_outweighs_a_claim_and_is_written_once(tmp_path: Path) -> None:
    place = open_one(tmp_path)
    write(place, record.CLAIM, CLAIM)
    assert not record.void(tmp_path, 1, Cause.UNCLAIMED, "")
    assert record.close(tmp_path, 1, Cause.UNKNOWN, "gone")
    assert not record.close(tmp_path, 1, Cause.COMPLETED, "")
    newest = record.read(tmp_path).newest
    assert newest is not None
    assert (newest.cause, newest.job_id, newest.void) == (Cause.UNKNOWN, "7", False)


def test_the_job_id_is_added_to_what_was_opened_and_nothing_else_changes(tmp_path: Path) -> None:
    place = open_one(tmp_path)
    before = json.loads((place / record.JOB).read_text())
    record.record_job_id(tmp_path, 1, "12[3].server")
    assert json.loads((place / record.JOB).read_text()) == {**before, "job_id": "12[3].server"}
    newest = record.read(tmp_path).newest
    assert newest is not None
    assert newest.job_id == "12[3].server"


def test_a_number_whose_opener_died_is_free(tmp_path: Path) -> None:
    open_one(tmp_path)
    (tmp_path / "attempts" / "2").mkdir()
    (tmp_path / "attempts" / "2" / ".draft-x").write_text("half")
    (tmp_path / "attempts" / "notes").mkdir()
    assert record.read(tmp_path).next_number == 2
    open_one(tmp_path, 2)
    assert record.read(tmp_path).next_number == 3


def test_tokens_are_short_names_that_differ() -> None:
    tokens = {record.new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 15 and token.isalnum() and token.islower() and token[0] == "r" for token in tokens)


def test_gone_and_cancel_are_files_of_an_attempt(tmp_path: Path) -> None:
    open_one(tmp_path)
    record.mark_gone(tmp_path, 1)
    record.request_cancel(tmp_path, 1)
    newest = record.read(tmp_path).newest
    assert newest is not None
    assert (newest.gone_at is not None, newest.cancel) == (True, True)
    record.unmark_gone(tmp_path, 1)
    record.unmark_gone(tmp_path, 1)
    newest = record.read(tmp_path).newest
    assert newest is not None
    assert newest.gone_at is None


# --------------------------------------------------------------------------------------------------- unreadable files


@pytest.mark.parametrize("name", [record.JOB, record.CLAIM, record.RESULT])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b'{"version": 1, "nonce": "n', "is not valid JSON"),
        (b"\xff\x00\x12", "is not valid JSON"),
        (b"[1]", "does not hold a JSON object"),
        (b'{"version": 99}', "has version 99; this Roundhouse reads version 1"),
        (b"{}", "has version None"),
        (b'{"version": 1}', "invalid value"),
        (b'{"version": 1, "nonce": "n", "cause": "bad luck", "token": 1}', "invalid value"),
    ],
)
def test_an_unreadable_file_of_the_newest_attempt_is_damage_and_of_an_older_one_a_note(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    completed(tmp_path)
    (tmp_path / "attempts" / "1" / name).write_bytes(content)
    rec = record.read(tmp_path)
    if name == record.CLAIM and not content.strip():
        assert rec.damage == ""
        assert rec.completed is not None
        assert rec.completed.claim is not None
        assert not rec.completed.claim.void
        return
    assert rec.damage.startswith(f"attempts/1/{name}" if message != "invalid value" else "attempts/1/")
    assert message in rec.damage
    assert (rec.completed, rec.next_number) == (None, 2)
    open_one(tmp_path, 2)
    rec = record.read(tmp_path)
    assert (rec.damage, len(rec.notes), len(rec.attempts), rec.next_number) == ("", 1, 1, 3)
    assert message in rec.notes[0]
    history.compact(rec)
    assert (tmp_path / "attempts" / "1" / name).read_bytes() == content


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 99}', b'{"version": 1}', b'{"version": 1, "attempts": []}']
)
def test_an_unreadable_history_is_reported(tmp_path: Path, content: bytes) -> None:
    completed(tmp_path)
    history.compact(record.read(tmp_path))
    (tmp_path / record.HISTORY).write_bytes(content)
    rec = record.read(tmp_path)
    assert rec.damage.startswith("history.json ")
    assert rec.completed is None
    before = sorted(tmp_path.rglob("*"))
    history.compact(rec)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"{", b"3", b'{"version": 2}', b'{"version": 1, "epoch": "three"}'])
def test_unreadable_progress_counts_as_none(tmp_path: Path, content: bytes) -> None:
    place = completed(tmp_path)
    (place / record.PROGRESS).write_bytes(content)
    rec = record.read(tmp_path)
    assert rec.damage == ""
    assert rec.completed is not None
    assert rec.completed.progress is None


@pytest.mark.parametrize(
    ("written", "known"), [("12.5", 12.5), ('"fast"', None), ("-1", None), ("1e999", None), ("null", None)]
)
def test_a_value_that_is_no_time_gives_no_pace(tmp_path: Path, written: str, known: float | None) -> None:
    place = completed(tmp_path)
    (place / record.PROGRESS).write_text(f'{{"version": 1, "epoch": 3, "seconds_per_epoch": {written}}}')
    rec = record.read(tmp_path)
    assert rec.completed is not None
    assert rec.completed.progress is not None
    assert (rec.completed.progress.epoch, rec.completed.progress.seconds_per_epoch) == (3, known)


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    rec = record.read(tmp_path / "loop")
    assert (rec.readable, rec.attempts) == (False, ())
    assert "Too many levels of symbolic links" in rec.damage
    assert str(tmp_path / "loop") in rec.damage


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5,
)
NAMES = [record.JOB, record.CLAIM, record.RESULT, record.PROGRESS, record.HISTORY, record.STATUS]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), key=st.integers(0, 20), value=JSON, more=JSON, cause=st.sampled_from(list(Cause)))
def test_whatever_a_field_holds_reading_deciding_and_showing_never_fail(
    tmp_path_factory: pytest.TempPathFactory, name: str, key: int, value: Any, more: Any, cause: Cause
) -> None:
    directory = Path("/dev/shm" if Path("/dev/shm").is_dir() else tmp_path_factory.mktemp("x"), f"rh-{os.getpid()}")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        place = completed(directory, Cause.LIMIT)
        write(place, record.RESULT, {**RESULT, "cause": cause})
        (directory / record.STATUS).write_text('{"version": 1, "state": "pending"}')
        if name == record.HISTORY:
            write(place, record.RESULT, RESULT)
            history.compact(record.read(directory))
        path = directory / name if name in (record.HISTORY, record.STATUS) else place / name
        content = json.loads(path.read_text())
        part = content
        if name == record.HISTORY and key % 2:
            part = content["attempts"][-1]
            part = (
                part[sorted(part)[key % len(part)]] if isinstance(part[sorted(part)[key % len(part)]], dict) else part
            )
        part[sorted(part)[key % len(part)]] = value
        part["extra"] = more
        path.write_text(json.dumps(content))
        rec = record.read(directory)
        for answer in (plan.Unknown(), QueryFailed("down")):
            inputs = plan.Inputs({"teacher": [{"path": "t", "sha256": "0"}]})
            action = plan.decide(rec, answer, inputs, plan.Clock(1e9, 180, 120), EXPERIMENT.config_hash())
            row = ExperimentStatus(EXPERIMENT, rec, action, inputs)
            status = status_json.as_dict(row)
            json.dumps(status)
            record.write_status(directory, status_json.file_content(row))
            tables.table([row])
            tables.summary("r", [row], 1)
            explain(row)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------- compacting


class Killed(BaseException):
    """The process that compacts has died."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The step-th change of the file system does not happen."""
    done = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] == step:
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("link", "replace", "unlink", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_compacting_that_is_killed_at_any_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = 0
    while True:
        step += 1
        directory = tmp_path / str(step)
        completed(directory, Cause.UNCLAIMED, Cause.PREEMPTED, Cause.ERROR)
        before = record.read(directory)
        with monkeypatch.context() as patch:
            killed_at(patch, step)
            try:
                history.compact(before)
            except Killed:
                ended = False
            else:
                ended = True
        after = record.read(directory)
        assert (after.damage, after.notes, after.next_number) == ("", (), 5)
        assert lasting(after) == lasting(before)
        history.compact(after)
        last = record.read(directory)
        assert last.compacted
        assert lasting(last) == lasting(before)
        names = {path.name for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".draft-")}
        kept = {"history.json", "job.json", "claim.json", "result.json", "verdict.json"}
        assert names == kept | {"out.log", "metrics.json", "best.pth"}
        if ended:
            break
    assert step > 20


def test_a_record_that_is_compacted_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed(tmp_path, Cause.ERROR)
    before = record.read(tmp_path)
    real, first = files.read_bytes, [True]

    def read_bytes(path: str | Path) -> bytes | None:
        data = real(path)
        if first.pop() if first else False:
            history.compact(before)
        return data

    monkeypatch.setattr(files, "read_bytes", read_bytes)
    after = record.read(tmp_path)
    assert (after.compacted, after.damage) == (True, "")
    assert lasting(after) == lasting(before)


def test_compacting_keeps_how_long_each_attempt_ran_and_older_histories_are_read(tmp_path: Path) -> None:
    begun = float(CLAIM["at"])
    lost = open_one(tmp_path)
    write(lost, record.CLAIM, CLAIM)
    write(lost, record.PROGRESS, PROGRESS)
    at(lost, record.CLAIM, begun + 5)
    at(lost, record.PROGRESS, begun + 605)
    write(lost, record.RESULT, {"version": 1, "nonce": "n", "cause": "node", "by": "runner a:1", "at": begun + 90000})
    last = open_one(tmp_path, 2)
    write(last, record.CLAIM, {**CLAIM, "at": begun + 90100})
    write(last, record.RESULT, {**RESULT, "at": begun + 90400})
    history.compact(record.read(tmp_path))
    after = record.read(tmp_path)
    assert after.compacted
    assert [end - start for start, end in spans(after)] == [600, 300]
    merged = json.loads((tmp_path / record.HISTORY).read_text())
    for entry in merged["attempts"]:
        del entry["times"]
    (tmp_path / record.HISTORY).write_text(json.dumps(merged))
    old = record.read(tmp_path)
    assert (old.damage, [one.cause for one in old.attempts]) == ("", [Cause.NODE, Cause.COMPLETED])
    assert [end - start for start, end in spans(old)] == [90000, 300], "only an upper bound is known"


def test_a_late_process_finds_every_name_of_a_compacted_experiment_taken(tmp_path: Path) -> None:
    completed(tmp_path, Cause.PREEMPTED)
    history.compact(record.read(tmp_path))
    merged = (tmp_path / record.HISTORY).read_bytes()
    assert not record.write_verdict(tmp_path, 1, Cause.NODE, "")
    for number in (1, 2):
        assert not record.open_attempt(tmp_path, number, OPENED)
        assert not record.void(tmp_path, number, Cause.CANCELLED, "")
        assert not record.close(tmp_path, number, Cause.ERROR, "")
        record.record_answer(tmp_path, number, "late")
        record.record_job_id(tmp_path, number, "8")
    assert (tmp_path / record.HISTORY).read_bytes() == merged
    rec = record.read(tmp_path)
    assert rec.completed is not None
    assert rec.completed.number == 2


def guessed(directory: Path) -> Path:
    """An attempt whose shell knows only that a signal came."""
    place = open_one(directory)
    write(place, record.CLAIM, CLAIM)
    write(place, record.RESULT, {**RESULT, "cause": "preempted", "why": "stopped by TERM", "guess": True})
    return place


def test_a_verdict_is_created_once_and_gives_a_guess_its_cause(tmp_path: Path) -> None:
    guessed(tmp_path)
    newest = record.read(tmp_path).newest
    assert newest is not None and newest.awaits_verdict and newest.cause is Cause.PREEMPTED
    assert record.write_verdict(tmp_path, 1, Cause.MEMORY, "job 23: exceeded resource mem")
    assert not record.write_verdict(tmp_path, 1, Cause.NODE, "")
    newest = record.read(tmp_path).newest
    assert newest is not None and newest.closed and not newest.awaits_verdict
    assert (newest.cause, newest.why) == (Cause.MEMORY, "job 23: exceeded resource mem")
    assert newest.result is not None and newest.result.cause is Cause.PREEMPTED


@pytest.mark.parametrize("verdict", ["completed", "cancelled", "rung", "retry", "nonsense"])
def test_no_verdict_completes_or_cancels(tmp_path: Path, verdict: str) -> None:
    place = guessed(tmp_path)
    write(place, record.VERDICT, {"version": 1, "nonce": "n", "cause": verdict})
    assert "invalid value" in record.read(tmp_path).damage


@pytest.mark.parametrize("cause", ["completed", "cancelled", "memory", "input", "rung"])
def test_what_a_job_knows_for_certain_is_no_guess(tmp_path: Path, cause: str) -> None:
    place = guessed(tmp_path)
    write(place, record.RESULT, {**RESULT, "cause": cause, "guess": True})
    record.write_verdict(tmp_path, 1, Cause.NODE, "")
    newest = record.read(tmp_path).newest
    assert newest is not None and newest.cause is Cause(cause)


def test_compacting_keeps_few_files_and_the_whole_history(tmp_path: Path) -> None:
    place = completed(tmp_path)
    record.mark_gone(tmp_path, 1)
    (place / ".draft-old").write_text("x")
    history.compact(record.read(tmp_path))
    assert sorted(os.listdir(place)) == ["best.pth", "claim.json", "job.json", "metrics.json", "out.log", "result.json"]
    assert len({(place / name).stat().st_ino for name in ("claim.json", "job.json", "result.json")}) == 1
    rec = record.read(tmp_path)
    assert rec.completed is not None
    assert rec.completed.progress is not None
    assert (rec.completed.progress.best, rec.completed.progress.final) == (0.75, {"accuracy": 0.5})


def test_an_experiment_that_is_not_completed_or_not_wholly_read_is_not_compacted(tmp_path: Path) -> None:
    open_one(tmp_path)
    history.compact(record.read(tmp_path))
    assert not (tmp_path / record.HISTORY).exists()
    place = completed(tmp_path / "other", Cause.ERROR)
    (place.parent / "1" / record.CLAIM).unlink()
    history.compact(record.read(tmp_path / "other"))
    assert not (tmp_path / "other" / record.HISTORY).exists()


def test_without_hard_links_a_completed_experiment_is_compacted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    place = completed(tmp_path, Cause.ERROR)
    before = record.read(tmp_path)
    history.compact(before)
    after = record.read(tmp_path)
    assert after.compacted
    assert lasting(after) == lasting(before)
    assert not record.open_attempt(tmp_path, 2, OPENED)
    assert not record.close(tmp_path, 1, Cause.ERROR, "")
    assert not (place / record.PROGRESS).exists()


# -------------------------------------------------------------------------------------------------------------- views


def test_outputs_are_relative_links_to_the_completed_attempt(tmp_path: Path) -> None:
    completed(tmp_path, Cause.ERROR)
    (tmp_path / "metrics.json").symlink_to("attempts/1/metrics.json")
    for _ in range(2):
        carried.link_outputs(record.read(tmp_path))
    assert os.readlink(tmp_path / "metrics.json") == "attempts/2/metrics.json"
    assert os.readlink(tmp_path / "best.pth") == "attempts/2/best.pth"
    assert sorted(os.listdir(tmp_path)) == ["attempts", "best.pth", "metrics.json"]


@pytest.mark.parametrize("damage", [None, b"", b'{"version": 1, "state": "pen', b"[]", b'{"version": 9}'])
def test_a_status_that_is_missing_or_unreadable_is_written_again(tmp_path: Path, damage: bytes | None) -> None:
    if damage is not None:
        (tmp_path / record.STATUS).write_bytes(damage)
    assert record.read_status(tmp_path) is None
    assert not record.status_says(tmp_path, "pending")
    record.write_status(tmp_path, {"state": "pending"})
    assert record.status_says(tmp_path, "pending")
    assert (record.read_status(tmp_path) or {})["state"] == "pending"


def row_of(directory: Path, state: plan.State) -> ExperimentStatus:
    return ExperimentStatus(EXPERIMENT, record.read(directory), plan.Action(plan.Verb.NOTHING, state), plan.Inputs({}))


def since(directory: Path, state: plan.State) -> float | None:
    value: float | None = status_json.as_dict(row_of(directory, state))["since"]
    return value


def test_a_state_has_lasted_since_the_attempt_was_opened_began_or_ended(tmp_path: Path) -> None:
    assert since(tmp_path, plan.State.PENDING) is None
    assert since(tmp_path, plan.State.BLOCKED) is None, "it cannot start, and nothing was recorded"
    place = open_one(tmp_path)
    os.utime(place / record.JOB, (5e8, 5e8))
    assert since(tmp_path, plan.State.SUBMITTING) == 5e8
    write(place, record.CLAIM, {**CLAIM, "at": 6e8})
    assert since(tmp_path, plan.State.IN_PROGRESS) == 6e8
    write(place, record.RESULT, {**RESULT, "cause": "error", "at": 7e8})
    assert since(tmp_path, plan.State.FAILED) == 7e8
    assert since(tmp_path, plan.State.PENDING) is None, "it will be retried"


def test_what_was_cancelled_before_it_started_is_so_since_the_marker(tmp_path: Path) -> None:
    write(open_one(tmp_path), record.RESULT, {**RESULT, "cause": "error", "at": 7e8})
    mark = open_one(tmp_path, 2, replace(OPENED, mark=Cause.CANCELLED))
    write(mark, record.CLAIM, {**CLAIM, "void": True, "cause": "cancelled", "at": 8e8})
    assert since(tmp_path, plan.State.CANCELLED) == 8e8


def test_what_is_completed_is_so_since_the_same_time_after_compacting(tmp_path: Path) -> None:
    completed(tmp_path, Cause.ERROR)
    before = since(tmp_path, plan.State.COMPLETED)
    history.compact(record.read(tmp_path))
    assert since(tmp_path, plan.State.COMPLETED) == before == RESULT["at"]


def test_a_time_that_was_never_recorded_is_none(tmp_path: Path) -> None:
    write(open_one(tmp_path), record.RESULT, {key: RESULT[key] for key in RESULT if key != "at"})
    assert since(tmp_path, plan.State.COMPLETED) is None


@pytest.mark.parametrize("claimed", [True, False])
def test_a_status_stays_as_it_is_while_nothing_happens(tmp_path: Path, claimed: bool) -> None:
    place = open_one(tmp_path)
    if claimed:
        write(place, record.CLAIM, {**CLAIM, "at": 1795254295.1234567})
    record.write_status(tmp_path, status_json.file_content(row_of(tmp_path, plan.State.IN_PROGRESS)))
    before = (tmp_path / record.STATUS).stat()
    record.write_status(tmp_path, status_json.file_content(row_of(tmp_path, plan.State.IN_PROGRESS)))
    assert (tmp_path / record.STATUS).stat().st_ino == before.st_ino


def test_a_status_is_written_only_if_it_says_something_else(tmp_path: Path) -> None:
    record.write_status(tmp_path, {"state": "pending"})
    before = (tmp_path / record.STATUS).stat()
    record.write_status(tmp_path, {"state": "pending"})
    assert (tmp_path / record.STATUS).stat().st_ino == before.st_ino
    record.write_status(tmp_path, {"state": "failed"})
    assert not record.status_says(tmp_path, "pending")


FINITE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.dictionaries(st.text(max_size=4), FINITE, max_size=4),
    words=st.none() | st.lists(st.text(max_size=6), min_size=1, max_size=3),
)
def test_a_config_that_was_written_is_read_as_the_same_experiment(
    tmp_path: Path, config: dict[str, Any], words: list[str] | None
) -> None:
    command = tuple(words) if words else None
    experiment = Experiment("r", "e", "a b/c", "study", config, after={"t": ("x", "y: z")}, command=command)
    record.write_config(tmp_path, experiment)
    assert record.config_hash(record.read_config(tmp_path)) == experiment.config_hash()
    before = (tmp_path / record.CONFIG).stat()
    record.write_config(tmp_path, experiment)
    assert (tmp_path / record.CONFIG).stat().st_ino == before.st_ino, "it is not written again"


def test_a_directory_without_a_config_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="is not an experiment. runner.py creates experiments"):
        record.read_config(tmp_path)


def test_the_end_of_the_log_is_shown_whatever_bytes_it_holds(tmp_path: Path) -> None:
    place = open_one(tmp_path)
    assert logs.tail(tmp_path, 1) == ""
    (place / record.LOG).write_bytes(b"\xff\n" + b"".join(b"line %d\n" % number for number in range(5000)))
    (place / record.SCHEDULER_LOG).write_text("killed by the scheduler\n")
    assert logs.tail(tmp_path, 1, 2) == "line 4998\nline 4999\nkilled by the scheduler"


def at(place: Path, name: str, seconds: float) -> None:
    os.utime(place / name, (seconds, seconds))


def test_the_explanation_of_each_attempt_has_its_times(tmp_path: Path) -> None:
    def times() -> list[str]:
        lines = explain(row_of(tmp_path, plan.State.IN_PROGRESS)).splitlines()
        return [after.strip() for line, after in pairwise(lines) if line.startswith("  attempt")]

    hour = 3600
    first = open_one(tmp_path)
    at(first, record.JOB, 10 * hour)
    assert times() == ["submitted 1970-01-01 10:00 UTC"]
    write(first, record.CLAIM, {**CLAIM, "at": 11 * hour})
    write(first, record.PROGRESS, PROGRESS)
    at(first, record.PROGRESS, 12 * hour)
    begun = "submitted 1970-01-01 10:00, started 1970-01-01 11:00"
    assert times() == [f"{begun}, last heartbeat 1970-01-01 12:00 UTC"]
    write(first, record.RESULT, {"version": 1, "nonce": "n", "cause": "unknown", "at": 40 * hour})
    assert times() == [f"{begun}, last heartbeat 1970-01-01 12:00, closed 1970-01-02 16:00 UTC"]
    assert record.open_attempt(tmp_path, 2, replace(OPENED, mark=Cause.RETRY))
    at(record.attempt_directory(tmp_path, 2), record.JOB, 41 * hour)
    record.void(tmp_path, 2, Cause.RETRY, "by the user")
    third = open_one(tmp_path, 3)
    write(third, record.CLAIM, {**CLAIM, "at": 50 * hour})
    write(third, record.RESULT, {**RESULT, "at": 51.5 * hour})
    ran = "started 1970-01-03 02:00, ended 1970-01-03 03:30 UTC; ran 1 h 30 min"
    assert times()[1:] == ["set 1970-01-02 17:00 UTC", ran], "the time of a file that a copy made newer is not used"
    at(third, record.JOB, 49 * hour)
    history.compact(record.read(tmp_path))
    ends = [
        "last heartbeat 1970-01-01 12:00, closed 1970-01-02 16:00 UTC",
        "set 1970-01-02 17:00 UTC",
        f"submitted 1970-01-03 01:00, {ran}",
    ]
    assert times() == [f"{begun}, {ends[0]}", *ends[1:]]


def test_a_time_that_is_none_is_left_out(tmp_path: Path) -> None:
    place = open_one(tmp_path)
    write(place, record.CLAIM, {**CLAIM, "at": 1e300})
    write(place, record.RESULT, {**RESULT, "at": -1})
    explanation = explain(row_of(tmp_path, plan.State.IN_PROGRESS))
    assert "started on node" in explanation
    assert "ended: completed" in explanation
    assert "ran" not in explanation


def test_a_reason_that_many_rows_share_is_shown_once_unless_it_needs_the_user(tmp_path: Path) -> None:
    def later_cells(state: plan.State, reason: str) -> list[str]:
        row = row_of(tmp_path, state)
        rows = [replace(row, action=replace(row.action, reason=reason))] * 3
        return list(tables.table(rows).columns[-1].cells)[1:]

    long = "PENDING (JobArrayTaskLimit)"
    assert [str(cell) for cell in later_cells(plan.State.IN_PROGRESS, long)] == ["(as above)"] * 2
    assert [str(cell) for cell in later_cells(plan.State.IN_PROGRESS, "PENDING (Priority)")] == [
        "PENDING (Priority)"
    ] * 2
    assert [str(cell) for cell in later_cells(plan.State.FAILED, long)] == [long] * 2

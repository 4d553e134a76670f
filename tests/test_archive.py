"""`--archive`: a round moves completely or not at all, documents itself, and no late process creates it again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_for_tests import Rounds, finish, small_disk, snapshot, wait_for
from synthetic_rounds import write_mixed

from analysis.rounds import Folders, read_round
from roundhouse.config.round import Round, load_round
from roundhouse.engine import archive_documents, archive_round, offline
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import record
from roundhouse.store.archive import Archive, make_directory

NAME = "r"
REPORTS = [
    "sh",
    "-c",
    """echo '{{"version": 1, "epoch": 1, "final": {{"loss": {seed}}}}}' > {directory}/progress.json""",
]
DONE = {"ok": {"path": "ok/{seed}", "grid": {"seed": [0, 1]}, "command": REPORTS}}
PARTLY = {
    **DONE,
    "bad": {"path": "bad", "command": "false"},
    "late": {"path": "late", "after": ["bad"], "command": "true"},
}


def archived(rounds: Rounds) -> Path:
    return rounds.analysis / f"experiment_{NAME}"


def linked(link: Path, target: Path, relative: bool) -> None:
    """Move a directory away, and leave a link to it."""
    target.parent.mkdir(parents=True)
    link.rename(target)
    link.symlink_to(os.path.relpath(target, link.parent) if relative else target)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("what", ["experiments/r", "experiments", "analysis"])
def test_a_round_behind_a_link_moves_as_any_other(rounds: Rounds, what: str, relative: bool) -> None:
    rounds.write(DONE)
    rounds.analysis.mkdir()
    rounds.call()
    before = {path: value[1] for path, value in snapshot(rounds.experiments / NAME).items()}
    scratch = rounds.folder / "scratch/a/b"
    linked(rounds.folder / what, scratch, relative)
    done = rounds.call("--archive")
    assert done.returncode == 0, done.stderr
    records = archived(rounds) / "experiments"
    assert records.is_dir() and not records.is_symlink()
    assert {path: value[1] for path, value in snapshot(records).items()} == before
    assert not os.path.lexists(rounds.experiments / NAME)
    assert scratch.exists() == (what != "experiments/r")
    assert set(rounds.states().values()) == {"completed"}
    assert "was archived" in rounds.call().stderr


def test_a_round_behind_a_link_to_another_file_system_stays_and_the_message_names_both(rounds: Rounds) -> None:
    rounds.write(DONE)
    rounds.call()
    scratch = rounds.folder / "scratch"
    with small_disk(scratch, "1m"):
        target = scratch / "experiments/r"
        shutil.copytree(rounds.experiments / NAME, target, symlinks=True)
        shutil.rmtree(rounds.experiments / NAME)
        (rounds.experiments / NAME).symlink_to(target)
        before = snapshot(target)
        done = rounds.call("--archive")
        assert done.returncode == 2
        assert f"{target} and {archived(rounds)} are on different file systems" in done.stderr
        assert snapshot(target) == before
        command = done.stderr.partition("try again: ")[2].strip()
        subprocess.run(["sh", "-ec", command], check=True)
        assert rounds.call("--archive").returncode == 0, "the suggested commands help"
        assert set(rounds.states().values()) == {"completed"}
        assert {path: value[1] for path, value in snapshot(archived(rounds) / "experiments").items()} == {
            path: value[1] for path, value in before.items()
        }


def test_a_finished_round_moves_with_readme_round_file_and_environments(rounds: Rounds) -> None:
    rounds.write(DONE)
    assert rounds.call().returncode == 0
    before = {path: value[1] for path, value in snapshot(rounds.experiments / NAME).items()}
    done = rounds.call("--archive")
    assert done.returncode == 0, done.stderr
    assert "is archived" in done.stdout and "2 of 2 experiments completed" in done.stdout
    assert list(rounds.experiments.iterdir()) == []
    assert {path: value[1] for path, value in snapshot(archived(rounds) / "experiments").items()} == before
    assert (archived(rounds) / "r.yaml").read_bytes() == (rounds.rounds / "r.yaml").read_bytes()
    assert "filelock==" in (archived(rounds) / "packages.txt").read_text()
    readme = (archived(rounds) / "README.md").read_text()
    assert readme.startswith("# Round r\n") and "Halted" not in readme
    assert "2 experiments (commands" in readme and "jobs of local" in readme and "(UTC)" in readme


def test_seeds_are_one_setting_for_the_runner_and_in_the_archive_though_the_command_names_them(rounds: Rounds) -> None:
    rounds.write(DONE)
    shown = [line.split() for line in rounds.call().stdout.splitlines() if "±" in line]
    assert shown[-1] == ["ok/*", "2", "0.5000", "±", "0.7071"]
    assert rounds.call("--archive").returncode == 0
    assert "| ok/* | 2 | 0.5000 ± 0.7071 |" in (archived(rounds) / "README.md").read_text()


def test_the_archived_round_is_read_by_the_analysis_as_before(rounds: Rounds) -> None:
    rounds.write(DONE)
    rounds.call()
    place = Folders(rounds.experiments, rounds.rounds, rounds.analysis)
    before = {one.path: one.state for one in read_round(NAME, place).entries}
    rounds.call("--archive")
    assert {one.path: one.state for one in read_round(NAME, place).entries} == before
    assert len(before) == 2


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--cancel"], ["--retry"], ["--archive"]])
def test_no_call_of_the_runner_brings_an_archived_round_back(rounds: Rounds, options: list[str]) -> None:
    rounds.write(DONE)
    rounds.call()
    rounds.call("--archive")
    before = snapshot(rounds.folder)
    done = rounds.call(*options)
    assert done.returncode == 2
    assert "was archived" in done.stderr and "another name" in done.stderr
    assert snapshot(rounds.folder) == before


def test_an_archived_round_can_be_shown(rounds: Rounds) -> None:
    rounds.write(PARTLY)
    rounds.call()
    rounds.call("--archive", "--force")
    before = snapshot(rounds.folder)
    assert rounds.states() == {"ok/0": "completed", "ok/1": "completed", "bad": "cancelled", "late": "cancelled"}
    explained = rounds.call("--why", "ok/1")
    assert (
        explained.returncode == 0 and "state     completed" in explained.stdout and "was archived" in explained.stderr
    )
    assert "2 completed, 2 cancelled" in rounds.call("--status").stdout
    assert snapshot(rounds.folder) == before


def test_an_unfinished_round_is_archived_only_with_force_and_its_readme_reports_it(rounds: Rounds) -> None:
    rounds.write(PARTLY)
    assert rounds.call().returncode == 4
    before = snapshot(rounds.experiments / NAME)
    refused = rounds.call("--archive")
    assert refused.returncode == 2
    assert "2 of 4 experiments are not completed" in refused.stderr and "--force" in refused.stderr
    assert snapshot(rounds.experiments / NAME) == before
    assert not (archived(rounds) / "experiments").exists()

    assert rounds.call("--archive", "--force").returncode == 0
    readme = (archived(rounds) / "README.md").read_text()
    assert "**Archived unfinished**: 2 of 4 experiments are completed" in readme
    assert "1 pending" in readme and "1 failed" in readme
    never = record.read(archived(rounds) / "experiments" / "late")
    assert never.newest is not None and never.newest.cause is Cause.ARCHIVED, "what was never started is void"


def test_nothing_moves_while_an_attempt_is_open(rounds: Rounds) -> None:
    rounds.write({"slow": {"path": "slow", "command": ["bash", "-c", f"touch {rounds.notes}/going; sleep 60"]}})
    running = rounds.start()
    wait_for(lambda: (rounds.notes / "going").exists(), "the job runs")
    for options in (["--archive"], ["--archive", "--force"]):
        done = rounds.call(*options, timeout=90)
        assert done.returncode in (2, 3) and ("open attempt" in done.stderr or "another process" in done.stderr)
    assert (rounds.experiments / NAME / "slow").is_dir() and not (archived(rounds) / "experiments").exists()
    os.kill(running.pid, 2)
    finish(running)


def test_missing_records_and_wrong_options_are_reported(rounds: Rounds) -> None:
    rounds.write(DONE)
    assert "nothing to archive" in rounds.call("--archive").stderr
    assert "--force is only valid with --archive" in rounds.call("--force").stderr
    assert "--only is only valid with" in rounds.call("--archive", "--only", "ok/*").stderr
    assert not rounds.analysis.exists()


def test_an_unreadable_record_prevents_archiving(rounds: Rounds) -> None:
    rounds.write(DONE)
    rounds.call()
    (rounds.directory("ok/0") / "history.json").write_text("{")
    done = rounds.call("--archive", "--force")
    assert done.returncode == 2
    assert "ok/0: history.json is not valid JSON" in done.stderr
    assert (rounds.experiments / NAME).is_dir()


def test_text_that_the_user_wrote_into_the_readme_is_kept(rounds: Rounds) -> None:
    rounds.write(DONE)
    rounds.call()
    archived(rounds).mkdir(parents=True)
    (archived(rounds) / "README.md").write_text("my thoughts\n")
    rounds.call("--archive")
    assert (archived(rounds) / "README.md.before").read_text() == "my thoughts\n"
    assert (archived(rounds) / "README.md").read_text().startswith("# Round r")


def test_what_is_on_another_file_system_is_not_moved_in_parts(rounds: Rounds, tmp_path: Path) -> None:
    rounds.write(DONE)
    rounds.call()
    with small_disk(rounds.analysis, "1m"):
        before = snapshot(rounds.experiments / NAME)
        done = rounds.call("--archive")
        assert done.returncode == 2
        assert "different file systems" in done.stderr and "ln -s" in done.stderr
        assert snapshot(rounds.experiments / NAME) == before


# ---------------------------------------------------------------------------------------------- late processes


def mixed(tmp_path: Path) -> tuple[Archive, Round]:
    """A round with experiments in all states but running, and where its archive will be."""
    experiments, rounds = tmp_path / "experiments", tmp_path / "rounds"
    rounds.mkdir()
    write_mixed(experiments, rounds, epochs=1, examples=20)
    loaded = load_round("mixed", rounds)
    archive = Archive.of("mixed", experiments, tmp_path / "analysis")
    places = {one.path: archive.source / one.path for one in loaded.experiments}
    for row in offline.statuses(loaded.experiments, places).values():
        rec = row.record
        if rec.damage:
            (rec.directory / record.HISTORY).unlink()
            for name in (record.JOB, record.CLAIM, record.RESULT):
                (record.attempt_directory(rec.directory, 1) / name).unlink()
        elif rec.newest is not None and not rec.newest.closed:
            if rec.newest.claim is None:
                record.void(rec.directory, rec.newest.number, Cause.CANCELLED, "for the test")
            else:
                record.close(rec.directory, rec.newest.number, Cause.CANCELLED, "for the test")
    return archive, loaded


def unfinished(archive: Archive, loaded: Round) -> Experiment:
    return next(one for one in loaded.experiments if record.read(archive.source / one.path).completed is None)


def opened(experiment: Experiment) -> Opened:
    return Opened(record.new_token(), {"kind": "local"}, experiment.config_hash(), {})


def test_a_runner_that_was_at_work_opens_nothing_once_the_round_has_moved(tmp_path: Path) -> None:
    archive, loaded = mixed(tmp_path)
    archive_round.archive_round(archive, loaded, force=True)
    for experiment in loaded.experiments:
        for number in (1, 2, 3):
            late = record.open_attempt(archive.source / experiment.path, number, opened(experiment), archive.source)
            assert not late
    assert not archive.source.exists()
    with pytest.raises(RoundhouseError, match="was archived"):
        make_directory(archive)
    assert not archive.source.exists()


def test_every_experiment_that_was_not_completed_is_closed_for_ever(tmp_path: Path) -> None:
    archive, loaded = mixed(tmp_path)
    archive_round.archive_round(archive, loaded, force=True)
    for experiment in loaded.experiments:
        rec = record.read(archive.records / experiment.path)
        assert rec.newest is not None and rec.newest.closed, experiment.path
        assert rec.completed or rec.newest.cause is Cause.ARCHIVED


def test_an_attempt_that_is_opened_while_the_round_moves_is_voided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, loaded = mixed(tmp_path)
    victim = unfinished(archive, loaded)
    real = archive_round._move
    number = record.read(archive.source / victim.path).next_number + 1

    def late(source: Path, target: Path) -> None:
        if source == archive.source:
            rec = record.read(source / victim.path)
            assert record.open_attempt(source / victim.path, rec.next_number, opened(victim))
        real(source, target)

    monkeypatch.setattr(archive_round, "_move", late)
    archive_round.archive_round(archive, loaded, force=True)
    newest = record.read(archive.records / victim.path).newest
    assert newest is not None and newest.number == number and newest.cause is Cause.ARCHIVED


@pytest.mark.parametrize("link", [False, True])
def test_a_job_that_starts_while_the_round_moves_brings_it_back_and_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    archive, loaded = mixed(tmp_path)
    if link:
        linked(archive.source, tmp_path / "scratch/mixed", True)
    victim = unfinished(archive, loaded)
    real = archive_round._move
    stored = archive.stored

    def late(source: Path, target: Path) -> None:
        if source == stored:
            rec = record.read(source / victim.path)
            record.open_attempt(source / victim.path, rec.next_number, opened(victim))
            claim = record.attempt_directory(source / victim.path, rec.next_number) / record.CLAIM
            claim.write_text('{"version": 1, "nonce": "job", "job_id": "7", "host": "h", "at": 5}')
        real(source, target)

    monkeypatch.setattr(archive_round, "_move", late)
    with pytest.raises(RoundhouseError, match="a job started meanwhile"):
        archive_round.archive_round(archive, loaded, force=True)
    assert not archive.there
    newest = record.read(archive.source / victim.path).newest
    assert newest is not None and not newest.closed


@settings(max_examples=20, deadline=None)
@given(text=st.text(min_size=0, max_size=40))
def test_the_readme_is_valid_whatever_settings_are_called(text: str) -> None:
    from roundhouse.views.results import SettingResults

    lines = archive_documents._table(
        [SettingResults(f"a|{text}".replace("\n", " ").replace("\r", " "), 1, {"loss": [1.0]})]
    )
    assert len(lines) == 5
    assert lines[-1].count("|") - lines[-1].count("\\|") >= 4


def test_two_archivings_at_once_leave_one_archive(rounds: Rounds) -> None:
    rounds.write(DONE)
    rounds.call()
    both = [rounds.start("--archive") for _ in range(2)]
    codes = sorted(finish(one)[0] for one in both)
    assert codes[0] == 0 and codes[1] in (2, 3)
    assert len(list((archived(rounds) / "experiments").iterdir())) == 1
    assert not (rounds.experiments / NAME).exists()

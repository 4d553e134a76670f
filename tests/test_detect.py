"""Which scheduler is found on a machine, and what is no scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcripts import replay, transcript

from roundhouse.errors import RoundhouseError
from roundhouse.schedulers.base import Output
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.slurm import Slurm

SLURM = "slurm_transcripts"
USER = "me"


def said(code: int | None, stdout: str = "", stderr: str = "") -> Output:
    return Output(("sbatch",), code, stdout, stderr)


def commands_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_sbatch_without_a_cluster_means_the_local_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands_on_path(tmp_path, monkeypatch, "sbatch")
    run = replay({"sbatch --version": transcript(SLURM, "sbatch_no_cluster")})
    scheduler, remark = detect("auto", USER, run)
    assert scheduler is None
    assert "no cluster is configured" in remark
    with pytest.raises(RoundhouseError, match="no cluster is configured"):
        detect("slurm", USER, run)
    with pytest.raises(RoundhouseError, match="no cluster on this host: .*Nothing was run on the local machine"):
        detect("cluster", USER, run)


@pytest.mark.parametrize(
    "answer",
    [
        said(None, "", "no answer within 60 s."),
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


def test_without_scheduler_commands_the_local_machine_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands_on_path(tmp_path, monkeypatch)
    assert detect("auto", USER, replay({})) == (None, "")
    assert detect("local", USER, replay({})) == (None, "")
    with pytest.raises(RoundhouseError, match="neither sbatch nor qsub"):
        detect("cluster", USER, replay({}))


@pytest.mark.parametrize(("kind", "command"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_requested_scheduler_must_be_on_this_host(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_on_path(tmp_path, monkeypatch)
    with pytest.raises(RoundhouseError, match=f"no command '{command}'"):
        detect(kind, USER, replay({}))

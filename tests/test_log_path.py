"""Logs of jobs are where they should be, whatever characters the path of the project or experiment contains."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cluster_helpers import WORK_REMAINS, ClusterRounds, pbs_rounds
from fake_pbs import FakePBS
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.engine.log_path import PLAIN, plain_path
from roundhouse.store import logs

ODD = ["it's mine", 'say "x"', "größe", "100% %j", "a:b,c", "$HOME;#1"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_plain_path_stays_as_it_is_and_needs_no_link(home: Path) -> None:
    path = Path("/scratch/ann/my-project_2/experiments/r/lr=0.1+x@y/attempts/1/scheduler.log")
    assert plain_path(path) == path
    assert not list(home.iterdir())


@pytest.mark.parametrize("odd", ODD)
def test_any_other_is_reached_by_a_link_that_is_made_once(odd: str, home: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        path = tmp_path / odd / "experiments" / name / "log"
        path.parent.mkdir(parents=True)
        plain = plain_path(path)
        assert plain is not None and PLAIN.fullmatch(str(plain))
        plain.write_text(name)
        assert path.read_text() == name
    assert len(list((home / ".roundhouse" / "links").iterdir())) == 1


def test_without_a_plain_home_there_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    assert plain_path(tmp_path / "a b" / "log") is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert plain_path(tmp_path / "a b" / "log") is None


@given(
    st.lists(st.text(min_size=1).filter(lambda part: "/" not in part and "\0" not in part and part not in ("..", ".")))
)
def test_whatever_path_there_is_the_other_holds_plain_characters_only(parts: list[str]) -> None:
    written = Path("/nowhere", *(part.encode(errors="replace").decode() for part in parts), "log")
    with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, HOME=home):
        path = plain_path(written)
        assert path is None or PLAIN.fullmatch(str(path))


def complete(rounds: ClusterRounds, *names: str, **resources: Any) -> None:
    """Experiments of these names come to their end, in one attempt each."""
    rounds.extra["HOME"] = os.environ["HOME"]  # without odd characters, as homes are
    rounds.write_steps(*names, resources=resources)
    rounds.release(*names)
    assert rounds.call().returncode == WORK_REMAINS
    rounds.pass_until_done()
    assert [rounds.causes(name) for name in names] == [["completed"]] * len(names)


def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "".join(ODD).replace(":", "")  # commands get lists of directories, separated by it
    folder.mkdir()
    return folder


@pytest.fixture
def pbs(fake_pbs: FakePBS, home: Path, tmp_path: Path) -> Iterator[ClusterRounds]:
    with pbs_rounds(fake_pbs, odd_folder(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("array", [False, True])
def test_on_pbs_the_log_of_each_job_is_where_the_tools_expect_it(
    array: bool, fake_pbs: FakePBS, pbs: ClusterRounds
) -> None:
    complete(pbs, "a", "b", array=array)
    submitted = [words[1] for words in fake_pbs.commands() if words[0] == "qsub"]
    assert all(PLAIN.fullmatch(path) for path in submitted)
    for index, name in enumerate("ab"):
        (shared,) = (pbs.experiments / "r" / ".jobs").iterdir() if array else [None]
        log = shared / f"log.{index}" if shared else pbs.attempt(name) / "scheduler.log"
        assert log.exists()
        log.write_text(f"the node speaks of {name}\n")
        assert f"the node speaks of {name}" in logs.tail(pbs.directory(name), 1)
        assert f"the node speaks of {name}" in pbs.call("--why", name).stdout


def test_on_pbs_an_odd_experiment_harms_no_other(fake_pbs: FakePBS, home: Path, tmp_path: Path) -> None:
    with pbs_rounds(fake_pbs, tmp_path) as rounds:
        names = [one for one in ODD if "$" not in one and ":" not in one]
        complete(rounds, "a", *names)
        assert all((rounds.attempt(name) / "scheduler.log").exists() for name in ("a", *names))


@pytest.mark.cluster
@pytest.mark.parametrize("through", ["slurm", "torque"])
@pytest.mark.parametrize("array", [False, True])
def test_on_a_real_slurm_the_log_of_each_job_is_where_it_belongs(
    array: bool, through: str, request: pytest.FixtureRequest, home: Path, tmp_path: Path
) -> None:
    rounds: ClusterRounds = request.getfixturevalue(through)
    made = ClusterRounds(folder=odd_folder(tmp_path), extra=rounds.extra, scheduler=rounds.scheduler)
    try:
        complete(made, "a", "b", array=array)
        (shared,) = (made.experiments / "r" / ".jobs").iterdir() if array else [None]
        if shared and through == "torque":  # its tasks share a log
            assert (shared / "log").exists()
        else:
            assert all((made.attempt(name) / "scheduler.log").exists() for name in "ab")
    finally:
        made.kill()

"""Permissions of a record: they follow the folder of the records, or the site file, with any umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_helpers import ClusterRounds, pbs_rounds
from fake_pbs import FakePBS
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import Bench, Rounds

from roundhouse.config.site import Site, load_site
from roundhouse.errors import RoundhouseError
from roundhouse.files import make_shared_directory, umask_for

GROUP = 54321  # which has no members
WRITES = "mkdir results; echo x > results/x; umask > shell.umask; sleep 0.1"


def modes(folder: Path) -> dict[str, int]:
    """The permissions of everything in a folder except locks, which only runners use."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in sorted(folder.rglob("*"))}


def unreadable(folder: Path, bits: int) -> list[str]:
    """The entries of a folder without all of these read permissions (and, for directories, search permissions)."""
    found = []
    for path in sorted(folder.rglob("*")):
        wanted = bits if path.is_dir() else bits & 0o444
        if path.stat().st_mode & wanted != wanted:
            found.append(f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}")
    return found


@pytest.fixture
def strict() -> Iterator[None]:
    """Runs the test, and everything it starts, under umask 077."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("mode", "present", "expected"),
    [
        (0o755, 0o077, 0o022), (0o750, 0o077, 0o027), (0o770, 0o077, 0o007), (0o775, 0o077, 0o002),
        (0o700, 0o077, 0o077), (0o700, 0o022, 0o022), (0o777, 0o077, 0o002), (0o2770, 0o027, 0o007),
        (0o711, 0o077, 0o066),
    ],
)  # fmt: skip
def test_the_umask_follows_the_folder(tmp_path: Path, mode: int, present: int, expected: int) -> None:
    tmp_path.chmod(mode)
    assert f"{umask_for(tmp_path, present):03o}" == f"{expected:03o}"
    assert umask_for(tmp_path / "not" / "there", present) == umask_for(tmp_path, present)


@given(mode=st.integers(0o700, 0o777), present=st.integers(0, 0o77))
def test_the_umask_is_never_stricter_and_never_wider_than_the_folder(
    tmp_path_factory: pytest.TempPathFactory, mode: int, present: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "folder"
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    mask = umask_for(folder, present)
    assert mask & ~present == 0, "never stricter"
    given_now = present & ~mask
    assert given_now & ~mode == 0, "what it gives, the folder gives"
    assert not given_now & 0o002, "others never get the right to write"


def test_a_new_directory_has_the_group_of_its_parent_and_passes_it_on(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to any group")
    os.chown(tmp_path, -1, GROUP)
    make_shared_directory(tmp_path / "experiments" / "r")
    for place in (tmp_path / "experiments", tmp_path / "experiments" / "r"):
        assert place.stat().st_gid == GROUP
        assert place.stat().st_mode & stat.S_ISGID
    (tmp_path / "experiments" / "r" / "file").touch()
    assert (tmp_path / "experiments" / "r" / "file").stat().st_gid == GROUP


def test_a_directory_that_exists_or_has_the_group_already_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o700)
    make_shared_directory(tmp_path / "there")
    make_shared_directory(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700
    assert not (tmp_path / "new").stat().st_mode & stat.S_ISGID


@pytest.mark.parametrize(("written", "expected"), [("'027'", "027"), ("'0027'", None), ("'27'", "027"), ("27", None)])
def test_a_site_file_can_set_the_umask(tmp_path: Path, written: str, expected: str | None) -> None:
    (tmp_path / "x.yaml").write_text(f"umask: {written}\n")
    if expected is None:
        with pytest.raises(RoundhouseError, match="x.yaml:1: umask"):
            load_site("x", tmp_path, "h")
    else:
        assert load_site("x", tmp_path, "h").umask == expected


def test_a_job_whose_login_shell_sets_another_umask_uses_that_of_the_site(bench: Bench) -> None:
    """For example /etc/profile on a node, whatever the job requests."""
    bench.site = Site(umask="027")
    bench.train('cd "$1" && umask > shell.umask')
    bench.open()
    bench.start(umask=0o077).communicate(timeout=60)
    assert (bench.directory / "shell.umask").read_text() == "0027\n"
    written = [bench.place() / name for name in ("claim.json", "out.log", "result.json")]
    assert {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in written} == {"640"}


# ---------------------------------------------------------------------------------------------------- whole rounds


@pytest.mark.usefixtures("strict")
def test_other_users_can_read_all_files_of_a_local_round(rounds: Rounds) -> None:
    """A study with its checkpoints and metrics, in a shell with umask 077."""
    rounds.folder.chmod(0o750)
    rounds.write("""\
round: digits
study: distillation
resources: {ngpus: 1}
defaults: {device: cpu, dataset: digits, epochs: 1, batch_size: 64, lr: 0.1, seed: 0}
experiments:
  teacher: {path: "pure/{model}", config: {model: ResNet8, method: pure}}
""", "digits")  # fmt: skip
    done = rounds.call(name="digits", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (rounds.directory("pure/ResNet8", "digits") / "best.pth").exists()
    assert unreadable(rounds.experiments, 0o050) == []
    # The mode of the lock, which holds nothing, is that of the library.
    assert not [name for name, mode in modes(rounds.experiments).items() if mode & 0o007 and name != ".digits.lock"]
    archived = rounds.call("--archive", name="digits")
    assert archived.returncode == 0, archived.stderr
    assert unreadable(rounds.analysis, 0o050) == []


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "resources", [{}, {"array": True}, {"pack": {"slots": 2}, "ncpus": 2}], ids=["one", "array", "pack"]
)
def test_other_users_can_read_all_files_of_a_round_on_pbs(
    fake_pbs: FakePBS, tmp_path: Path, resources: dict[str, object]
) -> None:
    """PBS starts jobs under umask 077, unless the job requests another."""
    with pbs_rounds(fake_pbs, tmp_path) as rounds:
        rounds.folder.chmod(0o755)
        command = ["bash", "-c", f"cd {{directory}}; {WRITES}; echo seen"]
        rounds.write({"all": {"path": "{a}", "grid": {"a": [1, 2]}, "command": command, "resources": resources}})
        rounds.pass_until_done()
        assert len([*rounds.experiments.rglob("results/x")]) == 2
        assert [path for name in ("scheduler.log", "log", "log.*") for path in rounds.experiments.rglob(name)]
        assert unreadable(rounds.experiments, 0o055) == []


@pytest.mark.usefixtures("strict")
def test_the_umask_of_the_site_file_has_priority(fake_pbs: FakePBS, tmp_path: Path) -> None:
    with pbs_rounds(fake_pbs, tmp_path, umask="037") as rounds:
        rounds.folder.chmod(0o755)
        rounds.write({"all": {"path": "a", "command": ["bash", "-c", f"cd {{directory}}; {WRITES}"]}})
        rounds.pass_until_done()
        (umask,) = rounds.experiments.rglob("shell.umask")
        assert umask.read_text().strip() == "0037"
        assert unreadable(rounds.experiments / "r", 0o040) == []
        assert not [name for name, mode in modes(rounds.experiments / "r").items() if mode & 0o037]


@pytest.mark.cluster
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("through", ["slurm", "torque"])
def test_other_users_can_read_all_files_of_a_round_on_slurm(request: pytest.FixtureRequest, through: str) -> None:
    rounds: ClusterRounds = request.getfixturevalue(through)
    rounds.folder.chmod(0o755)
    rounds.write({"all": {"path": "a", "command": ["bash", "-c", f"cd {{directory}}; {WRITES}"]}})
    rounds.pass_until_done()
    assert [*rounds.experiments.rglob("scheduler.log")]
    assert unreadable(rounds.experiments, 0o055) == []

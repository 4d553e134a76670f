"""Copies of the code: what belongs to the tree, the hash of its state, and that a copy is complete or absent."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY, fill, small_disk

from roundhouse.config.paths import path_fault
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Attempt, Claim, Opened, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import code_copy, code_tree

ODD_NAMES = [
    "with space.py", "with\nnewline.py", "it's \"quoted\".py", "-dash.py", "$HOME;`ls`.py", "ünï.py", "back\\slash.py",
    os.fsdecode(b"not-utf-8-\xff.py"), "#hash.py", "tab\there.py",
]  # fmt: skip


@pytest.fixture(params=["git", "no git"])
def code(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tree of code, in git or not."""
    return make_tree(tmp_path / "code", request.param == "git")


@pytest.fixture
def in_git(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "code", True)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    (tmp_path / "round").mkdir()
    return tmp_path / "round" / code_copy.COPIES


def make_tree(folder: Path, with_git: bool) -> Path:
    write(folder, {"train.py": "train", "package/__init__.py": "", "package/module.py": "one = 1\n"})
    if with_git:
        write(folder, {".gitignore": "__pycache__/\n/data\n/experiments/*\n"})
        git(folder, "init", "-q")
        commit(folder)
    return folder


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", *identity, "-C", folder, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "state")
    return git(folder, "rev-parse", "HEAD")


def state(folder: Path) -> str:
    return code_tree.state_of(code_tree.entries_of(folder))


def paths(folder: Path) -> set[str]:
    return {entry.path for entry in code_tree.entries_of(folder)}


def files_in(copy: Path) -> set[str]:
    """What was copied."""
    found = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file() and not path.is_symlink()}
    return found - {code_copy.ABOUT}


# ---------------------------------------------------------------------------------------------- the state of a tree


def test_the_same_content_is_the_same_state_wherever_and_whenever_it_was_written(code: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "folder"
    shutil.copytree(code, elsewhere)
    os.utime(elsewhere / "train.py", (1, 1))
    (elsewhere / "train.py").chmod(0o600)
    assert state(elsewhere) == state(code)


def test_every_change_of_the_code_is_another_state(code: Path) -> None:
    seen = {state(code)}

    def is_new() -> bool:
        known = len(seen)
        seen.add(state(code))
        return len(seen) > known

    write(code, {"package/module.py": "one = 2\n"})
    assert is_new(), "a file of the same length"
    write(code, {"package/added.py": ""})
    assert is_new(), "a file that git does not track"
    (code / "package/added.py").rename(code / "package/renamed.py")
    assert is_new(), "a name"
    (code / "train.py").chmod(0o755)
    assert is_new(), "a file that can be run"
    (code / "package/renamed.py").unlink()
    assert is_new(), "a file less"
    (code / "link").symlink_to("train.py")
    assert is_new(), "a link"
    (code / "link").unlink()
    (code / "link").symlink_to("package")
    assert is_new(), "another target"


def test_what_git_ignores_is_no_code(in_git: Path) -> None:
    before = state(in_git)
    write(in_git, {"data/x": "x", "experiments/r/e/status.json": "{}", "package/__pycache__/module.pyc": "x"})
    assert state(in_git) == before
    (in_git / "data/x").unlink()
    (in_git / "data").rmdir()
    (in_git / "data").symlink_to("/usr/share")
    assert state(in_git) == before


def test_a_file_that_git_tracks_and_that_is_gone_is_left_out(in_git: Path) -> None:
    (in_git / "package/module.py").unlink()
    assert "package/module.py" not in paths(in_git)


def test_without_git_records_data_caches_and_environments_are_no_code(tmp_path: Path) -> None:
    code = make_tree(tmp_path / "code", False)
    before = state(code)
    write(code, {"data/x": "", "experiments/x": "", "build/x": "", "package/__pycache__/x.pyc": "", ".hidden/x": ""})
    write(code, {"env/pyvenv.cfg": "", "env/bin/python": "", "name.egg-info/x": "", ".env": ""})
    assert state(code) == before
    write(code, {"package/data/loader.py": ""})
    assert "package/data/loader.py" in paths(code)


def test_where_git_tracks_nothing_of_the_folder_the_disk_is_read(tmp_path: Path) -> None:
    """A home directory in git that ignores all but a few files."""
    write(tmp_path, {".gitignore": "*\n"})
    git(tmp_path, "init", "-q")
    code = make_tree(tmp_path / "code", False)
    assert paths(code) == {"train.py", "package/__init__.py", "package/module.py"}


def test_a_part_of_a_larger_repository_is_a_tree(tmp_path: Path) -> None:
    write(tmp_path, {"thesis.tex": ""})
    code = make_tree(tmp_path / "code", False)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    assert paths(code) == {"train.py", "package/__init__.py", "package/module.py"}


def test_a_repository_within_the_repository_is_code(in_git: Path) -> None:
    inner = make_tree(in_git / "third_party", True)
    write(inner, {"data/big": ""})
    assert {"third_party/train.py", "third_party/package/module.py"} <= paths(in_git)
    assert "third_party/data/big" not in paths(in_git)


def test_records_are_left_out_wherever_they_lie(in_git: Path, copies: Path) -> None:
    write(in_git, {"runs/r/e/status.json": "{}", "analysis/experiment_r/experiments/x": "", "analysis/plot.py": ""})
    place = code_copy.Copies(in_git, in_git / "runs", in_git / "analysis")
    entries = code_tree.entries_of(in_git, place._left_out())
    assert {one.path for one in entries} >= {"analysis/plot.py", "train.py"}
    assert not [one.path for one in entries if one.path.startswith(("runs", "analysis/experiment_"))]


def test_what_is_too_much_to_be_code_is_refused_by_name(
    code: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(code, {"weights/a.pth": "x" * 5000})
    with monkeypatch.context() as patch:
        patch.setattr(code_tree, "MOST_BYTES", 4000)
        with pytest.raises(RoundhouseError, match=r"cannot be copied: \d files, .* most of them in weights"):
            code_copy.take(code, copies)
    monkeypatch.setattr(code_tree, "MOST_FILES", 3)
    with pytest.raises(RoundhouseError, match="more than 3 files"):
        code_copy.take(code, copies)


# ---------------------------------------------------------------------------------------------- links


def test_links_within_the_tree_stay_links_and_lead_to_the_copy(code: Path, copies: Path) -> None:
    (code / "relative").symlink_to("package/module.py")
    (code / "package/absolute").symlink_to(code / "train.py")
    (code / "folder").symlink_to(code / "package")
    (code / "nowhere").symlink_to("not/there")
    copy = copies / code_copy.take(code, copies)
    assert os.readlink(copy / "relative") == "package/module.py"
    assert os.readlink(copy / "package/absolute") == "../train.py"
    assert os.readlink(copy / "folder") == "package"
    assert os.readlink(copy / "nowhere") == "not/there"
    write(code, {"train.py": "edited"})
    assert (copy / "package/absolute").read_text() == "train"


def test_links_out_of_the_tree_are_followed_and_what_they_lead_to_is_copied(code: Path, copies: Path) -> None:
    outside = make_tree(code.parent / "outside", False)
    (outside / "inner").symlink_to("package")
    (code / "library").symlink_to(outside)
    (code / "tool.py").symlink_to(outside / "train.py")
    copy = copies / code_copy.take(code, copies)
    write(outside, {"train.py": "edited", "package/module.py": "edited"})
    assert (copy / "tool.py").read_text() == "train"
    assert (copy / "library/package/module.py").read_text() == "one = 1\n"
    assert os.readlink(copy / "library/inner") == "package"
    assert code_copy.take(code, copies) != copy.name


def test_links_in_a_circle_come_to_an_end(code: Path, copies: Path) -> None:
    outside = make_tree(code.parent / "outside", False)
    (code / "out").symlink_to(outside)
    (outside / "back").symlink_to(code)
    (code / "itself").symlink_to(".")
    (code / "loop").symlink_to("loop")
    copy = copies / code_copy.take(code, copies)
    assert (copy / "out/train.py").is_file()
    assert os.readlink(copy / "itself") == "."


def test_the_checkouts_of_the_tests_can_be_copied_though_they_are_links(tmp_path: Path, copies: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("train.py", "roundhouse", "templates", "studies"):
        (checkout / name).symlink_to(REPOSITORY / name)
    copy = copies / code_copy.take(checkout, copies)
    within = "roundhouse/store/code_copy.py"
    assert (copy / within).read_bytes() == (REPOSITORY / within).read_bytes()
    assert not list(copy.rglob("__pycache__"))
    assert not [path for path in copy.rglob("*") if path.is_symlink()]


# ---------------------------------------------------------------------------------------------- a copy


def test_a_copy_holds_the_code_and_says_what_it_is(in_git: Path, copies: Path) -> None:
    head = git(in_git, "rev-parse", "HEAD")
    copy = copies / code_copy.take(in_git, copies)
    assert files_in(copy) == paths(in_git)
    assert (copy / "package/module.py").read_text() == "one = 1\n"
    assert code_copy.code_state(copy) == {"commit": head, "edited": False, "code": copy.name}
    write(in_git, {"new.py": ""})
    assert code_copy.code_state(in_git) == {"commit": head, "edited": False}
    edited = copies / code_copy.take(in_git, copies)
    assert code_copy.code_state(edited) == {"commit": head, "edited": True, "code": edited.name}
    assert code_copy.code_state(copy)["edited"] is False


def test_a_copy_without_git_has_no_commit(tmp_path: Path, copies: Path) -> None:
    copy = copies / code_copy.take(make_tree(tmp_path / "code", False), copies)
    assert code_copy.code_state(copy) == {"commit": None, "edited": None, "code": copy.name}


def test_a_copy_made_in_a_git_hook_of_another_repository_is_of_this_tree(
    in_git: Path, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, other = git(in_git, "rev-parse", "HEAD"), make_tree(tmp_path / "other", True)
    write(other, {"secret.py": ""})
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    copy = copies / code_copy.take(in_git, copies)
    assert "secret.py" not in files_in(copy)
    assert code_copy.code_state(copy) == {"commit": head, "edited": False, "code": copy.name}


@pytest.fixture
def of_another_user(in_git: Path) -> Path:
    if os.getuid() != 0:
        pytest.skip("only root can give files to another user")
    subprocess.run(["chown", "-R", "65534:65534", in_git], check=True)
    return in_git


def test_a_checkout_of_another_user_has_no_commit_and_the_reason_is_recorded(of_another_user: Path) -> None:
    state = code_copy.code_state(of_another_user)
    assert (state["commit"], state["edited"]) == (None, None)
    assert state["git_refusal"] == (
        f"git refuses {of_another_user}, since another user owns it (dubious ownership). "
        f"To allow it: git config --global --add safe.directory {of_another_user}"
    )
    assert code_copy.command_state(of_another_user, ["python", "train.py"], of_another_user) == state


def test_a_checkout_of_another_user_is_not_copied_without_the_rules_of_git(of_another_user: Path, copies: Path) -> None:
    """Without them, files that git ignores would be copied."""
    with pytest.raises(RoundhouseError, match=r"git does not list it: .* --add safe.directory") as raised:
        code_copy.take(of_another_user, copies)
    assert "\n" not in str(raised.value)
    assert files_in(copies) == set()


def test_a_damaged_repository_is_an_error_and_not_a_tree_without_git(in_git: Path, copies: Path) -> None:
    (in_git / ".git/index").write_bytes(b"damaged")
    with pytest.raises(RoundhouseError, match="git does not list it: "):
        code_copy.take(in_git, copies)


def test_a_copy_is_in_the_state_that_it_is_named_by(code: Path, copies: Path) -> None:
    write(code, dict.fromkeys(ODD_NAMES, "odd"))
    (code / "package/module.py").chmod(0o755)
    copy = copies / code_copy.take(code, copies)
    assert set(ODD_NAMES) <= files_in(copy)
    entries = [
        replace(one, source=copy / one.path, status=(copy / one.path).lstat()) for one in code_tree.entries_of(code)
    ]
    copied = code_tree.state_of(entries)
    assert copied.startswith(copy.name)
    assert code_copy.is_whole(copy)


def test_the_files_of_a_copy_are_protected_and_as_private_as_before(code: Path, copies: Path) -> None:
    (code / "package/module.py").chmod(0o700)
    (code / "train.py").chmod(0o660)
    copy = copies / code_copy.take(code, copies)
    assert stat.S_IMODE((copy / "package/module.py").stat().st_mode) == 0o500
    assert stat.S_IMODE((copy / "train.py").stat().st_mode) == 0o440


def test_what_is_not_copied_is_found_by_the_same_path(in_git: Path, copies: Path) -> None:
    write(in_git, {".gitignore": "*.npz\n/weights\n.env\n__pycache__/\n", "data/README": "", "data/sub/README": ""})
    write(in_git, {"data/a.npz": "a", "data/sub/b.npz": "b", "weights/w": "w", ".env": "e"})
    write(in_git, {"package/__pycache__/module.pyc": ""})
    copy = copies / code_copy.take(in_git, copies)
    found = ("data/a.npz", "data/sub/b.npz", "weights/w", ".env")
    assert [(copy / name).read_text() for name in found] == ["a", "b", "w", "e"]
    assert files_in(copy) == paths(in_git)
    assert not (copy / ".git").exists()
    assert not (copy / "package/__pycache__").exists()
    write(in_git, {"more.npz": "more"})
    assert copies / code_copy.take(in_git, copies) == copy
    assert (copy / "more.npz").read_text() == "more"


def test_very_many_data_files_next_to_code_are_refused(
    in_git: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(in_git, {".gitignore": "*.npz\n", "data/README": "", **{f"data/{n}.npz": "" for n in range(5)}})
    monkeypatch.setattr(code_tree, "MOST_LINKS", 4)
    with pytest.raises(RoundhouseError, match="/data holds more than 4 files that are not code"):
        code_copy.take(in_git, copies)


def test_a_tree_without_train_py_is_refused(code: Path, copies: Path) -> None:
    (code / "train.py").unlink()
    with pytest.raises(RoundhouseError, match="contains no train.py to copy"):
        code_copy.take(code, copies)


# ---------------------------------------------------------------------------------------------- making it


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Whither the code was read, each time that it was."""
    seen: list[Path | None] = []

    def reading(entries: Sequence[code_tree.Entry], copy: Path | None = None) -> str:
        seen.append(copy)
        return code_tree.state_of(entries, copy)

    monkeypatch.setattr(code_copy, "state_of", reading)
    return seen


def test_while_nothing_changes_nothing_is_read(code: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_copy, "_RECENT", -3600.0)
    first = code_copy.take(code, copies)
    readings = count_readings(monkeypatch)
    assert code_copy.take(code, copies) == first
    assert not readings
    write(code, {"package/module.py": "one = 2\n"})
    assert code_copy.take(code, copies) != first
    write(code, {"package/module.py": "one = 1\n"})
    assert code_copy.take(code, copies) == first
    assert [copy is not None for copy in readings] == [False, True, False], "the state of before has its copy"


def test_a_file_that_has_changed_just_now_is_not_trusted_to_its_time(
    code: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_copy, "_RECENT", 3600.0)
    first = code_copy.take(code, copies)
    readings = count_readings(monkeypatch)
    assert code_copy.take(code, copies) == first
    assert readings == [None]


def test_runners_that_make_one_copy_at_once_have_the_same(code: Path, copies: Path) -> None:
    write(code, {f"package/module_{number}.py": str(number) for number in range(50)})
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: code_copy.take(code, copies), range(8)))
    assert len(made) == 1
    assert code_copy.is_whole(copies / made.pop())
    assert not list(copies.glob(".draft-*"))


def test_a_maker_that_is_killed_leaves_no_half_copy_behind(code: Path, copies: Path) -> None:
    die = (
        "import os, signal, sys; from pathlib import Path; from roundhouse.store import code_copy;"
        "os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL);"
        "code_copy.take(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", die, str(code), str(copies)], cwd=REPOSITORY, check=False)
    assert done.returncode == -9
    (left,) = copies.glob("*")
    assert left.name.startswith(".draft-")
    made = code_copy.take(code, copies)
    assert code_copy.is_whole(copies / made)
    assert left.exists(), "it could be another runner's, which is at work"
    os.utime(left, (1, 1))
    code_copy.take(code, copies)
    assert not left.exists()


def test_a_tree_that_changes_while_it_is_copied_is_copied_again(
    code: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = iter(["edited\n"])

    def edit_in_between(entries: Sequence[code_tree.Entry], copy: Path | None = None) -> str:
        if copy is not None:
            for text in edits:
                write(code, {"package/module.py": text})
        return code_tree.state_of(entries, copy)

    monkeypatch.setattr(code_copy, "state_of", edit_in_between)
    copy = copies / code_copy.take(code, copies)
    assert (copy / "package/module.py").read_text() == "edited\n"
    assert state(code).startswith(copy.name)
    edits = (f"edit {number}" for number in range(100))
    write(code, {"package/module.py": "again"})

    def edit_always(entries: Sequence[code_tree.Entry], copy: Path | None = None) -> str:
        write(code, {"package/module.py": next(edits)})
        return code_tree.state_of(entries, copy)

    monkeypatch.setattr(code_copy, "state_of", edit_always)
    with pytest.raises(RoundhouseError, match="change while they are copied: call runner.py again"):
        code_copy.take(code, copies)
    assert {path.name for path in copies.iterdir() if path.is_dir()} == {copy.name}


def test_a_file_that_vanishes_while_it_is_copied_is_no_failure(
    code: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(entries: Sequence[code_tree.Entry], copy: Path | None = None) -> str:
        (code / "package/module.py").unlink(missing_ok=True)
        return code_tree.state_of(entries, copy)

    monkeypatch.setattr(code_copy, "state_of", remove)
    assert "package/module.py" not in files_in(copies / code_copy.take(code, copies))


def test_a_copy_that_has_lost_a_file_is_incomplete_and_is_made_again(code: Path, copies: Path) -> None:
    copy = copies / code_copy.take(code, copies)
    (copy / "package/module.py").unlink()
    assert not code_copy.is_whole(copy)
    assert copies / code_copy.take(code, copies) == copy
    assert code_copy.is_whole(copy)
    (copy / "train.py").unlink()
    (copy / "train.py").write_text("shorter or longer")
    assert not code_copy.is_whole(copy)
    (copy / code_copy.ABOUT).write_text("[]")
    assert not code_copy.is_whole(copy)
    code_copy.take(code, copies)
    assert code_copy.is_whole(copy)
    assert not list(copies.glob(".draft-*"))


def test_on_a_full_disk_no_copy_is_made_and_no_draft_is_left(code: Path, tmp_path: Path) -> None:
    write(code, {"package/large.py": "x" * 100_000})
    with small_disk(tmp_path / "disk", "256k"):
        copies = tmp_path / "disk" / code_copy.COPIES
        ballast = fill(tmp_path / "disk")
        with pytest.raises(OSError, match="No space left"):
            code_copy.take(code, copies)
        ballast.write_bytes(b"x" * 150_000)
        with pytest.raises(OSError, match="No space left"):
            code_copy.take(code, copies)
        assert not list(copies.glob("*"))
        ballast.unlink()
        assert code_copy.is_whole(copies / code_copy.take(code, copies))


def test_a_round_that_was_archived_meanwhile_is_not_created_again(code: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        code_copy.take(code, tmp_path / "gone" / code_copy.COPIES)
    assert not (tmp_path / "gone").exists()


# ---------------------------------------------------------------------------------------------- which one a job runs


def attempt(number: int, code: str | None, cause: Cause | None = None, void: bool = False) -> Attempt:
    opened = Opened("token", {}, "hash", {}, code=code, mark=cause if cause is Cause.RETRY else None)
    claim = Claim(void=void, cause=cause if void else None)
    return Attempt(number, opened, claim, Result(cause) if cause and not void else None)


@pytest.mark.parametrize(
    ("attempts", "code"),
    [
        ([], None),
        ([("a", Cause.PREEMPTED, False)], "a"),
        ([("a", Cause.UNCLAIMED, True)], "a"),
        ([("a", Cause.PREEMPTED, False), ("b", Cause.ERROR, False), (None, Cause.RETRY, True)], "b"),
        ([("a", Cause.PREEMPTED, False), ("b", Cause.LIMIT, True)], "a"),
        ([("a", Cause.LIMIT, True)], None),
        ([("a", Cause.REFUSED, True), (None, Cause.RETRY, True)], None),
        ([("a", Cause.CANCELLED, True), (None, Cause.RETRY, True)], None),
        ([("a", Cause.CANCELLED, False), (None, Cause.RETRY, True)], "a"),
        ([(None, Cause.PREEMPTED, False)], None),
    ],
)
def test_an_experiment_keeps_the_code_of_the_last_job_that_was_accepted(
    attempts: list[tuple[str | None, Cause, bool]], code: str | None
) -> None:
    made = tuple(attempt(number, *one) for number, one in enumerate(attempts, 1))
    assert code_copy.kept(Record(Path("/x"), made)) == code


def test_the_tree_is_read_once_in_a_call_and_only_if_a_round_copies_the_code(
    in_git: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments/r").mkdir(parents=True)
    place = code_copy.Copies(in_git, tmp_path / "experiments", tmp_path / "analysis")
    plain, wanting = Experiment("r", "g", "p", None, {}), Experiment("r", "g", "q", None, {}, snapshot=True)
    readings = count_readings(monkeypatch)
    nothing = Record(tmp_path)
    assert place.of(plain, nothing) is None
    kept = Record(tmp_path, (attempt(1, "a", Cause.PREEMPTED),))
    assert place.of(wanting, kept) == "a"
    assert place.of(plain, kept) is None
    assert not readings
    first = place.of(wanting, nothing)
    write(in_git, {"train.py": "edited"})
    assert [place.of(wanting, nothing) for _ in range(3)] == [first] * 3
    assert len(readings) == 2
    later = code_copy.Copies(in_git, tmp_path / "experiments", tmp_path / "analysis", current=True)
    assert later.of(wanting, kept) == later.of(wanting, nothing) != first


def test_a_dry_run_copies_nothing(in_git: Path, tmp_path: Path) -> None:
    place = code_copy.Copies(in_git, tmp_path / "experiments", tmp_path / "analysis")
    wanting = Experiment("r", "g", "q", None, {}, snapshot=True)
    assert state(in_git).startswith(str(place.of(wanting, Record(tmp_path), make=False)))
    assert not (tmp_path / "experiments").exists()


def test_no_experiment_can_lie_where_the_copies_do() -> None:
    assert path_fault(f"{code_copy.COPIES}/0123456789abcdef/x")

"""`toolbox/setup.sh --data` and what it calls: data sets are fetched from a real server, verified and prepared."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from rounds_for_tests import REPOSITORY
from small_data_sets import NAMES, Published, publish

from studies.distillation import fetch, sources
from studies.distillation.data import load

NOWHERE = "http://127.0.0.1:1"  # a port on which nothing listens


class Server(ThreadingHTTPServer):
    """Serves a folder; records the requests; can send a part of a file only, or corrupt it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.folder = folder
        self.requests: list[str] = []
        self.most: int | None = None
        self.damage = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        self.server.requests.append(self.path)
        data = source.read()[: self.server.most]
        outputfile.write(b"?" + data[1:] if self.server.damage else data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "published").mkdir()
    with Server(tmp_path / "published") as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(params=NAMES)
def small(request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Each data set, small, on a server."""
    return publish(request.param, server.folder, monkeypatch, server.address)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my data"


def run(*arguments: object) -> int:
    return fetch.main([str(one) for one in arguments])


def contents(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Of all files in a folder: inode, time of change, digest."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damage(path: Path) -> None:
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])


def lay_down(small: Published, folder: Path) -> list[Path]:
    """Downloads that the user copied from another host."""
    folder.mkdir()
    files = [folder / one.path for one in sources.SOURCES[small.name].downloads]
    for file in files:
        shutil.copy(small.folder / file.name, file)
    return files


# Fetching


def test_a_data_set_is_fetched_verified_and_ready_to_train_with(
    small: Published, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small.name, "--to", folder) == 0
    assert f"{small.name}: good, in {folder}" in capsys.readouterr().out
    found = load(small.name, folder, validation_images=1)
    assert torch.equal(found.test.images, torch.tensor(small.test[0]))
    assert not list(folder.rglob("*.part"))


def test_fetching_again_fetches_nothing_and_touches_nothing(small: Published, folder: Path, server: Server) -> None:
    run(small.name, "--to", folder)
    before, requests = contents(folder), len(server.requests)
    assert run(small.name, "--to", folder) == 0
    assert contents(folder) == before
    assert len(server.requests) == requests


def test_several_data_sets_are_fetched_at_once(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cifar100", "svhn"):
        publish(name, server.folder, monkeypatch, server.address)
    assert run("cifar100", "digits", "svhn", "--to", folder) == 0
    assert not sources.damaged("cifar100", folder) and not sources.damaged("svhn", folder)


def test_a_download_that_was_copied_by_hand_is_used_and_not_fetched(
    small: Published, folder: Path, server: Server
) -> None:
    lay_down(small, folder)
    assert run(small.name, "--to", folder) == 0
    assert server.requests == []
    load(small.name, folder, validation_images=1)


def test_a_corrupt_download_is_reported_and_not_kept(
    small: Published, folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.damage = True
    assert run(small.name, "--to", folder) == 1
    assert "sent something else, or only a part: its MD5 differs" in capsys.readouterr().err
    assert contents(folder) == {}
    server.damage = False
    assert run(small.name, "--to", folder) == 0


def test_an_incomplete_download_is_not_used(
    small: Published, folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.most = 500
    assert run(small.name, "--to", folder) == 1
    assert "MD5 differs" in capsys.readouterr().err
    assert contents(folder) == {}
    assert sources.missing(small.name, folder)


def test_files_that_a_killed_fetch_left_do_no_harm(small: Published, folder: Path, server: Server) -> None:
    for file in lay_down(small, folder):
        file.rename(f"{file}.part").write_bytes(b"half of it")
    assert run(small.name, "--to", folder) == 0
    assert not list(folder.rglob("*.part"))


def test_a_corrupt_download_is_named_and_fetched_again(
    small: Published, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lay_down(small, folder)[0]
    damage(file)
    assert run(small.name, "--to", folder) == 0
    assert f"because {file} is damaged: its MD5 is" in capsys.readouterr().out
    assert digest(file) == digest(small.folder / file.name)


def test_a_corrupt_file_is_replaced_and_the_valid_ones_are_left_unchanged(
    small: Published, folder: Path, server: Server
) -> None:
    run(small.name, "--to", folder)
    before = contents(folder)
    server.requests.clear()
    broken = sources.SOURCES[small.name].files[0].path
    damage(folder / broken)
    assert run(small.name, "--to", folder) == 0
    after = contents(folder)
    assert after[broken][2] == before[broken][2]
    others = set(before) - {broken, f"{broken}.sha256"}
    assert {path: after[path] for path in others} == {path: before[path] for path in others}
    assert set(server.requests) == ({f"/{broken}"} if small.name == "svhn" else set()), "the rest comes from archives"


def test_a_check_reports_what_is_wrong_and_changes_nothing(
    small: Published, folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--check", small.name, "--to", folder) == 1
    assert "is missing" in capsys.readouterr().err
    assert not folder.exists()
    run(small.name, "--to", folder)
    assert run("--check", small.name, "--to", folder) == 0
    damage(folder / sources.SOURCES[small.name].files[0].path)
    before, requests = contents(folder), len(server.requests)
    assert run("--check", small.name, "--to", folder) == 1
    assert "is damaged" in capsys.readouterr().err
    assert (contents(folder), len(server.requests)) == (before, requests)


def test_a_decoded_data_set_no_longer_needs_its_archive(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("tinyimagenet", server.folder, monkeypatch, server.address)
    run("tinyimagenet", "--to", folder)
    (folder / "tiny-imagenet-200.zip").unlink()
    server.requests.clear()
    assert run("tinyimagenet", "--to", folder) == 0
    assert server.requests == []


def test_the_digest_of_decoded_images_is_one_that_sha256sum_reads(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("tinyimagenet", server.folder, monkeypatch, server.address)
    run("tinyimagenet", "--to", folder)
    line = (folder / "tinyimagenet.npz.sha256").read_text()
    assert line == f"{digest(folder / 'tinyimagenet.npz')}  tinyimagenet.npz\n"


# Without a network


def test_without_a_network_it_says_what_to_fetch_where_to_put_it_and_how_to_continue(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        publish(name, tmp_path / "published", monkeypatch, NOWHERE)
    assert run(*NAMES, "digits", "--to", folder) == 1
    output = capsys.readouterr()
    assert "digits: comes with scikit-learn" in output.out
    for name in NAMES:
        for file in sources.SOURCES[name].downloads:
            assert f"  {file.url} (MD5 {file.md5}) as {folder / file.path}\n" in output.err
    assert output.err.count("Connection refused") == len(NAMES)
    assert output.err.count("and run the same command again") == len(NAMES)


def test_without_a_network_a_corrupt_download_is_named_not_used_and_not_removed(
    small: Published, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(small.name, small.folder, monkeypatch, NOWHERE)
    file = lay_down(small, folder)[0]
    damage(file)
    before = digest(file)
    assert run(small.name, "--to", folder) == 1
    assert f"as {file}; the existing file is not used: it is damaged" in capsys.readouterr().err
    assert digest(file) == before
    assert sources.damaged(small.name, folder)


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publish("cifar100", tmp_path, monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert run("cifar100", "--to", folder) == 1
    assert "timed out" in capsys.readouterr().err
    assert socket.getdefaulttimeout() is None


def test_a_missing_page_is_reported(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = publish("cifar100", server.folder, monkeypatch, server.address)
    (published.folder / "cifar-100-python.tar.gz").unlink()
    assert run("cifar100", "--to", folder) == 1
    assert "could not be fetched (" in capsys.readouterr().err


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("cifar100", "--to", tmp_path / "file/data") == 1
    output = capsys.readouterr().err
    assert str(tmp_path / "file") in output and len(output.splitlines()) == 1


def test_an_unknown_data_set_is_refused_before_anything_is_fetched(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cifar100", "svnh", "--to", folder) == 2
    assert "unknown dataset 'svnh': did you mean 'svhn'?" in capsys.readouterr().err
    assert not folder.exists()


# The script


def script(
    *arguments: object, repository: Path = REPOSITORY, cwd: Path = REPOSITORY, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does, on a host without a network."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), NOWHERE)
    return subprocess.run(
        [repository / "toolbox/setup.sh", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **proxies, "no_proxy": "", "PYTHON": python},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in a folder with spaces, with sites of its own."""
    copy = tmp_path / "a copy of it"
    copy.mkdir()
    for name in ("roundhouse", "studies"):
        (copy / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "toolbox", copy / "toolbox")
    (copy / "sites").mkdir()
    return copy


def test_the_script_prints_its_usage() -> None:
    done = script("--help")
    assert done.returncode == 0
    assert "usage: toolbox/setup.sh --data NAME..." in done.stdout
    for name in sources.SOURCES:
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dta", "digits"], "unknown option --dta"),
        (["--data"], "needs the name of a data set"),
        (["--data", "digits", "--to"], "--to needs a directory"),
        (["--data", "digits", "--form"], "unknown option --form"),
        (["--data", "digit"], "did you mean 'digits'?"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_script_works_from_any_folder_and_with_spaces_in_names(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()  # must not be used
    done = script("--data", "digits", "svhn", "--to", "my data", repository=repository, cwd=tmp_path)
    assert done.returncode == 1
    assert "digits: comes with scikit-learn" in done.stdout
    assert f"as {tmp_path / 'my data'}/train_32x32.mat\n" in done.stderr
    assert "and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_default_folder_is_that_of_this_host_s_site(repository: Path, tmp_path: Path) -> None:
    (repository / "sites/here.yaml").write_text(f'hosts: ["*"]\ndata: {tmp_path}/of the site\n')
    done = script("--data", "svhn", "--check", repository=repository)
    assert done.returncode == 1
    assert f"{tmp_path}/of the site/train_32x32.mat is missing" in done.stderr


def test_without_a_site_the_default_folder_is_in_the_repository(repository: Path) -> None:
    done = script("--data", "digits", "--check", repository=repository)
    assert (done.returncode, done.stdout) == (0, "digits: comes with scikit-learn\n")


def test_a_mistake_in_a_site_file_is_reported(repository: Path) -> None:
    (repository / "sites/here.yaml").write_text('hosts: ["*"]\ndata: relative\n')
    done = script("--data", "digits", repository=repository)
    assert done.returncode != 0
    assert "must be absolute" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_interpreter_the_script_says_how_to_get_one() -> None:
    done = script("--data", "digits", python="/nowhere/python")
    assert done.returncode == 2
    assert "/nowhere/python does not exist: run make install, or set PYTHON" in done.stderr


def test_the_page_on_data_has_every_address_and_digest() -> None:
    page = (REPOSITORY / "docs/data.md").read_text()
    for source in sources.SOURCES.values():
        for file in source.downloads:
            assert f"| <{file.url}> | `{file.md5}` |" in page

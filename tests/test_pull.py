"""toolbox/rsync.sh with a real sshd: what a pull copies, what it leaves unchanged, and how it fails."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rounds_for_tests import REPOSITORY, Rounds, fill, finish, small_disk, snapshot, wait_for
from ssh_server import SshServer

from roundhouse.store import record

pytestmark = pytest.mark.ssh

PULLED, PART, USAGE, KEPT, AWAY = 0, 1, 2, 4, 5
ODD = 'it\'s "odd" $(touch pwned) `touch pwned` & ; \\ *'
BIG = os.urandom(3 << 20)
NOW = 1_700_000_000_000_000_000

# They come before the real ones on PATH. They log what was transferred; a test may make them slow, or impatient with a
# silent host.
RSYNC = """\
#!/bin/sh
exec {rsync} --log-file={log} --log-file-format='%i %b %n' ${{SLOW:+--bwlimit=$SLOW}} "$@"
"""
SSH = """\
#!/bin/sh
exec {ssh} ${{IMPATIENT:+-o ServerAliveInterval=1 -o ServerAliveCountMax=1}} "$@"
"""


@dataclass
class Far:
    """A checkout on the cluster, a local folder of experiments, and toolbox/rsync.sh between them."""

    server: SshServer
    folder: Path
    name: str = "roundhouse"
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.command("rsync", RSYNC.format(rsync=shutil.which("rsync"), log=self.log))
        self.command("ssh", SSH.format(ssh=shutil.which("ssh")))
        self.settle(self.name)

    def settle(self, name: str, **settings: str) -> None:
        """Give the checkout there this name from now on."""
        self.name = name
        (self.experiments / "r").mkdir(parents=True)
        (self.folder / name / "runner.py").touch()
        self.server.set(REMOTE=str(self.folder / name), ROUNDS="r", **settings)

    @property
    def experiments(self) -> Path:
        return self.folder / self.name / "experiments"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.folder / "rsync.log"

    def command(self, name: str, program: str) -> None:
        """A program of the test's own, found before others of that name."""
        path = self.folder / "commands" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(program)
        path.chmod(0o755)

    def there(self, name: str, content: str | bytes = "as there", at: int = NOW) -> Path:
        """A file of round r on the cluster, last changed at this time (ns)."""
        return write(self.experiments / "r" / name, content, at)

    def here(self, name: str, content: str | bytes = "as here", at: int = NOW) -> Path:
        return write(self.home / "r" / name, content, at)

    def at_home(self, name: str) -> Path:
        return self.home / "r" / name

    def argv(self, *options: str) -> list[str]:
        words = [str(REPOSITORY / "toolbox" / "rsync.sh"), *options]
        return words if "--to" in options else [*words, "--to", str(self.home)]

    @property
    def env(self) -> dict[str, str]:
        return {**self.server.env, "PATH": f"{self.folder / 'commands'}:{os.environ['PATH']}", **self.extra}

    def pull(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*options), cwd=self.folder, env=self.env, check=False, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def start(self, *options: str, **env: str) -> subprocess.Popen[str]:
        """A pull that runs while the test continues."""
        return subprocess.Popen(
            self.argv(*options), cwd=self.folder, env={**self.env, **env}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def transferred(self) -> dict[str, int]:
        """Since the last call: the bytes received, by name of the file."""
        lines = [line.split(" ", 5) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return {line[5]: int(line[4]) for line in lines if len(line) == 6 and line[3].startswith(">f")}

    def begun(self, name: str) -> Callable[[], object]:
        """Whether a part of this file has arrived."""
        inside = self.home / "r" / ".pull"
        return lambda: any(path.stat().st_size > 100_000 for path in inside.glob(f".{name}.*"))


def write(path: Path, content: str | bytes, at: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, ns=(at, at))
    return path


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.strip()


@pytest.fixture
def far(ssh_server: SshServer, tmp_path: Path) -> Far:
    return Far(ssh_server, tmp_path)


# ---------------------------------------------------------------------------------------------- what arrives


def test_a_pull_copies_the_records_as_they_are_there(far: Far) -> None:
    far.there("d/0/attempts/1/metrics.json", "{}")
    far.there("d/0/status.json", "state")
    (far.experiments / "r/d/0/metrics.json").symlink_to("attempts/1/metrics.json")
    done = far.pull()
    assert (done.returncode, done.stdout, done.stderr) == (PULLED, "r: new or changed files: 3\n", "")
    assert snapshot(far.home / "r") == snapshot(far.experiments / "r")
    assert os.readlink(far.at_home("d/0/metrics.json")) == "attempts/1/metrics.json"


def test_a_second_pull_transfers_nothing_and_touches_nothing(far: Far) -> None:
    far.there("d/0/out.log")
    far.there("d/0/history.json")
    (far.experiments / "r/d/0/log").symlink_to("out.log")
    far.pull()
    assert set(far.transferred()) == {"d/0/out.log", "d/0/history.json"}
    before = {path: path.lstat() for path in far.home.rglob("*") if not path.is_dir()}
    assert far.pull().stdout == "r: new or changed files: 0\n"
    assert far.transferred() == {}
    assert {path: path.lstat() for path in far.home.rglob("*") if not path.is_dir()} == before


def test_only_what_changed_is_transferred(far: Far) -> None:
    far.there("d/0/out.log")
    far.there("d/1/out.log")
    far.pull()
    far.transferred()
    far.there("d/1/out.log", "as there now", NOW + 1)
    assert far.pull().returncode == PULLED
    assert set(far.transferred()) == {"d/1/out.log"}
    assert far.at_home("d/1/out.log").read_text() == "as there now"


def test_a_file_replaced_by_one_of_equal_size_within_the_same_second_is_pulled(far: Far) -> None:
    far.there("d/0/progress.json", "epoch 3", NOW + 100)
    far.pull()
    far.there("d/0/progress.json", "epoch 4", NOW + 200)
    assert far.pull().returncode == PULLED
    assert far.at_home("d/0/progress.json").read_text() == "epoch 4"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("none", {"out.log"}),
        ("best", {"out.log", "best.pth"}),
        ("all", {"out.log", "best.pth", "paraphraser.pth", "checkpoint.pth", "checkpoint.pth.damaged"}),
    ],
)
def test_weights_are_pulled_only_on_request(far: Far, what: str, expected: set[str]) -> None:
    for name in ("out.log", "best.pth", "paraphraser.pth", "checkpoint.pth", "checkpoint.pth.damaged"):
        far.there(f"d/0/attempts/1/{name}")
    (far.experiments / "r/d/0/best.pth").symlink_to("attempts/1/best.pth")
    far.there("model.pth/0/out.log")  # the path of an experiment is no weight
    assert far.pull("--checkpoints", what).returncode == PULLED
    assert {path.name for path in far.at_home("d/0/attempts/1").iterdir()} == expected
    assert far.at_home("d/0/best.pth").is_symlink() == (what != "none")
    assert far.at_home("model.pth/0/out.log").exists()


@pytest.mark.parametrize("what", ["none", "all"])
def test_the_files_of_a_command_are_pulled_without_the_draft_of_a_copy(far: Far, what: str) -> None:
    for name in ("carried.json", "files/metrics.json", "files/sub/outputs.npz", "files/best.pth", "files/.hidden"):
        far.there(f"d/0/attempts/2/{name}")
    far.there("d/0/attempts/2/.files.draft/metrics.json")
    (far.experiments / "r/d/0/metrics.json").symlink_to("attempts/2/files/metrics.json")
    assert far.pull("--checkpoints", what).returncode == PULLED
    place = far.at_home("d/0/attempts/2")
    pulled = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    expected = {"carried.json", "files/metrics.json", "files/sub/outputs.npz", "files/.hidden"}
    assert pulled == expected | ({"files/best.pth"} if what == "all" else set())
    assert far.at_home("d/0/metrics.json").read_text() == "as there"


def test_the_settings_say_which_weights_are_pulled(far: Far) -> None:
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r", CHECKPOINTS="best")
    far.there("d/0/best.pth")
    far.pull()
    assert far.at_home("d/0/best.pth").exists()


def test_drafts_locks_and_copies_of_the_code_are_not_pulled(far: Far) -> None:
    far.there("d/0/.draft-1234")
    far.there("d/0/.x.lock")
    far.there("d/0/.rsync-partial/out.log")
    far.there(".pull/d/0/out.log")
    far.there(".code/0123456789abcdef/train.py")
    far.there("d/0/out.log")
    far.pull("--checkpoints", "all")
    assert [path.name for path in far.home.rglob("*") if path.is_file()] == ["out.log"]


def test_a_link_that_leads_out_of_the_round_is_not_pulled(far: Far) -> None:
    (far.experiments / "r/passwords").symlink_to("/etc/passwd")
    (far.experiments / "r/above").symlink_to("../../..")
    assert far.pull().returncode == PULLED
    assert list(far.at_home("").iterdir()) == []


def test_an_end_is_placed_after_the_results_and_the_view_last(far: Far) -> None:
    for name in ("history.json", "status.json", "attempts/1/result.json", "attempts/1/outputs.npz", "config.yaml"):
        far.there(f"d/0/{name}")
    far.command("mv", f'#!/bin/sh\necho "${{4##*/}}" >>{far.folder}/order\nexec {shutil.which("mv")} "$@"\n')
    far.pull()
    order = (far.folder / "order").read_text().split()
    assert set(order[:2]) == {"outputs.npz", "config.yaml"}
    assert set(order[2:4]) == {"history.json", "result.json"}
    assert order[4:] == ["status.json"]


def test_an_experiment_pulled_while_it_runs_and_after_it_was_compacted_reads_as_it_does_there(
    far: Far, rounds: Rounds
) -> None:
    waits = 'touch "$0/runs"; while [ ! -e "$0/go" ]; do sleep 0.05; done'
    rounds.write({"all": {"path": "e/0", "command": ["sh", "-c", waits, str(rounds.notes)]}})
    (rounds.folder / "runner.py").touch()
    far.server.set(REMOTE=str(rounds.folder), ROUNDS="r")
    runner = rounds.start()
    wait_for((rounds.notes / "runs").exists, "the experiment runs")
    assert far.pull().returncode == PULLED
    assert record.read(far.at_home("e/0")).completed is None
    (rounds.notes / "go").touch()
    assert finish(runner)[0] == 0
    assert far.pull().returncode == PULLED
    pulled, there = record.read(far.at_home("e/0")), record.read(rounds.directory("e/0"))
    assert pulled.completed == there.completed is not None
    assert not pulled.damage
    assert pulled.notes == there.notes


def test_without_an_option_it_pulls_the_rounds_of_the_settings_into_its_own_checkout(far: Far) -> None:
    checkout = far.folder / ODD
    shutil.copytree(REPOSITORY / "toolbox", checkout / "toolbox", ignore=shutil.ignore_patterns("cluster.env", "logs"))
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r s")
    for name in ("r", "s", "t"):
        write(far.experiments / name / "e/out.log", name, NOW)
    subprocess.run([checkout / "toolbox" / "rsync.sh"], cwd=far.folder, env=far.env, check=True, timeout=60)
    assert sorted(path.name for path in (checkout / "experiments").iterdir()) == ["r", "s"]
    assert (checkout / "experiments/s/e/out.log").read_text() == "s"


def test_a_round_that_is_archived_locally_is_not_pulled(far: Far) -> None:
    checkout = far.folder / "checkout"
    shutil.copytree(REPOSITORY / "toolbox", checkout / "toolbox", ignore=shutil.ignore_patterns("cluster.env", "logs"))
    (checkout / "analysis/experiment_r/experiments").mkdir(parents=True)
    far.there("e/out.log")
    done = subprocess.run(
        [checkout / "toolbox" / "rsync.sh"], env=far.env, check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "r: skipped, archived locally\n"
    assert not (checkout / "experiments").exists()


def test_names_with_spaces_quotes_and_commands_are_taken_literally(far: Far) -> None:
    far.settle(f"- {ODD}")
    names = {f"{ODD}/0/{ODD}.log", "-rf/--delete/-n", "line\nbreak", "ümlaut", "[a]*?", "a #b"}
    for name in names:
        far.there(name)
    done = far.pull("--to", ODD)
    assert done.returncode == PULLED, done.stderr
    found = (far.folder / ODD / "r").rglob("*")
    assert {str(path.relative_to(far.folder / ODD / "r")) for path in found if path.is_file()} == names
    assert not list(far.folder.rglob("pwned"))
    assert not (Path.home() / "pwned").exists()


def test_the_folder_may_be_relative_to_the_home_folder_there(far: Far) -> None:
    folder = os.path.relpath(far.folder / far.name, Path.home())
    far.there("out.log")
    for name in (folder, f"~/{folder}"):
        far.server.set(REMOTE=name, ROUNDS="r")
        assert far.pull().returncode == PULLED
    assert far.at_home("out.log").exists()


# ---------------------------------------------------------------------------------------------- what


def test_no_local_file_is_deleted_because_it_is_missing_there(far: Far) -> None:
    far.there("d/0/out.log")
    far.pull()
    far.here("d/0/notes.txt")
    shutil.rmtree(far.experiments / "r/d")
    assert far.pull().returncode == PULLED
    assert {path.name for path in far.at_home("d/0").iterdir()} == {"out.log", "notes.txt"}


@pytest.mark.parametrize("later", [1, 300_000_000, 3_600_000_000_000], ids=["1 ns", "0.3 s", "1 hour"])
def test_a_newer_local_file_is_kept_and_named_and_the_others_arrive(far: Far, later: int) -> None:
    far.there("d/0/status.json", "as there", NOW)
    far.there("d/0/out.log")
    far.here("d/0/status.json", "mine", NOW + later)
    done = far.pull()
    assert done.returncode == KEPT
    assert "d/0/status.json" in one_line(done.stderr)
    assert "1:" not in done.stderr.replace("d/0/status.json", "")
    assert far.at_home("d/0/status.json").read_text() == "mine"
    assert far.at_home("d/0/out.log").read_text() == "as there"


def test_a_kept_file_is_pulled_once_it_is_newer_there(far: Far) -> None:
    far.there("d/0/status.json")
    far.here("d/0/status.json", "mine", NOW + 5)
    assert far.pull().returncode == KEPT
    far.there("d/0/status.json", "completed", NOW + 6)
    assert far.pull().returncode == PULLED
    assert far.at_home("d/0/status.json").read_text() == "completed"


def test_a_local_file_that_differs_and_is_as_old_is_kept(far: Far) -> None:
    far.there("d/0/out.log", "as there")
    far.here("d/0/out.log", "as here, and longer")
    assert far.pull().returncode == KEPT
    assert far.at_home("d/0/out.log").read_text() == "as here, and longer"


def test_of_many_kept_files_the_first_are_named(far: Far) -> None:
    for number in range(8):
        far.there(f"{number}/status.json", "as there")
        far.here(f"{number}/status.json", "mine", NOW + 1)
    assert one_line(far.pull().stderr).endswith("and 3 more")


def test_a_file_that_was_only_touched_locally_is_no_difference(far: Far) -> None:
    far.there("d/0/out.log")
    far.pull()
    os.utime(far.at_home("d/0/out.log"))
    for _ in range(2):
        done = far.pull()
        assert (done.returncode, done.stderr) == (PULLED, "")


def test_a_file_or_folder_in_the_place_of_a_link_is_kept(far: Far) -> None:
    for name in ("file", "folder"):
        (far.experiments / "r" / name).symlink_to("attempts")
        os.utime(far.experiments / "r" / name, ns=(NOW, NOW), follow_symlinks=False)
    far.here("file", "mine", NOW + 1)
    far.here("folder/mine")
    done = far.pull()
    assert done.returncode == KEPT
    assert "file" in done.stderr
    assert "folder" in done.stderr
    assert far.at_home("file").read_text() == "mine"
    assert far.at_home("folder/mine").exists()


def test_a_link_follows_the_newer_one_there(far: Far) -> None:
    link = far.experiments / "r/metrics.json"
    for number in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(f"attempts/{number}/metrics.json")
        os.utime(link, ns=(NOW + number, NOW + number), follow_symlinks=False)
        assert far.pull().returncode == PULLED
        assert os.readlink(far.at_home("metrics.json")) == f"attempts/{number}/metrics.json"


# ---------------------------------------------------------------------------------------------- ways to the host


def test_it_passes_a_jump_host_with_a_key_that_only_an_agent_has(far: Far) -> None:
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r", HOST="inner")
    far.there("out.log")
    with far.server.agent() as env:
        far.extra = {"SSH_AUTH_SOCK": env["SSH_AUTH_SOCK"]}
        done = far.pull()
    assert done.returncode == PULLED, done.stderr
    assert far.at_home("out.log").exists()


def test_it_uses_a_connection_that_the_user_shares(far: Far) -> None:
    far.server.share()
    assert far.server.ssh("true").returncode == 0
    far.server.deny()  # a new connection would be refused
    far.there("out.log")
    assert far.pull().returncode == PULLED


def test_the_configuration_of_ssh_may_lie_in_a_folder_with_an_odd_name(far: Far) -> None:
    odd = far.folder / 'it\'s my "ssh" folder' / "config"
    odd.parent.mkdir()
    shutil.copy(far.server.ssh_config, odd)
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r", SSH_CONFIG=str(odd))
    far.there("out.log")
    assert far.pull().returncode == PULLED


def test_settings_of_the_host_that_are_meant_for_a_terminal_do_no_harm(far: Far) -> None:
    terminal = "Host cluster\n    RequestTTY force\n    RemoteCommand echo hello\n    ExitOnForwardFailure yes\n"
    terminal += f"    LocalForward {far.server.port} 127.0.0.1:1\n\n"
    far.server.ssh_config.write_text(terminal + far.server.ssh_config.read_text())
    far.there("out.log")
    done = far.pull()
    assert (done.returncode, done.stderr) == (PULLED, "")


AWAY_BECAUSE: list[tuple[str, Callable[[SshServer], object], str]] = [
    ("stopped", SshServer.stop, "is down"),
    ("unknown", SshServer.forget_host, "fingerprint"),
    ("changed", SshServer.new_host_key, "another host key"),
    ("denied", SshServer.deny, "does not accept your key"),
    ("second factor", lambda server: server.ask_for("publickey,password"), "second factor"),
]


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in AWAY_BECAUSE], ids=[case[0] for case in AWAY_BECAUSE]
)
def test_a_host_that_refuses_the_connection_is_one_line_and_nothing_changes(
    far: Far, change: Callable[[SshServer], object], message: str
) -> None:
    far.there("out.log")
    change(far.server)
    done = far.pull()
    assert done.returncode == AWAY
    assert message in one_line(done.stderr)
    assert done.stdout == ""
    assert not far.home.exists()


@pytest.mark.parametrize("name", ["/no such folder", "--no-such-folder", "~no such user/folder"])
def test_a_missing_folder_is_a_mistake_in_the_settings(far: Far, name: str) -> None:
    far.server.set(REMOTE=name, ROUNDS="r")
    done = far.pull()
    assert done.returncode == USAGE
    assert name in one_line(done.stderr)
    assert str(far.server.settings) in done.stderr


def test_a_folder_that_is_no_checkout_is_a_mistake_in_the_settings(far: Far) -> None:
    (far.folder / far.name / "runner.py").unlink()
    done = far.pull()
    assert done.returncode == USAGE
    assert "no checkout of Roundhouse" in one_line(done.stderr)


def test_a_round_that_is_unknown_there_is_reported_and_the_others_are_pulled(far: Far) -> None:
    far.there("out.log")
    done = far.pull("--round", "nosuch", "--round", "r")
    assert done.returncode == PART
    assert "nosuch: no such round on cluster" in one_line(done.stderr)
    assert done.stdout == "r: new or changed files: 1\n"


def test_a_round_that_was_archived_there_is_reported_with_its_folder(far: Far) -> None:
    (far.folder / far.name / "analysis/experiment_old/experiments").mkdir(parents=True)
    done = far.pull("--round", "old")
    assert (done.returncode, done.stderr) == (PULLED, "")
    assert "archived on cluster" in done.stdout and "analysis/experiment_old/experiments" in done.stdout


def test_a_round_that_has_not_begun_there_is_reported_and_the_others_are_pulled(far: Far) -> None:
    far.there("out.log")
    (far.folder / far.name / "rounds").mkdir()
    (far.folder / far.name / "rounds/later.yaml").touch()
    done = far.pull("--round", "later", "--round", "r")
    assert (done.returncode, done.stderr) == (PULLED, "")
    assert done.stdout == "later: no records on cluster yet\nr: new or changed files: 1\n"
    assert not (far.home / "later").exists()


def test_a_host_without_rsync_is_reported(far: Far) -> None:
    far.server.environment = {"PATH": str(far.folder / "nothing")}
    (far.folder / "nothing").mkdir()
    (far.folder / "nothing/sh").symlink_to("/bin/sh")
    far.server.restart()
    done = far.pull()
    assert done.returncode == USAGE
    assert "has no rsync" in one_line(done.stderr)


# ---------------------------------------------------------------------------------------------- the login shell there

WELCOME = "printf 'Welcome to the cluster'\n"


def test_a_login_shell_that_prints_without_a_newline_is_reported_and_nothing_changes(far: Far) -> None:
    far.there("out.log")
    far.server.startup_file(WELCOME)
    done = far.pull()
    assert done.returncode == PART
    assert done.stdout == ""
    assert "the login shell on cluster prints text before a command (Welcome to the cluster)" in one_line(done.stderr)
    assert "change the file ~/.bashrc there so that only interactive shells print" in done.stderr
    assert [path.name for path in far.at_home("").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("program", ["echo", "printf '\\n\\n\\n'", '[ -n "${1:-}" ] || seq 5000'])
def test_an_unclean_shell_names_its_file_whatever_it_prints(far: Far, program: str) -> None:
    far.there("out.log")
    far.server.startup_file(f"{program}\n")
    done = far.pull()
    assert done.returncode == PART
    assert "which rsync cannot read: change the file ~/.bashrc there" in one_line(done.stderr)


def test_what_a_login_shell_prints_does_not_hide_the_answer_about_a_round(far: Far) -> None:
    far.server.startup_file(WELCOME)
    (far.folder / far.name / "analysis/experiment_old/experiments").mkdir(parents=True)
    (far.folder / far.name / "rounds").mkdir()
    (far.folder / far.name / "rounds/later.yaml").touch()
    done = far.pull("--round", "old", "--round", "nosuch", "--round", "later")
    assert done.returncode == PART
    assert "nosuch: no such round on cluster" in one_line(done.stderr)
    assert done.stdout.startswith("old: skipped, archived on cluster")
    assert done.stdout.endswith("later: no records on cluster yet\n")


def test_text_and_an_exit_code_after_the_answer_do_no_harm(far: Far) -> None:
    far.there("out.log")
    far.server.startup_file("trap 'echo begun r Bye; echo Bye >&2' EXIT\n")
    code = "case $SSH_ORIGINAL_COMMAND in *--server*) ;; *) exit 255 ;; esac"
    far.server.login_shell(f'bash -c "$SSH_ORIGINAL_COMMAND"; {code}')
    done = far.pull()
    assert (done.returncode, done.stdout, done.stderr) == (PULLED, "r: new or changed files: 1\n", "")


def test_an_exit_code_of_255_is_not_taken_for_a_lost_connection(far: Far) -> None:
    far.there("out.log")
    far.server.startup_file("trap 'echo Bye >&2; exit 255' EXIT\n")
    done = far.pull()
    assert done.returncode == PART
    assert "rsync failed with exit code 255: Bye" in one_line(done.stderr)


def test_text_that_a_login_shell_prints_as_an_error_does_no_harm(far: Far) -> None:
    far.there("out.log")
    far.server.startup_file("printf 'Permission denied (password). Connection refused' >&2\n")
    done = far.pull()
    assert (done.returncode, done.stderr) == (PULLED, "")
    assert far.at_home("out.log").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("exit 0", "with exit code 0. Look for exit or exec in the file ~/.bashrc there"),
        ("echo 'This account is currently not available.'; exit 1", "This account is currently not available."),
        ("echo begun r; exit 0", "with exit code 0"),
        ("exec /bin/nologin-of-a-test", "exit code 127, a program was not found there"),
        (f'exec "{REPOSITORY}/README.md"', "exit code 126, a program is not executable there"),
        ("exit 3", "its shell ended before, with exit code 3"),
        ("exit 4", "its shell ended before, with exit code 4"),
        ("exit 255", "its shell ended before, with exit code 255"),
        ("echo 'Account expired.'; exit 255", "(Account expired.)"),
    ],
)
def test_a_login_shell_that_does_not_run_the_command_is_reported(far: Far, program: str, message: str) -> None:
    far.there("out.log")
    far.server.login_shell(program)
    done = far.pull()
    assert done.returncode == AWAY
    assert message in one_line(done.stderr)
    assert done.stdout == ""
    assert not far.home.exists()


def test_a_program_that_does_not_report_its_end_is_no_success(far: Far) -> None:
    far.there("out.log")
    far.server.login_shell('bash -c "$SSH_ORIGINAL_COMMAND" | head -n 4; exit 0')
    done = far.pull()
    assert done.returncode == AWAY
    assert "cluster did not report how the command ended" in one_line(done.stderr)
    assert "~/.bashrc" in done.stderr and not far.home.exists()


def test_an_incomplete_answer_is_no_success(far: Far) -> None:
    far.there("out.log")
    far.server.login_shell('bash -c "$SSH_ORIGINAL_COMMAND" | grep -v "begun r"; exit 0')
    done = far.pull()
    assert done.returncode == PART
    assert "r: not pulled: cluster did not report whether it has records" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#!/bin/sh\nexec /no/such/rsync\n", "exit code 127, a program or library is missing there: "),
        ("#!/bin/sh\nexec /etc\n", "exit code 126, it is not executable there: "),
        ("#!/bin/sh\necho 'invalid option' >&2; exit 1\n", "exit code 1: invalid option"),
    ],
)
def test_an_rsync_that_cannot_start_there_is_reported(far: Far, content: str, message: str) -> None:
    far.there("out.log")
    broken = far.folder / "broken"
    broken.mkdir()
    (broken / "rsync").write_text(content)
    (broken / "rsync").chmod(0o755)
    far.server.environment = {"PATH": f"{broken}:{os.environ['PATH']}"}
    far.server.restart()
    done = far.pull()
    assert done.returncode == USAGE
    assert f"rsync on cluster cannot start: {message}" in one_line(done.stderr)
    assert (done.stdout, far.home.exists()) == ("", False)


def test_output_of_a_local_command_of_ssh_does_no_harm(far: Far) -> None:
    far.there("out.log")
    local = f"    PermitLocalCommand yes\n    LocalCommand printf hello; touch '{far.folder}/called'\n"
    far.server.write_client_config(f"Host *\n{local}")
    assert far.server.ssh("true").stdout == "hello", "ssh itself runs it"
    (far.folder / "called").unlink()
    done = far.pull()
    assert (done.returncode, done.stderr) == (PULLED, "")
    assert not (far.folder / "called").exists()
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r", HOST="inner")
    done = far.pull()
    assert done.returncode == AWAY, "the ssh to a jump host runs it, and the user's own ssh fails likewise"
    assert "the LocalCommand of a jump host" in one_line(done.stderr)
    assert far.at_home("out.log").exists()


@pytest.mark.parametrize("host", ["cluster", "inner"])
def test_a_banner_of_the_server_does_no_harm(far: Far, host: str) -> None:
    far.there("out.log")
    (far.server.folder / "banner").write_text("Authorized users only.\nbegun r\nNo newline")
    far.server.configure(f'Banner "{far.server.folder}/banner"')
    far.server.set(REMOTE=str(far.folder / far.name), ROUNDS="r", HOST=host)
    done = far.pull()
    assert (done.returncode, done.stdout, done.stderr) == (PULLED, "r: new or changed files: 1\n", "")


# ---------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("fault", ["cut", "stop"])
def test_a_connection_that_is_cut_midway_leaves_no_partial_file_and_the_next_pull_continues(
    far: Far, fault: str
) -> None:
    big = far.there("outputs.npz", BIG)
    far.there("status.json", "completed")
    process = far.start(SLOW="1000")
    wait_for(far.begun("outputs.npz"), "half of it is here")
    getattr(far.server, fault)()
    code, output = finish(process)
    assert code == PART
    assert "cluster" in one_line(output)
    assert {path.name for path in far.at_home("").iterdir()} == {".pull"}
    if fault == "stop":
        far.server.start()
    far.transferred()
    assert far.pull().returncode == PULLED
    assert hashlib.sha256(far.at_home("outputs.npz").read_bytes()).digest() == hashlib.sha256(BIG).digest()
    assert far.transferred()["outputs.npz"] < big.stat().st_size - 100_000
    assert not far.at_home(".pull").exists()


def test_after_a_cut_the_other_rounds_are_left_for_the_next_pull(far: Far) -> None:
    far.there("outputs.npz", BIG)
    write(far.experiments / "s/out.log", "s", NOW)
    process = far.start("--round", "r", "--round", "s", SLOW="1000")
    wait_for(far.begun("outputs.npz"), "half of it is here")
    far.server.stop()
    code, output = finish(process)
    assert code == PART
    one_line(output)
    assert not (far.home / "s").exists()


def test_a_connection_that_becomes_silent_is_closed(far: Far) -> None:
    far.there("outputs.npz", BIG)
    process = far.start(SLOW="1000", IMPATIENT="yes")
    wait_for(far.begun("outputs.npz"), "half of it is here")
    for connection in far.server.connections():
        connection.send_signal(signal.SIGSTOP)
    code, output = finish(process)
    assert code == PART
    one_line(output)


def test_an_older_file_stays_whole_while_its_successor_arrives(far: Far) -> None:
    far.there("outputs.npz", "old")
    far.pull()
    far.there("outputs.npz", BIG, NOW + 1)
    process = far.start(SLOW="1000")
    wait_for(far.begun("outputs.npz"), "half of it is here")
    assert far.at_home("outputs.npz").read_text() == "old"
    far.server.cut()
    finish(process)
    assert far.at_home("outputs.npz").read_text() == "old"


def test_a_file_that_is_removed_there_meanwhile_is_no_error(far: Far) -> None:
    far.there("a", BIG)
    removed = far.there("z")
    process = far.start(SLOW="2000")
    wait_for(far.begun("a"), "the first is on its way")
    removed.unlink()
    assert finish(process) == (PULLED, "r: new or changed files: 1\n")


def test_a_full_local_disk_is_one_line_and_the_next_pull_completes(far: Far) -> None:
    far.there("outputs.npz", BIG)
    far.there("status.json", "completed")
    with small_disk(far.home, "5M"):
        ballast = fill(far.home)
        os.truncate(ballast, ballast.stat().st_size - (1 << 20))
        done = far.pull()
        assert done.returncode == PART
        assert "is full" in one_line(done.stderr)
        assert {path.name for path in far.at_home("").iterdir()} == {".pull"}
        ballast.unlink()
        assert far.pull().returncode == PULLED
        assert far.at_home("outputs.npz").read_bytes() == BIG


def test_a_disk_without_room_for_a_folder_is_one_line(far: Far) -> None:
    far.there("out.log")
    far.home.mkdir()
    (far.home / "r").write_text("a file in the way")
    done = far.pull()
    assert done.returncode == PART
    assert "r:" in one_line(done.stderr)


def test_an_unreadable_file_there_is_reported_and_the_others_arrive(far: Far) -> None:
    # Root can read every file, so rsync's error output and exit code are simulated.
    far.there("out.log")
    message = 'rsync: [sender] send_files failed to open "x": Permission denied (13)'
    far.command("rsync", f"#!/bin/sh\n{shutil.which('rsync')} \"$@\"\necho '{message}' >&2\nexit 23\n")
    done = far.pull()
    assert done.returncode == PART
    assert message in one_line(done.stderr)
    assert far.at_home("out.log").exists()


def test_two_pulls_of_a_round_exclude_each_other(far: Far) -> None:
    far.there("out.log")
    far.at_home("").mkdir(parents=True)
    held = os.open(far.at_home(""), os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = far.pull()
    finally:
        os.close(held)
    assert done.returncode == PART
    assert "another pull is in progress" in one_line(done.stderr)
    assert far.pull().returncode == PULLED


# ---------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "options",
    [
        ["--delete"], ["r"], ["--round"], ["--round", ""], ["--round", "../r"], ["--round", "-r"],
        ["--round", "$(touch pwned)"], ["--checkpoints", "some"], ["--to"], ["--round", "r", "--dry-run"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_option_is_one_line_and_nothing_changes(far: Far, options: list[str]) -> None:
    far.there("out.log")
    done = far.pull(*options) if "--to" not in options else subprocess.run(
        [str(REPOSITORY / "toolbox/rsync.sh"), *options], env=far.env, check=False, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == USAGE
    one_line(done.stderr)
    assert not far.home.exists()
    assert not list(far.folder.rglob("pwned"))


def test_help_names_every_exit_code() -> None:
    done = subprocess.run([REPOSITORY / "toolbox/rsync.sh", "--help"], check=True, capture_output=True, text=True)
    for code in (PULLED, PART, USAGE, KEPT, AWAY):
        assert f"\n  {code}  " in done.stdout
    assert stat.S_IMODE((REPOSITORY / "toolbox/rsync.sh").stat().st_mode) & 0o111

"""`toolbox/ssh_status.py` over a real sshd: what it tells, what it refuses, and one clear line for all that fails."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ssh_server as ssh_fixture
from rounds_for_tests import REPOSITORY, wait_for
from ssh_server import SshServer, free_port

from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Opened
from roundhouse.model.experiment import Experiment
from roundhouse.store import record
from toolbox import ssh_connection, ssh_status

pytestmark = pytest.mark.ssh

ODD = "a 'folder' \"of\" $(touch taken) `touch taken` ; touch taken & !x"
NOW = 1_790_000_000.0
ROWS = [
    {"path": "a/0", "state": "completed", "since": NOW - 9e5, "job_id": "1", "reason": ""},
    {"path": "a/1", "state": "in_progress", "since": NOW - 60, "job_id": "2", "job_state": "running", "reason": "",
     "epoch": 3, "epochs": 9},
    {"path": "a/2", "state": "failed", "since": NOW - 7200, "job_id": "3", "reason": "2 tries [red]x[/red]\x1b[2J"},
    {"path": "a/3", "state": "pending", "since": None, "job_id": None, "reason": "waits for a/1"},
]  # fmt: skip


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder on the cluster with an odd name; `answer` puts a runner.py into it."""
    folder = tmp_path / ODD
    folder.mkdir()
    return folder


def answer(folder: Path, program: str) -> None:
    (folder / "runner.py").write_text(f"import json, os, sys, time\n{program}\n")


@pytest.fixture
def server(ssh_server: SshServer, there: Path, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """A cluster whose runner.py tells ROWS, and settings that lead there."""
    answer(there, f"print(json.dumps({ROWS!r}, indent=1))")
    settings = ssh_server.set(REMOTE="put below", ROUNDS="r", PYTHON=sys.executable)
    quoted = settings.read_text().replace('REMOTE="put below"\n', "")
    settings.write_text(quoted)
    for name in [key for key in os.environ if key.startswith(("SSH_", "ROUNDHOUSE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDHOUSE_CLUSTER_ENV", str(settings))
    monkeypatch.setenv("HOME", str(ssh_server.folder))  # no key and no host of the person who runs the tests
    return ssh_server


class Asked:
    """Calls of the script, in this process."""

    def __init__(self, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.there, self.capsys = there, capsys

    def __call__(self, *options: str, name: str = "r", remote: str | None = None) -> tuple[int, str, str]:
        code = ssh_status.main(["--round", name, "--remote", remote or str(self.there), *options])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    def line(self, *options: str, remote: str | None = None) -> tuple[int, str]:
        """A call that fails: its exit code, and the one line that it tells."""
        code, out, err = self(*options, remote=remote)
        assert out == ""
        assert err.count("\n") == 1, err
        return code, err.strip()


@pytest.fixture
def ask(there: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(there, capsys)


# ---------------------------------------------------------------------------------------------- what it tells


def test_a_table_shows_what_needs_a_person_first_and_counts_the_rest(server: SshServer, ask: Asked) -> None:
    code, out, err = ask()
    assert (code, err) == (3, "")
    lines = out.splitlines()
    assert lines[0].split() == ["experiment", "state", "since", "job", "epoch", "reason"]
    assert lines[1].startswith("a/2") and "2 tries [red]x[/red]?[2J" in lines[1]
    assert lines[2].startswith("a/1") and "2 running" in lines[2] and "3/9" in lines[2]
    assert lines[3] == "Round r on cluster: 4 experiments: 1 completed, 1 in_progress, 1 failed, 1 pending."
    assert len(lines) == 4
    assert "\x1b" not in out


def test_json_has_counts_and_the_rows_as_the_runner_told_them(server: SshServer, ask: Asked) -> None:
    code, out, _ = ask("--json")
    told = json.loads(out)
    assert code == 3
    assert (told["round"], told["host"]) == ("r", "cluster")
    assert told["experiments"] == ROWS
    assert told["counts"] == {"completed": 1, "in_progress": 1, "failed": 1, "pending": 1}


def test_one_call_is_one_connection(server: SshServer, ask: Asked) -> None:
    ask()
    assert server.log.count("Connection from") == 1
    assert server.log.count("Accepted publickey") == 1


def test_nothing_in_a_name_is_executed_there(server: SshServer, ask: Asked, there: Path) -> None:
    answer(there, "print(json.dumps([{'path': one, 'state': 'completed'} for one in sys.argv[1:]]))")
    glob = 'it\'s "*" $(touch taken) `touch taken`; touch taken'
    code, out, _ = ask("--json", "--only", glob)
    assert code == 0
    words = [row["path"] for row in json.loads(out)["experiments"]]
    assert words == ["--round", "r", "--status", "--json", "--only", glob]
    assert not list(there.parent.rglob("taken"))
    assert not (Path.home() / "taken").exists()


@pytest.mark.parametrize("name", ["", "a b", "$(touch taken)", "../r", "-r", "r'", "é"])
def test_a_round_that_no_round_can_be_called_is_refused_here(server: SshServer, ask: Asked, name: str) -> None:
    with pytest.raises(SystemExit) if name.startswith("-") else nothing_raised():
        assert ask(name=name)[0] == 2
    assert "Connection from" not in server.log


@contextmanager
def nothing_raised() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["completed", "completed"], 0),
        ([], 0),
        (["completed", "pending"], 3),
        (["failed", "submitting"], 3),
        (["blocked", "in_progress"], 3),
        (["completed", "failed"], 4),
        (["blocked"], 4),
        (["cancelled", "completed"], 4),
    ],
)
def test_the_exit_code_tells_how_the_round_stands(states: list[str], code: int) -> None:
    assert ssh_status.exit_code([{"state": state} for state in states], "") == code


def test_what_waits_for_something_that_failed_is_no_work_that_remains() -> None:
    rows = [{"state": "failed", "goes_on": False}, {"state": "pending", "goes_on": False}]
    assert ssh_status.exit_code(rows, "") == ssh_status.FAILED
    assert ssh_status.exit_code([*rows, {"state": "pending", "goes_on": True}], "") == ssh_status.WORK_REMAINS


def test_a_scheduler_there_that_cannot_be_asked_is_told_beside_what_is_known(
    server: SshServer, ask: Asked, there: Path
) -> None:
    answer(there, f"print(json.dumps({ROWS!r})); print('squeue (exit 1): down', file=sys.stderr); sys.exit(5)")
    code, out, err = ask()
    assert code == 5
    assert "Round r on cluster: 4 experiments" in out
    assert err == "ssh_status.py: cluster: squeue (exit 1): down\n"


def test_the_script_works_from_any_folder(server: SshServer, there: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "toolbox/ssh_status.py", "--round", "r", "--remote", str(there), "--json"],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["experiments"] == ROWS


def test_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        ssh_status.main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    for code in (ssh_status.DONE, ssh_status.USAGE, ssh_status.WORK_REMAINS, ssh_status.FAILED, ssh_status.TROUBLE):
        assert f"\n  {code}  " in out


# ---------------------------------------------------------------------------------------------- the real runner.py


def checkout(folder: Path) -> None:
    """Roundhouse on the cluster, with one round of four commands."""
    shutil.copy(REPOSITORY / "runner.py", folder)
    for name in ("roundhouse", "templates", "studies", "train.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "rounds").mkdir()
    group = {"path": "{n}", "grid": {"n": [0, 1, 2, 3]}, "command": ["true"]}
    (folder / "rounds/r.yaml").write_text(json.dumps({"round": "r", "experiments": {"e": group}}))
    (folder / "sites").mkdir()
    (folder / "sites/here.yaml").write_text('hosts: ["*"]\nscheduler: local\n')


def begin(folder: Path, path: str) -> Path:
    """Its first attempt, opened on a cluster that is not this machine."""
    directory = folder / "experiments/r" / path
    experiment = Experiment("r", "e", path, None, {"n": int(path)}, command=("true",))
    scheduler = {"kind": "slurm", "server": "far", "user": "me", "boot": ""}
    assert record.open_attempt(directory, 1, Opened("rh" + path, scheduler, experiment.config_hash(), {}, "7"))
    record.write_config(directory, experiment)
    os.utime(directory / "attempts/1/job.json", (NOW, NOW))
    return directory / "attempts/1"


def write(place: Path, name: str, **content: Any) -> None:
    (place / name).write_text(json.dumps({"version": 1, "nonce": "n", **content}))


def test_since_when_is_told_of_what_ended_what_runs_and_what_was_opened(
    server: SshServer, ask: Asked, there: Path
) -> None:
    checkout(there)
    for path in "012":
        begin(there, path)
    write(there / "experiments/r/0/attempts/1", "claim.json", at=NOW + 10)
    write(there / "experiments/r/0/attempts/1", "result.json", cause="completed", at=NOW + 100)
    write(there / "experiments/r/1/attempts/1", "claim.json", at=NOW + 20)
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    told = {row["path"]: (row["state"], row["since"]) for row in json.loads(out)["experiments"]}
    assert told == {
        "0": ("completed", NOW + 100),
        "1": ("in_progress", NOW + 20),
        "2": ("in_progress", NOW),
        "3": ("pending", None),
    }
    code, out, _ = ask()
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW + 20)) in out
    assert "run the pass there" in out


def test_a_round_that_is_not_there_is_told_in_the_runner_s_words(server: SshServer, ask: Asked, there: Path) -> None:
    checkout(there)
    code, out, err = ask(name="rr")
    assert (code, out) == (2, "")
    assert err.startswith("ssh_status.py: runner.py on cluster: no round 'rr' in ") and "did you mean 'r'?" in err


# ---------------------------------------------------------------------------------------------- what fails there


def test_noise_of_the_shell_before_the_json_is_passed_over(server: SshServer, ask: Asked, there: Path) -> None:
    noise = "Welcome!\\n[lmod] loaded\\n[]\\n[1, 2]\\n{\\n"
    answer(there, f"print('{noise}'); print('warning', file=sys.stderr); print(json.dumps({ROWS!r}, indent=1))")
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["experiments"] == ROWS


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("print('no rows')", 5, "told no JSON, but 'no rows'"),
        ("pass", 5, "told no JSON, but 'nothing'"),
        ("sys.exit('one\\ntwo\\x1b[31m \\n\\n')", 5, "runner.py on cluster failed (exit 1): two?[31m"),
        ("import nowhere_at_all", 5, "failed (exit 1): ModuleNotFoundError: "),
        ("print('runner.py: no such round', file=sys.stderr); sys.exit(2)", 2, "runner.py on cluster: no such round"),
        ("print('runner.py: disk: full', file=sys.stderr); sys.exit(5)", 5, "failed (exit 5): disk: full"),
        ("os.kill(os.getpid(), 9)", 5, "runner.py on cluster was killed there"),
    ],
)
def test_a_runner_that_fails_there_is_one_line_with_its_last_words(
    server: SshServer, ask: Asked, there: Path, program: str, code: int, told: str
) -> None:
    answer(there, program)
    seen, line = ask.line()
    assert seen == code
    assert told in line


def test_a_command_that_hangs_is_given_up_and_ended_there(server: SshServer, ask: Asked, there: Path) -> None:
    answer(there, "open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    code, line = ask.line("--timeout", "1")
    assert code == 5
    assert "runner.py on cluster gave no answer within 1 s and was ended: see --timeout" in line
    hanging = int((there / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(hanging), "it runs no more", 20)


def test_a_connection_that_breaks_meanwhile_is_told(server: SshServer, ask: Asked, there: Path) -> None:
    up_to_sshd = "next(one for one in psutil.Process().parents() if one.name().startswith('sshd'))"
    answer(there, f"import psutil; {up_to_sshd}.kill(); time.sleep(5)")
    code, line = ask.line()
    assert code == 5
    assert "the connection to cluster was lost" in line


def test_a_folder_that_is_not_there_is_told(server: SshServer, ask: Asked, there: Path) -> None:
    code, line = ask.line(remote=f"{there}/nowhere $(id)")
    assert code == 2
    assert (
        line
        == f"ssh_status.py: cluster has no folder {there}/nowhere $(id) that can be entered: see REMOTE in cluster.env"
    )


def test_a_folder_without_roundhouse_is_told(server: SshServer, ask: Asked, there: Path) -> None:
    (there / "runner.py").unlink()
    code, line = ask.line()
    assert code == 2
    assert "is no checkout of Roundhouse" in line


def test_an_interpreter_that_is_not_there_is_told(server: SshServer, ask: Asked) -> None:
    server.settings.write_text(server.settings.read_text().replace(sys.executable, ".venv/bin/python"))
    code, line = ask.line()
    assert code == 2
    assert "cluster has no .venv/bin/python in " in line and "make install" in line


# ---------------------------------------------------------------------------------------------- the way there


def test_a_host_that_is_away_is_told(server: SshServer, ask: Asked) -> None:
    server.stop()
    code, line = ask.line()
    assert code == 5
    assert line == "ssh_status.py: cluster cannot be reached: it is away, or the network is (Connection refused)"


def test_a_name_that_is_not_known_is_told(server: SshServer, ask: Asked) -> None:
    code, line = ask.line("--host", "nowhere")
    assert code == 5
    assert "nowhere cannot be reached: its name is not known" in line


def test_a_host_that_says_nothing_is_given_up(server: SshServer, ask: Asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = server.ssh_config.read_text().replace(f"Port {server.port}", f"Port {silent.getsockname()[1]}")
        server.ssh_config.write_text(text)
        code, line = ask.line("--timeout", "1")
    assert code == 5
    assert "cluster closed the connection or did not answer in time" in line


def test_a_host_whose_key_is_unknown_is_told_nothing(server: SshServer, ask: Asked) -> None:
    server.forget_host()
    code, line = ask.line()
    assert code == 5
    assert "cluster is not known by its host key (SHA256:" in line
    assert "Accepted" not in server.log and "publickey" not in server.log


def test_a_host_whose_key_has_changed_is_told_nothing(server: SshServer, ask: Asked) -> None:
    server.new_host_key()
    code, line = ask.line()
    assert code == 5
    assert "cluster has another host key (SHA256:" in line and f"than {server.known_hosts}, line 1" in line
    assert "Accepted" not in server.log


def test_a_key_that_known_hosts_calls_revoked_is_refused(server: SshServer, ask: Asked) -> None:
    server.known_hosts.write_text(server.known_hosts.read_text() + "@revoked " + server.known_hosts.read_text())
    code, line = ask.line()
    assert code == 5
    assert "revoked" in line


def test_hashed_names_patterns_and_plain_names_in_known_hosts_are_read(server: SshServer, ask: Asked) -> None:
    name, key = server.known_hosts.read_text().split(" ", 1)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", server.known_hosts], check=True, capture_output=True)
    assert server.known_hosts.read_text().startswith("|1|")
    assert ask()[0] == 3
    for names in (f"other,{name}", "[127.0.0.*]:*", "127.0.0.1"):
        server.known_hosts.write_text(f"# a remark\nnonsense\nx ssh-rsa !!\n{names} {key}")
        assert ask()[0] == 3, names
    server.known_hosts.write_text(f"!*127*,* {key}")
    assert "is not known" in ask.line()[1]


def test_one_name_may_have_several_keys(server: SshServer, ask: Asked) -> None:
    """As where many login nodes share a name."""
    theirs = server.known_hosts.read_text()
    ssh_fixture.make_key(server.folder / "other")
    other = (server.folder / "other.pub").read_text()
    server.known_hosts.write_text(f"{theirs.split()[0]} {other}{theirs}")
    assert ask()[0] == 3


def test_a_known_key_is_asked_for_though_others_are_preferred(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsa = server.folder / "rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", rsa], check=True)
    monkeypatch.setattr(ssh_fixture, "SERVER", ssh_fixture.SERVER + f'HostKey "{rsa}"\n')
    server.restart()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {rsa.with_suffix('.pub').read_text()}")
    assert ask()[0] == 3


def test_a_key_that_is_not_accepted_is_told(server: SshServer, ask: Asked) -> None:
    server.deny()
    code, line = ask.line()
    assert code == 5
    assert f"cluster does not accept your key for user {getpass.getuser()}" in line


def test_a_host_that_asks_for_a_second_factor_is_told(server: SshServer, ask: Asked) -> None:
    server.ask_for("publickey,password")
    code, line = ask.line()
    assert code == 5
    assert "cluster asks for a password or a second factor, and a script has none" in line


def test_a_host_that_wants_a_password_instead_is_told(server: SshServer, ask: Asked) -> None:
    server.ask_for("password")
    code, line = ask.line()
    assert code == 5
    assert "cluster asks for a password or a second factor, and a script has none" in line


def test_a_key_with_a_passphrase_is_not_asked_for(server: SshServer, ask: Asked) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", server.key], check=True)
    code, line = ask.line()
    assert code == 5
    assert f"{server.key} has a passphrase: ssh-add it" in line


def test_a_key_that_only_the_agent_holds_is_used(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.agent() as env:
        monkeypatch.setenv("SSH_AUTH_SOCK", env["SSH_AUTH_SOCK"])
        assert ask()[0] == 3
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{env['SSH_AUTH_SOCK']}.gone")
        assert "does not accept your key" in ask.line()[1]


def test_of_an_agent_s_keys_only_those_that_are_named_are_shown_where_the_configuration_says_so(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = server.key.with_suffix(".pub")
    with server.agent() as env:
        monkeypatch.setenv("SSH_AUTH_SOCK", env["SSH_AUTH_SOCK"])
        named = f'Host cluster\n    IdentitiesOnly yes\n    IdentityFile "{server.key}"\n'
        server.ssh_config.write_text(named + server.ssh_config.read_text())
        assert ask()[0] == 3
        public.rename(public.with_suffix(".away"))
        try:
            assert "does not accept your key" in ask.line()[1]
        finally:
            public.with_suffix(".away").rename(public)


def test_a_jump_host_is_passed_through(server: SshServer, ask: Asked) -> None:
    assert ask("--host", "inner")[0] == 3
    assert server.log.count("Accepted publickey") == 2, "one for each hop"


def test_several_jumps_and_names_within_them_are_followed(server: SshServer, ask: Asked) -> None:
    text = (
        f"Host far\n    HostName 127.0.0.1\n    Port {server.port}\n    ProxyJump inner,{getpass.getuser()}@cluster\n"
    )
    server.ssh_config.write_text(text + server.ssh_config.read_text())
    assert ask("--host", "far")[0] == 3
    assert server.log.count("Accepted publickey") == 4


def test_a_jump_that_leads_in_circles_is_told(server: SshServer, ask: Asked) -> None:
    server.ssh_config.write_text("Host cluster\n    ProxyJump inner\n" + server.ssh_config.read_text())
    code, line = ask.line()
    assert code == 2
    assert "leads in circles" in line


def test_what_a_jump_host_cannot_reach_is_told(server: SshServer, ask: Asked) -> None:
    text = f"Host behind\n    HostName 127.0.0.1\n    Port {free_port()}\n    ProxyJump cluster\n"
    server.ssh_config.write_text(text + server.ssh_config.read_text())
    code, line = ask.line("--host", "behind")
    assert code == 5
    assert "behind cannot be reached" in line


def test_a_proxy_command_is_run_by_a_shell(server: SshServer, ask: Asked) -> None:
    relay = server.folder / "relay.py"
    relay.write_text(
        "import socket, sys, threading, os\n"
        "there = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def pump():\n"
        "    while data := there.recv(65536):\n"
        "        os.write(1, data)\n"
        "threading.Thread(target=pump, daemon=True).start()\n"
        "while data := os.read(0, 65536):\n"
        "    there.sendall(data)\n"
    )
    command = f"{sys.executable} {shlex.quote(str(relay))} %h %p 2>/dev/null"
    server.ssh_config.write_text(f"Host cluster\n    ProxyCommand {command}\n" + server.ssh_config.read_text())
    assert ask()[0] == 3
    server.ssh_config.write_text(
        f"Host cluster\n    ProxyCommand exit 1 #{command}\n" + server.ssh_config.read_text().partition("\n\n")[2]
    )
    assert ask.line()[0] == 5


def test_configuration_is_read_through_include(server: SshServer, ask: Asked) -> None:
    included = server.folder / "conf d"
    included.mkdir()
    server.ssh_config.rename(included / "1.conf")
    server.ssh_config.write_text('Include "conf d/*.conf"\nHost other\n    HostName nowhere.invalid\n')
    assert ask()[0] == 3


def test_the_user_s_own_configuration_is_the_one_that_is_read(server: SshServer, ask: Asked) -> None:
    own = Path.home() / ".ssh"
    own.mkdir()
    server.ssh_config.rename(own / "config")
    lines = [line for line in server.settings.read_text().splitlines() if not line.startswith("SSH_CONFIG")]
    server.settings.write_text("\n".join(lines))
    assert ask()[0] == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Match exec true\n    User x\n", "Match exec is not understood"),
        ("Host cluster\n    Port many\n", "is not understood"),
        ("Match nonsense\n", "is not understood"),
        ("Host cluster\n    ProxyJump @:x\n", "is no [user@]host[:port]"),
    ],
)
def test_a_configuration_that_is_not_understood_is_told(server: SshServer, ask: Asked, text: str, told: str) -> None:
    server.ssh_config.write_text(text + server.ssh_config.read_text())
    code, line = ask.line()
    assert code == 2
    assert told in line


# ---------------------------------------------------------------------------------------------- settings


def settings(tmp_path: Path, text: str) -> dict[str, str]:
    (tmp_path / "cluster.env").write_text(text)
    return ssh_status.read_settings(tmp_path / "cluster.env")


def test_settings_are_read_as_the_shell_scripts_read_them(tmp_path: Path) -> None:
    text = (
        "# a remark\n\n HOST = me@login-1.example.org # mine\r\n"
        'REMOTE=\'a $(touch taken) "b" # c\' # d\nROUNDS="beta charlie"\nPYTHON=.venv/bin/python\n'
    )
    told = settings(tmp_path, text)
    script = '. "$0"; load_settings; printf "%s\\n" "$HOST" "$REMOTE" "$ROUNDS" "$PYTHON"'
    done = subprocess.run(
        ["bash", "-c", script, str(REPOSITORY / "toolbox/util.sh")],
        env={"PATH": os.environ["PATH"], "ROUNDHOUSE_CLUSTER_ENV": str(tmp_path / "cluster.env")},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [told[key] for key in ("HOST", "REMOTE", "ROUNDS", "PYTHON")]
    assert told["REMOTE"] == 'a $(touch taken) "b" # c'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("HOST", "not KEY=VALUE: HOST"),
        ("NAME=x", "unknown key NAME"),
        ("HOST=a\nHOST=b", "line 2: HOST is given twice"),
        ("HOST=", "HOST has no value"),
        ("HOST=# x", "HOST has no value"),
        ('REMOTE="a', 'the quote " is not closed'),
        ("REMOTE='a' b", "after the closing quote there is b"),
        ("HOST=-oProxyCommand=x", "HOST must be"),
        ("ROUNDS=a ../b", "no names of rounds"),
        ("CHECKPOINTS=some", "CHECKPOINTS must be none, best or all"),
        ("PYTHON=~/x", "PYTHON must be a path"),
        ("SSH_CONFIG=/nowhere", "there is no file /nowhere"),
        ("REMOTE=a\x07b", "control character"),
    ],
)
def test_a_mistake_in_the_settings_names_file_and_line(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(RoundhouseError) as raised:
        settings(tmp_path, line + "\n")
    assert str(raised.value).startswith(f"{tmp_path}/cluster.env, line ")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_settings_the_options_are_enough(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_CLUSTER_ENV", "/nowhere/cluster.env")
    assert ssh_status.main(["--round", "r", "--host", "cluster"]) == 2
    assert "there is no /nowhere/cluster.env" in ask.capsys.readouterr().err
    config = ssh_connection.read_config(server.ssh_config)
    monkeypatch.setattr(ssh_status, "read_config", lambda path: config)
    (ask.there / ".venv/bin").mkdir(parents=True)
    (ask.there / ".venv/bin/python").symlink_to(sys.executable)
    assert ask("--host", "cluster")[0] == 3


def test_cluster_env_needs_a_host_and_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.env").write_text("ROUNDS=r\nHOST=h\n")
    monkeypatch.setenv("ROUNDHOUSE_CLUSTER_ENV", str(tmp_path / "cluster.env"))
    assert ssh_status.main(["--round", "r"]) == 2
    assert "cluster.env: REMOTE is missing" in capsys.readouterr().err

"""`toolbox/ssh_status.py` over a real sshd: what it prints, what it refuses, and one clear line for each failure."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ssh_server as ssh_fixture
from rounds_for_tests import REPOSITORY, wait_for
from ssh_server import SshServer, free_port

from roundhouse.model.attempt import Opened
from roundhouse.model.experiment import Experiment
from roundhouse.store import record
from toolbox import ssh_status

pytestmark = pytest.mark.ssh

ODD = "a 'folder' \"of\" $(touch taken) `touch taken` ; touch taken & !x"
NOW = 1_790_000_000.0
ROWS = [
    {"path": "a/0", "state": "completed", "since": NOW - 9e5, "job_id": "1", "reason": ""},
    {"path": "a/1", "state": "in_progress", "since": NOW - 60, "job_id": "2", "job_state": "running", "reason": "",
     "epoch": 3, "epochs": 9},
    {"path": "a/2", "state": "failed", "since": NOW - 7200, "job_id": "3", "reason": "2 tries [red]x[/red]\x1b[2J"},
    {"path": "a/3", "state": "pending", "since": None, "job_id": None, "reason": "waiting for a/1"},
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
    """A cluster whose runner.py prints ROWS, and settings for it."""
    answer(there, f"print(json.dumps({ROWS!r}, indent=1))")
    settings = ssh_server.set(REMOTE="put below", ROUNDS="r", PYTHON=sys.executable)
    quoted = settings.read_text().replace('REMOTE="put below"\n', "")
    settings.write_text(quoted)
    for name in [key for key in os.environ if key.startswith(("SSH_", "ROUNDHOUSE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDHOUSE_CLUSTER_ENV", str(settings))
    monkeypatch.setenv("HOME", str(ssh_server.folder))  # no key of the user who runs the tests
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
        """A call that fails: its exit code, and the one line that it prints."""
        code, out, err = self(*options, remote=remote)
        assert out == ""
        assert err.count("\n") == 1, err
        return code, err.strip()


@pytest.fixture
def ask(there: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(there, capsys)


# ---------------------------------------------------------------------------------------------- what it prints


def test_a_table_shows_what_needs_attention_first_and_counts_the_rest(server: SshServer, ask: Asked) -> None:
    code, out, err = ask()
    assert (code, err) == (3, "")
    lines = out.splitlines()
    assert lines[0].split() == ["experiment", "state", "since", "job", "progress", "reason"]
    assert lines[1].startswith("a/2") and "2 tries [red]x[/red]?[2J" in lines[1]
    assert lines[2].startswith("a/1") and "2 running" in lines[2] and "3/9" in lines[2]
    assert lines[3] == "Round r on cluster: 4 experiments: 1 completed, 1 in_progress, 1 failed, 1 pending."
    assert len(lines) == 4
    assert "\x1b" not in out


def test_json_has_counts_and_the_rows_as_the_runner_printed_them(server: SshServer, ask: Asked) -> None:
    code, out, _ = ask("--json")
    content = json.loads(out)
    assert code == 3
    assert (content["round"], content["host"]) == ("r", "cluster")
    assert content["experiments"] == ROWS
    assert content["counts"] == {"completed": 1, "in_progress": 1, "failed": 1, "pending": 1}


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
def test_an_invalid_name_of_a_round_is_refused_locally(server: SshServer, ask: Asked, name: str) -> None:
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
def test_the_exit_code_follows_from_the_states(states: list[str], code: int) -> None:
    assert ssh_status.exit_code([{"state": state} for state in states], "") == code


def test_an_experiment_whose_dependency_failed_is_no_remaining_work() -> None:
    rows = [{"state": "failed", "goes_on": False}, {"state": "pending", "goes_on": False}]
    assert ssh_status.exit_code(rows, "") == ssh_status.FAILED
    assert ssh_status.exit_code([*rows, {"state": "pending", "goes_on": True}], "") == ssh_status.WORK_REMAINS


def test_an_error_of_the_scheduler_there_is_printed_in_addition_to_the_records(
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
    for code in (ssh_status.DONE, ssh_status.USAGE, ssh_status.WORK_REMAINS, ssh_status.FAILED, ssh_status.UNAVAILABLE):
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
    """Its first attempt, opened on a cluster that is not this host."""
    directory = folder / "experiments/r" / path
    experiment = Experiment("r", "e", path, None, {"n": int(path)}, command=("true",))
    scheduler = {"kind": "slurm", "server": "far", "user": "me", "boot": ""}
    assert record.open_attempt(directory, 1, Opened("rh" + path, scheduler, experiment.config_hash(), {}, "7"))
    record.write_config(directory, experiment)
    os.utime(directory / "attempts/1/job.json", (NOW, NOW))
    return directory / "attempts/1"


def write(place: Path, name: str, **content: Any) -> None:
    (place / name).write_text(json.dumps({"version": 1, "nonce": "n", **content}))


def test_since_is_when_an_experiment_ended_or_began_or_was_opened(server: SshServer, ask: Asked, there: Path) -> None:
    checkout(there)
    for path in "012":
        begin(there, path)
    write(there / "experiments/r/0/attempts/1", "claim.json", at=NOW + 10)
    write(there / "experiments/r/0/attempts/1", "result.json", cause="completed", at=NOW + 100)
    write(there / "experiments/r/1/attempts/1", "claim.json", at=NOW + 20)
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    found = {row["path"]: (row["state"], row["since"]) for row in json.loads(out)["experiments"]}
    assert found == {
        "0": ("completed", NOW + 100),
        "1": ("in_progress", NOW + 20),
        "2": ("in_progress", NOW),
        "3": ("pending", None),
    }
    code, out, _ = ask()
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW + 20)) in out
    assert "run the pass there" in out


def test_a_round_that_does_not_exist_there_gives_the_runner_s_message(
    server: SshServer, ask: Asked, there: Path
) -> None:
    checkout(there)
    code, out, err = ask(name="rr")
    assert (code, out) == (2, "")
    assert err.startswith("ssh_status.py: runner.py on cluster: no round 'rr' in ") and "did you mean 'r'?" in err


# ---------------------------------------------------------------------------------------------- the login shell there


def test_what_startup_files_print_without_a_newline_does_no_harm(server: SshServer, ask: Asked) -> None:
    server.startup_file('printf \'[]\\n[{"path": "x", "state": "failed"}]\\nWelcome\'; printf \'Quota: 99 %%\' >&2\n')
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["experiments"] == ROWS


def test_what_a_login_shell_prints_at_its_end_does_no_harm(server: SshServer, ask: Asked) -> None:
    server.login_shell('bash -c "$SSH_ORIGINAL_COMMAND"; echo "[Bye]"; echo Bye >&2; exit 255')
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["experiments"] == ROWS


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("exit 0", "its shell ended before, with exit code 0. Look for exit or exec in the file ~/.bashrc there"),
        ("echo 'This account is currently not available.'; exit 1", "This account is currently not available."),
        ("echo '[]'; exit 0", "its shell ended before, with exit code 0"),
        ("exec /no/such/shell", "cannot run the command: exit code 127, a program was not found there"),
        ("exec /etc", "cannot run the command: exit code 126, a program is not executable there"),
        ("exit 81", "its shell ended before, with exit code 81"),
        ("exit 2", "its shell ended before, with exit code 2"),
        ("exit 255", "its shell ended before, with exit code 255"),
        ('bash -c "$SSH_ORIGINAL_COMMAND" | head -n 4', "did not report how the command ended"),
    ],
)
def test_a_login_shell_that_does_not_run_the_command_is_reported(
    server: SshServer, ask: Asked, program: str, message: str
) -> None:
    server.login_shell(program)
    code, line = ask.line()
    assert code == 5
    assert line.startswith("ssh_status.py: cluster ") and message in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#!/no/such/python\n", "exit code 127, it or its interpreter was not found there"),
        ("#!/etc\n", "exit code 126, it is not executable there"),
    ],
)
def test_an_interpreter_that_cannot_start_there_is_reported(
    server: SshServer, ask: Asked, there: Path, content: str, message: str
) -> None:
    python = there / "python"
    python.write_text(content)
    python.chmod(0o755)
    server.settings.write_text(server.settings.read_text().replace(sys.executable, "./python"))
    code, line = ask.line()
    assert code == 5
    assert f"cluster cannot run ./python: {message}" in line


# ---------------------------------------------------------------------------------------------- what fails there


def test_output_of_the_shell_before_the_json_is_ignored(server: SshServer, ask: Asked, there: Path) -> None:
    noise = "Welcome!\\n[lmod] loaded\\n[]\\n[1, 2]\\n{\\n"
    answer(there, f"print('{noise}'); print('warning', file=sys.stderr); print(json.dumps({ROWS!r}, indent=1))")
    code, out, err = ask("--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["experiments"] == ROWS


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("print('no rows')", 5, "printed no JSON, but 'no rows'"),
        ("pass", 5, "printed no JSON, but 'nothing'"),
        ("sys.exit('one\\ntwo\\x1b[31m \\n\\n')", 5, "runner.py on cluster failed (exit 1): two?[31m"),
        ("import nowhere_at_all", 5, "failed (exit 1): ModuleNotFoundError: "),
        ("print('runner.py: no such round', file=sys.stderr); sys.exit(2)", 2, "runner.py on cluster: no such round"),
        ("print('runner.py: disk: full', file=sys.stderr); sys.exit(5)", 5, "failed (exit 5): disk: full"),
        ("os.kill(os.getpid(), 9)", 5, "runner.py on cluster was killed there by signal 9"),
        ("print('module load: no such module'); sys.exit(1)", 5, "failed (exit 1): module load: no such module"),
        ("sys.exit(255)", 5, "runner.py on cluster failed (exit 255)"),
    ],
)
def test_a_runner_that_fails_there_is_one_line_with_its_last_error(
    server: SshServer, ask: Asked, there: Path, program: str, code: int, message: str
) -> None:
    answer(there, program)
    seen, line = ask.line()
    assert seen == code
    assert message in line


def test_a_command_that_hangs_is_stopped_on_both_sides(server: SshServer, ask: Asked, there: Path) -> None:
    answer(there, "open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    code, line = ask.line("--timeout", "1")
    assert code == 5
    assert "runner.py on cluster was stopped after 1 s without an answer: see --timeout" in line
    hanging = int((there / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(hanging), "it runs no more", 20)


def test_a_startup_file_that_hangs_is_named(server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_status, "GRACE", 0.0)
    server.startup_file("echo Welcome; sleep 5\n")
    code, line = ask.line("--timeout", "1")
    assert code == 5
    assert "did not run the command within its time limit: look for a command that waits in the file ~/.bashrc" in line
    assert "(Welcome)" in line


def test_a_runner_that_has_ended_counts_though_something_keeps_the_connection(
    server: SshServer, ask: Asked, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_status, "GRACE", 2.0)
    keep = "import subprocess; subprocess.Popen(['sleep', '20'])"
    answer(there, f"{keep}; print('runner.py: no such round', file=sys.stderr); sys.exit(2)")
    code, line = ask.line("--timeout", "2")
    assert code == 2
    assert "runner.py on cluster: no such round" in line


def test_a_connection_that_breaks_meanwhile_is_reported(server: SshServer, ask: Asked, there: Path) -> None:
    up_to_sshd = "next(one for one in psutil.Process().parents() if one.name().startswith('sshd'))"
    answer(there, f"import psutil; {up_to_sshd}.kill(); time.sleep(5)")
    code, line = ask.line()
    assert code == 5
    assert "the connection to cluster was lost" in line


def test_a_missing_folder_is_reported(server: SshServer, ask: Asked, there: Path) -> None:
    code, line = ask.line(remote=f"{there}/nowhere $(id)")
    assert code == 2
    assert (
        line == f"ssh_status.py: cluster has no accessible directory {there}/nowhere $(id): see REMOTE in cluster.env"
    )


def test_a_folder_without_roundhouse_is_reported(server: SshServer, ask: Asked, there: Path) -> None:
    (there / "runner.py").unlink()
    code, line = ask.line()
    assert code == 2
    assert "is no checkout of Roundhouse" in line


def test_a_missing_interpreter_is_reported(server: SshServer, ask: Asked) -> None:
    server.settings.write_text(server.settings.read_text().replace(sys.executable, ".venv/bin/python"))
    code, line = ask.line()
    assert code == 2
    assert "cluster has no .venv/bin/python in " in line and "make install" in line


# ---------------------------------------------------------------------------------------------- the way there


def test_a_host_that_is_down_is_reported(server: SshServer, ask: Asked) -> None:
    server.stop()
    code, line = ask.line()
    assert code == 5
    assert line == "ssh_status.py: cluster cannot be reached: the host or the network is down (Connection refused)"


def test_an_unknown_name_is_reported(server: SshServer, ask: Asked) -> None:
    code, line = ask.line("--host", "nowhere")
    assert code == 5
    assert "nowhere cannot be reached: its name is unknown" in line


def test_a_silent_host_is_given_up(server: SshServer, ask: Asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = server.ssh_config.read_text().replace(f"Port {server.port}", f"Port {silent.getsockname()[1]}")
        server.ssh_config.write_text(text)
        code, line = ask.line("--timeout", "1")
    assert code == 5
    assert "cluster closed the connection or did not answer in time" in line


def test_nothing_is_sent_to_a_host_with_an_unknown_key(server: SshServer, ask: Asked) -> None:
    server.forget_host()
    code, line = ask.line()
    assert code == 5
    assert "the host key of cluster is unknown (SHA256:" in line
    assert "Accepted" not in server.log and "publickey" not in server.log


def test_nothing_is_sent_to_a_host_with_a_changed_key(server: SshServer, ask: Asked) -> None:
    server.new_host_key()
    code, line = ask.line()
    assert code == 5
    assert "the host key of cluster (SHA256:" in line and f"differs from {server.known_hosts}, line 1" in line
    assert "Accepted" not in server.log


def test_a_key_that_known_hosts_marks_as_revoked_is_refused(server: SshServer, ask: Asked) -> None:
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
    assert "is unknown" in ask.line()[1]


def test_one_name_may_have_several_keys(server: SshServer, ask: Asked) -> None:
    """As where many login nodes share a name."""
    theirs = server.known_hosts.read_text()
    ssh_fixture.make_key(server.folder / "other")
    other = (server.folder / "other.pub").read_text()
    server.known_hosts.write_text(f"{theirs.split()[0]} {other}{theirs}")
    assert ask()[0] == 3


def test_a_known_key_is_requested_though_others_are_preferred(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsa = server.folder / "rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", rsa], check=True)
    monkeypatch.setattr(ssh_fixture, "SERVER", ssh_fixture.SERVER + f'HostKey "{rsa}"\n')
    server.restart()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {rsa.with_suffix('.pub').read_text()}")
    assert ask()[0] == 3


def test_a_key_that_is_not_accepted_is_reported(server: SshServer, ask: Asked) -> None:
    server.deny()
    code, line = ask.line()
    assert code == 5
    assert f"cluster does not accept your key for user {getpass.getuser()}" in line


def test_a_host_that_asks_for_a_second_factor_is_reported(server: SshServer, ask: Asked) -> None:
    server.ask_for("publickey,password")
    code, line = ask.line()
    assert code == 5
    assert "cluster asks for a password or a second factor, which a script cannot give" in line


def test_a_host_that_asks_for_a_password_is_reported(server: SshServer, ask: Asked) -> None:
    server.ask_for("password")
    code, line = ask.line()
    assert code == 5
    assert "cluster asks for a password or a second factor, which a script cannot give" in line


def test_a_passphrase_is_not_asked_for(server: SshServer, ask: Asked) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", server.key], check=True)
    code, line = ask.line()
    assert code == 5
    assert f"{server.key} has a passphrase: run ssh-add on it" in line


def test_a_key_that_only_the_agent_holds_is_used(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.agent() as env:
        monkeypatch.setenv("SSH_AUTH_SOCK", env["SSH_AUTH_SOCK"])
        assert ask()[0] == 3
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{env['SSH_AUTH_SOCK']}.gone")
        assert "does not accept your key" in ask.line()[1]


def test_with_identities_only_no_other_key_of_the_agent_is_offered(
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


def test_a_jump_that_leads_in_circles_is_refused(server: SshServer, ask: Asked) -> None:
    server.ssh_config.write_text("Host cluster\n    ProxyJump inner\n" + server.ssh_config.read_text())
    code, line = ask.line()
    assert code == 2
    assert "is a loop at" in line


def test_a_host_that_the_jump_host_cannot_reach_is_reported(server: SshServer, ask: Asked) -> None:
    text = f"Host behind\n    HostName 127.0.0.1\n    Port {free_port()}\n    ProxyJump cluster\n"
    server.ssh_config.write_text(text + server.ssh_config.read_text())
    code, line = ask.line("--host", "behind")
    assert code == 5
    assert "behind cannot be reached: the host or the network is down" in line


@pytest.mark.parametrize("changed", ["unknown", "changed", "denied", "second factor"])
def test_a_jump_host_is_checked_as_strictly_as_the_host_behind_it(server: SshServer, ask: Asked, changed: str) -> None:
    """Both are the same sshd, so the jump host is the first to be refused."""
    change, expected = {
        "unknown": (server.forget_host, "inner has an unknown host key"),
        "changed": (server.new_host_key, "inner has another host key than before"),
        "denied": (server.deny, "inner does not accept your key"),
        "second factor": (lambda: server.ask_for("publickey,password"), "inner asks for a password or a second factor"),
    }[changed]
    change()
    code, line = ask.line("--host", "inner")
    assert code == 5
    assert expected in line


def test_a_jump_host_is_reached_by_a_connection_that_the_user_shares(server: SshServer, ask: Asked) -> None:
    server.share()
    assert server.ssh("true").returncode == 0
    accepted = server.log.count("Accepted publickey")
    assert ask("--host", "inner")[0] == 3
    assert server.log.count("Accepted publickey") == accepted + 1, "for inner; that to cluster was open"


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
    server.ssh_config.write_text(f'Include "{included}/*.conf"\nHost other\n    HostName nowhere.invalid\n')
    assert ask()[0] == 3


def test_without_ssh_config_in_the_settings_ssh_reads_the_user_s_own(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = server.folder / "commands"
    commands.mkdir()
    # ssh finds ~/.ssh/config by the user's entry in passwd, not by $HOME: this gives it a file if none is given.
    (commands / "ssh").write_text(
        '#!/bin/sh\ncase " $* " in *" -F "*) exit 9;; esac\n'
        f'exec {shutil.which("ssh")} -F {shlex.quote(str(server.ssh_config))} "$@"\n'
    )
    (commands / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    lines = [line for line in server.settings.read_text().splitlines() if not line.startswith("SSH_CONFIG")]
    server.settings.write_text("\n".join(lines))
    assert ask()[0] == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Host cluster\n    Port many\n", "line 2: Bad port 'many'"),
        ("Match nonsense\n", "Missing Match criteria for nonsense"),
        ("Host cluster\n    ProxyJump @:x\n", 'line 2: Invalid ProxyJump "@:x"'),
        ("Hots cluster\n", "line 1: Bad configuration option: hots"),
    ],
)
def test_a_configuration_that_ssh_rejects_is_reported(server: SshServer, ask: Asked, text: str, expected: str) -> None:
    server.ssh_config.write_text(text + server.ssh_config.read_text())
    code, line = ask.line()
    assert code == 2
    assert "ssh rejects its configuration for cluster: " in line and expected in line


def test_match_and_tokens_of_the_configuration_are_obeyed(server: SshServer, ask: Asked) -> None:
    text = server.ssh_config.read_text().replace("    HostName 127.0.0.1\n", "", 1).replace("user_key", "%h_key")
    text = text.replace("known_hosts", "known_hosts %d/more", 1).replace('"', "")
    server.key.rename(server.folder / "127.0.0.1_key")
    server.ssh_config.write_text(f"Match originalhost cluster exec true\n    HostName 127.0.0.1\n{text}")
    try:
        assert ask()[0] == 3
    finally:
        (server.folder / "127.0.0.1_key").rename(server.key)


@pytest.mark.parametrize("host", ["cluster", "inner"])
def test_a_banner_and_a_local_command_do_no_harm(server: SshServer, ask: Asked, host: str) -> None:
    (server.folder / "banner").write_text("[]\nPermission denied (password). No newline")
    server.configure(f'Banner "{server.folder}/banner"')
    server.write_client_config("Host *\n    PermitLocalCommand yes\n    LocalCommand printf hello\n")
    code, out, err = ask("--json", "--host", host)
    assert (code, err) == (3, "")
    assert json.loads(out)["experiments"] == ROWS


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["Ciphers chacha20-poly1305@openssh.com"], "no acceptable ciphers"),
        (["KexAlgorithms sntrup761x25519-sha512@openssh.com"], "no acceptable kex algorithm"),
        (["Ciphers aes128-ctr", "MACs umac-64@openssh.com"], "no acceptable macs"),
    ],
)
def test_a_host_without_a_common_algorithm_is_reported(
    server: SshServer, ask: Asked, lines: list[str], what: str
) -> None:
    server.configure(*lines)
    code, line = ask.line()
    assert code == 5
    assert line.startswith("ssh_status.py: cluster has no algorithm in common with paramiko ") and what in line


@pytest.mark.parametrize("end", [-9, -8, -30, -60, -68])
def test_a_malformed_line_of_known_hosts_is_reported_and_does_not_count(
    server: SshServer, ask: Asked, end: int
) -> None:
    good = server.known_hosts.read_text()
    server.known_hosts.write_text(f"# mine\n{good.strip()[:end]}\n{good}")
    assert ask()[0] == 3
    server.known_hosts.write_text(f"# mine\n{good.strip()[:end]}\n")
    code, line = ask.line()
    assert code == 5
    assert "the host key of cluster is unknown (SHA256:" in line
    assert f"correct or remove line 2 of {server.known_hosts}, which is malformed, then run ssh cluster" in line


def test_a_key_of_another_type_than_its_line_says_does_not_count(server: SshServer, ask: Asked) -> None:
    server.known_hosts.write_text(server.known_hosts.read_text().replace("ssh-ed25519", "ssh-rsa"))
    assert "is unknown" in ask.line()[1]


# ---------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("HOST", "not KEY=VALUE: HOST"),
        ("NAME=x", "unknown key NAME"),
        ("HOST=a\nHOST=b", "HOST is given twice"),
        ("HOST=", "HOST has no value"),
        ("HOST=# x", "HOST has no value"),
        ('REMOTE="a', 'the quote " is not closed'),
        ("REMOTE='a' b", "unexpected text after the closing quote: b"),
        ("HOST=-oProxyCommand=x", "HOST must be"),
        ("ROUNDS=a ../b", "(got ../b)"),
        ("CHECKPOINTS=some", "CHECKPOINTS must be none, best or all"),
        ("PYTHON=~/x", "PYTHON must be absolute or relative to REMOTE"),
        ("SSH_CONFIG=/nowhere", "the file /nowhere does not exist"),
        ("REMOTE=a\x07b", "control character"),
    ],
)
def test_a_mistake_in_the_settings_names_file_and_line(
    server: SshServer, ask: Asked, there: Path, line: str, expected: str
) -> None:
    server.settings.write_text(f"# mine\n{line}\n")
    code, message = ask.line("--host", "cluster")
    assert code == 2
    number = 3 if "\n" in line else 2
    assert message.startswith(f"ssh_status.py: {server.settings}, line {number}: ")
    assert expected in message
    assert "Connection from" not in server.log


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "$(touch taken)", ""])
def test_a_host_that_ssh_could_take_for_something_else_is_refused(server: SshServer, ask: Asked, host: str) -> None:
    code, line = ask.line(f"--host={host}")
    assert code == 2
    assert line.startswith("ssh_status.py: --host")


def test_without_settings_the_options_are_enough(
    server: SshServer, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_CLUSTER_ENV", "/nowhere/cluster.env")
    assert ssh_status.main(["--round", "r", "--host", "cluster"]) == 2
    assert "/nowhere/cluster.env does not exist" in ask.capsys.readouterr().err
    found = ssh_status.settings_of
    monkeypatch.setattr(
        ssh_status,
        "settings_of",
        lambda *given: replace(found(*given), ssh=("ssh", "-T", "-F", str(server.ssh_config))),
    )
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

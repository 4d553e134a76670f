"""util.sh, shared by the scripts of the toolbox: settings that are data, quoting, failures of ssh in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY
from ssh_server import SshServer

TOOLBOX = REPOSITORY / "toolbox"
KEYS = ("HOST", "REMOTE", "ROUNDS", "CHECKPOINTS", "PYTHON", "SSH_CONFIG")
GOOD = "HOST=lab\nREMOTE=/far\nROUNDS=r\n"
SHELL_SCRIPTS = sorted(TOOLBOX.glob("*.sh"))
PYTHON_SCRIPTS = [path for path in sorted(TOOLBOX.glob("*.py")) if '__name__ == "__main__"' in path.read_text()]
COMMANDS = [*(path for path in SHELL_SCRIPTS if path.read_text().startswith("#!")), *PYTHON_SCRIPTS]

# Text of one line that is no comment's beginning and has no quotes around it.
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), min_size=1).filter(
    lambda text: text == text.strip() and text[0] not in "\"'#~" and " #" not in text
)


def bash(program: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A program that has sourced util.sh."""
    program = f'set -euo pipefail; . "{TOOLBOX}/util.sh"; {program}'
    env = {"LC_ALL": "C.UTF-8", **(os.environ if env is None else env)}
    return subprocess.run(
        ["bash", "-c", program, "script.sh", *words], env=env, check=False, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def load(folder: Path, content: str) -> subprocess.CompletedProcess[str]:
    """load_settings on a cluster.env with this content, run in the same folder."""
    path = folder / "cluster.env"
    path.write_text(content)
    program = "load_settings; printf '%s\\0' " + " ".join(f'"${key}"' for key in KEYS)
    env = {**os.environ, "ROUNDHOUSE_CLUSTER_ENV": str(path)}
    return bash(f"cd '{folder}'; {program}", env=env)


def loaded(folder: Path, content: str) -> dict[str, str]:
    done = load(folder, content)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(KEYS, done.stdout.split("\0"), strict=False))


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.strip()


# ---------------------------------------------------------------------------------------------- settings


def test_a_missing_optional_key_has_a_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD) == {
        "HOST": "lab", "REMOTE": "/far", "ROUNDS": "r",
        "CHECKPOINTS": "none", "PYTHON": ".venv/bin/python", "SSH_CONFIG": "",
    }  # fmt: skip


def test_the_example_can_be_copied_as_it_is(tmp_path: Path) -> None:
    found = loaded(tmp_path, (TOOLBOX / "cluster.env.example").read_text())
    assert found["HOST"] == "cluster"
    assert found["ROUNDS"].split() == ["beta", "charlie"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("/a b", "/a b"),
        ('"/a b"', "/a b"),
        ("'/a b'", "/a b"),
        ("  /a  ", "/a"),
        ("/a # where it lies", "/a"),
        ("/a#b", "/a#b"),
        ('"/a # b" # comment', "/a # b"),
        ("'it is \"so\"'", 'it is "so"'),
        ("/it's", "/it's"),
        ("/a=b", "/a=b"),
        ("~/a", "a"),
        ('"~/a"', "a"),
        ("~", "."),
        ("$HOME/$(touch pwned)`touch pwned`", "$HOME/$(touch pwned)`touch pwned`"),
        ('"$(touch pwned)"', "$(touch pwned)"),
        ("/a\\nb\\", "/a\\nb\\"),
        ("/a; touch pwned & *", "/a; touch pwned & *"),
    ],
)
def test_a_value_is_taken_literally(tmp_path: Path, written: str, read: str) -> None:
    assert loaded(tmp_path, f"HOST=lab\nROUNDS=r\nREMOTE={written}\n")["REMOTE"] == read
    assert not list(tmp_path.rglob("pwned"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=PLAIN)
def test_any_text_of_one_line_comes_back_as_it_was_written(tmp_path: Path, value: str) -> None:
    assert loaded(tmp_path, f"HOST=lab\nROUNDS=r\nREMOTE={value}\n")["REMOTE"] == value
    if '"' not in value:
        assert loaded(tmp_path, f'HOST=lab\nROUNDS=r\nREMOTE="{value}"\n')["REMOTE"] == value


def test_comments_empty_lines_spaces_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    content = "# first\r\n\r\n  HOST = lab\r\n\t# indented\r\nREMOTE=/far\r\nROUNDS=a  b\r\nCHECKPOINTS=best"
    found = loaded(tmp_path, content)
    assert (found["HOST"], found["REMOTE"], found["CHECKPOINTS"]) == ("lab", "/far", "best")
    assert found["ROUNDS"].split() == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("PASSWORD=secret", "unknown key PASSWORD; the keys are HOST"),
        ("host=lab", "unknown key host"),
        ("export PYTHON=x", "unknown key export PYTHON"),
        ("a[$(touch pwned)]=1", "unknown key"),
        ("touch pwned", "not KEY=VALUE"),
        ("HOST=other", "HOST is given twice"),
        ("PYTHON=", "PYTHON has no value"),
        ("PYTHON=''", "PYTHON has no value"),
        ("PYTHON=# none", "PYTHON has no value"),
        ('PYTHON="x', 'quote " is not closed'),
        ('PYTHON="x"y', "unexpected text after the closing quote: y"),
        ("PYTHON=~/x", "PYTHON must be absolute or relative to REMOTE (got ~/x)"),
        ("PYTHON=a\033[2Jb", "control character"),
        ("CHECKPOINTS=some", "must be none, best or all (got some)"),
        ("SSH_CONFIG=/no/such/file", "the file /no/such/file does not exist"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    done = load(tmp_path, f"{GOOD}# comment\n{line}\n")
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in one_line(done.stderr)
    assert f"{tmp_path}/cluster.env, line 5" in done.stderr
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch", "a b", "lab:22", "$(touch pwned)", "user@", "lab/x", "a\tb"])
def test_a_host_that_ssh_could_take_for_something_else_is_refused(tmp_path: Path, host: str) -> None:
    done = load(tmp_path, f"HOST={host}\nREMOTE=/far\nROUNDS=r\n")
    assert done.returncode == 2
    assert "line 1" in one_line(done.stderr)


@pytest.mark.parametrize("rounds", ["../x", "a b/c", "*", "-r", "$(touch pwned)", "a.yaml", "a,b"])
def test_an_invalid_name_of_a_round_is_refused(tmp_path: Path, rounds: str) -> None:
    done = load(tmp_path, f"HOST=lab\nREMOTE=/far\nROUNDS={rounds}\n")
    assert done.returncode == 2
    assert "the name of a round must consist of" in one_line(done.stderr)


@pytest.mark.parametrize("key", ["HOST", "REMOTE", "ROUNDS"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(key)]
    assert f"{key} is missing" in one_line(load(tmp_path, "\n".join(lines)).stderr)


def test_without_a_file_the_example_is_named(tmp_path: Path) -> None:
    done = bash("load_settings", env={**os.environ, "ROUNDHOUSE_CLUSTER_ENV": str(tmp_path / "none")})
    assert done.returncode == 2
    assert "copy toolbox/cluster.env.example" in one_line(done.stderr)


def test_variables_of_the_environment_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "cluster.env"
    path.write_text(GOOD)
    env = {**os.environ, "ROUNDHOUSE_CLUSTER_ENV": str(path), "HOST": "other", "CHECKPOINTS": "all", "PYTHON": "x"}
    assert bash('load_settings; echo "$HOST $CHECKPOINTS $PYTHON"', env=env).stdout == "lab none .venv/bin/python\n"


@pytest.mark.parametrize(
    ("content", "loaded"),
    [
        (None, "far there none\n"),
        ("ROUNDS=r\nHOST=lab\nREMOTE=/far\nCHECKPOINTS=best\n", "far there best\n"),
        ("HOST=-x\n", "script.sh: {file}, line 1: HOST must be"),
    ],
)
def test_a_host_and_a_folder_override_the_settings(tmp_path: Path, content: str | None, loaded: str) -> None:
    path = tmp_path / "cluster.env"
    if content is not None:
        path.write_text(content)
    env = {**os.environ, "ROUNDHOUSE_CLUSTER_ENV": str(path)}
    done = bash('load_host far "~/there"; echo "$HOST $REMOTE $CHECKPOINTS"', env=env)
    assert (done.stdout + done.stderr).startswith(loaded.format(file=path))


# ---------------------------------------------------------------------------------------------- words


@given(words=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_quoted_words_reach_a_shell_as_they_are(words: list[str]) -> None:
    done = bash('eval "set -- $(remote_quoted "$@")"; printf "%s\\0" "$@"', *words)
    assert done.stdout.split("\0")[:-1] == [word.replace("\r\n", "\n").replace("\r", "\n") for word in words]


def test_a_line_of_the_log_has_the_time_in_utc() -> None:
    env = {**os.environ, "TZ": "Asia/Tokyo"}
    lines = bash("log_line 'a  b'; date -u +%Y-%m-%dT%H", env=env).stdout.splitlines()
    assert lines[0].endswith("Z a  b")
    assert lines[0][:10] == lines[1][:10]


def test_the_interpreter_is_that_of_the_checkout_or_of_the_environment(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    if (REPOSITORY / ".venv").exists():
        assert bash("find_python; echo $python", env=env).stdout.strip() == str(REPOSITORY / ".venv/bin/python")
    assert bash("find_python; echo $python", env={**env, "PYTHON": "/bin/sh"}).stdout.strip() == "/bin/sh"
    missing = bash("find_python", env={**env, "PYTHON": str(tmp_path / "none")})
    assert missing.returncode == 2
    assert "make install" in one_line(missing.stderr)


# ---------------------------------------------------------------------------------------------- ssh

EXPLAINED = 'load_settings; remote "$@" 2>"$ERRORS" || { code=$?; explain_ssh "$ERRORS" || true; exit $code; }'


def remote(server: SshServer, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return bash(EXPLAINED, *words, env={**server.env, "ERRORS": str(server.folder / "errors"), **more})


@pytest.mark.ssh
def test_a_remote_command_gets_its_words_as_they_are_and_gives_its_code(ssh_server: SshServer) -> None:
    ssh_server.set(REMOTE="/far", ROUNDS="r")
    words = ["a b", "it's", "$(touch pwned)", "`x`", "", "*", "-n", "\\", "two\nlines"]
    assert remote(ssh_server, "printf", "%s|", *words).stdout == "|".join(words) + "|"
    assert remote(ssh_server, "sh", "-c", "exit 7").returncode == 7
    assert remote(ssh_server, "cat").stdout == ""  # nothing to read: a script's own input is not given away


def only_dsa_like(server: SshServer) -> None:
    """The client accepts another type of host key only."""
    server.write_client_config("Host *\n    HostKeyAlgorithms ssh-dss\n")


def other_server(server: SshServer) -> None:
    """What answers at the port is no SSH server."""
    answer = "sh -c \"printf '\\\\000\\\\n'; cat >/dev/null\""  # ssh puts exec before the command
    server.write_client_config(f"Host cluster\n    ProxyCommand {answer}\n")


def show_banner(server: SshServer) -> None:
    (server.folder / "banner").write_text(BANNER)
    server.configure(f'Banner "{server.folder}/banner"')


FAILURES: dict[str, tuple[Callable[[SshServer], object], str]] = {
    "stopped": (SshServer.stop, "the host or the network is down"),
    "unknown host key": (SshServer.forget_host, "has an unknown host key"),
    "changed host key": (SshServer.new_host_key, "has another host key than before"),
    "key denied": (SshServer.deny, "does not accept your key"),
    "password wanted": (lambda server: server.ask_for("password"), "asks for a password or a second factor"),
    "second factor wanted": (lambda server: server.ask_for("publickey,password"), "a password or a second factor"),
    "name unknown": (lambda server: server.set(REMOTE="/far", ROUNDS="r", HOST="nowhere"), "its name is unknown"),
    "no cipher": (lambda server: server.configure("Ciphers aes256-cbc"), "has no cipher in common with this ssh"),
    "no key exchange": (
        lambda server: server.configure("KexAlgorithms diffie-hellman-group14-sha1"),
        "has no key exchange method in common with this ssh",
    ),
    "no MAC": (lambda server: server.configure("Ciphers aes128-ctr", "MACs hmac-sha1-96"), "has no MAC in common"),
    "no host key": (only_dsa_like, "has no host key type in common with this ssh"),
    "no SSH server": (other_server, "does not answer as an SSH server"),
    "malformed known_hosts": (
        lambda server: server.known_hosts.write_text(f"# mine\n\n{server.known_hosts.read_text().strip()[:-9]}\n"),
        "has an unknown host key: correct or remove line 3 of ",
    ),
}

# Lines of real banners, with words that ssh uses in its own messages.
BANNER = """\
Unauthorized access is prohibited: Permission denied (password or keyboard-interactive users).
Idle sessions are disconnected. Connection refused to others. Host key verification failed? Call us.
Nodes are unreachable from outside, and requests to them are timed out"""


@pytest.mark.ssh
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", ["directly", "by a jump", "with a banner"])
def test_a_failure_of_ssh_is_one_line_that_says_which(ssh_server: SshServer, failure: str, way: str) -> None:
    change, message = FAILURES[failure]
    ssh_server.set(REMOTE="/far", ROUNDS="r", HOST="cluster" if way == "directly" else "inner")
    if way == "with a banner":
        show_banner(ssh_server)
    change(ssh_server)
    done = remote(ssh_server, "true")
    assert done.returncode == 255
    assert done.stderr == ""
    assert message in one_line(done.stdout)
    assert done.stdout.startswith(("cluster ", "inner ", "nowhere "))


@pytest.mark.ssh
@pytest.mark.parametrize("host", ["cluster", "inner"])
def test_a_connection_that_is_cut_is_reported_also_after_a_banner(ssh_server: SshServer, host: str) -> None:
    ssh_server.set(REMOTE="/far", ROUNDS="r", HOST=host)
    show_banner(ssh_server)
    done = remote(ssh_server, "sh", "-c", "kill -9 $(ps -o ppid= -p $$)")
    assert done.returncode == 255
    assert "closed the connection" in one_line(done.stdout)


@pytest.mark.ssh
def test_a_mistake_in_the_configuration_of_ssh_is_reported(ssh_server: SshServer) -> None:
    ssh_server.set(REMOTE="/far", ROUNDS="r")
    ssh_server.ssh_config.write_text("Hots cluster\n")
    assert "hots" in one_line(remote(ssh_server, "true").stdout)


def test_output_of_an_unknown_host_reaches_the_terminal_as_plain_text(tmp_path: Path) -> None:
    (tmp_path / "errors").write_bytes(b"banner\r\nConnection refused \x1b]0;pwned\x07\xff\r\n" + b"x\n" * 100)
    line = bash(f"HOST=lab; explain_ssh '{tmp_path}/errors'").stdout
    assert one_line(line).isprintable()
    assert "lab cannot be reached" in line


def test_an_ssh_without_a_message_is_reported_too(tmp_path: Path) -> None:
    (tmp_path / "errors").touch()
    program = f"HOST=lab; ssh_words() {{ ssh=(false); }}; explain_ssh '{tmp_path}/errors'"
    assert "no message from ssh" in one_line(bash(program).stdout)


# ---------------------------------------------------------------------------------------------- every script


def test_every_script_of_the_toolbox_passes_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-x", *SHELL_SCRIPTS], cwd=REPOSITORY, check=False, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_every_command_of_the_toolbox_prints_its_usage_in_any_folder(command: Path, tmp_path: Path) -> None:
    words = [sys.executable] if command.suffix == ".py" else []
    env = {**os.environ, "ROUNDHOUSE_CLUSTER_ENV": str(tmp_path / "none")}
    done = subprocess.run(
        [*words, command, "--help"], cwd=tmp_path, env=env, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout
    assert command.name in done.stdout
    assert list(tmp_path.iterdir()) == []

"""A real sshd on this host, for tests: its own keys, port and folder, and nothing is left when they end."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from rounds_for_tests import wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NEEDED = ("ssh", "ssh-keygen", "ssh-add", "ssh-agent", "rsync")
# sshd needs this folder to drop the privileges of root. A distribution creates it when its own sshd starts.
PRIVILEGES = Path("/run/sshd")

SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey "{folder}/host_key"
PidFile "{folder}/sshd.pid"
AuthorizedKeysFile "{folder}/authorized_keys"
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication {password}
KbdInteractiveAuthentication no
AuthenticationMethods {methods}
MaxStartups 100
LogLevel VERBOSE
PrintMotd no
Subsystem sftp internal-sftp
{more}"""

CLIENT = """\
Host *
    User {user}
    UserKnownHostsFile "{folder}/known_hosts"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
{identity}{shared}
Host cluster
    HostName 127.0.0.1
    Port {port}

Host inner
    HostName 127.0.0.1
    Port {port}
    ProxyJump cluster

Host nowhere
    HostName nowhere.invalid
"""

IDENTITY = '    IdentityFile "{folder}/user_key"\n    IdentitiesOnly yes\n'
SHARED = "    ControlMaster auto\n    ControlPath {sockets}/%C\n    ControlPersist 60\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> None:
    """A new key at `path`, with its public half next to it."""
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)


@dataclass
class SshServer:
    """sshd on 127.0.0.1, which accepts this user with a key made by the test.

    `ssh_config` has it as the hosts `cluster` and `inner`, the latter with a jump through the former, and a host
    `nowhere` whose name cannot be resolved. `environment` is the environment of commands on it.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    asks: str = "publickey"  # sshd's AuthenticationMethods
    more: str = ""  # further lines of sshd_config
    shared: bool = False  # whether clients share one connection (ControlMaster)
    _process: subprocess.Popen[bytes] | None = None
    _sockets: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="ssh-"))
    )  # paths of sockets must be short

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        make_key(self.folder / "host_key")
        make_key(self.key)
        self.allow()
        self.know_host()
        self.write_ssh_config()

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def key(self) -> Path:
        """The user's private key."""
        return self.folder / "user_key"

    @property
    def log(self) -> str:
        """The log of sshd."""
        return (self.folder / "sshd.log").read_text(errors="replace")

    @property
    def env(self) -> dict[str, str]:
        """The environment for clients: nothing of the user's own ssh, and the settings that `set` has written."""
        foreign = ("SSH_", "ROUNDHOUSE_", "RSYNC_")
        outside = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**outside, "ROUNDHOUSE_CLUSTER_ENV": str(self.settings)}

    # ------------------------------------------------------------------------------------------ settings of clients

    @property
    def settings(self) -> Path:
        """The toolbox's cluster.env for this server."""
        return self.folder / "cluster.env"

    def set(self, **values: str) -> Path:
        """Write cluster.env: these settings, and HOST and SSH_CONFIG for this server unless they are among them."""
        lines = {"HOST": "cluster", "SSH_CONFIG": str(self.ssh_config), **values}
        self.settings.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        return self.settings

    def write_ssh_config(self, *, identity: bool = True) -> None:
        """The clients' configuration; without `identity`, it names no key."""
        parts = {
            "identity": IDENTITY.format(folder=self.folder) if identity else "",
            "shared": SHARED.format(sockets=self._sockets) if self.shared else "",
        }
        user = getpass.getuser()
        self.ssh_config.write_text(CLIENT.format(user=user, folder=self.folder, port=self.port, **parts))

    def ssh(self, *words: str, host: str = "cluster") -> subprocess.CompletedProcess[str]:
        """A command on it, by a plain ssh."""
        return subprocess.run(
            ["ssh", "-F", self.ssh_config, "-o", "BatchMode=yes", host, *words],
            check=False, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    @contextmanager
    def agent(self) -> Iterator[dict[str, str]]:
        """An ssh-agent that holds the key, which is in no file meanwhile. Yields the environment for clients."""
        place = self._sockets / "agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
        hidden = self.key.read_bytes()
        try:
            env = {**self.env, "SSH_AUTH_SOCK": str(place)}
            query = ["ssh-add", "-l"]  # exit 2: no agent answers
            wait_for(lambda: subprocess.run(query, env=env, capture_output=True).returncode != 2, "ssh-agent listens")
            subprocess.run(["ssh-add", "-q", self.key], env=env, check=True)
            self.key.unlink()
            self.write_ssh_config(identity=False)
            yield env
        finally:
            process.terminate()
            process.wait(10)
            self.key.write_bytes(hidden)
            self.key.chmod(0o600)
            self.write_ssh_config()

    # ------------------------------------------------------------------------------------------ keys

    def allow(self) -> None:
        """The key is accepted."""
        (self.folder / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())

    def deny(self) -> None:
        """The key is not accepted any more."""
        (self.folder / "authorized_keys").write_text("")

    def know_host(self) -> None:
        """Clients know the host's key as it is now."""
        kind, public = (self.folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")

    def forget_host(self) -> None:
        """Clients know no key of the host."""
        self.known_hosts.write_text("")

    def new_host_key(self) -> None:
        """The host has another key, and clients know the old one."""
        make_key(self.folder / "host_key")
        self.restart()

    def ask_for(self, methods: str) -> None:
        """The authentication that clients need: `publickey,password` is a key, and a password after it."""
        self.asks = methods
        self.restart()

    def configure(self, *lines: str) -> None:
        """Add these lines to sshd_config."""
        self.more += "".join(f"{line}\n" for line in lines)
        self.restart()

    def login_shell(self, program: str) -> None:
        """Each command is run by this bash program, which finds the command in $SSH_ORIGINAL_COMMAND."""
        shell = self.folder / "login_shell"
        shell.write_text(f"#!/bin/bash\n{program}\n")
        shell.chmod(0o755)
        self.configure(f'ForceCommand "{shell}"')

    def startup_file(self, program: str) -> None:
        """The user's ~/.bashrc there, which a bash that sshd starts reads."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (home / ".bashrc").write_text(program)
        self.environment["HOME"] = str(home)
        self.restart()

    def write_client_config(self, text: str) -> None:
        """Put lines before the clients' configuration; ssh uses the first value of an option."""
        self.ssh_config.write_text(text + self.ssh_config.read_text())

    def share(self) -> None:
        """Clients share one connection from now on, which stays open between commands."""
        self.shared = True
        self.write_ssh_config()

    # ------------------------------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Listen. The port stays the same over all starts."""
        assert self._process is None
        (self.folder / "sshd.pid").unlink(missing_ok=True)
        if os.geteuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
        with open(self.folder / "sshd.log", "ab") as log:
            self._process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", self._configuration()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        listening = self.folder / "sshd.pid"
        wait_for(lambda: listening.exists() or self._process is None or self._process.poll() is not None, "sshd starts")
        assert listening.exists(), f"sshd does not start: {self.log}"

    def stop(self) -> None:
        """Stop listening, and cut every connection."""
        if self._process is None:
            return
        connections = self.connections()
        self._process.kill()
        self._process.wait()
        self._process = None
        kill(connections)

    def restart(self) -> None:
        self.stop()
        self.start()

    def cut(self) -> int:
        """Cut all connections, and continue to listen; returns how many processes served them."""
        connections = self.connections()
        kill(connections)
        return len(connections)

    def shut_down(self) -> None:
        """Stop, and close clients' shared connections too."""
        self.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def connections(self) -> list[psutil.Process]:
        """The processes that serve connections now."""
        if self._process is None:
            return []
        served = []
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith("sshd"):
                    served.append(child)
        return served

    def _configuration(self) -> Path:
        password = "yes" if "password" in self.asks else "no"
        text = SERVER.format(port=self.port, folder=self.folder, password=password, methods=self.asks, more=self.more)
        if self.environment:
            text += "SetEnv " + " ".join(f'"{key}={value}"' for key, value in self.environment.items()) + "\n"
        path = self.folder / "sshd_config"
        # Newer ones lock out an address for a while after failures, and all tests come from one address.
        path.write_text(text + "PerSourcePenalties no\n")
        if subprocess.run([str(SSHD), "-t", "-f", path], check=False, capture_output=True).returncode != 0:
            path.write_text(text)
        return path


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def require_ssh() -> None:
    """Skip the test, or fail it in CI, where sshd and its clients are not installed."""
    missing = [*([] if SSHD else ["sshd"]), *(name for name in NEEDED if shutil.which(name) is None)]
    if missing:
        reason = f"not installed: {', '.join(missing)} (Debian: openssh-server, rsync)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture
def ssh_server(tmp_path: Path) -> Iterator[SshServer]:
    """A separate server, started."""
    require_ssh()
    server = SshServer(tmp_path / "sshd")
    try:
        server.start()
        yield server
    finally:
        server.shut_down()

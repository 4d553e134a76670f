"""One SSH connection as ~/.ssh/config describes it, which asks nobody for anything and trusts known host keys only."""

from __future__ import annotations

import base64
import glob
import hashlib
import logging
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]

from roundhouse.errors import RoundhouseError
from roundhouse.schedulers.user import user_name

PATIENCE = 15.0  # seconds for each step of a connection
MOST_JUMPS = 8
DEFAULT_KEYS = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
DEFAULT_KNOWN = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
LOST, KILLED = -1, -9  # exit codes of commands that had none of their own
TIMED_OUT = 124  # as `timeout` has it

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else it prints tracebacks


class Trouble(RoundhouseError):
    """A host or what it runs could not be asked: nothing is known to be wrong here."""


# ---------------------------------------------------------------------------------------------- ~/.ssh/config


@dataclass(frozen=True, slots=True)
class Hop:
    """One host on the way, the last one included, as the configuration has it."""

    name: str
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only_identities: bool
    known_hosts: tuple[Path, ...]
    known_as: tuple[str, ...]  # its names in known_hosts
    command: str | None  # ProxyCommand


def read_config(path: Path | None) -> paramiko.SSHConfig:
    """The user's configuration and the system's, or the file `path` alone. RoundhouseError: it is not understood."""
    places = [path] if path else [Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")]
    lines: list[str] = []
    for place in places:
        if place.is_file():
            lines += ["Host *", *_with_includes(place, place.parent)]
    try:
        return paramiko.SSHConfig.from_text("\n".join(lines))
    except paramiko.SSHException as error:
        raise RoundhouseError(f"{places[0]} is not understood: {error}") from None


def _with_includes(path: Path, folder: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a configuration, with those of included files, after which the block goes on that was begun."""
    block = "Host *"
    for line in path.read_text(errors="replace").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() == "match" and re.search(r"(^|[\s!])exec\s", rest):
            raise RoundhouseError(
                f"{path}: Match exec is not understood: name another file by SSH_CONFIG in cluster.env"
            )
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include":
            yield line
            continue
        for pattern in shlex.split(rest):
            for place in sorted(glob.glob(str(folder / Path(pattern).expanduser()))):
                if Path(place).is_file() and depth < MOST_JUMPS:
                    yield from _with_includes(Path(place), folder, depth + 1)
        yield block


def hops_to(config: paramiko.SSHConfig, target: str, depth: int = 0) -> list[Hop]:
    """The way to `target`, [user@]host[:port]: the hosts that it jumps through, and itself at the end."""
    hop, jumps = _hop(config, target)
    if jumps.lower() == "none":
        return [hop]
    if depth == MOST_JUMPS:
        raise RoundhouseError(f"the ProxyJump of {target} leads in circles")
    first, *others = (part.strip() for part in jumps.split(","))
    return [*hops_to(config, first, depth + 1), *(_hop(config, one)[0] for one in others), hop]


def _hop(config: paramiko.SSHConfig, target: str) -> tuple[Hop, str]:
    """One host, and its ProxyJump."""
    parts = re.fullmatch(r"(?:ssh://)?(?:(.+)@)?(\[[^]]+\]|[^:]+)(?::(\d+))?/?", target)
    if parts is None:
        raise RoundhouseError(f"{target!r} is no [user@]host[:port]")
    user, name, port = parts[1], parts[2].strip("[]"), parts[3]
    try:
        said = config.lookup(name)
        number = int(port or said.get("port", 22))
    except (paramiko.SSHException, KeyError, ValueError, ImportError) as error:
        raise RoundhouseError(f"the SSH configuration of {name} is not understood: {error}") from None
    host, alias = said["hostname"], said.get("hostkeyalias")
    keys = [key for key in said.get("identityfile", DEFAULT_KEYS) if key != "none"]
    known = [*_files(said.get("userknownhostsfile")), *_files(said.get("globalknownhostsfile"))]
    if "userknownhostsfile" not in said:
        known += [Path(one).expanduser() for one in DEFAULT_KNOWN]
    here = (host,) if number == 22 else (f"[{host}]:{number}", host)
    hop = Hop(
        name,
        host,
        number,
        user or said.get("user") or user_name(),
        tuple(Path(key).expanduser() for key in keys),
        said.get("identitiesonly", "no").lower() == "yes",
        tuple(known),
        (alias,) if alias else here,
        said.get("proxycommand"),
    )
    return hop, said.get("proxyjump") or "none"


def _files(written: str | None) -> list[Path]:
    """The files that a setting names: one, maybe with spaces in its name, or several."""
    whole = Path(written or "").expanduser()
    return [whole] if whole.is_file() else [Path(one).expanduser() for one in shlex.split(written or "")]


# ---------------------------------------------------------------------------------------------- who is who


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A line of known_hosts that is about the host."""

    kind: str
    key: bytes
    revoked: bool
    where: str


def known_keys(hop: Hop) -> list[KnownKey]:
    """What known_hosts says of a host under the first of its names that is there. Certificates are passed over."""
    for name in hop.known_as:
        if found := [known for file in hop.known_hosts for known in _known_in(file, name.lower())]:
            return found
    return []


def _known_in(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        marker, *fields = line.split() if line.startswith("@") else ["", *line.split()]
        if len(fields) < 3 or fields[0].startswith("#") or marker == "@cert-authority" or not _is_for(fields[0], name):
            continue
        try:
            key = base64.b64decode(fields[2], validate=True)
        except ValueError:
            continue
        yield KnownKey(fields[1], key, marker == "@revoked", f"{file}, line {number}")


def _is_for(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        return bool(paramiko.HostKeys.hash_host(name, patterns) == patterns) if patterns.count("|") == 3 else False
    words = [one.lower().replace("[", "[[]") for one in patterns.split(",")]
    refused = any(fnmatchcase(name, one[1:]) for one in words if one.startswith("!"))
    return not refused and any(fnmatchcase(name, one) for one in words)


def check_host_key(hop: Hop, key: bytes, known: Sequence[KnownKey]) -> None:
    """Trouble unless `key` is one by which the host is known."""
    shown = "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if any(one.revoked and one.key == key for one in known):
        raise Trouble(f"{hop.name} shows a host key that known_hosts calls revoked ({shown})")
    trusted = [one for one in known if not one.revoked]
    if not trusted:
        raise Trouble(
            f"{hop.name} is not known by its host key ({shown}): ssh to it by hand once, and compare the fingerprint "
            "that it shows"
        )
    if all(one.key != key for one in trusted):
        raise Trouble(
            f"{hop.name} has another host key ({shown}) than {trusted[0].where}: ask those who run it whether they "
            "changed it, and only then remove the old one"
        )


def authenticate(transport: paramiko.Transport, hop: Hop, agent: Sequence[paramiko.AgentKey]) -> None:
    """Trouble if the host takes none of the user's keys, or wants more than a key."""
    keys, locked = _keys_of(hop, agent)
    accepted: Sequence[str] = ()
    try:
        transport.auth_none(hop.user)
        return
    except paramiko.BadAuthenticationType as error:
        accepted = error.allowed_types
    for key in keys:
        try:
            more = transport.auth_publickey(hop.user, key)
        except paramiko.AuthenticationException:
            continue
        if not more:
            return
        accepted = more
        break
    if {"password", "keyboard-interactive"} & set(accepted):
        raise Trouble(
            f"{hop.name} asks for a password or a second factor, and a script has none: put the key that it accepts "
            f"into ssh-agent ({', '.join(accepted)})"
        )
    hint = f"; {locked[0]} has a passphrase: ssh-add it" if locked else ": see ssh-add -l, and IdentityFile"
    raise Trouble(f"{hop.name} does not accept your key for user {hop.user}{hint}")


def _keys_of(hop: Hop, agent: Sequence[paramiko.AgentKey]) -> tuple[list[paramiko.PKey], list[Path]]:
    """Keys to try, those of the agent that the configuration names first; and files that need a passphrase."""
    held = {key.asbytes(): key for key in agent}
    named: list[paramiko.PKey] = []
    files: list[paramiko.PKey] = []
    locked: list[Path] = []
    for path in hop.identities:
        public = _public_key(Path(f"{path}.pub"))
        if public in held:
            named.append(held.pop(public))
        elif path.is_file():
            try:
                files.append(paramiko.PKey.from_path(path))
            except (OSError, TypeError, ValueError, paramiko.SSHException, paramiko.UnknownKeyType):
                locked.append(path)
    return [*named, *([] if hop.only_identities else held.values()), *files], locked


def _public_key(path: Path) -> bytes | None:
    try:
        return base64.b64decode(path.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


# ---------------------------------------------------------------------------------------------- the connection


def connect(hops: Sequence[Hop], patience: float, stack: ExitStack) -> paramiko.Transport:
    """A connection to the last of `hops` through the others, which ends with `stack`. Trouble: why there is none."""
    agent = paramiko.Agent()
    stack.callback(agent.close)
    transport: paramiko.Transport | None = None
    for hop in hops:
        through = _socket(hop, transport, patience, stack)
        try:
            transport = paramiko.Transport(through)
            stack.callback(transport.close)
            transport.banner_timeout = transport.auth_timeout = patience
            known = known_keys(hop)
            asked = {one.kind for one in known}
            options = transport.get_security_options()
            options.key_types = sorted(options.key_types, key=lambda one: _kind(one) not in asked)
            transport.start_client(timeout=patience)
            check_host_key(hop, transport.get_remote_server_key().asbytes(), known)
            authenticate(transport, hop, agent.get_keys())
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Trouble(f"{hop.name} closed the connection or did not answer in time ({_said(error)})") from None
    assert transport is not None
    return transport


def _kind(algorithm: str) -> str:
    """The kind of key, as known_hosts has it, that an algorithm is for."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _socket(hop: Hop, before: paramiko.Transport | None, patience: float, stack: ExitStack) -> Any:
    """Bytes to the host and back: through the hop before it, its ProxyCommand, or straight."""
    try:
        if before is not None:
            return before.open_channel("direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=patience)
        if hop.command:
            return _proxy(hop.command, stack)
        return stack.enter_context(socket.create_connection((hop.host, hop.port), patience))
    except socket.gaierror as error:
        why = f"its name is not known. Is there a network, and HOST right? ({error.strerror})"
    except (OSError, paramiko.SSHException) as error:
        why = f"it is away, or the network is ({_said(error)})"
    raise Trouble(f"{hop.name} cannot be reached: {why}")


def _proxy(command: str, stack: ExitStack) -> socket.socket:
    """What a ProxyCommand leads to. It has no terminal to ask at."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    with theirs:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return ours


def _said(error: BaseException) -> str:
    """The words of an exception, on one line and without what a terminal would obey."""
    return plain(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def plain(text: str) -> str:
    """Text from elsewhere, as it may be shown: on one line, and without what a terminal would obey."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said. Its exit code may be LOST (the connection broke), KILLED (by a signal) or TIMED_OUT."""

    code: int
    stdout: str
    stderr: str


def run(transport: paramiko.Transport, words: Sequence[str], seconds: float) -> Answer:
    """One command, exactly these words whatever they hold, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        channel = transport.open_session(timeout=PATIENCE)
        channel.exec_command(shlex.join(words))
        channel.shutdown_write()
        heard = []
        for receive in (channel.recv, channel.recv_stderr):  # of stderr, the window holds 2 MiB meanwhile
            parts = []
            channel.settimeout(max(0.1, deadline - time.monotonic()))
            while part := receive(1 << 16):
                parts.append(part)
                channel.settimeout(max(0.1, deadline - time.monotonic()))
            heard.append(b"".join(parts).decode(errors="replace"))
        channel.status_event.wait(max(0.1, deadline - time.monotonic()))
        none = KILLED if transport.is_active() else LOST
        return Answer(none if channel.exit_status < 0 else channel.exit_status, *heard)
    except TimeoutError:
        return Answer(TIMED_OUT, "", "")
    except (paramiko.SSHException, EOFError, OSError) as error:
        return Answer(LOST, "", _said(error))

"""One SSH connection by paramiko. OpenSSH supplies the rules, so that the shell scripts and this module share them.

`ssh -G` resolves the options of the host, `ssh-keygen -F` finds its known keys, `ssh -W` connects through jump hosts,
and toolbox/util.sh explains why a host cannot be reached. Nothing asks for a password; unknown host keys are refused.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import IO

import paramiko  # type: ignore[import-untyped]

from roundhouse.errors import RoundhouseError

UTIL = Path(__file__).resolve().with_name("util.sh")
STEP_TIMEOUT = 15.0  # seconds for each step of a connection
OPTIONS = ("hostname", "port", "user", "identityfile", "identitiesonly", "userknownhostsfile", "globalknownhostsfile",
           "hostkeyalias", "proxycommand", "proxyjump")  # fmt: skip
LOST = -1  # the exit code of a command whose own did not arrive
KILLED = 137  # as a shell has it
TIMED_OUT = 124  # as `timeout` has it

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # otherwise it prints tracebacks


class Unavailable(RoundhouseError):
    """The host, or a command on it, did not respond. The local settings may be correct."""


def printable(text: str) -> str:
    """Text from elsewhere on one line, without characters that a terminal would obey."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))


def call_util(program: str, *words: str, given: str = "") -> str:
    """Output of a bash program that has the functions of util.sh and the input `given`. RoundhouseError: it failed."""
    command = ["bash", "-c", f'. "$1"; shift; {program}', "util.sh", str(UTIL), *words]
    done = subprocess.run(command, check=False, input=given, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RoundhouseError(printable(done.stderr).removeprefix("util.sh: "))
    return done.stdout


# ---------------------------------------------------------------------------------------------- options of the host


@dataclass(frozen=True, slots=True)
class SshHost:
    """The host to connect to. `name` is what the user calls it, the rest are the options that `ssh -G` prints."""

    name: str
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only_identities: bool
    known_hosts: tuple[Path, ...]
    known_as: tuple[str, ...]  # its names in known_hosts
    proxy: tuple[str, ...]  # a command whose input and output lead to the host; empty: connect directly


def resolve(ssh: Sequence[str], name: str) -> SshHost:
    """The options for [user@]host; `ssh` is the command of util.sh. RoundhouseError: ssh rejects its configuration."""
    found = _options(ssh, name)
    host, port, alias = found["hostname"], int(found["port"]), found.get("hostkeyalias")
    _check_jumps(ssh, name, found.get("proxyjump"))
    return SshHost(
        name=name,
        host=host,
        port=port,
        user=found["user"],
        identities=tuple(Path(one).expanduser() for one in found.get("identityfile", ()) if one != "none"),
        only_identities=found.get("identitiesonly") == "yes",
        known_hosts=(*_files(found.get("userknownhostsfile", "")), *_files(found.get("globalknownhostsfile", ""))),
        known_as=(alias,) if alias else (host,) if port == 22 else (f"[{host}]:{port}", host),
        proxy=_proxy_command(ssh, found),
    )


def _proxy_command(ssh: Sequence[str], found: paramiko.SSHConfigDict) -> tuple[str, ...]:
    """What ssh itself does for ProxyJump; its own options apply to the jump host too, so it cannot ask there either."""
    if "proxyjump" in found:
        *before, last = found["proxyjump"].split(",")
        jumps = ("-J", ",".join(before)) if before else ()
        ssh = (ssh[0], "-o", "LogLevel=INFO", *ssh[1:])  # with ERROR it does not say why it cannot connect to the host
        return (*ssh, *jumps, "-W", f"[{found['hostname']}]:{found['port']}", "--", _uri(last))
    return ("sh", "-c", f"exec {found['proxycommand']}") if "proxycommand" in found else ()


def _uri(jump: str) -> str:
    """A jump host, [user@]host[:port], in the form that ssh accepts as a destination."""
    return f"ssh://{jump.removeprefix('ssh://')}"


def _options(ssh: Sequence[str], name: str) -> paramiko.SSHConfigDict:
    """What `ssh -G` prints; paramiko expands %h, %u and others in it, which `ssh -G` leaves as they are."""
    try:
        done = subprocess.run(
            [*ssh, "-G", "--", name], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=STEP_TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RoundhouseError(f"ssh -G {name} failed: {error}") from None
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit {done.returncode}"]
        raise RoundhouseError(f"ssh rejects its configuration for {name}: {printable(lines[0])}")
    lines = [line for line in done.stdout.splitlines() if line.partition(" ")[0] in OPTIONS]
    lines = [line for line in lines if not re.fullmatch("(proxy.*|hostkeyalias) none", line)]
    return paramiko.SSHConfig.from_text("\n".join(["Host *", *lines])).lookup(name.rpartition("@")[2])


def _check_jumps(ssh: Sequence[str], name: str, jump: str | None) -> None:
    """RoundhouseError if jump hosts lead back to one another: ssh would start itself without end."""
    passed = {_uri(name)}
    while jump:
        first = _uri(jump.split(",")[0])
        if first in passed:
            raise RoundhouseError(f"the ProxyJump of {name} is a loop at {first}: correct ~/.ssh/config")
        passed.add(first)
        jump = _options(ssh, first).get("proxyjump")


def _files(written: str) -> list[Path]:
    """The files that an option names: one, maybe with spaces in its name, or several."""
    whole = Path(written).expanduser()
    return [whole] if whole.is_file() else [Path(one).expanduser() for one in shlex.split(written)]


# ---------------------------------------------------------------------------------------------- host key, user key


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A line of known_hosts about the host. `place` names its file and line."""

    kind: str
    key: bytes
    revoked: bool
    place: str


def known_keys(target: SshHost) -> list[KnownKey]:
    """The keys under the first of the host's names that known_hosts has. Certificate authorities are left out."""
    for name in target.known_as:
        if found := [known for file in target.known_hosts for known in _known_in(file, name)]:
            return found
    return []


def _known_in(file: Path, name: str) -> Iterator[KnownKey]:
    command = ["ssh-keygen", "-F", name, "-f", str(file)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    for head, line in re.findall(r"^# Host .* found: (line \d+).*\n(.+)$", done.stdout, re.MULTILINE):
        marker, *fields = line.split() if line.startswith("@") else ["", *line.split()]
        if marker != "@cert-authority" and (key := _decoded(fields)):
            yield KnownKey(fields[1], key, marker == "@revoked", f"{file}, {head}")


def _decoded(fields: Sequence[str]) -> bytes | None:
    """The key of a line: names, type, key in base64. None if it is malformed: ssh ignores such lines too."""
    try:
        key = base64.b64decode(fields[2], validate=True)
    except (IndexError, ValueError):
        return None
    parts, rest = [], key
    while rest:
        size = 4 + int.from_bytes(rest[:4], "big")
        if len(rest) < size:
            return None
        parts.append(rest[4:size])
        rest = rest[size:]
    return key if len(parts) > 1 and parts[0] == fields[1].encode() else None


def check_host_key(target: SshHost, key: bytes, known: Sequence[KnownKey]) -> None:
    """Unavailable unless `key` is one of the known keys."""
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if any(one.revoked and one.key == key for one in known):
        raise Unavailable(f"{target.name} has a host key that known_hosts marks as revoked ({fingerprint})")
    trusted = [one for one in known if not one.revoked]
    if not trusted:
        malformed = call_util('malformed_line "$@"', *map(str, target.known_hosts)) if target.known_hosts else ""
        raise Unavailable(
            f"the host key of {target.name} is unknown ({fingerprint}): {malformed}run ssh {target.name} once and "
            "compare the fingerprint that it prints"
        )
    if all(one.key != key for one in trusted):
        raise Unavailable(
            f"the host key of {target.name} ({fingerprint}) differs from {trusted[0].place}: ask the administrators "
            "whether they changed it, and only then remove the old one"
        )


def authenticate(transport: paramiko.Transport, target: SshHost, agent: Sequence[paramiko.AgentKey]) -> None:
    """Unavailable if the host accepts none of the user's keys, or requires more than a key."""
    keys, locked = _keys_of(target, agent)
    accepted: Sequence[str] = ()
    try:
        transport.auth_none(target.user)
        return
    except paramiko.BadAuthenticationType as error:
        accepted = error.allowed_types
    for key in keys:
        try:
            more = transport.auth_publickey(target.user, key)
        except paramiko.AuthenticationException:
            continue
        if not more:
            return
        accepted = more
        break
    if {"password", "keyboard-interactive"} & set(accepted):
        raise Unavailable(
            f"{target.name} asks for a password or a second factor, which a script cannot give: add the key that it "
            f"accepts to ssh-agent ({', '.join(accepted)})"
        )
    hint = f"; {locked[0]} has a passphrase: run ssh-add on it" if locked else ": see ssh-add -l, and IdentityFile"
    raise Unavailable(f"{target.name} does not accept your key for user {target.user}{hint}")


def _keys_of(target: SshHost, agent: Sequence[paramiko.AgentKey]) -> tuple[list[paramiko.PKey], list[Path]]:
    """Keys to try, first those of the agent that the configuration names; and files that need a passphrase."""
    held = {key.asbytes(): key for key in agent}
    named: list[paramiko.PKey] = []
    files: list[paramiko.PKey] = []
    locked: list[Path] = []
    for path in target.identities:
        public = _public_key(Path(f"{path}.pub"))
        if public in held:
            named.append(held.pop(public))
        elif path.is_file():
            try:
                files.append(paramiko.PKey.from_path(path))
            except paramiko.UnknownKeyType:
                continue  # such as a key that lies on a security token
            except (OSError, TypeError, ValueError, paramiko.SSHException):
                locked.append(path)
    return [*named, *([] if target.only_identities else held.values()), *files], locked


def _public_key(path: Path) -> bytes | None:
    try:
        return base64.b64decode(path.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


# ---------------------------------------------------------------------------------------------- the connection


def connect(target: SshHost, timeout: float, stack: ExitStack) -> paramiko.Transport:
    """A connection that `stack` closes. `timeout`: seconds for each step. Unavailable: why there is none."""
    agent = paramiko.Agent()
    stack.callback(agent.close)
    errors = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    stream = _proxy(target.proxy, errors, stack) if target.proxy else _socket(target, timeout, stack)
    try:
        transport = paramiko.Transport(stream)
        stack.callback(transport.close)
        transport.banner_timeout = transport.auth_timeout = timeout
        known = known_keys(target)
        kinds = {one.kind for one in known}
        security = transport.get_security_options()
        security.key_types = sorted(security.key_types, key=lambda one: _kind(one) not in kinds)
        transport.start_client(timeout=timeout)
        check_host_key(target, transport.get_remote_server_key().asbytes(), known)
        authenticate(transport, target, agent.get_keys())
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise Unavailable(
            f"{target.name} has no algorithm in common with paramiko {paramiko.__version__} ({_reason(error)}): update "
            "the older of the two"
        ) from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        errors.seek(0)
        if text := errors.read().decode(errors="replace"):
            raise _unreachable(target, text) from None
        raise Unavailable(f"{target.name} closed the connection or did not answer in time ({_reason(error)})") from None
    return transport


def _kind(algorithm: str) -> str:
    """The kind of key, as known_hosts has it, that an algorithm is for."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _socket(target: SshHost, timeout: float, stack: ExitStack) -> socket.socket:
    try:
        return stack.enter_context(socket.create_connection((target.host, target.port), timeout))
    except OSError as error:
        raise _unreachable(target, _reason(error)) from None


def _proxy(command: Sequence[str], errors: IO[bytes], stack: ExitStack) -> socket.socket:
    """The input and output of a command that leads to the host. It has no terminal, so it cannot ask anything."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    env = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    with theirs:
        end = theirs.fileno()
        process = subprocess.Popen(command, stdin=end, stdout=end, stderr=errors, start_new_session=True, env=env)
    stack.callback(_end, process)
    return ours


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children, such as the ssh to a further jump host."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)
    process.wait()


def _unreachable(target: SshHost, text: str) -> Unavailable:
    return Unavailable(call_util("HOST=$1; explain_ssh /dev/stdin || true", target.name, given=text).strip())


def _reason(error: BaseException) -> str:
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of a command. Its exit code may be LOST (the connection broke), KILLED (by a signal) or TIMED_OUT."""

    code: int
    stdout: str
    stderr: str


def run(transport: paramiko.Transport, words: Sequence[str], seconds: float) -> Answer:
    """Run one command, exactly these words whatever they contain, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    output, errors, channel = bytearray(), bytearray(), None

    def answer(code: int) -> Answer:
        return Answer(code, output.decode(errors="replace"), errors.decode(errors="replace"))

    try:
        channel = transport.open_session(timeout=STEP_TIMEOUT)
        channel.exec_command(shlex.join(words))
        channel.shutdown_write()
        # While the first is read, the window holds 2 MiB of stderr.
        for receive, received in ((channel.recv, output), (channel.recv_stderr, errors)):
            channel.settimeout(max(0.1, deadline - time.monotonic()))
            while part := receive(1 << 16):
                received += part
                channel.settimeout(max(0.1, deadline - time.monotonic()))
        channel.status_event.wait(max(0.1, deadline - time.monotonic()))
        none = KILLED if transport.is_active() else LOST
        return answer(none if channel.exit_status < 0 else channel.exit_status)
    except TimeoutError:
        while channel and channel.recv_stderr_ready() and (part := channel.recv_stderr(1 << 16)):
            errors += part
        return answer(TIMED_OUT)
    except (paramiko.SSHException, EOFError, OSError) as error:
        return Answer(LOST, "", _reason(error))


# Prints `ended CODE`, or why the program did not begin or end.
READ_ANSWER = """HOST=$1 code=$2; read_answer "$3" "$4"
if [ -z "$started" ]; then explain_shell "$code" "$3" "$4"
elif [ -z "$ended" ] && [ "$code" -ne 124 ]; then explain_end "$code" "$3" "$4"
else echo "ended $code"; fi || true
"""


def run_marked(name: str, transport: paramiko.Transport, program: str, words: Sequence[str], seconds: float) -> Answer:
    """Run a program for sh, with `words` as $0 and its arguments, on the host `name`; without what shells print there.

    Unavailable: it did not begin, or it did not report its exit code, though the connection and time were left.
    A program that has reported its exit code has ended, though something may keep the connection open.
    """
    answer = run(transport, ["sh", "-c", call_util('marked "$1"', program), *words], seconds)
    if answer.code == LOST:
        return answer
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        output.write_bytes(answer.stdout.encode())
        errors.write_bytes(answer.stderr.encode())
        found = call_util(READ_ANSWER, name, str(answer.code), str(output), str(errors)).strip()
        if ended := re.fullmatch(r"ended (\d+)", found):
            return Answer(int(ended[1]), *(one.read_bytes().decode(errors="replace") for one in (output, errors)))
    raise Unavailable(found)

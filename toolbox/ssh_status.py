#!/usr/bin/env python3
"""How a round stands on the cluster: what runs, failed or is blocked, and since when. One SSH connection.

It never asks for a password, and tells nothing to a host whose key is not in known_hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from roundhouse.errors import RoundhouseError
from roundhouse.names import is_name
from toolbox.ssh_connection import (
    KILLED,
    LOST,
    PATIENCE,
    TIMED_OUT,
    Answer,
    Trouble,
    connect,
    hops_to,
    plain,
    read_config,
    run,
)

if TYPE_CHECKING:
    from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
DONE, USAGE, WORK_REMAINS, FAILED, TROUBLE, INTERRUPTED = 0, 2, 3, 4, 5, 130
EXIT_CODES = """\
exit codes:
  0  all experiments are completed or pruned
  2  usage or settings are wrong: an option, cluster.env, the folder or the interpreter there, the round
  3  work remains: something is pending, submitting or in progress
  4  nothing goes on, and something failed, is blocked, or was cancelled
  5  the host or its scheduler could not be asked: call again later
  130  interrupted

~/.ssh/config is respected: names, keys, ssh-agent, ProxyJump, ProxyCommand, Include; not Match exec. A key with a
passphrase is used through ssh-agent only.
"""
KEYS = ("HOST", "REMOTE", "ROUNDS", "CHECKPOINTS", "PYTHON", "SSH_CONFIG")
HOSTS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
GRACE = 10.0  # seconds after which a command that should have ended itself is left alone
WIDE = 160  # columns of a table that goes into a file or a pipe

NO_FOLDER, NO_RUNNER, NO_PYTHON = 81, 82, 83
# One line, for the shell that it passes through may be any; `timeout` ends it there too, however the line is cut.
SCRIPT = (
    f'CDPATH= cd -- "$1" 2>/dev/null || exit {NO_FOLDER}; [ -f runner.py ] || exit {NO_RUNNER}; '
    f'command -v "$2" >/dev/null || exit {NO_PYTHON}; python=$2 limit=$3; shift 3; '
    'if command -v timeout >/dev/null; then exec timeout -k 5 "$limit" "$python" "$@"; fi; exec "$python" "$@"'
)


# ---------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to ask. `remote` is counted from the home folder there, `python` from `remote`, unless absolute."""

    host: str
    remote: str
    python: str
    ssh_config: Path | None


def settings_of(host: str | None, remote: str | None) -> Settings:
    """What toolbox/cluster.env, or $ROUNDHOUSE_CLUSTER_ENV, says; the arguments win. RoundhouseError: a mistake."""
    path = Path(os.environ.get("ROUNDHOUSE_CLUSTER_ENV") or REPOSITORY / "toolbox/cluster.env")
    needed = host is None or remote is None
    if needed and not path.is_file():
        raise RoundhouseError(
            f"there is no {path}: copy toolbox/cluster.env.example to it, or give --host and --remote"
        )
    told = read_settings(path) if path.is_file() else {}
    told |= {key: value for key, value in (("HOST", host), ("REMOTE", remote)) if value is not None}
    for key in ("HOST", "REMOTE"):
        if not told.get(key):
            raise RoundhouseError(f"{path}: {key} is missing" if needed else f"--{key.lower()} is empty")
    if not HOSTS.fullmatch(told["HOST"]):
        raise RoundhouseError(f"--host must be a host of ~/.ssh/config or user@host, not {told['HOST']}")
    folder = "." if told["REMOTE"] in ("~", "~/") else told["REMOTE"].removeprefix("~/")
    config = Path(told["SSH_CONFIG"]) if "SSH_CONFIG" in told else None
    return Settings(told["HOST"], folder, told.get("PYTHON", ".venv/bin/python"), config)


def read_settings(path: Path) -> dict[str, str]:
    """The lines KEY=VALUE of a file, read as util.sh does: nothing is expanded. RoundhouseError names the line."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError as error:
        raise RoundhouseError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        key, sign, written = (part.strip() for part in line.partition("="))
        if not sign:
            raise RoundhouseError(f"{where}: not KEY=VALUE: {key}")
        if key not in KEYS:
            raise RoundhouseError(f"{where}: unknown key {key}; there are {', '.join(KEYS)}")
        if key in found:
            raise RoundhouseError(f"{where}: {key} is given twice")
        found[key] = _value(written, where)
        _check_setting(key, found[key], where)
    return found


def _value(written: str, where: str) -> str:
    """A value without its quotes, and without a comment after it."""
    quote = written[:1]
    if quote not in ('"', "'"):
        return "" if quote == "#" else re.split(r"\s#", written)[0].strip()
    value, closing, rest = written[1:].partition(quote)
    if not closing:
        raise RoundhouseError(f"{where}: the quote {quote} is not closed")
    if rest.strip() and not rest.strip().startswith("#"):
        raise RoundhouseError(f"{where}: after the closing quote there is {rest.strip()}")
    return value


def _check_setting(key: str, value: str, where: str) -> None:
    wrong = {
        "HOST": not HOSTS.fullmatch(value) and f"HOST must be a host of ~/.ssh/config or user@host, not {value}",
        "ROUNDS": not all(map(is_name, value.split())) and f"{value} are no names of rounds: letters, digits, - and _",
        "CHECKPOINTS": value not in ("none", "best", "all") and f"CHECKPOINTS must be none, best or all, not {value}",
        "PYTHON": value.startswith("~") and f"PYTHON must be a path from / or from REMOTE, not {value}",
        "SSH_CONFIG": not Path(value).is_file() and f"SSH_CONFIG: there is no file {value}",
    }
    problem = (not value and f"{key} has no value") or wrong.get(key)
    if re.search(r"[\x00-\x1f\x7f]", value):
        problem = f"{key} holds a control character"
    if problem:
        raise RoundhouseError(f"{where}: {problem}")


# ---------------------------------------------------------------------------------------------- what was said


def rows_in(text: str) -> list[dict[str, Any]] | None:
    """The rows of `--status --json`, whatever the shells there have printed before them; None if there are none."""
    for start in re.finditer(r"^\[", text, re.MULTILINE):
        try:
            rows = json.loads(text[start.start() :])
        except ValueError:
            continue
        if isinstance(rows, list) and all(isinstance(row, dict) and {"path", "state"} <= row.keys() for row in rows):
            return rows
    return None


def understand(answer: Answer, settings: Settings, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """The rows, and what trouble the runner had with its scheduler. RoundhouseError: there are none, and why."""
    host, folder = settings.host, settings.remote
    missing = {
        NO_FOLDER: f"{host} has no folder {folder} that can be entered: see REMOTE in cluster.env",
        NO_RUNNER: f"{folder} on {host} is no checkout of Roundhouse: there is no runner.py in it",
        NO_PYTHON: f"{host} has no {settings.python} in {folder}: run make install there, or see PYTHON in cluster.env",
    }
    if answer.code in missing:
        raise RoundhouseError(missing[answer.code])
    lines = [plain(line) for line in answer.stderr.splitlines() if line.strip()]
    last = lines[-1].removeprefix("runner.py: ") if lines else "it said nothing"
    if answer.code == TIMED_OUT:
        raise Trouble(f"runner.py on {host} gave no answer within {seconds:g} s and was ended: see --timeout")
    if answer.code == LOST:
        raise Trouble(f"the connection to {host} was lost ({last})")
    if answer.code == KILLED:
        raise Trouble(f"runner.py on {host} was killed there ({last})")
    rows = rows_in(answer.stdout)
    if answer.code == USAGE:
        raise RoundhouseError(f"runner.py on {host}: {last}")
    if answer.code not in (DONE, TROUBLE) or (answer.code == TROUBLE and rows is None):
        raise Trouble(f"runner.py on {host} failed (exit {answer.code}): {last}")
    if rows is None:
        said = plain(answer.stdout)[-100:] or "nothing"
        raise Trouble(f"runner.py on {host} told no JSON, but {said!r}: does something there print at its exit?")
    return rows, last if answer.code == TROUBLE else ""


GOING = ("pending", "submitting", "in_progress")  # what a Roundhouse that does not tell `goes_on` would go on with


def exit_code(rows: Sequence[Mapping[str, Any]], trouble: str) -> int:
    states = {row["state"] for row in rows}
    if trouble:
        return TROUBLE
    if states <= {"completed", "pruned"}:
        return DONE
    return WORK_REMAINS if any(row.get("goes_on", row["state"] in GOING) for row in rows) else FAILED


# ---------------------------------------------------------------------------------------------- telling

SHOWN = {"failed": "red", "blocked": "yellow", "cancelled": "magenta", "in_progress": "cyan", "submitting": "cyan"}


def table(rows: Sequence[Mapping[str, Any]], now: float) -> Table:
    """What needs a person, then what goes on. What is completed or has not begun is in the summary alone."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("experiment", "state", "since", "job", "epoch", "reason"):
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in ("experiment", "reason"))
    for state, style in SHOWN.items():
        for row in rows:
            if row["state"] == state:
                job = " ".join(str(row[key]) for key in ("job_id", "job_state") if row.get(key))
                epoch = f"{row['epoch']}/{row['epochs']}" if row.get("epochs") else ""
                cells = (row["path"], (state, style), since(row.get("since"), now), job, epoch, row.get("reason") or "")
                drawn.add_row(*(Text(plain(one)) if isinstance(one, str) else Text(*one) for one in cells))
    return drawn


def since(at: float | None, now: float) -> str:
    """A time of this machine's zone, and how long ago it was."""
    if not at:
        return ""
    age = max(0.0, now - at)
    told = f"{age / 60:.0f} min" if age < 5400 else f"{age / 3600:.0f} h" if age < 172800 else f"{age / 86400:.0f} d"
    return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(at))} ({told})"


def tell(rows: Sequence[Mapping[str, Any]], name: str, host: str, as_json: bool) -> None:
    counts = Counter(row["state"] for row in rows)
    if as_json:
        told = {"round": name, "host": host, "asked_at": time.time(), "counts": counts, "experiments": rows}
        print(json.dumps(told, indent=1), flush=True)
        return
    from rich.console import Console

    drawn = table(rows, time.time())
    if drawn.row_count:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(drawn)
    parts = ", ".join(f"{count} {plain(state)}" for state, count in counts.items())
    print(f"Round {name} on {host}: {len(rows)} experiments: {parts or 'none'}.", flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ssh_status.py",
        description=str(__doc__).replace("\n\n", "\n"),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--round", metavar="NAME", required=True)
    made.add_argument("--host", metavar="HOST", help="a host of ~/.ssh/config, or user@host; else as cluster.env says")
    made.add_argument("--remote", metavar="DIR", help="the folder of Roundhouse there; else as cluster.env says")
    made.add_argument("--only", metavar="GLOB", help="only experiments whose path matches, such as 'cifar10/*'")
    made.add_argument("--json", action="store_true", help="counts, and one object for each experiment")
    made.add_argument("--timeout", metavar="SECONDS", type=int, default=60, help="for runner.py there; 60 if left out")
    return made


def ask(options: argparse.Namespace) -> int:
    """Ask, and tell. Returns the exit code. RoundhouseError: what was wrong."""
    if not is_name(options.round):
        raise RoundhouseError(f"{options.round!r} is no name of a round: letters, digits, - and _ only")
    if options.timeout < 1:
        raise RoundhouseError(f"--timeout {options.timeout} makes no sense")
    settings = settings_of(options.host, options.remote)
    hops = hops_to(read_config(settings.ssh_config), settings.host)
    words = ["sh", "-c", SCRIPT, "sh", settings.remote, settings.python, str(options.timeout), "runner.py"]
    words += ["--round", options.round, "--status", "--json", *(["--only", options.only] if options.only else [])]
    with ExitStack() as stack:
        answer = run(connect(hops, min(PATIENCE, options.timeout), stack), words, options.timeout + GRACE)
    rows, trouble = understand(answer, settings, options.timeout)
    tell(rows, options.round, settings.host, options.json)
    if trouble:
        print(f"ssh_status.py: {settings.host}: {trouble}", file=sys.stderr)
    return exit_code(rows, trouble)


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        return ask(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return TROUBLE
    except RoundhouseError as error:
        print(f"ssh_status.py: {error}", file=sys.stderr)
        return TROUBLE if isinstance(error, Trouble) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

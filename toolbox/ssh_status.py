#!/usr/bin/env python3
"""Show the status of a round on the cluster: what runs, failed or is blocked, and since when. One SSH connection.

It never asks for a password, and sends nothing to a host whose key is not in known_hosts.
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
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from roundhouse.errors import RoundhouseError
from roundhouse.names import is_name
from toolbox import ssh_connection
from toolbox.ssh_connection import Answer, Unavailable, call_util, connect, printable, resolve, run_marked

if TYPE_CHECKING:
    from rich.table import Table

DONE, USAGE, WORK_REMAINS, FAILED, UNAVAILABLE, INTERRUPTED = 0, 2, 3, 4, 5, 130
EXIT_CODES = """\
exit codes:
  0  all experiments are completed, pruned or diverged
  2  usage or settings are wrong: an option, cluster.env, the directory or the interpreter there, the round
  3  work remains: some experiments are pending, submitting or in progress
  4  nothing more runs automatically, and some experiments are failed, blocked or cancelled
  5  the host or its scheduler could not be queried: call again later
  130  interrupted

Options of the host come from `ssh -G`, so all of ~/.ssh/config applies: names, keys, ProxyJump, ProxyCommand, Include,
Match. A key with a passphrase is used through ssh-agent only. A connection that ssh shares is not used for HOST.
"""
GRACE = 10.0  # seconds to wait, after the time limit on the host, for the command to end there
WIDE = 160  # columns of a table that goes into a file or a pipe

NO_FOLDER, NO_RUNNER, NO_PYTHON = 81, 82, 83
SIGNALS = range(129, 193)  # exit codes that a shell gives for signals
# `timeout` ends the command on the host even if the connection breaks.
SCRIPT = (
    f'CDPATH= cd -- "$1" 2>/dev/null || exit {NO_FOLDER}; [ -f runner.py ] || exit {NO_RUNNER}; '
    f'command -v "$2" >/dev/null || exit {NO_PYTHON}; python=$2 limit=$3; shift 3; '
    'if command -v timeout >/dev/null; then exec timeout -k 5 "$limit" "$python" "$@"; fi; exec "$python" "$@"'
)


# ---------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """Where Roundhouse is. `remote` is relative to the home folder there, `python` to `remote`, unless absolute."""

    host: str
    remote: str
    python: str
    ssh: tuple[str, ...]  # the command by which all scripts of the toolbox reach the host


def settings_of(host: str | None, remote: str | None) -> StatusSettings:
    """The settings of toolbox/cluster.env, which the arguments override. RoundhouseError: a mistake in them."""
    for option, value in (("--host", host), ("--remote", remote)):
        if value == "":
            raise RoundhouseError(f"{option} is empty")
    program = 'load_host "$1" "$2"; ssh_words; printf "%s\\0" "$HOST" "$REMOTE" "$PYTHON" "${ssh[@]}"'
    host, remote, python, *ssh = call_util(program, host or "", remote or "").split("\0")[:-1]
    return StatusSettings(host, remote, python, tuple(ssh))


# ---------------------------------------------------------------------------------------------- the answer


def rows_in(text: str) -> list[dict[str, Any]] | None:
    """The rows of `--status --json`, whatever is printed before and after them; None if there are none."""
    found: list[tuple[int, list[dict[str, Any]]]] = []
    for start in re.finditer(r"^\[", text, re.MULTILINE):
        try:
            rows, end = json.JSONDecoder().raw_decode(text, start.start())
        except ValueError:
            continue
        if all(isinstance(row, dict) and {"path", "state"} <= row.keys() for row in rows):
            found.append((end - start.start(), rows))
    return max(found, key=lambda one: one[0])[1] if found else None  # the longest, because [] may be printed there too


def rows_of(answer: Answer, settings: StatusSettings, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """The rows, and the error of the scheduler there, if any. RoundhouseError: there are no rows, and why."""
    host, folder, python, code = settings.host, settings.remote, settings.python, answer.code
    missing = {
        NO_FOLDER: f"{host} has no accessible directory {folder}: see REMOTE in cluster.env",
        NO_RUNNER: f"{folder} on {host} is no checkout of Roundhouse: there is no runner.py in it",
        NO_PYTHON: f"{host} has no {python} in {folder}: run make install there, or see PYTHON in cluster.env",
    }
    lines = [printable(line) for line in answer.stderr.splitlines() if line.strip()]
    lines = lines or [printable(line) for line in answer.stdout.splitlines() if line.strip()]
    last = lines[-1].removeprefix("runner.py: ") if lines else "no output"
    ended = {
        ssh_connection.TIMED_OUT: f"runner.py on {host} was stopped after {seconds:g} s without an answer: "
        "see --timeout",
        ssh_connection.LOST: f"the connection to {host} was lost ({last})",
        126: f"{host} cannot run {python}: exit code 126, it is not executable there ({last})",
        127: f"{host} cannot run {python}: exit code 127, it or its interpreter was not found there ({last})",
    }
    if code in missing:
        raise RoundhouseError(missing[code])
    if code == USAGE:
        raise RoundhouseError(f"runner.py on {host}: {last}")
    rows = rows_in(answer.stdout)
    if rows is not None and code in (DONE, UNAVAILABLE):
        return rows, last if code == UNAVAILABLE else ""
    ended[DONE] = f"runner.py on {host} printed no JSON, but {printable(answer.stdout)[-100:] or 'nothing'!r}"
    if code in SIGNALS:
        raise Unavailable(f"runner.py on {host} was killed there by signal {code - 128} ({last})")
    raise Unavailable(ended.get(code, f"runner.py on {host} failed (exit {code}): {last}"))


UNFINISHED = ("pending", "submitting", "in_progress")  # for an older Roundhouse there, whose rows have no `goes_on`


def exit_code(rows: Sequence[Mapping[str, Any]], error: str) -> int:
    states = {row["state"] for row in rows} - {"removed"}  # no longer in the round file
    if error:
        return UNAVAILABLE
    if states <= {"completed", "pruned", "diverged"}:
        return DONE
    return WORK_REMAINS if any(row.get("goes_on", row["state"] in UNFINISHED) for row in rows) else FAILED


# ---------------------------------------------------------------------------------------------- output

SHOWN = {"failed": "red", "blocked": "yellow", "cancelled": "magenta", "in_progress": "cyan", "submitting": "cyan"}


def table(rows: Sequence[Mapping[str, Any]], now: float) -> Table:
    """What needs attention, then what runs. Completed and pending experiments are in the summary line only."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("experiment", "state", "since", "job", "progress", "reason"):
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in ("experiment", "reason"))
    for state, style in SHOWN.items():
        for row in rows:
            if row["state"] == state:
                job = " ".join(str(row[key]) for key in ("job_id", "job_state") if row.get(key))
                cells = (row["path"], state, since(row.get("since"), now), job, progress(row), row.get("reason") or "")
                styles = ("", style, "", "", "", "")
                drawn.add_row(*map(Text, map(printable, cells), styles))
    return drawn


def progress(row: Mapping[str, Any]) -> str:
    """`epoch 3/10` or `step 4000/10000`; empty if the total is not known. Older versions print epochs only."""
    unit = "step" if row.get("unit") == "step" else "epoch"
    total = row.get(f"{unit}s")
    return f"{unit} {row[unit]}/{total}" if total else ""


def since(at: float | None, now: float) -> str:
    """A time in the local time zone, and how long ago it was."""
    if not at:
        return ""
    age = max(0.0, now - at)
    ago = f"{age / 60:.0f} min" if age < 5400 else f"{age / 3600:.0f} h" if age < 172800 else f"{age / 86400:.0f} d"
    return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(at))} ({ago})"


def show(rows: Sequence[Mapping[str, Any]], name: str, host: str, as_json: bool) -> None:
    counts = Counter(row["state"] for row in rows)
    if as_json:
        content = {"round": name, "host": host, "asked_at": time.time(), "counts": counts, "experiments": rows}
        print(json.dumps(content, indent=1), flush=True)
        return
    from rich.console import Console

    drawn = table(rows, time.time())
    if drawn.row_count:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(drawn)
    parts = ", ".join(f"{count} {printable(state)}" for state, count in counts.items())
    print(f"Round {name} on {host}: {len(rows)} experiments: {parts or 'none'}.", flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ssh_status.py",
        description=str(__doc__).replace("\n\n", "\n"),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--round", metavar="NAME", required=True)
    made.add_argument("--host", metavar="HOST", help="a host of ~/.ssh/config, or user@host; default: see cluster.env")
    made.add_argument("--remote", metavar="DIR", help="the directory of Roundhouse there; default: see cluster.env")
    made.add_argument("--only", metavar="GLOB", help="only experiments whose path matches, such as 'cifar10/*'")
    made.add_argument("--json", action="store_true", help="print counts, and one object for each experiment")
    made.add_argument("--timeout", metavar="SECONDS", type=int, default=60, help="time limit of runner.py; default: 60")
    return made


def status(options: argparse.Namespace) -> int:
    """Query the cluster and print the status. Returns the exit code. RoundhouseError: what was wrong."""
    if not is_name(options.round):
        raise RoundhouseError(f"--round must consist of letters, digits, - and _ (got {options.round!r})")
    if options.timeout < 1:
        raise RoundhouseError(f"--timeout must be >= 1 (got {options.timeout})")
    settings = settings_of(options.host, options.remote)
    target = resolve(settings.ssh, settings.host)
    words = ["sh", settings.remote, settings.python, str(options.timeout), "runner.py"]
    words += ["--round", options.round, "--status", "--json", *(["--only", options.only] if options.only else [])]
    with ExitStack() as stack:
        transport = connect(target, min(ssh_connection.STEP_TIMEOUT, options.timeout), stack)
        answer = run_marked(settings.host, transport, SCRIPT, words, options.timeout + GRACE)
    rows, error = rows_of(answer, settings, options.timeout)
    show(rows, options.round, settings.host, options.json)
    if error:
        print(f"ssh_status.py: {settings.host}: {error}", file=sys.stderr)
    return exit_code(rows, error)


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        return status(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNAVAILABLE
    except RoundhouseError as error:
        print(f"ssh_status.py: {error}", file=sys.stderr)
        return UNAVAILABLE if isinstance(error, Unavailable) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

"""A job's side of the record: it proves its claim, gives signs of life, checks its inputs, and stops when it must."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.machine.binding import die_with, die_with_parent
from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import EXIT_INPUT, EXIT_INPUT_CHANGED, EXIT_NOT_MINE
from roundhouse.store import record
from roundhouse.store.code_copy import code_state

SIGN_OF_LIFE = 60.0  # seconds between two
_TREE = Path(__file__).parents[2]  # the code that runs


class Leave(Exception):
    """The job ends here, with this exit code; see `causes`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Work:
    """One claimed attempt, as the job that holds it sees it."""

    directory: Path  # the experiment's
    number: int
    nonce: str
    config: Mapping[str, Any]
    attempt: Attempt
    stop_reason: str | None = None
    child: subprocess.Popen[bytes] | None = None
    _progress: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The attempt's directory: the only one that this job writes into."""
        return record.attempt_directory(self.directory, self.number)

    def stop(self) -> str | None:
        """Why to stop at the next safe point; None to go on."""
        return self.stop_reason

    def earlier(self) -> list[Path]:
        """Directories of earlier attempts at the very same thing, oldest first: where a checkpoint may lie."""
        mine = self.attempt.opened
        return [
            record.attempt_directory(self.directory, one.number)
            for one in record.read(self.directory).attempts
            if one.number < self.number
            and (one.opened.config_hash, one.opened.inputs) == (mine.config_hash, mine.inputs)
        ]

    def inputs(self) -> dict[str, list[Path]]:
        """Directories of the completed attempts that the experiment waits for, by group.

        Leave: one is not visible from here yet, or is not what it was at attempt 1.
        """
        round_directory = self.directory
        for _ in Path(self.config["path"]).parts:
            round_directory = round_directory.parent
        found: dict[str, list[Path]] = {}
        for group, entries in self.attempt.opened.inputs.items():
            for entry in entries:
                found.setdefault(group, []).append(_checked_input(round_directory / entry["path"], entry))
        return found

    def report(self, **progress: Any) -> None:
        """Tell how far the training is: progress.json, and status.json as a view of it."""
        self._progress |= progress
        files.replace(self.place / record.PROGRESS, files.dump({"version": record.VERSION, **self._progress}))
        status = record.read_status(self.directory) or {}
        keys = ("epoch", "epochs", "metric", "metric_name", "best")
        status |= {key: self._progress[key] for key in keys if key in self._progress}
        status |= {"path": self.config["path"], "state": "in_progress", "attempt": self.number, "reason": ""}
        status["since"], status["code"] = self.attempt.since, self.attempt.opened.code
        status |= {"job_id": self.attempt.job_id, "scheduler": dict(self.attempt.opened.scheduler), "cause": None}
        status.pop("updated_at", None)
        status.pop("version", None)
        try:
            record.write_status(self.directory, status)
        except OSError as error:
            print(f"roundhouse: status.json could not be written: {error}", file=sys.stderr)

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """What ran: host, software, code. Written once."""
        value = {"version": record.VERSION, "host": platform.node(), "python": platform.python_version()}
        files.replace(self.place / record.ENVIRONMENT, files.dump({**value, **code_state(_TREE), **facts}))


def enter(directory: Path) -> Work:
    """Take up the attempt that this process's shell has claimed, and begin to give signs of life."""
    directory = directory.absolute()
    number, nonce = os.environ.get("ROUNDHOUSE_ATTEMPT", ""), os.environ.get("ROUNDHOUSE_NONCE", "")
    if not number.isdigit() or not nonce:
        raise RoundhouseError(
            "train.py is started by job scripts, which hold an attempt. "
            "To run experiments: python runner.py --round NAME"
        )
    _die_with_the_shell()
    rec = record.read(directory)
    if not rec.readable:
        raise RoundhouseError(rec.damage)
    attempt = next((one for one in rec.attempts if one.number == int(number)), None)
    if attempt is None or attempt.claim is None or attempt.claim.nonce != nonce or attempt.closed:
        raise Leave(EXIT_NOT_MINE, f"attempt {number} of {directory} is not, or no longer, this job's")
    config = record.read_config(directory)
    if record.config_hash(config) != attempt.opened.config_hash:
        raise RoundhouseError(
            f"{directory}/config.yaml is not the config that attempt {number} was opened for. Was it edited?"
        )
    if attempt.opened.code is not None and attempt.opened.code != code_state(_TREE).get("code"):
        raise RoundhouseError(
            f"this job is to run the copy {attempt.opened.code} of the code, but Python loaded {_TREE}: "
            "is PYTHONPATH, or a package that is installed, in its way?"
        )
    work = Work(directory, int(number), nonce, config, attempt)
    work.report(epoch=0, started_epoch=0)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(name, lambda received, frame: _asked_to_stop(work, received, frame))
    threading.Thread(target=_give_signs_of_life, args=(work,), daemon=True).start()
    return work


def _asked_to_stop(work: Work, received: int, frame: FrameType | None) -> None:
    # A flag only: what is under way ends at a safe point.
    work.stop_reason = f"signal {signal.Signals(received).name}"
    if work.child is not None:
        work.child.terminate()


def _die_with_the_shell() -> None:
    """Without the job's shell nobody would write down how it ended, and nobody could pass a signal on."""
    die_with_parent()
    shell = os.environ.get("ROUNDHOUSE_SHELL", "")
    if shell.isdigit() and os.getppid() != int(shell):
        raise Leave(EXIT_NOT_MINE, "the job's shell is gone")


def _give_signs_of_life(work: Work) -> None:
    interval = float(os.environ.get("ROUNDHOUSE_SIGN_OF_LIFE", SIGN_OF_LIFE))
    asked = False
    while True:
        time.sleep(interval)
        try:
            verdict = over(work)
        except OSError:
            continue  # the file system could not be asked: that says nothing
        if verdict == "cancelled":
            if asked and work.child is not None:
                work.child.kill()
            asked = True
            _asked_to_stop(work, signal.SIGTERM, None)
        elif verdict:
            # Whoever closed the attempt has counted this job as dead: it must not touch anything any more.
            print(f"roundhouse: {verdict}; leaving", file=sys.stderr, flush=True)
            if work.child is not None:
                work.child.kill()
            os._exit(EXIT_NOT_MINE)
        try:
            files.touch(work.place / record.PROGRESS)
        except OSError as error:
            print(f"roundhouse: no sign of life could be given: {error}", file=sys.stderr, flush=True)


def over(work: Work) -> str:
    """Why this attempt is over, though its job runs; "cancelled" if the user wants it to end; empty if all is well.

    It looks at lists: on network file systems a single look may be answered from a cache for a minute.
    """
    names = files.list_names(work.place)
    numbers = [int(name) for name in files.list_names(work.place.parent) if name.isdigit()]
    later = [n for n in numbers if n > work.number and record.JOB in files.list_names(work.place.parent / str(n))]
    if not names or record.RESULT in names:
        return f"attempt {work.number} was closed by a runner"
    if later:
        return f"attempt {max(later)} was opened after attempt {work.number}"
    return "cancelled" if record.CANCEL in names else ""


def _checked_input(directory: Path, entry: Mapping[str, Any]) -> Path:
    """The completed attempt of an input. Leave, unless it is visible here, and the one that attempt 1 recorded."""
    done = record.read(directory).completed
    if done is None:
        raise Leave(EXIT_INPUT, f"{directory} is not completed, as far as can be seen from here")
    if "token" in entry and done.opened.token != entry["token"]:
        raise Leave(EXIT_INPUT_CHANGED, f"{directory} was run again since attempt 1 of this experiment")
    place = record.attempt_directory(directory, done.number)
    if "sha256" not in entry:
        return place
    best = place / "best.pth"
    data = files.read_bytes(best)
    if data is None:
        raise Leave(EXIT_INPUT, f"{best} cannot be seen from here")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Leave(
            EXIT_INPUT_CHANGED, f"{best} changed: it is not the file that attempt 1 of this experiment recorded"
        )
    return place


def run_command(work: Work) -> int:
    """Run the user's own program to its end; returns its exit code (128 + n for a death by signal n)."""
    words = [word.replace("{directory}", str(work.place)) for word in work.config["command"]]
    earlier = [str(place) for place in work.earlier()]
    environ = {
        **os.environ,
        "ROUNDHOUSE_DIRECTORY": str(work.place),
        "ROUNDHOUSE_EARLIER": os.pathsep.join(reversed(earlier)),
    }
    if work.attempt.opened.pause_at:
        environ["ROUNDHOUSE_PAUSE_AT"] = str(work.attempt.opened.pause_at)
    for group, directories in work.inputs().items():
        environ[f"ROUNDHOUSE_INPUT_{group.upper().replace('-', '_')}"] = os.pathsep.join(
            str(directory) for directory in directories
        )
    told = "\\n".join(shlex.join(words).splitlines())
    print(f"roundhouse: attempt {work.number} runs {told}", flush=True)
    try:
        # It stays in this process group: the job's shell signals, and waits for, the group as a whole.
        work.child = subprocess.Popen(words, env=environ, preexec_fn=partial(die_with, os.getpid()))
    except OSError as error:
        raise RoundhouseError(
            f"{words[0]} cannot be started: {error.strerror}. The command comes from the round file"
        ) from None
    if work.stop_reason:
        work.child.terminate()  # the signal came before there was a child to hear it
    code = work.child.wait()
    return 128 - code if code < 0 else code

"""A job's side of the record: it checks its claim and its inputs, and reports progress."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.machine import mps
from roundhouse.machine.gpu_sampler import GpuSampler
from roundhouse.machine.parent_death import die_with_parent
from roundhouse.model.attempt import Attempt, missing_inputs, result_for
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.model.experiment import start_in
from roundhouse.node_facts import node_facts
from roundhouse.settings import Start
from roundhouse.store import json_files, record
from roundhouse.store.code_copy import code_state, command_state

_TREE = Path(__file__).parents[2]  # the code that runs
_QUEUES = ("SLURM_JOB_PARTITION", "PBS_QUEUE")  # variables in which schedulers name the queue of a job


class Leave(Exception):
    """The job exits with this code; see `model.exit_codes`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class ClaimedAttempt:
    """One claimed attempt, for the job that holds the claim."""

    directory: Path  # the experiment's
    number: int
    nonce: str
    config: Mapping[str, Any]
    attempt: Attempt
    stop_reason: str | None = None
    child: subprocess.Popen[bytes] | None = None
    sampler: GpuSampler | None = None  # of the GPUs, if the job has any
    _progress: dict[str, Any] = field(default_factory=dict)
    _reports: threading.Lock = field(default_factory=threading.Lock)

    @property
    def place(self) -> Path:
        """The attempt's directory: the only one that this job writes into."""
        return record.attempt_directory(self.directory, self.number)

    @property
    def files(self) -> Path:
        """Where the study or the command writes its files: `place`, or a directory in it."""
        return record.files_directory(self.directory, self.attempt)

    def stop(self) -> str | None:
        """Why to stop at the next safe point; None to continue."""
        return self.stop_reason

    def earlier(self) -> list[Path]:
        """Directories of the earlier attempts that may be resumed from, oldest first: they may hold a checkpoint."""
        return [record.files_directory(self.directory, one) for one in self._resumable()]

    def of_another_config(self) -> list[Path]:
        """Those of `earlier` with another config or inputs, which the user has allowed with --keep-files."""
        others = [one for one in self._resumable() if one.opened.identity != self.attempt.opened.identity]
        return [record.files_directory(self.directory, one) for one in others]

    def _resumable(self) -> tuple[Attempt, ...]:
        return record.read(self.directory).resumable(self.number)

    def inputs(self) -> dict[str, list[Path]]:
        """Directories of the completed attempts that the experiment depends on, by group.

        Leave: an input is not visible on this node yet, or has changed since this experiment first used it.
        """
        start, found = start_in(self.config), {}
        for group, entries in self.attempt.opened.inputs.items():
            if start is None or group != start.kind:
                found[group] = [_checked_input(self._round_directory / entry["path"], entry) for entry in entries]
        return found

    def start(self) -> Start | None:
        """The checkpoint that training starts from if no attempt has one yet; None: it starts from nothing.

        Leave: as for `inputs`.
        """
        wanted = start_in(self.config)
        if wanted is None:
            return None
        (entry,) = self.attempt.opened.inputs[wanted.kind]
        if wanted.is_file:
            path = Path(wanted.source).absolute()
            _check_file(path, entry["sha256"], JobExitCode.INPUT_CHANGED)
        else:
            path = _checked_input(self._round_directory / wanted.source, entry) / wanted.checkpoint
        return Start(path, keeps_position=wanted.kind == "continue")

    @property
    def _round_directory(self) -> Path:
        return self.directory.parents[len(Path(self.config["path"]).parts) - 1]

    def missing(self) -> dict[str, list[str]]:
        """The paths of the dependencies that it runs without, by group: see `Experiment.partial`."""
        return missing_inputs(self.config["after"], self.attempt.opened.inputs)

    def report(self, **progress: Any) -> None:
        """Write the progress to progress.json, and update the copy of it in status.json. Any thread may call it."""
        with self._reports:
            self._report(progress)

    def report_gpu_use(self) -> None:
        """Write what is known of the use of the GPUs to progress.json, if it is not there yet."""
        use = self.sampler.summary() if self.sampler is not None else None
        if use is not None and use != self._progress.get("gpu_use"):
            self.report()

    def _report(self, progress: Mapping[str, Any]) -> None:
        self._progress |= progress
        if self.sampler is not None and (use := self.sampler.summary()):
            self._progress["gpu_use"] = use
        files.replace(self.place / record.PROGRESS, files.dump({"version": json_files.VERSION, **self._progress}))
        status = record.read_status(self.directory) or {}
        keys = ("epoch", "epochs", "unit", "step", "steps", "metric", "metric_name", "best")
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
        """Record what runs, and where: host, queue, operating system, software versions, code. Written once."""
        value = {"version": json_files.VERSION, "host": platform.node(), "python": platform.python_version()}
        queue = next(filter(None, map(os.environ.get, _QUEUES)), None)
        value |= {**({"queue": queue} if queue else {}), **node_facts()}
        if self.attempt.opened.resources.get("ngpus"):
            value["mps"] = mps.is_on()  # times depend on it
        code = command_state(_TREE, self.config.get("command") or (), Path.cwd())
        files.replace(self.place / record.ENVIRONMENT, files.dump({**value, **code, **facts}))


def enter(directory: Path) -> ClaimedAttempt:
    """The attempt that this process's shell has claimed. Signals request a stop from now on."""
    directory = directory.absolute()
    number, nonce = os.environ.get("ROUNDHOUSE_ATTEMPT", ""), os.environ.get("ROUNDHOUSE_NONCE", "")
    if not number.isdigit() or not nonce:
        raise RoundhouseError(
            "train.py is started by job scripts only. To run experiments: python runner.py --round NAME"
        )
    _die_with_the_shell()
    rec = record.read(directory)
    if not rec.readable:
        raise RoundhouseError(rec.damage)
    attempt = next((one for one in rec.attempts if one.number == int(number)), None)
    if attempt is None or attempt.claim is None or attempt.claim.nonce != nonce or attempt.closed:
        raise Leave(JobExitCode.NOT_MINE, f"attempt {number} of {directory} does not, or no longer, belong to this job")
    config = record.read_config(directory)
    if record.config_hash(config) != attempt.opened.config_hash:
        raise RoundhouseError(
            f"{directory}/config.yaml differs from the config that attempt {number} was opened for: it was edited"
        )
    if attempt.opened.code is not None and attempt.opened.code != code_state(_TREE).get("code"):
        raise RoundhouseError(
            f"this job must run the copy {attempt.opened.code} of the code, but Python loaded {_TREE}: "
            "check PYTHONPATH, and whether roundhouse is installed as a package"
        )
    claimed = ClaimedAttempt(directory, int(number), nonce, config, attempt)
    claimed.report(epoch=0, started_epoch=0)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(name, lambda received, frame: request_stop(claimed, received))
    return claimed


def request_stop(claimed: ClaimedAttempt, received: int) -> None:
    """Stop at the next safe point; a command gets SIGTERM at once."""
    claimed.stop_reason = f"signal {signal.Signals(received).name}"
    if claimed.child is not None:
        claimed.child.terminate()


def _die_with_the_shell() -> None:
    """End together with the job's shell, which passes signals on and writes the result."""
    die_with_parent()
    shell = os.environ.get("ROUNDHOUSE_SHELL", "")
    if shell.isdigit() and os.getppid() != int(shell):
        raise Leave(JobExitCode.NOT_MINE, "the job's shell has ended")


def _checked_input(directory: Path, entry: Mapping[str, Any]) -> Path:
    """The directory of an input's completed attempt. Leave: it is not visible here, or its files have changed."""
    rec = record.read(directory)
    known = result_for(entry, rec)
    hashes = {"best.pth": entry["sha256"]} if "sha256" in entry else entry.get("files", {})
    done = known or (rec.completed if any(hashes.values()) else None)  # its files may be the right ones all the same
    if done is None:
        what = "does not have the result that this experiment was started with"
        raise Leave(JobExitCode.INPUT, f"{directory} {what}, as far as this node can see")
    place = record.files_directory(directory, done)
    for name, digest in hashes.items():
        _check_file(place / name, digest, JobExitCode.INPUT_CHANGED if known else JobExitCode.INPUT)
    return place


def _check_file(path: Path, digest: str | None, if_changed: int) -> None:
    """Leave: the file is not visible here, or has another hash; without a hash, it need only be visible."""
    found = files.sha256(path) if digest else files.modified(path)
    if found is None:
        raise Leave(JobExitCode.INPUT, f"{path} is not visible on this node")
    if digest and found != digest:
        what = "is not the file that this experiment was started with, as far as this node can see"
        raise Leave(if_changed, f"{path} {what}")

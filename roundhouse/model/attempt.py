"""The record of an experiment: its attempts, and how each was opened, claimed and closed. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from roundhouse.model.answers import Scope
from roundhouse.model.causes import Cause
from roundhouse.model.gpu_use import GpuUse


@dataclass(frozen=True, slots=True)
class Pin:
    """The config and inputs that attempts must have. None: not determined yet; the next attempt determines it."""

    config_hash: str | None = None
    inputs: Mapping[str, Any] | None = None

    def fits(self, attempt: Attempt) -> bool:
        """Whether an attempt has them, as far as they are determined."""
        own = attempt.opened.identity
        return all(one in (None, mine) for one, mine in zip((self.config_hash, self.inputs), own, strict=True))


@dataclass(frozen=True, slots=True)
class Opened:
    """job.json: an attempt was opened through `scheduler`, for this config and these inputs. `at`: the server's clock.

    `pause_at`: the epoch or step, whichever the run counts, at which it pauses for a comparison (see `halving`).
    `mark`: the attempt is not a run but a marker (retry, rerun, cancelled, archived, pruned), which takes the number of
    an attempt and is then void. `pin`: what a retry or rerun requires of the attempts after it; None in older records.
    `keep_files`: a retry with another config, whose attempts may resume from the files of the attempts before it.
    `ran`: what ran before a retry or rerun with another config (`Experiment.identity`), for the user.
    `files`: the folder, in the attempt's directory, of the files of a command; empty: they lie next to the record's.
    `carry`: globs of the files that a command gets from an earlier attempt; None: all of them.
    `shared`: the directory, relative to the experiment's, of a job that runs more than this attempt: an array, of which
    the attempt is task `index`, or an allocation. The job then has the name of that directory, instead of the token.
    `resources`: the resource request of the job, as `retry.request` writes it; empty in older records.
    """

    token: str
    scheduler: Mapping[str, str]
    config_hash: str
    inputs: Mapping[str, Any]
    job_id: str | None = None
    at: float = 0.0
    mark: Cause | None = None
    shared: str | None = None
    index: int | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None  # the copy of the code that it runs; None: the checkout as it is
    pause_at: int | None = None
    answer: str = ""  # of the scheduler to the submission, if it is unclear whether there is a job
    pin: Pin | None = None
    keep_files: bool = False
    ran: Mapping[str, Any] | None = None
    files: str = ""
    carry: tuple[str, ...] | None = None

    @property
    def identity(self) -> tuple[str, Mapping[str, Any]]:
        """Config and inputs: attempts of equal identity compute the same."""
        return self.config_hash, self.inputs

    @property
    def packed(self) -> bool:
        """Whether it runs in a slot of an allocation, whose job runs other attempts too."""
        return self.shared is not None and self.index is None

    @property
    def job_name(self) -> str:
        """The name of its job in the scheduler."""
        return self.shared.rpartition("/")[2] if self.shared else self.token

    @property
    def scheduler_text(self) -> str:
        """The scheduler through which it was opened, for messages."""
        kind, server, user = (self.scheduler.get(part) for part in ("kind", "server", "user"))
        return f"{kind} on {server}, user {user}" + " (--scheduler local)" * (kind == "local")

    def ran_at(self, scheduler: Mapping[str, str]) -> bool:
        """Whether it was opened through this scheduler; a reboot of the local machine does not matter."""
        return {**self.scheduler, "boot": ""} == {**scheduler, "boot": ""}


@dataclass(frozen=True, slots=True)
class Claim:
    """claim.json: held by a job, or void. An unreadable claim is held by an unknown job.

    `at`: the file server's clock; `started`: that of the host that wrote it, as in `Result.at`.
    """

    void: bool = False
    cause: Cause | None = None
    why: str = ""
    job_id: str | None = None
    nonce: str = ""
    host: str = ""
    at: float = 0.0
    started: float = 0.0
    jobs: int | None = None  # for a void by a limit: the user may have no more than so many jobs
    scope: Scope = Scope.ALL  # for a void by a limit: what the limit applies to


@dataclass(frozen=True, slots=True)
class Result:
    """result.json: the attempt has ended. `final`: another attempt cannot help.

    `guess`: the job was ended from outside and its shell does not know why; the scheduler may know more.
    """

    cause: Cause
    why: str = ""
    exit_code: int | None = None
    signals: tuple[str, ...] = ()
    at: float = 0.0
    final: bool = False
    guess: bool = False

    @property
    def by_job(self) -> bool:
        """Whether the job's shell wrote it; otherwise a runner, possibly long after the job ended."""
        return self.exit_code is not None


@dataclass(frozen=True, slots=True)
class Verdict:
    """verdict.json: the exit cause reported by the scheduler. It replaces the cause of a result that is a guess."""

    cause: Cause
    why: str = ""


EPOCH, STEP = "epoch", "step"  # what a run counts: its unit


class Counter(NamedTuple):
    """How far a run is in one unit. `started`: where this attempt began; `seconds`: of one epoch or step."""

    done: int
    planned: int | None
    started: int
    seconds: float | None

    def __str__(self) -> str:
        """`3/10`, or `3` if the planned number is not known; empty if nothing is reported."""
        return f"{self.done}/{self.planned}" if self.planned else str(self.done or "")


@dataclass(frozen=True, slots=True)
class Progress:
    """progress.json: how far the training is. The time of the file is the heartbeat of the job.

    `unit`: what the run counts. A run by epoch may report its steps as well: `step` is the last one that was saved,
    None if steps are not reported. `time_used`: seconds that a command with a time limit has run, in this attempt and
    those that it continues.
    """

    epoch: int = 0
    epochs: int | None = None
    started_epoch: int = 0
    metric_name: str | None = None
    metric: float | None = None
    best: float | None = None
    mode: str | None = None  # which value of the metric is best: min or max; None: not declared
    artifacts: Mapping[str, str] = field(default_factory=dict)  # file name -> SHA-256
    final: Mapping[str, float] = field(default_factory=dict)  # metrics of the finished run
    seconds_per_epoch: float | None = None  # of the stage that it is in
    unit: str = EPOCH
    step: int | None = None
    steps: int | None = None
    started_step: int | None = None
    seconds_per_step: float | None = None
    time_used: float = 0.0
    means: Mapping[str, float] = field(default_factory=dict)  # so far, of what a study averages over its steps
    gpu_use: GpuUse | None = None  # of this attempt so far; None: it has no GPU, or no nvidia-smi

    @property
    def reported(self) -> bool:
        """Whether the run reports its epochs or steps."""
        return bool(self.epochs or self.epoch or self.steps) or self.step is not None

    @property
    def gained(self) -> bool:
        """Whether this attempt saved at least one step of its own; if it reports no steps, one epoch."""
        by_step = self.step is not None and (self.started_step is not None or self.unit == STEP)
        counter = self.counter(STEP if by_step else EPOCH)
        return counter.done > counter.started

    def counter(self, unit: str = "") -> Counter:
        """How far the run is, in this unit; by default, in its own."""
        if (unit or self.unit) == STEP:
            return Counter(self.step or 0, self.steps, self.started_step or 0, self.seconds_per_step)
        return Counter(self.epoch, self.epochs, self.started_epoch, self.seconds_per_epoch)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. Times are the file server's; None where a file is absent."""

    number: int
    opened: Opened
    claim: Claim | None = None
    result: Result | None = None
    progress: Progress | None = None
    progress_at: float | None = None
    gone_at: float | None = None
    cancel: bool = False
    verdict: Verdict | None = None
    result_at: float | None = None

    @property
    def void(self) -> bool:
        return self.claim is not None and self.claim.void

    @property
    def closed(self) -> bool:
        return self.result is not None or self.void

    @property
    def awaits_verdict(self) -> bool:
        """Whether only the scheduler knows why it ended, and its answer is not recorded yet."""
        return self.result is not None and self.result.guess and self.verdict is None

    @property
    def cause(self) -> Cause | None:
        """Why it ended; None while it is open. A result takes precedence over a claim, and a verdict over a guess."""
        if self.result is not None:
            return self.verdict.cause if self.result.guess and self.verdict else self.result.cause
        return self.claim.cause if self.void and self.claim else None

    @property
    def why(self) -> str:
        """The explanation of the cause; empty if there is none, or it is open."""
        if self.result is not None:
            return self.verdict.why if self.result.guess and self.verdict else self.result.why
        return self.claim.why if self.claim else ""

    @property
    def since(self) -> float | None:
        """When it ended; while it is open, when its job started, or else when it was opened. Seconds since 1970."""
        if self.result is not None:
            return self.result.at or None
        return (self.claim.started if self.claim else 0.0) or self.opened.at or None

    @property
    def job_id(self) -> str | None:
        """The ID of the job, from the runner that submitted it or from the job itself."""
        return self.opened.job_id or (self.claim.job_id if self.claim else None)


@dataclass(frozen=True, slots=True)
class Record:
    """The record of an experiment, as it was read.

    `compacted`: all attempts are in history.json; `in_history`: the number of the last one that is, or 0.
    `damage` names an unreadable file of the newest attempt (or the history): nothing more is done until the user acts.
    Unreadable files of older attempts have no effect; they are in `notes`.
    Without `readable`, the file system did not allow the record to be read, and `damage` says why.
    """

    directory: Path
    attempts: tuple[Attempt, ...] = ()
    compacted: bool = False
    in_history: int = 0
    damage: str = ""
    readable: bool = True
    notes: tuple[str, ...] = ()
    next_number: int = 1

    @property
    def newest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def runs(self) -> tuple[Attempt, ...]:
        """The attempts that are not markers."""
        return tuple(attempt for attempt in self.attempts if attempt.opened.mark is None)

    @property
    def current(self) -> Record:
        """The record since the last rerun: only this part decides what happens next."""
        start = _after_rerun(self.attempts)
        return replace(self, attempts=self.attempts[start:]) if start else self

    @property
    def completed(self) -> Attempt | None:
        """The one attempt that completed since the last rerun. It need not be the newest: a marker may follow it."""
        if self.attempts and self.attempts[-1].cause is Cause.COMPLETED:
            return self.attempts[-1]  # nearly always; a large round asks many times
        since = self.attempts[_after_rerun(self.attempts) :]
        return next((one for one in reversed(since) if one.cause is Cause.COMPLETED), None)

    @property
    def results(self) -> tuple[Attempt, ...]:
        """All attempts that completed, oldest first: at most one before the first rerun, and one after each."""
        return tuple(attempt for attempt in self.attempts if attempt.cause is Cause.COMPLETED)

    @property
    def pin(self) -> Pin:
        """The config and inputs of the next attempt: what the last retry or rerun pins, else those of the first run.

        What a marker leaves open is that of the first run after it.
        """
        pinned_at = _after_last(self.attempts, lambda one: one.opened.pin is not None)
        start = max(pinned_at, _after_rerun(self.attempts))
        marked = self.attempts[start - 1].opened.pin if start else None
        first = next((one.opened for one in self.attempts[start:] if one.opened.mark is None), None)
        found, pinned = Pin(first.config_hash, first.inputs) if first else Pin(), marked or Pin()
        return Pin(
            found.config_hash if pinned.config_hash is None else pinned.config_hash,
            found.inputs if pinned.inputs is None else pinned.inputs,
        )

    @property
    def config_hash(self) -> str | None:
        """The hash of the config that ran: that of the result, else the pinned one; None if none is pinned."""
        return self.completed.opened.config_hash if self.completed else self.pin.config_hash

    def resumable(self, number: int) -> tuple[Attempt, ...]:
        """The earlier attempts whose files attempt `number` may resume from, oldest first.

        They ran since the last rerun, with equal config and inputs; with any, if the last retry keeps their files.
        Those that diverged are left out: what continues them diverges again.
        """
        until = tuple(one for one in self.attempts if one.number <= number)
        before = tuple(one for one in until[_after_rerun(until) :] if one.number < number)
        pinned = _after_last(before, lambda one: one.opened.pin is not None)
        kept = bool(pinned) and before[pinned - 1].opened.keep_files
        mine = next((one.opened.identity for one in self.attempts if one.number == number), None)
        return tuple(
            one
            for position, one in enumerate(before)
            if one.opened.mark is None
            and one.cause is not Cause.DIVERGED
            and (one.opened.identity == mine or (kept and position < pinned))
        )


def result_identity(done: Attempt) -> dict[str, str]:
    """What identifies the result of a completed attempt as an input: the hash of its weights, else its token."""
    best = done.progress.artifacts.get("best.pth") if done.progress else None
    return {"sha256": best} if best else {"token": done.opened.token}


def result_for(entry: Mapping[str, Any], rec: Record) -> Attempt | None:
    """The newest completed attempt of a record that an entry of `Opened.inputs` identifies; None if there is none."""
    return next((one for one in reversed(rec.results) if _identifies(entry, one)), None)


def _identifies(entry: Mapping[str, Any], done: Attempt) -> bool:
    """Whether all that an entry says of a result is true: its token, and the hashes of its files."""
    artifacts = done.progress.artifacts if done.progress else {}
    hashes = {name: digest for name, digest in entry.get("files", {}).items() if digest is not None}
    if "sha256" in entry:
        hashes["best.pth"] = entry["sha256"]
    if entry.get("token", done.opened.token) != done.opened.token or not (hashes or "token" in entry):
        return False
    return all(artifacts.get(name) == digest for name, digest in hashes.items())


def missing_inputs(after: Mapping[str, Sequence[str]], inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """The dependencies, by group, that an attempt with these inputs does not have: see `Experiment.partial`."""
    given = {group: {entry["path"] for entry in entries} for group, entries in inputs.items()}
    missing = {group: [path for path in paths if path not in given.get(group, ())] for group, paths in after.items()}
    return {group: paths for group, paths in missing.items() if paths}


def _after_last(attempts: Sequence[Attempt], fits: Callable[[Attempt], bool]) -> int:
    """The position after the last attempt that fits; 0 if none does."""
    return next((len(attempts) - back for back, one in enumerate(reversed(attempts)) if fits(one)), 0)


def _after_rerun(attempts: Sequence[Attempt]) -> int:
    """The position after the last rerun; 0 if there is none.

    A run after a result shows that there was one, also if the marker cannot be read, or is not visible here yet.
    """
    run_follows = False
    for position in reversed(range(len(attempts))):
        one = attempts[position]
        if one.opened.mark is Cause.RERUN or (run_follows and one.cause is Cause.COMPLETED):
            return position + 1
        run_follows = run_follows or one.opened.mark is None
    return 0

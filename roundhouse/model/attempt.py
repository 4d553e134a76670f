"""What is known of an experiment: its attempts, and how each was opened, claimed and closed. Plain data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roundhouse.model.answers import Scope
from roundhouse.model.causes import Cause


@dataclass(frozen=True, slots=True)
class Opened:
    """job.json: an attempt was opened through `scheduler`, for this config and these inputs. `at`: the server's clock.

    `pause_at`: the epoch at which it is to pause for a comparison with its group (see `halving`).
    `mark`: no run, but a word about the experiment (retry, cancelled, archived, pruned) that takes the attempt's
    number, and is then void.
    `shared`: the directory, seen from the experiment's, of a job that runs more than this attempt: an array, of which
    the attempt is task `index`, or an allocation. The job is then called as that directory is, instead of by the token.
    `resources`: what the job asks for, as `retry.request` writes it down; empty in records older than that.
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
    answer: str = ""  # what the scheduler said to the submission, where that did not settle whether there is a job

    @property
    def packed(self) -> bool:
        """Whether it runs in a slot of an allocation, whose job is not its own."""
        return self.shared is not None and self.index is None

    @property
    def job_name(self) -> str:
        """What the scheduler calls its job."""
        return self.shared.rpartition("/")[2] if self.shared else self.token

    @property
    def home(self) -> str:
        """Which scheduler opened it, for a person who is to go there."""
        kind, server, user = (self.scheduler.get(part) for part in ("kind", "server", "user"))
        return f"{kind} on {server}, user {user}" + " (--scheduler local)" * (kind == "local")

    def ran_at(self, here: Mapping[str, str]) -> bool:
        """Whether `here` identifies the scheduler that opened it; which boot of this machine it was does not matter."""
        home, place = dict(self.scheduler), dict(here)
        home.pop("boot", None)
        place.pop("boot", None)
        return home == place


@dataclass(frozen=True, slots=True)
class Claim:
    """claim.json: held by a job, or void. A claim that cannot be read is held by somebody unknown.

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
    scope: Scope = Scope.ALL  # for a void by a limit: what it holds back


@dataclass(frozen=True, slots=True)
class Result:
    """result.json: the attempt is over. `final` means that another try cannot help.

    `guess`: the job was ended from outside, and its shell did not learn why; the scheduler may know better.
    """

    cause: Cause
    why: str = ""
    exit_code: int | None = None
    signals: tuple[str, ...] = ()
    at: float = 0.0
    final: bool = False
    guess: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """verdict.json: why the job ended, as its scheduler says. It replaces the cause of a result that is a guess."""

    cause: Cause
    why: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """progress.json: how far the training is. Its file's time is the job's sign of life."""

    epoch: int = 0
    epochs: int | None = None
    started_epoch: int = 0
    metric_name: str | None = None
    metric: float | None = None
    best: float | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)  # file name -> SHA-256
    final: Mapping[str, float] = field(default_factory=dict)  # metrics of the finished run
    seconds_per_epoch: float | None = None  # of the stage that it is in

    @property
    def gained(self) -> bool:
        """Whether this attempt finished at least one epoch of its own."""
        return self.epoch > self.started_epoch


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of one attempt. Times are the file server's; None where a file is absent."""

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
        """Whether only the scheduler can say why it ended, and its answer is not recorded yet."""
        return self.result is not None and self.result.guess and self.verdict is None

    @property
    def cause(self) -> Cause | None:
        """Why it ended; None while it is open. A result outweighs a claim, and a verdict a guess."""
        if self.result is not None:
            return self.verdict.cause if self.result.guess and self.verdict else self.result.cause
        return self.claim.cause if self.void and self.claim else None

    @property
    def why(self) -> str:
        """The words that go with the cause; empty if there are none, or it is open."""
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
        """The job's ID, from whoever knew it first: the runner that submitted, or the job itself."""
        return self.opened.job_id or (self.claim.job_id if self.claim else None)


@dataclass(frozen=True, slots=True)
class Record:
    """An experiment's record at one look.

    `damage` names a file of the newest attempt (or the history) that exists and cannot be understood: until a person
    has looked, nothing more is done. Damage of older attempts changes nothing any more, and is in `notes`.
    Without `readable`, the file system would not let the record be read, and `damage` says why.
    """

    directory: Path
    attempts: tuple[Attempt, ...] = ()
    folded: bool = False
    damage: str = ""
    readable: bool = True
    notes: tuple[str, ...] = ()
    next_number: int = 1

    @property
    def newest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def runs(self) -> tuple[Attempt, ...]:
        """The attempts that are more than marks. The first of them pins config and inputs."""
        return tuple(attempt for attempt in self.attempts if attempt.opened.mark is None)

    @property
    def completed(self) -> Attempt | None:
        """The one attempt that completed. It need not be the newest: a mark may have been opened after it."""
        for attempt in self.attempts:
            if attempt.cause is Cause.COMPLETED:
                return attempt
        return None

"""OpenPBS and PBS Pro: which commands to run, in which order. `pbs_answers` parses their output."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from roundhouse.model.answers import (
    Identity,
    Jobs,
    QueryFailed,
    Refused,
    Scope,
    SubmitAnswer,
    Submitted,
    array_id,
    task_id,
)
from roundhouse.model.experiment import Resources
from roundhouse.schedulers import pbs_qdel, pbs_qsub
from roundhouse.schedulers.base import ONE_CORE, Run, in_batches
from roundhouse.schedulers.pbs_answers import (
    ENDED,
    NO_HISTORY,
    UNKNOWN,
    Attributes,
    destinations_of,
    jobs_of,
    parse_listing,
    read_array_limit,
    read_delete,
    read_listing,
    read_queues,
    read_selection,
    stem,
)

BATCH = 20  # IDs in one command: qstat opens a connection for each, from one of the 511 reserved ports of the host
LOOKUPS = 100  # most jobs that have left the queue, and most names, that one query looks up
DELETIONS = 3  # how often `cancel` tries to delete jobs that are still queued
LISTED = 10  # most jobs or ranges of tasks in an error message


class PBS:
    """The verbs of `base.Scheduler` for OpenPBS and PBS Pro."""

    kind = "pbs"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user
        self._destinations: dict[str | None, list[str]] = {}  # by queue

    def identity(self, run: Run) -> Identity | QueryFailed:
        answer = run(["qstat", "-B", "-f"])
        server = re.search(r"^Server:\s*(\S+)", answer.stdout, re.MULTILINE)
        if answer.code != 0 or server is None:
            return QueryFailed(answer.complaint)
        return Identity(self.kind, server[1], self.user)

    def submit(self, run: Run, script: Path, name: str, need: Resources = ONE_CORE) -> SubmitAnswer:
        text = script.read_text(encoding="utf-8", errors="replace")
        answer = pbs_qsub.read_submission(run(["qsub", str(pbs_qsub.beside_log(script, text))]))
        return self._routed(run, answer, pbs_qsub.queue_in(text)) if isinstance(answer, Submitted) else answer

    def query(
        self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None
    ) -> Jobs | QueryFailed:
        listing = JobQuery(run, self.user)
        try:
            listing.find_live()
            listing.find_others({array_id(one) for one in ids})
            # After `qterm -t immediate`, running tasks are missing from their array, but known by their own IDs.
            listing.find_others({one for one in ids if array_id(one) in listing.jobs})
            listing.find_names(names)
        except NoAnswer as failure:
            return QueryFailed(str(failure))
        known = jobs_of(listing.jobs, listing.unreadable, listing.history)
        return replace(known, later=frozenset(listing.later), history=listing.history)

    def array_limit(self, run: Run, queue: str | None) -> int:
        server = run(["qstat", "-B", "-f"])
        queue = queue or _default_queue(server.stdout)
        return read_array_limit(server, self._queues(run, queue).values() if queue and server.code == 0 else ())

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        wanted, named, complaints = {*ids}, set[str](), dict[str, None]()
        for times in range(DELETIONS + 1):
            listing = JobQuery(run, self.user)
            try:
                left = listing.alive(wanted)
            except NoAnswer as failure:
                return [*complaints, str(failure)]
            queued = {one for one in left if listing.jobs[one]["job_state"] in pbs_qdel.WAITING}
            # A running job needs time to end, and must not be signalled twice.
            left = [one for one in left if one in queued or one not in named]
            if times == DELETIONS or not left:
                return [*complaints, *listing.unread(wanted), *still_queued(queued)]
            for words in pbs_qdel.commands(left, listing.jobs):
                complaints |= dict.fromkeys(read_delete(run(["qdel", *words])))
            named |= {*left} - queued
            if not queued:  # qdel skips only queued jobs without a message
                break
        return [*complaints, *listing.unread(wanted)]

    def _queues(self, run: Run, queue: str) -> Mapping[str, Attributes]:
        """The queue and, if it is a routing queue, all queues that a job may be routed to."""
        found: dict[str, Attributes] = {}
        unknown = [queue]
        while unknown:
            listed = read_queues(run(["qstat", "-Q", "-f", *unknown]))
            queried, found = {*unknown, *found}, found | listed
            unknown = sorted({one for queue in listed.values() for one in destinations_of(queue)} - queried)
        return found

    def _routed(self, run: Run, answer: Submitted, queue: str | None) -> SubmitAnswer:
        """The answer, or a refusal if the job went to a routing queue whose destinations rejected it immediately.

        qsub prints an ID in that case too, but the server no longer knows the job, not even in its history.
        """
        if queue not in self._destinations:
            name = queue or _default_queue(run(["qstat", "-B", "-f"]).stdout)
            queues = self._queues(run, name) if name else {}
            if name in queues:
                self._destinations[queue] = [one for known in queues.values() for one in destinations_of(known)]
        destinations = self._destinations.get(queue, [])
        # A job on another server is not in the answers of this one.
        if not destinations or any("@" in one for one in destinations):
            return answer
        known = run(["qstat", "-x", "-f", answer.job_id])
        if known.code != UNKNOWN or NO_HISTORY.search(known.stderr) or known.stdout.strip():
            return answer
        why = (
            f"qsub accepted the job as {answer.job_id}, but then it was rejected by the destinations of routing queue "
            f"{queue or '(the default one)'} ({', '.join(destinations)}): {known.complaint}"
        )
        return Refused(why, scope=Scope.REQUEST)


def _as_listed(job_id: str, listed: str) -> str:
    """The ID of a job or a task with the server name of `listed`, the ID of the job or of the task's array."""
    index = re.search(r"\[(\d+)\]", job_id)
    return task_id(listed, int(index[1]) if index else None)


def _shuffled(words: Collection[str]) -> list[str]:
    """In random order, so that no word is postponed in every pass."""
    return random.sample(sorted(words), len(words))


def _default_queue(server: str) -> str | None:
    default = re.search(r"^\s*default_queue = (\S+)", server, re.MULTILINE)
    return default[1] if default else None


def still_queued(ids: Collection[str]) -> list[str]:
    """An error message about jobs that are still queued after all deletions; none if there are no such jobs."""
    arrays: dict[str, list[str]] = {}
    for one in sorted(ids):
        arrays.setdefault(array_id(one), []).append(one)
    parts = [part for tasks in arrays.values() for part in pbs_qdel.ranges(tasks) or tasks]
    more = f" and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return [f"still queued after {DELETIONS} calls of qdel: {', '.join(parts[:LISTED])}{more}"] if parts else []


class NoAnswer(Exception):
    """A command gave no answer, or an unreliable one."""


@dataclass
class JobQuery:
    """The commands of one query, and the jobs that they found."""

    run: Run
    user: str
    history: bool = True  # whether the server keeps a history of ended jobs
    jobs: dict[str, Attributes] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    later: set[str] = field(default_factory=set)  # IDs and names left for a later query

    def find_live(self) -> None:
        """All jobs of the user that have not ended, arrays with their tasks."""
        self._list_live({*self._select()})

    def find_others(self, ids: Collection[str]) -> None:
        """Those of these jobs that are not known yet, at most LOOKUPS: most of them have ended."""
        others = _shuffled({*ids} - {*self.jobs})
        self._list(others[:LOOKUPS])
        self.later |= {*others[LOOKUPS:]}

    def find_names(self, names: Collection[str]) -> None:
        """Ended jobs with these names, if no job with that name is known yet; at most LOOKUPS names."""
        unknown = _shuffled({*names} - {job["Job_Name"] for job in self.jobs.values()})
        for name in unknown[:LOOKUPS]:
            if self.history:
                self._list({*self._select(name)} - {*self.jobs})
        self.later |= {*unknown[LOOKUPS:]}

    def alive(self, wanted: Collection[str]) -> list[str]:
        """Those of these jobs and tasks that have not ended, with their IDs as the server writes them."""
        live = {stem(one): one for one in self._select()}
        wanted = {_as_listed(one, live[number]) for one in wanted if (number := stem(array_id(one))) in live}
        self._list_live({array_id(one) for one in wanted})
        self._list({one for one in wanted if array_id(one) in self.jobs} - {*self.jobs})
        alive = [one for one in sorted(wanted) if one in self.jobs]
        return [one for one in alive if self.jobs[one]["job_state"] not in {*ENDED, "E"}]

    def unread(self, wanted: Iterable[str]) -> list[str]:
        """Error messages about those of these jobs that are unknown because a part of qstat's output is unreadable."""
        rows = Jobs((), tuple(self.unreadable))
        about = {rows.unreadable_row_of(one, f"job {one}") for one in wanted if one not in self.jobs}
        return [f"not deleted, because qstat's output is unreadable: {row}" for row in sorted(about - {""})]

    def _select(self, name: str | None = None) -> list[str]:
        """The IDs of the user's live jobs; with `name`, of all jobs with this name, also ended ones."""
        answer = self.run(
            ["qselect", "-u", self.user] if name is None else ["qselect", "-x", "-u", self.user, "-N", name]
        )
        self.history = self.history and not NO_HISTORY.search(answer.stderr)
        ids = read_selection(answer)
        if isinstance(ids, QueryFailed):
            raise NoAnswer(ids.why)
        return ids

    def _list_live(self, live: Collection[str]) -> None:
        """Read live jobs. Many plain ones are read from the list of all jobs of the server, over one connection."""
        plain = {one for one in live if "[" not in one}
        if len(plain) > BATCH:
            answer = self.run(["qstat", "-f"])
            if answer.code != 0:
                raise NoAnswer(answer.complaint)
            everyones = parse_listing(answer.stdout).jobs
            self.jobs |= {one: job for one, job in everyones.items() if one in plain}
        self._list({*live} - {*self.jobs})

    def _list(self, ids: Iterable[str]) -> None:
        """Read jobs by ID."""
        for some in in_batches(ids, BATCH):
            tasks = ["-t"] if any("[]" in one for one in some) else []
            answer = self.run(["qstat", "-x", *tasks, "-f", *some] if self.history else ["qstat", *tasks, "-f", *some])
            if self.history and (NO_HISTORY.search(answer.stderr) or (answer.code == 0 and not answer.stdout.strip())):
                self.history = False
                answer = self.run(["qstat", *tasks, "-f", *some])
            listing = read_listing(answer, some)
            if isinstance(listing, QueryFailed):
                raise NoAnswer(listing.why)
            self.jobs |= listing.jobs
            self.unreadable += listing.unreadable

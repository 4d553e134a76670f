"""OpenPBS and PBS Pro: which commands to run, in which order. How to read what they print is in `pbs_answers`."""

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

AT_A_TIME = 20  # IDs in one command. qstat opens a connection for each, from one of the 511 reserved ports of the host
ONE_BY_ONE = 100  # jobs that have left the queue, and names, that are asked for in one query
DELETIONS = 3  # times that cancel deletes what is still queued
LISTED = 10  # jobs or ranges of tasks that a complaint names


class PBS:
    """The verbs of `base.Scheduler` for OpenPBS and PBS Pro."""

    kind = "pbs"
    grace = 180.0

    def __init__(self, user: str) -> None:
        self.user = user
        self._destinations: dict[str | None, list[str]] = {}  # of each queue that was asked for

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
        inquiry = Inquiry(run, self.user)
        try:
            inquiry.ask_for_live()
            inquiry.ask_for_others({array_id(one) for one in ids})
            # After `qterm -t immediate`, running tasks are missing from their array, but known by their own IDs.
            inquiry.ask_for_others({one for one in ids if array_id(one) in inquiry.jobs})
            inquiry.look_up(names)
        except NoAnswer as failure:
            return QueryFailed(str(failure))
        known = jobs_of(inquiry.jobs, inquiry.unreadable, inquiry.history)
        return replace(known, later=frozenset(inquiry.later), history=inquiry.history)

    def array_limit(self, run: Run, queue: str | None) -> int:
        server = run(["qstat", "-B", "-f"])
        queue = queue or _default_queue(server.stdout)
        return read_array_limit(server, self._queues(run, queue).values() if queue and server.code == 0 else ())

    def cancel(self, run: Run, ids: Iterable[str]) -> list[str]:
        wanted, named, complaints = {*ids}, set[str](), dict[str, None]()
        for times in range(DELETIONS + 1):
            inquiry = Inquiry(run, self.user)
            try:
                left = inquiry.alive(wanted)
            except NoAnswer as failure:
                return [*complaints, str(failure)]
            queued = {one for one in left if inquiry.jobs[one]["job_state"] in pbs_qdel.WAITING}
            # One that runs takes its time to end, and must not be signalled twice.
            left = [one for one in left if one in queued or one not in named]
            if times == DELETIONS or not left:
                return [*complaints, *inquiry.unread(wanted), *still_queued(queued)]
            for words in pbs_qdel.commands(left, inquiry.jobs):
                complaints |= dict.fromkeys(read_delete(run(["qdel", *words])))
            named |= {*left} - queued
            if not queued:  # qdel leaves out only queued jobs without a message
                break
        return [*complaints, *inquiry.unread(wanted)]

    def _queues(self, run: Run, queue: str) -> Mapping[str, Attributes]:
        """The queue, and if it is a routing queue all that a job may be handed on to."""
        found: dict[str, Attributes] = {}
        unknown = [queue]
        while unknown:
            listed = read_queues(run(["qstat", "-Q", "-f", *unknown]))
            asked, found = {*unknown, *found}, found | listed
            unknown = sorted({one for queue in listed.values() for one in destinations_of(queue)} - asked)
        return found

    def _routed(self, run: Run, answer: Submitted, queue: str | None) -> SubmitAnswer:
        """The answer, unless the job went to a routing queue whose destinations have rejected it at once.

        qsub prints an ID all the same, and the server does not know the job any more, not even in its history.
        """
        if queue not in self._destinations:
            name = queue or _default_queue(run(["qstat", "-B", "-f"]).stdout)
            queues = self._queues(run, name) if name else {}
            if name in queues:
                self._destinations[queue] = [one for known in queues.values() for one in destinations_of(known)]
        destinations = self._destinations.get(queue, [])
        if not destinations or any("@" in one for one in destinations):  # one on another server would not be seen here
            return answer
        known = run(["qstat", "-x", "-f", answer.job_id])
        if known.code != UNKNOWN or NO_HISTORY.search(known.stderr) or known.stdout.strip():
            return answer
        why = (
            f"qsub accepted the job as {answer.job_id}, and then it was rejected by the destinations of routing queue "
            f"{queue or '(the default one)'} ({', '.join(destinations)}): {known.complaint}"
        )
        return Refused(why, scope=Scope.REQUEST)


def _as_listed(job_id: str, listed: str) -> str:
    """A job's ID, or a task's, with the server named as in `listed`, the ID of the job or of the task's array."""
    index = re.search(r"\[(\d+)\]", job_id)
    return task_id(listed, int(index[1]) if index else None)


def _some_first(words: Collection[str]) -> list[str]:
    """In an order that differs each time, so that none is left for later again and again."""
    return random.sample(sorted(words), len(words))


def _default_queue(server: str) -> str | None:
    default = re.search(r"^\s*default_queue = (\S+)", server, re.MULTILINE)
    return default[1] if default else None


def still_queued(ids: Collection[str]) -> list[str]:
    """The complaint about queued jobs that are there after all deletions; none if there are no such jobs."""
    arrays: dict[str, list[str]] = {}
    for one in sorted(ids):
        arrays.setdefault(array_id(one), []).append(one)
    parts = [part for tasks in arrays.values() for part in pbs_qdel.ranges(tasks) or tasks]
    more = f" and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return [f"still queued after {DELETIONS} calls of qdel: {', '.join(parts[:LISTED])}{more}"] if parts else []


class NoAnswer(Exception):
    """A command gave no answer, or none to rely on."""


@dataclass
class Inquiry:
    """The questions of one query, and what was answered."""

    run: Run
    user: str
    history: bool = True  # whether the server keeps what it knows of jobs that have ended
    jobs: dict[str, Attributes] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    later: set[str] = field(default_factory=set)  # IDs and names that a later query asks for

    def ask_for_live(self) -> None:
        """All jobs of the user that have not ended, arrays with their tasks."""
        self._ask_for({*self._select()})

    def ask_for_others(self, ids: Collection[str]) -> None:
        """Those of these jobs that are not known yet: most have ended. There may be more than can be asked for now."""
        others = _some_first({*ids} - {*self.jobs})
        self._ask_by_id(others[:ONE_BY_ONE])
        self.later |= {*others[ONE_BY_ONE:]}

    def look_up(self, names: Collection[str]) -> None:
        """Jobs of these names that have ended, if no job of that name is known yet."""
        unknown = _some_first({*names} - {job["Job_Name"] for job in self.jobs.values()})
        for name in unknown[:ONE_BY_ONE]:
            if self.history:
                self._ask_by_id({*self._select(name)} - {*self.jobs})
        self.later |= {*unknown[ONE_BY_ONE:]}

    def alive(self, wanted: Collection[str]) -> list[str]:
        """Those of these jobs and tasks that have not ended, by their IDs as the server writes them."""
        live = {stem(one): one for one in self._select()}
        wanted = {_as_listed(one, live[number]) for one in wanted if (number := stem(array_id(one))) in live}
        self._ask_for({array_id(one) for one in wanted})
        self._ask_by_id({one for one in wanted if array_id(one) in self.jobs} - {*self.jobs})
        alive = [one for one in sorted(wanted) if one in self.jobs]
        return [one for one in alive if self.jobs[one]["job_state"] not in {*ENDED, "E"}]

    def unread(self, wanted: Iterable[str]) -> list[str]:
        """Complaints about those of these jobs that are not known since a part of qstat's answer cannot be read."""
        rows = Jobs((), tuple(self.unreadable))
        about = {rows.unreadable_row_of(one, f"job {one}") for one in wanted if one not in self.jobs}
        return [f"not deleted, as qstat's answer cannot be read: {row}" for row in sorted(about - {""})]

    def _select(self, name: str | None = None) -> list[str]:
        """The user's live jobs; or all of this name, those that have ended too."""
        answer = self.run(
            ["qselect", "-u", self.user] if name is None else ["qselect", "-x", "-u", self.user, "-N", name]
        )
        self.history = self.history and not NO_HISTORY.search(answer.stderr)
        ids = read_selection(answer)
        if isinstance(ids, QueryFailed):
            raise NoAnswer(ids.why)
        return ids

    def _ask_for(self, live: Collection[str]) -> None:
        """Live jobs. Many plain ones are read from the list of all jobs of the server, which is one connection."""
        plain = {one for one in live if "[" not in one}
        if len(plain) > AT_A_TIME:
            answer = self.run(["qstat", "-f"])
            if answer.code != 0:
                raise NoAnswer(answer.complaint)
            everyones = parse_listing(answer.stdout).jobs
            self.jobs |= {one: job for one, job in everyones.items() if one in plain}
        self._ask_by_id({*live} - {*self.jobs})

    def _ask_by_id(self, ids: Iterable[str]) -> None:
        for some in in_batches(ids, AT_A_TIME):
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

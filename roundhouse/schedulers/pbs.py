"""OpenPBS and PBS Pro: which commands to run, in which order. `pbs_answers` parses their output."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.formatting import abbreviated
from roundhouse.model.answers import Identity, Jobs, QueryFailed, Refused, Scope, SubmitAnswer, Submitted, array_id
from roundhouse.schedulers import pbs_answers, pbs_qdel, pbs_qsub
from roundhouse.schedulers.base import QueryAnswer, Run, in_batches
from roundhouse.schedulers.pbs_answers import ENDED, NO_HISTORY, UNKNOWN, Attributes, NoAnswer, destinations_of, stem

if TYPE_CHECKING:  # it needs packages, and toolbox/setup.sh runs without any
    from roundhouse.model.experiment import Resources

ARRAY_SIZE = 10_000  # most tasks of an array, if neither server nor queue has a limit of its own
BATCH = 20  # IDs in one command: qstat opens a connection for each, from one of the 511 reserved ports of the host
LOOKUPS = 100  # most jobs that have left the queue, and most names, that one query looks up
DELETIONS = 3  # how often `cancel` tries to delete jobs that are still queued
LISTED = 10  # most jobs or ranges of tasks in an error message


class PBS:
    """The methods of `base.Scheduler` for OpenPBS and PBS Pro."""

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

    def submit(self, run: Run, script: Path, name: str, need: Resources | None = None) -> SubmitAnswer:
        text = script.read_text(encoding="utf-8", errors="replace")
        answer = pbs_qsub.read_submission(run(["qsub", str(pbs_qsub.in_folder_of_log(script, text))]))
        return self._routed(run, answer, pbs_qsub.queue_in(text)) if isinstance(answer, Submitted) else answer

    def query(self, run: Run, ids: Collection[str], names: Collection[str], since: float | None = None) -> QueryAnswer:
        listing = JobQuery(run, self.user)
        try:
            listing.list_live(listing.select())
            listing.find_others({array_id(one) for one in ids})
            # After `qterm -t immediate`, running tasks are missing from their array, but known by their own IDs.
            listing.find_others({one for one in ids if array_id(one) in listing.jobs})
            listing.find_names(names)
        except NoAnswer as failure:
            return QueryFailed(str(failure))
        return pbs_answers.jobs_of(listing.jobs, listing.unreadable, listing.later, listing.history)

    def array_limit(self, run: Run, queue: str | None) -> int:
        server = run(["qstat", "-B", "-f"])
        if server.code != 0:
            return 1
        attributes = _server(server.stdout)
        name = queue or attributes.get("default_queue")
        queues = self._queues(run, name).values() if name else ()
        own, *limits = (one.get("max_array_size", "") for one in (attributes, *queues))
        return min([int(own) if own.isdigit() else ARRAY_SIZE, *(int(size) for size in limits if size.isdigit())])

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
                complaints |= dict.fromkeys(pbs_answers.read_delete(run(["qdel", *words])))
            named |= {*left} - queued
            if not queued:  # qdel skips only queued jobs without a message
                break
        return [*complaints, *listing.unread(wanted)]

    def _queues(self, run: Run, queue: str) -> Mapping[str, Attributes]:
        """The queue and, if it is a routing queue, all queues that a job may be routed to."""
        found: dict[str, Attributes] = {}
        unknown = [queue]
        while unknown:
            listed = pbs_answers.blocks_of(run(["qstat", "-Q", "-f", *unknown]).stdout, "Queue:")
            queried, found = {*unknown, *found}, found | listed
            unknown = sorted({one for queue in listed.values() for one in destinations_of(queue)} - queried)
        return found

    def _routed(self, run: Run, answer: Submitted, queue: str | None) -> SubmitAnswer:
        """The answer, or a refusal if the job went to a routing queue whose destinations rejected it immediately.

        qsub prints an ID in that case too, but the server no longer knows the job, not even in its history.
        """
        if queue not in self._destinations:
            name = queue or _server(run(["qstat", "-B", "-f"]).stdout).get("default_queue")
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


def _server(printed: str) -> Attributes:
    """The attributes of the server, from `qstat -B -f`."""
    return next(iter(pbs_answers.blocks_of(printed, "Server:").values()), {})


def still_queued(ids: Collection[str]) -> list[str]:
    """An error message about jobs that are still queued after all deletions; none if there are no such jobs."""
    arrays: dict[str, list[str]] = {}
    for one in sorted(ids):
        arrays.setdefault(array_id(one), []).append(one)
    parts = [part for tasks in arrays.values() for part in pbs_qdel.ranges(tasks) or tasks]
    return [f"still queued after {DELETIONS} calls of qdel: {abbreviated(parts, LISTED)}"] if parts else []


@dataclass
class JobQuery:
    """The commands of one query, and the jobs that they found."""

    run: Run
    user: str
    history: bool = True  # whether the server keeps a history of ended jobs
    jobs: dict[str, Attributes] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    later: set[str] = field(default_factory=set)  # IDs and names left for a later query

    def find_others(self, ids: Collection[str]) -> None:
        """Those of these jobs that are not known yet, at most LOOKUPS: most of them have ended."""
        self._list(self._some({*ids} - {*self.jobs}))

    def find_names(self, names: Collection[str]) -> None:
        """Ended jobs with these names, if no job with that name is known yet; at most LOOKUPS names."""
        for name in self._some({*names} - {job["Job_Name"] for job in self.jobs.values()}):
            if self.history:
                self._list({*self.select(name)} - {*self.jobs})

    def _some(self, words: Collection[str]) -> list[str]:
        """At most LOOKUPS of these IDs or names, in random order, so that none is postponed in every query."""
        shuffled = random.sample(sorted(words), len(words))
        self.later |= {*shuffled[LOOKUPS:]}
        return shuffled[:LOOKUPS]

    def alive(self, wanted: Collection[str]) -> list[str]:
        """Those of these jobs and tasks that have not ended, with their IDs as the server writes them."""
        live = {stem(one): one.removeprefix(stem(one)) for one in self.select()}
        wanted = {stem(one) + live[job] for one in wanted if (job := stem(array_id(one))) in live}
        self.list_live({array_id(one) for one in wanted})
        self._list({one for one in wanted if array_id(one) in self.jobs} - {*self.jobs})
        alive = [one for one in sorted(wanted) if one in self.jobs]
        return [one for one in alive if self.jobs[one]["job_state"] not in {*ENDED, "E"}]

    def unread(self, wanted: Iterable[str]) -> list[str]:
        """Error messages about those of these jobs that are unknown because a part of qstat's output is unreadable."""
        rows = Jobs((), tuple(self.unreadable))
        about = {rows.unreadable_row_of(one, f"job {one}") for one in wanted if one not in self.jobs}
        return [f"not deleted, because qstat's output is unreadable: {row}" for row in sorted(about - {""})]

    def select(self, name: str | None = None) -> list[str]:
        """The IDs of the user's live jobs, arrays without tasks; with `name`, of all jobs with it, also ended ones."""
        which = [] if name is None else ["-x", "-N", name]
        answer = self.run(["qselect", "-u", self.user, *which])
        self.history = self.history and not NO_HISTORY.search(answer.stderr)
        return pbs_answers.read_selection(answer)

    def list_live(self, live: Collection[str]) -> None:
        """Read live jobs, arrays with their tasks; many plain ones from the list of all jobs, over one connection."""
        plain = {one for one in live if "[" not in one}
        if len(plain) > BATCH:
            answer = self.run(["qstat", "-f"])
            if answer.code != 0:
                raise NoAnswer(answer.complaint)
            everyones = pbs_answers.parse_listing(answer.stdout).jobs
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
            listing = pbs_answers.read_listing(answer, some)
            self.jobs |= listing.jobs
            self.unreadable += listing.unreadable

"""The program of an allocation's job: `python -m roundhouse.jobs.allocation DIRECTORY JOB_ID` runs its agent."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from roundhouse.config.round import load_round
from roundhouse.config.site import load_site
from roundhouse.engine import allocations
from roundhouse.engine.allocations import Allocation
from roundhouse.engine.context import PassContext
from roundhouse.errors import RoundhouseError
from roundhouse.jobs.agent import Agent
from roundhouse.jobs.preload import preload
from roundhouse.machine import mps
from roundhouse.machine.pool import Pool, launch_bound, make_pool
from roundhouse.model.experiment import Experiment
from roundhouse.schedulers.allocation_slots import AllocationSlots
from roundhouse.schedulers.base import Output
from roundhouse.store import job_group
from roundhouse.store.archive import Archive, refuse_archived
from roundhouse.terminal import escape_unencodable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def main(argv: list[str]) -> int:
    """Run the agent. `argv[1:]`: the allocation's directory and its job ID."""
    started = time.monotonic()
    escape_unencodable()
    with ExitStack() as at_end:
        return _run(Path(argv[1]), argv[2], started, at_end)


def _run(directory: Path, job_id: str, started: float, at_end: ExitStack) -> int:
    agent = None
    try:
        agent = prepare(directory, job_id, started, at_end)
        for number in SIGNALS:
            signal.signal(number, agent.on_signal)
        agent.run()
    except (RoundhouseError, OSError) as error:
        print(f"roundhouse: {error}", file=sys.stderr, flush=True)
        if agent is not None:  # what runs would be killed when this process ends
            agent.on_signal(signal.SIGTERM, None)
            agent.end_slots(signal.SIGTERM)
        return 1
    print(f"roundhouse: the allocation ends: {agent.end}", flush=True)
    return 0


def prepare(directory: Path, job_id: str, started: float, at_end: ExitStack) -> Agent:
    """The agent of the allocation in `directory`. RoundhouseError: there is none, or its round cannot be read.

    `at_end`: what must end after the agent.
    """
    repository = Path.cwd()  # where the job script started it, possibly through a link
    allocation = allocations.read(directory)
    if allocation is None:
        raise RoundhouseError(f"{directory / allocations.FILE} is missing or unreadable: this job has nothing to run")
    if job_id != "unknown":
        job_group.write_id(directory, job_id)
    experiments = directory.parent.parent.parent
    refuse_archived(Archive.of(allocation.round, experiments, Path(allocation.analysis)))
    site = replace(load_site(allocation.site, repository / "sites", ""), modules=[], setup=[], environment={})
    loaded = load_round(allocation.round, Path(allocation.rounds)).at(site.retry)
    if site.mps and allocation.pack.per_gpu > 1 and allocation.resources.ngpus:
        _start_mps(at_end)
    slots = AllocationSlots(_pool(allocation, loaded.experiments, repository), allocation.identity, job_id)
    context = PassContext(experiments, repository, site, slots, _no_command, site.python or sys.executable)
    context.packed, context.current_code = True, allocation.current_code
    if allocation.code is not None:
        context.copies.present[allocation.round] = allocation.code
    wanted = sorted(loaded.experiments, key=lambda one: -one.priority)
    return Agent(allocation, directory, context, slots, wanted, started + allocation.resources.walltime_s)


def _start_mps(at_end: ExitStack) -> None:
    """Start NVIDIA MPS for what runs in the slots; if that is impossible, they share the GPUs without it."""
    try:
        service = mps.start()
    except mps.NotStarted as why:
        print(f"roundhouse: the site file has `mps: true`, but no MPS daemon was started: {why}", flush=True)
        return
    at_end.callback(service.stop)
    os.environ |= service.environ
    print("roundhouse: MPS is on for the GPUs of this allocation", flush=True)


def _no_command(argv: Sequence[str]) -> Output:
    return Output(tuple(argv), None, "", "no scheduler is queried within an allocation")


def _pool(allocation: Allocation, experiments: Sequence[Experiment], repository: Path) -> Pool:
    pack, resources = allocation.pack, allocation.resources
    studies = {one.study for one in experiments if allocation.is_for(one) and one.study is not None}
    threads = max(1, resources.ncpus // pack.slots)
    start = preload(repository, sorted(studies), threads) if studies else launch_bound
    return make_pool(
        per_gpu=pack.per_gpu, slots=pack.slots, cores=resources.ncpus, home=f"{allocation.name} ", launch=start
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""A job's heartbeat: it touches progress.json, and stops the run when its attempt is cancelled or closed.

A job with GPUs also has their use sampled, which the heartbeat writes to progress.json.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from roundhouse import files
from roundhouse.jobs.worker import ClaimedAttempt, request_stop
from roundhouse.machine import gpu_sampler
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.store import record

INTERVAL = 60.0  # seconds between two heartbeats


def start_heartbeat(claimed: ClaimedAttempt) -> None:
    interval = float(os.environ.get("ROUNDHOUSE_SIGN_OF_LIFE", INTERVAL))
    threading.Thread(target=_beat, args=(claimed, interval), daemon=True).start()
    writes_own_progress = bool(claimed.config.get("command")) and not claimed.attempt.opened.files
    if not writes_own_progress:
        claimed.sampler = gpu_sampler.sampler_for(int(claimed.attempt.opened.resources.get("ngpus") or 0))
    if claimed.sampler is not None:
        claimed.sampler.start(min(gpu_sampler.INTERVAL, interval))


def _beat(claimed: ClaimedAttempt, interval: float) -> None:
    stop_requested = False
    while True:
        time.sleep(interval)
        try:
            ended = why_over(claimed)
        except OSError:
            continue  # an error of the file system says nothing about the attempt
        if ended == "cancelled":
            if stop_requested and claimed.child is not None:
                claimed.child.kill()
            stop_requested = True
            request_stop(claimed, signal.SIGTERM)
        elif ended:
            # The runner that closed the attempt counts this job as dead, so it must not write anything any more.
            print(f"roundhouse: {ended}; this job exits", file=sys.stderr, flush=True)
            if claimed.child is not None:
                claimed.child.kill()
            os._exit(JobExitCode.NOT_MINE)
        try:
            claimed.report_gpu_use()
        except OSError as error:
            print(f"roundhouse: the use of the GPUs was not written: {error}", file=sys.stderr, flush=True)
        try:
            files.touch(claimed.place / record.PROGRESS)  # also on a full disk: it shows that the job is alive
        except OSError as error:
            print(f"roundhouse: heartbeat failed: {error}", file=sys.stderr, flush=True)


def why_over(claimed: ClaimedAttempt) -> str:
    """Why the attempt is over although its job runs; "cancelled" if the user cancelled it; empty if it is not over.

    It reads directory listings: network file systems may answer a query about one file from a cache for a minute.
    """
    names = files.list_names(claimed.place)
    numbers = [int(name) for name in files.list_names(claimed.place.parent) if name.isdigit()]
    later = [n for n in numbers if n > claimed.number and record.JOB in files.list_names(claimed.place.parent / str(n))]
    if not names or record.RESULT in names:
        return f"attempt {claimed.number} was closed by a runner"
    if later:
        return f"attempt {max(later)} was opened after attempt {claimed.number}"
    return "cancelled" if record.CANCEL in names else ""

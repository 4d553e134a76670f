"""A job's heartbeat: it touches progress.json, and stops the run when its attempt is cancelled or closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from roundhouse import files
from roundhouse.jobs.worker import Work, request_stop
from roundhouse.model.exit_codes import ExitCode
from roundhouse.store import record

INTERVAL = 60.0  # seconds between two heartbeats


def start_heartbeat(work: Work) -> None:
    threading.Thread(target=_beat, args=(work,), daemon=True).start()


def _beat(work: Work) -> None:
    interval = float(os.environ.get("ROUNDHOUSE_SIGN_OF_LIFE", INTERVAL))
    stop_requested = False
    while True:
        time.sleep(interval)
        try:
            ended = why_over(work)
        except OSError:
            continue  # an error of the file system says nothing about the attempt
        if ended == "cancelled":
            if stop_requested and work.child is not None:
                work.child.kill()
            stop_requested = True
            request_stop(work, signal.SIGTERM)
        elif ended:
            # The runner that closed the attempt counts this job as dead, so it must not write anything any more.
            print(f"roundhouse: {ended}; this job exits", file=sys.stderr, flush=True)
            if work.child is not None:
                work.child.kill()
            os._exit(ExitCode.NOT_MINE)
        try:
            files.touch(work.place / record.PROGRESS)
        except OSError as error:
            print(f"roundhouse: heartbeat failed: {error}", file=sys.stderr, flush=True)


def why_over(work: Work) -> str:
    """Why the attempt is over although its job runs; "cancelled" if the user cancelled it; empty if it is not over.

    It reads directory listings: network file systems may answer a query about one file from a cache for a minute.
    """
    names = files.list_names(work.place)
    numbers = [int(name) for name in files.list_names(work.place.parent) if name.isdigit()]
    later = [n for n in numbers if n > work.number and record.JOB in files.list_names(work.place.parent / str(n))]
    if not names or record.RESULT in names:
        return f"attempt {work.number} was closed by a runner"
    if later:
        return f"attempt {max(later)} was opened after attempt {work.number}"
    return "cancelled" if record.CANCEL in names else ""

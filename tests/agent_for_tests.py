"""A minimal agent of an allocation: it starts job scripts, preloaded or not.

Usage: python agent_for_tests.py REPOSITORY STUDY; STUDY is `-` for no preloading. It reads lines `SCRIPT TOKEN THREADS`
from stdin, and prints `started TOKEN PID` and `ended TOKEN CODE`.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path


def main(repository: Path, study: str) -> None:
    sys.path.insert(0, str(repository))
    from roundhouse.jobs.preload import preload
    from roundhouse.machine import pool
    from roundhouse.model.experiment import Resources

    launch = pool.launch_bound if study == "-" else preload(repository, [study], 1)
    print("ready", flush=True)
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # an inherited file that a job must not see
    children: dict[str, subprocess.Popen[bytes]] = {}
    waiting = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            received = os.read(0, 4096)
            if not received:
                return
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                script, token, threads = line.decode().split()
                one = pool.Pool(pool.Layout((), 1, 1, int(threads), home=f"{token} "), launch)
                assert one.start(Path(script), token, Resources())
                children[token], _ = one._started[token]
                print("started", token, children[token].pid, flush=True)
        for token, child in list(children.items()):
            if (code := child.poll()) is not None:
                del children[token]
                print("ended", token, code, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

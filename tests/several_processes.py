"""One attempt of a test's study in several processes, without a runner: `python several_processes.py ROOT STUDY JSON`.

ROOT has the packages `studies` and `roundhouse`. JSON: directory, earlier, config, settings that no config can set. The
last line of stdout is the outcome as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = sys.argv[1]


def main(study_name: str, text: str) -> int:
    from roundhouse.jobs.processes import start_processes
    from roundhouse.settings import split_config
    from roundhouse.training.execute import Attempt, Hooks, execute, prepare
    from roundhouse.training.ranks import connect, disconnect
    from roundhouse.training.study import load_study

    work = json.loads(text)
    reasons: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: reasons.append("SIGTERM"))
    settings, config = split_config({"device": "cpu", "precision": "fp32", **work["config"]})
    settings = replace(settings, **work["settings"])
    attempt = Attempt(Path(work["directory"]), [Path(one) for one in work["earlier"]])
    attempt.directory.mkdir(parents=True, exist_ok=True)
    processes = start_processes(settings)
    print("pids", *(one.child.pid for one in processes.others), flush=True)
    with processes.watched():
        processes.send(
            {"settings": settings, "study": study_name, "config": config, "inputs": {}, "data": None,
             "attempt": attempt, "threads": 1}
        )  # fmt: skip
        ranks = connect(0, processes.channels, prepare(settings).device)
        hooks = Hooks(
            lambda session: print("saved", session.state.step, flush=True),
            lambda session: print("recorded", flush=True),
            lambda: reasons[0] if reasons else None,
        )
        outcome = execute(load_study(study_name, config, {}, None), settings, attempt, hooks, ranks)
        disconnect(ranks)
    facts: dict[str, Any] = vars(outcome) | {"metrics": dict(outcome.metrics), "artifacts": dict(outcome.artifacts)}
    print(json.dumps(facts), flush=True)
    return 0


if __name__ == "__main__":
    from roundhouse.errors import RoundhouseError

    try:
        sys.exit(main(*sys.argv[2:]))
    except RoundhouseError as error:
        print(f"roundhouse: {error}", file=sys.stderr)
        sys.exit(1)

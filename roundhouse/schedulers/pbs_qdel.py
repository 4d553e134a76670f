"""Which qdel commands delete a set of PBS jobs. Pure functions.

OpenPBS 23.06 crashes if one command names a queued task of an array together with anything else, and of more than two
separate ranges of queued tasks it deletes only the first two, without a message. These commands work: plain jobs and
whole arrays (`A[]`), many in one command; tasks, one contiguous range of one array (`A[3-17]`) in each command.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

from roundhouse.model.answers import array_id
from roundhouse.schedulers.base import in_batches
from roundhouse.schedulers.pbs_answers import ENDED, NOT_STARTED, Attributes

BATCH = 20  # plain jobs and whole arrays in one command
TASK = re.compile(r"(\d+)\[(\d+)\](.*)")
WAITING = NOT_STARTED | {"H"}


def commands(wanted: Collection[str], jobs: Mapping[str, Attributes]) -> list[list[str]]:
    """The arguments of the qdel commands that delete the jobs `wanted`, all of them alive.

    `jobs` must contain them and, for each wanted task, its array and all tasks of it. Queued jobs come first, because
    one of them could start when a running job is deleted.
    """
    together, queued, running = [one for one in wanted if not TASK.fullmatch(one)], [], []
    for array in sorted({array_id(one) for one in wanted if TASK.fullmatch(one)}):
        tasks = {one: attributes for one, attributes in jobs.items() if array_id(one) == array and one != array}
        chosen = [one for one in wanted if one in tasks]
        if _is_whole(jobs.get(array, {}), tasks, chosen):
            together.append(array)
            continue
        waiting = [one for one in chosen if tasks[one].get("job_state") in WAITING]
        queued += ranges(waiting)
        running += ranges([one for one in chosen if one not in set(waiting)])
    return [*in_batches(together, BATCH), *([one] for one in (*queued, *running))]


def _is_whole(array: Attributes, tasks: Mapping[str, Attributes], chosen: Collection[str]) -> bool:
    """Whether deleting the array deletes exactly the chosen tasks: they are all tasks that have not ended.

    qdel ignores tasks that are ending. A server that was stopped while tasks ran may not list all tasks.
    """
    alive = {one for one, attributes in tasks.items() if attributes.get("job_state") not in {*ENDED, "E"}}
    submitted = re.fullmatch(r"(\d+)-(\d+)", array.get("array_indices_submitted", ""))
    complete = submitted is not None and len(tasks) == int(submitted[2]) - int(submitted[1]) + 1
    return complete and alive <= {*chosen}


def ranges(tasks: Sequence[str]) -> list[str]:
    """Tasks of one array as contiguous ranges, such as 15[3-17].server and 15[20].server."""
    matches = [match for one in tasks if (match := TASK.fullmatch(one))]
    indices = sorted(int(match[2]) for match in matches)
    parts = []
    for _, group in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        found = [index for _, index in group]
        parts.append(f"{found[0]}-{found[-1]}" if len(found) > 1 else f"{found[0]}")
    return [f"{matches[0][1]}[{part}]{matches[0][3]}" for part in parts]

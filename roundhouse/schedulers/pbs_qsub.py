"""The arguments and the answers of qsub of OpenPBS and PBS Pro.

A refusal is recognised by qsub's exit code, which is PBS's error number modulo 256 (pbs_error.h): the wording differs
between versions, and a site's hooks print their own text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from roundhouse.model.answers import Refused, Scope, SubmitAnswer, Submitted, Unclear
from roundhouse.schedulers.base import Output

# Definite refusals, and the scope of each. With any other code, such as 162 and 255 (no connection), the job may have
# been accepted.
REFUSALS = {
    1: Scope.REQUEST,  # qsub itself could not read the script or its header
    2: Scope.REQUEST,  # an option that qsub does not take
    3: Scope.SIZE,  # 15107: more tasks than server or queue allow
    32: Scope.REQUEST,  # 15136: refused by a hook of the site
    38: Scope.ALL,  # 15142: number of jobs of a user, a group, a project or all
    39: Scope.REQUEST,  # 15143: sum of a resource over all jobs; a job with a smaller request may be accepted
    154: Scope.REQUEST,  # undefined attribute
    155: Scope.REQUEST,  # read-only attribute
    156: Scope.REQUEST,  # invalid request
    159: Scope.QUEUE,  # unauthorised: access lists of queue or server
    166: Scope.REQUEST,  # illegal value
    170: Scope.QUEUE,  # unknown queue
    171: Scope.ALL,  # invalid credential
    173: Scope.QUEUE,  # queue not enabled: PBS's own router also tries again
    174: Scope.QUEUE,  # no access to the queue
    175: Scope.ALL,  # the user is unknown to the server
    187: Scope.REQUEST,  # unknown resource
    188: Scope.REQUEST,  # more than queue or server allow
    189: Scope.ALL,  # no default queue
    191: Scope.REQUEST,  # rejected by all destinations of a routing queue
    197: Scope.ALL,  # the group is unknown to the server
    198: Scope.QUEUE,  # 15046: number of jobs in the queue
    201: Scope.ALL,  # invalid account
}
LATER = {3, 38, 39, 173, 198}  # temporary refusals
COUNT_TASKS = {3, 38, 39, 198}  # temporary refusals for which each task of an array counts


def read_submission(answer: Output) -> SubmitAnswer:
    """The answer of qsub: an ID alone on a line, or an error. A wrapper of the site may print other lines."""
    lines = answer.stdout.splitlines()
    accepted = [line.strip() for line in lines if re.fullmatch(r"\d+(\[\])?(\.\S+)?", line.strip())]
    if answer.code == 0 and len(accepted) == 1:
        return Submitted(accepted[0])
    # Text before qsub's own message is ignored, and so is the list of options after it.
    said = re.search(r"^qsub: (.*?)(?=^usage:|\Z)", answer.stderr, re.MULTILINE | re.DOTALL)
    if said is None or answer.code not in REFUSALS:
        return Unclear(answer.complaint)
    scope = _scope_of(answer.code, said[1])
    # A hook with an error of its own has not decided about the job.
    later = answer.code in LATER or (answer.code == 32 and "encountered an exception" in said[1])
    return Refused(replace(answer, stderr=said[0]).complaint, later, scope, answer.code in COUNT_TASKS)


def _scope_of(code: int, said: str) -> Scope:
    """The scope of a refusal; for two codes it depends on the message."""
    if code == 38 and re.search(r"\bqueue \S", said):
        return Scope.QUEUE
    if code == 166 and said.strip().endswith("value project"):
        return Scope.ALL
    return REFUSALS[code]


def queue_in(script: str) -> str | None:
    """The queue in a job script; the last one counts, because a site's own directives come last."""
    named = re.findall(r"^#PBS (?:.* )?-q\s*([^\s@]+)", script, re.MULTILINE)
    return named[-1] if named else None


def log_in(script: str) -> str | None:
    """The path of the log in a job script."""
    log = re.search(r"^#PBS -o (\S+)$", script, re.MULTILINE)
    return log[1] if log else None


def in_folder_of_log(script: Path, text: str) -> Path:
    """The script's path, with the folder of its log, which is the same one without characters that qsub misreads."""
    log = log_in(text)
    path = Path(log).parent / script.name if log else script
    return path if path.is_absolute() and path.exists() else script

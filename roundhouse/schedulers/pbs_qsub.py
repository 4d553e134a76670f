"""What qsub of OpenPBS and PBS Pro answers, and what a job script asks qsub for. Pure functions.

A refusal is recognised by qsub's exit code, which is PBS's error number modulo 256 (pbs_error.h): wording differs
between versions, and a site's hooks say what they like.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from roundhouse.schedulers.base import Output, Refused, Scope, SubmitAnswer, Submitted, Unclear

LATER, NEVER = True, False

# Definite refusals. Any other code may come with a job that was accepted: 162 and 255, no connection, are among those.
REFUSALS = {
    1: (NEVER, Scope.REQUEST),  # qsub itself could not read the script or its header
    2: (NEVER, Scope.REQUEST),  # an option that qsub does not take
    3: (LATER, Scope.SIZE),  # 15107: more tasks than server or queue allow
    32: (NEVER, Scope.REQUEST),  # 15136: refused by a hook of the site
    38: (LATER, Scope.ALL),  # 15142: number of jobs, of a user, group, project or altogether
    39: (LATER, Scope.REQUEST),  # 15143: sum of a resource over all jobs; one that asks for less may be accepted
    154: (NEVER, Scope.REQUEST),  # undefined attribute
    155: (NEVER, Scope.REQUEST),  # read-only attribute
    156: (NEVER, Scope.REQUEST),  # invalid request
    159: (NEVER, Scope.QUEUE),  # unauthorised: access lists of queue or server
    166: (NEVER, Scope.REQUEST),  # illegal value
    170: (NEVER, Scope.QUEUE),  # unknown queue
    171: (NEVER, Scope.ALL),  # invalid credential
    173: (LATER, Scope.QUEUE),  # queue not enabled: PBS's own router tries again as well
    174: (NEVER, Scope.QUEUE),  # no access to the queue
    175: (NEVER, Scope.ALL),  # the user is unknown to the server
    187: (NEVER, Scope.REQUEST),  # unknown resource
    188: (NEVER, Scope.REQUEST),  # more than queue or server allow
    189: (NEVER, Scope.ALL),  # no default queue
    191: (NEVER, Scope.REQUEST),  # rejected by all destinations of a routing queue
    197: (NEVER, Scope.ALL),  # the group is unknown to the server
    198: (LATER, Scope.QUEUE),  # 15046: number of jobs in the queue
    201: (NEVER, Scope.ALL),  # invalid account
}


def read_submission(answer: Output) -> SubmitAnswer:
    """What qsub said: an ID alone on a line, or why not. A wrapper of the site may have printed lines beside it."""
    lines = answer.stdout.splitlines()
    accepted = [line.strip() for line in lines if re.fullmatch(r"\d+(\[\])?(\.\S+)?", line.strip())]
    if answer.code == 0 and len(accepted) == 1:
        return Submitted(accepted[0])
    # What stands before qsub's own words is not of interest, nor is its list of options behind them.
    said = re.search(r"^qsub: (.*?)(?=^usage:|\Z)", answer.stderr, re.MULTILINE | re.DOTALL)
    if said is None or answer.code not in REFUSALS:
        return Unclear(answer.complaint)
    later, scope = _more_closely(answer.code, said[1])
    return Refused(replace(answer, stderr=said[0]).complaint, later, scope)


def _more_closely(code: int, said: str) -> tuple[bool, Scope]:
    """What a refusal is about, where the code alone leaves that open."""
    later, scope = REFUSALS[code]
    if code == 38 and re.search(r"\bqueue \S", said):
        scope = Scope.QUEUE
    elif code == 166 and said.strip().endswith("value project"):
        scope = Scope.ALL
    elif code == 32 and "encountered an exception" in said:
        later = LATER  # the hook itself failed: it has not judged the job
    return later, scope


def queue_in(script: str) -> str | None:
    """The queue that a job script names; the last one counts, as a site's own directives come last."""
    named = re.findall(r"^#PBS (?:.* )?-q\s*([^\s@]+)", script, re.MULTILINE)
    return named[-1] if named else None


def log_in(script: str) -> str | None:
    """The path of the log that a job script names."""
    log = re.search(r"^#PBS -o (\S+)$", script, re.MULTILINE)
    return log[1] if log else None


def beside_log(script: Path, text: str) -> Path:
    """The script by the path of its log, which lies beside it: that one holds no character that qsub misreads."""
    log = log_in(text)
    beside = Path(log).parent / script.name if log else script
    return beside if beside.is_absolute() and beside.exists() else script

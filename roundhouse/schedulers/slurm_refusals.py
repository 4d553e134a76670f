"""Slurm: what a failed submission means, and which reasons of a pending job no waiting resolves."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from enum import Enum

from roundhouse.model.answers import Refused, Scope, Unclear
from roundhouse.schedulers.base import Output


class Limit(Enum):
    """What a limit of an association, a QOS or a partition counts."""

    REQUEST = "one job's request"  # no waiting resolves it
    JOBS = "the jobs of a user or an account"
    RESOURCES = "resources in use by a user or an account"


# Reason words as squeue shows them of a pending job and as sbatch prints them of a refused one, in any case of letters.
# Each word that Slurm knows matches one pattern at most.
LIMITS = {
    Limit.REQUEST: r"QOSMin\w+|(QOS|Assoc)?Max\w+Per(Job|Node)(Limit)?|MaxMemPerLimit",
    Limit.JOBS: r"(QOS|Assoc)?(Grp|Max)(Submit)?Jobs?(PerUser|PerAccount)?(Limit)?|(QOS|Association)JobLimit",
    Limit.RESOURCES: r"(QOS|Assoc)Grp(?!(Submit)?Jobs?(Limit)?$)\w+|(QOS|Association)(Resource|Time)Limit"
    r"|(QOS)?Max(?!(Submit)?Jobs?Per)\w+Per(User|Account)(Limit)?|QOSUsageThreshold",
}
_LIMITS = {limit: re.compile(words, re.IGNORECASE) for limit, words in LIMITS.items()}

# Other reasons that no waiting resolves: a person must release the job, change it, or change the cluster.
_HOPELESS = re.compile(
    r"JobHeld(User|Admin)|JobHoldMaxRequeue|.*requeued[ _]held|BadConstraints|DependencyNeverSatisfied"
    r"|Partition(Config|TimeLimit|NodeLimit)|Invalid(Account|QOS)|(Account|QOS)NotAllowed"
    r"|Reservation(Deleted|Invalid)|Job's (account|QOS) not permitted to use this partition.*",
    re.IGNORECASE,
)

# Errors of the connection, of authentication and of the configuration, and errors that name no cause: the controller
# may have accepted the job before the answer was lost.
_COMMUNICATION = re.compile(
    r"unexpected message received|communication \w+ failure|message (send|receive) failure|unable to contact"
    r"|incompatible versions|stream version|authentication|credential|munge|insane message length|find an address"
    r"|missing socket|socket error|file descriptor|would block|connection (rejected|forced|timed out|refused|reset)"
    r"|shutting down|standby|timed out|retrying|zero bytes|header lengths|received (zero length )?message"
    r"|failed to send|problem (with )?talking to|connect to database|database connection"
    r"|configuration (source|file)|remote configs|operation now in progress|no error|slurm internal error",
    re.IGNORECASE,
)
_SYSTEM_ERRORS = {os.strerror(number) for number in errno.errorcode} - {os.strerror(errno.EAGAIN)}

# What the controller, or sbatch itself before it sent anything, says of a submission. The first pattern that matches
# counts; all else that is said is a refusal of this request. An account or a QOS may be valid in one partition only,
# and Slurm does not say whether it is: such a refusal stops what goes to the same queue. Reservations, features,
# licenses and options come from the site file alone, so they concern all jobs.
_VERDICTS = (
    (r"no cluster '", False, Scope.ALL),
    (r"MaxJobCount|unable to create job record|resource temporarily unavailable|rate limit exceeded", True, Scope.ALL),
    (r"submissions disabled|I/O error writing script|QOS usage threshold|can't be reached now", True, Scope.ALL),
    (r"partition not available|partition in down state", True, Scope.QUEUE),
    (r"node not available|nodes are busy|licenses currently unavailable|reservation (is in use|not usable now)"
     r"|burst buffer (resource limit|wait)|waiting for burst buffer", True, Scope.REQUEST),
    (r"invalid job array specification", True, Scope.SIZE),
    (r"invalid partition|no partition specified|permitted to use this partition|invalid account|invalid qos"
     r"|access/permission denied", False, Scope.QUEUE),
    (r"reservation|invalid (wckey|feature|preferred feature|license|mcs_label|user id|group id|cluster)"
     r"|invalid or unknown association|eligible clusters|unrecognized option|requires an argument"
     r"|invalid --[\w-]+ specification|invalid directive", False, Scope.ALL),
)  # fmt: skip
_POLICY = re.compile(r"accounting/QOS policy", re.IGNORECASE)
_BY_LIMIT = {
    Limit.REQUEST: (False, Scope.REQUEST),
    Limit.JOBS: (True, Scope.ALL),
    Limit.RESOURCES: (True, Scope.REQUEST),
    None: (True, Scope.ALL),  # Slurm's text names the limit of submitted jobs first
}


def limit_of(word: str) -> Limit | None:
    """What the limit with this name counts; None if the word is no limit."""
    return next((limit for limit, words in _LIMITS.items() if words.fullmatch(word)), None)


def hopeless(reason: str) -> bool:
    """Whether no waiting resolves this reason of a pending job."""
    return limit_of(reason) is Limit.REQUEST or _HOPELESS.fullmatch(reason) is not None


def own_lines(stderr: str, command: str) -> list[str]:
    """The lines on stderr that a command of Slurm wrote itself; others are of preloaded libraries and of wrappers."""
    return re.findall(rf"^\s*(?:\S*/)?(?:{command}(?:\.\w+)?: |slurm\w* error: ).*$", stderr, re.MULTILINE)


def complaint(answer: Output, command: str) -> str:
    """One line for a person, of the command's own words where there are any."""
    return replace(answer, stderr="\n".join(own_lines(answer.stderr, command)) or answer.stderr).complaint


def refusal(answer: Output) -> Refused | Unclear:
    """What a failed submission means, from the lines that sbatch itself wrote to stderr.

    Lines of others, such as wrappers of the site and preloaded libraries, say nothing about the job. Where sbatch
    reports an answer of the controller, only that counts: lines before it may be about tries that failed. The text of a
    site's filter comes with the verdict "Unspecified error", and is a refusal of this request.
    """
    own = own_lines(answer.stderr, "sbatch")
    verdicts = [line.partition("submission failed:")[2].strip() for line in own if "submission failed:" in line]
    text = "\n".join([line for line in own if re.search("error|fatal", line)] if verdicts else own)
    why = replace(answer, stderr=text or answer.stderr).complaint
    doubts = list(verdicts or own)
    if "Unspecified error" in verdicts:  # Slurm's functions may have reported the cause before
        doubts += [line for line in own if re.search(r"error: slurm_\w+: ", line)]
    not_run = answer.code in (126, 127)  # a shell's: a wrapper of the site failed
    if not own or not_run or any(_COMMUNICATION.search(said) or said in _SYSTEM_ERRORS for said in doubts):
        return Unclear(why)
    later, scope = _meaning(verdicts[-1] if verdicts else text, text)
    return Refused(why, later, scope)


def _meaning(verdict: str, text: str) -> tuple[bool, Scope]:
    """Whether a verdict may change with time, and what else it concerns."""
    if _POLICY.search(verdict):
        return _BY_LIMIT[next(filter(None, map(limit_of, re.findall(r"\w+", text))), None)]
    for pattern, later, scope in _VERDICTS:
        if re.search(pattern, verdict, re.IGNORECASE):
            return later, scope
    return False, Scope.REQUEST

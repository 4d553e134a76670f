"""Slurm: what a failed submission means, and which reasons of a pending job are permanent."""

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

    REQUEST = "one job's request"  # permanent
    JOBS = "the jobs of a user or an account"
    RESOURCES = "resources in use by a user or an account"


# Reasons as squeue prints them for a pending job and sbatch for a refused one, in upper or lower case. Each reason of
# Slurm matches at most one pattern.
LIMITS = {
    Limit.REQUEST: r"QOSMin\w+|(QOS|Assoc)?Max\w+Per(Job|Node)(Limit)?|MaxMemPerLimit",
    Limit.JOBS: r"(QOS|Assoc)?(Grp|Max)(Submit)?Jobs?(PerUser|PerAccount)?(Limit)?|(QOS|Association)JobLimit",
    Limit.RESOURCES: r"(QOS|Assoc)Grp(?!(Submit)?Jobs?(Limit)?$)\w+|(QOS|Association)(Resource|Time)Limit"
    r"|(QOS)?Max(?!(Submit)?Jobs?Per)\w+Per(User|Account)(Limit)?|QOSUsageThreshold",
}
_LIMITS = {limit: re.compile(words, re.IGNORECASE) for limit, words in LIMITS.items()}

# Other permanent reasons: the user must release or change the job, or an administrator must change the cluster.
_PERMANENT = re.compile(
    r"JobHeld(User|Admin)|JobHoldMaxRequeue|.*requeued[ _]held|BadConstraints|DependencyNeverSatisfied"
    r"|Partition(Config|TimeLimit|NodeLimit)|Invalid(Account|QOS)|(Account|QOS)NotAllowed"
    r"|Reservation(Deleted|Invalid)|Job's (account|QOS) not permitted to use this partition.*",
    re.IGNORECASE,
)

# Errors of connection, authentication and configuration, and errors without a cause: the controller may have accepted
# the job before the answer was lost.
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

# Refusals by the controller, or by sbatch before it sends anything: message, whether the same may be accepted later,
# scope. The first pattern that matches counts; any other message is a permanent refusal of this request. An account or
# a QOS may be valid in one partition only, and Slurm does not report which: such a refusal stops submissions to the
# same queue. Reservations, features, licenses and options come only from the site file, so they concern all jobs.
_REFUSALS = (
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
    """What the limit with this name counts; None if `word` is not the name of a limit."""
    return next((limit for limit, words in _LIMITS.items() if words.fullmatch(word)), None)


def is_permanent(reason: str) -> bool:
    """Whether a pending job with this reason never starts by waiting."""
    return limit_of(reason) is Limit.REQUEST or _PERMANENT.fullmatch(reason) is not None


def own_lines(stderr: str, command: str) -> list[str]:
    """The lines on stderr that a Slurm command wrote itself; others come from preloaded libraries and wrappers."""
    return re.findall(rf"^\s*(?:\S*/)?(?:{command}(?:\.\w+)?: |slurm\w* error: ).*$", stderr, re.MULTILINE)


def complaint(answer: Output, command: str) -> str:
    """One line for the user, from the command's own lines if there are any."""
    return replace(answer, stderr="\n".join(own_lines(answer.stderr, command)) or answer.stderr).complaint


def refusal(answer: Output) -> Refused | Unclear:
    """What a failed submission means, from the lines that sbatch itself wrote to stderr.

    Lines of wrappers and preloaded libraries do not concern the job. If sbatch reports an answer of the controller,
    only that counts: lines before it may come from earlier attempts to connect. The text of a site's job filter comes
    with the answer "Unspecified error", and is a refusal of this request.
    """
    own = own_lines(answer.stderr, "sbatch")
    answers = [line.partition("submission failed:")[2].strip() for line in own if "submission failed:" in line]
    text = "\n".join([line for line in own if re.search("error|fatal", line)] if answers else own)
    why = replace(answer, stderr=text or answer.stderr).complaint
    messages = list(answers or own)
    if "Unspecified error" in answers:  # Slurm's functions may have reported the cause before it
        messages += [line for line in own if re.search(r"error: slurm_\w+: ", line)]
    not_run = answer.code in (126, 127)  # exit codes of a shell: a wrapper of the site failed
    if not own or not_run or any(_COMMUNICATION.search(one) or one in _SYSTEM_ERRORS for one in messages):
        return Unclear(why)
    later, scope = _meaning(answers[-1] if answers else text, text)
    return Refused(why, later, scope)


def _meaning(message: str, text: str) -> tuple[bool, Scope]:
    """Whether the same submission may be accepted later, and the scope of the refusal."""
    if _POLICY.search(message):
        return _BY_LIMIT[next(filter(None, map(limit_of, re.findall(r"\w+", text))), None)]
    for pattern, later, scope in _REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            return later, scope
    return False, Scope.REQUEST

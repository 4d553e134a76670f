"""Slurm: what a failed submission means, and which reasons of a pending job are permanent."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace

from roundhouse.model.answers import Refused, Scope, Unclear
from roundhouse.schedulers.base import Output

# Limits of an association, a QOS or a partition, by their effect: whether the same may be accepted later, and scope.
# Reasons are as squeue prints them for a pending job and sbatch for a refused one, in upper or lower case. Each reason
# of Slurm matches at most one pattern.
Effect = tuple[bool, Scope]
REQUEST, JOBS, RESOURCES = (False, Scope.REQUEST), (True, Scope.ALL), (True, Scope.REQUEST)
LIMITS: dict[Effect, str] = {
    REQUEST: r"QOSMin\w+|(QOS|Assoc)?Max\w+Per(Job|Node)(Limit)?|MaxMemPerLimit",
    JOBS: r"(QOS|Assoc)?(Grp|Max)(Submit)?Jobs?(PerUser|PerAccount)?(Limit)?|(QOS|Association)JobLimit",
    RESOURCES: r"(QOS|Assoc)Grp(?!(Submit)?Jobs?(Limit)?$)\w+|(QOS|Association)(Resource|Time)Limit"
    r"|(QOS)?Max(?!(Submit)?Jobs?Per)\w+Per(User|Account)(Limit)?|QOSUsageThreshold",
}

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


def limit_of(word: str) -> Effect | None:
    """The effect of the limit with this name; None if `word` is not the name of a limit."""
    return next((effect for effect, words in LIMITS.items() if re.fullmatch(words, word, re.IGNORECASE)), None)


def is_permanent(reason: str) -> bool:
    """Whether a pending job with this reason never starts by waiting."""
    return limit_of(reason) == REQUEST or _PERMANENT.fullmatch(reason) is not None


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
    return Refused(why, *_effect(answers[-1] if answers else text, text))


def _effect(message: str, text: str) -> Effect:
    if re.search(r"accounting/QOS policy", message, re.IGNORECASE):  # its text names the limit of jobs first
        return next(filter(None, map(limit_of, re.findall(r"\w+", text))), JOBS)
    matches = ((later, scope) for said, later, scope in _REFUSALS if re.search(said, message, re.IGNORECASE))
    return next(matches, REQUEST)

"""The lines that a site adds to a job's header, and the options of the scheduler that they must not set.

Such a line comes after Roundhouse's own lines and overrides them: a job with another name, or in another cluster, would
never be found. A site can set all other options.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import takewhile

RESOURCES = "under `resources` in the round file"
WALLTIME = f"write `walltime` {RESOURCES}"
LOG = "job logs are part of the record; leave it out"
NAME = "jobs are found by name; leave it out"
ARRAY = f"write `array` {RESOURCES}"
QUEUE = f"write `queue` in the site file, or {RESOURCES}"
PROJECT = "write `project` in the site file"
DEPENDENCY = "a job is submitted only after its dependencies are completed; leave it out"
HOLD = "a held job never starts; leave it out"
WAIT = "a pass does not wait for jobs; use --watch, or leave it out"
CLUSTER = "set SLURM_CLUSTERS in the shell that runs Roundhouse, so that all commands use the same cluster"
SIGNAL = "a job gets a warning signal 2 minutes before its walltime; leave it out"
USER = "jobs run as your user, and are found by its name; leave it out"
NO_JOB = "no job would be submitted that can be found later; leave it out"

# The options that only Roundhouse sets: for Slurm the long name, the short one, and what to do instead.
SLURM: Mapping[str, tuple[str, str]] = {
    "array": ("a", ARRAY),
    "clusters": ("M", CLUSTER),
    "dependency": ("d", DEPENDENCY),
    "error": ("e", LOG),
    "gid": ("", USER),
    "hold": ("H", HOLD),
    "job-name": ("J", NAME),
    "open-mode": ("", LOG),
    "output": ("o", LOG),
    "partition": ("p", QUEUE),
    "signal": ("", SIGNAL),
    "test-only": ("", NO_JOB),
    "time": ("t", WALLTIME),
    "time-min": ("", WALLTIME),
    "uid": ("", USER),
    "wait": ("W", WAIT),
    "wrap": ("", NO_JOB),
}
PBS: Mapping[str, str] = {
    "I": NO_JOB,
    "J": ARRAY,
    "N": NAME,
    "R": LOG,
    "S": "job scripts are written for bash; leave it out",
    "e": LOG,
    "h": HOLD,
    "j": LOG,
    "k": LOG,
    "o": LOG,
    "q": QUEUE,
    "r": "Roundhouse handles restarts, and arrays must allow them; leave it out",
    "t": ARRAY,
    "u": USER,
    "z": NO_JOB,
}
PBS_RESOURCES = {"walltime": WALLTIME}
PBS_ATTRIBUTES = {"depend": DEPENDENCY, "block": WAIT, "umask": "write `umask` in the site file", "interactive": NO_JOB}

# Short options without a value. All others take the rest of their word or the next word, except -k and -s of Slurm,
# whose value, if any, is in the same word.
SLURM_FLAGS = "hHOQuvVW"
SLURM_OPTIONAL = "ks"
PBS_FLAGS = "fhInVXxzG"


def refused(line: str, kind: str, project: bool) -> Iterator[str]:
    """The mistakes in one line, for a scheduler of this kind (slurm, or pbs for PBS and Torque).

    `project`: whether the site file has the key `project`.
    """
    try:
        words = shlex.split(line)
    except ValueError:
        try:
            words = shlex.split(re.sub(r"(^|\s)#.*", "", line))  # the quote may be in a comment
        except ValueError:
            yield f"{line!r} has an opening quote without a closing one"
            return
    words = [*takewhile(lambda word: not word.startswith("#"), words)]
    for written, what, instead in _reserved(words, kind, project):
        yield f"{written!r} sets {what}, which only Roundhouse sets: {instead}"


def _reserved(words: list[str], kind: str, project: bool) -> Iterator[tuple[str, str, str]]:
    """(the option as written, its name, what to do instead) of each option that only Roundhouse sets."""
    slurm = kind == "slurm"
    names = {**SLURM, **({"account": ("A", PROJECT)} if project else {})}
    letters = {**PBS, **({"P": PROJECT} if project else {})}
    short = {one: (f"--{name}", why) for name, (one, why) in names.items() if one}
    short = short if slurm else {one: (f"-{one}", why) for one, why in letters.items()}
    rest = iter(words)
    for word in rest:
        if slurm and word in ("hetjob", "packjob"):
            yield word, "a second component", "an experiment is one job on one node; leave it out"
        elif slurm and word.startswith("--"):
            # Slurm accepts any abbreviation of a name. If two names fit, the message contains the first.
            fitting = sorted(name for name in names if word != "--" and name.startswith(word[2:].partition("=")[0]))
            yield from ((word, f"--{name}", names[name][1]) for name in fitting[:1])
        elif word.startswith("-"):
            for letter, value in _short(word, SLURM_FLAGS if slurm else PBS_FLAGS, rest):
                written = word if value is None or word.endswith(value) else f"{word} {value}"
                if letter in short:
                    yield written, *short[letter]
                elif not slurm and letter in "lW":
                    yield from ((written, *found) for found in _listed(letter, value or ""))


def _short(word: str, flags: str, rest: Iterator[str]) -> Iterator[tuple[str, str | None]]:
    """(letter, value) of -t5, -t 5 and -Ht5."""
    for place, letter in enumerate(word[1:], 2):
        if letter in flags:
            yield letter, None
            continue
        optional = flags is SLURM_FLAGS and letter in SLURM_OPTIONAL
        yield letter, word[place:] or ("" if optional else next(rest, ""))
        return


def _listed(letter: str, value: str) -> Iterator[tuple[str, str]]:
    """The reserved names in -l walltime=1,place=excl, or in -W depend=afterok:1."""
    reserved = PBS_RESOURCES if letter == "l" else PBS_ATTRIBUTES
    for name in re.findall(r"(?:^|,)\s*(\w+)\s*(?=[=,]|$)", value):
        if name in reserved:
            yield f"-{letter} {name}", reserved[name]

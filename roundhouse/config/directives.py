"""The lines that a site adds to a job's header, and the options of the scheduler that they must not set.

Such a line comes after Roundhouse's own lines and overrides them: a job with another name, or in another cluster, would
never be found. A site can set all other options.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile

PROJECT = "write `project` in the site file"

# What to do instead of setting it, and the options that only Roundhouse sets: names in Slurm, long/short; and in PBS,
# with -l walltime as l:walltime.
RESERVED = (
    ("write `walltime` under `resources` in the round file", "time/t time-min", "l:walltime"),
    ("write `array` under `resources` in the round file", "array/a", "J t"),
    ("write `queue` in the site file, or under `resources` in the round file", "partition/p", "q"),
    ("write `umask` in the site file", "", "W:umask"),
    (PROJECT, "account/A", "P"),
    ("job logs are part of the record; leave it out", "error/e output/o open-mode", "e j k o R"),
    ("jobs are found by name; leave it out", "job-name/J", "N"),
    ("jobs run as your user, and are found by its name; leave it out", "gid uid", "u"),
    ("no job would be submitted that can be found later; leave it out", "test-only wrap", "I z W:interactive"),
    ("a job is submitted only after its dependencies are completed; leave it out", "dependency/d", "W:depend"),
    ("a held job never starts; leave it out", "hold/H", "h"),
    ("a pass does not wait for jobs; use --watch, or leave it out", "wait/W", "W:block"),
    ("a job gets a warning signal 2 minutes before its walltime; leave it out", "signal", ""),
    ("job scripts are written for bash; leave it out", "", "S"),
    ("Roundhouse handles restarts, and arrays must allow them; leave it out", "", "r"),
    (
        "set SLURM_CLUSTERS in the shell that runs Roundhouse, so that all commands use the same cluster",
        "clusters/M",
        "",
    ),
)

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
    long: dict[str, tuple[str, str]] = {}
    short: dict[str, tuple[str, str]] = {}
    for instead, in_slurm, in_pbs in RESERVED:
        for option in (in_slurm if slurm else in_pbs).split() if project or instead != PROJECT else ():
            name, _, letter = option.partition("/") if slurm else ("", "", option)
            long[name] = short[letter] = (f"--{name}" if slurm else f"-{letter.replace(':', ' ')}", instead)
    rest = iter(words)
    for word in rest:
        if slurm and word in ("hetjob", "packjob"):
            yield word, "a second component", "an experiment is one job on one node; leave it out"
        elif slurm and word.startswith("--"):
            # Slurm accepts any abbreviation of a name. If two names fit, the message contains the first.
            fitting = sorted(name for name in long if word != "--" and name.startswith(word[2:].partition("=")[0]))
            yield from ((word, *long[name]) for name in fitting[:1])
        elif word.startswith("-"):
            for letter, value in _short(word, SLURM_FLAGS if slurm else PBS_FLAGS, rest):
                written = word if value is None or word.endswith(value) else f"{word} {value}"
                # The names in -l walltime=1,place=excl, or in -W depend=afterok:1.
                listed = (
                    re.findall(r"(?:^|,)\s*(\w+)\s*(?=[=,]|$)", value or "") if not slurm and letter in "lW" else ()
                )
                found = [letter, *(f"{letter}:{name}" for name in listed)]
                yield from ((written, *short[option]) for option in found if option in short)


def _short(word: str, flags: str, rest: Iterator[str]) -> Iterator[tuple[str, str | None]]:
    """(letter, value) of -t5, -t 5 and -Ht5."""
    for place, letter in enumerate(word[1:], 2):
        if letter in flags:
            yield letter, None
            continue
        optional = flags is SLURM_FLAGS and letter in SLURM_OPTIONAL
        yield letter, word[place:] or ("" if optional else next(rest, ""))
        return

"""Environment variables of the calling shell that must not reach git, or jobs on the local machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

# They select a repository or its parts (`git rev-parse --local-env-vars`). Hooks and `git rebase --exec` set them.
_OTHER_REPOSITORY = re.compile(
    r"GIT_(DIR|WORK_TREE|IMPLICIT_WORK_TREE|INDEX_FILE|PREFIX|COMMON_DIR|NAMESPACE|OBJECT_DIRECTORY"
    r"|ALTERNATE_OBJECT_DIRECTORIES|QUARANTINE_PATH|SHALLOW_FILE|GRAFT_FILE|REPLACE_REF_BASE|NO_REPLACE_OBJECTS"
    r"|INTERNAL_SUPER_PREFIX|CONFIG|CONFIG_PARAMETERS)"
)
# They change how a Python program runs or ends: with PYTHONINSPECT, a program that fails has exit code 0, and with
# PYTHONWARNINGS=error, imports fail. Those that select an installation or its modules, or only print more, are kept.
_PYTHON_OPTIONS = re.compile(r"PYTHON(INSPECT|OPTIMIZE|WARNINGS|DEVMODE|STARTUP|IOENCODING|SAFEPATH)")
# A job sets them for its own attempt. `runner.py` may itself run in a job.
_OTHER_ATTEMPT = re.compile(
    r"ROUNDHOUSE_(ATTEMPT|NONCE|SHELL|DEADLINE|ACCUMULATE|DIRECTORY|EARLIER|PAUSE_AT|TIME_LEFT|PRELOADED|(INPUT|MISSING)_.*)"
)


def for_git(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a git command: it finds the repository by its folder, and its messages are in English."""
    return {name: value for name, value in environ.items() if not _OTHER_REPOSITORY.fullmatch(name)} | {"LC_ALL": "C"}


def for_local_jobs(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of jobs on the local machine: like that of the calling shell, as far as a program may rely on it.

    Without the repository of a git hook, a notebook's plotting backend, Python's options, and the attempt in which
    the runner itself runs.
    """
    return {name: value for name, value in environ.items() if not _changes_jobs(name, value)}


def _changes_jobs(name: str, value: str) -> bool:
    if name == "MPLBACKEND":
        return value.startswith("module:")  # that of a notebook; others, such as agg, exist everywhere
    return any(kind.fullmatch(name) for kind in (_OTHER_REPOSITORY, _OTHER_ATTEMPT, _PYTHON_OPTIONS))

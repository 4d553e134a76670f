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
# Those of Python that select an installation or its modules, or that make a run repeatable. All others change how
# programs run: PYTHONINSPECT ends a failed program with exit code 0, PYTHONWARNINGS=error makes imports fail.
_PYTHON_KEPT = re.compile(r"PYTHON(HOME|PATH|USERBASE|NOUSERSITE|PYCACHEPREFIX|DONTWRITEBYTECODE|HASHSEED|UTF8)?")
# A job sets them for its own attempt. `runner.py` may itself run in a job.
_OTHER_ATTEMPT = re.compile(
    r"ROUNDHOUSE_(ATTEMPT|NONCE|SHELL|DEADLINE|ACCUMULATE|DIRECTORY|EARLIER|PAUSE_AT|PRELOADED|INPUT_.*)"
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
    return bool(
        _OTHER_REPOSITORY.fullmatch(name)
        or _OTHER_ATTEMPT.fullmatch(name)
        or (re.fullmatch(r"PYTHON[A-Z0-9]+", name) and not _PYTHON_KEPT.fullmatch(name))
    )

"""Job scripts from templates. Every value passes one filter: `sh` in the body, `directive` in a header."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roundhouse.config.setup_lines import setup_commands
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import walltime
from roundhouse.model import walltime as walltime_end
from roundhouse.model.exit_codes import ENDINGS, JobExitCode

if TYPE_CHECKING:
    from jinja2 import Environment

# The variable in which each scheduler gives a job its ID.
JOB_ID_VARIABLES = {
    "slurm": "SLURM_JOB_ID",
    "pbs": "PBS_JOBID",
    "torque": "PBS_JOBID",
    "local": "ROUNDHOUSE_JOB_ID",
}

# What only some jobs have: an array, a slot of an allocation, less than their whole walltime, a copy of the code.
_OPTIONAL: Mapping[str, Any] = {"array": None, "packed": False, "late": False, "copy": None}
_CONSTANTS: Mapping[str, Any] = {
    "exit_code": JobExitCode,
    "endings": ENDINGS,
    "signal_before_end": walltime_end.SIGNAL_BEFORE_END,
    "signal_from": walltime_end.SIGNAL_FROM,
    "time_is_up": walltime_end.TIME_IS_UP,
}


def _job_id(kind: str) -> str:
    """The shell expression for the job's own ID."""
    variable = JOB_ID_VARIABLES[kind]
    otherwise = "${SLURM_JOB_ID:-unknown}" if variable == "PBS_JOBID" else "unknown"  # Slurm's qsub sets no PBS_JOBID
    return f"${{{variable}:-{otherwise}}}"


def shell_quote(value: Any) -> str:
    """The filter `sh`: any text as one word for a shell."""
    text = str(value)
    if "\0" in text:
        raise RoundhouseError(f"{text!r} holds a NUL character, which no shell can take")
    return shlex.quote(text)


def directive(value: Any) -> str:
    """The filter `directive`: a value in a header line, which schedulers split in ways of their own."""
    text = str(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise RoundhouseError(
            f"{text!r} holds a control character or a line break and cannot be used in a job script's header"
        )
    return text


def environment(templates: Path) -> Environment:
    """The templates' environment: strict about undefined names, nothing but our filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        autoescape=False,  # not HTML: it would turn quotes in paths into entities
        auto_reload=False,  # after an upgrade, a --watch or an agent that runs must not mix its code with new templates
        keep_trailing_newline=True,
    )
    env.filters.update(sh=shell_quote, directive=directive, walltime=walltime)
    env.filters["setup_commands"] = lambda lines: setup_commands(tuple(lines))
    return env


def render(env: Environment, kind: str, body: str = "body.sh.j2", **context: Any) -> str:
    """The job script of one attempt, of an array that has many, or of another `body`, for a kind of scheduler.

    Of the values in `context`, those in `_OPTIONAL` may be left out.
    """
    from jinja2 import TemplateError

    try:
        return env.get_template(f"{kind}.sh.j2").render(
            {**_OPTIONAL, **_CONSTANTS, **context}, kind=kind, body=body, job_id=_job_id(kind)
        )
    except TemplateError as error:
        raise RoundhouseError(f"templates/{kind}.sh.j2 cannot be rendered: {error}") from None

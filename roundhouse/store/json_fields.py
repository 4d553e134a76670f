"""From the parsed JSON of a record's files to plain data. An invalid value raises one of INVALID."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from roundhouse.model.answers import Scope
from roundhouse.model.attempt import EPOCH, STEP, Claim, Opened, Pin, Progress, Result, Verdict
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import with_signal_name
from roundhouse.model.experiment import STARTS
from roundhouse.model.gpu_use import GpuFigures, GpuUse

# Causes that a job's shell can only guess, and those that a scheduler may report instead. `completed` is in neither.
GUESSES = {Cause.PREEMPTED, Cause.WALLTIME, Cause.UNKNOWN, Cause.ERROR}
VERDICTS = GUESSES | {Cause.MEMORY, Cause.NODE, Cause.DELETED}

FILES = "files"  # the folder of a command's files in its attempt's directory

INVALID = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)  # from values of the wrong type


def opened(value: Mapping[str, Any], at: float) -> Opened:
    """job.json. `at`: when it was written, in seconds since 1970 by the file server's clock."""
    token, scheduler, config_hash, inputs = value["token"], value["scheduler"], value["config_hash"], value["inputs"]
    job_id, mark, shared, index, code = (value.get(key) for key in ("job_id", "mark", "shared", "array_index", "code"))
    resources, pause_at, answer = value.get("resources") or {}, value.get("pause_at"), value.get("answer") or ""
    folder, carry = value.get("files") or "", value.get("carry")
    if not (
        isinstance(token, str)
        and isinstance(scheduler, dict)
        and isinstance(config_hash, str)
        and _are_inputs(inputs)
        and isinstance(job_id, (str, type(None)))
        and isinstance(shared, (str, type(None)))
        and isinstance(index, (int, type(None)))
        and isinstance(resources, dict)
        and isinstance(code, (str, type(None)))
        and isinstance(pause_at, (int, type(None)))
        and isinstance(answer, str)
        and folder in ("", FILES)
        and isinstance(carry, (list, type(None)))
        and all(isinstance(glob, str) for glob in carry or ())
    ):
        raise TypeError("a field has the wrong type")
    return Opened(
        token,
        scheduler,
        config_hash,
        inputs,
        job_id,
        at,
        mark=Cause(mark) if mark else None,
        shared=shared,
        index=index,
        resources=resources,
        code=code,
        pause_at=pause_at,
        answer=answer,
        pin=_pin(value["pin"]) if value.get("pin") is not None else None,
        keep_files=bool(value.get("keep_files", False)),
        ran=_ran(value.get("ran")),
        files=folder,
        carry=None if carry is None else tuple(carry),
    )


def _pin(value: Mapping[str, Any]) -> Pin:
    config_hash, inputs = value["config_hash"], value["inputs"]
    if not isinstance(config_hash, (str, type(None))) or not (inputs is None or _are_inputs(inputs)):
        raise TypeError("a field has the wrong type")
    return Pin(config_hash, inputs)


def _are_inputs(value: Any) -> bool:
    """Whether it has the form of `Opened.inputs`: entries with at least a path, by group."""
    return isinstance(value, dict) and all(
        isinstance(entries, list) and all(map(_is_input, entries)) for entries in value.values()
    )


def _is_input(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    hashes = entry.get("files", {})
    return isinstance(hashes, dict) and all(isinstance(one, (str, type(None))) for one in hashes.values())


def _ran(value: Any) -> dict[str, Any] | None:
    """`Opened.ran`, which only informs: None if it does not have the form of an experiment's identity."""
    kinds: dict[str, Any] = {"config": dict, "after": dict, "command": (list, type(None))}
    kinds |= dict.fromkeys(STARTS, (dict, type(None)))
    return value if isinstance(value, dict) and all(isinstance(value.get(k), kinds[k]) for k in kinds) else None


def claim(value: Mapping[str, Any] | None, at: float = 0.0) -> Claim | None:
    """claim.json, written at this time by the file server's clock; None if it is absent."""
    if value is None:
        return None
    cause, job_id, jobs = value.get("cause"), value.get("job_id"), value.get("jobs")
    if not isinstance(job_id, (str, type(None))) or not isinstance(jobs, (int, type(None))):
        raise TypeError("a field has the wrong type")
    return Claim(
        void=bool(value.get("void", False)),
        cause=Cause(cause) if cause else None,
        why=str(value.get("why", "")),
        job_id=None if job_id == "unknown" else job_id,  # a job that does not know its own ID is found by its name
        nonce=str(value["nonce"]),
        host=str(value.get("host", "")),
        at=at,
        started=float(value.get("at", 0.0)),
        jobs=jobs,
        scope=Scope(value.get("scope") or Scope.ALL),
    )


def result(value: Mapping[str, Any] | None) -> Result | None:
    """result.json; None if it is absent."""
    if value is None:
        return None
    cause, exit_code = Cause(value["cause"]), value.get("exit_code")
    return Result(
        cause=cause,
        why=with_signal_name(str(value.get("why", "")), exit_code),
        exit_code=exit_code,
        signals=tuple(value.get("signals", ())),
        at=float(value.get("at", 0.0)),
        final=bool(value.get("final", False)),
        guess=bool(value.get("guess", False)) and cause in GUESSES,
    )


def verdict(value: Mapping[str, Any] | None) -> Verdict | None:
    """verdict.json; None if it is absent."""
    if value is None:
        return None
    cause = Cause(value["cause"])
    if cause not in VERDICTS:
        raise ValueError(f"{cause} is not a cause that a scheduler can report")
    return Verdict(cause, str(value.get("why", "")))


def progress(value: Any) -> Progress | None:
    """progress.json. It only informs, and decides nothing but a count: if it is invalid, it counts as absent (None)."""
    try:
        name, metric, best, epochs, steps = (
            value.get(key) for key in ("metric_name", "metric", "best", "epochs", "steps")
        )
        artifacts, final = value.get("artifacts", {}), value.get("final", {})
        numbers = (metric, best, epochs, steps, *final.values())
        fits = isinstance(name, (str, type(None))) and all(isinstance(one, (int, float, type(None))) for one in numbers)
        if not fits or not all(isinstance(one, str) for one in artifacts.values()):
            return None
        epoch, started_epoch = int(value.get("epoch", 0)), int(value.get("started_epoch", 0))
        step, started_step = (None if value.get(key) is None else int(value[key]) for key in ("step", "started_step"))
    except INVALID:
        return None
    unit = value.get("unit")
    if unit not in (EPOCH, STEP):
        unit = STEP if not (epoch or epochs) and (steps or step is not None) else EPOCH
    return Progress(
        epoch,
        epochs,
        started_epoch,
        name,
        metric,
        best,
        mode_in(value),
        artifacts,
        final,
        _seconds(value.get("seconds_per_epoch")),
        unit,
        step,
        steps,
        started_step,
        _seconds(value.get("seconds_per_step")),
        _seconds(value.get("time_used")) or 0.0,
        _numbers(value.get("means")),
        gpu_use(value.get("gpu_use")),
    )


def gpu_use(value: Any) -> GpuUse | None:
    """`gpu_use` of progress.json; None if it is absent or invalid."""
    try:
        gpus = {name: GpuFigures(**_numbers(one)) for name, one in value["gpus"].items()}
        samples = int(value["samples"])
        return GpuUse(samples, gpus, bool(value.get("shared", False))) if samples > 0 and gpus else None
    except INVALID:
        return None


def _numbers(value: Any) -> dict[str, float]:
    return (
        {name: one for name, one in value.items() if isinstance(one, (int, float))} if isinstance(value, dict) else {}
    )


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < math.inf else None


def mode_in(value: Mapping[str, Any]) -> str | None:
    """Which value of its metric progress.json or metrics.json declares as best: min or max; None if it does not."""
    return value["mode"] if value.get("mode") in ("min", "max") else None

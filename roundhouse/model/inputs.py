"""The inputs of an experiment: which results it uses, and what identifies each of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from roundhouse.formatting import abbreviated
from roundhouse.model.attempt import Attempt, result_for, result_identity
from roundhouse.model.experiment import Experiment, StartFrom
from roundhouse.model.plan import Inputs, State
from roundhouse.model.status import ExperimentStatus
from roundhouse.names import nearest

LISTED = 3  # missing inputs in a reason
Entry = Mapping[str, Any]  # of `Opened.inputs`


class InputFiles(Protocol):
    """Reads the files of inputs.

    `has_file`: whether the files of a command's attempt, in the experiment's directory, include one of this name.
    `sha256_of`: the hash of the user's own file; None if it cannot be read.
    """

    def has_file(self, directory: Path, attempt: Attempt, name: str) -> bool: ...

    def sha256_of(self, path: str) -> str | None: ...


class _Unread:
    """Takes all files for granted: for evaluations after which no attempt is opened."""

    def has_file(self, directory: Path, attempt: Attempt, name: str) -> bool:
        return True

    def sha256_of(self, path: str) -> str | None:
        return ""


UNREAD: InputFiles = _Unread()


def inputs_of(
    experiment: Experiment,
    statuses: Mapping[str, ExperimentStatus],
    files: InputFiles = UNREAD,
    pinned: Mapping[str, Any] | None = None,
) -> Inputs:
    """The inputs of an experiment, from the statuses of its dependencies.

    Inputs that are `pinned` and still exist are kept, also if they have been run again since. The checkpoint that the
    experiment starts from is among them, under `init` or `continue`.
    """
    if experiment.undecided and experiment.selection:
        choice = experiment.selection
        return Inputs(None, choice.waiting, choice.hopeless, choice.blocked, ended=choice.blocked)
    found: dict[str, Any] = {}
    for group, paths in experiment.after.items():
        before = {entry["path"]: entry for entry in (pinned or {}).get(group, ())}
        partial, names = group in experiment.partial, experiment.input_files.get(group, ())
        # What completes after the first attempt is not added: the attempts of an experiment have the same inputs.
        for path in [one for one in paths if one in before] if partial and before else paths:
            entry = _entry(statuses[path], before.get(path), names, files)
            if not isinstance(entry, Inputs):
                found.setdefault(group, []).append(entry)
            elif not partial or entry.blocked or not entry.ended:
                return entry
        if partial and group not in found:
            why = f"none of the {len(paths)} experiments of group {group} has completed: {states_of(paths, statuses)}"
            return Inputs(None, why, hopeless=True, ended=True)
    if start := experiment.start:
        before = {entry["path"]: entry for entry in (pinned or {}).get(start.kind, ())}
        entry = _start_entry(start, statuses, before.get(start.source), files)
        if isinstance(entry, Inputs):
            return entry
        found[start.kind] = [entry]
    return Inputs(found)


def _entry(status: ExperimentStatus, kept: Entry | None, names: Sequence[str], files: InputFiles) -> Entry | Inputs:
    """What identifies the result of a dependency: the hashes of its files with these names, if there are any names.

    The result of a command has no hashes; its token identifies it. Inputs: why it cannot be an input now.
    """
    path, rec, state = status.experiment.path, status.record, status.action.state
    if kept and state is not State.BLOCKED and result_for(kept, rec):
        return kept
    done = rec.completed
    if done is None or state is not State.COMPLETED:
        hopeless = state.never_completes or status.inputs.hopeless
        why = f": {status.action.reason}" if status.action.reason and hopeless else ""
        ended = state.final or (status.inputs.ended and not state.active)
        return Inputs(None, f"waits for {path}, which is {state}{why}", hopeless, ended=ended)
    if not names:
        return {"path": path, **result_identity(done)}
    if status.experiment.command is not None:
        missing = [name for name in names if not files.has_file(rec.directory, done, name)]
        if missing:
            return _lacking(f"attempt {done.number} of {path} has no file {missing[0]!r}, which `inputs_from` names")
        return {"path": path, "token": done.opened.token, "files": dict.fromkeys(names)}
    artifacts = done.progress.artifacts if done.progress else {}
    hashes: dict[str, str] = {}
    for name in names:
        known = next((one for one in (name, f"kept/{name}") if one in artifacts), None)
        if known is None:
            why = f"attempt {done.number} of {path} has no file {name!r}, which `inputs_from` names"
            return _lacking(f"{why}: {nearest(name, artifacts)}")
        hashes[known] = artifacts[known]
    return {"path": path, "files": hashes}


def _lacking(why: str) -> Inputs:
    return Inputs(None, why, hopeless=True, blocked=True, ended=True)


def _start_entry(
    start: StartFrom, statuses: Mapping[str, ExperimentStatus], kept: Entry | None, files: InputFiles
) -> Entry | Inputs:
    """What identifies the checkpoint that an experiment starts from. Inputs: why it cannot start from it now."""
    if start.is_file:
        digest = kept["sha256"] if kept else files.sha256_of(start.source)
        if digest is None:
            return Inputs(None, f"the file {start.source} in `{start.kind}` cannot be read", hopeless=True)
        return {"path": start.source, "sha256": digest}
    status = statuses[start.source]
    entry = _entry(status, kept, [start.checkpoint], files)
    if not isinstance(entry, Inputs) or not entry.blocked:
        return entry
    if start.snapshot is None:
        why = f"{start.source} was completed without a {start.checkpoint}. To run it again: --rerun"
    else:
        known = status.record.completed.progress if status.record.completed else None
        tags = [Path(name).stem for name in known.artifacts if name.startswith("snapshots/")] if known else []
        why = f"{start.source} has no snapshot {start.snapshot!r}: it has {', '.join(tags) or 'none'}"
    return replace(entry, waiting=f"cannot start: {why}")


def states_of(paths: Sequence[str], statuses: Mapping[str, ExperimentStatus]) -> str:
    """The states of missing dependencies, of which only the first are listed."""
    states = ((path, statuses[path].action.state) for path in paths)
    texts = [f"{path} {'has completed since' if one is State.COMPLETED else f'is {one}'}" for path, one in states]
    return abbreviated(texts, LISTED)

"""The disk space that a run of the training library needs, from the sizes of what it saves. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

_OWN_FILES = 100_000  # records, logs, metrics.json, states of the generators, headers of the tensors in a checkpoint


@dataclass(frozen=True, slots=True)
class RunSpace:
    """Bytes. `left`: of a completed run; `most`: of one that runs."""

    left: int
    most: int


def run_space(tracked: int, best: int = 0, kept: int = 0, outputs: int = 0) -> RunSpace:
    """The space of a run, from the bytes of what it saves.

    `tracked`: all parts that it tracks at the same time; `best`: the weights of all its bests; `kept`: what it keeps
    (`run.keep`, `run.once`); `outputs`: the arrays of outputs.npz. The best weights are in the checkpoint as well.
    While a run saves, its last checkpoint, the one before and the new one exist at the same time.
    """
    checkpoint = tracked + best
    left = checkpoint + best + kept + outputs + _OWN_FILES
    return RunSpace(left, left + 2 * checkpoint)

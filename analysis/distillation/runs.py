"""The finished runs of a distillation round and of its control round, and who of them was whose teacher."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.rounds import Entry, RoundRecords
from roundhouse.errors import RoundhouseError
from roundhouse.model.plan import State

LAYERS = ("stage1", "stage2", "pooled", "logits")  # from the image to the answer; pooled is stage3's mean
FIELDS = (*LAYERS, "labels", "validation_logits", "validation_labels")
TEACHER, PLAIN, CONTROL = "teacher", "plain", "control"  # roles; distilled runs have their method's name


class Outputs(dict[str, NDArray[Any]]):
    """The arrays of an outputs.npz. Asking for one that it lacks is a RoundhouseError."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise RoundhouseError(f"outputs.npz lacks {name}: it is of an older version")


class Block(NamedTuple):
    """What a run has in common with those it is paired with."""

    dataset: str
    seed: int


class Setting(NamedTuple):
    """What the seeds and data sets of a comparison share: a method, or a role, and its alpha."""

    method: str
    alpha: float | None

    def __str__(self) -> str:
        return self.method if self.alpha is None else f"{self.method}, alpha {self.alpha:g}"


UNDISTILLED = Setting(CONTROL, 0.0)  # the student on the labels as they are: same recipe, no label smoothing


@dataclass(frozen=True)
class Run:
    """One finished run. The teacher is the run that it learned from; for runs without one, that of the same block."""

    round: str
    entry: Entry
    setting: Setting
    block: Block

    @property
    def name(self) -> str:
        return f"{self.round}/{self.entry.path}"

    def outputs(self) -> Outputs:
        """The arrays of outputs.npz that the analysis needs. RoundhouseError: absent, or damaged."""
        file = self.entry.outputs_file
        if file is None:
            raise RoundhouseError(f"{self.name} has no outputs.npz")
        try:
            with np.load(file, allow_pickle=False) as saved:
                found = Outputs({name: saved[name] for name in FIELDS if name in saved.files})
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            why = getattr(error, "strerror", None) or "it is damaged"
            raise RoundhouseError(f"{self.name}: outputs.npz cannot be read: {why}") from None
        for name, array in found.items():
            if array.ndim != (1 if name.endswith("labels") else 2) or array.dtype.kind not in "fiu":
                raise RoundhouseError(f"{self.name}: outputs.npz: {name} is {array.dtype} of shape {array.shape}")
        return found


@dataclass(frozen=True)
class Runs:
    """All finished runs of a distillation round with its control.

    `missing`: what is not there, a line each. `planned`: the methods that distil, in the order of the round file.
    """

    name: str
    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    planned: tuple[str, ...]

    @cached_property
    def by_place(self) -> dict[tuple[Setting, Block], Run]:
        return {(run.setting, run.block): run for run in self.runs}

    @cached_property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(run.block.dataset for run in self.runs))

    @cached_property
    def methods(self) -> list[str]:
        """The methods of which there is a run, in an order that does not depend on which of them finished first."""
        found = {run.setting.method for run in self.runs}
        return [method for method in self.planned if method in found]

    @cached_property
    def alphas(self) -> list[float]:
        found = {run.setting.alpha for run in self.runs if run.setting.method in self.methods}
        return sorted(alpha for alpha in found if alpha is not None)

    @cached_property
    def students(self) -> list[Setting]:
        """All settings of students: plain, control by alpha, then each method by alpha."""
        found = {run.setting for run in self.runs} - {Setting(TEACHER, None)}
        order = [PLAIN, CONTROL, *self.methods]
        return sorted(found, key=lambda one: (order.index(one.method), one.alpha or 0.0))

    def of(self, setting: Setting, dataset: str | None = None) -> list[Run]:
        return [run for run in self.runs if run.setting == setting and dataset in (None, run.block.dataset)]

    @cached_property
    def smoothed(self) -> bool:
        """Whether the plain students were trained on smoothed labels, unlike those that are distilled."""
        return any(run.entry.config.get("label_smoothing") for run in self.of(Setting(PLAIN, None)))

    def teacher_of(self, run: Run) -> Run | None:
        return self.by_place.get((Setting(TEACHER, None), run.block))


def runs_of(distilled: RoundRecords, control: RoundRecords | None) -> Runs:
    """The completed runs of both rounds. RoundhouseError: no round of the distillation study, or one of several pairs.

    Experiments that are not completed are counted in `missing`, by setting.
    """
    teachers, students = _networks(distilled)
    missing = list(distilled.problems) + (list(control.problems) if control else [])
    if control is None:
        missing.append(
            "control: 0 runs, so what alpha does by itself is not known, and gains are against the plain student"
        )
    runs: list[Run] = []
    for found in (distilled, *([control] if control else [])):
        open_ones: dict[Setting, list[str]] = {}
        for entry in found.entries:
            setting = _setting(entry, teachers)
            if found is not distilled and not (setting.method == CONTROL and entry.config.get("model") in students):
                missing.append(f"{found.name}/{entry.path}: no control of the round's students: left out")
            elif entry.state is State.COMPLETED:
                block = Block(entry.data_set or "digits", int(entry.config.get("seed", 0)))
                runs.append(Run(found.name, entry, setting, block))
            else:
                open_ones.setdefault(setting, []).append(str(entry.state))
        for setting, states in open_ones.items():
            missing.append(f"{found.name}: {setting}: {len(states)} not completed ({', '.join(sorted(set(states)))})")
    methods = dict.fromkeys(_setting(entry, teachers).method for entry in distilled.entries)
    planned = tuple(method for method in methods if method not in (TEACHER, PLAIN, CONTROL))
    return Runs(distilled.name, tuple(runs), tuple(missing), planned)


def _networks(found: RoundRecords) -> tuple[set[str], set[str]]:
    """The models of the teachers and of the students."""
    if {entry.row.experiment.study for entry in found.entries} != {"distillation"}:
        raise RoundhouseError(f"round {found.name} is not of the study distillation: there is nothing to say about it")
    by_path = {entry.path: entry for entry in found.entries}
    distilled = [entry for entry in found.entries if entry.row.experiment.after]
    led = [path for entry in distilled for paths in entry.row.experiment.after.values() for path in paths]
    teachers = {str(by_path[path].config.get("model")) for path in led if path in by_path}
    students = {str(entry.config.get("model")) for entry in distilled}
    if len(teachers) != 1 or len(students) != 1:
        raise RoundhouseError(
            f"round {found.name} has teachers {', '.join(sorted(teachers)) or 'none'} and students "
            f"{', '.join(sorted(students)) or 'none'}: the suite compares the students of one pair of networks"
        )
    return teachers, students


def _setting(entry: Entry, teachers: set[str]) -> Setting:
    method = str(entry.config.get("method", "pure"))
    if method == "pure":
        return Setting(TEACHER if entry.config.get("model") in teachers else PLAIN, None)
    return Setting(method, float(entry.config.get("alpha", 0.5)))

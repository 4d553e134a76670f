"""The completed runs of a distillation round and of its control round, and the teacher of each run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray

from analysis.rounds import RoundEntry, RoundRecords
from analysis.saved_arrays import arrays_in
from roundhouse.errors import RoundhouseError

LAYERS = ("stage1", "stage2", "pooled", "logits")  # from the image to the answer; pooled is stage3's mean
FIELDS = (*LAYERS, "labels", "validation_logits", "validation_labels")
TEACHER, PLAIN, CONTROL = "teacher", "plain", "control"  # roles; distilled runs have their method's name


class Outputs(dict[str, NDArray[Any]]):
    """The arrays of an outputs.npz. A missing array is a RoundhouseError."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise RoundhouseError(f"outputs.npz has no array {name}: it was written by an older version")


class Block(NamedTuple):
    """What paired runs have in common: data set and seed."""

    dataset: str
    seed: int


class MethodSetting(NamedTuple):
    """A method or a role (teacher, plain, control) with its alpha, over all seeds and data sets."""

    method: str
    alpha: float | None

    def __str__(self) -> str:
        return self.method if self.alpha is None else f"{self.method}, alpha {self.alpha:g}"


UNDISTILLED = MethodSetting(CONTROL, 0.0)  # the student on unchanged labels: same recipe, no label smoothing


@dataclass(frozen=True)
class CompletedRun:
    """One completed run."""

    round: str
    entry: RoundEntry
    setting: MethodSetting
    block: Block

    @property
    def name(self) -> str:
        return f"{self.round}/{self.entry.path}"

    def outputs(self) -> Outputs:
        """The arrays of outputs.npz that the analysis needs. RoundhouseError: the file is missing or unreadable."""
        file = self.entry.outputs_file
        if file is None:
            raise RoundhouseError(f"{self.name} has no outputs.npz")
        with arrays_in(file, f"{self.name}: outputs.npz") as saved:
            found = Outputs({name: saved[name] for name in FIELDS if name in saved})
        for name, array in found.items():
            if array.ndim != (1 if name.endswith("labels") else 2) or array.dtype.kind not in "fiu":
                raise RoundhouseError(f"{self.name}: outputs.npz: {name} is {array.dtype} of shape {array.shape}")
        return found


@dataclass(frozen=True)
class CompletedRuns:
    """All completed runs of a distillation round and its control round.

    `missing`: what is missing, a line each. `planned`: the distillation methods, in the order of the round file.
    """

    name: str
    runs: tuple[CompletedRun, ...]
    missing: tuple[str, ...]
    planned: tuple[str, ...]

    @cached_property
    def by_setting_and_block(self) -> dict[tuple[MethodSetting, Block], CompletedRun]:
        return {(run.setting, run.block): run for run in self.runs}

    @cached_property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(run.block.dataset for run in self.runs))

    @cached_property
    def methods(self) -> list[str]:
        """The methods with a completed run, in the order of the round file."""
        found = {run.setting.method for run in self.runs}
        return [method for method in self.planned if method in found]

    @cached_property
    def alphas(self) -> list[float]:
        found = {run.setting.alpha for run in self.runs if run.setting.method in self.methods}
        return sorted(alpha for alpha in found if alpha is not None)

    @cached_property
    def students(self) -> list[MethodSetting]:
        """All settings of students: plain, control by alpha, then each method by alpha."""
        found = {run.setting for run in self.runs} - {MethodSetting(TEACHER, None)}
        order = [PLAIN, CONTROL, *self.methods]
        return sorted(found, key=lambda one: (order.index(one.method), one.alpha or 0.0))

    def of(self, setting: MethodSetting, dataset: str | None = None) -> list[CompletedRun]:
        return [run for run in self.runs if run.setting == setting and dataset in (None, run.block.dataset)]

    @cached_property
    def smoothed(self) -> bool:
        """Whether the plain students were trained with label smoothing, unlike the distilled ones."""
        return any(run.entry.config.get("label_smoothing") for run in self.of(MethodSetting(PLAIN, None)))

    def teacher_of(self, run: CompletedRun) -> CompletedRun | None:
        return self.by_setting_and_block.get((MethodSetting(TEACHER, None), run.block))


def runs_of(distilled: RoundRecords, control: RoundRecords | None) -> CompletedRuns:
    """The completed runs of both rounds. RoundhouseError: it is of another study, or has several pairs of networks.

    Experiments that are not completed are counted in `missing`, by setting.
    """
    teachers, students = _networks(distilled)
    both = [distilled, *([control] if control else [])]
    missing = [line for found in both for line in (*found.notes, *found.problems)]
    if control is None:
        missing.append(
            "control: 0 runs, so the effect of alpha alone is unknown, and gains are relative to the plain student"
        )
    runs: list[CompletedRun] = []
    for found in both:
        open_ones: dict[MethodSetting, list[str]] = {}
        for entry in found.entries:
            setting = _setting(entry, teachers)
            if found is not distilled and not (setting.method == CONTROL and entry.config.get("model") in students):
                missing.append(f"{found.name}/{entry.path}: not a control of the round's students: left out")
            elif entry.completed:
                block = Block(entry.data_set or "digits", int(entry.config.get("seed", 0)))
                runs.append(CompletedRun(found.name, entry, setting, block))
            else:
                open_ones.setdefault(setting, []).append(str(entry.state))
        for setting, states in open_ones.items():
            missing.append(f"{found.name}: {setting}: {len(states)} not completed ({', '.join(sorted(set(states)))})")
    methods = dict.fromkeys(_setting(entry, teachers).method for entry in distilled.entries)
    planned = tuple(method for method in methods if method not in (TEACHER, PLAIN, CONTROL))
    return CompletedRuns(distilled.name, tuple(runs), tuple(missing), planned)


def _networks(found: RoundRecords) -> tuple[set[str], set[str]]:
    """The models of the teachers and of the students."""
    if {entry.experiment.study for entry in found.entries} != {"distillation"}:
        raise RoundhouseError(f"round {found.name} is not of the study distillation, which this analysis needs")
    by_path = {entry.path: entry for entry in found.entries}
    distilled = [entry for entry in found.entries if entry.experiment.after]
    teacher_paths = [path for entry in distilled for paths in entry.experiment.after.values() for path in paths]
    teachers = {str(by_path[path].config.get("model")) for path in teacher_paths if path in by_path}
    students = {str(entry.config.get("model")) for entry in distilled}
    if len(teachers) != 1 or len(students) != 1:
        raise RoundhouseError(
            f"round {found.name} has teachers {', '.join(sorted(teachers)) or 'none'} and students "
            f"{', '.join(sorted(students)) or 'none'}: the analysis needs exactly one of each"
        )
    return teachers, students


def _setting(entry: RoundEntry, teachers: set[str]) -> MethodSetting:
    method = str(entry.config.get("method", "pure"))
    if method == "pure":
        return MethodSetting(TEACHER if entry.config.get("model") in teachers else PLAIN, None)
    return MethodSetting(method, float(entry.config.get("alpha", 0.5)))

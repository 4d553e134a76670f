"""What the tasks read of the runs that they depend on: samples, floods, weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from roundhouse.training import Run, StudyError
from studies.flood import floods, samples
from studies.flood.floods import Flood
from studies.flood.kept_files import FIRST, KEPT, SAMPLES, SIMULATION, WEIGHTS, samples_file
from studies.flood.options import Options
from studies.flood.samples import Samples, SampleSet

Inputs = Mapping[str, Sequence[Path]]


def samples_of(options: Options, inputs: Inputs) -> SampleSet:
    """The samples that a training uses: those that the config names, or the only ones among the inputs."""
    if options.samples is not None:
        return samples.read(samples_file(Path(options.samples)))
    found = _kept(inputs, SAMPLES)
    if len(found) != 1:
        raise StudyError(
            f"a training needs one set of samples, and {len(found)} of its inputs have one: name the group of the "
            "samples under `after`, with `inputs_from`, or a file in config key 'samples'"
        )
    return samples.read(found[0])


def all_samples(options: Options, inputs: Inputs) -> dict[str, SampleSet]:
    """The samples of all sets among the inputs, by name. StudyError: those of the config's set are missing."""
    found = {one.name: one for one in (samples.read(path) for path in _kept(inputs, SAMPLES))}
    if options.set not in found:
        raise StudyError(f"no input has samples of the set {options.set}: {FIRST}, and name their group under `after`")
    return found


def floods_of(options: Options, inputs: Inputs, numbers: Iterable[int] | None = None) -> list[Flood]:
    """The floods of the set among the inputs, or those with these numbers.

    StudyError: there is none, one of the numbers is missing, or one has other snapshots than the config says.
    """
    found = [flood for flood in map(floods.read, _kept(inputs, SIMULATION)) if flood.set == options.set]
    for flood in found:
        if flood.interval != 60.0 * options.snapshot_minutes:
            raise StudyError(
                f"simulation {flood.number} of the set {flood.set} has a snapshot every {flood.interval / 60:g} "
                f"minutes, and config key 'snapshot_minutes' is {options.snapshot_minutes}: use one value for both"
            )
    wanted = {flood.number for flood in found} if numbers is None else set(numbers)
    if missing := sorted(wanted - {flood.number for flood in found}):
        raise StudyError(f"simulations {missing} of the set {options.set} are not among the inputs: {FIRST}")
    if not wanted:
        raise StudyError(f"no input is a simulation of the set {options.set}: {FIRST}, and name them under `after`")
    return [flood for flood in found if flood.number in wanted]


def check_lead(options: Options, found: Samples) -> None:
    """StudyError: the samples were cut with another lead than the config says."""
    if found.lead != options.lead:
        raise StudyError(
            f"the samples of the set {options.set} have a lead of {found.lead} snapshots, and it is {options.lead} by "
            "config keys 'lead_minutes' and 'snapshot_minutes': use the values with which the samples were cut"
        )


def check_whole(run: Run) -> None:
    """StudyError: a limit for trainings has ended the only loop of a task that has no result before its end."""
    if run.ended:
        raise StudyError(
            f"the run was ended by {run.ended}, before it had a result: set config keys 'time_limit' and 'max_steps' "
            "only for groups that train"
        )


def weights_of(inputs: Inputs) -> Path:
    """The file with the weights of the only trained surrogate among the inputs."""
    found = [path / WEIGHTS for paths in inputs.values() for path in paths if (path / WEIGHTS).exists()]
    if len(found) != 1:
        raise StudyError(
            f"an evaluation needs one trained surrogate, and {len(found)} of its inputs have one: name its group under "
            "`after`, so that one run is left"
        )
    return found[0]


def _kept(inputs: Inputs, name: str) -> list[Path]:
    """The files of this name that the inputs have kept."""
    places = [path / KEPT / name for paths in inputs.values() for path in paths]
    return [place for place in places if place.exists()]

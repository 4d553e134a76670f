"""The task `samples`: validates the simulations of a set, splits them, and cuts the samples of each split."""

from __future__ import annotations

import torch

from roundhouse.training import Run
from studies.flood.kept_files import SAMPLES
from studies.flood.measures import dummy_loss, summarise
from studies.flood.options import Options
from studies.flood.predictions import BATCH, from_ring
from studies.flood.samples import Samples, SampleSet, content, cut_all, split_simulations
from studies.flood.tasks.inputs import Inputs, floods_of
from studies.flood.validation import validate


def make_samples(run: Run, options: Options, inputs: Inputs) -> None:
    """Make the file of a set from its simulations, which are the inputs; they are split before anything is cut."""
    found: dict[str, float] = {}
    run.track(found=found)
    for _ in run.steps(1):  # a set is made whole, or not at all
        splits = splits_of(options, inputs)
        run.keep(SAMPLES, content(SampleSet(options.set, splits)))
        found |= {name: value for one in splits.values() for name, value in counts(one).items()}
    run.finish({}, found)


def splits_of(options: Options, inputs: Inputs) -> dict[str, Samples]:
    """The samples of each split. StudyError: simulations are missing or not valid."""
    split = split_simulations(options.train, options.validation, options.test, seed=0)
    numbers = sorted(number for some in split.values() for number in some)
    known = {flood.number: flood.simulated() for flood in floods_of(options, inputs, numbers)}
    validate({name: [known[number] for number in some] for name, some in split.items()}, options.lead)
    return cut_all(list(known.values()), split, options.lead, options.stride)


def counts(samples: Samples) -> dict[str, float]:
    """Final metrics of a split: samples, dry patches that were dropped; and two predictions without any learning.

    These are persistence, with its L1 loss in m, and the ring alone, with its median relative error.
    """
    batches = map(samples.batch, torch.split(samples.upright(), BATCH))
    pairs = [(one.target, from_ring(one)) for one in batches]
    true, ring = (torch.cat(one) for one in zip(*pairs, strict=True))
    return {
        f"{samples.split}_samples": float(len(samples)),
        f"{samples.split}_dropped": float(samples.dropped),
        f"{samples.split}_dummy_loss": dummy_loss(true),
        f"{samples.split}_ring_rae": summarise(ring, true).median,
    }

"""The batches of a training loop, in the order in which its steps ask for them."""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.training import Run, Step, derive_seed
from studies.genegan.images import Batch, Images, Plan, make_feed
from studies.genegan.losses import critic_steps_at
from studies.genegan.options import Options


class Batches:
    """The batches of a loop, from the step on at which it is asked first: after a resume that is not the first one."""

    def __init__(self, run: Run, options: Options, images: Images, plan: Plan) -> None:
        self._feed = make_feed(options, images, plan, run.seed("batches"))
        self._size = options.batch_size
        self._drawn: Iterator[Batch] | None = None
        run.on_close(self._feed.close)

    def next(self, step: Step) -> Batch:
        """The next batch of the step: in a run of several processes, this one's part."""
        rows = step.shard(self._size)
        if self._drawn is None:
            self._drawn = self._feed.batches(step.index, rows)
        return next(self._drawn)


def batches_of(run: Run, options: Options, images: Images) -> Batches:
    """For each critic step of an iteration, and then for the generator, a batch at the sizes of this iteration."""
    sizes, seed = options.input_sizes, run.seed("sizes")

    def plan(step: int) -> list[tuple[int, ...]]:
        drawn = drawn_size(options, seed, step)
        return [sizes if drawn is None else (drawn,)] * (critic_steps_at(step, options) + 1)

    return Batches(run, options, images, plan)


def drawn_size(options: Options, seed: int, step: int) -> int | None:
    """The only size of an iteration of `resolution_mode: random`, uniform among the sizes; None: all of them."""
    if options.resolution_mode == "all":
        return None
    return options.sizes[derive_seed(seed, "size", step) % len(options.sizes)]

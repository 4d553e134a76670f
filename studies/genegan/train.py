"""One run: GeneGAN learns to exchange an attribute, or a VQVAE is trained; by iterations, or for a box of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from roundhouse.training import Run, Step, StudyError, Value, derive_seed, read_weights
from studies.genegan.check import is_file_name
from studies.genegan.evaluation import Evaluation, Setting
from studies.genegan.images import Batch, Images, Plan, input_sizes, load, make_feed
from studies.genegan.loading import CONFIG, GENERATOR, config_of
from studies.genegan.losses import critic_steps_at
from studies.genegan.networks import Critics, Generator
from studies.genegan.options import Options
from studies.genegan.players import Players
from studies.genegan.vqvae import OWN_MAPPING, VQVAE, load_mapped, read_mapping, vqvae_terms

VQ = "vqvae"
SHOWN = 8
"""Faces in a picture of samples."""


def train(run: Run, options: Options, inputs: Mapping[str, Sequence[Path]], data: Path | None) -> None:
    """Train what `options` describe. The only input, if `init` names a group, is the directory of its VQVAE."""
    images = load(options, data, "train", run.device)
    if options.method == "vqvae":
        train_vqvae(run, options, images)
        return
    generator, critics = Generator(options).to(run.device), Critics(options).to(run.device)
    if options.init is not None:
        run.once("init", lambda: start_from(generator, options, inputs))
    players = Players(generator, critics, options, run.autocast)
    run.track(**{GENERATOR: generator, CONFIG: Value(config_of(options))}, critics=critics)
    run.track(generator_optimiser=players.generator_optimiser, critic_optimiser=players.critic_optimiser)
    run.best("distance", mode="min", weights={GENERATOR: generator, CONFIG: config_of(options)})
    validation = evaluation_of(options, data, "validation", run)
    batches, sizes_seed = batches_of(run, options, images), run.seed("sizes")

    for step in run.steps(options.iterations, save_every=options.save_every):
        generator.train()
        critics.train()
        drawn = drawn_size(options, sizes_seed, step.index)
        for _ in range(critic_steps_at(step.index, options)):
            critic = players.train_critics(step, batches.next(step), drawn)
            step.average(critic_loss=critic["loss"])
        made = players.train_generator(step, batches.next(step), drawn)
        step.average(**{f"{name}_loss": value for name, value in made.items() if name != "decay"})
        evaluated = step.every(options.save_every) or step.index + 1 == options.iterations
        if step.every(options.log_every) or evaluated:
            with run.untimed():
                run.record(**(summary(validation.distances(generator)) if evaluated else {}))
        if evaluated:
            keep(run, generator, validation, step.index + 1, options)
    run.load_best()
    test = evaluation_of(options, data, "test", run)
    metrics = {**test.distances(generator), **test.dummies(), **test.transfer(generator)}
    run.finish(None, {f"test_{name}": value for name, value in metrics.items()})


class Batches:
    """The batches of a loop by steps, from the step on at which it is asked first."""

    def __init__(self, run: Run, options: Options, images: Images, plan: Plan) -> None:
        self._feed = make_feed(options, images, plan, run.seed("batches"))
        self._drawn: Iterator[Batch] | None = None
        run.on_close(self._feed.close)

    def next(self, step: Step) -> Batch:
        if self._drawn is None:
            self._drawn = self._feed.batches(step.index)
        return next(self._drawn)


def batches_of(run: Run, options: Options, images: Images) -> Batches:
    """For each critic step of an iteration, and then for the generator, a batch at the sizes of this iteration."""
    sizes, seed = input_sizes(options), run.seed("sizes")

    def plan(step: int) -> list[tuple[int, ...]]:
        drawn = drawn_size(options, seed, step)
        return [sizes if drawn is None else (drawn,)] * (critic_steps_at(step, options) + 1)

    return Batches(run, options, images, plan)


def drawn_size(options: Options, seed: int, step: int) -> int | None:
    """The only size of an iteration, uniform among the sizes; None: all of them."""
    if options.resolution_mode == "all":
        return None
    return options.sizes[derive_seed(seed, "size", step) % len(options.sizes)]


def start_from(generator: Generator, options: Options, inputs: Mapping[str, Sequence[Path]]) -> str:
    """Load the weights that `init` names: of a file, or of the VQVAE of a group. Prints and returns what was loaded."""
    assert options.init is not None
    if is_file_name(options.init):
        path = Path(options.init)
    else:
        places = inputs.get(options.init, ())
        if len(places) != 1:
            raise StudyError(
                f"config key 'init' is {options.init!r}, and `after` in the round file gives {len(places)} experiments "
                "of this group: it must give one"
            )
        path = places[0] / "best.pth"
    content = read_weights(path)
    weights = content.get(VQ, content)
    mapping = OWN_MAPPING if options.init_map is None else read_mapping(Path(options.init_map))
    report = str(load_mapped(generator, weights, mapping))
    print(f"weights of {path}: {report}", flush=True)
    return report


def evaluation_of(options: Options, data: Path | None, split: str, run: Run) -> Evaluation:
    size = options.evaluation_size or options.sizes[-1]
    number = options.evaluation_images
    setting = Setting(options.dataset, options.attribute, split, size, number, options.extractor)
    return Evaluation(setting, load(options, data, split, run.device), data, run.device)


def summary(distances: Mapping[str, float]) -> dict[str, float]:
    """`distance`, the mean of both directions, by which the best weights are chosen, and the distances themselves."""
    return {"distance": (distances["add_fd"] + distances["remove_fd"]) / 2, **distances}


def keep(run: Run, generator: Generator, validation: Evaluation, iteration: int, options: Options) -> None:
    """A picture of samples and a checkpoint, both named by the iteration."""
    run.keep(f"samples/iter_{iteration:06}.png", validation.picture(generator, SHOWN))
    run.keep_checkpoint(f"iter_{iteration:06}")


def train_vqvae(run: Run, options: Options, images: Images) -> None:
    """The autoencoder alone, on images with and without the attribute; its last weights are the result."""
    model = VQVAE(options).to(run.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=options.rate)
    run.track(vqvae=model, optimiser=optimiser)
    run.best(None, weights={VQ: model})
    sizes = input_sizes(options)
    batches = Batches(run, options, images, lambda step: [sizes])
    for step in run.steps(options.iterations, save_every=options.save_every):
        model.train()
        batch = batches.next(step)
        terms: list[dict[str, Tensor]] = []
        for size in sizes:
            with run.autocast():
                terms.append(vqvae_terms(model, torch.cat([batch.with_attribute[size], batch.without_attribute[size]])))
        means = {name: torch.stack([one[name] for one in terms]).mean() for name in terms[0]}
        step.optimise(means["loss"], optimiser)
        step.average(**{f"vqvae_{name}": value for name, value in means.items()})
        if step.every(options.log_every) or step.index + 1 == options.iterations:
            run.record()
    run.finish()

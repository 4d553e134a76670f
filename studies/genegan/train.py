"""One run: GeneGAN learns to exchange an attribute, or a VQVAE is trained; by iterations, or for a box of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roundhouse.training import Run, Value
from studies.genegan.batches import batches_of, drawn_size
from studies.genegan.checkpoints import SHOWN, evaluate_and_keep, with_mean
from studies.genegan.evaluation import Evaluation, Setting, available
from studies.genegan.extractors import chosen
from studies.genegan.images import Images, load
from studies.genegan.loading import CONFIG, GENERATOR, Config, config_of
from studies.genegan.losses import critic_steps_at
from studies.genegan.networks import Critics, Generator
from studies.genegan.options import Options
from studies.genegan.players import Players
from studies.genegan.start import start_from
from studies.genegan.vqvae_training import train_vqvae


def train(run: Run, options: Options, inputs: Mapping[str, Sequence[Path]], data: Path | None) -> None:
    """Train what `options` describe. The only input, if `init` names a group, is the directory of its VQVAE."""
    images = load(options, data, "train", run.device)
    if options.method == "vqvae":
        train_vqvae(run, options, images)
        return
    generator, critics = Generator(options).to(run.device), Critics(options).to(run.device)
    for player in (generator, critics):
        run.prepare(player)
    players = Players(generator, critics, options, run.autocast)
    iteration = Value(0)  # complete ones
    run.track(**{GENERATOR: generator, CONFIG: Config(options)}, critics=critics, iteration=iteration)
    run.track(generator_optimiser=players.generator_optimiser, critic_optimiser=players.critic_optimiser)
    run.best("distance", mode="min", weights={GENERATOR: generator, CONFIG: config_of(options)})
    if (init := options.init) is not None:
        run.once("init", lambda: start_from(generator, init, options, inputs))
    held_out = {split: load(options, data, split, run.device) for split in ("validation", "test")}
    settings = run.once("evaluation", lambda: evaluation_settings(options, held_out.values(), data))
    validation, test = (
        Evaluation(Setting(options.dataset, options.attribute, split, **settings), images, data, run.device)
        for split, images in held_out.items()
    )
    run.keep("evaluation.json", validation.facts())
    batches, sizes_seed = batches_of(run, options, images), run.seed("sizes")

    for step in run.steps(options.iterations, save_every=options.save_every):
        generator.train()
        critics.train()
        drawn = drawn_size(options, sizes_seed, step.index)
        for _ in range(critic_steps_at(step.index, options)):
            critic = players.train_critics(step, batches.next(step), drawn)
        step.average(critic_loss=critic["critic"], **{name: critic[name] for name in critic.keys() & {"penalty"}})
        made = players.train_generator(step, batches.next(step), drawn)
        step.average(generator_loss=made.pop("loss"), **{f"{name}_loss": value for name, value in made.items()})
        iteration.value = step.index + 1
        if step.every(options.save_every):
            evaluate_and_keep(run, generator, validation, iteration.value, options)
        elif step.every(options.log_every):
            run.record()
    evaluate_and_keep(run, generator, validation, iteration.value, options)
    run.load_best()
    test_best(run, generator, test)


def test_best(run: Run, generator: Generator, test: Evaluation) -> None:
    """Measure the best weights on test images, beside the dummies and the floor."""
    parts: list[Callable[[], dict[str, float]]] = [
        lambda: test.distances(generator, intervals=True),
        test.dummies,
        lambda: test.transfer(generator),
    ]
    found: dict[str, float] = {}
    for part in run.pausable(parts):
        found |= part()
    samples = test.samples(generator, SHOWN)
    run.finish({"samples": samples}, {f"test_{name}": value for name, value in with_mean(found).items()})


def evaluation_settings(options: Options, held_out: Iterable[Images], data: Path | None) -> dict[str, Any]:
    """What all evaluations of a run have in common, whatever is installed when a later attempt begins.

    A rare attribute of CelebA has fewer images than the config asks for: then all that both splits have are used.
    """
    images = min(options.evaluation_images, *map(available, held_out))
    return {
        "size": options.shown_size,
        "images": images,
        "extractor": chosen(options.extractor, images, data),
    }

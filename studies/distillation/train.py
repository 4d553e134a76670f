"""One distillation run: a student is trained alone, or with a teacher, after a stage of the method's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from roundhouse.training import Run, StudyError, Value, read_weights
from roundhouse.training.feeds import EpochFeed, make_feed
from studies.distillation.augmentation import TrainingImages
from studies.distillation.building import build_method, build_student
from studies.distillation.data import Dataset, load
from studies.distillation.evaluation import evaluate, final_outputs
from studies.distillation.filling import effective_batch, with_largest_batch
from studies.distillation.methods import Method, method_named
from studies.distillation.models import ResNet, build_model
from studies.distillation.objective import Objective
from studies.distillation.options import ALONE, Options, Recipe
from studies.distillation.parts import Accumulation


def train(run: Run, options: Options, inputs: Mapping[str, Sequence[Path]], data: Path | None) -> None:
    """Train what `options` describe. The only input, if the method needs one, is the directory of its teacher."""
    if options.step == "graph" and run.device.type != "cuda":
        raise StudyError("config key 'step' is 'graph', but CUDA graphs need a GPU: use auto or eager")
    if options.step == "compile":
        run.approximate()
    dataset = load(options.dataset, data, options.validation_images)
    teacher = None if options.method in ALONE else load_teacher(inputs, options, dataset, run.device)
    options = with_largest_batch(run, options, dataset, teacher)
    feed = make_feed(options.feed, TrainingImages.of(dataset), options.batch_size, options.workers, run.device)
    run.on_close(feed.close)
    parts = Value()  # of a batch; determined in the first batch of `train`
    run.track(accumulation=parts)

    student, method = prepare(run, options, dataset, teacher, feed, parts)
    run.seed_globals("train")
    if student is None:  # first the student, so that its weights do not depend on the method
        student = build_student(run, options, dataset)
        run.track(student=student)
    run.prepare(student)
    if teacher is not None and method is None:
        method = build_method(run, options, dataset, teacher)
        run.track(method=method)
    if method is not None:
        run.prepare(method)
    owned = list(method.trained("train")) if method is not None else []
    recipe = options.recipe("train")
    optimizer = make_optimizer([*student.parameters(), *owned], options, recipe)
    run.track(optimizer=optimizer)
    weights = {"dataset": dataset.name, "model": options.model, "weights": student}
    run.best("val_accuracy" if len(dataset.validation) else None, weights=weights)

    objective = Objective(options, dataset, student, teacher, method, run.autocast)
    accumulation = Accumulation(run, options, objective, parts)
    for epoch in run.epochs(options.epochs):
        for module in objective.modules:
            module.train()
        strength = torch.tensor(objective.strength(epoch.index), device=run.device)
        for step, (images, labels) in epoch.batches(feed):
            accumulation.find(step, images, labels, strength)
            if step.index == 0:
                run.record(**accumulation.measure(images, labels, strength))
            done = (epoch.index + step.index / feed.steps) / options.epochs
            set_learning_rate(optimizer, recipe.rate(epoch.index, done))
            loss, (mean, accuracy, distance) = accumulation.passes(step, (images, labels), strength)
            step.watch(loss)
            step.update(optimizer)
            step.average(loss=mean, train_accuracy=accuracy)
            if method is not None:
                step.average(distillation_loss=distance)
        if len(dataset.validation):
            run.record(**evaluate(student, dataset, dataset.validation, "val", run))

    if "train" in run.skipped:
        raise StudyError("training ended before its stage 'train': raise 'max_epochs' or 'time_limit'")
    last = evaluate(student, dataset, dataset.test, "last_test", run)
    run.load_best()
    arrays, metrics = final_outputs(student, dataset, run)
    run.finish(arrays, metrics | {"last_test_accuracy": last["last_test_accuracy"]} | effective_batch(options))


def prepare(
    run: Run, options: Options, dataset: Dataset, teacher: ResNet | None, feed: EpochFeed, parts: Value
) -> tuple[ResNet | None, Method | None]:
    """The stage that some methods have before `train`: what it has trained, and what exists since. Else nothing."""
    kind = method_named(options.method) if teacher is not None else None
    stage = kind.preparation(options) if kind is not None else None
    if kind is None or stage is None or teacher is None:
        return None, None
    run.planned(stage.epochs + options.epochs)
    run.seed_globals(stage.name)
    student = build_student(run, options, dataset) if kind.prepares_student(options) else None
    method = build_method(run, options, dataset, teacher)
    owned = list(student.parameters()) if student is not None else []
    recipe = options.recipe(stage.name)
    optimizer = make_optimizer([*owned, *method.trained(stage.name)], options, recipe)
    if student is not None:
        run.track(student=student)
        run.prepare(student)
    run.track(method=method, preparation_optimizer=optimizer)
    run.prepare(method)

    objective = Objective(options, dataset, student, teacher, method, run.autocast)
    passes = Accumulation(run, options, objective, parts).make_passes(objective.preparation)
    for epoch in run.epochs(stage.epochs, name=stage.name):
        for module in objective.modules:
            module.train()
        for step, (images, _) in epoch.batches(feed):
            done = (epoch.index + step.index / feed.steps) / stage.epochs
            set_learning_rate(optimizer, recipe.rate(epoch.index, done))
            loss, (mean,) = passes(step, (images,))
            step.watch(loss)
            step.update(optimizer)
            step.average(preparation_loss=mean)
    run.release("preparation_optimizer")
    known = {"dataset": dataset.name}
    if student is None:
        run.keep(f"{stage.name}.pth", {**known, "teacher": options.teacher, "method": method.state_dict()})
    else:
        run.keep(f"{stage.name}.pth", {**known, "model": options.model, "weights": student.state_dict()})
    return student, method


def load_teacher(
    inputs: Mapping[str, Sequence[Path]], options: Options, dataset: Dataset, device: torch.device
) -> ResNet:
    """The teacher, frozen. StudyError: there is none, or it is another one than the config needs."""
    places = [place for group in inputs.values() for place in group]
    if len(places) != 1:
        raise StudyError(
            f"method {options.method!r} needs one teacher, and `after` in the round file names {len(places)}"
        )
    path = places[0] / "best.pth"
    saved = read_weights(path)
    wanted = {"dataset": dataset.name, "model": options.teacher or saved.get("model")}
    found = {key: saved.get(key) for key in wanted}
    if found != wanted:
        raise StudyError(f"{path} holds {found}, but this run needs {wanted}: fix `after` in the round file")
    teacher = build_model(saved["model"], dataset.classes, dataset.channels, device)
    teacher.load_state_dict(saved["weights"])
    return teacher.eval().requires_grad_(False)


def make_optimizer(parameters: Sequence[nn.Parameter], options: Options, recipe: Recipe) -> torch.optim.SGD:
    """SGD whose momentum buffers start at 0, so that the first step is as usual.

    PyTorch's fused SGD leaves these buffers uninitialised if gradient scaling skips the first step.
    """
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if options.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate

"""One distillation run as a task of the training loop: stages, epochs, evaluation, state, outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from roundhouse.training import Context, Stage, StudyError, equal_parts, fewest_parts, read_options, read_weights
from roundhouse.training.step import Step, buffers_kept, clear_gradients
from studies.distillation.data import Dataset, load
from studies.distillation.evaluation import evaluate, final_outputs
from studies.distillation.feed import make_feed
from studies.distillation.methods import Method, Shapes, method_named
from studies.distillation.models import ResNet, build_model, shapes_of
from studies.distillation.objective import Objective, check_memory
from studies.distillation.options import ALONE, Options

_DECAY = 0.1  # of the learning rate at each milestone


def build(
    config: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], device: torch.device, data: Path | None
) -> Distillation:
    """The task described by `config`. Its input, if it needs one, is the directory of its teacher's `best.pth`.

    StudyError: an unknown key or name, a value out of range, a data set or a teacher that is missing or does not fit.
    """
    options = read_options(Options, config)
    if options.step == "graph" and device.type != "cuda":
        raise StudyError("config key 'step' is 'graph', but CUDA graphs need a GPU: use auto or eager")
    dataset = load(options.dataset, data, options.validation_images)
    teacher = None
    if options.method not in ALONE:
        places = [place for group in inputs.values() for place in group]
        if len(places) != 1:
            raise StudyError(
                f"method {options.method!r} needs one teacher, and `after` in the round file names {len(places)}"
            )
        teacher = _load_teacher(places[0] / "best.pth", options, dataset, device)
    return Distillation(options, dataset, teacher, device)


def _load_teacher(path: Path, options: Options, dataset: Dataset, device: torch.device) -> ResNet:
    saved = read_weights(path)
    wanted = {"dataset": dataset.name, "model": options.teacher or saved.get("model")}
    found = {key: saved.get(key) for key in wanted}
    if found != wanted:
        raise StudyError(f"{path} holds {found}, but this run needs {wanted}: fix `after` in the round file")
    teacher = build_model(saved["model"], dataset.classes, dataset.channels, device)
    teacher.load_state_dict(saved["weights"])
    return teacher.eval().requires_grad_(False)


def make_optimizer(parameters: Sequence[nn.Parameter], options: Options) -> torch.optim.SGD:
    """SGD whose momentum buffers start at 0, so that the first step is as usual.

    PyTorch's fused SGD leaves these buffers uninitialised if gradient scaling skips the first step.
    """
    optimizer = torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=True,
    )
    if options.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class Distillation:
    """Training of a student, alone or with a teacher. Some methods have a stage of their own before `train`."""

    mode = "max"

    def __init__(self, options: Options, dataset: Dataset, teacher: ResNet | None, device: torch.device) -> None:
        self.options = options
        # Without validation images, the last epoch is the best.
        self.metric = "val_accuracy" if len(dataset.validation) else "epochs_trained"
        self.exact = options.step != "compile"
        self._kind = method_named(options.method) if teacher is not None else None
        first = self._kind.preparation(options) if self._kind else None
        self.stages = (*([first] if first else []), Stage("train", options.epochs))
        self._data = dataset
        self._device = device
        self._teacher = teacher
        self._student: ResNet | None = None
        self._method: Method | None = None
        self._feed = make_feed(options.feed, dataset, options.batch_size, options.workers, device)
        self._parts: int | None = None  # determined in the first batch, or read from a checkpoint

    # The interface to the loop

    def begin_stage(self, context: Context) -> None:
        """Create the student first, so that its weights do not depend on the method; then the method's modules."""
        training = context.stage.name == "train"
        if self._student is None and (training or (self._kind and self._kind.prepares_student(self.options))):
            self._student = build_model(self.options.model, self._data.classes, self._data.channels, self._device)
        if self._kind is not None and self._method is None:
            assert self._teacher is not None
            self._method = self._kind(self.options, self._shapes(self._teacher)).to(self._device)
        self._objective = Objective(
            self.options, self._data, self._student, self._teacher, self._method, context.autocast
        )
        self._optimizer = make_optimizer(self._trained(context.stage.name), self.options)
        self._step: Step | None = None

    def train_epoch(self, context: Context) -> dict[str, float]:
        """Mean losses and accuracy over the epoch, read from the device once."""
        for module in self._modules:
            module.train()
        training, steps = context.stage.name == "train", self._feed.steps
        strength = self._objective.strength(context.epoch) if training else 0.0
        constants = (torch.tensor(strength, device=self._device),) if training else ()
        sums = torch.zeros(3 if training else 1, device=self._device)
        measured: dict[str, float] = {}
        for images, labels in context.batches(self._feed.epoch(context)):
            if context.batch == 1 and training:
                measured = self._measure_first_batch(context, images, labels, *constants)
            if self._step is None:
                self._step = self._make_step(context)
            self._set_learning_rate((context.epoch + (context.batch - 1) / steps) / context.stage.epochs, context)
            loss, metrics = self._step(context, (images, labels) if training else (images,), *constants)
            context.watch(loss)
            context.update(self._optimizer)
            sums += metrics
        means = (sums / steps).tolist()
        if not training:
            return {"preparation_loss": means[0]}
        metrics_of_epoch = {"loss": means[0], "train_accuracy": means[1], **measured}
        return metrics_of_epoch if self._method is None else {**metrics_of_epoch, "distillation_loss": means[2]}

    def _measure_first_batch(
        self, context: Context, images: Tensor, labels: Tensor, strength: Tensor
    ) -> dict[str, float]:
        """Determine, once, the number of parts of a batch. Returns it, and the gradient norms of both terms."""
        if self._parts is None:
            self._parts = self._parts_that_fit(context, images, labels, strength)
        parts = self._parts_in(context)
        if self._method is None:
            return {"accumulation": parts}
        size = len(images) // parts
        norms = self._objective.gradient_norms(images[:size], labels[:size], strength)
        return {"accumulation": parts, "distance_weight": self._method.weight, **norms}

    def evaluate(self, context: Context) -> dict[str, float]:
        if context.stage.name != "train":
            return {}
        if not len(self._data.validation):
            return {"epochs_trained": context.epoch + 1}
        assert self._student is not None
        return evaluate(self._student, self._data, self._data.validation, "val", context)

    def state(self) -> dict[str, Any]:
        parts = {"student": self._student, "method": self._method, "optimizer": self._optimizer}
        states = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return {**states, "accumulation": self._parts}

    def load_state(self, state: dict[str, Any]) -> None:
        if self._student is not None:
            self._student.load_state_dict(state["student"])
        if self._method is not None:
            self._method.load_state_dict(state["method"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._parts = state["accumulation"]

    def best_state(self) -> dict[str, Any]:
        """The weights, and what a later run needs to use them. Before there is a student: those of the method."""
        known = {"dataset": self._data.name}
        if self._student is None:
            assert self._method is not None
            return {**known, "teacher": self.options.teacher, "method": self._method.state_dict()}
        return {**known, "model": self.options.model, "weights": self._student.state_dict()}

    def outputs(self, best: dict[str, Any], context: Context) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """See `evaluation.final_outputs`. The test set is used only here, also for the last epoch."""
        if self._student is None or "weights" not in best:
            raise StudyError("training ended before its stage 'train': raise 'max_epochs' or 'time_limit'")
        last = evaluate(self._student, self._data, self._data.test, "last_test", context)
        self._student.load_state_dict(best["weights"])
        arrays, metrics = final_outputs(self._student, self._data, context)
        metrics |= {"last_test_accuracy": last["last_test_accuracy"]}
        return arrays, metrics

    def close(self) -> None:
        self._feed.close()

    # Implementation

    @property
    def _modules(self) -> list[nn.Module]:
        return [module for module in (self._student, self._method) if module is not None]

    def _shapes(self, teacher: ResNet) -> Shapes:
        image = self._data.image_shape
        student = build_model(self.options.model, self._data.classes, image[0], torch.device("meta"))
        return Shapes(image, self._data.classes, shapes_of(student, image), shapes_of(teacher, image))

    def _trained(self, stage: str) -> list[nn.Parameter]:
        """The parameters that the optimiser updates in the stage, without frozen ones."""
        parameters = list(self._student.parameters()) if self._student is not None else []
        if self._method is not None:
            parameters += self._method.trained(stage)
        return parameters

    def _make_step(self, context: Context) -> Step:
        kind = self.options.step
        if kind == "auto":
            kind = "graph" if self._device.type == "cuda" else "eager"
        compute = self._objective.training if context.stage.name == "train" else self._objective.preparation
        return Step(compute, self._modules, kind, self._parts_in(context))

    def _parts_in(self, context: Context) -> int:
        """The number of parts of a batch: more than configured or determined if memory ran out nevertheless."""
        chosen = self.options.accumulation
        parts = self._parts or (chosen if isinstance(chosen, int) else 1)
        return equal_parts(self.options.batch_size, parts * context.accumulate)

    def _parts_that_fit(self, context: Context, images: Tensor, labels: Tensor, strength: Tensor) -> int:
        """The number of parts of a batch: the configured one, or the fewest that fit into the device's memory."""
        chosen = self.options.accumulation
        sizes = [chosen] if isinstance(chosen, int) else [n for n in range(1, len(images) + 1) if len(images) % n == 0]

        def attempt(parts: int) -> None:
            if self._method is not None:
                check_memory(self._method, len(images) // parts, self._device)
            if self._device.type == "cuda" and chosen == "auto":
                with buffers_kept(self._modules):
                    Step(self._objective.training, self._modules, "eager", parts)(context, (images, labels), strength)
                clear_gradients(self._modules)

        return fewest_parts(sizes, attempt)

    def _set_learning_rate(self, done: float, context: Context) -> None:
        """`done` goes from 0 to 1 over the stage; a stage before `train` always uses the cosine schedule."""
        options = self.options
        if options.schedule == "steps" and context.stage.name == "train":
            rate = options.lr * _DECAY ** sum(context.epoch >= epoch for epoch in options.milestones)
        else:
            rate = options.lr * (1 + math.cos(math.pi * done)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = rate

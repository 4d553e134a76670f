"""The distillation study: networks, recipes, what each method and option changes, memory, outputs."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounds_for_tests import REPOSITORY
from small_study import train as run
from torch import nn

from roundhouse.config.round import load_round
from roundhouse.settings import Settings, split_config
from roundhouse.training import StudyError, equal_parts, read_options, read_weights
from roundhouse.training.execute import Outcome
from studies.distillation import train as distillation
from studies.distillation.data import Dataset, Split, load
from studies.distillation.methods import METHODS, Shapes
from studies.distillation.models import ResNet, build_model, shapes_of
from studies.distillation.options import ALONE, BLOCKS, DISTILLING, Options, Recipe
from studies.distillation.train import make_optimizer

CPU = torch.device("cpu")
ALL_DIGITS = load("digits", None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def digits(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Dataset:
    """Training on 256 digits, and other changes."""
    few = replace(ALL_DIGITS, train=Split(ALL_DIGITS.train.images[:256], ALL_DIGITS.train.labels[:256]))
    few = replace(few, **changes)
    monkeypatch.setattr(distillation, "load", lambda name, folder, validation: few)
    return few


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    return digits(monkeypatch)


def train(
    directory: Path, *teachers: Path | None, seed: int = 0, settings: Settings | None = None, **config: Any
) -> Outcome:
    """Train in `directory`. The teachers are directories of runs."""
    config = {"model": "ResNet8", "epochs": 2, "batch_size": 64, "paraphraser_epochs": 1, **config}
    options = read_options(Options, config)
    inputs = {f"teacher{index}": [path] for index, path in enumerate(teachers) if path is not None}
    return run(
        directory,
        lambda run: distillation.train(run, options, inputs, None),
        settings or Settings(seed=seed, device="cpu"),
    )


class Watched:
    """What a run builds: its optimisers, its students and its teacher, and the students' gradients of each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.optimizers: list[torch.optim.Optimizer] = []
        self.students: list[ResNet] = []
        self.teachers: list[ResNet] = []
        self.rates: list[float] = []
        self.gradients: list[torch.Tensor] = []  # of the last optimiser that was built
        for name, found in (
            ("make_optimizer", self.optimizers), ("build_student", self.students), ("load_teacher", self.teachers)
        ):  # fmt: skip
            monkeypatch.setattr(distillation, name, self.watching(getattr(distillation, name), found))

    def watching(self, build: Any, found: list[Any]) -> Any:
        def watched(*arguments: Any) -> Any:
            found.append(build(*arguments))
            if found is self.optimizers:
                self.gradients.clear()
                found[-1].register_step_pre_hook(self.note)
            return found[-1]

        return watched

    def note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        grads = [one.grad.flatten() for student in self.students for one in student.parameters()
                 if one.grad is not None]  # fmt: skip
        if grads:
            self.gradients.append(torch.cat(grads).clone())


def weights_of(directory: Path) -> str:
    """A digest of the student's best weights."""
    weights = read_weights(directory / "best.pth")["weights"]
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def metrics_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    return found


@pytest.fixture
def teacher(tmp_path: Path, few_digits: Dataset) -> Path:
    train(tmp_path / "teacher", model="ResNet14", epochs=1)
    return tmp_path / "teacher"


# Networks


@pytest.mark.parametrize(("name", "millions"), [("ResNet20", 0.278), ("ResNet56", 0.862), ("ResNet110", 1.737)])
def test_networks_have_the_published_sizes(name: str, millions: float) -> None:
    parameters = sum(weight.numel() for weight in build_model(name, 100, 3, CPU).parameters())
    assert round(parameters / 1e6, 3) == millions


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_networks_have_as_many_layers_as_their_name_says(name: str) -> None:
    modules = build_model(name, 10, 3, CPU).named_modules()
    layers = [one for where, one in modules if isinstance(one, (nn.Conv2d, nn.Linear)) and "shortcut" not in where]
    assert len(layers) == (110 if name == "ResNet112" else int(name.removeprefix("ResNet")))


@pytest.mark.parametrize("size", [8, 32, 64])
def test_features_have_the_shapes_that_their_names_promise(size: int) -> None:
    network = build_model("ResNet8", 7, 3, CPU)
    features = network(torch.randn(2, 3, size, size))
    assert [tuple(one.shape) for one in features] == [
        (2, 7), (2, 16, size, size), (2, 32, size // 2, size // 2), (2, 64, size // 4, size // 4), (2, 64),
    ]  # fmt: skip
    shapes = shapes_of(network, (3, size, size))
    assert [(2, *shapes[name]) for name in features._fields] == [tuple(one.shape) for one in features]


def test_a_wrong_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="unknown model 'Resnet20': did you mean 'ResNet20'"):
        build_model("Resnet20", 10, 1, CPU)


# The recipe


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_the_learning_rate_falls_as_half_a_cosine_over_the_whole_run(
    tmp_path: Path, few_digits: Dataset, watched: Watched
) -> None:
    train(tmp_path, epochs=3, lr=0.5)
    assert watched.rates == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)])


def test_a_recipe_gives_the_rate_of_its_schedule() -> None:
    train = Options("ResNet8", lr=0.5, schedule="steps", milestones=(1, 3)).recipe("train")
    assert [train.rate(epoch, epoch / 4) for epoch in range(4)] == pytest.approx([0.5, 0.05, 0.05, 0.005])
    options = Options("ResNet8", lr=0.5, schedule="steps", milestones=(1, 3), weight_decay=0.1)
    assert options.recipe("hint") == Recipe(lr=0.5, weight_decay=0.1, schedule="cosine")
    assert [options.recipe("hint").rate(0, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.5, 0.25, 0.0])
    constant = Options("ResNet8", preparation_lr=0.01, preparation_weight_decay=0.0, preparation_schedule="constant")
    assert constant.recipe("hint") == Recipe(lr=0.01, weight_decay=0.0, schedule="constant")
    assert {constant.recipe("hint").rate(epoch, epoch / 3) for epoch in range(3)} == {0.01}


def test_the_learning_rate_falls_to_a_tenth_at_each_milestone(
    tmp_path: Path, few_digits: Dataset, watched: Watched
) -> None:
    train(tmp_path, epochs=4, lr=0.5, schedule="steps", milestones=[1, 3])
    assert watched.rates == pytest.approx([0.5] * 4 + [0.05] * 8 + [0.005] * 4)


def test_the_learning_rate_of_a_methods_own_stage_falls_as_half_a_cosine_too(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    train(tmp_path, teacher, method="factor_transfer", paraphraser_epochs=2, epochs=1, lr=0.5)
    assert watched.rates[:8] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    assert watched.rates[8:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "fitnet"}, "unknown method 'fitnet': did you mean 'fitnets'"),
        ({"modle": "ResNet8"}, "unknown key 'config.modle': did you mean 'model'"),
        ({"alpha": 1.5}, "'alpha' is 1.5; it must lie between 0 and 1"),
        ({"epochs": 0}, "'epochs' is 0; it must be above 0"),
        ({"hint_stage": 3}, "'hint_stage' is 3; it must be 1 or 2"),
        ({"nst_stages": "al"}, "unknown nst_stages 'al': did you mean 'all'"),
        ({"factor": "maps"}, "unknown factor 'maps': did you mean 'map'"),
        ({"preparation_lr": 0.0}, "'preparation_lr' is 0.0; it must be above 0"),
        ({"preparation_weight_decay": -1.0}, "'preparation_weight_decay' is -1.0; it must not be below 0"),
        ({"preparation_schedule": "steps"}, "unknown preparation_schedule 'steps'"),
        ({"factor_rate": 0.0}, "'factor_rate' is 0.0; it must be above 0, and 1 at most"),
        ({"validation_images": -1}, "'validation_images' is -1; it must not be below 0"),
        ({"accumulation": 7}, "'accumulation' is 7; batch_size 64 cannot be cut"),
        ({"accumulation": "all"}, "unknown accumulation 'all'"),
        ({"schedule": "steps"}, "must be set together"),
        ({"milestones": [10]}, "must be set together"),
        ({"milestones": [10.5], "schedule": "steps"}, "config.milestones.0 should be a whole number, not 10.5"),
        ({"nesterov": True, "momentum": 0.0}, "'nesterov' needs a 'momentum'"),
        ({"step": "grahp"}, "unknown step 'grahp': did you mean 'graph'"),
        ({"lr": "1e-1"}, "config.lr should be a finite number, not '1e-1'"),
    ],
)
def test_a_mistake_in_a_config_is_reported(config: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_options(Options, {"model": "ResNet8", "batch_size": 64, **config})


def test_a_batch_larger_than_the_data_set_is_reported(tmp_path: Path, few_digits: Dataset) -> None:
    with pytest.raises(StudyError, match="'batch_size' is 512; there are 256 training samples"):
        train(tmp_path, batch_size=512)


def test_a_graph_on_a_machine_without_gpu_is_reported(tmp_path: Path, few_digits: Dataset) -> None:
    with pytest.raises(StudyError, match="CUDA graphs need a GPU"):
        train(tmp_path, step="graph")


# Teachers


def test_a_method_without_a_teacher_or_with_two_is_reported(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(StudyError, match="'logit' needs one teacher, and `after` in the round file names 0"):
        train(tmp_path / "none", method="logit")
    with pytest.raises(StudyError, match="names 2"):
        train(tmp_path / "two", teacher, teacher, method="rkd")


def test_a_teacher_of_another_kind_is_reported(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(StudyError, match="'model': 'ResNet14'.*needs .*'ResNet20'"):
        train(tmp_path / "run", teacher, method="logit", teacher="ResNet20")


@pytest.mark.parametrize("method", DISTILLING)
def test_distillation_leaves_its_teacher_as_it_was_and_out_of_the_optimiser(
    method: str, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    train(tmp_path / "run", teacher, method=method, epochs=1)
    (led,) = watched.teachers
    before = read_weights(teacher / "best.pth")["weights"]
    assert all(torch.equal(value, before[name]) for name, value in led.state_dict().items())
    groups = [group for optimizer in watched.optimizers for group in optimizer.param_groups]
    assert not {id(one) for group in groups for one in group["params"]} & {id(one) for one in led.parameters()}
    assert not led.training


# Does it do anything?


def gradients_after_one_step(directory: Path, teacher: Path | None, **config: Any) -> torch.Tensor:
    """The student's gradients in the first step of stage `train`."""
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        train(directory, teacher, seed=3, epochs=1, **config)
    return watched.gradients[0]


@pytest.mark.parametrize("method", DISTILLING)
def test_a_method_changes_the_gradients_at_the_student(method: str, tmp_path: Path, teacher: Path) -> None:
    plain = gradients_after_one_step(tmp_path / "plain", None)
    followed = gradients_after_one_step(tmp_path / "followed", teacher, method=method)
    halved = gradients_after_one_step(tmp_path / "halved", None, method="control", alpha=0.5)
    assert (halved - plain / 2).abs().max() <= 1e-6 * plain.abs().max()
    # Not only the cross entropy's smaller share: what the distance adds is far above rounding.
    assert (followed - halved).norm() > 1e-3 * plain.norm()
    assert followed.isfinite().all()


@pytest.mark.parametrize("method", [*DISTILLING, "control"])
def test_alpha_0_equals_plain_training_bit_for_bit(method: str, tmp_path: Path, teacher: Path) -> None:
    plain = train(tmp_path / "plain")
    followed = train(tmp_path / "followed", teacher if method != "control" else None, method=method, alpha=0.0)
    assert weights_of(tmp_path / "followed") == weights_of(tmp_path / "plain")
    for name, value in plain.metrics.items():
        assert followed.metrics[name] == value


def test_two_equal_runs_end_equal_and_every_option_changes_the_result(tmp_path: Path, teacher: Path) -> None:
    base: dict[str, Any] = {"epochs": 2, "batch_size": 128, "step": "eager"}
    distilled: dict[str, dict[str, Any]] = {name: {**base, "method": name} for name in METHODS}
    runs: list[dict[str, Any]] = [
        base,
        {**base, "seed": 1},
        {**base, "model": "ResNet14"},
        {**base, "batch_size": 64},
        {**base, "lr": 0.05},
        {**base, "momentum": 0.5},
        {**base, "nesterov": True},
        {**base, "weight_decay": 0.0},
        {**base, "schedule": "steps", "milestones": [1]},
        {**base, "label_smoothing": 0.1},
        {**base, "accumulation": 2},
        {**base, "method": "control"},
        {**base, "method": "control", "alpha": 0.25},
        *distilled.values(),
        {**distilled["logit"], "alpha": 0.25},
        {**distilled["logit"], "alpha": 1.0},
        {**distilled["logit"], "weight": 2.0},
        {**distilled["logit"], "temperature": 2.0},
        {**distilled["fitnets"], "hint_stage": 2},
        {**distilled["fitnets"], "hint_epochs": 1},
        {**distilled["fitnets"], "hint_epochs": 1, "temperature": 2.0},
        {**distilled["factor_transfer"], "paraphraser_epochs": 2},
        {**distilled["factor_transfer"], "factor_rate": 0.25},
        {**distilled["factor_transfer"], "reconstruction": "mse"},
        {**distilled["factor_transfer"], "factor": "map"},
        {**distilled["factor_transfer"], "paraphraser_norm": False},
        {**distilled["nst"], "nst_stages": "all"},
        {**distilled["rkd"], "angle_weight": 1.0},
        {**distilled["dkd"], "target_weight": 2.0},
        {**distilled["dkd"], "others_weight": 4.0},
        {**distilled["dkd"], "warm_up": 1},
    ]
    hashes = []
    for index, config in enumerate(runs):
        teachers = [teacher] if config.get("method") in DISTILLING else []
        hashes.append(train(tmp_path / str(index), *teachers, **config).final_hash)
    assert len(set(hashes)) == len(runs)
    again = train(tmp_path / "again", teacher, **distilled["rkd"]).final_hash
    assert again == hashes[runs.index(distilled["rkd"])]


def test_every_option_is_among_those_that_are_shown_to_change_something() -> None:
    elsewhere = {
        "model", "dataset", "method", "teacher", "validation_images", "step", "feed", "workers", "epochs",
        "largest_batch", "scale_lr",
    }  # fmt: skip
    source = Path(__file__).read_text()
    shown = {name for name in Options.__dataclass_fields__ if f'"{name}": ' in source}
    assert set(Options.__dataclass_fields__) <= shown | elsewhere


def test_the_distilled_runs_of_calibration_train_on_digits(tmp_path: Path, teacher: Path) -> None:
    small = {"dataset": "digits", "model": "ResNet8", "teacher": None, "epochs": 1, "milestones": [1]}
    small |= {"paraphraser_epochs": 1, "validation_images": None}
    experiments = load_round("calibration", REPOSITORY / "rounds").experiments
    configs = {one.config["method"]: one.config for one in experiments if one.group != "kd" and one.after}
    assert set(configs) == {"logit", "fitnets", "attention_transfer", "factor_transfer", "rkd", "nst", "sp"}
    for method, config in configs.items():
        outcome = train(tmp_path / method, teacher, **{**split_config(config)[1], **small})
        assert all(math.isfinite(value) for value in outcome.metrics.values())


@pytest.mark.parametrize("method", ["fitnets", "factor_transfer"])
def test_a_stage_before_training_has_a_recipe_of_its_own(method: str, tmp_path: Path, teacher: Path) -> None:
    base: dict[str, Any] = {"method": method, "hint_epochs": 1, "epochs": 1, "step": "eager"}
    own = [{}, {"preparation_lr": 0.01}, {"preparation_weight_decay": 0.1}, {"preparation_schedule": "constant"}]
    hashes = [train(tmp_path / str(index), teacher, **base, **one).final_hash for index, one in enumerate(own)]
    assert len(set(hashes)) == len(own)
    same = train(tmp_path / "same", teacher, **base, preparation_lr=0.1, preparation_weight_decay=5e-4)
    assert same.final_hash == hashes[0]


@pytest.mark.parametrize("feed", ["device", "workers"])
def test_where_images_are_augmented_changes_no_bit(feed: str, tmp_path: Path, few_digits: Dataset) -> None:
    outcomes = [train(tmp_path / name, feed=name, workers=1, epochs=1) for name in ("device", "workers")]
    assert outcomes[0].final_hash == outcomes[1].final_hash


def test_label_smoothing_is_for_plain_training_only(tmp_path: Path, teacher: Path) -> None:
    for method, given in (("logit", teacher), ("control", None)):
        hashes = {
            train(
                tmp_path / f"{method}{smoothing}", given, method=method, epochs=1, label_smoothing=smoothing
            ).final_hash
            for smoothing in (0.0, 0.1)
        }
        assert len(hashes) == 1


# Stages


def test_factor_transfer_leaves_its_paraphraser_next_to_its_weights(tmp_path: Path, teacher: Path) -> None:
    outcome = train(tmp_path / "run", teacher, method="factor_transfer", paraphraser_epochs=2)
    saved = read_weights(tmp_path / "run" / "kept/paraphraser.pth")
    assert saved["dataset"] == "digits"
    checkpoint = read_weights(tmp_path / "run" / "checkpoint.pth")["parts"]["method"]
    paraphraser = {name: value for name, value in checkpoint.items() if name.startswith("paraphraser.")}
    assert paraphraser
    for name, value in paraphraser.items():
        assert torch.equal(saved["method"][name], value), "the paraphraser was changed after its stage"
    assert "kept/paraphraser.pth" in outcome.artifacts
    records = metrics_of(tmp_path / "run")["epochs"]
    assert [record["stage"] for record in records] == ["paraphraser", "paraphraser", "train", "train"]
    assert records[1]["preparation_loss"] < records[0]["preparation_loss"]


def test_the_hint_stage_of_fitnets_continues_with_the_same_student(tmp_path: Path, teacher: Path) -> None:
    train(tmp_path / "run", teacher, method="fitnets", hint_epochs=2)
    assert [record["stage"] for record in metrics_of(tmp_path / "run")["epochs"]] == ["hint", "hint", "train", "train"]
    assert "weights" in read_weights(tmp_path / "run" / "kept/hint.pth")


def test_a_run_that_ends_before_there_is_a_student_states_it(tmp_path: Path, teacher: Path) -> None:
    settings = Settings(device="cpu", max_epochs=1)
    with pytest.raises(StudyError, match="ended before its stage 'train'"):
        train(tmp_path / "run", teacher, settings=settings, method="factor_transfer", paraphraser_epochs=3)


# What is reported


@pytest.mark.parametrize("method", DISTILLING)
def test_each_epoch_has_the_ratio_of_the_two_gradients(method: str, tmp_path: Path, teacher: Path) -> None:
    for alpha in (0.5, 0.75):
        train(tmp_path / str(alpha), teacher, method=method, alpha=alpha, epochs=1)
    half, more = (metrics_of(tmp_path / str(alpha))["epochs"][-1] for alpha in (0.5, 0.75))
    assert half["gradient_ratio"] == pytest.approx(half["distance_gradient"] / half["truth_gradient"])
    # Both look at the same batch and the same weights: only alpha / (1 - alpha) differs.
    assert more["gradient_ratio"] == pytest.approx(3 * half["gradient_ratio"], rel=1e-4)


def test_without_cross_entropy_there_is_no_ratio(tmp_path: Path, teacher: Path) -> None:
    train(tmp_path / "run", teacher, method="logit", alpha=1.0, epochs=1)
    assert "gradient_ratio" not in metrics_of(tmp_path / "run")["epochs"][0]


def test_the_weight_of_the_distance_is_reported_with_its_factor_for_the_size_of_images(
    tmp_path: Path, teacher: Path
) -> None:
    train(tmp_path / "run", teacher, method="attention_transfer", epochs=1)
    reported = metrics_of(tmp_path / "run")["epochs"][0]["distance_weight"]
    assert reported == pytest.approx(1000 * 8 * 8 / (32 * 32))


def test_a_network_learns_digits_and_its_outputs_agree_with_its_metrics(tmp_path: Path) -> None:
    outcome = train(tmp_path, epochs=6)
    assert outcome.metrics["test_accuracy"] > 0.8
    outputs = np.load(tmp_path / "outputs.npz")
    assert {name: outputs[name].shape for name in outputs} == {
        "logits": (360, 10), "labels": (360,), "pooled": (360, 64),
        "stage1": (360, 16), "stage2": (360, 32), "stage3": (360, 64),
        "validation_logits": (237, 10), "validation_labels": (237,),
    }  # fmt: skip
    assert all(outputs[name].dtype == np.float16 for name in outputs if "labels" not in name)
    accuracy = (outputs["logits"].argmax(1) == outputs["labels"]).mean()
    assert accuracy == pytest.approx(outcome.metrics["test_accuracy"], abs=0.01)
    assert np.allclose(outputs["pooled"], outputs["stage3"], rtol=2e-3)
    assert np.array_equal(outputs["labels"], ALL_DIGITS.test.labels.numpy())
    chosen = metrics_of(tmp_path)["best"]["val_accuracy"]
    assert (outputs["validation_logits"].argmax(1) == outputs["validation_labels"]).mean() == pytest.approx(chosen)


def test_the_last_epoch_is_the_best_where_no_validation_images_are_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits(monkeypatch, validation=Split(ALL_DIGITS.validation.images[:0], ALL_DIGITS.validation.labels[:0]))
    outcome = train(tmp_path, epochs=3)
    metrics = metrics_of(tmp_path)
    assert (metrics["metric"], metrics["best"], len(metrics["epochs"])) == (None, None, 3)
    last = read_weights(tmp_path / "checkpoint.pth")["parts"]["student"]
    best = read_weights(tmp_path / "best.pth")["weights"]
    assert all(torch.equal(value, last[name]) for name, value in best.items())
    assert outcome.metrics["last_test_accuracy"] == outcome.metrics["test_accuracy"]
    assert np.load(tmp_path / "outputs.npz")["validation_logits"].shape == (0, 10)


def test_the_test_set_is_not_touched_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits(monkeypatch)
    train(tmp_path / "plain", epochs=1)
    digits(monkeypatch, test=Split(ALL_DIGITS.test.images * 0, ALL_DIGITS.test.labels * 0))
    train(tmp_path / "poisoned", epochs=1)
    records = [metrics_of(tmp_path / name) for name in ("plain", "poisoned")]
    for record in records:
        del record["epochs"][0]["seconds"], record["epochs"][0]["peak_memory_mb"]
    assert records[0]["epochs"] == records[1]["epochs"]
    assert records[0]["final"] != records[1]["final"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["pure", *DISTILLING])
def test_half_precision_trains_too(method: str, precision: str, tmp_path: Path, teacher: Path) -> None:
    given = teacher if method in DISTILLING else None
    settings = Settings(device="cpu", precision=precision)
    assert train(tmp_path / "run", given, settings=settings, method=method, epochs=1).finished


def test_a_first_step_that_gradient_scaling_skips_leaves_no_trace() -> None:
    weight, options = nn.Parameter(torch.ones(1000)), Options("ResNet8")
    optimizer, scaler = make_optimizer([weight], options, options.recipe("train")), torch.amp.GradScaler("cpu")
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.allclose(optimizer.state[weight]["momentum_buffer"], torch.tensor(1.0 + 5e-4))


# Memory


def test_relations_that_cannot_fit_are_refused_with_the_figures(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.distillation.objective.free_memory", lambda device: 1_000_000)
    with pytest.raises(
        StudyError, match=r"rkd needs .* for its relations of 64 samples, and 1 MB are free on cpu, enou"
    ):
        train(tmp_path, teacher, method="rkd")


def test_a_batch_is_cut_into_as_few_parts_as_fit_and_the_number_is_recorded(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = (1, 8, 8)
    student, led = (shapes_of(build_model(name, 10, 1, CPU), image) for name in ("ResNet8", "ResNet14"))
    limit = METHODS["rkd"](Options("ResNet8", method="rkd"), Shapes(image, 10, student, led)).memory(20)
    monkeypatch.setattr("studies.distillation.objective.free_memory", lambda device: limit)
    outcome = train(tmp_path / "found", teacher, method="rkd", accumulation="auto")
    assert [record["accumulation"] for record in metrics_of(tmp_path / "found")["epochs"]] == [4, 4]  # 32 are above 20
    configured = train(tmp_path / "configured", teacher, method="rkd", accumulation=4)
    assert configured.final_hash == outcome.final_hash


def test_a_batch_is_cut_further_once_memory_ran_out(tmp_path: Path, few_digits: Dataset) -> None:
    configured, made = tmp_path / "configured", tmp_path / "made"
    train(configured, accumulation=4, epochs=1)
    train(made, settings=Settings(device="cpu", accumulate=2), accumulation=2, epochs=1)
    assert weights_of(made) == weights_of(configured)
    assert metrics_of(made)["epochs"][0]["accumulation"] == 4


@pytest.mark.parametrize(
    ("batch", "at_least", "parts"), [(64, 1, 1), (64, 3, 4), (96, 5, 6), (10, 3, 5), (7, 2, 7), (4, 9, 4)]
)
def test_parts_of_a_batch_are_equal(batch: int, at_least: int, parts: int) -> None:
    assert equal_parts(batch, at_least) == parts


def test_methods_alone_need_no_teacher() -> None:
    assert set(ALONE) & set(METHODS) == set()
    assert tuple(METHODS) == DISTILLING

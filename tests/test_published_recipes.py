"""The round `calibration` against RepDistiller's recipes: loss, steps and stages of each method, written once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import slow_losses as slow
import torch
from rounds_for_tests import REPOSITORY
from torch import Tensor, nn

from roundhouse.config.round import load_round
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.distillation.methods import METHODS, Method, Shapes
from studies.distillation.methods.factor_transfer import FactorTransfer
from studies.distillation.methods.fitnets import FitNets
from studies.distillation.models import Features
from studies.distillation.options import Options, Recipe

PAIRS = [one for one in load_round("calibration", REPOSITORY / "rounds").experiments if one.group.startswith("pair_")]
BATCH = 64
# Small maps, of which the first have many pixels: their values do not depend on the networks.
STUDENT = {"logits": (3,), "stage1": (2, 5, 4), "stage2": (3, 2, 2), "stage3": (4, 2, 2), "pooled": (4,)}
TEACHER = {"logits": (3,), "stage1": (2, 5, 4), "stage2": (2, 2, 2), "stage3": (4, 2, 2), "pooled": (3,)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def options_of(method: str) -> Options:
    """Those of all experiments of the method, which differ in networks and seeds only."""
    found = {
        read_options(Options, split_config({**one.config, "model": "ResNet20", "teacher": None})[1])
        for one in PAIRS
        if one.config["method"] == method
    }
    (options,) = found
    assert options.batch_size == BATCH
    return options


def nested(features: Features) -> dict[str, Any]:
    return {name: value.tolist() for name, value in features._asdict().items()}


def layers_of(method: nn.Module, batch: Any, leak: float) -> Any:
    """Convolutions with batch normalisation, as in training."""
    for layer in method.modules():
        if isinstance(layer, nn.Conv2d):
            batch = slow.rectify(slow.normalise(slow.convolve(batch, layer.weight.tolist())), leak)
    return batch


def three_stages(loss: Callable[[Any, Any], float]) -> Callable[[Method, Any, Any], float]:
    return lambda method, s, t: sum(loss(s[stage], t[stage]) for stage in ("stage1", "stage2", "stage3"))


def fitnets(method: Method, student: Any, teacher: Any) -> float:
    assert isinstance(method, FitNets)
    return slow.squared_difference(layers_of(method.regressor, student["stage2"], 0.0), teacher["stage2"])


def factor_transfer(method: Method, student: Any, teacher: Any) -> float:
    """Collapsed factors; the paraphraser has no normalisation, the translator has."""
    assert isinstance(method, FactorTransfer)
    factor = teacher["stage3"]
    for layer in method.paraphraser.encoder.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            factor = slow.rectify(slow.convolve(factor, layer.weight.tolist(), layer.bias.tolist()), 0.1)
    return slow.factor_map(layers_of(method.translator, student["stage3"], 0.1), factor)


# What is added to CE, for KD to 0.1 CE. Weights are from scripts/run_cifar_distill.sh, layers from helper/loops.py.
PUBLISHED: dict[str, Callable[[Method, Any, Any], float]] = {
    "logit": lambda method, s, t: 0.9 * slow.logit(s["logits"], t["logits"], 4.0),
    "fitnets": lambda method, s, t: 100 * fitnets(method, s, t),
    "attention_transfer": lambda method, s, t: 1000 * three_stages(slow.attention)(method, s, t),
    "factor_transfer": lambda method, s, t: 200 * factor_transfer(method, s, t),
    "rkd": lambda method, s, t: slow.rkd_over_all(s["pooled"], t["pooled"], 25, 50),
    "nst": lambda method, s, t: 50 * three_stages(slow.nst)(method, s, t),
    "sp": lambda method, s, t: 3000 * slow.sp(s["stage3"], t["stage3"]),
}


def test_every_method_of_the_round_is_compared() -> None:
    assert {one.config["method"] for one in PAIRS} == {"pure", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_terms_of_the_loss_have_their_published_size(name: str) -> None:
    options = options_of(name)
    torch.manual_seed(0)
    method = METHODS[name](options, Shapes((3, 32, 32), 3, STUDENT, TEACHER)).train()
    student, teacher = (
        Features(**{field: torch.randn(BATCH, *shape) for field, shape in shapes.items()})
        for shapes in (STUDENT, TEACHER)
    )
    found = options.alpha * method.weight * method.distance(student, teacher, torch.zeros(BATCH, dtype=torch.int64))
    expected = PUBLISHED[name](method, nested(student), nested(teacher))
    if name != "logit":
        expected /= 2  # as the cross entropy is halved
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    assert 1 - options.alpha == pytest.approx(0.1 if name == "logit" else 0.5)


@pytest.mark.parametrize("name", ["pure", *PUBLISHED])
def test_weights_take_the_published_steps(name: str) -> None:
    """Those of SGD with momentum 0.9, learning rate 0.05 and weight decay 5e-4 on the sum of two terms."""
    options = options_of(name)

    def steps(truth: float, distance: float, lr: float, decay: float) -> list[list[float]]:
        weights = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        target = torch.tensor([0.5, 1.0, -1.0], dtype=torch.float64)
        optimizer = torch.optim.SGD([weights], lr, options.momentum, nesterov=options.nesterov, weight_decay=decay)
        taken = []
        for _ in range(20):
            optimizer.zero_grad()
            loss: Tensor = truth * (weights - target).square().sum() + distance * weights.exp().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken.append(weights.tolist())
        return taken

    assert (options.momentum, options.nesterov) == (0.9, False)
    recipe = options.recipe("train")
    published = {"pure": (1.0, 0.0), "logit": (0.1, 0.9)}.get(name, (1.0, 1.0))
    own = published if name == "pure" else (1 - options.alpha, options.alpha)
    found = steps(*own, recipe.lr, recipe.weight_decay)
    expected = steps(*published, 0.05, 5e-4)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("name", ["pure", *PUBLISHED])
def test_the_learning_rate_falls_to_a_tenth_after_150_180_and_210_of_240_epochs(name: str) -> None:
    options = options_of(name)
    recipe = options.recipe("train")
    assert options.epochs == 240
    rates = [recipe.rate(epoch, epoch / 240) / recipe.lr for epoch in (0, 149, 150, 179, 180, 209, 210, 239)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_paraphraser_is_trained_for_30_epochs_with_a_recipe_of_its_own() -> None:
    options = options_of("factor_transfer")
    recipe = options.recipe("paraphraser")
    assert recipe == Recipe(lr=0.01, weight_decay=5e-4, schedule="constant")
    assert {recipe.rate(epoch, epoch / 30) for epoch in range(30)} == {0.01}
    assert (options.paraphraser_epochs, options.reconstruction, options.factor_rate) == (30, "mse", 0.5)
    assert options.paraphraser_norm is False


def test_only_factor_transfer_has_a_stage_before_training() -> None:
    stages = {name: METHODS[name].preparation(options_of(name)) for name in PUBLISHED}
    assert [name for name, stage in stages.items() if stage is not None] == ["factor_transfer"]


def test_the_pairs_use_all_training_images_of_cifar100_float32_and_no_label_smoothing() -> None:
    for one in PAIRS:
        settings, config = split_config(one.config)
        options = read_options(Options, config)
        assert (settings.precision, options.dataset, options.validation_images) == ("fp32", "cifar100", 0)
        assert (options.label_smoothing, options.temperature, options.hint_epochs) == (0.0, 4.0, 0)
    pairs = {(one.config["teacher"], one.config["model"]) for one in PAIRS if "teacher" in one.config}
    assert pairs == {("ResNet56", "ResNet20"), ("ResNet110", "ResNet32")}

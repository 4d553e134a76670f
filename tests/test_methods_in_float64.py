"""Each loss and its gradient against plain float64 versions (`slow_losses`), their gradients by central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import slow_losses as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from studies.distillation.losses import cross_entropy
from studies.distillation.methods import Shapes
from studies.distillation.methods.attention_transfer import AttentionTransfer, attention_loss
from studies.distillation.methods.dkd import decoupled_loss
from studies.distillation.methods.factor_transfer import FactorTransfer, factor_loss
from studies.distillation.methods.fitnets import FitNets
from studies.distillation.methods.logit import logit_loss
from studies.distillation.methods.nst import NeuronSelectivity, selectivity_loss
from studies.distillation.methods.rkd import relational_loss
from studies.distillation.methods.sp import similarity_loss
from studies.distillation.models import Features
from studies.distillation.options import Options


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def agree(fast: Tensor, expected: Any, tolerance: float) -> None:
    """Equal up to `tolerance` of the largest number expected."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    error = (fast.detach().double() - wanted).abs().max()
    assert error <= tolerance * wanted.abs().max() + 1e-6 * tolerance, (fast, wanted)


def compare(
    fast: Callable[[Tensor], Tensor], loss: Callable[[Any], float], at: Tensor, tolerance: float = 1e-4
) -> None:
    """Value and gradient at the float32 tensor `at`, which must not be 0 all over."""
    at = at.clone().requires_grad_()
    value = fast(at)
    assert value.dtype == torch.float32
    assert value.shape == ()
    value.backward()  # type: ignore[no-untyped-call]
    nested = at.tolist()
    agree(value, loss(nested), tolerance)
    assert at.grad is not None
    assert at.grad.abs().max() > 1e-6
    agree(at.grad, slow.gradient(lambda: loss(nested), nested), 10 * tolerance)


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal numbers and, as in features, a few that are far larger."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in shapes:
        numbers = torch.randn(shape, generator=generator)
        found.append(numbers + 0.3 * numbers**3)
    return found


# Logits


@st.composite
def batches(draw: st.DrawFn, classes: int = 2) -> tuple[list[list[float]], list[list[float]], list[int]]:
    """(student's logits, teacher's logits, labels), the logits from small to such as leave a class no share."""
    size, count = draw(st.integers(1, 4)), draw(st.integers(classes, 5))
    row = st.lists(st.floats(-20, 20, width=32), min_size=count, max_size=count)
    logits = st.lists(row, min_size=size, max_size=size)
    return draw(logits), draw(logits), draw(st.lists(st.integers(0, count - 1), min_size=size, max_size=size))


def compare_logits(fast: Callable[[Tensor], Tensor], loss: Callable[[Any], float], logits: list[list[float]]) -> None:
    student = torch.tensor(logits, requires_grad=True)
    value = fast(student)
    value.backward()  # type: ignore[no-untyped-call]
    expected = torch.tensor(slow.gradient(lambda: loss(logits), logits), dtype=torch.float64)
    assert student.grad is not None
    torch.testing.assert_close(value.detach().double(), torch.tensor(loss(logits)).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(student.grad.double(), expected, rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(batches(), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_cross_entropy_is_what_in_its_equation(batch: tuple[Any, Any, Any], smoothing: float) -> None:
    logits, _, labels = batch
    compare_logits(
        lambda at: cross_entropy(at, torch.tensor(labels), smoothing),
        lambda at: slow.cross_entropy(at, labels, smoothing),
        logits,
    )


@settings(deadline=None)
@given(batches(), st.sampled_from([1.0, 4.0, 10.0]))
def test_the_logit_loss_is_what_in_its_equation(batch: tuple[Any, Any, Any], temperature: float) -> None:
    student, teacher, _ = batch
    compare_logits(
        lambda at: logit_loss(at, torch.tensor(teacher), temperature),
        lambda at: slow.logit(at, teacher, temperature),
        student,
    )


@settings(deadline=None)
@given(batches(classes=3), st.sampled_from([1.0, 4.0, 10.0]), st.floats(0, 2), st.floats(0, 8))
def test_decoupled_distillation_is_what_in_its_equation(
    batch: tuple[Any, Any, Any], temperature: float, target: float, others: float
) -> None:
    student, teacher, labels = batch
    compare_logits(
        lambda at: decoupled_loss(at, torch.tensor(teacher), torch.tensor(labels), temperature, target, others),
        lambda at: slow.dkd(at, teacher, labels, temperature, target, others),
        student,
    )


# Features


@pytest.mark.parametrize("seed", range(3))
def test_the_attention_loss_is_what_in_its_equation(seed: int) -> None:
    student, teacher = tensors(seed, (2, 3, 3, 2), (2, 2, 3, 2))
    compare(lambda at: attention_loss(at, teacher), lambda at: slow.attention(at, teacher.tolist()), student)


@pytest.mark.parametrize("seed", range(3))
def test_the_factor_loss_is_what_in_its_equation(seed: int) -> None:
    student, teacher = tensors(seed, (3, 2, 2, 3), (3, 2, 2, 3))
    compare(lambda at: factor_loss(at, teacher), lambda at: slow.factor(at, teacher.tolist()), student)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_factors_reduced_to_a_map_is_what_in_its_equation(seed: int) -> None:
    student, teacher = tensors(seed, (3, 2, 2, 3), (3, 2, 2, 3))
    compare(lambda at: factor_loss(at, teacher, "map"), lambda at: slow.factor_map(at, teacher.tolist()), student)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(2, 3), (4, 5)], ids=["few pixels", "many pixels"])
def test_neuron_selectivity_is_what_in_its_equation(size: tuple[int, int], seed: int) -> None:
    student, teacher = tensors(seed, (2, 3, *size), (2, 4, *size))
    compare(lambda at: selectivity_loss(at, teacher), lambda at: slow.nst(at, teacher.tolist()), student)


@pytest.mark.parametrize("seed", range(3))
def test_the_similarity_loss_is_what_in_its_equation(seed: int) -> None:
    student, teacher = tensors(seed, (4, 2, 2, 1), (4, 3, 1, 2))
    compare(lambda at: similarity_loss(at, teacher), lambda at: slow.sp(at, teacher.tolist()), student)


@pytest.mark.parametrize("angle_weight", [0.0, 2.0])
@pytest.mark.parametrize(("seed", "size"), [(0, 3), (1, 4), (2, 5)])
def test_the_relational_loss_is_what_in_its_equation(seed: int, size: int, angle_weight: float) -> None:
    student, teacher = tensors(seed, (size, 3), (size, 2))
    student[0] *= 10  # so that distances differ by more than 1, where smooth L1 is linear
    compare(
        lambda at: relational_loss(at, teacher, angle_weight),
        lambda at: slow.rkd(at, teacher.tolist(), angle_weight),
        student,
    )


@pytest.mark.parametrize(("seed", "size"), [(0, 3), (1, 4), (2, 5)])
def test_weights_turn_the_relational_loss_into_means_over_all_pairs_and_triplets(seed: int, size: int) -> None:
    student, teacher = tensors(seed, (size, 3), (size, 2))
    weight, angle_weight = 25 * (size - 1) / size, 2 * (size - 2) / size
    compare(
        lambda at: weight * relational_loss(at, teacher, angle_weight),
        lambda at: slow.rkd_over_all(at, teacher.tolist(), 25, 50),
        student,
    )


@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_samples_at_one_place_have_the_relational_loss_of_its_equation(whose: str) -> None:
    student, teacher = tensors(0, (5, 3), (5, 3))
    for name, embeddings in (("student", student), ("teacher", teacher)):
        if whose in (name, "both"):
            embeddings[3] = embeddings[1]
    agree(relational_loss(student, teacher, 2.0), slow.rkd(student.tolist(), teacher.tolist(), 2.0), 1e-4)


# Methods as a whole, with their connectors


def shapes(student: tuple[int, int, int], teacher: tuple[int, int, int], size: int) -> Shapes:
    """With these channels in stages 1 to 3."""
    both = [
        {f"stage{n + 1}": (channels[n], size // 2**n, size // 2**n) for n in range(3)}
        for channels in (student, teacher)
    ]
    return Shapes((3, size, size), 10, both[0], both[1])


def features(**known: Tensor) -> Features:
    """Without what the method does not use."""
    return Features(**{name: known.get(name, torch.empty(0)) for name in Features._fields})


def kernels(layers: nn.Module) -> list[Any]:
    return [layer.weight.tolist() for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def slow_layers(batch: Any, weights: list[Any], leak: float) -> Any:
    for kernel in weights:
        batch = slow.rectify(slow.normalise(slow.convolve(batch, kernel)), leak)
    return batch


def test_attention_and_neuron_selectivity_are_sums_over_three_stages() -> None:
    names = ("stage1", "stage2", "stage3")
    maps = [tensors(seed, (2, 3, 4, 4), (2, 3, 2, 2), (2, 3, 2, 1)) for seed in range(2)]
    student, teacher = (features(**dict(zip(names, one, strict=True))) for one in maps)
    options, known = Options("ResNet8", nst_stages="all"), shapes((3, 3, 3), (3, 3, 3), 32)
    for method, loss in ((AttentionTransfer, slow.attention), (NeuronSelectivity, slow.nst)):
        expected = sum(loss(s.tolist(), t.tolist()) for s, t in zip(*maps, strict=True))
        agree(method(options, known).distance(student, teacher, torch.zeros(2)), expected, 1e-4)


def test_neuron_selectivity_is_for_stage_3_unless_all_stages_are_chosen() -> None:
    student, teacher = tensors(0, (2, 3, 2, 1), (2, 3, 2, 1))
    method = NeuronSelectivity(Options("ResNet8"), shapes((3, 3, 3), (3, 3, 3), 8))
    found = method.distance(features(stage3=student), features(stage3=teacher), torch.zeros(2))
    assert torch.equal(found, selectivity_loss(student, teacher))


@pytest.mark.parametrize("seed", range(2))
def test_fitnets_regress_the_hint_by_pooling_convolution_normalisation_and_relu(seed: int) -> None:
    torch.manual_seed(seed)
    method = FitNets(Options("ResNet8"), shapes((2, 4, 8), (2, 3, 8), 4)).train()
    student, teacher = tensors(seed, (3, 2, 4, 4), (3, 3, 2, 2))
    weights = kernels(method.regressor)
    compare(
        lambda at: method.distance(features(stage1=at), features(stage2=teacher), torch.zeros(3)),
        lambda at: slow.squared_difference(slow_layers(slow.pool(at, 2), weights, 0.0), teacher.tolist()),
        student,
    )


def test_fitnets_regress_the_hint_from_stage_2_without_pooling() -> None:
    torch.manual_seed(0)
    method = FitNets(Options("ResNet8", hint_stage=2), shapes((2, 4, 8), (2, 3, 8), 4)).train()
    student, teacher = tensors(0, (3, 4, 2, 2), (3, 3, 2, 2))
    weights = kernels(method.regressor)
    compare(
        lambda at: method.distance(features(stage2=at), features(stage2=teacher), torch.zeros(3)),
        lambda at: slow.squared_difference(slow_layers(at, weights, 0.0), teacher.tolist()),
        student,
    )


@pytest.mark.parametrize("seed", range(2))
def test_factor_transfer_compares_the_translators_factor_with_the_paraphrasers(seed: int) -> None:
    torch.manual_seed(seed)
    method = FactorTransfer(Options("ResNet8"), shapes((2, 2, 2), (2, 2, 4), 8)).train()
    student, teacher = tensors(seed, (3, 2, 2, 2), (3, 4, 2, 2))
    factor: Any = teacher.tolist()
    layers: list[Any] = list(method.paraphraser.encoder)
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        moments = list(zip(norm.running_mean.tolist(), norm.running_var.tolist(), strict=True))
        factor = slow.rectify(slow.normalise(slow.convolve(factor, conv.weight.tolist()), moments), 0.1)
    weights = kernels(method.translator)
    compare(
        lambda at: method.distance(features(stage3=at), features(stage3=teacher), torch.zeros(3)),
        lambda at: slow.factor(slow_layers(at, weights, 0.1), factor),
        student,
    )


@pytest.mark.parametrize("kind", ["l1", "mse"])
def test_the_paraphraser_learns_to_paint_the_teachers_map(kind: str) -> None:
    torch.manual_seed(0)
    method = FactorTransfer(Options("ResNet8", reconstruction=kind), shapes((2, 2, 2), (2, 2, 2), 8)).train()
    (teacher,) = tensors(0, (3, 2, 2, 2))
    weights = kernels(method.paraphraser)
    measure = slow.absolute_difference if kind == "l1" else slow.squared_difference
    loss = method.preparation_loss(None, features(stage3=teacher))
    loss.backward()  # type: ignore[no-untyped-call]
    target = teacher.tolist()
    agree(loss, measure(slow_layers(target, weights, 0.1), target), 1e-4)
    first = method.paraphraser.encoder[0].weight.grad
    assert isinstance(first, Tensor)
    agree(first, slow.gradient(lambda: measure(slow_layers(target, weights, 0.1), target), weights[0]), 1e-3)


def test_a_paraphraser_without_normalisation_adds_a_bias_instead() -> None:
    torch.manual_seed(0)
    options = Options("ResNet8", paraphraser_norm=False, reconstruction="mse")
    method = FactorTransfer(options, shapes((2, 2, 2), (2, 2, 2), 8)).train()
    (teacher,) = tensors(0, (3, 2, 2, 2))
    target = teacher.tolist()
    layers = [part for part in method.paraphraser.modules() if isinstance(part, nn.Conv2d) and part.bias is not None]
    weights, biases = ([getattr(layer, name).tolist() for layer in layers] for name in ("weight", "bias"))

    def expected() -> float:
        picture = target
        for kernel, bias in zip(weights, biases, strict=True):
            picture = slow.rectify(slow.convolve(picture, kernel, bias), 0.1)
        return slow.squared_difference(picture, target)

    assert len(layers) == 6
    loss = method.preparation_loss(None, features(stage3=teacher))
    loss.backward()  # type: ignore[no-untyped-call]
    agree(loss, expected(), 1e-4)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        assert isinstance(layer.weight.grad, Tensor) and layer.bias is not None and layer.bias.grad is not None
        agree(layer.weight.grad, slow.gradient(expected, weight), 1e-3)
        agree(layer.bias.grad, slow.gradient(expected, bias), 1e-3)

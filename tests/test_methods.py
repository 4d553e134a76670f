"""The ways of distilling: what leaves them unchanged, half precision, paths of gradients, options, sizes, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from roundhouse.training import StudyError
from studies.distillation.losses import cross_entropy, unit
from studies.distillation.methods import METHODS, Method, Shapes, method_named
from studies.distillation.methods.base import Stage
from studies.distillation.methods.factor_transfer import FactorTransfer, factor_loss
from studies.distillation.methods.fitnets import FitNets, hint_loss
from studies.distillation.methods.nst import selectivity_loss
from studies.distillation.methods.rkd import RelationalKnowledge, relational_loss
from studies.distillation.methods.sp import similarity_loss
from studies.distillation.models import Features, build_model
from studies.distillation.options import DISTILLING, Options

CPU = torch.device("cpu")
ALL = sorted(METHODS)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ALL},
    "nst, all stages": ("nst", {"nst_stages": "all"}),
    "fitnets, stage 2": ("fitnets", {"hint_stage": 2}),
    "factor transfer, map": ("factor_transfer", {"factor": "map", "paraphraser_norm": False}),
}
"""Each method, and the forms that options give it: the method's name and the options."""
CLASSES = 5


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def shapes_of(size: int) -> dict[str, tuple[int, ...]]:
    """Of a network's features for an image of size x size."""
    stages = {f"stage{n + 1}": (16 * 2**n, size // 2**n, size // 2**n) for n in range(3)}
    return {"logits": (CLASSES,), **stages, "pooled": (64,)}


def make(form: str, size: int = 8, **options: Any) -> Method:
    """In training mode, with connectors that are always the same."""
    name, own = FORMS[form]
    options = {**own, **options}
    torch.manual_seed(0)
    shapes = Shapes((3, size, size), CLASSES, shapes_of(size), shapes_of(size))
    return METHODS[name](Options("ResNet8", method=name, **options), shapes).train()


def features(seed: int, batch: int = 6, size: int = 8) -> Features:
    """As of a network: maps are not below 0, pooled features are the means of the last ones."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes_of(size).items()}
    maps = {name: found[name].relu() for name in ("stage1", "stage2", "stage3")}
    return Features(**{**found, **maps, "pooled": maps["stage3"].mean((2, 3))})


def labels(batch: int = 6) -> Tensor:
    return torch.arange(batch) % CLASSES


def distance(name: str, student: Features, teacher: Features, **options: Any) -> Tensor:
    """With a fresh method."""
    return make(name, **options).distance(student, teacher, labels(len(student.logits)))


def with_gradient(given: Features) -> Features:
    return Features(*(one.detach().clone().requires_grad_() for one in given))


# Names


def test_there_is_a_method_for_every_name_that_options_know() -> None:
    assert tuple(METHODS) == DISTILLING
    assert [method_named(name) for name in DISTILLING] == list(METHODS.values())


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="unknown method 'atention_transfer': did you mean 'attention_transfer'"):
        method_named("atention_transfer")


def test_weights_for_images_of_32x32_are_the_published_ones() -> None:
    published = {"logit": 1, "fitnets": 100, "attention_transfer": 1000, "factor_transfer": 500, "rkd": 25, "nst": 50,
                 "sp": 3000, "dkd": 1}  # fmt: skip
    for name, weight in published.items():
        assert make(name, size=32).weight == weight


# What leaves a distance unchanged


@pytest.mark.parametrize("name", ["nst, all stages", *sorted(set(ALL) - {"fitnets", "factor_transfer"})])
def test_a_student_like_its_teacher_is_at_distance_0(name: str) -> None:
    assert distance(name, features(0), features(0)) == 0


def test_equal_maps_of_many_pixels_are_at_distance_0_up_to_rounding() -> None:
    maps = features(0, size=32).stage1
    assert float(selectivity_loss(maps, maps)) == pytest.approx(0, abs=1e-6)


def test_a_student_whose_regressor_meets_the_hint_is_at_distance_0() -> None:
    method, student = make("fitnets"), features(0)
    assert isinstance(method, FitNets)
    hint = method.regressor(student.stage1).detach()
    assert method.distance(student, features(1)._replace(stage2=hint), labels()) == 0


def test_a_student_whose_translator_is_the_paraphraser_is_at_distance_0_from_an_equal_teacher() -> None:
    method = make("factor_transfer")
    assert isinstance(method, FactorTransfer)
    method.translator.load_state_dict(method.paraphraser.encoder.state_dict())
    assert method.eval().distance(features(0), features(0), labels()) == 0


@pytest.mark.parametrize("name", FORMS)
def test_different_networks_are_at_a_distance_above_0(name: str) -> None:
    for seed in range(5):
        assert distance(name, features(seed), features(seed + 10)) > 1e-6


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e3])
def test_relations_of_samples_do_not_change_when_embeddings_are_scaled_moved_and_turned(factor: float) -> None:
    student, teacher = features(0).pooled, features(1).pooled
    turn, _ = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(2)))
    moved = factor * (student @ turn + 1.0)
    torch.testing.assert_close(relational_loss(moved, teacher, 2.0), relational_loss(student, teacher, 2.0))
    stretched = student * torch.linspace(0.1, 10, 64)
    assert not torch.isclose(relational_loss(stretched, teacher, 2.0), relational_loss(student, teacher, 2.0))


@pytest.mark.parametrize("name", ["attention_transfer", "sp", "nst"])
def test_the_order_of_channels_does_not_matter_where_it_means_nothing(name: str) -> None:
    student, teacher = features(0), features(1)
    generator = torch.Generator().manual_seed(2)
    mixed = {
        stage: getattr(student, stage)[:, torch.randperm(shape[0], generator=generator)]
        for stage, shape in shapes_of(8).items()
        if stage.startswith("stage")
    }
    expected = distance(name, student, teacher)
    torch.testing.assert_close(distance(name, student._replace(**mixed), teacher), expected)
    torch.testing.assert_close(distance(name, student, teacher._replace(**mixed)), distance(name, student, student))
    other_way_up = student._replace(**{stage: getattr(student, stage).flip(2) for stage in mixed})
    assert torch.isclose(distance(name, other_way_up, teacher), expected) == (name == "sp")


@pytest.mark.parametrize("name", ALL)
def test_labels_matter_to_dkd_only(name: str) -> None:
    first, second = (make(name).distance(features(0), features(1), one) for one in (labels(), labels().flip(0)))
    assert torch.equal(first, second) == (name != "dkd")


# Half precision, and batches that hold a sample twice


def both_networks(images: Tensor, dtype: torch.dtype) -> tuple[torch.nn.Module, Features, Features]:
    """(student, its features, its teacher's), computed under autocast."""
    torch.manual_seed(0)
    student, teacher = build_model("ResNet8", CLASSES, 3, CPU), build_model("ResNet14", CLASSES, 3, CPU).eval()
    with torch.autocast("cpu", dtype=dtype):
        with torch.no_grad():
            led = teacher(images)
        return student, student(images), led


def assert_finite(value: Tensor, gradients: list[Tensor | None]) -> None:
    assert value.dtype == torch.float32
    assert value.isfinite()
    known = [one for one in gradients if one is not None]
    assert known
    assert all(one.isfinite().all() for one in known)


@pytest.mark.parametrize("batch", ["distinct", "duplicates", "all equal", "black"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_and_gradients_of_networks_in_half_precision_are_finite(dtype: torch.dtype, batch: str) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    if batch == "duplicates":
        images[3:] = images[:3]
    if batch == "all equal":
        images[:] = images[0]
    if batch == "black":
        images.zero_()
    for name in FORMS:
        method = make(name)
        student, follows, leads = both_networks(images, dtype)
        loss = method.distance(follows, leads, labels())
        loss.backward()  # type: ignore[no-untyped-call]
        assert_finite(loss, [one.grad for one in [*student.parameters(), *method.parameters()]])


BATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda one: one,
    "duplicates": lambda one: torch.cat([one[:3], one[:3]]),
    "all equal": lambda one: one[:1].expand_as(one),
    "zero": torch.zeros_like,
    "large": lambda one: one * 1e4,
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_distances_and_gradients_of_any_features_are_finite(name: str, dtype: torch.dtype, batch: str) -> None:
    student, teacher = (Features(*(BATCHES[batch](one).to(dtype) for one in features(seed))) for seed in (0, 1))
    student = with_gradient(student)
    loss = distance(name, student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_finite(loss, [one.grad for one in student])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_neuron_selectivity_of_maps_of_many_pixels_is_finite(dtype: torch.dtype, batch: str) -> None:
    student, teacher = (BATCHES[batch](features(seed, size=16).stage1).to(dtype) for seed in (0, 1))
    student = student.detach().clone().requires_grad_()
    loss = selectivity_loss(student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_finite(loss, [student.grad])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_features_in_half_precision_are_at_the_distance_of_the_same_numbers_in_float32(
    name: str, dtype: torch.dtype
) -> None:
    halves = [Features(*(one.to(dtype) for one in features(seed))) for seed in (0, 1)]
    singles = [Features(*(one.float() for one in each)) for each in halves]
    assert torch.equal(distance(name, *halves), distance(name, *singles))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_connectors_make_is_compared_in_float32(dtype: torch.dtype) -> None:
    one, other = features(0).stage3.to(dtype), features(1).stage3.to(dtype)
    for loss in (factor_loss, hint_loss):
        assert torch.equal(loss(one, other), loss(one.float(), other.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["fitnets", "factor_transfer"])
def test_the_loss_of_a_stage_before_is_finite_and_in_float32_under_autocast(name: str, dtype: torch.dtype) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    method = make(name, hint_epochs=1)
    _, student, teacher = both_networks(images, dtype)
    with torch.autocast("cpu", dtype=dtype):
        loss = method.preparation_loss(student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_finite(loss, [one.grad for one in method.parameters()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_half_precision_logits_is_computed_in_float32_and_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[6e4, -6e4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert_finite(loss, [logits.grad])


def test_relations_under_autocast_are_those_in_float32() -> None:
    student, teacher = features(0).pooled, features(1).pooled
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = relational_loss(student, teacher, 2.0)
    assert torch.equal(inside, relational_loss(student, teacher, 2.0))


def test_a_vector_without_length_stays_0_and_gets_no_gradient() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3e-8, 4e-8]], requires_grad=True)
    scaled = unit(vectors, 1)
    scaled[:2, 0].sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scaled, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.0, 0.0], [0.128, -0.096], [0.0, 0.0]]))


@pytest.mark.parametrize("name", FORMS)
def test_no_method_looks_at_a_value_while_it_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device tensors have shapes and no values, so code that needs one fails, as in a CUDA graph."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: nullcontext())  # it does not know that device
    student, teacher = (Features(*(one.to("meta") for one in features(seed))) for seed in (0, 1))
    student = with_gradient(student)
    loss = make(name).to("meta").distance(student, teacher, labels().to("meta"))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.is_meta


# Whom gradients reach

LOOKED_AT = {
    "logit": {"logits"}, "dkd": {"logits"}, "rkd": {"pooled"}, "fitnets": {"stage1"},
    "attention_transfer": {"stage1", "stage2", "stage3"},
    "factor_transfer": {"stage3"}, "nst": {"stage3"}, "sp": {"stage3"},
    "nst, all stages": {"stage1", "stage2", "stage3"}, "fitnets, stage 2": {"stage2"},
    "factor transfer, map": {"stage3"},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_the_gradient_reaches_the_student_and_not_the_teacher(name: str) -> None:
    student, teacher = with_gradient(features(0)), with_gradient(features(1))
    distance(name, student, teacher).backward()  # type: ignore[no-untyped-call]
    assert {field for field in Features._fields if getattr(student, field).grad is not None} == LOOKED_AT[name]
    for field in LOOKED_AT[name]:
        assert getattr(student, field).grad.abs().max() > 1e-6
    assert [one.grad for one in teacher] == [None] * len(teacher)


@pytest.mark.parametrize("name", FORMS)
def test_following_the_gradient_lessens_the_distance(name: str) -> None:
    student, teacher, method = with_gradient(features(0)), features(1), make(name)
    before = method.distance(student, teacher, labels())
    before.backward()  # type: ignore[no-untyped-call]
    total = sum(one.grad.square().sum() for one in student if one.grad is not None)
    step = 1e-4 * float(before.detach() / total)
    moved = Features(*(one.detach() if one.grad is None else one.detach() - step * one.grad for one in student))
    assert method.distance(moved, teacher, labels()) < before


@pytest.mark.parametrize("name", sorted(set(ALL) - {"fitnets", "factor_transfer"}))
def test_methods_without_connectors_train_nothing_of_their_own(name: str) -> None:
    method = make(name)
    assert list(method.trained("train")) == []
    assert method.state_dict() == {}
    assert method.preparation(method.options) is None
    assert not method.prepares_student(method.options)


def step_of(method: Method, stage: str, loss: Tensor) -> None:
    optimizer = torch.optim.SGD(method.trained(stage), lr=0.1, weight_decay=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    method.zero_grad()


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Factor transfer


@pytest.mark.parametrize("norm", [True, False])
def test_the_paraphraser_is_trained_in_its_stage_and_the_translator_is_not(norm: bool) -> None:
    method = make("factor_transfer", paraphraser_epochs=7, paraphraser_norm=norm)
    assert isinstance(method, FactorTransfer)
    assert method.preparation(method.options) == Stage("paraphraser", 7)
    assert not method.prepares_student(method.options)
    assert list(method.trained("paraphraser")) == list(method.paraphraser.parameters())
    assert list(method.trained("train")) == list(method.translator.parameters())
    paraphraser, translator = state_of(method.paraphraser), state_of(method.translator)
    losses = []
    for _ in range(10):
        loss = method.preparation_loss(None, features(0))
        losses.append(float(loss.detach()))
        step_of(method, "paraphraser", loss)
    assert losses[-1] < (0.9 if norm else 1) * losses[0]
    changed = state_of(method.paraphraser)
    assert not any(torch.equal(paraphraser[key], changed[key]) for key in paraphraser)
    assert equal(translator, state_of(method.translator))


def test_looking_at_the_paraphrasers_loss_in_eval_mode_changes_nothing() -> None:
    method = make("factor_transfer").eval()
    before = state_of(method)
    method.preparation_loss(None, features(0))
    assert equal(before, state_of(method))


def test_the_paraphraser_is_frozen_to_the_last_bit_while_the_student_trains() -> None:
    method = make("factor_transfer")
    assert isinstance(method, FactorTransfer)
    for seed in range(3):
        step_of(method, "paraphraser", method.preparation_loss(None, features(seed)))
    paraphraser, translator = state_of(method.paraphraser), state_of(method.translator)
    assert not any(part.training for part in method.paraphraser.modules())
    for seed in range(3):
        for mode in (False, True):
            method.train(mode)
            assert not any(part.training for part in method.paraphraser.modules())
        step_of(method, "train", method.distance(features(seed), features(seed + 10), labels()))
    assert equal(paraphraser, state_of(method.paraphraser))
    changed = state_of(method.translator)
    assert not any(torch.equal(translator[key], changed[key]) for key in translator)
    assert all(one.grad is None for one in method.paraphraser.parameters())


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 32), (0.75, 48), (1.0, 64), (0.001, 1)])
def test_the_factor_has_a_share_of_the_teachers_channels(rate: float, factors: int) -> None:
    method = make("factor_transfer", factor_rate=rate)
    assert isinstance(method, FactorTransfer)
    teacher = features(0).stage3
    assert method.paraphraser.encoder(teacher).shape == (6, factors, 2, 2)
    assert method.paraphraser(teacher).shape == teacher.shape
    assert method.translator(teacher).shape == (6, factors, 2, 2)


def test_a_paraphraser_without_normalisation_has_biases_and_the_translator_keeps_its_own() -> None:
    method = make("factor transfer, map")
    assert isinstance(method, FactorTransfer)
    kinds = [[type(part).__name__ for part in layers] for layers in (method.paraphraser.encoder, method.translator)]
    assert kinds == [["Conv2d", "LeakyReLU"] * 3, ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3]
    convolutions = [part for part in method.paraphraser.modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) == 6 and all(part.bias is not None for part in convolutions)


# FitNets


def test_fitnets_in_one_stage_have_no_other_and_train_their_regressor_with_the_student() -> None:
    method = make("fitnets")
    assert method.preparation(method.options) is None
    assert not method.prepares_student(method.options)
    assert list(method.trained("train")) == list(method.parameters()) != []


def test_fitnets_in_two_stages_follow_the_hint_and_then_the_logits() -> None:
    method, student, teacher = make("fitnets", hint_epochs=3), with_gradient(features(0)), features(1)
    assert method.preparation(method.options) == Stage("hint", 3)
    assert method.prepares_student(method.options)
    assert list(method.trained("hint")) == list(method.parameters()) != []
    assert list(method.trained("train")) == []
    assert method.weight == 1
    hint = method.preparation_loss(student, teacher)
    assert torch.equal(hint, distance("fitnets", features(0), teacher))
    hint.backward()  # type: ignore[no-untyped-call]
    assert student.stage1.grad is not None
    assert student.stage1.grad.abs().max() > 0
    assert torch.equal(method.distance(student, teacher, labels()), distance("logit", features(0), teacher))


# Options


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("logit", "temperature", 2.0),
        ("dkd", "temperature", 2.0),
        ("dkd", "target_weight", 2.0),
        ("dkd", "others_weight", 2.0),
        ("rkd", "angle_weight", 1.0),
        ("factor_transfer", "factor_rate", 0.25),
        ("fitnets", "hint_epochs", 2),
    ],
)
def test_every_option_of_a_method_changes_its_distance(name: str, option: str, value: float) -> None:
    student, teacher = features(0), features(1)
    usual, other = distance(name, student, teacher), distance(name, student, teacher, **{option: value})
    assert not torch.isclose(usual, other)


def test_the_temperature_changes_the_second_stage_of_fitnets() -> None:
    warm, cold = (distance("fitnets", features(0), features(1), hint_epochs=1, temperature=t) for t in (4.0, 1.0))
    assert not torch.isclose(warm, cold)


def test_the_kind_of_reconstruction_changes_the_paraphrasers_loss() -> None:
    one, other = (
        make("factor_transfer", reconstruction=kind).preparation_loss(None, features(0)) for kind in ("l1", "mse")
    )
    assert not torch.isclose(one, other)


def test_the_distance_of_dkd_comes_in_over_its_warm_up() -> None:
    assert [make("dkd", warm_up=4).ramp(epoch) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert make("dkd").ramp(0) == 1 / 20
    assert {make(name).ramp(0) for name in ALL if name != "dkd"} == {1.0}


@pytest.mark.parametrize("name", ALL)
def test_a_weight_in_the_options_takes_the_place_of_the_published_one(name: str) -> None:
    published, none = make(name), make(name, weight=0.0)
    chosen = make(name, weight=2 * make(name, size=32).weight)
    assert chosen.weight == pytest.approx(2 * published.weight)
    assert none.weight == 0


@pytest.mark.parametrize(
    ("name", "changed", "complaint"),
    [
        ("attention_transfer", {"stage2": (32, 8, 8)}, "stage2 are 4x4 in the student and 8x8 in the teacher"),
        ("factor_transfer", {"stage3": (64, 4, 2)}, "stage3 are 2x2 in the student and 4x2 in the teacher"),
        ("nst", {"stage3": (64, 1, 1)}, "stage3 are 2x2 in the student and 1x1 in the teacher"),
        ("nst, all stages", {"stage1": (16, 4, 4)}, "stage1 are 8x8 in the student and 4x4 in the teacher"),
        ("fitnets, stage 2", {"stage2": (32, 3, 3)}, "student's stage 2, 4x4, by a whole factor to .* stage 2, 3x3"),
        ("fitnets", {"stage2": (32, 3, 3)}, "8x8, by a whole factor to the teacher's stage 2, 3x3"),
        ("fitnets", {"stage2": (32, 16, 16)}, "8x8, by a whole factor to the teacher's stage 2, 16x16"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(name: str, changed: dict[str, Any], complaint: str) -> None:
    method, options = FORMS[name]
    shapes = Shapes((3, 8, 8), CLASSES, shapes_of(8), {**shapes_of(8), **changed})
    with pytest.raises(StudyError, match=complaint):
        METHODS[method](Options("ResNet8", method=method, **options), shapes)


def test_dkd_is_refused_for_two_classes() -> None:
    shapes = Shapes((3, 8, 8), 2, shapes_of(8), shapes_of(8))
    with pytest.raises(StudyError, match="there are 2 classes"):
        METHODS["dkd"](Options("ResNet8", method="dkd"), shapes)


def test_rkd_is_refused_for_batches_too_small_for_an_angle() -> None:
    for options in ({"batch_size": 2}, {"batch_size": 8, "accumulation": 4}):
        with pytest.raises(StudyError, match="needs 3 samples.* has 2"):
            make("rkd", **options)
    method = make("rkd", batch_size=8, accumulation="auto")
    with pytest.raises(StudyError, match="needs 3 samples.* has 2"):
        method.distance(features(0, batch=2), features(1, batch=2), labels(2))


# Sizes: a term must not shrink because images or batches grow


@pytest.mark.parametrize("name", ["attention_transfer", "factor_transfer"])
def test_a_term_has_at_64x64_the_size_that_it_has_at_32x32(name: str) -> None:
    terms = []
    for size in (32, 64):
        method = make(name, size=size)
        found = method.distance(features(0, 4, size), features(1, 4, size), labels(4))
        terms.append(method.weight * float(found.detach()))
    assert terms[1] == pytest.approx(terms[0], rel=0.05)


def test_the_factors_for_the_images_size_are_known() -> None:
    assert [make("attention_transfer", size=size).size_factor for size in (8, 32, 64)] == [1 / 16, 1, 4]
    assert [make("factor_transfer", size=size).size_factor for size in (8, 32, 64)] == [1 / 4, 1, 2]
    assert {make(name, size=64).size_factor for name in set(ALL) - {"attention_transfer", "factor_transfer"}} == {1}


@pytest.mark.parametrize("name", ["sp", "rkd", "nst", "logit", "dkd"])
def test_a_distance_has_the_same_size_for_batches_of_any_size(name: str) -> None:
    small, large = (float(distance(name, features(0, size), features(1, size))) for size in (32, 128))
    assert large == pytest.approx(small, rel=0.25)


def test_the_similarity_loss_is_as_published_at_a_batch_of_64() -> None:
    student, teacher = features(0, 64), features(1, 64)
    assert torch.equal(distance("sp", student, teacher), similarity_loss(student.stage3, teacher.stage3))


# Memory


def most_allocated(method: Method, batch: int) -> int:
    """Bytes at the peak of the distance's forward and backward pass, by PyTorch's own account of its allocator."""
    student, teacher = with_gradient(features(0, batch)), features(1, batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        method.distance(student, teacher, labels(batch)).backward()  # type: ignore[no-untyped-call]
    assert profiler.profiler is not None
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("batch", [16, 64, 128])
def test_the_memory_that_rkd_requests_is_enough_and_not_far_too_much(batch: int) -> None:
    method = make("rkd")
    assert isinstance(method, RelationalKnowledge)
    used = most_allocated(method, batch)
    assert used <= method.memory(batch) <= 2 * used


def test_the_memory_that_rkd_requests_grows_with_the_cube_of_the_batch() -> None:
    method = make("rkd")
    assert method.memory(512) > 3 * 512**3 * 4
    assert 6 < method.memory(1024) / method.memory(512) < 8
    assert {make(name).memory(512) for name in ALL if name != "rkd"} == {0}

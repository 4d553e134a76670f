"""The distillation study: networks, losses against plain float64 versions, options, and what distillation changes."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roundhouse.training import Context, Stage, StudyError
from roundhouse.training.loop import Outcome, run
from roundhouse.training.precision import Precision
from roundhouse.training.settings import Settings
from studies.distillation import build, data
from studies.distillation.data import Dataset, Split, load, shift, split
from studies.distillation.losses import cross_entropy, logit_loss
from studies.distillation.models import BLOCKS, build_model

CPU = torch.device("cpu")
ALL_DIGITS = load("digits", None, CPU)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Training on 256 digits."""
    few = replace(ALL_DIGITS, train=Split(ALL_DIGITS.train.images[:256], ALL_DIGITS.train.labels[:256]))
    monkeypatch.setitem(data.LOADERS, "digits", lambda directory, device: few)
    return few


def train(directory: Path, teacher: Path | None = None, seed: int = 0, **config: Any) -> Outcome:
    directory.mkdir(parents=True, exist_ok=True)
    config = {"model": "ResNet8", "epochs": 2, "batch_size": 64, **config}
    task = build(config, {"teacher": [teacher]} if teacher else {}, CPU, None)
    return run(task, Settings(seed=seed, device="cpu"), directory, [], lambda progress: None, lambda: None)


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
    features = build_model("ResNet8", 7, 3, CPU)(torch.randn(2, 3, size, size))
    assert [tuple(one.shape) for one in features] == [
        (2, 7), (2, 16, size, size), (2, 32, size // 2, size // 2), (2, 64, size // 4, size // 4), (2, 64),
    ]  # fmt: skip


def test_a_wrong_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="unknown model 'Resnet20': did you mean 'ResNet20'"):
        build_model("Resnet20", 10, 1, CPU)


# Losses, against versions in float64 with plain loops


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(one - top) for one in row]
    return [one / sum(powers) for one in powers]


def slow_logit_loss(
    student: list[list[float]], teacher: list[list[float]], temperature: float
) -> tuple[float, list[list[float]]]:
    """The loss and its gradient by the student's logits, from the definition of KL and the derivative of softmax."""
    total, gradient = 0.0, []
    for s_row, t_row in zip(student, teacher, strict=True):
        p = softmax([one / temperature for one in t_row])
        q = softmax([one / temperature for one in s_row])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        gradient.append([temperature * (b - a) / len(student) for a, b in zip(p, q, strict=True)])
    return temperature**2 * total / len(student), gradient


def slow_cross_entropy(
    logits: list[list[float]], labels: list[int], smoothing: float
) -> tuple[float, list[list[float]]]:
    total, gradient = 0.0, []
    for row, label in zip(logits, labels, strict=True):
        q = softmax(row)
        p = [smoothing / len(row) + (1 - smoothing) * (index == label) for index in range(len(row))]
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        gradient.append([(b - a) / len(logits) for a, b in zip(p, q, strict=True)])
    return total / len(logits), gradient


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], list[int]]:
    size, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    logits = st.lists(
        st.lists(st.floats(-20, 20, width=32), min_size=classes, max_size=classes), min_size=size, max_size=size
    )
    return draw(logits), draw(logits), draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size))


def close(value: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(
        value.detach().double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5
    )


@settings(deadline=None)
@given(batches(), st.sampled_from([1.0, 4.0, 10.0]))
def test_the_logit_loss_is_what_its_equation_says(batch: tuple[Any, Any, Any], temperature: float) -> None:
    student = torch.tensor(batch[0], requires_grad=True)
    loss = logit_loss(student, torch.tensor(batch[1]), temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    expected, gradient = slow_logit_loss(batch[0], batch[1], temperature)
    close(loss, expected)
    close(student.grad, gradient)  # type: ignore[arg-type]


@settings(deadline=None)
@given(batches(), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_cross_entropy_is_what_its_equation_says(batch: tuple[Any, Any, Any], smoothing: float) -> None:
    logits = torch.tensor(batch[0], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor(batch[2]), smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    expected, gradient = slow_cross_entropy(batch[0], batch[2], smoothing)
    close(loss, expected)
    close(logits.grad, gradient)  # type: ignore[arg-type]


@settings(deadline=None)
@given(batches())
def test_the_logit_loss_is_0_for_a_student_that_says_what_its_teacher_says(batch: tuple[Any, Any, Any]) -> None:
    same = torch.tensor(batch[0])
    assert logit_loss(same, same + 3.0, 4.0).abs() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_logits_are_computed_in_float32_and_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[6e4, -6e4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = logit_loss(student, -student.detach(), 1.0) + cross_entropy(student, torch.tensor([1, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


# Data


def test_the_splits_of_digits_are_disjoint_and_always_the_same() -> None:
    parts = [ALL_DIGITS.train, ALL_DIGITS.validation, ALL_DIGITS.test]
    assert [len(part) for part in parts] == [1200, 237, 360]
    labels = torch.cat([part.labels for part in parts]).numpy()
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "8f61c6ae4453aea8"
    whole = Split(torch.arange(100), torch.arange(100))
    assert sorted(torch.cat([part.labels for part in split("x", whole, (50, 20, 30))]).tolist()) == list(range(100))


def test_digits_hold_every_class_in_every_split() -> None:
    for part in (ALL_DIGITS.train, ALL_DIGITS.validation, ALL_DIGITS.test):
        assert torch.unique(part.labels).tolist() == list(range(10))


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    images = ALL_DIGITS.normalise(ALL_DIGITS.train.images)
    assert images.mean().abs() < 1e-5
    assert (images.std() - 1).abs() < 1e-5


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2))
def test_augmentation_only_moves_images(seed: int, most: int) -> None:
    images = ALL_DIGITS.train.images[:8]
    moved = shift(images, most, torch.Generator().manual_seed(seed))
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images, [most] * 4)
    for index in range(len(images)):
        places = [padded[index, :, y : y + 8, x : x + 8] for y in range(2 * most + 1) for x in range(2 * most + 1)]
        assert any(torch.equal(moved[index], place) for place in places)


def test_augmentation_moves_images_independently_and_each_epoch_anew(few_digits: Dataset) -> None:
    one = shift(few_digits.train.images, 1, torch.Generator().manual_seed(0))
    other = shift(few_digits.train.images, 1, torch.Generator().manual_seed(1))
    same = [torch.equal(a, b) for a, b in zip(one, other, strict=True)]
    assert 0 < sum(same) < len(same) / 2


# Configs


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model": "ResNet9"}, "unknown model 'ResNet9': did you mean 'ResNet"),
        ({"dataset": "digit"}, "unknown dataset 'digit': did you mean 'digits'"),
        ({"method": "logits"}, "unknown method 'logits': did you mean 'logit'"),
        ({"momentun": 0.9}, "unknown config key 'momentun': did you mean 'momentum'"),
        ({"lr": "1e-3"}, "write 1.0e-3"),
        ({"alpha": 1.5}, "config key 'alpha' is 1.5"),
        ({"temperature": 0}, "config key 'temperature' is 0"),
        ({"epochs": 0}, "config key 'epochs' is 0"),
        ({"batch_size": 2000}, "has 1200 training images"),
        ({"label_smoothing": 1.0}, "config key 'label_smoothing' is 1.0"),
        ({"method": "logit"}, "method 'logit' needs a teacher"),
    ],
)
def test_a_mistake_in_a_config_is_answered_before_anything_trains(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError) as error:
        build({"model": "ResNet8", **config}, {}, CPU, None).begin_stage(
            Context(Stage("train", 1), 0, 0, Precision("fp32", CPU))
        )
    assert complaint in str(error.value)


def test_a_teacher_of_another_kind_is_refused(teacher: Path) -> None:
    with pytest.raises(StudyError, match="holds .*ResNet14.* asks for .*ResNet20"):
        build({"model": "ResNet8", "method": "logit", "teacher": "ResNet20"}, {"teacher": [teacher]}, CPU, None)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_teacher_that_cannot_be_read_is_refused(teacher: Path, damage: str) -> None:
    best = teacher / "best.pth"
    if damage == "missing":
        best.unlink()
    else:
        best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(StudyError, match="best.pth"):
        build({"model": "ResNet8", "method": "logit"}, {"teacher": [teacher]}, CPU, None)


# Does it do anything?


def test_alpha_0_equals_plain_training_bit_for_bit(tmp_path: Path, teacher: Path) -> None:
    plain = train(tmp_path / "plain")
    distilled = train(tmp_path / "distilled", teacher, method="logit", alpha=0.0)
    assert distilled.final_hash == plain.final_hash
    assert distilled.metrics == plain.metrics


def test_two_equal_runs_end_equal_and_every_option_changes_the_result(tmp_path: Path, teacher: Path) -> None:
    base: dict[str, Any] = {"epochs": 1, "batch_size": 128}
    distilled = {**base, "method": "logit", "teacher": teacher}
    runs: list[dict[str, Any]] = [
        base,
        {**base, "seed": 1},
        {**base, "model": "ResNet14"},
        {**base, "batch_size": 64},
        {**base, "lr": 0.05},
        {**base, "momentum": 0.5},
        {**base, "weight_decay": 0.0},
        {**base, "label_smoothing": 0.1},
        distilled,
        {**distilled, "alpha": 0.25},
        {**distilled, "alpha": 1.0},
        {**distilled, "temperature": 2.0},
    ]
    hashes = [train(tmp_path / str(index), **config).final_hash for index, config in enumerate(runs)]
    assert len(set(hashes)) == len(runs)
    assert train(tmp_path / "again", **distilled).final_hash == hashes[runs.index(distilled)]


def test_label_smoothing_is_for_plain_training_only(tmp_path: Path, teacher: Path) -> None:
    hashes = {
        train(tmp_path / str(smoothing), teacher, method="logit", epochs=1, label_smoothing=smoothing).final_hash
        for smoothing in (0.0, 0.1)
    }
    assert len(hashes) == 1


def test_distillation_leaves_its_teacher_as_it_was(tmp_path: Path, teacher: Path) -> None:
    task = build({"model": "ResNet8", "method": "logit", "epochs": 1}, {"teacher": [teacher]}, CPU, None)
    before = {name: value.clone() for name, value in task._teacher.state_dict().items()}  # type: ignore[union-attr]
    run(task, Settings(device="cpu"), tmp_path, [], lambda progress: None, lambda: None)
    for name, value in task._teacher.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, before[name])


def test_a_network_learns_digits_and_its_outputs_agree_with_its_metrics(tmp_path: Path) -> None:
    outcome = train(tmp_path, epochs=6)
    assert outcome.metrics["test_accuracy"] > 0.8
    outputs = np.load(tmp_path / "outputs.npz")
    assert outputs["logits"].shape == (360, 10)
    assert outputs["pooled"].shape == (360, 64)
    assert outputs["logits"].dtype == outputs["pooled"].dtype == np.float16
    accuracy = (outputs["logits"].argmax(1) == outputs["labels"]).mean()
    assert accuracy == pytest.approx(outcome.metrics["test_accuracy"], abs=0.01)


def test_the_test_set_is_not_touched_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = replace(ALL_DIGITS, test=Split(ALL_DIGITS.test.images * 0, ALL_DIGITS.test.labels * 0))
    train(tmp_path / "plain", epochs=1)
    monkeypatch.setitem(data.LOADERS, "digits", lambda directory, device: poisoned)
    train(tmp_path / "poisoned", epochs=1)
    records = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "poisoned")]
    for record in records:
        del record["epochs"][0]["seconds"]
    assert records[0]["epochs"] == records[1]["epochs"]
    assert records[0]["final"] != records[1]["final"]


def test_half_precision_trains_too(tmp_path: Path, few_digits: Dataset) -> None:
    task = build({"model": "ResNet8", "epochs": 1, "batch_size": 64}, {}, CPU, None)
    outcome = run(task, Settings(device="cpu", precision="bf16"), tmp_path, [], lambda progress: None, lambda: None)
    assert outcome.finished

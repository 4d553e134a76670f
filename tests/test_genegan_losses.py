"""The losses of the GeneGAN study, against plain versions; where gradients flow; clipping; the critics' schedule."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from studies.genegan.layers import resize
from studies.genegan.losses import (
    clip_weights,
    critic_loss,
    critic_steps_at,
    critic_terms,
    frozen,
    generator_loss,
    generator_terms,
    gradient_penalty,
    mean_squares,
    over_sizes,
    step_weights,
)
from studies.genegan.networks import Critics, Exchange, Generator, exchange
from studies.genegan.options import Options

SMALL = (32, 48, 64)
FIELDS = ("real_with", "real_without", "rebuilt_with", "rebuilt_without", "added", "removed", "left_over")
few = settings(max_examples=25, deadline=None)


def options_of(**keys: Any) -> Options:
    return Options(**{"sizes": SMALL, "width": 4, **keys})


def images_of(size: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_weights_of_the_sizes_that_critics_see_add_up_to_1() -> None:
    for scale in ("equal", "square", "inverse"):
        options = options_of(outputs="multiscale", scale_weights=scale)
        assert step_weights(options, None, (64,)) == {64: 1.0}
        some, every = step_weights(options, None, (48, 64)), step_weights(options, None)
        assert sum(some.values()) == pytest.approx(1) and sum(every.values()) == pytest.approx(1)
        assert some[48] / some[64] == pytest.approx(every[48] / every[64])


def exchange_of(seed: int, size: int = 4, count: int = 3) -> Exchange:
    """Random images and features, in float64."""
    random = torch.Generator().manual_seed(seed)

    def tensor(channels: int) -> Tensor:
        return torch.rand(count, channels, size, size, generator=random, dtype=torch.float64)

    return Exchange(**{name: tensor(2 if name == "left_over" else 3) for name in FIELDS})


def score(image: Tensor, which: str) -> float:
    """The score of one image by a critic with a formula: s = a mean(x) + b mean(x^2)."""
    a, b = {"with": (3.0, -0.5), "without": (-2.0, 1.5)}[which]
    values = image.flatten().tolist()
    return a * sum(values) / len(values) + b * sum(value**2 for value in values) / len(values)


def critics_by_formula(images: Tensor, which: str) -> Tensor:
    a, b = {"with": (3.0, -0.5), "without": (-2.0, 1.5)}[which]
    return a * images.mean((1, 2, 3)) + b * images.square().mean((1, 2, 3))


def mean_over_pixels(value: Callable[..., float], *tensors: Tensor) -> float:
    """The mean of a function of the pixels of all tensors, in a loop."""
    values = [value(*pixels) for pixels in zip(*(one.flatten().tolist() for one in tensors), strict=True)]
    return math.fsum(values) / len(values)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Against plain versions


@few
@given(st.integers(0, 10_000))
def test_generator_terms_equal_loops_over_samples_and_pixels(seed: int) -> None:
    made = exchange_of(seed)
    expected = {
        "object": mean_over_pixels(abs, made.left_over),
        "reconstruction": mean_over_pixels(lambda x, y: abs(x - y), made.real_with, made.rebuilt_with)
        + mean_over_pixels(lambda x, y: abs(x - y), made.real_without, made.rebuilt_without),
        "parallelogram": mean_over_pixels(
            lambda au, b0, bu, a0: abs(au + b0 - bu - a0), made.real_with, made.real_without, made.added, made.removed
        ),
    }
    without = generator_terms(made, "wgan", None)
    assert {name: value.item() for name, value in without.items()} == pytest.approx(expected, rel=1e-12)
    added, removed = [score(one, "with") for one in made.added], [score(one, "without") for one in made.removed]
    adversarial = {
        "wgan": -sum(added) / 3 - sum(removed) / 3,
        "r1": sum(softplus(-one) for one in added) / 3 + sum(softplus(-one) for one in removed) / 3,
    }
    for objective, value in adversarial.items():
        terms = generator_terms(made, objective, critics_by_formula)
        found = {name: one.item() for name, one in terms.items()}
        assert found == pytest.approx(expected | {"adversarial": value}, rel=1e-12)


@few
@given(st.integers(0, 10_000))
def test_critic_terms_equal_loops_over_samples(seed: int) -> None:
    made = exchange_of(seed)
    wgan = r1 = penalty = 0.0
    for sample in range(3):
        for which, real, fake in (
            ("with", made.real_with[sample], made.added[sample]),
            ("without", made.real_without[sample], made.removed[sample]),
        ):
            wgan += (score(fake, which) - score(real, which)) / 3
            r1 += (softplus(score(fake, which)) + softplus(-score(real, which))) / 3
            a, b = {"with": (3.0, -0.5), "without": (-2.0, 1.5)}[which]
            pixels = real.flatten().tolist()
            penalty += sum(((a + 2 * b * value) / len(pixels)) ** 2 for value in pixels) / 3
    found = critic_terms(made, "wgan", critics_by_formula)
    assert {name: one.item() for name, one in found.items()} == pytest.approx({"critic": wgan}, rel=1e-12)
    found = critic_terms(made, "r1", critics_by_formula)
    values = {name: one.item() for name, one in found.items()}
    assert values == pytest.approx({"critic": r1, "penalty": penalty}, rel=1e-12)
    total = critic_loss({4: found}, {4: 1.0}, options_of(r1=10.0))["loss"].item()
    assert total == pytest.approx(r1 + 5 * penalty, rel=1e-12)


def test_the_penalty_of_the_networks_is_that_of_each_image_alone_and_has_gradients() -> None:
    torch.manual_seed(0)
    critics = Critics(options_of(objective="r1")).double()
    for parameter in critics.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    images = images_of(32, count=3).double().requires_grad_()
    found = gradient_penalty(critics(images, "with"), images)
    norms = []
    for image in images.detach():
        one = image[None].clone().requires_grad_()
        critics(one, "with")[0].backward()
        assert one.grad is not None
        norms.append(sum(value**2 for value in one.grad.flatten().tolist()))
    assert found.item() == pytest.approx(sum(norms) / 3, rel=1e-9)

    kernel = critics.pairs[0]["with"].stages[1].convolution.weight
    critics.zero_grad()
    found.backward()
    slope, step, place = kernel.grad[1, 2, 0, 3].item(), 1e-6, (1, 2, 0, 3)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            kernel[place] += sign * step
        ends.append(gradient_penalty(critics(images, "with"), images).item())
        with torch.no_grad():
            kernel[place] -= sign * step
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4) and slope != 0


def test_the_decay_is_over_kernels_only() -> None:
    torch.manual_seed(0)
    generator = Generator(options_of(outputs="multiscale", block_conv="object"))
    for parameter in generator.parameters():
        nn.init.normal_(parameter)
    total, counted = 0.0, 0
    for module in generator.modules():
        kernels = [module.weight] if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) else []
        kernels += list(module.values()) if isinstance(module, nn.ParameterDict) else []
        for kernel in kernels:
            if kernel.ndim >= 4:
                total += mean_over_pixels(lambda value: value**2, kernel)
                counted += 1
    assert counted == 11  # 4 of the splitter, 4 of the joiner, 2 heads, 1 of blocks
    assert mean_squares(generator).item() == pytest.approx(total, rel=1e-5)


# Several sizes


def scalars(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_the_generator_loss_averages_over_sizes_and_adds_the_decay_once() -> None:
    terms = {
        size: scalars(object=size, reconstruction=2.0 * size, parallelogram=3.0 * size, adversarial=-size)
        for size in SMALL
    }
    options = options_of(reconstruction=5.0, parallelogram=2.0, l2=0.1)
    found = generator_loss(terms, options.weights_of_sizes, torch.tensor(7.0, dtype=torch.float64), options)
    mean = (32 + 48 + 64) / 3
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {
            "object": mean, "reconstruction": 2 * mean, "parallelogram": 3 * mean, "adversarial": -mean, "decay": 7.0,
            "loss": mean + 5 * 2 * mean + 2 * 3 * mean - mean + 0.1 * 7,
        }
    )  # fmt: skip


@few
@given(
    st.sampled_from(["equal", "square", "inverse"]),
    st.dictionaries(st.sampled_from(SMALL), st.floats(-5, 5), min_size=3, max_size=3),
)
def test_one_drawn_size_gives_the_loss_of_all_sizes_on_average(kind: str, losses: dict[int, float]) -> None:
    options = options_of(scale_weights=kind)
    raw = {size: {"equal": 1, "square": size**2, "inverse": 1 / size**2}[kind] for size in SMALL}
    expected = sum(raw[size] * losses[size] for size in SMALL) / sum(raw.values())
    terms = {size: scalars(critic=losses[size]) for size in SMALL}
    assert over_sizes(terms, step_weights(options, None))["critic"].item() == pytest.approx(expected)
    alone = [over_sizes({size: terms[size]}, step_weights(options, size))["critic"].item() for size in SMALL]
    assert sum(alone) / 3 == pytest.approx(expected)


def test_a_term_of_the_largest_size_only_has_all_of_the_weight() -> None:
    terms = {32: scalars(object=1.0), 48: scalars(object=1.0), 64: scalars(object=1.0, adversarial=-4.0)}
    for kind in ("equal", "square", "inverse"):
        weights = options_of(scale_weights=kind).weights_of_sizes
        found = over_sizes(terms, weights)
        assert {name: value.item() for name, value in found.items()} == pytest.approx({"object": 1, "adversarial": -4})


# Gradients


def with_gradient(module: nn.Module) -> set[str]:
    return {name for name, one in module.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}


def networks_of(options: Options) -> tuple[Generator, Critics]:
    torch.manual_seed(0)
    networks = Generator(options), Critics(options)
    for parameter in itertools.chain(*(network.parameters() for network in networks)):
        if parameter.ndim >= 4:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    return networks


@pytest.mark.parametrize("outputs", ["each", "multiscale"])
@pytest.mark.parametrize("objective", ["wgan", "r1"])
def test_a_critic_step_gives_gradients_to_all_of_the_critics_and_to_nothing_else(objective: str, outputs: str) -> None:
    options = options_of(objective=objective, outputs=outputs, adversarial="all", norm="group")
    generator, critics = networks_of(options)
    for size in generator.sizes:
        made = exchange(generator, images_of(size), images_of(size, seed=1))
        terms = {one: critic_terms(images, objective, critics) for one, images in made.items()}
        critic_loss(terms, dict.fromkeys(made, 1 / len(made)), options)["loss"].backward()
    assert not [name for name, one in generator.named_parameters() if one.grad is not None]
    everything = {name for name, _ in critics.named_parameters()}
    cancelled = {name for name in everything if name.endswith("score.bias")} if objective == "wgan" else set()
    assert with_gradient(critics) == everything - cancelled  # a constant cancels between real and made images


@pytest.mark.parametrize("outputs", ["each", "multiscale"])
@pytest.mark.parametrize("objective", ["wgan", "r1"])
def test_a_generator_step_gives_gradients_to_all_of_the_generator_and_to_nothing_else(
    objective: str, outputs: str
) -> None:
    options = options_of(objective=objective, outputs=outputs, adversarial="all", norm="group", block_conv="both")
    generator, critics = networks_of(options)
    for size in generator.sizes:
        made = exchange(generator, images_of(size), images_of(size, seed=1))
        with frozen(critics):
            terms = {one: generator_terms(images, objective, critics) for one, images in made.items()}
        sum(of_size["adversarial"] for of_size in terms.values()).backward()
    assert all(one.requires_grad for one in critics.parameters())
    assert not [name for name, one in critics.named_parameters() if one.grad is not None]
    assert with_gradient(generator) == {name for name, _ in generator.named_parameters()}


def test_frozen_leaves_parameters_that_were_frozen_before_as_they_are() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with contextlib.suppress(ZeroDivisionError), frozen(layer):
        assert not layer.weight.requires_grad
        raise ZeroDivisionError
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_the_object_term_teaches_the_splitter_only() -> None:
    generator, critics = networks_of(options_of(norm="group"))
    made = exchange(generator, images_of(32), images_of(32, seed=1))[32]
    generator_terms(made, "wgan", critics)["object"].backward()
    assert {name.split(".")[0] for name in with_gradient(generator)} == {"splitter"}


# Clipping and the schedule


@few
@given(st.floats(1e-4, 0.1), st.integers(0, 100))
def test_clipping_leaves_all_weights_in_range_and_those_inside_as_they_are(bound: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.0, 2 * bound)
    before = [parameter.clone() for parameter in layer.parameters()]
    clip_weights(layer, bound)
    for old, new in zip(before, layer.parameters(), strict=True):
        expected = [min(max(value, -bound), bound) for value in old.flatten().tolist()]
        assert new.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_clipping_reaches_every_weight_of_both_critics_after_a_step() -> None:
    generator, critics = networks_of(options_of())
    optimiser = torch.optim.RMSprop(critics.parameters(), lr=0.1, alpha=0.8)
    before = {name: value.clone() for name, value in generator.named_parameters()}
    with torch.no_grad():
        made = exchange(generator, images_of(48), images_of(48, seed=1))[48]
    critic_terms(made, "wgan", critics)["critic"].backward()
    optimiser.step()
    assert max(one.abs().max().item() for one in critics.parameters()) > 0.05
    clip_weights(critics, 0.01)
    assert all(one.abs().max().item() <= 0.01 + 1e-9 for one in critics.parameters())
    assert all(torch.equal(value, before[name]) for name, value in generator.named_parameters())


def test_the_critics_make_100_steps_in_each_500th_iteration_from_the_first_on() -> None:
    steps = [critic_steps_at(iteration, options_of(critic_steps=2)) for iteration in range(1501)]
    assert {iteration: count for iteration, count in enumerate(steps) if count != 2} == dict.fromkeys(
        (0, 500, 1000, 1500), 100
    )
    assert {critic_steps_at(iteration, options_of(objective="r1")) for iteration in range(1501)} == {1}
    other = options_of(boost_every=7, boost_steps=3)
    assert sum(critic_steps_at(iteration, other) for iteration in range(70)) == 10 * 3 + 60


# All together


@pytest.mark.parametrize("objective", ["wgan", "r1"])
def test_a_few_steps_bring_the_reconstruction_down(objective: str) -> None:
    options = options_of(sizes=(32,), width=8, objective=objective, reconstruction=10.0, r1=1.0)
    torch.manual_seed(0)
    generator, critics = Generator(options), Critics(options)
    rates = [torch.optim.Adam(network.parameters(), lr=2e-3) for network in (generator, critics)]
    real = resize(images_of(4, count=4), 32), resize(images_of(4, count=4, seed=1), 32)
    reconstructions = []
    for _ in range(25):
        with torch.no_grad():
            made = exchange(generator, *real)
        loss = critic_loss({32: critic_terms(made[32], objective, critics)}, {32: 1.0}, options)["loss"]
        rates[1].zero_grad()
        loss.backward()
        rates[1].step()
        if objective == "wgan":
            clip_weights(critics, options.clip)
        made = exchange(generator, *real)
        with frozen(critics):
            terms = {32: generator_terms(made[32], objective, critics)}
        found = generator_loss(terms, {32: 1.0}, mean_squares(generator), options)
        rates[0].zero_grad()
        found["loss"].backward()
        rates[0].step()
        reconstructions.append(found["reconstruction"].item())
    assert reconstructions[-1] < 0.8 * reconstructions[0]

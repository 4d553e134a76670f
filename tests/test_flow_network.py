"""The network of the flow matching study: its attention, its tokens, and reconstruction of held-out fields."""

from __future__ import annotations

import math

import pytest
import torch
from flow_models import batch_of, model_of, options_of, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from studies.flow_matching import held_out as held_out_module
from studies.flow_matching.blocks import Attention
from studies.flow_matching.design import base_design
from studies.flow_matching.evaluation import _blocks_as_in_training, spread
from studies.flow_matching.fields import coordinates
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.held_out import (
    HeldOut,
    reconstruct,
    reconstruct_in_blocks,
    scattered_blocks,
    square_blocks,
)
from studies.flow_matching.regression import RegressionModel
from studies.flow_matching.tasks import Task


def written_out(attention: Attention, x: Tensor, at: Tensor) -> Tensor:
    """The attention by its equation, with a matrix of distances."""
    count, tokens, width = x.shape
    parts = attention.inward(x).view(count, tokens, 3, attention.heads, attention.size).permute(2, 0, 3, 1, 4)
    query, key, value = parts
    scores = query @ key.mT / math.sqrt(attention.size)
    if attention.sharpness is not None:
        distances = (at[:, :, None] - at[:, None]).square().sum(-1)
        scores = scores - attention.sharpness.exp().view(1, -1, 1, 1) * distances[:, None]
    return attention.outward((scores.softmax(-1) @ value).transpose(1, 2).reshape(count, tokens, width))


@pytest.mark.parametrize("distance", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_follows_its_equation(distance: bool, heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(16, heads, distance)
    x, at = torch.randn(3, 20, 16, requires_grad=True), 2 * torch.rand(3, 20, 2) - 1
    found, expected = attention(x, at), written_out(attention, x, at)
    assert torch.allclose(found, expected, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), [x, *attention.parameters()]) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


def test_heads_start_with_scales_from_2_to_128_and_learn_them() -> None:
    sharpness = Attention(32, 4, True).sharpness
    assert sharpness is not None and sharpness.requires_grad
    assert sharpness.exp().tolist() == pytest.approx([2, 8, 32, 128])
    assert Attention(32, 4, False).sharpness is None


def test_under_bf16_the_distance_term_is_as_exact_as_in_float32() -> None:
    """Tokens that are equal but for their places: only the distance term distinguishes them."""
    torch.manual_seed(0)
    attention = Attention(16, 4, True)
    x, at = torch.zeros(1, 200, 16), 2 * torch.rand(1, 200, 2) - 1
    x[0, :, 0] = at[0, :, 0]
    with torch.no_grad():
        exact = written_out(attention, x, at)
        with torch.autocast("cpu", torch.bfloat16):
            half = attention(x, at)
    assert float((half.float() - exact).abs().max()) < 0.02 * float(exact.abs().max())


def test_under_bf16_the_fourier_features_are_those_of_float32() -> None:
    network = model_of(options_of("2", size=32)).network
    at = 2 * torch.rand(3, 50, 2) - 1
    exact = 2 * math.pi * (at.double() @ network.frequencies.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = network.features(at)
    assert torch.allclose(found.double(), torch.cat([exact.cos(), exact.sin()], dim=-1), atol=1e-4)


def test_the_velocity_depends_on_time_observations_and_the_other_queries() -> None:
    options = options_of()
    model = model_of(options)
    task, x0 = batch_of(options, model.design)
    t = torch.full((len(task),), 0.3)
    base = model.velocity(task, x0, t, None)
    assert not torch.allclose(base, model.velocity(task, x0, t + 0.4, None))
    other = Task(task.seen_at, task.seen + 0.1, task.asked_at, task.truth)
    assert not torch.allclose(base, model.velocity(other, x0, t, None))
    moved = x0.clone()
    moved[:, 0] += 1
    assert not torch.allclose(base[:, 1:], model.velocity(task, moved, t, None)[:, 1:], atol=1e-7)


def test_the_order_of_points_does_not_matter() -> None:
    options = options_of()
    model = model_of(options)
    task, x0 = batch_of(options, model.design)
    t = torch.rand(len(task), generator=seeded(3))
    order, mixed = torch.randperm(x0.shape[1]), torch.randperm(task.seen.shape[1])
    turned = Task(task.seen_at[:, mixed], task.seen[:, mixed], task.asked_at[:, order], task.truth[:, order])
    assert torch.allclose(
        model.velocity(task, x0, t, None)[:, order], model.velocity(turned, x0[:, order], t, None), atol=1e-5
    )


def test_a_reconstruction_in_parts_of_fields_is_that_of_all_and_blocks_of_points_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = options_of(validation_fields=7)
    model = model_of(options)
    model.network.eval()
    held_out = HeldOut.load(options, "validation", 7, torch.device("cpu"))
    x0 = held_out.noise(1, seeded(1))[0]
    whole = reconstruct(model, held_out.task, x0, 3, "heun")
    alone = [model.sample(held_out.task.rows(slice(i, i + 1)), x0[i : i + 1], 3, "heun") for i in range(7)]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-5)
    monkeypatch.setattr(held_out_module, "_TOKENS_AT_ONCE", 200)  # 2 fields of 64 + 10 tokens
    assert torch.allclose(reconstruct(model, held_out.task, x0, 3, "heun"), whole, atol=1e-5)
    one_block = reconstruct_in_blocks(model, held_out.task, x0, 3, "heun", [torch.randperm(64)])
    assert torch.allclose(one_block, whole, atol=1e-5)
    blocks = scattered_blocks(64, 10, seeded(2))
    in_blocks = reconstruct_in_blocks(model, held_out.task, x0, 3, "heun", blocks)
    assert in_blocks.shape == whole.shape and not torch.allclose(in_blocks, whole, atol=1e-5)
    last = held_out.task.points(blocks[-1])
    assert torch.allclose(in_blocks[:, blocks[-1]], model.sample(last, x0[:, blocks[-1]], 3, "heun"), atol=1e-5)


@given(size=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_blocks_cover_the_field_and_have_as_many_points_as_a_training_step(size: int, share: float, seed: int) -> None:
    count, side = max(1, round(share * size**2)), max(1, round(share * size))
    for blocks, wanted in (
        (scattered_blocks(size**2, count, seeded(seed)), count),
        (square_blocks(size, side), side**2),
    ):
        assert {len(set(block.tolist())) for block in blocks} == {wanted}
        assert set(torch.cat(blocks).tolist()) == set(range(size**2))
    for block in square_blocks(size, side):
        (top, left), rows = divmod(int(block[0]), size), block.view(side, side)
        assert torch.equal(rows, (top + torch.arange(side))[:, None] * size + left + torch.arange(side))


@pytest.mark.parametrize("pattern", ["random", "patch"])
def test_blocks_are_placed_as_the_asked_points_of_a_training_step(pattern: str) -> None:
    """Points in a strip of the field would be as dense as in the whole field, and hide what the shift costs."""
    options = options_of(size=16, queries=25, query_pattern=pattern)
    model = model_of(options)
    blocks = _blocks_as_in_training(model, options, seeded(0))
    asked, _ = model.design.queries(100, seeded(1))
    at = coordinates(16)

    def distance(points: Tensor) -> float:
        return float(torch.stack([torch.pdist(at[one]).mean() for one in points]).mean())

    assert distance(torch.stack(blocks)) == pytest.approx(distance(asked), rel=0.05)


def test_a_regression_ignores_the_noise_and_a_flow_does_not() -> None:
    options = options_of()
    flow = model_of(options)
    flow.network.eval()
    task, x0 = batch_of(options, base_design(options))
    regression = RegressionModel(flow.network, flow.autocast)
    same, other = (regression.sample(task, noise, 2, "heun") for noise in (x0, -x0))
    assert torch.equal(same, other)
    assert not torch.allclose(flow.sample(task, x0, 2, "heun"), flow.sample(task, -x0, 2, "heun"))
    (loss,) = regression.loss(task, x0, seeded(0)).values()
    assert float(loss) == pytest.approx(float((same - task.truth).square().mean()))


class Smooth(nn.Module):
    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        return z.sin() * (1 + t[:, None].square())


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_the_samplers_have_their_orders(sampler: str, order: int) -> None:
    """Half the step has half the error (Euler) or a quarter of it (Heun)."""
    options = options_of()
    design = base_design(options)
    model = FlowModel(Smooth(), design, torch.no_grad)
    task, x0 = batch_of(options, design)
    x0 = x0.double()
    exact = model.sample(task, x0, 2000, "heun")
    errors = [float((model.sample(task, x0, steps, sampler) - exact).norm()) for steps in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


class OfOneField(nn.Module):
    """What training leads to if the observations determine the field: at t = 1, x0 is unknown, and 0 on average."""

    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        left = (1 - t)[:, None]
        noise = torch.where(left > 0, (z - (1 - left) * task.truth) / left.clamp(min=1e-6), 0.0)
        return task.truth - noise


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_no_noise_remains_in_a_sample_of_a_field_that_is_known(sampler: str, steps: int) -> None:
    options = options_of()
    design = base_design(options)
    task, x0 = batch_of(options, design)
    sample = FlowModel(OfOneField(), design, torch.no_grad).sample(task, x0, steps, sampler)
    assert torch.allclose(sample, task.truth, atol=1e-4)


@pytest.mark.parametrize(("width", "expected"), [(1.0, 1.0), (0.5, 0.25)])
def test_the_spread_of_a_perfect_sampler_is_1_and_that_of_a_timid_one_less(width: float, expected: float) -> None:
    """Truth and samples are draws around a known mean; a timid sampler deviates from it by half as much."""
    held_out = HeldOut.load(options_of(), "test", 40, torch.device("cpu"))
    around = held_out.fields + 0.1 * torch.randn(held_out.fields.shape, generator=seeded(0))
    samples = around + 0.1 * width * torch.randn(16, *around.shape, generator=seeded(1))
    exact = expected * (1 + 1 / 16) / (1 + expected / 16)
    assert spread(samples, held_out) == pytest.approx(exact, rel=0.1)

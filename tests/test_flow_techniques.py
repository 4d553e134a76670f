"""Each of the ten techniques does something, and the right thing; they compose without knowing of each other."""

from __future__ import annotations

import ast
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from flow_models import batch_of, model_of, options_of, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError
from studies.flow_matching import techniques
from studies.flow_matching.averages import MovingAverage
from studies.flow_matching.design import Phase, base_design, warmup_cosine
from studies.flow_matching.flow import FlowModel, Moment
from studies.flow_matching.options import TECHNIQUES, Options
from studies.flow_matching.paths import LinearPath
from studies.flow_matching.paths import Path as NoisePath
from studies.flow_matching.sources import PairSource
from studies.flow_matching.tasks import Task
from studies.flow_matching.techniques import MODULES, design_of, reflow
from studies.flow_matching.techniques.consistency import ConsistencyTerm, segment_end
from studies.flow_matching.techniques.multi_scale_encoding import banded_frequencies, nyquist
from studies.flow_matching.techniques.noise_schedule import CosinePath, logit_normal_times
from studies.flow_matching.techniques.spectral_loss import spectral_loss
from studies.flow_matching.techniques.stochastic_depth import DropPath
from studies.flow_matching.trainer import Trainer

NUMBERS = sorted(TECHNIQUES)
PATHS = [LinearPath(), CosinePath()]
times = st.floats(0.01, 0.99)


# ------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("number", NUMBERS)
def test_a_technique_changes_the_parts_of_the_design_that_it_declares_and_no_others(number: int) -> None:
    options = options_of()
    base = base_design(options)
    parts = [one.name for one in dataclasses.fields(base)]
    changed: set[str] = set()
    for form in ("cosine_path", "logit_normal"):
        design = MODULES[number].apply(base, options_of(noise_schedule=form))
        changed |= {name for name in parts if getattr(design, name) != getattr(base, name)}
    assert changed == set(MODULES[number].CHANGES)


def test_no_technique_imports_or_names_another() -> None:
    for path in Path(techniques.__file__).parent.glob("*.py"):
        if path.name != "__init__.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
            assert not [name for name in imported if name.startswith("studies.flow_matching.techniques")], path
            assert "technique_numbers" not in path.read_text(), path


def test_two_techniques_that_change_one_part_add_to_it() -> None:
    parts = [name for number in NUMBERS for name in MODULES[number].CHANGES]
    shared = {name for name in parts if parts.count(name) > 1}
    assert shared == {"terms"}  # a tuple, to which each adds
    assert len(design_of(options_of("3+4")).terms) == 2


@pytest.mark.parametrize("number", [number for number in NUMBERS if number != 1])
def test_a_technique_does_something(number: int) -> None:
    """After three steps from the same seed, a sample differs from the base's. Technique 1 is in test_flow_run.py."""
    samples = []
    for text in ("", str(number)):
        options = options_of(text)
        model = model_of(options)
        task, x0 = batch_of(options, base_design(options))
        trained = train_steps(model, options, 3)
        samples.append(trained.sample(task, x0, 4, "heun"))
    assert not torch.equal(*samples)


def train_steps(model: FlowModel, options: Options, steps: int) -> FlowModel:
    """The model as it is evaluated after these steps."""
    design = model.design
    task, x0 = batch_of(options, design)
    trainer = Trainer(model, design, PairSource(task, x0, len(x0)), options, steps)
    torch.manual_seed(3)
    for number in range(steps):
        trainer.step(OutsideStep(number), torch.arange(len(x0)), number)
    model.network.eval()
    return model.with_network(trainer.weights)


class OutsideStep:
    """A step of the library, without a run."""

    def __init__(self, number: int) -> None:
        self.number = number

    def generator(self, stream: str) -> torch.Generator:
        return seeded(self.number)

    def shard(self, count: int) -> slice:
        return slice(0, count)

    def watch(self, loss: Tensor) -> None:
        assert loss.isfinite()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self, optimiser: torch.optim.Optimizer, clip_norm: float | None) -> None:
        if clip_norm is not None:
            nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], clip_norm)
        optimiser.step()

    def average(self, **values: Tensor) -> None:
        assert all(value.isfinite() for value in values.values())


# ------------------------------------------------------------------------------------------ 1, rectified flow


class Mixture(nn.Module):
    """The exact velocity from N(0, I) to an even mixture of N((-2, 0), s^2 I) and N((2, 0), s^2 I)."""

    deviation = 0.3

    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        t = t[:, None]
        variance = (t * self.deviation).square() + (1 - t).square()
        centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
        gap = z[:, None] - t[..., None] * centres
        weights = (-gap.square().sum(-1) / (2 * variance)).softmax(-1)
        slope = (t * self.deviation**2 - (1 - t)) / variance  # of E[x1 - x0 | z_t, component] in z_t - t c
        return (weights[..., None] * (centres + slope[..., None] * gap)).sum(1)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        return self.layers(torch.cat([z, t[:, None]], dim=1))


def plane(count: int) -> Task:
    empty = torch.zeros(count, 0)
    return Task(empty[..., None].expand(count, 0, 2), empty, torch.zeros(count, 2, 2), torch.zeros(count, 2))


def test_reflow_straightens_a_flow_in_the_plane_and_keeps_its_known_coupling() -> None:
    design, options = base_design(options_of()), options_of(sample_steps=30)
    first = FlowModel(Mixture(), design, torch.no_grad)
    x0 = torch.randn(2000, 2, generator=seeded(0))
    ends = reflow.ends_of(first, plane(2000), x0, options)
    side = ends[:, 0].sign()
    assert (side == x0[:, 0].sign()).float().mean() > 0.99  # by symmetry, each half plane goes to its own component
    assert torch.allclose(ends[side > 0].mean(0), torch.tensor([2.0, 0.0]), atol=0.05)
    assert torch.allclose(ends[side > 0].std(0), torch.full((2,), Mixture.deviation), atol=0.05)

    torch.manual_seed(1)
    second = FlowModel(Learned(), design, torch.enable_grad)
    task = dataclasses.replace(plane(2000), truth=ends)
    optimiser = torch.optim.Adam(second.network.parameters(), lr=3e-3)
    for step in range(400):
        chosen = torch.randint(2000, (256,), generator=seeded(step))
        optimiser.zero_grad()
        second.loss(task.rows(chosen), x0[chosen], seeded(step + 1000))["flow"].backward()
        optimiser.step()
    fresh = torch.randn(500, 2, generator=seeded(9))
    second.network.eval().requires_grad_(False)
    before, after = (model.straightness(plane(500), fresh, 30) for model in (first, second))
    assert after < 0.25 * before
    exact = first.sample(plane(500), fresh, 60, "heun")
    errors = [(model.sample(plane(500), fresh, 1, "euler") - exact).square().mean() for model in (first, second)]
    assert errors[1] < 0.25 * errors[0]  # one Euler step suffices after reflow


def test_reflow_is_a_second_phase_of_half_the_epochs() -> None:
    phases: tuple[Phase, ...] = design_of(options_of("1", epochs=10)).phases
    assert [(phase.name, phase.epochs) for phase in phases] == [("train", 10), ("reflow", 5)]
    assert design_of(options_of("1", epochs=10, reflow_epochs=7)).phases[-1].epochs == 7


# ------------------------------------------------------------------------------------------ 2, position encoding


def test_the_bands_have_their_scales_and_stay_below_the_nyquist_frequency() -> None:
    torch.manual_seed(0)
    limit = nyquist(32)
    assert limit == 7.75
    drawn = torch.stack([banded_frequencies(limit) for _ in range(500)])
    assert drawn.shape == (500, 2, 16) and drawn.abs().max() <= limit
    deviations = drawn.unflatten(2, (4, 4)).permute(2, 0, 1, 3).flatten(1).std(1)
    assert torch.allclose(deviations[:3], torch.tensor([0.5, 1.0, 2.0]), rtol=0.06)
    assert 3.0 < deviations[3] < 4.0  # the truncation narrows the last one


# ------------------------------------------------------------------------------------------ 3, consistency


@given(t=times, segments=st.integers(1, 4))
def test_the_end_of_a_segment_is_the_next_multiple(t: float, segments: int) -> None:
    end = float(segment_end(torch.tensor([t], dtype=torch.float64), segments))
    assert t < end <= t + 1 / segments + 1e-9
    assert end * segments == pytest.approx(round(end * segments))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_the_consistency_loss_is_0_for_velocities_of_one_pair_and_not_for_others(path: NoisePath) -> None:
    options = options_of("3")
    model = model_of(options, dataclasses.replace(design_of(options), path=path))
    term = ConsistencyTerm(model, 2, 1.0)
    task, x0 = batch_of(options, model.design)
    t = torch.rand(len(x0), generator=seeded(5))

    class OfThePair(nn.Module):
        def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
            return path.velocity(x0, task.truth, t)

    term.target = model.with_network(OfThePair())
    z, velocity = path.point(x0, task.truth, t), path.velocity(x0, task.truth, t)
    exact = Moment(task, x0, t, z, velocity, velocity, None)
    assert float(term.loss(exact)) < 1e-6  # the two velocities differ by what the path turns in 1e-3
    wrong = dataclasses.replace(exact, velocity=velocity + 1)
    assert float(term.loss(wrong)) > 1e-2


@pytest.mark.parametrize("text", ["3", "3+7"])
def test_the_consistency_loss_has_a_moving_average_of_its_own(text: str) -> None:
    options = options_of(text)
    model = model_of(options)
    term = model.design.terms[0](model)
    (average,) = term.tracked().values()
    assert not any(one.requires_grad for one in average.parameters())
    before = [one.clone() for one in average.parameters()]
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(1)
    term.after_step()
    assert all(not torch.equal(old, new) for old, new in zip(before, average.parameters(), strict=True))


# ------------------------------------------------------------------------------------------ 4, spectral loss


def test_the_spectral_loss_is_0_for_equal_fields_and_ignores_the_estimate_at_t_0() -> None:
    truth = torch.rand(3, 25, generator=seeded(0))
    other = torch.rand(3, 25, generator=seeded(1))
    t = torch.tensor([0.2, 0.5, 1.0])
    assert float(spectral_loss(truth, truth, t, 5)) == 0
    assert float(spectral_loss(other, truth, t, 5)) > 0
    assert float(spectral_loss(other, truth, torch.zeros(3), 5)) == 0
    assert float(spectral_loss(other, truth, t, 5)) == pytest.approx(2 * float(spectral_loss(other, truth, t / 2, 5)))


def test_the_spectral_loss_sees_the_amplitudes_and_not_the_place_of_a_pattern() -> None:
    pattern = torch.rand(1, 6, 6, generator=seeded(2))
    shifted = pattern.roll((2, 3), dims=(1, 2))
    t = torch.ones(1)
    assert float(spectral_loss(shifted.flatten(1), pattern.flatten(1), t, 6)) < 1e-8
    smooth = (pattern + pattern.roll(1, 1) + pattern.roll(1, 2)) / 3
    assert float(spectral_loss(smooth.flatten(1), pattern.flatten(1), t, 6)) > 0.05


def test_the_spectral_loss_refuses_points_that_form_no_patch() -> None:
    values, t = torch.rand(2, 24), torch.ones(2)
    for side in (None, 5):
        with pytest.raises(RoundhouseError, match="square patch"):
            spectral_loss(values, values, t, side)


def test_with_the_spectral_loss_the_asked_points_are_a_patch() -> None:
    options = options_of("4", queries=17)
    task, _ = batch_of(options, design_of(options))
    assert task.side == 4 and task.truth.shape[1] == 16


# ------------------------------------------------------------------------------------------ 5, adaptive norm


def test_adaptive_layer_norm_makes_each_block_the_identity_at_the_start() -> None:
    network = model_of(options_of("5")).network
    x, at, condition = torch.randn(2, 7, 16), torch.rand(2, 7, 2), torch.randn(2, 16)
    for block in network.blocks:
        assert torch.equal(block(x, at, condition), x)
    plain = model_of(options_of()).network
    assert not torch.allclose(plain.blocks[0](x, at, condition), x)


def test_adaptive_layer_norm_follows_its_equation() -> None:
    norm = model_of(options_of("5")).network.blocks[0].norms[0]
    with torch.no_grad():
        norm.modulation.weight.normal_()
        norm.modulation.bias.normal_()
    x, condition = torch.randn(2, 7, 16), torch.randn(2, 16)
    shift, scale, gate = norm.modulation(condition * condition.sigmoid()).chunk(3, dim=-1)
    centred = x - x.mean(-1, keepdim=True)
    plain = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    found, gated = norm(x, condition)
    assert torch.allclose(found, (1 + scale[:, None]) * plain + shift[:, None], atol=1e-5)
    assert torch.allclose(torch.as_tensor(gated), gate[:, None], atol=1e-6)


# ------------------------------------------------------------------------------------------ 6, self-conditioning


class Recorder(nn.Module):
    """A network that notes the estimate that it is given, and answers with a fixed function."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor | None] = []
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        velocity = z.sin() + (0 if estimate is None else estimate)
        self.given.append(estimate)
        self.asked.append((z, velocity, t))
        return velocity


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("text", ["6", "6+8"])
def test_sampling_feeds_the_previous_estimate(text: str, sampler: str) -> None:
    options = options_of(text)
    design, network = design_of(options), Recorder()
    model = FlowModel(network, design, torch.no_grad)
    task, x0 = batch_of(options, design)
    model.sample(task, x0, 3, sampler)
    assert len(network.given) == (3 if sampler == "euler" else 5)
    assert torch.equal(network.given[0], torch.zeros_like(x0))
    for (z, velocity, t), shown in zip(network.asked, network.given[1:], strict=False):
        assert torch.equal(shown, design.path.data(z, velocity, t))


def test_training_shows_the_estimate_of_a_first_pass_in_half_of_the_steps() -> None:
    options = options_of("6")
    design = design_of(options)
    task, x0 = batch_of(options, design)
    seen = 0
    for seed in range(200):
        network = Recorder()
        FlowModel(network, design, torch.enable_grad).loss(task, x0, seeded(seed))
        last = network.given[-1]
        assert last is not None and not last.requires_grad
        if len(network.given) == 2:
            seen += 1
            z, velocity, t = network.asked[0]
            assert torch.equal(last, design.path.data(z, velocity, t))
        else:
            assert not last.any()
    assert 70 <= seen <= 130


# ------------------------------------------------------------------------------------------ 7, moving average


@given(values=st.lists(st.floats(-2, 2), min_size=1, max_size=30), decay=st.floats(0.1, 0.99))
def test_the_moving_average_with_warm_up_follows_its_closed_form(values: list[float], decay: float) -> None:
    network = nn.Linear(1, 1, bias=False).double()
    network.weight.data.fill_(0.5)
    average = MovingAverage(network, decay)
    for value in values:
        network.weight.data.fill_(value)
        average.update(network)
    rates = [min(decay, (1 + k) / (10 + k)) for k in range(len(values))]
    closed = 0.5 * math.prod(rates)
    steps = enumerate(zip(rates, values, strict=True))
    closed += sum((1 - rate) * value * math.prod(rates[k + 1 :]) for k, (rate, value) in steps)
    assert float(average.network.weight) == pytest.approx(closed, abs=1e-9)


def test_the_moving_average_is_what_is_evaluated_and_training_is_not_changed() -> None:
    options, base = options_of("7"), options_of()
    model, plain = model_of(options), model_of(base)
    evaluated = train_steps(model, options, 4)
    train_steps(plain, base, 4)
    for one, other, average in zip(
        model.network.parameters(), plain.network.parameters(), evaluated.network.parameters(), strict=True
    ):
        assert torch.equal(one, other)
        assert not torch.equal(one, average) or not one.any()


# ------------------------------------------------------------------------------------------ 8, noise schedule


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@given(x0=st.floats(-3, 3), x1=st.floats(0, 1), t=times)
def test_the_velocity_is_the_derivative_of_the_path(path: NoisePath, x0: float, x1: float, t: float) -> None:
    noise, data = (torch.tensor([[value]], dtype=torch.float64) for value in (x0, x1))

    def point(at: float) -> float:
        return float(path.point(noise, data, torch.tensor([at], dtype=torch.float64)))

    step = 1e-5
    velocity = path.velocity(noise, data, torch.tensor([t], dtype=torch.float64))
    assert float(velocity) == pytest.approx((point(t + step) - point(t - step)) / (2 * step), abs=1e-6)
    assert point(0) == pytest.approx(x0) and point(1) == pytest.approx(x1)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@given(x0=st.floats(-3, 3), x1=st.floats(0, 1), t=times, end=times)
def test_a_point_and_its_velocity_give_back_both_ends(
    path: NoisePath, x0: float, x1: float, t: float, end: float
) -> None:
    noise, data = (torch.tensor([[value]], dtype=torch.float64) for value in (x0, x1))
    at, later = (torch.tensor([value], dtype=torch.float64) for value in (t, end))
    z, velocity = path.point(noise, data, at), path.velocity(noise, data, at)
    assert torch.allclose(path.data(z, velocity, at), data)
    assert torch.allclose(path.ends(z, velocity, at)[0], noise)
    assert torch.allclose(path.jump(z, velocity, at, later), path.point(noise, data, later))
    if isinstance(path, LinearPath):
        assert torch.allclose(path.data(z, velocity, at), z + (1 - t) * velocity)
        assert torch.allclose(path.jump(z, velocity, at, later), z + (end - t) * velocity)


def test_sampling_follows_the_cosine_path_to_the_data() -> None:
    """The exact velocity towards a single field leads to it, on each path."""
    design = base_design(options_of())
    x0 = torch.randn(50, 4, generator=seeded(0))
    goal = torch.full((50, 4), 0.7)
    task = dataclasses.replace(plane(50), truth=goal)
    for path in PATHS:

        class Exact(nn.Module):
            def forward(self, task: Task, z: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
                c = path.coefficients(t.clamp(max=0.999))  # noqa: B023
                noise = (z - c.alpha * goal) / c.sigma
                return c.d_alpha * goal + c.d_sigma * noise

        model = FlowModel(Exact(), dataclasses.replace(design, path=path), torch.no_grad)
        assert torch.allclose(model.sample(task, x0, 100, "heun"), goal, atol=0.05)


def test_logit_normal_times_have_the_density_of_their_name() -> None:
    t = logit_normal_times(100_000, seeded(0))
    normal = torch.distributions.Normal(0, 1)
    for bound in (0.1, 0.25, 0.5, 0.9):
        expected = float(normal.cdf(torch.tensor(math.log(bound / (1 - bound)))))
        assert float((t < bound).float().mean()) == pytest.approx(expected, abs=0.005)


# ------------------------------------------------------------------------------------------ 9, clipping and warm-up


@given(steps=st.integers(20, 5000), share=st.sampled_from([0.05, 0.1]))
def test_the_rate_reaches_its_full_value_after_the_stated_share_of_all_steps(steps: int, share: float) -> None:
    rate = warmup_cosine(share)
    warmup = max(1, round(share * steps))
    rates = [rate(step, steps) for step in range(steps)]
    assert rates[warmup - 1] == pytest.approx(1) and max(rates) == pytest.approx(1)
    assert all(one < other for one, other in zip(rates[: warmup - 1], rates[1:warmup], strict=True))
    assert all(one >= other for one, other in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[-1] < 0.01 + 5 / steps


@pytest.mark.parametrize(
    ("text", "config", "clip_norm", "scheduled"),
    [
        ("", {}, None, False),
        ("", {"schedule": "warmup_cosine"}, None, True),
        ("9", {}, 1.0, True),
        ("9", {"clip_norm": 0.5}, 0.5, True),
    ],
)
def test_each_step_has_its_rate_and_its_largest_norm_of_the_gradient(
    text: str, config: dict[str, object], clip_norm: float | None, scheduled: bool
) -> None:
    options = options_of(text, lr=0.01, **config)
    model = model_of(options)
    task, x0 = batch_of(options, model.design)
    trainer = Trainer(model, model.design, PairSource(task, x0, len(x0)), options, 20)
    assert trainer.steps == 20
    rates, norms = [], []

    class Watched(OutsideStep):
        def update(self, optimiser: torch.optim.Optimizer, clip_norm: float | None) -> None:
            rates.append(optimiser.param_groups[0]["lr"])
            norms.append(clip_norm)

    for number in range(20):
        trainer.step(Watched(number), torch.arange(len(x0)), number)
    assert set(norms) == {clip_norm}
    wanted = [warmup_cosine(0.1)(number, 20) if scheduled else 1 for number in range(20)]
    assert rates == pytest.approx([0.01 * factor for factor in wanted])


# ------------------------------------------------------------------------------------------ 10, stochastic depth


def test_stochastic_depth_leaves_out_whole_rows_keeps_the_mean_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.3)
    added = torch.ones(20_000, 3, 2)
    dropped = drop(added)
    rows = dropped.flatten(1)
    assert (rows == rows[:, :1]).all()
    assert sorted(set(rows[:, 0].tolist())) == pytest.approx([0, 1 / 0.7])
    assert float(rows.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(added), added)


def test_the_probability_rises_from_0_in_the_first_block() -> None:
    blocks = model_of(options_of("10", num_layers=5, drop_path=0.4)).network.blocks
    assert [block.drop.probability for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])

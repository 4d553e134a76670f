"""The flood networks: shapes, sizes, what they see, what they can predict, and that each can learn."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.architectures import ARCHITECTURES, ATTENTIONS, DOWNSAMPLERS, WITH_ATTENTION, Surrogate, make
from studies.flood.architectures.attentions import Attention, attention_of
from studies.flood.architectures.blocks import START, initialise, max_pool, scaled
from studies.flood.architectures.downsamplers import Alternating, downsampler_of
from studies.flood.architectures.resizing import BothWays, resizing_matrix

NARROW = 0.125
EVERY = [
    (number, attention)
    for number in ARCHITECTURES
    for attention in (ATTENTIONS if number in WITH_ATTENTION else ATTENTIONS[:1])
]
OF_DOWNSAMPLER = {"alternating": (697, 11), "k11s10": (122, 11), "bicubic": (0, 39)}  # parameters, pixels in a row

# The operations whose gradient has one order of summation on CUDA. An operation that is not here, such as an
# interpolation or a pooling, may not.
DETERMINISTIC = {
    "AccumulateGrad", "AddBackward0", "AmaxBackward0", "BmmBackward0", "CatBackward0", "ConvolutionBackward0",
    "DivBackward0", "EluBackward0", "ExpandBackward0", "LeakyReluBackward0", "MmBackward0", "MulBackward0",
    "ReluBackward0", "SoftmaxBackward0", "StackBackward0", "AddmmBackward0", "MulBackward1", "SafeSoftmaxBackward0",
    "ScaledDotProductFlashAttentionForCpuBackward0",
    # views and copies, which differ between versions of torch
    "AliasBackward0", "CloneBackward0", "SelectBackward0", "TBackward0", "PermuteBackward0", "ReshapeAliasBackward0",
    "SliceBackward0",
    "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def inputs(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    terrain, depth = torch.randn(count, 1, 321, 321, dtype=dtype), torch.rand(count, 1, 32, 32, dtype=dtype)
    ring = torch.ones(32, 32, dtype=dtype)
    ring[2:-2, 2:-2] = 0
    return terrain, depth, ring * (depth + 0.1)


def open_attentions(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, Attention):
            nn.init.constant_(part.gamma, 0.5)


def parameters_of(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def documented(number: str, pattern: str) -> list[int]:
    """Numbers in the docstring of an architecture, at the groups of the pattern."""
    text = " ".join(str(ARCHITECTURES[number].__doc__).split())
    found = re.search(pattern, text)
    assert found, f"{number}: {text}"
    return [int(one.replace(",", "")) for one in found.groups()]


def extent(gradient: Tensor) -> tuple[int, int]:
    """Rows and columns of the smallest rectangle with all that is not 0."""
    rows, columns = gradient.nonzero().unbind(1)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def seen(model: Surrogate, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Cells of depth and pixels of terrain that a prediction depends on, as rows and columns."""
    terrain, depth, boundary = inputs(1)
    terrain.requires_grad_(), depth.requires_grad_()
    model(terrain, depth, boundary)[0, 0, row, column].backward()
    assert terrain.grad is not None and depth.grad is not None
    return extent(depth.grad[0, 0]), extent(terrain.grad[0, 0])


@pytest.mark.parametrize("downsampler", DOWNSAMPLERS)
@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_every_architecture_takes_every_downsampler(number: str, attention: str, downsampler: str) -> None:
    model = make(number, NARROW, attention, downsampler)
    assert model(*inputs(2)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_predictions_are_in_the_type_of_the_inputs(number: str) -> None:
    model = make(number, NARROW, downsampler="bicubic").double()
    assert model(*inputs(1, torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_the_docstring_has_the_number_of_parameters(number: str, attention: str) -> None:
    model = make(number, 1.0, attention)
    pattern = r"body at width 1: ([\d,]+)"
    if number in WITH_ATTENTION:
        pattern += r" with `self`, ([\d,]+) with `projection`"
    assert parameters_of(model.body) == documented(number, pattern)[ATTENTIONS.index(attention)]
    assert parameters_of(model) == parameters_of(model.body) + OF_DOWNSAMPLER["k11s10"][0]


def test_parameters_of_convolutions_and_attentions_follow_from_their_channels() -> None:
    c, d = 32, 4
    plain = (3 * 9 * c + c) + 10 * (c * 9 * c + c) + (c * 9 + 1)
    each = {"self": 3 * c * c + 2 * c + 1, "projection": (3 * c * d + 2 * d) + (d * c + c) + 1}
    assert parameters_of(make("02").body) == plain
    assert {one: parameters_of(make("04", 1.0, one).body) for one in ATTENTIONS} == {
        one: plain + 2 * each[one] for one in ATTENTIONS
    }


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_the_width_factor_scales_all_channels_of_the_body(number: str) -> None:
    half, whole = (parameters_of(make(number, width).body) for width in (0.25, 0.5))
    assert 3.5 < whole / half < 4.2
    assert [scaled(15, width) for width in (1, 0.5, 0.1, 0.01)] == [15, 8, 2, 1]


@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_the_docstring_has_the_cells_that_the_centre_sees(number: str, attention: str) -> None:
    model = make(number, NARROW, attention)
    open_attentions(model)
    cells, pixels = seen(model, 16, 16)
    assert list(cells) == documented(number, r"centre sees (\d+) x (\d+) cells")
    assert pixels == tuple(10 * side + 1 for side in cells)  # each cell sees 11, and shares one with the next


@pytest.mark.parametrize(
    ("number", "row", "pattern"),
    [
        ("04", 16, r"(\d+) x (\d+) while gamma is 0"),
        ("07", 0, r"corners, but only through the attention: (\d+) x (\d+) while gamma is 0"),
        ("09", 0, r"a corner sees (\d+) x (\d+)"),
    ],
)
def test_the_docstring_has_what_is_seen_where_it_is_less(number: str, row: int, pattern: str) -> None:
    assert list(seen(make(number, NARROW), row, row)[0]) == documented(number, pattern)


@pytest.mark.parametrize("name", DOWNSAMPLERS)
def test_a_cell_of_terrain_sees_the_pixels_around_its_place(name: str) -> None:
    downsampler = downsampler_of(name)
    parameters, side = OF_DOWNSAMPLER[name]
    terrain = torch.randn(1, 1, 321, 321, requires_grad=True)
    (gradient,) = torch.autograd.grad(downsampler(terrain)[0, 0, 12, 20], terrain)
    assert parameters_of(downsampler) == parameters
    assert extent(gradient[0, 0]) == (side, side)
    middle = gradient[0, 0].nonzero().double()
    assert ((middle.amin(0) + middle.amax(0)) / 2).tolist() == [125, 205]  # of pixels 10 j .. 10 j + 10


def test_strides_alternate_between_2_and_3() -> None:
    downsampler = Alternating()
    x = torch.randn(2, 8, 160, 160)
    places = [place for window in range(32) for place in (5 * window, 5 * window + 2)]
    everywhere = F.conv2d(x, downsampler.windows.weight, downsampler.windows.bias)
    torch.testing.assert_close(downsampler._two_of_five(x), everywhere[:, :, places][..., places])


@pytest.mark.parametrize(("old", "new"), [(4, 8), (16, 32), (321, 32), (30, 7)])
def test_bicubic_resizing_agrees_with_the_interpolation_of_torch(old: int, new: int) -> None:
    x = torch.randn(2, 3, old, old, dtype=torch.float64)
    matrix = resizing_matrix(old, new)
    torch.testing.assert_close(
        matrix @ x @ matrix.mT, F.interpolate(x, (new, new), mode="bicubic", antialias=True), rtol=1e-9, atol=1e-9
    )


def test_the_bicubic_terrain_of_a_plane_is_the_plane() -> None:
    metres = torch.arange(321.0)
    plane = (0.01 * metres[:, None] - 0.02 * metres)[None, None]
    centres = 10 * torch.arange(32.0) + 5
    expected = 0.01 * centres[:, None] - 0.02 * centres
    inner = slice(2, -2)  # nearer to the edge the kernel is cut
    found = downsampler_of("bicubic")(plane)[0, 0]
    torch.testing.assert_close(found[inner, inner], expected[inner, inner], rtol=0, atol=1e-5)


def test_max_pooling_agrees_with_that_of_torch() -> None:
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(max_pool(x), F.max_pool2d(x, 2))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_attention_agrees_with_its_formula(name: str) -> None:
    attention = attention_of(name, 16).double()
    assert isinstance(attention, Attention)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    assert torch.equal(attention(x), x)
    open_attentions(attention)
    found = attention(x)
    query, key, value = attention.query(x)[1], attention.key(x)[1], attention.value(x)[1]
    inner = {"self": 16, "projection": 2}[name]
    assert query.shape == key.shape == value.shape == (inner, 3, 4)
    mixed = torch.zeros_like(value)
    for i in range(3):
        for j in range(4):
            scores = torch.stack([query[:, i, j] @ key[:, k, m] / inner**0.5 for k in range(3) for m in range(4)])
            mixed[:, i, j] = (value.flatten(1) * (scores.exp() / scores.exp().sum())).sum(1)
    torch.testing.assert_close(found[1], x[1] + 0.5 * attention.back(mixed[None])[0])


@pytest.mark.parametrize("downsampler", DOWNSAMPLERS)
@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_gradients_reach_every_parameter(number: str, attention: str, downsampler: str) -> None:
    """At the start, gamma = 0 blocks all other parameters of an attention, and nothing else."""
    model = make(number, NARROW, attention, downsampler)
    within = {
        f"{prefix}.{name}"
        for prefix, part in model.named_modules() if isinstance(part, Attention)
        for name, _ in part.named_parameters() if name != "gamma"
    }  # fmt: skip
    batch, target = inputs(2), torch.randn(2, 1, 32, 32)
    for blocked in (within, set()):
        model.zero_grad()
        F.mse_loss(model(*batch), target).backward()  # signs of L1 can add up to 0
        unreached = {name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()}
        assert unreached == blocked
        open_attentions(model)


def operations(output: Tensor) -> set[str]:
    """Names of all operations that backward runs through."""
    found, waiting = set(), [output.grad_fn]
    visited = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in visited:
            visited.add(node)
            found.add(type(node).__name__)
            waiting += [following for following, _ in node.next_functions]
    return found


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("downsampler", DOWNSAMPLERS)
@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_backward_is_deterministic(number: str, attention: str, downsampler: str) -> None:
    model, batch = make(number, NARROW, attention, downsampler), inputs(2)
    assert operations(model(*batch)) <= DETERMINISTIC
    gradients = [torch.autograd.grad(model(*batch).abs().sum(), list(model.parameters())) for _ in range(2)]
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_no_layer_normalises_and_a_sample_does_not_depend_on_its_batch(number: str) -> None:
    model, batch = make(number, NARROW), inputs(3)
    open_attentions(model)
    assert not [part for part in model.modules() if "norm" in type(part).__name__.lower()]
    alone = model(*(one[1:2] for one in batch))
    torch.testing.assert_close(model(*batch)[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_water_can_fall_as_well_as_rise_without_a_bound(number: str) -> None:
    model = make(number, NARROW)
    with torch.no_grad():
        final = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))][-1]
        final.weight *= 10_000
        predicted = model(*inputs(1))
        falling, rising = float(predicted.min()), float(predicted.max())
    assert falling < -2 and rising > 2


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_what_the_last_layers_of_the_originals_do_to_falling_water(number: str) -> None:
    batch, model = inputs(1), make(number, NARROW)
    linear, slope = model(*batch), 0.2 if number == "03" else 0.01
    squashed = _with_last("leaky_relu", model)(*batch)
    torch.testing.assert_close(squashed, torch.where(linear < 0, slope * linear, linear))
    torch.testing.assert_close(_with_last("tanh", model)(*batch), linear.tanh())


def _with_last(last: str, model: Surrogate) -> Surrogate:
    """The same weights with another last layer."""
    number = next(one for one, kind in ARCHITECTURES.items() if kind is type(model))
    changed = make(number, NARROW, last=last)
    changed.load_state_dict(model.state_dict())
    return changed


def test_the_last_layers_of_the_originals_cost_accuracy_where_water_falls() -> None:
    """With the same first weights and the same steps. The loss of persistence is 1."""
    batch, model = inputs(2), make("02", NARROW)
    linear, squashed = (trained(_with_last(last, model), batch, shores(0.5), 120) for last in ("linear", "leaky_relu"))
    assert squashed > 1.4 * linear  # 1.7 to 2 times, over three seeds
    falling = torch.full((2, 1, 32, 32), -1.5)
    linear, bounded = (trained(_with_last(last, model), batch, falling, 40) for last in ("linear", "tanh"))
    assert linear < 0.2
    assert bounded > 1 / 3  # at most 1 of 1.5 m


def shores(height: float) -> Tensor:
    """(2, 1, 32, 32): water rises by `height` on one side of a shore that wanders, and falls on the other."""
    place = torch.arange(32.0)
    shore = 16 + 6 * torch.sin(place / 5)[:, None] * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    return height * ((place - shore) / 4).tanh()


def trained(model: Surrogate, batch: tuple[Tensor, ...], target: Tensor, steps: int, enough: float = 0.0) -> float:
    """L1 loss after so many steps, or when it is below `enough`, relative to that of persistence."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    loss = torch.tensor(1.0)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.l1_loss(model(*batch), target) / target.abs().mean()
        if loss < enough:
            break
        loss.backward()
        optimiser.step()
    return float(loss.detach())


@pytest.mark.parametrize(("number", "attention"), EVERY)
def test_every_architecture_overfits_one_batch(number: str, attention: str) -> None:
    assert trained(make(number, 0.25, attention), inputs(2), shores(0.5), 120, enough=0.25) < 0.25


def test_initial_weights_are_those_of_xavier_with_the_gain_of_the_activation() -> None:
    first, attention = nn.Conv2d(3, 16, 3), attention_of("self", 16)
    back, last = nn.ConvTranspose2d(16, 8, 4), nn.Conv2d(8, 1, 3)
    model = Surrogate(nn.Sequential(first, attention, back, last), "k11s10", "linear")
    initialise(model)
    gain = 2**0.5
    expected = (
        (first, 9 * (3 + 16), gain), (back, 16 * (8 + 16), gain), (last, 9 * (8 + 1), START),
        (attention.query, 2 * 16, 1.0), (model.downsampler, 2 * 121, 1.0),
    )  # fmt: skip
    for layer, fans, factor in expected:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        bound = factor * (6 / fans) ** 0.5
        assert bound * 0.9 < float(layer.weight.detach().abs().max()) <= bound
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_training_begins_near_persistence(number: str) -> None:
    with torch.no_grad():
        change = make(number)(torch.randn(4, 1, 321, 321), *(0.3 * torch.rand(4, 1, 32, 32) for _ in range(2)))
    assert 0 < change.abs().mean() < 0.05, "m; the depth is 0.15 m"


def test_networks_from_one_seed_are_equal_and_the_fixed_matrix_is_not_saved() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(9)
        models.append(make("08", NARROW, downsampler="bicubic"))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(isinstance(part, BothWays) for part in models[0].modules())
    assert not [name for name in states[0] if "matrix" in name]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"number": "06"}, "unknown architecture '06': choose one of 02, 03, 04, 05, 07, 08, 09"),
        ({"number": "02", "attention": "both"}, "unknown attention 'both': choose one of self, projection"),
        ({"number": "02", "downsampler": "k3"}, "unknown downsampler 'k3': choose one of alternating, k11s10, bicubic"),
        ({"number": "02", "last": "relu"}, "unknown last layer 'relu': choose one of linear, leaky_relu, tanh"),
        ({"number": "02", "width": 0}, "width must be > 0 (got 0)"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=re.escape(said)):
        make(**wrong)  # type: ignore[arg-type]

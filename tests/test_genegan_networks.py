"""The networks of the GeneGAN study: sizes and shapes, norms, block convolution, resizing, heads, critics."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from roundhouse.errors import RoundhouseError
from studies.genegan.layers import (
    BlockConvolution,
    SizedGroupNorm,
    SwitchableBatchNorm,
    mean_pool,
    pooling_matrix,
    resize,
    resizing_matrix,
)
from studies.genegan.losses import critic_loss, critic_terms, generator_loss, generator_terms, mean_squares
from studies.genegan.networks import Critics, Generator, Geometry, critic_inputs, exchange
from studies.genegan.options import Options
from studies.genegan.vqvae import VQVAE, vqvae_terms

SMALL = (32, 48, 64)
LARGE = (64, 96, 128)
few = settings(max_examples=25, deadline=None)


def options_of(**keys: Any) -> Options:
    return Options(**{"sizes": SMALL, "width": 4, **keys})


def images_of(size: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def lively(network: nn.Module) -> None:
    """Set weights so large that images and scores differ visibly: from N(0, 0.02) all is grey at this width."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)


# Sizes and shapes


@pytest.mark.parametrize(
    ("sizes", "sides", "blocks_across"),
    [
        (LARGE, [16, 12, 16], [4, 3, 4]),
        (SMALL, [8, 6, 8], [4, 3, 4]),
        ((128,), [16], [4]),
        ((32,), [8], [4]),
        ((48, 96), [12, 12], [6, 6]),
    ],
)
def test_sides_of_maps_and_blocks(sizes: tuple[int, ...], sides: list[int], blocks_across: list[int]) -> None:
    geometry = Geometry.of(sizes)
    assert [geometry.side(size) for size in sizes] == sides
    assert [side // geometry.block for side in sides] == blocks_across


@pytest.mark.parametrize("sizes", [c for n in range(1, 6) for c in itertools.combinations((32, 48, 64, 96, 128), n)])
def test_any_sizes_have_maps_that_blocks_fill(sizes: tuple[int, ...]) -> None:
    geometry = Geometry.of(sizes)
    for size in sizes:
        assert geometry.side(size) * 2 ** geometry.halvings(size) == size
        assert geometry.side(size) % geometry.block == 0 and geometry.side(size) <= 16


def test_full_size_has_the_layers_of_the_paper_for_several_sizes() -> None:
    with torch.device("meta"):
        generator, critics = Generator(Options(block_conv="object")), Critics(Options())
    shapes = {name: tuple(one.shape) for name, one in generator.named_parameters() if one.ndim >= 4}
    assert shapes == {
        "splitter.stages.0.convolution.weight": (128, 3, 4, 4),
        "splitter.stages.1.convolution.weight": (256, 128, 4, 4),
        "splitter.stages.2.convolution.weight": (512, 256, 3, 3),
        "splitter.third.convolution.weight": (512, 512, 4, 4),
        "joiner.stages.0.convolution.weight": (512, 512, 4, 4),  # transposed: channels in, channels out
        "joiner.stages.1.convolution.weight": (512, 256, 4, 4),
        "joiner.third.convolution.weight": (256, 256, 4, 4),
        "joiner.colours.weight": (3, 256, 3, 3),
        "object_blocks.kernels.12": (9, 128, 128, 3, 3),
        "object_blocks.kernels.16": (16, 128, 128, 3, 3),
    }
    shapes = {name: tuple(one.shape) for name, one in critics.named_parameters() if one.ndim >= 2}
    assert [shape for name, shape in shapes.items() if ".with." in name] == [
        (128, 3, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (512, 512, 4, 4), (1, 8192),
    ]  # fmt: skip
    assert len(shapes) == 10


def test_weights_and_norms_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    for module in (
        Generator(options_of(block_conv="both", width=8)),
        Critics(options_of(width=8)),
        VQVAE(options_of()),
    ):
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 4 or name.endswith("score.weight"):
                assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
                assert abs(parameter.mean().item()) < 0.006, name
            else:
                assert parameter.unique().tolist() == [1.0 if name.endswith("weight") else 0.0], name
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        assert norms and all((norm.momentum, norm.eps) == (0.01, 1e-3) for norm in norms)


@pytest.mark.parametrize("block_conv", ["none", "object", "both"])
@pytest.mark.parametrize("norm", ["switchable", "group"])
@pytest.mark.parametrize("sizes", [SMALL, LARGE, (48,)])
def test_each_size_in_gives_images_of_that_size(sizes: tuple[int, ...], norm: str, block_conv: str) -> None:
    options = options_of(sizes=sizes, norm=norm, block_conv=block_conv)
    generator, critics = Generator(options), Critics(options)
    for size in sizes:
        made = exchange(generator, images_of(size), images_of(size, seed=1))
        assert list(made) == [size]
        side = Geometry.of(sizes).side(size)
        assert made[size].left_over.shape == (2, 4, side, side)
        for images in (made[size].added, made[size].removed, made[size].rebuilt_with, made[size].rebuilt_without):
            assert images.shape == (2, 3, size, size) and images.min() >= 0 and images.max() <= 1
            assert critics(images, "with").shape == (2,)


def test_an_exchange_joins_the_parts_that_it_says() -> None:
    generator = Generator(options_of(block_conv="object")).eval()  # in training, batch norm looks at the whole batch
    lively(generator)
    real_with, real_without = images_of(48), images_of(48, seed=1)
    made = exchange(generator, real_with, real_without)[48]
    (a, u), (b, e) = generator.split(real_with), generator.split(real_without)
    assert a.shape == (2, 12, 6, 6) and u.shape == (2, 4, 6, 6)
    expected = {
        "real_with": real_with, "real_without": real_without, "left_over": e,
        "rebuilt_with": generator.join(a, u, 48), "rebuilt_without": generator.join(b, None, 48),
        "added": generator.join(b, u, 48), "removed": generator.join(a, None, 48),
    }  # fmt: skip
    for name, images in expected.items():
        assert torch.allclose(getattr(made, name), images, atol=1e-6), name
    assert (made.added - made.rebuilt_without).abs().max() > 0.01


def test_the_size_decides_what_features_of_one_shape_become() -> None:
    generator = Generator(options_of())
    background, object_part = torch.rand(1, 12, 8, 8), torch.rand(1, 4, 8, 8)
    assert generator.join(background, object_part, 32).shape[-1] == 32
    assert generator.join(background, object_part, 64).shape[-1] == 64
    with pytest.raises(RoundhouseError, match="features of side 8 do not make images of side 48"):
        generator.join(background, object_part, 48)
    with pytest.raises(RoundhouseError, match="asked for images of side 40.* sides 32, 48, 64"):
        generator.join(background, object_part, 40)


def test_images_of_another_size_are_an_error_that_names_the_sizes() -> None:
    options = options_of()
    for network in (Generator(options).split, lambda x: Critics(options)(x, "with"), VQVAE(options)):
        with pytest.raises(RoundhouseError, match="images of 40x40 pixels; it was made for sides 32, 48, 64"):
            network(images_of(40))
        with pytest.raises(RoundhouseError, match="images of 64x32 pixels"):
            network(torch.rand(1, 3, 64, 32))
    with pytest.raises(RoundhouseError, match=r"\(2, 3, 32, 32\) and \(1, 3, 32, 32\); they must be equal"):
        exchange(Generator(options), images_of(32), images_of(32, count=1))


# Norms


@few
@given(st.lists(st.sampled_from(SMALL), max_size=8), st.integers(0, 1000))
def test_statistics_of_a_size_are_those_of_its_own_batches(sizes: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    norm = SwitchableBatchNorm(3, SMALL).double()
    mean = {size: torch.zeros(3, dtype=torch.float64) for size in SMALL}
    variance = {size: torch.ones(3, dtype=torch.float64) for size in SMALL}
    for size in sizes:
        x = 5 * torch.randn(2, 3, 4, 4, generator=random, dtype=torch.float64) + size
        y = norm(x, size)
        for channel in range(3):
            values = x[:, channel].flatten()
            centre, spread = values.mean(), values.var(correction=0)
            assert torch.allclose(y[:, channel].flatten(), (values - centre) / (spread + 1e-3).sqrt())
            mean[size][channel] = 0.99 * mean[size][channel] + 0.01 * centre
            variance[size][channel] = 0.99 * variance[size][channel] + 0.01 * values.var()
    norm.eval()
    x = torch.randn(2, 3, 4, 4, generator=random, dtype=torch.float64)
    for size in SMALL:
        expected = (x - mean[size].view(3, 1, 1)) / (variance[size].view(3, 1, 1) + 1e-3).sqrt()
        assert torch.allclose(norm(x, size), expected)


def belongs_to(name: str) -> str | None:
    """The size in the name of an entry of a switchable norm."""
    return name.split(".of.")[1].split(".")[0] if ".of." in name else None


@pytest.mark.parametrize("trained", SMALL)
def test_training_at_one_size_leaves_the_norms_of_the_others_as_they_are(trained: int) -> None:
    options = options_of(block_conv="both")
    generator, critics = Generator(options), Critics(options)
    networks = nn.ModuleDict({"generator": generator, "critics": critics})
    optimiser = torch.optim.SGD(networks.parameters(), lr=1.0)
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    made = exchange(generator, images_of(trained), images_of(trained, seed=1))
    terms = {size: generator_terms(one, "wgan", critics) for size, one in made.items()}
    generator_loss(terms, {trained: 1.0}, mean_squares(generator), options)["loss"].backward()
    optimiser.step()
    changed = {name for name, value in networks.state_dict().items() if not torch.equal(value, before[name])}
    assert {belongs_to(name) for name in changed} == {None, str(trained)}
    own = {name for name in before if belongs_to(name) == str(trained)}
    assert own <= changed


def test_group_norm_follows_its_equation_and_ignores_size_and_batch() -> None:
    x = 3 * torch.randn(2, 64, 4, 4, dtype=torch.float64) + 1
    norm = SizedGroupNorm(64).double()
    found = norm(x, 32)
    for sample in range(2):
        for group in range(32):
            values = x[sample, 2 * group : 2 * group + 2]
            expected = (values - values.mean()) / (values.var(correction=0) + 1e-3).sqrt()
            assert torch.allclose(found[sample, 2 * group : 2 * group + 2], expected)
    assert torch.equal(norm(x[:1], 128), found[:1])


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (16, 16), (32, 32), (512, 32), (48, 16)])
def test_groups_are_32_or_one_for_each_channel(channels: int, groups: int) -> None:
    assert SizedGroupNorm(channels).norm.num_groups == groups


# Block convolution


def over_blocks(layer: BlockConvolution, x: Tensor) -> Tensor:
    """The layer as a loop over its blocks."""
    side = x.shape[-1]
    y = x.clone()
    for index in range((side // layer.block) ** 2):
        row, column = divmod(index, side // layer.block)
        rows = slice(row * layer.block, (row + 1) * layer.block)
        columns = slice(column * layer.block, (column + 1) * layer.block)
        kernel, bias = layer.kernels[str(side)][index], layer.biases[str(side)][index]
        y[:, :, rows, columns] = y[:, :, rows, columns] + F.conv2d(x[:, :, rows, columns], kernel, bias, padding=1)
    return y


@pytest.mark.parametrize(("side", "block"), [(16, 4), (12, 4), (8, 2), (6, 2)])
def test_block_convolution_equals_a_loop_over_blocks(side: int, block: int) -> None:
    torch.manual_seed(0)
    layer = BlockConvolution(5, [side], block).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, side, side, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x), over_blocks(layer, x)
    assert torch.allclose(found, expected)
    towards = torch.randn_like(found)
    gradients = [torch.autograd.grad((y * towards).sum(), [x, *layer.parameters()]) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other)


@few
@given(st.integers(0, 5), st.integers(0, 5))
def test_a_pixel_changes_its_own_block_only(row: int, column: int) -> None:
    torch.manual_seed(0)
    layer = BlockConvolution(2, [6], 2)
    x = torch.zeros(1, 2, 6, 6)
    x[:, :, row, column] = 1
    changed = ((layer(x) - layer(torch.zeros_like(x))).abs().sum(1)[0] > 0).nonzero()
    assert {(int(r) // 2, int(c) // 2) for r, c in changed} == {(row // 2, column // 2)}
    assert len(changed) == 4


def test_sizes_whose_maps_have_one_side_share_kernels() -> None:
    generator = Generator(options_of(block_conv="both"))
    assert generator.object_blocks is not None and generator.background_blocks is not None
    assert set(generator.object_blocks.kernels) == {"6", "8"}
    assert generator.object_blocks.kernels["6"].shape == (9, 4, 4, 3, 3)
    assert generator.background_blocks.kernels["8"].shape == (16, 12, 12, 3, 3)


@pytest.mark.parametrize(("block_conv", "changes"), [("none", []), ("object", ["u"]), ("both", ["A", "u"])])
def test_block_convolution_acts_on_the_parts_that_the_option_names(block_conv: str, changes: list[str]) -> None:
    generator = Generator(options_of(block_conv=block_conv)).eval()
    lively(generator)
    features = generator.splitter(images_of(32), 32)
    parts = dict(zip(("A", "u"), generator.split(images_of(32)), strict=True))
    plain = {"A": features[:, :12], "u": features[:, 12:]}
    assert [name for name in parts if not torch.equal(parts[name], plain[name])] == changes


# Resizing and pooling


@few
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_resizing_is_that_of_interpolate_with_antialiasing(height: int, width: int, new: int) -> None:
    x = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    found = resize(x, new)
    expected = F.interpolate(x, size=(new, new), mode="bilinear", antialias=True)
    assert torch.allclose(found, expected, atol=1e-10)
    towards = torch.rand_like(found)
    gradients = [torch.autograd.grad((y * towards).sum(), x)[0] for y in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-10)


@pytest.mark.parametrize("new", [64, 96])
def test_resizing_keeps_a_constant_image_and_float32_under_autocast(new: int) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resize(torch.full((1, 3, 128, 128), 0.7), new)
    assert found.dtype == torch.float32 and torch.allclose(found, torch.tensor(0.7), atol=1e-6)


@few
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8))
def test_pooling_is_adaptive_mean_pooling(height: int, width: int, side: int) -> None:
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    assert torch.allclose(mean_pool(x, side), F.adaptive_avg_pool2d(x, side))


def test_matrices_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        resize(images_of(31), 17)
    x = images_of(31).requires_grad_()
    resize(x, 17).sum().backward()
    assert x.grad is not None
    assert resizing_matrix(31, 17).shape == pooling_matrix(31, 17).shape == (17, 31)


# Several sizes out


def test_heads_make_the_smaller_images_from_the_largest() -> None:
    generator = Generator(options_of(outputs="multiscale")).eval()
    assert generator.sizes == (64,) and generator.output_sizes == SMALL
    lively(generator)
    made = exchange(generator, images_of(64), images_of(64, seed=1))
    assert sorted(made) == list(SMALL)
    colours = torch.atanh(2 * made[64].added.double() - 1)
    small = F.interpolate(colours, size=(32, 32), mode="bilinear", antialias=True)
    weight, bias = generator.heads["32"].weight[:, :, 0, 0].double(), generator.heads["32"].bias.double()
    for row, column in itertools.product(range(32), range(32)):
        for sample in range(2):
            expected = (torch.tanh(weight @ small[sample, :, row, column] + bias) + 1) / 2
            assert torch.allclose(made[32].added[sample, :, row, column].double(), expected, atol=1e-5)
    assert torch.allclose(made[48].real_with, resize(images_of(64), 48))
    background, object_part = generator.split(images_of(64, seed=1))
    removed = generator.join(background, None, 48)
    assert torch.allclose(removed, made[48].rebuilt_without, atol=1e-6)


def test_heads_start_as_the_identity() -> None:
    generator = Generator(options_of(outputs="multiscale")).eval()
    lively(generator.splitter)
    lively(generator.joiner)
    made = exchange(generator, images_of(64), images_of(64, seed=1))
    colours = torch.atanh(2 * made[64].removed - 1)
    assert torch.allclose(made[32].removed, (torch.tanh(resize(colours, 32)) + 1) / 2, atol=1e-5)
    with pytest.raises(RoundhouseError, match="splitter got images of 32x32 pixels; it was made for sides 64"):
        generator.split(images_of(32))


# Critics


def test_with_r1_a_score_depends_on_no_other_image() -> None:
    first, others = images_of(32, count=1), images_of(32, count=3, seed=1)
    alone_or_not = {}
    for objective in ("wgan", "r1"):
        critics = Critics(options_of(objective=objective))
        lively(critics)
        has_batch_norm = any(isinstance(part, nn.BatchNorm2d) for part in critics.modules())
        assert has_batch_norm == (objective == "wgan")
        together = critics(torch.cat([first, others]), "with")[:1]
        alone_or_not[objective] = torch.allclose(together, critics(first, "with"), rtol=1e-4)
    assert alone_or_not == {"wgan": False, "r1": True}


def test_the_two_critics_share_nothing() -> None:
    critics = Critics(options_of())
    critics(images_of(48), "with").sum().backward()
    got = {".with." in name for name, one in critics.named_parameters() if one.grad is not None}
    assert got == {True}


@pytest.mark.parametrize(
    ("keys", "sizes", "pairs"),
    [
        ({}, SMALL, 1),
        ({"outputs": "multiscale"}, (64,), 1),
        ({"outputs": "multiscale", "adversarial": "all"}, SMALL, 3),
    ],
)
def test_critics_by_size(keys: dict[str, str], sizes: tuple[int, ...], pairs: int) -> None:
    critics = Critics(options_of(**keys))
    assert critics.sizes == sizes and len(critics.pairs) == pairs
    used = set()
    for size in sizes:
        critics.zero_grad()
        critics(images_of(size), "with").sum().backward()
        used.add(tuple(name for name, one in critics.named_parameters() if one.grad is not None and one.ndim > 1))
    assert len(used) == pairs, "critics for several sizes share their kernels, others have their own"


# Determinism


class Recorder(TorchDispatchMode):
    """Names of all operations, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


# Parts of the names of operations that are so on CUDA, by the documentation of torch.use_deterministic_algorithms.
NONDETERMINISTIC = (
    "upsample", "adaptive", "avg_pool", "max_pool", "pad", "grid_sampler", "scatter", "index_add", "index_put",
    "put_", "bincount", "histc", "cumsum", "median", "kthvalue", "embedding_bag", "unpool", "ctc_loss", "nll_loss2d",
    "index_reduce", "index_copy",
)  # fmt: skip


def nondeterministic(names: set[str]) -> set[str]:
    return {name for name in names if any(part in name for part in NONDETERMINISTIC)}


@pytest.mark.parametrize("outputs", ["each", "multiscale"])
@pytest.mark.parametrize(("objective", "norm"), [("wgan", "switchable"), ("r1", "group")])
def test_a_step_uses_no_operation_that_is_nondeterministic_on_cuda(outputs: str, objective: str, norm: str) -> None:
    options = options_of(outputs=outputs, objective=objective, norm=norm, block_conv="both", adversarial="all")
    generator, critics, autoencoder = Generator(options), Critics(options), VQVAE(options)
    with Recorder() as recorder:
        for size in generator.sizes:
            made = exchange(generator, images_of(size), images_of(size, seed=1))
            weights = {one: 1 / len(made) for one in made}
            terms = {one: critic_terms(images, objective, critics) for one, images in made.items()}
            critic_loss(terms, weights, options)["loss"].backward()
            terms = {one: generator_terms(images, objective, critics) for one, images in made.items()}
            generator_loss(terms, weights, mean_squares(generator), options)["loss"].backward()
            vqvae_terms(autoencoder, images_of(size))["loss"].backward()
    assert {"convolution_backward", "bmm", "im2col", "col2im"} <= recorder.names
    assert not nondeterministic(recorder.names)


def test_the_record_would_show_a_nondeterministic_backward() -> None:
    x = images_of(32).requires_grad_()
    with Recorder() as recorder:
        F.interpolate(x, size=(16, 16), mode="bilinear", antialias=True).sum().backward()
    assert "_upsample_bilinear2d_aa_backward" in nondeterministic(recorder.names)


def test_critics_get_the_images_of_an_exchange() -> None:
    """Group norm: with batch norm the others in the batch differ."""
    for more in ({}, {"outputs": "multiscale"}):
        torch.manual_seed(0)
        generator = Generator(options_of(norm="group", **more))
        size = generator.sizes[-1]
        pair = images_of(size), images_of(size, seed=1)
        made, seen = exchange(generator, *pair), critic_inputs(generator, *pair)
        assert made.keys() == seen.keys()
        for one, expected in made.items():
            for name in ("real_with", "real_without", "added", "removed"):
                assert torch.allclose(getattr(seen[one], name), getattr(expected, name), atol=1e-6), name

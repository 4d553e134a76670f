"""The VQVAE of the GeneGAN study: its codebook, its training, and loading of its weights into the generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError
from studies.genegan.mapping import read_mapping
from studies.genegan.networks import Generator
from studies.genegan.options import Options
from studies.genegan.vqvae import CODES, OWN_MAPPING, VQVAE, Codebook, load_mapped, vqvae_terms

SMALL = (32, 48, 64)


def options_of(**keys: Any) -> Options:
    return Options(**{"sizes": SMALL, "width": 4, **keys})


def images_of(size: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features_of(seed: int, count: int = 10) -> Tensor:
    """(count, 3, 8, 8): 64 vectors of 3 numbers each."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors_of(z: Tensor) -> list[list[float]]:
    count, _, height, width = z.shape
    return [z[i, :, j, k].tolist() for i in range(count) for j in range(height) for k in range(width)]


# The codebook


def test_the_first_batch_becomes_the_codebook() -> None:
    codebook = Codebook(3).double()
    z = features_of(0)
    codebook(z)
    assert len({tuple(code) for code in codebook.codes.tolist()}) == CODES
    vectors = torch.tensor(vectors_of(z), dtype=torch.float64)
    distances = (vectors[:, None] - codebook.codes).square().sum(-1).min(1).values
    assert distances.mean() < 0.02 * vectors.square().sum(1).mean()


def test_each_vector_becomes_its_nearest_code_and_its_gradient_passes_straight() -> None:
    codebook = Codebook(3).double()
    codebook(features_of(0))
    codebook.eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    z = features_of(1, count=1).requires_grad_()
    found = codebook(z)
    codes = codebook.codes.tolist()
    chosen = []
    for vector, got in zip(vectors_of(z.detach()), vectors_of(found.codes.detach()), strict=True):
        distances = [sum((a - b) ** 2 for a, b in zip(vector, code, strict=True)) for code in codes]
        chosen.append(distances.index(min(distances)))
        assert got == pytest.approx(codes[chosen[-1]], rel=1e-12)
    assert found.used.item() == pytest.approx(len(set(chosen)) / CODES)
    codes_of = torch.tensor([codes[k] for k in chosen], dtype=torch.float64)
    differences = (torch.tensor(vectors_of(z.detach()), dtype=torch.float64) - codes_of).flatten().tolist()
    assert found.commitment.item() == pytest.approx(sum(one**2 for one in differences) / len(differences))

    towards = torch.randn_like(z)
    (straight,) = torch.autograd.grad((found.codes * towards).sum(), z, retain_graph=True)
    assert torch.equal(straight, towards)
    (committed,) = torch.autograd.grad(found.commitment, z)
    assert torch.allclose(committed, 2 * (z - found.codes).detach() / z.numel())
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items()), "not in evaluation"


def test_codes_are_moving_averages_of_the_vectors_that_choose_them() -> None:
    codebook = Codebook(3).double()
    codebook(features_of(0))
    z = features_of(1)
    codes, counts, sums = codebook.codes.tolist(), codebook.counts.tolist(), codebook.sums.tolist()
    assert min(counts) > 0.9, "no code is dead yet"
    number, total = [0] * CODES, [[0.0] * 3 for _ in range(CODES)]
    for vector in vectors_of(z):
        distances = [sum((a - b) ** 2 for a, b in zip(vector, code, strict=True)) for code in codes]
        k = distances.index(min(distances))
        number[k] += 1
        total[k] = [a + b for a, b in zip(total[k], vector, strict=True)]
    codebook(z)
    for k in range(CODES):
        count = 0.99 * counts[k] + 0.01 * number[k]
        expected = [(0.99 * a + 0.01 * b) / count for a, b in zip(sums[k], total[k], strict=True)]
        assert codebook.counts[k].item() == pytest.approx(count)
        assert codebook.codes[k].tolist() == pytest.approx(expected)


def test_a_dead_code_moves_to_a_vector_of_the_batch_and_no_other_does() -> None:
    codebook = Codebook(3).double()
    codebook(features_of(0))
    codebook.codes[7] = codebook.sums[7] = 1000.0
    codebook.counts[7], codebook.counts[9] = 0.0999, 0.1001
    others = codebook.codes.clone()
    z = features_of(1)
    codebook._restart(torch.tensor(vectors_of(z), dtype=torch.float64))
    assert codebook.codes[7].tolist() == vectors_of(z)[7 * 640 // CODES]
    assert codebook.counts[7] == 1 and codebook.counts[9] == 0.1001
    others[7] = codebook.codes[7]
    assert torch.equal(codebook.codes, others)


@pytest.mark.parametrize("outputs", ["each", "multiscale"])
def test_training_brings_the_loss_down(outputs: str) -> None:
    torch.manual_seed(0)
    options = options_of(sizes=(32, 48), width=8, outputs=outputs)
    model = VQVAE(options)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    images = {size: images_of(size, count=4) ** 3 for size in model.sizes}
    losses = []
    for _ in range(30):
        terms = [vqvae_terms(model, images[size]) for size in model.sizes]
        loss = torch.stack([one["loss"] for one in terms]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(torch.stack([one["reconstruction"] for one in terms]).mean().item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


# Loading


def lively(network: nn.Module) -> None:
    for value in network.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.9)


@pytest.mark.parametrize("block_conv", ["none", "both"])
@pytest.mark.parametrize("outputs", ["each", "multiscale"])
@pytest.mark.parametrize("norm", ["switchable", "group"])
def test_our_own_vqvae_gives_all_of_splitter_and_joiner(norm: str, outputs: str, block_conv: str) -> None:
    options = options_of(norm=norm, outputs=outputs, block_conv=block_conv)
    model, generator = VQVAE(options), Generator(options)
    lively(model)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    report = load_mapped(generator, model.state_dict())
    names = set(generator.state_dict())
    assert set(report.loaded) == {name for name in names if name.startswith(("splitter.", "joiner."))}
    assert set(report.not_loaded) == names - set(report.loaded)
    assert all(name.startswith(("heads.", "object_blocks.", "background_blocks.")) for name in report.not_loaded)
    assert report.unused == ("codebook.codes", "codebook.counts", "codebook.sums")
    for name, value in generator.state_dict().items():
        source = name.replace("splitter.", "encoder.").replace("joiner.", "decoder.")
        expected = model.state_dict()[source] if name in report.loaded else before[name]
        assert torch.equal(value, expected), name
    model.eval()
    generator.eval()
    features = model.encoder(images_of(64), 64)
    if block_conv == "none":
        assert torch.equal(torch.cat(generator.split(images_of(64)), dim=1), features)


def test_a_vqvae_of_all_sizes_starts_a_generator_of_the_largest() -> None:
    model, generator = VQVAE(options_of()), Generator(options_of(outputs="multiscale"))
    report = load_mapped(generator, model.state_dict())
    assert set(report.not_loaded) == {f"heads.{size}.{part}" for size in (32, 48) for part in ("weight", "bias")}
    assert "encoder.stages.1.norm.of.32.weight" in report.unused
    assert "splitter.stages.1.norm.of.64.weight" in report.loaded
    text = str(report).splitlines()
    assert [line.split(" (")[0] for line in text] == ["loaded", "not loaded, initial values", "not used"]
    assert f"({len(report.loaded)}): " in text[0] and "heads.32.bias" in text[1] and "codebook.codes" in text[2]


def test_names_of_another_authors_weights() -> None:
    generator = Generator(options_of())
    weights = {
        "enc.0.weight": torch.full((4, 3, 4, 4), 0.5),
        "enc.first.weight": torch.zeros(4, 3, 4, 4),
        "dec.colours.bias": torch.full((3,), 0.25),
        "quantizer": torch.zeros(2),
    }
    mapping = {
        "enc.0.weight": "splitter.stages.0.convolution.weight",
        "enc.": "no.such.part.",
        "dec.": "nor.this.one.",
        "dec.colours.": "joiner.colours.",
    }
    report = load_mapped(generator, weights, mapping)
    assert report.loaded == ("joiner.colours.bias", "splitter.stages.0.convolution.weight")
    assert report.unused == ("enc.first.weight", "quantizer")
    assert generator.splitter.stages[0].convolution.weight.unique().tolist() == [0.5]
    assert generator.joiner.colours.bias is not None and generator.joiner.colours.bias.unique().tolist() == [0.25]
    assert len(report.loaded) + len(report.not_loaded) == len(generator.state_dict())


COLOURS = "joiner.colours.bias"


@pytest.mark.parametrize(
    ("weights", "mapping", "message"),
    [
        ({"a.b": torch.zeros(3)}, OWN_MAPPING, r"none of the 1 names of the weights \(a.b ...\).*init_map"),
        ({}, OWN_MAPPING, "none of the 0 names"),
        ({"a": torch.zeros(4)}, {"a": COLOURS}, r"'a' of the weights has the shape \(4,\), and .* \(3,\)"),
        ({"a": torch.zeros(3)}, {"b": COLOURS}, "the mapping names 'b', which the weights do not have"),
        ({"a": torch.zeros(3)}, {"a": "joiner.x"}, "the mapping names 'joiner.x', which the generator does not have"),
        ({"a": torch.zeros(3), "b": torch.zeros(3)}, {"a": COLOURS, "b": COLOURS}, "the weights 'a' and 'b'"),
        ({"a": {"weight": 1}}, {"a": COLOURS}, "'a', which is no tensor but dict"),
    ],
)
def test_what_does_not_fit_is_an_error_and_changes_nothing(
    weights: dict[str, object], mapping: dict[str, str], message: str
) -> None:
    generator = Generator(options_of())
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    with pytest.raises(RoundhouseError, match=message):
        load_mapped(generator, weights, mapping)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_weights_of_another_width_are_an_error() -> None:
    with pytest.raises(RoundhouseError, match="take weights of the same width and sizes"):
        load_mapped(Generator(options_of()), VQVAE(options_of(width=8)).state_dict())


def test_a_mapping_file(tmp_path: Path) -> None:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps(dict(OWN_MAPPING)))
    assert read_mapping(path) == OWN_MAPPING
    for text, message in (
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object: names"),
        ('{"a": 1}', "must be a JSON object: names"),
        ('{"a.": "b"}', "both or none must end in a dot"),
        ("{}", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(RoundhouseError, match=message):
            read_mapping(path)
    with pytest.raises(RoundhouseError, match="missing.json cannot be read"):
        read_mapping(tmp_path / "missing.json")

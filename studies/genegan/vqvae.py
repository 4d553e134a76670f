"""A VQVAE (van den Oord et al. 2017) of the shapes of splitter and joiner, and loading of its weights into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.training import Run
from studies.genegan.layers import at_least_float32, check_size, initialise
from studies.genegan.networks import Generator, Geometry, Joiner, Splitter, to_range
from studies.genegan.options import Options

CODES = 512
COMMITMENT = 0.25  # weight, as in the paper
DECAY = 0.99  # of the codes' averages, as in the paper's appendix
UNUSED = 0.1  # a code that fewer vectors of a batch choose, on average, is dead
OWN_MAPPING: Mapping[str, str] = {"encoder.": "splitter.", "decoder.": "joiner."}
"""Names in our own VQVAE -> names in the generator. A name that ends in a dot is a prefix."""


@dataclass(frozen=True)
class Quantised:
    """The codebook's answer to features z (B, D, m, m)."""

    codes: Tensor  # (B, D, m, m): the nearest codes e; their gradient goes to z as it is (straight-through)
    commitment: Tensor  # scalar, mean (z - stop(e))^2
    used: Tensor  # scalar, share of the codes that this batch has chosen


class Codebook(nn.Module):
    """K codes e_k of D dimensions, learnt as moving averages of the vectors that choose them, not by a gradient.

    N_k <- g N_k + (1 - g) n_k, m_k <- g m_k + (1 - g) sum z, e_k = m_k / N_k: n_k vectors z of a batch are nearest to
    e_k (appendix A.1 of the paper). A code with N_k below 0.1 is dead, and is set to a vector of the batch. All are at
    the start, so the first batch initialises the codebook. As with batch norm, a forward pass in training updates it.
    """

    codes: Tensor  # (K, D)
    counts: Tensor  # (K,), N
    sums: Tensor  # (K, D), m

    run: Run | None = None
    """The run that trains it: with several processes, the moving averages are those over all of them."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(CODES, dimension))
        self.register_buffer("counts", torch.zeros(CODES))
        self.register_buffer("sums", torch.zeros(CODES, dimension))

    def forward(self, z: Tensor) -> Quantised:
        z = at_least_float32(z)
        vectors = z.detach().movedim(1, -1).flatten(0, -2)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            if self.training:
                self._restart(vectors)
            chosen = self._nearest(vectors)
            nearest = self.codes[chosen]
            choices = (chosen[:, None] == torch.arange(CODES, device=z.device)).to(vectors.dtype)
            if self.training:
                self._learn(vectors, choices)
        count, _, height, width = z.shape
        codes = nearest.reshape(count, height, width, -1).movedim(-1, 1)
        used = (choices.sum(0) > 0).to(vectors.dtype).mean()
        return Quantised(z + (codes - z).detach(), (z - codes).square().mean(), used)

    def _nearest(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N,): the k with the smallest |e_k|^2 - 2 z e_k."""
        return (self.codes.square().sum(1) - 2 * vectors @ self.codes.mT).argmin(1)

    def _learn(self, vectors: Tensor, choices: Tensor) -> None:
        """`choices` (N, K) is 1 where a vector chooses a code: sums as a matrix product are deterministic on CUDA."""
        self.counts.lerp_(self._summed(choices.sum(0)), 1 - DECAY)
        self.sums.lerp_(self._summed(choices.mT @ vectors), 1 - DECAY)
        self.codes.copy_(self.sums / self.counts[:, None])

    def _restart(self, vectors: Tensor) -> None:
        """Set dead codes to vectors at even distances in the batch: no random numbers, so a resumed run is the same."""
        dead = (self.counts < UNUSED)[:, None]
        chosen = vectors[torch.arange(CODES, device=vectors.device) * len(vectors) // CODES]
        if self.run is not None:  # those of process 0
            chosen = self._summed(chosen if self.run.rank == 0 else torch.zeros_like(chosen))
        self.sums.copy_(torch.where(dead, chosen, self.sums))
        self.codes.copy_(torch.where(dead, chosen, self.codes))
        self.counts.copy_(torch.where(dead[:, 0], 1.0, self.counts))

    def _summed(self, values: Tensor) -> Tensor:
        """The sum over the processes of the run."""
        return values if self.run is None else self.run.reduce(values, "sum")


class VQVAE(nn.Module):
    """encoder: the splitter's convolutions; codebook; decoder: the joiner. For all sizes that the splitter takes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.sizes = options.input_sizes
        geometry = Geometry.of(options.sizes)
        self.encoder = Splitter(options.width, self.sizes, geometry, options.norm)
        self.codebook = Codebook(4 * options.width)
        self.decoder = Joiner(options.width, self.sizes, geometry, options.norm)
        initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Quantised]:
        """(B, 3, s, s) in [0, 1] -> images rebuilt from codes (B, 3, s, s), and the codes."""
        size = check_size(images, self.sizes, "VQVAE")
        quantised = self.codebook(self.encoder(images, size))
        return to_range(at_least_float32(self.decoder(quantised.codes, size))), quantised


def vqvae_terms(model: VQVAE, images: Tensor) -> dict[str, Tensor]:
    """Scalars at one size: reconstruction mean |x - x'|, commitment mean (z - stop(e))^2, their `loss`, and `used`.

    loss = reconstruction + 0.25 commitment. The reconstruction is GeneGAN's, where the paper has squares.
    """
    rebuilt, quantised = model(images)
    reconstruction, commitment = (images - rebuilt).abs().mean(), quantised.commitment
    loss = reconstruction + COMMITMENT * commitment
    return {"loss": loss, "reconstruction": reconstruction, "commitment": commitment, "used": quantised.used}


@dataclass(frozen=True)
class Report:
    """What `load_mapped` has done, as sorted names."""

    loaded: tuple[str, ...]  # names of the generator that were loaded
    not_loaded: tuple[str, ...]  # names of the generator that keep their values
    unused: tuple[str, ...]  # names of the weights that nothing was loaded from

    def __str__(self) -> str:
        lines = [
            f"{title} ({len(names)}): {', '.join(names) or 'none'}"
            for title, names in (
                ("loaded", self.loaded),
                ("not loaded, initial values", self.not_loaded),
                ("not used", self.unused),
            )
        ]
        return "\n".join(lines)


def load_mapped(
    generator: Generator, weights: Mapping[str, object], mapping: Mapping[str, str] = OWN_MAPPING
) -> Report:
    """Copy weights into the generator; `mapping`: names of weights -> names of the generator.

    A name in full goes before a prefix (a name that ends in a dot), and a longer prefix before a shorter one. What a
    prefix finds and the generator does not have stays unused. Errors: no match at all, another shape, a name in full
    that does not exist, two weights for one name. Nothing is copied then.
    """
    own = generator.state_dict()
    _check_full_names(mapping, weights, own)
    sources: dict[str, str] = {}
    for name in weights:
        target = _target(name, mapping)
        if target in own:
            if target in sources:
                raise StudyError(f"the mapping gives {target!r} the weights {sources[target]!r} and {name!r}")
            sources[target] = name
    if not sources:
        some = ", ".join(list(weights)[:3]) or "none"
        raise StudyError(
            f"none of the {len(weights)} names of the weights ({some} ...) is a name of the generator by the mapping; "
            "give config key 'init_map' a JSON file with names of the weights -> names of the generator"
        )
    found = {target: _fitting(name, weights[name], target, own[target]) for target, name in sources.items()}
    generator.load_state_dict(found, strict=False)
    return Report(
        loaded=tuple(sorted(found)),
        not_loaded=tuple(sorted(own.keys() - found.keys())),
        unused=tuple(sorted(weights.keys() - set(sources.values()))),
    )


def _check_full_names(mapping: Mapping[str, str], weights: Mapping[str, object], own: Mapping[str, Tensor]) -> None:
    for name, target in mapping.items():
        if name.endswith("."):
            continue
        if name not in weights:
            raise StudyError(f"the mapping names {name!r}, which the weights do not have")
        if target not in own:
            raise StudyError(f"the mapping names {target!r}, which the generator does not have")


def _target(name: str, mapping: Mapping[str, str]) -> str | None:
    """The name in the generator, by the mapping's full name or its longest prefix of this name."""
    fitting = [key for key in mapping if name == key or (key.endswith(".") and name.startswith(key))]
    if not fitting:
        return None
    best = name if name in mapping else max(fitting, key=len)
    return mapping[best] + name[len(best) :]


def _fitting(name: str, value: object, target: str, own: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise StudyError(f"the weights have {name!r}, which is no tensor but {type(value).__name__}")
    if value.shape != own.shape:
        shapes = f"{tuple(value.shape)}, and {target!r} of the generator {tuple(own.shape)}"
        raise StudyError(f"{name!r} of the weights has the shape {shapes}; take weights of the same width and sizes")
    return value

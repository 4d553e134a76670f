"""Losses of GeneGAN (Zhou et al. 2017), clipping of the critics' weights, and the schedule of critic steps.

Terms are scalars without weights, computed for each size; `generator_loss` and `critic_loss` weight and add them. D_A
and D_B are the critics of images with and without the attribute; other names as in `networks.Exchange`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.genegan.networks import WITH, WITHOUT, CriticInputs, Exchange
from studies.genegan.options import Options

Scores = Callable[[Tensor, str], Tensor]
"""Images (B, 3, s, s) and "with" or "without" -> scores (B,): `networks.Critics`."""


def generator_terms(made: Exchange, objective: str, critics: Scores | None) -> dict[str, Tensor]:
    """Terms of the generator at one size.

    - object: mean |e|
    - reconstruction: mean |Au - Au'| + mean |B0 - B0'|
    - parallelogram: mean |Au + B0 - Bu - A0|
    - adversarial, with critics only: -mean D_A(Bu) - mean D_B(A0) (wgan), or
      mean softplus(-D_A(Bu)) + mean softplus(-D_B(A0)) (r1)
    """
    terms = {
        "object": made.left_over.abs().mean(),
        "reconstruction": (made.real_with - made.rebuilt_with).abs().mean()
        + (made.real_without - made.rebuilt_without).abs().mean(),
        "parallelogram": (made.real_with + made.real_without - made.added - made.removed).abs().mean(),
    }
    if critics is not None:
        scores = critics(made.added, WITH), critics(made.removed, WITHOUT)
        each = [-score if objective == "wgan" else F.softplus(-score) for score in scores]
        terms["adversarial"] = each[0].mean() + each[1].mean()
    return terms


def generator_loss(
    terms: Mapping[int, Mapping[str, Tensor]], weights: Mapping[int, float], decay: Tensor, options: Options
) -> dict[str, Tensor]:
    """Terms of each size -> the mean of each over the sizes, `decay` (see `mean_squares`), and `loss`, their sum.

    loss = object + a reconstruction + b parallelogram + adversarial + c decay, with a, b, c from the options. The decay
    is that of all weights, so it is added once for all sizes.
    """
    means = over_sizes(terms, weights) | {"decay": decay}
    factors = {
        "reconstruction": options.reconstruction,
        "parallelogram": options.parallelogram,
        "decay": options.l2,
    }
    return means | {"loss": _total(means, factors)}


def critic_terms(made: CriticInputs, objective: str, critics: Scores) -> dict[str, Tensor]:
    """Terms of the critics at one size; images of the generator are detached, so that it gets no gradient.

    - wgan (Arjovsky et al. 2017): critic = mean(D_A(Bu) - D_A(Au)) + mean(D_B(A0) - D_B(B0))
    - r1 (Mescheder et al. 2018): critic = for both, mean softplus(D(made)) + mean softplus(-D(real)), and
      penalty = for both, mean over real images of the squared norm of the gradient of D(x) by x
    """
    pairs = ((made.real_with, made.added, WITH), (made.real_without, made.removed, WITHOUT))
    losses, penalties = [], []
    for real, fake, which in pairs:
        real = real.detach().requires_grad_(objective == "r1")
        of_real, of_fake = critics(real, which), critics(fake.detach(), which)
        if objective == "wgan":
            losses.append((of_fake - of_real).mean())
        else:
            losses.append(F.softplus(of_fake).mean() + F.softplus(-of_real).mean())
            penalties.append(gradient_penalty(of_real, real))
    terms = {"critic": losses[0] + losses[1]}
    if penalties:
        terms["penalty"] = penalties[0] + penalties[1]
    return terms


def critic_loss(
    terms: Mapping[int, Mapping[str, Tensor]], weights: Mapping[int, float], options: Options
) -> dict[str, Tensor]:
    """Terms of each size -> the mean of each over the sizes, and `loss` = critic + (r1 / 2) penalty."""
    means = over_sizes(terms, weights)
    return means | {"loss": _total(means, {"penalty": options.r1 / 2})}


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1 without its weight: the mean over images (B, C, H, W) of the squared norm of the gradient of their score.

    It is valid only if a score depends on no other image of the batch.
    """
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradients.square().flatten(1).sum(1).mean()


def over_sizes(terms: Mapping[int, Mapping[str, Tensor]], weights: Mapping[int, float]) -> dict[str, Tensor]:
    """The weighted sum of each term over the sizes. One that only some sizes have gets all of the weight there."""
    whole = sum(weights[size] for size in terms)
    found: dict[str, Tensor] = {}
    for name in {name: None for of_size in terms.values() for name in of_size}:
        sizes = [size for size in terms if name in terms[size]]
        part = sum(weights[size] for size in sizes)
        weighted = [weights[size] * whole / part * terms[size][name] for size in sizes]
        found[name] = torch.stack(weighted).sum()
    return found


def step_weights(options: Options, drawn: int | None, sizes: Sequence[int] | None = None) -> dict[int, float]:
    """Weights of the sizes in one step; they add up to 1. `sizes`: only these, such as those that critics see.

    `drawn`: the only size of a step of `resolution_mode: random`. It is drawn uniformly among n sizes, and its weight
    is n times that of `all`: the loss is then the same on average.
    """
    every = options.weights_of_sizes
    part = {size: every[size] for size in (sizes or every)}
    weights = {size: weight / sum(part.values()) for size, weight in part.items()}
    return weights if drawn is None else {drawn: len(weights) * weights[drawn]}


def mean_squares(generator: nn.Module) -> Tensor:
    """The sum over kernels W (tensors of four dimensions and more) of the mean of W^2; not of biases and norms.

    The kernels of block convolution for one side of maps are one W.
    """
    kernels = [one for one in generator.parameters() if one.ndim >= 4]
    return torch.stack([kernel.square().mean() for kernel in kernels]).sum()


@torch.no_grad()
def clip_weights(critics: nn.Module, bound: float) -> None:
    """Limit every parameter of the critics to [-bound, bound], those of norms too, as Arjovsky et al. (2017) do."""
    for parameter in critics.parameters():
        parameter.clamp_(-bound, bound)


def critic_steps_at(iteration: int, options: Options) -> int:
    """Critic steps of an iteration, counted from 0.

    wgan: `boost_steps` in each iteration that `boost_every` divides. 0 is one of them, as in the code of Arjovsky et
    al. (2017): critics that know nothing yet would guide the generator in its first steps.
    """
    boosted = options.objective == "wgan" and iteration % options.boost_every == 0
    return options.boost_steps if boosted else options.critic_steps


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, the parameters get no gradient, and gradients still flow through the module to its input."""
    parameters = [one for one in module.parameters() if one.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _total(terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
    return torch.stack([factors.get(name, 1.0) * term for name, term in terms.items()]).sum()

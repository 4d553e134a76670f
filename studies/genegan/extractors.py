"""Features of images for distances: the standard Inception network, or a small network that is trained from a seed.

Only with the features of the standard network, with the weights that torch-fidelity publishes, is a distance called
FID or KID. With others it is named "FD (small)" and so on: its values compare only with those of the same extractor.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from roundhouse.options import choose
from roundhouse.training import StudyError, derive_seed
from studies.data_files import file_digest
from studies.genegan import faces
from studies.genegan.cache import Value, cached, digest, folder_of
from studies.genegan.small_network import SmallNetwork, built, fit, in_parts

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_INCEPTION_FEATURES = 2048

_SMALL = {"version": 1, "size": 64, "width": 16, "features": 48, "images": 4000, "steps": 400, "batch": 64}
"""The recipe of the small extractor: increase the version when its training changes."""


@dataclass(frozen=True)
class Extractor:
    """Features (N, dimension) of images (N, 3, size, size) in [0, 1].

    Images are rounded to 8 bits first, as real ones are stored. `weights` is the SHA-256 of the network's weights.
    """

    name: str
    dimension: int
    weights: str
    network: Callable[[Tensor], Tensor]  # from uint8 images

    def __call__(self, images: Tensor) -> Tensor:
        levels = (images * 255).round().clamp(0, 255).to(torch.uint8)
        return in_parts(self.network, levels)

    @property
    def distance_name(self) -> str:
        """What its Frechet distance is called."""
        return "FID" if self.name == "inception" else f"FD ({self.name})"

    @property
    def kernel_name(self) -> str:
        """What its kernel distance is called."""
        return "KID" if self.name == "inception" else f"KD ({self.name})"


def chosen(name: str, images: int, data: Path | None = None) -> str:
    """`inception` or `small`; for `auto` the former if it is installed with its weights, and has fewer features.

    `images`: on each side. A Frechet distance needs more of them than features.
    """
    choose("extractor", name, ("auto", "inception", "small"))
    if name != "auto":
        return name
    usable = images > _INCEPTION_FEATURES and _installed() and weights_path(data).is_file()
    return "inception" if usable else "small"


def extractor(name: str, device: torch.device, data: Path | None = None) -> Extractor:
    """The extractor `inception` or `small`.

    `data`: the data directory, which has the weights and keeps the trained small network. StudyError: not there.
    """
    return _inception(device, data) if name == "inception" else _small(device, data)


# The standard network


def weights_path(data: Path | None) -> Path:
    return folder_of(data) / WEIGHTS


def _installed() -> bool:
    return importlib.util.find_spec("torch_fidelity") is not None


def damage_of(path: Path) -> str:
    """What is wrong with the file of the weights, and what to do; empty if it is good."""
    if not path.is_file():
        return f"its weights, {path}, are missing: run on a login node: toolbox/setup.sh --data inception"
    if (found := file_digest(path, "sha256")) != SHA256:
        return f"{path} is damaged: its SHA-256 is {found}, not {SHA256}; remove it, and download {URL} again"
    return ""


def _inception(device: torch.device, data: Path | None) -> Extractor:
    path = weights_path(data)
    problems = []
    if not _installed():
        problems.append("the package torch-fidelity is not installed: pip install '.[fidelity]'")
    if problem := damage_of(path):
        problems.append(problem)
    if problems:
        raise StudyError(f"extractor 'inception': {'; '.join(problems)}. Without it, use extractor 'small'")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)).to(device)
    return Extractor("inception", _INCEPTION_FEATURES, SHA256, lambda images: network(images.to(device))[0])


# The small network


def _small(device: torch.device, data: Path | None) -> Extractor:
    """A network that was trained to read the factors of procedural faces, such as places, colours, the mouth's curve.

    It is trained on a CPU, in about half a minute, and kept in the data directory. Its last hidden layer is used, with
    a mean of 0 and a variance of 1 for each feature over its training faces.
    """
    state = cached(folder_of(data), "small-extractor", _SMALL, _train_small)
    mean, sd = (state.pop(name).to(device) for name in ("mean", "sd"))
    network = _untrained()
    network.load_state_dict(state)
    network.to(device).eval().requires_grad_(False)
    weights = hashlib.sha256("".join(digest(one) for one in state.values()).encode()).hexdigest()

    def features(levels: Tensor) -> Tensor:
        return (network.features(levels.to(device)) - mean) / sd

    return Extractor("small", _SMALL["features"], weights, features)


def _train_small() -> Value:
    count, size = _SMALL["images"], _SMALL["size"]
    smiling = torch.arange(count) % 2 == 0
    images = faces.draw("extractor", count, size, smiling)
    network, targets = _untrained(), _targets(smiling)
    fit(network, images, targets, _loss, _SMALL["steps"], _SMALL["batch"], derive_seed("extractor", 1))
    features = in_parts(network.features, images)
    return {**network.state_dict(), "mean": features.mean(0), "sd": features.std(0).clamp(min=1e-6)}


def _targets(smiling: Tensor) -> Tensor:
    """What the network learns to read: all factors and the attribute, each with a mean of 0 and a variance of 1."""
    columns = [*faces.factors("extractor", len(smiling)).values(), smiling.float()]
    rows = torch.stack(columns, dim=1)
    return (rows - rows.mean(0)) / rows.std(0)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error; the attribute counts as much as ten factors, since it is what evaluations are about."""
    error = (outputs - targets).square().mean(0)
    return error[:-1].mean() + 10 * error[-1] / len(error)


def _untrained() -> SmallNetwork:
    outputs = len(faces.factors("extractor", 1)) + 1
    return built(derive_seed("extractor", 0), _SMALL["size"], _SMALL["width"], _SMALL["features"], outputs)

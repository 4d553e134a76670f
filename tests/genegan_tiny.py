"""Tiny runs of the GeneGAN study, for tests: small networks, few faces, and a judge that is hardly trained."""

from __future__ import annotations

from typing import Any

from studies.genegan import classifier, extractors

TINY: dict[str, Any] = {
    "sizes": (32, 48), "width": 4, "images": 24, "batch_size": 2, "iterations": 6, "save_every": 3, "log_every": 2,
    "evaluation_images": 20, "evaluation_size": 32, "feed": "device", "extractor": "small", "boost_every": 4,
    "boost_steps": 2,
}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "wgan": {}, "r1": {"objective": "r1", "norm": "group"}, "random": {"resolution_mode": "random"},
    "multiscale": {"outputs": "multiscale", "adversarial": "all", "evaluation_size": 48},
    "blocks": {"block_conv": "both"},
    "weights": {"scale_weights": "inverse"}, "workers": {"feed": "workers", "workers": 1},
    "vqvae": {"method": "vqvae"},
}  # fmt: skip
EXTRACTOR = {**extractors._SMALL, "size": 32, "images": 100, "steps": 3, "features": 8}
JUDGE = {**classifier._RECIPE, "images": 100, "held_out": 20, "steps": 3}


def hardly_trained() -> None:
    """Extractor and judge of this process are trained in a second, and know nothing."""
    extractors._SMALL.update(EXTRACTOR)
    classifier._RECIPE.update(JUDGE)

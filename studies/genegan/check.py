"""Before submission: every key and value of the config is valid, the files that it names exist; and `disk`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose, read_options
from studies.genegan import celeba
from studies.genegan.disk import disk
from studies.genegan.mapping import read_mapping
from studies.genegan.options import Options

__all__ = ["check", "disk", "is_file_name"]

FEATURES = {"inception": 2048, "small": 48, "auto": 48}
"""Of the extractors: a Frechet distance needs more images. `auto` has at least so many."""


def check(config: Mapping[str, Any], data: Path | None) -> None:
    """StudyError if a run with this config could not start. `data` holds the data sets; None: the default folder."""
    options = read_options(Options, config)
    if options.dataset == "celeba":
        _check_celeba(options, data)
    elif options.images == 1:
        raise StudyError("config key 'images' is 1; a run needs at least 2, one with the attribute and one without")
    if options.method == "genegan":
        _check_evaluation(options)
        _check_init(options)


def is_file_name(init: str) -> bool:
    """Whether `init` names a file, not a group of the round: it has a folder or a suffix."""
    return "/" in init or Path(init).suffix != ""


def _check_celeba(options: Options, data: Path | None) -> None:
    choose("attribute", options.attribute, celeba.ATTRIBUTES)
    if lack := celeba.missing(data, options.sizes):
        raise StudyError(lack)


def _check_evaluation(options: Options) -> None:
    """A rare attribute of CelebA may have fewer images all the same; then the run takes what there is."""
    number, features = options.evaluation_images, FEATURES[options.extractor]
    if number <= features:
        raise StudyError(
            f"config key 'evaluation_images' is {number}; with extractor {options.extractor!r} a distance needs more "
            f"than {features}, the number of its features"
        )
    most = min(celeba.HELD_OUT) // 2  # as many with the attribute as without
    if options.dataset == "celeba" and number > most:
        raise StudyError(
            f"config key 'evaluation_images' is {number}; CelebA's validation split has at most {most} images with an "
            "attribute and as many without"
        )


def _check_init(options: Options) -> None:
    if options.init is not None:
        if not options.init:
            raise StudyError("config key 'init' is empty; name a file of weights, or a group of VQVAE runs")
        if is_file_name(options.init) and not Path(options.init).is_file():
            raise StudyError(f"config key 'init': there is no file {Path(options.init).absolute()}")
    if options.init_map is not None:
        read_mapping(Path(options.init_map))

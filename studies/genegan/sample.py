"""Exchange the attribute among pictures of a person's own, by a trained generator.

`python -m studies.genegan.sample --checkpoint FILE --image FILE... --out FILE.png`

It writes one picture. Each row belongs to one image: the image, its reconstruction, the image without the attribute,
and then the image with the attribute of each image given, in their order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from roundhouse.training import StudyError, keep
from studies.commands import exit_code_of
from studies.genegan.loading import device_of, load_generator
from studies.genegan.pictures import grid
from studies.genegan.transfer import Generator


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: a file cannot be used, with the reason on stderr; 2: an option is wrong."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        loaded = load_generator(options.checkpoint, device_of(options.device))
        size = loaded.generator.sizes[-1]
        inputs = torch.stack([read_image(path, size) for path in options.image]).to(loaded.device)
        data = keep.encoded(options.out.name, grid(rows_of(loaded.generator, inputs)))
        keep.write(options.out.parent, options.out.name, data)
        print(f"{options.out}: {len(inputs)} x {3 + len(inputs)} images of {size} pixels")

    return exit_code_of(work)


@torch.no_grad()
def rows_of(generator: Generator, inputs: Tensor) -> Tensor:
    """(N, 3 + N, 3, S, S) from images (N, 3, S, S) in [0, 1]; see the head of this module."""
    size = inputs.shape[-1]
    background, part = generator.split(inputs)
    given = [generator.join(background, one.expand_as(part), size) for one in part[:, None]]
    without = generator.join(background, None, size)
    return torch.stack([inputs, generator.join(background, part, size), without, *given], dim=1)


def read_image(path: Path, size: int) -> Tensor:
    """The largest square in the middle of an image file, in [0, 1], (3, size, size). StudyError: it is no image."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except (OSError, Image.DecompressionBombError) as error:
        raise StudyError(f"--image {path}: it cannot be read as an image ({error})") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.genegan.sample", description="Exchange the attribute among pictures of your own."
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="best.pth, a kept checkpoint, or an experiment, whose newest is taken",
    )
    parser.add_argument(
        "--image", type=Path, required=True, nargs="+", action="extend", metavar="FILE", help="one or more pictures"
    )
    parser.add_argument("--out", type=Path, default=Path("sample.png"), metavar="FILE.png", help="default: sample.png")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N; auto: the first GPU if there is one")
    return parser


if __name__ == "__main__":
    sys.exit(main())

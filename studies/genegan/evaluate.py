"""Evaluate a checkpoint by hand: `python -m studies.genegan.evaluate --checkpoint FILE --out FILE.json`.

It prints the figures and writes them, with all that they follow from, to `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from roundhouse.training import keep
from roundhouse.training.precision import use_float32
from studies.commands import exit_code_of, whole_number
from studies.genegan import images
from studies.genegan.evaluation import Evaluation, Setting
from studies.genegan.loading import Loaded, device_of, load_generator


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: evaluated; 1: the evaluation has failed, with the reason on stderr; 2: an option is wrong."""
    options = _parser().parse_args(arguments)
    if options.workers:
        torch.set_num_threads(options.workers)

    def work() -> None:
        use_float32()  # as in training
        result = evaluate(load_generator(options.checkpoint, device_of(options.device)), options)
        if options.out is not None:
            keep.write(options.out.parent, options.out.name, json.dumps(result, indent=1).encode())

    return exit_code_of(work)


def evaluate(loaded: Loaded, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of a generator, printed, and what they follow from."""
    options = replace(
        loaded.options,
        attribute=asked.attribute or loaded.options.attribute,
        evaluation_images=asked.n or loaded.options.evaluation_images,
        extractor=asked.extractor or loaded.options.extractor,
    )
    setting = Setting(
        options.dataset,
        options.attribute,
        asked.split,
        asked.size or options.shown_size,
        options.evaluation_images,
        options.extractor,
        asked.batch_size,
    )
    found = Evaluation(setting, images.load(options, asked.data, asked.split, loaded.device), asked.data, loaded.device)
    figures = {
        **found.distances(loaded.generator, intervals=True),
        **found.dummies(),
        **found.transfer(loaded.generator),
    }
    names = {"fd": found.extractor.distance_name, "kd": found.extractor.kernel_name}
    print(f"fd: {names['fd']}, kd: {names['kd']}, N {setting.images}, {setting.split} images, {setting.size} pixels")
    for name, value in figures.items():
        print(f"{name:28} {value:.4f}")
    weights = {"extractor": found.extractor.name, "extractor_weights": found.extractor.weights}
    return {"checkpoint": str(asked.checkpoint), "step": loaded.step, **asdict(setting), **weights, **names, **figures}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.genegan.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="best.pth, a kept checkpoint, or an experiment, whose newest is taken",
    )
    parser.add_argument("--attribute", help="default: that of the run")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data directory; default: that of the repository")
    parser.add_argument("--size", type=whole_number, help="side of the images; default: that of the run's evaluation")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default: test")
    parser.add_argument("--n", type=whole_number, help="real images on each side; default: as in the run")
    parser.add_argument("--extractor", choices=("auto", "inception", "small"), help="default: as in the run")
    parser.add_argument("--batch-size", type=whole_number, default=50, help="default: 50")
    parser.add_argument("--workers", type=whole_number, help="threads of a CPU; default: as PyTorch chooses")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N; auto: the first GPU if there is one")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the figures are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())

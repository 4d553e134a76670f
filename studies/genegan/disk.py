"""The disk space of a run, by its options. The runner imports it, so no torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.disk_space import RunSpace, run_space
from roundhouse.options import read_options
from studies.genegan.options import Options

_BYTES = 4  # of a value: float32
_SHOWN, _COLUMNS, _SCALES = 8, 6, 3  # faces and columns of a picture of samples; colours
_BASE, _POOLED, _CODES = 64, 4, 512  # see Geometry, Critic and Codebook
_KERNEL_4, _KERNEL_3 = 16, 9  # values of a kernel


def disk(config: Mapping[str, Any]) -> RunSpace:
    """StudyError: the config is invalid.

    A checkpoint has generator and critics, what their optimisers keep for each weight (RMSProp one value, Adam two),
    and the best weights. The newest `keep` are kept whole, with the newest sound one if it is none of them; while a
    checkpoint is kept, there is one more. A run of the VQVAE keeps none. Pictures count as if PNG did not compress.
    """
    options = read_options(Options, config)
    if options.method == "vqvae":
        weights, buffers = vqvae(options)
        last = _BYTES * (weights + buffers)  # best.pth is written at the end, and no checkpoint has it
        return run_space(tracked=last + 2 * _BYTES * weights, kept=last)
    (weights, buffers), (of_critics, buffers_of_critics) = generator(options), critics(options)
    moments = 1 if options.objective == "wgan" else 2
    tracked = _BYTES * ((1 + moments) * (weights + of_critics) + buffers + buffers_of_critics)
    best = _BYTES * (weights + buffers)
    picture = _SHOWN * _COLUMNS * _SCALES * options.shown_size**2
    saves = -(-options.iterations // options.save_every)
    kept = min(saves, options.keep + 1)
    whole = run_space(tracked, best, kept * (tracked + best) + saves * picture, picture)
    return RunSpace(whole.left, whole.most + tracked + best)


def generator(options: Options) -> tuple[int, int]:
    """Weights, and values of buffers."""
    inputs = options.input_sizes
    block = 4 if min(options.sizes) >= _BASE else 2
    sides = {_side(size, options.sizes) for size in inputs}
    parts = {"none": (), "object": (1,), "both": (1, 3)}[options.block_conv]
    blocks = sum((side // block) ** 2 * _block(part * options.width) for side in sides for part in parts)
    heads = (len(options.sizes) - len(inputs)) * _convolution(_SCALES, _SCALES, 1, bias=True)
    (of_splitter, buffers), (of_joiner, others) = _splitter(options), _joiner(options)
    return of_splitter + of_joiner + blocks + heads, buffers + others


def critics(options: Options) -> tuple[int, int]:
    """Of both critics, or of both at each size."""
    width = options.width
    apart = options.outputs == "multiscale"
    seen = options.critic_sizes
    pairs = len(seen) if apart else 1
    kind = "group" if options.objective == "r1" else options.norm
    norms, buffers = _norms(kind, 1 if apart else len(seen), (2 * width, 4 * width, 4 * width))
    stages = ((_SCALES, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width))
    weights = sum(_convolution(*channels, _KERNEL_4) for channels in stages) + width
    score = 4 * width * _POOLED**2 + 1
    return 2 * pairs * (weights + norms + score), 2 * pairs * buffers


def vqvae(options: Options) -> tuple[int, int]:
    """Encoder, codebook (of buffers: codes, their sums and counts) and decoder."""
    (of_encoder, buffers), (of_decoder, others) = _splitter(options), _joiner(options)
    return of_encoder + of_decoder, buffers + others + _CODES * (2 * 4 * options.width + 1)


def _splitter(options: Options) -> tuple[int, int]:
    width, inputs = options.width, options.input_sizes
    larger = _larger(inputs, options.sizes)
    weights = _convolution(_SCALES, width, _KERNEL_4, bias=True) + _convolution(width, 2 * width, _KERNEL_4)
    weights += _convolution(2 * width, 4 * width, _KERNEL_3)
    weights += _convolution(4 * width, 4 * width, _KERNEL_4) if larger else 0
    norms, buffers = _norms(options.norm, len(inputs), (2 * width, 4 * width))
    more, others = _norms(options.norm, larger, (4 * width,)) if larger else (0, 0)
    return weights + norms + more, buffers + others


def _joiner(options: Options) -> tuple[int, int]:
    width, inputs = options.width, options.input_sizes
    larger = _larger(inputs, options.sizes)
    weights = _convolution(4 * width, 4 * width, _KERNEL_4) + _convolution(4 * width, 2 * width, _KERNEL_4)
    weights += _convolution(2 * width, 2 * width, _KERNEL_4) if larger else 0
    weights += _convolution(2 * width, _SCALES, _KERNEL_3, bias=True)
    norms, buffers = _norms(options.norm, len(inputs), (4 * width, 2 * width))
    more, others = _norms(options.norm, larger, (2 * width,)) if larger else (0, 0)
    return weights + norms + more, buffers + others


def _side(size: int, sizes: Sequence[int]) -> int:
    """Of the splitter's map: an image is halved twice, and one larger than the base three times."""
    return size >> (3 if _larger([size], sizes) else 2)


def _larger(some: Sequence[int], sizes: Sequence[int]) -> int:
    """How many of these sizes are larger than the base."""
    return sum(size > min(_BASE, *sizes) for size in some)


def _convolution(inputs: int, outputs: int, kernel: int, bias: bool = False) -> int:
    return inputs * outputs * kernel + (outputs if bias else 0)


def _block(channels: int) -> int:
    return _convolution(channels, channels, _KERNEL_3, bias=True)


def _norms(kind: str, sizes: int, channels: Sequence[int]) -> tuple[int, int]:
    """Weights and buffers of norms: batch norm has statistics, scale and shift for each size."""
    count = sum(channels)
    return (2 * count, 0) if kind == "group" else (2 * count * sizes, 2 * count * sizes)

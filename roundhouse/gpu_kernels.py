"""Whether a PyTorch build has kernels for a GPU, from the list of architectures it was compiled for."""

from __future__ import annotations

import re
from collections.abc import Iterable


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a build for `architectures` (sm_80, compute_90, sm_90a) runs on a GPU of this compute capability.

    Binary code runs on GPUs with the same major version and an equal or higher minor version, PTX (compute_) on all
    equal or higher versions, architecture-specific code (sm_90a) on exactly that version.
    """
    for kind, major, minor, suffix in re.findall(r"\b(sm|compute)_(\d+)(\d)([af]?)\b", " ".join(architectures)):
        built = (int(major), int(minor))
        same_generation = kind == "compute" or built[0] == capability[0]
        if built == capability or suffix != "a" and built < capability and same_generation:
            return True
    return False

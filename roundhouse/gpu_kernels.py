"""Whether a PyTorch build has kernels for a GPU, from the list of architectures it was compiled for."""

from __future__ import annotations

import re
from collections.abc import Iterable


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a build for `architectures` (sm_80, compute_90, sm_90a) runs on a GPU of this compute capability.

    Binary code runs on GPUs with the same major version and an equal or higher minor version, PTX (compute_) on all
    equal or higher versions, architecture-specific code (sm_90a) on exactly that version.
    """
    for architecture in architectures:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if parts is None:
            continue
        built = (int(parts[2]), int(parts[3]))
        if parts[4] == "a":
            runs = built == capability
        else:
            runs = built <= capability and (parts[1] == "compute" or built[0] == capability[0])
        if runs:
            return True
    return False

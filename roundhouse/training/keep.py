"""Files that a run keeps: named artefacts, whole checkpoints, and values that are computed once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.training import checkpoint

KEPT, SNAPSHOTS = "kept", "snapshots"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(?:/[A-Za-z0-9][\w.+-]*)*", re.ASCII)


def check_name(name: str) -> str:
    """The name of a kept file, if it is a plain relative path. RoundhouseError: it is not."""
    if not _NAME.fullmatch(name):
        raise RoundhouseError(
            f"{name!r} cannot be the name of a kept file: use letters, digits, ., _, + and -, and / for folders"
        )
    return name


def write(directory: Path, name: str, data: bytes) -> str:
    """Write `name` below `directory`, atomically and durably; returns its SHA-256."""
    path = directory / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, data)
    except OSError as error:
        raise checkpoint.cannot_write(path, error) from error
    return hashlib.sha256(data).hexdigest()


def link_from(source: Path, directory: Path, kept: Mapping[str, str]) -> dict[str, str]:
    """Bring the kept files of an earlier attempt into this one's directory, as hard links where that is possible.

    Returns those that exist: a whole checkpoint may have been deleted since, in favour of newer ones.
    RoundhouseError: another one is missing, or one differs from what was written.
    """
    found = {}
    for name, digest in kept.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if source != directory and not path.exists():
                _link_or_copy(source / name, path)
            data = path.read_bytes()
        except FileNotFoundError as error:
            if name.startswith(f"{SNAPSHOTS}/"):
                continue
            raise _unusable(source / name, error) from error
        except OSError as error:
            raise _unusable(source / name, error) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise RoundhouseError(f"{path} is corrupted: its SHA-256 differs from the one in the checkpoint")
        found[name] = digest
    return found


def _unusable(path: Path, error: OSError) -> RoundhouseError:
    return RoundhouseError(f"{path}, which the run has kept, cannot be used: {error.strerror or error}")


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:
        draft = path.with_name(f".draft-{path.name}")
        shutil.copyfile(source, draft)
        os.replace(draft, path)


def encoded(name: str, data: Any) -> bytes:
    """The bytes of a kept file; its ending says how `data` is encoded.

    .png: an image (H, W) or (H, W, 3), or as a tensor (1 or 3, H, W); uint8, or floating point from 0 to 1. .npy: an
    array. .npz: a mapping of arrays. .json: plain values. .pth: tensors and plain values. Any ending: bytes, or text.
    RoundhouseError: they do not fit together.
    """
    ending = Path(name).suffix
    try:
        if isinstance(data, bytes):
            return data
        if isinstance(data, str):
            return data.encode()
        if ending == ".png":
            return _png(data)
        if ending in (".npy", ".npz"):
            buffer = io.BytesIO()
            if ending == ".npy":
                np.save(buffer, _array(data))
            else:
                np.savez(buffer, **{key: _array(value) for key, value in data.items()})  # type: ignore[arg-type]
            return buffer.getvalue()
        if ending == ".json":
            return json.dumps(data, indent=1).encode()
        if ending == ".pth":
            return checkpoint.pack(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise RoundhouseError(f"run.keep({name!r}, ...): {error}") from error
    raise RoundhouseError(
        f"run.keep({name!r}, ...): pass bytes or text, or let the name end in .png, .npy, .npz, .json or .pth"
    )


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _png(data: Any) -> bytes:
    from PIL import Image

    image = _array(data)
    if isinstance(data, torch.Tensor) and image.ndim == 3:
        image = image.transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"an image has the shape (H, W), or 1 or 3 channels; this one has {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        image = (image.clip(0, 1) * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()

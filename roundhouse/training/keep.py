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


def is_weights_name(name: str) -> bool:
    """Whether best weights can be in a file of this name, next to the files of the library."""
    return re.fullmatch(r"[A-Za-z0-9][\w.+-]*\.pth", name, re.ASCII) is not None and not name.startswith("checkpoint")


def write(directory: Path, name: str, data: bytes) -> str:
    """Write `name` below `directory`, atomically and durably; returns its SHA-256."""
    path = directory / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, data)
    except OSError as error:
        raise checkpoint.cannot_write(path, error) from error
    return hashlib.sha256(data).hexdigest()


def next_of(name: str) -> str:
    """Where the next content of a kept file is until a checkpoint names it. No kept file can have this name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/.next-{file}"


def link_from(source: Path, directory: Path, kept: Mapping[str, str]) -> dict[str, str]:
    """Bring the kept files of an earlier attempt into this one's directory, as hard links where that is possible.

    Returns those that exist: a whole checkpoint may have been deleted since, in favour of newer ones.
    RoundhouseError: another one is missing, or one differs from what was written.
    """
    found = {}
    for name, digest in kept.items():
        try:
            here = next((one for one in (name, next_of(name)) if _digest_of(source / one) == digest), None)
            if here is None and not (source / name).exists():
                if name.startswith(f"{SNAPSHOTS}/"):
                    continue
                raise RoundhouseError(f"{source / name}, which the run has kept, is missing")
            if here is None:
                raise RoundhouseError(
                    f"{source / name} is corrupted: its SHA-256 differs from the one in the checkpoint"
                )
            if source / here != directory / name:
                _link_or_copy(source / here, directory / name)
        except OSError as error:
            raise RoundhouseError(
                f"{source / name}, which the run has kept, cannot be used: {error.strerror or error}"
            ) from error
        found[name] = digest
    return found


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _link_or_copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}")
    draft.unlink(missing_ok=True)
    try:
        os.link(source, draft)
    except OSError:
        shutil.copyfile(source, draft)
    os.replace(draft, path)
    draft.unlink(missing_ok=True)  # renaming a link to the same file does nothing


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
                np.save(buffer, array(f"run.keep({name!r})", data))
            else:
                np.savez(buffer, **{key: array(f"run.keep({name!r})", value) for key, value in data.items()})  # type: ignore[arg-type]
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


def array(what: str, value: Any) -> np.ndarray:
    """An array, from a tensor or what NumPy makes one of. RoundhouseError: its elements would need pickle."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16
    try:
        result = np.asarray(value)
    except ValueError:  # lists of different lengths
        result = np.asarray(None)
    if result.dtype.hasobject:
        raise RoundhouseError(f"{what}: it is not an array of numbers, text or truth values")
    return result


def _png(data: Any) -> bytes:
    from PIL import Image

    image = array("an image", data)
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

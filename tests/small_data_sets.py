"""Data sets of a few random images, published as their makers publish the large ones: the same formats and names."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from studies.distillation import sources

WORDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n07734744": "mushroom"}
GREY = "tiny-imagenet-200/train/n01443537/images/n01443537_2.JPEG"
NAMES = ("cifar10", "cifar100", "svhn", "tinyimagenet")


@dataclass(frozen=True)
class Published:
    """The folder of the downloads, and their content: images (N, C, H, W) and labels (N,)."""

    name: str
    folder: Path
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 did, as in CIFAR's pickles."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes_as_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_bytes_as_string


def publish(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str = "http://127.0.0.1:1") -> Published:
    """Publish the small data set `name` in `folder`; from now on its digests and `address` are those to go by."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Path], tuple[Any, Any, dict[str, bytes]]]] = {
        "cifar10": cifar10,
        "cifar100": cifar100,
        "svhn": svhn,
        "tinyimagenet": tinyimagenet,
    }
    train, test, contents = makers[name](folder)
    real = sources.SOURCES[name]

    def known(file: sources.File) -> sources.File:
        data = contents.get(file.path)
        if data is None:  # what is made here
            return file
        url = f"{address}/{file.path}" if file.url else None
        return replace(file, md5=hashlib.md5(data).hexdigest(), size=len(data), url=url)

    small = sources.Source(tuple(map(known, real.files)), tuple(map(known, real.downloads)))
    monkeypatch.setitem(sources.SOURCES, name, small)
    set_torchvision_digests(name, small, monkeypatch)
    return Published(name, folder, train, test)


def set_torchvision_digests(name: str, small: sources.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {file.path.rpartition("/")[2]: file.md5 for file in small.files}
    if name.startswith("cifar"):
        reader = getattr(torchvision.datasets, name.upper())
        for attribute in ("train_list", "test_list"):
            monkeypatch.setattr(reader, attribute, [[path, digests[path]] for path, _ in getattr(reader, attribute)])
        monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": digests[reader.meta["filename"]]})
    elif name == "svhn":
        reader = torchvision.datasets.SVHN
        for split in ("train", "test"):
            url, path, _ = reader.split_list[split]
            monkeypatch.setitem(reader.split_list, split, [url, path, digests[path]])


def random_images(count: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), np.uint8)


def python2_pickle(value: object) -> bytes:
    target = io.BytesIO()
    Python2Pickler(target, protocol=2).dump(value)
    return target.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def cifar10(folder: Path) -> tuple[Any, Any, dict[str, bytes]]:
    """Five batches of 4 training images, and one of 6 for the test."""
    parts = [random_images(6 if number == 5 else 4, 32, number) for number in range(6)]
    labels = [[(3 * index + number) % 10 for index in range(len(parts[number]))] for number in range(6)]
    paths = [f"data_batch_{number + 1}" for number in range(5)] + ["test_batch"]
    files = {
        f"cifar-10-batches-py/{path}": python2_pickle(
            {
                "batch_label": path,
                "labels": label,
                "data": images.reshape(-1, 3072),
                "filenames": ["x.png"] * len(label),
            }
        )
        for path, images, label in zip(paths, parts, labels, strict=True)
    }
    meta = {"num_cases_per_batch": 4, "label_names": [f"class {number}" for number in range(10)], "num_vis": 3072}
    files["cifar-10-batches-py/batches.meta"] = python2_pickle(meta)
    archive = tar({**files, "cifar-10-batches-py/readme.html": b"<html>"})
    (folder / "cifar-10-python.tar.gz").write_bytes(archive)
    train = np.concatenate(parts[:5]), np.concatenate(labels[:5])
    return train, (parts[5], np.array(labels[5])), {**files, "cifar-10-python.tar.gz": archive}


def cifar100(folder: Path) -> tuple[Any, Any, dict[str, bytes]]:
    found, files = {}, {}
    for path, count, seed in (("train", 12, 0), ("test", 5, 1)):
        images, fine = random_images(count, 32, seed), [(17 * index + 40) % 100 for index in range(count)]
        found[path] = images, np.array(fine)
        files[f"cifar-100-python/{path}"] = python2_pickle(
            {
                "filenames": ["x.png"] * count,
                "batch_label": path,
                "fine_labels": fine,
                "coarse_labels": [label // 5 for label in fine],
                "data": images.reshape(-1, 3072),
            }
        )
    names = {"fine_label_names": [f"fine {i}" for i in range(100)], "coarse_label_names": [f"c {i}" for i in range(20)]}
    files["cifar-100-python/meta"] = python2_pickle(names)
    archive = tar(files)
    (folder / "cifar-100-python.tar.gz").write_bytes(archive)
    return found["train"], found["test"], {**files, "cifar-100-python.tar.gz": archive}


def svhn(folder: Path) -> tuple[Any, Any, dict[str, bytes]]:
    """The digits 1 to 9, and 0, which the files call 10."""
    found, files = {}, {}
    for path, count, seed in (("train", 13, 0), ("test", 11, 1)):
        images, digits = random_images(count, 32, seed), np.arange(1, count + 1) % 10
        found[path] = images, digits
        target = io.BytesIO()
        called = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        savemat(target, {"X": images.transpose(2, 3, 1, 0), "y": called}, do_compression=True)
        files[f"{path}_32x32.mat"] = target.getvalue()
    for path, data in files.items():
        (folder / path).write_bytes(data)
    return found["train"], found["test"], files


def tinyimagenet(folder: Path) -> tuple[Any, Any, dict[str, bytes]]:
    """Three classes of 4 training images, of which one is grey, and 6 validation images; test images have no labels."""
    top, names = "tiny-imagenet-200", sorted(WORDS)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(f"{top}/wnids.txt", "".join(f"{name}\n" for name in WORDS))
        archive.writestr(f"{top}/words.txt", "".join(f"{name}\t{words}\n" for name, words in WORDS.items()))
        archive.writestr(f"{top}/train/", "")
        train, labels = [], []
        for label, name in enumerate(names):
            archive.writestr(f"{top}/train/{name}/{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t62\t62\n")
            for number in range(4):
                path = f"{top}/train/{name}/images/{name}_{number}.JPEG"
                train.append(jpeg(archive, path, 10 * label + number, grey=path == GREY))
                labels.append(label)
        test = [jpeg(archive, f"{top}/val/images/val_{number}.JPEG", 50 + number, grey=False) for number in range(6)]
        rows = [f"val_{number}.JPEG\t{names[number % 3]}\t0\t32\t44\t62\n" for number in range(6)]
        archive.writestr(f"{top}/val/val_annotations.txt", "".join(rows))
        jpeg(archive, f"{top}/test/images/test_0.JPEG", 99, grey=False)
    data = target.getvalue()
    (folder / "tiny-imagenet-200.zip").write_bytes(data)
    contents = {"tiny-imagenet-200.zip": data}
    return (np.stack(train), np.array(labels)), (np.stack(test), np.arange(6) % 3), contents


def jpeg(archive: zipfile.ZipFile, path: str, seed: int, grey: bool) -> np.ndarray:
    """Store a JPEG; what a reader must make of it, (3, 64, 64)."""
    pixels = random_images(1, 64, seed)[0].transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0], "L") if grey else Image.fromarray(pixels, "RGB")
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=90)
    archive.writestr(path, target.getvalue())
    seen = np.asarray(Image.open(target))
    return np.stack([seen] * 3) if grey else seen.transpose(2, 0, 1)

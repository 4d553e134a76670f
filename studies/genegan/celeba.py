"""CelebA aligned, from files that the user has fetched: which they are, whether they are there, what the lists say.

The runner imports this module, so it loads neither PyTorch nor NumPy.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose
from studies.data_files import data_directory, file_digest

IMAGES, ARCHIVE = "img_align_celeba", "img_align_celeba.zip"
ATTRIBUTE_LIST, SPLIT_LIST = "list_attr_celeba.txt", "list_eval_partition.txt"
MD5 = {
    ARCHIVE: "00d2c5bc6d35e252742224ab0c1e8fcb",
    ATTRIBUTE_LIST: "75e246fa4810816ffd6ee81facbd244c",
    SPLIT_LIST: "d32c9cbf5e040fd4025c592c306e6668",
}
"""Of the published files, as torchvision states them."""
COUNT = 202_599
WIDTH, HEIGHT = 178, 218
CROP = (0, 20, 178, 198)
"""Left, top, right, bottom of the square that is used: all columns, and rows 20 to 197 of 0 to 217."""
HELD_OUT = (19_867, 19_962)
"""Images of the splits validation and test."""
SPLITS = {"train": 0, "validation": 1, "test": 2}
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """What the lists say of one attribute."""

    rows: dict[str, range]  # of each split
    attribute: tuple[bool, ...]  # of each image


def folder_of(data: Path | None) -> Path:
    return data_directory(data) / "celeba"


def cache_of(data: Path | None, size: int) -> Path:
    """The file with all images of a size, decoded: uint8 (COUNT, 3, size, size)."""
    return folder_of(data) / f"celeba_{size}.npy"


def is_cached(data: Path | None, size: int) -> bool:
    """Whether the decoded images of a size are there, by the file's length."""
    try:
        return cache_of(data, size).stat().st_size > COUNT * 3 * size**2
    except OSError:
        return False


def missing(data: Path | None, sizes: Sequence[int]) -> str:
    """What is missing for these sizes, and what to do; empty if nothing is. Only presence and lengths are checked."""
    folder = folder_of(data)
    for name in (ATTRIBUTE_LIST, SPLIT_LIST):
        if not (folder / name).is_file():
            return lack(data, f"{folder / name} is missing")
    if (folder / IMAGES).is_dir() or (folder / ARCHIVE).is_file() or all(is_cached(data, size) for size in sizes):
        return ""
    return lack(data, f"{folder} has neither {ARCHIVE} nor {IMAGES}/")


def lack(data: Path | None, what: str) -> str:
    """A message about missing or wrong files, with what to do."""
    return (
        f"dataset 'celeba': {what}. If its terms (research that is not commercial) allow your use, get CelebA "
        "(Large-scale CelebFaces Attributes Dataset, aligned and cropped images) from its official page, that of the "
        f"Multimedia Laboratory of the Chinese University of Hong Kong. Put {ARCHIVE} or the unpacked {IMAGES}/, "
        f"{ATTRIBUTE_LIST} and {SPLIT_LIST} into {folder_of(data)}, and run on a login node: {command(data)}"
    )


def command(data: Path | None) -> str:
    """What verifies the files, and decodes the images."""
    return "toolbox/setup.sh --data celeba" + ("" if data is None else f" --to {shlex.quote(str(data))}")


def check_digest(data: Path | None, name: str) -> None:
    """StudyError if a published file is damaged, or is another one."""
    path, wanted = folder_of(data) / name, MD5.get(name)
    if wanted is not None and (found := file_digest(path, "md5")) != wanted:
        raise StudyError(lack(data, f"{path} is damaged, or another file: its MD5 is {found} instead of {wanted}"))


def image_names() -> Iterator[str]:
    return (f"{number:06}.jpg" for number in range(1, COUNT + 1))


def read_labels(data: Path | None, attribute: str) -> Labels:
    """Both lists, verified: digests, all images in the order of their numbers, the 40 attributes, the order of splits.

    StudyError: no such attribute, or a list is missing or wrong.
    """
    column = ATTRIBUTES.index(choose("attribute", attribute, ATTRIBUTES))
    count, names, *rows = _lines(data, ATTRIBUTE_LIST)
    if count.split() != [str(COUNT)] or names.split() != list(ATTRIBUTES):
        raise _wrong(data, ATTRIBUTE_LIST, f"begins with {COUNT} and the names of the {len(ATTRIBUTES)} attributes")
    values = [values[column] for values in _rows(data, ATTRIBUTE_LIST, rows, len(ATTRIBUTES), {"1", "-1"})]
    parts = [int(part) for (part,) in _rows(data, SPLIT_LIST, _lines(data, SPLIT_LIST), 1, {"0", "1", "2"})]
    if parts != sorted(parts):
        raise _wrong(data, SPLIT_LIST, "has the training images first, then validation, then test")
    firsts = {name: parts.index(part) if part in parts else 0 for name, part in SPLITS.items()}
    found = {name: range(firsts[name], firsts[name] + parts.count(part)) for name, part in SPLITS.items()}
    return Labels(found, tuple(value == "1" for value in values))


def _lines(data: Path | None, name: str) -> list[str]:
    path = folder_of(data) / name
    try:
        check_digest(data, name)
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise StudyError(lack(data, f"{path} cannot be read: {os.strerror(error.errno or 0)}")) from None
    if len(lines) < 2:
        raise _wrong(data, name, f"has {COUNT} images")
    return lines


def _rows(data: Path | None, name: str, lines: Sequence[str], width: int, known: set[str]) -> list[list[str]]:
    """The values of each image, in the order of their numbers."""
    table = [line.split() for line in lines if line]
    if [row[0] for row in table] != list(image_names()):
        raise _wrong(data, name, f"has a line for each of 000001.jpg to {COUNT:06}.jpg, in this order")
    if any(len(row) != width + 1 or not known.issuperset(row[1:]) for row in table):
        raise _wrong(
            data, name, f"has {width} value{'s' if width > 1 else ''} of {', '.join(sorted(known))} in each line"
        )
    return [row[1:] for row in table]


def _wrong(data: Path | None, name: str, expected: str) -> StudyError:
    return StudyError(lack(data, f"{folder_of(data) / name} is not the published list, which {expected}"))

"""Figures on disk: each with the table that it was drawn from, a caption, and a key that says what that was."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # not at run time: a look at what is out of date must be quick

FORMATS = ("png", "pdf", "svg")
VERSION = 1  # of how figures are drawn: raise it to have all drawn anew
INDEX = "gallery.json"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure in a gallery. `name` is its files' stem, `subject` the experiment's path if it is about one alone."""

    name: str
    title: str
    caption: str
    key: str
    formats: tuple[str, ...]
    subject: str | None = None


@dataclass(slots=True)
class Gallery:
    """The figures of one folder, and its index, through which a report finds them."""

    folder: Path
    pictures: dict[str, Picture]

    @classmethod
    def of(cls, folder: Path) -> Gallery:
        """The gallery in a folder. One that is not there, or cannot be read, is empty: everything is drawn anew."""
        try:
            told = json.loads((folder / INDEX).read_bytes())
            made = [Picture(**{**one, "formats": tuple(one["formats"])}) for one in told["pictures"]]
            return cls(folder, {one.name: one for one in made})
        except (OSError, ValueError, TypeError, KeyError):
            return cls(folder, {})

    def is_current(self, name: str, key: str, formats: Iterable[str]) -> bool:
        """Whether the figure was drawn from just this, in all these formats, and is still there."""
        one = self.pictures.get(name)
        return (
            one is not None
            and one.key == key
            and set(formats) <= set(one.formats)
            and all((self.folder / f"{name}.{ending}").is_file() for ending in (*formats, "csv"))
        )

    def save(self) -> None:
        """Write the index."""
        told = {"pictures": [asdict(one) for one in self.pictures.values()]}
        write_bytes(self.folder / INDEX, json.dumps(told, indent=1).encode())


def write_picture(folder: Path, picture: Picture, figure: Figure, table: Sequence[Mapping[str, Any]]) -> None:
    """Write a figure in its formats, and its table as CSV. Each file appears whole, or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for ending in picture.formats:
        buffer = io.BytesIO()
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # equal data, equal file
        if ending == "png":
            canvas: Any = FigureCanvasAgg(figure)
            canvas.print_png(buffer)  # savefig draws twice, which takes as long again
        else:
            figure.savefig(buffer, format=ending, metadata=dates[ending])
        write_bytes(folder / f"{picture.name}.{ending}", buffer.getvalue())
    write_bytes(folder / f"{picture.name}.csv", csv_of(table))


def csv_of(table: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV, columns in the order in which they first appear."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    # The writer leaves a lone carriage return unquoted, and readers would take it for the end of a row.
    return text.getvalue().replace("\r", " ").encode(errors="backslashreplace")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole. It can be made again, so it need not survive a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def key_of(sources: Iterable[Path], *more: str) -> str:
    """A key that changes whenever one of the files, or what else is told, changes. Files are not read for it."""
    told = [str(VERSION), *more]
    for path in sources:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            told.append(f"{path} absent")
            continue
        told.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:20]


def file_name(text: str) -> str:
    """A file's stem for any text: readable, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "_", text).strip("._") or "figure"
    if plain == text and len(text) <= 120:
        return text
    return f"{plain[:120]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

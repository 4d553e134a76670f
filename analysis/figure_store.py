"""Figures on disk: each with its data as a table, a caption, and a key that identifies what it was drawn from."""

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
    from matplotlib.figure import Figure  # not at run time: checking what is out of date must be fast

FORMATS = ("png", "pdf", "svg")
VERSION = 2  # of how figures are drawn: raise it to redraw all
INDEX = "gallery.json"


@dataclass(frozen=True, slots=True)
class StoredFigure:
    """A figure in a store. `name`: the stem of its files; `subject`: its experiment's path if it shows only one.

    `alt`: what the figure shows, for readers who cannot see it; if it is empty, title and caption are used.
    """

    name: str
    title: str
    caption: str
    key: str
    formats: tuple[str, ...]
    subject: str | None = None
    alt: str = ""


@dataclass(slots=True)
class FigureStore:
    """The figures of one folder, and its index, gallery.json, from which a report lists them."""

    folder: Path
    figures: dict[str, StoredFigure]

    @classmethod
    def of(cls, folder: Path) -> FigureStore:
        """The store in a folder. If its index is missing or unreadable, it is empty, and everything is redrawn."""
        try:
            index = json.loads((folder / INDEX).read_bytes())
            made = [StoredFigure(**{**one, "formats": tuple(one["formats"])}) for one in index["pictures"]]
            return cls(folder, {one.name: one for one in made})
        except (OSError, ValueError, TypeError, KeyError):
            return cls(folder, {})

    def is_current(self, name: str, key: str, formats: Iterable[str]) -> bool:
        """Whether the figure was drawn from the state with this key, in all these formats, and its files exist."""
        one = self.figures.get(name)
        return (
            one is not None
            and one.key == key
            and set(formats) <= set(one.formats)
            and all((self.folder / f"{name}.{ending}").is_file() for ending in (*formats, "csv"))
        )

    def save(self) -> None:
        """Write the index."""
        index = {"pictures": [asdict(one) for one in self.figures.values()]}
        write_bytes(self.folder / INDEX, json.dumps(index, indent=1).encode())


def write_figure(folder: Path, stored: StoredFigure, figure: Figure, table: Sequence[Mapping[str, Any]]) -> None:
    """Write a figure in its formats, and its table as CSV. Each file is replaced atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for ending in stored.formats:
        buffer = io.BytesIO()
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # equal data give equal files
        if ending == "png":
            canvas: Any = FigureCanvasAgg(figure)
            canvas.print_png(buffer)  # savefig draws twice, which takes twice as long
        else:
            figure.savefig(buffer, format=ending, metadata=dates[ending])
        write_bytes(folder / f"{stored.name}.{ending}", buffer.getvalue())
    write_bytes(folder / f"{stored.name}.csv", csv_of(table))


def csv_of(table: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV, columns in the order in which they first appear."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    # The writer leaves a lone carriage return unquoted, and readers would take it for the end of a row.
    return text.getvalue().replace("\r", " ").encode(errors="backslashreplace")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically. It can be generated again, so it is not synced to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def key_of(sources: Iterable[Path], *more: str) -> str:
    """A key that changes when one of the files (size, times, inode) or one of the texts changes. Files are not read."""
    parts = [str(VERSION), *more]
    for path in sources:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            parts.append(f"{path} absent")
            continue
        parts.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def file_name(text: str) -> str:
    """A file stem for any text: readable, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "_", text).strip("._") or "figure"
    if plain == text and len(text) <= 120:
        return text
    return f"{plain[:120]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
